//! The commands of the replicated state machine, and their answers.
//!
//! Each command carries the term it was decided in; apply refuses one of an older term than the
//! entry that carries it, so that a leader which was deposed while it decided can't act through
//! its successor (P1).

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::ids::{LogIndex, NodeId, Term};
use crate::raft::entry::Membership;

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
    /// A change of the members is about to be made.
    Intend(Box<Intent>),
    /// A new machine may join, once.
    Invite(Invitation),
    /// The invited machine has come.
    Redeem(Box<Redemption>),
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

/// A change of the members, before the membership itself is changed. It makes the new addresses known, and
/// the request by its name: whoever asks again, because an answer was lost, is asked nothing twice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    /// Which request asks for it; without one, nobody can ask again for the same.
    pub request: Option<RequestName>,
    /// Addresses that are new or different.
    pub member: Option<Member>,
    /// What the membership has to be like for the change to be complete.
    pub goal: Goal,
    /// It is like that already.
    pub reached: bool,
}

/// One request of a client, over all its repetitions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestName {
    /// What the client calls it.
    pub key: String,
    /// SHA-256 of what it asks for: the same name with something else is a mistake.
    pub digest: [u8; 32],
}

/// What a membership should be like, as far as one change is about it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Goal {
    /// This node takes part, so.
    pub here: Option<(NodeId, Standing)>,
    /// This node does not.
    pub gone: Option<NodeId>,
}

/// How a node takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Standing {
    /// With or without a vote.
    Member,
    /// Without a vote.
    Learner,
    /// With one.
    Voter,
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((node, standing)) = self.here {
            let standing = match standing {
                Standing::Member => "member",
                Standing::Learner => "learner",
                Standing::Voter => "voter",
            };
            write!(f, "node {node} is a {standing}")?;
        }
        let and = if self.here.is_some() { ", " } else { "" };
        self.gone.map_or(Ok(()), |node| write!(f, "{and}node {node} is gone"))
    }
}

impl Goal {
    /// Whether a membership that no change is under way from is like that.
    pub fn holds(&self, membership: &Membership) -> bool {
        let is_here = self.here.is_none_or(|(node, standing)| match standing {
            Standing::Member => membership.contains(node),
            Standing::Learner => membership.learners.contains(&node),
            Standing::Voter => membership.voters.contains(&node),
        });
        is_here && self.gone.is_none_or(|node| !membership.contains(node))
    }
}

/// A new machine may join under an id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invitation {
    /// The id.
    pub node: NodeId,
    /// What verifies the machine's signature. The token, which signs, is known to nobody but its holder.
    pub verifier: [u8; 32],
    /// When it was decided, in seconds since 1970. What has expired by then gives way.
    pub made_at: u64,
    /// From when on it is refused, in seconds since 1970. Whoever verifies looks at a clock; applying does not.
    pub expires_at: u64,
}

/// A machine has shown that it holds the token of an invitation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Redemption {
    /// The entry that made the invitation.
    pub invitation: LogIndex,
    /// SHA-256 of the machine's request. Another one comes too late.
    pub by: [u8; 32],
    /// The new member.
    pub member: Member,
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
