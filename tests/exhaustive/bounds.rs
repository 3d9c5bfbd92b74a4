//! The bounds: how far each search goes, and from where.

use termgate::ids::{LogId, LogIndex, NodeId, Term};
use termgate::raft::entry::{Durable, Entry, HardState, Membership, Payload};

use crate::backend::Limits;
use crate::canon::UNIT;
use crate::station::INCARNATION;

/// Units of time by which each node's clock goes on while one tick of true time passes.
pub type Rates = [u8; 3];

/// Timers, in units of time.
#[derive(Debug, Clone, Copy)]
pub struct Time {
    pub heartbeat: u64,
    pub election: u64,
    pub drift_ppm: u32,
    /// How far a node's clock may jump before its timer is looked at.
    pub waits: &'static [u64],
    /// True time does not go on before every timer that is over was looked at.
    pub punctual: bool,
    /// Clocks go on together, by so many units for each node, in each of these ways; without it each goes as
    /// it likes.
    pub rates: &'static [Rates],
}

/// What a search is bounded by. What lies outside is not generated; nothing bounds the length of a path.
#[derive(Debug, Clone, Copy)]
pub struct Bound {
    pub name: &'static str,
    pub nodes: usize,
    /// The highest term; nobody campaigns in it.
    pub terms: u8,
    /// Entries in a log.
    pub entries: usize,
    /// Messages on their way, those that wait for a disk included.
    pub inflight: usize,
    /// Writes that a disk owes.
    pub behind: usize,
    pub crashes: u8,
    pub doubles: u8,
    pub writes: u8,
    pub reads: u8,
    /// Questions that a leader is asked; a follower repeats its own with every heartbeat.
    pub questions: u64,
    /// A node that wins lays its office down at once.
    pub winners_resign: bool,
    /// Entries leave one by one.
    pub single_entries: bool,
    pub time: Time,
    pub backend: Option<Limits>,
    /// So many of the nodes, the last ones, are learners at the start, and a leader may give them a vote.
    pub learners: usize,
    /// The terms of the log and the current term of each node at the start.
    pub start: &'static [Start],
    /// Node 1 leads at the start, and everybody knows.
    pub led: bool,
}

/// Timers of no length: any of them may be over at any moment, and no promise holds for any time. A leader
/// whose timer is over steps down.
const ANY_TIME: Time =
    Time { heartbeat: 0, election: 0, drift_ppm: 0, waits: &[0], punctual: false, rates: &[] };

/// Every node has a clock of its own, which stands still until the node waits for an election timeout. A
/// leader sends heartbeats at any moment; who has promised something waits first.
const OWN_TIME: Time =
    Time { heartbeat: 0, election: 1, drift_ppm: 0, waits: &[0, 1], punctual: false, rates: &[] };

/// Clocks of true time, slow (2 units a tick) or fast (3), which is all that a drift of 20 % allows. A promise
/// is 6 units, so a voter is free after 2 ticks or 3; the lease, 3.84 units, is over after 2 at the latest.
const TRUE_TIME: Time = Time {
    heartbeat: 2,
    election: 6,
    drift_ppm: 200_000,
    waits: &[0],
    punctual: true,
    rates: &[[2, 2, 2], [2, 2, 3], [2, 3, 3], [3, 3, 3]],
};

/// Of these the worst for a lease: the leader's clock is slow, and those of both voters are fast.
const WORST_TIME: Time = Time { rates: &[[2, 3, 3]], ..TRUE_TIME };

/// In it, a timer is looked at when it is over or at any later time: whatever lengths chance may give it, and more.
const LATE_TIME: Time = Time { punctual: false, ..WORST_TIME };

