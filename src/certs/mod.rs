//! Makes the cluster's certificates: one authority, and a leaf for each node, guard and client.
//!
//! The authority carries the cluster's name as its own URI `spiffe://CLUSTER`, so `issue` needs no
//! name and cannot mix clusters. Keys are ECDSA P-256, written with mode 0600 from the start, and
//! no existing file is ever overwritten. To replace a leaf, issue it into another directory and
//! move the files; to replace the authority, put both into `ca.pem` while the leaves change.
//!
//! Left out: revocation lists. A node is revoked by removing it from the membership.
//!
//! | file | idea |
//! |---|---|
//! | `authority` | the authority's key: it signs certificates, and what a joining machine must believe |
//! | `invitation` | the one-time token with which a machine joins |

pub mod authority;
pub mod invitation;

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
    SanType,
};
use thiserror::Error;
use time::{Duration, OffsetDateTime};

use crate::certs::authority::Authority;
use crate::clock;
use crate::transport::identity::{Identity, IdentityError, NAME_MAX_BYTES, Subject, is_valid_name};

/// How long an authority is valid: longer than any cluster goes without a planned change of keys.
pub const AUTHORITY_VALIDITY: Duration = Duration::days(3650);
/// How long a leaf is valid. Rotation is a file copy and a reload, so a year is a reminder.
pub const LEAF_VALIDITY: Duration = Duration::days(365);
/// How far back validity starts, for machines whose clocks are behind.
const CLOCK_SLACK: Duration = Duration::hours(1);

/// Mode of a private key: its owner only.
const KEY_MODE: u32 = 0o600;
/// Mode of a certificate, which is public.
const CERTIFICATE_MODE: u32 = 0o644;

/// Why no certificate was made.
#[derive(Debug, Error)]
pub enum CertsError {
    /// A name that cannot stand in an identity.
    #[error(
        "{what} {name:?} cannot be used: take 1 to {NAME_MAX_BYTES} of a-z, 0-9, '-', '_' and '.', not starting with '.'"
    )]
    Name {
        /// What the name is for.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// An extra name that is neither a host name nor an address.
    #[error("{0:?} is neither a host name nor an IP address")]
    San(String),
    /// A file is there already.
    #[error("{0} exists already and is not overwritten; choose another --out, or move it away")]
    Exists(PathBuf),
    /// A file cannot be read or written.
    #[error("cannot {act} {path}: {source}")]
    Io {
        /// What was tried.
        act: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// `ca.pem` is no authority of ours.
    #[error("{path} is not a cluster authority ({source}); make one with `termgate certs init`")]
    Authority {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: IdentityError,
    },
    /// `ca.key` belongs to another authority.
    #[error("{key} is not the key of an authority in {ca}; take both from the same `termgate certs init`")]
    AuthorityKey {
        /// The authorities.
        ca: PathBuf,
        /// The key.
        key: PathBuf,
    },
    /// `ca.key` was made in another way.
    #[error("the authority's key is not ECDSA P-256, as `termgate certs init` makes it")]
    AuthorityKind,
    /// A certificate request that can't be used.
    #[error("the certificate request can't be used: {0}")]
    Request(String),
    /// The certificate library refused.
    #[error("cannot make the certificate: {0}")]
    Library(#[from] rcgen::Error),
}

/// The files of one certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// The certificate, PEM.
    pub certificate: PathBuf,
    /// Its private key, PEM, readable by the owner only.
    pub key: PathBuf,
}

/// Makes the authority of `cluster`: `ca.pem` and `ca.key` in `out`.
pub fn init(cluster: &str, out: &Path) -> Result<Files, CertsError> {
    if !is_valid_name(cluster) {
        return Err(CertsError::Name { what: "the cluster name", name: cluster.to_owned() });
    }
    let key = KeyPair::generate()?;
    let mut params = base(&format!("termgate authority of {cluster}"), AUTHORITY_VALIDITY);
    params.subject_alt_names.push(uri(&format!("spiffe://{cluster}"))?);
    // No intermediate authorities: a leaf is signed by the key in `ca.key` or by nobody.
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let certificate = params.self_signed(&key)?;
    write_pair(out, "ca", &certificate.pem(), &key.serialize_pem())
}

/// Makes a certificate for `subject`, signed by the authority in `ca`: `node-ID.pem`,
/// `guard-NAME.pem` or `client-NAME.pem` and the `.key` beside it, in `out`. `sans` are extra host
/// names and addresses, which TLS clients that are not part of termgate compare.
pub fn issue(ca: &Path, subject: &Subject, out: &Path, sans: &[String]) -> Result<Files, CertsError> {
    let authority = Authority::open(&ca.join("ca.pem"), &ca.join("ca.key"))?;
    let file = file_name(subject)?;
    let mut params = leaf(authority.cluster(), subject)?;
    for san in sans {
        params.subject_alt_names.push(host_name(san)?);
    }
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, authority.issuer())?;
    write_pair(out, &file, &certificate.pem(), &key.serialize_pem())
}

