//! One core among liars: any disk that a store could have left, any messages of members and strangers, any
//! order of time, disk and keeper. The core neither panics nor breaks a promise to its driver, and starts again from
//! whatever it has written. What `host` checks, and that nobody pushes the term out of reach (E2).

use std::collections::BTreeSet;

use arbitrary::Unstructured;
use bytes::Bytes;
use termgate::ids::{Campaign, Life, LogId, LogIndex, NodeId, ReadPos, Session, Term};
use termgate::raft::config::Config;
use termgate::raft::effect::Input;
use termgate::raft::entry::{Durable, Entry, HardState, Membership, Payload, Snapshot, SnapshotId};
use termgate::raft::message::{
    AppendEntries, AppendEntriesResponse, AppendResult, Ballot, Beat, Body, FetchSnapshot, InstallSnapshot,
    Message, Promise, ReadIndex, ReadIndexResponse, RequestVote, RequestVoteResponse, SnapshotChunk,
    TimeoutNow, VoteRefusal,
};
use termgate::time::{Duration, Instant};

use super::draw::{below, byte, bytes, coin, near, number, pick};
use super::host::{Host, digest};

/// More inputs than this say nothing new.
const INPUTS: u64 = 300;

/// The bytes are a configuration, a disk, and what happens.
pub fn run(data: &[u8]) {
    let u = &mut Unstructured::new(data);
    let config = config(u);
    let mut host = Host::new(config, disk(u), Instant::from_millis(1000));
    let highest = host.node.view().term.0;
    let mut inputs = 0;
    while !u.is_empty() && inputs < INPUTS {
        inputs += 1;
        happen(u, &mut host);
        if host.outbox.len() > 16 {
            host.outbox.drain(..8);
        }
        let term = host.node.view().term.0;
        assert!(term <= highest + inputs * ((1 << 40) + 64), "a message pushed the term to {term}");
    }
    host.settle();
    host.restart();
}

/// Small limits, so that they are reached.
fn config(u: &mut Unstructured<'_>) -> Config {
    let mut config = Config::new(NodeId(1));
    config.snapshot_entries = *pick(u, &[3, 100_000]);
    config.snapshot_keep = below(u, 3);
    config.chunk_bytes = 16;
    config.max_inflight_chunks = 1 + below(u, 3) as u32;
    config.max_append_bytes = 1 + usize::from(byte(u));
    config.max_inflight_messages = 1 + below(u, 3) as usize;
    config.max_uncommitted = 1 + below(u, 6) as usize;
    config.max_pending_reads = 1 + below(u, 4) as usize;
    config
}

/// A disk as a store could hold it: terms that never fall, a snapshot inside the log.
fn disk(u: &mut Unstructured<'_>) -> Durable {
    let voters: BTreeSet<NodeId> = (1..=1 + below(u, 5)).map(NodeId).collect();
    let joint = byte(u) < 20;
    let old = joint.then(|| (1 + below(u, 3)..=3 + below(u, 3)).map(NodeId).collect());
    let learners = if byte(u) < 20 { BTreeSet::from([NodeId(1 + below(u, 6))]) } else { BTreeSet::new() };
    let membership = Membership { voters, voters_old: old, learners, ..Membership::default() };
    let base =
        if coin(u) { LogId::ZERO } else { LogId::new(Term(1 + below(u, 2)), LogIndex(1 + below(u, 3))) };
    let (mut at, mut log, mut ends) = (base, Vec::new(), vec![base]);
    for _ in 0..below(u, 8) {
        at = LogId::new(Term(at.term.0 + below(u, 3)), at.index.next());
        log.push(Entry { id: at, payload: payload(u) });
        ends.push(at);
    }
    // A log that begins late begins behind a snapshot.
    let end = *pick(u, &ends);
    let compacted = base != LogId::ZERO || coin(u);
    let snapshot = (compacted && end != LogId::ZERO).then(|| Snapshot {
        id: SnapshotId { last: end, digest: digest(b"a start") },
        size: 7,
        membership: membership.clone(),
    });
    let last = log.last().map_or(base, |entry| entry.id);
    let hard_state = HardState {
        current_term: Term(last.term.0 + below(u, 3)),
        voted_for: coin(u).then(|| NodeId(1 + below(u, 5))),
    };
    Durable { hard_state, membership, snapshot, base, log, ..Durable::default() }
}

