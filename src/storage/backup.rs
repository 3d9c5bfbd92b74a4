//! A backup: the state at one point of the log and what it is, in one file (`proto-spec/backup.md`).
//!
//! ```text
//! "termgate-backup\n" | version | length | head, JSON | SHA-256 of all before | content
//! ```
//!
//! The head comes first and names size and digest of the content, so that whoever receives one knows
//! how much is to come and whether it has arrived; that costs a second pass over the state, which is
//! encoded twice and kept once. The content is that of a snapshot, byte for byte.
//!
//! | file | idea |
//! |---|---|
//! | `draft` | the file while it is written |
//! | `error` | why a file is no backup, or none was made |

mod draft;
mod error;

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use bytes::Bytes;
use ring::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

pub use self::draft::{Draft, save};
pub use self::error::BackupError;
use self::error::Named;
use crate::clock;
use crate::ids::{LogId, NodeId, Term};
use crate::raft::entry::Membership;
use crate::registry::command::Member;
use crate::registry::machine::Machine;
use crate::registry::machine::snapshot::{Decoder, Malformed};

/// The format this version writes and reads.
pub const FORMAT: u32 = 1;
/// How every backup begins.
const MAGIC: &[u8; 16] = b"termgate-backup\n";
/// Bytes of the magic, the version and the head's length.
const START_BYTES: usize = MAGIC.len() + 8;
/// Bytes of the head: the members of the largest cluster are a small part of it.
const HEAD_BYTES: u32 = 1024 * 1024;
/// Bytes of a SHA-256.
const DIGEST_BYTES: usize = 32;
/// Read and written in pieces of this size.
const PIECE_BYTES: usize = 256 * 1024;
/// How far a backup can be trusted to hold what was acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// A quorum confirmed its point of the log: it holds every write acknowledged before it was asked for.
    Linearizable,
    /// What the asked node had applied.
    Stale,
    /// What the disk of a stopped node holds, including entries that may never have been committed.
    Disk,
}

impl Origin {
    /// The word in the head and for people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Linearizable => "linearizable",
            Self::Stale => "stale",
            Self::Disk => "disk",
        }
    }
}

/// What a backup says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// The cluster's name.
    pub cluster: String,
    /// Whose state it is.
    pub node: NodeId,
    /// How it was taken.
    pub origin: Origin,
    /// When, by that node's wall clock: RFC 3339, for people.
    pub created_at: String,
    /// The version of the program that took it.
    pub written_by: String,
    /// The last log entry it stands for.
    pub last: LogId,
    /// The highest term that the node knew of, which may be above that of the last entry.
    pub term: Term,
    /// The membership in force.
    pub membership: Membership,
    /// Where its members were.
    pub members: Vec<Member>,
    /// Keys of the registry.
    pub keys: u64,
    /// Bytes of the content.
    pub size: u64,
    /// SHA-256 of the content, in hex.
    pub sha256: String,
}

/// What is not in the state itself.
#[derive(Debug, Clone)]
pub struct Taken {
    /// The cluster's name.
    pub cluster: String,
    /// This node.
    pub node: NodeId,
    /// How.
    pub origin: Origin,
    /// Its current term.
    pub term: Term,
    /// The membership in force.
    pub membership: Membership,
}

impl Header {
    /// Describes the backup of `machine`. Encodes it once, to measure.
    pub fn describe(machine: &Machine, taken: Taken) -> Self {
        let (mut digest, mut size) = (Context::new(&SHA256), 0);
        let measured: Result<(), std::convert::Infallible> = machine.encode(|piece| {
            digest.update(piece);
            size += piece.len() as u64;
            Ok(())
        });
        let Ok(()) = measured;
        let fenced = machine.fences().map(|(_, fence)| fence.term).max().unwrap_or(Term::ZERO);
        let now = OffsetDateTime::from(clock::wall());
        let now = now.replace_nanosecond(0).unwrap_or(now);
        Self {
            cluster: taken.cluster,
            node: taken.node,
            origin: taken.origin,
            // It fails only beyond the year 9999.
            created_at: now.format(&Rfc3339).unwrap_or_default(),
            written_by: env!("CARGO_PKG_VERSION").to_owned(),
            last: machine.applied(),
            term: taken.term.max(machine.applied().term).max(fenced),
            membership: taken.membership,
            members: machine.members().cloned().collect(),
            keys: machine.key_count() as u64,
            size,
            sha256: hex(digest.finish().as_ref()),
        }
    }

    /// Everything before the content.
    fn encode(&self) -> Vec<u8> {
        // Encoding into memory fails only when memory does.
        let head = serde_json::to_vec(self).expect("a head has a JSON form");
        let length = u32::try_from(head.len()).expect("a head is short");
        let start = [&MAGIC[..], &FORMAT.to_be_bytes(), &length.to_be_bytes(), &head].concat();
        let digest = ring::digest::digest(&SHA256, &start);
        [&start, digest.as_ref()].concat()
    }

    /// Bytes of the whole backup.
    pub fn total(&self) -> u64 {
        self.encode().len() as u64 + self.size
    }
}

