//! How a route is protected and how it is read: words of the configuration that several layers share.

use serde::{Deserialize, Serialize};

/// What the backend of a route can do about a stale token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FenceMode {
    /// The fence is raised at the backend before the gate opens, and the backend refuses all else.
    Enforced,
    /// The backend keeps the highest authenticated term it saw and refuses lower ones.
    Implicit,
    /// The backend can't verify: the lease and a quiet period protect it, best effort.
    Drain,
}

impl FenceMode {
    /// The mode's name in the configuration and in answers.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Enforced => "enforced",
            Self::Implicit => "implicit",
            Self::Drain => "drain",
        }
    }
}

/// How fresh a read must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Consistency {
    /// Sees every write acknowledged before it began; confirmed by a quorum round.
    Linearizable,
    /// The same under the clock bound; no quorum round.
    Lease,
    /// Whatever the asked node has.
    Stale,
}

impl Consistency {
    /// The word in `Termgate-Consistency` and in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Linearizable => "linearizable",
            Self::Lease => "lease",
            Self::Stale => "stale",
        }
    }

    /// How a read that asks for this is served: where lease reads are not offered, a quorum confirms it
    /// instead, and a stronger read keeps the weaker promise.
    pub const fn served(self, lease_reads: bool) -> Self {
        match self {
            Self::Lease if !lease_reads => Self::Linearizable,
            asked => asked,
        }
    }

    /// Reads the word; `None` for any other.
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Linearizable, Self::Lease, Self::Stale].into_iter().find(|c| c.name() == word)
    }
}

#[cfg(test)]
mod tests {
    use super::Consistency::{Lease, Linearizable, Stale};

    #[test]
    fn without_lease_reads_a_quorum_confirms_what_the_lease_would() {
        let all = [Linearizable, Lease, Stale];
        assert_eq!(all.map(|asked| asked.served(true)), all);
        assert_eq!(all.map(|asked| asked.served(false)), [Linearizable, Linearizable, Stale]);
    }
}
