//! A simulated wide-area network of cores: messages take half a round trip, a write takes 2 ms.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::Duration;

use termgate::ids::{IoSeq, Life, NodeId, Ticket};
use termgate::raft::config::Config;
use termgate::raft::effect::{Effect, Input, Outcome, RoleKind};
use termgate::raft::entry::{Durable, Membership};
use termgate::raft::message::Message;
use termgate::raft::{Boot, Node};
use termgate::time::Instant;

const DISK: Duration = Duration::from_millis(2);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Region {
    Eu,
    Us,
    Asia,
}

impl Region {
    /// Typical round trips between cloud regions: Frankfurt, Virginia, Tokyo.
    pub fn round_trip(self, other: Self) -> Duration {
        Duration::from_millis(match (self, other) {
            (a, b) if a == b => 1,
            (Self::Eu, Self::Us) | (Self::Us, Self::Eu) => 90,
            (Self::Us, _) | (_, Self::Us) => 160,
            _ => 220,
        })
    }
}

/// Node `i` is in the `i`-th region, counted from one; `leader` is where it starts.
pub struct Placement {
    pub name: &'static str,
    pub regions: &'static [Region],
    pub leader: u64,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Arrives(usize),
    Durable(NodeId, IoSeq),
    Wakes(NodeId),
}

struct World<'p> {
    placement: &'p Placement,
    now: Instant,
    nodes: BTreeMap<NodeId, Node>,
    /// What waits for which write.
    held: BTreeMap<NodeId, Vec<(IoSeq, Message)>>,
    done: BTreeMap<NodeId, IoSeq>,
    mail: Vec<Option<Message>>,
    queue: BinaryHeap<Reverse<(Instant, u64, What)>>,
    order: u64,
    committed: Option<Instant>,
}

impl<'p> World<'p> {
    fn new(placement: &'p Placement, config: impl Fn(NodeId) -> Config, seed: u64) -> Self {
        let ids = (1..=placement.regions.len() as u64).map(NodeId);
        let now = Instant::from_millis(10_000);
        let membership = Membership::of_voters(ids.clone());
        let node = |id: NodeId| {
            let durable = Durable { membership: membership.clone(), ..Durable::default() };
            let life = Life { incarnation: id.0, boot: 1 };
            let boot = Boot { durable, life, promised: Duration::ZERO };
            (id, Node::new(config(id), boot, seed.wrapping_mul(0x9e37_79b9) ^ id.0, now))
        };
        let mut world = Self {
            placement,
            now,
            nodes: ids.map(node).collect(),
            held: BTreeMap::new(),
            done: BTreeMap::new(),
            mail: Vec::new(),
            queue: BinaryHeap::new(),
            order: 0,
            committed: None,
        };
        world.nodes.keys().copied().collect::<Vec<_>>().into_iter().for_each(|id| world.wake(id));
        world
    }

    fn after(&mut self, delay: Duration, what: What) {
        self.order += 1;
        self.queue.push(Reverse((self.now + delay, self.order, what)));
    }

    fn wake(&mut self, id: NodeId) {
        if let Some(node) = self.nodes.get(&id) {
            let delay = node.deadline().since(self.now);
            self.after(delay, What::Wakes(id));
        }
    }

    fn region(&self, id: NodeId) -> Region {
        self.placement.regions[id.0 as usize - 1]
    }

