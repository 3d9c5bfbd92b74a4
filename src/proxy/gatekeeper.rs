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
use crate::fencing::rounds::{self, Ended, Rounds};
use crate::ids::Term;
use crate::metrics::{Metrics, RouteLabel};
use crate::proxy::gates::GateBoard;
use crate::proxy::limits;
use crate::proxy::raise::{RaiseError, look, raise};
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
    calls: JoinSet<Call>,
    /// Those at each gate.
    rounds: Vec<Rounds>,
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
        assert_eq!(board.route_count(), routes.len(), "one gate for each route");
        let rounds = vec![Rounds::new(limits::LOOK_INTERVAL); routes.len()];
        Self { board, handle, routes, metrics, calls: JoinSet::new(), rounds }
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
            let Some(rounds) = self.rounds.get_mut(route) else { continue };
            let call = self.board.turn(route, |gate| rounds.turn(gate, &leadership, now));
            let next = self.board.look(route, |gate| rounds.due(gate)).flatten();
            pause = pause.min(next.map_or(NOTHING_DUE, |next| next - now));
            if let Some(call) = call {
                self.start(route, call);
            }
        }
        pause
    }

    fn start(&mut self, route: usize, call: rounds::Call) {
        let Some(Guarded { resource, backend }) = self.routes.get(route).cloned() else { return };
        let node = self.handle.node();
        self.calls.spawn(async move {
            match call {
                rounds::Call::Raise(term) => {
                    let result = CallResult::Raised(raise(&backend, &resource, term, node).await);
                    Call { route, term, result }
                }
                rounds::Call::Look(term) => {
                    let result = CallResult::Seen(look(&backend, &resource, node).await.ok());
                    Call { route, term, result }
                }
            }
        });
    }

    fn on_called(&mut self, Call { route, term, result }: Call) {
        let ended = match &result {
            CallResult::Raised(Ok(())) => Ended::Raised,
            CallResult::Raised(Err(_)) => Ended::NotRaised,
            CallResult::Seen(fence) => Ended::Seen(*fence),
        };
        self.tell(route, term, result);
        let Some(rounds) = self.rounds.get_mut(route) else { return };
        self.board.turn(route, |gate| rounds.on_ended(gate, term, ended, clock::now()));
        if ended == Ended::Raised {
            self.record(route, term);
        }
    }

    fn tell(&self, route: usize, term: Term, result: CallResult) {
        let Some(Guarded { resource, .. }) = self.routes.get(route) else { return };
        let label = RouteLabel { route: resource.clone() };
        match result {
            CallResult::Raised(Ok(())) => {
                self.metrics.fence_raises.get_or_create(&label).inc();
                tracing::info!(resource, %term, "fence raised");
            }
            CallResult::Raised(Err(error)) => {
                self.metrics.fence_raise_failures.get_or_create(&label).inc();
                tracing::warn!(resource, %term, %error, "fence not raised, the gate stays closed");
            }
            CallResult::Seen(Some(fence)) if fence != term => {
                tracing::warn!(resource, %term, %fence, "the fence stands elsewhere; it is raised again");
            }
            CallResult::Seen(_) => {}
        }
    }

    /// Makes the raise part of the cluster's history. The gate does not wait for it: the backend's
    /// own fence is what protects.
    fn record(&self, route: usize, term: Term) {
        let Some(resource) = self.routes.get(route).map(|guarded| guarded.resource.clone()) else { return };
        let handle = self.handle.clone();
        tokio::spawn(async move {
            let op = Op::FenceRaised { resource, term, node: handle.node() };
            if let Err(error) = handle.propose(term, op).await {
                tracing::debug!(%term, %error, "the raise was not recorded");
            }
        });
    }
}
