//! What can go wrong with the data directory, in the words of whoever has to mend it.

use std::io;

use thiserror::Error;

use crate::ids::NodeId;

/// Why the store did not open, or stopped. `place` is the data directory.
///
/// After a failed [`write`](super::Store::write) nothing more is written by this process (S1): what
/// the kernel does with the pages of a failed fsync is unknown, so a retry that succeeds proves
/// nothing. A new process reads what is really there.
#[derive(Debug, Error)]
pub enum StorageError {
    /// Another process holds the directory.
    #[error(
        "data directory {place} is in use by another process; stop that one, \
         or give this node a directory of its own (node.data_dir)"
    )]
    InUse {
        /// The data directory.
        place: String,
    },
    /// The directory or its file could not be made or read.
    #[error(
        "data directory {place} could not be opened: {source}; \
         check that it exists and that this user may write to it"
    )]
    Unopenable {
        /// The data directory.
        place: String,
        /// What the system said.
        source: io::Error,
    },
    /// The file is not one of ours.
    #[error(
        "{place}/termgate.redb is not a termgate data file: {detail}; \
         point node.data_dir at another directory, nothing was changed here"
    )]
    Foreign {
        /// The data directory.
        place: String,
        /// What was found.
        detail: String,
    },
    /// A later version wrote the directory.
    #[error(
        "data directory {place} has format {found}, written by termgate {written_by}; this is termgate \
         {ours} and reads up to format {supported}; start termgate {written_by} or later"
    )]
    NewerFormat {
        /// The data directory.
        place: String,
        /// Its format.
        found: u32,
        /// The version that wrote it.
        written_by: String,
        /// This version.
        ours: &'static str,
        /// The newest format this version reads.
        supported: u32,
    },
    /// The directory belongs to another cluster.
    #[error(
        "data directory {place} belongs to cluster {found:?}, and this node is configured for {configured:?}; \
         correct cluster.name or node.data_dir"
    )]
    OtherCluster {
        /// The data directory.
        place: String,
        /// The cluster it was made for.
        found: String,
        /// The cluster in the configuration.
        configured: String,
    },
    /// The directory belongs to another node.
    #[error(
        "data directory {place} belongs to node {found}, and this node is configured as {configured}; \
         correct node.id or node.data_dir (a directory never moves to another id: its votes would be cast twice)"
    )]
    OtherNode {
        /// The data directory.
        place: String,
        /// The node it was made for.
        found: NodeId,
        /// The node in the configuration.
        configured: NodeId,
    },
    /// A founding wants a directory of its own.
    #[error(
        "data directory {place} is not empty, it holds {found}; nothing was changed; point node.data_dir at an \
         empty directory, or move this one away"
    )]
    NotEmpty {
        /// The data directory.
        place: String,
        /// Something in it.
        found: String,
    },
    /// No node has ever used the directory.
    #[error(
        "data directory {place} holds no node's data; point node.data_dir, or --data-dir, at a node's directory"
    )]
    NoNode {
        /// The data directory.
        place: String,
    },
    /// What is on disk is not what was written. Never repaired by guessing: a cut log or an older
    /// vote would break promises already made to others (S4).
    #[error(
        "data directory {place} is damaged: {detail}; nothing was changed; keep a copy of it, and put \
         an undamaged copy of this node's directory in its place; an empty one is refused by the other nodes, because \
         what this node had promised and acknowledged would be gone"
    )]
    Corrupt {
        /// The data directory.
        place: String,
        /// What does not fit.
        detail: String,
    },
    /// No space is left.
    #[error(
        "no space left for data directory {place} while {doing}; free some space and start the node again \
         (nothing that was acknowledged is lost)"
    )]
    DiskFull {
        /// The data directory.
        place: String,
        /// What was under way.
        doing: &'static str,
    },
    /// A write or flush failed.
    #[error(
        "writing to data directory {place} failed while {doing}: {detail}; this process writes no more; \
         check the disk, then start the node again (nothing that was acknowledged is lost)"
    )]
    Failed {
        /// The data directory.
        place: String,
        /// What was under way.
        doing: &'static str,
        /// What the system said.
        detail: String,
    },
    /// A write came after a failed one.
    #[error("data directory {place} takes no more writes after an earlier failure; start the node again")]
    Stopped {
        /// The data directory.
        place: String,
    },
    /// The caller broke a rule of the queue. A bug of ours; the disk still holds what it held.
    #[error(
        "refused to write to data directory {place}: {detail}; this is a bug in termgate, please report it"
    )]
    Misuse {
        /// The data directory.
        place: String,
        /// The rule and what broke it.
        detail: String,
    },
}

/// The data directory, as errors name it; turns what lower layers say into a [`StorageError`].
#[derive(Debug, Clone)]
pub(super) struct Place(pub(super) String);

impl Place {
    pub(super) fn unopenable(&self, source: io::Error) -> StorageError {
        match is_full(&source) {
            true => StorageError::DiskFull { place: self.0.clone(), doing: "making it" },
            false => StorageError::Unopenable { place: self.0.clone(), source },
        }
    }

    pub(super) fn foreign(&self, detail: impl Into<String>) -> StorageError {
        StorageError::Foreign { place: self.0.clone(), detail: detail.into() }
    }

    pub(super) fn corrupt(&self, detail: impl Into<String>) -> StorageError {
        StorageError::Corrupt { place: self.0.clone(), detail: detail.into() }
    }

    pub(super) fn misuse(&self, detail: impl Into<String>) -> StorageError {
        StorageError::Misuse { place: self.0.clone(), detail: detail.into() }
    }

    pub(super) fn stopped(&self) -> StorageError {
        StorageError::Stopped { place: self.0.clone() }
    }

    pub(super) fn failed(&self, doing: &'static str, detail: impl Into<String>) -> StorageError {
        StorageError::Failed { place: self.0.clone(), doing, detail: detail.into() }
    }

    /// Sorts an error of the system.
    pub(super) fn io(&self, doing: &'static str, error: io::Error) -> StorageError {
        match is_full(&error) {
            true => StorageError::DiskFull { place: self.0.clone(), doing },
            false => self.failed(doing, error.to_string()),
        }
    }

    /// Sorts an error of redb: what matters to the operator is whether the disk is full, damaged,
    /// taken, or broken.
    pub(super) fn redb(&self, doing: &'static str, error: impl Into<redb::Error>) -> StorageError {
        match error.into() {
            redb::Error::Io(e) if is_full(&e) => StorageError::DiskFull { place: self.0.clone(), doing },
            // A file that was cut off: no write has failed, and what was acknowledged may be gone.
            redb::Error::Io(e) if e.kind() == io::ErrorKind::UnexpectedEof => self.corrupt("it is cut off"),
            redb::Error::DatabaseAlreadyOpen => StorageError::InUse { place: self.0.clone() },
            redb::Error::Corrupted(detail) => self.corrupt(detail),
            redb::Error::PreviousIo => self.stopped(),
            e @ (redb::Error::UpgradeRequired(_)
            | redb::Error::TableTypeMismatch { .. }
            | redb::Error::TableIsMultimap(_)
            | redb::Error::TypeDefinitionChanged { .. }) => self.foreign(e.to_string()),
            e => self.failed(doing, e.to_string()),
        }
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
