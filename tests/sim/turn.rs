//! One turn of a node's loop, in the order of the real one: look for a gap in time and at the disk,
//! feed inputs, drain them, then publish, persist, send and answer.

use termgate::driver::cycle::{Answered, Output, SnapshotDone};
use termgate::ids::{Term, Ticket};
use termgate::raft::effect::{Cause, DropReason, Event as CoreEvent, Input, RoleKind};
use termgate::raft::entry::Persist;
use termgate::raft::message::{Body, Message, VoteRefusal};
use termgate::registry::command::Op;
use termgate::transport::codec::{self, CodecError};

use crate::clients::Waiter;
use crate::clock::MS;
use crate::limits::check_uncommitted;
use crate::net::{Cargo, Way};
use crate::process::SimNode;
use crate::stats::{Class, Stat};
use crate::trace::describe;
use crate::world::{Event, World};

/// What a frame begins with: the length of the rest.
const LENGTH_BYTES: usize = 4;

/// What one turn of the loop takes in.
#[derive(Debug)]
pub enum Turn {
    /// An input of the core.
    Input(Input),
    /// A command, and the term in which it was decided.
    Propose(Term, Op, Ticket),
    /// What the keeper of snapshots has done.
    Snapshot(SnapshotDone),
}

impl From<Input> for Turn {
    fn from(input: Input) -> Self {
        Self::Input(input)
    }
}

impl World {
    /// Starts an fsync of what is queued, unless one is under way.
    pub(crate) fn start_fsync(&mut self, node: usize) {
        let Some(fsync) = self.nodes[node].disk.start_fsync() else { return };
        let p = &self.disk_params;
        let mut takes = self.chances.disk.range(p.fsync_min, p.fsync_max);
        let state = &mut self.nodes[node].disk_state;
        takes += state.extra;
        if self.chances.disk.chance(p.stall_ppm) {
            takes += self.chances.disk.range(10 * MS, p.stall_max);
            state.class.get_or_insert(Class::FsyncStall);
            self.stats.fired(Class::FsyncStall);
            self.trace.line(self.now, Some(node), || format!("fsync will take {} ms", takes / MS));
        }
        let boot = self.nodes[node].disk.life().boot;
        self.schedule(takes, Event::Fsynced { node, boot, fsync });
    }

    /// One turn of the loop with one input.
    pub fn turn(&mut self, node: usize, input: impl Into<Turn>) {
        let it = &mut self.nodes[node];
        let now = it.clock.at(self.now);
        let Some(process) = &mut it.process else { return };
        let late = now.since(process.wake);
        process.wake = now;
        let limit = it.config.election_timeout_max / 2;
        let oldest = process.queued.front().map(|(_, since)| *since);
        let stalled = oldest.is_some_and(|since| now.since(since) >= limit);
        let told = std::mem::replace(&mut process.stalled, stalled);
        if self.params.notice_gaps && late > it.config.heartbeat_interval {
            self.stats.add(Stat::ClockSuspects);
            self.feed(node, Turn::Input(Input::ClockSuspect));
        }
        if stalled != told {
            if let Some(class) = self.nodes[node].disk_state.class.filter(|_| stalled) {
                self.stats.mattered(class, class != Class::FullDisk);
            }
            self.feed(node, Turn::Input(Input::DiskStalled(stalled)));
        }
        self.feed(node, input.into());
        self.end_turn(node);
    }

    /// Drains at once, or leaves the turn open for a moment, so that further inputs join it and
    /// share its writes and messages.
    fn end_turn(&mut self, node: usize) {
        let Some(process) = &mut self.nodes[node].process else { return };
        if process.is_open {
            return;
        }
        if self.resuming || self.chances.node.chance(self.params.batch_ppm) {
            process.is_open = true;
            let boot = self.nodes[node].disk.life().boot;
            let busy = if self.resuming { 0 } else { self.chances.node.log_range(1_000, MS) };
            return self.schedule(busy, Event::Drain { node, boot });
        }
        self.drain(node);
    }

    pub(crate) fn on_drain(&mut self, node: usize, boot: u64) {
        if self.running(node, boot).is_some() {
            self.stats.add(Stat::Batches);
            self.limits.in_batch = true;
            self.drain(node);
            self.limits.in_batch = false;
        }
    }

