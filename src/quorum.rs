//! Quorum arithmetic: what a majority agrees on.
//!
//! Everything that is ever counted (votes, durable copies, acknowledged reads, ends of promises)
//! is counted here, so that a joint configuration (thesis 4.3) needs no second thought anywhere
//! else: both halves must agree.

use std::collections::BTreeSet;

use crate::ids::NodeId;

/// The smallest number of `voters` of which any two sets share a member.
pub const fn majority(voters: usize) -> usize {
    voters / 2 + 1
}

/// The largest value that a majority of `voters` has reached; `None` when fewer have any, and
/// always without voters. Whoever is no voter is never asked (M4, M9).
pub fn agreed<T: Ord + Copy>(voters: &BTreeSet<NodeId>, reached: impl Fn(NodeId) -> Option<T>) -> Option<T> {
    let mut values = Vec::with_capacity(voters.len());
    values.extend(voters.iter().filter_map(|voter| reached(*voter)));
    values.sort_unstable_by(|a, b| b.cmp(a));
    values.get(majority(voters.len()) - 1).copied()
}

/// C7: [`agreed`] in both halves of a joint configuration: the lesser of the two.
pub fn agreed_jointly<T: Ord + Copy>(
    voters: &BTreeSet<NodeId>,
    voters_old: Option<&BTreeSet<NodeId>>,
    reached: impl Fn(NodeId) -> Option<T>,
) -> Option<T> {
    let new = agreed(voters, &reached)?;
    match voters_old {
        None => Some(new),
        Some(old) => Some(new.min(agreed(old, &reached)?)),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::{Strategy, prop_assert_eq, proptest};

    use super::*;

    fn set(ids: &[u64]) -> BTreeSet<NodeId> {
        ids.iter().copied().map(NodeId).collect()
    }

    /// By definition: the largest value `v` such that a majority holds `v` or more.
    fn naive(voters: &BTreeSet<NodeId>, values: &BTreeMap<NodeId, u64>) -> Option<u64> {
        let holds = |v: u64| voters.iter().filter(|id| values.get(id).is_some_and(|x| *x >= v)).count();
        voters.iter().filter_map(|id| values.get(id)).copied().filter(|v| 2 * holds(*v) > voters.len()).max()
    }

    fn voters() -> impl Strategy<Value = BTreeSet<NodeId>> {
        proptest::collection::btree_set((0u64..9).prop_map(NodeId), 0..8)
    }

    proptest! {
        /// C7: no clever ordering may ever report an index that only a minority holds.
        #[test]
        fn agreed_is_the_naive_median(
            new in voters(),
            old in proptest::option::of(voters()),
            values in proptest::collection::btree_map((0u64..9).prop_map(NodeId), 0u64..6, 0..9),
        ) {
            let found = agreed_jointly(&new, old.as_ref(), |id| values.get(&id).copied());
            let wanted = match &old {
                None => naive(&new, &values),
                Some(old) => naive(&new, &values).zip(naive(old, &values)).map(|(a, b)| a.min(b)),
            };
            prop_assert_eq!(found, wanted);
        }
    }

    #[test]
    fn two_majorities_always_meet() {
        for n in 1..9 {
            assert!(2 * majority(n) > n, "{n}");
            assert!(majority(n) <= n, "{n}");
        }
    }

    /// C7, R10.
    #[test]
    fn both_halves_of_a_joint_configuration_must_agree() {
        let all_new = |id: NodeId| (id.0 >= 4).then_some(1);
        assert_eq!(agreed_jointly(&set(&[4, 5, 6]), None, all_new), Some(1));
        assert_eq!(agreed_jointly(&set(&[4, 5, 6]), Some(&set(&[1, 2, 3])), all_new), None);
    }

    #[test]
    fn nobody_agrees_without_voters() {
        assert_eq!(agreed(&set(&[]), |_| Some(1)), None);
    }
}
