//! What waits to be sent to one peer: bounded, and never in the way of the sender.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

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
    frames: VecDeque<Bytes>,
    bytes: usize,
}

impl Queue {
    pub(crate) fn new(max_frames: usize, max_bytes: usize) -> Self {
        Self { max_frames, max_bytes, waiting: Mutex::default(), arrived: Notify::new() }
    }

    /// Adds a frame at the end; false when the queue is full and the frame was dropped.
    pub(crate) fn push(&self, frame: Bytes) -> bool {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let full = waiting.frames.len() >= self.max_frames || waiting.bytes + frame.len() > self.max_bytes;
        if !full {
            waiting.bytes += frame.len();
            waiting.frames.push_back(frame);
            self.arrived.notify_one();
        }
        !full
    }

    /// Forgets everything: what was meant for a connection that is gone is not sent on the next.
    /// Answers how many frames that were.
    pub(crate) fn clear(&self) -> usize {
        let waiting = std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        waiting.frames.len()
    }

    /// Waits for frames and takes all that are there, up to about `limit` bytes, as one write.
    /// Cancel safe.
    pub(crate) async fn pop(&self, limit: usize) -> Bytes {
        loop {
            let arrived = self.arrived.notified();
            if let Some(bytes) = self.take(limit) {
                return bytes;
            }
            arrived.await;
        }
    }

    fn take(&self, limit: usize) -> Option<Bytes> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let first = waiting.frames.pop_front()?;
        waiting.bytes -= first.len();
        if waiting.frames.is_empty() || first.len() >= limit {
            return Some(first);
        }
        let mut out = BytesMut::from(first.as_ref());
        while waiting.frames.front().is_some_and(|next| out.len() + next.len() <= limit) {
            let Some(next) = waiting.frames.pop_front() else { break };
            waiting.bytes -= next.len();
            out.extend_from_slice(&next);
        }
        Some(out.freeze())
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
        assert_eq!(queue.clear(), 2);
        assert!(queue.push(bytes(10)), "cleared bytes are free again");
    }

    #[test]
    fn takes_what_fits_in_one_write_in_order() {
        let queue = Queue::new(10, 100);
        for length in [3, 4, 5, 40] {
            assert!(queue.push(bytes(length)));
        }
        let lengths: Vec<usize> = std::iter::from_fn(|| queue.take(8)).map(|b| b.len()).collect();
        assert_eq!(lengths, [7, 5, 40]);
    }
}
