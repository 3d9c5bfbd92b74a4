//! What a person reads when a seed fails: one line per thing that happened.

use termgate::raft::message::{AppendResult, Body, Message};

use crate::clock::{MS, True};

/// Lines, or nothing at all.
#[derive(Debug)]
pub struct Trace {
    wanted: bool,
    lines: Vec<String>,
}

impl Trace {
    /// A trace that keeps its lines only when `wanted`.
    pub const fn new(wanted: bool) -> Self {
        Self { wanted, lines: Vec::new() }
    }

    /// Adds a line about `node` (or about the world, for `None`).
    pub fn line(&mut self, now: True, node: Option<usize>, text: impl FnOnce() -> String) {
        if self.wanted {
            let who = node.map_or_else(|| "  ".to_owned(), |n| format!("n{}", n + 1));
            self.lines.push(format!("{:>6}.{:03} {who} {}", now / MS, now / 1_000 % 1_000, text()));
        }
    }

    /// Everything so far.
    pub fn into_lines(self) -> Vec<String> {
        self.lines
    }
}

/// A message in a few words.
pub fn describe(message: &Message) -> String {
    let what = match &message.body {
        Body::RequestVote(ask) => {
            let kind = if ask.ballot.pre_vote { "pre-vote?" } else { "vote?" };
            let flag = ask.transfer_from.map_or_else(String::new, |t| format!(" transfer from {t}"));
            format!("{kind} #{} log {}{flag}", ask.ballot.campaign, ask.last_log)
        }
        Body::RequestVoteResponse(answer) => {
            let kind = if answer.ballot.pre_vote { "pre-vote" } else { "vote" };
            match answer.refusal {
                Some(why) if !answer.vote_granted => {
                    format!("{kind} #{} refused: {why:?}", answer.ballot.campaign)
                }
                _ => format!("{kind} #{} granted: {}", answer.ballot.campaign, answer.vote_granted),
            }
        }
        Body::AppendEntries(append) => format!(
            "append {} after {} commit {} reads {} sent {}",
            append.entries.len(),
            append.prev_log,
            append.leader_commit,
            append.beat.read_pos,
            append.beat.sent_at
        ),
        Body::AppendEntriesResponse(answer) => {
            let reads = answer.beat.read_pos;
            match answer.result {
                AppendResult::Accepted { match_index } => {
                    format!("accepted {match_index} reads {reads} promise {:?}", answer.promise.no_vote_for)
                }
                AppendResult::Conflict { rejected, hint } => format!("conflict {rejected} hint {hint}"),
            }
        }
        Body::TimeoutNow(now) => format!("timeout-now log {}", now.last_log),
        Body::ReadIndex(read) => format!("read-index? {}", read.id),
        Body::InstallSnapshot(offer) => format!("snapshot up to {} offered", offer.snapshot.id.last),
        Body::FetchSnapshot(wanted) => format!("snapshot {} from {}?", wanted.id.last, wanted.offset),
        Body::SnapshotChunk(chunk) => {
            format!("snapshot {} from {}: {} bytes", chunk.id.last, chunk.offset, chunk.bytes.len())
        }
        Body::ReadIndexResponse(read) => format!("read-index {} {:?}", read.id, read.index),
    };
    format!("{}->{} T{} {what}", message.from, message.to, message.term)
}
