//! A cluster that is lost: backed up while it serves, restored on empty disks, or made anew of one
//! survivor. What is left of the old cluster comes back in the worst moment.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};

use crate::machine;
use crate::support::client::read_outcome;
use crate::support::cluster::{Cluster, Leader, Plan, RESOURCE, SETTLE_LIMIT};
use crate::support::not_tested::not_tested;
use crate::support::tmpfs::Tmpfs;
use crate::support::verdict::Outcome;
use crate::support::{termgate, wait};
use crate::told::{PATIENCE, post, write};

/// Acknowledged before the backup is asked for, and more after it.
const WRITES: u64 = 60;
const LIMIT: Duration = Duration::from_secs(60);
/// Writes that a recovered node must take undisturbed.
const UNDISTURBED: u64 = 40;

/// Runs `termgate` to its end.
fn run(args: &[&str]) -> Output {
    Command::new(termgate()).args(args).output().expect("the binary can be started")
}

/// The same; it must succeed. Answers what it printed.
fn done(args: &[&str]) -> String {
    let output = run(args);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "termgate {args:?} ended with {}: {said}", output.status);
    String::from_utf8(output.stdout).expect("text")
}

/// The same; it must end with `status`. Answers why.
fn refused(args: &[&str], status: i32) -> String {
    let output = run(args);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(status), "termgate {args:?}: {said}");
    said
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}

/// The number in a line such as `terms    above 1000007`.
fn number(said: &str, line: &str) -> u64 {
    let found = said.lines().find_map(|l| l.strip_prefix(line)).unwrap_or_else(|| panic!("{line} in {said}"));
    found.trim().parse().unwrap_or_else(|e| panic!("{found}: {e}"))
}

fn put(cluster: &Cluster, id: u64, key: &str, value: &str) -> bool {
    let answer = cluster.api(id, "PUT", &format!("/registry/keys/{key}"), value.as_bytes());
    answer.is_ok_and(|answer| (200..300).contains(&answer.status))
}

fn value(cluster: &Cluster, id: u64, key: &str) -> Option<String> {
    let answer = cluster.api(id, "GET", &format!("/registry/keys/{key}"), b"").ok()?;
    (answer.status == 200).then(|| answer.text())
}

fn key(number: u64) -> String {
    format!("key-{number}")
}

/// Backs the cluster up while one client writes; returns the file, and how many writes had been
/// acknowledged before it was asked for.
fn back_up_under_writes(cluster: &Cluster) -> (PathBuf, u64) {
    let file = cluster.dir().join("cluster.backup");
    let (stop, acknowledged) = (AtomicBool::new(false), AtomicU64::new(0));
    let before = std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0.. {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                assert!(
                    put(cluster, 1 + number % 3, &key(number), &number.to_string()),
                    "nothing is wrong yet"
                );
                acknowledged.store(number + 1, Ordering::SeqCst);
            }
        });
        let wait_for = |count| {
            wait::until("acknowledged writes", LIMIT, || {
                (acknowledged.load(Ordering::SeqCst) >= count).then_some(())
            });
        };
        wait_for(WRITES);
        let before = acknowledged.load(Ordering::SeqCst);
        done(&["backup", "--config", text(&cluster.config_of(2)), "--out", text(&file)]);
        wait_for(acknowledged.load(Ordering::SeqCst) + WRITES);
        stop.store(true, Ordering::Relaxed);
        before
    });
    (file, before)
}

/// Backs the cluster up, through node 1.
pub fn back_up(cluster: &Cluster) -> PathBuf {
    let file = cluster.dir().join("cluster.backup");
    done(&["backup", "--config", text(&cluster.config_of(1)), "--out", text(&file)]);
    file
}

/// Every disk of the cluster is gone.
pub fn lose_everything(cluster: &mut Cluster) {
    for id in cluster.ids() {
        cluster.kill_node(id);
    }
    for node in &cluster.nodes {
        std::fs::remove_dir_all(node.data_dir()).expect("the data directory goes");
    }
}

/// Restores node `id`; returns the floor, and what every new term is above.
fn restore(cluster: &Cluster, id: u64, backup: &Path, floor: &str) -> (u64, u64) {
    let config = cluster.config_of(id);
    let said = done(&["restore", "--backup", text(backup), "--config", text(&config), "--term-floor", floor]);
    (number(&said, "floor"), number(&said, "terms    above"))
}

