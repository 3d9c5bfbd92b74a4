//! Every member is replaced, also dead ones, and votes rest and come back, while clients of both kinds go on.
//!
//! What is judged is all that they saw, in the three layers of docs/testing.md, and what each node that is left has of
//! every key. Nobody may be left in doubt but by a process that is killed: not by a leader that hands over or loses its
//! vote, nor by a node that is removed.

use std::time::Duration;

use crate::machine;
use crate::support::cluster::{Cluster, Plan, SETTLE_LIMIT};
use crate::support::ends::{End, kill_at_once, unexplained};
use crate::support::lin::history::{Told, What};
use crate::support::load::Load;
use crate::support::member::{add, done, roles, voters};
use crate::support::wait;

/// Of a client of the registry: enough that every change meets operations, and the machine has time for others.
const CLIENT_PAUSE: Duration = Duration::from_millis(10);
/// What must be answered by the registry, and written to the backend, between two changes.
const OPERATIONS_BETWEEN: usize = 200;
const WRITES_BETWEEN: usize = 30;

/// Long enough that no node is taken for dead, or its disk for stalled, because the machine is busy with something
/// else: then a leader changes, and leaves clients in doubt, though no process ended.
const PATIENT: &str = "[raft]\nelection_timeout_ms = [600, 1200]\n";
/// An election with such timers fits several times.
const HOLD: Duration = Duration::from_secs(5);

/// A cluster under load, and what may have left clients in doubt so far.
struct Trial {
    cluster: Cluster,
    load: Load,
    ends: Vec<End>,
}

impl Trial {
    fn start() -> Self {
        let plan = Plan { hold_timeout: HOLD, extra_config: PATIENT.into(), ..Plan::new(3) };
        let cluster = Cluster::start(plan);
        let load = Load::start(&cluster, CLIENT_PAUSE);
        let trial = Self { cluster, load, ends: Vec::new() };
        trial.go_on();
        trial
    }

    /// Waits until there was enough of the load.
    fn go_on(&self) {
        self.load.wait_for_more(&self.cluster, OPERATIONS_BETWEEN, WRITES_BETWEEN);
    }

    fn kill(&mut self, ids: &[u64]) {
        self.ends.extend(kill_at_once(&mut self.cluster, ids));
        self.go_on();
    }

    /// The members are these, each with a vote; clients are told, and go on.
    #[track_caller]
    fn expect_voters(&self, ids: &[u64]) {
        assert_eq!(roles(&self.cluster, ids[0]), voters(ids));
        self.load.turn_to(&self.cluster, ids);
        self.go_on();
    }

    /// Leadership goes to node `to`.
    fn hand_over(&self, to: u64) {
        let leader = self.cluster.leader().id;
        if leader != to {
            let body = format!("{{\"to\": {to}}}");
            let answer = self.cluster.api(leader, "POST", "/leader/resign", body.as_bytes());
            let answer = answer.expect("an answer to resign");
            assert_eq!(answer.status, 200, "{}", answer.text());
        }
        wait::until("the new leader", SETTLE_LIMIT, || (self.cluster.leader().id == to).then_some(()));
        self.go_on();
    }

    /// Ends the load, and judges. `left` are the members at the end.
    fn finish(mut self, left: &[u64]) {
        let account = self.load.finish(&self.cluster, left);
        account.tell_problems(&mut self.cluster);
        let done = |what: &What| matches!(what, What::Write(write) if matches!(write.told, Told::Done(_)));
        let (ops, unknown) = (&account.record.ops, account.unknown());
        println!(
            "{} writes acknowledged by the backend, {} by the registry, {} unknown; {} keys read at each of {left:?}",
            account.resource.acknowledged,
            ops.iter().filter(|op| done(&op.what)).count(),
            unknown.len(),
            account.record.written_keys().len(),
        );
        assert!(account.holds(), "see the problems above");
        let in_doubt = unexplained(unknown, &self.ends);
        assert!(in_doubt.is_empty(), "no end of a process explains {in_doubt:#?}, of {:#?}", self.ends);
    }
}

#[test]
fn a_cluster_grows_loses_two_shrinks_and_replaces_every_node_and_no_write_is_lost() {
    let _machine = machine();
    let mut trial = Trial::start();
    let grown = [(); 2].map(|()| add(&mut trial.cluster, 3, &["--voter", "--timeout", "30s"]));
    assert_eq!(grown, [4, 5]);
    trial.expect_voters(&[1, 2, 3, 4, 5]);

    // The leader is among the two that are lost at once.
    let leader = trial.cluster.leader().id;
    let mut first = [1, 2, 3];
    first.sort_by_key(|id| *id != leader);
    let [lost, also_lost, last] = first;
    trial.kill(&[lost, also_lost]);
    done(&trial.cluster, last, &["remove", &lost.to_string()]);
    done(&trial.cluster, 4, &["remove", &also_lost.to_string()]);
    trial.expect_voters(&[last, 4, 5]);

    // The last of the first is replaced while it leads.
    trial.hand_over(last);
    let new = add(&mut trial.cluster, 4, &[]).to_string();
    let replace = ["replace", &last.to_string(), "--with", &new, "--wait", "--timeout", "30s"];
    done(&trial.cluster, 4, &replace);
    assert_eq!(trial.cluster.wait_node_ended(last, SETTLE_LIMIT).code(), Some(1));
    let log = trial.cluster.log_of(last);
    assert!(log.contains("no member of the cluster"), "{log}");
    trial.expect_voters(&[4, 5, 6]);
    trial.finish(&[4, 5, 6]);
}

#[test]
fn a_dead_member_is_replaced_and_votes_rest_and_return_and_no_write_is_lost() {
    let _machine = machine();
    let mut trial = Trial::start();
    let dead = trial.cluster.leader().id;
    trial.kill(&[dead]);
    let stays: Vec<u64> = (1..=3).filter(|id| *id != dead).collect();
    let new = add(&mut trial.cluster, stays[0], &[]);
    let replace = ["replace", &dead.to_string(), "--with", &new.to_string(), "--wait", "--timeout", "30s"];
    done(&trial.cluster, stays[1], &replace);
    let members = [stays[0], stays[1], new];
    trial.expect_voters(&members);

    // First the vote of a follower rests, then that of the leader, which hands over.
    let leader = trial.cluster.leader().id;
    let follower = members.into_iter().find(|id| *id != leader).expect("there are followers");
    for rests in [follower, leader] {
        let at = members.into_iter().find(|id| *id != rests).expect("there are others");
        done(&trial.cluster, at, &["demote", &rests.to_string()]);
        let role = |id| roles(&trial.cluster, at).into_iter().find(|(of, _)| *of == id).expect("a member").1;
        assert_eq!(members.map(|id| role(id) == "voter"), members.map(|id| id != rests));
        trial.go_on();
        done(&trial.cluster, at, &["promote", &rests.to_string(), "--wait", "--timeout", "30s"]);
        trial.expect_voters(&members);
    }
    trial.finish(&members);
}
