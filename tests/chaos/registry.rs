//! What clients of the registry are told while the cluster breaks: every history must be linearizable, and decided.
//!
//! Eight clients put, compare and set, delete, list and read in every mode through all nodes; others write to the fenced
//! resource. Afterwards the history is judged in three layers: by its witness, by a search for an order of
//! each key, and at the resource.

use std::collections::BTreeSet;
use std::time::Duration;

use rustix::process::Signal;

use crate::campaign::commits_of;
use crate::faults::{Fault, wait_for_writes, wait_taken_over};
use crate::support::client::{Crowd, Habits};
use crate::support::cluster::{Cluster, Plan, SETTLE_LIMIT};
use crate::support::lin::Decision;
use crate::support::lin::history::{Freshness, Op, Told, What};
use crate::support::lin::judge::{Judgement, judge};
use crate::support::placement::Placement;
use crate::support::registry::{self, RegistryCrowd};
use crate::support::stats::print_table;
use crate::support::verdict::{Verdict, check};
use crate::support::{number_from_env, wait};
use crate::{machine, namespaces_work, row};

const CLIENTS: u64 = 8;
const CLIENT_PAUSE: Duration = Duration::from_millis(2);
/// Longer than a node holds a request, so that a client hears what the node decided.
const CLIENT_PATIENCE: Duration = Duration::from_secs(6);
/// Writers to the fenced resource, and their pause.
const WRITERS: usize = 6;
const WRITER_PAUSE: Duration = Duration::from_millis(30);
/// Operations that must end in health, before each fault and after the last.
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
    const ON_LOOPBACK: [Self; 4] =
        [Self::Fault(Fault::Kill), Self::Transfer, Self::Fault(Fault::Stop), Self::StopWithReads];
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
                let asked = cluster.ids()[cluster.ledger.len() % cluster.ids().len()];
                let answer =
                    cluster.api(asked, "POST", "/leader/resign", b"{}").expect("an answer to resign");
                assert_eq!(answer.status, 200, "resign at node {asked}: {}", answer.text());
            }
            Self::StopWithReads => {
                let leader = cluster.leader();
                let process = cluster.at(leader.id).process();
                process.signal(Signal::STOP);
                wait_taken_over(cluster, &leader);
                let readers =
                    clients.queue_lease_reads(cluster.api_address(leader.id), QUEUED_READS, SETTLE_LIMIT);
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
    record: registry::Record,
    judgement: Judgement,
    resource: Verdict,
}

impl Summary {
    fn holds(&self) -> bool {
        let told = self.record.unstated.is_empty();
        told && self.judgement.holds() && self.resource.findings.is_empty()
    }

    fn count(&self, fits: impl Fn(&What) -> bool) -> usize {
        self.record.ops.iter().filter(|op| fits(&op.what)).count()
    }
}

#[test]
fn registry_histories_under_faults_are_linearizable() {
    let works = namespaces_work();
    let strikes: Vec<Strike> =
        Strike::SHORT.into_iter().filter(|strike| works || !strike.needs_namespaces()).collect();
    let summary = run("a few of each", &strikes);
    print_summaries(std::slice::from_ref(&summary));
    assert!(summary.holds(), "see the problems above");
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
    assert!(summaries.iter().all(Summary::holds), "see the problems above");
}

fn run(name: &str, strikes: &[Strike]) -> Summary {
    let _machine = machine();
    let placement = if namespaces_work() { Placement::namespaces(3) } else { Placement::loopback() };
    let mut cluster = Cluster::start(Plan { placement, ..Plan::new(3) });
    let habits = Habits { nodes: cluster.proxies(), pause: WRITER_PAUSE, patience: CLIENT_PATIENCE };
    let writers = Crowd::start(WRITERS, "w", &habits, cluster.start);
    let apis = cluster.ids().into_iter().map(|id| cluster.api_address(id)).collect();
    let habits = registry::Habits { apis, pause: CLIENT_PAUSE, patience: CLIENT_PATIENCE };
    let clients = RegistryCrowd::start(CLIENTS, habits, cluster.start);
    for strike in strikes {
        wait_for_ops(&clients, &cluster);
        strike.happen(&mut cluster, &clients);
        cluster.wait_whole();
    }
    wait_for_ops(&clients, &cluster);
    let (record, writes) = (clients.finish(), writers.finish());
    let resource = check(&writes, &commits_of(&cluster));
    let judgement = judge(&record.ops);
    let summary = Summary { name: name.to_owned(), strikes: strikes.len(), record, judgement, resource };
    tell_problems(&summary, &mut cluster);
    summary
}

/// Waits until clients of both kinds have done something more.
fn wait_for_ops(clients: &RegistryCrowd, cluster: &Cluster) {
    let count = clients.len() + OPS_BETWEEN;
    let what = format!("{count} operations on the registry");
    wait::until(&what, SETTLE_LIMIT, || (clients.len() >= count).then_some(()));
    wait_for_writes(cluster, cluster.ledger.len() + 1);
}

fn tell_problems(summary: &Summary, cluster: &mut Cluster) {
    if summary.holds() {
        return;
    }
    for unstated in &summary.record.unstated {
        println!("FOUND an answer without an outcome: {unstated}");
    }
    for problem in summary.judgement.problems(&summary.record.ops) {
        println!("FOUND {problem}");
    }
    for finding in &summary.resource.findings {
        println!("FOUND layer 3: {finding:?}");
    }
    let lines: Vec<String> = summary.record.ops.iter().map(Op::to_string).collect();
    let kept = cluster.keep_files();
    std::fs::write(kept.join("registry-history.txt"), lines.join("\n")).expect("the history can be written");
    println!("logs, records and registry-history.txt are kept in {}", kept.display());
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
        summary.record.ops.iter().filter_map(Op::place).map(|place| place.term).collect();
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
        let Summary { name, strikes, record, judgement, resource } = summary;
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
            if summary.holds() { "linearizable" } else { "FAILS" },
        ]);
    }
    print_table(&rows);
}
