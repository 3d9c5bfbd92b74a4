//! The safety properties that one node can see of itself, in one place. Asserted after every step
//! in debug builds, and by the simulator; each is an error of this code, never of a peer.

use crate::raft::node::{Node, Role};

/// Panics when a property is broken.
pub(super) fn check(node: &Node) {
    let core = &node.core;
    let last = core.last_log();
    assert!(core.last_applied <= core.commit_index, "applied is behind commit");
    assert!(core.commit_index <= last.index, "commit is inside the log");
    assert!(core.log.durable_index() <= last.index, "what is durable is inside the log");
    assert!(last.term <= core.term(), "no entry is of a later term");
    match &node.role {
        Role::Follower(_) => {}
        Role::Candidate(candidate) => {
            assert!(candidate.granted.contains(&core.id()), "a candidate is for itself");
            let voted = core.hard_state.voted_for;
            assert!(candidate.ballot.pre_vote || voted == Some(core.id()), "and gave itself its vote");
            assert!(!core.disk_stalled, "a stalled node does not campaign (L9)");
        }
        Role::Leader(leader) => {
            assert_eq!(core.hard_state.voted_for, Some(core.id()), "a leader has its own vote");
            let compacted = leader.noop < core.log.base().index;
            let noop = core.log.term_at(leader.noop);
            assert!(compacted || noop == Some(core.term()), "its no-op is in the log");
            assert!(!core.disk_stalled, "a stalled node does not lead (L9)");
            for peer in leader.peers.values() {
                assert!(peer.match_index < peer.next_index, "what matches is not sent again");
                assert!(peer.match_index <= last.index, "a follower matches what this log holds");
                assert!(peer.next_index <= last.index.next(), "nothing is sent before it is appended");
            }
        }
    }
}
