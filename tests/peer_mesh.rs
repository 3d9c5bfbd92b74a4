//! The Raft mesh over real sockets: who gets in, what is carried, and what both sides say when
//! something is refused (`proto-spec/wire.md`).

mod pki;
#[path = "peer_mesh/roster.rs"]
mod roster;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytes::Bytes;
use pki::{
    Leaf, Pki, counted, dial_with, half_open, hold_handshakes, hostile, hostile_config, until, within,
};
use rcgen::ExtendedKeyUsagePurpose as Purpose;
use termgate::ids::{Life, LogId, LogIndex, NodeId, ReadPos, Session, Term};
use termgate::metrics::Metrics;
use termgate::raft::entry::{Entry, Payload, SnapshotId};
use termgate::raft::message::{AppendEntries, Beat, Body, Message, ReadIndex, SnapshotChunk};
use termgate::time::Instant as ClusterInstant;
use termgate::transport::codec;
use termgate::transport::credentials::Credentials;
use termgate::transport::endpoint::{PeerConfig, PeerNet};
use termgate::transport::inbound::{self, Arrivals, Inbound};
use termgate::transport::roster::Roster;
use termgate::transport::socket::TransportError;

const ALPN: &[u8] = b"termgate-raft/1";
/// Messages and bytes that may wait for a test to read them.
const INBOX: (usize, u32) = (64, 64 * 1024 * 1024);
/// Where nobody listens.
const NOWHERE: &str = "127.0.0.1:9";

struct Node {
    net: PeerNet,
    inbox: Arrivals,
    metrics: Metrics,
}

impl Node {
    async fn start(id: u64, credentials: Credentials, members: &[(u64, &str)]) -> Self {
        Self::listen(id, credentials, members, "127.0.0.1:0".parse().unwrap(), INBOX).await
    }

    async fn listen(
        id: u64,
        credentials: Credentials,
        members: &[(u64, &str)],
        listen: SocketAddr,
        (messages, bytes): (usize, u32),
    ) -> Self {
        let metrics = Metrics::new();
        let cluster = credentials.identity().cluster;
        // A free port is not known yet, and an address that is none is announced to nobody.
        let address = if listen.port() == 0 { String::new() } else { listen.to_string() };
        let (sender, inbox) = inbound::channel(messages, bytes);
        let config = PeerConfig {
            node: NodeId(id),
            cluster,
            listen,
            address,
            members: member_map(members),
            credentials,
            metrics: metrics.clone(),
        };
        let net = within("a free address", wait_for_mesh(&config, &sender)).await;
        Self { net, inbox, metrics }
    }

    fn address(&self) -> SocketAddr {
        self.net.local_address().unwrap()
    }

    fn knows(&self, members: &[(u64, &str)]) {
        self.follows(members, &[], false);
    }

    /// Members, who was removed, and whether strangers are heard.
    fn follows(&self, members: &[(u64, &str)], removed: &[u64], open: bool) {
        let removed = removed.iter().copied().map(NodeId).collect();
        self.net.set_roster(&Roster { members: member_map(members), removed, open, ..Roster::default() });
    }

    /// Members of whom nobody says where they are, and no others.
    fn knows_by_name(&self, unplaced: &[u64]) {
        let unplaced = unplaced.iter().copied().map(NodeId).collect();
        self.net.set_roster(&Roster { unplaced, ..Roster::default() });
    }

    async fn connected_to(&self, id: u64) {
        until("a connection", || self.net.connected().contains(&NodeId(id))).await;
    }

    async fn hears(&mut self) -> Message {
        within("a message", self.inbox.recv()).await.unwrap()
    }

    fn refused(&self, reason: &str) -> u64 {
        counted(&self.metrics, "connection", reason)
    }

    fn refused_by_peer(&self, reason: &str) -> u64 {
        counted(&self.metrics, "connection-by-peer", reason)
    }
}

