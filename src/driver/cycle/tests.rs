use super::*;
use crate::ids::{Life, ReadPos, Session};
use crate::raft::Boot;
use crate::raft::config::Config;
use crate::raft::effect::{RoleKind, TransferRefusal};
use crate::raft::entry::{Durable, HardState, Payload};
use crate::raft::message::{AppendEntries, Beat, Body};
use crate::time::Duration;

const NOW: Instant = Instant::from_millis(1000);

fn noop(index: u64) -> Entry {
    let id = LogId::new(Term(1), LogIndex(index));
    Entry { id, payload: Payload::NoOp { leader: NodeId(1) } }
}

/// The only node of a cluster, started again over a log of `count` entries.
fn restarted_alone(count: u64) -> Cycle {
    restarted_with(Config::new(NodeId(1)), count)
}

fn restarted_with(config: Config, count: u64) -> Cycle {
    let durable = Durable {
        hard_state: HardState { current_term: Term(1), voted_for: None },
        membership: Membership::of_voters([NodeId(1)]),
        log: (1..=count).map(noop).collect(),
        ..Durable::default()
    };
    let boot = Boot { durable, life: Life { incarnation: 1, boot: 2 }, promised: Duration::ZERO };
    let node = Node::new(config, boot, 1, Instant::ZERO);
    Cycle::new(node, Arc::new(RwLock::new(Machine::new(Vec::new()))))
}

/// Obeys one output's writes as a perfect disk would.
fn persist(cycle: &mut Cycle, output: &Output) {
    if let Some(last) = output.persist.last() {
        cycle.feed(NOW, Input::Persisted { io: last.io });
    }
}

/// The same, whose campaign is on its disk.
fn elected_alone(count: u64) -> Cycle {
    let mut cycle = restarted_alone(count);
    let output = cycle.step(NOW, Input::Timeout);
    persist(&mut cycle, &output);
    cycle
}

#[test]
fn a_long_log_is_applied_in_slices_and_the_loop_goes_on_between_them() {
    let count = 3 * APPLY_SLICE as u64;
    let mut cycle = elected_alone(count);
    let output = cycle.drain(NOW);
    persist(&mut cycle, &output);
    cycle.drain(NOW);
    assert_eq!(cycle.view().commit_index, LogIndex(count + 1), "all is committed at once");
    let mut turns = 0;
    while cycle.view().last_applied < cycle.view().commit_index {
        assert_eq!(cycle.deadline(NOW), NOW, "the next turn comes without waiting, and is not late");
        assert_eq!(cycle.view().role, RoleKind::Leader);
        assert_eq!(cycle.leadership().fence, None, "no token before the no-op is applied");
        cycle.drain(NOW);
        turns += 1;
    }
    assert_eq!(turns, 3);
    assert_eq!(cycle.leadership().fence, Some(Term(2)));
    assert!(cycle.deadline(NOW) > NOW);
}

#[test]
fn a_proposal_is_answered_when_it_is_applied_and_not_before() {
    let mut cycle = elected_alone(2 * APPLY_SLICE as u64);
    let op = Op::FenceRaised { resource: "r".to_owned(), term: Term(2), node: NodeId(1) };
    cycle.propose(NOW, Term(2), op, Ticket(7));
    let output = cycle.drain(NOW);
    persist(&mut cycle, &output);
    let mut answers = Vec::new();
    while cycle.view().last_applied < cycle.view().commit_index || cycle.view().commit_index.0 == 0 {
        assert!(answers.is_empty());
        answers = cycle.drain(NOW).answers;
    }
    assert!(matches!(answers[..], [(Ticket(7), Answered::Applied(_))]), "{answers:?}");
}

/// R2: nobody else's answer would ever come to confirm it.
#[test]
fn a_read_that_comes_with_a_heartbeat_is_served_by_a_leader_alone() {
    let mut cycle = elected_alone(1);
    let output = cycle.drain(NOW);
    persist(&mut cycle, &output);
    cycle.drain(NOW);
    let heartbeat = cycle.deadline(NOW);
    cycle.feed(heartbeat, Input::Read { ticket: Ticket(7) });
    cycle.feed(heartbeat, Input::Timeout);
    let answers = cycle.drain(heartbeat).answers;
    assert!(matches!(answers[..], [(Ticket(7), Answered::Read(_))]), "{answers:?}");
}

/// P1: decided as leader of an earlier term.
#[test]
fn a_command_that_was_decided_in_another_term_is_not_appended() {
    let mut cycle = elected_alone(1);
    let before = cycle.view().last_log;
    for decided_in in [Term(1), Term(3)] {
        let op = Op::FenceRaised { resource: "r".to_owned(), term: Term(1), node: NodeId(1) };
        cycle.propose(NOW, decided_in, op, Ticket(7));
        let refused = Answered::Refused(Refused::NotLeader { leader: None });
        assert_eq!(cycle.drain(NOW).answers, [(Ticket(7), refused)]);
        assert_eq!(cycle.view().last_log, before);
    }
}

