//! The commands of the replicated state machine, and their answers.
//!
//! Each command carries the term it was decided in; apply refuses one of an older term than the
//! entry that carries it, so that a leader which was deposed while it decided can't act through
//! its successor (P1, requirement M9).

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::ids::{LogIndex, NodeId, Term};

/// One replicated command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// The term in which the deciding node led.
    pub decided_in: Term,
    /// What to do.
    pub op: Op,
}

/// What a command does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// Sets a key.
    Put {
        /// The key.
        key: String,
        /// Its new value.
        value: Bytes,
        /// What must hold, or nothing is changed.
        condition: Condition,
    },
    /// Removes a key.
    Delete {
        /// The key.
        key: String,
        /// What must hold, or nothing is changed.
        condition: Condition,
    },
    /// The fence of a resource's backend stands at `term`.
    FenceRaised {
        /// The route's name.
        resource: String,
        /// The token.
        term: Term,
        /// Who raised it.
        node: NodeId,
    },
    /// Makes one member's addresses known to all.
    SetMember(Member),
}

/// Compare-and-set, as `If-Match` and `If-None-Match` say it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Condition {
    /// Always.
    #[default]
    None,
    /// Only when the key exists (`If-Match: *`).
    Exists,
    /// Only when the key does not exist (`If-None-Match: *`).
    Absent,
    /// Only when the key has this version.
    VersionIs(LogIndex),
    /// Only when the key is absent or has another version (`If-None-Match: "<version>"`).
    VersionIsNot(LogIndex),
}

/// Where a member can be reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The member.
    pub id: NodeId,
    /// UDP, QUIC: Raft.
    pub peer: String,
    /// TCP: what clients are told.
    pub proxy: String,
    /// UDP, QUIC: forwarded requests.
    pub hop: String,
    /// TCP: the API.
    pub api: String,
    /// For the preferred place of leadership.
    pub zone: Option<String>,
}

/// What an applied command answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Done; the key's version is now the command's log index (for a delete: the index of it).
    Done {
        /// The command's log index.
        version: LogIndex,
    },
    /// The condition did not hold; nothing was changed.
    ConditionFailed {
        /// The key's version, when it exists.
        current: Option<LogIndex>,
    },
    /// The key to delete does not exist; nothing was changed.
    NotFound,
    /// A limit of the registry (in words) would be exceeded; nothing was changed.
    LimitExceeded(&'static str),
    /// Decided in an older term than the one it was appended in; nothing was changed.
    StaleTerm,
    /// The bytes are no command of this version; nothing was changed, on any node.
    Undecodable,
}
