//! A cluster of cores on a wire, a disk and a clock that only move when the script says so.
//!
//! | command | what it does |
//! |---|---|
//! | `nodes 3` | starts nodes 1 to 3 for the first time |
//! | `elect 1` | node 1 campaigns and everything is delivered, without a trace |
//! | `timeout 1` | moves the clock to node 1's deadline, and tells it alone |
//! | `advance 50ms` | moves the clock, telling each node when its deadline passes; delivers nothing |
//! | `run 500ms` | the same, and delivers at once; prints only what happened, not each message |
//! | `deliver [1->2]` | delivers what is on the wire until it is quiet, or only of one link, once |
//! | `drop [1->2]`, `dup 1->2`, `reverse` | loses, doubles, or reorders what is on the wire |
//! | `stash 1->2`, `unstash` | takes messages off the wire, and puts them back much later |
//! | `partition 1 \| 2 3`, `heal` | nothing passes between the groups; what is sent is lost |
//! | `hold 1`, `persist 1` | the disk of node 1 waits; completes what waits, and goes on |
//! | `crash 2`, `restart 2 [500ms]` | loses all that is not on disk; starts again, with what it may have promised |
//! | `wipe 2`, `lose 2` | `restart` with a new data directory; with the old one, emptied |
//! | `single-entry-appends` | nodes started from now on send one entry at a time |
//! | `snapshot 1`, `keep 2` | node 1 writes its state down; from now on 2 entries are kept behind a snapshot |
//! | `snapshot-bytes 9` | nodes that start from now on find a snapshot due after so many bytes, and keep as many |
//! | `snapshot-entries 9` | nodes that start from now on find one due after so many entries |
//! | `forget 1` | node 1 no longer has the contents of its snapshots |
//! | `propose 1 x`, `read 1`, `transfer 1 [2]` | requests; tickets count from 1 |
//! | `join 4` | starts node 4, for the first time or with a new data directory, without any member |
//! | `member 1 add 4 remove 3` | asks node 1 for a change: `add 4 [incarnation]`, `promote`, `demote`, `remove` |
//! | `fill 1 500` | 500 proposals, without a trace |
//! | `stall 1`, `unstall 1`, `suspect 1` | the disk stalls; the clock is doubtful |
//! | `view [1]`, `log` | what nodes show; the logs side by side |

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write as _;

use bytes::Bytes;
use termgate::ids::{IoSeq, Life, LogId, LogIndex, NodeId, Ticket};
use termgate::raft::config::Config;
use termgate::raft::effect::{Change, Effect, Event, Input, Outcome, SnapshotEffect, SnapshotInput};
use termgate::raft::entry::{Durable, Entry, Membership, Payload, Persist, Snapshot, SnapshotId};
use termgate::raft::message::{AppendResult, Body, Message, SnapshotChunk};
use termgate::raft::view::View;
use termgate::raft::{Boot, Node};
use termgate::time::{Duration, Instant};

use crate::model::keep;

/// What earlier lives may have promised: the default minimum election timeout.
const PROMISED: Duration = Duration::from_millis(150);
/// Each life counts from another multiple of this on; a script shows the count within the life.
const PER_LIFE: u64 = 1 << 30;
/// Bytes of a piece of a snapshot, and of a whole one: three pieces, the last of them short.
const CHUNK: u32 = 100;
const CONTENT: u64 = 250;
/// More deliveries than any script needs; a script that needs more has found a storm.
const STORM: usize = 10_000;

#[derive(Default)]
pub struct Cluster {
    now: Instant,
    hosts: BTreeMap<u64, Host>,
    wire: VecDeque<Message>,
    stash: VecDeque<Message>,
    groups: Vec<BTreeSet<u64>>,
    tickets: u64,
    quiet: bool,
    single: bool,
    /// Entries that a snapshot keeps.
    keep: u64,
    /// Bytes after which one is due, if not as always.
    snapshot_bytes: Option<usize>,
    /// Entries after which one is due, if not as always.
    snapshot_entries: Option<u64>,
    out: String,
}

