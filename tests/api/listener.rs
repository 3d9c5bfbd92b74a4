//! The TCP listener: what a client sees on a connection.

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::fake::Cluster;

pub(crate) async fn connect(cluster: &Cluster) -> TcpStream {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let api = cluster.api(1);
    tokio::spawn(async move {
        let (_runs_on, stop) = watch::channel(false);
        termgate::api::serve(listener, api, stop).await;
    });
    TcpStream::connect(address).await.unwrap()
}

/// Sends these bytes and reads until the node closes the connection.
async fn exchange(bytes: &[u8]) -> String {
    let mut stream = connect(&Cluster::led_by(1)).await;
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn what_is_under_way_when_the_node_ends_is_answered_and_nothing_more_is_taken() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (ending, stop) = watch::channel(false);
    let serving = tokio::spawn(termgate::api::serve(listener, Cluster::led_by(1).api(1), stop));
    let mut silent = TcpStream::connect(address).await.unwrap();
    let mut busy = TcpStream::connect(address).await.unwrap();
    let head = b"PUT /registry/keys/k HTTP/1.1\r\nhost: localhost\r\nexpect: 100-continue\r\ncontent-length: 1\r\n\r\n";
    busy.write_all(head).await.unwrap();
    // Then the request is under way for certain.
    let mut asks = [0; b"HTTP/1.1 100 Continue\r\n\r\n".len()];
    busy.read_exact(&mut asks).await.unwrap();
    ending.send_replace(true);
    assert_eq!(silent.read(&mut [0]).await.unwrap(), 0, "nothing was asked there");
    busy.write_all(b"v").await.unwrap();
    let mut answer = String::new();
    busy.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 201 Created") && answer.contains("connection: close"), "{answer}");
    serving.await.unwrap();
    assert!(TcpStream::connect(address).await.is_err(), "nobody listens any more");
}

#[tokio::test]
async fn a_connection_carries_several_requests() {
    let text = exchange(
        b"PUT /registry/keys/k HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1\r\n\r\nv\
          HEAD /registry/keys/k HTTP/1.1\r\nhost: localhost\r\n\r\n\
          GET /registry/keys/k HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n",
    )
    .await;
    let answers: Vec<&str> = text.split("HTTP/1.1 ").skip(1).collect();
    assert_eq!(answers.len(), 3, "{text}");
    assert!(answers[0].starts_with("201 Created"), "{text}");
    assert!(answers[1].contains("content-length: 1\r\n") && answers[1].ends_with("\r\n\r\n"), "{text}");
    assert!(answers[2].ends_with("\r\n\r\nv"), "{text}");
}