/// Restores every node, the first with `auto`; as [`restore`].
pub fn restore_all(cluster: &Cluster, backup: &Path) -> (u64, u64) {
    let first = restore(cluster, 1, backup, "auto");
    for id in 2..=3 {
        assert_eq!(restore(cluster, id, backup, &first.0.to_string()), first);
    }
    first
}

/// A write that goes around the nodes to the guard, stamped as `leader` did it, with its certificate.
fn write_straight(cluster: &Cluster, leader: &Leader, body: &str) -> (u16, String) {
    let certs = cluster.dir().join("certs");
    let pem = |name: &str| certs.join(name);
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(pem("ca.pem")).expect("a certificate")).expect("an authority");
    let chain =
        vec![CertificateDer::from_pem_file(pem(&format!("node-{}.pem", leader.id))).expect("a certificate")];
    let private = PrivateKeyDer::from_pem_file(pem(&format!("node-{}.key", leader.id))).expect("a key");
    let config =
        rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3")
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, private)
            .expect("they fit");
    let guard = SocketAddr::new(cluster.placement().outside_ip(), cluster.placement().port(190));
    let client =
        rustls::ClientConnection::new(Arc::new(config), ServerName::from(guard.ip())).expect("a client");
    let socket = TcpStream::connect(guard).expect("the guard listens");
    socket.set_read_timeout(Some(PATIENCE)).expect("a limit");
    let mut stream = rustls::StreamOwned::new(client, socket);
    let (term, id, length) = (leader.term, leader.id, body.len());
    write!(
        stream,
        "POST /ledger HTTP/1.1\r\nhost: {guard}\r\nconnection: close\r\ncontent-length: {length}\r\n\
         termgate-term: {term}\r\ntermgate-node: {id}\r\ntermgate-resource: {RESOURCE}\r\n\
         termgate-request-id: straight\r\n\r\n{body}"
    )
    .expect("the guard reads");
    let mut reader = BufReader::new(stream);
    let mut status = String::new();
    reader.read_line(&mut status).expect("the guard answers");
    let mut rest = Vec::new();
    // The guard may close TCP without a farewell of TLS.
    let _ = reader.read_to_end(&mut rest);
    let status = status.split(' ').nth(1).and_then(|word| word.parse().ok()).expect("a status line");
    (status, String::from_utf8_lossy(&rest).into_owned())
}

/// P4, G3 over a disaster: the token goes on where it was, and above.
#[test]
fn a_cluster_is_restored_with_all_that_was_acknowledged_and_above_every_fence() {
    let _machine = machine();
    let mut cluster = Cluster::start(Plan::new(3));
    let old = cluster.leader();
    write(cluster.at(1).proxy, "before the disaster");
    let (backup, before) = back_up_under_writes(&cluster);
    let said = done(&["backup", "verify", text(&backup)]);
    assert!(said.contains("cluster  trial\n") && said.ends_with("is whole\n"), "{said}");
    // Terms that the backup does not know of.
    let body = cluster.api(old.id, "POST", "/leader/resign", b"{}").expect("an answer");
    assert_eq!(body.status, 200, "{}", body.text());
    let last = wait::until("the next term", SETTLE_LIMIT, || {
        Some(cluster.leader()).filter(|leader| leader.term > old.term)
    });
    cluster.wait_whole();
    write(cluster.at(2).proxy, "under the last term");
    lose_everything(&mut cluster);

    let (floor, begin) = restore_all(&cluster, &backup);
    assert_eq!(floor, last.term, "the fence that the backup does not know");
    cluster.start_all_nodes();
    cluster.wait_whole();
    let new = cluster.leader();
    assert!(new.term > begin && begin > last.term, "term {} above {begin}", new.term);
    for number in 0..before {
        let found = value(&cluster, 1 + number % 3, &key(number));
        assert_eq!(found.as_deref(), Some(number.to_string().as_str()), "{}", key(number));
    }
    // A version that was handed out after the backup never comes again (DR-2).
    let answer = cluster.api(1, "PUT", "/registry/keys/key-0", b"new").expect("an answer");
    let index: u64 = answer.field("termgate-index").and_then(|i| i.parse().ok()).expect("an index");
    assert!(index > 1_000_000_000_000, "{index}");

    for stale in [&old, &last] {
        let (status, said) = write_straight(&cluster, stale, "as the old leader would");
        assert_eq!(status, 412, "{said}");
        assert!(said.contains(&format!("rejected; current={}", new.term)), "{said}");
    }
    let (_, term) = write(cluster.at(3).proxy, "after the disaster");
    assert_eq!(term, new.term);
    let (status, said) = write_straight(&cluster, &new, "as the new leader does");
    assert_eq!(status, 201, "it was the term that was refused: {said}");
    let bodies: Vec<String> = cluster.ledger.entries().into_iter().map(|entry| entry.body).collect();
    let expected =
        ["before the disaster", "under the last term", "after the disaster", "as the new leader does"];
    assert_eq!(bodies, expected);

    // The new cluster is one like any other.
    cluster.kill_node(new.id);
    let survivor = cluster.ids().into_iter().find(|id| *id != new.id).expect("there are others");
    let others: Vec<u64> = cluster.ids().into_iter().filter(|id| *id != new.id).collect();
    let next = wait::until("the next leader", SETTLE_LIMIT, || cluster.leader_among(&others));
    assert!(next.term > new.term);
    assert_eq!(value(&cluster, survivor, "key-0").as_deref(), Some("new"));
}

