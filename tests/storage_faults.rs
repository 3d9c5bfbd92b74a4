//! The store on a disk that fails: power cuts at every single call, again during recovery, failed
//! flushes, a full disk, and flipped bits.
//!
//! The claim (ST-1, thesis figure 3.1 "persistent state"): after any of these a start finds the state
//! as some write left it, at or after the last write that was reported durable; or it refuses. So no
//! vote is forgotten, no term goes back, and no acknowledged entry is lost.

mod disk;
#[path = "support/loop_disk.rs"]
mod loop_disk;
mod model;
#[path = "support/not_tested.rs"]
mod not_tested;

use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration as Wait;

use bytes::Bytes;
use disk::{Disk, Fault, Survival};
use loop_disk::LoopDisk;
use not_tested::not_tested;
use termgate::ids::{IoSeq, LogId, LogIndex, NodeId, Term};
use termgate::metrics::Metrics;
use termgate::raft::entry::{
    Compaction, Durable, Entry, HardState, Membership, Payload, Persist, Snapshot, SnapshotId,
};
use termgate::storage::{Identity, Opened, StorageError, Store, Writer};
use termgate::time::Duration;

const PROMISE: Duration = Duration::from_millis(150);
const INCARNATION: u64 = 42;

fn identity() -> Identity {
    Identity {
        cluster: "orders".to_owned(),
        node: NodeId(1),
        membership: Membership::of_voters([NodeId(1), NodeId(2), NodeId(3)]),
    }
}

fn open(disk: &Disk) -> Result<(Store, Opened), StorageError> {
    Store::open_with_backend(disk.backend(), &identity(), PROMISE, INCARNATION)
}

fn entry(index: u64, term: u64, size: usize) -> Entry {
    let bytes = Bytes::from(vec![u8::try_from(index % 251).unwrap(); size]);
    Entry { id: LogId::new(Term(term), LogIndex(index)), payload: Payload::Command(bytes) }
}

/// Elections, appends small and large, and truncations: what a busy and unlucky node writes.
fn workload() -> Vec<Persist> {
    let mut writes = Vec::new();
    let mut next = 1;
    for term in 1..=6_u64 {
        let vote = |to: Option<u64>| Some(HardState { current_term: Term(term), voted_for: to.map(NodeId) });
        let mut write = |hard_state, truncate_from: Option<u64>, append| {
            let io = IoSeq(writes.len() as u64 + 1);
            let truncate_from = truncate_from.map(LogIndex);
            writes.push(Persist { io, hard_state, pins: Vec::new(), compact: None, truncate_from, append });
        };
        write(vote(None), None, vec![]);
        write(vote(Some(term % 3 + 1)), None, vec![]);
        if term % 2 == 0 {
            next -= 2;
            write(None, Some(next), vec![entry(next, term, 10)]);
            next += 1;
        }
        let size = if term == 5 { 100_000 } else { 200 };
        write(None, None, (next..next + 3).map(|i| entry(i, term, size)).collect());
        next += 3;
        let (last, keeps_tail) = (LogId::new(Term(term), LogIndex(next - 1)), term != 4);
        if term % 2 == 0 {
            let id = SnapshotId { last, digest: [term as u8; 32] };
            let snapshot = Snapshot { id, size: 1, membership: identity().membership };
            let compact = Some(Compaction { snapshot, base: last, keeps_tail });
            let io = IoSeq(writes.len() as u64 + 1);
            writes.push(Persist {
                io,
                hard_state: None,
                pins: Vec::new(),
                compact,
                truncate_from: None,
                append: vec![],
            });
        }
    }
    writes
}

/// The state after each prefix of `writes`: the model that the disk is compared with.
fn states(writes: &[Persist]) -> Vec<Durable> {
    let mut state = Durable { membership: identity().membership, ..Durable::default() };
    let mut all = vec![state.clone()];
    for write in writes {
        model::keep(&mut state, write);
        all.push(state.clone());
    }
    all
}

/// Writes until the disk fails; how many writes were reported durable, and whether it opened.
fn run(disk: &Disk, writes: &[Persist]) -> (usize, bool) {
    let Ok((mut store, _)) = open(disk) else { return (0, false) };
    let done = writes.iter().take_while(|write| store.write(std::slice::from_ref(*write)).is_ok()).count();
    (done, true)
}

