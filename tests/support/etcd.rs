//! A rival: etcd (Debian's package) as an equal number of real processes on the same disk.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use super::http;
use super::placement::Placement;
use super::process::Process;
use super::wait;

const API_LIMIT: Duration = Duration::from_secs(2);
const SETTLE_LIMIT: Duration = Duration::from_secs(30);

/// A running etcd cluster. Everything ends on drop.
#[derive(Debug)]
pub struct Etcd {
    processes: Vec<Option<Process>>,
    placement: Placement,
    dir: PathBuf,
}

impl Etcd {
    /// Starts `nodes` members with our own default timing (50 ms heartbeats, 300 ms elections), data
    /// under `dir`.
    pub fn start(nodes: u64, dir: &Path) -> Self {
        let processes = (0..nodes).map(|_| None).collect();
        let mut etcd = Self { processes, placement: Placement::loopback(), dir: dir.to_path_buf() };
        for id in 1..=nodes {
            etcd.start_node(id);
        }
        etcd.wait_whole();
        etcd
    }

    fn address(&self, id: u64, which: u16) -> SocketAddr {
        let port = self.placement.port(10 * u16::try_from(id).expect("few nodes") + which);
        SocketAddr::new(self.placement.node_ip(id), port)
    }

    /// Where clients of member `id` go.
    pub fn client_address(&self, id: u64) -> SocketAddr {
        self.address(id, 1)
    }

    pub fn ids(&self) -> Vec<u64> {
        (1..=self.processes.len() as u64).collect()
    }

    /// Starts member `id`, with its old data if it has some.
    pub fn start_node(&mut self, id: u64) {
        let members: Vec<String> =
            self.ids().iter().map(|id| format!("m{id}=http://{}", self.address(*id, 0))).collect();
        let members = members.join(",");
        let (name, data) = (format!("m{id}"), self.dir.join(format!("etcd-{id}")));
        let peer = format!("http://{}", self.address(id, 0));
        let client = format!("http://{}", self.address(id, 1));
        let program = [
            &["etcd", "--name", &name, "--data-dir", data.to_str().expect("a plain path")][..],
            &["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer],
            &["--listen-client-urls", &client, "--advertise-client-urls", &client],
            &["--initial-cluster", &members, "--initial-cluster-state", "new"],
            &["--heartbeat-interval", "50", "--election-timeout", "300", "--log-level", "warn"],
        ]
        .concat();
        let log = self.dir.join(format!("etcd-{id}.log"));
        self.processes[id as usize - 1] = Some(Process::spawn(&name, &log, &program, &[]));
    }

    /// SIGKILL; returns when it happened.
    pub fn kill_node(&mut self, id: u64) -> Instant {
        let process = self.processes[id as usize - 1].take().expect("the member is running");
        process.signal(Signal::KILL);
        Instant::now()
    }

    /// The members' process ids.
    pub fn pids(&self) -> Vec<u32> {
        self.processes.iter().flatten().map(Process::pid).collect()
    }

    fn status(&self, id: u64) -> Option<Value> {
        let target = "/v3/maintenance/status";
        let answer = http::request(self.client_address(id), "POST", target, &[], b"{}", API_LIMIT).ok()?;
        (answer.status == 200).then(|| answer.json())
    }

    /// The member that leads, as it says itself.
    pub fn leader(&self) -> u64 {
        wait::until("an etcd leader", SETTLE_LIMIT, || {
            self.ids().into_iter().find(|id| {
                self.processes[*id as usize - 1].is_some()
                    && self.status(*id).is_some_and(|s| s["leader"] == s["header"]["member_id"])
            })
        })
    }

    /// Waits until all members name the same leader and have applied the same.
    pub fn wait_whole(&self) {
        wait::until("a whole etcd cluster", SETTLE_LIMIT, || {
            let all: Option<Vec<Value>> = self.ids().into_iter().map(|id| self.status(id)).collect();
            let all = all?;
            let agree = |key: &str| all.iter().all(|s| s[key].is_string() && s[key] == all[0][key]);
            (agree("leader") && agree("raftAppliedIndex")).then_some(())
        });
    }
}

/// Base64, which etcd's HTTP gateway wants for keys and values.
pub fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let word = three.iter().fold(0_u32, |w, b| w << 8 | u32::from(*b)) << (8 * (3 - three.len()));
        for place in 0..4 {
            let digit = DIGITS[(word >> (18 - 6 * place)) as usize & 63];
            text.push(if place > three.len() { '=' } else { digit as char });
        }
    }
    text
}

/// The body of a put through the gateway.
pub fn put_body(key: &str, value: &str) -> String {
    format!(r#"{{"key":"{}","value":"{}"}}"#, base64(key.as_bytes()), base64(value.as_bytes()))
}
