//! How long clients are without a leader when it is killed, next to etcd in the same run.
//!
//! Every round: writes arrive at the two followers every 5 ms, each on its own, whether or not the one
//! before was answered. The leader gets SIGKILL. The time from there to the first acknowledgement of a
//! write that was sent after the kill is one sample. Then the killed node starts again, the cluster gets
//! whole, and it is the other system's turn. Our writes end at a backend behind the guard, whose fence
//! the new leader has to raise first; etcd's end in its own log. Both have three nodes, the same
//! disk, and a heartbeat of 50 ms; etcd's election timeout is 300 ms, ours 150 to 300 ms.
//!
//! `make bench-failover KILLS=200`. Nothing here fails on time: the table is the result.

#[path = "../tests/support/mod.rs"]
mod support;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use support::cluster::{Cluster, Plan};
use support::dice::Dice;
use support::etcd::{Etcd, put_body};
use support::http::{Connection, Failure};
use support::stats::{millis, percentile, print_table};
use support::{number_from_env, wait};

/// Between two arrivals: the resolution of the measurement.
const ARRIVE_EVERY: Duration = Duration::from_millis(5);
/// Writes run for this long before a kill.
const WARM_UP: Duration = Duration::from_millis(300);
/// A kill falls anywhere within a heartbeat interval.
const HEARTBEAT_US: usize = 50_000;
/// A write that is not answered by then is given up; longer than any failover.
const PATIENCE: Duration = Duration::from_secs(5);
const CONNECT_LIMIT: Duration = Duration::from_millis(200);
const FAILOVER_LIMIT: Duration = Duration::from_secs(30);

/// A system whose leader can be killed.
trait Subject {
    fn name(&self) -> &'static str;
    /// Kills the leader; returns when.
    fn kill_leader(&mut self) -> Instant;
    /// Where clients of the others go; asked before the kill.
    fn survivors(&self) -> Vec<SocketAddr>;
    /// One write.
    fn write(&self) -> WriteOnce;
    /// Starts the killed node and waits until the cluster is whole.
    fn repair(&mut self);
}

/// One write with a body made from a number; true when acknowledged.
type WriteOnce = fn(&mut Connection, u64) -> Result<bool, Failure>;

struct Termgate {
    cluster: Cluster,
    killed: u64,
}

impl Subject for Termgate {
    fn name(&self) -> &'static str {
        "termgate"
    }

    fn kill_leader(&mut self) -> Instant {
        self.killed = self.cluster.leader().id;
        self.cluster.kill_node(self.killed)
    }

    fn survivors(&self) -> Vec<SocketAddr> {
        let leader = self.cluster.leader().id;
        self.cluster.nodes.iter().filter(|node| node.id != leader).map(|node| node.proxy).collect()
    }

    fn write(&self) -> WriteOnce {
        |connection, number| {
            let body = format!("entry {number}");
            let answer = connection.send("POST", "/ledger", &[], body.as_bytes(), PATIENCE)?;
            Ok(answer.status == 201)
        }
    }

    fn repair(&mut self) {
        self.cluster.start_node(self.killed);
        self.cluster.wait_whole();
    }
}

struct Rival {
    etcd: Etcd,
    killed: u64,
}

impl Subject for Rival {
    fn name(&self) -> &'static str {
        "etcd 3.4"
    }

    fn kill_leader(&mut self) -> Instant {
        self.killed = self.etcd.leader();
        self.etcd.kill_node(self.killed)
    }

    fn survivors(&self) -> Vec<SocketAddr> {
        let leader = self.etcd.leader();
        self.etcd
            .ids()
            .into_iter()
            .filter(|id| *id != leader)
            .map(|id| self.etcd.client_address(id))
            .collect()
    }

    fn write(&self) -> WriteOnce {
        |connection, number| {
            let body = put_body("entry", &number.to_string());
            let answer = connection.send("POST", "/v3/kv/put", &[], body.as_bytes(), PATIENCE)?;
            Ok(answer.status == 200 && answer.json()["header"].is_object())
        }
    }

    fn repair(&mut self) {
        self.etcd.start_node(self.killed);
        self.etcd.wait_whole();
    }
}

