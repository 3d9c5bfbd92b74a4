//! What can wake the loop, and in which order it is heard.
//!
//! Two things must not depend on how much waits. A deadline that has passed comes first: tokio's
//! timers are looked at only when the thread has nothing to do, so the clock is asked here. And the
//! thread belongs to the QUIC tasks too: without a rest, what the loop sends would not leave.

use tokio::sync::{mpsc, oneshot};
use tokio::task::yield_now;
use tokio::time::sleep;

use crate::clock;
use crate::driver::cycle::SnapshotDone;
use crate::driver::handle::Request;
use crate::ids::IoSeq;
use crate::raft::message::Message;
use crate::time::{Duration, Instant};
use crate::transport::inbound::Arrivals;

/// A loop that is never idle gives the thread away this often: well below a heartbeat interval, and
/// far above what looking for packets costs.
const REST_INTERVAL: Duration = Duration::from_millis(2);

/// Everything that can wake the loop.
#[derive(Debug)]
pub enum Event {
    /// A request of the edges.
    Request(Request),
    /// A message from a peer.
    Message(Message),
    /// A write is durable.
    Durable(IoSeq),
    /// The keeper of snapshots has done something.
    Snapshot(SnapshotDone),
    /// The time has come.
    Timer,
    /// The process is ending.
    Stop,
    /// A part of the node, named here, has ended by itself.
    Lost(&'static str),
}

/// Where events come from.
#[derive(Debug)]
pub struct Inbox {
    requests: mpsc::Receiver<Request>,
    arrivals: Arrivals,
    durable: mpsc::UnboundedReceiver<IoSeq>,
    snapshots: mpsc::Receiver<SnapshotDone>,
    stopped: oneshot::Receiver<()>,
    rested_at: Instant,
    /// Whether requests were heard before messages, last.
    requests_first: bool,
}

impl Inbox {
    /// Joins the sources. The senders of `arrivals`, `durable` and `snapshots` live as long as the mesh, the
    /// store and the keeper do, and tell by their end that these have ended.
    pub fn new(
        requests: mpsc::Receiver<Request>,
        arrivals: Arrivals,
        durable: mpsc::UnboundedReceiver<IoSeq>,
        snapshots: mpsc::Receiver<SnapshotDone>,
        stopped: oneshot::Receiver<()>,
    ) -> Self {
        let rested_at = clock::now();
        Self { requests, arrivals, durable, snapshots, stopped, rested_at, requests_first: false }
    }

    /// Waits for whatever happens first; the end and the time `wake` before all else.
    pub async fn next(&mut self, wake: Instant) -> Event {
        if clock::now().since(self.rested_at) >= REST_INTERVAL {
            yield_now().await;
            self.rested_at = clock::now();
        }
        tokio::select! {
            biased;
            _ = &mut self.stopped => Event::Stop,
            () = until(wake) => Event::Timer,
            io = self.durable.recv() => io.map_or(Event::Lost("the store's thread"), Event::Durable),
            done = self.snapshots.recv() => done.map_or(Event::Lost("the keeper of snapshots"), Event::Snapshot),
            message = self.arrivals.recv() => message.map_or(Event::Lost("the mesh"), Event::Message),
            Some(request) = self.requests.recv() => Event::Request(request),
        }
    }

