//! A data directory on a file system that gets full. The node ends and says why; what was
//! acknowledged is there when there is space again, and what was refused is not.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::machine;
use crate::support::client::read_outcome;
use crate::support::cluster::{BEARER, Cluster, Plan, SETTLE_LIMIT};
use crate::support::http::{Failure, request};
use crate::support::not_tested::not_tested;
use crate::support::tmpfs::Tmpfs;
use crate::support::verdict::Outcome;
use crate::support::wait;

const SMALL: &str = "8m";
const LARGE: &str = "64m";
const VALUE_BYTES: usize = 100 * 1024;
/// Several, so that some have a write in flight when the disk is full.
const WRITERS: usize = 8;
/// Values that one writer brings in at most: those of all are several times what a small disk holds.
const MOST_KEYS: usize = 100;
const REFUSED_PAUSE: Duration = Duration::from_millis(10);
/// A node may hold a write until there is a leader again.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the writer of a key was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Told {
    Acknowledged,
    NotApplied,
    Unknown,
}

/// A cluster whose node `small` has a small disk. It is unmounted before the cluster's directory is
/// removed.
struct Installation {
    disk: Tmpfs,
    cluster: Cluster,
    small: u64,
}

impl Installation {
    fn start(nodes: u64, small: u64) -> Self {
        let mut cluster = Cluster::prepare(Plan::new(nodes));
        let disk = Tmpfs::mount(&cluster.at(small).data_dir(), SMALL);
        cluster.start_guard();
        cluster.start_all_nodes();
        cluster.wait_whole();
        Self { disk, cluster, small }
    }

    /// Hands leadership over, if need be.
    fn wait_leads(&self, wished: u64) {
        wait::until(&format!("node {wished} leads"), SETTLE_LIMIT, || {
            if self.cluster.leader().id == wished {
                return Some(());
            }
            let body = format!("{{\"to\":{wished}}}");
            // A refusal for now is met with the next attempt.
            let _ = self.cluster.api(wished, "POST", "/leader/resign", body.as_bytes());
            None
        });
        self.cluster.wait_whole();
    }

    /// Writers put values through all nodes until the process with the small disk has ended by itself,
    /// as it should. Their keys start with `name`.
    fn fill(&mut self, name: &str) -> BTreeMap<String, Told> {
        let stop = AtomicBool::new(false);
        let nodes: Vec<SocketAddr> =
            self.cluster.ids().into_iter().map(|id| self.cluster.api_address(id)).collect();
        let (told, status) = std::thread::scope(|scope| {
            let (nodes, stop) = (&nodes, &stop);
            let write = |writer| move || put_values(nodes, &format!("{name}-{writer}"), stop);
            let writers: Vec<_> = (0..WRITERS).map(|writer| scope.spawn(write(writer))).collect();
            let status = self.cluster.wait_node_ended(self.small, SETTLE_LIMIT);
            stop.store(true, Ordering::Relaxed);
            let told = writers.into_iter().flat_map(|writer| writer.join().expect("no writer panicked"));
            (told.collect(), status)
        });
        let said = self.cluster.log_of(self.small);
        let place = self.cluster.at(self.small).data_dir().display().to_string();
        assert_eq!(status.code(), Some(1), "{said}");
        let last = said.lines().rev().find(|line| line.starts_with("termgate: ")).unwrap_or("");
        assert!(last.contains("no space left") && last.contains(&place), "the cause is not named: {said}");
        assert!(last.contains("free some space and start the node again"), "no mend is named: {said}");
        told
    }

    /// Gives the disk more space, starts the node again, and holds what the writers were told against
    /// what all nodes have.
    fn mend_and_check(&mut self, told: &BTreeMap<String, Told>) {
        self.disk.resize(LARGE);
        self.cluster.start_node(self.small);
        self.cluster.wait_whole();
        let mut counts: BTreeMap<(Told, bool), usize> = BTreeMap::new();
        for (key, told) in told {
            let found = self.cluster.ids().into_iter().map(|id| self.has(id, key));
            let found: Vec<bool> = found.collect();
            assert!(found.iter().all(|there| *there == found[0]), "the nodes differ in {key}: {found:?}");
            match told {
                Told::Acknowledged => assert!(found[0], "{key} was acknowledged and is lost"),
                Told::NotApplied => assert!(!found[0], "{key} was reported as not applied and is there"),
                Told::Unknown => (),
            }
            *counts.entry((*told, found[0])).or_default() += 1;
        }
        println!("(told, there) -> keys: {counts:?}");
        assert!(counts.contains_key(&(Told::Acknowledged, true)), "nothing was acknowledged");
        let (key, node) = ("after".to_string(), self.cluster.api_address(self.small));
        assert_eq!(put(node, &key), Told::Acknowledged);
        assert!(self.has(self.small, &key));
    }

