//! Real directories: identity, lives, contents, and every kind of damage that a file can have.

use std::os::unix::fs::PermissionsExt;
use std::sync::mpsc;
use std::time::Duration as Wait;

use bytes::Bytes;
use redb::{ReadableDatabase, ReadableTableMetadata};
use tempfile::TempDir;

use super::format::{Format, KEY_FORMAT, KEY_LIVES, META};
use super::*;
use crate::ids::Term;
use crate::metrics::Metrics;
use crate::raft::entry::{Payload, Snapshot, SnapshotId};

const PROMISE: Duration = Duration::from_millis(150);

fn identity() -> Identity {
    Identity {
        cluster: "orders".to_owned(),
        node: NodeId(1),
        membership: Membership::of_voters([NodeId(1), NodeId(2), NodeId(3)]),
    }
}

fn open(dir: &TempDir) -> Result<(Store, Opened), StorageError> {
    Store::open(dir.path(), &identity(), PROMISE)
}

fn entry(index: u64, term: u64) -> Entry {
    Entry {
        id: LogId::new(Term(term), LogIndex(index)),
        payload: Payload::Command(Bytes::from(format!("command {index} of {term}"))),
    }
}

fn voted(term: u64, vote: Option<u64>) -> HardState {
    HardState { current_term: Term(term), voted_for: vote.map(NodeId) }
}

fn persist(io: u64, hard: Option<HardState>, truncate: Option<u64>, append: Vec<Entry>) -> Persist {
    Persist {
        io: IoSeq(io),
        hard_state: hard,
        pins: Vec::new(),
        compact: None,
        truncate_from: truncate.map(LogIndex),
        append,
    }
}

/// A directory with a vote and three entries.
fn filled() -> TempDir {
    let dir = TempDir::new().unwrap();
    let (mut store, _) = open(&dir).unwrap();
    let entries = vec![entry(1, 2), entry(2, 2), entry(3, 2)];
    store.write(&[persist(1, Some(voted(2, Some(3))), None, entries)]).unwrap();
    dir
}

/// Changes tables behind the store's back.
fn tamper(dir: &TempDir, change: impl FnOnce(&redb::WriteTransaction)) {
    let db = Database::open(dir.path().join(FILE_NAME)).unwrap();
    let txn = db.begin_write().unwrap();
    change(&txn);
    txn.commit().unwrap();
}

fn refusal(dir: &TempDir) -> String {
    open(dir).expect_err("a damaged or foreign directory must be refused").to_string()
}

#[test]
fn first_start_has_nothing_and_promised_nothing() {
    let dir = TempDir::new().unwrap();
    let (_, opened) = Store::open(&dir.path().join("data/node-1"), &identity(), PROMISE).unwrap();
    assert_eq!(opened.durable.hard_state, HardState::default());
    assert_eq!(opened.durable.membership, identity().membership);
    assert_eq!((opened.durable.base, opened.durable.log.len()), (LogId::ZERO, 0));
    assert_eq!((opened.life.boot, opened.promised), (1, Duration::ZERO));
    let mode = std::fs::metadata(dir.path().join("data/node-1")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700, "nobody else reads the registry's values");
}

#[test]
fn reads_back_what_was_written() {
    let dir = filled();
    let (_, opened) = open(&dir).unwrap();
    assert_eq!(opened.durable.hard_state, voted(2, Some(3)));
    assert_eq!(opened.durable.log, [entry(1, 2), entry(2, 2), entry(3, 2)]);
}

#[test]
fn applies_a_batch_in_its_order() {
    let dir = filled();
    let (mut store, _) = open(&dir).unwrap();
    let batch = [
        persist(1, None, None, vec![entry(4, 2)]),
        persist(2, Some(voted(3, None)), Some(3), vec![entry(3, 3), entry(4, 3), entry(5, 3)]),
        persist(3, None, Some(5), vec![]),
        persist(4, Some(voted(3, Some(2))), None, vec![]),
    ];
    store.write(&batch).unwrap();
    drop(store);
    let (_, opened) = open(&dir).unwrap();
    assert_eq!(opened.durable.hard_state, voted(3, Some(2)));
    assert_eq!(opened.durable.log, [entry(1, 2), entry(2, 2), entry(3, 3), entry(4, 3)]);
}

