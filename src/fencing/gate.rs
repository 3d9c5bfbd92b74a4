//! The gate of one route on one node: whether a request may be stamped and sent, as a pure state
//! machine.
//!
//! ```text
//!          token T appears            fence stands at T, or nothing to raise
//! closed ------------------> barrier ----------------------------------------> open(T)
//!    ^                          ^  |  raise failed: try again, a little later     |
//!    |                          |  +---------------------------------------------+ backend refused T
//!    +---- another term, or no longer the leader ----- draining <---- drain -----+
//! ```
//!
//! The state alone never admits anything: [`Gate::admit`] also asks the leadership picture for its
//! token at that very moment, so a lapsed lease closes every gate of the node at once, without any
//! message having to arrive first. A lease that lapses and is earned anew in the same term opens
//! the gate again without another raise, because the fence still stands at that term.
//!
//! What opens the gate depends on the mode. *Enforced*: the backend confirmed that its fence stands
//! at T. *Implicit*: at once, the first stamped write raises it. *Drain*: a quiet period after the
//! token appeared, because only the old leader's lease keeps its last writes away.
//!
//! Left out: who raises and how (the proxy's gatekeeper), and proofs of leadership.

use crate::fencing::leadership::Leadership;
use crate::fencing::mode::FenceMode;
use crate::ids::{NodeId, Term};
use crate::raft::effect::RoleKind;
use crate::time::{Duration, Instant};

/// The first pause after a failed raise. A backend that restarts is back within a few of these.
pub const RAISE_PAUSE_MIN: Duration = Duration::from_millis(20);
/// The longest pause between two tries: a dead backend costs two small connections a second.
pub const RAISE_PAUSE_MAX: Duration = Duration::from_millis(500);

/// How long a drain gate stays quiet: twice the longest election timeout of the cluster. An old
/// leader's lease ends before its voters' promises do, and one more such span covers what it had
/// handed to its kernel.
pub const fn quiet_period(election_timeout_max: Duration) -> Duration {
    election_timeout_max.saturating_mul(2)
}

/// What to do with a request now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admit {
    /// Stamp it with this token.
    Admit(Term),
    /// Another node leads.
    Forward(NodeId),
    /// Nobody is known to lead, or this node's gate is not open.
    Wait,
}

/// Where the gate stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GateState {
    /// This node may not serve the route.
    Closed,
    /// This node holds a token; its fence does not stand yet.
    Barrier {
        /// The token.
        term: Term,
        /// When the next raise is due, or the wait is over.
        due: Instant,
        /// Raises that failed in a row.
        failures: u32,
        /// Whether a raise is under way.
        raising: bool,
    },
    /// Requests are admitted while the token holds.
    Open {
        /// The token.
        term: Term,
    },
    /// The node is leaving: nothing new is admitted.
    Draining,
}

/// One route's gate.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Gate {
    mode: FenceMode,
    quiet: Duration,
    state: GateState,
    fenced: Option<Term>,
}

impl Gate {
    /// A closed gate. `quiet` is how long [`FenceMode::Drain`] waits before it opens.
    pub fn new(mode: FenceMode, quiet: Duration) -> Self {
        Self { mode, quiet, state: GateState::Closed, fenced: None }
    }

    /// Where it stands.
    pub const fn state(&self) -> GateState {
        self.state
    }

    /// The highest term this node knows the backend's fence to stand at.
    pub const fn fenced_term(&self) -> Option<Term> {
        self.fenced
    }

    /// What to do with a request at `now`. Asked when it is admitted, and again just before its
    /// first byte is sent.
    pub fn admit(&self, leadership: &Leadership, now: Instant) -> Admit {
        match (leadership.token_at(now), self.state) {
            (Some(token), GateState::Open { term }) if token == term => Admit::Admit(token),
            (Some(_), _) => Admit::Wait,
            (None, _) => leadership.leader_elsewhere().map_or(Admit::Wait, Admit::Forward),
        }
    }

