//! A follower fetches a snapshot, piece by piece, from the leader that offered it.
//!
//! ```text
//!   offered -> Begin -> begun(have) -> ask, ask, ask ... chunk -> Store -> stored(have) -> ask
//!                                          ^ no progress: ask again from what is stored
//!   everything stored -> Finish -> fetched -> installed by `core`
//! ```
//!
//! The follower sets the pace: it asks for a few pieces ahead of what is stored, so that a slow disk or a
//! thin link holds the pieces back and nothing else. A fetch ends with the term in which it began (N7);
//! what has arrived is kept, and a new leader that offers the same snapshot goes on from there: the
//! identity is the content's digest, not the sender. Another snapshot is only taken up when the present
//! one is finished, or the leader no longer has it: a leader that compacts faster than the link is would
//! otherwise be fetched from for ever.
//!
//! Pieces are kept in order; one that comes early waits, within what was asked for. What comes twice or
//! damaged is dropped, and what does not come is asked for again, a little later each time (N11). Two things
//! keep a piece away. It was lost: then the sooner it is asked for again the better. Or the leader is slow, because
//! many ask it: then each further question makes it slower, until it is busy with nothing but pieces that have
//! come, or that nobody wants any more. Only a piece that comes twice, in a fetch in which something was asked for
//! twice, tells them apart: the first question was not lost, or the net doubles messages, which costs time only. Each such
//! piece doubles the time for all that follows from this leader.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::ids::{IoSeq, NodeId, Session};
use crate::raft::core::Core;
use crate::raft::effect::{DropReason, Effect, SnapshotEffect, SnapshotInput};
use crate::raft::entry::{Snapshot, SnapshotId};
use crate::raft::message::{Body, FetchSnapshot, SnapshotChunk};
use crate::time::Instant;

/// Election timeouts after which a piece is asked for again, at most: two to this power, of a leader that is known
/// to be slow.
const MAX_PATIENCE: u32 = 4;
/// The same while nothing is known: what was lost must not be missed for long.
const MAX_DOUBT: u32 = 2;

/// One snapshot on its way.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Fetch {
    snapshot: Snapshot,
    /// What is known to be kept; `None` until the keeper has said what is there.
    stored: Option<u64>,
    /// Everything up to here has arrived.
    arrived: u64,
    /// Pieces behind it.
    early: BTreeMap<u64, Bytes>,
    /// Everything up to here was asked for.
    asked: u64,
    /// When there was progress last, or what is missing was asked for again.
    progress_at: Instant,
    /// How often the same was asked for again.
    doubt: u32,
    /// Whether anything was: only then a piece that comes twice says something.
    asked_again: bool,
    /// Whether the whole is being verified.
    finishing: bool,
}

impl Fetch {
    /// Takes `snapshot` up.
    pub fn begin(core: &mut Core, snapshot: Snapshot) -> Self {
        core.effects.push_back(Effect::Snapshot(SnapshotEffect::Begin(snapshot.clone())));
        let (early, progress_at) = (BTreeMap::new(), core.now);
        Self {
            snapshot,
            stored: None,
            arrived: 0,
            early,
            asked: 0,
            progress_at,
            doubt: 0,
            asked_again: false,
            finishing: false,
        }
    }

    pub const fn id(&self) -> SnapshotId {
        self.snapshot.id
    }

    pub const fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// The keeper reports. Not about this snapshot: late.
    pub fn on_input(&mut self, core: &mut Core, from: Option<NodeId>, input: &SnapshotInput) {
        match *input {
            SnapshotInput::Begun { id, have } if id == self.id() && self.stored.is_none() => {
                let have = have.min(self.snapshot.size);
                (self.stored, self.arrived, self.asked) = (Some(have), have, have);
            }
            SnapshotInput::Stored { id, have } if id == self.id() => {
                self.stored = self.stored.max(Some(have.min(self.snapshot.size)));
                self.arrived = self.arrived.max(self.stored.unwrap_or(0));
                self.asked = self.asked.max(self.arrived);
            }
            _ => return,
        }
        self.progressed(core.now);
        self.go_on(core, from);
    }

