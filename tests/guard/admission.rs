//! Which writes pass.

use std::path::Path;
use std::time::Duration;

use termgate::fencing::mode::FenceMode;
use termgate::guard::{Guard, GuardError};
use termgate::listen::LINGER;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::{
    Backend, config, connect, fence, get, guard_at, guard_with, post, put_fence, raise_request, raw, stamp,
    until, write,
};

#[tokio::test]
async fn refuses_a_stale_write_and_names_the_current_term() {
    let backend = Backend::start().await;
    let (guard, _dir) = guard_at(7, &backend).await;
    let answer = write(guard.address(), 6, "late").await;
    assert_eq!(answer.status, 412);
    assert_eq!(answer.field("termgate-fence"), Some("rejected; current=7"));
    assert_eq!(answer.field("content-type"), Some("application/problem+json"));
    assert_eq!(answer.json()["type"], "urn:termgate:problem:stale-term");
    assert_eq!(answer.field("termgate-outcome"), Some("not-applied"));
    let told = answer.json();
    assert_eq!((&told["outcome"], &told["retry_safe"]), (&"not-applied".into(), &true.into()));
    assert_eq!((&told["term"], &told["current"]), (&6.into(), &7.into()));
    assert!(backend.complete().is_empty(), "the backend never hears of it");
}

#[tokio::test]
async fn passes_exactly_the_raised_term_with_its_fields() {
    let backend = Backend::start().await;
    let (guard, _dir) = guard_at(7, &backend).await;
    let answer = write(guard.address(), 7, "hello").await;
    assert_eq!((answer.status, answer.content.as_str()), (201, "ok"));
    let seen = backend.complete();
    assert_eq!(seen.len(), 1);
    assert!(seen[0].starts_with("POST /ledger HTTP/1.1\r\n"), "{}", seen[0]);
    assert!(seen[0].contains("termgate-term: 7") && seen[0].contains("termgate-node: 1"), "{}", seen[0]);
    assert!(seen[0].ends_with("hello"));
}

#[tokio::test]
async fn refuses_a_term_above_the_fence_and_does_not_move() {
    let backend = Backend::start().await;
    let (guard, _dir) = guard_at(7, &backend).await;
    let answer = write(guard.address(), 999_999_999_999_999, "forged").await;
    assert_eq!(answer.status, 412);
    assert_eq!(answer.field("termgate-fence"), Some("rejected; current=7"));
    assert_eq!(write(guard.address(), 7, "true leader").await.status, 201);
}

#[tokio::test]
async fn refuses_writes_before_the_first_raise() {
    let backend = Backend::start().await;
    let (guard, _dir) = guard_at(0, &backend).await;
    for term in [0, 1] {
        let answer = write(guard.address(), term, "early").await;
        assert_eq!(answer.field("termgate-fence"), Some("rejected; current=0"), "{answer:?}");
    }
    assert!(backend.complete().is_empty());
}

#[tokio::test]
async fn implicit_follows_the_highest_term_and_refuses_lower_ones() {
    let backend = Backend::start().await;
    let mut settings = config(backend.address, Path::new(""));
    settings.mode = FenceMode::Implicit;
    let (guard, dir) = guard_with(0, settings).await;
    assert_eq!(write(guard.address(), 5, "a").await.status, 201);
    assert_eq!(write(guard.address(), 6, "b").await.status, 201);
    assert_eq!(write(guard.address(), 5, "late").await.status, 412);
    let stored = std::fs::read_to_string(dir.path().join("fence")).expect("is stored");
    assert!(stored.contains("\"term\":6"), "{stored}");
}

#[tokio::test]
async fn refuses_fields_that_two_readers_could_read_differently() {
    let backend = Backend::start().await;
    let (guard, _dir) = guard_at(7, &backend).await;
    let good = stamp(7);
    let cases = [
        good.replace("Termgate-Term: 7\r\n", ""),
        format!("{good}Termgate-Term: 7\r\n"),
        good.replace("Term: 7", "Term: 7, 7"),
        good.replace("Term: 7", "Term: -7"),
        good.replace("Term: 7", "Term: seven"),
        good.replace("Node: 1", "Node: one"),
        good.replace("Termgate-Node: 1\r\n", ""),
        good.replace("orders", "billing"),
        format!("{good}Termgate-Resource: orders\r\n"),
        good.replace("Termgate-Resource: orders\r\n", ""),
    ];
    for fields in cases {
        let answer = raw(connect(guard.address()).await, &post(&fields, "x")).await.expect("an answer");
        assert_eq!(answer.status, 400, "{fields}");
        assert_eq!(answer.field("termgate-fence"), None, "it is not about the term: {fields}");
    }
    assert!(backend.complete().is_empty());
}

