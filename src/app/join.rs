//! A new machine joins a cluster (decision 0009), and then is a node like any other.
//!
//! Everything that must not be lost is on the disk before it is used: the data directory, whose incarnation is a
//! part of the request; the key; the request itself, because an invitation is good for one request, to the
//! byte. So a machine that breaks down anywhere on the way is started again with the same command and goes on.
//! The configuration is written last: where there is one, joining is over.
//!
//! Nothing that the other side says is believed before the authority's seal on it is verified, by the
//! fingerprint in the token.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use http::Method;
use tokio::time::Duration;
use toml::{Table, Value};

use crate::api::addresses::{is_name, port_of};
use crate::api::answers::join::{JoinAnswer, JoinMember, JoinRequest};
use crate::api::fields::SIGNATURE;
use crate::certs::authority::{self, find, is_for, is_sealed};
use crate::certs::invitation::{Token, disarm};
use crate::certs::{flush_name, write_key};
use crate::cli::Failure;
use crate::cli::client::{self, Call};
use crate::cli::node::{Joining, beside};
use crate::ids::NodeId;
use crate::raft::entry::Membership;
use crate::storage::{Identity, Store};

/// Where things are kept, beside the data directory.
struct Places {
    certs: PathBuf,
    ca: PathBuf,
    cert: PathBuf,
    key: PathBuf,
    /// The request, until the configuration is there.
    request: PathBuf,
}

impl Places {
    fn of(data_dir: &Path, node: NodeId) -> Self {
        let certs = beside(data_dir, "certs");
        let at = |name: String| certs.join(name);
        Self {
            ca: at("ca.pem".into()),
            cert: at(format!("node-{node}.pem")),
            key: at(format!("node-{node}.key")),
            request: at("join-request.json".into()),
            certs,
        }
    }
}

/// Joins, unless that was done before; then there is a configuration at `joining.config`.
pub async fn join(joining: &Joining) -> Result<(), Failure> {
    if joining.config.exists() {
        tracing::info!(config = %joining.config.display(), "this machine has joined already; it starts");
        return Ok(());
    }
    let token = Token::parse(&joining.token).map_err(|e| Failure::Usage(format!("--token: {e}")))?;
    check(joining, &token)?;
    let places = Places::of(&joining.data_dir, token.node);
    fs::create_dir_all(&places.certs).map_err(|e| io("create", &places.certs, &e))?;
    let incarnation = incarnation(joining, &token)?;
    let (key, body) = request(joining, &token, incarnation, &places)?;
    tracing::info!(node = %token.node, cluster = token.cluster, incarnation, "asking to join");
    let answer = ask(joining, &token, &body).await?;
    verify(&answer, &token, &key)?;
    write(&places.ca, &answer.ca)?;
    write(&places.cert, &answer.certificate)?;
    write(&joining.config, &configuration(joining, &token, &places, &answer)?)?;
    // Nobody needs it any more; left over, it does no harm.
    let _ = fs::remove_file(&places.request);
    let config = joining.config.display();
    tracing::info!(node = %token.node, %config, "joined: this machine is a member without a vote");
    Ok(())
}

/// What would be refused later, said at once.
fn check(joining: &Joining, token: &Token) -> Result<(), Failure> {
    let usage = |text: String| Err(Failure::Usage(text));
    if let Some(id) = joining.id.filter(|id| *id != token.node) {
        return usage(format!(
            "--id {id}: the token is for node {}; take the one that was made for this id",
            token.node
        ));
    }
    if let Some(wrong) = joining.addresses.iter().find(|address| port_of(address).is_none()) {
        return usage(format!("{wrong:?} is no host with a port, such as \"10.0.0.4:7100\""));
    }
    if let Some(zone) = joining.zone.as_ref().filter(|zone| !is_name(zone)) {
        return usage(format!("--zone {zone:?} must start with a letter, then letters, digits, - _ ."));
    }
    let [.., api] = &joining.listen;
    if api.is_some_and(|api| !api.ip().is_loopback()) && joining.api_token_file.is_none() {
        return usage("--listen-api: others can reach it, so it needs --api-token-file".into());
    }
    Ok(())
}

