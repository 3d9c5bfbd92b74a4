//! A cluster of real processes: `termgate node` for each member, `termgate guard` in front of the
//! recording backend, certificates from `termgate certs`, all as an operator would set it up.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use super::http::{self, Answer, Failure};
use super::ledger::Ledger;
use super::placement::Placement;
use super::process::Process;
use super::{termgate, wait};

/// Who may change something through the API; needed where it does not listen on loopback.
const TOKEN: &str = "a-token-for-trials-only-0123456789";
/// What such a caller sends as `Authorization`.
pub const BEARER: &str = "Bearer a-token-for-trials-only-0123456789";
/// The one route's name, unless a plan has another.
pub const RESOURCE: &str = "ledger";
/// A question to a live node's API takes no longer, also on a busy machine.
const API_LIMIT: Duration = Duration::from_secs(2);
/// A cluster has a leader with an open gate well before this, also on a busy machine.
pub const SETTLE_LIMIT: Duration = Duration::from_secs(30);

/// What a cluster should look like.
#[derive(Debug)]
pub struct Plan {
    /// In every certificate.
    pub name: &'static str,
    pub nodes: u64,
    pub placement: Placement,
    /// The one route's name.
    pub resource: &'static str,
    /// `enforced` puts the guard before the backend; any other mode goes to the backend directly.
    pub fence: &'static str,
    /// The backend of an enforced route is a verifier itself: there is no guard before it.
    pub backend_verifies: bool,
    /// Where the writes end; the recording ledger when not given.
    pub backend: Option<SocketAddr>,
    pub hold_timeout: Duration,
    /// Added to every node's configuration.
    pub extra_config: String,
}

impl Plan {
    /// `nodes` nodes on loopback, the guard, the ledger.
    pub fn new(nodes: u64) -> Self {
        Self {
            name: "trial",
            nodes,
            placement: Placement::loopback(),
            resource: RESOURCE,
            fence: "enforced",
            backend_verifies: false,
            backend: None,
            hold_timeout: Duration::from_millis(2_000),
            extra_config: String::new(),
        }
    }

    fn has_guard(&self) -> bool {
        self.fence == "enforced" && !self.backend_verifies
    }
}

/// Who leads, as one node says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leader {
    pub id: u64,
    pub term: u64,
    pub authoritative: bool,
}

/// One member's addresses and process.
#[derive(Debug)]
pub struct Node {
    pub id: u64,
    pub dir: PathBuf,
    pub proxy: SocketAddr,
    api: SocketAddr,
    process: Option<Process>,
}

impl Node {
    /// The process; it must run.
    pub fn process(&self) -> &Process {
        self.process.as_ref().unwrap_or_else(|| panic!("node {} is not running", self.id))
    }

    /// Whether it was started and not killed since.
    pub fn is_running(&self) -> bool {
        self.process.is_some()
    }

    /// Where it keeps its state.
    pub fn data_dir(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// When this file is there, the node removes it and stops itself between its last gate test and the
    /// first byte to the backend.
    pub fn pause_file(&self) -> PathBuf {
        self.dir.join("pause-before-send")
    }
}

/// A running cluster. Everything ends on drop.
#[derive(Debug)]
pub struct Cluster {
    pub nodes: Vec<Node>,
    guard: Option<Process>,
    pub ledger: Ledger,
    pub start: Instant,
    plan: Plan,
    dir: tempfile::TempDir,
}

impl Cluster {
    /// Makes certificates and configurations, starts everything, and waits until a write can pass.
    pub fn start(plan: Plan) -> Self {
        let mut cluster = Self::prepare(plan);
        cluster.start_guard();
        cluster.start_all_nodes();
        cluster.wait_whole();
        cluster
    }

    /// Everything but the guard and the nodes.
    pub fn prepare(plan: Plan) -> Self {
        let dir =
            tempfile::Builder::new().prefix("termgate-trial-").tempdir().expect("a temporary directory");
        let start = Instant::now();
        let outside = plan.placement.outside_ip();
        let ledger_at = SocketAddr::new(outside, plan.placement.port(191));
        let ledger = Ledger::serve(ledger_at, &dir.path().join("ledger.jsonl"), start);
        let mut cluster = Self { nodes: Vec::new(), guard: None, ledger, start, plan, dir };
        for id in 1..=cluster.plan.nodes {
            let node = cluster.node(id);
            std::fs::create_dir_all(&node.dir).expect("the node's directory can be made");
            cluster.nodes.push(node);
        }
        cluster.make_certificates();
        for id in 1..=cluster.plan.nodes {
            std::fs::write(cluster.config_of(id), cluster.node_toml(id))
                .expect("the configuration is written");
        }
        cluster
    }

