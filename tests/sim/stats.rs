//! What happened in a run, counted: how often each fault fired and how often it mattered. A run
//! in which a fault never fired proves nothing about it, so a full run with a zero fails.

use std::fmt;

macro_rules! stats {
    ($($name:ident = $text:literal,)+) => {
        /// One thing that is counted.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Stat { $(#[doc = $text] $name,)+ }

        /// Every counter, in the order of the report.
        pub const ALL: &[(Stat, &str)] = &[$((Stat::$name, $text),)+];
    };
}

stats! {
    Steps = "inputs handed to a node",
    Batches = "turns that took several inputs",
    MessagesSent = "messages sent",
    MessagesDropped = "fault: messages lost",
    MessagesDoubled = "fault: messages doubled",
    MessagesInTail = "fault: messages far too late",
    MessagesCut = "fault: messages stopped by a cut link",
    LinksSkewed = "fault: one direction made slower than the other",
    Partitions = "fault: two halves",
    Bridges = "fault: a bridge between two halves",
    Chains = "fault: only neighbours reach each other",
    OneWayCuts = "fault: one-way cut",
    LeaderIsolations = "fault: leader isolated",
    LeaderMuted = "fault: leader hears nobody, or nobody hears it",
    BareQuorums = "fault: leader reaches only a bare quorum",
    Flaps = "fault: link flapping",
    Crashes = "fault: crash",
    CrashesAfterSend = "fault: crash right after a message left",
    CrashesInFsync = "fault: crash right after a write was queued",
    FullOutages = "fault: all nodes crash at once",
    WritesLost = "mattered: queued writes lost in a crash",
    WritesTorn = "mattered: crash kept some of the queued writes and lost others",
    FsyncErrors = "fault: fsync failed, process ended",
    FsyncStalls = "fault: fsync stalled",
    DiskStallsTold = "mattered: node told of a stalled disk",
    Pauses = "fault: process paused",
    PausesOfLeader = "mattered: leader paused past its lease",
    ClockSuspects = "mattered: node told of a gap in its time",
    ClockRateChanges = "fault: clock rate changed",
    TimersChanged = "fault: node restarted with other timers",
    SnapshotsTaken = "snapshots taken",
    SnapshotsFetched = "mattered: snapshot fetched by a follower",
    SnapshotsResumed = "mattered: fetch of a snapshot went on where it had stopped",
    SnapshotsGone = "mattered: piece of a snapshot asked for that is no longer there",
    SnapshotsDamaged = "fault: fetched snapshot damaged",
    Transfers = "fault: leadership transfer asked for",
    TransfersDone = "mattered: leadership transferred",
    TransfersTimedOut = "mattered: transfer timed out",
    ScriptCutLease = "script: bare quorum, wait for the lease, campaign elsewhere",
    ScriptPromise = "script: restart the voter that holds the promise",
    ScriptTransferCut = "script: transfer, then cut the old leader off",
    ScriptElectionCrash = "script: crash each node during one election",
    ScriptPauseLeader = "script: pause the leader across its lease",
    ScriptRolling = "script: rolling restart",
    ScriptFigure8 = "script: leaders that append and crash in turn",
    ScriptDelayedAcks = "script: acknowledgements of the leader held back, then let go",
    ScriptLateTransfer = "script: a transfer's messages arrive after it was given up",
    ScriptLateAnswer = "script: a follower restarts between question and answer",
    Leaders = "leaders elected",
    SplitTerms = "terms without a leader",
    VotesRefusedPromise = "mattered: vote refused because of a promise",
    VotesRefusedLog = "mattered: vote refused because of the log",
    QuorumLost = "mattered: leader stepped down without a quorum",
    StepDownsDisk = "mattered: leader stepped down because of its disk",
    MessagesStale = "mattered: message of an older term, life or session dropped",
    Truncations = "mattered: uncommitted entries cut off",
    Writes = "writes asked",
    WritesAcked = "writes acknowledged",
    WritesRefused = "writes refused",
    WritesUnknown = "writes unknown",
    UnknownApplied = "mattered: an unknown write was applied",
    CasFailed = "compare-and-set lost",
    Reads = "linearizable reads asked",
    ReadsServed = "linearizable reads served",
    ReadsOnFollower = "linearizable reads served by a follower",
    ReadsRefused = "linearizable reads refused",
    LeaseReads = "lease reads tried",
    LeaseReadsServed = "lease reads served",
    LeaseReadsRefused = "mattered: lease gone between look and check",
    GatedWrites = "writes admitted by a gate",
    GatedWritesCutShort = "mattered: gate closed between admission and first byte",
    GatedWritesAccepted = "writes accepted by the backend",
    GatedWritesFenced = "mattered: stale write refused by the backend",
    BackendCrashes = "fault: backend crash",
    Raises = "fences raised",
    RaisesRefused = "mattered: fence raise came too late",
    CalmMinority = "healed: all but a minority",
    CalmBridge = "healed: all but a bridge",
    BeyondBoundWorlds = "worlds with clocks beyond their bound",
    StormNanos = "simulated time under faults (ns)",
    CalmNanos = "simulated time after healing (ns)",
}

/// The counters of one seed or of a whole run.
#[derive(Debug, Clone)]
pub struct Stats([u64; ALL.len()]);

impl Stats {
    /// All zero.
    pub const fn new() -> Self {
        Self([0; ALL.len()])
    }

    /// Counts one.
    pub const fn add(&mut self, stat: Stat) {
        self.0[stat as usize] += 1;
    }

    /// Counts many.
    pub const fn add_many(&mut self, stat: Stat, count: u64) {
        self.0[stat as usize] += count;
    }

    /// One counter.
    pub const fn get(&self, stat: Stat) -> u64 {
        self.0[stat as usize]
    }

    /// Adds another seed's counters.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.0.iter_mut().zip(other.0) {
            *mine += theirs;
        }
    }

    /// What never happened.
    pub fn zeros(&self) -> Vec<&'static str> {
        ALL.iter().filter(|(stat, _)| self.get(*stat) == 0).map(|(_, text)| *text).collect()
    }
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (stat, text) in ALL {
            writeln!(f, "{:>14}  {text}", self.get(*stat))?;
        }
        Ok(())
    }
}
