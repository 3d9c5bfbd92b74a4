//! Answers as text for people: what matters first, columns aligned, nothing invented.

use std::fmt::Display;

use bytes::Bytes;
use serde::de::DeserializeOwned;

use crate::api::answers::join::Invited;
use crate::api::answers::members::{Changed, MemberInfo, MemberList};
use crate::api::answers::{ClusterStatus, LeaderAnswer, MemberStatus, ResignAnswer, ResourceStatus};
use crate::cli::table::{Side, lines};
use crate::cli::{ClientArgs, Failure, client};
use crate::ids::LogIndex;

/// An answer as it was asked for: the node's own JSON, or what `show` makes of it.
pub(super) fn answer<T: DeserializeOwned>(
    args: &ClientArgs,
    answer: &Bytes,
    show: impl FnOnce(&T) -> String,
) -> Result<String, Failure> {
    if args.json {
        return Ok(format!("{}\n", String::from_utf8_lossy(answer)));
    }
    Ok(show(&client::parse(&args.api.join(", "), answer)?))
}

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

/// `termgate member list`.
pub fn members(list: &MemberList) -> String {
    let leader = list.leader.map_or("no leader".into(), |id| format!("leader {id}"));
    let changing = if list.changing { "   a change of voters is under way" } else { "" };
    let columns = [
        (" ", Side::Left),
        ("NODE", Side::Right),
        ("ROLE", Side::Left),
        ("BEHIND", Side::Right),
        ("CONTACT", Side::Right),
        ("ZONE", Side::Left),
        ("PEER", Side::Left),
        ("PROXY", Side::Left),
        ("HOP", Side::Left),
        ("API", Side::Left),
        ("INCARNATION", Side::Right),
    ];
    let row = |m: &MemberInfo| {
        let leads = if Some(m.id) == list.leader { "*" } else { " " };
        let contact = m.last_contact_ms.map(|ms| format!("{ms} ms"));
        let addresses = [&m.zone, &m.peer, &m.proxy, &m.hop, &m.api, &m.incarnation];
        let mut row = vec![leads.into(), m.id.to_string(), m.role.clone(), shown(m.behind), shown(contact)];
        row.extend(addresses.map(|text| shown(text.as_ref())));
        row
    };
    let rows: Vec<_> = list.members.iter().map(row).collect();
    format!("term {}   {leader}{changing}\n\n{}", list.term, lines(&columns, &rows))
}

/// What became of a change of member `id`.
pub fn changed(id: u64, answer: &Changed) -> String {
    let Changed { changed, index, member, pending, .. } = answer;
    let since = if *changed { format!("since log entry {index}") } else { "as it was already".into() };
    let Some(member) = member else { return format!("node {id} is no member, {since}\n") };
    let mut text = format!("node {id} is a {}, {since}\n", member.role);
    if let Some(pending) = pending {
        text += &format!("its vote waits: {pending}\n");
    } else if member.role == "learner" {
        text += &format!("`termgate member promote {id} --wait` gives it a vote when it has caught up\n");
    }
    text
}

/// `termgate member invite`: what goes with the token.
pub fn invited(invited: &Invited, apis: &[String]) -> String {
    let Invited { cluster, id, expires_at, .. } = invited;
    let api = apis.first().map_or("URL", String::as_str);
    format!(
        "the token is for one machine, as node {id} of {cluster}, until {expires_at}; there:\n\n  \
         termgate node --join {api} --token TOKEN --data-dir DIR \\\n    \
         --peer-address HOST:PORT --proxy-address HOST:PORT --api-address HOST:PORT\n"
    )
}

/// `termgate resign`.
pub fn resigned(answer: &ResignAnswer) -> String {
    format!(
        "node {} leads term {} after term {}; leadership moved within {} ms\n",
        answer.to, answer.term, answer.from_term, answer.pause_ms
    )
}
