//! The fence on disk: one small file that is replaced as a whole.
//!
//! ```text
//! termgate-fence 1
//! {"resource":"orders","term":42,"raised_by":1}
//! 66d8c85d                                          CRC-32 of the line above
//! ```
//!
//! A raise writes `fence.tmp`, fsyncs it, renames it over `fence` and fsyncs the directory; only
//! then is the new term durable. A crash at any point leaves the old file or the new one. A file
//! that can't be read is refused, never taken for "no fence": forgetting the fence would let the
//! old leader's writes in again.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::fencing::verifier::{Fence, MAX_TERM};
use crate::ids::{NodeId, Term};

const FIRST_LINE: &str = "termgate-fence 1";
const NAME: &str = "fence";
const TEMPORARY: &str = "fence.tmp";
const LOCK: &str = "lock";
/// A fence file is some hundred bytes; anything longer is not one, and is not read into memory.
const MAX_FILE: u64 = 64 * 1024;

#[derive(Debug, Serialize, Deserialize)]
struct Record {
    resource: String,
    term: Term,
    raised_by: Option<NodeId>,
}

/// Why the stored fence can't be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file system refused.
    #[error("cannot use {path}: {source}; check the directory, its owner and free space")]
    Io {
        /// Which file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The content is not a fence.
    #[error(
        "{path} is corrupt ({why}): restore it, or find the highest term of the cluster with \
         'termgate status', remove the file, and let the leader raise the fence again"
    )]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: &'static str,
    },
    /// It belongs to another resource.
    #[error("{path} holds the fence of {found:?}, not of {expected:?}: give each guard its own data_dir")]
    OtherResource {
        /// The file.
        path: PathBuf,
        /// The resource in the file.
        found: String,
        /// The configured one.
        expected: String,
    },
    /// Another guard has it open.
    #[error("{path} is in use by another guard: stop it, or give this one its own data_dir")]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// An earlier write failed; what is on disk is uncertain.
    #[error("an earlier write of the fence failed: check the disk and restart the guard")]
    Failed,
}

/// The file, locked for this process.
#[derive(Debug)]
pub struct FenceStore {
    dir: PathBuf,
    resource: String,
    stored: Option<Fence>,
    /// After a failed fsync nobody knows what is on disk; this store never writes again.
    failed: bool,
    _lock: File,
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::Io { path, source }
}

fn render(record: &Record) -> String {
    let line = serde_json::to_string(record).expect("numbers and a name are JSON");
    format!("{FIRST_LINE}\n{line}\n{:08x}\n", crc32fast::hash(line.as_bytes()))
}

fn parse(text: &str) -> Result<Record, &'static str> {
    let mut lines = text.lines();
    if lines.next() != Some(FIRST_LINE) {
        return Err("unknown first line");
    }
    let (Some(line), Some(sum), None) = (lines.next(), lines.next(), lines.next()) else {
        return Err("not three lines");
    };
    if u32::from_str_radix(sum, 16) != Ok(crc32fast::hash(line.as_bytes())) {
        return Err("checksum mismatch");
    }
    let record: Record = serde_json::from_str(line).map_err(|_| "not a fence record")?;
    if record.term == Term::ZERO || record.term > MAX_TERM {
        return Err("impossible term");
    }
    Ok(record)
}

impl FenceStore {
    /// Opens the directory, makes it when it is missing, and reads the fence of `resource`.
    pub fn open(dir: &Path, resource: &str) -> Result<Self, StoreError> {
        fs::create_dir_all(dir).map_err(io_error(dir))?;
        let lock = File::create(dir.join(LOCK)).map_err(io_error(dir))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)
            .map_err(|_| StoreError::InUse { path: dir.to_owned() })?;
        let stored = Self::read(&dir.join(NAME), resource)?;
        let store =
            Self { dir: dir.to_owned(), resource: resource.to_owned(), stored, failed: false, _lock: lock };
        // The directory may be new: its own entry has to survive a crash too.
        sync_dir(dir.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")))?;
        sync_dir(dir)?;
        Ok(store)
    }

