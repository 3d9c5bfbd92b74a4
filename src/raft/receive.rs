//! What a message goes through before a role sees it, and where it goes then.
//!
//! ```text
//!   addressed here?  from a member?  plausible?  of the sender's present life?
//!      -> vote requests: the one rule, which may refuse without adopting the term (stickiness)
//!      -> a higher term is adopted, a lower one is answered (L2) or dropped
//!      -> the role
//! ```
//!
//! Nothing here can fail on what a peer claims; whatever is wrong becomes a counted drop.

use crate::ids::{Campaign, IoSeq, Life, LogId, NodeId, Session, Term};
use crate::lease::Lease;
use crate::raft::core::Core;
use crate::raft::effect::{Cause, DropReason, Effect, Event, SnapshotEffect};
use crate::raft::election::judge;
use crate::raft::follower::respond;
use crate::raft::leader::answer_read;
use crate::raft::message::{
    AppendResult, Ballot, Body, Message, RequestVote, RequestVoteResponse, TimeoutNow, VoteRefusal,
};
use crate::raft::node::{Node, Role};
use crate::raft::read_index::Reader;
use crate::time::Duration;

/// No honest cluster gets here: at a thousand elections a second it would take three hundred million
/// years. A peer that claims more is mistaken.
const HIGHEST_NUMBER: u64 = u64::MAX / 2;

/// How far a term may lie above the own one: a thousand elections a second for thirty years. One
/// message must not push this node where no term is left to campaign in. And a cluster that is founded on
/// an old one's state begins further ahead (DR-1), so that none of its messages reaches who belongs to
/// the old one, whose certificate and id are as good.
pub const HIGHEST_TERM_JUMP: u64 = 1 << 40;

/// The same for a node that knows no voters: it waits to be added, and can't tell how far the cluster is. Hundreds
/// of foundings are below.
const HIGHEST_FIRST_TERM: u64 = 1 << 49;

/// The longest promise that is believed; longer ones are a mistake.
const LONGEST_PROMISE: Duration = Duration::from_secs(3600);

impl Node {
    pub(super) fn on_message(&mut self, message: &Message) {
        if let Err(reason) = self.admit(message) {
            return self.core.dropped(message.from, reason);
        }
        match &message.body {
            Body::RequestVote(request) => self.on_vote_request(message, request),
            Body::RequestVoteResponse(response) => self.on_vote_response(message, response),
            _ => {
                // E5.
                if message.term > self.core.term() {
                    self.adopt_term(message.term);
                }
                if message.term < self.core.term() {
                    self.on_stale(message)
                } else {
                    self.on_current(message)
                }
            }
        }
    }

    /// Whether a message may be looked at, and who is new.
    fn admit(&mut self, message: &Message) -> Result<(), DropReason> {
        let core = &mut self.core;
        if message.to != core.id() || message.from == core.id() {
            return Err(DropReason::Misaddressed);
        }
        let serves = matches!(&self.role, Role::Leader(leader) if leader.peers.contains_key(&message.from));
        if !core.membership().contains(message.from) && !serves && !is_heard_from_outside(&message.body) {
            let waits = core.membership().voters.is_empty() && disowns(&message.body);
            return Err(if waits { DropReason::NotAdded } else { DropReason::NotAMember });
        }
        if !is_plausible(message) {
            return Err(DropReason::Malformed);
        }
        if !is_in_reach(core, message.term) {
            return Err(DropReason::TermOutOfReach);
        }
        if !core.recognises(message.from, message.life.incarnation) {
            if !is_of_a_leader(&message.body) {
                disown(core, message);
                return Err(DropReason::UnknownIncarnation);
            }
            if message.term < core.term() {
                // Is answered (L2), and no more: it is not the life of the member of this name.
                return Ok(());
            }
        }
        match note_life(core, message.from, message.life) {
            Seen::Past => return Err(DropReason::StaleLife),
            Seen::Same => {}
            Seen::New => {
                if let Role::Leader(leader) = &mut self.role {
                    leader.on_new_life(core, message.from);
                }
            }
        }
        Ok(())
    }

    /// E5: a vote request that a promise refuses (V-5) does not even raise the term.
    fn on_vote_request(&mut self, message: &Message, request: &RequestVote) {
        let lease_is_live = match &self.role {
            Role::Leader(leader) => matches!(leader.lease(&self.core), Lease::Valid { .. }),
            _ => false,
        };
        let mut verdict = judge(&self.core, lease_is_live, message.term, message.session, request);
        if request.candidate_id != message.from {
            verdict = Err(VoteRefusal::Unfit);
        }
        let heeded = !matches!(verdict, Err(VoteRefusal::Promised | VoteRefusal::Unfit));
        if !request.ballot.pre_vote {
            if heeded && message.term > self.core.term() {
                self.adopt_term(message.term);
            }
            if verdict.is_ok() {
                self.grant(message.from);
            }
        }
        if let Err(refusal) = verdict {
            self.core.event(Event::VoteRefused { candidate: message.from, refusal });
        }
        let response = RequestVoteResponse {
            ballot: request.ballot,
            vote_granted: verdict.is_ok(),
            refusal: verdict.err(),
        };
        // V1: `send` holds it until term and vote are durable.
        self.core.send(message.from, message.session, Body::RequestVoteResponse(response), IoSeq::ZERO);
    }

