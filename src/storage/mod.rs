//! What a node must not forget: its vote, its term and its log, in one redb file.
//!
//! The idea is to do little and to check everything. A node's whole durable state is four small tables
//! (and the snapshots' files), written by one thread, read once at start. What is written is exactly the queue of
//! [`Persist`]s that the core made, in its order; a transaction takes any number of them (group
//! commit) and either all or none of them are there after a crash. So hard state and log can never
//! disagree about which came first.
//!
//! | file | idea |
//! |---|---|
//! | `mod` | [`Store`]: open with every check, write one batch durably |
//! | `directory` | the lock, and a first start that is all or nothing |
//! | `format` | the records and their checksums |
//! | `header` | which of redb's two commits a start reads |
//! | `load` | what a start reads, and what it refuses |
//! | `snapshots` | the content of snapshots, each in a file of its own |
//! | `founding` | the directory of a new cluster that begins with an old state |
//! | `look` | reads the directory of a stopped node |
//! | `backup` | the state and what it is, in one file for another day |
//! | `writer` | the thread that commits, because a commit blocks |
//! | `error` | what went wrong and how to mend it |
//!
//! The walk of a write: `Writer::push` queues it and returns; the thread takes all that is queued,
//! calls [`Store::write`], and reports the last one's [`IoSeq`] as durable. The core counts nothing
//! before that report.
//!
//! **Two flushes per commit.** redb can commit with one flush: data and the switch to it go out
//! together, and a start after a crash verifies checksums and takes the older commit when the newer
//! one does not verify. That cannot tell a commit that was never finished from one that was
//! acknowledged and later damaged: it would hand back an older vote without a word. With two-phase
//! commits the switch is flushed after the data, so recovery never looks at the older commit, damage
//! is reported as damage, and a second crash during recovery changes nothing (redb fixed a
//! roll-back there in 4.3 that two-phase commits never had). Group commit pays for the second flush.
//! The quick repair mode is off: it makes every commit write the allocator's state to save a walk
//! over the file after a crash, and a start walks the file anyway, to verify it.
//!
//! **The first failure is the last** (S1). After a failed write or flush nothing is retried: the
//! kernel may have dropped the pages and still call the next flush a success.
//!
//! **A snapshot** is content, in a file of its own, and a record that names it. The content is written,
//! flushed and named first; the record that makes a start begin with it, the new beginning of the log and
//! the membership then change in one transaction (N8). What lies before the log's beginning is cleared a
//! little with each later transaction: a hundred thousand deletions at once would stall the disk.
//!
//! Left out: reading entries back while running (the core keeps its log), a reserve of free space, repair
//! of a damaged directory (the node is added anew instead), and shrinking the remembered promise, which
//! only grows.

pub mod backup;
mod directory;
mod error;
mod format;
pub mod founding;
mod header;
mod load;
pub mod look;
pub mod snapshots;
mod writer;

use std::fs::File;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use redb::backends::FileBackend;
use redb::{Builder, Database, Durability, ReadableTable, StorageBackend, Table, WriteTransaction};

pub use error::StorageError;
pub use writer::Writer;

use error::Place;
use format::{Bounds, KEY_BOUNDS, KEY_HARD_STATE, KEY_SNAPSHOT, LOG, PEERS, RAFT};
use header::{ByNumber, Trial};

use crate::ids::{IoSeq, Life, LogId, LogIndex, NodeId};
use crate::raft::entry::{Compaction, Durable, Entry, HardState, Membership, Persist, Snapshot};
use crate::time::Duration;

/// The data file.
pub const FILE_NAME: &str = "termgate.redb";

/// Memory for redb's page cache. The log is read once, at start, and the inner pages of four small
/// trees fit many times over; redb's own default (1 GiB) would be most of a node's memory.
const CACHE_BYTES: usize = 4 * 1024 * 1024;

/// Entries before the log's beginning that one transaction clears: a few pages' worth.
const CLEARED_AT_ONCE: usize = 1024;

/// Whose data it must be. The membership is written at the first start and ignored later: then the
/// log knows better.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The cluster's name.
    pub cluster: String,
    /// This node.
    pub node: NodeId,
    /// The first membership.
    pub membership: Membership,
}

/// What a start found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// Hard state, membership and log.
    pub durable: Durable,
    /// This life; already durable.
    pub life: Life,
    /// The longest promise any earlier life may have given. Zero at the first start.
    pub promised: Duration,
}

