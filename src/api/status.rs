//! All nodes in one answer: any node asks the others, in parallel and not for long.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures_util::future::join_all;
use http::{Request, Response, StatusCode};
use tokio::time::timeout;

use crate::api::Inner;
use crate::api::answers::{ClusterStatus, MemberStatus, NodeReport, PeerReport};
use crate::api::fields::json;
use crate::api::leader::{millis, resources};
use crate::api::router::REPORT;
use crate::clock;
use crate::ids::{NodeId, Term};
use crate::problem::{Kind, Problem};
use crate::raft::effect::RoleKind;
use crate::raft::view::View;
use crate::registry::command::Member;
use crate::registry::machine::Machine;
use crate::time::Instant;

/// `GET /cluster/status`.
pub(super) async fn cluster(context: &Inner) -> Response<Bytes> {
    let members = context.handle.with_machine(present_members);
    let asked = members.iter().map(|member| ask(context, member.id));
    let reports: BTreeMap<NodeId, NodeReport> =
        join_all(asked).await.into_iter().flatten().map(|report| (report.id, report)).collect();
    json(StatusCode::OK, &assemble(context, &members, &reports))
}

/// The members of the applied membership, or all that are known before the first.
pub(super) fn present_members(machine: &Machine) -> Vec<Member> {
    let ids = machine.membership().members();
    let known = machine.members().filter(|member| ids.is_empty() || ids.contains(&member.id)).cloned();
    let known: BTreeMap<NodeId, Member> = known.map(|member| (member.id, member)).collect();
    let nameless = ids.iter().filter(|id| !known.contains_key(id)).map(|id| Member {
        id: *id,
        peer: String::new(),
        proxy: String::new(),
        hop: String::new(),
        api: String::new(),
        zone: None,
    });
    let mut all: Vec<Member> = known.values().cloned().chain(nameless).collect();
    all.sort_by_key(|member| member.id);
    all
}

async fn ask(context: &Inner, node: NodeId) -> Option<NodeReport> {
    if node == context.handle.node() {
        return own_report(context).await;
    }
    let mut request = Request::new(Bytes::new());
    *request.uri_mut() = http::Uri::from_static(REPORT);
    let response = timeout(context.limits.report, (context.remote)(node, request)).await.ok()?.ok()?;
    let report: NodeReport = serde_json::from_slice(response.body()).ok()?;
    (response.status() == StatusCode::OK && report.id == node).then_some(report)
}

/// What this node says of itself; `None` when its loop does not answer.
pub(super) async fn own_report(context: &Inner) -> Option<NodeReport> {
    let view = timeout(context.limits.report, context.handle.view()).await.ok()?.ok()?;
    Some(describe(&view, clock::now(), resources(context)))
}

fn describe(view: &View, now: Instant, resources: Vec<super::ResourceStatus>) -> NodeReport {
    let lease = view.lease_until.filter(|until| view.role == RoleKind::Leader && now < *until);
    NodeReport {
        id: view.id,
        role: view.role.name().into(),
        term: view.term,
        leader: view.leader,
        commit_index: view.commit_index,
        last_applied: view.last_applied,
        last_log_index: view.last_log.index,
        lease_remaining_ms: lease.map(|until| millis(until.since(now))),
        resources,
        peers: view
            .peers
            .iter()
            .map(|peer| PeerReport {
                id: peer.id,
                match_index: peer.match_index,
                last_contact_ms: peer.last_contact.map(|at| millis(now.since(at))),
            })
            .collect(),
    }
}

/// `GET /internal/status`, for another node.
pub(super) async fn report(context: &Inner) -> Result<Response<Bytes>, Problem> {
    let report = own_report(context).await;
    let report = report.ok_or_else(|| Problem::new(Kind::NotReady, "the consensus loop does not answer"))?;
    Ok(json(StatusCode::OK, &report))
}

fn assemble(context: &Inner, members: &[Member], reports: &BTreeMap<NodeId, NodeReport>) -> ClusterStatus {
    let term = reports.values().map(|report| report.term).max().unwrap_or(Term::ZERO);
    let leader = reports.values().filter(|report| report.term == term).find_map(|report| report.leader);
    // The leader's own word counts only in the highest term: an old leader still thinks that it leads.
    let view = leader.and_then(|id| reports.get(&id)).filter(|report| report.term == term);
    let members = members.iter().map(|member| row(member, reports.get(&member.id), view)).collect();
    ClusterStatus {
        cluster: context.cluster.clone(),
        term,
        leader,
        lease_remaining_ms: view.and_then(|leader| leader.lease_remaining_ms),
        members,
        resources: view.map_or_else(|| resources(context), |leader| leader.resources.clone()),
        node: context.handle.node(),
        incarnation: context.incarnation.to_string(),
        config: context.config_summary.clone(),
    }
}

fn row(member: &Member, report: Option<&NodeReport>, leader: Option<&NodeReport>) -> MemberStatus {
    let seen = leader.and_then(|leader| leader.peers.iter().find(|peer| peer.id == member.id));
    // Of itself, the leader knows everything at once.
    let own = leader.filter(|leader| leader.id == member.id);
    MemberStatus {
        id: member.id,
        zone: member.zone.clone(),
        address: Some(member.proxy.clone()).filter(|address| !address.is_empty()),
        role: report.map(|r| r.role.clone()),
        term: report.map(|r| r.term),
        commit_index: report.map(|r| r.commit_index),
        last_applied: report.map(|r| r.last_applied),
        last_log_index: report.map(|r| r.last_log_index),
        match_index: seen.map(|peer| peer.match_index).or(own.map(|own| own.last_log_index)),
        last_contact_ms: seen.and_then(|peer| peer.last_contact_ms).or(own.map(|_| 0)),
        reachable: report.is_some(),
    }
}
