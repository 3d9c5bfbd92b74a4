//! The shortest way to a broken property, step by step. The search itself keeps no paths: this walks the same
//! bound again, breadth first and with the way back kept, until the property breaks.

use std::collections::{HashSet, VecDeque};
use std::fmt::Write;

use crate::explore::{moves, roots};
use crate::tables::{Desk, Kind, Plain, Tables};
use crate::words;
use crate::world::{Action, World};

/// One state that was found: from where, by which action, and which of its ends.
struct Found {
    before: usize,
    action: Action,
    end: usize,
}

/// The way to the first broken property, if it is among the first `most` states.
pub fn shortest(tables: &Tables, most: usize) -> Option<String> {
    let mut desk = Desk::new(tables);
    let roots = roots(&mut desk);
    let mut seen: HashSet<u128, Plain> = HashSet::default();
    let mut found: Vec<Found> = Vec::new();
    let mut next: VecDeque<(World, usize)> = VecDeque::new();
    for root in &roots {
        seen.insert(root.print(&desk));
        found.push(Found { before: usize::MAX, action: Action::Tick, end: 0 });
        next.push_back((*root, found.len() - 1));
    }
    let mut actions = Vec::new();
    while let Some((world, before)) = next.pop_front() {
        actions.clear();
        world.actions(&desk, &mut actions);
        for action in actions.iter().copied() {
            for (end, result) in moves(&world, action, &mut desk).into_iter().enumerate() {
                match result {
                    Ok(after) if seen.insert(after.print(&desk)) => {
                        found.push(Found { before, action, end });
                        next.push_back((after, found.len() - 1));
                    }
                    Ok(_) => {}
                    Err(text) => {
                        let last = Found { before, action, end };
                        return Some(told(&path(&found, last), &roots, &text, &mut desk));
                    }
                }
            }
        }
        if found.len() > most {
            return None;
        }
    }
    None
}

/// The steps from a root, and which root.
fn path(found: &[Found], last: Found) -> (usize, Vec<(Action, usize)>) {
    let (mut steps, mut at) = (vec![(last.action, last.end)], last.before);
    while found[at].before != usize::MAX {
        steps.push((found[at].action, found[at].end));
        at = found[at].before;
    }
    steps.reverse();
    (at, steps)
}

fn told(path: &(usize, Vec<(Action, usize)>), roots: &[World], text: &str, desk: &mut Desk) -> String {
    let mut world = roots[path.0];
    let mut all = format!("after {} steps: {text}\n", path.1.len());
    for number in world.stations.iter().take(desk.bound().nodes) {
        let _ = writeln!(all, "      {}", words::station(desk.facts(*number)));
    }
    for (number, (action, end)) in path.1.iter().enumerate() {
        let _ = writeln!(all, "{:>4}. {}", number + 1, describe(*action, desk));
        let Some(Ok(next)) = moves(&world, *action, desk).into_iter().nth(*end) else { break };
        for (before, after) in world.stations.iter().zip(&next.stations).take(desk.bound().nodes) {
            if before != after {
                let _ = writeln!(all, "      {}", words::station(desk.facts(*after)));
            }
        }
        world = next;
    }
    all
}

fn describe(action: Action, desk: &Desk) -> String {
    match action {
        Action::Deliver(letter) => words::message(&desk.letter(letter).message),
        Action::Double(letter) => format!("sent twice: {}", words::message(&desk.letter(letter).message)),
        Action::Tick => "a tick of true time".to_owned(),
        Action::Backend(event) => format!("backend: {event:?}"),
        Action::Answer(_) => "the answer to a raise arrives".to_owned(),
        Action::Node(place, kind, number) => {
            let what = match kind {
                Kind::Timeout => "its timer is over",
                Kind::Persist => "its disk completes a write",
                Kind::Crash => "it crashes and starts again",
                Kind::Propose => "a client writes",
                Kind::Read => "a client reads",
                Kind::Admit => "a write goes through its gate",
                Kind::Tell => "its gate hears who leads",
                Kind::Promote => "the learners are to get a vote",
                Kind::Elapse | Kind::Deliver | Kind::Stall | Kind::Raised => "something happens",
            };
            format!("{}: {what} ({number})", place + 1)
        }
    }
}