/// The tasks of a former life give their address free a moment after it has ended.
async fn wait_for_mesh(config: &PeerConfig, inbound: &Inbound) -> PeerNet {
    loop {
        match PeerNet::start(config.clone(), inbound.clone()).await {
            Err(TransportError::Bind { .. }) => tokio::time::sleep(Duration::from_millis(2)).await,
            other => break other.unwrap(),
        }
    }
}

fn member_map(members: &[(u64, &str)]) -> BTreeMap<NodeId, String> {
    members.iter().map(|(id, address)| (NodeId(*id), (*address).to_owned())).collect()
}

fn message(from: u64, to: u64, body: Body) -> Message {
    let (from, to) = (NodeId(from), NodeId(to));
    Message { from, to, term: Term(7), life: Life::default(), session: Session::ZERO, body }
}

fn ask(from: u64, to: u64, id: u64) -> Message {
    message(from, to, Body::ReadIndex(ReadIndex { id }))
}

fn append(from: u64, to: u64, bytes: usize) -> Message {
    let entries = match bytes {
        0 => Vec::new(),
        n => {
            let payload = Payload::Command(Bytes::from(vec![7; n]));
            vec![Entry { id: LogId::new(Term(7), LogIndex(1)), payload }]
        }
    };
    let beat = Beat { sent_at: ClusterInstant::ZERO, read_pos: ReadPos::ZERO };
    let prev_log = LogId::ZERO;
    message(
        from,
        to,
        Body::AppendEntries(AppendEntries {
            prev_log,
            entries,
            leader_commit: LogIndex::ZERO,
            beat,
            known: Vec::new(),
        }),
    )
}

/// A piece of a snapshot, of 256 KiB.
fn piece(from: u64, to: u64, offset: u64) -> Message {
    let id = SnapshotId { last: LogId::ZERO, digest: [0; 32] };
    let bytes = Bytes::from(vec![7; 256 * 1024]);
    message(from, to, Body::SnapshotChunk(SnapshotChunk { id, offset, checksum: 0, bytes }))
}

/// Two members that know each other.
async fn pair(pki: &Pki) -> (Node, Node) {
    let a = Node::start(1, pki.node(1), &[(2, NOWHERE)]).await;
    let b = Node::start(2, pki.node(2), &[(1, &a.address().to_string())]).await;
    a.knows(&[(1, "self"), (2, &b.address().to_string())]);
    a.connected_to(2).await;
    b.connected_to(1).await;
    (a, b)
}

/// W-1.
#[tokio::test]
async fn carries_messages_in_both_directions() {
    let pki = Pki::new();
    let (mut a, mut b) = pair(&pki).await;
    for id in 0..100 {
        a.net.send(ask(1, 2, id));
        b.net.send(ask(2, 1, id));
    }
    for id in 0..100 {
        assert_eq!(b.hears().await, ask(1, 2, id));
        assert_eq!(a.hears().await, ask(2, 1, id));
    }
}

/// W-8, T3. Everything is there before the first byte leaves, and the net is the loopback.
#[tokio::test]
async fn a_heartbeat_is_not_behind_a_large_append() {
    let pki = Pki::new();
    let (a, mut b) = pair(&pki).await;
    for _ in 0..16 {
        a.net.send(append(1, 2, 256 * 1024));
    }
    a.net.send(append(1, 2, 0));
    let mut entries_before = 0;
    while b.hears().await != append(1, 2, 0) {
        entries_before += 1;
    }
    assert_eq!(entries_before, 0, "appends came before the heartbeat");
}

/// W-8, T3. Pieces that are on their way let everything else go first.
#[tokio::test]
async fn a_snapshot_lets_heartbeats_and_appends_go_first() {
    let pki = Pki::new();
    let (a, mut b) = pair(&pki).await;
    let pieces: Vec<Message> = (0..16).map(|nth| piece(1, 2, nth * 256 * 1024)).collect();
    for piece in &pieces {
        a.net.send(piece.clone());
    }
    a.net.send(append(1, 2, 256 * 1024));
    a.net.send(append(1, 2, 0));
    assert!(b.hears().await == append(1, 2, 0), "a heartbeat that was sent last comes first");
    assert!(b.hears().await == append(1, 2, 256 * 1024), "then the append");
    for piece in pieces {
        assert!(b.hears().await == piece, "and all pieces in order");
    }
}