#[tokio::test]
async fn reads_pass_unchecked() {
    let backend = Backend::start().await;
    let (guard, _dir) = guard_at(7, &backend).await;
    assert_eq!(get(guard.address(), "/ledger").await.status, 201, "the raw backend answers all alike");
    assert_eq!(backend.complete().len(), 1);
}

#[tokio::test]
async fn every_other_method_is_a_write() {
    let backend = Backend::start().await;
    let (guard, _dir) = guard_at(7, &backend).await;
    for method in ["PUT", "PATCH", "DELETE", "PURGE", "get"] {
        let request = post(&stamp(6), "x").replacen("POST", method, 1);
        let answer = raw(connect(guard.address()).await, &request).await.expect("an answer");
        assert_eq!(answer.status, 412, "{method}");
    }
}

#[tokio::test]
async fn the_endpoint_shows_the_fence() {
    let backend = Backend::start().await;
    let (guard, _dir) = guard_at(7, &backend).await;
    let shown = fence(guard.address()).await;
    assert_eq!(shown["resource"], "orders");
    assert_eq!(shown["term"], 7);
    assert_eq!(shown["mode"], "enforced");
}

#[tokio::test]
async fn a_raise_never_goes_down_and_may_be_repeated() {
    let backend = Backend::start().await;
    let (guard, _dir) = guard_at(7, &backend).await;
    let again = put_fence(guard.address(), 7).await;
    assert_eq!((again.status, again.json()["term"].as_u64()), (200, Some(7)));
    let lower = put_fence(guard.address(), 6).await;
    assert_eq!((lower.status, lower.json()["current"].as_u64()), (412, Some(7)));
    assert_eq!(fence(guard.address()).await["term"], 7);
}

#[tokio::test]
async fn refuses_a_raise_it_does_not_understand() {
    let backend = Backend::start().await;
    let (guard, _dir) = guard_at(7, &backend).await;
    let cases = [
        "",
        "{}",
        "[]",
        r#"{"resource":"orders","term":0}"#,
        r#"{"resource":"orders","term":-1}"#,
        r#"{"resource":"orders","term":1000000000000000}"#,
        r#"{"resource":"orders","term":"8"}"#,
        r#"{"resource":"billing","term":8}"#,
    ];
    for content in cases {
        let request = raise_request("", content);
        let answer = raw(connect(guard.address()).await, &request).await.expect("an answer");
        assert_eq!(answer.status, 400, "{content}");
    }
    assert_eq!(fence(guard.address()).await["term"], 7);
}

