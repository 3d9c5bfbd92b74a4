//! The records on disk: names, bytes and checksums. `proto-spec/storage.md` describes them byte by
//! byte; the layout here changes only together with [`FORMAT`] and that page.

use redb::TableDefinition;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::ids::{LogId, NodeId};

/// The format this version writes, and the newest it reads (ST-2).
pub(super) const FORMAT: u32 = 1;

/// About the directory itself.
pub(super) const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");
/// Raft's state beside the log.
pub(super) const RAFT: TableDefinition<&str, &[u8]> = TableDefinition::new("raft");
/// The log: index to entry.
pub(super) const LOG: TableDefinition<u64, &[u8]> = TableDefinition::new("log");

/// Members and the incarnation each was first heard with: node to a sealed number.
pub(super) const PEERS: TableDefinition<u64, &[u8]> = TableDefinition::new("peers");

/// In `meta`: [`Format`]. The only record whose body every version can read.
pub(super) const KEY_FORMAT: &str = "format";
/// In `meta`: [`Owner`].
pub(super) const KEY_OWNER: &str = "owner";
/// In `meta`: [`Lives`].
pub(super) const KEY_LIVES: &str = "lives";
/// In `raft`: [`HardState`](crate::raft::entry::HardState).
pub(super) const KEY_HARD_STATE: &str = "hard_state";
/// In `raft`: the [`Membership`](crate::raft::entry::Membership) before the first entry.
pub(super) const KEY_MEMBERSHIP: &str = "membership";
/// In `raft`: the [`Snapshot`](crate::raft::entry::Snapshot) a start begins with, once there is one.
pub(super) const KEY_SNAPSHOT: &str = "snapshot";
/// In `raft`: [`Bounds`].
pub(super) const KEY_BOUNDS: &str = "bounds";

/// Who may use the directory. Written once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Owner {
    pub(super) cluster: String,
    pub(super) node: NodeId,
    pub(super) incarnation: u64,
}

/// What each start leaves for the next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Lives {
    /// Starts so far, this one included.
    pub(super) boot: u64,
    /// The longest promise of any life so far, in nanoseconds.
    pub(super) promise_nanos: u64,
}

/// Where the log must start and end. Without it, entries that vanish from the end would look like a
/// shorter log (S4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Bounds {
    /// Just before the first entry.
    pub(super) base: LogId,
    /// The last entry; equal to `base` when there is none.
    pub(super) last: LogId,
}

/// Which format, and which version of the program chose it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Format {
    pub(super) number: u32,
    pub(super) written_by: String,
}

impl Format {
    pub(super) fn encode(&self) -> Vec<u8> {
        [&self.number.to_le_bytes(), self.written_by.as_bytes()].concat()
    }

    pub(super) fn decode(body: &[u8]) -> Option<Self> {
        let (number, written_by) = body.split_first_chunk::<4>()?;
        Some(Self {
            number: u32::from_le_bytes(*number),
            written_by: String::from_utf8_lossy(written_by).into_owned(),
        })
    }
}

/// Puts the checksum over `key` and `body` in front of `body` (ST-3). The key is part of it, so that
/// a sound record in the wrong place is noticed.
pub(super) fn seal(key: &[u8], body: &[u8]) -> Vec<u8> {
    [&checksum(key, body).to_le_bytes(), body].concat()
}

/// The body of a sealed record; `None` when the checksum does not fit.
pub(super) fn unseal<'a>(key: &[u8], record: &'a [u8]) -> Option<&'a [u8]> {
    let (sum, body) = record.split_first_chunk::<4>()?;
    (u32::from_le_bytes(*sum) == checksum(key, body)).then_some(body)
}

fn checksum(key: &[u8], body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(key);
    hasher.update(body);
    hasher.finalize()
}

/// A sealed record of `value`.
pub(super) fn encode<T: Serialize>(key: &[u8], value: &T) -> Result<Vec<u8>, String> {
    let body = postcard::to_stdvec(value).map_err(|e| format!("a record could not be encoded: {e}"))?;
    Ok(seal(key, &body))
}

/// The value of a sealed record; the error says what does not fit.
pub(super) fn decode<T: DeserializeOwned>(key: &[u8], record: &[u8]) -> Result<T, &'static str> {
    let body = unseal(key, record).ok_or("its checksum does not match")?;
    match postcard::take_from_bytes(body) {
        Ok((value, [])) => Ok(value),
        Ok(_) => Err("bytes are left over after its last field"),
        Err(_) => Err("its bytes do not decode"),
    }
}