/// `a`, and a node 2 that nobody reads the inbox of; flow control has reached `a`, and its queue is full.
async fn deaf_peer(pki: &Pki, inbox: (usize, u32)) -> (Node, Node) {
    let a = Node::start(1, pki.node(1), &[(2, NOWHERE)]).await;
    let me = a.address().to_string();
    let b = Node::listen(2, pki.node(2), &[(1, &me)], "127.0.0.1:0".parse().unwrap(), inbox).await;
    a.knows(&[(2, &b.address().to_string())]);
    a.connected_to(2).await;
    let full = || counted(&a.metrics, "message", "queue-full");
    let mut in_a_row = 0;
    until("a queue that stays full", || {
        let before = full();
        (0..4).for_each(|_| a.net.send(append(1, 2, 256 * 1024)));
        in_a_row = if full() - before == 4 { in_a_row + 1 } else { 0 };
        in_a_row == 25
    })
    .await;
    (a, b)
}

/// W-10.
#[tokio::test]
async fn a_full_queue_drops_and_counts_and_never_blocks() {
    let (_a, mut b) = deaf_peer(&Pki::new(), (1, INBOX.1)).await;
    assert!(b.inbox.try_recv().is_some() && b.inbox.try_recv().is_none());
}

/// W-7.
#[tokio::test]
async fn what_waits_for_the_loop_is_bounded_in_bytes() {
    let (_a, mut b) = deaf_peer(&Pki::new(), (100_000, 1024 * 1024)).await;
    let mut waiting = 0;
    while b.inbox.try_recv().is_some() {
        waiting += 1;
    }
    assert!((1..=3).contains(&waiting), "{waiting} messages of 256 KiB and more in 1 MiB");
    // What was held back arrives.
    assert_eq!(b.hears().await, append(1, 2, 256 * 1024));
}

#[tokio::test]
async fn a_message_to_nobody_is_dropped_and_counted() {
    let pki = Pki::new();
    let a = Node::start(1, pki.node(1), &[(2, NOWHERE)]).await;
    a.net.send(ask(1, 2, 0));
    a.net.send(ask(1, 3, 0));
    assert_eq!(counted(&a.metrics, "message", "no-connection"), 1);
    assert_eq!(counted(&a.metrics, "message", "not-a-member"), 1);
}

#[tokio::test]
async fn one_unreachable_peer_does_not_end_the_endpoint() {
    let pki = Pki::new();
    let (mut a, b) = pair(&pki).await;
    // The broadcast address: the kernel refuses to send there.
    a.knows(&[(2, &b.address().to_string()), (3, "255.255.255.255:9"), (4, "no.such.host.invalid:1")]);
    b.net.send(ask(2, 1, 5));
    assert_eq!(a.hears().await, ask(2, 1, 5));
    let mut b = b;
    // The length of the fault: several attempts at the unreachable peers.
    tokio::time::sleep(Duration::from_millis(300)).await;
    a.net.send(ask(1, 2, 6));
    assert_eq!(b.hears().await, ask(1, 2, 6));
}

// ---- who gets in: each refusal is counted on both sides -------------------------------------

/// `a` dials `b`, which expects node 1; `b` dials nobody.
async fn dial(a: Credentials, b: Credentials, b_members: &[(u64, &str)]) -> (Node, Node) {
    let b = Node::start(2, b, b_members).await;
    let address = b.address().to_string();
    (Node::start(1, a, &[(2, &address)]).await, b)
}

async fn both_count(refuser: &Node, refused: &Node, reason: &str) {
    until(&format!("a refusal for {reason} at the refuser"), || refuser.refused(reason) > 0).await;
    until(&format!("a refusal for {reason} at the refused"), || refused.refused_by_peer(reason) > 0).await;
    assert!(refuser.net.connected().is_empty() && refused.net.connected().is_empty());
}

