//! The demo backend: a ledger that appends what it is told, in the order it is told.
//!
//! ```text
//! POST /ledger   the content is one entry -> 201 {"seq": 7, "term": 42}
//! GET  /ledger   -> [{"seq": 7, "term": 42, "node": 1, "request_id": "…", "body": "…"}, …]
//! ```
//!
//! It knows nothing of fences: it stands behind the guard and writes down the term that the guard
//! let through, so that anybody can see in the file whether a stale write ever landed: terms never
//! go down. An entry is acknowledged when it is on disk.
//!
//! | file | idea |
//! |---|---|
//! | `journal` | the file: one line per entry, one fsync for many |
//! | `mod` | the two calls over HTTP |
//!
//! Left out: indexes, limits on the file's length, and recognising an entry that is sent twice;
//! the request id is recorded, so that a reader can.

pub mod journal;

use std::net::SocketAddr;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::demo::journal::{Draft, Journal, JournalError};
use crate::guard::fields::{self, AnswerBody, BoxError, Sender, json_answer, whole};
use crate::ids::{NodeId, Term};
use crate::listen::{Bounds, accept, finish, last, lingered};
use crate::problem::{Kind, Problem};
use crate::time::Duration;

/// The path of both calls.
const PATH: &str = "/ledger";
/// The longest entry: enough for a demo, short enough to keep whole in memory.
const MAX_ENTRY: usize = 1024 * 1024;

/// Connections at once: as many as the guard before it has.
const MAX_CONNECTIONS: usize = 4096;
/// How long an entry may still take when the ledger is asked to end.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
/// Fields of a request: what the guard lets through.
const MAX_FIELDS: usize = 128;

/// Why the ledger doesn't start.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The listener.
    #[error("cannot listen on {address}: {source}; is another process using it?")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

/// A running ledger; dropping it ends it.
#[derive(Debug)]
pub struct Ledger {
    address: SocketAddr,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Ledger {
    /// Opens the file in `dir`, made when it is missing, and starts to serve on `listen`.
    pub async fn start(listen: SocketAddr, dir: &Path) -> Result<Self, LedgerError> {
        let journal = Arc::new(Journal::open(dir)?);
        let listen_error = |source| LedgerError::Listen { address: listen, source };
        let listener = TcpListener::bind(listen).await.map_err(listen_error)?;
        let address = listener.local_addr().map_err(listen_error)?;
        let stop = watch::Sender::new(false);
        let task = tokio::spawn(serve(listener, journal, stop.subscribe()));
        Ok(Self { address, stop, task })
    }

    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes nothing more, and ends it when what is under way has its answer, or has taken too long.
    pub async fn stop(mut self) {
        self.stop.send_replace(true);
        let _ended = (&mut self.task).await;
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, journal: Arc<Journal>, stop: watch::Receiver<bool>) {
    let bounds = Bounds { connections: MAX_CONNECTIONS, drain: DRAIN_TIMEOUT };
    accept(listener, bounds, stop, |stream, _, stop| connection(stream, journal.clone(), stop).boxed()).await;
}

async fn connection(stream: TcpStream, journal: Arc<Journal>, stop: watch::Receiver<bool>) {
    let _ = stream.set_nodelay(true);
    let closing = stop.clone();
    let service = service_fn(move |request| maybe_last(journal.clone(), request, closing.clone()));
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).max_headers(MAX_FIELDS);
    let connection = pin!(server.serve_connection(TokioIo::new(stream), service));
    if let Err(error) = finish(connection, lingered(stop), |c| c.graceful_shutdown()).await {
        tracing::debug!(%error, "a connection to the ledger ended");
    }
}

/// The last answer of a connection says so.
async fn maybe_last(
    journal: Arc<Journal>,
    request: Request<Incoming>,
    stop: watch::Receiver<bool>,
) -> Result<Response<AnswerBody>, BoxError> {
    Ok(last(answer(journal, request).await?, &stop))
}

/// An error closes the connection without an answer: the outcome is unknown.
async fn answer(journal: Arc<Journal>, request: Request<Incoming>) -> Result<Response<AnswerBody>, BoxError> {
    let sender = Sender::of(request.headers());
    let refused = match (request.uri().path(), request.method()) {
        (PATH, &Method::POST) => match append(&journal, request).await {
            Ok(answer) => return Ok(answer),
            Err(Failure::Refused(problem)) => *problem,
            Err(Failure::Broken(error)) => return Err(error),
        },
        (PATH, &Method::GET | &Method::HEAD) => return list(journal).await,
        (PATH, _) => Problem::new(Kind::MethodNotAllowed, "the ledger takes GET and POST"),
        _ => Problem::new(Kind::NotFound, "the ledger is at /ledger"),
    };
    Ok(sender.tell(refused))
}

/// No entry was made, or nobody knows.
enum Failure {
    Refused(Box<Problem>),
    Broken(BoxError),
}

impl<E: Into<BoxError>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Broken(error.into())
    }
}

fn refused(kind: Kind, detail: &str) -> Failure {
    Failure::Refused(Box::new(Problem::new(kind, detail)))
}

struct Stamp {
    term: Term,
    node: NodeId,
    request_id: Option<String>,
}

fn stamp(fields: &HeaderMap) -> Option<Stamp> {
    let term = fields::term(fields).ok()??;
    let node = fields::node(fields).ok()?;
    let request_id = fields::request_id(fields).ok()?.map(str::to_owned);
    Some(Stamp { term, node, request_id })
}

async fn append(journal: &Journal, request: Request<Incoming>) -> Result<Response<AnswerBody>, Failure> {
    let Some(Stamp { term, node, request_id }) = stamp(request.headers()) else {
        let detail = "the write carries no Termgate-Term and Termgate-Node: send it through the guard";
        return Err(refused(Kind::Forbidden, detail));
    };
    // Content that breaks off is no entry: the guard cuts off what a newer term overtook.
    let content = match Limited::new(request.into_body(), MAX_ENTRY).collect().await {
        Ok(content) => content.to_bytes(),
        Err(error) if error.is::<LengthLimitError>() => {
            return Err(refused(Kind::ContentTooLarge, "an entry has at most 1 MiB"));
        }
        Err(error) => return Err(Failure::Broken(error)),
    };
    let Ok(body) = String::from_utf8(content.into()) else {
        return Err(refused(Kind::BadRequest, "an entry is UTF-8 text"));
    };
    let seq = journal.append(Draft { term, node, request_id, body }).await?;
    Ok(json_answer(StatusCode::CREATED, &json!({ "seq": seq, "term": term })))
}

async fn list(journal: Arc<Journal>) -> Result<Response<AnswerBody>, BoxError> {
    let lines = tokio::task::spawn_blocking(move || journal.read()).await??;
    let mut array = Vec::with_capacity(lines.len() + 2);
    array.push(b'[');
    let entries = lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    for (at, line) in entries.enumerate() {
        if at > 0 {
            array.push(b',');
        }
        array.extend_from_slice(line);
    }
    array.push(b']');
    let mut answer = Response::new(whole(Bytes::from(array)));
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(answer)
}
