//! The way from the guard to its one backend: HTTP/1.1 over connections of its own.
//!
//! Everything streams in both directions. A connection is used again only when the request's
//! content was handed on to its end and the answer ended cleanly; in any doubt it is closed. A
//! write that is cut off has its connection closed, so that the backend sees an incomplete request.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode, Uri};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tower::Service;

use crate::guard::fields::{AnswerBody, BoxError, FENCE, Sender};
use crate::guard::write::{CutOff, FencedBody, FencedWrite, Progress};
use crate::problem::{Kind, Problem};
use crate::proxy::fields::clean_answer;
use crate::time::Duration;

/// Idle connections kept: as many as a busy node opens; each costs the backend a socket.
const MAX_IDLE: usize = 256;
/// An idle connection older than this is not used, as between a node and the guard
/// (`BACKEND_IDLE_TIMEOUT` of the proxy): many backends close theirs after 5 s.
const IDLE_TIMEOUT: Duration = Duration::from_secs(4);
/// Fields of an answer, as many as a node lets through.
const MAX_ANSWER_FIELDS: usize = 256;
/// A backend on the same machine or network answers a connect at once, or is down.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Attempts to find a live idle connection before a fresh one is made; the backend may have closed
/// all of them at once.
const MAX_STALE: usize = 8;

/// Fields that belong to one connection (RFC 9110, 7.6.1), `Expect`, which the guard has answered
/// itself, and `Trailer`, because trailers are not passed on.
const HOP_BY_HOP: [HeaderName; 10] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::EXPECT,
];

/// The backend of one guard.
#[derive(Clone)]
pub struct Backend {
    pool: Arc<Pool>,
}

struct Pool {
    /// `host:port`.
    address: String,
    idle: Mutex<Vec<(Connection, Instant)>>,
}

struct Connection {
    sender: SendRequest<FencedBody>,
    /// Closes the socket at once.
    driver: AbortHandle,
}

/// Why a backend's address can't be used.
#[derive(Debug, thiserror::Error)]
#[error("backend {0} can't be used: write it as http://host:port, without a path")]
pub struct BadBackend(Uri);

impl Backend {
    /// The backend at `uri`; connects when the first request comes.
    pub fn new(uri: &Uri) -> Result<Self, BadBackend> {
        let plain = uri.scheme_str() == Some("http") && matches!(uri.path(), "" | "/");
        let host = uri.host().filter(|host| plain && !host.is_empty());
        let host = host.ok_or_else(|| BadBackend(uri.clone()))?;
        let address = format!("{host}:{}", uri.port_u16().unwrap_or(80));
        Ok(Self { pool: Arc::new(Pool { address, idle: Mutex::default() }) })
    }
}

impl Pool {
    fn take_idle(&self) -> Option<Connection> {
        let mut idle = self.idle.lock().expect("nothing panics while it holds the pool");
        let (connection, since) = idle.pop()?;
        if since.elapsed() < IDLE_TIMEOUT {
            return Some(connection);
        }
        // The rest has been idle for longer still.
        idle.clear();
        None
    }

    fn give_back(&self, connection: Connection) {
        let mut idle = self.idle.lock().expect("nothing panics while it holds the pool");
        if idle.len() < MAX_IDLE && !connection.sender.is_closed() {
            idle.push((connection, Instant::now()));
        }
    }

    async fn connect(&self) -> Result<Connection, BoxError> {
        let connecting = TcpStream::connect(&self.address);
        let stream = tokio::time::timeout(CONNECT_TIMEOUT, connecting).await??;
        stream.set_nodelay(true)?;
        let handshake = Builder::new().max_headers(MAX_ANSWER_FIELDS).handshake(TokioIo::new(stream));
        let (sender, connection) = handshake.await?;
        let task = tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to the backend broke");
            }
        });
        Ok(Connection { sender, driver: task.abort_handle() })
    }

    /// Sends over an idle connection, or over a fresh one. A request that certainly was not sent
    /// goes to the next connection.
    async fn send(
        &self,
        mut request: Request<FencedBody>,
    ) -> Result<(Response<Incoming>, Connection), SendError> {
        for _ in 0..MAX_STALE {
            let Some(mut connection) = self.take_idle() else { break };
            if connection.sender.ready().await.is_err() {
                continue;
            }
            match connection.sender.try_send_request(request).await {
                Ok(answer) => return Ok((answer, connection)),
                Err(mut error) => match error.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(SendError::Unknown(error.into_error().into())),
                },
            }
        }
        let mut connection = self.connect().await.map_err(SendError::NotSent)?;
        match connection.sender.send_request(request).await {
            Ok(answer) => Ok((answer, connection)),
            Err(error) => Err(SendError::Unknown(error.into())),
        }
    }
}

