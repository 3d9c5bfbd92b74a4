//! Everything killed at once, and data directories that a node must refuse.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::Signal;

use crate::machine;
use crate::support::cluster::{Cluster, Plan};
use crate::support::process::Process;
use crate::support::{number_from_env, termgate};

const SHORT_CRASHES: usize = 2;
const WRITERS: usize = 4;
/// How long the writers write before each crash.
const WRITING_FOR: Duration = Duration::from_millis(700);
/// A node that can't start says so within this.
const REFUSAL_LIMIT: Duration = Duration::from_secs(10);

#[test]
fn what_was_acknowledged_survives_the_crash_of_all_nodes() {
    crashes(SHORT_CRASHES);
}

#[test]
#[ignore = "part of make chaos"]
fn campaign_of_total_crashes() {
    crashes(number_from_env("ROUNDS", 100));
}

fn crashes(rounds: usize) {
    let _machine = machine();
    let mut cluster = Cluster::start(Plan::new(3));
    let mut acknowledged: Vec<String> = Vec::new();
    let mut last_term = 0;
    for round in 0..rounds {
        acknowledged.extend(write_until_crash(&mut cluster, round));
        cluster.start_all_nodes();
        cluster.wait_whole();
        let term = cluster.leader().term;
        assert!(term > last_term, "term {term} after {last_term}: a new leader needs a new term");
        last_term = term;
    }
    for (number, key) in acknowledged.iter().enumerate() {
        let target = format!("/registry/keys/{key}");
        let answer = cluster.api(1 + number as u64 % 3, "GET", &target, b"").expect("an answer");
        assert_eq!((answer.status, answer.text()), (200, key.clone()), "{key} was acknowledged");
    }
    println!("{rounds} crashes of all nodes, {} acknowledged registry writes, all there", acknowledged.len());
    assert!(!acknowledged.is_empty(), "nothing was written before the crashes");
}

/// Writers put keys through all nodes until every node is killed; returns the acknowledged keys.
fn write_until_crash(cluster: &mut Cluster, round: usize) -> Vec<String> {
    let stop = AtomicBool::new(false);
    let acknowledged = std::thread::scope(|scope| {
        let (cluster, stop) = (&*cluster, &stop);
        let write = |writer| move || put_keys(cluster, round, writer, stop);
        let writers: Vec<_> = (0..WRITERS).map(|writer| scope.spawn(write(writer))).collect();
        // The length of the load.
        std::thread::sleep(WRITING_FOR);
        for node in &cluster.nodes {
            node.process().signal(Signal::KILL);
        }
        stop.store(true, Ordering::Relaxed);
        writers.into_iter().flat_map(|writer| writer.join().expect("no writer panicked")).collect()
    });
    for id in cluster.ids() {
        cluster.kill_node(id);
    }
    acknowledged
}

fn put_keys(cluster: &Cluster, round: usize, writer: usize, stop: &AtomicBool) -> Vec<String> {
    let ids = cluster.ids();
    let mut acknowledged = Vec::new();
    for count in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let key = format!("k-{round}-{writer}-{count}");
        let id = ids[(writer + count) % ids.len()];
        let answer = cluster.api(id, "PUT", &format!("/registry/keys/{key}"), key.as_bytes());
        if answer.is_ok_and(|answer| (200..300).contains(&answer.status)) {
            acknowledged.push(key);
        }
    }
    acknowledged
}

#[test]
fn refuses_the_data_directory_of_another_node() {
    let _machine = machine();
    let mut cluster = Cluster::start(Plan::new(3));
    cluster.kill_node(1);
    cluster.kill_node(2);
    replace_dir(&cluster.at(1).data_dir(), &cluster.at(2).data_dir());
    expect_refusal(&cluster, 2, "node");
}

#[test]
fn refuses_the_data_directory_of_another_cluster() {
    let _machine = machine();
    let mut cluster = Cluster::start(Plan::new(1));
    cluster.kill_node(1);
    let other = Cluster::prepare(Plan { name: "elsewhere", ..Plan::new(1) });
    replace_dir(&cluster.at(1).data_dir(), &other.at(1).data_dir());
    expect_refusal(&other, 1, "cluster");
}

#[test]
fn a_node_with_an_emptied_data_directory_is_refused_and_says_why() {
    let _machine = machine();
    let mut cluster = Cluster::start(Plan::new(3));
    let leader = cluster.leader().id;
    let emptied = cluster.ids().into_iter().find(|id| *id != leader).expect("there are followers");
    let put = |cluster: &Cluster| cluster.api(leader, "PUT", "/registry/keys/k", b"v").map(|a| a.status);
    assert!(matches!(put(&cluster), Ok(201)), "a write before");
    cluster.kill_node(emptied);
    std::fs::remove_dir_all(cluster.at(emptied).data_dir()).expect("the directory can be removed");
    expect_refusal(&cluster, emptied, "another data directory");
    assert!(matches!(put(&cluster), Ok(204)), "the others go on");
}

#[test]
fn refuses_the_data_directory_of_a_later_format() {
    let _machine = machine();
    let mut cluster = Cluster::start(Plan::new(1));
    cluster.kill_node(1);
    write_format(&cluster.at(1).data_dir().join("termgate.redb"), 999, "9.8.7");
    expect_refusal(&cluster, 1, "9.8.7");
}

/// Overwrites the record `meta` `"format"` as proto-spec/storage.md describes it.
fn write_format(file: &Path, number: u32, version: &str) {
    let body = [&number.to_le_bytes(), version.as_bytes()].concat();
    let record = [&crc32(&[b"format", body.as_slice()].concat()).to_le_bytes(), body.as_slice()].concat();
    let database = redb::Database::open(file).expect("the data file opens");
    let transaction = database.begin_write().expect("a transaction");
    let meta = redb::TableDefinition::<&str, &[u8]>::new("meta");
    let mut table = transaction.open_table(meta).expect("the table of the specification");
    table.insert("format", record.as_slice()).expect("the record can be written");
    drop(table);
    transaction.commit().expect("the transaction commits");
}

/// CRC-32 as in zlib, bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 };
    !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
}

#[test]
fn the_checksum_here_is_the_one_of_the_specification() {
    let body = [1, 0, 0, 0, 0x30, 0x2e, 0x31, 0x2e, 0x30];
    assert_eq!(crc32(&[b"format", &body[..]].concat()).to_le_bytes(), [0xf5, 0xa3, 0x33, 0x91]);
}

fn replace_dir(from: &Path, to: &Path) {
    let _ = std::fs::remove_dir_all(to);
    let copied = Command::new("cp").arg("-a").arg(from).arg(to).status().expect("cp can be started");
    assert!(copied.success(), "cp -a {} {}", from.display(), to.display());
}

/// The node ends by itself with status 1 or 2 and names what is wrong, and where.
fn expect_refusal(cluster: &Cluster, id: u64, what: &str) {
    let (log, config) = (cluster.dir().join("refused.log"), cluster.config_of(id));
    let config = config.to_str().expect("a plain path");
    let mut process = Process::spawn("refused", &log, &[termgate(), "node", "--config", config], &[]);
    let status = process.wait_ended(REFUSAL_LIMIT);
    let said = process.output();
    assert!(matches!(status.code(), Some(1 | 2)), "ended with {status}: {said}");
    assert!(said.contains(what) && said.contains("data"), "the reason is not named: {said}");
}
