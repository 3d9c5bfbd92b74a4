//! A call that is not answered as it was asked: the problem, and where in the log that was found.

use crate::api::fields::Place;
use crate::problem::Problem;

/// Why there is no better answer.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) problem: Problem,
    /// Set when the registry was looked at: the answer then says how far the log had come.
    pub(super) place: Option<Box<Place>>,
}

impl Refusal {
    /// A problem that was found at `place`.
    pub(super) fn at(place: Place, problem: Problem) -> Self {
        Self { problem, place: Some(Box::new(place)) }
    }
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Self { problem, place: None }
    }
}
