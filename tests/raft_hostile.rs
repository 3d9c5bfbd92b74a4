//! Whatever a peer claims, a node neither panics nor gives up its term, its vote or its log.

use bytes::Bytes;
use proptest::prelude::{BoxedStrategy, Just, Strategy, any, prop_oneof, proptest};
use proptest::test_runner::Config as ProptestConfig;
use termgate::ids::{Campaign, IoSeq, Life, LogId, LogIndex, NodeId, ReadPos, Session, Term, Ticket};
use termgate::raft::config::Config;
use termgate::raft::effect::{DropReason, Effect, Event, Input, Outcome};
use termgate::raft::entry::{Durable, Entry, HardState, Membership, Payload, Snapshot, SnapshotId};
use termgate::raft::message::{
    AppendEntries, AppendEntriesResponse, AppendResult, Ballot, Beat, Body, InstallSnapshot, Message,
    Promise, ReadIndex, ReadIndexResponse, RequestVote, RequestVoteResponse, TimeoutNow,
};
use termgate::raft::{Boot, Node};
use termgate::time::{Duration, Instant};

/// Small numbers meet the state; the ends of the range meet the arithmetic.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![4 => 0u64..6, 1 => Just(u64::MAX), 1 => Just(u64::MAX / 2), 1 => Just(u64::MAX - 1), 1 => any::<u64>()]
}

fn log_id() -> impl Strategy<Value = LogId> {
    (number(), number()).prop_map(|(term, index)| LogId::new(Term(term), LogIndex(index)))
}

fn beat() -> impl Strategy<Value = Beat> {
    (number(), number()).prop_map(|(at, pos)| Beat { sent_at: Instant(at), read_pos: ReadPos(pos) })
}

fn entry() -> impl Strategy<Value = Entry> {
    let payload = prop_oneof![
        Just(Payload::Command(Bytes::from_static(b"x"))),
        number().prop_map(|leader| Payload::NoOp { leader: NodeId(leader) }),
    ];
    (log_id(), payload).prop_map(|(id, payload)| Entry { id, payload })
}

fn ballot() -> impl Strategy<Value = Ballot> {
    (number(), any::<bool>()).prop_map(|(n, pre_vote)| Ballot { campaign: Campaign(n), pre_vote })
}

fn body() -> BoxedStrategy<Body> {
    let request =
        (ballot(), number(), log_id(), proptest::option::of(number())).prop_map(|(b, c, last_log, t)| {
            let (candidate_id, transfer_from) = (NodeId(c), t.map(Term));
            Body::RequestVote(RequestVote { ballot: b, candidate_id, last_log, transfer_from })
        });
    let vote = (ballot(), any::<bool>()).prop_map(|(ballot, vote_granted)| {
        Body::RequestVoteResponse(RequestVoteResponse { ballot, vote_granted, refusal: None })
    });
    let append = (log_id(), proptest::collection::vec(entry(), 0..4), number(), beat()).prop_map(
        |(prev_log, entries, commit, beat)| {
            Body::AppendEntries(AppendEntries {
                prev_log,
                entries,
                leader_commit: LogIndex(commit),
                beat,
                known: Vec::new(),
            })
        },
    );
    let result = prop_oneof![
        number().prop_map(|i| AppendResult::Accepted { match_index: LogIndex(i) }),
        (log_id(), log_id()).prop_map(|(rejected, hint)| AppendResult::Conflict { rejected, hint }),
    ];
    let appended = (beat(), result, number(), any::<u32>()).prop_map(|(beat, result, n, clock_drift_ppm)| {
        let promise = Promise { no_vote_for: Duration::from_nanos(n), clock_drift_ppm };
        let (commit_index, last_applied) = (LogIndex(n), LogIndex(n));
        Body::AppendEntriesResponse(AppendEntriesResponse {
            beat,
            result,
            promise,
            commit_index,
            last_applied,
        })
    });
    let read = number().prop_map(|id| Body::ReadIndex(ReadIndex { id }));
    let at = (number(), proptest::option::of(number()))
        .prop_map(|(id, i)| Body::ReadIndexResponse(ReadIndexResponse { id, index: i.map(LogIndex) }));
    let now = log_id().prop_map(|last_log| Body::TimeoutNow(TimeoutNow { last_log }));
    // Boxed: unboxed, the tree of strategies is too large for a test's stack.
    prop_oneof![request, vote, append, appended, read, at, now].boxed()
}

