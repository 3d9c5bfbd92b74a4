//! Members: what is asked and answered about them.

use serde::{Deserialize, Serialize};

use crate::ids::{LogIndex, NodeId, Term};

/// `GET /cluster/members`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberList {
    /// The term of the node that answers.
    pub term: Term,
    /// The leader that it knows.
    pub leader: Option<NodeId>,
    /// Whether a change of voters is under way.
    pub changing: bool,
    /// The members, in order of id.
    pub members: Vec<MemberInfo>,
}

/// One member.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberInfo {
    /// The member.
    pub id: NodeId,
    /// `voter`, `learner`, or `leaving`: it still votes until the change that is under way is complete.
    pub role: String,
    /// UDP: Raft.
    pub peer: Option<String>,
    /// UDP: forwarded requests.
    pub hop: Option<String>,
    /// TCP: what clients are told.
    pub proxy: Option<String>,
    /// TCP: the API.
    pub api: Option<String>,
    /// Where it is.
    pub zone: Option<String>,
    /// Its data directory: the one it was added with, or else the one that the leader has heard. A decimal
    /// number in a text, because programs that read JSON round numbers of that size.
    pub incarnation: Option<String>,
    /// What the leader knows to be durable there.
    pub match_index: Option<LogIndex>,
    /// How many entries of the leader's log it lacks.
    pub behind: Option<u64>,
    /// Whether that is little enough for a vote, and it has answered the leader.
    pub caught_up: Option<bool>,
    /// How long ago it last answered the leader, in milliseconds.
    pub last_contact_ms: Option<u64>,
}

/// `POST /cluster/members`, the request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddMember {
    /// Its id.
    pub id: NodeId,
    /// UDP: Raft.
    pub peer: String,
    /// TCP: what clients are told.
    pub proxy: String,
    /// UDP: forwarded requests; the proxy's address unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hop: Option<String>,
    /// TCP: the API.
    pub api: String,
    /// Where it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// Its data directory, which it shows when it starts; needed for an id that was in use before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incarnation: Option<String>,
    /// `learner`, unless given, or `voter`: then it gets a vote as soon as it has caught up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
}

/// `PATCH /cluster/members/{id}`, the request: what is to be different.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PatchMember {
    /// With a vote or without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// The member that leaves in the same step as this one gets its vote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaces: Option<NodeId>,
    /// UDP: Raft.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// UDP: forwarded requests. It follows the proxy's address as long as it was the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hop: Option<String>,
    /// TCP: what clients are told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<String>,
    /// TCP: the API.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api: Option<String>,
    /// Where it is; an empty text for nowhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
}

/// How a member takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Receives the log.
    Learner,
    /// Votes.
    Voter,
}

/// What a change of the members is answered with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed {
    /// Whether the request made a difference, now or when it was asked before under the same name.
    pub changed: bool,
    /// The log entry with which everything was as asked.
    pub index: LogIndex,
    /// The term of the node that answers.
    pub term: Term,
    /// The member; `None` when it is none any more.
    pub member: Option<MemberInfo>,
    /// What the vote still waits for (with status 202); ask again for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending: Option<String>,
}
