//! The way of a request, with a real backend that records every byte and a loop that is played by
//! the test.

mod forwarding;
#[path = "../pki/mod.rs"]
mod pki;
mod surroundings;
mod uploads;

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use pki::Pki;
use surroundings::{Backend, Client, FakeLoop, Reply, call, get, ok, post, put_while_reading, wait_until};
use termgate::fencing::mode::{Consistency, FenceMode};
use termgate::ids::NodeId;
use termgate::metrics::{Metrics, RequestLabel};
use termgate::proxy::hop_api::LocalApi;
use termgate::proxy::route::Route;
use termgate::proxy::start::{Proxy, ProxyConfig};
use tokio::sync::watch;

/// How long the gate of a drain route waits in these tests.
const QUIET: Duration = Duration::from_millis(600);
struct Node {
    proxy: Proxy,
    fake: FakeLoop,
    metrics: Metrics,
}

impl Node {
    fn address(&self) -> SocketAddr {
        self.proxy.address()
    }

    fn gate(&self) -> &'static str {
        self.proxy.gates().snapshot()[0].gate
    }

    fn lead(&self, term: u64) {
        self.fake.lead(term);
        wait_until("the gate opens", || self.gate() == "open");
    }
}

fn route(backend: SocketAddr, hold_ms: u64) -> Route {
    Route {
        name: "orders".into(),
        host: None,
        path_prefix: "/".into(),
        backend: format!("http://{backend}").parse().expect("a uri"),
        fence: FenceMode::Enforced,
        reads: Consistency::Linearizable,
        hold_timeout: Duration::from_millis(hold_ms),
    }
}

/// Certificates for all nodes of all tests.
fn pki() -> &'static Pki {
    static PKI: OnceLock<Pki> = OnceLock::new();
    PKI.get_or_init(Pki::new)
}

fn start(routes: Vec<Route>) -> Node {
    start_node(1, routes, watch::channel(BTreeMap::new()).1, None)
}

fn start_node(
    id: u64,
    routes: Vec<Route>,
    members: watch::Receiver<BTreeMap<NodeId, String>>,
    local_api: Option<LocalApi>,
) -> Node {
    start_with(id, routes, members, |config| config.local_api = local_api)
}

fn start_with(
    id: u64,
    routes: Vec<Route>,
    members: watch::Receiver<BTreeMap<NodeId, String>>,
    change: impl FnOnce(&mut ProxyConfig),
) -> Node {
    let fake = FakeLoop::start(id);
    let metrics = Metrics::new();
    let any: SocketAddr = "127.0.0.1:0".parse().expect("an address");
    let mut config = ProxyConfig {
        node: NodeId(id),
        cluster: "orders".into(),
        listen: any,
        hop_listen: any,
        routes,
        handle: fake.handle.clone(),
        members,
        credentials: pki().node(id),
        metrics: metrics.clone(),
        quiet_period: QUIET,
        lease_reads: true,
        lanes: 1,
        local_api: None,
    };
    change(&mut config);
    Node { proxy: Proxy::start(config).expect("starts"), fake, metrics }
}

fn leading(backend: &Backend) -> Node {
    let node = start(vec![route(backend.address, 300)]);
    node.lead(7);
    node
}

/// Writes of the node's clients that ended with `outcome`.
fn counted(node: &Node, outcome: &'static str) -> u64 {
    let label = RequestLabel { route: "orders".into(), class: "write", outcome };
    node.metrics.requests.get_or_create(&label).get()
}

#[test]
fn a_write_reaches_the_backend_once_and_stamped_once() {
    let backend = Backend::start(|_| ok("done"));
    let node = leading(&backend);
    let got = post(node.address(), "x-app: 1\r\n", "hello");
    assert_eq!((got.status, got.body.as_slice()), (200, b"done".as_slice()));
    assert_eq!(got.field("termgate-term").as_deref(), Some("7"));
    assert_eq!(got.field("termgate-served-by").as_deref(), Some("1"));
    let seen = backend.seen();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].first_line(), "POST /orders HTTP/1.1");
    assert_eq!(seen[0].body, b"hello");
    assert_eq!(seen[0].values("termgate-term"), ["7"]);
    assert_eq!(seen[0].values("termgate-node"), ["1"]);
    assert_eq!(seen[0].values("termgate-resource"), ["orders"]);
    assert_eq!(seen[0].values("termgate-request-id").len(), 1);
    assert_eq!(seen[0].values("host"), ["shop"]);
    assert_eq!(seen[0].values("via"), ["1.1 termgate-orders-1"]);
    assert_eq!(seen[0].values("x-app"), ["1"]);
}

