//! Why a connection is refused or closed, in words that both sides log and count.
//!
//! Who refuses says why in the close frame: a code that the other side counts and a text that it
//! logs. In TLS 1.3 a client is done before the server has judged its certificate, so the dialling
//! side learns of a refusal only when the connection closes, and reports it then.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use quinn::{Connection, ConnectionError, TransportErrorCode, VarInt};
use rustls::pki_types::CertificateDer;
use thiserror::Error;

use crate::clock;
use crate::ids::NodeId;
use crate::metrics::Metrics;
use crate::time::{Duration, Instant};
use crate::transport::identity::{self, Identity, IdentityError, Subject};

/// The same refusal of the same address is logged once in this time; a misconfigured peer tries
/// again every second, and its first line says it all.
const LOG_INTERVAL: Duration = Duration::from_secs(10);
/// Refusals remembered for that; an attacker that changes addresses must not grow the memory.
const LOG_MEMORY: usize = 256;
/// Bytes of a peer's reason that are logged.
const REASON_MAX_BYTES: usize = 256;

/// Why this side refuses a peer (W-4, W-5).
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum Refusal {
    #[error("{0}")]
    NoIdentity(IdentityError),
    #[error(
        "the certificate is of cluster {found:?} and this is cluster {expected:?}; compare [cluster] name"
    )]
    WrongCluster { expected: String, found: String },
    #[error("{0} is not a node; use a certificate made with `termgate certs issue --node`")]
    NotANode(Identity),
    #[error("dialled node {dialled} and found node {found}; compare the addresses in [[cluster.members]]")]
    WrongNode { dialled: NodeId, found: NodeId },
    #[error("node {0} is not a member; add it to the cluster first")]
    NotAMember(NodeId),
    #[error("node {0} was removed from the cluster; stop it, or add it again")]
    Removed(NodeId),
    #[error("node {0} holds too many connections; is a second process running with its certificate?")]
    TooMany(NodeId),
    #[error("protocol version {0} is not spoken here; run compatible versions on all nodes")]
    Version(u8),
    #[error("node {identity} sent a message in the name of node {claimed}")]
    Impostor { identity: NodeId, claimed: NodeId },
    #[error("the bytes are no message ({0}); run the same version on all nodes")]
    Malformed(String),
}

/// Nothing is wrong: the process ends, or nobody needs the connection.
pub(crate) const CLOSED: VarInt = VarInt::from_u32(0);
/// A newer connection of the same node took this one's place. Whoever hears it while the
/// connection was in use has a twin, so it is reported like a refusal.
pub(crate) const SUPERSEDED: VarInt = VarInt::from_u32(1);
/// The peer is no member any more. Unlike [`Refusal::Removed`], the connection was in use. The peer reports
/// it like a refusal: the next one would be refused.
const REMOVED: VarInt = VarInt::from_u32(2);

/// The codes that are sent only before anything on the connection was read.
const AT_THE_DOOR: Range<u64> = 0x10..0x20;

const NAMES: [(u32, &str); 12] = [
    (0x01, "superseded"),
    (0x02, "removed"),
    (0x10, "no-identity"),
    (0x11, "wrong-cluster"),
    (0x12, "not-a-node"),
    (0x13, "wrong-node"),
    (0x14, "not-a-member"),
    (0x15, "too-many-connections"),
    (0x16, "removed"),
    (0x20, "protocol-version"),
    (0x21, "impostor"),
    (0x22, "malformed"),
];

impl Refusal {
    /// The application close code (`proto-spec/wire.md`).
    pub(crate) const fn code(&self) -> u32 {
        match self {
            Self::NoIdentity(_) => 0x10,
            Self::WrongCluster { .. } => 0x11,
            Self::NotANode(_) => 0x12,
            Self::WrongNode { .. } => 0x13,
            Self::NotAMember(_) => 0x14,
            Self::TooMany(_) => 0x15,
            Self::Removed(_) => 0x16,
            Self::Version(_) => 0x20,
            Self::Impostor { .. } => 0x21,
            Self::Malformed(_) => 0x22,
        }
    }

