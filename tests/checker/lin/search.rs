//! Layer 2: looks for an order of one key's operations in which every answer fits and nobody overtakes
//! an operation that had ended before it was called (Wing and Gong, with the cache of Lowe).
//!
//! The search keeps the calls and answers that are not yet ordered in a list, by time. Whatever is called
//! before the first answer in it may come next: it is tried, taken out, and the search goes on from the
//! beginning of the list. When nothing fits, the last choice is undone. What makes this quick: a set of operations
//! that led to a state is not searched from again, whatever their order was. And what fits and changes nothing, as most
//! reads, is taken at once and for good: any order in which it comes later is one with it moved to here.
//!
//! Unknown writes have no answer in the list, so they need not happen. They are tried last, and only where what comes
//! next needs them: one that makes no difference to it could as well be left out. Otherwise each of them would double
//! the work.
//!
//! The search counts its steps and gives up at a limit: a count, not a time, so that a verdict does not depend on the
//! machine.

use std::collections::HashSet;

use super::Decision;
use super::history::Time;
use super::model::{State, Step};

/// Steps that are shown of the best order that was found.
const SHOWN_STEPS: usize = 6;

/// One operation of a key.
#[derive(Debug, Clone, Copy)]
pub struct Timed {
    /// Its place in the history, for the explanation.
    pub op: usize,
    pub called: Time,
    /// `None` for an unknown write.
    pub answered: Option<Time>,
    pub step: Step,
}

/// What the search came to.
#[derive(Debug, Clone)]
pub struct Search {
    pub decision: Decision<Stuck>,
    pub steps: u64,
}

/// Where the best order ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stuck {
    /// How many answered operations were in order, of how many.
    pub placed: usize,
    pub of: usize,
    /// The last of them, as places in the history.
    pub last: Vec<usize>,
    /// What the key was after them.
    pub state: State,
    /// The operation that had to come next at the latest, and can't.
    pub blocker: usize,
}

/// Looks for an order of `ops`, which are all operations of one key, in at most `step_limit` steps.
pub fn search(ops: &[Timed], step_limit: u64) -> Search {
    let mut searcher = Searcher::new(ops);
    let decision = searcher.run(step_limit);
    Search { decision, steps: searcher.steps }
}

/// Where to look for what comes next: at an entry of the list, or at an unknown write.
#[derive(Debug, Clone, Copy)]
enum Cursor {
    Entry(usize),
    Unknown(usize),
}

/// A choice, and what was before it.
#[derive(Debug, Clone, Copy)]
struct Frame {
    chosen: Cursor,
    before: State,
    /// It changed nothing, so that there is no need to try anything else in its place.
    only: bool,
}

impl Frame {
    fn is_unknown(&self) -> bool {
        matches!(self.chosen, Cursor::Unknown(_))
    }
}

/// A call or an answer in the list.
#[derive(Debug, Clone, Copy)]
struct Entry {
    /// Which of the answered operations.
    op: usize,
    at: Time,
    is_answer: bool,
}

struct Searcher<'o> {
    answered: Vec<&'o Timed>,
    /// In the order of their calls.
    unknown: Vec<&'o Timed>,
    entries: Vec<Entry>,
    list: Links,
    /// The entry of each answered operation's answer.
    answer_of: Vec<usize>,
    /// One bit for each answered operation, then one for each unknown write.
    taken: Vec<u64>,
    state: State,
    stack: Vec<Frame>,
    placed: usize,
    /// What was placed, what it came to, and the state that an unknown write has just changed, if one has.
    tried: HashSet<(Box<[u64]>, State, Option<State>)>,
    steps: u64,
    best: Option<Stuck>,
}

