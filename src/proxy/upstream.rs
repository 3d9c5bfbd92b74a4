//! Connections to a backend: HTTP/1.1 over TCP, or over TLS for `https`.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::uri::Authority;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::proxy::ledger::{Counted, Ledger};
use crate::proxy::limits;

/// Where a backend is and how it is spoken to.
#[derive(Clone)]
pub struct Backend {
    authority: Authority,
    port: u16,
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

impl std::fmt::Debug for Backend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Backend({})", self.authority)
    }
}

/// A connection could not be made; nothing was sent.
#[derive(Debug, thiserror::Error)]
#[error("cannot connect to the backend {backend}: {cause}")]
pub struct ConnectError {
    backend: String,
    cause: String,
}

impl Backend {
    /// Reads `http://host:port` or `https://host:port`; the second needs `tls`.
    pub fn new(uri: &http::Uri, tls: Option<&Arc<rustls::ClientConfig>>) -> Result<Self, String> {
        let authority = uri.authority().cloned().ok_or_else(|| format!("backend {uri} names no host"))?;
        let secure = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(format!("backend {uri} is neither http:// nor https://")),
        };
        let port = authority.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let tls = secure.then(|| {
            let config = tls.ok_or_else(|| format!("backend {uri} needs certificates to speak TLS"))?;
            let name = bare(&authority).to_owned();
            let name = ServerName::try_from(name).map_err(|e| format!("backend {uri}: {e}"))?;
            Ok::<_, String>((TlsConnector::from(Arc::clone(config)), name))
        });
        Ok(Self { authority, port, tls: tls.transpose()? })
    }

    /// What goes into `Host` when the client's own can't.
    pub const fn authority(&self) -> &Authority {
        &self.authority
    }

    /// Connects. The name is resolved each time, so a backend may move.
    pub async fn connect(&self) -> Result<(Wire, Arc<Ledger>), ConnectError> {
        let made = timeout(limits::CONNECT_TIMEOUT, self.try_connect()).await;
        let cause = match made {
            Ok(Ok(connection)) => return Ok(connection),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no connection within {:?}", limits::CONNECT_TIMEOUT),
        };
        Err(ConnectError { backend: self.authority.to_string(), cause })
    }

    async fn try_connect(&self) -> io::Result<(Wire, Arc<Ledger>)> {
        let socket = TcpStream::connect((bare(&self.authority), self.port)).await?;
        socket.set_nodelay(true)?;
        let (counted, ledger) = Counted::new(socket);
        let wire = match &self.tls {
            None => Wire::Plain(counted),
            Some((tls, name)) => Wire::Tls(Box::new(tls.connect(name.clone(), counted).await?)),
        };
        Ok((wire, ledger))
    }
}

/// The host without the brackets of an IPv6 address.
fn bare(authority: &Authority) -> &str {
    authority.host().trim_start_matches('[').trim_end_matches(']')
}

/// A connection to a backend.
#[derive(Debug)]
pub enum Wire {
    /// TCP.
    Plain(Counted),
    /// TLS over TCP; what is counted is below TLS.
    Tls(Box<TlsStream<Counted>>),
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_read(cx, buf),
            Self::Tls(io) => Pin::new(io.as_mut()).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_write(cx, buf),
            Self::Tls(io) => Pin::new(io.as_mut()).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_write_vectored(cx, bufs),
            Self::Tls(io) => Pin::new(io.as_mut()).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(io) => io.is_write_vectored(),
            Self::Tls(io) => io.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_flush(cx),
            Self::Tls(io) => Pin::new(io.as_mut()).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_shutdown(cx),
            Self::Tls(io) => Pin::new(io.as_mut()).poll_shutdown(cx),
        }
    }
}