/// The open data directory of one node; holds its lock.
#[derive(Debug)]
pub struct Store {
    db: Database,
    place: Place,
    tip: Tip,
    stopped: bool,
    /// Held as long as the store; the last field, so that it is released after the file is closed.
    lock: Option<File>,
}

/// What a start brings with it.
#[derive(Debug)]
struct Start<'a> {
    identity: &'a Identity,
    /// What this life will promise its voters at most.
    promise: Duration,
    /// For a directory that is made now.
    incarnation: u64,
    /// What such a directory begins with: nothing, but in a cluster that is founded on an earlier one's state.
    ground: Option<Snapshot>,
    /// Whether the data file may be one that is made now. A file without content is damage otherwise,
    /// and must not be taken for a node that never voted.
    may_be_new: bool,
}

/// What the last commit left, for checking the next one.
#[derive(Debug, Clone, Copy)]
struct Tip {
    hard_state: HardState,
    bounds: Bounds,
    io: Option<IoSeq>,
}

impl Store {
    /// Opens `dir`, making it when it is missing, and starts a new life in it. `promise` is how long
    /// this life will promise its voters; it is durable before this returns.
    ///
    /// # Errors
    ///
    /// When the directory is in use, was made for another node or cluster or by a later version, is
    /// damaged in any way, or can't be written.
    pub fn open(dir: &Path, identity: &Identity, promise: Duration) -> Result<(Self, Opened), StorageError> {
        let place = Place(dir.display().to_string());
        let lock = directory::lock(dir, &place)?;
        let (file, path) = directory::open_or_make(dir, &place)?;
        let backend = FileBackend::new(file).map_err(|e| place.redb("opening it", e))?;
        let may_be_new = directory::is_new(&path);
        let start = Start { identity, promise, incarnation: rand::random(), ground: None, may_be_new };
        let (mut store, opened) = Self::open_in(place, backend, &start)?;
        directory::settle(dir, &path).map_err(|e| store.place.unopenable(e))?;
        store.lock = Some(lock);
        Ok((store, opened))
    }

    /// Opens a store over any backend: the simulator's and the tests' disks. `incarnation` is used
    /// only when the backend is empty, so that a seed decides it.
    ///
    /// A backend that lost power during its very first open, before this returned, may be left
    /// without a readable header. Nothing was promised yet: the caller starts again with an empty
    /// one, as [`Store::open`] does with its half-made file.
    ///
    /// # Errors
    ///
    /// As [`Store::open`].
    pub fn open_with_backend(
        backend: impl StorageBackend,
        identity: &Identity,
        promise: Duration,
        incarnation: u64,
    ) -> Result<(Self, Opened), StorageError> {
        let start = Start { identity, promise, incarnation, ground: None, may_be_new: true };
        Self::open_in(Place("(given backend)".to_owned()), backend, &start)
    }

    fn open_in(
        place: Place,
        backend: impl StorageBackend,
        start: &Start<'_>,
    ) -> Result<(Self, Opened), StorageError> {
        let (db, opened) = read_all(&place, backend, |db| load::start_life(db, &place, start))?;
        let last = opened.durable.log.last().map_or(opened.durable.base, |entry| entry.id);
        let tip = Tip {
            hard_state: opened.durable.hard_state,
            bounds: Bounds { base: opened.durable.base, last },
            io: None,
        };
        Ok((Self { db, place, tip, stopped: false, lock: None }, opened))
    }

    /// ST-1: makes all of `batch` durable, in order, in one transaction: when this returns, a power cut
    /// loses none of it.
    ///
    /// # Errors
    ///
    /// When the disk fails or is full, or the batch breaks a rule of the queue. ST-8: every error is
    /// terminal: later calls fail without touching the disk.
    pub fn write(&mut self, batch: &[Persist]) -> Result<(), StorageError> {
        if self.stopped {
            return Err(self.place.stopped());
        }
        self.stopped = true; // also when the commit panics
        self.tip = self.commit(batch)?;
        self.stopped = false;
        Ok(())
    }

