//! The leader's side of a request: admitted by the gate, a connection to the backend, the last look at
//! the gate, the bytes, and what the end of it means. Every decision is the proxy's own; here is what may
//! happen between any two of them.

use termgate::fencing::passage::{self, Broken, Concluded, Stamp};
use termgate::ids::Term;
use termgate::problem::Kind;
use termgate::proxy::ingress::refusal;
use termgate::proxy::job::NotStarted;
use termgate::proxy::lead;

use crate::backend::{BackendEvent, Stamped};
use crate::hop::{HopMessage, Said, Stream};
use crate::oracle::RequestId;
use crate::request::{Attempt, IS_WRITE, RequestEvent, told};
use crate::stats::{Class, Stat};
use crate::truth::Told;
use crate::world::World;

/// Bytes of a request; how many is all the same.
const BYTES: u64 = 100;

/// For whom a request is served.
#[derive(Debug, Clone)]
pub enum Caller {
    /// A client of this node.
    Here(RequestId),
    /// Another node, that has sent the content along.
    There(Stream),
    /// Another node, that withholds it.
    Withheld(Stream),
}

impl Caller {
    /// Another node.
    pub const fn there(stream: Stream, eager: bool) -> Self {
        if eager { Self::There(stream) } else { Self::Withheld(stream) }
    }

    const fn id(&self) -> RequestId {
        match self {
            Self::Here(id) => *id,
            Self::There(stream) | Self::Withheld(stream) => stream.id,
        }
    }
}

/// What the backend's end of a connection says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    /// It is done.
    Recorded,
    /// The verifier refuses the stamp.
    Rejected,
    /// The connection broke.
    Reset,
}

/// One request with the backend, or on its way there.
#[derive(Debug)]
pub struct Exchange {
    /// For whom.
    pub caller: Caller,
    /// What it was admitted under.
    pub term: Term,
    reused: bool,
    is_again: bool,
    epoch: u64,
    written: u64,
    was_stopped: bool,
}

impl World {
    /// A request passes the gate, or is given back.
    pub(crate) fn take_in(&mut self, node: usize, caller: Caller) {
        let said = self.ask_gate(node);
        let Some((_, leadership, now)) = self.edge(node) else { return };
        let leads = leadership.token_at(now).is_some();
        match passage::stamp(said, !IS_WRITE, leads) {
            Stamp::With(term) => self.check_out(node, caller, term, false),
            Stamp::FenceNotRaised => self.give_back(node, caller, NotStarted::FenceNotRaised),
            Stamp::GateClosed => self.give_back(node, caller, NotStarted::GateClosed),
            Stamp::Without => self.checker.fail("G2: a write is served without a stamp"),
        }
    }

    fn give_back(&mut self, node: usize, caller: Caller, why: NotStarted) {
        self.conclude(node, caller, Attempt::NotStarted(why));
    }

    /// A connection to the backend: one that was used before, or a new one.
    fn check_out(&mut self, node: usize, caller: Caller, term: Term, is_again: bool) {
        let Some(fenced) = &self.params.fenced else { return };
        let reused = !is_again && self.backend.rng.chance(fenced.reused_ppm);
        let (number, boot) = (self.backend.number(), self.nodes[node].disk.life().boot);
        let epoch = self.backend.epoch;
        let exchange = Exchange { caller, term, reused, is_again, epoch, written: 0, was_stopped: false };
        let Some((edge, ..)) = self.edge(node) else { return };
        edge.exchanges.insert(number, exchange);
        self.stats.add(Stat::GatedWrites);
        let takes = if reused { 0 } else { self.way() };
        self.at_request(takes, RequestEvent::CheckedOut { node, boot, number });
    }

    fn exchange(&mut self, node: usize, boot: u64, number: u64) -> Option<&mut Exchange> {
        self.edge_of(node, boot)?.0.exchanges.get_mut(&number)
    }

