//! The registry: values, versions, conditions, how fresh a read is, and what becomes of a write.

use bytes::Bytes;
use http::{Method, Response, StatusCode};
use termgate::api::answers::KeyList;
use termgate::driver::handle::Refused;
use termgate::ids::LogIndex;
use termgate::registry::command::Answer;

use crate::fake::{Cluster, LIMITS, Proposals};
use crate::{assert_described, assert_problem, field, parsed};

#[tokio::test]
async fn a_value_written_anywhere_is_read_anywhere() {
    let cluster = Cluster::led_by(1);
    let made = cluster.put(2, "a/b%20c", &[], "one").await;
    assert_eq!((made.status(), field(&made, "etag")), (StatusCode::CREATED, Some("\"1\"")));
    assert_eq!((field(&made, "termgate-index"), field(&made, "termgate-term")), (Some("1"), Some("7")));
    let changed = cluster.put(1, "a/b%20c", &[], "two").await;
    assert_eq!((changed.status(), field(&changed, "etag")), (StatusCode::NO_CONTENT, Some("\"2\"")));
    for node in [1, 2, 3] {
        for consistency in ["linearizable", "lease", "stale"] {
            let fields = [("termgate-consistency", consistency)];
            let found = cluster.call(node, Method::GET, "/registry/keys/a%2Fb%20c", &fields).await;
            assert_eq!(found.body(), "two", "{consistency} at {node}");
            assert_eq!((field(&found, "etag"), field(&found, "termgate-index")), (Some("\"2\""), Some("2")));
        }
    }
    let gone = cluster.call(3, Method::DELETE, "/registry/keys/a/b%20c", &[]).await;
    assert_eq!((gone.status(), field(&gone, "termgate-index")), (StatusCode::NO_CONTENT, Some("3")));
    assert_problem(&cluster.get(2, "/registry/keys/a/b%20c").await, 404, "not-found", None);
    let again = cluster.call(1, Method::DELETE, "/registry/keys/a/b%20c", &[]).await;
    assert_problem(&again, 404, "not-found", Some("not-applied"));
}

#[tokio::test]
async fn compare_and_set_works_through_any_node() {
    let cluster = Cluster::led_by(1);
    for node in [1, 2] {
        let key = format!("k{node}");
        let version = cluster.put(node, &key, &[("if-none-match", "*")], "a").await;
        let version = field(&version, "etag").unwrap().to_owned();
        let taken = cluster.put(node, &key, &[("if-none-match", "*")], "b").await;
        assert_problem(&taken, 412, "precondition-failed", Some("not-applied"));
        assert_eq!(cluster.put(node, &key, &[("if-match", &version)], "c").await.status(), 204);
        let late = cluster.put(node, &key, &[("if-match", &version)], "d").await;
        assert_problem(&late, 412, "precondition-failed", Some("not-applied"));
        let target = format!("/registry/keys/{key}");
        let late = cluster.call(node, Method::DELETE, &target, &[("if-match", &version)]).await;
        assert_problem(&late, 412, "precondition-failed", Some("not-applied"));
        assert_eq!(cluster.get(node, &target).await.body(), "c");
    }
}

/// `Termgate-Index`, `Termgate-Term`, and `ETag` when there is one.
fn place(response: &Response<Bytes>) -> (Option<&str>, Option<&str>, Option<&str>) {
    (field(response, "termgate-index"), field(response, "termgate-term"), field(response, "etag"))
}

#[tokio::test]
async fn every_answer_of_the_registry_says_where_in_the_log_it_was_made() {
    for node in [1, 2] {
        let cluster = Cluster::led_by(1);
        let call = async |method: Method, fields: &[(&str, &str)]| {
            let answer = cluster.call(node, method.clone(), "/registry/keys/k", fields).await;
            let (index, term, etag) = place(&answer);
            assert_eq!(term, Some("7"), "{answer:?}");
            assert_described(&method, "/registry/keys/{key}", &answer);
            (answer.status().as_u16(), index.unwrap().to_owned(), etag.map(str::to_owned))
        };
        let told = |status, index: &str, etag: Option<&str>| (status, index.into(), etag.map(Into::into));
        assert_eq!(call(Method::GET, &[]).await, told(404, "0", None));
        assert_eq!(call(Method::GET, &[("if-match", "*")]).await, told(412, "0", None));
        assert_eq!(call(Method::DELETE, &[]).await, told(404, "1", None));
        assert_eq!(call(Method::PUT, &[("if-match", "*")]).await, told(412, "2", None));
        assert_eq!(call(Method::PUT, &[]).await, told(201, "3", Some("\"3\"")));
        assert_eq!(call(Method::PUT, &[("if-match", "\"1\"")]).await, told(412, "4", Some("\"3\"")));
        assert_eq!(call(Method::DELETE, &[("if-match", "\"1\"")]).await, told(412, "5", Some("\"3\"")));
        assert_eq!(call(Method::GET, &[("if-match", "\"1\"")]).await, told(412, "5", Some("\"3\"")));
        assert_eq!(call(Method::GET, &[("if-none-match", "*")]).await, told(304, "5", Some("\"3\"")));
        assert_eq!(call(Method::GET, &[]).await, told(200, "5", Some("\"3\"")));
        assert_eq!(call(Method::DELETE, &[]).await, told(204, "6", None));
    }
}

