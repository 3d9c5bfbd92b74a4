//! One node: what every role shares, and the role. The only place where a role changes.

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::{IoSeq, Life, LogId, LogIndex, NodeId, Session, Term, Ticket};
use crate::lease::Lease;
use crate::raft::config::Config;
use crate::raft::core::Core;
use crate::raft::effect::{
    Cause, Change, Effect, Event, Input, Outcome, ReconfigureRefusal, RoleKind, SnapshotInput,
    TransferRefusal,
};
use crate::raft::election::Candidate;
use crate::raft::entry::{Durable, Membership};
use crate::raft::follower::Follower;
use crate::raft::leader::Leader;
use crate::raft::leadership::Leadership;
use crate::raft::message::Body;
use crate::raft::read_index::Reader;
use crate::raft::transfer::Release;
use crate::raft::view::{PeerView, View};
use crate::time::{Duration, Instant};

/// What a start begins with.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Boot {
    /// What the disk holds.
    pub durable: Durable,
    /// This start; durable before the first message leaves.
    pub life: Life,
    /// The longest promise that an earlier life may have given: no vote is granted and no campaign
    /// is started before now + this (R7). Zero only on the first boot.
    pub promised: Duration,
}

/// A Raft node, without a clock, a disk or a network.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Node {
    pub(super) core: Core,
    pub(super) role: Role,
}

/// The roles; what exists only in one role lives inside it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Role {
    Follower(Follower),
    /// Also the pre-candidate: the ballot tells.
    Candidate(Candidate),
    Leader(Box<Leader>),
}

impl Node {
    /// Starts, always as a follower (V11). `seed` makes the election timeouts.
    pub fn new(config: Config, boot: Boot, seed: u64, now: Instant) -> Self {
        let mut core = Core::new(config, boot, seed, now);
        let mut follower = Follower::new(&mut core);
        if core.membership().is_quorum(&[core.id()].into()) {
            // Nobody else could be leading: there is nothing to wait for but the own hold.
            follower.deadline = core.promised.end();
        }
        Self { core, role: Role::Follower(follower) }
    }

    /// Something happened at `now`. Never blocks and never fails; what is wrong with a message is
    /// counted as an [`Event`]. Drain [`Node::poll`] afterwards; several steps may come first, and
    /// then share their writes and messages.
    pub fn step(&mut self, now: Instant, input: Input) {
        self.core.now = self.core.now.max(now);
        match input {
            Input::Timeout => self.on_timeout(),
            Input::Receive(message) => self.on_message(&message),
            Input::Propose { ticket, command } => self.on_propose(ticket, command),
            Input::Read { ticket } => self.on_read(ticket),
            Input::Transfer { ticket, to } => self.on_transfer(ticket, to),
            Input::Reconfigure { ticket, change } => self.on_reconfigure(ticket, &change),
            Input::Persisted { io } => {
                self.core.persisted(io);
                self.on_durable();
            }
            Input::Applied { index } => self.core.applied(index),
            Input::Snapshot(input) => self.on_snapshot(input),
            Input::DiskStalled(stalled) => self.on_disk_stalled(stalled),
            Input::ClockSuspect => {
                if let Role::Leader(leader) = &mut self.role {
                    leader.suspect(&self.core);
                }
            }
        }
        if cfg!(debug_assertions) {
            crate::raft::invariants::check(self);
        }
    }

    /// The next effect. The order is part of the contract.
    pub fn poll(&mut self) -> Option<Effect> {
        if self.core.effects.is_empty() {
            match &mut self.role {
                Role::Follower(follower) => follower.flush(&mut self.core),
                Role::Leader(leader) => leader.flush(&mut self.core),
                Role::Candidate(_) => {}
            }
        }
        self.core.effects.pop_front()
    }

    /// When to call `step` with [`Input::Timeout`].
    pub fn deadline(&self) -> Instant {
        let role = match &self.role {
            Role::Follower(follower) => {
                let fetch = follower.fetch.as_ref().and_then(|fetch| fetch.deadline(&self.core));
                let others = follower.reads.deadline().into_iter().chain(fetch);
                others.fold(follower.deadline, Instant::min)
            }
            Role::Candidate(candidate) => candidate.deadline.min(candidate.ask_again),
            Role::Leader(leader) => leader.deadline(&self.core),
        };
        self.core.departure.as_ref().map_or(role, |departure| role.min(departure.deadline))
    }

