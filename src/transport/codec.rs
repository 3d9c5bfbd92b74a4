//! Raft messages as bytes: one version byte and postcard, inside a frame (W-9, `proto-spec/wire.md`).
//!
//! Decoding never panics and never trusts a length: postcard reads from the frame's bytes only, so
//! what it builds is bounded by [`FRAME_MAX_BYTES`].

use bytes::Bytes;
use thiserror::Error;

use crate::raft::message::Message;
use crate::transport::frame;

/// The version of the messages. It grows when a field changes; both sides must speak the same.
pub const VERSION: u8 = 1;
/// The longest frame: several times the entries of one AppendEntries (256 KiB), so that one large
/// command still fits.
pub const FRAME_MAX_BYTES: usize = 2 * 1024 * 1024;

/// Why bytes are no message, or a message is no frame.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CodecError {
    /// Another version.
    #[error("protocol version {0}")]
    Version(u8),
    /// Not a message of this version.
    #[error("{0}")]
    Malformed(String),
    /// A message of our own that no peer would take.
    #[error("a message of {0} bytes is above the limit of {FRAME_MAX_BYTES}")]
    TooLong(usize),
}

/// The whole frame of a message, length included.
pub fn encode(message: &Message) -> Result<Bytes, CodecError> {
    let payload =
        postcard::to_extend(message, vec![VERSION]).map_err(|e| CodecError::Malformed(e.to_string()))?;
    if payload.len() > FRAME_MAX_BYTES {
        return Err(CodecError::TooLong(payload.len()));
    }
    Ok(frame::frame(&payload))
}

/// The message of one frame, given without its length. Every byte must be used.
pub fn decode(payload: &[u8]) -> Result<Message, CodecError> {
    let malformed = |text: &str| CodecError::Malformed(text.to_owned());
    let (version, body) = payload.split_first().ok_or_else(|| malformed("an empty frame"))?;
    if *version != VERSION {
        return Err(CodecError::Version(*version));
    }
    match postcard::take_from_bytes(body) {
        Ok((message, [])) => Ok(message),
        Ok(_) => Err(malformed("bytes left over")),
        Err(e) => Err(CodecError::Malformed(e.to_string())),
    }
}
