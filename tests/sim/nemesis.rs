//! Random faults: which classes there are, when the next one comes, and those of machines, clocks
//! and disks (`links` has those of the network). Each class has its own weight in each world, and is
//! absent from about half of them; what is cut is mended after a while, what is down comes back.

use termgate::ids::NodeId;

use crate::backend::BackendEvent;
use crate::clock::{MS, True};
use crate::links::Swizzle;
use crate::process::DiskState;
use crate::stats::Class;
use crate::world::{Event, World};

/// The part of a fault that comes later.
#[derive(Debug, Clone)]
pub enum Fault {
    /// Every link works again, unless a newer partition has taken over.
    Mend { partition: u64 },
    /// A flapping link changes once more.
    Flap { a: usize, b: usize, left: u32, partition: u64 },
    /// The next link is cut, or comes back.
    Swizzle(Box<Swizzle>),
    /// A node that is starting crashes again.
    CrashAgain { node: usize, left: u32 },
    /// A disk is what it was, unless a newer fault has taken over.
    DiskMend { node: usize, fault: u64 },
}

/// What the nemesis has going on.
#[derive(Debug, Default)]
pub struct Nemesis {
    /// Counts partitions: the mending of an older one does not mend a newer one.
    pub partition: u64,
    /// Counts faults of disks.
    pub disk_fault: u64,
}

/// How many classes there are.
pub const COUNT: usize = 27;

/// The classes, in the order of `FaultParams::weights`.
const CLASSES: [fn(&mut World); COUNT] = [
    World::random_crash,
    World::random_outage,
    World::random_double_crash,
    World::random_pause,
    World::random_suspend,
    World::random_jump,
    World::random_rate,
    World::random_slow_disk,
    World::random_hung_disk,
    World::random_full_disk,
    World::random_halves,
    World::random_bridge,
    World::random_chain,
    World::random_star,
    World::random_bad_link,
    World::random_links,
    World::random_directed,
    World::random_isolate_one,
    World::random_isolate_leader,
    World::random_mute_leader,
    World::random_bare_quorum,
    World::random_flap,
    World::random_swizzle,
    World::random_skew,
    World::random_transfer,
    World::random_backend_crash,
    World::random_backend_away,
];