/// ST-5.
#[test]
fn each_start_is_another_life_of_the_same_incarnation() {
    let dir = filled();
    let lives: Vec<Life> = (0..3).map(|_| open(&dir).unwrap().1.life).collect();
    assert_eq!(lives.iter().map(|life| life.boot).collect::<Vec<_>>(), [2, 3, 4]);
    assert!(lives.iter().all(|life| life.incarnation == lives[0].incarnation));
    let other = open(&TempDir::new().unwrap()).unwrap().1.life;
    assert_ne!(other.incarnation, lives[0].incarnation, "a wiped directory is another node (V8)");
}

#[test]
fn remembers_the_longest_promise_of_any_earlier_life() {
    let dir = TempDir::new().unwrap();
    let promised = |ms| Store::open(dir.path(), &identity(), Duration::from_millis(ms)).unwrap().1.promised;
    assert_eq!(promised(500), Duration::ZERO);
    assert_eq!(promised(100), Duration::from_millis(500));
    assert_eq!(promised(100), Duration::from_millis(500));
}

#[test]
fn keeps_the_first_membership_when_the_configuration_changes() {
    let dir = filled();
    let changed = Identity { membership: Membership::of_voters([NodeId(9)]), ..identity() };
    let (_, opened) = Store::open(dir.path(), &changed, PROMISE).unwrap();
    assert_eq!(opened.durable.membership, identity().membership);
}

/// ST-9.
#[test]
fn refuses_a_directory_that_is_in_use() {
    let dir = filled();
    let held = open(&dir).unwrap();
    let error = open(&dir).unwrap_err();
    assert!(matches!(error, StorageError::InUse { .. }), "{error}");
    assert!(error.to_string().contains("in use by another process"), "{error}");
    drop(held);
    open(&dir).unwrap();
}

/// ST-10.
#[test]
fn a_first_start_that_was_cut_off_is_thrown_away() {
    let dir = TempDir::new().unwrap();
    std::fs::write(dir.path().join("termgate.redb.new"), b"half a file").unwrap();
    assert_eq!(open(&dir).unwrap().1.life.boot, 1);
    assert!(!dir.path().join("termgate.redb.new").exists());
    assert_eq!(open(&dir).unwrap().1.life.boot, 2);
}

#[test]
fn a_first_start_that_fails_leaves_no_data_file() {
    let dir = TempDir::new().unwrap();
    std::fs::create_dir(dir.path().join("termgate.redb.new")).unwrap();
    open(&dir).unwrap_err();
    assert!(!dir.path().join(FILE_NAME).exists());
}

#[test]
fn refuses_a_data_file_that_became_empty() {
    let dir = filled();
    std::fs::write(dir.path().join(FILE_NAME), b"").unwrap();
    assert!(refusal(&dir).contains("termgate.redb is empty"), "{}", refusal(&dir));
}

/// ST-4.
#[test]
fn refuses_the_directory_of_another_cluster_or_node_and_names_both() {
    let dir = filled();
    let cluster = Identity { cluster: "payments".to_owned(), ..identity() };
    let error = Store::open(dir.path(), &cluster, PROMISE).unwrap_err().to_string();
    assert!(error.contains("\"orders\"") && error.contains("\"payments\""), "{error}");
    let node = Identity { node: NodeId(2), ..identity() };
    let error = Store::open(dir.path(), &node, PROMISE).unwrap_err().to_string();
    assert!(error.contains("belongs to node 1") && error.contains("configured as 2"), "{error}");
}

/// ST-2.
#[test]
fn refuses_a_later_format_and_names_the_version_that_wrote_it() {
    let dir = filled();
    tamper(&dir, |txn| {
        let later = Format { number: 2, written_by: "9.8.7".to_owned() };
        let record = format::seal(KEY_FORMAT.as_bytes(), &later.encode());
        txn.open_table(META).unwrap().insert(KEY_FORMAT, record.as_slice()).unwrap();
    });
    let error = refusal(&dir);
    assert!(error.contains("start termgate 9.8.7 or later"), "{error}");
}

