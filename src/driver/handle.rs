//! The only door from the edges (proxy, API) to the loop.
//!
//! A [`Handle`] is cheap to clone. Reading who leads is a look at a published picture; everything
//! else is a message to the loop with a channel for its typed answer. Nothing here blocks the loop:
//! the queue towards it is bounded, and a full queue is answered [`Refused::Busy`].

use std::sync::{Arc, RwLock};

use tokio::sync::{mpsc, oneshot, watch};

use crate::clock;
use crate::fencing::leadership::Leadership;
use crate::ids::{LogId, LogIndex, NodeId, Term};
use crate::raft::effect::{Change, ReconfigureRefusal, TransferRefusal};
use crate::raft::view::View;
use crate::registry::command::{Answer, Op};
use crate::registry::machine::Machine;
use crate::time::Instant;

/// Requests that may wait for the loop; beyond it callers are told `Busy` instead of growing a
/// queue that a stalled disk would never drain.
pub const QUEUE_LIMIT: usize = 16_384;

/// What the edges ask of the loop.
#[derive(Debug)]
pub enum Request {
    /// Replicate and apply `op`.
    Propose {
        /// The term in which it was decided.
        decided_in: Term,
        /// The operation.
        op: Op,
        /// Where the answer goes.
        reply: oneshot::Sender<Result<Applied, Refused>>,
    },
    /// Find a linearizable read position and wait until it is applied here.
    Read {
        /// Where the answer goes.
        reply: oneshot::Sender<Result<ReadPoint, Refused>>,
    },
    /// Transfer leadership.
    Transfer {
        /// The term that is to be given up, where it is not just any.
        decided_in: Option<Term>,
        /// The wished leader.
        to: Option<NodeId>,
        /// Where the answer goes.
        reply: oneshot::Sender<Result<Transferred, Refused>>,
    },
    /// Change who takes part.
    Reconfigure {
        /// What is to be different.
        change: Change,
        /// Where the answer goes: the entry that completed it.
        reply: oneshot::Sender<Result<LogId, Refused>>,
    },
    /// Whether a change of the membership would be made now.
    Judge {
        /// What would be different.
        change: Change,
        /// Where the answer goes.
        reply: oneshot::Sender<Result<(), Refused>>,
    },
    /// A detailed view of the core.
    View {
        /// Where the answer goes.
        reply: oneshot::Sender<View>,
    },
}

/// A command was committed and applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// Its log index.
    pub index: LogIndex,
    /// The term it was committed in.
    pub term: Term,
    /// What the state machine answered.
    pub answer: Answer,
}

/// A confirmed position; the local state machine has applied it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadPoint {
    /// The position.
    pub index: LogIndex,
    /// The term in which it was confirmed.
    pub term: Term,
}

/// Leadership moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transferred {
    /// The term that was given up.
    pub from_term: Term,
    /// The new leader.
    pub to: NodeId,
    /// Its term.
    pub term: Term,
}

/// Why a request was not served. Everything but `Unknown` had certainly no effect.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Another node leads, or nobody is known to.
    #[error("this node does not lead")]
    NotLeader {
        /// Who does, as far as is known.
        leader: Option<NodeId>,
    },
    /// A limit was reached.
    #[error("too many requests wait for the consensus loop")]
    Busy,
    /// Leadership was lost with the command in the log; it may still commit.
    #[error("leadership was lost while the command was being replicated")]
    Unknown,
    /// Transfer was refused, or timed out.
    #[error("leadership was not transferred: {0:?}")]
    Transfer(TransferRefusal),
    /// The membership stayed as it was.
    #[error("the membership was not changed: {0}")]
    Reconfigure(ReconfigureRefusal),
    /// The node is shutting down.
    #[error("the node is shutting down")]
    Closed,
}

/// The edges' access to one node's loop.
#[derive(Debug, Clone)]
pub struct Handle {
    node: NodeId,
    requests: mpsc::Sender<Request>,
    leadership: watch::Receiver<Arc<Leadership>>,
    machine: Arc<RwLock<Machine>>,
}

impl Handle {
    /// Joins the parts; used by the loop that answers `requests`, and by tests that play the loop.
    pub fn new(
        node: NodeId,
        requests: mpsc::Sender<Request>,
        leadership: watch::Receiver<Arc<Leadership>>,
        machine: Arc<RwLock<Machine>>,
    ) -> Self {
        Self { node, requests, leadership, machine }
    }

    /// This node.
    pub const fn node(&self) -> NodeId {
        self.node
    }

    /// Who leads, as this node sees it now. No lock, no message.
    pub fn leadership(&self) -> Arc<Leadership> {
        Arc::clone(&self.leadership.borrow())
    }

    /// For those who wait for a change of leadership.
    pub fn watch(&self) -> watch::Receiver<Arc<Leadership>> {
        self.leadership.clone()
    }

    /// Looks at the applied state. Keep the closure short: the loop waits for it when it applies.
    /// As it stands this is a *stale* read; call [`Handle::read`] before it, or use
    /// [`Handle::lease_read`] in its place, for more.
    pub fn with_machine<R>(&self, look: impl FnOnce(&Machine) -> R) -> R {
        let machine = self.machine.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        look(&machine)
    }

