use std::collections::BTreeMap;

use proptest::prelude::{Just, Strategy, any, prop, prop_oneof, proptest};

use super::*;

fn entry(index: u64, term: u64, payload: Payload) -> Entry {
    Entry { id: LogId::new(Term(term), LogIndex(index)), payload }
}

fn encoded(decided_in: u64, op: Op) -> Payload {
    let command = Command { decided_in: Term(decided_in), op };
    Payload::Command(postcard::to_stdvec(&command).unwrap().into())
}

fn put(key: &str, value: &str, condition: Condition) -> Op {
    Op::Put { key: key.into(), value: Bytes::copy_from_slice(value.as_bytes()), condition }
}

fn delete(key: &str) -> Op {
    Op::Delete { key: key.into(), condition: Condition::None }
}

/// A machine in term 1 that is asked one thing after another.
struct Run(Machine);

impl Run {
    fn new() -> Self {
        Self(Machine::new(Vec::new()))
    }

    fn entry(&mut self, term: u64, payload: Payload) -> Option<Answer> {
        self.0.apply(&entry(self.0.applied().index.0 + 1, term, payload))
    }

    fn op(&mut self, op: Op) -> Answer {
        self.entry(1, encoded(1, op)).expect("a command is answered")
    }
}

fn done(version: u64) -> Answer {
    Answer::Done { version: LogIndex(version) }
}

fn failed(current: Option<u64>) -> Answer {
    Answer::ConditionFailed { current: current.map(LogIndex) }
}

#[test]
fn a_command_decided_in_an_older_term_has_no_effect() {
    let mut run = Run::new();
    assert_eq!(run.entry(2, encoded(1, put("k", "v", Condition::None))), Some(Answer::StaleTerm));
    assert_eq!(run.0.key("k"), None);
    assert_eq!(run.entry(2, encoded(2, put("k", "v", Condition::None))), Some(done(2)));
}

#[test]
fn a_fence_never_goes_down() {
    let raise =
        |term, node| Op::FenceRaised { resource: "orders".into(), term: Term(term), node: NodeId(node) };
    let mut run = Run::new();
    assert_eq!(run.op(raise(7, 1)), done(1));
    assert_eq!(run.op(raise(6, 2)), failed(Some(1)));
    assert_eq!(run.op(raise(7, 2)), done(1), "the same again is fine and changes nothing");
    let stands = FenceRecord { term: Term(7), node: NodeId(1), index: LogIndex(1) };
    assert_eq!(run.0.fence("orders"), Some(&stands));
    assert_eq!(run.op(raise(8, 2)), done(4));
    assert_eq!(run.0.fence("orders").unwrap().term, Term(8));
}

#[test]
fn a_key_made_again_has_a_version_that_was_never_seen() {
    let mut run = Run::new();
    assert_eq!(run.op(put("k", "a", Condition::None)), done(1));
    assert_eq!(run.op(delete("k")), done(2));
    assert_eq!(run.op(put("k", "b", Condition::None)), done(3));
    assert_eq!(run.op(put("k", "c", Condition::VersionIs(LogIndex(1)))), failed(Some(3)));
    let expected = Value { value: "b".into(), version: LogIndex(3), created: LogIndex(3), term: Term(1) };
    assert_eq!(run.0.key("k"), Some(&expected));
}

#[test]
fn a_modification_keeps_where_the_key_was_made() {
    let mut run = Run::new();
    run.op(put("k", "a", Condition::None));
    run.entry(4, encoded(4, put("k", "b", Condition::Exists)));
    let expected = Value { value: "b".into(), version: LogIndex(2), created: LogIndex(1), term: Term(4) };
    assert_eq!(run.0.key("k"), Some(&expected));
}

#[test]
fn a_condition_that_does_not_hold_changes_nothing() {
    let mut run = Run::new();
    assert_eq!(run.op(put("k", "a", Condition::Exists)), failed(None));
    assert_eq!(run.op(put("k", "a", Condition::VersionIs(LogIndex(1)))), failed(None));
    assert_eq!(run.op(put("k", "a", Condition::Absent)), done(3));
    assert_eq!(run.op(put("k", "b", Condition::Absent)), failed(Some(3)));
    assert_eq!(run.op(put("k", "b", Condition::VersionIsNot(LogIndex(3)))), failed(Some(3)));
    let removal = Op::Delete { key: "k".into(), condition: Condition::VersionIs(LogIndex(2)) };
    assert_eq!(run.op(removal), failed(Some(3)));
    assert_eq!(run.0.key("k").unwrap().value, "a");
    assert_eq!(run.op(put("k", "b", Condition::VersionIs(LogIndex(3)))), done(7));
}

#[test]
fn deleting_what_is_not_there_says_so() {
    assert_eq!(Run::new().op(delete("k")), Answer::NotFound);
}

