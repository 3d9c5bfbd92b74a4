//! A request for the fenced resource, at the node that its client asked: it looks for the leader, is
//! held while there is none, is served there or given to another node, and tried again as long as it
//! certainly had no effect. What its client is told in the end is for `truth` to judge.

use termgate::fencing::gate::GateState;
use termgate::fencing::passage;
use termgate::hop::error::HopError;
use termgate::ids::{NodeId, Term};
use termgate::problem::{Kind, Outcome};
use termgate::proxy::hold::{Pause, Way};
use termgate::proxy::job::NotStarted;
use termgate::time::Duration;

use crate::clock::{MS, True};
use crate::exchange::{Caller, Reply};
use crate::gate::Edge;
use crate::hop::HopMessage;
use crate::oracle::RequestId;
use crate::stats::Stat;
use crate::truth::Told;
use crate::world::{Event, World};

/// Everything here is a write.
pub const IS_WRITE: bool = true;

/// One request at the node of its client.
#[derive(Debug)]
pub struct Job {
    /// Where it is.
    pub stage: Stage,
    /// Who led, and how the gate stood, when the last attempt ended.
    pub before: ((Option<NodeId>, Term), GateState),
    /// Until when it is tried.
    deadline: True,
    pause: Pause,
    /// Counts stages; a timer of an older one means nothing.
    step: u64,
}

/// Where a request is.
#[derive(Debug)]
pub enum Stage {
    /// Nobody leads.
    Held,
    /// An attempt had no effect; the next one is not due yet.
    Pausing,
    /// This node serves it.
    Here,
    /// Another node has it.
    There(Talk),
}

/// An attempt at another node.
#[derive(Debug, Clone, Copy)]
pub struct Talk {
    /// Which, and in which term it was chosen.
    pub to: NodeId,
    pub term: Term,
    /// The number of the stream.
    pub stream: u64,
    /// Whether it can have got enough of the request to send it on.
    pub released: bool,
    /// Whether another one leads by now.
    pub is_replaced: bool,
}

/// How an attempt ended.
#[derive(Debug, Clone)]
pub enum Attempt {
    /// For good.
    Ended(Told),
    /// Without any effect.
    NotStarted(NotStarted),
}

/// Something on the way of a request.
#[derive(Debug, Clone)]
pub enum RequestEvent {
    /// It arrives from its client.
    Arrive { node: usize, id: RequestId },
    /// A stage has lasted as long as it may.
    Over { node: usize, boot: u64, id: RequestId, step: u64 },
    /// The true answer of a leader that was replaced did not come.
    Late { node: usize, boot: u64, id: RequestId, step: u64 },
    /// The leader has a connection to the backend, or none can be had.
    CheckedOut { node: usize, boot: u64, number: u64 },
    /// The first byte is about to leave: the last look at the gate.
    FirstByte { node: usize, boot: u64, number: u64 },
    /// It leaves.
    Leave { node: usize, boot: u64, number: u64 },
    /// The leader waits no longer.
    GiveUp { node: usize, boot: u64, number: u64 },
    /// The backend's answer arrives.
    Replied { node: usize, boot: u64, number: u64, reply: Reply },
    /// Something arrives over the hop.
    Carried(HopMessage),
    /// It is sent once more.
    Again(HopMessage),
    /// The stream of a forwarded request broke.
    Lost { node: usize, boot: u64, id: RequestId, stream: u64, error: HopError },
}

impl RequestEvent {
    /// The process that must run for this to be noticed.
    pub const fn process(&self) -> Option<usize> {
        match self {
            Self::Arrive { node, .. } | Self::Over { node, .. } | Self::Late { node, .. } => Some(*node),
            Self::CheckedOut { node, .. } | Self::FirstByte { node, .. } | Self::Leave { node, .. } => {
                Some(*node)
            }
            Self::GiveUp { node, .. } | Self::Replied { node, .. } | Self::Lost { node, .. } => Some(*node),
            Self::Carried(message) => Some(message.to()),
            Self::Again(_) => None,
        }
    }
}

/// What a problem of this kind says of a write.
pub const fn told(kind: Kind) -> Told {
    match kind.outcome() {
        Some(Outcome::NotApplied) => Told::NotApplied,
        _ => Told::Unknown,
    }
}

