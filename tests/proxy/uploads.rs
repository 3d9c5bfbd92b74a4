//! Content that is cut off, or does not keep to what was declared, is never committed as shorter
//! content.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::thread;

use bytes::Bytes;
use h2::client::SendRequest;
use h2::{Reason, SendStream};
use http::Request;
use termgate::hop::client::{HopClient, HopConfig};
use termgate::hop::error::HopError;
use termgate::hop::message::{Answer, Content, Fields, RequestHead, Service};
use termgate::ids::NodeId;
use termgate::metrics::Metrics;
use termgate::proxy::limits;
use tokio::sync::watch;

use crate::forwarding::following;
use crate::surroundings::{Backend, Client, Got, LIMIT, call, ok, post, wait_until};
use crate::{Node, leading, pki, route, start_node};

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async { tokio::time::timeout(LIMIT, future).await.expect("in time") })
}

/// An HTTP/2 connection, without a layer that would make good what a test breaks.
struct Http2 {
    sender: SendRequest<Bytes>,
    pings: h2::PingPong,
}

impl Http2 {
    async fn connect(address: SocketAddr) -> Self {
        let socket = tokio::net::TcpStream::connect(address).await.expect("connects");
        let (sender, mut connection) = h2::client::handshake(socket).await.expect("speaks HTTP/2");
        let pings = connection.ping_pong().expect("the first to ask");
        tokio::spawn(connection);
        Self { sender: sender.ready().await.expect("ready"), pings }
    }

    /// Sends a head, and no end.
    fn begin(&mut self, length: Option<usize>) -> SendStream<Bytes> {
        let request = Request::post("http://shop/orders");
        let request = match length {
            Some(length) => request.header("content-length", length),
            None => request,
        };
        self.sender.send_request(request.body(()).expect("a request"), false).expect("sends").1
    }

    /// Waits until the other side has read what was sent so far.
    async fn settle(&mut self) {
        self.pings.ping(h2::Ping::opaque()).await.expect("a pong");
    }
}

/// Sends a part of an upload, waits until the backend has its head, then cancels it as proxies do.
fn cancel_upload(node: &Node, backend: &Backend, length: Option<usize>) {
    let before = backend.begun.load(Ordering::SeqCst);
    block_on(async {
        let mut client = Http2::connect(node.address()).await;
        let mut upload = client.begin(length);
        upload.send_data(Bytes::from(vec![b'x'; 30_000]), false).expect("sends");
        client.settle().await;
        wait_until("the backend has the head", || backend.begun.load(Ordering::SeqCst) > before);
        upload.send_reset(Reason::NO_ERROR);
        client.settle().await;
    });
}

#[test]
fn an_http2_head_that_is_too_large_is_answered_with_a_problem() {
    let backend = Backend::start(|_| ok("done"));
    let node = leading(&backend);
    let (status, kind) = block_on(async {
        let mut client = Http2::connect(node.address()).await;
        let request = Request::get("http://shop/").header("x-long", "a".repeat(45_000)).body(());
        let (answer, _) = client.sender.send_request(request.expect("a request"), true).expect("sends");
        let (head, _) = answer.await.expect("an answer").into_parts();
        (head.status, head.headers["content-type"].clone())
    });
    assert_eq!((status.as_u16(), kind), (431, http::HeaderValue::from_static("application/problem+json")));
}

fn cancelled_uploads_are_not_committed(node: &Node, backend: &Backend) {
    for length in [None, Some(100_000)] {
        let (before, closed) = (backend.seen().len(), backend.closed.load(Ordering::SeqCst));
        cancel_upload(node, backend, length);
        wait_until("it ended, one way or the other", || {
            backend.seen().len() > before || backend.closed.load(Ordering::SeqCst) > closed
        });
        assert_eq!(backend.seen().len(), before, "a part was committed as the whole, declared: {length:?}");
        let got = post(node.address(), "", "whole");
        assert_eq!((got.status, got.body.as_slice()), (200, b"5".as_slice()), "and the next one passes");
    }
}

#[test]
fn a_cancelled_http2_upload_is_not_committed_at_the_leader() {
    let backend = Backend::start(|seen| ok(&seen.body.len().to_string()));
    let node = leading(&backend);
    cancelled_uploads_are_not_committed(&node, &backend);
}

#[test]
fn a_cancelled_http2_upload_is_not_committed_at_a_follower() {
    let backend = Backend::start(|seen| ok(&seen.body.len().to_string()));
    let (_leader, follower) = following(&backend);
    cancelled_uploads_are_not_committed(&follower, &backend);
}

#[test]
fn a_backend_connection_is_used_again_after_a_long_upload() {
    let backend = Backend::start(|seen| ok(&seen.body.len().to_string()));
    let (leader, follower) = following(&backend);
    for node in [&leader, &follower] {
        for _ in 0..3 {
            assert_eq!(post(node.address(), "", &"x".repeat(100_000)).body, b"100000");
        }
    }
    let order: Vec<usize> = backend.seen().iter().map(|seen| seen.nth).collect();
    assert_eq!(order, [0, 1, 2, 3, 4, 5], "one connection for all");
}

#[test]
fn content_of_no_bytes_keeps_its_length() {
    let backend = Backend::start(|_| ok("done"));
    let (leader, follower) = following(&backend);
    for node in [&leader, &follower] {
        for method in ["POST", "PUT", "PATCH"] {
            let head = format!("{method} / HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n");
            assert_eq!(call(node.address(), head).status, 200);
            assert_eq!(backend.seen().pop().expect("a request").values("content-length"), ["0"], "{method}");
        }
        assert_eq!(call(node.address(), "DELETE / HTTP/1.1\r\nhost: a\r\n\r\n").status, 200);
        assert!(backend.seen().pop().expect("a request").values("content-length").is_empty());
    }
}