    /// Gives the vote. The voter waits for the new leader as long as for an old one.
    fn grant(&mut self, candidate: NodeId) {
        self.core.vote_for(candidate);
        let deadline = self.core.election_deadline();
        if let Role::Follower(follower) = &mut self.role {
            follower.deadline = deadline;
        }
    }

    fn on_vote_response(&mut self, message: &Message, response: &RequestVoteResponse) {
        if disowns(&message.body) {
            // V8: who was added again with this very directory is merely not known there yet.
            let added_with = self.core.membership().incarnations.get(&self.core.id());
            if added_with == Some(&self.core.life.incarnation) {
                return self.core.dropped(message.from, DropReason::Late);
            }
            return self.core.event(Event::Disowned { by: message.from });
        }
        // A granted pre-vote may come from the very term that is asked about; any other higher term
        // ends this round, and is adopted, so that the next one asks in a term that can win (M6).
        let granted_pre_vote = response.ballot.pre_vote && response.vote_granted;
        if message.term > self.core.term() && !granted_pre_vote {
            return self.adopt_term(message.term);
        }
        let of_this_term =
            response.ballot.pre_vote || message.term == self.core.term() || !response.vote_granted;
        let counts = match &mut self.role {
            Role::Candidate(candidate) => of_this_term && candidate.on_response(message.from, response),
            _ => false,
        };
        if counts {
            self.count_votes();
        } else {
            self.core.dropped(message.from, DropReason::Late);
        }
    }

    /// E6: a message of an older term: whoever still leads there must learn the present one (L2). The
    /// answer belongs to no session: its receiver may lead again by then, in a session of the same number.
    fn on_stale(&mut self, message: &Message) {
        let core = &mut self.core;
        match &message.body {
            Body::AppendEntries(append) => {
                let result = AppendResult::Conflict { rejected: append.prev_log, hint: LogId::ZERO };
                respond(core, message.from, Session::ZERO, append.beat, result, IoSeq::ZERO);
            }
            Body::InstallSnapshot(offer) => {
                let result = AppendResult::Conflict { rejected: offer.snapshot.id.last, hint: LogId::ZERO };
                respond(core, message.from, Session::ZERO, offer.beat, result, IoSeq::ZERO);
            }
            Body::ReadIndex(read) => answer_read(core, message.from, read.id, None),
            _ => {}
        }
        core.dropped(message.from, DropReason::StaleTerm);
    }

    fn on_current(&mut self, message: &Message) {
        if let (Body::AppendEntries(_) | Body::InstallSnapshot(_), Role::Candidate(_)) =
            (&message.body, &self.role)
        {
            self.become_follower(Cause::LeaderHeard);
        }
        let (core, from) = (&mut self.core, message.from);
        match (&message.body, &mut self.role) {
            (Body::AppendEntries(append), Role::Follower(follower)) => {
                follower.on_append(core, from, message.session, append);
                self.settle_departure();
            }
            (Body::InstallSnapshot(offer), Role::Follower(follower)) => {
                follower.on_offer(core, from, message.session, offer);
                self.settle_departure();
            }
            (Body::SnapshotChunk(chunk), Role::Follower(follower)) => follower.on_chunk(core, from, chunk),
            (Body::FetchSnapshot(wanted), Role::Leader(_)) => {
                let serve = SnapshotEffect::Serve { to: from, wanted: wanted.clone() };
                core.effects.push_back(Effect::Snapshot(serve));
            }
            (Body::AppendEntriesResponse(response), Role::Leader(leader)) => {
                leader.on_append_response(core, message, response);
            }
            (Body::TimeoutNow(order), Role::Follower(_)) => self.on_timeout_now(message, order),
            (Body::ReadIndex(read), Role::Leader(leader)) => {
                leader.on_read(core, Reader::There(from, read.id));
            }
            (Body::ReadIndex(read), _) => answer_read(core, from, read.id, None),
            (Body::ReadIndexResponse(response), Role::Follower(follower)) => {
                follower.on_read_response(core, from, response);
            }
            // A second leader in this term, which no correct peer claims to be.
            (Body::AppendEntries(_) | Body::InstallSnapshot(_), Role::Leader(_)) => {
                core.dropped(from, DropReason::Malformed);
            }
            _ => core.dropped(from, DropReason::Late),
        }
    }

