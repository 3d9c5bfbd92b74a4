//! What the loop notices about itself: role changes, refusals, the disk and the clock. It counts
//! and logs; the one thing it decides is whether the clock can still be believed.

use std::collections::BTreeMap;

use crate::clock;
use crate::driver::cycle::Cycle;
use crate::driver::fatal::Fatal;
use crate::fencing::leadership::Leadership;
use crate::ids::{LogIndex, NodeId};
use crate::metrics::{Metrics, PeerLabel, RoleLabel};
use crate::raft::config::Config;
use crate::raft::effect::{Cause, DropReason, Event, RoleKind};
use crate::raft::view::PeerView;
use crate::time::{Duration, Instant};

/// How often the gauges that need a full view are refreshed: finer than any scrape.
const GAUGE_INTERVAL: Duration = Duration::from_millis(250);

/// A stranger under a member's name is logged once in this time: it tries with every election.
const STRANGER_INTERVAL: Duration = Duration::from_secs(10);

/// Counts and logs for one loop.
#[derive(Debug)]
pub struct Observer {
    metrics: Metrics,
    /// How late a timer may fire before the loop must have been paused.
    pause_limit: Duration,
    /// How far the two clocks may move apart before the machine must have been suspended.
    suspend_limit: Duration,
    /// `BOOTTIME` and `MONOTONIC` when they were last compared.
    clocks: (Instant, Instant),
    /// When this node's campaign began.
    campaign_since: Option<Instant>,
    gauges_at: Instant,
    /// The peers that have gauges now.
    peers_shown: Vec<NodeId>,
    /// When each member was last heard from a data directory that is not the one it is known by.
    strangers: BTreeMap<NodeId, Instant>,
}

impl Observer {
    /// Starts to observe.
    pub fn new(metrics: Metrics, config: &Config) -> Self {
        Self {
            metrics,
            pause_limit: config.election_timeout_min / 2,
            suspend_limit: config.lease_margin,
            clocks: (clock::now(), clock::monotonic()),
            campaign_since: None,
            gauges_at: Instant::ZERO,
            peers_shown: Vec::new(),
            strangers: BTreeMap::new(),
        }
    }

    /// Whether time may have passed that this process did not see: it was due at `wake` and runs
    /// only now, or the clock that stops in suspend fell behind the one that goes on.
    pub fn clock_is_suspect(&mut self, now: Instant, wake: Instant) -> bool {
        let monotonic = clock::monotonic();
        let (boot_before, mono_before) = self.clocks;
        self.clocks = (now, monotonic);
        let apart = now.since(boot_before).abs_diff(monotonic.since(mono_before));
        let suspended = apart > self.suspend_limit;
        let paused = now.since(wake) > self.pause_limit;
        if suspended || paused {
            let late_ms = now.since(wake).as_millis();
            tracing::warn!(%late_ms, suspended, "the loop missed time; the lease is suspect until a quorum answers");
            self.metrics.refuse("lease", if suspended { "suspended" } else { "paused" });
        }
        suspended || paused
    }

    /// The keeper of snapshots took no more work.
    pub fn keeper_is_busy(&self) {
        self.metrics.refuse("snapshot", "keeper-busy");
    }

    /// The disk stalled, or recovered.
    pub fn disk(&self, stalled: bool) {
        if stalled {
            tracing::warn!(
                "a write has been waiting for the disk for half an election timeout; not leading until it ends"
            );
            self.metrics.refuse("leadership", "disk-stalled");
        } else {
            tracing::info!("the disk answers again");
        }
    }

    /// One event of the core.
    pub fn event(&mut self, event: &Event) -> Result<(), Fatal> {
        match event {
            Event::RoleChanged { role, term, cause } => self.role_changed(*role, term.0, *cause),
            Event::VoteRefused { candidate, refusal } => {
                tracing::debug!(%candidate, ?refusal, "vote refused");
                self.metrics.refuse("vote", format!("{refusal:?}"));
            }
            Event::Dropped { from, reason } => {
                tracing::debug!(%from, ?reason, "message dropped");
                self.metrics.refuse("message", format!("{reason:?}"));
                if let Some(advice) = advice(*reason) {
                    self.stranger(*from, advice);
                }
            }
            Event::LostData { claimed } => return Err(Fatal::LostData(*claimed)),
            Event::Disowned { by } => return Err(Fatal::Disowned(*by)),
            Event::Removed { at } => return Err(Fatal::Removed(*at)),
        }
        Ok(())
    }

    /// Without a word, a cluster that does not form would give no hint why.
    fn stranger(&mut self, from: NodeId, advice: &str) {
        let now = clock::now();
        if self.strangers.get(&from).is_none_or(|at| now.since(*at) >= STRANGER_INTERVAL) {
            self.strangers.insert(from, now);
            tracing::warn!(node = %from, "{advice}");
        }
    }

