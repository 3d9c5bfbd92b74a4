//! What happened in a run, counted: how often each class of faults fired and how often it mattered.
//! A run in which a fault never fired, or never made a difference, proves nothing about it, so a
//! full run with a zero fails.

use std::fmt;

use crate::world::Disks;

macro_rules! classes {
    ($($name:ident = $fault:literal => $effect:literal,)+) => {
        /// A class of faults.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Class { $(#[doc = $fault] $name,)+ }

        /// Every class: what it does, and what it is to matter.
        pub const CLASSES: &[(Class, &str, &str)] = &[$((Class::$name, $fault, $effect),)+];
    };
}

classes! {
    Lost = "message lost" => "it carried a vote or entries",
    Doubled = "message doubled" => "the second copy was overtaken by a later message",
    Tail = "message far too late" => "later than the shortest election timeout",
    Skew = "one direction made slower" => "a message took the slow direction",
    Halves = "two halves" => "a message was stopped",
    Bridge = "two halves and a bridge" => "a message was stopped",
    Chain = "chain" => "a message was stopped",
    Star = "star: all but one hear only that one" => "a message was stopped",
    BadLink = "triangle: one bad link" => "a message was stopped",
    RandomLinks = "random links cut" => "a message was stopped",
    Directed = "random one-way cuts" => "a message was stopped",
    IsolateOne = "one node isolated" => "a message was stopped",
    IsolateLeader = "leader isolated" => "a message was stopped",
    MuteLeader = "leader deaf or dumb" => "a message was stopped",
    BareQuorum = "leader reaches only a bare quorum" => "a message was stopped",
    Flap = "link flapping" => "a message was stopped",
    Swizzle = "links cut one by one, healed in another order" => "a message was stopped",
    Crash = "crash" => "of the leader, or with writes lost",
    CrashAfterSend = "crash right after a message left" => "of the leader, or with writes lost",
    CrashInFsync = "crash right after a write was queued" => "the write was lost",
    Outage = "all nodes crash at once" => "a write was lost",
    DoubleCrash = "crash again while starting" => "before a leader was heard",
    Pause = "process paused" => "a leader, past its lease",
    Suspend = "machine suspended, its clock too" => "a lease outlived its end",
    ClockJump = "clock jumps ahead" => "past a timer",
    ClockRate = "clock rate changed" => "the end of a lease moved",
    FsyncError = "fsync fails, process ends" => "a write was lost",
    FsyncStall = "fsync stalls" => "the node was told",
    SlowDisk = "disk slow for a while" => "the node was told",
    HungDisk = "disk hangs for a while" => "the node was told",
    FullDisk = "disk full for a while" => "a process ended or could not start",
    CutInCommit = "store: power cut within a commit" => "what was under way was there after it",
    KilledInCommit = "store: process killed within a commit" => "what was under way was there after it",
    CutInStart = "store: power cut within a start" => "the start before it was cut too",
    Rot = "store: damage" => "the node was refused its start",
    Retime = "node starts again with other timers" => "a leader was elected among unlike timers",
    WireVersion = "node starts again with another version" => "a frame was refused",
    SnapshotDamage = "fetched snapshot damaged" => "it was fetched again, whole",
    Reconfigure = "membership change asked for" => "it was completed",
    Wipe = "member gets an empty disk" => "it took part again",
    Transfer = "leadership transfer asked for" => "leadership moved",
    BackendCrash = "backend crashes" => "writes were under way",
    BackendAway = "backend not reached for a while" => "a call was lost",
    FenceLoss = "backend comes back with an older fence" => "it was raised again",
    Leaving = "node leaves: its gates drain, then it ends" => "a request found it draining",
    StopBeforeByte = "process stopped between its last look at the gate and the first byte" => "the backend refused the write",
    PlayCutLease = "play: bare quorum, wait for the lease, campaign elsewhere" => "leadership moved",
    PlayPromise = "play: restart the voters that hold the promise" => "leadership moved",
    PlayTransferCut = "play: transfer, then cut the old leader off" => "leadership moved",
    PlayElectionCrash = "play: crash each node during one election" => "leadership moved",
    PlayPauseLeader = "play: pause the leader across its lease" => "leadership moved",
    PlayRolling = "play: rolling restart" => "leadership moved",
    PlayFigure8 = "play: leaders that append and crash in turn" => "leadership moved",
    PlayDelayedAcks = "play: acknowledgements held back, then let go" => "leadership moved",
    PlayLateTransfer = "play: a transfer's messages arrive after it was given up" => "leadership moved",
    PlayLateAnswer = "play: a follower restarts between question and answer" => "it was back in time to ask again",
    PlayMuteLease = "play: leader cut one way while it serves lease reads" => "leadership moved",
    PlayFlap = "play: one link of the leader flaps at the heartbeat" => "it went on to the end",
    PlayReconfigure = "play: the leader is lost in the midst of a membership change" => "leadership moved",
    PlayFullDisk = "play: disk full at the leader, then at a follower" => "leadership moved",
    PlaySnapshot = "play: crash at each step of a snapshot's installation" => "a step was cut short",
    PlaySnapshotRace = "play: entries arrive while a snapshot that ends among them is fetched" => "more than it stands for was there when it came",
}

