//! Clusters over several regions: what a placement costs in commits and in failovers, which region it outlives, and
//! how leadership goes where it is wanted.
//!
//! | file | what |
//! |---|---|
//! | `placement` | which nodes are where, and the arithmetic |
//! | `wan` | the simulated wide-area network |
//! | `loss` | a leader that is lost, and whole regions |
//! | `preference` | the preferred zone |
//!
//! What comes out is arithmetic: a commit takes the round trip to the nearest nodes that complete a majority, a
//! failover an election timeout and two round trips of the winner's majority. The tables are in
//! `docs/geography.md`; the tests pin the arithmetic.

#[path = "../model/mod.rs"]
mod model;

mod loss;
mod placement;
mod preference;
mod wan;

use std::time::Duration;

use loss::{failover_times, outage};
use placement::{PLACEMENTS, Placement, Region};
use wan::World;

/// How long a write takes at the leader.
fn commit_time(placement: &Placement) -> Duration {
    let mut world = World::new(placement, None, 1);
    world.settle();
    world.write()
}

#[test]
fn a_commit_takes_the_round_trip_to_the_nearest_majority() {
    for placement in &PLACEMENTS {
        let took = commit_time(placement);
        let expected = placement.quorum_round_trip(placement.leader);
        let spare = Duration::from_millis(8);
        assert!(took >= expected && took <= expected + spare, "{}: {took:?}, {expected:?}", placement.name);
    }
}

/// How often each loss is played for the tables.
const LOSSES: u64 = 400;

/// The middle, and what one of a hundred exceeds.
fn spread(mut took: Vec<Duration>) -> String {
    took.sort_unstable();
    let at = |part: usize| took[took.len() * part / 100].as_millis();
    format!("{} / {} ms", at(50), at(99))
}

/// The tables of `docs/geography.md`.
#[test]
#[ignore = "prints tables: make geo"]
fn table() {
    println!("| placement | quorum round trip | commit | leader's node lost |");
    for placement in &PLACEMENTS {
        let round_trip = placement.quorum_round_trip(placement.leader).as_millis();
        let commit = commit_time(placement).as_millis();
        let failover = spread(failover_times(placement, LOSSES));
        println!("| {} | {round_trip} ms | {commit} ms | {failover} |", placement.name);
    }
    println!("\n| placement | `eu` lost | `us` lost | `asia` lost |");
    for placement in &PLACEMENTS {
        let cell = |region| {
            if placement.nodes_in(region).is_empty() {
                return "-".to_owned();
            }
            // What stops stops for a minute each time.
            let is_replaced = outage(placement, region, 1).is_some();
            let times = |seed| outage(placement, region, seed).expect("a majority outlives it");
            if is_replaced { spread((1..=LOSSES).map(times).collect()) } else { "stops".to_owned() }
        };
        let [eu, us, asia] = Region::ALL.map(cell);
        println!("| {} | {eu} | {us} | {asia} |", placement.name);
    }
}