/// The claim: what is found is the state after some write, at or after the last one acknowledged.
fn check(found: &Durable, states: &[Durable], acknowledged: usize, what: &str) {
    // The write under way when the power went may be there, whole, or not.
    let allowed = &states[acknowledged..states.len().min(acknowledged + 2)];
    assert!(
        allowed.contains(found),
        "{what}: {acknowledged} writes were acknowledged, found term {:?} and a log that ends at {:?}",
        found.hard_state,
        found.log.last().map(|entry| entry.id),
    );
}

const SURVIVALS: [Survival; 4] = [Survival::Nothing, Survival::Everything, Survival::Some, Survival::Some];

#[test]
fn a_power_cut_at_any_call_loses_nothing_that_was_reported_durable() {
    let writes = workload();
    let states = states(&writes);
    let whole = Disk::new();
    assert_eq!(run(&whole, &writes), (writes.len(), true));
    for call in 0..whole.calls() {
        for (i, survival) in SURVIVALS.into_iter().enumerate() {
            let disk = Disk::new();
            disk.fail_at(call, Fault::PowerCut);
            let (acknowledged, opened) = run(&disk, &writes);
            let seed = call * 10 + i as u64;
            disk.reboot(survival, seed);
            if !opened {
                // Nothing was promised; a half-made file is thrown away.
                assert_eq!(acknowledged, 0);
                continue;
            }
            let what = format!("power cut at call {call}, {survival:?}, seed {seed}");
            let (_, found) = open(&disk).unwrap_or_else(|e| panic!("{what}: {e}"));
            check(&found.durable, &states, acknowledged, &what);
            assert_eq!(found.life.incarnation, INCARNATION, "{what}");
            assert_eq!((found.life.boot, found.promised), (2, PROMISE), "{what}");
        }
    }
}

#[test]
fn a_second_power_cut_during_recovery_loses_nothing_either() {
    let writes = workload();
    let states = states(&writes);
    let whole = Disk::new();
    run(&whole, &writes);
    let first_start = Disk::new();
    open(&first_start).unwrap();
    for first in (first_start.calls()..whole.calls()).step_by(3) {
        for second in 0.. {
            let disk = Disk::new();
            disk.fail_at(first, Fault::PowerCut);
            let (acknowledged, opened) = run(&disk, &writes);
            assert!(opened);
            disk.reboot(Survival::Some, first);
            let before = disk.calls();
            disk.fail_at(before + second, Fault::PowerCut);
            let recovered = open(&disk).map(drop).is_ok();
            disk.reboot(Survival::Some, first * 1000 + second);
            let what = format!("power cuts at call {first} and at call {second} of the recovery");
            let (_, found) = open(&disk).unwrap_or_else(|e| panic!("{what}: {e}"));
            check(&found.durable, &states, acknowledged, &what);
            if recovered {
                break;
            }
        }
    }
}

/// ST-8.
#[test]
fn the_first_failed_call_is_the_last_and_loses_nothing() {
    let writes = workload();
    let states = states(&writes);
    let whole = Disk::new();
    run(&whole, &writes);
    for call in 0..whole.calls() {
        for fault in [Fault::Error, Fault::Full] {
            let disk = Disk::new();
            disk.fail_at(call, fault);
            let Ok((mut store, _)) = open(&disk) else { continue };
            let mut acknowledged = 0;
            let mut failed = None;
            for write in &writes {
                match store.write(std::slice::from_ref(write)) {
                    Ok(()) if failed.is_none() => acknowledged += 1,
                    Ok(()) => panic!("{fault:?} at call {call}: a write succeeded after {failed:?}"),
                    Err(error) => failed = Some(failed.unwrap_or(error)),
                }
            }
            drop(store);
            disk.reboot(Survival::Nothing, call);
            let what = format!("{fault:?} at call {call}: {failed:?}");
            let (_, found) = open(&disk).unwrap_or_else(|e| panic!("{what}: {e}"));
            check(&found.durable, &states, acknowledged, &what);
            if let (Some(error), Fault::Full) = (failed, fault) {
                assert!(matches!(error, StorageError::DiskFull { .. }), "{what}");
                assert!(error.to_string().contains("free some space"), "{what}");
            }
        }
    }
}

