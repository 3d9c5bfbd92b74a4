//! The follower: takes the leader's entries, and gives its word not to vote for another.

use crate::ids::{IoSeq, LogId, LogIndex, NodeId, Session};
use crate::raft::core::Core;
use crate::raft::effect::{DropReason, Event, Outcome, SnapshotInput};
use crate::raft::entry::Entry;
use crate::raft::fetch::Fetch;
use crate::raft::message::{
    AppendEntries, AppendEntriesResponse, AppendResult, Beat, Body, InstallSnapshot, Promise, ReadIndex,
    ReadIndexResponse, SnapshotChunk, TimeoutNow,
};
use crate::raft::read_index::Forwarded;
use crate::time::Instant;

/// A follower, and what it waits for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Follower {
    /// The leader of the current term, once heard.
    pub leader: Option<NodeId>,
    /// When to ask whether a campaign could be won.
    pub deadline: Instant,
    /// Own reads that the leader was asked about.
    pub reads: Forwarded,
    /// A snapshot on its way here.
    pub fetch: Option<Fetch>,
}

impl Follower {
    pub fn new(core: &mut Core) -> Self {
        Self { leader: None, deadline: core.election_deadline(), reads: Forwarded::default(), fetch: None }
    }

    /// AppendEntries of this term's leader.
    pub fn on_append(&mut self, core: &mut Core, from: NodeId, session: Session, append: &AppendEntries) {
        if self.leader.is_some_and(|leader| leader != from) || !is_well_formed(core, append) {
            // Two leaders in a term, or entries that no leader would send.
            return core.dropped(from, DropReason::Malformed);
        }
        self.hear(core, from, session);
        for (member, incarnation) in &append.known {
            core.heard_of(*member, *incarnation);
        }
        match match_entries(core, append) {
            Fit::Accepted(match_index) => {
                // Not beyond what is known to be the leader's: the own tail may diverge (M16).
                core.commit_to(append.leader_commit.min(match_index).max(core.commit_index));
                let covering = core.log.write_covering(match_index).unwrap_or(IoSeq::ZERO);
                respond(core, from, session, append.beat, AppendResult::Accepted { match_index }, covering);
            }
            Fit::Conflict(hint) => {
                self.suspect_lost_data(core, append);
                let rejected = append.prev_log;
                let result = AppendResult::Conflict { rejected, hint };
                respond(core, from, session, append.beat, result, IoSeq::ZERO);
            }
            Fit::Impossible => core.dropped(from, DropReason::Malformed),
        }
    }

    /// This term's leader was heard. How slow it is with pieces of a snapshot is not known of a leader that was
    /// not heard just before (N11).
    fn hear(&mut self, core: &mut Core, from: NodeId, session: Session) {
        if self.leader.replace(from).is_none() {
            core.fetch_patience = 0;
        }
        core.promised.renew(core.now, core.config.election_timeout_min, from, core.term(), session);
        self.deadline = core.election_deadline();
        self.ask_again(core, from);
    }

    /// The leader offers a snapshot, because it no longer has what this node lacks.
    pub fn on_offer(&mut self, core: &mut Core, from: NodeId, session: Session, offer: &InstallSnapshot) {
        let last = offer.snapshot.id.last;
        if core.denies_committed(last) || self.leader.is_some_and(|leader| leader != from) {
            return core.dropped(from, DropReason::Malformed);
        }
        self.hear(core, from, session);
        if core.log.holds(last) {
            // What a snapshot stands for is committed, and this log agrees with it up to its end.
            core.commit_to(last.index.max(core.commit_index));
        }
        if last.index <= core.commit_index {
            // N3: nothing to install.
            let match_index = core.commit_index;
            let covering = core.log.write_covering(match_index).unwrap_or(IoSeq::ZERO);
            let result = AppendResult::Accepted { match_index };
            return respond(core, from, session, offer.beat, result, covering);
        }
        if self.fetch.is_none() {
            self.fetch = Some(Fetch::begin(core, offer.snapshot.clone()));
        }
    }

