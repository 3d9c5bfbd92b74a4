//! The configuration of `termgate node`.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use crate::api::addresses::port_of;
use crate::api::auth::Token;
use crate::config::section::{Given, Section};
use crate::config::{TlsFiles, files, value};
use crate::fencing::mode::{Consistency, FenceMode};
use crate::ids::NodeId;
use crate::proxy::route::Route;
use crate::raft::config::Config;
use crate::registry::command::Member;
use crate::registry::limits::MEMBERS;
use crate::time::Duration;
use crate::transport::identity::Identity;
use crate::transport::socket::TransportError;

/// How long a request waits for a leader or an open gate, unless its route says otherwise: an
/// election with the slowest default timers and a raise fit several times over.
const HOLD_TIMEOUT: Duration = Duration::from_secs(5);
/// A shorter token is guessed sooner or later.
const TOKEN_BYTES: usize = 16;

/// A node's settings, already checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeConfig {
    /// The cluster's name, a part of every certificate identity.
    pub cluster: String,
    /// Where this node keeps its log.
    pub data_dir: PathBuf,
    /// Where this node is, for the preferred place of leadership.
    pub zone: Option<String>,
    /// The initial members, this node among them, in order of id. For a node that joins a cluster: those that
    /// it hears of first.
    pub members: Vec<Member>,
    /// This node joins a cluster that is there: who takes part it learns from the leader, not from `members`.
    pub join: bool,
    /// Where to listen.
    pub listen: Listen,
    /// Mutual TLS between nodes.
    pub tls: TlsFiles,
    /// The core's timing and limits; it names this node.
    pub raft: Config,
    /// Where leadership should be; handed over to a voter there when one is as good.
    pub preferred_zone: Option<String>,
    /// The resources, in the order of the file.
    pub routes: Vec<Route>,
    /// What calls that change something must carry.
    pub token: Option<Token>,
}

/// The local addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listen {
    /// UDP: Raft.
    pub peer: SocketAddr,
    /// UDP: forwarded requests.
    pub hop: SocketAddr,
    /// TCP: clients of the resources.
    pub proxy: SocketAddr,
    /// TCP: the API.
    pub api: SocketAddr,
}

impl NodeConfig {
    /// This node.
    pub const fn id(&self) -> NodeId {
        self.raft.id
    }

    /// What status answers show of the settings: nothing secret.
    pub fn summary(&self) -> serde_json::Value {
        let ms = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        let raft = &self.raft;
        serde_json::json!({
            "heartbeat_interval_ms": ms(raft.heartbeat_interval),
            "election_timeout_ms": [ms(raft.election_timeout_min), ms(raft.election_timeout_max)],
            "clock_drift_ppm": raft.clock_drift_ppm,
            "lease_reads": raft.lease_reads,
            "preferred_zone": self.preferred_zone,
            "routes": self.routes.iter().map(|route| serde_json::json!({
                "name": route.name,
                "fence": route.fence.name(),
                "reads": route.reads.name(),
                "hold_timeout_ms": ms(route.hold_timeout),
            })).collect::<Vec<_>>(),
        })
    }
}

/// The `[node]` section, as far as it is right.
struct Own {
    id: Option<NodeId>,
    data_dir: Option<PathBuf>,
    zone: Option<String>,
}

/// The `[cluster]` section, as far as it is right.
struct Cluster {
    name: Option<String>,
    /// All of them.
    members: Option<Vec<Member>>,
    join: bool,
}

/// The `[api.auth]` section.
struct Auth {
    token: Option<Token>,
}

