//! A process's certificate, its key and the authorities it trusts, from files, replaceable while
//! connections live.
//!
//! TLS configurations are made once and ask [`Credentials`] at every handshake; after `reload` new
//! connections use the new files and old connections go on with what they have.

mod inspect;

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use ::ring::hmac;
use rustls::RootCertStore;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::sign::CertifiedKey;
use thiserror::Error;
use x509_parser::prelude::{FromDer, X509Certificate};

pub use self::inspect::{Inspection, Part};
use crate::clock;
use crate::transport::identity::{self, Identity, IdentityError};

/// Who this process is and whom it trusts. Clones share one state.
#[derive(Debug, Clone)]
pub struct Credentials {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    paths: Paths,
    current: RwLock<Arc<Loaded>>,
}

#[derive(Debug)]
struct Paths {
    ca: PathBuf,
    cert: PathBuf,
    key: PathBuf,
}

/// One consistent reading of the three files.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) identity: Identity,
    pub(super) roots: Arc<RootCertStore>,
    pub(super) certified: Arc<CertifiedKey>,
    pub(super) client_verifier: Arc<dyn ClientCertVerifier>,
    /// Keyed by the private key, so that a restarted process can tell the peers of its former life
    /// that their connections are gone (RFC 9000, 10.3).
    pub(super) reset_key: hmac::Key,
    /// Seconds since 1970.
    not_after: i64,
}

/// What is wrong with the files, and which one.
#[derive(Debug, Error)]
pub enum TlsError {
    /// A file can't be read.
    #[error(
        "cannot read {path}: {source}; check [tls] in the configuration, or issue it with `termgate certs issue`"
    )]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A file holds something else.
    #[error("{path} holds no {wanted} in PEM form ({detail}); issue it with `termgate certs issue`")]
    Content {
        /// The file.
        path: PathBuf,
        /// What should be in it.
        wanted: &'static str,
        /// What was found.
        detail: String,
    },
    /// The certificate names nobody.
    #[error("{path}: {source}")]
    Identity {
        /// The certificate.
        path: PathBuf,
        /// The cause.
        source: IdentityError,
    },
    /// The key is another certificate's.
    #[error("{key} is not the key of {cert}; take both from the same `termgate certs issue`")]
    KeyMismatch {
        /// The certificate.
        cert: PathBuf,
        /// The key.
        key: PathBuf,
    },
    /// The certificate is another authority's.
    #[error("{cert} was not issued by an authority in {ca} ({detail}); use the ca.pem it was issued with")]
    Chain {
        /// The certificate.
        cert: PathBuf,
        /// The authorities.
        ca: PathBuf,
        /// The verifier's words.
        detail: String,
    },
    /// A reload would make the process somebody else.
    #[error(
        "{path} now names {found} and not {expected}; a running process keeps its identity, restart it instead"
    )]
    IdentityChanged {
        /// The certificate.
        path: PathBuf,
        /// Who it was.
        expected: String,
        /// Who it would be.
        found: String,
    },
    /// The TLS library refused the configuration.
    #[error("the TLS library refused the configuration: {0}")]
    Library(String),
}

impl Credentials {
    /// Reads and checks the PEM files: the authorities (several while they are being replaced), the
    /// certificate with its intermediates, and its key. An expired certificate is only warned
    /// about: its refusal by the peers is the truth, and clocks differ.
    pub fn load(ca: &Path, cert: &Path, key: &Path) -> Result<Self, TlsError> {
        let paths = Paths { ca: ca.to_owned(), cert: cert.to_owned(), key: key.to_owned() };
        let loaded = RwLock::new(Arc::new(Loaded::read(&paths)?));
        Ok(Self { shared: Arc::new(Shared { paths, current: loaded }) })
    }

    /// Reads the files again. New connections use them; on an error nothing changes.
    pub fn reload(&self) -> Result<(), TlsError> {
        let fresh = Loaded::read(&self.shared.paths)?;
        let expected = self.identity();
        if fresh.identity != expected {
            let (expected, found) = (expected.to_string(), fresh.identity.to_string());
            return Err(TlsError::IdentityChanged { path: self.shared.paths.cert.clone(), expected, found });
        }
        *self.shared.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(fresh);
        Ok(())
    }

    /// Whom the certificate names.
    pub fn identity(&self) -> Identity {
        self.loaded().identity.clone()
    }

    /// When the certificate ends, in seconds since 1970.
    pub fn not_after(&self) -> i64 {
        self.loaded().not_after
    }

