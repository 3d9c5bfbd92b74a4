//! Leadership goes to where it is wanted: a preferred zone.
//!
//! The leader itself looks for a voter in the preferred zone that is as good as it is, and hands over to
//! it. Nothing else decides by zones: who wins an election may lead from anywhere, because a leader in
//! the wrong place is better than none.
//!
//! It must not flap. So a candidate must have been caught up and in contact without a break for as long
//! as many elections would take, all in one life: a process that starts again at once is missed by nobody, and would be
//! lost as a leader all the same. A leader in the preferred zone hands over to nobody; and each attempt
//! doubles the pause before the next, so that a node which takes leadership and loses it again gets it ever more
//! rarely. The pause is forgotten when no attempt was needed for ten times as long.
//!
//! Pure: it is told the time, looks at the node's heart, and says to whom to hand over. The real loop and the
//! simulated wide-area network ask it in the same way.

use std::collections::BTreeMap;
use std::sync::PoisonError;

use crate::driver::cycle::Cycle;
use crate::ids::{Life, LogIndex, NodeId};
use crate::raft::config::Config;
use crate::raft::effect::RoleKind;
use crate::raft::view::{PeerView, View};
use crate::time::{Duration, Instant};

/// How many of the longest election timeouts a candidate must have been ready for.
const STABLE_FOR: u32 = 20;
/// How many entries it may be behind in any case: they are sent in no time.
const CAUGHT_UP: u64 = 64;
/// The longest pause, in the shortest ones.
const LONGEST_PAUSE: u32 = 64;

/// Where leadership is wanted, and since when it could go there.
#[derive(Debug, Clone)]
pub struct Preference {
    zone: String,
    /// How long a candidate must have been ready; also the first pause.
    stable_for: Duration,
    /// How old an answer may be to count as contact.
    contact: Duration,
    /// The end of the log at the last look as a leader.
    seen: Option<LogIndex>,
    /// Who is ready, since when, and in which life.
    ready: BTreeMap<NodeId, (Instant, Option<Life>)>,
    pause: Duration,
    not_before: Instant,
    look_again: Instant,
}

impl Preference {
    /// Wants leadership in `zone`.
    pub fn new(zone: String, config: &Config) -> Self {
        let stable_for = config.election_timeout_max * STABLE_FOR;
        Self {
            zone,
            stable_for,
            contact: config.election_timeout_min,
            seen: None,
            ready: BTreeMap::new(),
            pause: stable_for,
            not_before: Instant::ZERO,
            look_again: Instant::ZERO,
        }
    }

    /// Whom to hand over to now, if to anybody; asked in every turn of the loop. What becomes of the attempt is
    /// seen at a later look.
    pub fn look(&mut self, now: Instant, cycle: &Cycle) -> Option<NodeId> {
        if now < self.look_again {
            return None;
        }
        // Contact can't be judged more often than answers come.
        self.look_again = now + self.contact / 2;
        let machine = cycle.machine().read().unwrap_or_else(PoisonError::into_inner);
        self.turn(now, &cycle.view(), |node| machine.member(node)?.zone.as_deref())
    }

