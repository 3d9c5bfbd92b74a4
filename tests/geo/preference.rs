//! Leadership goes to the preferred zone: once, and not to a node that does not stay.

use std::time::Duration;

use termgate::ids::NodeId;
use termgate::raft::config::Config;

use crate::placement::{PLACEMENTS, Placement, Region};
use crate::wan::World;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
/// One node in each region; leadership begins with node 1, in `eu`.
const ONE_EACH: Placement = PLACEMENTS[1];
/// Nodes 3 and 4 are in `us`; leadership begins with node 1, in `eu`.
const TWO_AND_TWO: Placement = PLACEMENTS[3];
const IN_US: NodeId = NodeId(2);
const IN_ASIA: NodeId = NodeId(3);

/// How long a node must have been ready: twenty of the longest election timeouts.
fn wait() -> Duration {
    Config::wan(NodeId(1)).election_timeout_max * 20
}

/// Leadership is where it begins, and wanted in `preferred`.
fn settled(placement: &Placement, preferred: Region, seed: u64) -> World<'_> {
    let mut world = World::new(placement, Some(preferred), seed);
    world.settle();
    assert!(world.handovers.is_empty(), "nobody has waited for long enough yet");
    world
}

fn leaders(world: &World) -> Vec<NodeId> {
    world.elections.iter().map(|election| election.node).collect()
}

/// Leadership arrives in the preferred region, and not before its node was ready for long enough; answers where.
#[track_caller]
fn arrive(world: &mut World, placement: &Placement, preferred: Region) -> NodeId {
    let is_there = |world: &World| world.in_office().is_some_and(|id| placement.region(id) == preferred);
    let took = world.run_until("leadership where it is wanted", is_there);
    // From the first look on; a look is due twice in the shortest election timeout.
    assert!(took < wait() + 10 * SECOND, "{}, to {preferred:?}: {took:?}", placement.name);
    world.in_office().expect("it is there")
}

/// A hand-over takes half a round trip to the next leader and two of its majority: one for the votes and one for its
/// first entry.
fn expected_pause(placement: &Placement, from: NodeId, to: NodeId) -> Duration {
    placement.region(from).round_trip(placement.region(to)) / 2 + placement.quorum_round_trip(to) * 2
}

#[test]
fn leadership_goes_to_the_preferred_zone_once_and_stays() {
    for placement in &PLACEMENTS {
        for preferred in placement.inhabited() {
            let mut world = settled(placement, preferred, 1);
            if placement.region(placement.leader) == preferred {
                world.run_for(10 * MINUTE);
                assert_eq!((leaders(&world), &world.handovers[..]), (vec![], &[][..]), "it is there already");
                continue;
            }
            let to = arrive(&mut world, placement, preferred);
            let what = format!("{}, to {preferred:?}", placement.name);
            let handover = world.handovers[0];
            let (pause, expected) =
                (world.now.since(handover.at), expected_pause(placement, handover.from, to));
            assert!(
                pause >= expected && pause <= expected + Duration::from_millis(12),
                "{what}: nobody led for {pause:?}, {expected:?}"
            );
            world.run_for(10 * MINUTE);
            assert_eq!((leaders(&world), world.handovers.len()), (vec![to], 1), "{what}");
        }
    }
}

/// Three hundred and more entries are on their way to it at any moment.
#[test]
fn leadership_goes_to_the_preferred_zone_under_load_too() {
    let mut world = settled(&ONE_EACH, Region::Asia, 1);
    world.load(Duration::from_millis(1), wait() + 10 * SECOND);
    assert_eq!((leaders(&world), world.in_office()), (vec![IN_ASIA], Some(IN_ASIA)));
}

/// How a node comes and goes.
#[derive(Debug, Clone, Copy)]
enum Flap {
    /// It crashes, and starts after so long.
    Crash(Duration),
    /// It is cut off for so long.
    Cut(Duration),
}

fn flap(world: &mut World, id: NodeId, how: Flap) {
    match how {
        Flap::Crash(away) => {
            world.crash(id);
            world.run_for(away);
            world.start(id);
        }
        Flap::Cut(away) => {
            world.cut(id);
            world.run_for(away);
            world.mend(id);
        }
    }
}

const FLAPS: [Flap; 3] = [
    Flap::Crash(Duration::from_secs(5)),
    // Nobody misses it for so short a time.
    Flap::Crash(Duration::from_millis(300)),
    Flap::Cut(Duration::from_secs(3)),
];