#[tokio::test]
async fn a_write_that_the_registry_refuses_says_where_in_the_log() {
    let cluster = Cluster::led_by(1);
    cluster.put(1, "k", &[], "v").await;
    for (answer, status, name) in [
        (Answer::LimitExceeded("too many keys"), 507, "limit-exceeded"),
        (Answer::StaleTerm, 412, "stale-term"),
        (Answer::Undecodable, 507, "limit-exceeded"),
    ] {
        cluster.on_propose(Proposals::Answer(answer));
        let refused = cluster.put(2, "k", &[], "w").await;
        assert_problem(&refused, status, name, Some("not-applied"));
        assert_described(&Method::PUT, "/registry/keys/{key}", &refused);
        assert_eq!(place(&refused), (Some("2"), Some("7"), Some("\"1\"")), "the key is as it was");
        assert_eq!(place(&cluster.put(2, "other", &[], "w").await), (Some("2"), Some("7"), None));
    }
}

#[tokio::test]
async fn a_read_can_ask_only_for_what_is_new() {
    let cluster = Cluster::led_by(1);
    cluster.put(1, "k", &[], "v").await;
    let get = async |name, value| cluster.call(2, Method::GET, "/registry/keys/k", &[(name, value)]).await;
    let same = get("if-none-match", "\"1\"").await;
    assert_eq!(
        (same.status(), same.body().len(), field(&same, "etag")),
        (StatusCode::NOT_MODIFIED, 0, Some("\"1\""))
    );
    assert_eq!(get("if-none-match", "\"2\"").await.status(), 200);
    assert_problem(&get("if-match", "\"2\"").await, 412, "precondition-failed", None);
}

#[tokio::test]
async fn a_lease_read_asks_no_quorum_and_falls_back_to_one() {
    let cluster = Cluster::led_by(1);
    cluster.put(1, "k", &[], "v").await;
    let lease = [("termgate-consistency", "lease")];
    let target = "/registry/keys/k";
    for node in [1, 2] {
        assert_eq!(cluster.call(node, Method::GET, target, &lease).await.body(), "v");
    }
    assert_eq!(cluster.reads(), 0);
    cluster.end_lease();
    assert_eq!(cluster.call(1, Method::GET, target, &lease).await.body(), "v");
    assert_eq!(cluster.reads(), 1, "without a lease a quorum must confirm");
    cluster.refuse_reads(true);
    let refused = cluster.call(1, Method::GET, target, &lease).await;
    assert_eq!(refused.status(), 503, "an old leader serves nothing");
}

#[tokio::test]
async fn without_lease_reads_a_quorum_confirms_what_the_lease_would() {
    let cluster = Cluster::without_lease_reads();
    cluster.put(1, "k", &[], "v").await;
    let lease = [("termgate-consistency", "lease")];
    for node in [1, 2] {
        let (reads, hops) = (cluster.reads(), cluster.hops());
        assert_eq!(cluster.call(node, Method::GET, "/registry/keys/k", &lease).await.body(), "v");
        let list = cluster.call(node, Method::GET, "/registry/keys", &lease).await;
        assert_eq!(parsed::<KeyList>(&list).keys.len(), 1);
        assert_eq!(cluster.get(node, "/leader?consistency=lease").await.status(), 200);
        assert_eq!((cluster.reads() - reads, cluster.hops() - hops), (3, 0), "at node {node}");
    }
    cluster.refuse_reads(true);
    assert_eq!(cluster.call(1, Method::GET, "/registry/keys/k", &lease).await.status(), 503);
    assert_problem(&cluster.get(1, "/leader?consistency=lease").await, 503, "no-leader", None);
    let stale = [("termgate-consistency", "stale")];
    assert_eq!(cluster.call(1, Method::GET, "/registry/keys/k", &stale).await.body(), "v");
}

#[tokio::test]
async fn a_linearizable_read_asks_exactly_once() {
    let cluster = Cluster::led_by(1);
    cluster.put(1, "k", &[], "v").await;
    cluster.get(1, "/registry/keys/k").await;
    cluster.get(2, "/registry/keys/k").await;
    assert_eq!(cluster.reads(), 2);
    cluster.call(2, Method::GET, "/registry/keys/k", &[("termgate-consistency", "stale")]).await;
    assert_eq!(cluster.reads(), 2);
}

