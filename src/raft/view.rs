//! Everything that a node shows of itself after a step: for status pages, metrics and the simulator's
//! invariants. What is decided by, in every turn and at every request, is the smaller
//! [`Leadership`](crate::raft::leadership::Leadership).

use crate::ids::{Life, LogId, LogIndex, NodeId, Term};
use crate::raft::effect::RoleKind;
use crate::raft::entry::Membership;
use crate::time::Instant;

/// A node's state, seen from outside.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct View {
    /// This node.
    pub id: NodeId,
    /// Its role.
    pub role: RoleKind,
    /// Its current term.
    pub term: Term,
    /// The leader of `term`, when known.
    pub leader: Option<NodeId>,
    /// The last entry of the log, durable or not.
    pub last_log: LogId,
    /// The entry just before the first of the log.
    pub log_base: LogId,
    /// The last entry that the newest snapshot stands for.
    pub snapshot: Option<LogId>,
    /// Every entry up to here is committed.
    pub commit_index: LogIndex,
    /// Every entry up to here is applied.
    pub last_applied: LogIndex,
    /// The membership in force.
    pub membership: Membership,
    /// Set while this node is a leader whose own no-op is committed **and applied**, that is not
    /// handing leadership over, whose disk is not stalled and whose lease is not suspect: the
    /// fencing token it may stamp. The lease's end still has to be compared with the clock.
    pub fence: Option<Term>,
    /// Until when no other node can have been elected, on this node's clock. `None`: no lease, or
    /// a suspect one.
    pub lease_until: Option<Instant>,
    /// When a quorum last answered: the send time of the beat it answered. Leader only.
    pub quorum_contact: Option<Instant>,
    /// The followers, as the leader sees them. Empty elsewhere.
    pub peers: Vec<PeerView>,
    /// Reads that wait for a position.
    pub pending_reads: usize,
}

/// One follower, as the leader sees it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PeerView {
    /// The follower.
    pub id: NodeId,
    /// Its life, once it has answered.
    pub life: Option<Life>,
    /// Everything up to here is durably on it.
    pub match_index: LogIndex,
    /// The next entry to send.
    pub next_index: LogIndex,
    /// When it last answered in this session, on the leader's clock.
    pub last_contact: Option<Instant>,
    /// Its commit index, as it last said.
    pub commit_index: LogIndex,
    /// Its last applied index, as it last said.
    pub last_applied: LogIndex,
}
