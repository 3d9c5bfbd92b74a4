//! The guard's listener: accepts connections, learns who is at the other end, serves HTTP.

use std::pin::pin;
use std::sync::Arc;

use futures_util::FutureExt;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt;

use crate::guard::backend::Backend;
use crate::guard::fields::{AnswerBody, BoxError};
use crate::guard::layer::{FenceService, PeerNode};
use crate::ids::NodeId;
use crate::listen::{Bounds, accept, finish, last, lingered, told};
use crate::time::Duration;
use crate::transport::credentials::{Credentials, TlsError};
use crate::transport::identity::{self, Subject};
use crate::transport::tls;

/// Connections at once. Nodes pool theirs; more than this many means a leak or an attack.
const MAX_CONNECTIONS: usize = 4096;
/// From one request to the next, with its head. Longer than nodes use an idle connection
/// (`BACKEND_IDLE_TIMEOUT` of the proxy): whoever sends must be the first to close, or a write can be
/// on its way while the connection ends, and its outcome is unknown for nothing.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// The longest head: the node's own limit of 32 KiB, and the fields it adds.
const MAX_HEAD: usize = 64 * 1024;
/// Fields of a head: the node's own limit of 100, and about ten that it adds.
const MAX_FIELDS: usize = 128;
/// How long the backend may still take for what it was sent when the guard is asked to end.
pub(super) const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// A handshake is two round trips; whoever takes longer holds a place for nothing.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
const HTTP_2: &[u8] = b"h2";
const HTTP_1: &[u8] = b"http/1.1";

/// What a connection is served with.
pub(super) type Service = FenceService<Backend>;

/// Certificates on both sides.
#[derive(Clone)]
pub(super) struct Tls {
    acceptor: TlsAcceptor,
    cluster: Arc<str>,
}

impl Tls {
    /// Only holders of a certificate of `cluster` get in.
    pub(super) fn new(credentials: &Credentials, cluster: &str) -> Result<Self, Box<TlsError>> {
        let mut config = tls::tcp_server(credentials, true)?;
        config.alpn_protocols = vec![HTTP_2.to_vec(), HTTP_1.to_vec()];
        Ok(Self { acceptor: TlsAcceptor::from(Arc::new(config)), cluster: cluster.into() })
    }

    /// Whom the verified certificate names; `None` for anybody who is no node of the cluster.
    fn node_of(&self, session: &rustls::ServerConnection) -> Option<NodeId> {
        let certificate = session.peer_certificates()?.first()?;
        let peer = identity::of_certificate(certificate).ok()?;
        match peer.subject {
            Subject::Node(node) if *peer.cluster == *self.cluster => Some(node),
            _ => None,
        }
    }
}

/// Accepts until `stop`, then lets what is under way finish, for a while.
pub(super) async fn serve(
    listener: TcpListener,
    tls: Option<Tls>,
    service: Service,
    stop: watch::Receiver<bool>,
) {
    let bounds = Bounds { connections: MAX_CONNECTIONS, drain: DRAIN_TIMEOUT };
    let serve = |stream, _, stop| {
        let ended = connection(stream, tls.clone(), service.clone(), stop);
        async move {
            if let Err(error) = ended.await {
                tracing::debug!(%error, "a connection to the guard ended");
            }
        }
        .boxed()
    };
    accept(listener, bounds, stop, serve).await;
}

async fn connection(
    stream: TcpStream,
    tls: Option<Tls>,
    service: Service,
    stop: watch::Receiver<bool>,
) -> Result<(), BoxError> {
    stream.set_nodelay(true)?;
    let Some(tls) = tls else { return http_1(stream, None, service, stop).await };
    let stream = tokio::select! {
        biased;
        stream = timeout(HANDSHAKE_TIMEOUT, tls.acceptor.accept(stream)) => stream??,
        () = lingered(stop.clone()) => return Ok(()),
    };
    let session = stream.get_ref().1;
    let peer = tls.node_of(session).map(PeerNode);
    match session.alpn_protocol() {
        Some(HTTP_2) => http_2(stream, peer, service, stop).await,
        _ => http_1(stream, peer, service, stop).await,
    }
}

async fn http_1(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: Option<PeerNode>,
    service: Service,
    stop: watch::Receiver<bool>,
) -> Result<(), BoxError> {
    let mut server = http1::Builder::new();
    server
        .timer(TokioTimer::new())
        .header_read_timeout(KEEP_ALIVE)
        .max_buf_size(MAX_HEAD)
        .max_headers(MAX_FIELDS);
    let closing = stop.clone();
    let service = service_fn(move |request| maybe_last(service.clone(), peer, request, closing.clone()));
    let connection = pin!(server.serve_connection(TokioIo::new(stream), service));
    Ok(finish(connection, lingered(stop), |c| c.graceful_shutdown()).await?)
}

async fn http_2(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: Option<PeerNode>,
    service: Service,
    stop: watch::Receiver<bool>,
) -> Result<(), BoxError> {
    let mut server = http2::Builder::new(TokioExecutor::new());
    server.timer(TokioTimer::new()).max_header_list_size(MAX_HEAD as u32);
    let service = service_fn(move |request| one(service.clone(), peer, request));
    let connection = pin!(server.serve_connection(TokioIo::new(stream), service));
    Ok(finish(connection, told(stop), |c| c.graceful_shutdown()).await?)
}

async fn one(
    service: Service,
    peer: Option<PeerNode>,
    mut request: Request<Incoming>,
) -> Result<Response<AnswerBody>, BoxError> {
    if let Some(peer) = peer {
        request.extensions_mut().insert(peer);
    }
    service.oneshot(request).await
}

/// Over HTTP/1, where the last answer of a connection says so.
async fn maybe_last(
    service: Service,
    peer: Option<PeerNode>,
    request: Request<Incoming>,
    stop: watch::Receiver<bool>,
) -> Result<Response<AnswerBody>, BoxError> {
    Ok(last(one(service, peer, request).await?, &stop))
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::proxy::limits;

    #[test]
    fn the_guard_keeps_idle_connections_longer_than_nodes_use_them() {
        assert!(KEEP_ALIVE > limits::BACKEND_IDLE_TIMEOUT + limits::CHECKOUT_TIMEOUT);
    }
}
