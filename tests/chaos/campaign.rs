//! Rounds of one fault under load, judged by the checker.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::faults::{Fault, wait_for_writes};
use crate::support::client::{Crowd, Habits};
use crate::support::cluster::{Cluster, Plan};
use crate::support::number_from_env;
use crate::support::placement::Placement;
use crate::support::stats::print_table;
use crate::support::verdict::{Outcome, Verdict, Write, check};
use crate::{machine, namespaces_work, row};

/// Six for each of three nodes. Most of them rest at any moment: those with a write in flight when a
/// leader falls silent may wait for seconds, and the gap should show what others see.
const CLIENTS: usize = 18;
const CLIENT_PAUSE: Duration = Duration::from_millis(30);
/// Longer than the nodes' hold time, so that a client hears what the node decided.
const CLIENT_PATIENCE: Duration = Duration::from_secs(4);
/// Writes that must pass in health, before each fault.
const WRITES_BEFORE: usize = 20;
/// A slow backend gives a fault more writes to catch in flight.
const BACKEND_SLOWEST: Duration = Duration::from_millis(8);
/// Rounds of each fault within `make test`.
const SHORT_ROUNDS: usize = 2;
/// Findings that are shown in full.
const SHOWN_FINDINGS: usize = 20;

/// What the rounds of one fault came to.
#[derive(Debug)]
struct Summary {
    fault: Fault,
    rounds: usize,
    verdict: Verdict,
    leader_changes: usize,
    longest_gap: Duration,
}

#[test]
fn killed_leaders_lose_nothing() {
    run_short(Fault::Kill);
}

#[test]
fn stopped_leaders_wake_up_fenced() {
    run_short(Fault::Stop);
}

#[test]
fn a_leader_stopped_between_gate_and_send_is_fenced() {
    run_short(Fault::StopBeforeSend);
}

#[test]
fn an_isolated_leader_that_reaches_the_backend_is_fenced() {
    run_short(Fault::IsolateLeader);
}

#[test]
fn a_deaf_leader_gives_way() {
    run_short(Fault::DeafLeader);
}

#[test]
fn a_mute_leader_gives_way() {
    run_short(Fault::MuteLeader);
}

#[test]
fn an_isolated_follower_disturbs_nothing() {
    run_short(Fault::IsolateFollower);
}

#[test]
fn what_comes_back_after_the_kill_of_all_goes_on_in_a_higher_term() {
    run_short(Fault::KillAll);
}

#[test]
fn a_rolling_restart_loses_nothing() {
    run_short(Fault::RollingRestart);
}

#[test]
fn members_come_and_go_and_nothing_is_lost() {
    run_short(Fault::AddAndRemove);
    run_short(Fault::ReplaceAndReturn);
}

/// The control: with no guard in front of the backend, the same fault must let stale writes through, and the
/// checker must see them. Otherwise the zeros above would mean nothing.
#[test]
fn without_a_guard_the_same_fault_is_seen_as_stale_commits() {
    let summary = run_at(Fault::StopBeforeSend, SHORT_ROUNDS, Plan { fence: "implicit", ..Plan::new(3) });
    print_summaries(std::slice::from_ref(&summary));
    assert!(summary.verdict.stale_commits() > 0, "nothing stale was let through: {:?}", summary.verdict);
}

/// `ROUNDS` of each fault with `NODES` nodes; `FAULT=mute` runs only those with that word in the name.
#[test]
#[ignore = "takes many minutes: make chaos ROUNDS=100"]
fn campaign() {
    let rounds = number_from_env("ROUNDS", 100);
    let only = std::env::var("FAULT").unwrap_or_default();
    let faults = Fault::ON_LOOPBACK.into_iter().chain(Fault::IN_NAMESPACES);
    let mut summaries = Vec::new();
    for fault in faults.filter(|fault| fault.name().contains(&only)) {
        if let Some(summary) = run(fault, rounds) {
            print_summaries(std::slice::from_ref(&summary));
            summaries.push(summary);
        }
    }
    println!();
    print_summaries(&summaries);
    assert!(summaries.iter().all(|s| s.verdict.findings.is_empty()), "see the findings above");
}

fn run_short(fault: Fault) {
    if let Some(summary) = run(fault, SHORT_ROUNDS) {
        print_summaries(std::slice::from_ref(&summary));
        assert_eq!(summary.verdict.findings, vec![]);
    }
}