/// Opens `image` with one bit flipped, at every byte of the header and a sample of the others, and
/// returns how often that was refused and how often it did no harm.
fn damage_everywhere(image: &[u8], expected: &Durable) -> (usize, usize) {
    let (mut refused, mut harmless) = (0, 0);
    let places = (0..320).chain((320..image.len()).step_by(211)).map(|place| (place, place % 8));
    let places = places.filter(|(place, _)| *place < 320 || image[*place] != 0);
    // Every bit of what says which commit is the last: the flags, and the number of each.
    let last = [9].into_iter().chain(168..176).chain(296..304);
    let last = last.flat_map(|place| (0..8).map(move |bit| (place, bit)));
    for (place, bit) in places.chain(last) {
        let mut damaged = image.to_vec();
        damaged[place] ^= 1 << bit;
        match open(&Disk::holding(damaged)) {
            Err(error) => {
                refused += 1;
                let known = matches!(error, StorageError::Corrupt { .. } | StorageError::Foreign { .. });
                assert!(known, "damage at bit {bit} of byte {place} reads as: {error}");
            }
            Ok((_, found)) => {
                harmless += 1;
                let same = found.durable == *expected;
                assert!(same, "damage at bit {bit} of byte {place} changed what was read");
            }
        }
    }
    (refused, harmless)
}

/// ST-14: the flag that says which commit is the last, wrong after each write in turn, and after a stop.
#[test]
fn a_flag_that_points_at_the_commit_before_takes_nothing_back() {
    let writes = workload();
    let states = states(&writes);
    let disk = Disk::new();
    let (mut store, _) = open(&disk).unwrap();
    let mut read = 0;
    let mut check = |mut image: Vec<u8>, state: &Durable, what: &str| {
        image[9] ^= 1;
        match open(&Disk::holding(image)) {
            Ok((_, found)) => assert!(found.durable == *state, "{what} was taken back"),
            // The commit before may be gone: pages that only it had are free.
            Err(error) => return assert!(matches!(error, StorageError::Corrupt { .. }), "{what}: {error}"),
        }
        read += 1;
    };
    for (write, state) in writes.iter().zip(&states[1..]) {
        store.write(std::slice::from_ref(write)).unwrap();
        check(disk.bytes(), state, &format!("write {}", write.io));
    }
    drop(store);
    check(disk.bytes(), &states[writes.len()], "a stop");
    assert!(read > 10, "{read}");
}

#[test]
fn damage_is_refused_or_harmless_and_never_another_state() {
    let writes = workload();
    let last = states(&writes).pop().unwrap();
    let disk = Disk::new();
    let (mut store, _) = open(&disk).unwrap();
    for write in &writes {
        store.write(std::slice::from_ref(write)).unwrap();
    }
    let killed = disk.bytes();
    drop(store);
    let closed = disk.bytes();
    for (how, image) in [("killed", killed), ("closed", closed)] {
        let (refused, harmless) = damage_everywhere(&image, &last);
        println!("{how}: refused {refused}, harmless {harmless}");
        assert!(refused > 100, "{how}: refused {refused}, harmless {harmless}");
    }
}

/// ST-1: a commit that was acknowledged and then damaged is damage. With one flush per commit redb
/// would take it for a torn one and go back to the commit before it.
#[test]
fn an_acknowledged_commit_that_was_damaged_is_not_rolled_back() {
    let term = HardState { current_term: Term(1), voted_for: None };
    let append = |i| Persist {
        io: IoSeq(i),
        hard_state: Some(term),
        pins: Vec::new(),
        compact: None,
        truncate_from: None,
        append: vec![entry(i, 1, 200)],
    };
    let writes: Vec<Persist> = (1..=400).map(append).collect();
    let disk = Disk::new();
    let (mut store, _) = open(&disk).unwrap();
    for write in &writes {
        store.write(std::slice::from_ref(write)).unwrap();
    }
    let (refused, harmless) = damage_everywhere(&disk.bytes(), &states(&writes).pop().unwrap());
    assert!(refused > 100, "refused {refused}, harmless {harmless}");
}

#[test]
fn nothing_is_reported_durable_before_it_is() {
    let writes = workload();
    let states = states(&writes);
    let disk = Disk::new();
    let (store, _) = open(&disk).unwrap();
    let (send, reports) = mpsc::channel();
    // What a power cut would leave, at the very moment of each report.
    let at_report = disk.clone();
    let on_durable = move |io: IoSeq| send.send((io, at_report.durable())).unwrap();
    let writer = Writer::start(store, Metrics::new(), on_durable, |e| panic!("{e}"));
    for write in &writes {
        writer.push(write.clone());
    }
    writer.close();
    let mut count = 0;
    for (io, image) in reports.try_iter() {
        count += 1;
        let (_, found) = open(&Disk::holding(image)).unwrap();
        let reported = usize::try_from(io.0).unwrap();
        check(&found.durable, &states, reported, &format!("report {io}"));
    }
    assert!(count > 0);
}

