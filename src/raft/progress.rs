//! What the leader knows about one follower, and how it replicates to it.
//!
//! ```text
//!            accepted beyond match                  session begins, known to match
//!   Probe ----------------------------> Replicate <--------------------------------
//!     ^    <----------------------------
//!     |     conflict, or no answer for
//!     |     too long
//!     | session begins: new leader, or new life of the follower
//!
//!   any --- what it lacks was compacted (N6) ---> Snapshot --- it has installed it ---> Replicate
//! ```
//!
//! *Probe* looks for the last common entry, one message at a time. *Replicate* streams ahead of
//! the answers, bounded by messages and by bytes in flight. *Snapshot* offers one snapshot at every
//! heartbeat, always the same (N7), until the follower has it; the follower fetches it by itself.
//! Heartbeats are outside of all three: they name the last entry that is known to match, so they are
//! always accepted, and never wait for a window (and so one that does *not* fit is a proof of lost
//! data, C14).
//!
//! All of it belongs to one [`Session`]; within it `match_index` never falls (C5).

use std::collections::VecDeque;

use crate::ids::{LogId, LogIndex, ReadPos, Session};
use crate::raft::config::Config;
use crate::raft::entry::{Entry, Snapshot, SnapshotId};
use crate::raft::log::Log;
use crate::raft::message::{AppendEntriesResponse, Promise};
use crate::time::Instant;

