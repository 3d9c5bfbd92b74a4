//! The directory of a node in a new cluster that begins with an earlier one's state.
//!
//! It is what compaction leaves: a snapshot, and an empty log that begins behind it. DR-5: the snapshot's file
//! comes first; the data file that makes it count appears by one rename, as at a first start (ST-10). So
//! a crash leaves the directory as it was, but for waste that the next start removes.
//!
//! A directory that is replaced keeps its old files under another name, in itself: it may be the root of a
//! file system, which can't be moved.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use redb::backends::FileBackend;

use super::error::{Place, StorageError};
use super::look::Looked;
use super::snapshots::{self, Snapshots};
use super::{FILE_NAME, Identity, Start, Store, directory};
use crate::registry::machine::Machine;
use crate::time::Duration;

/// What one node of the new cluster begins with.
#[derive(Debug)]
pub struct Founding<'a> {
    /// Whose directory it is, and the first membership.
    pub identity: Identity,
    /// What the others know this directory by (V8).
    pub incarnation: u64,
    /// The first state. Every term of the new cluster is above the one it stands in.
    pub machine: &'a Machine,
}

/// Makes `dir`, which must be empty or missing.
///
/// # Errors
/// When something is in it, or it can't be written; then it is as it was.
pub fn found(dir: &Path, founding: &Founding<'_>) -> Result<(), StorageError> {
    let place = Place(dir.display().to_string());
    let entries = directory::entries(dir).map_err(|e| place.unopenable(e))?;
    if let Some(found) = entries.into_iter().next() {
        return Err(StorageError::NotEmpty { place: place.0, found });
    }
    let lock = directory::lock(dir, &place)?;
    let laid = lay(dir, &place, founding);
    if laid.is_err() {
        directory::clear(dir);
    }
    drop(lock);
    laid
}

/// Gives the files that `looked` has read in `dir` a second place, whose path is returned, so that they
/// outlive a [`replace`].
///
/// # Errors
/// When it can't be written.
pub fn keep(dir: &Path, looked: &Looked) -> Result<PathBuf, StorageError> {
    let place = Place(dir.display().to_string());
    set_aside(dir, looked).map_err(|e| place.io("keeping the old files", e))
}

/// Replaces what `looked` has read in `dir`.
///
/// # Errors
/// When something can't be written; then the directory is as it was.
pub fn replace(dir: &Path, looked: Looked, founding: &Founding<'_>) -> Result<(), StorageError> {
    lay(dir, &Place(dir.display().to_string()), founding)?;
    // Not before: the node must not start meanwhile.
    drop(looked);
    Ok(())
}

fn lay(dir: &Path, place: &Place, founding: &Founding<'_>) -> Result<(), StorageError> {
    let Founding { identity, incarnation, machine } = founding;
    let last = machine.applied();
    let ground = Some(Snapshots::at(dir)?.take(machine, last, identity.membership.clone())?);
    let (file, path) = directory::make(dir, place)?;
    let backend = FileBackend::new(file).map_err(|e| place.redb("making it", e))?;
    let (promise, incarnation) = (Duration::ZERO, *incarnation);
    let start = Start { identity, promise, incarnation, ground, may_be_new: true };
    // The life that this begins says nothing to anybody.
    drop(Store::open_in(place.clone(), backend, &start)?);
    directory::settle(dir, &path).map_err(|e| place.unopenable(e))
}

/// A second name is enough: a data file is replaced as a whole, and a snapshot never changes.
fn set_aside(dir: &Path, looked: &Looked) -> io::Result<PathBuf> {
    let kept = new_directory(dir)?;
    link(&dir.join(FILE_NAME), &kept.join(FILE_NAME))?;
    let files = kept.join(snapshots::DIRECTORY);
    fs::create_dir(&files)?;
    if let Some(snapshot) = &looked.snapshot {
        let name = snapshots::name(&snapshot.id);
        link(&dir.join(snapshots::DIRECTORY).join(&name), &files.join(&name))?;
    }
    for changed in [&files, &kept, dir] {
        File::open(changed)?.sync_all()?;
    }
    Ok(kept)
}

fn new_directory(dir: &Path) -> io::Result<PathBuf> {
    let mut number = 1_u32;
    loop {
        let kept = dir.join(format!("before-recovery-{number}"));
        match fs::create_dir(&kept) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => number += 1,
            made => return made.map(|()| kept),
        }
    }
}

/// A copy, where the file system gives a file one name only.
fn link(from: &Path, to: &Path) -> io::Result<()> {
    fs::hard_link(from, to).or_else(|_| {
        fs::copy(from, to)?;
        File::open(to)?.sync_all()
    })
}
