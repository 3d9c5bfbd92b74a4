//! A minimal HTTP/1.1 client: one blocking connection, kept alive, with a time limit per request.
//!
//! It tells apart the one thing that matters for outcomes: a failure before the first byte of the
//! request left (`NotSent`), and one after it (`Lost`).

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// More than any answer in these tests; a guard against a server gone wild.
const LONGEST_BODY: usize = 64 << 20;

/// An answer, read to its end.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    /// Field names in lower case; the last of several wins.
    pub fields: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

impl Answer {
    /// The value of a field, by its name in lower case.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.get(name).map(String::as_str)
    }

    /// The body as JSON; `Null` when it is not.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or(serde_json::Value::Null)
    }

    /// The body as text, for messages.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Why no answer came.
#[derive(Debug, Clone)]
pub enum Failure {
    /// No byte of the request left this process.
    NotSent(String),
    /// Some or all of the request left; what became of it is unknown.
    Lost(String),
}

/// One connection to one server.
#[derive(Debug)]
pub struct Connection {
    reader: BufReader<TcpStream>,
    /// What `Host` says: the server's address. Without a token, the API trusts no name.
    host: String,
    reusable: bool,
}

impl Connection {
    /// Connects within `limit`.
    pub fn open(to: SocketAddr, limit: Duration) -> Result<Self, Failure> {
        let stream = TcpStream::connect_timeout(&to, limit).map_err(|e| Failure::NotSent(e.to_string()))?;
        Ok(Self::over(stream))
    }

    /// Takes over a connected stream.
    pub fn over(stream: TcpStream) -> Self {
        let _ = stream.set_nodelay(true);
        let host = stream.peer_addr().map_or_else(|_| "localhost".to_string(), |server| server.to_string());
        Self { reader: BufReader::new(stream), host, reusable: true }
    }

    /// Whether another request may follow on this connection.
    pub fn is_reusable(&self) -> bool {
        self.reusable
    }

    /// Whether the server has closed it meanwhile, or said what nobody asked for: a request sent on it would be
    /// lost, and its outcome unknown for no reason.
    pub fn is_closed(&self) -> bool {
        let stream = self.reader.get_ref();
        let looked = stream.set_nonblocking(true).and_then(|()| stream.peek(&mut [0]));
        let is_quiet = looked.is_err_and(|e| e.kind() == std::io::ErrorKind::WouldBlock);
        stream.set_nonblocking(false).is_err() || !is_quiet
    }

    /// Sends one request and reads its answer, all within `limit`.
    pub fn send(
        &mut self,
        method: &str,
        target: &str,
        fields: &[(&str, &str)],
        body: &[u8],
        limit: Duration,
    ) -> Result<Answer, Failure> {
        let end = Instant::now() + limit;
        let (host, length) = (&self.host, body.len());
        let mut head = format!("{method} {target} HTTP/1.1\r\nhost: {host}\r\ncontent-length: {length}\r\n");
        for (name, value) in fields {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        let mut bytes = head.into_bytes();
        bytes.extend_from_slice(body);

        self.reusable = false;
        let stream = self.reader.get_mut();
        let _ = stream.set_write_timeout(Some(limit));
        stream.write_all(&bytes).map_err(|e| Failure::Lost(format!("while sending: {e}")))?;
        let answer = read_answer(&mut self.reader, end).map_err(Failure::Lost)?;
        self.reusable = answer.field("connection") != Some("close");
        Ok(answer)
    }
}

/// A single request on a connection of its own.
pub fn request(
    to: SocketAddr,
    method: &str,
    target: &str,
    fields: &[(&str, &str)],
    body: &[u8],
    limit: Duration,
) -> Result<Answer, Failure> {
    Connection::open(to, limit)?.send(method, target, fields, body, limit)
}

fn read_answer(reader: &mut BufReader<TcpStream>, end: Instant) -> Result<Answer, String> {
    let status_line = read_line(reader, end)?;
    let status = status_line.split(' ').nth(1).and_then(|word| word.parse().ok());
    let status = status.ok_or_else(|| format!("not a status line: {status_line:?}"))?;
    let mut fields = BTreeMap::new();
    loop {
        let line = read_line(reader, end)?;
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(':').ok_or_else(|| format!("not a field: {line:?}"))?;
        fields.insert(name.trim().to_ascii_lowercase(), value.trim().to_string());
    }
    let body = if fields.get("transfer-encoding").is_some_and(|v| v.eq_ignore_ascii_case("chunked")) {
        read_chunks(reader, end)?
    } else {
        let length = fields.get("content-length").and_then(|v| v.parse().ok()).unwrap_or(0);
        read_exactly(reader, length, end)?
    };
    Ok(Answer { status, fields, body })
}

fn read_chunks(reader: &mut BufReader<TcpStream>, end: Instant) -> Result<Vec<u8>, String> {
    let mut body = Vec::new();
    loop {
        let line = read_line(reader, end)?;
        let size = usize::from_str_radix(line.split(';').next().unwrap_or("").trim(), 16)
            .map_err(|_| format!("not a chunk size: {line:?}"))?;
        if size == 0 {
            while !read_line(reader, end)?.is_empty() {}
            return Ok(body);
        }
        body.extend(read_exactly(reader, size, end)?);
        read_line(reader, end)?;
    }
}

fn read_line(reader: &mut BufReader<TcpStream>, end: Instant) -> Result<String, String> {
    let mut line = Vec::new();
    allow_until(reader.get_ref(), end)?;
    let count = reader.read_until(b'\n', &mut line).map_err(|e| name_failure(&e))?;
    if count == 0 {
        return Err("connection closed before an answer".to_string());
    }
    Ok(String::from_utf8_lossy(&line).trim_end().to_string())
}

fn read_exactly(reader: &mut BufReader<TcpStream>, length: usize, end: Instant) -> Result<Vec<u8>, String> {
    if length > LONGEST_BODY {
        return Err(format!("an answer of {length} bytes is too long"));
    }
    let mut body = vec![0; length];
    allow_until(reader.get_ref(), end)?;
    reader.read_exact(&mut body).map_err(|e| name_failure(&e))?;
    Ok(body)
}

fn name_failure(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::WouldBlock => "no answer in time".to_string(),
        _ => format!("while reading: {error}"),
    }
}

fn allow_until(stream: &TcpStream, end: Instant) -> Result<(), String> {
    let left = end.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err("timed out".to_string());
    }
    stream.set_read_timeout(Some(left)).map_err(|e| e.to_string())
}
