//! The fenced resource: the project's own `Verifier` (or none, in drain worlds) before a ledger that
//! takes time to write, is not always reached, crashes, and may come back with an older fence. What
//! must be true of the ledger is checked as it is written.

use std::collections::BTreeMap;

use termgate::fencing::mode::FenceMode;
use termgate::fencing::rounds::{Call, Ended};
use termgate::fencing::verifier::{Admission, Fence, Refusal, Verifier, VerifierMode};
use termgate::ids::{NodeId, Term, Ticket};

use crate::clock::{MS, True};
use crate::exchange::Reply;
use crate::oracle::RequestId;
use crate::params::FencedParams;
use crate::request::RequestEvent;
use crate::rng::Rng;
use crate::stats::{Class, Stat};
use crate::truth::Truth;
use crate::world::{Event, World};

/// Answers to raises and looks that come when nobody may wait for them any more, per million.
const LATE_ANSWERS_PPM: u32 = 100_000;

/// A write on its way, as the backend sees it, and where its answer goes.
#[derive(Debug, Clone, Copy)]
pub struct Stamped {
    /// The request.
    pub id: RequestId,
    /// The node that stamped it, and in which life.
    pub node: usize,
    pub boot: u64,
    /// The stamp.
    pub term: Term,
    /// The exchange at that node.
    pub number: u64,
    /// Which life of the backend its connection leads to.
    pub epoch: u64,
    /// The process was stopped between its last look at the gate and the first byte.
    pub was_stopped: bool,
}

/// Something between a gate and the backend.
#[derive(Debug, Clone)]
pub enum BackendEvent {
    /// A write arrives.
    Write(Stamped),
    /// The ledger has written it.
    Written { ticket: Ticket, write: Stamped, epoch: u64 },
    /// A node calls the verifier.
    Call { node: usize, boot: u64, number: u64, call: Call },
    /// A raised term is durable.
    Stored { term: Term, epoch: u64 },
    /// The answer to a call arrives, or the node has waited long enough for it.
    Called { node: usize, boot: u64, number: u64, term: Term, ended: Ended },
    /// Somebody looks after a gate.
    Tend { node: usize, boot: u64 },
    /// The time for which a gate's keeper sleeps is over.
    Wake { node: usize, boot: u64, at: True },
    /// The backend crashes and is back at once, with what it had made durable.
    Crash,
    /// The backend comes back with an older fence.
    LoseFence,
    /// A node leaves: its gates drain.
    Leave,
    /// It is gone, and comes back.
    Left { node: usize, boot: u64 },
}

impl BackendEvent {
    /// The process that must run for this to be noticed.
    pub const fn process(&self) -> Option<usize> {
        match self {
            Self::Called { node, .. } | Self::Tend { node, .. } | Self::Wake { node, .. } => Some(*node),
            _ => None,
        }
    }
}

/// Who waits until a raise is complete.
#[derive(Debug)]
enum Waiting {
    /// A node that raises.
    Node { node: usize, boot: u64, number: u64, term: Term },
    /// A write that raises (implicit mode).
    Write(Stamped),
}

/// The backend and what must be true of it.
#[derive(Debug)]
pub struct Backend {
    /// Its stream of chance, and that of the way to it.
    pub rng: Rng,
    /// What clients were told.
    pub truth: Truth,
    /// Which life this is.
    pub epoch: u64,
    /// The last exchange's, call's or stream's number.
    pub last_number: u64,
    mode: VerifierMode,
    /// None in drain worlds.
    verifier: Option<Verifier>,
    /// What was made durable, oldest first.
    stored: Vec<Fence>,
    waiting: Vec<Waiting>,
    running: BTreeMap<Ticket, Stamped>,
    /// The last ticket of a backend without a verifier.
    unverified: Ticket,
    /// The highest raise that was answered, and the highest before the fence was last lost.
    answered: Term,
    lost: Term,
    /// The term of the last write in the ledger.
    last: Term,
    /// Until when nothing reaches it, and none of its answers reaches anybody.
    away_until: True,
}

