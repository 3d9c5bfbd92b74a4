//! Hand-made histories that are linearizable, each with something that looks wrong at first sight.

use crate::lin::Decision;
use crate::lin::judge::{STEP_LIMIT, search_keys};
use crate::lin::witness;
use crate::notation::history;
use crate::second_opinion::both_find_an_order;

#[track_caller]
fn passes(text: &str) {
    let history = history(text);
    assert_eq!(witness::check(&history), Decision::Holds);
    assert!(both_find_an_order(&history));
}

#[test]
fn nothing_happened() {
    passes("");
}

#[test]
fn one_after_the_other() {
    passes(
        "c1 0..10 get a -> absent 1@1
         c1 20..30 put a 7 -> done 2@1
         c1 40..50 get a -> v2=7 2@1
         c1 60..70 put a 8 if v2 -> done 3@1
         c1 80..90 get a lease -> v3=8 3@1
         c1 100..110 delete a if v3 -> done 4@1
         c1 120..130 get a -> absent 4@1",
    );
}

#[test]
fn a_write_is_seen_while_it_is_under_way_and_missed_by_another() {
    passes(
        "c1 0..100 put a 7 -> done 2@1
         c2 10..20 get a -> absent 1@1
         c3 30..40 get a -> v2=7 2@1
         c2 50..60 get a -> v2=7 2@1",
    );
}

#[test]
fn concurrent_writes_end_in_another_order_than_they_were_called() {
    passes(
        "c1 0..50 put a 1 -> done 3@1
         c2 5..40 put a 2 -> done 2@1
         c3 60..70 get a -> v3=1 3@1",
    );
}

#[test]
fn an_answer_and_a_call_at_the_same_moment_are_concurrent() {
    passes(
        "c1 0..10 put a 1 -> done 2@1
         c2 10..20 get a -> absent 1@1",
    );
}

#[test]
fn an_unknown_write_that_never_happened() {
    passes(
        "c1 0..10 put a 1 -> done 2@1
         c2 20..30 put a 2 -> unknown
         c1 40..50 get a -> v2=1 2@1
         c1 60..70 delete a -> done 3@1",
    );
}

#[test]
fn an_unknown_write_that_happened_long_after_its_client_gave_up() {
    passes(
        "c2 0..10 put a 2 -> unknown
         c1 20..30 put a 1 -> done 2@1
         c1 40..50 get a -> v2=1 2@1
         c1 60..70 get a -> v3=2 4@2",
    );
}

#[test]
fn an_unknown_write_that_only_its_version_tells_of() {
    passes(
        "c1 0..10 put a 1 -> done 2@1
         c2 20..30 put a 2 -> unknown
         c1 40..50 put a 3 if v2 -> held v3 4@1",
    );
}

#[test]
fn an_unknown_write_that_only_the_condition_of_another_tells_of() {
    passes(
        "c1 0..10 put a 1 -> done 2@1
         c2 20..30 put a 2 -> unknown
         c3 40..50 put a 3 if v3 -> unknown
         c1 60..70 get a -> v5=3 5@1",
    );
}

#[test]
fn an_unknown_delete_that_happened() {
    passes(
        "c1 0..10 put a 1 -> done 2@1
         c2 20..30 delete a if v2 -> unknown
         c1 40..50 get a -> v2=1 2@1
         c1 60..70 get a -> absent 4@1
         c1 80..90 put a 4 if absent -> done 5@1",
    );
}

#[test]
fn an_unknown_write_that_only_a_delete_tells_of() {
    passes(
        "c2 20..30 put a 2 if absent -> unknown
         c1 40..50 delete a -> done 4@1
         c1 60..70 get a -> absent 4@1",
    );
}

#[test]
fn unknown_writes_that_follow_from_each_other() {
    passes(
        "c1 0..10 put a 1 if absent -> unknown
         c2 20..30 delete a if exists -> unknown
         c3 40..50 put a 3 if absent -> unknown
         c4 60..70 get a -> v2=1 2@1
         c4 80..90 get a -> v4=3 4@1",
    );
}

#[test]
fn a_refused_write_is_never_seen() {
    passes(
        "c1 0..10 put a 1 -> done 2@1
         c2 20..30 put a 2 -> refused
         c1 40..50 get a -> v2=1 2@1",
    );
}

