//! What every test against the real binary shares: processes, placements, a cluster, a recording
//! backend, clients, and the systems we compare ourselves with.
//!
//! Nothing here imports the `termgate` crate. Everything goes through the public contract: command
//! lines, configuration files, HTTP. A mistake in the product therefore can't hide itself here.
//!
//! Included with `#[path]` by each test and benchmark; none of them uses all of it.

#![allow(dead_code, reason = "each target that includes this uses its own part")]

use std::sync::OnceLock;

pub mod client;
pub mod cluster;
pub mod dice;
pub mod ends;
pub mod etcd;
pub mod http;
pub mod ledger;
#[path = "../checker/lin/mod.rs"]
pub mod lin;
pub mod load;
pub mod member;
pub mod netns;
pub mod nginx;
pub mod not_tested;
pub mod placement;
#[path = "../postgres/support.rs"]
pub mod postgres;
pub mod process;
pub mod registry;
pub mod stats;
pub mod tmpfs;
#[path = "../checker/verdict.rs"]
pub mod verdict;
pub mod wait;
pub mod wrk;

/// The binary under test: the one in `TERMGATE_BIN`, or else as built by cargo for this very target.
pub fn termgate() -> &'static str {
    static BINARY: OnceLock<String> = OnceLock::new();
    let built = env!("CARGO_BIN_EXE_termgate");
    BINARY.get_or_init(|| std::env::var("TERMGATE_BIN").unwrap_or_else(|_| built.to_string()))
}

/// A number from the environment, as `ROUNDS=100`, or the default.
pub fn number_from_env(name: &str, default: usize) -> usize {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name}={text}: a whole number is expected")),
        Err(_) => default,
    }
}
