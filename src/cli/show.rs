//! Answers as text for people: what matters first, columns aligned, nothing invented.

use std::fmt::Display;

use crate::api::answers::{ClusterStatus, LeaderAnswer, MemberStatus, ResignAnswer, ResourceStatus};
use crate::cli::table::{Side, lines};
use crate::ids::LogIndex;

/// `termgate status`.
pub fn status(status: &ClusterStatus) -> String {
    let last = status.members.iter().find(|m| Some(m.id) == status.leader).and_then(|m| m.last_log_index);
    let rows: Vec<Vec<String>> =
        status.members.iter().map(|member| row(member, Some(member.id) == status.leader, last)).collect();
    let mut text = format!("{}\n\n{}", headline(status), lines(&COLUMNS, &rows));
    if !status.resources.is_empty() {
        text.push('\n');
        text.push_str(&resources(&status.resources));
    }
    text
}

fn headline(status: &ClusterStatus) -> String {
    let leader = status.leader.map_or("no leader".into(), |id| format!("leader {id}"));
    let lease = match (status.leader, status.lease_remaining_ms) {
        (Some(_), Some(ms)) => format!("   lease {ms} ms"),
        (Some(_), None) => "   no lease".into(),
        (None, _) => String::new(),
    };
    format!("cluster {}   term {}   {leader}{lease}", status.cluster, status.term)
}

const COLUMNS: [(&str, Side); 11] = [
    (" ", Side::Left),
    ("NODE", Side::Right),
    ("ROLE", Side::Left),
    ("TERM", Side::Right),
    ("LOG", Side::Right),
    ("COMMIT", Side::Right),
    ("APPLIED", Side::Right),
    ("LAG", Side::Right),
    ("CONTACT", Side::Right),
    ("ZONE", Side::Left),
    ("ADDRESS", Side::Left),
];

/// `lag` is what the leader's log has and the member is not known to have durably.
fn row(member: &MemberStatus, leads: bool, last: Option<LogIndex>) -> Vec<String> {
    let lag = last.zip(member.match_index).map(|(last, matched)| last.0.saturating_sub(matched.0));
    let role = if member.reachable { shown(member.role.as_ref()) } else { "unreachable".into() };
    vec![
        if leads { "*" } else { " " }.into(),
        member.id.to_string(),
        role,
        shown(member.term),
        shown(member.last_log_index),
        shown(member.commit_index),
        shown(member.last_applied),
        shown(lag),
        shown(member.last_contact_ms.map(|ms| format!("{ms} ms"))),
        shown(member.zone.as_ref()),
        shown(member.address.as_ref()),
    ]
}

fn shown(value: Option<impl Display>) -> String {
    value.map_or("-".into(), |value| value.to_string())
}

fn resources(resources: &[ResourceStatus]) -> String {
    let columns = [
        (" ", Side::Left),
        ("RESOURCE", Side::Left),
        ("FENCE", Side::Left),
        ("GATE", Side::Left),
        ("FENCED AT", Side::Right),
    ];
    let row = |r: &ResourceStatus| {
        vec![" ".into(), r.name.clone(), r.fence.name().into(), r.gate.clone(), shown(r.fenced_term)]
    };
    lines(&columns, &resources.iter().map(row).collect::<Vec<_>>())
}

/// `termgate leader`.
pub fn leader(leader: &LeaderAnswer) -> String {
    let lease = match (leader.authoritative, leader.lease_remaining_ms) {
        (true, Some(ms)) => format!("{ms} ms"),
        (true, None) => "none".into(),
        (false, _) => format!("not known here; ask node {}", leader.node_id),
    };
    format!(
        "node     {}\naddress  {}\nterm     {}\nlease    {lease}\n",
        leader.node_id,
        shown(leader.address.as_ref()),
        leader.term
    )
}

/// `termgate resign`.
pub fn resigned(answer: &ResignAnswer) -> String {
    format!(
        "node {} leads term {} after term {}; leadership moved within {} ms\n",
        answer.to, answer.term, answer.from_term, answer.pause_ms
    )
}
