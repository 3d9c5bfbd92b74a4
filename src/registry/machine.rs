//! Applies committed entries to the state that every node keeps.
//!
//! The idea: the state after an entry is a function of the state before it and of the entry, and of
//! nothing else: no clock, no chance, no map with a random order, no setting that may differ
//! between nodes. So the same log leads to the same state, and [`Machine::digest`] to the same
//! number, everywhere.
//!
//! What an entry does:
//!
//! - a **no-op** records who leads its term, and has no answer;
//! - a **membership** is remembered, and has no answer;
//! - a **command** is answered. One that was decided in an older term than it was appended in has
//!   no effect (P1); one that can't be read has no effect either, on any node, and
//!   is counted.
//!
//! A version is the log index of a key's last modification, never a counter beside the key: a key
//! that is deleted and made again can't repeat a version that somebody still compares with.
//!
//! A copy of the state is cheap (`ordered`), so a snapshot is taken of a copy while entries go on being
//! applied; `snapshot` turns it into bytes and back.
//!
//! Left out: sessions and elections inside the registry.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::ids::{LogId, LogIndex, NodeId, Term};
use crate::raft::entry::{Entry, Membership, Payload};
use crate::registry::command::{Answer, Command, Condition, Member, Op};
use crate::registry::digest::Digest;
use crate::registry::limits;
use crate::registry::ordered::Ordered;

mod changes;
mod founded;
pub mod snapshot;

pub use changes::{ChangeRecord, InvitationRecord};

/// A key's value and where it comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Value {
    /// The bytes.
    pub value: Bytes,
    /// The log index of the last modification: the key's version.
    pub version: LogIndex,
    /// The log index at which the key was made.
    pub created: LogIndex,
    /// The term of the last modification.
    pub term: Term,
}

/// Who led a term, and the entry that says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaderRecord {
    /// The term.
    pub term: Term,
    /// Its leader.
    pub node: NodeId,
    /// Its no-op.
    pub index: LogIndex,
}

/// The highest fence that is known to stand at a resource's backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FenceRecord {
    /// The token.
    pub term: Term,
    /// Who raised it.
    pub node: NodeId,
    /// The entry that says so.
    pub index: LogIndex,
}

/// The applied state.
#[derive(Debug, Clone)]
pub struct Machine {
    applied: LogId,
    keys: Ordered<Value>,
    /// Bytes of all keys and values.
    bytes: usize,
    /// Addresses as this node's configuration has them: no part of the replicated state.
    configured: BTreeMap<NodeId, Member>,
    /// Addresses from the log; they stand above the configured ones.
    members: BTreeMap<NodeId, Member>,
    membership: Membership,
    /// Who was a member and is none any more, and the entry that says so.
    removed: BTreeMap<NodeId, LogIndex>,
    /// How often addresses or members have changed in this life: no part of the replicated state.
    roster_version: u64,
    leaders: VecDeque<LeaderRecord>,
    fences: BTreeMap<String, FenceRecord>,
    /// The last changes of the members that were asked for by name, oldest first.
    changes: VecDeque<ChangeRecord>,
    invitations: BTreeMap<NodeId, InvitationRecord>,
    undecodable_count: u64,
    digest: Digest,
}

impl Machine {
    /// The state before the first entry. `configured` are the initial members' addresses.
    pub fn new(configured: Vec<Member>) -> Self {
        Self {
            applied: LogId::ZERO,
            keys: Ordered::default(),
            bytes: 0,
            configured: configured.into_iter().map(|m| (m.id, m)).collect(),
            members: BTreeMap::new(),
            membership: Membership::default(),
            removed: BTreeMap::new(),
            roster_version: 0,
            leaders: VecDeque::new(),
            fences: BTreeMap::new(),
            changes: VecDeque::new(),
            invitations: BTreeMap::new(),
            undecodable_count: 0,
            digest: Digest::EMPTY,
        }
    }

    /// Applies the next committed entry. A command is answered, anything else is not.
    ///
    /// # Panics
    /// When an entry is left out or applied twice: the state would differ from the other nodes'.
    pub fn apply(&mut self, entry: &Entry) -> Option<Answer> {
        assert_eq!(entry.id.index, self.applied.index.next(), "entries are applied in order, each once");
        assert!(entry.id.term >= self.applied.term, "terms never go back along the log");
        self.applied = entry.id;
        let answer = match &entry.payload {
            Payload::NoOp { leader } => {
                self.record_leader(entry.id, *leader);
                None
            }
            Payload::Membership(membership) => {
                self.enter(entry.id.index, membership);
                None
            }
            Payload::Command(bytes) => Some(self.apply_bytes(entry.id, bytes)),
        };
        self.note(entry, answer.as_ref());
        answer
    }

