//! The content of snapshots, each in a file of its own beside the data file.
//!
//! ```text
//! DIR/snapshots/
//!   00000000000000100000-7-5f0c….snap   index, term and the digest's first bytes: whole, flushed, named last
//!   incoming                            one that is being fetched
//!   outgoing                            one that is being written
//! ```
//!
//! A file gets its name only when all of it is flushed (ST-12), so a named file that does not read is
//! damage. Which one counts is said by the record in the data file; the others are waste: from a fetch
//! that was overtaken, or from the time before the record changed. They go when the record is durable,
//! and at a start.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use ring::digest::{Context, SHA256};

use super::error::{Place, StorageError};
use crate::clock;
use crate::ids::LogId;
use crate::raft::entry::{Membership, Snapshot, SnapshotId};
use crate::raft::message::{FetchSnapshot, SnapshotChunk};
use crate::registry::machine::Machine;
use crate::registry::machine::snapshot::Decoder;
use crate::time::{Duration, Instant};

pub(super) const DIRECTORY: &str = "snapshots";
const INCOMING: &str = "incoming";
const OUTGOING: &str = "outgoing";
/// Read and written in pieces of this size.
const PIECE_BYTES: usize = 256 * 1024;
/// The largest piece that is handed out, whatever was asked for: it must fit a frame.
const CHUNK_MAX_BYTES: u32 = 1024 * 1024;
/// An old snapshot that was read within this time is taken to be still on its way to somebody (N7).
const IN_USE: Duration = Duration::from_secs(60);

/// The files of one node. Used by one thread.
#[derive(Debug)]
pub struct Snapshots {
    dir: PathBuf,
    place: Place,
    incoming: Option<Incoming>,
    /// Files that are being read, and when last.
    reading: BTreeMap<SnapshotId, (File, Instant)>,
}

#[derive(Debug)]
struct Incoming {
    snapshot: Snapshot,
    file: File,
    have: u64,
}

impl Snapshots {
    /// Makes the directory ready. Everything but `current` is waste and goes.
    ///
    /// # Errors
    /// When the directory can't be made or written.
    pub fn open(data_dir: &Path, current: Option<&Snapshot>) -> Result<Self, StorageError> {
        let snapshots = Self::at(data_dir)?;
        let keep = current.map(|snapshot| name(&snapshot.id));
        for file in snapshots.names()?.into_iter().filter(|file| Some(file) != keep.as_ref()) {
            snapshots.remove(&file)?;
        }
        Ok(snapshots)
    }

    /// The same, and everything stays.
    pub(super) fn at(data_dir: &Path) -> Result<Self, StorageError> {
        let dir = data_dir.join(DIRECTORY);
        let place = Place(data_dir.display().to_string());
        fs::create_dir_all(&dir).and_then(|()| sync(data_dir)).map_err(|e| place.unopenable(e))?;
        Ok(Self { dir, place, incoming: None, reading: BTreeMap::new() })
    }

    /// The state that `snapshot` names.
    ///
    /// # Errors
    /// When its file is missing or damaged: the node's data is then not whole.
    pub fn load(&self, snapshot: &Snapshot) -> Result<Machine, StorageError> {
        let name = name(&snapshot.id);
        let damaged = |why: &str| self.place.corrupt(format!("snapshot {name}: {why}"));
        let file = File::open(self.dir.join(&name)).map_err(|e| damaged(&e.to_string()))?;
        self.decode(file, snapshot)?.ok_or_else(|| damaged("its content is not what was written"))
    }

    /// Writes `machine` down as the state after `last`.
    ///
    /// # Errors
    /// When the disk fails or is full; terminal, like every failed write (ST-8).
    pub fn take(
        &mut self,
        machine: &Machine,
        last: LogId,
        membership: Membership,
    ) -> Result<Snapshot, StorageError> {
        let path = self.dir.join(OUTGOING);
        let written = write_down(machine, &path).map_err(|e| self.failed("writing a snapshot", e))?;
        let (size, digest) = written;
        let snapshot = Snapshot { id: SnapshotId { last, digest }, size, membership };
        self.settle(&path, &snapshot.id)?;
        Ok(snapshot)
    }

