//! The vocabulary of consensus: newtypes, so that a term can never be passed
//! where an index is meant.

use std::fmt;
use std::hash::{Hash, Hasher};

use serde::{Deserialize, Serialize};

macro_rules! number {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// Hashed along with the number: who hashes all of a node's state can tell a term from an index.
            pub const KIND: u128 = $kind << 64;

            /// The number that comes before every one that was ever handed out.
            pub const ZERO: Self = Self(0);

            /// The next number. Saturates: a peer that claims `u64::MAX` must not stop the process.
            pub const fn next(self) -> Self {
                Self(self.0.saturating_add(1))
            }
        }

        impl Hash for $name {
            fn hash<H: Hasher>(&self, state: &mut H) {
                state.write_u128(Self::KIND | u128::from(self.0));
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number! {
    /// One Raft participant, unique in its cluster and named by its certificate.
    NodeId, 1
}
number! {
    /// A Raft term (thesis 3.3): at most one leader each. It is also the fencing token.
    Term, 2
}
number! {
    /// A position in the replicated log. The first entry is 1; 0 means "before the log".
    LogIndex, 3
}
number! {
    /// One write of the ordered persistence queue. Completions are a watermark over these.
    IoSeq, 4
}
number! {
    /// Somebody who waits: for an answer of the core, or at a verifier. Never reused in one process life.
    Ticket, 5
}
number! {
    /// A read position, made by the leader: a round of acknowledgements that names position `p`
    /// confirms every read that was registered at or before `p`.
    ReadPos, 6
}
number! {
    /// One replication session: a leader's term with one life of one follower. A response that
    /// names another session is late, and is dropped (M7, T1, C5).
    Session, 7
}
number! {
    /// One campaign of one node. Late answers to an older campaign, or to a pre-vote round of it,
    /// are not votes (V4).
    Campaign, 8
}

impl LogIndex {
    /// The position before this one; `None` before the log.
    pub const fn prev(self) -> Option<Self> {
        match self.0.checked_sub(1) {
            Some(i) => Some(Self(i)),
            None => None,
        }
    }
}

/// Names one entry for ever: a leader writes an index once in its term (thesis 3.6.3).
/// The order is Raft's "at least as up to date": last term first, then last index.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LogId {
    /// The term in which the entry was first appended.
    pub term: Term,
    /// Its position.
    pub index: LogIndex,
}

impl LogId {
    /// Before the first entry.
    pub const ZERO: Self = Self { term: Term::ZERO, index: LogIndex::ZERO };

    /// Names the entry at `index` of `term`.
    pub const fn new(term: Term, index: LogIndex) -> Self {
        Self { term, index }
    }
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.index, self.term)
    }
}

/// Which life of which data directory speaks. `incarnation` is drawn once, when the directory is
/// made, so that a wiped disk is another node (V8); `boot` counts starts, so that what an earlier
/// life said is recognised as late.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Life {
    /// Random, made with the data directory, never changed.
    pub incarnation: u64,
    /// Starts of this directory, from 1; durable before the first message leaves.
    pub boot: u64,
}
