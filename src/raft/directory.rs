//! Who speaks for a name: which data directory a membership means, when more than one has gone by a node's
//! id (MC-11). What others say from which directory is [`Core::recognises`]'s.
//!
//! ```text
//!   3@1: members {1,2,3}      7@2: members {1,2}      9@2: members {1,2} learners {3 = directory 33}
//!        the first 3               removed                 added again, with an empty disk
//! ```
//!
//! The new directory gets this very log, or a snapshot of its beginning. Until 7@2 it would find itself a
//! voter, of whose votes and promises it knows nothing. So it is told, before it gets any of it, that another went by
//! its name first.

use crate::ids::{LogIndex, NodeId};
use crate::raft::core::Core;
use crate::raft::entry::Membership;

/// In place of an incarnation: no directory that anybody has heard of.
const NOBODY: u64 = 0;

impl Core {
    pub fn has_a_vote_in(&self, membership: &Membership) -> bool {
        membership.is_voter(self.id()) && self.is_meant_by(membership)
    }

    /// MC-11: whether a membership that has this node's name means this data directory. One without any
    /// incarnation means the first that went by the name, which may have been another: then a log, or a
    /// snapshot, from before this one was added says nothing about it.
    fn is_meant_by(&self, membership: &Membership) -> bool {
        match membership.incarnations.get(&self.id()) {
            Some(added_with) => *added_with == self.life.incarnation,
            None => !self.shares_its_name(),
        }
    }

    fn shares_its_name(&self) -> bool {
        self.pinned.get(&self.id()).is_some_and(|first| *first != self.life.incarnation)
    }

    /// Whether a membership that this node met ever meant it: until then it waits to be added. What is cut from
    /// the log was never agreed upon, and counts no more.
    pub fn has_been_named(&self) -> bool {
        self.was_named_until(self.log.last().index)
    }

    pub fn was_named_until(&self, index: LogIndex) -> bool {
        self.was_named
            || self.log.memberships_until(index).any(|m| m.contains(self.id()) && self.is_meant_by(m))
    }

    /// MC-11: another directory went by this node's name, and no membership here is of a time since this one was
    /// added. Its word could stand beside that of the other one.
    pub fn is_a_mere_namesake(&self) -> bool {
        !self.has_been_named() && self.shares_its_name()
    }

    /// Whether a leader that says this knows this node's name by another directory.
    pub fn is_said_of_another(&self, known: &[(NodeId, u64)]) -> bool {
        let own = [NOBODY, self.life.incarnation];
        known.iter().any(|(member, first)| *member == self.id() && !own.contains(first))
    }

    /// MC-11: who went by a member's name first, as far as that has to be told to it. Where it was added with its
    /// directory there may have been another, whether this node has heard of that or not.
    pub fn first_of_name(&self, member: NodeId) -> Option<u64> {
        let added = self.was_added_by_directory(member);
        if added { Some(NOBODY) } else { self.pinned.get(&member).copied() }
    }

    /// Whether a membership from the log's base on names a directory of `member`.
    pub fn was_added_by_directory(&self, member: NodeId) -> bool {
        self.log.memberships().any(|membership| membership.incarnations.contains_key(&member))
    }
}
