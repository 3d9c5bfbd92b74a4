//! Names of nodes do not matter where all nodes are alike: a state and the same with its nodes renamed have
//! the same futures, renamed. Of all renamings that a bound allows, the least print stands for the state.
//!
//! Renaming a canonical form: each `NodeId` in it is replaced, and what is kept by `NodeId` (a set, a map, a
//! list of pairs) is put in the order of the new names. Such a collection shows in the stream as a length with
//! a `NodeId` behind it, and each of its entries begins with one. They are of one size, except what a leader
//! knows of the others: that map comes last of all that a node is made of.

use termgate::ids::{NodeId, Session};

use crate::bounds::Bound;
use crate::canon::{END, is_length, kind_of, print_of};
use crate::world::MAX_NODES;

/// The new place of each place.
pub type Renaming = Vec<usize>;

/// The renamings under which a bound does not change, the one that renames nothing first; none where places
/// mean something.
pub fn of(bound: &Bound) -> Vec<Renaming> {
    // What is on its way to the backend knows nodes by their places.
    if bound.backend.is_some() {
        return Vec::new();
    }
    // Voters and learners stay among themselves.
    let votes = |place: usize| place < bound.voters();
    let keeps = |all: &Renaming| (0..bound.nodes).all(|place| votes(place) == votes(all[place]));
    all_renamings(bound.nodes).into_iter().filter(keeps).collect()
}

fn all_renamings(nodes: usize) -> Vec<Renaming> {
    let mut all = vec![Vec::new()];
    for _ in 0..nodes {
        let longer = |start: &Renaming| {
            let free = (0..nodes).filter(|place| !start.contains(place));
            free.map(|place| [start.as_slice(), &[place]].concat()).collect::<Vec<_>>()
        };
        all = all.iter().flat_map(longer).collect();
    }
    all
}

/// The print of a canonical form under every renaming; at least the one that renames nothing.
pub fn prints(words: &[u128], renamings: &[Renaming]) -> Vec<u128> {
    if renamings.is_empty() {
        return vec![print_of(words.iter().copied())];
    }
    renamings.iter().map(|renaming| print_of(renamed(words, renaming).into_iter())).collect()
}

/// What a canonical form and its renamed ones have in common.
pub fn colour(prints: &[u128]) -> u64 {
    prints.iter().fold(0u128, |sum, print| sum.wrapping_add(*print)) as u64
}

/// Whether a renaming puts nodes of these colours in order, voters and learners among themselves; `from` is its
/// inverse. Some renaming does, and a renamed world allows the same results: it is enough to look at these.
/// Where all colours differ that is one of 120.
pub fn is_in_order(colours: &[u64; MAX_NODES], from: &[usize], bound: &Bound) -> bool {
    let voters = bound.voters();
    (1..bound.nodes).all(|at| at == voters || colours[from[at - 1]] <= colours[from[at]])
}

/// Where what `renaming` puts at each place comes from.
pub fn inverse(renaming: &[usize]) -> Renaming {
    let from = |place| renaming.iter().position(|to| *to == place).expect("every place is one's");
    (0..renaming.len()).map(from).collect()
}

fn renamed(words: &[u128], renaming: &Renaming) -> Vec<u128> {
    let rename = |word: &u128| match kind_of(*word) {
        NodeId::KIND => NodeId::KIND | (renaming[*word as u64 as usize - 1] + 1) as u128,
        _ => *word,
    };
    let mut all: Vec<u128> = words.iter().map(rename).collect();
    let mut at = 0;
    while at + 1 < all.len() {
        let count = all[at] as u64 as usize;
        if is_length(all[at]) && count > 0 && kind_of(all[at + 1]) == NodeId::KIND {
            let entries = entries(&all[at + 1..], count);
            let size = entries.iter().map(Vec::len).sum::<usize>();
            all[at + 1..=at + size].copy_from_slice(&entries.concat());
            at += size;
        }
        at += 1;
    }
    all
}

/// The `count` entries at the beginning of `words`, in order.
fn entries(words: &[u128], count: usize) -> Vec<Vec<u128>> {
    let starts = |word: &u128| kind_of(*word) == NodeId::KIND;
    let of_leader = words.get(1).is_some_and(|word| kind_of(*word) == Session::KIND);
    let rest = if of_leader { words.iter().position(|word| *word == END) } else { None };
    let mut heads: Vec<usize> = (0..words.len()).filter(|at| starts(&words[*at])).take(count).collect();
    assert_eq!(heads.len(), count, "each entry begins with a name");
    let size = heads.get(1).map_or(1, |second| second - heads[0]);
    heads.push(rest.unwrap_or(count * size));
    let mut entries: Vec<Vec<u128>> = heads.windows(2).map(|ends| words[ends[0]..ends[1]].to_vec()).collect();
    assert!(of_leader || entries.iter().all(|entry| entry.len() == size), "entries of one size");
    entries.sort_unstable();
    entries
}
