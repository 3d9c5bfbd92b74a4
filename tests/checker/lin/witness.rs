//! Layer 1: takes the log indexes of the answers at their word and replays them.
//!
//! The operations in the order of their indexes, writes before reads, are the order in which everything is said to have
//! happened. What is checked, and what it means when all of it holds: that order is a linearization, whether the
//! indexes were honest or not.
//!
//! - **W1 one write per index**, and terms never fall along the log.
//! - **W2 real time**: nothing that was called after an answer comes before it in the order. A read's index is at
//!   least as high as every one that was acknowledged or shown before its call, a write's is higher. A stale read
//!   promises its minimal index only, but others must not see less than it showed.
//! - **W3 every answer fits** the replayed map: versions, values, absence, conditions that held or did not, and
//!   whole lists.
//! - **W4 nothing from nowhere**: a version that somebody saw was written, by a write that was acknowledged there,
//!   or by one of unknown outcome.
//!
//! An unknown write has no index. When its version is seen, that is its index. When only its effect is seen (a key
//! vanished), it gets a free index after the last time the key was seen otherwise. Where two
//! unknown writes would do, the one with the narrower condition is taken, and then the first that was called. Should
//! something not fit on that key later, the guess may have been wrong, and the layer says that it can't decide.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::Decision;
use super::history::{Change, Condition, Found, Freshness, Get, List, Listing, Op, Sight, Told, What, Write};

/// What does not fit. Operations are numbers in the history, from 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// W1.
    TwoWrites { index: u64, first: usize, second: usize },
    /// W1: a write's term is lower than that of one before it in the log.
    TermFell { op: usize, term: u64, before: u64 },
    /// W2: this was told or shown before the call, and the operation comes before it.
    Overtakes { op: usize, index: u64, floor: u64 },
    /// W2: a read is answered from an older state than it asked for.
    BelowMinIndex { op: usize, index: u64, min_index: u64 },
    /// W3: what the replayed map has for the key there, written like an answer.
    Differs { op: usize, key: String, replay: String },
    /// W3: the condition can't have let this write pass, or can't have held it back.
    Contradicts { op: usize },
    /// W4: nobody can have written this version of the key.
    FromNowhere { op: usize, key: String, version: u64 },
}

/// Judges a whole history by its witnesses.
pub fn check(history: &[Op]) -> Decision<Vec<Finding>> {
    let mut replay = Replay::new(history);
    replay.check_log();
    replay.check_real_time();
    replay.find_unknown_versions();
    replay.reserve();
    replay.run();
    match replay {
        Replay { findings, .. } if !findings.is_empty() => Decision::Broken(findings),
        Replay { doubtful: Some(why), .. } => Decision::Undecided(why),
        _ => Decision::Holds,
    }
}

/// What an answer says of a key's state at some index.
#[derive(Debug, Clone, Copy)]
enum Seen {
    Nothing,
    Exists,
    IsNot(u64),
    /// The version, and the value where it was shown.
    Is(Option<(u64, Option<u64>)>),
}

/// A key as far as it is replayed.
#[derive(Debug, Default)]
struct Key {
    found: Option<Found>,
    /// Up to this index the state is accounted for: no unknown write fits in before it any more.
    known_to: u64,
    /// Unknown writes that have no index yet, in the order of their calls.
    unknown: Vec<usize>,
    /// Those that were given one.
    happened: Vec<usize>,
    /// Whether an unknown write was chosen among several.
    guessed: bool,
}

/// What happens at an index. Writes come before reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Write(usize),
    /// A version that was seen, by this operation, and that only an unknown write can have written.
    UnknownWrite(usize),
    Read(usize),
}

struct Replay<'h> {
    history: &'h [Op],
    /// The highest index that was told or shown before each call.
    floors: Vec<u64>,
    keys: BTreeMap<&'h str, Key>,
    /// The write at each index.
    writes: HashMap<u64, usize>,
    /// Versions of unknown writes that were seen: the key, the value where it was shown, and who saw it.
    seen: BTreeMap<u64, (&'h str, Option<u64>, usize)>,
    /// The index of each unknown write whose value, which no other has, was seen.
    reserved: HashMap<usize, u64>,
    /// Indexes that were given to unknown writes of which only the effect was seen.
    given: HashSet<u64>,
    findings: Vec<Finding>,
    doubtful: Option<String>,
}

