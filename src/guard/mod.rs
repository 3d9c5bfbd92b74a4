//! Verification at the backend: the one place where a stale term can be stopped for good.
//!
//! A leader that was paused, cut off or replaced may still send a write it had admitted. No check on
//! its side can prevent that; the resource must compare the term itself. This module puts that
//! comparison in front of an HTTP service, as a tower layer inside it or as a sidecar before it:
//!
//! ```text
//! node --Termgate-Term: 42--> guard -- 42 == fence? --> backend
//!                               |          no: 412, Termgate-Fence: rejected; current=43
//!                               +-- data_dir/fence, fsynced before a raise is answered
//! ```
//!
//! When leadership moves, the new leader first sends `PUT /.well-known/termgate/fence`. From the
//! moment it arrives older writes are refused; those whose content is still on the way are cut off;
//! those already complete at the backend are waited for; the new term is stored; then comes the 200.
//! Only now does the leader let writes through, so no older write can land among or after its own.
//!
//! | file | idea |
//! |---|---|
//! | `layer` | the fence as a tower layer |
//! | `endpoint` | the guard's own paths: the fence, and what it counted |
//! | `fence` | the state all requests share, and the raise |
//! | `write` | one write: still sending, sent, or cut off |
//! | `store` | the fence on disk |
//! | `fields` | the fields, and how problems are told |
//! | `refused` | why a request is not passed on |
//! | `backend`, `server` | the sidecar's two ends |
//!
//! A backend that never answers holds raises up for ever, and with them the next leader: that is the
//! price of never guessing. Restarting the backend closes its connections, which ends its writes.
//!
//! A guard that is asked to end takes nothing more, and ends when no write is in flight, after ten seconds at the latest;
//! then it says how many it has not waited for. Answers whose content takes longer than that are cut off.
//!
//! What it does not do. It checks only what passes through it: a backend that also listens elsewhere
//! is not fenced. A write ends for it when the backend has answered or has closed the connection; work that a
//! backend goes on with afterwards is out of reach. After a guard has crashed, or ended while a write still
//! ran, the term is still there, but what was in flight is forgotten: a request that the backend had received
//! in full may still take effect. Restart the backend with it, or let the backend check the term inside its own
//! transaction, as `recipes/postgresql` does. The proof in a raise is not checked yet (`endpoint`).

pub mod backend;
mod endpoint;
pub mod fence;
pub mod fields;
pub mod layer;
mod refused;
mod server;
pub mod store;
pub mod write;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use http::Uri;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tower::Layer;

use crate::fencing::mode::FenceMode;
use crate::fencing::verifier::VerifierMode;
use crate::guard::backend::{Backend, BadBackend};
use crate::guard::fence::SharedFence;
use crate::guard::layer::{FenceLayer, Trust};
use crate::guard::store::{FenceStore, StoreError};
use crate::listen::LINGER;
use crate::metrics::Metrics;
use crate::time::Duration;
use crate::transport::credentials::{Credentials, TlsError};

/// How long a read may still take when the guard is asked to end: it can be asked again, of the next one.
const READ_LIMIT: Duration = Duration::from_secs(2);

/// A sidecar's configuration (`guard.toml`).
#[derive(Debug, Clone)]
pub struct GuardConfig {
    /// Where nodes send what they forward.
    pub listen: SocketAddr,
    /// The protected service: `http://host:port`.
    pub backend: Uri,
    /// The route's name.
    pub resource: String,
    /// `enforced` or `implicit`, as in the route.
    pub mode: FenceMode,
    /// Holds the fence; one directory per guard.
    pub data_dir: PathBuf,
    /// The cluster whose certificates count.
    pub cluster: String,
    /// This guard's certificate; with it, writes and raises need a node's certificate. `None` only
    /// on a loopback address.
    pub tls: Option<Credentials>,
    /// How long a raise waits for older writes before it answers that they still run.
    pub raise_timeout: Duration,
    /// Where it counts.
    pub metrics: Metrics,
}

/// Why a guard doesn't start.
#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    /// A mode without a verifier.
    #[error("a guard can't run in mode drain: set mode to \"enforced\" or \"implicit\"")]
    Mode,
    /// Reachable from elsewhere, but anybody could raise the fence.
    #[error("{0} is not a loopback address: add a [tls] section, or listen on 127.0.0.1")]
    NeedsTls(SocketAddr),
    /// The backend's address.
    #[error(transparent)]
    Backend(#[from] BadBackend),
    /// The stored fence.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The certificate.
    #[error(transparent)]
    Tls(#[from] Box<TlsError>),
    /// The listener.
    #[error("cannot listen on {address}: {source}; is another process using it?")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
}

/// A running sidecar; dropping it ends it.
#[derive(Debug)]
pub struct Guard {
    address: SocketAddr,
    fence: Arc<SharedFence>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Guard {
    /// Reads the stored fence and starts to serve.
    pub async fn start(config: GuardConfig) -> Result<Self, GuardError> {
        let mode = VerifierMode::of(config.mode).ok_or(GuardError::Mode)?;
        let tls = match &config.tls {
            Some(credentials) => Some(server::Tls::new(credentials, &config.cluster)?),
            None if config.listen.ip().is_loopback() => None,
            None => return Err(GuardError::NeedsTls(config.listen)),
        };
        let trust = if tls.is_some() { Trust::NodeCertificate } else { Trust::Anyone };
        let backend = Backend::new(&config.backend)?;
        let store = FenceStore::open(&config.data_dir, &config.resource)?;
        let fence = SharedFence::new(&config.resource, mode, store, config.raise_timeout);
        let service = FenceLayer::new(Arc::clone(&fence), trust, config.metrics).layer(backend);
        let listen_error = |source| GuardError::Listen { address: config.listen, source };
        let listener = TcpListener::bind(config.listen).await.map_err(listen_error)?;
        let address = listener.local_addr().map_err(listen_error)?;
        let stop = watch::Sender::new(false);
        let task = tokio::spawn(server::serve(listener, tls, service, stop.subscribe()));
        tracing::info!(%address, resource = config.resource, mode = mode.name(), "guard started");
        Ok(Self { address, fence, stop, task })
    }

    /// Where it listens; the port the system chose when the configuration said 0.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes nothing more, and ends it when what is under way has its answer, or has taken too long. A write goes on
    /// when its sender is gone; whoever starts the next guard must not find it in flight.
    pub async fn stop(mut self) {
        self.stop.send_replace(true);
        let _ = timeout(LINGER + server::DRAIN_TIMEOUT, self.ended()).await;
        // Nothing is admitted from here on: the process does nothing else any more.
        let in_flight = self.fence.in_flight();
        if !in_flight.is_empty() {
            tracing::warn!(
                ?in_flight,
                "ends while the backend still works; restart it too before the next guard"
            );
        }
    }

    /// No connection is left, or only reads that have taken too long; and no write is in flight.
    async fn ended(&mut self) {
        let all = async {
            let _ended = (&mut self.task).await;
            self.fence.idle().await;
        };
        let writes = async {
            sleep(READ_LIMIT).await;
            loop {
                self.fence.idle().await;
                // Their answers leave; and one that waited for a raise, or for the rest of its head, is in flight.
                sleep(LINGER).await;
                if self.fence.in_flight().is_empty() {
                    break;
                }
            }
        };
        tokio::select! { () = all => {}, () = writes => {} }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.task.abort();
    }
}
