//! Members come, go, are replaced and move, while clients write.

use std::process::{Command, Output};
use std::time::Duration;

use serde_json::Value;

use crate::machine;
use crate::support::client::{Crowd, Habits};
use crate::support::cluster::{BEARER, Cluster, Plan, SETTLE_LIMIT};
use crate::support::ledger::Entry;
use crate::support::verdict::{Commit, check};
use crate::support::{termgate, wait};
use crate::told::write_until_landed;

const CLIENTS: usize = 9;
const CLIENT_PAUSE: Duration = Duration::from_millis(20);
/// Longer than the nodes' hold time, so that a client hears what the node decided.
const CLIENT_PATIENCE: Duration = Duration::from_secs(4);
/// A node that has been silent for several election timeouts is in no contact.
const OUT_OF_CONTACT_MS: u64 = 3000;
/// Writes that must pass between two changes.
const WRITES_BETWEEN: usize = 30;

/// `termgate member …` at the API of node `at`.
fn member(cluster: &Cluster, at: u64, args: &[&str]) -> Output {
    let api = format!("http://{}", cluster.api_address(at));
    let token = BEARER.strip_prefix("Bearer ").expect("a bearer token");
    let mut command = Command::new(termgate());
    command.arg("member").args(args).args(["--api", &api]).env("TERMGATE_TOKEN", token);
    command.output().expect("the binary can be started")
}

/// The same; it must succeed. Answers what it printed.
#[track_caller]
pub fn done(cluster: &Cluster, at: u64, args: &[&str]) -> String {
    let output = member(cluster, at, args);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "member {args:?}: {said}");
    String::from_utf8(output.stdout).expect("text")
}

pub fn add(cluster: &mut Cluster, at: u64, more: &[&str]) -> u64 {
    let id = cluster.make_place();
    cluster.equip(id);
    cluster.start_node(id);
    add_started(cluster, at, id, more);
    id
}

pub fn add_started(cluster: &Cluster, at: u64, id: u64, more: &[&str]) {
    let ([peer, proxy, api], id) = (cluster.addresses_of(id), id.to_string());
    let mut args = vec!["add", "--id", &id, "--peer-address", &peer, "--proxy-address", &proxy];
    args.extend(["--api-address", &api]);
    args.extend(more);
    done(cluster, at, &args);
}

/// Members and roles as node `at` hears them from the leader.
pub fn roles(cluster: &Cluster, at: u64) -> Vec<(u64, String)> {
    let list: Value = serde_json::from_str(&done(cluster, at, &["list", "--json"])).expect("JSON");
    let members = list["members"].as_array().expect("members").iter();
    members
        .map(|m| (m["id"].as_u64().expect("an id"), m["role"].as_str().expect("a role").to_owned()))
        .collect()
}

pub fn voters(ids: &[u64]) -> Vec<(u64, String)> {
    ids.iter().map(|id| (*id, "voter".to_owned())).collect()
}

/// Waits for more writes to land.
fn wait_for_writes(cluster: &Cluster) {
    let enough = cluster.ledger.len() + WRITES_BETWEEN;
    wait::until("more writes", SETTLE_LIMIT, || (cluster.ledger.len() >= enough).then_some(()));
}

pub fn commits_of(cluster: &Cluster) -> Vec<Commit> {
    let commit = |entry: Entry| {
        let Entry { seq, term, node, body, at } = entry;
        Commit { seq, term, node, body, at_ns: at.as_nanos() as u64 }
    };
    cluster.ledger.entries().into_iter().map(commit).collect()
}

