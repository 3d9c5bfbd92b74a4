//! Starting and stopping a node's proxy: one thread per lane, one for the gates.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;

use http::header::HeaderValue;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use tokio::time::{Instant as Deadline, sleep_until};

use crate::driver::handle::Handle;
use crate::hop::client::{HopClient, HopConfig};
use crate::hop::server::HopServer;
use crate::ids::NodeId;
use crate::metrics::{Metrics, RouteLabel};
use crate::proxy::farewell::Farewell;
use crate::proxy::forward::Forwarder;
use crate::proxy::gatekeeper::{Gatekeeper, Guarded};
use crate::proxy::gates::GateBoard;
use crate::proxy::hold::Hold;
use crate::proxy::hop_api::{self, ApiDoor, ApiQueue, LocalApi};
use crate::proxy::ingress;
use crate::proxy::job::RequestIds;
use crate::proxy::lead::{Leader, Target};
use crate::proxy::limits;
use crate::proxy::listener;
use crate::proxy::pool::Pool;
use crate::proxy::route::Route;
use crate::proxy::service::Lane;
use crate::proxy::upstream::Backend;
use crate::time::Duration;
use crate::transport::credentials::{Credentials, TlsError};
use crate::transport::socket::TransportError;
use crate::transport::tls;

/// Everything the proxy needs.
pub struct ProxyConfig {
    /// This node.
    pub node: NodeId,
    /// The cluster's name.
    pub cluster: String,
    /// Where clients connect (TCP).
    pub listen: SocketAddr,
    /// Where other nodes send requests (UDP).
    pub hop_listen: SocketAddr,
    /// All routes.
    pub routes: Vec<Route>,
    /// The loop's door.
    pub handle: Handle,
    /// Where the other members take forwarded requests.
    pub members: watch::Receiver<BTreeMap<NodeId, String>>,
    /// This node's certificate: for the hop, and for `https` backends.
    pub credentials: Credentials,
    /// Where everything is counted.
    pub metrics: Metrics,
    /// How long the gates of drain routes wait before they open; see
    /// [`quiet_period`](crate::fencing::gate::quiet_period).
    pub quiet_period: Duration,
    /// Whether a valid lease may serve reads; without, a lease read is served linearizably.
    pub lease_reads: bool,
    /// How many lanes; see [`default_lanes`].
    pub lanes: usize,
    /// Answers API calls of other nodes.
    pub local_api: Option<LocalApi>,
}

/// Why the proxy can't start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address can't be used.
    #[error("cannot listen on {address}: {source}; is another process using it?")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// A backend can't be used.
    #[error("route {route}: {cause}")]
    Backend {
        /// The route's name.
        route: String,
        /// What is wrong with it.
        cause: String,
    },
    /// The hop can't be used.
    #[error("cannot start the hop on {address}: {source}")]
    Hop {
        /// Its address.
        address: SocketAddr,
        /// Why.
        source: TransportError,
    },
    /// The certificates can't be used.
    #[error("cannot use the certificates: {0}")]
    Tls(#[from] TlsError),
    /// A lane ended before it began.
    #[error("a lane ended while it was starting; see the log")]
    Lane,
    /// A thread can't be started.
    #[error("cannot start a thread: {0}; check the limits of the process")]
    Thread(#[from] io::Error),
}

/// A running proxy.
#[derive(Debug)]
pub struct Proxy {
    board: Arc<GateBoard>,
    address: SocketAddr,
    hop_address: SocketAddr,
    api: ApiDoor,
    stop: watch::Sender<bool>,
    threads: Vec<JoinHandle<()>>,
}

/// One lane per core, within reason.
pub fn default_lanes() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(limits::LANES_MAX)
}

