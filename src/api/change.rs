//! Carries a change of the members out, at the leader.
//!
//! A change is a level and no edge: what is asked for is how things should be, and each attempt makes the
//! steps that are still missing. So whoever lost an answer asks again. With a name (`Idempotency-Key`) it is
//! even exact: what was once complete is not done a second time, whatever happened to the member since.
//!
//! 1. One at a time here, and the leader confirms that it leads: from then on it knows all that was changed.
//! 2. It judges what is asked for, so that what it would refuse changes nothing. Later refusals are rare, and
//!    are told as what they are: a part of the change was made (G5).
//! 3. The registry hears of it: the addresses, the name. It is an entry of the log too, so once it is applied,
//!    whatever membership stood before it is committed.
//! 4. The membership changes, by [`Handle::reconfigure`](crate::driver::handle::Handle::reconfigure). A new member is a
//!    learner first, and may get its vote in a second step.

use std::collections::BTreeSet;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use tokio::time::{Instant as Deadline, timeout_at};

use crate::api::Inner;
use crate::api::answers::members::{Changed, PatchMember};
use crate::api::fields::json;
use crate::api::forward::{
    Attempt, Hold, Miss, RETRY_AFTER, at_leader, refused_change, refused_write, unknown,
};
use crate::api::members::info_of;
use crate::driver::handle::{Applied, Refused};
use crate::ids::{LogIndex, NodeId, Term};
use crate::problem::{Kind, Outcome, Problem};
use crate::raft::effect::{Change, ReconfigureRefusal};
use crate::raft::entry::Membership;
use crate::registry::command::{Answer, Goal, Intent, Member, Op, Redemption, RequestName, Standing};
use crate::registry::machine::Machine;

/// What a caller wants to be different.
#[derive(Debug, Clone)]
pub(super) struct Wish {
    /// Its name.
    pub(super) request: Option<RequestName>,
    /// Who it is about.
    pub(super) node: NodeId,
    /// How the membership should be.
    pub(super) goal: Goal,
    /// And besides.
    pub(super) what: What,
}

/// What a change is about besides the membership.
#[derive(Debug, Clone)]
pub(super) enum What {
    /// A member that may be new, with its addresses and its data directory.
    Add(Member, Option<u64>),
    /// The same, that has shown the token of its invitation.
    Join(Box<Redemption>, u64),
    /// A member that is there.
    Patch(PatchMember),
    /// A member that leaves.
    Remove,
}

/// How far a change came.
enum Progress {
    /// Everything is as it should be since this entry.
    Complete(LogIndex),
    /// The vote has to wait.
    Pending(ReconfigureRefusal),
    /// This node leads no more.
    Missed,
}

/// Has the leader make the missing steps. Who asks again for what was begun before is not told that nothing of it was
/// made, also when nobody could look at it this time (G5).
pub(super) async fn ask_leader(
    context: &Inner,
    hold: &Hold<'_>,
    request: &Request<Bytes>,
    wish: &Wish,
) -> Result<Response<Bytes>, Problem> {
    let begun = context.handle.with_machine(|machine| was_begun(wish, machine));
    let made = at_leader(hold, request, || carry_out(context, wish)).await;
    made.map_err(|problem| if begun { made_in_part(problem) } else { problem })
}

/// Makes the missing steps. `Missed` when this node does not lead.
async fn carry_out(context: &Inner, wish: &Wish) -> Result<Attempt<Response<Bytes>>, Problem> {
    let limit = Deadline::now() + context.limits.answer;
    let Ok(_turn) = timeout_at(limit, context.changing.lock()).await else {
        return Err(refused_change(&ReconfigureRefusal::InProgress));
    };
    let Some(term) = confirmed(context, limit).await? else { return Ok(Attempt::Missed(Miss::NotLeading)) };
    if let Some(done) = done_before(context, wish)? {
        return Ok(Attempt::Done(answer(context, wish, true, done, None).await));
    }
    // Who asks again for what was made in part is not told that nothing was (G5).
    let mut in_part = context.handle.with_machine(|machine| was_begun(wish, machine));
    match attempt(context, wish, term, limit, &mut in_part).await {
        Ok(Attempt::Missed(_)) if in_part => Err(made_in_part(leads_no_more())),
        Err(problem) if in_part => Err(made_in_part(problem)),
        outcome => outcome,
    }
}

