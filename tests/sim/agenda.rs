//! What is on its way, by the time at which it happens; what happens at the same time, in the order in which it was
//! put down. The heap holds places instead of the events themselves, which are several times as large.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::clock::True;

/// A queue of `E` in the order of time.
#[derive(Debug)]
pub struct Agenda<E> {
    due: BinaryHeap<Reverse<(True, u64, usize)>>,
    events: Vec<Option<E>>,
    free: Vec<usize>,
    order: u64,
}

impl<E> Agenda<E> {
    /// Without anything to come.
    pub const fn new() -> Self {
        Self { due: BinaryHeap::new(), events: Vec::new(), free: Vec::new(), order: 0 }
    }

    /// `event` happens `at`.
    pub fn push(&mut self, at: True, event: E) {
        let place = self.free.pop().unwrap_or(self.events.len());
        if place == self.events.len() {
            self.events.push(None);
        }
        self.events[place] = Some(event);
        self.order += 1;
        self.due.push(Reverse((at, self.order, place)));
    }

    /// The next of all, unless it happens after `until`.
    pub fn pop_until(&mut self, until: True) -> Option<(True, E)> {
        let Reverse((at, _, place)) = *self.due.peek().filter(|Reverse((at, ..))| *at <= until)?;
        self.due.pop();
        self.free.push(place);
        let event = self.events[place].take().expect("a place that is due holds an event");
        Some((at, event))
    }
}

#[cfg(test)]
mod tests {
    use super::Agenda;

    #[test]
    fn what_happens_at_one_time_happens_in_the_order_in_which_it_was_put_down() {
        let mut agenda = Agenda::new();
        for (at, name) in [(5, "c"), (3, "a"), (5, "d"), (3, "b"), (9, "never")] {
            agenda.push(at, name);
        }
        assert_eq!(agenda.pop_until(4), Some((3, "a")));
        agenda.push(4, "in between");
        let rest: Vec<_> = std::iter::from_fn(|| agenda.pop_until(8)).collect();
        assert_eq!(rest, [(3, "b"), (4, "in between"), (5, "c"), (5, "d")]);
        assert_eq!(agenda.pop_until(8), None);
    }
}
