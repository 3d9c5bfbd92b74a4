//! A start: everything is read and checked, and only then is the new life written.
//!
//! A refused start changes no record, so that it can be tried again after the mend.

use std::collections::BTreeMap;

use redb::{Database, ReadableTable, Table, TableHandle, WriteTransaction};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error::{Place, StorageError};
use super::format::{
    self, Bounds, FORMAT, Format, KEY_BOUNDS, KEY_FORMAT, KEY_HARD_STATE, KEY_LIVES, KEY_MEMBERSHIP,
    KEY_OWNER, KEY_SNAPSHOT, LOG, Lives, META, Owner, PEERS, RAFT,
};
use super::{Identity, Opened, Start};
use crate::ids::{Life, LogId, NodeId};
use crate::raft::entry::{Durable, Entry, HardState, Membership, Snapshot};
use crate::time::Duration;

/// A table whose records have names.
type Named<'txn> = Table<'txn, &'static str, &'static [u8]>;
/// A table whose records have numbers: the log, and the peers.
type Log<'txn> = Table<'txn, u64, &'static [u8]>;

/// Reads what earlier lives left, or lays the ground for the first, and makes this life durable.
pub(super) fn start_life(db: &Database, place: &Place, start: &Start<'_>) -> Result<Opened, StorageError> {
    let txn = super::begin(db, place)?;
    let opened = {
        let fresh = is_fresh(&txn, place)?;
        if fresh && !start.may_be_new {
            return Err(place.corrupt("it holds nothing, not even the first start"));
        }
        let open = |e| place.redb("opening its tables", redb::Error::from(e));
        let mut meta = txn.open_table(META).map_err(open)?;
        let mut raft = txn.open_table(RAFT).map_err(open)?;
        let log = txn.open_table(LOG).map_err(open)?;
        let peers = txn.open_table(PEERS).map_err(open)?;
        if fresh {
            lay_ground(&mut meta, &mut raft, start, place)?;
        }
        let owner = check_owner(&meta, start.identity, place)?;
        let pinned = read_peers(&peers, place)?;
        let durable = Durable { pinned, ..read_durable(&raft, &log, place)? };
        let (boot, promised) = next_life(&mut meta, start.promise, place)?;
        Opened { durable, life: Life { incarnation: owner.incarnation, boot }, promised }
    };
    txn.commit().map_err(|e| place.redb("starting a new life", e))?;
    Ok(opened)
}

/// Reads what a stopped node left, and changes nothing.
pub(super) fn look(db: &Database, place: &Place) -> Result<(Owner, Durable), StorageError> {
    // Never committed.
    let txn = super::begin(db, place)?;
    if is_fresh(&txn, place)? {
        return Err(place.corrupt("it holds nothing, not even the first start"));
    }
    let open = |e| place.redb("opening its tables", redb::Error::from(e));
    let owner = read(&txn.open_table(META).map_err(open)?, KEY_OWNER, place)?;
    let raft = txn.open_table(RAFT).map_err(open)?;
    let log = txn.open_table(LOG).map_err(open)?;
    let durable = read_durable(&raft, &log, place)?;
    Ok((owner, durable))
}

/// Whether nothing was ever written. Tables without ours among them are somebody else's.
fn is_fresh(txn: &WriteTransaction, place: &Place) -> Result<bool, StorageError> {
    let tables = txn.list_tables().map_err(|e| place.redb("listing its tables", e))?;
    let names: Vec<String> = tables.map(|table| table.name().to_owned()).collect();
    if names.is_empty() {
        return Ok(true);
    }
    if names.iter().any(|name| name == META.name()) {
        // First of all: a later format may have other tables.
        check_format(&txn.open_table(META).map_err(|e| place.redb("opening its tables", e))?, place)?;
    }
    for ours in [META.name(), RAFT.name(), LOG.name(), PEERS.name()] {
        if !names.iter().any(|name| name == ours) {
            return Err(place.foreign(format!("it has tables {names:?} and no table {ours:?}")));
        }
    }
    Ok(false)
}

