//! Three honest cores and everything between them, moved by whoever drives it. What must hold between them is
//! checked after every move: one leader in a term, one history, nothing acknowledged that is not on a majority of
//! disks of the membership of that time, no read of the past, no second token while one is valid.

use std::collections::BTreeMap;

use termgate::ids::{LogId, LogIndex, NodeId, Term, Ticket};
use termgate::raft::config::Config;
use termgate::raft::effect::{Change, Input, Outcome, RoleKind};
use termgate::raft::entry::{Durable, Entry, Membership};
use termgate::raft::message::Message;
use termgate::time::{Duration, Instant};

use super::host::Host;

/// By how much the clocks really differ, at most.
pub const DRIFT_PPM: u32 = 20_000;
const MILLION: u128 = 1_000_000;
/// Messages under way; beyond it the oldest are lost.
const MAIL: usize = 64;

/// The cluster.
pub struct World {
    /// True time, in nanoseconds.
    now: u64,
    pub hosts: Vec<Host>,
    /// Each clock's rate, in parts of a million.
    rates: Vec<u64>,
    /// What is under way.
    pub mail: Vec<Message>,
    leaders: BTreeMap<Term, usize>,
    history: BTreeMap<LogIndex, Entry>,
    /// The fingerprint of the state after each entry.
    prints: BTreeMap<LogIndex, u64>,
    /// What must be seen by each read: the newest position that was acknowledged before it began.
    reads: BTreeMap<(usize, Ticket), LogIndex>,
    acknowledged: LogIndex,
    /// Writes that were acknowledged.
    pub served: u64,
}

impl World {
    /// A new cluster; `config` says what all have in common.
    pub fn new(config: &Config, rates: &[u64]) -> Self {
        let membership = Membership::of_voters((1..=rates.len() as u64).map(NodeId));
        let start = Instant::from_millis(1000);
        let host = |id| {
            let config = Config { id: NodeId(id), ..config.clone() };
            Host::new(config, Durable { membership: membership.clone(), ..Durable::default() }, start)
        };
        Self {
            now: start.0,
            hosts: (1..=rates.len() as u64).map(host).collect(),
            rates: rates.to_vec(),
            mail: Vec::new(),
            leaders: BTreeMap::new(),
            history: BTreeMap::new(),
            prints: BTreeMap::new(),
            reads: BTreeMap::new(),
            acknowledged: LogIndex::ZERO,
            served: 0,
        }
    }

    /// Time passes everywhere; nobody notices by itself.
    pub fn advance(&mut self, time: Duration) {
        self.now += time.as_nanos() as u64;
        for (host, rate) in self.hosts.iter_mut().zip(&self.rates) {
            // All clocks show the same at the start.
            let passed = u128::from(self.now - 1_000_000_000) * u128::from(*rate) / MILLION;
            host.now = Instant(1_000_000_000 + passed as u64);
        }
        self.check();
    }

    /// Lets one node do something, and looks at all that came of it.
    pub fn with(&mut self, node: usize, act: impl FnOnce(&mut Host)) {
        let host = &mut self.hosts[node];
        act(host);
        assert!(!host.gone, "an honest cluster told node {} that it lost its data", host.id());
        self.mail.append(&mut host.outbox);
        let lost = self.mail.len().saturating_sub(MAIL);
        self.mail.drain(..lost);
        let (elected, entries) = (std::mem::take(&mut host.elected), std::mem::take(&mut host.entries));
        let (told, applied) = (std::mem::take(&mut host.told), host.applied);
        for term in elected {
            let first = *self.leaders.entry(term).or_insert(node);
            assert_eq!(first, node, "two leaders in term {term}");
        }
        for entry in entries {
            let first = self.history.entry(entry.id.index).or_insert_with(|| entry.clone());
            assert_eq!(*first, entry, "node {node} applies another entry");
        }
        if applied.last.index > LogIndex::ZERO {
            let first = *self.prints.entry(applied.last.index).or_insert(applied.print);
            assert_eq!(first, applied.print, "node {node} has another state at {}", applied.last);
        }
        told.into_iter().for_each(|(ticket, outcome)| self.told(node, ticket, outcome));
        self.check();
    }

