//! A node's edge towards the fenced resource: the project's own `Gate`, kept by its own `Rounds`, over
//! the leadership that the loop publishes. Its keeper is another thread in the product, and may be late.

use std::collections::{BTreeMap, BTreeSet};

use termgate::fencing::gate::{Admit, Gate, GateState, quiet_period};
use termgate::fencing::leadership::Leadership;
use termgate::fencing::mode::FenceMode;
use termgate::fencing::passage;
use termgate::fencing::rounds::{Call, Ended, Rounds};
use termgate::ids::{NodeId, Term};
use termgate::raft::config::Config;
use termgate::raft::effect::RoleKind;
use termgate::time::{Duration, Instant};

use crate::backend::BackendEvent;
use crate::clock::{MS, True};
use crate::exchange::Exchange;
use crate::oracle::RequestId;
use crate::params::FencedParams;
use crate::request::{Job, Stage};
use crate::stats::{Class, Stat};
use crate::world::World;

/// What a gate's keeper is woken for.
type Shown = (Option<NodeId>, Term, RoleKind, Option<Term>);

/// What one process has towards the fenced resource, as leader and as the node of its own clients.
#[derive(Debug)]
pub struct Edge {
    /// The gate.
    pub gate: Gate,
    /// Requests of this node's clients.
    pub jobs: BTreeMap<RequestId, Job>,
    /// Exchanges with the backend, as leader, by their numbers.
    pub exchanges: BTreeMap<u64, Exchange>,
    /// Which node was heard over the hop.
    pub heard: Option<(NodeId, Instant)>,
    rounds: Rounds,
    /// Calls to the verifier that have not ended.
    calls: BTreeSet<u64>,
    /// When the keeper wakes by itself.
    armed: Option<True>,
    /// Until when its thread does not run: it then finds all that has come at once.
    asleep_until: True,
    /// What it was last woken for.
    shown: Option<Shown>,
    /// Whether the lease ended while the gate was open.
    has_lapsed: bool,
}

impl Edge {
    /// A closed gate, and nobody asks.
    pub fn new(fenced: &FencedParams, config: &Config) -> Box<Self> {
        Box::new(Self {
            gate: Gate::new(fenced.mode, quiet_period(config.election_timeout_max)),
            jobs: BTreeMap::new(),
            exchanges: BTreeMap::new(),
            heard: None,
            rounds: Rounds::new(Duration::from_nanos(fenced.look_interval)),
            calls: BTreeSet::new(),
            armed: None,
            asleep_until: 0,
            shown: None,
            has_lapsed: false,
        })
    }
}

impl World {
    /// The edge of a running process, its leadership, and the time there.
    pub(crate) fn edge(&mut self, node: usize) -> Option<(&mut Edge, &Leadership, Instant)> {
        let it = &mut self.nodes[node];
        let now = it.clock.at(self.now);
        let process = it.process.as_mut()?;
        Some((process.edge.as_deref_mut()?, &process.leadership, now))
    }

    /// The same, if it is still the process of that start.
    pub(crate) fn edge_of(&mut self, node: usize, boot: u64) -> Option<(&mut Edge, &Leadership, Instant)> {
        if self.nodes[node].disk.life().boot == boot { self.edge(node) } else { None }
    }

    /// What the gate says of a request now.
    pub(crate) fn ask_gate(&mut self, node: usize) -> Admit {
        let Some((edge, leadership, now)) = self.edge(node) else { return Admit::Wait };
        let said = edge.gate.admit(leadership, now);
        let reopened = matches!(said, Admit::Admit(_)) && std::mem::take(&mut edge.has_lapsed);
        let drains = edge.gate.state() == GateState::Draining;
        self.stats.add_many(Stat::GatesReopened, u64::from(reopened));
        self.stats.mattered(Class::Leaving, drains);
        said
    }

