//! The hop: a forwarded request is one stream. What is lost on it is sent again, nothing comes twice or
//! in another order, and it may break at any point.

use termgate::hop::error::HopError;
use termgate::hop::message::Refusal;
use termgate::proxy::forward::refused;

use crate::clock::True;
use crate::exchange::Caller;
use crate::net::{Cargo, Way};
use crate::oracle::RequestId;
use crate::request::{Attempt, Job, RequestEvent, Stage, Talk};
use crate::stats::Stat;
use crate::truth::Told;
use crate::world::World;

/// Losses at which a stream breaks instead of waiting, per million.
const BREAKS_PPM: u32 = 300_000;

/// The two ends of a stream: nodes, in the lives that opened it.
#[derive(Debug, Clone, Copy)]
pub struct Stream {
    pub number: u64,
    pub id: RequestId,
    pub origin: (usize, u64),
    pub leader: (usize, u64),
}

/// What goes over it.
#[derive(Debug, Clone)]
pub enum Said {
    /// To the leader: the head, with the content or without it.
    Head { eager: bool },
    /// To the leader: the content.
    Content,
    /// Everything is ready, send the content.
    Go,
    /// Nothing was started.
    Refused(Refusal),
    /// The leader gave it back.
    NotStarted,
    /// The answer, be it the backend's or a problem.
    Told(Told),
}

/// One of these on its way.
#[derive(Debug, Clone)]
pub struct HopMessage {
    pub stream: Stream,
    pub said: Said,
}

impl HopMessage {
    const fn ends(&self) -> ((usize, u64), (usize, u64)) {
        match self.said {
            Said::Head { .. } | Said::Content => (self.stream.origin, self.stream.leader),
            _ => (self.stream.leader, self.stream.origin),
        }
    }

    /// The node it goes to.
    pub const fn to(&self) -> usize {
        (self.ends().1).0
    }
}

impl World {
    /// A stream to the leader, and the head on it.
    pub(crate) fn open_stream(&mut self, node: usize, id: RequestId, talk: Talk) {
        let to = talk.to.0 as usize - 1;
        let life = |n: usize| (n, self.nodes[n].disk.life().boot);
        let stream = Stream { number: talk.stream, id, origin: life(node), leader: life(to) };
        // A connection that is known to be dead: nothing leaves.
        let is_dead = self.net.is_cut(node, to) || self.nodes[to].process.is_none();
        if is_dead && self.backend.rng.coin() {
            return self.break_stream(&stream, HopError::NotSent("no connection".to_owned()));
        }
        self.carry(HopMessage { stream, said: Said::Head { eager: talk.released } });
    }

    /// Sends it off.
    pub(crate) fn carry(&mut self, message: HopMessage) {
        let ((from, boot), (to, _)) = message.ends();
        if self.nodes[from].process.is_none() || self.nodes[from].disk.life().boot != boot {
            return;
        }
        let way = Way { from, to, now: self.now };
        match self.net.route(way, Cargo::default(), &mut self.stats)[0] {
            Some(delay) => self.at_request(delay, RequestEvent::Carried(message)),
            None => self.stopped_on_the_way(message),
        }
    }

    fn stopped_on_the_way(&mut self, message: HopMessage) {
        if self.backend.rng.chance(BREAKS_PPM) {
            let error = match message.said {
                Said::Head { .. } if self.backend.rng.coin() => {
                    HopError::NotSent("connection lost".to_owned())
                }
                _ => HopError::Lost("connection lost".to_owned()),
            };
            return self.break_stream(&message.stream, error);
        }
        let interval = self.heartbeat();
        let delay = self.backend.rng.log_range(interval / 4, interval * 2);
        self.at_request(delay, RequestEvent::Again(message));
    }

    /// The origin finds the stream broken; the leader, if it has it, goes on with what it has.
    fn break_stream(&mut self, stream: &Stream, error: HopError) {
        let (node, boot) = stream.origin;
        let (id, stream, interval) = (stream.id, stream.number, self.heartbeat());
        let delay: True = self.backend.rng.log_range(interval / 100, interval * 2);
        self.at_request(delay, RequestEvent::Lost { node, boot, id, stream, error });
    }

    /// A leader's process ended, and its streams with it.
    pub(crate) fn break_off(&mut self, caller: &Caller) {
        if let Caller::There(stream) = caller
            && self.backend.rng.coin()
        {
            self.break_stream(&stream.clone(), HopError::Lost("the leader is gone".to_owned()));
        }
    }

    pub(crate) fn on_stream_lost(
        &mut self,
        node: usize,
        boot: u64,
        id: RequestId,
        stream: u64,
        error: &HopError,
    ) {
        if self.is_talking(node, boot, id, stream) {
            self.lose(node, id, error);
        }
    }

    fn is_talking(&mut self, node: usize, boot: u64, id: RequestId, stream: u64) -> bool {
        let Some((edge, ..)) = self.edge_of(node, boot) else { return false };
        let talk = |job: &Job| matches!(&job.stage, Stage::There(t) if t.stream == stream);
        edge.jobs.get(&id).is_some_and(talk)
    }

    pub(crate) fn on_carried(&mut self, message: HopMessage) {
        let ((from, _), (to, boot)) = message.ends();
        let HopMessage { stream, said } = &message;
        if self.nodes[to].process.is_none() || self.nodes[to].disk.life().boot != boot {
            // Only a leader that is gone leaves somebody waiting.
            if to == stream.leader.0 {
                self.break_stream(stream, HopError::Lost("the leader is gone".to_owned()));
            }
            return;
        }
        if !self.net.arrives(from, to, &mut self.stats) {
            return self.stopped_on_the_way(message);
        }
        match said {
            Said::Head { eager } => self.take_in(to, Caller::there(*stream, *eager)),
            Said::Content => self.on_content(to, stream),
            _ if !self.is_talking(to, boot, stream.id, stream.number) => {}
            answer => self.on_said(*stream, answer.clone()),
        }
    }

    /// The leader says something to the node that asked it.
    fn on_said(&mut self, stream: Stream, said: Said) {
        let (node, id) = (stream.origin.0, stream.id);
        let Some((edge, _, now)) = self.edge(node) else { return };
        if let Some(Job { stage: Stage::There(talk), .. }) = edge.jobs.get_mut(&id) {
            edge.heard = Some((talk.to, now));
            talk.released |= matches!(said, Said::Go);
        }
        match said {
            Said::Go => {
                self.stats.add(Stat::ContentReleased);
                self.carry(HopMessage { stream, said: Said::Content });
            }
            Said::Refused(refusal) => self.end_attempt(node, id, Attempt::NotStarted(refused(refusal))),
            Said::NotStarted => self.lose(node, id, &HopError::NotStarted),
            Said::Told(told) => self.end_attempt(node, id, Attempt::Ended(told)),
            Said::Head { .. } | Said::Content => {}
        }
    }
}
