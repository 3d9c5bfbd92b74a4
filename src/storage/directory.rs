//! The directory around the data file: one lock, and a first start that is all or nothing.
//!
//! ST-10: a data file appears under its name only when it is complete: it is made under [`NEW_NAME`],
//! given its first life, flushed, and renamed. So a file under its name that can't be read is
//! damage and never a half-made one, and what a power cut leaves of a first start is thrown away:
//! a node that had not started has promised nothing to anybody.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Advice, fadvise};

use super::FILE_NAME;
use super::error::{Place, StorageError};

/// The data file while it is being made.
const NEW_NAME: &str = "termgate.redb.new";
/// Locked by the process that uses the directory. Its content means nothing.
const LOCK_NAME: &str = "lock";

/// ST-9: takes the directory for this process, making it when it is missing. The lock lasts as long as the
/// file is open, and ends with the process however that ends.
pub(super) fn lock(dir: &Path, place: &Place) -> Result<File, StorageError> {
    create_dir(dir).map_err(|e| place.unopenable(e))?;
    let file = open(&dir.join(LOCK_NAME)).map_err(|e| place.unopenable(e))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StorageError::InUse { place: place.0.clone() }),
        Err(TryLockError::Error(e)) => Err(place.unopenable(e)),
    }
}

/// The data file, or an empty one under [`NEW_NAME`], and its path.
pub(super) fn open_or_make(dir: &Path, place: &Place) -> Result<(File, PathBuf), StorageError> {
    let path = dir.join(FILE_NAME);
    match File::options().read(true).write(true).open(&path) {
        Ok(file) if file.metadata().is_ok_and(|meta| meta.len() > 0) => {
            forget_cached(&file).map_err(|e| place.unopenable(e))?;
            return Ok((file, path));
        }
        // redb would take an empty file for a new one, and the node would forget its votes.
        Ok(_) => return Err(place.corrupt(format!("{FILE_NAME} is empty"))),
        Err(e) if e.kind() == ErrorKind::NotFound => (),
        Err(e) => return Err(place.unopenable(e)),
    }
    make(dir, place)
}

/// ST-15: makes the next reads those of the disk. After a failed flush the kernel may call a page clean that never
/// reached the disk, and go on showing it: a node that started from it would rely on a vote that the next power
/// cut takes back (Rebello et al., "Can Applications Recover from fsync Failures?", 2020). What a killed process
/// left to be written is written first.
fn forget_cached(file: &File) -> io::Result<()> {
    file.sync_all()?;
    fadvise(file, 0, None, Advice::DontNeed).map_err(io::Error::from)
}

/// An empty data file under [`NEW_NAME`], and its path.
pub(super) fn make(dir: &Path, place: &Place) -> Result<(File, PathBuf), StorageError> {
    let path = dir.join(NEW_NAME);
    let file = open(&path).and_then(|file| file.set_len(0).map(|()| file));
    Ok((file.map_err(|e| place.unopenable(e))?, path))
}

/// What is in `dir`; nothing when there is none. The root of a file system may have its `lost+found`.
pub(super) fn entries(dir: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(dir) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    let names: io::Result<Vec<String>> = names.collect();
    Ok(names?.into_iter().filter(|name| name != "lost+found").collect())
}

/// Removes what a start would throw away, after a founding that failed in a directory that was empty.
pub(super) fn clear(dir: &Path) {
    for name in [NEW_NAME, LOCK_NAME] {
        let _ = fs::remove_file(dir.join(name));
    }
    let _ = fs::remove_dir_all(dir.join(super::snapshots::DIRECTORY));
    // Only when nothing else is there; then it was made for this.
    let _ = fs::remove_dir(dir);
}

/// Whether the data file at `path` is being made.
pub(super) fn is_new(path: &Path) -> bool {
    path.ends_with(NEW_NAME)
}

/// Gives a file that was just made its name, durably.
pub(super) fn settle(dir: &Path, path: &Path) -> io::Result<()> {
    if is_new(path) {
        fs::rename(path, dir.join(FILE_NAME))?;
    }
    File::open(dir)?.sync_all()
}

fn open(path: &Path) -> io::Result<File> {
    File::options().read(true).write(true).create(true).truncate(false).open(path)
}

/// Makes `dir` and what is missing above it, each durable in its parent. Its owner's alone: the values of the registry
/// may be secret.
fn create_dir(dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    let parent = match dir.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    create_dir(parent)?;
    match DirBuilder::new().mode(0o700).create(dir) {
        Err(e) if e.kind() != ErrorKind::AlreadyExists => Err(e),
        _ => File::open(parent)?.sync_all(),
    }
}
