//! `examples/ledger` on a real PostgreSQL, behind three real nodes. There is no guard: the example
//! verifies the fencing token itself, inside the transaction of the write.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use tokio_postgres::Row;

use crate::disaster::{back_up, lose_everything, restore_all};
use crate::machine;
use crate::support::cluster::{Cluster, Leader, Plan, SETTLE_LIMIT};
use crate::support::http::{Answer, request};
use crate::support::placement::Placement;
use crate::support::postgres::{Database, Server};
use crate::support::process::Process;
use crate::support::wait;
use crate::told::{Entry, PATIENCE, expect_as_told, write, write_until_landed};

/// The resource that `setup.sql` protects.
const RESOURCE: &str = "orders";
const SETUP: &str = include_str!("../../examples/ledger/setup.sql");
/// How the variables start that cargo sets for a test and not for itself.
const FOR_TESTS: [&str; 3] = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_"];

/// PostgreSQL, the example, and a cluster before it; they end in the opposite order.
struct Installation {
    cluster: Cluster,
    example: SocketAddr,
    _process: Process,
    database: Database,
    runtime: tokio::runtime::Runtime,
}

impl Installation {
    fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let database = runtime.block_on(set_up());
        let placement = Placement::loopback();
        let example = SocketAddr::new(placement.outside_ip(), placement.port(192));
        let plan = Plan {
            placement,
            resource: RESOURCE,
            backend_verifies: true,
            backend: Some(example),
            hold_timeout: Duration::from_secs(5),
            ..Plan::new(3)
        };
        let mut cluster = Cluster::prepare(plan);
        let process = start_example(&cluster, example, &database);
        cluster.start_all_nodes();
        cluster.wait_whole();
        Self { cluster, example, _process: process, database, runtime }
    }

    fn proxy(&self, id: u64) -> SocketAddr {
        self.cluster.at(id).proxy
    }

    /// A write that goes around termgate, stamped as `leader` did it.
    fn write_straight(&self, leader: &Leader, body: &str) -> Answer {
        let (term, node) = (leader.term.to_string(), leader.id.to_string());
        let fields = [
            ("termgate-term", term.as_str()),
            ("termgate-node", node.as_str()),
            ("termgate-resource", RESOURCE),
            ("termgate-request-id", "straight"),
        ];
        let answer = request(self.example, "POST", "/ledger", &fields, body.as_bytes(), PATIENCE);
        answer.expect("the example answers")
    }

    /// All rows, as SQL shows them.
    fn rows(&self) -> Vec<Entry> {
        let sql = "SELECT seq, term, node, body FROM ledger ORDER BY seq";
        let rows = self.runtime.block_on(self.database.owner.query(sql, &[])).expect("reads");
        let number = |row: &Row, at| u64::try_from(row.get::<_, i64>(at)).expect("no negative number");
        rows.iter().map(|row| (number(row, 0), number(row, 1), number(row, 2), row.get(3))).collect()
    }

    /// Whether SQL shows the fence at `leader`'s term, raised by it.
    fn expect_fence_of(&self, leader: &Leader) {
        let sql = "SELECT term, raised_by FROM termgate.fence WHERE resource = $1";
        let row = self.runtime.block_on(self.database.owner.query_one(sql, &[&RESOURCE])).expect("reads");
        let (term, raised_by): (i64, Option<i64>) = (row.get(0), row.get(1));
        assert_eq!(
            (term, raised_by),
            (leader.term as i64, Some(leader.id as i64)),
            "the fence of {leader:?}"
        );
    }
}

/// A server of our own with the recipe and the example's table and roles.
async fn set_up() -> Database {
    let database = Arc::new(Server::start().await).database().await;
    database.owner.batch_execute(SETUP).await.expect("sets up");
    database
}

fn start_example(cluster: &Cluster, at: SocketAddr, database: &Database) -> Process {
    let (binary, at) = (example_binary(), at.to_string());
    let (write, raise) =
        ["ledger_app", "ledger_raise"].map(|role| database.server.url(&database.name, role)).into();
    let program = [
        &[binary.to_str().expect("a plain path"), "--listen", &at, "--resource", RESOURCE][..],
        &["--database-url", &write, "--raise-url", &raise],
    ]
    .concat();
    let process = Process::spawn("the example", &cluster.dir().join("example.log"), &program, &[]);
    let listens = || process.output().contains("listens on").then_some(());
    wait::until("the example listens", SETTLE_LIMIT, listens);
    process
}

