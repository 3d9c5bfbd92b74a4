//! What stands in front of a resource and decides which writes may reach it.
//!
//! The idea: the verifier holds one number, the **fence**. A *raise* moves it up and is complete
//! only when no write of a lower term can still take effect; a *write* is compared with it. The
//! two are kept apart on purpose: were a write with a high term enough to move the fence, one
//! forged number would lock the true leader out (Kafka, too, has one error for "older" and another
//! for "newer than I know").
//!
//! A change of leader, seen from here:
//!
//! ```text
//! begin_raise(7)     from now on nothing below 7 is admitted; writes of 6 are still in flight
//! durable(7)         the shell has fsynced the number: a crash can't bring term 6 back
//! end(w) ... end(w)  the last write of 6 ends, or is cut off
//! is_complete(7)     only now the raise is answered, and writes of 7 are admitted
//! ```
//!
//! | rule | |
//! |---|---|
//! | F-1 | the fence never goes down |
//! | F-2 | once a raise has begun, no write of a lower term is admitted |
//! | F-3 | a raise is complete only when every older write has ended |
//! | F-4 | a raise is complete only when the term is durable |
//! | F-5 | enforced: a write carries exactly the raised term; a higher one raises nothing |
//! | F-6 | no write is admitted under a raise that is not complete |
//! | F-7 | a write without a term is refused |
//!
//! Left out: who may raise (the shell asks for a certificate), storing the number, and cutting
//! writes off. This is one resource; a shell with several keeps one verifier each.

use std::collections::BTreeMap;

use crate::fencing::mode::FenceMode;
use crate::ids::{NodeId, Term, Ticket};

/// The largest term that fits a structured field integer (RFC 9651, section 3.3.1).
pub const MAX_TERM: Term = Term(999_999_999_999_999);

/// How a verifier treats a term that is higher than the raised one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum VerifierMode {
    /// It is refused: the fence moves by a raise only.
    Enforced,
    /// It raises the fence, by the same steps as a raise; the caller has authenticated it.
    Implicit,
}

impl VerifierMode {
    /// The verifier's side of a route's mode; `None` for `drain`, which has no verifier.
    pub const fn of(mode: FenceMode) -> Option<Self> {
        match mode {
            FenceMode::Enforced => Some(Self::Enforced),
            FenceMode::Implicit => Some(Self::Implicit),
            FenceMode::Drain => None,
        }
    }

    /// The mode's name in answers.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Enforced => "enforced",
            Self::Implicit => "implicit",
        }
    }
}

/// The number and who raised it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fence {
    /// The highest term that was ever raised here.
    pub term: Term,
    /// The node that raised it, as far as the shell could tell.
    pub raised_by: Option<NodeId>,
}

/// Why a write may not pass. `current` is the fence, zero when none was ever raised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It carries no term.
    Missing,
    /// Its term is lower than the fence: another leader has taken over.
    Stale {
        /// The fence.
        current: Term,
    },
    /// Its term is higher than the fence, or its raise is not complete: raise first.
    NotRaised {
        /// The fence.
        current: Term,
    },
}

/// What becomes of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// It passes; the ticket must be given back to [`Verifier::end`] when it can have no more effect.
    Admit(Ticket),
    /// Implicit mode: complete a raise to its term, then ask again.
    RaiseFirst,
    /// It does not pass.
    Refuse(Refusal),
}

/// A raise was refused because the fence is already higher (F-1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the fence already stands at {current}: another leader has taken over, look it up at GET /leader")]
pub struct Higher {
    /// The fence.
    pub current: Term,
}

/// The state of one resource's verifier.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Verifier {
    mode: VerifierMode,
    fence: Option<Fence>,
    /// The highest term known to be on disk.
    durable: Term,
    /// Writes that may still take effect, and the term each was admitted under.
    in_flight: BTreeMap<Ticket, Term>,
    next_ticket: Ticket,
}

impl Verifier {
    /// A verifier that starts from what was on disk.
    pub fn new(mode: VerifierMode, stored: Option<Fence>) -> Self {
        Self {
            mode,
            fence: stored,
            durable: stored.map_or(Term::ZERO, |fence| fence.term),
            in_flight: BTreeMap::new(),
            next_ticket: Ticket::ZERO,
        }
    }

