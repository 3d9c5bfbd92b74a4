//! The state as bytes, and back: what a snapshot holds (`proto-spec/snapshot.md`).
//!
//! One record after the other, each with its length in front, so that neither side ever has the whole in
//! memory a second time: the writer is handed a sink, the reader is pushed whatever arrived. The
//! same state gives the same bytes. The last record counts the others, so a part is never taken for
//! the whole; what the file's digest cannot show (a state that breaks a limit, keys out of order) is
//! refused here.

use std::ops::Bound;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{ChangeRecord, FenceRecord, InvitationRecord, LeaderRecord, Machine, Value};
use crate::ids::{LogId, LogIndex, NodeId};
use crate::raft::entry::Membership;
use crate::registry::command::Member;
use crate::registry::digest::Digest;
use crate::registry::limits;

/// The version of the records; another one is refused (SN-1).
const VERSION: u32 = 1;
/// The longest record: a key with the largest value, and their frame (SN-2).
const RECORD_BYTES: usize = limits::VALUE_BYTES + limits::KEY_BYTES + 1024;

/// One record.
#[derive(Debug, Serialize, Deserialize)]
enum Record {
    /// The first.
    Header {
        version: u32,
        applied: LogId,
        digest: u64,
        undecodable_count: u64,
    },
    Membership(Membership),
    Member(Member),
    Leader(LeaderRecord),
    Fence {
        resource: String,
        record: FenceRecord,
    },
    Key {
        key: String,
        value: Value,
    },
    /// The last: how many there were before it (SN-3).
    End {
        records: u64,
    },
    Change(ChangeRecord),
    Invitation {
        node: NodeId,
        record: InvitationRecord,
    },
    /// Who was a member, and the entry that left it out.
    Removed {
        node: NodeId,
        at: LogIndex,
    },
}

/// Why bytes are no state.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Malformed {
    /// Another version of the records.
    #[error("the snapshot has version {0}, this program reads {VERSION}; run the same version on all nodes")]
    Version(u32),
    /// A record that does not fit.
    #[error("the snapshot is malformed: {0}")]
    Record(&'static str),
}

impl Machine {
    /// Hands the state to `sink`, piece by piece, in order.
    ///
    /// # Errors
    /// The first error of the sink.
    pub fn encode<E>(&self, mut sink: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        let mut records = 0;
        let mut put = |record: &Record| {
            records += 1;
            write(record, &mut sink)
        };
        put(&Record::Header {
            version: VERSION,
            applied: self.applied,
            digest: self.digest.value(),
            undecodable_count: self.undecodable_count,
        })?;
        put(&Record::Membership(self.membership.clone()))?;
        for member in self.members.values() {
            put(&Record::Member(member.clone()))?;
        }
        for (node, at) in &self.removed {
            put(&Record::Removed { node: *node, at: *at })?;
        }
        for leader in &self.leaders {
            put(&Record::Leader(*leader))?;
        }
        for (resource, record) in &self.fences {
            put(&Record::Fence { resource: resource.clone(), record: *record })?;
        }
        for change in &self.changes {
            put(&Record::Change(change.clone()))?;
        }
        for (node, record) in &self.invitations {
            put(&Record::Invitation { node: *node, record: *record })?;
        }
        for (key, value) in self.keys.range(Bound::Unbounded) {
            put(&Record::Key { key: key.to_owned(), value: value.clone() })?;
        }
        write(&Record::End { records }, &mut sink)
    }
}

/// One record with its length.
fn write<E>(record: &Record, sink: &mut impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
    // Encoding into memory fails only when memory does.
    let body = postcard::to_stdvec(record).expect("a record can be encoded");
    let length = u32::try_from(body.len()).expect("a record is shorter than 4 GiB");
    sink(&length.to_be_bytes())?;
    sink(&body)
}

/// Reads a state from bytes as they arrive.
#[derive(Debug, Default)]
pub struct Decoder {
    /// What is not a whole record yet.
    rest: Vec<u8>,
    machine: Option<Machine>,
    records: u64,
    ended: bool,
}

impl Decoder {
    /// Takes the next bytes.
    ///
    /// # Errors
    /// When they can't be part of a state; the decoder is of no use afterwards.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), Malformed> {
        self.rest.extend_from_slice(bytes);
        let mut at = 0;
        while let Some((body, next)) = frame(&self.rest, at)? {
            let record = match postcard::take_from_bytes::<Record>(body) {
                Ok((record, [])) => record,
                _ => return Err(Malformed::Record("a record can't be decoded")),
            };
            at = next;
            self.take(record)?;
        }
        self.rest.drain(..at);
        Ok(())
    }

    /// The state, when all of it was there.
    ///
    /// # Errors
    /// When something is missing or left over.
    pub fn finish(self) -> Result<Machine, Malformed> {
        let complete = self.ended && self.rest.is_empty();
        self.machine.filter(|_| complete).ok_or(Malformed::Record("it ends too early"))
    }

    fn take(&mut self, record: Record) -> Result<(), Malformed> {
        if self.ended {
            return Err(Malformed::Record("something follows its end"));
        }
        let Some(machine) = &mut self.machine else {
            self.machine = Some(begin(record)?);
            self.records = 1;
            return Ok(());
        };
        if (self.records == 1) != matches!(record, Record::Membership(_)) {
            return Err(Malformed::Record("the membership comes once, and second"));
        }
        match record {
            Record::End { records } => {
                if records != self.records {
                    return Err(Malformed::Record("records are missing"));
                }
                self.ended = true;
            }
            other => fill(machine, other)?,
        }
        self.records += 1;
        Ok(())
    }
}