    /// What is there already, without waiting. Peers and clients take turns: however much comes from the ones, the
    /// others are heard.
    pub fn ready(&mut self) -> Option<Event> {
        if let Ok(io) = self.durable.try_recv() {
            return Some(Event::Durable(io));
        }
        // Few, and before the messages that ask for more of them.
        if let Ok(done) = self.snapshots.try_recv() {
            return Some(Event::Snapshot(done));
        }
        self.requests_first = !self.requests_first;
        if self.requests_first
            && let Ok(request) = self.requests.try_recv()
        {
            return Some(Event::Request(request));
        }
        if let Some(message) = self.arrivals.try_recv() {
            return Some(Event::Message(message));
        }
        self.requests.try_recv().ok().map(Event::Request)
    }
}

/// Unlike a sleep alone, this is over at once when the time has passed.
async fn until(wake: Instant) {
    let left = wake.since(clock::now());
    if !left.is_zero() {
        sleep(left).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::ids::{Life, NodeId, Session, Term};
    use crate::raft::message::{Body, ReadIndex};
    use crate::transport::inbound::{self, Inbound};

    struct Sources {
        requests: mpsc::Sender<Request>,
        arrivals: Option<Inbound>,
        durable: Option<mpsc::UnboundedSender<IoSeq>>,
        snapshots: Option<mpsc::Sender<SnapshotDone>>,
        stop: oneshot::Sender<()>,
    }

    impl Sources {
        fn new() -> (Self, Inbox) {
            let (requests, requests_in) = mpsc::channel(16);
            let (inbound, arrivals) = inbound::channel(16, 1 << 20);
            let (durable, durable_in) = mpsc::unbounded_channel();
            let (stop, stopped) = oneshot::channel();
            let (snapshots, snapshots_in) = mpsc::channel(16);
            let (inbound, durable, snapshots) = (Some(inbound), Some(durable), Some(snapshots));
            let sources = Self { requests, arrivals: inbound, durable, snapshots, stop };
            (sources, Inbox::new(requests_in, arrivals, durable_in, snapshots_in, stopped))
        }

        /// More than the loop can hear.
        fn fill(&self) {
            while self.requests.try_send(Request::View { reply: oneshot::channel().0 }).is_ok() {}
        }
    }

    /// No wait of these tests is as long.
    fn later() -> Instant {
        clock::now() + Duration::from_secs(5)
    }

    #[tokio::test]
    async fn a_time_that_has_come_is_heard_before_what_waits_and_the_end_before_both() {
        let (sources, mut inbox) = Sources::new();
        sources.fill();
        for _ in 0..10 {
            assert!(matches!(inbox.next(clock::now()).await, Event::Timer));
        }
        assert!(matches!(inbox.next(later()).await, Event::Request(_)));
        sources.stop.send(()).unwrap();
        assert!(matches!(inbox.next(clock::now()).await, Event::Stop));
    }

    #[tokio::test]
    async fn peers_and_clients_are_heard_in_turns() {
        let (sources, mut inbox) = Sources::new();
        sources.fill();
        let body = Body::ReadIndex(ReadIndex { id: 1 });
        let (from, to, life, session) = (NodeId(1), NodeId(2), Life::default(), Session::ZERO);
        let message = Message { from, to, term: Term(7), life, session, body };
        for _ in 0..10 {
            assert!(sources.arrivals.as_ref().unwrap().push(message.clone(), 1).await);
        }
        let heard: Vec<bool> =
            (0..10).filter_map(|_| inbox.ready()).map(|event| matches!(event, Event::Request(_))).collect();
        assert_eq!(heard, [true, false].repeat(5));
    }

    #[tokio::test]
    async fn the_threads_other_tasks_and_timers_run_however_much_waits() {
        let (sources, mut inbox) = Sources::new();
        let ran = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&ran);
        tokio::spawn(async move {
            // The length of a timer.
            sleep(Duration::from_millis(1)).await;
            seen.store(true, Ordering::Relaxed);
        });
        let mut turns = 0;
        while !ran.load(Ordering::Relaxed) {
            sources.fill();
            assert!(matches!(inbox.next(later()).await, Event::Request(_)));
            while inbox.ready().is_some() {}
            // The length of a turn under load.
            std::thread::sleep(Duration::from_millis(1));
            turns += 1;
        }
        assert!(turns <= 20, "the task and its timer ran after {turns} turns");
    }

    #[tokio::test]
    async fn the_end_of_the_store_or_the_mesh_is_heard() {
        let (mut sources, mut inbox) = Sources::new();
        sources.durable = None;
        assert!(matches!(inbox.next(later()).await, Event::Lost("the store's thread")));
        let (mut sources, mut inbox) = Sources::new();
        sources.arrivals = None;
        assert!(matches!(inbox.next(later()).await, Event::Lost("the mesh")));
        let (mut sources, mut inbox) = Sources::new();
        sources.snapshots = None;
        assert!(matches!(inbox.next(later()).await, Event::Lost("the keeper of snapshots")));
    }
}