    /// The mode it was made with.
    pub const fn mode(&self) -> VerifierMode {
        self.mode
    }

    /// The fence; `None` when nothing was ever raised.
    pub const fn fence(&self) -> Option<Fence> {
        self.fence
    }

    /// The fence's term, zero when nothing was ever raised.
    pub fn current(&self) -> Term {
        self.fence.map_or(Term::ZERO, |fence| fence.term)
    }

    /// Starts a raise to `term`: from now on nothing lower is admitted (F-2). Repeating it is
    /// harmless; going down is refused (F-1).
    pub fn begin_raise(&mut self, term: Term, by: Option<NodeId>) -> Result<(), Higher> {
        let current = self.current();
        if term < current {
            return Err(Higher { current });
        }
        if term > current {
            self.fence = Some(Fence { term, raised_by: by });
        }
        Ok(())
    }

    /// The shell reports that `term` survives a crash (F-4).
    pub fn durable(&mut self, term: Term) {
        assert!(term <= self.current(), "only a raised term can have been stored");
        self.durable = self.durable.max(term);
    }

    /// Is the raise to `term` done: the fence stands exactly there, on disk, and nothing older runs?
    pub fn is_complete(&self, term: Term) -> bool {
        term > Term::ZERO && self.current() == term && self.durable >= term && self.older_in_flight(term) == 0
    }

    /// How many writes of a lower term may still take effect.
    pub fn older_in_flight(&self, term: Term) -> usize {
        self.in_flight.values().filter(|admitted| **admitted < term).count()
    }

    /// Writes in flight, per term.
    pub fn in_flight(&self) -> BTreeMap<Term, usize> {
        let mut count = BTreeMap::new();
        for term in self.in_flight.values() {
            *count.entry(*term).or_insert(0) += 1;
        }
        count
    }

    /// Decides about a write that carries `term`.
    pub fn admit(&mut self, term: Option<Term>) -> Admission {
        let current = self.current();
        let Some(term) = term else { return Admission::Refuse(Refusal::Missing) };
        if term < current {
            return Admission::Refuse(Refusal::Stale { current });
        }
        if !self.is_complete(term) {
            return match self.mode {
                VerifierMode::Implicit if term > Term::ZERO => Admission::RaiseFirst,
                _ => Admission::Refuse(Refusal::NotRaised { current }),
            };
        }
        self.next_ticket = self.next_ticket.next();
        self.in_flight.insert(self.next_ticket, term);
        Admission::Admit(self.next_ticket)
    }