    /// Carries out what follows from the inputs fed so far.
    pub(crate) fn drain(&mut self, node: usize) {
        let it = &mut self.nodes[node];
        let now = it.clock.at(self.now);
        let limit = it.config.election_timeout_max / 2;
        let Some(process) = &mut it.process else { return };
        process.is_open = false;
        let output = process.cycle.drain(now);
        self.obey(node, output);
        self.set_wake(node, limit);
    }

    fn set_wake(&mut self, node: usize, stall_limit: std::time::Duration) {
        let it = &mut self.nodes[node];
        let now = it.clock.at(self.now);
        let Some(process) = &mut it.process else { return };
        let mut wake = process.cycle.deadline(now);
        if let Some((_, since)) = process.queued.front()
            && !process.stalled
        {
            wake = wake.min(*since + stall_limit);
        }
        process.wake = wake;
        self.arm(node);
    }

    /// Sets the timer, unless it goes off before it is needed anyway.
    pub fn arm(&mut self, node: usize) {
        let it = &mut self.nodes[node];
        let boot = it.disk.life().boot;
        let Some(process) = &mut it.process else { return };
        let due = it.clock.when(process.wake).max(self.now);
        if process.armed.is_some_and(|at| at <= due) {
            return;
        }
        let late = if self.chances.node.chance(5_000) { 5 * MS } else { MS / 20 };
        let at = due.saturating_add(self.chances.node.range(1_000, late));
        process.armed = Some(at);
        self.schedule(at - self.now, Event::Wake { node, boot, at });
    }

    fn feed(&mut self, node: usize, turn: Turn) {
        self.trace.line(self.now, Some(node), || turn_name(&turn));
        let it = &mut self.nodes[node];
        let now = it.clock.at(self.now);
        let Some(process) = &mut it.process else { return };
        if let Turn::Input(Input::Receive(message)) = &turn {
            self.tla.got(node, message);
        }
        self.stats.add(Stat::Steps);
        match turn {
            Turn::Input(input) => process.cycle.feed(now, input),
            Turn::Propose(decided_in, op, ticket) => process.cycle.propose(now, decided_in, op, ticket),
            Turn::Snapshot(done) => process.cycle.snapshot_done(now, done),
        }
    }

    /// Carries one output out, and shows it to everybody who watches.
    pub fn obey(&mut self, node: usize, output: Output) {
        for write in &output.persist {
            self.checker.on_persist(node, write);
        }
        for event in &output.events {
            if let CoreEvent::RoleChanged { role: RoleKind::Leader, term, .. } = event {
                self.checker.on_elected(node, *term, self.now);
            }
        }
        if let Some(process) = self.nodes[node].process.as_ref().filter(|_| self.tla.is_wanted()) {
            let now = self.nodes[node].clock.at(self.now);
            self.tla.step(node, now, &output.persist, &output.send, &process.cycle.view());
        }
        self.publish(node, !output.persist.is_empty());
        self.persist(node, output.persist);
        for work in output.snapshots {
            self.keep_snapshot(node, work);
        }
        let (sent, queued) = (output.send.len(), self.nodes[node].disk.is_busy());
        for message in output.send {
            self.send(node, message);
        }
        for (ticket, answered) in output.answers {
            self.answer(node, ticket, answered);
        }
        for event in &output.events {
            self.count(node, event);
        }
        self.judge(check_uncommitted(self.checker.led_entries(node), &self.nodes[node].config));
        self.crash_at_a_bad_time(node, sent > 0, queued);
    }