#[test]
fn a_cluster_grows_loses_two_shrinks_and_replaces_every_node_and_no_write_is_lost() {
    let _machine = machine();
    let mut cluster = Cluster::start(Plan::new(3));
    // The places of those that come later are known from the start, as clients know them.
    let mut nodes = cluster.proxies();
    for later in 4..=6 {
        nodes.push((later, cluster.addresses_of(later)[1].parse().expect("an address")));
    }
    let habits = Habits { nodes, pause: CLIENT_PAUSE, patience: CLIENT_PATIENCE };
    let crowd = Crowd::start(CLIENTS, "w", &habits, cluster.start);
    wait_for_writes(&cluster);

    assert_eq!([(); 2].map(|()| add(&mut cluster, 3, &["--voter", "--timeout", "30s"])), [4, 5]);
    assert_eq!(roles(&cluster, 3), voters(&[1, 2, 3, 4, 5]));
    wait_for_writes(&cluster);
    cluster.kill_node(1);
    cluster.kill_node(2);
    wait_for_writes(&cluster);
    done(&cluster, 3, &["remove", "1"]);
    done(&cluster, 4, &["remove", "2"]);
    assert_eq!(roles(&cluster, 5), voters(&[3, 4, 5]));
    wait_for_writes(&cluster);
    let new = add(&mut cluster, 4, &[]).to_string();
    done(&cluster, 4, &["replace", "3", "--with", &new, "--wait", "--timeout", "30s"]);
    let ended = cluster.wait_node_ended(3, SETTLE_LIMIT);
    assert_eq!(ended.code(), Some(1));
    assert!(cluster.log_of(3).contains("no member of the cluster"), "{}", cluster.log_of(3));
    assert_eq!(roles(&cluster, 6), voters(&[4, 5, 6]));
    wait_for_writes(&cluster);

    let writes = crowd.finish();
    let verdict = check(&writes, &commits_of(&cluster));
    assert_eq!(verdict.findings, vec![]);
    // Each client has one write at a time, and three times a node with writes on their way ended.
    let unknown = verdict.unknown_applied + verdict.unknown_absent;
    assert!(unknown <= 3 * CLIENTS, "{unknown} of {} writes are unknown", writes.len());
    println!("{} acknowledged, {} not applied, {unknown} unknown", verdict.acknowledged, verdict.not_applied);
}

#[test]
fn a_node_with_a_wiped_disk_is_refused_until_it_is_added_again() {
    let _machine = machine();
    let mut cluster = Cluster::start(Plan::new(3));
    let leader = cluster.leader().id;
    let wiped = cluster.ids().into_iter().find(|id| *id != leader).expect("there are followers");
    cluster.kill_node(wiped);
    std::fs::remove_dir_all(cluster.at(wiped).data_dir()).expect("the disk is lost");
    cluster.start_node(wiped);
    assert_eq!(cluster.wait_node_ended(wiped, SETTLE_LIMIT).code(), Some(1));
    assert!(cluster.log_of(wiped).contains("by another data directory"), "{}", cluster.log_of(wiped));

    let id = wiped.to_string();
    done(&cluster, leader, &["remove", &id]);
    let [peer, proxy, api] = cluster.addresses_of(wiped);
    let mut args = vec!["add", "--id", &id, "--peer-address", &peer, "--proxy-address", &proxy];
    args.extend(["--api-address", &api]);
    let unnamed = member(&cluster, leader, &args);
    assert_eq!(unnamed.status.code(), Some(1));
    let said = String::from_utf8_lossy(&unnamed.stderr).into_owned();
    assert!(said.contains("name the incarnation of the new one"), "{said}");

    let incarnation = last_incarnation(&cluster.log_of(wiped));
    add_started(&cluster, leader, wiped, &["--incarnation", &incarnation]);
    cluster.start_node(wiped);
    done(&cluster, leader, &["promote", &id, "--wait", "--timeout", "30s"]);
    cluster.wait_whole();
    assert_eq!(roles(&cluster, wiped), voters(&[1, 2, 3]));
}

/// The incarnation that the node logged at its last start.
pub fn last_incarnation(log: &str) -> String {
    let plain: String = log.replace("\u{1b}[3m", "").replace("\u{1b}[0m", "").replace("\u{1b}[2m", "");
    let after = plain.rsplit("incarnation=").next().expect("split gives one");
    let digits: String = after.chars().take_while(char::is_ascii_digit).collect();
    assert!(!digits.is_empty(), "no incarnation in {plain}");
    digits
}

