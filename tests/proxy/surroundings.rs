//! A recording backend, a raw client, and a loop that says what the test wants: the surroundings
//! of one proxy under test.

#![allow(dead_code, missing_docs)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::thread;
use std::time::{Duration, Instant as Wall};

use termgate::clock;
use termgate::driver::handle::{Applied, Handle, ReadPoint, Request};
use termgate::fencing::leadership::Leadership;
use termgate::ids::{LogIndex, NodeId, Term};
use termgate::raft::effect::RoleKind;
use termgate::registry::command::{Answer, Op};
use termgate::registry::machine::Machine;
use tokio::sync::{mpsc, watch};

const FENCE_PATH: &str = "/.well-known/termgate/fence";
pub const LIMIT: Duration = Duration::from_secs(10);

/// Waits for a condition, with a limit.
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Wall::now() + LIMIT;
    while !holds() {
        assert!(Wall::now() < end, "never happened: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// One request as a backend got it, byte for byte.
#[derive(Debug, Clone)]
pub struct Seen {
    pub head: String,
    pub body: Vec<u8>,
    /// Which request on its connection, from 0.
    pub nth: usize,
}

impl Seen {
    pub fn first_line(&self) -> &str {
        self.head.lines().next().unwrap_or_default()
    }

    /// All values of a field, whatever the case of its name.
    pub fn values(&self, name: &str) -> Vec<&str> {
        let lines = self.head.lines().skip(1).filter_map(|line| line.split_once(':'));
        lines.filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.trim()).collect()
    }
}

/// What a backend does with a request.
pub enum Reply {
    /// These bytes, and the connection stays.
    Bytes(Vec<u8>),
    /// These bytes, and the connection is closed.
    Last(Vec<u8>),
    /// Nothing: the connection is closed.
    Hangup,
}

pub fn ok(body: &str) -> Reply {
    Reply::Bytes(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into())
}

/// A backend that records everything and raises any fence. Clones share what is recorded.
#[derive(Clone)]
pub struct Backend {
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    pub raises: Arc<AtomicUsize>,
    /// The resource and term of the last raise, which is where the fence stands.
    pub fence: Arc<Mutex<serde_json::Value>>,
    /// Heads of requests that came, without calls about the fence.
    pub begun: Arc<AtomicUsize>,
    /// Connections with such requests that have ended.
    pub closed: Arc<AtomicUsize>,
}

impl Backend {
    pub fn start(behave: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        Self::on(listener, behave)
    }

    pub fn on(listener: TcpListener, behave: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        let backend = Self {
            address: listener.local_addr().expect("an address"),
            seen: Arc::default(),
            raises: Arc::default(),
            fence: Arc::default(),
            begun: Arc::default(),
            closed: Arc::default(),
        };
        let all = backend.clone();
        let behave = Arc::new(behave);
        thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                let (all, behave) = (all.clone(), Arc::clone(&behave));
                thread::spawn(move || all.serve(socket, behave.as_ref()));
            }
        });
        backend
    }

    /// Requests without the raises.
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().expect("not poisoned").clone()
    }

    fn serve(&self, socket: TcpStream, behave: &dyn Fn(&Seen) -> Reply) {
        let mut reader = BufReader::new(socket.try_clone().expect("a second handle"));
        let mut writer = socket;
        let (mut nth, mut requests) = (0, 0);
        while let Some(head) = read_head(&mut reader) {
            let about_fence = head.lines().next().is_some_and(|line| line.contains(FENCE_PATH));
            if !about_fence {
                self.begun.fetch_add(1, Ordering::SeqCst);
                requests += 1;
            }
            let request = read_body(&mut reader, &head).map(|body| Seen { head, body, nth });
            let reply = match &request {
                None => Reply::Hangup,
                Some(request) if about_fence => self.answer_for_fence(request),
                Some(request) => {
                    self.seen.lock().expect("not poisoned").push(request.clone());
                    behave(request)
                }
            };
            nth += 1;
            let (bytes, stays) = match reply {
                Reply::Bytes(bytes) => (bytes, true),
                Reply::Last(bytes) => (bytes, false),
                Reply::Hangup => (Vec::new(), false),
            };
            if writer.write_all(&bytes).is_err() || !stays {
                break;
            }
        }
        if requests > 0 {
            // Closed before it is counted.
            drop((reader, writer));
            self.closed.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn answer_for_fence(&self, request: &Seen) -> Reply {
        let mut fence = self.fence.lock().expect("not poisoned");
        if request.first_line().starts_with("PUT") {
            self.raises.fetch_add(1, Ordering::SeqCst);
            let asked: serde_json::Value = serde_json::from_slice(&request.body).expect("json");
            *fence = serde_json::json!({"resource": asked["resource"], "term": asked["term"]});
        }
        ok(&fence.to_string())
    }
}

fn read_head(reader: &mut impl BufRead) -> Option<String> {
    let mut head = String::new();
    loop {
        let before = head.len();
        if reader.read_line(&mut head).ok()? == 0 {
            return None;
        }
        if head[before..].trim().is_empty() {
            return Some(head);
        }
    }
}

fn field(head: &str, name: &str) -> Option<String> {
    let line = head.lines().filter_map(|l| l.split_once(':')).find(|(n, _)| n.eq_ignore_ascii_case(name));
    line.map(|(_, v)| v.trim().to_owned())
}

fn read_body(reader: &mut impl BufRead, head: &str) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    if field(head, "transfer-encoding").is_some() {
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok().filter(|n| *n > 0)?;
            let size = usize::from_str_radix(line.trim(), 16).ok()?;
            let mut chunk = vec![0; size + 2];
            reader.read_exact(&mut chunk).ok()?;
            if size == 0 {
                return Some(body);
            }
            body.extend_from_slice(&chunk[..size]);
        }
    }
    let length: usize = field(head, "content-length").and_then(|v| v.parse().ok()).unwrap_or(0);
    body.resize(length, 0);
    reader.read_exact(&mut body).ok()?;
    Some(body)
}

