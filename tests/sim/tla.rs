//! What a world did, as a module for TLC: `proto-spec/tla/Trace.tla` looks whether the specification can follow it.
//!
//! Recorded is what the specification knows of: terms, votes, logs, what is durable, leases, and the fenced
//! resource. Times are microseconds on the clock of the node at hand, since its first start; TLC counts to 2^31.
//!
//! ```text
//! TLA_OUT=dir SEEDS=1..51 cargo test --test sim writes_traces_for_tlc -- --ignored
//! ```

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use termgate::fencing::mode::FenceMode;
use termgate::ids::{LogId, NodeId, Term};
use termgate::raft::config::Config;
use termgate::raft::effect::RoleKind;
use termgate::raft::entry::{Durable, Persist};
use termgate::raft::message::{AppendResult, Body, Message};
use termgate::raft::view::View;
use termgate::time::Instant;

use crate::disk::Disk;
use crate::model;
use crate::nemesis;
use crate::params::Params;
use crate::world::World;

/// Events of one trace: enough for several elections, few enough for TLC.
const EVENTS: usize = 400;

/// The recorder of one world; records nothing unless it is wanted.
#[derive(Debug)]
pub struct Recorder {
    wanted: bool,
    events: Vec<String>,
    nodes: Vec<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    /// What the clock showed at the first start.
    origin: Option<Instant>,
    /// The log and the vote in memory.
    tip: Durable,
    /// The message of the turn at hand.
    got: Option<Message>,
    /// The state when it was last told.
    told: String,
}

impl Recorder {
    pub fn new(wanted: bool, nodes: usize) -> Self {
        let nodes = (0..nodes).map(|_| Seen::default()).collect();
        Self { wanted, events: Vec::new(), nodes }
    }

    /// Whether anything is recorded.
    pub const fn is_wanted(&self) -> bool {
        self.wanted
    }

    fn tell(&mut self, event: impl FnOnce(&[Seen]) -> String) {
        if self.wanted && self.events.len() < EVENTS {
            self.events.push(event(&self.nodes));
        }
    }

    fn since(nodes: &[Seen], node: usize, at: Instant) -> u64 {
        at.since(nodes[node].origin.unwrap_or(at)).as_micros() as u64
    }

    /// A process starts with what the disk holds.
    pub fn start(&mut self, node: usize, at: Instant, disk: &Disk) {
        if !self.wanted {
            return;
        }
        let seen = &mut self.nodes[node];
        let first = seen.origin.is_none();
        seen.origin.get_or_insert(at);
        seen.tip = Durable { hard_state: disk.hard_state(), log: disk.log().to_vec(), ..Durable::default() };
        seen.told.clear();
        if !first {
            let n = node + 1;
            self.tell(|nodes| {
                format!("[do |-> \"start\", n |-> {n}, t |-> {}]", Self::since(nodes, node, at))
            });
        }
    }

    /// A process was killed, and this is what the disk has kept (`crash`); or an fsync ended (`flush`).
    pub fn durable(&mut self, what: &str, node: usize, disk: &Disk) {
        if !self.wanted {
            return;
        }
        let (n, state, last) = (node + 1, disk.hard_state(), id(disk.last()));
        let vote = state.voted_for.map_or(0, |vote| vote.0);
        let term = state.current_term;
        self.tell(|_| {
            format!("[do |-> \"{what}\", n |-> {n}, term |-> {term}, vote |-> {vote}, last |-> {last}]")
        });
    }

    /// The turn takes in a message.
    pub fn got(&mut self, node: usize, message: &Message) {
        if self.wanted {
            self.nodes[node].got = Some(message.clone());
        }
    }

