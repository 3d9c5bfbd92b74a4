//! Edits of a linearizable history after which it is none, or its witness is wrong. Each looks for a place where that
//! is certain; where an unknown write could explain it, it is not.

use crate::generated::Dice;
use crate::lin::history::{
    Change, Condition, Found, Freshness, Get, List, Listing, Op, Place, Sight, Told, What, Write,
};

/// One kind of edit.
pub struct Edit {
    pub name: &'static str,
    /// Whether no order exists after it, whatever the indexes say. The witness is wrong after all of them.
    pub breaks_order: bool,
    /// Makes it somewhere; answers whether there was a place for it.
    pub make: fn(&mut [Op], &mut Dice) -> bool,
}

pub const EDITS: &[Edit] = &[
    Edit { name: "a value that nobody wrote", breaks_order: true, make: change_value },
    Edit { name: "a stale read", breaks_order: true, make: make_read_stale },
    Edit { name: "an acknowledgement turned into a refusal", breaks_order: true, make: refuse_what_was_seen },
    Edit { name: "an index given twice", breaks_order: false, make: share_an_index },
    Edit { name: "a read before the write was called", breaks_order: true, make: read_the_future },
    Edit { name: "a compare-and-set that must fail succeeds", breaks_order: false, make: let_it_win },
    Edit { name: "a compare-and-set that must succeed fails", breaks_order: true, make: hold_it_back },
    Edit { name: "a key vanishes from a read", breaks_order: false, make: hide_from_get },
    Edit { name: "a key vanishes from a list", breaks_order: false, make: hide_from_list },
    Edit { name: "an old version in a list", breaks_order: false, make: list_an_old_version },
    Edit { name: "a deleted key comes back", breaks_order: false, make: resurrect },
    Edit { name: "a term that falls", breaks_order: false, make: lower_a_term },
    Edit { name: "a write that happened twice", breaks_order: true, make: apply_again },
    Edit { name: "a delete of nothing succeeds", breaks_order: false, make: delete_nothing },
    Edit { name: "a read older than it asked for", breaks_order: false, make: ask_for_more },
];

/// The places of `history` where `fits` finds something, with what it finds.
fn places<T: Copy>(history: &[Op], fits: impl Fn(&Op) -> Option<T>) -> Vec<(usize, T)> {
    history.iter().enumerate().filter_map(|(at, op)| Some((at, fits(op)?))).collect()
}

/// The key, the version and the place in the log of a put that took effect.
fn put_done(op: &Op) -> Option<(&str, Found, Place)> {
    match &op.what {
        What::Write(Write { key, change: Change::Put(value), told: Told::Done(place), .. }) => {
            Some((key, Found { version: place.index, value: *value }, *place))
        }
        _ => None,
    }
}

/// What a linearizable read found.
fn found_by(op: &Op) -> Option<Found> {
    match &op.what {
        What::Get(get) if get.freshness.is_linearizable() => get.told?.found,
        _ => None,
    }
}

fn sight_of(op: &mut Op) -> &mut Sight {
    match &mut op.what {
        What::Get(Get { told: Some(sight), .. }) => sight,
        other => panic!("not an answered read: {other:?}"),
    }
}

fn write_of(op: &mut Op) -> &mut Write {
    match &mut op.what {
        What::Write(write) => write,
        other => panic!("not a write: {other:?}"),
    }
}

/// Whether an unknown write may have changed `key` like `change`: then absence or presence proves nothing.
fn may_be_explained(history: &[Op], key: &str, change: fn(Change) -> bool) -> bool {
    history.iter().filter(|op| op.is_unknown_write()).any(|op| match &op.what {
        What::Write(write) => write.key == key && change(write.change),
        _ => false,
    })
}

fn is_delete(change: Change) -> bool {
    change == Change::Delete
}

/// An acknowledged write that a linearizable read found: both places.
fn seen_writes(history: &[Op]) -> Vec<(usize, usize)> {
    let reads = places(history, found_by);
    let writes = places(history, |op| put_done(op).map(|(_, found, _)| found));
    let seen = |(write, found): &(usize, Found)| {
        reads.iter().filter(|(_, read)| read == found).map(|(read, _)| (*write, *read)).collect::<Vec<_>>()
    };
    writes.iter().flat_map(seen).collect()
}