#[tokio::test]
async fn a_read_without_a_leader_is_refused_unless_it_may_be_stale() {
    let cluster = Cluster::led_by(1);
    cluster.put(1, "k", &[], "v").await;
    cluster.elect(None);
    assert_problem(&cluster.get(2, "/registry/keys/k").await, 503, "no-leader", None);
    let stale = [("termgate-consistency", "stale")];
    assert_eq!(cluster.call(2, Method::GET, "/registry/keys/k", &stale).await.body(), "v");
}

#[tokio::test]
async fn a_read_waits_for_its_index_within_limits() {
    let cluster = Cluster::led_by(1);
    cluster.put(1, "k", &[], "v").await;
    let fields = [("termgate-consistency", "stale"), ("termgate-min-index", "2")];
    let read = || cluster.call(3, Method::GET, "/registry/keys/k", &fields);
    let (found, _) = tokio::join!(read(), async {
        tokio::task::yield_now().await;
        cluster.put(1, "k", &[], "w").await
    });
    assert_eq!(found.body(), "w");
    let beyond = [("termgate-consistency", "stale"), ("termgate-min-index", "9")];
    let refused = cluster.call(3, Method::GET, "/registry/keys/k", &beyond).await;
    assert_problem(&refused, 503, "read-not-linearizable", None);
    assert_eq!(place(&refused), (Some("2"), Some("7"), None), "how far it has come");
}

#[tokio::test]
async fn a_write_waits_for_a_leader() {
    let cluster = Cluster::led_by(1);
    cluster.elect(None);
    let (written, ()) = tokio::join!(cluster.put(2, "k", &[], "v"), async {
        // The length of the time without a leader.
        tokio::time::sleep(LIMITS.hold / 4).await;
        cluster.elect(Some(3));
    });
    assert_eq!(written.status(), 201);
}

#[tokio::test]
async fn a_write_without_a_leader_is_certainly_not_applied() {
    let cluster = Cluster::led_by(1);
    cluster.elect(None);
    let start = tokio::time::Instant::now();
    let refused = cluster.put(2, "k", &[], "v").await;
    assert_problem(&refused, 503, "no-leader", Some("not-applied"));
    assert_eq!(field(&refused, "retry-after"), Some("1"));
    assert!(start.elapsed() >= LIMITS.hold, "it waited for a leader");
}

#[tokio::test]
async fn a_write_that_never_reached_the_leader_is_tried_again_and_then_refused() {
    let cluster = Cluster::led_by(1);
    cluster.cut_off(1);
    let refused = cluster.put(2, "k", &[], "v").await;
    assert_problem(&refused, 503, "leader-unreachable", Some("not-applied"));
    let (written, ()) = tokio::join!(cluster.put(2, "k", &[], "v"), async {
        // The length of the time until the others elect another leader.
        tokio::time::sleep(LIMITS.hold / 4).await;
        cluster.elect_without(3, 1);
    });
    assert_eq!(written.status(), 201, "a new leader takes it");
}

/// What a leader says of a proposal while it hands leadership over.
const HANDING_OVER: Proposals = Proposals::Refuse(Refused::NotLeader { leader: None });

#[tokio::test]
async fn a_write_during_a_transfer_waits_for_the_next_leader() {
    for node in [1, 3] {
        let cluster = Cluster::led_by(1);
        cluster.on_propose(HANDING_OVER);
        let (written, ()) = tokio::join!(cluster.put(node, "k", &[], "v"), async {
            // The length of the transfer; several attempts fit.
            tokio::time::sleep(LIMITS.hold / 4).await;
            assert!(cluster.proposals() > 1, "it was tried again");
            cluster.on_propose(Proposals::Apply);
            cluster.elect(Some(2));
        });
        assert_eq!(written.status(), 201, "through node {node}");
        assert_eq!(place(&written), (Some("1"), Some("8"), Some("\"1\"")), "once, in the new term");
    }
}

#[tokio::test]
async fn a_write_during_a_transfer_that_comes_to_nothing_is_written_by_the_leader_that_stays() {
    let cluster = Cluster::led_by(1);
    cluster.on_propose(HANDING_OVER);
    let (written, ()) = tokio::join!(cluster.put(1, "k", &[], "v"), async {
        // The length of the transfer.
        tokio::time::sleep(LIMITS.hold / 4).await;
        cluster.on_propose(Proposals::Apply);
    });
    assert_eq!((written.status(), place(&written).1), (StatusCode::CREATED, Some("7")));
}

