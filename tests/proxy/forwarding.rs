//! Requests that arrive at a node which does not lead.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;

use bytes::Bytes;
use http::{Request, Response};
use termgate::hop::error::HopError;
use termgate::ids::NodeId;
use termgate::proxy::hop_api::LocalApi;
use tokio::sync::watch;

use crate::surroundings::{Backend, Client, Reply, call, get, ok, post, put_while_reading, wait_until};
use crate::{Node, counted, route, start_node};

/// A leader (1) and a follower (2) that know each other; both routes hold for `hold_ms`.
pub fn pair(backend: &Backend, hold_ms: u64) -> (Node, Node) {
    let members = watch::Sender::new(BTreeMap::new());
    let routes = vec![route(backend.address, hold_ms)];
    let leader = start_node(1, routes.clone(), members.subscribe(), None);
    let follower = start_node(2, routes, members.subscribe(), None);
    meet(&members, &[&leader, &follower]);
    (leader, follower)
}

pub fn meet(members: &watch::Sender<BTreeMap<NodeId, String>>, nodes: &[&Node]) {
    let address = |node: &&Node| (node.fake.handle.node(), node.proxy.hop_address().to_string());
    members.send_replace(nodes.iter().map(address).collect());
}

pub fn following(backend: &Backend) -> (Node, Node) {
    let (leader, follower) = pair(backend, 5_000);
    leader.lead(7);
    follower.fake.follow(1, 7);
    (leader, follower)
}

#[test]
fn a_follower_passes_a_write_to_the_leader_which_stamps_it() {
    let backend = Backend::start(|seen| ok(&format!("{} bytes", seen.body.len())));
    let (_leader, follower) = following(&backend);
    let got = post(follower.address(), "termgate-node: 66\r\nx-app: 1\r\n", "hello");
    assert_eq!((got.status, got.body.as_slice()), (200, b"5 bytes".as_slice()), "{got:?}");
    assert_eq!(got.field("termgate-served-by").as_deref(), Some("1"));
    assert_eq!(got.field("termgate-term").as_deref(), Some("7"));
    let seen = backend.seen();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].values("termgate-term"), ["7"]);
    assert_eq!(seen[0].values("termgate-node"), ["1"]);
    assert!(seen[0].values("termgate-request-id")[0].starts_with("2-"), "the origin names it");
    assert_eq!(seen[0].values("host"), ["shop"]);
    assert_eq!(seen[0].values("via"), ["1.1 termgate-orders-2"]);
    assert_eq!(seen[0].values("x-app"), ["1"]);
}

#[test]
fn reads_and_empty_writes_pass_the_hop() {
    let backend = Backend::start(|_| ok("data"));
    let (_leader, follower) = following(&backend);
    assert_eq!(get(follower.address(), "/x?y=%20", "").body, b"data");
    let deletion = call(follower.address(), "DELETE /x HTTP/1.1\r\nhost: a\r\n\r\n");
    assert_eq!(deletion.status, 200);
    assert_eq!(backend.seen()[0].first_line(), "GET /x?y=%20 HTTP/1.1");
}

#[test]
fn the_leader_judges_the_clients_term_for_a_follower() {
    let backend = Backend::start(|_| ok("done"));
    let (_leader, follower) = following(&backend);
    let stale = post(follower.address(), "termgate-term: 6\r\n", "x");
    assert_eq!((stale.status, stale.problem().as_str()), (412, "stale-term"));
    assert_eq!(stale.json()["node"], 1, "the leader says so");
    let future = post(follower.address(), "termgate-term: 8\r\n", "x");
    assert_eq!((future.status, future.problem().as_str()), (409, "future-term"));
    assert!(backend.seen().is_empty());
}

#[test]
fn large_content_streams_over_the_hop_both_ways() {
    let backend = Backend::start(|seen| {
        let mut answer =
            format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", seen.body.len()).into_bytes();
        answer.extend_from_slice(&seen.body);
        Reply::Bytes(answer)
    });
    let (_leader, follower) = following(&backend);
    let content: Vec<u8> = (0..8 * 1024 * 1024_u32).map(|i| (i / 5) as u8).collect();
    let got = put_while_reading(follower.address(), &content);
    assert_eq!(got.status, 200);
    assert!(got.body == content);
}

