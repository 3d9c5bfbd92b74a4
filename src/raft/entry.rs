//! What is kept: log entries, the hard state and the membership.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::ids::{LogId, LogIndex, NodeId, Term};
use crate::quorum::agreed_jointly;

/// One entry of the replicated log.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Entry {
    /// The term it was first appended in, and its position.
    pub id: LogId,
    /// What it does.
    pub payload: Payload,
}

/// What an entry does when it is applied.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Payload {
    /// The first entry of a term: it commits everything before it, and tells the state machine who
    /// leads (thesis 3.6.2).
    NoOp {
        /// The leader of the entry's term.
        leader: NodeId,
    },
    /// A new membership; in force from the moment it is appended.
    Membership(Membership),
    /// A command of the state machine, opaque to Raft.
    Command(Bytes),
}

impl Entry {
    /// Roughly what the entry takes in memory and on the wire; for byte limits.
    pub fn size(&self) -> usize {
        32 + match &self.payload {
            Payload::NoOp { .. } => 0,
            Payload::Membership(m) => 32 * (m.voters.len() + m.learners.len()),
            Payload::Command(bytes) => bytes.len(),
        }
    }
}

/// What must be durable before an answer that depends on it (thesis figure 3.1).
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct HardState {
    /// The latest term this node has seen.
    pub current_term: Term,
    /// Who got this node's vote in `current_term`. Cleared by a higher term and by nothing else (V3).
    pub voted_for: Option<NodeId>,
}

/// Who takes part. During a change both `voters` and `voters_old` must agree (joint consensus,
/// thesis 4.3).
#[derive(Debug, Default, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Membership {
    /// The voters.
    pub voters: BTreeSet<NodeId>,
    /// The voters of the configuration that is being left, while it is.
    pub voters_old: Option<BTreeSet<NodeId>>,
    /// Receive the log and do not vote.
    pub learners: BTreeSet<NodeId>,
    /// The data directories of the members that were added with one: for these no other counts (V8).
    /// The others are known by the one they were first heard with.
    pub incarnations: BTreeMap<NodeId, u64>,
}

impl Membership {
    /// A plain membership of voters.
    pub fn of_voters(voters: impl IntoIterator<Item = NodeId>) -> Self {
        Self { voters: voters.into_iter().collect(), ..Self::default() }
    }

    /// Whether `node` has a vote in either half.
    pub fn is_voter(&self, node: NodeId) -> bool {
        self.voters.contains(&node) || self.voters_old.as_ref().is_some_and(|v| v.contains(&node))
    }

    /// The largest value that a majority has reached, in both halves while there are two; `None`
    /// when too few have any. Who is no voter is never asked.
    pub fn agreed<T: Ord + Copy>(&self, reached: impl Fn(NodeId) -> Option<T>) -> Option<T> {
        agreed_jointly(&self.voters, self.voters_old.as_ref(), reached)
    }

    /// Whether `who` holds a majority, in both halves while there are two.
    pub fn is_quorum(&self, who: &BTreeSet<NodeId>) -> bool {
        self.agreed(|id| who.contains(&id).then_some(())).is_some()
    }

    /// Everybody who receives the log, each once, in order.
    pub fn members(&self) -> BTreeSet<NodeId> {
        let mut all = self.voters.clone();
        all.extend(self.voters_old.iter().flatten());
        all.extend(&self.learners);
        all
    }

    /// Whether `node` receives the log.
    pub fn contains(&self, node: NodeId) -> bool {
        self.is_voter(node) || self.learners.contains(&node)
    }

    /// What a joint membership leads to: nothing is left of who is in neither half.
    #[must_use]
    pub fn completed(&self) -> Self {
        let mut last = Self { voters_old: None, ..self.clone() };
        let members = last.members();
        last.incarnations.retain(|node, _| members.contains(node));
        last
    }

    /// Whether two halves must agree: a change is under way.
    pub const fn is_joint(&self) -> bool {
        self.voters_old.is_some()
    }
}

/// Names the content of one snapshot, for ever: the same at every node that holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SnapshotId {
    /// The last entry it stands for.
    pub last: LogId,
    /// SHA-256 of its content.
    pub digest: [u8; 32],
}

/// A snapshot, without its content: the state after `id.last`, which is committed.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Snapshot {
    /// Which one.
    pub id: SnapshotId,
    /// Bytes of its content.
    pub size: u64,
    /// The membership after `id.last` (N4).
    pub membership: Membership,
}

/// From now on a start begins with `snapshot`, and the log after `base`. One transaction with the rest
/// of its [`Persist`] (N8); the snapshot's content is durable before.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Compaction {
    /// What the state machine begins with.
    pub snapshot: Snapshot,
    /// The entry just before the first that is kept; not behind the snapshot's last.
    pub base: LogId,
    /// Whether entries behind `base` are kept. They are not when the log and the snapshot differ at
    /// `base`, or the log does not reach it (N1).
    pub keeps_tail: bool,
}

/// One write of the persistence queue. All of it becomes durable in one transaction, in the order
/// of the queue; a later completion covers every earlier one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Persist {
    /// Its place in the queue.
    pub io: crate::ids::IoSeq,
    /// The new hard state, when it changed.
    pub hard_state: Option<HardState>,
    /// Members whose data directory this node has seen for the first time, by its incarnation (V8).
    pub pins: Vec<(NodeId, u64)>,
    /// Begin the log later, before anything else is done to it.
    pub compact: Option<Compaction>,
    /// Remove this entry and all after it, before `append`.
    pub truncate_from: Option<LogIndex>,
    /// New entries, contiguous.
    pub append: Vec<Entry>,
}

/// What a start finds on disk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Durable {
    /// The last hard state.
    pub hard_state: HardState,
    /// The incarnation that each member was first heard with (V8).
    pub pinned: BTreeMap<NodeId, u64>,
    /// What the state machine begins with, once the log was compacted.
    pub snapshot: Option<Snapshot>,
    /// The membership in force where a start begins: of the snapshot, or the first configuration's.
    pub membership: Membership,
    /// The entry just before the first of `log`: zero until the log is compacted. Not behind the
    /// snapshot's last entry: some of what the snapshot stands for is kept for followers.
    pub base: LogId,
    /// The log, contiguous from `base.index + 1`.
    pub log: Vec<Entry>,
}
