//! How a new machine joins (decision 0009).
//!
//! ```text
//!   operator          node with [tls] ca_key              leader              new machine
//!      | --- invite -----> |  draws the token                |                     |
//!      |                   | --- verifier, expiry ---------> |  log                |
//!      | <---- token ----- |                                 |                     |
//!      | - - - - - - - - - - - - - by hand - - - - - - - - - - - - - - - - - - - ->|
//!      |                   | <---------- request, certificate request, signature - |
//!      |                   | --- redeem, add a learner ----> |  log, membership    |
//!      |                   | ----------- certificate, members, settings, seal ---> |
//! ```
//!
//! The node that takes a call has the authority's key; it judges tokens and their expiry. What makes an
//! invitation good for one machine only is the log: the first request that is redeemed is the only one, and it
//! may come again when its answer was lost.

use ::time::OffsetDateTime;
use ::time::format_description::well_known::Rfc3339;
use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode};
use ring::digest::{SHA256, digest};
use serde::Serialize;
use tokio::time::{Instant as Deadline, timeout};

use crate::api::answers::join::{InviteRequest, Invited, JoinAnswer, JoinMember, JoinRequest, VerifiedJoin};
use crate::api::change::{What, Wish, ask_leader, confirmed, membership, not_recorded, propose};
use crate::api::fields::{REQUEST_ID, SIGNATURE, bad_request, json, single};
use crate::api::forward::{Attempt, Effect, Hold, Miss, at_leader};
use crate::api::members::{a_node, check_addresses, incarnation_of, read};
use crate::api::router::{INVITE, JOIN};
use crate::api::status::present_members;
use crate::api::{Caller, Inner};
use crate::certs::authority::Authority;
use crate::certs::invitation::{Token, armour, is_signed};
use crate::clock;
use crate::ids::NodeId;
use crate::problem::{Kind, Problem};
use crate::registry::command::{Answer, Goal, Invitation, Op, Redemption, Standing};
use crate::registry::machine::InvitationRecord;

/// How long an invitation is good: long enough to walk to the machine.
const TTL_S: u64 = 3600;
/// The longest and the shortest: an invitation that lies about is a door that stands open.
const TTL_RANGE_S: std::ops::RangeInclusive<u64> = 60..=7 * 24 * 3600;

/// `POST /cluster/invitations`.
pub(super) async fn invite(
    context: &Inner,
    caller: Caller,
    request: &Request<Bytes>,
) -> Result<Response<Bytes>, Problem> {
    let InviteRequest { id, ttl_s } = read(request, "{\"id\": 4}")?;
    let (id, ttl_s) = (a_node(id)?, ttl_s.unwrap_or(TTL_S));
    if !TTL_RANGE_S.contains(&ttl_s) {
        return Err(bad_request("ttl_s is 60 to 604800: a minute to a week"));
    }
    let authority = authority(context)?;
    let token = Token::draw(authority.cluster(), id, authority.fingerprint())
        .ok_or_else(|| Problem::new(Kind::NotReady, "the system has no random numbers"))?;
    let (made_at, verifier) = (clock::unix_seconds(), token.verifier());
    let invitation = Invitation { node: id, verifier, made_at, expires_at: made_at.saturating_add(ttl_s) };
    let inner = internal(request, INVITE, &invitation);
    let hold = Hold::new(context, caller, Effect::Write);
    let response = at_leader(&hold, &inner, || note(context, &invitation)).await?;
    if !response.status().is_success() {
        return Ok(response);
    }
    tracing::info!(node = %id, ttl_s, "a machine is invited to join");
    let expires_at = on_the_wall(invitation.expires_at);
    let cluster = context.cluster.clone();
    Ok(json(StatusCode::OK, &Invited { cluster, id, token: token.reveal(), expires_at }))
}

