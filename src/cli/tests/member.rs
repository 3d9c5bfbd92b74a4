//! `termgate member`, word by word, and what it asks of a node.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

use super::{is_golden, parse, run};
use crate::api::answers::members::{MemberInfo, MemberList};
use crate::cli::node::Start;
use crate::cli::{Cli, Command, Failure, show};
use crate::ids::{LogIndex, NodeId, Term};

/// A request as the node saw it: method, path, `Idempotency-Key`, content.
type Seen = (String, String, String, String);

/// A node that gives these answers, one after another, and the last again and again.
struct Node {
    api: String,
    seen: Arc<Mutex<Vec<Seen>>>,
    _runtime: Runtime,
}

impl Node {
    fn answering(answers: &[(u16, &str)]) -> Self {
        let runtime = Runtime::new().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let api = format!("http://{}", listener.local_addr().unwrap());
        let answers: VecDeque<_> =
            answers.iter().map(|(status, text)| (*status, (*text).to_owned())).collect();
        let (answers, seen) = (Arc::new(Mutex::new(answers)), Arc::new(Mutex::new(Vec::new())));
        let record = Arc::clone(&seen);
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (answers, seen) = (Arc::clone(&answers), Arc::clone(&record));
                let service =
                    hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
                        let (answers, seen) = (Arc::clone(&answers), Arc::clone(&seen));
                        async move {
                            let (head, content) = request.into_parts();
                            let content = content.collect().await.unwrap().to_bytes();
                            let key =
                                head.headers.get("idempotency-key").map_or("", |key| key.to_str().unwrap());
                            let text = String::from_utf8(content.to_vec()).unwrap();
                            let path = head.uri.path().to_owned();
                            seen.lock().unwrap().push((head.method.to_string(), path, key.into(), text));
                            let mut answers = answers.lock().unwrap();
                            let last = answers.len() == 1;
                            let (status, text) =
                                if last { answers[0].clone() } else { answers.pop_front().unwrap() };
                            http::Response::builder().status(status).body(Full::new(Bytes::from(text)))
                        }
                    });
                let connection = hyper::server::conn::http1::Builder::new();
                let _ = connection.serve_connection(TokioIo::new(stream), service).await;
            }
        });
        Self { api, seen, _runtime: runtime }
    }

    /// Runs the command against this node.
    fn run(&self, line: &str) -> Result<String, Failure> {
        run(&format!("termgate member {line} --api {}", self.api))
    }

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

const LEARNER: &str = r#"{"changed": true, "index": 12, "term": 7, "member": {"id": 4, "role": "learner"}}"#;
const VOTER: &str = r#"{"changed": true, "index": 15, "term": 7, "member": {"id": 4, "role": "voter"}}"#;
const PENDING: &str = r#"{"changed": true, "index": 12, "term": 7, "member": {"id": 4, "role": "learner"},
    "pending": "node 4 is 5000 log entries behind; promote it when it has caught up"}"#;
const BEHIND: &str = r#"{"detail": "node 4 is 5000 log entries behind; promote it when it has caught up",
    "outcome": "not-applied", "retry_after_ms": 1000}"#;
const NO_QUORUM: &str = r#"{"detail": "only 1 of 3 voters can be reached", "outcome": "not-applied"}"#;
const IN_DOUBT: &str = r#"{"detail": "leadership was lost", "outcome": "unknown"}"#;

