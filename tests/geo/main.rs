//! Clusters over several regions: what a placement costs, in commits and in failovers.
//!
//! The real core on a wire with the round trips between regions, and on a disk that takes a moment; no
//! faults but the ones that are asked for. What comes out is arithmetic: a commit takes the round trip to
//! the nearest nodes that complete a majority, a failover an election timeout and two round trips of the
//! winner's majority. The table is in `docs/geography.md`; the test pins the arithmetic.

mod wan;

use std::time::Duration;

use termgate::raft::config::Config;

use wan::{Placement, Region, commit_time, failover_times};

const PLACEMENTS: [Placement; 5] = [
    Placement { name: "3 nodes, one region", regions: &[Region::Eu; 3], leader: 1 },
    Placement {
        name: "3 nodes, 1-1-1, leader eu",
        regions: &[Region::Eu, Region::Us, Region::Asia],
        leader: 1,
    },
    Placement {
        name: "3 nodes, 1-1-1, leader asia",
        regions: &[Region::Eu, Region::Us, Region::Asia],
        leader: 3,
    },
    Placement {
        name: "5 nodes, 2-2-1, leader eu",
        regions: &[Region::Eu, Region::Eu, Region::Us, Region::Us, Region::Asia],
        leader: 1,
    },
    Placement {
        name: "5 nodes, 3-1-1, leader eu",
        regions: &[Region::Eu, Region::Eu, Region::Eu, Region::Us, Region::Asia],
        leader: 1,
    },
];

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// The quorum's round trip: the time to the nearest nodes that complete a majority with the leader.
fn quorum_round_trip(placement: &Placement) -> Duration {
    let own = placement.regions[placement.leader as usize - 1];
    let mut trips: Vec<Duration> = (1..=placement.regions.len() as u64)
        .filter(|id| *id != placement.leader)
        .map(|id| own.round_trip(placement.regions[id as usize - 1]))
        .collect();
    trips.sort_unstable();
    trips[placement.regions.len() / 2 - 1]
}

#[test]
fn a_commit_takes_the_round_trip_to_the_nearest_majority() {
    for placement in &PLACEMENTS {
        let took = commit_time(placement, Config::wan);
        let expected = quorum_round_trip(placement);
        let spare = Duration::from_millis(8);
        assert!(took >= expected && took <= expected + spare, "{}: {took:?}, {expected:?}", placement.name);
    }
}

/// M1, with the slowest links: an election timeout, and what messages take.
#[test]
fn a_region_that_is_lost_is_replaced_within_five_seconds() {
    for placement in &PLACEMENTS {
        let mut took = failover_times(placement, Config::wan, 40);
        took.sort_unstable();
        let worst = took[took.len() - 1];
        let without = placement.regions.iter().filter(|region| **region != Region::Eu).count();
        // The leader's node alone is lost; the others are a majority.
        assert!(without <= placement.regions.len());
        assert!(worst < Duration::from_secs(5), "{}: {worst:?}", placement.name);
    }
}

/// The table of `docs/geography.md`.
#[test]
#[ignore = "prints a table: make geo"]
fn table() {
    println!(
        "{:<30} {:>10} {:>10} {:>12} {:>12}",
        "placement", "quorum rtt", "commit", "failover p50", "failover p99"
    );
    for placement in &PLACEMENTS {
        let mut took = failover_times(placement, Config::wan, 400);
        took.sort_unstable();
        let at = |part: usize| millis(took[took.len() * part / 100]);
        println!(
            "{:<30} {:>7.0} ms {:>7.0} ms {:>9.0} ms {:>9.0} ms",
            placement.name,
            millis(quorum_round_trip(placement)),
            millis(commit_time(placement, Config::wan)),
            at(50),
            at(99),
        );
    }
}
