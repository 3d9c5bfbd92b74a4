//! The leader's side of a request, for clients of this node and for other nodes alike: pass the
//! gate, check out a connection, stamp, test the gate again, send, stream the answer.
//!
//! Two steps, because content that another node withholds is asked for between them: after
//! [`Leader::prepare`] there is a term and a backend connection, and still nothing was sent.

use std::sync::Arc;

use http::header::{CONTENT_LENGTH, HOST, HeaderValue, TRANSFER_ENCODING};
use http::{Method, Request, Response, Uri, Version};

use crate::clock;
use crate::driver::handle::{Handle, Refused};
use crate::fencing::mode::{Consistency, FenceMode};
use crate::fencing::passage::{self, Broken, Concluded, Fate, Stamp};
use crate::ids::Term;
use crate::metrics::{Metrics, RouteLabel};
use crate::problem::{Kind, OUTCOME_FIELD, Problem};
use crate::proxy::answer::AnswerBody;
use crate::proxy::body::Content;
use crate::proxy::fields;
use crate::proxy::gates::GateBoard;
use crate::proxy::job::{Attempt, Class, Job, NotStarted, content_problem};
use crate::proxy::ledger::Permit;
use crate::proxy::limits;
use crate::proxy::pool::{CheckoutError, Lease, Pool, SendError};

/// One route, as the leader's side needs it.
#[derive(Debug)]
pub struct Target {
    /// The resource's name, as it is stamped.
    pub resource: HeaderValue,
    /// How it is protected.
    pub mode: FenceMode,
    /// The label of its metrics.
    pub label: RouteLabel,
    /// This lane's connections to its backend.
    pub pool: Arc<Pool>,
}

/// The leader's side, on one lane.
#[derive(Debug)]
pub struct Leader {
    /// The loop's door.
    pub handle: Handle,
    /// All gates.
    pub board: Arc<GateBoard>,
    /// All routes, in the board's order.
    pub targets: Vec<Target>,
    /// Where everything is counted.
    pub metrics: Metrics,
}

/// Everything is ready, and nothing was sent.
#[derive(Debug)]
pub struct Prepared {
    term: Option<Term>,
    lease: Lease,
}

impl Leader {
    /// Serves `job` here, if this node may.
    pub async fn attempt(&self, job: &Job) -> Attempt {
        let prepared = match self.prepare(job).await {
            Ok(prepared) => prepared,
            Err(attempt) => return attempt,
        };
        match job.keep.begins().await {
            Ok(()) => self.send(prepared, job).await,
            Err(fault) => Attempt::Failed(content_problem(fault, false)),
        }
    }

    /// Passes the gate, confirms leadership for a linearizable read, and checks out a connection.
    pub async fn prepare(&self, job: &Job) -> Result<Prepared, Attempt> {
        let term = self.admit(job)?;
        if job.class == Class::Read(Consistency::Linearizable) {
            self.confirm(term).await?;
        }
        let lease = self.target(job)?.pool.checkout().await.map_err(no_connection)?;
        Ok(Prepared { term, lease })
    }

    /// Sends what was prepared. A connection that turns out to be closed, with no byte sent, is
    /// replaced by a new one.
    pub async fn send(&self, prepared: Prepared, job: &Job) -> Attempt {
        let Prepared { term, lease } = prepared;
        let permit = term.map(|term| Permit { board: Arc::clone(&self.board), route: job.route, term });
        let sent = match self.exchange(lease, job, &permit).await {
            Err(error) if self.may_resend(&error, job, &permit) => self.once_more(job, &permit).await,
            other => other.map_err(Some),
        };
        match sent {
            Ok(answer) => self.conclude(answer, job, term),
            Err(None) => Attempt::Failed(unavailable("no connection could be made")),
            Err(Some(error)) => failed(&error, job, &permit),
        }
    }

    fn target(&self, job: &Job) -> Result<&Target, Attempt> {
        let unknown = || Attempt::Failed(Problem::new(Kind::NotFound, "no route for this request"));
        self.targets.get(job.route).ok_or_else(unknown)
    }

