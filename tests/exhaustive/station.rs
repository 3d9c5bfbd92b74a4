//! One node with its disk and its gate: what can happen to it alone, and what it lets out.
//!
//! The node is the real core, driven as the driver drives it: one input, then every effect in order, and
//! what is committed is applied at once. The disk is a queue of writes that complete one by one; a message
//! leaves when the write that it names is done.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};

use termgate::fencing::gate::{Admit, Gate};
use termgate::fencing::leadership::Leadership;
use termgate::fencing::mode::FenceMode;
use termgate::ids::{IoSeq, Life, LogIndex, NodeId, Session, Term, Ticket};
use termgate::raft::config::Config;
use termgate::raft::effect::{Change, DropReason, Effect, Event, Input, Outcome};
use termgate::raft::entry::{Durable, Payload, Persist};
use termgate::raft::message::{AppendResult, Body, Message, ReadIndexResponse};

use termgate::raft::{Boot, Node};
use termgate::time::{Duration, Instant};

use crate::bounds::Bound;
use crate::canon::UNIT;
use crate::check::FIRST_WRITE;

/// Where every life's clock begins: nothing may reach back to zero.
const BIRTH: Instant = Instant(1 << 40);

/// Of every data directory: a difference would tell nodes apart that are alike.
pub const INCARNATION: u64 = 7;

/// The ticket of whoever wants the membership changed.
pub const PROMOTION: u8 = 200;

/// In the place of a write's number: the two entries of a change of the membership.
pub const JOINT: u8 = 14;
pub const SETTLED: u8 = 15;

/// Something that happens to one node.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Local {
    /// A message arrives.
    Deliver(Box<Message>),
    /// This many units pass, and then the node is told that its deadline is over.
    Timeout(u64),
    /// This many units pass.
    Elapse(u64),
    /// The oldest write completes.
    Persist,
    /// The process ends, loses what its disk still owes, and starts again.
    Crash,
    /// A client wants a write.
    Propose(u8),
    /// A client wants to read.
    Read(u8),
    /// The disk stalls, and goes on.
    Stall,
    /// A client's write stands before the gate.
    Admit,
    /// The gate hears who leads.
    Tell,
    /// The backend's fence stands.
    Raised(Term),
    /// The learners of the start are to be given a vote.
    Promote,
}

/// A node, and what keeps what it wrote.
#[derive(Debug, Clone)]
pub struct Station {
    pub node: Node,
    pub durable: Durable,
    /// What the disk still owes, oldest first.
    pub queue: VecDeque<Persist>,
    /// The newest write that the node was told of.
    pub done: IoSeq,
    pub now: Instant,
    pub boot: u64,
    pub gate: Gate,
}

/// What came of it.
#[derive(Debug, Clone)]
pub struct Turn {
    pub station: Station,
    /// Messages, each with how many of the queue's writes it waits for.
    pub sends: Vec<(Message, usize)>,
    pub replies: Vec<(Ticket, Outcome)>,
    /// The gate wants the fence raised.
    pub raise: Option<Term>,
    /// The gate let a write out, with this token.
    pub stamped: Option<Term>,
    /// What this node alone did wrong.
    pub wrong: Option<String>,
}

impl Station {
    /// A node of a cluster that has been up for a while: it has heard from everybody.
    pub fn first(place: usize, bound: &Bound) -> Self {
        let id = NodeId(place as u64 + 1);
        let mut station = Self::start(id, bound.disk(place), 1, bound);
        for from in (1..=bound.nodes as u64).map(NodeId).filter(|from| *from != id) {
            let life = Life { incarnation: INCARNATION, boot: 1 };
            let body = Body::ReadIndexResponse(ReadIndexResponse { id: 0, index: None });
            let message = Message { from, to: id, term: Term::ZERO, life, session: Session::ZERO, body };
            station = station.turn(&Local::Deliver(Box::new(message)), bound).station;
        }
        station
    }

    fn start(id: NodeId, durable: Durable, boot: u64, bound: &Bound) -> Self {
        let life = Life { incarnation: INCARNATION, boot };
        let promised = if boot > 1 { units(bound.time.election) } else { Duration::ZERO };
        let node = Node::new(config(id, bound), Boot { durable: durable.clone(), life, promised }, 0, BIRTH);
        let (queue, gate) = (VecDeque::new(), Gate::new(FenceMode::Enforced, Duration::ZERO));
        Self { node, durable, queue, done: IoSeq::ZERO, now: BIRTH, boot, gate }
    }

