//! The keeper of snapshots: one piece of work after the other, each of which takes its time. The contents
//! are the real ones, so that what a snapshot forgets shows in the state of whoever installs it.

use ring::digest::{SHA256, digest};
use termgate::driver::cycle::{SnapshotDone, SnapshotWork};
use termgate::raft::effect::{RoleKind, SnapshotInput};
use termgate::raft::entry::{Snapshot, SnapshotId};
use termgate::raft::message::SnapshotChunk;
use termgate::raft::view::View;
use termgate::registry::machine::Machine;
use termgate::registry::machine::snapshot::Decoder;

use crate::clock::MS;
use crate::disk::Disk;
use crate::stats::{Class, Stat};
use crate::turn::Turn;
use crate::world::{Event, World};

/// The content of a snapshot of `machine`.
pub fn encode(machine: &Machine) -> Vec<u8> {
    let mut content = Vec::new();
    let kept: Result<(), std::convert::Infallible> = machine.encode(|piece| {
        content.extend_from_slice(piece);
        Ok(())
    });
    let Ok(()) = kept;
    content
}

/// The state that `content` holds.
pub fn decode(content: &[u8]) -> Machine {
    let mut decoder = Decoder::default();
    decoder.push(content).expect("a whole content decodes");
    decoder.finish().expect("a whole content is complete")
}

impl World {
    /// Hands work to the keeper, which does it after what it has already.
    pub fn keep_snapshot(&mut self, node: usize, work: SnapshotWork) {
        let boot = self.nodes[node].disk.life().boot;
        let takes = match work {
            SnapshotWork::Take { .. } | SnapshotWork::Finish(_) => self.params.snapshot_time_max,
            _ => self.params.snapshot_time_max / 10,
        };
        let takes = self.chances.disk.range(1_000, takes.max(1_001));
        let Some(process) = &mut self.nodes[node].process else { return };
        process.keeper_busy = process.keeper_busy.max(self.now) + takes;
        let wait = process.keeper_busy - self.now;
        self.schedule(wait, Event::Keeper { node, boot, work: Box::new(work) });
    }

    pub(crate) fn on_keeper(&mut self, node: usize, boot: u64, work: SnapshotWork) {
        if self.running(node, boot).is_none() {
            return;
        }
        let damaged = self.chances.disk.chance(self.params.snapshot_damage_ppm);
        let installs = !matches!(work, SnapshotWork::Take { .. } | SnapshotWork::Serve { .. });
        let done = self.nodes[node].disk.carry_out(work, damaged);
        if installs && self.cuts_step_short(node) {
            return;
        }
        match &done {
            Some(SnapshotDone::Taken(_)) => self.stats.add(Stat::SnapshotsTaken),
            Some(SnapshotDone::Fetched { id, .. }) => {
                let view = self.nodes[node].process.as_ref().map(|process| process.cycle.view());
                let raced =
                    |view: &View| view.commit_index < id.last.index && id.last.index < view.last_log.index;
                self.stats.mattered(Class::PlaySnapshotRace, view.as_ref().is_some_and(raced));
                self.stats.add(Stat::SnapshotsFetched);
                let learns = view.as_ref().is_some_and(|view| view.role == RoleKind::Learner);
                self.stats.add_many(Stat::LearnersBySnapshot, u64::from(learns));
                let again = std::mem::take(&mut self.nodes[node].was_damaged);
                self.stats.mattered(Class::SnapshotDamage, again);
            }
            Some(SnapshotDone::Report(SnapshotInput::Failed(_))) => {
                self.stats.fired(Class::SnapshotDamage);
                self.nodes[node].was_damaged = true;
            }
            Some(SnapshotDone::Report(SnapshotInput::Begun { have: 1.., .. })) => {
                self.stats.add(Stat::SnapshotsResumed);
            }
            Some(SnapshotDone::Report(SnapshotInput::Read { chunk, .. })) if chunk.bytes.is_empty() => {
                self.stats.add(Stat::SnapshotsGone);
            }
            _ => {}
        }
        if let Some(done) = done {
            self.turn(node, Turn::Snapshot(done));
        }
    }

    /// A play crashes this node between a step of the installation and the report of it.
    fn cuts_step_short(&mut self, node: usize) -> bool {
        if self.nodes[node].doomed_steps == 0 || self.chances.nemesis.coin() {
            return false;
        }
        self.nodes[node].doomed_steps -= 1;
        self.stats.mattered(Class::PlaySnapshot, true);
        let down = self.chances.nemesis.log_range(MS / 5, 8 * MS);
        self.crash_for(node, down);
        true
    }
}

impl Disk {
    /// One piece of work, done.
    fn carry_out(&mut self, work: SnapshotWork, damaged: bool) -> Option<SnapshotDone> {
        let report = |input| Some(SnapshotDone::Report(input));
        match work {
            SnapshotWork::Take { last, membership, machine } => {
                let content = encode(&machine);
                let digest = digest(&SHA256, &content).as_ref().try_into().expect("SHA-256 has 32 bytes");
                let id = SnapshotId { last, digest };
                let size = content.len() as u64;
                self.contents.insert(id, content);
                Some(SnapshotDone::Taken(Snapshot { id, size, membership }))
            }
            SnapshotWork::Begin(snapshot) => {
                let id = snapshot.id;
                if self.incoming.as_ref().is_none_or(|(incoming, _)| incoming.id != id) {
                    self.incoming = Some((snapshot, Vec::new()));
                }
                let have = self.incoming.as_ref().map_or(0, |(_, bytes)| bytes.len() as u64);
                report(SnapshotInput::Begun { id, have })
            }
            SnapshotWork::Store { id, offset, bytes } => {
                let (_, kept) = self.incoming.as_mut().filter(|(snapshot, _)| snapshot.id == id)?;
                if offset == kept.len() as u64 {
                    kept.extend_from_slice(&bytes);
                }
                report(SnapshotInput::Stored { id, have: kept.len() as u64 })
            }
            SnapshotWork::Finish(id) => {
                let (snapshot, content) = self.incoming.take_if(|(snapshot, _)| snapshot.id == id)?;
                let sound = digest(&SHA256, &content).as_ref() == snapshot.id.digest;
                // Empty: a fetch that was given up came to its end after all, and its content went with it.
                let whole = content.len() as u64 == snapshot.size;
                assert!(sound && whole || content.is_empty(), "a fetch ends with another content");
                if damaged || !sound {
                    return report(SnapshotInput::Failed(id));
                }
                let machine = Box::new(decode(&content));
                self.contents.insert(id, content);
                Some(SnapshotDone::Fetched { id, machine })
            }
            SnapshotWork::Settled(id) => {
                self.contents.retain(|other, _| other.last >= id.last);
                None
            }
            SnapshotWork::Serve { to, wanted } => {
                let content = self.contents.get(&wanted.id).map_or(&[][..], Vec::as_slice);
                let from = (wanted.offset as usize).min(content.len());
                let end = (from + wanted.length as usize).min(content.len());
                let bytes = bytes::Bytes::copy_from_slice(&content[from..end]);
                let checksum = crc32fast::hash(&bytes);
                let chunk = SnapshotChunk { id: wanted.id, offset: wanted.offset, checksum, bytes };
                report(SnapshotInput::Read { to, chunk })
            }
        }
    }
}
