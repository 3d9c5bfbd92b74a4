//! What a raise waits for, and what it cuts off.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::AsyncWriteExt;

use crate::support::{
    Backend, config, connect, fence, guard_at, guard_with, post, put_fence, read_answer, stamp, until, write,
};

#[tokio::test]
async fn a_raise_waits_for_a_write_that_the_backend_has_in_full() {
    let backend = Backend::start().await;
    let (guard, _dir) = guard_at(1, &backend).await;
    let address = guard.address();
    backend.answer(false);
    let old = tokio::spawn(async move { write(address, 1, "old").await });
    until("the backend has the write", async || backend.complete().len() == 1).await;

    let raise = tokio::spawn(async move { put_fence(address, 2).await });
    until("the raise has begun", async || fence(address).await["term"] == 2).await;
    assert_eq!(write(address, 1, "later").await.field("termgate-fence"), Some("rejected; current=2"));
    assert_eq!(write(address, 2, "too early").await.status, 412, "an old write could land after it");
    assert_eq!(fence(address).await["in_flight"]["1"], 1);
    assert!(!raise.is_finished());

    backend.answer(true);
    assert_eq!(raise.await.expect("no panic").status, 200);
    assert_eq!(old.await.expect("no panic").status, 201, "it was serialised before the raise");
    assert_eq!(write(address, 2, "new").await.status, 201);
}

#[tokio::test]
async fn a_raise_waits_for_a_write_whose_client_has_left() {
    let backend = Backend::start().await;
    let (guard, _dir) = guard_at(1, &backend).await;
    let address = guard.address();
    backend.answer(false);
    let mut client = connect(address).await;
    client.write_all(post(&stamp(1), "old").as_bytes()).await.expect("sends");
    until("the backend has the write", async || backend.complete().len() == 1).await;
    drop(client);

    let raise = tokio::spawn(async move { put_fence(address, 2).await });
    until("the raise has begun", async || fence(address).await["term"] == 2).await;
    assert_eq!(fence(address).await["in_flight"]["1"], 1, "the backend still works on it");
    assert!(!raise.is_finished());
    backend.answer(true);
    assert_eq!(raise.await.expect("no panic").status, 200);
}

#[tokio::test]
async fn a_raise_that_waited_too_long_says_so_and_can_be_repeated() {
    let backend = Backend::start().await;
    let mut settings = config(backend.address, Path::new(""));
    settings.raise_timeout = Duration::from_millis(30);
    let (guard, _dir) = guard_with(1, settings).await;
    let address = guard.address();
    backend.answer(false);
    let old = tokio::spawn(async move { write(address, 1, "old").await });
    until("the backend has the write", async || backend.complete().len() == 1).await;

    let waited = put_fence(address, 2).await;
    assert_eq!(waited.status, 503);
    assert!(waited.content.contains("older writes still running"), "{}", waited.content);
    assert_eq!(write(address, 1, "later").await.status, 412, "the fence stays raised");
    assert_eq!(write(address, 2, "too early").await.status, 412);

    backend.answer(true);
    old.await.expect("no panic");
    until("the old write has ended", async || put_fence(address, 2).await.status == 200).await;
    assert_eq!(write(address, 2, "new").await.status, 201);
}

/// A raise must come through while a write under term 1 is on its way; the backend must never see
/// that write complete, even when the client sends its rest afterwards.
async fn cuts_off(head: &str, first_part: &str, rest: &str) {
    let backend = Backend::start().await;
    let (guard, _dir) = guard_at(1, &backend).await;
    let mut client = connect(guard.address()).await;
    client.write_all(format!("{head}{first_part}").as_bytes()).await.expect("sends");
    until("the backend has a part", async || backend.seen().iter().any(|seen| seen.partial > 0)).await;

    assert_eq!(put_fence(guard.address(), 2).await.status, 200);
    assert_eq!(fence(guard.address()).await["in_flight"], serde_json::json!({}));
    // The guard may have closed the connection already.
    let _sent = client.write_all(rest.as_bytes()).await;
    assert!(read_answer(client).await.is_none(), "an outcome that nobody knows is not answered");
    until("the backend's connection ends", async || backend.seen().iter().all(|seen| seen.closed)).await;
    assert_eq!(backend.complete(), Vec::<String>::new());
    assert_eq!(write(guard.address(), 2, "new").await.status, 201);
}