#[test]
fn forged_stamps_never_reach_a_backend() {
    let backend = Backend::start(|_| ok("done"));
    let node = leading(&backend);
    let forged = "TERMGATE-NODE: forged\r\nTermgate_Term: forged\r\ntermgate_request-id: forged\r\n\
                  Termgate-Anything: forged\r\ntermgate_resource: forged\r\nTermgate-Fence: forged\r\n";
    assert_eq!(post(node.address(), forged, "x").status, 200);
    let chunked = "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\nte: trailers\r\n\
                   trailer: termgate-term\r\n\r\n1\r\nx\r\n0\r\ntermgate-term: forged\r\nTermgate_Node: forged\r\n\r\n";
    assert_eq!(call(node.address(), chunked).status, 200);
    for seen in backend.seen() {
        assert!(!seen.head.contains("forged"), "{}", seen.head);
        assert_eq!(seen.values("termgate-term"), ["7"]);
    }
    let nominated = "connection: close, Termgate-Term\r\n";
    assert_eq!(post(node.address(), nominated, "x").status, 400);
    assert_eq!(backend.seen().len(), 2);
}

#[test]
fn a_client_cannot_raise_a_fence_through_a_node() {
    let backend = Backend::start(|_| ok("done"));
    let (leader, follower) = forwarding::following(&backend);
    for node in [&leader, &follower] {
        let raise = r#"{"resource":"orders","term":99,"proof":null}"#;
        for path in ["/.well-known/termgate/fence", "/x/%2e./.well-known/termgate/fence"] {
            let length = raise.len();
            let got = call(
                node.address(),
                format!("PUT {path} HTTP/1.1\r\nhost: a\r\ncontent-length: {length}\r\n\r\n{raise}"),
            );
            assert_eq!((got.status, got.problem().as_str()), (403, "forbidden"), "{path}");
            assert_eq!(got.json()["outcome"], "not-applied");
        }
    }
    assert_eq!(backend.raises.load(Ordering::SeqCst), 1, "only the leader's own");
    assert!(backend.seen().is_empty());
}

#[test]
fn a_client_with_another_term_is_told_and_nothing_is_forwarded() {
    let backend = Backend::start(|_| ok("done"));
    let node = leading(&backend);
    let stale = post(node.address(), "termgate-term: 6\r\n", "x");
    assert_eq!((stale.status, stale.problem().as_str()), (412, "stale-term"));
    assert_eq!(stale.field("termgate-outcome").as_deref(), Some("not-applied"));
    let future = post(node.address(), "termgate-term: 8\r\n", "x");
    assert_eq!((future.status, future.problem().as_str()), (409, "future-term"));
    assert!(backend.seen().is_empty());
    assert_eq!(post(node.address(), "termgate-term: 7\r\n", "x").status, 200);
}

#[test]
fn a_request_is_held_until_there_is_a_leader() {
    let backend = Backend::start(|_| ok("done"));
    let node = start(vec![route(backend.address, 10_000)]);
    let address = node.address();
    let waiting = thread::spawn(move || post(address, "", "held"));
    wait_until("the request is held", || node.metrics.held_requests.get() == 1);
    assert!(backend.seen().is_empty());
    node.fake.lead(3);
    assert_eq!(waiting.join().expect("an answer").status, 200);
    assert_eq!(backend.seen()[0].values("termgate-term"), ["3"]);
    wait_until("nobody waits", || node.metrics.held_requests.get() == 0);
}

#[test]
fn a_request_without_a_leader_is_refused_in_time_and_not_applied() {
    let backend = Backend::start(|_| ok("done"));
    let node = start(vec![route(backend.address, 100)]);
    let begun = Instant::now();
    let got = post(node.address(), "", "x");
    assert!(begun.elapsed() >= Duration::from_millis(100));
    assert_eq!((got.status, got.problem().as_str()), (503, "no-leader"));
    assert_eq!(got.field("retry-after").as_deref(), Some("1"));
    assert_eq!(got.json()["outcome"], "not-applied");
    assert_eq!(got.json()["retry_safe"], true);
    assert!(backend.seen().is_empty());
}