impl Backend {
    /// An empty ledger; nobody asks for it where `fenced` is none.
    pub fn new(seed: u64, fenced: Option<&FencedParams>) -> Self {
        let mode = fenced.and_then(|fenced| VerifierMode::of(fenced.mode));
        Self {
            rng: Rng::stream(seed, 9),
            truth: Truth::default(),
            epoch: 0,
            last_number: 0,
            mode: mode.unwrap_or(VerifierMode::Enforced),
            verifier: mode.map(|mode| Verifier::new(mode, None)),
            stored: Vec::new(),
            waiting: Vec::new(),
            running: BTreeMap::new(),
            unverified: Ticket::ZERO,
            answered: Term::ZERO,
            lost: Term::ZERO,
            last: Term::ZERO,
            away_until: 0,
        }
    }

    /// Whether its fence stands at `term`, durably, and nothing older runs; also where there is none.
    pub fn stands_at(&self, term: Term) -> bool {
        self.verifier.as_ref().is_none_or(|verifier| verifier.is_complete(term))
    }

    /// A number that nothing else has.
    pub const fn number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }
}

impl World {
    pub(crate) fn on_backend(&mut self, event: BackendEvent) {
        match event {
            BackendEvent::Write(write) => self.on_write(write),
            BackendEvent::Written { ticket, write, epoch } => self.on_written(ticket, write, epoch),
            BackendEvent::Call { node, boot, number, call } => self.on_call(node, boot, number, call),
            BackendEvent::Stored { term, epoch } => self.on_stored(term, epoch),
            BackendEvent::Called { node, boot, number, term, ended } => {
                self.on_called(node, boot, number, term, ended);
            }
            BackendEvent::Tend { node, boot } => self.on_tend(node, boot),
            BackendEvent::Wake { node, boot, at } => self.on_gate_wake(node, boot, at),
            BackendEvent::Crash => self.crash_backend(),
            BackendEvent::LoseFence => self.lose_the_fence_again(),
            BackendEvent::Leave => self.someone_leaves(),
            BackendEvent::Left { node, boot } => self.has_left(node, boot),
        }
    }

    /// Something of the fenced resource happens, `delay` from now.
    pub(crate) fn at_backend(&mut self, delay: True, event: BackendEvent) {
        self.schedule(delay, Event::Backend(Box::new(event)));
    }

    /// The way to the backend, and back, is lost for so long.
    pub fn backend_away(&mut self, lasts: True) {
        self.backend.away_until = self.now + lasts;
    }

    /// Whether the backend is not reached now.
    pub(crate) fn is_away(&mut self) -> bool {
        let away = self.backend.away_until > self.now;
        self.stats.mattered(Class::BackendAway, away);
        away
    }

    /// How long the way to the backend, or back, takes this time.
    pub(crate) fn way(&mut self) -> True {
        self.backend.rng.log_range(MS / 10, self.params.clients.backend_delay_max)
    }

    fn on_write(&mut self, write: Stamped) {
        if self.is_away() {
            return;
        }
        if write.epoch != self.backend.epoch {
            return self.reply(write, Reply::Reset);
        }
        let Some(verifier) = &mut self.backend.verifier else {
            self.backend.unverified = self.backend.unverified.next();
            return self.carry_out(self.backend.unverified, write);
        };
        match verifier.admit(Some(write.term)) {
            Admission::RaiseFirst => self.raise_first(write),
            admission => self.on_admission(write, admission),
        }
    }

    fn on_admission(&mut self, write: Stamped, admission: Admission) {
        match admission {
            Admission::Admit(ticket) => self.carry_out(ticket, write),
            Admission::Refuse(refusal) => self.refuse(write, refusal),
            // A still higher raise came in between.
            Admission::RaiseFirst => self.refuse(write, Refusal::Stale { current: Term::ZERO }),
        }
    }

    fn carry_out(&mut self, ticket: Ticket, write: Stamped) {
        self.tla.write("write", write.number);
        self.backend.running.insert(ticket, write);
        let (takes, epoch) = (self.way(), self.backend.epoch);
        self.at_backend(takes, BackendEvent::Written { ticket, write, epoch });
    }

