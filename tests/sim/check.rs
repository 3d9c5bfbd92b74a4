//! The safety properties of Raft, as a reader of everything that happens: it sees each write that
//! is queued, each write that becomes durable, each message that leaves and each node's view after
//! each step, and it keeps the one history that all of them must agree with.
//!
//! Every check is incremental. A chain hash over (term, payload) makes "equal at this entry" mean
//! "equal in the whole prefix", so that no check walks a log.

use std::collections::{BTreeMap, HashMap};

use termgate::ids::{LogId, LogIndex, NodeId, Term};
use termgate::raft::effect::RoleKind;
use termgate::raft::entry::{Compaction, Entry, HardState, Membership, Payload, Persist};
use termgate::raft::leadership::Leadership;
use termgate::raft::message::{AppendResult, Body, Message};

use crate::clock::True;
use crate::disk::Disk;
use crate::process::SimNode;
use crate::rng::mix;
use crate::roster::{Roster, is_majority, is_quorum};

/// More uncommitted and unapplied state than this in one world is a leak.
const LOG_LIMIT: u64 = 20_000;

/// An entry of a node's log as it stands in memory, with the hash of everything up to it.
#[derive(Debug, Clone)]
struct Linked {
    entry: Entry,
    chain: u64,
}

/// One committed entry.
#[derive(Debug, Clone)]
struct Committed {
    id: LogId,
    chain: u64,
    entry: Entry,
    /// The term of the node that was the first to know.
    known_in: Term,
}

/// What one node has shown in its present life.
#[derive(Debug, Default)]
struct Seen {
    log: Vec<Linked>,
    /// Where in it memberships stand.
    memberships: Vec<usize>,
    /// The memberships that were in force in the present turn and are no more, the one before it first.
    in_force_before: Vec<Membership>,
    hard_state: HardState,
    term: Term,
    commit: LogIndex,
    applied: LogIndex,
    role: Option<RoleKind>,
    /// The token it may stamp, and until when in true time.
    token: Option<(Term, True)>,
}

/// The reader.
#[derive(Debug)]
pub struct Checker {
    /// Who takes part.
    pub roster: Roster,
    leases_hold: bool,
    nodes: Vec<Seen>,
    /// What the disks hold, over all lives.
    durable: Vec<HardState>,
    /// Who led each term, and since when.
    leaders: BTreeMap<Term, (usize, True)>,
    chains: HashMap<LogId, u64>,
    committed: Vec<Committed>,
    /// The highest place of a membership in any log, ever.
    last_membership: LogIndex,
    fresh: Vec<Entry>,
    votes: BTreeMap<(u64, Term), NodeId>,
    digests: BTreeMap<LogIndex, u64>,
    truncations: u64,
    overlaps: u64,
    /// Committed entries that a node has cut off, to be looked at with the disks at hand.
    cut: Vec<(usize, LogId)>,
    violation: Option<String>,
}

fn entry_hash(previous: u64, entry: &Entry) -> u64 {
    let mut hash = mix(previous ^ entry.id.term.0) ^ entry.id.index.0;
    match &entry.payload {
        Payload::NoOp { leader } => hash = mix(hash ^ leader.0 ^ (1 << 60)),
        Payload::Membership(m) => {
            hash = mix(hash ^ (2 << 60));
            let old = m.voters_old.iter().flatten().map(|node| node.0 | 1 << 32);
            let learners = m.learners.iter().map(|node| node.0 | 2 << 32);
            let known = m.incarnations.iter().map(|(node, incarnation)| node.0 ^ incarnation);
            let all = m.voters.iter().map(|node| node.0).chain(old).chain(learners).chain(known);
            all.for_each(|part| hash = mix(hash ^ part));
        }
        Payload::Command(bytes) => {
            for chunk in bytes.chunks(8) {
                let word = chunk.iter().fold(0u64, |w, b| (w << 8) | u64::from(*b));
                hash = mix(hash ^ word);
            }
        }
    }
    hash
}

fn memberships_in(log: &[Linked]) -> Vec<usize> {
    let is_one = |(_, linked): &(usize, &Linked)| matches!(linked.entry.payload, Payload::Membership(_));
    log.iter().enumerate().filter(is_one).map(|(position, _)| position).collect()
}

