//! The content of a request on its way up, and of an answer on its way down.
//!
//! A request's content is *lent* to an attempt, not given: as long as an attempt has taken nothing
//! of it, the next attempt can have it whole. Small content is kept in memory and can be lent
//! any number of times.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::Version;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep, sleep};

use crate::hop::body::RecvBody;
use crate::proxy::answer::AnswerBody;
use crate::proxy::limits;
use crate::time::Duration;

/// What a body fails with.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// Where a request's content comes from.
#[derive(Debug)]
pub enum Source {
    /// A client of this node, over HTTP/1.
    Http1(Incoming),
    /// A client of this node, over HTTP/2.
    Http2(Incoming),
    /// Another node, which has it from a client.
    Hop(RecvBody),
}

impl Source {
    /// From a client that speaks `version`.
    pub fn client(body: Incoming, version: Version) -> Self {
        if version == Version::HTTP_2 { Self::Http2(body) } else { Self::Http1(body) }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self {
            Self::Http1(body) | Self::Http2(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
            Self::Hop(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
        }
    }

    /// Whether the end that was just read is the end that the sender meant. A stream that was reset
    /// with `NO_ERROR` ends for hyper as if it were whole; proxies cancel uploads in this way.
    fn is_whole(&self) -> bool {
        match self {
            Self::Http2(body) => body.is_end_stream(),
            Self::Http1(_) | Self::Hop(_) => true,
        }
    }
}

/// Why an upload ended early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The limit was passed.
    TooLarge,
    /// The client paused too long, or too often.
    TooSlow,
    /// The client went away, or its framing broke.
    Broken,
}

#[derive(Debug)]
struct Lending {
    source: Source,
    /// Read, and not taken by an attempt yet.
    ahead: Option<Bytes>,
    /// Bytes that came from the source.
    read: u64,
    /// All pauses of the source that are over.
    paused: Duration,
    pause: Option<Pause>,
}

/// The source has nothing now.
#[derive(Debug)]
struct Pause {
    since: Instant,
    end: Pin<Box<Sleep>>,
}

impl Lending {
    /// How long the source may have nothing from now on: not too long at a time, and all pauses
    /// together no longer than content of this length may take.
    fn patience(&self) -> Duration {
        let slack = if matches!(self.source, Source::Hop(_)) { limits::HOP_SLACK } else { Duration::ZERO };
        let earned = Duration::from_millis(self.read.saturating_mul(1000) / limits::BODY_RATE_MIN);
        let left = (limits::BODY_PAUSES + earned).saturating_sub(self.paused);
        left.min(limits::BODY_IDLE_TIMEOUT) + slack
    }

    fn go_on(&mut self) {
        if let Some(pause) = self.pause.take() {
            self.paused += pause.since.elapsed();
        }
    }
}

#[derive(Debug)]
struct Shared {
    lending: Mutex<Lending>,
    length: Option<u64>,
    /// Something was taken: the content can no longer be lent whole.
    released: AtomicBool,
    ended: AtomicBool,
    fault: AtomicU8,
}

/// Content that streams, once.
#[derive(Debug, Clone)]
pub struct Upload(Arc<Shared>);

impl Upload {
    /// Content of `length` bytes when that is known.
    pub fn new(source: Source, length: Option<u64>) -> Self {
        Self(Arc::new(Shared {
            lending: Mutex::new(Lending {
                source,
                ahead: None,
                read: 0,
                paused: Duration::ZERO,
                pause: None,
            }),
            length,
            released: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            fault: AtomicU8::new(0),
        }))
    }

    /// Its declared length, in bytes.
    pub fn length(&self) -> Option<u64> {
        self.0.length
    }

    /// Whether any of it was taken.
    pub fn is_released(&self) -> bool {
        self.0.released.load(Ordering::Relaxed)
    }

    /// Whether all of it was taken.
    pub fn is_ended(&self) -> bool {
        self.0.ended.load(Ordering::Relaxed)
    }

