//! The recording backend: a ledger over HTTP/1.1 that writes down every write in the order in which
//! it happened, and refuses none.
//!
//! It does not look at terms: the guard in front of it has to. So whatever gets through the guard,
//! late or twice, is in its record, and the checker reads that record.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::verdict::Commit;

/// One write as it happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Position, from 1.
    pub seq: u64,
    pub term: u64,
    pub node: u64,
    pub body: String,
    /// Since the ledger's start.
    pub at: Duration,
}

/// A ledger that serves on its own threads until dropped.
#[derive(Debug)]
pub struct Ledger {
    address: SocketAddr,
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    /// Entries and the file that holds the same, one JSON object a line.
    record: Mutex<(Vec<Entry>, File)>,
    start: Instant,
    slowest_us: AtomicU64,
    stopped: AtomicBool,
}

impl Ledger {
    /// Serves at `address`; entries are appended to `file`. Times count from `start`.
    pub fn serve(address: SocketAddr, file: &Path, start: Instant) -> Self {
        let listener = TcpListener::bind(address).expect("the ledger's address is free");
        let file = File::options().create(true).append(true).open(file).expect("the ledger's file opens");
        let state = Arc::new(State {
            record: Mutex::new((Vec::new(), file)),
            start,
            slowest_us: AtomicU64::new(0),
            stopped: AtomicBool::new(false),
        });
        let for_accept = Arc::clone(&state);
        std::thread::spawn(move || accept_all(&listener, &for_accept));
        Self { address, state }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Lets every write wait before it happens, between nothing and `slowest`: time for a write to be
    /// overtaken by a new term.
    pub fn be_slow(&self, slowest: Duration) {
        self.state.slowest_us.store(slowest.as_micros() as u64, Ordering::Relaxed);
    }

    /// A copy of the record.
    pub fn entries(&self) -> Vec<Entry> {
        self.state.record.lock().expect("no writer panicked").0.clone()
    }

    /// The record in the checker's words.
    pub fn commits(&self) -> Vec<Commit> {
        let commit = |entry: Entry| {
            let Entry { seq, term, node, body, at } = entry;
            Commit { seq, term, node, body, at_ns: at.as_nanos() as u64 }
        };
        self.entries().into_iter().map(commit).collect()
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.state.record.lock().expect("no writer panicked").0.len()
    }

    /// The term of the last entry, 0 before the first.
    pub fn last_term(&self) -> u64 {
        self.state.record.lock().expect("no writer panicked").0.last().map_or(0, |entry| entry.term)
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        self.state.stopped.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address);
    }
}

fn accept_all(listener: &TcpListener, state: &Arc<State>) {
    for stream in listener.incoming().flatten() {
        if state.stopped.load(Ordering::Relaxed) {
            return;
        }
        let state = Arc::clone(state);
        std::thread::spawn(move || {
            let _ = serve_connection(stream, &state);
        });
    }
}

struct Request {
    method: String,
    path: String,
    term: Option<u64>,
    node: Option<u64>,
    body: String,
}

fn serve_connection(stream: TcpStream, state: &State) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut writer = stream.try_clone()?;
    let mut reader = BufReader::new(stream);
    while let Some(request) = read_request(&mut reader)? {
        let (status, body) = state.answer(request);
        let head = format!(
            "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        writer.write_all(format!("{head}{body}").as_bytes())?;
    }
    Ok(())
}

impl State {
    fn answer(&self, request: Request) -> (&'static str, String) {
        match (request.method.as_str(), request.path.as_str()) {
            ("POST", "/ledger") => match (request.term, request.node) {
                (Some(term), Some(node)) => ("201 Created", self.append(term, node, request.body)),
                _ => ("400 Bad Request", r#"{"error":"no termgate-term or termgate-node"}"#.to_string()),
            },
            ("GET", "/ledger") => ("200 OK", self.list()),
            _ => ("404 Not Found", "{}".to_string()),
        }
    }

    fn append(&self, term: u64, node: u64, body: String) -> String {
        self.dawdle(&body);
        let mut record = self.record.lock().expect("no writer panicked");
        let (entries, file) = &mut *record;
        let seq = entries.len() as u64 + 1;
        let line = serde_json::json!({"seq": seq, "term": term, "node": node, "body": body});
        writeln!(file, "{line}").expect("the ledger's file can be written");
        entries.push(Entry { seq, term, node, body, at: self.start.elapsed() });
        format!(r#"{{"seq":{seq},"term":{term}}}"#)
    }

    /// Waits a share of the slowest time that depends on the body alone.
    fn dawdle(&self, body: &str) {
        let slowest = self.slowest_us.load(Ordering::Relaxed);
        if slowest > 0 {
            let hash = body.bytes().fold(7_u64, |h, byte| h.wrapping_mul(31).wrapping_add(u64::from(byte)));
            // The pace of a slow backend.
            std::thread::sleep(Duration::from_micros(hash % slowest));
        }
    }

    fn list(&self) -> String {
        let record = self.record.lock().expect("no writer panicked");
        let one =
            |e: &Entry| serde_json::json!({"seq": e.seq, "term": e.term, "node": e.node, "body": e.body});
        serde_json::Value::Array(record.0.iter().map(one).collect()).to_string()
    }
}

/// The next request; `None` at the end of the connection, an error when it breaks off within one.
fn read_request(reader: &mut BufReader<TcpStream>) -> std::io::Result<Option<Request>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace();
    let (method, path) = (words.next().unwrap_or("").to_string(), words.next().unwrap_or("").to_string());
    let mut request = Request { method, path, term: None, node: None, body: String::new() };
    let (mut length, mut chunked) = (0, false);
    loop {
        let mut field = String::new();
        reader.read_line(&mut field)?;
        let Some((name, value)) = field.trim_end().split_once(':') else { break };
        let value = value.trim();
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.parse().unwrap_or(0),
            "transfer-encoding" => chunked = value.eq_ignore_ascii_case("chunked"),
            "termgate-term" => request.term = value.parse().ok(),
            "termgate-node" => request.node = value.parse().ok(),
            _ => {}
        }
    }
    let body = if chunked { read_chunked(reader)? } else { read_length(reader, length)? };
    request.body = String::from_utf8_lossy(&body).into_owned();
    Ok(Some(request))
}

fn read_length(reader: &mut BufReader<TcpStream>, length: usize) -> std::io::Result<Vec<u8>> {
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok(body)
}

fn read_chunked(reader: &mut BufReader<TcpStream>) -> std::io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let size = usize::from_str_radix(line.trim(), 16).unwrap_or(0);
        body.extend(read_length(reader, size)?);
        let mut end = String::new();
        reader.read_line(&mut end)?;
        if size == 0 {
            return Ok(body);
        }
    }
}