/// `POST /internal/invitations`, from a node.
pub(super) async fn invite_here(
    context: &Inner,
    caller: Caller,
    request: &Request<Bytes>,
) -> Result<Response<Bytes>, Problem> {
    let invitation: Invitation = read(request, "an invitation")?;
    let hold = Hold::new(context, caller, Effect::Write);
    at_leader(&hold, request, || note(context, &invitation)).await
}

/// Takes an invitation down, as the leader.
async fn note(context: &Inner, invitation: &Invitation) -> Result<Attempt<Response<Bytes>>, Problem> {
    let limit = Deadline::now() + context.limits.answer;
    let Some(term) = confirmed(context, limit).await? else { return Ok(Attempt::Missed(Miss::NotLeading)) };
    // The registry knows the first members of a cluster only once something about them has changed.
    if membership(context, limit).await?.contains(invitation.node) {
        return Err(is_a_member(invitation.node));
    }
    let Some(applied) = propose(context, term, Op::Invite(invitation.clone()), limit).await? else {
        return Ok(Attempt::Missed(Miss::NotLeading));
    };
    match applied.answer {
        Answer::Done { .. } => Ok(Attempt::Done(Response::new(Bytes::new()))),
        Answer::ConditionFailed { .. } => Err(is_a_member(invitation.node)),
        other => Err(not_recorded(&other)),
    }
}

fn is_a_member(node: NodeId) -> Problem {
    let detail = format!("node {node} is a member already; remove it first, or take another id");
    Problem::new(Kind::MembershipRefused, detail)
}

/// `POST /cluster/join`. It needs no bearer token: the signature stands for it.
pub(super) async fn join(
    context: &Inner,
    caller: Caller,
    request: &Request<Bytes>,
) -> Result<Response<Bytes>, Problem> {
    let JoinRequest { member, incarnation, csr } = read(request, "what `termgate node --join` sends")?;
    let id = a_node(member.id)?;
    check_addresses(
        [&member.peer, &member.hop, &member.proxy, &member.api].map(Some),
        member.zone.as_deref(),
    )?;
    let incarnation = incarnation_of(&incarnation)?;
    let signature = single(request.headers(), &SIGNATURE)?.unwrap_or_default();
    let by = digest(&SHA256, request.body()).as_ref().try_into().unwrap_or_default();
    let invitation = verified(context, id, (request.body(), &by), signature).await?;
    let authority = authority(context)?;
    let certificate = authority.sign_request(&csr, id).map_err(|e| bad_request(e.to_string()))?;
    let redemption = Redemption { invitation: invitation.made, by, member: member.clone().into() };
    let join = VerifiedJoin { redemption, incarnation };
    let inner = internal(request, JOIN, &join);
    let (hold, wish) = (Hold::new(context, caller, Effect::Write), wish(&join));
    let response = ask_leader(context, &hold, &inner, &wish).await?;
    if !response.status().is_success() {
        return Ok(response);
    }
    tracing::info!(node = %id, incarnation, "a machine has joined with its invitation");
    sealed(context, &authority, certificate, member)
}

/// `POST /internal/joins`, from a node that has verified the token.
pub(super) async fn join_here(
    context: &Inner,
    caller: Caller,
    request: &Request<Bytes>,
) -> Result<Response<Bytes>, Problem> {
    let wish = wish(&read(request, "a join")?);
    let hold = Hold::new(context, caller, Effect::Write);
    ask_leader(context, &hold, request, &wish).await
}

fn wish(join: &VerifiedJoin) -> Wish {
    let VerifiedJoin { redemption, incarnation } = join.clone();
    let node = redemption.member.id;
    let goal = Goal { here: Some((node, Standing::Member)), gone: None };
    Wish { request: None, node, goal, what: What::Join(Box::new(redemption), incarnation) }
}