#[test]
fn keys_and_values_have_limits() {
    let mut run = Run::new();
    let long = "k".repeat(limits::KEY_BYTES);
    assert_eq!(run.op(put(&long, "v", Condition::None)), done(1));
    for key in [format!("{long}k"), String::new(), "line\nbreak".into(), "nul\0".into(), "c1\u{85}".into()] {
        let answer = run.op(put(&key, "v", Condition::None));
        assert!(matches!(answer, Answer::LimitExceeded(_)), "{key:?}: {answer:?}");
    }
    let full = "v".repeat(limits::VALUE_BYTES);
    assert_eq!(run.op(put("full", &full, Condition::None)), done(7));
    let more = run.op(put("more", &format!("{full}v"), Condition::None));
    assert!(matches!(more, Answer::LimitExceeded(_)));
    assert_eq!(run.0.key_count(), 2);
}

#[test]
fn all_values_together_have_a_limit_and_deleting_makes_room() {
    let mut run = Run::new();
    // As if 256 MiB less 10 bytes were there already.
    run.0.bytes = limits::TOTAL_BYTES - 10;
    assert!(matches!(run.op(put("key", "12345678", Condition::None)), Answer::LimitExceeded(_)));
    assert_eq!(run.op(put("key", "1234567", Condition::None)), done(2));
    assert_eq!(run.op(put("key", "7654321", Condition::None)), done(3), "a modification takes no more room");
    assert!(matches!(run.op(put("k", "", Condition::None)), Answer::LimitExceeded(_)));
    run.op(delete("key"));
    assert_eq!(run.0.byte_count(), limits::TOTAL_BYTES - 10);
}

#[test]
fn the_number_of_keys_has_a_limit() {
    let mut run = Run::new();
    let value = Value { value: Bytes::new(), version: LogIndex(0), created: LogIndex(0), term: Term(0) };
    for key in (0..limits::KEYS).map(|i| i.to_string()) {
        run.0.bytes += key.len();
        run.0.keys.insert(key, value.clone());
    }
    assert!(matches!(run.op(put("one more", "", Condition::None)), Answer::LimitExceeded(_)));
    assert_eq!(run.op(put("7", "", Condition::None)), done(2), "those that exist can be modified");
}

#[test]
fn members_and_fences_have_limits() {
    let mut run = Run::new();
    let member = |id, peer: &str| {
        let text = String::from;
        Op::SetMember(Member {
            id: NodeId(id),
            peer: text(peer),
            proxy: text("p"),
            hop: text("h"),
            api: text("a"),
            zone: None,
        })
    };
    for id in 0..limits::MEMBERS as u64 {
        assert!(matches!(run.op(member(id, "a:1")), Answer::Done { .. }));
    }
    assert!(matches!(run.op(member(1_000, "a:1")), Answer::LimitExceeded(_)));
    assert!(matches!(run.op(member(3, &"a".repeat(301))), Answer::LimitExceeded(_)));
    assert!(matches!(run.op(member(3, "b:1")), Answer::Done { .. }));
    assert_eq!(run.0.member(NodeId(3)).unwrap().peer, "b:1");
    let stands = FenceRecord { term: Term(1), node: NodeId(1), index: LogIndex(1) };
    run.0.fences = (0..limits::FENCES).map(|i| (i.to_string(), stands)).collect();
    let raise = |name: &str| Op::FenceRaised { resource: name.into(), term: Term(2), node: NodeId(1) };
    assert!(matches!(run.op(raise("one more")), Answer::LimitExceeded(_)));
    assert!(matches!(run.op(raise("7")), Answer::Done { .. }));
}

#[test]
fn a_no_op_records_the_leader_and_old_ones_are_forgotten() {
    let mut run = Run::new();
    for term in 1..=limits::LEADERS as u64 + 3 {
        assert_eq!(run.entry(term, Payload::NoOp { leader: NodeId(term % 3) }), None);
    }
    assert_eq!(run.0.leaders().count(), limits::LEADERS);
    let first = LeaderRecord { term: Term(4), node: NodeId(1), index: LogIndex(4) };
    assert_eq!(run.0.leaders().next(), Some(&first));
}

#[test]
fn a_membership_is_remembered() {
    let mut run = Run::new();
    let membership = Membership::of_voters([NodeId(1), NodeId(2), NodeId(3)]);
    assert_eq!(run.entry(1, Payload::Membership(membership.clone())), None);
    assert_eq!(run.0.membership(), &membership);
}

#[test]
fn bytes_that_are_no_command_are_counted_and_change_nothing() {
    let mut run = Run::new();
    let Payload::Command(good) = encoded(1, put("k", "v", Condition::None)) else { unreachable!() };
    let longer = Bytes::from([&good[..], b"x"].concat());
    for bytes in [Bytes::new(), good.slice(..good.len() - 1), longer, Bytes::from_static(&[255; 40])] {
        assert_eq!(run.entry(1, Payload::Command(bytes)), Some(Answer::Undecodable));
    }
    assert_eq!((run.0.undecodable_count(), run.0.key_count()), (4, 0));
}

