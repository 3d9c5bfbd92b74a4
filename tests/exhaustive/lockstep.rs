//! Is a canonical form right to stand for a state? Random walks through a bound, taken twice: once as the
//! search takes them, and once with the true nodes, messages and numbers. After every step both must be at the
//! same place. Where nodes may be renamed, the walk is taken a third time under other names.
//!
//! This is also what notices a core that looks at what the search takes for meaningless: a session or a ballot
//! that is over (M7, V4), a number that is compared otherwise than by distance.

use crate::backend::Event as BackendEvent;
use crate::bounds::Bound;
use crate::dice::Dice;
use crate::explore::{moves, towards_led};
use crate::mail::{self, Marks};
use crate::station::{Local, Station};
use crate::tables::{Desk, Kind, Tables, form};
use crate::world::{Action, World};

use termgate::raft::effect::RoleKind;
use termgate::raft::message::Message;

/// A world of true nodes and messages.
struct True {
    stations: Vec<Station>,
    net: Vec<(Message, usize)>,
}

impl True {
    fn marks(&self, place: usize, bound: &Bound) -> Marks {
        let (stream, of_node) = form(&self.stations[place], bound);
        Marks::of(&self.stations[place], &stream, of_node, bound)
    }

    /// What the search would take a message for.
    fn letter(&self, message: &Message, tables: &Tables) -> u32 {
        let owner = mail::owner(message).map(|(owner, _)| owner);
        tables.letter(owner.map_or_else(
            || message.clone(),
            |owner| mail::relative(message, &self.marks(owner, &tables.bound)),
        ))
    }

    fn happen(&mut self, place: usize, local: &Local, desk: &Desk) {
        let turn = self.stations[place].turn(local, desk.bound());
        if *local == Local::Crash {
            self.net.retain(|(message, waits)| *waits == 0 || message.from.0 as usize != place + 1);
        }
        if *local == Local::Persist {
            let held = self.net.iter_mut().filter(|(message, _)| message.from.0 as usize == place + 1);
            held.for_each(|(_, waits)| *waits = waits.saturating_sub(1));
        }
        self.stations[place] = turn.station;
        if desk.bound().winners_resign && self.stations[place].node.leadership().role == RoleKind::Leader {
            return self.happen(place, &Local::Stall, desk);
        }
        self.net.extend(turn.sends);
    }

    /// The same that `action` does to the numbers of `before`.
    fn follow(&mut self, action: Action, before: &World, desk: &Desk) {
        match action {
            Action::Deliver(letter) => {
                let at = self.find(letter, desk);
                let (message, _) = self.net.remove(at);
                self.happen(message.to.0 as usize - 1, &Local::Deliver(Box::new(message)), desk);
            }
            Action::Double(letter) => {
                let at = self.find(letter, desk);
                self.net.push(self.net[at].clone());
            }
            Action::Node(place, kind, number) => {
                self.happen(place as usize, &local(kind, number), desk);
            }
            Action::Tick => {
                let rates = before.record.rates.into_iter().enumerate();
                rates.for_each(|(place, rate)| self.happen(place, &Local::Elapse(u64::from(rate)), desk));
            }
            Action::Answer(at) => {
                let answer = desk.tables.backend_at(before.backend).answers()[at as usize];
                if self.stations[answer.place].boot == answer.boot {
                    self.happen(answer.place, &Local::Raised(answer.term), desk);
                }
            }
            Action::Backend(_) => {}
        }
    }

    fn find(&self, letter: u32, desk: &Desk) -> usize {
        let same =
            |(message, waits): &(Message, usize)| *waits == 0 && self.letter(message, desk.tables) == letter;
        self.net.iter().position(same).expect("what is on its way there is on its way here")
    }

    /// Holds this against `world`, and forgets what got lost there.
    fn compare(&mut self, world: &World, desk: &mut Desk) {
        for (station, number) in self.stations.iter().zip(&world.stations) {
            let (found, wanted) =
                (form(station, desk.bound()).0, form(&desk.facts(*number).station, desk.bound()).0);
            let differs = found.words.iter().zip(&wanted.words).position(|(a, b)| a != b);
            assert!(
                differs.is_none() && found.words.len() == wanted.words.len(),
                "a node differs from the one that stands for it, at word {differs:?} of its canonical form:\n{:?}\n{:?}",
                station.node,
                desk.facts(*number).station.node,
            );
        }
        let mut rest: Vec<(u32, usize)> = world.net().collect();
        let net = std::mem::take(&mut self.net);
        let kept = net.into_iter().filter(|(message, waits)| {
            let letter = (self.letter(message, desk.tables), *waits);
            rest.iter().position(|item| *item == letter).map(|at| rest.swap_remove(at)).is_some()
        });
        let kept = kept.collect();
        assert!(rest.is_empty(), "a message differs from the one that stands for it");
        self.net = kept;
    }
}

