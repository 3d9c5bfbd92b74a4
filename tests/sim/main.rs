//! The deterministic simulator: whole clusters in one thread, on simulated time, from a seed.
//!
//! Each world runs the driver's own `Cycle` (core, state machine and the order of effects) for
//! every node, over a simulated network, disks, clocks, clients and a fenced backend. After every
//! step all invariants are checked. A world is a storm of faults and then calm, in which the
//! cluster has to become whole. `docs/simulator.md` explains how it works and what it is known to
//! find.
//!
//! ```text
//! cargo test --test sim                     few seeds, with the core's own assertions
//! cargo test --release --test sim           what `make test` runs: every fault must fire and matter
//! SEED=17 TRACE=1 cargo test --release --test sim replays_one_seed -- --nocapture
//! make sim SEEDS=1..100001                  many, and with GO_ON=1 past the first that fails
//! ```

mod agenda;
mod backend;
mod calm;
mod check;
mod clients;
mod clock;
mod disk;
mod exchange;
mod flash;
mod gate;
mod history;
mod hop;
mod keeper;
mod late;
mod limits;
#[path = "../checker/lin/mod.rs"]
mod lin;
mod links;
#[path = "../disk/mod.rs"]
mod medium;
#[path = "../model/mod.rs"]
mod model;
mod named;
mod nemesis;
mod net;
mod operator;
mod oracle;
mod params;
mod plays;
mod process;
mod race;
mod request;
mod rng;
mod roster;
mod run;
mod script;
mod stats;
mod tla;
mod trace;
mod truth;
mod turn;
mod whole;
mod world;

use std::collections::BTreeMap;
use std::ops::Range;
use std::process::Command;
use std::time::Instant;

use run::AfterFailure;
use stats::{Stat, Stats};
use world::Disks;

/// The simulator allocates much and on one thread; this allocator makes it faster by a fifteenth.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Seeds of the usual run. Without optimisation a fraction of them: they are run for the core's own
/// assertions, which are compiled out with it.
const USUAL_RUN: Range<u64> = if OPTIMISED { 1..20_001 } else { 1..301 };
/// Seeds of the usual run on the real store, which takes ten times as long.
const STORE_RUN: Range<u64> = if OPTIMISED { 1..2_001 } else { 1..31 };
/// Seeds that are run again, in two other processes.
const AGAIN: Range<u64> = if OPTIMISED { 1..201 } else { 1..11 };
const OPTIMISED: bool = !cfg!(debug_assertions);
/// So many seeds bring out every fault; fewer need not.
const EVERY_FAULT: u64 = 1_000;

fn env_number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.trim().parse().ok()
}

/// `a..b` (b excluded), or one number.
fn parse_seeds(text: &str) -> Option<Range<u64>> {
    match text.split_once("..") {
        Some((a, b)) => Some(a.trim().parse().ok()?..b.trim().parse().ok()?),
        None => text.trim().parse().ok().map(|a: u64| a..a + 1),
    }
}

fn report(seeds: &Range<u64>, began: Instant, stats: &Stats) -> String {
    let (count, took) = (seeds.end - seeds.start, began.elapsed().as_secs_f64());
    let simulated = (stats.get(Stat::StormNanos) + stats.get(Stat::CalmNanos)) as f64 / 1e9;
    format!(
        "{stats}\n{count} seeds in {took:.1} s: {:.0} seeds/s, {:.1} hours simulated, {:.0} x real time",
        count as f64 / took,
        simulated / 3600.0,
        simulated / took
    )
}

fn run_and_judge(seeds: &Range<u64>, disks: Disks, after: AfterFailure) {
    let began = Instant::now();
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    let jobs = env_number("JOBS").unwrap_or(cores).max(1);
    let (stats, failures) = run::run_all(seeds, disks, jobs, after);
    if let Some((seed, violation)) = failures.first_key_value() {
        panic!("{}{}", run::explain(*seed, disks, violation), list(&failures));
    }
    println!("{}", report(seeds, began, &stats));
    let zeros = stats.zeros(disks);
    assert!(
        seeds.end - seeds.start < EVERY_FAULT || zeros.is_empty(),
        "never happened, so nothing is proven about it: {zeros:#?}"
    );
}