    /// The term to stamp. Stale reads need none, and carry one only when this node holds it.
    fn admit(&self, job: &Job) -> Result<Option<Term>, Attempt> {
        let now = clock::now();
        let may_be_stale = job.class == Class::Read(Consistency::Stale);
        let leads = self.handle.lease_covers(now).is_some();
        let term = match passage::stamp(self.board.admit(job.route, now), may_be_stale, leads) {
            Stamp::With(term) => Some(term),
            Stamp::Without => return Ok(None),
            Stamp::FenceNotRaised => return Err(Attempt::NotStarted(NotStarted::FenceNotRaised)),
            Stamp::GateClosed => return Err(Attempt::NotStarted(NotStarted::GateClosed)),
        };
        match (job.client_term, term) {
            (Some(theirs), Some(ours)) if theirs < ours => Err(Attempt::Failed(Problem::new(
                Kind::StaleTerm,
                format!("the request is for term {theirs}, the leader's is {ours}"),
            ))),
            (Some(theirs), Some(ours)) if theirs > ours => Err(Attempt::Failed(Problem::new(
                Kind::FutureTerm,
                format!("the request is for term {theirs}, the leader's is {ours}"),
            ))),
            _ => Ok(term),
        }
    }

    /// A quorum round that starts now, in the admitted term.
    async fn confirm(&self, term: Option<Term>) -> Result<(), Attempt> {
        match self.handle.read().await {
            Ok(point) if Some(point.term) == term => Ok(()),
            Ok(_) | Err(Refused::NotLeader { .. } | Refused::Unknown) => {
                Err(Attempt::NotStarted(NotStarted::ReadNotConfirmed))
            }
            Err(refused) => {
                let problem = Problem::new(Kind::ReadNotLinearizable, refused.to_string());
                Err(Attempt::Failed(problem.retry_after(limits::RETRY_AFTER)))
            }
        }
    }

    async fn exchange(
        &self,
        lease: Lease,
        job: &Job,
        permit: &Option<Permit>,
    ) -> Result<Response<AnswerBody>, SendError> {
        let request = self.stamped(job, permit.as_ref().map(|p| p.term));
        let unverified = self.targets.get(job.route).is_some_and(|t| t.mode == FenceMode::Drain);
        let ledger = lease.ledger();
        let send = lease.send(request, job.keep.clone(), permit.clone());
        let Some(permit) = permit.as_ref().filter(|_| unverified) else { return send.await };
        // Nothing but the lease keeps this write from landing among a successor's: cut it off.
        tokio::select! {
            sent = send => sent,
            () = permit.lost() => Err(SendError {
                broken: Broken { written: ledger.written(), reused: false, timed_out: false },
                cause: "the lease ended".to_owned(),
            }),
        }
    }

    async fn once_more(
        &self,
        job: &Job,
        permit: &Option<Permit>,
    ) -> Result<Response<AnswerBody>, Option<SendError>> {
        let Ok(Target { pool, label, .. }) = self.target(job) else { return Err(None) };
        self.metrics.redispatched.get_or_create(label).inc();
        let lease = pool.open().await.map_err(|_| None)?;
        self.exchange(lease, job, permit).await.map_err(Some)
    }

    fn may_resend(&self, error: &SendError, job: &Job, permit: &Option<Permit>) -> bool {
        let holds = permit.as_ref().is_none_or(Permit::holds);
        passage::may_resend(error.broken, job.class == Class::Write, job.keep.can_be_lent(), holds)
    }

