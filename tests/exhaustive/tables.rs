//! What is known once and used often: every different station, message and backend under a number, and what
//! each event makes of each station.
//!
//! A step of a node depends on nothing but the node and its input. So the core runs once for each pair of
//! those, and the search over whole worlds is a matter of numbers. The first station that is found for a
//! canonical form stands for all of them.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::rc::Rc;
use std::sync::{Arc, Mutex, RwLock};

use termgate::ids::{LogId, NodeId, Term, Ticket};
use termgate::raft::effect::{Outcome, RoleKind};
use termgate::raft::entry::Payload;
use termgate::raft::message::{Body, Message};
use termgate::time::Instant;

use crate::backend::Backend;
use crate::bounds::Bound;
use crate::canon::{END, Stream};
use crate::mail::{self, Change, Marks, Use};
use crate::station::{Local, Station, Turn, codes};
use crate::symmetry::{self, Renaming};
use crate::world::World;

/// What the search looks at of a station.
#[derive(Debug)]
pub struct Facts {
    pub station: Station,
    pub marks: Marks,
    pub role: RoleKind,
    pub term: u8,
    pub commit: usize,
    pub log: Vec<u8>,
    /// Whether the membership in force is the newest one in the log, as it must be.
    pub follows_log: bool,
    pub disk_log: Vec<u8>,
    pub disk_term: u8,
    pub disk_vote: Option<NodeId>,
    /// Whether the lease holds now.
    pub lease: bool,
    /// The highest position of a read here.
    pub questions: u64,
    /// The canonical form under each renaming of the bound; the first is the identity.
    pub prints: Vec<u128>,
    /// The same under every renaming.
    pub colour: u64,
}

/// What the search looks at of a message.
#[derive(Debug)]
pub struct Letter {
    pub message: Message,
    pub from: usize,
    pub to: usize,
    pub owner: Option<usize>,
    pub use_of: Use,
    /// Asks whether a campaign could be won.
    pub asks_before: bool,
    pub prints: Vec<u128>,
}

/// What an event makes of a station, in numbers.
#[derive(Debug)]
pub struct Step {
    pub next: u32,
    pub sends: Vec<(u32, usize)>,
    pub change: Change,
    pub replies: Vec<(Ticket, Outcome)>,
    pub raise: Option<Term>,
    pub stamped: Option<Term>,
    pub wrong: Option<String>,
    /// Whether nothing happened.
    pub idle: bool,
}

/// What happens to a station, as a kind and a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event(pub Kind, pub u32);

/// See [`Local`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    Deliver,
    Timeout,
    Elapse,
    Persist,
    Crash,
    Propose,
    Read,
    Stall,
    Admit,
    Tell,
    Raised,
    Promote,
}

/// Things under numbers.
#[derive(Debug)]
pub struct Interner<T> {
    numbers: Mutex<HashMap<u128, u32>>,
    things: RwLock<Vec<Arc<T>>>,
}

impl<T> Default for Interner<T> {
    fn default() -> Self {
        Self { numbers: Mutex::default(), things: RwLock::default() }
    }
}

impl<T> Interner<T> {
    fn number(&self, print: u128, make: impl FnOnce() -> T) -> u32 {
        let mut numbers = self.numbers.lock().expect("nobody panics here");
        *numbers.entry(print).or_insert_with(|| {
            let mut things = self.things.write().expect("nobody panics here");
            things.push(Arc::new(make()));
            u32::try_from(things.len() - 1).expect("fewer than 2^32 things")
        })
    }

    fn read(&self, from: usize, into: &mut Vec<Arc<T>>) {
        into.extend(self.things.read().expect("nobody panics here")[from..].iter().cloned());
    }

    fn get(&self, number: u32) -> Arc<T> {
        Arc::clone(&self.things.read().expect("nobody panics here")[number as usize])
    }

    pub fn count(&self) -> usize {
        self.things.read().expect("nobody panics here").len()
    }
}

/// Shared by all threads of a search.
#[derive(Debug)]
pub struct Tables {
    pub bound: Bound,
    pub renamings: Vec<Renaming>,
    /// The inverse of each of them.
    pub inverses: Vec<Renaming>,
    pub stations: Interner<Facts>,
    pub letters: Interner<Letter>,
    backends: Interner<Backend>,
}

/// Keys that are hashes already.
#[derive(Debug, Default, Clone)]
pub struct Identity(u64);
pub type Plain = BuildHasherDefault<Identity>;

