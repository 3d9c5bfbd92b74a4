//! Networks that are broken in one well-known way and stay so: outages that other systems have had, and what
//! must hold in each, whoever leads when it begins. Nothing else goes wrong in these worlds, so that what an
//! election costs can be told exactly; all invariants are checked as everywhere.
//!
//! The storm has the same partitions at random, short and among other faults. Here they last for minutes: a
//! cluster that goes on, but elects a leader every second, does not get away with it.

use std::fmt;

use termgate::ids::{NodeId, Term};
use termgate::raft::config::Config;

use crate::clock::{MS, True};
use crate::params::Params;
use crate::stats::Stat;
use crate::world::World;

/// Worlds for each network; they differ in timers, delays and in what is under way when it breaks.
const WORLDS: u64 = if cfg!(debug_assertions) { 2 } else { 20 };
const SECOND: True = 1_000 * MS;
const MINUTE: True = 60 * SECOND;

/// A cluster with the contract's timers, one leader, and clients.
struct Named {
    world: World,
    since: Before,
}

/// What was, when the network broke.
struct Before {
    at: True,
    term: Term,
    leaders: u64,
    acked: u64,
}

impl Named {
    fn new(seed: u64, nodes: u64) -> Self {
        let configs = (1..=nodes).map(|id| Config::new(NodeId(id))).collect();
        let world = World::with(Params::healthy(configs), seed, false);
        let mut named = Self { since: Before::now(&world), world };
        // A part of a heartbeat interval decides what is under way when it breaks.
        named.run(2 * SECOND + seed * 7_919_993 % (50 * MS));
        assert!(named.world.leader().is_some(), "{named}: nobody leads after two seconds");
        named
    }

    /// Lets it run, under all invariants.
    fn run(&mut self, lasts: True) {
        let end = self.world.now + lasts;
        assert!(self.world.run_until(end), "{self}: {:?}", self.world.checker.violation());
    }

    /// Makes `node` the leader: the broken networks below differ by who leads.
    fn led_by(&mut self, node: usize) {
        for _ in 0..20 {
            match self.leader() {
                leader if leader == node => return,
                leader => self.world.ask_transfer(leader, Some(NodeId(node as u64 + 1))),
            }
            self.run(SECOND);
        }
        panic!("{self}: node {} is not given leadership", node + 1);
    }

    fn leader(&self) -> usize {
        self.world.leader().unwrap_or_else(|| panic!("{self}: nobody leads"))
    }

    /// The network breaks now.
    fn breaks(&mut self, how: impl FnOnce(&mut World)) {
        self.since = Before::now(&self.world);
        how(&mut self.world);
    }

    fn elections(&self) -> u64 {
        self.world.checker.leader_count().0 - self.since.leaders
    }

    fn terms(&self) -> u64 {
        self.highest_term().0 - self.since.term.0
    }

    fn highest_term(&self) -> Term {
        Before::now(&self.world).term
    }

    /// `done` comes to hold within so many election timeouts, the longest that are drawn, since it broke.
    fn within(&mut self, most: u64, done: impl Fn(&World) -> bool) {
        let timeout = self.world.election();
        while !done(&self.world) {
            let passed = self.world.now - self.since.at;
            assert!(passed <= most * timeout, "{self}: {most} election timeouts were not enough");
            self.run(5 * MS);
        }
    }

    /// Writes are acknowledged in every ten seconds of the next `lasts`.
    fn serves_for(&mut self, lasts: True) {
        let end = self.world.now + lasts;
        while self.world.now < end {
            let before = self.acked();
            self.run(10 * SECOND);
            assert!(self.acked() > before, "{self}: ten seconds without an acknowledged write");
        }
    }

    fn acked(&self) -> u64 {
        self.world.stats.get(Stat::WritesAcked)
    }
}

impl Before {
    fn now(world: &World) -> Self {
        let term = world.nodes.iter().map(|node| node.term()).max().unwrap_or_default();
        let (leaders, _) = world.checker.leader_count();
        Self { at: world.now, term, leaders, acked: world.stats.get(Stat::WritesAcked) }
    }
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let leads = self.world.leader().map(|node| node + 1);
        let (passed, elections) = ((self.world.now - self.since.at) / MS, self.elections());
        let (terms, acked) = (self.terms(), self.acked() - self.since.acked);
        write!(f, "{passed} ms on, {leads:?} leads, {elections} elections, {terms} terms, {acked} writes")
    }
}

fn is_replaced(world: &World, old: usize) -> bool {
    world.leader().is_some_and(|leader| leader != old)
}

