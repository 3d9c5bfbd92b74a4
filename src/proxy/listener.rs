//! Accepting clients: one listener per lane on the same address, the kernel spreads connections.
//!
//! Every connection has a deadline before anything is known about it: hyper's own detection of
//! HTTP/2 waits for ever, so the preface is read here.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::FutureExt;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{Sleep, sleep, timeout};

use crate::listen::{self, Bounds};
use crate::proxy::body::Content;
use crate::proxy::limits;
use crate::proxy::service::Lane;

/// The first bytes of an HTTP/2 connection (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Connections that the kernel may queue while the lane is busy.
const BACKLOG: i32 = 1024;

/// Binds one of several listeners on the same address.
pub fn bind(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Accepts until `stop`, then lets what is under way finish, for a while.
pub async fn accept(listener: TcpListener, lane: Arc<Lane>, stop: watch::Receiver<bool>) {
    let bounds = Bounds { connections: limits::CLIENT_CONNECTIONS, drain: limits::DRAIN_TIMEOUT };
    let serve = |socket, client, stop| serve(socket, client, Arc::clone(&lane), stop).boxed();
    listen::accept(listener, bounds, stop, serve).await;
}

async fn serve(mut socket: TcpStream, client: SocketAddr, lane: Arc<Lane>, stop: watch::Receiver<bool>) {
    let _ = socket.set_nodelay(true);
    // A place for TLS: with it, ALPN decides and nothing is sniffed.
    let first = tokio::select! {
        biased;
        first = timeout(limits::PREFACE_TIMEOUT, first_bytes(&mut socket)) => first,
        () = listen::lingered(stop.clone()) => return,
    };
    let Ok(Ok(first)) = first else {
        lane.metrics.refuse("connection", "no-preface");
        return;
    };
    let http2 = first == PREFACE;
    let socket = ClientSocket::new(first, socket);
    let serving = Arc::clone(&lane);
    let answer = move |request| {
        let lane = Arc::clone(&serving);
        async move { lane.serve(request, client).await }
    };
    if http2 {
        let service = service_fn(move |request| answer(request).map(Ok::<_, Infallible>));
        let connection = pin!(http2_builder().serve_connection(TokioIo::new(socket), service));
        let _ = listen::finish(connection, listen::told(stop), |c| c.graceful_shutdown()).await;
    } else {
        serve_http1(socket, stop, answer, || lane.late_head()).await;
    }
}

/// Serves HTTP/1, and answers a head that began and did not come to its end in time with `late`: hyper
/// only closes. An idle connection that comes to its end is closed without a word.
async fn serve_http1<F>(
    socket: ClientSocket,
    stop: watch::Receiver<bool>,
    answer: impl Fn(Request<Incoming>) -> F,
    late: impl FnOnce() -> Response<Bytes>,
) where
    F: Future<Output = Response<Content>>,
{
    let last = |answer| Ok::<_, Infallible>(listen::last(answer, &stop));
    let service = service_fn(|request| answer(request).map(last));
    let mut connection = http1_builder().serve_connection(TokioIo::new(socket), service);
    let close = listen::lingered(stop.clone());
    let ended = listen::finish(Pin::new(&mut connection), close, |c| c.graceful_shutdown()).await;
    let parts = connection.into_parts();
    if ended.is_err_and(|error| error.is_timeout()) && !parts.read_buf.is_empty() {
        let mut socket = parts.io.into_inner();
        if socket.write_all(&as_http1(late())).await.is_ok() {
            let _ = socket.shutdown().await;
        }
    }
}

/// The bytes of the last answer on a connection.
fn as_http1(answer: Response<Bytes>) -> Vec<u8> {
    let (head, content) = answer.into_parts();
    let mut bytes = format!("HTTP/1.1 {}\r\n", head.status).into_bytes();
    for (name, value) in &head.headers {
        bytes.extend_from_slice(name.as_str().as_bytes());
        bytes.extend_from_slice(b": ");
        bytes.extend_from_slice(value.as_bytes());
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(
        format!("content-length: {}\r\nconnection: close\r\n\r\n", content.len()).as_bytes(),
    );
    bytes.extend_from_slice(&content);
    bytes
}

fn http1_builder() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(limits::HEAD_TIMEOUT)
        .max_headers(limits::PARSED_FIELDS)
        .max_header_size(limits::PARSED_HEAD_BYTES)
        .max_buf_size(2 * limits::PARSED_HEAD_BYTES)
        // A client that has sent all it has to say still wants its answer; and a write that was begun is
        // brought to its end, whatever becomes of its client.
        .half_close(true);
    builder
}

fn http2_builder() -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .keep_alive_interval(limits::PING_INTERVAL)
        .keep_alive_timeout(limits::PING_TIMEOUT)
        .max_concurrent_streams(limits::STREAMS)
        .max_header_list_size(limits::PARSED_HEAD_BYTES as u32)
        .initial_stream_window_size(256 * 1024)
        .initial_connection_window_size(1024 * 1024)
        .max_send_buf_size(64 * 1024)
        .max_local_error_reset_streams(100);
    builder
}

