//! Random clusters of cores under random faults, with the safety properties checked at every step.
//! The rules that only many faults together can test: C4, C8, M20, R6, R7, R11, V4.
//!
//! One seed is one run, and gives the same run always. `CHAOS_SEEDS=from..to` chooses others.
//! Faults: loss, duplication, reordering, a heavy tail of late messages, cuts and one-way cuts,
//! crashes that lose what is not on disk, slow disks, clocks of different rates, transfers.

#[path = "support/dice.rs"]
mod dice;
mod model;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};

use dice::Dice;
use termgate::ids::{IoSeq, Life, LogId, LogIndex, NodeId, Term, Ticket};
use termgate::raft::config::Config;
use termgate::raft::effect::{Effect, Event, Input, Outcome, RoleKind};
use termgate::raft::entry::{Durable, Entry, Membership, Persist};
use termgate::raft::message::Message;
use termgate::raft::{Boot, Node};
use termgate::time::{Duration, Instant};

const MS: u64 = 1_000_000;
/// True time of one run under faults, and after they have ended.
const STORM: u64 = 8_000 * MS;
const CALM: u64 = 4_000 * MS;
/// Clock rates differ by up to the configured bound.
const DRIFT_PPM: u64 = 20_000;

struct Rng(Dice);

impl Rng {
    fn below(&mut self, n: u64) -> u64 {
        self.0.below(n.max(1) as usize) as u64
    }
    fn percent(&mut self, p: u64) -> bool {
        self.below(100) < p
    }
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Wake(u64, u64),
    Deliver(usize),
    Disk(u64, u64, u64),
    Client,
    Fault,
}

struct Host {
    node: Option<Node>,
    rate: u64,
    disk: Durable,
    boot: u64,
    queue: VecDeque<Persist>,
    waiting: Vec<(IoSeq, Message)>,
    wake: u64,
}

