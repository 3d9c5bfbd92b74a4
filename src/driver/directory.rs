//! Who is who, for the mesh and for the hop: the core says who belongs, the registry says where they are.
//!
//! Both change while the node runs. A member is dialled as soon as its membership entry is in the log and
//! its address is applied; one that is left out is dropped when the core has told it so. A node that hears
//! no leader, or one that it does not know, may be the one whose picture is out of date: then it lets other
//! nodes of the cluster in, whose votes and entries it may need to get up to date. One of them may be known
//! here as removed, and have been added again since.
//!
//! After a start nothing behind the snapshot is applied before somebody leads, and nobody leads before the
//! voters have found each other. So a start reads ahead: it looks for the members where its log says that
//! they are, committed or not. An entry that never will be costs a dial in vain.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::PoisonError;

use tokio::sync::watch;

use crate::driver::cycle::Cycle;
use crate::ids::{LogIndex, NodeId};
use crate::raft::entry::Entry;
use crate::registry::command::Member;
use crate::registry::machine::Machine;
use crate::transport::roster::Roster;

/// What was told last, and whom to tell.
#[derive(Debug)]
pub struct Directory {
    seen: Option<Seen>,
    hops: watch::Sender<BTreeMap<NodeId, String>>,
    ahead: Ahead,
}

/// Where the members are if all of the log that a start has found is committed.
#[derive(Debug)]
struct Ahead {
    peers: BTreeMap<NodeId, String>,
    /// The last entry of that log: what is applied as far as that knows better.
    until: LogIndex,
}

/// What a roster is made of.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    who: BTreeSet<NodeId>,
    open: bool,
    version: u64,
    ahead: bool,
}

impl Ahead {
    /// `machine` and what `log` holds behind it.
    fn read(machine: &Machine, log: &[Entry]) -> Self {
        let applied = machine.applied().index;
        let mut machine = machine.clone();
        for entry in log.iter().filter(|entry| entry.id.index > applied) {
            // A log with a gap is the core's to refuse.
            if entry.id.index != machine.applied().index.next() {
                break;
            }
            machine.apply(entry);
        }
        let peers = machine.members().map(|member| (member.id, member.peer.clone())).collect();
        Self { peers, until: machine.applied().index }
    }
}

impl Directory {
    /// Nothing was told yet. `machine` is what the start begins with, and `log` what it has found. The
    /// receiver sees where the members listen for the hop.
    pub fn new(machine: &Machine, log: &[Entry]) -> (Self, watch::Receiver<BTreeMap<NodeId, String>>) {
        let (hops, receiver) = watch::channel(BTreeMap::new());
        (Self { seen: None, hops, ahead: Ahead::read(machine, log) }, receiver)
    }

    /// The roster under `leader`, when it is another one than at the last turn.
    pub fn turn(&mut self, cycle: &Cycle, leader: Option<NodeId>) -> Option<Roster> {
        let machine = cycle.machine().read().unwrap_or_else(PoisonError::into_inner);
        let who = cycle.correspondents();
        let open = leader.is_none_or(|leader| !who.contains(&leader));
        let ahead = machine.applied().index < self.ahead.until;
        let seen = Some(Seen { who, open, version: machine.roster_version(), ahead });
        if seen == self.seen {
            return None;
        }
        self.seen = seen;
        let who = &self.seen.as_ref()?.who;
        self.hops.send_if_modified(|hops| {
            let now = addresses(&machine, who, |member| &member.hop);
            std::mem::replace(hops, now) != *hops
        });
        let mut members = addresses(&machine, who, |member| &member.peer);
        if ahead {
            let known = who.iter().filter_map(|node| Some((*node, self.ahead.peers.get(node)?.clone())));
            members.extend(known);
        }
        let unplaced = who.iter().filter(|node| !members.contains_key(node)).copied().collect();
        let removed = machine.removed().keys().filter(|node| !who.contains(node)).copied().collect();
        Some(Roster { members, unplaced, removed, open })
    }
}

