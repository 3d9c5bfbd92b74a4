//! The operator: adds, promotes, demotes and removes members, also the leader, in the midst of the storm;
//! gives members empty disks, as when a machine is replaced, and adds them anew.

use std::collections::{BTreeMap, BTreeSet};

use termgate::driver::cycle::Answered;
use termgate::driver::handle::Refused;
use termgate::fencing::leadership::Leadership;
use termgate::ids::{LogIndex, NodeId};
use termgate::raft::effect::{Change, Input, ReconfigureRefusal, RoleKind};
use termgate::raft::entry::{Entry, Membership, Payload};

use crate::clients::{Request, Waiter};
use crate::clock::True;
use crate::disk::Disk;
use crate::process::SimNode;
use crate::roster::is_majority;
use crate::script::Play;
use crate::stats::{Class, Stat};
use crate::world::{Event, World};

/// The position of the node with this id.
const fn position(id: NodeId) -> usize {
    id.0 as usize - 1
}

impl World {
    pub(crate) fn on_operator(&mut self) {
        if self.calm {
            return;
        }
        let node = self.someone();
        if self.chances.nemesis.chance(self.params.wipe_ppm) {
            self.random_wipe();
        } else if let Some(change) = self.some_change(node) {
            self.stats.fired(Class::Reconfigure);
            self.arrive(node, Request::Reconfigure { change: Box::new(change) });
        }
        let gap = self.params.operator_gap;
        let gap = self.chances.nemesis.range(gap / 10, gap * 2);
        self.schedule(gap, Event::Operator);
    }

    /// A change of the membership that `node` knows, often one that makes sense.
    fn some_change(&mut self, node: usize) -> Option<Change> {
        let now = self.nodes[node].process.as_ref()?.cycle.view().membership;
        let strangers = self.nodes.iter().filter(|n| n.is_stranger && now.contains(n.config.id));
        let strangers: Vec<NodeId> = strangers.map(|n| n.config.id).collect();
        let outside =
            self.nodes.iter().map(|n| n.config.id).filter(|id| !now.contains(*id)).collect::<Vec<_>>();
        let (voters, learners): (Vec<_>, Vec<_>) =
            (now.voters.iter().copied().collect(), now.learners.iter().copied().collect());
        let mut change = Change::default();
        let rng = &mut self.chances.nemesis;
        if !strangers.is_empty() && rng.chance(600_000) {
            change.remove.insert(rng.pick(&strangers));
            return Some(change);
        }
        let few = voters.len() < self.params.voters;
        let kind = if few && rng.coin() { rng.below(4) } else { rng.below(9) };
        match kind {
            0 | 1 if !outside.is_empty() => drop(change.add.insert(rng.pick(&outside), None)),
            2 | 3 if !learners.is_empty() => drop(change.promote.insert(rng.pick(&learners))),
            4 if !voters.is_empty() => drop(change.demote.insert(rng.pick(&voters))),
            5 if !voters.is_empty() => drop(change.remove.insert(rng.pick(&voters))),
            6 => drop(change.remove.insert(self.nodes[node].config.id)),
            7 if !learners.is_empty() && !voters.is_empty() => {
                change.promote.insert(rng.pick(&learners));
                let leaves = rng.pick(&voters);
                if rng.coin() {
                    change.remove.insert(leaves)
                } else {
                    change.demote.insert(leaves)
                };
            }
            8 => {
                // Whatever comes to mind, sense or none.
                let some = |rng: &mut crate::rng::Rng| -> BTreeSet<NodeId> {
                    let all = voters.iter().chain(&learners).chain(&outside);
                    all.copied().filter(|_| rng.chance(200_000)).collect()
                };
                change =
                    Change { add: BTreeMap::new(), promote: some(rng), demote: some(rng), remove: some(rng) };
                change.add = some(rng).into_iter().map(|id| (id, None)).collect();
            }
            _ => return None,
        }
        for (id, incarnation) in &mut change.add {
            // An id that was in use takes its directory's number, as the manual says. Who is asked without
            // it refuses where it knows better.
            let knows_better = self.nodes[node].disk.has_pinned(*id);
            let it = &mut self.nodes[position(*id)];
            let first = !std::mem::replace(&mut it.was_member, true);
            if !(first || knows_better) || self.chances.nemesis.chance(700_000) {
                *incarnation = Some(it.disk.life().incarnation);
            }
        }
        Some(change)
    }

