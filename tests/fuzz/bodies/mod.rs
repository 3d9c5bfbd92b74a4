//! What each fuzz target does with the bytes it is given. One place for two runners: `tests/fuzz` runs
//! every body on the compiler that builds the product, over the kept corpus and a fixed number of mutations;
//! `fuzz/` runs the same bodies under libFuzzer, guided by coverage.
//!
//! A body never returns a verdict: it panics when something does not hold. It keeps nothing from one call to
//! the next, so an input that fails once fails always.

pub mod certificate_identity;
pub mod configuration;
pub mod core_schedule;
pub mod core_step;
#[path = "../../disk/mod.rs"]
pub mod disk;
pub mod draw;
pub mod hop_frame;
pub mod host;
pub mod http_request;
pub mod lease_arithmetic;
#[path = "../../model/mod.rs"]
pub mod model;
pub mod peer_frame;
pub mod registry_command;
pub mod registry_model;
pub mod snapshot_chunk;
pub mod storage_open;
pub mod structured_fields;
pub mod world;

/// A target: what it is called, here, in `fuzz/fuzz_targets` and in `fuzz/corpus`, and its body.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: [Target; 12] = [
    ("certificate_identity", certificate_identity::run),
    ("configuration", configuration::run),
    ("core_schedule", core_schedule::run),
    ("core_step", core_step::run),
    ("hop_frame", hop_frame::run),
    ("http_request", http_request::run),
    ("lease_arithmetic", lease_arithmetic::run),
    ("peer_frame", peer_frame::run),
    ("registry_command", registry_command::run),
    ("snapshot_chunk", snapshot_chunk::run),
    ("storage_open", storage_open::run),
    ("structured_fields", structured_fields::run),
];