    pub(super) fn loaded(&self) -> Arc<Loaded> {
        Arc::clone(&self.shared.current.read().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The one crypto provider, named explicitly: nothing depends on a process-wide default.
pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

impl Loaded {
    fn read(paths: &Paths) -> Result<Self, TlsError> {
        let roots = Arc::new(read_roots(&paths.ca)?);
        let Leaf { chain, identity, not_before, not_after } = Leaf::read(&paths.cert)?;
        let key = read_key(&paths.key)?;
        warn_if_readable_by_others(&paths.key);
        warn_if_out_of_date(&paths.cert, not_before, not_after);
        let client_verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), provider())
            .build()
            .map_err(|e| TlsError::Library(e.to_string()))?;
        check_chain(paths, &roots, &chain, not_before)?;
        let reset_key = reset_key(&key);
        let certified = Arc::new(certified_key(paths, chain, key)?);
        Ok(Self { identity, roots, certified, client_verifier, reset_key, not_after })
    }
}

/// The certificate by itself.
struct Leaf {
    /// It, and its intermediates.
    chain: Vec<CertificateDer<'static>>,
    identity: Identity,
    /// Seconds since 1970.
    not_before: i64,
    not_after: i64,
}

impl Leaf {
    fn read(path: &Path) -> Result<Self, TlsError> {
        let chain = read_certificates(path)?;
        let Some(leaf) = chain.first() else {
            return Err(content(path, "certificate", "the file is empty"));
        };
        let identity = identity::of_certificate(leaf)
            .map_err(|source| TlsError::Identity { path: path.to_owned(), source })?;
        let (not_before, not_after) =
            validity(leaf).ok_or_else(|| content(path, "certificate", "its validity cannot be read"))?;
        Ok(Self { chain, identity, not_before, not_after })
    }
}

fn certified_key(
    paths: &Paths,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<CertifiedKey, TlsError> {
    let signer = ring::sign::any_supported_type(&key)
        .map_err(|e| content(&paths.key, "usable private key", &e.to_string()))?;
    let certified = CertifiedKey::new(chain, signer);
    match certified.keys_match() {
        Ok(()) => Ok(certified),
        Err(_) => Err(TlsError::KeyMismatch { cert: paths.cert.clone(), key: paths.key.clone() }),
    }
}

/// Says early, and with the names of the files, what every peer would say later. The time is the
/// certificate's own, so that only the chain is judged here.
fn check_chain(
    paths: &Paths,
    roots: &RootCertStore,
    chain: &[CertificateDer<'static>],
    not_before: i64,
) -> Result<(), TlsError> {
    let Some((leaf, intermediates)) = chain.split_first() else { return Ok(()) };
    let at = UnixTime::since_unix_epoch(std::time::Duration::from_secs(not_before.unsigned_abs()));
    match super::tls::verify_chain(leaf, intermediates, roots, at) {
        Err(rustls::Error::InvalidCertificate(
            e @ (rustls::CertificateError::UnknownIssuer | rustls::CertificateError::BadSignature),
        )) => Err(TlsError::Chain { cert: paths.cert.clone(), ca: paths.ca.clone(), detail: e.to_string() }),
        // Anything else, such as a missing purpose, depends on what the certificate is used for.
        _ => Ok(()),
    }
}

fn read_roots(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in read_certificates(path)? {
        roots.add(certificate).map_err(|e| content(path, "CA certificate", &e.to_string()))?;
    }
    if roots.is_empty() {
        return Err(content(path, "CA certificate", "the file is empty"));
    }
    Ok(roots)
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    CertificateDer::pem_slice_iter(&read(path)?)
        .collect::<Result<_, _>>()
        .map_err(|e| content(path, "certificate", &e.to_string()))
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(&read(path)?).map_err(|e| content(path, "private key", &e.to_string()))
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(|source| TlsError::Read { path: path.to_owned(), source })
}

fn content(path: &Path, wanted: &'static str, detail: &str) -> TlsError {
    TlsError::Content { path: path.to_owned(), wanted, detail: detail.to_owned() }
}

fn validity(der: &[u8]) -> Option<(i64, i64)> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let validity = certificate.validity();
    Some((validity.not_before.timestamp(), validity.not_after.timestamp()))
}

fn reset_key(key: &PrivateKeyDer<'_>) -> hmac::Key {
    let secret = hmac::Key::new(hmac::HMAC_SHA256, key.secret_der());
    let derived = hmac::sign(&secret, b"termgate stateless reset 1");
    hmac::Key::new(hmac::HMAC_SHA256, derived.as_ref())
}

fn warn_if_readable_by_others(key: &Path) {
    let mode = fs::metadata(key).map(|m| m.permissions().mode()).unwrap_or(0);
    if mode & 0o077 != 0 {
        tracing::warn!(
            key = %key.display(),
            mode = format!("{:o}", mode & 0o777),
            "the private key can be read by others than its owner; run `chmod 600` on it"
        );
    }
}

fn warn_if_out_of_date(cert: &Path, not_before: i64, not_after: i64) {
    let now = i64::try_from(clock::unix_seconds()).unwrap_or(i64::MAX);
    if now < not_before || now > not_after {
        tracing::warn!(
            cert = %cert.display(),
            "the certificate is not valid now and the peers will refuse it; issue a new one, or set the clock"
        );
    }
}
