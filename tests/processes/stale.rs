//! Nodes whose picture of the members is out of date, and that still have to find each other.

use serde_json::Value;

use crate::machine;
use crate::membership::{add, add_started, done, roles, voters};
use crate::support::cluster::{Cluster, Plan, SETTLE_LIMIT};
use crate::support::wait;
use crate::told::write_until_landed;

/// Leadership goes from one node to the other, and both say so.
fn hand_over(cluster: &Cluster, from: u64, to: u64) {
    let body = format!("{{\"to\": {to}}}");
    let answer = cluster.api(from, "POST", "/leader/resign", body.as_bytes()).expect("an answer");
    assert_eq!(answer.status, 200, "{}", answer.text());
    wait_until_followed(cluster, from, to);
}

#[track_caller]
fn wait_until_followed(cluster: &Cluster, id: u64, leader: u64) {
    wait::until(&format!("node {id} follows node {leader}"), SETTLE_LIMIT, || {
        cluster.leader_seen_by(id).filter(|seen| seen.id == leader)
    });
}

/// Waits until the leader says that `id` has all of its log.
#[track_caller]
fn wait_until_caught_up(cluster: &Cluster, at: u64, id: u64) {
    wait::until(&format!("node {id} has caught up"), SETTLE_LIMIT, || {
        let list: Value = serde_json::from_str(&done(cluster, at, &["list", "--json"])).expect("JSON");
        let members = list["members"].as_array().expect("members");
        members.iter().any(|m| m["id"] == id && m["caught_up"] == true).then_some(())
    });
}

fn move_member(cluster: &mut Cluster, leader: u64, id: u64, to: u64) {
    cluster.kill_node(id);
    cluster.move_node(id, to);
    cluster.start_node(id);
    let ([peer, proxy, api], id) = (cluster.addresses_of(to), id.to_string());
    let args = ["move", &id, "--peer-address", &peer, "--proxy-address", &proxy, "--api-address", &api];
    done(cluster, leader, &args);
    cluster.wait_whole();
}

/// W-13: every configuration but their own names the places that two of three have left.
#[test]
fn members_that_have_moved_find_each_other_when_all_start_again() {
    let _machine = machine();
    let mut cluster = Cluster::start(Plan::new(3));
    let leader = cluster.leader().id;
    let others: Vec<u64> = cluster.ids().into_iter().filter(|id| *id != leader).collect();
    for (id, to) in others.into_iter().zip([8, 9]) {
        move_member(&mut cluster, leader, id, to);
    }
    for id in cluster.ids() {
        cluster.kill_node(id);
    }
    cluster.start_all_nodes();
    cluster.wait_whole();
    write_until_landed(cluster.at(1).proxy, "after");
}

/// Their configurations name nobody who is still there.
#[test]
fn members_that_took_the_place_of_all_others_find_each_other_when_all_start_again() {
    let _machine = machine();
    let mut cluster = Cluster::start(Plan::new(3));
    for old in 1..=3 {
        let at = if old == 1 { 2 } else { old };
        let new = add(&mut cluster, at, &[]).to_string();
        done(&cluster, at, &["replace", &old.to_string(), "--with", &new, "--wait", "--timeout", "30s"]);
        cluster.wait_node_ended(old, SETTLE_LIMIT);
    }
    let all = [4, 5, 6];
    for id in all {
        cluster.kill_node(id);
    }
    for id in all {
        cluster.start_node(id);
    }
    wait::until("a leader", SETTLE_LIMIT, || cluster.leader_among(&all));
    write_until_landed(cluster.at(4).proxy, "after");
}

/// Takes the members out of a configuration, as a node that joins may leave them out.
fn name_no_members(cluster: &Cluster, id: u64) {
    let text = std::fs::read_to_string(cluster.config_of(id)).expect("the configuration");
    let mut config: toml::Table = text.parse().expect("TOML");
    let part = config["cluster"].as_table_mut().expect("a table");
    part.remove("members").expect("members");
    std::fs::write(cluster.config_of(id), config.to_string()).expect("the configuration is written");
}

/// The first members are in no entry of the log, so nobody ever tells it where they are but they themselves.
#[test]
fn a_newcomer_that_knows_no_members_catches_up_and_gets_its_vote() {
    let _machine = machine();
    let mut cluster = Cluster::start(Plan::new(3));
    let leader = cluster.leader().id;
    let id = cluster.make_place();
    cluster.equip(id);
    name_no_members(&cluster, id);
    cluster.start_node(id);
    add_started(&cluster, leader, id, &[]);
    wait_until_caught_up(&cluster, leader, id);
    done(&cluster, leader, &["promote", &id.to_string(), "--wait", "--timeout", "30s"]);
    assert_eq!(roles(&cluster, leader), voters(&[1, 2, 3, 4]));
    let next = cluster.ids().into_iter().find(|next| ![leader, id].contains(next)).expect("more nodes");
    hand_over(&cluster, leader, next);
    wait_until_followed(&cluster, id, next);
}
