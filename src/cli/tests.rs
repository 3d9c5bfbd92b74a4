use std::path::Path;

use bytes::Bytes;
use clap::CommandFactory;
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use super::*;
use crate::api::answers::{ClusterStatus, LeaderAnswer, MemberStatus, ResignAnswer, ResourceStatus};
use crate::fencing::mode::FenceMode;
use crate::ids::{LogIndex, NodeId, Term};

mod disaster;
mod member;

fn parse(line: &str) -> Result<Command, clap::Error> {
    Cli::try_parse_from(line.split(' ')).map(|cli| cli.command)
}

/// Runs a tool.
fn run(line: &str) -> Result<String, Failure> {
    match parse(line).unwrap_or_else(|e| panic!("{line}: {e}")) {
        Command::Tool(tool) => tool.run(),
        other => panic!("{other:?} is no tool"),
    }
}

/// `TERMGATE_GOLDEN=1 cargo test` writes the texts anew, to be read before they are committed.
#[track_caller]
fn is_golden(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cli/tests/golden").join(name);
    if std::env::var_os("TERMGATE_GOLDEN").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap();
    assert_eq!(text, expected, "{} differs", path.display());
}

#[test]
fn the_command_line_holds_together() {
    Cli::command().debug_assert();
}

#[test]
fn every_command_of_the_contract_is_taken() {
    let lines = [
        "termgate dev",
        "termgate dev --nodes 5 --data-dir d --base-port 7200",
        "termgate node --config node.toml --log-format json",
        "termgate guard --config guard.toml",
        "termgate certs init --cluster orders --out certs",
        "termgate certs issue --ca certs --node 1 --out certs --san a --san 10.0.0.1",
        "termgate certs issue --ca certs --guard orders --out certs",
        "termgate certs issue --ca certs --client ci --out certs",
        "termgate leader",
        "termgate status --json --api http://a:1 --api http://b:1",
        "termgate resign --to 2 --api http://a:1",
        "termgate check --config node.toml",
        "termgate backup --out orders.backup",
        "termgate backup -c node.toml --out orders.backup --stale --force",
        "termgate backup --server http://a:1 --api http://b:1 --out orders.backup",
        "termgate backup --data-dir data --out orders.backup",
        "termgate backup verify orders.backup",
        "termgate backup inspect orders.backup --json",
        "termgate restore --backup orders.backup --config node.toml",
        "termgate restore --backup orders.backup -c node.toml --term-floor 57 --force",
        "termgate recover --force-new-cluster -c node.toml",
        "termgate recover --force-new-cluster -c node.toml --members 1,2 --term-floor auto --yes-i-understand",
    ];
    for line in lines {
        parse(line).unwrap_or_else(|e| panic!("{line}: {e}"));
    }
}

#[test]
fn wrong_usage_is_refused_with_status_2() {
    let lines = [
        "termgate",
        "termgate node",
        "termgate dev --nodes 4",
        "termgate certs issue --ca certs --out certs",
        "termgate certs issue --ca certs --out certs --node 1 --guard a",
        "termgate certs issue --ca certs --out certs --node 0",
        "termgate resign --to two",
        "termgate backup",
        "termgate backup --out a --data-dir d --config node.toml",
        "termgate backup --out a verify b",
        "termgate backup verify",
        "termgate restore --backup a",
        "termgate restore --backup a -c node.toml --term-floor latest",
        "termgate recover -c node.toml",
        "termgate recover --force-new-cluster -c node.toml --members one",
    ];
    for line in lines {
        assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
    }
}

#[test]
fn help_shows_the_defaults() {
    for (command, defaults) in [
        ("dev", &["[default: 3]", "[default: 7100]", "[default: data/dev]"][..]),
        ("status", &["[default: http://127.0.0.1:9090]", "[env: TERMGATE_API"]),
        ("resign", &["[default: the most up-to-date follower]"]),
        ("backup", &["[env: TERMGATE_TOKEN]", "[env: TERMGATE_API]"]),
        ("restore", &["[default: auto]"]),
        ("recover", &["[default: auto]", "[default: this node alone]"]),
    ] {
        let mut cli = Cli::command();
        let help = cli.find_subcommand_mut(command).unwrap().render_long_help().to_string();
        for default in defaults {
            assert!(help.contains(default), "{command} lacks {default}:\n{help}");
        }
    }
}