    /// A piece from the leader.
    pub fn on_chunk(&mut self, core: &mut Core, from: NodeId, chunk: &SnapshotChunk) {
        let end = chunk.offset.saturating_add(chunk.bytes.len() as u64);
        let fits = chunk.offset >= self.arrived && end <= self.asked && self.stored.is_some();
        let fits = fits && self.early.len() < core.config.max_inflight_chunks as usize;
        if self.asked_again && end <= self.arrived {
            core.fetch_patience = MAX_PATIENCE.min(core.fetch_patience + 1);
        }
        if !fits {
            return core.dropped(from, DropReason::Late);
        }
        if crc32fast::hash(&chunk.bytes) != chunk.checksum {
            return core.dropped(from, DropReason::Damaged);
        }
        self.early.insert(chunk.offset, chunk.bytes.clone());
        while let Some(bytes) = self.early.remove(&self.arrived) {
            let (id, offset) = (chunk.id, self.arrived);
            self.arrived += bytes.len() as u64;
            self.progressed(core.now);
            core.effects.push_back(Effect::Snapshot(SnapshotEffect::Store { id, offset, bytes }));
        }
        // Pieces of another size than was asked for may overlap.
        self.early.retain(|offset, _| *offset > self.arrived);
    }

    const fn progressed(&mut self, now: Instant) {
        (self.progress_at, self.doubt) = (now, 0);
    }

    /// When to ask again unless there is progress.
    pub fn deadline(&self, core: &Core) -> Option<Instant> {
        let waits = self.stored.is_some() && !self.finishing;
        let doubled = MAX_PATIENCE.min(core.fetch_patience + self.doubt);
        waits.then(|| self.progress_at + core.config.election_timeout_max * (1 << doubled))
    }

    /// Asks again for what did not come, or came and was not kept.
    pub fn on_timeout(&mut self, core: &mut Core, from: Option<NodeId>) {
        if self.deadline(core).is_some_and(|at| core.now >= at) {
            (self.doubt, self.asked_again) = (MAX_DOUBT.min(self.doubt + 1), true);
            self.arrived = self.stored.unwrap_or(0);
            self.asked = self.arrived;
            self.early.clear();
            self.progress_at = core.now;
            self.go_on(core, from);
        }
    }