impl<'o> Searcher<'o> {
    fn new(ops: &'o [Timed]) -> Self {
        let mut answered: Vec<&Timed> = ops.iter().filter(|timed| timed.answered.is_some()).collect();
        let mut unknown: Vec<&Timed> = ops.iter().filter(|timed| timed.answered.is_none()).collect();
        answered.sort_by_key(|timed| timed.called);
        unknown.sort_by_key(|timed| timed.called);
        let call = |(op, timed): (usize, &&Timed)| Entry { op, at: timed.called, is_answer: false };
        let mut entries: Vec<Entry> = answered.iter().enumerate().map(call).collect();
        let answers = answered.iter().enumerate().filter_map(|(op, timed)| Some((op, timed.answered?)));
        entries.extend(answers.map(|(op, at)| Entry { op, at, is_answer: true }));
        // At one and the same time the calls come first: neither was over before the other began.
        entries.sort_by_key(|entry| (entry.at, entry.is_answer));
        let mut answer_of = vec![0; answered.len()];
        for (place, entry) in entries.iter().enumerate().filter(|(_, entry)| entry.is_answer) {
            answer_of[entry.op] = place;
        }
        let words = answered.len().div_ceil(64) + unknown.len().div_ceil(64);
        Self {
            list: Links::new(entries.len()),
            taken: vec![0; words],
            answered,
            unknown,
            entries,
            answer_of,
            state: State::Absent,
            stack: Vec::new(),
            placed: 0,
            tried: HashSet::new(),
            steps: 0,
            best: None,
        }
    }

    fn run(&mut self, step_limit: u64) -> Decision<Stuck> {
        let mut cursor = None;
        while self.placed < self.answered.len() {
            if cursor.is_none()
                && let Some(free) = self.free_choice(step_limit)
            {
                self.take(free, self.state, true);
                continue;
            }
            let from = cursor.unwrap_or(Cursor::Entry(self.list.first()));
            if let Some((chosen, after)) = self.next_choice(from, step_limit) {
                self.take(chosen, after, false);
                cursor = None;
            } else if self.steps >= step_limit {
                let (placed, of) = (self.placed, self.answered.len());
                let reason = format!("gave up after {} steps, {placed} of {of} placed", self.steps);
                return Decision::Undecided(reason);
            } else {
                self.note_stuck();
                cursor = self.go_back();
                if cursor.is_none() {
                    return Decision::Broken(self.best.take().expect("it was just stuck"));
                }
            }
        }
        Decision::Holds
    }

    /// Undoes choices up to the last one that could have been another; answers where to look for that.
    fn go_back(&mut self) -> Option<Cursor> {
        loop {
            let frame = self.stack.pop()?;
            self.undo(frame);
            if !frame.only {
                return Some(self.following(frame.chosen));
            }
        }
    }

    /// An operation that fits here and changes nothing.
    fn free_choice(&mut self, step_limit: u64) -> Option<Cursor> {
        let mut place = self.list.first();
        while self.steps < step_limit && !self.entries[place].is_answer {
            let entry = self.entries[place];
            self.steps += 1;
            if self.state.after(self.answered[entry.op].step) == Some(self.state) {
                return Some(Cursor::Entry(place));
            }
            place = self.list.after(place);
        }
        None
    }

    /// The next operation from `cursor` on that fits here and was not yet tried from the same point.
    fn next_choice(&mut self, mut cursor: Cursor, step_limit: u64) -> Option<(Cursor, State)> {
        let without = self.stack.last().filter(|last| last.is_unknown()).map(|last| last.before);
        while self.steps < step_limit {
            let timed = self.candidate(cursor)?;
            if let Some(timed) = timed {
                self.steps += 1;
                let fits = self.state.after(timed.step);
                let needed = without.is_none_or(|without| without.after(timed.step) != fits);
                if let Some(after) = fits.filter(|_| needed) {
                    self.flip(cursor);
                    let is_unknown = matches!(cursor, Cursor::Unknown(_));
                    let changed = is_unknown.then_some(self.state);
                    let is_new = self.tried.insert((self.fingerprint(), after, changed));
                    self.flip(cursor);
                    if is_new {
                        return Some((cursor, after));
                    }
                }
            }
            cursor = self.following(cursor);
        }
        None
    }

