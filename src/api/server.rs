//! The TCP listener: HTTP/1.1 and HTTP/2 without TLS, every limit set.

use std::convert::Infallible;
use std::pin::pin;

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use http::{Request, Response, Version};
use http_body::Body;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::api::backup::Content;
use crate::api::{Api, Caller};
use crate::listen::{Bounds, accept, finish, last, lingered, told};
use crate::problem::{Kind, Problem};
use crate::registry::limits::VALUE_BYTES;
use crate::time::Duration;

/// Connections at once: operators, dashboards and client libraries of one cluster, not its users.
const CONNECTIONS: usize = 4_096;
/// How long a client may take for a body.
const CLIENT_LIMIT: Duration = Duration::from_secs(10);
/// How long a client may take for its next head. It counts while a connection is idle too, so it is
/// longer than clients keep idle connections.
const HEAD_LIMIT: Duration = Duration::from_secs(120);
/// Bytes of a head. The longest key, fully encoded, fits with room.
const HEAD_BYTES: usize = 16 * 1024;
/// Requests at once on one HTTP/2 connection.
const STREAMS: u32 = 256;
/// How long what is under way may take when the node ends: a write may wait so long for a leader.
const DRAIN_LIMIT: Duration = Duration::from_secs(5);
/// What an HTTP/2 client says first (RFC 9113, section 3.4); no HTTP/1 method begins like it.
const HTTP2_PREFACE: &[u8] = b"PRI ";

/// Serves `api` on `listener` until `stop`, then lets what is under way finish, for a while.
pub async fn serve(listener: TcpListener, api: Api, stop: watch::Receiver<bool>) {
    let bounds = Bounds { connections: CONNECTIONS, drain: DRAIN_LIMIT };
    accept(listener, bounds, stop, |stream, _, stop| connection(stream, api.clone(), stop).boxed()).await;
}

async fn connection(stream: TcpStream, api: Api, stop: watch::Receiver<bool>) {
    let _ = stream.set_nodelay(true);
    let known = tokio::select! {
        biased;
        known = timeout(CLIENT_LIMIT, speaks_http2(&stream)) => known,
        () = lingered(stop.clone()) => return,
    };
    let Ok(Some(is_http2)) = known else { return };
    // How a connection ended is the client's business; every request was answered or given up by it.
    let _ = if is_http2 {
        let mut server = http2::Builder::new(TokioExecutor::new());
        server
            .max_concurrent_streams(STREAMS)
            .max_header_list_size(HEAD_BYTES as u32)
            .timer(TokioTimer::new());
        let service = service_fn(move |request| answer(api.clone(), request));
        let connection = pin!(server.serve_connection(TokioIo::new(stream), service));
        finish(connection, told(stop), |c| c.graceful_shutdown()).await
    } else {
        let mut server = http1::Builder::new();
        server.timer(TokioTimer::new()).header_read_timeout(HEAD_LIMIT).max_buf_size(HEAD_BYTES);
        let closing = stop.clone();
        let service = service_fn(move |request| {
            let (answer, closing) = (answer(api.clone(), request), closing.clone());
            async move { answer.await.map(|answer| last(answer, &closing)) }
        });
        let connection = pin!(server.serve_connection(TokioIo::new(stream), service));
        finish(connection, lingered(stop), |c| c.graceful_shutdown()).await
    };
}

/// Looks at the first bytes without taking them; `None` when the client is gone.
async fn speaks_http2(stream: &TcpStream) -> Option<bool> {
    let mut start = [0; HTTP2_PREFACE.len()];
    loop {
        let seen = stream.peek(&mut start).await.ok()?;
        let got = start.get(..seen)?;
        match () {
            () if got.is_empty() => return None,
            () if !HTTP2_PREFACE.starts_with(got) => return Some(false),
            () if got.len() == HTTP2_PREFACE.len() => return Some(true),
            // A client that sends its preface in pieces is rare enough to be polled.
            () => tokio::time::sleep(Duration::from_millis(1)).await,
        }
    }
}

async fn answer(api: Api, request: Request<Incoming>) -> Result<Response<Content>, Infallible> {
    let (head, body) = request.into_parts();
    let response = match timeout(CLIENT_LIMIT, content(body, head.version)).await {
        Ok(Ok(bytes)) => api.handle(Caller::Client, Request::from_parts(head, bytes)).await,
        Ok(Err(problem)) => api.refuse(problem),
        Err(_) => api.refuse(Problem::new(Kind::ClientTimeout, "the content did not arrive in time")),
    };
    Ok(Content::of(response))
}

/// The whole content, or why there is none. A part of it is never handed on. hyper fails a body that is
/// shorter than declared, but takes a stream of HTTP/2 that is reset with NO_ERROR for a good end; only
/// END_STREAM is one (RFC 9113, section 8.1).
async fn content(mut body: Incoming, version: Version) -> Result<Bytes, Problem> {
    if body.size_hint().lower() > VALUE_BYTES as u64 {
        return Err(too_large());
    }
    let mut bytes = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let data = frame.map_err(|_| broken_off())?.into_data().unwrap_or_default();
        if bytes.len() + data.len() > VALUE_BYTES {
            return Err(too_large());
        }
        bytes.extend_from_slice(&data);
    }
    let ended = version != Version::HTTP_2 || body.is_end_stream();
    if ended { Ok(bytes.freeze()) } else { Err(broken_off()) }
}

fn broken_off() -> Problem {
    Problem::new(Kind::BadRequest, "the content broke off")
}

fn too_large() -> Problem {
    Problem::new(Kind::ContentTooLarge, "the content has more than 1 MiB")
}