macro_rules! stats {
    ($($name:ident = $text:literal,)+) => {
        /// One thing that is counted beside the faults.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Stat { $(#[doc = $text] $name,)+ }

        /// Every counter, in the order of the report.
        pub const ALL: &[(Stat, &str)] = &[$((Stat::$name, $text),)+];
    };
}

stats! {
    Worlds = "worlds",
    Steps = "inputs handed to a node",
    Batches = "turns that took several inputs",
    MessagesSent = "messages sent",
    MessagesCut = "messages stopped by a cut link",
    MessagesToFormer = "messages to a directory that was replaced meanwhile",
    MessagesStale = "messages of an older term, life or session dropped",
    Leaders = "leaders elected",
    SplitTerms = "terms without a leader",
    VotesRefusedPromise = "votes refused because of a promise",
    VotesRefusedLog = "votes refused because of the log",
    QuorumLost = "leaders that stepped down without a quorum",
    StepDownsDisk = "leaders that stepped down because of their disk",
    ClockSuspects = "gaps in time that a node was told of",
    Truncations = "uncommitted entries cut off",
    WritesLost = "queued writes lost in a crash",
    WritesKept = "store: writes found that nobody was told of",
    WritesTorn = "model: crashes that kept some of the queued writes and lost others",
    SnapshotsTaken = "snapshots taken",
    SnapshotsFetched = "snapshots fetched by a follower",
    SnapshotsResumed = "fetches that went on where they had stopped",
    SnapshotsGone = "pieces of a snapshot asked for that are no longer there",
    Joint = "joint memberships committed",
    Promoted = "members that were given a vote",
    Demoted = "members whose vote was taken",
    Removed = "members removed, and told so",
    LeadersRemoved = "leaders that were left out",
    JointsInterrupted = "leaders that crashed while a joint membership was in force",
    Replaced = "members replaced in one change",
    ReplacedBehindCuts = "of those, while links were cut",
    LearnersBySnapshot = "learners that fetched a snapshot",
    ReconfiguresUnknown = "membership changes of which nobody knows the end",
    ReconfiguresMisdirected = "membership changes asked of a node that does not lead",
    ReconfiguresRepeated = "membership changes asked for again",
    RefusedInProgress = "membership changes refused: another is under way",
    RefusedNotReady = "membership changes refused: nothing of the term is committed",
    RefusedNoChange = "membership changes refused: nothing would change",
    RefusedAlreadyAMember = "membership changes refused: a member already",
    RefusedNotSuch = "membership changes refused: not such a member",
    RefusedDirectory = "membership changes refused: another directory was known",
    RefusedNotCaughtUp = "membership changes refused: a learner is behind",
    RefusedNotInContact = "membership changes refused: a learner does not answer",
    RefusedNoVoters = "membership changes refused: nobody would vote",
    RefusedNoQuorum = "membership changes refused: no majority answers",
    Strangers = "starts with an empty disk that were refused by the others",
    TransfersTimedOut = "transfers that timed out",
    Writes = "writes asked",
    WritesAcked = "writes acknowledged",
    WritesRefused = "writes refused",
    WritesUnknown = "writes unknown",
    UnknownApplied = "unknown writes that were applied",
    CasFailed = "compare-and-sets lost",
    Retries = "unknown compare-and-sets sent again",
    RetriesRepeated = "of those, the first had been applied",
    Reads = "linearizable reads asked",
    ReadsServed = "linearizable reads served",
    ReadsOnFollower = "linearizable reads served by a follower",
    ReadsRefused = "linearizable reads refused",
    LeaseReads = "lease reads tried",
    LeaseReadsServed = "lease reads served",
    LeaseReadsRefused = "leases gone between look and check",
    LeaseReadsBehind = "lease reads at a leader that had not applied what is committed",
    RequestsHeld = "fenced: requests held without a leader",
    RequestsForwarded = "fenced: requests given to the leader by another node",
    ContentReleased = "fenced: contents asked for by the leader",
    RequestsRedispatched = "fenced: requests tried again, after an attempt without effect",
    StreamsLost = "fenced: streams lost after the content had been released",
    GatedWrites = "fenced: writes admitted by a gate",
    GatedWritesCutShort = "fenced: gates closed between admission and first byte",
    ExchangesRepeated = "fenced: writes sent on a second connection, the first one took no byte",
    DrainCutOff = "fenced: writes of a drain route cut off with the lease",
    GatedWritesAccepted = "fenced: writes recorded by the backend",
    GatedWritesFenced = "fenced: writes refused by the verifier",
    GatedWritesAcked = "fenced: writes acknowledged",
    GatedWritesNotApplied = "fenced: writes told to have had no effect",
    GatedWritesUnknown = "fenced: writes told to be unknown",
    FencedUnknownApplied = "fenced: of those, recorded",
    FencedUnknownAbsent = "fenced: of those, not recorded",
    GatesReopened = "fenced: gates open again after their lease had ended",
    Raises = "fenced: raises",
    RaisesRefused = "fenced: raises that came too late",
    ImplicitRaises = "fenced: raises by the first write of a term",
    FencesSeen = "fenced: looks at the fence",
    HistoryOps = "operations in judged histories",
    KeysSearched = "keys of which an order was found by search",
    FullChecks = "whole states compared entry by entry",
    CalmMinority = "healed: all but a minority",
    CalmBridge = "healed: all but a bridge",
    CalmUnsteady = "healed: leases too short to be steady, so that no write need get through",
    BeyondBoundWorlds = "worlds with clocks beyond their bound",
    LeasesOverlap = "two leases at once, with such clocks",
    Events = "events",
    StormNanos = "simulated time under faults (ns)",
    CalmNanos = "simulated time after healing (ns)",
}

