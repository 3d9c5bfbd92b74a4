//! A guard to test, a client that writes raw bytes, and a backend that notes what it gets and
//! answers when it is told to.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use termgate::fencing::mode::FenceMode;
use termgate::guard::{Guard, GuardConfig};
use termgate::metrics::Metrics;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// How long anything may take before a test gives up.
pub const LIMIT: Duration = Duration::from_secs(20);

pub fn config(backend: SocketAddr, dir: &Path) -> GuardConfig {
    GuardConfig {
        listen: "127.0.0.1:0".parse().expect("an address"),
        backend: format!("http://{backend}").parse().expect("a uri"),
        resource: "orders".into(),
        mode: FenceMode::Enforced,
        data_dir: dir.to_owned(),
        cluster: "test".into(),
        tls: None,
        raise_timeout: LIMIT,
        metrics: Metrics::new(),
    }
}

/// A guard in front of `backend` whose fence stands at `term`.
pub async fn guard_at(term: u64, backend: &Backend) -> (Guard, tempfile::TempDir) {
    guard_with(term, config(backend.address, Path::new(""))).await
}

/// The same with a configuration of one's own; its directory is replaced.
pub async fn guard_with(term: u64, mut config: GuardConfig) -> (Guard, tempfile::TempDir) {
    let dir = tempfile::tempdir().expect("a directory");
    config.data_dir = dir.path().to_owned();
    let guard = Guard::start(config).await.expect("the guard starts");
    if term > 0 {
        let answer = put_fence(guard.address(), term).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    (guard, dir)
}

#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub content: String,
}

impl Answer {
    /// The value of a field, in lower-case names.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.content).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }
}

/// Sends bytes, and reads the answer until the connection ends; `None` when it ends without one.
pub async fn raw<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, bytes: &str) -> Option<Answer> {
    stream.write_all(bytes.as_bytes()).await.expect("sends");
    read_answer(stream).await
}

pub async fn read_answer<S: AsyncRead + Unpin>(mut stream: S) -> Option<Answer> {
    let mut bytes = Vec::new();
    let reading = stream.read_to_end(&mut bytes);
    let _end = tokio::time::timeout(LIMIT, reading).await.expect("an answer in time");
    let text = String::from_utf8_lossy(&bytes);
    let (head, content) = text.split_once("\r\n\r\n")?;
    let status = head.get(9..12)?.parse().ok()?;
    Some(Answer { status, head: head.to_owned(), content: content.to_owned() })
}

pub async fn connect(address: SocketAddr) -> TcpStream {
    TcpStream::connect(address).await.expect("the guard listens")
}

pub fn stamp(term: u64) -> String {
    format!("Termgate-Term: {term}\r\nTermgate-Node: 1\r\nTermgate-Resource: orders\r\n")
}

pub fn post(fields: &str, content: &str) -> String {
    format!(
        "POST /ledger HTTP/1.1\r\nHost: backend\r\nConnection: close\r\n{fields}Content-Length: {}\r\n\r\n{content}",
        content.len()
    )
}

/// A whole write under `term`.
pub async fn write(guard: SocketAddr, term: u64, content: &str) -> Answer {
    raw(connect(guard).await, &post(&stamp(term), content)).await.expect("an answer")
}

pub async fn get(address: SocketAddr, path: &str) -> Answer {
    let request = format!("GET {path} HTTP/1.1\r\nHost: backend\r\nConnection: close\r\n\r\n");
    raw(connect(address).await, &request).await.expect("an answer")
}

pub async fn fence(guard: SocketAddr) -> serde_json::Value {
    get(guard, "/.well-known/termgate/fence").await.json()
}

pub fn raise_request(fields: &str, content: &str) -> String {
    format!(
        "PUT /.well-known/termgate/fence HTTP/1.1\r\nHost: guard\r\nConnection: close\r\n{fields}Content-Length: {}\r\n\r\n{content}",
        content.len()
    )
}

