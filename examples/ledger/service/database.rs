//! Sessions with PostgreSQL, and what an error says about the outcome of a write.
//!
//! A few tasks own one session each and take jobs from one queue. A write is a transaction of its
//! own: name the term, insert, commit; the trigger compares the term after it has the lock that a
//! raise waits for. Until COMMIT is sent nothing can have been applied. An error that comes back for
//! COMMIT itself is final only when the server says so without ending the session; in any other
//! case the outcome is unknown, and must be reported as that.

use std::sync::Arc;

use tokio::sync::{Mutex, mpsc, oneshot};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Error, NoTls, Statement};

/// Jobs that wait for a session; beyond that, writers wait for a place.
const MAX_QUEUED: usize = 1024;

/// What a write records.
#[derive(Debug, Clone)]
pub struct Write {
    pub term: i64,
    pub node: i64,
    pub request_id: Option<String>,
    pub body: String,
}

/// Why a job was not done.
#[derive(Debug)]
pub enum Failure {
    /// The fence refused the term; certainly nothing was applied.
    Fenced { current: u64, detail: String },
    /// Certainly nothing was applied.
    NotApplied(String),
    /// The session was lost when COMMIT was on its way.
    Unknown(String),
}

type Reply<T> = oneshot::Sender<Result<T, Failure>>;

enum Job {
    Append(Write, Reply<i64>),
    /// All entries as one JSON array.
    List(Reply<String>),
    Raise {
        term: i64,
        node: Option<i64>,
        reply: Reply<()>,
    },
    /// The term of the fence, zero before the first raise.
    Present(Reply<i64>),
}

/// A handle to the sessions.
#[derive(Clone)]
pub struct Database {
    writes: mpsc::Sender<Job>,
    /// A raise never queues up behind writes.
    raises: mpsc::Sender<Job>,
}

impl Database {
    /// Starts `count` sessions with `url` and one with `raise_url`; they connect when there is work.
    pub fn new(url: &str, raise_url: &str, resource: &str, count: usize) -> Self {
        let start = |url: &str, count: usize| {
            let (queue, jobs) = mpsc::channel(MAX_QUEUED);
            let jobs = Arc::new(Mutex::new(jobs));
            for _ in 0..count {
                let worker = Worker { url: url.to_owned(), resource: resource.to_owned(), session: None };
                tokio::spawn(worker.run(jobs.clone()));
            }
            queue
        };
        Self { writes: start(url, count), raises: start(raise_url, 1) }
    }

    pub async fn append(&self, write: Write) -> Result<i64, Failure> {
        ask(&self.writes, |reply| Job::Append(write, reply)).await
    }

    pub async fn list(&self) -> Result<String, Failure> {
        ask(&self.writes, Job::List).await
    }

    pub async fn raise(&self, term: i64, node: Option<i64>) -> Result<(), Failure> {
        ask(&self.raises, |reply| Job::Raise { term, node, reply }).await
    }

    pub async fn present(&self) -> Result<i64, Failure> {
        ask(&self.raises, Job::Present).await
    }
}

async fn ask<T>(queue: &mpsc::Sender<Job>, job: impl FnOnce(Reply<T>) -> Job) -> Result<T, Failure> {
    let (reply, answer) = oneshot::channel();
    let gone = || Failure::Unknown("the task that owns the session is gone".into());
    queue.send(job(reply)).await.map_err(|_| gone())?;
    answer.await.map_err(|_| gone())?
}

/// One connection, with its statements prepared.
struct Session {
    client: Client,
    statements: Option<(Statement, Statement)>,
}

struct Worker {
    url: String,
    resource: String,
    session: Option<Session>,
}

impl Worker {
    async fn run(mut self, jobs: Arc<Mutex<mpsc::Receiver<Job>>>) {
        loop {
            let job = jobs.lock().await.recv().await;
            let Some(job) = job else { return };
            // Whoever asked may be gone; a write is carried to its end all the same.
            match job {
                Job::Append(write, reply) => drop(reply.send(self.append(&write).await)),
                Job::List(reply) => drop(reply.send(self.list().await)),
                Job::Raise { term, node, reply } => drop(reply.send(self.raise(term, node).await)),
                Job::Present(reply) => drop(reply.send(self.present().await)),
            }
        }
    }

