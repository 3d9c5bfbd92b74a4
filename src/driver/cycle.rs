//! One turn of the loop, without IO: the core, the state machine and what waits for either.
//!
//! [`Cycle::feed`] hands inputs to the core and [`Cycle::drain`] carries out the effects that need no IO:
//! committed entries are applied, answers find their callers, and a message that must wait for the
//! disk is held back until the persistence watermark has passed. What remains is an [`Output`]: what
//! to persist, what to send, whom to answer. The real loop (`run`) hands these to redb and quinn;
//! the simulator hands them to a simulated disk and network. Both run this same file.
//!
//! Applying is cut into slices, one a turn. After a restart of all nodes the first commit hands the whole
//! log out at once; a leader that applied it in one go would send no heartbeat meanwhile, and lose the
//! office it has just won.
//!
//! Order inside one `Output` is part of the contract: publish [`Cycle::leadership`] first, then
//! persist, then send, then answer. So a lease is dead in every reader's eyes before the message
//! leaves that lets another node be elected (R4).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;

use crate::driver::handle::{Applied, ReadPoint, Refused, Transferred};
use crate::fencing::leadership::Leadership;
use crate::ids::{IoSeq, LogId, LogIndex, NodeId, Term, Ticket};
use crate::raft::Node;
use crate::raft::effect::{Change, Effect, Event, Input, Outcome, SnapshotEffect, SnapshotInput};
use crate::raft::entry::{Entry, Membership, Persist, Snapshot, SnapshotId};
use crate::raft::message::{FetchSnapshot, Message};
use crate::raft::view::View;
use crate::registry::command::{Command, Op};
use crate::registry::machine::Machine;
use crate::time::Instant;

/// Entries applied in one turn: about a millisecond's worth, a small part of a heartbeat interval.
const APPLY_SLICE: usize = 1024;

/// The synchronous heart of a node.
#[derive(Debug)]
pub struct Cycle {
    node: Node,
    machine: Arc<RwLock<Machine>>,
    /// Everything up to here is durable.
    durable: IoSeq,
    /// Messages that wait for the watermark, in the order they were made.
    held: VecDeque<(IoSeq, Message)>,
    /// Confirmed reads that wait until their position is applied.
    reads: BTreeMap<LogIndex, Vec<(Ticket, Term)>>,
    /// Committed entries that are not applied yet.
    backlog: VecDeque<Entry>,
    /// Who waits for which of them.
    committed: BTreeMap<LogIndex, Ticket>,
    /// The term in which each transfer was asked for.
    transfers: BTreeMap<Ticket, Term>,
    /// Whether a snapshot is being taken.
    taking: bool,
    /// Writes after which a start begins with another snapshot.
    settling: VecDeque<(IoSeq, SnapshotId)>,
    /// A state that was fetched, until the core installs it.
    fetched: Option<(SnapshotId, Machine)>,
    /// How many entries are applied in one turn at most.
    apply_slice: usize,
    /// What the turn wants done so far.
    output: Output,
}

/// What a turn wants done, in this order.
#[derive(Debug, Default)]
pub struct Output {
    /// For the persistence queue.
    pub persist: Vec<Persist>,
    /// For the keeper of snapshots.
    pub snapshots: Vec<SnapshotWork>,
    /// For the network; everything these depend on is durable.
    pub send: Vec<Message>,
    /// For the callers.
    pub answers: Vec<(Ticket, Answered)>,
    /// For the log and the metrics.
    pub events: Vec<Event>,
}

/// Work on the content of snapshots, for the keeper, which may take its time.
#[derive(Debug, Clone)]
pub enum SnapshotWork {
    /// Write `machine` down, durably, and report [`SnapshotDone::Taken`].
    Take {
        /// The last entry it stands for.
        last: LogId,
        /// The membership after it.
        membership: Membership,
        /// A copy of the state machine.
        machine: Box<Machine>,
    },
    /// See [`SnapshotEffect::Begin`].
    Begin(Snapshot),
    /// See [`SnapshotEffect::Store`].
    Store {
        /// Of which snapshot.
        id: SnapshotId,
        /// From which byte.
        offset: u64,
        /// The piece.
        bytes: Bytes,
    },
    /// See [`SnapshotEffect::Finish`].
    Finish(SnapshotId),
    /// A start begins with this snapshot, durably: those before it may go.
    Settled(SnapshotId),
    /// See [`SnapshotEffect::Serve`].
    Serve {
        /// The follower.
        to: NodeId,
        /// What it wants.
        wanted: FetchSnapshot,
    },
}

