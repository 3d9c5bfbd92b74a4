//! The fields that carry the fencing token on HTTP, and the answers that refuse one.
//!
//! All are structured fields (RFC 9651); each must come exactly once, because two readers of a
//! repeated field may pick different ones.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};

use crate::fencing::verifier::MAX_TERM;
use crate::ids::{NodeId, Term};
use crate::problem::{Kind, Problem};
use crate::time::Duration;

pub use crate::proxy::fields::{FENCE, NODE, REQUEST_ID, RESOURCE, TERM};
pub use crate::proxy::raise::FENCE_PATH;

/// Longest value of a field of ours; a request id is a UUID or the like.
const MAX_VALUE: usize = 128;

/// When to try again what can't be done now.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// What a service behind the fence can fail with.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The content of an answer, wherever it comes from.
pub type AnswerBody = UnsyncBoxBody<Bytes, BoxError>;

/// A field of ours that can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FieldError {
    /// It is not there.
    #[error("{0} is missing: send writes through a termgate node, which stamps them")]
    Missing(HeaderName),
    /// It comes more than once.
    #[error("{0} comes more than once: send exactly one")]
    Repeated(HeaderName),
    /// It can't be read.
    #[error("{0} is malformed: expected {1}")]
    Malformed(HeaderName, &'static str),
}

/// The one value of a field; `None` when it is not there.
fn at_most_one<'a>(fields: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, FieldError> {
    let mut values = fields.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(FieldError::Repeated(name.clone()));
    }
    match value.to_str() {
        Ok(text) if text.len() <= MAX_VALUE => Ok(Some(text.trim_matches(' '))),
        _ => Err(FieldError::Malformed(name.clone(), "at most 128 printable characters")),
    }
}

fn integer(fields: &HeaderMap, name: &HeaderName) -> Result<Option<u64>, FieldError> {
    let Some(text) = at_most_one(fields, name)? else { return Ok(None) };
    let digits = !text.is_empty() && text.len() <= 15 && text.bytes().all(|b| b.is_ascii_digit());
    let malformed = || FieldError::Malformed(name.clone(), "an integer of at most 15 digits");
    if !digits {
        return Err(malformed());
    }
    text.parse().map(Some).map_err(|_| malformed())
}

/// Reads `Termgate-Term`; `None` when it is not there.
pub fn term(fields: &HeaderMap) -> Result<Option<Term>, FieldError> {
    Ok(integer(fields, &TERM)?.map(Term))
}

/// Reads `Termgate-Node`.
pub fn node(fields: &HeaderMap) -> Result<NodeId, FieldError> {
    integer(fields, &NODE)?.map(NodeId).ok_or(FieldError::Missing(NODE))
}

/// Reads `Termgate-Resource`.
pub fn resource(fields: &HeaderMap) -> Result<&str, FieldError> {
    at_most_one(fields, &RESOURCE)?.ok_or(FieldError::Missing(RESOURCE))
}

/// Reads `Termgate-Request-Id`; `None` when it is not there.
pub fn request_id(fields: &HeaderMap) -> Result<Option<&str>, FieldError> {
    at_most_one(fields, &REQUEST_ID)
}

/// The content `bytes`, whole.
pub fn whole(bytes: impl Into<Bytes>) -> AnswerBody {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// An answer with JSON content.
pub fn json_answer(status: StatusCode, value: &serde_json::Value) -> Response<AnswerBody> {
    let mut answer = Response::new(whole(value.to_string()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

/// Who sent a request, as far as it says so. A problem names it, because a node passes the guard's
/// problems on to its client.
#[derive(Debug, Clone, Default)]
pub struct Sender {
    request_id: Option<String>,
    stamp: Option<(NodeId, Term)>,
}

impl Sender {
    /// The sender of a request with these fields.
    pub fn of(fields: &HeaderMap) -> Self {
        let stamp = node(fields).ok().zip(term(fields).ok().flatten());
        Self { request_id: request_id(fields).ok().flatten().map(str::to_owned), stamp }
    }

    /// Tells it a problem (RFC 9457).
    pub fn tell(&self, mut problem: Problem) -> Response<AnswerBody> {
        if let Some(id) = &self.request_id {
            problem = problem.request_id(id.as_str());
        }
        if let Some((node, term)) = self.stamp {
            problem = problem.seen_by(node, term);
        }
        if problem.status == StatusCode::SERVICE_UNAVAILABLE {
            problem = problem.retry_after(RETRY_AFTER);
        }
        problem.into_response().map(whole)
    }

    /// Refuses its term, with the field that says so: `Termgate-Fence: rejected; current=N`.
    pub fn reject(&self, current: Term, detail: &str) -> Response<AnswerBody> {
        let current = current.min(MAX_TERM);
        let mut answer = self.tell(Problem::new(Kind::StaleTerm, detail).current(current));
        let text = format!("rejected; current={current}");
        let value = HeaderValue::try_from(text).expect("digits and letters are a field value");
        answer.headers_mut().insert(FENCE, value);
        answer
    }
}

/// A refusal without a word about who is refused, by the name of its kind.
pub fn problem(status: StatusCode, name: &str, detail: &str) -> Response<AnswerBody> {
    let kind = Kind::ALL.iter().copied().find(|kind| kind.name() == name).unwrap_or(Kind::BadRequest);
    Sender::default().tell(Problem::new(kind, detail).status(status))
}

/// The refusal of a term, without a word about whose it is.
pub fn rejected(current: Term, detail: &str) -> Response<AnswerBody> {
    Sender::default().reject(current, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(values: &[&str]) -> HeaderMap {
        let mut fields = HeaderMap::new();
        for value in values {
            fields.append(TERM, HeaderValue::from_str(value).expect("a value"));
        }
        fields
    }

    #[test]
    fn reads_one_term() {
        assert_eq!(term(&fields(&[])), Ok(None));
        assert_eq!(term(&fields(&["42"])), Ok(Some(Term(42))));
        assert_eq!(term(&fields(&["999999999999999"])), Ok(Some(MAX_TERM)));
    }

    #[test]
    fn refuses_a_repeated_term_even_when_equal() {
        assert_eq!(term(&fields(&["42", "42"])), Err(FieldError::Repeated(TERM)));
        assert!(term(&fields(&["42, 42"])).is_err());
    }

    #[test]
    fn refuses_what_is_not_an_integer() {
        for text in ["", "-1", "+1", "1.0", "42;a=1", "0x10", "1000000000000000", "1 2", "\u{661}"] {
            assert!(term(&fields(&[text])).is_err(), "{text:?}");
        }
    }

    #[test]
    fn names_the_current_term_when_it_rejects() {
        let answer = Sender::default().reject(Term(43), "the term is stale");
        assert_eq!(answer.status(), StatusCode::PRECONDITION_FAILED);
        assert_eq!(answer.headers()[FENCE], "rejected; current=43");
        assert_eq!(answer.headers()[CONTENT_TYPE], "application/problem+json");
    }
}