/// The invitation whose token has signed the request, if it is still good. This node may lag behind, so it is
/// looked for again after a read that is confirmed. Good it stays for the request that used it: the answer may have
/// been lost.
async fn verified(
    context: &Inner,
    node: NodeId,
    (body, by): (&[u8], &[u8; 32]),
    signature: &str,
) -> Result<InvitationRecord, Problem> {
    let found = || context.handle.with_machine(|machine| machine.invitation(node).copied());
    let fits = |open: &InvitationRecord| is_signed(&open.verifier, body, signature);
    let mut open = found().filter(fits);
    if open.is_none() {
        let _ = timeout(context.limits.hold, context.handle.read()).await;
        open = found().filter(fits);
    }
    let mend = format!("make a new one with `termgate member invite --id {node}`");
    let refused = |why: &str| Problem::new(Kind::InvitationRefused, format!("{why}; {mend}"));
    let open = open.ok_or_else(|| {
        refused(
            "no invitation for this id fits the token: another one was made since, or the member was removed",
        )
    })?;
    if open.expires_at <= clock::unix_seconds() && open.redeemed_by.as_ref() != Some(by) {
        return Err(refused(&format!("the invitation expired at {}", on_the_wall(open.expires_at))));
    }
    Ok(open)
}

/// What the new member starts with.
fn sealed(
    context: &Inner,
    authority: &Authority,
    certificate: String,
    member: JoinMember,
) -> Result<Response<Bytes>, Problem> {
    let known = context.handle.with_machine(present_members);
    let mut members: Vec<JoinMember> = known.into_iter().map(JoinMember::from).collect();
    members.retain(|known| known.id != member.id && !known.peer.is_empty());
    members.push(member);
    members.sort_by_key(|member| member.id);
    let answer = JoinAnswer {
        cluster: context.cluster.clone(),
        certificate,
        ca: authority.trusted().to_owned(),
        members,
        settings: context.settings.clone(),
        term: context.handle.leadership().term,
    };
    let mut response = json(StatusCode::OK, &answer);
    let seal =
        authority.seal(response.body()).map_err(|e| Problem::new(Kind::MembershipRefused, e.to_string()))?;
    let seal = HeaderValue::try_from(armour(&seal));
    response.headers_mut().extend(seal.ok().map(|seal| (SIGNATURE, seal)));
    Ok(response)
}

/// The authority of `[tls] ca_key`. It is read each time, so that a rotation needs no restart.
fn authority(context: &Inner) -> Result<Authority, Problem> {
    let refused = |detail: String| Problem::new(Kind::MembershipRefused, detail);
    let files = context.authority.as_ref().ok_or_else(|| {
        let mend = "set [tls] ca_key to the authority's key, or ask a node that has it";
        refused(format!("node {} can't sign certificates: {mend}", context.handle.node()))
    })?;
    let authority = Authority::open_to_invite(&files.ca, &files.key);
    let authority = authority.map_err(|e| refused(format!("the authority of [tls] can't be used: {e}")))?;
    if authority.cluster() != context.cluster {
        let (found, expected) = (authority.cluster(), &context.cluster);
        return Err(refused(format!(
            "[tls] ca_key is of cluster {found:?}, and this is cluster {expected:?}"
        )));
    }
    Ok(authority)
}

/// What this node wants of the leader, in the name of the client's request.
fn internal(request: &Request<Bytes>, target: &'static str, content: &impl Serialize) -> Request<Bytes> {
    let mut inner = Request::new(json(StatusCode::OK, content).into_body());
    *inner.method_mut() = http::Method::POST;
    *inner.uri_mut() = http::Uri::from_static(target);
    let name = request.headers().get(REQUEST_ID).cloned();
    inner.headers_mut().extend(name.map(|name| (REQUEST_ID, name)));
    inner
}

fn on_the_wall(seconds: u64) -> String {
    let at =
        i64::try_from(seconds).ok().and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok());
    at.and_then(|at| at.format(&Rfc3339).ok()).unwrap_or_else(|| format!("{seconds} s after 1970"))
}
