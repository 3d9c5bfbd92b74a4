//! The content of an answer, and what happens to its connection when it ends.
//!
//! An answer that breaks off must never look complete: the error goes on to the client's
//! connection, which is then cut (HTTP/1) or reset (HTTP/2).
//!
//! A body is asked only by whoever can pass it on. A client that takes nothing therefore leaves a
//! body unasked, with a backend connection or a part of the hop's window behind it: over HTTP/1 its
//! socket notices (`listener`), over HTTP/2, where one stream can stand still among others, a watch
//! on the body does.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use prometheus_client::metrics::histogram::Histogram;
use tokio::task::AbortHandle;
use tokio::time::{Sleep, sleep};

use crate::clock;
use crate::hop::body::RecvBody;
use crate::proxy::body::{BodyError, Keep};
use crate::proxy::limits;
use crate::proxy::pool::Lease;
use crate::time::Instant;

#[derive(Debug)]
enum Source {
    Backend { body: Incoming, lease: Option<Lease>, request: Keep },
    Hop { body: RecvBody, _upload: Option<AbortOnDrop> },
}

/// Ends a task when it is dropped.
#[derive(Debug)]
pub struct AbortOnDrop(pub AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Observes how long a request took, when it is dropped with the answer.
#[derive(Debug)]
pub struct Stopwatch {
    /// When the request's head was there.
    pub begun: Instant,
    /// Where the time is counted.
    pub seconds: Histogram,
}

impl Drop for Stopwatch {
    fn drop(&mut self) {
        self.seconds.observe((clock::now() - self.begun).as_secs_f64());
    }
}

/// An answer on its way to the client.
#[derive(Debug)]
pub struct AnswerBody {
    flow: Arc<Mutex<Flow>>,
    stopwatch: Option<Stopwatch>,
    watch: Option<AbortOnDrop>,
}

/// What the body and its watch share.
#[derive(Debug)]
struct Flow {
    /// None when the watch has given the answer up.
    source: Option<Source>,
    patience: Option<Pin<Box<Sleep>>>,
    /// The source has nothing: it is its turn, not the client's.
    waiting: bool,
    /// How often the client's side asked for more.
    asked: u64,
}

impl AnswerBody {
    /// From a backend. The connection goes back to its pool when the answer has ended cleanly and
    /// the whole request was taken; in any other case it is closed.
    pub fn from_backend(body: Incoming, lease: Lease, request: Keep) -> Self {
        let mut source = Source::Backend { body, lease: Some(lease), request };
        source.settle();
        Self::new(source)
    }

    /// From the leader. `upload` is the task that still sends it the request's content, if any; it
    /// ends with the answer.
    pub fn from_hop(body: RecvBody, upload: Option<AbortOnDrop>) -> Self {
        Self::new(Source::Hop { body, _upload: upload })
    }

    fn new(source: Source) -> Self {
        let flow = Flow { source: Some(source), patience: None, waiting: false, asked: 0 };
        Self { flow: Arc::new(Mutex::new(flow)), stopwatch: None, watch: None }
    }

    /// Stops `stopwatch` when the answer ends, in whatever way.
    pub fn timed_by(&mut self, stopwatch: Stopwatch) {
        self.stopwatch = Some(stopwatch);
    }

    /// Gives the answer up when nobody asks for it although it is there.
    pub fn watched(&mut self) {
        if !self.is_end_stream() {
            self.watch = Some(AbortOnDrop(tokio::spawn(watch(Arc::clone(&self.flow))).abort_handle()));
        }
    }

    fn flow(&self) -> MutexGuard<'_, Flow> {
        lock(&self.flow)
    }
}

fn lock(flow: &Mutex<Flow>) -> MutexGuard<'_, Flow> {
    flow.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ends when the client took nothing for a while, between one and two timeouts.
async fn watch(flow: Arc<Mutex<Flow>>) {
    let mut seen = None;
    loop {
        sleep(limits::SEND_STALL_TIMEOUT).await;
        let mut flow = lock(&flow);
        if seen == Some(flow.asked) && !flow.waiting {
            flow.source = None;
            return;
        }
        seen = Some(flow.asked);
    }
}

impl Source {
    /// Gives the connection back once nothing is left to read. hyper asks a body that says it has
    /// ended for nothing more, so this can't wait for the last poll.
    fn settle(&mut self) {
        if let Self::Backend { body, lease, request } = self
            && body.is_end_stream()
            && let Some(lease) = lease.take()
            && request.is_ended()
        {
            lease.give_back();
        }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self {
            Self::Backend { body, .. } => Pin::new(body).poll_frame(cx).map_err(Into::into),
            Self::Hop { body, .. } => Pin::new(body).poll_frame(cx).map_err(Into::into),
        }
    }
}

impl Flow {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.asked += 1;
        let Some(source) = &mut self.source else {
            return Poll::Ready(Some(Err("the client took nothing of the answer for too long".into())));
        };
        loop {
            let Poll::Ready(frame) = source.poll_frame(cx) else {
                self.waiting = true;
                let wait = || Box::pin(sleep(limits::ANSWER_IDLE_TIMEOUT));
                ready!(self.patience.get_or_insert_with(wait).as_mut().poll(cx));
                return Poll::Ready(Some(Err("the backend paused too long inside its answer".into())));
            };
            self.waiting = false;
            self.patience = None;
            match frame {
                // Trailers are dropped: nothing of ours, or against us, can hide in them.
                Some(Ok(frame)) if frame.is_trailers() => {}
                Some(Ok(frame)) => {
                    source.settle();
                    return Poll::Ready(Some(Ok(frame)));
                }
                None => {
                    source.settle();
                    return Poll::Ready(None);
                }
                error => return Poll::Ready(error),
            }
        }
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.flow().poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        match &self.flow().source {
            Some(Source::Backend { body, .. }) => body.is_end_stream(),
            Some(Source::Hop { body, .. }) => body.is_end_stream(),
            None => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.flow().source {
            Some(Source::Backend { body, .. }) => body.size_hint(),
            Some(Source::Hop { body, .. }) => body.size_hint(),
            None => SizeHint::default(),
        }
    }
}
