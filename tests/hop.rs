//! Forwarded requests over real sockets: what arrives, and what a failure may claim
//! (`proto-spec/hop.md`).

mod pki;

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::BodyExt;
use pki::{Leaf, Pki, counted, hold_handshakes, hostile, until, within};
use termgate::hop::body::{Piece, Reset};
use termgate::hop::client::{HopClient, HopConfig};
use termgate::hop::codec;
use termgate::hop::error::HopError;
use termgate::hop::message::{Answer, Content, Fields, Refusal, RequestHead, ResponseHead, Service};
use termgate::hop::server::{HopServer, Incoming};
use termgate::ids::{NodeId, Term};
use termgate::metrics::Metrics;
use termgate::transport::credentials::Credentials;
use tokio::sync::{Notify, mpsc};

const ALPN: &[u8] = b"termgate-hop/1";
const NOWHERE: &str = "127.0.0.1:9";

fn config(id: u64, credentials: Credentials, members: &[(u64, &str)]) -> HopConfig {
    HopConfig {
        node: NodeId(id),
        cluster: "orders".to_owned(),
        members: member_map(members),
        credentials,
        metrics: Metrics::new(),
    }
}

fn member_map(members: &[(u64, &str)]) -> BTreeMap<NodeId, String> {
    members.iter().map(|(id, address)| (NodeId(*id), (*address).to_owned())).collect()
}

/// A listener of node 2 that knows node 1, with its counters.
fn serve<H, F>(pki: &Pki, handler: H) -> (Arc<HopServer>, Metrics)
where
    H: Fn(Incoming) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let config = config(2, pki.node(2), &[(1, NOWHERE)]);
    let metrics = config.metrics.clone();
    let client = HopClient::start(config.clone()).unwrap();
    let server = Arc::new(HopServer::bind("127.0.0.1:0".parse().unwrap(), config, &client).unwrap());
    let serving = Arc::clone(&server);
    tokio::spawn(async move { serving.serve(handler).await });
    (server, metrics)
}

/// Node 1's client, connected to node 2 at `address`.
async fn client(pki: &Pki, address: SocketAddr) -> HopClient {
    let client = HopClient::start(config(1, pki.node(1), &[(2, &address.to_string())])).unwrap();
    until("a connection", || client.is_connected(NodeId(2))).await;
    client
}

async fn served<H, F>(pki: &Pki, handler: H) -> (HopClient, Arc<HopServer>)
where
    H: Fn(Incoming) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let (server, _) = serve(pki, handler);
    (client(pki, server.local_address().unwrap()).await, server)
}

fn request(content: Content) -> RequestHead {
    RequestHead {
        service: Service::Proxy,
        request_id: "r-1".to_owned(),
        origin: NodeId(1),
        method: "POST".to_owned(),
        target: "/ledger?x=1".to_owned(),
        fields: vec![("content-type".to_owned(), b"text/plain".to_vec())],
        content,
        consistency: None,
        client_term: Some(Term(4)),
    }
}

fn eager() -> RequestHead {
    request(Content::Eager { length: None })
}

fn ok() -> ResponseHead {
    ResponseHead {
        status: 201,
        fields: vec![("etag".to_owned(), b"\"1\"".to_vec())],
        term: Term(5),
        node: NodeId(2),
    }
}

fn trailers(value: &str) -> Fields {
    vec![("checksum".to_owned(), value.as_bytes().to_vec())]
}

/// Sends every piece of the request back, trailers too.
async fn echo(incoming: Incoming) {
    let mut body = incoming.body;
    let Ok(mut out) = incoming.reply.head(ok()).await else { return };
    loop {
        match body.next().await {
            Ok(Piece::Data(data)) => {
                if out.chunk(data).await.is_err() {
                    return;
                }
            }
            Ok(Piece::End(trailers)) => return drop(out.finish(&trailers).await),
            Err(_) => return,
        }
    }
}

