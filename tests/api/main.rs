//! The API of a cluster of three whose loops are played by the test: commands are applied at once to
//! every machine, and a test says who leads, who can be reached and what goes wrong.

mod fake;
mod listener;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use serde_json::{Value, json};
use termgate::api::Caller;
use termgate::api::answers::{ClusterStatus, KeyList, LeaderAnswer};
use termgate::driver::handle::Refused;
use termgate::ids::{LogIndex, NodeId, Term};
use termgate::raft::effect::TransferRefusal;
use termgate::registry::command::Answer;

use crate::fake::{Cluster, LIMITS, Proposals, TOKEN};

fn request(method: Method, target: &str, fields: &[(&str, &str)], body: &str) -> Request<Bytes> {
    let mut builder = Request::builder().method(method).uri(target).header("host", "127.0.0.1:9090");
    for (name, value) in fields {
        builder = builder.header(*name, *value);
    }
    builder.body(Bytes::copy_from_slice(body.as_bytes())).unwrap()
}

impl Cluster {
    async fn call(
        &self,
        node: u64,
        method: Method,
        target: &str,
        fields: &[(&str, &str)],
    ) -> Response<Bytes> {
        self.send(node, request(method, target, fields, "")).await
    }

    async fn send(&self, node: u64, request: Request<Bytes>) -> Response<Bytes> {
        self.api(node).handle(Caller::Client, request).await
    }

    async fn get(&self, node: u64, target: &str) -> Response<Bytes> {
        self.call(node, Method::GET, target, &[]).await
    }

    async fn put(&self, node: u64, key: &str, fields: &[(&str, &str)], value: &str) -> Response<Bytes> {
        self.send(node, request(Method::PUT, &format!("/registry/keys/{key}"), fields, value)).await
    }

    async fn resign(&self, node: u64, fields: &[(&str, &str)], body: &str) -> Response<Bytes> {
        self.send(node, request(Method::POST, "/leader/resign", fields, body)).await
    }
}

fn parsed<T: serde::de::DeserializeOwned>(response: &Response<Bytes>) -> T {
    serde_json::from_slice(response.body()).unwrap_or_else(|e| panic!("{e}: {response:?}"))
}

fn field<'r>(response: &'r Response<Bytes>, name: &str) -> Option<&'r str> {
    response.headers().get(name).map(|value| value.to_str().unwrap())
}

/// Checks that the answer is this problem, in its fields and in its content.
#[track_caller]
fn assert_problem(response: &Response<Bytes>, status: u16, name: &str, outcome: Option<&str>) {
    let content: Value = parsed(response);
    assert_eq!(response.status().as_u16(), status, "{content}");
    assert_eq!(content["type"], format!("urn:termgate:problem:{name}"), "{content}");
    assert_eq!(content["status"], status);
    assert_eq!(content.get("outcome").and_then(Value::as_str), outcome, "{content}");
    assert_eq!(field(response, "termgate-outcome"), outcome);
    assert_eq!(field(response, "content-type"), Some("application/problem+json"));
}

/// Checks that the description of the API names the answer's status, and its own fields in it.
#[track_caller]
fn assert_described(method: &Method, path: &str, answer: &Response<Bytes>) {
    let description: Value = serde_json::from_slice(termgate::api::OPENAPI).unwrap();
    let method = method.as_str().to_lowercase();
    let described = &description["paths"][path][&method]["responses"][answer.status().as_str()];
    assert!(described.is_object(), "{method} {path} answers {}", answer.status());
    for name in ["ETag", "Termgate-Index", "Termgate-Term", "WWW-Authenticate", "Retry-After"] {
        let is_described = described["headers"][name].is_object();
        assert!(
            is_described || field(answer, name).is_none(),
            "{name} in {method} {path} {}",
            answer.status()
        );
    }
}

// GET /leader