#[test]
fn one_of_two_compare_and_sets_wins() {
    passes(
        "c1 0..10 put a 1 -> done 2@1
         c2 20..40 put a 2 if v2 -> done 3@1
         c3 20..40 put a 3 if v2 -> held v3 4@1
         c3 50..60 get a -> v3=2 4@1",
    );
}

#[test]
fn every_condition_as_it_should_be() {
    passes(
        "c1 0..10 put a 1 if absent -> done 2@1
         c1 20..30 put a 2 if absent -> held v2 3@1
         c1 40..50 put a 3 if exists -> done 4@1
         c1 60..70 put a 4 if not v4 -> held v4 5@1
         c1 80..90 put a 5 if not v2 -> done 6@1
         c1 100..110 put a 6 if v4 -> held v6 7@1
         c1 120..130 delete a if v2 -> held v6 8@1
         c1 140..150 delete a if exists -> done 9@1
         c1 160..170 delete a -> held absent 10@1
         c1 180..190 put a 7 if exists -> held absent 11@1
         c1 200..210 put a 8 if not v6 -> done 12@1
         c1 220..230 delete a if not v2 -> done 13@1",
    );
}

#[test]
fn a_deleted_key_comes_back_with_a_new_version() {
    passes(
        "c1 0..10 put a 1 -> done 2@1
         c1 20..30 delete a -> done 3@1
         c1 40..50 put a 1 -> done 4@1
         c1 60..70 put a 2 if v2 -> held v4 5@1",
    );
}

#[test]
fn a_stale_read_from_the_past() {
    passes(
        "c1 0..10 put a 1 -> done 2@1
         c1 20..30 put a 2 -> done 3@1
         c2 40..50 get a stale -> v2=1 2@1
         c2 60..70 get a stale from 3 -> v3=2 3@1
         c2 80..90 get a stale -> absent 1@1
         c2 100..110 list a stale -> a:v2 2@1",
    );
}

#[test]
fn a_list_shows_several_keys_at_one_moment() {
    passes(
        "c1 0..10 put r/a 1 -> done 2@1
         c1 20..30 put r/b 2 -> done 3@1
         c1 40..50 put s/a 3 -> done 4@1
         c1 60..70 delete r/a -> done 5@1
         c2 40..90 list r/ -> r/a:v2 r/b:v3 4@1
         c2 100..110 list r/ lease -> r/b:v3 5@1
         c2 120..130 list t/ -> 5@1",
    );
}

#[test]
fn terms_rise_and_indexes_are_left_out() {
    passes(
        "c1 0..10 put a 1 -> done 2@1
         c2 20..30 put b 2 -> done 90@7
         c1 40..50 get a -> v2=1 91@8",
    );
}

#[test]
fn reads_without_an_answer_say_nothing() {
    passes(
        "c1 0..10 put a 1 -> done 2@1
         c2 20..30 get a -> unknown
         c2 40..50 list a -> unknown",
    );
}

/// Too many reads at once for a search that tries them in every order, as the other's does.
#[test]
fn many_reads_at_once_are_decided() {
    let mut text = String::from("c1 0..10 put a 1 -> done 2@1\nc1 20..90 put a 2 -> done 3@1\n");
    text += "c2 20..90 put a 3 -> unknown\nc3 95..96 get a -> v4=3 4@1\n";
    for reader in 10..70 {
        let saw = ["v2=1 2@1", "v3=2 3@1", "v4=3 4@1"][reader % 3];
        text += &format!("c{reader} 15..100 get a -> {saw}\n");
    }
    let history = history(&text);
    assert_eq!(witness::check(&history), Decision::Holds);
    assert_eq!(search_keys(&history, STEP_LIMIT)["a"].decision, Decision::Holds);
}

/// Too many writes at once for a search that does not try first what the indexes say: the last is called first.
#[test]
fn many_writes_at_once_are_decided() {
    let mut text = String::new();
    for n in 0..24 {
        text += &format!("c{n} {n}..100 put a {n} -> done {}@1\n", 30 - n);
    }
    text += "c30 110..120 get a -> v30=0 30@1";
    let history = history(&text);
    assert_eq!(witness::check(&history), Decision::Holds);
    assert_eq!(search_keys(&history, STEP_LIMIT)["a"].decision, Decision::Holds);
}