impl Checker {
    /// A reader of `nodes` nodes. `leases_hold`: clocks stay within their bound.
    pub fn new(nodes: usize, initial: Membership, leases_hold: bool) -> Self {
        Self {
            roster: Roster::new(initial),
            leases_hold,
            nodes: (0..nodes).map(|_| Seen::default()).collect(),
            durable: vec![HardState::default(); nodes],
            leaders: BTreeMap::new(),
            chains: HashMap::new(),
            committed: Vec::new(),
            last_membership: LogIndex::ZERO,
            fresh: Vec::new(),
            votes: BTreeMap::new(),
            digests: BTreeMap::new(),
            truncations: 0,
            overlaps: 0,
            cut: Vec::new(),
            violation: None,
        }
    }

    /// Keeps the first violation.
    pub fn fail(&mut self, text: impl Into<String>) {
        self.violation.get_or_insert(text.into());
    }

    /// The first thing that went wrong.
    pub fn violation(&self) -> Option<&str> {
        self.violation.as_deref()
    }

    /// Entries committed since the last call, in order.
    pub fn take_fresh(&mut self) -> Vec<Entry> {
        std::mem::take(&mut self.fresh)
    }

    /// How many entries are committed.
    pub fn committed_len(&self) -> u64 {
        self.committed.len() as u64
    }

    /// What was committed behind `index`, in order.
    pub fn committed_after(&self, index: LogIndex) -> impl Iterator<Item = &Entry> {
        self.committed.iter().skip(index.0 as usize).map(|c| &c.entry)
    }

    /// A committed entry.
    pub fn committed_at(&self, index: LogIndex) -> Option<&Entry> {
        self.committed.get((index.0 as usize).wrapping_sub(1)).map(|c| &c.entry)
    }

    /// Who led in `term`.
    pub fn leader_of(&self, term: Term) -> Option<usize> {
        self.leaders.get(&term).map(|(node, _)| *node)
    }

    /// Terms that had a leader, and the highest of them.
    pub fn leader_count(&self) -> (u64, Term) {
        (self.leaders.len() as u64, self.leaders.keys().next_back().copied().unwrap_or_default())
    }

    /// How often uncommitted entries were cut off.
    pub const fn truncations(&self) -> u64 {
        self.truncations
    }

    /// How often two leases overlapped, with clocks beyond their bound.
    pub const fn overlaps(&self) -> u64 {
        self.overlaps
    }

    /// A new life begins with what the disk holds.
    pub fn on_boot(&mut self, node: usize, disk: &Disk) {
        let mut log = self.history(node, disk.base());
        let mut chain = log.last().map_or(0, |linked| linked.chain);
        log.extend(disk.log().iter().map(|entry| {
            chain = entry_hash(chain, entry);
            Linked { entry: entry.clone(), chain }
        }));
        self.nodes[node] = Seen {
            memberships: memberships_in(&log),
            log,
            hard_state: disk.hard_state(),
            term: disk.hard_state().current_term,
            ..Seen::default()
        };
    }

    /// What a snapshot up to `base` stands for: it must be committed history.
    fn history(&mut self, node: usize, base: LogId) -> Vec<Linked> {
        let stands_for = base.index.0 as usize;
        let known = self.committed.get(stands_for.wrapping_sub(1)).map_or(LogId::ZERO, |last| last.id);
        if known != base {
            self.fail(format!("node {} begins its log after {base}, which is not committed", node + 1));
        }
        let committed = self.committed.iter().take(stands_for);
        committed.map(|c| Linked { entry: c.entry.clone(), chain: c.chain }).collect()
    }

    /// N1, N2: a snapshot takes the place of a prefix; what is kept behind it must go on from there.
    fn check_compaction(&mut self, node: usize, compaction: &Compaction) {
        let base = compaction.base;
        let history = self.history(node, base);
        let kept =
            self.nodes[node].log.get((base.index.0 as usize).wrapping_sub(1)).map(|linked| linked.chain);
        let same = base.index == LogIndex::ZERO || kept == history.last().map(|linked| linked.chain);
        if compaction.keeps_tail && !same {
            self.fail(format!("N1: node {} keeps entries behind {base} that do not follow it", node + 1));
        }
        if !compaction.keeps_tail {
            self.nodes[node].memberships = memberships_in(&history);
            self.nodes[node].log = history;
        }
        let stands = self.roster.at(compaction.snapshot.id.last.index);
        if *stands != compaction.snapshot.membership {
            let has = &compaction.snapshot.membership;
            self.fail(format!("N4: the snapshot of node {} has {has:?}, the log {stands:?}", node + 1));
        }
        let taken = compaction.snapshot.id.last;
        let committed = self.committed.get((taken.index.0 as usize).wrapping_sub(1)).map(|c| c.id);
        if committed != Some(taken) {
            self.fail(format!("N5: node {} has a snapshot up to {taken}, which is not committed", node + 1));
        }
    }

