//! Clients of the registry: each asks in a loop, at any node, and notes every operation with what it was told, for
//! `lin` to judge.
//!
//! They meet on a few keys, so that operations overlap, and remember together which versions they saw, so that
//! compare-and-set has a chance. A search for an order grows with the operations of a key, and with those of unknown
//! outcome twice for each: after so many the clients go on to new keys.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::client::{Ask, ask, place_of};
use super::cluster::BEARER;
use super::dice::Dice;
use super::http::{Answer, Connection, Failure};
use super::lin::history::{
    Change, Condition, Found, Freshness, Get, List, Listing, Op, Place, Sight, Told, What, Write,
};
use super::wait;

/// Keys that are in use at the same time: fewer than clients.
const KEYS: usize = 4;
/// Operations of a key before all clients go on to new ones; each of them may add the one it is busy with.
const OPS_PER_KEY: usize = 1_500;
/// The same for unknown writes. With eight clients, ten at the worst.
const UNKNOWN_PER_KEY: usize = 3;
/// The number of the first client that only reads.
const FIRST_READER: u64 = 1_000;
/// The number of the one that reads everything at the end.
const LAST_READER: u64 = 999;

/// How a client works.
#[derive(Debug, Clone)]
pub struct Habits {
    /// Nodes and their APIs. Every third client roams between them, the others stay with one.
    pub nodes: Vec<(u64, SocketAddr)>,
    /// Pause between two operations.
    pub pause: Duration,
    /// An answer later than this is given up.
    pub patience: Duration,
}

/// What the clients saw.
#[derive(Debug, Default)]
pub struct Record {
    pub ops: Vec<Op>,
    /// The node that was asked, for each of them.
    pub asked: Vec<u64>,
    /// Answers from which the outcome can't be told. There must be none.
    pub unstated: Vec<String>,
}

/// Clients at work. Ends them on drop.
#[derive(Debug)]
pub struct RegistryCrowd {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    /// What they ask, and whom: that may change.
    habits: Mutex<Habits>,
    start: Instant,
    stop: AtomicBool,
    /// Operations that were answered.
    answered: AtomicUsize,
    board: Mutex<Board>,
    record: Mutex<Record>,
}

/// The keys in use, as all clients know them.
#[derive(Debug, Default)]
struct Board {
    round: u64,
    keys: [KeyCard; KEYS],
}

#[derive(Debug, Default, Clone, Copy)]
struct KeyCard {
    ops: usize,
    unknown: usize,
    /// The newest version that somebody saw.
    version: u64,
}

/// A key that a client has chosen.
#[derive(Debug)]
struct Choice {
    round: u64,
    number: usize,
    name: String,
    version: u64,
}

impl RegistryCrowd {
    /// Starts `count` clients; times count from `start`.
    pub fn start(count: u64, habits: Habits, start: Instant) -> Self {
        let shared = Arc::new(Shared {
            habits: Mutex::new(habits),
            start,
            stop: AtomicBool::new(false),
            answered: AtomicUsize::new(0),
            board: Mutex::default(),
            record: Mutex::default(),
        });
        let spawn = |number| {
            let client = Client::new(number, Arc::clone(&shared));
            std::thread::spawn(move || client.work())
        };
        let threads = (0..count).map(spawn).collect();
        Self { shared, threads }
    }

    /// How many operations were answered: took effect, were held back, or read something.
    pub fn answered(&self) -> usize {
        self.shared.answered.load(Ordering::Relaxed)
    }

    /// From its next operation on, every client asks these nodes.
    pub fn turn_to(&self, nodes: Vec<(u64, SocketAddr)>) {
        self.shared.habits.lock().expect("no client panicked").nodes = nodes;
    }

    /// Lets `count` more clients ask a node for one lease read each. Returns once they have connected, with what to wait
    /// for: the server may be stopped, and then they are its first work when it goes on.
    pub fn queue_lease_reads(
        &self,
        at: (u64, SocketAddr),
        count: u64,
        limit: Duration,
    ) -> Vec<JoinHandle<()>> {
        let connected = Arc::new(AtomicU64::new(0));
        let read = |number| {
            let mut client = Client::new(FIRST_READER + number, Arc::clone(&self.shared));
            client.only_at = Some(at);
            let connected = Arc::clone(&connected);
            std::thread::spawn(move || {
                client.connect();
                connected.fetch_add(1, Ordering::Relaxed);
                client.operate(|client, choice| client.get(choice.name.clone(), Freshness::Lease));
            })
        };
        let readers: Vec<JoinHandle<()>> = (0..count).map(read).collect();
        wait::until("readers are connected", limit, || {
            (connected.load(Ordering::Relaxed) == count).then_some(())
        });
        readers
    }