/// DR-3: a node that missed the disaster comes back under its old name, with its old data.
#[test]
fn a_node_of_the_old_cluster_is_none_of_the_restored_one() {
    let _machine = machine();
    let mut cluster = Cluster::start(Plan::new(3));
    let (backup, before) = back_up_under_writes(&cluster);
    for id in cluster.ids() {
        cluster.kill_node(id);
    }
    let aside = cluster.dir().join("node-3-of-old");
    std::fs::rename(cluster.at(3).data_dir(), &aside).expect("moved");
    for id in 1..=2 {
        std::fs::remove_dir_all(cluster.at(id).data_dir()).expect("removed");
    }
    restore_all(&cluster, &backup);
    let new = cluster.dir().join("node-3-of-new");
    std::fs::rename(cluster.at(3).data_dir(), &new).expect("moved");
    std::fs::rename(&aside, cluster.at(3).data_dir()).expect("moved");
    // The old one first, so that it is the first to be heard under this name.
    cluster.start_node(3);
    wait::until("the old node's start", SETTLE_LIMIT, || cluster.status(3));
    cluster.start_node(1);
    cluster.start_node(2);
    let leader = wait::until("a leader of two", SETTLE_LIMIT, || cluster.leader_among(&[1, 2]));
    wait::until("a word about the stranger", LIMIT, || {
        cluster.log_of(leader.id).contains("dropped what a node says under a member's name").then_some(())
    });
    for count in 0..UNDISTURBED {
        let (_, term) = write(cluster.at(1 + count % 2).proxy, &format!("undisturbed {count}"));
        assert_eq!(term, leader.term);
    }
    assert_eq!(cluster.leader_among(&[1, 2]), Some(leader.clone()), "no election was forced");
    let seen = cluster.leader_seen_by(3);
    assert_eq!(seen, None, "the old node follows nobody");
    let own = cluster.status(3).expect("it answers");
    let row = own["members"].as_array().and_then(|all| all.iter().find(|m| m["id"] == 3)).cloned();
    let term = row.and_then(|row| row["term"].as_u64()).expect("its own term");
    assert!(term < 1_000, "nor was it taught the new term: {term}");

    // The right one is taken in at once.
    cluster.kill_node(3);
    std::fs::remove_dir_all(cluster.at(3).data_dir()).expect("removed");
    std::fs::rename(&new, cluster.at(3).data_dir()).expect("moved");
    cluster.start_node(3);
    cluster.wait_whole();
    assert_eq!(value(&cluster, 3, &key(before - 1)), Some((before - 1).to_string()));
}