/// The same, in `term`; `in_part` says whether a part of it is made when it ends early.
async fn attempt(
    context: &Inner,
    wish: &Wish,
    term: Term,
    limit: Deadline,
    in_part: &mut bool,
) -> Result<Attempt<Response<Bytes>>, Problem> {
    let membership = membership(context, limit).await?;
    let member = context.handle.with_machine(|machine| addresses(wish, &membership, machine))?;
    would_be_made(context, wish, &membership, limit).await?;
    let reached = !membership.is_joint() && wish.goal.holds(&membership);
    let changed = member.is_some() || !reached;
    let moves = member.is_some() || matches!(wish.what, What::Join(..));
    let Some(begun) = announce(context, term, announcement(wish, member, reached), limit).await? else {
        return Ok(Attempt::Missed(Miss::NotLeading));
    };
    let mut at = begun;
    let progress = steps(context, wish, membership, &mut at, limit).await;
    *in_part |= moves || at > begun;
    let (at, pending) = match progress? {
        Progress::Complete(at) => (at, None),
        Progress::Pending(why) => (begun, Some(why.to_string())),
        Progress::Missed => return Ok(Attempt::Missed(Miss::NotLeading)),
    };
    tracing::info!(goal = %wish.goal, index = %at, pending, "the members were changed as asked");
    Ok(Attempt::Done(answer(context, wish, changed, at, pending).await))
}

/// Whether the first step would be made, and is not only one that has to wait.
async fn would_be_made(
    context: &Inner,
    wish: &Wish,
    membership: &Membership,
    limit: Deadline,
) -> Result<(), Problem> {
    if membership.is_joint() {
        return may_be_this_one(&wish.goal, membership);
    }
    let change = next_step(wish, membership);
    if change == Change::default() {
        return Ok(());
    }
    match timeout_at(limit, context.handle.judge(change)).await {
        Ok(Err(Refused::Reconfigure(why))) if waits_for_its_vote(wish, membership, why) => Ok(()),
        // Whoever leads no more finds that out when it tells the registry.
        Ok(Ok(()) | Err(Refused::NotLeader { .. })) => Ok(()),
        Ok(Err(Refused::Reconfigure(why))) => Err(refused_change(&why)),
        Ok(Err(_)) | Err(_) => Err(no_answer()),
    }
}

fn no_answer() -> Problem {
    Problem::new(Kind::Overloaded, "the consensus loop does not answer").retry_after(RETRY_AFTER)
}

fn leads_no_more() -> Problem {
    Problem::new(Kind::NoLeader, "leadership moved in the midst of the change")
}

/// A part of the change is committed, so its refusal is not one of all of it (G5).
fn made_in_part(problem: Problem) -> Problem {
    if problem.outcome != Some(Outcome::NotApplied) {
        return problem;
    }
    let detail = format!(
        "{}; a part of what was asked for is made, or may be: look with `termgate member list`, and ask again \
         for the rest",
        problem.detail
    );
    Problem { detail, retry_after: None, outcome: Some(Outcome::Unknown), ..problem }
}

/// The term in which this node leads now; `None` when it does not. From here on, all that earlier changes
/// did is applied here.
pub(super) async fn confirmed(context: &Inner, limit: Deadline) -> Result<Option<Term>, Problem> {
    match timeout_at(limit, context.handle.read()).await {
        Ok(Ok(point)) => Ok(Some(point.term)),
        Ok(Err(Refused::NotLeader { .. } | Refused::Unknown)) => Ok(None),
        Ok(Err(refused)) => Err(refused_write(&refused)),
        Err(_) => {
            let detail = "no majority of the voters answers the leader; bring nodes back first";
            Err(Problem::new(Kind::NoLeader, detail).retry_after(RETRY_AFTER))
        }
    }
}