/// ST-2: a later format may lack tables of this one.
#[test]
fn refuses_a_later_format_by_its_name_also_when_it_has_other_tables() {
    let dir = filled();
    tamper(&dir, |txn| {
        let later = Format { number: 2, written_by: "9.8.7".to_owned() };
        let record = format::seal(KEY_FORMAT.as_bytes(), &later.encode());
        txn.open_table(META).unwrap().insert(KEY_FORMAT, record.as_slice()).unwrap();
        txn.delete_table(RAFT).unwrap();
    });
    let error = refusal(&dir);
    assert!(error.contains("start termgate 9.8.7 or later"), "{error}");
}

/// ST-10: a node that voted must not come back as one that never did.
#[test]
fn refuses_a_data_file_that_lost_all_its_tables() {
    let dir = filled();
    tamper(&dir, |txn| {
        txn.delete_table(META).unwrap();
        txn.delete_table(RAFT).unwrap();
        txn.delete_table(LOG).unwrap();
        txn.delete_table(PEERS).unwrap();
    });
    let error = refusal(&dir);
    assert!(error.contains("holds nothing"), "{error}");
}

#[test]
fn refuses_a_file_of_somebody_else() {
    let dir = TempDir::new().unwrap();
    std::fs::write(dir.path().join(FILE_NAME), b"not a database at all").unwrap();
    assert!(refusal(&dir).contains("is not a termgate data file"), "{}", refusal(&dir));

    let dir = TempDir::new().unwrap();
    let db = Database::create(dir.path().join(FILE_NAME)).unwrap();
    let txn = db.begin_write().unwrap();
    txn.open_table(redb::TableDefinition::<u64, u64>::new("theirs")).unwrap();
    txn.commit().unwrap();
    drop(db);
    assert!(refusal(&dir).contains("is not a termgate data file"), "{}", refusal(&dir));
}

/// ST-3.
#[test]
fn refuses_an_entry_whose_bytes_changed() {
    let dir = filled();
    tamper(&dir, |txn| {
        let mut log = txn.open_table(LOG).unwrap();
        let mut record = log.get(2).unwrap().unwrap().value().to_vec();
        *record.last_mut().unwrap() ^= 1;
        log.insert(2, record.as_slice()).unwrap();
    });
    let error = refusal(&dir);
    assert!(error.contains("log entry 2: its checksum does not match"), "{error}");
    assert!(error.contains("put an undamaged copy"), "names the mend: {error}");
}

#[test]
fn refuses_a_sound_record_in_the_wrong_place() {
    let dir = filled();
    tamper(&dir, |txn| {
        let mut log = txn.open_table(LOG).unwrap();
        let record = log.get(2).unwrap().unwrap().value().to_vec();
        log.insert(3, record.as_slice()).unwrap();
    });
    assert!(refusal(&dir).contains("log entry 3: its checksum does not match"));
}

/// ST-6.
#[test]
fn refuses_a_hole_in_the_log() {
    let dir = filled();
    tamper(&dir, |txn| drop(txn.open_table(LOG).unwrap().remove(2).unwrap()));
    assert!(refusal(&dir).contains("log entry 3@2 does not follow 1@2"), "{}", refusal(&dir));
}

#[test]
fn refuses_a_log_whose_end_is_gone() {
    let dir = filled();
    tamper(&dir, |txn| drop(txn.open_table(LOG).unwrap().remove(3).unwrap()));
    assert!(refusal(&dir).contains("the log ends at 2@2 and was left at 3@2"), "{}", refusal(&dir));
}

#[test]
fn refuses_a_log_that_is_ahead_of_the_term() {
    let dir = filled();
    tamper(&dir, |txn| {
        let record = format::encode(KEY_HARD_STATE.as_bytes(), &voted(1, None)).unwrap();
        txn.open_table(RAFT).unwrap().insert(KEY_HARD_STATE, record.as_slice()).unwrap();
    });
    assert!(refusal(&dir).contains("of a later term than current_term 1"), "{}", refusal(&dir));
}

#[test]
fn refuses_missing_and_changed_records() {
    for key in [KEY_HARD_STATE, KEY_BOUNDS, format::KEY_MEMBERSHIP] {
        let dir = filled();
        tamper(&dir, |txn| drop(txn.open_table(RAFT).unwrap().remove(key).unwrap()));
        assert!(refusal(&dir).contains(&format!("record {key:?} is missing")));
    }
    for key in [KEY_FORMAT, KEY_LIVES, format::KEY_OWNER] {
        let dir = filled();
        tamper(&dir, |txn| {
            let mut meta = txn.open_table(META).unwrap();
            let mut record = meta.get(key).unwrap().unwrap().value().to_vec();
            record[4] ^= 0x40;
            meta.insert(key, record.as_slice()).unwrap();
        });
        assert!(refusal(&dir).contains(key), "{}", refusal(&dir));
    }
}

