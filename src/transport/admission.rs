//! Who gets in: handshakes are bounded, and a connection is used only when its certificate names
//! a node of this cluster that is a member (W-4, W-5), or that may be one (W-12).

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
use crate::transport::refusal::{CLOSED, Refusal, Refusals, SUPERSEDED, close_removed, node_of};
use crate::transport::roster::Roster;
use crate::transport::slots::{Place, Slot, Slots};

/// A handshake's limit.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(3);
/// Nodes that are no members and are let in at once: two memberships of the largest size and more.
const STRANGERS: usize = 16;

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
    /// This node: whoever else has its certificate is a twin, and no stranger.
    own: NodeId,
    handshakes: Arc<Slots>,
    per_node: usize,
    surplus: Surplus,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    members: BTreeSet<NodeId>,
    removed: BTreeSet<NodeId>,
    /// Whether strangers are let in.
    open: bool,
    /// Admitted connections, oldest first.
    live: Vec<(NodeId, Connection)>,
    /// Where each member last came from; it may differ from where it listens.
    came_from: BTreeMap<NodeId, IpAddr>,
}

/// As whom a connection is let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Admitted {
    Member,
    Stranger,
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

    /// Follows the roster: the connections of a node that is no member any more close at once (W-11), and
    /// so do those of strangers when the door is shut to them (W-12). Who was removed is told so only then:
    /// while the door is open this node may not have heard yet that it was added again.
    pub(crate) fn set_roster(&self, roster: &Roster) {
        self.replace(roster.everybody(), roster.removed.clone(), roster.open);
    }

    /// The same where nobody says who was removed: whoever is no member any more was. Strangers are not
    /// let in.
    pub(crate) fn set_members(&self, members: BTreeSet<NodeId>) {
        let removed = {
            let state = self.state();
            state.removed.union(&state.members).copied().filter(|node| !members.contains(node)).collect()
        };
        self.replace(members, removed, false);
    }

    fn replace(&self, mut members: BTreeSet<NodeId>, removed: BTreeSet<NodeId>, open: bool) {
        members.remove(&self.own);
        let mut state = self.state();
        let former = std::mem::replace(&mut state.members, members);
        (state.removed, state.open) = (removed, open);
        let State { members, removed, came_from, live, .. } = &mut *state;
        came_from.retain(|node, _| members.contains(node));
        for (node, connection) in live.iter().filter(|(node, _)| !members.contains(node)) {
            if removed.contains(node) && !open {
                close_removed(connection, *node);
            } else if former.contains(node) || !open {
                connection.close(CLOSED, b"no member is known here by this name");
            }
        }
    }

    /// Accepts until the endpoint closes. Each admitted connection is given to `serve`, whose end
    /// is the connection's end. `is_member` says of an address whether a member listens there; addresses
    /// that members came from are known in any case.
    pub(crate) async fn run<S, F>(self: Arc<Self>, is_member: impl Fn(IpAddr) -> bool + Send, serve: S)
    where
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
        let Some((node, connection, admitted)) = self.admit(incoming).await else { return };
        match admitted {
            Admitted::Member => slot.admitted(),
            Admitted::Stranger => drop(slot),
        }
        let id = connection.stable_id();
        serve(node, connection.clone()).await;
        self.state().live.retain(|(_, other)| other.stable_id() != id);
        if let Some(end) = connection.close_reason() {
            self.refusals.note_end(connection.remote_address(), Some(node), &end);
        }
    }

    async fn admit(&self, incoming: Incoming) -> Option<(NodeId, Connection, Admitted)> {
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
        let node = node_of(&connection, &self.cluster);
        match node.clone().and_then(|node| Ok((node, self.enter(node, &connection)?))) {
            Ok((node, admitted)) => Some((node, connection, admitted)),
            Err(refusal) => {
                self.refusals.refuse(&connection, node.ok(), &refusal);
                None
            }
        }
    }

    fn enter(&self, node: NodeId, connection: &Connection) -> Result<Admitted, Refusal> {
        // Who dials an address that is no longer the right one, or never was, notices by itself; but until
        // then it must not take the place of its own good connection (W-2).
        if let Some(dialled) = dialled_as(connection).filter(|dialled| *dialled != self.own) {
            return Err(Refusal::WrongNode { dialled, found: self.own });
        }
        let mut state = self.state();
        state.live.retain(|(_, live)| live.close_reason().is_none());
        let admitted = state.judge(node, self.own)?;
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
        if admitted == Admitted::Member {
            state.came_from.insert(node, connection.remote_address().ip().to_canonical());
        }
        Ok(admitted)
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

impl State {
    /// W-12.
    fn judge(&self, node: NodeId, own: NodeId) -> Result<Admitted, Refusal> {
        if self.members.contains(&node) {
            return Ok(Admitted::Member);
        }
        let live = self.live.iter().map(|(other, _)| *other);
        let strangers: BTreeSet<NodeId> =
            live.filter(|other| *other != node && !self.members.contains(other)).collect();
        if self.open && node != own && strangers.len() < STRANGERS {
            return Ok(Admitted::Stranger);
        }
        let was_removed = self.removed.contains(&node);
        Err(if was_removed { Refusal::Removed(node) } else { Refusal::NotAMember(node) })
    }
}
