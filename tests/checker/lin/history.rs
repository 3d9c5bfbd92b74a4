//! An operation on the registry as its client saw it, and how it is written in one line:
//!
//! ```text
//! c1 0..10 put a 7 if v3 -> done 5@1           took effect at log index 5, in term 1
//! c1 0..10 put a 7 if v3 -> held v4 5@1        the condition did not hold: the version was 4
//! c2 5..9 delete a -> unknown                  may have happened, or happen later
//! c2 5..9 delete a -> refused                  has no effect, now or later
//! c3 12..14 get a -> v5=7 6@1                  version 5, value 7, in the state at index 6
//! c3 12..14 get a stale from 5 -> absent 6@1   from whatever the node has, but not from before index 5
//! c4 15..18 list r/ lease -> r/a:v5 r/b:v6 8@1
//! ```

use std::fmt;

/// Nanoseconds on one monotonic clock, or anything else that only grows.
pub type Time = u64;

/// One operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Op {
    pub client: u64,
    pub called: Time,
    /// When the client had its answer, or gave up.
    pub returned: Time,
    pub what: What,
}

/// What was asked, and what was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    Write(Write),
    Get(Get),
    List(List),
}

/// A change of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    pub key: String,
    pub change: Change,
    pub condition: Condition,
    pub told: Told,
}

/// What a write does when its condition holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Put(u64),
    Delete,
}

/// What must hold of the key's version, or nothing is changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    None,
    Exists,
    Absent,
    VersionIs(u64),
    VersionIsNot(u64),
}

impl Condition {
    /// Whether it holds for a key of this version; `None` for a key that does not exist.
    pub fn holds(self, current: Option<u64>) -> bool {
        match self {
            Self::None => true,
            Self::Exists => current.is_some(),
            Self::Absent => current.is_none(),
            Self::VersionIs(version) => current == Some(version),
            Self::VersionIsNot(version) => current != Some(version),
        }
    }
}

/// The witness that comes with an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The log index of a write, or up to which the state was applied that a read saw.
    pub index: u64,
    /// The term that vouches for it.
    pub term: u64,
}

/// The answer to a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// It took effect; the index is the key's new version.
    Done(Place),
    /// It was looked at there, and changed nothing, because of the version that the key had.
    Held { current: Option<u64>, place: Place },
    /// It has no effect, now or later.
    Refused,
    /// It may have taken effect, or may still.
    Unknown,
}

/// A read of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Get {
    pub key: String,
    pub freshness: Freshness,
    /// `None` when there was no answer.
    pub told: Option<Sight>,
}

/// How new the state must be that a read is answered from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// It sees all that was acknowledged or shown before its call.
    Linearizable,
    /// The same promise, made by the leader's lease.
    Lease,
    /// It sees some state that was committed, not before this index.
    Stale { min_index: u64 },
}

impl Freshness {
    /// Whether the read promises to see all that was there before its call.
    pub fn is_linearizable(self) -> bool {
        !matches!(self, Self::Stale { .. })
    }
}

/// The answer to a read of one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sight {
    /// `None` when the key does not exist.
    pub found: Option<Found>,
    pub place: Place,
}

/// A key's version and value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Found {
    pub version: u64,
    pub value: u64,
}

/// A read of the versions of all keys with a prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct List {
    pub prefix: String,
    pub freshness: Freshness,
    /// `None` when there was no answer.
    pub told: Option<Listing>,
}

/// The answer to a list: every key that exists, with its version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    pub keys: Vec<(String, u64)>,
    pub place: Place,
}

impl Op {
    /// The witness of its answer; `None` when it was not answered, or refused.
    pub fn place(&self) -> Option<Place> {
        match &self.what {
            What::Write(write) => match write.told {
                Told::Done(place) | Told::Held { place, .. } => Some(place),
                Told::Refused | Told::Unknown => None,
            },
            What::Get(get) => get.told.map(|sight| sight.place),
            What::List(list) => list.told.as_ref().map(|listing| listing.place),
        }
    }

    /// Whether it is a write whose outcome nobody told.
    pub fn is_unknown_write(&self) -> bool {
        matches!(&self.what, What::Write(Write { told: Told::Unknown, .. }))
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "c{} {}..{} ", self.client, self.called, self.returned)?;
        match &self.what {
            What::Write(write) => {
                match write.change {
                    Change::Put(value) => write!(f, "put {} {value}{}", write.key, write.condition)?,
                    Change::Delete => write!(f, "delete {}{}", write.key, write.condition)?,
                }
                write!(f, " -> {}", write.told)
            }
            What::Get(get) => match &get.told {
                Some(sight) => write!(f, "get {}{} -> {sight}", get.key, get.freshness),
                None => write!(f, "get {}{} -> unknown", get.key, get.freshness),
            },
            What::List(list) => match &list.told {
                Some(listing) => write!(f, "list {}{} -> {listing}", list.prefix, list.freshness),
                None => write!(f, "list {}{} -> unknown", list.prefix, list.freshness),
            },
        }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => Ok(()),
            Self::Exists => f.write_str(" if exists"),
            Self::Absent => f.write_str(" if absent"),
            Self::VersionIs(version) => write!(f, " if v{version}"),
            Self::VersionIsNot(version) => write!(f, " if not v{version}"),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.index, self.term)
    }
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done(place) => write!(f, "done {place}"),
            Self::Held { current: Some(version), place } => write!(f, "held v{version} {place}"),
            Self::Held { current: None, place } => write!(f, "held absent {place}"),
            Self::Refused => f.write_str("refused"),
            Self::Unknown => f.write_str("unknown"),
        }
    }
}

impl fmt::Display for Freshness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Linearizable => Ok(()),
            Self::Lease => f.write_str(" lease"),
            Self::Stale { min_index: 0 } => f.write_str(" stale"),
            Self::Stale { min_index } => write!(f, " stale from {min_index}"),
        }
    }
}

impl fmt::Display for Sight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.found {
            Some(Found { version, value }) => write!(f, "v{version}={value} {}", self.place),
            None => write!(f, "absent {}", self.place),
        }
    }
}

impl fmt::Display for Listing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.keys.iter().try_for_each(|(key, version)| write!(f, "{key}:v{version} "))?;
        self.place.fmt(f)
    }
}