#[test]
fn a_node_that_was_removed_while_it_was_down_is_told_when_it_comes_back() {
    let _machine = machine();
    let mut cluster = Cluster::start(Plan::new(3));
    let leader = cluster.leader().id;
    let gone = cluster.ids().into_iter().find(|id| *id != leader).expect("there are followers");
    cluster.kill_node(gone);
    done(&cluster, leader, &["remove", &gone.to_string()]);
    cluster.start_node(gone);
    assert_eq!(cluster.wait_node_ended(gone, SETTLE_LIMIT).code(), Some(1));
    let log = cluster.log_of(gone);
    assert!(log.contains("termgate member add"), "it says what to do: {log}");
}

/// G5.
#[test]
fn a_change_that_no_majority_could_complete_moves_nobody() {
    let _machine = machine();
    let mut cluster = Cluster::start(Plan::new(3));
    let leader = cluster.leader().id;
    let others: Vec<u64> = cluster.ids().into_iter().filter(|id| *id != leader).collect();
    let (down, stays) = (others[0], others[1]);
    let before = listed(&cluster, leader, stays);
    cluster.kill_node(down);
    wait::until("the leader misses the node", SETTLE_LIMIT, || {
        let silent_for = listed(&cluster, leader, down)["last_contact_ms"].as_u64();
        silent_for.is_none_or(|silent_for| silent_for > OUT_OF_CONTACT_MS).then_some(())
    });
    let target = format!("/cluster/members/{stays}");
    let body = br#"{"role": "learner", "proxy": "127.0.0.1:9"}"#;
    let answer = cluster.api(leader, "PATCH", &target, body).expect("an answer");
    let problem = answer.json();
    assert_eq!((answer.status, problem["outcome"].as_str()), (409, Some("not-applied")), "{problem}");
    for at in [leader, stays] {
        let after = listed(&cluster, at, stays);
        for what in ["role", "peer", "proxy", "hop", "api"] {
            assert_eq!(after[what], before[what], "{what}, although the change was not applied");
        }
    }
}

/// The member `id` as node `at` hears of it from the leader.
fn listed(cluster: &Cluster, at: u64, id: u64) -> Value {
    let list: Value = serde_json::from_str(&done(cluster, at, &["list", "--json"])).expect("JSON");
    let mut members = list["members"].as_array().expect("members").iter();
    members.find(|m| m["id"] == id).expect("the member").clone()
}

#[test]
fn a_leader_that_is_removed_answers_hands_over_and_ends() {
    let _machine = machine();
    let mut cluster = Cluster::start(Plan::new(3));
    let leader = cluster.leader().id;
    let told = done(&cluster, leader, &["remove", &leader.to_string()]);
    assert!(told.starts_with(&format!("node {leader} is no member, since log entry ")), "{told}");
    assert_eq!(cluster.wait_node_ended(leader, SETTLE_LIMIT).code(), Some(1));
    let stays: Vec<u64> = cluster.ids().into_iter().filter(|id| *id != leader).collect();
    write_until_landed(cluster.at(stays[0]).proxy, "after");
    assert_eq!(roles(&cluster, stays[1]), voters(&stays));
}

/// Node 1 may sign certificates.
fn cluster_that_signs() -> Cluster {
    let mut cluster = Cluster::prepare(Plan::new(3));
    let ca_key = cluster.dir().join("certs/ca.key");
    let text = std::fs::read_to_string(cluster.config_of(1)).expect("the configuration");
    let text = text.replacen("[tls]\n", &format!("[tls]\nca_key = {ca_key:?}\n"), 1);
    std::fs::write(cluster.config_of(1), text).expect("the configuration is written");
    cluster.start_guard();
    cluster.start_all_nodes();
    cluster.wait_whole();
    cluster
}

fn invite(cluster: &Cluster, id: u64) -> String {
    let invited = done(cluster, 1, &["invite", "--id", &id.to_string(), "--json"]);
    let invited: Value = serde_json::from_str(&invited).expect("JSON");
    invited["token"].as_str().expect("a token").to_owned()
}