/// What became of it.
#[derive(Debug)]
pub enum SnapshotDone {
    /// For the core, as it is.
    Report(SnapshotInput),
    /// After [`SnapshotWork::Take`].
    Taken(Snapshot),
    /// After [`SnapshotWork::Finish`].
    Fetched {
        /// Of which snapshot.
        id: SnapshotId,
        /// What it holds.
        machine: Box<Machine>,
    },
}

/// How a caller's request ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answered {
    /// A proposal was committed and applied.
    Applied(Applied),
    /// A read may be served from this node's state now.
    Read(ReadPoint),
    /// Leadership moved.
    Transferred(Transferred),
    /// A change of membership is complete, with this entry.
    Reconfigured(LogId),
    /// It was not served.
    Refused(Refused),
}

impl Cycle {
    /// Joins a core that has just started with the state machine of its snapshot, or an empty one.
    pub fn new(node: Node, machine: Arc<RwLock<Machine>>) -> Self {
        Self {
            node,
            machine,
            durable: IoSeq::ZERO,
            held: VecDeque::new(),
            reads: BTreeMap::new(),
            backlog: VecDeque::new(),
            committed: BTreeMap::new(),
            transfers: BTreeMap::new(),
            taking: false,
            settling: VecDeque::new(),
            fetched: None,
            apply_slice: APPLY_SLICE,
            output: Output::default(),
        }
    }

    /// Applies at most `entries` in a turn instead: what is committed and not applied yet is then
    /// seen without a log of thousands.
    pub fn applying(self, entries: usize) -> Self {
        Self { apply_slice: entries.max(1), ..self }
    }

    /// One input and all that follows from it.
    pub fn step(&mut self, now: Instant, input: Input) -> Output {
        self.feed(now, input);
        self.drain(now)
    }

    /// Hands one input to the core. Several may be fed before they are drained, and then share
    /// their writes and messages: this is what makes a group commit.
    pub fn feed(&mut self, now: Instant, input: Input) {
        if let Input::Persisted { io } = input {
            self.release(io);
        }
        if let Input::Transfer { ticket, .. } = input {
            self.transfers.insert(ticket, self.node.term());
        }
        self.node.step(now, input);
    }

    /// Proposes `op`. One that was decided in another term is refused before it is appended: whoever
    /// decided did not know of this term (P1).
    pub fn propose(&mut self, now: Instant, decided_in: Term, op: Op, ticket: Ticket) {
        if decided_in != self.node.term() {
            return self.leads_not(ticket);
        }
        let command = Command { decided_in, op };
        match postcard::to_allocvec(&command) {
            Ok(bytes) => self.feed(now, Input::Propose { ticket, command: Bytes::from(bytes) }),
            // Encoding into memory fails only when memory does; nothing was appended.
            Err(_) => self.output.answers.push((ticket, Answered::Refused(Refused::Busy))),
        }
    }

    /// Hands leadership over, in the term in which it was decided where that matters.
    pub fn transfer(&mut self, now: Instant, decided_in: Option<Term>, to: Option<NodeId>, ticket: Ticket) {
        if decided_in.is_some_and(|term| term != self.node.term()) {
            return self.leads_not(ticket);
        }
        self.feed(now, Input::Transfer { ticket, to });
    }

    fn leads_not(&mut self, ticket: Ticket) {
        let leader = self.node.leadership().leader_elsewhere();
        self.output.answers.push((ticket, Answered::Refused(Refused::NotLeader { leader })));
    }

    /// The keeper of snapshots reports.
    pub fn snapshot_done(&mut self, now: Instant, done: SnapshotDone) {
        let input = match done {
            SnapshotDone::Report(input) => input,
            SnapshotDone::Taken(snapshot) => {
                self.taking = false;
                SnapshotInput::Taken(snapshot)
            }
            SnapshotDone::Fetched { id, machine } => {
                self.fetched = Some((id, *machine));
                SnapshotInput::Fetched(id)
            }
        };
        self.feed(now, Input::Snapshot(input));
        // If the core had a use for it, it was taken by now.
        self.drain_effects();
        self.fetched = None;
    }

