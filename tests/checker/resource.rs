//! Layer 3: hand-made good records pass, each bad one is caught, and any single edit of a good one too.

use crate::verdict::{Commit, Finding, Outcome, Verdict, Write, check};

fn write(body: &str, asked: u64, called_ns: u64, outcome: Outcome) -> Write {
    Write { body: body.to_string(), asked, called_ns, answered_ns: called_ns + 100, outcome }
}

fn acknowledged(seq: u64, term: u64) -> Outcome {
    Outcome::Acknowledged { seq, term }
}

fn denied() -> Outcome {
    Outcome::NotApplied("no-leader".to_string())
}

fn unknown() -> Outcome {
    Outcome::Unknown("outcome-unknown".to_string())
}

fn commit(seq: u64, term: u64, node: u64, body: &str, at_ns: u64) -> Commit {
    Commit { seq, term, node, body: body.to_string(), at_ns }
}

/// Two terms, a leader change, one write of each outcome; `late` was unknown and happened.
fn good() -> (Vec<Write>, Vec<Commit>) {
    let writes = vec![
        write("a", 1, 0, acknowledged(1, 4)),
        write("b", 2, 200, acknowledged(2, 4)),
        write("late", 1, 250, unknown()),
        write("gone", 1, 260, unknown()),
        write("no", 3, 300, denied()),
        write("c", 3, 400, acknowledged(4, 6)),
        write("d", 2, 600, acknowledged(5, 6)),
    ];
    let commits = vec![
        commit(1, 4, 1, "a", 50),
        commit(2, 4, 1, "b", 250),
        commit(3, 4, 1, "late", 390),
        commit(4, 6, 3, "c", 450),
        commit(5, 6, 3, "d", 650),
    ];
    (writes, commits)
}

/// The verdict on the good record after one edit of each side.
fn after(edit: impl FnOnce(&mut Vec<Write>, &mut Vec<Commit>)) -> Verdict {
    let (mut writes, mut commits) = good();
    edit(&mut writes, &mut commits);
    check(&writes, &commits)
}

#[test]
fn passes_a_record_with_every_outcome_and_resolves_the_unknown_ones() {
    let verdict = after(|_, _| {});
    let expected =
        Verdict { acknowledged: 4, not_applied: 1, unknown_applied: 1, unknown_absent: 1, findings: vec![] };
    assert_eq!(verdict, expected);
}

#[test]
fn passes_an_empty_record() {
    assert_eq!(check(&[], &[]), Verdict::default());
}

#[test]
fn passes_an_unknown_write_that_lands_long_after_its_answer() {
    let verdict = after(|_, commits| commits.push(commit(6, 6, 3, "gone", 9_000)));
    assert_eq!((verdict.unknown_applied, verdict.findings), (2, vec![]));
}

#[test]
fn passes_terms_that_skip_numbers_and_nodes_that_lead_again() {
    let verdict = after(|writes, commits| {
        writes.push(write("e", 1, 700, acknowledged(6, 90)));
        commits.push(commit(6, 90, 1, "e", 750));
    });
    assert_eq!(verdict.findings, vec![]);
}

#[test]
fn catches_a_write_of_an_old_term_after_one_of_a_new_term() {
    let verdict = after(|_, commits| commits.push(commit(6, 4, 1, "gone", 700)));
    assert_eq!(verdict.findings, vec![Finding::StaleCommit { seq: 6, term: 4, after: 6 }]);
    assert_eq!(verdict.stale_commits(), 1);
}

#[test]
fn catches_an_old_term_even_between_two_new_ones() {
    let verdict = after(|writes, commits| {
        commits.insert(4, commit(5, 5, 2, "gone", 500));
        commits[5].seq = 6;
        writes[6].outcome = acknowledged(6, 6);
    });
    assert_eq!(verdict.findings, vec![Finding::StaleCommit { seq: 5, term: 5, after: 6 }]);
}

#[test]
fn catches_two_nodes_that_write_under_one_term() {
    let verdict = after(|_, commits| commits[2].node = 2);
    assert_eq!(verdict.findings, vec![Finding::TwoWriters { term: 4, first: 1, second: 2, seq: 3 }]);
    assert_eq!(verdict.stale_commits(), 1);
}

#[test]
fn catches_an_acknowledged_write_that_is_missing() {
    let verdict = after(|_, commits| {
        commits.pop();
    });
    assert_eq!(verdict.findings, vec![Finding::Lost { body: "d".to_string() }]);
    assert_eq!(verdict.lost(), 1);
}

#[test]
fn catches_a_backend_that_forgot_everything() {
    let verdict = after(|_, commits| commits.clear());
    assert_eq!(verdict.lost(), 4);
}

#[test]
fn catches_an_acknowledgement_with_another_term_than_the_record() {
    let verdict = after(|writes, _| writes[0].outcome = acknowledged(1, 6));
    let expected = Finding::WronglyAcknowledged { body: "a".to_string(), told: (1, 6), recorded: (1, 4) };
    assert_eq!(verdict.findings, vec![expected]);
}