    /// A turn of the loop: what it writes and sends, and how the node is seen afterwards.
    pub fn step(&mut self, node: usize, at: Instant, writes: &[Persist], sent: &[Message], view: &View) {
        let got = self.nodes[node].got.take();
        writes.iter().for_each(|write| model::keep(&mut self.nodes[node].tip, write));
        let nodes = &self.nodes;
        let got: Vec<String> = got.iter().filter_map(|m| self.message(m)).collect();
        let sent: BTreeSet<String> = sent.iter().filter_map(|m| self.message(m)).collect();
        let role = match view.role {
            RoleKind::Leader => "leader",
            RoleKind::Candidate => "candidate",
            _ => "follower",
        };
        let lease = view.lease_until.map_or(0, |until| Self::since(nodes, node, until));
        let vote = nodes[node].tip.hard_state.voted_for.map_or(0, |vote| vote.0);
        let state = format!(
            "term |-> {}, vote |-> {vote}, role |-> \"{role}\", commit |-> {}, last |-> {}, lease |-> {lease}",
            view.term,
            view.commit_index,
            id(view.last_log)
        );
        if got.is_empty() && sent.is_empty() && state == nodes[node].told {
            return;
        }
        self.nodes[node].told.clone_from(&state);
        let (got, sent) = (got.join(", "), sent.into_iter().collect::<Vec<_>>().join(",\n    "));
        let n = node + 1;
        self.tell(|nodes| {
            let t = Self::since(nodes, node, at);
            format!("[do |-> \"step\", n |-> {n}, t |-> {t}, got |-> {{{got}}},\n   {state},\n   sent |-> {{{sent}}}]")
        });
    }

    /// A node raises the fence.
    pub fn raise(&mut self, node: usize, at: Instant, term: Term) {
        let n = node + 1;
        self.tell(|nodes| {
            let t = Self::since(nodes, node, at);
            format!("[do |-> \"raise\", n |-> {n}, t |-> {t}, term |-> {term}]")
        });
    }

    /// A node sends a write to the resource.
    pub fn stamp(&mut self, node: usize, at: Instant, id: u64) {
        let n = node + 1;
        self.tell(|nodes| {
            let t = Self::since(nodes, node, at);
            format!("[do |-> \"stamp\", n |-> {n}, t |-> {t}, id |-> {id}]")
        });
    }

    /// The resource takes a raise (`fence`), has stored it (`stored`) or answers it (`raised`).
    pub fn fence(&mut self, what: &str, term: Term) {
        self.tell(|_| format!("[do |-> \"{what}\", term |-> {term}]"));
    }

    /// The resource admits a write (`write`), or has carried it out (`written`).
    pub fn write(&mut self, what: &str, id: u64) {
        self.tell(|_| format!("[do |-> \"{what}\", id |-> {id}]"));
    }

    /// The resource forgets what was not durable.
    pub fn resource_crash(&mut self) {
        self.tell(|_| "[do |-> \"resource-crash\"]".to_owned());
    }

    /// The kinds that the specification knows; all others only carry a term.
    fn message(&self, message: &Message) -> Option<String> {
        let (from, to, term) = (message.from, message.to, message.term);
        let sent_at = |who: NodeId, at| Self::since(&self.nodes, who.0 as usize - 1, at);
        match &message.body {
            Body::RequestVote(ask) if !ask.ballot.pre_vote => {
                let last = id(ask.last_log);
                Some(format!("[type |-> \"ask\", from |-> {from}, term |-> {term}, last |-> {last}]"))
            }
            Body::RequestVoteResponse(answer) if answer.vote_granted && !answer.ballot.pre_vote => {
                Some(format!("[type |-> \"grant\", from |-> {from}, to |-> {to}, term |-> {term}]"))
            }
            Body::AppendEntries(append) => {
                let entries: Vec<String> = append.entries.iter().map(|e| e.id.term.to_string()).collect();
                let (prev, at) = (append.prev_log, sent_at(from, append.beat.sent_at));
                Some(format!(
                    "[type |-> \"append\", from |-> {from}, term |-> {term}, prev |-> {}, prevTerm |-> {}, \
                     entries |-> <<{}>>, commit |-> {}, at |-> {at}]",
                    prev.index,
                    prev.term,
                    entries.join(", "),
                    append.leader_commit
                ))
            }
            Body::AppendEntriesResponse(answer) => match answer.result {
                AppendResult::Accepted { match_index } => {
                    let at = sent_at(to, answer.beat.sent_at);
                    Some(format!(
                        "[type |-> \"accepted\", from |-> {from}, to |-> {to}, term |-> {term}, \
                         match |-> {match_index}, at |-> {at}]"
                    ))
                }
                AppendResult::Conflict { .. } => None,
            },
            _ => None,
        }
    }
}

