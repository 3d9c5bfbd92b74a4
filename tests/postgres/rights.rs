//! What the application's role can't do, and what nobody does by accident.

use crate::support::{Database, insert, raise, state};

const NOT_ALLOWED: &str = "42501";

#[tokio::test]
async fn the_application_can_not_raise() {
    let database = Database::new().await;
    assert_eq!(state(raise(&database.app().await, 1).await), NOT_ALLOWED);
}

#[tokio::test]
async fn the_application_can_not_get_around_the_check() {
    let database = Database::new().await;
    database.raise(2).await.expect("raises");
    let app = database.app().await;
    for attempt in [
        "ALTER TABLE orders DISABLE TRIGGER termgate_fence",
        "ALTER TABLE orders DISABLE TRIGGER ALL",
        "DROP TRIGGER termgate_fence ON orders",
        "SET session_replication_role = replica",
        "UPDATE termgate.fence SET term = 1",
        "DELETE FROM termgate.fence",
        "INSERT INTO termgate.fence (resource, term, timeline) VALUES ('orders', 9, 1)",
        "DROP FUNCTION termgate.check_statement() CASCADE",
        "SELECT termgate.termgate_protect('orders', 'other')",
        "ALTER TABLE orders RENAME TO mine",
    ] {
        assert_eq!(state(app.batch_execute(attempt).await), NOT_ALLOWED, "{attempt}");
    }
}

#[tokio::test]
async fn functions_of_the_application_do_not_stand_in_for_ours() {
    let database = Database::new().await;
    database.raise(2).await.expect("raises");
    let app = database.app().await;
    let fake = "CREATE FUNCTION pg_temp.pg_advisory_xact_lock_shared(bigint) RETURNS void LANGUAGE sql AS '';
        CREATE TEMP TABLE fence AS SELECT 'orders'::text AS resource, 1::bigint AS term;
        SET search_path = pg_temp, termgate, public;
        BEGIN; SELECT termgate.termgate_begin('orders', 1)";
    app.batch_execute(fake).await.expect("may");
    assert_eq!(state(app.batch_execute("INSERT INTO public.orders (term) VALUES (1)").await), "TG001");
}

#[tokio::test]
async fn replica_mode_does_not_switch_the_check_off() {
    let database = Database::new().await;
    database.raise(2).await.expect("raises");
    let sql = format!("SET session_replication_role = replica; {}", insert(1));
    assert_eq!(state(database.owner.batch_execute(&sql).await), "TG003", "even for a superuser");
}

#[tokio::test]
async fn partitions_are_protected_too() {
    let database = Database::new().await;
    let setup = "CREATE TABLE events (x int) PARTITION BY LIST (x);
        CREATE TABLE events_1 PARTITION OF events FOR VALUES IN (1);
        SELECT termgate.termgate_protect('events', 'orders');
        SELECT termgate.termgate_raise('orders', 2, 1)";
    database.owner.batch_execute(setup).await.expect("sets up");
    for table in ["events", "events_1"] {
        let sql = format!("INSERT INTO {table} VALUES (1)");
        assert_eq!(state(database.owner.batch_execute(&sql).await), "TG003", "{table}");
    }
}

#[tokio::test]
async fn reads_need_no_term() {
    let database = Database::new().await;
    database.raise(2).await.expect("raises");
    let rows = database.app().await.query("SELECT * FROM orders", &[]).await.expect("reads");
    assert!(rows.is_empty());
}
