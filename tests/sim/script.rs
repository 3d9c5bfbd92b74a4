//! Scripted nemeses: short plays that walk straight to where Raft implementations have failed.
//! Chance alone gets there too seldom (measured elsewhere: lease bugs survived 60,000 random
//! worlds and fell in a dozen scripted ones).
//!
//! A play is a list of acts; each act looks at the cluster as it is, does its part and says how
//! long to wait. Nothing is forced on a node: only links, clocks, crashes and clients are moved.

use termgate::ids::Term;

use crate::clock::{MS, True};
use crate::stats::Class;
use crate::world::{Event, World};

/// Which play.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Bare quorum, cut, wait for the end of the lease, others campaign.
    CutLease,
    /// The same, and the voters of the bare quorum restart at once.
    RestartPromise,
    /// Ask for a transfer, then cut the old leader off.
    TransferCut,
    /// Every node crashes once during one election.
    ElectionCrash,
    /// The leader stops across its lease, with requests waiting for it.
    PauseLeader,
    /// Every node restarts in turn.
    Rolling,
    /// Leaders that append, replicate to few, and crash (figure 3.7 of the thesis).
    Figure8,
    /// Acknowledgements arrive late, then the leader is cut off.
    DelayedAcks,
    /// TimeoutNow or the vote requests that follow from it arrive after the transfer was given up.
    LateTransfer,
    /// A follower that asked for a read position restarts and asks again.
    LateAnswer,
    /// The leader hears nobody, or nobody hears it, while it serves lease reads.
    MuteLease,
    /// One link of the leader comes and goes as often as heartbeats do.
    Flap,
    /// The leader's disk is full, then a follower's.
    FullDisk,
    /// A follower installs a snapshot and crashes at each step of it.
    Snapshot,
    /// Entries arrive while a snapshot that ends among them is fetched.
    SnapshotRace,
    /// The leader is lost in the midst of a membership change.
    Reconfigure,
}

const KINDS: [Kind; 22] = [
    Kind::SnapshotRace,
    Kind::SnapshotRace,
    Kind::MuteLease,
    Kind::Flap,
    Kind::FullDisk,
    Kind::Snapshot,
    Kind::Snapshot,
    Kind::CutLease,
    Kind::CutLease,
    Kind::RestartPromise,
    Kind::RestartPromise,
    Kind::TransferCut,
    Kind::ElectionCrash,
    Kind::PauseLeader,
    Kind::Rolling,
    Kind::Figure8,
    Kind::Figure8,
    Kind::DelayedAcks,
    Kind::DelayedAcks,
    Kind::LateTransfer,
    Kind::LateTransfer,
    Kind::LateAnswer,
];

/// The class of a play that is to make leadership move.
const fn moves_leadership(kind: Kind) -> Option<Class> {
    Some(match kind {
        Kind::CutLease => Class::PlayCutLease,
        Kind::RestartPromise => Class::PlayPromise,
        Kind::TransferCut => Class::PlayTransferCut,
        Kind::ElectionCrash => Class::PlayElectionCrash,
        Kind::PauseLeader => Class::PlayPauseLeader,
        Kind::Rolling => Class::PlayRolling,
        Kind::Figure8 => Class::PlayFigure8,
        Kind::DelayedAcks => Class::PlayDelayedAcks,
        Kind::LateTransfer => Class::PlayLateTransfer,
        Kind::MuteLease => Class::PlayMuteLease,
        Kind::FullDisk => Class::PlayFullDisk,
        Kind::Reconfigure => Class::PlayReconfigure,
        Kind::LateAnswer | Kind::Flap | Kind::Snapshot | Kind::SnapshotRace => return None,
    })
}

/// A play under way.
#[derive(Debug, Clone)]
pub struct Play {
    kind: Kind,
    /// Which act comes next.
    pub act: u32,
    /// The act could not be played yet: the same one comes again.
    again: bool,
    /// The highest term that had a leader when the play began.
    term: Term,
    /// Who led when the play began.
    pub leader: usize,
    /// Others with a part in it.
    pub voters: Vec<usize>,
}

impl World {
    pub(crate) fn begin_script(&mut self) {
        if !self.params.faults.scripts {
            return;
        }
        let election = self.election();
        let wait = self.chances.nemesis.range(election, 4 * election);
        let changes = self.params.operator_gap > 0 && self.chances.nemesis.chance(250_000);
        let kind = if changes { Kind::Reconfigure } else { self.chances.nemesis.pick(&KINDS) };
        let play = Play { kind, act: 0, again: false, term: Term::ZERO, leader: 0, voters: Vec::new() };
        self.schedule(wait, Event::Script(Box::new(play)));
    }