/// One follower, as the leader sees it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Progress {
    pub session: Session,
    /// Everything up to here is durably on the follower.
    pub match_index: LogIndex,
    /// The next entry to send.
    pub next_index: LogIndex,
    /// The newest beat it accepted in this session, by send time. Only successes of this term and
    /// session count as contact (R11).
    pub contact: Option<Instant>,
    /// The same over all sessions of this term; at first, when the term began. For check quorum:
    /// a follower that restarts has not been out of reach for it.
    pub reached: Instant,
    /// When its last answer arrived; for status pages.
    pub last_heard: Option<Instant>,
    /// Its word, given with the newest beat.
    pub promise: Promise,
    /// The newest read position it has confirmed.
    pub read_pos: ReadPos,
    /// The commit index it has surely been told, if nothing was lost.
    pub commit_told: LogIndex,
    pub commit_index: LogIndex,
    pub last_applied: LogIndex,
    flow: Flow,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Flow {
    /// Looking for the last common entry; `asked` while a probe is unanswered.
    Probe { asked: Option<Instant> },
    /// What it lacks is no longer in the log.
    Snapshot {
        /// What it was offered; the same until it has it.
        snapshot: Snapshot,
        /// Whether it is to be offered now.
        due: bool,
    },
    /// Streaming.
    Replicate { inflight: VecDeque<Inflight>, bytes: usize },
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Inflight {
    last: LogIndex,
    bytes: usize,
    sent_at: Instant,
}

const NO_PROMISE: Promise = Promise { no_vote_for: std::time::Duration::ZERO, clock_drift_ppm: 0 };

impl Progress {
    /// A new session with a follower that may hold anything; the first guess is that it lacks
    /// only the entries from `next_index` on. There must be one, or there is nothing to probe with.
    pub fn new(session: Session, next_index: LogIndex, reached: Instant) -> Self {
        Self {
            session,
            match_index: LogIndex::ZERO,
            next_index,
            contact: None,
            reached,
            last_heard: None,
            promise: NO_PROMISE,
            read_pos: ReadPos::ZERO,
            commit_told: LogIndex::ZERO,
            commit_index: LogIndex::ZERO,
            last_applied: LogIndex::ZERO,
            flow: Flow::Probe { asked: None },
        }
    }

    /// A new session with the same life of the follower: it still holds what it held, but nothing
    /// it said before counts any more.
    pub fn renewed(&self, session: Session, log: &Log) -> Self {
        let match_index = self.match_index;
        let known = match_index > LogIndex::ZERO;
        let next_index = if known { match_index.next() } else { self.next_index.min(log.last().index) };
        Self { match_index, ..Self::new(session, next_index, self.reached) }
    }

    /// What a heartbeat names as the entry before it: the last that is known to match.
    pub fn known_match(&self, log: &Log) -> LogId {
        // What was compacted can't be named; every log has the place before its first entry.
        log.term_at(self.match_index).map_or(LogId::ZERO, |term| LogId::new(term, self.match_index))
    }

    /// The snapshot to offer now, when only that can help. What was offered first goes on being offered
    /// while the log still has what comes after it.
    pub fn next_offer(&mut self, log: &Log, newest: Option<&Snapshot>) -> Option<Snapshot> {
        let of_use = |snapshot: &Snapshot| log.term_at(snapshot.id.last.index).is_some();
        let lacks = self.next_index.prev().is_none_or(|before| log.term_at(before).is_none());
        match &self.flow {
            Flow::Snapshot { snapshot, .. } if of_use(snapshot) => {}
            Flow::Probe { .. } | Flow::Replicate { .. } if !lacks => return None,
            _ => self.offer(newest?.clone()),
        }
        match &mut self.flow {
            Flow::Snapshot { snapshot, due } => std::mem::take(due).then(|| snapshot.clone()),
            _ => None,
        }
    }

    /// Offers `snapshot` from now on.
    pub fn offer(&mut self, snapshot: Snapshot) {
        self.flow = Flow::Snapshot { snapshot, due: true };
    }

    /// Which snapshot it was offered and does not have yet.
    pub const fn fetching(&self) -> Option<SnapshotId> {
        match &self.flow {
            Flow::Snapshot { snapshot, .. } => Some(snapshot.id),
            _ => None,
        }
    }

    /// The next append to send now, if the window allows one: the entry before it, and entries.
    pub fn next_batch(&mut self, now: Instant, log: &Log, config: &Config) -> Option<(LogId, Vec<Entry>)> {
        if !self.may_send(config) || self.next_index > log.last().index {
            return None;
        }
        let before = self.next_index.prev()?;
        let prev_log = LogId::new(log.term_at(before)?, before);
        let entries = log.batch(self.next_index, config.max_append_bytes);
        let last = entries.last()?.id.index;
        match &mut self.flow {
            Flow::Snapshot { .. } => return None,
            Flow::Probe { asked } => *asked = Some(now),
            Flow::Replicate { inflight, bytes } => {
                let size = entries.iter().map(Entry::size).sum();
                inflight.push_back(Inflight { last, bytes: size, sent_at: now });
                *bytes += size;
                self.next_index = last.next();
            }
        }
        Some((prev_log, entries))
    }

    fn may_send(&self, config: &Config) -> bool {
        match &self.flow {
            Flow::Snapshot { .. } => false,
            Flow::Probe { asked } => asked.is_none(),
            Flow::Replicate { inflight, bytes } => {
                inflight.len() < config.max_inflight_messages && *bytes < config.max_inflight_bytes
            }
        }
    }

    /// A heartbeat goes out at `now`: ask again for what was not answered in reasonable time.
    pub fn on_heartbeat(&mut self, now: Instant, config: &Config) {
        match &mut self.flow {
            Flow::Snapshot { due, .. } => *due = true,
            Flow::Probe { asked } => {
                if asked.is_some_and(|at| now.since(at) >= config.heartbeat_interval) {
                    *asked = None;
                }
            }
            Flow::Replicate { inflight, .. } => {
                let oldest = inflight.front().map(|message| message.sent_at);
                if oldest.is_some_and(|at| now.since(at) >= config.election_timeout_min) {
                    self.probe_from(self.match_index.next());
                }
            }
        }
    }

    /// An accepted append or heartbeat.
    pub fn accepted(
        &mut self,
        now: Instant,
        response: &AppendEntriesResponse,
        match_index: LogIndex,
        log: &Log,
    ) {
        if self.contact.is_none_or(|contact| response.beat.sent_at >= contact) {
            self.contact = Some(response.beat.sent_at);
            self.promise = response.promise;
        }
        self.reached = self.reached.max(response.beat.sent_at);
        self.last_heard = Some(now);
        self.read_pos = self.read_pos.max(response.beat.read_pos);
        self.match_index = self.match_index.max(match_index);
        match &mut self.flow {
            Flow::Snapshot { .. } => {
                self.next_index = self.next_index.max(self.match_index.next());
                if log.term_at(self.match_index).is_some() {
                    self.next_index = self.match_index.next();
                    self.flow = Flow::Replicate { inflight: VecDeque::new(), bytes: 0 };
                }
            }
            Flow::Probe { asked } => {
                let found = self.match_index >= self.next_index;
                let nothing_to_find = asked.is_none() && self.match_index.next() == self.next_index;
                if found || nothing_to_find {
                    self.next_index = self.match_index.next();
                    self.flow = Flow::Replicate { inflight: VecDeque::new(), bytes: 0 };
                }
            }
            Flow::Replicate { inflight, bytes } => {
                while inflight.front().is_some_and(|message| message.last <= match_index) {
                    *bytes -= inflight.pop_front().map_or(0, |message| message.bytes);
                }
                self.next_index = self.next_index.max(self.match_index.next());
            }
        }
    }

    /// An append did not fit. `hint` is the follower's last entry that may match; the leader skips
    /// its own terms in the same way. False when the answer is late and means nothing (C5).
    pub fn conflicted(&mut self, log: &Log, rejected: LogId, hint: LogId) -> bool {
        let stale = match self.flow {
            Flow::Snapshot { .. } => true,
            Flow::Probe { .. } => rejected.index.next() != self.next_index,
            Flow::Replicate { .. } => rejected.index <= self.match_index,
        };
        if stale || rejected.index <= self.match_index {
            return false;
        }
        let common = log.last_possible_match(hint).index;
        // Always a step back, and never below what is known to match.
        self.probe_from(common.next().min(rejected.index).max(self.match_index.next()));
        true
    }

    /// Whether it is not known to hold everything up to `last`.
    pub fn is_behind(&self, last: LogId) -> bool {
        self.match_index < last.index
    }

    /// Sends again from what is known to match, without waiting for answers that may be lost.
    pub fn start_over(&mut self) {
        self.probe_from(self.match_index.next());
    }

    fn probe_from(&mut self, next: LogIndex) {
        self.next_index = next;
        self.flow = Flow::Probe { asked: None };
    }
}