#[test]
fn nothing_is_restored_from_a_damaged_backup_or_beside_a_silent_verifier() {
    let _machine = machine();
    let mut cluster = Cluster::start(Plan::new(1));
    assert!(put(&cluster, 1, "key", "value"));
    let (file, config) = (cluster.dir().join("one.backup"), cluster.config_of(1));
    let (file, config) = (text(&file).to_owned(), text(&config).to_owned());
    done(&["backup", "--config", &config, "--out", &file]);
    let again = refused(&["backup", "--config", &config, "--out", &file], 1);
    assert!(again.contains("exists already and is not overwritten"), "{again}");
    let unauthorized =
        refused(&["backup", "--api", &cluster.api_address(1).to_string(), "--out", "/nowhere/x"], 1);
    assert!(unauthorized.contains("/nowhere/x"), "{unauthorized}");
    let other = cluster.dir().join("other.backup");
    let api = cluster.api_address(1).to_string();
    let unauthorized = refused(&["backup", "--api", &api, "--out", text(&other)], 1);
    assert!(unauthorized.contains("says 401"), "{unauthorized}");
    let in_use =
        refused(&["backup", "--data-dir", text(&cluster.at(1).data_dir()), "--out", text(&other)], 1);
    assert!(in_use.contains("in use by another process"), "{in_use}");
    lose_everything(&mut cluster);

    let sound = std::fs::read(&file).expect("the backup");
    let damaged = cluster.dir().join("damaged.backup");
    let mut flipped = sound.clone();
    let at = flipped.len() - 20;
    flipped[at] ^= 1;
    let mut later = sound.clone();
    later[19] = 2;
    let data = cluster.at(1).data_dir();
    for (bytes, expected) in [
        (&sound[..sound.len() / 2], "ends too early"),
        (&flipped, "does not have the SHA-256"),
        (&later, "has backup format 2"),
    ] {
        std::fs::write(&damaged, bytes).expect("written");
        let why = refused(&["restore", "--backup", text(&damaged), "--config", &config], 1);
        assert!(why.contains(expected), "{why}");
        assert!(!data.exists(), "nothing is written");
    }
    // A node that joins names no members: there would be nobody to lead.
    let joins = cluster.dir().join("joins.toml");
    let written = std::fs::read_to_string(&config).expect("the configuration");
    std::fs::write(&joins, written.replacen("[cluster]\n", "[cluster]\njoin = true\n", 1)).expect("written");
    let why = refused(&["restore", "--backup", &file, "--config", text(&joins)], 2);
    assert!(why.contains("take cluster.join out"), "{why}");
    assert!(!data.exists(), "nothing is written");
    // The guard is silent: it might stand anywhere.
    let pid = cluster.guard().expect("a guard").pid();
    crate::support::process::send_signal(pid, rustix::process::Signal::STOP);
    let why = refused(&["restore", "--backup", &file, "--config", &config], 69);
    assert!(why.contains("the fence of route ledger can't be read"), "{why}");
    assert!(!data.exists(), "nothing is written");
    crate::support::process::send_signal(pid, rustix::process::Signal::CONT);
    // The backup knows of the term that the fence stands at, so no number is too low.
    done(&["restore", "--backup", &file, "--config", &config, "--term-floor", "0"]);
    let full = refused(&["restore", "--backup", &file, "--config", &config], 1);
    assert!(full.contains("is not empty"), "{full}");
    cluster.start_node(1);
    cluster.wait_whole();
    assert_eq!(value(&cluster, 1, "key").as_deref(), Some("value"));
    let running = refused(&["recover", "--force-new-cluster", "--yes-i-understand", "--config", &config], 1);
    assert!(running.contains("in use by another process"), "{running}");
}

/// A full disk, and a data directory that is the root of a file system.
#[test]
fn a_restore_that_finds_no_space_leaves_nothing() {
    if !Tmpfs::is_possible() {
        return not_tested("a restore on a full disk needs root and mount");
    }
    let _machine = machine();
    let mut cluster = Cluster::start(Plan::new(1));
    let value = "v".repeat(500_000);
    for number in 0..6 {
        assert!(put(&cluster, 1, &key(number), &value));
    }
    let (file, config) = (cluster.dir().join("one.backup"), cluster.config_of(1));
    let (file, config) = (text(&file).to_owned(), text(&config).to_owned());
    done(&["backup", "--config", &config, "--out", &file]);
    lose_everything(&mut cluster);
    let data = cluster.at(1).data_dir();
    let disk = Tmpfs::mount(&data, "2m");
    let why = refused(&["restore", "--backup", &file, "--config", &config], 1);
    assert!(why.contains("no space left"), "{why}");
    assert_eq!(std::fs::read_dir(&data).expect("the disk").count(), 0, "nothing is left of it");
    disk.resize("16m");
    done(&["restore", "--backup", &file, "--config", &config]);
    cluster.start_node(1);
    cluster.wait_whole();
    assert_eq!(self::value(&cluster, 1, "key-5"), Some(value));
    cluster.kill_node(1);
}

