//! The contents of the API's answers, as the nodes write them and the client commands read them.

pub mod join;
pub mod members;

use serde::{Deserialize, Serialize};

use crate::fencing::mode::FenceMode;
use crate::ids::{LogIndex, NodeId, Term};

/// `GET /leader`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaderAnswer {
    /// The leader.
    pub node_id: NodeId,
    /// Where clients of the resources connect to it: its proxy's address.
    pub address: Option<String>,
    /// The term it leads in.
    pub term: Term,
    /// When its lease ends on the wall clock, RFC 3339. For people: clocks differ.
    pub lease_expires_at: Option<String>,
    /// How long its lease is still valid, in milliseconds, from when the client sent its request.
    pub lease_remaining_ms: Option<u64>,
    /// Whether the answering node leads and holds a valid lease. A follower only passes on what it
    /// heard.
    pub authoritative: bool,
    /// The resources, as the answering node sees them.
    pub resources: Vec<ResourceStatus>,
}

/// One route of one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResourceStatus {
    /// The resource.
    pub name: String,
    /// How it is protected.
    pub fence: FenceMode,
    /// `closed`, `barrier`, `open` or `draining`.
    pub gate: String,
    /// The highest term at which the fence is known to stand.
    pub fenced_term: Option<Term>,
}

/// `POST /leader/resign`, the request.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResignRequest {
    /// The wished leader; without it, the most up-to-date follower.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<NodeId>,
    /// Why, for the log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// `POST /leader/resign`, the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResignAnswer {
    /// The term that was given up.
    pub from_term: Term,
    /// The new leader.
    pub to: NodeId,
    /// Its term.
    pub term: Term,
    /// From the moment the old leader gave up its token until it knew the new leader.
    pub pause_ms: u64,
}

/// `GET /cluster/status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterStatus {
    /// The cluster's name.
    pub cluster: String,
    /// The highest term of all nodes that answered.
    pub term: Term,
    /// The leader of that term, when one of them knows it.
    pub leader: Option<NodeId>,
    /// How long the leader's lease is still valid; `None` when it has none or does not answer.
    pub lease_remaining_ms: Option<u64>,
    /// The members, in order of id.
    pub members: Vec<MemberStatus>,
    /// The resources as the leader sees them, or as the answering node does when the leader is
    /// silent.
    pub resources: Vec<ResourceStatus>,
    /// The answering node.
    pub node: NodeId,
    /// Its data directory, as `POST /cluster/members` wants it named.
    pub incarnation: String,
    /// Its settings.
    pub config: serde_json::Value,
}

/// One member. Everything but the first three is `None` when it does not answer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberStatus {
    /// The member.
    pub id: NodeId,
    /// Where it is.
    pub zone: Option<String>,
    /// Its proxy's address.
    pub address: Option<String>,
    /// Its role.
    pub role: Option<String>,
    /// Its current term.
    pub term: Option<Term>,
    /// Its commit index.
    pub commit_index: Option<LogIndex>,
    /// Its last applied index.
    pub last_applied: Option<LogIndex>,
    /// The last index of its log.
    pub last_log_index: Option<LogIndex>,
    /// What the leader knows to be durable there.
    pub match_index: Option<LogIndex>,
    /// How long ago it last answered the leader, in milliseconds.
    pub last_contact_ms: Option<u64>,
    /// Whether it answered the node that makes this answer.
    pub reachable: bool,
}

/// What one node says of itself to another that collects a cluster status.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeReport {
    /// The node.
    pub id: NodeId,
    /// Its role.
    pub role: String,
    /// Its current term.
    pub term: Term,
    /// The leader of that term, when known.
    pub leader: Option<NodeId>,
    /// Its commit index.
    pub commit_index: LogIndex,
    /// Its last applied index.
    pub last_applied: LogIndex,
    /// The last index of its log.
    pub last_log_index: LogIndex,
    /// How long its lease is still valid. Leader only.
    pub lease_remaining_ms: Option<u64>,
    /// Its resources.
    pub resources: Vec<ResourceStatus>,
    /// The followers as it sees them. Leader only.
    pub peers: Vec<PeerReport>,
}

/// One follower, as the leader sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerReport {
    /// The follower.
    pub id: NodeId,
    /// Everything up to here is durably on it.
    pub match_index: LogIndex,
    /// How long ago it last answered, in milliseconds.
    pub last_contact_ms: Option<u64>,
}

/// `GET /livez`, `/readyz`, `/primary`, `/replica`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// `ok` or `unavailable`, as the status says.
    pub status: String,
    /// Why.
    pub reason: String,
    /// The answering node.
    pub node: NodeId,
    /// Its current term.
    pub term: Term,
}

/// `GET /registry/keys`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyList {
    /// The keys, in order.
    pub keys: Vec<KeyInfo>,
    /// There are more: ask again with `after` set to the last key of this answer.
    pub more: bool,
    /// The index up to which the answering node has applied the log.
    pub index: LogIndex,
}

/// One key of a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyInfo {
    /// The key.
    pub key: String,
    /// The log index of its last modification.
    pub version: LogIndex,
    /// The log index at which it was made.
    pub created: LogIndex,
    /// The term of its last modification.
    pub term: Term,
    /// Bytes of its value.
    pub size: usize,
}