    /// Lets every client finish its operation. Then each of `nodes` is asked for every key that anybody wrote, by a
    /// linearizable read, so that the history says what is left at the end. Returns all operations.
    pub fn finish(mut self, nodes: &[(u64, SocketAddr)], limit: Duration) -> Record {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().expect("no client panicked");
        }
        let keys = self.shared.record.lock().expect("no client panicked").written_keys();
        for node in nodes {
            let mut reader = Client::new(LAST_READER, Arc::clone(&self.shared));
            reader.only_at = Some(*node);
            for key in &keys {
                wait::until(&format!("node {} tells {key}", node.0), limit, || reader.read_last(key));
            }
        }
        std::mem::take(&mut *self.shared.record.lock().expect("no client panicked"))
    }
}

impl Record {
    /// Every key that somebody tried to write.
    pub fn written_keys(&self) -> BTreeSet<String> {
        let key = |op: &Op| match &op.what {
            What::Write(write) => Some(write.key.clone()),
            What::Get(_) | What::List(_) => None,
        };
        self.ops.iter().filter_map(key).collect()
    }
}

impl Drop for RegistryCrowd {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

impl Board {
    fn choose(&self, dice: &mut Dice) -> Choice {
        let (round, number) = (self.round, dice.below(KEYS));
        let name = format!("{}{}", prefix_of(round), ["a", "b", "c", "d"][number]);
        Choice { round, number, name, version: self.keys[number].version }
    }

    fn note(&mut self, choice: &Choice, op: &Op) {
        if choice.round != self.round {
            return;
        }
        let key = &mut self.keys[choice.number];
        key.ops += 1;
        key.unknown += usize::from(op.is_unknown_write());
        key.version = key.version.max(version_seen(op).unwrap_or(0));
        if key.ops >= OPS_PER_KEY || key.unknown >= UNKNOWN_PER_KEY {
            *self = Self { round: self.round + 1, keys: Default::default() };
        }
    }
}

fn prefix_of(round: u64) -> String {
    format!("r{round}/")
}

/// The newest version of its key that an operation tells of.
fn version_seen(op: &Op) -> Option<u64> {
    match &op.what {
        What::Write(write) => match write.told {
            Told::Done(place) => Some(place.index),
            Told::Held { current, .. } => current,
            Told::Refused | Told::Unknown => None,
        },
        What::Get(get) => get.told?.found.map(|found| found.version),
        What::List(_) => None,
    }
}

struct Client {
    number: u64,
    shared: Arc<Shared>,
    connections: BTreeMap<SocketAddr, Connection>,
    /// The one node it asks; `None` for the habit of all.
    only_at: Option<(u64, SocketAddr)>,
    /// The node that it asked last.
    asked: u64,
    dice: Dice,
    values: u64,
}

/// An answer that tells no outcome, in words.
type Unstated = String;

impl Client {
    fn new(number: u64, shared: Arc<Shared>) -> Self {
        Self {
            number,
            shared,
            connections: BTreeMap::new(),
            only_at: None,
            asked: 0,
            dice: Dice(number + 1),
            values: 0,
        }
    }

    fn work(mut self) {
        while !self.shared.stop.load(Ordering::Relaxed) {
            self.operate(Self::one_operation);
            let pause = self.habits().pause;
            // The pace of the load.
            std::thread::sleep(pause);
        }
    }

    fn habits(&self) -> Habits {
        self.shared.habits.lock().expect("no client panicked").clone()
    }

    fn operate(&mut self, ask: impl FnOnce(&mut Self, &Choice) -> Result<What, Unstated>) {
        let choice = self.shared.board.lock().expect("no client panicked").choose(&mut self.dice);
        if let Some(op) = self.note(|client| ask(client, &choice)) {
            self.shared.board.lock().expect("no client panicked").note(&choice, &op);
        }
    }

