//! Accepting clients: one listener per lane on the same address, the kernel spreads connections.
//!
//! Every connection has a deadline before anything is known about it: hyper's own detection of
//! HTTP/2 waits for ever, so the preface is read here.

use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Sleep, sleep, timeout};

use crate::proxy::limits;
use crate::proxy::service::Lane;

/// The first bytes of an HTTP/2 connection (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Connections that the kernel may queue while the lane is busy.
const BACKLOG: i32 = 1024;
/// The pause after `accept` failed, so that a lack of file descriptors does not spin.
const ACCEPT_PAUSE: crate::time::Duration = crate::time::Duration::from_millis(20);

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
pub async fn accept(listener: TcpListener, lane: Arc<Lane>, mut stop: watch::Receiver<bool>) {
    let slots = Arc::new(Semaphore::new(limits::CLIENT_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let next = async {
            let slot = Arc::clone(&slots).acquire_owned().await;
            (slot, listener.accept().await)
        };
        let accepted = tokio::select! {
            accepted = next => Some(accepted),
            _ = stop.wait_for(|stop| *stop) => None,
        };
        while connections.try_join_next().is_some() {}
        match accepted {
            None => break,
            Some((Ok(slot), Ok((socket, client)))) => {
                connections.spawn(serve(socket, client, Arc::clone(&lane), slot, stop.clone()));
            }
            Some((_, outcome)) => {
                tracing::warn!(error = ?outcome.err(), "cannot accept a connection");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    let drained = async { while connections.join_next().await.is_some() {} };
    let _ = timeout(limits::DRAIN_TIMEOUT, drained).await;
}

async fn serve(
    mut socket: TcpStream,
    client: SocketAddr,
    lane: Arc<Lane>,
    slot: OwnedSemaphorePermit,
    stop: watch::Receiver<bool>,
) {
    let _slot = slot;
    let _ = socket.set_nodelay(true);
    // A place for TLS: with it, ALPN decides and nothing is sniffed.
    let Ok(Ok(first)) = timeout(limits::PREFACE_TIMEOUT, first_bytes(&mut socket)).await else {
        lane.metrics.refuse("connection", "no-preface");
        return;
    };
    let http2 = first == PREFACE;
    let io = TokioIo::new(ClientSocket::new(first, socket));
    let service = service_fn(move |request: Request<Incoming>| {
        let lane = Arc::clone(&lane);
        async move { Ok::<_, std::convert::Infallible>(lane.serve(request, client).await) }
    });
    if http2 {
        let connection = pin!(http2_builder().serve_connection(io, service));
        finish(connection, stop, |c| c.graceful_shutdown()).await;
    } else {
        let connection = pin!(http1_builder().serve_connection(io, service));
        finish(connection, stop, |c| c.graceful_shutdown()).await;
    }
}

/// Runs a connection to its end; told to stop, it takes no new request and ends what it has.
async fn finish<C: Future>(
    mut connection: Pin<&mut C>,
    mut stop: watch::Receiver<bool>,
    shut_down: fn(Pin<&mut C>),
) {
    let stopped = tokio::select! {
        _ = connection.as_mut() => false,
        _ = stop.wait_for(|stop| *stop) => true,
    };
    if stopped {
        shut_down(connection.as_mut());
        let _ = connection.await;
    }
}

fn http1_builder() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(limits::HEAD_TIMEOUT)
        .max_header_size(limits::HEAD_BYTES + limits::TARGET_BYTES)
        .max_buf_size(2 * (limits::HEAD_BYTES + limits::TARGET_BYTES))
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
        .max_header_list_size(limits::HEAD_BYTES as u32)
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

    use tokio::io::AsyncWriteExt;

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
}