    fn commit(&self, batch: &[Persist]) -> Result<Tip, StorageError> {
        let txn = begin(&self.db, &self.place)?;
        let mut tip = self.tip;
        {
            let mut log = txn.open_table(LOG).map_err(|e| self.place.redb("opening the log", e))?;
            let mut raft = txn.open_table(RAFT).map_err(|e| self.place.redb("opening its state", e))?;
            for persist in batch {
                tip = self.apply(&mut log, tip, persist)?;
                self.pin(&txn, &persist.pins)?;
                if let Some(compaction) = &persist.compact {
                    load::put(&mut raft, KEY_SNAPSHOT, &Some(&compaction.snapshot), &self.place)?;
                }
            }
            self.clear(&mut log, &tip.bounds)?;
            load::put(&mut raft, KEY_HARD_STATE, &tip.hard_state, &self.place)?;
            load::put(&mut raft, KEY_BOUNDS, &tip.bounds, &self.place)?;
        }
        self.check_terms(&tip)?;
        txn.commit().map_err(|e| self.place.redb("committing", e))?;
        Ok(tip)
    }

    /// One element of the queue: hard state, then the log's new beginning, truncation, new entries.
    fn apply(
        &self,
        log: &mut Table<'_, u64, &'static [u8]>,
        mut tip: Tip,
        persist: &Persist,
    ) -> Result<Tip, StorageError> {
        if tip.io.is_some_and(|io| persist.io <= io) {
            return Err(self.place.misuse(format!("write {} came twice or late", persist.io)));
        }
        tip.io = Some(persist.io);
        if let Some(new) = persist.hard_state {
            self.check_hard_state(&tip.hard_state, &new)?;
            tip.hard_state = new;
        }
        if let Some(compaction) = &persist.compact {
            tip.bounds = self.compact(log, &tip.bounds, compaction)?;
        }
        if let Some(from) = persist.truncate_from {
            tip.bounds.last = self.truncate(log, &tip.bounds, from)?;
        }
        for entry in &persist.append {
            self.append(log, &tip.bounds.last, entry)?;
            tip.bounds.last = entry.id;
        }
        Ok(tip)
    }

    /// ST-13: what is first heard of a member stays.
    fn pin(&self, txn: &WriteTransaction, pins: &[(NodeId, u64)]) -> Result<(), StorageError> {
        if pins.is_empty() {
            return Ok(());
        }
        let mut peers = txn.open_table(PEERS).map_err(|e| self.place.redb("opening its peers", e))?;
        for (node, incarnation) in pins {
            let key = node.0;
            let record = format::encode(&key.to_le_bytes(), incarnation).map_err(|e| self.place.misuse(e))?;
            let earlier =
                peers.insert(key, record.as_slice()).map_err(|e| self.place.redb("noting a peer", e))?;
            if earlier.is_some() {
                return Err(self.place.misuse(format!("node {node} was known already")));
            }
        }
        Ok(())
    }

    /// ST-11: the log begins later. Its entries stay, to be cleared, unless they would be taken for the
    /// new ones.
    fn compact(
        &self,
        log: &mut Table<'_, u64, &'static [u8]>,
        bounds: &Bounds,
        compaction: &Compaction,
    ) -> Result<Bounds, StorageError> {
        let (base, last) = (compaction.base, compaction.snapshot.id.last);
        if base < bounds.base || base > last {
            return Err(self
                .place
                .misuse(format!("the log would begin after {base}, the snapshot ends at {last}")));
        }
        if compaction.keeps_tail {
            let held = match log.get(base.index.0).map_err(|e| self.place.redb("compacting the log", e))? {
                // At the beginning there may be waste: what a snapshot has replaced.
                Some(record) if base != bounds.base => {
                    load::entry(base.index.0, record.value(), &self.place)?.id
                }
                _ => bounds.base,
            };
            if held != base {
                return Err(self
                    .place
                    .misuse(format!("the log holds {held} where it would begin after {base}")));
            }
            return Ok(Bounds { base, last: bounds.last });
        }
        log.retain_in(base.index.next().0.., |_, _| false)
            .map_err(|e| self.place.redb("compacting the log", e))?;
        Ok(Bounds { base, last: base })
    }

    /// Clears some of what lies before the log's beginning.
    fn clear(&self, log: &mut Table<'_, u64, &'static [u8]>, bounds: &Bounds) -> Result<(), StorageError> {
        let failed = |e| self.place.redb("clearing the log", e);
        let waste = log.range(..=bounds.base.index.0).map_err(failed)?;
        let keys = waste.take(CLEARED_AT_ONCE).map(|item| item.map(|(key, _)| key.value()));
        let keys = keys.collect::<Result<Vec<u64>, _>>().map_err(failed)?;
        for key in keys {
            log.remove(key).map_err(failed)?;
        }
        Ok(())
    }

