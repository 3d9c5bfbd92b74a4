//! Waiting for a leader: a request is held, not refused, while an election is under way. The wait
//! is bounded in time by the route, and in number by the node.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::time::{Instant as Deadline, sleep_until};

use crate::clock;
use crate::driver::handle::Handle;
use crate::fencing::gate::Admit;
use crate::ids::NodeId;
use crate::metrics::{Metrics, RouteLabel};
use crate::problem::{Kind, Problem};
use crate::proxy::gates::GateBoard;
use crate::proxy::limits;

/// Where a request can be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Here.
    Local,
    /// At the leader, another node.
    Remote(NodeId),
}

impl Way {
    /// Where a gate that says this sends a request; nowhere, when it has to wait.
    pub const fn of(said: Admit) -> Option<Self> {
        match said {
            Admit::Admit(_) => Some(Self::Local),
            Admit::Forward(node) => Some(Self::Remote(node)),
            Admit::Wait => None,
        }
    }
}

/// A pause after an attempt that had no effect. A change of leadership or of a gate ends it early.
#[derive(Debug, Clone, Copy)]
pub struct Pause {
    next: std::time::Duration,
}

impl Default for Pause {
    fn default() -> Self {
        Self { next: limits::REDISPATCH_PAUSE_MIN }
    }
}

impl Pause {
    /// How long the next one lasts at most.
    pub fn take(&mut self) -> std::time::Duration {
        let pause = self.next;
        self.next = pause.saturating_mul(2).min(limits::REDISPATCH_PAUSE_MAX);
        pause
    }
}

/// Holds requests.
#[derive(Debug, Clone)]
pub struct Hold {
    handle: Handle,
    board: Arc<GateBoard>,
    held: Arc<AtomicUsize>,
    metrics: Metrics,
}

/// One held request; leaves the count when dropped.
struct Place<'a>(&'a Hold);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.held.fetch_sub(1, Ordering::Relaxed);
        self.0.metrics.held_requests.dec();
    }
}

impl Hold {
    /// Clones of it share one count.
    pub fn new(handle: Handle, board: Arc<GateBoard>, metrics: Metrics) -> Self {
        Self { handle, board, held: Arc::default(), metrics }
    }

    /// The way to the leader, as soon as there is one. `None` when `deadline` passed first.
    pub async fn find(
        &self,
        route: usize,
        label: &RouteLabel,
        deadline: Deadline,
    ) -> Result<Option<Way>, Problem> {
        match self.look(route) {
            Some(way) => Ok(Some(way)),
            None => self.wait(route, label, deadline).await,
        }
    }

    /// After an attempt without effect: waits for something to change, or for a short while. False
    /// when `deadline` passed first.
    pub async fn pause(&self, pause: &mut Pause, deadline: Deadline) -> bool {
        let (mut leaders, mut gates) = (self.handle.watch(), self.board.changed());
        leaders.mark_unchanged();
        gates.mark_unchanged();
        let end = (Deadline::now() + pause.take()).min(deadline);
        let before = self.handle.leadership();
        let moved = async {
            while leaders.changed().await.is_ok() {
                let now = leaders.borrow_and_update();
                if (now.leader, now.term) != (before.leader, before.term) {
                    return;
                }
            }
            std::future::pending().await
        };
        tokio::select! {
            () = moved => {}
            _ = gates.changed() => {}
            () = sleep_until(end) => {}
        }
        Deadline::now() < deadline
    }

    fn look(&self, route: usize) -> Option<Way> {
        Way::of(self.board.admit(route, clock::now()))
    }

    async fn wait(
        &self,
        route: usize,
        label: &RouteLabel,
        deadline: Deadline,
    ) -> Result<Option<Way>, Problem> {
        let _place = self.take_place()?;
        self.metrics.held.get_or_create(label).inc();
        let (mut leaders, mut gates) = (self.handle.watch(), self.board.changed());
        loop {
            leaders.mark_unchanged();
            gates.mark_unchanged();
            if let Some(way) = self.look(route) {
                return Ok(Some(way));
            }
            let in_time = tokio::select! {
                changed = leaders.changed() => changed.is_ok(),
                changed = gates.changed() => changed.is_ok(),
                () = sleep_until(deadline) => false,
            };
            if !in_time {
                return Ok(None);
            }
        }
    }

    fn take_place(&self) -> Result<Place<'_>, Problem> {
        let others = self.held.fetch_add(1, Ordering::Relaxed);
        self.metrics.held_requests.inc();
        let place = Place(self);
        if others >= limits::HELD_REQUESTS {
            let detail = format!("{others} requests wait for a leader already");
            return Err(Problem::new(Kind::Overloaded, detail).retry_after(limits::RETRY_AFTER));
        }
        Ok(place)
    }
}