/// The membership in force here.
pub(super) async fn membership(context: &Inner, limit: Deadline) -> Result<Membership, Problem> {
    match timeout_at(limit, context.handle.view()).await {
        Ok(Ok(view)) => Ok(view.membership),
        _ => Err(no_answer()),
    }
}

/// Where the same request was complete before.
fn done_before(context: &Inner, wish: &Wish) -> Result<Option<LogIndex>, Problem> {
    let Some(request) = &wish.request else { return Ok(None) };
    let known = context.handle.with_machine(|machine| machine.change(&request.key).cloned());
    match known {
        Some(known) if known.request != *request => Err(name_taken()),
        known => Ok(known.and_then(|known| known.done)),
    }
}

/// Whether the same request was taken down before, and perhaps no more than that.
fn was_begun(wish: &Wish, machine: &Machine) -> bool {
    match (&wish.what, &wish.request) {
        (What::Join(redemption, _), _) => {
            machine.invitation(wish.node).is_some_and(|made| made.redeemed_by == Some(redemption.by))
        }
        (_, Some(request)) => machine.change(&request.key).is_some_and(|begun| begun.request == *request),
        (_, None) => false,
    }
}

fn name_taken() -> Problem {
    let detail = "this Idempotency-Key was used for another request; take a new one for each change";
    Problem::new(Kind::MembershipRefused, detail)
}

/// The addresses that are to be made known, or why the wish can't be fulfilled.
fn addresses(wish: &Wish, membership: &Membership, machine: &Machine) -> Result<Option<Member>, Problem> {
    let (node, is_member) = (wish.node, membership.contains(wish.node));
    let known = machine.member(node);
    let member = match &wish.what {
        What::Add(member, incarnation) if is_member => {
            is_the_same(member, *incarnation, known, membership)?;
            return Ok(None);
        }
        What::Join(redemption, incarnation) if is_member => {
            let used = machine.invitation(node).and_then(|invitation| invitation.redeemed_by);
            if used.is_some_and(|by| by != redemption.by) {
                return Err(used_before());
            }
            is_known_by(node, *incarnation, membership)?;
            return Ok(None);
        }
        What::Add(member, _) => member.clone(),
        What::Join(redemption, _) => redemption.member.clone(),
        What::Remove | What::Patch(_) if !is_member => return Err(no_member(node)),
        What::Remove => return Ok(None),
        What::Patch(patch) => {
            if let Some(old) = patch.replaces.filter(|old| !membership.contains(*old))
                && !wish.goal.holds(membership)
            {
                return Err(no_member(old));
            }
            let Some(moved) = moved(node, patch, known)? else { return Ok(None) };
            moved
        }
    };
    is_free(&member, membership, machine)?;
    Ok(Some(member))
}

fn no_member(node: NodeId) -> Problem {
    Problem::new(Kind::NotFound, format!("node {node} is no member; `termgate member list` shows who is"))
}

/// Whoever is to be added and is there already must be the same.
fn is_the_same(
    member: &Member,
    incarnation: Option<u64>,
    known: Option<&Member>,
    membership: &Membership,
) -> Result<(), Problem> {
    let node = member.id;
    if known != Some(member) {
        let mend = "change them with PATCH /cluster/members/{id}";
        return Err(member_already(node, &format!("at other addresses or in another zone; {mend}")));
    }
    incarnation.map_or(Ok(()), |incarnation| is_known_by(node, incarnation, membership))
}

fn is_known_by(node: NodeId, incarnation: u64, membership: &Membership) -> Result<(), Problem> {
    if membership.incarnations.get(&node) == Some(&incarnation) {
        return Ok(());
    }
    Err(member_already(node, "and known by another data directory; remove it before you add the new one"))
}

fn member_already(node: NodeId, what: &str) -> Problem {
    Problem::new(Kind::MembershipRefused, format!("node {node} is a member already, {what}"))
}