#[test]
fn a_lapsed_lease_stops_writes_without_any_message() {
    let backend = Backend::start(|_| ok("done"));
    let node = leading(&backend);
    assert_eq!(post(node.address(), "", "x").status, 200);
    let mut picture = (*node.fake.handle.leadership()).clone();
    picture.lease_until = Some(termgate::clock::now());
    node.fake.leadership.send_replace(Arc::new(picture));
    let got = post(node.address(), "", "y");
    assert_eq!((got.status, got.problem().as_str()), (503, "no-leader"));
    assert_eq!(backend.seen().len(), 1);
}

#[test]
fn a_dead_backend_keeps_only_its_own_route_closed() {
    let alive = Backend::start(|_| ok("done"));
    let closed = TcpListener::bind("127.0.0.1:0").expect("a port");
    let dead = closed.local_addr().expect("an address");
    drop(closed);
    let broken = Route { name: "bills".into(), path_prefix: "/bills".into(), ..route(dead, 200) };
    let node = start(vec![route(alive.address, 200), broken]);
    node.lead(7);
    assert_eq!(post(node.address(), "", "x").status, 200);
    let got = call(node.address(), "POST /bills HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n\r\nx");
    assert_eq!((got.status, got.problem().as_str()), (503, "backend-unavailable"));
    assert_eq!(got.json()["outcome"], "not-applied");
    assert_eq!(node.proxy.gates().snapshot()[1].gate, "barrier");
}

#[test]
fn a_backend_that_refuses_connections_had_no_effect() {
    let closed = TcpListener::bind("127.0.0.1:0").expect("a port");
    let dead = closed.local_addr().expect("an address");
    drop(closed);
    let node = start(vec![Route { fence: FenceMode::Implicit, ..route(dead, 200) }]);
    node.lead(7);
    let got = post(node.address(), "", "x");
    assert_eq!((got.status, got.problem().as_str()), (503, "backend-unavailable"));
    assert_eq!(got.field("termgate-outcome").as_deref(), Some("not-applied"));
}

#[test]
fn a_backend_that_dies_after_reading_a_write_leaves_its_outcome_unknown() {
    let backend = Backend::start(|_| Reply::Hangup);
    let node = leading(&backend);
    let got = post(node.address(), "", "x");
    assert_eq!((got.status, got.problem().as_str()), (502, "backend-bad-response"));
    assert_eq!(got.json()["outcome"], "unknown");
    assert_eq!(got.json()["retry_safe"], false);
    assert_eq!(got.field("retry-after"), None);
    assert_eq!(backend.seen().len(), 1, "never sent again");
}

#[test]
fn a_write_that_is_lost_on_a_reused_connection_is_not_sent_again() {
    let backend = Backend::start(|seen| if seen.nth == 0 { ok("done") } else { Reply::Hangup });
    let node = leading(&backend);
    assert_eq!(post(node.address(), "", "first").status, 200);
    let got = post(node.address(), "", "second");
    assert_eq!(got.json()["outcome"], "unknown");
    assert_eq!(backend.seen().len(), 2);
    assert!(backend.seen()[1].nth == 1, "it went out on the same connection");
}

