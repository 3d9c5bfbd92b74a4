//! Hand-made histories that are not linearizable. Each says what the witness must find, exactly, and whether the search,
//! which trusts no index, sees it too.

use crate::lin::Decision;
use crate::lin::judge::{STEP_LIMIT, judge, search_keys};
use crate::lin::model::State;
use crate::lin::search::Stuck;
use crate::lin::witness::{self, Finding};
use crate::notation::history;
use crate::second_opinion::both_find_an_order;

/// No order exists, whatever the indexes say.
const NO_ORDER: bool = false;
/// Only the indexes are wrong: without them there is an order.
const IN_ORDER: bool = true;

#[track_caller]
fn is_caught(text: &str, findings: &[Finding], order: bool) {
    let history = history(text);
    assert_eq!(witness::check(&history), Decision::Broken(findings.to_vec()));
    assert_eq!(both_find_an_order(&history), order);
}

fn differs(op: usize, key: &str, replay: &str) -> Finding {
    Finding::Differs { op, key: key.to_owned(), replay: replay.to_owned() }
}

fn from_nowhere(op: usize, key: &str, version: u64) -> Finding {
    Finding::FromNowhere { op, key: key.to_owned(), version }
}

#[test]
fn a_stale_read_that_tells_its_index() {
    is_caught(
        "c1 0..10 put a 1 -> done 2@1
         c1 20..30 put a 2 -> done 3@1
         c2 40..50 get a -> v2=1 2@1",
        &[Finding::Overtakes { op: 2, index: 2, floor: 3 }],
        NO_ORDER,
    );
}

#[test]
fn a_stale_read_that_lies_about_its_index() {
    is_caught(
        "c1 0..10 put a 1 -> done 2@1
         c1 20..30 put a 2 -> done 3@1
         c2 40..50 get a lease -> v2=1 3@1",
        &[differs(2, "a", "v3=2")],
        NO_ORDER,
    );
}

#[test]
fn a_follower_that_goes_back_though_it_said_linearizable() {
    is_caught(
        "c1 0..100 put a 1 -> done 2@1
         c2 10..20 get a -> v2=1 2@1
         c2 30..40 get a -> absent 1@1",
        &[Finding::Overtakes { op: 2, index: 1, floor: 2 }],
        NO_ORDER,
    );
}

#[test]
fn another_client_sees_less_than_was_shown() {
    is_caught(
        "c1 0..10 put a 1 -> done 2@1
         c1 20..200 put a 2 -> unknown
         c2 40..50 get a -> v3=2 3@1
         c3 60..70 get a lease -> v2=1 2@1",
        &[Finding::Overtakes { op: 3, index: 2, floor: 3 }],
        NO_ORDER,
    );
}

#[test]
fn an_acknowledged_write_is_lost() {
    is_caught(
        "c1 0..10 put a 1 -> done 2@1
         c2 20..30 get a -> absent 3@2",
        &[differs(1, "a", "v2=1")],
        NO_ORDER,
    );
}

#[test]
fn an_acknowledged_write_is_lost_and_its_index_used_again() {
    is_caught(
        "c1 0..10 put a 1 -> done 2@1
         c2 20..30 put b 2 -> done 2@2",
        &[
            Finding::TwoWrites { index: 2, first: 0, second: 1 },
            Finding::Overtakes { op: 1, index: 2, floor: 2 },
        ],
        IN_ORDER,
    );
}

#[test]
fn two_concurrent_writes_share_an_index() {
    is_caught(
        "c1 0..100 put a 1 -> done 2@1
         c2 0..100 put b 2 -> done 2@1",
        &[Finding::TwoWrites { index: 2, first: 0, second: 1 }],
        IN_ORDER,
    );
}

#[test]
fn one_request_is_applied_twice() {
    is_caught(
        "c1 0..10 put a 1 -> done 2@1
         c2 20..30 put a 2 -> done 3@1
         c2 40..50 get a -> v4=1 4@1",
        &[from_nowhere(2, "a", 4)],
        NO_ORDER,
    );
}

