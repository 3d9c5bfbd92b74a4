//! The checkers are tested before they judge: hand-made good histories pass, each bad one is caught by the
//! layer that should, and so is an edit of a long good one.
//!
//! | file | idea |
//! |---|---|
//! | `lin`, `verdict` | the checkers, shared by all tests that record what clients saw |
//! | `notation` | histories as text, one operation in a line |
//! | `good`, `bad` | hand-made histories, judged by both layers |
//! | `generated`, `edits` | a thousand histories from a plain map, and the same with one edit |
//! | `second_opinion` | layer 2 again, by another program over another model |
//! | `resource` | layer 3, the fenced resource |

mod bad;
#[path = "../support/dice.rs"]
mod dice;
mod edits;
mod generated;
mod good;
mod lin;
mod notation;
mod resource;
mod second_opinion;
mod verdict;
