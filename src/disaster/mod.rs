//! A new cluster on an old one's state: after a backup was restored, or a majority was lost for good.
//!
//! Raft can't help here: what made the old cluster safe, a majority that remembers, is gone. So what comes
//! is *another* cluster that happens to know what the old one knew, and these rules (`proto-spec/backup.md`)
//! keep the two apart, whatever is still alive of the old one:
//!
//! - **Its terms are higher.** Every term of the new cluster is above every fence at a backend and every
//!   term that the old state shows, so backends refuse what the old cluster still sends and admit what
//!   the new one does (P4). And it is so far above that a node of the old cluster takes no message of the
//!   new one for possible (E2): it never learns these terms, and can't get ahead of them (DR-1).
//! - **Its log begins far behind.** Versions of keys are log indexes; the new log leaps over all that the old
//!   one can have handed out, so that no version stands for two values (DR-2).
//! - **Its members know each other.** Each directory is made with an incarnation that follows from the state,
//!   the floor and the node's id, and the first membership names all of them. So nodes that were made from
//!   the same backup with the same floor take each other for members, and nobody of the old cluster is
//!   one, though its certificate is good (DR-3).
//! - **What survives** is the registry and its fences. Addresses, votes, promises and pins do not (DR-4).
//!
//! A node is made from nothing ([`restore`]) or in the place of what it held ([`recover`]); both end in
//! `storage::founding`, which makes the change with one rename.
//!
//! Left out: finding out whether the old cluster is dead. The commands ask its members, and say no when one
//! knows a leader; they can't see behind a partition.

pub mod floor;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use ring::digest::{Context, SHA256, digest};
use thiserror::Error;

use crate::config::node::NodeConfig;
use crate::disaster::floor::{FloorError, Seen, Wish, begin};
use crate::ids::{LogId, NodeId, Term};
use crate::raft::entry::Membership;
use crate::registry::machine::Machine;
use crate::storage::backup::{self, Backup, BackupError, Header, Origin, Taken};
use crate::storage::founding::{self, Founding};
use crate::storage::look::{Looked, look};
use crate::storage::{Identity, StorageError};

/// The name of a recovered node's state, beside the old files that are kept: what other members are
/// restored from.
pub const STATE_FILE: &str = "state.backup";

/// Why there is no new cluster. The data directory is as it was.
#[derive(Debug, Error)]
pub enum DisasterError {
    /// The backup.
    #[error(transparent)]
    Backup(#[from] BackupError),
    /// The data directory.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The terms.
    #[error(transparent)]
    Floor(#[from] FloorError),
    /// The backup is another cluster's.
    #[error(
        "the backup is of cluster {found:?}, and this node is configured for {configured:?}; take the right file, \
         correct cluster.name, or give --force to found {configured:?} on the state of {found:?}"
    )]
    OtherCluster {
        /// In the backup.
        found: String,
        /// In the configuration.
        configured: String,
    },
    /// The configuration is of a node that joins a cluster.
    #[error(
        "this configuration is of a node that joins a cluster (cluster.join), and names no members to found one \
         of: write [[cluster.members]] of the new cluster, the same on every node and this one among them, and \
         take cluster.join out"
    )]
    Joins,
    /// Members that can't be.
    #[error("--members {0}; name ids of cluster.members, this node's own among them")]
    Members(String),
}

/// A new cluster, at one node.
#[derive(Debug)]
pub struct Founded {
    /// The cluster.
    pub cluster: String,
    /// This node.
    pub node: NodeId,
    /// The voters.
    pub members: BTreeSet<NodeId>,
    /// What the old cluster's terms are not above: for the other nodes.
    pub floor: Term,
    /// Where its log begins.
    pub last: LogId,
    /// What it was founded on.
    pub header: Header,
    /// What the verifiers said.
    pub seen: Vec<Seen>,
    /// Where the files that were replaced are kept.
    pub kept: Option<PathBuf>,
}

/// Makes the empty data directory of a node whose cluster begins with `backup`. The members are those of the
/// configuration.
///
/// # Errors
/// When the configuration is of a node that joins, the floor can't be found out or is too low, the backup is
/// another cluster's (unless `force`), or
/// the directory is not empty or can't be written.
pub async fn restore(
    config: &NodeConfig,
    backup: Backup,
    wish: Wish,
    force: bool,
) -> Result<Founded, DisasterError> {
    if config.join {
        return Err(DisasterError::Joins);
    }
    let Backup { header, machine } = backup;
    if header.cluster != config.cluster && !force {
        let (found, configured) = (header.cluster, config.cluster.clone());
        return Err(DisasterError::OtherCluster { found, configured });
    }
    let seen = floor::ask(config).await?;
    let floor = floor::decide(wish, header.term, &seen)?;
    let members: BTreeSet<NodeId> = config.members.iter().map(|member| member.id).collect();
    let machine = found_on(machine, &config.cluster, floor, &members);
    founding::found(&config.data_dir, &founding_of(config, &machine))?;
    Ok(founded(config, &machine, floor, header, seen, None))
}

