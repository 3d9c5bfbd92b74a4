//! Wall clocks that jump and run fast under running nodes (`libfaketime`, which leaves the clocks alone that measure durations). No
//! election, no lease and no answer may depend on them (R8).

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use crate::machine;
use crate::support::client::read_outcome;
use crate::support::cluster::{Cluster, Plan};
use crate::support::verdict::Outcome;
use crate::support::{termgate, wait};

const PATIENCE: Duration = Duration::from_secs(10);
/// What is done to a wall clock, as `libfaketime` takes it, and about where it then is, in seconds from the true one.
const JUMPS: [(&str, i64); 4] = [("+1h", 3600), ("-59m", -3540), ("+0 x2", 0), ("+30d", 30 * 86_400)];
/// Writes and lease reads after each jump: some election timeouts of them.
const REQUESTS: usize = 40;

/// Nodes whose wall clocks a file each decides on.
struct Clocks {
    cluster: Cluster,
}

impl Clocks {
    fn start(nodes: u64) -> Self {
        let mut cluster = Cluster::prepare(Plan::new(nodes));
        cluster.start_guard();
        let library = library();
        for id in cluster.ids() {
            let file = clock_of(&cluster, id);
            std::fs::write(&file, "+0").expect("a clock");
            let config = cluster.config_of(id);
            let (preload, file) = (format!("LD_PRELOAD={}", library.display()), file.display());
            let (file, config) =
                (format!("FAKETIME_TIMESTAMP_FILE={file}"), config.to_str().expect("a path"));
            let (fresh, others) = ("FAKETIME_NO_CACHE=1", "FAKETIME_DONT_FAKE_MONOTONIC=1");
            let program = ["env", &preload, &file, fresh, others, termgate(), "node", "--config", config];
            cluster.start_in_place_of(id, &program);
        }
        cluster.wait_whole();
        Self { cluster }
    }

    /// Another wall clock for node `id`, from now on.
    fn set(&self, id: u64, clock: &str) {
        let (file, next) = (clock_of(&self.cluster, id), self.cluster.dir().join("next-clock"));
        std::fs::write(&next, clock).expect("a clock");
        std::fs::rename(&next, &file).expect("the clock is replaced");
    }

    /// How far the leader's wall clock is from the true one, in seconds: the end of its lease is told as a date.
    fn offset(&self, leader: u64) -> Option<i64> {
        let said = self.cluster.api(leader, "GET", "/leader", b"").ok()?.json();
        let until = said["lease_expires_at"].as_str()?.to_owned();
        let date = Command::new("date").args(["-u", "-d", &until, "+%s"]).output().expect("date runs");
        let there: i64 = String::from_utf8_lossy(&date.stdout).trim().parse().ok()?;
        let here = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
        Some(there - here.as_secs() as i64)
    }

    /// Writes through every node in turn, and lease reads at the leader, all of which succeed.
    fn work(&self, leader: u64, name: &str) {
        let ids = self.cluster.ids();
        for turn in 0..REQUESTS {
            let node = ids[turn % ids.len()];
            let answer = self.cluster.write(node, &format!("{name}-{turn}"), PATIENCE).expect("an answer");
            let outcome = read_outcome(&answer);
            assert!(matches!(outcome, Outcome::Acknowledged { .. }), "{name}: {outcome:?}");
            let read = self.cluster.api(leader, "GET", "/primary", b"").expect("an answer");
            assert_eq!(read.status, 200, "{name}: the gate stays open");
        }
    }
}

fn clock_of(cluster: &Cluster, id: u64) -> PathBuf {
    cluster.dir().join(format!("clock-{id}"))
}

fn library() -> PathBuf {
    let places = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib"];
    let there = places.iter().map(|place| Path::new(place).join("faketime/libfaketimeMT.so.1"));
    there.into_iter().find(|path| path.exists()).expect("libfaketime is installed: run `make tools`")
}

#[test]
fn wall_clocks_that_jump_move_no_election_and_no_lease() {
    let _machine = machine();
    let clocks = Clocks::start(3);
    let leader = clocks.cluster.leader();
    for (clock, seconds) in JUMPS {
        for id in clocks.cluster.ids() {
            clocks.set(id, clock);
            if id == leader.id {
                wait::until(&format!("the leader's wall clock is at {clock}"), PATIENCE, || {
                    clocks.offset(leader.id).filter(|offset| (offset - seconds).abs() < 120)
                });
            }
            clocks.work(leader.id, &format!("{clock}-at-{id}"));
            assert_eq!(clocks.cluster.leader(), leader, "{clock} at node {id} moves nobody");
        }
    }
}
