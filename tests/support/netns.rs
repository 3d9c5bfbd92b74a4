//! Network namespaces on one bridge, and partitions between them.
//!
//! A partition drops on the receiving side (`iptables -A INPUT -s … -j DROP` inside the namespace):
//! the sender notices nothing, as with a broken switch. Dropping on the sending side would give it
//! an error, which is another fault.

use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

/// All names start with this and the process id, so that a later run finds what a killed one left.
const PREFIX: &str = "tgt";

/// The number of networks that this process has made. Held while one is made, so that tests that
/// run side by side choose neither the same names nor the same subnet.
static NETWORKS: Mutex<u32> = Mutex::new(0);

/// A bridge with one namespace per node. Taken down on drop.
#[derive(Debug)]
pub struct Network {
    /// Names of this network start with it: at most 13 of the 15 bytes that an interface's name has.
    prefix: String,
    nodes: u64,
    subnet: u8,
}

impl Network {
    /// Makes the namespaces; removes those of runs that were killed.
    pub fn create(nodes: u64) -> Self {
        let mut networks = NETWORKS.lock().unwrap_or_else(PoisonError::into_inner);
        *networks += 1;
        remove_left_overs();
        let prefix = format!("{PREFIX}{}x{networks}", std::process::id());
        let network = Self { prefix, nodes, subnet: free_subnet() };
        let bridge = network.bridge();
        ip(&["link", "add", &bridge, "type", "bridge"]);
        ip(&["addr", "add", &format!("{}/24", network.outside_ip()), "dev", &bridge]);
        ip(&["link", "set", &bridge, "up"]);
        for id in 1..=nodes {
            network.add_node(id);
        }
        network
    }

    /// Whether this machine lets us make namespaces.
    pub fn is_possible() -> bool {
        let is_root = rustix::process::geteuid().is_root();
        is_root && ["ip", "iptables"].iter().all(|tool| Command::new(tool).arg("-V").output().is_ok())
    }

    fn add_node(&self, id: u64) {
        let (ns, outer) = (self.namespace(id), format!("{}v{id}", self.prefix));
        ip(&["netns", "add", &ns]);
        ip(&["link", "add", &outer, "type", "veth", "peer", "name", "eth0", "netns", &ns]);
        ip(&["link", "set", &outer, "master", &self.bridge(), "up"]);
        ip(&["-n", &ns, "addr", "add", &format!("{}/24", self.node_ip(id)), "dev", "eth0"]);
        ip(&["-n", &ns, "link", "set", "eth0", "up"]);
        ip(&["-n", &ns, "link", "set", "lo", "up"]);
    }

    fn bridge(&self) -> String {
        format!("{}b", self.prefix)
    }

    /// The namespace of node `id`.
    pub fn namespace(&self, id: u64) -> String {
        format!("{}n{id}", self.prefix)
    }

    pub fn node_ip(&self, id: u64) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(10, 77, self.subnet, u8::try_from(id).expect("few nodes")))
    }

    pub fn outside_ip(&self) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(10, 77, self.subnet, 254))
    }

    /// Nothing that `from` sends reaches `to`; the other way stays open.
    pub fn cut(&self, from: u64, to: u64) {
        self.iptables(to, &["-A", "INPUT", "-s", &self.node_ip(from).to_string(), "-j", "DROP"]);
    }

    /// Cuts every link between two groups, both ways.
    pub fn split(&self, one: &[u64], other: &[u64]) {
        for (a, b) in one.iter().flat_map(|a| other.iter().map(move |b| (*a, *b))) {
            self.cut(a, b);
            self.cut(b, a);
        }
    }

    /// Everything reaches everyone again.
    pub fn heal(&self) {
        for id in 1..=self.nodes {
            self.iptables(id, &["-F", "INPUT"]);
        }
    }

    fn iptables(&self, id: u64, args: &[&str]) {
        let namespace = self.namespace(id);
        ip(&[&["netns", "exec", &namespace, "iptables", "-w"], args].concat());
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for id in 1..=self.nodes {
            let _ = Command::new("ip").args(["netns", "del", &self.namespace(id)]).output();
        }
        let _ = Command::new("ip").args(["link", "del", &self.bridge()]).output();
    }
}

fn ip(args: &[&str]) {
    let output = Command::new("ip").args(args).output().expect("iproute2 is installed");
    assert!(output.status.success(), "ip {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn ip_words(args: &[&str]) -> Vec<String> {
    let output = Command::new("ip").args(args).output().expect("iproute2 is installed");
    String::from_utf8_lossy(&output.stdout).split_whitespace().map(str::to_string).collect()
}

/// The first 10.77.x.0/24 that no interface has.
fn free_subnet() -> u8 {
    let taken = ip_words(&["-o", "-4", "addr"]);
    let is_free = |x: &u8| !taken.iter().any(|word| word.starts_with(&format!("10.77.{x}.")));
    (0..=255).find(is_free).expect("a free 10.77.x.0/24")
}

/// The process id in a name of ours, when that process is gone.
fn dead_owner(name: &str) -> Option<u32> {
    let digits: String = name.strip_prefix(PREFIX)?.chars().take_while(char::is_ascii_digit).collect();
    let pid = digits.parse().ok()?;
    (!std::path::Path::new(&format!("/proc/{pid}")).exists()).then_some(pid)
}

fn remove_left_overs() {
    for name in ip_words(&["netns", "list"]) {
        if dead_owner(&name).is_some() {
            let _ = Command::new("ip").args(["netns", "del", &name]).output();
        }
    }
    for word in ip_words(&["-o", "link", "show", "type", "bridge"]) {
        let name = word.trim_end_matches(':');
        if dead_owner(name).is_some() {
            let _ = Command::new("ip").args(["link", "del", name]).output();
        }
    }
}
