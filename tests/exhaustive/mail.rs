//! Messages on their way, with the numbers that their owner will compare taken relative to the owner.
//!
//! A message carries numbers of one node only: a request those of its sender, an answer those that it echoes
//! for its receiver. That node is the *owner*. Relative to it, a session or a campaign is the present one (1)
//! or not (0), and the send time of a beat is a distance to its clock, counted from an election timeout
//! ago. When the owner
//! moves on, its messages *age*: that is a change of theirs, made in the same step.
//!
//! An answer that belongs to no present session or campaign will never be counted, only its envelope is
//! looked at: what else it says is forgotten here. The same for the send time of a request whose answer will
//! be such a one.

use termgate::ids::{Campaign, NodeId, ReadPos, Session};
use termgate::raft::effect::RoleKind;
use termgate::raft::message::{Ballot, Beat, Body, Message, RequestVoteResponse};
use termgate::time::Instant;

use crate::bounds::Bound;
use crate::canon::Stream;
use crate::station::Station;

/// What a node compares the numbers in its messages with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marks {
    pub now: Instant,
    /// What is this old is as old as can be, in nanoseconds.
    pub past: u64,
    /// The term it leads in, and its session with each other member, in order of their ids.
    pub leads: Option<(u64, Vec<u64>)>,
    /// The campaign it is in.
    pub campaign: Option<u64>,
    /// Its place among the members.
    pub place: usize,
}

/// How a node's marks moved in a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Change {
    /// Nanoseconds that passed on its clock.
    pub passed: u64,
    /// The members whose session ended, a bit each.
    pub ended: u8,
    /// Whether a campaign ended.
    pub campaign_ended: bool,
}

impl Marks {
    /// Reads them off what the node feeds to a hasher: in the order of the core's fields, that is the counter
    /// and then the one in use. `Mails::emitted` holds them against what is really said.
    pub fn of(station: &Station, stream: &Stream, of_node: usize, bound: &Bound) -> Self {
        let shown = station.node.leadership();
        let sessions = &stream.sessions[..of_node];
        let leads = (shown.role == RoleKind::Leader)
            .then(|| (shown.term.0, sessions[sessions.len() - (bound.nodes - 1)..].to_vec()));
        let campaigns = matches!(shown.role, RoleKind::Candidate | RoleKind::PreCandidate);
        let campaign = campaigns.then(|| stream.campaigns[1]);
        Self { now: station.now, past: bound.past(), leads, campaign, place: shown.node.0 as usize - 1 }
    }

    /// The session with the member at `place`.
    fn session(&self, place: usize) -> Option<u64> {
        let (_, sessions) = self.leads.as_ref().filter(|_| place != self.place)?;
        sessions.get(if place > self.place { place - 1 } else { place }).copied()
    }

    /// What of these ends with `next`, a later state of the same life.
    pub fn change(&self, next: &Self) -> Change {
        let leads_on = self.leads.as_ref().zip(next.leads.as_ref()).is_some_and(|(a, b)| a.0 == b.0);
        let goes_on = |place: usize| leads_on && self.session(place) == next.session(place);
        let ended = (0..u8::BITS as usize).filter(|place| self.session(*place).is_some() && !goes_on(*place));
        Change {
            passed: next.now.0 - self.now.0,
            ended: ended.fold(0, |bits, place| bits | 1 << place),
            campaign_ended: self.campaign.is_some() && self.campaign != next.campaign,
        }
    }
}

impl Change {
    pub const NONE: Self = Self { passed: 0, ended: 0, campaign_ended: false };
    /// Nothing of an earlier life goes on.
    pub const DEATH: Self = Self { passed: u64::MAX, ended: u8::MAX, campaign_ended: true };
}

fn place(id: NodeId) -> usize {
    id.0 as usize - 1
}

/// Whose numbers a message carries, by place; and who is at the other end.
pub fn owner(message: &Message) -> Option<(usize, usize)> {
    let (from, to) = (place(message.from), place(message.to));
    match &message.body {
        Body::RequestVote(_) | Body::AppendEntries(_) => Some((from, to)),
        Body::RequestVoteResponse(_) | Body::AppendEntriesResponse(_) => Some((to, from)),
        Body::ReadIndex(_) | Body::ReadIndexResponse(_) => None,
        other => unreachable!("no bound has {other:?}"),
    }
}