/// H-6, H-10.
#[tokio::test]
async fn streams_bodies_and_trailers_in_both_directions() {
    let pki = Pki::new();
    let (client, _server) = served(&pki, echo).await;
    let exchange = client.open(NodeId(2), &eager(), Some(Bytes::from_static(b"first"))).await.unwrap();
    let mut answers = exchange.answers;
    let Answer::Head(head) = within("a head", answers.next()).await.unwrap() else { panic!("no head") };
    assert_eq!(head, ok());
    let mut body = answers.into_body();
    assert_eq!(body.next().await.unwrap(), Piece::Data(Bytes::from_static(b"first")));
    // The request still runs while its answer does.
    let mut send = exchange.body.unwrap();
    let big = Bytes::from(vec![7; 3 * 1024 * 1024]);
    let sending = tokio::spawn({
        let big = big.clone();
        async move {
            send.chunk(big).await.unwrap();
            send.finish(&trailers("ok")).await.unwrap();
        }
    });
    let rest = within("the rest", body.collect()).await.unwrap();
    sending.await.unwrap();
    assert_eq!(rest.trailers().unwrap().get("checksum").unwrap(), "ok");
    assert!(rest.to_bytes() == big);
}

/// H-3.
#[tokio::test]
async fn a_withheld_body_waits_for_go() {
    let pki = Pki::new();
    let (client, _server) = served(&pki, |mut incoming: Incoming| async move {
        assert_eq!(incoming.head.content, Content::Withheld { length: Some(4) });
        incoming.reply.go().await.unwrap();
        let body = incoming.body.collect().await.unwrap().to_bytes();
        incoming.reply.complete(ok(), body).await.unwrap();
    })
    .await;
    let head = request(Content::Withheld { length: Some(4) });
    let mut exchange = client.open(NodeId(2), &head, None).await.unwrap();
    assert_eq!(within("go", exchange.answers.next()).await.unwrap(), Answer::Go);
    let mut body = exchange.body.unwrap();
    body.chunk(Bytes::from_static(b"data")).await.unwrap();
    body.finish(&Fields::new()).await.unwrap();
    assert_eq!(within("a head", exchange.answers.next()).await.unwrap(), Answer::Head(ok()));
    assert_eq!(exchange.answers.into_body().collect().await.unwrap().to_bytes(), "data");
}

#[tokio::test]
async fn a_request_without_content_carries_its_whole_head() {
    let pki = Pki::new();
    let (client, _server) = served(&pki, |incoming: Incoming| async move {
        assert_eq!(incoming.peer, NodeId(1));
        assert_eq!(incoming.head, request(Content::Empty));
        assert_eq!(incoming.body.collect().await.unwrap().to_bytes(), "");
        incoming.reply.complete(ok(), Bytes::new()).await.unwrap();
    })
    .await;
    let mut exchange = client.open(NodeId(2), &request(Content::Empty), None).await.unwrap();
    assert!(exchange.body.is_none());
    assert_eq!(within("a head", exchange.answers.next()).await.unwrap(), Answer::Head(ok()));
    assert_eq!(exchange.answers.into_body().collect().await.unwrap().to_bytes(), "");
}

#[tokio::test]
async fn a_thousand_exchanges_at_once_on_one_connection() {
    let pki = Pki::new();
    let (client, _server) = served(&pki, echo).await;
    let exchanges = (0..1000_u32).map(|i| {
        let client = client.clone();
        tokio::spawn(async move {
            let data = Bytes::from(i.to_string());
            let mut exchange = client.open(NodeId(2), &eager(), Some(data.clone())).await.unwrap();
            exchange.body.take().unwrap().finish(&Fields::new()).await.unwrap();
            assert!(matches!(exchange.answers.next().await.unwrap(), Answer::Head(_)));
            assert_eq!(exchange.answers.into_body().collect().await.unwrap().to_bytes(), data);
        })
    });
    let all: Vec<_> = exchanges.collect();
    within("all exchanges", async {
        for exchange in all {
            exchange.await.unwrap();
        }
    })
    .await;
}

#[tokio::test]
async fn a_slow_reader_holds_the_sender_back() {
    let pki = Pki::new();
    let (client, _server) = served(&pki, |incoming: Incoming| async move {
        std::future::pending::<()>().await;
        drop(incoming);
    })
    .await;
    let exchange = client.open(NodeId(2), &eager(), None).await.unwrap();
    let mut body = exchange.body.unwrap();
    let mut taken = 0;
    while tokio::time::timeout(Duration::from_millis(500), body.chunk(Bytes::from(vec![0; 16 * 1024])))
        .await
        .is_ok_and(|sent| sent.is_ok())
    {
        taken += 16 * 1024;
        assert!(taken <= 512 * 1024, "nobody reads, and {taken} bytes were taken");
    }
    assert!(taken >= 128 * 1024);
}

