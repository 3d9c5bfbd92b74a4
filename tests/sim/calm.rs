//! After the storm: everything heals, and the cluster must become whole again within a bounded
//! time: a leader within ten election timeouts, which may stamp its token once a quorum has caught up, then writes,
//! reads, equal states, and an answer for everybody who still waits. (That nobody claims an old term's leadership for long is checked after
//! each step, also in the storm: L10.)

use termgate::fencing::gate::{GateState, RAISE_PAUSE_MAX};
use termgate::fencing::mode::FenceMode;
use termgate::ids::LogIndex;
use termgate::raft::effect::RoleKind;

use crate::clock::{MS, True};
use crate::params::DiskParams;
use crate::process::SimNode;
use crate::stats::Stat;
use crate::world::{Event, World};

/// Writes, and linearizable reads, that must succeed after healing.
const SERVED: u64 = 10;
/// Election timeouts within which somebody must lead, and, with what catching up takes, may stamp its token.
const ELECTIONS_TO_LEAD: u64 = 10;
/// Election timeouts within which all the rest must be there.
const ELECTIONS_TO_BE_WHOLE: u64 = 20;

/// What is still to be seen of the fenced resource.
enum Fencing {
    /// A write goes through, beyond so many.
    Serves(u64),
    /// The fence is lost, and raised again although nobody writes.
    Looks,
}

/// Whether enough writes and enough reads were served.
const fn has_served(before: (u64, u64), now: (u64, u64)) -> bool {
    now.0 >= before.0 + SERVED && now.1 >= before.1 + SERVED
}

