//! The registry over HTTP.
//!
//! A write is proposed at the leader and answered once it is applied. A read is one look at the
//! applied state, and differs by what is done around it:
//!
//! - `stale`: nothing.
//! - `linearizable`: before it, a read position is confirmed and applied here; works on any node.
//! - `lease`: after it, the lease must still hold (M22: look first, then ask). At a follower the
//!   request goes to the leader. Without a valid lease the leader confirms a position instead: the
//!   same promise, one round slower. With `lease_reads = false` every such read is confirmed like a
//!   linearizable one.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Request, Response, StatusCode};
use tokio::time::{timeout, timeout_at};

use crate::api::answers::{KeyInfo, KeyList};
use crate::api::fields::{self, Place, bad_request, json, query};
use crate::api::forward::{Attempt, Effect, Hold, Miss, refused_read, refused_write, unknown};
use crate::api::refusal::Refusal;
use crate::api::{Caller, Inner};
use crate::driver::handle::{Applied, Refused};
use crate::fencing::mode::Consistency;
use crate::ids::{LogIndex, Term};
use crate::problem::{Kind, Problem};
use crate::registry::command::{Answer, Condition, Op};
use crate::registry::limits::{self, VALUE_BYTES};
use crate::registry::machine::{Machine, Value};

/// Keys in one list unless asked for fewer or more.
const LIST_DEFAULT: usize = 1_000;
/// Keys in one list at most: about a megabyte of names.
const LIST_LIMIT: usize = 10_000;

/// `PUT /registry/keys/{key}`.
pub(super) async fn put(
    context: &Inner,
    caller: Caller,
    key: String,
    request: &Request<Bytes>,
) -> Result<Response<Bytes>, Refusal> {
    limits::valid_key(&key).map_err(bad_request)?;
    if request.body().len() > VALUE_BYTES {
        return Err(Problem::new(Kind::ContentTooLarge, "a value has at most 1 MiB").into());
    }
    let condition = fields::condition(request.headers())?;
    let op = Op::Put { key: key.clone(), value: request.body().clone(), condition };
    let applied = match write(context, caller, request, op).await? {
        Written::Here(applied) => applied,
        Written::Elsewhere(response) => return Ok(response),
    };
    let place = accepted(context, &key, &applied)?;
    let made = |machine: &Machine| machine.key(&key).is_some_and(|value| value.created == place.index);
    let created = context.handle.with_machine(made);
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = if created { StatusCode::CREATED } else { StatusCode::NO_CONTENT };
    Place { version: Some(place.index), ..place }.mark(response.headers_mut());
    Ok(response)
}

/// `DELETE /registry/keys/{key}`.
pub(super) async fn delete(
    context: &Inner,
    caller: Caller,
    key: String,
    request: &Request<Bytes>,
) -> Result<Response<Bytes>, Refusal> {
    limits::valid_key(&key).map_err(bad_request)?;
    let op = Op::Delete { key: key.clone(), condition: fields::condition(request.headers())? };
    let applied = match write(context, caller, request, op).await? {
        Written::Here(applied) => applied,
        Written::Elsewhere(response) => return Ok(response),
    };
    let place = accepted(context, &key, &applied)?;
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = StatusCode::NO_CONTENT;
    place.mark(response.headers_mut());
    Ok(response)
}

/// Where a write was carried out.
enum Written {
    Here(Applied),
    Elsewhere(Response<Bytes>),
}

async fn write(
    context: &Inner,
    caller: Caller,
    request: &Request<Bytes>,
    op: Op,
) -> Result<Written, Problem> {
    let hold = Hold::new(context, caller, Effect::Write);
    loop {
        let leader = hold.leader().await?;
        if leader != context.handle.node() {
            match hold.pass_on(leader, request).await? {
                Attempt::Done(response) => return Ok(Written::Elsewhere(response)),
                Attempt::Missed(miss) => hold.after(leader, miss).await?,
            }
            continue;
        }
        let decided_in = context.handle.leadership().term;
        match timeout(context.limits.answer, context.handle.propose(decided_in, op.clone())).await {
            Ok(Ok(applied)) => return Ok(Written::Here(applied)),
            // Only this refusal says that nothing is in the log and that another attempt may work.
            Ok(Err(Refused::NotLeader { .. })) => hold.after(leader, Miss::NotLeading).await?,
            Ok(Err(refused)) => return Err(refused_write(&refused)),
            Err(_) => return Err(unknown("the write was not committed in time and still may be".into())),
        }
    }
}

