//! What clients of the registry are told while the cluster breaks: every history must be linearizable, and decided.
//!
//! Eight clients put, compare and set, delete, list and read in every mode through all nodes; others write to the fenced
//! resource. At the end every key is read at each node. Then the history is judged in three layers: by its witness, by a
//! search for an order of each key, and at the resource.

use std::collections::BTreeSet;
use std::time::Duration;

use rustix::process::Signal;

use crate::faults::{Fault, running, wait_taken_over};
use crate::support::cluster::{Cluster, Plan, SETTLE_LIMIT};
use crate::support::lin::Decision;
use crate::support::lin::history::{Freshness, Op, Told, What};
use crate::support::load::{Account, Load};
use crate::support::number_from_env;
use crate::support::placement::Placement;
use crate::support::registry::RegistryCrowd;
use crate::support::stats::print_table;
use crate::{machine, namespaces_work, row};

const CLIENT_PAUSE: Duration = Duration::from_millis(2);
/// Operations that must be answered in health, before each fault and after the last.
const OPS_BETWEEN: usize = 500;
/// Lease reads that wait for a stopped leader: enough that some of them are taken up before it notices the time.
const QUEUED_READS: u64 = 64;

/// What happens to the cluster.
#[derive(Debug, Clone, Copy)]
enum Strike {
    Fault(Fault),
    /// Leadership is handed over.
    Transfer,
    /// The leader is stopped until another has taken over, and finds lease reads at its door when it goes on.
    StopWithReads,
}

impl Strike {
    const ON_LOOPBACK: [Self; 8] = [
        Self::Fault(Fault::Kill),
        Self::Transfer,
        Self::Fault(Fault::Stop),
        Self::StopWithReads,
        Self::Fault(Fault::KillAll),
        Self::Fault(Fault::RollingRestart),
        Self::Fault(Fault::AddAndRemove),
        Self::Fault(Fault::ReplaceAndReturn),
    ];
    const IN_NAMESPACES: [Self; 4] = [
        Self::Fault(Fault::IsolateLeader),
        Self::Fault(Fault::DeafLeader),
        Self::Fault(Fault::MuteLeader),
        Self::Fault(Fault::IsolateFollower),
    ];
    /// Enough for every change; the rest is for the campaign. Whether a read meets the moment in which a stopped leader
    /// does not know the time yet is chance, so there are several.
    const SHORT: [Self; 6] = [
        Self::Fault(Fault::Kill),
        Self::StopWithReads,
        Self::Fault(Fault::IsolateLeader),
        Self::StopWithReads,
        Self::Transfer,
        Self::StopWithReads,
    ];
    /// What changes who runs and who takes part.
    const CHANGES: [Self; 4] = [
        Self::Fault(Fault::KillAll),
        Self::Fault(Fault::RollingRestart),
        Self::Fault(Fault::AddAndRemove),
        Self::Fault(Fault::ReplaceAndReturn),
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Fault(fault) => fault.name(),
            Self::Transfer => "leadership transfer",
            Self::StopWithReads => "stopped leader finds lease reads",
        }
    }

    fn needs_namespaces(self) -> bool {
        matches!(self, Self::Fault(fault) if Fault::IN_NAMESPACES.contains(&fault))
    }

    fn happen(self, cluster: &mut Cluster, clients: &RegistryCrowd) {
        match self {
            Self::Fault(fault) => fault.strike(cluster),
            Self::Transfer => {
                let running = running(cluster);
                let asked = running[cluster.ledger.len() % running.len()];
                let answer =
                    cluster.api(asked, "POST", "/leader/resign", b"{}").expect("an answer to resign");
                assert_eq!(answer.status, 200, "resign at node {asked}: {}", answer.text());
            }
            Self::StopWithReads => {
                let leader = cluster.leader();
                let process = cluster.at(leader.id).process();
                process.signal(Signal::STOP);
                wait_taken_over(cluster, &leader);
                let at = (leader.id, cluster.api_address(leader.id));
                let readers = clients.queue_lease_reads(at, QUEUED_READS, SETTLE_LIMIT);
                process.signal(Signal::CONT);
                readers.into_iter().for_each(|reader| reader.join().expect("no reader panicked"));
            }
        }
    }
}

/// What a run came to.
struct Summary {
    name: String,
    strikes: usize,
    account: Account,
}

impl Summary {
    fn count(&self, fits: impl Fn(&What) -> bool) -> usize {
        self.account.record.ops.iter().filter(|op| fits(&op.what)).count()
    }
}

#[test]
fn registry_histories_under_faults_are_linearizable() {
    let works = namespaces_work();
    let strikes: Vec<Strike> =
        Strike::SHORT.into_iter().filter(|strike| works || !strike.needs_namespaces()).collect();
    expect_linearizable("a few of each", &strikes);
}

#[test]
fn registry_histories_through_restarts_and_changes_of_the_members_are_linearizable() {
    expect_linearizable("each change", &Strike::CHANGES);
}