    /// A request for a change is taken by `node`. Nobody asks for one that leaves too few votes to those whose
    /// disk is what the others think: that nothing is asked of such a cluster is the operator's part.
    pub(crate) fn take_change(&mut self, node: usize, change: Change) {
        let Some(process) = self.nodes[node].process.as_ref().filter(|_| !self.calm) else { return };
        let now = process.cycle.view().membership;
        let mut voters: BTreeSet<NodeId> = now.voters.difference(&gone(&change)).copied().collect();
        voters.extend(&change.promote);
        let is_fit = |id: NodeId| self.nodes[position(id)].has_its_disk();
        let stands = is_majority(&now.voters, is_fit) && is_majority(&voters, is_fit);
        if voters != now.voters && !voters.is_empty() && !stands {
            return;
        }
        if let Some(ticket) = self.register(node, Waiter::Reconfigure(Box::new(change.clone()))) {
            self.turn(node, Input::Reconfigure { ticket, change });
        }
    }

    /// Nobody knows what became of a change, or another node leads: it is asked for again, as it was.
    fn ask_again(&mut self, change: &Change, hint: Option<NodeId>) {
        let unnamed = change.add.values().any(Option::is_none);
        if self.calm || unnamed || self.chances.nemesis.chance(400_000) {
            return;
        }
        self.stats.add(Stat::ReconfiguresRepeated);
        let node = hint.map_or_else(|| self.someone(), position);
        self.arrive(node, Request::Reconfigure { change: Box::new(change.clone()) });
    }

    /// A change that was answered as complete is committed, and is what was asked for.
    pub(crate) fn on_reconfigure_answer(&mut self, change: &Change, answered: &Answered) {
        match answered {
            Answered::Reconfigured(at) => {
                self.stats.mattered(Class::Reconfigure, true);
                let entry = self.checker.committed_at(at.index).filter(|entry| entry.id == *at);
                let made = entry.is_some_and(|entry| is_made(change, &entry.payload));
                if !made {
                    self.checker.fail(format!("{change:?} was told to be complete with {at}: {entry:?}"));
                }
                self.stats.add_many(Stat::Promoted, change.promote.len() as u64);
                self.stats.add_many(Stat::Demoted, change.demote.len() as u64);
                let replaces = !change.promote.is_empty() && !gone(change).is_empty();
                let cut = replaces && self.net.has_cuts();
                self.stats.add_many(Stat::Replaced, u64::from(replaces));
                self.stats.add_many(Stat::ReplacedBehindCuts, u64::from(cut));
            }
            Answered::Refused(Refused::Unknown) => {
                self.stats.add(Stat::ReconfiguresUnknown);
                self.ask_again(change, None);
            }
            Answered::Refused(Refused::NotLeader { leader }) => {
                self.stats.add(Stat::ReconfiguresMisdirected);
                if let Some(leader) = leader {
                    self.ask_again(change, Some(*leader));
                }
            }
            Answered::Refused(Refused::Reconfigure(why)) => self.stats.add(stat_of(why)),
            Answered::Refused(_) => {}
            other => self.checker.fail(format!("a change of the membership is answered with {other:?}")),
        }
    }

    /// A process ended.
    pub(crate) fn count_interrupted(&mut self, node: usize, shown: &Leadership) {
        let joint = shown.role == RoleKind::Leader && self.checker.in_force(node).is_joint();
        self.stats.add_many(Stat::JointsInterrupted, u64::from(joint));
    }

