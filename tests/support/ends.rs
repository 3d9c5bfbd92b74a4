//! The ends of processes, and the unknown outcomes that they explain.
//!
//! "Unknown" is an honest answer, but one that a client is given only when its request was under way while a process
//! was killed: the one that it asked, or the one that led and that its request had been passed on to. Whatever else
//! happens to a cluster that goes on, as a change of its members or of its leader, leaves nobody in doubt, and a node
//! that ends because it was asked to or was removed answers first. So each unknown outcome is held against the kills,
//! by its own times.

use std::time::Duration;

use super::cluster::{Cluster, SETTLE_LIMIT};
use super::wait;

/// The end of a process. Times count from the cluster's start, as the clients' do.
#[derive(Debug, Clone)]
pub struct End {
    pub node: u64,
    /// It was alive then.
    pub from: Duration,
    /// It was gone then.
    pub to: Duration,
    /// When nobody took it for the leader any more; `None` when it did not lead.
    pub followed_until: Option<Duration>,
}

/// A request of unknown outcome.
#[derive(Debug, Clone)]
pub struct Unknown {
    pub asked: u64,
    pub called: Duration,
    /// When the client was told, or gave up.
    pub answered: Duration,
    /// For a reader.
    pub what: String,
}

impl End {
    fn explains(&self, unknown: &Unknown) -> bool {
        let until = if unknown.asked == self.node { Some(self.to) } else { self.followed_until };
        until.is_some_and(|until| unknown.spans(self.from, until))
    }
}

impl Unknown {
    /// Whether some of the time from `from` to `to` passed while it was under way.
    fn spans(&self, from: Duration, to: Duration) -> bool {
        self.called <= to && from <= self.answered
    }
}

/// Those that span no end.
pub fn unexplained(mut unknown: Vec<Unknown>, ends: &[End]) -> Vec<Unknown> {
    unknown.retain(|unknown| !ends.iter().any(|end| end.explains(unknown)));
    unknown
}

/// SIGKILLs all of these nodes, and returns when none of the others takes one of them for the leader any more.
pub fn kill_at_once(cluster: &mut Cluster, ids: &[u64]) -> Vec<End> {
    let leader = cluster.leader().id;
    let from = cluster.start.elapsed();
    cluster.kill_nodes(ids);
    let to = cluster.start.elapsed();
    let until = wait_followed_no_more(cluster, ids);
    let end = |id: &u64| End { node: *id, from, to, followed_until: (*id == leader).then_some(until) };
    ids.iter().map(end).collect()
}

/// Waits until no node takes one of these for the leader; answers when that was.
fn wait_followed_no_more(cluster: &Cluster, leaders: &[u64]) -> Duration {
    wait::until("word that the leader is another", SETTLE_LIMIT, || {
        let mut others = cluster.ids().into_iter().filter(|id| !leaders.contains(id));
        others.all(|id| is_over_it(cluster, id, leaders)).then_some(())
    });
    cluster.start.elapsed()
}

/// Whether node `id` is gone, or says that none of these leads. One that does not answer has not said so.
fn is_over_it(cluster: &Cluster, id: u64, leaders: &[u64]) -> bool {
    let said = || {
        cluster.api(id, "GET", "/leader", b"").is_ok_and(|answer| {
            answer.json()["node_id"].as_u64().is_none_or(|leader| !leaders.contains(&leader))
        })
    };
    !cluster.at(id).is_running() || said()
}
