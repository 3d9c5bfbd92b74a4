//! The Raft core (Ongaro's thesis, "Consensus: Bridging Theory and Practice", 2014): pure,
//! deterministic, without IO, clock, threads or async.
//!
//! # The idea
//!
//! A [`Node`] is a state machine. [`Node::step`] takes what happened and when; [`Node::poll`] hands
//! out what is to be done about it; [`Node::deadline`] says when to look at the clock again, and
//! [`Node::view`] what is to be seen. The same inputs give the same effects, bit for bit, so the
//! simulator runs the very code that serves.
//!
//! The core never waits. Whatever needs something durable first says so itself: each message among the
//! [`effect::Effect`]s names the write it has to wait for, and the driver merely obeys. Which write that is, is decided
//! in two lines of `core` (the term of a message, always) and where the effect is made.
//!
//! # The way through a leader's life
//!
//! **Election.** A follower that hears no leader for its random election timeout asks the others
//! whether they would vote for it (pre-vote). If a quorum would, it raises the term, votes for
//! itself, and asks in earnest once term, vote and the end of its log are on disk. One rule in
//! `election` answers both questions. It refuses while the voter has promised a leader not to
//! vote, and then does not even adopt the higher term: who was cut off can't disturb who was not.
//!
//! **Log.** The winner appends a no-op and sends it at once, while its own disk still writes it.
//! For each follower, `progress` first looks for the last entry they share, then streams ahead of
//! the answers. An entry is committed when a quorum has it *on disk* and it is of the leader's own
//! term; committed entries are handed out for apply exactly once.
//!
//! **Reads.** A read gets a position. Every beat names the newest position; a quorum that answers
//! has confirmed all reads up to it (`read_index`). Followers ask the leader for a position and
//! then read at home.
//!
//! **Lease.** Each answer to a beat is also a promise not to vote for others for a while. What a
//! quorum promised, counted from when the beat was *sent* and less what clocks may drift, is the
//! lease: until its end no other node can have been elected. The fence, the token the proxy stamps
//! on writes, is shown only with the no-op applied and no doubt about the lease.
//!
//! **Transfer.** To hand over, a leader first gives up its lease, brings the target up to date, waits
//! until all of its log is committed, and tells the target to campaign at once; its term in the vote request releases the voters from their
//! promise. If nothing comes of it, new sessions end that release before the lease counts again
//! (`transfer`).
//!
//! **Snapshot.** When enough was applied, the core asks for the state to be written down, and then begins
//! its log later. A follower that lacks what is no longer there is offered the snapshot and fetches it at
//! its own pace (`fetch`). The core never sees a snapshot's content, only its name.
//!
//! **Membership.** A change of voters goes through a joint configuration in which both the old and the new
//! majority must agree; learners come and go in one step. A membership is in force from the moment it is
//! appended, and no longer once the log is cut before it. Whoever leads when the joint one is committed appends the
//! final one (`reconfigure`). A node with a new data directory under an old id is refused until a membership
//! names that directory (V8).
//!
//! **End.** A leader that no quorum answers for an election timeout, whose disk stalls, or that
//! sees a higher term, becomes a follower in that very step: its lease and fence are gone with the
//! role, reads are refused, and who waits for an uncommitted entry is told `Unknown`.
//!
//! | file | idea |
//! |---|---|
//! | `message`, `entry`, `config`, `effect`, `view` | the vocabulary: what is said, kept, set, done, seen |
//! | `leadership` | the part of what is seen that the edges decide by |
//! | `log` | terms, positions, memberships; which writes are under way |
//! | `core` | what every role shares; sending and committing |
//! | `election`, `follower`, `leader` | the roles; each knows only itself and the core |
//! | `directory` | which data directory is meant by a name that several have had |
//! | `fetch` | a follower fetches a snapshot |
//! | `progress`, `read_index`, `transfer`, `reconfigure` | the leader's four concerns |
//! | `receive` | what a message goes through before a role sees it |
//! | `node` | the only place where a role changes |
//! | `invariants` | what must always hold, asserted after each step in debug builds |
//!
//! `crate::quorum` and `crate::lease` hold the arithmetic. The rules have ids (`V1`, `R7`, …):
//! `proto-spec/raft.md` states each, and `tests/scripts/raft` shows it happen.
//!
//! # What is left out
//!
//! - *Byzantine peers*. Claims that contradict the protocol are dropped and never obeyed, but a member
//!   that lies consistently about its log or its promises is believed; one that claims this node had
//!   acknowledged what it does not hold ends this node (C14).

pub mod config;
mod core;
mod directory;
pub mod effect;
mod election;
pub mod entry;
mod fetch;
mod follower;
mod invariants;
mod leader;
pub mod leadership;
mod log;
pub mod message;
mod node;
mod progress;
mod read_index;
mod receive;
mod reconfigure;
mod transfer;
pub mod view;

pub use node::{Boot, Node};
pub use receive::HIGHEST_TERM_JUMP;
