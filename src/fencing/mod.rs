//! The rules of fencing, without any IO: who may stamp which token, when a route's gate is open,
//! and what a verifier accepts.
//!
//! | file | idea |
//! |---|---|
//! | `mode` | how a route is protected and read |
//! | `gate` | when a route may be served here |
//! | `rounds` | what is done for a gate: raise, look, raise again |
//! | `passage` | what a request may do at a gate, and what is known of it when an exchange breaks |
//! | `leadership` | the core's picture of who leads, read by every request |
//! | `verifier` | which writes pass in front of a resource, and when a raise is complete |

pub mod gate;
pub mod mode;
pub mod passage;
pub mod rounds;
pub mod verifier;

/// The core's picture of who leads; here under the name by which gates and edges know it.
pub use crate::raft::leadership;
