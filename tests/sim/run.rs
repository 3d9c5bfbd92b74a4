//! Runs seeds: one with its trace, or many with a table at the end.

use std::collections::BTreeMap;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crate::stats::{Stat, Stats};
use crate::world::{Disks, World};

/// How a seed ended.
#[derive(Debug)]
pub struct Ending {
    /// The hash of everything that happened.
    pub hash: u64,
    /// What went wrong, if anything.
    pub violation: Option<String>,
    /// The counters.
    pub stats: Stats,
    /// The trace, when it was wanted.
    pub trace: Vec<String>,
    /// Events that happened.
    pub events: u64,
}

/// Plays one world: a storm, then calm.
pub fn play(seed: u64, disks: Disks, traced: bool) -> Ending {
    let mut world = World::new(seed, disks, traced);
    // A panic in the core is a finding like any other; the world is looked at, not used, after it.
    let played = catch_unwind(AssertUnwindSafe(|| {
        let storm = world.params.storm;
        if world.run_until(storm) {
            world.stats.add_many(Stat::StormNanos, world.now);
            world.heal();
            world.check_whole();
            world.check_history(seed);
            let calm = world.now - storm;
            world.stats.add_many(Stat::CalmNanos, calm);
        }
    }));
    if let Err(panic) = played {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
        world.checker.fail(format!("panic: {}", text.unwrap_or_default()));
    }
    world.stats.add(Stat::Worlds);
    world.stats.add_many(Stat::Events, world.events());
    let (truncations, unknown) = (world.checker.truncations(), world.oracle.unknown_applied());
    let (led, highest) = world.checker.leader_count();
    world.stats.add_many(Stat::Truncations, truncations);
    world.stats.add_many(Stat::LeasesOverlap, world.checker.overlaps());
    world.stats.add_many(Stat::UnknownApplied, unknown);
    let (applied, absent) = world.backend.truth.unknown();
    world.stats.add_many(Stat::FencedUnknownApplied, applied);
    world.stats.add_many(Stat::FencedUnknownAbsent, absent);
    world.stats.add_many(Stat::SplitTerms, highest.0.saturating_sub(led));
    for count in world.stats.all() {
        world.fold(count);
    }
    Ending {
        hash: world.hash(),
        violation: world.checker.violation().map(str::to_owned),
        events: world.events(),
        stats: world.stats,
        trace: world.trace.into_lines(),
    }
}

/// Lines of the trace that a failing seed shows by itself.
const SHOWN: usize = 120;

/// A seed's failure, in words: what, the end of its trace, and how to see all of it.
pub fn explain(seed: u64, disks: Disks, violation: &str) -> String {
    let again = play(seed, disks, true);
    let from = again.trace.len().saturating_sub(SHOWN);
    let same = again.violation.as_deref() == Some(violation);
    let note = if same { "" } else { "\nTHE REPLAY DIFFERS: the world is not deterministic" };
    let store = if disks == Disks::Store { "STORE=1 " } else { "" };
    format!(
        "SEED={seed} fails: {violation}\n{}{note}\nSEED={seed} fails: {violation}\n\
         replay: {store}SEED={seed} TRACE=1 cargo test --release --test sim replays_one_seed -- --nocapture\n",
        again.trace[from..].join("\n"),
    )
}

/// What becomes of a run after a seed that fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AfterFailure {
    /// No later seed begins.
    Stop,
    /// The rest is run too.
    GoOn,
}

/// Seeds between two lines that say how far a run has come.
const PROGRESS: u64 = 50_000;

/// Runs `seeds` on `jobs` threads; the counters of all, and the failures in the order of their seeds.
pub fn run_all(
    seeds: &Range<u64>,
    disks: Disks,
    jobs: u64,
    after: AfterFailure,
) -> (Stats, BTreeMap<u64, String>) {
    let (next, end) = (AtomicU64::new(seeds.start), AtomicU64::new(seeds.end));
    let (all, failures, began) = (Mutex::new(Stats::new()), Mutex::new(BTreeMap::new()), Instant::now());
    let work = || {
        let mut stats = Stats::new();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= end.load(Ordering::Relaxed) {
                break all.lock().expect("no worker panics").merge(&stats);
            }
            let ending = play(seed, disks, false);
            stats.merge(&ending.stats);
            if let Some(violation) = ending.violation {
                eprintln!("SEED={seed} fails: {violation}");
                failures.lock().expect("no worker panics").insert(seed, violation);
                if after == AfterFailure::Stop {
                    end.fetch_min(seed, Ordering::Relaxed);
                }
            }
            let done = seed + 1 - seeds.start;
            if done.is_multiple_of(PROGRESS) {
                eprintln!(
                    "{done} of {} seeds, {:.0} s",
                    seeds.end - seeds.start,
                    began.elapsed().as_secs_f64()
                );
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(work);
        }
    });
    (all.into_inner().expect("no worker panics"), failures.into_inner().expect("no worker panics"))
}