/// Hands the backup of `machine`, which `header` describes, to `sink`, in pieces.
///
/// # Errors
/// The first error of the sink.
pub fn write<E>(
    header: &Header,
    machine: &Machine,
    mut sink: impl FnMut(Bytes) -> Result<(), E>,
) -> Result<(), E> {
    let mut piece = header.encode();
    machine.encode(|bytes| {
        piece.extend_from_slice(bytes);
        if piece.len() < PIECE_BYTES { Ok(()) } else { sink(std::mem::take(&mut piece).into()) }
    })?;
    sink(piece.into())
}

/// A backup that was read and found whole.
#[derive(Debug, Clone)]
pub struct Backup {
    /// What it says of itself.
    pub header: Header,
    /// The state.
    pub machine: Machine,
}

impl Backup {
    /// Reads and verifies all of `path`.
    ///
    /// # Errors
    /// When it is not whole, or no backup of this version.
    pub fn read(path: &Path) -> Result<Self, BackupError> {
        let file = Named(path.display().to_string());
        let opened = File::open(path).map_err(|e| file.io("opening it", e))?;
        let mut reader = BufReader::with_capacity(PIECE_BYTES, opened);
        let (header, start) = file.header(&mut reader)?;
        let machine = file.content(&mut reader, &header, start)?;
        Ok(Self { header, machine })
    }
}
impl Named {
    /// BK-1, BK-2: the head, and how many bytes it takes with all around it.
    fn header(&self, reader: &mut impl Read) -> Result<(Header, u64), BackupError> {
        let mut start = Vec::with_capacity(START_BYTES);
        self.fill(reader, &mut start, START_BYTES as u64)?;
        if !start.starts_with(MAGIC) {
            return Err(BackupError::Foreign { file: self.0.clone() });
        }
        if start.len() < START_BYTES {
            return Err(self.short(start.len() as u64, START_BYTES as u64));
        }
        let number = |at: usize| {
            let bytes = start.get(at..at + 4).and_then(|bytes| <[u8; 4]>::try_from(bytes).ok());
            bytes.map_or(0, u32::from_be_bytes)
        };
        let (version, length) = (number(MAGIC.len()), number(MAGIC.len() + 4));
        if version != FORMAT {
            let ours = env!("CARGO_PKG_VERSION");
            return Err(BackupError::Version { file: self.0.clone(), found: version, ours });
        }
        if length > HEAD_BYTES {
            return Err(self.damaged("its head is too long"));
        }
        let end = START_BYTES + length as usize;
        let whole = (end + DIGEST_BYTES) as u64;
        self.fill(reader, &mut start, whole - START_BYTES as u64)?;
        let (Some(head), Some(digest)) =
            (start.get(..end), start.get(end..).filter(|d| d.len() == DIGEST_BYTES))
        else {
            return Err(self.short(start.len() as u64, whole));
        };
        if ring::digest::digest(&SHA256, head).as_ref() != digest {
            return Err(self.damaged("its head does not have the digest that follows it"));
        }
        let json = head.get(START_BYTES..).unwrap_or_default();
        let header = serde_json::from_slice(json).map_err(|e| self.damaged(format!("its head: {e}")))?;
        Ok((header, whole))
    }

