//! A log that is compacted, and a node that was away for longer than it reaches back.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::machine;
use crate::support::cluster::{BEARER, Cluster, Plan};
use crate::support::http::{Answer, Connection};
use crate::support::wait;

/// A state of hundreds of pieces, and of a stream's window twenty times over.
const VALUES: u64 = 80;
const VALUE_BYTES: usize = 1024 * 1024;
/// A snapshot is taken after 64 MiB of entries: the second one is of all values.
const SNAPSHOTS: u64 = 2;
/// What is written while a node fetches that.
const SMALL_BYTES: usize = 1024;
const LIMIT: Duration = Duration::from_secs(60);

/// Election timeouts that a busy machine does not miss, and that a transfer is about as long as: who is elected here is
/// elected because of it.
pub const PATIENT: &str = "[raft]\nelection_timeout_ms = [1000, 2000]\n";

pub const FETCHED: &str = "termgate_snapshots_fetched_total";
pub const APPLIED: &str = "termgate_last_applied";
const TAKEN: &str = "termgate_snapshot_seconds_count";

/// A value that no other number has, and that is nowhere the same.
pub fn value(number: u64, bytes: usize) -> Vec<u8> {
    let mut value = vec![0; bytes];
    for (at, word) in value.chunks_exact_mut(8).enumerate() {
        word.copy_from_slice(&(number << 32 | at as u64).to_le_bytes());
    }
    value
}

/// Puts `value` through node `id`; says whether that was acknowledged.
fn put(cluster: &Cluster, id: u64, key: &str, value: &[u8]) -> bool {
    let answer = cluster.api(id, "PUT", &format!("/registry/keys/{key}"), value);
    answer.is_ok_and(|answer| matches!(answer.status, 201 | 204))
}

/// Puts `value` through node `id` until that is acknowledged: a busy machine may refuse it.
pub fn wait_put(cluster: &Cluster, id: u64, key: &str, value: &[u8]) {
    wait::until("an acknowledged write", LIMIT, || put(cluster, id, key, value).then_some(()));
}

/// A number of node `id`; zero while it is starting.
pub fn metric(cluster: &Cluster, id: u64, name: &str) -> u64 {
    let Ok(answer) = cluster.api(id, "GET", "/metrics", b"") else { return 0 };
    let text = answer.text();
    let value = |line: &str| line.strip_prefix(name)?.strip_prefix(' ').map(str::to_owned);
    let value = text.lines().find_map(value).unwrap_or_else(|| panic!("no {name}"));
    value.trim().parse().unwrap_or_else(|e| panic!("{name} {value}: {e}"))
}

/// Each key's version and the checksum of its value.
pub type State = BTreeMap<String, (u64, u32)>;

/// What node `id` has by itself.
pub fn state(cluster: &Cluster, id: u64) -> State {
    let mut connection = Connection::open(cluster.api_address(id), LIMIT).expect("a connection");
    let mut get = |target: &str| -> Answer {
        let fields = [("termgate-consistency", "stale"), ("authorization", BEARER)];
        let answer = connection.send("GET", target, &fields, b"", LIMIT).expect("an answer");
        assert_eq!(answer.status, 200, "{target}: {}", answer.text());
        answer
    };
    let (mut found, mut after) = (State::new(), String::new());
    loop {
        let list = get(&format!("/registry/keys?limit=10000{after}")).json();
        for listed in list["keys"].as_array().expect("a list of keys") {
            let key = listed["key"].as_str().expect("a key");
            let checksum = crc32fast::hash(&get(&format!("/registry/keys/{key}")).body);
            after = format!("&after={key}");
            found.insert(key.to_owned(), (listed["version"].as_u64().expect("a version"), checksum));
        }
        if list["more"] == false {
            return found;
        }
    }
}

/// Waits until every node has, by itself, what node `id` has, when nobody writes any more.
pub fn wait_same_state(cluster: &Cluster, id: u64) -> State {
    wait::until("the same index everywhere", LIMIT, || {
        let applied = metric(cluster, id, APPLIED);
        cluster.ids().iter().all(|id| metric(cluster, *id, APPLIED) == applied).then_some(())
    });
    let expected = state(cluster, id);
    assert!(!expected.is_empty());
    for other in cluster.ids().into_iter().filter(|other| *other != id) {
        assert!(state(cluster, other) == expected, "node {other} has another state than node {id}");
    }
    expected
}

