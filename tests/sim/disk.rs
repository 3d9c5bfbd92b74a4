//! A node's disk: one ordered queue of writes, an fsync that takes what is queued, and a crash
//! that keeps a random prefix of what was not acknowledged.
//!
//! What is kept in a crash is always a prefix, because the store commits in the order of its queue
//! (one transaction after the other). Keeping a prefix of single writes is harsher than the real
//! store, which keeps or loses whole groups.

use std::collections::VecDeque;

use termgate::ids::{IoSeq, Life, LogId, LogIndex};
use termgate::raft::config::Config;
use termgate::raft::entry::{Durable, Entry, HardState, Membership, Persist};
use termgate::time::Duration;

use crate::rng::Rng;

/// The durable state of one node, and what is on its way there.
#[derive(Debug)]
pub struct Disk {
    life: Life,
    hard_state: HardState,
    membership: Membership,
    log: Vec<Entry>,
    queue: VecDeque<Persist>,
    in_fsync: usize,
    /// The longest promise that any life so far may have given; stored at each start.
    promised: Duration,
}

impl Disk {
    /// A fresh data directory.
    pub const fn new(incarnation: u64, membership: Membership) -> Self {
        Self {
            life: Life { incarnation, boot: 0 },
            hard_state: HardState { current_term: termgate::ids::Term::ZERO, voted_for: None },
            membership,
            log: Vec::new(),
            queue: VecDeque::new(),
            in_fsync: 0,
            promised: Duration::ZERO,
        }
    }

    /// A start of the process: the boot count, and what this life may promise, are durable before
    /// anything else happens. Returns also what earlier lives may have promised.
    pub fn boot(&mut self, config: &Config) -> (Life, Durable, Duration) {
        self.life.boot += 1;
        let durable = Durable {
            hard_state: self.hard_state,
            membership: self.membership.clone(),
            base: LogId::ZERO,
            log: self.log.clone(),
        };
        let promised = self.promised;
        self.promised = promised.max(config.election_timeout_min);
        (self.life, durable, promised)
    }

    /// Queues a write.
    pub fn push(&mut self, write: Persist) {
        self.queue.push_back(write);
    }

    /// Starts an fsync of all that is queued; false when one is under way or nothing is queued.
    pub fn start_fsync(&mut self) -> bool {
        let start = self.in_fsync == 0 && !self.queue.is_empty();
        if start {
            self.in_fsync = self.queue.len();
        }
        start
    }

    /// Ends the fsync: hands each write to `seen` as it becomes durable, and returns the watermark.
    pub fn end_fsync(&mut self, mut seen: impl FnMut(&Persist)) -> Option<IoSeq> {
        let mut watermark = None;
        for _ in 0..std::mem::take(&mut self.in_fsync) {
            let write = self.queue.pop_front().expect("an fsync covers writes that are queued");
            seen(&write);
            watermark = Some(write.io);
            self.keep(write);
        }
        watermark
    }

    /// Power loss: a random prefix of what was not acknowledged is kept. Returns (kept, lost).
    pub fn crash(&mut self, rng: &mut Rng, mut seen: impl FnMut(&Persist)) -> (usize, usize) {
        let queued = self.queue.len();
        let kept = match rng.below(3) {
            0 => 0,
            1 => queued,
            _ => rng.range(0, queued as u64) as usize,
        };
        for write in std::mem::take(&mut self.queue).into_iter().take(kept) {
            seen(&write);
            self.keep(write);
        }
        self.in_fsync = 0;
        (kept, queued - kept)
    }

    fn keep(&mut self, write: Persist) {
        if let Some(hard_state) = write.hard_state {
            self.hard_state = hard_state;
        }
        if let Some(from) = write.truncate_from {
            self.log.truncate(from.0.saturating_sub(1) as usize);
        }
        self.log.extend(write.append);
    }

    /// Whether writes wait for an fsync.
    pub fn is_busy(&self) -> bool {
        !self.queue.is_empty()
    }

    /// The durable term and vote.
    pub const fn hard_state(&self) -> HardState {
        self.hard_state
    }

    /// This life.
    pub const fn life(&self) -> Life {
        self.life
    }

    /// The durable log.
    pub fn log(&self) -> &[Entry] {
        &self.log
    }

    /// The durable entry at `index`.
    pub fn entry(&self, index: LogIndex) -> Option<&Entry> {
        self.log.get(index.0.checked_sub(1)? as usize)
    }

    /// The last durable entry.
    pub fn last(&self) -> LogId {
        self.log.last().map_or(LogId::ZERO, |e| e.id)
    }
}