    /// A membership was committed: who was added with the disk it has is no stranger any more.
    pub(crate) fn on_committed(&mut self, entry: &Entry) {
        let Payload::Membership(membership) = &entry.payload else { return };
        self.stats.add_many(Stat::Joint, u64::from(membership.is_joint()));
        for (id, incarnation) in &membership.incarnations {
            let it = &mut self.nodes[position(*id)];
            if it.is_stranger && it.disk.life().incarnation == *incarnation {
                it.is_stranger = false;
                self.stats.mattered(Class::Wipe, true);
            }
        }
        if let Some(leader) = self.leader() {
            let left_out = !membership.is_joint() && !membership.is_voter(self.nodes[leader].config.id);
            self.stats.add_many(Stat::LeadersRemoved, u64::from(left_out));
        }
    }

    /// The others do not know this node's disk: its process ends, and whoever runs it tries again.
    pub(crate) fn end_as_a_stranger(&mut self, node: usize) {
        self.stats.add(Stat::Strangers);
        self.end_for_a_while(node);
    }

    /// This node learnt that it was removed: then it was. Where no membership names it since, most machines
    /// are used for something else.
    pub(crate) fn end_as_removed(&mut self, node: usize, at: LogIndex) {
        let id = self.nodes[node].config.id;
        // Where its log begins with a snapshot, the membership is of an entry before that.
        let then = self.checker.roster.at(at);
        if at > self.committed() || then.contains(id) {
            let text = format!("MC-7: node {id} ends as removed at {at}, where the membership is {then:?}");
            self.checker.fail(text);
        }
        self.stats.add(Stat::Removed);
        let gone = self.checker.is_settled(|_| true) && !self.checker.roster.latest().contains(id);
        if gone && !self.calm && self.chances.nemesis.chance(700_000) {
            self.replace_disk(node);
        }
        self.end_for_a_while(node);
    }

    fn end_for_a_while(&mut self, node: usize) {
        let longest = self.election();
        let down = self.chances.nemesis.range(longest / 2, 4 * longest);
        self.crash(node);
        self.schedule(down, Event::Restart { node });
    }

    /// A member gets an empty disk, where the others can go on without it.
    pub(crate) fn random_wipe(&mut self) {
        let node = self.someone();
        if !self.can_spare(node) {
            return;
        }
        let member = self.checker.roster.latest().is_voter(self.nodes[node].config.id);
        self.replace_disk(node);
        if member {
            self.stats.fired(Class::Wipe);
        }
        let longest = self.election();
        let down = self.chances.nemesis.range(longest / 10, 2 * longest);
        self.schedule(down, Event::Restart { node });
    }

    /// Whether a majority of voters is left without `node`, whatever the membership may turn out to be. Who does not
    /// have the membership yet is none of them: it knows a member that was added again by its former directory, and takes
    /// no vote from the present one (V8).
    pub(crate) fn can_spare(&self, node: usize) -> bool {
        let (latest, at) = (self.checker.roster.latest(), self.checker.roster.latest_at());
        let knows_it = |n: &SimNode| n.has_its_disk() && n.disk.last().index >= at;
        let left = |id: NodeId| position(id) != node && knows_it(&self.nodes[position(id)]);
        // A leader begins a change some time before it is in anybody's log.
        let begins = |n: &SimNode| {
            let view = n.process.as_ref().map(|process| process.cycle.view());
            view.is_some_and(|view| view.role == RoleKind::Leader && view.membership != *latest)
        };
        !self.nodes.iter().any(begins)
            && self.checker.is_settled_for_good()
            && !latest.is_joint()
            && is_majority(&latest.voters, left)
    }

    /// Where there is an operator, a disk that is found damaged is replaced.
    pub(crate) fn replace_if_lost(&mut self, node: usize) {
        if self.params.operator_gap > 0 {
            self.replace_disk(node);
            self.stats.fired(Class::Wipe);
            let longest = self.election();
            self.schedule(longest, Event::Restart { node });
        }
    }

    /// The disk goes, and an empty one takes its place.
    fn replace_disk(&mut self, node: usize) {
        self.crash(node);
        self.trace.line(self.now, Some(node), || "GETS AN EMPTY DISK".to_owned());
        let it = &mut self.nodes[node];
        let (incarnation, starts) = (self.chances.disk.draw(), it.disk.life().boot);
        let empty = Disk::new(it.config.id, incarnation, Membership::default(), self.params.store.clone());
        it.former.push(std::mem::replace(&mut it.disk, empty).retired());
        it.disk.earlier_starts = starts;
        it.first_start = True::MAX;
        it.is_stranger = true;
        it.was_wiped = true;
        it.is_lost = false;
        it.is_rotten = false;
        self.checker.on_wipe(node);
    }

