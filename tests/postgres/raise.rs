//! What a raise waits for, what it ends, and what it survives.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use tokio::task::JoinSet;

use crate::support::{Database, LIMIT, Server, insert, raise, state, write};

const WRITERS: usize = 16;

#[tokio::test]
async fn never_goes_down_and_may_be_repeated() {
    let database = Database::new().await;
    database.raise(7).await.expect("raises");
    database.raise(7).await.expect("again");
    assert_eq!(state(database.raise(6).await), "TG001");
    let app = database.app().await;
    write(&app, 7).await.expect("7 still stands");
    assert_eq!(state(write(&app, 6).await), "TG001");
}

#[tokio::test]
async fn repeating_it_does_not_wait_for_writes_of_the_same_term() {
    let database = Database::new().await;
    database.raise(7).await.expect("raises");
    let app = database.app().await;
    let sql = format!("BEGIN; SELECT termgate.termgate_begin('orders', 7); {}", insert(7));
    app.batch_execute(&sql).await.expect("writes");
    database.raise(7).await.expect("again");
    app.batch_execute("COMMIT").await.expect("was not terminated");
}

#[tokio::test]
async fn refuses_to_start_from_an_old_snapshot() {
    let database = Database::new().await;
    let session = database.session("postgres").await;
    session.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ").await.expect("begins");
    assert!(raise(&session, 1).await.is_err());
}

/// Row locks alone starve a raise for as long as the load goes on (14.5 s measured). Here it must come through
/// while all writers go on, which end only when they are told to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn comes_through_while_sixteen_writers_go_on() {
    let database = Database::new().await;
    database.raise(1).await.expect("raises");
    let (term, stop) = (Arc::new(AtomicI64::new(1)), Arc::new(AtomicBool::new(false)));
    let written = Arc::new(AtomicU64::new(0));
    let mut writers = JoinSet::new();
    for _ in 0..WRITERS {
        let session = database.app().await;
        let (term, stop, written) = (term.clone(), stop.clone(), written.clone());
        writers.spawn(async move {
            while !stop.load(Ordering::SeqCst) {
                let now = term.load(Ordering::SeqCst);
                let sql = format!(
                    "BEGIN; SELECT termgate.termgate_begin('orders', {now}); {}; SELECT pg_sleep(0.02); COMMIT",
                    insert(now)
                );
                match session.batch_execute(&sql).await {
                    Ok(()) => {
                        written.fetch_add(1, Ordering::SeqCst);
                    }
                    // Overtaken by a raise; the next round has the new term.
                    Err(error) => {
                        assert!(["TG001", "TG002"].contains(&&*state::<()>(Err(error))));
                        session.batch_execute("ROLLBACK").await.expect("ends");
                    }
                }
            }
        });
    }
    for next in 2..=6 {
        let before = written.load(Ordering::SeqCst);
        wait_for_writes(&written, before + 50).await;
        tokio::time::timeout(LIMIT, database.raise(next)).await.expect("no starvation").expect("raises");
        term.store(next, Ordering::SeqCst);
    }
    let before = written.load(Ordering::SeqCst);
    wait_for_writes(&written, before + 50).await;
    stop.store(true, Ordering::SeqCst);
    writers.join_all().await;
    let terms = database.terms().await;
    assert_eq!(terms.len() as u64, written.load(Ordering::SeqCst), "no writer was terminated");
    assert!(terms.is_sorted(), "a stale write landed");
}

async fn wait_for_writes(written: &AtomicU64, goal: u64) {
    let started = std::time::Instant::now();
    while written.load(Ordering::SeqCst) < goal {
        assert!(started.elapsed() < LIMIT, "the writers stand still");
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn ends_a_transaction_that_does_not_end_by_itself() {
    let database = Database::new().await;
    database.raise(1).await.expect("raises");
    let old = database.app().await;
    let sql = format!("BEGIN; SELECT termgate.termgate_begin('orders', 1); {}", insert(1));
    old.batch_execute(&sql).await.expect("writes, and then hangs");
    let impatient = "SELECT termgate.termgate_raise('orders', 2, 1, 50)";
    database.owner.batch_execute(impatient).await.expect("raises");
    assert!(old.batch_execute("COMMIT").await.is_err(), "its session is gone");
    assert_eq!(database.terms().await, [0; 0]);
}

#[tokio::test]
async fn does_not_pass_a_prepared_transaction_of_an_older_term() {
    let database = Database::new().await;
    database.raise(1).await.expect("raises");
    let old = database.app().await;
    let sql = format!(
        "BEGIN; SELECT termgate.termgate_begin('orders', 1); {}; PREPARE TRANSACTION '{}'",
        insert(1),
        database.name
    );
    old.batch_execute(&sql).await.expect("is prepared");
    drop(old);
    let impatient = "SELECT termgate.termgate_raise('orders', 2, 1, 50)";
    let error = database.owner.batch_execute(impatient).await.expect_err("it holds the lock");
    let refusal = error.as_db_error().expect("an answer");
    assert_eq!(refusal.code().code(), "TG004");
    assert!(refusal.hint().is_some_and(|hint| hint.contains(&database.name)), "{refusal:?}");
    let resolve = format!("ROLLBACK PREPARED '{}'", database.name);
    database.owner.batch_execute(&resolve).await.expect("resolves");
    database.owner.batch_execute(impatient).await.expect("raises");
    assert_eq!(database.terms().await, [0; 0]);
}

/// An asynchronous replica may have lost the last raise. After a promotion nothing is admitted
/// until the leader has raised the fence on the new timeline.
#[tokio::test]
async fn has_to_be_repeated_after_a_promotion() {
    let server = Arc::new(Server::start().await);
    let mut database = server.database().await;
    database.raise(5).await.expect("raises");
    write(&database.app().await, 5).await.expect("writes");
    server.promote();
    database.owner = database.session("postgres").await;
    let app = database.app().await;
    assert_eq!(state(write(&app, 5).await), "TG002", "raised on another timeline");
    assert_eq!(state(write(&app, 4).await), "TG001");
    assert_eq!(state(database.raise(4).await), "TG001", "what it remembers still counts");
    database.raise(5).await.expect("raises");
    write(&app, 5).await.expect("writes");
}
