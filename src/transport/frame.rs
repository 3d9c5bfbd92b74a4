//! Bytes of a QUIC stream as frames and pieces. A length is judged before anything is allocated for
//! it, and memory grows only with bytes that arrived (W-7).
//!
//! Everything here is cancel safe: what was read stays in the source until it is handed out. What is made of
//! the bytes is `Arrived`'s and knows no stream, so that anything a peer could send can be tried on it.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use quinn::{ReadError, RecvStream, VarInt};
use thiserror::Error;

/// How much is taken from a stream at once.
const READ_BYTES: usize = 64 * 1024;
/// The length in front of a frame: four bytes, big endian.
const LENGTH_BYTES: usize = 4;

/// Why no frame came.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum FrameError {
    /// Its length is more than a frame may have.
    #[error("a frame of {length} bytes is above the limit of {limit}")]
    TooLong {
        /// What was claimed.
        length: usize,
        /// What is allowed.
        limit: usize,
    },
    /// The end came before the whole.
    #[error("the stream ended within a frame")]
    Cut,
    /// The stream broke.
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// Puts the length in front of `payload`.
pub(crate) fn frame(payload: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(LENGTH_BYTES + payload.len());
    out.extend_from_slice(&length_prefix(payload.len()));
    out.extend_from_slice(payload);
    out.freeze()
}

/// The four bytes in front of `length` bytes.
pub(crate) fn length_prefix(length: usize) -> [u8; LENGTH_BYTES] {
    u32::try_from(length).expect("frames are checked against limits far below 4 GiB").to_be_bytes()
}

/// What has arrived of a stream and was not handed out yet.
#[derive(Debug, Default)]
pub struct Arrived {
    /// Arrived and not yet consumed.
    chunk: Bytes,
    /// The beginning of a frame that has not arrived completely.
    partial: BytesMut,
}

impl Arrived {
    /// The next bytes of the stream; only when all before them were used.
    pub fn push(&mut self, chunk: Bytes) {
        debug_assert!(self.chunk.is_empty(), "bytes are used in order");
        self.chunk = chunk;
    }

    /// The next frame of at most `limit` bytes; `None` when it is not all here.
    pub fn frame(&mut self, limit: usize) -> Result<Option<Bytes>, FrameError> {
        self.take(LENGTH_BYTES);
        let Some(prefix) = self.partial.first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
        let length = u32::from_be_bytes(*prefix) as usize;
        if length > limit {
            return Err(FrameError::TooLong { length, limit });
        }
        self.take(LENGTH_BYTES + length);
        if self.partial.len() < LENGTH_BYTES + length {
            return Ok(None);
        }
        self.partial.advance(LENGTH_BYTES);
        Ok(Some(self.partial.split().freeze()))
    }

    /// Exactly four bytes as a length; `None` when they are not all here.
    pub fn length(&mut self) -> Option<u32> {
        self.take(LENGTH_BYTES);
        (self.partial.len() == LENGTH_BYTES).then(|| self.partial.get_u32())
    }

    /// Whatever is here, up to `limit` bytes, without a copy; `None` when nothing is.
    pub fn bytes(&mut self, limit: usize) -> Option<Bytes> {
        debug_assert!(self.partial.is_empty(), "a piece is never read inside a frame");
        let length = self.chunk.len().min(limit);
        (length > 0).then(|| self.chunk.split_to(length))
    }

    /// Moves bytes over until `partial` holds `wanted` of them.
    fn take(&mut self, wanted: usize) {
        let missing = wanted.saturating_sub(self.partial.len()).min(self.chunk.len());
        self.partial.extend_from_slice(&self.chunk.split_to(missing));
    }
}

/// The receiving half of a stream.
#[derive(Debug)]
pub(crate) struct Source {
    stream: RecvStream,
    arrived: Arrived,
    ended: bool,
    /// What the peer is told when the rest is not wanted.
    abandon: VarInt,
}

