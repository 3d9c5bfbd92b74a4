//! The search: depth first, by two threads, over every state inside a bound, until nothing is left.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

use termgate::raft::effect::RoleKind;

use crate::bounds::{Bound, Rates};
use crate::tables::{Desk, Kind, Plain, Reached, Tables};
use crate::world::{Action, Stop, World};

/// How the search over one bound ended.
#[derive(Debug)]
pub struct Found {
    pub states: u64,
    pub transitions: u64,
    /// Worlds that were found and not looked at; zero is the fixpoint.
    pub pending: usize,
    /// The longest path that the search walked.
    pub depth: u32,
    pub stations: usize,
    pub letters: usize,
    pub steps: usize,
    pub took: Duration,
    pub reached: Reached,
    /// The first broken property that was found.
    pub broken: Option<String>,
}

const SHARDS: usize = 256;

/// Every print that was seen.
pub struct Seen(Vec<Mutex<HashSet<u128, Plain>>>);

impl Seen {
    pub fn new() -> Self {
        Self((0..SHARDS).map(|_| Mutex::default()).collect())
    }

    /// Whether `print` is new.
    pub fn insert(&self, print: u128) -> bool {
        let shard = (print >> 120) as usize % SHARDS;
        self.0[shard].lock().expect("nobody panics here").insert(print)
    }
}

struct Search<'a> {
    tables: &'a Tables,
    seen: Seen,
    /// Work that a thread gave away because another had none.
    spare: Mutex<Vec<Vec<(World, u32)>>>,
    given: Condvar,
    threads: usize,
    idle: AtomicUsize,
    stop: AtomicBool,
    states: AtomicU64,
    transitions: AtomicU64,
    depth: AtomicU64,
    pending: AtomicUsize,
    steps: AtomicUsize,
    reached: Mutex<Reached>,
    broken: Mutex<Option<String>>,
    most: u64,
}

/// Searches all of `bound`, or until a property breaks or more than `most` states were found.
pub fn search(tables: &Tables, threads: usize, most: u64) -> Found {
    let started = Instant::now();
    let search = Search {
        tables,
        seen: Seen::new(),
        spare: Mutex::default(),
        given: Condvar::new(),
        threads,
        idle: AtomicUsize::new(0),
        stop: AtomicBool::new(false),
        states: AtomicU64::new(0),
        transitions: AtomicU64::new(0),
        depth: AtomicU64::new(0),
        pending: AtomicUsize::new(0),
        steps: AtomicUsize::new(0),
        reached: Mutex::default(),
        broken: Mutex::default(),
        most,
    };
    let mut desk = Desk::new(tables);
    let roots = roots(&mut desk);
    let new: Vec<_> = roots.into_iter().filter(|root| search.seen.insert(root.print(&desk))).collect();
    search.states.store(new.len() as u64, Relaxed);
    search.spare.lock().expect("nobody panics here").push(new.into_iter().map(|root| (root, 0)).collect());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| search.work());
        }
    });
    Found {
        states: search.states.into_inner(),
        transitions: search.transitions.into_inner(),
        pending: search.pending.into_inner(),
        depth: search.depth.into_inner() as u32,
        stations: tables.stations.count(),
        letters: tables.letters.count(),
        steps: search.steps.into_inner(),
        reached: search.reached.into_inner().expect("nobody panics here"),
        took: started.elapsed(),
        broken: search.broken.into_inner().expect("nobody panics here"),
    }
}

/// How many worlds a thread keeps before it gives some away.
const ENOUGH: usize = 64;
/// How many new worlds a thread finds before it says so.
const MANY: u64 = 10_000;

