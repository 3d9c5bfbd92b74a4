//! The way of one request past the gate, as decisions: may it be stamped here, may its first byte
//! leave, and what is known of it when an exchange breaks.
//!
//! What decides is what was certainly not sent. Such a request may go to the next leader, whatever
//! its method; anything else has an unknown outcome, and is never sent again by us (G5). The proxy
//! asks these questions over sockets and the simulator over simulated ones: nothing here knows
//! either.
//!
//! Left out: waiting, connections, and the words in which a client is told.

use crate::fencing::gate::Admit;
use crate::ids::{NodeId, Term};
use crate::time::{Duration, Instant};

/// Whether a request may be served here, and under which stamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stamp {
    /// Under this term.
    With(Term),
    /// Without one: a read that may be stale.
    Without,
    /// Not here: nobody leads, or this node's gate is not open.
    GateClosed,
    /// Not yet: this node leads, and its backend's fence does not stand.
    FenceNotRaised,
}

/// What an answer of the gate means for a request that `may_be_stale`, at a node that `leads`.
pub const fn stamp(said: Admit, may_be_stale: bool, leads: bool) -> Stamp {
    match said {
        Admit::Admit(term) => Stamp::With(term),
        _ if may_be_stale => Stamp::Without,
        _ if leads => Stamp::FenceNotRaised,
        _ => Stamp::GateClosed,
    }
}

/// Whether a request that was admitted under `term` may still leave: the gate is open for that term,
/// and not for a later one of the same node.
pub fn permit_holds(said: Admit, term: Term) -> bool {
    said == Admit::Admit(term)
}

/// The last look, inside the write of each piece: only before the first byte is there something to
/// prevent. Half a request helps nobody. Stale reads need no permit.
pub fn may_write(written: u64, holds: Option<impl FnOnce() -> bool>) -> bool {
    written > 0 || holds.is_none_or(|holds| holds())
}

/// What is known of an exchange with a backend that broke.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Broken {
    /// Bytes of the request that the kernel took: at zero the backend can't have seen any.
    pub written: u64,
    /// The connection had carried a request before; the backend may just have closed it.
    pub reused: bool,
    /// No answer came in time.
    pub timed_out: bool,
}

/// Whether to try once more on a new connection. Nothing sent: any request. A read that may have been
/// seen: also, it changes nothing. Only a reused connection is worth it, and only while the gate is
/// open (`holds`) and the content is still there (`kept`).
pub const fn may_resend(broken: Broken, is_write: bool, kept: bool, holds: bool) -> bool {
    let harmless = broken.written == 0 || (!is_write && !broken.timed_out);
    broken.reused && harmless && kept && holds
}

/// What became of a request whose exchange with the backend broke.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It was not sent, because the gate closed: the next leader may take it.
    NotStarted,
    /// It was not sent, and the backend is why.
    NotSent,
    /// It was sent, and no answer came in time.
    TimedOut,
    /// A write was sent, and leadership was lost: whoever leads now may have had it cut off.
    Deposed,
    /// It was sent, and the connection broke.
    CutOff,
}

/// The count of bytes decides, not the error's kind. `holds`: the gate is still open for its term.
pub const fn fate(broken: Broken, is_write: bool, holds: bool) -> Fate {
    let sent = broken.written > 0;
    match (sent, broken.timed_out) {
        (false, _) if !holds => Fate::NotStarted,
        (false, _) => Fate::NotSent,
        (true, true) => Fate::TimedOut,
        (true, false) if !holds && is_write => Fate::Deposed,
        (true, false) => Fate::CutOff,
    }
}

/// What the head of a backend's answer says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Concluded {
    /// The verifier refused this stamp: nothing was changed, and the gate has to be told.
    Fenced(Term),
    /// Leadership moved while a read was under way: the answer is not fresh enough.
    NotConfirmed,
    /// It is the answer.
    Answered,
}

/// Looks at an answer to a request that was stamped with `term`: did a verifier refuse the term, and,
/// where it has to be fresh, does this node still hold (`held`) the same one?
pub fn conclude(refused: bool, fresh: bool, term: Option<Term>, held: Option<Term>) -> Concluded {
    match term {
        Some(term) if refused => Concluded::Fenced(term),
        _ if fresh && held != term => Concluded::NotConfirmed,
        _ => Concluded::Answered,
    }
}

/// Whether a request that was given to another node certainly had no effect, whatever became of it
/// there: that node sends nothing on before it has some of the content.
pub const fn is_harmless(is_write: bool, released: bool) -> bool {
    !is_write || !released
}

/// Whether `to` was `heard` so short a time ago that it is taken to be alive: then small content follows
/// the head at once, and is released with it.
pub fn was_just_heard(heard: Option<(NodeId, Instant)>, to: NodeId, now: Instant, fresh: Duration) -> bool {
    heard.is_some_and(|(node, at)| node == to && now - at < fresh)
}

