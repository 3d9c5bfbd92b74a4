//! The verifier's shell: the state that all requests of one resource share, and the raise.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::Notify;

use crate::fencing::verifier::{Admission, Fence, Higher, Verifier, VerifierMode};
use crate::guard::store::{FenceStore, StoreError};
use crate::guard::write::{InFlight, Progress};
use crate::ids::{NodeId, Term, Ticket};
use crate::time::Duration;

/// How long a raise waits for older writes unless it is configured. Longer than a usual write,
/// shorter than a leader's patience; the leader repeats the raise.
pub const DEFAULT_RAISE_TIMEOUT: Duration = Duration::from_millis(2000);

/// Why a raise did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum RaiseError {
    /// The fence is higher.
    #[error(transparent)]
    Higher(#[from] Higher),
    /// Older writes did not end in time. They stay refused or waited for; repeat the raise.
    #[error("{count} older writes still running: the fence is raised and refuses new ones, repeat the raise")]
    OlderWrites {
        /// How many.
        count: usize,
    },
    /// The term could not be made durable.
    #[error(transparent)]
    Store(#[from] StoreError),
}

#[derive(Debug)]
struct State {
    verifier: Verifier,
    writes: BTreeMap<Ticket, (Term, Arc<Progress>)>,
}

/// One resource's fence. Everything in front of the resource shares one.
#[derive(Debug)]
pub struct SharedFence {
    resource: Arc<str>,
    raise_timeout: Duration,
    state: Mutex<State>,
    /// Some write ended or a term became durable.
    changed: Notify,
    /// Saved one at a time, on a thread that may block.
    store: Arc<Mutex<FenceStore>>,
}

impl SharedFence {
    /// The fence of `resource` as it stands in `store`.
    pub fn new(resource: &str, mode: VerifierMode, store: FenceStore, raise_timeout: Duration) -> Arc<Self> {
        let verifier = Verifier::new(mode, store.stored());
        Arc::new(Self {
            resource: resource.into(),
            raise_timeout,
            state: Mutex::new(State { verifier, writes: BTreeMap::new() }),
            changed: Notify::new(),
            store: Arc::new(Mutex::new(store)),
        })
    }

    /// The resource it protects.
    pub fn resource(&self) -> &Arc<str> {
        &self.resource
    }

    /// The fence and its mode.
    pub fn present(&self) -> (Option<Fence>, VerifierMode) {
        let state = self.state();
        (state.verifier.fence(), state.verifier.mode())
    }

    /// Writes in flight, per term.
    pub fn in_flight(&self) -> BTreeMap<Term, usize> {
        self.state().verifier.in_flight()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds the fence")
    }

    /// Decides about a write; an admitted one is in flight until its share is dropped.
    pub(super) fn admit(
        self: &Arc<Self>,
        term: Option<Term>,
    ) -> Result<(Arc<Progress>, Arc<InFlight>), Admission> {
        let mut state = self.state();
        let ticket = match state.verifier.admit(term) {
            Admission::Admit(ticket) => ticket,
            other => return Err(other),
        };
        let progress = Arc::new(Progress::default());
        let admitted = term.expect("only a write with a term is admitted");
        state.writes.insert(ticket, (admitted, progress.clone()));
        let fence = self.clone();
        let on_end = Box::new(move || fence.end(ticket));
        Ok((progress, Arc::new(InFlight { on_end })))
    }

    fn end(&self, ticket: Ticket) {
        let mut state = self.state();
        state.verifier.end(ticket);
        state.writes.remove(&ticket);
        drop(state);
        self.changed.notify_waiters();
    }

    /// Raises the fence to `term`: refuses older writes from now on, cuts off those whose content
    /// is not complete, stores the term, and returns when the last older write has ended.
    pub async fn raise(&self, term: Term, by: Option<NodeId>) -> Result<(), RaiseError> {
        self.begin(term, by)?;
        self.store(Fence { term, raised_by: by }).await?;
        match tokio::time::timeout(self.raise_timeout, self.completed(term)).await {
            Ok(done) => Ok(done?),
            Err(_) => Err(RaiseError::OlderWrites { count: self.state().verifier.older_in_flight(term) }),
        }
    }

    fn begin(&self, term: Term, by: Option<NodeId>) -> Result<(), Higher> {
        let mut state = self.state();
        state.verifier.begin_raise(term, by)?;
        for (_, progress) in state.writes.values().filter(|(admitted, _)| *admitted < term) {
            progress.cut_off();
        }
        Ok(())
    }

    async fn store(&self, fence: Fence) -> Result<(), StoreError> {
        let store = self.store.clone();
        let save = move || store.lock().expect("saving does not panic").save(fence);
        let saved = tokio::task::spawn_blocking(save).await;
        saved.expect("saving neither panics nor is cancelled")?;
        self.state().verifier.durable(fence.term);
        self.changed.notify_waiters();
        Ok(())
    }

    /// Waits until no write is in flight.
    pub async fn idle(&self) {
        self.found(|state| state.verifier.in_flight().is_empty().then_some(())).await;
    }

    async fn completed(&self, term: Term) -> Result<(), Higher> {
        self.found(|state| {
            let current = state.verifier.current();
            match current > term {
                true => Some(Err(Higher { current })),
                false => state.verifier.is_complete(term).then_some(Ok(())),
            }
        })
        .await
    }

    /// Looks now and after every change, until `look` finds something.
    async fn found<T>(&self, look: impl Fn(&State) -> Option<T>) -> T {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            let found = look(&self.state());
            if let Some(found) = found {
                return found;
            }
            changed.await;
        }
    }
}