/// A node that fetches a snapshot from a leader which goes on.
pub struct Transfer<'a> {
    pub cluster: &'a Cluster,
    pub to: u64,
    /// Acknowledged writes.
    pub written: &'a AtomicU64,
    /// How many there were when it was first and when it was last seen under way.
    pub seen: Option<(u64, u64)>,
}

impl Transfer<'_> {
    /// Looks at it; says whether it has ended.
    pub fn look(&mut self) -> bool {
        let pieces = snapshot_files(self.cluster, self.to).get("incoming").copied().unwrap_or(0);
        let written = self.written.load(Ordering::Relaxed);
        // When the snapshot is not there yet, what was written before was written meanwhile.
        let ended = metric(self.cluster, self.to, FETCHED) > 0;
        if pieces > 0 && !ended {
            let (first, _) = self.seen.unwrap_or((written, written));
            self.seen = Some((first, written));
        }
        ended
    }

    /// Writes that were acknowledged between the first piece and the last, at least.
    pub fn writes_meanwhile(&self) -> u64 {
        self.seen.map_or(0, |(first, last)| last - first)
    }
}

/// The snapshots that node `id` has, and the one that it receives, with their sizes.
pub fn snapshot_files(cluster: &Cluster, id: u64) -> BTreeMap<String, u64> {
    let files = std::fs::read_dir(cluster.at(id).data_dir().join("snapshots")).expect("the directory");
    let sized =
        |file: std::fs::DirEntry| Some((file.file_name().into_string().ok()?, file.metadata().ok()?.len()));
    // A file may get its name, or go, while this looks.
    files.filter_map(|file| file.ok().and_then(sized)).collect()
}

/// The size of the largest snapshot that node `id` has.
pub fn largest_snapshot(cluster: &Cluster, id: u64) -> u64 {
    snapshot_files(cluster, id).into_values().max().unwrap_or(0)
}

#[test]
fn a_node_that_was_away_for_longer_than_the_log_reaches_back_catches_up_while_writes_go_on() {
    let _machine = machine();
    let mut cluster = Cluster::start(Plan { extra_config: PATIENT.to_owned(), ..Plan::new(3) });
    let leader = cluster.leader();
    let away = cluster.ids().into_iter().find(|id| *id != leader.id).expect("there are followers");
    cluster.kill_node(away);
    let mut values = 0;
    wait::until("a compacted log", LIMIT, || {
        wait_put(&cluster, leader.id, &format!("key-{}", values % VALUES), &value(values, VALUE_BYTES));
        values += 1;
        (metric(&cluster, leader.id, TAKEN) >= SNAPSHOTS).then_some(())
    });

    cluster.start_node(away);
    let written = AtomicU64::new(0);
    let mut transfer = Transfer { cluster: &cluster, to: away, written: &written, seen: None };
    wait::until("a fetched snapshot", LIMIT, || {
        let number = written.load(Ordering::Relaxed);
        let key = format!("small-{}", number % VALUES);
        let acknowledged = put(&cluster, leader.id, &key, &value(number, SMALL_BYTES));
        written.fetch_add(u64::from(acknowledged), Ordering::Relaxed);
        transfer.look().then_some(())
    });
    let meanwhile = transfer.writes_meanwhile();
    println!(
        "{values} large values; {written:?} writes since the node's return, {meanwhile} during the transfer"
    );
    assert!(meanwhile > 0, "writes go on during the transfer");
    cluster.wait_whole();
    assert_eq!(cluster.leader(), leader, "nobody was elected");
    let largest = largest_snapshot(&cluster, away);
    assert!(largest >= VALUES * VALUE_BYTES as u64, "a snapshot of {largest} bytes does not have all values");
    let expected = wait_same_state(&cluster, leader.id);

    // Everything again from the disks: a start begins with the snapshot and the log behind it.
    for id in cluster.ids() {
        cluster.kill_node(id);
    }
    cluster.start_all_nodes();
    cluster.wait_whole();
    assert!(wait_same_state(&cluster, away) == expected, "all of it is there again");
    assert_eq!(snapshot_files(&cluster, away).len(), 1, "a start keeps the one it needs");
}