enum SendError {
    NotSent(BoxError),
    Unknown(BoxError),
}

/// Dropping a connection closes it: the only ones that live on are those given back.
impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Service<Request<FencedBody>> for Backend {
    type Response = Response<AnswerBody>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<AnswerBody>, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<FencedBody>) -> Self::Future {
        let pool = self.pool.clone();
        Box::pin(forward(pool, request))
    }
}

async fn forward(
    pool: Arc<Pool>,
    mut request: Request<FencedBody>,
) -> Result<Response<AnswerBody>, BoxError> {
    let sender = Sender::of(request.headers());
    if request.method() == Method::CONNECT {
        let problem = Problem::new(Kind::BadRequest, "the guard opens no tunnels");
        return Ok(sender.tell(problem.status(StatusCode::NOT_IMPLEMENTED)));
    }
    let write = request.extensions_mut().remove::<FencedWrite>();
    let empty = request.body().is_end_stream();
    prepare(&mut request, &pool.address);
    let sent = match &write {
        None => pool.send(request).await,
        Some(write) => {
            // Leaving `send` drops the connection, and with it the incomplete request.
            let cut = async {
                write.progress.cut().await;
                Err(SendError::Unknown(Box::new(CutOff)))
            };
            first(cut, pool.send(request)).await
        }
    };
    let is_write = write.is_some();
    let answer = sent.and_then(|(answer, connection)| {
        let reuse = match write {
            Some(write) => Reuse::WhenSent(write.progress),
            None if empty => Reuse::Yes,
            None => Reuse::No,
        };
        let held = Held { connection: Some(connection), pool: Arc::clone(&pool), reuse };
        answer_of(answer, held).map_err(SendError::Unknown)
    });
    match answer {
        Ok(answer) => Ok(answer),
        Err(SendError::NotSent(error)) => {
            let detail = format!("cannot reach the backend {}: {error}; is it running?", pool.address);
            Ok(sender.tell(Problem::new(Kind::BackendUnavailable, detail)))
        }
        Err(SendError::Unknown(error)) if is_write => Err(error),
        Err(SendError::Unknown(error)) => {
            let detail = format!("the backend's answer can't be used: {error}");
            Ok(sender.tell(Problem::new(Kind::BackendBadResponse, detail).outcome(None)))
        }
    }
}

/// Whichever is ready first; the first argument when both are.
async fn first<T>(one: impl Future<Output = T>, other: impl Future<Output = T>) -> T {
    let (one, other) = (std::pin::pin!(one), std::pin::pin!(other));
    futures_util::future::select(one, other).await.factor_first().0
}

