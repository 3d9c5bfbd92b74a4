//! Committed entries, sound or not, applied to the state machine and to a model of it.

use std::convert::Infallible;

use arbitrary::Unstructured;
use bytes::Bytes;
use termgate::ids::{LogId, LogIndex, NodeId, Term};
use termgate::raft::entry::{Entry, Membership, Payload};
use termgate::registry::command::{Command, Condition, Member, Op};
use termgate::registry::machine::Machine;
use termgate::registry::machine::snapshot::Decoder;

use super::draw::{below, byte, bytes, coin, near, number};
use super::registry_model::{Registry, Told};

/// More entries than this say nothing new.
const ENTRIES: u64 = 400;

/// Nor is more of the state than this written and read again in between: a log of nothing but the largest values
/// would take longer than a fuzzer waits.
const REREAD_BYTES: usize = 8 << 20;

/// The bytes are a log.
pub fn run(data: &[u8]) {
    let u = &mut Unstructured::new(data);
    let (mut machine, mut model) = (Machine::new(Vec::new()), Registry::default());
    let (mut term, mut index, mut budget) = (1, 0, REREAD_BYTES);
    while !u.is_empty() && index < ENTRIES {
        term += below(u, 6) / 5;
        index += 1;
        let payload = payload(u, &model, term);
        let entry = Entry { id: LogId::new(Term(term), LogIndex(index)), payload };
        assert_eq!(machine.apply(&entry).map(Told::from), model.apply(&entry), "{entry:?}");
        match byte(u) % 64 {
            0 if budget > 0 => {
                let piece = 1 + usize::from(byte(u));
                budget = budget.saturating_sub(content(&machine).len());
                machine = written_and_read(&machine, piece);
            }
            1..=6 => {
                let (prefix, after) = (name(u), name(u));
                model.check_list(&machine, &prefix, &after, usize::from(byte(u) % 5));
            }
            _ => {}
        }
    }
    model.check(&machine);
    model.check(&written_and_read(&machine, 4096));
}

/// What the model knows; changes of members that were asked for by name, and invitations, have tests of their own.
fn payload(u: &mut Unstructured<'_>, model: &Registry, term: u64) -> Payload {
    let payload = any_payload(u, model, term);
    let Payload::Command(bytes) = &payload else { return payload };
    match postcard::take_from_bytes::<Command>(bytes) {
        Ok((Command { op: Op::Intend(_) | Op::Invite(_) | Op::Redeem(_), .. }, [])) => {
            Payload::NoOp { leader: NodeId(0) }
        }
        _ => payload,
    }
}

fn any_payload(u: &mut Unstructured<'_>, model: &Registry, term: u64) -> Payload {
    match byte(u) {
        0..=19 => Payload::NoOp { leader: NodeId(below(u, 5)) },
        20..=29 => Payload::Membership(Membership::of_voters((0..below(u, 5)).map(NodeId))),
        30..=59 => Payload::Command(Bytes::copy_from_slice(bytes(u, 64))),
        _ => {
            let command = Command { decided_in: Term(near(u, term)), op: op(u, model) };
            let mut encoded = postcard::to_stdvec(&command).expect("a command can be written");
            // Bytes left over make it no command; one that was changed may be another.
            match byte(u) {
                0..=3 => encoded.push(0),
                4..=9 => {
                    let at = usize::from(byte(u)) % encoded.len();
                    encoded[at] = byte(u);
                }
                _ => {}
            }
            Payload::Command(encoded.into())
        }
    }
}

fn op(u: &mut Unstructured<'_>, model: &Registry) -> Op {
    match byte(u) % 8 {
        0..=2 => Op::Put { key: name(u), value: value(u), condition: condition(u, model) },
        3 | 4 => Op::Delete { key: name(u), condition: condition(u, model) },
        5 | 6 => Op::FenceRaised {
            resource: name(u),
            term: Term(near(u, model.term().0)),
            node: NodeId(below(u, 4)),
        },
        _ => Op::SetMember(member(u)),
    }
}

/// Few names, so that they meet; some that are none.
fn name(u: &mut Unstructured<'_>) -> String {
    match byte(u) {
        n @ 0..=179 => ["a", "a/b", "a/b/c", "b", "é", "a\u{10ffff}"][usize::from(n) % 6].to_owned(),
        n @ 180..=219 => format!("a/{}", n % 32),
        220..=224 => String::new(),
        225..=229 => "a\u{7f}".to_owned(),
        230..=239 => "k".repeat(510 + usize::from(byte(u) % 5)),
        _ => String::from_utf8_lossy(bytes(u, 40)).into_owned(),
    }
}

fn value(u: &mut Unstructured<'_>) -> Bytes {
    match byte(u) {
        0 if byte(u) < 16 => Bytes::from(vec![7; (1 << 20) - 1 + usize::from(byte(u) % 3)]),
        1 => Bytes::from(vec![8; 4096]),
        _ => Bytes::copy_from_slice(bytes(u, 8)),
    }
}

fn condition(u: &mut Unstructured<'_>, model: &Registry) -> Condition {
    let nth = usize::from(byte(u));
    match nth % 8 {
        0 => Condition::Exists,
        1 => Condition::Absent,
        2 | 3 => Condition::VersionIs(model.some_version(nth)),
        4 => Condition::VersionIsNot(model.some_version(nth)),
        5 => Condition::VersionIs(LogIndex(number(u))),
        _ => Condition::None,
    }
}

fn member(u: &mut Unstructured<'_>) -> Member {
    let id = NodeId(u64::from(byte(u)));
    let long = 298 + below(u, 40);
    let mut text = || if byte(u) < 8 { "x".repeat(long as usize) } else { "10.0.0.1:7100".to_owned() };
    let (peer, proxy, hop, api) = (text(), text(), text(), text());
    Member { id, peer, proxy, hop, api, zone: coin(u).then(|| "eu-1".to_owned()) }
}

/// SN-1: the state as bytes and back, read in pieces of so many bytes.
fn written_and_read(machine: &Machine, piece: usize) -> Machine {
    let content = content(machine);
    // A large value in pieces of a byte says no more.
    let piece = piece.max(content.len() / 256);
    let mut decoder = Decoder::default();
    content.chunks(piece).try_for_each(|piece| decoder.push(piece)).expect("a state that was written");
    let back = decoder.finish().expect("all of it");
    assert_eq!(back.digest(), machine.digest());
    back
}

/// What a snapshot of `machine` holds.
pub fn content(machine: &Machine) -> Vec<u8> {
    let mut content = Vec::new();
    let kept: Result<(), Infallible> = machine.encode(|piece| {
        content.extend_from_slice(piece);
        Ok(())
    });
    let Ok(()) = kept;
    content
}