    /// Asks for what fits ahead of what is stored; finishes when all of it is.
    fn go_on(&mut self, core: &mut Core, from: Option<NodeId>) {
        let Some(stored) = self.stored.filter(|_| !self.finishing) else { return };
        if stored == self.snapshot.size {
            self.finishing = true;
            return core.effects.push_back(Effect::Snapshot(SnapshotEffect::Finish(self.id())));
        }
        let Some(leader) = from else { return };
        let piece = u64::from(core.config.chunk_bytes);
        let ahead = stored + piece * u64::from(core.config.max_inflight_chunks);
        while self.asked < self.snapshot.size.min(ahead) {
            let length = piece.min(self.snapshot.size - self.asked);
            let wanted = FetchSnapshot { id: self.id(), offset: self.asked, length: length as u32 };
            core.send(leader, Session::ZERO, Body::FetchSnapshot(wanted), IoSeq::ZERO);
            self.asked += length;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Life, LogId, LogIndex, ReadPos};
    use crate::raft::Boot;
    use crate::raft::config::Config;
    use crate::raft::effect::Event;
    use crate::raft::entry::{Durable, Membership};
    use crate::raft::follower::Follower;
    use crate::raft::message::{AppendEntries, Beat};
    use crate::time::Duration;

    const LEADER: NodeId = NodeId(1);

    fn core() -> Core {
        let (config, life) = (Config::new(NodeId(2)), Life { incarnation: 1, boot: 1 });
        let boot = Boot { durable: Durable::default(), life, promised: Duration::ZERO };
        Core::new(config, boot, 1, Instant::ZERO)
    }

    /// A fetch that waits for the leader.
    fn fetch(core: &mut Core) -> Fetch {
        let id = SnapshotId { last: LogId::ZERO, digest: [0; 32] };
        let membership = Membership::of_voters([LEADER]);
        let mut fetch = Fetch::begin(core, Snapshot { id, size: 100, membership });
        fetch.on_input(core, Some(LEADER), &SnapshotInput::Begun { id, have: 0 });
        fetch
    }

    /// Longest election timeouts until a piece is asked for again, which it then is.
    fn asks_again(core: &mut Core, fetch: &mut Fetch) -> u128 {
        let at = fetch.deadline(core).expect("it waits for the leader");
        let waited = at.since(core.now).as_millis() / core.config.election_timeout_max.as_millis();
        core.now = at;
        core.effects.clear();
        fetch.on_timeout(core, Some(LEADER));
        assert!(!core.effects.is_empty(), "it asks again");
        waited
    }

    /// The piece from `offset` comes.
    fn comes(core: &mut Core, fetch: &mut Fetch, offset: u64) {
        let bytes = Bytes::from(vec![0; 50]);
        let checksum = crc32fast::hash(&bytes);
        fetch.on_chunk(core, LEADER, &SnapshotChunk { id: fetch.id(), offset, checksum, bytes });
    }

    #[test]
    fn a_damaged_piece_is_not_stored_but_asked_for_again() {
        let mut core = core();
        let mut fetch = fetch(&mut core);
        core.effects.clear();
        let bytes = Bytes::from(vec![0; 50]);
        let checksum = crc32fast::hash(&bytes) ^ 1;
        let chunk = SnapshotChunk { id: fetch.id(), offset: 0, checksum, bytes };
        fetch.on_chunk(&mut core, LEADER, &chunk);
        let reason = DropReason::Damaged;
        assert_eq!(core.effects, [Effect::Event(Event::Dropped { from: LEADER, reason })]);
        asks_again(&mut core, &mut fetch);
        let asked = |effect: &Effect| match effect {
            Effect::Send { message, .. } => match &message.body {
                Body::FetchSnapshot(wanted) => Some(wanted.offset),
                _ => None,
            },
            _ => None,
        };
        assert_eq!(core.effects.iter().find_map(asked), Some(0));
        comes(&mut core, &mut fetch, 0);
        assert!(matches!(
            core.effects.back(),
            Some(Effect::Snapshot(SnapshotEffect::Store { offset: 0, .. }))
        ));
    }

    /// N11.
    #[test]
    fn a_piece_that_does_not_come_is_asked_for_again_a_little_later_each_time() {
        let mut core = core();
        let mut fetch = fetch(&mut core);
        let waits: Vec<_> = (0..5).map(|_| asks_again(&mut core, &mut fetch)).collect();
        assert_eq!(waits, [1, 2, 4, 4, 4]);
        comes(&mut core, &mut fetch, 0);
        assert_eq!(asks_again(&mut core, &mut fetch), 1, "what is lost next is not missed for long");
    }

    /// N11. The leader answers each question, late.
    #[test]
    fn a_leader_that_is_known_to_be_slow_is_asked_again_after_twice_as_long() {
        let mut core = core();
        let mut fetch = fetch(&mut core);
        comes(&mut core, &mut fetch, 0);
        comes(&mut core, &mut fetch, 0);
        assert_eq!(core.fetch_patience, 0, "it was not asked twice: the net may have doubled it");
        let mut waits = Vec::new();
        for _ in 0..6 {
            waits.push(asks_again(&mut core, &mut fetch));
            comes(&mut core, &mut fetch, 0);
            comes(&mut core, &mut fetch, 0);
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 16]);
    }

    /// N11. What was lost together with the leader says nothing about how slow it is.
    #[test]
    fn a_leader_that_is_heard_anew_is_not_taken_for_a_slow_one() {
        let mut core = core();
        let mut follower = Follower::new(&mut core);
        let beat = Beat { sent_at: Instant::ZERO, read_pos: ReadPos::default() };
        let (prev_log, leader_commit) = (LogId::ZERO, LogIndex::ZERO);
        let heartbeat =
            AppendEntries { prev_log, entries: Vec::new(), leader_commit, beat, known: Vec::new() };
        for (hears_another, patience) in [(true, 0), (false, 3), (true, 0)] {
            if hears_another {
                follower = Follower::new(&mut core);
            }
            follower.on_append(&mut core, LEADER, Session(1), &heartbeat);
            assert_eq!(core.fetch_patience, patience);
            core.fetch_patience = 3;
        }
    }
}