impl World {
    pub(crate) fn on_request_event(&mut self, event: RequestEvent) {
        match event {
            RequestEvent::Arrive { node, id } => self.on_fenced_request(node, id),
            RequestEvent::Over { node, boot, id, step } => self.on_stage_over(node, boot, id, step),
            RequestEvent::Late { node, boot, id, step } => self.on_late(node, boot, id, step),
            RequestEvent::CheckedOut { node, boot, number } => self.on_checked_out(node, boot, number),
            RequestEvent::FirstByte { node, boot, number } => self.on_first_byte(node, boot, number),
            RequestEvent::Leave { node, boot, number } => self.on_leave(node, boot, number),
            RequestEvent::GiveUp { node, boot, number } => self.on_give_up(node, boot, number),
            RequestEvent::Replied { node, boot, number, reply } => self.on_replied(node, boot, number, reply),
            RequestEvent::Carried(message) => self.on_carried(message),
            RequestEvent::Again(message) => self.carry(message),
            RequestEvent::Lost { node, boot, id, stream, error } => {
                self.on_stream_lost(node, boot, id, stream, &error);
            }
        }
    }

    /// Something on the way of a request happens, `delay` from now.
    pub(crate) fn at_request(&mut self, delay: True, event: RequestEvent) {
        self.schedule(delay, Event::Request(Box::new(event)));
    }

    /// A client sends a write for the fenced resource to `node`.
    pub(crate) fn ask_fenced(&mut self, node: usize) {
        if self.params.fenced.is_none() {
            return;
        }
        let id = self.next_request();
        let delay = self.backend.rng.range(0, MS);
        self.at_request(delay, RequestEvent::Arrive { node, id });
    }

    fn on_fenced_request(&mut self, node: usize, id: RequestId) {
        let Some(fenced) = &self.params.fenced else { return };
        let deadline = self.now + fenced.hold;
        let before = ((None, Term::ZERO), GateState::Closed);
        let Some((edge, ..)) = self.edge(node) else { return };
        let job = Job { stage: Stage::Pausing, before, deadline, pause: Pause::default(), step: 0 };
        edge.jobs.insert(id, job);
        self.backend.truth.asked(id);
        self.look_for_a_way(node, id);
    }

    fn set_stage(&mut self, node: usize, id: RequestId, stage: Stage) -> Option<u64> {
        let (edge, ..) = self.edge(node)?;
        let job = edge.jobs.get_mut(&id)?;
        job.stage = stage;
        job.step += 1;
        Some(job.step)
    }

    /// A stage that lasts so long at most.
    fn set_stage_for(&mut self, node: usize, id: RequestId, stage: Stage, lasts: True) {
        let boot = self.nodes[node].disk.life().boot;
        if let Some(step) = self.set_stage(node, id, stage) {
            self.at_request(lasts, RequestEvent::Over { node, boot, id, step });
        }
    }

    pub(crate) fn look_for_a_way(&mut self, node: usize, id: RequestId) {
        let said = self.ask_gate(node);
        let Some((edge, ..)) = self.edge(node) else { return };
        let Some(job) = edge.jobs.get(&id) else { return };
        let (was_held, deadline) = (matches!(job.stage, Stage::Held), job.deadline);
        match Way::of(said) {
            Some(Way::Local) => {
                self.set_stage(node, id, Stage::Here);
                self.take_in(node, Caller::Here(id));
            }
            Some(Way::Remote(to)) => self.forward(node, id, to),
            None if was_held => {}
            None => {
                self.stats.add(Stat::RequestsHeld);
                self.set_stage_for(node, id, Stage::Held, deadline.saturating_sub(self.now));
            }
        }
    }

    fn forward(&mut self, node: usize, id: RequestId, to: NodeId) {
        let Some(fenced) = &self.params.fenced else { return };
        let (patience, fresh) = (fenced.answer_timeout * 3 / 2, Duration::from_nanos(fenced.fresh));
        let stream = self.backend.number();
        let Some((edge, leadership, now)) = self.edge(node) else { return };
        // What is small goes along with the head where the leader was just heard.
        let released = passage::was_just_heard(edge.heard, to, now, fresh);
        let talk = Talk { to, term: leadership.term, stream, released, is_replaced: false };
        self.stats.add(Stat::RequestsForwarded);
        self.set_stage_for(node, id, Stage::There(talk), patience);
        self.open_stream(node, id, talk);
    }