    /// A node gets an empty disk: nothing is known there any more.
    pub fn on_wipe(&mut self, node: usize) {
        self.durable[node] = HardState::default();
        self.nodes[node] = Seen::default();
    }

    /// A process ended; what it could do, it can do no more.
    pub fn on_crash(&mut self, node: usize) {
        self.nodes[node].token = None;
        self.nodes[node].role = None;
    }

    /// A write was queued: the node's log in memory is now this.
    pub fn on_persist(&mut self, node: usize, write: &Persist) {
        if let Some(new) = write.hard_state {
            self.check_hard_state(node, new);
        }
        let seen = &self.nodes[node];
        let brings = write.append.iter().any(|e| matches!(e.payload, Payload::Membership(_)));
        let takes = |from: LogIndex| seen.memberships.last().is_some_and(|last| *last as u64 + 1 >= from.0);
        if brings || write.truncate_from.is_some_and(takes) {
            let replaced = self.in_force(node).clone();
            self.nodes[node].in_force_before.push(replaced);
        }
        if let Some(compaction) = &write.compact {
            self.check_compaction(node, compaction);
        }
        if let Some(from) = write.truncate_from {
            self.check_truncate(node, from);
        }
        for entry in &write.append {
            self.check_append(node, entry);
        }
        let len = self.nodes[node].log.len() as u64;
        if len > LOG_LIMIT {
            self.fail(format!("node {} holds {len} entries: the log is not bounded", node + 1));
        }
    }

    /// I5: the term never falls, and within a term a vote is given once and never taken back.
    fn check_hard_state(&mut self, node: usize, new: HardState) {
        let old = std::mem::replace(&mut self.nodes[node].hard_state, new);
        if new.current_term < old.current_term {
            self.fail(format!("I5: node {} lowers its term: {old:?} -> {new:?}", node + 1));
        }
        let kept = old.voted_for.is_none() || old.voted_for == new.voted_for;
        if new.current_term == old.current_term && !kept {
            self.fail(format!("I5: node {} changes its vote: {old:?} -> {new:?}", node + 1));
        }
    }

    fn check_truncate(&mut self, node: usize, from: LogIndex) {
        let at = from.0.saturating_sub(1) as usize;
        let seen = &self.nodes[node];
        let was = seen.log.get(at).map(|l| l.chain);
        let cuts_committed = was.is_some() && was == self.committed.get(at).map(|c| c.chain);
        let last_cut = self.committed.len().min(seen.log.len());
        let leads = seen.role == Some(RoleKind::Leader) && seen.term == seen.hard_state.current_term;
        if from <= seen.commit {
            self.fail(format!("I4: node {} cuts committed entries off at {from}", node + 1));
        }
        if cuts_committed && let Some(last) = self.committed.get(last_cut.wrapping_sub(1)) {
            self.cut.push((node, last.id));
        }
        if leads {
            self.fail(format!("leader append-only: node {} leads and cuts its log at {from}", node + 1));
        }
        self.truncations += u64::from(was.is_some());
        self.nodes[node].log.truncate(at);
        self.nodes[node].memberships.retain(|position| *position < at);
    }

    /// The membership in force at a node: the last in its log, committed or not.
    pub fn in_force(&self, node: usize) -> &Membership {
        let seen = &self.nodes[node];
        let last = seen.memberships.last().map(|position| &seen.log[*position].entry.payload);
        match last {
            Some(Payload::Membership(membership)) => membership,
            _ => self.roster.initial(),
        }
    }

    /// Whether every membership in every log that `counts` is committed.
    pub fn is_settled(&self, counts: impl Fn(usize) -> bool) -> bool {
        let committed = self.committed.len();
        let is_open = |seen: &Seen| seen.memberships.last().is_some_and(|last| *last >= committed);
        !self.nodes.iter().enumerate().any(|(node, seen)| counts(node) && is_open(seen))
    }

    /// Whether no membership can come into force any more that is not committed: from a log, from a disk that lost that
    /// it had been cut off, or from a late message.
    pub fn is_settled_for_good(&self) -> bool {
        self.last_membership.0 <= self.committed_len()
    }

