//! Random faults. Each class has its own weight in each world, and is absent from about half of
//! them; what is cut is mended after a while, what is down comes back.

use termgate::ids::NodeId;

use crate::backend::BackendEvent;
use crate::clock::{MS, True};
use crate::stats::Stat;
use crate::world::{Event, World};

/// The part of a fault that comes later.
#[derive(Debug, Clone)]
pub enum Fault {
    /// Every link works again, unless a newer partition has taken over.
    Mend { partition: u64 },
    /// A flapping link changes once more.
    Flap { a: usize, b: usize, left: u32, partition: u64 },
}

/// What the nemesis has going on.
#[derive(Debug, Default)]
pub struct Nemesis {
    /// Counts partitions: the mending of an older one does not mend a newer one.
    pub partition: u64,
}

/// The classes, in the order of `FaultParams::weights`.
const CLASSES: [fn(&mut World); 9] = [
    World::random_crash,
    World::random_pause,
    World::random_partition,
    World::random_one_way,
    World::random_isolation,
    World::random_flap,
    World::random_rate,
    World::random_skew,
    World::random_transfer,
];

impl World {
    /// How long an election takes at least, in nanoseconds.
    pub fn election(&self) -> True {
        self.params.configs[0].election_timeout_max.as_nanos() as True
    }

    pub(crate) fn next_fault(&mut self) {
        if self.calm {
            return;
        }
        let weights = self.params.faults.weights;
        let sum: u32 = weights.iter().sum();
        if sum > 0 {
            let mut left = self.chances.nemesis.below(u64::from(sum)) as u32;
            let mut class = 0;
            while left >= weights[class] {
                left -= weights[class];
                class += 1;
            }
            CLASSES[class](self);
        }
        let mean = self.params.faults.mean_gap;
        let gap = self.chances.nemesis.range(mean / 10, mean * 2);
        self.schedule(gap, Event::NextFault);
    }

    pub(crate) fn on_fault(&mut self, fault: Fault) {
        match fault {
            Fault::Mend { partition } if partition == self.nemesis.partition => self.mend(),
            Fault::Flap { a, b, left, partition } if partition == self.nemesis.partition => {
                self.flap(a, b, left, partition);
            }
            _ => {}
        }
    }

    /// Every link works again.
    pub fn mend(&mut self) {
        self.trace.line(self.now, None, || "links mended".to_owned());
        self.net.mend();
    }

    fn someone(&mut self) -> usize {
        let leader = self.leader().filter(|_| self.chances.nemesis.chance(400_000));
        leader.unwrap_or(self.chances.nemesis.below(self.nodes.len() as u64) as usize)
    }

    fn random_crash(&mut self) {
        if self.chances.nemesis.chance(80_000) {
            self.stats.add(Stat::FullOutages);
            return (0..self.nodes.len()).for_each(|node| self.crash_and_restart(node));
        }
        if self.chances.nemesis.chance(50_000) {
            return self.on_backend(BackendEvent::Crash);
        }
        let node = self.someone();
        self.crash_and_restart(node);
    }

    /// Power loss at `node`; it comes back after a short or a long while.
    pub fn crash_and_restart(&mut self, node: usize) {
        let most = self.params.faults.restart_max;
        let down = self.chances.nemesis.log_range(MS / 5, most);
        self.crash_for(node, down);
    }

    /// Power loss at `node`, and a start `down` later.
    pub fn crash_for(&mut self, node: usize, down: True) {
        if self.nodes[node].process.is_some() {
            self.crash(node);
            self.schedule(down, Event::Restart { node });
        }
    }

    fn random_pause(&mut self) {
        let node = self.someone();
        let most = 3 * self.election();
        let duration = self.chances.nemesis.log_range(5 * MS, most);
        self.pause(node, duration);
    }

    /// A new partition replaces the one before, and ends after a while.
    fn begin_partition(&mut self) -> u64 {
        if self.chances.nemesis.chance(700_000) {
            self.net.mend();
        }
        self.nemesis.partition += 1;
        let partition = self.nemesis.partition;
        let most = 8 * self.election();
        let lasts = self.chances.nemesis.log_range(most / 64, most);
        self.schedule(lasts, Event::Fault(Fault::Mend { partition }));
        partition
    }