/// Whether an exchange with the leader that was lost may be begun anew: it is certain that
/// `nothing_applied`, or there was no harm to be done.
pub const fn may_begin_anew(nothing_applied: bool, harmless: bool) -> bool {
    nothing_applied || harmless
}

/// Whether the leader `to`, chosen in the term `since`, has been replaced: its answers may never come.
pub fn is_replaced(to: NodeId, since: Term, leader: Option<NodeId>, term: Term) -> bool {
    term > since && leader.is_some_and(|leader| leader != to)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SENT: Broken = Broken { written: 1, reused: true, timed_out: false };
    const NOT_SENT: Broken = Broken { written: 0, ..SENT };

    #[test]
    fn only_a_gate_that_is_open_gives_a_stamp() {
        assert_eq!(stamp(Admit::Admit(Term(3)), false, true), Stamp::With(Term(3)));
        for said in [Admit::Wait, Admit::Forward(NodeId(2))] {
            assert_eq!(stamp(said, true, true), Stamp::Without);
            assert_eq!(stamp(said, false, true), Stamp::FenceNotRaised);
            assert_eq!(stamp(said, false, false), Stamp::GateClosed);
        }
    }

    #[test]
    fn the_gate_is_asked_before_the_first_byte_and_not_after_it() {
        assert!(may_write(0, Some(|| true)));
        assert!(!may_write(0, Some(|| false)));
        assert!(may_write(1, Some(|| false)));
        assert!(may_write(0, None::<fn() -> bool>));
        assert!(!permit_holds(Admit::Admit(Term(9)), Term(7)));
    }

    #[test]
    fn a_write_is_sent_again_only_when_no_byte_left() {
        assert!(may_resend(NOT_SENT, true, true, true));
        assert!(!may_resend(SENT, true, true, true));
        assert!(may_resend(SENT, false, true, true));
        assert!(!may_resend(Broken { timed_out: true, ..SENT }, false, true, true));
        assert!(!may_resend(Broken { reused: false, ..NOT_SENT }, true, true, true));
        assert!(!may_resend(NOT_SENT, true, false, true));
        assert!(!may_resend(NOT_SENT, true, true, false));
    }

    #[test]
    fn a_write_of_which_a_byte_left_is_never_known_to_have_had_no_effect() {
        for timed_out in [false, true] {
            for holds in [false, true] {
                let sent = fate(Broken { timed_out, ..SENT }, true, holds);
                assert!(matches!(sent, Fate::TimedOut | Fate::Deposed | Fate::CutOff), "{sent:?}");
                let unsent = fate(Broken { timed_out, ..NOT_SENT }, true, holds);
                assert_eq!(unsent, if holds { Fate::NotSent } else { Fate::NotStarted });
            }
        }
        assert_eq!(fate(SENT, true, false), Fate::Deposed);
        assert_eq!(fate(SENT, false, false), Fate::CutOff, "a read's outcome is never in doubt");
    }

    #[test]
    fn a_refusal_by_the_fence_is_no_answer() {
        let ours = Some(Term(3));
        assert_eq!(conclude(true, false, ours, ours), Concluded::Fenced(Term(3)));
        assert_eq!(conclude(true, false, None, None), Concluded::Answered, "it was not stamped");
        assert_eq!(conclude(false, true, ours, None), Concluded::NotConfirmed);
        assert_eq!(conclude(false, false, ours, None), Concluded::Answered, "a write's answer stays true");
    }

    #[test]
    fn a_lost_exchange_with_the_leader_begins_anew_only_without_harm() {
        assert!(may_begin_anew(true, is_harmless(true, true)));
        assert!(may_begin_anew(false, is_harmless(true, false)));
        assert!(may_begin_anew(false, is_harmless(false, true)));
        assert!(!may_begin_anew(false, is_harmless(true, true)));
    }

    #[test]
    fn only_the_node_that_was_heard_just_now_is_taken_to_be_alive() {
        let (at, fresh) = (Instant::from_millis, Duration::from_millis(10));
        let heard = Some((NodeId(1), at(100)));
        assert!(was_just_heard(heard, NodeId(1), at(109), fresh));
        assert!(!was_just_heard(heard, NodeId(1), at(110), fresh));
        assert!(!was_just_heard(heard, NodeId(2), at(100), fresh));
        assert!(!was_just_heard(None, NodeId(1), at(100), fresh));
    }

    #[test]
    fn a_leader_is_replaced_by_another_one_of_a_later_term() {
        let (to, other) = (NodeId(1), Some(NodeId(2)));
        assert!(is_replaced(to, Term(3), other, Term(4)));
        assert!(!is_replaced(to, Term(3), other, Term(3)));
        assert!(!is_replaced(to, Term(3), None, Term(4)), "nobody leads yet");
        assert!(!is_replaced(to, Term(3), Some(to), Term(4)), "it leads again");
    }
}
