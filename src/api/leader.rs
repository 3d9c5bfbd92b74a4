//! Who leads, and handing leadership over.

use std::pin::pin;
use std::sync::OnceLock;

use ::time::OffsetDateTime;
use ::time::format_description::well_known::Rfc3339;
use bytes::Bytes;
use futures_util::future::{Either, pending, select};
use http::header::IF_MATCH;
use http::{Request, Response, StatusCode, Uri};
use tokio::time::timeout_at;

use crate::api::answers::{LeaderAnswer, ResignAnswer, ResignRequest, ResourceStatus};
use crate::api::fields::{bad_request, consistency_word, json, query, quoted_number, single};
use crate::api::forward::{Attempt, Effect, Hold, Miss, at_leader, refused_write, unknown};
use crate::api::{Caller, Inner};
use crate::clock;
use crate::driver::handle::{Refused, Transferred};
use crate::fencing::leadership::Leadership;
use crate::fencing::mode::Consistency;
use crate::ids::{NodeId, Term};
use crate::problem::{Kind, Problem};
use crate::raft::effect::TransferRefusal;
use crate::time::{Duration, Instant};

/// `GET /leader`. As asked: from what this node knows (`stale`, the default), only under a valid
/// lease, or confirmed with a quorum, as is what asks for the lease where lease reads are off.
pub(super) async fn show(context: &Inner, uri: &Uri) -> Result<Response<Bytes>, Problem> {
    let wanted = query(uri, "consistency")?.map(|word| consistency_word(&word)).transpose()?;
    let wanted = wanted.map(|wanted| wanted.served(context.lease_reads));
    let confirmed = match wanted {
        Some(Consistency::Linearizable) => Some(confirm(context).await?),
        _ => None,
    };
    let (seen, now) = (context.handle.leadership(), clock::now());
    if wanted == Some(Consistency::Lease) && seen.token_at(now).is_none() {
        let detail = "this node holds no valid lease; ask the leader, or for linearizable";
        return Err(Problem::new(Kind::ReadNotLinearizable, detail).outcome(None));
    }
    // What was confirmed is a term; by now this node may know of a later one, never of an earlier.
    let leader = seen.leader.filter(|_| confirmed.is_none_or(|term| seen.term >= term));
    let leader = leader.ok_or_else(|| no_leader(context))?;
    Ok(json(StatusCode::OK, &answer(context, &seen, leader, now)))
}

async fn confirm(context: &Inner) -> Result<Term, Problem> {
    let hold = Hold::new(context, Caller::Client, Effect::Read);
    match timeout_at(hold.until(), context.handle.read()).await {
        Ok(Ok(point)) => Ok(point.term),
        _ => Err(hold.no_leader()),
    }
}

fn no_leader(context: &Inner) -> Problem {
    Hold::new(context, Caller::Client, Effect::Read).no_leader()
}

fn answer(context: &Inner, seen: &Leadership, leader: NodeId, now: Instant) -> LeaderAnswer {
    // Only a token that may be stamped now is authority: an old leader in a minority has none.
    let authoritative = seen.token_at(now).is_some();
    let remaining = seen.lease_until.filter(|_| authoritative).map(|until| until.since(now));
    LeaderAnswer {
        node_id: leader,
        address: context.handle.with_machine(|machine| machine.member(leader).map(|m| m.proxy.clone())),
        term: seen.term,
        lease_expires_at: remaining.and_then(on_the_wall),
        lease_remaining_ms: remaining.map(millis),
        authoritative,
        resources: resources(context),
    }
}

/// The wall-clock time in `remaining`, for people.
fn on_the_wall(remaining: Duration) -> Option<String> {
    let end = OffsetDateTime::from(clock::wall()).checked_add(::time::Duration::try_from(remaining).ok()?)?;
    end.replace_millisecond(end.millisecond()).ok()?.format(&Rfc3339).ok()
}

/// Whole milliseconds, rounded down: a lease is never made longer.
pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The routes; a fence that this node has not seen itself is taken from the log.
pub(super) fn resources(context: &Inner) -> Vec<ResourceStatus> {
    let mut list = (context.resources)();
    context.handle.with_machine(|machine| {
        for resource in &mut list {
            let logged = machine.fence(&resource.name).map(|fence| fence.term);
            resource.fenced_term = resource.fenced_term.max(logged);
        }
    });
    list
}