    /// The run's directory: configurations, data, logs.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Node `id`'s configuration file.
    pub fn config_of(&self, id: u64) -> PathBuf {
        self.dir().join(format!("node-{id}.toml"))
    }

    /// Makes a place for the next node, which no configuration names, and answers its id.
    pub fn make_place(&mut self) -> u64 {
        let id = self.nodes.len() as u64 + 1;
        let node = self.node(id);
        std::fs::create_dir_all(&node.dir).expect("the node's directory can be made");
        self.nodes.push(node);
        id
    }

    /// Certificate and configuration of a node that is to be added, as its operator makes them.
    pub fn equip(&self, id: u64) {
        let certs = self.dir().join("certs");
        let (certs, ip) =
            (certs.to_str().expect("a plain path"), self.plan.placement.node_ip(id).to_string());
        let id_text = id.to_string();
        run_tool(&["certs", "issue", "--ca", certs, "--node", &id_text, "--out", certs, "--san", &ip]);
        std::fs::write(self.config_of(id), self.node_toml(id)).expect("the configuration is written");
    }

    /// Node `id`'s addresses for others: peer, proxy and API.
    pub fn addresses_of(&self, id: u64) -> [String; 3] {
        let ip = self.plan.placement.node_ip(id);
        [0, 1, 2].map(|which| SocketAddr::new(ip, self.port(id, which)).to_string())
    }

    /// Starts a program in the place of node `id`.
    pub fn start_in_place_of(&mut self, id: u64, program: &[&str]) {
        let log = self.dir().join(format!("node-{id}.log"));
        let process = Process::spawn(&format!("node {id}"), &log, program, &[]);
        self.nodes[id as usize - 1].process = Some(process);
    }

    /// Where node `id` is reached and listens from its next start on.
    pub fn move_node(&mut self, id: u64, to: u64) {
        let (old, new) = (self.addresses_of(id), self.addresses_of(to));
        let mut text = std::fs::read_to_string(self.config_of(id)).expect("the configuration");
        for (old, new) in old.iter().zip(&new) {
            text = text.replace(&format!("\"{old}\""), &format!("\"{new}\""));
        }
        std::fs::write(self.config_of(id), text).expect("the configuration is written");
        let [_, proxy, api] = new.map(|address| address.parse().expect("an address"));
        let node = &mut self.nodes[id as usize - 1];
        (node.proxy, node.api) = (proxy, api);
    }

    /// Lets the run's directory stay after the run; returns it.
    pub fn keep_files(&mut self) -> PathBuf {
        self.dir.disable_cleanup(true);
        self.dir().to_path_buf()
    }

    /// Nodes and where clients reach them.
    pub fn proxies(&self) -> Vec<(u64, SocketAddr)> {
        self.nodes.iter().map(|node| (node.id, node.proxy)).collect()
    }

    pub fn placement(&self) -> &Placement {
        &self.plan.placement
    }

    fn node(&self, id: u64) -> Node {
        let at = |which| SocketAddr::new(self.plan.placement.node_ip(id), self.port(id, which));
        Node { id, dir: self.dir().join(format!("node-{id}")), proxy: at(1), api: at(2), process: None }
    }

    /// 0 peer, 1 proxy and hop, 2 API.
    fn port(&self, id: u64, which: u16) -> u16 {
        self.plan.placement.port(10 * u16::try_from(id - 1).expect("few nodes") + which)
    }

    fn guard_address(&self) -> SocketAddr {
        SocketAddr::new(self.plan.placement.outside_ip(), self.plan.placement.port(190))
    }

    fn make_certificates(&self) {
        let certs = self.dir().join("certs");
        let certs = certs.to_str().expect("a plain path");
        run_tool(&["certs", "init", "--cluster", self.plan.name, "--out", certs]);
        for id in 1..=self.plan.nodes {
            let (id, ip) = (id.to_string(), self.plan.placement.node_ip(id).to_string());
            run_tool(&["certs", "issue", "--ca", certs, "--node", &id, "--out", certs, "--san", &ip]);
        }
        let ip = self.plan.placement.outside_ip().to_string();
        run_tool(&[
            "certs",
            "issue",
            "--ca",
            certs,
            "--guard",
            self.plan.resource,
            "--out",
            certs,
            "--san",
            &ip,
        ]);
    }

    fn tls_section(&self, who: &str) -> String {
        let certs = self.dir().join("certs").display().to_string();
        format!(
            "[tls]\nca = \"{certs}/ca.pem\"\ncert = \"{certs}/{who}.pem\"\nkey = \"{certs}/{who}.key\"\n\n"
        )
    }