    fn turn<'z>(
        &mut self,
        now: Instant,
        view: &View,
        zone_of: impl Fn(NodeId) -> Option<&'z str>,
    ) -> Option<NodeId> {
        let is_wanted = |node: NodeId| zone_of(node) == Some(self.zone.as_str());
        let settled = view.role == RoleKind::Leader && view.fence.is_some() && !view.membership.is_joint();
        if !settled || is_wanted(view.id) {
            self.seen = None;
            self.ready.clear();
            return None;
        }
        // What was appended since the last look may be on its way, however much that is: under load, and with a long
        // round trip, more is than `CAUGHT_UP`.
        let last = view.last_log.index;
        let needed = self.seen.replace(last).unwrap_or(last).min(LogIndex(last.0.saturating_sub(CAUGHT_UP)));
        let is_ready = |peer: &PeerView| {
            let in_contact = peer.last_contact.is_some_and(|at| now.since(at) < self.contact);
            let is_caught_up = peer.match_index >= needed;
            view.membership.is_voter(peer.id) && is_wanted(peer.id) && in_contact && is_caught_up
        };
        let ready = view.peers.iter().filter(|peer| is_ready(peer));
        let ready: BTreeMap<NodeId, Option<Life>> = ready.map(|peer| (peer.id, peer.life)).collect();
        self.ready.retain(|node, (_, life)| ready.get(node) == Some(life));
        for (node, life) in ready {
            self.ready.entry(node).or_insert((now, life));
        }
        if now < self.not_before {
            return None;
        }
        let best = self.ready.iter().min_by_key(|(node, (since, _))| (*since, **node));
        let (to, _) = best.filter(|(_, (since, _))| now.since(*since) >= self.stable_for)?;
        let to = *to;
        self.attempted(now);
        Some(to)
    }

    fn attempted(&mut self, now: Instant) {
        let forgotten = self.not_before == Instant::ZERO || now >= self.not_before + self.pause * 10;
        self.pause = if forgotten { self.stable_for } else { self.pause * 2 };
        self.pause = self.pause.min(self.stable_for * LONGEST_PAUSE);
        self.not_before = now + self.pause;
        self.ready.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{LogId, LogIndex, Term};
    use crate::raft::entry::Membership;

    const STEP: Duration = Duration::from_millis(75);

    fn zone_of(node: NodeId) -> Option<&'static str> {
        ["", "us", "eu", "eu"].get(node.0 as usize).copied()
    }

    /// Node `leader` of three leads, whose log grows by an entry each millisecond; the others have answered at
    /// `now` and lack `behind` entries.
    fn view(leader: u64, now: Instant, behind: u64) -> View {
        let others = (1..=3).filter(|id| *id != leader);
        let last = now.since(Instant::ZERO).as_millis() as u64;
        let peer = |id| PeerView {
            id: NodeId(id),
            life: None,
            match_index: LogIndex(last - behind),
            next_index: LogIndex(last + 1),
            last_contact: Some(now),
            commit_index: LogIndex(1),
            last_applied: LogIndex(1),
        };
        View {
            id: NodeId(leader),
            role: RoleKind::Leader,
            term: Term(1),
            leader: Some(NodeId(leader)),
            last_log: LogId::new(Term(1), LogIndex(last)),
            log_base: LogId::ZERO,
            snapshot: None,
            commit_index: LogIndex(last),
            last_applied: LogIndex(last),
            membership: Membership::of_voters((1..=3).map(NodeId)),
            fence: Some(Term(1)),
            lease_until: Some(now),
            quorum_contact: Some(now),
            peers: others.map(peer).collect(),
            pending_reads: 0,
        }
    }

    /// Looks every step for so long; when leadership was asked to move, counted from the start.
    fn moves(preference: &mut Preference, from: Instant, long: Duration, behind: u64) -> Vec<Duration> {
        let mut now = from;
        let mut moved = Vec::new();
        while now < from + long {
            if let Some(to) = preference.turn(now, &view(1, now, behind), zone_of) {
                assert_eq!(to, NodeId(2), "the first of those that are as good");
                moved.push(now.since(from));
            }
            now = now + STEP;
        }
        moved
    }

    fn preference() -> Preference {
        Preference::new("eu".to_owned(), &Config::new(NodeId(1)))
    }

    #[test]
    fn leadership_moves_once_a_voter_there_was_ready_for_long_enough() {
        let moved = moves(&mut preference(), Instant::from_millis(1000), Duration::from_secs(7), 0);
        assert_eq!(moved, [Duration::from_secs(6)]);
    }

    /// Looks are `STEP` apart, in which the log grows by 75 entries.
    #[test]
    fn nobody_gets_it_who_lacks_more_than_came_since_the_last_look() {
        let moved = moves(&mut preference(), Instant::from_millis(1000), Duration::from_secs(60), 76);
        assert!(moved.is_empty(), "{moved:?}");
        let moved = moves(&mut preference(), Instant::from_millis(1000), Duration::from_secs(7), 75);
        assert_eq!(moved.len(), 1);
    }

    #[test]
    fn a_break_in_contact_begins_the_wait_anew() {
        let mut preference = preference();
        let start = Instant::from_millis(1000);
        assert!(moves(&mut preference, start, Duration::from_secs(5), 0).is_empty());
        let late = start + Duration::from_secs(5);
        let silent = view(1, late.before(Duration::from_millis(150)), 0);
        assert_eq!(preference.turn(late, &silent, zone_of), None);
        assert!(moves(&mut preference, late, Duration::from_secs(5), 0).is_empty());
    }

    /// Its last answer is not old, but it is of another life.
    #[test]
    fn a_start_begins_the_wait_anew() {
        let mut preference = preference();
        let start = Instant::from_millis(1000);
        assert!(moves(&mut preference, start, Duration::from_secs(5), 0).is_empty());
        let late = start + Duration::from_secs(5);
        let mut restarted = view(1, late, 0);
        restarted
            .peers
            .iter_mut()
            .for_each(|peer| peer.life = Some(Life { incarnation: peer.id.0, boot: 2 }));
        assert_eq!(preference.turn(late, &restarted, zone_of), None);
        assert!(moves(&mut preference, late, Duration::from_secs(5), 0).is_empty());
    }

    /// A node that takes leadership and loses it again at once.
    #[test]
    fn each_attempt_makes_the_next_one_rarer() {
        let moved = moves(&mut preference(), Instant::from_millis(1000), Duration::from_secs(300), 0);
        let pauses: Vec<u64> = moved.windows(2).map(|pair| (pair[1] - pair[0]).as_secs()).collect();
        assert_eq!(pauses, [6, 12, 24, 48, 96], "{moved:?}");
    }

    #[test]
    fn a_leader_in_the_preferred_zone_and_one_in_doubt_hand_over_to_nobody() {
        let mut preference = preference();
        let mut now = Instant::from_millis(1000);
        for _ in 0..200 {
            now = now + STEP;
            assert_eq!(preference.turn(now, &view(3, now, 0), zone_of), None);
            let in_doubt = View { fence: None, ..view(1, now, 0) };
            assert_eq!(preference.turn(now, &in_doubt, zone_of), None);
        }
    }
}