/// Where the write was done, or the problem that the state machine's answer is.
fn accepted(context: &Inner, key: &str, applied: &Applied) -> Result<Place, Refusal> {
    let place = Place { index: applied.index, term: applied.term, version: None };
    let (problem, version) = match applied.answer {
        Answer::Done { .. } => return Ok(place),
        Answer::ConditionFailed { current } => (precondition(current), current),
        Answer::NotFound => (not_found(), None),
        Answer::LimitExceeded(limit) => {
            (Problem::new(Kind::LimitExceeded, limit), version_at(context, key, place.index))
        }
        Answer::StaleTerm => {
            let detail = "leadership changed before the write was appended; send it again";
            (Problem::new(Kind::StaleTerm, detail), version_at(context, key, place.index))
        }
        Answer::Undecodable => {
            let detail = "the nodes run versions that don't understand each other";
            (Problem::new(Kind::LimitExceeded, detail), version_at(context, key, place.index))
        }
    };
    Err(Refusal::at(Place { version, ..place }, problem))
}

/// The version that the key had at `index`, unless it was written again since.
fn version_at(context: &Inner, key: &str, index: LogIndex) -> Option<LogIndex> {
    let version = context.handle.with_machine(|machine| machine.key(key).map(|value| value.version));
    version.filter(|version| *version <= index)
}

/// The condition does not hold: the key has another version, or does not exist.
fn precondition(current: Option<LogIndex>) -> Problem {
    let detail = match current {
        Some(version) => format!("the key has version {version}"),
        None => "the key does not exist".into(),
    };
    Problem::new(Kind::PreconditionFailed, detail)
}

fn not_found() -> Problem {
    Problem::new(Kind::NotFound, "the key does not exist")
}

/// `GET /registry/keys/{key}`.
pub(super) async fn get(
    context: &Inner,
    caller: Caller,
    key: &str,
    request: &Request<Bytes>,
) -> Result<Response<Bytes>, Refusal> {
    let condition = fields::condition(request.headers())?;
    let look = |machine: &Machine| (machine.key(key).cloned(), machine.applied().index);
    let ((value, index), term) = match read(context, caller, request, look).await? {
        Read::Here(found, term) => (found, term),
        Read::Elsewhere(response) => return Ok(response),
    };
    let place = Place { index, term, version: value.as_ref().map(|value| value.version) };
    let mut response =
        shown(value, condition).map_err(|problem| Refusal::at(place, problem.outcome(None)))?;
    place.mark(response.headers_mut());
    Ok(response)
}

/// The answer for a value under the conditions of RFC 9110, section 13.2.2.
fn shown(value: Option<Value>, condition: Condition) -> Result<Response<Bytes>, Problem> {
    let Some(value) = value else {
        return Err(match condition {
            Condition::Exists | Condition::VersionIs(_) => precondition(None),
            Condition::None | Condition::Absent | Condition::VersionIsNot(_) => not_found(),
        });
    };
    let unchanged = match condition {
        Condition::None | Condition::Exists => false,
        Condition::Absent => true,
        Condition::VersionIsNot(version) => version == value.version,
        Condition::VersionIs(version) if version == value.version => false,
        Condition::VersionIs(_) => return Err(precondition(Some(value.version))),
    };
    let mut response = Response::new(if unchanged { Bytes::new() } else { value.value });
    if unchanged {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    } else {
        let media_type = HeaderValue::from_static("application/octet-stream");
        response.headers_mut().insert(CONTENT_TYPE, media_type);
    }
    Ok(response)
}

/// `GET /registry/keys?prefix=&after=&limit=`.
pub(super) async fn list(
    context: &Inner,
    caller: Caller,
    request: &Request<Bytes>,
) -> Result<Response<Bytes>, Refusal> {
    let prefix = query(request.uri(), "prefix")?.unwrap_or_default();
    let after = query(request.uri(), "after")?;
    let limit = match query(request.uri(), "limit")? {
        None => LIST_DEFAULT,
        Some(text) => text.parse().map_err(|_| bad_request("limit must be a number"))?,
    };
    if !(1..=LIST_LIMIT).contains(&limit) {
        let detail = format!("limit must be 1 to {LIST_LIMIT}; use after for the next keys");
        return Err(bad_request(detail).into());
    }
    let look = |machine: &Machine| collect(machine, &prefix, after.as_deref(), limit);
    let (list, term) = match read(context, caller, request, look).await? {
        Read::Here(list, term) => (list, term),
        Read::Elsewhere(response) => return Ok(response),
    };
    let mut response = json(StatusCode::OK, &list);
    Place { index: list.index, term, version: None }.mark(response.headers_mut());
    Ok(response)
}

