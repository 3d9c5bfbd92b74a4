//! HTTP in and out: the ledger's two calls and the verifier endpoint.
//!
//! A term that is refused is a 412 with `Termgate-Fence`. An outcome that nobody knows has no status
//! of its own: the connection is closed without an answer, and the leader reports it as unknown.

mod database;

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Deserialize;
use serde_json::json;
use termgate::guard::fields::{
    self, AnswerBody, BoxError, FENCE_PATH, FieldError, REQUEST_ID, json_answer, problem, rejected, whole,
};
use termgate::ids::Term;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use self::database::{Database, Failure, Write};

/// The longest entry.
const MAX_ENTRY: usize = 1024 * 1024;

/// How to run it.
pub struct Options {
    pub listen: SocketAddr,
    pub database_url: String,
    pub raise_url: String,
    pub resource: String,
    pub connections: usize,
}

/// A running ledger; dropping it ends it.
pub struct Service {
    pub address: SocketAddr,
    task: JoinHandle<()>,
}

struct Shared {
    database: Database,
    resource: String,
}

type Answer = Result<Response<AnswerBody>, BoxError>;

impl Service {
    /// Starts to listen; sessions are opened when there is work.
    pub async fn start(options: Options) -> std::io::Result<Self> {
        let Options { listen, database_url, raise_url, resource, connections } = options;
        let database = Database::new(&database_url, &raise_url, &resource, connections);
        let listener = TcpListener::bind(listen).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared { database, resource });
        Ok(Self { address, task: tokio::spawn(serve(listener, shared)) })
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                connections.spawn(connection(stream, shared.clone()));
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        }
        while connections.try_join_next().is_some() {}
    }
}

async fn connection(stream: TcpStream, shared: Arc<Shared>) {
    let _small_answers_at_once = stream.set_nodelay(true);
    let answer = hyper::service::service_fn(move |request| answer(shared.clone(), request));
    let served =
        http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), answer);
    if let Err(error) = served.await {
        tracing::debug!(%error, "a connection ended");
    }
}

async fn answer(shared: Arc<Shared>, request: Request<Incoming>) -> Answer {
    match (request.uri().path(), request.method()) {
        ("/ledger", &Method::POST) => append(&shared, request).await,
        ("/ledger", &Method::GET | &Method::HEAD) => shared.database.list().await.map_or_else(failed, listed),
        (FENCE_PATH, &Method::PUT) => raise(&shared, request).await,
        (FENCE_PATH, &Method::GET) => present(&shared).await,
        ("/ledger" | FENCE_PATH, _) => {
            Ok(problem(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", "no such call"))
        }
        _ => Ok(problem(StatusCode::NOT_FOUND, "not-found", "the ledger is at /ledger")),
    }
}

fn bad_request(detail: &str) -> Answer {
    Ok(problem(StatusCode::BAD_REQUEST, "bad-request", detail))
}

fn listed(array: String) -> Answer {
    let mut answer = Response::new(whole(array));
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(answer)
}

fn failed(failure: Failure) -> Answer {
    match failure {
        Failure::Fenced { current, detail } => Ok(rejected(Term(current), &detail)),
        Failure::NotApplied(detail) => {
            Ok(problem(StatusCode::SERVICE_UNAVAILABLE, "backend-unavailable", &detail))
        }
        Failure::Unknown(detail) => Err(format!("the outcome is unknown: {detail}").into()),
    }
}

fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Reads the stamp; what it says is judged by the database alone.
fn stamped(shared: &Shared, request: &Request<Incoming>) -> Result<(i64, i64, Option<String>), String> {
    let fields = request.headers();
    let resource = fields::resource(fields).map_err(|error| error.to_string())?;
    if resource != shared.resource {
        return Err(format!("this ledger is {:?}, not {resource:?}", shared.resource));
    }
    let term = fields::term(fields).map_err(|error| error.to_string())?;
    let term = term.ok_or("Termgate-Term is missing: send writes through a termgate node")?;
    let node = fields::node(fields).map_err(|error| error.to_string())?;
    let id = fields::request_id(fields).map_err(|error| error.to_string())?;
    Ok((number(term.0), number(node.0), id.map(str::to_owned)))
}

async fn content(request: Request<Incoming>) -> Result<Bytes, BoxError> {
    Ok(Limited::new(request.into_body(), MAX_ENTRY).collect().await?.to_bytes())
}

async fn append(shared: &Shared, request: Request<Incoming>) -> Answer {
    let (term, node, request_id) = match stamped(shared, &request) {
        Ok(stamp) => stamp,
        Err(detail) => return bad_request(&detail),
    };
    let Ok(content) = content(request).await else {
        return bad_request("the entry broke off or is longer than 1 MiB");
    };
    let Ok(body) = String::from_utf8(content.into()) else { return bad_request("an entry is UTF-8 text") };
    match shared.database.append(Write { term, node, request_id, body }).await {
        Ok(seq) => Ok(json_answer(StatusCode::CREATED, &json!({ "seq": seq, "term": term }))),
        Err(failure) => failed(failure),
    }
}

#[derive(Deserialize)]
struct Raise {
    resource: String,
    term: i64,
}

/// The node that raises, when it says so: like a write's, its name comes in `Termgate-Node`.
fn raised_by(request: &Request<Incoming>) -> Result<Option<i64>, FieldError> {
    match fields::node(request.headers()) {
        Ok(node) => Ok(Some(number(node.0))),
        Err(FieldError::Missing(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

async fn raise(shared: &Shared, request: Request<Incoming>) -> Answer {
    if request.headers().contains_key(&REQUEST_ID) || request.headers().contains_key(&fields::TERM) {
        let detail = "a raise must come from a node itself, not through its proxy";
        return Ok(problem(StatusCode::FORBIDDEN, "forbidden", detail));
    }
    let node = match raised_by(&request) {
        Ok(node) => node,
        Err(error) => return bad_request(&error.to_string()),
    };
    let Ok(content) = content(request).await else { return bad_request("the content broke off") };
    let asked: Raise = match serde_json::from_slice(&content) {
        Ok(asked) => asked,
        Err(error) => return bad_request(&format!("expected {{\"resource\", \"term\"}}: {error}")),
    };
    if asked.resource != shared.resource || asked.term < 1 {
        return bad_request("the resource or the term is wrong");
    }
    match shared.database.raise(asked.term, node).await {
        Ok(()) => Ok(json_answer(StatusCode::OK, &json!({ "resource": asked.resource, "term": asked.term }))),
        Err(failure) => failed(failure),
    }
}

async fn present(shared: &Shared) -> Answer {
    match shared.database.present().await {
        Ok(term) => Ok(json_answer(
            StatusCode::OK,
            &json!({ "resource": shared.resource, "mode": "enforced", "term": term }),
        )),
        Err(failure) => failed(failure),
    }
}