    /// A piece of a snapshot. An empty one means that the leader no longer has it: its next offer names
    /// one that it has.
    pub fn on_chunk(&mut self, core: &mut Core, from: NodeId, chunk: &SnapshotChunk) {
        let wanted = self.fetch.as_mut().filter(|fetch| fetch.id() == chunk.id && self.leader == Some(from));
        match wanted {
            None => core.dropped(from, DropReason::Late),
            Some(_) if chunk.bytes.is_empty() => self.fetch = None,
            Some(fetch) => fetch.on_chunk(core, from, chunk),
        }
    }

    /// The keeper of the snapshots' content reports.
    pub fn on_snapshot(&mut self, core: &mut Core, input: &SnapshotInput) {
        let Some(fetch) = &mut self.fetch else { return };
        match *input {
            SnapshotInput::Failed(id) if id == fetch.id() => self.fetch = None,
            SnapshotInput::Fetched(id) if id == fetch.id() => {
                let snapshot = fetch.snapshot().clone();
                self.fetch = None;
                core.fetch_patience = core.fetch_patience.saturating_sub(1);
                // Entries may have come another way meanwhile (N3).
                if snapshot.id.last.index > core.commit_index {
                    core.install(snapshot);
                }
            }
            _ => fetch.on_input(core, self.leader, input),
        }
    }

    /// A heartbeat names what this node has once acknowledged as durable. If it is gone, the disk has lost data:
    /// going on could lose what is committed (C14). Unless this directory is a fresh one, or the leader still
    /// speaks of another that went by this node's name: that one is refused, or added, as a directory (V8).
    fn suspect_lost_data(&self, core: &mut Core, append: &AppendEntries) {
        let acknowledged = append.entries.is_empty() && append.prev_log.index <= append.leader_commit;
        let fresh = core.life.boot <= 1;
        let of_another = core.is_a_mere_namesake() || core.is_said_of_another(&append.known);
        if acknowledged && !fresh && !of_another {
            core.event(Event::LostData { claimed: append.prev_log });
        }
    }

    /// T-1: TimeoutNow of this term's leader: whether to campaign at once. Only from the leader this
    /// node follows, in a session newer than any it has heard of (V10), with everything on disk
    /// that the leader had (M9), and with no promise of an earlier life in the way (M20).
    pub fn may_take_over(&self, core: &Core, from: NodeId, number: Session, order: &TimeoutNow) -> bool {
        let newer = core
            .promised
            .to
            .is_some_and(|(leader, term, session)| (leader, term) == (from, core.term()) && number > session);
        let durable = core.log.holds(order.last_log) && core.log.durable_index() >= order.last_log.index;
        let free = !core.disk_stalled && core.now >= core.promised.hold_until;
        self.leader == Some(from) && newer && durable && free && core.is_voter()
    }

    /// A caller wants to read here.
    pub fn on_read(&mut self, core: &mut Core, ticket: crate::ids::Ticket) {
        if self.leader.is_none() {
            return core.reply(ticket, Outcome::NotLeader { leader: None });
        }
        if self.reads.len() >= core.config.max_pending_reads {
            return core.reply(ticket, Outcome::Busy);
        }
        self.reads.add(ticket);
    }

    /// Asks the leader for everything that was collected since.
    pub fn flush(&mut self, core: &mut Core) {
        let Some(leader) = self.leader.filter(|_| self.reads.is_forming()) else { return };
        let id = core.next_read_id();
        self.reads.ask(id, core.now, core.config.election_timeout_max);
        core.send(leader, Session::ZERO, Body::ReadIndex(ReadIndex { id }), IoSeq::ZERO);
    }

    fn ask_again(&mut self, core: &mut Core, leader: NodeId) {
        for id in self.reads.ask_again(core.now, core.config.heartbeat_interval) {
            core.send(leader, Session::ZERO, Body::ReadIndex(ReadIndex { id }), IoSeq::ZERO);
        }
    }