fn change_value(history: &mut [Op], dice: &mut Dice) -> bool {
    let Some((at, found)) = dice.pick(&places(history, found_by)) else { return false };
    sight_of(&mut history[at]).found = Some(Found { value: found.value + 1_000_000, ..found });
    true
}

/// The read shows a version that another one had replaced for certain before its call.
fn make_read_stale(history: &mut [Op], dice: &mut Dice) -> bool {
    let writes = places(history, |op| put_done(op).map(|(_, found, place)| (found, place)));
    let mut choices: Vec<(usize, Found, Place)> = Vec::new();
    for (newer, read) in seen_writes(history) {
        let key = put_done(&history[newer]).map(|(key, ..)| key);
        let is_over = history[newer].returned < history[read].called;
        let older = writes.iter().filter(|(older, _)| {
            is_over
                && put_done(&history[*older]).map(|(key, ..)| key) == key
                && history[*older].returned < history[newer].called
        });
        choices.extend(older.map(|(_, (found, place))| (read, *found, *place)));
    }
    let Some((read, found, place)) = dice.pick(&choices) else { return false };
    *sight_of(&mut history[read]) = Sight { found: Some(found), place };
    true
}

fn refuse_what_was_seen(history: &mut [Op], dice: &mut Dice) -> bool {
    let Some((write, _)) = dice.pick(&seen_writes(history)) else { return false };
    write_of(&mut history[write]).told = Told::Refused;
    true
}

fn share_an_index(history: &mut [Op], dice: &mut Dice) -> bool {
    let done = places(history, |op| put_done(op).map(|(.., place)| place));
    let (Some((_, place)), Some((other, was))) = (dice.pick(&done), dice.pick(&done)) else { return false };
    if place.index == was.index {
        return false;
    }
    write_of(&mut history[other]).told = Told::Done(place);
    true
}

fn read_the_future(history: &mut [Op], dice: &mut Dice) -> bool {
    let mut seen = seen_writes(history);
    seen.retain(|(write, _)| history[*write].called >= 2);
    let Some((write, read)) = dice.pick(&seen) else { return false };
    let before = history[write].called - 1;
    (history[read].called, history[read].returned) = (before - 1, before);
    true
}

fn let_it_win(history: &mut [Op], dice: &mut Dice) -> bool {
    let held = places(history, |op| match &op.what {
        What::Write(Write {
            condition: Condition::VersionIs(wanted),
            told: Told::Held { current, place },
            ..
        }) => (*current != Some(*wanted)).then_some(*place),
        _ => None,
    });
    let Some((at, place)) = dice.pick(&held) else { return false };
    write_of(&mut history[at]).told = Told::Done(place);
    true
}

fn hold_it_back(history: &mut [Op], dice: &mut Dice) -> bool {
    let won = places(history, |op| match &op.what {
        What::Write(Write { condition: Condition::VersionIs(version), told: Told::Done(place), .. }) => {
            Some((*version, *place))
        }
        _ => None,
    });
    let Some((at, (version, place))) = dice.pick(&won) else { return false };
    write_of(&mut history[at]).told = Told::Held { current: Some(version), place };
    true
}

fn hide_from_get(history: &mut [Op], dice: &mut Dice) -> bool {
    let shown = places(history, |op| match &op.what {
        What::Get(Get { key, told: Some(Sight { found: Some(_), .. }), .. }) => {
            (!may_be_explained(history, key, is_delete)).then_some(())
        }
        _ => None,
    });
    let Some((at, ())) = dice.pick(&shown) else { return false };
    sight_of(&mut history[at]).found = None;
    true
}

fn hide_from_list(history: &mut [Op], dice: &mut Dice) -> bool {
    let mut shown: Vec<(usize, usize)> = Vec::new();
    for (at, op) in history.iter().enumerate() {
        let What::List(List { told: Some(listing), .. }) = &op.what else { continue };
        let keys = listing.keys.iter().enumerate();
        let certain = keys.filter(|(_, (key, _))| !may_be_explained(history, key, is_delete));
        shown.extend(certain.map(|(number, _)| (at, number)));
    }
    let Some((at, number)) = dice.pick(&shown) else { return false };
    listing_of(&mut history[at]).keys.remove(number);
    true
}

