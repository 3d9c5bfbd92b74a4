//! Clients of a campaign: each writes in a loop and notes every write it tried with what it was told.
//!
//! A third of them roam between the nodes; the others stay with one node each. If all roamed, a node
//! that holds its requests would in the end hold every client, and the run would show a gap that no
//! user of the other nodes sees.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::dice::Dice;
use super::http::{Answer, Connection, Failure};
use super::verdict::{Outcome, Write};

/// A node that accepts no connection within this is down.
const CONNECT_LIMIT: Duration = Duration::from_millis(500);

/// Reads what an answer to a write says about its outcome: the status, or else the field
/// `Termgate-Outcome` and the problem's `outcome`, which must agree.
pub fn read_outcome(answer: &Answer) -> Outcome {
    let body = answer.json();
    if answer.status == 201 {
        return match (body["seq"].as_u64(), body["term"].as_u64()) {
            (Some(seq), Some(term)) => Outcome::Acknowledged { seq, term },
            _ => Outcome::Unstated(format!("201 {}", answer.text())),
        };
    }
    let problem = body["type"].as_str().unwrap_or("").rsplit(':').next().unwrap_or("").to_string();
    let reason = format!("{} {problem}", answer.status);
    let field = answer.field("termgate-outcome");
    match (field, body["outcome"].as_str()) {
        (Some(field), Some(outcome)) if field != outcome => {
            Outcome::Unstated(format!("{reason}: the field says {field}, the body {outcome}"))
        }
        (Some("not-applied"), _) | (None, Some("not-applied")) => Outcome::NotApplied(reason),
        (Some("unknown"), _) | (None, Some("unknown")) => Outcome::Unknown(reason),
        _ => Outcome::Unstated(format!("{} {}", answer.status, answer.text())),
    }
}

/// How a client works.
#[derive(Debug, Clone)]
pub struct Habits {
    /// Nodes and their proxies.
    pub nodes: Vec<(u64, SocketAddr)>,
    /// Pause between two writes.
    pub pause: Duration,
    /// An answer later than this is given up: the outcome is then unknown.
    pub patience: Duration,
}

/// Clients at work. Ends them on drop.
#[derive(Debug)]
pub struct Crowd {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    /// What they ask, and whom: that may change.
    habits: Mutex<Habits>,
    start: Instant,
    stop: AtomicBool,
    writes: Mutex<Vec<Write>>,
}

impl Crowd {
    /// Starts `count` clients; times count from `start`, bodies carry `name`.
    pub fn start(count: usize, name: &str, habits: &Habits, start: Instant) -> Self {
        let shared = Arc::new(Shared {
            habits: Mutex::new(habits.clone()),
            start,
            stop: AtomicBool::new(false),
            writes: Mutex::default(),
        });
        let spawn = |number| {
            let (shared, name) = (Arc::clone(&shared), format!("{name}-{number}"));
            std::thread::spawn(move || work(&name, number, &shared))
        };
        let threads = (0..count).map(spawn).collect();
        Self { shared, threads }
    }

    /// From its next write on, every client asks these nodes.
    pub fn turn_to(&self, nodes: Vec<(u64, SocketAddr)>) {
        self.shared.habits.lock().expect("no client panicked").nodes = nodes;
    }

    /// Lets every client finish its write, and returns all of them.
    pub fn finish(mut self) -> Vec<Write> {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().expect("no client panicked");
        }
        std::mem::take(&mut *self.shared.writes.lock().expect("no client panicked"))
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

impl Shared {
    fn now(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }
}

fn work(name: &str, number: usize, shared: &Shared) {
    let mut connections = BTreeMap::new();
    let mut dice = Dice(number as u64 + 1);
    for count in 0_u64.. {
        if shared.stop.load(Ordering::Relaxed) {
            return;
        }
        let Habits { nodes, pause, patience } = shared.habits.lock().expect("no client panicked").clone();
        let (asked, proxy) = nodes[place_of(number, nodes.len(), &mut dice)];
        let body = format!("{name}-{count}");
        let called_ns = shared.now();
        let outcome = write_once(&mut connections, proxy, &body, patience);
        let write = Write { body, asked, called_ns, answered_ns: shared.now(), outcome };
        shared.writes.lock().expect("no client panicked").push(write);
        // The pace of the load.
        std::thread::sleep(pause);
    }
}

/// Which of `count` nodes a client asks next: every third roams, the others stay with one.
pub fn place_of(client: usize, count: usize, dice: &mut Dice) -> usize {
    if client.is_multiple_of(3) { dice.below(count) } else { client / 3 % count }
}

/// One write on a kept or new connection to `proxy`.
pub fn write_once(
    connections: &mut BTreeMap<SocketAddr, Connection>,
    proxy: SocketAddr,
    body: &str,
    patience: Duration,
) -> Outcome {
    let write = Ask { method: "POST", target: "/ledger", fields: &[], body: body.as_bytes() };
    match ask(connections, proxy, &write, patience) {
        Ok(answer) => read_outcome(&answer),
        Err(Failure::NotSent(why)) => Outcome::NotApplied(format!("no connection: {why}")),
        Err(Failure::Lost(why)) => Outcome::Unknown(format!("connection: {why}")),
    }
}

/// One request.
#[derive(Debug, Clone, Copy)]
pub struct Ask<'a> {
    pub method: &'a str,
    pub target: &'a str,
    pub fields: &'a [(&'a str, &'a str)],
    pub body: &'a [u8],
}

/// Sends a request on a kept or new connection to `server`.
pub fn ask(
    connections: &mut BTreeMap<SocketAddr, Connection>,
    server: SocketAddr,
    ask: &Ask<'_>,
    patience: Duration,
) -> Result<Answer, Failure> {
    let kept = connections.remove(&server).filter(|kept| !kept.is_closed());
    let mut connection = kept.map_or_else(|| Connection::open(server, CONNECT_LIMIT), Ok)?;
    let answer = connection.send(ask.method, ask.target, ask.fields, ask.body, patience)?;
    if connection.is_reusable() {
        connections.insert(server, connection);
    }
    Ok(answer)
}