impl Hasher for Identity {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("a key is a number");
    }

    fn write_u128(&mut self, key: u128) {
        self.0 = (key as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(26) ^ (key >> 64) as u64;
    }
}

impl Tables {
    pub fn new(bound: Bound) -> Self {
        let (stations, letters) = (Interner::default(), Interner::default());
        let renamings = symmetry::of(&bound);
        let inverses = renamings.iter().map(|renaming| symmetry::inverse(renaming)).collect();
        Self { bound, renamings, inverses, stations, letters, backends: Interner::default() }
    }

    pub fn station(&self, station: Station) -> u32 {
        let (stream, of_node) = form(&station, &self.bound);
        self.stations.number(stream.print(), || self.facts(station, &stream, of_node))
    }

    fn facts(&self, station: Station, stream: &Stream, of_node: usize) -> Facts {
        let (shown, memory) = (station.node.leadership(), station.log());
        let log = codes(&memory);
        let last = memory.log.last().map_or(LogId::ZERO, |entry| entry.id);
        assert_eq!(station.node.view().last_log, last, "the log is what was written and is being written");
        let newest = memory.log.iter().rev().find_map(|entry| match &entry.payload {
            Payload::Membership(membership) => Some(membership),
            _ => None,
        });
        let follows_log = station.node.view().membership == *newest.unwrap_or(&memory.membership);
        let lease = shown.lease_until.is_some_and(|until| station.now < until);
        let prints = symmetry::prints(&stream.words, &self.renamings);
        Facts {
            marks: Marks::of(&station, stream, of_node, &self.bound),
            role: shown.role,
            term: shown.term.0 as u8,
            commit: shown.commit_index.0 as usize,
            log,
            follows_log,
            disk_log: codes(&station.durable),
            disk_term: station.durable.hard_state.current_term.0 as u8,
            disk_vote: station.durable.hard_state.voted_for,
            lease,
            questions: stream.questions,
            colour: symmetry::colour(&prints),
            prints,
            station,
        }
    }

    pub fn letter(&self, message: Message) -> u32 {
        let stream = Stream::raw(&message);
        self.letters.number(stream.print(), || {
            let prints = symmetry::prints(&stream.words, &self.renamings);
            let place = |id: NodeId| id.0 as usize - 1;
            Letter {
                from: place(message.from),
                to: place(message.to),
                owner: mail::owner(&message).map(|(owner, _)| owner),
                use_of: mail::use_of(&message),
                asks_before: matches!(&message.body, Body::RequestVote(request) if request.ballot.pre_vote),
                prints,
                message,
            }
        })
    }

    pub fn backend(&self, backend: Backend) -> u32 {
        self.backends.number(Stream::raw(&backend).print(), || backend)
    }

    pub fn backend_at(&self, number: u32) -> Arc<Backend> {
        self.backends.get(number)
    }
}

/// The canonical form of all that lies at one place; the marks are read off the node's part of it.
pub fn form(station: &Station, bound: &Bound) -> (Stream, usize) {
    let oldest = Instant(station.now.0 - bound.past());
    let mut stream = Stream::of(&station.node, oldest, station.done);
    let of_node = stream.sessions.len();
    stream.words.push(END);
    (&station.durable, &station.queue, station.boot, &station.gate).hash(&mut stream);
    (stream, of_node)
}

/// A thread's view of the tables: what it has seen of them, without locks.
#[derive(Debug)]
pub struct Desk<'a> {
    pub tables: &'a Tables,
    stations: Vec<Arc<Facts>>,
    letters: Vec<Arc<Letter>>,
    steps: HashMap<u128, Rc<Step>, Plain>,
    aged: HashMap<u128, u32, Plain>,
    pub reached: Reached,
}

/// What was seen to happen: a search that never gets there proves nothing.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Reached {
    /// The highest term that somebody led in.
    pub led: u8,
    /// The most entries that were committed.
    pub committed: u8,
    /// Reads that were given a position, and leases and tokens that held, if any.
    pub served: bool,
    pub leased: bool,
    pub stamped: bool,
    /// The highest term of a write that took effect.
    pub landed: u8,
    /// Whether a change of the membership was told to be complete.
    pub settled: bool,
}

impl Reached {
    pub fn with(self, other: Self) -> Self {
        Self {
            led: self.led.max(other.led),
            committed: self.committed.max(other.committed),
            served: self.served || other.served,
            leased: self.leased || other.leased,
            stamped: self.stamped || other.stamped,
            landed: self.landed.max(other.landed),
            settled: self.settled || other.settled,
        }
    }
}

