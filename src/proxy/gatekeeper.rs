//! The task that turns the gates: it watches leadership, raises fences, and opens.
//!
//! Raises of different routes run beside each other, so one dead backend keeps only its own route
//! closed. It runs on its own thread: busy lanes must not delay a failover.

use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::clock;
use crate::driver::handle::Handle;
use crate::ids::Term;
use crate::metrics::{Metrics, RouteLabel};
use crate::proxy::gates::GateBoard;
use crate::proxy::raise::{RaiseError, Raised, raise};
use crate::proxy::upstream::Backend;
use crate::registry::command::Op;
use crate::time::Duration;

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
    raises: JoinSet<(usize, Term, Result<Raised, RaiseError>)>,
}

enum Event {
    Look,
    Raise(usize, Term, Result<Raised, RaiseError>),
    Stop,
}

impl Gatekeeper {
    /// A gatekeeper for `routes`, in the board's order.
    pub fn new(board: Arc<GateBoard>, handle: Handle, routes: Vec<Guarded>, metrics: Metrics) -> Self {
        assert_eq!(board.len(), routes.len(), "one gate for each route");
        Self { board, handle, routes, metrics, raises: JoinSet::new() }
    }

    /// Runs until `stop` turns true, or the loop that publishes leadership ends.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let mut leadership = self.handle.watch();
        loop {
            leadership.mark_unchanged();
            let pause = self.turn_all();
            let event = tokio::select! {
                changed = leadership.changed() => changed.map_or(Event::Stop, |()| Event::Look),
                () = self.board.work() => Event::Look,
                () = sleep(pause) => Event::Look,
                Some(Ok((route, term, result))) = self.raises.join_next() => {
                    Event::Raise(route, term, result)
                }
                _ = stop.wait_for(|stop| *stop) => Event::Stop,
            };
            match event {
                Event::Look => {}
                Event::Raise(route, term, result) => self.on_raise(route, term, result),
                Event::Stop => break,
            }
        }
        self.board.drain();
    }

    /// Tells every gate the present leadership and starts the raises that are due. Answers how long
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
            if let Some(next) = self.board.look(route, |gate| gate.deadline()).flatten() {
                pause = pause.min(next - now);
            }
        }
        pause
    }

    fn start_raise(&mut self, route: usize, term: Term) {
        let Some(Guarded { resource, backend }) = self.routes.get(route).cloned() else { return };
        let node = self.handle.node();
        self.raises.spawn(async move { (route, term, raise(&backend, &resource, term, node).await) });
    }

    fn on_raise(&self, route: usize, term: Term, result: Result<Raised, RaiseError>) {
        let Some(Guarded { resource, .. }) = self.routes.get(route) else { return };
        let label = RouteLabel { route: resource.clone() };
        match result {
            Ok(raised) => {
                self.metrics.fence_raises.get_or_create(&label).inc();
                tracing::info!(resource, %term, "fence raised");
                self.board.turn(route, |gate| gate.on_raised(term, raised.incarnation));
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
            if let Err(error) = handle.propose(op).await {
                tracing::debug!(%term, %error, "the raise was not recorded");
            }
        });
    }
}
