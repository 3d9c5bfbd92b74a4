//! The mesh of Raft connections: one endpoint, one dialled connection to each other member (W-1).

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use quinn::Connection;
use tokio::task::AbortHandle;

use crate::ids::NodeId;
use crate::metrics::Metrics;
use crate::raft::message::Message;
use crate::transport::admission::Door;
use crate::transport::codec::{self, Introduction};
use crate::transport::credentials::Credentials;
use crate::transport::identity::Identity;
use crate::transport::inbound::Inbound;
use crate::transport::link::Dialer;
use crate::transport::reader::Ears;
use crate::transport::refusal::{CLOSED, Refusals};
use crate::transport::roster::Roster;
use crate::transport::routes::Routes;
use crate::transport::socket::{self, RAFT, TransportError};

/// What the mesh needs to know.
#[derive(Debug, Clone)]
pub struct PeerConfig {
    /// This node.
    pub node: NodeId,
    /// Its cluster; part of every identity.
    pub cluster: String,
    /// The UDP address to listen on (`listen.peer`).
    pub listen: SocketAddr,
    /// Where other nodes reach it (`host:port`); told to those that it dials. What is no such address is
    /// told to nobody.
    pub address: String,
    /// The members at the start; see [`Roster::members`]. May be empty.
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
    door: Arc<Door>,
    routes: Arc<Routes>,
    accepting: AbortHandle,
}

impl PeerNet {
    /// Listens, and starts dialling every other member. Messages of authenticated nodes go to
    /// `inbound`; a full queue holds the senders back. Strangers are not let in before
    /// [`PeerNet::set_roster`] says so. Call it inside the runtime of the consensus thread.
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
        let introduction = codec::encode_introduction(&Introduction { address: config.address });
        let routes = Arc::new(Routes::new(config.node, dialer, introduction.ok()));
        let door = Arc::new(Door::new(endpoint, config.cluster, config.node, refusals));
        let accepting = accept(&door, &routes, inbound);
        let net = Self { door, routes, accepting };
        net.set_roster(&Roster { members: config.members, ..Roster::default() });
        Ok(net)
    }

    /// Where it listens; the port when the configuration said 0.
    pub fn local_address(&self) -> Option<SocketAddr> {
        self.door.endpoint.local_addr().ok()
    }

    /// Sends `message` to `message.to`. Never blocks; what cannot be sent now is dropped and
    /// counted, and Raft sends again. The first answer to a stranger waits for the connection to it, for a
    /// moment.
    pub fn send(&self, message: Message) {
        self.routes.send(message);
    }

    /// Follows the roster. A new member is dialled; one with a new address is dialled there, and what
    /// waited for the old one is dropped; the connections of a node that is no member any more, in both
    /// directions, close at once. Never blocks, and costs next to nothing when nothing has changed. Call it
    /// inside the runtime.
    pub fn set_roster(&self, roster: &Roster) {
        if !self.routes.follow(roster) {
            return;
        }
        self.door.set_roster(roster);
    }

    /// The members that this node has a connection to now.
    pub fn connected(&self) -> Vec<NodeId> {
        self.routes.connected()
    }

    /// Ends all connections and tasks, and tells the peers.
    pub async fn close(&self) {
        self.accepting.abort();
        self.door.endpoint.close(CLOSED, b"closing");
        self.routes.clear();
        socket::wait_closed(&self.door.endpoint).await;
    }
}

impl Drop for PeerNet {
    fn drop(&mut self) {
        self.accepting.abort();
        self.door.endpoint.close(CLOSED, b"closing");
        self.routes.clear();
    }
}

fn accept(door: &Arc<Door>, routes: &Arc<Routes>, messages: Inbound) -> AbortHandle {
    let known = Arc::clone(routes);
    let is_member = move |ip: IpAddr| known.leads_to(ip);
    let ears = Ears { messages, routes: Arc::clone(routes) };
    let serve = move |from: NodeId, connection: Connection| {
        // It dialled us, so it is alive, and does not count us out: dial it now, and not after the pause.
        ears.routes.nudge(from);
        ears.clone().hear(from, connection)
    };
    tokio::spawn(Arc::clone(door).run(is_member, serve)).abort_handle()
}
