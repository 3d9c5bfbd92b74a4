//! Membership change (thesis 4.3): voters change through joint consensus, learners in one step.
//!
//! ```text
//!    change of learners only:   {v, l}  ------------------------------------------------>  {v, l'}
//!    change of voters:          {v, l}  -->  {v', l', old: v}  -- when committed -->       {v', l'}
//! ```
//!
//! 1. The leader takes one change at a time, and none before an entry of its own term is committed (M1).
//!    It refuses what could not be undone: a voter that is not caught up, or a set of voters of which no
//!    majority is in contact now (M10).
//! 2. A membership is in force when it is appended, at every node, and no more when its entry is cut
//!    (C13). So votes, commits, reads, leases and check quorum all follow the log at once; while two sets of
//!    voters are named, majorities of both are needed, which any majority of either intersects.
//! 3. Whoever leads when the joint entry is committed appends the final one. It is a level and no edge:
//!    a leader that was elected in between finds the joint entry in its log and goes on.
//! 4. The leader goes on replicating to who was left out until that node knows that the final entry is
//!    committed, so that it can end by itself instead of asking for votes (M8).
//! 5. A leader that the final entry leaves without a vote counts for nothing (M4), and hands leadership over
//!    once that entry is committed (M5).
//!
//! Names of data directories travel with the membership: a member that is added with its incarnation is
//! known by that one only, whatever was heard before (V8). So a node with a wiped disk comes back under its
//! old id by being removed and added, and a late message from its former directory is nobody's.
//!
//! Addresses are no part of this: who is where is in the registry.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::ids::{LogId, LogIndex, NodeId, Ticket};
use crate::raft::core::Core;
use crate::raft::effect::Outcome;
use crate::raft::entry::{Membership, Payload};
use crate::raft::leader::Leader;
use crate::raft::progress::Progress;
use crate::raft::transfer::is_in_contact;
use crate::time::Instant;

/// How far behind the leader's last entry a learner may be to be given a vote. It catches up with this much
/// while the joint entry is being committed.
pub const CAUGHT_UP: u64 = 1000;

/// For how many election timeouts a node that was left out is told so.
const TELL_FOR: u32 = 10;

/// What is to be different in a membership. Everything named takes place at once.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Change {
    /// New members: learners at first. With the incarnation of the data directory, if known; needed for an
    /// id that was in use before.
    pub add: BTreeMap<NodeId, Option<u64>>,
    /// Learners that become voters.
    pub promote: BTreeSet<NodeId>,
    /// Voters that become learners.
    pub demote: BTreeSet<NodeId>,
    /// Members that are to leave.
    pub remove: BTreeSet<NodeId>,
}

/// Why the membership stayed as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum ReconfigureRefusal {
    /// Another change, or a transfer of leadership, is under way.
    #[error("another change, or a transfer of leadership, is under way; try again when it has ended")]
    InProgress,
    /// The leader has not committed an entry of its own term yet (M1).
    #[error("the leader has just been elected; try again in a moment")]
    NotReady,
    /// Nothing would be different.
    #[error("nothing would be different")]
    NoChange,
    /// It is a member already.
    #[error("node {0} is a member already")]
    AlreadyAMember(NodeId),
    /// It is no member, or not of the kind that the change is for.
    #[error(
        "node {0} is no member of that kind: only a learner can be promoted, only a voter demoted, only a member removed"
    )]
    NotSuch(NodeId),
    /// The id was in use by another data directory, so the new one must be named (V8).
    #[error(
        "node {0} was known by another data directory before: name the incarnation of the new one, which that node \
         shows when it starts, or take an id that was never in use"
    )]
    KnownByAnotherDirectory(NodeId),
    /// The learner lacks this many entries.
    #[error("node {node} is {behind} log entries behind; promote it when it has caught up")]
    NotCaughtUp {
        /// Who.
        node: NodeId,
        /// How many entries it is behind.
        behind: u64,
    },
    /// The new member has not answered lately.
    #[error("node {0} has not answered lately; is it running, and can the leader reach its peer address?")]
    NotInContact(NodeId),
    /// Nobody would be left to vote.
    #[error("nobody would be left to vote; give another member a vote first, with `termgate member promote`")]
    NoVoters,
    /// No majority of the voters is in contact, of the present or of the new ones: the change could not be
    /// completed (M10).
    #[error(
        "only {in_contact} of {voters} voters can be reached, which is no majority: the change would stop the \
         cluster; bring nodes back first, or remove those that are gone"
    )]
    NoQuorum {
        /// How many of them are.
        in_contact: usize,
        /// How many there are, or would be.
        voters: usize,
    },
}

/// A node that was left out and is still being told.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Leaving {
    /// The entry that leaves it out.
    index: LogIndex,
    /// When to stop.
    until: Instant,
}

