//! A node: what survives a crash, and the process that runs the driver's own `Cycle` over it. Here
//! it starts, crashes, is stopped, goes on, and hears of what arrives; `turn` is what it then does.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, RwLock};

use termgate::driver::cycle::Cycle;
use termgate::fencing::leadership::Leadership;
use termgate::ids::{IoSeq, Life, LogId, LogIndex, Term, Ticket};
use termgate::raft::config::Config;
use termgate::raft::effect::{Input, RoleKind};
use termgate::raft::entry::Durable;
use termgate::raft::message::Message;
use termgate::raft::{Boot, Node};
use termgate::registry::machine::Machine;
use termgate::time::{Duration, Instant};
use termgate::transport::codec::VERSION;

use crate::clients::Waiter;
use crate::clock::{Clock, MS, True};
use crate::disk::Disk;
use crate::flash::{Crash, NoStart};
use crate::gate::Edge;
use crate::keeper::decode;
use crate::params::redraw_timers;
use crate::stats::{Class, Stat};
use crate::world::{Event, World};

/// One machine: what survives a crash, and perhaps a process.
#[derive(Debug)]
pub struct SimNode {
    /// Its position; its id is one more.
    pub index: usize,
    /// Its configuration.
    pub config: Config,
    /// Its clock.
    pub clock: Clock,
    /// Its disk.
    pub disk: Disk,
    /// The process, while one runs.
    pub process: Option<Process>,
    /// What arrived while the process was stopped.
    pub backlog: Vec<Event>,
    /// Counts pauses; the present one, while stopped.
    pub pause: u64,
    /// When the process began to run, or went on.
    pub ran_since: True,
    /// When the first process on its disk started.
    pub first_start: True,
    /// What its disk does wrong now.
    pub disk_state: DiskState,
    /// Whether its clock stands still.
    pub clock_stopped: bool,
    /// Which version of the messages its program speaks.
    pub version: u8,
    /// Steps of snapshots' installations at each of which it may crash.
    pub doomed_steps: u32,
    /// It got an empty disk and takes part again only when it is added with that.
    pub is_stranger: bool,
    /// Whether it ever got one.
    pub was_wiped: bool,
    /// Whether it was a member, or was to be one.
    pub was_member: bool,
    /// The disks that were taken away.
    pub former: Vec<Disk>,
    /// How its last process ended, until the next one has read the disk.
    pub crashed: Crash,
    /// Whether its last start was cut short.
    pub cut_in_start: bool,
    /// Whether its disk was damaged, so that it may not come back.
    pub is_rotten: bool,
    /// Whether it can't come back.
    pub is_lost: bool,
    /// Whether a snapshot it fetched was damaged, and none was whole since.
    pub was_damaged: bool,
    paused: bool,
}

/// What a disk does wrong.
#[derive(Debug, Default, Clone)]
pub struct DiskState {
    /// Which fault this is.
    pub fault: u64,
    /// Of which class.
    pub class: Option<Class>,
    /// What each fsync takes longer.
    pub extra: True,
    /// Until when no fsync ends.
    pub hangs_until: True,
    /// Until when nothing more fits.
    pub full_until: True,
}

/// A running process.
#[derive(Debug)]
pub struct Process {
    /// The heart.
    pub cycle: Cycle,
    /// The applied state.
    pub machine: Arc<RwLock<Machine>>,
    /// What was last published.
    pub leadership: Leadership,
    /// The gate towards the fenced resource, and what is under way there.
    pub edge: Option<Box<Edge>>,
    /// Who waits for an answer.
    pub waiters: BTreeMap<Ticket, Waiter>,
    /// The last ticket given out.
    pub last_ticket: Ticket,
    /// When each queued write was queued, on this node's clock.
    pub queued: VecDeque<(IoSeq, Instant)>,
    /// What the core was last told of its disk.
    pub stalled: bool,
    /// When the loop wanted to wake at the latest.
    pub wake: Instant,
    /// When the timer goes off; it is not set anew for a later wake.
    pub armed: Option<True>,
    /// Inputs were fed that are not drained yet.
    pub is_open: bool,
    /// The last position whose state was compared.
    pub digested: LogIndex,
    /// Until when the keeper of snapshots has work.
    pub keeper_busy: True,
}