/// Turns a received request into one for the backend's connection.
fn prepare(request: &mut Request<FencedBody>, address: &str) {
    let uri = request.uri();
    let authority = uri.authority().map(|authority| authority.as_str().to_owned());
    let target = uri.path_and_query().map_or("/", |target| target.as_str());
    let target: Uri = target.parse().unwrap_or_else(|_| Uri::from_static("/"));
    *request.uri_mut() = target;
    *request.version_mut() = http::Version::HTTP_11;
    let unsized_content =
        !request.body().is_end_stream() && !request.headers().contains_key(header::CONTENT_LENGTH);
    let fields = request.headers_mut();
    strip_hop_by_hop(fields);
    if !fields.contains_key(header::HOST) {
        let host = authority.as_deref().unwrap_or(address);
        if let Ok(host) = HeaderValue::from_str(host) {
            fields.insert(header::HOST, host);
        }
    }
    if unsized_content {
        // Said outright, because the client side would drop the content of a GET otherwise.
        fields.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
}

/// Removes what belongs to one connection, and what `Connection` nominates. It cannot nominate
/// the fields that frame or fence a request.
fn strip_hop_by_hop(fields: &mut HeaderMap) {
    let nominated: Vec<HeaderName> = fields
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|names| names.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .filter(|name: &HeaderName| {
            *name != header::CONTENT_LENGTH
                && *name != header::HOST
                && !name.as_str().starts_with("termgate-")
        })
        .collect();
    for name in HOP_BY_HOP.iter().chain(&nominated) {
        fields.remove(name);
    }
}

/// May the connection be used again when the answer has ended?
enum Reuse {
    Yes,
    No,
    WhenSent(Arc<Progress>),
}

/// The connection an answer comes over.
struct Held {
    connection: Option<Connection>,
    pool: Arc<Pool>,
    reuse: Reuse,
}

impl Held {
    /// The answer ended cleanly.
    fn release(&mut self) {
        let Some(connection) = self.connection.take() else { return };
        let clean = match &self.reuse {
            Reuse::Yes => true,
            Reuse::No => false,
            Reuse::WhenSent(progress) => progress.is_sent(),
        };
        if clean {
            self.pool.give_back(connection);
        }
    }
}

/// The answer as the node gets it. A refusal by a fence of the backend's own passes; nothing else of
/// ours is the backend's to say.
fn answer_of(answer: Response<Incoming>, mut held: Held) -> Result<Response<AnswerBody>, BoxError> {
    let (mut head, content) = answer.into_parts();
    let fence = head.headers.get(&FENCE).cloned();
    clean_answer(head.status, &mut head.headers)?;
    head.headers.extend(fence.map(|refusal| (FENCE, refusal)));
    if content.is_end_stream() {
        held.release();
    }
    Ok(Response::from_parts(head, BackendContent { content, held }.boxed_unsync()))
}

/// The content of an answer; gives the connection back at its clean end.
struct BackendContent {
    content: Incoming,
    held: Held,
}

impl Body for BackendContent {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = ready!(Pin::new(&mut self.content).poll_frame(context));
        if frame.is_none() || (matches!(frame, Some(Ok(_))) && self.content.is_end_stream()) {
            self.held.release();
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.content.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.content.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stripped(fields: &[(&'static str, &'static str)]) -> Vec<String> {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(*name, HeaderValue::from_static(value));
        }
        strip_hop_by_hop(&mut map);
        map.keys().map(|name| name.to_string()).collect()
    }

    #[tokio::test]
    async fn a_connection_that_was_idle_for_long_is_not_used() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let pool = Pool { address, idle: Mutex::default() };
        let connection = pool.connect().await.expect("connects");
        tokio::time::pause();
        pool.give_back(connection);
        tokio::time::advance(IDLE_TIMEOUT / 2).await;
        pool.give_back(pool.take_idle().expect("is used again"));
        tokio::time::advance(IDLE_TIMEOUT).await;
        assert!(pool.take_idle().is_none());
    }

    #[test]
    fn strips_what_belongs_to_the_connection() {
        let left = stripped(&[
            ("connection", "close, x-mine"),
            ("x-mine", "1"),
            ("transfer-encoding", "chunked"),
            ("expect", "100-continue"),
            ("accept", "*/*"),
        ]);
        assert_eq!(left, ["accept"]);
    }

    #[test]
    fn nothing_can_nominate_the_fields_that_fence_a_request() {
        let left = stripped(&[("connection", "termgate-term, content-length"), ("termgate-term", "4")]);
        assert_eq!(left, ["termgate-term"]);
    }

    #[test]
    fn refuses_a_backend_it_can_not_reach_by_plain_http() {
        for bad in ["https://127.0.0.1:1", "http://127.0.0.1:1/base", "127.0.0.1:80", "/"] {
            assert!(Backend::new(&bad.parse().expect("a uri")).is_err(), "{bad}");
        }
        assert!(Backend::new(&Uri::from_static("http://127.0.0.1:8000")).is_ok());
    }
}
