//! Who a certificate speaks for.
//!
//! An identity is one SPIFFE URI in the subject alternative name: `spiffe://CLUSTER/node/3`. It is
//! compared exactly: no wildcard, no common name, no second URI to choose from (W-3).

use std::fmt;

use thiserror::Error;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::ids::NodeId;

/// The longest cluster, guard or client name. A SPIFFE trust domain ends at 255 bytes.
pub const NAME_MAX_BYTES: usize = 128;

/// Whom a certificate names, and in which cluster.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The cluster's name.
    pub cluster: String,
    /// Who in it.
    pub subject: Subject,
}

/// The kinds of certificate holders.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Subject {
    /// A node: may take part in Raft and forward requests.
    Node(NodeId),
    /// A verifier in front of a backend.
    Guard(String),
    /// A client of the resource.
    Client(String),
}

/// Why a certificate names nobody.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum IdentityError {
    /// The bytes are no X.509 certificate.
    #[error("not an X.509 certificate")]
    NotACertificate,
    /// Not exactly one URI: an identity must not be a matter of choice.
    #[error(
        "the certificate has {0} URI names where exactly one is needed; issue it with `termgate certs issue`"
    )]
    UriCount(usize),
    /// The URI is none of ours.
    #[error("the URI name {0:?} is not spiffe://CLUSTER/node/ID, /guard/NAME or /client/NAME")]
    NotAnIdentity(String),
}

impl Identity {
    /// The identity of node `node` of `cluster`.
    pub fn of_node(cluster: &str, node: NodeId) -> Self {
        Self { cluster: cluster.to_owned(), subject: Subject::Node(node) }
    }

    /// Reads the URI form. `None` for anything that [`fmt::Display`] would not have written.
    pub fn parse(uri: &str) -> Option<Self> {
        let (cluster, path) = uri.strip_prefix("spiffe://")?.split_once('/')?;
        let (kind, name) = path.split_once('/')?;
        let subject = match kind {
            "node" => Subject::Node(parse_node_id(name)?),
            "guard" if is_valid_name(name) => Subject::Guard(name.to_owned()),
            "client" if is_valid_name(name) => Subject::Client(name.to_owned()),
            _ => return None,
        };
        is_valid_name(cluster).then(|| Self { cluster: cluster.to_owned(), subject })
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://{}/{}", self.cluster, self.subject)
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(id) => write!(f, "node/{id}"),
            Self::Guard(name) => write!(f, "guard/{name}"),
            Self::Client(name) => write!(f, "client/{name}"),
        }
    }
}

/// Whether `name` can stand in an identity: lower-case letters, digits, `-`, `_` and `.`, not
/// starting with a dot (the characters of a SPIFFE trust domain).
pub fn is_valid_name(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b);
    !name.is_empty() && name.len() <= NAME_MAX_BYTES && !name.starts_with('.') && name.bytes().all(allowed)
}

/// A decimal number in its one canonical spelling, so that an identity has one form only.
fn parse_node_id(text: &str) -> Option<NodeId> {
    let id: u64 = text.parse().ok()?;
    (id.to_string() == text).then_some(NodeId(id))
}

/// The server name under which `node` is dialled (W-2).
pub(crate) fn server_name(node: NodeId) -> String {
    format!("node-{node}")
}

/// Who is dialled under `server_name`; `None` when the name means nothing.
pub(crate) fn dialled_as(server_name: &str) -> Option<NodeId> {
    parse_node_id(server_name.strip_prefix("node-")?)
}

/// Whom a DER certificate names. It says nothing about the certificate's validity: ask only after
/// the chain was verified.
pub fn of_certificate(der: &[u8]) -> Result<Identity, IdentityError> {
    let uri = sole_uri(der)?;
    Identity::parse(&uri).ok_or(IdentityError::NotAnIdentity(uri))
}

/// The cluster that a CA certificate belongs to: its one URI is `spiffe://CLUSTER`.
pub fn cluster_of_authority(der: &[u8]) -> Result<String, IdentityError> {
    let uri = sole_uri(der)?;
    match uri.strip_prefix("spiffe://") {
        Some(cluster) if is_valid_name(cluster) => Ok(cluster.to_owned()),
        _ => Err(IdentityError::NotAnIdentity(uri)),
    }
}

fn sole_uri(der: &[u8]) -> Result<String, IdentityError> {
    let (_, certificate) = X509Certificate::from_der(der).map_err(|_| IdentityError::NotACertificate)?;
    let names = certificate.subject_alternative_name().map_err(|_| IdentityError::NotACertificate)?;
    let mut uris =
        names.iter().flat_map(|extension| &extension.value.general_names).filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        });
    match (uris.next(), uris.count()) {
        (Some(uri), 0) => Ok(uri.to_owned()),
        (None, _) => Err(IdentityError::UriCount(0)),
        (Some(_), more) => Err(IdentityError::UriCount(more + 1)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, proptest};

    use super::*;

    #[test]
    fn reads_back_what_it_writes() {
        for uri in ["spiffe://orders/node/3", "spiffe://a.b-c/guard/pg_1", "spiffe://orders/client/batch"] {
            assert_eq!(Identity::parse(uri).map(|i| i.to_string()).as_deref(), Some(uri));
        }
    }

    #[test]
    fn rejects_every_other_spelling() {
        for uri in [
            "spiffe://orders/node/03",
            "spiffe://orders/node/+3",
            "spiffe://orders/node/*",
            "spiffe://orders/node/",
            "spiffe://orders/node/3/",
            "spiffe://orders/node/3?x",
            "spiffe://Orders/node/3",
            "spiffe:///node/3",
            "spiffe://*/node/3",
            "SPIFFE://orders/node/3",
            "https://orders/node/3",
            "spiffe://orders/admin/3",
            "spiffe://orders/guard/../x",
            "spiffe://orders/node/99999999999999999999",
        ] {
            assert_eq!(Identity::parse(uri), None, "{uri}");
        }
    }

    proptest! {
        #[test]
        fn never_panics_on_any_certificate_bytes(der in any::<Vec<u8>>()) {
            let _ = of_certificate(&der);
            let _ = cluster_of_authority(&der);
        }

        #[test]
        fn has_one_spelling_for_each_identity(uri in "spiffe://[a-z*.]{1,4}/(node|guard)/[0-9a-z+]{1,3}") {
            if let Some(identity) = Identity::parse(&uri) {
                assert_eq!(identity.to_string(), uri);
            }
        }
    }
}