/// Looks at the data directory of a stopped node.
///
/// # Errors
/// When it can't be read, or is another node's.
pub fn survivor(config: &NodeConfig) -> Result<Looked, DisasterError> {
    let looked = look(&config.data_dir)?;
    let place = config.data_dir.display().to_string();
    if looked.cluster != config.cluster {
        let (found, configured) = (looked.cluster, config.cluster.clone());
        return Err(StorageError::OtherCluster { place, found, configured }.into());
    }
    if looked.node != config.id() {
        let (found, configured) = (looked.node, config.id());
        return Err(StorageError::OtherNode { place, found, configured }.into());
    }
    Ok(looked)
}

/// Puts a new cluster of `members` in the place of what `looked` has read of this node's directory.
/// `None`: this node alone.
///
/// # Errors
/// When the floor can't be found out or is too low, the members can't be, or the directory can't be
/// written.
pub async fn recover(
    config: &NodeConfig,
    looked: Looked,
    members: Option<BTreeSet<NodeId>>,
    wish: Wish,
) -> Result<Founded, DisasterError> {
    let members = members.unwrap_or_else(|| [config.id()].into());
    check_members(config, &members)?;
    let header = describe(&looked);
    let seen = floor::ask(config).await?;
    let floor = floor::decide(wish, header.term, &seen)?;
    let kept = founding::keep(&config.data_dir, &looked)?;
    backup::save(&kept.join(STATE_FILE), false, &header, &looked.machine)?;
    let machine = found_on(looked.machine.clone(), &config.cluster, floor, &members);
    founding::replace(&config.data_dir, looked, &founding_of(config, &machine))?;
    Ok(founded(config, &machine, floor, header, seen, Some(kept)))
}

/// The backup of a stopped node.
pub fn describe(looked: &Looked) -> Header {
    let taken = Taken {
        cluster: looked.cluster.clone(),
        node: looked.node,
        origin: Origin::Disk,
        term: looked.term,
        membership: looked.membership.clone(),
    };
    Header::describe(&looked.machine, taken)
}

fn check_members(config: &NodeConfig, members: &BTreeSet<NodeId>) -> Result<(), DisasterError> {
    if config.join && !config.members.iter().any(|member| member.id == config.id()) {
        return Err(DisasterError::Joins);
    }
    let unknown = members.iter().find(|id| !config.members.iter().any(|member| member.id == **id));
    match unknown {
        Some(id) => Err(DisasterError::Members(format!("names {id}, which is no member"))),
        None if !members.contains(&config.id()) => {
            Err(DisasterError::Members(format!("does not name this node, {}", config.id())))
        }
        None => Ok(()),
    }
}

/// DR-1, DR-2, DR-3: the first state, after a log entry that nobody ever appended.
fn found_on(machine: Machine, cluster: &str, floor: Term, members: &BTreeSet<NodeId>) -> Machine {
    let last = LogId::new(begin(floor), machine.leap());
    let strangers = Membership::of_voters(members.iter().copied());
    let unnamed = machine.clone().founded(last, strangers.clone());
    let incarnations = incarnations(cluster, &unnamed);
    machine.founded(last, Membership { incarnations, ..strangers })
}

fn founding_of<'m>(config: &NodeConfig, machine: &'m Machine) -> Founding<'m> {
    let membership = machine.membership().clone();
    let incarnation = membership.incarnations.get(&config.id()).copied().unwrap_or_default();
    let identity = Identity { cluster: config.cluster.clone(), node: config.id(), membership };
    Founding { identity, incarnation, machine }
}

/// DR-3: what each member is known by. The state holds its members, its term and its index, so everything
/// that makes the cluster this one is in the digest.
fn incarnations(cluster: &str, unnamed: &Machine) -> BTreeMap<NodeId, u64> {
    let mut state = Context::new(&SHA256);
    let encoded: Result<(), std::convert::Infallible> = unnamed.encode(|piece| {
        state.update(piece);
        Ok(())
    });
    let Ok(()) = encoded;
    let state = state.finish();
    let of = |node: &NodeId| {
        let parts = [b"termgate founding\n", state.as_ref(), &node.0.to_be_bytes(), cluster.as_bytes()];
        let digest = digest(&SHA256, &parts.concat());
        let first = digest.as_ref().first_chunk().copied().unwrap_or_default();
        (*node, u64::from_be_bytes(first))
    };
    unnamed.membership().voters.iter().map(of).collect()
}

fn founded(
    config: &NodeConfig,
    machine: &Machine,
    floor: Term,
    header: Header,
    seen: Vec<Seen>,
    kept: Option<PathBuf>,
) -> Founded {
    let members = machine.membership().voters.clone();
    let (cluster, node, last) = (config.cluster.clone(), config.id(), machine.applied());
    Founded { cluster, node, members, floor, last, header, seen, kept }
}

#[cfg(test)]
mod tests;