/// Makes the data directory, or opens the one that was made for this.
fn incarnation(joining: &Joining, token: &Token) -> Result<u64, Failure> {
    let (cluster, node) = (token.cluster.clone(), token.node);
    // It knows no voters, gives no vote, and waits for a leader (MC-9).
    let identity = Identity { cluster, node, membership: Membership::default() };
    let opened = Store::open(&joining.data_dir, &identity, Duration::ZERO);
    let (_, opened) = opened.map_err(|e| Failure::Failed(e.to_string()))?;
    if opened.durable.hard_state.current_term.0 > 0 {
        let dir = joining.data_dir.display();
        let mend = "start that node with its configuration, or give another --data-dir";
        return Err(Failure::Failed(format!("{dir} belongs to a node that has taken part already; {mend}")));
    }
    Ok(opened.life.incarnation)
}

/// The key and the request: those of an earlier attempt, when it was the same.
fn request(
    joining: &Joining,
    token: &Token,
    incarnation: u64,
    places: &Places,
) -> Result<(String, Vec<u8>), Failure> {
    let [peer, hop, proxy, api] = joining.addresses.clone();
    let member = JoinMember { id: token.node, peer, hop, proxy, api, zone: joining.zone.clone() };
    let incarnation = incarnation.to_string();
    let (key, written) = (fs::read_to_string(&places.key), fs::read(&places.request));
    if let (Ok(key), Ok(body)) = (&key, &written)
        && let Ok(old) = serde_json::from_slice::<JoinRequest>(body)
        && (&old.member, &old.incarnation) == (&member, &incarnation)
    {
        return Ok((key.clone(), body.clone()));
    }
    // Of an attempt that was another one: no certificate was written for it.
    for left in [&places.key, &places.request] {
        let _ = fs::remove_file(left);
    }
    let (key, csr) = authority::request().map_err(|e| Failure::Failed(e.to_string()))?;
    let request = JoinRequest { member, incarnation, csr };
    let body = serde_json::to_vec(&request).map_err(|e| Failure::Failed(e.to_string()))?;
    write_key(&places.key, &key).map_err(|e| Failure::Failed(e.to_string()))?;
    write(&places.request, &body)?;
    Ok((key, body))
}

/// The answer, once its seal is verified.
async fn ask(joining: &Joining, token: &Token, body: &[u8]) -> Result<JoinAnswer, Failure> {
    let fields = vec![(SIGNATURE, token.sign(body))];
    let target = "/cluster/join".to_owned();
    let call = Call { method: Method::POST, target, content: body.to_vec(), token: None, fields };
    let response = client::ask_until_known(&joining.apis, &call).await?;
    let apis = joining.apis.join(", ");
    let answer: JoinAnswer = client::parse(&apis, response.body())?;
    let seal =
        response.headers().get(SIGNATURE).and_then(|seal| disarm(seal.to_str().ok()?)).unwrap_or_default();
    let sealed = find(&answer.ca, &token.authority).is_some_and(|ca| is_sealed(&ca, response.body(), &seal));
    if sealed {
        return Ok(answer);
    }
    Err(Failure::Failed(format!(
        "{apis} answered, and not in the name of the authority that the token names: somebody is between this machine \
         and the cluster, or --join leads to another cluster"
    )))
}

/// A sealed answer is the authority's word; that it is about this machine is for this machine to see.
fn verify(answer: &JoinAnswer, token: &Token, key: &str) -> Result<(), Failure> {
    let is_ours = is_for(&answer.certificate, &token.cluster, token.node, key);
    if is_ours && answer.cluster == token.cluster {
        return Ok(());
    }
    let Token { cluster, node, .. } = token;
    Err(Failure::Failed(format!(
        "the certificate that came back is not for node {node} of {cluster} and the key of this machine"
    )))
}

