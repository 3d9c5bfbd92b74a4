//! What must hold in every state.

use termgate::ids::{NodeId, Term};
use termgate::raft::effect::{Outcome, RoleKind};

use crate::bounds::Bound;
use crate::station::{JOINT, PROMOTION, SETTLED};
use crate::tables::{Desk, Facts};
use crate::words;
use crate::world::{MAX_LOG, World};

/// Tickets below are reads.
pub const FIRST_WRITE: u8 = 8;

/// The node at `place` has just made a step from `before`.
pub fn after_step(
    world: &mut World,
    place: usize,
    before: u32,
    restarted: bool,
    desk: &Desk,
) -> Result<(), String> {
    let facts = desk.facts(world.stations[place]);
    disk(desk.facts(before), facts)?;
    if !restarted && facts.commit < desk.facts(before).commit {
        return Err(format!("node {}: its commit index fell", place + 1));
    }
    if !facts.follows_log {
        return Err(format!("node {}: its membership is not the newest in its log", place + 1));
    }
    leader(world, place, facts)?;
    change(facts)?;
    commit(world, place, facts)?;
    for other in (0..desk.bound().nodes).filter(|other| *other != place) {
        matching(facts, desk.facts(world.stations[other]))?;
    }
    everywhere(world, desk)
}

/// A disk forgets no term and changes no vote.
fn disk(before: &Facts, after: &Facts) -> Result<(), String> {
    let place = after.marks.place + 1;
    if after.disk_term < before.disk_term {
        return Err(format!("node {place}: its disk fell back from term {}", before.disk_term));
    }
    let changed = after.disk_term == before.disk_term && before.disk_vote.is_some();
    if changed && after.disk_vote != before.disk_vote {
        return Err(format!("node {place}: its disk changed a vote of term {}", after.disk_term));
    }
    Ok(())
}

/// Election safety: one leader in a term, for ever, and by votes that last.
fn leader(world: &mut World, place: usize, facts: &Facts) -> Result<(), String> {
    if facts.role != RoleKind::Leader {
        return Ok(());
    }
    let (term, me) = (facts.term as usize, place as u8 + 1);
    let known = &mut world.record.leaders[term];
    if *known != 0 && *known != me {
        return Err(format!("nodes {known} and {me} both led in term {term}"));
    }
    *known = me;
    let own_vote = facts.disk_term == facts.term && facts.disk_vote == Some(NodeId(u64::from(me)));
    if own_vote {
        Ok(())
    } else {
        Err(format!("node {me} leads in term {term} without its own vote on its disk"))
    }
}

/// A leader changes the membership only when an entry of its own term is committed (MC-1).
fn change(facts: &Facts) -> Result<(), String> {
    let is_own = |entry: &u8| entry >> 4 == facts.term;
    let first = facts.log.iter().position(is_own).unwrap_or(facts.log.len());
    let changed = facts.log.iter().any(|entry| is_own(entry) && entry & 0xf == JOINT);
    if facts.role != RoleKind::Leader || !changed || facts.commit > first {
        return Ok(());
    }
    let (me, term) = (facts.marks.place + 1, facts.term);
    Err(format!("node {me} changes the membership with nothing of its term {term} committed"))
}

/// State machine safety: what is committed anywhere is the same everywhere, for ever.
fn commit(world: &mut World, place: usize, facts: &Facts) -> Result<(), String> {
    let record = &mut world.record;
    for (index, entry) in facts.log.iter().take(facts.commit.min(MAX_LOG)).enumerate() {
        let known = &mut record.committed[index];
        if *known == 0 {
            *known = *entry;
            record.committed_in[index] = facts.term;
        } else if known != entry {
            let (known, entry) = (words::log(&[*known]), words::log(&[*entry]));
            let at = index + 1;
            return Err(format!("node {} committed {entry} at {at}, where {known} was committed", place + 1));
        }
    }
    Ok(())
}

/// Log matching: where two logs have the same term at the same place, they are the same up to there.
fn matching(one: &Facts, other: &Facts) -> Result<(), String> {
    let common = one.log.len().min(other.log.len());
    let last = (0..common).rev().find(|index| one.log[*index] >> 4 == other.log[*index] >> 4);
    let same = last.is_none_or(|last| one.log[..=last] == other.log[..=last]);
    if same {
        return Ok(());
    }
    let (a, b) = (one.marks.place + 1, other.marks.place + 1);
    Err(format!(
        "the logs of {a} [{}] and {b} [{}] do not match",
        words::log(&one.log),
        words::log(&other.log)
    ))
}

/// What is a matter of all nodes together.
pub fn everywhere(world: &World, desk: &Desk) -> Result<(), String> {
    let nodes = desk.bound().nodes;
    let all: [Option<&Facts>; crate::world::MAX_NODES] =
        std::array::from_fn(|place| (place < nodes).then(|| desk.facts(world.stations[place])));
    complete(world, &all)?;
    durable(world, &all, desk.bound())?;
    if desk.bound().time.rates.is_empty() { Ok(()) } else { leases(&all) }
}

