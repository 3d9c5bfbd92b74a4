//! The fenced resource: the project's own `Verifier` over a ledger that takes time to write, and
//! the gates of the nodes, as simple as a gate can be. It shows that the core's token is good for
//! what it is made for, however late a write arrives.

use std::collections::BTreeMap;

use termgate::fencing::verifier::{Admission, Fence, Refusal, Verifier, VerifierMode};
use termgate::ids::{NodeId, Term, Ticket};

use crate::clock::{MS, True};
use crate::oracle::RequestId;
use crate::stats::{Class, Stat};
use crate::world::{Event, World};

/// A node's gate towards the backend.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// Nothing passes.
    #[default]
    Closed,
    /// The fence is being raised.
    Raising(Term),
    /// Writes of this term pass, while the token is valid.
    Open(Term),
}

/// A write on its way.
#[derive(Debug, Clone, Copy)]
pub struct Stamped {
    id: RequestId,
    node: usize,
    term: Term,
}

/// Something between a gate and the backend.
#[derive(Debug, Clone)]
pub enum BackendEvent {
    /// A client's write arrives at a node.
    Admit { node: usize, id: RequestId },
    /// The first byte is about to leave.
    Send { node: usize, boot: u64, write: Stamped },
    /// The write arrives.
    Write(Stamped),
    /// The ledger has written it.
    Written { ticket: Ticket, write: Stamped, epoch: u64 },
    /// A raise arrives.
    Raise { node: usize, boot: u64, term: Term },
    /// A raised term is durable.
    Stored { term: Term, epoch: u64 },
    /// The answer to a raise arrives.
    Raised { node: usize, boot: u64, term: Term, done: bool },
    /// A gate that heard nothing asks again.
    RaiseAgain { node: usize, boot: u64, term: Term },
    /// The backend crashes and is back at once, with what it had made durable.
    Crash,
}

impl BackendEvent {
    /// The process that must run for this to be noticed.
    pub const fn process(&self) -> Option<usize> {
        match self {
            Self::Admit { node, .. } | Self::Send { node, .. } => Some(*node),
            Self::Raised { node, .. } | Self::RaiseAgain { node, .. } => Some(*node),
            _ => None,
        }
    }
}

/// The backend and what must be true of it.
#[derive(Debug)]
pub struct Backend {
    verifier: Verifier,
    stored: Option<Fence>,
    /// Raises that wait until they are complete.
    waiting: Vec<(usize, u64, Term)>,
    running: BTreeMap<Ticket, Stamped>,
    epoch: u64,
    /// The highest raise that was answered.
    answered: Term,
    /// The term of the last write in the ledger.
    last: Term,
    /// Until when nothing reaches it, and none of its answers reaches anybody.
    away_until: True,
}

impl Backend {
    /// An empty ledger.
    pub fn new() -> Self {
        Self {
            verifier: Verifier::new(VerifierMode::Enforced, None),
            stored: None,
            waiting: Vec::new(),
            running: BTreeMap::new(),
            epoch: 0,
            answered: Term::ZERO,
            last: Term::ZERO,
            away_until: 0,
        }
    }
}

impl World {
    pub(crate) fn on_backend(&mut self, event: BackendEvent) {
        match event {
            BackendEvent::Admit { node, id } => self.admit(node, id),
            BackendEvent::Send { node, boot, write } => self.send_write(node, boot, write),
            BackendEvent::Write(write) => self.on_write(write),
            BackendEvent::Written { ticket, write, epoch } => self.on_written(ticket, write, epoch),
            BackendEvent::Raise { node, boot, term } => self.on_raise(node, boot, term),
            BackendEvent::Stored { term, epoch } => self.on_stored(term, epoch),
            BackendEvent::Raised { node, boot, term, done } => self.on_raised(node, boot, term, done),
            BackendEvent::RaiseAgain { node, boot, term } => self.raise_again(node, boot, term),
            BackendEvent::Crash => self.crash_backend(),
        }
    }

    /// The way to the backend, and back, is lost for so long.
    pub fn backend_away(&mut self, lasts: True) {
        self.backend.away_until = self.now + lasts;
    }

    fn is_away(&mut self) -> bool {
        let away = self.backend.away_until > self.now;
        self.stats.mattered(Class::BackendAway, away);
        away
    }

    fn way(&mut self) -> u64 {
        self.chances.client.log_range(MS / 10, self.params.clients.backend_delay_max)
    }

    fn gate(&self, node: usize) -> Gate {
        self.nodes[node].process.as_ref().map_or(Gate::Closed, |p| p.gate)
    }

    fn set_gate(&mut self, node: usize, gate: Gate) {
        if let Some(process) = &mut self.nodes[node].process {
            process.gate = gate;
        }
    }

    fn is_life(&self, node: usize, boot: u64) -> bool {
        self.nodes[node].process.is_some() && self.nodes[node].disk.life().boot == boot
    }

    /// After each turn: a gate closes with its token, and raises the fence for a new one.
    pub(crate) fn tend_gate(&mut self, node: usize) {
        let token = self.nodes[node].token_at(self.now);
        match (self.gate(node), token) {
            (Gate::Closed, None) => {}
            (Gate::Raising(t) | Gate::Open(t), Some(token)) if t == token => {}
            (_, None) => self.set_gate(node, Gate::Closed),
            (_, Some(token)) => {
                self.set_gate(node, Gate::Raising(token));
                let boot = self.nodes[node].disk.life().boot;
                self.raise(node, boot, token);
            }
        }
    }

