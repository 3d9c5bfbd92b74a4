//! What a stopped node's directory holds, without starting a life in it.
//!
//! The data file is read into memory and opened there: even a file that was not closed cleanly is then
//! repaired in memory alone. The directory stays as it was, and is held for as long as the look lasts.
//!
//! **All of the log counts**, also entries that were never committed: a node alone can't tell them apart. A
//! client of such an entry was told that its outcome is unknown, or nothing.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::Path;

use redb::StorageBackend;
use redb::backends::InMemoryBackend;

use super::error::{Place, StorageError};
use super::snapshots::Snapshots;
use super::{FILE_NAME, directory, load, read_all};
use crate::ids::{NodeId, Term};
use crate::raft::entry::{Durable, Membership, Payload, Snapshot};
use crate::registry::machine::Machine;

/// The contents of one directory.
#[derive(Debug)]
pub struct Looked {
    /// The cluster it was made for.
    pub cluster: String,
    /// Its node.
    pub node: NodeId,
    /// The latest term that the node has seen.
    pub term: Term,
    /// The membership in force.
    pub membership: Membership,
    /// The state after all of the log.
    pub machine: Machine,
    /// What the next start would begin with.
    pub(super) snapshot: Option<Snapshot>,
    /// Held, so that the node can't start meanwhile.
    _lock: File,
}

/// Looks at the directory `dir` of a stopped node.
///
/// # Errors
/// When there is none, it is in use, or it is damaged in any way.
pub fn look(dir: &Path) -> Result<Looked, StorageError> {
    let place = Place(dir.display().to_string());
    let path = dir.join(FILE_NAME);
    // Looked at first: taking the lock would make the directory.
    if let Err(e) = fs::metadata(&path) {
        return Err(match e.kind() {
            ErrorKind::NotFound => StorageError::NoNode { place: place.0 },
            _ => place.unopenable(e),
        });
    }
    let _lock = directory::lock(dir, &place)?;
    let bytes = fs::read(&path).map_err(|e| place.unopenable(e))?;
    if bytes.is_empty() {
        return Err(place.corrupt(format!("{FILE_NAME} is empty")));
    }
    let memory = InMemoryBackend::new();
    let copied = memory.set_len(bytes.len() as u64).and_then(|()| memory.write(0, &bytes));
    copied.map_err(|e| place.failed("copying it", e.to_string()))?;
    drop(bytes);
    let (_, (owner, durable)) = read_all(&place, memory, |db| load::look(db, &place))?;
    let term = durable.hard_state.current_term;
    let membership = last_membership(&durable);
    let machine = state(dir, &durable)?;
    let (cluster, node, snapshot) = (owner.cluster, owner.node, durable.snapshot);
    Ok(Looked { cluster, node, term, membership, machine, snapshot, _lock })
}

fn last_membership(durable: &Durable) -> Membership {
    let later = durable.log.iter().rev().find_map(|entry| match &entry.payload {
        Payload::Membership(membership) => Some(membership.clone()),
        Payload::NoOp { .. } | Payload::Command(_) => None,
    });
    later.unwrap_or_else(|| durable.membership.clone())
}

fn state(dir: &Path, durable: &Durable) -> Result<Machine, StorageError> {
    let mut machine = match &durable.snapshot {
        Some(snapshot) => Snapshots::at(dir)?.load(snapshot)?,
        None => Machine::new(Vec::new()),
    };
    let applied = machine.applied().index;
    for entry in durable.log.iter().filter(|entry| entry.id.index > applied) {
        machine.apply(entry);
    }
    Ok(machine)
}