impl Drop for Source {
    fn drop(&mut self) {
        if !self.ended {
            // Fails only when the stream is already gone, which is what is wanted.
            let _ = self.stream.stop(self.abandon);
        }
    }
}

impl Source {
    /// Reads `stream`; dropped before its end, the peer is told `abandon`.
    pub(crate) fn new(stream: RecvStream, abandon: VarInt) -> Self {
        Self { stream, arrived: Arrived::default(), ended: false, abandon }
    }

    /// The next frame of at most `limit` bytes; `None` at a clean end between two frames.
    pub(crate) async fn frame(&mut self, limit: usize) -> Result<Option<Bytes>, FrameError> {
        poll_fn(|cx| self.poll_frame(cx, limit)).await
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>, limit: usize) -> Poll<Result<Option<Bytes>, FrameError>> {
        loop {
            if let Some(bytes) = self.arrived.frame(limit)? {
                return Poll::Ready(Ok(Some(bytes)));
            }
            if !ready!(self.poll_fill(cx))? {
                let between = self.arrived.partial.is_empty();
                return Poll::Ready(if between { Ok(None) } else { Err(FrameError::Cut) });
            }
        }
    }

    /// What is here already; all of it must be used before [`Source::poll_fill`].
    pub(crate) const fn arrived(&mut self) -> &mut Arrived {
        &mut self.arrived
    }

    /// Whether the stream ends here. Does not wait.
    pub(crate) fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, FrameError>> {
        self.poll_fill(cx).map_ok(|more| !more)
    }

    /// Waits until there are bytes; false at the end of the stream.
    pub(crate) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, FrameError>> {
        while self.arrived.chunk.is_empty() && !self.ended {
            // Dropping the future loses nothing: the waker is kept by the connection.
            let read = pin!(self.stream.read_chunk(READ_BYTES, true));
            match ready!(read.poll(cx))? {
                Some(chunk) => self.arrived.push(chunk.bytes),
                None => self.ended = true,
            }
        }
        Poll::Ready(Ok(!self.arrived.chunk.is_empty()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, proptest};

    use super::*;

    fn frames(pieces: &[&[u8]], limit: usize) -> Result<Vec<Bytes>, FrameError> {
        let (mut arrived, mut found) = (Arrived::default(), Vec::new());
        for piece in pieces {
            arrived.push(Bytes::copy_from_slice(piece));
            while let Some(frame) = arrived.frame(limit)? {
                found.push(frame);
            }
        }
        Ok(found)
    }

    #[test]
    fn refuses_four_gigabytes_before_it_allocates() {
        let mut arrived = Arrived::default();
        arrived.push(Bytes::from_static(&[0xff; 64]));
        let refused = arrived.frame(1024);
        assert_eq!(refused, Err(FrameError::TooLong { length: u32::MAX as usize, limit: 1024 }));
        assert!(arrived.partial.capacity() < 1024);
    }

    #[test]
    fn allocates_only_for_what_arrived() {
        let mut arrived = Arrived::default();
        arrived.push(Bytes::from_static(&[0, 0x10, 0, 0, 7]));
        assert_eq!(arrived.frame(2 << 20), Ok(None));
        assert!(arrived.partial.capacity() < 1024, "a megabyte was announced and one byte came");
    }

    proptest! {
        #[test]
        fn finds_the_same_frames_however_the_bytes_are_cut(
            payloads in proptest::collection::vec(any::<Vec<u8>>(), 0..5),
            cut in 1_usize..9,
        ) {
            let bytes: Vec<u8> = payloads.iter().flat_map(|p| frame(p)).collect();
            let pieces: Vec<&[u8]> = bytes.chunks(cut).collect();
            let found = frames(&pieces, 1 << 20).unwrap();
            assert_eq!(found, payloads);
        }

        #[test]
        fn never_panics_on_any_bytes(bytes in any::<Vec<u8>>()) {
            let _ = frames(&[&bytes], 100);
        }
    }
}