#[test]
fn catches_an_acknowledgement_with_another_position_than_the_record() {
    let verdict = after(|writes, _| writes[0].outcome = acknowledged(2, 4));
    assert_eq!(verdict.lost(), 1);
}

#[test]
fn catches_an_acknowledgement_that_came_before_the_commit() {
    let verdict = after(|_, commits| commits[4].at_ns = 701);
    assert_eq!(verdict.findings, vec![Finding::AcknowledgedTooEarly { body: "d".to_string() }]);
}

#[test]
fn catches_a_denied_write_that_was_applied() {
    let verdict = after(|writes, _| writes[2].outcome = denied());
    let reason = "no-leader".to_string();
    assert_eq!(
        verdict.findings,
        vec![Finding::DeniedYetApplied { body: "late".to_string(), reason, seq: 3 }]
    );
    assert_eq!(verdict.wrong_outcomes(), 1);
}

#[test]
fn catches_a_denied_write_that_lands_after_the_denial() {
    let verdict = after(|_, commits| commits.push(commit(6, 6, 3, "no", 9_000)));
    assert_eq!(verdict.wrong_outcomes(), 1);
}

#[test]
fn catches_an_acknowledged_write_that_happened_twice() {
    let verdict = after(|_, commits| commits.push(commit(6, 6, 3, "d", 690)));
    assert_eq!(verdict.findings, vec![Finding::Duplicate { body: "d".to_string(), first: 5, second: 6 }]);
}

#[test]
fn catches_an_unknown_write_that_happened_twice() {
    let verdict = after(|_, commits| commits.push(commit(6, 6, 3, "late", 690)));
    assert_eq!(verdict.findings, vec![Finding::Duplicate { body: "late".to_string(), first: 3, second: 6 }]);
}

#[test]
fn catches_a_write_that_nobody_sent() {
    let verdict = after(|_, commits| commits.push(commit(6, 6, 3, "ghost", 700)));
    assert_eq!(verdict.findings, vec![Finding::FromNowhere { seq: 6, body: "ghost".to_string() }]);
}

#[test]
fn catches_a_write_recorded_before_it_was_sent() {
    let verdict = after(|_, commits| commits[4].at_ns = 599);
    assert_eq!(verdict.findings, vec![Finding::BeforeItsCall { body: "d".to_string() }]);
}

#[test]
fn catches_an_answer_without_an_outcome() {
    let verdict = after(|writes, _| writes[4].outcome = Outcome::Unstated("502".to_string()));
    let answer = "502".to_string();
    assert_eq!(verdict.findings, vec![Finding::OutcomeUnstated { body: "no".to_string(), answer }]);
}

#[test]
fn catches_several_faults_at_once_and_counts_each_under_its_kind() {
    let verdict = after(|writes, commits| {
        writes[2].outcome = denied();
        commits.push(commit(6, 4, 1, "gone", 700));
        commits.remove(0);
    });
    assert_eq!((verdict.stale_commits(), verdict.lost(), verdict.wrong_outcomes()), (1, 1, 1));
}

#[test]
#[should_panic(expected = "two writes the same body")]
fn refuses_to_judge_a_record_whose_bodies_are_not_unique() {
    after(|writes, _| writes[1].body = "a".to_string());
}

/// The tester tested: in long good records, any one of these edits must be seen.
#[test]
fn any_single_edit_of_a_long_good_record_is_caught() {
    let (writes, commits) = long_good_record(1_000);
    assert_eq!(check(&writes, &commits).findings, vec![]);
    for at in (1..999).step_by(7) {
        let edits: [fn(&mut Vec<Commit>, usize); 4] = [
            |commits, at| commits[at].term -= 1,
            |commits, at| commits[at].node += 1,
            |commits, at| commits.swap(at, at + 1),
            |commits, at| drop(commits.remove(at)),
        ];
        for (number, edit) in edits.into_iter().enumerate() {
            let mut edited = commits.clone();
            edit(&mut edited, at);
            if edited == commits {
                continue;
            }
            // A swap inside one term keeps positions with their bodies: it is the same history.
            let same_term = commits[at].term == commits[at + 1].term;
            let expected_clean = number == 2 && same_term;
            let is_clean = check(&writes, &edited).findings.is_empty();
            assert_eq!(is_clean, expected_clean, "edit {number} at {at}");
        }
    }
}

/// Terms of ten writes each, led by three nodes in turn.
fn long_good_record(length: u64) -> (Vec<Write>, Vec<Commit>) {
    let term = |seq: u64| 2 + (seq - 1) / 10 * 2;
    let body = |seq: u64| format!("w{seq}");
    let writes = (1..=length).map(|s| write(&body(s), s % 3, s * 1_000, acknowledged(s, term(s))));
    let commits = (1..=length).map(|s| commit(s, term(s), term(s) / 2 % 3, &body(s), s * 1_000 + 50));
    (writes.collect(), commits.collect())
}
