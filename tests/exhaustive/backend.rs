//! The fenced resource: the project's own `Verifier`, and all that is between it and the gates.

use termgate::fencing::verifier::{Admission, Fence, Verifier, VerifierMode};
use termgate::ids::{Term, Ticket};

/// A raise, or its answer: whose, of which life, to which term.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Raise {
    pub place: usize,
    pub boot: u64,
    pub term: Term,
}

/// A write that has passed a gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamped {
    pub place: usize,
    pub term: Term,
}

/// The resource and the ways to it. Everything on its way can arrive at any time, or never.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Backend {
    verifier: Verifier,
    stored: Option<Fence>,
    /// Raises on their way.
    raises: Vec<Raise>,
    /// Raises that wait until they are complete.
    waiting: Vec<Raise>,
    /// Answers on their way back.
    answers: Vec<Raise>,
    /// Writes on their way.
    writes: Vec<Stamped>,
    /// Writes that were admitted and can still take effect.
    running: Vec<(Ticket, Stamped)>,
    /// Writes that were stamped so far.
    stamped: u8,
    crashes: u8,
    /// The term of the last write that took effect.
    last: Term,
    /// The highest term whose raise was answered.
    answered: Term,
    /// The highest term whose raise has begun, as far as the resource must know in this life.
    begun: Term,
}

/// Limits of the resource in a bound.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub writes: u8,
    pub crashes: u8,
    /// A raise that was sent once can arrive any number of times, as one that is tried again does.
    pub repeats: bool,
    /// A gate hears of its node's leadership some time after.
    pub gates_lag: bool,
}

/// What can happen to the resource alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    RaiseArrives(usize),
    Stored,
    Complete(usize),
    WriteArrives(usize),
    Lands(usize),
    Crash,
}

impl Backend {
    pub fn new() -> Self {
        Self {
            verifier: Verifier::new(VerifierMode::Enforced, None),
            stored: None,
            raises: Vec::new(),
            waiting: Vec::new(),
            answers: Vec::new(),
            writes: Vec::new(),
            running: Vec::new(),
            stamped: 0,
            crashes: 0,
            last: Term::ZERO,
            answered: Term::ZERO,
            begun: Term::ZERO,
        }
    }

    /// What can happen now.
    pub fn events(&self, limits: &Limits) -> Vec<Event> {
        let mut all: Vec<Event> = (0..self.raises.len()).map(Event::RaiseArrives).collect();
        all.extend((0..self.waiting.len()).map(Event::Complete));
        all.extend((0..self.writes.len()).map(Event::WriteArrives));
        all.extend((0..self.running.len()).map(Event::Lands));
        all.push(Event::Stored);
        if self.crashes < limits.crashes {
            all.push(Event::Crash);
        }
        all
    }

    /// Makes it happen. An error is a broken promise of the fence.
    pub fn on(&mut self, event: Event, limits: &Limits) -> Result<(), String> {
        match event {
            Event::RaiseArrives(at) => {
                let raise = if limits.repeats { self.raises[at] } else { self.raises.remove(at) };
                // One that is refused is not answered: its node's term is over.
                if self.verifier.begin_raise(raise.term, None).is_ok() {
                    self.begun = self.begun.max(raise.term);
                    insert_once(&mut self.waiting, raise);
                }
            }
            Event::Stored => {
                self.verifier.durable(self.verifier.current());
                self.stored = self.verifier.fence();
            }
            Event::Complete(at) => {
                if self.verifier.is_complete(self.waiting[at].term) {
                    let raise = self.waiting.remove(at);
                    self.answered = self.answered.max(raise.term);
                    insert_once(&mut self.answers, raise);
                }
            }
            Event::WriteArrives(at) => {
                let write = self.writes.remove(at);
                if let Admission::Admit(ticket) = self.verifier.admit(Some(write.term)) {
                    if write.term < self.begun {
                        let (term, begun) = (write.term, self.begun);
                        return Err(format!(
                            "a write of term {term} was admitted after a raise to {begun} began"
                        ));
                    }
                    self.running.push((ticket, write));
                }
            }
            Event::Lands(at) => {
                let (ticket, write) = self.running.remove(at);
                self.verifier.end(ticket);
                self.lands(write)?;
            }
            Event::Crash => {
                self.crashes += 1;
                self.verifier = Verifier::new(VerifierMode::Enforced, self.stored);
                self.begun = self.stored.map_or(Term::ZERO, |fence| fence.term);
                self.waiting.clear();
                self.running.clear();
            }
        }
        Ok(())
    }

    fn lands(&mut self, write: Stamped) -> Result<(), String> {
        if write.term < self.last || write.term < self.answered {
            let (term, last, answered) = (write.term, self.last, self.answered);
            return Err(format!(
                "a write of term {term} took effect after {last}, fence answered at {answered}"
            ));
        }
        self.last = write.term;
        Ok(())
    }

    pub fn raise(&mut self, raise: Raise) {
        insert_once(&mut self.raises, raise);
    }

    pub fn write(&mut self, write: Stamped) {
        self.stamped += 1;
        insert(&mut self.writes, write);
    }

    /// The term of the last write that took effect.
    pub const fn last(&self) -> Term {
        self.last
    }

    /// The highest term whose raise was answered.
    pub const fn answered(&self) -> Term {
        self.answered
    }

    pub const fn stamped(&self) -> u8 {
        self.stamped
    }

    pub fn answers(&self) -> &[Raise] {
        &self.answers
    }

    pub fn take_answer(&mut self, at: usize) -> Raise {
        self.answers.remove(at)
    }
}

fn insert<T: Ord>(sorted: &mut Vec<T>, item: T) {
    let at = sorted.partition_point(|other| *other <= item);
    sorted.insert(at, item);
}

/// Of equal raises one is enough: a second one changes nothing.
fn insert_once<T: Ord>(sorted: &mut Vec<T>, item: T) {
    if let Err(at) = sorted.binary_search(&item) {
        sorted.insert(at, item);
    }
}