#[test]
fn an_unknown_write_happens_twice() {
    is_caught(
        "c1 0..10 put a 1 -> unknown
         c2 20..30 get a -> v2=1 2@1
         c2 40..50 put a 2 -> done 3@1
         c2 60..70 get a -> v4=1 4@1",
        &[from_nowhere(3, "a", 4)],
        NO_ORDER,
    );
}

#[test]
fn an_unknown_delete_happens_twice() {
    is_caught(
        "c1 0..10 put a 1 -> done 2@1
         c2 20..30 delete a -> unknown
         c1 40..50 get a -> absent 4@1
         c1 60..70 put a 2 -> done 5@1
         c1 80..90 get a -> absent 7@1",
        &[differs(4, "a", "v5=2")],
        NO_ORDER,
    );
}

#[test]
fn two_reads_of_one_index_show_different_states() {
    is_caught(
        "c1 0..10 put a 1 -> done 2@1
         c2 20..30 delete a -> unknown
         c1 40..60 get a -> v2=1 4@1
         c3 40..60 get a -> absent 4@1",
        &[differs(3, "a", "v2=1")],
        IN_ORDER,
    );
}

#[test]
fn a_key_changes_its_version_and_not_its_value() {
    is_caught(
        "c1 0..10 put a 1 -> done 2@1
         c2 20..30 put a 2 if v3 -> held v4 5@1",
        &[from_nowhere(1, "a", 4)],
        NO_ORDER,
    );
}

#[test]
fn a_write_is_seen_before_it_is_called() {
    is_caught(
        "c2 0..10 get a -> v2=1 2@1
         c1 20..30 put a 1 -> done 2@1",
        &[Finding::Overtakes { op: 1, index: 2, floor: 2 }],
        NO_ORDER,
    );
}

#[test]
fn an_unknown_write_is_seen_before_it_is_called() {
    is_caught(
        "c2 0..10 get a -> v2=1 2@1
         c1 20..30 put a 1 -> unknown",
        &[from_nowhere(0, "a", 2)],
        NO_ORDER,
    );
}

#[test]
fn a_refused_write_is_seen() {
    is_caught(
        "c1 0..10 put a 1 -> refused
         c2 20..30 get a -> v2=1 2@1",
        &[from_nowhere(1, "a", 2)],
        NO_ORDER,
    );
}

#[test]
fn a_write_that_was_held_back_is_seen() {
    is_caught(
        "c1 0..10 put a 1 -> done 2@1
         c1 20..30 put a 2 if absent -> held v2 3@1
         c2 40..50 get a -> v3=2 3@1",
        &[from_nowhere(2, "a", 3), differs(2, "a", "v2=1")],
        NO_ORDER,
    );
}

#[test]
fn two_compare_and_sets_of_one_version_both_win() {
    is_caught(
        "c1 0..10 put a 1 -> done 2@1
         c2 20..40 put a 2 if v2 -> done 3@1
         c3 20..40 put a 3 if v2 -> done 4@1",
        &[differs(2, "a", "v3=2")],
        NO_ORDER,
    );
}

#[test]
fn a_compare_and_set_fails_on_the_version_that_the_key_has() {
    is_caught(
        "c1 0..10 put a 1 -> done 2@1
         c2 20..40 put a 2 if v2 -> held v2 3@1",
        &[Finding::Contradicts { op: 1 }],
        NO_ORDER,
    );
}

#[test]
fn a_key_is_made_twice() {
    is_caught(
        "c1 0..10 put a 1 if absent -> done 2@1
         c2 5..40 put a 2 if absent -> done 3@1",
        &[differs(1, "a", "v2=1")],
        NO_ORDER,
    );
}

#[test]
fn a_key_is_deleted_twice() {
    is_caught(
        "c1 0..10 put a 1 -> done 2@1
         c1 20..30 delete a -> done 3@1
         c2 20..40 delete a -> done 4@1",
        &[differs(2, "a", "absent")],
        NO_ORDER,
    );
}

