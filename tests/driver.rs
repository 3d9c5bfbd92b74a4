//! The loop on its own thread, with a real store and a real mesh: how it ends, by itself and when it
//! is asked to.

mod pki;

use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};

use pki::{PATIENCE, Pki, counted, until};
use termgate::driver::fatal::Fatal;
use termgate::driver::run::{self, Parts, Running};
use termgate::ids::{LogId, LogIndex, NodeId, Term};
use termgate::metrics::Metrics;
use termgate::raft::config::Config;
use termgate::raft::entry::{Entry, Membership, Payload};
use termgate::registry::command::Member;
use termgate::storage::{Identity, Opened, Store};
use termgate::transport::endpoint::{PeerConfig, PeerNet};
use termgate::transport::inbound;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Subscriber};

/// Whether the log panics when a role changes.
static POISONED: AtomicBool = AtomicBool::new(false);
/// The log is one for all nodes of this process.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// A log that panics on the loop's own thread: the loop calls out to it in every term.
struct PoisonedLog;

impl Subscriber for PoisonedLog {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        event.record(&mut Poison);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

struct Poison;

impl Visit for Poison {
    fn record_debug(&mut self, _: &Field, value: &dyn std::fmt::Debug) {
        let text = format!("{value:?}");
        assert!(text != "role changed" || !POISONED.load(Ordering::Relaxed), "the log is poisoned");
    }
}

/// A node in `dir` whose members listen at `addresses`, the first of them itself.
struct Plan<'a> {
    pki: &'a Pki,
    dir: &'a Path,
    addresses: &'a [SocketAddr],
}

impl Plan<'_> {
    fn members(&self) -> BTreeMap<NodeId, String> {
        (1..).map(NodeId).zip(self.addresses.iter().map(SocketAddr::to_string)).collect()
    }

    fn open(&self) -> (Store, Opened) {
        let membership = Membership::of_voters(self.members().into_keys());
        let identity = Identity { cluster: "orders".to_owned(), node: NodeId(1), membership };
        Store::open(self.dir, &identity, Config::new(NodeId(1)).election_timeout_min).unwrap()
    }

    fn parts(&self, store: (Store, Opened)) -> Parts {
        let metrics = Metrics::new();
        let member = |(id, peer): (NodeId, String)| {
            let nowhere = "127.0.0.1:9".to_owned();
            Member { id, peer, proxy: nowhere.clone(), hop: nowhere.clone(), api: nowhere, zone: None }
        };
        Parts {
            config: Config::new(NodeId(1)),
            store,
            data_dir: self.dir.to_path_buf(),
            members: self.members().into_iter().map(member).collect(),
            peers: PeerConfig {
                node: NodeId(1),
                cluster: "orders".to_owned(),
                listen: self.addresses[0],
                address: self.addresses[0].to_string(),
                members: self.members(),
                credentials: self.pki.node(1),
                metrics: metrics.clone(),
            },
            metrics,
            preferred_zone: None,
            seed: 7,
        }
    }

    /// Starts the node; `told` hears why it ended by itself.
    fn start(&self, store: (Store, Opened), told: mpsc::Sender<Fatal>) -> Result<Running, Fatal> {
        run::start(self.parts(store), move |fatal| told.send(fatal).unwrap())
    }
}

fn free_address() -> SocketAddr {
    UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn one_at_a_time() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn a_panic_of_the_loop_is_told_as_the_reason_of_its_end() {
    let _alone = one_at_a_time();
    tracing::subscriber::set_global_default(PoisonedLog).unwrap();
    let (pki, dir) = (Pki::new(), tempfile::tempdir().unwrap());
    let plan = Plan { pki: &pki, dir: dir.path(), addresses: &[free_address()] };
    POISONED.store(true, Ordering::Relaxed);
    let (told, reasons) = mpsc::channel();
    let running = plan.start(plan.open(), told).unwrap();
    let reason = reasons.recv_timeout(PATIENCE);
    POISONED.store(false, Ordering::Relaxed);
    let reason = reason.expect("the end is told").to_string();
    assert!(reason.contains("the log is poisoned"), "{reason}");
    running.stop();
    assert!(reasons.recv().is_err(), "it was told twice");
}

#[test]
fn a_panic_at_the_start_is_an_error_of_the_start() {
    let _alone = one_at_a_time();
    let (pki, dir) = (Pki::new(), tempfile::tempdir().unwrap());
    let plan = Plan { pki: &pki, dir: dir.path(), addresses: &[free_address()] };
    let (store, mut opened) = plan.open();
    let id = LogId::new(Term(1), LogIndex(5));
    opened.durable.log.push(Entry { id, payload: Payload::Command(bytes::Bytes::new()) });
    let (told, reasons) = mpsc::channel();
    let error = plan.start((store, opened), told).unwrap_err().to_string();
    assert!(error.contains("the log has no gaps"), "{error}");
    assert!(reasons.recv().is_err(), "whoever starts it was told already");
}

#[test]
fn a_planned_stop_tells_the_peers_and_frees_the_directory() {
    let _alone = one_at_a_time();
    let (pki, dir) = (Pki::new(), tempfile::tempdir().unwrap());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let address = free_address();
    let metrics = Metrics::new();
    // Node 2 only listens: what node 1 tells it as a peer is all it learns.
    let (inbound, _arrivals) = inbound::channel(1024, 1024 * 1024);
    let config = PeerConfig {
        node: NodeId(2),
        cluster: "orders".to_owned(),
        listen: "127.0.0.1:0".parse().unwrap(),
        address: String::new(),
        members: BTreeMap::from([(NodeId(1), address.to_string())]),
        credentials: pki.node(2),
        metrics: metrics.clone(),
    };
    let peer = runtime.block_on(PeerNet::start(config, inbound)).unwrap();
    let plan = Plan { pki: &pki, dir: dir.path(), addresses: &[address, peer.local_address().unwrap()] };
    for _ in 0..5 {
        let (told, reasons) = mpsc::channel();
        let running = plan.start(plan.open(), told).unwrap();
        runtime.block_on(until("a connection", || peer.connected() == [NodeId(1)]));
        let start = Instant::now();
        running.stop();
        drop(plan.open());
        runtime.block_on(until("the end of the connection", || peer.connected().is_empty()));
        assert!(start.elapsed() < Duration::from_secs(1), "the idle timeout told it: {:?}", start.elapsed());
        assert!(reasons.recv().is_err(), "a planned end is no failure");
    }
    assert_eq!(counted(&metrics, "connection-by-peer", "removed"), 0);
}
