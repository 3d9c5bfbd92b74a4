//! Which nodes are where, and the arithmetic of it.

use std::time::Duration;

use termgate::ids::NodeId;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Region {
    Eu,
    Us,
    Asia,
}

impl Region {
    pub const ALL: [Self; 3] = [Self::Eu, Self::Us, Self::Asia];

    /// Typical round trips between cloud regions: Frankfurt, Virginia, Tokyo.
    pub fn round_trip(self, other: Self) -> Duration {
        Duration::from_millis(match (self, other) {
            (a, b) if a == b => 1,
            (Self::Eu, Self::Us) | (Self::Us, Self::Eu) => 90,
            (Self::Us, _) | (_, Self::Us) => 160,
            _ => 220,
        })
    }

    /// Also the zone of its nodes.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Eu => "eu",
            Self::Us => "us",
            Self::Asia => "asia",
        }
    }
}

/// Node `i` is in the `i`-th region, counted from one; `leader` is where leadership begins.
#[derive(Debug, Clone, Copy)]
pub struct Placement {
    pub name: &'static str,
    pub regions: &'static [Region],
    pub leader: NodeId,
}

const fn placement(name: &'static str, regions: &'static [Region], leader: u64) -> Placement {
    Placement { name, regions, leader: NodeId(leader) }
}

pub const PLACEMENTS: [Placement; 5] = {
    use Region::{Asia, Eu, Us};
    [
        placement("3 nodes, one region", &[Eu; 3], 1),
        placement("3 nodes, 1-1-1, leader eu", &[Eu, Us, Asia], 1),
        placement("3 nodes, 1-1-1, leader asia", &[Eu, Us, Asia], 3),
        placement("5 nodes, 2-2-1, leader eu", &[Eu, Eu, Us, Us, Asia], 1),
        placement("5 nodes, 3-1-1, leader eu", &[Eu, Eu, Eu, Us, Asia], 1),
    ]
};

impl Placement {
    pub fn nodes(&self) -> impl Iterator<Item = NodeId> + use<> {
        (1..=self.regions.len() as u64).map(NodeId)
    }

    pub fn region(&self, id: NodeId) -> Region {
        self.regions[id.0 as usize - 1]
    }

    pub fn nodes_in(&self, region: Region) -> Vec<NodeId> {
        self.nodes().filter(|id| self.region(*id) == region).collect()
    }

    /// The regions that have nodes.
    pub fn inhabited(&self) -> impl Iterator<Item = Region> {
        Region::ALL.into_iter().filter(|region| self.regions.contains(region))
    }

    /// Whether a majority is left when all of a region is lost.
    pub fn outlives(&self, region: Region) -> bool {
        2 * (self.regions.len() - self.nodes_in(region).len()) > self.regions.len()
    }

    /// Leadership begins in another place.
    pub fn led_by(&self, leader: NodeId) -> Self {
        Self { leader, ..*self }
    }

    /// The round trip from `leader` to the nearest nodes that complete a majority with it.
    pub fn quorum_round_trip(&self, leader: NodeId) -> Duration {
        let own = self.region(leader);
        let others = self.nodes().filter(|id| *id != leader);
        let mut trips: Vec<Duration> = others.map(|id| own.round_trip(self.region(id))).collect();
        trips.sort_unstable();
        trips[self.regions.len() / 2 - 1]
    }
}