#[test]
fn a_refused_start_changes_nothing() {
    let dir = filled();
    let other = Identity { node: NodeId(2), ..identity() };
    Store::open(dir.path(), &other, PROMISE).unwrap_err();
    assert_eq!(open(&dir).unwrap().1.life.boot, 2);
}

/// ST-7.
#[test]
fn refuses_to_take_back_a_term_or_a_vote() {
    for back in [voted(1, None), voted(2, None), voted(2, Some(1))] {
        let dir = filled();
        let (mut store, _) = open(&dir).unwrap();
        let error = store.write(&[persist(1, Some(back), None, vec![])]).unwrap_err();
        assert!(matches!(error, StorageError::Misuse { .. }), "{back:?}: {error}");
        drop(store);
        assert_eq!(open(&dir).unwrap().1.durable.hard_state, voted(2, Some(3)));
    }
}

#[test]
fn refuses_a_log_that_would_not_be_one() {
    let bad = [
        persist(1, None, None, vec![entry(5, 2)]),
        persist(1, None, None, vec![entry(4, 1)]),
        persist(1, None, None, vec![entry(4, 3)]),
        persist(1, None, Some(0), vec![]),
    ];
    for write in bad {
        let dir = filled();
        let (mut store, _) = open(&dir).unwrap();
        let error = store.write(std::slice::from_ref(&write)).unwrap_err();
        assert!(matches!(error, StorageError::Misuse { .. }), "{write:?}: {error}");
        let again = store.write(&[persist(2, None, None, vec![])]).unwrap_err();
        assert!(matches!(again, StorageError::Stopped { .. }), "the first failure is the last: {again}");
    }
}

fn snapshot(index: u64, term: u64) -> Snapshot {
    let id = SnapshotId { last: LogId::new(Term(term), LogIndex(index)), digest: [7; 32] };
    Snapshot { id, size: 9, membership: Membership::of_voters([NodeId(1), NodeId(4)]) }
}

fn compact(io: u64, snapshot: Snapshot, base: (u64, u64), keeps_tail: bool) -> Persist {
    let base = LogId::new(Term(base.1), LogIndex(base.0));
    Persist { compact: Some(Compaction { snapshot, base, keeps_tail }), ..persist(io, None, None, vec![]) }
}

/// ST-13.
#[test]
fn remembers_by_which_incarnation_each_member_was_first_heard() {
    let dir = filled();
    let (mut store, opened) = open(&dir).unwrap();
    assert!(opened.durable.pinned.is_empty());
    let pins = |io, pins: &[(u64, u64)]| Persist {
        pins: pins.iter().map(|(node, incarnation)| (NodeId(*node), *incarnation)).collect(),
        ..persist(io, None, None, vec![])
    };
    store.write(&[pins(1, &[(2, 77)]), pins(2, &[(3, 88)])]).unwrap();
    drop(store);
    let (mut store, opened) = open(&dir).unwrap();
    assert_eq!(opened.durable.pinned, [(NodeId(2), 77), (NodeId(3), 88)].into());
    let error = store.write(&[pins(1, &[(2, 99)])]).unwrap_err();
    assert!(matches!(error, StorageError::Misuse { .. }), "{error}");
}

/// ST-11.
#[test]
fn a_compacted_log_begins_later_and_a_start_begins_with_the_snapshot() {
    let dir = filled();
    let (mut store, _) = open(&dir).unwrap();
    store.write(&[compact(1, snapshot(2, 2), (1, 2), true)]).unwrap();
    store.write(&[persist(2, None, Some(3), vec![entry(3, 2), entry(4, 2)])]).unwrap();
    drop(store);
    let (_, opened) = open(&dir).unwrap();
    assert_eq!(opened.durable.snapshot, Some(snapshot(2, 2)));
    assert_eq!(opened.durable.membership, snapshot(2, 2).membership);
    assert_eq!(opened.durable.base, LogId::new(Term(2), LogIndex(1)));
    assert_eq!(opened.durable.log, [entry(2, 2), entry(3, 2), entry(4, 2)]);
}