#[test]
fn a_deleted_key_is_resurrected() {
    is_caught(
        "c1 0..10 put a 1 -> done 2@1
         c1 20..30 delete a -> done 3@1
         c2 40..50 get a -> v2=1 4@1",
        &[differs(2, "a", "absent")],
        NO_ORDER,
    );
}

#[test]
fn a_value_is_changed_by_nobody() {
    is_caught(
        "c1 0..10 put a 1 -> done 2@1
         c2 40..50 get a -> v2=9 2@1",
        &[differs(1, "a", "v2=1")],
        NO_ORDER,
    );
}

#[test]
fn a_value_of_another_key_is_shown() {
    is_caught(
        "c1 0..10 put a 1 -> done 2@1
         c1 20..30 put b 2 -> done 3@1
         c2 40..50 get a -> v3=2 3@1",
        &[from_nowhere(2, "a", 3), differs(2, "a", "v2=1")],
        NO_ORDER,
    );
}

#[test]
fn a_list_leaves_a_key_out() {
    is_caught(
        "c1 0..10 put r/a 1 -> done 2@1
         c1 20..30 put r/b 2 -> done 3@1
         c2 40..50 list r/ -> r/b:v3 3@1",
        &[differs(2, "r/a", "v2=1")],
        IN_ORDER,
    );
}

#[test]
fn a_list_mixes_two_moments() {
    is_caught(
        "c1 0..10 put r/a 1 -> done 2@1
         c1 20..30 put r/a 2 -> done 3@1
         c1 40..50 put r/b 3 -> done 4@1
         c2 0..60 list r/ -> r/a:v2 r/b:v4 4@1",
        &[differs(3, "r/a", "v3=2")],
        IN_ORDER,
    );
}

#[test]
fn a_term_goes_back_along_the_log() {
    is_caught(
        "c1 0..10 put a 1 -> done 2@5
         c1 20..30 put b 2 -> done 3@4",
        &[Finding::TermFell { op: 1, term: 4, before: 5 }],
        IN_ORDER,
    );
}

#[test]
fn a_read_is_older_than_the_index_it_waited_for() {
    is_caught(
        "c1 0..10 put a 1 -> done 2@1
         c2 40..50 get a stale from 2 -> absent 1@1",
        &[Finding::BelowMinIndex { op: 1, index: 1, min_index: 2 }],
        IN_ORDER,
    );
}

#[test]
fn a_stale_read_shows_a_state_that_never_was() {
    is_caught(
        "c1 0..10 put a 1 -> done 2@1
         c1 20..30 put a 2 -> done 3@1
         c2 40..50 get a stale -> v3=1 3@1",
        &[differs(2, "a", "v3=2")],
        IN_ORDER,
    );
}

/// Two reads in a row of two concurrent writes, in two orders: each alone is fine.
#[test]
fn two_clients_see_two_writes_in_different_orders() {
    is_caught(
        "c1 0..100 put a 1 -> unknown
         c2 0..100 put a 2 -> unknown
         c3 10..20 get a -> v2=1 2@1
         c3 30..40 get a -> v3=2 3@1
         c4 50..60 get a -> v2=1 3@1",
        &[differs(4, "a", "v3=2")],
        NO_ORDER,
    );
}

/// Honest about everything but real time: the replay of the indexes is perfect.
#[test]
fn a_write_is_ordered_before_one_that_ended_before_it_began() {
    is_caught(
        "c1 0..10 put a 1 -> done 3@1
         c2 20..30 put a 2 -> done 2@1
         c3 40..50 get a -> v3=1 3@1",
        &[Finding::Overtakes { op: 1, index: 2, floor: 3 }],
        NO_ORDER,
    );
}

