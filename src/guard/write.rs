//! One write on its way to the backend: how far it is, and how a raise cuts it off.
//!
//! ```text
//! sending --last byte handed on--> sent      must be waited for
//!    \----a raise comes----------> cut       the backend never sees a complete request
//! ```
//!
//! The two arrows race, and exactly one wins: the step is one compare-and-swap, taken **before**
//! the last piece of content is handed on. The write is in flight until both the inner service has
//! answered and the content is done with; each holds a share of `InFlight`.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use http::Version;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use tokio::sync::Notify;

use crate::guard::fields::BoxError;
use crate::ids::{NodeId, Term};

const SENDING: u8 = 0;
const SENT: u8 = 1;
const CUT: u8 = 2;

/// How far a write is. Shared by the content, the inner service and the raise.
#[derive(Debug, Default)]
pub struct Progress {
    phase: AtomicU8,
    reader: AtomicWaker,
    cut: Notify,
}

impl Progress {
    /// The last piece of content is about to be handed on. `false`: it was cut off, hand nothing on.
    fn finish_sending(&self) -> bool {
        let step = self.phase.compare_exchange(SENDING, SENT, Ordering::AcqRel, Ordering::Acquire);
        step != Err(CUT)
    }

    /// Cuts the write off unless its content is already complete at the inner service.
    pub(super) fn cut_off(&self) -> bool {
        let step = self.phase.compare_exchange(SENDING, CUT, Ordering::AcqRel, Ordering::Acquire);
        if step.is_ok() {
            self.reader.wake();
            self.cut.notify_waiters();
        }
        step != Err(SENT)
    }

    /// Was it cut off?
    pub fn is_cut(&self) -> bool {
        self.phase.load(Ordering::Acquire) == CUT
    }

    /// Has the content been handed on to its end?
    pub fn is_sent(&self) -> bool {
        self.phase.load(Ordering::Acquire) == SENT
    }

    /// Returns when the write is cut off; never, when it isn't.
    pub async fn cut(&self) {
        loop {
            let mut notified = std::pin::pin!(self.cut.notified());
            notified.as_mut().enable();
            if self.is_cut() {
                return;
            }
            notified.await;
        }
    }
}

/// The extension a service finds on every admitted write.
#[derive(Debug, Clone)]
pub struct FencedWrite {
    /// The term it was admitted under.
    pub term: Term,
    /// The node that stamped it.
    pub node: NodeId,
    /// The resource.
    pub resource: Arc<str>,
    /// Stable over re-sends of one request, when the node sent one.
    pub request_id: Option<String>,
    /// Tells when a raise cuts the write off.
    pub progress: Arc<Progress>,
}

/// A share of a write that may still take effect; it ends when the last share is dropped.
pub(super) struct InFlight {
    pub(super) on_end: Box<dyn Fn() + Send + Sync>,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        (self.on_end)();
    }
}

/// A raise to a higher term came before the content was complete.
#[derive(Debug, thiserror::Error)]
#[error("the write was cut off: a newer leader raised the fence while its content was on the way")]
pub struct CutOff;

/// How the end of a request's content is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// By its length or its last chunk: HTTP/1.
    Framed,
    /// By the end of its stream: HTTP/2. hyper ends a body in the usual way when the stream is reset
    /// with `NO_ERROR`, so the body is asked whether its stream has ended.
    Stream,
}

impl Ending {
    /// In a request of this version.
    pub(super) fn of(version: Version) -> Self {
        if version == Version::HTTP_2 { Self::Stream } else { Self::Framed }
    }
}

/// The content of a request behind the fence.
pub struct FencedBody {
    inner: UnsyncBoxBody<Bytes, BoxError>,
    ending: Ending,
    /// `None` for a read, and once the content is done with.
    write: Option<(Arc<Progress>, Arc<InFlight>)>,
}

impl FencedBody {
    /// The content of a read: nothing to cut off.
    pub(super) fn of_read(body: impl Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static) -> Self {
        Self { inner: body.map_err(Into::into).boxed_unsync(), ending: Ending::Framed, write: None }
    }

    /// The content of an admitted write.
    pub(super) fn of_write(
        body: impl Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
        ending: Ending,
        progress: Arc<Progress>,
        share: Arc<InFlight>,
    ) -> Self {
        let inner = body.map_err(Into::into).boxed_unsync();
        if inner.is_end_stream() {
            // Without content the head alone is a complete request.
            progress.finish_sending();
            return Self { inner, ending, write: None };
        }
        Self { inner, ending, write: Some((progress, share)) }
    }

    /// The next frame goes out only if no raise came first; the last one makes the write `sent`.
    fn pass(
        &mut self,
        frame: Option<Result<Frame<Bytes>, BoxError>>,
    ) -> Option<Result<Frame<Bytes>, BoxError>> {
        let Some((progress, _)) = &self.write else { return frame };
        let last = match &frame {
            None => true,
            Some(Ok(_)) => self.inner.is_end_stream() || self.inner.size_hint().exact() == Some(0),
            Some(Err(_)) => false,
        };
        let refused = if last { !progress.finish_sending() } else { progress.is_cut() };
        if last || refused || matches!(frame, Some(Err(_))) {
            self.write = None;
        }
        if refused { Some(Err(Box::new(CutOff))) } else { frame }
    }
}