/// ST-11, N1, N8: what the log held goes in the transaction that brings the snapshot.
#[test]
fn a_snapshot_that_replaces_the_log_leaves_nothing_of_it() {
    let dir = filled();
    let (mut store, _) = open(&dir).unwrap();
    store.write(&[compact(1, snapshot(2, 1), (2, 1), false)]).unwrap();
    store.write(&[persist(2, None, None, vec![entry(3, 2)])]).unwrap();
    drop(store);
    let (_, opened) = open(&dir).unwrap();
    assert_eq!(opened.durable.base, LogId::new(Term(1), LogIndex(2)));
    assert_eq!(opened.durable.log, [entry(3, 2)]);
}

/// ST-11.
#[test]
fn what_lies_before_the_log_is_cleared_a_little_with_each_write() {
    let dir = TempDir::new().unwrap();
    let (mut store, _) = open(&dir).unwrap();
    let count = 2 * CLEARED_AT_ONCE as u64 + 10;
    let entries = (1..=count).map(|index| entry(index, 2)).collect();
    store.write(&[persist(1, Some(voted(2, None)), None, entries)]).unwrap();
    store.write(&[compact(2, snapshot(count, 2), (count, 2), true)]).unwrap();
    let left = |store: &Store| store.db.begin_read().unwrap().open_table(LOG).unwrap().len().unwrap();
    assert_eq!(left(&store), count - CLEARED_AT_ONCE as u64);
    drop(store);
    let (mut store, opened) = open(&dir).unwrap();
    assert_eq!(opened.durable.log, [], "what is not cleared yet is no part of the log");
    for (io, expected) in [(1, 10), (2, 0), (3, 0)] {
        store.write(&[persist(io, Some(voted(2 + io, None)), None, vec![])]).unwrap();
        assert_eq!(left(&store), expected);
    }
}

/// ST-11: a newer snapshot whose entries stay for a follower that still needs them.
#[test]
fn what_a_snapshot_replaced_is_not_taken_for_the_beginning_of_the_log() {
    let dir = TempDir::new().unwrap();
    let (mut store, _) = open(&dir).unwrap();
    let count = CLEARED_AT_ONCE as u64 + 10;
    let replaced = (1..=count).map(|index| entry(index, 1)).collect();
    store.write(&[persist(1, Some(voted(2, None)), None, replaced)]).unwrap();
    store.write(&[compact(2, snapshot(count, 2), (count, 2), false)]).unwrap();
    let follows =
        Persist { append: vec![entry(count + 1, 2)], ..compact(3, snapshot(count, 2), (count, 2), true) };
    store.write(&[follows]).unwrap();
    drop(store);
    let (_, opened) = open(&dir).unwrap();
    assert_eq!(opened.durable.base, LogId::new(Term(2), LogIndex(count)));
    assert_eq!(opened.durable.log, [entry(count + 1, 2)]);
}

#[test]
fn refuses_a_compaction_that_does_not_fit_the_log() {
    let dir = filled();
    for wrong in [
        compact(1, snapshot(2, 2), (3, 2), true),
        compact(1, snapshot(2, 1), (2, 1), true),
        compact(1, snapshot(9, 2), (9, 2), true),
    ] {
        let (mut store, _) = open(&dir).unwrap();
        let error = store.write(&[wrong]).unwrap_err();
        assert!(matches!(error, StorageError::Misuse { .. }), "{error}");
    }
    assert_eq!(open(&dir).unwrap().1.durable.log.len(), 3, "a refused batch leaves nothing");
}

#[test]
fn refuses_a_write_that_comes_twice() {
    let dir = filled();
    let (mut store, _) = open(&dir).unwrap();
    store.write(&[persist(7, None, None, vec![entry(4, 2)])]).unwrap();
    let error = store.write(&[persist(7, None, None, vec![entry(5, 2)])]).unwrap_err();
    assert!(error.to_string().contains("write 7 came twice or late"), "{error}");
}