struct Host {
    node: Option<Node>,
    disk: Durable,
    incarnation: u64,
    boot: u64,
    queue: VecDeque<Persist>,
    waiting: Vec<(IoSeq, Message)>,
    done: IoSeq,
    hold: bool,
    /// The contents of its snapshots: only their sizes matter here.
    contents: BTreeMap<SnapshotId, u64>,
    /// Bytes of the one that is being fetched.
    arrived: u64,
}

type Done = Result<(), String>;

impl Cluster {
    pub fn command(&mut self, line: &str) -> Result<String, String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (name, rest) = words.split_first().ok_or("an empty command")?;
        match *name {
            "single-entry-appends" => self.single = true,
            "lose" => self.lose(number(rest, 0)?)?,
            "nodes" => self.nodes(number(rest, 0)?)?,
            "elect" => self.elect(number(rest, 0)?)?,
            "timeout" => self.timeout(number(rest, 0)?)?,
            "advance" => self.advance(millis(rest)?, false)?,
            "run" => self.run(millis(rest)?)?,
            "deliver" => self.deliver(link(rest)?)?,
            "drop" | "stash" => self.take_off(link(rest)?, *name == "stash"),
            "dup" => self.duplicate(link(rest)?),
            "reverse" => self.wire.make_contiguous().reverse(),
            "unstash" => self.wire.extend(std::mem::take(&mut self.stash)),
            "partition" => self.partition(rest)?,
            "heal" => self.groups.clear(),
            "hold" => self.host(number(rest, 0)?)?.hold = true,
            "persist" => self.persist(number(rest, 0)?)?,
            "crash" => self.crash(number(rest, 0)?)?,
            "restart" => {
                let promised = rest.get(1).map(|_| millis(&rest[1..])).transpose()?;
                self.restart(number(rest, 0)?, promised.unwrap_or(PROMISED))?;
            }
            "wipe" => self.wipe(number(rest, 0)?)?,
            "snapshot-bytes" => self.snapshot_bytes = Some(number(rest, 0)? as usize),
            "snapshot-entries" => self.snapshot_entries = Some(number(rest, 0)?),
            "keep" => self.keep = number(rest, 0)?,
            "snapshot" => self.snapshot(number(rest, 0)?)?,
            "forget" => self.host(number(rest, 0)?)?.contents.clear(),
            "propose" => self.propose(number(rest, 0)?, rest.get(1).copied().unwrap_or_default())?,
            "fill" => self.fill(number(rest, 0)?, number(rest, 1)?)?,
            "read" => self.request(number(rest, 0)?, |ticket| Input::Read { ticket })?,
            "transfer" => {
                let to = rest.get(1).map(|_| number(rest, 1)).transpose()?.map(NodeId);
                self.request(number(rest, 0)?, |ticket| Input::Transfer { ticket, to })?;
            }
            "member" => self.reconfigure(rest)?,
            "join" => self.join(number(rest, 0)?)?,
            "stall" => self.step(number(rest, 0)?, Input::DiskStalled(true))?,
            "unstall" => self.step(number(rest, 0)?, Input::DiskStalled(false))?,
            "suspect" => self.step(number(rest, 0)?, Input::ClockSuspect)?,
            "view" => self.views(rest)?,
            "log" => self.logs(),
            other => return Err(format!("no command {other}")),
        }
        Ok(std::mem::take(&mut self.out))
    }

    fn host(&mut self, id: u64) -> Result<&mut Host, String> {
        self.hosts.get_mut(&id).ok_or(format!("no node {id}"))
    }

    fn nodes(&mut self, count: u64) -> Done {
        // Every clock starts away from zero, as real ones do.
        self.now = Instant::from_millis(1000);
        let membership = Membership::of_voters((1..=count).map(NodeId));
        (1..=count).try_for_each(|id| self.begin(id, id, membership.clone()))
    }

    /// A node's first start with this data directory.
    fn begin(&mut self, id: u64, incarnation: u64, membership: Membership) -> Done {
        let host = Host {
            node: None,
            disk: Durable { membership, ..Durable::default() },
            incarnation,
            boot: 0,
            queue: VecDeque::new(),
            waiting: Vec::new(),
            done: IoSeq::ZERO,
            hold: false,
            contents: BTreeMap::new(),
            arrived: 0,
        };
        self.hosts.insert(id, host);
        self.start(id, Duration::ZERO)
    }

    /// Waits to be added. A node that was there before comes with another directory.
    fn join(&mut self, id: u64) -> Done {
        let incarnation = self.hosts.get(&id).map_or(id, |host| host.incarnation + 100);
        self.begin(id, incarnation, Membership::default())
    }

    fn reconfigure(&mut self, words: &[&str]) -> Done {
        let mut change = Change::default();
        let mut words_left = words.iter().skip(1).peekable();
        while let Some(verb) = words_left.next() {
            let node = NodeId(parse(words_left.next().ok_or("which node?")?)?);
            match *verb {
                "add" => {
                    let incarnation = words_left.next_if(|word| word.parse::<u64>().is_ok());
                    change.add.insert(node, incarnation.map(|word| parse(word)).transpose()?);
                }
                "promote" => drop(change.promote.insert(node)),
                "demote" => drop(change.demote.insert(node)),
                "remove" => drop(change.remove.insert(node)),
                other => return Err(format!("no change {other}")),
            }
        }
        self.request(number(words, 0)?, |ticket| Input::Reconfigure { ticket, change })
    }

    fn start(&mut self, id: u64, promised: Duration) -> Done {
        let (now, single, keep) = (self.now, self.single, self.keep);
        let (snapshot_bytes, snapshot_entries) = (self.snapshot_bytes, self.snapshot_entries);
        let host = self.host(id)?;
        host.boot += 1;
        host.done = IoSeq::ZERO;
        let life = Life { incarnation: host.incarnation, boot: host.boot };
        let boot = Boot { durable: host.disk.clone(), life, promised };
        let mut config = Config::new(NodeId(id));
        if single {
            config.max_append_bytes = 1;
        }
        config.snapshot_keep = keep;
        if let Some(bytes) = snapshot_bytes {
            (config.snapshot_bytes, config.snapshot_keep_bytes) = (bytes, bytes);
        }
        config.snapshot_entries = snapshot_entries.unwrap_or(config.snapshot_entries);
        config.chunk_bytes = CHUNK;
        config.max_inflight_chunks = 2;
        host.node = Some(Node::new(config, boot, id, now));
        Ok(())
    }

    fn step(&mut self, id: u64, input: Input) -> Done {
        let now = self.now;
        let host = self.host(id)?;
        let node = host.node.as_mut().ok_or(format!("node {id} is down"))?;
        node.step(now, input);
        self.drain(id)
    }

    /// Obeys the effects, in order, and then lets the disk work.
    fn drain(&mut self, id: u64) -> Done {
        loop {
            let Some(effect) = self.host(id)?.node.as_mut().and_then(Node::poll) else { break };
            let line = show_effect(&effect);
            let minor = matches!(
                effect,
                Effect::Persist(_) | Effect::Send { .. } | Effect::Apply(_) | Effect::Snapshot(_)
            );
            if !(self.quiet && minor) {
                writeln!(self.out, "{id} {line}").map_err(|e| e.to_string())?;
            }
            match effect {
                Effect::Persist(write) => self.host(id)?.queue.push_back(write),
                Effect::Send { message, after: None } => self.post(message),
                Effect::Send { message, after: Some(io) } => {
                    self.host(id)?.waiting.push((io, message));
                }
                Effect::Apply(entries) => {
                    let now = self.now;
                    if let (Some(last), Some(node)) = (entries.last(), self.host(id)?.node.as_mut()) {
                        node.step(now, Input::Applied { index: last.id.index });
                    }
                }
                Effect::Snapshot(effect) => self.keep_content(id, effect)?,
                Effect::Reply { .. } | Effect::Event(_) => {}
            }
        }
        if !self.host(id)?.hold && !self.host(id)?.queue.is_empty() {
            return self.complete(id);
        }
        Ok(())
    }

    /// A keeper of contents that is done at once.
    fn keep_content(&mut self, id: u64, effect: SnapshotEffect) -> Done {
        let now = self.now;
        let host = self.host(id)?;
        let input = match effect {
            SnapshotEffect::Begin(snapshot) => SnapshotInput::Begun { id: snapshot.id, have: host.arrived },
            SnapshotEffect::Store { id, offset, bytes } => {
                host.arrived = offset + bytes.len() as u64;
                SnapshotInput::Stored { id, have: host.arrived }
            }
            SnapshotEffect::Finish(id) => {
                host.contents.insert(id, std::mem::take(&mut host.arrived));
                SnapshotInput::Fetched(id)
            }
            SnapshotEffect::Serve { to, wanted } => {
                let size = host.contents.get(&wanted.id).copied().unwrap_or(0);
                let length = size.saturating_sub(wanted.offset).min(u64::from(wanted.length));
                let bytes = Bytes::from(vec![0; length as usize]);
                let checksum = crc32fast::hash(&bytes);
                let chunk = SnapshotChunk { id: wanted.id, offset: wanted.offset, checksum, bytes };
                SnapshotInput::Read { to, chunk }
            }
            SnapshotEffect::Restore(_) => return Ok(()),
        };
        if let Some(node) = &mut host.node {
            node.step(now, Input::Snapshot(input));
        }
        Ok(())
    }

    /// The node's state is written down.
    fn snapshot(&mut self, id: u64) -> Done {
        let host = self.host(id)?;
        let view = host.node.as_ref().ok_or(format!("node {id} is down"))?.view();
        let applied = host.disk.log.iter().find(|entry| entry.id.index == view.last_applied);
        let last = applied.ok_or(format!("node {id} has nothing new to write down"))?.id;
        let digest = [last.index.0 as u8; 32];
        let taken = Snapshot { id: SnapshotId { last, digest }, size: CONTENT, membership: view.membership };
        host.contents.insert(taken.id, CONTENT);
        self.step(id, Input::Snapshot(SnapshotInput::Taken(taken)))
    }

    /// Everything queued becomes durable, in order; then what waited for it leaves.
    fn complete(&mut self, id: u64) -> Done {
        let host = self.host(id)?;
        while let Some(write) = host.queue.pop_front() {
            keep(&mut host.disk, &write);
            host.done = write.io;
        }
        let done = host.done;
        let (leave, wait) = std::mem::take(&mut host.waiting).into_iter().partition(|(io, _)| *io <= done);
        host.waiting = wait;
        let leave: Vec<(IoSeq, Message)> = leave;
        leave.into_iter().for_each(|(_, message)| self.post(message));
        self.step(id, Input::Persisted { io: done })
    }

    fn post(&mut self, message: Message) {
        let together =
            |group: &BTreeSet<u64>| group.contains(&message.from.0) && group.contains(&message.to.0);
        if self.groups.is_empty() || self.groups.iter().any(together) {
            self.wire.push_back(message);
        }
    }

    fn timeout(&mut self, id: u64) -> Done {
        let deadline = self.host(id)?.node.as_ref().ok_or(format!("node {id} is down"))?.deadline();
        self.now = self.now.max(deadline);
        self.step(id, Input::Timeout)
    }

    fn elect(&mut self, id: u64) -> Done {
        self.quiet = true;
        let done = self.timeout(id).and_then(|()| self.deliver(None));
        self.quiet = false;
        self.out.clear();
        done
    }

    fn next_deadline(&self) -> Option<(Instant, u64)> {
        let alive = self.hosts.iter().filter_map(|(id, host)| Some((host.node.as_ref()?.deadline(), *id)));
        alive.min()
    }

    fn advance(&mut self, by: Duration, deliver: bool) -> Done {
        let end = self.now + by;
        for _ in 0..STORM {
            match self.next_deadline().filter(|(at, _)| *at <= end) {
                None => break,
                Some((at, id)) => {
                    self.now = self.now.max(at);
                    self.step(id, Input::Timeout)?;
                }
            }
            if deliver {
                self.deliver(None)?;
            }
        }
        self.now = end;
        Ok(())
    }

    fn run(&mut self, by: Duration) -> Done {
        self.quiet = true;
        let done = self.deliver(None).and_then(|()| self.advance(by, true));
        self.quiet = false;
        done
    }

    fn deliver(&mut self, only: Option<(u64, u64)>) -> Done {
        if let Some(link) = only {
            let (due, rest) = std::mem::take(&mut self.wire).into_iter().partition(|m| is_on(m, link));
            self.wire = rest;
            let due: VecDeque<Message> = due;
            return due.into_iter().try_for_each(|message| self.hand_in(message));
        }
        for _ in 0..STORM {
            let Some(message) = self.wire.pop_front() else { return Ok(()) };
            self.hand_in(message)?;
        }
        Err("the wire does not come to rest".to_owned())
    }

    fn hand_in(&mut self, message: Message) -> Done {
        let to = message.to.0;
        if self.host(to)?.node.is_none() {
            return Ok(());
        }
        if !self.quiet {
            writeln!(self.out, "{to} < {}", show_message(&message)).map_err(|e| e.to_string())?;
        }
        self.step(to, Input::Receive(message))
    }

    fn take_off(&mut self, only: Option<(u64, u64)>, keep: bool) {
        let taken = |m: &Message| only.is_none_or(|link| is_on(m, link));
        let (off, on) = std::mem::take(&mut self.wire).into_iter().partition(taken);
        let off: VecDeque<Message> = off;
        self.wire = on;
        if keep {
            self.stash.extend(off);
        }
    }

    fn duplicate(&mut self, only: Option<(u64, u64)>) {
        let again = |m: &&Message| only.is_none_or(|link| is_on(m, link));
        let copies: Vec<Message> = self.wire.iter().filter(again).cloned().collect();
        self.wire.extend(copies);
    }

    fn partition(&mut self, words: &[&str]) -> Done {
        let group = |words: &[&str]| words.iter().map(|word| parse(word)).collect();
        self.groups = words.split(|word| *word == "|").map(group).collect::<Result<_, _>>()?;
        let groups = self.groups.clone();
        self.wire.retain(|m| groups.iter().any(|g| g.contains(&m.from.0) && g.contains(&m.to.0)));
        Ok(())
    }

    fn persist(&mut self, id: u64) -> Done {
        self.host(id)?.hold = false;
        self.complete(id)
    }

    fn crash(&mut self, id: u64) -> Done {
        let host = self.host(id)?;
        (host.node, host.hold) = (None, false);
        host.queue.clear();
        host.waiting.clear();
        Ok(())
    }

    fn restart(&mut self, id: u64, promised: Duration) -> Done {
        self.crash(id)?;
        self.start(id, promised)
    }

    /// Another directory under the old name.
    fn wipe(&mut self, id: u64) -> Done {
        let host = self.host(id)?;
        (host.incarnation, host.boot) = (host.incarnation + 100, 0);
        self.lose(id)
    }

    /// The same directory, without what it held.
    fn lose(&mut self, id: u64) -> Done {
        self.crash(id)?;
        let host = self.host(id)?;
        let membership = host.disk.membership.clone();
        host.disk = Durable { membership, ..Durable::default() };
        self.start(id, PROMISED)
    }

    fn propose(&mut self, id: u64, text: &str) -> Done {
        let command = text.to_owned().into_bytes().into();
        self.request(id, |ticket| Input::Propose { ticket, command })
    }

    fn fill(&mut self, id: u64, count: u64) -> Done {
        (0..count).try_for_each(|_| self.propose(id, "x"))?;
        self.out.clear();
        Ok(())
    }

    fn request(&mut self, id: u64, input: impl FnOnce(Ticket) -> Input) -> Done {
        self.tickets += 1;
        let input = input(Ticket(self.tickets));
        self.step(id, input)
    }

    fn views(&mut self, words: &[&str]) -> Done {
        let one = words.first().map(|_| number(words, 0)).transpose()?;
        for (id, host) in self.hosts.iter().filter(|(id, _)| one.is_none_or(|one| one == **id)) {
            let shown =
                host.node.as_ref().map_or("down".to_owned(), |node| show_view(&node.view(), self.now));
            writeln!(self.out, "{id} {shown}").map_err(|e| e.to_string())?;
        }
        Ok(())
    }

    fn logs(&mut self) {
        for (id, host) in &self.hosts {
            let entries: Vec<String> = host.disk.log.iter().map(show_entry).collect();
            let _ = writeln!(self.out, "{id} {}", entries.join(" "));
        }
    }
}

