//! What clients were told about their writes, and whether what landed agrees.

use std::net::SocketAddr;
use std::time::Duration;

use crate::support::client::read_outcome;
use crate::support::cluster::SETTLE_LIMIT;
use crate::support::http::{Answer, request};
use crate::support::verdict::Outcome;
use crate::support::wait;

/// Longer than the default hold time and than a hop takes to notice that a leader is gone, so that a
/// node's own answer is heard.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// One entry of a ledger: position, term, node, body.
pub type Entry = (u64, u64, u64, String);

/// A write through a node's proxy. The node lives and must answer.
pub fn post(proxy: SocketAddr, body: &str) -> Answer {
    let answer = request(proxy, "POST", "/ledger", &[], body.as_bytes(), PATIENCE);
    answer.unwrap_or_else(|failure| panic!("{body:?} through {proxy}: {failure:?}"))
}

/// A write that must be acknowledged at once; answers its position and term.
pub fn write(proxy: SocketAddr, body: &str) -> (u64, u64) {
    let answer = post(proxy, body);
    match read_outcome(&answer) {
        Outcome::Acknowledged { seq, term } => (seq, term),
        other => panic!("{body:?} through {proxy}: {other:?}, {}", answer.text()),
    }
}

/// Writes until one is acknowledged; answers all attempts, each with a body of its own, and the position
/// and term of the last. A write that was on its way to a leader that died is honestly answered
/// with `unknown`, and one that finds no guard with `not-applied`.
pub fn write_until_landed(proxy: SocketAddr, name: &str) -> (Vec<(String, Outcome)>, u64, u64) {
    let mut tried = Vec::new();
    let (seq, term) = wait::until(&format!("a write through {proxy} lands"), SETTLE_LIMIT, || {
        let body = format!("{name}-{}", tried.len());
        let outcome = read_outcome(&post(proxy, &body));
        tried.push((body, outcome.clone()));
        if let Outcome::Acknowledged { seq, term } = outcome { Some((seq, term)) } else { None }
    });
    (tried, seq, term)
}

/// `landed` holds what was acknowledged, where and under which term its client was told, and of the rest
/// at most what was left unknown, once each.
pub fn expect_as_told(tried: &[(String, Outcome)], landed: &[Entry]) {
    let mut unexplained: Vec<&Entry> = landed.iter().collect();
    for (body, outcome) in tried {
        let found = unexplained.iter().position(|entry| entry.3 == *body).map(|at| unexplained.remove(at));
        match (outcome, found) {
            (Outcome::Acknowledged { seq, term }, Some(entry)) => {
                assert_eq!((entry.0, entry.1), (*seq, *term), "{body}");
            }
            (Outcome::NotApplied(_), None) | (Outcome::Unknown(_), _) => (),
            (outcome, found) => panic!("{body}: told {outcome:?}, found {found:?}"),
        }
    }
    assert!(unexplained.is_empty(), "landed, and nobody knows why: {unexplained:?}");
}