#[test]
#[should_panic(expected = "in order, each once")]
fn an_entry_that_is_left_out_stops_the_process() {
    Machine::new(Vec::new()).apply(&entry(2, 1, Payload::NoOp { leader: NodeId(1) }));
}

#[test]
fn a_list_has_the_keys_of_its_prefix_in_order() {
    let mut run = Run::new();
    for key in ["b/2", "a/1", "b/1", "b", "c", "b/3"] {
        run.op(put(key, "", Condition::None));
    }
    let names = |prefix, limit| run.0.list(prefix, limit).map(|(key, _)| key).collect::<Vec<_>>();
    assert_eq!(names("b/", 10), ["b/1", "b/2", "b/3"]);
    assert_eq!(names("b/", 2), ["b/1", "b/2"]);
    assert_eq!(names("", 10).len(), 6);
    assert_eq!(names("x", 10).len(), 0);
    let after = |after| run.0.list_after("b/", after, 10).map(|(key, _)| key).collect::<Vec<_>>();
    assert_eq!(after("b/1"), ["b/2", "b/3"]);
    assert_eq!(after("a"), ["b/1", "b/2", "b/3"]);
    assert_eq!(after("c").len(), 0);
}

#[test]
fn the_digest_tells_histories_apart() {
    let mut runs = [Run::new(), Run::new(), Run::new()];
    for run in &mut runs {
        run.op(put("k", "a", Condition::None));
    }
    assert!(runs.iter().all(|run| run.0.digest() == runs[0].0.digest()));
    runs[0].op(put("k", "b", Condition::None));
    runs[1].op(put("k", "c", Condition::None));
    runs[2].entry(2, encoded(1, put("k", "b", Condition::None)));
    let digests = runs.map(|run| run.0.digest());
    assert!(digests[0] != digests[1] && digests[1] != digests[2] && digests[0] != digests[2]);
}

/// What a test may ask: few keys and versions, so that conditions hold about as often as not.
fn any_op() -> impl Strategy<Value = Op> {
    let condition = prop_oneof![
        Just(Condition::None),
        Just(Condition::Exists),
        Just(Condition::Absent),
        (1..30u64).prop_map(|v| Condition::VersionIs(LogIndex(v))),
        (1..30u64).prop_map(|v| Condition::VersionIsNot(LogIndex(v))),
    ];
    let key = prop_oneof![Just("a"), Just("b"), Just("c"), Just("")].prop_map(String::from);
    (key, prop::collection::vec(any::<u8>(), 0..4), condition, any::<bool>()).prop_map(
        |(key, value, condition, put)| match put {
            true => Op::Put { key, value: value.into(), condition },
            false => Op::Delete { key, condition },
        },
    )
}

/// The same rules, said with a plain map: `None` when nothing changes.
fn expected(model: &BTreeMap<String, (Bytes, u64)>, op: &Op, stale: bool) -> bool {
    let (Op::Put { key, condition, .. } | Op::Delete { key, condition }) = op else { unreachable!() };
    let version = model.get(key).map(|(_, version)| LogIndex(*version));
    let holds = match condition {
        Condition::None => true,
        Condition::Exists => version.is_some(),
        Condition::Absent => version.is_none(),
        Condition::VersionIs(v) => version == Some(*v),
        Condition::VersionIsNot(v) => version != Some(*v),
    };
    holds && !stale && !key.is_empty() && (matches!(op, Op::Put { .. }) || version.is_some())
}

proptest! {
    #[test]
    fn the_machine_does_what_a_plain_map_does(steps in prop::collection::vec((any_op(), any::<bool>()), 1..30)) {
        let mut machine = Machine::new(Vec::new());
        let mut model: BTreeMap<String, (Bytes, u64)> = BTreeMap::new();
        for (at, (op, stale)) in (1..).zip(steps) {
            let changes = expected(&model, &op, stale);
            let answer = machine.apply(&entry(at, 2, encoded(if stale { 1 } else { 2 }, op.clone())));
            assert_eq!(matches!(answer, Some(Answer::Done { version }) if version.0 == at), changes, "{answer:?}");
            match op {
                Op::Put { key, value, .. } if changes => { model.insert(key, (value, at)); }
                Op::Delete { key, .. } if changes => { model.remove(&key); }
                _ => {}
            }
            let state: BTreeMap<String, (Bytes, u64)> =
                machine.list("", 100).map(|(k, v)| (k.into(), (v.value.clone(), v.version.0))).collect();
            assert_eq!(state, model);
            let bytes: usize = model.iter().map(|(k, (v, _))| k.len() + v.len()).sum();
            assert_eq!(machine.byte_count(), bytes);
        }
    }
}
