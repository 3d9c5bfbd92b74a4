//! The content of snapshots, each in a file of its own beside the data file.
//!
//! ```text
//! DIR/snapshots/
//!   00000000000000100000-7-5f0c….snap   index, term and the begin of the digest: whole, flushed, named last
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

const DIRECTORY: &str = "snapshots";
const INCOMING: &str = "incoming";
const OUTGOING: &str = "outgoing";
/// Read and written in pieces of this size.
const PIECE_BYTES: usize = 256 * 1024;
/// The largest piece that is handed out, whatever was asked for: it must fit a frame.
const CHUNK_MAX_BYTES: u32 = 1024 * 1024;
/// An old snapshot that was read so lately is still being fetched (N7).
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
        let dir = data_dir.join(DIRECTORY);
        let place = Place(data_dir.display().to_string());
        fs::create_dir_all(&dir).and_then(|()| sync(data_dir)).map_err(|e| place.unopenable(e))?;
        let snapshots = Self { dir, place, incoming: None, reading: BTreeMap::new() };
        let keep = current.map(|snapshot| name(&snapshot.id));
        for file in snapshots.names()?.into_iter().filter(|file| Some(file) != keep.as_ref()) {
            snapshots.remove(&file)?;
        }
        Ok(snapshots)
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
        if let Some(incoming) = self.incoming.as_ref().filter(|incoming| incoming.snapshot.id == snapshot.id) {
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
            Some(file) => read_full(&file, &mut bytes, offset).map_err(|e| self.failed("reading a snapshot", e))?,
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

fn name(id: &SnapshotId) -> String {
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
