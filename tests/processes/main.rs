//! Whole installations of real processes, as somebody would run them who reads the README.
//!
//! | file | what runs |
//! |---|---|
//! | `away` | a follower that was away for a million entries (`make long-run`) |
//! | `dev` | `termgate dev`, spoken to as its welcome text says |
//! | `disaster` | backups, a cluster that is restored, and one that is made anew of a survivor |
//! | `ledger` | three nodes before `examples/ledger` before a PostgreSQL server of our own |
//! | `full_disk` | nodes whose data directory lies on a file system that gets full |
//! | `long_log` | a node that has much to apply when it starts again |
//! | `membership` | members that come, go and move, with what each side is told |
//! | `preference` | a leader in the preferred zone, and a node there that comes and goes |
//! | `snapshot` | a log that is compacted, and a node that was away for longer than it reaches back |
//! | `stale` | nodes whose picture of the members is out of date, or that know no more than names |
//! | `told` | writes, and whether what landed is what their clients were told |
//! | `turnover` | every member replaced, dead ones too, and votes that rest, under load: nothing is lost |
//! | `wall_clock` | nodes whose wall clocks jump |
//!
//! Nothing here imports the `termgate` crate. What a machine can't do is said with `NOT TESTED`.

#[path = "../support/mod.rs"]
mod support;

mod away;
mod dev;
mod disaster;
mod full_disk;
mod ledger;
mod long_log;
mod membership;
mod preference;
mod snapshot;
mod stale;
mod told;
mod turnover;
mod wall_clock;

use std::sync::{Mutex, MutexGuard};

/// One installation at a time: timing under load of our own making would test the machine.
static MACHINE: Mutex<()> = Mutex::new(());

/// Waits for the machine; a failed test before us does not matter.
fn machine() -> MutexGuard<'static, ()> {
    MACHINE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
