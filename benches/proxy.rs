//! The proxy next to nginx with the same backend, workers and requests, in turn within one run.
//!
//! At the leader: one hop, client -> node -> backend, against one nginx. At a follower: two hops with mutual
//! TLS between them, client -> node -> leader -> backend, against nginx -> nginx with mutual TLS. The
//! backend is a third nginx that answers a fixed body. The route is `implicit` and goes to the backend
//! directly, because nginx has no guard to compare with.
//!
//! Load, proxies and backend share the machine's cores, so throughput compares whole chains; CPU per
//! request counts the proxies alone (all three nodes of ours, with their heartbeats) and is the
//! steadier number. `make bench-proxy BENCH_ROUNDS=5 SECONDS=3`. Nothing here fails on time.

#[path = "../tests/support/mod.rs"]
mod support;

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use support::cluster::{Cluster, Plan, run_tool};
use support::nginx::{self, Nginx};
use support::number_from_env;
use support::placement::Placement;
use support::process::cpu_time;
use support::stats::{median, print_table};
use support::wrk::{self, Request};

const CONNECTIONS: usize = 64;
const BODY_BYTES: usize = 1024;
/// The second nginx, to the first.
const HOST: &str = "second.test";

fn main() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let workers = number_from_env("WORKERS", std::thread::available_parallelism().map_or(2, usize::from));
    let placement = Placement::loopback();
    let at = |offset| SocketAddr::new(placement.outside_ip(), placement.port(offset));
    let [backend, one_hop, first_hop, second_hop] = [0, 1, 2, 3].map(at);

    let block = nginx::static_backend(backend);
    let _backend = Nginx::start("backend", dir.path(), workers, &block, backend);
    let cluster = Cluster::start(Plan { fence: "implicit", backend: Some(backend), ..Plan::new(3) });
    let block = nginx::proxy("backend", &one_hop.to_string(), &backend.to_string(), "");
    let single = Nginx::start("one-hop", dir.path(), workers, &block, one_hop);
    let [first, second] = two_hops(&cluster, dir.path(), workers, [first_hop, second_hop, backend]);

    let leader = cluster.leader().id;
    let follower = cluster.ids().into_iter().find(|id| *id != leader).expect("three nodes");
    let pids: Vec<u32> = cluster.nodes.iter().map(|node| node.process().pid()).collect();
    let ours = || pids.iter().map(|pid| cpu_time(*pid)).sum::<Duration>();
    let single_cpu = || single.cpu_time();
    let double_cpu = || first.cpu_time() + second.cpu_time();

    let mut rows = vec![row![
        "request",
        "at",
        "termgate/s",
        "nginx/s",
        "ratio",
        "target",
        "p50 us",
        "nginx p50 us",
        "p99 us",
        "nginx p99 us",
        "CPU us/req",
        "nginx CPU us/req",
        "CPU ratio",
        "errors",
    ]];
    for (name, request) in requests() {
        let leader = Side { to: cluster.at(leader).proxy, cpu: &ours };
        rows.push(one_case(
            name,
            "leader",
            ">= 1.0 x",
            [leader, Side { to: one_hop, cpu: &single_cpu }],
            &request,
            dir.path(),
        ));
        let follower = Side { to: cluster.at(follower).proxy, cpu: &ours };
        rows.push(one_case(
            name,
            "follower",
            ">= 1.3 x",
            [follower, Side { to: first_hop, cpu: &double_cpu }],
            &request,
            dir.path(),
        ));
    }
    print_table(&rows);
}

