//! Whom a certificate names, against what the library says that verified its chain.

use rustls::pki_types::CertificateDer;
use termgate::transport::identity::{Identity, IdentityError, cluster_of_authority, of_certificate};
use webpki::EndEntityCert;

/// The bytes are a certificate in DER, or the text of a name.
pub fn run(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        spelled(text);
    }
    let named = of_certificate(data);
    let cluster = cluster_of_authority(data);
    assert!(named.is_err() || cluster.is_err(), "a certificate is a member's and an authority's at once");
    if let Ok(identity) = &named {
        let spelling = identity.to_string();
        assert!(holds(data, spelling.as_bytes()), "{spelling} does not stand in the certificate");
        spelled(&spelling);
    }
    if let Ok(cluster) = &cluster {
        assert!(holds(data, format!("spiffe://{cluster}").as_bytes()));
    }
    // rustls lets a connection in by one reading of the bytes, and this program asks who it is by another. Where
    // both can read them, they must read the same names.
    let der = CertificateDer::from(data);
    let Ok(verified) = EndEntityCert::try_from(&der) else { return };
    let uris: Vec<&str> = verified.valid_uri_names().collect();
    match named {
        Ok(identity) => assert_eq!(uris, [identity.to_string()], "two readings of one certificate"),
        Err(IdentityError::NotAnIdentity(uri)) => {
            assert!(!uris.iter().any(|u| *u != uri), "{uris:?} and {uri:?}")
        }
        Err(IdentityError::UriCount(count)) => assert!(uris.len() <= count, "{uris:?} of {count}"),
        Err(IdentityError::NotACertificate) => {}
    }
}

fn holds(data: &[u8], spelling: &[u8]) -> bool {
    data.windows(spelling.len()).any(|window| window == spelling)
}

/// W-3: an identity has one spelling, and names nothing that a log line or a path could be confused by.
fn spelled(text: &str) {
    let Some(identity) = Identity::parse(text) else { return };
    assert_eq!(identity.to_string(), text);
    assert!(text.bytes().all(|b| b.is_ascii_graphic()), "{text:?}");
    assert_eq!(text.matches('/').count(), 4, "{text:?}");
}
