//! The PostgreSQL recipe against the real server.
//!
//! | file | what |
//! |---|---|
//! | `race` | a stale transaction and a raise, in every order and at every isolation level |
//! | `raise` | what a raise waits for, ends, and survives |
//! | `rights` | what the application's role can't do |
//! | `service` | `examples/ledger`, which checks inside its own transaction |
//! | `support` | a server of our own |
//!
//! It needs the server's programs (Debian: `postgresql`); `TERMGATE_TEST_PG_BIN` names their
//! directory when it is not found.

#[path = "../../examples/ledger/service/mod.rs"]
mod ledger;
mod race;
mod raise;
mod rights;
mod service;
mod support;
