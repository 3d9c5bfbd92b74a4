//! `examples/ledger` against the real server.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::ledger::{Options, Service};
use crate::support::{Database, LIMIT, until_waiting};

const SETUP: &str = include_str!("../../examples/ledger/setup.sql");

async fn start() -> (Database, Service) {
    let database = Database::new().await;
    // Roles belong to the whole server; another test may have made them.
    let setup: String = SETUP
        .lines()
        .map(|line| match line.strip_prefix("CREATE ROLE ").and_then(|rest| rest.strip_suffix(" LOGIN;")) {
            Some(role) => format!(
                "DO $$ BEGIN CREATE ROLE {role} LOGIN; EXCEPTION WHEN duplicate_object OR unique_violation THEN END $$;\n"
            ),
            None => format!("{line}\n"),
        })
        .collect();
    database.owner.batch_execute(&setup).await.expect("sets up");
    let options = Options {
        listen: "127.0.0.1:0".parse().expect("an address"),
        database_url: database.server.url(&database.name, "ledger_app"),
        raise_url: database.server.url(&database.name, "ledger_raise"),
        resource: "orders".into(),
        connections: 4,
    };
    let service = Service::start(options).await.expect("starts");
    (database, service)
}

#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    json: serde_json::Value,
}

/// `None` when the connection ends without an answer.
async fn send(address: SocketAddr, method: &str, path: &str, fields: &str, content: &str) -> Option<Answer> {
    let mut stream = TcpStream::connect(address).await.expect("listens");
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: ledger\r\nConnection: close\r\n{fields}Content-Length: {}\r\n\r\n{content}",
        content.len()
    );
    stream.write_all(request.as_bytes()).await.expect("sends");
    let mut bytes = Vec::new();
    let reading = stream.read_to_end(&mut bytes);
    let _end = tokio::time::timeout(LIMIT, reading).await.expect("an end in time");
    let text = String::from_utf8_lossy(&bytes);
    let (head, content) = text.split_once("\r\n\r\n")?;
    let status = head[9..12].parse().expect("a status");
    let json = serde_json::from_str(content).expect("json");
    Some(Answer { status, head: head.to_ascii_lowercase(), json })
}

async fn append(address: SocketAddr, term: u64, body: &str) -> Option<Answer> {
    let fields = format!(
        "Termgate-Term: {term}\r\nTermgate-Node: 1\r\nTermgate-Resource: orders\r\nTermgate-Request-Id: r-{body}\r\n"
    );
    send(address, "POST", "/ledger", &fields, body).await
}

async fn raise(address: SocketAddr, term: u64) -> Answer {
    let content = format!("{{\"resource\":\"orders\",\"term\":{term},\"proof\":null}}");
    send(address, "PUT", "/.well-known/termgate/fence", "", &content).await.expect("an answer")
}

#[tokio::test]
async fn appends_lists_and_refuses_what_is_stale() {
    let (_database, service) = start().await;
    let address = service.address;
    assert_eq!(append(address, 3, "early").await.expect("an answer").status, 412);
    assert_eq!(raise(address, 3).await.status, 200);
    let first = append(address, 3, "a").await.expect("an answer");
    assert_eq!((first.status, &first.json["term"]), (201, &serde_json::json!(3)));
    assert_eq!(raise(address, 4).await.status, 200);
    let stale = append(address, 3, "late").await.expect("an answer");
    assert_eq!(stale.status, 412);
    assert!(stale.head.contains("termgate-fence: rejected; current=4"), "{}", stale.head);
    assert_eq!(append(address, 5, "forged").await.expect("an answer").status, 412);
    assert_eq!(append(address, 4, "b").await.expect("an answer").status, 201);
    let down = raise(address, 3).await;
    assert_eq!((down.status, &down.json["current"]), (412, &serde_json::json!(4)));
    let listed = send(address, "GET", "/ledger", "", "").await.expect("an answer").json;
    let bodies: Vec<_> =
        listed.as_array().expect("a list").iter().map(|e| (&e["term"], &e["body"])).collect();
    assert_eq!(serde_json::json!(bodies), serde_json::json!([[3, "a"], [4, "b"]]));
    assert_eq!(listed[0]["request_id"], "r-a");
    let fence = send(address, "GET", "/.well-known/termgate/fence", "", "").await.expect("an answer");
    assert_eq!(fence.json["term"], 4);
}

