//! Layer 2 once more, by somebody else's search (`porcupine-rs`) over a model of its own, so that a mistake in ours is
//! seen as a difference.
//!
//! Here an unknown write must come somewhere, as everything must: it ends at infinity, and where its condition
//! does not hold it does nothing, so "never" is "after everything that anybody saw".

use std::collections::BTreeMap;

use porcupine_rs::{Model, Operation, check_operations};

use crate::lin::Decision;
use crate::lin::history::{Change, Condition, Get, Op, Sight, Told, What, Write};
use crate::lin::judge::{STEP_LIMIT, search_keys};

/// Whether each key of `history` has an order, in the other's opinion.
pub fn keys(history: &[Op]) -> BTreeMap<String, bool> {
    let mut keys: BTreeMap<String, Vec<Operation<Register>>> = BTreeMap::new();
    for op in history {
        let (key, told) = match &op.what {
            What::Write(write) if write.told != Told::Refused => (&write.key, Ask::Write(write.clone())),
            What::Get(Get { key, freshness, told: Some(sight) }) if freshness.is_linearizable() => {
                (key, Ask::Read(*sight))
            }
            _ => continue,
        };
        let ends = if op.is_unknown_write() { i64::MAX } else { time(op.returned) };
        keys.entry(key.clone()).or_default().push(Operation {
            client_id: None,
            call_time: time(op.called),
            return_time: ends,
            op: told,
            metadata: None,
        });
    }
    keys.into_iter().map(|(key, operations)| (key, check_operations::<Register>(&operations))).collect()
}

fn time(time: u64) -> i64 {
    i64::try_from(time).expect("a time of a test")
}

#[derive(Debug, Clone)]
enum Ask {
    Write(Write),
    Read(Sight),
}

/// The version of a present key may be open: `Some((None, value))`.
type Held = Option<(Option<u64>, u64)>;

#[derive(Debug, Clone)]
struct Register;

impl Model for Register {
    type State = Held;
    type Op = Ask;
    type Metadata = ();

    fn init() -> Held {
        None
    }

    fn step(state: &Held, ask: &Ask) -> (bool, Held) {
        let result = match ask {
            Ask::Read(Sight { found: None, .. }) => state.is_none().then_some(*state),
            Ask::Read(Sight { found: Some(found), .. }) => {
                let same_value = state.is_some_and(|(_, value)| value == found.value);
                told_version(*state, Some(found.version)).filter(|_| same_value)
            }
            Ask::Write(write) => step_write(*state, write),
        };
        (result.is_some(), result.unwrap_or_default())
    }
}

fn step_write(state: Held, write: &Write) -> Option<Held> {
    match write.told {
        Told::Done(place) => allows(state, write).then(|| change(write, Some(place.index))),
        Told::Held { current, .. } => {
            let known = told_version(state, current)?;
            (!allows(known, write)).then_some(known)
        }
        Told::Unknown => Some(if allows(state, write) { change(write, None) } else { state }),
        Told::Refused => None,
    }
}

/// Whether the write takes effect on this state.
fn allows(state: Held, write: &Write) -> bool {
    let exists = state.is_some();
    let is = |wanted: u64| state.is_some_and(|(version, _)| version.is_none_or(|version| version == wanted));
    let surely_is = |wanted: u64| state.is_some_and(|(version, _)| version == Some(wanted));
    let condition = match write.condition {
        Condition::None => true,
        Condition::Exists => exists,
        Condition::Absent => !exists,
        Condition::VersionIs(version) => is(version),
        Condition::VersionIsNot(version) => !surely_is(version),
    };
    condition && (exists || write.change != Change::Delete)
}

fn change(write: &Write, version: Option<u64>) -> Held {
    match write.change {
        Change::Put(value) => Some((version, value)),
        Change::Delete => None,
    }
}

/// The state, once it is known to have this version; `None` when it can't have it.
fn told_version(state: Held, said: Option<u64>) -> Option<Held> {
    match (state, said) {
        (None, None) => Some(None),
        (Some((version, value)), Some(said)) if version.is_none_or(|version| version == said) => {
            Some(Some((Some(said), value)))
        }
        _ => None,
    }
}

/// Layer 2 in both opinions, which must be the same on every key: whether all keys have an order.
#[track_caller]
pub fn both_find_an_order(history: &[Op]) -> bool {
    let ours = search_keys(history, STEP_LIMIT);
    let ours: BTreeMap<String, bool> = ours
        .into_iter()
        .map(|(key, search)| {
            assert!(!matches!(search.decision, Decision::Undecided(_)), "{key}: {:?}", search.decision);
            (key, search.decision.holds())
        })
        .collect();
    assert_eq!(ours, keys(history), "the two searches differ; ours is on the left");
    ours.values().all(|holds| *holds)
}