    /// The write can have no more effect: it was answered, or it can never be complete.
    pub fn end(&mut self, ticket: Ticket) {
        let ended = self.in_flight.remove(&ticket);
        assert!(ended.is_some(), "a write ends once");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verifier(mode: VerifierMode) -> Verifier {
        Verifier::new(mode, None)
    }

    fn raise(verifier: &mut Verifier, term: u64) {
        verifier.begin_raise(Term(term), Some(NodeId(1))).expect("not lower");
        verifier.durable(Term(term));
    }

    fn admitted(verifier: &mut Verifier, term: u64) -> Ticket {
        match verifier.admit(Some(Term(term))) {
            Admission::Admit(ticket) => ticket,
            other => panic!("expected admission, got {other:?}"),
        }
    }

    fn stale(current: u64) -> Admission {
        Admission::Refuse(Refusal::Stale { current: Term(current) })
    }

    fn not_raised(current: u64) -> Admission {
        Admission::Refuse(Refusal::NotRaised { current: Term(current) })
    }

    #[test]
    fn refuses_everything_before_the_first_raise() {
        let mut v = verifier(VerifierMode::Enforced);
        assert_eq!(v.admit(Some(Term(1))), not_raised(0));
        assert_eq!(v.admit(Some(Term(0))), not_raised(0));
        let mut v = verifier(VerifierMode::Implicit);
        assert_eq!(v.admit(Some(Term(0))), not_raised(0));
    }

    #[test]
    fn f1_never_goes_down() {
        let mut v = verifier(VerifierMode::Enforced);
        raise(&mut v, 7);
        assert_eq!(v.begin_raise(Term(6), None), Err(Higher { current: Term(7) }));
        assert_eq!(v.current(), Term(7));
    }

    #[test]
    fn f1_repeating_a_raise_changes_nothing() {
        let mut v = verifier(VerifierMode::Enforced);
        raise(&mut v, 7);
        let ticket = admitted(&mut v, 7);
        assert_eq!(v.begin_raise(Term(7), Some(NodeId(9))), Ok(()));
        assert!(v.is_complete(Term(7)), "own writes of the term don't hold the repeated raise up");
        assert_eq!(v.fence(), Some(Fence { term: Term(7), raised_by: Some(NodeId(1)) }));
        v.end(ticket);
    }

    #[test]
    fn f2_refuses_older_writes_from_the_moment_a_raise_begins() {
        let mut v = verifier(VerifierMode::Enforced);
        raise(&mut v, 6);
        v.begin_raise(Term(7), None).expect("higher");
        assert_eq!(v.admit(Some(Term(6))), stale(7), "although 7 is not durable yet");
    }

    #[test]
    fn f3_waits_for_every_older_write() {
        let mut v = verifier(VerifierMode::Enforced);
        raise(&mut v, 6);
        let (first, second) = (admitted(&mut v, 6), admitted(&mut v, 6));
        raise(&mut v, 7);
        assert_eq!(v.older_in_flight(Term(7)), 2);
        v.end(first);
        assert!(!v.is_complete(Term(7)));
        v.end(second);
        assert!(v.is_complete(Term(7)));
    }

    #[test]
    fn f3_waits_for_writes_of_several_older_terms() {
        let mut v = verifier(VerifierMode::Enforced);
        raise(&mut v, 5);
        let old = admitted(&mut v, 5);
        raise(&mut v, 6);
        raise(&mut v, 7);
        assert!(!v.is_complete(Term(7)));
        assert_eq!(v.in_flight(), BTreeMap::from([(Term(5), 1)]));
        v.end(old);
        assert!(v.is_complete(Term(7)));
    }

    #[test]
    fn f4_waits_until_the_term_is_durable() {
        let mut v = verifier(VerifierMode::Enforced);
        v.begin_raise(Term(7), None).expect("higher");
        assert!(!v.is_complete(Term(7)));
        v.durable(Term(7));
        assert!(v.is_complete(Term(7)));
    }

    #[test]
    fn f4_starts_from_what_was_stored() {
        let stored = Fence { term: Term(7), raised_by: None };
        let mut v = Verifier::new(VerifierMode::Enforced, Some(stored));
        assert_eq!(v.admit(Some(Term(6))), stale(7));
        admitted(&mut v, 7);
    }

    #[test]
    fn f5_enforced_refuses_a_higher_term_and_stays_where_it_is() {
        let mut v = verifier(VerifierMode::Enforced);
        raise(&mut v, 6);
        assert_eq!(v.admit(Some(Term(1_000_000))), not_raised(6));
        assert_eq!(v.current(), Term(6));
        admitted(&mut v, 6);
    }

    #[test]
    fn f5_implicit_asks_for_a_raise_and_refuses_lower_terms_afterwards() {
        let mut v = verifier(VerifierMode::Implicit);
        assert_eq!(v.admit(Some(Term(6))), Admission::RaiseFirst);
        raise(&mut v, 6);
        admitted(&mut v, 6);
        assert_eq!(v.admit(Some(Term(5))), stale(6));
    }

    #[test]
    fn f6_admits_no_write_under_an_incomplete_raise() {
        let mut v = verifier(VerifierMode::Enforced);
        raise(&mut v, 6);
        let old = admitted(&mut v, 6);
        v.begin_raise(Term(7), None).expect("higher");
        assert_eq!(v.admit(Some(Term(7))), not_raised(7), "not durable");
        v.durable(Term(7));
        assert_eq!(v.admit(Some(Term(7))), not_raised(7), "an older write could land after it");
        v.end(old);
        admitted(&mut v, 7);
    }

    #[test]
    fn f7_refuses_a_write_without_a_term() {
        for mode in [VerifierMode::Enforced, VerifierMode::Implicit] {
            let mut v = verifier(mode);
            raise(&mut v, 6);
            assert_eq!(v.admit(None), Admission::Refuse(Refusal::Missing));
        }
    }
}