fn main() {
    let kills = number_from_env("KILLS", 200);
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut subjects: [Box<dyn Subject>; 2] = [
        Box::new(Termgate { cluster: Cluster::start(Plan::new(3)), killed: 0 }),
        Box::new(Rival { etcd: Etcd::start(3, dir.path()), killed: 0 }),
    ];
    let mut samples = [Vec::new(), Vec::new()];
    let mut dice = Dice(kills as u64);
    for kill in 1..=kills {
        for (subject, samples) in subjects.iter_mut().zip(&mut samples) {
            samples.push(millis(one_failover(subject.as_mut(), &mut dice)));
            subject.repair();
        }
        if kill % 10 == 0 {
            let medians = samples.each_ref().map(|s| percentile(s, 0.5));
            eprintln!("{kill} kills, medians {:.0} ms and {:.0} ms", medians[0], medians[1]);
        }
    }
    report([subjects[0].name(), subjects[1].name()], &samples);
}

/// Kills the leader under load; the time to the first acknowledgement of a later write.
fn one_failover(subject: &mut dyn Subject, dice: &mut Dice) -> Duration {
    let arrivals = Arrivals::start(subject.survivors(), subject.write());
    std::thread::sleep(WARM_UP + Duration::from_micros(dice.below(HEARTBEAT_US) as u64));
    let killed_at = subject.kill_leader();
    let first = wait::until("an acknowledged write after a kill", FAILOVER_LIMIT, || {
        let done = arrivals.acknowledged.lock().expect("no writer panicked");
        done.iter().filter(|(sent, _)| *sent > killed_at).map(|(_, answered)| *answered).min()
    });
    first - killed_at
}

/// Open-loop writes: one every 5 ms, each on a thread of its own, to the addresses in turn.
struct Arrivals {
    stop: Arc<AtomicBool>,
    /// When acknowledged writes were sent, and answered.
    acknowledged: Arc<Mutex<Vec<(Instant, Instant)>>>,
}

impl Arrivals {
    fn start(to: Vec<SocketAddr>, write: WriteOnce) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let acknowledged = Arc::new(Mutex::new(Vec::new()));
        let (stopped, record) = (Arc::clone(&stop), Arc::clone(&acknowledged));
        std::thread::spawn(move || {
            let idle: Vec<Arc<Mutex<Vec<Connection>>>> = to.iter().map(|_| Arc::default()).collect();
            let mut next = Instant::now();
            for number in 0_u64.. {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                let which = number as usize % to.len();
                let (address, idle, record) = (to[which], Arc::clone(&idle[which]), Arc::clone(&record));
                std::thread::spawn(move || {
                    let _ = arrive(address, &idle, write, number, &record);
                });
                next += ARRIVE_EVERY;
                std::thread::sleep(next.saturating_duration_since(Instant::now()));
            }
        });
        Self { stop, acknowledged }
    }
}

impl Drop for Arrivals {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn arrive(
    address: SocketAddr,
    idle: &Mutex<Vec<Connection>>,
    write: WriteOnce,
    number: u64,
    record: &Mutex<Vec<(Instant, Instant)>>,
) -> Result<(), Failure> {
    let sent = Instant::now();
    let kept = idle.lock().expect("no writer panicked").pop();
    let mut connection = kept.map_or_else(|| Connection::open(address, CONNECT_LIMIT), Ok)?;
    if write(&mut connection, number)? {
        record.lock().expect("no writer panicked").push((sent, Instant::now()));
    }
    if connection.is_reusable() {
        idle.lock().expect("no writer panicked").push(connection);
    }
    Ok(())
}

fn report(names: [&str; 2], samples: &[Vec<f64>; 2]) {
    let mut rows = vec![row!["kill -> first acknowledged write", "kills", "p50", "p90", "p99", "max"]];
    for (name, samples) in names.iter().zip(samples) {
        let at = |share| format!("{:.0} ms", percentile(samples, share));
        rows.push(row![name, samples.len(), at(0.5), at(0.9), at(0.99), at(1.0)]);
    }
    let ratio = |share| format!("{:.2} x", percentile(&samples[0], share) / percentile(&samples[1], share));
    rows.push(row!["ratio", "", ratio(0.5), ratio(0.9), ratio(0.99), ratio(1.0)]);
    rows.push(row!["target", "", "<= 250 ms", "", "<= 450 ms", ""]);
    print_table(&rows);
}
