//! Bytes of a QUIC stream as frames and pieces. A length is judged before anything is allocated for
//! it, and memory grows only with bytes that arrived (W-7).
//!
//! Everything here is cancel safe: what was read stays in the source until it is handed out.

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
pub(crate) enum FrameError {
    #[error("a frame of {length} bytes is above the limit of {limit}")]
    TooLong { length: usize, limit: usize },
    #[error("the stream ended within a frame")]
    Cut,
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

/// The receiving half of a stream.
#[derive(Debug)]
pub(crate) struct Source {
    stream: RecvStream,
    /// Arrived and not yet consumed.
    chunk: Bytes,
    /// The beginning of a frame that has not arrived completely.
    partial: BytesMut,
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
        Self { stream, chunk: Bytes::new(), partial: BytesMut::new(), ended: false, abandon }
    }

    /// The next frame of at most `limit` bytes; `None` at a clean end between two frames.
    pub(crate) async fn frame(&mut self, limit: usize) -> Result<Option<Bytes>, FrameError> {
        poll_fn(|cx| self.poll_frame(cx, limit)).await
    }

    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
        limit: usize,
    ) -> Poll<Result<Option<Bytes>, FrameError>> {
        loop {
            if let Some(bytes) = take_frame(&mut self.chunk, &mut self.partial, limit)? {
                return Poll::Ready(Ok(Some(bytes)));
            }
            if !ready!(self.poll_fill(cx))? {
                let between = self.partial.is_empty();
                return Poll::Ready(if between { Ok(None) } else { Err(FrameError::Cut) });
            }
        }
    }

    /// Exactly four bytes as a length; `None` at the end of the stream.
    pub(crate) fn poll_length(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<u32>, FrameError>> {
        loop {
            take_into(&mut self.chunk, &mut self.partial, LENGTH_BYTES);
            if self.partial.len() == LENGTH_BYTES {
                return Poll::Ready(Ok(Some(self.partial.get_u32())));
            }
            if !ready!(self.poll_fill(cx))? {
                let between = self.partial.is_empty();
                return Poll::Ready(if between { Ok(None) } else { Err(FrameError::Cut) });
            }
        }
    }

    /// Whatever has arrived, up to `limit` bytes, without a copy; `None` at the end of the stream.
    pub(crate) fn poll_bytes(
        &mut self,
        cx: &mut Context<'_>,
        limit: usize,
    ) -> Poll<Result<Option<Bytes>, FrameError>> {
        debug_assert!(self.partial.is_empty(), "a piece is never read inside a frame");
        if self.chunk.is_empty() && !ready!(self.poll_fill(cx))? {
            return Poll::Ready(Ok(None));
        }
        let length = self.chunk.len().min(limit);
        Poll::Ready(Ok(Some(self.chunk.split_to(length))))
    }

    /// Whether the stream ends here. Does not wait.
    pub(crate) fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, FrameError>> {
        if !self.chunk.is_empty() {
            return Poll::Ready(Ok(false));
        }
        self.poll_fill(cx).map_ok(|more| !more)
    }

    /// Waits for bytes; false at the end of the stream.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, FrameError>> {
        while self.chunk.is_empty() && !self.ended {
            // Dropping the future loses nothing: the waker is kept by the connection.
            let read = pin!(self.stream.read_chunk(READ_BYTES, true));
            match ready!(read.poll(cx))? {
                Some(chunk) => self.chunk = chunk.bytes,
                None => self.ended = true,
            }
        }
        Poll::Ready(Ok(!self.chunk.is_empty()))
    }
}

/// Moves bytes over until `partial` holds `wanted` of them.
fn take_into(chunk: &mut Bytes, partial: &mut BytesMut, wanted: usize) {
    let missing = wanted.saturating_sub(partial.len()).min(chunk.len());
    partial.extend_from_slice(&chunk.split_to(missing));
}

/// One frame out of `partial` and `chunk`, or none yet.
fn take_frame(chunk: &mut Bytes, partial: &mut BytesMut, limit: usize) -> Result<Option<Bytes>, FrameError> {
    take_into(chunk, partial, LENGTH_BYTES);
    let Some(prefix) = partial.first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
    let length = u32::from_be_bytes(*prefix) as usize;
    if length > limit {
        return Err(FrameError::TooLong { length, limit });
    }
    take_into(chunk, partial, LENGTH_BYTES + length);
    if partial.len() < LENGTH_BYTES + length {
        return Ok(None);
    }
    partial.advance(LENGTH_BYTES);
    Ok(Some(partial.split().freeze()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, proptest};

    use super::*;

    fn frames(pieces: &[&[u8]], limit: usize) -> Result<Vec<Bytes>, FrameError> {
        let (mut partial, mut found) = (BytesMut::new(), Vec::new());
        for piece in pieces {
            let mut chunk = Bytes::copy_from_slice(piece);
            while let Some(frame) = take_frame(&mut chunk, &mut partial, limit)? {
                found.push(frame);
            }
        }
        Ok(found)
    }

    #[test]
    fn refuses_four_gigabytes_before_it_allocates() {
        let (mut chunk, mut partial) = (Bytes::from_static(&[0xff; 64]), BytesMut::new());
        let refused = take_frame(&mut chunk, &mut partial, 1024);
        assert_eq!(refused, Err(FrameError::TooLong { length: u32::MAX as usize, limit: 1024 }));
        assert!(partial.capacity() < 1024);
    }

    #[test]
    fn allocates_only_for_what_arrived() {
        let (mut chunk, mut partial) = (Bytes::from_static(&[0, 0x10, 0, 0, 7]), BytesMut::new());
        assert_eq!(take_frame(&mut chunk, &mut partial, 2 << 20), Ok(None));
        assert!(partial.capacity() < 1024, "a megabyte was announced and one byte came");
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