    /// I6 again. A node that is behind in terms may hold, by chance, what another quorum has committed, and
    /// a late message of a leader in between may make it cut that off. Then it was not one of that quorum.
    fn check_cut(&mut self, nodes: &[SimNode]) {
        for (node, id) in std::mem::take(&mut self.cut) {
            let holds = |n: NodeId| n.0 as usize - 1 != node && nodes[n.0 as usize - 1].holds(id);
            if !is_majority(&self.roster.latest().voters, holds) {
                self.fail(format!("I6: node {} cuts off {id}, which no quorum of others holds", node + 1));
            }
        }
    }

    /// I2, log matching: an (index, term) names one entry and one prefix, everywhere and for ever.
    fn check_append(&mut self, node: usize, entry: &Entry) {
        let seen = &mut self.nodes[node];
        let (last, previous) = seen.log.last().map_or((LogId::ZERO, 0), |l| (l.entry.id, l.chain));
        let chain = entry_hash(previous, entry);
        seen.log.push(Linked { entry: entry.clone(), chain });
        if matches!(entry.payload, Payload::Membership(_)) {
            seen.memberships.push(seen.log.len() - 1);
            self.last_membership = self.last_membership.max(entry.id.index);
        }
        let contiguous = entry.id.index == last.index.next() && entry.id.term >= last.term;
        let known = *self.chains.entry(entry.id).or_insert(chain);
        if !contiguous {
            self.fail(format!("node {} appends {} after {last}", node + 1, entry.id));
        }
        if known != chain {
            self.fail(format!("I2: two different entries or prefixes at {} (node {})", entry.id, node + 1));
        }
    }

    /// A write became durable. Over all lives of a node: its term never falls, and it does not
    /// change a durable vote.
    pub fn on_durable(&mut self, node: usize, write: &Persist) {
        let Some(new) = write.hard_state else { return };
        let old = std::mem::replace(&mut self.durable[node], new);
        let changed = old.voted_for.is_some() && old.voted_for != new.voted_for;
        if new.current_term < old.current_term || (new.current_term == old.current_term && changed) {
            self.fail(format!("I5: on the disk of node {}: {old:?} -> {new:?}", node + 1));
        }
    }

    /// What a node shows after a step; with `last_log` when it wrote something.
    pub fn on_shown(
        &mut self,
        node: usize,
        now: True,
        shown: &Leadership,
        last_log: Option<LogId>,
        nodes: &[SimNode],
    ) {
        self.check_monotonic(node, shown);
        self.check_leader(node, now, shown);
        self.check_cut(nodes);
        if shown.commit_index > self.nodes[node].commit {
            self.nodes[node].commit = shown.commit_index;
            self.check_commit(node, shown, nodes);
        }
        self.check_change(node, shown);
        self.nodes[node].applied = shown.last_applied;
        self.nodes[node].term = shown.term;
        self.nodes[node].role = Some(shown.role);
        self.nodes[node].in_force_before.clear();
        let last = self.nodes[node].log.last().map_or(LogId::ZERO, |l| l.entry.id);
        if last_log.is_some_and(|shown| shown != last) {
            self.fail(format!("node {} shows last log {last_log:?}, its writes say {last}", node + 1));
        }
    }

    /// Entries of its own term that a leader has not committed.
    pub fn led_entries(&self, node: usize) -> u64 {
        let Seen { log, commit, term, role, .. } = &self.nodes[node];
        if *role != Some(RoleKind::Leader) {
            return 0;
        }
        let uncommitted = &log[log.len().min(commit.0 as usize)..];
        uncommitted.iter().rev().take_while(|l| l.entry.id.term == *term).count() as u64
    }

    /// MC-1: a leader changes the membership only when an entry of its own term is committed. To complete a
    /// joint one, which is committed itself, is no change (MC-5).
    fn check_change(&mut self, node: usize, shown: &Leadership) {
        let seen = &self.nodes[node];
        let completes = seen.in_force_before.first().is_none_or(Membership::is_joint);
        if completes || shown.role != RoleKind::Leader {
            return;
        }
        let terms = seen.log.iter().map(|linked| linked.entry.id.term);
        let own = terms.rev().take_while(|term| *term == shown.term).count();
        let before = seen.log.len() - own;
        let changed = seen.memberships.last().is_some_and(|last| *last >= before);
        if changed && shown.commit_index.0 <= before as u64 {
            self.fail(format!(
                "MC-1: node {} changes the membership before its term has committed",
                node + 1
            ));
        }
    }