fn file_name(subject: &Subject) -> Result<String, CertsError> {
    Ok(match subject {
        Subject::Node(id) => format!("node-{id}"),
        Subject::Guard(name) => format!("guard-{}", checked("the guard name", name)?),
        Subject::Client(name) => format!("client-{}", checked("the client name", name)?),
    })
}

/// What a certificate for `subject` says, whoever has its key.
fn leaf(cluster: &str, subject: &Subject) -> Result<CertificateParams, CertsError> {
    let identity = Identity { cluster: cluster.to_owned(), subject: subject.clone() };
    let mut params = base(&format!("termgate {}", file_name(subject)?), LEAF_VALIDITY);
    params.subject_alt_names.push(uri(&identity.to_string())?);
    params.is_ca = IsCa::ExplicitNoCa;
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = match subject {
        Subject::Client(_) => vec![ExtendedKeyUsagePurpose::ClientAuth],
        _ => vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
    };
    Ok(params)
}

fn base(common_name: &str, validity: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, common_name);
    let now = OffsetDateTime::from(clock::wall());
    params.not_before = now - CLOCK_SLACK;
    params.not_after = now + validity;
    params
}

fn checked<'a>(what: &'static str, name: &'a str) -> Result<&'a str, CertsError> {
    if is_valid_name(name) { Ok(name) } else { Err(CertsError::Name { what, name: name.to_owned() }) }
}

fn uri(text: &str) -> Result<SanType, CertsError> {
    Ok(SanType::URI(text.try_into()?))
}

fn host_name(text: &str) -> Result<SanType, CertsError> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(address));
    }
    // The same judgement as the verifier's, so that no name is issued which never matches.
    match rustls::pki_types::DnsName::try_from(text) {
        Ok(_) => Ok(SanType::DnsName(text.try_into()?)),
        Err(_) => Err(CertsError::San(text.to_owned())),
    }
}

fn read(path: &Path) -> Result<String, CertsError> {
    fs::read_to_string(path).map_err(|source| CertsError::Io { act: "read", path: path.to_owned(), source })
}

/// Writes both or neither, and neither over an existing file.
fn write_pair(out: &Path, name: &str, certificate: &str, key: &str) -> Result<Files, CertsError> {
    let files = Files { certificate: out.join(format!("{name}.pem")), key: out.join(format!("{name}.key")) };
    fs::create_dir_all(out).map_err(|source| CertsError::Io {
        act: "create",
        path: out.to_owned(),
        source,
    })?;
    for path in [&files.certificate, &files.key] {
        if path.symlink_metadata().is_ok() {
            return Err(CertsError::Exists(path.clone()));
        }
    }
    write_new(&files.key, key, KEY_MODE)?;
    write_new(&files.certificate, certificate, CERTIFICATE_MODE).inspect_err(|_| {
        // Ours, made a moment ago: a key without a certificate would block the next try.
        let _ = fs::remove_file(&files.key);
    })?;
    Ok(files)
}

/// Writes a private key into a new file.
pub fn write_key(path: &Path, text: &str) -> Result<(), CertsError> {
    write_new(path, text, KEY_MODE)
}

/// Creates the file with its final mode: there is no moment at which a key can be read by others.
fn write_new(path: &Path, text: &str, mode: u32) -> Result<(), CertsError> {
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()))
        .and_then(|()| flush_name(path));
    written.map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => CertsError::Exists(path.to_owned()),
        _ => CertsError::Io { act: "write", path: path.to_owned(), source },
    })
}

