//! What waits to be sent to one peer: bounded, and never in the way of the sender.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use tokio::sync::Notify;

/// Frames of one kind for one peer.
#[derive(Debug)]
pub(crate) struct Queue {
    max_frames: usize,
    max_bytes: usize,
    waiting: Mutex<Waiting>,
    arrived: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    /// The connection that these frames are for, by an id that no other living connection has.
    connection: usize,
    frames: VecDeque<Bytes>,
    bytes: usize,
}

/// Frames that are written together.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) bytes: Bytes,
    /// How many frames that is.
    pub(crate) frames: usize,
}

impl Queue {
    pub(crate) fn new(max_frames: usize, max_bytes: usize) -> Self {
        Self { max_frames, max_bytes, waiting: Mutex::default(), arrived: Notify::new() }
    }

    /// What is pushed from now on is for `connection`. What was meant for another one is forgotten, and
    /// never sent on this; answers how many frames that were.
    pub(crate) fn turn_to(&self, connection: usize) -> usize {
        let mut waiting = self.waiting();
        if waiting.connection == connection {
            return 0;
        }
        std::mem::replace(&mut *waiting, Waiting { connection, ..Waiting::default() }).frames.len()
    }

    /// Adds a frame at the end; false when the queue is full and the frame was dropped.
    pub(crate) fn push(&self, frame: Bytes) -> bool {
        let mut waiting = self.waiting();
        let full = waiting.frames.len() >= self.max_frames || waiting.bytes + frame.len() > self.max_bytes;
        if !full {
            waiting.bytes += frame.len();
            waiting.frames.push_back(frame);
            self.arrived.notify_one();
        }
        !full
    }

    /// Forgets what waits for `connection`, which has ended; answers how many frames that were.
    pub(crate) fn clear(&self, connection: usize) -> usize {
        let mut waiting = self.waiting();
        if waiting.connection != connection {
            return 0;
        }
        std::mem::take(&mut *waiting).frames.len()
    }

    /// Waits for frames for `connection` and takes all that are there, up to about `limit` bytes, as
    /// one write. Cancel safe.
    pub(crate) async fn pop(&self, connection: usize, limit: usize) -> Batch {
        loop {
            let arrived = self.arrived.notified();
            if let Some(batch) = self.take(connection, limit) {
                return batch;
            }
            arrived.await;
        }
    }

    fn take(&self, connection: usize, limit: usize) -> Option<Batch> {
        let mut waiting = self.waiting();
        if waiting.connection != connection {
            return None;
        }
        let first = waiting.frames.pop_front()?;
        waiting.bytes -= first.len();
        if waiting.frames.is_empty() || first.len() >= limit {
            return Some(Batch { bytes: first, frames: 1 });
        }
        let mut out = BytesMut::from(first.as_ref());
        let mut frames = 1;
        while waiting.frames.front().is_some_and(|next| out.len() + next.len() <= limit) {
            let Some(next) = waiting.frames.pop_front() else { break };
            waiting.bytes -= next.len();
            out.extend_from_slice(&next);
            frames += 1;
        }
        Some(Batch { bytes: out.freeze(), frames })
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(n: usize) -> Bytes {
        Bytes::from(vec![7; n])
    }

    #[test]
    fn drops_the_newest_when_full_by_count_or_by_bytes() {
        let queue = Queue::new(2, 10);
        assert!(queue.push(bytes(4)));
        assert!(!queue.push(bytes(7)), "11 bytes");
        assert!(queue.push(bytes(4)));
        assert!(!queue.push(bytes(1)), "three frames");
        assert_eq!(queue.clear(0), 2);
        assert!(queue.push(bytes(10)), "cleared bytes are free again");
    }

    #[test]
    fn keeps_what_is_for_the_next_connection_when_the_last_one_ends() {
        let queue = Queue::new(10, 100);
        assert_eq!(queue.turn_to(1), 0);
        assert!(queue.push(bytes(3)) && queue.push(bytes(3)));
        assert_eq!(queue.turn_to(2), 2, "what was for 1 is not sent on 2");
        assert!(queue.push(bytes(4)));
        assert_eq!(queue.clear(1), 0, "whoever notices the end of 1 late leaves 2 alone");
        assert!(queue.take(1, 100).is_none(), "and takes nothing away from it");
        assert_eq!(queue.take(2, 100).map(|batch| batch.bytes.len()), Some(4));
    }

    #[test]
    fn takes_what_fits_in_one_write_in_order() {
        let queue = Queue::new(10, 100);
        for length in [3, 4, 5, 40] {
            assert!(queue.push(bytes(length)));
        }
        let taken = std::iter::from_fn(|| queue.take(0, 8)).map(|batch| (batch.bytes.len(), batch.frames));
        assert_eq!(taken.collect::<Vec<_>>(), [(7, 2), (5, 1), (40, 1)]);
    }
}
