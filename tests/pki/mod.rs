//! Certificates for tests: the tool's own, and every wrong kind that it would never issue.

// Each test binary uses its own part of this.
#![allow(dead_code)]

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::QuicClientConfig;
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose as Purpose, Issuer, KeyPair, SanType};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, Error, SignatureScheme};
use tempfile::TempDir;
use termgate::certs;
use termgate::ids::NodeId;
use termgate::metrics::{Metrics, ReasonLabel};
use termgate::transport::credentials::Credentials;
use termgate::transport::identity::Subject;
use time::OffsetDateTime;
use tokio::net::UdpSocket;

/// No wait of a test is longer than this.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// One authority and what it signed.
pub struct Pki {
    pub dir: TempDir,
}

/// A leaf of any shape.
pub struct Leaf {
    pub uri: Option<&'static str>,
    pub second_uri: Option<&'static str>,
    pub purposes: Vec<Purpose>,
    pub valid: (i64, i64),
}

impl Default for Leaf {
    fn default() -> Self {
        let uri = Some("spiffe://orders/node/1");
        Self {
            uri,
            second_uri: None,
            purposes: vec![Purpose::ServerAuth, Purpose::ClientAuth],
            valid: (-1, 1),
        }
    }
}

impl Pki {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        certs::init("orders", dir.path()).unwrap();
        Self { dir }
    }

    pub fn ca(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    pub fn node(&self, id: u64) -> Credentials {
        self.issue(&Subject::Node(NodeId(id)))
    }

    pub fn issue(&self, subject: &Subject) -> Credentials {
        let out = tempfile::tempdir_in(self.dir.path()).unwrap().keep();
        let files = certs::issue(self.dir.path(), subject, &out, &[]).unwrap();
        Credentials::load(&self.ca(), &files.certificate, &files.key).unwrap()
    }

    /// A certificate and key in files, of any shape; `valid` is in days from now.
    pub fn forge(&self, leaf: &Leaf) -> (PathBuf, PathBuf) {
        let issuer_key = KeyPair::from_pem(&read(&self.dir.path().join("ca.key"))).unwrap();
        let issuer = Issuer::from_ca_cert_pem(&read(&self.ca()), issuer_key).unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = leaf
            .uri
            .into_iter()
            .chain(leaf.second_uri)
            .map(|uri| SanType::URI(uri.try_into().unwrap()))
            .collect();
        params.extended_key_usages.clone_from(&leaf.purposes);
        params.not_before = OffsetDateTime::now_utc() + time::Duration::days(leaf.valid.0);
        params.not_after = OffsetDateTime::now_utc() + time::Duration::days(leaf.valid.1);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &issuer).unwrap();
        let out = tempfile::tempdir_in(self.dir.path()).unwrap().keep();
        let files = (out.join("leaf.pem"), out.join("leaf.key"));
        fs::write(&files.0, certificate.pem()).unwrap();
        fs::write(&files.1, key.serialize_pem()).unwrap();
        files
    }

    pub fn forged(&self, leaf: &Leaf) -> Credentials {
        let (certificate, key) = self.forge(leaf);
        Credentials::load(&self.ca(), &certificate, &key).unwrap()
    }
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap()
}

/// A peer that keeps to no rule: any certificate or none, any protocol name, no verification.
pub async fn hostile(
    to: SocketAddr,
    alpn: &[u8],
    certificate: Option<(PathBuf, PathBuf)>,
) -> Result<quinn::Connection, quinn::ConnectionError> {
    dial_with(to, hostile_config(alpn, certificate)).await
}

/// The same with a configuration of one's own.
pub async fn dial_with(
    to: SocketAddr,
    config: quinn::ClientConfig,
) -> Result<quinn::Connection, quinn::ConnectionError> {
    dial_from(IpAddr::V4(Ipv4Addr::LOCALHOST), to, config).await
}

