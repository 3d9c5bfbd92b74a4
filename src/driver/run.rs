//! The loop: wait for one event, run one turn of the [`Cycle`], carry its output out.
//!
//! It has a thread of its own with its own runtime, on which the QUIC endpoint of Raft lives too,
//! so a busy proxy can't delay a heartbeat. The store's writer has another thread, so a slow disk
//! can't stop the loop; the loop watches how long the oldest write has been waiting instead. Snapshots
//! have a third, so that writing one down delays neither.
//!
//! Nothing is decided here. The order in which an output is carried out is the one that
//! [`cycle`](crate::driver::cycle) demands: publish, persist, send, answer.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, RwLock};

use tokio::sync::{mpsc, oneshot, watch};

use crate::clock;
use crate::driver::cycle::{Cycle, Output};
use crate::driver::directory::Directory;
use crate::driver::fatal::{Alarm, Fatal, guarded};
use crate::driver::handle::{Handle, QUEUE_LIMIT, Request};
use crate::driver::inbox::{Event, Inbox};
use crate::driver::keeper::Keeper;
use crate::driver::observe::Observer;
use crate::driver::pending::{Caller, Pending};
use crate::driver::preference::Preference;
use crate::fencing::leadership::Leadership;
use crate::ids::NodeId;
use crate::metrics::Metrics;
use crate::raft::config::Config;
use crate::raft::effect::Input;
use crate::raft::{Boot, Node};
use crate::registry::command::Member;
use crate::registry::machine::Machine;
use crate::storage::snapshots::Snapshots;
use crate::storage::{Opened, StorageError, Store, Writer};
use crate::time::{Duration, Instant};
use crate::transport::endpoint::{PeerConfig, PeerNet};
use crate::transport::inbound;

/// Events taken into one turn's batch before anything is published or sent: enough for a group
/// commit, few enough that a heartbeat never waits for long.
const BATCH_LIMIT: usize = 256;
/// Messages from peers that may wait for the loop; beyond it their streams are held back.
const INBOUND_MESSAGES: usize = 8192;
/// And the memory they may take: several times what one leader has on its way to a follower
/// (`max_inflight_bytes`), so that only a loop that stands still holds anybody back.
const INBOUND_BYTES: u32 = 32 * 1024 * 1024;
/// Reports of the keeper of snapshots that may wait for the loop.
const SNAPSHOT_REPORTS: usize = 8;

/// What a node's loop is made of.
#[derive(Debug)]
pub struct Parts {
    /// The core's parameters.
    pub config: Config,
    /// The opened store and what was found in it.
    pub store: (Store, Opened),
    /// Where the store lies, and the snapshots beside it.
    pub data_dir: PathBuf,
    /// The members of the first configuration, with their addresses.
    pub members: Vec<Member>,
    /// The mesh.
    pub peers: PeerConfig,
    /// Where everything is counted.
    pub metrics: Metrics,
    /// The zone where leadership should be.
    pub preferred_zone: Option<String>,
    /// Seeds the election timeouts.
    pub seed: u64,
}

/// A running loop.
#[derive(Debug)]
pub struct Running {
    /// The door to it.
    pub handle: Handle,
    /// Where the members listen for the hop.
    pub hops: watch::Receiver<BTreeMap<NodeId, String>>,
    stop: oneshot::Sender<()>,
    thread: std::thread::JoinHandle<()>,
}

impl Running {
    /// Ends the loop and waits for it: the peers have been told, what was queued is on the disk, and
    /// the data directory is free. Callers that nobody has answered hear `Unknown`, as in a crash.
    /// There is no limit: a process can't end either while one of its flushes is under way.
    pub fn stop(self) {
        // The loop may have ended by itself; then there is nobody to tell.
        let _ = self.stop.send(());
        let _ = self.thread.join();
    }
}

/// Starts the loop on a thread of its own. `on_fatal` is called at most once, when it ends by
/// itself, be it by a panic; the process should end then.
pub fn start(parts: Parts, on_fatal: impl Fn(Fatal) + Clone + Send + 'static) -> Result<Running, Fatal> {
    let mut machine = Machine::new(parts.members.clone());
    let current = parts.store.1.durable.snapshot.as_ref();
    let snapshots = Snapshots::open(&parts.data_dir, current)?;
    if let Some(snapshot) = current {
        machine.replace(snapshots.load(snapshot)?);
    }
    let (directory, hops) = Directory::new(&machine, &parts.store.1.durable.log);
    let machine = Arc::new(RwLock::new(machine));
    let (requests, requests_in) = mpsc::channel(QUEUE_LIMIT);
    let first = Arc::new(Leadership::unknown(parts.config.id));
    let (published, leadership) = watch::channel(first);
    let handle = Handle::new(parts.config.id, requests, leadership, Arc::clone(&machine));
    let (stop, stopped) = oneshot::channel();
    let (ready, started) = std::sync::mpsc::channel();
    let alarm = Alarm::new(on_fatal);
    let thread = std::thread::Builder::new().name("consensus".to_owned()).spawn(move || {
        let runs = Cell::new(false);
        let ended = guarded(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let alarm = alarm.clone();
                let edges = Edges { machine, published, requests: requests_in, directory, stopped };
                let node = Loop::assemble(parts, snapshots, edges, alarm).await?;
                runs.set(true);
                let _ = ready.send(Ok(()));
                node.run().await
            })
        });
        match ended {
            Ok(()) => {}
            Err(fatal) if runs.get() => alarm.raise(fatal),
            // Whoever starts it is still waiting.
            Err(fatal) => drop(ready.send(Err(fatal))),
        }
    })?;
    match started.recv() {
        Ok(Ok(())) => Ok(Running { handle, hops, stop, thread }),
        Ok(Err(fatal)) => Err(fatal),
        Err(_) => Err(Fatal::Lost("the consensus thread")),
    }
}