    fn step(&mut self, id: NodeId, input: Input) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        node.step(self.now, input);
        while let Some(effect) = self.nodes.get_mut(&id).and_then(Node::poll) {
            match effect {
                Effect::Persist(write) => self.after(DISK, What::Durable(id, write.io)),
                Effect::Send { message, after: Some(io) }
                    if self.done.get(&id).is_none_or(|done| *done < io) =>
                {
                    self.held.entry(id).or_default().push((io, message));
                }
                Effect::Send { message, .. } => self.post(message),
                Effect::Apply(entries) => {
                    let index = entries.last().expect("entries").id.index;
                    self.nodes.get_mut(&id).expect("it runs").step(self.now, Input::Applied { index });
                }
                Effect::Reply { outcome: Outcome::Committed(_), .. } => self.committed = Some(self.now),
                _ => {}
            }
        }
        self.wake(id);
    }

    fn post(&mut self, message: Message) {
        let delay = self.region(message.from).round_trip(self.region(message.to)) / 2;
        self.mail.push(Some(message));
        self.after(delay, What::Arrives(self.mail.len() - 1));
    }

    fn turn(&mut self) {
        let Reverse((at, _, what)) = self.queue.pop().expect("a deadline is always ahead");
        self.now = at;
        match what {
            What::Arrives(letter) => {
                let message = self.mail[letter].take().expect("each arrives once");
                self.step(message.to, Input::Receive(message));
            }
            What::Durable(id, io) => {
                self.done.insert(id, io);
                let held = self.held.remove(&id).unwrap_or_default();
                let (free, held) = held.into_iter().partition::<Vec<_>, _>(|(after, _)| *after <= io);
                self.held.insert(id, held);
                if self.nodes.contains_key(&id) {
                    free.into_iter().for_each(|(_, message)| self.post(message));
                }
                self.step(id, Input::Persisted { io });
            }
            What::Wakes(id) => {
                if self.nodes.get(&id).is_some_and(|node| node.deadline() <= self.now) {
                    self.step(id, Input::Timeout);
                }
            }
        }
    }

    fn run_until(&mut self, mut done: impl FnMut(&Self) -> bool) {
        while !done(self) {
            self.turn();
        }
    }

    /// The node that may stamp writes now.
    fn in_office(&self) -> Option<NodeId> {
        let holds = |node: &Node| node.leadership().token_at(self.now).is_some();
        self.nodes.iter().find(|(_, node)| holds(node)).map(|(id, _)| *id)
    }

    /// Elects somebody, and moves leadership to where the placement wants it.
    fn settle(&mut self) {
        self.run_until(|world| world.in_office().is_some());
        let wanted = NodeId(self.placement.leader);
        let settled = self.now + Duration::from_secs(3);
        self.run_until(|world| world.now >= settled);
        if let Some(leader) = self.in_office().filter(|leader| *leader != wanted) {
            self.step(leader, Input::Transfer { ticket: Ticket(1), to: Some(wanted) });
        }
        self.run_until(|world| world.in_office() == Some(wanted));
        let settled = self.now + Duration::from_secs(3);
        self.run_until(|world| world.now >= settled);
    }
}

/// How long a write takes at the leader.
pub fn commit_time(placement: &Placement, config: impl Fn(NodeId) -> Config) -> Duration {
    let mut world = World::new(placement, config, 1);
    world.settle();
    let asked = world.now;
    let command = bytes::Bytes::from_static(b"x");
    world.step(NodeId(placement.leader), Input::Propose { ticket: Ticket(9), command });
    world.run_until(|world| world.committed.is_some());
    world.committed.expect("it was committed").since(asked)
}

/// How long nobody may stamp writes after the leader is gone, once per seed.
pub fn failover_times(
    placement: &Placement,
    config: impl Fn(NodeId) -> Config + Copy,
    seeds: u64,
) -> Vec<Duration> {
    let once = |seed| {
        let mut world = World::new(placement, config, seed);
        world.settle();
        // Somewhere between two heartbeats.
        let at = world.now + Duration::from_millis(seed % 250);
        world.run_until(|world| world.now >= at);
        let lost = world.now;
        world.nodes.remove(&NodeId(placement.leader));
        world.run_until(|world| world.in_office().is_some());
        let role = world.nodes.values().filter(|node| node.leadership().role == RoleKind::Leader).count();
        assert_eq!(role, 1, "one of them leads");
        world.now.since(lost)
    };
    (1..=seeds).map(once).collect()
}
