//! A snapshot's content as a peer sends it, and as a disk gives it back.

use std::path::Path;
use std::sync::OnceLock;

use arbitrary::Unstructured;
use bytes::Bytes;
use ring::digest::{SHA256, digest};
use tempfile::TempDir;
use termgate::ids::{LogId, LogIndex, NodeId, Term};
use termgate::raft::entry::{Entry, Membership, Payload, Snapshot, SnapshotId};
use termgate::raft::message::FetchSnapshot;
use termgate::registry::command::{Command, Condition, Member, Op};
use termgate::registry::limits;
use termgate::registry::machine::Machine;
use termgate::registry::machine::snapshot::Decoder;
use termgate::storage::snapshots::Snapshots;

use super::draw::{below, byte, bytes};
use super::registry_command::content;

/// The largest offset that the core lets through (`raft::receive`).
const LARGEST_OFFSET: u64 = 16 << 30;

/// The first byte says which.
pub fn run(data: &[u8]) {
    let Some((&how, rest)) = data.split_first() else { return };
    match how % 4 {
        0 => files(rest),
        1 => damaged(rest),
        _ => decoded(rest, 1 + usize::from(how / 4)),
    }
}

fn decode(content: &[u8], piece: usize) -> Option<Machine> {
    let mut decoder = Decoder::default();
    for piece in content.chunks(piece) {
        decoder.push(piece).ok()?;
    }
    decoder.finish().ok()
}

/// The records of a content: each begins with its length.
fn records(mut content: &[u8]) -> usize {
    let mut count = 0;
    while let Some((length, rest)) = content.split_first_chunk::<4>() {
        count += 1;
        content = rest.get(u32::from_be_bytes(*length) as usize..).expect("a record was cut off");
    }
    assert!(content.is_empty(), "bytes behind the end");
    count
}

/// SN-1 to SN-3: bytes are refused, or they are a state within its limits, the same however they arrive; and what
/// such a state is written as has as many records, because none came twice.
fn decoded(content_read: &[u8], piece: usize) {
    let whole = decode(content_read, content_read.len().max(1));
    let pieces = decode(content_read, piece);
    assert_eq!(whole.as_ref().map(content), pieces.as_ref().map(content), "the pieces change the state");
    let Some(machine) = whole else { return };
    assert!(machine.key_count() <= limits::KEYS && machine.byte_count() <= limits::TOTAL_BYTES);
    assert!(machine.fences().count() <= limits::FENCES && machine.leaders().count() <= limits::LEADERS);
    let bytes: usize = machine.list("", usize::MAX).map(|(key, value)| key.len() + value.value.len()).sum();
    assert_eq!(machine.byte_count(), bytes);
    let written = content(&machine);
    assert_eq!(records(&written), records(content_read), "a record came twice, or was made up");
    let again = decode(&written, 64).expect("what was written can be read");
    assert_eq!((again.digest(), again.applied()), (machine.digest(), machine.applied()));
}

/// A state with some of everything.
fn state() -> &'static (Machine, Vec<u8>, Snapshot) {
    static STATE: OnceLock<(Machine, Vec<u8>, Snapshot)> = OnceLock::new();
    STATE.get_or_init(|| {
        let mut machine = Machine::new(Vec::new());
        let at = |name: &str| format!("{name}:1");
        let member =
            Member { id: NodeId(1), peer: at("p"), proxy: at("x"), hop: at("h"), api: at("a"), zone: None };
        let membership = Membership::of_voters([NodeId(1), NodeId(2), NodeId(3)]);
        let mut ops = vec![Op::SetMember(member)];
        ops.push(Op::FenceRaised { resource: "orders".to_owned(), term: Term(1), node: NodeId(1) });
        ops.extend((0..12).map(|n| Op::Put {
            key: format!("key/{n}"),
            value: Bytes::from(vec![n; usize::from(n) * 7]),
            condition: Condition::None,
        }));
        let command = |op| {
            let command = Command { decided_in: Term(1), op };
            Payload::Command(postcard::to_stdvec(&command).expect("a command can be written").into())
        };
        let first = [Payload::NoOp { leader: NodeId(1) }, Payload::Membership(membership.clone())];
        for (payload, index) in first.into_iter().chain(ops.into_iter().map(command)).zip(1..) {
            machine.apply(&Entry { id: LogId::new(Term(1), LogIndex(index)), payload });
        }
        let content = content(&machine);
        let last = machine.applied();
        let digest = digest(&SHA256, &content).as_ref().try_into().expect("SHA-256 has 32 bytes");
        let id = SnapshotId { last, digest };
        let size = content.len() as u64;
        (machine, content, Snapshot { id, size, membership })
    })
}

/// The content of a sound snapshot, for the seeds.
pub fn sound() -> Vec<u8> {
    state().1.clone()
}

/// In memory where there is room for it: every flush is real.
fn directory() -> TempDir {
    let memory = Path::new("/dev/shm");
    let dir = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    dir.expect("a directory")
}

