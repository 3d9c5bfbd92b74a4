//! The bytes on the wire, written down: every vector in `proto-spec/vectors` is what the encoder
//! writes and what the decoder reads. A change of a message shows up here, and needs a new version.
//!
//! `TERMGATE_WRITE_VECTORS=1 cargo test --test vectors` writes the files anew.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::fs;
use std::path::Path;

use bytes::Bytes;
use proptest::prelude::{any, proptest};
use serde::Serialize;
use serde::de::DeserializeOwned;
use termgate::fencing::mode::Consistency;
use termgate::hop::codec as hop;
use termgate::hop::message::{Answer, Content, Fields, Refusal, RequestHead, ResponseHead, Service};
use termgate::ids::{Campaign, Life, LogId, LogIndex, NodeId, ReadPos, Session, Term};
use termgate::raft::entry::{Entry, Membership, Payload, Snapshot, SnapshotId};
use termgate::raft::message::{
    AppendEntries, AppendEntriesResponse, AppendResult, Ballot, Beat, Body, FetchSnapshot, InstallSnapshot,
    Message, Promise, ReadIndex, ReadIndexResponse, RequestVote, RequestVoteResponse, SnapshotChunk,
    TimeoutNow, VoteRefusal,
};
use termgate::time::{Duration, Instant};
use termgate::transport::codec as raft;

fn at(term: u64, index: u64) -> LogId {
    LogId::new(Term(term), LogIndex(index))
}

fn message(body: Body) -> Message {
    Message {
        from: NodeId(1),
        to: NodeId(2),
        term: Term(300),
        life: Life { incarnation: 0x1234_5678, boot: 3 },
        session: Session(9),
        body,
    }
}

fn beat() -> Beat {
    Beat { sent_at: Instant(1_000_000), read_pos: ReadPos(4) }
}

fn messages() -> Vec<(&'static str, Message)> {
    let ballot = Ballot { campaign: Campaign(5), pre_vote: true };
    let entry = |index, payload| Entry { id: at(300, index), payload };
    let entries = vec![
        entry(17, Payload::NoOp { leader: NodeId(1) }),
        entry(18, Payload::Membership(Membership::of_voters([NodeId(1), NodeId(2), NodeId(3)]))),
        entry(19, Payload::Command(Bytes::from_static(b"put"))),
    ];
    let append = |entries| AppendEntries {
        prev_log: at(299, 16),
        entries,
        leader_commit: LogIndex(15),
        beat: beat(),
        known: vec![(NodeId(3), 0x99)],
    };
    let response = |result| AppendEntriesResponse {
        beat: beat(),
        result,
        promise: Promise { no_vote_for: Duration::from_millis(150), clock_drift_ppm: 1000 },
        commit_index: LogIndex(15),
        last_applied: LogIndex(14),
    };
    let conflict = AppendResult::Conflict { rejected: at(299, 16), hint: at(298, 12) };
    [
        (
            "raft-request-vote",
            Body::RequestVote(RequestVote {
                ballot,
                candidate_id: NodeId(1),
                last_log: at(299, 16),
                transfer_from: Some(Term(299)),
            }),
        ),
        (
            "raft-request-vote-response",
            Body::RequestVoteResponse(RequestVoteResponse {
                ballot,
                vote_granted: false,
                refusal: Some(VoteRefusal::Promised),
            }),
        ),
        ("raft-heartbeat", Body::AppendEntries(append(Vec::new()))),
        ("raft-append-entries", Body::AppendEntries(append(entries))),
        (
            "raft-append-entries-accepted",
            Body::AppendEntriesResponse(response(AppendResult::Accepted { match_index: LogIndex(19) })),
        ),
        ("raft-append-entries-conflict", Body::AppendEntriesResponse(response(conflict))),
        ("raft-timeout-now", Body::TimeoutNow(TimeoutNow { last_log: at(300, 19) })),
        ("raft-read-index", Body::ReadIndex(ReadIndex { id: 77 })),
        (
            "raft-read-index-response",
            Body::ReadIndexResponse(ReadIndexResponse { id: 77, index: Some(LogIndex(19)) }),
        ),
    ]
    .into_iter()
    .chain(snapshot_messages())
    .map(|(name, body)| (name, message(body)))
    .collect()
}

fn snapshot_messages() -> [(&'static str, Body); 3] {
    let id = SnapshotId { last: at(299, 12), digest: [0xab; 32] };
    let membership = Membership::of_voters([NodeId(1), NodeId(2), NodeId(3)]);
    let snapshot = Snapshot { id, size: 1_000_000, membership };
    let bytes = Bytes::from_static(b"chunk");
    let chunk = SnapshotChunk { id, offset: 262_144, checksum: crc32fast::hash(&bytes), bytes };
    [
        ("raft-install-snapshot", Body::InstallSnapshot(InstallSnapshot { snapshot, beat: beat() })),
        ("raft-fetch-snapshot", Body::FetchSnapshot(FetchSnapshot { id, offset: 262_144, length: 262_144 })),
        ("raft-snapshot-chunk", Body::SnapshotChunk(chunk)),
    ]
}

fn fields() -> Fields {
    vec![("content-type".to_owned(), b"text/plain".to_vec()), ("x-raw".to_owned(), vec![0xff, 0x20])]
}

fn request() -> RequestHead {
    RequestHead {
        service: Service::Proxy,
        request_id: "01J9".to_owned(),
        origin: NodeId(2),
        method: "POST".to_owned(),
        target: "/ledger?x=1".to_owned(),
        fields: fields(),
        content: Content::Withheld { length: Some(5) },
        consistency: Some(Consistency::Lease),
        client_term: Some(Term(300)),
    }
}

fn answers() -> Vec<(&'static str, Answer)> {
    let head = ResponseHead { status: 201, fields: fields(), term: Term(300), node: NodeId(1) };
    vec![
        ("hop-go", Answer::Go),
        ("hop-refused", Answer::Refused(Refusal::Fenced)),
        ("hop-response-head", Answer::Head(head)),
    ]
}

/// Compares `bytes` with the vector of that name, and answers the vector's bytes.
fn vector(name: &str, bytes: &[u8]) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto-spec/vectors").join(format!("{name}.hex"));
    if std::env::var_os("TERMGATE_WRITE_VECTORS").is_some() {
        let lines: Vec<String> =
            bytes.chunks(32).map(|line| line.iter().map(|b| format!("{b:02x}")).collect()).collect();
        fs::write(&path, lines.join("\n") + "\n").unwrap();
    }
    let text: String = fs::read_to_string(&path).unwrap().split_whitespace().collect();
    let digits: Vec<char> = text.chars().collect();
    let stored: Vec<u8> = digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(&pair.iter().collect::<String>(), 16).unwrap())
        .collect();
    assert_eq!(stored, bytes, "{name}: what is written has changed; that needs a new version");
    stored
}

