//! The registry next to etcd through its HTTP gateway: the same keys, sizes, connections and disk, in
//! turn within one run.
//!
//! Each case is loaded by `wrk` for a few seconds on one side, then on the other, several rounds; the
//! table shows medians over the rounds. CPU is what all three nodes used, divided by the requests: on
//! a machine with other work it is steadier than throughput. Our lease reads have no twin in etcd; they
//! stand next to its serializable (stale) reads, which is generous to etcd.
//!
//! `make bench-registry BENCH_ROUNDS=5 SECONDS=3`. Nothing here fails on time: the table is the result.

#[path = "../tests/support/mod.rs"]
mod support;

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use support::cluster::{BEARER, Cluster, Plan};
use support::etcd::{Etcd, base64, put_body};
use support::number_from_env;
use support::process::cpu_time;
use support::stats::{median, print_table};
use support::wrk::{self, Load, Request};

const KEYS: usize = 100;
const VALUE_BYTES: usize = 256;
const CONNECTIONS: [usize; 2] = [1, 64];

/// What is asked; the names are the table's.
#[derive(Debug, Clone, Copy)]
enum Work {
    LinearizableRead,
    LeaseRead,
    StaleRead,
    Write,
}

impl Work {
    const ALL: [Self; 4] = [Self::LinearizableRead, Self::LeaseRead, Self::StaleRead, Self::Write];

    fn name(self) -> &'static str {
        match self {
            Self::LinearizableRead => "linearizable read",
            Self::LeaseRead => "lease read | serializable",
            Self::StaleRead => "stale read | serializable",
            Self::Write => "write",
        }
    }

    /// Against etcd, at 64 connections.
    fn target(self) -> &'static str {
        match self {
            Self::LinearizableRead => ">= 3 x",
            Self::LeaseRead => ">= 4 x",
            Self::StaleRead => "",
            Self::Write => ">= 2 x",
        }
    }

    fn at_termgate(self) -> Request {
        let targets = (0..KEYS).map(|n| format!("/registry/keys/{}", key(n))).collect();
        let read = |consistency: &str| Request {
            method: "GET",
            targets,
            fields: vec![("Termgate-Consistency", consistency.to_string())],
            bodies: vec![],
        };
        match self {
            Self::LinearizableRead => read("linearizable"),
            Self::LeaseRead => read("lease"),
            Self::StaleRead => read("stale"),
            Self::Write => {
                let targets = (0..KEYS).map(|n| format!("/registry/keys/{}", key(n))).collect();
                let fields = vec![("Authorization", BEARER.to_string())];
                Request { method: "PUT", targets, fields, bodies: vec![value()] }
            }
        }
    }

    fn at_etcd(self) -> Request {
        let serializable = matches!(self, Self::LeaseRead | Self::StaleRead);
        let range = |n| format!(r#"{{"key":"{}","serializable":{serializable}}}"#, base64(key(n).as_bytes()));
        let (target, bodies): (&str, Vec<String>) = match self {
            Self::Write => ("/v3/kv/put", (0..KEYS).map(|n| put_body(&key(n), &value())).collect()),
            _ => ("/v3/kv/range", (0..KEYS).map(range).collect()),
        };
        Request { method: "POST", targets: vec![target.to_string(); KEYS], fields: vec![], bodies }
    }
}

fn key(number: usize) -> String {
    format!("bench-{number}")
}

fn value() -> String {
    "v".repeat(VALUE_BYTES)
}

/// One side of a comparison: where, and whose CPU counts.
struct Side {
    leader: SocketAddr,
    follower: SocketAddr,
    pids: Vec<u32>,
}

/// The rounds of one side of one case.
#[derive(Default)]
struct Rounds {
    per_second: Vec<f64>,
    p99_us: Vec<f64>,
    cpu_us: Vec<f64>,
    errors: f64,
}

impl Rounds {
    fn measure(&mut self, to: SocketAddr, pids: &[u32], connections: usize, request: &Request, dir: &Path) {
        let cpu = || pids.iter().map(|pid| cpu_time(*pid)).sum::<Duration>();
        let before = cpu();
        let seconds = number_from_env("SECONDS", 2);
        let Load { requests, per_second, p99_us, errors, .. } =
            wrk::run(to, connections, seconds, request, dir);
        self.per_second.push(per_second);
        self.p99_us.push(p99_us);
        self.cpu_us.push((cpu() - before).as_secs_f64() * 1e6 / requests.max(1.0));
        self.errors += errors;
    }
}

fn main() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let cluster = Cluster::start(Plan::new(3));
    let etcd = Etcd::start(3, dir.path());
    let sides = (termgate_side(&cluster), etcd_side(&etcd));
    for number in 0..KEYS {
        let target = format!("/registry/keys/{}", key(number));
        let answer = cluster.api(1, "PUT", &target, value().as_bytes()).expect("an answer to a put");
        assert!(answer.status < 300, "put: {} {}", answer.status, answer.text());
    }
    wrk::run(sides.1.leader, 1, 1, &Work::Write.at_etcd(), dir.path());

    let mut rows = vec![row![
        "work",
        "conns",
        "at",
        "termgate/s",
        "etcd/s",
        "ratio",
        "target",
        "p99 us",
        "etcd p99 us",
        "CPU us/req",
        "etcd CPU us/req",
        "errors",
    ]];
    for connections in CONNECTIONS {
        for work in Work::ALL {
            for at_leader in [true, false] {
                rows.push(one_case(work, connections, at_leader, &sides, dir.path()));
                eprintln!("{}", rows.last().expect("just pushed").join("  "));
            }
        }
    }
    print_table(&rows);
    drop((cluster, etcd));
}

fn termgate_side(cluster: &Cluster) -> Side {
    let leader = cluster.leader().id;
    let follower = cluster.ids().into_iter().find(|id| *id != leader).expect("three nodes");
    let pids = cluster.nodes.iter().map(|node| node.process().pid()).collect();
    Side { leader: cluster.api_address(leader), follower: cluster.api_address(follower), pids }
}

fn etcd_side(etcd: &Etcd) -> Side {
    let leader = etcd.leader();
    let follower = etcd.ids().into_iter().find(|id| *id != leader).expect("three members");
    Side { leader: etcd.client_address(leader), follower: etcd.client_address(follower), pids: etcd.pids() }
}

/// Rounds of one case on both sides in turn, as a row of the table.
fn one_case(
    work: Work,
    connections: usize,
    at_leader: bool,
    sides: &(Side, Side),
    dir: &Path,
) -> Vec<String> {
    let (mut ours, mut theirs) = (Rounds::default(), Rounds::default());
    for _ in 0..number_from_env("BENCH_ROUNDS", 3) {
        for (side, rounds, request) in
            [(&sides.0, &mut ours, work.at_termgate()), (&sides.1, &mut theirs, work.at_etcd())]
        {
            let to = if at_leader { side.leader } else { side.follower };
            rounds.measure(to, &side.pids, connections, &request, dir);
        }
    }
    let whole = |samples: &[f64]| format!("{:.0}", median(samples));
    let ratio = median(&ours.per_second) / median(&theirs.per_second);
    row![
        work.name(),
        connections,
        if at_leader { "leader" } else { "follower" },
        whole(&ours.per_second),
        whole(&theirs.per_second),
        format!("{ratio:.2} x"),
        if connections == 64 { work.target() } else { "" },
        whole(&ours.p99_us),
        whole(&theirs.p99_us),
        whole(&ours.cpu_us),
        whole(&theirs.cpu_us),
        format!("{} + {}", ours.errors, theirs.errors),
    ]
}