/// ST-12, N7: pieces that come in any order, twice, from elsewhere: in the end there is the whole, or nothing.
fn files(data: &[u8]) {
    let u = &mut Unstructured::new(data);
    let (machine, content, snapshot) = state();
    let dir = directory();
    let mut snapshots = Snapshots::open(dir.path(), None).expect("a new directory");
    let other = Snapshot { id: SnapshotId { digest: [9; 32], ..snapshot.id }, ..snapshot.clone() };
    let mut kept: Option<(SnapshotId, Vec<u8>)> = None;
    let mut whole = false;
    while !u.is_empty() {
        let offered = if byte(u) < 224 { snapshot } else { &other };
        match byte(u) % 8 {
            0 => {
                let have = snapshots.begin(offered.clone()).expect("room");
                if kept.as_ref().is_none_or(|(id, _)| *id != offered.id) {
                    kept = Some((offered.id, Vec::new()));
                }
                assert_eq!(Some(have), kept.as_ref().map(|(_, bytes)| bytes.len() as u64));
            }
            1..=4 => store(u, &mut snapshots, offered, &mut kept),
            5 => {
                let read = snapshots.read(&wanted(u, offered.id)).expect("reads");
                assert!(whole && offered.id == snapshot.id || read.bytes.is_empty());
                assert_eq!(read.checksum, crc32fast::hash(&read.bytes));
                let from = usize::try_from(read.offset).unwrap_or(usize::MAX).min(content.len());
                assert!(content[from..].starts_with(&read.bytes), "another piece than was written");
            }
            _ => {
                let sound = kept.as_ref().is_some_and(|(id, bytes)| *id == snapshot.id && bytes == content);
                let finished = snapshots.finish(offered.id).expect("a disk");
                assert_eq!(finished.is_some(), sound && offered.id == snapshot.id);
                assert!(finished.is_none_or(|found| found.digest() == machine.digest()));
                whole |= sound && offered.id == snapshot.id;
                kept.take_if(|(id, _)| *id == offered.id);
            }
        }
    }
    let found = Snapshots::open(dir.path(), Some(snapshot)).expect("the same directory").load(snapshot);
    assert_eq!(found.is_ok(), whole, "{found:?}");
}

/// The next piece, and sometimes another.
fn store(
    u: &mut Unstructured<'_>,
    snapshots: &mut Snapshots,
    offered: &Snapshot,
    kept: &mut Option<(SnapshotId, Vec<u8>)>,
) {
    let content = &state().1;
    let have = kept.as_ref().map_or(0, |(_, bytes)| bytes.len());
    let offset = if byte(u) < 240 { have } else { usize::from(byte(u)) * 8 };
    let rest = content.get(offset..).unwrap_or_default();
    let length = if byte(u) < 128 { rest.len() } else { rest.len().min(usize::from(byte(u))) };
    let piece = if byte(u) < 240 { rest[..length].to_vec() } else { bytes(u, 32).to_vec() };
    let stored = snapshots.store(offered.id, offset as u64, &piece).expect("room");
    let expected = kept.as_mut().filter(|(id, _)| *id == offered.id).map(|(_, bytes)| {
        if bytes.len() == offset {
            bytes.extend_from_slice(&piece);
        }
        bytes.len() as u64
    });
    assert_eq!(stored, expected);
}

fn wanted(u: &mut Unstructured<'_>, id: SnapshotId) -> FetchSnapshot {
    let offset = if byte(u) < 224 { 8 * below(u, 256) } else { LARGEST_OFFSET - below(u, 4) };
    let length = if byte(u) < 224 { u32::from(byte(u)) } else { u32::MAX };
    FetchSnapshot { id, offset, length }
}

/// ST-12: a file that rotted is damage, wherever.
fn damaged(data: &[u8]) {
    let u = &mut Unstructured::new(data);
    let (machine, _, _) = state();
    let dir = directory();
    let mut snapshots = Snapshots::open(dir.path(), None).expect("a new directory");
    let taken = snapshots.take(machine, machine.applied(), Membership::of_voters([NodeId(1)])).expect("room");
    let loaded = snapshots.load(&taken).expect("it was just written");
    assert_eq!(loaded.digest(), machine.digest());
    let mut files = std::fs::read_dir(dir.path().join("snapshots")).expect("a directory");
    let path = files.next().expect("a file").expect("a file").path();
    let mut content = std::fs::read(&path).expect("reads");
    let at = (u.arbitrary::<u16>().unwrap_or(0) as usize) % content.len();
    match byte(u) % 4 {
        0 => content.truncate(at),
        1 => content.extend_from_slice(&[0; 3]),
        _ => content[at] ^= byte(u).max(1),
    }
    std::fs::write(&path, content).expect("writes");
    Snapshots::open(dir.path(), Some(&taken)).expect("opens").load(&taken).expect_err("damage is noticed");
}