#[test]
fn a_failed_flush_ends_the_writer_once_and_for_all() {
    let writes = workload();
    for (fault, word) in [(Fault::Error, "injected"), (Fault::Full, "no space left")] {
        let disk = Disk::new();
        let (store, _) = open(&disk).unwrap();
        disk.fail_flush_at(disk.flushes() + 3, fault);
        let durable = Arc::new(Mutex::new(IoSeq::ZERO));
        let (failed, failures) = mpsc::channel();
        let seen = Arc::clone(&durable);
        let on_durable = move |io| *seen.lock().unwrap() = io;
        let writer = Writer::start(store, Metrics::new(), on_durable, move |e| failed.send(e).unwrap());
        // One at a time, so that the third flush fails in the second commit.
        let mut failure = None;
        for write in &writes {
            writer.push(write.clone());
            let io = write.io;
            failure = failures.recv_timeout(Wait::from_millis(1)).ok();
            while failure.is_none() && *durable.lock().unwrap() < io {
                failure = failures.recv_timeout(Wait::from_millis(1)).ok();
            }
            if failure.is_some() {
                break;
            }
        }
        let text = failure.expect("the flush failed").to_string();
        assert!(text.contains(word), "{text}");
        assert!(writer.oldest_outstanding().is_some(), "a failed write is never finished");
        let before = *durable.lock().unwrap();
        writer.push(writes.last().unwrap().clone());
        writer.close();
        assert_eq!(*durable.lock().unwrap(), before, "nothing is durable after the failure");
        assert!(failures.try_recv().is_err(), "reported once");
    }
}

#[test]
fn a_stalled_flush_shows_as_the_oldest_outstanding_write() {
    let disk = Disk::new();
    let (store, _) = open(&disk).unwrap();
    let (send, reports) = mpsc::channel();
    let writer = Writer::start(store, Metrics::new(), move |io| send.send(io).unwrap(), |e| panic!("{e}"));
    assert_eq!(writer.oldest_outstanding(), None);
    let held = disk.stall();
    let before = termgate::clock::now();
    let writes = workload();
    writer.push(writes[0].clone());
    writer.push(writes[1].clone());
    let since = writer.oldest_outstanding().expect("the first write is not finished");
    assert!(since >= before && since <= termgate::clock::now());
    assert!(reports.try_recv().is_err());
    drop(held);
    while reports.recv_timeout(Wait::from_secs(30)).expect("the writer goes on") < writes[1].io {}
    assert_eq!(writer.oldest_outstanding(), None);
}

/// ST-15: what the kernel has cached is not what the disk holds, as after a failed flush. A start goes by the disk.
#[test]
fn a_start_reads_the_disk_and_not_what_the_kernel_has_cached() {
    let dir = tempfile::tempdir().expect("a directory");
    let Some(disk) = LoopDisk::mount(dir.path(), 16) else {
        return not_tested("a cache that differs from the disk needs root, loop devices and mkfs.ext4");
    };
    let data = disk.path().join("data");
    let (mut store, _) = Store::open(&data, &identity(), PROMISE).expect("a new store");
    let hard_state = HardState { current_term: Term(1), voted_for: None };
    let write = Persist {
        io: IoSeq(1),
        hard_state: Some(hard_state),
        pins: Vec::new(),
        compact: None,
        truncate_from: None,
        append: vec![entry(1, 1, 300)],
    };
    store.write(&[write]).expect("a healthy disk");
    drop(store);
    let file = data.join(termgate::storage::FILE_NAME);
    let before = std::fs::read(&file).expect("the data file");
    let (old, new) = ([1; 300], [2; 300]);
    assert!(disk.replace(&old, &new) > 0, "the entry is on the disk");
    assert!(std::fs::read(&file).expect("the data file") == before, "the kernel still shows what was");
    match Store::open(&data, &identity(), PROMISE) {
        Err(StorageError::Corrupt { .. }) => {}
        other => panic!("an entry was read that is not on the disk: {other:?}"),
    }
}
