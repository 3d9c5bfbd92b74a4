//! The network: datagrams between nodes that are dropped, doubled, delayed and overtaken, over
//! links that are cut one direction at a time.

use crate::clock::{MS, True};
use crate::params::NetParams;
use crate::rng::Rng;
use crate::stats::{Class, Stat, Stats};

/// What a message carries, as far as its loss matters.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cargo {
    /// Entries of the log.
    pub entries: bool,
    /// A vote, or the wish for one.
    pub vote: bool,
}

/// From whom to whom a message goes, and when it leaves.
#[derive(Debug, Clone, Copy)]
pub struct Way {
    /// The sender.
    pub from: usize,
    /// The receiver.
    pub to: usize,
    /// In true time.
    pub now: True,
}

/// Every directed link of one world.
#[derive(Debug)]
pub struct Net {
    nodes: usize,
    params: NetParams,
    rng: Rng,
    cut: Vec<bool>,
    /// Nodes that entries do not reach: everything else does.
    starved: Vec<bool>,
    /// By how much entries on their way to each node are later than all else, and when the last of
    /// them arrives: they keep their order.
    late: Vec<(u64, True)>,
    /// Extra delay per directed link, in nanoseconds: one direction may be slow.
    slow: Vec<u64>,
    /// The fault that cuts links now, when it is a random one.
    blame: Option<Class>,
}

impl Net {
    /// A network in which everybody reaches everybody.
    pub fn new(nodes: usize, params: NetParams, mut rng: Rng) -> Self {
        let links = nodes * nodes;
        let skewed = params.skew_max;
        let slow = (0..links).map(|_| if skewed > 0 && rng.coin() { rng.below(skewed) } else { 0 });
        Self {
            nodes,
            params,
            cut: vec![false; links],
            starved: vec![false; nodes],
            late: vec![(0, 0); nodes],
            slow: slow.collect(),
            blame: None,
            rng,
        }
    }

    const fn link(&self, from: usize, to: usize) -> usize {
        from * self.nodes + to
    }

    /// Cuts or mends one direction.
    pub fn set_cut(&mut self, from: usize, to: usize, cut: bool) {
        let link = self.link(from, to);
        self.cut[link] = cut;
    }

    /// Cuts or mends both directions.
    pub fn set_cut_both(&mut self, a: usize, b: usize, cut: bool) {
        self.set_cut(a, b, cut);
        self.set_cut(b, a, cut);
    }

    /// Whether `from` cannot reach `to`.
    pub fn is_cut(&self, from: usize, to: usize) -> bool {
        self.cut[self.link(from, to)]
    }

    /// Whether any link is cut.
    pub fn has_cuts(&self) -> bool {
        self.cut.contains(&true)
    }

    /// Mends every link.
    pub fn mend(&mut self) {
        self.cut.fill(false);
        self.blame = None;
    }

    /// From now on messages that are stopped are stopped by this fault.
    pub const fn blame(&mut self, class: Class) {
        self.blame = Some(class);
    }

    /// Whether entries (not heartbeats, not votes) are kept from `node`.
    pub fn starve(&mut self, node: usize, starved: bool) {
        self.starved[node] = starved;
    }

    /// Makes entries (not heartbeats, not votes) reach `node` later than all else, by `extra` nanoseconds.
    pub fn delay_entries(&mut self, node: usize, extra: u64) {
        self.late[node] = (extra, 0);
    }

    /// Draws new slow directions.
    pub fn skew(&mut self) {
        for link in 0..self.slow.len() {
            self.slow[link] = if self.params.skew_max > 0 && self.rng.coin() {
                self.rng.below(self.params.skew_max)
            } else {
                0
            };
        }
    }

    /// Makes one direction slower by `extra` nanoseconds.
    pub fn set_slow(&mut self, from: usize, to: usize, extra: u64) {
        let link = self.link(from, to);
        self.slow[link] = extra;
    }

    /// From now on nothing is lost and everything is quick.
    pub fn heal(&mut self) {
        self.mend();
        self.starved.fill(false);
        self.late.fill((0, 0));
        self.slow.fill(0);
        self.params = NetParams::calm(self.params.heartbeat, self.params.election);
    }

    /// How long each copy of a message from `from` to `to` is under way: none, one or two copies.
    pub fn route(&mut self, way: Way, cargo: Cargo, stats: &mut Stats) -> [Option<True>; 2] {
        let Way { from, to, now } = way;
        if self.is_cut(from, to) || (cargo.entries && self.starved[to]) {
            self.count_cut(stats);
            return [None, None];
        }
        if self.rng.chance(self.params.drop_ppm) {
            stats.fired(Class::Lost);
            stats.mattered(Class::Lost, cargo.entries || cargo.vote);
            return [None, None];
        }
        let mut first = self.delay(from, to, stats);
        let (extra, last) = &mut self.late[to];
        if cargo.entries && *extra > 0 {
            *last = (now + first + *extra).max(*last + 1);
            first = *last - now;
        }
        if self.rng.chance(self.params.duplicate_ppm) {
            let second = self.delay(from, to, stats);
            stats.fired(Class::Doubled);
            stats.mattered(Class::Doubled, second.abs_diff(first) > self.params.heartbeat);
            return [Some(first), Some(second)];
        }
        [Some(first), None]
    }

    /// Whether a message that is about to arrive still may: a cut also stops what is under way.
    pub fn arrives(&mut self, from: usize, to: usize, stats: &mut Stats) -> bool {
        let stopped = self.params.cut_stops_flying && self.is_cut(from, to);
        if stopped {
            self.count_cut(stats);
        }
        !stopped
    }

    fn count_cut(&self, stats: &mut Stats) {
        stats.add(Stat::MessagesCut);
        if let Some(class) = self.blame {
            stats.mattered(class, true);
        }
    }

    fn delay(&mut self, from: usize, to: usize, stats: &mut Stats) -> True {
        let p = &self.params;
        let slow = self.slow[from * self.nodes + to];
        let mut delay = self.rng.range(p.delay_min, p.delay_max) + slow;
        stats.mattered(Class::Skew, slow > 0);
        if self.rng.chance(p.tail_ppm) {
            let tail = self.rng.range(50 * MS, p.tail_max);
            stats.fired(Class::Tail);
            stats.mattered(Class::Tail, tail >= p.election);
            delay += tail;
        }
        delay
    }
}