pub(super) fn read(root: &mut Section<'_>) -> Option<NodeConfig> {
    let own = read_own(root);
    let cluster = read_cluster(root);
    let member = own_member(root, &own, &cluster);
    let auth = read_auth(root);
    let listen = read_listen(root, member.as_ref(), cluster.join, auth.is_some());
    let expected = own.id.zip(cluster.name.as_deref()).map(|(id, name)| Identity::of_node(name, id));
    let tls =
        files::tls(root, "node-1", true, |found| expected.and_then(|expected| other_node(expected, found)));
    let (raft, preferred_zone) = read_raft(root, own.id.unwrap_or(NodeId::ZERO));
    let routes = read_routes(root, raft.lease_reads);
    let (id, members) = (own.id?, cluster.members?);
    let zone = own.zone.or(member.and_then(|member| member.zone));
    let members = with_zone(members, id, zone.as_deref());
    if !cluster.join {
        check_preferred(root, preferred_zone.as_deref(), &members);
    }
    Some(NodeConfig {
        cluster: cluster.name?,
        data_dir: own.data_dir?,
        members,
        join: cluster.join,
        zone,
        listen: listen?,
        tls: tls?,
        raft,
        preferred_zone,
        routes,
        token: auth.and_then(|auth| auth.token),
    })
}

/// The words of a start that finds out.
fn other_node(expected: Identity, found: &Identity) -> Option<String> {
    let (expected, found) = (expected.to_string(), found.to_string());
    (found != expected).then(|| TransportError::Identity { expected, found }.to_string())
}

fn with_zone(mut members: Vec<Member>, id: NodeId, zone: Option<&str>) -> Vec<Member> {
    if let Some(own) = members.iter_mut().find(|m| m.id == id) {
        own.zone = zone.map(str::to_owned);
    }
    members
}

/// Who is added later may be in that zone, so it is no error.
fn check_preferred(root: &Section<'_>, wanted: Option<&str>, members: &[Member]) {
    let Some(wanted) = wanted else { return };
    if !members.iter().any(|member| member.zone.as_deref() == Some(wanted)) {
        root.warn(
            "raft.preferred_zone",
            format!(
                "no member is in zone \"{wanted}\", so leadership stays where it is; set `zone = \"{wanted}\"` in the \
                 [[cluster.members]] sections of the members there, on every node"
            ),
        );
    }
}

fn read_own(root: &mut Section<'_>) -> Own {
    let mut node = root.section("node");
    let id = node.required("id", "1", node_id);
    let data_dir = node.required("data_dir", "\"data/node-1\"", files::path);
    let zone = node.optional("zone", value::name);
    node.finish();
    Own { id, data_dir, zone }
}

fn node_id(given: Given) -> Result<NodeId, String> {
    match given.number()? {
        0 => Err("must be 1 or more; 0 stands for no node".into()),
        id => Ok(NodeId(id)),
    }
}

fn read_cluster(root: &mut Section<'_>) -> Cluster {
    let mut cluster = root.section("cluster");
    let name = cluster.required("name", "\"orders\"", value::cluster);
    let join = cluster.optional("join", Given::flag).unwrap_or(false);
    let given = cluster.has("members") || join;
    if !given {
        cluster.error("members", "is missing; add a [[cluster.members]] section for each node");
    }
    let sections = cluster.sections("members");
    let count = sections.len();
    let mut members: Vec<Member> = sections.into_iter().filter_map(read_member).collect();
    members.sort_by_key(|member| member.id);
    check_members(&cluster, &members);
    if !join {
        check_size(&cluster, count);
    }
    cluster.finish();
    let members = Some(members).filter(|members| given && members.len() == count);
    Cluster { name, members, join }
}

fn read_member(mut member: Section<'_>) -> Option<Member> {
    let id = member.required("id", "1", node_id);
    let peer = member.required("peer", "\"10.0.0.1:7100\"", value::endpoint);
    let proxy = member.required("proxy", "\"10.0.0.1:8080\"", value::endpoint);
    let hop = member.optional("hop", value::endpoint);
    let api = member.required("api", "\"10.0.0.1:9090\"", value::endpoint);
    let zone = member.optional("zone", value::name);
    member.finish();
    let proxy = proxy?;
    Some(Member { id: id?, peer: peer?, hop: hop.unwrap_or_else(|| proxy.clone()), proxy, api: api?, zone })
}

