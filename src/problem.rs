//! Errors as clients see them: `application/problem+json` (RFC 9457).
//!
//! One table names every problem with its status, title and usual outcome; one type carries what
//! this occurrence adds. The proxy and the API both answer with it, so a client needs one reader
//! for the errors of both. Pure: it builds bytes and fields, and sends nothing.
//!
//! `outcome` is a promise (G5): `not-applied` means that the request certainly had no effect,
//! `unknown` that nobody can tell. A read has none, because there is nothing to apply.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use http::{HeaderName, Response, StatusCode};
use serde::Serialize;

use crate::ids::{NodeId, Term};
use crate::time::Duration;

/// The media type of a problem (RFC 9457, section 3).
pub const MEDIA_TYPE: HeaderValue = HeaderValue::from_static("application/problem+json");

/// The response field that repeats [`Outcome`], for clients that don't read the content.
pub const OUTCOME_FIELD: HeaderName = HeaderName::from_static("termgate-outcome");

/// What became of a request that was to change something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It took effect.
    Applied,
    /// It certainly had no effect.
    NotApplied,
    /// It may have taken effect, or may still.
    Unknown,
}

impl Outcome {
    /// What an answer says in its field.
    pub fn of(fields: &HeaderMap) -> Option<Self> {
        let word = fields.get(&OUTCOME_FIELD)?;
        [Self::Applied, Self::NotApplied, Self::Unknown].into_iter().find(|outcome| word == outcome.name())
    }

    /// The word in `Termgate-Outcome` and in the problem's `outcome`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::NotApplied => "not-applied",
            Self::Unknown => "unknown",
        }
    }
}

macro_rules! kinds {
    ($($(#[doc = $doc:literal])+ $kind:ident = $name:literal, $status:ident, $outcome:expr, $title:literal;)+) => {
        /// The kinds of problems.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Kind { $($(#[doc = $doc])+ $kind,)+ }

        impl Kind {
            /// Every kind, for tests and for the API's description.
            pub const ALL: &'static [Self] = &[$(Self::$kind),+];

            /// The last part of `urn:termgate:problem:<name>`.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$kind => $name,)+ }
            }

            /// The status that it usually has.
            pub const fn status(self) -> StatusCode {
                match self { $(Self::$kind => StatusCode::$status,)+ }
            }

            /// A short text, the same for each occurrence (RFC 9457, section 3.1.3).
            pub const fn title(self) -> &'static str {
                match self { $(Self::$kind => $title,)+ }
            }

            /// The outcome that it usually has.
            pub const fn outcome(self) -> Option<Outcome> {
                match self { $(Self::$kind => $outcome,)+ }
            }
        }
    };
}

const NOT_APPLIED: Option<Outcome> = Some(Outcome::NotApplied);
const UNKNOWN: Option<Outcome> = Some(Outcome::Unknown);

