//! The leader: replicates, commits, keeps its lease, and steps down when no quorum answers.

use std::collections::BTreeMap;

use crate::ids::{IoSeq, LogId, LogIndex, NodeId, ReadPos, Session, Ticket};
use crate::lease::{Lease, promise_end};
use crate::raft::core::Core;
use crate::raft::effect::{Cause, DropReason, Outcome};
use crate::raft::entry::{Entry, Payload, SnapshotId};
use crate::raft::message::{
    AppendEntries, AppendEntriesResponse, AppendResult, Beat, Body, InstallSnapshot, Message,
    ReadIndexResponse,
};
use crate::raft::progress::Progress;
use crate::raft::read_index::{Reader, Reads};
use crate::raft::reconfigure::Leaving;
use crate::raft::transfer::{Departure, Transfer};
use crate::time::{Duration, Instant};

/// How many times as much as a snapshot is due for, in entries and in bytes, the log may hold for whoever fetches one.
const LOG_GROWTH: u64 = 4;
/// Longest election timeouts without a word after which a follower is waited for no more.
const SILENCE: u32 = 10;

/// A leader, with everything that exists only while it leads.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Leader {
    /// The first entry of the own term. Nothing is confirmed before it is committed (R1).
    pub noop: LogIndex,
    /// Only answers to beats sent after this make a lease (R4, R8).
    pub suspect_since: Option<Instant>,
    pub reads: Reads,
    /// Who waits for which entry.
    proposals: BTreeMap<LogIndex, Proposal>,
    /// Bytes of the commands that are proposed and not committed.
    proposed_bytes: usize,
    pub transfer: Option<Transfer>,
    /// Who waits for the change of membership that is under way.
    pub changing: Option<Ticket>,
    /// Who is no member any more and may not know it (MC-6).
    pub leaving: BTreeMap<NodeId, Leaving>,
    pub heartbeat_at: Instant,
    /// Last, so that it ends where a hash of all of it ends (`tests/exhaustive/symmetry.rs`).
    pub peers: BTreeMap<NodeId, Progress>,
}

/// A command that is not committed yet.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Proposal {
    ticket: Ticket,
    size: usize,
}

impl Leader {
    /// Takes office: opens a session with everybody, appends the no-op, and tells all at once.
    pub fn new(core: &mut Core) -> Self {
        let next = core.last_log().index.next();
        let mut leader = Self {
            noop: next,
            peers: BTreeMap::new(),
            suspect_since: None,
            reads: Reads::default(),
            proposals: BTreeMap::new(),
            proposed_bytes: 0,
            transfer: None,
            changing: None,
            leaving: BTreeMap::new(),
            heartbeat_at: core.now,
        };
        for peer in core.peers() {
            leader.peers.insert(peer, Progress::new(core.next_session(), next, core.now));
        }
        leader.heartbeat(core);
        leader.append(core, Payload::NoOp { leader: core.id() });
        leader
    }

    pub fn append(&mut self, core: &mut Core, payload: Payload) -> LogIndex {
        let index = core.last_log().index.next();
        core.write_log(None, &[Entry { id: LogId::new(core.term(), index), payload }]);
        index
    }

    /// A caller wants a command in the log.
    pub fn on_propose(&mut self, core: &mut Core, ticket: Ticket, command: bytes::Bytes) {
        if self.transfer.is_some() {
            // Who leads next takes it: nothing happened, and the caller may wait for that node.
            return core.reply(ticket, Outcome::NotLeader { leader: None });
        }
        let uncommitted = core.last_log().index.0 - core.commit_index.0;
        let (limits, bytes) = (&core.config, self.proposed_bytes + command.len());
        let full = uncommitted >= limits.max_uncommitted as u64 || bytes > limits.max_uncommitted_bytes;
        // One command always fits, however large.
        if full && uncommitted > 0 {
            return core.reply(ticket, Outcome::Busy);
        }
        self.proposed_bytes = bytes;
        let size = command.len();
        let index = self.append(core, Payload::Command(command));
        self.proposals.insert(index, Proposal { ticket, size });
    }

    /// Wants to read, here or at a follower. The position is this leader's own (R3); what was
    /// committed by now, and the no-op, is what the read must see (R1).
    pub fn on_read(&mut self, core: &mut Core, reader: Reader) {
        if self.reads.len() >= core.config.max_pending_reads {
            return match reader {
                Reader::Here(ticket) => core.reply(ticket, Outcome::Busy),
                Reader::There(node, id) => answer_read(core, node, id, None),
            };
        }
        self.reads.register(core.commit_index.max(self.noop), reader);
    }

