//! Wires processes together and takes them apart again: the one place that knows everything.
//!
//! | file | idea |
//! |---|---|
//! | `node` | `termgate node`: certificates, store, loop, edges, in this order; and back |
//! | `sidecar` | `termgate guard`, and the demo backend of `termgate dev` |
//! | `signals` | when to end |

pub mod node;
pub mod sidecar;
mod signals;
