//! ReadIndex (thesis 6.4): linearizable reads without writing to the log.
//!
//! The leader gives each read a *position* of its own making. Every beat carries the newest
//! position at the time it was sent; a quorum that answers beats at or beyond a read's position
//! has seen this leader after the read arrived, so no later leader can have committed anything
//! that the read would miss. A read can't join a round that began before it (R12), and what a
//! caller names its read is of no importance (R3).
//!
//! One round is under way at a time; what arrives meanwhile shares the next one. A lost round is
//! made good by the next heartbeat, which carries the newest position too.
//!
//! A follower collects its own reads in the same way and asks the leader once for all of them.

use std::collections::{BTreeMap, VecDeque};

use crate::ids::{LogIndex, NodeId, ReadPos, Ticket};
use crate::time::{Duration, Instant};

/// Reads that wait at the leader.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct Reads {
    /// The position of the newest read.
    pub last: ReadPos,
    /// The newest position that a round has been started for.
    pub asked: ReadPos,
    waiting: VecDeque<Waiting>,
    confirmed: ReadPos,
}

/// One read.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Waiting {
    pos: ReadPos,
    /// Where it may read once confirmed.
    pub index: LogIndex,
    pub reader: Reader,
}

/// Who reads.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Reader {
    /// A caller at this node.
    Here(Ticket),
    /// A follower, with its name for the read.
    There(NodeId, u64),
}

impl Reads {
    pub fn register(&mut self, index: LogIndex, reader: Reader) {
        self.last = self.last.next();
        self.waiting.push_back(Waiting { pos: self.last, index, reader });
    }

    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether a round should start now.
    pub fn wants_round(&self) -> bool {
        self.last > self.asked && self.confirmed >= self.asked
    }

    /// A quorum has confirmed everything up to `pos`.
    pub fn confirm(&mut self, pos: ReadPos) -> Vec<Waiting> {
        self.confirmed = self.confirmed.max(pos);
        let ready = self.waiting.iter().take_while(|read| read.pos <= self.confirmed).count();
        self.waiting.drain(..ready).collect()
    }

    /// Everything that waits, when leadership ends.
    pub fn into_waiting(self) -> VecDeque<Waiting> {
        self.waiting
    }
}

/// Reads of a follower, on their way to the leader.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct Forwarded {
    forming: Vec<Ticket>,
    asked: BTreeMap<u64, Group>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Group {
    tickets: Vec<Ticket>,
    asked_at: Instant,
    deadline: Instant,
}

impl Forwarded {
    pub fn add(&mut self, ticket: Ticket) {
        self.forming.push(ticket);
    }

    pub fn len(&self) -> usize {
        self.forming.len() + self.asked.values().map(|group| group.tickets.len()).sum::<usize>()
    }

    /// Whether reads wait to be asked for.
    pub fn is_forming(&self) -> bool {
        !self.forming.is_empty()
    }

    /// The reads collected so far go out under `id`.
    pub fn ask(&mut self, id: u64, now: Instant, patience: Duration) {
        let tickets = std::mem::take(&mut self.forming);
        self.asked.insert(id, Group { tickets, asked_at: now, deadline: now + patience });
    }

    /// Questions that have been open for `interval` and should be asked again.
    pub fn ask_again(&mut self, now: Instant, interval: Duration) -> Vec<u64> {
        let open = self.asked.iter_mut().filter(|(_, group)| now.since(group.asked_at) >= interval);
        open.map(|(id, group)| {
            group.asked_at = now;
            *id
        })
        .collect()
    }

    /// The reads that the answer to `id` is for; none when it is late.
    pub fn answered(&mut self, id: u64) -> Vec<Ticket> {
        self.asked.remove(&id).map(|group| group.tickets).unwrap_or_default()
    }

    /// Reads that have waited too long.
    pub fn expired(&mut self, now: Instant) -> Vec<Ticket> {
        let over: Vec<u64> =
            self.asked.iter().filter(|(_, group)| group.deadline <= now).map(|(id, _)| *id).collect();
        over.into_iter().flat_map(|id| self.answered(id)).collect()
    }

    /// When the first of them will have.
    pub fn deadline(&self) -> Option<Instant> {
        self.asked.values().map(|group| group.deadline).min()
    }

    /// All of them, when the leader is gone.
    pub fn take_all(&mut self) -> Vec<Ticket> {
        let mut all = std::mem::take(&mut self.forming);
        all.extend(std::mem::take(&mut self.asked).into_values().flat_map(|group| group.tickets));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tickets(reads: Vec<Waiting>) -> Vec<u64> {
        reads.iter().map(|read| if let Reader::Here(ticket) = &read.reader { ticket.0 } else { 0 }).collect()
    }

    /// R12.
    #[test]
    fn a_read_joins_only_a_round_that_starts_after_it_arrived() {
        let mut reads = Reads::default();
        reads.register(LogIndex(1), Reader::Here(Ticket(1)));
        assert!(reads.wants_round());
        reads.asked = reads.last;
        reads.register(LogIndex(1), Reader::Here(Ticket(2)));
        assert!(!reads.wants_round(), "one round at a time");
        assert_eq!(tickets(reads.confirm(ReadPos(1))), [1]);
        assert!(reads.wants_round());
        assert_eq!(tickets(reads.confirm(ReadPos(2))), [2]);
    }
}