    fn on_timeout_now(&mut self, message: &Message, order: &TimeoutNow) {
        let Role::Follower(follower) = &self.role else { return };
        if follower.may_take_over(&self.core, message.from, message.session, order) {
            let release = (self.core.term(), message.session);
            self.become_candidate(Some(release), Cause::TransferReceived);
        } else {
            self.core.dropped(message.from, DropReason::Late);
        }
    }
}

/// E2: whether every number in a message is one that a correct peer could have reached.
fn is_plausible(message: &Message) -> bool {
    let term = |term: Term| term.0 <= HIGHEST_NUMBER;
    let id = |id: &LogId| term(id.term) && id.index.0 <= HIGHEST_NUMBER;
    let body = match &message.body {
        Body::RequestVote(m) => id(&m.last_log) && m.transfer_from.is_none_or(term),
        Body::AppendEntries(m) => {
            id(&m.prev_log) && m.leader_commit.0 <= HIGHEST_NUMBER && m.entries.iter().all(|e| id(&e.id))
        }
        Body::AppendEntriesResponse(m) => {
            m.promise.no_vote_for <= LONGEST_PROMISE
                && match &m.result {
                    AppendResult::Accepted { match_index } => match_index.0 <= HIGHEST_NUMBER,
                    AppendResult::Conflict { rejected, hint } => id(rejected) && id(hint),
                }
        }
        Body::TimeoutNow(m) => id(&m.last_log),
        Body::ReadIndexResponse(m) => m.index.is_none_or(|index| index.0 <= HIGHEST_NUMBER),
        Body::InstallSnapshot(m) => {
            let last = &m.snapshot.id.last;
            id(last) && last.term <= message.term && m.snapshot.size <= LARGEST_SNAPSHOT
        }
        Body::FetchSnapshot(m) => id(&m.id.last) && m.offset <= LARGEST_SNAPSHOT,
        Body::SnapshotChunk(m) => id(&m.id.last) && m.offset <= LARGEST_SNAPSHOT,
        Body::RequestVoteResponse(_) | Body::ReadIndex(_) => true,
    };
    body && term(message.term) && message.session.0 <= HIGHEST_NUMBER
}

/// E2: whether the cluster that this node knows can have got to `term`.
fn is_in_reach(core: &Core, term: Term) -> bool {
    let knows_voters = !core.membership().voters.is_empty();
    let jump = if knows_voters { HIGHEST_TERM_JUMP } else { HIGHEST_FIRST_TERM };
    term.0.saturating_sub(core.term().0) <= jump
}

/// Bytes of a snapshot that is believed: many times what the registry may hold.
const LARGEST_SNAPSHOT: u64 = 16 * 1024 * 1024 * 1024;

/// Tells a member that it speaks from a data directory which nobody knows; not in answer to being told so.
fn disown(core: &mut Core, message: &Message) {
    let ballot = match &message.body {
        Body::RequestVoteResponse(_) => return,
        Body::RequestVote(request) => request.ballot,
        _ => Ballot { campaign: Campaign::ZERO, pre_vote: true },
    };
    let refusal = Some(VoteRefusal::UnknownIncarnation);
    let response = RequestVoteResponse { ballot, vote_granted: false, refusal };
    core.send(message.from, Session::ZERO, Body::RequestVoteResponse(response), IoSeq::ZERO);
}

/// Whether it is the word of [`disown`].
fn disowns(body: &Body) -> bool {
    matches!(body, Body::RequestVoteResponse(r) if r.refusal == Some(VoteRefusal::UnknownIncarnation))
}

/// E1 (M8): what is heard from a node that this one does not know as a member. The own membership may be
/// the older one: whoever asks for a vote or leads may have been added since (thesis 4.2.3, M9). What it
/// counts for is decided by its log and its term; its answers count for nothing.
const fn is_heard_from_outside(body: &Body) -> bool {
    matches!(
        body,
        Body::RequestVote(_)
            | Body::AppendEntries(_)
            | Body::InstallSnapshot(_)
            | Body::SnapshotChunk(_)
            | Body::ReadIndexResponse(_)
            | Body::TimeoutNow(_)
    )
}

/// Who leads was elected by a quorum that knows its directory, which this node may have missed (V8, MC-10).
const fn is_of_a_leader(body: &Body) -> bool {
    matches!(body, Body::AppendEntries(_) | Body::InstallSnapshot(_) | Body::SnapshotChunk(_))
}

enum Seen {
    Past,
    Same,
    New,
}

/// Remembers the newest life of each member; what an earlier one said is late (E3, T1). Which of two
/// directories speaks for a member is not decided here (V8).
fn note_life(core: &mut Core, from: NodeId, life: Life) -> Seen {
    match core.lives.insert(from, life) {
        Some(known) if known.incarnation == life.incarnation && known.boot > life.boot => {
            core.lives.insert(from, known);
            Seen::Past
        }
        Some(known) if known != life => Seen::New,
        _ => Seen::Same,
    }
}