impl<'h> Replay<'h> {
    fn new(history: &'h [Op]) -> Self {
        let mut keys: BTreeMap<&str, Key> = BTreeMap::new();
        for (number, op) in history.iter().enumerate() {
            match &op.what {
                What::Write(write) => {
                    let key = keys.entry(&write.key).or_default();
                    if write.told == Told::Unknown {
                        key.unknown.push(number);
                    }
                }
                What::Get(get) => {
                    keys.entry(&get.key).or_default();
                }
                What::List(list) => {
                    for (key, _) in list.told.iter().flat_map(|listing| &listing.keys) {
                        keys.entry(key).or_default();
                    }
                }
            }
        }
        for key in keys.values_mut() {
            key.unknown.sort_by_key(|number| history[*number].called);
        }
        Self {
            history,
            floors: floors(history),
            keys,
            writes: HashMap::new(),
            seen: BTreeMap::new(),
            reserved: HashMap::new(),
            given: HashSet::new(),
            findings: Vec::new(),
            doubtful: None,
        }
    }

    /// W1.
    fn check_log(&mut self) {
        let mut writes: Vec<(u64, u64, usize)> = Vec::new();
        for (number, op) in self.history.iter().enumerate() {
            if let (What::Write(_), Some(place)) = (&op.what, op.place()) {
                writes.push((place.index, place.term, number));
            }
        }
        writes.sort_unstable();
        let mut highest = 0;
        for (index, term, op) in writes {
            let first = *self.writes.entry(index).or_insert(op);
            if first != op {
                self.findings.push(Finding::TwoWrites { index, first, second: op });
            }
            if term < highest {
                self.findings.push(Finding::TermFell { op, term, before: highest });
            }
            highest = highest.max(term);
        }
    }

    /// W2.
    fn check_real_time(&mut self) {
        for (number, op) in self.history.iter().enumerate() {
            let Some(index) = op.place().map(|place| place.index) else { continue };
            let floor = self.floors[number];
            let freshness = match &op.what {
                What::Write(_) if index <= floor => {
                    self.findings.push(Finding::Overtakes { op: number, index, floor });
                    continue;
                }
                What::Write(_) => continue,
                What::Get(get) => get.freshness,
                What::List(list) => list.freshness,
            };
            match freshness {
                Freshness::Stale { min_index } if index < min_index => {
                    self.findings.push(Finding::BelowMinIndex { op: number, index, min_index });
                }
                Freshness::Linearizable | Freshness::Lease if index < floor => {
                    self.findings.push(Finding::Overtakes { op: number, index, floor });
                }
                _ => {}
            }
        }
    }

    /// Notes every version that was seen and that no acknowledged write has.
    fn find_unknown_versions(&mut self) {
        let history = self.history;
        for (number, op) in history.iter().enumerate() {
            match &op.what {
                What::Write(Write { key, told: Told::Held { current: Some(version), .. }, .. })
                | What::Write(Write {
                    key,
                    condition: Condition::VersionIs(version),
                    told: Told::Done(_),
                    ..
                }) => {
                    self.note_version(number, key, *version, None);
                }
                What::Get(Get { key, told: Some(Sight { found: Some(found), .. }), .. }) => {
                    self.note_version(number, key, found.version, Some(found.value));
                }
                What::List(List { told: Some(Listing { keys, .. }), .. }) => {
                    for (key, version) in keys {
                        self.note_version(number, key, *version, None);
                    }
                }
                _ => {}
            }
        }
    }

    fn note_version(&mut self, op: usize, key: &'h str, version: u64, value: Option<u64>) {
        let writer = self.writes.get(&version).map(|writer| &self.history[*writer].what);
        match writer {
            // Whether it fits is a matter of the replay.
            Some(What::Write(Write {
                key: written, change: Change::Put(_), told: Told::Done(_), ..
            })) if written == key => {}
            Some(_) => self.findings.push(Finding::FromNowhere { op, key: key.to_owned(), version }),
            None => {
                let noted = self.seen.entry(version).or_insert((key, value, op));
                if noted.0 != key {
                    self.findings.push(Finding::FromNowhere { op, key: key.to_owned(), version });
                } else if noted.1.is_none() && value.is_some() {
                    *noted = (key, value, op);
                }
            }
        }
    }

