//! Wires processes together and takes them apart again: the one place that knows everything.
//!
//! | file | idea |
//! |---|---|
//! | `node` | `termgate node`: certificates, store, loop, edges, in this order; and back |
//! | `join` | `termgate node --join`: a new machine becomes a node |
//! | `progress` | how far that node has caught up, told to whoever watches |
//! | `sidecar` | `termgate guard`, and the demo backend of `termgate dev` |
//! | `signals` | when to end |
//! | `reload` | new certificates, while the process runs |

pub mod join;
pub mod node;
pub mod progress;
mod reload;
pub mod sidecar;
mod signals;
