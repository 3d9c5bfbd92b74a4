//! Leadership transfer (thesis 3.10): a leader hands over to a follower that is caught up, with a
//! pause of one round trip instead of an election timeout.
//!
//! 1. The leader stops taking proposals, and from this moment its lease is suspect and its fence
//!    withdrawn: what follows breaks the promises the lease rests on (R4).
//! 2. It brings the target up to date and waits until all of its log is committed, so that nobody who
//!    waits for a write is left in doubt by the change (T-5). Then it says TimeoutNow.
//! 3. The target campaigns at once, without pre-vote (L6). Its vote request names the leader's term
//!    and the transfer's number, which releases the voters from their promise to that leader (L7).
//! 4. If nothing comes of it within an election timeout, the leader gives the transfer up (L8). A
//!    late TimeoutNow or vote request of it may still be on its way; so the leader first opens a
//!    *new session* with everybody. Numbers of transfers and sessions come from one counter: who
//!    has answered in a newer session refuses an older transfer, and only those answers make the
//!    lease valid again.

use crate::ids::{IoSeq, NodeId, Session, Term, Ticket};
use crate::raft::core::Core;
use crate::raft::effect::{Outcome, TransferRefusal};
use crate::raft::leader::Leader;
use crate::raft::message::{Body, TimeoutNow};
use crate::raft::progress::Progress;
use crate::time::Instant;

/// A transfer under way, at the leader.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Transfer {
    /// Who waits; nobody when a leader without a vote hands over by itself.
    pub ticket: Option<Ticket>,
    pub target: NodeId,
    /// Newer than every session open when it began.
    pub number: Session,
    /// When the leader gives it up.
    pub deadline: Instant,
    /// Whether TimeoutNow has been said.
    pub said: bool,
}

/// A transfer whose leader has been replaced: it remains to hear by whom.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Departure {
    pub ticket: Option<Ticket>,
    pub from_term: Term,
    pub deadline: Instant,
}

/// What releases voters from their promise: the term of the leader that hands over, and the number
/// of the transfer.
pub(super) type Release = (Term, Session);

impl Leader {
    /// A caller wants leadership to move.
    pub fn on_transfer(&mut self, core: &mut Core, ticket: Ticket, to: Option<NodeId>) {
        if self.transfer.is_some() {
            return core.reply(ticket, Outcome::TransferRefused(TransferRefusal::InProgress));
        }
        match self.choose(core, to) {
            Err(refusal) => core.reply(ticket, Outcome::TransferRefused(refusal)),
            Ok(target) => self.begin_transfer(core, Some(ticket), target),
        }
    }

    pub fn begin_transfer(&mut self, core: &mut Core, ticket: Option<Ticket>, target: NodeId) {
        let number = core.next_session();
        if let Some(peer) = self.peers.get_mut(&target).filter(|peer| peer.is_behind(core.last_log())) {
            peer.start_over();
        }
        let deadline = core.now + core.config.election_timeout_max;
        // R4: before TimeoutNow leaves, and not to be lifted by anything sent until now.
        self.suspect_since = Some(core.now);
        self.transfer = Some(Transfer { ticket, target, number, deadline, said: false });
    }

    /// The wished voter, or the most up-to-date one; it must have answered lately. Not one that is about to
    /// lose its vote.
    pub fn choose(&self, core: &Core, to: Option<NodeId>) -> Result<NodeId, TransferRefusal> {
        if to.is_some_and(|to| to == core.id() || !core.membership().voters.contains(&to)) {
            return Err(TransferRefusal::NotAVoter);
        }
        let in_contact = self
            .peers
            .iter()
            .filter(|(id, peer)| core.membership().voters.contains(id) && is_in_contact(core, peer));
        let wished = in_contact.filter(|(id, _)| to.is_none_or(|to| to == **id));
        // Of equals the first, so that the same cluster chooses the same.
        let best = wished.min_by_key(|(id, peer)| (std::cmp::Reverse(peer.match_index), **id));
        best.map(|(id, _)| *id).ok_or(TransferRefusal::NobodyCaughtUp)
    }

    /// Says TimeoutNow once the target holds the whole log, and all of it is committed (T-5).
    pub fn hand_over(&mut self, core: &mut Core) {
        let Some(transfer) = &mut self.transfer else { return };
        let last_log = core.last_log();
        let caught_up =
            self.peers.get(&transfer.target).is_some_and(|peer| peer.match_index == last_log.index);
        let settled = core.commit_index == last_log.index;
        if caught_up && settled && !transfer.said {
            transfer.said = true;
            let order = Body::TimeoutNow(TimeoutNow { last_log });
            core.send(transfer.target, transfer.number, order, IoSeq::ZERO);
        }
    }

    /// T-4: nothing came of it. The new sessions end what the transfer has released (R4, L8).
    pub fn give_up_transfer(&mut self, core: &mut Core, ticket: Option<Ticket>) {
        core.answer(ticket, Outcome::TransferRefused(TransferRefusal::TimedOut));
        self.renew_sessions(core);
    }
}

/// Whether a follower has answered lately.
pub(super) fn is_in_contact(core: &Core, peer: &Progress) -> bool {
    peer.contact.is_some_and(|at: Instant| core.now.since(at) < core.config.election_timeout_min)
}