impl Search<'_> {
    fn work(&self) {
        let mut desk = Desk::new(self.tables);
        let (mut stack, mut actions): (Vec<(World, u32)>, Vec<Action>) = (Vec::new(), Vec::new());
        let (mut deepest, mut count, mut new): (u32, u64, u64) = (0, 0, 0);
        while let Some((world, depth)) = stack.pop().or_else(|| self.fetch(&mut stack)) {
            deepest = deepest.max(depth);
            desk.see(&world);
            actions.clear();
            world.actions(&desk, &mut actions);
            for action in actions.iter().copied() {
                for end in moves(&world, action, &mut desk) {
                    match end {
                        Ok(next) => {
                            count += 1;
                            if self.seen.insert(next.print(&desk)) {
                                new += 1;
                                stack.push((next, depth + 1));
                            }
                        }
                        Err(text) => {
                            let mut broken = self.broken.lock().expect("nobody panics here");
                            broken.get_or_insert(text);
                            self.stop.store(true, Relaxed);
                        }
                    }
                }
            }
            if new > MANY {
                self.states.fetch_add(std::mem::take(&mut new), Relaxed);
            }
            if self.stop.load(Relaxed) || self.states.load(Relaxed) > self.most {
                self.stop.store(true, Relaxed);
                break;
            }
            if stack.len() > ENOUGH && self.idle.load(Relaxed) > 0 {
                self.give(&mut stack);
            }
        }
        self.given.notify_all();
        self.states.fetch_add(new, Relaxed);
        self.steps.fetch_max(desk.step_count(), Relaxed);
        let mut reached = self.reached.lock().expect("nobody panics here");
        *reached = reached.with(desk.reached);
        drop(reached);
        self.pending.fetch_add(stack.len(), Relaxed);
        self.transitions.fetch_add(count, Relaxed);
        self.depth.fetch_max(u64::from(deepest), Relaxed);
    }

    /// Waits for work of others. None when nobody has any.
    fn fetch(&self, stack: &mut Vec<(World, u32)>) -> Option<(World, u32)> {
        let mut spare = self.spare.lock().expect("nobody panics here");
        self.idle.fetch_add(1, Relaxed);
        loop {
            if let Some(work) = spare.pop() {
                self.idle.fetch_sub(1, Relaxed);
                *stack = work;
                if let Some(next) = stack.pop() {
                    return Some(next);
                }
                self.idle.fetch_add(1, Relaxed);
            }
            if self.idle.load(Relaxed) == self.threads || self.stop.load(Relaxed) {
                self.given.notify_all();
                return None;
            }
            spare = self.given.wait(spare).expect("nobody panics here");
        }
    }

    /// Gives the older half away: the parts of the search that are furthest from done.
    fn give(&self, stack: &mut Vec<(World, u32)>) {
        let mut spare = self.spare.lock().expect("nobody panics here");
        if spare.is_empty() {
            let young = stack.split_off(stack.len() / 2);
            spare.push(std::mem::replace(stack, young));
            self.given.notify_one();
        }
    }
}

/// Where `action` leads. When too much is on its way then, something gets lost, in every possible way. What is
/// never delivered is as good as lost, so to lose more would add no state of the nodes.
pub fn moves(world: &World, action: Action, desk: &mut Desk) -> Vec<Result<World, String>> {
    match world.after(action, desk) {
        Ok(next) => match next.excess(desk) {
            0 => vec![Ok(next)],
            excess => next.lighter(excess).into_iter().map(Ok).collect(),
        },
        Err(Stop::Broken(text)) => vec![Err(text)],
        Err(Stop::Outside) => Vec::new(),
    }
}

/// Where a search begins.
pub fn roots(desk: &mut Desk) -> Vec<World> {
    let bound: &Bound = desk.bound();
    let rates = if bound.time.rates.is_empty() { &[[0; 3]] } else { bound.time.rates };
    rates.iter().map(|rates| if bound.led { led(*rates, desk) } else { World::new(desk, *rates) }).collect()
}

/// Node 1 is elected and its no-op is known everywhere, without anything going wrong.
fn led(rates: Rates, desk: &mut Desk) -> World {
    let mut world = World::new(desk, rates);
    while let Some((_, next)) = towards_led(&world, desk) {
        world = next;
    }
    world
}

/// The next step on the way there, and where it leads.
pub fn towards_led(world: &World, desk: &mut Desk) -> Option<(Action, World)> {
    let waits = desk.bound().time.waits;
    let mut actions = Vec::new();
    if desk.facts(world.stations[0]).role == RoleKind::Follower {
        actions.extend([Action::Node(0, Kind::Timeout, waits[waits.len() - 1] as u8), Action::Tick]);
    } else {
        world.actions(desk, &mut actions);
        actions.retain(|action| matches!(action, Action::Deliver(_) | Action::Node(_, Kind::Persist, _)));
    }
    actions.into_iter().find_map(|action| Some((action, world.after(action, desk).ok()?)))
}