fn is_on(message: &Message, (from, to): (u64, u64)) -> bool {
    (message.from.0, message.to.0) == (from, to)
}

fn parse(word: &str) -> Result<u64, String> {
    word.parse().map_err(|_| format!("{word} is no number"))
}

fn number(words: &[&str], at: usize) -> Result<u64, String> {
    parse(words.get(at).ok_or("a number is missing")?)
}

fn millis(words: &[&str]) -> Result<Duration, String> {
    let word = words.first().ok_or("a time is missing")?;
    Ok(Duration::from_millis(parse(word.trim_end_matches("ms"))?))
}

fn link(words: &[&str]) -> Result<Option<(u64, u64)>, String> {
    let Some(word) = words.first() else { return Ok(None) };
    let (from, to) = word.split_once("->").ok_or("a link is written 1->2")?;
    Ok(Some((parse(from)?, parse(to)?)))
}

fn show_entry(entry: &Entry) -> String {
    match &entry.payload {
        Payload::NoOp { leader } => format!("{}:noop({leader})", entry.id),
        Payload::Membership(membership) => format!("{}:{}", entry.id, show_membership(membership)),
        Payload::Command(bytes) => format!("{}:{}", entry.id, String::from_utf8_lossy(bytes)),
    }
}

/// The voters, who they were, and who only listens.
fn show_membership(membership: &Membership) -> String {
    let ids = |set: &BTreeSet<NodeId>| {
        let ids: Vec<String> = set.iter().map(|id| id.0.to_string()).collect();
        ids.join(",")
    };
    let old = membership.voters_old.as_ref().map_or_else(String::new, |old| format!(" old {{{}}}", ids(old)));
    let learners = &membership.learners;
    let learners =
        if learners.is_empty() { String::new() } else { format!(" learners {{{}}}", ids(learners)) };
    format!("members {{{}}}{old}{learners}", ids(&membership.voters))
}

