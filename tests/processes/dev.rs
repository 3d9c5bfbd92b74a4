//! `termgate dev`: it says where everything is, outlives the death of any of its processes, does what
//! is typed, and ends them all.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::process::Signal;

use crate::machine;
use crate::support::client::read_outcome;
use crate::support::cluster::{SETTLE_LIMIT, all_caught_up};
use crate::support::http::request;
use crate::support::process::{Process, children_of, command_line, exists, send_signal};
use crate::support::verdict::Outcome;
use crate::support::{termgate, wait};
use crate::told::{Entry, PATIENCE, expect_as_told, post, write, write_until_landed};

const NODES: u64 = 3;
/// `termgate dev` listens on 127.0.0.1, which all runs share. Its ports lie above those of
/// `Placement` and below the kernel's range for outgoing connections: room for this many clusters.
const FIRST_PORT: u16 = 31_000;
const CLUSTERS: u32 = 16;
const PORTS_PER_CLUSTER: u16 = 100;
/// Every process may take its time to end, the one that hands leadership over the longest.
const END_LIMIT: Duration = Duration::from_secs(30);

/// Clusters that this process has started.
static STARTED: AtomicU32 = AtomicU32::new(0);

/// A running `termgate dev`. Fields are dropped in this order: the process before its directory.
struct Dev {
    process: Process,
    base_port: u16,
    dir: tempfile::TempDir,
}

impl Dev {
    /// Starts it and waits for its welcome text, whose last line says what can be typed.
    fn start() -> Self {
        let dir = tempfile::Builder::new().prefix("termgate-trial-").tempdir().expect("a directory");
        let number = std::process::id().wrapping_add(STARTED.fetch_add(1, Ordering::Relaxed)) % CLUSTERS;
        let base_port = FIRST_PORT + u16::try_from(number).expect("a small number") * PORTS_PER_CLUSTER;
        let (data, port) = (dir.path().join("data"), base_port.to_string());
        let data = data.to_str().expect("a plain path");
        let program = [termgate(), "dev", "--data-dir", data, "--base-port", &port];
        let process = Process::spawn_with_input("termgate dev", &dir.path().join("dev.log"), &program);
        let mut dev = Self { process, base_port, dir };
        wait::until("termgate dev is up", SETTLE_LIMIT, || {
            assert_eq!(dev.process.ended(), None, "termgate dev ended: {}", dev.process.output());
            dev.process.output().contains("Ctrl-C ends everything").then_some(())
        });
        dev
    }

    /// Waits until `text` is in its output.
    fn wait_said(&self, text: &str) {
        let said = || self.process.output().contains(text).then_some(());
        wait::until(&format!("termgate dev says {text:?}"), SETTLE_LIMIT, said);
    }

    /// Where node `id` listens: 0 peer, 1 proxy, 2 API.
    fn address(&self, id: u64, which: u16) -> SocketAddr {
        let step = 10 * u16::try_from(id - 1).expect("few nodes");
        SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), self.base_port + step + which)
    }

    fn proxy(&self, id: u64) -> SocketAddr {
        self.address(id, 1)
    }

    /// What landed, read through node `id`.
    fn ledger(&self, id: u64) -> Vec<Entry> {
        let answer = request(self.proxy(id), "GET", "/ledger", &[], b"", PATIENCE).expect("an answer");
        assert_eq!(answer.status, 200, "GET /ledger through node {id}: {}", answer.text());
        let list = answer.json();
        let entry = |e: &serde_json::Value| {
            let number = |key: &str| e[key].as_u64().expect("a number");
            (number("seq"), number("term"), number("node"), e["body"].as_str().expect("a text").to_string())
        };
        list.as_array().expect("a list").iter().map(entry).collect()
    }

    /// The leader and its term, as node `id` knows them; `None` while it knows none.
    fn leader_seen_by(&self, id: u64) -> Option<(u64, u64)> {
        let answer = request(self.address(id, 2), "GET", "/leader", &[], b"", PATIENCE).ok()?;
        let body = answer.json();
        Some((body["node_id"].as_u64()?, body["term"].as_u64()?))
    }

    fn leader(&self) -> (u64, u64) {
        wait::until("a leader", SETTLE_LIMIT, || (1..=NODES).find_map(|id| self.leader_seen_by(id)))
    }

    /// Waits until `GET /cluster/status` shows a leader and every member in contact and caught up.
    fn wait_whole(&self) {
        let status = |id| {
            let answer = request(self.address(id, 2), "GET", "/cluster/status", &[], b"", PATIENCE).ok()?;
            all_caught_up(&answer.json(), NODES).then_some(())
        };
        wait::until("a whole cluster", SETTLE_LIMIT, || {
            (1..=NODES).all(|id| status(id).is_some()).then_some(())
        });
    }

    fn children(&self) -> Vec<u32> {
        children_of(self.process.pid())
    }

    /// The process that was started with `file` (`node-2.toml`) as its configuration.
    fn pid_of(&self, file: &str) -> u32 {
        let has = |word: &String| Path::new(word).file_name().is_some_and(|name| name == file);
        let found = self.children().into_iter().find(|pid| command_line(*pid).iter().any(has));
        found.unwrap_or_else(|| panic!("no child of termgate dev runs with {file}"))
    }
}

