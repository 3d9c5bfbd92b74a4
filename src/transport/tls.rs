//! TLS 1.3 with certificates on both sides: the configurations, and what they verify.
//!
//! A verifier first lets webpki check the chain, the validity and the purpose, and only then looks
//! at the identity. QUIC connections check the identity right after the handshake, in
//! `admission`, because a close with a code and a reason tells the other side what to mend, which
//! a TLS alert cannot. There is no 0-RTT, no resumption and no TLS 1.2 (W-2).

use std::sync::Arc;

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{
    ResolvesClientCert, Resumption, verify_server_cert_signed_by_trust_anchor, verify_server_name,
};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, NoServerSessionStorage, ParsedCertificate, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, OtherError,
    RootCertStore, ServerConfig, SignatureScheme,
};

use crate::transport::credentials::{Credentials, TlsError, provider};
use crate::transport::identity::{self, Subject};

/// Asks the credentials anew at every handshake, so that a reload needs no new configuration.
#[derive(Debug)]
struct Live {
    credentials: Credentials,
    check: Check,
}

/// What is verified beyond chain, validity and purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Check {
    /// Nothing: `admission` looks at the identity when the handshake is done.
    Chain,
    /// A TCP client must name someone of the own cluster, if it has a certificate at all.
    Client {
        /// Whether it must have one.
        required: bool,
    },
    /// A TCP server must be a guard of the own cluster, or carry the host's name.
    Backend,
}

/// A TLS server over TCP with this process's certificate. With `require_client` only holders of a
/// certificate of the same cluster get in; without it a client may stay anonymous. Set
/// `alpn_protocols` on the result as needed.
pub fn tcp_server(credentials: &Credentials, require_client: bool) -> Result<ServerConfig, TlsError> {
    server(credentials, Check::Client { required: require_client })
}

/// A TLS client over TCP with this process's certificate, for `https` backends of the cluster.
pub fn tcp_client(credentials: &Credentials) -> Result<ClientConfig, TlsError> {
    client(credentials, Check::Backend)
}

/// The accepting half of QUIC for one protocol.
pub(crate) fn quic_server(credentials: &Credentials, alpn: &[u8]) -> Result<Arc<QuicServerConfig>, TlsError> {
    let mut config = server(credentials, Check::Chain)?;
    config.alpn_protocols = vec![alpn.to_vec()];
    QuicServerConfig::try_from(config).map(Arc::new).map_err(|e| TlsError::Library(e.to_string()))
}

/// The dialling half of QUIC for one protocol.
pub(crate) fn quic_client(credentials: &Credentials, alpn: &[u8]) -> Result<Arc<QuicClientConfig>, TlsError> {
    let mut config = client(credentials, Check::Chain)?;
    config.alpn_protocols = vec![alpn.to_vec()];
    QuicClientConfig::try_from(config).map(Arc::new).map_err(|e| TlsError::Library(e.to_string()))
}

fn server(credentials: &Credentials, check: Check) -> Result<ServerConfig, TlsError> {
    let live = Arc::new(Live { credentials: credentials.clone(), check });
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(|e| TlsError::Library(e.to_string()))?
        .with_client_cert_verifier(Arc::clone(&live) as Arc<dyn ClientCertVerifier>)
        .with_cert_resolver(live);
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Ok(config)
}

fn client(credentials: &Credentials, check: Check) -> Result<ClientConfig, TlsError> {
    let live = Arc::new(Live { credentials: credentials.clone(), check });
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(|e| TlsError::Library(e.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::clone(&live) as Arc<dyn ServerCertVerifier>)
        .with_client_cert_resolver(live);
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    Ok(config)
}

/// Chain, validity and the purpose of a server; no name.
pub(super) fn verify_chain(
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    roots: &RootCertStore,
    now: UnixTime,
) -> Result<(), Error> {
    let parsed = ParsedCertificate::try_from(leaf)?;
    let algorithms = provider().signature_verification_algorithms.all;
    verify_server_cert_signed_by_trust_anchor(&parsed, roots, intermediates, now, algorithms)
}

fn refused(reason: impl std::error::Error + Send + Sync + 'static) -> Error {
    CertificateError::Other(OtherError(Arc::new(reason))).into()
}

#[derive(Debug, thiserror::Error)]
#[error("the certificate is of cluster {found:?}, this is cluster {expected:?}")]
struct OtherCluster {
    found: String,
    expected: String,
}

impl Live {
    fn check_client(&self, leaf: &[u8]) -> Result<(), Error> {
        if self.check == Check::Chain {
            return Ok(());
        }
        let found = identity::of_certificate(leaf).map_err(refused)?.cluster;
        let expected = self.credentials.identity().cluster;
        if found == expected { Ok(()) } else { Err(refused(OtherCluster { found, expected })) }
    }

    fn check_server(&self, leaf: &CertificateDer<'_>, host: &ServerName<'_>) -> Result<(), Error> {
        if self.check == Check::Chain || self.is_guard_of_this_cluster(leaf) {
            return Ok(());
        }
        verify_server_name(&ParsedCertificate::try_from(leaf)?, host)
    }

    fn is_guard_of_this_cluster(&self, leaf: &[u8]) -> bool {
        identity::of_certificate(leaf).is_ok_and(|found| {
            found.cluster == self.credentials.identity().cluster && matches!(found.subject, Subject::Guard(_))
        })
    }
}

impl ClientCertVerifier for Live {
    fn client_auth_mandatory(&self) -> bool {
        self.check != Check::Client { required: false }
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified =
            self.credentials.loaded().client_verifier.verify_client_cert(leaf, intermediates, now)?;
        self.check_client(leaf)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, signed, &provider().signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, signed, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

impl ServerCertVerifier for Live {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        host: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        verify_chain(leaf, intermediates, &self.credentials.loaded().roots, now)?;
        self.check_server(leaf, host)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, signed, &provider().signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, signed, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

impl ResolvesServerCert for Live {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.credentials.loaded().certified))
    }
}

impl ResolvesClientCert for Live {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.credentials.loaded().certified))
    }

    fn has_certs(&self) -> bool {
        true
    }
}