impl SimNode {
    /// A machine that was never started.
    pub fn new(index: usize, config: Config, clock: Clock, disk: Disk) -> Self {
        Self {
            index,
            config,
            clock,
            disk,
            process: None,
            backlog: Vec::new(),
            pause: 0,
            ran_since: 0,
            first_start: 0,
            disk_state: DiskState::default(),
            clock_stopped: false,
            version: VERSION,
            doomed_steps: 0,
            is_stranger: false,
            was_wiped: false,
            was_member: false,
            former: Vec::new(),
            crashed: Crash::Idle,
            cut_in_start: false,
            is_rotten: false,
            is_lost: false,
            was_damaged: false,
            paused: false,
        }
    }

    /// Whether the process is stopped and will go on.
    pub const fn is_paused(&self) -> bool {
        self.paused
    }

    /// Whether a process is there and not stopped.
    pub const fn is_running(&self) -> bool {
        self.process.is_some() && !self.paused
    }

    /// Whether it led after its last turn.
    pub fn is_leader(&self) -> bool {
        self.process.as_ref().is_some_and(|p| p.leadership.role == RoleKind::Leader)
    }

    /// Its term after its last turn.
    pub fn term(&self) -> Term {
        self.process.as_ref().map_or(Term::ZERO, |p| p.leadership.term)
    }

    /// How long a leader here may go without a quorum, in true time: an election timeout on a slow
    /// clock, and what a loop may be late.
    pub fn longest_without_quorum(&self, drift_ppm: i32) -> True {
        let timeout = self.config.election_timeout_max.as_nanos() as u64;
        timeout * 1_000_000 / (1_000_000 - drift_ppm as u64) + 10 * MS
    }

    /// Whether it holds an entry durably, or did when its disk was taken away: from then on it has no vote
    /// under that name, so that nobody can be elected who would not have had to ask it.
    pub fn holds(&self, id: LogId) -> bool {
        self.disk.holds(id) || self.former.iter().any(|disk| disk.holds(id))
    }

    /// The token that the edges of this node may stamp at true time `now`.
    pub fn token_at(&self, now: True) -> Option<Term> {
        self.process.as_ref()?.leadership.token_at(self.clock.at(now))
    }
}

impl World {
    /// Starts a process from what the disk holds.
    pub fn start(&mut self, node: usize) {
        let it = &self.nodes[node];
        if it.process.is_some() || it.is_lost || self.has_no_room_to_start(node) {
            return;
        }
        let seed = self.chances.node.draw();
        self.change_the_program(node);
        let Some((life, durable, promised)) = self.boot(node) else { return };
        let it = &mut self.nodes[node];
        let now = it.clock.at(self.now);
        let machine = it.disk.content().map_or_else(|| Machine::new(Vec::new()), decode);
        let machine = Arc::new(RwLock::new(machine));
        let core = Node::new(it.config.clone(), Boot { durable, life, promised }, seed, now);
        it.process = Some(Process {
            cycle: Cycle::new(core, Arc::clone(&machine)).applying(self.params.apply_slice),
            machine,
            leadership: Leadership::unknown(it.config.id),
            edge: self.params.fenced.as_ref().map(|fenced| Edge::new(fenced, &it.config)),
            waiters: BTreeMap::new(),
            last_ticket: Ticket::ZERO,
            queued: VecDeque::new(),
            stalled: false,
            wake: now,
            armed: None,
            is_open: false,
            digested: LogIndex::ZERO,
            keeper_busy: self.now,
        });
        it.ran_since = self.now;
        it.first_start = it.first_start.min(self.now);
        self.checker.on_boot(node, &it.disk);
        self.tla.start(node, now, &it.disk);
        self.trace
            .line(self.now, Some(node), || format!("starts, life {}, log {}", life.boot, it.disk.last()));
        self.turn(node, Input::Timeout);
    }

