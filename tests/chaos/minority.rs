//! A leader that is cut off from the majority, and still reached by clients and reaching the backend:
//! from the end of its lease on it admits no write and does not call itself the leader, and the
//! lease is over before the majority has another leader.
//!
//! The clients write through both sides, from before the cut until long after the election. The cut is
//! timed: the last beat that a quorum answered left before the cut was complete, so the lease ends
//! within [`LONGEST_LEASE`] of that, and no later than the node itself says when it is asked in between.
//! Nothing that is called after its end may be admitted, whoever leads elsewhere.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::faults::wait_for_writes;
use crate::support::client::{Crowd, Habits, write_once};
use crate::support::cluster::{Cluster, Leader, Plan, SETTLE_LIMIT};
use crate::support::number_from_env;
use crate::support::placement::Placement;
use crate::support::stats::print_table;
use crate::support::verdict::{Commit, Outcome, Write, check};
use crate::support::wait;
use crate::{machine, namespaces_work, row};

const SHORT_CUTS: usize = 3;
/// Clients of the cut-off node: there is hardly a moment without a write of theirs.
const INSIDE: (usize, Duration) = (4, Duration::from_millis(1));
/// Clients of the others. Most of them rest at any moment: those with a write in flight to the old leader
/// wait for seconds, and the new one should hear of the others at once.
const OUTSIDE: (usize, Duration) = (12, Duration::from_millis(30));
/// Short, so that a client of the cut-off node soon hears that it leads no more, and asks again.
const HOLD: Duration = Duration::from_millis(100);
/// Writes that must pass in health, before each cut.
const WRITES_BEFORE: usize = 50;
/// How long the cut-off node is watched after the others have a leader.
const WATCHED_FOR: Duration = Duration::from_secs(1);
/// How long a node without followers is watched after the end of its lease.
const ALONE_FOR: Duration = Duration::from_secs(3);
/// The default `election_timeout_ms` starts at this, and a lease ends before that.
const LONGEST_LEASE: Duration = Duration::from_millis(150);
/// More than the hold time, so that the node's own answer is heard.
const PATIENCE: Duration = Duration::from_secs(6);
/// What a write hears that was refused because there is no leader.
const NO_LEADER: &str = "503 no-leader";

/// One cut as it was seen from outside. Times count from the cluster's start.
#[derive(Debug)]
struct Cut {
    old: Leader,
    new: Leader,
    /// Before its first rule, and when all rules stood.
    begun: Duration,
    complete: Duration,
    /// When a node of the majority had said that it leads.
    token_heard: Duration,
    claims: Vec<Claim>,
    /// Writes through the cut-off node.
    inside: Vec<Write>,
    /// Writes through the others.
    outside: Vec<Write>,
}

impl Cut {
    /// From here on the old leader has no lease. Once the cut is complete, no beat prolongs it.
    fn lease_over(&self) -> Duration {
        let asked = self.claims.iter().filter(|claim| claim.called >= self.complete);
        let said = asked.filter_map(|claim| claim.over_by).min();
        let longest = self.complete + LONGEST_LEASE;
        said.unwrap_or(longest).min(longest).min(self.token_heard)
    }
}

/// What the cut-off node said about itself.
#[derive(Debug)]
struct Claim {
    called: Duration,
    /// Until when it leads, as its client counts: from the call. `None` when it claims nothing.
    leads_until: Option<Duration>,
    /// By when its lease is over for certain: counted from the answer, a begun millisecond in full.
    over_by: Option<Duration>,
    /// `GET /primary`, asked after that.
    primary: u16,
}

#[test]
fn a_minority_of_one_answers_no_leader_and_claims_nothing() {
    cuts(SHORT_CUTS);
}

#[test]
#[ignore = "part of make chaos"]
fn campaign_of_cut_off_leaders() {
    cuts(number_from_env("ROUNDS", 100));
}

