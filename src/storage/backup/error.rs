//! Why a file is no backup, or none was made, in the words of whoever has to mend it.

use std::io;
use std::path::Path;

use thiserror::Error;

use super::FORMAT;

/// Why a file is no backup, or none was made. Nothing was changed.
#[derive(Debug, Error)]
pub enum BackupError {
    /// It does not begin like one.
    #[error("{file} is no termgate backup; take the file that `termgate backup` has made")]
    Foreign {
        /// The file.
        file: String,
    },
    /// Another format.
    #[error(
        "{file} has backup format {found}, and termgate {ours} reads format {FORMAT}; use the version of \
         termgate that made it, or a later one"
    )]
    Version {
        /// The file.
        file: String,
        /// Its format.
        found: u32,
        /// This version.
        ours: &'static str,
    },
    /// Some of it is missing.
    #[error(
        "{file} ends too early: {have} of {wanted} bytes are there; copy it again, or take another backup"
    )]
    Short {
        /// The file.
        file: String,
        /// Bytes that are there.
        have: u64,
        /// Bytes that should be.
        wanted: u64,
    },
    /// Some of it is not what was written.
    #[error("{file} is damaged: {what}; copy it again, or take another backup")]
    Damaged {
        /// The file.
        file: String,
        /// What does not fit.
        what: String,
    },
    /// A file is there already.
    #[error("{file} exists already and is not overwritten; name another file, or give --force")]
    Exists {
        /// The file.
        file: String,
    },
    /// The file can't be read or written.
    #[error("{file}: {doing} failed: {source}")]
    Io {
        /// The file.
        file: String,
        /// What was under way.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl BackupError {
    /// The same, about the file under another name.
    pub(super) fn renamed(mut self, path: &Path) -> Self {
        let (Self::Foreign { file }
        | Self::Version { file, .. }
        | Self::Short { file, .. }
        | Self::Damaged { file, .. }
        | Self::Exists { file }
        | Self::Io { file, .. }) = &mut self;
        *file = path.display().to_string();
        self
    }
}

/// A file by its name, which every error tells.
pub(super) struct Named(pub(super) String);

impl Named {
    pub(super) fn short(&self, have: u64, wanted: u64) -> BackupError {
        BackupError::Short { file: self.0.clone(), have, wanted }
    }

    pub(super) fn damaged(&self, what: impl Into<String>) -> BackupError {
        BackupError::Damaged { file: self.0.clone(), what: what.into() }
    }

    pub(super) fn io(&self, doing: &'static str, source: io::Error) -> BackupError {
        BackupError::Io { file: self.0.clone(), doing, source }
    }
}
