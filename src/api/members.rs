//! Who takes part: the list, and what may be asked to be different.
//!
//! What is asked is read here and made a [`Wish`]; `change` carries it out at the leader.

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use ring::digest::{Context as Digest, SHA256};
use tokio::time::timeout;

use crate::api::addresses::{is_name, port_of};
use crate::api::answers::members::{AddMember, MemberInfo, MemberList, PatchMember, Role};
use crate::api::change::{What, Wish, ask_leader, confirmed};
use crate::api::fields::{IDEMPOTENCY_KEY, bad_request, consistency_word, json, query, single};
use crate::api::forward::{Attempt, Effect, Hold, Miss, at_leader};
use crate::api::leader::millis;
use crate::api::{Caller, Inner};
use crate::clock;
use crate::fencing::mode::Consistency;
use crate::ids::NodeId;
use crate::problem::{Kind, Problem};
use crate::raft::effect::CAUGHT_UP;
use crate::raft::entry::Membership;
use crate::raft::view::View;
use crate::registry::command::{Goal, Member, RequestName, Standing};
use crate::registry::limits::REQUEST_KEY_BYTES;
use crate::registry::machine::Machine;

/// `GET /cluster/members`: what the leader says, or what this node knows (`?consistency=stale`).
pub(super) async fn list(
    context: &Inner,
    caller: Caller,
    request: &Request<Bytes>,
) -> Result<Response<Bytes>, Problem> {
    let wanted = query(request.uri(), "consistency")?.map(|word| consistency_word(&word)).transpose()?;
    if wanted == Some(Consistency::Stale) {
        return Ok(json(StatusCode::OK, &seen_here(context).await?));
    }
    let hold = Hold::new(context, caller, Effect::Read);
    let here = || async {
        match confirmed(context, hold.until()).await.map_err(|problem| problem.outcome(None))? {
            Some(_) => Ok(Attempt::Done(json(StatusCode::OK, &seen_here(context).await?))),
            None => Ok(Attempt::Missed(Miss::NotLeading)),
        }
    };
    at_leader(&hold, request, here).await
}

/// `POST /cluster/members`.
pub(super) async fn add(
    context: &Inner,
    caller: Caller,
    request: &Request<Bytes>,
) -> Result<Response<Bytes>, Problem> {
    let AddMember { id, peer, proxy, hop, api, zone, incarnation, role } =
        read(request, "{\"id\": 4, \"peer\": …}")?;
    let member =
        Member { id: a_node(id)?, hop: hop.unwrap_or_else(|| proxy.clone()), peer, proxy, api, zone };
    check_addresses(
        [&member.peer, &member.hop, &member.proxy, &member.api].map(Some),
        member.zone.as_deref(),
    )?;
    let incarnation = incarnation.as_deref().map(incarnation_of).transpose()?;
    let standing = if role == Some(Role::Voter) { Standing::Voter } else { Standing::Member };
    let goal = Goal { here: Some((id, standing)), gone: None };
    change(context, caller, request, id, goal, What::Add(member, incarnation)).await
}

/// `PATCH /cluster/members/{id}`.
pub(super) async fn patch(
    context: &Inner,
    caller: Caller,
    id: &str,
    request: &Request<Bytes>,
) -> Result<Response<Bytes>, Problem> {
    let id = named(id)?;
    let patch: PatchMember = read(request, "{\"role\": \"voter\"}, or addresses")?;
    let zone = patch.zone.as_deref().filter(|zone| !zone.is_empty());
    check_addresses([&patch.peer, &patch.hop, &patch.proxy, &patch.api].map(Option::as_ref), zone)?;
    if patch == PatchMember::default() {
        return Err(bad_request(
            "say what is to be different: role, replaces, peer, hop, proxy, api or zone",
        ));
    }
    let standing = match (patch.role, patch.replaces) {
        (Some(Role::Learner), Some(_)) => {
            return Err(bad_request("who replaces a member gets a vote; leave out role, or replaces"));
        }
        (_, Some(old)) if old == id => return Err(bad_request("a member can't replace itself")),
        (Some(Role::Learner), None) => Standing::Learner,
        (None, None) => Standing::Member,
        _ => Standing::Voter,
    };
    let goal = Goal { here: Some((id, standing)), gone: patch.replaces };
    change(context, caller, request, id, goal, What::Patch(patch)).await
}

/// `DELETE /cluster/members/{id}`.
pub(super) async fn remove(
    context: &Inner,
    caller: Caller,
    id: &str,
    request: &Request<Bytes>,
) -> Result<Response<Bytes>, Problem> {
    let id = named(id)?;
    let goal = Goal { here: None, gone: Some(id) };
    change(context, caller, request, id, goal, What::Remove).await
}

async fn change(
    context: &Inner,
    caller: Caller,
    request: &Request<Bytes>,
    node: NodeId,
    goal: Goal,
    what: What,
) -> Result<Response<Bytes>, Problem> {
    let wish = Wish { request: request_name(request)?, node, goal, what };
    let hold = Hold::new(context, caller, Effect::Write);
    ask_leader(context, &hold, request, &wish).await
}

