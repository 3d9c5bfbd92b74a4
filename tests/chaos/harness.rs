//! The harness itself: a fault that does not happen, or a record that is not kept, would pass every
//! campaign.

use std::net::{SocketAddr, TcpListener};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::namespaces_work;
use crate::support::client::{Crowd, Habits, read_outcome};
use crate::support::ends::{End, Unknown, unexplained};
use crate::support::http::{Answer, Connection, request};
use crate::support::ledger::Ledger;
use crate::support::netns::Network;
use crate::support::placement::Placement;
use crate::support::verdict::Outcome;
use crate::support::wait;

const LIMIT: Duration = Duration::from_secs(2);

#[test]
fn a_cut_is_one_way_silent_and_heals() {
    if !namespaces_work() {
        return;
    }
    let placement = Placement::namespaces(3);
    let network = placement.network().expect("made above");
    assert!(reaches(network, 1, 2) && reaches(network, 2, 1));
    // An answer needs both ways, so a one-way cut shows from both ends; what differs is the third node.
    network.cut(2, 1);
    assert!(!reaches(network, 1, 2) && reaches(network, 1, 3) && reaches(network, 2, 3));
    network.heal();
    assert!(reaches(network, 1, 2));
    network.split(&[1], &[2, 3]);
    assert!(!reaches(network, 1, 2) && !reaches(network, 3, 1) && reaches(network, 2, 3));
}

/// Whether a connection attempt is answered, be it with a refusal.
fn reaches(network: &Network, from: u64, to: u64) -> bool {
    let attempt = format!("exec 3<>/dev/tcp/{}/9", network.node_ip(to));
    let namespace = network.namespace(from);
    let program = ["netns", "exec", &namespace, "timeout", "1", "bash", "-c", &attempt];
    let output = Command::new("ip").args(program).output().expect("iproute2 is installed");
    output.status.code() == Some(1)
}

#[test]
fn the_ledger_records_writes_in_order_with_term_and_node() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let placement = Placement::loopback();
    let file = dir.path().join("ledger.jsonl");
    let at = SocketAddr::new(placement.outside_ip(), placement.port(0));
    let ledger = Ledger::serve(at, &file, Instant::now());
    let mut connection = Connection::open(at, LIMIT).expect("the ledger listens");
    for (term, body) in [("4", "one"), ("5", "two")] {
        let fields = [("termgate-term", term), ("termgate-node", "2")];
        let answer = connection.send("POST", "/ledger", &fields, body.as_bytes(), LIMIT).expect("an answer");
        assert_eq!(answer.status, 201);
    }
    let bare = request(at, "POST", "/ledger", &[], b"three", LIMIT).expect("an answer");
    assert_eq!(bare.status, 400, "a write without a term can't be judged");
    let kept: Vec<_> = ledger.entries().into_iter().map(|e| (e.seq, e.term, e.node, e.body)).collect();
    assert_eq!(kept, vec![(1, 4, 2, "one".to_string()), (2, 5, 2, "two".to_string())]);
    assert_eq!(std::fs::read_to_string(&file).expect("the file").lines().count(), 2);
}

#[test]
fn clients_note_every_write_also_those_that_went_nowhere() {
    let placement = Placement::loopback();
    let nobody = SocketAddr::new(placement.outside_ip(), placement.port(0));
    let habits = Habits {
        nodes: vec![(1, nobody)],
        pause: Duration::from_millis(1),
        patience: Duration::from_secs(1),
    };
    let crowd = Crowd::start(2, "w", &habits, Instant::now());
    // The length of the load.
    std::thread::sleep(Duration::from_millis(50));
    let writes = crowd.finish();
    assert!(writes.len() >= 2);
    assert!(writes.iter().all(|w| matches!(w.outcome, Outcome::NotApplied(_))), "{writes:?}");
}

/// Without it every client of a killed node would be in doubt some time later, with nothing under way.
#[test]
fn a_kept_connection_that_the_server_closed_is_seen_before_anything_is_sent() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let at = listener.local_addr().expect("an address");
    let connection = Connection::open(at, LIMIT).expect("it listens");
    let (server, _) = listener.accept().expect("a connection");
    assert!(!connection.is_closed());
    drop(server);
    wait::until("the end of the connection", LIMIT, || connection.is_closed().then_some(()));
}

#[test]
fn an_unknown_outcome_is_explained_by_an_end_that_it_spans_and_by_no_other() {
    let ms = Duration::from_millis;
    let follower = End { node: 1, from: ms(100), to: ms(110), followed_until: None };
    let leader = End { node: 2, from: ms(200), to: ms(210), followed_until: Some(ms(500)) };
    let ends = [follower, leader];
    let is_explained = |asked, called, answered| {
        let (called, answered) = (ms(called), ms(answered));
        let unknown = Unknown { asked, called, answered, what: String::new() };
        unexplained(vec![unknown], &ends).is_empty()
    };
    assert!(is_explained(1, 90, 105) && is_explained(1, 105, 300));
    assert!(!is_explained(1, 20, 99), "it was told before the end");
    assert!(!is_explained(1, 111, 150), "it began after the end");
    assert!(!is_explained(3, 90, 150), "the one that ended was not the leader");
    assert!(is_explained(3, 190, 900) && is_explained(3, 400, 900) && is_explained(1, 400, 900));
    assert!(!is_explained(2, 400, 900), "who is gone takes no request");
    assert!(!is_explained(3, 501, 900), "nobody took it for the leader any more");
}

#[test]
fn an_answer_that_contradicts_itself_or_says_nothing_is_unstated() {
    let answer = |status, field: Option<&str>, body: &str| Answer {
        status,
        fields: field.map(|f| ("termgate-outcome".to_string(), f.to_string())).into_iter().collect(),
        body: body.as_bytes().to_vec(),
    };
    let outcome = |status, field, body| read_outcome(&answer(status, field, body));
    assert_eq!(outcome(201, None, r#"{"seq":3,"term":9}"#), Outcome::Acknowledged { seq: 3, term: 9 });
    assert!(matches!(outcome(201, None, "{}"), Outcome::Unstated(_)));
    assert!(matches!(outcome(502, None, "bad gateway"), Outcome::Unstated(_)));
    assert!(matches!(outcome(503, Some("not-applied"), r#"{"outcome":"unknown"}"#), Outcome::Unstated(_)));
    let problem = r#"{"type":"urn:termgate:problem:no-leader","outcome":"not-applied"}"#;
    assert_eq!(outcome(503, Some("not-applied"), problem), Outcome::NotApplied("503 no-leader".to_string()));
    assert_eq!(outcome(500, None, r#"{"outcome":"unknown"}"#), Outcome::Unknown("500 ".to_string()));
}
