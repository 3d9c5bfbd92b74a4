//! The task that turns the gates: it watches leadership, raises fences, and opens. While a gate is
//! open it looks at the fence now and then: a backend that comes back with another one, because a
//! replica was promoted or a copy restored, gets it raised again.
//!
//! Raises of different routes run beside each other, so one dead backend keeps only its own route
//! closed. It runs on its own thread: busy lanes must not delay a failover.

use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::clock;
use crate::driver::handle::Handle;
use crate::fencing::gate::Gate;
use crate::ids::Term;
use crate::metrics::{Metrics, RouteLabel};
use crate::proxy::gates::GateBoard;
use crate::proxy::limits;
use crate::proxy::raise::{RaiseError, look, raise};
use crate::proxy::upstream::Backend;
use crate::registry::command::Op;
use crate::time::{Duration, Instant};

/// How long to sleep when no gate has anything due; every change wakes the loop anyway.
const NOTHING_DUE: Duration = Duration::from_secs(3600);

/// One route, as the gatekeeper needs it.
#[derive(Debug, Clone)]
pub struct Guarded {
    /// The resource's name.
    pub resource: String,
    /// Its backend.
    pub backend: Backend,
}

/// Turns all gates of one node.
#[derive(Debug)]
pub struct Gatekeeper {
    board: Arc<GateBoard>,
    handle: Handle,
    routes: Vec<Guarded>,
    metrics: Metrics,
    calls: JoinSet<Call>,
    /// When the fence of each route is looked at next; `None` while somebody looks.
    looks: Vec<Option<Instant>>,
}

/// A call to a verifier that has ended.
#[derive(Debug)]
struct Call {
    route: usize,
    term: Term,
    result: CallResult,
}

#[derive(Debug)]
enum CallResult {
    Raised(Result<(), RaiseError>),
    Seen(Option<Term>),
}

enum Event {
    Turn,
    Called(Call),
    Stop,
}

impl Gatekeeper {
    /// A gatekeeper for `routes`, in the board's order.
    pub fn new(board: Arc<GateBoard>, handle: Handle, routes: Vec<Guarded>, metrics: Metrics) -> Self {
        assert_eq!(board.len(), routes.len(), "one gate for each route");
        let looks = vec![Some(Instant::default()); routes.len()];
        Self { board, handle, routes, metrics, calls: JoinSet::new(), looks }
    }

    /// Runs until `stop` turns true, or the loop that publishes leadership ends.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let mut leadership = self.handle.watch();
        loop {
            leadership.mark_unchanged();
            let pause = self.turn_all();
            let event = tokio::select! {
                changed = leadership.changed() => changed.map_or(Event::Stop, |()| Event::Turn),
                () = self.board.work() => Event::Turn,
                () = sleep(pause) => Event::Turn,
                Some(Ok(call)) = self.calls.join_next() => Event::Called(call),
                _ = stop.wait_for(|stop| *stop) => Event::Stop,
            };
            match event {
                Event::Turn => {}
                Event::Called(call) => self.on_called(call),
                Event::Stop => break,
            }
        }
        self.board.drain();
    }

    /// Tells every gate the present leadership and starts the calls that are due. Answers how long
    /// nothing else will be.
    fn turn_all(&mut self) -> Duration {
        let (leadership, now) = (self.handle.leadership(), clock::now());
        let mut pause = NOTHING_DUE;
        for route in 0..self.routes.len() {
            let due = self.board.turn(route, |gate| {
                gate.on_leadership(&leadership, now);
                gate.poll(now)
            });
            if let Some(term) = due {
                self.start_raise(route, term);
            }
            let next = self.board.look(route, |gate| gate.deadline()).flatten();
            for next in [next, self.look(route, now)].into_iter().flatten() {
                pause = pause.min(next - now);
            }
        }
        pause
    }

    fn start_raise(&mut self, route: usize, term: Term) {
        let Some(Guarded { resource, backend }) = self.routes.get(route).cloned() else { return };
        let node = self.handle.node();
        self.calls.spawn(async move {
            let result = raise(&backend, &resource, term, node).await;
            Call { route, term, result: CallResult::Raised(result) }
        });
    }

    /// Looks at the fence behind an open gate, when it is time to. Answers when it will be.
    fn look(&mut self, route: usize, now: Instant) -> Option<Instant> {
        let term = self.board.look(route, Gate::stands_on).flatten()?;
        let due = (*self.looks.get(route)?)?;
        if now < due {
            return Some(due);
        }
        let Guarded { resource, backend } = self.routes.get(route).cloned()?;
        let node = self.handle.node();
        self.plan_look(route, None);
        self.calls.spawn(async move {
            let fence = look(&backend, &resource, node).await.ok();
            Call { route, term, result: CallResult::Seen(fence) }
        });
        None
    }

    fn plan_look(&mut self, route: usize, at: Option<Instant>) {
        if let Some(next) = self.looks.get_mut(route) {
            *next = at;
        }
    }

    fn on_called(&mut self, Call { route, term, result }: Call) {
        let now = clock::now();
        self.plan_look(route, Some(now + limits::LOOK_INTERVAL));
        match result {
            CallResult::Raised(result) => self.on_raise(route, term, result),
            CallResult::Seen(None) => {}
            CallResult::Seen(Some(fence)) => {
                if fence != term {
                    let resource = self.routes.get(route).map(|guarded| &guarded.resource);
                    tracing::warn!(?resource, %term, %fence, "the fence stands elsewhere; it is raised again");
                }
                self.board.turn(route, |gate| gate.on_fence_seen(term, fence, now));
            }
        }
    }

    fn on_raise(&self, route: usize, term: Term, result: Result<(), RaiseError>) {
        let Some(Guarded { resource, .. }) = self.routes.get(route) else { return };
        let label = RouteLabel { route: resource.clone() };
        match result {
            Ok(()) => {
                self.metrics.fence_raises.get_or_create(&label).inc();
                tracing::info!(resource, %term, "fence raised");
                self.board.turn(route, |gate| gate.on_raised(term));
                self.record(resource.clone(), term);
            }
            Err(error) => {
                self.metrics.fence_raise_failures.get_or_create(&label).inc();
                tracing::warn!(resource, %term, %error, "fence not raised, the gate stays closed");
                self.board.turn(route, |gate| gate.on_raise_failed(term, clock::now()));
            }
        }
    }

    /// Makes the raise part of the cluster's history. The gate does not wait for it: the backend's
    /// own fence is what protects.
    fn record(&self, resource: String, term: Term) {
        let handle = self.handle.clone();
        tokio::spawn(async move {
            let op = Op::FenceRaised { resource, term, node: handle.node() };
            if let Err(error) = handle.propose(term, op).await {
                tracing::debug!(%term, %error, "the raise was not recorded");
            }
        });
    }
}
