//! A call that is not answered as it was asked: the problem, and what else the answer has to say.

use bytes::Bytes;
use http::Response;
use http::header::{ALLOW, HeaderMap, HeaderValue, WWW_AUTHENTICATE};

use crate::api::fields::{NOT_LEADER, Place};
use crate::api::router::NotRouted;
use crate::api::{Caller, Inner};
use crate::problem::{Kind, Outcome, Problem};

/// Why there is no better answer.
#[derive(Debug)]
pub(super) struct Refusal {
    problem: Problem,
    /// Fields of the answer besides the problem's own.
    fields: Box<HeaderMap>,
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Self { problem, fields: Box::default() }
    }
}

impl Refusal {
    /// A problem that was found in the registry, at `place`.
    pub(super) fn at(place: Place, mut problem: Problem) -> Self {
        problem.term = Some(place.term);
        let mut refusal = Self::from(problem);
        place.mark(&mut refusal.fields);
        refusal
    }

    /// There is no such call.
    pub(super) fn not_routed(why: NotRouted, path: &str) -> Self {
        match why {
            NotRouted::NotFound => {
                Problem::new(Kind::NotFound, format!("nothing is at {path}; see /openapi.json")).into()
            }
            NotRouted::MethodNotAllowed(allow) => {
                let problem = Problem::new(Kind::MethodNotAllowed, format!("{path} takes {allow}"));
                let mut refusal = Self::from(problem);
                refusal.fields.extend(HeaderValue::try_from(allow).ok().map(|methods| (ALLOW, methods)));
                refusal
            }
        }
    }

    /// The answer to the request `id`. It names this node, and its term where the refusal names none. A
    /// node that passed the request on is told when it should look for another leader.
    pub(super) fn answer(self, context: &Inner, caller: Caller, id: &HeaderValue) -> Response<Bytes> {
        let Self { problem, fields } = self;
        let (kind, outcome) = (problem.kind, problem.outcome);
        context.metrics.refuse("api", kind.name());
        tracing::debug!(request_id = ?id, problem = kind.name(), detail = problem.detail, "an API call is refused");
        let seen = context.handle.leadership();
        let term = problem.term.unwrap_or(seen.term);
        let id = String::from_utf8_lossy(id.as_bytes());
        let mut response = problem.seen_by(seen.node, term).request_id(id).into_response();
        response.headers_mut().extend(*fields);
        match kind {
            Kind::Unauthorized => {
                response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            // What may have happened is not passed on to the next (G5).
            Kind::NoLeader | Kind::LeaderUnreachable
                if caller != Caller::Client && outcome != Some(Outcome::Unknown) =>
            {
                response.headers_mut().insert(NOT_LEADER, HeaderValue::from_static("1"));
            }
            _ => {}
        }
        response
    }
}