#[test]
fn a_leader_that_lost_its_lease_gives_the_request_back() {
    let backend = Backend::start(|_| ok("done"));
    let (leader, follower) = following(&backend);
    leader.fake.lose();
    let address = follower.address();
    let waiting = thread::spawn(move || post(address, "", "x"));
    wait_until("it was given back and tried again", || {
        follower.metrics.render().contains("termgate_redispatched_total{route=\"orders\"}")
    });
    assert!(backend.seen().is_empty());
    follower.lead(8);
    assert_eq!(waiting.join().expect("an answer").status, 200);
    assert_eq!(backend.seen()[0].values("termgate-term"), ["8"]);
    assert_eq!(backend.seen()[0].values("termgate-node"), ["2"]);
}

#[test]
fn withheld_content_moves_to_the_next_leader() {
    let backend = Backend::start(|seen| ok(&seen.body.len().to_string()));
    let (leader, follower) = following(&backend);
    leader.fake.lose();
    let address = follower.address();
    let waiting = thread::spawn(move || post(address, "", &"x".repeat(300_000)));
    wait_until("it was given back and tried again", || {
        follower.metrics.render().contains("termgate_redispatched_total{route=\"orders\"}")
    });
    follower.lead(8);
    assert_eq!(waiting.join().expect("an answer").body, b"300000");
    assert_eq!(backend.seen().len(), 1);
}

#[test]
fn a_leader_that_cannot_be_reached_leaves_the_request_not_applied() {
    let backend = Backend::start(|_| ok("done"));
    let (leader, follower) = pair(&backend, 600);
    leader.proxy.shutdown();
    follower.fake.follow(1, 7);
    let got = post(follower.address(), "", "x");
    assert_eq!((got.status, got.problem().as_str()), (503, "leader-unreachable"));
    assert_eq!(got.json()["outcome"], "not-applied");
    assert!(backend.seen().is_empty());
}

#[test]
fn a_write_whose_leader_is_lost_after_sending_has_an_unknown_outcome() {
    let release = Arc::new(AtomicBool::new(false));
    let held = Arc::clone(&release);
    let backend = Backend::start(move |_| {
        wait_until("the test is done", || held.load(Ordering::SeqCst));
        ok("late")
    });
    let (_leader, follower) = following(&backend);
    let address = follower.address();
    let waiting = thread::spawn(move || post(address, "", "x"));
    wait_until("the backend has it", || backend.seen().len() == 1);
    follower.fake.follow(3, 8);
    let got = waiting.join().expect("an answer");
    release.store(true, Ordering::SeqCst);
    assert_eq!((got.status, got.problem().as_str()), (500, "outcome-unknown"));
    assert_eq!(got.json()["outcome"], "unknown");
    assert_eq!(got.json()["retry_safe"], false);
    assert_eq!(backend.seen().len(), 1, "never sent again");
}

#[test]
fn the_true_answer_of_a_deposed_leader_still_counts() {
    let release = Arc::new(AtomicBool::new(false));
    let held = Arc::clone(&release);
    let backend = Backend::start(move |_| {
        wait_until("leadership has moved", || held.load(Ordering::SeqCst));
        ok("late but true")
    });
    let (leader, follower) = following(&backend);
    let address = follower.address();
    let waiting = thread::spawn(move || post(address, "", "x"));
    wait_until("the backend has it", || backend.seen().len() == 1);
    leader.fake.follow(3, 8);
    follower.fake.follow(3, 8);
    release.store(true, Ordering::SeqCst);
    let got = waiting.join().expect("an answer");
    assert_eq!((got.status, got.body.as_slice()), (200, b"late but true".as_slice()));
    assert_eq!(got.field("termgate-term").as_deref(), Some("7"), "the term it was served under");
    assert_eq!(got.field("termgate-served-by").as_deref(), Some("1"));
}

