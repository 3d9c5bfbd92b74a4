//! With certificates, only a node writes and raises, and only under its own name.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use termgate::certs;
use termgate::guard::{Guard, GuardConfig};
use termgate::ids::NodeId;
use termgate::transport::credentials::Credentials;
use termgate::transport::identity::Subject;
use termgate::transport::tls;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::support::{Answer, Backend, config, connect, post, raise_request, raw, stamp, until};

/// A cluster's authority, and a guard of it.
struct Setup {
    guard: Guard,
    dir: tempfile::TempDir,
    backend: Backend,
}

fn credentials(dir: &Path, subject: &Subject) -> Credentials {
    let out = tempfile::tempdir_in(dir).expect("a directory").keep();
    let files = certs::issue(dir, subject, &out, &[]).expect("is issued");
    Credentials::load(&dir.join("ca.pem"), &files.certificate, &files.key).expect("loads")
}

impl Setup {
    async fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        certs::init("test", dir.path()).expect("an authority");
        let backend = Backend::start().await;
        let own = credentials(dir.path(), &Subject::Guard("orders".into()));
        let settings = GuardConfig { tls: Some(own), ..config(backend.address, &dir.path().join("data")) };
        let guard = Guard::start(settings).await.expect("starts");
        Self { guard, dir, backend }
    }

    async fn send(&self, subject: &Subject, request: &str) -> Answer {
        let own = credentials(self.dir.path(), subject);
        raw(handshake(self.guard.address(), &own).await.expect("gets in"), request).await.expect("an answer")
    }
}

async fn handshake(address: SocketAddr, own: &Credentials) -> std::io::Result<TlsStream<TcpStream>> {
    handshake_for(address, own, &[]).await
}

async fn handshake_for(
    address: SocketAddr,
    own: &Credentials,
    alpn: &[&[u8]],
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut config = tls::tcp_client(own).expect("a configuration");
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    let connector = TlsConnector::from(Arc::new(config));
    let name = ServerName::try_from("localhost").expect("a name");
    connector.connect(name, connect(address).await).await
}

fn raise(term: u64) -> String {
    raise_request("", &format!("{{\"resource\":\"orders\",\"term\":{term}}}"))
}

#[tokio::test]
async fn a_node_raises_and_writes_under_its_own_name() {
    let setup = Setup::new().await;
    let node = Subject::Node(NodeId(1));
    assert_eq!(setup.send(&node, &raise(4)).await.status, 200);
    assert_eq!(setup.send(&node, &post(&stamp(4), "x")).await.status, 201);
    let shown = setup.send(&node, &raise(4).replacen("PUT", "GET", 1)).await;
    assert_eq!(shown.json()["raised_by"], 1);
}

#[tokio::test]
async fn a_node_can_not_write_under_another_nodes_name() {
    let setup = Setup::new().await;
    assert_eq!(setup.send(&Subject::Node(NodeId(1)), &raise(4)).await.status, 200);
    let answer = setup.send(&Subject::Node(NodeId(2)), &post(&stamp(4), "x")).await;
    assert_eq!(answer.status, 403, "{answer:?}");
    assert!(setup.backend.complete().is_empty());
}

#[tokio::test]
async fn a_client_can_neither_raise_nor_write() {
    let setup = Setup::new().await;
    assert_eq!(setup.send(&Subject::Node(NodeId(1)), &raise(4)).await.status, 200);
    let client = Subject::Client("mallory".into());
    assert_eq!(setup.send(&client, &raise(5)).await.status, 403);
    assert_eq!(setup.send(&client, &post(&stamp(4), "x")).await.status, 403);
    assert!(setup.backend.complete().is_empty());
}

#[tokio::test]
async fn a_node_of_another_cluster_does_not_get_in() {
    let setup = Setup::new().await;
    let other = tempfile::tempdir().expect("a directory");
    certs::init("test", other.path()).expect("an authority of the same name");
    let own = credentials(other.path(), &Subject::Node(NodeId(1)));
    // In TLS 1.3 a client may learn of its refusal only when it reads.
    if let Ok(mut stream) = handshake(setup.guard.address(), &own).await {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let _sent = stream.write_all(raise(9).as_bytes()).await;
        let mut answer = Vec::new();
        let _end = stream.read_to_end(&mut answer).await;
        assert!(answer.is_empty(), "{}", String::from_utf8_lossy(&answer));
    }
    let node = Subject::Node(NodeId(1));
    assert_eq!(setup.send(&node, &raise(1)).await.status, 200, "the fence was not touched");
}

#[tokio::test]
async fn plain_http_does_not_get_in() {
    let setup = Setup::new().await;
    assert!(raw(connect(setup.guard.address()).await, &raise(4)).await.is_none());
}

/// A stream that is reset with `NO_ERROR` ends for hyper as if it were whole.
#[tokio::test]
async fn a_cancelled_http2_write_never_reaches_the_backend_as_complete() {
    let setup = Setup::new().await;
    let node = Subject::Node(NodeId(1));
    assert_eq!(setup.send(&node, &raise(4)).await.status, 200);
    let own = credentials(setup.dir.path(), &node);
    let stream = handshake_for(setup.guard.address(), &own, &[b"h2"]).await.expect("gets in");
    let (mut sender, connection) = h2::client::handshake(stream).await.expect("speaks HTTP/2");
    tokio::spawn(connection);
    let request = http::Request::post("https://guard/ledger")
        .header("termgate-term", 4)
        .header("termgate-node", 1)
        .header("termgate-resource", "orders")
        .body(())
        .expect("a request");
    let (_answer, mut content) = sender.send_request(request, false).expect("sends");
    content.send_data(bytes::Bytes::from_static(b"half"), false).expect("sends");
    until("the backend has a part", async || setup.backend.seen().iter().any(|seen| seen.partial > 0)).await;
    content.send_reset(h2::Reason::NO_ERROR);
    until("it ended, one way or the other", async || {
        setup.backend.seen().iter().all(|seen| seen.closed || !seen.complete.is_empty())
    })
    .await;
    assert_eq!(setup.backend.complete(), Vec::<String>::new());
}
