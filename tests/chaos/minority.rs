//! A node that is cut off from the majority, and reachable for clients: it admits no write and does
//! not call itself the leader any more.

use std::time::{Duration, Instant};

use crate::support::cluster::{Cluster, Leader, Plan, SETTLE_LIMIT};
use crate::support::placement::Placement;
use crate::support::wait;
use crate::{machine, namespaces_work};

/// How long the cut-off node is watched after the others have a leader.
const WATCHED_FOR: Duration = Duration::from_secs(3);
/// The default `election_timeout_ms` starts at this, and a lease ends before that.
const LONGEST_LEASE: Duration = Duration::from_millis(150);
/// More than the hold time, so that the node's own answer is heard.
const PATIENCE: Duration = Duration::from_secs(6);

#[test]
fn a_minority_of_one_answers_no_leader_and_claims_nothing() {
    if !namespaces_work() {
        return;
    }
    let _machine = machine();
    let cluster = Cluster::start(Plan { placement: Placement::namespaces(3), ..Plan::new(3) });
    let old = cluster.leader();
    let others: Vec<u64> = cluster.ids().into_iter().filter(|id| *id != old.id).collect();
    let network = cluster.placement().network().expect("made above");
    network.split(&[old.id], &others);

    let new = wait::until("a leader of the majority", SETTLE_LIMIT, || cluster.leader_among(&others));
    assert!(new.term > old.term, "{new:?} after {old:?}");
    // From here on, every request starts after the majority's leader was heard.
    watch_claims(&cluster, &old);
    expect_no_leader(&cluster, old.id);
    assert!(cluster.ledger.entries().is_empty(), "a write passed in a minority");

    network.heal();
    cluster.wait_whole();
    let answer = cluster.write(old.id, "after-healing", PATIENCE).expect("an answer");
    assert_eq!(answer.status, 201, "{}", answer.text());
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
    watch_claims(&cluster, &old);
    expect_no_leader(&cluster, old.id);

    cluster.start_all_nodes();
    cluster.wait_whole();
    let answer = cluster.write(old.id, "after-the-others-came-back", PATIENCE).expect("an answer");
    assert_eq!(answer.status, 201, "{}", answer.text());
}

fn watch_claims(cluster: &Cluster, old: &Leader) {
    let end = Instant::now() + WATCHED_FOR;
    while Instant::now() < end {
        let claim = cluster.leader_seen_by(old.id).filter(|said| said.authoritative);
        assert_eq!(claim, None, "node {} still claims to lead", old.id);
        let primary = cluster.api(old.id, "GET", "/primary", b"").expect("an answer");
        assert_eq!(primary.status, 503, "GET /primary at a cut-off node");
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
