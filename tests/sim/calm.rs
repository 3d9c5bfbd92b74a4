//! After the storm: everything heals, and the cluster must become whole again within a bounded
//! time: one leader, new writes, equal states, and an answer for everybody who still waits.

use termgate::ids::LogIndex;
use termgate::raft::effect::RoleKind;

use crate::clock::{MS, True};
use crate::params::DiskParams;
use crate::stats::Stat;
use crate::world::World;

/// Writes that must succeed after healing.
const WRITES: u64 = 10;

impl World {
    /// Ends every fault; in some worlds first all but one that a quorum must be able to live with.
    pub fn heal(&mut self) {
        self.calm = true;
        self.nemesis.partition += 1;
        self.net.heal();
        self.disk_params = DiskParams::calm();
        self.params.snapshot_damage_ppm = 0;
        for node in 0..self.nodes.len() {
            let pause = self.nodes[node].pause;
            self.on_resume(node, pause);
            self.start(node);
        }
        if self.leave_a_fault() {
            self.trace.line(self.now, None, || "HEALS, all but a part".to_owned());
            self.recover(false);
            self.net.mend();
        }
        for node in 0..self.nodes.len() {
            self.start(node);
        }
        self.trace.line(self.now, None, || "HEALS".to_owned());
        self.recover(true);
    }

    /// What a cluster of this size is built to live with: a minority down, cut off or half cut off
    /// (M2), or not everybody reaching everybody (L10, L15).
    fn leave_a_fault(&mut self) -> bool {
        let count = self.nodes.len();
        let minority = (count - 1) / 2;
        let mut order: Vec<usize> = (0..count).collect();
        order.rotate_left(self.chances.nemesis.below(count as u64) as usize);
        let kind = self.chances.nemesis.below(8);
        if minority == 0 || kind > 4 {
            return false;
        }
        let few = order[..minority].to_vec();
        self.stats.add(if kind == 4 { Stat::CalmBridge } else { Stat::CalmMinority });
        match kind {
            0 => few.iter().for_each(|node| self.crash(*node)),
            1 => few.iter().for_each(|node| self.isolate(*node)),
            2 => few.iter().for_each(|node| self.mute(*node, true, false)),
            3 => few.iter().for_each(|node| self.mute(*node, false, true)),
            _ => self.bridge(&order),
        }
        true
    }

    /// Two halves that only the node between them reaches; with it, each half is a quorum. (A chain
    /// is more than Raft can always live with: the only node with the newest log may be at its end.)
    fn bridge(&mut self, order: &[usize]) {
        let middle = order.len() / 2;
        for a in order.iter().take(middle) {
            for b in order.iter().skip(middle + 1) {
                self.net.set_cut_both(*a, *b, true);
            }
        }
    }

    /// The time within which a healed cluster must be whole. What was slow when it healed (a stalled
    /// disk, a message far too late) may still have to end, and a small window between nodes
    /// makes catching up slow.
    fn patience(&self) -> True {
        let timers = self.nodes.iter().map(|n| n.config.election_timeout_max.as_nanos() as True);
        let slowest = timers.max().expect("a cluster has nodes");
        // A snapshot is fetched by three, at the worst: one that was begun, the one that is offered, and the
        // one that was taken meanwhile.
        let snapshots = 6 * self.params.snapshot_time_max;
        let leftovers = self.params.disk.stall_max + self.params.net.tail_max + snapshots;
        20 * slowest + leftovers + 5 * MS * self.committed().0
    }

    /// Lets the cluster run until it is whole, or, while a fault is left, until it serves; fails
    /// the world when that does not come about in time.
    fn recover(&mut self, whole: bool) {
        let end = self.now + self.patience();
        let step = self.heartbeat_of_first();
        let (mut asked, mut goal) = (0, None);
        while self.now < end {
            if !self.run_until(self.now + step) {
                return;
            }
            match goal {
                None if self.has_a_leader() => goal = Some(self.stats.get(Stat::WritesAcked) + WRITES),
                Some(goal) if self.stats.get(Stat::WritesAcked) < goal => {
                    // Not every attempt must succeed, but ten within the time must.
                    if let Some(leader) = self.leader().filter(|_| asked < 40 * WRITES) {
                        asked += 1;
                        self.ask_put(leader, false);
                    }
                }
                Some(_) if !whole || self.is_whole() => return,
                _ => {}
            }
        }
        let text = self.what_is_missing();
        self.checker.fail(text);
    }

    fn heartbeat_of_first(&self) -> True {
        self.params.configs[0].heartbeat_interval.as_nanos() as True
    }

    /// A leader that may stamp its token.
    fn has_a_leader(&self) -> bool {
        let Some(leader) = self.leader() else { return false };
        let fence = self.nodes[leader].process.as_ref().and_then(|p| p.leadership.fence);
        let steady = self.lease_is_steady();
        fence == Some(self.nodes[leader].term())
            && (!steady || self.nodes[leader].token_at(self.now).is_some())
    }

    fn has_one_leader(&self) -> bool {
        let Some(leader) = self.leader() else { return false };
        let term = self.nodes[leader].term();
        let follow = |p: &crate::process::Process| p.leadership.term == term && p.leadership.leader.is_some();
        self.has_a_leader() && self.nodes.iter().all(|n| n.process.as_ref().is_some_and(follow))
    }

    /// Whether a lease lasts longer than two heartbeats and a round trip, so that a healthy leader
    /// always has one. Configurations at the edge need not.
    fn lease_is_steady(&self) -> bool {
        // A lease rests on what others promise, who may have other timers.
        let promise = self.nodes.iter().map(|n| n.config.election_timeout_min).min();
        let promise = promise.expect("a cluster has nodes");
        self.nodes.iter().all(|n| {
            let c = &n.config;
            let counted = f64::from(c.clock_drift_ppm).mul_add(-2e-6, 1.0);
            let lease = promise.mul_f64(counted).saturating_sub(c.lease_margin);
            lease > c.heartbeat_interval.mul_f64(2.0 / counted) + std::time::Duration::from_millis(10)
        })
    }

    fn is_whole(&self) -> bool {
        let committed = self.committed();
        let applied = |i: LogIndex| i == committed;
        let whole = |n: &crate::process::SimNode| {
            n.process.as_ref().is_some_and(|p| applied(p.leadership.last_applied) && p.waiters.is_empty())
        };
        self.has_one_leader() && self.nodes.iter().all(whole) && self.oracle.open_writes().is_empty()
    }

    fn what_is_missing(&self) -> String {
        let mut text = "liveness: after healing".to_owned();
        for node in &self.nodes {
            let Some(p) = &node.process else { continue };
            let l = &p.leadership;
            let (role, waiting) = (l.role, p.waiters.values().collect::<Vec<_>>());
            let role = if role == RoleKind::Leader { "leads" } else { role.name() };
            text += &format!(
                "\n  node {} {role} in {}, leader {:?}, fence {:?}, commit {}, applied {}, waiting {waiting:?}",
                node.index + 1,
                l.term,
                l.leader,
                l.fence,
                l.commit_index,
                l.last_applied
            );
        }
        let (committed, open) = (self.committed(), self.oracle.open_writes());
        text + &format!("\n  committed {committed}, open writes {open:?}")
    }
}