/// The request's `Idempotency-Key`, and what it asks for.
fn request_name(request: &Request<Bytes>) -> Result<Option<RequestName>, Problem> {
    let Some(key) = single(request.headers(), &IDEMPOTENCY_KEY)? else { return Ok(None) };
    if !(1..=REQUEST_KEY_BYTES).contains(&key.len()) {
        return Err(bad_request(format!("{IDEMPOTENCY_KEY} has 1 to {REQUEST_KEY_BYTES} characters")));
    }
    let mut digest = Digest::new(&SHA256);
    for part in [request.method().as_str().as_bytes(), request.uri().path().as_bytes(), request.body()] {
        digest.update(&(part.len() as u64).to_be_bytes());
        digest.update(part);
    }
    let digest = digest.finish().as_ref().try_into().unwrap_or_default();
    Ok(Some(RequestName { key: key.to_owned(), digest }))
}

/// The content, as JSON.
pub(super) fn read<T: serde::de::DeserializeOwned>(
    request: &Request<Bytes>,
    mend: &str,
) -> Result<T, Problem> {
    serde_json::from_slice(request.body()).map_err(|e| bad_request(format!("{e}; send {mend}")))
}

fn named(id: &str) -> Result<NodeId, Problem> {
    let id = id.parse().map_err(|_| bad_request(format!("{id:?} is no id of a member; it is a number")))?;
    a_node(NodeId(id))
}

pub(super) fn a_node(id: NodeId) -> Result<NodeId, Problem> {
    if id == NodeId::ZERO { Err(bad_request("an id is 1 or more; 0 stands for no node")) } else { Ok(id) }
}

pub(super) fn check_addresses(addresses: [Option<&String>; 4], zone: Option<&str>) -> Result<(), Problem> {
    if let Some(wrong) = addresses.into_iter().flatten().find(|address| port_of(address).is_none()) {
        return Err(bad_request(format!("{wrong:?} is no host with a port, such as \"10.0.0.1:7100\"")));
    }
    match zone.filter(|zone| !is_name(zone)) {
        Some(zone) => {
            Err(bad_request(format!("zone {zone:?} must start with a letter, then letters, digits, - _ .")))
        }
        None => Ok(()),
    }
}

pub(super) fn incarnation_of(text: &str) -> Result<u64, Problem> {
    let mend = "it is the number that the node shows when it starts";
    text.parse().map_err(|_| bad_request(format!("{text:?} is no incarnation; {mend}")))
}

/// The members as this node sees them: the leader knows most of them.
async fn seen_here(context: &Inner) -> Result<MemberList, Problem> {
    let view = timeout(context.limits.report, context.handle.view()).await;
    let Ok(Ok(view)) = view else {
        return Err(Problem::new(Kind::NotReady, "the consensus loop does not answer"));
    };
    let all = view.membership.members();
    let members = context
        .handle
        .with_machine(|machine| all.iter().map(|id| info(context, &view, machine, *id)).collect());
    let View { term, leader, .. } = view;
    Ok(MemberList { term, leader, changing: view.membership.is_joint(), members })
}

/// One member as this node sees it; `None` when it is none.
pub(super) async fn info_of(context: &Inner, node: NodeId) -> Option<MemberInfo> {
    seen_here(context).await.ok()?.members.into_iter().find(|member| member.id == node)
}

fn info(context: &Inner, view: &View, machine: &Machine, id: NodeId) -> MemberInfo {
    let now = clock::now();
    let known = machine.member(id);
    let peer = view.peers.iter().find(|peer| peer.id == id);
    let own = (id == view.id).then_some(context.incarnation);
    let declared = view.membership.incarnations.get(&id).copied();
    let heard = peer.and_then(|peer| peer.life).map(|life| life.incarnation);
    let behind = peer.map(|peer| view.last_log.index.0.saturating_sub(peer.match_index.0));
    MemberInfo {
        id,
        role: role(&view.membership, id).into(),
        peer: known.map(|member| member.peer.clone()),
        hop: known.map(|member| member.hop.clone()),
        proxy: known.map(|member| member.proxy.clone()),
        api: known.map(|member| member.api.clone()),
        zone: known.and_then(|member| member.zone.clone()),
        incarnation: own.or(declared).or(heard).map(|incarnation| incarnation.to_string()),
        match_index: peer.map(|peer| peer.match_index),
        behind,
        caught_up: peer
            .map(|peer| peer.last_contact.is_some() && behind.is_some_and(|behind| behind <= CAUGHT_UP)),
        last_contact_ms: peer.and_then(|peer| peer.last_contact).map(|at| millis(now.since(at))),
    }
}

fn role(membership: &Membership, id: NodeId) -> &'static str {
    match (membership.voters.contains(&id), membership.learners.contains(&id)) {
        (true, _) => "voter",
        (false, true) => "learner",
        (false, false) => "leaving",
    }
}
