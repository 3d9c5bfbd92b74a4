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
use crate::raft::effect::{Effect, Event, Input, Outcome, SnapshotEffect, SnapshotInput};
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
            let leader = self.node.leadership().leader_elsewhere();
            return self.output.answers.push((ticket, Answered::Refused(Refused::NotLeader { leader })));
        }
        let command = Command { decided_in, op };
        match postcard::to_allocvec(&command) {
            Ok(bytes) => self.feed(now, Input::Propose { ticket, command: Bytes::from(bytes) }),
            // Encoding into memory fails only when memory does; nothing was appended.
            Err(_) => self.output.answers.push((ticket, Answered::Refused(Refused::Busy))),
        }
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
    /// to apply.
    pub fn deadline(&self) -> Instant {
        if self.backlog.is_empty() { self.node.deadline() } else { Instant::ZERO }
    }

    /// The core's state.
    pub fn view(&self) -> View {
        self.node.view()
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
mod tests {
    use super::*;
    use crate::ids::{Life, ReadPos, Session};
    use crate::raft::Boot;
    use crate::raft::config::Config;
    use crate::raft::effect::RoleKind;
    use crate::raft::entry::{Durable, HardState, Payload};
    use crate::raft::message::{AppendEntries, Beat, Body};
    use crate::time::Duration;

    const NOW: Instant = Instant::from_millis(1000);

    fn noop(index: u64) -> Entry {
        let id = LogId::new(Term(1), LogIndex(index));
        Entry { id, payload: Payload::NoOp { leader: NodeId(1) } }
    }

    /// The only node of a cluster, started again over a log of `count` entries.
    fn restarted_alone(count: u64) -> Cycle {
        restarted_with(Config::new(NodeId(1)), count)
    }

    fn restarted_with(config: Config, count: u64) -> Cycle {
        let durable = Durable {
            hard_state: HardState { current_term: Term(1), voted_for: None },
            membership: Membership::of_voters([NodeId(1)]),
            log: (1..=count).map(noop).collect(),
            ..Durable::default()
        };
        let boot = Boot { durable, life: Life { incarnation: 1, boot: 2 }, promised: Duration::ZERO };
        let node = Node::new(config, boot, 1, Instant::ZERO);
        Cycle::new(node, Arc::new(RwLock::new(Machine::new(Vec::new()))))
    }

    /// Obeys one output's writes as a perfect disk would.
    fn persist(cycle: &mut Cycle, output: &Output) {
        if let Some(last) = output.persist.last() {
            cycle.feed(NOW, Input::Persisted { io: last.io });
        }
    }

    #[test]
    fn a_long_log_is_applied_in_slices_and_the_loop_goes_on_between_them() {
        let count = 3 * APPLY_SLICE as u64;
        let mut cycle = restarted_alone(count);
        let output = cycle.step(NOW, Input::Timeout);
        persist(&mut cycle, &output);
        let output = cycle.drain(NOW);
        persist(&mut cycle, &output);
        cycle.drain(NOW);
        assert_eq!(cycle.view().commit_index, LogIndex(count + 1), "all is committed at once");
        let mut turns = 0;
        while cycle.view().last_applied < cycle.view().commit_index {
            assert_eq!(cycle.deadline(), Instant::ZERO, "the next turn comes without waiting");
            assert_eq!(cycle.view().role, RoleKind::Leader);
            assert_eq!(cycle.leadership().fence, None, "no token before the no-op is applied");
            cycle.drain(NOW);
            turns += 1;
        }
        assert_eq!(turns, 3);
        assert_eq!(cycle.leadership().fence, Some(Term(2)));
        assert!(cycle.deadline() > NOW);
    }

    #[test]
    fn a_proposal_is_answered_when_it_is_applied_and_not_before() {
        let mut cycle = restarted_alone(2 * APPLY_SLICE as u64);
        let output = cycle.step(NOW, Input::Timeout);
        persist(&mut cycle, &output);
        let op = Op::FenceRaised { resource: "r".to_owned(), term: Term(2), node: NodeId(1) };
        cycle.propose(NOW, Term(2), op, Ticket(7));
        let output = cycle.drain(NOW);
        persist(&mut cycle, &output);
        let mut answers = Vec::new();
        while cycle.view().last_applied < cycle.view().commit_index || cycle.view().commit_index.0 == 0 {
            assert!(answers.is_empty());
            answers = cycle.drain(NOW).answers;
        }
        assert!(matches!(answers[..], [(Ticket(7), Answered::Applied(_))]), "{answers:?}");
    }

    /// R2: nobody else's answer would ever come to confirm it.
    #[test]
    fn a_read_that_comes_with_a_heartbeat_is_served_by_a_leader_alone() {
        let mut cycle = restarted_alone(1);
        let output = cycle.step(NOW, Input::Timeout);
        persist(&mut cycle, &output);
        let output = cycle.drain(NOW);
        persist(&mut cycle, &output);
        cycle.drain(NOW);
        let heartbeat = cycle.deadline();
        cycle.feed(heartbeat, Input::Read { ticket: Ticket(7) });
        cycle.feed(heartbeat, Input::Timeout);
        let answers = cycle.drain(heartbeat).answers;
        assert!(matches!(answers[..], [(Ticket(7), Answered::Read(_))]), "{answers:?}");
    }

    /// P1: decided as leader of an earlier term.
    #[test]
    fn a_command_that_was_decided_in_another_term_is_not_appended() {
        let mut cycle = restarted_alone(1);
        let output = cycle.step(NOW, Input::Timeout);
        persist(&mut cycle, &output);
        let before = cycle.view().last_log;
        for decided_in in [Term(1), Term(3)] {
            let op = Op::FenceRaised { resource: "r".to_owned(), term: Term(1), node: NodeId(1) };
            cycle.propose(NOW, decided_in, op, Ticket(7));
            let refused = Answered::Refused(Refused::NotLeader { leader: None });
            assert_eq!(cycle.drain(NOW).answers, [(Ticket(7), refused)]);
            assert_eq!(cycle.view().last_log, before);
        }
    }

    fn drained(cycle: &mut Cycle) -> Vec<SnapshotWork> {
        let mut work = Vec::new();
        loop {
            let output = cycle.drain(NOW);
            persist(cycle, &output);
            work.extend(output.snapshots);
            if output.persist.is_empty() && cycle.deadline() > NOW {
                return work;
            }
        }
    }

    /// N10: what is wanted stays wanted, and one is taken at a time.
    #[test]
    fn a_snapshot_that_is_due_is_asked_for_until_it_is_taken() {
        let config = Config { snapshot_entries: 5, snapshot_keep: 2, ..Config::new(NodeId(1)) };
        let mut cycle = restarted_with(config, 10);
        cycle.feed(NOW, Input::Timeout);
        let work = drained(&mut cycle);
        let [SnapshotWork::Take { last, membership, machine }] = &work[..] else { panic!("{work:?}") };
        assert_eq!((*last, machine.applied()), (LogId::new(Term(2), LogIndex(11)), *last));
        assert!(drained(&mut cycle).is_empty(), "one at a time");
        let id = SnapshotId { last: *last, digest: [1; 32] };
        let taken = Snapshot { id, size: 1, membership: membership.clone() };
        cycle.snapshot_done(NOW, SnapshotDone::Taken(taken));
        let work = drained(&mut cycle);
        assert!(matches!(work[..], [SnapshotWork::Settled(settled)] if settled == id), "{work:?}");
        assert_eq!(cycle.view().log_base, LogId::new(Term(1), LogIndex(9)));
    }

    /// N4: who was added applies what lies before that without knowing who took part then.
    #[test]
    fn no_snapshot_is_taken_without_the_membership_that_belongs_to_it() {
        let config = Config { snapshot_entries: 1, ..Config::new(NodeId(4)) };
        let boot = Boot {
            durable: Durable::default(),
            life: Life { incarnation: 4, boot: 1 },
            promised: Duration::ZERO,
        };
        let node = Node::new(config, boot, 1, Instant::ZERO);
        let mut cycle = Cycle::new(node, Arc::new(RwLock::new(Machine::new(Vec::new()))));
        let membership = Membership { learners: [NodeId(4)].into(), ..Membership::of_voters([NodeId(1)]) };
        let added = Entry { id: LogId::new(Term(1), LogIndex(2)), payload: Payload::Membership(membership) };
        for (prev, entry, taken) in [(LogId::ZERO, noop(1), 0), (noop(1).id, added, 1)] {
            let leader_commit = entry.id.index;
            cycle.feed(NOW, Input::Receive(append(prev, entry, leader_commit)));
            assert_eq!(drained(&mut cycle).len(), taken, "after {leader_commit}");
            assert_eq!(cycle.view().last_applied, leader_commit);
        }
    }

    /// From node 1 to node 4.
    fn append(prev_log: LogId, entry: Entry, leader_commit: LogIndex) -> Message {
        let beat = Beat { sent_at: NOW, read_pos: ReadPos::ZERO };
        let append = AppendEntries { prev_log, entries: vec![entry], leader_commit, beat, known: Vec::new() };
        Message {
            from: NodeId(1),
            to: NodeId(4),
            term: Term(1),
            life: Life { incarnation: 1, boot: 1 },
            session: Session(1),
            body: Body::AppendEntries(append),
        }
    }

    /// N9: what was committed before an installation and is not applied yet is part of it.
    #[test]
    fn an_installation_takes_the_place_of_what_was_not_applied_yet() {
        let mut cycle = restarted_alone(2 * APPLY_SLICE as u64);
        let output = cycle.step(NOW, Input::Timeout);
        persist(&mut cycle, &output);
        let output = cycle.drain(NOW);
        persist(&mut cycle, &output);
        cycle.drain(NOW);
        assert!(!cycle.backlog.is_empty(), "a slice is applied, the rest waits");
        let last = LogId::new(Term(2), LogIndex(5000));
        let id = SnapshotId { last, digest: [1; 32] };
        cycle.fetched = Some((id, Machine::new(Vec::new())));
        cycle.committed.insert(LogIndex(4000), Ticket(9));
        cycle.restore(&Snapshot { id, size: 1, membership: Membership::default() });
        assert!(cycle.backlog.is_empty());
        let unknown = Answered::Refused(Refused::Unknown);
        assert_eq!(cycle.output.answers, [(Ticket(9), unknown)], "nobody knows what it was answered");
    }
}