const NO_LOG: &[u64] = &[];
/// The terms of the entries on a disk, and its current term.
pub type Start = (&'static [u64], u64);
const FRESH: &[Start] = &[(NO_LOG, 0); 5];
/// Figure 8 of the Raft paper after its first two terms: each leader reached nobody.
const DIVERGED: &[Start] = &[(&[1], 2), (&[2], 2), (NO_LOG, 2)];

/// A leader of term 1 whose no-op got to one more disk of five.
const PARTED: &[Start] = &[(&[1], 1), (&[1], 1), (NO_LOG, 1), (NO_LOG, 1), (NO_LOG, 1)];

/// A resource that never restarts, and of which everything is asked once.
const ONCE: Limits = Limits { writes: 2, crashes: 0, repeats: false, gates_lag: false };
/// One that restarts while raises are tried again.
const RESTART: Limits = Limits { crashes: 1, repeats: true, ..ONCE };
/// Its gates hear of their leaders late.
const LATE: Limits = Limits { gates_lag: true, ..ONCE };

const BASE: Bound = Bound {
    name: "",
    nodes: 3,
    terms: 2,
    entries: 2,
    inflight: 2,
    behind: 2,
    crashes: 0,
    doubles: 0,
    writes: 0,
    reads: 0,
    questions: 0,
    winners_resign: false,
    single_entries: false,
    time: ANY_TIME,
    backend: None,
    learners: 0,
    start: FRESH,
    led: false,
};

const ELECTION: Bound = Bound { winners_resign: true, ..BASE };
const REPLICATION: Bound = Bound { entries: 3, writes: 1, led: true, ..BASE };
const FIGURE_8: Bound = Bound { terms: 4, entries: 3, single_entries: true, start: DIVERGED, ..BASE };
const READS: Bound = Bound { entries: 3, writes: 1, reads: 1, questions: 2, led: true, ..BASE };
const NO_WRITE: Bound = Bound { writes: 0, entries: 2, ..READS };
const LEASE: Bound = Bound { time: TRUE_TIME, behind: 1, inflight: 1, led: true, ..BASE };
const FENCE: Bound = Bound { time: OWN_TIME, inflight: 1, led: true, backend: Some(ONCE), ..BASE };
const MEMBERSHIP: Bound = Bound { time: OWN_TIME, learners: 2, entries: 5, inflight: 1, led: true, ..BASE };
const FIVE: Bound = Bound { nodes: 5, terms: 1, winners_resign: true, ..BASE };

/// Small enough for every run of the tests.
pub fn quick() -> Vec<Bound> {
    vec![
        Bound { name: "election, quick", inflight: 1, crashes: 1, ..ELECTION },
        Bound { name: "replication, quick", writes: 0, crashes: 1, inflight: 1, ..REPLICATION },
        Bound { name: "doubled, quick", terms: 1, writes: 2, doubles: 1, ..REPLICATION },
        Bound { name: "figure 8, quick", inflight: 1, behind: 3, ..FIGURE_8 },
        Bound { name: "reads, quick", inflight: 1, ..NO_WRITE },
        Bound { name: "fence, quick", nodes: 2, backend: Some(LATE), ..FENCE },
        Bound { name: "restart, quick", nodes: 2, backend: Some(RESTART), ..FENCE },
    ]
}

/// All of them, as `make model` searches them.
pub fn all() -> Vec<Bound> {
    vec![
        Bound { name: "i election, crowded", inflight: 3, doubles: 1, ..ELECTION },
        Bound { name: "i election, four messages", inflight: 4, ..ELECTION },
        Bound { name: "i election, three terms", terms: 3, entries: 3, ..ELECTION },
        Bound {
            name: "i election, three terms, crash",
            terms: 3,
            entries: 3,
            crashes: 1,
            inflight: 1,
            ..ELECTION
        },
        Bound {
            name: "i election, three terms, crashes",
            terms: 3,
            entries: 1,
            crashes: 2,
            inflight: 1,
            ..ELECTION
        },
        Bound { name: "i election, three terms, doubled", terms: 3, entries: 1, doubles: 1, ..ELECTION },
        Bound { name: "i election, crashes", crashes: 2, ..ELECTION },
        Bound { name: "ii replication, crash", crashes: 1, ..REPLICATION },
        Bound { name: "ii replication, two writes", writes: 2, entries: 4, ..REPLICATION },
        Bound {
            name: "ii replication, crash, two writes",
            crashes: 1,
            writes: 2,
            entries: 4,
            inflight: 1,
            ..REPLICATION
        },
        Bound { name: "ii replication, doubled", doubles: 1, ..REPLICATION },
        Bound { name: "ii replication, heartbeats", time: OWN_TIME, inflight: 1, ..REPLICATION },
        Bound { name: "ii replication, crowded", time: OWN_TIME, writes: 0, entries: 2, ..REPLICATION },
        Bound { name: "ii replication, figure 8", ..FIGURE_8 },
        Bound { name: "iii reads, one", ..READS },
        Bound { name: "iii reads, two", reads: 2, inflight: 1, ..READS },
        Bound { name: "iii reads, heartbeats", time: OWN_TIME, inflight: 1, ..READS },
        Bound { name: "iii reads, old answers", reads: 2, ..NO_WRITE },
        Bound { name: "iii reads, new leaders", time: OWN_TIME, inflight: 1, led: false, ..NO_WRITE },
        Bound { name: "iv lease, two terms", ..LEASE },
        Bound { name: "iv lease, crash", time: WORST_TIME, crashes: 1, ..LEASE },
        Bound { name: "iv lease, late timers", time: LATE_TIME, ..LEASE },
        Bound { name: "v fence", ..FENCE },
        Bound { name: "v fence, late gates", backend: Some(LATE), ..FENCE },
        Bound { name: "vi five nodes", ..FIVE },
        Bound { name: "vi five nodes, logs", terms: 2, start: PARTED, ..FIVE },
        Bound { name: "vii membership", ..MEMBERSHIP },
        Bound { name: "vii membership, crash", crashes: 1, entries: 3, behind: 1, ..MEMBERSHIP },
        Bound { name: "vii membership, four entries", crashes: 1, entries: 4, behind: 1, ..MEMBERSHIP },
    ]
}

/// Those whose end was not reached in the time there was. They are searched when `BOUND` names them.
pub fn open() -> Vec<Bound> {
    vec![
        Bound { name: "iii reads, two, crowded", reads: 2, ..READS },
        Bound { name: "v fence, restart", backend: Some(RESTART), ..FENCE },
        Bound { name: "vi five, crash", crashes: 1, ..FIVE },
        Bound { name: "vi five, crowded", inflight: 3, ..FIVE },
        Bound { name: "vi five, two terms", terms: 2, ..FIVE },
        Bound {
            name: "vii membership, four nodes",
            nodes: 4,
            learners: 1,
            entries: 3,
            behind: 1,
            ..MEMBERSHIP
        },
        Bound { name: "vii five entries, crash", crashes: 1, ..MEMBERSHIP },
    ]
}

impl Bound {
    /// What lies so many nanoseconds back has passed every timeout.
    pub const fn past(&self) -> u64 {
        self.time.election * UNIT
    }

    /// How many nodes have a vote at the start.
    pub const fn voters(&self) -> usize {
        self.nodes - self.learners
    }

    /// The node's disk at the start.
    pub fn disk(&self, place: usize) -> Durable {
        let (log, term) = self.start[place];
        let ids = (1..=self.nodes as u64).map(NodeId);
        let entry = |(index, term): (u64, &u64)| Entry {
            id: LogId::new(Term(*term), LogIndex(index)),
            payload: Payload::NoOp { leader: NodeId(*term) },
        };
        Durable {
            hard_state: HardState { current_term: Term(term), voted_for: None },
            pinned: ids.clone().map(|id| (id, INCARNATION)).collect(),
            membership: Membership {
                learners: ids.clone().skip(self.voters()).collect(),
                ..Membership::of_voters(ids.take(self.voters()))
            },
            log: (1..).zip(log).map(entry).collect(),
            ..Durable::default()
        }
    }
}
