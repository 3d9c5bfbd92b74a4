//! A data file that rotted, and a start that reads it: an error or what was written, never a panic, never a state
//! that was acknowledged to be over (ST-1, ST-3, ST-6). And the guard's fence file likewise.

use std::path::Path;
use std::sync::OnceLock;

use arbitrary::Unstructured;
use bytes::Bytes;
use tempfile::TempDir;
use termgate::fencing::verifier::MAX_TERM;
use termgate::guard::store::FenceStore;
use termgate::ids::{IoSeq, LogId, LogIndex, NodeId, Term};
use termgate::raft::entry::{
    Compaction, Durable, Entry, HardState, Membership, Payload, Persist, Snapshot, SnapshotId,
};
use termgate::storage::{Identity, Opened, StorageError, Store};
use termgate::time::Duration;

use super::disk::Disk;
use super::draw::{below, byte};
use super::model;

const PROMISE: Duration = Duration::from_millis(150);
const INCARNATION: u64 = 42;
/// What a disk loses as a whole.
const SECTOR: usize = 512;
/// Where redb keeps what says which commit counts.
const HEADER: u64 = 320;

/// The first byte says which file.
pub fn run(data: &[u8]) {
    let Some((&which, rest)) = data.split_first() else { return };
    match usize::from(which) % (IMAGES + 1) {
        IMAGES => fence(rest),
        image => rotten(&images()[image], rest),
    }
}

fn identity() -> Identity {
    let membership = Membership::of_voters([NodeId(1), NodeId(2), NodeId(3)]);
    Identity { cluster: "orders".to_owned(), node: NodeId(1), membership }
}

fn open(disk: &Disk) -> Result<(Store, Opened), StorageError> {
    Store::open_with_backend(disk.backend(), &identity(), PROMISE, INCARNATION)
}

/// A data file, what is in it, and everything that ever was.
struct Image {
    bytes: Vec<u8>,
    holds: Durable,
    was: Vec<Durable>,
}

/// Short and long, each as a kill leaves it and as a stop does.
const IMAGES: usize = 4;

fn images() -> &'static [Image] {
    static MADE: OnceLock<Vec<Image>> = OnceLock::new();
    MADE.get_or_init(|| {
        let mut made = Vec::new();
        for terms in [1, 6] {
            let disk = Disk::new();
            let (mut store, found) = open(&disk).expect("an empty disk");
            let (mut state, mut was) = (found.durable.clone(), vec![found.durable]);
            for write in workload(terms) {
                store.write(std::slice::from_ref(&write)).expect("a sound write");
                model::keep(&mut state, &write);
                was.push(state.clone());
            }
            let killed = disk.bytes();
            drop(store);
            made.extend([killed, disk.bytes()].map(|bytes| Image {
                bytes,
                holds: state.clone(),
                was: was.clone(),
            }));
        }
        made
    })
}

fn write(io: u64) -> Persist {
    let (pins, append) = (Vec::new(), Vec::new());
    Persist { io: IoSeq(io), hard_state: None, pins, compact: None, truncate_from: None, append }
}

/// Votes, entries, a cut and a compaction in each term.
fn workload(terms: u64) -> Vec<Persist> {
    let mut writes: Vec<Persist> = Vec::new();
    let mut next = 1;
    for term in 1..=terms {
        let mut push = |change: &dyn Fn(&mut Persist)| {
            let mut new = write(writes.len() as u64 + 1);
            change(&mut new);
            writes.push(new);
        };
        let voted_for = Some(NodeId(term % 3 + 1));
        push(&|w| w.hard_state = Some(HardState { current_term: Term(term), voted_for }));
        push(&|w| w.pins = vec![(NodeId(term + 1), 100 + term)]);
        let entry = |index| Entry {
            id: LogId::new(Term(term), LogIndex(index)),
            payload: Payload::Command(Bytes::from(vec![term as u8; 600])),
        };
        push(&|w| w.append = (next..next + 8).map(entry).collect());
        push(&|w| {
            w.truncate_from = Some(LogIndex(next + 6));
            w.append = (next + 6..next + 9).map(entry).collect();
        });
        next += 9;
        let last = LogId::new(Term(term), LogIndex(next - 2));
        let membership = identity().membership;
        let snapshot = Snapshot { id: SnapshotId { last, digest: [term as u8; 32] }, size: 1, membership };
        push(&|w| w.compact = Some(Compaction { snapshot: snapshot.clone(), base: last, keeps_tail: true }));
    }
    writes
}

