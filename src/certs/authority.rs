//! The authority's key at work.
//!
//! It signs certificates: for keys that are made here, and for those of machines that only show the public
//! half, in a certificate request (PKCS #10). Of such a request nothing counts but the key and the proof that
//! its sender has the private half: whom a certificate names is never the asking machine's choice.
//!
//! And it seals what a joining machine must believe before it has any certificate to believe in: settings that
//! a lease depends on. A seal is no certificate: what it is made over begins in a way that none does.

use std::path::{Path, PathBuf};

use rcgen::{
    CertificateParams, CertificateSigningRequestParams, DistinguishedName, Issuer, KeyPair, SigningKey,
};
use ring::digest::{SHA256, digest};
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{CertsError, leaf, read};
use crate::ids::NodeId;
use crate::transport::identity::{IdentityError, Subject, cluster_of_authority, of_certificate};

/// In front of everything that is sealed. A certificate begins with 0x30.
const SEAL: &[u8] = b"termgate join answer 1\n";

/// Where an authority lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthorityFiles {
    /// The certificates of the authorities that the cluster trusts, this one among them.
    pub ca: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// An authority with its key.
pub struct Authority {
    cluster: String,
    /// All that the cluster trusts, PEM.
    trusted: String,
    der: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Reads the key, and finds its certificate among those in `ca`.
    pub fn open(ca: &Path, key: &Path) -> Result<Self, CertsError> {
        let not_ours = |source| CertsError::Authority { path: ca.to_owned(), source };
        let trusted = read(ca)?;
        let all: Vec<_> = CertificateDer::pem_slice_iter(trusted.as_bytes())
            .collect::<Result<_, _>>()
            .map_err(|_| not_ours(IdentityError::NotACertificate))?;
        if all.is_empty() {
            return Err(not_ours(IdentityError::NotACertificate));
        }
        let pair = KeyPair::from_pem(&read(key)?)?;
        let own = all.into_iter().find(|der| carries_key(der, pair.public_key_raw()));
        let der = own.ok_or_else(|| CertsError::AuthorityKey { ca: ca.to_owned(), key: key.to_owned() })?;
        let cluster = cluster_of_authority(&der).map_err(not_ours)?;
        let issuer = Issuer::from_ca_cert_der(&der, pair)?;
        Ok(Self { cluster, trusted, der, issuer })
    }

    /// The same, for letting machines join: it must be able to [`seal`](Self::seal), too.
    pub fn open_to_invite(ca: &Path, key: &Path) -> Result<Self, CertsError> {
        let authority = Self::open(ca, key)?;
        authority.seal(&[])?;
        Ok(authority)
    }

    /// Of which cluster.
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// SHA-256 of its certificate.
    pub fn fingerprint(&self) -> [u8; 32] {
        fingerprint_of(&self.der)
    }

    /// The certificates of all that the cluster trusts, PEM.
    pub fn trusted(&self) -> &str {
        &self.trusted
    }

    pub(super) const fn issuer(&self) -> &Issuer<'static, KeyPair> {
        &self.issuer
    }

    /// A certificate for `node` and the key in the request (PKCS #10, PEM), whatever else the request asks for.
    pub fn sign_request(&self, request: &str, node: NodeId) -> Result<String, CertsError> {
        // It verifies that whoever asks has the key.
        let request = CertificateSigningRequestParams::from_pem(request)
            .map_err(|e| CertsError::Request(e.to_string()))?;
        let params = leaf(&self.cluster, &Subject::Node(node))?;
        Ok(params.signed_by(&request.public_key, &self.issuer)?.pem())
    }

    /// Signs `content` for whoever knows the fingerprint.
    pub fn seal(&self, content: &[u8]) -> Result<Vec<u8>, CertsError> {
        let seal = self.issuer.key().sign(&[SEAL, content].concat())?;
        if is_sealed(&self.der, content, &seal) {
            return Ok(seal);
        }
        Err(CertsError::AuthorityKind)
    }
}

/// A new key and the request for a certificate for it, both PEM. The request names nobody: that is up to
/// whoever signs.
pub fn request() -> Result<(String, String), CertsError> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let request = params.serialize_request(&key)?.pem()?;
    Ok((key.serialize_pem(), request))
}

/// The authority with this fingerprint, among PEM certificates.
pub fn find(trusted: &str, fingerprint: &[u8; 32]) -> Option<CertificateDer<'static>> {
    let all = CertificateDer::pem_slice_iter(trusted.as_bytes());
    all.filter_map(Result::ok).find(|der| fingerprint_of(der) == *fingerprint)
}

/// Whether `seal` was made over `content` by the authority with this certificate.
pub fn is_sealed(authority: &[u8], content: &[u8], seal: &[u8]) -> bool {
    let Ok((_, certificate)) = X509Certificate::from_der(authority) else { return false };
    let key =
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &certificate.public_key().subject_public_key.data);
    key.verify(&[SEAL, content].concat(), seal).is_ok()
}

/// Whether a PEM certificate names node `node` of `cluster` and carries the public half of `key`. Whether an
/// authority has signed it, [`Credentials::load`](crate::transport::credentials::Credentials::load) verifies.
pub fn is_for(certificate: &str, cluster: &str, node: NodeId, key: &str) -> bool {
    let Ok(der) = CertificateDer::from_pem_slice(certificate.as_bytes()) else { return false };
    let Ok(pair) = KeyPair::from_pem(key) else { return false };
    let named = of_certificate(&der);
    named.is_ok_and(|named| named.cluster == cluster && named.subject == Subject::Node(node))
        && carries_key(&der, pair.public_key_raw())
}

