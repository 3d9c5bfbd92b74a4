//! `GET /cluster/backup` over real sockets: its content is made while it is sent.

use http::Method;
use termgate::api::Caller;
use termgate::ids::{NodeId, Term};
use termgate::storage::backup::{Backup, Origin};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::fake::{Cluster, TOKEN};
use crate::listener::connect;
use crate::{assert_described, assert_problem, field, request};

const PATH: &str = "/cluster/backup";

/// Sends the request and reads the answer's head.
async fn begin(cluster: &Cluster, target: &str) -> (TcpStream, String) {
    let mut stream = connect(cluster).await;
    let text = format!("GET {target} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    (stream, String::from_utf8(head).unwrap())
}

/// Reads the rest, as a file would be read.
async fn end(mut stream: TcpStream) -> Backup {
    let mut content = Vec::new();
    stream.read_to_end(&mut content).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.backup");
    std::fs::write(&path, content).unwrap();
    Backup::read(&path).unwrap()
}

/// More than what lies between this test and the encoder can hold.
async fn fill(cluster: &Cluster) {
    let value = "v".repeat(1_000_000);
    for key in 0..24 {
        assert_eq!(cluster.put(1, &format!("key-{key}"), &[], &value).await.status(), 201);
    }
}

#[tokio::test]
async fn a_backup_is_the_state_when_it_was_asked_for_while_writes_go_on() {
    let cluster = Cluster::led_by(2);
    fill(&cluster).await;
    let (stream, head) = begin(&cluster, PATH).await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert!(head.contains("content-type: application/vnd.termgate.backup"), "{head}");
    for key in ["key-1", "key-9999"] {
        assert!(cluster.put(1, key, &[], "written meanwhile").await.status().is_success());
    }
    let backup = end(stream).await;
    let length = format!("content-length: {}\r\n", backup.header.total());
    assert!(head.contains(&length), "{head}");
    assert!(head.contains(&format!("termgate-index: {}\r\n", backup.header.last.index)), "{head}");
    let header = &backup.header;
    assert_eq!((header.node, header.origin, header.term), (NodeId(1), Origin::Linearizable, Term(7)));
    assert_eq!((header.keys, header.members.len(), header.membership.voters.len()), (24, 3, 3));
    assert_eq!(backup.machine.key("key-1").map(|value| value.value.len()), Some(1_000_000));
    assert!(backup.machine.key("key-9999").is_none(), "a write from after its point");
    assert_eq!(cluster.reads(), 1, "a quorum confirms the point once");
}

#[tokio::test]
async fn one_backup_is_taken_at_a_time() {
    let cluster = Cluster::led_by(1);
    fill(&cluster).await;
    let (first, _) = begin(&cluster, PATH).await;
    let refused = cluster.get(1, PATH).await;
    assert_problem(&refused, 503, "overloaded", None);
    assert_described(&Method::GET, PATH, &refused);
    end(first).await;
    // The place is free once the encoder has seen the end.
    let (abandoned, _) = loop {
        let next = begin(&cluster, PATH).await;
        if next.1.starts_with("HTTP/1.1 200") {
            break next;
        }
    };
    drop(abandoned);
    loop {
        let (stream, head) = begin(&cluster, PATH).await;
        if head.starts_with("HTTP/1.1 200") {
            end(stream).await;
            break;
        }
    }
}

#[tokio::test]
async fn without_a_quorum_only_what_may_be_stale_is_backed_up() {
    let cluster = Cluster::led_by(1);
    assert_eq!(cluster.put(1, "k", &[], "v").await.status(), 201);
    cluster.elect(None);
    let refused = cluster.get(1, PATH).await;
    assert_problem(&refused, 503, "no-leader", None);
    assert_described(&Method::GET, PATH, &refused);
    let (stream, head) = begin(&cluster, "/cluster/backup?consistency=stale").await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let backup = end(stream).await;
    assert_eq!((backup.header.origin, backup.header.keys), (Origin::Stale, 1));
    assert_problem(
        &cluster.get(1, "/cluster/backup?consistency=new").await,
        400,
        "bad-request",
        Some("not-applied"),
    );
}

/// It hands out everything at once.
#[tokio::test]
async fn a_backup_needs_the_token() {
    let cluster = Cluster::guarded();
    let refused = cluster.get(1, PATH).await;
    assert_problem(&refused, 401, "unauthorized", Some("not-applied"));
    assert_described(&Method::GET, PATH, &refused);
    let bearer = format!("Bearer {TOKEN}");
    let taken = cluster.call(1, Method::GET, PATH, &[("authorization", &bearer)]).await;
    assert_eq!(taken.status(), 200);
    assert_described(&Method::GET, PATH, &taken);
}

#[tokio::test]
async fn head_tells_the_size_and_takes_no_place() {
    let cluster = Cluster::led_by(1);
    for _ in 0..2 {
        let response = cluster.call(1, Method::HEAD, PATH, &[]).await;
        assert_eq!(response.status(), 200);
        let length: u64 = field(&response, "content-length").unwrap().parse().unwrap();
        assert!(length > 500, "{length}");
    }
}

#[tokio::test]
async fn a_backup_is_not_passed_on_between_nodes() {
    let cluster = Cluster::led_by(1);
    let response = cluster.api(1).handle(Caller::Node(NodeId(2)), request(Method::GET, PATH, &[], "")).await;
    assert_problem(&response, 400, "bad-request", Some("not-applied"));
}
