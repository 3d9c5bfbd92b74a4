//! Asks nodes over HTTP, one after another, until one answers.
//!
//! A read is asked of the next node when one can't be reached or knows no leader. A change is asked
//! of the next node only when the one before certainly did nothing with it. One that is known over all its
//! repetitions is asked until somebody says what became of it.

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderName};
use http::uri::Authority;
use http::{Method, Request, Response, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::api::answers::ClusterStatus;
use crate::cli::show;
use crate::time::Duration;

/// How long a node may take to accept a connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);
/// How long a node may take to answer: longer than it holds a request and waits for its leader.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);
/// How often a change of unknown outcome is asked for, and the time between: an election fits several times.
const REPETITIONS: usize = 10;
const REPETITION_PAUSE: Duration = Duration::from_millis(500);
/// Bytes of an answer: a status of the largest cluster is a small part of it.
const ANSWER_BYTES: usize = 8 * 1024 * 1024;

/// Why no answer came.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// Not the address of an API.
    #[error("{0:?} is not the address of an API; write it as http://HOST:PORT")]
    Url(String),
    /// Nothing was sent.
    #[error("{api} can't be reached: {cause}; is the node running, and is --api right?")]
    Unreachable {
        /// Who was asked.
        api: String,
        /// Why.
        cause: String,
    },
    /// The request was sent and not answered.
    #[error("{api} did not answer: {cause}; look at `termgate status` before you try again")]
    Lost {
        /// Who was asked.
        api: String,
        /// Why.
        cause: String,
    },
    /// The node said no.
    #[error("{api} says {status}: {detail}")]
    Refused {
        /// Who was asked.
        api: String,
        /// The status.
        status: u16,
        /// Why.
        detail: String,
        /// Whether certainly nothing was changed.
        not_applied: bool,
        /// Whether something may have been.
        in_doubt: bool,
        /// Whether what is in the way passes by itself.
        passes: bool,
    },
    /// The answer is not what a node says.
    #[error("{api} answered with something else than a node does: {cause}")]
    Malformed {
        /// Who was asked.
        api: String,
        /// What.
        cause: String,
    },
}

/// One call of the API.
#[derive(Debug, Clone)]
pub struct Call {
    /// The method.
    pub method: Method,
    /// The path and query.
    pub target: String,
    /// The content, JSON; empty for none.
    pub content: Vec<u8>,
    /// The token of `[api.auth]`.
    pub token: Option<String>,
    /// More header fields.
    pub fields: Vec<(HeaderName, String)>,
}

impl Call {
    /// A read.
    pub fn get(target: impl Into<String>) -> Self {
        Self {
            method: Method::GET,
            target: target.into(),
            content: Vec::new(),
            token: None,
            fields: Vec::new(),
        }
    }
}

/// The members of a problem that a person needs.
#[derive(Deserialize)]
struct Problem {
    detail: String,
    outcome: Option<String>,
    retry_after_ms: Option<u64>,
}

/// Asks each node in turn; the first good answer counts, or else the last refusal.
pub async fn ask(apis: &[String], call: &Call) -> Result<Bytes, ClientError> {
    in_turn(apis, &call.method, async |api| send(api, call).await).await
}

/// The same for a change that the cluster knows over all its repetitions: while nobody can tell what became of
/// it, it is asked for again, for a while.
pub async fn ask_until_known(apis: &[String], call: &Call) -> Result<Response<Bytes>, ClientError> {
    let mut doubt = None;
    for _ in 0..REPETITIONS {
        match in_turn(apis, &call.method, async |api| send_whole(api, call).await).await {
            Err(e) if e.is_in_doubt() => doubt = Some(e),
            // Nobody has looked at the change: that settles nothing of what was in doubt before.
            Err(e) if doubt.is_some() && e.is_of_the_moment() => {}
            other => return other,
        }
        sleep(REPETITION_PAUSE).await;
    }
    Err(doubt.unwrap_or_else(|| ClientError::Url(String::new())))
}

/// The same, for whatever `one` asks of a node by `method`.
pub async fn in_turn<T>(
    apis: &[String],
    method: &Method,
    one: impl AsyncFn(&str) -> Result<T, ClientError>,
) -> Result<T, ClientError> {
    let mut last = None;
    for api in apis {
        match one(api).await {
            Ok(answer) => return Ok(answer),
            Err(e) if !e.allows_another(method) => return Err(e),
            // A node's own words say more than a silent node.
            Err(e) => last = Some(last.filter(ClientError::is_refusal).unwrap_or(e)),
        }
    }
    Err(last.unwrap_or_else(|| ClientError::Url(String::new())))
}

impl ClientError {
    fn is_refusal(&self) -> bool {
        matches!(self, Self::Refused { .. })
    }

    fn is_in_doubt(&self) -> bool {
        match self {
            Self::Lost { .. } => true,
            Self::Refused { in_doubt, .. } => *in_doubt,
            Self::Url(_) | Self::Unreachable { .. } | Self::Malformed { .. } => false,
        }
    }