/// The addresses after `patch`; `None` when they stay as they are.
fn moved(node: NodeId, patch: &PatchMember, known: Option<&Member>) -> Result<Option<Member>, Problem> {
    let of =
        |new: &Option<String>, old: fn(&Member) -> &String| new.clone().or_else(|| known.map(old).cloned());
    let (peer, api) = (of(&patch.peer, |m| &m.peer), of(&patch.api, |m| &m.api));
    let proxy = of(&patch.proxy, |m| &m.proxy);
    let follows = known.is_none_or(|known| known.hop == known.proxy);
    let hop = if follows { patch.hop.clone().or(proxy.clone()) } else { of(&patch.hop, |m| &m.hop) };
    let (Some(peer), Some(proxy), Some(hop), Some(api)) = (peer, proxy, hop, api) else {
        if [&patch.peer, &patch.proxy, &patch.hop, &patch.api, &patch.zone].into_iter().all(Option::is_none) {
            return Ok(None);
        }
        let detail = format!("no addresses of node {node} are known; name peer, proxy and api");
        return Err(Problem::new(Kind::MembershipRefused, detail));
    };
    let zone = patch.zone.clone().or_else(|| known.and_then(|known| known.zone.clone()));
    let member = Member { id: node, peer, proxy, hop, api, zone: zone.filter(|zone| !zone.is_empty()) };
    Ok(Some(member).filter(|member| known != Some(member)))
}

/// Raft and forwarded requests are both UDP, and each member has addresses of its own.
fn is_free(member: &Member, membership: &Membership, machine: &Machine) -> Result<(), Problem> {
    let refused = |detail: String| Err(Problem::new(Kind::MembershipRefused, detail));
    if member.peer == member.hop {
        return refused(format!("{} can't be both peer and hop: they are two UDP listeners", member.peer));
    }
    let others = membership.members().into_iter().filter(|node| *node != member.id);
    for other in others.filter_map(|node| machine.member(node)) {
        let theirs = BTreeSet::from([&other.peer, &other.hop]);
        if let Some(taken) = [&member.peer, &member.hop].into_iter().find(|address| theirs.contains(address))
        {
            return refused(format!("{taken} is an address of node {}; each member has its own", other.id));
        }
    }
    Ok(())
}

/// What the registry is told.
fn announcement(wish: &Wish, member: Option<Member>, reached: bool) -> Op {
    match &wish.what {
        What::Join(redemption, _) => Op::Redeem(redemption.clone()),
        What::Add(..) | What::Patch(_) | What::Remove => {
            let (request, goal) = (wish.request.clone(), wish.goal);
            Op::Intend(Box::new(Intent { request, member, goal, reached }))
        }
    }
}

/// Tells the registry; answers with the entry, or `None` when this node leads no more.
async fn announce(context: &Inner, term: Term, op: Op, limit: Deadline) -> Result<Option<LogIndex>, Problem> {
    let joins = matches!(op, Op::Redeem(_));
    let Some(Applied { index, answer, .. }) = propose(context, term, op, limit).await? else {
        return Ok(None);
    };
    match answer {
        Answer::Done { .. } => Ok(Some(index)),
        Answer::ConditionFailed { .. } | Answer::NotFound if joins => Err(used_before()),
        Answer::ConditionFailed { .. } => Err(name_taken()),
        other => Err(not_recorded(&other)),
    }
}

fn used_before() -> Problem {
    let detail = "the invitation was used before, by another request, or another one was made since; look at \
                  `termgate member list`, remove the member if it is a stranger, and invite again";
    Problem::new(Kind::InvitationRefused, detail)
}

/// Proposes `op`; `None` when this node leads that term no more, and nothing was changed.
pub(super) async fn propose(
    context: &Inner,
    term: Term,
    op: Op,
    limit: Deadline,
) -> Result<Option<Applied>, Problem> {
    match timeout_at(limit, context.handle.propose(term, op)).await {
        Ok(Ok(Applied { answer: Answer::StaleTerm, .. }) | Err(Refused::NotLeader { .. })) => Ok(None),
        Ok(Ok(applied)) => Ok(Some(applied)),
        Ok(Err(refused)) => Err(refused_write(&refused)),
        Err(_) => Err(unknown("the change was not committed in time and still may be".into())),
    }
}