fn addresses(
    machine: &Machine,
    who: &BTreeSet<NodeId>,
    which: impl Fn(&Member) -> &String,
) -> BTreeMap<NodeId, String> {
    let known = who.iter().filter_map(|node| machine.member(*node));
    known.map(|member| (member.id, which(member).clone())).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, RwLock};

    use bytes::Bytes;

    use super::*;
    use crate::ids::{Life, LogId, Term};
    use crate::raft::config::Config;
    use crate::raft::effect::Input;
    use crate::raft::entry::{Durable, HardState, Membership, Payload};
    use crate::raft::{Boot, Node};
    use crate::registry::command::{Command, Op};
    use crate::time::{Duration, Instant};

    const NOW: Instant = Instant::from_millis(1000);

    fn member(id: u64, host: &str) -> Member {
        let at = |port| format!("{host}:{port}");
        Member { id: NodeId(id), peer: at(1), proxy: at(2), hop: at(2), api: at(3), zone: None }
    }

    fn entry(index: u64, payload: Payload) -> Entry {
        Entry { id: LogId::new(Term(1), LogIndex(index)), payload }
    }

    fn says(index: u64, op: Op) -> Entry {
        let command = postcard::to_stdvec(&Command { decided_in: Term(1), op }).unwrap();
        entry(index, Payload::Command(Bytes::from(command)))
    }

    /// Node 1, the only voter, started again over `log`; node 2 receives it, and so does node 3, which no
    /// configuration names.
    fn restarted(log: &[Entry]) -> Cycle {
        let learners = [NodeId(2), NodeId(3)].into();
        let membership = Membership { learners, ..Membership::of_voters([NodeId(1)]) };
        let hard_state = HardState { current_term: Term(1), voted_for: None };
        let durable = Durable { hard_state, membership, log: log.to_vec(), ..Durable::default() };
        let boot = Boot { durable, life: Life { incarnation: 1, boot: 2 }, promised: Duration::ZERO };
        let machine = Machine::new(vec![member(1, "one"), member(2, "old")]);
        let node = Node::new(Config::new(NodeId(1)), boot, 1, Instant::ZERO);
        Cycle::new(node, Arc::new(RwLock::new(machine)))
    }

    fn directory(cycle: &Cycle, log: &[Entry]) -> Directory {
        Directory::new(&cycle.machine().read().unwrap(), log).0
    }

    fn peers(roster: Option<Roster>) -> Vec<String> {
        roster.map(|roster| roster.members.into_values().collect()).unwrap_or_default()
    }

    /// Who leads alone commits and applies all of its log.
    fn apply_all(cycle: &mut Cycle) {
        let mut output = cycle.step(NOW, Input::Timeout);
        while let Some(last) = output.persist.last() {
            output = cycle.step(NOW, Input::Persisted { io: last.io });
        }
        assert!(cycle.view().last_applied.0 > 0);
    }

    /// After a restart of all, nobody could be elected who did not know where the others are.
    #[test]
    fn a_start_looks_for_members_where_its_log_says_before_any_of_it_is_committed() {
        let log = [
            says(1, Op::SetMember(member(2, "other"))),
            entry(2, Payload::NoOp { leader: NodeId(1) }),
            says(3, Op::SetMember(member(2, "new"))),
        ];
        let cycle = restarted(&log);
        let mut directory = directory(&cycle, &log);
        let roster = directory.turn(&cycle, None).unwrap();
        assert_eq!(roster.unplaced, [NodeId(3)].into(), "known by its name alone");
        assert_eq!(peers(Some(roster)), ["one:1", "new:1"]);
        assert_eq!(directory.turn(&cycle, None), None, "nothing has changed");
    }

    #[test]
    fn what_the_log_said_at_the_start_gives_way_to_what_was_agreed_upon() {
        let found = [says(1, Op::SetMember(member(2, "nowhere")))];
        let mut cycle = restarted(&[entry(1, Payload::NoOp { leader: NodeId(1) })]);
        let mut directory = directory(&cycle, &found);
        assert_eq!(peers(directory.turn(&cycle, None)), ["one:1", "nowhere:1"]);
        apply_all(&mut cycle);
        assert_eq!(peers(directory.turn(&cycle, None)), ["one:1", "old:1"]);
    }
}