fn message() -> BoxedStrategy<Message> {
    let life = (number(), number()).prop_map(|(incarnation, boot)| Life { incarnation, boot });
    let parts = (0u64..5, number(), life, number(), body());
    let message = parts.prop_map(|(from, term, life, session, body)| Message {
        from: NodeId(from),
        to: NodeId(1),
        term: Term(term),
        life,
        session: Session(session),
        body,
    });
    message.boxed()
}

fn input() -> impl Strategy<Value = Input> {
    prop_oneof![
        12 => message().prop_map(Input::Receive),
        3 => Just(Input::Timeout),
        2 => Just(Input::Propose { ticket: Ticket(1), command: Bytes::from_static(b"c") }),
        2 => Just(Input::Read { ticket: Ticket(1) }),
        1 => number().prop_map(|n| Input::Transfer { ticket: Ticket(1), to: Some(NodeId(n)) }),
        1 => any::<bool>().prop_map(Input::DiskStalled),
        1 => Just(Input::ClockSuspect),
    ]
}

fn node(voters: u64) -> Node {
    let membership = Membership::of_voters((1..=voters).map(NodeId));
    let durable = Durable { membership, ..Durable::default() };
    let boot = Boot { durable, life: Life { incarnation: 1, boot: 1 }, promised: Duration::ZERO };
    Node::new(Config::new(NodeId(1)), boot, 1, Instant::from_millis(1))
}

/// Obeys the effects as a perfect disk would.
fn drain(node: &mut Node, now: Instant) -> Vec<Effect> {
    let mut seen = Vec::new();
    loop {
        let mut done = IoSeq::ZERO;
        while let Some(effect) = node.poll() {
            match &effect {
                Effect::Persist(write) => done = write.io,
                Effect::Apply(entries) => {
                    let index = entries.last().map_or(LogIndex::ZERO, |entry| entry.id.index);
                    node.step(now, Input::Applied { index });
                }
                _ => {}
            }
            seen.push(effect);
        }
        if done == IoSeq::ZERO {
            return seen;
        }
        node.step(now, Input::Persisted { io: done });
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(500) })]

    #[test]
    fn no_claim_of_a_peer_stops_a_node_or_turns_it_back(
        voters in 1u64..5,
        inputs in proptest::collection::vec((input(), 0u64..200), 1..60),
    ) {
        let mut node = node(voters);
        let (mut term, mut commit, mut at, mut inputs_seen) = (Term::ZERO, LogIndex::ZERO, 1, 0);
        for (input, wait) in inputs {
            at += wait;
            inputs_seen += 1;
            node.step(Instant::from_millis(at), input);
            drain(&mut node, Instant::from_millis(at));
            let view = node.view();
            assert!(view.term >= term && view.commit_index >= commit, "nothing runs back");
            assert!(view.term.0 <= inputs_seen * (1 << 40) + 64, "a term far above the own one is not adopted");
            (term, commit) = (view.term, view.commit_index);
        }
    }
}

fn heartbeat(from: u64, term: u64) -> Message {
    let beat = Beat { sent_at: Instant::ZERO, read_pos: ReadPos::ZERO };
    let prev_log = LogId::ZERO;
    let append = AppendEntries {
        prev_log,
        entries: Vec::new(),
        leader_commit: LogIndex::ZERO,
        beat,
        known: Vec::new(),
    };
    Message {
        from: NodeId(from),
        to: NodeId(1),
        term: Term(term),
        life: Life { incarnation: from, boot: 1 },
        session: Session(1),
        body: Body::AppendEntries(append),
    }
}

fn reaction(message: Message) -> Vec<Effect> {
    let mut node = node(3);
    let now = Instant::from_millis(2);
    node.step(now, Input::Receive(message));
    drain(&mut node, now)
}

fn dropped(from: u64, reason: DropReason) -> Vec<Effect> {
    vec![Effect::Event(Event::Dropped { from: NodeId(from), reason })]
}

/// E1, V8, M8: also with a higher term nothing is learnt from it.
#[test]
fn answers_and_questions_from_outside_the_membership_are_not_heard() {
    let ballot = Ballot { campaign: Campaign(1), pre_vote: false };
    let granted = RequestVoteResponse { ballot, vote_granted: true, refusal: None };
    let bodies = [Body::RequestVoteResponse(granted), Body::ReadIndex(ReadIndex { id: 1 })];
    for body in bodies {
        let message = Message { body, ..heartbeat(9, 7) };
        assert_eq!(reaction(message), dropped(9, DropReason::NotAMember));
    }
}

