//! The connections of one lane to one backend.
//!
//! A connection carries one request at a time. It is used again only when its last answer ended
//! cleanly, the whole request was taken, and it has not been idle for long; in every other case it
//! is closed. The last one given back is the first to be used: it is the least likely to have been
//! closed by the backend.
//!
//! A place means that a connection is in use: whoever waits for one gets the next that becomes free,
//! with the connection that was given back. Idle connections hold no place; they are bounded on
//! their own.

use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};

use http::{Request, Response};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::AbortHandle;
use tokio::time::timeout;

use crate::clock;
use crate::fencing::passage::Broken;
use crate::proxy::answer::AnswerBody;
use crate::proxy::body::{Content, Keep};
use crate::proxy::ledger::{Ledger, Permit};
use crate::proxy::limits;
use crate::proxy::upstream::{Backend, ConnectError};
use crate::time::Instant;

/// One open connection; dropped, it is closed at once.
#[derive(Debug)]
struct Line {
    sender: SendRequest<Content>,
    ledger: Arc<Ledger>,
    driver: AbortHandle,
}

impl Drop for Line {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

#[derive(Debug)]
struct Idle {
    line: Line,
    since: Instant,
}

/// The connections of one lane to one backend.
#[derive(Debug)]
pub struct Pool {
    backend: Backend,
    idle: Mutex<Vec<Idle>>,
    places: Arc<Semaphore>,
}

/// No connection could be had; nothing was sent.
#[derive(Debug, thiserror::Error)]
pub enum CheckoutError {
    /// The backend refused, or could not be reached.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// All connections of the lane are in use.
    #[error("all {} connections to the backend are in use", limits::BACKEND_CONNECTIONS)]
    Exhausted,
}

/// How sending failed.
#[derive(Debug)]
pub struct SendError {
    /// What is known, and decides.
    pub broken: Broken,
    /// In words.
    pub cause: String,
}

impl Pool {
    /// An empty pool.
    pub fn new(backend: Backend) -> Self {
        Self::of_size(backend, limits::BACKEND_CONNECTIONS)
    }

    fn of_size(backend: Backend, places: usize) -> Self {
        Self { backend, idle: Mutex::default(), places: Arc::new(Semaphore::new(places)) }
    }

    /// A connection that is ready for a request: an idle one, or a new one.
    pub async fn checkout(self: &Arc<Self>) -> Result<Lease, CheckoutError> {
        let place = self.place().await?;
        match self.take_idle() {
            Some(line) => Ok(Lease { line, reused: true, pool: Arc::clone(self), place }),
            None => self.connect(place).await,
        }
    }

    /// A new connection, whatever is idle.
    pub async fn open(self: &Arc<Self>) -> Result<Lease, CheckoutError> {
        let place = self.place().await?;
        self.connect(place).await
    }

    async fn place(&self) -> Result<OwnedSemaphorePermit, CheckoutError> {
        match timeout(limits::CHECKOUT_TIMEOUT, Arc::clone(&self.places).acquire_owned()).await {
            Ok(Ok(place)) => Ok(place),
            _ => Err(CheckoutError::Exhausted),
        }
    }

    async fn connect(self: &Arc<Self>, place: OwnedSemaphorePermit) -> Result<Lease, CheckoutError> {
        let (wire, ledger) = self.backend.connect().await?;
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(limits::ANSWER_HEAD_BYTES)
            .max_headers(limits::ANSWER_FIELDS)
            .handshake(TokioIo::new(wire))
            .await
            .map_err(|_| CheckoutError::Exhausted)?;
        // Its errors are reported to the request it carries; an idle connection's don't matter.
        let driver = tokio::spawn(async move { drop(connection.await) }).abort_handle();
        let line = Line { sender, ledger, driver };
        Ok(Lease { line, reused: false, pool: Arc::clone(self), place })
    }

    fn take_idle(&self) -> Option<Line> {
        let oldest = clock::now().before(limits::BACKEND_IDLE_TIMEOUT);
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(Idle { line, since }) = idle.pop() {
            if since <= oldest {
                // The rest has been idle for longer still.
                idle.clear();
                return None;
            }
            if line.sender.is_ready() {
                return Some(line);
            }
        }
        None
    }

    fn put(&self, line: Line) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < limits::BACKEND_IDLE {
            idle.push(Idle { line, since: clock::now() });
        }
    }
}

/// A connection for one request.
#[derive(Debug)]
pub struct Lease {
    line: Line,
    reused: bool,
    pool: Arc<Pool>,
    /// Given up last: whoever waits for it then finds the connection among the idle ones.
    place: OwnedSemaphorePermit,
}

impl Lease {
    /// What it was sent; outlives it.
    pub fn ledger(&self) -> Arc<Ledger> {
        Arc::clone(&self.line.ledger)
    }