    /// The keeper of snapshots has too much to do. A piece that was to be served or stored is asked for
    /// again; what only this node wants is wanted again.
    pub fn snapshot_not_done(&mut self, now: Instant, work: &SnapshotWork) {
        match work {
            SnapshotWork::Take { .. } => self.taking = false,
            SnapshotWork::Begin(Snapshot { id, .. }) | SnapshotWork::Finish(id) => {
                self.feed(now, Input::Snapshot(SnapshotInput::Failed(*id)));
            }
            SnapshotWork::Store { .. } | SnapshotWork::Serve { .. } | SnapshotWork::Settled(_) => {}
        }
    }

    /// Carries out what follows from everything fed since the last call.
    pub fn drain(&mut self, now: Instant) -> Output {
        let mut slice = self.apply_slice;
        loop {
            self.drain_effects();
            // What the application makes possible is carried out in the same turn.
            slice -= self.apply(now, slice);
            if slice == 0 || self.backlog.is_empty() {
                break;
            }
        }
        self.drain_effects();
        self.take_snapshot();
        std::mem::take(&mut self.output)
    }

    fn drain_effects(&mut self) {
        while let Some(effect) = self.node.poll() {
            self.carry_out(effect);
        }
    }

    /// One at a time, and as long as the core wants one (N10).
    fn take_snapshot(&mut self) {
        if self.taking {
            return;
        }
        let Some((last, membership)) = self.node.wants_snapshot() else { return };
        self.taking = true;
        let machine = Box::new(self.machine.read().unwrap_or_else(PoisonError::into_inner).clone());
        assert_eq!(machine.applied(), last, "the state machine stands where the core says");
        self.output.snapshots.push(SnapshotWork::Take { last, membership, machine });
    }

    /// When to call [`Cycle::step`] with [`Input::Timeout`] at the latest: at once, while there is more
    /// to apply. Never earlier than that: who is late for it counts as stopped in between.
    pub fn deadline(&self, now: Instant) -> Instant {
        let deadline = self.node.deadline();
        if self.backlog.is_empty() { deadline } else { deadline.min(now) }
    }

    /// The core's state.
    pub fn view(&self) -> View {
        self.node.view()
    }

    /// Whether a change of the membership would be made now; nothing happens.
    ///
    /// # Errors
    /// What the change would be answered with.
    pub fn judge(&self, change: &Change) -> Result<(), Refused> {
        let verdict = self.node.judge(change);
        let leader = self.node.leadership().leader_elsewhere();
        verdict.ok_or(Refused::NotLeader { leader })?.map_err(Refused::Reconfigure)
    }

    /// The picture that the edges decide by.
    pub fn leadership(&self) -> Leadership {
        self.node.leadership()
    }

    /// Whom the core talks to.
    pub fn correspondents(&self) -> BTreeSet<NodeId> {
        self.node.correspondents()
    }