/// What the registry answers when it can't take a change down.
pub(super) fn not_recorded(answer: &Answer) -> Problem {
    let detail = match answer {
        Answer::LimitExceeded(limit) => limit,
        _ => "the nodes run versions that don't understand each other",
    };
    Problem::new(Kind::LimitExceeded, detail)
}

/// Step by step, from `membership`, which is committed unless it is joint. `at` is the entry with which the
/// last one was complete.
async fn steps(
    context: &Inner,
    wish: &Wish,
    mut membership: Membership,
    at: &mut LogIndex,
    limit: Deadline,
) -> Result<Progress, Problem> {
    loop {
        if membership.is_joint() {
            return under_way(context, &wish.goal, &membership, limit).await.map(Progress::Complete);
        }
        let change = next_step(wish, &membership);
        if change == Change::default() {
            return Ok(Progress::Complete(*at));
        }
        match timeout_at(limit, context.handle.reconfigure(change)).await {
            Ok(Ok(id)) => *at = id.index,
            Ok(Err(Refused::NotLeader { .. })) => return Ok(Progress::Missed),
            Ok(Err(Refused::Reconfigure(why))) if waits_for_its_vote(wish, &membership, why) => {
                return Ok(Progress::Pending(why));
            }
            Ok(Err(refused)) => return Err(refused_write(&refused)),
            Err(_) => return Err(unknown("the change was not complete in time and still may be".into())),
        }
        membership = self::membership(context, limit).await?;
    }
}

/// A member that was asked for with a vote is there without, for a while.
fn waits_for_its_vote(wish: &Wish, membership: &Membership, why: ReconfigureRefusal) -> bool {
    use ReconfigureRefusal::{InProgress, NotCaughtUp, NotInContact};
    let is_there = matches!(wish.what, What::Add(..)) && membership.contains(wish.node);
    is_there && matches!(why, NotCaughtUp { .. } | NotInContact(_) | InProgress)
}

/// What is missing and can be done at once.
fn next_step(wish: &Wish, membership: &Membership) -> Change {
    let mut change = Change::default();
    if let Some((node, standing)) = wish.goal.here {
        if !membership.contains(node) {
            let incarnation = match wish.what {
                What::Add(_, incarnation) => incarnation,
                What::Join(_, incarnation) => Some(incarnation),
                What::Patch(_) | What::Remove => None,
            };
            change.add.insert(node, incarnation);
            return change;
        }
        match standing {
            Standing::Voter if !membership.voters.contains(&node) => drop(change.promote.insert(node)),
            Standing::Learner if !membership.learners.contains(&node) => drop(change.demote.insert(node)),
            _ => {}
        }
    }
    change.remove.extend(wish.goal.gone.filter(|node| membership.contains(*node)));
    change
}

/// A change is being made, perhaps this very one, asked for before: then its end is waited for.
async fn under_way(
    context: &Inner,
    goal: &Goal,
    membership: &Membership,
    limit: Deadline,
) -> Result<LogIndex, Problem> {
    may_be_this_one(goal, membership)?;
    let mut watch = context.handle.watch();
    let is_complete =
        |machine: &Machine| !machine.membership().is_joint() && goal.holds(machine.membership());
    let complete = watch.wait_for(|_| context.handle.with_machine(is_complete));
    match timeout_at(limit, complete).await {
        Ok(Ok(seen)) => Ok(seen.last_applied),
        _ => Err(unknown("the change was not complete in time and still may be".into())),
    }
}

fn may_be_this_one(goal: &Goal, under_way: &Membership) -> Result<(), Problem> {
    let may_be = goal.holds(&under_way.completed());
    may_be.then_some(()).ok_or_else(|| refused_change(&ReconfigureRefusal::InProgress))
}

async fn answer(
    context: &Inner,
    wish: &Wish,
    changed: bool,
    index: LogIndex,
    pending: Option<String>,
) -> Response<Bytes> {
    let status = if pending.is_some() { StatusCode::ACCEPTED } else { StatusCode::OK };
    let term = context.handle.leadership().term;
    let member = info_of(context, wish.node).await;
    json(status, &Changed { changed, index, term, member, pending })
}
