//! One core, a disk that obeys it, and a keeper of its snapshots. Everything that a core owes its driver, whoever
//! talks to it, is checked on the way: what it writes is what a store takes (ST-7, ST-11), what it sends is
//! durable first (E4, V1), what it applies follows on what it applied, and every caller is answered once.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use termgate::ids::{IoSeq, Life, LogId, LogIndex, NodeId, Term, Ticket};
use termgate::raft::config::Config;
use termgate::raft::effect::{Effect, Event, Input, Outcome, RoleKind, SnapshotEffect, SnapshotInput};
use termgate::raft::entry::{Durable, Entry, Membership, Persist, Snapshot, SnapshotId};
use termgate::raft::message::{Body, Message, SnapshotChunk};
use termgate::raft::{Boot, Node};
use termgate::time::{Duration, Instant};

use super::model;

/// One machine.
pub struct Host {
    pub config: Config,
    pub node: Node,
    /// On its clock.
    pub now: Instant,
    pub disk: Durable,
    /// The disk once all that is queued is written.
    tip: Durable,
    pub queue: VecDeque<Persist>,
    /// Something was queued since the last look.
    written: bool,
    /// Durable, and the core has not heard of it.
    unheard: IoSeq,
    held: Vec<(IoSeq, Message)>,
    /// What has left.
    pub outbox: Vec<Message>,
    /// What the keeper has to do.
    pub work: VecDeque<Work>,
    contents: BTreeMap<SnapshotId, Bytes>,
    incoming: Option<(Snapshot, Vec<u8>)>,
    fetched: Option<Bytes>,
    taking: bool,
    pub applied: Applied,
    /// Entries in the order of their application, for whoever compares.
    pub entries: Vec<Entry>,
    boot: u64,
    last_ticket: Ticket,
    open: BTreeSet<Ticket>,
    pub told: Vec<(Ticket, Outcome)>,
    pub elected: Vec<Term>,
    /// It knows that it is of no use any more.
    pub gone: bool,
    /// It knows that it was removed, and has ended.
    pub removed: bool,
    seen: (Term, LogIndex),
}

/// The state machine: how far, and a fingerprint of all that was applied.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Applied {
    pub last: LogId,
    pub print: u64,
}

/// A piece of the keeper's work.
pub enum Work {
    Take(Snapshot, Bytes),
    Core(SnapshotEffect),
}

/// FNV-1a: enough to tell contents apart.
fn hash(seed: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(seed ^ 0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3))
}

/// What stands for SHA-256: the core only compares it.
pub fn digest(content: &[u8]) -> [u8; 32] {
    let mut digest = [0; 32];
    digest[..8].copy_from_slice(&hash(1, content).to_be_bytes());
    digest
}

impl Applied {
    fn apply(&mut self, entry: &Entry) {
        assert_eq!(entry.id.index, self.last.index.next(), "entries are applied in order, each once");
        assert!(entry.id.term >= self.last.term, "terms never fall along the log");
        let payload = postcard::to_stdvec(entry).expect("an entry can be written");
        *self = Self { last: entry.id, print: hash(self.print, &payload) };
    }

    fn content(&self) -> Bytes {
        let parts = [self.last.index.0, self.last.term.0, self.print, 0, 0];
        Bytes::from(parts.iter().flat_map(|part| part.to_be_bytes()).collect::<Vec<u8>>())
    }

    /// The state after `last` that a content holds, or, from a liar, anything.
    fn of(content: &[u8], last: LogId) -> Self {
        let print = content.get(16..24).and_then(|b| b.try_into().ok()).map_or(0, u64::from_be_bytes);
        Self { last, print }
    }
}

/// Whether a start would take it: what the store checks when it reads (ST-6).
fn sound(disk: &Durable) -> bool {
    let mut last = disk.base;
    let follows = disk.log.iter().all(|entry| {
        let next = entry.id.index == last.index.next() && entry.id.term >= last.term;
        last = entry.id;
        next
    });
    let start = disk.snapshot.as_ref().map_or(LogId::ZERO, |snapshot| snapshot.id.last);
    follows && last.term <= disk.hard_state.current_term && disk.base <= start && start <= last
}