fn collect(machine: &Machine, prefix: &str, after: Option<&str>, limit: usize) -> KeyList {
    let info = |(key, value): (&str, &Value)| KeyInfo {
        key: key.to_owned(),
        version: value.version,
        created: value.created,
        term: value.term,
        size: value.value.len(),
    };
    // One more than asked for tells whether there are more.
    let mut keys: Vec<KeyInfo> = match after {
        Some(after) => machine.list_after(prefix, after, limit + 1).map(info).collect(),
        None => machine.list(prefix, limit + 1).map(info).collect(),
    };
    let more = keys.len() > limit;
    keys.truncate(limit);
    KeyList { keys, more, index: machine.applied().index }
}

/// Where a read was served; here, with the term that vouches for it.
enum Read<T> {
    Here(T, Term),
    Elsewhere(Response<Bytes>),
}

async fn read<T>(
    context: &Inner,
    caller: Caller,
    request: &Request<Bytes>,
    look: impl Fn(&Machine) -> T,
) -> Result<Read<T>, Refusal> {
    let consistency = fields::consistency(request.headers())?.served(context.lease_reads);
    let min_index = fields::min_index(request.headers())?;
    let hold = Hold::new(context, caller, Effect::Read);
    match consistency {
        Consistency::Stale => {
            reach(context, min_index).await?;
            Ok(Read::Here(context.handle.with_machine(look), context.handle.leadership().term))
        }
        Consistency::Linearizable => {
            let term = confirm(context, &hold).await?;
            reach(context, min_index).await?;
            Ok(Read::Here(context.handle.with_machine(look), term))
        }
        Consistency::Lease => lease_read(context, &hold, request, min_index, look).await,
    }
}

async fn lease_read<T>(
    context: &Inner,
    hold: &Hold<'_>,
    request: &Request<Bytes>,
    min_index: Option<LogIndex>,
    look: impl Fn(&Machine) -> T,
) -> Result<Read<T>, Refusal> {
    loop {
        let leader = hold.leader().await?;
        if leader == context.handle.node() {
            reach(context, min_index).await?;
            if let Some((found, term)) = context.handle.lease_read(&look) {
                return Ok(Read::Here(found, term));
            }
            let term = confirm(context, hold).await?;
            return Ok(Read::Here(context.handle.with_machine(&look), term));
        }
        match hold.pass_on(leader, request).await? {
            Attempt::Done(response) => return Ok(Read::Elsewhere(response)),
            Attempt::Missed(miss) => hold.after(leader, miss).await?,
        }
    }
}

/// A confirmed read position that is applied here: the term it was confirmed in.
pub(super) async fn confirm(context: &Inner, hold: &Hold<'_>) -> Result<Term, Problem> {
    loop {
        match timeout_at(hold.until(), context.handle.read()).await {
            Ok(Ok(point)) => return Ok(point.term),
            Ok(Err(Refused::NotLeader { .. })) => {
                let leader = hold.leader().await?;
                hold.after(leader, Miss::NotLeading).await?;
            }
            // A read has no effect, so leadership that was lost meanwhile is only another attempt.
            Ok(Err(Refused::Unknown)) => {
                hold.after(context.handle.node(), Miss::NotLeading).await?;
            }
            Ok(Err(refused)) => return Err(refused_read(&refused)),
            Err(_) => return Err(hold.no_leader()),
        }
    }
}

/// Waits until this node has applied `index`, within limits.
async fn reach(context: &Inner, index: Option<LogIndex>) -> Result<(), Refusal> {
    let Some(index) = index else { return Ok(()) };
    let mut watch = context.handle.watch();
    let reached = || context.handle.with_machine(|machine| machine.applied().index >= index);
    match timeout(context.limits.min_index, watch.wait_for(|_| reached())).await {
        Ok(Ok(_)) => Ok(()),
        _ => {
            let seen = context.handle.leadership();
            let applied = seen.last_applied;
            let detail = format!("index {index} is not applied here, {applied} is; ask the leader, or later");
            let problem = Problem::new(Kind::ReadNotLinearizable, detail).outcome(None);
            let place = Place { index: applied, term: seen.term, version: None };
            Err(Refusal::at(place, problem.retry_after(context.limits.min_index)))
        }
    }
}
