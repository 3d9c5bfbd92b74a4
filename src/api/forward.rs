//! Waits for a leader, bounded, and passes requests on to it, once.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, IF_MATCH, IF_NONE_MATCH};
use http::{Request, Response};
use tokio::time::{Instant as Deadline, sleep_until, timeout, timeout_at};

use crate::api::fields::{CONSISTENCY, IDEMPOTENCY_KEY, MIN_INDEX, NOT_LEADER, REQUEST_ID};
use crate::api::{Caller, Inner};
use crate::driver::handle::Refused;
use crate::fencing::leadership::Leadership;
use crate::ids::NodeId;
use crate::problem::{Kind, Problem};
use crate::raft::effect::ReconfigureRefusal;
use crate::time::Duration;

/// Between two attempts at the same leader.
const PAUSE: Duration = Duration::from_millis(50);
/// When a client should try again after the hold time went by.
pub(super) const RETRY_AFTER: Duration = Duration::from_secs(1);

/// How an attempt to reach the leader ended.
pub(super) enum Attempt<T> {
    /// It is done.
    Done(T),
    /// Certainly nothing happened.
    Missed(Miss),
}

/// Why the node that is said to lead did nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Miss {
    /// It does not lead, or is handing leadership over.
    NotLeading,
    /// Nothing reached it.
    NotReached,
}

/// What kind of request this is, for the wording of its failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    /// It may change something.
    Write,
    /// It only reads.
    Read,
}

/// One request's wait for a leader.
pub(super) struct Hold<'c> {
    context: &'c Inner,
    caller: Caller,
    until: Deadline,
    effect: Effect,
}

impl<'c> Hold<'c> {
    pub(super) fn new(context: &'c Inner, caller: Caller, effect: Effect) -> Self {
        Self { context, caller, until: Deadline::now() + context.limits.hold, effect }
    }

    /// Who leads: waits until somebody does. What a node passed on does not wait here: the node that
    /// took it from its client does.
    pub(super) async fn leader(&self) -> Result<NodeId, Problem> {
        let mut watch = self.context.handle.watch();
        let known = |seen: &Arc<Leadership>| seen.leader.is_some();
        if self.caller != Caller::Client && !known(&watch.borrow()) {
            return Err(self.no_leader());
        }
        let found = timeout_at(self.until, watch.wait_for(known)).await;
        let leader = found.ok().and_then(Result::ok).and_then(|seen| seen.leader);
        leader.ok_or_else(|| self.no_leader())
    }

    /// Waits a little, or until somebody else leads than `tried`, who missed it. Fails when the time is
    /// over. A leader that hands over still looks like the leader, and is tried again in case it stays.
    pub(super) async fn after(&self, tried: NodeId, miss: Miss) -> Result<(), Problem> {
        if self.caller != Caller::Client {
            return Err(self.no_leader());
        }
        let mut watch = self.context.handle.watch();
        let until = self.until.min(Deadline::now() + PAUSE);
        let changed = timeout_at(until, watch.wait_for(|seen| seen.leader != Some(tried))).await;
        if changed.is_ok_and(|seen| seen.is_err()) {
            // The loop has ended, and says nothing more.
            sleep_until(until).await;
        }
        match miss {
            _ if Deadline::now() < self.until => Ok(()),
            Miss::NotLeading => {
                let detail = format!("node {tried} leads no more, and no other leader is known; try again");
                Err(self.problem(Kind::NoLeader, detail))
            }
            Miss::NotReached => Err(self.unreachable(tried)),
        }
    }

    /// The remaining time.
    pub(super) fn until(&self) -> Deadline {
        self.until
    }

    pub(super) fn no_leader(&self) -> Problem {
        self.problem(Kind::NoLeader, "no leader is known here; try again, or another node".into())
    }

    fn unreachable(&self, leader: NodeId) -> Problem {
        let detail = format!("node {leader} is said to lead and could not be reached; try again");
        self.problem(Kind::LeaderUnreachable, detail)
    }

    fn problem(&self, kind: Kind, detail: String) -> Problem {
        let problem = Problem::new(kind, detail).retry_after(RETRY_AFTER);
        match self.effect {
            Effect::Write => problem,
            Effect::Read => problem.outcome(None),
        }
    }