    fn check_monotonic(&mut self, node: usize, view: &Leadership) {
        let seen = &self.nodes[node];
        let falls =
            view.term < seen.term || view.commit_index < seen.commit || view.last_applied < seen.applied;
        let ordered = view.last_applied <= view.commit_index && view.commit_index.0 <= seen.log.len() as u64;
        let same_term = view.term == seen.hard_state.current_term;
        if falls {
            self.fail(format!("I5: term, commit or applied index of node {} falls: {view:?}", node + 1));
        }
        if !ordered {
            self.fail(format!("applied <= commit <= last does not hold on node {}: {view:?}", node + 1));
        }
        if !same_term {
            self.fail(format!("node {} is in a term it never queued a write for: {view:?}", node + 1));
        }
    }

    /// I1, one leader per term. Also told by the node's own events, for a leader that was one only
    /// in the midst of a turn.
    pub fn on_elected(&mut self, node: usize, term: Term, now: True) {
        let (known, _) = *self.leaders.entry(term).or_insert((node, now));
        if known != node {
            self.fail(format!("I1: nodes {} and {} both lead in term {term}", known + 1, node + 1));
        }
    }

    /// I3, leader completeness, when a node begins to lead.
    fn check_leader(&mut self, node: usize, now: True, view: &Leadership) {
        if view.role != RoleKind::Leader {
            return;
        }
        self.on_elected(node, view.term, now);
        let newly = self.nodes[node].role != Some(RoleKind::Leader) || self.nodes[node].term != view.term;
        if newly {
            self.check_complete(node, view.term);
        }
    }

    /// A leader that was replaced cannot reach a quorum any more, and must notice in time (L10).
    /// `patience` is how long a leader of this node may go without a quorum, in true time; `since`
    /// is when the node last went on after it had been stopped.
    pub fn check_replaced(&mut self, node: usize, now: True, since: True, patience: True) {
        let seen = &self.nodes[node];
        if seen.role != Some(RoleKind::Leader) {
            return;
        }
        let term = seen.term;
        // An old campaign may be won after a newer one; the time to notice runs from the later of both.
        let since = self.leaders.get(&term).map_or(since, |(_, elected)| since.max(*elected));
        let replaced = self.leaders.range(term.next()..).next().map(|(by, (_, at))| (*by, (*at).max(since)));
        if let Some((by, at)) = replaced.filter(|(_, at)| now > at + patience) {
            let late = (now - at) / 1_000_000;
            self.fail(format!(
                "L10: node {} leads in {term}, {late} ms after it was replaced in {by}",
                node + 1
            ));
        }
    }

    fn check_complete(&mut self, node: usize, term: Term) {
        let older = self.committed.iter().rposition(|c| c.known_in < term);
        let Some(at) = older else { return };
        let has = self.nodes[node].log.get(at).map(|l| l.chain);
        if has != Some(self.committed[at].chain) {
            let id = self.committed[at].id;
            self.fail(format!("I3: node {} leads in term {term} without committed entry {id}", node + 1));
        }
    }

    /// I4, state machine safety, and I6, a committed entry is durable on a quorum.
    fn check_commit(&mut self, node: usize, view: &Leadership, nodes: &[SimNode]) {
        let upto = view.commit_index.0 as usize;
        if self.nodes[node].log.len() < upto {
            self.fail(format!("node {} commits {upto} beyond its log", node + 1));
            return;
        }
        let known = self.committed.len().min(upto);
        if known > 0 && self.nodes[node].log[known - 1].chain != self.committed[known - 1].chain {
            self.fail(format!("I4: node {} commits another history at {known}", node + 1));
            return;
        }
        let holds = |id: LogId| move |n: NodeId| nodes[n.0 as usize - 1].holds(id);
        for at in known..upto {
            let Linked { entry, chain } = self.nodes[node].log[at].clone();
            // Nothing replaces a membership before it is committed (MC-1), so it counts for itself.
            if let Payload::Membership(membership) = &entry.payload
                && !is_quorum(membership, holds(entry.id))
            {
                let id = entry.id;
                self.fail(format!(
                    "I6: {id} is committed and durable on no quorum of its own {membership:?}"
                ));
            }
            self.roster.commit(&entry);
            self.committed.push(Committed { id: entry.id, chain, entry: entry.clone(), known_in: view.term });
            self.fresh.push(entry);
        }
        if upto > known {
            let id = self.committed[upto - 1].id;
            // Who commits first leads, and counts in the membership that it has in force: the last in its
            // log, or one that was that earlier in this turn.
            let in_force = self.in_force(node);
            let counts = |membership: &Membership| is_quorum(membership, holds(id));
            if !counts(in_force) && !self.nodes[node].in_force_before.iter().any(counts) {
                self.fail(format!("I6: {id} is committed and durable on no quorum of {in_force:?}"));
            }
            self.check_leaders_ahead(view.term);
        }
    }