struct World {
    seed: u64,
    rng: Rng,
    now: u64,
    order: u64,
    agenda: BinaryHeap<Reverse<(u64, u64, What)>>,
    hosts: BTreeMap<u64, Host>,
    mail: Vec<Option<Message>>,
    cut: BTreeSet<(u64, u64)>,
    loss: u64,
    doubled: u64,
    late: u64,
    slow_disk: u64,
    tickets: u64,
    /// What each read must see: the newest position acknowledged before it began.
    reads: BTreeMap<Ticket, LogIndex>,
    acknowledged: LogIndex,
    leaders: BTreeMap<Term, NodeId>,
    committed: BTreeMap<LogIndex, Entry>,
    answered: BTreeSet<Ticket>,
    served: u64,
    confirmed: u64,
    leases: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = Rng(Dice(seed));
        let count = [1, 3, 3, 5, 3, 5][rng.below(6) as usize];
        let membership = Membership::of_voters((1..=count).map(NodeId));
        let mut world = Self {
            seed,
            now: 1_000 * MS,
            order: 0,
            agenda: BinaryHeap::new(),
            hosts: BTreeMap::new(),
            mail: Vec::new(),
            cut: BTreeSet::new(),
            loss: [0, 5, 25][rng.below(3) as usize],
            doubled: [0, 10][rng.below(2) as usize],
            late: [0, 3, 10][rng.below(3) as usize],
            slow_disk: [1, 1, 60][rng.below(3) as usize],
            tickets: 0,
            reads: BTreeMap::new(),
            acknowledged: LogIndex::ZERO,
            leaders: BTreeMap::new(),
            committed: BTreeMap::new(),
            answered: BTreeSet::new(),
            served: 0,
            confirmed: 0,
            leases: 0,
            rng,
        };
        for id in 1..=count {
            let rate = 1_000_000 - DRIFT_PPM + world.rng.below(2 * DRIFT_PPM + 1);
            let disk = Durable { membership: membership.clone(), ..Durable::default() };
            let (queue, waiting) = (VecDeque::new(), Vec::new());
            world.hosts.insert(id, Host { node: None, rate, disk, boot: 0, queue, waiting, wake: 0 });
            world.start(id);
        }
        world.plan(MS, What::Client);
        world.plan(50 * MS, What::Fault);
        world
    }

    fn config(id: u64) -> Config {
        let mut config = Config::new(NodeId(id));
        config.clock_drift_ppm = DRIFT_PPM as u32;
        config.lease_margin = Duration::ZERO;
        config.max_append_bytes = 100;
        config.max_inflight_messages = 4;
        config
    }

    fn plan(&mut self, after: u64, what: What) {
        self.order += 1;
        self.agenda.push(Reverse((self.now + after, self.order, what)));
    }

    fn clock(&self, id: u64) -> Instant {
        Instant((u128::from(self.now) * u128::from(self.hosts[&id].rate) / 1_000_000) as u64)
    }

    fn start(&mut self, id: u64) {
        let (now, seed) = (self.clock(id), self.rng.0.draw());
        let host = self.hosts.get_mut(&id).expect("a host");
        host.boot += 1;
        let promised = if host.boot == 1 { Duration::ZERO } else { Duration::from_millis(150) };
        let life = Life { incarnation: id, boot: host.boot };
        let boot = Boot { durable: host.disk.clone(), life, promised };
        host.node = Some(Node::new(Self::config(id), boot, seed, now));
        self.drain(id);
    }

    fn step(&mut self, id: u64, input: Input) {
        let now = self.clock(id);
        if let Some(node) = self.hosts.get_mut(&id).and_then(|host| host.node.as_mut()) {
            node.step(now, input);
            self.drain(id);
        }
    }

    fn drain(&mut self, id: u64) {
        while let Some(effect) = self.hosts.get_mut(&id).and_then(|h| h.node.as_mut()).and_then(Node::poll) {
            match effect {
                Effect::Persist(write) => {
                    let delay = MS / 5 + self.rng.below(self.slow_disk * MS);
                    let boot = self.hosts[&id].boot;
                    self.plan(delay, What::Disk(id, boot, write.io.0));
                    self.hosts.get_mut(&id).expect("a host").queue.push_back(write);
                }
                Effect::Send { message, after: None } => self.send(message),
                Effect::Send { message, after: Some(io) } => {
                    self.hosts.get_mut(&id).expect("a host").waiting.push((io, message));
                }
                Effect::Apply(entries) => self.apply(id, &entries),
                Effect::Reply { ticket, outcome } => self.reply(ticket, outcome),
                Effect::Event(Event::Disowned { by }) => panic!("seed {}: disowned by {by}", self.seed),
                Effect::Event(Event::LostData { claimed }) => panic!("seed {}: lost {claimed}", self.seed),
                Effect::Event(_) => {}
                Effect::Snapshot(_) => unreachable!("nobody takes snapshots here"),
            }
        }
        self.check();
        let now = self.clock(id);
        let Some(host) = self.hosts.get_mut(&id) else { return };
        let Some(node) = &host.node else { return };
        host.wake += 1;
        let wait = u128::from(node.deadline().since(now).as_nanos() as u64) * 1_000_000;
        let (after, wake) = ((wait / u128::from(host.rate)) as u64 + 1, host.wake);
        self.plan(after, What::Wake(id, wake));
    }

    fn send(&mut self, message: Message) {
        if self.cut.contains(&(message.from.0, message.to.0)) || self.rng.percent(self.loss) {
            return;
        }
        let copies = 1 + u64::from(self.rng.percent(self.doubled));
        for _ in 0..copies {
            let slow = if self.rng.percent(self.late) { 900 } else { 3 };
            let delay = MS / 10 + self.rng.below(slow * MS);
            self.mail.push(Some(message.clone()));
            self.plan(delay, What::Deliver(self.mail.len() - 1));
        }
    }

    /// State machine safety: every node applies the same entry at an index.
    fn apply(&mut self, id: u64, entries: &[Entry]) {
        for entry in entries {
            let first = self.committed.entry(entry.id.index).or_insert_with(|| entry.clone());
            assert_eq!(first, entry, "seed {}: node {id} applies another entry", self.seed);
        }
        if let Some(last) = entries.last() {
            let (now, index) = (self.clock(id), last.id.index);
            if let Some(node) = self.hosts.get_mut(&id).and_then(|host| host.node.as_mut()) {
                node.step(now, Input::Applied { index });
            }
        }
    }

    fn reply(&mut self, ticket: Ticket, outcome: Outcome) {
        assert!(self.answered.insert(ticket), "seed {}: {ticket} is answered twice", self.seed);
        match outcome {
            Outcome::Committed(LogId { index, .. }) => {
                self.acknowledged = self.acknowledged.max(index);
                self.served += 1;
                let durable = |h: &&Host| h.disk.log.iter().any(|entry| entry.id.index == index);
                let copies = self.hosts.values().filter(durable).count();
                assert!(2 * copies > self.hosts.len(), "seed {}: {index} is on {copies} disks", self.seed);
            }
            Outcome::ReadAt { index, .. } => {
                self.confirmed += 1;
                let least = self.reads[&ticket];
                assert!(index >= least, "seed {}: read at {index}, acknowledged {least}", self.seed);
            }
            _ => {}
        }
    }

    /// One leader per term; no two leases at once; a lease read sees what was acknowledged.
    fn check(&mut self) {
        let mut holder = None;
        for (id, host) in &self.hosts {
            let Some(view) = host.node.as_ref().map(Node::view) else { continue };
            if view.role == RoleKind::Leader {
                let first = self.leaders.entry(view.term).or_insert(view.id);
                assert_eq!(*first, view.id, "seed {}: two leaders in {}", self.seed, view.term);
            }
            let now = Instant((u128::from(self.now) * u128::from(host.rate) / 1_000_000) as u64);
            if view.fence.is_some() && view.lease_until.is_some_and(|until| now < until) {
                self.leases += 1;
                assert!(holder.is_none(), "seed {}: {id} and {holder:?} hold leases", self.seed);
                let (seen, least) = (view.last_applied, self.acknowledged);
                assert!(seen >= least, "seed {}: lease read at {seen}, acknowledged {least}", self.seed);
                holder = Some(*id);
            }
        }
    }

    fn run(&mut self, until: u64, faults: bool) {
        while let Some(Reverse((at, _, what))) = self.agenda.pop() {
            self.now = at;
            match what {
                What::Wake(id, wake) if self.hosts[&id].wake == wake => self.step(id, Input::Timeout),
                What::Wake(..) => {}
                What::Deliver(at) => {
                    if let Some(message) = self.mail[at].take() {
                        self.step(message.to.0, Input::Receive(message));
                    }
                }
                What::Disk(id, boot, io) => self.persist(id, boot, io),
                What::Client => self.client(),
                What::Fault if faults => self.fault(),
                What::Fault => {}
            }
            if self.now > until {
                return;
            }
        }
    }

    fn persist(&mut self, id: u64, boot: u64, io: u64) {
        let host = self.hosts.get_mut(&id).expect("a host");
        if host.boot != boot || host.node.is_none() {
            return;
        }
        while host.queue.front().is_some_and(|write| write.io.0 <= io) {
            let Some(write) = host.queue.pop_front() else { break };
            model::keep(&mut host.disk, &write);
        }
        let waiting = std::mem::take(&mut host.waiting);
        let (leave, wait): (Vec<_>, Vec<_>) = waiting.into_iter().partition(|(after, _)| after.0 <= io);
        host.waiting = wait;
        leave.into_iter().for_each(|(_, message)| self.send(message));
        self.step(id, Input::Persisted { io: IoSeq(io) });
    }

    fn any(&mut self) -> u64 {
        1 + self.rng.below(self.hosts.len() as u64)
    }

    fn client(&mut self) {
        let (id, next) = (self.any(), 1 + self.rng.below(20));
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        self.reads.insert(ticket, self.acknowledged);
        let input = match self.rng.below(3) {
            0 => Input::Read { ticket },
            _ => Input::Propose { ticket, command: ticket.0.to_string().into_bytes().into() },
        };
        self.step(id, input);
        self.plan(next * MS, What::Client);
    }

    fn fault(&mut self) {
        let (id, other) = (self.any(), self.any());
        match self.rng.below(10) {
            0 => self.cut.extend((1..=self.hosts.len() as u64).flat_map(|n| [(n, id), (id, n)])),
            1 => drop(self.cut.insert((id, other))),
            2 | 3 => self.cut.clear(),
            4 | 5 => self.crash(id),
            6 | 7 => {
                self.tickets += 1;
                let ticket = Ticket(self.tickets);
                (1..=self.hosts.len() as u64).for_each(|id| {
                    self.step(id, Input::Transfer { ticket: Ticket(ticket.0 + id), to: None })
                });
                self.tickets += self.hosts.len() as u64;
            }
            8 => self.step(id, Input::ClockSuspect),
            _ => {
                self.step(id, Input::DiskStalled(true));
                self.step(id, Input::DiskStalled(false));
            }
        }
        let next = 20 + self.rng.below(400);
        self.plan(next * MS, What::Fault);
    }

    /// Loses what is not on disk; starts again soon.
    fn crash(&mut self, id: u64) {
        let host = self.hosts.get_mut(&id).expect("a host");
        host.node = None;
        host.queue.clear();
        host.waiting.clear();
        self.start(id);
    }
}