fn check_members(cluster: &Section<'_>, members: &[Member]) {
    let mut ids = BTreeSet::new();
    let mut peers = BTreeSet::new();
    for member in members {
        if !ids.insert(member.id) {
            cluster.error("members", format!("the id {} is used twice; each node has its own", member.id));
        }
        // Both are UDP: Raft and forwarded requests of all nodes need addresses of their own.
        for (what, address) in [("peer", &member.peer), ("hop", &member.hop)] {
            if !peers.insert(address) {
                cluster.error("members", format!("the {what} address {address} is used twice on UDP"));
            }
        }
    }
}

fn check_size(cluster: &Section<'_>, count: usize) {
    match count {
        0 | 1 | 3 | 5 | 7 => {}
        MEMBERS.. => cluster.error("members", format!("{count} members; at most 7 make sense")),
        8.. => cluster.warn(
            "members",
            format!("{count} members: every write waits for {} copies; 3 or 5 are faster", count / 2 + 1),
        ),
        _ => cluster.warn(
            "members",
            format!(
                "{count} members survive {} failures, no more than {} do, and need a larger quorum",
                (count - 1) / 2,
                count - 1
            ),
        ),
    }
}

fn own_member(root: &Section<'_>, own: &Own, cluster: &Cluster) -> Option<Member> {
    let (id, members) = (own.id?, cluster.members.as_ref()?);
    let Some(member) = members.iter().find(|member| member.id == id).cloned() else {
        if cluster.join {
            return None;
        }
        let ids: Vec<String> = members.iter().map(|m| m.id.to_string()).collect();
        root.error("node.id", format!("{id} is not among cluster.members ({})", ids.join(", ")));
        return None;
    };
    if let (Some(a), Some(b)) = (&own.zone, &member.zone)
        && a != b
    {
        root.error("node.zone", format!("{a} here, and {b} in cluster.members; leave out one of them"));
    }
    Some(member)
}

/// `None` when there is no `[api.auth]`; one without a token when it is there and wrong.
fn read_auth(root: &mut Section<'_>) -> Option<Auth> {
    let mut api = root.section("api");
    let present = api.has("auth");
    let mut auth = api.section("auth");
    let token = auth.optional("token", Given::text);
    let file = auth.optional("token_file", files::path);
    let (key, secret) = match (token, file) {
        (Some(_), Some(_)) => {
            auth.error("token_file", "token is set too; keep one of them");
            ("token", None)
        }
        (None, None) => {
            if present {
                auth.error("token", "is missing; set token or token_file");
            }
            ("token", None)
        }
        (None, Some(file)) => ("token_file", files::token(&auth, &file)),
        (Some(secret), None) => ("token", Some(secret)),
    };
    match &secret {
        Some(secret) if secret.trim().is_empty() => auth.error(key, "is empty"),
        Some(secret) if secret.len() < TOKEN_BYTES => {
            auth.warn(key, format!("has fewer than {TOKEN_BYTES} characters and can be guessed"));
        }
        _ => {}
    }
    auth.finish();
    api.finish();
    present.then(|| Auth { token: secret.map(Token::new) })
}

/// The ports default to those of this node's entry in `cluster.members`, which one that joins need not have.
fn read_listen(
    root: &mut Section<'_>,
    member: Option<&Member>,
    join: bool,
    has_auth: bool,
) -> Option<Listen> {
    let mut listen = root.section("listen");
    for key in ["peer", "proxy", "api"].into_iter().filter(|key| join && member.is_none() && !listen.has(key))
    {
        listen.error(key, "is missing; set it, or add this node to cluster.members");
    }
    let any = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    let local = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let at = |ip, endpoint: fn(&Member) -> &str| {
        member.and_then(|m| port_of(endpoint(m))).map(|port| SocketAddr::new(ip, port))
    };
    let peer = listen.optional("peer", value::listener).or_else(|| at(any, |m| &m.peer));
    let proxy = listen.optional("proxy", value::listener).or_else(|| at(any, |m| &m.proxy));
    let api = listen.optional("api", value::listener).or_else(|| at(local, |m| &m.api));
    let hop = listen.optional("hop", value::listener).or_else(|| match member {
        Some(m) if m.hop != m.proxy => at(proxy.map_or(any, |p| p.ip()), |m| &m.hop),
        _ => proxy,
    });
    if let Some(api) = api.filter(|api| !api.ip().is_loopback() && !has_auth) {
        let mend = "set [api.auth] token or token_file, or listen on 127.0.0.1";
        listen.error("api", format!("{api} can be reached by others without a token; {mend}"));
    }
    if peer.is_some() && peer == hop {
        listen.error("hop", "is the same UDP address as listen.peer; give it another port");
    }
    if api.is_some() && api == proxy {
        listen.error("api", "is the same TCP address as listen.proxy; give it another port");
    }
    listen.finish();
    Some(Listen { peer: peer?, hop: hop?, proxy: proxy?, api: api? })
}