    pub(crate) fn on_script(&mut self, mut play: Play) {
        if self.calm {
            return;
        }
        if play.act == 0 {
            play.term = self.checker.leader_count().1;
        }
        let wait = match play.kind {
            Kind::CutLease | Kind::RestartPromise => self.play_cut_lease(&mut play),
            Kind::TransferCut => self.play_transfer_cut(&mut play),
            Kind::ElectionCrash => self.play_election_crash(&mut play),
            Kind::PauseLeader => self.play_pause_leader(&mut play),
            Kind::Rolling => self.play_rolling(&mut play),
            Kind::Figure8 => self.play_figure_8(&mut play),
            Kind::DelayedAcks => self.play_delayed_acks(&mut play),
            Kind::LateTransfer => self.play_late_transfer(&mut play),
            Kind::LateAnswer => self.play_late_answer(&mut play),
            Kind::MuteLease => self.play_mute_lease(&mut play),
            Kind::Flap => self.play_flap(&mut play),
            Kind::FullDisk => self.play_full_disk(&mut play),
            Kind::Snapshot => self.play_snapshot(&mut play),
            Kind::SnapshotRace => self.play_snapshot_race(&mut play),
            Kind::Reconfigure => self.play_reconfigure(&mut play),
        };
        if let (None, Some(class)) = (wait, moves_leadership(play.kind)) {
            let moved = play.act > 0 && self.checker.leader_count().1 > play.term;
            self.stats.mattered(class, moved);
        }
        match wait {
            Some(wait) => {
                play.act += u32::from(!std::mem::take(&mut play.again));
                self.schedule(wait, Event::Script(Box::new(play)));
            }
            // Most worlds with scripts see several plays, of one or of several kinds.
            None => self.begin_script(),
        }
    }

    pub(crate) fn part(&mut self, of: True, from_percent: u64, to_percent: u64) -> True {
        self.chances.nemesis.range(of * from_percent / 100, of * to_percent / 100)
    }

    pub(crate) fn heartbeat(&self) -> True {
        self.params.configs[0].heartbeat_interval.as_nanos() as True
    }

    pub(crate) fn shortest_election(&self) -> True {
        self.params.configs[0].election_timeout_min.as_nanos() as True
    }

    /// A leader that may stamp its token now. Without one the act is tried again a little later.
    pub(crate) fn cast_leader(&mut self, play: &mut Play) -> bool {
        let fit = self.leader().filter(|n| self.nodes[*n].is_running());
        let fit = fit.filter(|n| self.nodes[*n].token_at(self.now).is_some());
        match fit {
            Some(leader) => play.leader = leader,
            None => play.again = true,
        }
        fit.is_some()
    }

    /// The cast's own partition: random mends of older ones stay away from it.
    pub(crate) fn take_the_links(&mut self) {
        self.nemesis.partition += 1;
        self.net.mend();
    }

    pub(crate) fn everyone_else(&self, node: usize) -> Vec<usize> {
        (0..self.nodes.len()).filter(|other| *other != node).collect()
    }

    /// The leader's clock as slow as it may be, everybody else's as fast: leases at their longest.
    pub(crate) fn worst_clocks(&mut self, leader: usize) {
        if self.chances.nemesis.chance(700_000) {
            self.set_rate(leader, -self.params.real_drift_ppm);
            for other in self.everyone_else(leader) {
                self.set_rate(other, self.params.real_drift_ppm);
            }
        }
    }

    /// Requests at the old leader while others campaign.
    pub(crate) fn tempt(&mut self, node: usize) {
        for _ in 0..2 {
            self.ask_lease_read(node);
            self.ask_read(node);
        }
        self.ask_put(node, false);
    }

    fn play_cut_lease(&mut self, play: &mut Play) -> Option<True> {
        let (hb, lease) = (self.heartbeat(), self.shortest_election());
        match play.act {
            0 => {
                if !self.cast_leader(play) {
                    return Some(hb);
                }
                self.take_the_links();
                self.worst_clocks(play.leader);
                play.voters = self.bare_quorum(play.leader);
                Some(self.part(lease, 20, 300))
            }
            1 => {
                self.isolate(play.leader);
                if play.kind == Kind::RestartPromise {
                    self.stats.fired(Class::PlayPromise);
                    for voter in play.voters.clone() {
                        let down = self.chances.nemesis.log_range(MS / 5, 8 * MS);
                        self.crash_for(voter, down);
                    }
                } else {
                    self.stats.fired(Class::PlayCutLease);
                    if self.chances.nemesis.chance(250_000) {
                        let stopped = self.part(lease, 50, 110);
                        self.pause(play.leader, stopped);
                    }
                }
                Some(self.part(lease, 30, 100))
            }
            2..=5 => {
                self.tempt(play.leader);
                if let Some(other) = self.leader().filter(|n| *n != play.leader) {
                    self.ask_put(other, false);
                }
                Some(self.part(lease, 5, 30))
            }
            _ => {
                self.mend();
                None
            }
        }
    }