    fn told(&mut self, node: usize, ticket: Ticket, outcome: Outcome) {
        match outcome {
            Outcome::Committed(id) => {
                self.acknowledged = self.acknowledged.max(id.index);
                self.served += 1;
                self.is_on_a_quorum(node, id);
            }
            Outcome::Reconfigured(id) => self.is_on_a_quorum(node, id),
            Outcome::ReadAt { index, .. } => {
                let least = self.reads[&(node, ticket)];
                assert!(index >= least, "a read at {index}, and {least} was acknowledged before it");
            }
            _ => {}
        }
    }

    /// What `node` has committed is on the disks of a quorum, by the membership that it goes by.
    fn is_on_a_quorum(&self, node: usize, id: LogId) {
        let holds = |disk: &Durable| {
            disk.log.iter().any(|entry| entry.id == id)
                || disk.snapshot.as_ref().is_some_and(|snapshot| snapshot.id.last.index >= id.index)
        };
        let copies = self.hosts.iter().filter(|host| holds(&host.disk)).map(Host::id).collect();
        let membership = self.hosts[node].node.view().membership;
        assert!(membership.is_quorum(&copies), "{id} is told of and on {copies:?} of {membership:?}");
    }

    /// An operator wants the membership changed.
    pub fn change(&mut self, node: usize, change: Change) {
        let ticket = self.hosts[node].ticket();
        self.with(node, |host| host.step(Input::Reconfigure { ticket, change }));
    }

    /// A client reads at `node`.
    pub fn read(&mut self, node: usize) {
        let ticket = self.hosts[node].ticket();
        self.reads.insert((node, ticket), self.acknowledged);
        self.with(node, |host| host.step(Input::Read { ticket }));
    }

    /// A client writes at `node`.
    pub fn propose(&mut self, node: usize) {
        let ticket = self.hosts[node].ticket();
        let command = format!("{node} {ticket}").into_bytes().into();
        self.with(node, |host| host.step(Input::Propose { ticket, command }));
    }

    /// An operator asks `node` to hand over.
    pub fn transfer(&mut self, node: usize, to: Option<usize>) {
        let (ticket, to) = (self.hosts[node].ticket(), to.map(|to| NodeId(to as u64 + 1)));
        self.with(node, |host| host.step(Input::Transfer { ticket, to }));
    }

    /// A message arrives; `again` leaves a copy under way.
    pub fn deliver(&mut self, at: usize, again: bool) {
        if self.mail.is_empty() {
            return;
        }
        let at = at % self.mail.len();
        let message = if again { self.mail[at].clone() } else { self.mail.remove(at) };
        let to = message.to.0 as usize - 1;
        self.with(to, |host| host.receive(message));
    }

    /// I8, I9: one token at a time, no newer leader beside it, and it has seen what was acknowledged.
    fn check(&self) {
        let mut holder: Option<(usize, Term)> = None;
        for (node, host) in self.hosts.iter().enumerate() {
            let seen = host.node.leadership();
            if host.removed {
                continue;
            }
            let Some(token) = seen.fence.filter(|_| seen.lease_until.is_some_and(|until| host.now < until))
            else {
                continue;
            };
            assert!(holder.is_none(), "{node} holds the token of {token}, and {holder:?} another");
            holder = Some((node, token));
            assert!(seen.last_applied >= self.acknowledged, "a token without all that was acknowledged");
        }
        let Some((node, token)) = holder else { return };
        let newest = self.leaders.last_key_value().map_or(Term::ZERO, |(term, _)| *term);
        assert!(newest <= token, "{newest} has a leader, and {node} a lease of {token}");
    }

    /// Everything that is under way arrives, everything that is due is done; `cut` hears and says nothing.
    pub fn round(&mut self, cut: Option<usize>) {
        for node in 0..self.hosts.len() {
            self.with(node, |host| {
                host.flush(usize::MAX);
                host.report();
                host.keep();
                if !host.removed && host.now >= host.node.deadline() {
                    host.step(Input::Timeout);
                }
            });
        }
        for message in std::mem::take(&mut self.mail) {
            let (from, to) = (message.from.0 as usize - 1, message.to.0 as usize - 1);
            if cut != Some(from) && cut != Some(to) {
                self.with(to, |host| host.receive(message));
            }
        }
    }

    /// Who leads, as it thinks itself.
    pub fn leader(&self) -> Option<usize> {
        self.hosts.iter().position(|host| {
            let seen = host.node.leadership();
            !host.removed && seen.role == RoleKind::Leader && seen.fence.is_some()
        })
    }
}
