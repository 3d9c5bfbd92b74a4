//! The faults, one by one. Each is done to the leader of a running cluster under load, lasts until the
//! others have taken over and written, and is undone. What an operator does with nodes and members is in `changes`.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::changes;
use crate::support::cluster::{Cluster, Leader, SETTLE_LIMIT};
use crate::support::netns::Network;
use crate::support::wait;

/// Longer than every timer in the product: whoever wakes up after it is a zombie.
const STOPPED_FOR: Duration = Duration::from_secs(5);
/// Longer than a follower's patience with its leader: it has to try to be elected.
const FOLLOWER_CUT_FOR: Duration = Duration::from_secs(1);
/// Writes that must pass after a fault, before it is undone.
const WRITES_AFTER: usize = 20;

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL to the leader, then a restart.
    Kill,
    /// SIGSTOP to the leader for five seconds, at a random moment.
    Stop,
    /// The leader stops between its last gate test and the first byte to the backend, and goes on
    /// when another has taken over.
    StopBeforeSend,
    /// The leader and the other nodes no longer hear each other; it still reaches the backend.
    IsolateLeader,
    /// The leader hears nobody; the others hear it.
    DeafLeader,
    /// Nobody hears the leader; it hears the others.
    MuteLeader,
    /// A follower is cut off from the others; the majority goes on.
    IsolateFollower,
    /// SIGKILL to all nodes at once, then a restart of all.
    KillAll,
    /// Each node in turn is asked to end, ends, and is started again.
    RollingRestart,
    /// A member is added, leads, and is removed.
    AddAndRemove,
    /// SIGKILL to the leader; another takes its place, and it comes back with an empty disk and takes that one's.
    ReplaceAndReturn,
}

impl Fault {
    pub const ON_LOOPBACK: [Self; 7] = [
        Self::Kill,
        Self::Stop,
        Self::StopBeforeSend,
        Self::KillAll,
        Self::RollingRestart,
        Self::AddAndRemove,
        Self::ReplaceAndReturn,
    ];
    pub const IN_NAMESPACES: [Self; 4] =
        [Self::IsolateLeader, Self::DeafLeader, Self::MuteLeader, Self::IsolateFollower];

    /// As the table names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kill => "leader SIGKILL",
            Self::Stop => "leader SIGSTOP 5 s",
            Self::StopBeforeSend => "stop between gate and send",
            Self::IsolateLeader => "leader isolated",
            Self::DeafLeader => "leader deaf (one-way)",
            Self::MuteLeader => "leader mute (one-way)",
            Self::IsolateFollower => "follower isolated",
            Self::KillAll => "all SIGKILL",
            Self::RollingRestart => "rolling restart",
            Self::AddAndRemove => "member added, leads, removed",
            Self::ReplaceAndReturn => "leader replaced, back with empty disk",
        }
    }

    /// Does it, waits until the rest of the cluster has got over it, and undoes it.
    pub fn strike(self, cluster: &mut Cluster) {
        let leader = cluster.leader();
        match self {
            Self::Kill => kill(cluster, &leader),
            Self::Stop => stop(cluster, &leader),
            Self::StopBeforeSend => stop_before_send(cluster, &leader),
            Self::IsolateLeader | Self::DeafLeader | Self::MuteLeader => cut_leader(self, cluster, &leader),
            Self::IsolateFollower => isolate_follower(cluster, &leader),
            Self::KillAll => kill_all(cluster, &leader),
            Self::RollingRestart => changes::restart_one_by_one(cluster),
            Self::AddAndRemove => changes::add_and_remove(cluster, &leader),
            Self::ReplaceAndReturn => changes::replace_and_return(cluster, &leader),
        }
    }
}

fn kill(cluster: &mut Cluster, leader: &Leader) {
    cluster.kill_node(leader.id);
    wait_taken_over(cluster, leader);
    cluster.start_node(leader.id);
}

fn kill_all(cluster: &mut Cluster, leader: &Leader) {
    let all = running(cluster);
    cluster.kill_nodes(&all);
    cluster.start_all_nodes();
    wait_taken_over(cluster, leader);
}

fn stop(cluster: &Cluster, leader: &Leader) {
    let process = cluster.at(leader.id).process();
    process.signal(Signal::STOP);
    let since = Instant::now();
    wait_taken_over(cluster, leader);
    // The length of the fault, not a wait for something.
    std::thread::sleep(STOPPED_FOR.saturating_sub(since.elapsed()));
    process.signal(Signal::CONT);
}

fn stop_before_send(cluster: &Cluster, leader: &Leader) {
    let node = cluster.at(leader.id);
    // The node removes the file, so it stops once.
    std::fs::write(node.pause_file(), b"").expect("the pause file can be made");
    wait::until("the leader stops itself before a send", SETTLE_LIMIT, || {
        node.process().is_stopped().then_some(())
    });
    wait_taken_over(cluster, leader);
    node.process().signal(Signal::CONT);
}

fn cut_leader(fault: Fault, cluster: &Cluster, leader: &Leader) {
    let network = network_of(cluster);
    for other in cluster.ids().into_iter().filter(|id| *id != leader.id) {
        if fault != Fault::DeafLeader {
            network.cut(leader.id, other);
        }
        if fault != Fault::MuteLeader {
            network.cut(other, leader.id);
        }
    }
    wait_taken_over(cluster, leader);
    network.heal();
}

fn isolate_follower(cluster: &Cluster, leader: &Leader) {
    let follower = cluster.ids().into_iter().find(|id| *id != leader.id).expect("there are followers");
    let others: Vec<u64> = cluster.ids().into_iter().filter(|id| *id != follower).collect();
    let network = network_of(cluster);
    network.split(&[follower], &others);
    let before = cluster.ledger.len();
    // The length of the fault.
    std::thread::sleep(FOLLOWER_CUT_FOR);
    wait_for_writes(cluster, before + WRITES_AFTER);
    network.heal();
}

fn network_of(cluster: &Cluster) -> &Network {
    cluster.placement().network().expect("this fault needs namespaces")
}

/// The nodes that run: all members, while nothing is wrong.
pub fn running(cluster: &Cluster) -> Vec<u64> {
    cluster.nodes.iter().filter(|node| node.is_running()).map(|node| node.id).collect()
}

/// Another term than the old leader's has written a little.
pub fn wait_taken_over(cluster: &Cluster, old: &Leader) {
    let what = format!("writes under a term after {} (leader {} is out)", old.term, old.id);
    wait::until(&what, SETTLE_LIMIT, || (cluster.ledger.last_term() > old.term).then_some(()));
    wait_for_writes(cluster, cluster.ledger.len() + WRITES_AFTER);
}

/// Waits until the backend has recorded `count` writes.
pub fn wait_for_writes(cluster: &Cluster, count: usize) {
    let what = format!("{count} writes at the backend");
    wait::until(&what, SETTLE_LIMIT, || (cluster.ledger.len() >= count).then_some(()));
}
