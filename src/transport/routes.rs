//! Whom this node can send to: the members by the roster, and strangers by their own word.
//!
//! The roster may be out of date, or not know where a member is: then its own word leads there as well.
//!
//! A stranger is a node of the cluster that the roster does not name. Its address is not known here, yet a
//! member that was added while this node heard nobody needs this node's vote, and a node that waits to be
//! added must answer its leader. So who dials says where it listens itself (W-13), and that is believed for
//! as long as strangers are let in at all, and only as an address: the node found there must show the
//! certificate of the stranger, so a lie costs a failed dial.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::task::AbortHandle;

use crate::clock;
use crate::ids::NodeId;
use crate::raft::message::Message;
use crate::time::{Duration, Instant};
use crate::transport::link::{Dialer, Link};
use crate::transport::peer::Peer;
use crate::transport::refusal::Refusals;
use crate::transport::roster::Roster;

/// Strangers with a route; as many as are let in at once. One more takes the place of the one that was
/// least recently used.
const PROVISIONAL: usize = 16;
/// A route that was not used for so long leads nowhere any more.
const UNUSED_LIMIT: Duration = Duration::from_secs(120);

/// Everybody who can be sent to.
#[derive(Debug)]
pub(crate) struct Routes {
    own: NodeId,
    dialer: Arc<Dialer>,
    /// How this node begins on each connection (W-13).
    introduction: Option<Bytes>,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    roster: Roster,
    /// The members but this node, without those of whom nothing says where they are.
    peers: BTreeMap<NodeId, Peer>,
    strangers: BTreeMap<NodeId, Provisional>,
    /// Where members say themselves that they listen.
    said: BTreeMap<NodeId, String>,
}

/// A route to a stranger.
#[derive(Debug)]
struct Provisional {
    address: String,
    used: Instant,
    /// Dialled once there is something to say.
    peer: Option<Peer>,
    /// The last message that found no connection.
    waiting: Option<AbortHandle>,
}

impl Routes {
    pub(crate) fn new(own: NodeId, dialer: Arc<Dialer>, introduction: Option<Bytes>) -> Self {
        Self { own, dialer, introduction, table: Mutex::default() }
    }

    pub(crate) fn refusals(&self) -> &Arc<Refusals> {
        &self.dialer.refusals
    }

    /// Follows the roster (W-11); answers whether it has changed.
    pub(crate) fn follow(&self, roster: &Roster) -> bool {
        let mut table = self.table();
        if table.roster == *roster {
            return false;
        }
        table.roster = roster.clone();
        table.peers.retain(|id, peer| {
            if roster.tells_removed(*id) {
                peer.link().remove();
            }
            let address = roster.members.get(id);
            roster.unplaced.contains(id) || address.is_some_and(|address| address == peer.link().address())
        });
        table.said.retain(|id, _| roster.is_member(*id));
        for id in roster.everybody().into_iter().filter(|id| *id != self.own) {
            self.follow_member(&mut table, id);
        }
        table.strangers.retain(|id, route| {
            if let Some(peer) = route.peer.as_ref().filter(|_| roster.tells_removed(*id)) {
                peer.link().remove();
            }
            roster.open
        });
        true
    }

    /// What a member has said as a stranger is not forgotten: it may be all that is known of where it is.
    fn follow_member(&self, table: &mut Table, id: NodeId) {
        let Table { roster, peers, strangers, said } = table;
        let known = strangers.remove(&id).and_then(|route| {
            said.insert(id, route.address);
            route.peer
        });
        let said = said.get(&id);
        let Some(address) = roster.members.get(&id).or(said) else { return };
        let peer = peers.entry(id).or_insert_with(|| {
            let known = known.filter(|peer| peer.link().address() == address);
            known.unwrap_or_else(|| self.dial(id, address))
        });
        if let Some(said) = said {
            peer.link().also(said);
        }
    }

    /// Sends to a member, or by the route that a stranger gave.
    pub(crate) fn send(&self, message: Message) {
        let mut table = self.table();
        table.note_use(message.to, clock::now());
        if let Some(peer) = table.peers.get(&message.to) {
            return peer.send(&message);
        }
        let Some(route) = table.strangers.get_mut(&message.to) else {
            return self.refusals().count("message", "not-a-member");
        };
        let peer = route.peer.get_or_insert_with(|| self.dial(message.to, &route.address));
        if peer.link().current().is_some() {
            return peer.send(&message);
        }
        if let Some(older) = route.waiting.replace(peer.send_when_up(message)) {
            older.abort();
        }
    }

    /// `from` says that it listens at `address`. Of a member the roster may know better, or may not.
    pub(crate) fn introduce(&self, from: NodeId, address: String) {
        if from == self.own {
            return;
        }
        let mut table = self.table();
        if !table.roster.is_member(from) {
            return table.introduce(from, address, clock::now());
        }
        table.said.insert(from, address);
        self.follow_member(&mut table, from);
    }