#[test]
fn every_change_is_asked_for_as_the_api_takes_it() {
    let addresses = "--peer-address d:1 --proxy-address d:2 --api-address d:3";
    for (line, method, path, content) in [
        (
            &*format!("add --id 4 {addresses}"),
            "POST",
            "/cluster/members",
            r#"{"id":4,"peer":"d:1","proxy":"d:2","api":"d:3"}"#,
        ),
        (
            &*format!("add --id 4 {addresses} --hop-address d:4 --zone eu --incarnation 77 --voter"),
            "POST",
            "/cluster/members",
            r#"{"id":4,"peer":"d:1","proxy":"d:2","hop":"d:4","api":"d:3","zone":"eu","incarnation":"77","role":"voter"}"#,
        ),
        ("promote 4", "PATCH", "/cluster/members/4", r#"{"role":"voter"}"#),
        ("demote 4", "PATCH", "/cluster/members/4", r#"{"role":"learner"}"#),
        ("replace 2 --with 4", "PATCH", "/cluster/members/4", r#"{"replaces":2}"#),
        (
            "move 4 --peer-address e:1 --zone us",
            "PATCH",
            "/cluster/members/4",
            r#"{"peer":"e:1","zone":"us"}"#,
        ),
        ("remove 4", "DELETE", "/cluster/members/4", ""),
    ] {
        let node = Node::answering(&[(200, VOTER)]);
        assert_eq!(node.run(line).unwrap(), "node 4 is a voter, since log entry 15\n");
        let [(seen_method, seen_path, key, seen)] = &node.seen()[..] else { panic!("{:?}", node.seen()) };
        assert_eq!((&**seen_method, &**seen_path, &**seen), (method, path, content), "{line}");
        assert_eq!(key.len(), 32, "{key}");
    }
}

#[test]
fn answers_are_told_in_words() {
    let told = |answer: &str| Node::answering(&[(200, answer)]).run("promote 4").unwrap();
    assert_eq!(
        told(LEARNER),
        "node 4 is a learner, since log entry 12\n\
         `termgate member promote 4 --wait` gives it a vote when it has caught up\n"
    );
    assert_eq!(
        told(PENDING),
        "node 4 is a learner, since log entry 12\n\
         its vote waits: node 4 is 5000 log entries behind; promote it when it has caught up\n"
    );
    assert_eq!(told(&VOTER.replace("true", "false")), "node 4 is a voter, as it was already\n");
    let gone = r#"{"changed": true, "index": 15, "term": 7, "member": null}"#;
    assert_eq!(told(gone), "node 4 is no member, since log entry 15\n");
    let json = Node::answering(&[(200, gone)]).run("remove 4 --json").unwrap();
    assert_eq!(json, format!("{gone}\n"));
}

#[test]
fn what_passes_by_itself_is_waited_for_and_only_when_asked_to() {
    let node = Node::answering(&[(409, BEHIND), (202, PENDING), (200, VOTER)]);
    assert_eq!(node.run("promote 4 --wait").unwrap(), "node 4 is a voter, since log entry 15\n");
    let seen = node.seen();
    assert!(
        seen.len() == 3 && seen.iter().all(|request| *request == seen[0]),
        "the same each time: {seen:?}"
    );

    let failure = Node::answering(&[(409, BEHIND), (200, VOTER)]).run("promote 4").unwrap_err();
    assert_eq!(failure.exit_status(), 1);
    assert!(failure.to_string().contains("5000 log entries behind"), "{failure}");
    let node = Node::answering(&[(409, NO_QUORUM), (200, VOTER)]);
    let failure = node.run("promote 4 --wait").unwrap_err();
    assert!(failure.to_string().contains("only 1 of 3 voters"), "{failure}");
    let failure = Node::answering(&[(409, BEHIND)]).run("promote 4 --wait --timeout 0s").unwrap_err();
    assert!(failure.to_string().contains("ask again to go on waiting"), "{failure}");
}

#[test]
fn a_change_whose_outcome_nobody_knows_is_asked_for_again_under_the_same_name() {
    // 409 and 503: of a change that was made in part.
    let node = Node::answering(&[(500, IN_DOUBT), (409, IN_DOUBT), (503, IN_DOUBT), (200, VOTER)]);
    assert_eq!(node.run("promote 4").unwrap(), "node 4 is a voter, since log entry 15\n");
    let seen = node.seen();
    assert!(seen.len() == 4 && seen.iter().all(|request| *request == seen[0]), "{seen:?}");
    node.run("promote 4").unwrap();
    assert_ne!(node.seen()[4].2, seen[0].2, "another change has another name");
}

#[test]
fn an_invitation_says_what_to_do_with_it() {
    let answer = r#"{"cluster": "orders", "id": 4, "token": "termgate-join-1.abc", "expires_at": "2026-11-25T23:00:00Z"}"#;
    let node = Node::answering(&[(200, answer)]);
    let expected = format!(
        "the token is for one machine, as node 4 of orders, until 2026-11-25T23:00:00Z; there:\n\n  \
         termgate node --join {} --token TOKEN --data-dir DIR \\\n    \
         --peer-address HOST:PORT --proxy-address HOST:PORT --api-address HOST:PORT\n",
        node.api
    );
    assert_eq!(node.run("invite --id 4 --ttl 2h").unwrap(), "termgate-join-1.abc\n", "a script can take it");
    assert_eq!(
        show::invited(&serde_json::from_str(answer).unwrap(), std::slice::from_ref(&node.api)),
        expected
    );
    assert_eq!(node.seen()[0].3, r#"{"id":4,"ttl_s":7200}"#);
}

#[test]
fn members_are_a_table_that_a_person_can_read() {
    let text = |text: &str| Some(text.to_owned());
    let member = |id: u64, role: &str| MemberInfo {
        id: NodeId(id),
        role: role.into(),
        peer: Some(format!("10.0.0.{id}:7100")),
        hop: Some(format!("10.0.0.{id}:8080")),
        proxy: Some(format!("10.0.0.{id}:8080")),
        api: Some(format!("10.0.0.{id}:9090")),
        incarnation: Some((id * 1000).to_string()),
        ..MemberInfo::default()
    };
    let heard = MemberInfo {
        match_index: Some(LogIndex(7)),
        behind: Some(5000),
        caught_up: Some(false),
        last_contact_ms: Some(12),
        zone: text("eu-1"),
        ..member(4, "learner")
    };
    let members = vec![
        member(1, "voter"),
        MemberInfo { id: NodeId(2), role: "leaving".into(), ..MemberInfo::default() },
        heard,
    ];
    let mut list = MemberList { term: Term(7), leader: Some(NodeId(1)), changing: true, members };
    let expected = "\
term 7   leader 1   a change of voters is under way

   NODE  ROLE     BEHIND  CONTACT  ZONE  PEER           PROXY          HOP            API            INCARNATION
*     1  voter         -        -  -     10.0.0.1:7100  10.0.0.1:8080  10.0.0.1:8080  10.0.0.1:9090         1000
      2  leaving       -        -  -     -              -              -              -                        -
      4  learner    5000    12 ms  eu-1  10.0.0.4:7100  10.0.0.4:8080  10.0.0.4:8080  10.0.0.4:9090         4000
";
    assert_eq!(show::members(&list), expected);
    list.changing = false;
    list.leader = None;
    assert!(show::members(&list).starts_with("term 7   no leader\n"));
    let answer = serde_json::to_string(&list).unwrap();
    assert!(Node::answering(&[(200, &answer)]).run("list").unwrap().starts_with("term 7   no leader\n"));
}

#[test]
fn the_help_says_what_an_incarnation_is_and_how_a_machine_joins() {
    use clap::CommandFactory;
    let mut cli = Cli::command();
    cli.build();
    let member = cli.find_subcommand_mut("member").unwrap();
    let help = member.find_subcommand_mut("add").unwrap().render_long_help().to_string();
    is_golden("member-add.txt", &help);
    let help = cli.find_subcommand_mut("node").unwrap().render_long_help().to_string();
    is_golden("node.txt", &help);
}

#[test]
fn usage_that_can_not_be_meant_is_refused() {
    let addresses = "--peer-address d:1 --proxy-address d:2 --api-address d:3";
    for line in [
        "termgate member",
        "termgate member add",
        "termgate member add --id 0 --peer-address d:1 --proxy-address d:2 --api-address d:3",
        "termgate member move 4",
        "termgate member replace 2",
        "termgate member invite --id 4 --ttl 1y",
        "termgate member invite --id 4 --ttl m",
        "termgate node --join http://a:1",
        "termgate node --join http://a:1 --token t --data-dir d",
        "termgate node --voter",
        &format!("termgate node --config c --data-dir d {addresses}"),
    ] {
        assert_eq!(parse(line).map(|command| format!("{command:?}")).unwrap_err().exit_code(), 2, "{line}");
    }
}

#[test]
fn a_node_is_configured_or_joins() {
    let start = |line: &str| match parse(line).unwrap_or_else(|e| panic!("{line}: {e}")) {
        Command::Node(args) => args.start(),
        other => panic!("{other:?} is no node"),
    };
    let Start::Configured(file) = start("termgate node --config node.toml") else { panic!("it joins") };
    assert_eq!(file, Path::new("node.toml"));
    let line = "termgate node --join http://a:1,http://b:1 --token t --data-dir data/node-4/ \
                --peer-address d:1 --proxy-address d:2 --api-address d:3";
    let Start::Joining(joining) = start(line) else { panic!("it does not join") };
    assert_eq!(joining.config, Path::new("data/node-4.toml"));
    assert_eq!((joining.apis.len(), joining.addresses), (2, ["d:1", "d:2", "d:2", "d:3"].map(String::from)));
    let Start::Joining(joining) = start(&format!("{line} --config x.toml --hop-address d:9")) else {
        panic!()
    };
    assert_eq!((joining.config.as_path(), joining.addresses[1].as_str()), (Path::new("x.toml"), "d:9"));
}
