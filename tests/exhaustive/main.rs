//! The exhaustive check: every state of the real core inside a bound, until no new one is left.
//!
//! ```text
//! cargo test --test exhaustive            small bounds, and whether a canonical form may stand for a state
//! make model                              all bounds of docs/exhaustive.md
//! make model BOUND=lease                  the bound of that name, or those with that word in theirs
//! make model MUTANTS=1                    does each known bug show where it has to?
//! ```
//!
//! | file | idea |
//! |---|---|
//! | `canon` | when two states are the same, and why |
//! | `symmetry` | the same under other names |
//! | `station` | one node, its disk and its gate: what happens there, with the real core |
//! | `mail` | messages on their way, and what their numbers mean to whom |
//! | `tables` | each different station, message and step once, under a number |
//! | `world` | a state: numbers of stations, what is on its way, what has happened |
//! | `check` | what must hold in every state |
//! | `backend` | the resource behind the fence |
//! | `bounds` | how far, and from where |
//! | `explore` | the search |
//! | `trace` | the shortest way to what the search has found |
//! | `lockstep` | random walks with the true numbers beside the canonical ones |
//!
//! What is left out, because no bound has it: transfers, snapshots, changes that take a vote away, wiped disks,
//! and several inputs before effects are drained. The simulator has all of them.

mod backend;
mod bounds;
mod canon;
mod check;
#[path = "../support/dice.rs"]
mod dice;
mod explore;
mod lockstep;
mod mail;
mod station;
mod symmetry;
mod tables;
mod trace;
mod words;
mod world;

use bounds::Bound;
use explore::Found;
use tables::Tables;

const THREADS: usize = 2;
/// States among which the shortest way is looked for.
const TRACED: usize = 3_000_000;
/// States of a bound among which a planted bug is looked for, unless `STATES` says otherwise.
const HUNTED: u64 = 3_000_000;

/// Searches one bound to its end and prints its row.
fn reach_the_fixpoint(bound: Bound) -> Found {
    let tables = Tables::new(bound);
    let found = explore::search(&tables, THREADS, u64::MAX);
    let name = tables.bound.name;
    println!(
        "| {name} | {} | {} | {} | {} | {} | {} | {} | {:.0} | {} |",
        found.states,
        found.transitions,
        found.pending,
        found.depth,
        found.stations,
        found.letters,
        found.steps,
        found.took.as_secs_f64(),
        peak(),
    );
    if let Some(text) = &found.broken {
        let way = trace::shortest(&tables, TRACED);
        let way = way.unwrap_or_else(|| format!("{text}\n(no shorter way among the first {TRACED} states)"));
        panic!("{name}, after {} states: {way}", found.states);
    }
    assert_eq!(found.pending, 0, "{name}: the search ended before its fixpoint");
    was_there(&tables.bound, &found);
    found
}

/// A bound in which nothing happens holds everything.
fn was_there(bound: &Bound, found: &Found) {
    let (name, reached) = (bound.name, &found.reached);
    assert_eq!(reached.led, bound.terms, "{name}: somebody led in the last term");
    assert!(bound.winners_resign || reached.committed > 0, "{name}: something was committed");
    assert!(bound.reads == 0 || reached.served, "{name}: a read was served");
    assert!(bound.time.rates.is_empty() || reached.leased, "{name}: a lease held");
    assert!(bound.learners == 0 || reached.settled, "{name}: the membership changed");
    assert!(
        bound.backend.is_none() || (reached.stamped && reached.landed > 0),
        "{name}: a write took effect"
    );
}

fn head() {
    println!("| bound | states | transitions | pending | depth | nodes | messages | steps | seconds | MiB |");
    println!("|---|---|---|---|---|---|---|---|---|---|");
}

/// The most memory that this process has had, in MiB; of a process that searches several bounds, so far.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) / 1024
}

#[test]
fn small_bounds_reach_their_fixpoint() {
    head();
    bounds::quick().into_iter().for_each(|bound| drop(reach_the_fixpoint(bound)));
}

#[test]
#[ignore = "minutes and gigabytes: `make model`"]
fn every_bound_reaches_its_fixpoint() {
    let word = std::env::var("BOUND").unwrap_or_default();
    head();
    let open = if word.is_empty() { Vec::new() } else { bounds::open() };
    let chosen = named(&word, bounds::all().into_iter().chain(open).collect());
    assert!(!chosen.is_empty(), "no bound has {word} in its name");
    let states: u64 = chosen.into_iter().map(|bound| reach_the_fixpoint(bound).states).sum();
    println!("\n{states} states together");
    assert!(!word.is_empty() || states >= 100_000_000, "the bounds are wide enough for 100 million states");
}

/// The bound of this name; without one, those with the word in theirs.
fn named(word: &str, bounds: Vec<Bound>) -> Vec<Bound> {
    let is_name = bounds.iter().any(|bound| bound.name == word);
    let fits = |bound: &Bound| if is_name { bound.name == word } else { bound.name.contains(word) };
    bounds.into_iter().filter(fits).collect()
}

/// For a core with a bug in it: which bound shows it first, and how soon. By one thread, so that the numbers
/// come again. `tests/mutants/model.rs` reads what this says.
#[test]
#[ignore = "for a core with a bug in it: `make model MUTANTS=1`"]
fn some_bound_shows_the_bug() {
    let word = std::env::var("BOUND").unwrap_or_default();
    let most = std::env::var("STATES").map_or(HUNTED, |text| text.parse().expect("STATES is a number"));
    let all = bounds::quick().into_iter().chain(bounds::all()).chain(bounds::open());
    for bound in named(&word, all.collect()) {
        let tables = Tables::new(bound);
        let found = explore::search(&tables, 1, most);
        if let Some(text) = found.broken {
            let way = trace::shortest(&tables, TRACED).unwrap_or(text);
            println!("| {} | {} | {way}", bound.name, found.states);
            return;
        }
    }
    panic!("not found among {most} states of any bound");
}

#[test]
fn a_canonical_form_stands_for_a_state() {
    for bound in bounds::all().into_iter().chain(bounds::open()) {
        let name = bound.name;
        let bound = Bound { crashes: bound.crashes.max(1), ..bound };
        let steps = lockstep::walk(&Tables::new(bound), 25, 150);
        assert!(steps > 300, "{name}: only {steps} steps were compared");
    }
}