    fn shuffled(&mut self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.nodes.len()).collect();
        for i in (1..order.len()).rev() {
            order.swap(i, self.chances.nemesis.below(i as u64 + 1) as usize);
        }
        order
    }

    fn random_partition(&mut self) {
        self.begin_partition();
        let order = self.shuffled();
        let split = self.chances.nemesis.range(1, order.len() as u64) as usize;
        let kind = self.chances.nemesis.below(4);
        let bridge = order[order.len() / 2];
        for (i, a) in order.iter().enumerate() {
            for (j, b) in order.iter().enumerate().skip(i + 1) {
                let cut = match kind {
                    0 => i < split && j >= split,
                    1 => (i < order.len() / 2) && (j > order.len() / 2),
                    2 => j > i + 1,
                    _ => self.chances.nemesis.coin(),
                };
                if cut {
                    self.net.set_cut_both(*a, *b, true);
                }
            }
        }
        let (stat, name) = match kind {
            0 => (Stat::Partitions, "two halves"),
            1 => (Stat::Bridges, "bridge"),
            2 => (Stat::Chains, "chain"),
            _ => (Stat::Partitions, "random links"),
        };
        self.stats.add(stat);
        self.trace
            .line(self.now, None, || format!("PARTITION {name}: {order:?} split {split} bridge {bridge}"));
    }

    fn random_one_way(&mut self) {
        self.begin_partition();
        let nodes = self.nodes.len() as u64;
        for _ in 0..self.chances.nemesis.range(1, nodes) {
            let (a, b) =
                (self.chances.nemesis.below(nodes) as usize, self.chances.nemesis.below(nodes) as usize);
            self.net.set_cut(a, b, a != b);
            self.trace.line(self.now, None, || format!("CUT {}->{}", a + 1, b + 1));
        }
        self.stats.add(Stat::OneWayCuts);
    }

    fn random_isolation(&mut self) {
        let Some(leader) = self.leader() else { return };
        self.begin_partition();
        match self.chances.nemesis.below(4) {
            0 => self.mute(leader, true, false),
            1 => self.mute(leader, false, true),
            2 => {
                self.bare_quorum(leader);
            }
            _ => {
                self.stats.add(Stat::LeaderIsolations);
                self.isolate(leader);
            }
        }
    }

    /// Nobody reaches `node`, and it reaches nobody.
    pub fn isolate(&mut self, node: usize) {
        self.trace.line(self.now, Some(node), || "ISOLATED".to_owned());
        for other in (0..self.nodes.len()).filter(|other| *other != node) {
            self.net.set_cut_both(node, other, true);
        }
    }

    /// `node` can send but not hear, or hear but not send.
    pub fn mute(&mut self, node: usize, deaf: bool, dumb: bool) {
        self.stats.add(Stat::LeaderMuted);
        self.trace.line(self.now, Some(node), || format!("MUTED, deaf {deaf}, dumb {dumb}"));
        for other in (0..self.nodes.len()).filter(|other| *other != node) {
            self.net.set_cut(other, node, deaf);
            self.net.set_cut(node, other, dumb);
        }
    }

    /// `leader` keeps just enough followers to lead; returns them.
    pub fn bare_quorum(&mut self, leader: usize) -> Vec<usize> {
        let followers: Vec<usize> = self.shuffled().into_iter().filter(|n| *n != leader).collect();
        let (keep, lose) = followers.split_at(self.nodes.len() / 2);
        for other in lose {
            self.net.set_cut_both(leader, *other, true);
        }
        self.stats.add(Stat::BareQuorums);
        self.trace.line(self.now, Some(leader), || format!("BARE QUORUM with {keep:?}"));
        keep.to_vec()
    }

    fn random_flap(&mut self) {
        let partition = self.begin_partition();
        let nodes = self.nodes.len() as u64;
        let (a, b) = (self.someone(), self.chances.nemesis.below(nodes) as usize);
        if a != b {
            let left = self.chances.nemesis.range(4, 40) as u32;
            self.flap(a, b, left, partition);
        }
    }

    fn flap(&mut self, a: usize, b: usize, left: u32, partition: u64) {
        self.stats.add(Stat::Flaps);
        self.net.set_cut_both(a, b, left % 2 == 1);
        if left > 0 && !self.calm {
            let heartbeat = self.params.configs[0].heartbeat_interval.as_nanos() as u64;
            let wait = self.chances.nemesis.range(heartbeat / 2, heartbeat * 2);
            self.schedule(wait, Event::Fault(Fault::Flap { a, b, left: left - 1, partition }));
        }
    }

    fn random_rate(&mut self) {
        let node = self.chances.nemesis.below(self.nodes.len() as u64) as usize;
        self.draw_rate(node);
        self.stats.add(Stat::ClockRateChanges);
    }

    /// Gives `node` a clock rate within what this world allows; often at one of its ends.
    pub fn draw_rate(&mut self, node: usize) {
        let most = self.params.real_drift_ppm;
        let between = self.chances.nemesis.range(0, 2 * most as u64) as i32 - most;
        let rate = self.chances.nemesis.pick(&[-most, most, between]);
        self.set_rate(node, rate);
    }

    /// Sets a clock's rate; a lease on it may so end earlier or later in true time.
    pub fn set_rate(&mut self, node: usize, fast_ppm: i32) {
        self.trace.line(self.now, Some(node), || format!("clock runs {fast_ppm} ppm fast"));
        self.nodes[node].clock.set_rate(self.now, fast_ppm);
        self.show_token(node);
        self.arm(node);
    }

    fn random_skew(&mut self) {
        self.net.skew(&mut self.stats);
    }

    fn random_transfer(&mut self) {
        let node = self.someone();
        let to = if self.chances.nemesis.coin() {
            None
        } else {
            Some(NodeId(self.chances.nemesis.range(1, self.nodes.len() as u64)))
        };
        self.ask_transfer(node, to);
    }
}