#[test]
fn writer_reports_every_write_once_it_can_be_read_back() {
    let dir = filled();
    let (store, _) = open(&dir).unwrap();
    let (durable, reports) = mpsc::channel();
    let metrics = Metrics::new();
    let writer =
        Writer::start(store, metrics.clone(), move |io| durable.send(io).unwrap(), |e| panic!("{e}"));
    for io in 1..=100 {
        writer.push(persist(io, None, None, vec![entry(io + 3, 2)]));
    }
    let mut watermark = IoSeq::ZERO;
    while watermark < IoSeq(100) {
        let next = reports.recv_timeout(Wait::from_secs(30)).expect("the writer makes progress");
        assert!(next > watermark, "the watermark only grows");
        watermark = next;
    }
    writer.close();
    assert_eq!(open(&dir).unwrap().1.durable.log.len(), 103);
    assert!(metrics.render().contains("termgate_fsync_seconds_count"), "{}", metrics.render());
}

#[test]
fn closing_the_writer_finishes_what_is_queued() {
    let dir = filled();
    let (store, _) = open(&dir).unwrap();
    let writer = Writer::start(store, Metrics::new(), |_| (), |e| panic!("{e}"));
    for io in 1..=50 {
        writer.push(persist(io, None, None, vec![entry(io + 3, 2)]));
    }
    writer.close();
    assert_eq!(open(&dir).unwrap().1.durable.log.len(), 53);
}

#[test]
fn opening_leaves_a_database_that_redb_calls_sound() {
    let dir = filled();
    let mut db = Database::open(dir.path().join(FILE_NAME)).unwrap();
    assert!(db.check_integrity().unwrap());
    assert_eq!(db.begin_read().unwrap().list_tables().unwrap().count(), 4);
}

/// The vectors of `proto-spec/storage.md`: name, key, record.
fn vectors() -> Vec<(&'static str, String)> {
    let hex = |bytes: Vec<u8>| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    let named =
        |key: &str, record: Result<Vec<u8>, String>| hex(record.unwrap_or_else(|e| panic!("{key}: {e}")));
    let owner = format::Owner { cluster: "orders".to_owned(), node: NodeId(1), incarnation: 42 };
    let lives = format::Lives { boot: 3, promise_nanos: 150_000_000 };
    let bounds = Bounds { base: LogId::ZERO, last: LogId::new(Term(2), LogIndex(300)) };
    let noop = Entry { id: LogId::new(Term(2), LogIndex(1)), payload: Payload::NoOp { leader: NodeId(1) } };
    let command = Entry {
        id: LogId::new(Term(2), LogIndex(300)),
        payload: Payload::Command(Bytes::from_static(b"hello")),
    };
    let log = |entry: &Entry| format::encode(&entry.id.index.0.to_le_bytes(), entry);
    let first = Format { number: 1, written_by: "0.1.0".to_owned() };
    vec![
        ("`meta` `\"format\"`: 1, \"0.1.0\"", hex(format::seal(b"format", &first.encode()))),
        (
            "`meta` `\"owner\"`: \"orders\", node 1, incarnation 42",
            named("owner", format::encode(b"owner", &owner)),
        ),
        ("`meta` `\"lives\"`: boot 3, 150 ms", named("lives", format::encode(b"lives", &lives))),
        (
            "`raft` `\"hard_state\"`: term 2, voted for 3",
            named("hard_state", format::encode(b"hard_state", &voted(2, Some(3)))),
        ),
        (
            "`raft` `\"membership\"`: voters 1, 2, 3",
            named("membership", format::encode(b"membership", &identity().membership)),
        ),
        ("`raft` `\"bounds\"`: base 0@0, last 300@2", named("bounds", format::encode(b"bounds", &bounds))),
        ("`raft` `\"snapshot\"`: none", named("snapshot", format::encode(b"snapshot", &None::<Snapshot>))),
        (
            "`raft` `\"snapshot\"`: up to 2@1, 9 bytes, digest 07..07, voters 1, 4",
            named("snapshot", format::encode(b"snapshot", &Some(snapshot(2, 1)))),
        ),
        ("`log` 1: no-op of node 1 in term 2", named("log", log(&noop))),
        ("`log` 300: command \"hello\" of term 2", named("log", log(&command))),
    ]
}

#[test]
fn writes_the_bytes_that_the_specification_shows() {
    let spec = include_str!("../../proto-spec/storage.md");
    for (name, bytes) in vectors() {
        let row = format!("| {name} | `{bytes}` |");
        assert!(spec.contains(&row), "proto-spec/storage.md does not show\n{row}");
    }
}
