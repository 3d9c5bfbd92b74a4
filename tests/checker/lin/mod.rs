//! Judges a history of the registry: what clients asked, when, and what they were told.
//!
//! A history is linearizable when every operation can be thought to happen at one moment between its
//! call and its answer, so that a plain map, asked in that order, gives the same answers. Two layers
//! decide it; the third, [`verdict`](super::verdict), judges the fenced resource instead.
//!
//! | file | idea |
//! |---|---|
//! | `history` | an operation and its answer, and how it is written in one line |
//! | `witness` | layer 1: trusts the log indexes of the answers, and replays them: O(n log n), lists too |
//! | `model` | one key as a plain variable |
//! | `search` | layer 2: trusts no index; looks for an order, key by key (Wing, Gong and Lowe) |
//! | `judge` | both layers over one history, and what they came to |
//!
//! A write of unknown outcome may have happened at any time after its call, or never: for the search its answer
//! lies at infinity. A refused write has no effect, so it is left out, and whoever sees it has seen
//! something from nowhere. A read without an answer says nothing.
//!
//! A layer that can't decide says so, and that is a failure like a violation. Nothing here knows the product.

#![allow(dead_code, reason = "each target that includes this uses its own part")]

pub mod history;
pub mod judge;
pub mod model;
pub mod search;
pub mod witness;

/// What a layer says of a history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision<Why> {
    /// It is as it must be.
    Holds,
    /// It is not, and this is what shows it.
    Broken(Why),
    /// The layer can't tell, for this reason.
    Undecided(String),
}

impl<Why> Decision<Why> {
    /// Whether the layer is content.
    pub fn holds(&self) -> bool {
        matches!(self, Self::Holds)
    }
}
