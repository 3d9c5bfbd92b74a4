//! The mesh of Raft connections: one endpoint, one dialled connection to each other member (W-1).

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quinn::Connection;
use tokio::task::AbortHandle;
use tokio::time::timeout;

use crate::ids::NodeId;
use crate::metrics::Metrics;
use crate::raft::message::Message;
use crate::transport::admission::Door;
use crate::transport::credentials::Credentials;
use crate::transport::identity::Identity;
use crate::transport::inbound::Inbound;
use crate::transport::link::{Dialer, Link};
use crate::transport::peer::{self, Peer};
use crate::transport::refusal::{CLOSED, Refusals};
use crate::transport::socket::{self, RAFT, TransportError};

/// How long a close waits for the peers to hear of it.
const CLOSE_LIMIT: Duration = Duration::from_millis(500);

/// What the mesh needs to know.
#[derive(Debug, Clone)]
pub struct PeerConfig {
    /// This node.
    pub node: NodeId,
    /// Its cluster; part of every identity.
    pub cluster: String,
    /// The UDP address to listen on (`listen.peer`).
    pub listen: SocketAddr,
    /// The members and their `host:port`, looked up at every dial. This node's own is ignored.
    pub members: BTreeMap<NodeId, String>,
    /// This node's certificate.
    pub credentials: Credentials,
    /// Where refusals and drops are counted.
    pub metrics: Metrics,
}

/// The mesh. Its tasks run in the runtime it was started in, and end with it or with
/// [`PeerNet::close`].
#[derive(Debug)]
pub struct PeerNet {
    node: NodeId,
    dialer: Arc<Dialer>,
    door: Arc<Door>,
    refusals: Arc<Refusals>,
    peers: Arc<Mutex<BTreeMap<NodeId, Peer>>>,
    accepting: AbortHandle,
}

impl PeerNet {
    /// Listens, and starts dialling every other member. Messages of authenticated members go to
    /// `inbound`; a full queue holds the senders back. Call it inside the runtime of the consensus
    /// thread.
    pub async fn start(config: PeerConfig, inbound: Inbound) -> Result<Self, TransportError> {
        let expected = Identity::of_node(&config.cluster, config.node);
        let found = config.credentials.identity();
        if found != expected {
            let (expected, found) = (expected.to_string(), found.to_string());
            return Err(TransportError::Identity { expected, found });
        }
        let endpoint = socket::listen(&RAFT, &config.credentials, config.listen, false)?;
        let refusals = Arc::new(Refusals::new(config.metrics, RAFT.name));
        let dialer = Arc::new(Dialer {
            endpoint: endpoint.clone(),
            config: socket::client_config(&RAFT, &config.credentials)?,
            cluster: config.cluster.clone(),
            refusals: Arc::clone(&refusals),
        });
        let door = Arc::new(Door::new(endpoint, config.cluster, config.node, Arc::clone(&refusals)));
        let peers = Arc::default();
        let accepting = accept(&door, &peers, inbound);
        let net = Self { node: config.node, dialer, door, refusals, peers, accepting };
        net.set_members(config.members);
        Ok(net)
    }

    /// Where it listens; the port when the configuration said 0.
    pub fn local_address(&self) -> Option<SocketAddr> {
        self.door.endpoint.local_addr().ok()
    }

    /// Sends `message` to `message.to`. Never blocks; what cannot be sent now is dropped and
    /// counted, and Raft sends again.
    pub fn send(&self, message: Message) {
        match self.peers().get(&message.to) {
            Some(peer) => peer.send(&message),
            None => self.refusals.count("message", "not-a-member"),
        }
    }

    /// Replaces the members. The connections of a removed node, in both directions, close at once;
    /// a node with a new address is dialled there.
    pub fn set_members(&self, members: BTreeMap<NodeId, String>) {
        self.door.set_members(members.keys().copied().filter(|id| *id != self.node).collect());
        let mut peers = self.peers();
        peers.retain(|id, peer| match members.get(id) {
            Some(address) => address == peer.link().address(),
            None => {
                peer.link().remove();
                false
            }
        });
        for (id, address) in members {
            if id != self.node {
                peers.entry(id).or_insert_with(|| {
                    let link = Link::open(Arc::clone(&self.dialer), id, address);
                    Peer::start(link, Arc::clone(&self.refusals))
                });
            }
        }
    }

    /// The members that this node has a connection to now.
    pub fn connected(&self) -> Vec<NodeId> {
        let connected = |(id, peer): (&NodeId, &Peer)| peer.link().current().map(|_| *id);
        self.peers().iter().filter_map(connected).collect()
    }

    /// Ends all connections and tasks, and tells the peers.
    pub async fn close(&self) {
        self.accepting.abort();
        self.door.endpoint.close(CLOSED, b"closing");
        self.peers().clear();
        let _ = timeout(CLOSE_LIMIT, self.door.endpoint.wait_idle()).await;
    }

    fn peers(&self) -> MutexGuard<'_, BTreeMap<NodeId, Peer>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for PeerNet {
    fn drop(&mut self) {
        self.accepting.abort();
        self.door.endpoint.close(CLOSED, b"closing");
    }
}

fn accept(door: &Arc<Door>, peers: &Arc<Mutex<BTreeMap<NodeId, Peer>>>, inbound: Inbound) -> AbortHandle {
    let (refusals, peers) = (Arc::clone(&door.refusals), Arc::clone(peers));
    let known = Arc::clone(&peers);
    let is_member = move |ip: IpAddr| {
        let peers = known.lock().unwrap_or_else(PoisonError::into_inner);
        peers.values().any(|peer| peer.link().leads_to(ip))
    };
    let serve = move |from: NodeId, connection: Connection| {
        // It dialled us, so it is alive: dial it now, and not after the pause.
        if let Some(peer) = peers.lock().unwrap_or_else(PoisonError::into_inner).get(&from) {
            peer.link().nudge();
        }
        peer::receive(from, connection, inbound.clone(), Arc::clone(&refusals))
    };
    tokio::spawn(Arc::clone(door).run_knowing(is_member, serve)).abort_handle()
}
