//! A stale transaction against a raise. `old` writes under term 1, `new` raises to 2 and writes one
//! row; a design is unsafe when a row of term 1 comes after the row of term 2.
//!
//! The unsafe designs are run too: they show that these tests can see a stale commit.

use tokio_postgres::Client;

use crate::support::{Database, insert, raise, state, until_waiting, write};

const LEVELS: [&str; 3] = ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"];

async fn begin(client: &Client, level: &str, snapshot_first: bool) {
    client.batch_execute(&format!("BEGIN ISOLATION LEVEL {level}")).await.expect("begins");
    if snapshot_first {
        client.batch_execute("SELECT count(*) FROM unrelated").await.expect("reads");
    }
    client.batch_execute("SELECT termgate.termgate_begin('orders', 1)").await.expect("names its term");
}

fn landed_stale(terms: &[i64]) -> bool {
    !terms.is_sorted()
}

// ---- unsafe designs ---------------------------------------------------------------------------

/// `old` checks with `check`, `new` moves the fence and writes, `old` writes and commits.
async fn unsafe_design(level: &str, check: &str) -> Vec<i64> {
    let database = Database::new().await;
    let setup = "DROP TRIGGER termgate_fence ON orders;
        CREATE TABLE fence (term int, note text); INSERT INTO fence VALUES (1);";
    database.owner.batch_execute(setup).await.expect("sets up");
    let old = database.session("postgres").await;
    let new = database.session("postgres").await;
    old.batch_execute(&format!("BEGIN ISOLATION LEVEL {level}; SELECT 1 FROM unrelated"))
        .await
        .expect("begins");
    let read = async || {
        old.batch_execute("SELECT pg_advisory_xact_lock_shared(1)").await.expect("locks");
        let row = old.query_one(check, &[]).await.expect("reads");
        assert_eq!(row.get::<_, i32>(0), 1, "it believes in its term");
    };
    let locks = check.contains("/* after the lock */");
    if !locks {
        let row = old.query_one(check, &[]).await.expect("reads");
        assert_eq!(row.get::<_, i32>(0), 1);
    }
    let barrier = "BEGIN; SELECT pg_advisory_xact_lock(1); UPDATE fence SET term = 2; COMMIT";
    new.batch_execute(barrier).await.expect("raises");
    new.batch_execute(&insert(2)).await.expect("writes");
    if locks {
        read().await;
    }
    old.batch_execute(&format!("{}; COMMIT", insert(1))).await.expect("nothing stops it");
    database.terms().await
}

#[tokio::test]
async fn a_plain_select_of_the_fence_lets_a_stale_write_through() {
    assert!(landed_stale(&unsafe_design("READ COMMITTED", "SELECT term FROM fence").await), "variant A");
}

#[tokio::test]
async fn a_plain_select_lets_a_stale_write_through_even_at_serializable() {
    assert!(landed_stale(&unsafe_design("SERIALIZABLE", "SELECT term FROM fence").await), "variant B");
}

#[tokio::test]
async fn a_lock_and_a_plain_select_let_a_stale_write_through_at_repeatable_read() {
    let check = "SELECT term FROM fence /* after the lock */";
    assert!(landed_stale(&unsafe_design("REPEATABLE READ", check).await), "variant G2");
}

// ---- the design that ships --------------------------------------------------------------------

#[tokio::test]
async fn a_transaction_that_has_not_written_is_refused_after_the_raise() {
    for level in LEVELS {
        for snapshot_first in [false, true] {
            let database = Database::new().await;
            database.raise(1).await.expect("raises");
            let (old, new) = (database.app().await, database.app().await);
            begin(&old, level, snapshot_first).await;
            database.raise(2).await.expect("is not held up");
            write(&new, 2).await.expect("writes");
            let refusal = state(old.batch_execute(&insert(1)).await);
            // At the higher levels the transaction may look at the fence as it was before the raise.
            assert!(["TG001", "40001"].contains(&&*refusal), "{level}, {snapshot_first}: {refusal}");
            old.batch_execute("COMMIT").await.expect("ends");
            assert_eq!(database.terms().await, [2], "{level}, {snapshot_first}");
        }
    }
}

#[tokio::test]
async fn a_raise_waits_for_a_transaction_that_has_written() {
    for level in LEVELS {
        let database = Database::new().await;
        database.raise(1).await.expect("raises");
        let (old, new) = (database.app().await, database.app().await);
        begin(&old, level, true).await;
        old.batch_execute(&insert(1)).await.expect("is the leader");
        let owner = database.session("postgres").await;
        let raising = tokio::spawn(async move { raise(&owner, 2).await });
        until_waiting(&database).await;
        old.batch_execute(&format!("{}; COMMIT", insert(1))).await.expect("the raise has not come through");
        raising.await.expect("no panic").expect("raises");
        write(&new, 2).await.expect("writes");
        assert_eq!(database.terms().await, [1, 1, 2], "{level}");
    }
}

