//! What an operator does to a running cluster: restarts, and changes of the members. At the end the members are those
//! of the beginning again, so that the next fault finds what it expects.

use rustix::process::Signal;

use crate::faults::{running, wait_taken_over};
use crate::support::cluster::{Cluster, Leader, SETTLE_LIMIT};
use crate::support::member::{add_started, done, last_incarnation};
use crate::support::wait;

/// Longer than a newcomer takes to catch up, also on a busy machine.
const PATIENCE: [&str; 2] = ["--timeout", "30s"];

/// As docs/operations.md has it: stop, start, wait until all is well, next.
pub fn restart_one_by_one(cluster: &mut Cluster) {
    for id in running(cluster) {
        cluster.at(id).process().signal(Signal::TERM);
        let status = cluster.wait_node_ended(id, SETTLE_LIMIT);
        assert!(status.success(), "node {id} was asked to end, and ended with {status}");
        cluster.start_node(id);
        cluster.wait_whole();
    }
}

pub fn add_and_remove(cluster: &mut Cluster, leader: &Leader) {
    let spare = spare(cluster);
    add_empty(cluster, leader.id, spare);
    done(cluster, leader.id, &[&["promote", &spare.to_string(), "--wait"][..], &PATIENCE].concat());
    let body = format!("{{\"to\": {spare}}}");
    let answer = cluster.api(leader.id, "POST", "/leader/resign", body.as_bytes());
    let answer = answer.expect("an answer to resign");
    assert_eq!(answer.status, 200, "{}", answer.text());
    wait_taken_over(cluster, leader);
    done(cluster, leader.id, &["remove", &spare.to_string()]);
    cluster.wait_node_ended(spare, SETTLE_LIMIT);
}

pub fn replace_and_return(cluster: &mut Cluster, leader: &Leader) {
    let (spare, old) = (spare(cluster), leader.id);
    let at = running(cluster).into_iter().find(|id| *id != old).expect("there are followers");
    cluster.kill_node(old);
    add_empty(cluster, at, spare);
    take_place(cluster, at, old, spare);
    wait_taken_over(cluster, leader);
    add_empty(cluster, at, old);
    take_place(cluster, at, spare, old);
    cluster.wait_node_ended(spare, SETTLE_LIMIT);
}

fn take_place(cluster: &Cluster, at: u64, old: u64, new: u64) {
    let (old, new) = (old.to_string(), new.to_string());
    done(cluster, at, &[&["replace", &old, "--with", &new, "--wait"][..], &PATIENCE].concat());
}

/// The place of a node that is no member.
fn spare(cluster: &mut Cluster) -> u64 {
    let unused = cluster.nodes.iter().find(|node| !node.is_running()).map(|node| node.id);
    unused.unwrap_or_else(|| {
        let id = cluster.make_place();
        cluster.equip(id);
        id
    })
}

/// Node `id` becomes a learner, with nothing on its disk. A start before that gives the disk its number.
fn add_empty(cluster: &mut Cluster, at: u64, id: u64) {
    let _ = std::fs::remove_dir_all(cluster.at(id).data_dir());
    let starts = |cluster: &Cluster| cluster.log_of(id).matches("node started").count();
    let before = starts(cluster);
    cluster.start_node(id);
    wait::until("the number of the disk", SETTLE_LIMIT, || (starts(cluster) > before).then_some(()));
    cluster.kill_node(id);
    add_started(cluster, at, id, &["--incarnation", &last_incarnation(&cluster.log_of(id))]);
    cluster.start_node(id);
}
