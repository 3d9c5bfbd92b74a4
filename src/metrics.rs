//! Everything that is counted, in one place, in the words of the glossary.
//!
//! Labels are bounded: routes come from the configuration, peers from the membership, and every
//! other label is the name of an enum variant. Nothing a client sends becomes a label.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// The media type of what [`Metrics::render`] gives.
pub const MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Seconds; from a fast NVMe flush to a stalled disk.
const FSYNC_BUCKETS: [f64; 12] =
    [0.0001, 0.000_25, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.0];
/// Seconds; from one round trip to several failed elections.
const ELECTION_BUCKETS: [f64; 10] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 5.0];
/// Seconds; from an empty registry to a full one on a slow disk.
const SNAPSHOT_BUCKETS: [f64; 8] = [0.001, 0.005, 0.025, 0.1, 0.5, 2.0, 10.0, 60.0];
/// Seconds; a proxied request.
const REQUEST_BUCKETS: [f64; 12] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0];

/// A role change and why.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RoleLabel {
    /// The new role.
    pub role: &'static str,
    /// The cause.
    pub cause: String,
}

/// A refusal, a drop, or the like.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReasonLabel {
    /// What was refused or dropped.
    pub what: &'static str,
    /// Why.
    pub reason: String,
}

/// One peer.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PeerLabel {
    /// Its node id.
    pub peer: u64,
}

/// One route.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RouteLabel {
    /// Its name in the configuration.
    pub route: String,
}

/// One class of requests of a route, and how they ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RequestLabel {
    /// The route.
    pub route: String,
    /// `write`, or the consistency of the read.
    pub class: &'static str,
    /// `applied`, `not-applied`, `unknown`, or `served` for a read.
    pub outcome: &'static str,
}

macro_rules! metrics {
    ($($(#[doc = $help:literal])+ $field:ident : $kind:ty = $make:expr, $name:literal;)+) => {
        /// The counters of one process. Cheap to clone; clones count into the same place.
        #[derive(Debug, Clone)]
        pub struct Metrics { $($(#[doc = $help])+ pub $field: $kind,)+ }

        impl Metrics {
            /// All zero.
            pub fn new() -> Self {
                Self { $($field: $make,)+ }
            }

            fn registry(&self) -> Registry {
                let mut registry = Registry::with_prefix("termgate");
                $(registry.register($name, concat!($($help),+), self.$field.clone());)+
                registry
            }
        }
    };
}

metrics! {
    /// Role changes of this node
    role_changes: Family<RoleLabel, Counter> = Family::default(), "role_changes";
    /// Elections this node won, from its campaign's start to leadership, in seconds
    election_seconds: Histogram = Histogram::new(ELECTION_BUCKETS), "election_seconds";
    /// Current term
    term: Gauge = Gauge::default(), "term";
    /// 1 while this node leads
    is_leader: Gauge = Gauge::default(), "is_leader";
    /// Milliseconds the lease is still valid; 0 without one
    lease_remaining_ms: Gauge = Gauge::default(), "lease_remaining_ms";
    /// Milliseconds since the beat that a quorum last answered; -1 when not leading
    quorum_answer_age_ms: Gauge = Gauge::default(), "quorum_answer_age_ms";
    /// Commit index
    commit_index: Gauge = Gauge::default(), "commit_index";
    /// Last applied index
    last_applied: Gauge = Gauge::default(), "last_applied";
    /// Entries a peer is behind this leader
    peer_lag: Family<PeerLabel, Gauge> = Family::default(), "peer_lag_entries";
    /// Milliseconds since a peer last answered this leader
    peer_contact_age_ms: Family<PeerLabel, Gauge> = Family::default(), "peer_contact_age_ms";
    /// Durable commits of the store, in seconds
    fsync_seconds: Histogram = Histogram::new(FSYNC_BUCKETS), "fsync_seconds";
    /// Snapshots of the own state, from the copy to the flushed file, in seconds
    snapshot_seconds: Histogram = Histogram::new(SNAPSHOT_BUCKETS), "snapshot_seconds";
    /// Snapshots fetched from a leader, whole and verified
    snapshots_fetched: Counter = Counter::default(), "snapshots_fetched";
    /// Entries in the log, in memory and on disk
    log_entries: Gauge = Gauge::default(), "log_entries";
    /// Milliseconds the oldest unfinished write of the store has been waiting
    fsync_outstanding_ms: Gauge = Gauge::default(), "fsync_outstanding_ms";
    /// Refused or dropped messages, votes, connections and requests
    refusals: Family<ReasonLabel, Counter> = Family::default(), "refusals";
    /// End of the own certificate, in seconds since 1970
    certificate_not_after: Gauge = Gauge::default(), "certificate_not_after_timestamp_seconds";
    /// Proxied requests that ended
    requests: Family<RequestLabel, Counter> = Family::default(), "requests";
    /// Proxied requests, from head to the end of the answer, in seconds
    request_seconds: Histogram = Histogram::new(REQUEST_BUCKETS), "request_seconds";
    /// Requests that wait for a leader or an open gate now
    held_requests: Gauge = Gauge::default(), "held_requests";
    /// Requests that had to wait for a leader or an open gate
    held: Family<RouteLabel, Counter> = Family::default(), "held";
    /// Requests sent again because the first attempt certainly had no effect
    redispatched: Family<RouteLabel, Counter> = Family::default(), "redispatched";
    /// Fences raised at backends
    fence_raises: Family<RouteLabel, Counter> = Family::default(), "fence_raises";
    /// Fence raises that failed, and will be tried again
    fence_raise_failures: Family<RouteLabel, Counter> = Family::default(), "fence_raise_failures";
    /// Writes that a backend refused because of their token
    fence_refusals: Family<RouteLabel, Counter> = Family::default(), "fence_refusals";
    /// 1 while a route's gate is open here
    gate_open: Family<RouteLabel, Gauge> = Family::default(), "gate_open";
}

impl Metrics {
    /// Counts one refusal or drop.
    pub fn refuse(&self, what: &'static str, reason: impl Into<String>) {
        self.refusals.get_or_create(&ReasonLabel { what, reason: reason.into() }).inc();
    }

    /// The Prometheus text form (`GET /metrics`), which is [`MEDIA_TYPE`].
    pub fn render(&self) -> String {
        let mut text = String::new();
        // Writing into a String cannot fail; an empty page would only mean that it did.
        let _ = encode(&mut text, &self.registry());
        text
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}