impl<'a> Desk<'a> {
    pub fn new(tables: &'a Tables) -> Self {
        let (steps, aged) = (HashMap::default(), HashMap::default());
        let (stations, letters) = (Vec::new(), Vec::new());
        Self { tables, stations, letters, steps, aged, reached: Reached::default() }
    }

    pub fn bound(&self) -> &'a Bound {
        &self.tables.bound
    }

    /// Makes sure that what has this number is seen.
    pub fn see_station(&mut self, number: u32) {
        if number as usize >= self.stations.len() {
            self.tables.stations.read(self.stations.len(), &mut self.stations);
        }
    }

    /// The same for a letter.
    pub fn see_letter(&mut self, number: u32) {
        if number as usize >= self.letters.len() {
            self.tables.letters.read(self.letters.len(), &mut self.letters);
        }
    }

    /// All that a world of another thread is made of.
    pub fn see(&mut self, world: &World) {
        world.stations.iter().take(self.tables.bound.nodes).for_each(|number| self.see_station(*number));
        world.net().for_each(|(letter, _)| self.see_letter(letter));
    }

    pub fn facts(&self, number: u32) -> &Facts {
        &self.stations[number as usize]
    }

    pub fn letter(&self, number: u32) -> &Letter {
        &self.letters[number as usize]
    }

    /// What an event makes of a station.
    pub fn step(&mut self, number: u32, event: Event) -> Rc<Step> {
        let key = u128::from(number) << 64 | u128::from(event.0 as u8) << 32 | u128::from(event.1);
        if let Some(step) = self.steps.get(&key) {
            return Rc::clone(step);
        }
        let step = Rc::new(self.make(number, event));
        self.see_station(step.next);
        step.sends.iter().for_each(|(letter, _)| self.see_letter(*letter));
        self.steps.insert(key, Rc::clone(&step));
        step
    }

    /// How many different steps the core has made for this thread.
    pub fn step_count(&self) -> usize {
        self.steps.len()
    }

    fn make(&mut self, number: u32, event: Event) -> Step {
        let (tables, before) = (self.tables, self.facts(number));
        let local = self.local(before, event);
        let Turn { station, sends, replies, raise, stamped, wrong } =
            before.station.turn(&local, self.bound());
        // Held against the station that said it: the one that stands for it may count from elsewhere.
        let (stream, of_node) = form(&station, self.bound());
        let marks = Marks::of(&station, &stream, of_node, self.bound());
        let change = if local == Local::Crash { Change::DEATH } else { before.marks.change(&marks) };
        let mut wrong = wrong;
        let mut letters = Vec::new();
        for (message, waits) in sends {
            if waits == 0
                && let Err(text) = station.covers(&message)
            {
                wrong = Some(format!("{}: {text}", crate::words::message(&message)));
            }
            letters.push((tables.letter(mail::emitted(&message, &marks)), waits));
        }
        let next = tables.stations.number(stream.print(), || tables.facts(station, &stream, of_node));
        let idle = next == number
            && letters.is_empty()
            && replies.is_empty()
            && change == Change::NONE
            && (&raise, &stamped, &wrong) == (&None, &None, &None);
        Step { next, sends: letters, change, replies, raise, stamped, wrong, idle }
    }

    fn local(&self, before: &Facts, event: Event) -> Local {
        let Event(kind, number) = event;
        match kind {
            Kind::Deliver => {
                Local::Deliver(Box::new(mail::absolute(&self.letter(number).message, &before.marks)))
            }
            Kind::Timeout => Local::Timeout(u64::from(number)),
            Kind::Elapse => Local::Elapse(u64::from(number)),
            Kind::Persist => Local::Persist,
            Kind::Crash => Local::Crash,
            Kind::Propose => Local::Propose(number as u8),
            Kind::Read => Local::Read(number as u8),
            Kind::Stall => Local::Stall,
            Kind::Admit => Local::Admit,
            Kind::Tell => Local::Tell,
            Kind::Raised => Local::Raised(Term(u64::from(number))),
            Kind::Promote => Local::Promote,
        }
    }

    /// The letter that one has become when its owner's marks moved.
    pub fn aged(&mut self, number: u32, change: Change) -> u32 {
        let flags = u128::from(change.ended) << 1 | u128::from(change.campaign_ended);
        let key = u128::from(number) << 96 | flags << 64 | u128::from(change.passed);
        if let Some(known) = self.aged.get(&key) {
            return *known;
        }
        let aged = self.tables.letter(mail::aged(&self.letter(number).message, change));
        self.aged.insert(key, aged);
        self.see_letter(aged);
        aged
    }
}