    /// BK-3.
    fn content(&self, reader: &mut impl Read, header: &Header, start: u64) -> Result<Machine, BackupError> {
        let (mut digest, mut decoder) = (Context::new(&SHA256), Decoder::default());
        let mut piece = Vec::with_capacity(PIECE_BYTES);
        let mut have = 0;
        // What is wrong with a record is told only when the digest holds: before that it is damage.
        let mut malformed: Option<Malformed> = None;
        while have < header.size {
            piece.clear();
            self.fill(reader, &mut piece, (header.size - have).min(PIECE_BYTES as u64))?;
            if piece.is_empty() {
                return Err(self.short(start + have, start.saturating_add(header.size)));
            }
            have += piece.len() as u64;
            digest.update(&piece);
            if malformed.is_none() {
                malformed = decoder.push(&piece).err();
            }
        }
        piece.clear();
        self.fill(reader, &mut piece, 1)?;
        if !piece.is_empty() {
            return Err(self.damaged("something follows its end"));
        }
        if hex(digest.finish().as_ref()) != header.sha256 {
            return Err(self.damaged("its content does not have the SHA-256 that its head names"));
        }
        let decoded = malformed.map_or_else(|| decoder.finish(), Err);
        let machine = decoded.map_err(|e| self.damaged(e.to_string()))?;
        if machine.applied() != header.last {
            return Err(self.damaged("its content stands at another log entry than its head names"));
        }
        Ok(machine)
    }
}
impl Named {
    /// Reads up to `count` bytes more; fewer only at the end of the file.
    fn fill(&self, reader: &mut impl Read, into: &mut Vec<u8>, count: u64) -> Result<(), BackupError> {
        reader.take(count).read_to_end(into).map(|_| ()).map_err(|e| self.io("reading it", e))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use tempfile::TempDir;

    use super::*;
    use crate::ids::LogIndex;
    use crate::raft::entry::{Entry, Payload};
    use crate::registry::command::{Command, Condition, Op};

    pub(super) fn state(keys: u64) -> Machine {
        let mut machine = Machine::new(Vec::new());
        for index in 1..=keys {
            let value = Bytes::from(vec![index as u8; 3000]);
            let op = Op::Put { key: format!("key-{index}"), value, condition: Condition::None };
            let command = postcard::to_stdvec(&Command { decided_in: Term(3), op }).unwrap();
            let id = LogId::new(Term(3), LogIndex(index));
            machine.apply(&Entry { id, payload: Payload::Command(Bytes::from(command)) });
        }
        machine
    }

    pub(super) fn taken() -> Taken {
        let membership = Membership::of_voters([NodeId(1), NodeId(2)]);
        let (cluster, origin) = ("orders".to_owned(), Origin::Linearizable);
        Taken { cluster, node: NodeId(2), origin, term: Term(5), membership }
    }

    pub(super) fn saved(dir: &TempDir, machine: &Machine) -> (PathBuf, Header) {
        let (path, header) = (dir.path().join("a.backup"), Header::describe(machine, taken()));
        save(&path, false, &header, machine).unwrap();
        (path, header)
    }

    /// BK-1, BK-2, BK-3.
    #[test]
    fn what_was_backed_up_is_read_back() {
        let (dir, machine) = (TempDir::new().unwrap(), state(200));
        let (path, header) = saved(&dir, &machine);
        let back = Backup::read(&path).unwrap();
        assert_eq!(back.header, header);
        assert_eq!(back.machine.digest(), machine.digest());
        assert_eq!((header.last, header.term), (LogId::new(Term(3), LogIndex(200)), Term(5)));
        assert_eq!((header.keys, header.node), (200, NodeId(2)));
        assert_eq!(fs::metadata(&path).unwrap().len(), header.total());
    }

    /// The form that `proto-spec/backup.md` shows.
    #[test]
    fn the_head_is_json_after_magic_version_and_length() {
        let header = Header::describe(&state(1), taken());
        let bytes = header.encode();
        assert_eq!(&bytes[..16], b"termgate-backup\n");
        assert_eq!(bytes[16..20], [0, 0, 0, 1]);
        let length = u32::from_be_bytes(bytes[20..24].try_into().unwrap()) as usize;
        let head: serde_json::Value = serde_json::from_slice(&bytes[24..24 + length]).unwrap();
        assert_eq!(head["last"], serde_json::json!({"term": 3, "index": 1}));
        assert_eq!(
            (head["origin"].as_str(), head["cluster"].as_str()),
            (Some("linearizable"), Some("orders"))
        );
        assert_eq!(bytes.len(), 24 + length + 32);
    }

    fn refusal(path: &Path, bytes: &[u8]) -> BackupError {
        fs::write(path, bytes).unwrap();
        Backup::read(path).unwrap_err()
    }

    /// BK-2, BK-3: every byte counts.
    #[test]
    fn refuses_a_backup_with_any_damaged_byte() {
        let dir = TempDir::new().unwrap();
        let (path, _) = saved(&dir, &state(3));
        let sound = fs::read(&path).unwrap();
        for at in (0..sound.len()).step_by(7).chain(0..1200) {
            let mut damaged = sound.clone();
            damaged[at] ^= 1;
            let error = refusal(&path, &damaged);
            let expected = match at {
                0..16 => matches!(error, BackupError::Foreign { .. }),
                16..20 => matches!(error, BackupError::Version { .. }),
                // The length: whatever lies there is no digest, or not there.
                20..24 => matches!(error, BackupError::Damaged { .. } | BackupError::Short { .. }),
                _ => matches!(error, BackupError::Damaged { .. }),
            };
            assert!(expected, "byte {at}: {error}");
        }
    }

    /// BK-3: nor a part of one, nor more.
    #[test]
    fn refuses_a_backup_that_is_cut_or_continued() {
        let dir = TempDir::new().unwrap();
        let (path, header) = saved(&dir, &state(3));
        let sound = fs::read(&path).unwrap();
        for end in (16..sound.len()).step_by(11) {
            let error = refusal(&path, &sound[..end]).to_string();
            assert!(error.contains(&format!("ends too early: {end} of ")), "{error}");
        }
        assert!(matches!(refusal(&path, &sound[..9]), BackupError::Foreign { .. }));
        let wanted = format!("{} of {} bytes", header.total() - 1, header.total());
        assert!(refusal(&path, &sound[..sound.len() - 1]).to_string().contains(&wanted));
        let longer = [sound.as_slice(), &[0]].concat();
        assert!(refusal(&path, &longer).to_string().contains("something follows its end"));
    }

    /// BK-1: a later format is refused by its number, whatever else it holds.
    #[test]
    fn refuses_another_format_and_other_files() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("x");
        let error = refusal(&path, b"termgate-backup\n\0\0\0\x02anything at all").to_string();
        assert!(error.contains("has backup format 2, and termgate "), "{error}");
        assert!(matches!(refusal(&path, b"PK\x03\x04 a zip file, say"), BackupError::Foreign { .. }));
        assert!(matches!(refusal(&path, b""), BackupError::Foreign { .. }));
    }
}
