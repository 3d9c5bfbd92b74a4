//! Changes of the members: what of them is in the registry.
//!
//! The membership itself is an entry of Raft's own and says who votes. Here is what it does not say:
//! where members are, which request asked for a change (so that it can be asked again), and who was invited.

use serde::{Deserialize, Serialize};

use super::Machine;
use crate::ids::{LogId, LogIndex, NodeId};
use crate::raft::entry::Membership;
use crate::registry::command::{Answer, Goal, Intent, Invitation, Member, Redemption, RequestName};
use crate::registry::limits;

/// A change of the members that was asked for by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeRecord {
    /// Who asked for what.
    pub request: RequestName,
    /// What the membership has to be like.
    pub goal: Goal,
    /// The entry that says so.
    pub begun: LogIndex,
    /// The entry with which it was like that. What happens to the membership later is another change's.
    pub done: Option<LogIndex>,
}

/// An invitation, and what became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct InvitationRecord {
    /// Verifies the signature of whoever holds the token.
    pub verifier: [u8; 32],
    /// From when on it is refused, in seconds since 1970.
    pub expires_at: u64,
    /// The entry that made it.
    pub made: LogIndex,
    /// SHA-256 of the request that it was used for.
    pub redeemed_by: Option<[u8; 32]>,
}

impl Machine {
    /// A membership is committed.
    pub(super) fn enter(&mut self, at: LogIndex, membership: &Membership) {
        // A request that was good for one stay must not bring its member back after the next removal.
        let left = |node: &NodeId| self.membership.contains(*node) && !membership.contains(*node);
        self.invitations.retain(|node, _| !left(node));
        self.remember_removed(at, membership);
        self.membership = membership.clone();
        self.roster_version += 1;
        if membership.is_joint() {
            return;
        }
        let open = self.changes.iter_mut().filter(|change| change.done.is_none());
        open.filter(|change| change.goal.holds(membership)).for_each(|change| change.done = Some(at));
    }

    /// The same request again changes nothing, also not the addresses, which may have changed since.
    pub(super) fn intend(&mut self, id: LogId, intent: Intent) -> Result<LogIndex, Answer> {
        let Intent { request, member, goal, reached } = intent;
        if let Some(request) = &request {
            if request.key.is_empty() || request.key.len() > limits::REQUEST_KEY_BYTES {
                return Err(Answer::LimitExceeded("the name of a request has 1 to 128 bytes"));
            }
            if let Some(known) = self.change(&request.key) {
                let (same, begun) = (known.request == *request, known.begun);
                return if same { Ok(begun) } else { Err(Answer::ConditionFailed { current: Some(begun) }) };
            }
        }
        if let Some(member) = member {
            self.set_member(id, member)?;
        }
        if let Some(request) = request {
            if self.changes.len() == limits::CHANGES {
                self.changes.pop_front();
            }
            let done = reached.then_some(id.index);
            self.changes.push_back(ChangeRecord { request, goal, begun: id.index, done });
        }
        Ok(id.index)
    }

    /// An older invitation for the same id is no longer good: so a token that got lost is revoked.
    pub(super) fn invite(&mut self, id: LogId, invitation: &Invitation) -> Result<LogIndex, Answer> {
        let Invitation { node, verifier, made_at, expires_at } = *invitation;
        if self.membership.contains(node) {
            return Err(Answer::ConditionFailed { current: None });
        }
        self.invitations.retain(|_, open| open.expires_at > made_at);
        if !self.invitations.contains_key(&node) && self.invitations.len() >= limits::INVITATIONS {
            return Err(Answer::LimitExceeded("at most 64 invitations are open"));
        }
        let record = InvitationRecord { verifier, expires_at, made: id.index, redeemed_by: None };
        self.invitations.insert(node, record);
        Ok(id.index)
    }

    /// Good for one request, which may come again.
    pub(super) fn redeem(&mut self, id: LogId, redemption: Redemption) -> Result<LogIndex, Answer> {
        let Redemption { invitation: made, by, member } = redemption;
        let node = member.id;
        let open = self.invitations.get(&node).filter(|open| open.made == made).ok_or(Answer::NotFound)?;
        match open.redeemed_by {
            Some(known) if known == by => return Ok(made),
            None if !self.membership.contains(node) => {}
            _ => return Err(Answer::ConditionFailed { current: Some(made) }),
        }
        self.set_member(id, member)?;
        if let Some(open) = self.invitations.get_mut(&node) {
            open.redeemed_by = Some(by);
        }
        Ok(id.index)
    }

