//! The registry, written a second time: plain maps, no clever copies, no digest. What the state machine answers
//! and holds is compared with this.

use std::collections::BTreeMap;

use bytes::Bytes;
use termgate::ids::{LogId, LogIndex, NodeId, Term};
use termgate::raft::entry::{Entry, Membership, Payload};
use termgate::registry::command::{Answer, Command, Condition, Member, Op};
use termgate::registry::machine::Machine;

/// A key's value, version, first version and term.
type Row = (Bytes, u64, u64, u64);

/// The state.
#[derive(Debug, Default)]
pub struct Registry {
    applied: LogId,
    keys: BTreeMap<String, Row>,
    fences: BTreeMap<String, (u64, NodeId, u64)>,
    members: BTreeMap<NodeId, Member>,
    leaders: Vec<(u64, NodeId, u64)>,
    membership: Membership,
    undecodable: u64,
}

/// An answer, without the words that explain it.
#[derive(Debug, PartialEq, Eq)]
pub enum Told {
    Done(u64),
    ConditionFailed(Option<u64>),
    NotFound,
    LimitExceeded,
    StaleTerm,
    Undecodable,
}

impl From<Answer> for Told {
    fn from(answer: Answer) -> Self {
        match answer {
            Answer::Done { version } => Self::Done(version.0),
            Answer::ConditionFailed { current } => Self::ConditionFailed(current.map(|v| v.0)),
            Answer::NotFound => Self::NotFound,
            Answer::LimitExceeded(_) => Self::LimitExceeded,
            Answer::StaleTerm => Self::StaleTerm,
            Answer::Undecodable => Self::Undecodable,
        }
    }
}

fn names_something(name: &str) -> bool {
    (1..=512).contains(&name.len()) && !name.chars().any(char::is_control)
}

impl Registry {
    /// The next entry.
    pub fn apply(&mut self, entry: &Entry) -> Option<Told> {
        self.applied = entry.id;
        match &entry.payload {
            Payload::NoOp { leader } => {
                self.leaders.push((entry.id.term.0, *leader, entry.id.index.0));
                None
            }
            Payload::Membership(membership) => {
                self.membership = membership.clone();
                None
            }
            Payload::Command(bytes) => Some(match postcard::take_from_bytes::<Command>(bytes) {
                Ok((command, [])) if command.decided_in < entry.id.term => Told::StaleTerm,
                Ok((command, [])) => self.carry_out(command.op, entry.id.index.0, entry.id.term.0),
                _ => {
                    self.undecodable += 1;
                    Told::Undecodable
                }
            }),
        }
    }

    fn carry_out(&mut self, op: Op, index: u64, term: u64) -> Told {
        match op {
            Op::Put { key, value, condition } => self.put(key, value, condition, (index, term)),
            Op::Delete { key, condition } => match self.refused(condition, &key) {
                Some(refusal) => refusal,
                None => self.keys.remove(&key).map_or(Told::NotFound, |_| Told::Done(index)),
            },
            Op::FenceRaised { resource, term, node } => self.raise(resource, term.0, node, index),
            Op::SetMember(member) => {
                let texts = [Some(&member.peer), Some(&member.proxy), Some(&member.hop), Some(&member.api)];
                let long = texts.into_iter().chain([member.zone.as_ref()]).flatten().any(|t| t.len() > 300);
                let known = self.members.contains_key(&member.id);
                if !long && !known && self.members.len() == 64 && !self.membership.voters.is_empty() {
                    let membership = &self.membership;
                    self.members.retain(|node, _| membership.contains(*node));
                }
                if long || (!known && self.members.len() == 64) {
                    return Told::LimitExceeded;
                }
                self.members.insert(member.id, member);
                Told::Done(index)
            }
            Op::Intend(_) | Op::Invite(_) | Op::Redeem(_) => {
                unreachable!("the model has no requests of members")
            }
        }
    }

