//! The members of a cluster, and how an operator changes them: `termgate member …`.

use std::process::{Command, Output};

use serde_json::Value;

use super::cluster::{BEARER, Cluster};
use super::termgate;

/// `termgate member …` at the API of node `at`.
pub fn member(cluster: &Cluster, at: u64, args: &[&str]) -> Output {
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

/// Starts a node in a place of its own, and adds it. Answers its id.
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

/// All of them voters, in the order in which they are listed.
pub fn voters(ids: &[u64]) -> Vec<(u64, String)> {
    let mut ids = ids.to_vec();
    ids.sort_unstable();
    ids.into_iter().map(|id| (id, "voter".to_owned())).collect()
}

/// The incarnation that the node logged at its last start.
pub fn last_incarnation(log: &str) -> String {
    let plain: String = log.replace("\u{1b}[3m", "").replace("\u{1b}[0m", "").replace("\u{1b}[2m", "");
    let after = plain.rsplit("incarnation=").next().expect("split gives one");
    let digits: String = after.chars().take_while(char::is_ascii_digit).collect();
    assert!(!digits.is_empty(), "no incarnation in {plain}");
    digits
}