/// The payload of a frame that is alone.
fn unframed(frame: &[u8]) -> &[u8] {
    let (length, payload) = frame.split_first_chunk::<4>().unwrap();
    assert_eq!(u32::from_be_bytes(*length) as usize, payload.len());
    payload
}

#[test]
fn raft_messages_are_the_vectors() {
    for (name, message) in messages() {
        let stored = vector(name, &raft::encode(&message).unwrap());
        assert_eq!(raft::decode(unframed(&stored)).unwrap(), message, "{name}");
    }
}

#[test]
fn hop_heads_are_the_vectors() {
    fn check<T: Serialize + DeserializeOwned + PartialEq + Debug>(name: &str, head: &T) {
        let stored = vector(name, &hop::encode_head(head).unwrap());
        assert_eq!(&hop::decode_head::<T>(unframed(&stored)).unwrap(), head, "{name}");
    }
    check("hop-request-head", &request());
    for (name, answer) in answers() {
        check(name, &answer);
    }
    let end = vector("hop-end-with-trailers", &hop::encode_end(&fields()).unwrap());
    assert_eq!(end[..4], [0, 0, 0, 0]);
    assert_eq!(hop::decode_trailers(unframed(&end[4..])).unwrap(), fields());
    assert_eq!(vector("hop-end", &hop::encode_end(&Fields::new()).unwrap()), [0, 0, 0, 0, 0, 0, 0, 1, 0]);
}

/// W-13.
#[test]
fn an_introduction_is_a_version_and_an_address() {
    let introduction = raft::Introduction { address: "node-1.example:7101".to_owned() };
    let stored = vector("raft-introduction", &raft::encode_introduction(&introduction).unwrap());
    assert_eq!(raft::decode_introduction(unframed(&stored)), Ok(introduction));
}

#[test]
fn every_vector_has_a_test() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto-spec/vectors");
    let stem = |entry: fs::DirEntry| entry.path().file_stem().unwrap().to_string_lossy().into_owned();
    let stored: BTreeSet<String> = fs::read_dir(dir).unwrap().map(|entry| stem(entry.unwrap())).collect();
    let tested =
        messages().into_iter().map(|(name, _)| name).chain(answers().into_iter().map(|(name, _)| name));
    let tested = tested.chain(["raft-introduction", "hop-request-head", "hop-end", "hop-end-with-trailers"]);
    assert_eq!(stored, tested.map(str::to_owned).collect());
}

/// W-7, W-9, H-1.
#[test]
fn refuses_other_versions_left_over_bytes_and_what_is_too_long() {
    let frame = raft::encode(&messages()[0].1).unwrap();
    let mut payload = unframed(&frame).to_vec();
    payload.push(0);
    assert!(matches!(raft::decode(&payload), Err(raft::CodecError::Malformed(_))));
    payload[0] = 2;
    assert_eq!(raft::decode(&payload), Err(raft::CodecError::Version(2)));
    assert!(matches!(raft::decode(&[]), Err(raft::CodecError::Malformed(_))));

    let huge = Entry { id: at(1, 1), payload: Payload::Command(vec![0; raft::FRAME_MAX_BYTES].into()) };
    let mut message = messages().swap_remove(3).1;
    if let Body::AppendEntries(append) = &mut message.body {
        append.entries.push(huge);
    }
    assert!(matches!(raft::encode(&message), Err(raft::CodecError::TooLong(_))));
}

proptest! {
    #[test]
    fn decoding_never_panics_on_any_bytes(bytes in any::<Vec<u8>>()) {
        let _ = raft::decode(&bytes);
        let _ = raft::decode_introduction(&bytes);
        let _ = hop::decode_head::<RequestHead>(&bytes);
        let _ = hop::decode_head::<Answer>(&bytes);
        let _ = hop::decode_trailers(&bytes);
    }

    /// One changed byte of a good frame: an error or another message, never a panic.
    #[test]
    fn decoding_never_panics_on_damaged_messages(which in 0_usize..9, at in any::<usize>(), to in any::<u8>()) {
        let frame = raft::encode(&messages()[which].1).unwrap();
        let mut payload = unframed(&frame).to_vec();
        let at = at % payload.len();
        payload[at] = to;
        if let Ok(message) = raft::decode(&payload) {
            assert!(raft::encode(&message).is_ok());
        }
    }
}
