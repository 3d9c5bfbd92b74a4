//! Fault runs against real processes: clients write through every node while the leader is killed,
//! stopped, caught between its gate and its send, or cut off; then the independent checker holds what
//! the clients were told against what the backend recorded.
//!
//! | file | idea |
//! |---|---|
//! | `faults` | the faults, one by one: how each is done to a running cluster and undone |
//! | `changes` | restarts and changes of the members, done to a running cluster |
//! | `campaign` | rounds of one fault under load, judged and summed up in a table |
//! | `transfer` | planned handover under load: nothing may fail |
//! | `harness` | the tools of these tests, tested |
//! | `minority` | what a cut-off node still says |
//! | `registry` | histories of registry clients under faults, judged for linearizability |
//! | `restart` | everything killed at once; data directories that must be refused |
//!
//! `make test` runs a few rounds of each fault; `make chaos ROUNDS=100` runs the campaign. How to read
//! the table: docs/testing.md.

#[path = "../support/mod.rs"]
mod support;

mod campaign;
mod changes;
mod faults;
mod harness;
mod minority;
mod registry;
mod restart;
mod transfer;

use std::sync::{Mutex, MutexGuard};

/// One cluster at a time: timing under load of our own making would test the machine.
static MACHINE: Mutex<()> = Mutex::new(());

/// Waits for the machine; a failed test before us does not matter.
fn machine() -> MutexGuard<'static, ()> {
    MACHINE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Whether namespaces can be made; says so when not, because the test then shows nothing.
fn namespaces_work() -> bool {
    let possible = support::netns::Network::is_possible();
    if !possible {
        support::not_tested::not_tested("network namespaces need root, iproute2 and iptables");
    }
    possible
}