#[tokio::test]
async fn a_raise_cuts_off_a_half_sent_upload() {
    cuts_off(&post(&stamp(1), "0123456789").replace("0123456789", ""), "01234", "56789").await;
}

#[tokio::test]
async fn a_raise_cuts_off_a_chunked_upload_without_its_end() {
    let head =
        format!("POST /ledger HTTP/1.1\r\nHost: backend\r\n{}Transfer-Encoding: chunked\r\n\r\n", stamp(1));
    cuts_off(&head, "5\r\n01234\r\n", "0\r\n\r\n").await;
}

#[tokio::test]
async fn a_raise_cuts_off_an_upload_that_the_backend_does_not_read() {
    let backend = Backend::start().await;
    let (guard, _dir) = guard_at(1, &backend).await;
    backend.read(false);
    let length = 64 * 1024 * 1024;
    let head = post(&stamp(1), "").replace("Content-Length: 0", &format!("Content-Length: {length}"));
    let mut client = connect(guard.address()).await;
    let sent = Arc::new(AtomicUsize::new(0));
    let count = sent.clone();
    let upload = tokio::spawn(async move {
        client.write_all(head.as_bytes()).await.expect("sends");
        let piece = vec![b'x'; 64 * 1024];
        for _ in 0..length / piece.len() {
            client.write_all(&piece).await?;
            count.fetch_add(1, Ordering::SeqCst);
        }
        Ok::<_, std::io::Error>(())
    });
    until_stalled(&sent).await;
    assert_eq!(fence(guard.address()).await["in_flight"]["1"], 1);
    assert_eq!(put_fence(guard.address(), 2).await.status, 200);
    assert!(upload.await.expect("no panic").is_err(), "the client sees that it was broken off");
    backend.read(true);
    until("the backend's connection ends", async || backend.seen().iter().all(|seen| seen.closed)).await;
    assert_eq!(backend.complete(), Vec::<String>::new());
}

/// Waits until every buffer on the way is full: nothing more is sent for a while.
async fn until_stalled(sent: &AtomicUsize) {
    let (mut last, mut unchanged) = (0, 0);
    until("the upload stalls", async || {
        let now = sent.load(Ordering::SeqCst);
        unchanged = if now == last && now > 0 { unchanged + 1 } else { 0 };
        last = now;
        unchanged == 100
    })
    .await;
}

#[tokio::test]
async fn a_raise_does_not_wait_for_reads() {
    let backend = Backend::start().await;
    let (guard, _dir) = guard_at(1, &backend).await;
    backend.answer(false);
    let address = guard.address();
    let read = tokio::spawn(async move { crate::support::get(address, "/ledger").await });
    until("the backend has the read", async || backend.complete().len() == 1).await;
    assert_eq!(put_fence(address, 2).await.status, 200);
    backend.answer(true);
    assert_eq!(read.await.expect("no panic").status, 201);
}

#[tokio::test]
async fn of_two_raises_the_higher_one_wins() {
    let backend = Backend::start().await;
    let (guard, _dir) = guard_at(1, &backend).await;
    let address = guard.address();
    backend.answer(false);
    let old = tokio::spawn(async move { write(address, 1, "old").await });
    until("the backend has the write", async || backend.complete().len() == 1).await;
    let second = tokio::spawn(async move { put_fence(address, 2).await });
    until("2 has begun", async || fence(address).await["term"] == 2).await;
    let third = tokio::spawn(async move { put_fence(address, 3).await });
    until("3 has begun", async || fence(address).await["term"] == 3).await;
    let overtaken = second.await.expect("no panic");
    assert_eq!((overtaken.status, overtaken.json()["current"].as_u64()), (412, Some(3)));
    backend.answer(true);
    assert_eq!(third.await.expect("no panic").status, 200);
    old.await.expect("no panic");
}