#[tokio::test]
async fn a_transfer_without_an_end_is_no_leader_and_only_after_the_hold_time() {
    for node in [1, 3] {
        let cluster = Cluster::led_by(1);
        cluster.on_propose(HANDING_OVER);
        let start = tokio::time::Instant::now();
        let refused = cluster.put(node, "k", &[], "v").await;
        assert!(start.elapsed() >= LIMITS.hold, "it waited for a leader at node {node}");
        assert_problem(&refused, 503, "no-leader", Some("not-applied"));
        assert_eq!(field(&refused, "retry-after"), Some("1"));
    }
}

#[tokio::test]
async fn a_write_that_was_held_is_not_proposed_again_after_it_may_have_been_written() {
    for node in [1, 3] {
        let cluster = Cluster::led_by(1);
        cluster.on_propose(HANDING_OVER);
        let (refused, ()) = tokio::join!(cluster.put(node, "k", &[], "v"), async {
            // The length of the transfer.
            tokio::time::sleep(LIMITS.hold / 4).await;
            cluster.on_propose(Proposals::RefuseOnce(Refused::Unknown));
        });
        assert_problem(&refused, 500, "outcome-unknown", Some("unknown"));
        assert_eq!(cluster.get(2, "/registry/keys/k").await.status(), 404, "a second one would be applied");
    }
}

#[tokio::test]
async fn a_write_whose_answer_was_lost_is_unknown_and_not_sent_again() {
    let cluster = Cluster::led_by(1);
    cluster.lose_answers_of(1);
    assert_problem(&cluster.put(2, "k", &[], "v").await, 500, "outcome-unknown", Some("unknown"));
    assert_eq!(cluster.proposals(), 1);
    cluster.on_propose(Proposals::Refuse(Refused::Unknown));
    assert_problem(&cluster.put(1, "k", &[], "v").await, 500, "outcome-unknown", Some("unknown"));
    cluster.on_propose(Proposals::Hang);
    assert_problem(&cluster.put(1, "k", &[], "v").await, 500, "outcome-unknown", Some("unknown"));
    assert_eq!(cluster.proposals(), 3);
}

#[tokio::test]
async fn a_full_queue_is_overloaded() {
    let cluster = Cluster::led_by(1);
    cluster.on_propose(Proposals::Refuse(Refused::Busy));
    assert_problem(&cluster.put(2, "k", &[], "v").await, 503, "overloaded", Some("not-applied"));
}

#[tokio::test]
async fn two_nodes_that_point_at_each_other_end_in_an_answer() {
    let cluster = Cluster::led_by(1);
    cluster.confuse();
    let refused = cluster.put(2, "k", &[], "v").await;
    assert_problem(&refused, 503, "no-leader", Some("not-applied"));
    assert!(cluster.hops() < 1_000, "each attempt is one hop: {}", cluster.hops());
}

#[tokio::test]
async fn keys_and_values_that_do_not_fit_are_refused_before_they_are_proposed() {
    let cluster = Cluster::led_by(1);
    assert_problem(&cluster.put(1, "a%0Ab", &[], "v").await, 400, "bad-request", Some("not-applied"));
    assert_problem(&cluster.put(1, "a%ff", &[], "v").await, 400, "bad-request", Some("not-applied"));
    assert_problem(
        &cluster.put(1, &"k".repeat(513), &[], "v").await,
        400,
        "bad-request",
        Some("not-applied"),
    );
    let large = "v".repeat(1024 * 1024 + 1);
    assert_problem(&cluster.put(1, "k", &[], &large).await, 413, "content-too-large", Some("not-applied"));
    assert_eq!(cluster.proposals(), 0);
    assert_eq!(cluster.put(1, &"k".repeat(512), &[], &large[1..]).await.status(), 201);
}

#[tokio::test]
async fn keys_are_listed_page_by_page() {
    let cluster = Cluster::led_by(1);
    for key in ["b/2", "a", "b/1", "b/3"] {
        cluster.put(1, key, &[], "value").await;
    }
    let names = |list: &KeyList| list.keys.iter().map(|key| key.key.clone()).collect::<Vec<_>>();
    let first: KeyList = parsed(&cluster.get(2, "/registry/keys?prefix=b%2F&limit=2").await);
    assert_eq!(
        (names(&first), first.more, first.index),
        (vec!["b/1".into(), "b/2".into()], true, LogIndex(4))
    );
    assert_eq!((first.keys[0].version, first.keys[0].size), (LogIndex(3), 5));
    let rest: KeyList = parsed(&cluster.get(2, "/registry/keys?prefix=b%2F&limit=2&after=b%2F2").await);
    assert_eq!((names(&rest), rest.more), (vec!["b/3".into()], false));
    let all: KeyList = parsed(&cluster.get(2, "/registry/keys").await);
    assert_eq!(all.keys.len(), 4);
    let refused = cluster.get(2, "/registry/keys?limit=0").await;
    assert_problem(&refused, 400, "bad-request", Some("not-applied"));
}
