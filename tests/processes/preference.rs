//! Leadership goes to the preferred zone by a planned transfer, and does not run after a node that comes and goes.

use std::time::{Duration, Instant};

use crate::machine;
use crate::support::client::{Crowd, Habits};
use crate::support::cluster::{Cluster, Leader, Plan, SETTLE_LIMIT};
use crate::support::verdict::{Outcome, Write, check};
use crate::support::wait;

/// Twenty of the longest election timeouts below: for so long a node must have been ready.
const READY_FOR: Duration = Duration::from_secs(6);
const RAFT: &str = "[raft]\nelection_timeout_ms = [200, 300]\npreferred_zone = \"west\"\n";
/// In the preferred zone; the others are in none.
const WANTED: u64 = 3;
const OTHERS: [u64; 2] = [1, 2];
/// How often it comes and goes.
const FLAPS: u32 = 5;
/// Writes that must pass each time while it is there: several looks of the leader at its followers.
const WRITES_BETWEEN: usize = 60;
/// Terms that votes may take which are split, or which a machine under load brings about.
const SPARE_TERMS: u64 = 2;

/// Leadership begins in the wrong place, because nobody else is there yet.
fn start() -> Cluster {
    let plan = Plan { extra_config: RAFT.into(), ..Plan::new(3) };
    let mut cluster = Cluster::prepare(plan);
    for id in cluster.ids() {
        let text = std::fs::read_to_string(cluster.config_of(id)).expect("the configuration");
        let member = format!("[[cluster.members]]\nid = {WANTED}\n");
        assert!(text.contains(&member), "{text}");
        let text = text.replace(&member, &format!("{member}zone = \"west\"\n"));
        std::fs::write(cluster.config_of(id), text).expect("the configuration is written");
    }
    cluster.start_guard();
    OTHERS.into_iter().for_each(|id| cluster.start_node(id));
    wait::until("a leader", SETTLE_LIMIT, || cluster.leader_among(&OTHERS));
    cluster
}

fn crowd(cluster: &Cluster, name: &str) -> Crowd {
    let habits = Habits {
        nodes: cluster.proxies(),
        pause: Duration::from_millis(20),
        patience: Duration::from_secs(4),
    };
    Crowd::start(3, name, &habits, cluster.start)
}

/// Waits until the wanted node leads after `before`; answers who led last before, and in which term it does.
fn wait_arrived(cluster: &Cluster, mut before: Leader) -> (Leader, u64) {
    let term = wait::until("leadership where it is wanted", SETTLE_LIMIT, || {
        let leader = cluster.leader_among(&cluster.ids())?;
        if leader.id == WANTED {
            return Some(leader.term);
        }
        before = leader;
        None
    });
    (before, term)
}

/// How often a leader said that it hands over.
fn handovers(cluster: &Cluster) -> u64 {
    let said = |id| cluster.log_of(id).matches("leadership is handed over to the preferred zone").count();
    cluster.ids().into_iter().map(said).sum::<usize>() as u64
}

/// Lets the wanted node come and go; answers how often it was there for long enough to be handed leadership.
fn flap(cluster: &mut Cluster, started: &mut Instant) -> u64 {
    let mut chances = 0;
    for _ in 0..FLAPS {
        cluster.kill_node(WANTED);
        wait::until("another leader", SETTLE_LIMIT, || cluster.leader_among(&OTHERS));
        *started = Instant::now();
        cluster.start_node(WANTED);
        cluster.wait_whole();
        let enough = cluster.ledger.len() + WRITES_BETWEEN;
        wait::until("more writes", SETTLE_LIMIT, || (cluster.ledger.len() >= enough).then_some(()));
        chances += started.elapsed().as_secs() / READY_FOR.as_secs();
    }
    chances
}

fn failed(writes: &[Write]) -> Vec<&Write> {
    writes.iter().filter(|write| !matches!(write.outcome, Outcome::Acknowledged { .. })).collect()
}

#[test]
fn leadership_goes_to_the_preferred_zone_and_not_to_a_node_that_comes_and_goes() {
    let _machine = machine();
    let mut cluster = start();
    let first = cluster.leader();
    let mut started = Instant::now();
    cluster.start_node(WANTED);
    cluster.wait_whole();

    let calm = crowd(&cluster, "calm");
    let (before, term) = wait_arrived(&cluster, first);
    assert!(started.elapsed() >= READY_FOR, "handed over after {:?}", started.elapsed());
    assert_eq!(term, before.term + 1, "one transfer, and no election besides");
    cluster.wait_whole();
    let mut writes = calm.finish();
    assert!(failed(&writes).is_empty(), "a planned transfer fails no write: {:?}", failed(&writes));

    // It forgets that it has handed over just now: what holds it back from here on is the wait alone.
    cluster.kill_node(before.id);
    cluster.start_node(before.id);
    cluster.wait_whole();
    let stormy = crowd(&cluster, "stormy");
    let before = cluster.leader();
    assert_eq!(before.id, WANTED, "a follower's restart moves nothing");
    assert_eq!(handovers(&cluster), 1);
    let chances = flap(&mut cluster, &mut started);
    let after = cluster.leader();
    // One election when it went for the first time.
    let most = 1 + 2 * chances + SPARE_TERMS;
    assert!(after.term - before.term <= most, "{before:?}, then {after:?}: more than {most} terms");
    let more = handovers(&cluster) - 1;
    assert!(more <= chances, "{more} hand-overs, and only {chances} times it was there for {READY_FOR:?}");

    if after.id != WANTED {
        let (before, term) = wait_arrived(&cluster, after);
        assert!(started.elapsed() >= READY_FOR, "handed over after {:?}", started.elapsed());
        assert_eq!(term, before.term + 1, "one transfer, and no election besides");
    }
    cluster.wait_whole();
    writes.extend(stormy.finish());
    let verdict = check(&writes, &cluster.ledger.commits());
    assert_eq!(verdict.findings, vec![], "what landed is what the clients were told");
}