    fn record_leader(&mut self, id: LogId, node: NodeId) {
        if self.leaders.len() == limits::LEADERS {
            self.leaders.pop_front();
        }
        self.leaders.push_back(LeaderRecord { term: id.term, node, index: id.index });
    }

    fn apply_bytes(&mut self, id: LogId, bytes: &Bytes) -> Answer {
        match postcard::take_from_bytes::<Command>(bytes) {
            Ok((command, [])) => self.apply_command(id, command),
            _ => {
                self.undecodable_count += 1;
                Answer::Undecodable
            }
        }
    }

    fn apply_command(&mut self, id: LogId, command: Command) -> Answer {
        // P1: a leader that was deposed while it decided can't act through its successor.
        if command.decided_in < id.term {
            return Answer::StaleTerm;
        }
        let applied = match command.op {
            Op::Put { key, value, condition } => self.put(id, key, value, condition),
            Op::Delete { key, condition } => self.delete(id, &key, condition),
            Op::FenceRaised { resource, term, node } => self.raise_fence(id, resource, term, node),
            Op::SetMember(member) => self.set_member(id, member),
            Op::Intend(intent) => self.intend(id, *intent),
            Op::Invite(invitation) => self.invite(id, &invitation),
            Op::Redeem(redemption) => self.redeem(id, *redemption),
        };
        applied.map_or_else(|refusal| refusal, |version| Answer::Done { version })
    }

    fn put(
        &mut self,
        id: LogId,
        key: String,
        value: Bytes,
        condition: Condition,
    ) -> Result<LogIndex, Answer> {
        limits::valid_key(&key).map_err(Answer::LimitExceeded)?;
        let old = self.keys.get(&key);
        check(condition, old)?;
        if value.len() > limits::VALUE_BYTES {
            return Err(Answer::LimitExceeded("a value has at most 1 MiB"));
        }
        let freed = old.map_or(0, |old| key.len() + old.value.len());
        let bytes = self.bytes - freed + key.len() + value.len();
        if bytes > limits::TOTAL_BYTES {
            return Err(Answer::LimitExceeded("the registry holds at most 256 MiB"));
        }
        if old.is_none() && self.keys.len() >= limits::KEYS {
            return Err(Answer::LimitExceeded("the registry holds at most 1000000 keys"));
        }
        let created = old.map_or(id.index, |old| old.created);
        self.bytes = bytes;
        self.keys.insert(key, Value { value, version: id.index, created, term: id.term });
        Ok(id.index)
    }

    fn delete(&mut self, id: LogId, key: &str, condition: Condition) -> Result<LogIndex, Answer> {
        let old = self.keys.get(key);
        check(condition, old)?;
        let freed = key.len() + old.ok_or(Answer::NotFound)?.value.len();
        self.bytes -= freed;
        self.keys.remove(key);
        Ok(id.index)
    }

    /// A fence only ever goes up; the same term again changes nothing and is fine.
    fn raise_fence(
        &mut self,
        id: LogId,
        resource: String,
        term: Term,
        node: NodeId,
    ) -> Result<LogIndex, Answer> {
        limits::valid_key(&resource).map_err(Answer::LimitExceeded)?;
        match self.fences.get(&resource) {
            Some(stands) if term < stands.term => {
                return Err(Answer::ConditionFailed { current: Some(stands.index) });
            }
            Some(stands) if term == stands.term => return Ok(stands.index),
            None if self.fences.len() >= limits::FENCES => {
                return Err(Answer::LimitExceeded("at most 10000 resources have a fence"));
            }
            _ => {}
        }
        self.fences.insert(resource, FenceRecord { term, node, index: id.index });
        Ok(id.index)
    }

    fn note(&mut self, entry: &Entry, answer: Option<&Answer>) {
        self.digest.number(entry.id.term.0);
        self.digest.number(entry.id.index.0);
        match &entry.payload {
            Payload::NoOp { leader } => self.digest.number(leader.0),
            Payload::Membership(m) => {
                m.voters.iter().for_each(|node| self.digest.number(node.0));
                m.voters_old.iter().flatten().for_each(|node| self.digest.number(node.0));
                m.learners.iter().for_each(|node| self.digest.number(node.0));
                m.incarnations.values().for_each(|incarnation| self.digest.number(*incarnation));
            }
            Payload::Command(bytes) => self.digest.bytes(bytes),
        }
        self.digest.number(answer.map_or(0, fingerprint));
    }

