//! One warm connection to one member, dialled again whenever it is lost.
//!
//! The pause between two attempts stays within a few heartbeats (a peer that is back must not wait
//! out a long backoff), and a nudge ends it at once: when the peer's own connection arrives, it is
//! alive. After a refusal the pause is longer, because certificates and memberships change slowly.
//!
//! An address may be out of date, and so may what a peer says of itself. With two of them both are tried in
//! turn, until one leads to the peer.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use quinn::{ClientConfig, Connection, Endpoint};
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

use crate::ids::NodeId;
use crate::transport::identity;
use crate::transport::refusal::{CLOSED, Refusal, Refusals, close_removed, node_of};

/// The first pause after a lost connection or a failed attempt.
const PAUSE_MIN: Duration = Duration::from_millis(20);
/// The longest: three heartbeats of 50 ms, so that a returning peer is found within an election
/// timeout (L13).
const PAUSE_MAX: Duration = Duration::from_millis(150);
/// The pause after a refusal by either side.
const PAUSE_REFUSED: Duration = Duration::from_secs(1);
/// An attempt's limit: several round trips of the longest links.
const DIAL_LIMIT: Duration = Duration::from_millis(1500);
/// An attempt younger than this is not given up for a nudge: it may be about to succeed.
const DIAL_PATIENCE: Duration = Duration::from_millis(100);

/// What all links of one endpoint share.
#[derive(Debug)]
pub(crate) struct Dialer {
    pub(crate) endpoint: Endpoint,
    pub(crate) config: ClientConfig,
    pub(crate) cluster: String,
    pub(crate) refusals: Arc<Refusals>,
}

/// A connection that is kept up. Dropping it ends the connection, without blame.
#[derive(Debug)]
pub(crate) struct Link {
    to: NodeId,
    address: String,
    other: Other,
    connection: watch::Receiver<Option<Connection>>,
    resolved: watch::Receiver<Vec<IpAddr>>,
    nudge: Arc<Notify>,
    task: AbortHandle,
}

/// Where the peer may be as well.
type Other = Arc<Mutex<Option<String>>>;

/// How one attempt ended.
enum Dialled {
    Up(Connection),
    Refused,
    Unreachable(String),
    Nudged,
}

impl Link {
    /// Starts dialling `to` at `address` (`host:port`, looked up at every attempt).
    pub(crate) fn open(dialer: Arc<Dialer>, to: NodeId, address: String) -> Self {
        let (sender, connection) = watch::channel(None);
        // An address in digits is known before the first attempt.
        let literal = address.parse().ok().map(|literal: SocketAddr| literal.ip());
        let (found, resolved) = watch::channel(literal.into_iter().collect());
        let (nudge, other) = (Arc::new(Notify::new()), Other::default());
        let keeper = Keeper {
            dialer,
            to,
            address: address.clone(),
            other: Arc::clone(&other),
            nudge: Arc::clone(&nudge),
            current: sender,
            resolved: found,
        };
        let task = tokio::spawn(keeper.run()).abort_handle();
        Self { to, address, other, connection, resolved, nudge, task }
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// The peer may also be at `address`, and at no third place.
    pub(crate) fn also(&self, address: &str) {
        let new = Some(address).filter(|other| *other != self.address).map(str::to_owned);
        let mut other = self.other.lock().unwrap_or_else(PoisonError::into_inner);
        if *other == new {
            return;
        }
        if let Some(new) = &new {
            tracing::info!(node = %self.to, known = self.address, says = new, "a member listens elsewhere, it says");
        }
        *other = new;
        self.nudge();
    }

    /// Whether `address` led to `ip` when it was last looked up.
    pub(crate) fn leads_to(&self, ip: IpAddr) -> bool {
        self.resolved.borrow().iter().any(|found| found.to_canonical() == ip.to_canonical())
    }

    /// The connection, while there is one.
    pub(crate) fn current(&self) -> Option<Connection> {
        self.connection.borrow().clone().filter(|connection| connection.close_reason().is_none())
    }

    /// Follows the connection.
    pub(crate) fn watch(&self) -> watch::Receiver<Option<Connection>> {
        self.connection.clone()
    }

    /// Tells the peer that it is no member any more. Dropped without this, it hears only that nobody
    /// needs the connection: this process ends, or the peer has moved.
    pub(crate) fn remove(&self) {
        if let Some(connection) = self.connection.borrow().as_ref() {
            close_removed(connection, self.to);
        }
    }

    /// The peer was seen alive: try now.
    pub(crate) fn nudge(&self) {
        self.nudge.notify_waiters();
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
        if let Some(connection) = self.connection.borrow().as_ref() {
            connection.close(CLOSED, b"closing");
        }
    }
}

struct Keeper {
    dialer: Arc<Dialer>,
    to: NodeId,
    address: String,
    other: Other,
    nudge: Arc<Notify>,
    current: watch::Sender<Option<Connection>>,
    /// What the address was last found to be.
    resolved: watch::Sender<Vec<IpAddr>>,
}

impl Keeper {
    async fn run(self) {
        let (mut pause, mut turn) = (PAUSE_MIN, 0_usize);
        loop {
            let dialled = self.dial_until_nudged(turn).await;
            // Where the peer was found it is looked for first when it is lost.
            if !matches!(dialled, Dialled::Up(_)) {
                turn = turn.wrapping_add(1);
            }
            let wait = match dialled {
                Dialled::Up(connection) => {
                    pause = PAUSE_MIN;
                    self.hold(connection).await
                }
                Dialled::Refused => PAUSE_REFUSED,
                Dialled::Nudged => Duration::ZERO,
                Dialled::Unreachable(cause) => {
                    tracing::debug!(node = %self.to, address = self.address, "cannot reach the peer: {cause}");
                    pause = (pause * 2).min(PAUSE_MAX);
                    pause
                }
            };
            let _ = timeout(wait, self.nudge.notified()).await;
        }
    }