    /// Implicit mode: the first write of a term raises the fence, by the same steps as a raise.
    fn raise_first(&mut self, write: Stamped) {
        let by = Some(NodeId(write.node as u64 + 1));
        let Some(verifier) = &mut self.backend.verifier else { return };
        if let Err(higher) = verifier.begin_raise(write.term, by) {
            return self.refuse(write, Refusal::Stale { current: higher.current });
        }
        self.stats.add(Stat::ImplicitRaises);
        self.backend.waiting.push(Waiting::Write(write));
        self.store(write.term);
    }

    fn refuse(&mut self, write: Stamped, refusal: Refusal) {
        self.trace.line(self.now, None, || format!("backend refuses {write:?}: {refusal:?}"));
        self.stats.add(Stat::GatedWritesFenced);
        self.stats.mattered(Class::StopBeforeByte, write.was_stopped);
        // Only a backend that has lost its fence since may not know the term of an open gate.
        let known = matches!(refusal, Refusal::Stale { .. }) || write.term <= self.backend.lost;
        if self.backend.mode == VerifierMode::Enforced && !known {
            self.checker.fail(format!("G2: {write:?} left before its fence was raised: {refusal:?}"));
        }
        self.reply(write, Reply::Rejected);
    }

    fn on_written(&mut self, ticket: Ticket, write: Stamped, epoch: u64) {
        if epoch != self.backend.epoch || self.backend.running.remove(&ticket).is_none() {
            return;
        }
        self.trace.line(self.now, None, || format!("backend records {write:?}"));
        self.tla.write("written", write.number);
        self.stats.add(Stat::GatedWritesAccepted);
        self.check_record(write);
        let verdict = self.backend.truth.recorded(write.id, write.term, write.node);
        self.judge(verdict);
        self.backend.last = write.term;
        if let Some(verifier) = &mut self.backend.verifier {
            verifier.end(ticket);
        }
        self.reply(write, Reply::Recorded);
        self.answer_raises();
    }

    /// I10 and G3. A backend without a verifier promises nothing about the order of terms.
    fn check_record(&mut self, write: Stamped) {
        let leader = self.checker.leader_of(write.term);
        if leader != Some(write.node) {
            self.checker.fail(format!("I10: {write:?} is recorded, but {leader:?} led that term"));
        }
        let (last, fence) = (self.backend.last, self.backend.answered);
        if self.backend.verifier.is_some() && (write.term < last || write.term < fence) {
            self.checker
                .fail(format!("G3: {write:?} is recorded after term {last}, the fence stands at {fence}"));
        }
    }

    /// The answer to a write sets out, or is lost with the connection, at once or unnoticed.
    fn reply(&mut self, write: Stamped, reply: Reply) {
        let lost = self.params.fenced.as_ref().map_or(0, |fenced| fenced.lost_ppm);
        let lost = self.is_away() || self.backend.rng.chance(lost);
        if lost && self.backend.rng.coin() {
            return;
        }
        let reply = if lost { Reply::Reset } else { reply };
        let (delay, Stamped { node, boot, number, .. }) = (self.way(), write);
        self.at_request(delay, RequestEvent::Replied { node, boot, number, reply });
    }

    fn on_call(&mut self, node: usize, boot: u64, number: u64, call: Call) {
        if self.is_away() {
            return;
        }
        let Some(verifier) = &mut self.backend.verifier else { return };
        match call {
            Call::Look(term) => {
                self.stats.add(Stat::FencesSeen);
                let ended = Ended::Seen(Some(verifier.current()));
                self.answer_call(node, boot, number, term, ended);
            }
            Call::Raise(term) => {
                self.stats.add(Stat::Raises);
                if verifier.begin_raise(term, Some(NodeId(node as u64 + 1))).is_err() {
                    self.stats.add(Stat::RaisesRefused);
                    return self.answer_call(node, boot, number, term, Ended::NotRaised);
                }
                self.tla.fence("fence", term);
                self.backend.waiting.push(Waiting::Node { node, boot, number, term });
                self.store(term);
            }
        }
    }