    fn on_stage_over(&mut self, node: usize, boot: u64, id: RequestId, step: u64) {
        let now = self.now;
        let Some((edge, ..)) = self.edge_of(node, boot) else { return };
        let Some(job) = edge.jobs.get(&id).filter(|job| job.step == step) else { return };
        match &job.stage {
            Stage::Pausing if now < job.deadline => self.look_for_a_way(node, id),
            Stage::Held | Stage::Pausing => self.tell(node, id, told(NotStarted::GateClosed.problem().kind)),
            Stage::Here => {}
            // The leader did not answer in time.
            Stage::There(talk) if passage::is_harmless(IS_WRITE, talk.released) => {
                self.end_attempt(node, id, Attempt::NotStarted(NotStarted::Unreachable(String::new())));
            }
            Stage::There(_) => self.tell(node, id, told(Kind::BackendTimeout)),
        }
    }

    /// Another node leads. Where the request may have had an effect, its true answer is waited for.
    pub(crate) fn leader_is_replaced(&mut self, node: usize, id: RequestId) {
        let (boot, late) =
            (self.nodes[node].disk.life().boot, self.params.fenced.as_ref().map_or(0, |f| f.late_answer));
        let Some((edge, ..)) = self.edge(node) else { return };
        let Some(Job { stage: Stage::There(talk), step, .. }) = edge.jobs.get(&id) else { return };
        let (harmless, step) = (passage::is_harmless(IS_WRITE, talk.released), *step);
        let late = if harmless { 0 } else { late };
        self.at_request(late, RequestEvent::Late { node, boot, id, step });
    }

    fn on_late(&mut self, node: usize, boot: u64, id: RequestId, step: u64) {
        let Some((edge, ..)) = self.edge_of(node, boot) else { return };
        if edge.jobs.get(&id).is_some_and(|job| job.step == step) {
            self.lose(node, id, &HopError::Lost("leadership moved".to_owned()));
        }
    }

    /// The exchange with the leader is lost, in this way.
    pub(crate) fn lose(&mut self, node: usize, id: RequestId, error: &HopError) {
        let Some((edge, ..)) = self.edge(node) else { return };
        let Some(Job { stage: Stage::There(talk), .. }) = edge.jobs.get(&id) else { return };
        let harmless = passage::is_harmless(IS_WRITE, talk.released);
        if passage::may_begin_anew(error.nothing_applied(), harmless) {
            self.end_attempt(node, id, Attempt::NotStarted(NotStarted::Unreachable(String::new())));
        } else {
            self.stats.add(Stat::StreamsLost);
            self.tell(node, id, told(Kind::OutcomeUnknown));
        }
    }

    /// An attempt ended: for good, or the request is tried again under the same id.
    pub(crate) fn end_attempt(&mut self, node: usize, id: RequestId, attempt: Attempt) {
        let why = match attempt {
            Attempt::Ended(told) => return self.tell(node, id, told),
            Attempt::NotStarted(why) => why,
        };
        self.trace.line(self.now, Some(node), || format!("   write {id} had no effect: {why:?}"));
        let now = self.now;
        let Some((edge, leadership, _)) = self.edge(node) else { return };
        let before = ((leadership.leader, leadership.term), edge.gate.state());
        let Some(job) = edge.jobs.get_mut(&id) else { return };
        if now >= job.deadline {
            return self.tell(node, id, told(why.problem().kind));
        }
        job.before = before;
        let pause = (job.pause.take().as_nanos() as True).min(job.deadline - now);
        self.stats.add(Stat::RequestsRedispatched);
        self.set_stage_for(node, id, Stage::Pausing, pause);
    }

    /// The client hears what became of its write.
    fn tell(&mut self, node: usize, id: RequestId, told: Told) {
        self.trace.line(self.now, Some(node), || format!("   write {id} ends: {told:?}"));
        if let Some((edge, ..)) = self.edge(node) {
            edge.jobs.remove(&id);
        }
        self.stats.add(match told {
            Told::Acknowledged { .. } => Stat::GatedWritesAcked,
            Told::NotApplied => Stat::GatedWritesNotApplied,
            Told::Unknown => Stat::GatedWritesUnknown,
        });
        let verdict = self.backend.truth.told(id, told);
        self.judge(verdict);
    }

    /// A process ended: its clients know nothing, and other nodes find their streams broken.
    pub(crate) fn close_edge(&mut self, edge: Edge) {
        for id in edge.jobs.into_keys() {
            self.backend.truth.gone(id);
        }
        for exchange in edge.exchanges.into_values() {
            self.break_off(&exchange.caller);
        }
    }
}