#[test]
fn an_idle_connection_that_the_backend_closed_costs_nothing() {
    let backend = Backend::start(|_| Reply::Last(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok".to_vec()));
    let node = leading(&backend);
    for round in 1..=20 {
        let got = post(node.address(), "", "x");
        assert_eq!(got.status, 200, "round {round}: {got:?}");
        assert_eq!(backend.seen().len(), round, "exactly once each");
        wait_until("the backend has closed", || backend.closed.load(Ordering::SeqCst) == round);
    }
}

#[test]
fn a_refused_term_is_raised_anew_and_the_write_sent_again() {
    let refusals = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&refusals);
    let backend = Backend::start(move |_| match count.fetch_add(1, Ordering::SeqCst) {
        0 => Reply::Bytes(
            b"HTTP/1.1 412 No\r\ntermgate-fence: rejected; current=0\r\ncontent-length: 0\r\n\r\n".to_vec(),
        ),
        _ => ok("done"),
    });
    let node = start(vec![route(backend.address, 5_000)]);
    node.lead(7);
    assert_eq!(backend.raises.load(Ordering::SeqCst), 1);
    let got = post(node.address(), "", "x");
    assert_eq!((got.status, got.body.as_slice()), (200, b"done".as_slice()));
    assert_eq!(got.field("termgate-fence"), None);
    assert_eq!(backend.raises.load(Ordering::SeqCst), 2, "raised before it was sent again");
    let ids: Vec<String> = backend.seen().iter().map(|s| s.values("termgate-request-id").join(",")).collect();
    assert_eq!(ids.len(), 2);
    assert_eq!(ids[0], ids[1], "stable over re-sends");
}

/// A promoted replica, or a copy that was restored: until its fence is raised, it admits an older
/// leader's writes.
#[test]
fn a_fence_that_is_found_lower_is_raised_again_without_any_request() {
    let backend = Backend::start(|_| ok("done"));
    let node = leading(&backend);
    assert_eq!(backend.raises.load(Ordering::SeqCst), 1);
    *backend.fence.lock().expect("not poisoned") = serde_json::json!({"resource": "orders", "term": 6});
    wait_until("the fence is raised again", || backend.raises.load(Ordering::SeqCst) == 2);
    assert_eq!(backend.fence.lock().expect("not poisoned")["term"], 7);
    wait_until("the gate is open again", || node.gate() == "open");
    assert_eq!(post(node.address(), "", "x").status, 200);
}

#[test]
fn a_backends_own_412_is_just_an_answer() {
    let backend = Backend::start(|_| {
        Reply::Bytes(b"HTTP/1.1 412 No\r\ntermgate-outcome: applied\r\ncontent-length: 2\r\n\r\nno".to_vec())
    });
    let node = leading(&backend);
    let got = post(node.address(), "", "x");
    assert_eq!((got.status, got.body.as_slice()), (412, b"no".as_slice()));
    assert_eq!(got.field("termgate-outcome"), None, "a backend can't speak for us");
    assert_eq!(backend.seen().len(), 1);
}

/// A guard that cannot reach its backend says so, and only it can know that nothing was applied.
#[test]
fn a_verifiers_own_problem_keeps_its_outcome() {
    let told = "HTTP/1.1 503 No\r\ncontent-type: application/problem+json\r\n\
                termgate-outcome: not-applied\r\ncontent-length: 2\r\n\r\n{}";
    for (fence, outcome, applied) in
        [(FenceMode::Enforced, Some("not-applied"), 0), (FenceMode::Drain, None, 1)]
    {
        let backend = Backend::start(|_| Reply::Bytes(told.into()));
        let node = start(vec![Route { fence, ..route(backend.address, 5_000) }]);
        node.lead(7);
        let got = post(node.address(), "", "x");
        assert_eq!((got.status, got.field("termgate-outcome").as_deref()), (503, outcome), "{fence:?}");
        assert_eq!((counted(&node, "not-applied"), counted(&node, "applied")), (1 - applied, applied));
    }
}

#[test]
fn a_gate_that_closes_while_content_arrives_lets_nothing_out() {
    let backend = Backend::start(|_| ok("done"));
    let node = leading(&backend);
    let mut client = Client::connect(node.address());
    client.send("POST / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 1\r\n\r\n");
    // That the content is asked for shows that a leader was found; the content keeps it waiting.
    assert_eq!(client.read_head().expect("a head").lines().next(), Some("HTTP/1.1 100 Continue"));
    node.fake.lose();
    client.send("x");
    let got = client.read().expect("an answer");
    assert_eq!((got.status, got.problem().as_str()), (503, "no-leader"));
    assert!(backend.seen().is_empty());
}

#[test]
fn an_answer_that_breaks_off_never_looks_complete() {
    let cut: &[&[u8]] = &[
        b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n",
    ];
    for bytes in cut {
        let backend = Backend::start(move |_| Reply::Last(bytes.to_vec()));
        let node = leading(&backend);
        let mut client = Client::connect(node.address());
        client.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n");
        assert!(client.read().is_none(), "the connection ends inside the content");
    }
}

#[test]
fn an_answer_with_chunks_and_a_length_ends_with_its_chunks() {
    let backend = Backend::start(|_| {
        let both = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n\
                     8\r\nabcdefgh\r\n0\r\n\r\n";
        Reply::Bytes(both.to_vec())
    });
    let (leader, follower) = forwarding::following(&backend);
    for node in [&leader, &follower] {
        let got = post(node.address(), "", "x");
        assert_eq!((got.body.as_slice(), got.field("content-length")), (b"abcdefgh".as_slice(), None));
    }
}

#[test]
fn an_answer_that_nobody_asked_for_or_can_read_is_not_passed_on() {
    let answers: [&[u8]; 2] = [
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
    ];
    for answer in answers {
        let backend = Backend::start(|_| Reply::Bytes(answer.to_vec()));
        let node = leading(&backend);
        let got = post(node.address(), "", "x");
        assert_eq!((got.status, got.problem().as_str()), (502, "backend-bad-response"));
        assert_eq!(got.json()["outcome"], "unknown", "the backend may have done it");
        let got = get(node.address(), "/", "");
        assert_eq!((got.status, got.field("termgate-outcome")), (502, None), "nothing to apply");
    }
}

#[test]
fn large_content_streams_both_ways() {
    let backend = Backend::start(|seen| {
        let mut answer =
            format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", seen.body.len()).into_bytes();
        answer.extend_from_slice(&seen.body);
        Reply::Bytes(answer)
    });
    let node = leading(&backend);
    let content: Vec<u8> = (0..8 * 1024 * 1024_u32).map(|i| (i / 7) as u8).collect();
    let got = put_while_reading(node.address(), &content);
    assert_eq!(got.status, 200);
    assert!(got.body == content);
}

#[test]
fn content_is_not_asked_for_before_there_is_a_leader() {
    let backend = Backend::start(|_| ok("done"));
    let node = start(vec![route(backend.address, 10_000)]);
    let mut client = Client::connect(node.address());
    client.send("POST / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 200000\r\n\r\n");
    wait_until("the request is held", || node.metrics.held_requests.get() == 1);
    client.socket.set_read_timeout(Some(Duration::from_millis(50))).expect("a timeout");
    assert!(client.read_head().is_none(), "no 100 while nobody leads");
    client.socket.set_read_timeout(Some(surroundings::LIMIT)).expect("a timeout");
    node.fake.lead(3);
    assert_eq!(client.read_head().expect("a head").lines().next(), Some("HTTP/1.1 100 Continue"));
    client.send(vec![b'x'; 200_000]);
    assert_eq!(client.read().expect("an answer").status, 200);
    assert!(backend.seen()[0].values("expect").is_empty());
}

#[test]
fn reads_follow_the_asked_consistency() {
    let backend = Backend::start(|_| ok("data"));
    let node = leading(&backend);
    for consistency in ["linearizable", "lease", "stale"] {
        let got = get(node.address(), "/", &format!("termgate-consistency: {consistency}\r\n"));
        assert_eq!(got.status, 200, "{consistency}");
    }
    node.fake.lose();
    assert_eq!(get(node.address(), "/", "termgate-consistency: stale\r\n").status, 200);
    let last = backend.seen().pop().expect("a request");
    assert!(last.values("termgate-term").is_empty(), "a node without a token stamps none");
    for consistency in ["linearizable", "lease"] {
        let got = get(node.address(), "/", &format!("termgate-consistency: {consistency}\r\n"));
        assert_eq!(got.problem(), "no-leader", "{consistency}");
    }
    assert_eq!(backend.seen().len(), 4);
}

#[test]
fn without_lease_reads_a_lease_read_is_confirmed_by_a_quorum() {
    let backend = Backend::start(|_| ok("data"));
    let members = watch::Sender::new(BTreeMap::new());
    let routes = vec![Route { reads: Consistency::Lease, ..route(backend.address, 5_000) }];
    let strict = start_with(1, routes.clone(), members.subscribe(), |config| config.lease_reads = false);
    let follower = start_node(2, routes, members.subscribe(), None);
    forwarding::meet(&members, &[&strict, &follower]);
    strict.lead(7);
    follower.fake.follow(1, 7);
    let confirmed = || strict.fake.reads.load(Ordering::SeqCst);
    assert_eq!((get(strict.address(), "/", "").status, confirmed()), (200, 1));
    assert_eq!((get(follower.address(), "/", "").status, confirmed()), (200, 2), "the leader's word counts");
    follower.lead(8);
    assert_eq!(get(follower.address(), "/", "").status, 200);
    assert_eq!(follower.fake.reads.load(Ordering::SeqCst), 0, "a lease needs no quorum where it is trusted");
}

#[test]
fn a_read_whose_leadership_moved_is_not_answered_from_the_past() {
    let moved = Arc::new(AtomicBool::new(false));
    let meeting = Arc::new(Barrier::new(2));
    let (seen_moved, met) = (Arc::clone(&moved), Arc::clone(&meeting));
    let backend = Backend::start(move |_| {
        if !seen_moved.load(Ordering::SeqCst) {
            met.wait();
            met.wait();
        }
        ok("data")
    });
    let node = leading(&backend);
    let address = node.address();
    let reader = thread::spawn(move || get(address, "/", "termgate-consistency: lease\r\n"));
    meeting.wait();
    node.fake.lose();
    moved.store(true, Ordering::SeqCst);
    meeting.wait();
    let got = reader.join().expect("an answer");
    assert_eq!((got.status, got.problem().as_str()), (503, "read-not-linearizable"));
}

#[test]
fn ambiguous_requests_are_refused_and_the_connection_closed() {
    let backend = Backend::start(|_| ok("done"));
    let node = leading(&backend);
    let cases = [
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n", 400),
        ("GET a HTTP/1.1\r\nhost: a\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
        ("GET / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n\r\nx", 400),
        ("POST / HTTP/1.1\r\nhost: a\r\nexpect: magic\r\ncontent-length: 1\r\n\r\nx", 417),
        ("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 99999999\r\n\r\n", 413),
        ("GET / HTTP/1.1\r\nhost: a\r\nvia: 1.1 termgate-orders-3\r\n\r\n", 508),
        ("GET / HTTP/1.1\r\nhost: a\r\ntermgate-term: x\r\n\r\n", 400),
        ("TRACE / HTTP/1.1\r\nhost: a\r\n\r\n", 501),
    ];
    for (bytes, status) in cases {
        let mut client = Client::connect(node.address());
        client.send(bytes);
        let got = client.read().expect("an answer");
        assert_eq!(got.status, status, "{bytes:?}");
        assert_eq!(got.json()["outcome"], "not-applied", "{bytes:?}");
        assert!(client.read().is_none(), "closed after {bytes:?}");
    }
    assert!(backend.seen().is_empty());
}

/// hyper would answer these itself, without a word about what is wrong.
#[test]
fn heads_that_are_too_large_are_answered_with_a_problem() {
    let backend = Backend::start(|_| ok("done"));
    let node = leading(&backend);
    let many: String = (0..110).map(|i| format!("x-{i}: 1\r\n")).collect();
    let long = format!("x-long: {}\r\n", "a".repeat(45_000));
    let cases = [
        (format!("GET / HTTP/1.1\r\nhost: a\r\n{many}\r\n"), 431, "headers-too-large"),
        (format!("GET / HTTP/1.1\r\nhost: a\r\n{long}\r\n"), 431, "headers-too-large"),
        (format!("GET /{} HTTP/1.1\r\nhost: a\r\n\r\n", "a".repeat(45_000)), 414, "uri-too-long"),
    ];
    for (bytes, status, problem) in cases {
        let got = call(node.address(), bytes);
        assert_eq!((got.status, got.problem().as_str()), (status, problem));
        assert_eq!(got.json()["outcome"], "not-applied");
    }
    assert!(backend.seen().is_empty());
}

#[test]
fn a_client_that_has_closed_its_half_still_gets_its_answer() {
    let release = Arc::new(AtomicBool::new(false));
    let held = Arc::clone(&release);
    let backend = Backend::start(move |_| {
        wait_until("the client has closed its half", || held.load(Ordering::SeqCst));
        ok("done")
    });
    let (leader, follower) = forwarding::following(&backend);
    for (number, node) in [&leader, &follower].into_iter().enumerate() {
        release.store(false, Ordering::SeqCst);
        let mut client = Client::connect(node.address());
        client.send("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n\r\nx");
        wait_until("the backend has it", || backend.seen().len() == number + 1);
        client.socket.shutdown(std::net::Shutdown::Write).expect("closes");
        // A node that took it for the end would cut the backend's connection meanwhile.
        assert_eq!(get(node.address(), "/.well-known/termgate/x", "").status, 403);
        release.store(true, Ordering::SeqCst);
        assert_eq!(client.read().expect("an answer").body, b"done");
    }
}

#[test]
fn the_raise_is_recorded_and_shown() {
    let backend = Backend::start(|_| ok("done"));
    let node = leading(&backend);
    wait_until("the raise is recorded", || node.fake.recorded.lock().expect("not poisoned").len() == 1);
    let status = node.proxy.gates().snapshot();
    assert_eq!(status[0].name, "orders");
    assert_eq!(status[0].fenced_term.map(|t| t.0), Some(7));
    assert!(node.metrics.render().contains("termgate_gate_open{route=\"orders\"} 1"));
}

#[test]
fn a_draining_node_admits_nothing_more() {
    let backend = Backend::start(|_| ok("done"));
    let node = leading(&backend);
    node.proxy.drain();
    assert_eq!(node.gate(), "draining");
    assert_eq!(post(node.address(), "", "x").status, 503);
    assert!(backend.seen().is_empty());
    node.proxy.shutdown();
}

#[test]
fn a_write_that_is_cut_off_after_leadership_was_lost_has_an_unknown_outcome() {
    let meeting = Arc::new(Barrier::new(2));
    let met = Arc::clone(&meeting);
    let backend = Backend::start(move |_| {
        met.wait();
        met.wait();
        Reply::Hangup
    });
    let node = leading(&backend);
    let address = node.address();
    let writer = thread::spawn(move || post(address, "", "x"));
    meeting.wait();
    node.fake.lose();
    meeting.wait();
    let got = writer.join().expect("an answer");
    assert_eq!((got.status, got.problem().as_str()), (500, "outcome-unknown"));
    assert_eq!(got.json()["outcome"], "unknown");
    assert_eq!(backend.seen().len(), 1);
}

#[test]
fn heads_and_empty_answers_end_where_they_should() {
    let backend = Backend::start(|seen| match seen.first_line().split(' ').next() {
        Some("HEAD") => Reply::Bytes(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n".to_vec()),
        _ => Reply::Bytes(b"HTTP/1.1 204 No Content\r\n\r\n".to_vec()),
    });
    let node = leading(&backend);
    let mut client = Client::connect(node.address());
    for _ in 0..3 {
        client.send("HEAD / HTTP/1.1\r\nhost: a\r\n\r\n");
        let head = client.read_head().expect("a head");
        assert!(head.to_lowercase().contains("content-length: 1000"), "{head}");
        client.send("DELETE / HTTP/1.1\r\nhost: a\r\n\r\n");
        assert_eq!(client.read().expect("an answer").status, 204);
    }
    assert!(backend.seen().iter().skip(1).all(|seen| seen.nth > 0), "one backend connection for all");
}

#[test]
fn http2_without_tls_is_understood_and_its_crumbs_are_joined() {
    let backend = Backend::start(|seen| ok(seen.values("cookie").join("|").as_str()));
    let node = leading(&backend);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let (status, body) = runtime.block_on(async {
        use http_body_util::{BodyExt, Full};
        let socket = tokio::net::TcpStream::connect(node.address()).await.expect("connects");
        let executor = hyper_util::rt::TokioExecutor::new();
        let io = hyper_util::rt::TokioIo::new(socket);
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(executor, io).await.expect("speaks HTTP/2");
        tokio::spawn(connection);
        let request = http::Request::post(format!("http://{}/x", node.address()))
            .header("cookie", "a=1")
            .header("cookie", "b=2")
            .header("termgate_term", "66")
            .body(Full::new(bytes::Bytes::from("hello")))
            .expect("a request");
        let answer = sender.send_request(request).await.expect("an answer");
        (answer.status(), answer.into_body().collect().await.expect("content").to_bytes())
    });
    assert_eq!((status.as_u16(), body.as_ref()), (200, b"a=1; b=2".as_slice()));
    assert_eq!(backend.seen()[0].body, b"hello");
    assert_eq!(backend.seen()[0].values("termgate-term"), ["7"]);
}

#[test]
fn without_a_verifier_a_write_is_cut_off_when_the_lease_ends() {
    let release = Arc::new(AtomicBool::new(false));
    let held = Arc::clone(&release);
    let backend = Backend::start(move |_| {
        wait_until("the test is done", || held.load(Ordering::SeqCst));
        ok("late")
    });
    let node = start(vec![Route { fence: FenceMode::Drain, ..route(backend.address, 5_000) }]);
    let begun = Instant::now();
    node.lead(7);
    assert!(begun.elapsed() >= QUIET, "the old leader's writes have landed");
    assert_eq!(backend.raises.load(Ordering::SeqCst), 0, "nothing to raise");
    let address = node.address();
    let writer = thread::spawn(move || post(address, "", "x"));
    wait_until("the backend has it", || backend.seen().len() == 1);
    node.fake.lose();
    let got = writer.join().expect("an answer");
    release.store(true, Ordering::SeqCst);
    assert_eq!((got.status, got.problem().as_str()), (500, "outcome-unknown"));
}