impl Leader {
    /// A caller wants the membership changed.
    pub fn on_reconfigure(&mut self, core: &mut Core, ticket: Ticket, change: &Change) {
        match self.plan(core, change) {
            Err(refusal) => core.reply(ticket, Outcome::ReconfigureRefused(refusal)),
            Ok(membership) => {
                self.changing = Some(ticket);
                self.enter(core, membership);
            }
        }
    }

    /// The next membership, or why there can't be one.
    pub fn plan(&self, core: &Core, change: &Change) -> Result<Membership, ReconfigureRefusal> {
        let now = core.membership();
        // MC-2.
        if self.transfer.is_some() || !core.is_settled() || now.is_joint() {
            return Err(ReconfigureRefusal::InProgress);
        }
        // MC-1.
        if core.commit_index < self.noop {
            return Err(ReconfigureRefusal::NotReady);
        }
        let next = apply(now, change)?;
        // MC-10.
        for (node, incarnation) in &change.add {
            if incarnation.is_none() && core.first_of_name(*node).is_some() {
                return Err(ReconfigureRefusal::KnownByAnotherDirectory(*node));
            }
        }
        change.promote.iter().try_for_each(|node| self.is_ready(core, *node))?;
        self.keeps_a_quorum(core, &next)?;
        Ok(next)
    }

    /// MC-3: a learner is given a vote when it can use it.
    fn is_ready(&self, core: &Core, learner: NodeId) -> Result<(), ReconfigureRefusal> {
        let peer = self.peers.get(&learner).ok_or(ReconfigureRefusal::NotInContact(learner))?;
        if !is_in_contact(core, peer) {
            return Err(ReconfigureRefusal::NotInContact(learner));
        }
        let behind = core.last_log().index.0.saturating_sub(peer.match_index.0);
        // It must know who votes, or it gives no vote (MC-9), and nobody might be elected without it.
        let knows_the_voters = peer.match_index >= core.log.membership_index();
        if behind > CAUGHT_UP || !knows_the_voters {
            return Err(ReconfigureRefusal::NotCaughtUp { node: learner, behind });
        }
        Ok(())
    }

    /// MC-4: what could not be completed is not begun.
    fn keeps_a_quorum(&self, core: &Core, next: &Membership) -> Result<(), ReconfigureRefusal> {
        if next.voters == core.membership().voters {
            return Ok(());
        }
        let is_here = |id: &NodeId| {
            *id == core.id() || self.peers.get(id).is_some_and(|peer| is_in_contact(core, peer))
        };
        // Both must agree to it.
        for voters in [&next.voters, &core.membership().voters] {
            let here: BTreeSet<NodeId> = voters.iter().copied().filter(is_here).collect();
            if !Membership::of_voters(voters.clone()).is_quorum(&here) {
                let (in_contact, voters) = (here.len(), voters.len());
                return Err(ReconfigureRefusal::NoQuorum { in_contact, voters });
            }
        }
        Ok(())
    }

    /// Appends a membership, which is in force from here on: sessions with who is new, farewell to who is not
    /// in it.
    fn enter(&mut self, core: &mut Core, membership: Membership) {
        let last = core.last_log().index;
        let index = self.append(core, Payload::Membership(membership));
        for id in core.peers() {
            // MC-10: one that was left out a moment ago and is added again may have lost what it had: nothing that
            // it said before counts, or a heartbeat would name an entry that its new directory never held (C14).
            if self.leaving.remove(&id).is_some() {
                self.peers.remove(&id);
            }
            self.peers.entry(id).or_insert_with(|| Progress::new(core.next_session(), last, core.now));
        }
        let until = core.now + core.config.election_timeout_max * TELL_FOR;
        for id in self.peers.keys().filter(|id| !core.membership().contains(**id)) {
            self.leaving.entry(*id).or_insert(Leaving { index, until });
        }
    }

    /// MC-5: something was committed: the joint membership is followed by the final one, and who waits for
    /// that is answered when it is committed too.
    pub fn settle_membership(&mut self, core: &mut Core) {
        if !core.is_settled() {
            return;
        }
        if core.membership().is_joint() {
            if self.transfer.is_none() {
                self.enter(core, core.membership().completed());
            }
            return;
        }
        let at = core.log.membership_index();
        if let Some(term) = core.log.term_at(at) {
            core.answer(self.changing.take(), Outcome::Reconfigured(LogId::new(term, at)));
        }
        if self.must_hand_over(core) {
            self.heartbeat_at = core.now;
        }
    }

    /// MC-8: a leader without a vote leads until somebody else can (M5).
    pub fn must_hand_over(&self, core: &Core) -> bool {
        self.transfer.is_none() && !core.is_voter() && core.is_settled()
    }