/// The other side's client may have stopped reading, and nobody else would notice.
#[tokio::test]
async fn a_reader_that_reads_nothing_is_given_up() {
    let pki = Pki::new();
    let (client, _server) = served(&pki, |incoming: Incoming| async move {
        std::future::pending::<()>().await;
        drop(incoming);
    })
    .await;
    let mut body = client.open(NodeId(2), &eager(), None).await.unwrap().body.unwrap();
    tokio::time::pause();
    let all = async { while body.chunk(Bytes::from(vec![0; 64 * 1024])).await.is_ok() {} };
    tokio::time::timeout(Duration::from_secs(60), all).await.expect("an error, in time");
    assert!(client.is_connected(NodeId(2)), "only the stream is given up");
}

// ---- what a failure may claim -----------------------------------------------------------------

/// H-4.
#[tokio::test]
async fn a_refusal_is_an_answer() {
    let pki = Pki::new();
    let (client, _server) = served(&pki, move |incoming: Incoming| async move {
        incoming.reply.refuse(Refusal::NotLeader).await.unwrap();
    })
    .await;
    let mut exchange = client.open(NodeId(2), &eager(), None).await.unwrap();
    assert_eq!(
        within("a refusal", exchange.answers.next()).await.unwrap(),
        Answer::Refused(Refusal::NotLeader)
    );
}

#[tokio::test]
async fn not_sent_when_there_is_no_connection() {
    let pki = Pki::new();
    let client = HopClient::start(config(1, pki.node(1), &[(2, NOWHERE)])).unwrap();
    for to in [2, 3] {
        let error = client.open(NodeId(to), &eager(), None).await.unwrap_err();
        assert!(matches!(error, HopError::NotSent(_)) && error.nothing_applied(), "{error}");
    }
}

#[tokio::test]
async fn not_sent_when_the_head_is_too_long_to_leave() {
    let pki = Pki::new();
    let (client, _server) = served(&pki, echo).await;
    let mut head = eager();
    head.fields.push(("cookie".to_owned(), vec![b'x'; codec::HEAD_MAX_BYTES]));
    assert!(matches!(client.open(NodeId(2), &head, None).await, Err(HopError::NotSent(_))));
}

/// H-8: The dialling side is done with its handshake before the other side has judged it; a request
/// that slips out in between was read by nobody.
#[tokio::test]
async fn not_sent_when_the_peer_refuses_the_connection_at_the_door() {
    let pki = Pki::new();
    let (server, metrics) = serve(&pki, echo);
    let address = server.local_address().unwrap();
    let stranger = config(7, pki.node(7), &[(2, &address.to_string())]);
    let by_peer = stranger.metrics.clone();
    let client = HopClient::start(stranger).unwrap();
    let head = RequestHead { origin: NodeId(7), ..eager() };
    until("a refusal", || counted(&by_peer, "connection-by-peer", "not-a-member") > 0).await;
    for _ in 0..3 {
        let error = match client.open(NodeId(2), &head, None).await {
            Ok(mut exchange) => within("an error", exchange.answers.next()).await.unwrap_err(),
            Err(e) => e,
        };
        assert!(matches!(error, HopError::NotSent(_)), "{error}");
    }
    assert!(counted(&metrics, "connection", "not-a-member") > 0);
}

/// H-8.
#[tokio::test]
async fn lost_when_the_handler_ends_without_an_answer() {
    let pki = Pki::new();
    let (client, _server) = served(&pki, |incoming: Incoming| async move { drop(incoming) }).await;
    let mut exchange = client.open(NodeId(2), &eager(), None).await.unwrap();
    let error = within("an error", exchange.answers.next()).await.unwrap_err();
    assert!(matches!(error, HopError::Lost(_)) && !error.nothing_applied(), "{error}");
}

/// H-7, H-8.
#[tokio::test]
async fn not_started_when_the_handler_gives_the_request_back() {
    let pki = Pki::new();
    let (client, _server) =
        served(&pki, |incoming: Incoming| async move { incoming.reply.not_started() }).await;
    let mut exchange = client.open(NodeId(2), &eager(), None).await.unwrap();
    let error = within("an error", exchange.answers.next()).await.unwrap_err();
    assert!(error == HopError::NotStarted && error.nothing_applied(), "{error}");
}

