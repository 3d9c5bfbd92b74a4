//! The clients: they write, compare and set, and read in two ways, at any node, and remember what
//! they were told.

use termgate::driver::cycle::Answered;
use termgate::driver::handle::Refused;
use termgate::ids::{LogIndex, NodeId, Term, Ticket};
use termgate::raft::effect::{Change, Input, TransferRefusal};
use termgate::registry::command::{Condition, Op};

use crate::clock::{MS, True};
use crate::lin::history::Freshness;
use crate::oracle::{RequestId, Versioned, value_of};
use crate::stats::{Class, Stat};
use crate::turn::Turn;
use crate::world::{Event, World};

/// Few, so that requests meet.
pub const KEYS: [&str; 4] = ["a", "b", "c", "d"];

/// What a read must reach, and since when it is under way.
#[derive(Debug, Clone, Copy)]
pub struct Floor {
    pub index: LogIndex,
    pub called: True,
}

/// What a client asks a node.
#[derive(Debug, Clone)]
pub enum Request {
    /// Change a key.
    Write { id: RequestId, op: Op },
    /// Read a key after a quorum round.
    Read { key: &'static str, floor: Floor },
    /// Read a key under the lease.
    LeaseRead { key: &'static str, floor: Floor },
    /// Move leadership.
    Transfer { to: Option<NodeId> },
    /// Change the membership.
    Reconfigure { change: Box<Change> },
}

/// What was seen in the state machine.
#[derive(Debug, Clone)]
pub struct Sight {
    key: &'static str,
    floor: Floor,
    index: LogIndex,
    found: Option<(LogIndex, bytes::Bytes)>,
}

/// Something of a client that is on its way.
#[derive(Debug, Clone)]
pub enum ClientEvent {
    /// The next request is due.
    Next,
    /// A request arrives.
    Arrive { node: usize, request: Request },
    /// A handler that has decided on a write reaches the loop.
    Propose { node: usize, boot: u64, decided_in: Term, op: Op, ticket: Ticket },
    /// A lease read looks at the state.
    LeaseLook { node: usize, boot: u64, token: Term, committed: LogIndex, key: &'static str, floor: Floor },
    /// After a look at the state: does the lease still hold?
    LeaseCheck { node: usize, boot: u64, token: Term, sight: Sight },
    /// A confirmed read looks at the state.
    Look { node: usize, boot: u64, key: &'static str, floor: Floor, point: LogIndex },
}

impl ClientEvent {
    /// The process that must run for this to be noticed.
    pub const fn process(&self) -> Option<usize> {
        match self {
            Self::Next => None,
            Self::Arrive { node, .. }
            | Self::Propose { node, .. }
            | Self::LeaseLook { node, .. }
            | Self::LeaseCheck { node, .. }
            | Self::Look { node, .. } => Some(*node),
        }
    }
}

/// Who waits for an answer of a node.
#[derive(Debug, Clone)]
pub enum Waiter {
    /// A write.
    Write(RequestId),
    /// A linearizable read.
    Read { key: &'static str, floor: Floor },
    /// A transfer.
    Transfer,
    /// A change of the membership.
    Reconfigure(Box<Change>),
}

impl World {
    pub(crate) fn on_client(&mut self, event: ClientEvent) {
        match event {
            ClientEvent::Next if self.calm => {}
            ClientEvent::Next => {
                self.ask_something();
                let gap = self.params.clients.mean_gap * 2;
                let gap = self.chances.client.range(gap / 10, gap);
                self.schedule(gap, Event::Client(Box::new(ClientEvent::Next)));
            }
            ClientEvent::Arrive { node, request } => self.on_request(node, request),
            ClientEvent::Propose { node, boot, decided_in, op, ticket } => {
                if self.running(node, boot).is_some() {
                    self.turn(node, Turn::Propose(decided_in, op, ticket));
                }
            }
            ClientEvent::LeaseLook { node, boot, token, committed, key, floor } => {
                if self.nodes[node].disk.life().boot == boot {
                    self.look_under_lease(node, token, committed, key, floor);
                }
            }
            ClientEvent::LeaseCheck { node, boot, token, sight } => {
                self.on_lease_check(node, boot, token, &sight)
            }
            ClientEvent::Look { node, boot, key, floor, point } => {
                self.on_look(node, boot, key, floor, point)
            }
        }
    }

    fn ask_something(&mut self) {
        let weights = self.params.clients.weights;
        let sum: u32 = weights.iter().sum();
        let mut left = self.chances.client.below(u64::from(sum)) as u32;
        let mut kind = 0;
        while left >= weights[kind] {
            left -= weights[kind];
            kind += 1;
        }
        let leader = self.leader().filter(|_| self.chances.client.chance(600_000));
        let anyone = self.chances.client.below(self.nodes.len() as u64) as usize;
        let node = leader.unwrap_or(anyone);
        match kind {
            0 => self.ask_put(node, false),
            1 => self.ask_put(node, true),
            2 => self.ask_read(node),
            3 => self.ask_lease_read(node),
            _ if self.backend.rng.coin() => self.ask_fenced(node),
            _ => {}
        }
    }

    fn key(&mut self) -> &'static str {
        self.chances.client.pick(&KEYS)
    }

    /// A new request's number.
    pub const fn next_request(&mut self) -> RequestId {
        self.last_request += 1;
        self.last_request
    }

    /// A client sends a write to `node`.
    pub fn ask_put(&mut self, node: usize, conditional: bool) {
        let (id, key) = (self.next_request(), self.key());
        let condition = if conditional { self.condition(key) } else { Condition::None };
        if let Condition::VersionIs(version) = condition {
            self.oracle.versioned(id, Versioned { key, version, first: id });
        }
        self.send_put(node, id, key, condition);
    }

    fn send_put(&mut self, node: usize, id: RequestId, key: &str, condition: Condition) {
        self.oracle.asked(id);
        self.history.asked(node, id, key, condition, self.now);
        self.stats.add(Stat::Writes);
        let op = Op::Put { key: key.to_owned(), value: value_of(id), condition };
        self.arrive(node, Request::Write { id, op });
    }

    /// Nobody knows what became of a write; a client that may sends it again, to anybody.
    fn send_again(&mut self, unknown: RequestId) {
        let Some(again) = self.oracle.repeatable(unknown).cloned().filter(|_| !self.calm) else { return };
        if self.chances.client.chance(300_000) {
            return;
        }
        let id = self.next_request();
        self.stats.add(Stat::Retries);
        let repeated = self.oracle.took_effect(again.first);
        self.stats.add_many(Stat::RetriesRepeated, u64::from(repeated));
        let (key, condition) = (again.key, Condition::VersionIs(again.version));
        self.oracle.versioned(id, again);
        let node = self.chances.client.below(self.nodes.len() as u64) as usize;
        self.send_put(node, id, key, condition);
    }

    fn condition(&mut self, key: &str) -> Condition {
        let known = self.oracle.at(key, self.committed()).map_or(LogIndex(1), |(version, _)| version);
        match self.chances.client.below(5) {
            0 => Condition::Absent,
            1 => Condition::Exists,
            2 => Condition::VersionIsNot(known),
            _ => Condition::VersionIs(known),
        }
    }

    /// The floor of a read that begins now.
    pub fn floor(&self) -> Floor {
        Floor { index: self.oracle.watermark(), called: self.now }
    }

    /// A client sends a linearizable read to `node`.
    pub fn ask_read(&mut self, node: usize) {
        self.stats.add(Stat::Reads);
        let request = Request::Read { key: self.key(), floor: self.floor() };
        self.arrive(node, request);
    }

    /// A client sends a lease read to `node`.
    pub fn ask_lease_read(&mut self, node: usize) {
        self.stats.add(Stat::LeaseReads);
        let request = Request::LeaseRead { key: self.key(), floor: self.floor() };
        self.arrive(node, request);
    }

    /// Somebody wants leadership moved.
    pub fn ask_transfer(&mut self, node: usize, to: Option<NodeId>) {
        self.stats.fired(Class::Transfer);
        self.arrive(node, Request::Transfer { to });
    }

    /// A request is on its way to `node`.
    pub fn arrive(&mut self, node: usize, request: Request) {
        let delay = self.chances.client.range(0, MS);
        self.schedule(delay, Event::Client(Box::new(ClientEvent::Arrive { node, request })));
    }

    /// A request is taken by `node`.
    pub fn on_request(&mut self, node: usize, request: Request) {
        if self.nodes[node].process.is_none() {
            return self.not_there(request);
        }
        match request {
            Request::LeaseRead { key, floor } => self.ask_for_lease(node, key, floor),
            Request::Write { id, op } => {
                if let Some(ticket) = self.register(node, Waiter::Write(id)) {
                    self.decide(node, op, ticket);
                }
            }
            Request::Read { key, floor } => {
                if let Some(ticket) = self.register(node, Waiter::Read { key, floor }) {
                    self.turn(node, Input::Read { ticket });
                }
            }
            Request::Transfer { to } => {
                if let Some(ticket) = self.register(node, Waiter::Transfer) {
                    self.turn(node, Input::Transfer { ticket, to });
                }
            }
            Request::Reconfigure { change } => self.take_change(node, *change),
        }
    }

    /// A write is decided in the term that the handler sees. It may be held up before it reaches the loop,
    /// which may have been deposed and elected anew by then (P1).
    fn decide(&mut self, node: usize, op: Op, ticket: Ticket) {
        let Some(process) = &self.nodes[node].process else { return };
        let decided_in = process.leadership.term;
        match self.dawdle() {
            0 => self.turn(node, Turn::Propose(decided_in, op, ticket)),
            delay => {
                let boot = self.nodes[node].disk.life().boot;
                let propose = ClientEvent::Propose { node, boot, decided_in, op, ticket };
                self.schedule(delay, Event::Client(Box::new(propose)));
            }
        }
    }

    /// The connection was refused.
    fn not_there(&mut self, request: Request) {
        if let Request::Write { id, .. } = request {
            self.history.refused(id, self.now);
            let verdict = self.oracle.refused(id, &Refused::Closed);
            self.judge(verdict);
        }
    }

    /// A stopped process ended without having seen this.
    pub(crate) fn never_noticed(&mut self, event: Event) {
        if let Event::Client(event) = event
            && let ClientEvent::Arrive { request, .. } = *event
        {
            self.not_there(request);
        }
    }

    /// The process ended while this caller waited.
    pub(crate) fn abandon(&mut self, waiter: Waiter) {
        if let Waiter::Write(id) = waiter {
            self.stats.add(Stat::WritesUnknown);
            let verdict = self.oracle.unknown(id);
            self.judge(verdict);
            self.send_again(id);
        }
    }

    pub(crate) fn on_answer(&mut self, node: usize, waiter: Waiter, answered: Answered) {
        self.trace.line(self.now, Some(node), || format!("   answer {waiter:?}: {answered:?}"));
        match waiter {
            Waiter::Write(id) => self.on_write_answer(id, &answered),
            Waiter::Read { key, floor } => self.on_read_answer(node, key, floor, &answered),
            Waiter::Transfer => self.on_transfer_answer(&answered),
            Waiter::Reconfigure(change) => self.on_reconfigure_answer(&change, &answered),
        }
    }

    fn on_write_answer(&mut self, id: RequestId, answered: &Answered) {
        let (stat, verdict) = match answered {
            Answered::Applied(applied) => {
                let failed =
                    matches!(applied.answer, termgate::registry::command::Answer::ConditionFailed { .. });
                self.stats.add_many(Stat::CasFailed, u64::from(failed));
                self.history.acked(id, applied, self.now);
                (Stat::WritesAcked, self.oracle.acked(id, applied))
            }
            Answered::Refused(Refused::Unknown) => (Stat::WritesUnknown, self.oracle.unknown(id)),
            Answered::Refused(why) => {
                self.history.refused(id, self.now);
                (Stat::WritesRefused, self.oracle.refused(id, why))
            }
            other => (Stat::WritesUnknown, Err(format!("write {id} is answered with {other:?}"))),
        };
        self.stats.add(stat);
        self.judge(verdict);
        if matches!(answered, Answered::Refused(Refused::Unknown)) {
            self.send_again(id);
        }
    }

    fn on_read_answer(&mut self, node: usize, key: &'static str, floor: Floor, answered: &Answered) {
        match answered {
            Answered::Read(point) => {
                if point.index < floor.index {
                    let (who, floor) = (node + 1, floor.index);
                    let text = format!("I8: node {who} reads at {}, {floor} was seen before", point.index);
                    self.checker.fail(text);
                }
                self.stats.add(Stat::ReadsServed);
                self.stats.add_many(Stat::ReadsOnFollower, u64::from(!self.nodes[node].is_leader()));
                let boot = self.nodes[node].disk.life().boot;
                let delay = self.dawdle();
                let look = ClientEvent::Look { node, boot, key, floor, point: point.index };
                self.schedule(delay, Event::Client(Box::new(look)));
            }
            Answered::Refused(_) => self.stats.add(Stat::ReadsRefused),
            other => self.checker.fail(format!("a read is answered with {other:?}")),
        }
    }

    fn on_transfer_answer(&mut self, answered: &Answered) {
        match answered {
            Answered::Transferred(moved) => {
                self.stats.mattered(Class::Transfer, true);
                let leads = self.checker.leader_of(moved.term);
                if leads != Some(moved.to.0 as usize - 1) || moved.term <= moved.from_term {
                    self.checker.fail(format!("{moved:?} is not true: {leads:?} led that term"));
                }
            }
            Answered::Refused(Refused::Transfer(TransferRefusal::TimedOut)) => {
                self.stats.add(Stat::TransfersTimedOut);
            }
            _ => {}
        }
    }

    /// How long a handler is stopped between two of its own lines.
    fn dawdle(&mut self) -> u64 {
        let most = self.params.clients.dawdle_max;
        if most > 0 && self.chances.client.chance(300_000) { self.chances.client.range(0, most) } else { 0 }
    }

    fn sight(&self, node: usize, key: &'static str, floor: Floor) -> Option<Sight> {
        let process = self.nodes[node].process.as_ref()?;
        let machine = process.machine.read().expect("nobody panics while applying");
        let found = machine.key(key).map(|v| (v.version, v.value.clone()));
        Some(Sight { key, floor, index: machine.applied().index, found })
    }

    fn on_look(&mut self, node: usize, boot: u64, key: &'static str, floor: Floor, point: LogIndex) {
        if self.nodes[node].disk.life().boot != boot {
            return;
        }
        let Some(sight) = self.sight(node, key, floor) else { return };
        if sight.index < point {
            self.checker.fail(format!(
                "node {} confirms a read at {point}, applied {}",
                node + 1,
                sight.index
            ));
        }
        self.note_read(node, &sight, Freshness::Linearizable);
        self.saw(node, &sight);
    }

    fn note_read(&mut self, node: usize, sight: &Sight, freshness: Freshness) {
        let times = (sight.floor.called, self.now);
        self.history.saw(node, times, freshness, (sight.key, sight.index, sight.found.as_ref()));
    }

    /// A lease read asks for the token, looks, and asks again, and may be stopped between any two
    /// of these. The second question is for a lease that ended meanwhile (M22), the first for one
    /// that began meanwhile: a look as a follower is stale however good the token after it is.
    fn ask_for_lease(&mut self, node: usize, key: &'static str, floor: Floor) {
        let Some(token) = self.nodes[node].token_at(self.now) else { return };
        let Some(process) = &self.nodes[node].process else { return };
        let committed = process.leadership.commit_index;
        let boot = self.nodes[node].disk.life().boot;
        let delay = self.dawdle();
        let look = ClientEvent::LeaseLook { node, boot, token, committed, key, floor };
        self.schedule(delay, Event::Client(Box::new(look)));
    }

    fn look_under_lease(
        &mut self,
        node: usize,
        token: Term,
        committed: LogIndex,
        key: &'static str,
        floor: Floor,
    ) {
        let boot = self.nodes[node].disk.life().boot;
        let Some(sight) = self.sight(node, key, floor) else { return };
        if sight.index < committed {
            return self.stats.add(Stat::LeaseReadsBehind);
        }
        let delay = self.dawdle();
        let check = ClientEvent::LeaseCheck { node, boot, token, sight };
        self.schedule(delay, Event::Client(Box::new(check)));
    }

    fn on_lease_check(&mut self, node: usize, boot: u64, token: Term, sight: &Sight) {
        if self.nodes[node].disk.life().boot != boot || self.nodes[node].token_at(self.now) != Some(token) {
            return self.stats.add(Stat::LeaseReadsRefused);
        }
        self.stats.add(Stat::LeaseReadsServed);
        // With clocks beyond their bound a lease read may be stale; it then proves nothing.
        if self.params.clocks_in_bound {
            self.note_read(node, sight, Freshness::Lease);
            if sight.index < sight.floor.index {
                let text = format!(
                    "I9: node {} serves a lease read at {} after {}",
                    node + 1,
                    sight.index,
                    sight.floor.index
                );
                self.checker.fail(text);
            }
            self.saw(node, sight);
        } else {
            self.note_read(node, sight, Freshness::Stale { min_index: 0 });
        }
    }

    /// A client saw something: it is what the committed log says, and nobody may see less later.
    fn saw(&mut self, node: usize, sight: &Sight) {
        let expected = self.oracle.at(sight.key, sight.index);
        if expected != sight.found {
            let (key, index) = (sight.key, sight.index);
            let text =
                format!("node {} shows {key} = {:?} at {index}, not {expected:?}", node + 1, sight.found);
            self.checker.fail(text);
        }
        self.oracle.show(sight.index);
    }
}