impl Drop for Dev {
    /// Ends it as a person would, so that nothing of it is left on its ports.
    fn drop(&mut self) {
        self.process.signal(Signal::INT);
        let _ = wait::try_until(END_LIMIT, || self.process.ended());
        if std::thread::panicking() {
            self.dir.disable_cleanup(true);
            eprintln!("logs and data are kept in {}", self.dir.path().display());
        }
    }
}

#[test]
fn a_write_through_each_proxy_that_dev_names_lands_under_one_term() {
    let _machine = machine();
    let dev = Dev::start();
    let said = dev.process.output();
    for id in 1..=NODES {
        let (proxy, api) = (dev.proxy(id), dev.address(id, 2));
        assert!(
            said.contains(&format!("http://{proxy}")) && said.contains(&format!("http://{api}")),
            "{said}"
        );
    }
    for (what, offset) in [("guard", 90), ("ledger", 91)] {
        let place = format!("127.0.0.1:{}", dev.base_port + offset);
        assert!(said.lines().any(|line| line.contains(what) && line.contains(&place)), "{what}: {said}");
    }
    let (leader, term) = dev.leader();
    assert!(said.contains(&format!("node {leader} leads")), "{said}");
    assert!(said.contains(&dev.dir.path().join("data").display().to_string()), "where the data is: {said}");

    let landed: Vec<Entry> = (1..=NODES)
        .map(|id| {
            let body = format!("through node {id}");
            let (seq, term) = write(dev.proxy(id), &body);
            (seq, term, leader, body)
        })
        .collect();
    let places: Vec<(u64, u64)> = landed.iter().map(|entry| (entry.0, entry.1)).collect();
    assert_eq!(places, [(1, term), (2, term), (3, term)]);
    for id in 1..=NODES {
        assert_eq!(dev.ledger(id), landed, "GET /ledger through node {id}");
    }
}

#[test]
fn after_the_death_of_the_leader_writes_go_on_under_a_higher_term_and_restart_makes_it_whole() {
    let _machine = machine();
    let mut dev = Dev::start();
    let (old, term) = dev.leader();
    for id in 1..=NODES {
        assert_eq!(write(dev.proxy(id), &format!("before, through node {id}")), (id, term));
    }
    let before = dev.ledger(old);

    send_signal(dev.pid_of(&format!("node-{old}.toml")), Signal::KILL);
    let survivors: Vec<u64> = (1..=NODES).filter(|id| *id != old).collect();
    let (tried, _, new_term) = write_until_landed(dev.proxy(survivors[0]), "after");
    assert!(new_term > term, "term {new_term} after {term}");
    let (seq, same_term) = write(dev.proxy(survivors[1]), "after, too");
    assert_eq!(same_term, new_term);
    let after = dev.ledger(survivors[0]);
    assert_eq!(after.last().map(|entry| (entry.0, entry.3.as_str())), Some((seq, "after, too")));
    assert_eq!(after[..before.len()], before, "nothing is lost");
    expect_as_told(&tried, &after[before.len()..after.len() - 1]);
    dev.wait_said(&format!("node {old} has ended"));
    dev.wait_said(&format!("type `restart {old}` to start it again"));

    dev.process.say(&format!("restart {old}"));
    dev.wait_said(&format!("started node {old}"));
    dev.wait_whole();
    let (_, term) = write(dev.proxy(old), "through the one that came back");
    assert!(term >= new_term, "term {term} after {new_term}");
    assert_eq!(dev.ledger(old).len(), after.len() + 1);
}

#[test]
fn without_the_guard_no_write_lands_and_restart_guard_lets_them_pass_again() {
    let _machine = machine();
    let mut dev = Dev::start();
    write(dev.proxy(1), "before");
    send_signal(dev.pid_of("guard.toml"), Signal::KILL);
    dev.wait_said("the guard has ended");
    let refused = post(dev.proxy(2), "without a guard");
    assert!(
        matches!(read_outcome(&refused), Outcome::NotApplied(_)),
        "{}: {}",
        refused.status,
        refused.text()
    );

    dev.process.say("restart guard");
    dev.wait_said("started the guard");
    // It was started, and may not listen yet.
    let (tried, ..) = write_until_landed(dev.proxy(3), "after");
    let landed = dev.ledger(1);
    assert_eq!(landed[0].3, "before");
    expect_as_told(&tried, &landed[1..]);
}

#[test]
fn an_interrupt_ends_dev_and_every_process_it_started() {
    let _machine = machine();
    let mut dev = Dev::start();
    // A node that came back is a child like the first ones.
    dev.process.say("kill 2");
    dev.wait_said("node 2 has ended");
    dev.process.say("restart 2");
    dev.wait_said("started node 2");
    dev.wait_whole();
    let children = dev.children();
    let distinct: BTreeSet<&u32> = children.iter().collect();
    assert_eq!(distinct.len() as u64, NODES + 2, "nodes, guard and backend: {children:?}");
    assert!(children.iter().all(|pid| exists(*pid)));

    dev.process.signal(Signal::INT);
    let status = dev.process.wait_ended(END_LIMIT);
    assert_eq!(status.code(), Some(0), "{}", dev.process.output());
    let left: Vec<&u32> = children.iter().filter(|pid| exists(**pid)).collect();
    assert!(left.is_empty(), "still running: {left:?}");
    assert!(dev.process.output().contains("all processes have ended"), "{}", dev.process.output());
}