/// The configuration of the new node.
fn configuration(
    joining: &Joining,
    token: &Token,
    places: &Places,
    answer: &JoinAnswer,
) -> Result<String, Failure> {
    let malformed =
        |e: &dyn std::fmt::Display| Failure::Failed(format!("the cluster's settings can't be read: {e}"));
    let mut root: Table = answer.settings.parse().map_err(|e| malformed(&e))?;
    let path =
        |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).display().to_string();
    let text = |text: String| Value::String(text);
    let mut node = Table::new();
    node.insert("id".into(), Value::Integer(i64::try_from(token.node.0).map_err(|e| malformed(&e))?));
    node.insert("data_dir".into(), text(path(&joining.data_dir)));
    let mut cluster = Table::new();
    cluster.insert("name".into(), text(answer.cluster.clone()));
    cluster.insert("join".into(), Value::Boolean(true));
    let members = answer.members.iter().map(Value::try_from).collect::<Result<_, _>>();
    cluster.insert("members".into(), Value::Array(members.map_err(|e| malformed(&e))?));
    let files = [("ca", &places.ca), ("cert", &places.cert), ("key", &places.key)];
    let tls = files.map(|(key, file)| (key.to_owned(), text(path(file))));
    let listen = ["peer", "hop", "proxy", "api"].into_iter().zip(&joining.listen);
    let given = |(key, at): (&str, &Option<SocketAddr>)| Some((key.to_owned(), text((*at)?.to_string())));
    let listen: Table = listen.filter_map(given).collect();
    if let Some(file) = &joining.api_token_file {
        let auth = Table::from_iter([("token_file".to_owned(), text(path(file)))]);
        root.insert("api".into(), Value::Table(Table::from_iter([("auth".to_owned(), Value::Table(auth))])));
    }
    for (name, section) in
        [("node", node), ("cluster", cluster), ("tls", Table::from_iter(tls)), ("listen", listen)]
    {
        root.insert(name.into(), Value::Table(section));
    }
    Ok(format!(
        "# Written by `termgate node --join`; yours to change. docs/node.toml explains every key.\n\n{root}"
    ))
}

/// Writes a file that is whole or not there.
fn write(path: &Path, content: impl AsRef<[u8]>) -> Result<(), Failure> {
    let new = beside(path, "new");
    let written = fs::write(&new, content)
        .and_then(|()| fs::File::open(&new)?.sync_all())
        .and_then(|()| fs::rename(&new, path))
        .and_then(|()| flush_name(path));
    written.map_err(|e| io("write", path, &e))
}