/// The same from an address of one's own.
pub async fn dial_from(
    from: IpAddr,
    to: SocketAddr,
    config: quinn::ClientConfig,
) -> Result<quinn::Connection, quinn::ConnectionError> {
    let endpoint = quinn::Endpoint::client(SocketAddr::new(from, 0)).unwrap();
    endpoint.connect_with(config, to, "termgate").unwrap().await
}

pub fn hostile_config(alpn: &[u8], certificate: Option<(PathBuf, PathBuf)>) -> quinn::ClientConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anything));
    let mut config = match certificate {
        Some((certificate, key)) => {
            let chain = vec![CertificateDer::from_pem_slice(read(&certificate).as_bytes()).unwrap()];
            let key = PrivateKeyDer::from_pem_slice(read(&key).as_bytes()).unwrap();
            builder.with_client_auth_cert(chain, key).unwrap()
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![alpn.to_vec()];
    quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(config).unwrap()))
}

/// Handshakes that nobody will go on with: the first datagram of each, and what keeps their
/// clients from closing them.
pub async fn half_open(count: usize, alpn: &[u8]) -> (Vec<Vec<u8>>, Vec<quinn::Connecting>) {
    let nobody = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let to = nobody.local_addr().unwrap();
    let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let config = hostile_config(alpn, None);
    let (mut found, mut open) = (Vec::new(), Vec::new());
    for _ in 0..count {
        open.push(endpoint.connect_with(config.clone(), to, "termgate").unwrap());
        let mut datagram = vec![0; 2048];
        let length = within("a first datagram", nobody.recv(&mut datagram)).await.unwrap();
        datagram.truncate(length);
        found.push(datagram);
    }
    (found, open)
}

/// A handshake that goes on no more, and all that must stay open for it: a port that is released
/// may be given to the next one, and then gets what was meant for this.
pub struct Silent {
    _near: UdpSocket,
    _far: UdpSocket,
    _connecting: quinn::Connecting,
}

/// Handshakes of sources that can receive, that get as far as they can and then fall silent: each
/// holds what it was given until the other side gives up, after seconds.
pub async fn hold_handshakes(to: SocketAddr, alpn: &[u8]) -> Vec<Silent> {
    let client = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let mut held = Vec::new();
    for source in 2..10 {
        for _ in 0..10 {
            let near = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            let far = UdpSocket::bind((format!("127.0.0.{source}"), 0)).await.unwrap();
            let config = hostile_config(alpn, None);
            let connecting = client.connect_with(config, near.local_addr().unwrap(), "termgate").unwrap();
            within("a handshake's beginning", pass_on(&near, &far, to)).await;
            held.push(Silent { _near: near, _far: far, _connecting: connecting });
        }
    }
    held
}

/// Passes on the first datagram, the answer if it is a Retry, and the datagram after that.
async fn pass_on(near: &UdpSocket, far: &UdpSocket, to: SocketAddr) {
    let mut datagram = vec![0; 2048];
    let (length, client) = near.recv_from(&mut datagram).await.unwrap();
    far.send_to(&datagram[..length], to).await.unwrap();
    let length = far.recv(&mut datagram).await.unwrap();
    let is_retry = datagram[0] & 0xf0 == 0xf0;
    if is_retry {
        near.send_to(&datagram[..length], client).await.unwrap();
        let length = near.recv(&mut datagram).await.unwrap();
        far.send_to(&datagram[..length], to).await.unwrap();
    }
}

#[derive(Debug)]
struct Anything;

impl ServerCertVerifier for Anything {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

/// How often `reason` was counted for `what`.
pub fn counted(metrics: &Metrics, what: &'static str, reason: &str) -> u64 {
    let label = ReasonLabel { what, reason: reason.to_owned() };
    metrics.refusals.get(&label).map_or(0, |counter| counter.get())
}

/// Waits until `holds`, at most [`PATIENCE`].
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("{what} did not happen within {PATIENCE:?}"));
}

/// Ends a wait that should have ended by itself.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future)
        .await
        .unwrap_or_else(|_| panic!("{what} did not happen within {PATIENCE:?}"))
}

/// A UDP address of this machine that nobody listens at now.
pub fn free_address() -> SocketAddr {
    std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}