    fn node_toml(&self, id: u64) -> String {
        let mut text = format!(
            "[node]\nid = {id}\ndata_dir = {:?}\n\n[cluster]\nname = \"{}\"\n",
            self.at(id).data_dir(),
            self.plan.name
        );
        let joins = id > self.plan.nodes;
        if joins {
            text += "join = true\n";
        }
        for other in (1..=self.plan.nodes).chain(joins.then_some(id)) {
            let ip = self.plan.placement.node_ip(other);
            let [peer, proxy, api] = [0, 1, 2].map(|which| self.port(other, which));
            text += &format!(
                "[[cluster.members]]\nid = {other}\npeer = \"{ip}:{peer}\"\nproxy = \"{ip}:{proxy}\"\napi = \"{ip}:{api}\"\n"
            );
        }
        let node = &self.nodes[id as usize - 1];
        let peer = SocketAddr::new(self.plan.placement.node_ip(id), self.port(id, 0));
        text +=
            &format!("\n[listen]\npeer = \"{peer}\"\nproxy = \"{}\"\napi = \"{}\"\n\n", node.proxy, node.api);
        text += &self.tls_section(&format!("node-{id}"));
        text += &format!("[api.auth]\ntoken = \"{TOKEN}\"\n\n{}", self.plan.extra_config);
        text + &format!(
            "\n[[route]]\nname = \"{}\"\nmatch = {{ path_prefix = \"/\" }}\nbackend = \"{}\"\nfence = \"{}\"\nhold_timeout_ms = {}\n",
            self.plan.resource,
            self.route_target(),
            self.plan.fence,
            self.plan.hold_timeout.as_millis()
        )
    }

    fn route_target(&self) -> String {
        match self.plan.has_guard() {
            true => format!("https://{}", self.guard_address()),
            false => format!("http://{}", self.plan.backend.unwrap_or(self.ledger.address())),
        }
    }

    fn guard_toml(&self) -> String {
        let backend = self.plan.backend.unwrap_or(self.ledger.address());
        format!(
            "[guard]\nlisten = \"{}\"\nbackend = \"http://{backend}\"\nresource = \"{}\"\nmode = \"enforced\"\n\
             data_dir = {:?}\ncluster = \"{}\"\n\n{}",
            self.guard_address(),
            self.plan.resource,
            self.dir().join("guard"),
            self.plan.name,
            self.tls_section(&format!("guard-{}", self.plan.resource))
        )
    }

    /// Starts the guard, when the route is enforced.
    pub fn start_guard(&mut self) {
        if !self.plan.has_guard() {
            return;
        }
        let config = self.dir().join("guard.toml");
        std::fs::write(&config, self.guard_toml()).expect("the configuration is written");
        let config = config.to_str().expect("a plain path");
        let log = self.dir().join("guard.log");
        self.guard = Some(Process::spawn("guard", &log, &[termgate(), "guard", "--config", config], &[]));
    }

    /// The guard's process, when there is one.
    pub fn guard(&self) -> Option<&Process> {
        self.guard.as_ref()
    }

    /// SIGKILLs the guard and starts it again.
    pub fn restart_guard(&mut self) {
        if let Some(guard) = &mut self.guard {
            guard.kill();
        }
        self.start_guard();
    }

    /// Starts every node that does not run.
    pub fn start_all_nodes(&mut self) {
        for id in 1..=self.plan.nodes {
            if !self.nodes[id as usize - 1].is_running() {
                self.start_node(id);
            }
        }
    }

    /// Starts node `id`; its log goes on in the same file.
    pub fn start_node(&mut self, id: u64) {
        let config = self.config_of(id);
        let config = config.to_str().expect("a plain path");
        let mut program = vec![termgate(), "node", "--config", config];
        let namespace = self.plan.placement.network().map(|network| network.namespace(id));
        if let Some(namespace) = &namespace {
            program.splice(0..0, ["ip", "netns", "exec", namespace]);
        }
        let node = &self.nodes[id as usize - 1];
        let pause_file = node.pause_file();
        let env = [("TERMGATE_TEST_PAUSE_BEFORE_SEND_FILE", pause_file.to_str().expect("a plain path"))];
        let log = self.dir().join(format!("node-{id}.log"));
        let process = Process::spawn(&format!("node {id}"), &log, &program, &env);
        self.nodes[id as usize - 1].process = Some(process);
    }

    /// SIGKILL; returns when it happened.
    pub fn kill_node(&mut self, id: u64) -> Instant {
        let node = &mut self.nodes[id as usize - 1];
        node.process().signal(Signal::KILL);
        let at = Instant::now();
        node.process = None;
        at
    }

    /// SIGKILL to all of these before the first has ended.
    pub fn kill_nodes(&mut self, ids: &[u64]) {
        ids.iter().for_each(|id| self.at(*id).process().signal(Signal::KILL));
        for id in ids {
            self.kill_node(*id);
        }
    }