    /// One thing happens, and everything that follows from it at this node.
    pub fn turn(&self, what: &Local, bound: &Bound) -> Turn {
        let tried = catch_unwind(AssertUnwindSafe(|| self.clone().on(what, bound)));
        tried.unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            let mut turn = Turn::of(self.clone());
            turn.wrong = Some(format!("the core panicked: {}", text.unwrap_or_default()));
            turn
        })
    }

    fn on(mut self, what: &Local, bound: &Bound) -> Turn {
        let input = match what {
            Local::Deliver(message) => Input::Receive((**message).clone()),
            Local::Timeout(passed) => {
                self.now = self.now + units(*passed);
                Input::Timeout
            }
            Local::Elapse(passed) => {
                self.now = self.now + units(*passed);
                // Says nothing new: it only brings the time along.
                Input::Persisted { io: IoSeq::ZERO }
            }
            Local::Persist => {
                let write = self.queue.pop_front().expect("the disk owes something");
                self.done = write.io;
                keep(&mut self.durable, &write);
                Input::Persisted { io: self.done }
            }
            Local::Crash => {
                let station = Self::start(self.node.leadership().node, self.durable, self.boot + 1, bound);
                let mut turn = Turn::of(station);
                turn.drain();
                return turn;
            }
            Local::Propose(number) => {
                let command = bytes::Bytes::copy_from_slice(&[*number]);
                Input::Propose { ticket: Ticket(u64::from(FIRST_WRITE + number - 1)), command }
            }
            Local::Read(number) => Input::Read { ticket: Ticket(u64::from(*number)) },
            Local::Stall => Input::DiskStalled(true),
            Local::Admit => return self.at_gate(),
            Local::Tell => return self.told(),
            Local::Promote => {
                let promote = (bound.voters() as u64 + 1..=bound.nodes as u64).map(NodeId).collect();
                let change = Change { promote, ..Change::default() };
                Input::Reconfigure { ticket: Ticket(u64::from(PROMOTION)), change }
            }
            Local::Raised(term) => {
                self.gate.on_raised(*term);
                Input::Persisted { io: IoSeq::ZERO }
            }
        };
        let shown = self.node.leadership();
        let mut turn = Turn::of(self);
        turn.step(input);
        if matches!(what, Local::Elapse(_)) {
            turn.look_at_token(&shown);
        }
        if *what == Local::Stall {
            turn.step(Input::DiskStalled(false));
        }
        if bound.backend.as_ref().is_some_and(|limits| !limits.gates_lag) {
            turn.look_at_gate();
        }
        turn
    }

    fn at_gate(self) -> Turn {
        let admit = self.gate.admit(&self.node.leadership(), self.now);
        let mut turn = Turn::of(self);
        if let Admit::Admit(term) = admit {
            turn.stamped = Some(term);
        }
        turn
    }

    fn told(self) -> Turn {
        let mut turn = Turn::of(self);
        turn.look_at_gate();
        turn
    }

    /// The log that the node must have in memory: what is on disk, and what is on its way there.
    pub fn log(&self) -> Durable {
        let mut log = self.durable.clone();
        self.queue.iter().for_each(|write| keep(&mut log, write));
        log
    }

    /// Whether `message`, which has just left, rests on nothing that a crash could take away.
    pub fn covers(&self, message: &Message) -> Result<(), String> {
        let (hard_state, last) = (self.durable.hard_state, last_index(&self.durable));
        let asks_before = matches!(&message.body, Body::RequestVote(request) if request.ballot.pre_vote);
        let term = message.term.0 - u64::from(asks_before);
        let voted = |who: NodeId| hard_state.current_term > message.term || hard_state.voted_for == Some(who);
        let held = |index: LogIndex| index <= last;
        let covered = match &message.body {
            Body::RequestVote(request) => {
                held(request.last_log.index) && (asks_before || voted(request.candidate_id))
            }
            Body::RequestVoteResponse(answer) => {
                !answer.vote_granted || answer.ballot.pre_vote || voted(message.to)
            }
            Body::AppendEntriesResponse(answer) => match answer.result {
                AppendResult::Accepted { match_index } => held(match_index),
                AppendResult::Conflict { .. } => true,
            },
            _ => true,
        };
        if term <= hard_state.current_term.0 && covered {
            return Ok(());
        }
        Err(format!(
            "left before its disk had what it says ({}, vote {}, log up to {last})",
            hard_state.current_term,
            hard_state.voted_for.map_or_else(|| "none".to_owned(), |id| id.to_string()),
        ))
    }
}

