//! Nodes whose picture of the members is out of date, and that still have to find each other.

use rustix::process::Signal;
use serde_json::Value;

use crate::machine;
use crate::membership::move_member;
use crate::snapshot::PATIENT;
use crate::support::cluster::{Cluster, Plan, SETTLE_LIMIT};
use crate::support::member::{add, add_started, done, last_incarnation, roles, voters};
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

/// Waits until `id` has acknowledged all that the leader has committed.
#[track_caller]
fn wait_until_caught_up(cluster: &Cluster, at: u64, id: u64) {
    wait::until(&format!("node {id} has caught up"), SETTLE_LIMIT, || {
        let status = cluster.status(at)?;
        let of = |id: &Value| status["members"].as_array()?.iter().find(|member| member["id"] == *id);
        let committed = of(&status["leader"])?["commit_index"].as_u64()?;
        let acknowledged = of(&Value::from(id))?["match_index"].as_u64()?;
        (acknowledged >= committed).then_some(())
    });
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

/// More than a leader has on its way at once: no turn sees what stands before them and what stands behind.
const VALUES: usize = 16;
const VALUE_BYTES: usize = 900_000;

/// Brings a removed node back under its id, and makes it lead.
fn add_again(cluster: &mut Cluster, leader: u64, id: u64) {
    let incarnation = last_incarnation(&cluster.log_of(id));
    add_started(cluster, leader, id, &["--incarnation", &incarnation]);
    cluster.start_node(id);
    done(cluster, leader, &["promote", &id.to_string(), "--wait", "--timeout", "30s"]);
    hand_over(cluster, leader, id);
}

/// W-12: it meets the removal of its leader in the log, long before it meets the entry that takes it back.
#[test]
fn a_newcomer_follows_a_leader_that_was_removed_and_added_again() {
    let _machine = machine();
    // All is asked of one leader, whose disk has much to write meanwhile.
    let mut cluster = Cluster::start(Plan { extra_config: PATIENT.to_owned(), ..Plan::new(3) });
    let leader = cluster.leader().id;
    let again = cluster.ids().into_iter().find(|id| *id != leader).expect("there are followers");
    done(&cluster, leader, &["remove", &again.to_string()]);
    cluster.wait_node_ended(again, SETTLE_LIMIT);
    for number in 0..VALUES {
        let key = format!("/registry/keys/{number}");
        let answer = cluster.api(leader, "PUT", &key, &vec![b'v'; VALUE_BYTES]).expect("an answer");
        assert_eq!(answer.status, 201, "{}", answer.text());
    }
    add_again(&mut cluster, leader, again);
    let new = add(&mut cluster, leader, &[]);
    wait_until_caught_up(&cluster, leader, new);
    wait_until_followed(&cluster, new, again);
}

/// Messages that found no connection at node `at`.
fn undelivered(cluster: &Cluster, at: u64) -> u64 {
    let page = cluster.api(at, "GET", "/metrics", b"").expect("metrics").text();
    let name = "termgate_refusals_total{what=\"message\",reason=\"no-connection\"} ";
    let line = page.lines().find_map(|line| line.strip_prefix(name));
    line.map_or(0, |count| count.parse().expect("a number"))
}

/// W-12: it stood still while the others took a node back that it knows as removed, and that leads now.
#[test]
fn a_voter_that_stood_still_follows_a_leader_that_was_removed_and_added_again() {
    let _machine = machine();
    let mut cluster = Cluster::start(Plan::new(4));
    let leader = cluster.leader().id;
    let others: Vec<u64> = cluster.ids().into_iter().filter(|id| *id != leader).collect();
    let (again, stands) = (others[0], others[1]);
    done(&cluster, leader, &["remove", &again.to_string()]);
    cluster.wait_node_ended(again, SETTLE_LIMIT);
    wait::until("the removal is known", SETTLE_LIMIT, || {
        let status = cluster.status(stands)?;
        let members = status["members"].as_array()?;
        members.iter().all(|member| member["id"] != again).then_some(())
    });
    cluster.at(stands).process().signal(Signal::STOP);
    // Until then, what it is sent waits for it where it will read it.
    let before = undelivered(&cluster, leader);
    wait::until("its connection is lost", SETTLE_LIMIT, || {
        (undelivered(&cluster, leader) > before).then_some(())
    });
    add_again(&mut cluster, leader, again);
    cluster.at(stands).process().signal(Signal::CONT);
    wait_until_followed(&cluster, stands, again);
    assert_eq!(roles(&cluster, stands), voters(&[1, 2, 3, 4]));
}