fn expect_linearizable(name: &str, strikes: &[Strike]) {
    let summary = run(name, strikes);
    print_summaries(std::slice::from_ref(&summary));
    assert!(summary.account.holds(), "see the problems above");
    assert_exercised(&summary);
}

#[test]
#[ignore = "takes many minutes: make lin ROUNDS=100"]
fn rounds_of_registry_histories() {
    let rounds = number_from_env("ROUNDS", 100);
    let only = std::env::var("FAULT").unwrap_or_default();
    let works = namespaces_work();
    let all = Strike::ON_LOOPBACK.into_iter().chain(Strike::IN_NAMESPACES);
    let strikes: Vec<Strike> =
        all.filter(|strike| strike.name().contains(&only) && (works || !strike.needs_namespaces())).collect();
    let mut summaries: Vec<Summary> =
        strikes.iter().map(|strike| run(strike.name(), &vec![*strike; rounds])).collect();
    if strikes.len() > 1 {
        let mixed: Vec<Strike> = strikes.iter().copied().cycle().take(rounds.max(strikes.len())).collect();
        summaries.push(run("all in turn", &mixed));
    }
    print_summaries(&summaries);
    assert!(summaries.iter().all(|summary| summary.account.holds()), "see the problems above");
}

fn run(name: &str, strikes: &[Strike]) -> Summary {
    let _machine = machine();
    // One more than there are members, for one that comes and goes.
    let placement = if namespaces_work() { Placement::namespaces(4) } else { Placement::loopback() };
    let mut cluster = Cluster::start(Plan { placement, ..Plan::new(3) });
    let load = Load::start(&cluster, CLIENT_PAUSE);
    for strike in strikes {
        load.wait_for_more(&cluster, OPS_BETWEEN, 1);
        strike.happen(&mut cluster, &load.clients);
        cluster.wait_whole();
    }
    load.wait_for_more(&cluster, OPS_BETWEEN, 1);
    let account = load.finish(&cluster, &running(&cluster));
    account.tell_problems(&mut cluster);
    Summary { name: name.to_owned(), strikes: strikes.len(), account }
}

/// A run in which something never happened says nothing about it.
fn assert_exercised(summary: &Summary) {
    let read = |freshness: fn(Freshness) -> bool| {
        summary.count(|what| matches!(what, What::Get(get) if freshness(get.freshness) && get.told.is_some()))
    };
    let told =
        |told: fn(Told) -> bool| summary.count(|what| matches!(what, What::Write(write) if told(write.told)));
    let counts = [
        ("writes done", told(|told| matches!(told, Told::Done(_)))),
        ("writes held back", told(|told| matches!(told, Told::Held { .. }))),
        ("linearizable reads", read(|freshness| freshness == Freshness::Linearizable)),
        ("lease reads", read(|freshness| freshness == Freshness::Lease)),
        ("stale reads", read(|freshness| !freshness.is_linearizable())),
        ("lists", summary.count(|what| matches!(what, What::List(list) if list.told.is_some()))),
    ];
    println!("{counts:?}");
    assert!(counts.iter().all(|(_, count)| *count > 0), "something never happened: {counts:?}");
    let terms: BTreeSet<u64> =
        summary.account.record.ops.iter().filter_map(Op::place).map(|place| place.term).collect();
    assert!(terms.len() > summary.strikes, "a fault without a new leader: {terms:?}");
}

fn print_summaries(summaries: &[Summary]) {
    let mut rows = vec![row![
        "what happens",
        "times",
        "operations",
        "unknown writes",
        "refused writes",
        "reads without answer",
        "witness",
        "keys decided",
        "keys with an order",
        "most steps",
        "resource: writes, findings",
        "verdict",
    ]];
    for summary in summaries {
        let Summary { name, strikes, account } = summary;
        let Account { record, judgement, resource, .. } = account;
        let unanswered = |what: &What| match what {
            What::Write(_) => false,
            What::Get(get) => get.told.is_none(),
            What::List(list) => list.told.is_none(),
        };
        let refused = |what: &What| matches!(what, What::Write(write) if write.told == Told::Refused);
        let keys = judgement.keys.len();
        let in_order = judgement.keys.values().filter(|search| search.decision.holds()).count();
        rows.push(row![
            name,
            strikes,
            record.ops.len(),
            record.ops.iter().filter(|op| op.is_unknown_write()).count(),
            summary.count(refused),
            summary.count(unanswered),
            match &judgement.witness {
                Decision::Holds => "holds".to_owned(),
                Decision::Broken(findings) => format!("{} findings", findings.len()),
                Decision::Undecided(_) => "undecided".to_owned(),
            },
            format!("{} of {keys}", judgement.decided_keys()),
            in_order,
            judgement.most_steps(),
            format!("{}, {}", resource.acknowledged, resource.findings.len()),
            if account.holds() { "linearizable" } else { "FAILS" },
        ]);
    }
    print_table(&rows);
}