fn read_raft(root: &mut Section<'_>, id: NodeId) -> (Config, Option<String>) {
    let mut raft = root.section("raft");
    let mut config = match raft.optional("profile", value::profile) {
        Some(value::Profile::Wan) => Config::wan(id),
        Some(value::Profile::Lan) | None => Config::new(id),
    };
    let preferred_zone = raft.optional("preferred_zone", value::name);
    if let Some(interval) = raft.optional("heartbeat_interval_ms", value::millis) {
        config.heartbeat_interval = interval;
    }
    if let Some(pair) = raft.optional("election_timeout_ms", value::millis_pair) {
        (config.election_timeout_min, config.election_timeout_max) = pair;
    }
    if let Some(ppm) = raft.optional("clock_drift_ppm", value::ppm) {
        config.clock_drift_ppm = ppm;
    }
    if let Some(margin) = raft.optional("lease_margin_ms", value::millis) {
        config.lease_margin = margin;
    }
    if let Some(reads) = raft.optional("lease_reads", Given::flag) {
        config.lease_reads = reads;
    }
    raft.finish();
    for text in config.problems() {
        root.error("raft", text);
    }
    (config, preferred_zone)
}

fn read_routes(root: &mut Section<'_>, lease_reads: bool) -> Vec<Route> {
    let sections = root.sections("route").into_iter();
    let routes: Vec<Route> = sections.filter_map(|route| read_route(route, lease_reads)).collect();
    let mut names = BTreeSet::new();
    let mut matches = BTreeSet::new();
    for route in &routes {
        if !names.insert(&route.name) {
            root.error("route", format!("the name {} is used twice; each route has its own", route.name));
        }
        if !matches.insert((&route.host, &route.path_prefix)) {
            root.error("route", format!("{} matches what another route matches already", route.name));
        }
    }
    routes
}

fn read_route(mut route: Section<'_>, lease_reads: bool) -> Option<Route> {
    let name = route.required("name", "\"orders\"", value::name);
    if !route.has("match") {
        route.error("match", "is missing; set it, such as match = { path_prefix = \"/\" }");
    }
    let mut target = route.section("match");
    let host = target.optional("host", value::host);
    let path_prefix = target.optional("path_prefix", value::path_prefix).unwrap_or_else(|| "/".into());
    target.finish();
    let backend = route.required("backend", "\"https://10.0.0.20:8443\"", value::backend);
    let fence = route.required("fence", "\"enforced\"", value::fence);
    let reads = route.optional("reads", value::consistency).unwrap_or(Consistency::Linearizable);
    let hold_timeout = route.optional("hold_timeout_ms", value::millis).unwrap_or(HOLD_TIMEOUT);
    if reads.served(lease_reads) != reads {
        let mend = "set raft.lease_reads = true, or reads = \"linearizable\" here";
        route.warn("reads", format!("lease reads are off, so a quorum confirms each read; {mend}"));
    }
    if fence == Some(FenceMode::Drain) {
        route.warn("fence", "drain is best effort: a write of an old leader may still commit late");
    }
    route.finish();
    Some(Route { name: name?, host, path_prefix, backend: backend?, fence: fence?, reads, hold_timeout })
}
