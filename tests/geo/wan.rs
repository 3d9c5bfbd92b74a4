//! A simulated wide-area network: of each node the driver's own `Cycle` and `Preference`, in the order of the
//! real loop, on a wire with the round trips between regions and on a disk on which a write takes 2 ms.
//!
//! A crash takes what the disk had not finished, and leaves what is on its way over the wire. Not here: clocks
//! that drift, messages that are lost or overtaken, snapshots. The simulator (`tests/sim`) has those.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use bytes::Bytes;
use termgate::driver::cycle::{Answered, Cycle, Output};
use termgate::driver::preference::Preference;
use termgate::ids::{IoSeq, Life, NodeId, Term, Ticket};
use termgate::raft::config::Config;
use termgate::raft::effect::{Event, Input, RoleKind};
use termgate::raft::entry::{Durable, Membership, Persist};
use termgate::raft::message::Message;
use termgate::raft::{Boot, Node};
use termgate::registry::command::{Condition, Member, Op};
use termgate::registry::machine::Machine;
use termgate::time::Instant;

use crate::model::keep;
use crate::placement::{Placement, Region};

const DISK: Duration = Duration::from_millis(2);
/// How often each node is asked for a write, when somebody wants to know whether it takes one.
const ASK_EVERY: Duration = Duration::from_millis(20);
/// What has not happened by then will not happen.
const PATIENCE: Duration = Duration::from_secs(200);

/// What a crash leaves, and what it takes.
struct Disk {
    durable: Durable,
    boots: u64,
    queue: VecDeque<Persist>,
}

impl Disk {
    fn new(membership: Membership) -> Self {
        let durable = Durable { membership, ..Durable::default() };
        Self { durable, boots: 0, queue: VecDeque::new() }
    }
}

struct Process {
    cycle: Cycle,
    preference: Option<Preference>,
}

enum What {
    Arrives(Message),
    /// In the life of the node that wrote it.
    Durable(NodeId, u64, IoSeq),
}

/// A node began to lead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Election {
    pub at: Instant,
    pub node: NodeId,
    pub term: Term,
}

/// A leader began to hand over, because leadership is wanted elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Handover {
    pub at: Instant,
    pub from: NodeId,
    pub to: NodeId,
}

/// A write that was acknowledged.
struct Acknowledged {
    asked: Instant,
    at: Instant,
}

pub struct World<'p> {
    placement: &'p Placement,
    preferred: Option<Region>,
    seed: u64,
    pub now: Instant,
    processes: BTreeMap<NodeId, Process>,
    disks: BTreeMap<NodeId, Disk>,
    cut: BTreeSet<NodeId>,
    queue: BTreeMap<(Instant, u64), What>,
    order: u64,
    last_ticket: u64,
    asked: BTreeMap<Ticket, Instant>,
    acknowledged: Vec<Acknowledged>,
    pub elections: Vec<Election>,
    pub handovers: Vec<Handover>,
}

impl<'p> World<'p> {
    /// All nodes started, with the timing of the `wan` profile.
    pub fn new(placement: &'p Placement, preferred: Option<Region>, seed: u64) -> Self {
        let membership = Membership::of_voters(placement.nodes());
        let disk = |id| (id, Disk::new(membership.clone()));
        let mut world = Self {
            placement,
            preferred,
            seed,
            now: Instant::from_millis(10_000),
            processes: BTreeMap::new(),
            disks: placement.nodes().map(disk).collect(),
            cut: BTreeSet::new(),
            queue: BTreeMap::new(),
            order: 0,
            last_ticket: 0,
            asked: BTreeMap::new(),
            acknowledged: Vec::new(),
            elections: Vec::new(),
            handovers: Vec::new(),
        };
        placement.nodes().for_each(|id| world.start(id));
        world
    }