#[test]
fn a_search_that_runs_out_of_steps_is_undecided_and_does_not_hold() {
    // Twelve writes that may have happened in any order, and a read of what nobody wrote.
    let mut text: String = (0..12).map(|n| format!("c{n} 0..10 put a {n} -> done {}@1\n", n + 2)).collect();
    text += "c99 40..50 get a -> v2=77 13@1";
    let history = history(&text);
    let keys = search_keys(&history, 1_000);
    assert!(matches!(keys["a"].decision, Decision::Undecided(_)), "{:?}", keys["a"]);
    // The last look at what may come next is finished.
    assert!(keys["a"].steps <= 1_000 + 13, "{} steps", keys["a"].steps);
    let mut judgement = judge(&history);
    judgement.witness = Decision::Holds;
    judgement.keys = keys;
    assert!(!judgement.holds() && judgement.decided_keys() == 0);
    assert_eq!(judgement.problems(&history).len(), 1);
}

/// The stale one of many reads is found among them.
#[test]
fn one_stale_read_among_many_at_once_is_decided() {
    let mut text = String::from("c1 0..10 put a 1 -> done 2@1\nc1 20..30 put a 2 -> done 3@1\n");
    for reader in 10..70 {
        let saw = if reader == 40 { "v2=1 2@1" } else { "v3=2 3@1" };
        text += &format!("c{reader} 35..100 get a lease -> {saw}\n");
    }
    let history = history(&text);
    let expected = Finding::Overtakes { op: 32, index: 2, floor: 3 };
    assert_eq!(witness::check(&history), Decision::Broken(vec![expected]));
    let keys = search_keys(&history, STEP_LIMIT);
    assert!(matches!(keys["a"].decision, Decision::Broken(_)), "{:?}", keys["a"]);
}

/// Thirty writes that may have happened, or not, are no reason to give up.
#[test]
fn a_lost_write_among_many_unknown_ones_is_decided() {
    let mut text = String::from("c1 0..10 put a 1 -> done 2@1\n");
    text.extend((0..30).map(|n| format!("c{} 20..30 put a {n}00 if v2 -> unknown\n", n + 10)));
    text += "c1 40..50 put a 2 if v2 -> done 3@1\nc1 60..70 get a -> v2=1 4@1";
    let history = history(&text);
    assert_eq!(witness::check(&history), Decision::Broken(vec![differs(32, "a", "v3=2")]));
    let keys = search_keys(&history, 1_000);
    assert!(matches!(keys["a"].decision, Decision::Broken(_)), "{:?}", keys["a"]);
}

/// Which unknown write took index 3 is a guess, and the wrong one makes what follows look broken.
#[test]
fn a_witness_that_had_to_guess_is_undecided_and_does_not_hold() {
    let history = history(
        "c1 0..10 put a 1 if exists -> unknown
         c2 0..10 put a 2 if not v8 -> unknown
         c3 20..30 put a 3 -> done 2@1
         c3 40..50 put a 4 if v2 -> held v3 4@1
         c3 60..70 put a 5 -> done 8@1
         c3 80..90 put a 6 if v2 -> held v9 10@1",
    );
    let decision = witness::check(&history);
    assert!(matches!(decision, Decision::Undecided(_)), "{decision:?}");
    assert!(both_find_an_order(&history) && !judge(&history).holds());
}

#[test]
fn a_violation_is_told_with_the_operations_it_is_about() {
    let history = history(
        "c1 0..10 put a 1 -> done 2@1
         c1 20..30 put a 2 -> done 3@1
         c2 40..50 get a -> v2=1 2@1",
    );
    let keys = search_keys(&history, STEP_LIMIT);
    let stuck = Stuck {
        placed: 2,
        of: 3,
        last: vec![0, 1],
        state: State::Present { version: Some(3), value: 2 },
        blocker: 2,
    };
    assert_eq!(keys["a"].decision, Decision::Broken(stuck));
    let problems = judge(&history).problems(&history).join("\n");
    assert!(problems.starts_with("layer 1: Overtakes"), "{problems}");
    assert!(problems.contains("layer 2: a has no order"), "{problems}");
    assert_eq!(problems.matches("c2 40..50 get a -> v2=1 2@1").count(), 2, "{problems}");
}
