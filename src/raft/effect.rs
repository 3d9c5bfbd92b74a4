//! What goes into the core and what comes out.
//!
//! [`Input`] is everything that can happen to a node. [`Effect`]s are drained after each step, in
//! order, and a message names what must be durable before it: with `after: Some(io)` it is held until
//! the persistence watermark reaches `io`. Only the core decides that; the driver and the simulator
//! merely obey, so the wrong order cannot be written down anywhere else.

use bytes::Bytes;

use crate::ids::{IoSeq, LogId, LogIndex, NodeId, Term, Ticket};
use crate::raft::entry::{Entry, Persist, Snapshot, SnapshotId};
use crate::raft::message::{FetchSnapshot, Message, SnapshotChunk, VoteRefusal};
pub use crate::raft::reconfigure::{CAUGHT_UP, Change, ReconfigureRefusal};

/// Everything that can happen to a node.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Input {
    /// The deadline the node asked for has passed. Harmless when early.
    Timeout,
    /// A message from an authenticated peer.
    Receive(Message),
    /// A client wants `command` in the log. Only a leader appends.
    Propose {
        /// Who waits.
        ticket: Ticket,
        /// Opaque to Raft.
        command: Bytes,
    },
    /// A client wants to read linearizably. A follower asks its leader.
    Read {
        /// Who waits.
        ticket: Ticket,
    },
    /// Hand leadership to `to`, or to the most up-to-date follower.
    Transfer {
        /// Who waits.
        ticket: Ticket,
        /// The wished leader.
        to: Option<NodeId>,
    },
    /// Change who takes part. One change at a time; answered when it is complete, or refused.
    Reconfigure {
        /// Who waits.
        ticket: Ticket,
        /// What is to be different.
        change: Change,
    },
    /// Everything up to this write is durable.
    Persisted {
        /// The watermark.
        io: IoSeq,
    },
    /// Everything up to this entry has been applied.
    Applied {
        /// The last applied entry.
        index: LogIndex,
    },
    /// The oldest write has been outstanding for longer than half the longest election timeout, or
    /// that ended. A stalled leader steps down; a stalled node does not campaign (L9).
    DiskStalled(bool),
    /// Something happened to the content of a snapshot.
    Snapshot(SnapshotInput),
    /// The clock may have missed time: a gap between two turns of the loop, or a suspend. The
    /// lease is suspect until a quorum answers a beat that was sent after this.
    ClockSuspect,
}

/// What can happen to the content of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum SnapshotInput {
    /// This node's own state was written down, durably.
    Taken(Snapshot),
    /// After [`SnapshotEffect::Begin`]: so many bytes are there already.
    Begun {
        /// Of which snapshot.
        id: SnapshotId,
        /// A prefix of so many bytes.
        have: u64,
    },
    /// After [`SnapshotEffect::Store`]: everything up to here is there.
    Stored {
        /// Of which snapshot.
        id: SnapshotId,
        /// A prefix of so many bytes.
        have: u64,
    },
    /// After [`SnapshotEffect::Finish`]: it is whole, decoded and durable.
    Fetched(SnapshotId),
    /// After [`SnapshotEffect::Serve`]: the piece that was wanted.
    Read {
        /// Who wants it.
        to: NodeId,
        /// The piece.
        chunk: SnapshotChunk,
    },
    /// What was fetched is of no use: damaged, or it could not be kept.
    Failed(SnapshotId),
}

/// What a step wants done, in order.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Append to the persistence queue.
    Persist(Persist),
    /// Send, once `after` is durable.
    Send {
        /// The message.
        message: Message,
        /// What must be durable first.
        after: Option<IoSeq>,
    },
    /// Apply these committed entries, in order, then report [`Input::Applied`]. Every entry is
    /// handed out exactly once in a life.
    Apply(Vec<Entry>),
    /// Answer a caller. Every ticket is answered exactly once.
    Reply {
        /// Who waited.
        ticket: Ticket,
        /// How it ended.
        outcome: Outcome,
    },
    /// Something for whoever keeps the snapshots' content.
    Snapshot(SnapshotEffect),
    /// Something for the log and the metrics.
    Event(Event),
}

/// What is to be done about the content of snapshots, which the core never sees.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum SnapshotEffect {
    /// A snapshot will arrive in pieces. Report [`SnapshotInput::Begun`] with what is there of it
    /// already; pieces of any other are of no use any more.
    Begin(Snapshot),
    /// Keep the next piece, then report [`SnapshotInput::Stored`].
    Store {
        /// Of which snapshot.
        id: SnapshotId,
        /// From which byte.
        offset: u64,
        /// The piece.
        bytes: Bytes,
    },
    /// All pieces are there: verify and decode the whole, make it durable, and report
    /// [`SnapshotInput::Fetched`].
    Finish(SnapshotId),
    /// Replace the state machine by the fetched one, now. The effects before this one still belong to
    /// the old one, those after it to the new one (N9).
    Restore(Snapshot),
    /// Answer a follower with a piece.
    Serve {
        /// The follower.
        to: NodeId,
        /// What it wants.
        wanted: FetchSnapshot,
    },
}

