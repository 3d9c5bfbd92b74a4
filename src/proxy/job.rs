//! One request on its way, as every attempt needs it; and how an attempt can end.

use std::sync::atomic::{AtomicU64, Ordering};

use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, Method, Response};

use crate::fencing::mode::Consistency;
use crate::ids::{NodeId, Term};
use crate::problem::{Kind, Outcome, Problem};
use crate::proxy::body::{Content, Fault, Keep};
use crate::proxy::limits;
use crate::proxy::validate;

/// What kind of request it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// It may change something.
    Write,
    /// It changes nothing, and is to be this fresh.
    Read(Consistency),
}

impl Class {
    /// GET, HEAD and OPTIONS are reads, as fresh as they were `asked` for (or fresher, without
    /// `lease_reads`); everything else is a write.
    pub fn of(method: &Method, asked: Consistency, lease_reads: bool) -> Self {
        match *method {
            Method::GET | Method::HEAD | Method::OPTIONS => Self::Read(asked.served(lease_reads)),
            _ => Self::Write,
        }
    }

    /// Its name in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Write => "write",
            Self::Read(consistency) => consistency.name(),
        }
    }

    /// The outcome of a read is never unknown: there was nothing to apply.
    pub fn settle(self, problem: Problem) -> Problem {
        match self {
            Self::Read(_) if problem.outcome == Some(Outcome::Unknown) => problem.outcome(None),
            _ => problem,
        }
    }
}

/// One request on its way.
#[derive(Debug, Clone)]
pub struct Job {
    /// Its route's place in the configuration.
    pub route: usize,
    /// Read or write.
    pub class: Class,
    /// Stable over all attempts.
    pub request_id: String,
    /// The method.
    pub method: Method,
    /// The target, as received.
    pub target: PathAndQuery,
    /// Whom the client wants to talk to.
    pub authority: Authority,
    /// End-to-end fields, clean.
    pub fields: HeaderMap,
    /// The content.
    pub keep: Keep,
    /// The term the client believes in.
    pub client_term: Option<Term>,
}

/// Why an attempt certainly had no effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotStarted {
    /// Nobody leads, or the gate is not open.
    GateClosed,
    /// This node leads, and its backend's fence does not stand yet.
    FenceNotRaised,
    /// The leader could not be reached.
    Unreachable(String),
    /// The backend refused the token.
    Fenced,
    /// Leadership moved while a read was under way: its answer is not fresh enough.
    ReadNotConfirmed,
}

impl NotStarted {
    /// The problem, when the request can't be tried again.
    pub fn problem(&self) -> Problem {
        let problem = match self {
            Self::GateClosed => Problem::new(Kind::NoLeader, "no leader with an open gate was found in time"),
            Self::FenceNotRaised => Problem::new(
                Kind::BackendUnavailable,
                "the leader could not raise the fence at the backend in time; is the backend up?",
            ),
            Self::Unreachable(cause) => Problem::new(Kind::LeaderUnreachable, cause),
            Self::Fenced => {
                Problem::new(Kind::Fenced, "the backend has seen a newer term; nothing was changed")
            }
            Self::ReadNotConfirmed => {
                Problem::new(Kind::ReadNotLinearizable, "leadership moved while the read was under way")
            }
        };
        problem.retry_after(limits::RETRY_AFTER)
    }
}

/// How an attempt ended.
#[derive(Debug)]
pub enum Attempt {
    /// With an answer.
    Served(Box<Response<Content>>),
    /// Without any effect; another attempt may be made.
    NotStarted(NotStarted),
    /// For good.
    Failed(Problem),
}

/// What a fault of the client's content means when `sent` bytes of the request are with the
/// backend already.
pub fn content_problem(fault: Fault, sent: bool) -> Problem {
    let problem = match fault {
        Fault::TooLarge => validate::too_large(),
        Fault::TooSlow => Problem::new(
            Kind::ClientTimeout,
            format!(
                "the content paused for more than {:?}, or came in less than {} bytes a second",
                limits::BODY_IDLE_TIMEOUT,
                limits::BODY_RATE_MIN
            ),
        ),
        Fault::Broken => Problem::new(Kind::BadRequest, "the content broke off, or its framing is malformed"),
    };
    if sent { problem.outcome(Some(Outcome::Unknown)) } else { problem }
}

/// Makes request ids: unique in the cluster, and over restarts.
#[derive(Debug)]
pub struct RequestIds {
    prefix: String,
    next: AtomicU64,
}

impl RequestIds {
    /// Draws the part that tells this start from others.
    pub fn new(node: NodeId) -> Self {
        Self { prefix: format!("{node}-{:08x}", rand::random::<u32>()), next: AtomicU64::new(1) }
    }

    /// A new one.
    pub fn draw(&self) -> String {
        format!("{}-{}", self.prefix, self.next.fetch_add(1, Ordering::Relaxed))
    }
}