#[tokio::test]
async fn lost_when_the_connection_ends_and_the_next_one_works() {
    let pki = Pki::new();
    let (client, server) = served(&pki, |incoming: Incoming| async move {
        if incoming.head.request_id == "hang" {
            std::future::pending::<()>().await;
        }
        let _ = incoming.reply.complete(ok(), Bytes::new()).await;
    })
    .await;
    let hang = RequestHead { request_id: "hang".to_owned(), ..eager() };
    let mut exchange = client.open(NodeId(2), &hang, None).await.unwrap();
    let start = Instant::now();
    client.set_members(member_map(&[]));
    let error = within("an error", exchange.answers.next()).await.unwrap_err();
    assert!(matches!(error, HopError::Lost(_)), "{error}");
    assert!(start.elapsed() < Duration::from_secs(1));
    client.set_members(member_map(&[(2, &server.local_address().unwrap().to_string())]));
    until("a connection", || client.is_connected(NodeId(2))).await;
    let mut next = client.open(NodeId(2), &request(Content::Empty), None).await.unwrap();
    assert_eq!(within("a head", next.answers.next()).await.unwrap(), Answer::Head(ok()));
}

#[test]
fn lost_when_the_leader_dies_in_silence() {
    let pki = Pki::new();
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (here, there) = (runtime(), runtime());
    let (heard, mut hears) = mpsc::unbounded_channel();
    let hang = move |incoming: Incoming| {
        let heard = heard.clone();
        async move {
            heard.send(()).unwrap();
            std::future::pending::<()>().await;
            drop(incoming);
        }
    };
    let (server, _) = there.block_on(async { serve(&pki, hang) });
    let address = server.local_address().unwrap();
    let dying = std::thread::spawn(move || {
        there.block_on(hears.recv());
        drop(there);
    });
    here.block_on(async {
        let client = client(&pki, address).await;
        let mut exchange = client.open(NodeId(2), &eager(), None).await.unwrap();
        let start = Instant::now();
        let error = within("an error", exchange.answers.next()).await.unwrap_err();
        assert!(matches!(error, HopError::Lost(_)), "{error}");
        assert!(start.elapsed() < Duration::from_secs(4), "a dead leader was noticed late");
        until("a closed link", || !client.is_connected(NodeId(2))).await;
        let next = client.open(NodeId(2), &eager(), None).await.unwrap_err();
        assert!(matches!(next, HopError::NotSent(_)), "{next}");
    });
    dying.join().unwrap();
}

/// H-5.
#[tokio::test]
async fn a_body_that_is_cut_off_is_an_error_and_no_end() {
    let pki = Pki::new();
    let (client, _server) = served(&pki, |incoming: Incoming| async move {
        let mut out = incoming.reply.head(ok()).await.unwrap();
        out.chunk(Bytes::from_static(b"half")).await.unwrap();
        if incoming.head.request_id == "abort" {
            out.abort(Reset::MaybeApplied);
        }
    })
    .await;
    for id in ["abort", "drop"] {
        let head = RequestHead { request_id: id.to_owned(), ..eager() };
        let mut exchange = client.open(NodeId(2), &head, None).await.unwrap();
        assert!(matches!(exchange.answers.next().await, Ok(Answer::Head(_)) | Err(HopError::Lost(_))));
        let error = within("an error", exchange.answers.into_body().collect()).await.unwrap_err();
        assert!(matches!(error, HopError::Truncated(_)), "{error}");
    }
}

#[tokio::test]
async fn a_cancelled_request_is_an_error_at_the_handler_and_stops_its_answer() {
    let pki = Pki::new();
    let (heard, mut hears) = mpsc::unbounded_channel();
    let (client, _server) = served(&pki, move |mut incoming: Incoming| {
        let heard = heard.clone();
        async move {
            heard.send(None).unwrap();
            let error = incoming.body.next().await.unwrap_err();
            let stopped = match incoming.reply.head(ok()).await {
                Err(stopped) => stopped,
                Ok(mut answer) => loop {
                    if let Err(stopped) = answer.chunk(Bytes::from_static(&[0; 4096])).await {
                        break stopped;
                    }
                },
            };
            heard.send(Some((error, stopped))).unwrap();
        }
    })
    .await;
    let exchange = client.open(NodeId(2), &eager(), None).await.unwrap();
    assert_eq!(within("a start", hears.recv()).await, Some(None));
    drop(exchange);
    let errors = within("the handler's word", hears.recv()).await.unwrap();
    assert!(matches!(errors, Some((HopError::Truncated(_), HopError::Stopped))), "{errors:?}");
}

