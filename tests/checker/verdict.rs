//! The independent checker of a fault run: two records in, one verdict out.
//!
//! The first record is the clients': every write they tried, with a body that no other write has, and
//! what they were told. The second is the backend's own: every write that happened, in order, with
//! the term and the node it came from. The checker knows nothing of the product; it holds what the
//! clients were told against what the backend did:
//!
//! - **C1 no stale commit**: terms in the backend's order never go down;
//! - **C2 one writer per term**: all writes of a term come from one node;
//! - **C3 nothing acknowledged is lost**: an acknowledged write is in the record, at the position and
//!   under the term that the client was told, and it happened between its call and its answer;
//! - **C4 denied means denied**: a write reported as not applied is not in the record;
//! - **C5 at most once**: no body is in the record twice;
//! - **C6 nothing from nowhere**: every body in the record was sent by a client, and not before that;
//! - **C7 an outcome is always stated**: an answer that tells neither applied, not applied nor
//!   unknown leaves the client guessing.
//!
//! "Unknown" is an honest answer, so it is never a finding; each one is resolved from the record and
//! counted. Left out: reads, and whether a run was long enough to mean something.

use std::collections::BTreeMap;

/// What a client was told about a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It happened, at this position and under this term.
    Acknowledged { seq: u64, term: u64 },
    /// It did not happen and never will; the reason as given.
    NotApplied(String),
    /// It may have happened, or happen later; the reason as given, or the client's own.
    Unknown(String),
    /// An answer from which the outcome can't be told.
    Unstated(String),
}

/// One write as its client saw it. Times are nanoseconds on one monotonic clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// Unique in the run.
    pub body: String,
    /// The node that was asked.
    pub asked: u64,
    pub called_ns: u64,
    pub answered_ns: u64,
    pub outcome: Outcome,
}

/// One write as the backend recorded it, on the same clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    pub seq: u64,
    pub term: u64,
    pub node: u64,
    pub body: String,
    pub at_ns: u64,
}

/// A broken promise.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Finding {
    /// C1: this commit's term is lower than one before it.
    StaleCommit { seq: u64, term: u64, after: u64 },
    /// C2: two nodes wrote under one term.
    TwoWriters { term: u64, first: u64, second: u64, seq: u64 },
    /// C3: acknowledged, and not in the record.
    Lost { body: String },
    /// C3: acknowledged with another position or term than the record has.
    WronglyAcknowledged { body: String, told: (u64, u64), recorded: (u64, u64) },
    /// C3: committed only after it was acknowledged.
    AcknowledgedTooEarly { body: String },
    /// C4: reported as not applied, and in the record.
    DeniedYetApplied { body: String, reason: String, seq: u64 },
    /// C5: in the record more than once.
    Duplicate { body: String, first: u64, second: u64 },
    /// C6: in the record, and no client sent it.
    FromNowhere { seq: u64, body: String },
    /// C6: in the record before it was sent.
    BeforeItsCall { body: String },
    /// C7: the answer told no outcome.
    OutcomeUnstated { body: String, answer: String },
}

/// What the two records say together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdict {
    pub acknowledged: usize,
    pub not_applied: usize,
    /// Unknown to the client, and in the record.
    pub unknown_applied: usize,
    /// Unknown to the client, and not in the record.
    pub unknown_absent: usize,
    pub findings: Vec<Finding>,
}

impl Verdict {
    /// Stale commits and second writers of a term: the fence did not hold.
    pub fn stale_commits(&self) -> usize {
        let breaks = |f: &&Finding| matches!(f, Finding::StaleCommit { .. } | Finding::TwoWriters { .. });
        self.findings.iter().filter(breaks).count()
    }

    /// Acknowledged writes that are missing or differ.
    pub fn lost(&self) -> usize {
        let loses = |f: &&Finding| {
            use Finding::{AcknowledgedTooEarly, Lost, WronglyAcknowledged};
            matches!(f, Lost { .. } | WronglyAcknowledged { .. } | AcknowledgedTooEarly { .. })
        };
        self.findings.iter().filter(loses).count()
    }

