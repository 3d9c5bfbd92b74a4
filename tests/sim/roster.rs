//! Who takes part, as the committed log says it: the checker's own arithmetic of quorums, so that a
//! mistake in the core's is not made twice.

use std::collections::BTreeSet;

use termgate::ids::{LogIndex, NodeId};
use termgate::raft::entry::{Entry, Membership, Payload};

/// Every membership that was ever committed.
#[derive(Debug)]
pub struct Roster {
    initial: Membership,
    committed: Vec<(LogIndex, Membership)>,
}

impl Roster {
    /// A cluster that begins with `initial`.
    pub const fn new(initial: Membership) -> Self {
        Self { initial, committed: Vec::new() }
    }

    /// The next committed entry.
    pub fn commit(&mut self, entry: &Entry) {
        if let Payload::Membership(membership) = &entry.payload {
            self.committed.push((entry.id.index, membership.clone()));
        }
    }

    /// The membership that the cluster began with.
    pub const fn initial(&self) -> &Membership {
        &self.initial
    }

    /// The last one that was committed.
    pub fn latest(&self) -> &Membership {
        self.committed.last().map_or(&self.initial, |(_, membership)| membership)
    }

    /// The entry of the last one.
    pub fn latest_at(&self) -> LogIndex {
        self.committed.last().map_or(LogIndex::ZERO, |(index, _)| *index)
    }

    /// The one that was in force after the entry at `index`.
    pub fn at(&self, index: LogIndex) -> &Membership {
        let known = self.committed.iter().rev().find(|(at, _)| *at <= index);
        known.map_or(&self.initial, |(_, membership)| membership)
    }
}

/// Whether more than half of `voters` hold something.
pub fn is_majority(voters: &BTreeSet<NodeId>, holds: impl Fn(NodeId) -> bool) -> bool {
    2 * voters.iter().filter(|voter| holds(**voter)).count() > voters.len()
}

/// Whether a quorum holds something: of both halves, while there are two (C7, MC-5).
pub fn is_quorum(membership: &Membership, holds: impl Fn(NodeId) -> bool) -> bool {
    let old = membership.voters_old.as_ref();
    is_majority(&membership.voters, &holds) && old.is_none_or(|old| is_majority(old, &holds))
}