#[tokio::test]
async fn refuses_a_certificate_of_another_authority() {
    let (a, b) = dial(Pki::new().node(1), Pki::new().node(2), &[(1, NOWHERE)]).await;
    both_count(&a, &b, "wrong-ca").await;
}

#[tokio::test]
async fn the_accepting_side_refuses_a_certificate_of_another_authority() {
    let (pki, other) = (Pki::new(), Pki::new());
    let b = Node::start(2, pki.node(2), &[(1, NOWHERE)]).await;
    let forged = other.forge(&Leaf::default());
    let error = refusal_of(b.address(), ALPN, Some(forged)).await;
    until("a refusal", || b.refused("wrong-ca") == 1).await;
    assert!(error.contains("invalid peer certificate"), "{error}");
}

#[tokio::test]
async fn refuses_an_expired_certificate() {
    let pki = Pki::new();
    let expired = pki.forged(&Leaf { valid: (-2, -1), ..Leaf::default() });
    let (a, b) = dial(expired, pki.node(2), &[(1, NOWHERE)]).await;
    both_count(&b, &a, "expired").await;
}

#[tokio::test]
async fn refuses_a_certificate_that_is_not_valid_yet() {
    let pki = Pki::new();
    let early = Leaf { valid: (1, 2), uri: Some("spiffe://orders/node/2"), ..Leaf::default() };
    let (a, b) = dial(pki.node(1), pki.forged(&early), &[(1, NOWHERE)]).await;
    both_count(&a, &b, "expired").await;
}

#[tokio::test]
async fn refuses_a_certificate_without_the_client_purpose() {
    let pki = Pki::new();
    let server_only = pki.forged(&Leaf { purposes: vec![Purpose::ServerAuth], ..Leaf::default() });
    let (a, b) = dial(server_only, pki.node(2), &[(1, NOWHERE)]).await;
    both_count(&b, &a, "wrong-purpose").await;
}

#[tokio::test]
async fn refuses_a_certificate_without_the_server_purpose() {
    let pki = Pki::new();
    let uri = Some("spiffe://orders/node/2");
    let client_only = pki.forged(&Leaf { uri, purposes: vec![Purpose::ClientAuth], ..Leaf::default() });
    let (a, b) = dial(pki.node(1), client_only, &[(1, NOWHERE)]).await;
    both_count(&a, &b, "wrong-purpose").await;
}

#[tokio::test]
async fn refuses_another_cluster_under_the_same_authority() {
    let pki = Pki::new();
    let stranger = pki.forged(&Leaf { uri: Some("spiffe://payments/node/1"), ..Leaf::default() });
    let (a, b) = dial(stranger, pki.node(2), &[(1, NOWHERE)]).await;
    // Each sees the other's certificate and refuses it, whoever is first.
    until("a's count", || a.refused("wrong-cluster") + a.refused_by_peer("wrong-cluster") > 0).await;
    until("b's count", || b.refused("wrong-cluster") + b.refused_by_peer("wrong-cluster") > 0).await;
    assert!(a.net.connected().is_empty());
    drop(a);

    let before = b.refused("wrong-cluster");
    let stranger = pki.forge(&Leaf { uri: Some("spiffe://payments/node/1"), ..Leaf::default() });
    let error = refusal_of(b.address(), ALPN, Some(stranger)).await;
    until("a refusal", || b.refused("wrong-cluster") > before).await;
    assert!(error.contains("payments"), "{error}");
}

/// W-4.
#[tokio::test]
async fn refuses_a_node_that_was_not_dialled() {
    let pki = Pki::new();
    let b = Node::start(3, pki.node(3), &[(1, NOWHERE)]).await;
    let a = Node::start(1, pki.node(1), &[(2, &b.address().to_string())]).await;
    until("a refusal by the dialling side", || a.refused("wrong-node") > 0).await;
    // Each sees that the other is wrong here, whoever is first.
    until("b's count", || b.refused("wrong-node") + b.refused_by_peer("wrong-node") > 0).await;
    assert!(a.net.connected().is_empty());
}