/// DR-1, DR-4.
#[test]
fn one_survivor_goes_on_and_what_was_lost_can_not_disturb_it_when_it_comes_back() {
    let _machine = machine();
    let mut cluster = Cluster::start(Plan::new(3));
    for number in 0..WRITES {
        assert!(put(&cluster, 1, &key(number), &number.to_string()));
    }
    let (_, old_term) = write(cluster.at(1).proxy, "before the disaster");
    wait::until("everything everywhere", SETTLE_LIMIT, || {
        value(&cluster, 1, &key(WRITES - 1)).filter(|_| cluster.status(1).is_some())
    });
    cluster.kill_node(1);
    let config = cluster.config_of(1);
    let recover = ["recover", "--force-new-cluster", "--config", text(&config)];
    let consent = [&recover[..], &["--yes-i-understand"]].concat();
    wait::until("a leader of the others", SETTLE_LIMIT, || cluster.leader_among(&[2, 3]));
    let why = refused(&consent, 1);
    assert!(why.contains("knows a leader") && why.contains("it needs no recovery"), "{why}");
    cluster.kill_node(2);
    cluster.kill_node(3);

    let dangers = refused(&recover, 2);
    assert!(dangers.contains("THE DANGERS") && dangers.contains("--yes-i-understand"), "{dangers}");
    let said = done(&consent);
    let begin = number(&said, "terms    above");
    assert!(said.contains("members  1\n") && said.contains("before-recovery-1"), "{said}");
    cluster.start_node(1);
    let new = wait::until("the survivor leads", SETTLE_LIMIT, || cluster.leader_among(&[1]));
    assert!(new.term > begin && begin > old_term, "{new:?} above {begin}, above {old_term}");
    for number in 0..WRITES {
        assert_eq!(value(&cluster, 1, &key(number)), Some(number.to_string()), "{}", key(number));
    }
    let landed = wait::until("a write lands", SETTLE_LIMIT, || {
        match read_outcome(&post(cluster.at(1).proxy, "after the recovery")) {
            Outcome::Acknowledged { term, .. } => Some(term),
            _ => None,
        }
    });
    assert_eq!(landed, new.term);

    // Both come back with what they had: a majority of the old cluster.
    cluster.start_node(2);
    cluster.start_node(3);
    let old = wait::until("the old cluster's leader", SETTLE_LIMIT, || {
        [2, 3].into_iter().find_map(|id| cluster.leader_seen_by(id)).filter(|leader| leader.id != 1)
    });
    assert!(old.term < begin, "{old:?}");
    for count in 0..UNDISTURBED {
        let (_, term) = write(cluster.at(1).proxy, &format!("undisturbed {count}"));
        assert_eq!(term, new.term, "no election was forced");
        assert!(put(&cluster, 1, &format!("new-{count}"), "value"));
    }
    for id in [2, 3] {
        match read_outcome(&post(cluster.at(id).proxy, "through the old cluster")) {
            Outcome::NotApplied(_) => {}
            other => panic!("through node {id}: {other:?}"),
        }
    }
    let terms: BTreeSet<u64> = cluster.ledger.entries().into_iter().skip(1).map(|entry| entry.term).collect();
    assert_eq!(terms, [new.term].into(), "nothing of the old cluster lands");
    assert_eq!(cluster.leader_among(&[1]), Some(new));
}

/// A survivor's state, restored at the others, is a whole cluster again.
#[test]
fn the_other_members_are_restored_from_what_the_survivor_held() {
    let _machine = machine();
    let mut cluster = Cluster::start(Plan::new(3));
    for number in 0..WRITES {
        assert!(put(&cluster, 2, &key(number), &number.to_string()));
    }
    write(cluster.at(1).proxy, "before the disaster");
    cluster.wait_whole();
    for id in cluster.ids() {
        cluster.kill_node(id);
    }
    for id in [1, 3] {
        std::fs::remove_dir_all(cluster.at(id).data_dir()).expect("removed");
    }
    let (held, data) = (cluster.dir().join("held.backup"), cluster.at(2).data_dir());
    let shown = done(&["backup", "--data-dir", text(&data), "--out", text(&held)]);
    assert!(shown.contains("origin   disk: all that the disk of node 2 held"), "{shown}");
    assert!(number(&shown, "keys") == WRITES && shown.contains("voters   1, 2, 3\n"), "{shown}");
    let config = cluster.config_of(2);
    let said = done(&[
        "recover",
        "--force-new-cluster",
        "--yes-i-understand",
        "--members",
        "1,2,3",
        "--config",
        text(&config),
    ]);
    let floor = number(&said, "floor").to_string();
    let state = cluster.at(2).data_dir().join("before-recovery-1/state.backup");
    assert!(said.contains(&format!("--backup {} ", state.display())), "{said}");
    for id in [1, 3] {
        restore(&cluster, id, &state, &floor);
    }
    cluster.start_all_nodes();
    cluster.wait_whole();
    for number in 0..WRITES {
        assert_eq!(
            value(&cluster, 1 + number % 3, &key(number)),
            Some(number.to_string()),
            "{}",
            key(number)
        );
    }
    write(cluster.at(3).proxy, "after the disaster");
}