impl World {
    /// Ends every fault; in some worlds first all but one that a quorum must be able to live with.
    pub fn heal(&mut self) {
        self.calm = true;
        self.nemesis.partition += 1;
        self.net.heal();
        self.disk_params = DiskParams::calm();
        self.params.snapshot_damage_ppm = 0;
        self.backend_away(0);
        self.heal_the_way_to_the_backend();
        for node in 0..self.nodes.len() {
            let pause = self.nodes[node].pause;
            self.on_resume(node, pause);
            self.heal_disk(node);
            if self.edge(node).is_some_and(|(edge, ..)| edge.gate.state() == GateState::Draining) {
                self.crash(node);
            }
            self.start(node);
        }
        self.finish_the_upgrade();
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

    fn heal_the_way_to_the_backend(&mut self) {
        if let Some(fenced) = &mut self.params.fenced {
            (fenced.lost_ppm, fenced.closed_ppm, fenced.keeper_lag) = (0, 0, 0);
        }
    }

    /// A disk that hung goes on.
    fn heal_disk(&mut self, node: usize) {
        self.mend_disk(node);
        self.nodes[node].doomed_steps = 0;
        if let Some(flash) = self.nodes[node].disk.flash() {
            flash.heal();
        }
        let boot = self.nodes[node].disk.life().boot;
        if let Some(fsync) = self.nodes[node].disk.fsync_under_way() {
            self.schedule(MS, Event::Fsynced { node, boot, fsync });
        }
    }

    /// Whoever does not speak the newest version yet starts again with it.
    fn finish_the_upgrade(&mut self) {
        let newest = self.nodes.iter().map(|n| n.version).max().expect("a cluster has nodes");
        for node in 0..self.nodes.len() {
            if self.nodes[node].version != newest {
                self.crash(node);
                self.nodes[node].version = newest;
                self.start(node);
            }
        }
    }

    /// What a cluster of this size is built to live with: a minority down, cut off or half cut off,
    /// or not everybody reaching everybody (L10, L15).
    fn leave_a_fault(&mut self) -> bool {
        let latest = self.checker.roster.latest();
        let mut order: Vec<usize> = latest.voters.iter().map(|id| id.0 as usize - 1).collect();
        let count = order.len();
        let minority = (count - 1) / 2;
        order.rotate_left(self.chances.nemesis.below(count as u64) as usize);
        let kind = self.chances.nemesis.below(8);
        // Where a change of the membership, or a loss, is left from the storm, that is enough.
        let already = self.nodes.iter().any(|n| n.is_rotten || n.is_stranger) || self.is_changing(|_| true);
        if minority == 0 || kind > 4 || already {
            return false;
        }
        let few = order[..minority].to_vec();
        self.stats.add(if kind == 4 { Stat::CalmBridge } else { Stat::CalmMinority });
        match kind {
            0 => few.iter().for_each(|node| {
                self.crash(*node);
            }),
            1 => few.iter().for_each(|node| self.isolate(*node)),
            2 => few.iter().for_each(|node| self.mute(*node, true, false)),
            3 => few.iter().for_each(|node| self.mute(*node, false, true)),
            // (A chain is more than Raft can always live with: the only node with the newest log may be at
            // its end.)
            _ => self.cut_into_bridge(&order),
        }
        true
    }

    /// Whether a change of the membership is under way, in a log that `counts` or on its way into one.
    fn is_changing(&self, counts: impl Fn(&SimNode) -> bool) -> bool {
        let latest = self.checker.roster.latest();
        let has_another =
            |n: &SimNode| n.process.as_ref().is_some_and(|p| p.cycle.view().membership != *latest);
        !self.checker.is_settled(|node| counts(&self.nodes[node]))
            || latest.is_joint()
            || self.nodes.iter().any(|n| self.takes_part(n) && has_another(n))
    }

    /// A member, as a client finds one.
    fn some_member(&mut self) -> usize {
        let members: Vec<usize> = self.nodes.iter().filter(|n| self.takes_part(n)).map(|n| n.index).collect();
        self.chances.client.pick(&members)
    }

    /// Whether `node` has to become whole: a member, with a disk that the others know.
    fn takes_part(&self, node: &SimNode) -> bool {
        let members = self.checker.roster.latest();
        members.contains(node.config.id) && !node.is_lost && !node.is_stranger
    }

    /// So many of the slowest election timeouts, in true time.
    fn elections(&self, count: u64) -> True {
        let timers = self.nodes.iter().map(|n| n.config.election_timeout_max.as_nanos() as True);
        let slowest = timers.max().expect("a cluster has nodes");
        count * slowest * 1_000_000 / (1_000_000 - self.params.real_drift_ppm as u64)
    }

    /// What catching up may take: a snapshot is fetched by three, at the worst (one that was begun, the
    /// one that is offered, and the one that was taken meanwhile), behind the pieces of everybody else's at the
    /// leader's keeper, and a small window between nodes makes the log slow.
    fn catching_up(&self) -> True {
        (6 + self.nodes.len() as u64) * self.params.snapshot_time_max + 5 * MS * self.committed().0
    }

    /// What the fenced resource may take beside: requests that are under way end, and then one raise after
    /// the other comes about, at the longest pace of each.
    fn fencing_takes(&self) -> True {
        let Some(fenced) = &self.params.fenced else { return 0 };
        let requests = 2 * fenced.hold + 4 * fenced.answer_timeout + fenced.late_answer;
        let raises = 3 * (RAISE_PAUSE_MAX.as_nanos() as True + 2 * self.patience_with_verifier());
        requests + raises + 2 * fenced.look_interval + self.elections(4)
    }

    /// Whether all that asked for the fenced resource have been answered, a write goes through again, and a
    /// lost fence is raised again without one.
    fn is_fenced_again(&mut self, stage: &mut Fencing) -> bool {
        let Some(fenced) = &self.params.fenced else { return true };
        let is_raised = fenced.mode == FenceMode::Enforced;
        if self.backend.truth.open() > 0 {
            return false;
        }
        let (steady, acknowledged) = (self.lease_is_steady(), self.backend.truth.acknowledged());
        match stage {
            _ if !steady => true,
            Fencing::Serves(before) if acknowledged <= *before => {
                let node = self.some_member();
                self.ask_fenced(node);
                false
            }
            Fencing::Serves(_) if !is_raised => true,
            Fencing::Serves(_) => {
                *stage = Fencing::Looks;
                self.lose_fence();
                false
            }
            Fencing::Looks => {
                self.leader().is_some_and(|leader| self.backend.stands_at(self.nodes[leader].term()))
            }
        }
    }

    /// Lets the cluster run until it is whole, or, while a fault is left, until it serves; fails
    /// the world when that does not come about in time.
    fn recover(&mut self, whole: bool) {
        let elect_by = self.now + self.elections(ELECTIONS_TO_LEAD);
        let lead_by = elect_by + self.catching_up();
        let end =
            self.now + self.elections(ELECTIONS_TO_BE_WHOLE) + self.catching_up() + self.fencing_takes();
        let mut fencing = Fencing::Serves(self.backend.truth.acknowledged());
        if whole && self.params.fenced.is_some() && !self.lease_is_steady() {
            self.stats.add(Stat::CalmUnsteady);
        }
        let served = |w: &Self| (w.stats.get(Stat::WritesAcked), w.stats.get(Stat::ReadsServed));
        let (mut asked, mut goal, mut elected) = (0, None, false);
        let by = |elected, goal: &Option<_>| match (elected, goal) {
            (false, _) => elect_by,
            (true, None) => lead_by,
            (true, Some(_)) => end,
        };
        while self.now < by(elected, &goal) {
            if !self.run_until(self.now + self.heartbeat()) {
                return;
            }
            elected |= self.leader().is_some();
            match goal {
                None if self.has_a_leader() => goal = Some(served(self)),
                // Not every attempt must succeed, but ten of each within the time must.
                Some(before) if !has_served(before, served(self)) => {
                    if let Some(leader) = self.leader().filter(|_| asked < 40 * SERVED) {
                        asked += 1;
                        self.ask_put(leader, false);
                        let reader = self.some_member();
                        self.ask_read(reader);
                    }
                }
                Some(_) if !whole || (self.is_whole() && self.is_fenced_again(&mut fencing)) => return,
                _ => {}
            }
        }
        let text = self.what_is_missing(elected, goal.is_some());
        self.checker.fail(text);
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
        // M5: who has no vote hands over.
        if !self.checker.roster.latest().is_voter(self.nodes[leader].config.id) {
            return false;
        }
        let term = self.nodes[leader].term();
        let follow = |p: &crate::process::Process| p.leadership.term == term && p.leadership.leader.is_some();
        self.has_a_leader()
            && self.nodes.iter().all(|n| !self.takes_part(n) || n.process.as_ref().is_some_and(follow))
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
        let whole = |n: &SimNode| {
            let has_all =
                |p: &crate::process::Process| applied(p.leadership.last_applied) && p.waiters.is_empty();
            !self.takes_part(n) || (n.process.as_ref().is_some_and(has_all) && is_written_down(n))
        };
        // MC-5: a change that was under way came to its end, whoever leads now. Who was removed keeps what it had.
        let settled = self.oracle.open_writes().is_empty() && !self.is_changing(|n| self.takes_part(n));
        settled && self.has_one_leader() && self.nodes.iter().all(whole)
    }

    fn what_is_missing(&self, elected: bool, led: bool) -> String {
        let what = match (elected, led) {
            (false, _) => "nobody elected in time",
            (true, false) => "no leader with a token in time",
            (true, true) => "not whole in time",
        };
        let mut text = format!("liveness: after healing, {what}");
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
        let fenced = self.backend.truth.open();
        text += &format!("\n  committed {committed}, open writes {open:?}, {fenced} for the fenced resource");
        let (members, changing) = (self.checker.roster.latest(), self.is_changing(|n| self.takes_part(n)));
        text + &format!("\n  {members:?}, a change under way: {changing}")
    }
}

/// N10: the log is as short as its limit says: no snapshot that was due has been forgotten.
fn is_written_down(node: &crate::process::SimNode) -> bool {
    let Some(view) = node.process.as_ref().map(|p| p.cycle.view()) else { return false };
    let taken = view.snapshot.map_or(LogIndex::ZERO, |last| last.index);
    view.last_applied.0 - taken.0 < node.config.snapshot_entries
}