impl Body for FencedBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Some((progress, _)) = &self.write {
            progress.reader.register(context.waker());
            if progress.is_cut() {
                self.write = None;
                return Poll::Ready(Some(Err(Box::new(CutOff))));
            }
        }
        let frame = std::task::ready!(Pin::new(&mut self.inner).poll_frame(context));
        // Trailers are not passed on: nothing in them is checked (RFC 9110, 6.5.1 allows it).
        let frame = match frame {
            Some(Ok(frame)) if frame.is_trailers() => None,
            other => other,
        };
        let cancelled = frame.is_none() && self.ending == Ending::Stream && !self.inner.is_end_stream();
        let frame = if cancelled { Some(Err("the content was cut off by its sender".into())) } else { frame };
        Poll::Ready(self.pass(frame))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use http_body_util::{Full, StreamBody};
    use std::sync::atomic::AtomicUsize;

    fn in_flight() -> (Arc<InFlight>, Arc<AtomicUsize>) {
        let ended = Arc::new(AtomicUsize::new(0));
        let count = ended.clone();
        let on_end = Box::new(move || {
            count.fetch_add(1, Ordering::SeqCst);
        });
        (Arc::new(InFlight { on_end }), ended)
    }

    fn pieces(parts: &[&'static str]) -> impl Body<Data = Bytes, Error = BoxError> + Send + use<> {
        let frames: Vec<Result<Frame<Bytes>, BoxError>> =
            parts.iter().map(|part| Ok(Frame::data(Bytes::from_static(part.as_bytes())))).collect();
        StreamBody::new(futures_util::stream::iter(frames))
    }

    fn next(body: &mut FencedBody) -> Option<Result<Frame<Bytes>, BoxError>> {
        body.frame().now_or_never().expect("is ready")
    }

    #[test]
    fn hands_nothing_on_after_the_cut() {
        let progress = Arc::new(Progress::default());
        let (share, ended) = in_flight();
        let mut body = FencedBody::of_write(pieces(&["a", "b"]), Ending::Framed, progress.clone(), share);
        assert!(next(&mut body).expect("a frame").is_ok());
        assert!(progress.cut_off());
        assert!(next(&mut body).expect("an error").is_err());
        assert_eq!(ended.load(Ordering::SeqCst), 1, "its share is given back");
        assert!(!progress.is_sent());
    }

    #[test]
    fn can_not_be_cut_once_the_last_byte_is_handed_on() {
        let progress = Arc::new(Progress::default());
        let (share, _) = in_flight();
        let mut body =
            FencedBody::of_write(Full::new(Bytes::from("abc")), Ending::Framed, progress.clone(), share);
        assert!(next(&mut body).expect("a frame").is_ok());
        assert!(progress.is_sent(), "a sized content is complete with its last byte, not at its end");
        assert!(!progress.cut_off());
    }

    #[test]
    fn a_cut_that_comes_while_the_last_byte_is_read_wins() {
        let progress = Arc::new(Progress::default());
        let (share, _) = in_flight();
        let raise = progress.clone();
        let last = futures_util::stream::once(async move {
            assert!(raise.cut_off());
            Ok::<_, BoxError>(Frame::data(Bytes::from("abc")))
        });
        let mut body = FencedBody::of_write(StreamBody::new(last), Ending::Framed, progress.clone(), share);
        assert!(next(&mut body).expect("an error").is_err(), "the raise was told that it was cut off");
    }

    #[test]
    fn can_not_be_cut_without_content() {
        let progress = Arc::new(Progress::default());
        let (share, _) = in_flight();
        drop(FencedBody::of_write(http_body_util::Empty::new(), Ending::Framed, progress.clone(), share));
        assert!(!progress.cut_off());
    }

    #[test]
    fn a_chunked_content_is_complete_at_its_end() {
        let progress = Arc::new(Progress::default());
        let (share, _) = in_flight();
        let mut body = FencedBody::of_write(pieces(&["a"]), Ending::Framed, progress.clone(), share);
        assert!(next(&mut body).expect("a frame").is_ok());
        assert!(!progress.is_sent());
        assert!(next(&mut body).is_none());
        assert!(progress.is_sent());
    }

    #[test]
    fn a_content_whose_stream_was_reset_is_never_complete() {
        let progress = Arc::new(Progress::default());
        let (share, ended) = in_flight();
        // Like hyper's body after such a reset: nothing more, and not the end of the stream.
        let mut body = FencedBody::of_write(pieces(&["a"]), Ending::Stream, progress.clone(), share);
        assert!(next(&mut body).expect("a frame").is_ok());
        assert!(next(&mut body).expect("an error").is_err());
        assert!(!progress.is_sent());
        assert_eq!(ended.load(Ordering::SeqCst), 1, "it can never be complete");
    }

    #[test]
    fn cutting_wakes_a_reader_that_waits_for_a_slow_client() {
        let progress = Arc::new(Progress::default());
        let (share, _) = in_flight();
        let silent = StreamBody::new(futures_util::stream::pending::<Result<Frame<Bytes>, BoxError>>());
        let mut body = FencedBody::of_write(silent, Ending::Framed, progress.clone(), share);
        let waker = Arc::new(CountWakes(AtomicUsize::new(0)));
        let as_waker = waker.clone().into();
        let mut context = Context::from_waker(&as_waker);
        assert!(Pin::new(&mut body).poll_frame(&mut context).is_pending());
        progress.cut_off();
        assert_eq!(waker.0.load(Ordering::SeqCst), 1);
        assert!(matches!(Pin::new(&mut body).poll_frame(&mut context), Poll::Ready(Some(Err(_)))));
    }

    struct CountWakes(AtomicUsize);
    impl std::task::Wake for CountWakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
}
