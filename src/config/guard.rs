//! The configuration of `termgate guard`: a verifying sidecar in front of one HTTP backend.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::config::section::Section;
use crate::config::{TlsFiles, files, value};
use crate::fencing::mode::FenceMode;
use crate::guard::fence::DEFAULT_RAISE_TIMEOUT;
use crate::time::Duration;
use crate::transport::identity::Identity;

/// A guard's settings, already checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuardConfig {
    /// Where nodes connect to.
    pub listen: SocketAddr,
    /// The backend it protects.
    pub backend: http::Uri,
    /// The resource, as the nodes' route is named.
    pub resource: String,
    /// Whether the fence is raised beforehand, or follows the highest authenticated term.
    pub mode: FenceMode,
    /// Where the fence is kept.
    pub data_dir: PathBuf,
    /// The cluster whose nodes may raise the fence.
    pub cluster: String,
    /// How long a raise waits for older writes to end before it answers that they still run.
    pub raise_timeout: Duration,
    /// Mutual TLS with the nodes. `None`: the guard listens on a loopback address only.
    pub tls: Option<TlsFiles>,
}

pub(super) fn read(root: &mut Section<'_>) -> Option<GuardConfig> {
    let mut guard = root.section("guard");
    let listen = guard.required("listen", "\"0.0.0.0:8443\"", value::listener);
    let backend = guard.required("backend", "\"http://127.0.0.1:8000\"", value::backend);
    let resource = guard.required("resource", "\"orders\"", value::name);
    let mode = guard.optional("mode", value::verifier_mode).unwrap_or(FenceMode::Enforced);
    let data_dir = guard.required("data_dir", "\"data/guard\"", files::path);
    let cluster = guard.required("cluster", "\"orders\"", value::cluster);
    let raise_timeout = guard.optional("raise_timeout_ms", value::millis).unwrap_or(DEFAULT_RAISE_TIMEOUT);
    guard.finish();
    // Without certificates anybody who can connect could raise the fence.
    let exposed = listen.is_none_or(|address: SocketAddr| !address.ip().is_loopback());
    let objection = |found: &Identity| cluster.as_deref().and_then(|cluster| other_cluster(cluster, found));
    let tls = if root.has("tls") || exposed {
        files::tls(root, "guard", false, objection).map(Some)
    } else {
        Some(None)
    };
    Some(GuardConfig {
        listen: listen?,
        backend: backend?,
        resource: resource?,
        mode,
        data_dir: data_dir?,
        cluster: cluster?,
        raise_timeout,
        tls: tls?,
    })
}

/// A guard lets in who has a certificate of its own certificate's cluster.
fn other_cluster(cluster: &str, found: &Identity) -> Option<String> {
    let mend = "compare [tls] with guard.cluster";
    (found.cluster != cluster).then(|| format!("the certificate names {found}, of another cluster; {mend}"))
}
