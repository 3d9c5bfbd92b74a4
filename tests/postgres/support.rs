//! A PostgreSQL server of our own: its own directory, reached by a Unix socket only, one database
//! per test, stopped when the last test that uses it has ended.

use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio_postgres::{Client, Error, NoTls};

/// How long anything may take before a test gives up.
pub const LIMIT: Duration = Duration::from_secs(60);

const RECIPE: &str = include_str!("../../recipes/postgresql/termgate.sql");
/// What the tests protect, with a role like an application's.
const TABLES: &str = "
    CREATE TABLE orders (id bigserial PRIMARY KEY, term bigint, body text);
    CREATE TABLE unrelated (x int);
    SELECT termgate.termgate_protect('orders', 'orders');
    GRANT USAGE ON SCHEMA termgate TO app;
    GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON orders TO app;
    GRANT SELECT ON unrelated TO app;
    GRANT USAGE ON SEQUENCE orders_id_seq TO app;
";

pub struct Server {
    bin: PathBuf,
    dir: tempfile::TempDir,
    databases: AtomicUsize,
}

/// The server refuses to run as root: then everything runs as `postgres`.
fn unprivileged(program: &Path) -> Command {
    let mut command = Command::new(program);
    let own = std::fs::metadata("/proc/self").expect("is Linux").uid();
    if own == 0 {
        let (uid, gid) = postgres_user();
        command.uid(uid).gid(gid);
    }
    command.current_dir("/").stdout(Stdio::null());
    command
}

fn postgres_user() -> (u32, u32) {
    let users = std::fs::read_to_string("/etc/passwd").expect("is readable");
    let line = users.lines().find(|line| line.starts_with("postgres:"));
    let fields: Vec<&str> = line.expect("as root, these tests need the user postgres").split(':').collect();
    (fields[2].parse().expect("a number"), fields[3].parse().expect("a number"))
}

fn find_bin() -> PathBuf {
    if let Ok(dir) = std::env::var("TERMGATE_TEST_PG_BIN") {
        return dir.into();
    }
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = versions.map(|version| version.path().join("bin")).collect();
    found.sort();
    found.pop().expect("install PostgreSQL, or set TERMGATE_TEST_PG_BIN to the directory of initdb")
}