    /// Whether node `id` has the key; its value must then be whole.
    fn has(&self, id: u64, key: &str) -> bool {
        let target = format!("/registry/keys/{key}");
        let answer = self.cluster.api(id, "GET", &target, b"").expect("an answer");
        assert!(matches!(answer.status, 200 | 404), "GET {key} at node {id}: {}", answer.text());
        assert!(
            answer.status == 404 || answer.body == value_of(key),
            "{key} at node {id} is not what was put"
        );
        answer.status == 200
    }
}

fn value_of(key: &str) -> Vec<u8> {
    key.bytes().cycle().take(VALUE_BYTES).collect()
}

/// One writer's keys and what it was told, until `stop` or one of the limits.
fn put_values(nodes: &[SocketAddr], name: &str, stop: &AtomicBool) -> Vec<(String, Told)> {
    let (started, mut told, mut taken) = (Instant::now(), Vec::new(), 0);
    while !stop.load(Ordering::Relaxed) && taken < MOST_KEYS && started.elapsed() < SETTLE_LIMIT {
        let key = format!("{name}-{}", told.len());
        let answer = put(nodes[told.len() % nodes.len()], &key);
        if answer == Told::NotApplied {
            // The pace of the load where nobody takes it.
            std::thread::sleep(REFUSED_PAUSE);
        } else {
            taken += 1;
        }
        told.push((key, answer));
    }
    told
}

fn put(node: SocketAddr, key: &str) -> Told {
    let target = format!("/registry/keys/{key}");
    match request(node, "PUT", &target, &[("authorization", BEARER)], &value_of(key), PATIENCE) {
        Ok(answer) if answer.status == 201 => Told::Acknowledged,
        Ok(answer) => match read_outcome(&answer) {
            Outcome::NotApplied(_) => Told::NotApplied,
            Outcome::Unknown(_) => Told::Unknown,
            other => panic!("PUT {key}: {other:?}"),
        },
        Err(Failure::NotSent(_)) => Told::NotApplied,
        Err(Failure::Lost(_)) => Told::Unknown,
    }
}

/// Whether disks can be made; says so when not, because the test then shows nothing.
fn mounts_work() -> bool {
    let possible = Tmpfs::is_possible();
    if !possible {
        not_tested("a disk that gets full needs root and mount");
    }
    possible
}

#[test]
fn a_single_node_whose_disk_gets_full_ends_and_loses_nothing() {
    if !mounts_work() {
        return;
    }
    let _machine = machine();
    let mut all = Installation::start(1, 1);
    let mut told = all.fill("first");
    // As a supervisor would, which knows nothing of disks.
    all.cluster.start_node(1);
    told.extend(all.fill("again"));
    all.mend_and_check(&told);
}

#[test]
fn a_leader_whose_disk_gets_full_ends_and_the_others_go_on() {
    one_of_three_gets_full(1);
}

#[test]
fn a_follower_whose_disk_gets_full_ends_and_the_others_go_on() {
    one_of_three_gets_full(2);
}

/// Node 1 has the small disk; `leader` leads when it gets full.
fn one_of_three_gets_full(leader: u64) {
    if !mounts_work() {
        return;
    }
    let _machine = machine();
    let mut all = Installation::start(3, 1);
    all.wait_leads(leader);
    let told = all.fill("key");
    assert_ne!(all.cluster.leader().id, 1);
    assert_eq!(put(all.cluster.api_address(2), "meanwhile"), Told::Acknowledged);
    all.mend_and_check(&told);
    assert!(all.has(1, "meanwhile"), "the node that came back learns what it has missed");
}
