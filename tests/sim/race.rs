//! A play in which a snapshot and the entries that it stands for race each other to a follower.

use crate::clock::True;
use crate::script::Play;
use crate::stats::Class;
use crate::world::World;

impl World {
    /// Entries reach one follower later than the leader has patience, in their order, and nothing else is
    /// late. So it is offered a snapshot, and while it fetches that, the entries come, those behind the
    /// snapshot's end among them; its disk is slow, and owes them still when the snapshot is installed (N2).
    pub(crate) fn play_snapshot_race(&mut self, play: &mut Play) -> Option<True> {
        let (hb, patience) = (self.heartbeat(), self.shortest_election());
        match play.act {
            0 => {
                if !self.cast_leader(play) {
                    return Some(hb);
                }
                let (others, config) = (self.everyone_else(play.leader), &self.params.configs[0]);
                if others.len() < 2 || config.snapshot_entries > 20 || config.snapshot_keep > 5 {
                    return None;
                }
                self.stats.fired(Class::PlaySnapshotRace);
                self.take_the_links();
                play.voters = vec![self.chances.nemesis.pick(&others)];
                let late = self.part(patience, 100, 160);
                self.net.delay_entries(play.voters[0], late);
                self.nodes[play.voters[0]].disk_state.extra = self.part(hb, 10, 150);
                Some(self.part(hb, 10, 50))
            }
            1..=30 => {
                if let Some(leader) = self.leader().filter(|leader| *leader != play.voters[0]) {
                    (0..2).for_each(|_| self.ask_put(leader, false));
                }
                Some(self.part(hb, 20, 80))
            }
            _ => {
                self.net.delay_entries(play.voters[0], 0);
                self.nodes[play.voters[0]].disk_state.extra = 0;
                None
            }
        }
    }
}