/// An answer, as a client reads it.
#[derive(Debug)]
pub struct Got {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Got {
    pub fn field(&self, name: &str) -> Option<String> {
        field(&self.head, name)
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// The last part of the problem's type.
    pub fn problem(&self) -> String {
        let json = self.json();
        json["type"].as_str().expect("a type").trim_start_matches("urn:termgate:problem:").to_owned()
    }
}

/// A raw client connection.
pub struct Client {
    reader: BufReader<TcpStream>,
    pub socket: TcpStream,
}

impl Client {
    pub fn connect(address: SocketAddr) -> Self {
        let socket = TcpStream::connect(address).expect("connects");
        socket.set_read_timeout(Some(LIMIT)).expect("a timeout");
        Self { reader: BufReader::new(socket.try_clone().expect("a second handle")), socket }
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.socket.write_all(bytes.as_ref()).expect("writes");
    }

    /// The next answer; `None` when the connection ended before it was complete.
    pub fn read(&mut self) -> Option<Got> {
        let head = read_head(&mut self.reader)?;
        let status = head.split_whitespace().nth(1)?.parse().ok()?;
        let body = read_body(&mut self.reader, &head)?;
        Some(Got { status, head, body })
    }

    pub fn read_head(&mut self) -> Option<String> {
        read_head(&mut self.reader)
    }

    pub fn read_exact(&mut self, bytes: &mut [u8]) -> std::io::Result<()> {
        self.reader.read_exact(bytes)
    }
}

/// Sends one request on its own connection.
pub fn call(address: SocketAddr, bytes: impl AsRef<[u8]>) -> Got {
    let mut client = Client::connect(address);
    client.send(bytes);
    client.read().expect("an answer")
}

pub fn get(address: SocketAddr, path: &str, fields: &str) -> Got {
    call(address, format!("GET {path} HTTP/1.1\r\nhost: shop\r\n{fields}\r\n"))
}

pub fn post(address: SocketAddr, fields: &str, body: &str) -> Got {
    let length = body.len();
    call(
        address,
        format!("POST /orders HTTP/1.1\r\nhost: shop\r\ncontent-length: {length}\r\n{fields}\r\n{body}"),
    )
}

/// Sends `content` and reads the answer at the same time: a proxy that streams both can't wait for the whole.
pub fn put_while_reading(address: SocketAddr, content: &[u8]) -> Got {
    let mut client = Client::connect(address);
    let mut writer = client.socket.try_clone().expect("a second handle");
    thread::scope(|both| {
        both.spawn(move || {
            let head = format!("PUT /big HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n", content.len());
            writer.write_all(head.as_bytes()).expect("writes");
            writer.write_all(content).expect("writes");
        });
        client.read().expect("an answer")
    })
}

/// A loop that says what the test wants.
pub struct FakeLoop {
    pub handle: Handle,
    pub leadership: watch::Sender<Arc<Leadership>>,
    pub recorded: Arc<Mutex<Vec<Op>>>,
    /// Reads that were confirmed by a quorum.
    pub reads: Arc<AtomicUsize>,
}

impl FakeLoop {
    pub fn start(node: u64) -> Self {
        let node = NodeId(node);
        let (requests, mut queue) = mpsc::channel(1024);
        let (leadership, picture) = watch::channel(Arc::new(Leadership::unknown(node)));
        let recorded: Arc<Mutex<Vec<Op>>> = Arc::default();
        let reads: Arc<AtomicUsize> = Arc::default();
        let (ops, seen, confirmed) = (Arc::clone(&recorded), picture.clone(), Arc::clone(&reads));
        thread::spawn(move || {
            while let Some(request) = queue.blocking_recv() {
                let term = seen.borrow().term;
                match request {
                    Request::Propose { op, reply, .. } => {
                        ops.lock().expect("not poisoned").push(op);
                        let index = LogIndex(9);
                        let _ =
                            reply.send(Ok(Applied { index, term, answer: Answer::Done { version: index } }));
                    }
                    Request::Read { reply } => {
                        confirmed.fetch_add(1, Ordering::SeqCst);
                        let _ = reply.send(Ok(ReadPoint { index: LogIndex(9), term }));
                    }
                    Request::Transfer { .. }
                    | Request::Reconfigure { .. }
                    | Request::Judge { .. }
                    | Request::View { .. } => {}
                }
            }
        });
        let machine = Arc::new(RwLock::new(Machine::new(Vec::new())));
        Self { handle: Handle::new(node, requests, picture, machine), leadership, recorded, reads }
    }

    /// This node leads, with a lease of an hour.
    pub fn lead(&self, term: u64) {
        let node = self.handle.node();
        self.leadership.send_replace(Arc::new(Leadership {
            role: RoleKind::Leader,
            term: Term(term),
            leader: Some(node),
            fence: Some(Term(term)),
            lease_until: Some(clock::now() + Duration::from_secs(3600)),
            ..Leadership::unknown(node)
        }));
    }

    /// Another node leads.
    pub fn follow(&self, leader: u64, term: u64) {
        let node = self.handle.node();
        self.leadership.send_replace(Arc::new(Leadership {
            term: Term(term),
            leader: Some(NodeId(leader)),
            ..Leadership::unknown(node)
        }));
    }

    /// Nobody is known to lead.
    pub fn lose(&self) {
        self.leadership.send_replace(Arc::new(Leadership::unknown(self.handle.node())));
    }
}