#[test]
fn failures_have_the_exit_statuses_of_the_contract() {
    let text = String::new;
    let all = [
        (Failure::Failed(text()), 1),
        (Failure::Usage(text()), 2),
        (Failure::Unreachable(text()), 69),
        (Failure::LeadershipLost(text()), 75),
    ];
    let help = Cli::command().render_help().to_string();
    for (failure, status) in all {
        assert_eq!(failure.exit_status(), status);
        assert!(help.contains(&format!(" {status} ")), "{help}");
    }
}

fn member(id: u64, role: &str, matched: u64) -> MemberStatus {
    MemberStatus {
        id: NodeId(id),
        zone: Some("eu-1".into()),
        address: Some(format!("10.0.0.{id}:8080")),
        role: Some(role.into()),
        term: Some(Term(7)),
        commit_index: Some(LogIndex(matched)),
        last_applied: Some(LogIndex(matched)),
        last_log_index: Some(LogIndex(matched)),
        match_index: Some(LogIndex(matched)),
        last_contact_ms: Some(12),
        reachable: true,
    }
}

fn status() -> ClusterStatus {
    let silent = MemberStatus {
        id: NodeId(3),
        address: Some("10.0.0.13:8080".into()),
        match_index: Some(LogIndex(1_190)),
        last_contact_ms: Some(4_321),
        ..MemberStatus::default()
    };
    ClusterStatus {
        cluster: "orders".into(),
        term: Term(7),
        leader: Some(NodeId(1)),
        lease_remaining_ms: Some(143),
        members: vec![member(1, "leader", 1_204), member(2, "follower", 1_203), silent],
        resources: vec![
            resource("orders", FenceMode::Enforced, "open", Some(Term(7))),
            resource("reports", FenceMode::Drain, "closed", None),
        ],
        node: NodeId(1),
        incarnation: "77".into(),
        config: serde_json::Value::Null,
    }
}

fn resource(name: &str, fence: FenceMode, gate: &str, fenced_term: Option<Term>) -> ResourceStatus {
    ResourceStatus { name: name.into(), fence, gate: gate.into(), fenced_term }
}

#[test]
fn a_status_is_a_table_that_a_person_can_read() {
    let expected = "\
cluster orders   term 7   leader 1   lease 143 ms

   NODE  ROLE         TERM   LOG  COMMIT  APPLIED  LAG  CONTACT  ZONE  ADDRESS
*     1  leader          7  1204    1204     1204    0    12 ms  eu-1  10.0.0.1:8080
      2  follower        7  1203    1203     1203    1    12 ms  eu-1  10.0.0.2:8080
      3  unreachable     -     -       -        -   14  4321 ms  -     10.0.0.13:8080

   RESOURCE  FENCE     GATE    FENCED AT
   orders    enforced  open            7
   reports   drain     closed          -
";
    assert_eq!(show::status(&status()), expected);
}

#[test]
fn a_status_without_a_leader_says_so() {
    let mut status = status();
    status.leader = None;
    status.lease_remaining_ms = None;
    status.members.truncate(1);
    status.members[0].role = Some("candidate".into());
    status.members[0].match_index = None;
    status.resources.clear();
    let expected = "\
cluster orders   term 7   no leader

   NODE  ROLE       TERM   LOG  COMMIT  APPLIED  LAG  CONTACT  ZONE  ADDRESS
      1  candidate     7  1204    1204     1204    -    12 ms  eu-1  10.0.0.1:8080
";
    assert_eq!(show::status(&status), expected);
}