    /// The current term.
    pub const fn term(&self) -> Term {
        self.core.term()
    }

    /// Whom this node talks to: the members by the membership in force and, at a leader, who is still being
    /// told that it was left out (MC-6).
    pub fn correspondents(&self) -> BTreeSet<NodeId> {
        let mut all = self.core.membership().members();
        all.extend(self.as_leader().into_iter().flat_map(|leader| leader.peers.keys()));
        all
    }

    /// The last applied entry.
    pub const fn last_applied(&self) -> LogIndex {
        self.core.last_applied
    }

    /// F1: the picture that the edges decide by; cheap enough for every turn.
    pub fn leadership(&self) -> Leadership {
        let core = &self.core;
        let leader = self.as_leader();
        let lease = leader.map_or(Lease::Invalid, |leader| leader.lease(core));
        let in_office = leader.is_some_and(|leader| core.commit_index >= leader.noop);
        let applied = leader.is_some_and(|leader| core.last_applied >= leader.noop);
        let certain = lease != Lease::Suspect && !core.disk_stalled;
        Leadership {
            node: core.id(),
            role: self.kind(),
            term: core.term(),
            leader: self.leader(),
            fence: (in_office && applied && certain).then_some(core.term()),
            lease_until: match lease {
                Lease::Valid { until } if in_office => Some(until),
                _ => None,
            },
            commit_index: core.commit_index,
            last_applied: core.last_applied,
        }
    }

    /// Whether this leader would make `change` now. `None`: it leads no more.
    pub fn judge(&self, change: &Change) -> Option<Result<(), ReconfigureRefusal>> {
        self.as_leader().map(|leader| leader.plan(&self.core, change).map(drop))
    }

    /// What is shown of the node.
    pub fn view(&self) -> View {
        let (core, leader, shown) = (&self.core, self.as_leader(), self.leadership());
        View {
            id: shown.node,
            role: shown.role,
            term: shown.term,
            leader: shown.leader,
            last_log: core.last_log(),
            log_base: core.log.base(),
            snapshot: core.snapshot.as_ref().map(|snapshot| snapshot.id.last),
            commit_index: shown.commit_index,
            last_applied: shown.last_applied,
            membership: core.membership().clone(),
            fence: shown.fence,
            lease_until: shown.lease_until,
            quorum_contact: leader.and_then(|leader| leader.quorum_contact(core)),
            peers: leader.map(|leader| peer_views(leader, &core.lives)).unwrap_or_default(),
            pending_reads: match &self.role {
                Role::Follower(follower) => follower.reads.len(),
                Role::Candidate(_) => 0,
                Role::Leader(leader) => leader.reads.len(),
            },
        }
    }

    fn as_leader(&self) -> Option<&Leader> {
        match &self.role {
            Role::Leader(leader) => Some(leader),
            _ => None,
        }
    }

    pub(super) fn kind(&self) -> RoleKind {
        match &self.role {
            Role::Follower(_) if !self.core.is_voter() => RoleKind::Learner,
            Role::Follower(_) => RoleKind::Follower,
            Role::Candidate(candidate) if candidate.ballot.pre_vote => RoleKind::PreCandidate,
            Role::Candidate(_) => RoleKind::Candidate,
            Role::Leader(_) => RoleKind::Leader,
        }
    }

    pub(super) fn leader(&self) -> Option<NodeId> {
        match &self.role {
            Role::Follower(follower) => follower.leader,
            Role::Candidate(_) => None,
            Role::Leader(_) => Some(self.core.id()),
        }
    }

    // What callers want.

    fn on_propose(&mut self, ticket: Ticket, command: bytes::Bytes) {
        match &mut self.role {
            Role::Leader(leader) => leader.on_propose(&mut self.core, ticket, command),
            _ => self.not_leader(ticket),
        }
    }

