//! An old state as the first of a new cluster.

use std::collections::{BTreeMap, VecDeque};

use super::Machine;
use crate::ids::{LogId, LogIndex};
use crate::raft::entry::Membership;

/// How far the new cluster's log begins behind the old one's (DR-2): more entries than the old cluster can have
/// appended since, at a hundred thousand a second for a hundred days. A version that somebody still
/// remembers from that time then never comes again. Fifteen digits hold a thousand such leaps.
pub const INDEX_LEAP: u64 = 1_000_000_000_000;

impl Machine {
    /// This state, after `last` and before the first entry of a new cluster of `membership`.
    ///
    /// What is bound to the old cluster's log or processes ends here, and every field says which it is:
    ///
    /// - keys, with their versions, and fences stay (DR-4): clients and backends remember them;
    /// - who led is history, and stays;
    /// - addresses go: those of the new members are configured;
    /// - old members that are none of the new ones count as removed;
    /// - changes of the old members and invitations among them go.
    ///
    /// # Panics
    /// When `last` is not behind this state.
    pub fn founded(mut self, last: LogId, membership: Membership) -> Self {
        assert!(last.index > self.applied.index && last.term >= self.applied.term, "a founding goes forward");
        self.remember_removed(last.index, &membership);
        let Self {
            applied: _,
            keys,
            bytes,
            configured: _,
            members: _,
            membership: _,
            removed,
            roster_version,
            leaders,
            fences,
            changes: _,
            invitations: _,
            undecodable_count,
            digest,
        } = self;
        Self {
            applied: last,
            keys,
            bytes,
            configured: BTreeMap::new(),
            members: BTreeMap::new(),
            membership,
            removed,
            roster_version,
            leaders,
            fences,
            changes: VecDeque::new(),
            invitations: BTreeMap::new(),
            undecodable_count,
            digest,
        }
    }

    /// Where a cluster that is founded on this state begins its log.
    pub fn leap(&self) -> LogIndex {
        LogIndex(self.applied.index.0.saturating_add(INDEX_LEAP))
    }
}