    fn publish(&mut self, node: usize, wrote: bool) {
        let Some(process) = &self.nodes[node].process else { return };
        let shown = process.cycle.leadership();
        // The rest of the view changes with what is written, and is not cheap.
        let last_log = wrote.then(|| process.cycle.view().last_log);
        if process.stalled && shown.role == RoleKind::Leader {
            self.checker.fail(format!("L9: node {} leads with a disk that has stalled", node + 1));
        }
        self.checker.on_shown(node, self.now, &shown, last_log, &self.nodes);
        let patience = self.nodes[node].longest_without_quorum(self.params.real_drift_ppm);
        self.checker.check_replaced(node, self.now, self.nodes[node].ran_since, patience);
        for entry in self.checker.take_fresh() {
            self.on_committed(&entry);
            let verdict = self.oracle.commit(&entry);
            self.judge(verdict);
        }
        let last = last_log.map_or(0, |last| last.index.0);
        let shape = (shown.term.0 << 40) ^ (shown.commit_index.0 << 20) ^ last;
        self.fold(self.now ^ ((node as u64) << 60));
        self.fold(shape ^ ((shown.role as u64) << 56));
        let Some(process) = &mut self.nodes[node].process else { return };
        let applied = shown.last_applied;
        process.leadership = shown;
        if applied > process.digested {
            process.digested = applied;
            let digest = process.machine.read().expect("nobody panics while applying").digest();
            self.checker.on_digest(node, applied, digest);
        }
        self.show_token(node);
        self.tend_gate(node);
    }

    /// Tells the checker which token this node may stamp, and until when.
    pub fn show_token(&mut self, node: usize) {
        let it = &self.nodes[node];
        let Some(process) = &it.process else { return };
        let leadership = &process.leadership;
        let token = it.token_at(self.now).zip(leadership.lease_until.map(|until| it.clock.when(until)));
        self.checker.on_token(node, self.now, token, leadership.role);
    }

    fn persist(&mut self, node: usize, writes: Vec<Persist>) {
        let it = &mut self.nodes[node];
        let now = it.clock.at(self.now);
        let Some(process) = &mut it.process else { return };
        for write in writes {
            self.trace.line(self.now, Some(node), || {
                let entries: Vec<_> = write.append.iter().map(|e| e.id.to_string()).collect();
                format!(
                    "   write {}: {:?} compact {:?} cut {:?} add {entries:?}",
                    write.io, write.hard_state, write.compact, write.truncate_from
                )
            });
            process.queued.push_back((write.io, now));
            it.disk.push(write);
        }
        self.start_fsync(node);
    }

    fn send(&mut self, node: usize, message: Message) {
        self.checker.on_send(node, &message, &self.nodes[node].disk);
        let verdict = self.limits.on_send(&message, &self.nodes[node].config);
        self.judge(verdict);
        let to = message.to.0 as usize - 1;
        let message = if self.params.encode { self.through_the_wire(message) } else { message };
        self.stats.add(Stat::MessagesSent);
        if self.nodes[node].version != self.nodes[to].version {
            return self.refuse_version(message);
        }
        let cargo = Cargo {
            entries: matches!(&message.body, Body::AppendEntries(append) if !append.entries.is_empty()),
            vote: matches!(&message.body, Body::RequestVote(_) | Body::RequestVoteResponse(_)),
        };
        let [first, second] = self.net.route(Way { from: node, to, now: self.now }, cargo, &mut self.stats);
        let sent = self.now;
        if let Some(delay) = second {
            self.schedule(delay, Event::Deliver { message: Box::new(message.clone()), sent });
        }
        if let Some(delay) = first {
            self.schedule(delay, Event::Deliver { message: Box::new(message), sent });
        }
    }

    /// A frame of another version is refused as such, whatever else is in it (W-9).
    fn refuse_version(&mut self, message: Message) {
        let mut frame = codec::encode(&message).expect("every message has a frame").to_vec();
        frame[LENGTH_BYTES] = codec::VERSION + 1;
        let refused = codec::decode(&frame[LENGTH_BYTES..]);
        if refused != Err(CodecError::Version(codec::VERSION + 1)) {
            self.checker.fail(format!("a frame of another version is taken for {refused:?}"));
        }
        self.stats.mattered(Class::WireVersion, true);
    }

    fn through_the_wire(&mut self, message: Message) -> Message {
        let decoded = codec::encode(&message).and_then(|frame| codec::decode(&frame[LENGTH_BYTES..]));
        if decoded.as_ref() != Ok(&message) {
            self.checker.fail(format!("a message does not survive its encoding: {message:?}"));
        }
        decoded.unwrap_or(message)
    }