fn show_entries(entries: &[Entry]) -> String {
    format!("[{}]", entries.iter().map(show_entry).collect::<Vec<_>>().join(" "))
}

fn show_effect(effect: &Effect) -> String {
    match effect {
        Effect::Persist(write) => show_persist(write),
        Effect::Send { message, after: None } => format!("> {}", show_message(message)),
        Effect::Send { message, after: Some(io) } => format!("> {} after io {io}", show_message(message)),
        Effect::Apply(entries) => format!("apply {}", show_entries(entries)),
        Effect::Reply { ticket, outcome } => format!("reply #{ticket} {}", show_outcome(outcome)),
        Effect::Snapshot(effect) => show_snapshot(effect),
        Effect::Event(event) => show_event(event),
    }
}

fn show_snapshot(effect: &SnapshotEffect) -> String {
    match effect {
        SnapshotEffect::Begin(snapshot) => format!("~ begin snapshot {}", snapshot.id.last),
        SnapshotEffect::Store { id, offset, bytes } => {
            format!("~ store {} bytes of snapshot {} at {offset}", bytes.len(), id.last)
        }
        SnapshotEffect::Finish(id) => format!("~ finish snapshot {}", id.last),
        SnapshotEffect::Restore(snapshot) => format!("~ restore snapshot {}", snapshot.id.last),
        SnapshotEffect::Serve { to, wanted } => {
            format!("~ serve {to}: snapshot {} from {}", wanted.id.last, wanted.offset)
        }
    }
}