/// For worlds without pauses, stopped clocks and transfers.
pub fn leave_out_stops_and_transfers(weights: &mut [u32; COUNT]) {
    let left_out = [World::random_pause, World::random_suspend, World::random_transfer];
    for (weight, class) in weights.iter_mut().zip(CLASSES) {
        if left_out.iter().any(|out: &fn(&mut World)| std::ptr::fn_addr_eq(*out, class)) {
            *weight = 0;
        }
    }
}

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
            Fault::Swizzle(swizzle) => self.swizzle(*swizzle),
            Fault::CrashAgain { node, left } => self.crash_again(node, left),
            Fault::DiskMend { node, fault } if fault == self.nodes[node].disk_state.fault => {
                self.mend_disk(node)
            }
            _ => {}
        }
    }

    pub(crate) fn someone(&mut self) -> usize {
        let leader = self.leader().filter(|_| self.chances.nemesis.chance(400_000));
        leader.unwrap_or(self.chances.nemesis.below(self.nodes.len() as u64) as usize)
    }

    fn random_crash(&mut self) {
        let node = self.someone();
        self.crash_and_restart(node, Class::Crash);
    }

    fn random_outage(&mut self) {
        self.stats.fired(Class::Outage);
        for node in 0..self.nodes.len() {
            let down = self.time_down();
            let lost = self.crash_for(node, down);
            self.stats.mattered(Class::Outage, lost > 0);
        }
    }

    fn time_down(&mut self) -> True {
        let most = self.params.faults.restart_max;
        self.chances.nemesis.log_range(MS / 5, most)
    }

    /// Power loss at `node`, for a reason; it comes back after a short or a long while.
    pub fn crash_and_restart(&mut self, node: usize, class: Class) {
        if self.nodes[node].process.is_some() {
            let led = self.nodes[node].is_leader();
            let down = self.time_down();
            let lost = self.crash_for(node, down);
            self.stats.fired(class);
            self.stats.mattered(class, lost > 0 || (led && class != Class::CrashInFsync));
        }
    }

    /// Power loss at `node`, and a start `down` later. Returns how many queued writes were lost.
    pub fn crash_for(&mut self, node: usize, down: True) -> usize {
        if self.nodes[node].process.is_none() {
            return 0;
        }
        let lost = self.crash(node);
        self.schedule(down, Event::Restart { node });
        lost
    }

    /// A crash, and once or twice again while the process is starting.
    fn random_double_crash(&mut self) {
        let node = self.someone();
        if self.nodes[node].process.is_some() {
            let left = self.chances.nemesis.range(1, 2) as u32;
            self.stats.fired(Class::DoubleCrash);
            self.crash_soon_again(node, left);
        }
    }

    fn crash_soon_again(&mut self, node: usize, left: u32) {
        let down = self.chances.nemesis.log_range(MS / 5, 8 * MS);
        self.crash_for(node, down);
        if left > 0 {
            let up = self.chances.nemesis.log_range(MS / 20, 20 * MS);
            self.schedule(down + up, Event::Fault(Fault::CrashAgain { node, left: left - 1 }));
        }
    }

    fn crash_again(&mut self, node: usize, left: u32) {
        if let Some(process) = self.nodes[node].process.as_ref().filter(|_| !self.calm) {
            let starting = process.leadership.leader.is_none();
            self.stats.mattered(Class::DoubleCrash, starting);
            self.crash_soon_again(node, left);
        }
    }

    fn random_pause(&mut self) {
        let node = self.someone();
        let most = 3 * self.election();
        let duration = self.chances.nemesis.log_range(5 * MS, most);
        self.pause(node, duration);
    }

    /// The whole machine stands still and its clock with it, as when a virtual machine is suspended
    /// behind its own back. No bound on clock rates holds then.
    fn random_suspend(&mut self) {
        let node = self.someone();
        if self.params.clocks_in_bound || !self.nodes[node].is_running() {
            return;
        }
        let most = 3 * self.election();
        let duration = self.chances.nemesis.log_range(5 * MS, most);
        self.stats.fired(Class::Suspend);
        self.pause(node, duration);
        self.nodes[node].clock.stop(self.now);
        self.nodes[node].clock_stopped = true;
    }

    /// A clock that jumps ahead runs, for a moment, beyond any bound.
    fn random_jump(&mut self) {
        let node = self.someone();
        if self.params.clocks_in_bound || self.nodes[node].clock_stopped {
            return;
        }
        let most = 3 * self.election();
        let by = self.chances.nemesis.log_range(MS, most);
        self.trace.line(self.now, Some(node), || format!("clock jumps {} ms ahead", by / MS));
        self.nodes[node].clock.jump(by);
        let local = self.nodes[node].clock.at(self.now);
        let passed = self.nodes[node].process.as_ref().is_some_and(|p| p.wake <= local);
        self.stats.fired(Class::ClockJump);
        self.stats.mattered(Class::ClockJump, passed);
        self.show_token(node);
        self.arm(node);
    }

    fn random_rate(&mut self) {
        let node = self.chances.nemesis.below(self.nodes.len() as u64) as usize;
        let lease = |w: &Self| {
            let it = &w.nodes[node];
            let until = it.process.as_ref().and_then(|p| p.leadership.lease_until)?;
            Some(it.clock.when(until))
        };
        let before = lease(self);
        self.draw_rate(node);
        self.stats.fired(Class::ClockRate);
        let after = lease(self);
        self.stats.mattered(Class::ClockRate, before != after);
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
        if self.nodes[node].clock_stopped {
            return;
        }
        self.trace.line(self.now, Some(node), || format!("clock runs {fast_ppm} ppm fast"));
        self.nodes[node].clock.set_rate(self.now, fast_ppm);
        self.show_token(node);
        self.arm(node);
    }

    /// A fault of `node`'s disk begins; it lasts up to a few election timeouts, or longer.
    fn begin_disk_fault(&mut self, node: usize, class: Class) -> True {
        self.mend_disk(node);
        self.nemesis.disk_fault += 1;
        let fault = self.nemesis.disk_fault;
        let most = 8 * self.election();
        let lasts = self.chances.nemesis.log_range(most / 100, most);
        self.trace.line(self.now, Some(node), || format!("DISK {class:?} for {} ms", lasts / MS));
        self.stats.fired(class);
        self.nodes[node].disk_state.fault = fault;
        self.nodes[node].disk_state.class = Some(class);
        self.schedule(lasts, Event::Fault(Fault::DiskMend { node, fault }));
        self.now + lasts
    }

    pub(crate) fn mend_disk(&mut self, node: usize) {
        self.nodes[node].disk_state = DiskState::default();
    }

    fn random_slow_disk(&mut self) {
        let node = self.someone();
        self.begin_disk_fault(node, Class::SlowDisk);
        let most = self.election();
        self.nodes[node].disk_state.extra = self.chances.nemesis.log_range(MS / 3, most);
    }

    fn random_hung_disk(&mut self) {
        let node = self.someone();
        let until = self.begin_disk_fault(node, Class::HungDisk);
        self.nodes[node].disk_state.hangs_until = until;
    }

    fn random_full_disk(&mut self) {
        let node = self.someone();
        self.fill_disk(node);
    }

    /// From now on, and for a while, nothing more fits on `node`'s disk.
    pub fn fill_disk(&mut self, node: usize) {
        let until = self.begin_disk_fault(node, Class::FullDisk);
        self.nodes[node].disk_state.full_until = until;
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

    fn random_backend_crash(&mut self) {
        self.on_backend(BackendEvent::Crash);
    }

    fn random_backend_away(&mut self) {
        let most = 4 * self.election();
        let lasts = self.chances.nemesis.log_range(most / 100, most);
        self.stats.fired(Class::BackendAway);
        self.backend_away(lasts);
    }
}