/// The loop's ends of what connects it with the edges.
struct Edges {
    machine: Arc<RwLock<Machine>>,
    published: watch::Sender<Arc<Leadership>>,
    requests: mpsc::Receiver<Request>,
    directory: Directory,
    stopped: oneshot::Receiver<()>,
}

struct Loop {
    cycle: Cycle,
    writer: Writer,
    keeper: Keeper,
    net: PeerNet,
    pending: Pending,
    observer: Observer,
    directory: Directory,
    preference: Option<Preference>,
    published: watch::Sender<Arc<Leadership>>,
    inbox: Inbox,
    /// How old the oldest write may be before the disk counts as stalled.
    stall_limit: Duration,
    stalled: bool,
}

impl Loop {
    async fn assemble(
        parts: Parts,
        snapshots: Snapshots,
        edges: Edges,
        alarm: Alarm<impl Fn(Fatal) + Clone + Send + 'static>,
    ) -> Result<Self, Fatal> {
        let Edges { machine, published, requests, mut directory, stopped } = edges;
        let (inbound_out, arrivals) = inbound::channel(INBOUND_MESSAGES, INBOUND_BYTES);
        let net = PeerNet::start(parts.peers, inbound_out).await?;
        // Bounded by the number of writes in the queue, which the core bounds.
        let (durable_out, durable) = mpsc::unbounded_channel();
        let (store, opened) = parts.store;
        let report = move |io| {
            let _ = durable_out.send(io);
        };
        let (on_durable, on_failure) = reporting(report, alarm.clone());
        let writer = Writer::start(store, parts.metrics.clone(), on_durable, on_failure);
        // The keeper waits for the loop, and has a bounded queue before it: a piece may be a MiB.
        let (done_out, snapshots_done) = mpsc::channel(SNAPSHOT_REPORTS);
        let report = move |done| {
            let _ = done_out.blocking_send(done);
        };
        let (on_done, on_failure) = reporting(report, alarm);
        let keeper = Keeper::start(snapshots, parts.metrics.clone(), on_done, on_failure)?;
        let boot = Boot { durable: opened.durable, life: opened.life, promised: opened.promised };
        let pending = Pending::new(parts.config.max_pending_reads);
        let stall_limit = parts.config.election_timeout_max / 2;
        let preference = parts.preferred_zone.map(|zone| Preference::new(zone, &parts.config));
        let observer = Observer::new(parts.metrics, &parts.config);
        let node = Node::new(parts.config, boot, parts.seed, clock::now());
        let cycle = Cycle::new(node, machine);
        // The configuration may name others than the log does.
        if let Some(roster) = directory.turn(&cycle, None) {
            net.set_roster(&roster);
        }
        Ok(Self {
            cycle,
            writer,
            keeper,
            net,
            pending,
            observer,
            directory,
            preference,
            published,
            inbox: Inbox::new(requests, arrivals, durable, snapshots_done, stopped),
            stall_limit,
            stalled: false,
        })
    }

    async fn run(mut self) -> Result<(), Fatal> {
        loop {
            let wake = self.next_wake();
            let event = self.inbox.next(wake).await;
            let now = clock::now();
            if self.observer.clock_is_suspect(now, wake) {
                self.cycle.feed(now, Input::ClockSuspect);
            }
            self.watch_disk(now);
            if now >= self.cycle.deadline(now) {
                self.cycle.feed(now, Input::Timeout);
            }
            match event {
                Event::Stop => break,
                Event::Lost(part) => return Err(Fatal::Lost(part)),
                event => self.feed(now, event),
            }
            for _ in 1..BATCH_LIMIT {
                let Some(event) = self.inbox.ready() else { break };
                // Read anew: a heartbeat must not count as heard before it was sent (decision 0005).
                self.feed(clock::now(), event);
            }
            self.prefer(clock::now());
            let output = self.cycle.drain(clock::now());
            self.carry_out(output)?;
        }
        self.end().await;
        Ok(())
    }

    /// A planned end: the peers need not find out by a timeout, and whoever starts this node again
    /// finds its directory free.
    async fn end(self) {
        let Self { writer, keeper, net, inbox, pending, .. } = self;
        // Nobody waits for what will not come.
        drop((inbox, pending));
        net.close().await;
        writer.close();
        keeper.close();
    }