    /// Does one operation and notes it, with its times and whom it asked.
    fn note(&mut self, ask: impl FnOnce(&mut Self) -> Result<What, Unstated>) -> Option<Op> {
        let called = self.now();
        let told = ask(self);
        let returned = self.now();
        let mut record = self.shared.record.lock().expect("no client panicked");
        match told {
            Ok(what) => {
                let op = Op { client: self.number, called, returned, what };
                record.ops.push(op.clone());
                record.asked.push(self.asked);
                self.shared.answered.fetch_add(usize::from(op.place().is_some()), Ordering::Relaxed);
                Some(op)
            }
            Err(unstated) => {
                record.unstated.push(unstated);
                None
            }
        }
    }

    /// One of the reads at the end; `None` when it must be tried again. An answer that says nothing is in the record.
    fn read_last(&mut self, key: &str) -> Option<()> {
        let op = self.note(|client| client.get(key.to_owned(), Freshness::Linearizable));
        op.is_none_or(|op| op.place().is_some()).then_some(())
    }

    fn now(&self) -> u64 {
        self.shared.start.elapsed().as_nanos() as u64
    }

    fn one_operation(&mut self, choice: &Choice) -> Result<What, Unstated> {
        let (key, version) = (choice.name.clone(), choice.version);
        match self.dice.below(100) {
            0..22 => self.put(key, Condition::None),
            22..42 => self.put(key, Condition::VersionIs(version)),
            42..46 => self.put(key, Condition::Absent),
            46..49 => self.put(key, Condition::Exists),
            49..52 => self.put(key, Condition::VersionIsNot(version)),
            52..57 => self.delete(key, Condition::None),
            57..61 => self.delete(key, Condition::VersionIs(version)),
            61..76 => self.get(key, Freshness::Linearizable),
            76..86 => self.get(key, Freshness::Lease),
            86..90 => self.get(key, Freshness::Stale { min_index: 0 }),
            90..95 => self.get(key, Freshness::Stale { min_index: version }),
            95..98 => self.list(prefix_of(choice.round), Freshness::Linearizable),
            _ => self.list(prefix_of(choice.round), Freshness::Lease),
        }
    }

    /// Has a connection to the one API it asks, if that can be.
    fn connect(&mut self) {
        let connected = self.only_at.map(|(_, api)| (api, Connection::open(api, self.habits().patience)));
        if let Some((api, Ok(connection))) = connected {
            self.connections.insert(api, connection);
        }
    }

