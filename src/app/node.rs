//! One node.
//!
//! Start: certificates, store, loop, edges. Each can fail with a reason of its own before a client
//! is let in. Stop (SIGTERM or SIGINT): the gates close for new requests and leadership is handed
//! over, so that the pause for clients is a round trip and not an election; then the edges drain,
//! then the loop ends. A node that is removed drains too, and ends with status 1. One that can't go on
//! for another reason ends at once.

use std::collections::BTreeMap;
use std::error::Error;
use std::process;
use std::sync::{Arc, OnceLock};

use rand::random;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};

use crate::api::answers::ResourceStatus;
use crate::api::{self, Api, ApiContext, Caller};
use crate::app::reload;
use crate::app::signals::{asked_to_end, end_with_parent};
use crate::certs::authority::AuthorityFiles;
use crate::config::node::NodeConfig;
use crate::config::shared::settings;
use crate::driver::fatal::Fatal;
use crate::driver::handle::{Handle, Refused, Transferred};
use crate::driver::run::{self, Parts, Running};
use crate::fencing::gate::quiet_period;
use crate::ids::NodeId;
use crate::metrics::Metrics;
use crate::problem::{Kind, Problem};
use crate::proxy::gates::GateStatus;
use crate::proxy::hop_api::LocalApi;
use crate::proxy::start::{Proxy, ProxyConfig, default_lanes};
use crate::raft::effect::{RoleKind, TransferRefusal};
use crate::raft::entry::Membership;
use crate::registry::command::Member;
use crate::storage::{Identity, Store};
use crate::time::Duration;
use crate::transport::credentials::Credentials;
use crate::transport::endpoint::PeerConfig;

/// How long a stopping leader waits for its successor before it stops all the same.
const HAND_OVER_LIMIT: Duration = Duration::from_secs(2);
/// Between two attempts.
const HAND_OVER_PAUSE: Duration = Duration::from_millis(20);

/// Runs a node until it is asked to end, or can't go on.
pub async fn run(config: NodeConfig) -> Result<(), Box<dyn Error>> {
    end_with_parent();
    let metrics = Metrics::new();
    let credentials = Credentials::load(&config.tls.ca, &config.tls.cert, &config.tls.key)?;
    reload::follow(config.tls.clone(), credentials.clone(), metrics.clone())?;
    let (leaving, mut leaves) = mpsc::unbounded_channel();
    let (running, incarnation) = start_loop(&config, &credentials, &metrics, leaving)?;
    let handle = running.handle.clone();
    let (proxy, api) = start_edges(&config, &credentials, &metrics, &running, incarnation)?;
    let listener = TcpListener::bind(config.listen.api).await;
    let listener = listener.map_err(|e| {
        format!("cannot listen on {} for the API: {e}; is another process using it?", config.listen.api)
    })?;
    let (ending, ends) = watch::channel(false);
    let serving = tokio::spawn(api::serve(listener, api, ends));
    tracing::info!(
        node = %config.id(), %incarnation, proxy = %config.listen.proxy, api = %config.listen.api, peer = %config.listen.peer,
        "node started"
    );
    let removed = tokio::select! {
        signal = asked_to_end() => {
            tracing::info!(signal = signal?, "the node ends: handing over, then draining");
            None
        }
        removed = leaves.recv() => removed,
    };
    proxy.drain();
    match &removed {
        None => hand_over(&handle).await,
        Some(removed) => tracing::error!(cause = %removed, "this node can't go on: it drains, and ends"),
    }
    // The API passes calls on over the proxy's hop and asks the loop, so it ends before both.
    ending.send_replace(true);
    if serving.await.is_err() {
        tracing::error!("the API panicked while the node ended");
    }
    stop(proxy, running).await;
    removed.map_or(Ok(()), |removed| Err(removed.into()))
}

fn start_loop(
    config: &NodeConfig,
    credentials: &Credentials,
    metrics: &Metrics,
    leaving: mpsc::UnboundedSender<Fatal>,
) -> Result<(Running, u64), Box<dyn Error>> {
    let membership = match config.join {
        // It knows no voters, gives no vote, and waits for a leader (MC-9).
        true => Membership::default(),
        false => Membership::of_voters(config.members.iter().map(|member| member.id)),
    };
    let identity = Identity { cluster: config.cluster.clone(), node: config.id(), membership };
    let store = Store::open(&config.data_dir, &identity, config.raft.election_timeout_min)?;
    let incarnation = store.1.life.incarnation;
    let parts = Parts {
        config: config.raft.clone(),
        store,
        data_dir: config.data_dir.clone(),
        members: config.members.clone(),
        peers: PeerConfig {
            node: config.id(),
            cluster: config.cluster.clone(),
            listen: config.listen.peer,
            address: own_address(config),
            members: addresses(&config.members, |member| &member.peer),
            credentials: credentials.clone(),
            metrics: metrics.clone(),
        },
        metrics: metrics.clone(),
        preferred_zone: config.preferred_zone.clone(),
        seed: random(),
    };
    // What a removed node has under way at the others is still answered (H-12), and nothing is wrong with it.
    let end = move |fatal| match fatal {
        Fatal::Removed(_) if !leaving.is_closed() => drop(leaving.send(fatal)),
        fatal => end_process(fatal),
    };
    Ok((run::start(parts, end)?, incarnation))
}

