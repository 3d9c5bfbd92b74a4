//! The way of a request through one node, as one readable list of phases:
//!
//! 1. validate, strip hop-by-hop fields, drop our namespace, notice loops;
//! 2. route, classify;
//! 3. wait for a leader, bounded;
//! 4. keep small content, so that the request can be sent again;
//! 5. serve here through the gate, or forward to the leader;
//! 6. after an attempt that certainly had no effect: back to 3, until the hold time is over;
//! 7. answer: the backend's, or a problem with one truthful outcome.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONNECTION, HeaderName, HeaderValue};
use http::{Request, Response, Version};
use hyper::body::{Body, Incoming};
use tokio::time::Instant as Deadline;

use crate::clock;
use crate::driver::handle::Handle;
use crate::fencing::mode::Consistency;
use crate::ids::NodeId;
use crate::metrics::{Metrics, RequestLabel, RouteLabel};
use crate::problem::{Kind, Outcome, Problem};
use crate::proxy::answer::Stopwatch;
use crate::proxy::body::{Content, Keep, Source, Upload};
use crate::proxy::fields;
use crate::proxy::forward::Forwarder;
use crate::proxy::hold::{Hold, Pause, Way};
use crate::proxy::job::{Attempt, Class, Job, NotStarted, RequestIds, content_problem};
use crate::proxy::lead::Leader;
use crate::proxy::limits;
use crate::proxy::route::{self, Route};
use crate::proxy::validate::{self, CleanRequest};

/// Where the client's address goes, for the backend's log.
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Everything that one lane's requests share.
#[derive(Debug)]
pub struct Lane {
    /// The cluster's name.
    pub cluster: String,
    /// This node.
    pub node: NodeId,
    /// The loop's door.
    pub handle: Handle,
    /// All routes.
    pub routes: Arc<Vec<Route>>,
    /// Whether a valid lease may serve reads.
    pub lease_reads: bool,
    /// The leader's side.
    pub leader: Leader,
    /// The way to other nodes.
    pub forwarder: Forwarder,
    /// Where requests wait.
    pub hold: Hold,
    /// Names requests.
    pub ids: Arc<RequestIds>,
    /// Where everything is counted.
    pub metrics: Metrics,
}

impl Lane {
    /// Serves one request of a client.
    pub async fn serve(&self, request: Request<Incoming>, client: SocketAddr) -> Response<Content> {
        let stopwatch = Stopwatch { begun: clock::now(), seconds: self.metrics.request_seconds.clone() };
        let (version, request_id) = (request.version(), self.ids.draw());
        let mut answer = match self.accept(request, client, &request_id) {
            Ok(job) => self.serve_job(job, version).await,
            Err(problem) => {
                self.metrics.refuse("request", problem.kind.name());
                self.answer(problem, &request_id, version)
            }
        };
        if let Content::Answer(body) = answer.body_mut() {
            body.timed_by(stopwatch);
            if version == Version::HTTP_2 {
                body.watched();
            }
        }
        answer
    }

    async fn serve_job(&self, job: Job, version: Version) -> Response<Content> {
        let (class, request_id) = (job.class, job.request_id.clone());
        let route = self.routes.get(job.route).map_or_else(String::new, |r| r.name.clone());
        let outcome = self.find_and_serve(job).await;
        let label = RequestLabel { route, class: class.name(), outcome: outcome_name(&outcome, class) };
        self.metrics.requests.get_or_create(&label).inc();
        outcome.unwrap_or_else(|problem| self.answer(class.settle(problem), &request_id, version))
    }

    /// Phases 1 and 2.
    fn accept(
        &self,
        request: Request<Incoming>,
        client: SocketAddr,
        request_id: &str,
    ) -> Result<Job, Problem> {
        let (parts, body) = request.into_parts();
        let version = parts.version;
        let mut clean = validate::validate(parts, body.is_end_stream())?;
        fields::add_via(&mut clean.fields, &self.cluster, self.node)?;
        if let Ok(value) = HeaderValue::try_from(client.ip().to_string()) {
            clean.fields.append(FORWARDED_FOR, value);
        }
        let (place, route) = route::select(&self.routes, clean.authority.host(), &clean.path)
            .ok_or_else(|| Problem::new(Kind::NotFound, "no route matches the host and the path"))?;
        let class = Class::of(&clean.method, clean.said.consistency.unwrap_or(route.reads), self.lease_reads);
        Ok(job(place, class, clean, Source::client(body, version), request_id))
    }