    /// After each turn of the loop: the keeper hears of what it published, and so do requests that wait.
    pub(crate) fn tend_gate(&mut self, node: usize) {
        let Some((edge, leadership, now)) = self.edge(node) else { return };
        let token = leadership.token_at(now);
        let shown = Some((leadership.leader, leadership.term, leadership.role, token));
        // Every change wakes the keeper; those that can't matter are left out here.
        let is_closed = token.is_some() && edge.gate.state() == GateState::Closed;
        let is_due = edge.armed.is_none() && edge.rounds.due(&edge.gate).is_some();
        let moved = edge.shown != shown || is_closed || is_due;
        let idle = edge.jobs.is_empty() && edge.exchanges.is_empty();
        edge.shown = shown;
        edge.has_lapsed |= token.is_none() && matches!(edge.gate.state(), GateState::Open { .. });
        if moved {
            self.wake_keeper(node);
        }
        if !idle {
            self.stir(node);
        }
    }

    /// The keeper of `node`'s gate has something to see, at once or when its thread runs again.
    pub(crate) fn wake_keeper(&mut self, node: usize) {
        let lag = self.params.fenced.as_ref().map_or(0, |fenced| fenced.keeper_lag);
        if lag == 0 {
            return self.turn_gate(node);
        }
        let (now, boot) = (self.now, self.nodes[node].disk.life().boot);
        let short = self.backend.rng.coin();
        let delay = if short { self.backend.rng.log_range(1, lag) } else { self.backend.rng.range(1, lag) };
        let Some((edge, ..)) = self.edge(node) else { return };
        if edge.asleep_until <= now {
            edge.asleep_until = now + delay;
            self.at_backend(delay, BackendEvent::Tend { node, boot });
        }
    }

    pub(crate) fn on_tend(&mut self, node: usize, boot: u64) {
        if self.nodes[node].disk.life().boot == boot {
            self.turn_gate(node);
        }
    }

    /// One turn of the gate's keeper.
    fn turn_gate(&mut self, node: usize) {
        let Some((edge, leadership, now)) = self.edge(node) else { return };
        let before = edge.gate.state();
        let call = edge.rounds.turn(&mut edge.gate, leadership, now);
        let after = edge.gate.state();
        edge.has_lapsed &= matches!(after, GateState::Open { .. });
        if let Some(call) = call {
            self.call_verifier(node, call);
        }
        self.arm_gate(node);
        if before != after {
            self.trace.line(self.now, Some(node), || format!("   gate: {after:?}"));
            self.stir(node);
        }
    }

    fn call_verifier(&mut self, node: usize, call: Call) {
        let (number, boot) = (self.backend.number(), self.nodes[node].disk.life().boot);
        let Some((edge, ..)) = self.edge(node) else { return };
        edge.calls.insert(number);
        let (term, given_up) = match call {
            Call::Raise(term) => (term, Ended::NotRaised),
            Call::Look(term) => (term, Ended::Seen(None)),
        };
        if matches!(call, Call::Raise(_)) {
            self.tla.raise(node, self.nodes[node].clock.at(self.now), term);
        }
        let delay = self.way();
        self.at_backend(delay, BackendEvent::Call { node, boot, number, call });
        let patience = self.patience_with_verifier();
        self.at_backend(patience, BackendEvent::Called { node, boot, number, term, ended: given_up });
    }

    /// How long the answer to a call is waited for.
    pub(crate) fn patience_with_verifier(&self) -> True {
        self.params.fenced.as_ref().map_or(0, |fenced| fenced.call_patience)
    }

    pub(crate) fn on_called(&mut self, node: usize, boot: u64, number: u64, term: Term, ended: Ended) {
        // An answer that sets out is lost with the way; the end of patience is not.
        let given_up = matches!(ended, Ended::NotRaised | Ended::Seen(None));
        if !given_up && self.is_away() {
            return;
        }
        let true_now = self.now;
        let Some((edge, _, now)) = self.edge_of(node, boot) else { return };
        if edge.asleep_until > true_now {
            let rest = edge.asleep_until - true_now;
            return self.at_backend(rest, BackendEvent::Called { node, boot, number, term, ended });
        }
        if edge.calls.remove(&number) {
            edge.rounds.on_ended(&mut edge.gate, term, ended, now);
            let state = edge.gate.state();
            self.trace.line(self.now, Some(node), || format!("   {ended:?} for {term}, gate: {state:?}"));
            self.turn_gate(node);
            self.stir(node);
        }
    }