    /// The leader's answer. It was confirmed in its term, which is this node's (R13).
    pub fn on_read_response(&mut self, core: &mut Core, from: NodeId, response: &ReadIndexResponse) {
        let tickets = self.reads.answered(response.id);
        if tickets.is_empty() || self.leader != Some(from) {
            core.dropped(from, DropReason::Late);
        }
        let outcome = match response.index.filter(|_| self.leader == Some(from)) {
            Some(index) => Outcome::ReadAt { index, term: core.term() },
            None => Outcome::NotLeader { leader: self.leader },
        };
        tickets.into_iter().for_each(|ticket| core.reply(ticket, outcome));
    }

    /// Gives up on reads that nobody answered.
    pub fn expire_reads(&mut self, core: &mut Core) {
        for ticket in self.reads.expired(core.now) {
            core.reply(ticket, Outcome::NotLeader { leader: self.leader });
        }
    }

    /// The leader is gone, or its term is over: so are the reads it was asked about (R13).
    pub fn abandon_reads(&mut self, core: &mut Core) {
        for ticket in self.reads.take_all() {
            core.reply(ticket, Outcome::NotLeader { leader: None });
        }
    }
}

/// Answers AppendEntries, also a stale one (L2): the response carries the term.
pub(super) fn respond(
    core: &mut Core,
    to: NodeId,
    session: Session,
    beat: Beat,
    result: AppendResult,
    after: IoSeq,
) {
    let response = AppendEntriesResponse {
        beat,
        result,
        promise: Promise {
            no_vote_for: core.config.election_timeout_min,
            clock_drift_ppm: core.config.clock_drift_ppm,
        },
        commit_index: core.commit_index,
        last_applied: core.last_applied,
    };
    core.send(to, session, Body::AppendEntriesResponse(response), after);
}

/// Contiguous, terms that never fall and are not above the leader's.
fn is_well_formed(core: &Core, append: &AppendEntries) -> bool {
    let mut last = append.prev_log;
    append.entries.iter().all(|entry| {
        let follows = entry.id.index == last.index.next() && entry.id.index > last.index;
        let in_order = entry.id.term >= last.term && entry.id.term <= core.term();
        last = entry.id;
        follows && in_order
    })
}

enum Fit {
    /// Everything up to here is the leader's.
    Accepted(LogIndex),
    /// The entry before is missing or another; this is the last that may match.
    Conflict(LogId),
    /// It contradicts what is committed.
    Impossible,
}

/// The consistency check of AppendEntries (thesis 3.5), and the writes that follow from it.
fn match_entries(core: &mut Core, append: &AppendEntries) -> Fit {
    let prev = append.prev_log;
    let last = LogIndex(prev.index.0.saturating_add(append.entries.len() as u64));
    if prev.index >= core.log.base().index && !core.log.holds(prev) {
        let conflict = core.log.last_possible_match(prev);
        let impossible = prev.index <= core.commit_index;
        return if impossible { Fit::Impossible } else { Fit::Conflict(conflict) };
    }
    // What was compacted is committed too: entries that go on behind it go through it.
    let base = core.log.base();
    if append.entries.iter().any(|entry| entry.id.index == base.index && entry.id != base) {
        return Fit::Impossible;
    }
    // What is already here stays, also behind the last of these: only a real conflict cuts (C4).
    let is_new = |entry: &&Entry| entry.id.index > base.index && !core.log.holds(entry.id);
    let Some(first_new) = append.entries.iter().find(is_new).map(|entry| entry.id.index) else {
        return Fit::Accepted(last.max(base.index).min(core.log.last().index));
    };
    if first_new <= core.commit_index {
        return Fit::Impossible;
    }
    let known = append.entries.iter().take_while(|entry| entry.id.index < first_new).count();
    let cut = (first_new <= core.log.last().index).then_some(first_new);
    core.write_log(cut, append.entries.get(known..).unwrap_or_default());
    // Never the own last index (C3).
    Fit::Accepted(last)
}
