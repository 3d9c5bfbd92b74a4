//! The guard as a node and a backend see it: real sockets on both sides, raw bytes where it matters.
//!
//! | file | what |
//! |---|---|
//! | `admission` | which writes pass |
//! | `raise` | what a raise waits for and what it cuts off |
//! | `crash` | the fence survives `kill -9` |
//! | `identity` | certificates |
//! | `ledger` | the demo backend behind the guard |
//! | `support` | a guard, a raw client, and a backend that answers when it is told to |

mod admission;
mod crash;
mod identity;
mod ledger;
mod raise;
mod support;