fn cuts(rounds: usize) {
    if !namespaces_work() {
        return;
    }
    let _machine = machine();
    let plan = Plan { placement: Placement::namespaces(3), hold_timeout: HOLD, ..Plan::new(3) };
    let mut cluster = Cluster::start(plan);
    let mut rows = vec![row![
        "round",
        "admitted after the cut began",
        "called before the lease's end, refused",
        "called after it, refused",
        "lease over before a leader was heard",
        "old term's last write before the new one's first"
    ]];
    let mut writes: Vec<Write> = Vec::new();
    for round in 0..rounds {
        let cut = cut_off_leader(&cluster, round);
        let commits = cluster.ledger.commits();
        let [admitted, early, late] = judge_writes(&cut);
        let (lease, gap) = (judge_claims(&cut), judge_order(&cut, &commits));
        rows.push(row![round, admitted, early, late, format!("{lease:.0?}"), format!("{gap:.0?}")]);
        writes.extend(cut.inside.into_iter().chain(cut.outside));
        writes.push(write_noted(&cluster, cut.old.id, &format!("healed-{round}")));
    }
    print_table(&rows);
    let verdict = check(&writes, &cluster.ledger.commits());
    if !verdict.findings.is_empty() {
        println!("logs and records are kept in {}", cluster.keep_files().display());
    }
    assert_eq!(verdict.findings, vec![]);
}

/// Cuts the leader off under load, watches it until long after the others have another, and heals.
fn cut_off_leader(cluster: &Cluster, round: usize) -> Cut {
    let old = cluster.leader();
    let others: Vec<u64> = cluster.ids().into_iter().filter(|id| *id != old.id).collect();
    let start = |(count, pause), side, of: &[u64]| {
        let nodes = of.iter().map(|id| (*id, cluster.at(*id).proxy)).collect();
        let habits = Habits { nodes, pause, patience: PATIENCE };
        Crowd::start(count, &format!("{side}-{round}"), &habits, cluster.start)
    };
    let inside = start(INSIDE, "inside", &[old.id]);
    let outside = start(OUTSIDE, "outside", &others);
    wait_for_writes(cluster, cluster.ledger.len() + WRITES_BEFORE);

    let network = cluster.placement().network().expect("made above");
    let begun = cluster.start.elapsed();
    network.split(&[old.id], &others);
    let complete = cluster.start.elapsed();
    let mut claims = Vec::new();
    let new = wait::until("a leader of the majority", SETTLE_LIMIT, || {
        claims.push(ask_claim(cluster, old.id));
        cluster.leader_among(&others)
    });
    let token_heard = cluster.start.elapsed();
    while cluster.start.elapsed() < token_heard + WATCHED_FOR {
        claims.push(ask_claim(cluster, old.id));
    }
    wait::until("a write of the new term", SETTLE_LIMIT, || {
        (cluster.ledger.last_term() >= new.term).then_some(())
    });
    let (inside, outside) = (inside.finish(), outside.finish());
    expect_no_leader(cluster, old.id);
    network.heal();
    cluster.wait_whole();
    Cut { old, new, begun, complete, token_heard, claims, inside, outside }
}

fn ask_claim(cluster: &Cluster, id: u64) -> Claim {
    let called = cluster.start.elapsed();
    let said = cluster.api(id, "GET", "/leader", b"").expect("an answer, not a broken connection");
    let body = said.json();
    let heard = cluster.start.elapsed();
    let leads = said.status == 200 && body["authoritative"] == true;
    let remaining = leads.then(|| body["lease_remaining_ms"].as_u64().expect("authority comes with a lease"));
    let leads_until = remaining.map(|ms| called + Duration::from_millis(ms));
    let over_by = remaining.map(|ms| heard + Duration::from_millis(ms + 1));
    let primary = cluster.api(id, "GET", "/primary", b"").expect("an answer, not a broken connection");
    Claim { called, leads_until, over_by, primary: primary.status }
}

/// The writes through the old leader: which were admitted after the cut began; which were refused
/// though called before its lease can have ended; and all that were called after that, none of which
/// may hear anything but [`NO_LEADER`].
fn judge_writes(cut: &Cut) -> [usize; 3] {
    let lease_over = cut.lease_over();
    let (mut admitted, mut early, mut late, mut after_token) = (0, 0, 0, 0);
    for write in &cut.inside {
        let called = Duration::from_nanos(write.called_ns);
        let refused = write.outcome == Outcome::NotApplied(NO_LEADER.to_string());
        if called >= lease_over {
            assert!(refused, "{write:?} though the lease had ended: {:?}", Times::of(cut));
            late += 1;
            after_token += usize::from(called >= cut.token_heard);
        } else if refused {
            early += 1;
        } else if called >= cut.begun && matches!(write.outcome, Outcome::Acknowledged { .. }) {
            admitted += 1;
        }
    }
    assert!(admitted > 0, "no write was under way when the cut was made, so nothing was tried");
    assert!(after_token > 0, "no write was sent to the old leader after there was a new one");
    [admitted, early, late]
}