#[tokio::test]
async fn the_leader_answers_with_its_lease() {
    let cluster = Cluster::led_by(1);
    let response = cluster.get(1, "/leader").await;
    let answer: LeaderAnswer = parsed(&response);
    assert_eq!((answer.node_id, answer.term, answer.authoritative), (NodeId(1), Term(7), true));
    assert_eq!(answer.address.as_deref(), Some("10.0.0.1:8080"));
    let remaining = answer.lease_remaining_ms.unwrap();
    assert!((1..=60_000).contains(&remaining), "{remaining}");
    assert!(answer.lease_expires_at.unwrap().ends_with('Z'));
    assert_eq!(answer.resources[0].name, "orders");
}

#[tokio::test]
async fn a_follower_passes_on_what_it_heard_without_authority() {
    let cluster = Cluster::led_by(1);
    let answer: LeaderAnswer = parsed(&cluster.get(2, "/leader").await);
    assert_eq!((answer.node_id, answer.authoritative), (NodeId(1), false));
    assert_eq!((answer.lease_remaining_ms, answer.lease_expires_at), (None, None));
}

#[tokio::test]
async fn a_leader_whose_lease_ended_claims_no_authority() {
    let cluster = Cluster::led_by(1);
    cluster.end_lease();
    let answer: LeaderAnswer = parsed(&cluster.get(1, "/leader").await);
    assert_eq!((answer.authoritative, answer.lease_remaining_ms), (false, None));
    let response = cluster.get(1, "/leader?consistency=lease").await;
    assert_problem(&response, 503, "read-not-linearizable", None);
}

#[tokio::test]
async fn without_a_leader_clients_are_told_when_to_try_again() {
    let cluster = Cluster::led_by(1);
    cluster.elect(None);
    let response = cluster.get(2, "/leader").await;
    assert_problem(&response, 503, "no-leader", None);
    assert_eq!(field(&response, "retry-after"), Some("1"));
}

#[tokio::test]
async fn a_linearizable_answer_is_confirmed_by_a_read() {
    let cluster = Cluster::led_by(1);
    for node in [1, 2] {
        let before = cluster.reads();
        assert_eq!(cluster.get(node, "/leader?consistency=linearizable").await.status(), 200);
        assert_eq!(cluster.reads(), before + 1);
    }
    cluster.get(1, "/leader").await;
    assert_eq!(cluster.reads(), 2, "a stale answer asks nobody");
    cluster.refuse_reads(true);
    assert_problem(&cluster.get(1, "/leader?consistency=linearizable").await, 503, "no-leader", None);
    assert_problem(
        &cluster.get(1, "/leader?consistency=fast").await,
        400,
        "bad-request",
        Some("not-applied"),
    );
}

#[tokio::test]
async fn head_has_the_same_head_and_no_content() {
    let cluster = Cluster::led_by(1);
    let response = cluster.call(1, Method::HEAD, "/livez", &[]).await;
    assert_eq!((response.status(), response.body().len()), (StatusCode::OK, 0));
    assert_eq!(response.headers()["content-type"], "application/json");
    assert_ne!(field(&response, "content-length"), Some("0"));
}

// POST /leader/resign

