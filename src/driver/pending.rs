//! Who waits for an answer, by ticket. Each caller hears exactly one answer; one that has gone
//! away is skipped.
//!
//! The core bounds proposals and reads that wait for a position. What it does not bound are reads
//! that have their position and wait until it is applied, which on a node that lags may be long.
//! They are bounded here, together with all other reads, by the core's number. One whose caller has
//! gone away keeps its place: it can't be served before the position is applied, and then all are at
//! once; until then another caller would only wait in vain too.

use std::collections::BTreeMap;

use tokio::sync::oneshot;

use crate::driver::cycle::Answered;
use crate::driver::handle::{Applied, ReadPoint, Refused, Transferred};
use crate::ids::{LogId, Ticket};

/// The callers of one node's loop.
#[derive(Debug)]
pub struct Pending {
    last: Ticket,
    callers: BTreeMap<Ticket, Caller>,
    /// How many of them read, and how many may.
    reads: usize,
    max_reads: usize,
}

/// Where one caller's answer goes.
#[derive(Debug)]
pub enum Caller {
    /// Waits for a command to be applied.
    Propose(oneshot::Sender<Result<Applied, Refused>>),
    /// Waits for a read position.
    Read(oneshot::Sender<Result<ReadPoint, Refused>>),
    /// Waits for leadership to move.
    Transfer(oneshot::Sender<Result<Transferred, Refused>>),
    /// Waits for a change of membership to be complete.
    Reconfigure(oneshot::Sender<Result<LogId, Refused>>),
}

impl Pending {
    /// Nobody waits. At most `max_reads` reads may (`max_pending_reads`).
    pub fn new(max_reads: usize) -> Self {
        Self { last: Ticket::default(), callers: BTreeMap::new(), reads: 0, max_reads }
    }

    /// Registers a caller under a new ticket. `None` when too many read already; the caller has
    /// been told `Busy`.
    pub fn register(&mut self, caller: Caller) -> Option<Ticket> {
        if caller.reads() && self.reads >= self.max_reads {
            caller.answer(Answered::Refused(Refused::Busy));
            return None;
        }
        self.reads += usize::from(caller.reads());
        self.last = self.last.next();
        self.callers.insert(self.last, caller);
        Some(self.last)
    }

    /// Answers the caller of `ticket`.
    pub fn answer(&mut self, ticket: Ticket, answered: Answered) {
        let caller = self.callers.remove(&ticket);
        let caller = caller.unwrap_or_else(|| panic!("ticket {ticket} was answered twice"));
        self.reads -= usize::from(caller.reads());
        caller.answer(answered);
    }
}

impl Caller {
    const fn reads(&self) -> bool {
        matches!(self, Self::Read(_))
    }

    /// A send fails only when the caller has gone away; it no longer wants the answer.
    fn answer(self, answered: Answered) {
        match (self, answered) {
            (Self::Propose(to), Answered::Applied(applied)) => drop(to.send(Ok(applied))),
            (Self::Propose(to), Answered::Refused(why)) => drop(to.send(Err(why))),
            (Self::Read(to), Answered::Read(point)) => drop(to.send(Ok(point))),
            (Self::Read(to), Answered::Refused(why)) => drop(to.send(Err(why))),
            (Self::Transfer(to), Answered::Transferred(moved)) => drop(to.send(Ok(moved))),
            (Self::Transfer(to), Answered::Refused(why)) => drop(to.send(Err(why))),
            (Self::Reconfigure(to), Answered::Reconfigured(at)) => drop(to.send(Ok(at))),
            (Self::Reconfigure(to), Answered::Refused(why)) => drop(to.send(Err(why))),
            (caller, answered) => panic!("{caller:?} was answered with {answered:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{LogIndex, Term};

    #[test]
    fn reads_that_nobody_waits_for_any_more_keep_their_place_until_they_are_answered() {
        let mut pending = Pending::new(2);
        let read = |pending: &mut Pending| {
            let (to, answer) = oneshot::channel();
            (pending.register(Caller::Read(to)), answer)
        };
        let (first, gone) = read(&mut pending);
        drop(gone);
        let (second, _waits) = read(&mut pending);
        let (third, mut refused) = read(&mut pending);
        assert_eq!((third, refused.try_recv()), (None, Ok(Err(Refused::Busy))));
        let (to, _other) = oneshot::channel();
        assert!(pending.register(Caller::Propose(to)).is_some(), "writes have the core's own limit");

        let point = ReadPoint { index: LogIndex(3), term: Term(1) };
        pending.answer(first.unwrap(), Answered::Read(point));
        let (fourth, _waits) = read(&mut pending);
        assert!(fourth.is_some(), "an answer gives the place free");
        pending.answer(second.unwrap(), Answered::Refused(Refused::Unknown));
        assert_eq!(pending.reads, 1);
    }
}
