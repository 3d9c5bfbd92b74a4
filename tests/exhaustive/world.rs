//! A whole world in a few numbers, and everything that can happen in it.

use std::cmp::Ordering;

use termgate::raft::effect::{Outcome, RoleKind};

use crate::backend::{Event as BackendEvent, Raise, Stamped};
use crate::bounds::Rates;
use crate::canon::print_of;
use crate::check;
use crate::mail::{Change, Use};
use crate::station::Station;
use crate::symmetry;
use crate::tables::{Desk, Event, Kind};

pub const MAX_NODES: usize = 5;
/// More than a bound allows on the way, until it is decided what gets lost.
pub const MAX_NET: usize = 12;
pub const MAX_TERMS: usize = 6;
pub const MAX_LOG: usize = 6;

const NOTHING: u32 = u32::MAX;
const LETTER: u32 = 0x0fff_ffff;

/// What has happened so far, as far as the properties must know it.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// Who has led, by term: a place plus 1.
    pub leaders: [u8; MAX_TERMS],
    /// What is committed, and in which term it was.
    pub committed: [u8; MAX_LOG],
    pub committed_in: [u8; MAX_LOG],
    pub crashes: u8,
    pub doubles: u8,
    /// Writes that were proposed.
    pub writes: u8,
    /// The highest position that a client was told to be committed.
    pub acknowledged: u8,
    /// For each read: 0 before, [`READ_ENDED`] after; while it lasts, what it must see and where it was asked.
    pub reads: [u8; 2],
    /// How fast the clocks go, where they go together.
    pub rates: Rates,
}

pub const READ_ENDED: u8 = u8::MAX;

/// One state of the search.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct World {
    pub stations: [u32; MAX_NODES],
    /// Letters on their way, ascending. The upper bits count the writes of the sender that each waits for.
    net: [u32; MAX_NET],
    pub record: Record,
    pub backend: u32,
}

/// What can happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Deliver(u32),
    Double(u32),
    Node(u8, Kind, u8),
    Tick,
    Backend(BackendEvent),
    Answer(u8),
}

/// Why an action leads nowhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stop {
    /// It changes nothing, or is outside of the bound.
    Outside,
    /// A property is broken.
    Broken(String),
}

impl From<String> for Stop {
    fn from(text: String) -> Self {
        Self::Broken(text)
    }
}

impl World {
    pub fn new(desk: &mut Desk, rates: Rates) -> Self {
        let (mut stations, bound) = ([0; MAX_NODES], desk.bound());
        for (place, number) in stations.iter_mut().enumerate().take(bound.nodes) {
            *number = desk.tables.station(Station::first(place, bound));
            desk.see_station(*number);
        }
        let record = Record { rates, ..Record::default() };
        let backend = bound.backend.is_some().then(|| desk.tables.backend(crate::backend::Backend::new()));
        Self { stations, net: [NOTHING; MAX_NET], record, backend: backend.unwrap_or(0) }
    }

    /// Everything on its way: the letter and the writes it waits for.
    pub fn net(&self) -> impl Iterator<Item = (u32, usize)> {
        self.net
            .iter()
            .take_while(|item| **item != NOTHING)
            .map(|item| (item & LETTER, (item >> 28) as usize))
    }

    fn count(&self) -> usize {
        self.net.iter().position(|item| *item == NOTHING).unwrap_or(MAX_NET)
    }

    fn post(&mut self, letters: &[(u32, usize)]) {
        let count = self.count();
        assert!(count + letters.len() <= MAX_NET, "a step says only so much");
        for (item, (letter, waits)) in self.net[count..].iter_mut().zip(letters) {
            assert!(*letter < LETTER && *waits < 15, "fits into a number");
            *item = letter | (*waits as u32) << 28;
        }
    }

    /// Takes a letter that has left its sender off its way.
    fn take(&mut self, letter: u32) {
        let at = self.net.iter().position(|item| *item == letter).expect("a letter on its way");
        self.net.copy_within(at + 1.., at);
        self.net[MAX_NET - 1] = NOTHING;
    }

    /// How many messages are on their way beyond what the bound allows.
    pub fn excess(&self, desk: &Desk) -> usize {
        self.count().saturating_sub(desk.bound().inflight)
    }

