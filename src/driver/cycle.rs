//! One turn of the loop, without IO: the core, the state machine and what waits for either.
//!
//! [`Cycle::feed`] hands inputs to the core and [`Cycle::drain`] carries out the effects that need no IO:
//! committed entries are applied, answers find their callers, and a message that must wait for the
//! disk is held back until the persistence watermark has passed. What remains is an [`Output`]: what
//! to persist, what to send, whom to answer. The real loop (`run`) hands these to redb and quinn;
//! the simulator hands them to a simulated disk and network. Both run this same file.
//!
//! Order inside one `Output` is part of the contract: publish [`Cycle::leadership`] first, then
//! persist, then send, then answer. A lease is so dead in every reader's eyes before the message
//! leaves that lets another node be elected (R4).

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;

use crate::driver::handle::{Applied, ReadPoint, Refused, Transferred};
use crate::fencing::leadership::Leadership;
use crate::ids::{IoSeq, LogIndex, Term, Ticket};
use crate::raft::Node;
use crate::raft::effect::{Effect, Event, Input, Outcome};
use crate::raft::entry::{Entry, Persist};
use crate::raft::message::Message;
use crate::raft::view::View;
use crate::registry::command::{Answer, Command, Op};
use crate::registry::machine::Machine;
use crate::time::Instant;

/// The synchronous heart of a node.
#[derive(Debug)]
pub struct Cycle {
    node: Node,
    machine: Arc<RwLock<Machine>>,
    /// Everything up to here is durable.
    durable: IoSeq,
    /// Messages that wait for the watermark, in the order they were made.
    held: VecDeque<(IoSeq, Message)>,
    /// Confirmed reads that wait until their position is applied.
    reads: BTreeMap<LogIndex, Vec<(Ticket, Term)>>,
    /// What the entries applied in this turn answered; drained by the turn's replies.
    answers: BTreeMap<LogIndex, Answer>,
    /// The term in which each transfer was asked for.
    transfers: BTreeMap<Ticket, Term>,
    /// What the turn wants done so far.
    output: Output,
}

/// What a turn wants done, in this order.
#[derive(Debug, Default)]
pub struct Output {
    /// For the persistence queue.
    pub persist: Vec<Persist>,
    /// For the network; everything these depend on is durable.
    pub send: Vec<Message>,
    /// For the callers.
    pub answers: Vec<(Ticket, Answered)>,
    /// For the log and the metrics.
    pub events: Vec<Event>,
}

/// How a caller's request ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answered {
    /// A proposal was committed and applied.
    Applied(Applied),
    /// A read may be served from this node's state now.
    Read(ReadPoint),
    /// Leadership moved.
    Transferred(Transferred),
    /// It was not served.
    Refused(Refused),
}

impl Cycle {
    /// Joins a core that has just started with an empty state machine.
    pub fn new(node: Node, machine: Arc<RwLock<Machine>>) -> Self {
        Self {
            node,
            machine,
            durable: IoSeq::ZERO,
            held: VecDeque::new(),
            reads: BTreeMap::new(),
            answers: BTreeMap::new(),
            transfers: BTreeMap::new(),
            output: Output::default(),
        }
    }

    /// One input and all that follows from it.
    pub fn step(&mut self, now: Instant, input: Input) -> Output {
        self.feed(now, input);
        self.drain(now)
    }

    /// Hands one input to the core. Several may be fed before they are drained, and then share
    /// their writes and messages: this is what makes a group commit.
    pub fn feed(&mut self, now: Instant, input: Input) {
        if let Input::Persisted { io } = input {
            self.release(io);
        }
        if let Input::Transfer { ticket, .. } = input {
            self.transfers.insert(ticket, self.node.term());
        }
        self.node.step(now, input);
    }