/// Chunked content of one byte more than is allowed; answers with what the node says to it.
fn upload_too_much(node: &Node) -> Got {
    let mut client = Client::connect(node.address());
    client.send("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n");
    let piece = vec![b'x'; 1024 * 1024];
    let whole = usize::try_from(limits::BODY_BYTES).expect("fits") / piece.len();
    for _ in 0..whole {
        client.send(format!("{:x}\r\n", piece.len()));
        client.send(&piece);
        client.send("\r\n");
    }
    client.send("1\r\nx\r\n");
    client.read().expect("an answer")
}

#[test]
fn too_much_content_is_called_so_at_the_leader_and_behind_a_follower() {
    let backend = Backend::start(|_| ok("done"));
    let (leader, follower) = following(&backend);
    for node in [&leader, &follower] {
        let got = upload_too_much(node);
        assert_eq!((got.status, got.problem().as_str()), (413, "content-too-large"));
        assert_eq!(got.json()["outcome"], "unknown", "most of it was sent");
    }
    assert!(backend.seen().is_empty(), "it never came to its end");
}

#[test]
fn a_client_that_sends_no_content_is_told_so_at_the_leader_and_behind_a_follower() {
    let backend = Backend::start(|_| ok("done"));
    let (leader, follower) = following(&backend);
    let silent = |node: &Node| {
        let mut client = Client::connect(node.address());
        client.socket.set_read_timeout(Some(2 * LIMIT)).expect("a timeout");
        client.send("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 100000\r\n\r\n");
        client.read().expect("an answer")
    };
    thread::scope(|scope| {
        for waiting in [scope.spawn(|| silent(&leader)), scope.spawn(|| silent(&follower))] {
            let got = waiting.join().expect("an answer");
            assert_eq!((got.status, got.problem().as_str()), (408, "client-timeout"), "{got:?}");
            assert_eq!(got.json()["outcome"], "not-applied");
        }
    });
    assert!(backend.seen().is_empty());
}

/// Node 2, as a peer that keeps to no rule.
async fn peer(address: SocketAddr) -> HopClient {
    let config = HopConfig {
        node: NodeId(2),
        cluster: "orders".into(),
        members: BTreeMap::from([(NodeId(1), address.to_string())]),
        credentials: pki().node(2),
        metrics: Metrics::new(),
    };
    let client = HopClient::start(config).expect("starts");
    crate::pki::until("a connection", || client.is_connected(NodeId(1))).await;
    client
}

fn hop_head(content: Content) -> RequestHead {
    RequestHead {
        service: Service::Proxy,
        request_id: "2-x-1".into(),
        origin: NodeId(2),
        method: "POST".into(),
        target: "/orders".into(),
        fields: vec![("host".into(), b"shop".to_vec())],
        content,
        consistency: None,
        client_term: None,
    }
}

/// A leader (1) that knows a node 2.
fn leader_with_a_peer(backend: &Backend) -> Node {
    let members = watch::Sender::new(BTreeMap::new());
    let leader = start_node(1, vec![route(backend.address, 300)], members.subscribe(), None);
    members.send_replace(BTreeMap::from([(NodeId(2), "127.0.0.1:9".to_owned())]));
    leader.lead(7);
    leader
}

/// H-5.
#[test]
fn a_peer_whose_content_is_not_as_long_as_declared_spoils_no_connection() {
    let backend = Backend::start(|seen| ok(&seen.body.len().to_string()));
    let leader = leader_with_a_peer(&backend);
    block_on(async {
        let hop = peer(leader.proxy.hop_address()).await;
        for (declared, sent) in [(100_000, 0), (100, 0), (100, 99), (100, 101)] {
            let content = Content::Withheld { length: Some(declared) };
            let mut exchange = hop.open(NodeId(1), &hop_head(content), None).await.expect("opens");
            assert_eq!(exchange.answers.next().await, Ok(Answer::Go));
            let mut body = exchange.body.expect("content to send");
            body.chunk(vec![b'x'; sent].into()).await.expect("sends");
            body.finish(&Fields::new()).await.expect("ends");
            let answer = exchange.answers.next().await;
            assert_eq!(answer, Err(HopError::NotStarted), "{sent} bytes for {declared}");
        }
    });
    assert_eq!(post(leader.address(), "", "hello").body, b"5");
    assert_eq!(backend.seen().len(), 1);
    assert_eq!(backend.begun.load(Ordering::SeqCst), 1, "the write that was whole");
}

#[test]
fn a_peer_cannot_pass_on_a_raise_either() {
    let backend = Backend::start(|_| ok("done"));
    let leader = leader_with_a_peer(&backend);
    block_on(async {
        let hop = peer(leader.proxy.hop_address()).await;
        let head = RequestHead {
            target: "/.well-known/termgate/fence".into(),
            method: "PUT".into(),
            ..hop_head(Content::Eager { length: Some(2) })
        };
        let mut exchange = hop.open(NodeId(1), &head, Some(Bytes::from_static(b"{}"))).await.expect("opens");
        let Ok(Answer::Head(head)) = exchange.answers.next().await else { panic!("no head") };
        assert_eq!(head.status, 403);
    });
    assert_eq!(backend.raises.load(Ordering::SeqCst), 1, "only the leader's own");
    assert_eq!(backend.begun.load(Ordering::SeqCst), 0);
}