/// Starts `termgate node --join` in the place of node `id`, with its data in `dir`.
fn start_joining(cluster: &mut Cluster, id: u64, token: &str, dir: &str) {
    let dir = cluster.at(id).dir.join(dir).display().to_string();
    let token_file = cluster.dir().join("api-token");
    std::fs::write(&token_file, BEARER.trim_start_matches("Bearer ")).expect("the token is written");
    let ([peer, proxy, api], token_file) = (cluster.addresses_of(id), token_file.display().to_string());
    let from = format!("http://{}", cluster.api_address(1));
    let program = [
        termgate(),
        "node",
        "--join",
        &from,
        "--token",
        token,
        "--data-dir",
        &dir,
        "--peer-address",
        &peer,
        "--proxy-address",
        &proxy,
        "--api-address",
        &api,
        "--listen-peer",
        &peer,
        "--listen-proxy",
        &proxy,
        "--listen-api",
        &api,
        "--api-token-file",
        &token_file,
        "--voter",
    ];
    cluster.start_in_place_of(id, &program);
}

#[test]
fn a_machine_joins_with_a_token_and_starts_again_without_one() {
    let _machine = machine();
    let mut cluster = cluster_that_signs();
    let id = cluster.make_place();
    let token = invite(&cluster, id);
    start_joining(&mut cluster, id, &token, "data");
    wait::until("the vote of the new node", SETTLE_LIMIT, || {
        (roles(&cluster, 2) == voters(&[1, 2, 3, 4])).then_some(())
    });
    write_until_landed(cluster.at(id).proxy, "joined");

    let other = cluster.make_place();
    start_joining(&mut cluster, other, &token, "data");
    assert_eq!(cluster.wait_node_ended(other, SETTLE_LIMIT).code(), Some(1), "the token was used");
    assert!(cluster.log_of(other).contains("invitation was used before"), "{}", cluster.log_of(other));

    cluster.kill_node(id);
    start_joining(&mut cluster, id, &token, "data");
    wait::until("the node serves again", SETTLE_LIMIT, || {
        cluster.api(id, "GET", "/readyz", b"").ok().filter(|answer| answer.status == 200)
    });
    cluster.kill_node(id);
    let config = cluster.at(id).dir.join("data.toml").display().to_string();
    cluster.start_in_place_of(id, &[termgate(), "node", "--config", &config]);
    wait::until("the node serves again", SETTLE_LIMIT, || {
        cluster.api(id, "GET", "/readyz", b"").ok().filter(|answer| answer.status == 200)
    });
    write_until_landed(cluster.at(id).proxy, "restarted");

    // Its disk is lost. It waits, like a new one; it must not look as if it served.
    cluster.kill_node(id);
    std::fs::remove_dir_all(cluster.at(id).dir.join("data")).expect("the data directory goes");
    cluster.start_in_place_of(id, &[termgate(), "node", "--config", &config]);
    wait::until("word that the directory is another", SETTLE_LIMIT, || {
        cluster.log_of(id).contains("by another data directory than this one").then_some(())
    });
    let answer = cluster.api(id, "GET", "/readyz", b"").expect("an answer");
    assert_eq!(answer.status, 503, "{}", String::from_utf8_lossy(&answer.body));
}

/// A member starts again in another place, and the others are told.
pub fn move_member(cluster: &mut Cluster, leader: u64, id: u64, to: u64) {
    cluster.kill_node(id);
    cluster.move_node(id, to);
    cluster.start_node(id);
    let ([peer, proxy, api], id) = (cluster.addresses_of(to), id.to_string());
    let args = ["move", &id, "--peer-address", &peer, "--proxy-address", &proxy, "--api-address", &api];
    done(cluster, leader, &args);
    cluster.wait_whole();
}

#[test]
fn a_member_that_moves_is_followed() {
    let _machine = machine();
    let mut cluster = Cluster::start(Plan::new(3));
    let leader = cluster.leader().id;
    let moves = cluster.ids().into_iter().find(|id| *id != leader).expect("there are followers");
    move_member(&mut cluster, leader, moves, 9);
    write_until_landed(cluster.at(moves).proxy, "moved");
    assert_eq!(listed(&cluster, moves, moves)["peer"], cluster.addresses_of(9)[0]);
}