#[tokio::test]
async fn refuses_what_no_node_has_stamped() {
    let (_database, service) = start().await;
    assert_eq!(raise(service.address, 3).await.status, 200);
    let bare = send(service.address, "POST", "/ledger", "", "x").await.expect("an answer");
    assert_eq!(bare.status, 400);
    let content = r#"{"resource":"orders","term":9}"#;
    let path = "/.well-known/termgate/fence";
    let proxied = send(service.address, "PUT", path, "Termgate-Request-Id: r\r\n", content).await;
    assert_eq!(proxied.expect("an answer").status, 403);
}

/// A trigger that runs at COMMIT, after every check has passed.
const AT_COMMIT: &str = "
    CREATE FUNCTION at_commit() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN BODY; RETURN NULL; END $$;
    CREATE CONSTRAINT TRIGGER at_commit AFTER INSERT ON ledger
        DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION at_commit()";

#[tokio::test]
async fn does_not_answer_when_the_session_is_lost_during_commit() {
    let (database, service) = start().await;
    assert_eq!(raise(service.address, 3).await.status, 200);
    let wait = AT_COMMIT.replace("BODY", "PERFORM pg_advisory_xact_lock(7)");
    database.owner.batch_execute(&wait).await.expect("sets up");
    database.owner.batch_execute("SELECT pg_advisory_lock(7)").await.expect("locks");
    let address = service.address;
    let write = tokio::spawn(async move { append(address, 3, "x").await });
    until_waiting(&database).await;
    let kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'advisory'
        AND datname = current_database()";
    database.owner.batch_execute(kill).await.expect("ends the session");
    assert!(write.await.expect("no panic").is_none(), "nobody knows the outcome");

    let free = "SELECT pg_advisory_unlock(7); DROP TRIGGER at_commit ON ledger";
    database.owner.batch_execute(free).await.expect("frees");
    let next = append(address, 3, "y").await.expect("an answer");
    assert_eq!(next.status, 201, "it has a new session");
}

#[tokio::test]
async fn says_not_applied_when_the_commit_was_refused() {
    let (database, service) = start().await;
    assert_eq!(raise(service.address, 3).await.status, 200);
    let refuse = AT_COMMIT.replace("BODY", "RAISE EXCEPTION 'no'");
    database.owner.batch_execute(&refuse).await.expect("sets up");
    let answer = append(service.address, 3, "x").await.expect("an answer");
    assert_eq!((answer.status, &answer.json["outcome"]), (503, &serde_json::json!("not-applied")));
}

#[tokio::test]
async fn terms_never_go_down_while_leaders_change() {
    let (_database, service) = start().await;
    let address = service.address;
    assert_eq!(raise(address, 1).await.status, 200);
    let mut writers = tokio::task::JoinSet::new();
    for term in 1..=3u64 {
        for writer in 0..4 {
            writers.spawn(async move {
                let mut applied = 0;
                for at in 0..25 {
                    let answer =
                        append(address, term, &format!("{term}-{writer}-{at}")).await.expect("an answer");
                    assert!([201, 412].contains(&answer.status), "{answer:?}");
                    applied += usize::from(answer.status == 201);
                }
                applied
            });
        }
        assert_eq!(raise(address, term + 1).await.status, 200);
    }
    let applied: usize = writers.join_all().await.into_iter().sum();
    let listed = send(address, "GET", "/ledger", "", "").await.expect("an answer").json;
    let terms: Vec<u64> =
        listed.as_array().expect("a list").iter().map(|e| e["term"].as_u64().expect("a term")).collect();
    assert!(terms.is_sorted(), "a stale write landed: {terms:?}");
    assert_eq!(terms.len(), applied, "every 201 is there, and no 412");
}