fn carries_key(der: &[u8], public_key: &[u8]) -> bool {
    X509Certificate::from_der(der)
        .is_ok_and(|(_, c)| c.public_key().subject_public_key.data.as_ref() == public_key)
}

fn fingerprint_of(der: &[u8]) -> [u8; 32] {
    digest(&SHA256, der).as_ref().try_into().expect("SHA-256 has 32 bytes")
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, IsCa, KeyUsagePurpose, SanType};
    use x509_parser::extensions::GeneralName;

    use super::*;
    use crate::certs;
    use crate::transport::credentials::Credentials;
    use crate::transport::identity::Identity;

    fn authority(dir: &Path) -> Authority {
        certs::init("orders", dir).unwrap();
        Authority::open(&dir.join("ca.pem"), &dir.join("ca.key")).unwrap()
    }

    /// Writes what a joining machine has in the end; loading it verifies the chain and the key.
    fn load(dir: &Path, ca: &str, certificate: &str, key: &str) -> Credentials {
        let path = |name: &str, text: &str| {
            let path = dir.join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let (ca, cert) = (path("joined-ca", ca), path("joined-cert", certificate));
        Credentials::load(&ca, &cert, &path("joined-key", key)).unwrap()
    }

    #[test]
    fn signs_for_the_key_in_the_request() {
        let dir = tempfile::tempdir().unwrap();
        let authority = authority(dir.path());
        let (key, request) = request().unwrap();
        let certificate = authority.sign_request(&request, NodeId(4)).unwrap();
        assert!(is_for(&certificate, "orders", NodeId(4), &key));
        let loaded = load(dir.path(), authority.trusted(), &certificate, &key);
        assert_eq!(loaded.identity(), Identity::of_node("orders", NodeId(4)));
        let (other, _) = super::request().unwrap();
        assert!(!is_for(&certificate, "orders", NodeId(4), &other), "another key");
        assert!(!is_for(&certificate, "orders", NodeId(5), &key), "another node");
        assert!(!is_for(&certificate, "others", NodeId(4), &key), "another cluster");
    }

    #[test]
    fn gives_no_name_and_no_right_that_the_request_asks_for() {
        let dir = tempfile::tempdir().unwrap();
        let authority = authority(dir.path());
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        let names =
            ["spiffe://orders/node/1", "spiffe://orders"].map(|n| SanType::URI(n.try_into().unwrap()));
        params.subject_alt_names = names.into();
        params.subject_alt_names.push(SanType::DnsName("backend".try_into().unwrap()));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let request = params.serialize_request(&key).unwrap().pem().unwrap();
        let pem = authority.sign_request(&request, NodeId(4)).unwrap();
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
        let (_, certificate) = X509Certificate::from_der(&der).unwrap();
        let names = certificate.subject_alternative_name().unwrap().unwrap();
        assert!(matches!(names.value.general_names[..], [GeneralName::URI("spiffe://orders/node/4")]));
        assert!(!certificate.is_ca());
        let usage = certificate.key_usage().unwrap().unwrap();
        assert!(usage.value.digital_signature() && !usage.value.key_cert_sign());
    }

    #[test]
    fn a_request_that_its_key_has_not_signed_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let authority = authority(dir.path());
        let (_, request) = request().unwrap();
        let mut der = pem_bytes(&request);
        // The public key lies in front of the signature, near the middle.
        let middle = der.len() / 2;
        der[middle] ^= 1;
        let forged = pem_of(&der);
        assert!(authority.sign_request(&forged, NodeId(4)).is_err());
        for text in ["", "no PEM", authority.trusted()] {
            assert!(authority.sign_request(text, NodeId(4)).is_err(), "{text}");
        }
    }

    fn pem_bytes(pem: &str) -> Vec<u8> {
        use base64::Engine as _;
        let text: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
        base64::engine::general_purpose::STANDARD.decode(text.trim()).unwrap()
    }

    fn pem_of(der: &[u8]) -> String {
        use base64::Engine as _;
        let text = base64::engine::general_purpose::STANDARD.encode(der);
        format!("-----BEGIN CERTIFICATE REQUEST-----\n{text}\n-----END CERTIFICATE REQUEST-----\n")
    }

    #[test]
    fn a_seal_is_good_for_its_content_and_its_authority_only() {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (ours, theirs) = (authority(a.path()), authority(b.path()));
        let seal = ours.seal(b"content").unwrap();
        assert!(is_sealed(&ours.der, b"content", &seal));
        assert!(!is_sealed(&ours.der, b"Content", &seal) && !is_sealed(&theirs.der, b"content", &seal));
        assert!(!is_sealed(&ours.der, b"content", &[]) && !is_sealed(b"", b"content", &seal));
    }

    #[test]
    fn the_authority_is_found_among_several() {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (ours, theirs) = (authority(a.path()), authority(b.path()));
        let both = format!("{}{}", theirs.trusted(), ours.trusted());
        assert_eq!(find(&both, &ours.fingerprint()), Some(ours.der.clone()));
        assert_eq!(find(theirs.trusted(), &ours.fingerprint()), None);
        let ca = a.path().join("both.pem");
        std::fs::write(&ca, both).unwrap();
        let opened = Authority::open(&ca, &a.path().join("ca.key")).unwrap();
        assert_eq!(opened.fingerprint(), ours.fingerprint());
        let foreign = Authority::open(&a.path().join("ca.pem"), &b.path().join("ca.key"));
        assert!(matches!(foreign, Err(CertsError::AuthorityKey { .. })));
    }
}