    fn arm_gate(&mut self, node: usize) {
        let (clock, boot) = (self.nodes[node].clock.clone(), self.nodes[node].disk.life().boot);
        let now = self.now;
        let Some((edge, ..)) = self.edge(node) else { return };
        let Some(due) = edge.rounds.due(&edge.gate) else { return };
        let at = clock.when(due).max(now);
        if at < True::MAX && edge.armed.is_none_or(|armed| armed > at) {
            edge.armed = Some(at);
            self.at_backend(at - now, BackendEvent::Wake { node, boot, at });
        }
    }

    pub(crate) fn on_gate_wake(&mut self, node: usize, boot: u64, at: True) {
        let now = self.now;
        let Some((edge, ..)) = self.edge_of(node, boot) else { return };
        if edge.armed == Some(at) {
            edge.armed = None;
            if edge.asleep_until <= now {
                self.turn_gate(node);
            }
        }
    }

    /// Something may have changed for requests under way at `node`.
    fn stir(&mut self, node: usize) {
        let is_drain = self.params.fenced.as_ref().is_some_and(|fenced| fenced.mode == FenceMode::Drain);
        let Some((edge, leadership, now)) = self.edge(node) else { return };
        let moved = (leadership.leader, leadership.term);
        let (mut wake, mut replaced) = (Vec::new(), Vec::new());
        for (id, job) in &mut edge.jobs {
            match &mut job.stage {
                Stage::Held => wake.push(*id),
                Stage::Pausing if job.before != (moved, edge.gate.state()) => wake.push(*id),
                Stage::There(talk) if !talk.is_replaced => {
                    talk.is_replaced = passage::is_replaced(talk.to, talk.term, moved.0, moved.1);
                    replaced.extend(talk.is_replaced.then_some(*id));
                }
                _ => {}
            }
        }
        let mut lost = Vec::new();
        if is_drain {
            let said = edge.gate.admit(leadership, now);
            let left = edge.exchanges.iter().filter(|(_, e)| !passage::permit_holds(said, e.term));
            lost.extend(left.map(|(number, _)| *number));
        }
        wake.into_iter().for_each(|id| self.look_for_a_way(node, id));
        replaced.into_iter().for_each(|id| self.leader_is_replaced(node, id));
        lost.into_iter().for_each(|number| self.cut_off(node, number));
    }

    /// What begins with the world: losses of the fence, and nodes that leave.
    pub(crate) fn begin_fencing(&mut self) {
        self.plan_loss();
        self.plan_leaving();
    }

    fn plan_leaving(&mut self) {
        let gap = self.params.fenced.as_ref().map_or(0, |fenced| fenced.leave_gap);
        if gap > 0 {
            let gap = self.backend.rng.range(gap / 4, gap * 2);
            self.at_backend(gap, BackendEvent::Leave);
        }
    }

    /// A node is stopped as it should be: it hands leadership over, and its gates drain.
    pub(crate) fn someone_leaves(&mut self) {
        if self.calm {
            return;
        }
        self.plan_leaving();
        let anyone = self.backend.rng.below(self.nodes.len() as u64) as usize;
        let node = self.leader().filter(|_| self.backend.rng.coin()).unwrap_or(anyone);
        if !self.nodes[node].is_running() {
            return;
        }
        self.stats.fired(Class::Leaving);
        self.trace.line(self.now, Some(node), || "leaves: its gates drain".to_owned());
        self.ask_transfer(node, None);
        let (most, boot) = (2 * self.election(), self.nodes[node].disk.life().boot);
        if let Some((edge, ..)) = self.edge(node) {
            edge.gate.on_drain();
        }
        let lasts = self.backend.rng.log_range(MS, most);
        self.at_backend(lasts, BackendEvent::Left { node, boot });
    }

    pub(crate) fn has_left(&mut self, node: usize, boot: u64) {
        if self.nodes[node].process.is_some() && self.nodes[node].disk.life().boot == boot {
            let down = self.backend.rng.log_range(MS, 100 * MS);
            self.crash_for(node, down);
        }
    }
}