/// W-2: a wrong address of one member does not cost the connection to another.
#[tokio::test]
async fn a_connection_that_was_meant_for_another_node_takes_nobodys_place() {
    let pki = Pki::new();
    let (a, b) = pair(&pki).await;
    let address = b.address().to_string();
    a.knows(&[(2, &address), (3, &address)]);
    until("attempts", || a.refused("wrong-node") > 1).await;
    assert_eq!(a.refused_by_peer("superseded"), 0);
    assert!(a.net.connected() == [NodeId(2)]);
}

/// W-5.
#[tokio::test]
async fn refuses_a_node_that_is_no_member() {
    let pki = Pki::new();
    let (a, b) = dial(pki.node(1), pki.node(2), &[(3, NOWHERE)]).await;
    both_count(&b, &a, "not-a-member").await;
}

#[tokio::test]
async fn refuses_a_guard_and_a_client_as_a_node() {
    let pki = Pki::new();
    let b = Node::start(2, pki.node(2), &[(1, NOWHERE)]).await;
    for uri in ["spiffe://orders/guard/pg", "spiffe://orders/client/batch"] {
        let before = b.refused("not-a-node");
        let error = refusal_of(b.address(), ALPN, Some(pki.forge(&leaf_named(Some(uri))))).await;
        assert!(error.contains(uri), "{error}");
        until("a refusal", || b.refused("not-a-node") == before + 1).await;
    }
}

/// W-3.
#[tokio::test]
async fn refuses_names_that_are_no_identity() {
    let pki = Pki::new();
    let b = Node::start(2, pki.node(2), &[(1, NOWHERE)]).await;
    for uri in
        [None, Some("spiffe://orders/node/*"), Some("spiffe://*/node/1"), Some("spiffe://orders/node/01")]
    {
        let before = b.refused("no-identity");
        refusal_of(b.address(), ALPN, Some(pki.forge(&leaf_named(uri)))).await;
        until("a refusal", || b.refused("no-identity") == before + 1).await;
    }
}

/// W-3.
#[tokio::test]
async fn refuses_a_certificate_with_two_names_to_choose_from() {
    let pki = Pki::new();
    let b = Node::start(2, pki.node(2), &[(1, NOWHERE), (3, NOWHERE)]).await;
    let both = Leaf { second_uri: Some("spiffe://orders/node/3"), ..Leaf::default() };
    let error = refusal_of(b.address(), ALPN, Some(pki.forge(&both))).await;
    assert!(error.contains("2 URI names"), "{error}");
    until("a refusal", || b.refused("no-identity") == 1).await;
}

#[tokio::test]
async fn half_open_handshakes_do_not_keep_a_member_out() {
    let pki = Pki::new();
    let b = Node::start(2, pki.node(2), &[(1, NOWHERE)]).await;
    let (flood, _open) = half_open(200, ALPN).await;
    for datagram in &flood {
        let source = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        source.send_to(datagram, b.address()).unwrap();
        tokio::task::yield_now().await;
    }
    let a = Node::start(1, pki.node(1), &[(2, &b.address().to_string())]).await;
    a.connected_to(2).await;
    assert_eq!(b.refused("too-many-handshakes"), 0, "the slots went to sources that cannot receive");
}

#[tokio::test]
async fn strangers_that_hold_all_they_can_do_not_keep_a_member_out() {
    let pki = Pki::new();
    let b = Node::start(2, pki.node(2), &[(1, NOWHERE)]).await;
    gets_in_past_strangers(&pki, &b).await;
}

/// Node 1 gets in at `b` while strangers hold all the places that they can have.
async fn gets_in_past_strangers(pki: &Pki, b: &Node) {
    let _open = hold_handshakes(b.address(), ALPN).await;
    until("a handshake that finds no place", || b.refused("too-many-handshakes") > 0).await;
    let start = Instant::now();
    let a = Node::start(1, pki.node(1), &[(2, &b.address().to_string())]).await;
    a.connected_to(2).await;
    assert!(start.elapsed() < Duration::from_millis(1500), "it waited for {:?}", start.elapsed());
}