/// Cloudflare's outage of 2020: of three nodes, two do not reach each other. One of them never wins and
/// never gives up, and must not unseat the leader that the third one hears.
#[test]
fn cloudflare_triangle() {
    for seed in 1..=WORLDS {
        for leader in 0..3 {
            let mut named = Named::new(seed, 3);
            named.led_by(leader);
            named.breaks(|world| world.net.set_cut_both(0, 2, true));
            named.serves_for(5 * MINUTE);
            assert!(named.elections() <= 1, "{named}: the leader is not stable");
            assert!(named.terms() <= 1, "{named}: terms without need");
        }
    }
}

/// The quorum-loss of Omni-Paxos: of five nodes one reaches all, and the others reach only that one. It must
/// come to lead, though it was the last to hear the old leader.
#[test]
fn quorum_loss() {
    for seed in 1..=WORLDS {
        let mut named = Named::new(seed, 5);
        named.led_by(1 + seed as usize % 4);
        named.breaks(|world| world.cut_into_star(&[0, 1, 2, 3, 4]));
        named.within(4, |world| world.leader() == Some(0));
        named.serves_for(MINUTE);
        assert_eq!(named.leader(), 0, "{named}");
        assert!(named.terms() <= 3, "{named}: terms without need");
    }
}

/// The chain: five nodes, each reaches its neighbours only. The ends can't lead; any other can, and whoever
/// leads stays.
#[test]
fn chain() {
    for seed in 1..=WORLDS {
        let mut named = Named::new(seed, 5);
        named.led_by(seed as usize % 5);
        named.breaks(|world| world.cut_into_chain(&[0, 1, 2, 3, 4]));
        named.run(10 * SECOND);
        let settled = named.highest_term();
        named.serves_for(5 * MINUTE);
        assert_eq!(named.highest_term(), settled, "{named}: terms go on growing");
        assert!(named.terms() <= 3, "{named}: terms without need");
    }
}

/// A leader that sends and does not hear: its followers are content, so it must notice by itself (L10).
#[test]
fn deaf_leader() {
    for (seed, nodes) in (1..=WORLDS).flat_map(|seed| [(seed, 3), (seed, 5)]) {
        let mut named = Named::new(seed, nodes);
        let deaf = named.leader();
        named.breaks(|world| world.mute(deaf, true, false));
        named.within(2, |world| !world.nodes[deaf].is_leader());
        named.within(8, |world| is_replaced(world, deaf));
        named.serves_for(MINUTE);
        assert_ne!(named.leader(), deaf, "{named}");
        assert!(named.elections() <= 3, "{named}: the new leader is not stable");
    }
}

/// A leader that hears and does not send: the others elect, and it steps down. That no two leases overlap
/// meanwhile is I9.
#[test]
fn mute_leader() {
    for (seed, nodes) in (1..=WORLDS).flat_map(|seed| [(seed, 3), (seed, 5)]) {
        let mut named = Named::new(seed, nodes);
        let mute = named.leader();
        named.breaks(|world| world.mute(mute, false, true));
        named.within(8, |world| is_replaced(world, mute) && !world.nodes[mute].is_leader());
        named.serves_for(MINUTE);
        assert_ne!(named.leader(), mute, "{named}");
        assert!(named.elections() <= 3, "{named}: the new leader is not stable");
    }
}

/// A follower that is cut off and comes back, over and over: with every heartbeat, and just long enough to
/// campaign each time. With pre-vote it never costs a term, nor the leader its office.
#[test]
fn flapping_follower() {
    for (seed, period) in (1..=WORLDS).flat_map(|seed| [(seed, 50 * MS), (seed, 400 * MS)]) {
        let mut named = Named::new(seed, 3);
        let leader = named.leader();
        let flapping = (leader + 1 + seed as usize % 2) % 3;
        named.breaks(|_| {});
        while named.world.now < named.since.at + 10 * MINUTE {
            named.world.isolate(flapping);
            named.run(period);
            named.world.mend();
            named.run(period);
        }
        assert_eq!(named.terms(), 0, "{named}: a term for nothing");
        assert_eq!(named.leader(), leader, "{named}");
        assert!(named.acked() > named.since.acked + 600, "{named}: it hardly serves");
    }
}

/// Timers of the contract, in a network where nothing happens by itself.
#[test]
fn a_healthy_cluster_has_one_election() {
    for (seed, nodes) in (1..=WORLDS).flat_map(|seed| [(seed, 1), (seed, 3), (seed, 7)]) {
        let mut named = Named::new(seed, nodes);
        let term = named.highest_term();
        named.serves_for(10 * MINUTE);
        assert_eq!(named.highest_term(), term, "{named}: a term for nothing");
    }
}
