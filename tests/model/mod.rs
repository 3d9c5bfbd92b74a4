//! What a disk holds after a write: the model that stores, simulated disks and scripts share.

use termgate::raft::entry::{Durable, Persist};

/// Carries out one write of the queue, in the order of its fields.
pub fn keep(disk: &mut Durable, write: &Persist) {
    disk.hard_state = write.hard_state.unwrap_or(disk.hard_state);
    disk.pinned.extend(write.pins.iter().copied());
    if let Some(compaction) = &write.compact {
        let base = compaction.base;
        disk.log.retain(|entry| compaction.keeps_tail && entry.id.index > base.index);
        disk.base = base;
        disk.membership = compaction.snapshot.membership.clone();
        disk.snapshot = Some(compaction.snapshot.clone());
    }
    if let Some(from) = write.truncate_from {
        disk.log.retain(|entry| entry.id.index < from);
    }
    disk.log.extend(write.append.iter().cloned());
}