    /// Sends one request and waits for the head of its answer. `permit` is asked once more inside
    /// the first write.
    pub async fn send(
        mut self,
        request: Request<Content>,
        keep: Keep,
        permit: Option<Permit>,
    ) -> Result<Response<AnswerBody>, SendError> {
        self.line.ledger.begin(permit);
        let mut answer = pin!(self.line.sender.send_request(request));
        let mut seen = 0;
        let outcome = loop {
            let waited = timeout(limits::ANSWER_TIMEOUT, answer.as_mut()).await;
            let written = self.line.ledger.written();
            match waited {
                Ok(outcome) => break outcome.map_err(|e| (false, describe(&e))),
                // A slow but steady upload is not a slow backend.
                Err(_) if !keep.is_ended() && written > seen => seen = written,
                Err(_) => break Err((true, format!("no answer within {:?}", limits::ANSWER_TIMEOUT))),
            }
        };
        match outcome {
            Ok(answer) => Ok(answer.map(|body| AnswerBody::from_backend(body, self, keep))),
            Err((timed_out, cause)) => {
                // Stop the connection before the count is read, or it might still grow.
                self.line.driver.abort();
                let written = self.line.ledger.written();
                Err(SendError { broken: Broken { written, reused: self.reused, timed_out }, cause })
            }
        }
    }

    /// Back to the pool, as soon as the connection itself is done with the answer.
    pub fn give_back(mut self) {
        if self.line.sender.is_ready() {
            return self.put();
        }
        tokio::spawn(async move {
            let ready = timeout(limits::CHECKOUT_TIMEOUT, self.line.sender.ready()).await;
            if matches!(ready, Ok(Ok(()))) {
                self.put();
            }
        });
    }

    fn put(self) {
        let Self { line, pool, place, .. } = self;
        pool.put(line);
        drop(place);
    }
}

fn describe(error: &hyper::Error) -> String {
    use std::error::Error;
    error.source().map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    use http_body_util::BodyExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    /// Connections at once.
    const PLACES: usize = 8;

    /// Answers every request with an empty 200.
    async fn backend() -> Arc<Pool> {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let uri = format!("http://{}", listener.local_addr().expect("an address"));
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(answer_all(socket));
            }
        });
        let backend = Backend::new(&uri.parse().expect("a uri"), None).expect("a backend");
        Arc::new(Pool::of_size(backend, PLACES))
    }

    async fn answer_all(mut socket: TcpStream) {
        let mut bytes = Vec::new();
        while socket.read_buf(&mut bytes).await.is_ok_and(|n| n > 0) {
            if bytes.ends_with(b"\r\n\r\n") {
                bytes.clear();
                let _ = socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
            }
        }
    }

    async fn exchange(lease: Lease) {
        let request = Request::get("/").header("host", "a").body(Content::Whole(None)).expect("a request");
        let answer = lease.send(request, Keep::Empty, None).await.expect("an answer");
        answer.into_body().collect().await.expect("an end");
    }

    #[tokio::test]
    async fn who_waits_gets_the_connection_that_was_given_back() {
        let pool = backend().await;
        let mut leases = Vec::new();
        for _ in 0..PLACES {
            leases.push(pool.checkout().await.expect("a place"));
        }
        let other = Arc::clone(&pool);
        let waiter = tokio::spawn(async move { other.checkout().await.map(|lease| lease.reused) });
        tokio::task::yield_now().await;
        exchange(leases.pop().expect("one of them")).await;
        assert_eq!(waiter.await.expect("no panic").ok(), Some(true));
    }

    #[tokio::test]
    async fn more_clients_than_connections_wait_their_turn() {
        let pool = backend().await;
        let begun = std::time::Instant::now();
        let client = || async {
            let mut served = 0;
            while begun.elapsed() < limits::CHECKOUT_TIMEOUT * 3 / 2 {
                exchange(pool.checkout().await.expect("a place")).await;
                served += 1;
            }
            served
        };
        let clients = (0..2 * PLACES).map(|_| client());
        let served: Vec<u32> = futures_util::future::join_all(clients).await;
        assert!(served.iter().all(|n| *n > 0), "{served:?}");
    }

    /// Over HTTP/2 a client can take nothing of one stream while its connection is fine.
    #[tokio::test]
    async fn an_answer_that_nobody_takes_gives_its_connection_up() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let uri = format!("http://{}", listener.local_addr().expect("an address")).parse().expect("a uri");
        let pool = Arc::new(Pool::of_size(Backend::new(&uri, None).expect("a backend"), 1));
        let lease = pool.checkout().await.expect("a place");
        let (mut backend, _) = listener.accept().await.expect("accepts");
        let request = Request::get("/").header("host", "a").body(Content::Whole(None)).expect("a request");
        let sent = tokio::spawn(lease.send(request, Keep::Empty, None));
        backend.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf").await.expect("writes");
        let mut body = sent.await.expect("no panic").expect("an answer").into_body();
        body.watched();
        assert_eq!(body.frame().await.expect("a frame").expect("good").into_data().expect("data"), "half");
        backend.write_all(b"more").await.expect("writes");

        tokio::time::pause();
        // The length of the stall.
        tokio::time::sleep(limits::SEND_STALL_TIMEOUT * 3).await;
        pool.checkout().await.expect("the place is free");
        assert!(body.frame().await.expect("an error").is_err());
    }
}