impl Turn {
    pub fn of(station: Station) -> Self {
        let (sends, replies) = (Vec::new(), Vec::new());
        Self { station, sends, replies, raise: None, stamped: None, wrong: None }
    }

    fn step(&mut self, input: Input) {
        self.station.node.step(self.station.now, input);
        self.drain();
    }

    fn drain(&mut self) {
        let now = self.station.now;
        while let Some(effect) = self.station.node.poll() {
            match effect {
                Effect::Persist(write) => self.station.queue.push_back(write),
                Effect::Send { mut message, after } => {
                    if let Body::AppendEntriesResponse(answer) = &mut message.body {
                        // Shown on status pages and nowhere else.
                        (answer.commit_index, answer.last_applied) = (LogIndex::ZERO, LogIndex::ZERO);
                    }
                    let waits = after.map_or(0, |io| self.station.waits_for(io));
                    self.sends.push((message, waits));
                }
                Effect::Apply(entries) => {
                    let last = entries.last().map_or(LogIndex::ZERO, |entry| entry.id.index);
                    self.station.node.step(now, Input::Applied { index: last });
                }
                Effect::Reply { ticket, outcome } => self.replies.push((ticket, outcome)),
                Effect::Event(event) => self.on_event(&event),
                Effect::Snapshot(_) => unreachable!("no bound compacts"),
            }
        }
    }

    fn on_event(&mut self, event: &Event) {
        match event {
            Event::Dropped { from, reason: DropReason::Malformed } => {
                self.wrong = Some(format!("what node {from} said was taken for a lie"));
            }
            Event::LostData { claimed } => self.wrong = Some(format!("lost data up to {claimed}")),
            _ => {}
        }
    }

    /// A picture that was taken before the time passed gives no token without a lease.
    fn look_at_token(&mut self, shown: &Leadership) {
        let now = self.station.now;
        let has_lease = self.station.node.leadership().lease_until.is_some_and(|until| now < until);
        if shown.token_at(now).is_some() && !has_lease {
            self.wrong = Some("its token outlives its lease".to_owned());
        }
    }

    fn look_at_gate(&mut self) {
        let leadership = self.station.node.leadership();
        let station = &mut self.station;
        station.gate.on_leadership(&leadership, station.now);
        self.raise = station.gate.poll(station.now);
    }
}

impl Station {
    /// How many writes must still complete before `io` has.
    fn waits_for(&self, io: IoSeq) -> usize {
        self.queue.iter().take_while(|write| write.io <= io).count()
    }
}

/// Writes to the disk.
fn keep(disk: &mut Durable, write: &Persist) {
    if let Some(hard_state) = write.hard_state {
        disk.hard_state = hard_state;
    }
    disk.pinned.extend(write.pins.iter().copied());
    if let Some(from) = write.truncate_from {
        disk.log.retain(|entry| entry.id.index < from);
    }
    disk.log.extend(write.append.iter().cloned());
}

/// The last entry on a disk.
pub fn last_index(disk: &Durable) -> LogIndex {
    disk.log.last().map_or(LogIndex::ZERO, |entry| entry.id.index)
}

/// An entry in one byte: its term, and 0 for a no-op or the number of the write, or one of those above.
pub fn code(term: Term, payload: &Payload) -> u8 {
    let what = match payload {
        Payload::NoOp { .. } => 0,
        Payload::Command(bytes) => bytes.first().copied().unwrap_or(0),
        Payload::Membership(membership) if membership.is_joint() => JOINT,
        Payload::Membership(_) => SETTLED,
    };
    (term.0 as u8) << 4 | what
}

/// A log, entry by entry.
pub fn codes(disk: &Durable) -> Vec<u8> {
    disk.log.iter().map(|entry| code(entry.id.term, &entry.payload)).collect()
}

/// So many units of time.
pub const fn units(count: u64) -> Duration {
    Duration::from_nanos(count * UNIT)
}

fn config(id: NodeId, bound: &Bound) -> Config {
    let time = &bound.time;
    let mut config = Config::new(id);
    config.heartbeat_interval = units(time.heartbeat);
    config.election_timeout_min = units(time.election);
    config.election_timeout_max = units(time.election);
    config.clock_drift_ppm = time.drift_ppm;
    config.lease_margin = Duration::ZERO;
    config.max_append_bytes = if bound.single_entries { 1 } else { 1024 };
    config.max_inflight_messages = 2;
    config
}
