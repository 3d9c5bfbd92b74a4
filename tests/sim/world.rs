//! The world: true time, one agenda of everything that will happen, and the nodes it happens to.
//!
//! Nothing here knows an invariant. The world hands what happens to the nodes, and what the nodes
//! do to the checker, the oracle, the network and the disks.

use termgate::driver::cycle::SnapshotWork;
use termgate::ids::{IoSeq, LogIndex, NodeId};
use termgate::raft::entry::Membership;
use termgate::raft::message::Message;

use crate::agenda::Agenda;
use crate::backend::{Backend, BackendEvent};
use crate::check::Checker;
use crate::clients::ClientEvent;
use crate::clock::{Clock, True};
use crate::disk::Disk;
use crate::history::History;
use crate::limits::Limits;
use crate::nemesis::{Fault, Nemesis};
use crate::net::Net;
use crate::oracle::Oracle;
use crate::params::{DiskParams, Params, StoreParams};
use crate::process::SimNode;
use crate::request::RequestEvent;
use crate::rng::{Rng, mix};
use crate::script::Play;
use crate::stats::{Stat, Stats};
use crate::tla::Recorder;
use crate::trace::Trace;
use crate::whole;

/// More events than this in one world mean that some node spins.
const EVENT_LIMIT: u64 = 4_000_000;

/// Everything that can be on its way.
#[derive(Debug, Clone)]
pub enum Event {
    /// A node wanted to be woken.
    Wake { node: usize, boot: u64, at: True },
    /// A message arrives.
    Deliver { message: Box<Message>, sent: True },
    /// The loop has fed a batch and drains it.
    Drain { node: usize, boot: u64 },
    /// An fsync ends at the disk.
    Fsynced { node: usize, boot: u64, fsync: u64 },
    /// The process hears about it.
    Persisted { node: usize, boot: u64, io: IoSeq },
    /// The keeper of snapshots has done something.
    Keeper { node: usize, boot: u64, work: Box<SnapshotWork> },
    /// A stopped process goes on.
    Resume { node: usize, pause: u64 },
    /// A process starts.
    Restart { node: usize },
    /// Something of a client.
    Client(Box<ClientEvent>),
    /// Something between a gate and the backend.
    Backend(Box<BackendEvent>),
    /// Something on the way of a request for the fenced resource.
    Request(Box<RequestEvent>),
    /// The next random fault is due.
    NextFault,
    /// A fault ends, or goes on.
    Fault(Fault),
    /// The operator wants the membership changed.
    Operator,
    /// The next act of a script.
    Script(Box<Play>),
}

impl Event {
    /// The process that must run for this to be noticed.
    pub fn process(&self) -> Option<usize> {
        match self {
            Self::Wake { node, .. }
            | Self::Drain { node, .. }
            | Self::Persisted { node, .. }
            | Self::Keeper { node, .. } => Some(*node),
            Self::Deliver { message, .. } => Some(message.to.0 as usize - 1),
            Self::Client(event) => event.process(),
            Self::Backend(event) => event.process(),
            Self::Request(event) => event.process(),
            _ => None,
        }
    }
}

/// The streams of chance of one world.
pub struct Chances {
    /// Timers, restarts of nodes and the like.
    pub node: Rng,
    /// The disks.
    pub disk: Rng,
    /// The nemesis.
    pub nemesis: Rng,
    /// The clients.
    pub client: Rng,
}

/// What lies below the nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disks {
    /// The model alone.
    Model,
    /// The project's own store, on a medium that fails.
    Store,
}

/// One simulated cluster and all around it.
pub struct World {
    /// What the seed decided.
    pub params: Params,
    /// True time.
    pub now: True,
    /// The nodes.
    pub nodes: Vec<SimNode>,
    /// The network.
    pub net: Net,
    /// How the disks behave now.
    pub disk_params: DiskParams,
    /// The reader of all that happens.
    pub checker: Checker,
    /// What is on its way, against what may be.
    pub limits: Limits,
    /// What clients were told.
    pub oracle: Oracle,
    /// The same from outside.
    pub history: History,
    /// The fenced resource.
    pub backend: Backend,
    /// What the nemesis has going on.
    pub nemesis: Nemesis,
    /// The counters.
    pub stats: Stats,
    /// The trace.
    pub trace: Trace,
    /// The trace for TLC.
    pub tla: Recorder,
    /// The streams of chance.
    pub chances: Chances,
    /// Whether the storm is over.
    pub calm: bool,
    /// Whether a process is taking in what arrived while it was stopped: one batch.
    pub resuming: bool,
    /// The last request's number.
    pub last_request: u64,
    agenda: Agenda<Event>,
    events: u64,
    hash: u64,
}

impl World {
    /// The world of `seed`, with every node about to start.
    pub fn new(seed: u64, disks: Disks, traced: bool) -> Self {
        let mut params = Params::draw(seed);
        params.store = (disks == Disks::Store).then(|| StoreParams::draw(seed));
        Self::with(params, seed, traced)
    }

