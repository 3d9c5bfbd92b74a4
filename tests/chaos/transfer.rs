//! A planned handover under load: no write fails, none is left unknown, and the pause is short.

use std::time::Duration;

use crate::faults::wait_for_writes;
use crate::support::client::{Crowd, Habits};
use crate::support::cluster::{Cluster, Plan};
use crate::support::number_from_env;
use crate::support::stats::{millis, percentile, print_table};
use crate::support::verdict::{Outcome, Write, check};
use crate::{machine, row};

const CLIENTS: usize = 4;
const SHORT_TRANSFERS: usize = 3;
/// Writes that must pass in health, before each transfer.
const WRITES_BEFORE: usize = 50;
/// Writes around one transfer: those that overlap this window after its call.
const WINDOW: Duration = Duration::from_millis(300);

#[test]
fn a_transfer_under_load_fails_no_write() {
    transfers(SHORT_TRANSFERS);
}

#[test]
#[ignore = "part of make chaos"]
fn campaign_of_transfers() {
    transfers(number_from_env("ROUNDS", 100));
}

fn transfers(rounds: usize) {
    let _machine = machine();
    let cluster = Cluster::start(Plan::new(3));
    let habits = Habits {
        nodes: cluster.proxies(),
        pause: Duration::from_millis(2),
        patience: Duration::from_secs(5),
    };
    let crowd = Crowd::start(CLIENTS, "w", &habits, cluster.start);
    let mut calls = Vec::new();
    let mut pauses = Vec::new();
    for round in 0..rounds {
        wait_for_writes(&cluster, cluster.ledger.len() + WRITES_BEFORE);
        let old = cluster.leader();
        let asked = cluster.ids()[round % 3];
        calls.push(cluster.start.elapsed());
        let answer = cluster.api(asked, "POST", "/leader/resign", b"{}").expect("an answer to resign");
        let body = answer.json();
        assert_eq!(answer.status, 200, "resign at node {asked}: {}", answer.text());
        assert_eq!(body["from_term"], old.term, "{body}");
        assert!(body["term"].as_u64() > Some(old.term) && body["to"] != old.id, "{body}");
        pauses.push(body["pause_ms"].as_f64().expect("pause_ms is a number"));
        cluster.wait_whole();
    }
    let writes = crowd.finish();
    report(&cluster, &writes, &calls, &pauses);
}

fn report(cluster: &Cluster, writes: &[Write], calls: &[Duration], pauses: &[f64]) {
    let verdict = check(writes, &cluster.ledger.commits());
    let overlaps = |w: &&Write| {
        let (called, answered) = (Duration::from_nanos(w.called_ns), Duration::from_nanos(w.answered_ns));
        calls.iter().any(|at| called <= *at + WINDOW && answered >= *at)
    };
    let latency = |w: &Write| millis(Duration::from_nanos(w.answered_ns - w.called_ns));
    let (during, calm): (Vec<&Write>, Vec<&Write>) = writes.iter().partition(overlaps);
    let during: Vec<f64> = during.into_iter().map(latency).collect();
    let calm: Vec<f64> = calm.into_iter().map(latency).collect();
    let added = |share: f64| format!("{:.1} ms", percentile(&during, share) - percentile(&calm, share));
    let unknown = verdict.unknown_applied + verdict.unknown_absent;
    print_table(&[
        row![
            "transfers",
            "acknowledged",
            "failed",
            "unknown",
            "added p50",
            "added p99",
            "slowest",
            "pause p99"
        ],
        row![
            calls.len(),
            verdict.acknowledged,
            verdict.not_applied,
            unknown,
            added(0.5),
            added(0.99),
            format!("{:.1} ms", percentile(&during, 1.0)),
            format!("{} ms", percentile(pauses, 0.99)),
        ],
    ]);
    let failed: Vec<&Write> =
        writes.iter().filter(|w| !matches!(w.outcome, Outcome::Acknowledged { .. })).collect();
    assert_eq!(verdict.findings, vec![]);
    assert!(failed.is_empty(), "every write through a transfer succeeds, but: {failed:?}");
}
