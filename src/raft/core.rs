//! What every role shares: the durable state, the log, the promise, the queue of effects.
//!
//! Two rules live here and nowhere else. A message never leaves before the term it carries is
//! durable (E4), because [`Core::send`] adds that wait by itself; and an entry is
//! handed out for apply exactly once, because [`Core::commit_to`] is the only way to commit.

use std::collections::{BTreeMap, VecDeque};
use std::hash::{Hash, Hasher};

use crate::ids::{Campaign, IoSeq, Life, LogId, LogIndex, NodeId, Session, Term, Ticket};
use crate::lease::stretch;
use crate::raft::config::Config;
use crate::raft::effect::{DropReason, Effect, Event, Outcome, SnapshotEffect};
use crate::raft::entry::{Compaction, Entry, HardState, Membership, Persist, Snapshot};
use crate::raft::log::Log;
use crate::raft::message::{Body, Message};
use crate::raft::node::Boot;
use crate::raft::transfer::Departure;
use crate::time::{Duration, Instant};

/// A small seeded generator (splitmix64): only election timeouts need it, so that campaigns of
/// different nodes drift apart. Part of the core's state, so that a copy of a node goes on alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rng(u64);

/// Never hashed: which timeouts come next is chance, not a part of what the node stands for.
impl Hash for Rng {
    fn hash<H: Hasher>(&self, _: &mut H) {}
}

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn between(&mut self, low: Duration, high: Duration) -> Duration {
        let span = high.saturating_sub(low).as_nanos().saturating_add(1);
        low + Duration::from_nanos(u64::try_from(u128::from(self.next()) % span).unwrap_or(0))
    }
}

/// What this node promised as a voter: no vote for another node before `until` (thesis 6.4.1).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Promised {
    /// The end, on this node's clock.
    pub until: Instant,
    /// To whom, in which term, and the newest session seen of it.
    pub to: Option<(NodeId, Term, Session)>,
    /// Until when an earlier life's promise may run. To whom it was given is forgotten, so nothing
    /// releases from it (R7).
    pub hold_until: Instant,
}

impl Promised {
    /// Whether the promise forbids a vote for `candidate` at `now`.
    ///
    /// Not for the very leader it was given to (L4). And not when that leader itself handed over
    /// (T-3, L7): the request then names its term and the number of the transfer, which is newer than
    /// any session this node has heard of. A leader that gave a transfer up opens newer sessions
    /// before it counts on promises again, so the late vote request of an abandoned transfer finds
    /// the promise in force.
    pub fn forbids(&self, now: Instant, candidate: NodeId, transfer: Option<(Term, Session)>) -> bool {
        let released = match self.to {
            None => false,
            Some((leader, term, session)) => {
                candidate == leader || transfer.is_some_and(|(from, number)| from == term && number > session)
            }
        };
        now < self.hold_until || (now < self.until && !released)
    }

    /// A message of the leader of `term` arrived: another `length` without a vote for others.
    pub fn renew(&mut self, now: Instant, length: Duration, leader: NodeId, term: Term, session: Session) {
        let newest = match self.to {
            Some((to, of, newest)) if (to, of) == (leader, term) => newest.max(session),
            _ => session,
        };
        self.to = Some((leader, term, newest));
        self.until = self.until.max(now + length);
    }

    /// When every promise is over.
    pub fn end(&self) -> Instant {
        self.until.max(self.hold_until)
    }
}

/// Where a life begins to count its campaigns and its questions to the leader: a thousand million
/// numbers away from its neighbours, so that an answer to an earlier life names nothing that is
/// open in this one (V4, T1).
const fn first_number(life: Life) -> u64 {
    (life.incarnation ^ life.boot.wrapping_shl(32)) >> 2
}

/// The state that outlives a change of role.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Core {
    pub config: Config,
    pub life: Life,
    /// The time of the present step. Never runs back.
    pub now: Instant,
    pub hard_state: HardState,
    pub log: Log,
    pub commit_index: LogIndex,
    /// What the driver has reported as applied.
    pub last_applied: LogIndex,
    pub promised: Promised,
    pub disk_stalled: bool,
    /// How often the time after which pieces of a snapshot are asked for again was doubled, because the leader is
    /// known to be slow (N11).
    pub fetch_patience: u32,
    /// The newest life seen of each member.
    pub lives: BTreeMap<NodeId, Life>,
    /// The incarnation that each member was first heard with, in any life of this node. For this node itself,
    /// what a leader has said of its name, if that was another directory's before (MC-11).
    pub pinned: BTreeMap<NodeId, u64>,
    /// Those of them that the next write takes along.
    unwritten_pins: Vec<(NodeId, u64)>,
    /// The newest snapshot of this node's own state, or installed here.
    pub snapshot: Option<Snapshot>,
    /// Bytes of the entries that were committed since it was taken.
    pub bytes_since_snapshot: usize,
    /// Whether one of the committed memberships that its log no longer has meant this node.
    pub was_named: bool,
    /// A transfer that this node began as leader and whose end it has not heard yet.
    pub departure: Option<Departure>,
    pub effects: VecDeque<Effect>,
    rng: Rng,
    io: IoSeq,
    durable_io: IoSeq,
    hard_state_io: IoSeq,
    campaign: Campaign,
    session: Session,
    read_id: u64,
}