    /// I3 again, for an entry that an old leader commits while a newer one is already there.
    fn check_leaders_ahead(&mut self, term: Term) {
        for node in 0..self.nodes.len() {
            let seen = &self.nodes[node];
            if seen.role == Some(RoleKind::Leader) && seen.term > term {
                self.check_complete(node, seen.term);
            }
        }
    }

    /// I7: nothing leaves before what it depends on is durable.
    pub fn on_send(&mut self, node: usize, message: &Message, disk: &Disk) {
        let hard = disk.hard_state();
        let term = message.term;
        let durable_term = hard.current_term >= term;
        let own = NodeId(node as u64 + 1);
        if message.from != own || message.life != disk.named_life() {
            self.fail(format!("node {own} sends in another's name or life: {message:?}"));
        }
        match &message.body {
            Body::RequestVote(ask) if !ask.ballot.pre_vote => {
                let voted = hard.current_term > term || hard.voted_for == Some(own);
                let holds = hard.current_term > term || disk.last() >= ask.last_log;
                if !durable_term || !voted || !holds {
                    self.fail(format!(
                        "I7: {own} asks for votes it has not made durable: {hard:?} {message:?}"
                    ));
                }
                self.check_vote(node, message.life.incarnation, term, own);
            }
            Body::RequestVoteResponse(answer) if answer.vote_granted && !answer.ballot.pre_vote => {
                let voted = hard.current_term > term || hard.voted_for == Some(message.to);
                if !durable_term || !voted {
                    self.fail(format!("I7: {own} grants a vote that is not durable: {hard:?} {message:?}"));
                }
                self.check_vote(node, message.life.incarnation, term, message.to);
            }
            Body::AppendEntries(_) if !durable_term || self.leader_of(term) != Some(node) => {
                self.fail(format!("I7: {own} appends in term {term} which it did not win durably"));
            }
            Body::AppendEntriesResponse(answer) => {
                let held = match answer.result {
                    AppendResult::Accepted { match_index } => disk.last().index >= match_index,
                    AppendResult::Conflict { .. } => true,
                };
                if !durable_term || (hard.current_term == term && !held) {
                    self.fail(format!("I7: {own} acknowledges what is not durable: {hard:?} {message:?}"));
                }
            }
            _ => {}
        }
    }

    /// One vote per term, over all lives of a data directory: judged by what left the node.
    fn check_vote(&mut self, node: usize, incarnation: u64, term: Term, candidate: NodeId) {
        let known = *self.votes.entry((incarnation, term)).or_insert(candidate);
        if known != candidate {
            self.fail(format!("node {} votes for {known} and for {candidate} in term {term}", node + 1));
        }
    }

    /// The state machine at `applied` has this digest: equal at equal positions, everywhere.
    pub fn on_digest(&mut self, node: usize, applied: LogIndex, digest: u64) {
        let known = *self.digests.entry(applied).or_insert(digest);
        if known != digest {
            self.fail(format!("I4: the state machine of node {} differs at {applied}", node + 1));
        }
    }

    /// I9, lease disjointness. After each step of a node: the token it may stamp, and until when in
    /// true time. A new leader of a higher term counts as the end of every older lease, because
    /// that is what the lease promises: nobody else was elected.
    pub fn on_token(&mut self, node: usize, now: True, token: Option<(Term, True)>, role: RoleKind) {
        self.nodes[node].token = token;
        if token.is_none() && role != RoleKind::Leader {
            return;
        }
        let term = self.nodes[node].term;
        for other in 0..self.nodes.len() {
            let Some((theirs, until)) = self.nodes[other].token else { continue };
            if other == node || until <= now {
                continue;
            }
            if (token.is_some() || theirs < term) && !self.leases_hold {
                // What only a broken promise of the clocks can bring about.
                self.overlaps += 1;
            } else if token.is_some() || theirs < term {
                let left = (until - now) / 1_000;
                self.fail(format!(
                    "I9: node {} leads in term {term} while node {} may stamp {theirs} for {left} us more",
                    node + 1,
                    other + 1,
                ));
            }
        }
    }
}
