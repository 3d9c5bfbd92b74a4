//! For supervisors and load balancers: the status says it, the JSON says why.

use bytes::Bytes;
use http::{Response, StatusCode, Uri};

use crate::api::Inner;
use crate::api::answers::Health;
use crate::api::fields::{json, query};
use crate::api::status::own_report;
use crate::clock;
use crate::ids::LogIndex;
use crate::problem::{Kind, Problem};
use crate::raft::effect::RoleKind;

/// Does the consensus loop do anything? A process that fails here long enough wants a restart.
pub(super) async fn livez(context: &Inner) -> Response<Bytes> {
    match own_report(context).await {
        Some(_) => healthy(context, "the consensus loop answers"),
        None => unavailable(context, "the consensus loop does not answer"),
    }
}

/// Can requests be served through this node?
pub(super) fn readyz(context: &Inner) -> Response<Bytes> {
    let seen = context.handle.leadership();
    match seen.leader {
        None => unavailable(context, "no leader is known"),
        Some(leader) if leader == seen.node && seen.token_at(clock::now()).is_none() => {
            unavailable(context, "this node leads and may not act yet, or not any more")
        }
        Some(leader) if leader == seen.node => healthy(context, "this node leads"),
        Some(leader) if seen.last_applied == LogIndex::ZERO => {
            let reason = format!(
                "node {leader} leads, and nothing of its log is here: this node is new or was emptied"
            );
            unavailable(context, &reason)
        }
        Some(leader) => healthy(context, &format!("node {leader} leads")),
    }
}

/// Is this the node to write to? The leader, with the gate of `?resource=` open, or with every gate
/// open when none is named: who sends everything here must be able to send anything.
pub(super) fn primary(context: &Inner, uri: &Uri) -> Result<Response<Bytes>, Problem> {
    let wanted = query(uri, "resource")?;
    if context.handle.leadership().token_at(clock::now()).is_none() {
        return Ok(unavailable(context, "this node does not lead"));
    }
    let mut resources = (context.resources)();
    if let Some(name) = &wanted {
        resources.retain(|resource| resource.name == *name);
        if resources.is_empty() {
            return Err(Problem::new(Kind::NotFound, format!("no resource is called {name}")));
        }
    }
    Ok(match resources.iter().find(|resource| resource.gate != "open") {
        None => healthy(context, "this node leads and the gate is open"),
        Some(shut) => {
            let reason = format!("this node leads and the gate of {} is {}", shut.name, shut.gate);
            unavailable(context, &reason)
        }
    })
}

/// Is this a node to read from, that does not lead?
pub(super) fn replica(context: &Inner) -> Response<Bytes> {
    let seen = context.handle.leadership();
    match (seen.role, seen.leader) {
        (RoleKind::Leader, _) => unavailable(context, "this node leads"),
        (_, Some(leader)) => healthy(context, &format!("node {leader} leads")),
        (_, None) => unavailable(context, "no leader is known"),
    }
}

fn healthy(context: &Inner, reason: &str) -> Response<Bytes> {
    say(context, StatusCode::OK, "ok", reason)
}

fn unavailable(context: &Inner, reason: &str) -> Response<Bytes> {
    say(context, StatusCode::SERVICE_UNAVAILABLE, "unavailable", reason)
}

fn say(context: &Inner, code: StatusCode, status: &str, reason: &str) -> Response<Bytes> {
    let seen = context.handle.leadership();
    json(code, &Health { status: status.into(), reason: reason.into(), node: seen.node, term: seen.term })
}