    fn answer_call(&mut self, node: usize, boot: u64, number: u64, term: Term, ended: Ended) {
        let late = !self.calm && self.backend.rng.chance(LATE_ANSWERS_PPM);
        let most = if late { self.patience_with_verifier() } else { 0 };
        let delay = self.way() + self.backend.rng.range(0, most);
        self.at_backend(delay, BackendEvent::Called { node, boot, number, term, ended });
    }

    fn store(&mut self, term: Term) {
        let (takes, epoch) = (self.way(), self.backend.epoch);
        self.at_backend(takes, BackendEvent::Stored { term, epoch });
        self.answer_raises();
    }

    fn on_stored(&mut self, term: Term, epoch: u64) {
        let Some(verifier) = self.backend.verifier.as_mut().filter(|_| epoch == self.backend.epoch) else {
            return;
        };
        if self.backend.stored.last().is_none_or(|fence| fence.term < term) {
            self.backend.stored.push(Fence { term, raised_by: None });
        }
        self.tla.fence("stored", term);
        verifier.durable(term);
        self.answer_raises();
    }

    fn answer_raises(&mut self) {
        for waiting in std::mem::take(&mut self.backend.waiting) {
            let term = match &waiting {
                Waiting::Node { term, .. } => *term,
                Waiting::Write(write) => write.term,
            };
            let Some(verifier) = &mut self.backend.verifier else { return };
            let done = verifier.is_complete(term);
            if !done && term >= verifier.current() {
                self.backend.waiting.push(waiting);
                continue;
            }
            if done {
                let again = self.backend.answered < term && term <= self.backend.lost;
                self.stats.mattered(Class::FenceLoss, again);
                self.backend.answered = self.backend.answered.max(term);
                self.tla.fence("raised", term);
            }
            match waiting {
                Waiting::Node { node, boot, number, term } => {
                    let ended = if done { Ended::Raised } else { Ended::NotRaised };
                    self.answer_call(node, boot, number, term, ended);
                }
                Waiting::Write(write) => {
                    let admission = verifier.admit(Some(write.term));
                    self.on_admission(write, admission);
                }
            }
        }
    }

    fn crash_backend(&mut self) {
        self.stats.fired(Class::BackendCrash);
        self.stats.mattered(Class::BackendCrash, !self.backend.running.is_empty());
        self.tla.resource_crash();
        self.restart_backend();
    }

    /// All connections break; what was durable is there.
    fn restart_backend(&mut self) {
        let stored = self.backend.stored.last().copied();
        self.trace.line(self.now, None, || format!("backend starts again, fence {stored:?}"));
        if self.backend.verifier.is_some() {
            self.backend.verifier = Some(Verifier::new(self.backend.mode, stored));
        }
        self.backend.waiting.clear();
        self.backend.epoch += 1;
        for write in std::mem::take(&mut self.backend.running).into_values() {
            self.reply(write, Reply::Reset);
        }
    }

    /// A replica is promoted, or a copy restored, whose fence stands lower: until it is raised again, an
    /// older leader's writes may be let in.
    pub(crate) fn lose_fence(&mut self) {
        if self.backend.stored.is_empty() {
            return;
        }
        self.stats.fired(Class::FenceLoss);
        let kept = self.backend.rng.below(self.backend.stored.len() as u64) as usize;
        self.backend.stored.truncate(kept);
        self.backend.lost = self.backend.lost.max(self.backend.answered);
        let stands = self.backend.stored.last().map_or(Term::ZERO, |fence| fence.term);
        (self.backend.answered, self.backend.last) = (stands, stands);
        self.restart_backend();
    }

    fn lose_the_fence_again(&mut self) {
        if self.calm {
            return;
        }
        self.lose_fence();
        self.plan_loss();
    }

    /// The next loss of the fence, in worlds that have it.
    pub(crate) fn plan_loss(&mut self) {
        let gap =
            self.params.fenced.as_ref().filter(|f| f.mode != FenceMode::Drain).map_or(0, |f| f.loss_gap);
        if gap > 0 {
            let gap = self.backend.rng.range(gap / 4, gap * 2);
            self.at_backend(gap, BackendEvent::LoseFence);
        }
    }
}
