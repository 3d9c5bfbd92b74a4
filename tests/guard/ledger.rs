//! The demo backend, alone and behind the guard.

use std::path::Path;

use termgate::demo::Ledger;
use termgate::guard::Guard;
use tokio::task::JoinSet;

use crate::support::{config, connect, get, post, put_fence, raw, stamp, write};

async fn ledger(dir: &Path) -> Ledger {
    Ledger::start("127.0.0.1:0".parse().expect("an address"), dir).await.expect("starts")
}

#[tokio::test]
async fn records_term_node_and_request_behind_the_guard() {
    let dir = tempfile::tempdir().expect("a directory");
    let backend = ledger(&dir.path().join("ledger")).await;
    let guard = Guard::start(config(backend.address(), &dir.path().join("guard"))).await.expect("starts");
    assert_eq!(put_fence(guard.address(), 3).await.status, 200);
    let fields = format!("{}Termgate-Request-Id: r-1\r\n", stamp(3));
    let answer = raw(connect(guard.address()).await, &post(&fields, "buy")).await.expect("an answer");
    assert_eq!((answer.status, answer.json()), (201, serde_json::json!({ "seq": 1, "term": 3 })));
    let entry = serde_json::json!(
        [{ "seq": 1, "term": 3, "node": 1, "request_id": "r-1", "body": "buy" }]
    );
    assert_eq!(get(guard.address(), "/ledger").await.json(), entry);
}

/// A client may send 100, and the node adds its own.
#[tokio::test]
async fn more_than_a_hundred_fields_reach_the_ledger() {
    let dir = tempfile::tempdir().expect("a directory");
    let backend = ledger(&dir.path().join("ledger")).await;
    let guard = Guard::start(config(backend.address(), &dir.path().join("guard"))).await.expect("starts");
    assert_eq!(put_fence(guard.address(), 3).await.status, 200);
    let many: String = (0..110).map(|i| format!("x-{i}: 1\r\n")).collect();
    let answer = raw(connect(guard.address()).await, &post(&(stamp(3) + &many), "buy")).await;
    assert_eq!(answer.expect("an answer").status, 201);
}

#[tokio::test]
async fn refuses_writes_that_did_not_come_through_the_guard() {
    let dir = tempfile::tempdir().expect("a directory");
    let backend = ledger(dir.path()).await;
    let answer = raw(connect(backend.address()).await, &post("", "x")).await.expect("an answer");
    assert_eq!(answer.status, 403);
    assert!(answer.content.contains("guard"), "{}", answer.content);
    assert_eq!(get(backend.address(), "/ledger").await.json(), serde_json::json!([]));
}

#[tokio::test]
async fn keeps_its_entries_over_a_restart() {
    let dir = tempfile::tempdir().expect("a directory");
    let backend = ledger(dir.path()).await;
    assert_eq!(write(backend.address(), 1, "a").await.status, 201);
    backend.stop().await;
    let backend = ledger(dir.path()).await;
    assert_eq!(write(backend.address(), 2, "b").await.json()["seq"], 2);
    let entries = get(backend.address(), "/ledger").await.json();
    assert_eq!(entries[0]["body"], "a");
    assert_eq!(entries[1]["term"], 2);
}

#[tokio::test]
async fn knows_only_its_own_calls() {
    let dir = tempfile::tempdir().expect("a directory");
    let backend = ledger(dir.path()).await;
    assert_eq!(get(backend.address(), "/other").await.status, 404);
    let delete = post(&stamp(1), "").replacen("POST", "DELETE", 1);
    assert_eq!(raw(connect(backend.address()).await, &delete).await.expect("an answer").status, 405);
}

#[tokio::test]
async fn terms_never_go_down_when_leaders_change_under_load() {
    let dir = tempfile::tempdir().expect("a directory");
    let backend = ledger(&dir.path().join("ledger")).await;
    let guard = Guard::start(config(backend.address(), &dir.path().join("guard"))).await.expect("starts");
    let address = guard.address();
    assert_eq!(put_fence(address, 1).await.status, 200);
    let mut writers = JoinSet::new();
    for term in 1..=4u64 {
        // Each old leader keeps writing long after it was replaced.
        for _ in 0..4 {
            writers.spawn(async move {
                let mut applied = 0u64;
                for at in 0..40 {
                    let answer = write(address, term, &format!("{term}-{at}")).await;
                    assert!(matches!(answer.status, 201 | 412), "{answer:?}");
                    applied += u64::from(answer.status == 201);
                }
                applied
            });
        }
        tokio::task::yield_now().await;
        assert_eq!(put_fence(address, term + 1).await.status, 200);
    }
    let applied: u64 = writers.join_all().await.into_iter().sum();
    let entries = get(address, "/ledger").await.json();
    let terms: Vec<u64> =
        entries.as_array().expect("a list").iter().map(|e| e["term"].as_u64().expect("a term")).collect();
    assert!(terms.is_sorted(), "a stale write landed: {terms:?}");
    assert_eq!(terms.len() as u64, applied, "every 201 is there, and no 412");
}