    fn role_changed(&mut self, role: RoleKind, term: u64, cause: Cause) {
        tracing::info!(role = role.name(), term, ?cause, "role changed");
        let label = RoleLabel { role: role.name(), cause: format!("{cause:?}") };
        self.metrics.role_changes.get_or_create(&label).inc();
        match role {
            RoleKind::PreCandidate | RoleKind::Candidate => {
                self.campaign_since.get_or_insert_with(clock::now);
            }
            RoleKind::Leader => {
                let since = self.campaign_since.take();
                let took = since.map_or(Duration::ZERO, |since| clock::now().since(since));
                self.metrics.election_seconds.observe(took.as_secs_f64());
            }
            RoleKind::Follower | RoleKind::Learner => self.campaign_since = None,
        }
    }

    /// After each turn: the gauges.
    pub fn turn(&mut self, cycle: &Cycle, leadership: &Leadership, oldest_write: Option<Instant>) {
        let now = clock::now();
        if now.since(self.gauges_at) < GAUGE_INTERVAL {
            return;
        }
        self.gauges_at = now;
        let metrics = &self.metrics;
        let lease = leadership.lease_until.map_or(Duration::ZERO, |until| until.since(now));
        metrics.term.set(signed(leadership.term.0));
        metrics.is_leader.set(i64::from(leadership.role == RoleKind::Leader));
        metrics.lease_remaining_ms.set(millis(lease));
        metrics.commit_index.set(signed(leadership.commit_index.0));
        metrics.last_applied.set(signed(leadership.last_applied.0));
        metrics.fsync_outstanding_ms.set(oldest_write.map_or(0, |since| millis(now.since(since))));
        let view = cycle.view();
        metrics.log_entries.set(signed(view.last_log.index.0 - view.log_base.index.0));
        metrics.quorum_answer_age_ms.set(view.quorum_contact.map_or(-1, |at| millis(now.since(at))));
        self.peers(now, view.last_log.index, &view.peers);
    }

    /// A leader's peers; nobody else has any. What was last said of one that is gone would stand for
    /// ever, and look like a peer that never falls behind.
    fn peers(&mut self, now: Instant, last: LogIndex, peers: &[PeerView]) {
        let metrics = &self.metrics;
        if !self.peers_shown.iter().eq(peers.iter().map(|peer| &peer.id)) {
            self.peers_shown = peers.iter().map(|peer| peer.id).collect();
            metrics.peer_lag.clear();
            metrics.peer_contact_age_ms.clear();
        }
        for peer in peers {
            let label = PeerLabel { peer: peer.id.0 };
            let lag = last.0.saturating_sub(peer.match_index.0);
            metrics.peer_lag.get_or_create(&label).set(signed(lag));
            let age = peer.last_contact.map_or(-1, |at| millis(now.since(at)));
            metrics.peer_contact_age_ms.get_or_create(&label).set(age);
        }
    }
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// What a person can do about messages that are dropped for `reason`; nothing about those that pass by themselves.
const fn advice(reason: DropReason) -> Option<&'static str> {
    Some(match reason {
        DropReason::UnknownIncarnation => {
            "dropped what a node says under a member's name: its data directory is not the one that this node knows; \
             it is of an earlier cluster, was emptied, or was restored from another backup or with another term floor"
        }
        DropReason::NotAdded => {
            "the cluster knows this node by another data directory than this one, which is new or was emptied; this \
             node takes no part and waits; put the old directory back, or remove the member with `termgate member \
             remove` and invite or add it again (a node that was added just now may ignore this)"
        }
        DropReason::TermOutOfReach => {
            "dropped what a node says in a term that this node's cluster can't have reached: that node is of a cluster \
             that was restored or recovered, and this data directory is not; to take part there, empty it, and invite \
             this node or start it with `[cluster] join = true` and add it"
        }
        DropReason::Damaged => {
            "dropped a piece of a snapshot that is not what its checksum says, and asks for it again; when this goes on, \
             the memory, the disk or the network card of the sender or of this machine is broken"
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_have_gauges_only_while_this_node_leads_them() {
        let metrics = Metrics::new();
        let mut observer = Observer::new(metrics.clone(), &Config::new(NodeId(1)));
        let peer = |id, at| PeerView {
            id: NodeId(id),
            life: None,
            match_index: LogIndex(at),
            next_index: LogIndex(at + 1),
            last_contact: None,
            commit_index: LogIndex(at),
            last_applied: LogIndex(at),
        };
        let lines = || -> Vec<String> {
            let page = metrics.render();
            let of_peers = page.lines().filter(|line| line.contains("peer=")).map(str::to_owned);
            of_peers.collect()
        };
        observer.peers(Instant::ZERO, LogIndex(9), &[peer(2, 9), peer(3, 4)]);
        assert_eq!(lines().len(), 4, "{:?}", lines());
        assert!(lines().contains(&"termgate_peer_lag_entries{peer=\"3\"} 5".to_owned()), "{:?}", lines());
        observer.peers(Instant::ZERO, LogIndex(9), &[peer(2, 9)]);
        assert_eq!(lines().len(), 2, "node 3 was removed: {:?}", lines());
        observer.peers(Instant::ZERO, LogIndex(9), &[]);
        assert_eq!(lines(), Vec::<String>::new(), "this node leads no more");
    }
}
