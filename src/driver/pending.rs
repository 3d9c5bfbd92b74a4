//! Who waits for an answer, by ticket. Each caller hears exactly one answer; one that has gone
//! away is skipped.

use std::collections::BTreeMap;

use tokio::sync::oneshot;

use crate::driver::cycle::Answered;
use crate::driver::handle::{Applied, ReadPoint, Refused, Transferred};
use crate::ids::Ticket;

/// The callers of one node's loop.
#[derive(Debug, Default)]
pub struct Pending {
    last: Ticket,
    callers: BTreeMap<Ticket, Caller>,
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
}

impl Pending {
    /// Registers a caller under a new ticket.
    pub fn register(&mut self, caller: Caller) -> Ticket {
        self.last = self.last.next();
        self.callers.insert(self.last, caller);
        self.last
    }

    /// Answers the caller of `ticket`.
    pub fn answer(&mut self, ticket: Ticket, answered: Answered) {
        let caller = self.callers.remove(&ticket);
        let caller = caller.unwrap_or_else(|| panic!("ticket {ticket} was answered twice"));
        // A send fails only when the caller has gone away; it no longer wants the answer.
        match (caller, answered) {
            (Caller::Propose(to), Answered::Applied(applied)) => drop(to.send(Ok(applied))),
            (Caller::Propose(to), Answered::Refused(why)) => drop(to.send(Err(why))),
            (Caller::Read(to), Answered::Read(point)) => drop(to.send(Ok(point))),
            (Caller::Read(to), Answered::Refused(why)) => drop(to.send(Err(why))),
            (Caller::Transfer(to), Answered::Transferred(moved)) => drop(to.send(Ok(moved))),
            (Caller::Transfer(to), Answered::Refused(why)) => drop(to.send(Err(why))),
            (caller, answered) => panic!("{caller:?} was answered with {answered:?}"),
        }
    }
}
