//! The content of an answer, and what happens to its connection when it ends.
//!
//! An answer that breaks off must never look complete: the error goes on to the client's
//! connection, which is then cut (HTTP/1) or reset (HTTP/2).

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::task::AbortHandle;
use tokio::time::{Sleep, sleep};

use crate::clock;
use crate::hop::body::RecvBody;
use crate::metrics::Metrics;
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
    pub metrics: Metrics,
}

impl Drop for Stopwatch {
    fn drop(&mut self) {
        self.metrics.request_seconds.observe((clock::now() - self.begun).as_secs_f64());
    }
}

/// An answer on its way to the client.
#[derive(Debug)]
pub struct AnswerBody {
    source: Source,
    stopwatch: Option<Stopwatch>,
    patience: Option<Pin<Box<Sleep>>>,
}

impl AnswerBody {
    /// From a backend. The connection goes back to its pool when the answer has ended cleanly and
    /// the whole request was taken; in any other case it is closed.
    pub fn from_backend(body: Incoming, lease: Lease, request: Keep) -> Self {
        let mut answer = Self {
            source: Source::Backend { body, lease: Some(lease), request },
            stopwatch: None,
            patience: None,
        };
        answer.settle();
        answer
    }

    /// From the leader. `upload` is the task that still sends it the request's content, if any; it
    /// ends with the answer.
    pub fn from_hop(body: RecvBody, upload: Option<AbortOnDrop>) -> Self {
        Self { source: Source::Hop { body, _upload: upload }, stopwatch: None, patience: None }
    }

    /// Stops `stopwatch` when the answer ends, in whatever way.
    pub fn timed_by(&mut self, stopwatch: Stopwatch) {
        self.stopwatch = Some(stopwatch);
    }

    /// Gives the connection back once nothing is left to read. hyper asks a body that says it has
    /// ended for nothing more, so this can't wait for the last poll.
    fn settle(&mut self) {
        if let Source::Backend { body, lease, request } = &mut self.source
            && body.is_end_stream()
            && let Some(lease) = lease.take()
            && request.is_ended()
        {
            lease.give_back();
        }
    }

    fn poll_source(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut self.source {
            Source::Backend { body, .. } => Pin::new(body).poll_frame(cx).map_err(Into::into),
            Source::Hop { body, .. } => Pin::new(body).poll_frame(cx).map_err(Into::into),
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
        let this = self.get_mut();
        loop {
            let Poll::Ready(frame) = this.poll_source(cx) else {
                let wait = || Box::pin(sleep(limits::ANSWER_IDLE_TIMEOUT));
                ready!(this.patience.get_or_insert_with(wait).as_mut().poll(cx));
                return Poll::Ready(Some(Err("the backend paused too long inside its answer".into())));
            };
            this.patience = None;
            match frame {
                // Trailers are dropped: nothing of ours, or against us, can hide in them.
                Some(Ok(frame)) if frame.is_trailers() => {}
                Some(Ok(frame)) => {
                    this.settle();
                    return Poll::Ready(Some(Ok(frame)));
                }
                None => {
                    this.settle();
                    return Poll::Ready(None);
                }
                error => return Poll::Ready(error),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Backend { body, .. } => body.is_end_stream(),
            Source::Hop { body, .. } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Backend { body, .. } => body.size_hint(),
            Source::Hop { body, .. } => body.size_hint(),
        }
    }
}
