//! A leader's node that is lost, and whole regions: how soon another serves, and who must not.

use std::time::Duration;

use termgate::ids::NodeId;
use termgate::raft::config::Config;

use crate::placement::{PLACEMENTS, Placement, Region};
use crate::wan::World;

/// M1, with the slowest links.
const BOUND: Duration = Duration::from_secs(5);
const MINUTE: Duration = Duration::from_secs(60);

/// After the leader's election, somewhere between two heartbeats.
fn settled(placement: &Placement, seed: u64) -> World<'_> {
    let mut world = World::new(placement, None, seed);
    world.settle();
    world.run_for(Duration::from_millis(seed % 250));
    world
}

fn lose(world: &mut World, nodes: &[NodeId]) {
    nodes.iter().for_each(|id| world.crash(*id));
}

/// How long nobody may stamp writes after the leader's node is gone, once per seed.
pub fn failover_times(placement: &Placement, seeds: u64) -> Vec<Duration> {
    let once = |seed| {
        let mut world = settled(placement, seed);
        lose(&mut world, &[placement.leader]);
        world.run_until("another leader", |world| world.in_office().is_some())
    };
    (1..=seeds).map(once).collect()
}

/// How long after the loss of all nodes of a region the first write is acknowledged that was asked for since. Every
/// node that is left is asked all the time. `None`: no write in a minute, nobody who may have stamped
/// one, and all is well once the region is back.
pub fn outage(placement: &Placement, region: Region, seed: u64) -> Option<Duration> {
    let mut world = settled(placement, seed);
    let lost = world.now;
    lose(&mut world, &placement.nodes_in(region));
    // The longest that what was promised to a leader lasts.
    let lease = Config::wan(placement.leader).election_timeout_min;
    let mut last_in_office = lost;
    let served = world.wait_served(MINUTE, |world| {
        if world.in_office().is_some() {
            last_in_office = world.now;
        }
    });
    if served.is_none() {
        let what = format!("{}, without {region:?}, seed {seed}", placement.name);
        assert!(
            last_in_office.since(lost) <= lease,
            "{what}: a leader that nobody can have promised anything"
        );
        placement.nodes_in(region).into_iter().for_each(|id| world.start(id));
        let again = world.wait_served(BOUND, |_| ());
        assert!(again.is_some(), "{what}: it is back, and no write is acknowledged");
    }
    served
}

#[test]
fn a_leader_that_is_lost_is_replaced_within_five_seconds() {
    for placement in &PLACEMENTS {
        let worst = failover_times(placement, 40).into_iter().max().expect("losses");
        assert!(worst < BOUND, "{}: {worst:?}", placement.name);
    }
}

/// All nodes of each region of each placement, wherever leadership was.
#[test]
fn a_region_that_a_majority_outlives_is_replaced_within_five_seconds_and_any_other_is_waited_for() {
    let mut waited_for = Vec::new();
    for placement in &PLACEMENTS {
        for region in placement.inhabited() {
            let outlived = placement.outlives(region);
            for leader in placement.nodes() {
                for seed in 1..=if outlived { 10 } else { 2 } {
                    let served = outage(&placement.led_by(leader), region, seed);
                    let what = format!("{}, from {leader}, without {region:?}, seed {seed}", placement.name);
                    assert_eq!(served.is_some(), outlived, "{what}: {served:?}");
                    assert!(served.is_none_or(|took| took < BOUND), "{what}: {served:?}");
                }
            }
            waited_for.extend((!outlived).then_some((placement.name, region)));
        }
    }
    let expected = [("3 nodes, one region", Region::Eu), ("5 nodes, 3-1-1, leader eu", Region::Eu)];
    assert_eq!(waited_for, expected, "in every other placement a majority outlives any one region");
}