    fn play_transfer_cut(&mut self, play: &mut Play) -> Option<True> {
        let (hb, lease) = (self.heartbeat(), self.shortest_election());
        match play.act {
            0 => {
                if !self.cast_leader(play) {
                    return Some(hb);
                }
                self.stats.fired(Class::PlayTransferCut);
                self.take_the_links();
                self.ask_transfer(play.leader, None);
                Some(self.part(hb, 0, 30))
            }
            1 => {
                match self.chances.nemesis.below(3) {
                    0 => self.isolate(play.leader),
                    1 => self.mute(play.leader, true, false),
                    _ => drop(self.bare_quorum(play.leader)),
                }
                Some(self.part(hb, 0, 50))
            }
            2..=6 => {
                self.tempt(play.leader);
                if let Some(other) = self.leader().filter(|n| *n != play.leader) {
                    self.ask_put(other, false);
                }
                Some(self.part(lease, 3, 40))
            }
            _ => {
                self.mend();
                None
            }
        }
    }

    fn play_election_crash(&mut self, play: &mut Play) -> Option<True> {
        let hb = self.heartbeat();
        if play.act == 0 {
            if !self.cast_leader(play) {
                return Some(hb);
            }
            self.stats.fired(Class::PlayElectionCrash);
            self.ask_put(play.leader, false);
            play.voters = self.everyone_else(play.leader);
            let down = self.part(self.election(), 20, 300);
            self.crash_for(play.leader, down);
            return Some(self.part(self.election(), 40, 100));
        }
        let next = play.voters.pop()?;
        let down = self.chances.nemesis.log_range(MS / 5, 8 * MS);
        self.crash_for(next, down);
        Some(self.chances.nemesis.log_range(MS / 5, 20 * MS))
    }

    fn play_pause_leader(&mut self, play: &mut Play) -> Option<True> {
        let (hb, lease) = (self.heartbeat(), self.shortest_election());
        match play.act {
            0 => {
                if !self.cast_leader(play) {
                    return Some(hb);
                }
                self.stats.fired(Class::PlayPauseLeader);
                self.worst_clocks(play.leader);
                self.ask_read(play.leader);
                let stopped = self.part(lease, 80, 400);
                self.pause(play.leader, stopped);
                Some(self.part(lease, 20, 60))
            }
            1..=4 => {
                self.tempt(play.leader);
                for other in self.everyone_else(play.leader) {
                    self.ask_put(other, false);
                }
                Some(self.part(lease, 20, 80))
            }
            _ => None,
        }
    }

    fn play_rolling(&mut self, play: &mut Play) -> Option<True> {
        let node = play.act as usize;
        if node >= self.nodes.len() {
            return None;
        }
        if node == 0 {
            self.stats.fired(Class::PlayRolling);
        }
        let down = self.part(self.election(), 1, 50);
        self.crash_for(node, down);
        Some(self.part(self.election(), 10, 200))
    }

    /// Each round: entries reach few or nobody, while votes and heartbeats go through; for a moment
    /// they reach everybody; the leader crashes.
    fn play_figure_8(&mut self, play: &mut Play) -> Option<True> {
        let (hb, count) = (self.heartbeat(), self.nodes.len() as u64);
        match play.act % 3 {
            0 => {
                if play.act == 0 {
                    self.stats.fired(Class::PlayFigure8);
                }
                let friend = self.chances.nemesis.below(2 * count) as usize;
                (0..self.nodes.len()).for_each(|node| self.net.starve(node, node != friend));
                if let Some(leader) = self.leader() {
                    self.ask_put(leader, false);
                }
                Some(self.part(self.election(), 50, 130))
            }
            1 => {
                let open = self.chances.nemesis.coin();
                (0..self.nodes.len()).for_each(|node| self.net.starve(node, !open));
                Some(self.part(hb, 1, 80))
            }
            _ => {
                if let Some(leader) = self.leader() {
                    let down = self.part(self.election(), 1, 250);
                    self.crash_for(leader, down);
                }
                if play.act > 24 {
                    (0..self.nodes.len()).for_each(|node| self.net.starve(node, false));
                    return None;
                }
                Some(self.part(hb, 0, 20))
            }
        }
    }
}