/// How a request to the core ended. There is no variant for "probably".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The command is committed; it was in an earlier [`Effect::Apply`].
    Committed(LogId),
    /// Linearizable once applied up to `index`; confirmed in `term`.
    ReadAt {
        /// Where to read.
        index: LogIndex,
        /// The term in which leadership was confirmed.
        term: Term,
    },
    /// This node does not lead, and the request had no effect.
    NotLeader {
        /// Who does, as far as this node knows.
        leader: Option<NodeId>,
    },
    /// The command is in the log and leadership was lost: it may still commit, or not (P5).
    Unknown,
    /// A limit was reached; the request had no effect.
    Busy,
    /// Leadership moved.
    Transferred {
        /// The new leader.
        to: NodeId,
        /// Its term.
        term: Term,
    },
    /// Leadership stayed, or its new place is not known; says why.
    TransferRefused(TransferRefusal),
    /// The new membership is committed, with this entry.
    Reconfigured(LogId),
    /// The membership stayed as it was; says why.
    ReconfigureRefused(ReconfigureRefusal),
}

/// Why a transfer did not happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TransferRefusal {
    /// No such voter.
    NotAVoter,
    /// No follower is caught up and in contact.
    NobodyCaughtUp,
    /// Another transfer is under way.
    InProgress,
    /// The target did not take over within an election timeout. The lease was earned anew.
    TimedOut,
}

/// Why a role changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// No leader was heard for an election timeout.
    ElectionTimeout,
    /// A quorum promised its vote.
    PreVoteWon,
    /// A quorum voted.
    ElectionWon,
    /// Too many refusals, or nobody answered in time.
    ElectionLost,
    /// The leader asked this node to take over.
    TransferReceived,
    /// A message of a higher term arrived.
    HigherTerm,
    /// A leader of this term was heard.
    LeaderHeard,
    /// No quorum answered for an election timeout (check quorum).
    QuorumLost,
    /// The disk stalled.
    DiskStalled,
    /// A membership without a vote for this node is committed, and leadership could not be handed over.
    NotAVoter,
}

/// Things worth counting. Three of them also end the process: this node can't take part any more.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Event {
    /// The role changed.
    RoleChanged {
        /// The new role.
        role: RoleKind,
        /// The term it is held in.
        term: Term,
        /// Why.
        cause: Cause,
    },
    /// A vote was refused, by this node.
    VoteRefused {
        /// Who asked.
        candidate: NodeId,
        /// Why.
        refusal: VoteRefusal,
    },
    /// A message was dropped.
    Dropped {
        /// Who sent it.
        from: NodeId,
        /// Why.
        reason: DropReason,
    },
    /// Another member knows this node by another data directory (V8): what this node had promised and
    /// acknowledged is gone. The driver ends the process with this as its reason.
    Disowned {
        /// Who says so.
        by: NodeId,
    },
    /// The membership that this node knows to be committed does not name it, though an earlier one did, and
    /// no leader is heard any more: it was removed (MC-7). The driver ends the process with this as its reason.
    Removed {
        /// Where that membership stands in the log.
        at: LogIndex,
    },
    /// A leader claims a commit beyond what this node once acknowledged: this node lost data (C14).
    /// The driver ends the process with this as its reason.
    LostData {
        /// What the leader says is committed and matched here.
        claimed: LogId,
    },
}

/// Why a message was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DropReason {
    /// Not for this node.
    Misaddressed,
    /// Its sender is no member.
    NotAMember,
    /// Of an older term.
    StaleTerm,
    /// Of an earlier life of the sender.
    StaleLife,
    /// Of another data directory than the sender is known by (V8).
    UnknownIncarnation,
    /// The sender knows this node by another data directory than this one, and this one holds no membership:
    /// its node waits to be added, and who has just been added may not be known everywhere yet.
    NotAdded,
    /// Of another replication session.
    StaleSession,
    /// Of a term that the cluster of this node can't have reached: of one that was founded on its state (E2).
    TermOutOfReach,
    /// It contradicts the protocol, such as entries that are not contiguous.
    Malformed,
    /// It came too late to matter.
    Late,
    /// A piece of a snapshot that is not what its checksum says.
    Damaged,
}

/// The roles (thesis 3.3, 9.6, 4.2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RoleKind {
    /// Follows a leader, or waits for one.
    Follower,
    /// Asks whether a campaign could be won.
    PreCandidate,
    /// Asks for votes.
    Candidate,
    /// Leads.
    Leader,
    /// Receives the log and has no vote.
    Learner,
}

impl RoleKind {
    /// The role's name in answers, logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Follower => "follower",
            Self::PreCandidate => "pre-candidate",
            Self::Candidate => "candidate",
            Self::Leader => "leader",
            Self::Learner => "learner",
        }
    }
}