    /// The request as the backend gets it. The stamp is the last edit.
    fn stamped(&self, job: &Job, term: Option<Term>) -> Request<Content> {
        let mut request = Request::new(job.keep.lend());
        *request.method_mut() = job.method.clone();
        *request.uri_mut() = Uri::from(job.target.clone());
        *request.version_mut() = Version::HTTP_11;
        let map = request.headers_mut();
        *map = job.fields.clone();
        if let Ok(host) = HeaderValue::from_str(job.authority.as_str()) {
            map.insert(HOST, host);
        }
        match job.keep.length() {
            // Servers expect a length, be it 0, where a method comes with content (RFC 9110, section 8.6).
            Some(0) if !matches!(job.method, Method::POST | Method::PUT | Method::PATCH) => {}
            Some(length) => drop(map.insert(CONTENT_LENGTH, HeaderValue::from(length))),
            // Said explicitly: hyper would drop the content of a method that rarely has any.
            None => drop(map.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"))),
        }
        if let Some(target) = self.targets.get(job.route) {
            fields::stamp(map, term, self.handle.node(), &target.resource, &job.request_id);
        }
        request
    }

    /// Looks at the head of the backend's answer before anyone else does.
    fn conclude(&self, answer: Response<AnswerBody>, job: &Job, term: Option<Term>) -> Attempt {
        let refused = fields::fence_rejection(answer.headers()).is_some();
        let fresh = matches!(job.class, Class::Read(Consistency::Linearizable | Consistency::Lease));
        match passage::conclude(refused, fresh, term, self.handle.lease_covers(clock::now())) {
            Concluded::Fenced(term) => return self.fenced(job, term),
            Concluded::NotConfirmed => return Attempt::NotStarted(NotStarted::ReadNotConfirmed),
            Concluded::Answered => {}
        }
        let (mut head, body) = answer.into_parts();
        let verified = self.targets.get(job.route).is_some_and(|target| target.mode != FenceMode::Drain);
        let outcome = fields::verifiers_outcome(&head.headers).filter(|_| verified);
        if let Err(cause) = fields::clean_answer(head.status, &mut head.headers) {
            let problem = Problem::new(Kind::BackendBadResponse, format!("the backend's answer: {cause}"));
            return Attempt::Failed(job.class.settle(problem));
        }
        let mut answer = Response::from_parts(head, Content::Answer(body));
        let map = answer.headers_mut();
        if let Some(outcome) = outcome {
            map.insert(OUTCOME_FIELD, HeaderValue::from_static(outcome.name()));
        }
        map.insert(fields::SERVED_BY, HeaderValue::from(self.handle.node().0));
        if let Some(term) = term {
            map.insert(fields::TERM, HeaderValue::from(term.0));
        }
        Attempt::Served(Box::new(answer))
    }

    fn fenced(&self, job: &Job, term: Term) -> Attempt {
        if let Some(target) = self.targets.get(job.route) {
            tracing::warn!(resource = ?target.resource, %term, "the backend refused the term of a request");
            self.metrics.fence_refusals.get_or_create(&target.label).inc();
        }
        self.board.refused(job.route, term);
        Attempt::NotStarted(NotStarted::Fenced)
    }
}

fn no_connection(error: CheckoutError) -> Attempt {
    match error {
        CheckoutError::Connect(error) => Attempt::Failed(unavailable(&error.to_string())),
        CheckoutError::Exhausted => Attempt::Failed(
            Problem::new(Kind::Overloaded, error.to_string()).retry_after(limits::RETRY_AFTER),
        ),
    }
}

fn unavailable(detail: &str) -> Problem {
    Problem::new(Kind::BackendUnavailable, detail).retry_after(limits::RETRY_AFTER)
}

/// What a failed exchange means.
fn failed(error: &SendError, job: &Job, permit: &Option<Permit>) -> Attempt {
    if let Some(fault) = job.keep.fault() {
        return Attempt::Failed(content_problem(fault, error.broken.written > 0));
    }
    let holds = permit.as_ref().is_none_or(Permit::holds);
    let fate = passage::fate(error.broken, job.class == Class::Write, holds);
    let Some(kind) = told(fate) else { return Attempt::NotStarted(NotStarted::GateClosed) };
    let problem = match fate {
        Fate::NotSent => unavailable(&error.cause),
        Fate::Deposed => {
            Problem::new(kind, format!("leadership was lost with it in flight: {}", error.cause))
        }
        _ => Problem::new(kind, &error.cause),
    };
    Attempt::Failed(job.class.settle(problem))
}

/// The problem that tells a client of this fate, and with it the outcome; none where another attempt
/// may be made.
pub const fn told(fate: Fate) -> Option<Kind> {
    match fate {
        Fate::NotStarted => None,
        Fate::NotSent => Some(Kind::BackendUnavailable),
        Fate::TimedOut => Some(Kind::BackendTimeout),
        Fate::Deposed => Some(Kind::OutcomeUnknown),
        Fate::CutOff => Some(Kind::BackendBadResponse),
    }
}