fn show_persist(write: &Persist) -> String {
    let mut text = format!("persist io {}", write.io);
    if let Some(hard) = write.hard_state {
        let vote = hard.voted_for.map_or("-".to_owned(), |vote| vote.to_string());
        let _ = write!(text, " term {} vote {vote}", hard.current_term);
    }
    if let Some(compaction) = &write.compact {
        let (last, base) = (compaction.snapshot.id.last, compaction.base);
        let tail = if compaction.keeps_tail { "" } else { " and nothing else" };
        let _ = write!(text, " snapshot {last}, log after {base}{tail}");
    }
    if let Some(from) = write.truncate_from {
        let _ = write!(text, " cut from {from}");
    }
    if !write.append.is_empty() {
        let _ = write!(text, " {}", show_entries(&write.append));
    }
    text
}

fn show_outcome(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Committed(id) => format!("committed {id}"),
        Outcome::ReadAt { index, term } => format!("read at {index} in term {term}"),
        Outcome::NotLeader { leader } => format!("not leader, leader {}", show_node(*leader)),
        Outcome::Reconfigured(id) => format!("reconfigured {id}"),
        Outcome::ReconfigureRefused(why) => format!("not reconfigured: {why:?}"),
        Outcome::Transferred { to, term } => format!("transferred to {to} in term {term}"),
        other => format!("{other:?}"),
    }
}