/// Every seed that failed, when it is more than one.
fn list(failures: &BTreeMap<u64, String>) -> String {
    let lines = failures.iter().filter(|_| failures.len() > 1);
    lines.map(|(seed, violation)| format!("SEED={seed} fails: {violation}\n")).collect()
}

fn wanted_disks() -> Disks {
    if env_number("STORE").is_some_and(|n| n != 0) { Disks::Store } else { Disks::Model }
}

fn wanted_seeds() -> Range<u64> {
    let seeds = std::env::var("SEEDS").unwrap_or_else(|_| "1..20001".to_owned());
    parse_seeds(&seeds).expect("SEEDS is a number or a..b")
}

#[test]
fn holds_every_invariant_under_every_fault() {
    run_and_judge(&USUAL_RUN, Disks::Model, AfterFailure::Stop);
}

/// ST-1, ST-5, ST-8: whatever the medium does, a start finds what was acknowledged, or is refused.
#[test]
fn holds_every_invariant_on_the_real_store() {
    run_and_judge(&STORE_RUN, Disks::Store, AfterFailure::Stop);
}

#[test]
#[ignore = "long: give SEEDS=a..b"]
fn runs_many_seeds() {
    let go_on = env_number("GO_ON").is_some_and(|n| n != 0);
    let after = if go_on { AfterFailure::GoOn } else { AfterFailure::Stop };
    run_and_judge(&wanted_seeds(), wanted_disks(), after);
}

#[test]
fn replays_one_seed() {
    let Some(seed) = env_number("SEED") else { return };
    let traced = env_number("TRACE").is_some_and(|n| n != 0);
    let ending = run::play(seed, wanted_disks(), traced);
    for line in &ending.trace {
        println!("{line}");
    }
    println!("SEED={seed} {} events, hash {:016x}", ending.events, ending.hash);
    if let Some(violation) = ending.violation {
        panic!("SEED={seed} fails: {violation}");
    }
}

/// Of each seed, on the model and, of the first few, on the store.
fn hashes(seeds: Range<u64>, traced: bool) -> String {
    let hash = |seed, disks| format!("seed {seed} {disks:?} {:016x}\n", run::play(seed, disks, traced).hash);
    let few = seeds.start..seeds.start + (seeds.end - seeds.start) / 10;
    let store = few.map(|seed| hash(seed, Disks::Store));
    seeds.map(|seed| hash(seed, Disks::Model)).chain(store).collect()
}

#[test]
#[ignore = "what the other processes do"]
fn prints_the_hashes_of_seeds() {
    println!("{}", hashes(wanted_seeds(), true));
}

/// Addresses, hash keys, the environment and whether somebody watches: nothing of it decides anything.
#[test]
fn a_seed_is_the_same_world_in_every_process() {
    let here = hashes(AGAIN, false);
    for (name, value) in [("TZ", "Asia/Tokyo"), ("SIM_PADDING", &"x".repeat(5_000))] {
        let program = std::env::current_exe().expect("a test knows its program");
        let output = Command::new(program)
            .args(["--exact", "prints_the_hashes_of_seeds", "--ignored", "--nocapture"])
            .env_clear()
            .env(name, value)
            .env("SEEDS", format!("{}..{}", AGAIN.start, AGAIN.end))
            .output()
            .expect("the program runs again");
        let text = String::from_utf8(output.stdout).expect("the program writes text");
        let there: String =
            text.lines().filter(|l| l.starts_with("seed ")).map(|l| format!("{l}\n")).collect();
        assert_eq!(here, there, "a seed went two ways");
    }
}
