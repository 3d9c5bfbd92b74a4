//! Listening for clients over TCP, and ending it without leaving one of them in doubt.
//!
//! ```text
//! serving   up to so many connections at once; the others wait in the kernel's queue
//!    | stop
//! closing   whom the kernel has connected by then is served, and nobody after them
//!    |      HTTP/2 is told which requests still count; HTTP/1 that its next answer is the last one
//!    | LINGER
//! ending    an HTTP/1 connection without a request is closed; what is under way gets its answer
//!    | the drain time, or nothing left
//! over      what has no answer is cut off
//! ```
//!
//! HTTP/2 ends a connection with GOAWAY, which says what was not begun (RFC 9113, section 6.8). HTTP/1 has no such
//! word: when a connection closes while a request is on its way, its client can't know whether it was begun. So an
//! answer that begins after `stop` says `connection: close`, and a connection without a request is closed only after
//! [`LINGER`]. What remains: a request that leaves its client in the moment when a connection is closed that was idle
//! for so long, or whose last answer began before `stop` and took longer.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use http::Response;
use http::header::{CONNECTION, HeaderValue};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::time::Duration;

/// How long clients of HTTP/1 may go on after `stop`: several times what a busy one takes to its next request.
pub const LINGER: Duration = Duration::from_millis(500);
/// The pause after a failed accept, so that a lack of file descriptors does not spin.
const PAUSE: Duration = Duration::from_millis(50);

/// What a listener allows its clients.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Connections at once.
    pub connections: usize,
    /// How long what is under way may take, once nothing more is taken.
    pub drain: Duration,
}

/// Serves connections with `serve` until `stop`, then lets them end.
pub async fn accept(
    listener: TcpListener,
    bounds: Bounds,
    mut stop: watch::Receiver<bool>,
    mut serve: impl FnMut(TcpStream, SocketAddr, watch::Receiver<bool>) -> BoxFuture<'static, ()>,
) {
    let slots = Arc::new(Semaphore::new(bounds.connections));
    let mut connections = JoinSet::new();
    loop {
        let next = async {
            let slot = Arc::clone(&slots).acquire_owned().await.expect("the semaphore is never closed");
            (slot, listener.accept().await)
        };
        let (slot, accepted) = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => break,
            accepted = next => accepted,
        };
        while connections.try_join_next().is_some() {}
        match accepted {
            Ok((stream, client)) => begin(&mut connections, slot, serve(stream, client, stop.clone())),
            Err(error) => {
                tracing::warn!(%error, address = ?listener.local_addr().ok(), "cannot accept a connection");
                sleep(PAUSE).await;
            }
        }
    }
    for (slot, stream, client) in connected(listener, &slots) {
        begin(&mut connections, slot, serve(stream, client, stop.clone()));
    }
    let drained = async { while connections.join_next().await.is_some() {} };
    let _ = timeout(LINGER + bounds.drain, drained).await;
}

fn begin(connections: &mut JoinSet<()>, slot: OwnedSemaphorePermit, serving: BoxFuture<'static, ()>) {
    connections.spawn(async move {
        serving.await;
        drop(slot);
    });
}

/// Closes the listener, and answers with whom the kernel has connected until then: they would be reset with it.
fn connected(
    listener: TcpListener,
    slots: &Arc<Semaphore>,
) -> Vec<(OwnedSemaphorePermit, TcpStream, SocketAddr)> {
    let mut connected = Vec::new();
    let Ok(listener) = listener.into_std() else { return connected };
    while let Ok(slot) = Arc::clone(slots).try_acquire_owned() {
        let accepted = listener.accept().and_then(|(stream, client)| {
            stream.set_nonblocking(true)?;
            Ok((TcpStream::from_std(stream)?, client))
        });
        match accepted {
            Ok((stream, client)) => connected.push((slot, stream, client)),
            Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
            // Nobody is left, or nobody can be taken.
            Err(_) => break,
        }
    }
    connected
}

