//! What nodes say to each other, field by field.
//!
//! Names are those of the Raft paper and thesis. Every message carries the sender's term, its life
//! and a session, so that anything late, duplicated or from an earlier life of the sender is
//! recognised and dropped. Bytes become messages in `transport::codec`;
//! nothing here panics on what a peer may claim.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::ids::{Campaign, Life, LogId, LogIndex, NodeId, ReadPos, Session, Term};
use crate::raft::entry::{Entry, Snapshot, SnapshotId};
use crate::time::{Duration, Instant};

/// One message from one node to another.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Message {
    /// The sender; the transport has checked it against the certificate.
    pub from: NodeId,
    /// The receiver; a message for somebody else is dropped.
    pub to: NodeId,
    /// The sender's current term. In a pre-vote request: the term it *would* campaign in.
    pub term: Term,
    /// The sender's data directory and start.
    pub life: Life,
    /// Requests of a leader name the session they belong to; responses echo it. TimeoutNow, and the
    /// vote request that follows from it, name the number of the transfer, which comes from the
    /// same counter. Zero elsewhere.
    pub session: Session,
    /// What is said.
    pub body: Body,
}

/// The kinds of messages.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Body {
    /// A candidate, or a pre-candidate, asks for a vote (thesis 3.4, 9.6).
    RequestVote(RequestVote),
    /// The answer to it.
    RequestVoteResponse(RequestVoteResponse),
    /// Replication, and without entries the heartbeat (thesis 3.5).
    AppendEntries(AppendEntries),
    /// The answer to it.
    AppendEntriesResponse(AppendEntriesResponse),
    /// Leadership transfer: the receiver should campaign at once (thesis 3.10).
    TimeoutNow(TimeoutNow),
    /// A follower asks the leader for a read position (thesis 6.4).
    ReadIndex(ReadIndex),
    /// The answer to it.
    ReadIndexResponse(ReadIndexResponse),
    /// The leader no longer has the entries that the receiver lacks, and offers a snapshot in their
    /// place (thesis 5.3). Answered like AppendEntries.
    InstallSnapshot(InstallSnapshot),
    /// A follower asks for a piece of the snapshot that it was offered.
    FetchSnapshot(FetchSnapshot),
    /// The piece.
    SnapshotChunk(SnapshotChunk),
}

/// Asks for a vote.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RequestVote {
    /// Which round this is, and whether it is only a pre-vote.
    pub ballot: Ballot,
    /// Who asks. Equal to the sender.
    pub candidate_id: NodeId,
    /// The last entry of the candidate's log, durable before the request leaves (V6).
    pub last_log: LogId,
    /// Set when the leader itself asked for this campaign: the voter's promise to that leader does
    /// not stand in the way, because the leader gave up its lease first. Names the term of that
    /// leader, so that a delayed request cannot override a later leader's lease.
    pub transfer_from: Option<Term>,
}

/// One round of one campaign. A response names the ballot it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Ballot {
    /// The campaign, counted by the candidate within one life.
    pub campaign: Campaign,
    /// A pre-vote asks "would you?", changes nothing at the voter and counts for nothing but itself.
    pub pre_vote: bool,
}

/// Answers a vote request.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RequestVoteResponse {
    /// The round this answers.
    pub ballot: Ballot,
    /// Whether the vote was given. Durable before it leaves, unless it is a pre-vote.
    pub vote_granted: bool,
    /// Why not, for the candidate's log and metrics.
    pub refusal: Option<VoteRefusal>,
}

/// Why a vote was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum VoteRefusal {
    /// The candidate's term is behind.
    StaleTerm,
    /// The vote of this term went to another candidate.
    AlreadyVoted,
    /// The candidate's log is behind the voter's.
    LogBehind,
    /// The voter promised a leader, or must assume that it did before it restarted, not to vote yet.
    Promised,
    /// The voter's disk is stalled, or it is not a voter that may answer.
    Unfit,
    /// The voter knows the asker by another data directory (V8). Also said without being asked, to a member
    /// that answers from a directory which nobody knows.
    UnknownIncarnation,
}