    pub(super) fn set_member(&mut self, id: LogId, member: Member) -> Result<LogIndex, Answer> {
        let texts = [&member.peer, &member.proxy, &member.hop, &member.api];
        if texts.into_iter().chain(&member.zone).any(|text| text.len() > limits::ADDRESS_BYTES) {
            return Err(Answer::LimitExceeded("an address has at most 300 bytes"));
        }
        if !self.members.contains_key(&member.id) && self.members.len() >= limits::MEMBERS {
            self.forget_former_members();
            if self.members.len() >= limits::MEMBERS {
                return Err(Answer::LimitExceeded("at most 64 members are remembered"));
            }
        }
        self.members.insert(member.id, member);
        self.roster_version += 1;
        Ok(id.index)
    }

    /// Whoever is left out is remembered, so that it can be told when it comes back. A first configuration is
    /// no entry; but its voters are in the joint membership that precedes the first without one of them.
    pub(super) fn remember_removed(&mut self, at: LogIndex, membership: &Membership) {
        let left_out = |node: &NodeId| !membership.contains(*node);
        self.removed.extend(self.membership.members().into_iter().filter(left_out).map(|node| (node, at)));
        self.removed.retain(|node, _| left_out(node));
        while self.removed.len() > limits::REMOVED {
            let oldest = self.removed.iter().min_by_key(|(_, at)| **at).map(|(node, _)| *node);
            oldest.map(|node| self.removed.remove(&node));
        }
    }

    /// Where somebody was who has left is of use only for a while.
    fn forget_former_members(&mut self) {
        let Self { members, membership, .. } = self;
        // Before the first membership of the log nobody knows who has left.
        members.retain(|node, _| membership.voters.is_empty() || membership.contains(*node));
    }

    /// The change that was asked for under this name, if it is still remembered.
    pub fn change(&self, key: &str) -> Option<&ChangeRecord> {
        self.changes.iter().find(|change| change.request.key == key)
    }