/// `POST /leader/resign`.
pub(super) async fn resign(
    context: &Inner,
    caller: Caller,
    request: &Request<Bytes>,
) -> Result<Response<Bytes>, Problem> {
    let wish = read_wish(request.body())?;
    let if_match = single(request.headers(), &IF_MATCH)?;
    let hold = Hold::new(context, caller, Effect::Write);
    at_leader(&hold, request, || resign_here(context, &wish, if_match)).await
}

fn read_wish(body: &Bytes) -> Result<ResignRequest, Problem> {
    if body.trim_ascii().is_empty() {
        return Ok(ResignRequest::default());
    }
    let mend = "send {\"to\": 2, \"reason\": \"…\"}, both optional";
    serde_json::from_slice(body).map_err(|e| bad_request(format!("{e}; {mend}")))
}

async fn resign_here(
    context: &Inner,
    wish: &ResignRequest,
    if_match: Option<&str>,
) -> Result<Attempt<Response<Bytes>>, Problem> {
    let seen = context.handle.leadership();
    check_term(if_match, seen.term)?;
    let to = wish.to.map(|to| to.0);
    tracing::info!(term = %seen.term, to, reason = wish.reason, "asked to hand leadership over");
    let decided_in = if_match.and_then(quoted_number).map(Term);
    let (outcome, pause) = transfer(context, decided_in, wish.to).await;
    match outcome {
        Ok(Transferred { from_term, to, term }) => {
            let answer = ResignAnswer { from_term, to, term, pause_ms: millis(pause) };
            Ok(Attempt::Done(json(StatusCode::OK, &answer)))
        }
        Err(Refused::NotLeader { .. }) => Ok(Attempt::Missed(Miss::NotLeading)),
        Err(Refused::Transfer(why)) => Err(not_transferred(why)),
        Err(refused) => Err(refused_write(&refused)),
    }
}

/// `If-Match: "<term>"` guards a script against resigning another leader than it meant.
fn check_term(if_match: Option<&str>, term: Term) -> Result<(), Problem> {
    match if_match {
        None | Some("*") => Ok(()),
        Some(tag) if quoted_number(tag) == Some(term.0) => Ok(()),
        Some(tag) => {
            let detail = format!("If-Match names {tag}, and the term is {term}; look at /leader again");
            Err(Problem::new(Kind::PreconditionFailed, detail))
        }
    }
}

/// Transfers, and measures how long nobody was allowed to write: from the moment this node gave up
/// its token until the new leader was known.
async fn transfer(
    context: &Inner,
    decided_in: Option<Term>,
    to: Option<NodeId>,
) -> (Result<Transferred, Refused>, Duration) {
    let closed = OnceLock::new();
    let mut watch = context.handle.watch();
    let note = async {
        if watch.wait_for(|seen| seen.fence.is_none()).await.is_ok() {
            closed.get_or_init(clock::now);
        }
        pending::<()>().await;
    };
    let (transfer, note) = (pin!(context.handle.transfer(decided_in, to)), pin!(note));
    let outcome = match select(transfer, note).await {
        Either::Left((outcome, _)) => outcome,
        Either::Right(((), transfer)) => transfer.await,
    };
    let now = clock::now();
    (outcome, now.since(*closed.get().unwrap_or(&now)))
}

fn not_transferred(why: TransferRefusal) -> Problem {
    let refused = |detail: &str| Problem::new(Kind::TransferRefused, detail);
    match why {
        TransferRefusal::NotAVoter => {
            refused("the wished leader is no voter of this cluster, or leads already")
        }
        TransferRefusal::NobodyCaughtUp => {
            refused("no follower is caught up and in contact; see /cluster/status")
        }
        TransferRefusal::InProgress => refused("another transfer is under way; wait for its end"),
        // The target may still win with the request it has.
        TransferRefusal::TimedOut => unknown("the target did not take over in time".into()),
    }
}