    /// The leader is asked for a change, and is lost while it is made.
    pub(crate) fn play_reconfigure(&mut self, play: &mut Play) -> Option<True> {
        let (hb, longest) = (self.heartbeat(), self.election());
        match play.act {
            0 => {
                if !self.cast_leader(play) {
                    return Some(hb);
                }
                let Some(change) = self.some_change(play.leader) else { return Some(hb) };
                self.stats.fired(Class::PlayReconfigure);
                self.stats.fired(Class::Reconfigure);
                self.take_the_links();
                self.on_request(play.leader, Request::Reconfigure { change: Box::new(change) });
                Some(self.part(hb, 0, 60))
            }
            1 => {
                self.lose_in_some_way(play.leader);
                Some(self.part(longest, 50, 150))
            }
            2..=5 => {
                self.tempt(play.leader);
                if let Some(other) = self.leader().filter(|n| *n != play.leader) {
                    self.ask_put(other, false);
                    self.ask_lease_read(other);
                }
                Some(self.part(longest, 10, 60))
            }
            _ => {
                self.mend();
                None
            }
        }
    }

    fn lose_in_some_way(&mut self, leader: usize) {
        match self.chances.nemesis.below(6) {
            0 => {
                let down = self.part(self.election(), 1, 250);
                self.crash_for(leader, down);
            }
            1 => self.isolate(leader),
            2 => self.mute(leader, true, false),
            3 => drop(self.bare_quorum(leader)),
            4 => {
                let stopped = self.part(self.election(), 50, 300);
                self.pause(leader, stopped);
            }
            _ => {
                let order: Vec<usize> = (0..self.nodes.len()).collect();
                self.cut_into_bridge(&order);
            }
        }
    }
}

impl SimNode {
    /// Whether its disk is whole, and the one that the others know.
    const fn has_its_disk(&self) -> bool {
        !self.is_stranger && !self.is_lost && !self.is_rotten
    }
}

/// Whose vote a change takes away.
fn gone(change: &Change) -> BTreeSet<NodeId> {
    change.demote.union(&change.remove).copied().collect()
}

const fn stat_of(refusal: &ReconfigureRefusal) -> Stat {
    match refusal {
        ReconfigureRefusal::InProgress => Stat::RefusedInProgress,
        ReconfigureRefusal::NotReady => Stat::RefusedNotReady,
        ReconfigureRefusal::NoChange => Stat::RefusedNoChange,
        ReconfigureRefusal::AlreadyAMember(_) => Stat::RefusedAlreadyAMember,
        ReconfigureRefusal::NotSuch(_) => Stat::RefusedNotSuch,
        ReconfigureRefusal::KnownByAnotherDirectory(_) => Stat::RefusedDirectory,
        ReconfigureRefusal::NotCaughtUp { .. } => Stat::RefusedNotCaughtUp,
        ReconfigureRefusal::NotInContact(_) => Stat::RefusedNotInContact,
        ReconfigureRefusal::NoVoters => Stat::RefusedNoVoters,
        ReconfigureRefusal::NoQuorum { .. } => Stat::RefusedNoQuorum,
    }
}

/// Whether `payload` is the membership that a change leads to. Who is removed is, whatever else was to
/// happen to it.
fn is_made(change: &Change, payload: &Payload) -> bool {
    let Payload::Membership(now) = payload else { return false };
    let learns = |id: &NodeId| now.learners.contains(id) && !now.voters.contains(id);
    !now.is_joint()
        && change.add.keys().all(|id| now.contains(*id))
        && change.promote.difference(&change.remove).all(|id| now.voters.contains(id))
        && change.demote.difference(&change.remove).all(learns)
        && change.remove.iter().all(|id| !now.contains(*id))
}