/// A message as its owner's `marks` make it: the numbers true on this side, relative on the other.
pub fn relative(message: &Message, marks: &Marks) -> Message {
    let Some((_, other)) = owner(message) else { return message.clone() };
    let session = Session(u64::from(marks.session(other) == Some(message.session.0)));
    let in_campaign = |campaign: Campaign| Campaign(u64::from(marks.campaign == Some(campaign.0)));
    let beat = |beat: Beat| Beat {
        sent_at: Instant((beat.sent_at.0 + marks.past).saturating_sub(marks.now.0)),
        ..beat
    };
    let mut message = Message { session, ..message.clone() };
    match &mut message.body {
        Body::RequestVote(request) => request.ballot.campaign = in_campaign(request.ballot.campaign),
        Body::RequestVoteResponse(answer) => answer.ballot.campaign = in_campaign(answer.ballot.campaign),
        Body::AppendEntries(append) => append.beat = beat(append.beat),
        Body::AppendEntriesResponse(answer) => answer.beat = beat(answer.beat),
        _ => {}
    }
    plain(message)
}

/// A message as it leaves a node with these `marks`.
pub fn emitted(message: &Message, marks: &Marks) -> Message {
    match owner(message) {
        Some((owner, _)) if owner == marks.place => relative(message, marks),
        // An answer echoes what was relative already.
        _ => plain(message.clone()),
    }
}

/// The other way round, for an answer that arrives at its owner.
pub fn absolute(message: &Message, marks: &Marks) -> Message {
    let mut message = message.clone();
    match &mut message.body {
        Body::RequestVoteResponse(answer) => {
            let present = marks.campaign.filter(|_| answer.ballot.campaign == Campaign(1));
            answer.ballot.campaign = Campaign(present.unwrap_or(0));
        }
        Body::AppendEntriesResponse(answer) => {
            let present = marks.session(place(message.from)).filter(|_| message.session == Session(1));
            message.session = Session(present.unwrap_or(0));
            answer.beat.sent_at = Instant(marks.now.0 + answer.beat.sent_at.0 - marks.past);
        }
        _ => {}
    }
    message
}

/// The same message after its owner's marks moved.
pub fn aged(message: &Message, change: Change) -> Message {
    let Some((_, other)) = owner(message) else { return message.clone() };
    let mut message = message.clone();
    if change.ended >> other & 1 == 1 {
        message.session = Session(0);
    }
    let older = |beat: &mut Beat| beat.sent_at.0 = beat.sent_at.0.saturating_sub(change.passed);
    match &mut message.body {
        Body::RequestVote(request) if change.campaign_ended => request.ballot.campaign = Campaign(0),
        Body::RequestVoteResponse(answer) if change.campaign_ended => answer.ballot.campaign = Campaign(0),
        Body::AppendEntries(append) => older(&mut append.beat),
        Body::AppendEntriesResponse(answer) => older(&mut answer.beat),
        _ => {}
    }
    plain(message)
}

/// Without what nobody will look at.
pub fn plain(mut message: Message) -> Message {
    let lost = message.session == Session(0);
    let no_beat = Beat { sent_at: Instant(0), read_pos: ReadPos::ZERO };
    match &mut message.body {
        Body::RequestVoteResponse(answer) => {
            message.session = Session::ZERO;
            if answer.ballot.campaign == Campaign(0) {
                // A granted pre-vote does not even teach its term (E5).
                answer.vote_granted &= answer.ballot.pre_vote;
                answer.ballot.pre_vote = answer.vote_granted;
                answer.refusal = None;
            }
        }
        Body::RequestVote(_) => message.session = Session::ZERO,
        Body::AppendEntries(append) if lost => append.beat = no_beat,
        // Of both kinds of answers only the envelope is left, so it is one kind.
        Body::AppendEntriesResponse(_) if lost => {
            let ballot = Ballot { campaign: Campaign(0), pre_vote: false };
            let answer = RequestVoteResponse { ballot, vote_granted: false, refusal: None };
            message.body = Body::RequestVoteResponse(answer);
        }
        _ => {}
    }
    message
}

/// What can still come of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// Whatever it says.
    Full,
    /// It can teach its receiver a term, or a life.
    Term,
    /// At most a life.
    None,
}

pub fn use_of(message: &Message) -> Use {
    let stale = |campaign: Campaign| campaign == Campaign(0);
    match &message.body {
        Body::RequestVoteResponse(answer) if stale(answer.ballot.campaign) && answer.vote_granted => {
            Use::None
        }
        Body::RequestVoteResponse(answer) if stale(answer.ballot.campaign) => Use::Term,
        Body::RequestVote(request) if stale(request.ballot.campaign) && request.ballot.pre_vote => Use::None,
        _ => Use::Full,
    }
}
