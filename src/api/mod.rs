//! The API listener: what operators, dashboards and client libraries ask a node.
//!
//! The idea: one function from a request to an answer, [`Api::handle`], with nothing of sockets in
//! it. The TCP listener ([`serve`]) feeds it, and so does the hop with what other nodes pass on; the
//! caller is an argument. A call that needs the leader is answered here when this node leads, and
//! otherwise passed on to the leader, once: what comes from a node is never passed on again, so no
//! request can go in circles.
//!
//! Walk-through of `PUT /registry/keys/a` at a follower: `router` finds the row, `admission` wants the
//! token, `keys` reads the condition, `forward` sends the request over the hop to the leader, whose
//! `keys` proposes the command and answers once it is applied; the answer comes back as it is. While
//! no leader is known the request waits, bounded, and is then answered `no-leader`, `not-applied`.
//!
//! Every request gets an id at the node that took it from its client; the leader answers under the
//! same id. It is in every answer and in every problem. A client can't choose it.
//!
//! Left out: `GET /leader/watch`.
//!
//! | file | idea |
//! |---|---|
//! | `router` | the table of all calls |
//! | `admission` | who may call: host, origin, token |
//! | `auth` | the bearer token |
//! | `forward` | waits for a leader and passes requests on to it |
//! | `leader` | who leads, and handing leadership over |
//! | `status` | all nodes in one answer |
//! | `backup` | all of the state, while writes go on |
//! | `members` | who takes part, and what may be asked to be different |
//! | `change` | carries such a change out |
//! | `invitations` | how a new machine joins |
//! | `addresses` | what addresses and names look like |
//! | `health` | for load balancers and supervisors |
//! | `keys` | the registry over HTTP |
//! | `fields` | reads and writes header fields |
//! | `refusal` | a problem, and what else its answer says |
//! | `answers` | the contents of the answers |
//! | `server` | the TCP listener |

pub mod addresses;
mod admission;
pub mod answers;
pub mod auth;
mod backup;
mod change;
pub mod fields;
mod forward;
mod health;
mod invitations;
mod keys;
mod leader;
mod members;
mod refusal;
pub mod router;
mod server;
mod status;

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::header::HeaderValue;
use http::{Method, Request, Response, StatusCode};
use tokio::sync::Semaphore;

use crate::api::answers::ResourceStatus;
use crate::api::auth::Token;
use crate::api::refusal::Refusal;
use crate::api::router::Call;
use crate::certs::authority::AuthorityFiles;
use crate::driver::handle::Handle;
use crate::hop::error::HopError;
use crate::ids::NodeId;
use crate::metrics::{self, Metrics};
use crate::problem::Problem;
use crate::proxy::job::RequestIds;
use crate::time::Duration;

pub use server::serve;

/// Sends a request to another node's API over the hop. The error says whether the request may have
/// had an effect.
pub type Remote = Arc<
    dyn Fn(NodeId, Request<Bytes>) -> BoxFuture<'static, Result<Response<Bytes>, HopError>> + Send + Sync,
>;

/// What the API of a node works with.
#[derive(Clone)]
pub struct ApiContext {
    /// The door to the loop.
    pub handle: Handle,
    /// The cluster's name.
    pub cluster: String,
    /// The routes and their gates, now.
    pub resources: Arc<dyn Fn() -> Vec<ResourceStatus> + Send + Sync>,
    /// What is counted.
    pub metrics: Metrics,
    /// What calls that change something must carry.
    pub token: Option<Token>,
    /// Whether a read may be served under the lease alone.
    pub lease_reads: bool,
    /// The way to the other nodes' APIs.
    pub remote: Remote,
    /// What status answers show of the settings.
    pub config_summary: serde_json::Value,
    /// The data directory's.
    pub incarnation: u64,
    /// The authority, when this node may sign certificates.
    pub authority: Option<AuthorityFiles>,
    /// What the nodes should have in common, for one that joins (TOML).
    pub settings: String,
}

impl fmt::Debug for ApiContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiContext").field("cluster", &self.cluster).finish_non_exhaustive()
    }
}

/// How long a call waits for what. Each wait ends in an answer that says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// For a leader, before the request is sent anywhere: several elections fit.
    pub hold: Duration,
    /// For the leader's answer, once it has the request. Then nobody knows the outcome.
    pub answer: Duration,
    /// For `Termgate-Min-Index`: longer than any healthy node lags.
    pub min_index: Duration,
    /// For a node's report: a status page must not wait for a dead one.
    pub report: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            hold: Duration::from_secs(5),
            answer: Duration::from_secs(10),
            min_index: Duration::from_secs(1),
            report: Duration::from_millis(500),
        }
    }
}

/// What all calls work with.
struct Inner {
    handle: Handle,
    cluster: String,
    resources: Arc<dyn Fn() -> Vec<ResourceStatus> + Send + Sync>,
    metrics: Metrics,
    token: Option<Token>,
    lease_reads: bool,
    remote: Remote,
    config_summary: serde_json::Value,
    incarnation: u64,
    authority: Option<AuthorityFiles>,
    settings: String,
    limits: Limits,
    ids: RequestIds,
    /// One place: see `backup`.
    backups: Arc<Semaphore>,
    /// Held by whoever changes the members.
    changing: tokio::sync::Mutex<()>,
}

/// Who calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caller {
    /// Somebody at the TCP listener.
    Client,
    /// A node, over the hop; its certificate was checked, and it has checked the client's token.
    Node(NodeId),
}