    fn refused(&self, condition: Condition, key: &str) -> Option<Told> {
        let current = self.keys.get(key).map(|row| row.1);
        let holds = match (condition, current) {
            (Condition::None, _) | (Condition::Exists, Some(_)) | (Condition::Absent, None) => true,
            (Condition::Exists, None) | (Condition::Absent, Some(_)) => false,
            (Condition::VersionIs(wanted), current) => current == Some(wanted.0),
            (Condition::VersionIsNot(unwanted), current) => current != Some(unwanted.0),
        };
        (!holds).then_some(Told::ConditionFailed(current))
    }

    fn put(&mut self, key: String, value: Bytes, condition: Condition, (index, term): (u64, u64)) -> Told {
        if !names_something(&key) {
            return Told::LimitExceeded;
        }
        if let Some(refusal) = self.refused(condition, &key) {
            return refusal;
        }
        let others = self.keys.iter().filter(|(other, _)| **other != key);
        let bytes: usize = others.map(|(key, row)| key.len() + row.0.len()).sum();
        let full = bytes + key.len() + value.len() > 256 << 20 || self.keys.len() >= 1_000_000;
        if value.len() > 1 << 20 || full {
            return Told::LimitExceeded;
        }
        let created = self.keys.get(&key).map_or(index, |row| row.2);
        self.keys.insert(key, (value, index, created, term));
        Told::Done(index)
    }

    fn raise(&mut self, resource: String, term: u64, node: NodeId, index: u64) -> Told {
        if !names_something(&resource) {
            return Told::LimitExceeded;
        }
        match self.fences.get(&resource) {
            Some((stands, _, at)) if term < *stands => return Told::ConditionFailed(Some(*at)),
            Some((stands, _, at)) if term == *stands => return Told::Done(*at),
            None if self.fences.len() == 10_000 => return Told::LimitExceeded,
            _ => {}
        }
        self.fences.insert(resource, (term, node, index));
        Told::Done(index)
    }

    /// Whether `machine` holds exactly this, asked in every way that it can be asked.
    pub fn check(&self, machine: &Machine) {
        assert_eq!((machine.applied(), machine.membership()), (self.applied, &self.membership));
        assert_eq!(machine.undecodable_count(), self.undecodable);
        let bytes: usize = self.keys.iter().map(|(key, row)| key.len() + row.0.len()).sum();
        assert_eq!((machine.key_count(), machine.byte_count()), (self.keys.len(), bytes));
        for (key, row) in &self.keys {
            let value = machine.key(key).expect("a key that was put");
            let held: Row = (value.value.clone(), value.version.0, value.created.0, value.term.0);
            assert_eq!(&held, row, "{key:?}");
        }
        let fences: Vec<_> =
            machine.fences().map(|(n, f)| (n.to_owned(), (f.term.0, f.node, f.index.0))).collect();
        assert_eq!(fences, self.fences.clone().into_iter().collect::<Vec<_>>());
        assert_eq!(machine.members().collect::<Vec<_>>(), self.members.values().collect::<Vec<_>>());
        let leaders: Vec<_> = machine.leaders().map(|l| (l.term.0, l.node, l.index.0)).collect();
        assert_eq!(leaders, self.leaders[self.leaders.len().saturating_sub(128)..]);
    }

    /// The pages of a list, against the whole of it.
    pub fn check_list(&self, machine: &Machine, prefix: &str, after: &str, limit: usize) {
        let wanted = |key: &&String| key.starts_with(prefix);
        let all: Vec<&String> = self.keys.keys().filter(wanted).take(limit).collect();
        assert_eq!(machine.list(prefix, limit).map(|(key, _)| key).collect::<Vec<_>>(), all);
        let rest: Vec<&String> =
            self.keys.keys().filter(wanted).filter(|key| key.as_str() > after).take(limit).collect();
        assert_eq!(machine.list_after(prefix, after, limit).map(|(key, _)| key).collect::<Vec<_>>(), rest);
    }

    /// A version that some key has, or none.
    pub fn some_version(&self, nth: usize) -> LogIndex {
        LogIndex(self.keys.values().nth(nth % self.keys.len().max(1)).map_or(0, |row| row.1))
    }

    /// The term of the last entry.
    pub const fn term(&self) -> Term {
        self.applied.term
    }
}