fn last_of(disk: &Durable) -> LogId {
    disk.log.last().map_or(disk.base, |entry| entry.id)
}

impl Host {
    /// A node that has never started, in a cluster of `voters`.
    pub fn fresh(id: NodeId, voters: u64) -> Self {
        let membership = Membership::of_voters((1..=voters).map(NodeId));
        Self::new(Config::new(id), Durable { membership, ..Durable::default() }, Instant::from_millis(1))
    }

    /// A node that finds `disk` at its start.
    pub fn new(config: Config, disk: Durable, now: Instant) -> Self {
        assert!(sound(&disk), "a store would not have opened this");
        let applied = Applied { last: disk.snapshot.as_ref().map_or(LogId::ZERO, |s| s.id.last), print: 0 };
        let node = Self::node(&config, &disk, 1, now);
        let mut host = Self {
            config,
            node,
            now,
            tip: disk.clone(),
            disk,
            queue: VecDeque::new(),
            written: true,
            unheard: IoSeq::ZERO,
            held: Vec::new(),
            outbox: Vec::new(),
            work: VecDeque::new(),
            contents: BTreeMap::new(),
            incoming: None,
            fetched: None,
            taking: false,
            applied,
            entries: Vec::new(),
            boot: 1,
            last_ticket: Ticket::ZERO,
            open: BTreeSet::new(),
            told: Vec::new(),
            elected: Vec::new(),
            gone: false,
            removed: false,
            seen: (Term::ZERO, LogIndex::ZERO),
        };
        host.drain();
        host
    }

    fn node(config: &Config, disk: &Durable, boot: u64, now: Instant) -> Node {
        let promised = if boot == 1 { Duration::ZERO } else { config.election_timeout_min };
        let life = Life { incarnation: config.id.0, boot };
        Node::new(config.clone(), Boot { durable: disk.clone(), life, promised }, config.id.0 + 7 * boot, now)
    }

    pub fn id(&self) -> NodeId {
        self.config.id
    }

    /// One input and all that follows at once. Who has ended does nothing.
    pub fn step(&mut self, input: Input) {
        if self.removed {
            return;
        }
        self.node.step(self.now, input);
        self.drain();
    }

    pub fn receive(&mut self, message: Message) {
        self.step(Input::Receive(message));
    }

    /// A new caller.
    pub fn ticket(&mut self) -> Ticket {
        self.last_ticket = self.last_ticket.next();
        self.open.insert(self.last_ticket);
        self.last_ticket
    }

    fn drain(&mut self) {
        loop {
            let Some(effect) = self.node.poll() else { break };
            match effect {
                Effect::Persist(write) => self.persist(write),
                Effect::Send { message, after: None } => self.leaves(message),
                Effect::Send { message, after: Some(io) } => self.held.push((io, message)),
                Effect::Apply(entries) => {
                    entries.iter().for_each(|entry| self.applied.apply(entry));
                    self.entries.extend(entries);
                    self.node.step(self.now, Input::Applied { index: self.applied.last.index });
                }
                Effect::Reply { ticket, outcome } => {
                    assert!(self.open.remove(&ticket), "{ticket} is answered twice: {outcome:?}");
                    self.told.push((ticket, outcome));
                }
                Effect::Snapshot(SnapshotEffect::Restore(snapshot)) => {
                    let content = self.fetched.take().expect("only what was fetched is installed");
                    self.applied = Applied::of(&content, snapshot.id.last);
                }
                Effect::Snapshot(wanted) => self.work.push_back(Work::Core(wanted)),
                Effect::Event(event) => self.event(&event),
            }
        }
        self.fetched = None;
        self.take();
        self.check();
    }

    fn event(&mut self, event: &Event) {
        match event {
            Event::RoleChanged { role: RoleKind::Leader, term, .. } => self.elected.push(*term),
            Event::Disowned { .. } | Event::LostData { .. } => self.gone = true,
            Event::Removed { .. } => self.removed = true,
            _ => {}
        }
    }