    /// MC-6: who knows that it was left out, or had time enough to hear it, is no longer told.
    pub fn let_go(&mut self, core: &Core) {
        let Self { peers, leaving, .. } = self;
        leaving.retain(|id, leaving| {
            let knows = peers.get(id).is_none_or(|peer| peer.commit_index >= leaving.index);
            let over = knows || core.now >= leaving.until;
            if over {
                peers.remove(id);
            }
            !over
        });
    }
}

/// `now` with `change` made to it: joint, when voters change.
fn apply(now: &Membership, change: &Change) -> Result<Membership, ReconfigureRefusal> {
    let mut next = now.clone();
    for (node, incarnation) in &change.add {
        if now.contains(*node) {
            return Err(ReconfigureRefusal::AlreadyAMember(*node));
        }
        next.learners.insert(*node);
        next.incarnations.extend(incarnation.map(|incarnation| (*node, incarnation)));
    }
    for node in &change.promote {
        if !next.learners.remove(node) {
            return Err(ReconfigureRefusal::NotSuch(*node));
        }
        next.voters.insert(*node);
    }
    for node in &change.demote {
        if !now.voters.contains(node) || !next.voters.remove(node) {
            return Err(ReconfigureRefusal::NotSuch(*node));
        }
        next.learners.insert(*node);
    }
    for node in &change.remove {
        if !now.contains(*node) {
            return Err(ReconfigureRefusal::NotSuch(*node));
        }
        next.voters.remove(node);
        next.learners.remove(node);
    }
    if next.voters.is_empty() {
        return Err(ReconfigureRefusal::NoVoters);
    }
    if next == *now {
        return Err(ReconfigureRefusal::NoChange);
    }
    if next.voters == now.voters {
        return Ok(next.completed());
    }
    next.voters_old = Some(now.voters.clone());
    Ok(next)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(ids: &[u64]) -> BTreeSet<NodeId> {
        ids.iter().copied().map(NodeId).collect()
    }

    fn change(promote: &[u64], demote: &[u64], remove: &[u64]) -> Change {
        let add = BTreeMap::new();
        Change { add, promote: set(promote), demote: set(demote), remove: set(remove) }
    }

    fn of_three() -> Membership {
        let incarnations = BTreeMap::from([(NodeId(3), 33), (NodeId(4), 44)]);
        Membership { learners: set(&[4]), incarnations, ..Membership::of_voters(set(&[1, 2, 3])) }
    }

    #[test]
    fn a_replacement_is_one_joint_change() {
        let joint = apply(&of_three(), &change(&[4], &[], &[3])).unwrap();
        assert_eq!((&joint.voters, &joint.voters_old), (&set(&[1, 2, 4]), &Some(set(&[1, 2, 3]))));
        // Node 3 still votes in the old half, and is known by its directory meanwhile.
        assert_eq!(joint.incarnations.len(), 2);
        let last = joint.completed();
        assert_eq!((last.is_joint(), last.members()), (false, set(&[1, 2, 4])));
        assert_eq!(last.incarnations, BTreeMap::from([(NodeId(4), 44)]));
    }

    #[test]
    fn learners_come_and_go_in_one_step() {
        let added = Change { add: BTreeMap::from([(NodeId(5), Some(55))]), ..Change::default() };
        let more = apply(&of_three(), &added).unwrap();
        assert_eq!((more.is_joint(), more.learners.clone()), (false, set(&[4, 5])));
        assert_eq!(more.incarnations.get(&NodeId(5)), Some(&55));
        let fewer = apply(&more, &change(&[], &[], &[4])).unwrap();
        assert_eq!((fewer.is_joint(), fewer.learners), (false, set(&[5])));
        assert_eq!(fewer.incarnations.get(&NodeId(4)), None);
    }

    #[test]
    fn a_demoted_voter_is_a_learner_that_still_votes_in_the_old_half() {
        let joint = apply(&of_three(), &change(&[], &[2], &[])).unwrap();
        assert_eq!((joint.is_voter(NodeId(2)), joint.learners.clone()), (true, set(&[2, 4])));
        assert!(!joint.completed().is_voter(NodeId(2)));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        use ReconfigureRefusal::{NoChange, NoVoters, NotSuch};
        let refused = |change| apply(&of_three(), &change).unwrap_err();
        assert_eq!(refused(change(&[], &[], &[1, 2, 3])), NoVoters);
        assert_eq!(refused(change(&[2], &[], &[])), NotSuch(NodeId(2)));
        assert_eq!(refused(change(&[], &[4], &[])), NotSuch(NodeId(4)));
        assert_eq!(refused(change(&[4], &[4], &[])), NotSuch(NodeId(4)));
        assert_eq!(refused(change(&[], &[], &[9])), NotSuch(NodeId(9)));
        assert_eq!(refused(Change::default()), NoChange);
    }
}
