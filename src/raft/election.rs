//! Elections: the one rule by which votes are given, and the candidate's side.
//!
//! ```text
//!              timeout                 quorum would vote           own vote durable, quorum voted
//!   follower ----------> pre-candidate ----------------> candidate -----------------------------> leader
//!       |                    |  ^ timeout: ask anew       |   | timeout: back to asking
//!       |                    |  `-------------------------'---'
//!       |  TimeoutNow                                     ^
//!       `------------------------------------------------'
//! ```
//!
//! A pre-vote (thesis 9.6) asks what a vote request would be answered, by the very same rule, and
//! changes nothing at the voter: no term, no timer, no promise (L5). So a node that was cut off
//! can't push the terms up.

use std::collections::BTreeSet;

use crate::ids::{Campaign, IoSeq, NodeId, Session};
use crate::raft::core::Core;
use crate::raft::message::{Ballot, Body, RequestVote, RequestVoteResponse, VoteRefusal};
use crate::raft::transfer::Release;
use crate::time::Instant;

/// The rule: may this node vote for the candidate? The same for a vote and a pre-vote. By the
/// candidate's configuration and not by the own role: a voter may not know yet that it is one (V9).
pub(super) fn judge(
    core: &Core,
    lease_is_live: bool,
    term: crate::ids::Term,
    session: Session,
    request: &RequestVote,
) -> Result<(), VoteRefusal> {
    let release: Option<Release> = request.transfer_from.map(|from| (from, session));
    if term < core.term() {
        return Err(VoteRefusal::StaleTerm);
    }
    // MC-9, MC-11: a node that knows of no member yet has not been told what it would have to agree with, and one
    // whose name was another's before may hold no more than what that one knew.
    if core.disk_stalled || core.membership().voters.is_empty() || core.is_a_mere_namesake() {
        return Err(VoteRefusal::Unfit);
    }
    // V-5, before the higher term is even looked at: stickiness (thesis 4.2.3), the boot hold (R7), and
    // a leader's own word to itself (R14).
    if lease_is_live || core.promised.forbids(core.now, request.candidate_id, release) {
        return Err(VoteRefusal::Promised);
    }
    if term == core.term() && core.hard_state.voted_for.is_some_and(|vote| vote != request.candidate_id) {
        return Err(VoteRefusal::AlreadyVoted);
    }
    // V7, also when the vote is asked for a second time (V2).
    if request.last_log < core.last_log() {
        return Err(VoteRefusal::LogBehind);
    }
    Ok(())
}

/// One campaign: a pre-vote round, or a vote. A node has at most one (L12).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Candidate {
    pub ballot: Ballot,
    pub granted: BTreeSet<NodeId>,
    /// Voters whose answer will not change in this term: asking them again is in vain.
    settled: BTreeSet<NodeId>,
    /// When to give up and ask anew.
    pub deadline: Instant,
    /// Whether a voter has given its vote to another candidate: a split vote.
    split: bool,
    /// When to ask those again who have not granted: messages get lost, promises run out.
    pub ask_again: Instant,
    /// What must be durable before the own vote counts.
    candidacy: IoSeq,
    release: Option<Release>,
}

impl Candidate {
    /// Asks whether a campaign could be won. The known leader is forgotten by becoming this (L1).
    pub fn pre_vote(core: &mut Core) -> Self {
        Self::begin(core, true, None)
    }

    /// Votes for itself in a new term and asks for votes. T-2: a transfer comes here without a pre-vote, and
    /// its requests say what it releases.
    pub fn vote(core: &mut Core, release: Option<Release>) -> Self {
        core.adopt_term(core.term().next());
        core.vote_for(core.id());
        Self::begin(core, false, release)
    }

    fn begin(core: &mut Core, pre_vote: bool, release: Option<Release>) -> Self {
        let campaign: Campaign = core.next_campaign();
        let candidate = Self {
            ballot: Ballot { campaign, pre_vote },
            granted: BTreeSet::from([core.id()]),
            settled: BTreeSet::from([core.id()]),
            deadline: core.election_deadline(),
            split: false,
            ask_again: core.now + core.config.heartbeat_interval,
            candidacy: core.candidacy_io(),
            release,
        };
        candidate.ask(core);
        candidate
    }

    fn ask(&self, core: &mut Core) {
        let term = if self.ballot.pre_vote { core.term().next() } else { core.term() };
        let (transfer_from, session) =
            self.release.map_or((None, Session::ZERO), |(from, number)| (Some(from), number));
        for peer in core.peers() {
            if !core.membership().is_voter(peer) || self.settled.contains(&peer) {
                continue;
            }
            let (ballot, candidate_id, last_log) = (self.ballot, core.id(), core.last_log());
            let request = RequestVote { ballot, candidate_id, last_log, transfer_from };
            // V6: nothing is claimed that a crash could take away.
            core.send_in(term, peer, session, Body::RequestVote(request), self.candidacy);
        }
    }

    /// Asks again if it is time to. L14: if the vote is split, and everybody had time to answer, the next
    /// round begins soon instead of after another election timeout.
    pub fn on_timeout(&mut self, core: &mut Core) {
        if core.now >= self.ask_again {
            if std::mem::take(&mut self.split) {
                self.deadline = self.deadline.min(core.retry_deadline());
            }
            self.ask_again = core.now + core.config.heartbeat_interval;
            self.ask(core);
        }
    }

    /// Counts an answer. False when it belongs to another round (V4).
    pub fn on_response(&mut self, from: NodeId, response: &RequestVoteResponse) -> bool {
        if response.ballot != self.ballot {
            return false;
        }
        if response.vote_granted {
            self.granted.insert(from);
        }
        self.split |= !self.ballot.pre_vote && response.refusal == Some(VoteRefusal::AlreadyVoted);
        let for_good = matches!(response.refusal, Some(VoteRefusal::AlreadyVoted | VoteRefusal::LogBehind));
        if response.vote_granted || (for_good && !self.ballot.pre_vote) {
            self.settled.insert(from);
        }
        true
    }

    /// Whether the round is won. Grants from outside the configuration count for nothing (M9); the
    /// own vote of a real campaign counts once it is durable (V1).
    pub fn has_won(&self, core: &Core) -> bool {
        (self.ballot.pre_vote || core.is_durable(self.candidacy))
            && core.membership().is_quorum(&self.granted)
    }
}