    fn send(
        &mut self,
        method: &str,
        target: &str,
        fields: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Answer, Failure> {
        let Habits { nodes, patience, .. } = self.habits();
        let usual = nodes[place_of(self.number as usize, nodes.len(), &mut self.dice)];
        let (asked, api) = self.only_at.unwrap_or(usual);
        self.asked = asked;
        let fields: Vec<(&str, &str)> = fields.iter().copied().chain([("authorization", BEARER)]).collect();
        ask(&mut self.connections, api, &Ask { method, target, fields: &fields, body }, patience)
    }

    fn put(&mut self, key: String, condition: Condition) -> Result<What, Unstated> {
        self.values += 1;
        let value = (self.number + 1) * 1_000_000_000 + self.values;
        self.write("PUT", key, Change::Put(value), condition)
    }

    fn delete(&mut self, key: String, condition: Condition) -> Result<What, Unstated> {
        self.write("DELETE", key, Change::Delete, condition)
    }

    fn write(
        &mut self,
        method: &str,
        key: String,
        change: Change,
        condition: Condition,
    ) -> Result<What, Unstated> {
        let field = match condition {
            Condition::None => None,
            Condition::Exists => Some(("if-match", "*".to_owned())),
            Condition::Absent => Some(("if-none-match", "*".to_owned())),
            Condition::VersionIs(version) => Some(("if-match", format!("\"{version}\""))),
            Condition::VersionIsNot(version) => Some(("if-none-match", format!("\"{version}\""))),
        };
        let fields: Vec<(&str, &str)> = field.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let body = if let Change::Put(value) = change { value.to_string() } else { String::new() };
        let answer = self.send(method, &format!("/registry/keys/{key}"), &fields, body.as_bytes());
        let told = match answer {
            Ok(answer) => read_told(&answer, change)?,
            Err(Failure::NotSent(_)) => Told::Refused,
            Err(Failure::Lost(_)) => Told::Unknown,
        };
        Ok(What::Write(Write { key, change, condition, told }))
    }

    fn get(&mut self, key: String, freshness: Freshness) -> Result<What, Unstated> {
        let told = match self.read(&format!("/registry/keys/{key}"), freshness)? {
            Some(answer) => Some(read_sight(&answer)?),
            None => None,
        };
        Ok(What::Get(Get { key, freshness, told }))
    }

    fn list(&mut self, prefix: String, freshness: Freshness) -> Result<What, Unstated> {
        let told = match self.read(&format!("/registry/keys?prefix={prefix}"), freshness)? {
            Some(answer) => Some(read_listing(&answer)?),
            None => None,
        };
        Ok(What::List(List { prefix, freshness, told }))
    }

    /// `None` when there is no answer that tells something: none at all, or that the read can't be served.
    fn read(&mut self, target: &str, freshness: Freshness) -> Result<Option<Answer>, Unstated> {
        let (word, min_index) = match freshness {
            Freshness::Linearizable => ("linearizable", 0),
            Freshness::Lease => ("lease", 0),
            Freshness::Stale { min_index } => ("stale", min_index),
        };
        let min_index = min_index.to_string();
        let fields = [("termgate-consistency", word), ("termgate-min-index", min_index.as_str())];
        match self.send("GET", target, &fields, b"") {
            Ok(answer) if matches!(answer.status, 200 | 404) => Ok(Some(answer)),
            Ok(answer) if answer.status == 503 => Ok(None),
            Ok(answer) => Err(unstated(&answer)),
            Err(_) => Ok(None),
        }
    }
}

fn unstated(answer: &Answer) -> Unstated {
    format!("{} {:?} {}", answer.status, answer.fields, answer.text())
}

/// What an answer to a write says. The version that an answer names must be the index at which it was made.
fn read_told(answer: &Answer, change: Change) -> Result<Told, Unstated> {
    let problem = answer.json()["type"].as_str().map(str::to_owned).unwrap_or_default();
    let problem = problem.rsplit(':').next().unwrap_or_default();
    match (answer.status, problem, answer.field("termgate-outcome")) {
        (201 | 204, ..) => {
            let place = witness_of(answer)?;
            let is_put = matches!(change, Change::Put(_));
            let right = version_of(answer) == is_put.then_some(place.index);
            if right { Ok(Told::Done(place)) } else { Err(unstated(answer)) }
        }
        (412, "precondition-failed", Some("not-applied")) | (404, "not-found", Some("not-applied")) => {
            Ok(Told::Held { current: version_of(answer), place: witness_of(answer)? })
        }
        (.., Some("not-applied")) => Ok(Told::Refused),
        (.., Some("unknown")) => Ok(Told::Unknown),
        _ => Err(unstated(answer)),
    }
}

fn read_sight(answer: &Answer) -> Result<Sight, Unstated> {
    let place = witness_of(answer)?;
    let found = match (answer.status, version_of(answer)) {
        (404, None) => None,
        (200, Some(version)) => {
            let value = answer.text().parse().map_err(|_| unstated(answer))?;
            Some(Found { version, value })
        }
        _ => return Err(unstated(answer)),
    };
    Ok(Sight { found, place })
}

fn read_listing(answer: &Answer) -> Result<Listing, Unstated> {
    let body = answer.json();
    let key = |key: &serde_json::Value| Some((key["key"].as_str()?.to_owned(), key["version"].as_u64()?));
    let keys: Option<Vec<(String, u64)>> =
        body["keys"].as_array().and_then(|all| all.iter().map(key).collect());
    match keys {
        Some(keys) if body["more"] == false => Ok(Listing { keys, place: witness_of(answer)? }),
        _ => Err(unstated(answer)),
    }
}

fn witness_of(answer: &Answer) -> Result<Place, Unstated> {
    let number = |name| answer.field(name).and_then(|text| text.parse().ok());
    match (number("termgate-index"), number("termgate-term")) {
        (Some(index), Some(term)) => Ok(Place { index, term }),
        _ => Err(unstated(answer)),
    }
}

fn version_of(answer: &Answer) -> Option<u64> {
    answer.field("etag")?.strip_prefix('"')?.strip_suffix('"')?.parse().ok()
}
