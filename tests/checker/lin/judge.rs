//! Both layers over one history.

use std::collections::BTreeMap;

use super::Decision;
use super::history::{Op, What};
use super::model::Step;
use super::search::{Search, Stuck, Timed, search};
use super::witness::{self, Finding};

/// Steps of the search for one key. A key that needs more has too many unknown writes: give it up earlier.
pub const STEP_LIMIT: u64 = 1_000_000;
/// Findings of layer 1 that are told in full; the first ones explain the rest.
const TOLD_FINDINGS: usize = 10;

/// What the layers came to.
#[derive(Debug)]
pub struct Judgement {
    pub witness: Decision<Vec<Finding>>,
    /// Layer 2, key by key.
    pub keys: BTreeMap<String, Search>,
}

/// Judges `history` in both layers.
pub fn judge(history: &[Op]) -> Judgement {
    Judgement { witness: witness::check(history), keys: search_keys(history, STEP_LIMIT) }
}

/// Layer 2 over every key of `history`.
pub fn search_keys(history: &[Op], step_limit: u64) -> BTreeMap<String, Search> {
    let keys = by_key(history);
    keys.into_iter().map(|(key, ops)| (key.to_owned(), search(&ops, step_limit))).collect()
}

/// What layer 2 looks at of each key: not what was refused, not reads that may be stale or were not answered, and no
/// lists, which are about many keys at once.
pub fn by_key(history: &[Op]) -> BTreeMap<&str, Vec<Timed>> {
    let mut keys: BTreeMap<&str, Vec<Timed>> = BTreeMap::new();
    for (number, op) in history.iter().enumerate() {
        let (key, step) = match &op.what {
            What::Write(write) => (&write.key, Step::of(write)),
            What::Get(get) if get.freshness.is_linearizable() => {
                (&get.key, get.told.map(|sight| Step::Saw(sight.found)))
            }
            What::Get(_) | What::List(_) => continue,
        };
        let answered = (!op.is_unknown_write()).then_some(op.returned);
        let hint = op.place().map_or(0, |place| place.index);
        if let Some(step) = step {
            let timed = Timed { op: number, called: op.called, answered, hint, step };
            keys.entry(key).or_default().push(timed);
        }
    }
    keys
}

impl Judgement {
    /// Whether both layers are content.
    pub fn holds(&self) -> bool {
        self.witness.holds() && self.keys.values().all(|search| search.decision.holds())
    }

    /// Keys that layer 2 has decided.
    pub fn decided_keys(&self) -> usize {
        let decided = |search: &&Search| !matches!(search.decision, Decision::Undecided(_));
        self.keys.values().filter(decided).count()
    }

    /// The steps of the key that took most.
    pub fn most_steps(&self) -> u64 {
        self.keys.values().map(|search| search.steps).max().unwrap_or(0)
    }

    /// What does not hold, for a reader, with the operations it is about. Empty when all of it does.
    pub fn problems(&self, history: &[Op]) -> Vec<String> {
        let mut problems = tell_witness(&self.witness, history);
        problems.extend(tell_searches(&self.keys, history));
        problems
    }
}

/// What does not hold in layer 1.
pub fn tell_witness(decision: &Decision<Vec<Finding>>, history: &[Op]) -> Vec<String> {
    match decision {
        Decision::Holds => Vec::new(),
        Decision::Undecided(why) => vec![format!("layer 1 is undecided: {why}")],
        Decision::Broken(findings) => {
            findings.iter().take(TOLD_FINDINGS).map(|finding| tell_finding(finding, history)).collect()
        }
    }
}

/// What does not hold in layer 2.
pub fn tell_searches(keys: &BTreeMap<String, Search>, history: &[Op]) -> Vec<String> {
    let tell = |(key, search): (&String, &Search)| match &search.decision {
        Decision::Holds => None,
        Decision::Undecided(why) => Some(format!("layer 2 is undecided on {key}: {why}")),
        Decision::Broken(stuck) => Some(tell_stuck(key, stuck, history)),
    };
    keys.iter().filter_map(tell).collect()
}

fn tell_finding(finding: &Finding, history: &[Op]) -> String {
    let (first, second) = match finding {
        Finding::TwoWrites { first, second, .. } => (*first, Some(*second)),
        Finding::TermFell { op, .. }
        | Finding::Overtakes { op, .. }
        | Finding::BelowMinIndex { op, .. }
        | Finding::Differs { op, .. }
        | Finding::Contradicts { op }
        | Finding::FromNowhere { op, .. } => (*op, None),
    };
    let ops: Vec<String> =
        [Some(first), second].iter().flatten().map(|op| format!("\n    {}", history[*op])).collect();
    format!("layer 1: {finding:?}{}", ops.concat())
}

fn tell_stuck(key: &str, stuck: &Stuck, history: &[Op]) -> String {
    let Stuck { placed, of, last, state, blocker } = stuck;
    let last: Vec<String> = last.iter().map(|op| format!("\n    {}", history[*op])).collect();
    format!(
        "layer 2: {key} has no order; the best one places {placed} of {of}, and ends with{}\n  then it is {state:?}, \
         and this can't follow:\n    {}",
        last.concat(),
        history[*blocker]
    )
}