#[test]
fn a_leader_is_four_lines() {
    let mut answer = LeaderAnswer {
        node_id: NodeId(1),
        address: Some("10.0.0.1:8080".into()),
        term: Term(7),
        lease_expires_at: None,
        lease_remaining_ms: Some(143),
        authoritative: true,
        resources: Vec::new(),
    };
    let expected = "node     1\naddress  10.0.0.1:8080\nterm     7\nlease    143 ms\n";
    assert_eq!(show::leader(&answer), expected);
    answer.authoritative = false;
    answer.lease_remaining_ms = None;
    assert!(show::leader(&answer).ends_with("lease    not known here; ask node 1\n"));
}

#[test]
fn a_resignation_is_one_sentence() {
    let answer = ResignAnswer { from_term: Term(7), to: NodeId(2), term: Term(8), pause_ms: 9 };
    assert_eq!(show::resigned(&answer), "node 2 leads term 8 after term 7; leadership moved within 9 ms\n");
}

/// A node that gives every request this answer, and counts requests.
async fn node(status: u16, content: &'static str) -> (String, std::sync::Arc<std::sync::atomic::AtomicU32>) {
    node_that_says(vec![(status, content)]).await
}

/// The same, that answers one after the other, and then as it did last.
async fn node_that_says(
    answers: Vec<(u16, &'static str)>,
) -> (String, std::sync::Arc<std::sync::atomic::AtomicU32>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let api = format!("http://{}", listener.local_addr().unwrap());
    let count = std::sync::Arc::new(std::sync::atomic::AtomicU32::new(0));
    let counted = std::sync::Arc::clone(&count);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let nth = counted.fetch_add(1, std::sync::atomic::Ordering::SeqCst) as usize;
            let (status, content) = answers[nth.min(answers.len() - 1)];
            let service = hyper::service::service_fn(move |_| {
                let content = Full::new(Bytes::from_static(content.as_bytes()));
                std::future::ready(http::Response::builder().status(status).body(content))
            });
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        }
    });
    (api, count)
}

/// An address where nobody listens.
async fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

const LEADERLESS: &str = r#"{"detail": "no leader is known", "outcome": "not-applied"}"#;
const IN_DOUBT: &str = r#"{"detail": "lost", "outcome": "unknown"}"#;

fn change() -> client::Call {
    client::Call { method: http::Method::POST, ..client::Call::get("/leader/resign") }
}