    /// A world with these parameters; the seed decides everything else.
    pub fn with(params: Params, seed: u64, traced: bool) -> Self {
        let count = params.configs.len();
        let initial = Membership::of_voters((1..=params.voters as u64).map(NodeId));
        let mut clocks = Rng::stream(seed, 2);
        let mut nodes = Vec::new();
        for (index, config) in params.configs.iter().enumerate() {
            let clock = Clock::new(&mut clocks, 0);
            // Who is to be added knows nobody.
            let known = if index < params.voters { initial.clone() } else { Membership::default() };
            let disk = Disk::new(config.id, clocks.draw(), known, params.store.clone());
            let mut node = SimNode::new(index, config.clone(), clock, disk);
            node.was_member = index < params.voters;
            nodes.push(node);
        }
        let mut world = Self {
            now: 0,
            nodes,
            net: Net::new(count, params.net.clone(), Rng::stream(seed, 3)),
            disk_params: params.disk.clone(),
            checker: Checker::new(count, initial, params.clocks_in_bound),
            limits: Limits::new(count),
            oracle: Oracle::default(),
            history: History::default(),
            backend: Backend::new(seed, params.fenced.as_ref()),
            nemesis: Nemesis::default(),
            stats: Stats::new(),
            trace: Trace::new(traced),
            tla: Recorder::new(traced, count),
            chances: Chances {
                node: Rng::stream(seed, 4),
                disk: Rng::stream(seed, 5),
                nemesis: Rng::stream(seed, 6),
                client: Rng::stream(seed, 7),
            },
            calm: false,
            resuming: false,
            last_request: 0,
            agenda: Agenda::new(),
            events: 0,
            hash: mix(seed),
            params,
        };
        world.begin();
        world
    }

    fn begin(&mut self) {
        let params = self.params.clone();
        self.trace.line(0, None, || format!("{params:#?}"));
        if !params.clocks_in_bound {
            self.stats.add(Stat::BeyondBoundWorlds);
        }
        for node in 0..self.nodes.len() {
            self.draw_rate(node);
            self.start(node);
        }
        self.schedule(0, Event::Client(Box::new(ClientEvent::Next)));
        self.schedule(params.faults.mean_gap, Event::NextFault);
        if params.operator_gap > 0 {
            self.schedule(params.operator_gap, Event::Operator);
        }
        self.begin_script();
        self.begin_fencing();
    }

    /// Puts `event` down, `delay` from now.
    pub fn schedule(&mut self, delay: True, event: Event) {
        self.agenda.push(self.now.saturating_add(delay), event);
    }

    /// Lets things happen up to `until`; false when an invariant does not hold any more.
    pub fn run_until(&mut self, until: True) -> bool {
        while self.checker.violation().is_none() {
            let Some((at, event)) = self.agenda.pop_until(until) else {
                self.now = until;
                return true;
            };
            self.now = at;
            self.events += 1;
            if self.events > EVENT_LIMIT {
                self.checker.fail("too many events: a node spins");
            }
            self.happen(event);
            if self.events.is_multiple_of(whole::EVERY) {
                self.check_whole();
            }
        }
        self.checker.violation().is_none()
    }

    /// One event, now. A stopped process notices nothing until it goes on.
    pub fn happen(&mut self, event: Event) {
        if let Some(node) = event.process()
            && self.nodes[node].is_paused()
        {
            return self.nodes[node].backlog.push(event);
        }
        match event {
            Event::Wake { node, boot, at } => self.on_wake(node, boot, at),
            Event::Drain { node, boot } => self.on_drain(node, boot),
            Event::Deliver { message, sent } => self.on_deliver(*message, sent),
            Event::Fsynced { node, boot, fsync } => self.on_fsynced(node, boot, fsync),
            Event::Persisted { node, boot, io } => self.on_persisted(node, boot, io),
            Event::Keeper { node, boot, work } => self.on_keeper(node, boot, *work),
            Event::Resume { node, pause } => self.on_resume(node, pause),
            Event::Restart { node } => self.start(node),
            Event::Client(event) => self.on_client(*event),
            Event::Backend(event) => self.on_backend(*event),
            Event::Request(event) => self.on_request_event(*event),
            Event::NextFault => self.next_fault(),
            Event::Fault(fault) => self.on_fault(fault),
            Event::Script(play) => self.on_script(*play),
            Event::Operator => self.on_operator(),
        }
    }

    /// Folds something that happened into the hash that two runs of a seed must share.
    pub const fn fold(&mut self, value: u64) {
        self.hash = mix(self.hash ^ value);
    }

    /// The hash of everything that happened.
    pub const fn hash(&self) -> u64 {
        self.hash
    }

    /// How many events there were.
    pub const fn events(&self) -> u64 {
        self.events
    }

    /// Keeps a violation that a part of the world reports.
    pub fn judge(&mut self, verdict: Result<(), String>) {
        if let Err(text) = verdict {
            self.checker.fail(text);
        }
    }

    /// The running leader of the highest term.
    pub fn leader(&self) -> Option<usize> {
        let leads = |n: &&SimNode| n.is_leader();
        self.nodes.iter().filter(leads).max_by_key(|n| n.term()).map(|n| n.index)
    }

    /// The highest committed index.
    pub fn committed(&self) -> LogIndex {
        LogIndex(self.checker.committed_len())
    }
}
