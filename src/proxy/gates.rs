//! All gates of one node, where requests ask them and the gatekeeper turns them.
//!
//! Asking is a read lock and a look at the published leadership; it happens twice per request.
//! Whoever waits for a gate or a leader watches [`GateBoard::changed`].

use std::sync::{PoisonError, RwLock};

use tokio::sync::{Notify, watch};
use tokio::time::sleep;

use crate::clock;
use crate::driver::handle::Handle;
use crate::fencing::gate::{Admit, Gate, GateState};
use crate::fencing::mode::FenceMode;
use crate::ids::Term;
use crate::metrics::{Metrics, RouteLabel};
use crate::proxy::route::Route;
use crate::time::{Duration, Instant};

/// One gate, as it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GateStatus {
    /// The route's name.
    pub name: String,
    /// How it is protected.
    pub fence: FenceMode,
    /// `closed`, `barrier`, `open` or `draining`.
    pub gate: &'static str,
    /// The highest term this node knows the backend's fence to stand at.
    pub fenced_term: Option<Term>,
}

#[derive(Debug)]
struct Entry {
    name: String,
    mode: FenceMode,
    gate: RwLock<Gate>,
}

/// The gates of one node.
#[derive(Debug)]
pub struct GateBoard {
    handle: Handle,
    entries: Vec<Entry>,
    metrics: Metrics,
    changed: watch::Sender<()>,
    work: Notify,
}

impl GateBoard {
    /// One closed gate for each route, in their order. Gates of drain routes wait for `quiet`.
    pub fn new(handle: Handle, routes: &[Route], quiet: Duration, metrics: Metrics) -> Self {
        let entry = |route: &Route| Entry {
            name: route.name.clone(),
            mode: route.fence,
            gate: RwLock::new(Gate::new(route.fence, quiet)),
        };
        let entries = routes.iter().map(entry).collect();
        Self { handle, entries, metrics, changed: watch::Sender::new(()), work: Notify::new() }
    }

    /// Whether a request for this route may be stamped at `now`.
    pub fn admit(&self, route: usize, now: Instant) -> Admit {
        let leadership = self.handle.leadership();
        self.look(route, |gate| gate.admit(&leadership, now)).unwrap_or(Admit::Wait)
    }

    /// What status answers show.
    pub fn snapshot(&self) -> Vec<GateStatus> {
        let (leadership, now) = (self.handle.leadership(), clock::now());
        let status = |entry: &Entry| {
            let gate = entry.gate.read().unwrap_or_else(PoisonError::into_inner);
            GateStatus {
                name: entry.name.clone(),
                fence: entry.mode,
                gate: gate.shown(&leadership, now),
                fenced_term: gate.fenced_term(),
            }
        };
        self.entries.iter().map(status).collect()
    }

    /// For those who wait for a gate.
    pub fn changed(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// The backend refused a request that was stamped with `term`: the gate closes before the
    /// caller returns, and the fence is raised again.
    pub fn refused(&self, route: usize, term: Term) {
        self.turn(route, |gate| gate.on_refused(term, clock::now()));
        self.work.notify_one();
    }

    /// The node is leaving: nothing new is admitted.
    pub fn drain(&self) {
        (0..self.entries.len()).for_each(|route| self.turn(route, Gate::on_drain));
    }

    /// Waits until a request reported something for the gatekeeper.
    pub(super) async fn work(&self) {
        self.work.notified().await;
    }

    /// Looks at one gate.
    pub(super) fn look<R>(&self, route: usize, ask: impl FnOnce(&Gate) -> R) -> Option<R> {
        let gate = self.entries.get(route)?.gate.read().unwrap_or_else(PoisonError::into_inner);
        Some(ask(&gate))
    }

    /// Turns one gate, and tells those who wait when its state changed.
    pub(super) fn turn<R: Default>(&self, route: usize, act: impl FnOnce(&mut Gate) -> R) -> R {
        let Some(entry) = self.entries.get(route) else { return R::default() };
        let mut gate = entry.gate.write().unwrap_or_else(PoisonError::into_inner);
        let before = gate.state();
        let result = act(&mut gate);
        let after = gate.state();
        drop(gate);
        if before != after {
            let open = i64::from(matches!(after, GateState::Open { .. }));
            self.metrics.gate_open.get_or_create(&RouteLabel { route: entry.name.clone() }).set(open);
            self.changed.send_replace(());
        }
        result
    }

    /// Waits for a change of leadership, or for the end of the present lease.
    pub(super) async fn token_may_have_changed(&self) {
        let mut watch = self.handle.watch();
        let until = watch.borrow_and_update().lease_until.unwrap_or_default();
        tokio::select! {
            // A loop that has ended says nothing more; the lease ends all the same.
            Ok(()) = watch.changed() => {}
            () = sleep(until - clock::now()) => {}
        }
    }

    /// How many routes there are.
    pub fn route_count(&self) -> usize {
        self.entries.len()
    }
}
