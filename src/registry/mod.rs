//! The replicated state machine behind the election.
//!
//! | file | idea |
//! |---|---|
//! | `command` | what a log entry can ask for, and what it is answered |
//! | `machine` | applies entries, in order, to a state that is the same on every node |
//! | `limits` | what the state holds at most |
//! | `machine/changes` | changes of the members: addresses, requests by name, invitations |
//! | `machine/snapshot` | the state as bytes, and back |
//! | `machine/founded` | an old state as the first of a new cluster |
//! | `ordered` | the map of keys, whose copy is cheap |
//! | `digest` | a fingerprint of everything that was applied |

pub mod command;
pub mod digest;
pub mod limits;
pub mod machine;
mod ordered;
