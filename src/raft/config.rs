//! The core's parameters, and the relations between them that safety needs.

use crate::ids::NodeId;
use crate::time::Duration;

/// Timing and limits of one node. Nodes of one cluster may differ (each acknowledgement carries
/// its voter's own promise).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Config {
    /// This node.
    pub id: NodeId,
    /// Between two heartbeats of a leader. Default 50 ms.
    pub heartbeat_interval: Duration,
    /// The shortest election timeout, and what a voter promises a leader. Default 150 ms.
    pub election_timeout_min: Duration,
    /// The longest election timeout; each campaign draws anew. Default 300 ms.
    pub election_timeout_max: Duration,
    /// By how much two clocks' rates may differ, in parts per million. Default 1000.
    pub clock_drift_ppm: u32,
    /// Taken off the lease for the time between a check and the act it guards. Default 5 ms.
    pub lease_margin: Duration,
    /// Whether lease reads are offered. The lease itself is kept in any case, because the gate
    /// rests on it, and promises are always given.
    pub lease_reads: bool,
    /// Entries a leader may have appended and not committed; more is answered `Busy`.
    pub max_uncommitted: usize,
    /// Bytes of commands a leader may have appended and not committed; more is answered `Busy`. One
    /// command always fits.
    pub max_uncommitted_bytes: usize,
    /// Bytes of entries in one AppendEntries.
    pub max_append_bytes: usize,
    /// AppendEntries with entries on their way to one follower, unanswered.
    pub max_inflight_messages: usize,
    /// Bytes of entries on their way to one follower, unanswered.
    pub max_inflight_bytes: usize,
    /// Applied entries after which a snapshot is taken.
    pub snapshot_entries: u64,
    /// Bytes of applied entries after which a snapshot is taken, whichever comes first.
    pub snapshot_bytes: usize,
    /// Entries that a snapshot stands for and that are kept all the same, for followers that are a
    /// little behind.
    pub snapshot_keep: u64,
    /// Bytes of them at most.
    pub snapshot_keep_bytes: usize,
    /// Bytes of a snapshot asked for in one piece, and pieces asked for ahead.
    pub chunk_bytes: u32,
    /// Pieces asked for and not stored yet.
    pub max_inflight_chunks: u32,
    /// Reads that may wait for a position at once; more is answered `Busy`.
    pub max_pending_reads: usize,
}

impl Config {
    /// The defaults of the contract for node `id`.
    pub fn new(id: NodeId) -> Self {
        Self {
            id,
            heartbeat_interval: Duration::from_millis(50),
            election_timeout_min: Duration::from_millis(150),
            election_timeout_max: Duration::from_millis(300),
            clock_drift_ppm: 1000,
            lease_margin: Duration::from_millis(5),
            lease_reads: true,
            // A second of a fast cluster's writes; beyond it, waiting only grows the tail.
            max_uncommitted: 16_384,
            // Kept in memory at the leader, and queued for its disk.
            max_uncommitted_bytes: 64 * 1024 * 1024,
            // Fits a stream's flow-control window several times over.
            max_append_bytes: 256 * 1024,
            max_inflight_messages: 64,
            max_inflight_bytes: 4 * 1024 * 1024,
            // A restart replays at most so much: a second's worth of a busy cluster, and a log that fits
            // into memory many times over.
            snapshot_entries: 100_000,
            snapshot_bytes: 64 * 1024 * 1024,
            // What a follower misses in a restart.
            snapshot_keep: 10_000,
            snapshot_keep_bytes: 16 * 1024 * 1024,
            // Well below a frame's limit; together a few round trips' worth of a wide-area link.
            chunk_bytes: 256 * 1024,
            max_inflight_chunks: 8,
            max_pending_reads: 65_536,
        }
    }

    /// The defaults for members in several regions, up to about 200 ms of round trip apart. A heartbeat
    /// interval holds a round trip, so that an answer is due before the next beat; an election timeout
    /// holds four of them, so that a lost one or two starts no election; and both bounds together keep
    /// an election, with its two round trips, under 5 s.
    pub fn wan(id: NodeId) -> Self {
        Self {
            heartbeat_interval: Duration::from_millis(250),
            election_timeout_min: Duration::from_millis(1000),
            election_timeout_max: Duration::from_millis(2000),
            lease_margin: Duration::from_millis(20),
            ..Self::new(id)
        }
    }

    /// Everything that is wrong with the parameters, in words for the operator.
    pub fn problems(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut require = |holds: bool, text: &str| {
            if !holds {
                found.push(text.to_owned());
            }
        };
        require(!self.heartbeat_interval.is_zero(), "heartbeat_interval_ms must be at least 1");
        require(
            self.heartbeat_interval * 2 <= self.election_timeout_min,
            "election_timeout_ms must start at twice heartbeat_interval_ms or more, \
             or one lost heartbeat starts an election",
        );
        require(
            self.election_timeout_min < self.election_timeout_max,
            "election_timeout_ms needs a lower bound and then a higher one, or votes split for ever",
        );
        require(
            self.clock_drift_ppm <= 500_000,
            "clock_drift_ppm above 500000 leaves no lease; a real clock stays under 1000",
        );
        require(
            self.lease_margin * 2 <= self.election_timeout_min,
            "the lease margin must be at most half the shortest election timeout",
        );
        found
    }
}