/// The counters of one seed or of a whole run.
#[derive(Debug, Clone)]
pub struct Stats {
    counts: [u64; ALL.len()],
    fired: [u64; CLASSES.len()],
    mattered: [u64; CLASSES.len()],
}

impl Stats {
    /// All zero.
    pub const fn new() -> Self {
        Self { counts: [0; ALL.len()], fired: [0; CLASSES.len()], mattered: [0; CLASSES.len()] }
    }

    /// Counts one.
    pub const fn add(&mut self, stat: Stat) {
        self.counts[stat as usize] += 1;
    }

    /// Counts many.
    pub const fn add_many(&mut self, stat: Stat, count: u64) {
        self.counts[stat as usize] += count;
    }

    /// One counter.
    pub const fn get(&self, stat: Stat) -> u64 {
        self.counts[stat as usize]
    }

    /// A fault fired.
    pub const fn fired(&mut self, class: Class) {
        self.fired[class as usize] += 1;
    }

    /// A fault made the difference that its class names, when it `did`.
    pub const fn mattered(&mut self, class: Class, did: bool) {
        self.mattered[class as usize] += did as u64;
    }

    /// Every counter of one world, in a fixed order.
    pub fn all(&self) -> Vec<u64> {
        [&self.counts[..], &self.fired, &self.mattered].concat()
    }

    /// Adds another seed's counters.
    pub fn merge(&mut self, other: &Self) {
        let add = |mine: &mut [u64], theirs: &[u64]| mine.iter_mut().zip(theirs).for_each(|(m, t)| *m += t);
        add(&mut self.counts, &other.counts);
        add(&mut self.fired, &other.fired);
        add(&mut self.mattered, &other.mattered);
    }

    /// What never happened, of all that can happen on such disks.
    pub fn zeros(&self, disks: Disks) -> Vec<String> {
        let never = if disks == Disks::Store { "model: " } else { "store: " };
        let mut zeros = self.all_zeros();
        zeros.retain(|text| !text.contains(never));
        zeros
    }

    fn all_zeros(&self) -> Vec<String> {
        let counts = ALL.iter().filter(|(stat, _)| self.get(*stat) == 0).map(|(_, text)| (*text).to_owned());
        let fired = CLASSES.iter().filter(|(class, ..)| self.fired[*class as usize] == 0);
        let fired = fired.map(|(_, fault, _)| format!("fault: {fault}"));
        let mattered = CLASSES.iter().filter(|(class, ..)| self.mattered[*class as usize] == 0);
        let mattered = mattered.map(|(_, fault, effect)| format!("effect: {fault}: {effect}"));
        counts.chain(fired).chain(mattered).collect()
    }
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (stat, text) in ALL {
            writeln!(f, "{:>15}  {text}", self.get(*stat))?;
        }
        writeln!(f, "{:>15}  {:>12}  fault, and how it mattered", "fired", "mattered")?;
        for (class, fault, effect) in CLASSES {
            let (fired, mattered) = (self.fired[*class as usize], self.mattered[*class as usize]);
            writeln!(f, "{fired:>15}  {mattered:>12}  {fault}: {effect}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{ALL, CLASSES, Class, Stats};

    #[test]
    fn names_everything_that_never_happened_and_nothing_else() {
        let mut stats = Stats::new();
        assert_eq!(stats.all_zeros().len(), ALL.len() + 2 * CLASSES.len());
        ALL.iter().for_each(|(stat, _)| stats.add(*stat));
        CLASSES.iter().for_each(|(class, ..)| stats.fired(*class));
        CLASSES.iter().for_each(|(class, ..)| stats.mattered(*class, *class != Class::Star));
        let zeros = stats.all_zeros();
        assert!(matches!(&zeros[..], [one] if one.contains("star")), "{zeros:?}");
    }
}
