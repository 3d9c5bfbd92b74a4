//! The thread that commits. A commit blocks for as long as the disk pleases; the loop must not.
//!
//! [`Writer::push`] puts a write into a queue and returns. The thread takes everything that came
//! since its last commit, up to [`MAX_BATCH_BYTES`], commits it as one transaction, and reports the
//! last write of it as durable: completions are a watermark. The slower the disk, the larger the
//! batches (group commit).
//!
//! ST-8: the first failure is terminal (S1): it is reported once, everything queued is dropped, and
//! nothing is ever reported durable after it.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use super::Store;
use super::error::StorageError;
use crate::clock;
use crate::ids::IoSeq;
use crate::metrics::Metrics;
use crate::raft::entry::{Entry, Persist};
use crate::time::Instant;

/// Bytes of entries in one transaction; one write larger than this goes alone. Keeps a single commit
/// well below half an election timeout on an ordinary disk, so that a large backlog shows as
/// progress and not as a stalled disk.
const MAX_BATCH_BYTES: usize = 4 * 1024 * 1024;

/// The queue in front of the thread, and its state.
///
/// The queue has no limit of its own: the core bounds what it may have outstanding
/// (`max_uncommitted`, the leader's window towards a follower), and refusing a write here would
/// leave a gap that the watermark would hide.
#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<(Instant, Persist)>,
    /// When the oldest write of the commit under way was queued. Stays set after a failure.
    committing: Option<Instant>,
    closed: bool,
    failed: bool,
}

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
}

impl Shared {
    /// The queue holds no invariant that a panic elsewhere could break, so poison is ignored.
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_one();
    }
}

/// The handle of the writer's thread. Dropping it lets the thread finish what is queued and end.
#[derive(Debug)]
pub struct Writer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Starts the thread. `on_durable` is called on it after each commit with the last write that is
    /// now durable; `on_failure` at most once, after which nothing more happens.
    ///
    /// # Panics
    ///
    /// When the system gives no thread; there is no node without it.
    pub fn start(
        store: Store,
        metrics: Metrics,
        on_durable: impl Fn(IoSeq) + Send + 'static,
        on_failure: impl FnOnce(StorageError) + Send + 'static,
    ) -> Self {
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || {
                if let Err(error) = run(store, &theirs, &metrics, on_durable) {
                    on_failure(error);
                }
            })
            .expect("the system gives a thread to the store's writer");
        Self { shared, thread: Some(thread) }
    }

    /// Queues a write; never blocks on the disk. After a failure the write is dropped: it will never
    /// be reported durable.
    pub fn push(&self, persist: Persist) {
        let mut queue = self.shared.lock();
        if queue.failed {
            return;
        }
        queue.waiting.push_back((clock::now(), persist));
        drop(queue);
        self.shared.changed.notify_one();
    }

    /// When the oldest unfinished write was queued, on this node's clock; `None` when all is durable.
    /// A failed write is never finished.
    pub fn oldest_outstanding(&self) -> Option<Instant> {
        let queue = self.shared.lock();
        queue.committing.or_else(|| queue.waiting.front().map(|(since, _)| *since))
    }

    /// Commits what is queued, ends the thread and releases the directory. Waits for the disk.
    pub fn close(mut self) {
        self.shared.close();
        if let Some(thread) = self.thread.take() {
            // A panic in a callback has been printed already; the directory is free either way.
            let _ = thread.join();
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.shared.close();
    }
}

fn run(
    mut store: Store,
    shared: &Shared,
    metrics: &Metrics,
    on_durable: impl Fn(IoSeq),
) -> Result<(), StorageError> {
    while let Some(batch) = next_batch(shared) {
        let started = clock::now();
        if let Err(error) = write(&mut store, &batch) {
            let mut queue = shared.lock();
            queue.failed = true;
            queue.waiting.clear();
            return Err(error);
        }
        metrics.fsync_seconds.observe(clock::now().since(started).as_secs_f64());
        shared.lock().committing = None;
        if let Some(last) = batch.last() {
            on_durable(last.io);
        }
    }
    Ok(())
}

/// A panic in the store is a failed write like any other: it must reach `on_failure`, or the node
/// would wait for ever.
fn write(store: &mut Store, batch: &[Persist]) -> Result<(), StorageError> {
    match catch_unwind(AssertUnwindSafe(|| store.write(batch))) {
        Ok(result) => result,
        Err(_) => Err(store.place.failed("committing", "the store panicked")),
    }
}

/// Waits for work and takes a transaction's worth of it; `None` when closed and empty.
fn next_batch(shared: &Shared) -> Option<Vec<Persist>> {
    let mut queue = shared.lock();
    while queue.waiting.is_empty() {
        if queue.closed {
            return None;
        }
        queue = shared.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
    }
    queue.committing = queue.waiting.front().map(|(since, _)| *since);
    let mut batch = Vec::new();
    let mut bytes = 0;
    while let Some((_, persist)) = queue.waiting.front() {
        bytes += persist.append.iter().map(Entry::size).sum::<usize>();
        if bytes > MAX_BATCH_BYTES && !batch.is_empty() {
            break;
        }
        batch.extend(queue.waiting.pop_front().map(|(_, persist)| persist));
    }
    Some(batch)
}