    /// Reads what the disk holds, and makes the new life durable; `None` when nothing comes of it.
    fn boot(&mut self, node: usize) -> Option<(Life, Durable, Duration)> {
        let checker = &mut self.checker;
        let it = &mut self.nodes[node];
        let mut late = 0;
        let booted = it.disk.boot(&it.config, &mut self.chances.disk, |write| {
            late += 1;
            checker.on_durable(node, write);
        });
        self.stats.add_many(Stat::WritesKept, late);
        let in_commit = std::mem::replace(&mut self.nodes[node].crashed, Crash::Idle);
        self.stats.mattered(Class::CutInCommit, late > 0 && in_commit == Crash::CutInCommit);
        self.stats.mattered(Class::KilledInCommit, late > 0 && in_commit == Crash::KilledInCommit);
        let cut_before = std::mem::take(&mut self.nodes[node].cut_in_start);
        let no_start = match booted {
            Ok(boot) => return Some(boot),
            Err(no_start) => no_start,
        };
        self.trace.line(self.now, Some(node), || format!("DOES NOT START: {no_start:?}"));
        match no_start {
            NoStart::Wrong(text) => self.checker.fail(format!("node {}: {text}", node + 1)),
            NoStart::Damaged => {
                self.nodes[node].is_lost = true;
                self.stats.mattered(Class::Rot, true);
                self.replace_if_lost(node);
            }
            NoStart::PowerCut | NoStart::Full => {
                let cut = matches!(no_start, NoStart::PowerCut);
                if cut {
                    self.stats.fired(Class::CutInStart);
                }
                self.stats.mattered(Class::CutInStart, cut && cut_before);
                self.stats.mattered(Class::FullDisk, !cut);
                self.nodes[node].cut_in_start = cut;
                self.nodes[node].crashed = in_commit;
                let again = self.chances.disk.log_range(MS / 5, 100 * MS);
                self.schedule(again, Event::Restart { node });
            }
        }
        None
    }

    /// A start writes too; on a full disk it is tried again later. The real store finds out by itself.
    fn has_no_room_to_start(&mut self, node: usize) -> bool {
        let full = self.nodes[node].disk_state.full_until > self.now;
        if let Some(flash) = self.nodes[node].disk.flash() {
            flash.fill(full);
            return false;
        }
        if full {
            self.stats.mattered(Class::FullDisk, true);
            let again = self.chances.disk.log_range(10 * MS, self.election());
            self.schedule(again, Event::Restart { node });
        }
        full
    }

    /// A node that comes back may do so with other timers, or speaking another version.
    fn change_the_program(&mut self, node: usize) {
        if self.nodes[node].disk.life().boot == 0 || self.calm {
            return;
        }
        if self.params.retimes && self.chances.node.coin() {
            redraw_timers(&mut self.nodes[node].config, &mut self.chances.node);
            self.stats.fired(Class::Retime);
        }
        if self.params.upgrades && self.chances.node.coin() {
            let it = &mut self.nodes[node];
            it.version = if it.version == VERSION { VERSION + 1 } else { VERSION };
            self.stats.fired(Class::WireVersion);
        }
    }

    /// Ends the process and loses what was not durable: so many writes.
    pub fn crash(&mut self, node: usize) -> usize {
        let Some(process) = self.nodes[node].process.take() else { return 0 };
        self.nodes[node].paused = false;
        self.run_clock_again(node);
        for event in std::mem::take(&mut self.nodes[node].backlog) {
            self.never_noticed(event);
        }
        let checker = &mut self.checker;
        let (kept, lost, how) =
            self.nodes[node].disk.crash(&mut self.chances.disk, |w| checker.on_durable(node, w));
        self.count_crash(node, how);
        self.count_interrupted(node, &process.leadership);
        self.checker.on_crash(node);
        self.tla.durable("crash", node, &self.nodes[node].disk);
        self.trace.line(self.now, Some(node), || format!("CRASH, {kept} queued writes kept, {lost} lost"));
        self.stats.add_many(Stat::WritesLost, lost as u64);
        self.stats.add_many(Stat::WritesTorn, u64::from(kept > 0 && lost > 0));
        for waiter in process.waiters.into_values() {
            self.abandon(waiter);
        }
        if let Some(edge) = process.edge {
            self.close_edge(*edge);
        }
        lost
    }

    fn count_crash(&mut self, node: usize, how: Crash) {
        match how {
            Crash::Idle => {}
            Crash::CutInCommit => self.stats.fired(Class::CutInCommit),
            Crash::KilledInCommit => self.stats.fired(Class::KilledInCommit),
        }
        self.nodes[node].crashed = how;
        let rot = self.params.store.as_ref().map_or(0, |store| store.rot_ppm);
        let spare = self.can_spare(node);
        if spare && !self.calm && !self.nodes[node].is_rotten && self.chances.disk.chance(rot) {
            self.nodes[node].is_rotten = true;
            self.stats.fired(Class::Rot);
            if let Some(flash) = self.nodes[node].disk.flash() {
                flash.rot(&mut self.chances.disk);
            }
        }
    }

    fn run_clock_again(&mut self, node: usize) {
        if std::mem::take(&mut self.nodes[node].clock_stopped) {
            self.draw_rate(node);
        }
    }

