//! What the commands for disasters say, word by word where a person decides by it.

use std::path::PathBuf;

use bytes::Bytes;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::{is_golden, run};
use crate::cli::Cli;
use crate::ids::{LogId, LogIndex, NodeId, Term};
use crate::raft::entry::{Entry, Membership, Payload};
use crate::registry::command::{Command as Op, Condition, Op as What};
use crate::registry::machine::Machine;
use crate::storage::backup::{Header, Origin, Taken, save};
use crate::transport::identity::Subject;

#[test]
fn the_dangers_are_part_of_the_help() {
    use clap::CommandFactory;
    for command in ["backup", "restore", "recover"] {
        let mut cli = Cli::command();
        cli.build();
        let help = cli.find_subcommand_mut(command).unwrap().render_long_help().to_string();
        is_golden(&format!("{command}.txt"), &help);
    }
}

fn machine(keys: u64) -> Machine {
    let mut machine = Machine::new(Vec::new());
    let mut apply = |index, payload| {
        let _ = machine.apply(&Entry { id: LogId::new(Term(7), LogIndex(index)), payload });
    };
    apply(1, Payload::NoOp { leader: NodeId(1) });
    let command =
        |op| Payload::Command(Bytes::from(postcard::to_stdvec(&Op { decided_in: Term(7), op }).unwrap()));
    apply(2, command(What::FenceRaised { resource: "orders".into(), term: Term(7), node: NodeId(1) }));
    for key in 0..keys {
        let value = Bytes::from_static(b"value");
        let op = What::Put { key: format!("key-{key}"), value, condition: Condition::None };
        apply(3 + key, command(op));
    }
    machine
}

fn backup(dir: &TempDir) -> PathBuf {
    let (machine, path) = (machine(3), dir.path().join("orders.backup"));
    let membership = Membership::of_voters((1..=3).map(NodeId));
    let (cluster, origin) = ("orders".to_owned(), Origin::Linearizable);
    let taken = Taken { cluster, node: NodeId(2), origin, term: Term(9), membership };
    let header = Header { created_at: "2030-01-02T03:04:05Z".into(), ..Header::describe(&machine, taken) };
    save(&path, true, &header, &machine).unwrap();
    path
}

/// A text with what differs from run to run made the same.
fn plain(dir: &TempDir, text: &str) -> String {
    let text = text.replace(&dir.path().display().to_string(), "DIR");
    text.replace(&format!("by termgate {}\n", env!("CARGO_PKG_VERSION")), "by termgate VERSION\n")
}

#[test]
fn a_backup_says_what_it_is() {
    let dir = TempDir::new().unwrap();
    let text = run(&format!("termgate backup verify {}", backup(&dir).display())).unwrap();
    is_golden("verify-output.txt", &plain(&dir, &text));
    let json = run(&format!("termgate backup verify --json {}", backup(&dir).display())).unwrap();
    let head: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((head["cluster"].as_str(), head["term"].as_u64()), (Some("orders"), Some(9)));
}

#[test]
fn a_damaged_backup_is_refused_with_status_1() {
    let dir = TempDir::new().unwrap();
    let (path, config) = (backup(&dir), config(&dir, "drain"));
    let sound = std::fs::read(&path).unwrap();
    let flipped = |at: usize| {
        let mut bytes = sound.clone();
        bytes[at] ^= 4;
        bytes
    };
    let damages = [
        ("cut", sound[..sound.len() - 10].to_vec(), "ends too early"),
        ("a bit in the content", flipped(sound.len() - 9), "does not have the SHA-256"),
        ("a bit in the head", flipped(60), "its head does not have the digest"),
        ("another format", flipped(19), "has backup format 5, and termgate "),
        ("another file", b"#!/bin/sh".to_vec(), "is no termgate backup"),
    ];
    for (what, bytes, expected) in damages {
        std::fs::write(&path, bytes).unwrap();
        let verify = format!("termgate backup verify {}", path.display());
        let restore = format!("termgate restore --term-floor 1 --backup {} -c {config}", path.display());
        for line in [verify, restore] {
            let failure = run(&line).unwrap_err();
            assert_eq!(failure.exit_status(), 1, "{what}: {failure}");
            assert!(failure.to_string().contains(expected), "{what}: {failure}");
        }
        assert!(!dir.path().join("data").exists(), "{what}");
    }
}