fn lay_ground(
    meta: &mut Named<'_>,
    raft: &mut Named<'_>,
    start: &Start<'_>,
    place: &Place,
) -> Result<(), StorageError> {
    let Start { identity, incarnation, ground, .. } = start;
    // A founding: the log begins behind a snapshot, and the node has reached its term.
    let begin = ground.as_ref().map_or(LogId::ZERO, |snapshot| snapshot.id.last);
    let hard_state = HardState { current_term: begin.term, voted_for: None };
    let format = Format { number: FORMAT, written_by: env!("CARGO_PKG_VERSION").to_owned() };
    let record = format::seal(KEY_FORMAT.as_bytes(), &format.encode());
    meta.insert(KEY_FORMAT, record.as_slice()).map_err(|e| place.redb("writing its format", e))?;
    let owner = Owner { cluster: identity.cluster.clone(), node: identity.node, incarnation: *incarnation };
    put(meta, KEY_OWNER, &owner, place)?;
    put(meta, KEY_LIVES, &Lives { boot: 0, promise_nanos: 0 }, place)?;
    put(raft, KEY_HARD_STATE, &hard_state, place)?;
    put(raft, KEY_MEMBERSHIP, &identity.membership, place)?;
    put(raft, KEY_SNAPSHOT, ground, place)?;
    put(raft, KEY_BOUNDS, &Bounds { base: begin, last: begin }, place)
}

/// ST-2: a later format is refused by name, before anything else is decoded.
fn check_format(meta: &Named<'_>, place: &Place) -> Result<(), StorageError> {
    let record = get(meta, KEY_FORMAT, place)?;
    let format = format::unseal(KEY_FORMAT.as_bytes(), &record).and_then(Format::decode);
    match format {
        Some(format) if format.number == FORMAT => Ok(()),
        Some(format) if format.number > FORMAT => Err(StorageError::NewerFormat {
            place: place.0.clone(),
            found: format.number,
            written_by: format.written_by,
            ours: env!("CARGO_PKG_VERSION"),
            supported: FORMAT,
        }),
        _ => Err(place.corrupt("record \"format\" does not decode")),
    }
}

/// ST-4: a directory serves one node of one cluster, for ever.
fn check_owner(meta: &Named<'_>, identity: &Identity, place: &Place) -> Result<Owner, StorageError> {
    let owner: Owner = read(meta, KEY_OWNER, place)?;
    if owner.cluster != identity.cluster {
        return Err(StorageError::OtherCluster {
            place: place.0.clone(),
            found: owner.cluster,
            configured: identity.cluster.clone(),
        });
    }
    if owner.node != identity.node {
        return Err(StorageError::OtherNode {
            place: place.0.clone(),
            found: owner.node,
            configured: identity.node,
        });
    }
    Ok(owner)
}

/// ST-5: the boot counter and the promise are durable before anything is said in this life.
fn next_life(
    meta: &mut Named<'_>,
    promise: Duration,
    place: &Place,
) -> Result<(u64, Duration), StorageError> {
    let earlier: Lives = read(meta, KEY_LIVES, place)?;
    let promise_nanos = u64::try_from(promise.as_nanos()).unwrap_or(u64::MAX);
    let lives = Lives {
        boot: earlier.boot.saturating_add(1),
        promise_nanos: earlier.promise_nanos.max(promise_nanos),
    };
    put(meta, KEY_LIVES, &lives, place)?;
    Ok((lives.boot, Duration::from_nanos(earlier.promise_nanos)))
}