    /// Why it ended early, if it did.
    pub fn fault(&self) -> Option<Fault> {
        match self.0.fault.load(Ordering::Relaxed) {
            1 => Some(Fault::TooLarge),
            2 => Some(Fault::TooSlow),
            3 => Some(Fault::Broken),
            _ => None,
        }
    }

    /// How many bytes came.
    pub fn read(&self) -> u64 {
        self.lending().read
    }

    async fn first(&self) -> Result<(), Fault> {
        poll_fn(|cx| {
            let mut lending = self.lending();
            if lending.ahead.is_none() {
                let piece = ready!(self.poll_source(&mut lending, cx));
                lending.ahead = piece.transpose().map_err(|_| self.fault().unwrap_or(Fault::Broken))?;
            }
            Poll::Ready(Ok(()))
        })
        .await
    }

    /// The next piece.
    pub async fn piece(&self) -> Option<Result<Bytes, BodyError>> {
        poll_fn(|cx| self.poll_piece(cx)).await
    }

    /// The next piece; trailers are dropped.
    pub fn poll_piece(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        let mut lending = self.lending();
        let piece = match lending.ahead.take() {
            Some(piece) => Some(Ok(piece)),
            None => ready!(self.poll_source(&mut lending, cx)),
        };
        self.0.released.store(true, Ordering::Relaxed);
        // What was declared is all there: nobody asks for more, and the end need not be waited for.
        if piece.is_none() || self.0.length == Some(lending.read) {
            self.0.ended.store(true, Ordering::Relaxed);
        }
        Poll::Ready(piece)
    }