    fn read(path: &Path, resource: &str) -> Result<Option<Fence>, StoreError> {
        let file = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(io_error(path))?,
        };
        let corrupt = |why| StoreError::Corrupt { path: path.to_owned(), why };
        let mut bytes = Vec::new();
        file.take(MAX_FILE).read_to_end(&mut bytes).map_err(io_error(path))?;
        let text = String::from_utf8(bytes).map_err(|_| corrupt("not text"))?;
        let record = parse(&text).map_err(corrupt)?;
        if record.resource != resource {
            let (found, expected) = (record.resource, resource.to_owned());
            return Err(StoreError::OtherResource { path: path.to_owned(), found, expected });
        }
        Ok(Some(Fence { term: record.term, raised_by: record.raised_by }))
    }

    /// What is on disk.
    pub const fn stored(&self) -> Option<Fence> {
        self.stored
    }

    /// Makes `fence` durable; when this returns without an error it survives a crash. Blocks for
    /// two fsyncs. A fence that is not higher than the stored one is durable already.
    pub fn save(&mut self, fence: Fence) -> Result<(), StoreError> {
        if self.failed {
            return Err(StoreError::Failed);
        }
        if self.stored.is_some_and(|stored| fence.term <= stored.term) {
            return Ok(());
        }
        let saved = self.replace(fence);
        self.failed = saved.is_err();
        saved?;
        self.stored = Some(fence);
        Ok(())
    }

    fn replace(&self, fence: Fence) -> Result<(), StoreError> {
        let record = Record { resource: self.resource.clone(), term: fence.term, raised_by: fence.raised_by };
        let temporary = self.dir.join(TEMPORARY);
        let mut file = File::create(&temporary).map_err(io_error(&temporary))?;
        file.write_all(render(&record).as_bytes()).map_err(io_error(&temporary))?;
        file.sync_all().map_err(io_error(&temporary))?;
        fs::rename(&temporary, self.dir.join(NAME)).map_err(io_error(&temporary))?;
        sync_dir(&self.dir)
    }
}

fn sync_dir(dir: &Path) -> Result<(), StoreError> {
    File::open(dir).and_then(|opened| opened.sync_all()).map_err(io_error(dir))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fence(term: u64) -> Fence {
        Fence { term: Term(term), raised_by: Some(NodeId(1)) }
    }

    fn open(dir: &Path) -> Result<FenceStore, StoreError> {
        FenceStore::open(dir, "orders")
    }

    /// A guard of a later version must read what this one has written.
    #[test]
    fn the_file_has_the_form_that_is_shown_above() {
        let record = Record { resource: "orders".into(), term: Term(42), raised_by: Some(NodeId(1)) };
        let shown = "termgate-fence 1\n{\"resource\":\"orders\",\"term\":42,\"raised_by\":1}\n66d8c85d\n";
        assert_eq!(render(&record), shown);
    }

    #[test]
    fn finds_the_highest_saved_fence_again() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut store = open(dir.path()).expect("opens");
        assert_eq!(store.stored(), None);
        store.save(fence(7)).expect("saves");
        store.save(fence(6)).expect("is covered by 7");
        drop(store);
        assert_eq!(open(dir.path()).expect("opens").stored(), Some(fence(7)));
    }

    #[test]
    fn ignores_a_half_written_temporary_file() {
        let dir = tempfile::tempdir().expect("a directory");
        open(dir.path()).expect("opens").save(fence(7)).expect("saves");
        fs::write(dir.path().join(TEMPORARY), "termgate-fence 1\n{\"re").expect("writes");
        assert_eq!(open(dir.path()).expect("opens").stored(), Some(fence(7)));
    }

    #[test]
    fn refuses_a_fence_with_any_byte_changed() {
        let dir = tempfile::tempdir().expect("a directory");
        open(dir.path()).expect("opens").save(fence(7)).expect("saves");
        let path = dir.path().join(NAME);
        let good = fs::read(&path).expect("reads");
        for at in 0..good.len() - 1 {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(&path, &bad).expect("writes");
            assert!(matches!(open(dir.path()), Err(StoreError::Corrupt { .. })), "byte {at}");
        }
        fs::write(&path, "").expect("writes");
        assert!(matches!(open(dir.path()), Err(StoreError::Corrupt { .. })), "empty is not unfenced");
    }

    #[test]
    fn refuses_the_fence_of_another_resource() {
        let dir = tempfile::tempdir().expect("a directory");
        open(dir.path()).expect("opens").save(fence(7)).expect("saves");
        let other = FenceStore::open(dir.path(), "billing");
        assert!(matches!(other, Err(StoreError::OtherResource { .. })));
    }

    #[test]
    fn refuses_a_directory_in_use() {
        let dir = tempfile::tempdir().expect("a directory");
        let _first = open(dir.path()).expect("opens");
        assert!(matches!(open(dir.path()), Err(StoreError::InUse { .. })));
    }

    #[test]
    fn never_writes_again_after_a_failure() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut store = open(dir.path()).expect("opens");
        fs::create_dir(dir.path().join(TEMPORARY)).expect("a directory in the way");
        assert!(matches!(store.save(fence(7)), Err(StoreError::Io { .. })));
        fs::remove_dir(dir.path().join(TEMPORARY)).expect("removes");
        assert!(matches!(store.save(fence(7)), Err(StoreError::Failed)));
    }
}
