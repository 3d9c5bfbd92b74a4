//! What the clients were told, against what was committed: an independent model of the registry,
//! replayed from the committed log, and one record per request.
//!
//! Every write carries its request's number as its value, so that the committed log itself says
//! which requests took effect.

use std::collections::BTreeMap;

use bytes::Bytes;
use termgate::driver::handle::{Applied, Refused};
use termgate::ids::{LogId, LogIndex, Term};
use termgate::raft::entry::{Entry, Payload};
use termgate::registry::command::{Answer, Command, Condition, Op};

/// Names a request of a simulated client.
pub type RequestId = u64;

/// How far a write has come.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Fate {
    Open,
    Acked(LogIndex),
    Refused,
    Unknown,
}

/// The value of a key: since when, and what.
type Version = (LogIndex, Option<Bytes>);

/// The model and the records.
#[derive(Debug, Default)]
pub struct Oracle {
    fates: BTreeMap<RequestId, Fate>,
    committed: BTreeMap<RequestId, (LogIndex, Term, Answer)>,
    keys: BTreeMap<String, Vec<Version>>,
    /// The highest position that a finished request has shown to a client.
    watermark: LogIndex,
    unknown_applied: u64,
    /// Compare-and-sets by a version, and which unknown one each repeats.
    versioned: BTreeMap<RequestId, Versioned>,
    /// Of those that took effect: by the first of each.
    took_effect: BTreeMap<RequestId, RequestId>,
}

/// A compare-and-set that takes effect only on one version of its key.
#[derive(Debug, Clone)]
pub struct Versioned {
    /// The key.
    pub key: &'static str,
    /// The version it was for.
    pub version: LogIndex,
    /// The first of its kind: it is this one sent again.
    pub first: RequestId,
}

/// The value that carries a request's number.
pub fn value_of(request: RequestId) -> Bytes {
    Bytes::copy_from_slice(&request.to_be_bytes())
}

fn request_of(value: &Bytes) -> Option<RequestId> {
    Some(u64::from_be_bytes(value.as_ref().try_into().ok()?))
}

impl Oracle {
    /// A write begins.
    pub fn asked(&mut self, request: RequestId) {
        self.fates.insert(request, Fate::Open);
    }

    /// A write is a compare-and-set for one version, and perhaps an earlier one sent again.
    pub fn versioned(&mut self, request: RequestId, what: Versioned) {
        self.versioned.insert(request, what);
    }

    /// What an unknown write was, when it may be sent again without harm.
    pub fn repeatable(&self, request: RequestId) -> Option<&Versioned> {
        self.versioned.get(&request)
    }

    /// I11: of a compare-and-set and all its repetitions one took effect at most.
    fn check_once(&mut self, request: RequestId, id: LogId) -> Result<(), String> {
        let Some(Versioned { first, .. }) = self.versioned.get(&request) else { return Ok(()) };
        match self.took_effect.insert(*first, request) {
            Some(other) => Err(format!("I11: {request} at {id} repeats {other}, and both took effect")),
            None => Ok(()),
        }
    }

    /// Whether a compare-and-set, or one that repeats it, took effect.
    pub fn took_effect(&self, first: RequestId) -> bool {
        self.took_effect.contains_key(&first)
    }

    /// The position every read that begins now must reach.
    pub const fn watermark(&self) -> LogIndex {
        self.watermark
    }

    /// Unknown writes that took effect, as they may.
    pub const fn unknown_applied(&self) -> u64 {
        self.unknown_applied
    }

    /// A process ended with this write open, or said that it does not know.
    pub fn unknown(&mut self, request: RequestId) -> Result<(), String> {
        self.unknown_applied += u64::from(self.committed.contains_key(&request));
        self.end(request, Fate::Unknown)
    }

    /// A write was refused: it must never have an effect.
    pub fn refused(&mut self, request: RequestId, why: &Refused) -> Result<(), String> {
        if let Some((index, ..)) = self.committed.get(&request) {
            return Err(format!("G5: write {request} was refused ({why}) and is committed at {index}"));
        }
        self.end(request, Fate::Refused)
    }

    /// A write was acknowledged: it is committed, there, with that answer.
    pub fn acked(&mut self, request: RequestId, applied: &Applied) -> Result<(), String> {
        let Some((index, term, answer)) = self.committed.get(&request) else {
            return Err(format!("write {request} is acknowledged at {} and not committed", applied.index));
        };
        if (*index, *term, answer) != (applied.index, applied.term, &applied.answer) {
            return Err(format!("write {request} is {answer:?} at {index}@{term}, but was told {applied:?}"));
        }
        self.show(applied.index);
        self.end(request, Fate::Acked(applied.index))
    }

    fn end(&mut self, request: RequestId, fate: Fate) -> Result<(), String> {
        match self.fates.insert(request, fate.clone()) {
            Some(Fate::Open) => Ok(()),
            other => Err(format!("write {request} has two ends: {other:?} and {fate:?}")),
        }
    }

    /// A client saw the state at `index`: nobody may see an older one from now on.
    pub fn show(&mut self, index: LogIndex) {
        self.watermark = self.watermark.max(index);
    }

    /// Writes that never ended.
    pub fn open_writes(&self) -> Vec<RequestId> {
        self.fates.iter().filter(|(_, fate)| **fate == Fate::Open).map(|(id, _)| *id).collect()
    }

    /// The next committed entry.
    pub fn commit(&mut self, entry: &Entry) -> Result<(), String> {
        let Payload::Command(bytes) = &entry.payload else { return Ok(()) };
        let command: Command =
            postcard::from_bytes(bytes).map_err(|e| format!("committed {} is no command: {e}", entry.id))?;
        let (key, value, condition) = match command.op {
            Op::Put { key, value, condition } => (key, value, condition),
            other => return Err(format!("nobody asked for {other:?}")),
        };
        let Some(request) = request_of(&value) else {
            return Err(format!("nobody wrote the value at {}", entry.id));
        };
        if self.fates.get(&request) == Some(&Fate::Refused) {
            return Err(format!("G5: write {request} was refused and is committed at {}", entry.id));
        }
        self.unknown_applied += u64::from(self.fates.get(&request) == Some(&Fate::Unknown));
        let answer = if command.decided_in < entry.id.term {
            Answer::StaleTerm
        } else {
            self.put(key, value, condition, entry.id.index)
        };
        if matches!(answer, Answer::Done { .. }) {
            self.check_once(request, entry.id)?;
        }
        if let Some((first, ..)) = self.committed.insert(request, (entry.id.index, entry.id.term, answer)) {
            return Err(format!("write {request} is committed twice: at {first} and at {}", entry.id));
        }
        Ok(())
    }

    fn put(&mut self, key: String, value: Bytes, condition: Condition, index: LogIndex) -> Answer {
        let versions = self.keys.entry(key).or_default();
        let current = versions.last().map(|(version, _)| *version);
        let holds = match condition {
            Condition::None => true,
            Condition::Exists => current.is_some(),
            Condition::Absent => current.is_none(),
            Condition::VersionIs(wanted) => current == Some(wanted),
            Condition::VersionIsNot(unwanted) => current != Some(unwanted),
        };
        if holds {
            versions.push((index, Some(value)));
            Answer::Done { version: index }
        } else {
            Answer::ConditionFailed { current }
        }
    }

    /// What a read of `key` must see in the state at `index`.
    pub fn at(&self, key: &str, index: LogIndex) -> Option<(LogIndex, Bytes)> {
        let versions = self.keys.get(key)?;
        let (version, value) = versions.iter().rev().find(|(version, _)| *version <= index)?;
        Some((*version, value.clone()?))
    }
}