    /// Gets ready to receive `snapshot`; returns how many bytes of it are there already. What was
    /// received of another one goes.
    ///
    /// # Errors
    /// When the disk fails or is full.
    pub fn begin(&mut self, snapshot: Snapshot) -> Result<u64, StorageError> {
        if let Some(incoming) = self.incoming.as_ref().filter(|incoming| incoming.snapshot.id == snapshot.id)
        {
            return Ok(incoming.have);
        }
        let path = self.dir.join(INCOMING);
        let file = File::options().read(true).write(true).create(true).truncate(true).open(&path);
        let file = file.map_err(|e| self.failed("receiving a snapshot", e))?;
        self.incoming = Some(Incoming { snapshot, file, have: 0 });
        Ok(0)
    }

    /// Keeps the next piece; returns how many bytes are there now. `None`: nobody waits for it.
    ///
    /// # Errors
    /// When the disk fails or is full.
    pub fn store(&mut self, id: SnapshotId, offset: u64, bytes: &[u8]) -> Result<Option<u64>, StorageError> {
        let Some(incoming) = self.incoming.as_mut().filter(|incoming| incoming.snapshot.id == id) else {
            return Ok(None);
        };
        if offset == incoming.have {
            let written = incoming.file.write_all_at(bytes, offset);
            incoming.have += bytes.len() as u64;
            written.map_err(|e| self.place.io("receiving a snapshot", e))?;
        }
        Ok(Some(incoming.have))
    }

    /// All pieces are there: verifies the whole, makes it durable and gives it its name. `None`: it is
    /// not what was promised, and of no use.
    ///
    /// # Errors
    /// When the disk fails or is full.
    pub fn finish(&mut self, id: SnapshotId) -> Result<Option<Machine>, StorageError> {
        let Some(incoming) = self.incoming.take_if(|incoming| incoming.snapshot.id == id) else {
            return Ok(None);
        };
        let path = self.dir.join(INCOMING);
        let read = File::open(&path).map_err(|e| self.failed("reading a snapshot", e))?;
        let Some(machine) = self.decode(read, &incoming.snapshot)? else { return Ok(None) };
        incoming.file.sync_all().map_err(|e| self.failed("flushing a snapshot", e))?;
        self.settle(&path, &id)?;
        Ok(Some(machine))
    }

    /// A piece of a snapshot of ours; empty when it is not here (any more).
    ///
    /// # Errors
    /// When the disk fails.
    pub fn read(&mut self, wanted: &FetchSnapshot) -> Result<SnapshotChunk, StorageError> {
        let FetchSnapshot { id, offset, length } = *wanted;
        let mut bytes = vec![0; length.min(CHUNK_MAX_BYTES) as usize];
        let count = match self.opened(id)? {
            None => 0,
            Some(file) => {
                read_full(&file, &mut bytes, offset).map_err(|e| self.failed("reading a snapshot", e))?
            }
        };
        bytes.truncate(count);
        Ok(SnapshotChunk { id, offset, checksum: crc32fast::hash(&bytes), bytes: Bytes::from(bytes) })
    }