    /// Everything that the last steps made possible: entries to followers, a round for the reads.
    pub fn flush(&mut self, core: &mut Core) {
        if self.reads.wants_round() {
            self.begin_round(core);
        }
        let ids: Vec<NodeId> = self.peers.keys().copied().collect();
        for id in ids {
            self.replicate(core, id);
        }
        self.hand_over(core);
    }

    fn replicate(&mut self, core: &mut Core, to: NodeId) {
        let beat = self.next_beat(core);
        let Some(peer) = self.peers.get_mut(&to) else { return };
        while let Some((prev_log, entries)) = peer.next_batch(core.now, &core.log, &core.config) {
            let last = entries.last().map_or(prev_log.index, |entry| entry.id.index);
            peer.commit_told = peer.commit_told.max(core.commit_index.min(last));
            let (leader_commit, known) = (core.commit_index, known_to_newcomer(core, to, peer));
            let append = AppendEntries { prev_log, entries, leader_commit, beat, known };
            core.send(to, peer.session, Body::AppendEntries(append), IoSeq::ZERO);
        }
        // MC-11: it has to know of its name before it gets a membership from before it was added.
        let told = peer.contact.is_some() || !core.was_added_by_directory(to);
        if told && let Some(snapshot) = peer.next_offer(&core.log, core.snapshot.as_ref()) {
            let offer = Body::InstallSnapshot(InstallSnapshot { snapshot, beat });
            core.send(to, peer.session, offer, IoSeq::ZERO);
        }
        // A follower that holds what is committed, and does not know it, is told without delay.
        if core.commit_index.min(peer.match_index) > peer.commit_told {
            send_beat(core, to, peer, beat);
        }
    }

    fn next_beat(&self, core: &Core) -> Beat {
        Beat { sent_at: core.now, read_pos: self.reads.last }
    }

    /// L11: a heartbeat to everybody, outside of every window.
    fn beat(&mut self, core: &mut Core) {
        let beat = self.next_beat(core);
        for (id, peer) in &mut self.peers {
            send_beat(core, *id, peer, beat);
        }
    }

    fn heartbeat(&mut self, core: &mut Core) {
        self.heartbeat_at = core.now + core.config.heartbeat_interval;
        for peer in self.peers.values_mut() {
            peer.on_heartbeat(core.now, &core.config);
        }
        self.begin_round(core);
    }

    /// Asks everybody, for all reads that are there. A leader that is a quorum by itself has its answer.
    fn begin_round(&mut self, core: &mut Core) {
        self.reads.asked = self.reads.last;
        self.beat(core);
        self.confirm_reads(core);
    }

    /// Whether leadership must end, and why.
    pub fn on_timeout(&mut self, core: &mut Core) -> Option<Cause> {
        if core.now >= self.quorum_deadline(core) {
            return Some(Cause::QuorumLost);
        }
        if let Some(transfer) = self.transfer.take_if(|transfer| core.now >= transfer.deadline) {
            self.give_up_transfer(core, transfer.ticket);
        }
        if self.must_hand_over(core) {
            match self.choose(core, None) {
                Ok(target) => self.begin_transfer(core, None, target),
                Err(_) => return Some(Cause::NotAVoter),
            }
        }
        if core.now >= self.heartbeat_at {
            self.let_go(core);
            if let Some(transfer) = &mut self.transfer {
                // It may have been lost; a target that has campaigned is beyond it.
                transfer.said = false;
            }
            self.heartbeat(core);
        }
        None
    }

    /// Opens a new session with a follower that has started anew: it may hold less (M7).
    pub fn on_new_life(&mut self, core: &mut Core, follower: NodeId) {
        if let Some(peer) = self.peers.get_mut(&follower) {
            *peer = Progress::new(core.next_session(), core.last_log().index, peer.reached);
        }
    }

    /// Opens new sessions with everybody, so that nothing said in the present ones counts.
    pub fn renew_sessions(&mut self, core: &mut Core) {
        for peer in self.peers.values_mut() {
            *peer = peer.renewed(core.next_session(), &core.log);
        }
        self.heartbeat(core);
    }