    /// Keeps unknown writes that were seen by their value from standing in for others. They have happened, so the
    /// versions that their conditions name were there.
    fn reserve(&mut self) {
        let mut named: Vec<(usize, &'h str, u64)> = Vec::new();
        for (index, (key, value, seer)) in &self.seen {
            let Some(value) = value else { continue };
            let puts_it = |number: &&usize| self.write(**number).change == Change::Put(*value);
            let mut writers = self.keys[key].unknown.iter().filter(puts_it);
            if let (Some(writer), None) = (writers.next(), writers.next()) {
                self.reserved.entry(*writer).or_insert(*index);
                if let Condition::VersionIs(version) = self.write(*writer).condition {
                    named.push((*seer, key, version));
                }
            }
        }
        for (seer, key, version) in named {
            self.note_version(seer, key, version, None);
        }
    }

    /// W3 and W4.
    fn run(&mut self) {
        let mut events: Vec<(u64, Event)> =
            self.seen.iter().map(|(index, (_, _, seer))| (*index, Event::UnknownWrite(*seer))).collect();
        for (number, op) in self.history.iter().enumerate() {
            let Some(place) = op.place() else { continue };
            let is_write = matches!(op.what, What::Write(_));
            events.push((place.index, if is_write { Event::Write(number) } else { Event::Read(number) }));
        }
        events.sort_unstable();
        for (index, event) in events {
            match event {
                Event::UnknownWrite(seer) => self.place_seen_write(index, seer),
                Event::Write(number) | Event::Read(number) => self.replay_op(index, number),
            }
        }
    }

    fn replay_op(&mut self, index: u64, number: usize) {
        match &self.history[number].what {
            What::Write(write) => self.replay_write(index, number, write),
            What::Get(Get { key, told: Some(sight), .. }) => {
                let found = sight.found.map(|found| (found.version, Some(found.value)));
                self.expect(number, key, index, Seen::Is(found));
            }
            What::List(List { prefix, told: Some(listing), .. }) => {
                self.replay_list(index, number, prefix, listing);
            }
            What::Get(_) | What::List(_) => {}
        }
    }

    fn replay_write(&mut self, index: u64, number: usize, write: &'h Write) {
        let (change, condition, before) = (write.change, write.condition, index.saturating_sub(1));
        if let Told::Held { current, .. } = write.told {
            let nothing_to_delete = change == Change::Delete && current.is_none();
            if condition.holds(current) && !nothing_to_delete {
                self.findings.push(Finding::Contradicts { op: number });
            }
            self.expect(number, &write.key, before, Seen::Is(current.map(|version| (version, None))));
        } else {
            self.replay_change(index, number, write);
        }
    }

    /// The write takes effect here: its condition is an answer too.
    fn replay_change(&mut self, index: u64, number: usize, write: &'h Write) {
        let before = index.saturating_sub(1);
        if write.change == Change::Delete {
            self.expect(number, &write.key, before, Seen::Exists);
        }
        let seen = match write.condition {
            Condition::None => Seen::Nothing,
            Condition::Exists => Seen::Exists,
            Condition::Absent => Seen::Is(None),
            Condition::VersionIs(version) => Seen::Is(Some((version, None))),
            Condition::VersionIsNot(version) => Seen::IsNot(version),
        };
        self.expect(number, &write.key, before, seen);
        let key = self.key(&write.key);
        key.known_to = key.known_to.max(index);
        key.found = match write.change {
            Change::Put(value) => Some(Found { version: index, value }),
            Change::Delete => None,
        };
    }

    fn replay_list(&mut self, index: u64, number: usize, prefix: &'h str, listing: &'h Listing) {
        let told: BTreeMap<&str, u64> = listing.keys.iter().map(|(key, v)| (key.as_str(), *v)).collect();
        let known = self.keys.range(prefix..).map(|(key, _)| *key).take_while(|key| key.starts_with(prefix));
        let all: BTreeSet<&str> = known.chain(told.keys().copied()).collect();
        for key in all {
            let version = told.get(key).map(|version| (*version, None));
            self.expect(number, key, index, Seen::Is(version));
        }
    }

    /// Holds what was seen of a key, after everything up to `index`, against the replay.
    fn expect(&mut self, number: usize, name: &'h str, index: u64, seen: Seen) {
        let found = self.keys[name].found;
        let fits = match (seen, found) {
            (Seen::Nothing, _) => return,
            (Seen::Exists, Some(_)) | (Seen::Is(None), None) => true,
            (Seen::Is(Some((version, value))), Some(found)) => {
                found.version == version && value.is_none_or(|value| value == found.value)
            }
            (Seen::IsNot(version), found) => found.is_none_or(|found| found.version != version),
            (Seen::Exists, None) => self.explain(name, index, true),
            (Seen::Is(None), Some(_)) => self.explain(name, index, false),
            (Seen::Is(Some(_)), None) => false,
        };
        // What must not be this version may be another one, or nothing.
        let is_not = matches!(seen, Seen::IsNot(_));
        if !fits && !(is_not && (self.explain(name, index, true) || self.explain(name, index, false))) {
            let replay = found.map_or("absent".into(), |found| format!("v{}={}", found.version, found.value));
            self.fail(name, Finding::Differs { op: number, key: name.to_owned(), replay });
        }
        let key = self.key(name);
        key.known_to = key.known_to.max(index);
    }

    fn key(&mut self, name: &str) -> &mut Key {
        self.keys.get_mut(name).expect("every key of the history is there")
    }

    /// Lets an unknown write make the key exist, or vanish, at a free index that is not above `index`.
    fn explain(&mut self, name: &'h str, index: u64, exists: bool) -> bool {
        let current = self.keys[name].found.map(|found| found.version);
        let known_to = self.keys[name].known_to;
        let fits = |replay: &Self, number: usize| {
            let write = replay.write(number);
            let does = matches!(write.change, Change::Put(_)) == exists;
            (does && write.condition.holds(current) && !replay.reserved.contains_key(&number))
                .then(|| replay.free_index(known_to.max(replay.floors[number]), index))
                .flatten()
        };
        let unknown = &self.keys[name].unknown;
        let mut candidates: Vec<(usize, u64)> =
            unknown.iter().filter_map(|number| Some((*number, fits(self, *number)?))).collect();
        candidates.sort_by_key(|(number, _)| ease(self.write(*number).condition));
        let Some((number, at)) = candidates.first().copied() else { return false };
        self.given.insert(at);
        self.happened(name, number, candidates.len() > 1);
        self.replay_change(at, number, self.write(number));
        true
    }

    /// The lowest index above `from`, up to `to`, at which no write is. As answers are replayed in order, the lowest
    /// leaves the others to writes that must come later.
    fn free_index(&self, from: u64, to: u64) -> Option<u64> {
        let is_free = |index: &u64| {
            !self.writes.contains_key(index) && !self.seen.contains_key(index) && !self.given.contains(index)
        };
        (from + 1..=to).find(is_free)
    }

    /// W4: the version that `seer` saw was written here by an unknown write; by one whose condition holds, if
    /// there is one.
    fn place_seen_write(&mut self, index: u64, seer: usize) {
        let (name, value, _) = self.seen[&index];
        let found = self.keys[name].found.map(|found| found.version);
        let mut candidates: Vec<usize> = self.keys[name].unknown.clone();
        candidates.retain(|number| self.can_have_written(*number, index, value));
        let condition = |number: &usize| self.write(*number).condition;
        candidates.sort_by_key(|number| (!condition(number).holds(found), ease(condition(number))));
        if let Some(number) = candidates.first().copied() {
            self.happened(name, number, candidates.len() > 1);
            return self.replay_change(index, number, self.write(number));
        }
        let may_have = |number: &usize| self.can_have_written(*number, index, value);
        let finding = Finding::FromNowhere { op: seer, key: name.to_owned(), version: index };
        if self.keys[name].happened.iter().any(may_have) {
            self.fail(name, finding);
        } else {
            self.findings.push(finding);
        }
        // From here on it is there, or all that saw it would be findings too.
        let key = self.key(name);
        key.found = Some(Found { version: index, value: value.unwrap_or_default() });
        key.known_to = key.known_to.max(index);
    }

    fn can_have_written(&self, number: usize, index: u64, value: Option<u64>) -> bool {
        let writes_it = match self.write(number).change {
            Change::Put(written) => value.is_none_or(|value| value == written),
            Change::Delete => false,
        };
        let is_free = self.reserved.get(&number).is_none_or(|reserved| *reserved == index);
        writes_it && is_free && self.floors[number] < index
    }

    fn happened(&mut self, name: &str, number: usize, guessed: bool) {
        let key = self.key(name);
        key.unknown.retain(|unknown| *unknown != number);
        key.happened.push(number);
        key.guessed |= guessed;
    }

    fn write(&self, number: usize) -> &'h Write {
        match &self.history[number].what {
            What::Write(write) => write,
            other => unreachable!("only writes are unknown: {other:?}"),
        }
    }

