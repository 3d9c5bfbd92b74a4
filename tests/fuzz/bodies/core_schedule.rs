//! A schedule for three honest cores: which message arrives, which is lost or comes twice, whose disk writes, whose
//! clock is noticed, who crashes and what of its queue survives, what clients ask, who is to be a member. Safety holds
//! after every move (`world`, `host`); in the end all heals, and the cluster serves a write.

use arbitrary::Unstructured;
use termgate::ids::NodeId;
use termgate::raft::config::Config;
use termgate::raft::effect::{Change, Input};
use termgate::time::Duration;

use super::draw::{below, byte, coin, pick};
use super::world::{DRIFT_PPM, World};

/// More moves than this say nothing new.
const MOVES: usize = 150;
/// Rounds of ten milliseconds in which a cluster without faults must serve: some tens of election timeouts.
const PATIENCE: usize = 600;

/// The bytes are clocks and limits, and then moves.
pub fn run(data: &[u8]) {
    let u = &mut Unstructured::new(data);
    let mut world = World::new(&config(u), &rates(u));
    let mut moves = 0;
    while !u.is_empty() && moves < MOVES {
        moves += 1;
        step(u, &mut world);
    }
    heal(&mut world);
}

/// Small limits, so that they are reached; leases without a margin, so that nothing hides a nanosecond.
fn config(u: &mut Unstructured<'_>) -> Config {
    let mut config = Config::new(NodeId(1));
    config.clock_drift_ppm = DRIFT_PPM;
    config.lease_margin = Duration::ZERO;
    config.snapshot_entries = *pick(u, &[4, 10, 100_000]);
    config.snapshot_keep = below(u, 3);
    config.chunk_bytes = 16;
    config.max_append_bytes = *pick(u, &[1, 100, 100_000]);
    config.max_inflight_messages = 1 + below(u, 4) as usize;
    config
}

/// Clocks at the ends of what they may be, or right.
fn rates(u: &mut Unstructured<'_>) -> Vec<u64> {
    let drift = u64::from(DRIFT_PPM);
    (0..3).map(|_| *pick(u, &[1_000_000 - drift, 1_000_000 + drift, 1_000_000])).collect()
}

fn node(u: &mut Unstructured<'_>) -> usize {
    below(u, 3) as usize
}

fn step(u: &mut Unstructured<'_>, world: &mut World) {
    match byte(u) {
        0..=59 => world.deliver(usize::from(byte(u)), false),
        60..=69 => world.deliver(usize::from(byte(u)), true),
        70..=79 => {
            if !world.mail.is_empty() {
                let at = usize::from(byte(u)) % world.mail.len();
                world.mail.remove(at);
            }
        }
        80..=99 => world.advance(Duration::from_millis(below(u, 100))),
        100..=119 => {
            let node = node(u);
            world.with(node, |host| host.step(Input::Timeout));
        }
        120..=134 => {
            // Up to the very moment, on this clock.
            let node = node(u);
            let host = &world.hosts[node];
            let wait = host.node.deadline().since(host.now);
            world.advance(wait.min(Duration::from_secs(1)));
            world.with(node, |host| host.step(Input::Timeout));
        }
        135..=154 => disk(u, world),
        155..=164 => {
            let node = node(u);
            world.with(node, super::host::Host::keep);
        }
        165..=179 => {
            let node = node(u);
            world.propose(node);
        }
        180..=189 => {
            let node = node(u);
            world.read(node);
        }
        190..=195 => {
            let (node, to) = (node(u), node(u));
            world.transfer(node, coin(u).then_some(to));
        }
        196..=200 => {
            let (node, stalled) = (node(u), coin(u));
            world.with(node, |host| host.step(Input::DiskStalled(stalled)));
        }
        201..=204 => {
            let node = node(u);
            world.with(node, |host| host.step(Input::ClockSuspect));
        }
        205..=214 => crash(u, world),
        215..=224 => change(u, world),
        _ => quiet(u, world),
    }
}

fn disk(u: &mut Unstructured<'_>, world: &mut World) {
    let (node, how) = (node(u), byte(u));
    world.with(node, |host| {
        host.flush(1 + usize::from(how % 4));
        if how < 224 {
            host.report();
        }
    });
}

/// A node is added, given a vote, left without one, or removed; or two of them change places. Its name comes with the
/// directory that it has (V8).
fn change(u: &mut Unstructured<'_>, world: &mut World) {
    let (at, one, other) = (node(u), node(u), node(u));
    let id = |node: usize| NodeId(node as u64 + 1);
    let mut change = Change::default();
    match byte(u) % 6 {
        0 => drop(change.promote.insert(id(one))),
        1 => drop(change.demote.insert(id(one))),
        2 => drop(change.remove.insert(id(one))),
        3 => {
            change.promote.insert(id(one));
            change.remove.insert(id(other));
        }
        4 => {
            change.promote.insert(id(one));
            change.demote.insert(id(other));
        }
        _ => {
            change.add.insert(id(one), Some(id(one).0));
            if world.hosts[one].removed {
                world.with(one, super::host::Host::restart);
            }
        }
    }
    world.change(at, change);
}

/// A crash keeps a prefix of what was queued.
fn crash(u: &mut Unstructured<'_>, world: &mut World) {
    let (node, kept) = (node(u), usize::from(byte(u) % 4));
    world.with(node, |host| {
        host.flush(kept);
        host.restart();
    });
}

/// Some time without faults, but perhaps without one of the nodes: how a schedule gets anywhere.
fn quiet(u: &mut Unstructured<'_>, world: &mut World) {
    let cut = match byte(u) % 8 {
        out @ 0..=2 => Some(usize::from(out)),
        _ => None,
    };
    for _ in 0..1 + below(u, 24) {
        world.advance(Duration::from_millis(10));
        world.round(cut);
    }
}

/// No fault any more: within some election timeouts somebody leads, and a write is acknowledged.
fn heal(world: &mut World) {
    for node in 0..world.hosts.len() {
        if world.hosts[node].removed {
            // It may have been added again since it ended.
            world.with(node, super::host::Host::restart);
        }
        world.with(node, |host| host.step(Input::DiskStalled(false)));
    }
    let served = world.served;
    for round in 0..PATIENCE {
        world.advance(Duration::from_millis(10));
        world.round(None);
        if round % 8 == 0
            && let Some(leader) = world.leader()
        {
            world.propose(leader);
        }
        if world.served > served {
            return;
        }
    }
    panic!("nothing is served in {PATIENCE} rounds without a fault");
}