/// A node that can't go on says why and ends at once: whatever it would still do could be wrong.
fn end_process(fatal: Fatal) {
    tracing::error!(cause = %fatal, "this node can't go on and ends");
    eprintln!("termgate: {fatal}");
    process::exit(1);
}

fn start_edges(
    config: &NodeConfig,
    credentials: &Credentials,
    metrics: &Metrics,
    running: &Running,
    incarnation: u64,
) -> Result<(Proxy, Api), Box<dyn Error>> {
    // The proxy carries other nodes' API calls to the API, which itself calls out through the
    // proxy: the cell closes that circle once both are there.
    let cell = Arc::new(OnceLock::new());
    let (handle, members) = (&running.handle, running.hops.clone());
    let proxy = Proxy::start(ProxyConfig {
        node: config.id(),
        cluster: config.cluster.clone(),
        listen: config.listen.proxy,
        hop_listen: config.listen.hop,
        routes: config.routes.clone(),
        handle: handle.clone(),
        members,
        credentials: credentials.clone(),
        metrics: metrics.clone(),
        quiet_period: quiet_period(config.raft.election_timeout_max),
        lease_reads: config.raft.lease_reads,
        lanes: default_lanes(),
        local_api: Some(local_api(Arc::clone(&cell))),
    })?;
    let (gates, door) = (proxy.gates(), proxy.api());
    let api = Api::new(ApiContext {
        handle: handle.clone(),
        cluster: config.cluster.clone(),
        resources: Arc::new(move || gates.snapshot().into_iter().map(shown).collect()),
        metrics: metrics.clone(),
        token: config.token.clone(),
        lease_reads: config.raft.lease_reads,
        remote: Arc::new(move |node, request| {
            let door = door.clone();
            Box::pin(async move { door.call(node, request).await })
        }),
        config_summary: config.summary(),
        incarnation,
        authority: authority(config),
        settings: settings(config),
    });
    // Set once, here.
    let _ = cell.set(api.clone());
    Ok((proxy, api))
}

/// What this node signs certificates with, if it may.
fn authority(config: &NodeConfig) -> Option<AuthorityFiles> {
    let key = config.tls.ca_key.clone()?;
    Some(AuthorityFiles { ca: config.tls.ca.clone(), key })
}

fn shown(gate: GateStatus) -> ResourceStatus {
    let GateStatus { name, fence, gate, fenced_term } = gate;
    ResourceStatus { name, fence, gate: gate.to_owned(), fenced_term }
}

/// Answers what other nodes pass on, as soon as there is an API.
fn local_api(cell: Arc<OnceLock<Api>>) -> LocalApi {
    Arc::new(move |from, request| {
        let api = cell.get().cloned();
        Box::pin(async move {
            match api {
                Some(api) => api.handle(Caller::Node(from), request).await,
                None => Problem::new(Kind::Overloaded, "the node is starting").into_response(),
            }
        })
    })
}

fn addresses(members: &[Member], which: impl Fn(&Member) -> &String) -> BTreeMap<NodeId, String> {
    members.iter().map(|member| (member.id, which(member).clone())).collect()
}

/// Where the other members reach this node's Raft.
fn own_address(config: &NodeConfig) -> String {
    let own = config.members.iter().find(|member| member.id == config.id());
    own.map(|member| member.peer.clone()).unwrap_or_default()
}

async fn hand_over(handle: &Handle) {
    if handle.leadership().role != RoleKind::Leader {
        return;
    }
    match timeout(HAND_OVER_LIMIT, transferred(handle)).await {
        Ok(Ok(moved)) => tracing::info!(to = %moved.to, term = %moved.term, "leadership was handed over"),
        Ok(Err(Refused::NotLeader { leader: Some(to) })) => tracing::info!(%to, "another node leads already"),
        Ok(Err(why)) => tracing::warn!(%why, "leadership was not handed over; an election will follow"),
        Err(_) => tracing::warn!("leadership was not handed over in time; an election will follow"),
    }
}

/// Asks again while another transfer runs, or when one came to nothing.
async fn transferred(handle: &Handle) -> Result<Transferred, Refused> {
    use TransferRefusal::{InProgress, TimedOut};
    loop {
        match handle.transfer(None, None).await {
            Err(Refused::Transfer(InProgress | TimedOut)) => sleep(HAND_OVER_PAUSE).await,
            ended => return ended,
        }
    }
}

/// Both wait for their threads.
async fn stop(proxy: Proxy, running: Running) {
    let ended = tokio::task::spawn_blocking(move || {
        proxy.shutdown();
        running.stop();
    });
    if ended.await.is_err() {
        tracing::error!("a thread panicked while the node ended");
    }
}