    fn is_of_the_moment(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Refused { status: 503, .. })
    }

    /// Whether asking another node can't do harm and may help.
    fn allows_another(&self, method: &Method) -> bool {
        match self {
            Self::Url(_) => false,
            Self::Unreachable { .. } => true,
            Self::Lost { .. } | Self::Malformed { .. } => *method == Method::GET,
            Self::Refused { status, not_applied, .. } => {
                *status == 503 && (*not_applied || *method == Method::GET)
            }
        }
    }
}

/// The cluster as `termgate status` shows it, asked of one node.
pub async fn status_text(api: &str) -> Result<String, ClientError> {
    let status: ClusterStatus = parse(api, &send(api, &Call::get("/cluster/status")).await?)?;
    Ok(show::status(&status))
}

/// Reads an answer.
pub fn parse<T: DeserializeOwned>(api: &str, content: &Bytes) -> Result<T, ClientError> {
    serde_json::from_slice(content)
        .map_err(|e| ClientError::Malformed { api: api.to_owned(), cause: e.to_string() })
}

/// Asks one node once.
pub async fn send(api: &str, call: &Call) -> Result<Bytes, ClientError> {
    send_whole(api, call).await.map(Response::into_body)
}

/// The same; the answer's head comes with it.
async fn send_whole(api: &str, call: &Call) -> Result<Response<Bytes>, ClientError> {
    let (head, content) = open(api, call).await?.into_parts();
    let content = Limited::new(content, ANSWER_BYTES);
    let lost = |cause: String| ClientError::Lost { api: api.to_owned(), cause };
    match timeout(ANSWER_LIMIT, content.collect()).await {
        Ok(Ok(whole)) => Ok(Response::from_parts(head, whole.to_bytes())),
        Ok(Err(e)) => Err(lost(e.to_string())),
        Err(_) => Err(lost("the answer was not whole within 20 s".into())),
    }
}

/// Asks one node once; what the good answer carries is still to be read.
pub async fn open(api: &str, call: &Call) -> Result<Response<Incoming>, ClientError> {
    let authority = authority(api).ok_or_else(|| ClientError::Url(api.to_owned()))?;
    let unreachable =
        |e: &dyn std::fmt::Display| ClientError::Unreachable { api: api.to_owned(), cause: e.to_string() };
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    let connect = TcpStream::connect((host, authority.port_u16().unwrap_or(80)));
    let stream = match timeout(CONNECT_LIMIT, connect).await {
        Ok(connected) => connected.map_err(|e| unreachable(&e))?,
        Err(_) => return Err(unreachable(&"no connection within 2 s")),
    };
    let request = request(&authority, call).map_err(|_| ClientError::Url(api.to_owned()))?;
    let lost = |cause: String| ClientError::Lost { api: api.to_owned(), cause };
    let response = match timeout(ANSWER_LIMIT, exchange(stream, request)).await {
        Ok(answered) => answered.map_err(lost)?,
        Err(_) => return Err(lost("no answer within 20 s".into())),
    };
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let told = timeout(ANSWER_LIMIT, Limited::new(response.into_body(), ANSWER_BYTES).collect()).await;
    let content = told.ok().and_then(Result::ok).map(|content| content.to_bytes()).unwrap_or_default();
    let problem: Option<Problem> = serde_json::from_slice(&content).ok();
    let outcome = problem.as_ref().and_then(|problem| problem.outcome.as_deref());
    Err(ClientError::Refused {
        api: api.to_owned(),
        status: status.as_u16(),
        not_applied: outcome == Some("not-applied"),
        in_doubt: outcome == Some("unknown") || (outcome.is_none() && matches!(status.as_u16(), 500 | 503)),
        passes: problem.as_ref().is_some_and(|p| p.retry_after_ms.is_some()),
        detail: problem.map_or_else(|| status.canonical_reason().unwrap_or("no reason").into(), |p| p.detail),
    })
}

fn authority(api: &str) -> Option<Authority> {
    let uri: Uri = if api.contains("://") { api.parse() } else { format!("http://{api}").parse() }.ok()?;
    let plain = uri.scheme_str() == Some("http") && matches!(uri.path(), "" | "/") && uri.query().is_none();
    uri.authority().filter(|a| plain && !a.as_str().contains('@') && !a.host().is_empty()).cloned()
}

fn request(authority: &Authority, call: &Call) -> http::Result<Request<Full<Bytes>>> {
    let mut request = Request::builder().method(call.method.clone()).uri(&call.target);
    request = request.header(HOST, authority.as_str());
    if !call.content.is_empty() {
        request = request.header(CONTENT_TYPE, "application/json");
    }
    if let Some(token) = &call.token {
        request = request.header(AUTHORIZATION, format!("Bearer {token}"));
    }
    for (name, value) in &call.fields {
        request = request.header(name, value);
    }
    request.body(Full::new(Bytes::from(call.content.clone())))
}

async fn exchange(stream: TcpStream, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, String> {
    let text = |e: hyper::Error| e.to_string();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(text)?;
    // It ends with the sender; its errors arrive there too.
    tokio::spawn(connection);
    sender.send_request(request).await.map_err(text)
}
