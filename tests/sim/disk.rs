//! A node's disk: one ordered queue of writes, an fsync that takes what is queued, and a crash
//! that keeps a random prefix of what was not acknowledged. Beside it, the contents of snapshots.
//!
//! What is kept in a crash is always a prefix, because the store commits in the order of its queue
//! (one transaction after the other). Keeping a prefix of single writes is harsher than the real
//! store, which keeps or loses whole groups. A snapshot's content is there whole or not at all: it gets
//! its name last. What was being received is lost.
//!
//! In some runs the project's own store lies below it (`flash`). This model then says what must be found.

use std::collections::{BTreeMap, VecDeque};

use termgate::ids::{IoSeq, Life, LogId, LogIndex, NodeId};
use termgate::raft::config::Config;
use termgate::raft::entry::{Durable, Entry, HardState, Membership, Persist, Snapshot, SnapshotId};
use termgate::time::Duration;

use crate::flash::{Crash, Flash, NoStart};
use crate::model::keep;
use crate::params::StoreParams;
use crate::rng::Rng;

/// The durable state of one node, and what is on its way there.
#[derive(Debug)]
pub struct Disk {
    life: Life,
    durable: Durable,
    queue: VecDeque<Persist>,
    in_fsync: usize,
    /// Starts of the node from disks that it had before: to tell its processes apart.
    pub earlier_starts: u64,
    /// Counts fsyncs.
    fsync: u64,
    /// The longest promise that any life so far may have given; stored at each start.
    promised: Duration,
    /// The project's own store, when it is part of the world.
    flash: Option<Flash>,
    /// The contents of snapshots.
    pub contents: BTreeMap<SnapshotId, Vec<u8>>,
    /// One that is being received.
    pub incoming: Option<(Snapshot, Vec<u8>)>,
}

impl Disk {
    /// A fresh data directory.
    pub fn new(node: NodeId, incarnation: u64, membership: Membership, store: Option<StoreParams>) -> Self {
        let flash = store.map(|params| Flash::new(node, membership.clone(), incarnation, params));
        Self {
            flash,
            life: Life { incarnation, boot: 0 },
            durable: Durable { membership, ..Durable::default() },
            queue: VecDeque::new(),
            in_fsync: 0,
            earlier_starts: 0,
            fsync: 0,
            promised: Duration::ZERO,
            contents: BTreeMap::new(),
            incoming: None,
        }
    }

    /// A start of the process: the boot count, and what this life may promise, are durable before
    /// anything else happens. Returns also what earlier lives may have promised. Writes of which it was
    /// not known whether they were durable are shown to `seen` when they are.
    pub fn boot(
        &mut self,
        config: &Config,
        rng: &mut Rng,
        mut seen: impl FnMut(&Persist),
    ) -> Result<(Life, Durable, Duration), NoStart> {
        if let Some(flash) = &mut self.flash {
            let (life, promised, late) = flash.open(&self.durable, config.election_timeout_min, rng)?;
            // A start that was cut short may have been counted, and its promise kept.
            if life.incarnation != self.life.incarnation || life.boot <= self.life.boot {
                return Err(NoStart::Wrong(format!("ST-5: the life after {:?} is {life:?}", self.life)));
            }
            if promised < self.promised {
                return Err(NoStart::Wrong(format!("ST-5: {promised:?} of {:?} promised", self.promised)));
            }
            self.life.boot = life.boot - 1;
            self.promised = promised;
            for write in late {
                seen(&write);
                keep(&mut self.durable, &write);
            }
        }
        self.life.boot += 1;
        let promised = self.promised;
        self.promised = promised.max(config.election_timeout_min);
        let current = self.durable.snapshot.as_ref().map(|snapshot| snapshot.id);
        self.contents.retain(|id, _| Some(*id) == current);
        Ok((self.life, self.durable.clone(), promised))
    }

    /// The content of the snapshot that a start begins with.
    pub fn content(&self) -> Option<&[u8]> {
        let snapshot = self.durable.snapshot.as_ref()?;
        let content = self.contents.get(&snapshot.id);
        Some(content.expect("a snapshot's content is there before anything refers to it"))
    }

    /// Queues a write.
    pub fn push(&mut self, write: Persist) {
        self.queue.push_back(write);
    }