fn listing_of(op: &mut Op) -> &mut Listing {
    match &mut op.what {
        What::List(List { told: Some(listing), .. }) => listing,
        other => panic!("not an answered list: {other:?}"),
    }
}

fn list_an_old_version(history: &mut [Op], dice: &mut Dice) -> bool {
    let mut choices: Vec<(usize, usize, u64)> = Vec::new();
    for (at, op) in history.iter().enumerate() {
        let What::List(List { told: Some(listing), .. }) = &op.what else { continue };
        for (number, (key, version)) in listing.keys.iter().enumerate() {
            if may_be_explained(history, key, |_| true) {
                continue;
            }
            let puts = history.iter().filter_map(put_done).filter(|(written, ..)| *written == key);
            let older = puts.map(|(_, found, _)| found.version).filter(|older| older < version);
            choices.extend(older.map(|older| (at, number, older)));
        }
    }
    let Some((at, number, older)) = dice.pick(&choices) else { return false };
    listing_of(&mut history[at]).keys[number].1 = older;
    true
}

/// A key that a read found absent is shown as it was before.
fn resurrect(history: &mut [Op], dice: &mut Dice) -> bool {
    let mut choices: Vec<(usize, Found)> = Vec::new();
    for (at, op) in history.iter().enumerate() {
        let What::Get(Get { key, told: Some(Sight { found: None, place }), .. }) = &op.what else { continue };
        let puts = history.iter().filter_map(put_done).filter(|(written, ..)| *written == key);
        let older = puts.map(|(_, found, _)| found).filter(|found| found.version < place.index);
        choices.extend(older.map(|found| (at, found)));
    }
    let Some((at, found)) = dice.pick(&choices) else { return false };
    sight_of(&mut history[at]).found = Some(found);
    true
}

fn lower_a_term(history: &mut [Op], dice: &mut Dice) -> bool {
    let done = places(history, |op| put_done(op).map(|(.., place)| place));
    let Some(first) = done.iter().map(|(_, place)| place.index).min() else { return false };
    let later: Vec<_> = done.into_iter().filter(|(_, place)| place.index > first).collect();
    let Some((at, place)) = dice.pick(&later) else { return false };
    write_of(&mut history[at]).told = Told::Done(Place { term: 0, ..place });
    true
}

fn read_of(op: &Op) -> Option<()> {
    matches!(op.what, What::Get(_)).then_some(())
}

/// A read becomes one at the end that finds what another one found, under a new version.
fn apply_again(history: &mut [Op], dice: &mut Dice) -> bool {
    let (reads, all) = (places(history, found_by), places(history, read_of));
    let (Some((at, found)), Some((other, ()))) = (dice.pick(&reads), dice.pick(&all)) else { return false };
    if at == other {
        return false;
    }
    let index = history.iter().filter_map(Op::place).map(|place| place.index).max().unwrap_or(0) + 100;
    let end = history.iter().map(|op| op.returned).max().unwrap_or(0);
    let mut again = history[at].clone();
    (again.called, again.returned) = (end + 1, end + 2);
    let term = sight_of(&mut again).place.term;
    let found = Some(Found { version: index, ..found });
    *sight_of(&mut again) = Sight { found, place: Place { index, term } };
    history[other] = again;
    true
}

fn delete_nothing(history: &mut [Op], dice: &mut Dice) -> bool {
    let held = places(history, |op| match &op.what {
        What::Write(Write {
            key, change: Change::Delete, told: Told::Held { current: None, place }, ..
        }) => (!may_be_explained(history, key, |change| !is_delete(change))).then_some(*place),
        _ => None,
    });
    let Some((at, place)) = dice.pick(&held) else { return false };
    write_of(&mut history[at]).told = Told::Done(place);
    true
}

fn ask_for_more(history: &mut [Op], dice: &mut Dice) -> bool {
    let stale = places(history, |op| match &op.what {
        What::Get(Get { freshness: Freshness::Stale { .. }, told: Some(sight), .. }) => Some(sight.place),
        _ => None,
    });
    let Some((at, place)) = dice.pick(&stale) else { return false };
    if let What::Get(get) = &mut history[at].what {
        get.freshness = Freshness::Stale { min_index: place.index + 1 };
    }
    true
}