    /// Sends the request to `leader` over the hop.
    pub(super) async fn pass_on(
        &self,
        leader: NodeId,
        request: &Request<Bytes>,
    ) -> Result<Attempt<Response<Bytes>>, Problem> {
        if self.caller != Caller::Client {
            return Ok(Attempt::Missed(Miss::NotLeading));
        }
        let sent = (self.context.remote)(leader, copy(request));
        match timeout(self.context.limits.answer, sent).await {
            Ok(Ok(response)) if response.headers().contains_key(NOT_LEADER) => {
                Ok(Attempt::Missed(Miss::NotLeading))
            }
            Ok(Ok(response)) => Ok(Attempt::Done(response)),
            Ok(Err(e)) if e.nothing_applied() || self.effect == Effect::Read => {
                Ok(Attempt::Missed(Miss::NotReached))
            }
            Ok(Err(e)) => Err(unknown(format!("node {leader} had the request: {e}"))),
            Err(_) if self.effect == Effect::Read => Err(self.unreachable(leader)),
            Err(_) => Err(unknown(format!("node {leader} had the request and did not answer in time"))),
        }
    }
}

/// Lets the leader answer: `here`, when this node leads, or else the node that does.
pub(super) async fn at_leader<F>(
    hold: &Hold<'_>,
    request: &Request<Bytes>,
    here: impl Fn() -> F,
) -> Result<Response<Bytes>, Problem>
where
    F: Future<Output = Result<Attempt<Response<Bytes>>, Problem>>,
{
    loop {
        let leader = hold.leader().await?;
        let attempt = if leader == hold.context.handle.node() {
            here().await?
        } else {
            hold.pass_on(leader, request).await?
        };
        match attempt {
            Attempt::Done(response) => return Ok(response),
            Attempt::Missed(miss) => hold.after(leader, miss).await?,
        }
    }
}

/// A write that may have happened.
pub(super) fn unknown(detail: String) -> Problem {
    Problem::new(Kind::OutcomeUnknown, format!("{detail}; read before you write again"))
}

/// A refusal of the loop, for a write. `NotLeader` is for the caller to handle.
pub(super) fn refused_write(refused: &Refused) -> Problem {
    match refused {
        Refused::Unknown => unknown(refused.to_string()),
        Refused::Busy | Refused::Closed => {
            Problem::new(Kind::Overloaded, refused.to_string()).retry_after(RETRY_AFTER)
        }
        Refused::NotLeader { .. } => {
            Problem::new(Kind::NoLeader, refused.to_string()).retry_after(RETRY_AFTER)
        }
        Refused::Reconfigure(why) => refused_change(why),
        Refused::Transfer(_) => Problem::new(Kind::TransferRefused, refused.to_string()),
    }
}

/// The membership stays as it is. What passes by itself is worth another attempt.
pub(super) fn refused_change(why: &ReconfigureRefusal) -> Problem {
    use ReconfigureRefusal::{InProgress, NotCaughtUp, NotInContact, NotReady};
    let problem = Problem::new(Kind::MembershipRefused, why.to_string());
    match why {
        InProgress | NotReady | NotCaughtUp { .. } | NotInContact(_) => problem.retry_after(RETRY_AFTER),
        _ => problem,
    }
}

/// A refusal of the loop, for a read.
pub(super) fn refused_read(refused: &Refused) -> Problem {
    let kind = match refused {
        Refused::Busy | Refused::Closed => Kind::Overloaded,
        _ => Kind::ReadNotLinearizable,
    };
    let detail = format!("the read position could not be confirmed: {refused}");
    Problem::new(kind, detail).outcome(None).retry_after(RETRY_AFTER)
}

/// The request as the leader shall see it: without the client's token and connection.
fn copy(request: &Request<Bytes>) -> Request<Bytes> {
    let mut copy = Request::new(request.body().clone());
    *copy.method_mut() = request.method().clone();
    let target = request.uri().path_and_query().cloned();
    *copy.uri_mut() = target.map_or_else(http::Uri::default, http::Uri::from);
    for name in [IF_MATCH, IF_NONE_MATCH, CONTENT_TYPE, CONSISTENCY, MIN_INDEX, REQUEST_ID, IDEMPOTENCY_KEY] {
        for value in request.headers().get_all(&name) {
            copy.headers_mut().append(name.clone(), value.clone());
        }
    }
    copy
}
