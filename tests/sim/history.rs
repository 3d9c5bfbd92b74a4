//! What the clients saw, written down for the judges of `tests/checker/lin`: the same that judge real processes.
//!
//! The oracle checks every answer as it comes, with the committed log at hand. Here the whole of it is judged once more,
//! at the end of a world and from outside: from calls and answers, and nothing else.

use std::collections::HashMap;

use bytes::Bytes;
use termgate::driver::handle::Applied;
use termgate::ids::LogIndex;
use termgate::registry::command::{Answer, Condition};

use crate::clock::True;
use crate::lin::Decision;
use crate::lin::history::{self, Change, Found, Freshness, Get, Op, Place, Sight, Told, What, Write};
use crate::lin::judge::{STEP_LIMIT, search_keys, tell_searches, tell_witness};
use crate::lin::witness;
use crate::oracle::RequestId;
use crate::stats::Stat;
use crate::world::World;

/// The search takes longer than the replay of the witness, so it looks at one world in this many.
const SEARCH_EVERY: u64 = 4;

/// The operations of one world. Their client is the node that was asked, from 1.
#[derive(Debug, Default)]
pub struct History {
    ops: Vec<Op>,
    writes: HashMap<RequestId, usize>,
}

impl History {
    /// A write begins. Its outcome is unknown until there is an answer.
    pub fn asked(&mut self, node: usize, id: RequestId, key: &str, condition: Condition, now: True) {
        let condition = match condition {
            Condition::None => history::Condition::None,
            Condition::Exists => history::Condition::Exists,
            Condition::Absent => history::Condition::Absent,
            Condition::VersionIs(version) => history::Condition::VersionIs(version.0),
            Condition::VersionIsNot(version) => history::Condition::VersionIsNot(version.0),
        };
        let change = Change::Put(id);
        let write = Write { key: key.to_owned(), change, condition, told: Told::Unknown };
        self.writes.insert(id, self.ops.len());
        self.push(node, now, now, What::Write(write));
    }

    /// A write was applied, and this is what became of it.
    pub fn acked(&mut self, id: RequestId, applied: &Applied, now: True) {
        let place = Place { index: applied.index.0, term: applied.term.0 };
        let told = match &applied.answer {
            Answer::Done { .. } => Told::Done(place),
            Answer::ConditionFailed { current } => Told::Held { current: current.map(|v| v.0), place },
            _ => Told::Refused,
        };
        self.told(id, told, now);
    }

    /// A write was refused.
    pub fn refused(&mut self, id: RequestId, now: True) {
        self.told(id, Told::Refused, now);
    }

    fn told(&mut self, id: RequestId, told: Told, now: True) {
        let op = self.writes.get(&id).and_then(|at| self.ops.get_mut(*at));
        if let Some(Op { returned, what: What::Write(write), .. }) = op {
            *returned = now;
            write.told = told;
        }
    }

    /// A read was answered. Who vouches for it, and in which term, is the checker's matter.
    pub fn saw(
        &mut self,
        node: usize,
        (called, now): (True, True),
        freshness: Freshness,
        (key, index, found): (&str, LogIndex, Option<&(LogIndex, Bytes)>),
    ) {
        let value = |bytes: &Bytes| bytes.as_ref().try_into().map_or(0, u64::from_be_bytes);
        let found = found.map(|(version, bytes)| Found { version: version.0, value: value(bytes) });
        let sight = Sight { found, place: Place { index: index.0, term: 0 } };
        self.push(node, called, now, What::Get(Get { key: key.to_owned(), freshness, told: Some(sight) }));
    }

    fn push(&mut self, node: usize, called: True, returned: True, what: What) {
        self.ops.push(Op { client: node as u64 + 1, called, returned, what });
    }
}

impl World {
    /// Judges the history, when all is over.
    pub fn check_history(&mut self, seed: u64) {
        let ops = &self.history.ops;
        let mut problems = tell_witness(&witness::check(ops), ops);
        self.stats.add_many(Stat::HistoryOps, ops.len() as u64);
        if seed.is_multiple_of(SEARCH_EVERY) {
            let mut keys = search_keys(ops, STEP_LIMIT);
            // With many unknown writes on one key the search may give up. Where the witness has just shown an order
            // that holds, there is one, and nothing is left to decide; a search that ends still has to agree.
            if problems.is_empty() {
                keys.retain(|_, search| !matches!(search.decision, Decision::Undecided(_)));
            }
            problems.extend(tell_searches(&keys, ops));
            self.stats.add_many(Stat::KeysSearched, keys.len() as u64);
        }
        if !problems.is_empty() {
            for op in ops {
                eprintln!("{op}");
            }
        }
        let verdict = if problems.is_empty() { Ok(()) } else { Err(problems.join("\n")) };
        self.judge(verdict);
    }
}