kinds! {
    /// No leader within the hold time.
    NoLeader = "no-leader", SERVICE_UNAVAILABLE, NOT_APPLIED, "No leader is known";
    /// The leader is known, and it could not be reached.
    LeaderUnreachable = "leader-unreachable", SERVICE_UNAVAILABLE, NOT_APPLIED, "The leader can't be reached";
    /// The client believes in an older term.
    StaleTerm = "stale-term", PRECONDITION_FAILED, NOT_APPLIED, "The term is out of date";
    /// The client believes in a term that has not been reached.
    FutureTerm = "future-term", CONFLICT, NOT_APPLIED, "The term has not been reached";
    /// The backend refused the token, and the request could not be sent again.
    Fenced = "fenced", SERVICE_UNAVAILABLE, NOT_APPLIED, "The backend refused a stale token";
    /// Nothing was sent to the backend.
    BackendUnavailable = "backend-unavailable", SERVICE_UNAVAILABLE, NOT_APPLIED, "The backend can't be reached";
    /// The backend's answer is malformed or broken off. Unknown for writes; take it off for reads.
    BackendBadResponse = "backend-bad-response", BAD_GATEWAY, UNKNOWN, "The backend's answer can't be used";
    /// The backend did not answer in time. Unknown for writes; take it off for reads.
    BackendTimeout = "backend-timeout", GATEWAY_TIMEOUT, UNKNOWN, "The backend did not answer in time";
    /// Leadership or a connection was lost while a write was on its way.
    OutcomeUnknown = "outcome-unknown", INTERNAL_SERVER_ERROR, UNKNOWN, "The outcome is unknown";
    /// Too many requests are on their way, or the node is draining.
    Overloaded = "overloaded", SERVICE_UNAVAILABLE, NOT_APPLIED, "Too many requests";
    /// The content is too large.
    ContentTooLarge = "content-too-large", PAYLOAD_TOO_LARGE, NOT_APPLIED, "The content is too large";
    /// The head is too large.
    HeadersTooLarge = "headers-too-large", REQUEST_HEADER_FIELDS_TOO_LARGE, NOT_APPLIED, "The head is too large";
    /// The target is too long.
    UriTooLong = "uri-too-long", URI_TOO_LONG, NOT_APPLIED, "The target is too long";
    /// The client is too slow.
    ClientTimeout = "client-timeout", REQUEST_TIMEOUT, NOT_APPLIED, "The request did not arrive in time";
    /// The request is malformed or ambiguous. Also with 411, 417, 501 and 505.
    BadRequest = "bad-request", BAD_REQUEST, NOT_APPLIED, "The request can't be understood";
    /// The request came back to a node that had passed it on.
    LoopDetected = "loop-detected", LOOP_DETECTED, NOT_APPLIED, "The request goes in circles";
    /// The read can't be served as fresh as it was asked for.
    ReadNotLinearizable = "read-not-linearizable", SERVICE_UNAVAILABLE, None, "The read can't be confirmed";
    /// There is nothing here.
    NotFound = "not-found", NOT_FOUND, NOT_APPLIED, "Not found";
    /// The method is not offered here; `Allow` names those that are.
    MethodNotAllowed = "method-not-allowed", METHOD_NOT_ALLOWED, NOT_APPLIED, "The method is not allowed";
    /// The call needs a bearer token.
    Unauthorized = "unauthorized", UNAUTHORIZED, NOT_APPLIED, "A bearer token is needed";
    /// The caller may not do this.
    Forbidden = "forbidden", FORBIDDEN, NOT_APPLIED, "The call is not allowed from here";
    /// `If-Match` or `If-None-Match` does not hold.
    PreconditionFailed = "precondition-failed", PRECONDITION_FAILED, NOT_APPLIED, "The condition does not hold";
    /// Leadership stays where it is.
    TransferRefused = "transfer-refused", CONFLICT, NOT_APPLIED, "Leadership was not transferred";
    /// The membership stays as it is.
    MembershipRefused = "membership-refused", CONFLICT, NOT_APPLIED, "The membership was not changed";
    /// The token of an invitation is not accepted.
    InvitationRefused = "invitation-refused", FORBIDDEN, NOT_APPLIED, "The invitation is not accepted";
    /// A limit of the registry would be exceeded.
    LimitExceeded = "limit-exceeded", INSUFFICIENT_STORAGE, NOT_APPLIED, "A limit would be exceeded";
    /// The node is not ready.
    NotReady = "not-ready", SERVICE_UNAVAILABLE, None, "The node is not ready";
}

/// One occurrence of a problem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Which problem.
    pub kind: Kind,
    /// The status, where it differs from the usual one.
    pub status: StatusCode,
    /// What happened and how to mend it, in words for a person.
    pub detail: String,
    /// The request, when it has an id.
    pub request_id: Option<Box<str>>,
    /// The node that answers.
    pub node: Option<NodeId>,
    /// The term it answers in.
    pub term: Option<Term>,
    /// What became of the request; `None` for reads.
    pub outcome: Option<Outcome>,
    /// When another attempt makes sense.
    pub retry_after: Option<Duration>,
    /// Where the fence stands that refused the term.
    pub current: Option<Term>,
}

/// The members of the JSON object, in the order of the contract.
#[derive(Serialize)]
struct Members<'a> {
    r#type: String,
    title: &'static str,
    status: u16,
    detail: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<NodeId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    term: Option<Term>,
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<Outcome>,
    retry_safe: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    current: Option<Term>,
}