    fn truncate(
        &self,
        log: &mut Table<'_, u64, &'static [u8]>,
        bounds: &Bounds,
        from: LogIndex,
    ) -> Result<LogId, StorageError> {
        if from <= bounds.base.index {
            return Err(self.place.misuse(format!("truncation from {from}, before the start of the log")));
        }
        let doing = "truncating the log";
        log.retain_in(from.0.., |_, _| false).map_err(|e| self.place.redb(doing, e))?;
        if from > bounds.last.index {
            return Ok(bounds.last);
        }
        match log.last().map_err(|e| self.place.redb(doing, e))? {
            Some((key, record)) if key.value() > bounds.base.index.0 => {
                Ok(load::entry(key.value(), record.value(), &self.place)?.id)
            }
            _ => Ok(bounds.base),
        }
    }

    fn append(
        &self,
        log: &mut Table<'_, u64, &'static [u8]>,
        last: &LogId,
        entry: &Entry,
    ) -> Result<(), StorageError> {
        if entry.id.index != last.index.next() || entry.id.term < last.term {
            return Err(self.place.misuse(format!("entry {} does not follow {last}", entry.id)));
        }
        let key = entry.id.index.0;
        let record = format::encode(&key.to_le_bytes(), entry).map_err(|e| self.place.misuse(e))?;
        log.insert(key, record.as_slice()).map_err(|e| self.place.redb("appending to the log", e))?;
        Ok(())
    }

    /// ST-7: terms never go back, and a vote is never taken back within its term (V1, V2, V3).
    fn check_hard_state(&self, old: &HardState, new: &HardState) -> Result<(), StorageError> {
        let kept_vote = old.voted_for.is_none() || old.voted_for == new.voted_for;
        if new.current_term > old.current_term || (new.current_term == old.current_term && kept_vote) {
            return Ok(());
        }
        Err(self.place.misuse(format!(
            "hard state would go from term {} voted {:?} to term {} voted {:?}",
            old.current_term, old.voted_for, new.current_term, new.voted_for
        )))
    }

    /// No entry of a term that the node has not durably reached.
    fn check_terms(&self, tip: &Tip) -> Result<(), StorageError> {
        if tip.bounds.last.term <= tip.hard_state.current_term {
            return Ok(());
        }
        let (last, term) = (tip.bounds.last, tip.hard_state.current_term);
        Err(self.place.misuse(format!("entry {last} is of a later term than current_term {term}")))
    }
}

/// Opens the database and reads it. redb may panic on a damaged file; for whoever starts the node that is
/// damage like any other.
fn read_all<T>(
    place: &Place,
    backend: impl StorageBackend,
    read: impl FnOnce(&Database) -> Result<T, StorageError>,
) -> Result<(Database, T), StorageError> {
    let opened = catch_unwind(AssertUnwindSafe(|| {
        let db = open_database(place, backend)?;
        let found = read(&db)?;
        Ok((db, found))
    }));
    opened.unwrap_or_else(|_| Err(place.corrupt("redb stopped while reading it")))
}

/// A transaction that is durable when its commit returns; see the module on why two phases.
fn begin(db: &Database, place: &Place) -> Result<WriteTransaction, StorageError> {
    let mut txn = db.begin_write().map_err(|e| place.redb("beginning a transaction", e))?;
    txn.set_durability(Durability::Immediate).map_err(|e| place.failed("beginning", e.to_string()))?;
    txn.set_two_phase_commit(true);
    Ok(txn)
}

/// ST-14: of two commits, the one with the higher number, if it is whole.
fn open_database(place: &Place, backend: impl StorageBackend) -> Result<Database, StorageError> {
    if !header::points_at_the_older(&backend) {
        return open_verified(place, backend);
    }
    let backend = Arc::new(backend);
    let trial = Trial::new(Arc::clone(&backend)).map_err(|e| place.unopenable(e))?;
    drop(open_verified(place, trial)?);
    open_verified(place, ByNumber::new(backend))
}

fn open_verified(place: &Place, backend: impl StorageBackend) -> Result<Database, StorageError> {
    let mut builder = Builder::new();
    // Verify every page before any of it is believed (S4): the start reads the whole file anyway.
    builder.set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true);
    builder.create_with_backend(backend).map_err(|e| match e {
        redb::DatabaseError::Storage(redb::StorageError::Io(e)) if e.kind() == io::ErrorKind::InvalidData => {
            place.foreign(e.to_string())
        }
        e => place.redb("opening it", e),
    })
}

#[cfg(test)]
mod tests;