#[tokio::test]
async fn a_write_that_was_given_up_halfway_cannot_go_on() {
    let pki = Pki::new();
    let (client, _server) = served(&pki, |incoming: Incoming| async move {
        std::future::pending::<()>().await;
        drop(incoming);
    })
    .await;
    let mut body = client.open(NodeId(2), &eager(), None).await.unwrap().body.unwrap();
    let stuck =
        tokio::time::timeout(Duration::from_millis(200), body.chunk(Bytes::from(vec![0; 1024 * 1024])));
    assert!(stuck.await.is_err());
    let next = within("an error", body.chunk(Bytes::from_static(b"x"))).await;
    assert!(matches!(next, Err(HopError::Truncated(_))));
}

/// H-11.
#[tokio::test]
async fn a_handler_outlives_the_connection_that_asked() {
    let pki = Pki::new();
    let (heard, mut hears) = mpsc::unbounded_channel();
    let go_on = Arc::new(Notify::new());
    let (client, _server) = served(&pki, {
        let go_on = Arc::clone(&go_on);
        move |mut incoming: Incoming| {
            let (heard, go_on) = (heard.clone(), Arc::clone(&go_on));
            async move {
                heard.send("begun").unwrap();
                incoming.body.next().await.unwrap_err();
                heard.send("alone").unwrap();
                go_on.notified().await;
                heard.send("finished").unwrap();
                drop(incoming);
            }
        }
    })
    .await;
    let exchange = client.open(NodeId(2), &eager(), None).await.unwrap();
    assert_eq!(within("a start", hears.recv()).await, Some("begun"));
    client.set_members(member_map(&[]));
    drop(exchange);
    assert_eq!(within("the connection's end", hears.recv()).await, Some("alone"));
    go_on.notify_one();
    assert_eq!(within("an end", hears.recv()).await, Some("finished"));
}

// ---- hostile bytes ----------------------------------------------------------------------------

/// Says `bytes` on a stream of a connection that node 1's certificate opened; answers what the
/// handler found in the body, or how the connection was closed.
async fn say(pki: &Pki, server: SocketAddr, bytes: &[u8]) -> quinn::Connection {
    let connection = hostile(server, ALPN, Some(pki.forge(&Leaf::default()))).await.unwrap();
    let (mut send, _receive) = connection.open_bi().await.unwrap();
    send.write_all(bytes).await.unwrap();
    send.finish().unwrap();
    // The stream is stopped when the handler drops it; the bytes are there by then.
    let _ = send.stopped().await;
    connection
}