#[tokio::test]
async fn any_node_takes_a_resignation() {
    for node in [1, 3] {
        let cluster = Cluster::led_by(1);
        let response =
            cluster.resign(node, &[("if-match", "\"7\"")], r#"{"to": 2, "reason": "upgrade"}"#).await;
        let answer: Value = parsed(&response);
        assert_eq!((&answer["from_term"], &answer["to"], &answer["term"]), (&json!(7), &json!(2), &json!(8)));
        assert!(answer["pause_ms"].is_u64(), "{answer}");
        assert_eq!(cluster.leader(), Some(2));
    }
}

#[tokio::test]
async fn a_resignation_that_names_another_term_is_refused() {
    let cluster = Cluster::led_by(1);
    for node in [1, 2] {
        let response = cluster.resign(node, &[("if-match", "\"6\"")], "").await;
        assert_problem(&response, 412, "precondition-failed", Some("not-applied"));
    }
    assert_eq!(cluster.leader(), Some(1));
}

#[tokio::test]
async fn a_resignation_without_a_successor_is_refused() {
    let cluster = Cluster::led_by(1);
    for why in [TransferRefusal::NobodyCaughtUp, TransferRefusal::NotAVoter, TransferRefusal::InProgress] {
        cluster.refuse_transfer(why);
        let response = cluster.resign(2, &[], "").await;
        assert_problem(&response, 409, "transfer-refused", Some("not-applied"));
    }
    cluster.refuse_transfer(TransferRefusal::TimedOut);
    assert_problem(&cluster.resign(1, &[], "").await, 500, "outcome-unknown", Some("unknown"));
}

#[tokio::test]
async fn a_resignation_without_a_leader_says_so() {
    let cluster = Cluster::led_by(1);
    cluster.elect(None);
    assert_problem(&cluster.resign(1, &[], "").await, 503, "no-leader", Some("not-applied"));
}

#[tokio::test]
async fn a_resignation_with_a_misspelt_member_is_refused() {
    let cluster = Cluster::led_by(1);
    let response = cluster.resign(1, &[], r#"{"target": 2}"#).await;
    assert_problem(&response, 400, "bad-request", Some("not-applied"));
    assert_eq!(cluster.leader(), Some(1));
}

// GET /cluster/status

#[tokio::test]
async fn any_node_answers_for_all() {
    let cluster = Cluster::led_by(1);
    cluster.put(1, "a", &[], "x").await;
    for node in [1, 2, 3] {
        let status: ClusterStatus = parsed(&cluster.get(node, "/cluster/status").await);
        assert_eq!((status.cluster.as_str(), status.term, status.leader), ("test", Term(7), Some(NodeId(1))));
        assert!(status.lease_remaining_ms.is_some());
        let roles: Vec<_> = status.members.iter().map(|m| m.role.as_deref().unwrap()).collect();
        assert_eq!(roles, ["leader", "follower", "follower"]);
        for member in &status.members {
            assert_eq!((member.reachable, member.last_applied), (true, Some(LogIndex(1))));
            assert_eq!(member.match_index, Some(LogIndex(1)), "the leader knows it");
            assert!(member.last_contact_ms.is_some());
        }
        assert_eq!(status.config, json!({"heartbeat_interval_ms": 50}));
    }
}

#[tokio::test]
async fn a_silent_node_is_unreachable_and_does_not_hold_up_the_answer() {
    let cluster = Cluster::led_by(1);
    cluster.cut_off(3);
    cluster.hang(2);
    let status: ClusterStatus = parsed(&cluster.get(1, "/cluster/status").await);
    let reachable: Vec<bool> = status.members.iter().map(|member| member.reachable).collect();
    assert_eq!(reachable, [true, false, false]);
    assert_eq!(status.members[2].role, None);
    assert!(status.members[2].match_index.is_some(), "the leader still knows what it had");
}

#[tokio::test]
async fn an_old_leader_is_not_believed() {
    let cluster = Cluster::led_by(1);
    cluster.elect_without(2, 1);
    let status: ClusterStatus = parsed(&cluster.get(1, "/cluster/status").await);
    assert_eq!((status.term, status.leader), (Term(8), Some(NodeId(2))));
}

#[tokio::test]
async fn a_client_can_not_call_what_is_between_nodes() {
    let cluster = Cluster::led_by(1);
    assert_problem(&cluster.get(1, "/internal/status").await, 404, "not-found", Some("not-applied"));
}

// health

#[tokio::test]
async fn load_balancers_find_the_primary_and_the_replicas() {
    let cluster = Cluster::led_by(1);
    let status = async |node, path| cluster.get(node, path).await.status().as_u16();
    assert_eq!((status(1, "/primary").await, status(2, "/primary").await), (200, 503));
    assert_eq!((status(1, "/replica").await, status(2, "/replica").await), (503, 200));
    assert_eq!((status(1, "/readyz").await, status(2, "/readyz").await), (200, 200));
    cluster.gate("orders", "barrier");
    assert_eq!((status(1, "/primary").await, status(1, "/primary?resource=orders").await), (503, 503));
    assert_eq!(status(1, "/primary?resource=other").await, 404);
    cluster.gate("orders", "open");
    cluster.end_lease();
    assert_eq!((status(1, "/primary").await, status(1, "/readyz").await), (503, 503));
    cluster.elect(None);
    assert_eq!((status(2, "/replica").await, status(2, "/readyz").await), (503, 503));
    assert_eq!(status(2, "/livez").await, 200, "no leader is no reason to restart a node");
}

#[tokio::test]
async fn the_primary_has_every_gate_open_or_the_one_that_is_asked_for() {
    let cluster = Cluster::led_by(1);
    cluster.gate("reports", "barrier");
    let status = async |node, path| cluster.get(node, path).await.status().as_u16();
    let closed = cluster.get(1, "/primary").await;
    assert_eq!(closed.status(), 503);
    let reason = parsed::<Value>(&closed)["reason"].clone();
    assert_eq!(reason, json!("this node leads and the gate of reports is barrier"));
    assert_eq!(status(1, "/primary?resource=orders").await, 200, "one backend does not take another along");
    assert_eq!(status(2, "/primary?resource=orders").await, 503);
    assert_eq!(status(1, "/primary?resource=reports").await, 503);
    cluster.gate("reports", "open");
    assert_eq!(status(1, "/primary").await, 200);
}

#[tokio::test]
async fn a_loop_that_does_not_answer_is_not_alive() {
    let cluster = Cluster::led_by(1);
    cluster.hang(2);
    let response = cluster.get(2, "/livez").await;
    assert_eq!(response.status(), 503);
    let content: Value = parsed(&response);
    assert_eq!((&content["status"], &content["node"]), (&json!("unavailable"), &json!(2)));
}

#[tokio::test]
async fn metrics_are_prometheus_text() {
    let cluster = Cluster::led_by(1);
    cluster.get(1, "/nothing").await;
    let response = cluster.get(1, "/metrics").await;
    let text = std::str::from_utf8(response.body()).unwrap();
    assert!(text.contains(r#"termgate_refusals_total{what="api",reason="not-found"} 1"#), "{text}");
}

// the registry

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

// who may call

#[tokio::test]
async fn changes_need_the_token_and_reads_do_not() {
    let cluster = Cluster::guarded();
    for fields in [&[][..], &[("authorization", "Bearer wrong")]] {
        for method in [Method::PUT, Method::DELETE] {
            let refused = cluster.call(2, method, "/registry/keys/k", fields).await;
            assert_problem(&refused, 401, "unauthorized", Some("not-applied"));
        }
        let refused = cluster.resign(2, fields, "").await;
        assert_problem(&refused, 401, "unauthorized", Some("not-applied"));
        assert_eq!(field(&refused, "www-authenticate"), Some("Bearer"), "RFC 9110, section 11.6.1");
        assert_described(&Method::POST, "/leader/resign", &refused);
    }
    let bearer = format!("Bearer {TOKEN}");
    assert_eq!(cluster.put(2, "k", &[("authorization", &bearer)], "v").await.status(), 201);
    assert_eq!(cluster.get(2, "/registry/keys/k").await.status(), 200);
    assert_eq!(cluster.leader(), Some(1));
}

#[tokio::test]
async fn without_a_token_web_pages_are_kept_out() {
    let cluster = Cluster::led_by(1);
    let from = async |host: &str, origin: Option<&str>| {
        let mut request = Request::put("/registry/keys/k").header("host", host);
        if let Some(origin) = origin {
            request = request.header("origin", origin);
        }
        cluster.send(1, request.body(Bytes::new()).unwrap()).await.status().as_u16()
    };
    assert_eq!(from("evil.example:9090", None).await, 403, "a name that was made to resolve to 127.0.0.1");
    assert_eq!(from("127.0.0.1:9090", Some("https://evil.example")).await, 403);
    assert_eq!(from("127.0.0.1:9090", Some("null")).await, 403);
    assert_eq!(cluster.proposals(), 0);
    assert_eq!(from("127.0.0.1:9090", Some("http://127.0.0.1:9090")).await, 201);
    assert_eq!(from("localhost:9090", None).await, 204);
    assert_eq!(from("[::1]:9090", None).await, 204);
    let missing = cluster.send(1, Request::get("/leader").body(Bytes::new()).unwrap()).await;
    assert_problem(&missing, 400, "bad-request", Some("not-applied"));
}

#[tokio::test]
async fn other_methods_are_told_what_is_allowed() {
    let cluster = Cluster::led_by(1);
    let refused = cluster.call(1, Method::POST, "/registry/keys/k", &[]).await;
    assert_problem(&refused, 405, "method-not-allowed", Some("not-applied"));
    assert_eq!(field(&refused, "allow"), Some("GET, PUT, DELETE, HEAD"));
}

#[tokio::test]
async fn every_answer_names_its_request_and_no_client_chooses_the_name() {
    let cluster = Cluster::led_by(1);
    let mut names = std::collections::BTreeSet::new();
    for node in [1, 2] {
        for path in ["/leader", "/livez", "/nothing", "/registry/keys/k", "/metrics"] {
            let answer = cluster.call(node, Method::GET, path, &[("termgate-request-id", "mine")]).await;
            let name = field(&answer, "termgate-request-id").unwrap().to_owned();
            assert!(name.starts_with(&format!("{node}-")), "{name} at {node}");
            if !answer.status().is_success() {
                assert_eq!(parsed::<Value>(&answer)["request_id"], json!(name));
            }
            assert!(names.insert(name), "each request has its own");
        }
    }
}

#[tokio::test]
async fn the_leader_answers_under_the_name_that_the_request_got_where_it_came_in() {
    let cluster = Cluster::led_by(1);
    let refused = cluster.put(2, "k", &[("if-match", "*")], "v").await;
    let name = field(&refused, "termgate-request-id").unwrap();
    assert!(name.starts_with("2-"), "{name}");
    let problem: Value = parsed(&refused);
    assert_eq!((&problem["node"], &problem["request_id"]), (&json!(1), &json!(name)));
}

#[tokio::test]
async fn a_name_that_no_node_gives_is_replaced() {
    let cluster = Cluster::led_by(1);
    for given in ["", &"x".repeat(65), "\u{e9}"] {
        let mut request = request(Method::GET, "/leader", &[], "");
        let value = http::HeaderValue::from_bytes(given.as_bytes()).unwrap();
        request.headers_mut().insert("termgate-request-id", value);
        let answer = cluster.api(1).handle(Caller::Node(NodeId(2)), request).await;
        assert!(field(&answer, "termgate-request-id").unwrap().starts_with("1-"), "{given:?}");
    }
}

#[tokio::test]
async fn a_problem_names_the_node_and_its_term() {
    let cluster = Cluster::led_by(1);
    for path in ["/nothing", "/registry/keys/nothing"] {
        let problem: Value = parsed(&cluster.get(2, path).await);
        assert_eq!((&problem["node"], &problem["term"]), (&json!(2), &json!(7)), "{path}");
    }
}

// the description

#[test]
fn the_description_lists_exactly_the_calls() {
    use termgate::api::{OPENAPI, router::TABLE};
    let description: Value = serde_json::from_slice(OPENAPI).unwrap();
    let mut described: Vec<String> = Vec::new();
    for (path, item) in description["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys().filter(|key| *key != "parameters") {
            described.push(format!("{} {path}", method.to_uppercase()));
        }
    }
    let mut offered: Vec<String> = TABLE.iter().map(|(method, path, _)| format!("{method} {path}")).collect();
    described.sort();
    offered.sort();
    assert_eq!(described, offered);
}

#[test]
fn every_reference_of_the_description_leads_somewhere() {
    let description: Value = serde_json::from_slice(termgate::api::OPENAPI).unwrap();
    fn check(root: &Value, value: &Value) {
        if let Some(reference) = value.get("$ref").and_then(Value::as_str) {
            assert!(root.pointer(&reference[1..]).is_some(), "{reference}");
        }
        let children: Vec<&Value> = match value {
            Value::Object(map) => map.values().collect(),
            Value::Array(list) => list.iter().collect(),
            _ => Vec::new(),
        };
        children.into_iter().for_each(|child| check(root, child));
    }
    check(&description, &description);
}