    /// A start begins with `current`, durably. What is older goes, unless somebody still reads it.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn settled(&mut self, current: SnapshotId) -> Result<(), StorageError> {
        let now = clock::now();
        self.reading.retain(|_, (_, at)| now.since(*at) < IN_USE);
        let in_use: Vec<String> = self.reading.keys().map(name).collect();
        let current = name(&current);
        // Names begin with the index, so their order is that of the log.
        let old = |file: &String| file.ends_with(SUFFIX) && *file < current && !in_use.contains(file);
        for file in self.names()?.into_iter().filter(old) {
            self.remove(&file)?;
        }
        Ok(())
    }

    /// What a panic while working on them means.
    pub fn panicked(&self) -> StorageError {
        self.place.failed("working on a snapshot", "it panicked")
    }

    fn opened(&mut self, id: SnapshotId) -> Result<Option<File>, StorageError> {
        let file = match self.reading.remove(&id) {
            Some((file, _)) => file,
            None => match File::open(self.dir.join(name(&id))) {
                Ok(file) => file,
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(e) => return Err(self.failed("reading a snapshot", e)),
            },
        };
        let handle = file.try_clone().map_err(|e| self.failed("reading a snapshot", e))?;
        self.reading.insert(id, (file, clock::now()));
        Ok(Some(handle))
    }

    /// The state in `file`, when size and digest are those of `snapshot` and it stands where it should.
    fn decode(&self, file: File, snapshot: &Snapshot) -> Result<Option<Machine>, StorageError> {
        let (mut digest, mut size) = (Context::new(&SHA256), 0);
        let mut decoder = Decoder::default();
        let mut file = file;
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            let count = file.read(&mut piece).map_err(|e| self.failed("reading a snapshot", e))?;
            let Some(read) = piece.get(..count).filter(|read| !read.is_empty()) else { break };
            size += count as u64;
            digest.update(read);
            if let Err(why) = decoder.push(read) {
                tracing::error!(%why, "a snapshot can't be read");
                return Ok(None);
            }
        }
        let sound = size == snapshot.size && digest.finish().as_ref() == snapshot.id.digest;
        Ok(decoder.finish().ok().filter(|machine| sound && machine.applied() == snapshot.id.last))
    }

    /// Gives a whole and flushed file its name, durably.
    fn settle(&self, path: &Path, id: &SnapshotId) -> Result<(), StorageError> {
        let named = fs::rename(path, self.dir.join(name(id))).and_then(|()| sync(&self.dir));
        named.map_err(|e| self.failed("naming a snapshot", e))
    }

    fn names(&self) -> Result<Vec<String>, StorageError> {
        let listed = fs::read_dir(&self.dir).and_then(|entries| {
            entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
        });
        listed.map_err(|e| self.failed("listing snapshots", e))
    }

    fn remove(&self, file: &str) -> Result<(), StorageError> {
        fs::remove_file(self.dir.join(file)).map_err(|e| self.failed("removing an old snapshot", e))
    }

    fn failed(&self, doing: &'static str, error: io::Error) -> StorageError {
        self.place.io(doing, error)
    }
}

const SUFFIX: &str = ".snap";

pub(super) fn name(id: &SnapshotId) -> String {
    let digest: String = id.digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    format!("{:020}-{}-{digest}{SUFFIX}", id.last.index.0, id.last.term)
}

/// Writes and flushes; returns size and digest.
fn write_down(machine: &Machine, path: &Path) -> io::Result<(u64, [u8; 32])> {
    let mut file = BufWriter::with_capacity(PIECE_BYTES, File::create(path)?);
    let (mut digest, mut size) = (Context::new(&SHA256), 0);
    machine.encode(|piece| {
        digest.update(piece);
        size += piece.len() as u64;
        file.write_all(piece)
    })?;
    file.into_inner()?.sync_all()?;
    let digest = digest.finish().as_ref().try_into().map_err(io::Error::other)?;
    Ok((size, digest))
}

fn read_full(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut count = 0;
    while let Some(rest) = bytes.get_mut(count..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, offset + count as u64)? {
            0 => break,
            read => count += read,
        }
    }
    Ok(count)
}