impl Proxy {
    /// Binds every address and starts every thread.
    pub fn start(config: ProxyConfig) -> Result<Self, StartError> {
        let lanes = config.lanes.clamp(1, limits::LANES_MAX);
        let backends = backends(&config)?;
        let (listeners, address) = listeners(config.listen, lanes)?;
        let (handle, quiet) = (config.handle.clone(), config.quiet_period);
        let board = Arc::new(GateBoard::new(handle, &config.routes, quiet, config.metrics.clone()));
        let hold = Hold::new(config.handle.clone(), Arc::clone(&board), config.metrics.clone());
        let (api, calls) = hop_api::door();
        let mut proxy = Self {
            board: Arc::clone(&board),
            address,
            hop_address: config.hop_listen,
            api,
            stop: watch::Sender::new(false),
            threads: Vec::new(),
        };
        let stop = &proxy.stop;
        proxy.threads.push(gate_thread(&board, &config.handle, &backends, &config.metrics, stop)?);
        let shared = Arc::new(Shared {
            ids: Arc::new(RequestIds::new(config.node)),
            routes: Arc::new(config.routes.clone()),
            config,
            backends,
            board,
            hold,
        });
        let mut calls = Some(calls);
        for (number, socket) in listeners.into_iter().enumerate() {
            let lane = LaneStart {
                shared: Arc::clone(&shared),
                socket,
                hop_listen: proxy.hop_address,
                calls: calls.take(),
                stop: proxy.stop.subscribe(),
            };
            let (thread, hop_address) = lane_thread(number, lane)?;
            proxy.threads.push(thread);
            proxy.hop_address = hop_address;
        }
        Ok(proxy)
    }

    /// Where other nodes send requests; the port is known even when the configuration said 0.
    pub const fn hop_address(&self) -> SocketAddr {
        self.hop_address
    }

    /// Sends API calls to other nodes.
    pub fn api(&self) -> ApiDoor {
        self.api.clone()
    }

    /// Where clients connect; the port is known even when the configuration said 0.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The gates, for status answers.
    pub fn gates(&self) -> Arc<GateBoard> {
        Arc::clone(&self.board)
    }

    /// Stops admitting at once; requests that arrive from now on go to the next leader. Call it
    /// before leadership is handed over, and [`Proxy::shutdown`] after it.
    pub fn drain(&self) {
        self.board.drain();
    }

    /// Closes the listeners and waits, bounded, for what is under way. Blocks.
    pub fn shutdown(mut self) {
        self.stop.send_replace(true);
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the proxy had panicked");
            }
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop.send_replace(true);
    }
}

fn backends(config: &ProxyConfig) -> Result<Vec<Guarded>, StartError> {
    let tls = Arc::new(tls::tcp_client(&config.credentials)?);
    let guarded = |route: &Route| {
        let backend = Backend::new(&route.backend, Some(&tls))
            .map_err(|cause| StartError::Backend { route: route.name.clone(), cause })?;
        if HeaderValue::from_str(&route.name).is_err() {
            let cause = "its name can't be written into a field; use ascii letters".to_owned();
            return Err(StartError::Backend { route: route.name.clone(), cause });
        }
        Ok(Guarded { resource: route.name.clone(), backend })
    };
    config.routes.iter().map(guarded).collect()
}

fn target((guarded, route): (&Guarded, &Route)) -> Target {
    Target {
        mode: route.fence,
        resource: HeaderValue::from_str(&guarded.resource).expect("names were checked at the start"),
        label: RouteLabel { route: guarded.resource.clone() },
        pool: Arc::new(Pool::new(guarded.backend.clone())),
    }
}

/// One listener per lane; the first finds the port when any will do.
fn listeners(
    address: SocketAddr,
    lanes: usize,
) -> Result<(Vec<std::net::TcpListener>, SocketAddr), StartError> {
    let failed = |source| StartError::Listen { address, source };
    let first = listener::bind(address).map_err(failed)?;
    let bound = first.local_addr().map_err(failed)?;
    let mut all = vec![first];
    for _ in 1..lanes {
        all.push(listener::bind(bound).map_err(failed)?);
    }
    Ok((all, bound))
}

fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}

fn gate_thread(
    board: &Arc<GateBoard>,
    handle: &Handle,
    backends: &[Guarded],
    metrics: &Metrics,
    stop: &watch::Sender<bool>,
) -> io::Result<JoinHandle<()>> {
    let keeper = Gatekeeper::new(Arc::clone(board), handle.clone(), backends.to_vec(), metrics.clone());
    let (runtime, stop) = (runtime()?, stop.subscribe());
    std::thread::Builder::new()
        .name("termgate-gates".into())
        .spawn(move || runtime.block_on(keeper.run(stop)))
}

/// What all lanes are made of.
struct Shared {
    config: ProxyConfig,
    routes: Arc<Vec<Route>>,
    backends: Vec<Guarded>,
    board: Arc<GateBoard>,
    hold: Hold,
    ids: Arc<RequestIds>,
}

/// What one lane starts with.
struct LaneStart {
    shared: Arc<Shared>,
    socket: std::net::TcpListener,
    hop_listen: SocketAddr,
    calls: Option<ApiQueue>,
    stop: watch::Receiver<bool>,
}