    /// Proposes `op`, decided in the current term.
    pub fn propose(&mut self, now: Instant, op: Op, ticket: Ticket) {
        let command = Command { decided_in: self.node.term(), op };
        match postcard::to_allocvec(&command) {
            Ok(bytes) => self.feed(now, Input::Propose { ticket, command: Bytes::from(bytes) }),
            // Encoding into memory fails only when memory does; nothing was appended.
            Err(_) => self.output.answers.push((ticket, Answered::Refused(Refused::Busy))),
        }
    }

    /// Carries out what follows from everything fed since the last call.
    pub fn drain(&mut self, now: Instant) -> Output {
        while let Some(effect) = self.node.poll() {
            self.carry_out(now, effect);
        }
        self.answers.clear();
        std::mem::take(&mut self.output)
    }

    /// When to call [`Cycle::step`] with [`Input::Timeout`] at the latest.
    pub fn deadline(&self) -> Instant {
        self.node.deadline()
    }

    /// The core's state.
    pub fn view(&self) -> View {
        self.node.view()
    }

    /// The picture that the edges decide by.
    pub fn leadership(&self) -> Leadership {
        self.node.leadership()
    }

    /// The applied state.
    pub fn machine(&self) -> &Arc<RwLock<Machine>> {
        &self.machine
    }

    fn carry_out(&mut self, now: Instant, effect: Effect) {
        match effect {
            Effect::Persist(persist) => self.output.persist.push(persist),
            Effect::Send { message, after } => self.send(message, after),
            Effect::Apply(entries) => self.apply(now, &entries),
            Effect::Reply { ticket, outcome } => self.reply(ticket, outcome),
            Effect::Event(event) => self.output.events.push(event),
        }
    }

    fn send(&mut self, message: Message, after: Option<IoSeq>) {
        match after {
            Some(io) if io > self.durable => self.held.push_back((io, message)),
            _ => self.output.send.push(message),
        }
    }

    /// Moves the watermark and lets go what waited for it.
    fn release(&mut self, io: IoSeq) {
        assert!(io >= self.durable, "the persistence watermark went back from {} to {io}", self.durable);
        self.durable = io;
        for (after, message) in std::mem::take(&mut self.held) {
            self.send(message, Some(after));
        }
    }

    fn apply(&mut self, now: Instant, entries: &[Entry]) {
        let Some(last) = entries.last() else { return };
        {
            let mut machine = self.machine.write().unwrap_or_else(PoisonError::into_inner);
            for entry in entries {
                if let Some(answer) = machine.apply(entry) {
                    self.answers.insert(entry.id.index, answer);
                }
            }
        }
        self.node.step(now, Input::Applied { index: last.id.index });
        self.serve_reads(last.id.index);
    }

    fn serve_reads(&mut self, applied: LogIndex) {
        let still_waiting = self.reads.split_off(&applied.next());
        for (index, callers) in std::mem::replace(&mut self.reads, still_waiting) {
            for (ticket, term) in callers {
                self.output.answers.push((ticket, Answered::Read(ReadPoint { index, term })));
            }
        }
    }

    fn reply(&mut self, ticket: Ticket, outcome: Outcome) {
        let from_term = self.transfers.remove(&ticket);
        let answered = match outcome {
            Outcome::Committed(id) => {
                let answer = self.answers.remove(&id.index);
                let answer = answer.expect("a proposal is answered in the turn that applies it");
                Answered::Applied(Applied { index: id.index, term: id.term, answer })
            }
            Outcome::ReadAt { index, term } => {
                self.reads.entry(index).or_default().push((ticket, term));
                return self.serve_reads(self.node.last_applied());
            }
            Outcome::NotLeader { leader } => Answered::Refused(Refused::NotLeader { leader }),
            Outcome::Unknown => Answered::Refused(Refused::Unknown),
            Outcome::Busy => Answered::Refused(Refused::Busy),
            Outcome::Transferred { to, term } => {
                Answered::Transferred(Transferred { from_term: from_term.unwrap_or_default(), to, term })
            }
            Outcome::TransferRefused(why) => Answered::Refused(Refused::Transfer(why)),
        };
        self.output.answers.push((ticket, answered));
    }
}