impl Core {
    pub fn new(config: Config, boot: Boot, seed: u64, now: Instant) -> Self {
        let log = Log::new(&boot.durable);
        // R7: this life does not know what an earlier one promised, so it keeps the longest such
        // promise, on a clock that may run fast.
        let hold = stretch(boot.promised, config.clock_drift_ppm);
        // What a snapshot stands for is committed, and the state machine begins with it (C10).
        let started_at = boot.durable.snapshot.as_ref().map_or(LogIndex::ZERO, |s| s.id.last.index);
        Self {
            life: boot.life,
            now,
            hard_state: boot.durable.hard_state,
            commit_index: started_at,
            last_applied: started_at,
            snapshot: boot.durable.snapshot,
            bytes_since_snapshot: 0,
            promised: Promised { until: now, to: None, hold_until: now + hold },
            disk_stalled: false,
            fetch_patience: 0,
            lives: BTreeMap::new(),
            pinned: boot.durable.pinned,
            unwritten_pins: Vec::new(),
            was_named: false,
            departure: None,
            effects: VecDeque::new(),
            rng: Rng(seed ^ config.id.0.rotate_left(32)),
            config,
            io: IoSeq::ZERO,
            durable_io: IoSeq::ZERO,
            hard_state_io: IoSeq::ZERO,
            campaign: Campaign(first_number(boot.life)),
            session: Session::ZERO,
            read_id: first_number(boot.life),
            log,
        }
    }

    pub const fn id(&self) -> NodeId {
        self.config.id
    }

    pub const fn term(&self) -> Term {
        self.hard_state.current_term
    }

    pub fn membership(&self) -> &Membership {
        self.log.membership()
    }

    pub fn is_voter(&self) -> bool {
        self.has_a_vote_in(self.membership())
    }

    /// MC-8: whether this node may ask for votes. Also one that the membership in force leaves out, until
    /// that is committed: its log may be the only one that can win (M5). After a start it is not known how far
    /// the log is committed, so each membership from there on may be the one that is agreed upon.
    pub fn may_campaign(&self) -> bool {
        let had_a_vote = || self.log.memberships_since(self.commit_index).any(|m| self.has_a_vote_in(m));
        self.is_voter() || (!self.is_settled() && had_a_vote())
    }

    /// MC-7: nobody leads this node, and the membership that it knows to be committed does not name it, as an
    /// earlier one did. A new node that was given a snapshot from before it was added waits for the rest. One
    /// that catches up after being added again meets its removal in the log, but hears a leader then.
    pub fn say_if_removed(&mut self) {
        if self.has_been_named() && self.is_settled() && !self.membership().contains(self.id()) {
            self.event(Event::Removed { at: self.log.membership_index() });
        }
    }

    /// Whether the membership in force is known to be committed.
    pub fn is_settled(&self) -> bool {
        self.log.membership_index() <= self.commit_index
    }

    pub const fn next_campaign(&mut self) -> Campaign {
        self.campaign = self.campaign.next();
        self.campaign
    }

    pub const fn next_session(&mut self) -> Session {
        self.session = self.session.next();
        self.session
    }

    pub const fn next_read_id(&mut self) -> u64 {
        self.read_id = self.read_id.wrapping_add(1);
        self.read_id
    }

    /// A fresh election deadline: random each time (L14), and never within the own promise (M20).
    pub fn election_deadline(&mut self) -> Instant {
        let (low, high) = (self.config.election_timeout_min, self.config.election_timeout_max);
        let wait = self.rng.between(low, high);
        self.not_within_promise(wait)
    }

    /// When to campaign again after a split vote: at a random moment (L14), but
    /// without the wait for a leader, because this node knows that there is none.
    pub fn retry_deadline(&mut self) -> Instant {
        let spread = self.config.election_timeout_max.saturating_sub(self.config.election_timeout_min);
        let wait = self.rng.between(Duration::ZERO, spread);
        self.not_within_promise(wait)
    }

    fn not_within_promise(&self, wait: Duration) -> Instant {
        (self.now + wait).max(self.promised.end())
    }

    /// Moves to a higher term. The only place that clears the vote (V3).
    pub fn adopt_term(&mut self, term: Term) {
        assert!(term > self.term(), "a term never falls");
        self.hard_state = HardState { current_term: term, voted_for: None };
        self.persist_hard_state();
    }