    /// Looks at the applied state under the lease: linearizable without a quorum round, or `None`.
    ///
    /// The token is asked for on both sides of the look and must be the same. After it, because the
    /// lease may end while a handler is held up (M22); and before it, because a node that looks as a
    /// follower and is elected while it is held up would answer what it had not yet applied (R13).
    ///
    /// What this node knew to be committed by then must be applied: it tells its followers of that in the same
    /// turn, and applies a long backlog in slices, so one of them may have shown a later state already.
    pub fn lease_read<R>(&self, look: impl FnOnce(&Machine) -> R) -> Option<(R, Term)> {
        let before = self.leadership();
        let term = before.token_at(clock::now())?;
        let (found, applied) = self.with_machine(|machine| (look(machine), machine.applied().index));
        let fresh = applied >= before.commit_index;
        (fresh && self.lease_covers(clock::now()) == Some(term)).then_some((found, term))
    }

    /// The token this node may use at `now`: it leads, its no-op is applied and its lease holds.
    pub fn lease_covers(&self, now: Instant) -> Option<Term> {
        self.leadership().token_at(now)
    }

    /// Replicates `op`; answers once it is committed and applied. Leader only, and only in the term in
    /// which it was decided (P1): a leader that lost its office meanwhile and won it back decides anew.
    pub async fn propose(&self, decided_in: Term, op: Op) -> Result<Applied, Refused> {
        self.ask(|reply| Request::Propose { decided_in, op, reply }).await?
    }

    /// Confirms a linearizable read position and waits until it is applied here. Works on any
    /// node: a follower asks its leader.
    pub async fn read(&self) -> Result<ReadPoint, Refused> {
        self.ask(|reply| Request::Read { reply }).await?
    }

    /// Transfers leadership: any, or that of the term in which it was decided. Leader only.
    pub async fn transfer(
        &self,
        decided_in: Option<Term>,
        to: Option<NodeId>,
    ) -> Result<Transferred, Refused> {
        self.ask(|reply| Request::Transfer { decided_in, to, reply }).await?
    }

    /// Changes who takes part, and answers once the change is complete. Leader only.
    pub async fn reconfigure(&self, change: Change) -> Result<LogId, Refused> {
        self.ask(|reply| Request::Reconfigure { change, reply }).await?
    }

    /// Asks whether a change would be made, without making it. Leader only.
    pub async fn judge(&self, change: Change) -> Result<(), Refused> {
        self.ask(|reply| Request::Judge { change, reply }).await?
    }

    /// A detailed view of the core, for status pages.
    pub async fn view(&self) -> Result<View, Refused> {
        self.ask(|reply| Request::View { reply }).await
    }

    async fn ask<R>(&self, make: impl FnOnce(oneshot::Sender<R>) -> Request) -> Result<R, Refused> {
        let (reply, answer) = oneshot::channel();
        self.requests.try_send(make(reply)).map_err(|e| match e {
            mpsc::error::TrySendError::Full(_) => Refused::Busy,
            mpsc::error::TrySendError::Closed(_) => Refused::Closed,
        })?;
        // A loop that ends without an answer may have had the command in its log already.
        answer.await.map_err(|_| Refused::Unknown)
    }
}

#[cfg(test)]
mod tests {
    use super::{Arc, Handle, Leadership, Machine, RwLock, mpsc, watch};
    use crate::clock;
    use crate::ids::{LogIndex, NodeId, Term};
    use crate::time::Duration;

    fn leading(term: u64) -> Leadership {
        let lease_until = Some(clock::now() + Duration::from_secs(3600));
        Leadership { fence: Some(Term(term)), lease_until, ..Leadership::unknown(NodeId(1)) }
    }

    /// A lease read during which leadership changes from `before` to `after`.
    fn read_while(before: Leadership, after: Leadership) -> Option<Term> {
        let (publish, leadership) = watch::channel(Arc::new(before));
        let (requests, _loop) = mpsc::channel(1);
        let machine = Arc::new(RwLock::new(Machine::new(Vec::new())));
        let handle = Handle::new(NodeId(1), requests, leadership, machine);
        handle.lease_read(|_| publish.send_replace(Arc::new(after))).map(|(_, term)| term)
    }

    #[test]
    fn a_lease_read_is_served_by_one_term_from_before_to_after_the_look() {
        assert_eq!(read_while(leading(4), leading(4)), Some(Term(4)));
    }

    #[test]
    fn a_leader_that_has_not_applied_what_is_committed_serves_no_lease_read() {
        let behind = || Leadership { commit_index: LogIndex(1), ..leading(4) };
        assert_eq!(read_while(behind(), behind()), None, "a follower may have shown more");
    }

    #[test]
    fn a_node_that_is_elected_while_it_looks_serves_no_lease_read() {
        assert_eq!(read_while(Leadership::unknown(NodeId(1)), leading(4)), None);
        assert_eq!(read_while(leading(3), leading(4)), None);
    }

    #[test]
    fn a_node_that_loses_its_lease_while_it_looks_serves_no_lease_read() {
        assert_eq!(read_while(leading(4), Leadership::unknown(NodeId(1))), None);
    }
}