    /// This world in every way in which `count` messages can get lost.
    pub fn lighter(&self, count: usize) -> Vec<Self> {
        let mut all = vec![(*self, 0)];
        for _ in 0..count {
            let mut next = Vec::new();
            for (world, least) in &all {
                for at in *least..world.count() {
                    if at == *least || world.net[at] != world.net[at - 1] {
                        let mut lighter = *world;
                        lighter.net.copy_within(at + 1.., at);
                        lighter.net[MAX_NET - 1] = NOTHING;
                        next.push((lighter, at));
                    }
                }
            }
            all = next;
        }
        all.into_iter().map(|(world, _)| world).collect()
    }

    /// 128 bits that stand for this world: the least under all renamings.
    pub fn print(&self, desk: &Desk) -> u128 {
        if desk.tables.renamings.is_empty() {
            let pack = |four: &[u32]| four.iter().fold(0u128, |word, part| word << 32 | u128::from(*part));
            let words = self.stations.chunks(4).chain(self.net.chunks(4)).map(pack);
            let record = self.record.words();
            return print_of(words.chain(record).chain([u128::from(self.backend)]));
        }
        // Of renamings that put the colours in order, the stations decide which gives the least, and what else
        // there is only among equals.
        let colours = self.stations.map(|number| desk.facts(number).colour);
        let mut least = [u128::MAX; MAX_NODES];
        let mut print = u128::MAX;
        for (n, renaming) in desk.tables.renamings.iter().enumerate() {
            if !symmetry::is_in_order(&colours, &desk.tables.inverses[n], desk.bound()) {
                continue;
            }
            let stations = self.renamed_stations(desk, n, renaming);
            match stations.cmp(&least) {
                Ordering::Less => (least, print) = (stations, self.renamed(desk, n, &stations)),
                Ordering::Equal => print = print.min(self.renamed(desk, n, &stations)),
                Ordering::Greater => {}
            }
        }
        print
    }

    fn renamed_stations(&self, desk: &Desk, n: usize, renaming: &[usize]) -> [u128; MAX_NODES] {
        let mut stations = [0u128; MAX_NODES];
        for (number, place) in self.stations.iter().zip(renaming) {
            stations[*place] = desk.facts(*number).prints[n];
        }
        stations
    }

    /// The print of this world under the `n`th renaming.
    pub fn print_as(&self, desk: &Desk, n: usize) -> u128 {
        self.renamed(desk, n, &self.renamed_stations(desk, n, &desk.tables.renamings[n]))
    }

    fn renamed(&self, desk: &Desk, n: usize, stations: &[u128]) -> u128 {
        let renaming = &desk.tables.renamings[n];
        // Order means nothing among letters.
        let letters = self.net().fold(0u128, |sum, (letter, waits)| {
            let print = desk.letter(letter).prints[n];
            sum.wrapping_add(print.wrapping_mul(((waits as u128) << 64) | (2 * waits as u128 + 1)))
        });
        let mut record = self.record;
        for leader in record.leaders.iter_mut().filter(|leader| **leader > 0) {
            *leader = renaming[*leader as usize - 1] as u8 + 1;
        }
        for read in record.reads.iter_mut().filter(|read| (1..READ_ENDED).contains(*read)) {
            let (must_see, place) = ((*read - 1) >> 4, (*read - 1) & 0xf);
            *read = 1 + (must_see << 4) + renaming[place as usize] as u8;
        }
        if !desk.bound().time.rates.is_empty() {
            let moved = self.record.rates.iter().zip(renaming);
            moved.for_each(|(rate, place)| record.rates[*place] = *rate);
        }
        print_of(stations.iter().copied().chain([letters]).chain(record.words()))
    }

    /// Everything that can happen here, whether or not it leads somewhere.
    pub fn actions(&self, desk: &Desk, all: &mut Vec<Action>) {
        let bound = desk.bound();
        self.on_the_way(desk, all);
        for place in 0..bound.nodes as u8 {
            self.at(place, desk, all);
        }
        let stands_still = bound.time.rates.is_empty() || (bound.time.punctual && self.is_late(desk));
        if !stands_still {
            all.push(Action::Tick);
        }
        if let Some(limits) = &bound.backend {
            let backend = desk.tables.backend_at(self.backend);
            all.extend(backend.events(limits).into_iter().map(Action::Backend));
            all.extend((0..backend.answers().len() as u8).map(Action::Answer));
        }
    }

