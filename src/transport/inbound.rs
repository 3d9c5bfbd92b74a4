//! What peers said and the loop has not heard yet: bounded in messages and in bytes.
//!
//! A full queue makes the reader of a stream wait, and flow control holds the sender back (W-7).
//! A message counts with the memory it takes, which for many small entries is far more than their
//! bytes on the wire.

use std::mem::size_of;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::raft::entry::Entry;
use crate::raft::message::{Body, Message};

/// A message, and what it takes of the budget until the loop has it.
#[derive(Debug)]
struct Queued {
    message: Message,
    /// Given back when dropped.
    _held: OwnedSemaphorePermit,
}

/// The readers' end. Clones share the queue and its budget.
#[derive(Debug, Clone)]
pub struct Inbound {
    queue: mpsc::Sender<Queued>,
    budget: Arc<Semaphore>,
    bytes: u32,
}

/// The loop's end.
#[derive(Debug)]
pub struct Arrivals {
    queue: mpsc::Receiver<Queued>,
}

/// A queue of at most `messages` messages that take at most `bytes` together.
pub fn channel(messages: usize, bytes: u32) -> (Inbound, Arrivals) {
    let (sender, receiver) = mpsc::channel(messages);
    let budget = Arc::new(Semaphore::new(bytes as usize));
    (Inbound { queue: sender, budget, bytes }, Arrivals { queue: receiver })
}

impl Inbound {
    /// Waits for room and queues `message`, which took `length` bytes on the wire; false when nobody
    /// listens any more. A message above the whole budget goes alone.
    pub(crate) async fn push(&self, message: Message, length: usize) -> bool {
        let bytes = u32::try_from(weight(&message, length)).unwrap_or(u32::MAX).min(self.bytes);
        let Ok(held) = Arc::clone(&self.budget).acquire_many_owned(bytes).await else { return false };
        self.queue.send(Queued { message, _held: held }).await.is_ok()
    }
}

impl Arrivals {
    /// The next message; `None` when the mesh has ended. Cancel safe.
    pub async fn recv(&mut self) -> Option<Message> {
        self.queue.recv().await.map(|queued| queued.message)
    }

    /// A message that is there already.
    pub fn try_recv(&mut self) -> Option<Message> {
        self.queue.try_recv().ok().map(|queued| queued.message)
    }
}

/// About the memory that a message takes.
fn weight(message: &Message, length: usize) -> usize {
    let entries = match &message.body {
        Body::AppendEntries(append) => append.entries.len(),
        _ => 0,
    };
    size_of::<Queued>() + length + entries * size_of::<Entry>()
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use bytes::Bytes;
    use futures_util::FutureExt;

    use super::*;
    use crate::ids::{Life, LogId, LogIndex, NodeId, ReadPos, Session, Term};
    use crate::raft::entry::Payload;
    use crate::raft::message::{AppendEntries, Beat, ReadIndex};
    use crate::time::Instant;

    fn message(body: Body) -> Message {
        let (from, to) = (NodeId(1), NodeId(2));
        Message { from, to, term: Term(7), life: Life::default(), session: Session::ZERO, body }
    }

    fn small() -> Message {
        message(Body::ReadIndex(ReadIndex { id: 1 }))
    }

    #[tokio::test]
    async fn a_full_budget_holds_the_reader_back_until_the_loop_has_taken_what_fills_it() {
        let (inbound, mut arrivals) = channel(100, 64 * 1024);
        assert!(inbound.push(small(), 40_000).await);
        let mut second = pin!(inbound.push(small(), 40_000));
        assert!((&mut second).now_or_never().is_none(), "80 kB in a budget of 64 kB");
        assert_eq!(arrivals.recv().await, Some(small()));
        assert!(second.await);
        assert_eq!(arrivals.try_recv(), Some(small()));
        assert_eq!(arrivals.try_recv(), None);
    }

    #[tokio::test]
    async fn a_message_above_the_budget_goes_alone() {
        let (inbound, mut arrivals) = channel(100, 1024);
        assert!(inbound.push(small(), 1_000_000).await);
        let mut second = pin!(inbound.push(small(), 1));
        assert!((&mut second).now_or_never().is_none());
        assert!(arrivals.recv().await.is_some());
        assert!(second.await);
    }

    #[tokio::test]
    async fn many_small_entries_count_with_the_memory_they_take() {
        let entry = Entry { id: LogId::new(Term(7), LogIndex(1)), payload: Payload::Command(Bytes::new()) };
        let beat = Beat { sent_at: Instant::ZERO, read_pos: ReadPos::ZERO };
        let entries = vec![entry; 10_000];
        let (prev_log, leader_commit) = (LogId::ZERO, LogIndex::ZERO);
        let append = message(Body::AppendEntries(AppendEntries {
            prev_log,
            entries,
            leader_commit,
            beat,
            known: Vec::new(),
        }));
        let (inbound, _arrivals) = channel(100, 64 * 1024);
        assert!(inbound.push(append, 1).await);
        assert!(inbound.push(small(), 1).now_or_never().is_none(), "its memory was not counted");
    }

    #[tokio::test]
    async fn nobody_waits_for_a_loop_that_has_ended() {
        let (inbound, arrivals) = channel(100, 1024);
        drop(arrivals);
        assert!(!inbound.push(small(), 1).await);
    }
}
