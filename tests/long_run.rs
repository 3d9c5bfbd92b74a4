//! What stays bounded however long a node runs: log, file and memory. Long, so it is asked for: `make long-run`.
//!
//! A real loop, store and mesh in this process, without the edges: an HTTP request for each of ten million
//! commands would measure HTTP.

mod node;
mod pki;

use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use node::Plan;
use pki::{Pki, free_address};
use termgate::driver::handle::Handle;
use termgate::driver::run::Running;
use termgate::registry::command::{Condition, Op};

/// Keys that are written over and over.
const KEYS: u64 = 10_000;
/// Proposals under way at once.
const WRITERS: u64 = 512;
/// A value as a lock or a shard's owner has it.
const VALUE: &[u8] = &[7; 100];
const MIB: u64 = 1024 * 1024;

fn commands() -> u64 {
    std::env::var("COMMANDS").ok().and_then(|text| text.parse().ok()).unwrap_or(10_000_000)
}

/// The memory of this process, in bytes.
fn memory() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// The bytes of all files below `dir`.
fn size(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    entries
        .map(
            |entry| if entry.path().is_dir() { size(&entry.path()) } else { entry.metadata().unwrap().len() },
        )
        .sum()
}

fn start(plan: &Plan<'_>) -> Running {
    plan.start(plan.open(), |fatal| panic!("a node ended by itself: {fatal}")).unwrap()
}

async fn wait_until_leader(node: &Handle) {
    while node.leadership().fence.is_none() {
        // The pace of the wait.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Writes until `done`, `WRITERS` at once; returns how many were applied.
async fn write(leader: &Handle, done: impl Fn(u64) -> bool + Clone + Send + 'static) -> u64 {
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        let (leader, done) = (leader.clone(), done.clone());
        writers.spawn(async move {
            let mut count = 0;
            while !done(count) {
                let key = format!("key-{}", (count * WRITERS + writer) % KEYS);
                let op = Op::Put { key, value: Bytes::from_static(VALUE), condition: Condition::None };
                let term = leader.leadership().term;
                count += u64::from(leader.propose(term, op).await.is_ok());
            }
            count
        });
    }
    writers.join_all().await.iter().sum()
}

#[test]
#[ignore = "takes minutes: make long-run"]
fn ten_million_commands_leave_log_file_and_memory_bounded() {
    let (pki, dir) = (Pki::new(), tempfile::tempdir().unwrap());
    let plan = Plan { pki: &pki, dir: dir.path(), id: 1, addresses: &[free_address()] };
    let running = start(&plan);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    println!("{:>10} {:>9} {:>9} {:>10} {:>12}", "commands", "log", "files MiB", "memory MiB", "commands/s");
    let steps: Vec<(u64, u64, u64)> = runtime.block_on(async {
        let leader = &running.handle;
        wait_until_leader(leader).await;
        let (mut steps, mut written) = (Vec::new(), 0);
        let each = commands() / 10;
        for _ in 0..10 {
            let began = Instant::now();
            written += write(leader, move |count| count >= each / WRITERS).await;
            let view = leader.view().await.unwrap();
            let log = view.last_log.index.0 - view.log_base.index.0;
            let step = (log, size(dir.path()), memory());
            let rate = each as f64 / began.elapsed().as_secs_f64();
            println!("{written:>10} {log:>9} {:>9} {:>10} {rate:>12.0}", step.1 / MIB, step.2 / MIB);
            steps.push(step);
        }
        steps
    });
    running.stop();
    assert!(commands() >= 2_000_000, "fewer commands show no bound: snapshots come after 100 000");
    let (_, files, memory) = steps[1];
    for (log, later_files, later_memory) in &steps[2..] {
        assert!(*log < 250_000, "the log has {log} entries");
        assert!(*later_files < files * 2, "the files grew from {files} to {later_files} bytes");
        assert!(*later_memory < memory * 3 / 2, "the memory grew from {memory} to {later_memory} bytes");
    }
}