fn id(id: LogId) -> String {
    format!("<<{}, {}>>", id.term, id.index)
}

/// The module `TraceData` of one world.
fn module(seed: u64, params: &Params, events: &[String]) -> String {
    let config = &params.configs[0];
    let promise = config.election_timeout_min.as_micros();
    let drift = config.clock_drift_ppm / 1_000;
    format!(
        "-------------------------------- MODULE TraceData --------------------------------\n\
         \\* Seed {seed} of the simulator.\nEXTENDS Integers\n\
         TracePromise == {promise}\nTraceDrift == {drift}\n\
         Events == <<\n  {}\n>>\n\
         =================================================================================\n",
        events.join(",\n  ")
    )
}

/// The world of `seed` without what the specification leaves out: three nodes with the same timers, clocks within
/// their bound, and no snapshots, transfers, changes of the membership, pauses or batches of inputs, and an
/// enforcing resource that loses nothing but in a crash.
fn plain(seed: u64) -> Params {
    let mut params = Params::draw(seed);
    let config =
        Config { snapshot_entries: u64::MAX, snapshot_bytes: usize::MAX, ..params.configs[0].clone() };
    params.configs = (1..=3).map(|id| Config { id: NodeId(id), ..config.clone() }).collect();
    params.real_drift_ppm = params.real_drift_ppm.min(config.clock_drift_ppm as i32);
    params.clocks_in_bound = true;
    (params.retimes, params.upgrades, params.notice_gaps) = (false, false, false);
    (params.batch_ppm, params.faults.scripts) = (0, false);
    (params.voters, params.operator_gap, params.wipe_ppm) = (3, 0, 0);
    if let Some(fenced) = &mut params.fenced {
        fenced.mode = FenceMode::Enforced;
        (fenced.stop_ppm, fenced.loss_gap, fenced.leave_gap) = (0, 0, 0);
    }
    nemesis::leave_out_stops_and_transfers(&mut params.faults.weights);
    params
}

/// What the world of `seed` did; of a core with a bug, up to where that shows.
fn record(seed: u64) -> (Params, Vec<String>) {
    let params = plain(seed);
    let mut world = World::with(params.clone(), seed, true);
    let end = params.storm;
    let played = catch_unwind(AssertUnwindSafe(|| world.run_until(end)));
    if std::env::var("TERMGATE_MUTANT").is_err() {
        assert!(matches!(played, Ok(true)), "seed {seed} fails: {:?}", world.checker.violation());
    }
    (params, world.tla.events)
}

fn count(events: &[String], what: &str) -> usize {
    events.iter().filter(|event| event.contains(what)).count()
}

#[test]
fn a_trace_tells_of_leaders_and_disks_and_writes_and_is_the_same_again() {
    let traces: Vec<_> = (1..11).map(|seed| record(seed).1).collect();
    assert!(traces.iter().all(|events| events.len() <= EVENTS));
    for what in [
        "role |-> \"leader\"",
        "accepted",
        "\"flush\"",
        "\"crash\"",
        "\"start\"",
        "\"raised\"",
        "\"written\"",
    ] {
        assert!(traces.iter().any(|events| count(events, what) > 0), "no trace tells of {what}");
    }
    assert_eq!(record(1).1, traces[0]);
}

#[test]
#[ignore = "for TLC: give TLA_OUT=dir, and SEEDS"]
fn writes_traces_for_tlc() {
    let out = std::env::var("TLA_OUT").expect("TLA_OUT is a directory");
    for seed in crate::wanted_seeds() {
        let (params, events) = record(seed);
        let dir = Path::new(&out).join(format!("seed-{seed}"));
        std::fs::create_dir_all(&dir).expect("a directory");
        std::fs::write(dir.join("TraceData.tla"), module(seed, &params, &events)).expect("a file");
    }
}