    /// Phases 3 to 6.
    async fn find_and_serve(&self, mut job: Job) -> Result<Response<Content>, Problem> {
        let Some(route) = self.routes.get(job.route) else {
            return Err(Problem::new(Kind::NotFound, "no route for this request"));
        };
        let label = RouteLabel { route: route.name.clone() };
        let deadline = Deadline::now() + route.hold_timeout;
        let (mut pause, mut last) = (Pause::default(), None);
        loop {
            let way = self.way(&job, &label, deadline).await?;
            let Some(way) = way else { return Err(self.not_found(last)) };
            keep_small(&mut job).await?;
            let why = match self.attempt(way, &job).await {
                Attempt::Served(answer) => return Ok(*answer),
                Attempt::Failed(problem) => return Err(problem),
                Attempt::NotStarted(why) => why,
            };
            if !job.keep.can_be_lent() || !self.hold.pause(&mut pause, deadline).await {
                return Err(why.problem());
            }
            self.metrics.redispatched.get_or_create(&label).inc();
            last = Some(why);
        }
    }

    /// A stale read is served wherever it arrives; everything else at the leader.
    async fn way(&self, job: &Job, label: &RouteLabel, deadline: Deadline) -> Result<Option<Way>, Problem> {
        if job.class == Class::Read(Consistency::Stale) {
            return Ok(Some(Way::Local));
        }
        self.hold.find(job.route, label, deadline).await
    }

    async fn attempt(&self, way: Way, job: &Job) -> Attempt {
        match way {
            Way::Local => self.leader.attempt(job).await,
            Way::Remote(node) => self.forwarder.attempt(node, job).await,
        }
    }

    /// The hold time is over without a way.
    fn not_found(&self, last: Option<NotStarted>) -> Problem {
        if let Some(why) = last {
            return why.problem();
        }
        let held = self.handle.lease_covers(clock::now());
        match held {
            Some(_) => NotStarted::FenceNotRaised.problem(),
            None => NotStarted::GateClosed.problem(),
        }
    }

    /// Phase 7, for problems of this node's own clients.
    fn answer(&self, problem: Problem, request_id: &str, version: Version) -> Response<Content> {
        let closes = version != Version::HTTP_2 && distrusted(problem.kind);
        let mut answer = self.describe(problem, request_id);
        if closes {
            answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        answer
    }

    /// The answer to a head that did not come to its end in time.
    pub fn late_head(&self) -> Response<Bytes> {
        let detail = format!("the head did not arrive within {:?}", limits::HEAD_TIMEOUT);
        self.metrics.refuse("request", Kind::ClientTimeout.name());
        self.tell(Problem::new(Kind::ClientTimeout, detail), &self.ids.draw())
    }

    /// A problem as this node tells it.
    pub fn describe(&self, problem: Problem, request_id: &str) -> Response<Content> {
        self.tell(problem, request_id).map(Content::whole)
    }

    fn tell(&self, problem: Problem, request_id: &str) -> Response<Bytes> {
        let term = self.handle.leadership().term;
        let mut answer = problem.seen_by(self.node, term).request_id(request_id).into_response();
        let map = answer.headers_mut();
        map.insert(fields::SERVED_BY, HeaderValue::from(self.node.0));
        map.insert(fields::TERM, HeaderValue::from(term.0));
        answer
    }
}

/// After such a request nobody can be sure where the next one begins.
const fn distrusted(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::BadRequest
            | Kind::HeadersTooLarge
            | Kind::UriTooLong
            | Kind::ContentTooLarge
            | Kind::ClientTimeout
            | Kind::LoopDetected
    )
}

fn job(place: usize, class: Class, clean: CleanRequest, body: Source, request_id: &str) -> Job {
    let CleanRequest { method, target, authority, fields, content, said, .. } = clean;
    let keep = match content {
        validate::Content::Empty => Keep::Empty,
        validate::Content::Sized(n) => Keep::Stream(Upload::new(body, Some(n))),
        validate::Content::Chunked => Keep::Stream(Upload::new(body, None)),
    };
    Job {
        route: place,
        class,
        request_id: request_id.to_owned(),
        method,
        target,
        authority,
        fields,
        keep,
        client_term: said.term,
    }
}

/// Small content of known length is kept in memory, once somebody is there to take it.
pub(super) async fn keep_small(job: &mut Job) -> Result<(), Problem> {
    let Keep::Stream(upload) = &job.keep else { return Ok(()) };
    if upload.is_released() || upload.length().is_none_or(|n| n > limits::REPLAY_BYTES) {
        return Ok(());
    }
    let whole = upload.clone().collect().await;
    job.keep = Keep::Whole(whole.map_err(|fault| content_problem(fault, false))?);
    Ok(())
}

/// What became of a request, in the words of the metrics. Problems of the leader and of a verifier come
/// as answers that say it. A write that the backend answered, in whatever way, counts as applied: its
/// outcome is known to the client.
fn outcome_name(outcome: &Result<Response<Content>, Problem>, class: Class) -> &'static str {
    let said = match outcome {
        Ok(answer) => Outcome::of(answer.headers()),
        Err(problem) => Some(problem.outcome.unwrap_or(Outcome::NotApplied)),
    };
    match (said, class) {
        (Some(said), _) => said.name(),
        (None, Class::Read(_)) => "served",
        (None, Class::Write) => Outcome::Applied.name(),
    }
}