    /// Whether a timer is over that nobody has looked at.
    fn is_late(&self, desk: &Desk) -> bool {
        self.stations.iter().take(desk.bound().nodes).any(|number| {
            let station = &desk.facts(*number).station;
            station.node.deadline() <= station.now
        })
    }

    fn on_the_way(&self, desk: &Desk, all: &mut Vec<Action>) {
        let (bound, record) = (desk.bound(), &self.record);
        for at in 0..self.count() {
            // Of equals one is enough; what waits for a disk is not on its way yet.
            if self.net[at] > LETTER || (at > 0 && self.net[at] == self.net[at - 1]) {
                continue;
            }
            let letter = self.net[at];
            all.push(Action::Deliver(letter));
            if record.doubles < bound.doubles {
                all.push(Action::Double(letter));
            }
        }
    }

    fn at(&self, place: u8, desk: &Desk, all: &mut Vec<Action>) {
        let (bound, record) = (desk.bound(), &self.record);
        let facts = desk.facts(self.stations[place as usize]);
        let mut add = |kind: Kind, number: u8| all.push(Action::Node(place, kind, number));
        bound.time.waits.iter().for_each(|wait| add(Kind::Timeout, *wait as u8));
        if !facts.station.queue.is_empty() {
            add(Kind::Persist, 0);
        }
        if record.crashes < bound.crashes {
            add(Kind::Crash, 0);
        }
        if record.writes < bound.writes && facts.role == RoleKind::Leader {
            add(Kind::Propose, record.writes + 1);
        }
        if let Some(next) = record.reads.iter().take(bound.reads as usize).position(|read| *read == 0) {
            add(Kind::Read, next as u8);
        }
        if let Some(limits) = &bound.backend {
            add(Kind::Admit, 0);
            if limits.gates_lag {
                add(Kind::Tell, 0);
            }
        }
        if bound.learners > 0 && facts.role == RoleKind::Leader {
            add(Kind::Promote, 0);
        }
    }

    /// The world after `action`.
    pub fn after(&self, action: Action, desk: &mut Desk) -> Result<Self, Stop> {
        let mut world = *self;
        match action {
            Action::Deliver(letter) => {
                world.take(letter);
                let to = desk.letter(letter).to;
                match world.happen(to, Event(Kind::Deliver, letter), desk) {
                    // It came and did nothing: it is gone all the same.
                    Err(Stop::Outside) if world.is_idle(to, letter, desk) => {}
                    Err(stop) => return Err(stop),
                    Ok(()) => {}
                }
            }
            Action::Double(letter) => {
                world.post(&[(letter, 0)]);
                world.record.doubles += 1;
            }
            Action::Node(place, kind, number) => world.on_node(place as usize, kind, number, desk)?,
            Action::Tick => {
                for (place, rate) in self.record.rates.into_iter().enumerate() {
                    world.pass(place, rate, desk)?;
                }
                check::everywhere(&world, desk)?;
            }
            Action::Backend(event) => {
                let mut backend = (*desk.tables.backend_at(self.backend)).clone();
                backend.on(event, desk.bound().backend.as_ref().expect("a bound with a resource"))?;
                desk.reached.landed = desk.reached.landed.max(backend.last().0 as u8);
                world.backend = desk.tables.backend(backend);
            }
            Action::Answer(at) => {
                let mut backend = (*desk.tables.backend_at(self.backend)).clone();
                let answer = backend.take_answer(at as usize);
                world.backend = desk.tables.backend(backend);
                let boot = desk.facts(self.stations[answer.place]).station.boot;
                if boot == answer.boot {
                    let raised = Event(Kind::Raised, answer.term.0 as u32);
                    match world.happen(answer.place, raised, desk) {
                        Ok(()) | Err(Stop::Outside) => {}
                        Err(broken) => return Err(broken),
                    }
                }
            }
        }
        world.tidy(desk);
        if world == *self { Err(Stop::Outside) } else { Ok(world) }
    }

    fn is_idle(&self, place: usize, letter: u32, desk: &mut Desk) -> bool {
        desk.step(self.stations[place], Event(Kind::Deliver, letter)).idle
    }