/// E1: this node's own membership may be the one that is out of date.
#[test]
fn a_leader_from_outside_the_membership_is_heard() {
    let effects = reaction(heartbeat(9, 1));
    assert!(
        effects
            .iter()
            .any(|effect| matches!(effect, Effect::Send { message, .. } if message.to == NodeId(9)))
    );
}

#[test]
fn a_message_for_another_node_is_dropped() {
    let message = Message { to: NodeId(2), ..heartbeat(3, 1) };
    assert_eq!(reaction(message), dropped(3, DropReason::Misaddressed));
}

/// E2.
#[test]
fn the_last_term_is_not_adopted() {
    assert_eq!(reaction(heartbeat(2, u64::MAX)), dropped(2, DropReason::Malformed));
}

#[test]
fn entries_with_a_gap_or_of_a_later_term_are_not_written() {
    let entry = |term, index| Entry {
        id: LogId::new(Term(term), LogIndex(index)),
        payload: Payload::NoOp { leader: NodeId(2) },
    };
    for entries in
        [vec![entry(1, 2)], vec![entry(1, 1), entry(1, 3)], vec![entry(2, 1)], vec![entry(1, 1), entry(0, 2)]]
    {
        let mut message = heartbeat(2, 1);
        if let Body::AppendEntries(append) = &mut message.body {
            append.entries = entries;
        }
        let effects = reaction(message);
        assert!(effects.ends_with(&dropped(2, DropReason::Malformed)), "{effects:?}");
    }
}

/// What is committed has terms that never fall (N3), and no other entry in its places (N5). A snapshot that denies the
/// first would make the store refuse the write, and so end the process; one that denies the second must not be
/// acknowledged as if it were what is held.
#[test]
fn a_snapshot_that_denies_what_is_committed_is_not_taken_up() {
    let mut node = node(3);
    let now = Instant::from_millis(2);
    let mut append = heartbeat(2, 2);
    if let Body::AppendEntries(append) = &mut append.body {
        let id = LogId::new(Term(2), LogIndex(1));
        append.entries = vec![Entry { id, payload: Payload::NoOp { leader: NodeId(2) } }];
        append.leader_commit = LogIndex(1);
    }
    node.step(now, Input::Receive(append));
    drain(&mut node, now);
    assert_eq!(node.view().commit_index, LogIndex(1));
    let offer = |term, index| {
        let id = SnapshotId { last: LogId::new(Term(term), LogIndex(index)), digest: [1; 32] };
        let snapshot = Snapshot { id, size: 1, membership: Membership::of_voters([NodeId(1)]) };
        let beat = Beat { sent_at: Instant::ZERO, read_pos: ReadPos::ZERO };
        Message { body: Body::InstallSnapshot(InstallSnapshot { snapshot, beat }), ..heartbeat(2, 2) }
    };
    for (term, index) in [(1, 5), (1, 1), (3, 1), (1, 0)] {
        node.step(now, Input::Receive(offer(term, index)));
        assert_eq!(drain(&mut node, now), dropped(2, DropReason::Malformed), "{index}@{term}");
    }
    node.step(now, Input::Receive(offer(2, 1)));
    assert!(matches!(drain(&mut node, now)[..], [Effect::Send { .. }]), "what is held is acknowledged");
    node.step(now, Input::Receive(offer(2, 5)));
    assert!(matches!(drain(&mut node, now)[..], [Effect::Snapshot(_)]), "one that does not is");
}

/// C4: the place where a compacted log begins is committed, and entries from before it that go on behind it must go
/// through it. Appended all the same, they would break the log's order, and so end the process.
#[test]
fn entries_that_bypass_the_beginning_of_a_compacted_log_are_not_written() {
    let membership = Membership::of_voters([NodeId(1), NodeId(2), NodeId(3)]);
    let last = LogId::new(Term(2), LogIndex(3));
    let id = SnapshotId { last, digest: [1; 32] };
    let snapshot = Some(Snapshot { id, size: 1, membership: membership.clone() });
    let hard_state = HardState { current_term: Term(3), voted_for: None };
    let durable = Durable { hard_state, snapshot, membership, base: last, ..Durable::default() };
    let boot = Boot { durable, life: Life { incarnation: 1, boot: 1 }, promised: Duration::ZERO };
    let mut node = Node::new(Config::new(NodeId(1)), boot, 1, Instant::from_millis(1));
    let now = Instant::from_millis(2);
    let mut append = |terms: [u64; 3]| {
        let mut message = heartbeat(2, 3);
        if let Body::AppendEntries(append) = &mut message.body {
            append.prev_log = LogId::new(Term(1), LogIndex(1));
            let id = |(index, term)| LogId::new(Term(term), LogIndex(index));
            let payload = || Payload::NoOp { leader: NodeId(2) };
            append.entries = (2..).zip(terms).map(|at| Entry { id: id(at), payload: payload() }).collect();
        }
        node.step(now, Input::Receive(message));
        let written = |effect: &Effect| matches!(effect, Effect::Persist(write) if !write.append.is_empty());
        drain(&mut node, now).iter().filter(|effect| written(effect)).count()
    };
    assert_eq!(append([1, 1, 1]), 0);
    assert_eq!(append([1, 3, 3]), 0);
    assert_eq!(append([1, 2, 3]), 1, "those that do not are");
}