fn local(kind: Kind, number: u8) -> Local {
    match kind {
        Kind::Timeout => Local::Timeout(u64::from(number)),
        Kind::Elapse => Local::Elapse(u64::from(number)),
        Kind::Persist => Local::Persist,
        Kind::Crash => Local::Crash,
        Kind::Propose => Local::Propose(number),
        Kind::Read => Local::Read(number),
        Kind::Stall => Local::Stall,
        Kind::Admit => Local::Admit,
        Kind::Tell => Local::Tell,
        Kind::Promote => Local::Promote,
        Kind::Deliver | Kind::Raised => unreachable!("no action of a node alone"),
    }
}

/// Takes `walks` walks of at most `steps` steps. Returns how many steps were compared.
pub fn walk(tables: &Tables, walks: u64, steps: usize) -> usize {
    let mut desk = Desk::new(tables);
    let mut taken = 0;
    for seed in 1..=walks {
        let mut rng = Dice(seed);
        let rates = tables.bound.time.rates;
        let rates = rates.get(rng.below(rates.len().max(1))).copied().unwrap_or_default();
        let mut world = World::new(&mut desk, rates);
        let stations = (0..tables.bound.nodes).map(|place| Station::first(place, &tables.bound)).collect();
        let mut truth = True { stations, net: Vec::new() };
        let mut other = Renamed::new(&world, &mut rng, &desk);
        let mut calm = tables.bound.led;
        for _ in 0..steps {
            let first = if calm { towards_led(&world, &mut desk) } else { None };
            calm = first.is_some();
            let Some((action, next)) = first.or_else(|| choose(&world, &mut rng, &mut desk)) else { break };
            truth.follow(action, &world, &desk);
            truth.compare(&next, &mut desk);
            other.follow(action, &next, calm, &mut desk);
            world = next;
            taken += 1;
        }
    }
    taken
}

/// One of the actions that lead somewhere, and where.
fn choose(world: &World, rng: &mut Dice, desk: &mut Desk) -> Option<(Action, World)> {
    let mut left = Vec::new();
    world.actions(desk, &mut left);
    while !left.is_empty() {
        let action = left.swap_remove(rng.below(left.len()));
        // Crashes use up what there is of them at once, were they as likely as all else.
        let is_rare =
            matches!(action, Action::Node(_, Kind::Crash, _) | Action::Backend(BackendEvent::Crash));
        if is_rare && rng.below(8) > 0 {
            continue;
        }
        let mut ends: Vec<World> = moves(world, action, desk).into_iter().filter_map(Result::ok).collect();
        if !ends.is_empty() {
            return Some((action, ends.swap_remove(rng.below(ends.len()))));
        }
    }
    None
}

/// The same walk under other names.
struct Renamed {
    world: World,
    n: usize,
}

impl Renamed {
    fn new(world: &World, rng: &mut Dice, desk: &Desk) -> Self {
        let bound = desk.bound();
        // Where nodes begin differently, other names would make another beginning.
        let alike = bound.start.iter().take(bound.nodes).all(|start| *start == bound.start[0]);
        let count = if alike { desk.tables.renamings.len() } else { 1 };
        let n = rng.below(count.max(1));
        let mut world = *world;
        if let Some(renaming) = desk.tables.renamings.get(n) {
            let rates = world.record.rates;
            let moved = rates.iter().zip(renaming).filter(|_| !bound.time.rates.is_empty());
            moved.for_each(|(rate, place)| world.record.rates[*place] = *rate);
        }
        Self { world, n }
    }

    /// `calm`: nothing gets lost, however much is on its way.
    fn follow(&mut self, action: Action, next: &World, calm: bool, desk: &mut Desk) {
        let Some(renaming) = desk.tables.renamings.get(self.n) else { return };
        let print_here = |letter: u32, desk: &Desk| desk.letter(letter).prints[self.n];
        let find = |letter: u32, desk: &Desk| {
            let wanted = print_here(letter, desk);
            let same = |(other, _): &(u32, usize)| desk.letter(*other).prints[0] == wanted;
            self.world.net().find(same).expect("the same message under other names").0
        };
        let action = match action {
            Action::Deliver(letter) => Action::Deliver(find(letter, desk)),
            Action::Double(letter) => Action::Double(find(letter, desk)),
            Action::Node(place, kind, number) => Action::Node(renaming[place as usize] as u8, kind, number),
            Action::Tick => action,
            other => unreachable!("{other:?}, where nodes can be renamed"),
        };
        let ends: Vec<World> = if calm {
            self.world.after(action, desk).into_iter().collect()
        } else {
            moves(&self.world, action, desk).into_iter().filter_map(Result::ok).collect()
        };
        let same = ends.into_iter().find(|end| end.print_as(desk, 0) == next.print_as(desk, self.n));
        self.world = same.expect("the same world under other names");
        assert_eq!(self.world.print(desk), next.print(desk), "one print stands for both");
    }
}