    async fn dial_until_nudged(&self, turn: usize) -> Dialled {
        let dial = self.dial(turn);
        tokio::pin!(dial);
        if let Ok(dialled) = timeout(DIAL_PATIENCE, &mut dial).await {
            return dialled;
        }
        tokio::select! {
            dialled = dial => dialled,
            () = self.nudge.notified() => Dialled::Nudged,
            () = sleep(DIAL_LIMIT) => Dialled::Unreachable("no answer in time".to_owned()),
        }
    }

    /// Where the peer is looked for this time.
    async fn place(&self, turn: usize) -> Result<SocketAddr, String> {
        let other = self.other.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (address, turn) = match &other {
            Some(other) if turn % 2 == 1 => (other, turn / 2),
            Some(_) => (&self.address, turn / 2),
            None => (&self.address, turn),
        };
        let found = resolve(address).await?;
        // What a peer says of itself makes no address known as a member's.
        if *address == self.address {
            self.resolved.send_replace(found.iter().map(SocketAddr::ip).collect());
        }
        // A name with several addresses is tried in turn.
        let nth = turn.checked_rem(found.len()).and_then(|nth| found.get(nth));
        nth.copied().ok_or_else(|| format!("{address} has no address"))
    }

    async fn dial(&self, turn: usize) -> Dialled {
        let address = match self.place(turn).await {
            Ok(address) => address,
            Err(cause) => return Dialled::Unreachable(cause),
        };
        let dialer = &self.dialer;
        let connecting = match dialer.endpoint.connect_with(
            dialer.config.clone(),
            address,
            &identity::server_name(self.to),
        ) {
            Ok(connecting) => connecting,
            Err(e) => return Dialled::Unreachable(e.to_string()),
        };
        match connecting.await {
            Ok(connection) => self.check(connection),
            Err(e) => match dialer.refusals.note_end(address, Some(self.to), &e) {
                Some(_) => Dialled::Refused,
                None => Dialled::Unreachable(e.to_string()),
            },
        }
    }

    /// The certificate must name exactly the node that was dialled, or nothing is sent (W-4).
    fn check(&self, connection: Connection) -> Dialled {
        let refusal = match node_of(&connection, &self.dialer.cluster) {
            Ok(found) if found == self.to => return Dialled::Up(connection),
            Ok(found) => Refusal::WrongNode { dialled: self.to, found },
            Err(refusal) => refusal,
        };
        self.dialer.refusals.refuse(&connection, Some(self.to), &refusal);
        Dialled::Refused
    }

    /// Offers the connection until it ends; answers how long to wait before the next attempt.
    async fn hold(&self, connection: Connection) -> Duration {
        tracing::debug!(node = %self.to, address = %connection.remote_address(), "connected");
        self.current.send_replace(Some(connection.clone()));
        let end = connection.closed().await;
        self.current.send_replace(None);
        let verdict = self.dialer.refusals.note_end(connection.remote_address(), Some(self.to), &end);
        tracing::debug!(node = %self.to, "the connection ended: {end}");
        if verdict.is_some() { PAUSE_REFUSED } else { PAUSE_MIN }
    }
}

/// Looks `address` up.
async fn resolve(address: &str) -> Result<Vec<SocketAddr>, String> {
    let found =
        tokio::net::lookup_host(address).await.map_err(|e| format!("cannot look up {address}: {e}"))?;
    Ok(found.collect())
}