/// A member behind a translated address gets in as a stranger once, and is then known there.
#[tokio::test]
async fn a_member_is_known_where_it_came_from() {
    let pki = Pki::new();
    let b = Node::start(2, pki.node(2), &[(1, "192.0.2.7:9")]).await;
    let a = Node::start(1, pki.node(1), &[(2, &b.address().to_string())]).await;
    a.connected_to(2).await;
    drop(a);
    gets_in_past_strangers(&pki, &b).await;
}

/// W-1.
#[tokio::test]
async fn a_newer_connection_of_the_same_node_replaces_the_older() {
    let pki = Pki::new();
    let b = Node::start(2, pki.node(2), &[(1, NOWHERE)]).await;
    let certificate = pki.forge(&Leaf::default());
    let older = hostile(b.address(), ALPN, Some(certificate.clone())).await.unwrap();
    let newer = hostile(b.address(), ALPN, Some(certificate)).await.unwrap();
    let end = within("the older one's end", older.closed()).await.to_string();
    assert!(end.contains("newer connection"), "{end}");
    assert_eq!(newer.close_reason(), None);

    // A node that is replaced while it runs has a twin, and says so.
    let a = Node::start(1, pki.node(1), &[(2, &b.address().to_string())]).await;
    a.connected_to(2).await;
    let twin = hostile(b.address(), ALPN, Some(pki.forge(&Leaf::default()))).await.unwrap();
    until("the count of the replaced one", || a.refused_by_peer("superseded") == 1).await;
    drop(twin);
}

/// W-2.
#[tokio::test]
async fn refuses_a_peer_without_a_certificate() {
    let pki = Pki::new();
    let b = Node::start(2, pki.node(2), &[(1, NOWHERE)]).await;
    refusal_of(b.address(), ALPN, None).await;
    until("a refusal", || b.refused("no-certificate") == 1).await;
}

#[tokio::test]
async fn refuses_another_protocol() {
    let pki = Pki::new();
    let b = Node::start(2, pki.node(2), &[(1, NOWHERE)]).await;
    for alpn in [&b"termgate-raft/2"[..], b"termgate-hop/1", b"h3"] {
        let before = b.refused("protocol-version");
        refusal_of(b.address(), alpn, Some(pki.forge(&Leaf::default()))).await;
        until("a refusal", || b.refused("protocol-version") == before + 1).await;
    }
}

/// W-1.
#[tokio::test]
async fn refuses_the_drafts_of_quic() {
    let pki = Pki::new();
    let b = Node::start(2, pki.node(2), &[(1, NOWHERE)]).await;
    let mut config = hostile_config(ALPN, Some(pki.forge(&Leaf::default())));
    for draft in 29..=34 {
        config.version(0xff00_0000 + draft);
        let end = within("an answer", dial_with(b.address(), config.clone())).await;
        assert_eq!(end.unwrap_err(), quinn::ConnectionError::VersionMismatch, "draft {draft}");
    }
    config.version(1);
    within("a connection", dial_with(b.address(), config)).await.unwrap();
}

fn leaf_named(uri: Option<&'static str>) -> Leaf {
    Leaf { uri, ..Leaf::default() }
}

/// Dials by hand and answers how the other side ended it.
async fn refusal_of(to: SocketAddr, alpn: &[u8], certificate: Option<(PathBuf, PathBuf)>) -> String {
    match within("an answer", hostile(to, alpn, certificate)).await {
        Err(e) => e.to_string(),
        Ok(connection) => within("a close", connection.closed()).await.to_string(),
    }
}

// ---- what is said inside ---------------------------------------------------------------------