fn seeds() -> std::ops::Range<u64> {
    let chosen = std::env::var("CHAOS_SEEDS").ok();
    let range = chosen.as_deref().and_then(|text| text.split_once(".."));
    let parsed = range.and_then(|(from, to)| Some(from.parse().ok()?..to.parse().ok()?));
    parsed.unwrap_or(0..60)
}

#[test]
fn nothing_acknowledged_is_lost_and_nobody_leads_twice_under_any_faults() {
    let (mut served, mut confirmed, mut leases) = (0, 0, 0);
    for seed in seeds() {
        let mut world = World::new(seed);
        world.run(1_000 * MS + STORM, true);
        world.cut.clear();
        (world.loss, world.late, world.doubled, world.slow_disk) = (0, 0, 0, 1);
        let before = (world.served, world.confirmed);
        world.run(1_000 * MS + STORM + CALM, false);
        assert!(world.served > before.0 && world.confirmed > before.1, "seed {seed}: no service in calm");
        served += world.served;
        confirmed += world.confirmed;
        leases += world.leases;
    }
    assert!(served > 0 && confirmed > 0 && leases > 0, "{served} {confirmed} {leases}");
    println!("{served} writes, {confirmed} reads, {leases} looks at a lease");
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let run = |seed| {
        let mut world = World::new(seed);
        world.run(2_000 * MS, true);
        (world.now, world.order, world.served, world.confirmed, world.committed.len())
    };
    assert_eq!(run(7), run(7));
    assert_ne!(run(7), run(8));
}
