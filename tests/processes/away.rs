//! A follower that was away for a million entries, and what it costs the leader to have it back. Long, so it
//! is asked for: `make long-run`.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::machine;
use crate::snapshot::{
    APPLIED, FETCHED, PATIENT, Transfer, largest_snapshot, metric, value, wait_put, wait_same_state,
};
use crate::support::cluster::{BEARER, Cluster, Leader, Plan};
use crate::support::http::Connection;
use crate::support::{number_from_env, wait};

/// Values that are there from the beginning and make the state large: most of what a registry may hold.
const LARGE: u64 = 208;
const MIB: u64 = 1024 * 1024;
/// Keys that are written over and over, with values as a lock or a shard's owner has them.
const SMALL: u64 = 10_000;
const SMALL_BYTES: usize = 100;
/// Writes under way at once.
const WRITERS: u64 = 64;
/// What a transfer may cost the leader: pieces that are queued for the follower (6 MiB) or on the wire (12 MiB), and
/// the entries that are kept until the follower has come to them. A third of the state.
const TRANSFER_MEMORY: u64 = 64 * MIB;
const LIMIT: Duration = Duration::from_secs(120);

/// Writes at `leader` until `done`, `WRITERS` at once, and counts in `written`. None may fail.
fn write(leader: SocketAddr, written: &AtomicU64, done: impl Fn(u64) -> bool + Sync) {
    let done = &done;
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            scope.spawn(move || write_one_by_one(leader, writer, written, done));
        }
    });
}

fn write_one_by_one(leader: SocketAddr, writer: u64, written: &AtomicU64, done: impl Fn(u64) -> bool) {
    let mut connection = Connection::open(leader, LIMIT).expect("a connection");
    let fields = [("authorization", BEARER)];
    for number in (writer..).step_by(WRITERS as usize).take_while(|number| !done(*number)) {
        let target = format!("/registry/keys/key-{}", number % SMALL);
        let answer = connection.send("PUT", &target, &fields, &value(number, SMALL_BYTES), LIMIT);
        let answer = answer.expect("an answer");
        assert!(matches!(answer.status, 201 | 204), "{} {}", answer.status, answer.text());
        written.fetch_add(1, Ordering::Relaxed);
    }
}

/// Forgets the most memory that a process had.
fn forget_peak(pid: u32) {
    std::fs::write(format!("/proc/{pid}/clear_refs"), "5").expect("a process of ours");
}

/// The most memory that a process had since, in bytes.
fn peak(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a process of ours");
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("its peak");
    line.split_whitespace().next().and_then(|word| word.parse::<u64>().ok()).expect("a number of KiB") * 1024
}

/// A node that had all there was when it went.
struct Away {
    id: u64,
    /// What it had applied.
    left_at: u64,
}

/// Gives the cluster a large state, and lets a follower go.
fn fill_and_stop_a_follower(cluster: &mut Cluster) -> (Leader, Away) {
    let leader = cluster.leader().id;
    for number in 0..LARGE {
        wait_put(cluster, leader, &format!("large-{number}"), &value(number, MIB as usize));
    }
    cluster.wait_whole();
    // The entries that brought the large values leave holes in the memory, where a transfer would not be seen.
    cluster.ids().into_iter().for_each(|id| _ = cluster.kill_node(id));
    cluster.start_all_nodes();
    cluster.wait_whole();
    let leader = cluster.leader();
    let away = cluster.ids().into_iter().find(|id| *id != leader.id).expect("there are followers");
    let left_at = metric(cluster, away, APPLIED);
    cluster.kill_node(away);
    (leader, Away { id: away, left_at })
}

/// Waits until the node has caught up with `behind` entries while writes at `leader` go on.
fn wait_caught_up(transfer: &mut Transfer<'_>, leader: SocketAddr, behind: u64) {
    let (over, written) = (AtomicBool::new(false), transfer.written);
    let caught_up = std::thread::scope(|scope| {
        scope.spawn(|| write(leader, written, |_| over.load(Ordering::Relaxed)));
        let caught_up = wait::try_until(LIMIT, || {
            (transfer.look() && metric(transfer.cluster, transfer.to, APPLIED) >= behind).then_some(())
        });
        // First of all, or a test that fails would not end.
        over.store(true, Ordering::Relaxed);
        caught_up
    });
    assert!(caught_up.is_some(), "the node did not catch up by snapshot within {LIMIT:?}");
}

#[test]
#[ignore = "takes minutes: make long-run"]
fn a_follower_that_was_away_for_a_million_entries_catches_up_while_writes_go_on() {
    let _machine = machine();
    let missed = number_from_env("COMMANDS", 10_000_000) as u64 / 10;
    assert!(missed >= 150_000, "the log reaches back further than {missed} entries");
    let mut cluster = Cluster::start(Plan { extra_config: PATIENT.to_owned(), ..Plan::new(3) });
    let (leader, away) = fill_and_stop_a_follower(&mut cluster);
    let (api, pid) = (cluster.api_address(leader.id), cluster.at(leader.id).process().pid());
    write(api, &AtomicU64::new(0), |number| number >= missed / 2);
    // By now the entries with the large values have left the log.
    forget_peak(pid);
    write(api, &AtomicU64::new(0), |number| number >= missed / 2);
    let usual = peak(pid);
    let behind = metric(&cluster, leader.id, APPLIED);
    println!("back after {} entries; the leader took {} MiB at most", behind - away.left_at, usual / MIB);

    forget_peak(pid);
    let began = Instant::now();
    cluster.start_node(away.id);
    let written = AtomicU64::new(0);
    let mut transfer = Transfer { cluster: &cluster, to: away.id, written: &written, seen: None };
    wait_caught_up(&mut transfer, api, behind);
    let (took, most, meanwhile) = (began.elapsed(), peak(pid), transfer.writes_meanwhile());
    let snapshot = largest_snapshot(&cluster, away.id);
    println!(
        "caught up in {took:?} by {} snapshot(s) of {} MiB",
        metric(&cluster, away.id, FETCHED),
        snapshot / MIB
    );
    println!(
        "{written:?} writes meanwhile, {meanwhile} during the transfer; the leader took {} MiB",
        most / MIB
    );
    assert!(snapshot >= LARGE * MIB, "the snapshot does not have all values");
    assert!(meanwhile > WRITERS, "writes go on during the transfer");
    assert!(most < usual + TRANSFER_MEMORY, "the leader's memory grew from {usual} to {most} bytes");
    cluster.wait_whole();
    assert_eq!(cluster.leader(), leader, "nobody was elected");
    wait_same_state(&cluster, leader.id);
}