    /// Everything else: denied but applied, twice, from nowhere, unstated.
    pub fn wrong_outcomes(&self) -> usize {
        self.findings.len() - self.stale_commits() - self.lost()
    }
}

/// Holds the clients' record against the backend's.
pub fn check(writes: &[Write], commits: &[Commit]) -> Verdict {
    let mut verdict = Verdict::default();
    check_order(commits, &mut verdict.findings);
    let by_body = index_commits(commits, &mut verdict.findings);
    check_origin(writes, commits, &mut verdict.findings);
    for write in writes {
        check_outcome(write, by_body.get(write.body.as_str()).copied(), &mut verdict);
    }
    verdict
}

/// C1 and C2.
fn check_order(commits: &[Commit], findings: &mut Vec<Finding>) {
    let mut highest = 0;
    let mut writer_of: BTreeMap<u64, u64> = BTreeMap::new();
    for commit in commits {
        let Commit { seq, term, node, .. } = *commit;
        if term < highest {
            findings.push(Finding::StaleCommit { seq, term, after: highest });
        }
        highest = highest.max(term);
        let first = *writer_of.entry(term).or_insert(node);
        if first != node {
            findings.push(Finding::TwoWriters { term, first, second: node, seq });
        }
    }
}

/// C5; returns the first commit of each body.
fn index_commits<'a>(commits: &'a [Commit], findings: &mut Vec<Finding>) -> BTreeMap<&'a str, &'a Commit> {
    let mut by_body: BTreeMap<&str, &Commit> = BTreeMap::new();
    for commit in commits {
        let first = *by_body.entry(&commit.body).or_insert(commit);
        if !std::ptr::eq(first, commit) {
            let body = commit.body.clone();
            findings.push(Finding::Duplicate { body, first: first.seq, second: commit.seq });
        }
    }
    by_body
}

/// C6.
fn check_origin(writes: &[Write], commits: &[Commit], findings: &mut Vec<Finding>) {
    let called: BTreeMap<&str, u64> = writes.iter().map(|w| (w.body.as_str(), w.called_ns)).collect();
    assert_eq!(called.len(), writes.len(), "the harness gave two writes the same body");
    for commit in commits {
        let body = commit.body.clone();
        match called.get(commit.body.as_str()) {
            None => findings.push(Finding::FromNowhere { seq: commit.seq, body }),
            Some(called_ns) if commit.at_ns < *called_ns => findings.push(Finding::BeforeItsCall { body }),
            Some(_) => {}
        }
    }
}

/// C3, C4 and C7, and the counts.
fn check_outcome(write: &Write, commit: Option<&Commit>, verdict: &mut Verdict) {
    let body = write.body.clone();
    match (&write.outcome, commit) {
        (Outcome::Acknowledged { .. }, None) => {
            verdict.acknowledged += 1;
            verdict.findings.push(Finding::Lost { body });
        }
        (Outcome::Acknowledged { seq, term }, Some(commit)) => {
            verdict.acknowledged += 1;
            let (told, recorded) = ((*seq, *term), (commit.seq, commit.term));
            if told != recorded {
                verdict.findings.push(Finding::WronglyAcknowledged { body, told, recorded });
            } else if commit.at_ns > write.answered_ns {
                verdict.findings.push(Finding::AcknowledgedTooEarly { body });
            }
        }
        (Outcome::NotApplied(_), None) => verdict.not_applied += 1,
        (Outcome::NotApplied(reason), Some(commit)) => {
            verdict.not_applied += 1;
            let (reason, seq) = (reason.clone(), commit.seq);
            verdict.findings.push(Finding::DeniedYetApplied { body, reason, seq });
        }
        (Outcome::Unknown(_), Some(_)) => verdict.unknown_applied += 1,
        (Outcome::Unknown(_), None) => verdict.unknown_absent += 1,
        (Outcome::Unstated(answer), _) => {
            verdict.findings.push(Finding::OutcomeUnstated { body, answer: answer.clone() });
        }
    }
}