fn show_event(event: &Event) -> String {
    match event {
        Event::RoleChanged { role, term, cause } => format!("* {} in term {term}: {cause:?}", role.name()),
        Event::VoteRefused { candidate, refusal } => format!("* refuses {candidate}: {refusal:?}"),
        Event::Dropped { from, reason } => format!("* drops a message of {from}: {reason:?}"),
        Event::Disowned { by } => format!("* is disowned by {by}"),
        Event::Removed { at } => format!("* is no member since {at}"),
        Event::LostData { claimed } => format!("* lost data: {claimed} was acknowledged"),
    }
}

fn show_message(message: &Message) -> String {
    let (from, to, term, session) = (message.from, message.to, message.term, message.session);
    let body = match &message.body {
        Body::RequestVote(m) => {
            let kind = if m.ballot.pre_vote { "PreVote" } else { "RequestVote" };
            let transfer = m.transfer_from.map_or(String::new(), |t| format!(" transfer_from={t}"));
            format!("{kind} last={}{transfer}", m.last_log)
        }
        Body::RequestVoteResponse(m) => {
            let kind = if m.ballot.pre_vote { "PreVoteResponse" } else { "RequestVoteResponse" };
            let refusal = m.refusal.map_or("granted".to_owned(), |refusal| format!("{refusal:?}"));
            format!("{kind} {refusal}")
        }
        Body::AppendEntries(m) if m.entries.is_empty() => {
            format!("Heartbeat prev={} commit={} reads={}", m.prev_log, m.leader_commit, m.beat.read_pos)
        }
        Body::AppendEntries(m) => {
            format!(
                "AppendEntries prev={} {} commit={}",
                m.prev_log,
                show_entries(&m.entries),
                m.leader_commit
            )
        }
        Body::AppendEntriesResponse(m) => match m.result {
            AppendResult::Accepted { match_index } => format!("accepted up to {match_index}"),
            AppendResult::Conflict { rejected, hint } => format!("conflict at {rejected}, try {hint}"),
        },
        Body::InstallSnapshot(m) => format!("InstallSnapshot {}", m.snapshot.id.last),
        Body::FetchSnapshot(m) => format!("FetchSnapshot {} from {}", m.id.last, m.offset),
        Body::SnapshotChunk(m) if m.bytes.is_empty() => format!("SnapshotChunk {}: gone", m.id.last),
        Body::SnapshotChunk(m) => {
            format!("SnapshotChunk {} from {}: {} bytes", m.id.last, m.offset, m.bytes.len())
        }
        Body::TimeoutNow(m) => format!("TimeoutNow last={}", m.last_log),
        Body::ReadIndex(m) => format!("ReadIndex {}", m.id % PER_LIFE),
        Body::ReadIndexResponse(m) => {
            let index = m.index.map_or("none".to_owned(), |index: LogIndex| index.to_string());
            format!("ReadIndexResponse {} index={index}", m.id % PER_LIFE)
        }
    };
    format!("{from}->{to} t{term} s{session} {body}")
}

fn show_node(node: Option<NodeId>) -> String {
    node.map_or("-".to_owned(), |node| node.to_string())
}

fn show_view(view: &View, now: Instant) -> String {
    let lease = match view.lease_until {
        None => "none".to_owned(),
        Some(until) => format!("{}ms", until.since(now).as_millis()),
    };
    let fence = view.fence.map_or("-".to_owned(), |term| term.to_string());
    let last: LogId = view.last_log;
    let matches: Vec<String> = view.peers.iter().map(|p| format!(" {}:{}", p.id, p.match_index)).collect();
    let matches = if matches.is_empty() { String::new() } else { format!(" match{}", matches.concat()) };
    format!(
        "{} term {} leader {} last {last} commit {} applied {} fence {fence} lease {lease}{matches}",
        view.role.name(),
        view.term,
        show_node(view.leader),
        view.commit_index,
        view.last_applied
    )
}