    fn on_node(&mut self, place: usize, kind: Kind, number: u8, desk: &mut Desk) -> Result<(), Stop> {
        match kind {
            Kind::Timeout => {
                let station = &desk.facts(self.stations[place]).station;
                if station.node.deadline() > station.now + crate::station::units(u64::from(number)) {
                    return Err(Stop::Outside);
                }
            }
            Kind::Crash => self.record.crashes += 1,
            Kind::Propose => self.record.writes += 1,
            Kind::Read => {
                let must_see = self.must_be_seen(desk);
                self.record.reads[number as usize] = 1 + (must_see << 4) + place as u8;
            }
            _ => {}
        }
        self.happen(place, Event(kind, u32::from(number)), desk)
    }

    /// The position that a read which begins now must not miss. What is committed was not told to anybody where
    /// nobody writes; there a read must see it all the same, as it would have to see a write in its place.
    fn must_be_seen(&self, desk: &Desk) -> u8 {
        let committed = || self.record.committed.iter().filter(|entry| **entry != 0).count() as u8;
        if desk.bound().writes == 0 { committed() } else { self.record.acknowledged }
    }

    /// Something happens to the node at `place`, with everything that follows from it at once.
    fn happen(&mut self, place: usize, event: Event, desk: &mut Desk) -> Result<(), Stop> {
        let before = self.stations[place];
        let step = desk.step(before, event);
        if let Some(wrong) = &step.wrong {
            return Err(Stop::Broken(wrong.clone()));
        }
        if step.idle {
            return Err(Stop::Outside);
        }
        self.within(step.next, desk)?;
        if event.0 == Kind::Crash {
            self.keep(|letter, waits| waits == 0 || desk.letter(letter).from != place);
            self.forget_reads(place);
        }
        self.age(place, step.change, desk);
        self.stations[place] = step.next;
        if event.0 == Kind::Persist {
            self.release(place, desk)?;
        }
        let resigns = desk.bound().winners_resign && desk.facts(step.next).role == RoleKind::Leader;
        // What is said by a winner that resigns is lost.
        if !resigns {
            self.post(&step.sends);
        }
        check::after_step(self, place, before, event.0 == Kind::Crash, desk)?;
        self.reach(step.next, desk);
        for (ticket, outcome) in &step.replies {
            desk.reached.served |= matches!(outcome, Outcome::ReadAt { .. });
            desk.reached.settled |= matches!(outcome, Outcome::Reconfigured(_));
            check::reply(self, ticket.0 as u8, outcome, desk)?;
            self.answer(ticket.0 as u8, outcome);
        }
        let boot = desk.facts(step.next).station.boot;
        if let Some(term) = step.raise {
            self.at_backend(desk, |backend| backend.raise(Raise { place, boot, term }));
        }
        if let Some(term) = step.stamped {
            let most = desk.bound().backend.as_ref().map_or(0, |limits| limits.writes);
            let backend = desk.tables.backend_at(self.backend);
            if backend.stamped() >= most {
                return Err(Stop::Outside);
            }
            check::stamp(self, place, term, backend.answered())?;
            desk.reached.stamped = true;
            self.at_backend(desk, |backend| backend.write(Stamped { place, term }));
        }
        if resigns { self.happen(place, Event(Kind::Stall, 0), desk) } else { Ok(()) }
    }

    /// Takes down what has happened now.
    fn reach(&self, station: u32, desk: &mut Desk) {
        let facts = desk.facts(station);
        let (leads, lease) = (facts.role == RoleKind::Leader, facts.lease);
        let led = if leads { facts.term } else { 0 };
        let committed = self.record.committed.iter().filter(|entry| **entry != 0).count() as u8;
        desk.reached.led = desk.reached.led.max(led);
        desk.reached.committed = desk.reached.committed.max(committed);
        desk.reached.leased |= lease;
    }

    fn at_backend(&mut self, desk: &Desk, act: impl FnOnce(&mut crate::backend::Backend)) {
        let mut backend = (*desk.tables.backend_at(self.backend)).clone();
        act(&mut backend);
        self.backend = desk.tables.backend(backend);
    }

    /// Time passes for one node.
    fn pass(&mut self, place: usize, units: u8, desk: &mut Desk) -> Result<(), Stop> {
        let step = desk.step(self.stations[place], Event(Kind::Elapse, u32::from(units)));
        if let Some(wrong) = &step.wrong {
            return Err(Stop::Broken(format!("node {}: {wrong}", place + 1)));
        }
        assert!(step.sends.is_empty() && step.replies.is_empty(), "time alone says nothing");
        self.age(place, step.change, desk);
        self.stations[place] = step.next;
        Ok(())
    }