/// `None` when the machine can't do it.
fn run(fault: Fault, rounds: usize) -> Option<Summary> {
    let needs_namespaces = Fault::IN_NAMESPACES.contains(&fault);
    if needs_namespaces && !namespaces_work() {
        return None;
    }
    let nodes = number_from_env("NODES", 3) as u64;
    let placement = if needs_namespaces { Placement::namespaces(nodes) } else { Placement::loopback() };
    Some(run_at(fault, rounds, Plan { placement, ..Plan::new(nodes) }))
}

fn run_at(fault: Fault, rounds: usize, plan: Plan) -> Summary {
    let _machine = machine();
    let mut cluster = Cluster::start(plan);
    cluster.ledger.be_slow(BACKEND_SLOWEST);
    let habits = Habits { nodes: cluster.proxies(), pause: CLIENT_PAUSE, patience: CLIENT_PATIENCE };
    let crowd = Crowd::start(CLIENTS, "w", &habits, cluster.start);
    for _ in 0..rounds {
        wait_for_writes(&cluster, cluster.ledger.len() + WRITES_BEFORE);
        fault.strike(&mut cluster);
        cluster.wait_whole();
    }
    wait_for_writes(&cluster, cluster.ledger.len() + WRITES_BEFORE);
    let writes = crowd.finish();
    sum_up(fault, rounds, &writes, cluster)
}

fn sum_up(fault: Fault, rounds: usize, writes: &[Write], mut cluster: Cluster) -> Summary {
    let commits = cluster.ledger.commits();
    let verdict = check(writes, &commits);
    for finding in verdict.findings.iter().take(SHOWN_FINDINGS) {
        println!("FOUND {finding:?}");
    }
    if !verdict.findings.is_empty() {
        println!("logs and records are kept in {}", cluster.keep_files().display());
    }
    print_reasons(writes);
    let terms: BTreeSet<u64> = commits.iter().map(|commit| commit.term).collect();
    let leader_changes = terms.len().saturating_sub(1);
    Summary { fault, rounds, verdict, leader_changes, longest_gap: longest_gap(writes) }
}

/// The longest time in which no write at all was acknowledged.
fn longest_gap(writes: &[Write]) -> Duration {
    let acknowledged = writes.iter().filter(|w| matches!(w.outcome, Outcome::Acknowledged { .. }));
    let mut times: Vec<u64> = acknowledged.map(|w| w.answered_ns).collect();
    times.sort_unstable();
    Duration::from_nanos(times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0))
}

/// Why writes were not acknowledged, how often, and how long the slowest client waited to hear it.
fn print_reasons(writes: &[Write]) {
    let mut reasons: BTreeMap<(&str, &str), (usize, Duration)> = BTreeMap::new();
    for write in writes {
        let reason = match &write.outcome {
            Outcome::Acknowledged { .. } => ("acknowledged", ""),
            Outcome::NotApplied(why) => ("not applied", why.as_str()),
            Outcome::Unknown(why) => ("unknown", why.as_str()),
            Outcome::Unstated(why) => ("unstated", why.as_str()),
        };
        let (count, slowest) = reasons.entry(reason).or_default();
        *count += 1;
        *slowest = (*slowest).max(Duration::from_nanos(write.answered_ns - write.called_ns));
    }
    for ((outcome, why), (count, slowest)) in reasons {
        println!("  {count:>7} {outcome} {why} (slowest {} ms)", slowest.as_millis());
    }
}

fn print_summaries(summaries: &[Summary]) {
    let mut rows = vec![row![
        "fault",
        "rounds",
        "acknowledged",
        "not applied",
        "unknown (applied + absent)",
        "stale commits",
        "lost",
        "wrong outcomes",
        "leader changes",
        "longest gap",
    ]];
    for s in summaries {
        let v = &s.verdict;
        let unknown = format!("{} + {}", v.unknown_applied, v.unknown_absent);
        let gap = format!("{} ms", s.longest_gap.as_millis());
        rows.push(row![
            s.fault.name(),
            s.rounds,
            v.acknowledged,
            v.not_applied,
            unknown,
            v.stale_commits(),
            v.lost(),
            v.wrong_outcomes(),
            s.leader_changes,
            gap,
        ]);
    }
    print_table(&rows);
}