fn sync(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;
    use crate::ids::{LogIndex, NodeId, Term};
    use crate::raft::entry::{Entry, Payload};
    use crate::registry::command::{Command, Condition, Op};

    fn at(index: u64) -> LogId {
        LogId::new(Term(1), LogIndex(index))
    }

    /// A state after `last` entries, of some size.
    fn state(last: u64) -> Machine {
        let mut machine = Machine::new(Vec::new());
        for index in 1..=last {
            let value = Bytes::from(vec![index as u8; 500]);
            let op = Op::Put { key: format!("key-{index}"), value, condition: Condition::None };
            let command = postcard::to_stdvec(&Command { decided_in: Term(1), op }).unwrap();
            machine.apply(&Entry { id: at(index), payload: Payload::Command(Bytes::from(command)) });
        }
        machine
    }

    fn open(dir: &TempDir, current: Option<&Snapshot>) -> Snapshots {
        Snapshots::open(dir.path(), current).unwrap()
    }

    fn take(snapshots: &mut Snapshots, last: u64) -> Snapshot {
        snapshots.take(&state(last), at(last), Membership::of_voters([NodeId(1)])).unwrap()
    }

    /// Fetches all of `snapshot`, from `from` to `to`, in pieces of 1000 bytes.
    fn fetch(from: &mut Snapshots, to: &mut Snapshots, snapshot: &Snapshot, mut have: u64) {
        while have < snapshot.size {
            let wanted = FetchSnapshot { id: snapshot.id, offset: have, length: 1000 };
            let chunk = from.read(&wanted).unwrap();
            assert_eq!(crc32fast::hash(&chunk.bytes), chunk.checksum);
            have = to.store(snapshot.id, have, &chunk.bytes).unwrap().unwrap();
        }
    }

    /// ST-12.
    #[test]
    fn a_state_that_was_written_down_is_there_after_a_restart() {
        let dir = TempDir::new().unwrap();
        let snapshot = take(&mut open(&dir, None), 20);
        let back = open(&dir, Some(&snapshot)).load(&snapshot).unwrap();
        assert_eq!((back.applied(), back.digest()), (at(20), state(20).digest()));
    }

    /// ST-12: every byte counts.
    #[test]
    fn refuses_a_snapshot_that_is_damaged_or_gone() {
        let dir = TempDir::new().unwrap();
        let snapshot = take(&mut open(&dir, None), 3);
        let file = dir.path().join(DIRECTORY).join(name(&snapshot.id));
        let sound = fs::read(&file).unwrap();
        for at in (0..sound.len()).step_by(97) {
            let mut damaged = sound.clone();
            damaged[at] ^= 1;
            fs::write(&file, &damaged).unwrap();
            let error = open(&dir, Some(&snapshot)).load(&snapshot).unwrap_err();
            assert!(matches!(error, StorageError::Corrupt { .. }), "byte {at}: {error}");
        }
        fs::write(&file, &sound[..sound.len() - 1]).unwrap();
        open(&dir, Some(&snapshot)).load(&snapshot).unwrap_err();
        fs::remove_file(&file).unwrap();
        let error = open(&dir, Some(&snapshot)).load(&snapshot).unwrap_err().to_string();
        assert!(error.contains(&name(&snapshot.id)), "{error}");
    }

    /// N7.
    #[test]
    fn a_fetch_goes_on_where_it_broke_off_and_ends_with_the_whole() {
        let (leader, follower) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        let (mut leader, mut follower) = (open(&leader, None), open(&follower, None));
        let snapshot = take(&mut leader, 30);
        assert_eq!(follower.begin(snapshot.clone()).unwrap(), 0);
        let half = leader.read(&FetchSnapshot { id: snapshot.id, offset: 0, length: 5000 }).unwrap();
        assert_eq!(follower.store(snapshot.id, 0, &half.bytes).unwrap(), Some(5000));
        assert_eq!(follower.begin(snapshot.clone()).unwrap(), 5000, "another leader offers the same");
        fetch(&mut leader, &mut follower, &snapshot, 5000);
        let machine = follower.finish(snapshot.id).unwrap().expect("a whole snapshot");
        assert_eq!(machine.digest(), state(30).digest());
        assert_eq!(follower.load(&snapshot).unwrap().digest(), machine.digest());
    }

    #[test]
    fn a_fetched_snapshot_that_is_not_what_was_offered_is_of_no_use() {
        let (leader, follower) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        let (mut leader, mut follower) = (open(&leader, None), open(&follower, None));
        let offered = take(&mut leader, 5);
        let other = Snapshot { id: SnapshotId { digest: [0; 32], ..offered.id }, ..offered.clone() };
        follower.begin(other.clone()).unwrap();
        let whole = leader.read(&FetchSnapshot { id: offered.id, offset: 0, length: 1 << 20 }).unwrap();
        follower.store(other.id, 0, &whole.bytes).unwrap();
        assert!(follower.finish(other.id).unwrap().is_none());
        assert_eq!(follower.begin(other).unwrap(), 0, "it begins anew");
    }

    #[test]
    fn what_a_start_does_not_need_goes_and_what_is_being_read_stays() {
        let dir = TempDir::new().unwrap();
        let mut snapshots = open(&dir, None);
        let old = take(&mut snapshots, 1);
        let read = take(&mut snapshots, 2);
        let new = take(&mut snapshots, 3);
        snapshots.read(&FetchSnapshot { id: read.id, offset: 0, length: 10 }).unwrap();
        snapshots.settled(new.id).unwrap();
        assert_eq!(snapshots.names().unwrap().len(), 2);
        let gone = snapshots.read(&FetchSnapshot { id: old.id, offset: 0, length: 10 }).unwrap();
        assert!(gone.bytes.is_empty());
        let snapshots = open(&dir, Some(&new));
        assert_eq!(snapshots.names().unwrap(), [name(&new.id)], "a start knows what it needs");
    }
}