/// A member that writes `bytes` on a stream; answers how node 2 ended the connection.
async fn say(pki: &Pki, to: &Node, bytes: &[u8]) -> String {
    let connection =
        within("a connection", hostile(to.address(), ALPN, Some(pki.forge(&Leaf::default())))).await;
    let connection = connection.unwrap();
    let mut stream = within("a stream", connection.open_uni()).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    within("a close", connection.closed()).await.to_string()
}

/// W-6.
#[tokio::test]
async fn closes_on_a_message_in_the_name_of_another_node() {
    let pki = Pki::new();
    let mut b = Node::start(2, pki.node(2), &[(1, NOWHERE), (3, NOWHERE)]).await;
    let mut bytes = vec![1];
    bytes.extend_from_slice(&codec::encode(&ask(1, 2, 8)).unwrap());
    bytes.extend_from_slice(&codec::encode(&ask(3, 2, 9)).unwrap());
    let error = say(&pki, &b, &bytes).await;
    assert!(error.contains("in the name of node 3"), "{error}");
    assert_eq!(b.refused("impostor"), 1);
    assert_eq!(b.hears().await, ask(1, 2, 8));
    assert!(b.inbox.try_recv().is_none(), "the forged message was handed on");
}

/// W-7, W-8, W-9.
#[tokio::test]
async fn closes_on_bytes_that_are_no_message() {
    let pki = Pki::new();
    let mut b = Node::start(2, pki.node(2), &[(1, NOWHERE)]).await;
    let version_9 = [1, 0, 0, 0, 2, 9, 9];
    assert!(say(&pki, &b, &version_9).await.contains("version 9"));
    assert_eq!(b.refused("protocol-version"), 1);
    let four_gigabytes = [1, 0xff, 0xff, 0xff, 0xff, 1];
    let garbage = [1, 0, 0, 0, 4, 1, 0xff, 0xff, 0xff];
    let empty = [1, 0, 0, 0, 0];
    let unknown_kind = [&[4][..], &codec::encode(&ask(1, 2, 1)).unwrap()].concat();
    for bytes in [&four_gigabytes[..], &garbage, &empty, &unknown_kind] {
        let before = b.refused("malformed");
        say(&pki, &b, bytes).await;
        assert_eq!(b.refused("malformed"), before + 1, "{bytes:?}");
    }
    assert!(b.inbox.try_recv().is_none());
}

#[tokio::test]
async fn a_peer_cannot_open_streams_without_end() {
    let pki = Pki::new();
    let b = Node::start(2, pki.node(2), &[(1, NOWHERE)]).await;
    let connection = hostile(b.address(), ALPN, Some(pki.forge(&Leaf::default()))).await.unwrap();
    let mut open = Vec::new();
    while let Ok(stream) = tokio::time::timeout(Duration::from_millis(300), connection.open_uni()).await {
        open.push(stream.unwrap());
        assert!(open.len() <= 4);
    }
    assert_eq!(open.len(), 4);
    let bidi = tokio::time::timeout(Duration::from_millis(100), connection.open_bi()).await;
    assert!(bidi.is_err(), "a bidirectional stream was granted");
}

// ---- change ------------------------------------------------------------------------------------

/// Close code 0x00: nobody is to blame, and nobody has to wait.
#[tokio::test]
async fn an_end_and_a_new_address_are_no_removal() {
    let pki = Pki::new();
    let (a, b) = pair(&pki).await;
    b.knows(&[(1, NOWHERE)]);
    until("the end of the connection to the old address", || !b.net.connected().contains(&NodeId(1))).await;
    b.knows(&[(1, &a.address().to_string())]);
    b.connected_to(1).await;
    a.connected_to(2).await;
    within("the end", a.net.close()).await;
    until("the end of b's connection", || b.net.connected().is_empty()).await;
    assert_eq!(b.refused_by_peer("removed") + a.refused_by_peer("removed"), 0);
}

