//! Plays in which something arrives late: answers to an old round of reads, a transfer that was
//! given up, an answer to an earlier life.

use crate::clients::Request;
use crate::clock::{MS, True};
use crate::script::Play;
use crate::stats::{Class, Stat};
use crate::world::World;

impl World {
    /// One of two lengths: the shortest election timeout, or the longest.
    fn some_election(&mut self) -> True {
        if self.chances.nemesis.coin() { self.shortest_election() } else { self.election() }
    }

    /// The old leader is tempted, and whoever has replaced it writes.
    fn tempt_and_write_elsewhere(&mut self, play: &Play) {
        self.tempt(play.leader);
        if let Some(other) = self.leader().filter(|n| *n != play.leader) {
            self.ask_put(other, false);
        }
    }

    /// Acknowledgements take most of an election timeout; then the leader is heard no more, while
    /// the acknowledgements on their way still reach it.
    pub(crate) fn play_delayed_acks(&mut self, play: &mut Play) -> Option<True> {
        let (hb, lease) = (self.heartbeat(), self.shortest_election());
        match play.act {
            0 => {
                if !self.cast_leader(play) {
                    return Some(hb);
                }
                self.stats.fired(Class::PlayDelayedAcks);
                self.take_the_links();
                let most = self.some_election();
                let late = self.part(most, 20, 95);
                for other in self.everyone_else(play.leader) {
                    self.net.set_slow(other, play.leader, late);
                }
                Some(self.part(lease, 100, 300))
            }
            1 => {
                for other in self.everyone_else(play.leader) {
                    self.net.set_cut(play.leader, other, true);
                }
                self.tempt(play.leader);
                Some(self.part(lease, 70, 110))
            }
            2..=12 => {
                self.tempt_and_write_elsewhere(play);
                Some(self.part(lease, 2, 15))
            }
            _ => {
                self.mend();
                for other in self.everyone_else(play.leader) {
                    self.net.set_slow(other, play.leader, 0);
                }
                None
            }
        }
    }

    /// TimeoutNow is held back until the transfer has been given up and the lease earned anew; or
    /// the vote requests that follow from it are.
    pub(crate) fn play_late_transfer(&mut self, play: &mut Play) -> Option<True> {
        let (hb, lease, longest) = (self.heartbeat(), self.shortest_election(), self.election());
        match play.act {
            0 => {
                if !self.cast_leader(play) {
                    return Some(hb);
                }
                let others = self.everyone_else(play.leader);
                if others.len() < 2 {
                    return None;
                }
                self.stats.fired(Class::PlayLateTransfer);
                self.take_the_links();
                let target = self.chances.nemesis.pick(&others);
                play.voters = vec![target];
                let late = self.part(longest, 105, 150);
                if self.chances.nemesis.coin() {
                    self.hold_back_order(play.leader, target, late);
                } else {
                    self.hold_back_votes(play.leader, target, late);
                }
                Some(self.part(longest, 101, 104))
            }
            1 => {
                self.net.set_cut(play.leader, play.voters[0], false);
                Some(self.part(hb, 1, 50))
            }
            2..=12 => {
                // No writes at the old leader: they would make the target's log too old to win.
                self.ask_lease_read(play.leader);
                if let Some(other) = self.leader().filter(|n| *n != play.leader) {
                    self.ask_put(other, false);
                }
                Some(self.part(lease, 5, 15))
            }
            _ => {
                self.mend();
                for other in 0..self.nodes.len() {
                    self.net.set_slow(play.voters[0], other, 0);
                }
                None
            }
        }
    }

    fn order_transfer(&mut self, leader: usize, target: usize) {
        self.stats.fired(Class::Transfer);
        let to = Some(self.nodes[target].config.id);
        self.on_request(leader, Request::Transfer { to });
        self.drain(leader);
    }

    /// Only what the leader says in this very moment is on its way; the rest of the transfer is lost.
    fn hold_back_order(&mut self, leader: usize, target: usize, late: True) {
        self.net.set_slow(leader, target, late);
        self.order_transfer(leader, target);
        self.net.set_slow(leader, target, 0);
        self.net.set_cut_both(leader, target, true);
    }

    /// The target campaigns, but is heard late by the voters and not at all by the leader.
    fn hold_back_votes(&mut self, leader: usize, target: usize, late: True) {
        self.order_transfer(leader, target);
        for other in self.everyone_else(leader) {
            self.net.set_slow(target, other, late);
        }
        self.net.set_cut(target, leader, true);
    }

    /// A follower asks for a read position, restarts, and asks for another one: the first answer
    /// arrives after the second question.
    pub(crate) fn play_late_answer(&mut self, play: &mut Play) -> Option<True> {
        let hb = self.heartbeat();
        match play.act {
            0 => {
                if !self.cast_leader(play) {
                    return Some(hb);
                }
                let others = self.everyone_else(play.leader);
                if others.is_empty() {
                    return None;
                }
                self.stats.fired(Class::PlayLateAnswer);
                play.voters = vec![self.chances.nemesis.pick(&others)];
                self.net.set_slow(play.leader, play.voters[0], 3 * hb);
                self.ask_read(play.voters[0]);
                Some(self.part(hb, 20, 100))
            }
            1 => {
                let down = self.chances.nemesis.log_range(MS / 5, 4 * MS);
                self.crash_for(play.voters[0], down);
                self.ask_put(play.leader, false);
                self.net.set_slow(play.leader, play.voters[0], 0);
                Some(self.part(hb, 20, 100))
            }
            2..=6 => {
                let (node, floor) = (play.voters[0], self.floor());
                self.stats.mattered(Class::PlayLateAnswer, self.nodes[node].is_running());
                self.stats.add(Stat::Reads);
                self.on_request(node, Request::Read { key: "a", floor });
                Some(self.part(hb, 20, 80))
            }
            _ => None,
        }
    }
}