#[tokio::test]
async fn refuses_a_raise_that_a_client_sent_through_a_node() {
    let backend = Backend::start().await;
    let (guard, _dir) = guard_at(7, &backend).await;
    for fields in ["Termgate-Request-Id: abc\r\n", &stamp(7)] {
        let request = raise_request(fields, r#"{"resource":"orders","term":8}"#);
        let answer = raw(connect(guard.address()).await, &request).await.expect("an answer");
        assert_eq!(answer.status, 403, "{fields}");
    }
    assert_eq!(fence(guard.address()).await["term"], 7);
}

#[tokio::test]
async fn connections_to_the_backend_are_used_again() {
    let backend = Backend::start().await;
    let (guard, _dir) = guard_at(7, &backend).await;
    for _ in 0..5 {
        assert_eq!(write(guard.address(), 7, "x").await.status, 201);
    }
    assert_eq!(backend.complete().len(), 5);
    assert_eq!(backend.seen().len(), 1, "one connection serves them all");
}

#[tokio::test]
async fn says_when_the_backend_is_down() {
    let backend = Backend::start().await;
    let mut settings = config(backend.address, Path::new(""));
    let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port");
    settings.backend = format!("http://{free}").parse().expect("a uri");
    let (guard, _dir) = guard_with(7, settings).await;
    let fields = format!("{}Termgate-Request-Id: r-1\r\n", stamp(7));
    let answer = raw(connect(guard.address()).await, &post(&fields, "x")).await.expect("an answer");
    assert_eq!(answer.status, 503);
    assert_eq!(answer.field("termgate-outcome"), Some("not-applied"));
    assert_eq!(answer.field("retry-after"), Some("1"));
    let told = answer.json();
    assert_eq!(told["type"], "urn:termgate:problem:backend-unavailable");
    // Everything that a client may expect: the node passes it on.
    assert_eq!((&told["outcome"], &told["retry_safe"]), (&"not-applied".into(), &true.into()));
    assert_eq!((&told["request_id"], &told["node"], &told["term"]), (&"r-1".into(), &1.into(), &7.into()));
    assert_eq!(told["retry_after_ms"], 1000);
    assert_eq!(fence(guard.address()).await["in_flight"], serde_json::json!({}));
}

#[tokio::test]
async fn does_not_start_where_anybody_could_raise_the_fence() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut settings = config("127.0.0.1:1".parse().expect("an address"), dir.path());
    settings.listen = "0.0.0.0:0".parse().expect("an address");
    assert!(matches!(Guard::start(settings.clone()).await, Err(GuardError::NeedsTls(_))));
    settings.listen = "127.0.0.1:0".parse().expect("an address");
    settings.mode = FenceMode::Drain;
    assert!(matches!(Guard::start(settings).await, Err(GuardError::Mode)));
}

/// A guard before a backend that answers the first request on each connection with `answer`.
async fn guard_before(answer: &str) -> (Guard, tempfile::TempDir) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let answer = answer.to_owned();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 1024];
            let _some = stream.read(&mut request).await.expect("reads");
            stream.write_all(answer.as_bytes()).await.expect("writes");
        }
    });
    guard_with(7, config(address, Path::new(""))).await
}

#[tokio::test]
async fn an_answer_of_more_than_a_hundred_fields_passes() {
    let many: String = (0..200).map(|i| format!("x-{i}: 1\r\n")).collect();
    let (guard, _dir) = guard_before(&format!("HTTP/1.1 200 OK\r\n{many}content-length: 0\r\n\r\n")).await;
    assert_eq!(write(guard.address(), 7, "x").await.field("x-199"), Some("1"));
}

#[tokio::test]
async fn an_answer_with_chunks_and_a_length_ends_with_its_chunks() {
    let both = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n8\r\nabcdefgh\r\n0\r\n\r\n";
    let (guard, _dir) = guard_before(both).await;
    let answer = write(guard.address(), 7, "x").await;
    assert_eq!(answer.field("content-length"), None);
    assert!(answer.content.contains("abcdefgh"), "{answer:?}");
}

#[tokio::test]
async fn an_answer_that_nobody_can_read_is_not_passed_on() {
    let answer = "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n";
    let (guard, _dir) = guard_before(answer).await;
    let sent = raw(connect(guard.address()).await, &post(&stamp(7), "x")).await;
    assert!(sent.is_none(), "nobody knows the outcome: {sent:?}");
    assert_eq!(get(guard.address(), "/ledger").await.status, 502);
}

#[tokio::test]
async fn a_backend_speaks_for_its_own_fence_and_for_nothing_else_of_ours() {
    let fields = "termgate-fence: rejected; current=9\r\ntermgate-outcome: applied\r\ntermgate_term: 9\r\n";
    let (guard, _dir) = guard_before(&format!("HTTP/1.1 412 No\r\n{fields}content-length: 0\r\n\r\n")).await;
    let answer = write(guard.address(), 7, "x").await;
    assert_eq!(answer.field("termgate-fence"), Some("rejected; current=9"));
    assert_eq!(answer.field("termgate-outcome"), None);
    assert_eq!(answer.field("termgate_term"), None);
}

#[tokio::test]
async fn the_guard_shows_what_it_counted() {
    let backend = Backend::start().await;
    let (guard, _dir) = guard_at(7, &backend).await;
    assert_eq!(write(guard.address(), 6, "late").await.status, 412);
    let shown = get(guard.address(), "/.well-known/termgate/metrics").await;
    assert_eq!(shown.status, 200);
    assert!(shown.field("content-type").expect("a type").starts_with("application/openmetrics-text"));
    for line in [
        "termgate_fence_raises_total{route=\"orders\"} 1",
        "termgate_fence_refusals_total{route=\"orders\"} 1",
        "termgate_refusals_total{what=\"fence\",reason=\"stale\"} 1",
    ] {
        assert!(shown.content.contains(line), "{line} in {}", shown.content);
    }
}