    pub(crate) fn on_checked_out(&mut self, node: usize, boot: u64, number: u64) {
        let epoch = self.backend.epoch;
        let Some(exchange) = self.exchange(node, boot, number) else { return };
        if !exchange.reused {
            exchange.epoch = epoch;
            if self.is_away() {
                return self.end_exchange(node, number, Attempt::Ended(told(Kind::BackendUnavailable)));
            }
        }
        let Some(exchange) = self.exchange(node, boot, number) else { return };
        match exchange.caller {
            Caller::Withheld(stream) if !exchange.is_again => {
                self.carry(HopMessage { stream, said: Said::Go });
                self.give_up_later(node, boot, number);
            }
            _ => self.go_on_to_send(node, boot, number),
        }
    }

    fn give_up_later(&mut self, node: usize, boot: u64, number: u64) {
        let patience = self.params.fenced.as_ref().map_or(0, |fenced| fenced.answer_timeout);
        self.at_request(patience, RequestEvent::GiveUp { node, boot, number });
    }

    /// What the leader waited for has come.
    pub(crate) fn on_content(&mut self, node: usize, stream: &Stream) {
        let boot = stream.leader.1;
        let Some((edge, ..)) = self.edge(node) else { return };
        let waits = |caller: &Caller| matches!(caller, Caller::Withheld(s) if s.number == stream.number);
        let found = edge.exchanges.iter_mut().find(|(_, exchange)| waits(&exchange.caller));
        if let Some((number, exchange)) = found {
            exchange.caller = Caller::There(*stream);
            let number = *number;
            self.go_on_to_send(node, boot, number);
        }
    }

    fn go_on_to_send(&mut self, node: usize, boot: u64, number: u64) {
        let delay = self.held_up();
        self.at_request(delay, RequestEvent::FirstByte { node, boot, number });
    }

    /// How long a handler is stopped between two of its own lines.
    fn held_up(&mut self) -> u64 {
        let most = self.params.clients.dawdle_max;
        if most > 0 && self.backend.rng.chance(300_000) { self.backend.rng.range(0, most) } else { 0 }
    }

    /// The last look at the gate. The process may be stopped right behind it.
    pub(crate) fn on_first_byte(&mut self, node: usize, boot: u64, number: u64) {
        let Some((edge, leadership, now)) = self.edge_of(node, boot) else { return };
        let Some(exchange) = edge.exchanges.get(&number) else { return };
        let (term, token) = (exchange.term, leadership.token_at(now));
        let look = || passage::permit_holds(edge.gate.admit(leadership, now), term);
        if !passage::may_write(exchange.written, Some(look)) {
            self.stats.add(Stat::GatedWritesCutShort);
            return self.broke(node, number, false);
        }
        if token != Some(term) {
            self.checker
                .fail(format!("G2: node {} sends a write of {term}, its token is {token:?}", node + 1));
        }
        self.tla.stamp(node, now, number);
        let stop = self.params.fenced.as_ref().map_or(0, |fenced| fenced.stop_ppm);
        if !self.calm && self.backend.rng.chance(stop) {
            self.stop_before_the_byte(node, boot, number);
        }
        let delay = self.held_up();
        self.at_request(delay, RequestEvent::Leave { node, boot, number });
    }

    fn stop_before_the_byte(&mut self, node: usize, boot: u64, number: u64) {
        self.stats.fired(Class::StopBeforeByte);
        let most = 4 * self.election();
        let lasts = self.backend.rng.log_range(most / 50, most);
        self.pause(node, lasts);
        if let Some(exchange) = self.exchange(node, boot, number) {
            exchange.was_stopped = true;
        }
    }

    /// The bytes leave, whatever has become of the gate.
    pub(crate) fn on_leave(&mut self, node: usize, boot: u64, number: u64) {
        let closed = self.params.fenced.as_ref().map_or(0, |fenced| fenced.closed_ppm);
        let (closed, unnoticed) = (self.backend.rng.chance(closed), self.backend.rng.coin());
        let Some(exchange) = self.exchange(node, boot, number) else { return };
        let closed = closed && exchange.reused;
        if closed && !unnoticed {
            return self.broke(node, number, false);
        }
        exchange.written = BYTES;
        let (id, term, epoch, was_stopped) =
            (exchange.caller.id(), exchange.term, exchange.epoch, exchange.was_stopped);
        let delay = self.way();
        if closed {
            self.at_request(delay, RequestEvent::Replied { node, boot, number, reply: Reply::Reset });
        } else {
            let write = Stamped { id, node, boot, term, number, epoch, was_stopped };
            self.at_backend(delay, BackendEvent::Write(write));
        }
        self.give_up_later(node, boot, number);
    }