/// No authority is claimed after the end of the lease, and what was promised before it ended before the
/// others had a leader. Answers by how much, at least as seen from here.
fn judge_claims(cut: &Cut) -> Duration {
    let lease_over = cut.lease_over();
    for claim in cut.claims.iter().filter(|claim| claim.called >= lease_over) {
        assert_eq!(claim.leads_until, None, "node {} still claims to lead: {:?}", cut.old.id, Times::of(cut));
        assert_eq!(claim.primary, 503, "GET /primary at a cut-off node: {:?}", Times::of(cut));
    }
    let promised = cut.claims.iter().filter_map(|claim| claim.leads_until).max().unwrap_or(cut.complete);
    assert!(promised <= lease_over, "a lease until {promised:?} was promised: {:?}", Times::of(cut));
    cut.token_heard - promised
}

/// In the backend's record the old term ends before the new one begins. Answers the time between them.
fn judge_order(cut: &Cut, commits: &[Commit]) -> Duration {
    let (old_term, new_term) = (cut.old.term, cut.new.term);
    assert!(new_term > old_term, "{:?} after {:?}", cut.new, cut.old);
    let last = commits.iter().rev().find(|commit| commit.term == old_term).expect("writes of the old term");
    let first = commits.iter().find(|commit| commit.term > old_term).expect("writes of the new term");
    assert!(last.seq < first.seq && last.at_ns < first.at_ns, "{last:?} is not before {first:?}");
    let (last, first) = (Duration::from_nanos(last.at_ns), Duration::from_nanos(first.at_ns));
    first - last
}

/// What a failure shows.
#[derive(Debug)]
#[allow(dead_code, reason = "read by Debug only")]
struct Times {
    begun: Duration,
    complete: Duration,
    lease_over: Duration,
    token_heard: Duration,
}

impl Times {
    fn of(cut: &Cut) -> Self {
        let Cut { begun, complete, token_heard, .. } = *cut;
        Self { begun, complete, lease_over: cut.lease_over(), token_heard }
    }
}

fn expect_no_leader(cluster: &Cluster, id: u64) {
    let answer =
        cluster.write(id, "into-the-minority", PATIENCE).expect("an answer, not a broken connection");
    let body = answer.json();
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert_eq!(body["type"], "urn:termgate:problem:no-leader", "{body}");
    assert_eq!(body["outcome"], "not-applied", "{body}");
    assert_eq!(answer.field("termgate-outcome"), Some("not-applied"));
    assert!(answer.field("retry-after").is_some(), "503 comes with Retry-After");
}

/// A write through node `id` of a whole cluster, which must be acknowledged.
fn write_noted(cluster: &Cluster, id: u64, body: &str) -> Write {
    let called_ns = cluster.start.elapsed().as_nanos() as u64;
    let outcome = write_once(&mut BTreeMap::new(), cluster.at(id).proxy, body, PATIENCE);
    let answered_ns = cluster.start.elapsed().as_nanos() as u64;
    assert!(matches!(outcome, Outcome::Acknowledged { .. }), "{body} through node {id}: {outcome:?}");
    Write { body: body.to_string(), asked: id, called_ns, answered_ns, outcome }
}

/// No namespaces needed: its followers are gone, and nobody replaces it.
#[test]
fn a_leader_without_followers_stops_claiming_when_its_lease_ends() {
    let _machine = machine();
    let mut cluster = Cluster::start(Plan::new(3));
    let old = cluster.leader();
    for id in cluster.ids().into_iter().filter(|id| *id != old.id) {
        cluster.kill_node(id);
    }
    // The length of the longest lease that a follower can have granted just before it died.
    std::thread::sleep(LONGEST_LEASE);
    let end = Instant::now() + ALONE_FOR;
    while Instant::now() < end {
        let claim = ask_claim(&cluster, old.id);
        assert_eq!((claim.leads_until, claim.primary), (None, 503), "node {} still claims to lead", old.id);
    }
    expect_no_leader(&cluster, old.id);

    cluster.start_all_nodes();
    cluster.wait_whole();
    write_noted(&cluster, old.id, "after-the-others-came-back");
}