    /// ST-7, ST-11: what the store would refuse ends the process.
    fn persist(&mut self, write: Persist) {
        let last = self.queue.back().map_or(self.unheard, |write| write.io);
        assert!(write.io > last, "writes are numbered in order");
        let (old, new) = (self.tip.hard_state, write.hard_state.unwrap_or(self.tip.hard_state));
        let vote_stands = old.voted_for.is_none() || old.voted_for == new.voted_for;
        let same = new.current_term == old.current_term && vote_stands;
        assert!(new.current_term > old.current_term || same, "{old:?} becomes {new:?}");
        if let Some(compaction) = &write.compact {
            let (base, end) = (compaction.base, compaction.snapshot.id.last);
            assert!(base >= self.tip.base && base <= end, "the log would begin after {base}");
            let held = base == self.tip.base || self.tip.log.iter().any(|entry| entry.id == base);
            assert!(
                held || !compaction.keeps_tail,
                "the log would begin after {base}, which it does not hold"
            );
        }
        let cut = write.truncate_from.unwrap_or(LogIndex(u64::MAX));
        assert!(cut > self.tip.base.index && cut > self.seen.1, "what is committed is cut");
        for (member, incarnation) in &write.pins {
            let known = self.tip.pinned.insert(*member, *incarnation);
            assert!(known.is_none(), "a pin is never replaced");
        }
        model::keep(&mut self.tip, &write);
        assert!(sound(&self.tip), "no start would take {:?} after {write:?}", last_of(&self.tip));
        self.queue.push_back(write);
        self.written = true;
    }

    /// E4, V1: on the disk is what the message rests on.
    fn leaves(&mut self, message: Message) {
        let (on_disk, asks) =
            (self.disk.hard_state, matches!(&message.body, Body::RequestVote(r) if r.ballot.pre_vote));
        let term = if asks { Term(message.term.0 - 1) } else { message.term };
        assert!(on_disk.current_term >= term, "{message:?} leaves before its term is durable");
        let same = on_disk.current_term == message.term;
        match &message.body {
            Body::RequestVoteResponse(answer) if answer.vote_granted && !answer.ballot.pre_vote && same => {
                assert_eq!(on_disk.voted_for, Some(message.to), "a grant leaves before the vote is durable");
            }
            Body::RequestVote(ask) if !ask.ballot.pre_vote && same => {
                assert_eq!(
                    on_disk.voted_for,
                    Some(self.id()),
                    "a campaign begins before its vote is durable"
                );
            }
            _ => {}
        }
        self.outbox.push(message);
    }

    /// Writes the first `count` of the queue.
    pub fn flush(&mut self, count: usize) {
        for _ in 0..count.min(self.queue.len()) {
            let Some(write) = self.queue.pop_front() else { return };
            model::keep(&mut self.disk, &write);
            self.unheard = write.io;
        }
    }

    /// The core hears what is durable; what waited for it leaves.
    pub fn report(&mut self) {
        let io = self.unheard;
        let held = std::mem::take(&mut self.held);
        let (leave, wait): (Vec<_>, Vec<_>) = held.into_iter().partition(|(after, _)| *after <= io);
        self.held = wait;
        leave.into_iter().for_each(|(_, message)| self.leaves(message));
        self.step(Input::Persisted { io });
    }

    /// Writes and works until nothing is left to do.
    pub fn settle(&mut self) {
        while !self.queue.is_empty() || !self.work.is_empty() {
            self.flush(usize::MAX);
            self.report();
            self.keep();
        }
    }

    /// Ends, and starts from what is on the disk.
    pub fn restart(&mut self) {
        assert!(sound(&self.disk), "no start would take this");
        (self.queue, self.held, self.unheard) = (VecDeque::new(), Vec::new(), IoSeq::ZERO);
        (self.tip, self.taking, self.incoming, self.fetched) = (self.disk.clone(), false, None, None);
        (self.open, self.gone, self.seen) = (BTreeSet::new(), false, (Term::ZERO, LogIndex::ZERO));
        self.work.clear();
        self.removed = false;
        self.boot += 1;
        let start = self.disk.snapshot.as_ref().map(|snapshot| snapshot.id);
        let content = start.and_then(|id| self.contents.get(&id)).cloned().unwrap_or_default();
        self.applied = start.map_or_else(Applied::default, |id| Applied::of(&content, id.last));
        self.node = Self::node(&self.config, &self.disk, self.boot, self.now);
        self.drain();
    }

