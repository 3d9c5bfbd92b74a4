//! Why the guard refuses a request, before it knows whom it tells.

use http::Response;

use crate::guard::fence::RaiseError;
use crate::guard::fields::{AnswerBody, Sender};
use crate::ids::Term;
use crate::problem::{Kind, Outcome, Problem};

/// A request that is not passed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refused {
    /// Its term; the fence stands at `current`.
    Term { current: Term, detail: String },
    /// Anything else.
    Other(Box<Problem>),
}

impl Refused {
    /// A raise that did not succeed; the fence may be raised all the same, and repeating the raise is
    /// harmless. `outcome` is that of the request that wanted it.
    pub(super) fn of_raise(error: &RaiseError, outcome: Option<Outcome>) -> Self {
        match error {
            RaiseError::Higher(higher) => Self::Term { current: higher.current, detail: error.to_string() },
            RaiseError::OlderWrites { .. } | RaiseError::Store(_) => {
                let problem = Problem::new(Kind::BackendUnavailable, error.to_string());
                Self::Other(Box::new(problem.outcome(outcome)))
            }
        }
    }

    pub(super) fn answer(self, sender: &Sender) -> Response<AnswerBody> {
        match self {
            Self::Term { current, detail } => sender.reject(current, &detail),
            Self::Other(problem) => sender.tell(*problem),
        }
    }
}

pub(super) fn bad_request(detail: impl Into<String>) -> Refused {
    Refused::Other(Box::new(Problem::new(Kind::BadRequest, detail)))
}

pub(super) fn forbidden(detail: impl Into<String>) -> Refused {
    Refused::Other(Box::new(Problem::new(Kind::Forbidden, detail)))
}
