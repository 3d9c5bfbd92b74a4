//! Who is who, for the mesh and for the hop: the core says who belongs, the registry says where they are.
//!
//! Both change while the node runs. A member is dialled as soon as its membership entry is in the log and
//! its address is applied; one that is left out is dropped when the core has told it so. A node that hears
//! no leader, or one that it does not know, may be the one whose picture is out of date: then it lets other
//! nodes of the cluster in, whose votes and entries it may need to get up to date.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::PoisonError;

use tokio::sync::watch;

use crate::driver::cycle::Cycle;
use crate::ids::NodeId;
use crate::registry::command::Member;
use crate::registry::machine::Machine;
use crate::transport::roster::Roster;

/// What was told last, and whom to tell.
#[derive(Debug)]
pub struct Directory {
    seen: Option<Seen>,
    hops: watch::Sender<BTreeMap<NodeId, String>>,
}

/// What a roster is made of.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    who: BTreeSet<NodeId>,
    open: bool,
    version: u64,
}

impl Directory {
    /// Nothing was told yet. The receiver sees where the members listen for the hop.
    pub fn new() -> (Self, watch::Receiver<BTreeMap<NodeId, String>>) {
        let (hops, receiver) = watch::channel(BTreeMap::new());
        (Self { seen: None, hops }, receiver)
    }

    /// The roster under `leader`, when it is another one than at the last turn.
    pub fn turn(&mut self, cycle: &Cycle, leader: Option<NodeId>) -> Option<Roster> {
        let machine = cycle.machine().read().unwrap_or_else(PoisonError::into_inner);
        let who = cycle.correspondents();
        let open = leader.is_none_or(|leader| !who.contains(&leader));
        let seen = Some(Seen { who, open, version: machine.roster_version() });
        if seen == self.seen {
            return None;
        }
        self.seen = seen;
        let who = &self.seen.as_ref()?.who;
        self.hops.send_if_modified(|hops| {
            let now = addresses(&machine, who, |member| &member.hop);
            std::mem::replace(hops, now) != *hops
        });
        let removed = machine.removed().keys().filter(|node| !who.contains(node)).copied().collect();
        let members = addresses(&machine, who, |member| &member.peer);
        let unplaced = who.iter().filter(|node| !members.contains_key(node)).copied().collect();
        Some(Roster { members, unplaced, removed, open })
    }
}

fn addresses(
    machine: &Machine,
    who: &BTreeSet<NodeId>,
    which: impl Fn(&Member) -> &String,
) -> BTreeMap<NodeId, String> {
    let known = who.iter().filter_map(|node| machine.member(*node));
    known.map(|member| (member.id, which(member).clone())).collect()
}
