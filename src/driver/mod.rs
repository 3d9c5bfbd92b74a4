//! One loop owns the core, the store's queue and the state machine.
//!
//! ```text
//!   edges ── handle ──►┐                        ┌──► storage::writer (its own thread)
//!   peers ── messages ─►│  run ── cycle ── core │──► transport (same thread)
//!   disk ── durable ───►┘                        └──► watch: Leadership, callers' answers
//! ```
//!
//! | file | idea |
//! |---|---|
//! | `cycle` | one turn without IO: core, state machine, what waits; the simulator runs it too |
//! | `run` | the loop on its own thread: one event in, one turn, its output carried out |
//! | `inbox` | what wakes it, and in which order |
//! | `keeper` | the thread for the content of snapshots |
//! | `fatal` | why the loop ends by itself, and who is told |
//! | `pending` | who waits, by ticket |
//! | `directory` | who is where, for the mesh and the hop |
//! | `preference` | leadership goes to the preferred zone |
//! | `observe` | counts, logs, and distrusts the clock |
//! | `handle` | the only door from the edges to the loop |

pub mod cycle;
mod directory;
pub mod fatal;
pub mod handle;
mod inbox;
pub mod keeper;
mod observe;
mod pending;
pub mod preference;
pub mod run;