/// The configuration of node 1 of three, with one route whose backend does not answer.
fn config(dir: &TempDir, fence: &str) -> String {
    crate::certs::init("orders", dir.path()).unwrap();
    crate::certs::issue(dir.path(), &Subject::Node(NodeId(1)), dir.path(), &[]).unwrap();
    let at = dir.path().display();
    // Port 9 is closed on any machine: it is below what a process without rights may open.
    let member = |id: u64| {
        format!("[[cluster.members]]\nid = {id}\npeer = 'h{id}:1'\nproxy = 'h{id}:2'\napi = '127.0.0.1:9'\n")
    };
    let members: String = (1..=3).map(member).collect();
    let text = format!(
        "[node]\nid = 1\ndata_dir = '{at}/data'\n[cluster]\nname = 'orders'\n{members}\
         [tls]\nca = '{at}/ca.pem'\ncert = '{at}/node-1.pem'\nkey = '{at}/node-1.key'\n\
         [[route]]\nname = 'orders'\nmatch = {{ path_prefix = '/' }}\nbackend = 'http://127.0.0.1:9'\nfence = '{fence}'\n"
    );
    let path = dir.path().join("node.toml");
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

#[test]
fn a_verifier_that_does_not_answer_is_status_69_unless_a_term_is_given() {
    let dir = TempDir::new().unwrap();
    let (path, config) = (backup(&dir), config(&dir, "enforced"));
    let restore = format!("termgate restore --backup {} -c {config}", path.display());
    let failure = run(&restore).unwrap_err();
    assert_eq!(failure.exit_status(), 69, "{failure}");
    is_golden("restore-unread.txt", &format!("{failure}\n"));
    assert!(!dir.path().join("data").exists(), "nothing is written");
    let text = run(&format!("{restore} --term-floor 57")).unwrap();
    is_golden("restore-output.txt", &plain(&dir, &text));
    let failure = run(&format!("{restore} --term-floor 57")).unwrap_err();
    assert_eq!(failure.exit_status(), 1, "{failure}");
    assert!(failure.to_string().contains("is not empty"), "{failure}");
}

#[test]
fn a_recovery_without_consent_or_without_a_node_does_nothing() {
    let dir = TempDir::new().unwrap();
    let (path, config) = (backup(&dir), config(&dir, "drain"));
    let recover = format!("termgate recover --force-new-cluster -c {config}");
    let failure = run(&recover).unwrap_err();
    assert_eq!(failure.exit_status(), 1, "{failure}");
    assert!(failure.to_string().contains("holds no node's data"), "{failure}");
    run(&format!("termgate restore --term-floor 57 --backup {} -c {config}", path.display())).unwrap();
    let before = std::fs::read(dir.path().join("data/termgate.redb")).unwrap();
    // A test has no terminal to type on; where it has one, it types nothing.
    let failure = run(&recover).unwrap_err();
    assert_eq!(failure.exit_status(), 2, "{failure}");
    assert!(failure.to_string().contains("--yes-i-understand"), "{failure}");
    assert_eq!(std::fs::read(dir.path().join("data/termgate.redb")).unwrap(), before);
    let text = run(&format!("{recover} --yes-i-understand --members 1,2")).unwrap();
    is_golden("recover-output.txt", &plain(&dir, &dated(&text)));
    let failure = run(&format!("{recover} --yes-i-understand --members 2")).unwrap_err();
    assert_eq!(failure.exit_status(), 2, "{failure}");
}

/// The same, whenever it was.
fn dated(text: &str) -> String {
    let line = text.lines().find(|line| line.starts_with("taken")).unwrap();
    text.replace(line.split_whitespace().nth(1).unwrap(), "NOW")
}

/// A node that answers every request with these bytes, and closes.
async fn answering(bytes: Vec<u8>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let api = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = [0; 4096];
            let _ = stream.read(&mut head).await;
            let _ = stream.write_all(&bytes).await;
        }
    });
    api
}

#[test]
fn what_did_not_arrive_whole_gets_no_name_and_another_node_is_asked() {
    let dir = TempDir::new().unwrap();
    let whole = std::fs::read(backup(&dir)).unwrap();
    let answer = |content: &[u8]| {
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", whole.len());
        [head.as_bytes(), content].concat()
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let half = runtime.block_on(answering(answer(&whole[..whole.len() / 2])));
    let good = runtime.block_on(answering(answer(&whole)));
    let mut damaged = whole.clone();
    damaged[whole.len() - 5] ^= 1;
    let damaged = runtime.block_on(answering(answer(&damaged)));
    let out = dir.path().join("new.backup");
    let take = |apis: &[&String]| {
        let apis: String = apis.iter().map(|api| format!(" --api {api}")).collect();
        run(&format!("termgate backup --out {}{apis}", out.display()))
    };
    for (api, expected) in [(&half, "did not answer"), (&damaged, "does not have the SHA-256")] {
        let failure = take(&[api]).unwrap_err();
        assert!(failure.to_string().contains(expected), "{failure}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "only the first backup is there");
    }
    let text = take(&[&half, &good]).unwrap();
    assert!(text.ends_with("new.backup is whole\n"), "{text}");
    assert_eq!(std::fs::read(&out).unwrap(), whole);
    let failure = take(&[&good]).unwrap_err();
    assert!(failure.to_string().contains("exists already and is not overwritten"), "{failure}");
    assert_eq!(failure.exit_status(), 1);
}

/// A member that knows a leader proves that a majority lives.
#[test]
fn nothing_is_restored_or_recovered_beside_a_living_majority() {
    let dir = TempDir::new().unwrap();
    let leader = r#"{"node_id":3,"address":null,"term":7,"lease_expires_at":null,"lease_remaining_ms":null,"authoritative":false,"resources":[]}"#;
    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{leader}", leader.len());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let api = runtime.block_on(answering(answer.into_bytes()));
    let (path, config) = (backup(&dir), config(&dir, "drain"));
    let restore = format!("termgate restore --term-floor 57 --backup {} -c {config}", path.display());
    run(&restore).unwrap();
    let living = std::fs::read_to_string(&config).unwrap();
    let living = living.replacen("api = '127.0.0.1:9'\n[[", "api = 'X'\n[[", 1).replacen(
        "127.0.0.1:9'\n[[",
        &format!("{}'\n[[", &api[7..]),
        1,
    );
    std::fs::write(&config, living.replace("'X'", "'127.0.0.1:9'")).unwrap();
    let recover = format!("termgate recover --force-new-cluster --yes-i-understand -c {config}");
    for (line, mend) in [(restore, "stop every node first"), (recover, "it needs no recovery")] {
        let failure = run(&line).unwrap_err();
        assert_eq!(failure.exit_status(), 1);
        let text = failure.to_string();
        assert!(text.contains("node 2 at") && text.contains("node 3 in term 7"), "{text}");
        assert!(text.contains(mend), "{text}");
    }
}