/// Replicates entries; without entries it is the heartbeat.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct AppendEntries {
    /// The entry just before `entries`.
    pub prev_log: LogId,
    /// New entries, contiguous from `prev_log.index + 1`; empty in a heartbeat.
    pub entries: Vec<Entry>,
    /// The leader's commit index.
    pub leader_commit: LogIndex,
    /// What the response must echo.
    pub beat: Beat,
    /// In a heartbeat: by which incarnation the leader knows each member (V8). Followers hardly talk to each
    /// other, and must know whose vote to refuse when the leader is gone. Beside the receiver's own name, here
    /// and in what a newcomer gets: the first directory that went by it (MC-11).
    pub known: Vec<(NodeId, u64)>,
}

/// Marks when a leader sent something and which reads wait for an answer to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Beat {
    /// Send time on the *leader's* clock. The follower only echoes it. A lease counts from here,
    /// never from the arrival of the answer (R6).
    pub sent_at: Instant,
    /// Every read registered up to this position existed when the message was sent.
    pub read_pos: ReadPos,
}

/// Answers AppendEntries.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct AppendEntriesResponse {
    /// The beat of the request.
    pub beat: Beat,
    /// Whether the entries fit, and how far, or where to look.
    pub result: AppendResult,
    /// How the voter binds itself towards this leader.
    pub promise: Promise,
    /// The follower's commit index, for status pages.
    pub commit_index: LogIndex,
    /// The follower's last applied index, for status pages.
    pub last_applied: LogIndex,
}

/// How an AppendEntries ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum AppendResult {
    /// The log holds everything up to here, durably: `prev_log.index + entries.len()` and never
    /// more, because the follower's own tail may diverge (C3).
    Accepted {
        /// The last index that is known to match.
        match_index: LogIndex,
    },
    /// The entry before the new ones is missing or of another term.
    Conflict {
        /// The `prev_log` that did not fit, so that a late answer is recognised.
        rejected: LogId,
        /// The largest entry of the follower at or before it that may match: fast conflict search.
        hint: LogId,
    },
}

/// A voter's word to the leader whose message it answers: it grants no other vote for
/// `no_vote_for`, counted from the arrival of that message on its own clock. One thing ends it early:
/// a vote request with `transfer_from` (T-3). The leader counts its lease from what was promised, so
/// nodes may run with different timers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Promise {
    /// The voter's minimum election timeout. Zero: no promise.
    pub no_vote_for: Duration,
    /// The bound on clock rates the voter runs with, in parts per million.
    pub clock_drift_ppm: u32,
}

/// Tells the receiver to campaign without waiting for its election timeout.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TimeoutNow {
    /// What the receiver must hold durably before it campaigns (M9, V10).
    pub last_log: LogId,
}

/// A follower asks where it may read.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ReadIndex {
    /// The follower's name for this read; no other life of it uses the same.
    pub id: u64,
}

/// The leader's answer to [`ReadIndex`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ReadIndexResponse {
    /// The follower's name for the read.
    pub id: u64,
    /// Where to read once applied; `None` when the asked node cannot confirm that it leads.
    pub index: Option<LogIndex>,
}

/// Offers a snapshot. The follower fetches it piece by piece, at its own pace and from where it stands,
/// so that a broken transfer goes on where it broke, and a slow one holds nothing back.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct InstallSnapshot {
    /// What is offered.
    pub snapshot: Snapshot,
    /// What the response must echo.
    pub beat: Beat,
}

/// Asks for one piece of a snapshot's content.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FetchSnapshot {
    /// Of which snapshot.
    pub id: SnapshotId,
    /// From which byte.
    pub offset: u64,
    /// How many bytes at most.
    pub length: u32,
}

/// One piece of a snapshot's content.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SnapshotChunk {
    /// Of which snapshot.
    pub id: SnapshotId,
    /// From which byte.
    pub offset: u64,
    /// CRC-32 of `bytes`.
    pub checksum: u32,
    /// What was asked for, or less at the end. Empty: the sender no longer has this snapshot.
    pub bytes: Bytes,
}