    fn raise(&mut self, node: usize, boot: u64, term: Term) {
        let delay = self.way();
        self.schedule(delay, Event::Backend(Box::new(BackendEvent::Raise { node, boot, term })));
        let patience = 4 * self.params.clients.backend_delay_max + 20 * MS;
        self.schedule(patience, Event::Backend(Box::new(BackendEvent::RaiseAgain { node, boot, term })));
    }

    fn raise_again(&mut self, node: usize, boot: u64, term: Term) {
        if self.is_life(node, boot) && self.gate(node) == Gate::Raising(term) {
            self.raise(node, boot, term);
        }
    }

    fn admit(&mut self, node: usize, id: RequestId) {
        let (gate, token) = (self.gate(node), self.nodes[node].token_at(self.now));
        let Some(term) = token.filter(|term| gate == Gate::Open(*term)) else { return };
        self.stats.add(Stat::GatedWrites);
        let boot = self.nodes[node].disk.life().boot;
        let most = self.params.clients.dawdle_max;
        let delay = self.chances.client.range(0, most);
        let write = Stamped { id, node, term };
        self.schedule(delay, Event::Backend(Box::new(BackendEvent::Send { node, boot, write })));
    }

    fn send_write(&mut self, node: usize, boot: u64, write: Stamped) {
        let open = self.is_life(node, boot) && self.gate(node) == Gate::Open(write.term);
        if !open || self.nodes[node].token_at(self.now) != Some(write.term) {
            return self.stats.add(Stat::GatedWritesCutShort);
        }
        let delay = self.way();
        self.schedule(delay, Event::Backend(Box::new(BackendEvent::Write(write))));
    }

    fn on_write(&mut self, write: Stamped) {
        if self.is_away() {
            return;
        }
        match self.backend.verifier.admit(Some(write.term)) {
            Admission::Admit(ticket) => {
                self.backend.running.insert(ticket, write);
                let (takes, epoch) = (self.way(), self.backend.epoch);
                let written = BackendEvent::Written { ticket, write, epoch };
                self.schedule(takes, Event::Backend(Box::new(written)));
            }
            Admission::Refuse(Refusal::Stale { .. }) => {
                self.stats.add(Stat::GatedWritesFenced);
                self.trace.line(self.now, None, || {
                    format!("backend refuses write {} of term {}", write.id, write.term)
                });
            }
            other => self.checker.fail(format!("G2: {write:?} left before its fence was raised: {other:?}")),
        }
    }

    fn on_written(&mut self, ticket: Ticket, write: Stamped, epoch: u64) {
        if epoch != self.backend.epoch || self.backend.running.remove(&ticket).is_none() {
            return;
        }
        self.stats.add(Stat::GatedWritesAccepted);
        let leader = self.checker.leader_of(write.term);
        if leader != Some(write.node) {
            self.checker.fail(format!("I10: {write:?} is written, but {leader:?} led that term"));
        }
        if write.term < self.backend.last || write.term < self.backend.answered {
            let (last, fence) = (self.backend.last, self.backend.answered);
            self.checker
                .fail(format!("G3: {write:?} is written after term {last}, the fence stands at {fence}"));
        }
        self.backend.last = write.term;
        self.backend.verifier.end(ticket);
        self.answer_raises();
    }

    fn on_raise(&mut self, node: usize, boot: u64, term: Term) {
        if self.is_away() {
            return;
        }
        self.stats.add(Stat::Raises);
        if self.backend.verifier.begin_raise(term, Some(NodeId(node as u64 + 1))).is_err() {
            self.stats.add(Stat::RaisesRefused);
            let delay = self.way();
            return self.schedule(
                delay,
                Event::Backend(Box::new(BackendEvent::Raised { node, boot, term, done: false })),
            );
        }
        self.backend.waiting.push((node, boot, term));
        let (takes, epoch) = (self.way(), self.backend.epoch);
        self.schedule(takes, Event::Backend(Box::new(BackendEvent::Stored { term, epoch })));
        self.answer_raises();
    }

    fn on_stored(&mut self, term: Term, epoch: u64) {
        if epoch != self.backend.epoch {
            return;
        }
        if self.backend.stored.is_none_or(|fence| fence.term < term) {
            self.backend.stored = Some(Fence { term, raised_by: None });
        }
        self.backend.verifier.durable(term);
        self.answer_raises();
    }

    fn answer_raises(&mut self) {
        let current = self.backend.verifier.current();
        for (node, boot, term) in std::mem::take(&mut self.backend.waiting) {
            let done = self.backend.verifier.is_complete(term);
            if done {
                self.backend.answered = self.backend.answered.max(term);
            }
            if done || term < current {
                let delay = self.way();
                self.schedule(
                    delay,
                    Event::Backend(Box::new(BackendEvent::Raised { node, boot, term, done })),
                );
            } else {
                self.backend.waiting.push((node, boot, term));
            }
        }
    }

    fn on_raised(&mut self, node: usize, boot: u64, term: Term, done: bool) {
        if self.is_away() {
            return;
        }
        if self.is_life(node, boot) && self.gate(node) == Gate::Raising(term) {
            self.set_gate(node, if done { Gate::Open(term) } else { Gate::Closed });
        }
    }

    fn crash_backend(&mut self) {
        let stored = self.backend.stored;
        self.trace.line(self.now, None, || format!("backend crashes, fence {stored:?}"));
        self.stats.fired(Class::BackendCrash);
        self.stats.mattered(Class::BackendCrash, !self.backend.running.is_empty());
        self.backend.verifier = Verifier::new(VerifierMode::Enforced, stored);
        self.backend.running.clear();
        self.backend.waiting.clear();
        self.backend.epoch += 1;
    }
}