    /// A finding on a key whose unknown writes were guessed at may be the guess's fault.
    fn fail(&mut self, name: &str, finding: Finding) {
        if self.keys[name].guessed {
            self.doubtful
                .get_or_insert(format!("{finding:?}, unless unknown writes were taken in another order"));
        } else {
            self.findings.push(finding);
        }
    }
}

/// How easily a write with this condition finds another moment: a version never comes back.
fn ease(condition: Condition) -> u8 {
    match condition {
        Condition::VersionIs(_) => 0,
        Condition::Absent | Condition::Exists => 1,
        Condition::VersionIsNot(_) => 2,
        Condition::None => 3,
    }
}

/// The highest index that was told or shown before each operation's call.
fn floors(history: &[Op]) -> Vec<u64> {
    let mut answers: Vec<(u64, u64)> =
        history.iter().filter_map(|op| Some((op.returned, op.place()?.index))).collect();
    answers.sort_unstable();
    let mut by_call: Vec<usize> = (0..history.len()).collect();
    by_call.sort_unstable_by_key(|number| history[*number].called);
    let mut floors = vec![0; history.len()];
    let (mut passed, mut floor) = (0, 0);
    for number in by_call {
        while passed < answers.len() && answers[passed].0 < history[number].called {
            floor = floor.max(answers[passed].1);
            passed += 1;
        }
        floors[number] = floor;
    }
    floors
}