#[tokio::test]
async fn reloaded_certificates_serve_new_connections_while_old_ones_live() {
    let pki = Pki::new();
    let files = pki.forge(&Leaf::default());
    let credentials = Credentials::load(&pki.ca(), &files.0, &files.1).unwrap();
    let a = Node::start(1, credentials.clone(), &[(2, NOWHERE)]).await;
    let mut b = Node::start(2, pki.node(2), &[(1, NOWHERE)]).await;
    a.knows(&[(2, &b.address().to_string())]);
    a.connected_to(2).await;

    let expired = pki.forge(&Leaf { valid: (-2, -1), ..Leaf::default() });
    std::fs::copy(expired.0, &files.0).unwrap();
    std::fs::copy(expired.1, &files.1).unwrap();
    credentials.reload().unwrap();
    a.net.send(ask(1, 2, 1));
    assert_eq!(b.hears().await, ask(1, 2, 1), "the old connection lives");
    b.knows(&[(1, &a.address().to_string())]);
    until("b's refusal of the new certificate", || b.refused("expired") > 0).await;
}

/// Without stateless resets from a lasting key, the peers of a killed process would keep sending
/// into dead connections until the idle timeout.
#[test]
fn a_restarted_node_is_reached_before_the_idle_timeout() {
    let pki = Pki::new();
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (here, there) = (runtime(), runtime());
    let files = pki.node(2);
    let a = here.block_on(Node::start(1, pki.node(1), &[(2, NOWHERE)]));
    let a_address = a.address().to_string();
    let b = there.block_on(Node::start(2, files.clone(), &[(1, &a_address)]));
    let b_address = b.address();
    a.knows_from(&here, &[(2, &b_address.to_string())]);
    // Both runtimes must turn for the handshake.
    let turning = std::thread::spawn(move || {
        there.block_on(b.connected_to(1));
        // The runtime goes first: nothing is said any more, as after SIGKILL.
        drop(there);
        drop(b);
    });
    here.block_on(a.connected_to(2));
    here.block_on(until("the end of the first life", || turning.is_finished()));
    turning.join().unwrap();

    here.block_on(async {
        let start = Instant::now();
        let mut b = Node::listen(2, files, &[(1, &a_address)], b_address, INBOX).await;
        let heard = within("a message to the second life", async {
            loop {
                a.net.send(ask(1, 2, 1));
                if let Ok(Some(message)) =
                    tokio::time::timeout(Duration::from_millis(5), b.inbox.recv()).await
                {
                    break message;
                }
            }
        });
        assert_eq!(heard.await, ask(1, 2, 1));
        assert!(start.elapsed() < Duration::from_millis(1500), "took {:?}", start.elapsed());
    });
}

/// A link that was idle while its peer restarted carries the very next message: nobody sends a vote
/// request twice within an election.
#[tokio::test]
async fn the_first_message_after_a_reconnect_arrives() {
    let pki = Pki::new();
    let files = pki.node(2);
    let a = Node::start(1, pki.node(1), &[(2, NOWHERE)]).await;
    let a_address = a.address().to_string();
    let mut b = Node::start(2, files.clone(), &[(1, &a_address)]).await;
    let b_address = b.address();
    a.knows(&[(2, &b_address.to_string())]);
    a.connected_to(2).await;
    a.net.send(ask(1, 2, 0));
    a.net.send(append(1, 2, 100));
    b.hears().await;
    b.hears().await;
    for id in 1..4 {
        within("the end", b.net.close()).await;
        drop(b);
        until("the end of the connection", || a.net.connected().is_empty()).await;
        b = Node::listen(2, files.clone(), &[(1, &a_address)], b_address, INBOX).await;
        a.connected_to(2).await;
        a.net.send(ask(1, 2, id));
        a.net.send(append(1, 2, 100));
        let heard = [b.hears().await, b.hears().await];
        assert!(heard.contains(&ask(1, 2, id)) && heard.contains(&append(1, 2, 100)), "{heard:?}");
    }
    assert_eq!(counted(&a.metrics, "message", "connection-lost"), 0);
}

impl Node {
    fn knows_from(&self, runtime: &tokio::runtime::Runtime, members: &[(u64, &str)]) {
        let _guard = runtime.enter();
        self.knows(members);
    }
}