/// The example as its source is now: cargo builds it together with all tests, and not with this one
/// alone, so it is asked to.
fn example_binary() -> PathBuf {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_string());
    let mut build = Command::new(cargo);
    build.args(["build", "--locked", "--example", "ledger", "--message-format", "json"]);
    build.current_dir(env!("CARGO_MANIFEST_DIR"));
    // What the cargo that runs this test told us about ourselves would make some crates build anew.
    for (name, _) in
        std::env::vars().filter(|(name, _)| FOR_TESTS.iter().any(|start| name.starts_with(start)))
    {
        build.env_remove(name);
    }
    if !cfg!(debug_assertions) {
        build.arg("--release");
    }
    let output = build.output().expect("cargo can be started");
    assert!(output.status.success(), "{build:?}: {}", String::from_utf8_lossy(&output.stderr));
    let messages = String::from_utf8_lossy(&output.stdout).into_owned();
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let ours = |m: &serde_json::Value| m["target"]["name"] == "ledger" && m["target"]["kind"][0] == "example";
    let path = messages.filter(ours).find_map(|m| m["executable"].as_str().map(PathBuf::from));
    path.expect("cargo names the example's executable")
}

#[test]
fn the_example_on_postgresql_takes_writes_of_the_leader_only_and_keeps_them_over_its_death() {
    let _machine = machine();
    let mut all = Installation::start();
    let old = all.cluster.leader();
    let mut expected: Vec<Entry> = Vec::new();
    for id in all.cluster.ids() {
        let body = format!("through node {id}");
        let (seq, term) = write(all.proxy(id), &body);
        assert_eq!(term, old.term, "{body}");
        expected.push((seq, term, old.id, body));
    }
    assert_eq!(all.rows(), expected);
    all.expect_fence_of(&old);

    all.cluster.kill_node(old.id);
    let survivors: Vec<u64> = all.cluster.ids().into_iter().filter(|id| *id != old.id).collect();
    let (tried, seq, term) = write_until_landed(all.proxy(survivors[0]), "after the leader's death");
    assert!(term > old.term, "term {term} after {}", old.term);
    let new = all.cluster.leader();
    assert_eq!(term, new.term);
    all.expect_fence_of(&new);
    let rows = all.rows();
    assert_eq!(rows[..expected.len()], expected, "nothing is lost");
    expect_as_told(&tried, &rows[expected.len()..]);
    assert_eq!(rows.last().map(|row| (row.0, row.1, row.2)), Some((seq, term, new.id)));

    let stale = all.write_straight(&old, "as the old leader would");
    assert_eq!(stale.status, 412, "{}", stale.text());
    assert_eq!(stale.field("termgate-fence"), Some(format!("rejected; current={term}").as_str()));
    assert_eq!(all.rows(), rows, "the stale write is not there");

    // The same way is open to the term that stands: it was the term that was refused.
    let fresh = all.write_straight(&new, "as the new leader does");
    assert_eq!(fresh.status, 201, "{}", fresh.text());
    let (seq, same_term) = write(all.proxy(survivors[1]), "through the other survivor");
    assert_eq!(same_term, term);
    let more = all.rows().split_off(rows.len());
    let bodies: Vec<&str> = more.iter().map(|row| row.3.as_str()).collect();
    assert_eq!(bodies, ["as the new leader does", "through the other survivor"]);
    assert_eq!(fresh.json()["seq"], more[0].0);
    assert_eq!((more[1].0, more[1].1, more[1].2), (seq, term, new.id));
}

/// P4: the fence in PostgreSQL is read by `auto`, the old token loses in it, and the new one is taken.
#[test]
fn a_restored_cluster_goes_on_above_the_fence_in_postgresql() {
    let _machine = machine();
    let mut all = Installation::start();
    let backup = back_up(&all.cluster);
    let first = all.cluster.leader();
    all.cluster.kill_node(first.id);
    let survivor = all.cluster.ids().into_iter().find(|id| *id != first.id).expect("there are others");
    write_until_landed(all.proxy(survivor), "under a term that the backup does not know");
    let old = all.cluster.leader();
    assert!(old.term > first.term);
    all.expect_fence_of(&old);
    all.cluster.start_node(first.id);
    all.cluster.wait_whole();
    let before = all.rows();
    lose_everything(&mut all.cluster);

    let (floor, begin) = restore_all(&all.cluster, &backup);
    assert!(floor >= old.term, "{floor}");
    all.cluster.start_all_nodes();
    all.cluster.wait_whole();
    let new = all.cluster.leader();
    assert!(new.term > begin);
    all.expect_fence_of(&new);
    let stale = all.write_straight(&old, "as the old leader would");
    assert_eq!(stale.status, 412, "{}", stale.text());
    assert_eq!(stale.field("termgate-fence"), Some(format!("rejected; current={}", new.term).as_str()));
    let (seq, term) = write(all.proxy(survivor), "after the disaster");
    assert_eq!(term, new.term);
    let rows = all.rows();
    assert_eq!(rows[..before.len()], before, "what the backend holds stays");
    assert_eq!(rows[before.len()..], [(seq, term, new.id, "after the disaster".to_owned())]);
}
