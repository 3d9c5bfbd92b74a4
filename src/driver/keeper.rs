//! The thread that writes snapshots down, reads them, and receives those of others. All of it takes its
//! time and none of it is urgent, so it has a thread of its own: the loop goes on, and so does the
//! store's writer.
//!
//! The queue is bounded. What the loop can't hand over is not done: a piece that was not sent is asked for
//! again, a snapshot that was not taken is wanted again. The first failed write is the last, as in the
//! store (ST-8).

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::{self, JoinHandle};

use crate::clock;
use crate::driver::cycle::{SnapshotDone, SnapshotWork};
use crate::metrics::Metrics;
use crate::raft::effect::SnapshotInput;
use crate::storage::StorageError;
use crate::storage::snapshots::Snapshots;

/// Work that may wait: a few pieces for each follower of a large cluster. Work of the node's own (a
/// snapshot to take, one to finish) is one item at a time.
const QUEUE: usize = 256;

/// The loop's end of the thread. Dropping it lets the thread finish what is queued and end.
#[derive(Debug)]
pub struct Keeper {
    work: Option<SyncSender<SnapshotWork>>,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    /// Starts the thread. `on_done` is called on it for each piece of work that has a result, `on_failure`
    /// at most once, after which nothing more happens.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(
        snapshots: Snapshots,
        metrics: Metrics,
        on_done: impl Fn(SnapshotDone) + Send + 'static,
        on_failure: impl FnOnce(StorageError) + Send + 'static,
    ) -> std::io::Result<Self> {
        let (sender, receiver) = sync_channel(QUEUE);
        let thread = thread::Builder::new().name("snapshots".to_owned()).spawn(move || {
            if let Err(error) = run(snapshots, &receiver, &metrics, on_done) {
                on_failure(error);
            }
        })?;
        Ok(Self { work: Some(sender), thread: Some(thread) })
    }

    /// Hands work over; never blocks. Gives it back when there is too much already.
    pub fn push(&self, work: SnapshotWork) -> Option<SnapshotWork> {
        match self.work.as_ref()?.try_send(work) {
            Ok(()) => None,
            // After a failure nothing is done any more, and the process ends.
            Err(TrySendError::Full(work) | TrySendError::Disconnected(work)) => Some(work),
        }
    }

    /// Ends the thread after what is queued.
    pub fn close(mut self) {
        self.work = None;
        if let Some(thread) = self.thread.take() {
            // A panic was reported as a failure already.
            let _ = thread.join();
        }
    }
}

fn run(
    mut snapshots: Snapshots,
    work: &Receiver<SnapshotWork>,
    metrics: &Metrics,
    on_done: impl Fn(SnapshotDone),
) -> Result<(), StorageError> {
    while let Ok(work) = work.recv() {
        let done = catch_unwind(AssertUnwindSafe(|| carry_out(&mut snapshots, work, metrics)));
        let done = done.unwrap_or_else(|_| Err(snapshots.panicked()))?;
        done.into_iter().for_each(&on_done);
    }
    Ok(())
}

fn carry_out(
    snapshots: &mut Snapshots,
    work: SnapshotWork,
    metrics: &Metrics,
) -> Result<Option<SnapshotDone>, StorageError> {
    let report = |input| Some(SnapshotDone::Report(input));
    Ok(match work {
        SnapshotWork::Take { last, membership, machine } => {
            let begun = clock::now();
            let snapshot = snapshots.take(&machine, last, membership)?;
            let took = clock::now().since(begun);
            metrics.snapshot_seconds.observe(took.as_secs_f64());
            tracing::info!(%last, bytes = snapshot.size, took_ms = took.as_millis(), "snapshot taken");
            Some(SnapshotDone::Taken(snapshot))
        }
        SnapshotWork::Begin(snapshot) => {
            let id = snapshot.id;
            tracing::info!(last = %id.last, bytes = snapshot.size, "too far behind for the log; fetching a snapshot");
            report(SnapshotInput::Begun { id, have: snapshots.begin(snapshot)? })
        }
        SnapshotWork::Store { id, offset, bytes } => {
            snapshots.store(id, offset, &bytes)?.and_then(|have| report(SnapshotInput::Stored { id, have }))
        }
        SnapshotWork::Finish(id) => match snapshots.finish(id)? {
            Some(machine) => {
                metrics.snapshots_fetched.inc();
                tracing::info!(last = %id.last, "snapshot fetched");
                Some(SnapshotDone::Fetched { id, machine: Box::new(machine) })
            }
            None => {
                metrics.refuse("snapshot", "damaged");
                tracing::error!(last = %id.last, "the fetched snapshot is not what was offered; fetching again");
                report(SnapshotInput::Failed(id))
            }
        },
        SnapshotWork::Settled(id) => {
            snapshots.settled(id)?;
            None
        }
        SnapshotWork::Serve { to, wanted } => {
            report(SnapshotInput::Read { to, chunk: snapshots.read(&wanted)? })
        }
    })
}
