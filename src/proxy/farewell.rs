//! Whom the hop knows: the members, and for a while those who have just left.
//!
//! A member that leaves may lead until the change is complete, and others that have heard of it first have requests of
//! their clients at it; or it has its own clients' requests at the leader. All of these are about to be answered. A
//! connection that closed with the membership would leave them in doubt, though nothing went wrong (G5). So it stays
//! until what is under way has its answer (H-12). Who has left is asked nothing more, because it leads no more.

use std::collections::BTreeMap;

use tokio::time::Instant;

use crate::ids::NodeId;
use crate::proxy::limits;

/// The members as they were told last, and until when those who left are known.
#[derive(Debug)]
pub struct Farewell {
    known: BTreeMap<NodeId, String>,
    leaving: BTreeMap<NodeId, Instant>,
}

impl Farewell {
    /// Nobody has left yet.
    pub const fn new(members: BTreeMap<NodeId, String>) -> Self {
        Self { known: members, leaving: BTreeMap::new() }
    }

    /// Whom the hop shall know at `now`, when these are the members.
    pub fn known(&mut self, members: &BTreeMap<NodeId, String>, now: Instant) -> BTreeMap<NodeId, String> {
        for node in self.known.keys().filter(|node| !members.contains_key(node)) {
            self.leaving.entry(*node).or_insert(now + limits::LATE_ANSWER_TIMEOUT);
        }
        self.leaving.retain(|node, until| !members.contains_key(node) && now < *until);
        self.known.retain(|node, _| self.leaving.contains_key(node));
        self.known.extend(members.iter().map(|(node, address)| (*node, address.clone())));
        self.known.clone()
    }

    /// When the next of those who left is forgotten.
    pub fn next(&self) -> Option<Instant> {
        self.leaving.values().min().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Duration;

    fn members(ids: &[u64]) -> BTreeMap<NodeId, String> {
        ids.iter().map(|id| (NodeId(*id), format!("at-{id}"))).collect()
    }

    /// H-12.
    #[test]
    fn who_leaves_is_known_until_what_is_under_way_has_its_answer() {
        let left = Instant::now();
        let after = |ms| left + Duration::from_millis(ms);
        let until = left + limits::LATE_ANSWER_TIMEOUT;
        let mut farewell = Farewell::new(members(&[1, 2, 3]));
        assert_eq!(
            (farewell.known(&members(&[1, 2, 3]), left), farewell.next()),
            (members(&[1, 2, 3]), None)
        );
        assert_eq!(farewell.known(&members(&[1, 2]), left), members(&[1, 2, 3]));
        assert_eq!(farewell.known(&members(&[1, 2]), after(1)), members(&[1, 2, 3]));
        assert_eq!(farewell.known(&members(&[2]), after(2)), members(&[1, 2, 3]));
        assert_eq!(farewell.next(), Some(until), "counted from when it left");
        assert_eq!(farewell.known(&members(&[2]), until), members(&[1, 2]));
        assert_eq!(farewell.known(&members(&[2]), until + Duration::from_millis(2)), members(&[2]));
        assert_eq!(farewell.next(), None);
    }

    #[test]
    fn who_comes_back_is_a_member_at_its_new_address() {
        let left = Instant::now();
        let mut farewell = Farewell::new(members(&[1, 2]));
        farewell.known(&members(&[1]), left);
        let back = BTreeMap::from([(NodeId(1), "at-1".to_owned()), (NodeId(2), "elsewhere".to_owned())]);
        assert_eq!((farewell.known(&back, left), farewell.next()), (back, None));
    }
}