    /// The state's name for people: a gate whose token does not hold now is closed, whatever the
    /// machine will do next.
    pub fn shown(&self, leadership: &Leadership, now: Instant) -> &'static str {
        match self.state {
            GateState::Draining => "draining",
            GateState::Open { term } if leadership.token_at(now) == Some(term) => "open",
            GateState::Barrier { term, .. } if leadership.token_at(now) == Some(term) => "barrier",
            _ => "closed",
        }
    }

    /// Leadership may have changed.
    pub fn on_leadership(&mut self, leadership: &Leadership, now: Instant) {
        if self.state == GateState::Draining {
            return;
        }
        match leadership.token_at(now) {
            Some(token) if self.term() != Some(token) => self.begin(token, now),
            Some(_) => {}
            // The lease lapsed, but the term is still ours: the fence stands, so wait for it.
            None if leadership.role == RoleKind::Leader && self.term() == Some(leadership.term) => {}
            None => self.state = GateState::Closed,
        }
    }

    /// The raise that is due at `now`, if any; the caller must report how it ended. A wait that is
    /// over opens the gate instead.
    pub fn poll(&mut self, now: Instant) -> Option<Term> {
        match self.state {
            GateState::Barrier { term, due, failures, raising: false } if due <= now => {
                if self.mode == FenceMode::Enforced {
                    self.state = GateState::Barrier { term, due, failures, raising: true };
                    return Some(term);
                }
                self.state = GateState::Open { term };
                None
            }
            _ => None,
        }
    }

    /// When to call [`Gate::poll`] again.
    pub const fn deadline(&self) -> Option<Instant> {
        match self.state {
            GateState::Barrier { due, raising: false, .. } => Some(due),
            _ => None,
        }
    }

    /// The backend confirmed that its fence stands at `term`. Late answers for another term change
    /// nothing: the machine has moved on.
    pub fn on_raised(&mut self, term: Term) {
        if let GateState::Barrier { term: wanted, raising: true, .. } = self.state
            && wanted == term
        {
            self.fenced = Some(term);
            self.state = GateState::Open { term };
        }
    }

    /// The raise to `term` failed, or was refused; it will be tried again.
    pub fn on_raise_failed(&mut self, term: Term, now: Instant) {
        if let GateState::Barrier { term: wanted, failures, raising: true, .. } = self.state
            && wanted == term
        {
            let pause = RAISE_PAUSE_MIN.saturating_mul(1 << failures.min(10)).min(RAISE_PAUSE_MAX);
            let failures = failures.saturating_add(1);
            self.state = GateState::Barrier { term, due: now + pause, failures, raising: false };
        }
    }

    /// The backend refused a request stamped with `term`. Either it holds a newer fence, or it lost
    /// ours: in both cases the fence must be raised, or found standing, before anything else is sent.
    pub fn on_refused(&mut self, term: Term, now: Instant) {
        if self.state == (GateState::Open { term }) {
            let due = match self.mode {
                FenceMode::Enforced => now,
                // Nothing can be raised; look again after a pause.
                FenceMode::Implicit | FenceMode::Drain => now + RAISE_PAUSE_MAX,
            };
            self.fenced = None;
            self.state = GateState::Barrier { term, due, failures: 0, raising: false };
        }
    }

    /// The term at which the backend's fence is to stand while the gate is open; nothing in modes that
    /// raise none.
    pub fn stands_on(&self) -> Option<Term> {
        match (self.mode, self.state) {
            (FenceMode::Enforced, GateState::Open { term }) => Some(term),
            _ => None,
        }
    }

    /// The backend showed its fence while the gate was open for `term`. One that stands elsewhere is
    /// that of a promoted replica or a restored copy, which would let an older leader in, or a newer
    /// leader's.
    pub fn on_fence_seen(&mut self, term: Term, fence: Term, now: Instant) {
        if fence != term {
            self.on_refused(term, now);
        }
    }

    /// The node is leaving: admit nothing more, for good.
    pub fn on_drain(&mut self) {
        self.state = GateState::Draining;
    }

    fn begin(&mut self, term: Term, now: Instant) {
        let due = match self.mode {
            FenceMode::Enforced | FenceMode::Implicit => now,
            FenceMode::Drain => now + self.quiet,
        };
        self.state = match self.mode {
            FenceMode::Implicit => GateState::Open { term },
            _ => GateState::Barrier { term, due, failures: 0, raising: false },
        };
    }

    const fn term(&self) -> Option<Term> {
        match self.state {
            GateState::Barrier { term, .. } | GateState::Open { term } => Some(term),
            GateState::Closed | GateState::Draining => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: NodeId = NodeId(1);
    const QUIET: Duration = quiet_period(Duration::from_millis(300));

    fn at(ms: u64) -> Instant {
        Instant::from_millis(ms)
    }

    fn leading(term: u64, lease_ms: u64) -> Leadership {
        Leadership {
            role: RoleKind::Leader,
            term: Term(term),
            leader: Some(ME),
            fence: Some(Term(term)),
            lease_until: Some(at(lease_ms)),
            ..Leadership::unknown(ME)
        }
    }

    fn following(term: u64, leader: u64) -> Leadership {
        Leadership { term: Term(term), leader: Some(NodeId(leader)), ..Leadership::unknown(ME) }
    }

    fn open_enforced(term: u64) -> Gate {
        let mut gate = Gate::new(FenceMode::Enforced, QUIET);
        gate.on_leadership(&leading(term, 100), at(0));
        assert_eq!(gate.poll(at(0)), Some(Term(term)));
        gate.on_raised(Term(term));
        gate
    }

    #[test]
    fn enforced_gate_admits_nothing_before_its_fence_stands() {
        let mut gate = Gate::new(FenceMode::Enforced, QUIET);
        let leadership = leading(3, 100);
        gate.on_leadership(&leadership, at(0));
        assert_eq!(gate.admit(&leadership, at(0)), Admit::Wait);
        assert_eq!(gate.poll(at(0)), Some(Term(3)));
        assert_eq!(gate.poll(at(50)), None, "one raise at a time");
        assert_eq!(gate.admit(&leadership, at(1)), Admit::Wait);
        gate.on_raised(Term(3));
        assert_eq!(gate.admit(&leadership, at(1)), Admit::Admit(Term(3)));
    }

    #[test]
    fn a_lapsed_lease_closes_the_gate_without_a_message() {
        let gate = open_enforced(3);
        let leadership = leading(3, 100);
        assert_eq!(gate.admit(&leadership, at(99)), Admit::Admit(Term(3)));
        assert_eq!(gate.admit(&leadership, at(100)), Admit::Wait);
        assert_eq!(gate.shown(&leadership, at(100)), "closed");
    }

    #[test]
    fn a_lease_earned_anew_in_the_same_term_needs_no_second_raise() {
        let mut gate = open_enforced(3);
        gate.on_leadership(&leading(3, 100), at(150));
        let renewed = leading(3, 300);
        gate.on_leadership(&renewed, at(200));
        assert_eq!(gate.admit(&renewed, at(200)), Admit::Admit(Term(3)));
    }

    #[test]
    fn another_term_of_the_same_node_needs_its_own_raise() {
        let mut gate = open_enforced(3);
        let next = leading(5, 300);
        assert_eq!(gate.admit(&next, at(10)), Admit::Wait, "open for 3 is not open for 5");
        gate.on_leadership(&next, at(10));
        assert_eq!(gate.poll(at(10)), Some(Term(5)));
        gate.on_raised(Term(3));
        assert_eq!(gate.admit(&next, at(10)), Admit::Wait, "a late answer for 3 opens nothing");
        gate.on_raised(Term(5));
        assert_eq!(gate.admit(&next, at(10)), Admit::Admit(Term(5)));
    }

    #[test]
    fn a_follower_forwards_and_a_node_without_leader_waits() {
        let mut gate = open_enforced(3);
        let elsewhere = following(4, 2);
        assert_eq!(gate.admit(&elsewhere, at(10)), Admit::Forward(NodeId(2)));
        gate.on_leadership(&elsewhere, at(10));
        assert_eq!(gate.state(), GateState::Closed);
        assert_eq!(gate.admit(&Leadership::unknown(ME), at(10)), Admit::Wait);
    }

    #[test]
    fn a_failed_raise_is_tried_again_with_growing_bounded_pauses() {
        let mut gate = Gate::new(FenceMode::Enforced, QUIET);
        gate.on_leadership(&leading(3, 100_000), at(0));
        let mut now = at(0);
        let mut pauses = Vec::new();
        for _ in 0..8 {
            assert_eq!(gate.poll(now), Some(Term(3)));
            gate.on_raise_failed(Term(3), now);
            assert_eq!(gate.poll(now), None, "not before the pause is over");
            let due = gate.deadline().expect("a next try");
            pauses.push(due - now);
            now = due;
        }
        assert_eq!(pauses.first(), Some(&RAISE_PAUSE_MIN));
        assert!(pauses.is_sorted());
        assert_eq!(pauses.last(), Some(&RAISE_PAUSE_MAX));
    }

    #[test]
    fn a_refusal_by_the_backend_closes_the_gate_until_the_fence_is_raised_again() {
        let mut gate = open_enforced(3);
        let leadership = leading(3, 100);
        gate.on_refused(Term(2), at(10));
        assert_eq!(gate.admit(&leadership, at(10)), Admit::Admit(Term(3)), "about an older stamp");
        gate.on_refused(Term(3), at(10));
        assert_eq!(gate.admit(&leadership, at(10)), Admit::Wait);
        assert_eq!(gate.poll(at(10)), Some(Term(3)));
        gate.on_raised(Term(3));
        assert_eq!(gate.admit(&leadership, at(10)), Admit::Admit(Term(3)));
    }

    #[test]
    fn a_fence_that_stands_elsewhere_is_raised_again() {
        for elsewhere in [2, 4] {
            let mut gate = open_enforced(3);
            let leadership = leading(3, 100);
            assert_eq!(gate.stands_on(), Some(Term(3)));
            gate.on_fence_seen(Term(3), Term(3), at(1));
            gate.on_fence_seen(Term(2), Term(elsewhere), at(1));
            assert_eq!(
                gate.admit(&leadership, at(1)),
                Admit::Admit(Term(3)),
                "it stands, or the look was earlier"
            );
            gate.on_fence_seen(Term(3), Term(elsewhere), at(1));
            assert_eq!(gate.admit(&leadership, at(1)), Admit::Wait);
            assert_eq!(gate.stands_on(), None);
            assert_eq!(gate.poll(at(1)), Some(Term(3)));
        }
    }

    #[test]
    fn implicit_gate_opens_with_the_token() {
        let mut gate = Gate::new(FenceMode::Implicit, QUIET);
        let leadership = leading(3, 100);
        gate.on_leadership(&leadership, at(0));
        assert_eq!(gate.poll(at(0)), None, "nothing is raised");
        assert_eq!(gate.admit(&leadership, at(0)), Admit::Admit(Term(3)));
    }

    #[test]
    fn drain_gate_waits_out_the_quiet_period() {
        let mut gate = Gate::new(FenceMode::Drain, Duration::from_millis(600));
        let leadership = leading(3, 10_000);
        gate.on_leadership(&leadership, at(0));
        assert_eq!(gate.deadline(), Some(at(600)));
        gate.poll(at(599));
        assert_eq!(gate.admit(&leadership, at(599)), Admit::Wait);
        gate.poll(at(600));
        assert_eq!(gate.admit(&leadership, at(600)), Admit::Admit(Term(3)));
    }

    #[test]
    fn a_draining_gate_admits_nothing_and_stays_so() {
        let mut gate = open_enforced(3);
        gate.on_drain();
        let leadership = leading(3, 100);
        gate.on_leadership(&leadership, at(10));
        assert_eq!(gate.admit(&leadership, at(10)), Admit::Wait);
        assert_eq!(gate.shown(&leadership, at(10)), "draining");
        assert_eq!(gate.admit(&following(4, 2), at(10)), Admit::Forward(NodeId(2)));
    }
}