/// One place that rotted, chosen by the bytes: everything in it is wrong.
fn rot(u: &mut Unstructured<'_>, image: &mut Vec<u8>) {
    let length = image.len() as u64;
    let kind = byte(u);
    let anywhere = u64::from(u.arbitrary::<u32>().unwrap_or(0));
    let at = if kind & 1 == 0 { anywhere % HEADER.min(length) } else { anywhere % length } as usize;
    let sector = at - at % SECTOR;
    let end = (sector + SECTOR).min(image.len());
    match kind / 2 % 16 {
        0 => image.truncate(at),
        1 => image.resize(image.len() + SECTOR * (1 + usize::from(byte(u))), 0),
        2 => image[sector..end].fill(*super::draw::pick(u, &[0, 0xff, 0x5a])),
        3 => {
            let from = (u.arbitrary::<u32>().unwrap_or(0) as usize % image.len()) / SECTOR * SECTOR;
            let other = image[from..(from + SECTOR).min(image.len())].to_vec();
            let count = other.len().min(end - sector);
            image[sector..sector + count].copy_from_slice(&other[..count]);
        }
        4..=7 => {
            for place in image.iter_mut().skip(at).take(1 + below(u, 64) as usize) {
                *place ^= byte(u).max(1);
            }
        }
        _ => image[at] ^= 1 << (byte(u) % 8),
    }
}

fn rotten(image: &Image, data: &[u8]) {
    let u = &mut Unstructured::new(data);
    let mut bytes = image.bytes.clone();
    let mut places = 0;
    while places == 0 || (!u.is_empty() && places < 8) {
        rot(u, &mut bytes);
        places += 1;
        if bytes.is_empty() {
            return;
        }
    }
    let disk = Disk::holding(bytes);
    let (mut store, found) = match open(&disk) {
        Ok(opened) => opened,
        Err(error) => return refused(&error),
    };
    // Several places that rotted together may be a state of earlier, but not one that never was.
    let allowed = if places == 1 { std::slice::from_ref(&image.holds) } else { &image.was };
    let last = found.durable.log.last().map(|entry| entry.id);
    assert!(allowed.contains(&found.durable), "{places} places: {:?} {last:?}", found.durable.hard_state);
    assert_eq!(found.life.incarnation, INCARNATION);
    // A file that was taken can be used, and keeps what is written from now on.
    let next = last.map_or(found.durable.base, |id| id);
    let entry = Entry {
        id: LogId::new(found.durable.hard_state.current_term, next.index.next()),
        payload: Payload::Command(Bytes::from(vec![9; 3000])),
    };
    let more = Persist { append: vec![entry], ..write(1) };
    store.write(std::slice::from_ref(&more)).expect("a disk without faults");
    drop(store);
    let mut expected = found.durable;
    model::keep(&mut expected, &more);
    let (_, again) = open(&disk).expect("a file that was taken and closed");
    assert_eq!((again.durable == expected, again.life.boot), (true, found.life.boot + 1));
}

fn refused(error: &StorageError) {
    let damage = matches!(
        error,
        StorageError::Corrupt { .. } | StorageError::Foreign { .. } | StorageError::NewerFormat { .. }
    );
    assert!(damage, "damage reads as: {error}");
    assert!(error.to_string().len() > 20, "an error without a word about the mend");
}

/// In memory where there is room for it.
fn directory() -> TempDir {
    let memory = Path::new("/dev/shm");
    let dir = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    dir.expect("a directory")
}

/// A fence file that is there is read or refused: never taken for none, and never for more than it says.
fn fence(data: &[u8]) {
    let dir = directory();
    std::fs::write(dir.path().join("fence"), data).expect("room");
    let Ok(store) = FenceStore::open(dir.path(), "orders") else { return };
    let fence = store.stored().expect("a fence file that is read says where the fence stands");
    assert!(fence.term > Term::ZERO && fence.term <= MAX_TERM);
    let text = String::from_utf8(data.to_vec()).expect("a fence file is text");
    assert!(text.starts_with("termgate-fence 1\n") && text.lines().count() == 3, "{text:?}");
}