fn io(act: &str, path: &Path, error: &std::io::Error) -> Failure {
    Failure::Failed(format!("cannot {act} {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::sync::{Arc, Mutex};

    use bytes::Bytes;
    use http_body_util::{BodyExt, Full};
    use hyper_util::rt::TokioIo;
    use tempfile::TempDir;
    use tokio::net::TcpListener;

    use super::*;
    use crate::certs::authority::Authority;
    use crate::certs::invitation::{armour, is_signed};
    use crate::certs::{self};
    use crate::config;
    use crate::ids::Term;

    /// What goes wrong at the other side.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Wrong {
        Nothing,
        /// The first answer is lost.
        LosesAnswer,
        OtherAuthority,
        ChangedOnItsWay,
        NoSeal,
        OtherNode,
        OtherKey,
        OtherCluster,
    }

    /// A request, and its signature.
    type Asked = (Vec<u8>, String);

    /// A machine, and a node that answers it.
    struct Desk {
        dir: TempDir,
        joining: Joining,
        token: Token,
        /// Every request.
        asked: Arc<Mutex<Vec<Asked>>>,
    }

    fn authority(dir: &Path, cluster: &str) -> Authority {
        certs::init(cluster, dir).unwrap();
        Authority::open(&dir.join("ca.pem"), &dir.join("ca.key")).unwrap()
    }

    fn answer(
        ours: &Authority,
        theirs: &Authority,
        wrong: Wrong,
        request: &JoinRequest,
    ) -> (Vec<u8>, String) {
        let signer = if wrong == Wrong::OtherAuthority { theirs } else { ours };
        let node = NodeId(if wrong == Wrong::OtherNode { 5 } else { 4 });
        let csr =
            if wrong == Wrong::OtherKey { authority::request().unwrap().1 } else { request.csr.clone() };
        let answer = JoinAnswer {
            cluster: if wrong == Wrong::OtherCluster { "others" } else { "orders" }.into(),
            certificate: signer.sign_request(&csr, node).unwrap(),
            ca: signer.trusted().into(),
            members: vec![request.member.clone()],
            settings: "[raft]\nheartbeat_interval_ms = 40\n".into(),
            term: Term(7),
        };
        let mut content = serde_json::to_vec(&answer).unwrap();
        let seal =
            if wrong == Wrong::NoSeal { String::new() } else { armour(&signer.seal(&content).unwrap()) };
        if wrong == Wrong::ChangedOnItsWay {
            content.push(b' ');
        }
        (content, seal)
    }

    impl Desk {
        async fn new(wrong: Wrong) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let (ours, theirs) = (
                authority(&dir.path().join("ours"), "orders"),
                authority(&dir.path().join("theirs"), "orders"),
            );
            let token = Token::draw("orders", NodeId(4), ours.fingerprint()).unwrap();
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let api = format!("http://{}", listener.local_addr().unwrap());
            let asked = Arc::new(Mutex::new(Vec::new()));
            let (record, both) = (Arc::clone(&asked), Arc::new((ours, theirs)));
            tokio::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    let (record, both) = (Arc::clone(&record), Arc::clone(&both));
                    let service =
                        hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
                            let (record, both) = (Arc::clone(&record), Arc::clone(&both));
                            async move {
                                let signature = request.headers()[SIGNATURE].to_str().unwrap().to_owned();
                                let body = request.into_body().collect().await.unwrap().to_bytes().to_vec();
                                let (content, seal) =
                                    answer(&both.0, &both.1, wrong, &serde_json::from_slice(&body).unwrap());
                                let mut record = record.lock().unwrap();
                                record.push((body, signature));
                                let lost = wrong == Wrong::LosesAnswer && record.len() == 1;
                                let status = if lost { 500 } else { 200 };
                                let response =
                                    http::Response::builder().status(status).header(SIGNATURE, seal);
                                response.body(Full::new(Bytes::from(content)))
                            }
                        });
                    let connection = hyper::server::conn::http1::Builder::new();
                    let _ = connection.serve_connection(TokioIo::new(stream), service).await;
                }
            });
            let data_dir = dir.path().join("node-4");
            let joining = Joining {
                apis: vec![api],
                token: token.reveal(),
                id: Some(NodeId(4)),
                config: beside(&data_dir, "toml"),
                data_dir,
                addresses: ["10.0.0.4:1", "10.0.0.4:2", "10.0.0.4:2", "10.0.0.4:3"].map(String::from),
                zone: Some("eu-1".into()),
                listen: [Some("127.0.0.1:7".parse().unwrap()), None, None, None],
                api_token_file: None,
                voter: false,
            };
            Self { dir, joining, token, asked }
        }

        fn asked(&self) -> Vec<Asked> {
            self.asked.lock().unwrap().clone()
        }
    }

    #[tokio::test]
    async fn a_machine_gets_a_configuration_that_a_node_starts_with() {
        let desk = Desk::new(Wrong::Nothing).await;
        join(&desk.joining).await.unwrap();
        let [(body, signature)] = &desk.asked()[..] else { panic!("asked once") };
        assert!(is_signed(&desk.token.verifier(), body, signature));
        let text = String::from_utf8_lossy(body).into_owned();
        assert!(!text.contains("termgate-join"), "the token stays here: {text}");
        let config = config::load_node(&desk.joining.config).unwrap().config;
        assert_eq!((config.id(), config.cluster.as_str(), config.join), (NodeId(4), "orders", true));
        assert_eq!(config.raft.heartbeat_interval, Duration::from_millis(40));
        assert_eq!((config.zone.as_deref(), config.members.len()), (Some("eu-1"), 1));
        let listen = [config.listen.peer, config.listen.hop, config.listen.proxy, config.listen.api];
        assert_eq!(listen.map(|at| at.to_string()), ["127.0.0.1:7", "0.0.0.0:2", "0.0.0.0:2", "127.0.0.1:3"]);
        let key = desk.dir.path().join("node-4.certs/node-4.key");
        assert_eq!(fs::metadata(key).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(!desk.dir.path().join("node-4.certs/join-request.json").exists());

        join(&desk.joining).await.unwrap();
        assert_eq!(desk.asked().len(), 1, "it has joined already");
    }

    #[tokio::test]
    async fn the_data_directory_is_the_one_that_was_told() {
        let desk = Desk::new(Wrong::Nothing).await;
        join(&desk.joining).await.unwrap();
        let request: JoinRequest = serde_json::from_slice(&desk.asked()[0].0).unwrap();
        let identity =
            Identity { cluster: "orders".into(), node: NodeId(4), membership: Membership::default() };
        let (_, opened) = Store::open(&desk.joining.data_dir, &identity, Duration::ZERO).unwrap();
        assert_eq!(request.incarnation, opened.life.incarnation.to_string());
    }

    #[tokio::test]
    async fn a_lost_answer_is_asked_for_again_with_the_very_same_request() {
        let desk = Desk::new(Wrong::LosesAnswer).await;
        join(&desk.joining).await.unwrap();
        let asked = desk.asked();
        assert!(asked.len() == 2 && asked[0] == asked[1]);
    }

    #[tokio::test]
    async fn a_machine_that_broke_down_on_the_way_asks_with_the_very_same_request() {
        let mut desk = Desk::new(Wrong::NoSeal).await;
        assert!(join(&desk.joining).await.is_err());
        assert!(join(&desk.joining).await.is_err());
        let asked = desk.asked();
        assert!(asked.len() == 2 && asked[0] == asked[1]);
        desk.joining.addresses[0] = "10.0.0.44:1".into();
        assert!(join(&desk.joining).await.is_err());
        assert_ne!(desk.asked()[2].0, asked[0].0, "another address is another request");
    }

    #[tokio::test]
    async fn an_answer_that_is_not_the_authoritys_or_not_for_this_machine_is_not_believed() {
        for (wrong, why) in [
            (Wrong::OtherAuthority, "not in the name of the authority"),
            (Wrong::ChangedOnItsWay, "not in the name of the authority"),
            (Wrong::NoSeal, "not in the name of the authority"),
            (Wrong::OtherNode, "not for node 4"),
            (Wrong::OtherKey, "not for node 4"),
            (Wrong::OtherCluster, "not for node 4"),
        ] {
            let desk = Desk::new(wrong).await;
            let failure = join(&desk.joining).await.unwrap_err();
            assert!(failure.to_string().contains(why), "{wrong:?}: {failure}");
            assert!(!desk.joining.config.exists(), "{wrong:?}");
        }
    }

    #[tokio::test]
    async fn mistakes_of_the_command_line_are_said_before_anything_is_made() {
        let desk = Desk::new(Wrong::Nothing).await;
        let wrong = |change: fn(&mut Joining)| {
            let mut joining = desk.joining.clone();
            change(&mut joining);
            joining
        };
        for joining in [
            wrong(|joining| joining.token.truncate(50)),
            wrong(|joining| joining.id = Some(NodeId(5))),
            wrong(|joining| joining.addresses[3] = "no port".into()),
            wrong(|joining| joining.zone = Some("9".into())),
            wrong(|joining| joining.listen[3] = Some("0.0.0.0:9".parse().unwrap())),
        ] {
            assert_eq!(join(&joining).await.unwrap_err().exit_status(), 2);
        }
        assert!(desk.asked().is_empty() && !desk.joining.data_dir.exists());
    }
}
