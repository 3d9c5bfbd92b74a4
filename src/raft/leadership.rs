//! An immutable picture of who leads, published by the driver after each turn and read by every
//! request without a lock or a message.

use crate::ids::{LogIndex, NodeId, Term};
use crate::raft::effect::RoleKind;
use crate::time::Instant;

/// Who leads, as one node sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leadership {
    /// This node.
    pub node: NodeId,
    /// Its role.
    pub role: RoleKind,
    /// Its current term.
    pub term: Term,
    /// The leader of `term`, when known.
    pub leader: Option<NodeId>,
    /// The token this node may stamp: it leads in this term, its no-op is committed and applied,
    /// and nothing casts doubt on it. The lease must still be valid at the moment of use.
    pub fence: Option<Term>,
    /// The end of the lease on this node's clock.
    pub lease_until: Option<Instant>,
    /// The commit index.
    pub commit_index: LogIndex,
    /// The last applied index.
    pub last_applied: LogIndex,
}

impl Leadership {
    /// The picture of a node that has heard nothing yet.
    pub fn unknown(node: NodeId) -> Self {
        Self {
            node,
            role: RoleKind::Follower,
            term: Term::ZERO,
            leader: None,
            fence: None,
            lease_until: None,
            commit_index: LogIndex::ZERO,
            last_applied: LogIndex::ZERO,
        }
    }

    /// The token that may be stamped at `now`: the fence, while the lease holds. This is the one
    /// question the gate asks, at admission and again just before the first byte.
    pub fn token_at(&self, now: Instant) -> Option<Term> {
        self.lease_until.filter(|until| now < *until).and(self.fence)
    }

    /// The leader, when it is another node.
    pub fn leader_elsewhere(&self) -> Option<NodeId> {
        self.leader.filter(|leader| *leader != self.node)
    }
}