    /// What may come next at `cursor`: `None` when there is nothing more, `Some(None)` for a place to pass over.
    fn candidate(&self, cursor: Cursor) -> Option<Option<&'o Timed>> {
        match cursor {
            Cursor::Entry(place) => {
                let entry = self.entries.get(place)?;
                Some((!entry.is_answer).then(|| self.answered[entry.op]))
            }
            Cursor::Unknown(number) => {
                let timed = *self.unknown.get(number)?;
                let first_answer = self.first_answer().at;
                if timed.called > first_answer {
                    return None;
                }
                Some((!self.is_taken(cursor)).then_some(timed))
            }
        }
    }

    /// Behind the first answer nothing but an unknown write may come next.
    fn following(&self, cursor: Cursor) -> Cursor {
        match cursor {
            Cursor::Entry(place) if self.entries[place].is_answer => Cursor::Unknown(0),
            Cursor::Entry(place) => Cursor::Entry(self.list.after(place)),
            Cursor::Unknown(number) => Cursor::Unknown(number + 1),
        }
    }

    /// There is one as long as an answered operation is not placed.
    fn first_answer(&self) -> Entry {
        let mut place = self.list.first();
        while !self.entries[place].is_answer {
            place = self.list.after(place);
        }
        self.entries[place]
    }

    fn take(&mut self, chosen: Cursor, after: State, only: bool) {
        self.flip(chosen);
        self.stack.push(Frame { chosen, before: self.state, only });
        self.state = after;
        if let Cursor::Entry(place) = chosen {
            self.list.take_out(place);
            self.list.take_out(self.answer_of[self.entries[place].op]);
            self.placed += 1;
        }
    }

    fn undo(&mut self, frame: Frame) {
        self.flip(frame.chosen);
        self.state = frame.before;
        if let Cursor::Entry(place) = frame.chosen {
            // In the reverse order, or the list would not be what it was.
            self.list.put_back(self.answer_of[self.entries[place].op]);
            self.list.put_back(place);
            self.placed -= 1;
        }
    }

    fn bit(&self, cursor: Cursor) -> (usize, u64) {
        let (first_word, bit) = match cursor {
            Cursor::Entry(place) => (0, self.entries[place].op),
            Cursor::Unknown(number) => (self.answered.len().div_ceil(64), number),
        };
        (first_word + bit / 64, 1 << (bit % 64))
    }

    fn flip(&mut self, cursor: Cursor) {
        let (word, mask) = self.bit(cursor);
        self.taken[word] ^= mask;
    }

    fn is_taken(&self, cursor: Cursor) -> bool {
        let (word, mask) = self.bit(cursor);
        self.taken[word] & mask != 0
    }

    /// Which operations are placed. Words that are full are counted, not kept: most operations are placed in the
    /// order of their calls, so few words are left.
    fn fingerprint(&self) -> Box<[u64]> {
        let full = self.taken.iter().take_while(|word| **word == u64::MAX).count();
        let rest = self.taken.len() - self.taken.iter().rev().take_while(|word| **word == 0).count();
        let left = &self.taken[full..rest.max(full)];
        std::iter::once(full as u64).chain(left.iter().copied()).collect()
    }

    /// Remembers the longest order so far, at a point where nothing fits.
    fn note_stuck(&mut self) {
        if self.best.as_ref().is_some_and(|best| best.placed >= self.placed) {
            return;
        }
        let op = |frame: &Frame| match frame.chosen {
            Cursor::Entry(place) => self.answered[self.entries[place].op].op,
            Cursor::Unknown(number) => self.unknown[number].op,
        };
        let from = self.stack.len().saturating_sub(SHOWN_STEPS);
        self.best = Some(Stuck {
            placed: self.placed,
            of: self.answered.len(),
            last: self.stack[from..].iter().map(op).collect(),
            state: self.state,
            blocker: self.answered[self.first_answer().op].op,
        });
    }
}

/// A doubly linked list of the numbers below `len`; `len` itself is before the first and behind the last.
struct Links {
    next: Vec<usize>,
    previous: Vec<usize>,
}

impl Links {
    fn new(len: usize) -> Self {
        let next = (0..=len).map(|place| (place + 1) % (len + 1)).collect();
        let previous = (0..=len).map(|place| (place + len) % (len + 1)).collect();
        Self { next, previous }
    }

    fn first(&self) -> usize {
        self.next[self.next.len() - 1]
    }

    fn after(&self, place: usize) -> usize {
        self.next[place]
    }

    fn take_out(&mut self, place: usize) {
        let (previous, next) = (self.previous[place], self.next[place]);
        self.next[previous] = next;
        self.previous[next] = previous;
    }

    fn put_back(&mut self, place: usize) {
        let (previous, next) = (self.previous[place], self.next[place]);
        self.next[previous] = place;
        self.previous[next] = place;
    }
}