/// Node 1 with the vote of term 2 given to node 2 and a log of two entries of term 1, asked by
/// node 2 in term 2; whether it grants.
fn grants(membership: Membership, last_log: LogId) -> bool {
    grants_knowing(&[], membership, last_log)
}

/// The same, when it knows incarnations; its own is 1.
fn grants_knowing(pinned: &[(NodeId, u64)], membership: Membership, last_log: LogId) -> bool {
    let entry = |index| Entry {
        id: LogId::new(Term(1), LogIndex(index)),
        payload: Payload::NoOp { leader: NodeId(2) },
    };
    let hard_state = HardState { current_term: Term(2), voted_for: Some(NodeId(2)) };
    let log = vec![entry(1), entry(2)];
    let pinned = pinned.iter().copied().collect();
    let durable = Durable { hard_state, membership, log, pinned, ..Durable::default() };
    let boot = Boot { durable, life: Life { incarnation: 1, boot: 1 }, promised: Duration::ZERO };
    let mut node = Node::new(Config::new(NodeId(1)), boot, 1, Instant::from_millis(1));
    let ballot = Ballot { campaign: Campaign(1), pre_vote: false };
    let request = RequestVote { ballot, candidate_id: NodeId(2), last_log, transfer_from: None };
    let message = Message { body: Body::RequestVote(request), session: Session(0), ..heartbeat(2, 2) };
    node.step(Instant::from_millis(2), Input::Receive(message));
    let granted = |effect: &Effect| match effect {
        Effect::Send { message: Message { body: Body::RequestVoteResponse(response), .. }, .. } => {
            response.vote_granted
        }
        _ => false,
    };
    drain(&mut node, Instant::from_millis(2)).iter().any(granted)
}

/// V2, V7.
#[test]
fn a_vote_asked_for_again_is_judged_again_by_the_log() {
    let voters = || Membership::of_voters([NodeId(1), NodeId(2), NodeId(3)]);
    assert!(grants(voters(), LogId::new(Term(1), LogIndex(2))));
    assert!(!grants(voters(), LogId::new(Term(1), LogIndex(1))));
}

/// V9.
/// MC-9.
#[test]
fn a_node_that_knows_no_voters_gives_no_vote() {
    assert!(!grants(Membership::default(), LogId::new(Term(1), LogIndex(9))));
}

/// MC-11: what it holds may be from before its directory took the place of another.
#[test]
fn a_mere_namesake_gives_no_vote() {
    let (me, last) = (NodeId(1), LogId::new(Term(1), LogIndex(9)));
    let voters = || Membership::of_voters([me, NodeId(2), NodeId(3)]);
    assert!(!grants_knowing(&[(me, 77)], voters(), last));
    assert!(grants_knowing(&[], voters(), last), "the first of its name");
    let named = Membership { incarnations: [(me, 1)].into(), ..voters() };
    assert!(grants_knowing(&[(me, 77)], named, last), "added with this directory");
}

#[test]
fn a_node_that_thinks_itself_a_learner_still_votes() {
    let learner =
        Membership { learners: [NodeId(1)].into(), ..Membership::of_voters([NodeId(2), NodeId(3)]) };
    assert!(grants(learner, LogId::new(Term(1), LogIndex(2))));
}