/// nginx -> nginx with mutual TLS, with certificates of our cluster.
fn two_hops(cluster: &Cluster, dir: &Path, workers: usize, at: [SocketAddr; 3]) -> [Nginx; 2] {
    let [first, second, backend] = at;
    let certs = cluster.dir().join("certs").display().to_string();
    // nginx looks for a host name in the certificate, not for an address.
    let san = ["--out", &certs, "--san", HOST];
    run_tool(&[&["certs", "issue", "--ca", &certs, "--guard", HOST], &san[..]].concat());
    let listen = format!(
        "{second} ssl; ssl_certificate {certs}/guard-{HOST}.pem; ssl_certificate_key {certs}/guard-{HOST}.key;\n\
         ssl_client_certificate {certs}/ca.pem; ssl_verify_client on; ssl_protocols TLSv1.3"
    );
    let block = nginx::proxy("backend", &listen, &backend.to_string(), "");
    let second_nginx = Nginx::start("second-hop", dir, workers, &block, second);
    let tls = format!(
        "proxy_ssl_certificate {certs}/node-2.pem; proxy_ssl_certificate_key {certs}/node-2.key;\n\
         proxy_ssl_trusted_certificate {certs}/ca.pem; proxy_ssl_verify on; proxy_ssl_name {HOST};\n\
         proxy_ssl_protocols TLSv1.3;"
    );
    let block = nginx::proxy("second", &first.to_string(), &second.to_string(), &tls);
    [Nginx::start("first-hop", dir, workers, &block, first), second_nginx]
}

fn requests() -> Vec<(&'static str, Request)> {
    let fields = || {
        ["Accept", "User-Agent", "X-Request-Source", "X-Trace"]
            .map(|name| (name, "bench/1.0".to_string()))
            .to_vec()
    };
    let get = |consistency: &str| Request {
        method: "GET",
        targets: vec!["/ledger".to_string()],
        fields: [fields(), vec![("Termgate-Consistency", consistency.to_string())]].concat(),
        bodies: vec![],
    };
    let post = Request {
        method: "POST",
        targets: vec!["/ledger".to_string()],
        fields: fields(),
        bodies: vec!["b".repeat(BODY_BYTES)],
    };
    vec![("POST 1 KiB", post), ("GET lease", get("lease")), ("GET linearizable", get("linearizable"))]
}

/// One side of a comparison.
struct Side<'a> {
    to: SocketAddr,
    cpu: &'a dyn Fn() -> Duration,
}

#[derive(Default)]
struct Rounds {
    per_second: Vec<f64>,
    p50_us: Vec<f64>,
    p99_us: Vec<f64>,
    cpu_us: Vec<f64>,
    errors: f64,
}

impl Rounds {
    fn measure(&mut self, side: &Side<'_>, request: &Request, dir: &Path) {
        let before = (side.cpu)();
        let load = wrk::run(side.to, CONNECTIONS, number_from_env("SECONDS", 2), request, dir);
        self.per_second.push(load.per_second);
        self.p50_us.push(load.p50_us);
        self.p99_us.push(load.p99_us);
        self.cpu_us.push(((side.cpu)() - before).as_secs_f64() * 1e6 / load.requests.max(1.0));
        self.errors += load.errors;
    }
}

fn one_case(
    name: &str,
    at: &str,
    target: &str,
    sides: [Side<'_>; 2],
    request: &Request,
    dir: &Path,
) -> Vec<String> {
    let (mut ours, mut theirs) = (Rounds::default(), Rounds::default());
    for _ in 0..number_from_env("BENCH_ROUNDS", 5) {
        ours.measure(&sides[0], request, dir);
        theirs.measure(&sides[1], request, dir);
    }
    let whole = |samples: &[f64]| format!("{:.0}", median(samples));
    let ratio = |ours: &[f64], theirs: &[f64]| format!("{:.2} x", median(ours) / median(theirs));
    let row = row![
        name,
        at,
        whole(&ours.per_second),
        whole(&theirs.per_second),
        ratio(&ours.per_second, &theirs.per_second),
        target,
        whole(&ours.p50_us),
        whole(&theirs.p50_us),
        whole(&ours.p99_us),
        whole(&theirs.p99_us),
        format!("{:.1}", median(&ours.cpu_us)),
        format!("{:.1}", median(&theirs.cpu_us)),
        ratio(&ours.cpu_us, &theirs.cpu_us),
        format!("{} + {}", ours.errors, theirs.errors),
    ];
    eprintln!("{}", row.join("  "));
    // A side that refuses is fast and useless.
    assert_eq!((ours.errors, theirs.errors), (0.0, 0.0), "{name} at the {at}: one side answers errors");
    row
}