    /// Stops the process for a while (`SIGSTOP`, or the whole machine is suspended).
    pub fn pause(&mut self, node: usize, duration: True) {
        if !self.nodes[node].is_running() {
            return;
        }
        let lease = self.nodes[node].process.as_ref().and_then(|p| p.leadership.lease_until);
        let outlives = lease.is_some_and(|until| self.nodes[node].clock.at(self.now + duration) > until);
        self.stats.fired(Class::Pause);
        self.stats.mattered(Class::Pause, outlives);
        self.trace.line(self.now, Some(node), || format!("stopped for {} ms", duration / MS));
        let it = &mut self.nodes[node];
        it.paused = true;
        it.pause += 1;
        let pause = it.pause;
        self.schedule(duration, Event::Resume { node, pause });
    }

    pub(crate) fn on_resume(&mut self, node: usize, pause: u64) {
        if self.nodes[node].pause != pause || !self.nodes[node].paused {
            return;
        }
        self.nodes[node].paused = false;
        self.nodes[node].ran_since = self.now;
        self.trace.line(self.now, Some(node), || "goes on".to_owned());
        let stood_still = self.nodes[node].clock_stopped;
        self.run_clock_again(node);
        let outlived = stood_still && self.nodes[node].token_at(self.now).is_some();
        self.stats.mattered(Class::Suspend, outlived);
        self.resuming = true;
        for event in std::mem::take(&mut self.nodes[node].backlog) {
            self.happen(event);
        }
        self.resuming = false;
    }

    /// The process of `node`, if it is still the one of that start.
    pub fn running(&mut self, node: usize, boot: u64) -> Option<&mut Process> {
        let it = &mut self.nodes[node];
        if it.disk.life().boot == boot { it.process.as_mut() } else { None }
    }

    pub(crate) fn on_wake(&mut self, node: usize, boot: u64, at: True) {
        let local = self.nodes[node].clock.at(self.now);
        let Some(process) = self.running(node, boot).filter(|p| p.armed == Some(at)) else { return };
        process.armed = None;
        if local < process.wake {
            return self.arm(node);
        }
        self.turn(node, Input::Timeout);
    }

    /// A message reaches a later life of its receiver here, which no connection lets happen; but what went to
    /// another directory of that name reaches nobody.
    pub(crate) fn on_deliver(&mut self, message: Message, sent: True) {
        let (from, to) = (message.from.0 as usize - 1, message.to.0 as usize - 1);
        if sent < self.nodes[to].first_start {
            return self.stats.add(Stat::MessagesToFormer);
        }
        if self.nodes[to].process.is_some() && self.net.arrives(from, to, &mut self.stats) {
            self.limits.on_deliver(&message);
            self.turn(to, Input::Receive(message));
        }
    }

    pub(crate) fn on_fsynced(&mut self, node: usize, boot: u64, fsync: u64) {
        if self.running(node, boot).is_none() || self.nodes[node].disk.fsync_under_way() != Some(fsync) {
            return;
        }
        let state = &self.nodes[node].disk_state;
        if state.hangs_until > self.now {
            let wait = state.hangs_until - self.now;
            return self.schedule(wait, Event::Fsynced { node, boot, fsync });
        }
        let full = state.full_until > self.now;
        let fails = !full && self.chances.disk.chance(self.disk_params.error_ppm);
        if self.nodes[node].disk.commit(fails, full, &mut self.chances.disk).is_err() {
            let class = if full { Class::FullDisk } else { Class::FsyncError };
            return self.end_on_disk_error(node, class);
        }
        let checker = &mut self.checker;
        let done = self.nodes[node].disk.end_fsync(|write| checker.on_durable(node, write));
        self.tla.durable("flush", node, &self.nodes[node].disk);
        self.start_fsync(node);
        if let Some(io) = done {
            self.happen(Event::Persisted { node, boot, io });
        }
    }

    /// The first error of the disk is the last: the process ends.
    fn end_on_disk_error(&mut self, node: usize, class: Class) {
        self.trace.line(self.now, Some(node), || format!("{class:?} ends the process"));
        if class == Class::FsyncError {
            return self.crash_and_restart(node, class);
        }
        self.stats.mattered(class, true);
        let down = self.chances.disk.log_range(MS, 100 * MS);
        self.crash_for(node, down);
    }

    pub(crate) fn on_persisted(&mut self, node: usize, boot: u64, io: IoSeq) {
        let Some(process) = self.running(node, boot) else { return };
        while process.queued.front().is_some_and(|(queued, _)| *queued <= io) {
            process.queued.pop_front();
        }
        self.turn(node, Input::Persisted { io });
    }
}