    /// No answer came in time; or no content, and then nothing was started.
    pub(crate) fn on_give_up(&mut self, node: usize, boot: u64, number: u64) {
        let Some(exchange) = self.exchange(node, boot, number) else { return };
        if exchange.written > 0 {
            return self.broke(node, number, true);
        }
        if let Caller::Withheld(stream) = exchange.caller {
            self.remove(node, number);
            self.carry(HopMessage { stream, said: Said::NotStarted });
        }
    }

    /// In drain worlds the exchange ends with the lease: nothing else keeps its write away.
    pub(crate) fn cut_off(&mut self, node: usize, number: u64) {
        let boot = self.nodes[node].disk.life().boot;
        if let Some(exchange) = self.exchange(node, boot, number)
            && !matches!(exchange.caller, Caller::Withheld(_))
        {
            exchange.reused = false;
            self.stats.add(Stat::DrainCutOff);
            self.broke(node, number, false);
        }
    }

    pub(crate) fn on_replied(&mut self, node: usize, boot: u64, number: u64, reply: Reply) {
        let Some((edge, leadership, now)) = self.edge_of(node, boot) else { return };
        let Some(exchange) = edge.exchanges.get(&number) else { return };
        if reply == Reply::Reset {
            return self.broke(node, number, false);
        }
        let (term, refused) = (exchange.term, reply == Reply::Rejected);
        match passage::conclude(refused, !IS_WRITE, Some(term), leadership.token_at(now)) {
            Concluded::Fenced(term) => {
                edge.gate.on_refused(term, now);
                self.wake_keeper(node);
                self.end_exchange(node, number, Attempt::NotStarted(NotStarted::Fenced));
            }
            Concluded::NotConfirmed => self.checker.fail("a write is taken for a read"),
            Concluded::Answered => {
                self.end_exchange(node, number, Attempt::Ended(Told::Acknowledged { term, node }));
            }
        }
    }

    /// The exchange broke: once more on a new connection, or its end.
    fn broke(&mut self, node: usize, number: u64, timed_out: bool) {
        let Some((edge, leadership, now)) = self.edge(node) else { return };
        let Some(exchange) = edge.exchanges.get(&number) else { return };
        let holds = passage::permit_holds(edge.gate.admit(leadership, now), exchange.term);
        let (reused, is_again) = (exchange.reused, exchange.is_again);
        let broken = Broken { written: exchange.written, reused, timed_out };
        self.trace.line(self.now, Some(node), || format!("   exchange {number} broke: {broken:?}, {holds}"));
        if !is_again && passage::may_resend(broken, IS_WRITE, true, holds) {
            self.stats.add(Stat::ExchangesRepeated);
            if let Some(Exchange { caller, term, .. }) = self.remove(node, number) {
                self.check_out(node, caller, term, true);
            }
            return;
        }
        let attempt = match lead::told(passage::fate(broken, IS_WRITE, holds)) {
            None => Attempt::NotStarted(NotStarted::GateClosed),
            Some(kind) => Attempt::Ended(told(kind)),
        };
        self.end_exchange(node, number, attempt);
    }

    fn remove(&mut self, node: usize, number: u64) -> Option<Exchange> {
        self.edge(node)?.0.exchanges.remove(&number)
    }

    fn end_exchange(&mut self, node: usize, number: u64, attempt: Attempt) {
        if let Some(Exchange { caller, .. }) = self.remove(node, number) {
            self.conclude(node, caller, attempt);
        }
    }

    /// Says what came of it to whoever asked.
    fn conclude(&mut self, node: usize, caller: Caller, attempt: Attempt) {
        let stream = match caller {
            Caller::Here(id) => return self.end_attempt(node, id, attempt),
            Caller::There(stream) | Caller::Withheld(stream) => stream,
        };
        let said = match attempt {
            Attempt::Ended(told) => Said::Told(told),
            Attempt::NotStarted(why) => Said::Refused(refusal(&why)),
        };
        self.carry(HopMessage { stream, said });
    }
}