    /// Waits until node `id` has ended by itself; answers how.
    pub fn wait_node_ended(&mut self, id: u64, limit: Duration) -> ExitStatus {
        let node = &mut self.nodes[id as usize - 1];
        let mut process = node.process.take().unwrap_or_else(|| panic!("node {id} is not running"));
        process.wait_ended(limit)
    }

    /// What node `id` has written, in all its lives.
    pub fn log_of(&self, id: u64) -> String {
        let log = std::fs::read(self.dir().join(format!("node-{id}.log"))).unwrap_or_default();
        String::from_utf8_lossy(&log).into_owned()
    }

    /// The node, by its id.
    pub fn at(&self, id: u64) -> &Node {
        &self.nodes[id as usize - 1]
    }

    /// Node ids.
    pub fn ids(&self) -> Vec<u64> {
        self.nodes.iter().map(|node| node.id).collect()
    }

    /// A call to node `id`'s API.
    pub fn api(&self, id: u64, method: &str, target: &str, body: &[u8]) -> Result<Answer, Failure> {
        let node = self.at(id);
        let fields = [("content-type", "application/json"), ("authorization", BEARER)];
        http::request(node.api, method, target, &fields, body, API_LIMIT)
    }

    /// Where node `id`'s API listens.
    pub fn api_address(&self, id: u64) -> SocketAddr {
        self.at(id).api
    }

    /// What node `id` says about the leader; `None` when it knows none or does not answer.
    pub fn leader_seen_by(&self, id: u64) -> Option<Leader> {
        let answer = self.api(id, "GET", "/leader", b"").ok().filter(|answer| answer.status == 200)?;
        let body = answer.json();
        let authoritative = body["authoritative"].as_bool()?;
        Some(Leader { id: body["node_id"].as_u64()?, term: body["term"].as_u64()?, authoritative })
    }

    /// The leader that says so itself, asked among `ids`; the highest term wins.
    pub fn leader_among(&self, ids: &[u64]) -> Option<Leader> {
        let claims = ids.iter().filter(|id| self.at(**id).is_running()).filter_map(|id| {
            self.leader_seen_by(*id).filter(|leader| leader.authoritative && leader.id == *id)
        });
        claims.max_by_key(|leader| leader.term)
    }

    /// The leader of the whole cluster; waits for one.
    pub fn leader(&self) -> Leader {
        wait::until("a leader", SETTLE_LIMIT, || self.leader_among(&self.ids()))
    }

    /// `GET /cluster/status` at node `id`.
    pub fn status(&self, id: u64) -> Option<Value> {
        self.api(id, "GET", "/cluster/status", b"").ok().filter(|a| a.status == 200).map(|a| a.json())
    }

    /// Waits until a leader's gate is open and every member is reachable and has caught up.
    pub fn wait_whole(&self) {
        wait::until("a whole cluster", SETTLE_LIMIT, || self.is_whole().then_some(()));
    }

    fn is_whole(&self) -> bool {
        let Some(leader) = self.leader_among(&self.ids()) else { return false };
        let gate_is_open = || self.api(leader.id, "GET", "/primary", b"").is_ok_and(|a| a.status == 200);
        self.status(leader.id).is_some_and(|status| all_caught_up(&status, self.plan.nodes)) && gate_is_open()
    }

    /// A write through node `id`'s proxy, outside of any campaign.
    pub fn write(&self, id: u64, body: &str, limit: Duration) -> Result<Answer, Failure> {
        http::request(self.at(id).proxy, "POST", "/ledger", &[], body.as_bytes(), limit)
    }
}

/// Whether a `GET /cluster/status` shows a leader, `count` members, and each of them reachable with all
/// that the leader has committed.
pub fn all_caught_up(status: &Value, count: u64) -> bool {
    let members = status["members"].as_array().cloned().unwrap_or_default();
    let leads = |m: &Value| m["id"] == status["leader"];
    let leader = members.iter().find(|m| leads(m));
    let commit = leader.and_then(|m| m["commit_index"].as_u64()).unwrap_or(u64::MAX);
    let caught_up = |m: &Value| {
        let match_index = m["match_index"].as_u64().or(m["last_log_index"].as_u64()).unwrap_or(0);
        leads(m) || (m["reachable"] == true && match_index >= commit)
    };
    leader.is_some() && members.len() as u64 == count && members.iter().all(caught_up)
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() || std::env::var_os("KEEP_FILES").is_some() {
            eprintln!("logs and records are kept in {}", self.keep_files().display());
        }
    }
}

/// Runs `termgate` to its end; it must succeed.
pub fn run_tool(args: &[&str]) {
    let output = Command::new(termgate()).args(args).output().expect("the binary can be started");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "termgate {args:?} ended with {}: {said}", output.status);
}