/// It is away more often than it would have to be there.
#[test]
fn a_preferred_node_that_flaps_gets_leadership_when_it_stays() {
    for how in FLAPS {
        let mut world = settled(&ONE_EACH, Region::Us, 1);
        for _ in 0..20 {
            world.run_for(wait() - 10 * SECOND);
            flap(&mut world, IN_US, how);
        }
        assert_eq!((leaders(&world), world.handovers.len()), (vec![], 0), "{how:?}");
        let back = world.now;
        arrive(&mut world, &ONE_EACH, Region::Us);
        world.run_for(10 * MINUTE);
        assert_eq!(leaders(&world), [IN_US], "{how:?}");
        let waited = world.handovers[0].at.since(back);
        assert!(waited >= wait(), "{how:?}: handed over after {waited:?}");
    }
}

/// It is the other one of the zone that leads.
#[test]
fn of_two_preferred_nodes_the_one_that_stays_gets_leadership() {
    for how in FLAPS {
        let mut world = settled(&TWO_AND_TWO, Region::Us, 1);
        for _ in 0..20 {
            world.run_for(20 * SECOND);
            flap(&mut world, NodeId(3), how);
        }
        assert_eq!(leaders(&world), [NodeId(4)], "{how:?}");
    }
}

/// How often one leader hands over within so long, when each attempt doubles the pause before the next.
fn most_attempts(long: Duration) -> usize {
    let (mut pause, mut at, mut count) = (wait(), wait(), 0);
    while at < long {
        (at, count) = (at + pause, count + 1);
        pause *= 2;
    }
    count
}

/// It is ready for long enough each time, takes leadership, and loses it again at once.
#[test]
fn a_preferred_node_that_does_not_keep_leadership_gets_it_ever_more_rarely() {
    let long = 60 * MINUTE;
    for how in [Flap::Crash(5 * SECOND), Flap::Cut(5 * SECOND)] {
        let mut world = settled(&ONE_EACH, Region::Us, 1);
        let end = world.now + long;
        while world.now < end {
            world.run_for(2 * SECOND);
            if world.in_office() == Some(IN_US) {
                flap(&mut world, IN_US, how);
            }
        }
        // Both of the others may have led, and each knows only of its own attempts.
        let most = 2 * most_attempts(long);
        let (handovers, changes) = (world.handovers.len(), leaders(&world).len());
        assert!((3..=most).contains(&handovers), "{how:?}: {handovers}, at most {most}");
        assert!(changes <= 2 * handovers, "{how:?}: {changes} leaders for {handovers} attempts");
    }
}

/// It is cut off whenever it is to take over: the order to do so is lost.
#[test]
fn a_handover_that_fails_leaves_leadership_where_it_is() {
    let long = 60 * MINUTE;
    let mut world = settled(&ONE_EACH, Region::Us, 1);
    let end = world.now + long;
    let mut attempts = 0;
    while world.now < end {
        world.run_for(Duration::from_millis(20));
        if world.handovers.len() > attempts {
            attempts = world.handovers.len();
            flap(&mut world, IN_US, Flap::Cut(5 * SECOND));
        }
    }
    assert_eq!((leaders(&world), world.in_office()), (vec![], Some(ONE_EACH.leader)));
    assert!((3..=most_attempts(long)).contains(&attempts), "{attempts}");
}

#[test]
fn a_preferred_zone_that_was_lost_leads_again_once_when_it_is_back_and_stable() {
    for placement in &PLACEMENTS[1..] {
        for preferred in placement.inhabited().filter(|region| placement.outlives(*region)) {
            let mut world = settled(placement, preferred, 1);
            if placement.region(placement.leader) != preferred {
                arrive(&mut world, placement, preferred);
            }
            world.run_for(MINUTE);
            let before = world.elections.len();
            let zone = placement.nodes_in(preferred);
            zone.iter().for_each(|id| world.crash(*id));
            world.run_for(5 * MINUTE);
            let what = format!("{}, {preferred:?}", placement.name);
            assert!(world.in_office().is_some_and(|id| placement.region(id) != preferred), "{what}");
            assert_eq!(world.elections.len(), before + 1, "{what}: one of the others leads, and goes on");
            zone.iter().for_each(|id| world.start(*id));
            let back = world.now;
            let to = arrive(&mut world, placement, preferred);
            let handover = world.handovers.last().expect("a hand-over");
            assert!(handover.at.since(back) >= wait(), "{what}: it was not back for long enough");
            world.run_for(10 * MINUTE);
            assert_eq!(world.elections.len(), before + 2, "{what}: {:?}", world.elections);
            assert_eq!(world.in_office(), Some(to), "{what}");
        }
    }
}