    /// Starts a node on what its disk holds.
    pub fn start(&mut self, id: NodeId) {
        let config = Config::wan(id);
        let disk = self.disks.get_mut(&id).expect("every node has a disk");
        let promised = if disk.boots == 0 { Duration::ZERO } else { config.election_timeout_min };
        disk.boots += 1;
        let life = Life { incarnation: id.0, boot: disk.boots };
        let boot = Boot { durable: disk.durable.clone(), life, promised };
        let seed = self.seed.wrapping_mul(0x9e37_79b9) ^ id.0 ^ ((disk.boots - 1) << 32);
        let zone = |region: Region| region.name().to_owned();
        let preference = self.preferred.map(|region| Preference::new(zone(region), &config));
        let node = Node::new(config, boot, seed, self.now);
        let member = |id| {
            let nowhere = String::new;
            let zone = Some(zone(self.placement.region(id)));
            Member { id, peer: nowhere(), proxy: nowhere(), hop: nowhere(), api: nowhere(), zone }
        };
        let machine = Machine::new(self.placement.nodes().map(member).collect());
        let cycle = Cycle::new(node, Arc::new(RwLock::new(machine)));
        let before = self.processes.insert(id, Process { cycle, preference });
        assert!(before.is_none(), "node {id} runs already");
    }

    /// Ends a node, as a loss of power does.
    pub fn crash(&mut self, id: NodeId) {
        self.processes.remove(&id).expect("it runs");
        self.disks.get_mut(&id).expect("every node has a disk").queue.clear();
    }

    /// From now on nothing goes to it and nothing comes from it.
    pub fn cut(&mut self, id: NodeId) {
        self.cut.insert(id);
    }

    pub fn mend(&mut self, id: NodeId) {
        self.cut.remove(&id);
    }

    fn after(&mut self, delay: Duration, what: What) {
        self.order += 1;
        self.queue.insert((self.now + delay, self.order), what);
    }

    /// One turn of a node's loop: what came in, the preference, and what follows from both.
    fn act(&mut self, id: NodeId, feed: impl FnOnce(&mut Cycle, Instant)) {
        let now = self.now;
        let Some(Process { cycle, preference }) = self.processes.get_mut(&id) else { return };
        feed(cycle, now);
        if let Some(to) = preference.as_mut().and_then(|preference| preference.look(now, cycle)) {
            self.handovers.push(Handover { at: now, from: id, to });
            self.last_ticket += 1;
            cycle.transfer(now, None, Some(to), Ticket(self.last_ticket));
        }
        let output = cycle.drain(now);
        self.carry_out(id, output);
    }

    fn step(&mut self, id: NodeId, input: Input) {
        self.act(id, |cycle, now| cycle.feed(now, input));
    }

    fn carry_out(&mut self, id: NodeId, output: Output) {
        let disk = self.disks.get_mut(&id).expect("every node has a disk");
        let boot = disk.boots;
        disk.queue.extend(output.persist.iter().cloned());
        for write in output.persist {
            self.after(DISK, What::Durable(id, boot, write.io));
        }
        assert!(output.snapshots.is_empty(), "no run is so long that a snapshot is due");
        for message in output.send {
            let (from, to) = (message.from, message.to);
            if !self.cut.contains(&from) && !self.cut.contains(&to) {
                let trip = self.placement.region(from).round_trip(self.placement.region(to));
                self.after(trip / 2, What::Arrives(message));
            }
        }
        for (ticket, answered) in output.answers {
            if let (Some(asked), Answered::Applied(_)) = (self.asked.remove(&ticket), answered) {
                self.acknowledged.push(Acknowledged { asked, at: self.now });
            }
        }
        for event in output.events {
            if let Event::RoleChanged { role: RoleKind::Leader, term, .. } = event {
                self.elections.push(Election { at: self.now, node: id, term });
            }
        }
    }

    /// When something happens next, and at which node if it is only that its time has come.
    fn next(&self) -> Option<(Instant, Option<NodeId>)> {
        let due = |(id, process): (&NodeId, &Process)| (process.cycle.deadline(self.now), *id);
        let timer = self.processes.iter().map(due).min().map(|(at, id)| (at.max(self.now), Some(id)));
        let event = self.queue.first_key_value().map(|((at, _), _)| (*at, None));
        event.into_iter().chain(timer).min_by_key(|(at, _)| *at)
    }