impl Problem {
    /// A problem with its usual status and outcome.
    pub fn new(kind: Kind, detail: impl Into<String>) -> Self {
        Self {
            kind,
            status: kind.status(),
            detail: detail.into(),
            request_id: None,
            node: None,
            term: None,
            outcome: kind.outcome(),
            retry_after: None,
            current: None,
        }
    }

    /// The same with another status.
    pub fn status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }

    /// The same with another outcome; `None` for a read.
    pub fn outcome(mut self, outcome: Option<Outcome>) -> Self {
        self.outcome = outcome;
        self
    }

    /// The same, naming the request.
    pub fn request_id(mut self, id: impl Into<Box<str>>) -> Self {
        self.request_id = Some(id.into());
        self
    }

    /// The same, naming who answers and in which term.
    pub fn seen_by(mut self, node: NodeId, term: Term) -> Self {
        self.node = Some(node);
        self.term = Some(term);
        self
    }

    /// The same, saying when to try again.
    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// The same, saying where the fence stands that refused the term.
    pub fn current(mut self, term: Term) -> Self {
        self.current = Some(term);
        self
    }

    /// Whether the same request may be sent again without a second effect.
    pub fn retry_safe(&self) -> bool {
        matches!(self.outcome, None | Some(Outcome::NotApplied))
    }

    /// The content of the answer.
    pub fn to_json(&self) -> Bytes {
        let members = Members {
            r#type: format!("urn:termgate:problem:{}", self.kind.name()),
            title: self.kind.title(),
            status: self.status.as_u16(),
            detail: &self.detail,
            request_id: self.request_id.as_deref(),
            node: self.node,
            term: self.term,
            outcome: self.outcome,
            retry_safe: self.retry_safe(),
            retry_after_ms: self.retry_after.map(|d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX)),
            current: self.current,
        };
        // Strings and numbers always have a JSON form; an empty object would only mean that they had none.
        serde_json::to_vec(&members).map_or_else(|_| Bytes::from_static(b"{}"), Bytes::from)
    }

    /// The whole answer: content, media type, `Retry-After` in whole seconds (rounded up, RFC 9110,
    /// section 10.2.3) and `Termgate-Outcome`.
    pub fn into_response(self) -> Response<Bytes> {
        let mut response = Response::new(self.to_json());
        *response.status_mut() = self.status;
        let fields = response.headers_mut();
        fields.insert(CONTENT_TYPE, MEDIA_TYPE);
        fields.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(wait) = self.retry_after {
            fields.insert(RETRY_AFTER, HeaderValue::from(wait.as_millis().div_ceil(1000).max(1) as u64));
        }
        if let Some(outcome) = self.outcome {
            fields.insert(OUTCOME_FIELD, HeaderValue::from_static(outcome.name()));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_has_the_members_of_the_contract() {
        let problem = Problem::new(Kind::NoLeader, "no leader is known")
            .seen_by(NodeId(2), Term(7))
            .request_id("r-1")
            .retry_after(Duration::from_millis(200));
        let json: serde_json::Value = serde_json::from_slice(&problem.to_json()).unwrap();
        let expected = serde_json::json!({
            "type": "urn:termgate:problem:no-leader", "title": "No leader is known", "status": 503,
            "detail": "no leader is known", "request_id": "r-1", "node": 2, "term": 7,
            "outcome": "not-applied", "retry_safe": true, "retry_after_ms": 200,
        });
        assert_eq!(json, expected);
    }

    #[test]
    fn retry_after_is_rounded_up_to_whole_seconds() {
        for (ms, field) in [(0, "1"), (200, "1"), (1000, "1"), (1001, "2")] {
            let problem = Problem::new(Kind::NoLeader, "").retry_after(Duration::from_millis(ms));
            assert_eq!(problem.into_response().headers()[RETRY_AFTER], field, "{ms} ms");
        }
    }

    #[test]
    fn an_unknown_outcome_is_never_called_safe_to_retry() {
        for kind in Kind::ALL {
            let problem = Problem::new(*kind, "");
            assert_eq!(problem.retry_safe(), kind.outcome() != UNKNOWN, "{}", kind.name());
        }
    }

    #[test]
    fn a_read_has_no_outcome_field() {
        let response = Problem::new(Kind::NoLeader, "").outcome(None).into_response();
        assert!(!response.headers().contains_key(OUTCOME_FIELD));
    }
}