    fn on_read(&mut self, ticket: Ticket) {
        match &mut self.role {
            Role::Leader(leader) => leader.on_read(&mut self.core, Reader::Here(ticket)),
            Role::Follower(follower) => follower.on_read(&mut self.core, ticket),
            Role::Candidate(_) => self.not_leader(ticket),
        }
    }

    fn on_transfer(&mut self, ticket: Ticket, to: Option<NodeId>) {
        match &mut self.role {
            Role::Leader(leader) => leader.on_transfer(&mut self.core, ticket, to),
            _ => self.not_leader(ticket),
        }
    }

    fn on_reconfigure(&mut self, ticket: Ticket, change: &Change) {
        match &mut self.role {
            Role::Leader(leader) => leader.on_reconfigure(&mut self.core, ticket, change),
            _ => self.not_leader(ticket),
        }
    }

    fn not_leader(&mut self, ticket: Ticket) {
        let leader = self.leader();
        self.core.reply(ticket, Outcome::NotLeader { leader });
    }

    // Time and disk.

    fn on_timeout(&mut self) {
        let now = self.core.now;
        if let Some(departure) = self.core.departure.take_if(|departure| now >= departure.deadline) {
            self.core.answer(departure.ticket, Outcome::TransferRefused(TransferRefusal::TimedOut));
        }
        match &mut self.role {
            Role::Follower(follower) => {
                follower.expire_reads(&mut self.core);
                if let Some(fetch) = &mut follower.fetch {
                    fetch.on_timeout(&mut self.core, follower.leader);
                }
                if now >= follower.deadline {
                    self.campaign(Cause::ElectionTimeout);
                }
            }
            Role::Candidate(candidate) if now >= candidate.deadline => self.campaign(Cause::ElectionLost),
            Role::Candidate(candidate) => candidate.on_timeout(&mut self.core),
            Role::Leader(leader) => {
                if let Some(cause) = leader.on_timeout(&mut self.core) {
                    self.become_follower(cause);
                }
            }
        }
    }

    /// A write completed: a candidate's own vote may count now, a leader's own entries may commit.
    fn on_durable(&mut self) {
        match &mut self.role {
            Role::Candidate(_) => self.count_votes(),
            Role::Leader(leader) => leader.advance(&mut self.core),
            Role::Follower(_) => {}
        }
    }

    /// The content of a snapshot: taken here, or on its way here. A follower that becomes something else
    /// forgets what it was fetching; whoever keeps the content does not.
    fn on_snapshot(&mut self, input: SnapshotInput) {
        match (input, &mut self.role) {
            (SnapshotInput::Taken(snapshot), role) => {
                let taken = self.core.snapshot.as_ref().map(|snapshot| snapshot.id.last.index);
                let last = snapshot.id.last.index;
                let is_newer = taken < Some(last) && last > self.core.log.base().index;
                if is_newer && last <= self.core.last_applied {
                    let needed = match role {
                        Role::Leader(leader) => leader.entries_needed(&self.core),
                        _ => None,
                    };
                    self.core.compact(snapshot, needed);
                }
            }
            (SnapshotInput::Read { to, chunk }, Role::Leader(leader)) => {
                if chunk.bytes.is_empty() {
                    leader.on_gone(&self.core, chunk.id);
                }
                self.core.send(to, Session::ZERO, Body::SnapshotChunk(chunk), IoSeq::ZERO);
            }
            (input, Role::Follower(follower)) => follower.on_snapshot(&mut self.core, &input),
            _ => {}
        }
    }

    /// What a snapshot taken now would stand for, when it is time to take one. A node that was added and
    /// has not come to the entry that says so does not know the membership that belongs to it (N4).
    pub fn wants_snapshot(&self) -> Option<(LogId, Membership)> {
        let core = &self.core;
        let index = core.last_applied;
        let term = core.log.term_at(index)?;
        let membership = core.log.membership_at(index);
        let wants = core.wants_snapshot() && !membership.voters.is_empty();
        wants.then(|| (LogId::new(term, index), membership.clone()))
    }