    /// The word in metrics and logs.
    pub(crate) fn name(&self) -> &'static str {
        name_of_code(u64::from(self.code())).unwrap_or("other")
    }

    /// Closes the connection so that the other side can say why.
    pub(crate) fn close(&self, connection: &Connection) {
        connection.close(VarInt::from_u32(self.code()), self.to_string().as_bytes());
    }
}

/// Ends a connection that was in use, because `node` at its other end is no member any more (W-5).
pub(crate) fn close_removed(connection: &Connection, node: NodeId) {
    connection.close(REMOVED, Refusal::Removed(node).to_string().as_bytes());
}

fn name_of_code(code: u64) -> Option<&'static str> {
    NAMES.iter().find(|(known, _)| u64::from(*known) == code).map(|(_, name)| *name)
}

/// Which node a connection's certificate names, when it is one of `cluster`.
pub(crate) fn node_of(connection: &Connection, cluster: &str) -> Result<NodeId, Refusal> {
    let certificates = connection.peer_identity().and_then(|any| any.downcast::<Vec<CertificateDer>>().ok());
    let Some(leaf) = certificates.as_ref().and_then(|chain| chain.first()) else {
        return Err(Refusal::NoIdentity(IdentityError::UriCount(0)));
    };
    let found = identity::of_certificate(leaf).map_err(Refusal::NoIdentity)?;
    if found.cluster != cluster {
        return Err(Refusal::WrongCluster { expected: cluster.to_owned(), found: found.cluster });
    }
    match found.subject {
        Subject::Node(id) => Ok(id),
        _ => Err(Refusal::NotANode(found)),
    }
}

/// Whose judgement ended a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum By {
    Us,
    Peer,
}

/// A refusal as found in how a connection ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) by: By,
    pub(crate) name: &'static str,
    pub(crate) text: String,
    /// Whether the connection was refused before anything on it was read.
    pub(crate) at_the_door: bool,
}

/// The refusal behind `error`; `None` when the connection was lost or closed in the usual way.
pub(crate) fn verdict(error: &ConnectionError) -> Option<Verdict> {
    match error {
        ConnectionError::TransportError(e) => of_alert(By::Us, e.code, e.reason.as_bytes()),
        ConnectionError::ConnectionClosed(close) => of_alert(By::Peer, close.error_code, &close.reason),
        ConnectionError::ApplicationClosed(close) => {
            let code = close.error_code.into_inner();
            let name = name_of_code(code)?;
            let at_the_door = AT_THE_DOOR.contains(&code);
            Some(Verdict { by: By::Peer, name, text: readable(&close.reason), at_the_door })
        }
        _ => None,
    }
}

fn of_alert(by: By, code: TransportErrorCode, reason: &[u8]) -> Option<Verdict> {
    let alert = u64::from(code).checked_sub(0x100).filter(|alert| *alert <= 0xff)?;
    let (name, mend) = match alert {
        48 | 51 => ("wrong-ca", "use certificates of one authority on all nodes"),
        45 => ("expired", "issue a new certificate, and compare the clocks"),
        43 => ("wrong-purpose", "use a certificate made with `termgate certs issue --node`"),
        116 => ("no-certificate", "nodes need a certificate; set [tls]"),
        120 => ("protocol-version", "run compatible versions on all nodes"),
        42 | 46 | 49 => ("bad-certificate", "use a certificate made with `termgate certs issue --node`"),
        _ => ("handshake", "run compatible versions on all nodes"),
    };
    Some(Verdict { by, name, text: format!("{}; {mend}", readable(reason)), at_the_door: true })
}