    /// A key's value.
    pub fn key(&self, key: &str) -> Option<&Value> {
        self.keys.get(key)
    }

    /// The keys that start with `prefix`, in order, at most `limit`.
    pub fn list(&self, prefix: &str, limit: usize) -> impl Iterator<Item = (&str, &Value)> {
        self.list_from(prefix, Bound::Included(prefix), limit)
    }

    /// The same, of the keys behind `after`.
    pub fn list_after<'m>(
        &'m self,
        prefix: &'m str,
        after: &'m str,
        limit: usize,
    ) -> impl Iterator<Item = (&'m str, &'m Value)> {
        // Below the prefix there is nothing to list, and the walk would stop at the first other key.
        let start = if after < prefix { Bound::Included(prefix) } else { Bound::Excluded(after) };
        self.list_from(prefix, start, limit)
    }

    fn list_from(
        &self,
        prefix: &str,
        start: Bound<&str>,
        limit: usize,
    ) -> impl Iterator<Item = (&str, &Value)> {
        self.keys.range(start).take_while(move |(key, _)| key.starts_with(prefix)).take(limit)
    }

    /// How many keys there are.
    pub fn key_count(&self) -> usize {
        self.keys.len()
    }

    /// The bytes of all keys and values.
    pub fn byte_count(&self) -> usize {
        self.bytes
    }

    /// Where each known member can be reached, in order of id.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        let only_configured = |member: &&Member| !self.members.contains_key(&member.id);
        let mut all: Vec<&Member> = self.configured.values().filter(only_configured).collect();
        all.extend(self.members.values());
        all.sort_by_key(|member| member.id);
        all.into_iter()
    }

    /// The state of `fetched`, with the addresses that this node is configured with.
    pub fn replace(&mut self, fetched: Self) {
        let configured = std::mem::take(&mut self.configured);
        *self = Self { configured, roster_version: self.roster_version + 1, ..fetched };
    }

    /// Where one member can be reached.
    pub fn member(&self, node: NodeId) -> Option<&Member> {
        self.members.get(&node).or_else(|| self.configured.get(&node))
    }

    /// The last membership that was applied; empty before the first.
    pub fn membership(&self) -> &Membership {
        &self.membership
    }

    /// Who was a member and is none any more, and the entry that says so.
    pub fn removed(&self) -> &BTreeMap<NodeId, LogIndex> {
        &self.removed
    }

    /// Another number whenever addresses or members have changed; of no meaning outside of this process.
    pub const fn roster_version(&self) -> u64 {
        self.roster_version
    }

    /// The last leaders, oldest first.
    pub fn leaders(&self) -> impl DoubleEndedIterator<Item = &LeaderRecord> {
        self.leaders.iter()
    }

    /// The highest fence of each resource, in order of name.
    pub fn fences(&self) -> impl Iterator<Item = (&str, &FenceRecord)> {
        self.fences.iter().map(|(resource, fence)| (resource.as_str(), fence))
    }

    /// The highest fence of one resource.
    pub fn fence(&self, resource: &str) -> Option<&FenceRecord> {
        self.fences.get(resource)
    }

    /// The last applied entry.
    pub fn applied(&self) -> LogId {
        self.applied
    }

    /// Commands that could not be read.
    pub fn undecodable_count(&self) -> u64 {
        self.undecodable_count
    }

    /// A fingerprint of everything applied so far; equal on all nodes that have applied as much.
    pub fn digest(&self) -> u64 {
        self.digest.value()
    }
}

/// Whether `condition` holds for a key's present value.
fn check(condition: Condition, present: Option<&Value>) -> Result<(), Answer> {
    let current = present.map(|value| value.version);
    let holds = match condition {
        Condition::None => true,
        Condition::Exists => current.is_some(),
        Condition::Absent => current.is_none(),
        Condition::VersionIs(version) => current == Some(version),
        Condition::VersionIsNot(version) => current != Some(version),
    };
    if holds { Ok(()) } else { Err(Answer::ConditionFailed { current }) }
}

/// A number per answer; what distinguishes two of one kind is in the entry or in the state.
fn fingerprint(answer: &Answer) -> u64 {
    match answer {
        Answer::Done { version } => version.0 << 3 | 1,
        Answer::ConditionFailed { current } => current.map_or(0, |v| v.0) << 3 | 2,
        Answer::NotFound => 3,
        Answer::LimitExceeded(_) => 4,
        Answer::StaleTerm => 5,
        Answer::Undecodable => 6,
    }
}

#[cfg(test)]
mod tests;