    /// L9: a node whose disk stalls can't lead, and can't vote for itself.
    fn on_disk_stalled(&mut self, stalled: bool) {
        self.core.disk_stalled = stalled;
        if stalled && !matches!(self.role, Role::Follower(_)) {
            self.become_follower(Cause::DiskStalled);
        }
    }

    // Changes of role.

    /// Nobody leads: ask whether a campaign could be won, if this node may campaign at all.
    fn campaign(&mut self, cause: Cause) {
        let promised = self.core.now < self.core.promised.end();
        if promised || self.core.disk_stalled || !self.core.may_campaign() {
            self.core.say_if_removed();
            return self.become_follower(cause);
        }
        self.leave();
        let before = self.kind();
        self.role = Role::Candidate(Candidate::pre_vote(&mut self.core));
        if self.kind() != before {
            self.announce(cause);
        }
        self.count_votes();
    }

    pub(super) fn become_candidate(&mut self, release: Option<Release>, cause: Cause) {
        self.leave();
        self.role = Role::Candidate(Candidate::vote(&mut self.core, release));
        self.announce(cause);
        self.count_votes();
    }

    pub(super) fn count_votes(&mut self) {
        let Role::Candidate(candidate) = &self.role else { return };
        if !candidate.has_won(&self.core) {
            return;
        }
        if candidate.ballot.pre_vote {
            return self.become_candidate(None, Cause::PreVoteWon);
        }
        self.role = Role::Leader(Box::new(Leader::new(&mut self.core)));
        self.announce(Cause::ElectionWon);
        self.settle_departure();
    }

    /// Falls back to follower in the present term. The vote stays (V3), the log stays (C11), and
    /// the lease is gone with the role (R14).
    pub(super) fn become_follower(&mut self, cause: Cause) {
        self.fall_back(None, cause);
    }

    /// A message showed a higher term. A follower's timer goes on: a candidate that can't win must
    /// not keep one that can from trying.
    pub(super) fn adopt_term(&mut self, term: Term) {
        let timer = match &self.role {
            Role::Follower(follower) => Some(follower.deadline),
            _ => None,
        };
        self.fall_back(Some(term), Cause::HigherTerm);
        if let (Role::Follower(follower), Some(deadline)) = (&mut self.role, timer) {
            follower.deadline = deadline;
        }
    }

    fn fall_back(&mut self, term: Option<Term>, cause: Cause) {
        self.leave();
        let before = self.kind();
        if let Some(term) = term {
            self.core.adopt_term(term);
        }
        self.role = Role::Follower(Follower::new(&mut self.core));
        if self.kind() != before {
            self.announce(cause);
        }
    }

    /// Ends what belongs to the present role; who waits is answered.
    fn leave(&mut self) {
        let core = &mut self.core;
        match &mut self.role {
            Role::Follower(follower) => follower.abandon_reads(core),
            Role::Candidate(_) => {}
            Role::Leader(leader) => leader.retire(core),
        }
    }

    fn announce(&mut self, cause: Cause) {
        let (role, term) = (self.kind(), self.core.term());
        self.core.event(Event::RoleChanged { role, term, cause });
    }

    /// A leader of a higher term is known: that is how the transfer ended.
    pub(super) fn settle_departure(&mut self) {
        let (leader, term, own) = (self.leader(), self.core.term(), self.core.id());
        let Some(to) = leader else { return };
        if let Some(departure) = self.core.departure.take_if(|departure| term > departure.from_term) {
            let outcome = if to == own {
                Outcome::TransferRefused(TransferRefusal::TimedOut)
            } else {
                Outcome::Transferred { to, term }
            };
            self.core.answer(departure.ticket, outcome);
        }
    }
}

fn peer_views(leader: &Leader, lives: &BTreeMap<NodeId, Life>) -> Vec<PeerView> {
    let view = |(id, peer): (&NodeId, &crate::raft::progress::Progress)| PeerView {
        id: *id,
        life: lives.get(id).copied(),
        match_index: peer.match_index,
        next_index: peer.next_index,
        last_contact: peer.last_heard,
        commit_index: peer.commit_index,
        last_applied: peer.last_applied,
    };
    leader.peers.iter().map(view).collect()
}
