//! One key as a plain variable: what an operation makes of its state, and whether its answer fits.
//!
//! A version is a name that the registry gives to a state; here it has no order. Nobody was told the version of an
//! unknown write, so it is open until somebody sees it. That is generous: an open version fits any
//! condition. Layer 1 has the indexes and is stricter.

use super::history::{Change, Condition, Found, Told, Write};

/// The state of one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    Absent,
    /// The version is `None` as long as nobody was told it.
    Present {
        version: Option<u64>,
        value: u64,
    },
}

/// What happens to a key, with its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// A change that took effect; nobody was told its version, when it is `None`.
    Changed { change: Change, condition: Condition, version: Option<u64> },
    /// A change that was held back by the version that the key had.
    Held { change: Change, condition: Condition, current: Option<u64> },
    /// A read.
    Saw(Option<Found>),
}

impl Step {
    /// What a write is when it happens; `None` for one that was refused.
    pub fn of(write: &Write) -> Option<Self> {
        let (change, condition) = (write.change, write.condition);
        match write.told {
            Told::Done(place) => Some(Self::Changed { change, condition, version: Some(place.index) }),
            Told::Unknown => Some(Self::Changed { change, condition, version: None }),
            Told::Held { current, .. } => Some(Self::Held { change, condition, current }),
            Told::Refused => None,
        }
    }
}

impl State {
    /// The state after `step`; `None` when the answer does not fit.
    pub fn after(self, step: Step) -> Option<Self> {
        match step {
            Step::Changed { change, condition, version } => self.changed(change, condition, version),
            Step::Held { change, condition, current } => self.held(change, condition, current),
            Step::Saw(None) => (self == Self::Absent).then_some(self),
            Step::Saw(Some(found)) => self
                .with_version(found.version)
                .filter(|state| matches!(state, Self::Present { value, .. } if *value == found.value)),
        }
    }

    fn changed(self, change: Change, condition: Condition, version: Option<u64>) -> Option<Self> {
        let may_hold = match self {
            Self::Absent => condition.holds(None),
            Self::Present { version: Some(version), .. } => condition.holds(Some(version)),
            Self::Present { version: None, .. } => condition != Condition::Absent,
        };
        match change {
            _ if !may_hold => None,
            Change::Put(value) => Some(Self::Present { version, value }),
            // Nothing to delete is an answer of its own.
            Change::Delete => (self != Self::Absent).then_some(Self::Absent),
        }
    }

    fn held(self, change: Change, condition: Condition, current: Option<u64>) -> Option<Self> {
        let nothing_to_delete = change == Change::Delete && current.is_none();
        if condition.holds(current) && !nothing_to_delete {
            return None;
        }
        match current {
            None => (self == Self::Absent).then_some(self),
            Some(version) => self.with_version(version),
        }
    }

    /// This state, once somebody has said that this is its version.
    fn with_version(self, said: u64) -> Option<Self> {
        match self {
            Self::Present { version, value } if version.is_none_or(|version| version == said) => {
                Some(Self::Present { version: Some(said), value })
            }
            _ => None,
        }
    }
}