/// Makes a new file's name durable: a file whose name is lost is lost.
///
/// # Errors
/// When the directory can't be flushed.
pub fn flush_name(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    fs::File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::ids::NodeId;
    use crate::transport::credentials::{Credentials, TlsError};

    fn node(id: u64) -> Subject {
        Subject::Node(NodeId(id))
    }

    #[test]
    fn issues_certificates_that_load_and_name_their_holder() {
        let dir = tempfile::tempdir().unwrap();
        let ca = init("orders", dir.path()).unwrap();
        for subject in [node(3), Subject::Guard("pg".into()), Subject::Client("batch".into())] {
            let files = issue(dir.path(), &subject, dir.path(), &["localhost".into(), "::1".into()]).unwrap();
            let credentials = Credentials::load(&ca.certificate, &files.certificate, &files.key).unwrap();
            assert_eq!(credentials.identity(), Identity { cluster: "orders".into(), subject });
        }
        assert!(dir.path().join("node-3.pem").exists() && dir.path().join("client-batch.key").exists());
    }

    #[test]
    fn keeps_keys_to_their_owner() {
        let dir = tempfile::tempdir().unwrap();
        let ca = init("orders", dir.path()).unwrap();
        let leaf = issue(dir.path(), &node(1), dir.path(), &[]).unwrap();
        for key in [ca.key, leaf.key] {
            assert_eq!(fs::metadata(key).unwrap().permissions().mode() & 0o777, 0o600);
        }
    }

    #[test]
    fn never_overwrites() {
        let dir = tempfile::tempdir().unwrap();
        let ca = init("orders", dir.path()).unwrap();
        let before = fs::read(&ca.key).unwrap();
        assert!(matches!(init("orders", dir.path()), Err(CertsError::Exists(_))));
        assert_eq!(fs::read(&ca.key).unwrap(), before);

        fs::write(dir.path().join("node-1.key"), "precious").unwrap();
        assert!(matches!(issue(dir.path(), &node(1), dir.path(), &[]), Err(CertsError::Exists(_))));
        assert!(!dir.path().join("node-1.pem").exists());
    }

    #[test]
    fn refuses_the_key_of_another_authority() {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        init("orders", a.path()).unwrap();
        init("orders", b.path()).unwrap();
        fs::copy(b.path().join("ca.key"), a.path().join("ca.key")).unwrap();
        assert!(matches!(issue(a.path(), &node(1), a.path(), &[]), Err(CertsError::AuthorityKey { .. })));
    }

    #[test]
    fn refuses_to_issue_with_a_leaf_as_authority() {
        let dir = tempfile::tempdir().unwrap();
        init("orders", dir.path()).unwrap();
        let leaf = issue(dir.path(), &node(1), dir.path(), &[]).unwrap();
        let fake = tempfile::tempdir().unwrap();
        fs::copy(leaf.certificate, fake.path().join("ca.pem")).unwrap();
        fs::copy(leaf.key, fake.path().join("ca.key")).unwrap();
        assert!(matches!(issue(fake.path(), &node(2), fake.path(), &[]), Err(CertsError::Authority { .. })));
    }

    #[test]
    fn refuses_names_that_cannot_stand_in_an_identity() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(init("Orders", dir.path()), Err(CertsError::Name { .. })));
        assert!(matches!(init("a/b", dir.path()), Err(CertsError::Name { .. })));
        init("orders", dir.path()).unwrap();
        let guard = Subject::Guard("../x".into());
        assert!(matches!(issue(dir.path(), &guard, dir.path(), &[]), Err(CertsError::Name { .. })));
        let bad_san = issue(dir.path(), &node(1), dir.path(), &["no good".into()]);
        assert!(matches!(bad_san, Err(CertsError::San(_))));
    }

    #[test]
    fn load_names_the_file_that_does_not_fit() {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (ca_a, ca_b) = (init("orders", a.path()).unwrap(), init("orders", b.path()).unwrap());
        let one = issue(a.path(), &node(1), a.path(), &[]).unwrap();
        let two = issue(a.path(), &node(2), a.path(), &[]).unwrap();
        let load = |ca: &Files, cert: &Files, key: &Files| {
            Credentials::load(&ca.certificate, &cert.certificate, &key.key).map(drop)
        };
        assert!(matches!(load(&ca_a, &one, &two), Err(TlsError::KeyMismatch { .. })));
        assert!(matches!(load(&ca_b, &one, &one), Err(TlsError::Chain { .. })));
        let missing = Credentials::load(Path::new("/nowhere/ca.pem"), &one.certificate, &one.key);
        assert!(missing.unwrap_err().to_string().contains("/nowhere/ca.pem"));
        let swapped = Credentials::load(&ca_a.certificate, &one.key, &one.certificate);
        assert!(matches!(swapped, Err(TlsError::Content { .. })));
    }

    #[test]
    fn reload_takes_a_new_certificate_and_keeps_the_identity() {
        let dir = tempfile::tempdir().unwrap();
        let ca = init("orders", dir.path()).unwrap();
        let live = issue(dir.path(), &node(1), dir.path(), &[]).unwrap();
        let credentials = Credentials::load(&ca.certificate, &live.certificate, &live.key).unwrap();

        let fresh = issue(dir.path(), &node(1), &dir.path().join("fresh"), &[]).unwrap();
        fs::copy(fresh.certificate, &live.certificate).unwrap();
        assert!(matches!(credentials.reload(), Err(TlsError::KeyMismatch { .. })));
        fs::copy(fresh.key, &live.key).unwrap();
        credentials.reload().unwrap();

        let other = issue(dir.path(), &node(2), &dir.path().join("other"), &[]).unwrap();
        fs::copy(other.certificate, &live.certificate).unwrap();
        fs::copy(other.key, &live.key).unwrap();
        assert!(matches!(credentials.reload(), Err(TlsError::IdentityChanged { .. })));
        assert_eq!(credentials.identity(), Identity::of_node("orders", NodeId(1)));
    }
}