    /// Starts an fsync of all that is queued, and names it; `None` when one is under way or nothing is
    /// queued.
    pub fn start_fsync(&mut self) -> Option<u64> {
        if self.in_fsync > 0 || self.queue.is_empty() {
            return None;
        }
        self.in_fsync = self.queue.len();
        self.fsync += 1;
        Some(self.fsync)
    }

    /// The fsync that is under way.
    pub fn fsync_under_way(&self) -> Option<u64> {
        (self.in_fsync > 0).then_some(self.fsync)
    }

    /// Commits what the fsync covers to the store, if there is one.
    pub fn commit(&mut self, fails: bool, full: bool, rng: &mut Rng) -> Result<(), ()> {
        let Some(flash) = &mut self.flash else { return if fails || full { Err(()) } else { Ok(()) } };
        let batch: Vec<Persist> = self.queue.iter().take(self.in_fsync).cloned().collect();
        flash.write(&batch, fails, full, rng)
    }

    /// The store, if there is one.
    pub const fn flash(&mut self) -> Option<&mut Flash> {
        self.flash.as_mut()
    }

    /// Ends the fsync: hands each write to `seen` as it becomes durable, and returns the watermark.
    pub fn end_fsync(&mut self, mut seen: impl FnMut(&Persist)) -> Option<IoSeq> {
        let mut watermark = None;
        for _ in 0..std::mem::take(&mut self.in_fsync) {
            let write = self.queue.pop_front().expect("an fsync covers writes that are queued");
            seen(&write);
            watermark = Some(write.io);
            keep(&mut self.durable, &write);
        }
        watermark
    }

    /// Power loss: a random prefix of what was not acknowledged is kept; with a store, the next start
    /// knows what. Returns (kept, lost).
    pub fn crash(&mut self, rng: &mut Rng, mut seen: impl FnMut(&Persist)) -> (usize, usize, Crash) {
        let queued = self.queue.len();
        if let Some(flash) = &mut self.flash {
            let queue: Vec<Persist> = std::mem::take(&mut self.queue).into();
            let crash = flash.crash(&queue[..self.in_fsync], rng);
            self.in_fsync = 0;
            self.incoming = None;
            return (0, queued, crash);
        }
        let kept = match rng.below(3) {
            0 => 0,
            1 => queued,
            _ => rng.range(0, queued as u64) as usize,
        };
        for write in std::mem::take(&mut self.queue).into_iter().take(kept) {
            seen(&write);
            keep(&mut self.durable, &write);
        }
        self.in_fsync = 0;
        self.incoming = None;
        (kept, queued - kept, Crash::Idle)
    }

    /// Whether writes wait for an fsync.
    pub fn is_busy(&self) -> bool {
        !self.queue.is_empty()
    }

    /// The durable term and vote.
    pub const fn hard_state(&self) -> HardState {
        self.durable.hard_state
    }

    /// This life; its number is of all starts of the node.
    pub const fn life(&self) -> Life {
        Life { incarnation: self.life.incarnation, boot: self.earlier_starts + self.life.boot }
    }

    /// This life, as the node itself names it.
    pub const fn named_life(&self) -> Life {
        self.life
    }

    /// Where the durable log begins.
    pub const fn base(&self) -> LogId {
        self.durable.base
    }

    /// The durable log.
    pub fn log(&self) -> &[Entry] {
        &self.durable.log
    }

    /// Whether the entry is durable here, by itself or in a snapshot.
    pub fn holds(&self, id: LogId) -> bool {
        if id.index <= self.durable.base.index {
            return id.index < self.durable.base.index || id == self.durable.base;
        }
        self.entry(id.index).is_some_and(|entry| entry.id == id)
    }

    /// Whether an incarnation of `member` stands here.
    pub fn has_pinned(&self, member: NodeId) -> bool {
        self.durable.pinned.contains_key(&member)
    }

    /// What a disk that is gone had given its word for.
    pub fn retired(self) -> Self {
        Self { flash: None, queue: VecDeque::new(), contents: BTreeMap::new(), incoming: None, ..self }
    }

    fn entry(&self, index: LogIndex) -> Option<&Entry> {
        self.durable.log.get((index.0.checked_sub(self.durable.base.index.0)?.checked_sub(1)?) as usize)
    }

    /// The last durable entry.
    pub fn last(&self) -> LogId {
        self.durable.log.last().map_or(self.durable.base, |e| e.id)
    }
}
