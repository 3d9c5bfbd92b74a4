//! Bodies: chunks, then an end mark with trailers (H-6). A body without its end mark is cut off and never
//! whole (H-5), so a crash cannot look like a short answer.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body::{Body, Frame, SizeHint};
use quinn::{ReadError, SendStream, VarInt, WriteError};
use tokio::time::timeout;

use crate::hop::codec::{self, CHUNK_MAX_BYTES, HEAD_MAX_BYTES};
use crate::hop::error::HopError;
use crate::hop::message::Fields;
use crate::transport::frame::{Arrived, FrameError, Source, length_prefix};

/// A chunk up to this long is copied behind its length, so that both go out in one write.
const COPY_MAX_BYTES: usize = 4096;

/// How long the peer may read nothing of a stream. It stops reading when its own client or backend
/// does, and gives that one up after 30 s; whoever still reads nothing then holds a connection for
/// nothing.
const STALL_LIMIT: Duration = Duration::from_secs(35);

/// Stream reset and stop codes (H-7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reset {
    /// Nothing of the request reached a backend.
    NotStarted,
    /// It may have.
    MaybeApplied,
    /// The origin wants no answer any more.
    Cancelled,
}

impl Reset {
    /// The application error code.
    pub const fn code(self) -> VarInt {
        match self {
            Self::NotStarted => VarInt::from_u32(1),
            Self::MaybeApplied => VarInt::from_u32(2),
            Self::Cancelled => VarInt::from_u32(3),
        }
    }
}

/// The sending half of a body. Dropped before [`SendBody::finish`], the body is cut off at the
/// other side too.
#[derive(Debug)]
pub struct SendBody {
    stream: SendStream,
    /// What the peer is told when the body does not come to its end.
    abort: Reset,
    /// Inside a write. Still set when the next one comes: a future was dropped halfway, and the
    /// framing is lost.
    writing: bool,
    finished: bool,
}

impl SendBody {
    pub(super) fn new(stream: SendStream, abort: Reset) -> Self {
        Self { stream, abort, writing: false, finished: false }
    }

    /// Sends one chunk; waits while the peer reads more slowly. A dropped future ends the body:
    /// what follows fails.
    pub async fn chunk(&mut self, mut data: Bytes) -> Result<(), HopError> {
        while !data.is_empty() {
            let piece = data.split_to(data.len().min(CHUNK_MAX_BYTES));
            self.write_chunk(piece).await?;
        }
        Ok(())
    }

    /// Ends the body. Trailers may be empty.
    pub async fn finish(mut self, trailers: &Fields) -> Result<(), HopError> {
        let end = codec::encode_end(trailers).map_err(|e| HopError::Malformed(e.to_string()))?;
        self.write(&mut [end]).await?;
        self.end();
        Ok(())
    }

    /// Cuts the body off, with a reason.
    pub fn abort(mut self, reset: Reset) {
        self.abort = reset;
    }

    pub(super) fn aborting_with(mut self, reset: Reset) -> Self {
        self.abort = reset;
        self
    }

    async fn write_chunk(&mut self, data: Bytes) -> Result<(), HopError> {
        let prefix = length_prefix(data.len());
        if data.len() > COPY_MAX_BYTES {
            return self.write(&mut [Bytes::copy_from_slice(&prefix), data]).await;
        }
        let mut joined = BytesMut::with_capacity(prefix.len() + data.len());
        joined.extend_from_slice(&prefix);
        joined.extend_from_slice(&data);
        self.write(&mut [joined.freeze()]).await
    }

    pub(super) async fn write(&mut self, bytes: &mut [Bytes]) -> Result<(), HopError> {
        if self.writing {
            return Err(HopError::Truncated("an earlier write was given up halfway".to_owned()));
        }
        self.writing = true;
        let mut left = bytes;
        while !left.is_empty() {
            let written = timeout(STALL_LIMIT, self.stream.write_chunks(left)).await;
            let written = written.map_err(|_| HopError::Lost("the peer reads nothing more".to_owned()))?;
            left = left.get_mut(written.map_err(of_write)?.chunks..).unwrap_or_default();
        }
        self.writing = false;
        Ok(())
    }

    /// Ends the stream as it is.
    pub(super) fn end(&mut self) {
        self.finished = true;
        // Fails when the peer has stopped the stream: then it knows all it wants to know.
        let _ = self.stream.finish();
    }
}

impl Drop for SendBody {
    fn drop(&mut self) {
        if !self.finished {
            // quinn would end the stream in the usual way; the reset says that this is no end.
            let _ = self.stream.reset(self.abort.code());
        }
    }
}

/// A part of a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// Some bytes; never none.
    Data(Bytes),
    /// The body is complete. Nothing follows.
    End(Fields),
}

/// The receiving half of a body. Dropped before its end, the peer is told to stop.
#[derive(Debug)]
pub struct RecvBody {
    source: Option<Source>,
    state: State,
    length: Option<u64>,
}

/// Where the reading of a body stands.
#[doc(hidden)]
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// The next four bytes are a length.
    #[default]
    Length,
    /// So many bytes of a chunk are still to come.
    Chunk(usize),
    /// The end mark was read.
    Trailers,
    /// The end, or an error that was reported.
    Done,
}

impl RecvBody {
    pub(super) fn new(source: Source, length: Option<u64>) -> Self {
        Self { source: Some(source), state: State::Length, length }
    }