#[tokio::test]
async fn a_write_that_waited_for_the_raise_sees_the_new_term() {
    for level in LEVELS {
        for snapshot_first in [false, true] {
            let database = Database::new().await;
            database.raise(1).await.expect("raises");
            let raiser = database.session("postgres").await;
            raiser.batch_execute("BEGIN").await.expect("begins");
            raise(&raiser, 2).await.expect("has the lock, and is not committed");
            let old = database.app().await;
            begin(&old, level, snapshot_first).await;
            let writing = tokio::spawn(async move { old.batch_execute(&insert(1)).await });
            until_waiting(&database).await;
            raiser.batch_execute("COMMIT").await.expect("commits");
            let refusal = state(writing.await.expect("no panic"));
            assert!(["TG001", "40001"].contains(&&*refusal), "{level}, {snapshot_first}: {refusal}");
            assert_eq!(database.terms().await, [0; 0]);
        }
    }
}

#[tokio::test]
async fn every_kind_of_write_is_refused() {
    let statements = [
        "INSERT INTO orders (term) VALUES (1)",
        "INSERT INTO orders (term) SELECT 1 WHERE false",
        "UPDATE orders SET term = 1",
        "UPDATE orders SET term = 1 WHERE false",
        "DELETE FROM orders",
        "TRUNCATE orders",
        "WITH w AS (INSERT INTO orders (term) VALUES (1) RETURNING 1) SELECT * FROM w",
        "WITH w AS (DELETE FROM orders RETURNING 1) SELECT * FROM w",
        "INSERT INTO orders (id, term) VALUES (1, 1) ON CONFLICT (id) DO UPDATE SET term = 1",
        "COPY orders (term) FROM STDIN",
        "DO $$ BEGIN EXECUTE 'INSERT INTO orders (term) VALUES (1)'; END $$",
    ];
    let database = Database::new().await;
    database.raise(2).await.expect("raises");
    let old = database.app().await;
    write(&old, 2).await.expect("one row, for UPDATE and DELETE");
    for statement in statements {
        for (named, expected) in [(1, "TG001"), (3, "TG002"), (0, "TG003")] {
            // A session of its own: the client can't go on after a refused COPY.
            let old = database.app().await;
            old.batch_execute("BEGIN").await.expect("begins");
            if named > 0 {
                let sql = format!("SELECT termgate.termgate_begin('orders', {named})");
                old.batch_execute(&sql).await.expect("names a term");
            }
            let refusal = match statement.starts_with("COPY") {
                true => state(copy_in(&old, statement).await),
                false => state(old.batch_execute(statement).await),
            };
            assert_eq!(refusal, expected, "{statement} under {named}");
        }
    }
    assert_eq!(database.terms().await, [2]);
}

async fn copy_in(client: &Client, statement: &str) -> Result<u64, tokio_postgres::Error> {
    let sink = client.copy_in::<_, bytes::Bytes>(statement).await?;
    let mut sink = std::pin::pin!(sink);
    futures_util::SinkExt::send(&mut sink, bytes::Bytes::from("1\n")).await?;
    sink.finish().await
}

#[tokio::test]
async fn a_term_ends_with_its_transaction() {
    let database = Database::new().await;
    database.raise(1).await.expect("raises");
    let pooled = database.app().await;
    write(&pooled, 1).await.expect("writes");
    assert_eq!(state(pooled.batch_execute(&insert(1)).await), "TG003", "the next user of the connection");
    pooled.batch_execute("SELECT termgate.termgate_begin('orders', 1)").await.expect("is heard by nobody");
    assert_eq!(state(pooled.batch_execute(&insert(1)).await), "TG003", "there was no transaction");
}

#[tokio::test]
async fn terms_of_two_resources_do_not_mix() {
    let database = Database::new().await;
    let setup = "CREATE TABLE bills (x int); SELECT termgate.termgate_protect('bills', 'bills');
        SELECT termgate.termgate_raise('bills', 5, 1); SELECT termgate.termgate_raise('orders', 1, 1);";
    database.owner.batch_execute(setup).await.expect("sets up");
    let both = "BEGIN; SELECT termgate.termgate_begin('orders', 1), termgate.termgate_begin('bills', 5);
        INSERT INTO orders (term) VALUES (1); INSERT INTO bills VALUES (1); COMMIT";
    database.owner.batch_execute(both).await.expect("each has its own term");
    let mixed = "BEGIN; SELECT termgate.termgate_begin('bills', 5); INSERT INTO orders (term) VALUES (5)";
    assert_eq!(state(database.owner.batch_execute(mixed).await), "TG003");
}
