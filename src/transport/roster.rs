//! Who is who, as far as this node knows (W-11, W-12).

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::NodeId;

/// Whom to talk to and whom to let in. Who is a member counts as one, even if it is also named as removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Roster {
    /// The nodes to dial and to let in, and where they listen (`host:port`, looked up at every dial). The
    /// own one may be among them, and is ignored. During a change: everybody of both halves, and a leader
    /// that is being removed until the change is committed, or nobody could acknowledge it.
    pub members: BTreeMap<NodeId, String>,
    /// More members, of whom this node does not know where they listen. They are let in, and dialled where
    /// they say.
    pub unplaced: BTreeSet<NodeId>,
    /// The nodes that were removed from the cluster. They are told so, unless strangers are heard: one of
    /// them may have been added again, and even lead, and nobody else would tell this node.
    pub removed: BTreeSet<NodeId>,
    /// Whether other nodes of the cluster, whose certificate names no member, are heard too. Set it while this
    /// node knows no member, hears no leader, or hears one that is no member: then its own picture may be the
    /// one that is out of date.
    pub open: bool,
}

impl Roster {
    /// All members, wherever they are.
    pub(crate) fn everybody(&self) -> BTreeSet<NodeId> {
        self.members.keys().chain(&self.unplaced).copied().collect()
    }

    /// Whether `node` is one of them.
    pub(crate) fn is_member(&self, node: NodeId) -> bool {
        self.members.contains_key(&node) || self.unplaced.contains(&node)
    }

    /// Whether `node` is to be told that it was removed.
    pub(crate) fn tells_removed(&self, node: NodeId) -> bool {
        self.removed.contains(&node) && !self.is_member(node) && !self.open
    }
}
