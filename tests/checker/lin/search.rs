//! Layer 2: looks for an order of one key's operations in which every answer fits and nobody overtakes
//! an operation that had ended before it was called (Wing and Gong, with the cache of Lowe). It trusts no index, but it
//! tries first what the indexes say: where they are honest, there is little to undo.
//!
//! The search keeps the calls and answers that are not yet ordered in a list, by time. Whatever is called
//! before the first answer in it may come next: it is tried, taken out, and the search goes on from the
//! beginning of the list. When nothing fits, the last choice is undone. What makes this quick: a set of operations
//! that led to a state is not searched from again, whatever their order was. And what fits and changes nothing, as most
//! reads, is taken at once and for good: any order in which it comes later is one with it moved to here.
//!
//! Unknown writes have no answer in the list, so they need not happen. They are tried when what should come next does
//! not fit, and only where what comes next needs them: one that makes no difference to it could as well be left out.
//! Otherwise each of them would double the work.
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
    /// Where the answer says that it happened: what is tried first.
    pub hint: u64,
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

/// What may come next: the operation whose call this entry of the list is, or an unknown write.
#[derive(Debug, Clone, Copy)]
enum Choice {
    Entry(usize),
    Unknown(usize),
}

/// A choice, what was before it, and what else there was to choose, the best last.
#[derive(Debug)]
struct Frame {
    chosen: Choice,
    before: State,
    rest: Vec<Choice>,
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
        let mut choices = self.choices();
        while self.placed < self.answered.len() {
            if self.steps >= step_limit {
                let (placed, of) = (self.placed, self.answered.len());
                let reason = format!("gave up after {} steps, {placed} of {of} placed", self.steps);
                return Decision::Undecided(reason);
            }
            if let Some((chosen, after)) = self.choose(&mut choices, step_limit) {
                self.take(chosen, after, choices);
                choices = self.choices();
                continue;
            }
            self.note_stuck();
            match self.undo() {
                Some(rest) => choices = rest,
                None => return Decision::Broken(self.best.take().expect("it was just stuck")),
            }
        }
        Decision::Holds
    }

    /// Takes the best of `choices` that fits here and was not yet tried from the same point.
    fn choose(&mut self, choices: &mut Vec<Choice>, step_limit: u64) -> Option<(Choice, State)> {
        let last = self.stack.last().filter(|last| matches!(last.chosen, Choice::Unknown(_)));
        let without = last.map(|last| last.before);
        while self.steps < step_limit {
            let choice = choices.pop()?;
            self.steps += 1;
            let step = self.operation(choice).step;
            let fits = self.state.after(step);
            let needed = without.is_none_or(|without| without.after(step) != fits);
            if let Some(after) = fits.filter(|_| needed) {
                let changed = matches!(choice, Choice::Unknown(_)).then_some(self.state);
                self.flip(choice);
                let is_new = self.tried.insert((self.fingerprint(), after, changed));
                self.flip(choice);
                if is_new {
                    return Some((choice, after));
                }
            }
        }
        None
    }

    /// All that may come next, the best last: the operation that the indexes put next, then unknown writes, then all else
    /// that is called before the first answer. Or one alone, when it fits and changes nothing.
    fn choices(&mut self) -> Vec<Choice> {
        let mut window: Vec<(u64, usize)> = Vec::new();
        let mut place = self.list.first();
        while let Some(entry) = self.entries.get(place).filter(|entry| !entry.is_answer) {
            let timed = self.answered[entry.op];
            self.steps += 1;
            if self.state.after(timed.step) == Some(self.state) {
                return vec![Choice::Entry(place)];
            }
            window.push((timed.hint, place));
            place = self.list.after(place);
        }
        window.sort_unstable_by(|a, b| b.cmp(a));
        let mut choices: Vec<Choice> = window.into_iter().map(|(_, place)| Choice::Entry(place)).collect();
        let best = choices.pop();
        let first_answer = self.entries.get(place).map_or(0, |entry| entry.at);
        let unknown = self.unknown.iter().take_while(|timed| timed.called <= first_answer);
        let unknown = (0..unknown.count()).rev().map(Choice::Unknown);
        choices.extend(unknown.filter(|choice| !self.is_taken(*choice)));
        choices.extend(best);
        choices
    }

    fn operation(&self, choice: Choice) -> &'o Timed {
        match choice {
            Choice::Entry(place) => self.answered[self.entries[place].op],
            Choice::Unknown(number) => self.unknown[number],
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

    fn take(&mut self, chosen: Choice, after: State, rest: Vec<Choice>) {
        self.flip(chosen);
        self.stack.push(Frame { chosen, before: self.state, rest });
        self.state = after;
        if let Choice::Entry(place) = chosen {
            self.list.take_out(place);
            self.list.take_out(self.answer_of[self.entries[place].op]);
            self.placed += 1;
        }
    }

    /// Undoes the last choice; answers what else there was to choose.
    fn undo(&mut self) -> Option<Vec<Choice>> {
        let Frame { chosen, before, rest } = self.stack.pop()?;
        self.flip(chosen);
        self.state = before;
        if let Choice::Entry(place) = chosen {
            // In the reverse order, or the list would not be what it was.
            self.list.put_back(self.answer_of[self.entries[place].op]);
            self.list.put_back(place);
            self.placed -= 1;
        }
        Some(rest)
    }

    fn bit(&self, choice: Choice) -> (usize, u64) {
        let (first_word, bit) = match choice {
            Choice::Entry(place) => (0, self.entries[place].op),
            Choice::Unknown(number) => (self.answered.len().div_ceil(64), number),
        };
        (first_word + bit / 64, 1 << (bit % 64))
    }

    fn flip(&mut self, choice: Choice) {
        let (word, mask) = self.bit(choice);
        self.taken[word] ^= mask;
    }

    fn is_taken(&self, choice: Choice) -> bool {
        let (word, mask) = self.bit(choice);
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
        let op = |frame: &Frame| self.operation(frame.chosen).op;
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
