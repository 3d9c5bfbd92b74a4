//! Members come, go and move, and are told.

use serde_json::Value;

use crate::machine;
use crate::support::cluster::{BEARER, Cluster, Plan, SETTLE_LIMIT};
use crate::support::member::{add_started, done, last_incarnation, member, roles, voters};
use crate::support::{termgate, wait};
use crate::told::write_until_landed;

/// A node that has been silent for several election timeouts is in no contact.
const OUT_OF_CONTACT_MS: u64 = 3000;

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