#[test]
fn the_outcome_of_a_forwarded_write_is_counted_where_its_client_is() {
    let backend = Backend::start(|seen| if seen.body == b"die" { Reply::Hangup } else { ok("done") });
    let (_leader, follower) = following(&backend);
    assert_eq!(post(follower.address(), "", "x").status, 200);
    assert_eq!(post(follower.address(), "termgate-term: 6\r\n", "x").status, 412);
    let got = post(follower.address(), "", "die");
    assert_eq!((got.status, got.json()["outcome"].as_str()), (502, Some("unknown")));
    for outcome in ["applied", "not-applied", "unknown"] {
        assert_eq!(counted(&follower, outcome), 1, "{outcome}");
    }
}

/// H-4.
#[test]
fn a_refusal_by_the_fence_keeps_its_name_over_the_hop() {
    let refused = b"HTTP/1.1 412 No\r\ntermgate-fence: rejected; current=9\r\ncontent-length: 0\r\n\r\n";
    let backend = Backend::start(|_| Reply::Bytes(refused.to_vec()));
    let (_leader, follower) = following(&backend);
    // Too long to be kept, so that it can't be sent again.
    let got = post(follower.address(), "", &"x".repeat(300_000));
    assert_eq!((got.status, got.problem().as_str()), (503, "fenced"));
    assert_eq!(got.json()["outcome"], "not-applied");
}

/// H-4.
#[test]
fn a_read_that_was_not_confirmed_keeps_its_name_over_the_hop() {
    let meeting = Arc::new(Barrier::new(2));
    let met = Arc::clone(&meeting);
    let backend = Backend::start(move |_| {
        met.wait();
        met.wait();
        ok("data")
    });
    let (leader, follower) = pair(&backend, 500);
    leader.lead(7);
    follower.fake.follow(1, 7);
    let address = follower.address();
    let reader = thread::spawn(move || get(address, "/", "termgate-consistency: lease\r\n"));
    meeting.wait();
    leader.fake.lose();
    follower.fake.lose();
    meeting.wait();
    let got = reader.join().expect("an answer");
    assert_eq!((got.status, got.problem().as_str()), (503, "read-not-linearizable"));
}

#[test]
fn a_broken_answer_stays_broken_over_the_hop() {
    let cut: &[&[u8]] = &[
        b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n",
    ];
    for bytes in cut {
        let backend = Backend::start(move |_| Reply::Last(bytes.to_vec()));
        let (_leader, follower) = following(&backend);
        let mut client = Client::connect(follower.address());
        client.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n");
        assert!(client.read().is_none(), "the connection ends inside the content");
    }
}

#[test]
fn api_calls_reach_another_node() {
    let backend = Backend::start(|_| ok("done"));
    let members = watch::Sender::new(BTreeMap::new());
    let api: LocalApi = Arc::new(|peer, request: Request<Bytes>| {
        let text = format!("{peer} {} {}", request.method(), request.uri());
        let answer = Response::builder().status(201).header("etag", "5").body(Bytes::from(text));
        Box::pin(async move { answer.expect("an answer") })
    });
    let asked = start_node(1, vec![route(backend.address, 100)], members.subscribe(), Some(api));
    let asking = start_node(2, vec![route(backend.address, 100)], members.subscribe(), None);
    meet(&members, &[&asked, &asking]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let door = asking.proxy.api();
    let request = || Request::put("/registry/keys/a").body(Bytes::from_static(b"value")).expect("a request");
    let call = || runtime.block_on(door.call(NodeId(1), request()));
    wait_until("they are connected", || !matches!(call(), Err(HopError::NotSent(_))));
    let answer = call().expect("an answer");
    assert_eq!(answer.status(), 201);
    assert_eq!(answer.headers()["etag"], "5");
    assert_eq!(answer.body(), "2 PUT /registry/keys/a");
    let nobody = runtime.block_on(door.call(NodeId(9), request()));
    assert!(nobody.expect_err("no such node").nothing_applied());
}