    fn lending(&self) -> MutexGuard<'_, Lending> {
        self.0.lending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn poll_source(
        &self,
        lending: &mut Lending,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, BodyError>>> {
        if self.fault().is_some() {
            return Poll::Ready(Some(Err("the content ended early".into())));
        }
        loop {
            match lending.source.poll_frame(cx) {
                Poll::Pending => return self.be_patient(lending, cx),
                Poll::Ready(None) => return self.end(lending),
                Poll::Ready(Some(Err(e))) => return self.fail(Fault::Broken, e),
                Poll::Ready(Some(Ok(frame))) => {
                    lending.go_on();
                    let Ok(data) = frame.into_data() else { continue };
                    lending.read = lending.read.saturating_add(data.len() as u64);
                    return self.within_limits(lending, data);
                }
            }
        }
    }

    fn within_limits(&self, lending: &Lending, data: Bytes) -> Poll<Option<Result<Bytes, BodyError>>> {
        if lending.read > limits::BODY_BYTES {
            return self.fail(Fault::TooLarge, "the content is too large".into());
        }
        if self.0.length.is_some_and(|declared| lending.read > declared) {
            return self.fail(Fault::Broken, "the content is longer than it was declared".into());
        }
        Poll::Ready(Some(Ok(data)))
    }

    /// An end counts only when nothing is missing: content that was cut off must never be taken for
    /// shorter content.
    fn end(&self, lending: &Lending) -> Poll<Option<Result<Bytes, BodyError>>> {
        let whole = match self.0.length {
            Some(declared) => lending.read == declared,
            None => lending.source.is_whole(),
        };
        if whole { Poll::Ready(None) } else { self.fail(Fault::Broken, "the content was cut off".into()) }
    }

    fn be_patient(
        &self,
        lending: &mut Lending,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, BodyError>>> {
        let patience = lending.patience();
        let pause = lending
            .pause
            .get_or_insert_with(|| Pause { since: Instant::now(), end: Box::pin(sleep(patience)) });
        ready!(pause.end.as_mut().poll(cx));
        self.fail(Fault::TooSlow, "the client paused too long".into())
    }

    fn fail(&self, fault: Fault, error: BodyError) -> Poll<Option<Result<Bytes, BodyError>>> {
        let number = match fault {
            Fault::TooLarge => 1,
            Fault::TooSlow => 2,
            Fault::Broken => 3,
        };
        self.0.fault.store(number, Ordering::Relaxed);
        self.0.released.store(true, Ordering::Relaxed);
        Poll::Ready(Some(Err(error)))
    }

    /// Takes all of it into memory; the caller has checked the declared length.
    pub async fn collect(self) -> Result<Bytes, Fault> {
        let fault = self.clone();
        let whole = Content::Upload(self).collect().await;
        whole.map(|whole| whole.to_bytes()).map_err(|_| fault.fault().unwrap_or(Fault::Broken))
    }
}

/// A request's content between attempts.
#[derive(Debug, Clone)]
pub enum Keep {
    /// There is none.
    Empty,
    /// Kept in memory.
    Whole(Bytes),
    /// Still with the client, or on its way.
    Stream(Upload),
}

impl Keep {
    /// Whether another attempt can have it whole.
    pub fn can_be_lent(&self) -> bool {
        match self {
            Self::Empty | Self::Whole(_) => true,
            Self::Stream(upload) => !upload.is_released(),
        }
    }

    /// Waits until some of it, or its end, is there, and takes nothing. The backend's head waits for
    /// this: as long as there is nothing to send, nothing was sent.
    pub async fn begins(&self) -> Result<(), Fault> {
        match self {
            Self::Empty | Self::Whole(_) => Ok(()),
            Self::Stream(upload) => upload.first().await,
        }
    }

    /// Whether all of it was taken, so that nothing is left to be sent.
    pub fn is_ended(&self) -> bool {
        match self {
            Self::Empty | Self::Whole(_) => true,
            Self::Stream(upload) => upload.is_ended(),
        }
    }

    /// Why it ended early, if it did.
    pub fn fault(&self) -> Option<Fault> {
        match self {
            Self::Empty | Self::Whole(_) => None,
            Self::Stream(upload) => upload.fault(),
        }
    }

    /// Bytes of a stream that came.
    pub fn read(&self) -> u64 {
        match self {
            Self::Empty | Self::Whole(_) => 0,
            Self::Stream(upload) => upload.read(),
        }
    }

    /// Its length in bytes, where known.
    pub fn length(&self) -> Option<u64> {
        match self {
            Self::Empty => Some(0),
            Self::Whole(bytes) => Some(bytes.len() as u64),
            Self::Stream(upload) => upload.length(),
        }
    }

    /// For one attempt.
    pub fn lend(&self) -> Content {
        match self {
            Self::Empty => Content::Whole(None),
            Self::Whole(bytes) => Content::whole(bytes.clone()),
            Self::Stream(upload) => Content::Upload(upload.clone()),
        }
    }
}

/// Every body that the proxy hands to hyper.
#[derive(Debug)]
pub enum Content {
    /// In memory.
    Whole(Option<Bytes>),
    /// A request's, still streaming.
    Upload(Upload),
    /// A backend's answer.
    Answer(AnswerBody),
}

impl Content {
    /// Content in memory.
    pub fn whole(bytes: Bytes) -> Self {
        Self::Whole(Some(bytes).filter(|b| !b.is_empty()))
    }
}

impl Body for Content {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|b| Ok(Frame::data(b)))),
            Self::Upload(upload) => upload.poll_piece(cx).map_ok(Frame::data),
            Self::Answer(answer) => Pin::new(answer).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.is_none(),
            Self::Upload(upload) => upload.is_ended(),
            Self::Answer(answer) => answer.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
            Self::Upload(upload) => upload.length().map_or_else(SizeHint::default, SizeHint::with_exact),
            Self::Answer(answer) => answer.size_hint(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use h2::{Reason, SendStream};
    use http::{HeaderMap, Request, Response};
    use hyper::service::service_fn;
    use hyper_util::rt::{TokioExecutor, TokioIo};
    use tokio::sync::mpsc;

    /// An upload as the proxy gets it over HTTP/2, and the client's end of it.
    async fn upload(declared: Option<u64>) -> (Upload, SendStream<Bytes>) {
        let (client, server) = tokio::io::duplex(64 * 1024);
        let (uploads, mut upload) = mpsc::channel(1);
        let service = service_fn(move |request: Request<Incoming>| {
            let uploads = uploads.clone();
            async move {
                let source = Source::client(request.into_body(), Version::HTTP_2);
                uploads.send(Upload::new(source, declared)).await.expect("the test waits for it");
                std::future::pending::<Result<Response<Content>, BodyError>>().await
            }
        });
        let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .serve_connection(TokioIo::new(server), service);
        tokio::spawn(server);
        let (mut client, connection) = h2::client::handshake(client).await.expect("speaks HTTP/2");
        tokio::spawn(connection);
        let mut request = Request::post("http://shop/orders");
        if let Some(declared) = declared {
            request = request.header("content-length", declared);
        }
        let (_, sender) = client.send_request(request.body(()).expect("a request"), false).expect("sends");
        (upload.recv().await.expect("arrives"), sender)
    }

    async fn is_whole_after(declared: Option<u64>, act: impl FnOnce(&mut SendStream<Bytes>)) -> bool {
        let (upload, mut sender) = upload(declared).await;
        sender.send_data(Bytes::from_static(b"12345"), false).expect("sends");
        let first = upload.piece().await.expect("a piece").expect("good");
        assert_eq!(first, "12345");
        act(&mut sender);
        let rest = upload.clone().collect().await;
        assert_eq!(rest.is_err(), upload.fault() == Some(Fault::Broken));
        rest.is_ok()
    }

    #[tokio::test]
    async fn a_cancelled_http2_upload_is_not_whole() {
        for declared in [None, Some(6), Some(100_000)] {
            for reason in [Reason::NO_ERROR, Reason::CANCEL] {
                let whole = is_whole_after(declared, |sender| sender.send_reset(reason)).await;
                assert!(!whole, "{reason:?}, declared: {declared:?}");
            }
        }
    }

    #[tokio::test]
    async fn an_http2_upload_that_comes_to_its_end_is_whole() {
        let end = |sender: &mut SendStream<Bytes>| sender.send_data(Bytes::new(), true).expect("ends");
        assert!(is_whole_after(None, end).await);
        assert!(is_whole_after(Some(5), end).await);
        let trailers = |sender: &mut SendStream<Bytes>| {
            let trailers = HeaderMap::from_iter([(http::header::ETAG, http::HeaderValue::from_static("1"))]);
            sender.send_trailers(trailers).expect("ends");
        };
        assert!(is_whole_after(None, trailers).await);
    }

    #[tokio::test(start_paused = true)]
    async fn content_that_drips_is_not_waited_for() {
        let (upload, mut sender) = upload(None).await;
        let begun = Instant::now();
        let drip = tokio::spawn(async move {
            loop {
                sender.send_data(Bytes::from_static(b"."), false).expect("sends");
                // The pace of a client that means to be slow.
                sleep(limits::BODY_IDLE_TIMEOUT - Duration::from_secs(1)).await;
            }
        });
        assert_eq!(upload.clone().collect().await, Err(Fault::TooSlow));
        let limit = limits::BODY_PAUSES + Duration::from_secs(1);
        assert!(begun.elapsed() <= limit, "{:?}", begun.elapsed());
        drip.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn content_that_is_slow_and_steady_is_waited_for() {
        let (upload, mut sender) = upload(None).await;
        let piece = vec![b'.'; usize::try_from(limits::BODY_RATE_MIN).expect("fits")];
        tokio::spawn(async move {
            for _ in 0..120 {
                sender.send_data(piece.clone().into(), false).expect("sends");
                // The pace of the slowest client that is served.
                sleep(Duration::from_secs(1)).await;
            }
            sender.send_data(Bytes::new(), true).expect("ends");
            // Dropped, both handles would cancel what is still on its way.
            std::future::pending::<()>().await;
        });
        assert_eq!(upload.collect().await.map(|all| all.len() as u64), Ok(120 * limits::BODY_RATE_MIN));
    }
}
