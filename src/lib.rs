//! termgate: a fencing-aware resource proxy with an embedded leader election.
//!
//! Clients send writes to any node; exactly one node, the elected leader, lets them through; each
//! write carries the leader's term; the backend refuses a term older than one it has seen.
//!
//! ```text
//! L5  main cli app config dev disaster     composition: the only place that knows everything
//! L4  proxy/  api/  guard/  demo/       the edges: HTTP in, HTTP out
//! L3  driver/                           one loop owns core + store + state machine
//! L2  storage/ transport/ hop/ certs/ clock listen metrics problem
//! L1  raft/  registry/  fencing/        pure: no IO, no clock, no async, no threads
//! L0  ids  time  quorum  lease          vocabulary and arithmetic
//! ```
//!
//! A module imports only from its own layer and those below, never in a circle; `tests/tidy.rs` holds
//! the arrows. `docs/ARCHITECTURE.md` is the map.

pub mod ids;
pub mod lease;
pub mod quorum;
pub mod time;

pub mod fencing;
pub mod raft;
pub mod registry;

pub mod certs;
pub mod clock;
pub mod hop;
pub mod listen;
pub mod metrics;
pub mod problem;
pub mod storage;
pub mod transport;

pub mod driver;

pub mod api;
pub mod demo;
pub mod guard;
pub mod proxy;

pub mod app;
pub mod cli;
pub mod config;
pub mod dev;
pub mod disaster;
