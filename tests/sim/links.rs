//! Faults of the network: which links are cut, for how long, and in which order they come back.

use crate::clock::True;
use crate::nemesis::Fault;
use crate::stats::Class;
use crate::world::{Event, World};

/// Links that are cut one by one and come back one by one.
#[derive(Debug, Clone)]
pub struct Swizzle {
    partition: u64,
    cut: Vec<(usize, usize)>,
    heal: Vec<(usize, usize)>,
    gap: True,
}

impl World {
    /// Every link works again.
    pub fn mend(&mut self) {
        self.trace.line(self.now, None, || "links mended".to_owned());
        self.net.mend();
    }

    /// A new partition replaces the one before, and ends after a while.
    fn begin_partition(&mut self, class: Class) -> u64 {
        if self.chances.nemesis.chance(700_000) {
            self.net.mend();
        }
        self.stats.fired(class);
        self.net.blame(class);
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

    /// Cuts, in both directions, the links between those positions of `order` that `cut` names.
    fn cut_between(&mut self, what: &str, order: &[usize], cut: impl Fn(usize, usize) -> bool) {
        self.trace.line(self.now, None, || format!("PARTITION {what}: {order:?}"));
        for i in 0..order.len() {
            for j in (i + 1..order.len()).filter(|j| cut(i, *j)) {
                self.net.set_cut_both(order[i], order[j], true);
            }
        }
    }

    pub(crate) fn random_halves(&mut self) {
        self.begin_partition(Class::Halves);
        let order = self.shuffled();
        let split = self.chances.nemesis.range(1, order.len() as u64) as usize;
        self.cut_between("two halves", &order, |i, j| i < split && j >= split);
    }

    pub(crate) fn random_bridge(&mut self) {
        self.begin_partition(Class::Bridge);
        let order = self.shuffled();
        self.cut_into_bridge(&order);
    }

    /// Two halves that only the node between them reaches; with it, each half is a quorum.
    pub fn cut_into_bridge(&mut self, order: &[usize]) {
        let middle = order.len() / 2;
        self.cut_between("bridge", order, |i, j| i < middle && j > middle);
    }

    pub(crate) fn random_chain(&mut self) {
        self.begin_partition(Class::Chain);
        let order = self.shuffled();
        self.cut_into_chain(&order);
    }

    /// Only neighbours reach each other.
    pub fn cut_into_chain(&mut self, order: &[usize]) {
        self.cut_between("chain", order, |i, j| j > i + 1);
    }

    pub(crate) fn random_star(&mut self) {
        self.begin_partition(Class::Star);
        let order = self.shuffled();
        self.cut_into_star(&order);
    }

    /// The first reaches everybody, the others only the first.
    pub fn cut_into_star(&mut self, order: &[usize]) {
        self.cut_between("star", order, |i, _| i > 0);
    }

    pub(crate) fn random_bad_link(&mut self) {
        self.begin_partition(Class::BadLink);
        let order = self.shuffled();
        self.cut_between("one bad link", &order, |i, j| (i, j) == (0, 1));
    }

    pub(crate) fn random_links(&mut self) {
        self.begin_partition(Class::RandomLinks);
        let order = self.shuffled();
        let mask = self.chances.nemesis.draw();
        self.cut_between("random links", &order, |i, j| mask >> (i * 7 + j) & 1 == 1);
    }

    pub(crate) fn random_directed(&mut self) {
        self.begin_partition(Class::Directed);
        let nodes = self.nodes.len() as u64;
        for _ in 0..self.chances.nemesis.range(1, nodes * 2) {
            let (a, b) =
                (self.chances.nemesis.below(nodes) as usize, self.chances.nemesis.below(nodes) as usize);
            self.net.set_cut(a, b, a != b);
            self.trace.line(self.now, None, || format!("CUT {}->{}", a + 1, b + 1));
        }
    }

    pub(crate) fn random_isolate_one(&mut self) {
        self.begin_partition(Class::IsolateOne);
        let node = self.chances.nemesis.below(self.nodes.len() as u64) as usize;
        self.isolate(node);
    }

    pub(crate) fn random_isolate_leader(&mut self) {
        let Some(leader) = self.leader() else { return };
        self.begin_partition(Class::IsolateLeader);
        self.isolate(leader);
    }

    pub(crate) fn random_mute_leader(&mut self) {
        let Some(leader) = self.leader() else { return };
        self.begin_partition(Class::MuteLeader);
        let deaf = self.chances.nemesis.coin();
        self.mute(leader, deaf, !deaf);
    }

    pub(crate) fn random_bare_quorum(&mut self) {
        let Some(leader) = self.leader() else { return };
        self.begin_partition(Class::BareQuorum);
        self.bare_quorum(leader);
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
        self.trace.line(self.now, Some(leader), || format!("BARE QUORUM with {keep:?}"));
        keep.to_vec()
    }

    pub(crate) fn random_flap(&mut self) {
        let nodes = self.nodes.len() as u64;
        let (a, b) = (self.someone(), self.chances.nemesis.below(nodes) as usize);
        if a != b {
            let partition = self.begin_partition(Class::Flap);
            let left = self.chances.nemesis.range(4, 40) as u32;
            self.flap(a, b, left, partition);
        }
    }

    pub(crate) fn flap(&mut self, a: usize, b: usize, left: u32, partition: u64) {
        self.net.set_cut_both(a, b, left % 2 == 1);
        if left > 0 && !self.calm {
            let heartbeat = self.heartbeat();
            let wait = self.chances.nemesis.range(heartbeat / 2, heartbeat * 2);
            self.schedule(wait, Event::Fault(Fault::Flap { a, b, left: left - 1, partition }));
        }
    }

    pub(crate) fn random_swizzle(&mut self) {
        let partition = self.begin_partition(Class::Swizzle);
        let order = self.shuffled();
        let some = self.chances.nemesis.range(1, order.len() as u64) as usize;
        let links = |nodes: &[usize]| -> Vec<(usize, usize)> {
            let others = |a: usize| (0..order.len()).filter(move |b| *b != a).map(move |b| (a, b));
            nodes.iter().flat_map(|a| others(*a)).collect()
        };
        let cut = links(&order[..some]);
        let mut heal = cut.clone();
        for i in (1..heal.len()).rev() {
            heal.swap(i, self.chances.nemesis.below(i as u64 + 1) as usize);
        }
        let longest = self.election();
        let gap = self.chances.nemesis.log_range(longest / 100, longest / 2);
        self.swizzle(Swizzle { partition, cut, heal, gap });
    }

    pub(crate) fn swizzle(&mut self, mut swizzle: Swizzle) {
        if swizzle.partition != self.nemesis.partition || self.calm {
            return;
        }
        let (link, cut) = match swizzle.cut.pop() {
            Some(link) => (Some(link), true),
            None => (swizzle.heal.pop(), false),
        };
        let Some((a, b)) = link else { return };
        self.net.set_cut(a, b, cut);
        let wait = self.chances.nemesis.range(swizzle.gap / 2, swizzle.gap * 2);
        self.schedule(wait, Event::Fault(Fault::Swizzle(Box::new(swizzle))));
    }

    pub(crate) fn random_skew(&mut self) {
        self.stats.fired(Class::Skew);
        self.net.skew();
    }
}
