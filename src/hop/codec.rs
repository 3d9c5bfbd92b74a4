//! Heads and trailers as bytes (`proto-spec/hop.md`).
//!
//! A head is a frame of one version byte and postcard; trailers are a frame of postcard alone,
//! because the head before them named the version.

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

use crate::hop::message::Fields;
use crate::transport::frame;

/// The version of the heads. Both sides must speak the same (H-1).
pub const VERSION: u8 = 1;
/// The longest head and the longest trailers: what an HTTP head may be (32 KiB), twice (H-2).
pub const HEAD_MAX_BYTES: usize = 64 * 1024;
/// The longest chunk of a body. Readers take chunks in pieces; this bounds what a length may claim.
pub const CHUNK_MAX_BYTES: usize = 1024 * 1024;

/// Why bytes are no head, or a head is no frame.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CodecError {
    /// Another version.
    #[error("protocol version {0}")]
    Version(u8),
    /// Not a head of this version.
    #[error("{0}")]
    Malformed(String),
    /// A head that no peer would take.
    #[error("a head of {0} bytes is above the limit of {HEAD_MAX_BYTES}")]
    TooLong(usize),
}

/// The whole frame of a head, length included.
pub fn encode_head(head: &impl Serialize) -> Result<Bytes, CodecError> {
    bounded_frame(&postcard::to_extend(head, vec![VERSION]).map_err(malformed)?)
}

/// The head in one frame, given without its length. Every byte must be used.
pub fn decode_head<T: DeserializeOwned>(payload: &[u8]) -> Result<T, CodecError> {
    match payload.split_first() {
        Some((&VERSION, body)) => decode(body),
        Some((&other, _)) => Err(CodecError::Version(other)),
        None => Err(CodecError::Malformed("an empty frame".to_owned())),
    }
}

/// The end mark of a body and the trailers behind it.
pub fn encode_end(trailers: &Fields) -> Result<Bytes, CodecError> {
    let trailers = bounded_frame(&postcard::to_stdvec(trailers).map_err(malformed)?)?;
    Ok([&frame::length_prefix(0), trailers.as_ref()].concat().into())
}

/// The trailers in one frame, given without its length.
pub fn decode_trailers(payload: &[u8]) -> Result<Fields, CodecError> {
    decode(payload)
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => Ok(value),
        Ok(_) => Err(CodecError::Malformed("bytes left over".to_owned())),
        Err(e) => Err(malformed(e)),
    }
}

fn bounded_frame(payload: &[u8]) -> Result<Bytes, CodecError> {
    if payload.len() > HEAD_MAX_BYTES {
        return Err(CodecError::TooLong(payload.len()));
    }
    Ok(frame::frame(payload))
}

fn malformed(e: postcard::Error) -> CodecError {
    CodecError::Malformed(e.to_string())
}