    /// `from` was seen alive: if it is dialled, then now.
    pub(crate) fn nudge(&self, from: NodeId) {
        let table = self.table();
        let stranger = || table.strangers.get(&from).and_then(|route| route.peer.as_ref());
        if let Some(peer) = table.peers.get(&from).or_else(stranger) {
            peer.link().nudge();
        }
    }

    /// Whether a member listens at `ip`.
    pub(crate) fn leads_to(&self, ip: IpAddr) -> bool {
        self.table().peers.values().any(|peer| peer.link().leads_to(ip))
    }

    /// The members that there is a connection to now.
    pub(crate) fn connected(&self) -> Vec<NodeId> {
        let connected = |(id, peer): (&NodeId, &Peer)| peer.link().current().map(|_| *id);
        self.table().peers.iter().filter_map(connected).collect()
    }

    /// Ends all of them.
    pub(crate) fn clear(&self) {
        *self.table() = Table::default();
    }

    fn dial(&self, to: NodeId, address: &str) -> Peer {
        let link = Link::open(Arc::clone(&self.dialer), to, address.to_owned());
        Peer::start(link, self.introduction.as_ref(), Arc::clone(self.refusals()))
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn introduce(&mut self, from: NodeId, address: String, now: Instant) {
        let Self { roster, strangers, .. } = self;
        if !roster.open {
            return;
        }
        if let Some(route) = strangers.get_mut(&from).filter(|route| route.address == address) {
            route.used = now;
            return self.forget_unused(now);
        }
        if strangers.len() >= PROVISIONAL && !strangers.contains_key(&from) {
            let least = strangers.iter().min_by_key(|(_, route)| route.used).map(|(id, _)| *id);
            least.and_then(|id| strangers.remove(&id));
        }
        tracing::info!(node = %from, address, "a node that is no member here says where it listens");
        strangers.insert(from, Provisional { address, used: now, peer: None, waiting: None });
    }

    /// Something is sent to `to`: if that is a stranger, its route is in use. Those that are not any more
    /// are forgotten, whoever it is; members are sent to all the time.
    fn note_use(&mut self, to: NodeId, now: Instant) {
        if let Some(route) = self.strangers.get_mut(&to) {
            route.used = now;
        }
        self.forget_unused(now);
    }

    fn forget_unused(&mut self, now: Instant) {
        self.strangers.retain(|_, route| now.since(route.used) < UNUSED_LIMIT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open() -> Table {
        Table { roster: Roster { open: true, ..Roster::default() }, ..Table::default() }
    }

    fn at(seconds: u64) -> Instant {
        Instant::ZERO + Duration::from_secs(seconds)
    }

    fn names(table: &Table) -> Vec<u64> {
        table.strangers.keys().map(|id| id.0).collect()
    }

    /// W-13.
    #[test]
    fn strangers_have_few_routes_and_the_one_that_is_used_least_makes_room() {
        let mut table = open();
        for id in 1..=16 {
            table.introduce(NodeId(id), "a:1".to_owned(), at(id));
        }
        table.introduce(NodeId(1), "a:1".to_owned(), at(17));
        table.introduce(NodeId(17), "a:1".to_owned(), at(18));
        let mut expected: Vec<u64> = (1..=17).collect();
        expected.retain(|id| *id != 2);
        assert_eq!(names(&table), expected);
        table.introduce(NodeId(3), "b:1".to_owned(), at(19));
        assert_eq!(names(&table), expected, "a new address needs no room");
        assert_eq!(table.strangers[&NodeId(3)].address, "b:1");
    }

    /// W-13.
    #[test]
    fn a_route_that_nobody_uses_is_forgotten() {
        let mut table = open();
        table.introduce(NodeId(1), "a:1".to_owned(), at(0));
        table.introduce(NodeId(2), "a:1".to_owned(), at(0));
        table.introduce(NodeId(3), "a:1".to_owned(), at(0));
        let soon = at(0) + (UNUSED_LIMIT - Duration::from_millis(1));
        table.note_use(NodeId(1), soon);
        assert_eq!(names(&table), [1, 2, 3]);
        // Asked for late, yet before anybody has looked, it is in use again.
        table.note_use(NodeId(2), at(0) + UNUSED_LIMIT);
        assert_eq!(names(&table), [1, 2]);
        table.introduce(NodeId(2), "a:1".to_owned(), soon + UNUSED_LIMIT);
        assert_eq!(names(&table), [2], "who comes again makes the others forgotten, too");
        table.note_use(NodeId(9), soon + UNUSED_LIMIT + UNUSED_LIMIT);
        assert_eq!(names(&table), [] as [u64; 0], "and so does whatever is sent to a member");
    }

    /// W-13.
    #[test]
    fn a_stranger_gets_a_route_only_while_strangers_are_heard() {
        let mut table = open();
        table.introduce(NodeId(3), "a:1".to_owned(), at(0));
        assert_eq!(names(&table), [3]);
        table.roster.open = false;
        table.introduce(NodeId(4), "a:1".to_owned(), at(0));
        assert_eq!(names(&table), [3]);
    }
}
