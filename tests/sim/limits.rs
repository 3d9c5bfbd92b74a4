//! I13: what a node holds, and what it has on its way, stays within the limits of its configuration. Judged from
//! outside, by what it writes and what it sends: the core's own counts are not looked at. (Reads that wait are bounded by
//! the driver's `Pending`, which tests that itself.)

use std::collections::VecDeque;

use termgate::ids::{Life, LogIndex, Session, Term};
use termgate::raft::config::Config;
use termgate::raft::entry::Entry;
use termgate::raft::message::{AppendResult, Body, Message};

/// Entries that a leader appends beside its clients': its no-op, and both halves of a change of the membership.
const OWN_ENTRIES: u64 = 3;

/// One way from a leader to a follower: the last entry and the size of every message that carries entries and
/// that no answer has covered.
#[derive(Debug, Clone, Default)]
struct Way {
    of: Option<(Life, Term, Session)>,
    unanswered: VecDeque<(LogIndex, usize)>,
}

/// Every way of one world.
#[derive(Debug)]
pub struct Limits {
    nodes: usize,
    ways: Vec<Way>,
    /// What leaves now follows from several inputs: nobody can tell which of them came before it.
    pub in_batch: bool,
}

impl Limits {
    /// Nothing is on its way.
    pub fn new(nodes: usize) -> Self {
        Self { nodes, ways: vec![Way::default(); nodes * nodes], in_batch: false }
    }

    /// A message leaves.
    pub fn on_send(&mut self, message: &Message, config: &Config) -> Result<(), String> {
        let Body::AppendEntries(append) = &message.body else { return Ok(()) };
        let (Some(first), Some(last)) = (append.entries.first(), append.entries.last()) else {
            return Ok(());
        };
        let size = append.entries.iter().map(Entry::size).sum();
        if append.entries.len() > 1 && size > config.max_append_bytes {
            return Err(format!("I13: {size} bytes of entries in one message: {:?}", message.body));
        }
        let in_batch = self.in_batch;
        let way = self.way(message.from.0, message.to.0);
        let of = Some((message.life, message.term, message.session));
        // What is sent a second time was given up.
        let again = way.unanswered.back().is_some_and(|(last, _)| first.id.index <= *last);
        if way.of != of || again || in_batch {
            *way = Way { of, ..Way::default() };
        }
        // It may have been answered by now: given up, sent again, and then one of the inputs was its answer.
        if in_batch {
            return Ok(());
        }
        // The window is looked at before each message: the last one may go over its bytes.
        let bytes: usize = way.unanswered.iter().map(|(_, size)| size).sum();
        let messages = way.unanswered.len() + 1;
        way.unanswered.push_back((last.id.index, size));
        if messages > config.max_inflight_messages || (messages > 1 && bytes >= config.max_inflight_bytes) {
            return Err(format!(
                "I13: node {} has {messages} messages on their way to node {}, {bytes} bytes before the last",
                message.from, message.to
            ));
        }
        Ok(())
    }

    /// A message arrives at a node that hears it.
    pub fn on_deliver(&mut self, message: &Message) {
        let Body::AppendEntriesResponse(answer) = &message.body else { return };
        let way = self.way(message.to.0, message.from.0);
        match answer.result {
            AppendResult::Accepted { match_index } => way.unanswered.retain(|(last, _)| *last > match_index),
            // The leader begins anew behind what the follower says it has.
            AppendResult::Conflict { .. } => way.unanswered.clear(),
        }
    }

    fn way(&mut self, from: u64, to: u64) -> &mut Way {
        &mut self.ways[(from as usize - 1) * self.nodes + to as usize - 1]
    }
}

/// A leader takes no more of its clients' entries than it may leave uncommitted.
pub fn check_uncommitted(entries: u64, config: &Config) -> Result<(), String> {
    if entries > config.max_uncommitted as u64 + OWN_ENTRIES {
        return Err(format!("I13: node {} leads with {entries} entries uncommitted", config.id));
    }
    Ok(())
}
