//! Plays about links, disks and snapshots: a leader that is half cut off, a link that flaps, disks
//! that are full, and a snapshot whose installation is cut short at each of its steps.

use termgate::raft::config::Config;

use crate::clock::True;
use crate::script::Play;
use crate::stats::Class;
use crate::world::World;

impl World {
    /// Lease reads at a leader that hears nobody, or that nobody hears, until another leads.
    pub(crate) fn play_mute_lease(&mut self, play: &mut Play) -> Option<True> {
        let (hb, lease) = (self.heartbeat(), self.shortest_election());
        match play.act {
            0 => {
                if !self.cast_leader(play) {
                    return Some(hb);
                }
                self.stats.fired(Class::PlayMuteLease);
                self.take_the_links();
                self.worst_clocks(play.leader);
                let deaf = self.chances.nemesis.coin();
                self.mute(play.leader, deaf, !deaf);
                Some(self.part(lease, 10, 60))
            }
            1..=12 => {
                self.ask_lease_read(play.leader);
                if let Some(other) = self.leader().filter(|n| *n != play.leader) {
                    self.ask_put(other, false);
                    self.ask_lease_read(other);
                }
                Some(self.part(lease, 5, 40))
            }
            _ => {
                self.mend();
                None
            }
        }
    }

    /// A link of the leader that works every other heartbeat.
    pub(crate) fn play_flap(&mut self, play: &mut Play) -> Option<True> {
        let hb = self.heartbeat();
        if play.act == 0 {
            if !self.cast_leader(play) {
                return Some(hb);
            }
            let others = self.everyone_else(play.leader);
            if others.is_empty() {
                return None;
            }
            self.stats.fired(Class::PlayFlap);
            self.take_the_links();
            play.voters = vec![self.chances.nemesis.pick(&others)];
        }
        self.net.set_cut_both(play.leader, play.voters[0], play.act.is_multiple_of(2));
        if play.act.is_multiple_of(8) {
            self.ask_put(play.leader, false);
        }
        self.stats.mattered(Class::PlayFlap, play.act == 60);
        (play.act < 61).then_some(hb)
    }

    /// The leader's disk is full for some elections, and after it has room again a follower's.
    pub(crate) fn play_full_disk(&mut self, play: &mut Play) -> Option<True> {
        let (hb, longest) = (self.heartbeat(), self.election());
        match play.act {
            0 => {
                if !self.cast_leader(play) {
                    return Some(hb);
                }
                self.stats.fired(Class::PlayFullDisk);
                self.fill_disk(play.leader);
                Some(self.part(hb, 10, 100))
            }
            1..=6 => {
                (0..self.nodes.len()).for_each(|node| self.ask_put(node, false));
                Some(self.part(longest, 20, 80))
            }
            7 => {
                self.mend_disk(play.leader);
                let others = self.everyone_else(play.leader);
                if !others.is_empty() {
                    let other = self.chances.nemesis.pick(&others);
                    self.fill_disk(other);
                }
                Some(self.part(hb, 10, 100))
            }
            8..=11 => {
                (0..self.nodes.len()).for_each(|node| self.ask_put(node, false));
                Some(self.part(longest, 20, 80))
            }
            _ => None,
        }
    }

    /// A follower falls behind the beginning of the leader's log; while it fetches and installs the
    /// snapshot it crashes between its steps.
    pub(crate) fn play_snapshot(&mut self, play: &mut Play) -> Option<True> {
        let hb = self.heartbeat();
        match play.act {
            0 => {
                if !self.cast_leader(play) {
                    return Some(hb);
                }
                let others = self.everyone_else(play.leader);
                let reach = |c: &Config| c.snapshot_entries + c.snapshot_keep;
                if others.is_empty() || reach(&self.params.configs[0]) > 100 {
                    return None;
                }
                self.stats.fired(Class::PlaySnapshot);
                play.voters = vec![self.chances.nemesis.pick(&others)];
                self.take_the_links();
                self.isolate(play.voters[0]);
                Some(self.part(hb, 10, 100))
            }
            1..=40 => {
                if let Some(leader) = self.leader().filter(|leader| *leader != play.voters[0]) {
                    (0..5).for_each(|_| self.ask_put(leader, false));
                }
                Some(self.part(hb, 10, 30))
            }
            41 => {
                self.nodes[play.voters[0]].doomed_steps = 6;
                self.mend();
                Some(self.part(self.election(), 300, 600))
            }
            _ => {
                self.nodes[play.voters[0]].doomed_steps = 0;
                None
            }
        }
    }
}