/// One record's bytes from `at` on, and where the next begins; `None` when not all of it is there.
fn frame(bytes: &[u8], at: usize) -> Result<Option<(&[u8], usize)>, Malformed> {
    let rest = bytes.get(at..).unwrap_or_default();
    let Some((length, body)) = rest.split_first_chunk::<4>() else { return Ok(None) };
    let length = u32::from_be_bytes(*length) as usize;
    if length > RECORD_BYTES {
        return Err(Malformed::Record("a record is too long"));
    }
    Ok(body.get(..length).map(|body| (body, at + 4 + length)))
}

fn begin(record: Record) -> Result<Machine, Malformed> {
    match record {
        Record::Header { version: VERSION, applied, digest, undecodable_count } => Ok(Machine {
            applied,
            digest: Digest::of_value(digest),
            undecodable_count,
            ..Machine::new(Vec::new())
        }),
        Record::Header { version, .. } => Err(Malformed::Version(version)),
        _ => Err(Malformed::Record("it has no header")),
    }
}

fn fill(machine: &mut Machine, record: Record) -> Result<(), Malformed> {
    let within = |count: usize, limit: usize| {
        if count < limit { Ok(()) } else { Err(Malformed::Record("a limit of the registry is exceeded")) }
    };
    let once = |new: bool| if new { Ok(()) } else { Err(Malformed::Record("a record comes twice")) };
    match record {
        Record::Membership(membership) => machine.membership = membership,
        Record::Member(member) => {
            within(machine.members.len(), limits::MEMBERS)?;
            once(machine.members.insert(member.id, member).is_none())?;
        }
        Record::Removed { node, at } => {
            within(machine.removed.len(), limits::REMOVED)?;
            once(machine.removed.insert(node, at).is_none())?;
        }
        Record::Leader(leader) => {
            within(machine.leaders.len(), limits::LEADERS)?;
            once(machine.leaders.back().is_none_or(|last| last.index < leader.index))?;
            machine.leaders.push_back(leader);
        }
        Record::Fence { resource, record } => {
            within(machine.fences.len(), limits::FENCES)?;
            once(machine.fences.insert(resource, record).is_none())?;
        }
        Record::Key { key, value } => {
            within(machine.keys.len(), limits::KEYS)?;
            limits::valid_key(&key).map_err(Malformed::Record)?;
            machine.bytes += key.len() + value.value.len();
            within(machine.bytes, limits::TOTAL_BYTES + 1)?;
            let last = machine.keys.range(Bound::Included(&key)).next().is_none();
            machine.keys.insert(key, value);
            if !last {
                return Err(Malformed::Record("keys come twice or out of order"));
            }
        }
        Record::Change(change) => {
            within(machine.changes.len(), limits::CHANGES)?;
            once(machine.changes.back().is_none_or(|last| last.begun < change.begun))?;
            machine.changes.push_back(change);
        }
        Record::Invitation { node, record } => {
            within(machine.invitations.len(), limits::INVITATIONS)?;
            once(machine.invitations.insert(node, record).is_none())?;
        }
        Record::Header { .. } | Record::End { .. } => return Err(Malformed::Record("out of place")),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, proptest};

    use bytes::Bytes;

    use super::*;
    use crate::ids::Term;
    use crate::raft::entry::{Entry, Payload};
    use crate::registry::command::{Command, Condition, Goal, Intent, Invitation, Op, RequestName, Standing};

    fn member(id: u64) -> Member {
        let at = |port| format!("10.0.0.{id}:{port}");
        Member { id: NodeId(id), peer: at(1), proxy: at(2), hop: at(3), api: at(4), zone: None }
    }

    fn state(keys: u64) -> Machine {
        let mut machine = Machine::new(vec![member(1), member(2)]);
        let entry = |index, payload| Entry { id: LogId::new(Term(1), LogIndex(index)), payload };
        machine.apply(&entry(1, Payload::NoOp { leader: NodeId(1) }));
        machine.apply(&entry(2, Payload::Membership(Membership::of_voters([NodeId(1), NodeId(2)]))));
        let mut index = 2;
        let mut run = |op| {
            index += 1;
            let command = postcard::to_stdvec(&Command { decided_in: Term(1), op }).unwrap();
            machine.apply(&entry(index, Payload::Command(Bytes::from(command))));
        };
        run(Op::FenceRaised { resource: "orders".to_owned(), term: Term(1), node: NodeId(1) });
        let request = Some(RequestName { key: "k".to_owned(), digest: [3; 32] });
        let goal = Goal { here: Some((NodeId(3), Standing::Voter)), gone: Some(NodeId(1)) };
        run(Op::Intend(Box::new(Intent { request, member: Some(member(3)), goal, reached: false })));
        run(Op::Invite(Invitation { node: NodeId(4), verifier: [4; 32], made_at: 1, expires_at: 2 }));
        for key in 0..keys {
            let value = Bytes::from(vec![7; (key % 300) as usize]);
            run(Op::Put { key: format!("key-{key}"), value, condition: Condition::None });
        }
        machine
    }

    fn bytes(machine: &Machine) -> Vec<u8> {
        let mut bytes = Vec::new();
        let sink = |piece: &[u8]| -> Result<(), std::convert::Infallible> {
            bytes.extend_from_slice(piece);
            Ok(())
        };
        let Ok(()) = machine.encode(sink);
        bytes
    }

    fn decode(bytes: &[u8], step: usize) -> Result<Machine, Malformed> {
        let mut decoder = Decoder::default();
        bytes.chunks(step).try_for_each(|piece| decoder.push(piece))?;
        decoder.finish()
    }

    /// SN-1.
    #[test]
    fn the_state_comes_back_whole_however_it_arrives() {
        let machine = state(1000);
        let encoded = bytes(&machine);
        for step in [1, 7, 4096, encoded.len()] {
            let back = decode(&encoded, step).unwrap();
            assert_eq!(bytes(&back), encoded);
            assert_eq!(back.digest(), machine.digest());
            assert_eq!((back.byte_count(), back.key_count()), (machine.byte_count(), machine.key_count()));
            assert!(back.change("k").is_some() && back.invitation(NodeId(4)).is_some());
        }
    }

    /// What an earlier entry has settled must stay settled, whoever answers after an installation.
    #[test]
    fn a_state_that_comes_back_still_knows_its_fences() {
        let machine = state(1);
        let fences = |machine: &Machine| machine.fences.clone();
        assert_eq!(fences(&machine).len(), 1);
        let back = decode(&bytes(&machine), 64).unwrap();
        assert_eq!(fences(&back), fences(&machine));
        assert_eq!((back.leaders, back.members), (machine.leaders, machine.members));
    }

    /// SN-3.
    #[test]
    fn a_part_is_never_taken_for_the_whole() {
        let encoded = bytes(&state(10));
        for end in 0..encoded.len() {
            assert!(decode(&encoded[..end], 64).is_err(), "{end} bytes of {}", encoded.len());
        }
        let longer = [encoded.as_slice(), &[0]].concat();
        assert!(decode(&longer, 64).is_err());
    }

    fn records(content: &[u8]) -> Vec<&[u8]> {
        let (mut found, mut rest) = (Vec::new(), content);
        while let Some(length) = rest.first_chunk::<4>() {
            let (record, after) = rest.split_at(4 + u32::from_be_bytes(*length) as usize);
            found.push(record);
            rest = after;
        }
        found
    }

    /// SN-3: whatever comes twice, also when the end counts it, and keys in another order.
    #[test]
    fn nothing_comes_twice_or_out_of_order() {
        let machine = {
            let mut machine = state(3);
            let op = Op::SetMember(member(3));
            let command = postcard::to_stdvec(&Command { decided_in: Term(1), op }).unwrap();
            let id = LogId { index: machine.applied().index.next(), ..machine.applied() };
            machine.apply(&Entry { id, payload: Payload::Command(Bytes::from(command)) });
            machine
        };
        let encoded = bytes(&machine);
        let all = records(&encoded);
        assert_eq!(
            all.len(),
            11,
            "a header, a membership, a member, a leader, a fence, a change, an invitation, three keys and an end"
        );
        for at in 0..all.len() - 1 {
            let mut twice = [&all[..at], &[all[at]], &all[at..]].concat().concat();
            *twice.last_mut().unwrap() += 1;
            assert!(decode(&twice, 64).is_err(), "record {at} comes twice");
        }
        let mut swapped = all.clone();
        swapped.swap(7, 8);
        assert!(decode(&swapped.concat(), 64).is_err());
        let without = [&all[..1], &all[2..]].concat();
        let mut without = without.concat();
        *without.last_mut().unwrap() -= 1;
        assert!(decode(&without, 64).is_err(), "a membership is missing");
        assert!(decode(&all.concat(), 64).is_ok());
    }

    /// SN-1, SN-2.
    #[test]
    fn refuses_other_versions_and_records_that_are_too_long() {
        let header = Record::Header { version: 9, applied: LogId::ZERO, digest: 0, undecodable_count: 0 };
        let body = postcard::to_stdvec(&header).unwrap();
        let framed = [&(body.len() as u32).to_be_bytes()[..], &body].concat();
        assert_eq!(decode(&framed, 64).unwrap_err(), Malformed::Version(9));
        assert_eq!(decode(&[0xff; 8], 8).unwrap_err(), Malformed::Record("a record is too long"));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = decode(&bytes, 50);
        }

        #[test]
        fn no_damage_makes_it_panic(at in any::<usize>(), to in any::<u8>()) {
            let mut encoded = bytes(&state(5));
            let at = at % encoded.len();
            encoded[at] = to;
            let _ = decode(&encoded, 50);
        }
    }
}