    /// Gives this term's vote.
    pub fn vote_for(&mut self, candidate: NodeId) {
        let before = self.hard_state.voted_for;
        assert!(before.is_none_or(|vote| vote == candidate), "one vote in a term");
        if before.is_none() {
            self.hard_state.voted_for = Some(candidate);
            self.persist_hard_state();
        }
    }

    fn persist_hard_state(&mut self) {
        let hard_state = Some(self.hard_state);
        self.hard_state_io = self.persist(Persist { hard_state, ..self.write() });
    }

    /// Cuts the log before `from`, if given, and appends.
    pub fn write_log(&mut self, from: Option<LogIndex>, entries: &[Entry]) {
        assert!(from.is_none_or(|from| from > self.commit_index), "what is committed is never cut (C14)");
        let io = self.persist(Persist { truncate_from: from, append: entries.to_vec(), ..self.write() });
        self.log.splice(from, entries, io);
    }

    /// The own state was written down: begin the log later, but keep what comes after `needed`.
    pub fn compact(&mut self, snapshot: Snapshot, needed: Option<LogIndex>) {
        let last = snapshot.id.last.index;
        self.bytes_since_snapshot = self.log.size(last, self.commit_index);
        let kept = self.log.back_from(last, self.config.snapshot_keep, self.config.snapshot_keep_bytes);
        let base = kept.min(self.log.durable_index()).min(needed.unwrap_or(last));
        let base = base.max(self.log.base().index);
        let term = self.log.term_at(base).expect("the log reaches from its base to what is applied");
        let base = LogId::new(term, base);
        self.was_named = self.was_named_until(base.index);
        self.log.compact(base);
        let compact = Some(Compaction { snapshot: snapshot.clone(), base, keeps_tail: true });
        self.persist(Persist { compact, ..self.write() });
        self.snapshot = Some(snapshot);
    }

    /// Whether `id` can't be the name of a committed entry, as far as this node knows what is committed: its place is
    /// another entry's (N5), or the terms would fall along the log (N3). No honest snapshot ends so.
    pub fn denies_committed(&self, id: LogId) -> bool {
        let base = self.log.base();
        if id.index < base.index {
            return id.term > base.term;
        }
        if id.index <= self.commit_index {
            return !self.log.holds(id);
        }
        self.log.term_at(self.commit_index) > Some(id.term)
    }

    /// A fetched snapshot takes the place of everything up to its last entry (N1, N2, N4).
    pub fn install(&mut self, snapshot: Snapshot) {
        let last = snapshot.id.last;
        assert!(last.index > self.commit_index, "what is committed is never replaced (N3, N5)");
        // Also when the disk still owes some of it: the tail may have been acknowledged in messages that wait
        // for those writes, which come before this one.
        let keeps_tail = self.log.holds(last);
        let compact = Some(Compaction { snapshot: snapshot.clone(), base: last, keeps_tail });
        let io = self.persist(Persist { compact, ..self.write() });
        self.was_named = self.was_named_until(if keeps_tail { last.index } else { self.commit_index });
        if keeps_tail {
            self.log.compact(last);
        } else {
            self.log.reset(last, snapshot.membership.clone(), io);
        }
        self.commit_index = last.index;
        self.last_applied = last.index;
        self.bytes_since_snapshot = 0;
        self.effects.push_back(Effect::Snapshot(SnapshotEffect::Restore(snapshot.clone())));
        self.snapshot = Some(snapshot);
    }

    /// Whether it is time to write the state down. A level and no edge: asked again after every step, it
    /// can't be forgotten (N10).
    pub fn wants_snapshot(&self) -> bool {
        let taken = self.snapshot.as_ref().map_or(LogIndex::ZERO, |snapshot| snapshot.id.last.index);
        let entries = self.last_applied.0.saturating_sub(taken.0);
        let much = self.bytes_since_snapshot >= self.config.snapshot_bytes;
        entries > 0 && (entries >= self.config.snapshot_entries || much)
    }

    /// A write with nothing in it yet.
    fn write(&self) -> Persist {
        Persist {
            io: self.io.next(),
            hard_state: None,
            pins: Vec::new(),
            compact: None,
            truncate_from: None,
            append: Vec::new(),
        }
    }

    /// Queues a write; joins the one that was queued last while nothing has come after it.
    fn persist(&mut self, mut write: Persist) -> IoSeq {
        write.pins = std::mem::take(&mut self.unwritten_pins);
        if let Some(Effect::Persist(last)) = self.effects.back_mut()
            && write.truncate_from.is_none()
            && write.compact.is_none()
        {
            last.pins.extend(write.pins);
            last.hard_state = write.hard_state.or(last.hard_state);
            last.append.extend(write.append);
            return last.io;
        }
        self.io = write.io;
        self.effects.push_back(Effect::Persist(write));
        self.io
    }