    fn turn(&mut self) {
        let (at, timer) = self.next().expect("somebody runs");
        self.now = at;
        if let Some(id) = timer {
            return self.step(id, Input::Timeout);
        }
        match self.queue.pop_first().expect("it was there").1 {
            What::Arrives(message) if self.cut.contains(&message.from) || self.cut.contains(&message.to) => {}
            What::Arrives(message) => self.step(message.to, Input::Receive(message)),
            What::Durable(id, boot, io) => {
                let disk = self.disks.get_mut(&id).expect("every node has a disk");
                if disk.boots == boot && self.processes.contains_key(&id) {
                    let write = disk.queue.pop_front().expect("it was queued");
                    keep(&mut disk.durable, &write);
                    self.step(id, Input::Persisted { io });
                }
            }
        }
    }

    pub fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        while self.next().is_some_and(|(at, _)| at <= end) {
            self.turn();
        }
        self.now = end;
    }

    /// Runs until it is so; answers how long that took.
    #[track_caller]
    pub fn run_until(&mut self, what: &str, mut done: impl FnMut(&Self) -> bool) -> Duration {
        let start = self.now;
        while !done(self) {
            let (name, seed) = (self.placement.name, self.seed);
            assert!(self.now.since(start) < PATIENCE, "{name}, seed {seed}: in vain: {what}");
            self.turn();
        }
        self.now.since(start)
    }

    /// The node that may stamp writes now.
    pub fn in_office(&self) -> Option<NodeId> {
        let holds = |process: &Process| process.cycle.leadership().token_at(self.now).is_some();
        let all: Vec<NodeId> =
            self.processes.iter().filter(|(_, process)| holds(process)).map(|(id, _)| *id).collect();
        assert!(all.len() <= 1, "{all:?} may all stamp writes");
        all.first().copied()
    }

    /// Elects somebody, and moves leadership to where it is to begin.
    pub fn settle(&mut self) {
        self.run_until("a leader", |world| world.in_office().is_some());
        let wanted = self.placement.leader;
        self.run_for(Duration::from_secs(3));
        if let Some(leader) = self.in_office().filter(|leader| *leader != wanted) {
            self.last_ticket += 1;
            self.step(leader, Input::Transfer { ticket: Ticket(self.last_ticket), to: Some(wanted) });
        }
        self.run_until("the wanted leader", |world| world.in_office() == Some(wanted));
        self.run_for(Duration::from_secs(3));
        self.elections.clear();
    }

    /// Asks a node for a write, whatever it is.
    fn ask(&mut self, id: NodeId) {
        self.last_ticket += 1;
        let ticket = Ticket(self.last_ticket);
        self.asked.insert(ticket, self.now);
        let op = Op::Put { key: "k".into(), value: Bytes::from_static(b"v"), condition: Condition::None };
        self.act(id, |cycle, now| cycle.propose(now, cycle.leadership().term, op, ticket));
    }

    /// How long a write takes at the leader.
    pub fn write(&mut self) -> Duration {
        let (asked, before) = (self.now, self.acknowledged.len());
        self.ask(self.in_office().expect("a leader"));
        self.run_until("the write", |world| world.acknowledged.len() > before);
        self.now.since(asked)
    }

    /// Writes this often through the leader, for so long.
    pub fn load(&mut self, every: Duration, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            if let Some(leader) = self.in_office() {
                self.ask(leader);
            }
            self.run_for(every);
        }
    }

    /// Asks every node that runs for a write, and lets a moment pass.
    fn ask_everybody(&mut self) {
        let all: Vec<NodeId> = self.processes.keys().copied().collect();
        all.into_iter().for_each(|id| self.ask(id));
        self.run_for(ASK_EVERY);
    }

    /// Asks every node again and again, until a write is acknowledged that was asked for since then, or for so
    /// long in vain; `look` sees each moment. Answers how long it took.
    pub fn wait_served(&mut self, limit: Duration, mut look: impl FnMut(&Self)) -> Option<Duration> {
        let start = self.now;
        while self.now.since(start) < limit {
            self.ask_everybody();
            let served = self.acknowledged.iter().find(|write| write.asked >= start);
            if let Some(write) = served {
                return Some(write.at.since(start));
            }
            look(self);
        }
        None
    }
}
