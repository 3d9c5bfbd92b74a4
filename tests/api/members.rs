//! Members: the list, changes of it, and what becomes of a change whose answer is lost.

use bytes::Bytes;
use http::{Method, Response};
use serde_json::{Value, json};
use termgate::api::answers::members::{Changed, MemberList};
use termgate::driver::handle::Refused;
use termgate::ids::{LogIndex, NodeId, Term};
use termgate::raft::effect::{Change, ReconfigureRefusal};
use termgate::raft::entry::Membership;

use crate::fake::{Changes, Cluster, TOKEN};
use crate::{assert_described, assert_problem, field, parsed, request};

const NODE_4: &str = r#"{"id": 4, "peer": "d:1", "proxy": "d:2", "api": "d:3", "zone": "eu"}"#;

impl Cluster {
    async fn change(
        &self,
        node: u64,
        method: Method,
        path: &str,
        key: Option<&str>,
        body: &str,
    ) -> Response<Bytes> {
        let key = key.map(|key| ("idempotency-key", key));
        let answer = self.send(node, request(method.clone(), path, key.as_slice(), body)).await;
        let described = if path == "/cluster/members" { path } else { "/cluster/members/{id}" };
        assert_described(&method, described, &answer);
        answer
    }

    async fn add(&self, node: u64, key: Option<&str>, body: &str) -> Response<Bytes> {
        self.change(node, Method::POST, "/cluster/members", key, body).await
    }

    async fn patch(&self, node: u64, id: u64, key: Option<&str>, body: &str) -> Response<Bytes> {
        self.change(node, Method::PATCH, &format!("/cluster/members/{id}"), key, body).await
    }

    async fn remove(&self, node: u64, id: u64, key: Option<&str>) -> Response<Bytes> {
        self.change(node, Method::DELETE, &format!("/cluster/members/{id}"), key, "").await
    }

    async fn members(&self, node: u64) -> MemberList {
        let answer = self.get(node, "/cluster/members").await;
        assert_described(&Method::GET, "/cluster/members", &answer);
        parsed(&answer)
    }
}

/// What was answered, which must be good.
#[track_caller]
fn good(answer: &Response<Bytes>) -> Changed {
    assert_eq!(answer.status(), 200, "{:?}", answer.body());
    parsed(answer)
}

fn set(ids: &[u64]) -> std::collections::BTreeSet<NodeId> {
    ids.iter().copied().map(NodeId).collect()
}

fn of(voters: &[u64], learners: &[u64]) -> Membership {
    Membership { learners: set(learners), ..Membership::of_voters(set(voters)) }
}

fn without_incarnations(membership: Membership) -> Membership {
    Membership { incarnations: Default::default(), ..membership }
}

#[tokio::test]
async fn any_node_lists_the_members_as_the_leader_sees_them() {
    let cluster = Cluster::led_by(1);
    cluster.add(1, None, NODE_4).await;
    for node in [1, 2, 3] {
        let MemberList { term, leader, changing, members } = cluster.members(node).await;
        assert_eq!((term, leader, changing), (Term(7), Some(NodeId(1)), false));
        let roles: Vec<_> = members.iter().map(|member| (member.id.0, member.role.as_str())).collect();
        assert_eq!(roles, [(1, "voter"), (2, "voter"), (3, "voter"), (4, "learner")]);
        let [one, two, .., four] = members.as_slice() else { panic!("{members:?}") };
        assert_eq!((one.incarnation.as_deref(), one.match_index), (Some("101"), None), "the leader itself");
        assert_eq!(
            (two.incarnation.as_deref(), two.behind, two.caught_up),
            (Some("102"), Some(0), Some(true))
        );
        assert_eq!((four.peer.as_deref(), four.hop.as_deref()), (Some("d:1"), Some("d:2")));
        assert_eq!((four.zone.as_deref(), four.api.as_deref()), (Some("eu"), Some("d:3")));
    }
}

#[tokio::test]
async fn without_a_leader_a_node_still_says_what_it_knows() {
    let cluster = Cluster::led_by(1);
    cluster.elect(None);
    assert_problem(&cluster.get(2, "/cluster/members").await, 503, "no-leader", None);
    let list: MemberList = parsed(&cluster.get(2, "/cluster/members?consistency=stale").await);
    assert_eq!((list.members.len(), list.leader, list.members[0].match_index), (3, None, None));
}