    /// The applied state.
    pub fn machine(&self) -> &Arc<RwLock<Machine>> {
        &self.machine
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Persist(persist) => {
                let snapshot = persist.compact.as_ref().map(|compaction| compaction.snapshot.id);
                self.settling.extend(snapshot.map(|id| (persist.io, id)));
                self.output.persist.push(persist);
            }
            Effect::Send { message, after } => self.send(message, after),
            Effect::Apply(entries) => self.backlog.extend(entries),
            Effect::Reply { ticket, outcome } => self.reply(ticket, outcome),
            Effect::Snapshot(effect) => self.snapshot(effect),
            Effect::Event(event) => self.output.events.push(event),
        }
    }

    fn snapshot(&mut self, effect: SnapshotEffect) {
        let work = match effect {
            SnapshotEffect::Begin(snapshot) => SnapshotWork::Begin(snapshot),
            SnapshotEffect::Store { id, offset, bytes } => SnapshotWork::Store { id, offset, bytes },
            SnapshotEffect::Finish(id) => SnapshotWork::Finish(id),
            SnapshotEffect::Serve { to, wanted } => SnapshotWork::Serve { to, wanted },
            SnapshotEffect::Restore(snapshot) => return self.restore(&snapshot),
        };
        self.output.snapshots.push(work);
    }

    /// The fetched state takes the place of the present one. What was committed and not applied yet is
    /// part of it; who waited for the answer of such an entry will not hear it.
    fn restore(&mut self, snapshot: &Snapshot) {
        let last = snapshot.id.last.index;
        let (id, machine) = self.fetched.take().expect("the core installs what was reported as fetched");
        assert_eq!(id, snapshot.id, "the core installs what was fetched last");
        self.machine.write().unwrap_or_else(PoisonError::into_inner).replace(machine);
        self.backlog.retain(|entry| entry.id.index > last);
        let still_waiting = self.committed.split_off(&last.next());
        for ticket in std::mem::replace(&mut self.committed, still_waiting).into_values() {
            self.output.answers.push((ticket, Answered::Refused(Refused::Unknown)));
        }
        self.serve_reads(last);
    }

    fn send(&mut self, message: Message, after: Option<IoSeq>) {
        match after {
            Some(io) if io > self.durable => self.held.push_back((io, message)),
            _ => self.output.send.push(message),
        }
    }

    /// Moves the watermark and lets go what waited for it.
    fn release(&mut self, io: IoSeq) {
        assert!(io >= self.durable, "the persistence watermark went back from {} to {io}", self.durable);
        self.durable = io;
        let settled = self.settling.iter().take_while(|(write, _)| *write <= io).count();
        let settled = self.settling.drain(..settled).map(|(_, id)| SnapshotWork::Settled(id));
        self.output.snapshots.extend(settled);
        for (after, message) in std::mem::take(&mut self.held) {
            self.send(message, Some(after));
        }
    }

    /// Applies up to `limit` committed entries, and answers who waited for them; returns how many.
    fn apply(&mut self, now: Instant, limit: usize) -> usize {
        let entries: Vec<Entry> = self.backlog.drain(..limit.min(self.backlog.len())).collect();
        let Some(last) = entries.last().map(|entry| entry.id.index) else { return 0 };
        let mut answers = Vec::with_capacity(entries.len());
        {
            let mut machine = self.machine.write().unwrap_or_else(PoisonError::into_inner);
            answers.extend(entries.iter().map(|entry| machine.apply(entry)));
        }
        for (entry, answer) in entries.iter().zip(answers) {
            let LogId { index, term } = entry.id;
            if let Some(ticket) = self.committed.remove(&index) {
                let answer = answer.expect("a proposal is a command, and commands are answered");
                self.output.answers.push((ticket, Answered::Applied(Applied { index, term, answer })));
            }
        }
        self.node.step(now, Input::Applied { index: last });
        self.serve_reads(last);
        entries.len()
    }

    fn serve_reads(&mut self, applied: LogIndex) {
        let still_waiting = self.reads.split_off(&applied.next());
        for (index, callers) in std::mem::replace(&mut self.reads, still_waiting) {
            for (ticket, term) in callers {
                self.output.answers.push((ticket, Answered::Read(ReadPoint { index, term })));
            }
        }
    }

    fn reply(&mut self, ticket: Ticket, outcome: Outcome) {
        let from_term = self.transfers.remove(&ticket);
        let answered = match outcome {
            Outcome::Committed(id) => {
                assert!(
                    id.index > self.node.last_applied(),
                    "who waits is known before the entry is applied"
                );
                self.committed.insert(id.index, ticket);
                return;
            }
            Outcome::ReadAt { index, term } => {
                self.reads.entry(index).or_default().push((ticket, term));
                return self.serve_reads(self.node.last_applied());
            }
            Outcome::NotLeader { leader } => Answered::Refused(Refused::NotLeader { leader }),
            Outcome::Unknown => Answered::Refused(Refused::Unknown),
            Outcome::Busy => Answered::Refused(Refused::Busy),
            Outcome::Transferred { to, term } => {
                Answered::Transferred(Transferred { from_term: from_term.unwrap_or_default(), to, term })
            }
            Outcome::TransferRefused(why) => Answered::Refused(Refused::Transfer(why)),
            Outcome::Reconfigured(at) => Answered::Reconfigured(at),
            Outcome::ReconfigureRefused(why) => Answered::Refused(Refused::Reconfigure(why)),
        };
        self.output.answers.push((ticket, answered));
    }
}

#[cfg(test)]
mod tests;