    /// V8: a member speaks from `incarnation`. False when it was known by another one: that data directory is
    /// gone, and with it the votes, promises and entries that this member has given its word for. What is
    /// new is kept with the next write: before it, nothing rests on it.
    pub fn recognises(&mut self, member: NodeId, incarnation: u64) -> bool {
        let added_with = self.membership().incarnations.get(&member).copied();
        if added_with.is_some_and(|added_with| added_with != incarnation) {
            return false;
        }
        if !self.membership().contains(member) {
            // Who is no member is not known by anything.
            return true;
        }
        let known = self.pin(member, incarnation);
        added_with.is_some() || known == incarnation
    }

    /// The incarnation that goes with this name from now on, unless one did already.
    fn pin(&mut self, member: NodeId, incarnation: u64) -> u64 {
        *self.pinned.entry(member).or_insert_with(|| {
            self.unwritten_pins.push((member, incarnation));
            incarnation
        })
    }

    /// V8, by the word of a leader. What this node has heard itself stands. Also of who is no member any more:
    /// this node may lead when that id is to be used again (MC-10).
    pub fn heard_of(&mut self, member: NodeId, incarnation: u64) {
        if member == self.id() {
            self.heard_of_its_name(incarnation);
        } else {
            self.pin(member, incarnation);
        }
    }

    /// MC-11: a leader says who went by this node's name first. Nothing is said any more that a crash could make
    /// this node say without knowing that. Who was meant by a membership before it was told so was no newcomer.
    fn heard_of_its_name(&mut self, first: u64) {
        if self.has_been_named() || first == self.life.incarnation || self.pinned.contains_key(&self.id()) {
            return;
        }
        self.pinned.insert(self.id(), first);
        self.unwritten_pins.push((self.id(), first));
        self.hard_state_io = self.persist(self.write());
    }

    /// A completion: a watermark, so an older one that comes late changes nothing (C12).
    pub fn persisted(&mut self, io: IoSeq) {
        self.durable_io = self.durable_io.max(io.min(self.io));
        self.log.persisted(self.durable_io);
    }

    /// Whether `io` has completed.
    pub fn is_durable(&self, io: IoSeq) -> bool {
        io <= self.durable_io
    }

    /// What must be durable before a vote request leaves, and before the own vote counts: the
    /// term, the vote and the last entry that the request claims (V6).
    pub fn candidacy_io(&self) -> IoSeq {
        let claimed = self.log.write_covering(self.log.last().index).unwrap_or(IoSeq::ZERO);
        claimed.max(self.hard_state_io)
    }

    /// Sends in the current term, once that (E4) and `after` are durable.
    pub fn send(&mut self, to: NodeId, session: Session, body: Body, after: IoSeq) {
        self.send_in(self.term(), to, session, body, after);
    }

    /// Sends in the name of another term: pre-vote requests only.
    pub fn send_in(&mut self, term: Term, to: NodeId, session: Session, body: Body, after: IoSeq) {
        let after = after.max(self.hard_state_io);
        let message = Message { from: self.id(), to, term, life: self.life, session, body };
        let after = (!self.is_durable(after)).then_some(after);
        self.effects.push_back(Effect::Send { message, after });
    }

    pub fn reply(&mut self, ticket: Ticket, outcome: Outcome) {
        self.effects.push_back(Effect::Reply { ticket, outcome });
    }

    /// Answers whoever waits, if anybody does.
    pub fn answer(&mut self, ticket: Option<Ticket>, outcome: Outcome) {
        ticket.into_iter().for_each(|ticket| self.reply(ticket, outcome));
    }

    pub fn event(&mut self, event: Event) {
        self.effects.push_back(Effect::Event(event));
    }

    pub fn dropped(&mut self, from: NodeId, reason: DropReason) {
        self.event(Event::Dropped { from, reason });
    }

    /// Commits up to `index` and hands the new entries out.
    pub fn commit_to(&mut self, index: LogIndex) {
        assert!(index <= self.log.last().index, "only what the log holds can be committed");
        if index > self.commit_index {
            self.bytes_since_snapshot += self.log.size(self.commit_index, index);
            let entries = self.log.range(self.commit_index, index);
            self.commit_index = index;
            self.effects.push_back(Effect::Apply(entries));
        }
    }

    /// The driver has applied up to `index`.
    pub fn applied(&mut self, index: LogIndex) {
        self.last_applied = self.last_applied.max(index.min(self.commit_index));
    }

    /// The other members.
    pub fn peers(&self) -> Vec<NodeId> {
        self.membership().members().into_iter().filter(|id| *id != self.id()).collect()
    }

    /// The last entry that this node can claim.
    pub fn last_log(&self) -> LogId {
        self.log.last()
    }
}