pub async fn put_fence(guard: SocketAddr, term: u64) -> Answer {
    let content = format!("{{\"resource\":\"orders\",\"term\":{term},\"proof\":null}}");
    raw(connect(guard).await, &raise_request("", &content)).await.expect("an answer")
}

/// Waits until `condition` holds; panics with `what` when it never does.
pub async fn until<F: AsyncFnMut() -> bool>(what: &str, mut condition: F) {
    let started = std::time::Instant::now();
    while !condition().await {
        assert!(started.elapsed() < LIMIT, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// What the backend saw on one connection.
#[derive(Debug, Default, Clone)]
pub struct Seen {
    /// Bytes of the request that is on its way.
    pub partial: usize,
    /// Requests that were complete.
    pub complete: Vec<String>,
    /// The other side closed.
    pub closed: bool,
}

/// A backend of raw sockets. It answers complete requests while `answering` is on.
pub struct Backend {
    pub address: SocketAddr,
    connections: Arc<Mutex<Vec<Arc<Mutex<Seen>>>>>,
    answering: watch::Sender<bool>,
    reading: watch::Sender<bool>,
}

impl Backend {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let connections = Arc::new(Mutex::new(Vec::new()));
        let (answering, answer) = watch::channel(true);
        let (reading, read) = watch::channel(true);
        let all: Arc<Mutex<Vec<Arc<Mutex<Seen>>>>> = connections.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let seen = Arc::new(Mutex::new(Seen::default()));
                all.lock().expect("a lock").push(seen.clone());
                tokio::spawn(serve(stream, seen, answer.clone(), read.clone()));
            }
        });
        Self { address, connections, answering, reading }
    }

    pub fn answer(&self, on: bool) {
        self.answering.send_replace(on);
    }

    pub fn read(&self, on: bool) {
        self.reading.send_replace(on);
    }

    pub fn seen(&self) -> Vec<Seen> {
        let all = self.connections.lock().expect("a lock");
        all.iter().map(|seen| seen.lock().expect("a lock").clone()).collect()
    }

    /// All complete requests, in no particular order.
    pub fn complete(&self) -> Vec<String> {
        self.seen().into_iter().flat_map(|seen| seen.complete).collect()
    }
}

async fn serve(
    mut stream: TcpStream,
    seen: Arc<Mutex<Seen>>,
    mut answering: watch::Receiver<bool>,
    mut reading: watch::Receiver<bool>,
) {
    let mut bytes = Vec::new();
    loop {
        if reading.wait_for(|on| *on).await.is_err() {
            return;
        }
        if matches!(stream.read_buf(&mut bytes).await, Ok(0) | Err(_)) {
            seen.lock().expect("a lock").closed = true;
            return;
        }
        seen.lock().expect("a lock").partial = bytes.len();
        while let Some(length) = whole_request(&bytes) {
            let request: Vec<u8> = bytes.drain(..length).collect();
            {
                let mut seen = seen.lock().expect("a lock");
                seen.complete.push(String::from_utf8_lossy(&request).into_owned());
                seen.partial = bytes.len();
            }
            if answering.wait_for(|on| *on).await.is_err() {
                return;
            }
            let answer = b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\nok";
            if stream.write_all(answer).await.is_err() {
                return;
            }
        }
    }
}

/// The length of the first request when all of it is there.
fn whole_request(bytes: &[u8]) -> Option<usize> {
    let text = String::from_utf8_lossy(bytes);
    let head = text.find("\r\n\r\n")? + 4;
    let fields = text[..head].to_ascii_lowercase();
    if fields.contains("transfer-encoding: chunked") {
        return text[head..].find("0\r\n\r\n").map(|at| head + at + 5);
    }
    let content = fields.lines().find_map(|line| line.strip_prefix("content-length: "));
    let length = head + content.map_or(0, |length| length.trim().parse::<usize>().expect("a number"));
    (bytes.len() >= length).then_some(length)
}