/// The API of one node. Cheap to clone.
#[derive(Clone)]
pub struct Api(Arc<Inner>);

impl fmt::Debug for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Api").field("node", &self.0.handle.node()).finish_non_exhaustive()
    }
}

impl Api {
    /// The API over these parts.
    pub fn new(context: ApiContext) -> Self {
        Self::with_limits(context, Limits::default())
    }

    /// The same, with other limits.
    pub fn with_limits(context: ApiContext, limits: Limits) -> Self {
        let ids = RequestIds::new(context.handle.node());
        Self(Arc::new(Inner {
            handle: context.handle,
            cluster: context.cluster,
            resources: context.resources,
            metrics: context.metrics,
            token: context.token,
            lease_reads: context.lease_reads,
            remote: context.remote,
            config_summary: context.config_summary,
            incarnation: context.incarnation,
            authority: context.authority,
            settings: context.settings,
            limits,
            ids,
            backups: Arc::new(Semaphore::new(1)),
            changing: tokio::sync::Mutex::default(),
        }))
    }

    /// Answers one request. Never fails: an error is an answer too.
    pub async fn handle(&self, caller: Caller, mut request: Request<Bytes>) -> Response<Bytes> {
        let head_only = request.method() == Method::HEAD;
        let id = self.name(caller, &request);
        // For the leader, should it be passed on.
        request.headers_mut().insert(fields::REQUEST_ID, id.clone());
        let mut response = match self.dispatch(caller, request).await {
            Ok(response) => response,
            Err(refusal) => refusal.answer(&self.0, caller, &id),
        };
        response.headers_mut().insert(fields::REQUEST_ID, id);
        if head_only {
            let length = HeaderValue::from(response.body().len());
            response.headers_mut().entry(http::header::CONTENT_LENGTH).or_insert(length);
            *response.body_mut() = Bytes::new();
            response.extensions_mut().clear();
        }
        response
    }

    /// The answer to a client whose request did not arrive whole.
    fn refuse(&self, problem: Problem) -> Response<Bytes> {
        let id = self.new_name();
        let mut response = Refusal::from(problem).answer(&self.0, Caller::Client, &id);
        response.headers_mut().insert(fields::REQUEST_ID, id);
        response
    }

    /// The request's id: a new one, or what the node drew that passed it on.
    fn name(&self, caller: Caller, request: &Request<Bytes>) -> HeaderValue {
        let given = match caller {
            Caller::Client => None,
            Caller::Node(_) => fields::request_id(request.headers()),
        };
        given.unwrap_or_else(|| self.new_name())
    }

    fn new_name(&self) -> HeaderValue {
        // Digits, letters and hyphens always make a field value.
        HeaderValue::from_maybe_shared(Bytes::from(self.0.ids.draw()))
            .unwrap_or(HeaderValue::from_static("0"))
    }

    async fn dispatch(&self, caller: Caller, request: Request<Bytes>) -> Result<Response<Bytes>, Refusal> {
        let (path, from_node) = (request.uri().path(), matches!(caller, Caller::Node(_)));
        let routed = router::route(request.method(), path, from_node);
        let (call, rest) = routed.map_err(|why| Refusal::not_routed(why, path))?;
        if caller == Caller::Client {
            admission::admit(call, &request, self.0.token.as_ref())?;
        }
        match call {
            Call::Leader => Ok(leader::show(&self.0, request.uri()).await?),
            Call::Resign => Ok(leader::resign(&self.0, caller, &request).await?),
            Call::Status => Ok(status::cluster(&self.0).await),
            Call::Backup => backup::take(&self.0, caller, &request).await,
            Call::Report => Ok(status::report(&self.0).await?),
            Call::MemberList => Ok(members::list(&self.0, caller, &request).await?),
            Call::MemberAdd => Ok(members::add(&self.0, caller, &request).await?),
            Call::MemberPatch => Ok(members::patch(&self.0, caller, rest, &request).await?),
            Call::Invite => Ok(invitations::invite(&self.0, caller, &request).await?),
            Call::InviteHere => Ok(invitations::invite_here(&self.0, caller, &request).await?),
            Call::Join => Ok(invitations::join(&self.0, caller, &request).await?),
            Call::JoinHere => Ok(invitations::join_here(&self.0, caller, &request).await?),
            Call::MemberRemove => Ok(members::remove(&self.0, caller, rest, &request).await?),
            Call::Livez => Ok(health::livez(&self.0).await),
            Call::Readyz => Ok(health::readyz(&self.0)),
            Call::Primary => Ok(health::primary(&self.0, request.uri())?),
            Call::Replica => Ok(health::replica(&self.0)),
            Call::Metrics => Ok(self.metrics()),
            Call::OpenApi => {
                Ok(fields::typed(StatusCode::OK, "application/json", Bytes::from_static(OPENAPI)))
            }
            Call::KeyList => keys::list(&self.0, caller, &request).await,
            Call::KeyGet => keys::get(&self.0, caller, &fields::decode(rest)?, &request).await,
            Call::KeyPut => keys::put(&self.0, caller, fields::decode(rest)?, &request).await,
            Call::KeyDelete => keys::delete(&self.0, caller, fields::decode(rest)?, &request).await,
        }
    }

    fn metrics(&self) -> Response<Bytes> {
        fields::typed(StatusCode::OK, metrics::MEDIA_TYPE, self.0.metrics.render().into())
    }
}

/// The description of the API, for `GET /openapi.json`.
pub const OPENAPI: &[u8] = include_bytes!("../../docs/openapi.json");