    /// An answer to AppendEntries.
    pub fn on_append_response(
        &mut self,
        core: &mut Core,
        message: &Message,
        response: &AppendEntriesResponse,
    ) {
        let Some(peer) = self.peers.get_mut(&message.from) else {
            return core.dropped(message.from, DropReason::Late);
        };
        if peer.session != message.session {
            return core.dropped(message.from, DropReason::StaleSession);
        }
        if response.beat.sent_at > core.now || response.beat.read_pos > self.reads.last {
            return core.dropped(message.from, DropReason::Malformed);
        }
        peer.commit_index = response.commit_index;
        peer.last_applied = response.last_applied;
        match response.result {
            AppendResult::Accepted { match_index } if match_index > core.last_log().index => {
                core.dropped(message.from, DropReason::Malformed);
            }
            AppendResult::Accepted { match_index } => {
                peer.accepted(core.now, response, match_index, &core.log);
                self.advance(core);
            }
            AppendResult::Conflict { rejected, hint } => {
                if !peer.conflicted(&core.log, rejected, hint) {
                    core.dropped(message.from, DropReason::Late);
                }
            }
        }
    }

    /// Commits what a quorum holds durably, answers who waited for it, and confirms reads.
    ///
    /// Only an entry of the own term is ever counted; older ones are committed by it (C1, thesis
    /// 3.6.2). This node counts itself by what is on its own disk (C8), and only as a voter (M4).
    pub fn advance(&mut self, core: &mut Core) {
        let own = core.log.durable_index();
        let held = core.membership().agreed(|id| {
            if id == core.id() { Some(own) } else { self.peers.get(&id).map(|peer| peer.match_index) }
        });
        let held = held.unwrap_or(LogIndex::ZERO);
        if held > core.commit_index && core.log.term_at(held) == Some(core.term()) {
            core.commit_to(held);
            let waiting = self.proposals.split_off(&held.next());
            for (index, Proposal { ticket, size }) in std::mem::replace(&mut self.proposals, waiting) {
                self.proposed_bytes -= size;
                core.reply(ticket, Outcome::Committed(LogId::new(core.term(), index)));
            }
        }
        self.settle_membership(core);
        self.confirm_reads(core);
    }

    /// Answers the reads that a quorum of the *present* configuration has confirmed (R10), and none
    /// before the no-op is committed, not even without any follower (R2).
    fn confirm_reads(&mut self, core: &mut Core) {
        if core.commit_index < self.noop {
            return;
        }
        let confirmed = core.membership().agreed(|id| {
            if id == core.id() {
                Some(self.reads.last)
            } else {
                self.peers.get(&id).map(|peer| peer.read_pos)
            }
        });
        let term = core.term();
        for read in self.reads.confirm(confirmed.unwrap_or(ReadPos::ZERO)) {
            match read.reader {
                Reader::Here(ticket) => core.reply(ticket, Outcome::ReadAt { index: read.index, term }),
                Reader::There(node, id) => answer_read(core, node, id, Some(read.index)),
            }
        }
    }

    /// The last entry that a follower which fetches a snapshot will have: what comes after it is needed
    /// when it is done, or it would have to fetch the next one, for ever. Not while the log grows beyond
    /// all bounds, in entries or in bytes: then the follower begins anew. And nothing for who is silent.
    pub fn entries_needed(&self, core: &Core) -> Option<LogIndex> {
        let config = &core.config;
        let entries = config.snapshot_entries.saturating_mul(LOG_GROWTH).max(config.snapshot_keep);
        let bytes = config.snapshot_bytes.saturating_mul(LOG_GROWTH as usize).max(config.snapshot_keep_bytes);
        let held = || core.log.size(core.log.base().index, core.log.last().index);
        let silent = config.election_timeout_max * SILENCE;
        let is_there = |peer: &&Progress| core.now.since(peer.reached) < silent;
        let fetching = self.peers.values().filter(is_there).filter_map(Progress::fetching);
        fetching.map(|id| id.last.index).min().filter(|_| (core.log.len() as u64) < entries && held() < bytes)
    }

    /// The content of a snapshot is no longer there: who was offered it is offered the newest.
    pub fn on_gone(&mut self, core: &Core, gone: SnapshotId) {
        let newest = core.snapshot.as_ref().filter(|snapshot| snapshot.id != gone);
        for peer in self.peers.values_mut().filter(|peer| peer.fetching() == Some(gone)) {
            newest.into_iter().for_each(|snapshot| peer.offer(snapshot.clone()));
        }
    }

