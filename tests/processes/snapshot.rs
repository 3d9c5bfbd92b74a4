//! A log that is compacted, and a node that was away for longer than it reaches back.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::machine;
use crate::support::cluster::{Cluster, Plan};
use crate::support::wait;

/// A snapshot is taken after 64 MiB of entries; so many of these are more.
const VALUES: u64 = 1200;
const VALUE_BYTES: usize = 64 * 1024;
const LIMIT: Duration = Duration::from_secs(60);

/// Puts one value through node `id`; says whether that was acknowledged.
fn put(cluster: &Cluster, id: u64, number: u64) -> bool {
    let value = vec![number as u8; VALUE_BYTES];
    // Few keys, so that the state stays small and the log does not.
    let answer = cluster.api(id, "PUT", &format!("/registry/keys/key-{}", number % 50), &value);
    answer.is_ok_and(|answer| (200..300).contains(&answer.status))
}

/// A counter of node `id`; zero while it is starting.
fn metric(cluster: &Cluster, id: u64, name: &str) -> u64 {
    let Ok(answer) = cluster.api(id, "GET", "/metrics", b"") else { return 0 };
    let text = answer.text();
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("no {name}"));
    line.trim().parse().unwrap_or_else(|e| panic!("{name}{line}: {e}"))
}

/// Every key as node `id` has it, by itself.
fn state(cluster: &Cluster, id: u64) -> Vec<u8> {
    let read = |key: u64| {
        let target = format!("/registry/keys/key-{key}?consistency=stale");
        cluster.api(id, "GET", &target, b"").map(|answer| answer.body.first().copied().unwrap_or(0))
    };
    (0..50).map(|key| read(key).expect("an answer")).collect()
}

#[test]
fn a_node_that_was_away_for_longer_than_the_log_reaches_back_catches_up_while_writes_go_on() {
    let _machine = machine();
    let mut cluster = Cluster::start(Plan::new(3));
    let leader = cluster.leader().id;
    let away = cluster.ids().into_iter().find(|id| *id != leader).expect("there are followers");
    cluster.kill_node(away);
    assert!((0..VALUES).filter(|number| put(&cluster, leader, *number)).count() as u64 > VALUES / 2);
    wait::until("a compacted log", LIMIT, || {
        (metric(&cluster, leader, "termgate_snapshot_seconds_count") > 0).then_some(())
    });
    cluster.start_node(away);
    let (fetched, written) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Bounded, or a test that fails would not end.
            for number in (VALUES..4 * VALUES).take_while(|_| !fetched.load(Ordering::Relaxed)) {
                written.fetch_add(u64::from(put(&cluster, leader, number)), Ordering::Relaxed);
            }
        });
        wait::until("a fetched snapshot", LIMIT, || {
            (metric(&cluster, away, "termgate_snapshots_fetched_total") > 0).then_some(())
        });
        fetched.store(true, Ordering::Relaxed);
    });
    assert!(written.load(Ordering::Relaxed) > 0, "writes go on meanwhile");
    cluster.wait_whole();
    let expected = state(&cluster, leader);
    wait::until("the same state everywhere", LIMIT, || {
        cluster.ids().iter().all(|id| state(&cluster, *id) == expected).then_some(())
    });

    // Everything again from the disks: a start begins with the snapshot and the log behind it.
    for id in cluster.ids() {
        cluster.kill_node(id);
    }
    cluster.start_all_nodes();
    cluster.wait_whole();
    assert!(cluster.ids().iter().all(|id| state(&cluster, *id) == expected), "all of it is there again");
    let files = std::fs::read_dir(cluster.at(away).data_dir().join("snapshots")).expect("the directory");
    assert_eq!(files.count(), 1, "a start keeps the one it needs");
}