/// Leader completeness: a leader holds what was committed in lower terms.
fn complete(world: &World, all: &[Option<&Facts>]) -> Result<(), String> {
    let record = &world.record;
    for facts in all.iter().flatten().filter(|facts| facts.role == RoleKind::Leader) {
        let committed =
            record.committed.iter().zip(&record.committed_in).take_while(|(entry, _)| **entry != 0);
        for (index, (entry, _)) in committed.enumerate().filter(|(_, (_, term))| **term < facts.term) {
            if facts.log.get(index) != Some(entry) {
                let (me, term) = (facts.marks.place + 1, facts.term);
                let entry = words::log(&[*entry]);
                let at = index + 1;
                return Err(format!(
                    "node {me} leads in term {term} without {entry} at {at}, which is committed"
                ));
            }
        }
    }
    Ok(())
}

/// A durable quorum stands behind whatever is committed: of all nodes once their membership is, of those with
/// a vote from the start before.
fn durable(world: &World, all: &[Option<&Facts>], bound: &Bound) -> Result<(), String> {
    let committed = &world.record.committed;
    let all_vote = committed.iter().any(|entry| entry & 0xf >= JOINT);
    let voters = if all_vote { bound.nodes } else { bound.voters() };
    for (index, entry) in committed.iter().enumerate().take_while(|(_, entry)| **entry != 0) {
        let disks = all.iter().take(voters).flatten();
        let holders = disks.filter(|facts| facts.disk_log.get(index) == Some(entry)).count();
        if holders * 2 <= voters {
            let (entry, at) = (words::log(&[*entry]), index + 1);
            return Err(format!("{entry} at {at} is committed, and on {holders} of {voters} disks"));
        }
    }
    Ok(())
}

/// While a lease holds, no other does, and nobody leads in a higher term.
fn leases(all: &[Option<&Facts>]) -> Result<(), String> {
    for holder in all.iter().flatten().filter(|facts| facts.lease) {
        for other in all.iter().flatten().filter(|other| other.marks.place != holder.marks.place) {
            let (a, b) = (holder.marks.place + 1, other.marks.place + 1);
            if other.lease {
                return Err(format!("nodes {a} and {b} both hold a lease"));
            }
            if other.role == RoleKind::Leader && other.term > holder.term {
                return Err(format!("node {b} was elected while the lease of node {a} holds"));
            }
        }
    }
    Ok(())
}

/// A client is answered.
pub fn reply(world: &World, ticket: u8, outcome: &Outcome, desk: &Desk) -> Result<(), String> {
    match outcome {
        Outcome::NotLeader { .. } if (FIRST_WRITE..PROMOTION).contains(&ticket) => {
            let number = ticket - FIRST_WRITE + 1;
            let logs =
                world.stations.iter().take(desk.bound().nodes).map(|station| &desk.facts(*station).log);
            let stands = logs.flatten().any(|entry| entry & 0xf == number);
            let text = || format!("write {number} was refused, and stands in a log");
            if stands { Err(text()) } else { Ok(()) }
        }
        Outcome::Committed(id) => {
            let entry = ((id.term.0 as u8) << 4) | (ticket - FIRST_WRITE + 1);
            let at = id.index.0 as usize;
            let known = world.record.committed[at - 1];
            let text =
                || format!("a write was acknowledged at {at}, where {} is committed", words::log(&[known]));
            if known == entry { Ok(()) } else { Err(text()) }
        }
        Outcome::Reconfigured(id) => {
            let known = world.record.committed[id.index.0 as usize - 1];
            let is_it = known == ((id.term.0 as u8) << 4) | SETTLED;
            let text =
                || format!("a change of the membership is told to be complete at {}, and is not", id.index);
            if is_it { Ok(()) } else { Err(text()) }
        }
        Outcome::ReadAt { index, .. } => {
            let floor = u64::from((world.record.reads[ticket as usize] - 1) >> 4);
            let text = || format!("a read at {index} does not see what was there at {floor} before it began");
            if index.0 >= floor { Ok(()) } else { Err(text()) }
        }
        _ => Ok(()),
    }
}

/// A write is stamped; the resource has answered raises up to `answered`.
pub fn stamp(world: &World, place: usize, term: Term, answered: Term) -> Result<(), String> {
    let (leader, node) = (world.record.leaders[term.0 as usize], place + 1);
    if leader as usize != node {
        return Err(format!("node {node} stamped a write with term {term}, which it does not lead"));
    }
    if term > answered {
        return Err(format!("node {node} stamped a write with term {term}, fence answered at {answered}"));
    }
    Ok(())
}