fn happen(u: &mut Unstructured<'_>, host: &mut Host) {
    match byte(u) {
        0..=99 => {
            let message = message(u, host);
            host.receive(message);
        }
        100..=149 => {
            if let Some(message) = answer(u, host) {
                host.receive(message);
            }
        }
        150..=164 => {
            let late = *pick(u, &[0, 1, 50, 300]);
            host.now = host.now.max(host.node.deadline()) + Duration::from_millis(late);
            host.step(Input::Timeout);
        }
        165..=169 => host.step(Input::Timeout),
        170..=184 => host.now = host.now + Duration::from_millis(below(u, 64)),
        185..=204 => {
            host.flush(usize::from(byte(u) % 4));
            host.report();
        }
        205..=214 => host.keep(),
        215..=224 => {
            let ticket = host.ticket();
            host.step(Input::Propose { ticket, command: Bytes::from_static(b"x") });
        }
        225..=230 => {
            let ticket = host.ticket();
            host.step(Input::Read { ticket });
        }
        231..=236 => {
            let (ticket, to) = (host.ticket(), coin(u).then(|| NodeId(near(u, 2))));
            host.step(Input::Transfer { ticket, to });
        }
        237..=240 => host.step(Input::DiskStalled(coin(u))),
        241..=244 => host.step(Input::ClockSuspect),
        245..=249 => host.settle(),
        _ => {
            host.flush(usize::from(byte(u) % 3));
            host.restart();
        }
    }
}

fn payload(u: &mut Unstructured<'_>) -> Payload {
    match byte(u) {
        0..=9 => Payload::Membership(membership(u)),
        10..=99 => Payload::NoOp { leader: NodeId(below(u, 6)) },
        _ => Payload::Command(Bytes::from_static(b"y")),
    }
}

/// Any at all, also one without voters.
fn membership(u: &mut Unstructured<'_>) -> Membership {
    let mut some = || (0..below(u, 5)).map(|_| NodeId(near(u, 1) % 8)).collect();
    Membership { voters: some(), learners: some(), ..Membership::default() }
}

fn message(u: &mut Unstructured<'_>, host: &Host) -> Message {
    let view = host.node.view();
    let from = NodeId(if byte(u) < 240 { 2 + below(u, 4) } else { below(u, 8) });
    let to = NodeId(if byte(u) < 250 { 1 } else { below(u, 4) });
    let session = host.outbox.last().map_or(1, |message| message.session.0);
    Message {
        from,
        to,
        term: Term(near(u, view.term.0)),
        life: Life { incarnation: if byte(u) < 250 { from.0 } else { number(u) }, boot: 1 + below(u, 9) / 8 },
        session: Session(near(u, session)),
        body: body(u, host),
    }
}

fn log_id(u: &mut Unstructured<'_>, host: &Host) -> LogId {
    let view = host.node.view();
    let here = match byte(u) % 4 {
        0 => view.last_log,
        1 => LogId::new(view.last_log.term, view.commit_index),
        2 => view.log_base,
        _ => LogId::ZERO,
    };
    LogId::new(Term(near(u, here.term.0)), LogIndex(near(u, here.index.0)))
}

fn body(u: &mut Unstructured<'_>, host: &Host) -> Body {
    let beat = Beat { sent_at: Instant(near(u, host.now.0)), read_pos: ReadPos(near(u, 0)) };
    match byte(u) % 16 {
        0 | 1 => Body::RequestVote(RequestVote {
            ballot: Ballot { campaign: Campaign(number(u)), pre_vote: coin(u) },
            candidate_id: NodeId(near(u, 2)),
            last_log: log_id(u, host),
            transfer_from: coin(u).then(|| Term(near(u, host.node.view().term.0))),
        }),
        2 => Body::RequestVoteResponse(RequestVoteResponse {
            ballot: Ballot { campaign: Campaign(number(u)), pre_vote: coin(u) },
            vote_granted: coin(u),
            refusal: coin(u).then_some(VoteRefusal::LogBehind),
        }),
        3..=7 => append(u, host, beat),
        8 | 9 => Body::AppendEntriesResponse(response(u, host, beat)),
        10 => Body::TimeoutNow(TimeoutNow { last_log: log_id(u, host) }),
        11 => Body::ReadIndex(ReadIndex { id: number(u) }),
        12 => Body::ReadIndexResponse(ReadIndexResponse { id: number(u), index: Some(LogIndex(number(u))) }),
        13 => Body::InstallSnapshot(InstallSnapshot { snapshot: snapshot(u, host), beat }),
        14 => {
            let id = snapshot(u, host).id;
            Body::FetchSnapshot(FetchSnapshot { id, offset: number(u), length: number(u) as u32 })
        }
        _ => chunk(u, host),
    }
}