/// A script that resigns the leader of one term must not resign that of the next.
#[test]
fn a_transfer_that_was_decided_in_another_term_is_not_begun() {
    let mut cycle = elected_alone(1);
    for (decided_in, expected) in [
        (Some(Term(1)), Refused::NotLeader { leader: None }),
        (Some(Term(2)), Refused::Transfer(TransferRefusal::NobodyCaughtUp)),
        (None, Refused::Transfer(TransferRefusal::NobodyCaughtUp)),
    ] {
        cycle.transfer(NOW, decided_in, None, Ticket(7));
        assert_eq!(cycle.drain(NOW).answers, [(Ticket(7), Answered::Refused(expected))]);
    }
}

fn drained(cycle: &mut Cycle) -> Vec<SnapshotWork> {
    let mut work = Vec::new();
    loop {
        let output = cycle.drain(NOW);
        persist(cycle, &output);
        work.extend(output.snapshots);
        if output.persist.is_empty() && cycle.deadline(NOW) > NOW {
            return work;
        }
    }
}

/// N10: what is wanted stays wanted, and one is taken at a time.
#[test]
fn a_snapshot_that_is_due_is_asked_for_until_it_is_taken() {
    let config = Config { snapshot_entries: 5, snapshot_keep: 2, ..Config::new(NodeId(1)) };
    let mut cycle = restarted_with(config, 10);
    cycle.feed(NOW, Input::Timeout);
    let work = drained(&mut cycle);
    let [SnapshotWork::Take { last, membership, machine }] = &work[..] else { panic!("{work:?}") };
    assert_eq!((*last, machine.applied()), (LogId::new(Term(2), LogIndex(11)), *last));
    assert!(drained(&mut cycle).is_empty(), "one at a time");
    let id = SnapshotId { last: *last, digest: [1; 32] };
    let taken = Snapshot { id, size: 1, membership: membership.clone() };
    cycle.snapshot_done(NOW, SnapshotDone::Taken(taken));
    let work = drained(&mut cycle);
    assert!(matches!(work[..], [SnapshotWork::Settled(settled)] if settled == id), "{work:?}");
    assert_eq!(cycle.view().log_base, LogId::new(Term(1), LogIndex(9)));
}

/// N4: who was added applies what lies before that without knowing who took part then.
#[test]
fn no_snapshot_is_taken_without_the_membership_that_belongs_to_it() {
    let config = Config { snapshot_entries: 1, ..Config::new(NodeId(4)) };
    let boot = Boot {
        durable: Durable::default(),
        life: Life { incarnation: 4, boot: 1 },
        promised: Duration::ZERO,
    };
    let node = Node::new(config, boot, 1, Instant::ZERO);
    let mut cycle = Cycle::new(node, Arc::new(RwLock::new(Machine::new(Vec::new()))));
    let membership = Membership { learners: [NodeId(4)].into(), ..Membership::of_voters([NodeId(1)]) };
    let added = Entry { id: LogId::new(Term(1), LogIndex(2)), payload: Payload::Membership(membership) };
    for (prev, entry, taken) in [(LogId::ZERO, noop(1), 0), (noop(1).id, added, 1)] {
        let leader_commit = entry.id.index;
        cycle.feed(NOW, Input::Receive(append(prev, entry, leader_commit)));
        assert_eq!(drained(&mut cycle).len(), taken, "after {leader_commit}");
        assert_eq!(cycle.view().last_applied, leader_commit);
    }
}

/// From node 1 to node 4.
fn append(prev_log: LogId, entry: Entry, leader_commit: LogIndex) -> Message {
    let beat = Beat { sent_at: NOW, read_pos: ReadPos::ZERO };
    let append = AppendEntries { prev_log, entries: vec![entry], leader_commit, beat, known: Vec::new() };
    Message {
        from: NodeId(1),
        to: NodeId(4),
        term: Term(1),
        life: Life { incarnation: 1, boot: 1 },
        session: Session(1),
        body: Body::AppendEntries(append),
    }
}

/// N9: what was committed before an installation and is not applied yet is part of it.
#[test]
fn an_installation_takes_the_place_of_what_was_not_applied_yet() {
    let mut cycle = elected_alone(2 * APPLY_SLICE as u64);
    let output = cycle.drain(NOW);
    persist(&mut cycle, &output);
    cycle.drain(NOW);
    assert!(!cycle.backlog.is_empty(), "a slice is applied, the rest waits");
    let last = LogId::new(Term(2), LogIndex(5000));
    let id = SnapshotId { last, digest: [1; 32] };
    cycle.fetched = Some((id, Machine::new(Vec::new())));
    cycle.committed.insert(LogIndex(4000), Ticket(9));
    cycle.restore(&Snapshot { id, size: 1, membership: Membership::default() });
    assert!(cycle.backlog.is_empty());
    let unknown = Answered::Refused(Refused::Unknown);
    assert_eq!(cycle.output.answers, [(Ticket(9), unknown)], "nobody knows what it was answered");
}