/// Reads as long as what comes may still be the HTTP/2 preface, and not a byte further.
async fn first_bytes(socket: &mut TcpStream) -> io::Result<Bytes> {
    let mut first = Vec::with_capacity(PREFACE.len());
    while first.len() < PREFACE.len() && PREFACE.starts_with(&first) {
        let missing = (PREFACE.len() - first.len()) as u64;
        if (&mut *socket).take(missing).read_buf(&mut first).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(first.into())
}

/// A client's socket whose first bytes were read already. A client that takes nothing for a while
/// loses its connection: hyper would wait for ever, with all that the answer holds.
struct ClientSocket {
    first: Bytes,
    socket: TcpStream,
    stall: Option<Pin<Box<Sleep>>>,
}

impl ClientSocket {
    fn new(first: Bytes, socket: TcpStream) -> Self {
        Self { first, socket, stall: None }
    }

    fn with_limit(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.stall = None;
            return written;
        }
        let stall = self.stall.get_or_insert_with(|| Box::pin(sleep(limits::SEND_STALL_TIMEOUT)));
        ready!(stall.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for ClientSocket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.first.is_empty() {
            return Pin::new(&mut self.socket).poll_read(cx, buf);
        }
        let fits = self.first.len().min(buf.remaining());
        buf.put_slice(&self.first.split_to(fits));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ClientSocket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write(cx, buf);
        self.with_limit(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write_vectored(cx, bufs);
        self.with_limit(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::problem::{Kind, Problem};

    #[tokio::test]
    async fn a_client_that_takes_nothing_loses_its_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let _client = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("connects");
        let (socket, _) = listener.accept().await.expect("accepts");
        let mut socket = ClientSocket::new(Bytes::new(), socket);
        tokio::time::pause();
        let all = async { while socket.write_all(&[0; 64 * 1024]).await.is_ok() {} };
        timeout(limits::SEND_STALL_TIMEOUT * 2, all).await.expect("an error, in time");
    }

    /// What a client reads until its connection ends, having sent `bytes` and nothing more.
    async fn answer_to(bytes: &[u8]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let mut client =
            TcpStream::connect(listener.local_addr().expect("an address")).await.expect("connects");
        let (socket, _) = listener.accept().await.expect("accepts");
        client.write_all(bytes).await.expect("sends");
        let done = |_| async { Response::new(Content::whole("done".into())) };
        let late = || Problem::new(Kind::ClientTimeout, "too late").into_response();
        let stop = watch::Sender::new(false);
        tokio::time::pause();
        let serving = serve_http1(ClientSocket::new(Bytes::new(), socket), stop.subscribe(), done, late);
        timeout(limits::HEAD_TIMEOUT * 2, serving).await.expect("an end, in time");
        tokio::time::resume();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.expect("reads");
        answer
    }

    #[tokio::test]
    async fn a_head_that_does_not_come_to_its_end_is_answered() {
        let answer = answer_to(b"GET / HTTP/1.1\r\nhost: a\r\n").await;
        let (head, content) = answer.split_once("\r\n\r\n").expect("an answer");
        assert!(head.starts_with("HTTP/1.1 408 "), "{head}");
        assert!(head.contains("content-type: application/problem+json"), "{head}");
        assert!(head.contains(&format!("content-length: {}", content.len())), "{head}");
        assert!(content.contains("urn:termgate:problem:client-timeout"), "{content}");
    }

    #[tokio::test]
    async fn an_idle_connection_ends_without_a_word() {
        assert_eq!(answer_to(b"").await, "");
        let answer = answer_to(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
        assert!(answer.ends_with("done"), "and nothing after it: {answer}");
    }
}