    fn next_wake(&self) -> Instant {
        let deadline = self.cycle.deadline(clock::now());
        match self.writer.oldest_outstanding() {
            Some(since) if !self.stalled => deadline.min(since + self.stall_limit),
            _ => deadline,
        }
    }

    fn feed(&mut self, now: Instant, event: Event) {
        match event {
            // Not events of the cycle: a deadline is looked at in every turn.
            Event::Timer | Event::Stop | Event::Lost(_) => {}
            Event::Message(message) => self.cycle.feed(now, Input::Receive(message)),
            Event::Durable(io) => self.cycle.feed(now, Input::Persisted { io }),
            Event::Snapshot(done) => self.cycle.snapshot_done(now, done),
            Event::Request(request) => self.request(now, request),
        }
    }

    fn request(&mut self, now: Instant, request: Request) {
        match request {
            Request::Propose { decided_in, op, reply } => {
                if let Some(ticket) = self.pending.register(Caller::Propose(reply)) {
                    self.cycle.propose(now, decided_in, op, ticket);
                }
            }
            Request::Read { reply } => {
                if let Some(ticket) = self.pending.register(Caller::Read(reply)) {
                    self.cycle.feed(now, Input::Read { ticket });
                }
            }
            Request::Transfer { decided_in, to, reply } => {
                if let Some(ticket) = self.pending.register(Caller::Transfer(reply)) {
                    self.cycle.transfer(now, decided_in, to, ticket);
                }
            }
            Request::Reconfigure { change, reply } => {
                if let Some(ticket) = self.pending.register(Caller::Reconfigure(reply)) {
                    self.cycle.feed(now, Input::Reconfigure { ticket, change });
                }
            }
            // The caller may have gone away.
            Request::Judge { change, reply } => drop(reply.send(self.cycle.judge(&change))),
            Request::View { reply } => drop(reply.send(self.cycle.view())),
        }
    }

    /// Leadership goes to the preferred zone. Nobody waits for the answer.
    fn prefer(&mut self, now: Instant) {
        let wanted = self.preference.as_mut().and_then(|preference| preference.look(now, &self.cycle));
        let Some(to) = wanted else { return };
        tracing::info!(%to, "leadership is handed over to the preferred zone");
        let (reply, _) = oneshot::channel();
        if let Some(ticket) = self.pending.register(Caller::Transfer(reply)) {
            self.cycle.transfer(now, None, Some(to), ticket);
        }
    }

    /// A leader whose disk stalls must not be kept alive by its heartbeats (L9).
    fn watch_disk(&mut self, now: Instant) {
        let oldest = self.writer.oldest_outstanding();
        let stalled = oldest.is_some_and(|since| now.since(since) >= self.stall_limit);
        if stalled != self.stalled {
            self.stalled = stalled;
            self.observer.disk(stalled);
            self.cycle.feed(now, Input::DiskStalled(stalled));
        }
    }

    fn carry_out(&mut self, output: Output) -> Result<(), Fatal> {
        let picture = self.cycle.leadership();
        let leader = picture.leader;
        self.publish(picture);
        if let Some(roster) = self.directory.turn(&self.cycle, leader) {
            self.net.set_roster(&roster);
        }
        for persist in output.persist {
            self.writer.push(persist);
        }
        for work in output.snapshots {
            if let Some(work) = self.keeper.push(work) {
                self.observer.keeper_is_busy();
                self.cycle.snapshot_not_done(clock::now(), &work);
            }
        }
        for message in output.send {
            self.net.send(message);
        }
        for (ticket, answered) in output.answers {
            self.pending.answer(ticket, answered);
        }
        for event in output.events {
            self.observer.event(&event)?;
        }
        Ok(())
    }

    fn publish(&mut self, new: Leadership) {
        self.observer.turn(&self.cycle, &new, self.writer.oldest_outstanding());
        let now = clock::now();
        self.published.send_if_modified(|published| {
            if **published == new {
                return false;
            }
            // Who looked while the old lease had lapsed waits for this one.
            let revived = published.token_at(now).is_none() && new.token_at(now).is_some();
            let wakes = revived || is_news(published, &new);
            *published = Arc::new(new);
            wakes
        });
    }
}

/// How a thread reports what it has done, and how it fails. Its channel ends only after the reason of a
/// failure is told, so that the loop does not give a worse one.
///
/// `report` may fail: then the loop that would be told has ended with the process.
fn reporting<T>(
    report: impl Fn(T) + Clone + Send + 'static,
    alarm: Alarm<impl Fn(Fatal) + Send + 'static>,
) -> (impl Fn(T) + Send + 'static, impl FnOnce(StorageError) + Send + 'static) {
    let told_first = report.clone();
    let on_failure = move |error| {
        alarm.raise(Fatal::Storage(error));
        drop(told_first);
    };
    (report, on_failure)
}

/// A longer lease or a higher commit index is no reason to wake those who wait for a change.
fn is_news(old: &Leadership, new: &Leadership) -> bool {
    let facts = |l: &Leadership| (l.role, l.term, l.leader, l.fence, l.lease_until.is_some(), l.last_applied);
    facts(old) != facts(new)
}