    fn take(&mut self) {
        let Some((last, membership)) = self.node.wants_snapshot().filter(|_| !self.taking) else { return };
        assert_eq!(last, self.applied.last, "a snapshot is taken of what is applied");
        self.taking = true;
        let content = self.applied.content();
        let id = SnapshotId { last, digest: digest(&content) };
        let snapshot = Snapshot { id, size: content.len() as u64, membership };
        self.work.push_back(Work::Take(snapshot, content));
    }

    /// The keeper does the next piece of its work.
    pub fn keep(&mut self) {
        let Some(work) = self.work.pop_front() else { return };
        let done = match work {
            Work::Take(snapshot, content) => {
                self.taking = false;
                self.contents.insert(snapshot.id, content);
                Some(SnapshotInput::Taken(snapshot))
            }
            Work::Core(SnapshotEffect::Begin(snapshot)) => {
                let id = snapshot.id;
                if self.incoming.as_ref().is_none_or(|(incoming, _)| incoming.id != id) {
                    self.incoming = Some((snapshot, Vec::new()));
                }
                let have = self.incoming.as_ref().map_or(0, |(_, bytes)| bytes.len() as u64);
                Some(SnapshotInput::Begun { id, have })
            }
            Work::Core(SnapshotEffect::Store { id, offset, bytes }) => {
                self.incoming.as_mut().filter(|(incoming, _)| incoming.id == id).map(|(_, kept)| {
                    if offset == kept.len() as u64 {
                        kept.extend_from_slice(&bytes);
                    }
                    SnapshotInput::Stored { id, have: kept.len() as u64 }
                })
            }
            Work::Core(SnapshotEffect::Finish(id)) => self.finish(id),
            Work::Core(SnapshotEffect::Serve { to, wanted }) => {
                let content = self.contents.get(&wanted.id).cloned().unwrap_or_default();
                let from = usize::try_from(wanted.offset).unwrap_or(usize::MAX).min(content.len());
                let to_end = content.len() - from;
                let bytes = content.slice(from..from + to_end.min(wanted.length as usize));
                let checksum = crc32fast::hash(&bytes);
                let chunk = SnapshotChunk { id: wanted.id, offset: wanted.offset, checksum, bytes };
                Some(SnapshotInput::Read { to, chunk })
            }
            Work::Core(SnapshotEffect::Restore(_)) => None,
        };
        if let Some(done) = done {
            self.step(Input::Snapshot(done));
        }
    }

    fn finish(&mut self, id: SnapshotId) -> Option<SnapshotInput> {
        let (snapshot, content) = self.incoming.take_if(|(snapshot, _)| snapshot.id == id)?;
        if content.len() as u64 != snapshot.size || digest(&content) != id.digest {
            return Some(SnapshotInput::Failed(id));
        }
        let content = Bytes::from(content);
        self.contents.insert(id, content.clone());
        self.fetched = Some(content);
        Some(SnapshotInput::Fetched(id))
    }

    /// What is seen of a node, against what it has written.
    fn check(&mut self) {
        if std::mem::take(&mut self.written) {
            let view = self.node.view();
            let log = (last_of(&self.tip), self.tip.base);
            assert_eq!((view.last_log, view.log_base), log, "the log and its writes differ");
        }
        let view = self.node.leadership();
        assert_eq!(view.term, self.tip.hard_state.current_term, "the term and its writes differ");
        assert!(view.term >= self.seen.0 && view.commit_index >= self.seen.1, "nothing runs back");
        assert!(view.last_applied == self.applied.last.index, "it is told what was applied");
        if view.fence.is_some() {
            assert_eq!((view.role, view.fence), (RoleKind::Leader, Some(view.term)));
            assert_eq!(self.tip.hard_state.voted_for, Some(self.id()));
        }
        assert!(view.lease_until.is_none() || view.role == RoleKind::Leader, "a lease without an office");
        self.seen = (view.term, view.commit_index);
    }
}