fn read_durable(raft: &Named<'_>, log: &Log<'_>, place: &Place) -> Result<Durable, StorageError> {
    let hard_state: HardState = read(raft, KEY_HARD_STATE, place)?;
    let first: Membership = read(raft, KEY_MEMBERSHIP, place)?;
    let snapshot: Option<Snapshot> = read(raft, KEY_SNAPSHOT, place)?;
    let bounds: Bounds = read(raft, KEY_BOUNDS, place)?;
    let log = read_log(log, &bounds, place)?;
    if bounds.last.term > hard_state.current_term {
        let term = hard_state.current_term;
        let detail = format!("its last entry {} is of a later term than current_term {term}", bounds.last);
        return Err(place.corrupt(detail));
    }
    let start = snapshot.as_ref().map_or(LogId::ZERO, |snapshot| snapshot.id.last);
    if bounds.base > start || start > bounds.last {
        let detail =
            format!("the log lies between {} and {}, the snapshot ends at {start}", bounds.base, bounds.last);
        return Err(place.corrupt(detail));
    }
    let membership = snapshot.as_ref().map_or(first, |snapshot| snapshot.membership.clone());
    Ok(Durable { hard_state, snapshot, membership, base: bounds.base, log, ..Durable::default() })
}

/// ST-13: which incarnation each member was first heard with.
fn read_peers(peers: &Log<'_>, place: &Place) -> Result<BTreeMap<NodeId, u64>, StorageError> {
    let mut pinned = BTreeMap::new();
    for item in peers.iter().map_err(|e| place.redb("reading its peers", e))? {
        let (key, record) = item.map_err(|e| place.redb("reading its peers", e))?;
        let key = key.value();
        let incarnation = format::decode(&key.to_le_bytes(), record.value());
        let incarnation = incarnation.map_err(|why| place.corrupt(format!("peer {key}: {why}")))?;
        pinned.insert(NodeId(key), incarnation);
    }
    Ok(pinned)
}

/// ST-6: every entry is there, once, sound, in order, and the log ends where it was left. What lies
/// before its base is waste that was not cleared yet (ST-11).
fn read_log(log: &Log<'_>, bounds: &Bounds, place: &Place) -> Result<Vec<Entry>, StorageError> {
    let mut entries = Vec::new();
    let mut last = bounds.base;
    let kept = bounds.base.index.next().0..;
    for item in log.range(kept).map_err(|e| place.redb("reading the log", e))? {
        let (key, record) = item.map_err(|e| place.redb("reading the log", e))?;
        let entry = entry(key.value(), record.value(), place)?;
        if entry.id.index != last.index.next() || entry.id.term < last.term {
            return Err(place.corrupt(format!("log entry {} does not follow {last}", entry.id)));
        }
        last = entry.id;
        entries.push(entry);
    }
    match last == bounds.last {
        true => Ok(entries),
        false => Err(place.corrupt(format!("the log ends at {last} and was left at {}", bounds.last))),
    }
}

/// One log record, verified (ST-3).
pub(super) fn entry(key: u64, record: &[u8], place: &Place) -> Result<Entry, StorageError> {
    let corrupt = |why: &str| place.corrupt(format!("log entry {key}: {why}"));
    let entry: Entry = format::decode(&key.to_le_bytes(), record).map_err(corrupt)?;
    match entry.id.index.0 == key {
        true => Ok(entry),
        false => Err(corrupt("it names another index")),
    }
}

/// Writes one named record.
pub(super) fn put<T: Serialize>(
    table: &mut Named<'_>,
    key: &'static str,
    value: &T,
    place: &Place,
) -> Result<(), StorageError> {
    let record = format::encode(key.as_bytes(), value).map_err(|e| place.misuse(e))?;
    table.insert(key, record.as_slice()).map_err(|e| place.redb("writing a record", e))?;
    Ok(())
}

fn get(table: &Named<'_>, key: &'static str, place: &Place) -> Result<Vec<u8>, StorageError> {
    match table.get(key).map_err(|e| place.redb("reading a record", e))? {
        Some(record) => Ok(record.value().to_vec()),
        None => Err(place.corrupt(format!("record {key:?} is missing"))),
    }
}

fn read<T: DeserializeOwned>(table: &Named<'_>, key: &'static str, place: &Place) -> Result<T, StorageError> {
    let record = get(table, key, place)?;
    format::decode(key.as_bytes(), &record).map_err(|why| place.corrupt(format!("record {key:?}: {why}")))
}