    /// The send time of the newest beat that a quorum has answered.
    pub fn quorum_contact(&self, core: &Core) -> Option<Instant> {
        core.membership().agreed(|id| {
            if id == core.id() { Some(core.now) } else { self.peers.get(&id).and_then(|peer| peer.contact) }
        })
    }

    /// When to step down unless a quorum answers (check quorum, thesis 6.2, L10).
    fn quorum_deadline(&self, core: &Core) -> Instant {
        let reached = core.membership().agreed(|id| {
            if id == core.id() { Some(core.now) } else { self.peers.get(&id).map(|peer| peer.reached) }
        });
        reached.unwrap_or(Instant::ZERO) + core.config.election_timeout_max
    }

    /// The lease, as the promises of a quorum of voters stand: see `lease`.
    pub fn lease(&self, core: &Core) -> Lease {
        if self.transfer.is_some() {
            return Lease::Suspect;
        }
        let drift = core.config.clock_drift_ppm;
        let end = core.membership().agreed(|id| {
            if id == core.id() {
                return promise_end(core.now, core.config.election_timeout_min, drift, drift);
            }
            let peer = self.peers.get(&id)?;
            let sent_at = peer.contact.filter(|at| self.suspect_since.is_none_or(|since| *at > since))?;
            promise_end(sent_at, peer.promise.no_vote_for, drift, peer.promise.clock_drift_ppm)
        });
        match end.map(|end| end.before(core.config.lease_margin)) {
            None if self.suspect_since.is_some() => Lease::Suspect,
            Some(until) if until > core.now => Lease::Valid { until },
            _ => Lease::Invalid,
        }
    }

    /// Something casts doubt on the lease: it must be earned anew, and soon.
    pub fn suspect(&mut self, core: &Core) {
        self.suspect_since = Some(core.now);
        // Strictly later, or the beat could not be told from one that was sent before.
        self.heartbeat_at = core.now + Duration::from_nanos(1);
    }

    /// When to look at the clock again.
    pub fn deadline(&self, core: &Core) -> Instant {
        let next = self.heartbeat_at.min(self.quorum_deadline(core));
        self.transfer.as_ref().map_or(next, |transfer| next.min(transfer.deadline))
    }

    /// Leadership is over: who waited is told what is known. An entry in the log may still be
    /// committed by the next leader, so nobody may say that it failed (P5).
    pub fn retire(&mut self, core: &mut Core) {
        for proposal in std::mem::take(&mut self.proposals).into_values() {
            core.reply(proposal.ticket, Outcome::Unknown);
        }
        core.answer(self.changing.take(), Outcome::Unknown);
        for read in std::mem::take(&mut self.reads).into_waiting() {
            match read.reader {
                Reader::Here(ticket) => core.reply(ticket, Outcome::NotLeader { leader: None }),
                Reader::There(node, id) => answer_read(core, node, id, None),
            }
        }
        core.departure = self.transfer.take().map(|transfer| Departure {
            ticket: transfer.ticket,
            from_term: core.term(),
            deadline: core.now + core.config.election_timeout_max,
        });
    }
}

/// A heartbeat: the entry before is known to match, so it is accepted.
fn send_beat(core: &mut Core, to: NodeId, peer: &mut Progress, beat: Beat) {
    peer.commit_told = peer.commit_told.max(core.commit_index.min(peer.match_index));
    let prev_log = peer.known_match(&core.log);
    let others = core.pinned.iter().filter(|(member, _)| **member != to && **member != core.id());
    let others = others.map(|(member, incarnation)| (*member, *incarnation));
    let known = others.chain(core.first_of_name(to).map(|first| (to, first))).collect();
    let (entries, leader_commit) = (Vec::new(), core.commit_index);
    let append = AppendEntries { prev_log, entries, leader_commit, beat, known };
    core.send(to, peer.session, Body::AppendEntries(append), IoSeq::ZERO);
}

/// MC-11: who lacks the membership in force is told, with what it gets, whose its name was before.
fn known_to_newcomer(core: &Core, to: NodeId, peer: &Progress) -> Vec<(NodeId, u64)> {
    let is_new = peer.match_index < core.log.membership_index();
    core.first_of_name(to).filter(|_| is_new).map(|first| (to, first)).into_iter().collect()
}

/// Tells a follower where it may read.
pub(super) fn answer_read(core: &mut Core, to: NodeId, id: u64, index: Option<LogIndex>) {
    let response = ReadIndexResponse { id, index };
    core.send(to, Session::ZERO, Body::ReadIndexResponse(response), IoSeq::ZERO);
}
