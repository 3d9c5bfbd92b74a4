//! Clients of both kinds at work on one cluster, and the judgement over all that they saw.
//!
//! Some write to the fenced resource through the proxies: their writes never enter the log, and the backend's own
//! record judges them. The others work on the registry, whose every write is an entry of the log: their history must
//! be linearizable, and at its end stands what each node that is left says of every key.

use std::net::SocketAddr;
use std::time::Duration;

use super::client::{Crowd, Habits};
use super::cluster::{Cluster, SETTLE_LIMIT};
use super::ends::Unknown;
use super::lin::history::Op;
use super::lin::judge::{Judgement, judge};
use super::registry::{self, RegistryCrowd};
use super::verdict::{Outcome, Verdict, Write, check};
use super::wait;

/// Writers to the fenced resource, three for each of three nodes, and their pause.
const WRITERS: usize = 9;
const WRITER_PAUSE: Duration = Duration::from_millis(30);
/// Clients of the registry.
const CLIENTS: u64 = 8;
/// Longer than a node holds a request, so that a client hears what the node decided.
const PATIENCE: Duration = Duration::from_secs(6);

/// Both kinds at work.
#[derive(Debug)]
pub struct Load {
    writers: Crowd,
    pub clients: RegistryCrowd,
}

/// What they saw, and what it comes to.
#[derive(Debug)]
pub struct Account {
    pub writes: Vec<Write>,
    pub record: registry::Record,
    /// Layers 1 and 2.
    pub judgement: Judgement,
    /// Layer 3.
    pub resource: Verdict,
}

impl Load {
    /// They ask all nodes that run. Clients of the registry rest for `pause` between two operations.
    pub fn start(cluster: &Cluster, pause: Duration) -> Self {
        let ids: Vec<u64> =
            cluster.nodes.iter().filter(|node| node.is_running()).map(|node| node.id).collect();
        let habits = Habits { nodes: proxies(cluster, &ids), pause: WRITER_PAUSE, patience: PATIENCE };
        let writers = Crowd::start(WRITERS, "w", &habits, cluster.start);
        let habits = registry::Habits { nodes: apis(cluster, &ids), pause, patience: PATIENCE };
        let clients = RegistryCrowd::start(CLIENTS, habits, cluster.start);
        Self { writers, clients }
    }

    /// From now on they ask these nodes.
    pub fn turn_to(&self, cluster: &Cluster, ids: &[u64]) {
        self.writers.turn_to(proxies(cluster, ids));
        self.clients.turn_to(apis(cluster, ids));
    }

    /// Waits until so many more operations on the registry were answered, and so many more writes are at the backend.
    pub fn wait_for_more(&self, cluster: &Cluster, operations: usize, writes: usize) {
        let (answered, written) = (self.clients.answered() + operations, cluster.ledger.len() + writes);
        let what = format!("{answered} operations on the registry and {written} writes at the backend");
        wait::until(&what, SETTLE_LIMIT, || {
            (self.clients.answered() >= answered && cluster.ledger.len() >= written).then_some(())
        });
    }

    /// Ends all clients, reads every key of theirs at each of the nodes that are left, and judges.
    pub fn finish(self, cluster: &Cluster, left: &[u64]) -> Account {
        let writes = self.writers.finish();
        let record = self.clients.finish(&apis(cluster, left), SETTLE_LIMIT);
        let resource = check(&writes, &cluster.ledger.commits());
        let judgement = judge(&record.ops);
        Account { writes, record, judgement, resource }
    }
}

fn proxies(cluster: &Cluster, ids: &[u64]) -> Vec<(u64, SocketAddr)> {
    ids.iter().map(|id| (*id, cluster.at(*id).proxy)).collect()
}

fn apis(cluster: &Cluster, ids: &[u64]) -> Vec<(u64, SocketAddr)> {
    ids.iter().map(|id| (*id, cluster.api_address(*id))).collect()
}

impl Account {
    /// Whether every layer is content, and every outcome was stated. Undecided is not content.
    pub fn holds(&self) -> bool {
        self.record.unstated.is_empty() && self.judgement.holds() && self.resource.findings.is_empty()
    }

    /// Prints what does not hold, and lets the cluster's files stay, with the history.
    pub fn tell_problems(&self, cluster: &mut Cluster) {
        if self.holds() {
            return;
        }
        for unstated in &self.record.unstated {
            println!("FOUND an answer without an outcome: {unstated}");
        }
        for problem in self.judgement.problems(&self.record.ops) {
            println!("FOUND {problem}");
        }
        for finding in &self.resource.findings {
            println!("FOUND layer 3: {finding:?}");
        }
        let lines: Vec<String> = self.record.ops.iter().map(Op::to_string).collect();
        let kept = cluster.keep_files();
        std::fs::write(kept.join("registry-history.txt"), lines.join("\n"))
            .expect("the history can be written");
        println!("logs, records and registry-history.txt are kept in {}", kept.display());
    }

    /// Every write of unknown outcome, of both kinds.
    pub fn unknown(&self) -> Vec<Unknown> {
        let of_resource = self.writes.iter().filter_map(|write| {
            let Outcome::Unknown(why) = &write.outcome else { return None };
            let what = format!("{}: {why}", write.body);
            Some(unknown(write.asked, [write.called_ns, write.answered_ns], what))
        });
        let ops = self.record.ops.iter().zip(&self.record.asked);
        let of_registry = ops
            .filter(|(op, _)| op.is_unknown_write())
            .map(|(op, asked)| unknown(*asked, [op.called, op.returned], op.to_string()));
        of_resource.chain(of_registry).collect()
    }
}

fn unknown(asked: u64, times: [u64; 2], what: String) -> Unknown {
    let [called, answered] = times.map(Duration::from_nanos);
    Unknown { asked, called, answered, what }
}
