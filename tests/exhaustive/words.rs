//! States and events in words, for whoever reads a violation.

use termgate::raft::message::{AppendResult, Body, Message};

use crate::station::{JOINT, SETTLED, code};
use crate::tables::Facts;

/// A log, such as `1 1a 2`: terms, and the write in letters.
pub fn log(codes: &[u8]) -> String {
    let entry = |code: &u8| match code & 0xf {
        0 => format!("{}", code >> 4),
        JOINT => format!("{}(joint)", code >> 4),
        SETTLED => format!("{}(settled)", code >> 4),
        write => format!("{}{}", code >> 4, char::from(b'a' - 1 + write)),
    };
    codes.iter().map(entry).collect::<Vec<_>>().join(" ")
}

/// One message in a line.
pub fn message(message: &Message) -> String {
    let body = match &message.body {
        Body::RequestVote(m) => {
            let name = if m.ballot.pre_vote { "pre-vote request" } else { "vote request" };
            format!("{name} (last {}, campaign {})", m.last_log, m.ballot.campaign)
        }
        Body::RequestVoteResponse(m) => {
            let name = if m.ballot.pre_vote { "pre-vote answer" } else { "vote answer" };
            let verdict = if m.vote_granted { "yes".to_owned() } else { format!("no {:?}", m.refusal) };
            format!("{name} ({verdict}, campaign {})", m.ballot.campaign)
        }
        Body::AppendEntries(m) => {
            let entries: Vec<u8> =
                m.entries.iter().map(|entry| code(entry.id.term, &entry.payload)).collect();
            let (prev, commit, beat) = (m.prev_log, m.leader_commit, &m.beat);
            format!("append (after {prev}: [{}], commit {commit}, read {})", log(&entries), beat.read_pos)
        }
        Body::AppendEntriesResponse(m) => match m.result {
            AppendResult::Accepted { match_index } => {
                format!("append answer (holds up to {match_index}, read {})", m.beat.read_pos)
            }
            AppendResult::Conflict { rejected, hint } => {
                format!("append answer (lacks {rejected}, try {hint})")
            }
        },
        other => format!("{other:?}"),
    };
    format!("{} -> {} [term {}] {body}", message.from, message.to, message.term)
}

/// One node in a line.
pub fn station(facts: &Facts) -> String {
    let (log, disk) = (log(&facts.log), log(&facts.disk_log));
    let vote = facts.disk_vote.map_or_else(|| "nobody".to_owned(), |id| id.to_string());
    format!(
        "{} {} in term {}, log [{log}] committed {}; disk: term {}, vote {vote}, log [{disk}]{}",
        facts.marks.place + 1,
        facts.role.name(),
        facts.term,
        facts.commit,
        facts.disk_term,
        if facts.lease { "; its lease holds" } else { "" },
    )
}
