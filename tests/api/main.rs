//! The API of a cluster of three whose loops are played by the test: commands are applied at once to
//! every machine, and a test says who leads, who can be reached and what goes wrong.

mod backup;
mod fake;
mod invitations;
mod listener;
mod members;
mod registry;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use serde_json::{Value, json};
use termgate::api::Caller;
use termgate::api::answers::{ClusterStatus, LeaderAnswer};
use termgate::ids::{LogIndex, NodeId, Term};
use termgate::raft::effect::TransferRefusal;

use crate::fake::{Cluster, TOKEN};

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
        assert_eq!((status.node, status.incarnation), (NodeId(node), (100 + node).to_string()));
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
    assert_eq!(status(2, "/readyz").await, 503, "nothing of the log is there yet");
    cluster.put(1, "a", &[], "1").await;
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