    fn within(&self, station: u32, desk: &Desk) -> Result<(), Stop> {
        let (bound, facts) = (desk.bound(), desk.facts(station));
        let asks_for = facts.term + u8::from(facts.role == RoleKind::PreCandidate);
        let inside = asks_for <= bound.terms
            && facts.log.len() <= bound.entries
            && facts.station.queue.len() <= bound.behind
            && facts.questions <= bound.questions;
        if inside { Ok(()) } else { Err(Stop::Outside) }
    }

    fn age(&mut self, place: usize, change: Change, desk: &mut Desk) {
        if change == Change::NONE {
            return;
        }
        for item in self.net.iter_mut().take_while(|item| **item != NOTHING) {
            let letter = *item & LETTER;
            if desk.letter(letter).owner == Some(place) {
                *item = desk.aged(letter, change) | *item & !LETTER;
            }
        }
    }

    /// A write of `place` is done: what waited for it leaves.
    fn release(&mut self, place: usize, desk: &Desk) -> Result<(), Stop> {
        let station = &desk.facts(self.stations[place]).station;
        for item in self.net.iter_mut().take_while(|item| **item != NOTHING) {
            let letter = desk.letter(*item & LETTER);
            if *item > LETTER && letter.from == place {
                *item -= LETTER + 1;
                if *item <= LETTER {
                    let covered = station.covers(&letter.message);
                    covered.map_err(|text| format!("{}: {text}", crate::words::message(&letter.message)))?;
                }
            }
        }
        Ok(())
    }

    fn keep(&mut self, wanted: impl Fn(u32, usize) -> bool) {
        let mut kept = [NOTHING; MAX_NET];
        let mut count = 0;
        for item in self.net.iter().take_while(|item| **item != NOTHING) {
            if wanted(item & LETTER, (item >> 28) as usize) {
                kept[count] = *item;
                count += 1;
            }
        }
        self.net = kept;
    }

    fn forget_reads(&mut self, place: usize) {
        for read in self.record.reads.iter_mut().filter(|read| (1..READ_ENDED).contains(*read)) {
            if (*read - 1) & 0xf == place as u8 {
                *read = READ_ENDED;
            }
        }
    }

    fn answer(&mut self, ticket: u8, outcome: &Outcome) {
        match outcome {
            Outcome::Committed(id) => {
                self.record.acknowledged = self.record.acknowledged.max(id.index.0 as u8);
            }
            _ if ticket < check::FIRST_WRITE => self.record.reads[ticket as usize] = READ_ENDED,
            _ => {}
        }
    }

    /// Drops answers that nobody waits for, and puts the rest in order.
    fn tidy(&mut self, desk: &mut Desk) {
        let mut at = 0;
        while at < self.count() {
            let number = self.net[at];
            let letter = if number <= LETTER { Some(desk.letter(number)) } else { None };
            let dead = letter.is_some_and(|letter| match letter.use_of {
                Use::Full => false,
                Use::Term => {
                    letter.message.term.0 <= u64::from(desk.facts(self.stations[letter.to]).disk_term)
                }
                Use::None => true,
            });
            let to = letter.map_or(0, |letter| letter.to);
            let asks = letter.is_some_and(|letter| letter.asks_before);
            if dead && (asks || self.is_idle(to, number, desk)) {
                self.take(number);
            } else {
                at += 1;
            }
        }
        let count = self.count();
        self.net[..count].sort_unstable();
    }
}

impl Record {
    fn words(&self) -> [u128; 2] {
        let mut bytes = [0u8; 32];
        let rest = [self.crashes, self.doubles, self.writes, self.acknowledged];
        let all = self.leaders.iter().chain(&self.committed).chain(&self.committed_in).chain(&rest);
        for (byte, value) in bytes.iter_mut().zip(all.chain(&self.reads).chain(&self.rates)) {
            *byte = *value;
        }
        let (low, high) = bytes.split_at(16);
        [low, high].map(|half| u128::from_le_bytes(half.try_into().expect("sixteen bytes")))
    }
}