/// Starts one lane and waits until it listens. Answers where its hop does.
fn lane_thread(number: usize, start: LaneStart) -> Result<(JoinHandle<()>, SocketAddr), StartError> {
    let runtime = runtime()?;
    let (ready, started) = std::sync::mpsc::channel();
    let thread = std::thread::Builder::new().name(format!("termgate-lane-{number}")).spawn(move || {
        runtime.block_on(async move {
            match start.open() {
                Ok(lane) => {
                    let _ = ready.send(Ok(lane.hop_address));
                    lane.run().await;
                }
                Err(error) => drop(ready.send(Err(error))),
            }
        });
    })?;
    let address = started.recv().map_err(|_| StartError::Lane)??;
    Ok((thread, address))
}

/// A lane whose sockets are open.
struct OpenLane {
    lane: Arc<Lane>,
    listener: tokio::net::TcpListener,
    hop: HopClient,
    server: Arc<HopServer>,
    hop_address: SocketAddr,
    members: watch::Receiver<BTreeMap<NodeId, String>>,
    local_api: Option<LocalApi>,
    calls: Option<ApiQueue>,
    stop: watch::Receiver<bool>,
}

impl LaneStart {
    /// Opens everything inside the lane's runtime.
    fn open(self) -> Result<OpenLane, StartError> {
        let Self { shared, socket, hop_listen, calls, stop } = self;
        let config = &shared.config;
        let hop_config = HopConfig {
            node: config.node,
            cluster: config.cluster.clone(),
            members: config.members.borrow().clone(),
            credentials: config.credentials.clone(),
            metrics: config.metrics.clone(),
        };
        let failed = |source| StartError::Hop { address: hop_listen, source };
        let hop = HopClient::start(hop_config.clone()).map_err(failed)?;
        let server = Arc::new(HopServer::bind(hop_listen, hop_config, &hop).map_err(failed)?);
        Ok(OpenLane {
            lane: Arc::new(shared.lane(hop.clone())),
            listener: tokio::net::TcpListener::from_std(socket)?,
            hop_address: server.local_address().unwrap_or(hop_listen),
            hop,
            server,
            members: config.members.clone(),
            local_api: config.local_api.clone(),
            calls,
            stop,
        })
    }
}

impl OpenLane {
    /// Runs until it is told to stop and what is under way has ended.
    async fn run(self) {
        let node = self.lane.node;
        let members = follow_members(self.members, self.hop.clone(), Arc::clone(&self.server));
        let calls = async {
            if let Some(calls) = self.calls {
                calls.run(self.hop, node).await;
            }
            std::future::pending::<()>().await;
        };
        let serving = futures_util::future::join(
            listener::accept(self.listener, Arc::clone(&self.lane), self.stop.clone()),
            ingress::accept(self.server, self.lane, self.local_api, self.stop),
        );
        tokio::select! {
            _ = serving => {}
            () = members => {}
            () = calls => {}
        }
    }
}

impl Shared {
    fn lane(&self, hop: HopClient) -> Lane {
        let config = &self.config;
        Lane {
            cluster: config.cluster.clone(),
            node: config.node,
            handle: config.handle.clone(),
            routes: Arc::clone(&self.routes),
            lease_reads: config.lease_reads,
            leader: Leader {
                handle: config.handle.clone(),
                board: Arc::clone(&self.board),
                targets: self.backends.iter().zip(self.routes.iter()).map(target).collect(),
                metrics: config.metrics.clone(),
            },
            forwarder: Forwarder::new(hop, config.handle.clone()),
            hold: self.hold.clone(),
            ids: Arc::clone(&self.ids),
            metrics: config.metrics.clone(),
        }
    }
}

/// Tells the hop of every change of the membership, and lets those who leave go a while later. Never ends.
async fn follow_members(
    mut members: watch::Receiver<BTreeMap<NodeId, String>>,
    hop: HopClient,
    server: Arc<HopServer>,
) {
    // Not marked as seen: the hop may have been opened before the last change.
    let mut farewell = Farewell::new(members.borrow().clone());
    loop {
        let forgets = farewell.next();
        let forgotten = async {
            match forgets {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let goes_on = tokio::select! {
            changed = members.changed() => changed.is_ok(),
            () = forgotten => true,
        };
        if !goes_on {
            break;
        }
        let known = farewell.known(&members.borrow_and_update(), Deadline::now());
        server.set_members(&known);
        hop.set_members(known);
    }
    std::future::pending().await
}