#[tokio::test]
async fn the_next_node_is_asked_when_one_is_silent_or_leaderless() {
    let (leaderless, _) = node(503, LEADERLESS).await;
    let (good, _) = node(200, r#"{"ok": true}"#).await;
    let apis = [nobody().await, leaderless, good];
    for call in [client::Call::get("/leader"), change()] {
        assert_eq!(client::ask(&apis, &call).await.unwrap(), r#"{"ok": true}"#);
    }
}

#[tokio::test]
async fn a_change_of_unknown_outcome_is_not_asked_of_another_node() {
    let (doubt, _) = node(500, IN_DOUBT).await;
    let (other, asked) = node(200, "{}").await;
    let refused = client::ask(&[doubt, other], &change()).await.unwrap_err();
    assert!(matches!(refused, client::ClientError::Refused { status: 500, not_applied: false, .. }));
    assert_eq!(asked.load(std::sync::atomic::Ordering::SeqCst), 0);
}

/// G5: that nobody leads now settles nothing of what was in doubt before.
#[tokio::test(start_paused = true)]
async fn a_change_that_was_in_doubt_stays_so_until_somebody_has_looked_at_it() {
    let answers = vec![(500, IN_DOUBT), (503, LEADERLESS), (409, IN_DOUBT), (503, LEADERLESS)];
    let (api, asked) = node_that_says(answers.clone()).await;
    let doubt = client::ask_until_known(&[api], &change()).await.unwrap_err();
    assert!(matches!(doubt, client::ClientError::Refused { status: 409, in_doubt: true, .. }), "{doubt}");
    assert_eq!(asked.load(std::sync::atomic::Ordering::SeqCst), 10);
    let (api, _) = node_that_says([answers, vec![(200, "{}")]].concat()).await;
    client::ask_until_known(&[api], &change()).await.unwrap();
    let (api, asked) = node_that_says(vec![(503, LEADERLESS)]).await;
    let refused = client::ask_until_known(&[api], &change()).await.unwrap_err();
    assert!(matches!(refused, client::ClientError::Refused { status: 503, not_applied: true, .. }));
    assert_eq!(asked.load(std::sync::atomic::Ordering::SeqCst), 1, "nothing was in doubt");
}

#[tokio::test]
async fn nobody_there_is_status_69_and_no_leader_is_status_1() {
    let silent = nobody().await;
    let failure = Failure::from(
        client::ask(std::slice::from_ref(&silent), &client::Call::get("/leader")).await.unwrap_err(),
    );
    assert_eq!(failure.exit_status(), 69, "{failure}");
    let (leaderless, _) = node(503, LEADERLESS).await;
    let asked = client::ask(&[leaderless, silent], &client::Call::get("/leader")).await;
    let failure = Failure::from(asked.unwrap_err());
    assert_eq!(failure.exit_status(), 1, "{failure}");
    assert!(failure.to_string().contains("no leader is known"), "{failure}");
}

#[test]
fn a_resignation_of_a_leadership_that_has_moved_on_is_status_75() {
    // The tool makes a runtime of its own; the nodes need another.
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let resign = |status, content| {
        let (api, _) = runtime.block_on(node(status, content));
        let line = format!("termgate resign --if-term 7 --api {api} --api {api}");
        let Ok(Command::Tool(tool)) = parse(&line) else { panic!("{line}") };
        tool.run().unwrap_err()
    };
    let moved_on = r#"{"detail": "If-Match names \"7\", and the term is 8", "outcome": "not-applied"}"#;
    let failure = resign(412, moved_on);
    assert_eq!(failure.exit_status(), 75, "{failure}");
    assert!(failure.to_string().contains("the term is 8"), "{failure}");
    assert_eq!(resign(409, r#"{"detail": "nobody is caught up"}"#).exit_status(), 1);
    assert_eq!(resign(500, IN_DOUBT).exit_status(), 1);
}

#[tokio::test]
async fn an_address_that_is_none_is_wrong_usage() {
    for api in ["https://a:1", "http://", "http://a/x", "ftp://a", "http://u@a"] {
        let failure = Failure::from(client::send(api, &client::Call::get("/leader")).await.unwrap_err());
        assert_eq!(failure.exit_status(), 2, "{api}");
    }
}

#[test]
fn check_reports_every_error_with_status_2_and_praises_what_is_right() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("guard.toml");
    let check = || Tool::Check(ConfigArgs { config: file.clone() }).run();
    std::fs::write(&file, "[guard]\nlisten = 1\nbackend = 'x'\n").unwrap();
    let failure = check().unwrap_err();
    assert_eq!((failure.exit_status(), failure.to_string().lines().count()), (2, 8), "{failure}");
    let text = include_str!("../../docs/guard.toml").replace("certs/", &format!("{}/", dir.path().display()));
    std::fs::write(&file, text).unwrap();
    assert_eq!(check().unwrap_err().to_string().lines().count(), 3, "no certificates yet");
    crate::certs::init("orders", dir.path()).unwrap();
    let guard = crate::transport::identity::Subject::Guard("orders".into());
    crate::certs::issue(dir.path(), &guard, dir.path(), &[]).unwrap();
    assert!(check().unwrap().ends_with("is right: guard of orders in cluster orders\n"));
}

#[test]
fn certificates_are_made_where_they_are_wanted() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().display();
    run(&format!("termgate certs init --cluster orders --out {out}")).unwrap();
    let made = run(&format!("termgate certs issue --ca {out} --node 2 --out {out} --san localhost")).unwrap();
    assert_eq!(made, format!("{out}/node-2.pem\n{out}/node-2.key\n"));
    let again = run(&format!("termgate certs init --cluster orders --out {out}"));
    assert_eq!(again.unwrap_err().exit_status(), 1, "nothing is overwritten");
}