#[tokio::test]
async fn http_2_is_spoken_without_being_asked() {
    let stream = connect(&Cluster::led_by(1)).await;
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (mut sender, connection) = handshake.await.unwrap();
    tokio::spawn(connection);
    let request = Request::get("http://127.0.0.1/leader").body(Full::new(Bytes::new())).unwrap();
    let response = sender.send_request(request).await.unwrap();
    assert_eq!((response.status().as_u16(), response.version()), (200, http::Version::HTTP_2));
    let content = response.into_body().collect().await.unwrap().to_bytes();
    assert!(content.starts_with(br#"{"node_id":1,"#), "{content:?}");
}

/// How half a value ends over HTTP/2.
#[derive(Debug, Clone, Copy)]
enum End {
    /// RST_STREAM with the one reason that hyper takes for a good end.
    Reset,
    /// END_STREAM.
    Early,
}

/// A PUT over HTTP/2 of 500 bytes that are not the whole value. Then a whole PUT of another key on the
/// same connection: when it is answered, the first has certainly been seen.
async fn half_a_value_over_http_2(length: Option<&str>, end: End) -> Cluster {
    let cluster = Cluster::led_by(1);
    let (sender, mut connection) = h2::client::handshake(connect(&cluster).await).await.unwrap();
    let mut pings = connection.ping_pong().unwrap();
    tokio::spawn(connection);
    let put = |key: &str| Request::put(format!("http://127.0.0.1/registry/keys/{key}"));
    let mut head = put("half");
    if let Some(length) = length {
        head = head.header("content-length", length);
    }
    let mut sender = sender.ready().await.unwrap();
    let (answer, mut content) = sender.send_request(head.body(()).unwrap(), false).unwrap();
    content.send_data(Bytes::from(vec![b'v'; 500]), matches!(end, End::Early)).unwrap();
    if matches!(end, End::Reset) {
        // A reset drops what was not sent yet; what was sent before this answer has arrived.
        pings.ping(h2::Ping::opaque()).await.unwrap();
        content.send_reset(h2::Reason::NO_ERROR);
    }
    let answered = answer.await.map(|answer| answer.status().as_u16());
    assert!(!matches!(answered, Ok(200..=299)), "{answered:?}");
    let mut sender = sender.ready().await.unwrap();
    let (answer, mut content) = sender.send_request(put("whole").body(()).unwrap(), false).unwrap();
    content.send_data(Bytes::from_static(b"v"), true).unwrap();
    assert_eq!(answer.await.unwrap().status(), 201);
    cluster
}

#[tokio::test]
async fn content_that_broke_off_over_http_2_is_never_applied() {
    let cases = [(Some("1000"), End::Reset), (None, End::Reset), (Some("1000"), End::Early)];
    for (length, end) in cases {
        let cluster = half_a_value_over_http_2(length, end).await;
        assert_eq!(cluster.proposals(), 1, "only the whole one: content-length {length:?}, {end:?}");
    }
}

#[tokio::test]
async fn content_that_broke_off_over_http_1_is_never_applied() {
    for framing in ["content-length: 1000\r\n\r\nhalf", "transfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n"] {
        let cluster = Cluster::led_by(1);
        let mut stream = connect(&cluster).await;
        let put = format!("PUT /registry/keys/k HTTP/1.1\r\nhost: localhost\r\n{framing}");
        stream.write_all(put.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400"), "{answer}");
        assert_eq!(cluster.proposals(), 0, "{framing:?}");
    }
}

#[tokio::test]
async fn content_beyond_the_limit_is_refused_before_it_is_read() {
    let declared = b"PUT /registry/keys/k HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
                     content-length: 9999999999\r\n\r\n";
    let text = exchange(declared).await;
    assert!(text.starts_with("HTTP/1.1 413"), "{text}");
    assert!(text.contains("urn:termgate:problem:content-too-large"), "{text}");
    assert!(text.contains(r#""node":1,"term":7,"#), "{text}");
    assert!(text.contains(r#""request_id":"1-"#) && text.contains("termgate-request-id: 1-"), "{text}");
}

#[tokio::test]
async fn content_of_undeclared_length_is_counted() {
    let cluster = Cluster::led_by(1);
    let mut stream = connect(&cluster).await;
    let head = b"PUT /registry/keys/k HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n";
    stream.write_all(head).await.unwrap();
    let chunk = [b"10000\r\n".as_slice(), &[b'v'; 0x10000], b"\r\n"].concat();
    for _ in 0..17 {
        // It may be refused, and the connection closed, while this is still sending.
        if stream.write_all(&chunk).await.is_err() {
            break;
        }
    }
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 413");
    assert_eq!(cluster.proposals(), 0);
}

#[tokio::test]
async fn a_head_beyond_the_limit_is_refused() {
    let head = format!("GET /leader HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "x".repeat(20_000));
    let text = exchange(head.as_bytes()).await;
    assert!(text.starts_with("HTTP/1.1 431"), "{text}");
}

#[tokio::test]
async fn what_is_no_http_is_refused() {
    let text = exchange(b"PRIVATE\r\n\r\n").await;
    assert!(text.starts_with("HTTP/1.1 400"), "{text}");
}