    /// The live session, or a new one.
    async fn session(&mut self) -> Result<&mut Session, Failure> {
        if self.session.as_ref().is_none_or(|session| session.client.is_closed()) {
            let connected = tokio_postgres::connect(&self.url, NoTls).await;
            let (client, connection) = connected.map_err(|error| before_commit(&error))?;
            tokio::spawn(async move {
                if let Err(error) = connection.await {
                    tracing::warn!(%error, "a session with PostgreSQL ended");
                }
            });
            self.session = Some(Session { client, statements: None });
        }
        Ok(self.session.as_mut().expect("was just made"))
    }

    async fn append(&mut self, write: &Write) -> Result<i64, Failure> {
        let resource = self.resource.clone();
        let session = self.session().await?;
        let written = session.append(&resource, write).await;
        if matches!(written, Err(Failure::Unknown(_))) {
            self.session = None;
        }
        written
    }

    async fn list(&mut self) -> Result<String, Failure> {
        let sql = "SELECT coalesce(json_agg(row_to_json(l) ORDER BY l.seq), '[]')::text FROM ledger l";
        let session = self.session().await?;
        let row = session.client.query_one(sql, &[]).await;
        Ok(row.map_err(|error| before_commit(&error))?.get(0))
    }

    async fn raise(&mut self, term: i64, node: Option<i64>) -> Result<(), Failure> {
        let resource = self.resource.clone();
        let sql = "SELECT termgate.termgate_raise($1, $2, $3)";
        let session = self.session().await?;
        let raised = session.client.execute(sql, &[&resource, &term, &node]).await;
        raised.map(|_| ()).map_err(|error| before_commit(&error))
    }

    async fn present(&mut self) -> Result<i64, Failure> {
        let resource = self.resource.clone();
        let sql = "SELECT term FROM termgate.termgate_present($1)";
        let session = self.session().await?;
        let row = session.client.query_opt(sql, &[&resource]).await;
        Ok(row.map_err(|error| before_commit(&error))?.map_or(0, |row| row.get(0)))
    }
}

impl Session {
    async fn statements(&mut self) -> Result<(Statement, Statement), Error> {
        if self.statements.is_none() {
            let begin = self.client.prepare("SELECT termgate.termgate_begin($1, $2)").await?;
            let insert =
                "INSERT INTO ledger (term, node, request_id, body) VALUES ($1, $2, $3, $4) RETURNING seq";
            self.statements = Some((begin, self.client.prepare(insert).await?));
        }
        Ok(self.statements.clone().expect("were just prepared"))
    }

    /// One transaction. An early return drops it, which rolls it back.
    async fn append(&mut self, resource: &str, write: &Write) -> Result<i64, Failure> {
        let (begin, insert) = self.statements().await.map_err(|error| before_commit(&error))?;
        let transaction = self.client.transaction().await.map_err(|error| before_commit(&error))?;
        let Write { term, node, request_id, body } = write;
        // The server takes both in this order; waiting once for the two saves a round trip.
        let (named, inserted) = futures_util::future::join(
            transaction.execute(&begin, &[&resource, term]),
            transaction.query_one(&insert, &[term, node, request_id, body]),
        )
        .await;
        let row = named.and(inserted).map_err(|error| before_commit(&error))?;
        transaction.commit().await.map_err(|error| at_commit(&error))?;
        Ok(row.get(0))
    }
}

/// COMMIT was not sent: whatever happened, nothing was applied.
fn before_commit(error: &Error) -> Failure {
    let Some(refusal) = error.as_db_error() else { return Failure::NotApplied(error.to_string()) };
    let detail = refusal.message().to_owned();
    match refusal.code().code() {
        "TG001" | "TG002" => {
            let current = refusal.detail().and_then(|detail| detail.strip_prefix("current=")?.parse().ok());
            Failure::Fenced { current: current.unwrap_or(0), detail }
        }
        _ => Failure::NotApplied(detail),
    }
}

/// COMMIT was sent: only an error after which the session goes on says that it did not happen.
fn at_commit(error: &Error) -> Failure {
    let rolled_back = error.as_db_error().is_some_and(|refusal| {
        let session_ends = ["FATAL", "PANIC"].contains(&refusal.severity());
        !session_ends && *refusal.code() != SqlState::T_R_STATEMENT_COMPLETION_UNKNOWN
    });
    if rolled_back { before_commit(error) } else { Failure::Unknown(error.to_string()) }
}
