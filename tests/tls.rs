//! TLS over TCP with the cluster's certificates: the guard's server side and the proxy's client
//! side.

mod pki;

use std::path::PathBuf;
use std::sync::Arc;

use pki::{Leaf, Pki, within};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use termgate::certs;
use termgate::ids::NodeId;
use termgate::transport::credentials::Credentials;
use termgate::transport::identity::{self, Identity, Subject};
use termgate::transport::tls;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// One byte each way over TLS; answers whom the server saw, or either side's refusal.
async fn talk(server: ServerConfig, client: ClientConfig, host: &str) -> Result<Option<Identity>, String> {
    let (near, far) = duplex(64 * 1024);
    let accept = async {
        let mut stream = TlsAcceptor::from(Arc::new(server)).accept(far).await.map_err(|e| e.to_string())?;
        let leaf = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first().cloned());
        let byte = stream.read_u8().await.map_err(|e| e.to_string())?;
        stream.write_u8(byte).await.map_err(|e| e.to_string())?;
        stream.flush().await.map_err(|e| e.to_string())?;
        Ok(leaf.map(|leaf| identity::of_certificate(&leaf).unwrap()))
    };
    let host = ServerName::try_from(host.to_owned()).unwrap();
    let connect = async {
        let connector = TlsConnector::from(Arc::new(client));
        let mut stream = connector.connect(host, near).await.map_err(|e| e.to_string())?;
        stream.write_u8(7).await.map_err(|e| e.to_string())?;
        stream.flush().await.map_err(|e| e.to_string())?;
        stream.read_u8().await.map_err(|e| e.to_string())
    };
    let (server, client) = within("a handshake", async { tokio::join!(accept, connect) }).await;
    client.and(server)
}

fn server(credentials: &Credentials, require_client: bool) -> ServerConfig {
    tls::tcp_server(credentials, require_client).unwrap()
}

fn client(credentials: &Credentials) -> ClientConfig {
    tls::tcp_client(credentials).unwrap()
}

/// A server that asks for nothing, so that only the client can refuse.
fn careless((certificate, key): (PathBuf, PathBuf)) -> ServerConfig {
    ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from_pem_file(certificate).unwrap()],
            PrivateKeyDer::from_pem_file(key).unwrap(),
        )
        .unwrap()
}

fn guard(pki: &Pki) -> Credentials {
    pki.issue(&Subject::Guard("pg".to_owned()))
}

/// A client that trusts the authority, keeps to a version, and has no certificate.
fn anonymous(pki: &Pki, version: &'static rustls::SupportedProtocolVersion) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(pki.ca()).unwrap()).unwrap();
    ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth()
}

#[tokio::test]
async fn a_node_and_a_guard_know_each_other_without_a_host_name() {
    let pki = Pki::new();
    let seen = talk(server(&guard(&pki), true), client(&pki.node(1)), "anything.example").await;
    assert_eq!(seen, Ok(Some(Identity::of_node("orders", NodeId(1)))));
}

#[tokio::test]
async fn a_backend_that_is_no_guard_needs_the_hosts_name() {
    let pki = Pki::new();
    let out = pki.dir.path().join("named");
    let sans = ["db.example".to_owned(), "127.0.0.1".to_owned()];
    let files = certs::issue(pki.dir.path(), &Subject::Node(NodeId(9)), &out, &sans).unwrap();
    let backend = Credentials::load(&pki.ca(), &files.certificate, &files.key).unwrap();
    for host in ["db.example", "127.0.0.1"] {
        assert!(talk(server(&backend, true), client(&pki.node(1)), host).await.is_ok(), "{host}");
    }
    for host in ["other.example", "127.0.0.2", "localhost"] {
        let refused = talk(server(&backend, true), client(&pki.node(1)), host).await.unwrap_err();
        assert!(refused.contains("not valid for name"), "{refused}");
    }
}

#[tokio::test]
async fn a_guard_of_another_cluster_or_authority_is_refused() {
    let (pki, other) = (Pki::new(), Pki::new());
    let leaf = |uri| Leaf { uri: Some(uri), ..Leaf::default() };
    let foreign = careless(pki.forge(&leaf("spiffe://payments/guard/pg")));
    let forged = careless(other.forge(&leaf("spiffe://orders/guard/pg")));
    for backend in [foreign, forged] {
        assert!(talk(backend, client(&pki.node(1)), "localhost").await.is_err());
    }
    let own = careless(pki.forge(&leaf("spiffe://orders/guard/pg")));
    assert!(talk(own, client(&pki.node(1)), "localhost").await.is_ok());
}

#[tokio::test]
async fn a_server_that_requires_a_certificate_takes_only_its_clusters() {
    let (pki, other) = (Pki::new(), Pki::new());
    let guard = guard(&pki);
    let foreign = pki.forged(&Leaf { uri: Some("spiffe://payments/node/1"), ..Leaf::default() });
    let expired = pki.forged(&Leaf { valid: (-2, -1), ..Leaf::default() });
    assert!(talk(server(&guard, true), client(&pki.node(1)), "localhost").await.is_ok());
    for stranger in [foreign, expired, other.node(1)] {
        assert!(talk(server(&guard, true), client(&stranger), "localhost").await.is_err());
    }
    let out = pki.dir.path().join("named");
    let files =
        certs::issue(pki.dir.path(), &Subject::Guard("web".into()), &out, &["localhost".into()]).unwrap();
    let named = Credentials::load(&pki.ca(), &files.certificate, &files.key).unwrap();
    let nobody = || anonymous(&pki, &rustls::version::TLS13);
    assert!(talk(server(&named, true), nobody(), "localhost").await.is_err());
    assert_eq!(talk(server(&named, false), nobody(), "localhost").await, Ok(None));
}

#[tokio::test]
async fn tls_1_2_is_not_spoken() {
    let pki = Pki::new();
    let refused =
        talk(server(&guard(&pki), false), anonymous(&pki, &rustls::version::TLS12), "localhost").await;
    assert!(refused.unwrap_err().contains("ProtocolVersion"));
}
