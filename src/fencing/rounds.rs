//! What somebody who keeps one gate does for it, turn by turn: tell it who leads, raise the fence that
//! it asks for, and while it is open look now and then where the fence stands. A backend that comes
//! back with another fence, because a replica was promoted or a copy restored, gets it raised again.
//!
//! The calls themselves are made elsewhere; here is when each is due, and what its end means.

use crate::fencing::gate::Gate;
use crate::fencing::leadership::Leadership;
use crate::ids::Term;
use crate::time::{Duration, Instant};

/// A call to the verifier that is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// Raise the fence to this term.
    Raise(Term),
    /// Look where it stands; the gate is open for this term.
    Look(Term),
}

/// How such a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The fence stands at the wanted term, durably, and nothing older runs.
    Raised,
    /// It was refused, or nobody knows.
    NotRaised,
    /// The fence stands here, if the verifier said so.
    Seen(Option<Term>),
}

/// The rounds at one gate.
#[derive(Debug, Clone)]
pub struct Rounds {
    interval: Duration,
    /// When the fence is looked at next; `None` while somebody looks.
    look: Option<Instant>,
}

impl Rounds {
    /// With `interval` between two looks at the fence behind an open gate.
    pub fn new(interval: Duration) -> Self {
        Self { interval, look: Some(Instant::default()) }
    }

    /// Tells `gate` the present leadership. The call that is now to be made, if any.
    pub fn turn(&mut self, gate: &mut Gate, leadership: &Leadership, now: Instant) -> Option<Call> {
        gate.on_leadership(leadership, now);
        if let Some(term) = gate.poll(now) {
            return Some(Call::Raise(term));
        }
        let term = gate.stands_on()?;
        self.look.filter(|due| *due <= now)?;
        self.look = None;
        Some(Call::Look(term))
    }

    /// When the next turn is due, whatever happens.
    pub fn due(&self, gate: &Gate) -> Option<Instant> {
        gate.deadline().or_else(|| gate.stands_on().and(self.look))
    }

    /// The call that was made for `term` ended so.
    pub fn on_ended(&mut self, gate: &mut Gate, term: Term, ended: Ended, now: Instant) {
        self.look = Some(now + self.interval);
        match ended {
            Ended::Raised => gate.on_raised(term),
            Ended::NotRaised => gate.on_raise_failed(term, now),
            Ended::Seen(Some(fence)) => gate.on_fence_seen(term, fence, now),
            Ended::Seen(None) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::fencing::gate::GateState;
    use crate::fencing::mode::FenceMode;
    use crate::ids::NodeId;
    use crate::raft::effect::RoleKind;

    const INTERVAL: Duration = Duration::from_secs(2);

    fn at(ms: u64) -> Instant {
        Instant::from_millis(ms)
    }

    fn leading(term: u64) -> Leadership {
        let me = NodeId(1);
        Leadership {
            role: RoleKind::Leader,
            term: Term(term),
            leader: Some(me),
            fence: Some(Term(term)),
            lease_until: Some(at(1_000_000)),
            ..Leadership::unknown(me)
        }
    }

    fn kept(mode: FenceMode) -> (Rounds, Gate) {
        (Rounds::new(INTERVAL), Gate::new(mode, Duration::from_secs(1)))
    }

    #[test]
    fn raises_then_looks_and_raises_again_what_stands_elsewhere() {
        let (mut rounds, mut gate) = kept(FenceMode::Enforced);
        let us = leading(3);
        assert_eq!(rounds.turn(&mut gate, &us, at(10)), Some(Call::Raise(Term(3))));
        assert_eq!(rounds.turn(&mut gate, &us, at(11)), None, "it is under way");
        rounds.on_ended(&mut gate, Term(3), Ended::Raised, at(20));
        assert_eq!(rounds.turn(&mut gate, &us, at(20)), None);
        assert_eq!(rounds.due(&gate), Some(at(2020)));
        assert_eq!(rounds.turn(&mut gate, &us, at(2020)), Some(Call::Look(Term(3))));
        assert_eq!(rounds.turn(&mut gate, &us, at(9000)), None, "one look at a time");
        rounds.on_ended(&mut gate, Term(3), Ended::Seen(Some(Term(3))), at(9000));
        assert_eq!(gate.state(), GateState::Open { term: Term(3) });
        rounds.on_ended(&mut gate, Term(3), Ended::Seen(None), at(9000));
        assert_eq!(gate.state(), GateState::Open { term: Term(3) }, "nobody knows, so nothing changes");
        rounds.on_ended(&mut gate, Term(3), Ended::Seen(Some(Term(2))), at(9000));
        assert_eq!(rounds.turn(&mut gate, &us, at(9000)), Some(Call::Raise(Term(3))));
    }

    #[test]
    fn a_raise_that_failed_is_due_again() {
        let (mut rounds, mut gate) = kept(FenceMode::Enforced);
        rounds.turn(&mut gate, &leading(3), at(10));
        assert_eq!(rounds.due(&gate), None);
        rounds.on_ended(&mut gate, Term(3), Ended::NotRaised, at(20));
        let due = rounds.due(&gate).expect("another try");
        assert_eq!(rounds.turn(&mut gate, &leading(3), due), Some(Call::Raise(Term(3))));
    }

    #[test]
    fn looks_at_no_fence_that_was_not_raised() {
        for mode in [FenceMode::Implicit, FenceMode::Drain] {
            let (mut rounds, mut gate) = kept(mode);
            assert_eq!(rounds.turn(&mut gate, &leading(3), at(10)), None);
            assert_eq!(rounds.turn(&mut gate, &leading(3), at(5000)), None);
            assert_eq!(gate.state(), GateState::Open { term: Term(3) });
            assert_eq!(rounds.due(&gate), None);
        }
    }
}