/// H-5.
#[tokio::test]
async fn a_body_without_its_end_mark_is_never_whole() {
    let pki = Pki::new();
    let (heard, mut hears) = mpsc::unbounded_channel();
    let (server, _) = serve(&pki, move |incoming: Incoming| {
        let heard = heard.clone();
        async move { heard.send(incoming.body.collect().await.map(|b| b.to_bytes())).unwrap() }
    });
    let address = server.local_address().unwrap();
    let head = codec::encode_head(&eager()).unwrap().to_vec();
    let end = [&[0, 0, 0, 0], &[0, 0, 0, 1, 0][..]].concat();
    let cases: [(&[u8], Option<&'static [u8]>); 7] = [
        (&[], None),
        (&[0, 0, 0, 2, b'a', b'b'], None),
        (&[0, 0, 0, 2, b'a'], None),
        (&[0, 0], None),
        (&[0, 0, 0, 0], None),
        (&[0xff, 0xff, 0xff, 0xff, 1], None),
        (&[&[0, 0, 0, 1, b'a'], &end[..]].concat(), Some(b"a")),
    ];
    for (tail, whole) in cases {
        let _connection = say(&pki, address, &[head.as_slice(), tail].concat()).await;
        let found = within("the handler's word", hears.recv()).await.unwrap();
        assert_eq!(found.as_ref().ok().map(Bytes::as_ref), whole, "{tail:?}: {found:?}");
        if tail.starts_with(&[0xff]) {
            assert!(matches!(found, Err(HopError::Malformed(_))), "four gigabytes were believed: {found:?}");
        }
    }
}

/// H-1, H-2, H-9.
#[tokio::test]
async fn closes_on_heads_that_break_the_protocol() {
    let pki = Pki::new();
    let (server, metrics) = serve(&pki, |_| async { panic!("a broken head reached the handler") });
    let address = server.local_address().unwrap();
    let impostor = RequestHead { origin: NodeId(3), ..eager() };
    let cases = [
        (codec::encode_head(&impostor).unwrap().to_vec(), "impostor"),
        (vec![0xff, 0xff, 0xff, 0xff], "malformed"),
        (vec![0, 1, 0, 1], "malformed"),
        (vec![0, 0, 0, 3, 1, 0xff, 0xff], "malformed"),
        (vec![0, 0, 0, 2, 9, 0], "protocol-version"),
    ];
    for (bytes, reason) in cases {
        let before = counted(&metrics, "connection", reason);
        let connection = say(&pki, address, &bytes).await;
        within("a close", connection.closed()).await;
        assert_eq!(counted(&metrics, "connection", reason), before + 1, "{bytes:?}");
    }
}

#[tokio::test]
async fn a_node_cannot_hold_connections_without_end() {
    let pki = Pki::new();
    let (server, metrics) = serve(&pki, echo);
    let certificate = pki.forge(&Leaf::default());
    let mut open = Vec::new();
    for _ in 0..65 {
        open.push(hostile(server.local_address().unwrap(), ALPN, Some(certificate.clone())).await.unwrap());
    }
    until("a refusal", || counted(&metrics, "connection", "too-many-connections") == 1).await;
    until("its end", || open.iter().filter(|c| c.close_reason().is_some()).count() == 1).await;
}

#[tokio::test]
async fn lanes_share_one_address() {
    let pki = Pki::new();
    let (first, _) = serve(&pki, echo);
    let address = first.local_address().unwrap();
    let config = config(2, pki.node(2), &[(1, NOWHERE)]);
    let client = HopClient::start(config.clone()).unwrap();
    HopServer::bind(address, config, &client).unwrap();
}

#[tokio::test]
async fn strangers_that_hold_all_they_can_do_not_keep_a_member_out() {
    let pki = Pki::new();
    let config = config(2, pki.node(2), &[(1, NOWHERE)]);
    let metrics = config.metrics.clone();
    let own = HopClient::start(config.clone()).unwrap();
    let server = Arc::new(HopServer::bind("127.0.0.1:0".parse().unwrap(), config, &own).unwrap());
    let serving = Arc::clone(&server);
    tokio::spawn(async move { serving.serve(echo).await });
    let address = server.local_address().unwrap();
    let _open = hold_handshakes(address, ALPN).await;
    until("a handshake that finds no place", || counted(&metrics, "connection", "too-many-handshakes") > 0)
        .await;
    let start = Instant::now();
    client(&pki, address).await;
    assert!(start.elapsed() < Duration::from_millis(1500), "it waited for {:?}", start.elapsed());
}

// ---- change -----------------------------------------------------------------------------------

async fn hang(incoming: Incoming) {
    std::future::pending::<()>().await;
    drop(incoming);
}

async fn answer(incoming: Incoming) {
    let _ = incoming.reply.complete(ok(), Bytes::new()).await;
}

/// Asks node 2 until it answers: while a connection comes up, an exchange may be lost.
async fn reaches(client: &HopClient) {
    let answered = async {
        loop {
            let head = request(Content::Empty);
            let Ok(mut exchange) = client.open(NodeId(2), &head, None).await else { continue };
            if exchange.answers.next().await == Ok(Answer::Head(ok())) {
                return;
            }
        }
    };
    within("an answer", answered).await;
}

/// H-12.
#[tokio::test]
async fn a_member_that_is_added_while_this_runs_is_let_in() {
    let pki = Pki::new();
    let (server, metrics) = serve(&pki, answer);
    server.set_members(&member_map(&[(3, NOWHERE)]));
    let address = server.local_address().unwrap().to_string();
    let client = HopClient::start(config(1, pki.node(1), &[])).unwrap();
    let error = client.open(NodeId(2), &eager(), None).await.unwrap_err();
    assert!(matches!(error, HopError::NotSent(_)), "{error}");
    client.set_members(member_map(&[(2, &address)]));
    until("a refusal", || counted(&metrics, "connection", "removed") > 0).await;
    server.set_members(&member_map(&[(1, NOWHERE), (3, NOWHERE)]));
    reaches(&client).await;
}

/// H-12: what it had under way is lost, and what it asks later was certainly not sent.
#[tokio::test]
async fn a_removed_node_is_cut_off_and_refused_by_the_asked_side() {
    let pki = Pki::new();
    let (heard, mut hears) = mpsc::unbounded_channel();
    let (server, metrics) = serve(&pki, move |incoming: Incoming| {
        heard.send(()).unwrap();
        hang(incoming)
    });
    let asking = config(1, pki.node(1), &[(2, &server.local_address().unwrap().to_string())]);
    let by_peer = asking.metrics.clone();
    let client = HopClient::start(asking).unwrap();
    until("a connection", || client.is_connected(NodeId(2))).await;
    let mut exchange = client.open(NodeId(2), &request(Content::Empty), None).await.unwrap();
    // Let in, and not just about to be.
    within("the request", hears.recv()).await.unwrap();
    server.set_members(&member_map(&[(3, NOWHERE)]));
    let error = within("an error", exchange.answers.next()).await.unwrap_err();
    assert!(matches!(&error, HopError::Lost(why) if why.contains("was removed from the cluster")), "{error}");
    until("its own count", || counted(&by_peer, "connection-by-peer", "removed") > 0).await;
    let ends = async {
        loop {
            let error = match client.open(NodeId(2), &eager(), None).await {
                Ok(mut exchange) => exchange.answers.next().await.unwrap_err(),
                Err(e) => e,
            };
            assert!(error.nothing_applied(), "{error}");
            if counted(&metrics, "connection", "removed") > 1 {
                return;
            }
        }
    };
    within("refusals", ends).await;
}

/// H-12.
#[tokio::test]
async fn a_removed_node_is_told_by_the_asking_side_and_asked_no_more() {
    let pki = Pki::new();
    let (server, metrics) = serve(&pki, hang);
    let client = client(&pki, server.local_address().unwrap()).await;
    let mut exchange = client.open(NodeId(2), &request(Content::Empty), None).await.unwrap();
    client.set_members(member_map(&[(3, NOWHERE)]));
    assert!(matches!(within("an error", exchange.answers.next()).await, Err(HopError::Lost(_))));
    let error = client.open(NodeId(2), &eager(), None).await.unwrap_err();
    assert!(matches!(error, HopError::NotSent(_)), "{error}");
    until("the word of it", || counted(&metrics, "connection-by-peer", "removed") == 1).await;
}

/// H-12.
#[tokio::test]
async fn a_member_with_a_new_address_is_asked_there() {
    let pki = Pki::new();
    let (old, metrics) = serve(&pki, |_| async { panic!("it was asked at the old address") });
    let (new, _) = serve(&pki, answer);
    let client = client(&pki, old.local_address().unwrap()).await;
    client.set_members(member_map(&[(2, &new.local_address().unwrap().to_string())]));
    reaches(&client).await;
    assert_eq!(counted(&metrics, "connection-by-peer", "removed"), 0, "it has moved");
}

/// H-12.
#[tokio::test]
async fn of_two_changes_at_once_the_last_one_holds() {
    let pki = Pki::new();
    let (server, _) = serve(&pki, answer);
    let address = server.local_address().unwrap();
    let client = client(&pki, address).await;
    reaches(&client).await;
    server.set_members(&member_map(&[]));
    server.set_members(&member_map(&[(1, NOWHERE)]));
    reaches(&client).await;
    client.set_members(member_map(&[]));
    client.set_members(member_map(&[(2, &address.to_string())]));
    reaches(&client).await;
}

/// Without a wait the runtime ends before the frames are on their way, and the peers wait for the timeout.
#[test]
fn a_listener_that_closes_tells_its_peers() {
    let pki = Pki::new();
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (here, there) = (runtime(), runtime());
    let (heard, mut hears) = mpsc::unbounded_channel();
    let hang = move |incoming: Incoming| {
        heard.send(()).unwrap();
        hang(incoming)
    };
    let (server, _) = there.block_on(async { serve(&pki, hang) });
    let address = server.local_address().unwrap();
    let closing = std::thread::spawn(move || {
        there.block_on(async {
            hears.recv().await;
            server.close().await;
        });
        drop(there);
    });
    here.block_on(async {
        let client = client(&pki, address).await;
        let mut exchange = client.open(NodeId(2), &eager(), None).await.unwrap();
        let error = within("an error", exchange.answers.next()).await.unwrap_err().to_string();
        assert!(error.contains("closing"), "{error}");
    });
    closing.join().unwrap();
}