#[tokio::test]
async fn the_guards_own_paths_end_at_the_guard() {
    let backend = Backend::start().await;
    let (guard, _dir) = guard_at(7, &backend).await;
    for path in ["/.well-known/termgate/", "/.well-known/termgate/other", "/.well-known/%74ermgate/fence"] {
        let answer = get(guard.address(), path).await;
        assert_eq!((answer.status, &answer.json()["outcome"]), (404, &"not-applied".into()), "{path}");
    }
    for path in ["fence", "metrics"] {
        let request = post(&stamp(7), "x").replace("/ledger", &format!("/.well-known/termgate/{path}"));
        let answer = raw(connect(guard.address()).await, &request).await.expect("an answer");
        assert_eq!(answer.status, 405, "{path}");
        assert!(answer.field("allow").is_some_and(|methods| methods.starts_with("GET, HEAD")));
    }
    assert!(backend.complete().is_empty());
}

#[tokio::test]
async fn what_is_under_way_when_the_guard_is_asked_to_end_is_answered_and_nothing_more_is_taken() {
    let backend = Backend::start().await;
    let (guard, _dir) = guard_at(7, &backend).await;
    let address = guard.address();
    backend.answer(false);
    let writing = tokio::spawn(async move { write(address, 7, "hello").await });
    until("the write is at the backend", async || backend.complete().len() == 1).await;
    let ending = tokio::spawn(guard.stop());
    until("nobody listens any more", async || TcpStream::connect(address).await.is_err()).await;
    assert!(!ending.is_finished(), "it waits for the write");
    backend.answer(true);
    let answer = writing.await.expect("an answer");
    assert_eq!((answer.status, answer.content.as_str()), (201, "ok"));
    assert_eq!(answer.field("connection"), Some("close"));
    ending.await.expect("no panic");
}

#[tokio::test]
async fn a_guard_that_is_asked_to_end_waits_for_a_write_whose_sender_is_gone() {
    let backend = Backend::start().await;
    let (guard, _dir) = guard_at(7, &backend).await;
    backend.answer(false);
    let mut sender = connect(guard.address()).await;
    sender.write_all(post(&stamp(7), "hello").as_bytes()).await.expect("sends");
    until("the write is at the backend", async || backend.complete().len() == 1).await;
    drop(sender);
    let mut ending = tokio::spawn(guard.stop());
    let longer_than_any_connection = LINGER + Duration::from_millis(500);
    timeout(longer_than_any_connection, &mut ending).await.expect_err("it waits for the write");
    backend.answer(true);
    ending.await.expect("no panic");
}

#[tokio::test]
async fn a_guard_that_is_asked_to_end_waits_for_writes_and_not_for_reads() {
    for waits_for_a_write in [false, true] {
        let backend = Backend::start().await;
        let (guard, _dir) = guard_at(7, &backend).await;
        let address = guard.address();
        backend.answer(false);
        let mut reader = connect(address).await;
        reader.write_all(b"GET /ledger HTTP/1.1\r\nhost: a\r\n\r\n").await.expect("sends");
        until("the read is at the backend", async || backend.complete().len() == 1).await;
        let writing =
            waits_for_a_write.then(|| tokio::spawn(async move { write(address, 7, "hello").await }));
        let all = 1 + usize::from(waits_for_a_write);
        until("all is at the backend", async || backend.complete().len() == all).await;
        let mut ending = tokio::spawn(guard.stop());
        if let Some(writing) = writing {
            let longer_than_a_read = Duration::from_secs(3);
            timeout(longer_than_a_read, &mut ending).await.expect_err("it waits for the write");
            backend.answer(true);
            assert_eq!(writing.await.expect("an answer").status, 201);
        }
        let shorter_than_a_write = Duration::from_secs(9);
        timeout(shorter_than_a_write, ending)
            .await
            .expect("it does not wait for the read")
            .expect("no panic");
    }
}