    /// No content. The end of the stream is usually here already; then the peer, which has ended
    /// it, need not be told to stop.
    pub(super) async fn empty(mut source: Source) -> Self {
        poll_fn(|cx| {
            let _ = source.poll_end(cx);
            Poll::Ready(())
        })
        .await;
        Self { source: None, state: State::Done, length: Some(0) }
    }

    /// The next piece, `Piece::End` exactly once. After the end or an error, an empty end. Cancel
    /// safe.
    pub async fn next(&mut self) -> Result<Piece, HopError> {
        let piece = poll_fn(|cx| self.poll_piece(cx)).await;
        piece.unwrap_or(Ok(Piece::End(Fields::new())))
    }

    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Piece, HopError>>> {
        let Some(source) = self.source.as_mut().filter(|_| self.state != State::Done) else {
            return Poll::Ready(None);
        };
        let read = ready!(poll_state(source, &mut self.state, cx));
        match &read {
            Ok(Piece::Data(_)) => {}
            Ok(Piece::End(_)) => {
                self.state = State::Done;
                // Usually the end of the stream is here already; then nobody needs to be told.
                let _ = source.poll_end(cx);
                self.source = None;
            }
            Err(_) => self.state = State::Done,
        }
        Poll::Ready(Some(read))
    }
}

fn poll_state(source: &mut Source, state: &mut State, cx: &mut Context<'_>) -> Poll<Result<Piece, HopError>> {
    loop {
        if let Some(piece) = next_piece(source.arrived(), state)? {
            return Poll::Ready(Ok(piece));
        }
        if !ready!(source.poll_fill(cx)).map_err(of_read)? {
            return Poll::Ready(Err(cut()));
        }
    }
}

/// The next piece of a body that is here; `None` when more has to arrive first. Open for the fuzz targets: what
/// a peer could send needs no stream.
#[doc(hidden)]
pub fn next_piece(arrived: &mut Arrived, state: &mut State) -> Result<Option<Piece>, HopError> {
    loop {
        match *state {
            State::Length => match arrived.length() {
                None => return Ok(None),
                Some(0) => *state = State::Trailers,
                Some(length) if length as usize > CHUNK_MAX_BYTES => {
                    let text = format!("a chunk of {length} bytes is above the limit of {CHUNK_MAX_BYTES}");
                    return Err(HopError::Malformed(text));
                }
                Some(length) => *state = State::Chunk(length as usize),
            },
            State::Chunk(left) => {
                let Some(data) = arrived.bytes(left) else { return Ok(None) };
                let left = left - data.len();
                *state = if left == 0 { State::Length } else { State::Chunk(left) };
                return Ok(Some(Piece::Data(data)));
            }
            State::Trailers => {
                let Some(frame) = arrived.frame(HEAD_MAX_BYTES).map_err(of_read)? else { return Ok(None) };
                let trailers = codec::decode_trailers(&frame);
                return trailers.map(|t| Some(Piece::End(t))).map_err(|e| HopError::Malformed(e.to_string()));
            }
            State::Done => return Ok(Some(Piece::End(Fields::new()))),
        }
    }
}

impl Body for RecvBody {
    type Data = Bytes;
    type Error = HopError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HopError>>> {
        Poll::Ready(match ready!(self.poll_piece(cx)) {
            Some(Ok(Piece::Data(data))) => Some(Ok(Frame::data(data))),
            Some(Ok(Piece::End(trailers))) if trailers.is_empty() => None,
            Some(Ok(Piece::End(trailers))) => Some(header_map(trailers).map(Frame::trailers)),
            Some(Err(e)) => Some(Err(e)),
            None => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.state == State::Done
    }

    fn size_hint(&self) -> SizeHint {
        // Only before the first byte: afterwards it would have to shrink.
        match self.length.filter(|_| matches!(self.state, State::Length)) {
            Some(length) => SizeHint::with_exact(length),
            None => SizeHint::default(),
        }
    }
}

/// Fields as hyper's map. A name or value that HTTP does not allow is the peer's error.
pub fn header_map(fields: Fields) -> Result<HeaderMap, HopError> {
    let mut map = HeaderMap::with_capacity(fields.len().min(HEAD_MAX_BYTES / 64));
    for (name, value) in fields {
        let name = HeaderName::from_bytes(name.as_bytes());
        let value = HeaderValue::from_bytes(&value);
        match (name, value) {
            (Ok(name), Ok(value)) => {
                map.try_append(name, value).map_err(|e| HopError::Malformed(e.to_string()))?;
            }
            _ => return Err(HopError::Malformed("a field that HTTP does not allow".to_owned())),
        }
    }
    Ok(map)
}

fn cut() -> HopError {
    HopError::Truncated("the stream ended before the body".to_owned())
}

fn of_read(error: FrameError) -> HopError {
    match error {
        FrameError::TooLong { .. } => HopError::Malformed(error.to_string()),
        FrameError::Cut => cut(),
        FrameError::Read(ReadError::Reset(code)) => HopError::Truncated(format!("reset with code {code}")),
        FrameError::Read(other) => HopError::Truncated(other.to_string()),
    }
}

pub(super) fn of_write(error: WriteError) -> HopError {
    match error {
        WriteError::Stopped(_) => HopError::Stopped,
        other => HopError::Lost(other.to_string()),
    }
}