    fn answer(&mut self, node: usize, ticket: Ticket, answered: Answered) {
        let Some(process) = &mut self.nodes[node].process else { return };
        match process.waiters.remove(&ticket) {
            Some(waiter) => self.on_answer(node, waiter, answered),
            None => {
                self.checker.fail(format!("node {} answers ticket {ticket} twice: {answered:?}", node + 1))
            }
        }
    }

    /// Registers a caller, as the loop's own table does it.
    pub fn register(&mut self, node: usize, waiter: Waiter) -> Option<Ticket> {
        let process = self.nodes[node].process.as_mut()?;
        process.last_ticket = process.last_ticket.next();
        process.waiters.insert(process.last_ticket, waiter);
        Some(process.last_ticket)
    }

    fn count(&mut self, node: usize, event: &CoreEvent) {
        self.trace.line(self.now, Some(node), || format!("   {event:?}"));
        let stat = match event {
            CoreEvent::RoleChanged { role: RoleKind::Leader, .. } => {
                let timers = |n: &SimNode| (n.config.election_timeout_min, n.config.election_timeout_max);
                let own = timers(&self.nodes[node]);
                self.stats.mattered(Class::Retime, self.nodes.iter().any(|n| timers(n) != own));
                Stat::Leaders
            }
            CoreEvent::RoleChanged { cause: Cause::QuorumLost, .. } => Stat::QuorumLost,
            CoreEvent::RoleChanged { cause: Cause::DiskStalled, .. } => Stat::StepDownsDisk,
            CoreEvent::VoteRefused { refusal: VoteRefusal::Promised, .. } => Stat::VotesRefusedPromise,
            CoreEvent::VoteRefused { refusal: VoteRefusal::LogBehind, .. } => Stat::VotesRefusedLog,
            CoreEvent::Dropped { reason, .. } => {
                let outsider = matches!(reason, DropReason::NotAMember | DropReason::NotAdded);
                let strange = outsider && self.params.operator_gap == 0;
                if strange || is_a_mistake(*reason) {
                    self.checker.fail(format!("node {} drops an honest message: {event:?}", node + 1));
                }
                Stat::MessagesStale
            }
            CoreEvent::Disowned { by } => {
                if !self.nodes[node].was_wiped {
                    self.checker.fail(format!("node {by} disowns node {}; no disk was replaced", node + 1));
                }
                return self.end_as_a_stranger(node);
            }
            CoreEvent::Removed { at } => return self.end_as_removed(node, *at),
            CoreEvent::LostData { claimed } => {
                self.checker.fail(format!("node {} says it lost {claimed}; no disk lost anything", node + 1));
                return;
            }
            _ => return,
        };
        self.stats.add(stat);
    }

    fn crash_at_a_bad_time(&mut self, node: usize, sent: bool, queued: bool) {
        if self.calm {
            return;
        }
        let after_send = self.params.faults.crash_after_send_ppm;
        let in_fsync = self.params.faults.crash_in_fsync_ppm;
        if sent && self.chances.nemesis.chance(after_send) {
            self.crash_and_restart(node, Class::CrashAfterSend);
        } else if queued && self.chances.nemesis.chance(in_fsync) {
            self.crash_and_restart(node, Class::CrashInFsync);
        }
    }
}

fn turn_name(turn: &Turn) -> String {
    match turn {
        Turn::Input(Input::Receive(message)) => format!("<- {}", describe(message)),
        Turn::Input(other) => format!("{other:?}"),
        Turn::Propose(decided_in, op, ticket) => {
            format!("propose {op:?}, decided in {decided_in}, ticket {ticket}")
        }
        Turn::Snapshot(SnapshotDone::Report(input)) => format!("keeper: {input:?}"),
        Turn::Snapshot(SnapshotDone::Taken(snapshot)) => format!("keeper: took {}", snapshot.id.last),
        Turn::Snapshot(SnapshotDone::Fetched { id, .. }) => format!("keeper: fetched {}", id.last),
    }
}

/// Whether no honest node gives reason for it.
const fn is_a_mistake(reason: DropReason) -> bool {
    matches!(reason, DropReason::Malformed | DropReason::Misaddressed | DropReason::TermOutOfReach)
}
