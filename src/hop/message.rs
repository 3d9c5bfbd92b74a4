//! What two nodes say about one forwarded request, before and after its body.
//!
//! These are the postcard heads of `proto-spec/hop.md`; the framing is in `codec`, the bodies are
//! in `body`. Everything here comes from a peer: nothing may be indexed, unwrapped or trusted
//! beyond what the certificate of the connection says.

use serde::{Deserialize, Serialize};

use crate::fencing::mode::Consistency;
use crate::ids::{NodeId, Term};

/// Field lines, in order, names in lower case. Values are bytes: HTTP allows more than UTF-8.
pub type Fields = Vec<(String, Vec<u8>)>;

/// Which local service of the receiving node answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Service {
    /// The proxy: the request goes to the backend of its route, through the gate.
    Proxy,
    /// The API listener's calls, passed on by another node.
    Api,
}

/// How the content of a request reaches the other node (H-3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Content {
    /// There is none; the body is ended right behind the head.
    Empty,
    /// Chunks follow at once.
    Eager {
        /// The declared length, in bytes.
        length: Option<u64>,
    },
    /// Chunks follow only after [`Answer::Go`], so that an attempt which was refused or lost
    /// before it has cost the origin nothing and can be made again.
    Withheld {
        /// The declared length, in bytes.
        length: Option<u64>,
    },
}

/// The head of a forwarded request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestHead {
    /// Who shall answer.
    pub service: Service,
    /// Names the request; stable over all attempts.
    pub request_id: String,
    /// The node that took the request from its client; equal to the certificate's (H-9).
    pub origin: NodeId,
    /// The HTTP method.
    pub method: String,
    /// The request target in origin form: path and query.
    pub target: String,
    /// The end-to-end fields, already cleaned by the origin.
    pub fields: Fields,
    /// How the content follows.
    pub content: Content,
    /// The consistency a read was asked for.
    pub consistency: Option<Consistency>,
    /// The term the client believes in.
    pub client_term: Option<Term>,
}

/// What the asked node says, in order: at most one `Go`, then a `Refused` that ends the exchange or
/// a `Head` that the content follows (H-4).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// Send the withheld content.
    Go,
    /// The request certainly had no effect; the exchange ends.
    Refused(Refusal),
    /// The answer's head; chunks follow.
    Head(ResponseHead),
}

/// Why a request was turned away. It certainly had no effect: in most cases nothing of it was sent to
/// a backend, and where it was, what is said here proves that nothing came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Refusal {
    /// The asked node does not lead. Nothing was sent.
    NotLeader,
    /// It leads, but the gate of the route is not open. Nothing was sent.
    GateClosed,
    /// It has no such service. Nothing was sent.
    NoSuchService,
    /// It was sent, and the backend's verifier refused its term.
    Fenced,
    /// A read was sent, and leadership moved before its answer: the answer may be from the past.
    ReadNotConfirmed,
}

/// The head of the answer to a forwarded request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResponseHead {
    /// The HTTP status.
    pub status: u16,
    /// The end-to-end fields.
    pub fields: Fields,
    /// The term the request was served under.
    pub term: Term,
    /// The node that served it.
    pub node: NodeId,
}