fn append(u: &mut Unstructured<'_>, host: &Host, beat: Beat) -> Body {
    let prev_log = log_id(u, host);
    let mut at = prev_log;
    let mut entries = Vec::new();
    for _ in 0..below(u, 4) {
        at = LogId::new(Term(near(u, at.term.0)), LogIndex(near(u, at.index.0.saturating_add(1))));
        entries.push(Entry { id: at, payload: payload(u) });
    }
    let leader_commit = LogIndex(near(u, at.index.0));
    let known = if byte(u) < 30 { vec![(NodeId(near(u, 3)), number(u))] } else { Vec::new() };
    Body::AppendEntries(AppendEntries { prev_log, entries, leader_commit, beat, known })
}

fn response(u: &mut Unstructured<'_>, host: &Host, beat: Beat) -> AppendEntriesResponse {
    let result = match coin(u) {
        true => AppendResult::Accepted { match_index: log_id(u, host).index },
        false => AppendResult::Conflict { rejected: log_id(u, host), hint: log_id(u, host) },
    };
    let promise = Promise {
        no_vote_for: Duration::from_millis(near(u, 150)),
        clock_drift_ppm: *pick(u, &[1000, 0, u32::MAX, 1_000_000]),
    };
    AppendEntriesResponse {
        beat,
        result,
        promise,
        commit_index: LogIndex(number(u)),
        last_applied: LogIndex(number(u)),
    }
}

/// Contents that come in few kinds, so that offers, pieces and digests meet.
const CONTENTS: [&[u8]; 3] = [b"", b"a state of nineteen", b"another state, which is longer than two pieces"];

fn snapshot(u: &mut Unstructured<'_>, host: &Host) -> Snapshot {
    let content = *pick(u, &CONTENTS);
    let id = SnapshotId { last: log_id(u, host), digest: digest(content) };
    let size = if byte(u) < 240 { content.len() as u64 } else { number(u) };
    let membership = if coin(u) { host.node.view().membership } else { membership(u) };
    Snapshot { id, size, membership }
}

fn chunk(u: &mut Unstructured<'_>, host: &Host) -> Body {
    let id = snapshot(u, host).id;
    let bytes = Bytes::copy_from_slice(bytes(u, 20));
    let checksum = if byte(u) < 220 { crc32fast::hash(&bytes) } else { 1 };
    Body::SnapshotChunk(SnapshotChunk { id, offset: number(u), checksum, bytes })
}

/// A plausible answer to something that the node has said: what gets it elected, committed and served.
fn answer(u: &mut Unstructured<'_>, host: &Host) -> Option<Message> {
    let recent = host.outbox.len().checked_sub(1 + usize::from(byte(u) % 8))?;
    let asked = &host.outbox[recent];
    let body = match &asked.body {
        Body::RequestVote(request) => Body::RequestVoteResponse(RequestVoteResponse {
            ballot: request.ballot,
            vote_granted: byte(u) < 230,
            refusal: None,
        }),
        Body::AppendEntries(append) => {
            let last = append.entries.last().map_or(append.prev_log.index, |entry| entry.id.index);
            let mut response = response(u, host, append.beat);
            if byte(u) < 230 {
                response.result = AppendResult::Accepted { match_index: last };
                response.promise = Promise { no_vote_for: Duration::from_millis(150), clock_drift_ppm: 1000 };
            }
            Body::AppendEntriesResponse(response)
        }
        Body::InstallSnapshot(offer) => {
            let (id, offset) = (offer.snapshot.id, below(u, 40));
            Body::FetchSnapshot(FetchSnapshot { id, offset, length: 16 })
        }
        Body::FetchSnapshot(wanted) => {
            let content = CONTENTS.into_iter().find(|content| digest(content) == wanted.id.digest)?;
            let from = usize::try_from(wanted.offset).ok().filter(|from| *from <= content.len())?;
            let bytes = Bytes::from_static(&content[from..content.len().min(from + wanted.length as usize)]);
            let (id, offset, checksum) = (wanted.id, wanted.offset, crc32fast::hash(&bytes));
            Body::SnapshotChunk(SnapshotChunk { id, offset, checksum, bytes })
        }
        Body::ReadIndex(read) => {
            let index = coin(u).then(|| host.node.view().commit_index);
            Body::ReadIndexResponse(ReadIndexResponse { id: read.id, index })
        }
        _ => return None,
    };
    let life = Life { incarnation: asked.to.0, boot: 1 };
    let term = Term(if byte(u) < 240 { host.node.view().term.0 } else { number(u) });
    Some(Message { from: asked.to, to: asked.from, term, life, session: asked.session, body })
}
