//! Who gets in: handshakes are bounded, and a connection is used only when its certificate names
//! a node of this cluster that is a member (W-4, W-5).

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quinn::crypto::rustls::HandshakeData;
use quinn::{Connection, Endpoint, Incoming};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::ids::NodeId;
use crate::transport::identity;
use crate::transport::refusal::{NO_MEMBER, REMOVED, Refusal, Refusals, SUPERSEDED, node_of};
use crate::transport::slots::{Place, Slot, Slots};

/// A handshake's limit.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(3);

/// What happens when a node has as many connections as it may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Surplus {
    /// The oldest goes: the node has restarted, or dialled again.
    ReplaceOldest,
    /// The new one is refused.
    RefuseNewest,
}

/// The accepting side of one endpoint.
#[derive(Debug)]
pub(crate) struct Door {
    pub(crate) endpoint: Endpoint,
    pub(crate) cluster: String,
    pub(crate) refusals: Arc<Refusals>,
    own: NodeId,
    handshakes: Arc<Slots>,
    per_node: usize,
    surplus: Surplus,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    members: BTreeSet<NodeId>,
    /// Admitted connections, oldest first.
    live: Vec<(NodeId, Connection)>,
    /// Where each member last came from; it may differ from where it listens.
    came_from: BTreeMap<NodeId, IpAddr>,
}

impl Door {
    pub(crate) fn new(endpoint: Endpoint, cluster: String, own: NodeId, refusals: Arc<Refusals>) -> Self {
        Self {
            endpoint,
            cluster,
            refusals,
            own,
            handshakes: Arc::default(),
            per_node: 1,
            surplus: Surplus::ReplaceOldest,
            state: Mutex::default(),
        }
    }

    /// At most `count` connections of one node; what happens beyond that is `surplus`.
    pub(crate) fn per_node(self, count: usize, surplus: Surplus) -> Self {
        Self { per_node: count, surplus, ..self }
    }

    /// Replaces the members; connections of a node that is none any more close at once.
    pub(crate) fn set_members(&self, members: BTreeSet<NodeId>) {
        let mut state = self.state();
        state.members = members;
        let State { members, came_from, .. } = &mut *state;
        came_from.retain(|node, _| members.contains(node));
        for (node, connection) in &state.live {
            if !state.members.contains(node) {
                connection.close(REMOVED, NO_MEMBER);
            }
        }
    }

    /// Accepts until the endpoint closes. Each admitted connection is given to `serve`, whose end
    /// is the connection's end.
    pub(crate) async fn run<S, F>(self: Arc<Self>, serve: S)
    where
        S: Fn(NodeId, Connection) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        self.run_knowing(|_| false, serve).await;
    }

    /// The same, where `is_member` says of an address whether a member listens there. Addresses that
    /// members came from are known in any case.
    pub(crate) async fn run_knowing<S, F>(
        self: Arc<Self>,
        is_member: impl Fn(IpAddr) -> bool + Send,
        serve: S,
    ) where
        S: Fn(NodeId, Connection) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let mut connections = JoinSet::new();
        while let Some(incoming) = self.endpoint.accept().await {
            while connections.try_join_next().is_some() {}
            let source = incoming.remote_address().ip().to_canonical();
            let is_member = is_member(source) || self.state().came_from.values().any(|ip| *ip == source);
            if let Some((incoming, slot)) = self.bound_handshakes(incoming, is_member) {
                connections.spawn(Arc::clone(&self).receive(incoming, slot, serve.clone()));
            }
        }
    }

    /// The slot is taken here, before anything runs: a burst must not pass the check as one.
    fn bound_handshakes(&self, incoming: Incoming, is_member: bool) -> Option<(Incoming, Slot)> {
        let (source, validated) = (incoming.remote_address().ip(), incoming.remote_address_validated());
        match self.handshakes.take(source, is_member, validated) {
            Place::Free(slot) => return Some((incoming, slot)),
            // Fails only for a source that was validated.
            Place::Retry => drop(incoming.retry()),
            Place::Taken => {
                self.refusals.count("connection", "too-many-handshakes");
                incoming.ignore();
            }
        }
        None
    }

    async fn receive<S, F>(self: Arc<Self>, incoming: Incoming, slot: Slot, serve: S)
    where
        S: Fn(NodeId, Connection) -> F,
        F: Future<Output = ()>,
    {
        let Some((node, connection)) = self.admit(incoming).await else { return };
        slot.admitted();
        let id = connection.stable_id();
        let peer = connection.remote_address();
        serve(node, connection.clone()).await;
        self.state().live.retain(|(_, other)| other.stable_id() != id);
        if let Some(end) = connection.close_reason() {
            self.refusals.note_end(peer, Some(node), &end);
        }
    }

    async fn admit(&self, incoming: Incoming) -> Option<(NodeId, Connection)> {
        let peer = incoming.remote_address();
        let connection = match timeout(HANDSHAKE_LIMIT, async { incoming.accept()?.await }).await {
            Ok(Ok(connection)) => connection,
            Ok(Err(e)) => {
                self.refusals.note_end(peer, None, &e);
                return None;
            }
            Err(_) => {
                self.refusals.count("connection", "handshake-timeout");
                return None;
            }
        };
        match node_of(&connection, &self.cluster).and_then(|node| self.enter(node, &connection)) {
            Ok(node) => Some((node, connection)),
            Err(refusal) => {
                let claimed = node_of(&connection, &self.cluster).ok();
                self.refusals.refuse(&connection, claimed, &refusal);
                None
            }
        }
    }

    fn enter(&self, node: NodeId, connection: &Connection) -> Result<NodeId, Refusal> {
        // Who dials an address that is no longer the right one, or never was, notices by itself; but until
        // then it must not take the place of its own good connection (W-2).
        if let Some(dialled) = dialled_as(connection).filter(|dialled| *dialled != self.own) {
            return Err(Refusal::WrongNode { dialled, found: self.own });
        }
        let mut state = self.state();
        if !state.members.contains(&node) {
            return Err(Refusal::NotAMember(node));
        }
        state.live.retain(|(_, live)| live.close_reason().is_none());
        if state.live.iter().filter(|(other, _)| *other == node).count() >= self.per_node {
            if self.surplus == Surplus::RefuseNewest {
                return Err(Refusal::TooMany(node));
            }
            if let Some(oldest) = state.live.iter().position(|(other, _)| *other == node) {
                let (_, connection) = state.live.remove(oldest);
                let why =
                    b"a newer connection of this node took its place; is a second process running as it?";
                connection.close(SUPERSEDED, why);
            }
        }
        state.live.push((node, connection.clone()));
        state.came_from.insert(node, connection.remote_address().ip().to_canonical());
        Ok(node)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whom the other side meant to dial, if it says so.
fn dialled_as(connection: &Connection) -> Option<NodeId> {
    let handshake = connection.handshake_data()?.downcast::<HandshakeData>().ok()?;
    identity::dialled_as(&handshake.server_name?)
}