    /// The invitation for this id.
    pub fn invitation(&self, node: NodeId) -> Option<&InvitationRecord> {
        self.invitations.get(&node)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::ids::Term;
    use crate::raft::entry::{Entry, Payload};
    use crate::registry::command::{Command, Op, Standing};

    fn id(index: u64) -> LogId {
        LogId::new(Term(1), LogIndex(index))
    }

    fn member(node: u64, host: &str) -> Member {
        let at = |port| format!("{host}:{port}");
        Member { id: NodeId(node), peer: at(1), proxy: at(2), hop: at(2), api: at(3), zone: None }
    }

    fn named(key: &str, digest: u8) -> Option<RequestName> {
        Some(RequestName { key: key.into(), digest: [digest; 32] })
    }

    fn voters(ids: &[u64]) -> Membership {
        Membership::of_voters(ids.iter().copied().map(NodeId))
    }

    struct Run(Machine);

    impl Run {
        fn new() -> Self {
            let mut run = Self(Machine::new(Vec::new()));
            run.enter(voters(&[1, 2, 3]));
            run
        }

        fn next(&self) -> LogId {
            id(self.0.applied().index.0 + 1)
        }

        fn op(&mut self, op: Op) -> Answer {
            let bytes = postcard::to_stdvec(&Command { decided_in: Term(1), op }).unwrap();
            let entry = Entry { id: self.next(), payload: Payload::Command(Bytes::from(bytes)) };
            self.0.apply(&entry).unwrap()
        }

        fn enter(&mut self, membership: Membership) {
            let entry = Entry { id: self.next(), payload: Payload::Membership(membership) };
            assert_eq!(self.0.apply(&entry), None);
        }

        fn intend(&mut self, request: Option<RequestName>, host: &str, goal: Goal) -> Answer {
            let member = Some(member(4, host));
            self.op(Op::Intend(Box::new(Intent { request, member, goal, reached: false })))
        }

        fn invite(&mut self, node: u64, made_at: u64, expires_at: u64) -> Answer {
            let verifier = [node as u8; 32];
            self.op(Op::Invite(Invitation { node: NodeId(node), verifier, made_at, expires_at }))
        }

        fn redeem(&mut self, node: u64, by: u8) -> Answer {
            let invitation = self.0.invitation(NodeId(node)).map_or(LogIndex(999), |open| open.made);
            let member = member(node, "new");
            self.op(Op::Redeem(Box::new(Redemption { invitation, by: [by; 32], member })))
        }
    }

    const VOTER_4: Goal = Goal { here: Some((NodeId(4), Standing::Voter)), gone: None };
    const fn done(version: u64) -> Answer {
        Answer::Done { version: LogIndex(version) }
    }

    #[test]
    fn a_request_that_comes_again_changes_nothing_and_its_name_is_taken() {
        let mut run = Run::new();
        assert_eq!(run.intend(named("k", 1), "a", VOTER_4), done(2));
        assert_eq!(run.intend(None, "b", VOTER_4), done(3));
        assert_eq!(run.intend(named("k", 1), "a", VOTER_4), done(2), "it was done then");
        assert_eq!(run.0.member(NodeId(4)).unwrap().peer, "b:1", "what came since stays");
        let taken = Answer::ConditionFailed { current: Some(LogIndex(2)) };
        assert_eq!(run.intend(named("k", 2), "a", VOTER_4), taken);
        for key in [String::new(), "k".repeat(limits::REQUEST_KEY_BYTES + 1)] {
            assert!(matches!(run.intend(named(&key, 1), "a", VOTER_4), Answer::LimitExceeded(_)));
        }
    }

    #[test]
    fn a_change_is_done_when_a_settled_membership_is_like_that_and_stays_done() {
        let mut run = Run::new();
        run.intend(named("add", 1), "a", VOTER_4);
        let joint = Membership { voters_old: Some(voters(&[1, 2, 3]).voters), ..voters(&[1, 2, 3, 4]) };
        run.enter(joint);
        assert_eq!(run.0.change("add").unwrap().done, None, "half of it");
        run.enter(voters(&[1, 2, 3, 4]));
        assert_eq!(run.0.change("add").unwrap().done, Some(LogIndex(4)));
        run.enter(voters(&[1, 2, 3]));
        assert_eq!(run.0.change("add").unwrap().done, Some(LogIndex(4)), "what came later is another change");
        let reached =
            Intent { request: named("gone", 2), member: None, goal: Goal::default(), reached: true };
        run.op(Op::Intend(Box::new(reached)));
        assert_eq!(run.0.change("gone").unwrap().done, Some(LogIndex(6)));
    }

    #[test]
    fn goals_look_at_votes_and_absence() {
        let membership = Membership { learners: [NodeId(4)].into(), ..voters(&[1, 2]) };
        let here = |node, standing| Goal { here: Some((NodeId(node), standing)), gone: None };
        assert!(here(4, Standing::Member).holds(&membership) && here(1, Standing::Member).holds(&membership));
        assert!(
            here(4, Standing::Learner).holds(&membership) && !here(1, Standing::Learner).holds(&membership)
        );
        assert!(!here(4, Standing::Voter).holds(&membership) && here(1, Standing::Voter).holds(&membership));
        let replaced = |gone| Goal { gone: Some(NodeId(gone)), ..here(1, Standing::Voter) };
        assert!(replaced(3).holds(&membership) && !replaced(2).holds(&membership));
    }

    #[test]
    fn the_oldest_change_is_forgotten_first() {
        let mut run = Run::new();
        for number in 0..=limits::CHANGES {
            run.intend(named(&number.to_string(), 1), "a", VOTER_4);
        }
        assert!(run.0.change("0").is_none() && run.0.change("1").is_some());
    }

    #[test]
    fn an_invitation_is_good_for_one_request_however_often_it_comes() {
        let mut run = Run::new();
        assert_eq!(run.invite(4, 10, 20), done(2));
        assert_eq!(run.redeem(4, 7), done(3));
        assert_eq!(run.0.member(NodeId(4)).unwrap().peer, "new:1");
        assert_eq!(run.redeem(4, 7), done(2), "an answer was lost");
        assert_eq!(run.redeem(4, 8), Answer::ConditionFailed { current: Some(LogIndex(2)) });
        assert_eq!(run.redeem(5, 7), Answer::NotFound);
    }

    #[test]
    fn a_new_invitation_takes_the_place_of_the_one_before() {
        let mut run = Run::new();
        run.invite(4, 10, 20);
        let old = run.0.invitation(NodeId(4)).unwrap().made;
        run.invite(4, 11, 21);
        let late = Redemption { invitation: old, by: [7; 32], member: member(4, "a") };
        assert_eq!(run.op(Op::Redeem(Box::new(late))), Answer::NotFound);
        assert_eq!(run.redeem(4, 7), done(5));
    }

    #[test]
    fn what_was_good_for_one_stay_is_not_for_the_next() {
        let mut run = Run::new();
        run.invite(4, 10, 20);
        run.redeem(4, 7);
        let learner = |node| Membership { learners: [NodeId(node)].into(), ..voters(&[1, 2, 3]) };
        run.enter(learner(4));
        assert_eq!(run.redeem(4, 7), done(2));
        assert_eq!(run.invite(4, 12, 22), Answer::ConditionFailed { current: None }, "it is a member");
        run.enter(voters(&[1, 2, 3]));
        assert_eq!(run.redeem(4, 7), Answer::NotFound);
        run.invite(5, 12, 22);
        run.enter(learner(5));
        let made = run.0.invitation(NodeId(5)).map(|open| open.made);
        assert_eq!(run.redeem(5, 7), Answer::ConditionFailed { current: made }, "somebody else is node 5");
    }

    #[test]
    fn open_invitations_have_a_limit_and_expired_ones_give_way() {
        let mut run = Run::new();
        for node in 0..limits::INVITATIONS as u64 {
            assert!(matches!(run.invite(100 + node, 10, 20), Answer::Done { .. }));
        }
        assert!(matches!(run.invite(4, 19, 29), Answer::LimitExceeded(_)));
        assert!(matches!(run.invite(100, 19, 29), Answer::Done { .. }));
        assert!(matches!(run.invite(4, 20, 30), Answer::Done { .. }));
        assert!(run.0.invitation(NodeId(101)).is_none() && run.0.invitation(NodeId(100)).is_some());
    }

    /// Whoever is left out is remembered until it is a member again, also by a copy of the state.
    #[test]
    fn who_was_removed_is_remembered() {
        let mut state = Run::new();
        let old = voters(&[1, 2, 3]).voters;
        state.enter(Membership { voters_old: Some(old), ..voters(&[1, 2]) });
        assert!(state.0.removed().is_empty(), "it still votes in the old half");
        let version = state.0.roster_version();
        state.enter(voters(&[1, 2]));
        assert_eq!(state.0.removed().keys().copied().collect::<Vec<_>>(), [NodeId(3)]);
        assert!(state.0.roster_version() > version);
        state.enter(Membership { learners: voters(&[3]).voters, ..voters(&[1, 2]) });
        assert!(state.0.removed().is_empty());
    }

    /// Whoever founds a cluster on a state must be able to read that state back.
    #[test]
    fn a_founding_remembers_no_more_who_left_than_a_snapshot_holds() {
        let mut run = Run::new();
        for node in 4..4 + limits::REMOVED as u64 {
            run.enter(voters(&[1, 2, 3, node]));
        }
        run.enter(voters(&[1, 2, 3]));
        let last = LogId::new(Term(9), LogIndex(10_000));
        let founded = run.0.founded(last, voters(&[9]));
        assert_eq!(founded.removed().len(), limits::REMOVED);
        assert!([1, 2, 3].iter().all(|node| founded.removed().contains_key(&NodeId(*node))));
    }

    #[test]
    fn former_members_are_forgotten_when_there_is_no_room() {
        let mut run = Run::new();
        let set = |run: &mut Run, node| run.op(Op::SetMember(member(node, "a")));
        for node in 1..=limits::MEMBERS as u64 {
            set(&mut run, node);
        }
        assert!(matches!(set(&mut run, 1_000), Answer::Done { .. }));
        assert!(run.0.member(NodeId(3)).is_some() && run.0.member(NodeId(4)).is_none());
    }
}
