//! The verifier endpoint: `PUT /.well-known/termgate/fence` raises, `GET` shows.
//!
//! A raise moves the fence for everybody, so it must come from a node itself. One that was
//! forwarded for a client carries a node's stamp, and is refused.
//!
//! `proof` has its place in the message, the majority of signed votes that made the leader, and is
//! not checked yet: until it is, every node of the cluster, and without TLS every process on this
//! machine, can raise the fence to any term.

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt, Limited};
use serde::Deserialize;
use serde_json::json;

use crate::fencing::verifier::MAX_TERM;
use crate::guard::fence::SharedFence;
use crate::guard::fields::{self, AnswerBody, BoxError, FieldError, REQUEST_ID, TERM, json_answer, problem};
use crate::guard::layer::raise_failed;
use crate::ids::{NodeId, Term};
use crate::metrics::{Metrics, RouteLabel};

/// Longest raise: a proof holds one signature per voter, at most some hundred bytes each.
const MAX_RAISE: usize = 64 * 1024;

#[derive(Debug, Deserialize)]
struct Raise {
    resource: String,
    term: Term,
    /// Not checked yet, see above.
    #[serde(default, rename = "proof")]
    _proof: serde_json::Value,
}

/// Serves one request to the endpoint; `peer` is the node of the connection's certificate.
pub(super) async fn serve<B>(
    fence: &SharedFence,
    peer: Option<NodeId>,
    metrics: &Metrics,
    request: Request<B>,
) -> Response<AnswerBody>
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    match *request.method() {
        Method::GET | Method::HEAD => present(fence),
        Method::PUT => raise(fence, peer, metrics, request).await,
        _ => problem(StatusCode::METHOD_NOT_ALLOWED, "bad-request", "the fence takes GET and PUT"),
    }
}

fn present(fence: &SharedFence) -> Response<AnswerBody> {
    let (present, mode) = fence.present();
    let in_flight: serde_json::Map<_, _> =
        fence.in_flight().into_iter().map(|(term, count)| (term.to_string(), count.into())).collect();
    let value = json!({
        "resource": &**fence.resource(),
        "mode": mode.name(),
        "term": present.map_or(Term::ZERO, |fence| fence.term),
        "raised_by": present.and_then(|fence| fence.raised_by),
        "in_flight": in_flight,
    });
    json_answer(StatusCode::OK, &value)
}

async fn raise<B>(
    fence: &SharedFence,
    peer: Option<NodeId>,
    metrics: &Metrics,
    request: Request<B>,
) -> Response<AnswerBody>
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    if request.headers().contains_key(&REQUEST_ID) || request.headers().contains_key(&TERM) {
        let detail = "a raise must come from a node itself, not through its proxy";
        return problem(StatusCode::FORBIDDEN, "forbidden", detail);
    }
    let said = match fields::node(request.headers()) {
        Ok(node) => Some(node),
        Err(FieldError::Missing(_)) => None,
        Err(error) => return problem(StatusCode::BAD_REQUEST, "bad-request", &error.to_string()),
    };
    if peer.is_some() && said.is_some() && peer != said {
        let detail = "the certificate is not the one of the node that Termgate-Node names";
        return problem(StatusCode::FORBIDDEN, "forbidden", detail);
    }
    let node = peer.or(said);
    let Ok(content) = Limited::new(request.into_body(), MAX_RAISE).collect().await else {
        let detail = "the content of a raise broke off or is longer than 64 KiB";
        return problem(StatusCode::BAD_REQUEST, "bad-request", detail);
    };
    let asked = match serde_json::from_slice::<Raise>(&content.to_bytes()) {
        Ok(asked) => asked,
        Err(error) => {
            let detail = format!("expected {{\"resource\", \"term\", \"proof\"}}: {error}");
            return problem(StatusCode::BAD_REQUEST, "bad-request", &detail);
        }
    };
    if let Err(detail) = check(&asked, fence) {
        return problem(StatusCode::BAD_REQUEST, "bad-request", &detail);
    }
    let label = RouteLabel { route: fence.resource().to_string() };
    match fence.raise(asked.term, node).await {
        Ok(()) => {
            metrics.fence_raises.get_or_create(&label).inc();
            tracing::info!(resource = %fence.resource(), term = %asked.term, node = ?node, "fence raised");
            json_answer(StatusCode::OK, &json!({ "resource": asked.resource, "term": asked.term }))
        }
        Err(error) => {
            metrics.fence_raise_failures.get_or_create(&label).inc();
            tracing::warn!(resource = %fence.resource(), term = %asked.term, %error, "fence not raised");
            raise_failed(&error)
        }
    }
}

fn check(asked: &Raise, fence: &SharedFence) -> Result<(), String> {
    if asked.resource != **fence.resource() {
        let own = fence.resource();
        return Err(format!("this guard protects {own:?}: correct the route's name or its backend"));
    }
    if asked.term == Term::ZERO || asked.term > MAX_TERM {
        return Err(format!("a term is a number from 1 to {MAX_TERM}"));
    }
    Ok(())
}
