//! Where the processes of a cluster live: on loopback addresses of their own, or in network
//! namespaces.
//!
//! Ports are not searched for: a port that was free a moment ago may be taken (also by the local end
//! of a client's connection, just while a killed node is away). Instead every run has an address of
//! its own in 127.0.0.0/8, made from its process id, and fixed ports below the kernel's range for
//! outgoing connections.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicU32, Ordering};

use super::netns::Network;

/// Clusters within one test process get port ranges this far apart.
const PORTS_PER_CLUSTER: u32 = 200;
const FIRST_PORT: u32 = 7000;
/// The kernel's outgoing range starts at 32768.
const MOST_CLUSTERS: u32 = 120;

static CLUSTERS: AtomicU32 = AtomicU32::new(0);

/// Addresses for one cluster.
#[derive(Debug)]
pub struct Placement {
    first_port: u16,
    network: Option<Network>,
}

impl Placement {
    /// Everything on one loopback address.
    pub fn loopback() -> Self {
        Self { first_port: claim_ports(), network: None }
    }

    /// Each of `nodes` nodes in a network namespace of its own, all on one bridge; everything else
    /// stays at the bridge's own address. Needs root.
    pub fn namespaces(nodes: u64) -> Self {
        Self { first_port: claim_ports(), network: Some(Network::create(nodes)) }
    }

    /// The address of node `id`.
    pub fn node_ip(&self, id: u64) -> IpAddr {
        match &self.network {
            Some(network) => network.node_ip(id),
            None => own_loopback(),
        }
    }

    /// The address of what is not a node: guard, backend.
    pub fn outside_ip(&self) -> IpAddr {
        match &self.network {
            Some(network) => network.outside_ip(),
            None => own_loopback(),
        }
    }

    /// A port of this cluster; `offset` is below 200.
    pub fn port(&self, offset: u16) -> u16 {
        assert!(u32::from(offset) < PORTS_PER_CLUSTER, "offset {offset} belongs to the next cluster");
        self.first_port + offset
    }

    /// The namespaces, when there are some.
    pub fn network(&self) -> Option<&Network> {
        self.network.as_ref()
    }
}

fn claim_ports() -> u16 {
    let number = CLUSTERS.fetch_add(1, Ordering::Relaxed) % MOST_CLUSTERS;
    u16::try_from(FIRST_PORT + number * PORTS_PER_CLUSTER).expect("ports fit in 16 bits")
}

/// 127.64.0.0/10 has 22 bits for a process id, which is what Linux allows at most.
fn own_loopback() -> IpAddr {
    let [_, high, middle, low] = std::process::id().to_be_bytes();
    IpAddr::V4(Ipv4Addr::new(127, 64 | (high & 63), middle, low))
}