#[tokio::test]
async fn a_member_is_added_as_a_learner_and_promoted_and_demoted_and_removed_through_any_node() {
    for node in [1, 2] {
        let cluster = Cluster::led_by(1);
        let added = good(&cluster.add(node, None, NODE_4).await);
        assert_eq!((added.changed, added.index, added.term), (true, LogIndex(2), Term(7)));
        assert_eq!(added.member.unwrap().role, "learner");
        let promoted = good(&cluster.patch(node, 4, None, r#"{"role": "voter"}"#).await);
        assert_eq!(promoted.member.unwrap().role, "voter");
        assert_eq!(cluster.membership(), of(&[1, 2, 3, 4], &[]));
        good(&cluster.patch(node, 2, None, r#"{"role": "learner"}"#).await);
        assert_eq!(cluster.membership(), of(&[1, 3, 4], &[2]));
        let removed = good(&cluster.remove(node, 2, None).await);
        assert_eq!((removed.changed, removed.member), (true, None));
        good(&cluster.remove(node, 1, None).await);
        assert_eq!(cluster.membership(), of(&[3, 4], &[]), "the leader itself, too");
    }
}

#[tokio::test]
async fn a_replacement_is_one_change() {
    let cluster = Cluster::led_by(1);
    cluster.add(1, None, NODE_4).await;
    let before = cluster.changed().len();
    good(&cluster.patch(2, 4, None, r#"{"replaces": 2}"#).await);
    assert_eq!(cluster.membership(), of(&[1, 3, 4], &[]));
    let change = Change { promote: set(&[4]), remove: set(&[2]), ..Change::default() };
    assert_eq!(cluster.changed()[before..], [change]);
    let again = good(&cluster.patch(2, 4, None, r#"{"replaces": 2}"#).await);
    assert!(!again.changed);
    let problem = cluster.patch(2, 1, None, r#"{"replaces": 9, "role": "voter", "zone": "x"}"#).await;
    assert_eq!(problem.status(), 200, "nobody of that id is left to leave");
}

#[tokio::test]
async fn a_member_gets_its_vote_in_the_same_request_when_it_can() {
    let cluster = Cluster::led_by(1);
    let voter = NODE_4.replace('}', r#", "role": "voter"}"#);
    good(&cluster.add(2, None, &voter).await);
    assert_eq!(cluster.membership(), of(&[1, 2, 3, 4], &[]));

    let cluster = Cluster::led_by(1);
    good(&cluster.add(2, Some("k"), NODE_4).await);
    let why = ReconfigureRefusal::NotCaughtUp { node: NodeId(4), behind: 5000 };
    cluster.on_change(Changes::Refuse(why));
    let answer = cluster.add(2, Some("other"), &voter).await;
    assert_eq!(answer.status(), 202);
    let pending: Changed = parsed(&answer);
    assert_eq!(pending.pending, Some(why.to_string()));
    assert_eq!(pending.member.unwrap().role, "learner");
    cluster.on_change(Changes::Make);
    good(&cluster.add(2, Some("other"), &voter).await);
    assert_eq!(cluster.membership(), of(&[1, 2, 3, 4], &[]));
}

#[tokio::test]
async fn a_refusal_says_why_and_whether_it_passes() {
    let cluster = Cluster::led_by(1);
    cluster.add(1, None, NODE_4).await;
    let no_quorum = ReconfigureRefusal::NoQuorum { in_contact: 2, voters: 4 };
    for (why, passes) in [(no_quorum, false), (ReconfigureRefusal::NotInContact(NodeId(4)), true)] {
        cluster.on_change(Changes::Refuse(why));
        for node in [1, 2] {
            let answer = cluster.patch(node, 4, Some("k"), r#"{"role": "voter"}"#).await;
            assert_problem(&answer, 409, "membership-refused", Some("not-applied"));
            let detail = parsed::<Value>(&answer)["detail"].clone();
            assert_eq!(detail, json!(why.to_string()));
            assert_eq!(field(&answer, "retry-after").is_some(), passes, "{why}");
        }
    }
    cluster.on_change(Changes::Make);
    good(&cluster.patch(2, 4, Some("k"), r#"{"role": "voter"}"#).await);
}

/// G5: what is refused changes nothing, and of what was changed nobody says that it was not.
#[tokio::test]
async fn a_refused_change_moves_nobody_and_one_that_was_made_in_part_says_so() {
    let cluster = Cluster::led_by(1);
    let before = cluster.place_of(2);
    let no_quorum = ReconfigureRefusal::NoQuorum { in_contact: 1, voters: 2 };
    let learner_elsewhere = r#"{"proxy": "f:1", "role": "learner"}"#;
    cluster.on_change(Changes::Refuse(no_quorum));
    for (node, body) in [(1, learner_elsewhere), (3, learner_elsewhere)] {
        let answer = cluster.patch(node, 2, None, body).await;
        assert_problem(&answer, 409, "membership-refused", Some("not-applied"));
        assert_problem(
            &cluster.add(node, None, NODE_4).await,
            409,
            "membership-refused",
            Some("not-applied"),
        );
    }
    assert_eq!((cluster.place_of(2), cluster.place_of(4)), (before.clone(), None));

    cluster.on_change(Changes::RefuseAfterAll(no_quorum));
    for node in [1, 3] {
        let answer = cluster.patch(node, 2, None, learner_elsewhere).await;
        assert_problem(&answer, 409, "membership-refused", Some("unknown"));
        let problem: Value = parsed(&answer);
        assert_eq!(problem["retry_safe"], json!(false));
        assert!(problem["detail"].as_str().unwrap().contains("ask again for the rest"), "{problem}");
        assert_eq!(cluster.place_of(2).unwrap().proxy, "f:1");
        cluster.on_change(Changes::Make);
        good(&cluster.patch(node, 2, None, r#"{"proxy": "10.0.0.2:8080"}"#).await);
        assert_eq!(cluster.place_of(2), before);
        cluster.on_change(Changes::RefuseAfterAll(no_quorum));
    }
    // Without anything besides, the refusal is one of all of it.
    let answer = cluster.patch(1, 2, None, r#"{"role": "learner"}"#).await;
    assert_problem(&answer, 409, "membership-refused", Some("not-applied"));
}

/// G5: the member is there, whatever stops the second step; nobody tries again as if it were not.
#[tokio::test]
async fn a_learner_that_was_added_is_not_denied_when_its_vote_fails() {
    let voter = NODE_4.replace('}', r#", "role": "voter"}"#);
    let no_quorum = ReconfigureRefusal::NoQuorum { in_contact: 2, voters: 4 };
    for (how, status, kind) in [
        (Refused::Busy, 503, "overloaded"),
        (Refused::NotLeader { leader: Some(NodeId(3)) }, 503, "no-leader"),
        (Refused::Reconfigure(no_quorum), 409, "membership-refused"),
    ] {
        for node in [1, 2] {
            let cluster = Cluster::led_by(1);
            cluster.on_change(Changes::MakeThenFail(how.clone()));
            let answer = cluster.add(node, Some("k"), &voter).await;
            assert_problem(&answer, status, kind, Some("unknown"));
            assert_eq!(parsed::<Value>(&answer)["retry_safe"], json!(false));
            assert_eq!(cluster.changed().len(), 2, "no third attempt by itself");
            assert_eq!(cluster.membership(), of(&[1, 2, 3], &[4]));
            cluster.on_change(Changes::Refuse(no_quorum));
            let again = cluster.add(node, Some("k"), &voter).await;
            assert_problem(&again, 409, "membership-refused", Some("unknown"));
            cluster.elect(None);
            let nobody = cluster.add(node, Some("k"), &voter).await;
            assert_problem(&nobody, 503, "no-leader", Some("unknown"));
            cluster.elect(Some(1));
            cluster.on_change(Changes::Make);
            assert!(good(&cluster.add(node, Some("k"), &voter).await).changed);
            assert_eq!(cluster.membership(), of(&[1, 2, 3, 4], &[]));
        }
    }
}

/// G5: 202 is for a member that is there and waits for its vote.
#[tokio::test]
async fn nobody_is_pending_who_was_not_added() {
    let cluster = Cluster::led_by(1);
    let voter = NODE_4.replace('}', r#", "role": "voter"}"#);
    cluster.on_change(Changes::Refuse(ReconfigureRefusal::InProgress));
    for body in [NODE_4, &voter] {
        let answer = cluster.add(2, Some("k"), body).await;
        assert_problem(&answer, 409, "membership-refused", Some("not-applied"));
        assert!(field(&answer, "retry-after").is_some(), "it passes");
    }
    assert_eq!(cluster.place_of(4), None);
}

#[tokio::test]
async fn an_incarnation_goes_with_the_new_member() {
    let cluster = Cluster::led_by(1);
    let with = |incarnation| NODE_4.replace('}', &format!(", \"incarnation\": \"{incarnation}\"}}"));
    let added = good(&cluster.add(2, None, &with("18446744073709551615")).await);
    assert_eq!(added.member.unwrap().incarnation.as_deref(), Some("18446744073709551615"));
    assert_eq!(cluster.membership().incarnations, [(NodeId(4), u64::MAX)].into());
    assert_problem(&cluster.add(2, None, &with("77")).await, 409, "membership-refused", Some("not-applied"));
    assert_problem(&cluster.add(2, None, &with("x")).await, 400, "bad-request", Some("not-applied"));
}

#[tokio::test]
async fn adding_what_is_there_is_fine_when_it_is_the_same() {
    let cluster = Cluster::led_by(1);
    good(&cluster.add(1, None, NODE_4).await);
    let again = good(&cluster.add(2, None, NODE_4).await);
    assert!(!again.changed);
    assert_eq!(cluster.changed().len(), 1);
    let moved = cluster.add(2, None, &NODE_4.replace("d:1", "e:1")).await;
    assert_problem(&moved, 409, "membership-refused", Some("not-applied"));
    assert!(parsed::<Value>(&moved)["detail"].as_str().unwrap().contains("PATCH"));
}

#[tokio::test]
async fn an_address_can_change_also_together_with_the_vote() {
    let cluster = Cluster::led_by(1);
    cluster.add(1, None, NODE_4).await;
    let moved = good(&cluster.patch(2, 4, None, r#"{"proxy": "e:2", "role": "voter"}"#).await);
    let member = moved.member.unwrap();
    assert_eq!((member.proxy.as_deref(), member.peer.as_deref()), (Some("e:2"), Some("d:1")));
    assert_eq!(
        (member.hop.as_deref(), member.role.as_str()),
        (Some("e:2"), "voter"),
        "the hop was the proxy's"
    );
    let moved = good(&cluster.patch(2, 2, None, r#"{"hop": "f:9", "zone": "us"}"#).await).member.unwrap();
    assert_eq!((moved.hop.as_deref(), moved.proxy.as_deref()), (Some("f:9"), Some("10.0.0.2:8080")));
    let moved = good(&cluster.patch(2, 2, None, r#"{"proxy": "f:1", "zone": ""}"#).await).member.unwrap();
    assert_eq!((moved.hop.as_deref(), moved.zone), (Some("f:9"), None), "a hop of its own stays");
    assert!(!good(&cluster.patch(2, 2, None, r#"{"proxy": "f:1"}"#).await).changed);
    for taken in
        [r#"{"peer": "10.0.0.1:7100"}"#, r#"{"peer": "10.0.0.1:8080"}"#, r#"{"hop": "10.0.0.2:7100"}"#]
    {
        let answer = cluster.patch(2, 2, None, taken).await;
        assert_problem(&answer, 409, "membership-refused", Some("not-applied"));
    }
}

#[tokio::test]
async fn what_makes_no_sense_is_refused() {
    let cluster = Cluster::led_by(1);
    let wrong = [
        "",
        "{}",
        r#"{"id": 0, "peer": "d:1", "proxy": "d:2", "api": "d:3"}"#,
        r#"{"id": 4, "peer": "d", "proxy": "d:2", "api": "d:3"}"#,
        r#"{"id": 4, "peer": "d:1", "proxy": "d:2", "api": "d:3", "zone": "9"}"#,
        r#"{"id": 4, "peer": "d:1", "proxy": "d:2", "api": "d:3", "rolle": "voter"}"#,
    ];
    for body in wrong {
        assert_problem(&cluster.add(2, None, body).await, 400, "bad-request", Some("not-applied"));
    }
    for body in ["{}", r#"{"role": "boss"}"#, r#"{"replaces": 2}"#, r#"{"role": "learner", "replaces": 1}"#] {
        assert_problem(&cluster.patch(1, 2, None, body).await, 400, "bad-request", Some("not-applied"));
    }
    for id in ["x", "0", "4/5"] {
        let answer = cluster.call(1, Method::DELETE, &format!("/cluster/members/{id}"), &[]).await;
        assert_problem(&answer, 400, "bad-request", Some("not-applied"));
    }
    for answer in [cluster.remove(2, 9, None).await, cluster.patch(2, 9, None, r#"{"role": "voter"}"#).await]
    {
        assert_problem(&answer, 404, "not-found", Some("not-applied"));
    }
    let long = "k".repeat(129);
    assert_problem(&cluster.remove(2, 3, Some(&long)).await, 400, "bad-request", Some("not-applied"));
    assert_eq!(cluster.changed(), []);
}

#[tokio::test]
async fn a_change_whose_outcome_is_unknown_is_asked_for_again_and_made_once() {
    for lost in [Changes::MakeUnknown, Changes::LeaveJoint] {
        let cluster = Cluster::led_by(1);
        cluster.add(1, None, NODE_4).await;
        cluster.on_change(lost);
        let promote = || cluster.patch(2, 4, Some("p"), r#"{"role": "voter"}"#);
        assert_problem(&promote().await, 500, "outcome-unknown", Some("unknown"));
        cluster.elect(Some(3));
        let now = cluster.membership();
        if now.is_joint() {
            let other = cluster.remove(2, 1, Some("r")).await;
            assert_problem(&other, 409, "membership-refused", Some("not-applied"));
            let (again, ()) = tokio::join!(promote(), async { cluster.enter(now.completed()) });
            good(&again);
        }
        assert!(good(&promote().await).changed);
        assert_eq!(cluster.membership(), of(&[1, 2, 3, 4], &[]));
        assert_eq!(cluster.changed().len(), 2, "added, and promoted once");
    }
}

#[tokio::test]
async fn a_change_that_does_not_end_in_time_is_unknown() {
    let cluster = Cluster::led_by(1);
    cluster.on_change(Changes::Hang);
    for node in [1, 2] {
        assert_problem(&cluster.remove(node, 3, None).await, 500, "outcome-unknown", Some("unknown"));
    }
    cluster.on_change(Changes::Make);
    cluster.enter(Membership { voters_old: Some(set(&[1, 2, 3])), ..of(&[1, 2], &[]) });
    assert_problem(&cluster.remove(1, 3, None).await, 500, "outcome-unknown", Some("unknown"));
}

#[tokio::test]
async fn a_late_repetition_does_not_undo_what_came_since() {
    let cluster = Cluster::led_by(1);
    let first = good(&cluster.add(2, Some("a"), NODE_4).await);
    good(&cluster.patch(1, 4, Some("m"), r#"{"peer": "e:1"}"#).await);
    good(&cluster.remove(1, 4, Some("r")).await);
    let late = good(&cluster.add(3, Some("a"), NODE_4).await);
    assert_eq!((late.index, late.changed, late.member), (first.index, true, None));
    assert!(good(&cluster.remove(3, 4, Some("r")).await).changed);
    assert_eq!(cluster.membership(), of(&[1, 2, 3], &[]));
    let other = cluster.remove(3, 2, Some("a")).await;
    assert_problem(&other, 409, "membership-refused", Some("not-applied"));
    good(&cluster.add(2, Some("again"), NODE_4).await);
    good(&cluster.patch(1, 4, Some("m2"), r#"{"peer": "f:1"}"#).await);
    good(&cluster.patch(1, 4, Some("m"), r#"{"peer": "e:1"}"#).await);
    let members = cluster.members(1).await.members;
    assert_eq!(members[3].peer.as_deref(), Some("f:1"), "the earlier move is over");
}

#[tokio::test]
async fn changes_need_a_leader_that_still_leads() {
    let cluster = Cluster::led_by(1);
    cluster.refuse_reads(true);
    assert_problem(&cluster.remove(1, 3, None).await, 503, "no-leader", Some("not-applied"));
    cluster.refuse_reads(false);
    cluster.elect(None);
    assert_problem(&cluster.add(1, None, NODE_4).await, 503, "no-leader", Some("not-applied"));
    cluster.confuse();
    assert_problem(&cluster.remove(1, 3, None).await, 503, "no-leader", Some("not-applied"));
    assert_eq!(without_incarnations(cluster.membership()), of(&[1, 2, 3], &[]));
}

#[tokio::test]
async fn changes_of_members_need_the_token() {
    let cluster = Cluster::guarded();
    for answer in [
        cluster.add(2, None, NODE_4).await,
        cluster.patch(2, 3, None, r#"{"role": "learner"}"#).await,
        cluster.remove(2, 3, None).await,
    ] {
        assert_problem(&answer, 401, "unauthorized", Some("not-applied"));
    }
    assert_eq!(cluster.changed(), []);
    let bearer = format!("Bearer {TOKEN}");
    let fields = [("authorization", bearer.as_str())];
    let removed = cluster.call(2, Method::DELETE, "/cluster/members/3", &fields).await;
    good(&removed);
    assert_eq!(cluster.members(2).await.members.len(), 2);
}
