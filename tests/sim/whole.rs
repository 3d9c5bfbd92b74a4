//! The invariants once more, in their full form: now and then everything that the nodes hold is
//! compared entry by entry, with no hash, no increment and no memory of earlier checks in between. It
//! is slow, and it would notice a mistake in the quick forms of `check`.

use termgate::ids::{LogIndex, NodeId};
use termgate::raft::entry::Entry;

use crate::clients::KEYS;
use crate::process::SimNode;
use crate::roster::is_majority;
use crate::stats::Stat;
use crate::world::World;

/// Between two of them so many events happen.
pub const EVERY: u64 = 1_000;

impl World {
    /// Compares the disks with each other and with what was committed, and the state machines with a
    /// replay of it.
    pub fn check_whole(&mut self) {
        self.stats.add(Stat::FullChecks);
        let verdict = self.compare_disks().and_then(|()| self.compare_states());
        self.judge(verdict.and_then(|()| self.compare_quorums()));
    }

    /// I2 on the disks: where two logs have an entry of one term at one position, they are the same up
    /// to there.
    fn compare_disks(&self) -> Result<(), String> {
        for (i, a) in self.nodes.iter().enumerate() {
            for b in &self.nodes[..i] {
                let shared = a.disk.last().index.min(b.disk.last().index);
                let first = a.disk.base().index.max(b.disk.base().index).next();
                let pairs = (first.0..=shared.0).rev().map(|at| (at, entry(a, at), entry(b, at)));
                let mut pairs = pairs.skip_while(|(_, x, y)| x.map(|e| e.id) != y.map(|e| e.id));
                if let Some((at, ..)) = pairs.find(|(_, x, y)| x != y) {
                    return Err(format!(
                        "I2: the disks of {} and {} differ at {at}",
                        a.index + 1,
                        b.index + 1
                    ));
                }
            }
        }
        Ok(())
    }

    /// I12: each state machine shows what a replay of the committed log up to its position shows.
    fn compare_states(&self) -> Result<(), String> {
        for node in &self.nodes {
            let Some(process) = &node.process else { continue };
            let machine = process.machine.read().expect("nobody panics while applying");
            let applied = machine.applied().index;
            for key in KEYS {
                let found = machine.key(key).map(|v| (v.version, v.value.clone()));
                let expected = self.oracle.at(key, applied);
                if found != expected {
                    let who = node.index + 1;
                    return Err(format!(
                        "I12: node {who} holds {key} = {found:?} at {applied}, not {expected:?}"
                    ));
                }
            }
        }
        Ok(())
    }

    /// I6: whatever was ever committed is durable on a quorum of the disks, as it was committed.
    fn compare_quorums(&self) -> Result<(), String> {
        // What was committed under a membership that is being left needs only the new majority now.
        let voters = &self.checker.roster.latest().voters;
        let bases = voters.iter().map(|id| self.nodes[id.0 as usize - 1].disk.base().index);
        for committed in self.checker.committed_after(bases.min().unwrap_or_default()) {
            let holds = |n: NodeId| {
                let it = &self.nodes[n.0 as usize - 1];
                let own = entry(it, committed.id.index.0);
                own.map_or_else(|| it.holds(committed.id), |own| own == committed)
            };
            if !is_majority(voters, holds) {
                return Err(format!("I6: {} was committed; no majority of {voters:?} has it", committed.id));
            }
        }
        Ok(())
    }
}

fn entry(node: &SimNode, at: u64) -> Option<&Entry> {
    let LogIndex(base) = node.disk.base().index;
    node.disk.log().get(usize::try_from(at.checked_sub(base)?.checked_sub(1)?).ok()?)
}