/// A peer's text, made safe for a log line.
fn readable(bytes: &[u8]) -> String {
    let head = bytes.get(..REASON_MAX_BYTES).unwrap_or(bytes);
    String::from_utf8_lossy(head).chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Counts every refusal and logs each kind at a bounded rate.
#[derive(Debug)]
pub(crate) struct Refusals {
    metrics: Metrics,
    protocol: &'static str,
    logged: Mutex<BTreeMap<(IpAddr, By, &'static str), Instant>>,
}

impl Refusals {
    pub(crate) fn new(metrics: Metrics, protocol: &'static str) -> Self {
        Self { metrics, protocol, logged: Mutex::default() }
    }

    /// This side refuses; the connection is closed with the reason.
    pub(crate) fn refuse(&self, connection: &Connection, claimed: Option<NodeId>, refusal: &Refusal) {
        refusal.close(connection);
        let text = refusal.to_string();
        let at_the_door = AT_THE_DOOR.contains(&u64::from(refusal.code()));
        let verdict = Verdict { by: By::Us, name: refusal.name(), text, at_the_door };
        self.note(connection.remote_address(), claimed, &verdict);
    }

    /// A connection ended: reports a refusal by either side, and stays silent otherwise. Also that this node
    /// was removed is reported and no more (W-14): the other side may be behind.
    pub(crate) fn note_end(
        &self,
        peer: SocketAddr,
        claimed: Option<NodeId>,
        error: &ConnectionError,
    ) -> Option<Verdict> {
        let found = verdict(error)?;
        self.note(peer, claimed, &found);
        Some(found)
    }

    /// Counts a drop that ends no connection.
    pub(crate) fn count(&self, what: &'static str, reason: &'static str) {
        self.metrics.refuse(what, reason);
    }

    fn note(&self, peer: SocketAddr, claimed: Option<NodeId>, verdict: &Verdict) {
        let what = match verdict.by {
            By::Us => "connection",
            By::Peer => "connection-by-peer",
        };
        self.metrics.refuse(what, verdict.name);
        if !self.may_log(peer.ip(), verdict) {
            return;
        }
        let node = claimed.map_or_else(|| "unknown".to_owned(), |id| id.to_string());
        let (protocol, reason) = (self.protocol, verdict.name);
        match verdict.by {
            By::Us => tracing::warn!(%peer, node, protocol, reason, "refused a connection: {}", verdict.text),
            By::Peer => {
                tracing::warn!(%peer, node, protocol, reason, "the peer refused this node: {}", verdict.text);
            }
        }
    }

    fn may_log(&self, peer: IpAddr, verdict: &Verdict) -> bool {
        let now = clock::now();
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        logged.retain(|_, at| now.since(*at) < LOG_INTERVAL);
        let key = (peer, verdict.by, verdict.name);
        if logged.contains_key(&key) || logged.len() >= LOG_MEMORY {
            return false;
        }
        logged.insert(key, now);
        true
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_has_a_name_of_its_own() {
        let identity = Identity::of_node("orders", NodeId(1));
        let all = [
            Refusal::NoIdentity(IdentityError::NotACertificate),
            Refusal::WrongCluster { expected: "a".into(), found: "b".into() },
            Refusal::NotANode(identity),
            Refusal::WrongNode { dialled: NodeId(1), found: NodeId(2) },
            Refusal::NotAMember(NodeId(1)),
            Refusal::TooMany(NodeId(1)),
            Refusal::Removed(NodeId(1)),
            Refusal::Version(2),
            Refusal::Impostor { identity: NodeId(1), claimed: NodeId(2) },
            Refusal::Malformed("x".into()),
        ];
        let names: std::collections::BTreeSet<_> = all.iter().map(Refusal::name).collect();
        assert_eq!(names.len(), all.len());
        assert!(!names.contains("other"));
    }

    #[test]
    fn a_peers_reason_cannot_forge_log_lines() {
        assert_eq!(readable(b"a\nWARN \x1b[31mb\xff"), "a WARN  [31mb\u{fffd}");
        assert!(readable(&[b'x'; 10_000]).len() <= REASON_MAX_BYTES);
    }
}