/// When a connection of HTTP/2 is to be shut down.
pub async fn told(mut stop: watch::Receiver<bool>) {
    // Whoever is gone says nothing more: that is a stop too.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// When a connection of HTTP/1, or one that has not said what it speaks, is to be shut down, if a [`last`] answer has
/// not ended it before.
pub async fn lingered(stop: watch::Receiver<bool>) {
    told(stop).await;
    sleep(LINGER).await;
}

/// An answer over HTTP/1, which after `stop` says that it is the last one of its connection.
pub fn last<B>(mut answer: Response<B>, stop: &watch::Receiver<bool>) -> Response<B> {
    if *stop.borrow() {
        answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    answer
}

/// Runs a connection to its end; at `close`, it takes no new request and ends what it has.
pub async fn finish<C: Future>(
    mut connection: Pin<&mut C>,
    close: impl Future<Output = ()>,
    shut_down: fn(Pin<&mut C>),
) -> C::Output {
    let ended = tokio::select! {
        // A request that has arrived by now is under way.
        biased;
        ended = connection.as_mut() => Some(ended),
        () = close => None,
    };
    match ended {
        Some(ended) => ended,
        None => {
            shut_down(connection.as_mut());
            connection.await
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::pin::pin;

    use futures_util::FutureExt;
    use hyper::server::conn::http1;
    use hyper::service::service_fn;
    use hyper_util::rt::TokioIo;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";

    async fn bound() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        (listener, address)
    }

    /// Answers everything with 200.
    async fn serve(stream: TcpStream, stop: watch::Receiver<bool>) {
        let closing = stop.clone();
        let service = service_fn(move |_| {
            let answer = Ok::<_, Infallible>(last(Response::new(String::new()), &closing));
            async { answer }
        });
        let connection = pin!(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        let _ = finish(connection, lingered(stop), |c| c.graceful_shutdown()).await;
    }

    async fn accept_all(listener: TcpListener, stop: watch::Receiver<bool>) {
        let bounds = Bounds { connections: 8, drain: Duration::from_secs(60) };
        accept(listener, bounds, stop, |stream, _, stop| serve(stream, stop).boxed()).await;
    }

    async fn read_answer(client: &mut TcpStream) -> String {
        let mut text = String::new();
        while !text.ends_with("\r\n\r\n") {
            let byte = client.read_u8().await.expect("more of the answer");
            text.push(byte.into());
        }
        text
    }

    #[tokio::test]
    async fn a_connection_in_use_ends_with_an_answer_that_says_so_and_an_idle_one_later() {
        let (listener, address) = bound().await;
        let stop = watch::Sender::new(false);
        let accepting = tokio::spawn(accept_all(listener, stop.subscribe()));
        let mut busy = TcpStream::connect(address).await.expect("connects");
        let mut idle = TcpStream::connect(address).await.expect("connects");
        for client in [&mut busy, &mut idle] {
            client.write_all(REQUEST).await.expect("sends");
            assert!(!read_answer(client).await.contains("connection: close"));
        }
        stop.send_replace(true);
        let stopped = tokio::time::Instant::now();
        busy.write_all(REQUEST).await.expect("sends");
        assert!(read_answer(&mut busy).await.contains("connection: close"));
        assert_eq!(busy.read(&mut [0]).await.expect("an end"), 0);
        assert_eq!(idle.read(&mut [0]).await.expect("an end"), 0);
        assert!(stopped.elapsed() >= LINGER, "it might have asked");
        accepting.await.expect("no panic");
        assert!(TcpStream::connect(address).await.is_err(), "nobody listens any more");
    }

    #[tokio::test]
    async fn whom_the_kernel_has_connected_before_the_end_is_served() {
        let (listener, address) = bound().await;
        let stop = watch::Sender::new(true);
        let mut clients = Vec::new();
        for _ in 0..5 {
            let mut client = TcpStream::connect(address).await.expect("connects");
            client.write_all(REQUEST).await.expect("sends");
            clients.push(client);
        }
        let accepting = tokio::spawn(accept_all(listener, stop.subscribe()));
        for client in &mut clients {
            assert!(read_answer(client).await.starts_with("HTTP/1.1 200"));
        }
        accepting.await.expect("no panic");
    }

    #[tokio::test]
    async fn what_takes_longer_than_the_drain_time_is_cut_off() {
        let (listener, address) = bound().await;
        let stop = watch::Sender::new(false);
        let bounds = Bounds { connections: 8, drain: Duration::from_millis(20) };
        let serve = |stream: TcpStream, _, _| {
            async move {
                let _open = stream;
                std::future::pending().await
            }
            .boxed()
        };
        let accepting = tokio::spawn(accept(listener, bounds, stop.subscribe(), serve));
        let mut client = TcpStream::connect(address).await.expect("connects");
        stop.send_replace(true);
        accepting.await.expect("no panic");
        assert_eq!(client.read(&mut [0]).await.unwrap_or(0), 0, "closed");
    }
}
