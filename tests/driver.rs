//! The loop on its own thread, with a real store and a real mesh: how it ends, by itself and when it
//! is asked to.

mod node;
mod pki;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};

use node::Plan;
use pki::{PATIENCE, Pki, counted, free_address, until};
use termgate::driver::fatal::Fatal;
use termgate::driver::run::Running;
use termgate::ids::{LogId, LogIndex, NodeId, Term};
use termgate::metrics::Metrics;
use termgate::raft::entry::{Entry, Payload};
use termgate::storage::{Opened, Store};
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

/// Starts the node; `told` hears why it ended by itself.
fn start(plan: &Plan<'_>, store: (Store, Opened), told: mpsc::Sender<Fatal>) -> Result<Running, Fatal> {
    plan.start(store, move |fatal| told.send(fatal).unwrap())
}

fn one_at_a_time() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn a_panic_of_the_loop_is_told_as_the_reason_of_its_end() {
    let _alone = one_at_a_time();
    tracing::subscriber::set_global_default(PoisonedLog).unwrap();
    let (pki, dir) = (Pki::new(), tempfile::tempdir().unwrap());
    let plan = Plan { pki: &pki, dir: dir.path(), id: 1, addresses: &[free_address()] };
    POISONED.store(true, Ordering::Relaxed);
    let (told, reasons) = mpsc::channel();
    let running = start(&plan, plan.open(), told).unwrap();
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
    let plan = Plan { pki: &pki, dir: dir.path(), id: 1, addresses: &[free_address()] };
    let (store, mut opened) = plan.open();
    let id = LogId::new(Term(1), LogIndex(5));
    opened.durable.log.push(Entry { id, payload: Payload::Command(bytes::Bytes::new()) });
    let (told, reasons) = mpsc::channel();
    let error = start(&plan, (store, opened), told).unwrap_err().to_string();
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
    let plan =
        Plan { pki: &pki, dir: dir.path(), id: 1, addresses: &[address, peer.local_address().unwrap()] };
    for _ in 0..5 {
        let (told, reasons) = mpsc::channel();
        let running = start(&plan, plan.open(), told).unwrap();
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
