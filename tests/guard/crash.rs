//! The fence survives `kill -9`. The guard runs in a child process: this test binary, asked for its
//! one test `is_the_guard_of_a_crash_test`.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use termgate::fencing::mode::FenceMode;
use termgate::guard::Guard;

use crate::support::{Backend, config, fence, put_fence, write};

const DIR: &str = "TERMGATE_TEST_GUARD_DIR";
const BACKEND: &str = "TERMGATE_TEST_GUARD_BACKEND";
const MODE: &str = "TERMGATE_TEST_GUARD_MODE";

#[test]
#[ignore = "the child process of the other tests"]
fn is_the_guard_of_a_crash_test() {
    let Ok(dir) = std::env::var(DIR) else { return };
    let backend = std::env::var(BACKEND).expect("is set").parse().expect("an address");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let mut settings = config(backend, Path::new(&dir));
        if std::env::var(MODE).as_deref() == Ok("implicit") {
            settings.mode = FenceMode::Implicit;
        }
        let guard = Guard::start(settings).await.expect("starts");
        println!("\naddress {}", guard.address());
        std::future::pending::<()>().await;
    });
}

struct Process {
    child: Child,
    address: SocketAddr,
}

impl Process {
    fn start(dir: &Path, backend: SocketAddr, mode: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().expect("a path"))
            .args(["--ignored", "--exact", "--nocapture", "crash::is_the_guard_of_a_crash_test"])
            .env(DIR, dir)
            .env(BACKEND, backend.to_string())
            .env(MODE, mode)
            .stdout(Stdio::piped())
            .spawn()
            .expect("starts");
        let output = BufReader::new(child.stdout.take().expect("a pipe"));
        let address = output
            .lines()
            .map_while(Result::ok)
            .find_map(|line| line.strip_prefix("address ")?.parse().ok())
            .expect("says where it listens");
        Self { child, address }
    }

    fn kill(mut self) {
        self.child.kill().expect("SIGKILL is sent");
        self.child.wait().expect("is gone");
    }
}

#[tokio::test]
async fn a_raised_fence_survives_kill_9() {
    let backend = Backend::start().await;
    let dir = tempfile::tempdir().expect("a directory");
    for term in [3, 8, 9] {
        let guard = Process::start(dir.path(), backend.address, "enforced");
        assert_eq!(put_fence(guard.address, term).await.status, 200);
        guard.kill();

        let guard = Process::start(dir.path(), backend.address, "enforced");
        assert_eq!(fence(guard.address).await["term"], term);
        assert_eq!(write(guard.address, term - 1, "stale").await.status, 412);
        assert_eq!(write(guard.address, term, "good").await.status, 201);
        guard.kill();
    }
    assert_eq!(backend.complete().len(), 3);
}

#[tokio::test]
async fn an_implicitly_raised_fence_survives_kill_9() {
    let backend = Backend::start().await;
    let dir = tempfile::tempdir().expect("a directory");
    let guard = Process::start(dir.path(), backend.address, "implicit");
    assert_eq!(write(guard.address, 5, "a").await.status, 201);
    guard.kill();
    let guard = Process::start(dir.path(), backend.address, "implicit");
    assert_eq!(write(guard.address, 4, "stale").await.status, 412);
    guard.kill();
}

#[tokio::test]
async fn a_raise_that_was_not_answered_may_survive_but_never_goes_back() {
    let backend = Backend::start().await;
    let dir = tempfile::tempdir().expect("a directory");
    let guard = Process::start(dir.path(), backend.address, "enforced");
    assert_eq!(put_fence(guard.address, 5).await.status, 200);
    let address = guard.address;
    let raise = tokio::spawn(async move {
        let request = crate::support::raise_request("", r#"{"resource":"orders","term":6}"#);
        crate::support::raw(crate::support::connect(address).await, &request).await
    });
    guard.kill();
    let _answered_or_not = raise.await;
    let guard = Process::start(dir.path(), backend.address, "enforced");
    let term = fence(guard.address).await["term"].as_u64().expect("a number");
    assert!((5..=6).contains(&term), "{term}");
    guard.kill();
}
