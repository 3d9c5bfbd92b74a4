//! Raft messages as bytes: one version byte and postcard, inside a frame (W-9, `proto-spec/wire.md`).
//!
//! Decoding never panics and never trusts a length: postcard reads from the frame's bytes only, so
//! what it builds is bounded by [`FRAME_MAX_BYTES`].

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::raft::message::Message;
use crate::registry::limits::ADDRESS_BYTES;
use crate::transport::address;
use crate::transport::frame;

/// The version of the messages. It grows when a field changes; both sides must speak the same.
pub const VERSION: u8 = 1;
/// The longest frame: several times the entries of one AppendEntries (256 KiB), so that one large
/// command still fits.
pub const FRAME_MAX_BYTES: usize = 2 * 1024 * 1024;
/// The longest introduction: its version, the length of an address in two bytes, and the address.
pub const INTRODUCTION_MAX_BYTES: usize = 3 + ADDRESS_BYTES;

/// What the dialling side says of itself, since who is dialled need not know it yet (W-13).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Introduction {
    /// Where it listens, as other nodes reach it.
    pub address: String,
}

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
    let payload = postcard::to_extend(message, vec![VERSION]).map_err(malformed)?;
    if payload.len() > FRAME_MAX_BYTES {
        return Err(CodecError::TooLong(payload.len()));
    }
    Ok(frame::frame(&payload))
}

/// The message of one frame, given without its length. Every byte must be used.
pub fn decode(payload: &[u8]) -> Result<Message, CodecError> {
    whole(payload)
}

/// The whole frame of an introduction, length included. Only an address that the other side would believe
/// is announced.
pub fn encode_introduction(introduction: &Introduction) -> Result<Bytes, CodecError> {
    let payload = postcard::to_extend(introduction, vec![VERSION]).map_err(malformed)?;
    checked(introduction.clone())?;
    Ok(frame::frame(&payload))
}

/// The introduction of one frame, given without its length. Every byte must be used.
pub fn decode_introduction(payload: &[u8]) -> Result<Introduction, CodecError> {
    checked(whole(payload)?)
}

fn checked(introduction: Introduction) -> Result<Introduction, CodecError> {
    if address::is_address(&introduction.address) {
        return Ok(introduction);
    }
    Err(CodecError::Malformed("its address is no host with a port".to_owned()))
}

fn whole<T: DeserializeOwned>(payload: &[u8]) -> Result<T, CodecError> {
    let (version, body) =
        payload.split_first().ok_or_else(|| CodecError::Malformed("an empty frame".to_owned()))?;
    if *version != VERSION {
        return Err(CodecError::Version(*version));
    }
    match postcard::take_from_bytes(body) {
        Ok((value, [])) => Ok(value),
        Ok(_) => Err(CodecError::Malformed("bytes left over".to_owned())),
        Err(e) => Err(malformed(e)),
    }
}

fn malformed(e: postcard::Error) -> CodecError {
    CodecError::Malformed(e.to_string())
}