fn run(command: &mut Command) {
    let output = command.stderr(Stdio::piped()).output().expect("the program exists");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

impl Server {
    /// A server that only the caller uses.
    pub async fn start() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        if std::fs::metadata("/proc/self").expect("is Linux").uid() == 0 {
            let (uid, gid) = postgres_user();
            chown(dir.path(), Some(uid), Some(gid)).expect("root may");
        }
        let server = Self { bin: find_bin(), dir, databases: AtomicUsize::new(0) };
        let initdb = server.bin.join("initdb");
        run(unprivileged(&initdb)
            .args(["-A", "trust", "-U", "postgres", "--no-sync", "-D"])
            .arg(server.data()));
        server.ctl("start");
        let admin = server.connect("postgres", "postgres").await;
        admin.batch_execute("CREATE ROLE app LOGIN").await.expect("a role");
        server
    }

    /// A server that all tests share while any of them runs.
    pub async fn shared() -> Arc<Self> {
        static SHARED: tokio::sync::Mutex<Weak<Server>> = tokio::sync::Mutex::const_new(Weak::new());
        let mut shared = SHARED.lock().await;
        if let Some(server) = shared.upgrade() {
            return server;
        }
        let server = Arc::new(Self::start().await);
        *shared = Arc::downgrade(&server);
        server
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// `start`, `stop` or `promote`.
    pub fn ctl(&self, act: &str) {
        let socket = self.dir.path().display();
        let options = format!(
            "-k {socket} -c listen_addresses='' -c fsync=off -c max_prepared_transactions=10 -c max_connections=90"
        );
        let mut command = unprivileged(&self.bin.join("pg_ctl"));
        command.arg("-D").arg(self.data()).arg("-l").arg(self.dir.path().join("log")).args(["-w", act]);
        match act {
            "start" => command.args(["-o", &options]),
            "stop" => command.args(["-m", "fast"]),
            _ => &mut command,
        };
        run(&mut command);
    }

    /// The server comes back as a replica would: promoted, on another timeline.
    pub fn promote(&self) {
        self.ctl("stop");
        let signal = self.data().join("standby.signal");
        std::fs::write(&signal, "").expect("writes");
        let owner = std::fs::metadata(self.data()).expect("is there");
        chown(&signal, Some(owner.uid()), Some(owner.gid())).expect("may");
        self.ctl("start");
        self.ctl("promote");
    }

    /// How a program reaches `database` as `user`.
    pub fn url(&self, database: &str, user: &str) -> String {
        format!("host={} user={user} dbname={database}", self.dir.path().display())
    }

    pub async fn connect(&self, database: &str, user: &str) -> Client {
        let (client, connection) =
            tokio_postgres::connect(&self.url(database, user), NoTls).await.expect("connects");
        tokio::spawn(async move {
            // A terminated session ends with an error; the client sees it too.
            let _ended = connection.await;
        });
        client
    }

    /// A fresh database with the recipe and the tables.
    pub async fn database(self: &Arc<Self>) -> Database {
        let name = format!("test_{}", self.databases.fetch_add(1, Ordering::SeqCst));
        let admin = self.connect("postgres", "postgres").await;
        admin.batch_execute(&format!("CREATE DATABASE {name}")).await.expect("a database");
        let owner = self.connect(&name, "postgres").await;
        owner.batch_execute(RECIPE).await.expect("the recipe installs");
        owner.batch_execute(TABLES).await.expect("the tables");
        Database { server: self.clone(), name, owner }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let mut command = unprivileged(&self.bin.join("pg_ctl"));
        let _stopped = command.arg("-D").arg(self.data()).args(["-m", "immediate", "-w", "stop"]).status();
    }
}

pub struct Database {
    pub server: Arc<Server>,
    pub name: String,
    pub owner: Client,
}

impl Database {
    pub async fn new() -> Self {
        Server::shared().await.database().await
    }

    /// A session of the application.
    pub async fn app(&self) -> Client {
        self.server.connect(&self.name, "app").await
    }

    pub async fn session(&self, user: &str) -> Client {
        self.server.connect(&self.name, user).await
    }

    pub async fn raise(&self, term: i64) -> Result<(), Error> {
        raise(&self.owner, term).await
    }

    /// The terms of all rows, in the order in which their ids were drawn.
    pub async fn terms(&self) -> Vec<i64> {
        let rows = self.owner.query("SELECT term FROM orders ORDER BY id", &[]).await.expect("reads");
        rows.iter().map(|row| row.get(0)).collect()
    }
}

pub async fn raise(client: &Client, term: i64) -> Result<(), Error> {
    client.execute("SELECT termgate.termgate_raise('orders', $1, 1)", &[&term]).await.map(|_| ())
}

pub fn insert(term: i64) -> String {
    format!("INSERT INTO orders (term) VALUES ({term})")
}

/// A whole transaction under `term`.
pub async fn write(client: &Client, term: i64) -> Result<(), Error> {
    let sql = format!("BEGIN; SELECT termgate.termgate_begin('orders', {term}); {}; COMMIT", insert(term));
    let written = client.batch_execute(&sql).await;
    if written.is_err() {
        let _none_open = client.batch_execute("ROLLBACK").await;
    }
    written
}

/// The SQLSTATE of a refusal.
pub fn state<T: std::fmt::Debug>(result: Result<T, Error>) -> String {
    let error = result.expect_err("a refusal");
    error.code().map_or_else(|| format!("{error:?}"), |code| code.code().to_owned())
}

/// Waits until some session waits for a lock of `database`.
pub async fn until_waiting(database: &Database) {
    let sql = "SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND wait_event_type = 'Lock' AND wait_event = 'advisory'";
    let watcher = database.session("postgres").await;
    let started = std::time::Instant::now();
    while watcher.query_one(sql, &[]).await.expect("reads").get::<_, i64>(0) == 0 {
        assert!(started.elapsed() < LIMIT, "no session ever waited");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
