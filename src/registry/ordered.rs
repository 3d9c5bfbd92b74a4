//! An ordered map of keys whose copy costs next to nothing, so that a snapshot of a million keys does
//! not stop the loop.
//!
//! The keys lie in sorted runs, each behind an [`Arc`]. A copy shares all runs; the first write to a
//! run that is shared copies that run alone. Reads and writes are a binary search for the run and one
//! inside it.
//!
//! No deletion of runs that became small, only of empty ones: keys of a registry come and go in the
//! same places.

use std::ops::Bound;
use std::sync::Arc;

/// Keys in one run; a run of twice as many is split. What a write copies while a snapshot is under way,
/// against how many runs a copy has to share.
const RUN: usize = 256;

/// The map.
#[derive(Debug, Clone)]
pub(super) struct Ordered<V> {
    /// Sorted, disjoint, none of them empty.
    runs: Vec<Arc<Vec<(String, V)>>>,
    len: usize,
}

impl<V> Default for Ordered<V> {
    fn default() -> Self {
        Self { runs: Vec::new(), len: 0 }
    }
}

impl<V: Clone> Ordered<V> {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The run that holds `key`, or would.
    fn run_of(&self, key: &str) -> usize {
        let begins_behind = |run: &Arc<Vec<(String, V)>>| run.first().is_some_and(|(k, _)| k.as_str() <= key);
        self.runs.partition_point(begins_behind).saturating_sub(1)
    }

    pub(super) fn get(&self, key: &str) -> Option<&V> {
        let run = self.runs.get(self.run_of(key))?;
        let at = search(run, key).ok()?;
        run.get(at).map(|(_, value)| value)
    }

    /// Sets a key; returns what it was before.
    pub(super) fn insert(&mut self, key: String, value: V) -> Option<V> {
        let place = self.run_of(&key);
        let Some(run) = self.runs.get_mut(place).map(Arc::make_mut) else {
            self.runs.push(Arc::new(vec![(key, value)]));
            self.len = 1;
            return None;
        };
        match search(run, &key) {
            Ok(at) => Some(std::mem::replace(&mut run[at].1, value)),
            Err(at) => {
                run.insert(at, (key, value));
                if run.len() >= 2 * RUN {
                    let behind = run.split_off(RUN);
                    self.runs.insert(place + 1, Arc::new(behind));
                }
                self.len += 1;
                None
            }
        }
    }

    /// Removes a key; returns what it was.
    pub(super) fn remove(&mut self, key: &str) -> Option<V> {
        let place = self.run_of(key);
        // Looked at first: a key that is not there is no reason to copy a run.
        let at = search(self.runs.get(place)?, key).ok()?;
        let run = Arc::make_mut(&mut self.runs[place]);
        let (_, value) = run.remove(at);
        if run.is_empty() {
            self.runs.remove(place);
        }
        self.len -= 1;
        Some(value)
    }

    /// The keys from `start` on, in order.
    pub(super) fn range(&self, start: Bound<&str>) -> impl Iterator<Item = (&str, &V)> {
        let (place, at) = match start {
            Bound::Unbounded => (0, 0),
            Bound::Included(key) | Bound::Excluded(key) => {
                let place = self.run_of(key);
                let found = self.runs.get(place).map_or(Err(0), |run| search(run, key));
                let skips = matches!(start, Bound::Excluded(_));
                (place, found.map_or_else(|at| at, |at| at + usize::from(skips)))
            }
        };
        let rest = self.runs.get(place..).unwrap_or_default();
        rest.iter().flat_map(|run| run.iter()).skip(at).map(|(key, value)| (key.as_str(), value))
    }
}

fn search<V>(run: &[(String, V)], key: &str) -> Result<usize, usize> {
    run.binary_search_by(|(k, _)| k.as_str().cmp(key))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::{Strategy, any, prop_assert_eq, prop_oneof, proptest};

    use super::*;

    #[derive(Debug, Clone)]
    enum Act {
        Insert(u16, u8),
        Remove(u16),
        Copy,
    }

    fn act() -> impl Strategy<Value = Act> {
        prop_oneof![
            6 => (0u16..2000, any::<u8>()).prop_map(|(key, value)| Act::Insert(key, value)),
            2 => (0u16..2000).prop_map(Act::Remove),
            1 => proptest::strategy::Just(Act::Copy),
        ]
    }

    fn all<V: Clone>(map: &Ordered<V>) -> Vec<(String, V)> {
        map.range(Bound::Unbounded).map(|(key, value)| (key.to_owned(), value.clone())).collect()
    }

    proptest! {
        #![proptest_config(proptest::test_runner::Config::with_cases(40))]

        /// Like a `BTreeMap`, and a copy stays what it was.
        #[test]
        fn is_an_ordered_map_and_its_copies_do_not_change(
            acts in proptest::collection::vec(act(), 0..3000),
            from in 0u16..2000,
        ) {
            let (mut map, mut model) = (Ordered::default(), BTreeMap::new());
            let mut copies = Vec::new();
            for act in acts {
                match act {
                    Act::Insert(key, value) => {
                        let key = format!("{key:04}");
                        prop_assert_eq!(map.insert(key.clone(), value), model.insert(key, value));
                    }
                    Act::Remove(key) => {
                        let key = format!("{key:04}");
                        prop_assert_eq!(map.remove(&key), model.remove(&key));
                    }
                    Act::Copy => copies.push((map.clone(), model.clone())),
                }
            }
            copies.push((map, model));
            let from = format!("{from:04}");
            for (map, model) in &copies {
                prop_assert_eq!(map.len(), model.len());
                prop_assert_eq!(all(map), model.clone().into_iter().collect::<Vec<_>>());
                prop_assert_eq!(map.get(&from), model.get(&from));
                for start in [Bound::Included(from.as_str()), Bound::Excluded(from.as_str())] {
                    let expected = model.range::<str, _>((start, Bound::Unbounded)).count();
                    prop_assert_eq!(map.range(start).count(), expected);
                }
            }
        }
    }
}