/// E2: after the highest term that one message can bring, there are terms left to be elected in.
#[test]
fn a_node_can_be_elected_after_the_highest_term_it_adopts() {
    let mut node = node(3);
    for (term, reason) in
        [(u64::MAX / 2 + 1, DropReason::Malformed), ((1 << 40) + 1, DropReason::TermOutOfReach)]
    {
        node.step(Instant::from_millis(2), Input::Receive(heartbeat(2, term)));
        assert_eq!(drain(&mut node, Instant::from_millis(2)), dropped(2, reason));
    }
    node.step(Instant::from_millis(3), Input::Receive(heartbeat(2, 1 << 40)));
    drain(&mut node, Instant::from_millis(3));
    assert_eq!(node.view().term, Term(1 << 40));
    let late = node.deadline();
    node.step(late, Input::Timeout);
    let asked: Vec<Term> = drain(&mut node, late)
        .into_iter()
        .filter_map(|effect| match effect {
            Effect::Send { message, .. } => Some(message.term),
            _ => None,
        })
        .collect();
    assert_eq!(asked, [Term((1 << 40) + 1); 2]);
}

/// E2: it waits to be added, and the cluster may be one that was founded far ahead (DR-1).
#[test]
fn a_node_that_knows_no_voters_believes_a_term_far_above_its_own() {
    let mut node = node(0);
    let now = Instant::from_millis(2);
    node.step(now, Input::Receive(heartbeat(2, (1 << 49) + 1)));
    assert_eq!(drain(&mut node, now), dropped(2, DropReason::TermOutOfReach));
    node.step(now, Input::Receive(heartbeat(2, 1 << 49)));
    drain(&mut node, now);
    assert_eq!(node.view().term, Term(1 << 49));
}

/// V8, L2: somebody who leads an older term under a member's name hears that it is over, and costs the
/// member nothing.
#[test]
fn a_stale_leader_of_another_directory_is_not_taken_for_the_member_of_its_name() {
    let membership = Membership {
        learners: [NodeId(2)].into(),
        incarnations: [(NodeId(2), 22)].into(),
        ..Membership::of_voters([NodeId(1)])
    };
    let hard_state = HardState { current_term: Term(5), voted_for: None };
    let durable = Durable { hard_state, membership, ..Durable::default() };
    let boot = Boot { durable, life: Life { incarnation: 1, boot: 1 }, promised: Duration::ZERO };
    let mut node = Node::new(Config::new(NodeId(1)), boot, 1, Instant::from_millis(1));
    let now = node.deadline();
    node.step(now, Input::Timeout);
    drain(&mut node, now);
    let known = Life { incarnation: 22, boot: 1 };
    let question = Body::ReadIndex(ReadIndex { id: 1 });
    node.step(now, Input::Receive(Message { life: known, body: question, ..heartbeat(2, 6) }));
    drain(&mut node, now);
    let stranger = Life { incarnation: 99, boot: 1 };
    node.step(now, Input::Receive(Message { life: stranger, ..heartbeat(2, 3) }));
    let told = |effect: &Effect| matches!(effect, Effect::Send { message, .. } if message.term == Term(6));
    assert!(drain(&mut node, now).iter().any(told), "it hears of the present term");
    let peer = node.view().peers.into_iter().find(|peer| peer.id == NodeId(2)).unwrap();
    assert_eq!(peer.life, Some(known));
}

/// A leader bounds what it keeps for its disk and its followers, in bytes as well as in entries.
#[test]
fn a_leader_bounds_the_bytes_it_has_not_committed() {
    let membership = Membership::of_voters([NodeId(1)]);
    let durable = Durable { membership, ..Durable::default() };
    let boot = Boot { durable, life: Life { incarnation: 1, boot: 1 }, promised: Duration::ZERO };
    let config = Config { max_uncommitted_bytes: 10, ..Config::new(NodeId(1)) };
    let mut node = Node::new(config, boot, 1, Instant::from_millis(1));
    let now = node.deadline();
    node.step(now, Input::Timeout);
    drain(&mut node, now);
    let propose = |node: &mut Node, ticket: u64, bytes: usize| {
        node.step(now, Input::Propose { ticket: Ticket(ticket), command: Bytes::from(vec![0; bytes]) });
    };
    propose(&mut node, 1, 100);
    propose(&mut node, 2, 1);
    let refused = Effect::Reply { ticket: Ticket(2), outcome: Outcome::Busy };
    let effects = drain(&mut node, now);
    assert!(effects.contains(&refused), "the first fits alone, the second does not: {effects:?}");
    propose(&mut node, 3, 6);
    propose(&mut node, 4, 4);
    propose(&mut node, 5, 1);
    let busy = drain(&mut node, now)
        .into_iter()
        .filter_map(|effect| match effect {
            Effect::Reply { ticket, outcome: Outcome::Busy } => Some(ticket.0),
            _ => None,
        })
        .collect::<Vec<_>>();
    assert_eq!(busy, [5], "what was committed counts no more");
}
