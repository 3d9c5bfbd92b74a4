//! The guard's own paths, none of which its backend ever sees: `PUT /.well-known/termgate/fence` raises,
//! `GET` shows; `GET /.well-known/termgate/metrics` is what it counted.
//!
//! A raise moves the fence for everybody, so it must come from a node itself. One that was
//! forwarded for a client carries a node's stamp, and is refused.
//!
//! `proof` has its place in the message, the majority of signed votes that made the leader, and is
//! not checked yet: until it is, every node of the cluster, and without TLS every process on this
//! machine, can raise the fence to any term.

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, HeaderMap, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt, Limited};
use serde::Deserialize;
use serde_json::json;

use crate::fencing::verifier::MAX_TERM;
use crate::guard::fence::SharedFence;
use crate::guard::fields::{
    self, AnswerBody, BoxError, FENCE_PATH, FieldError, REQUEST_ID, Sender, TERM, json_answer, whole,
};
use crate::guard::refused::{Refused, bad_request, forbidden};
use crate::ids::{NodeId, Term};
use crate::metrics::{MEDIA_TYPE, Metrics, RouteLabel};
use crate::problem::{Kind, Problem};

/// Where the guard shows what it counted.
const METRICS_PATH: &str = "/.well-known/termgate/metrics";
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
    let sender = Sender::of(request.headers());
    match (request.uri().path(), request.method()) {
        (FENCE_PATH, &Method::GET | &Method::HEAD) => present(fence),
        (FENCE_PATH, &Method::PUT) => {
            raise(fence, peer, metrics, request).await.unwrap_or_else(|refusal| refusal.answer(&sender))
        }
        (FENCE_PATH, _) => not_allowed(&sender, "GET, HEAD, PUT"),
        (METRICS_PATH, &Method::GET | &Method::HEAD) => {
            let mut answer = Response::new(whole(metrics.render()));
            answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
            answer
        }
        (METRICS_PATH, _) => not_allowed(&sender, "GET, HEAD"),
        _ => sender.tell(Problem::new(Kind::NotFound, "a guard has the paths fence and metrics here")),
    }
}

fn not_allowed(sender: &Sender, methods: &'static str) -> Response<AnswerBody> {
    let problem = Problem::new(Kind::MethodNotAllowed, format!("the methods here are {methods}"));
    let mut answer = sender.tell(problem);
    answer.headers_mut().insert(ALLOW, HeaderValue::from_static(methods));
    answer
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
) -> Result<Response<AnswerBody>, Refused>
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    let node = raised_by(request.headers(), peer)?;
    let Ok(content) = Limited::new(request.into_body(), MAX_RAISE).collect().await else {
        return Err(bad_request("the content of a raise broke off or is longer than 64 KiB"));
    };
    let asked: Raise = serde_json::from_slice(&content.to_bytes())
        .map_err(|error| bad_request(format!("expected {{\"resource\", \"term\", \"proof\"}}: {error}")))?;
    check(&asked, fence).map_err(bad_request)?;
    let label = RouteLabel { route: fence.resource().to_string() };
    match fence.raise(asked.term, node).await {
        Ok(()) => {
            metrics.fence_raises.get_or_create(&label).inc();
            tracing::info!(resource = %fence.resource(), term = %asked.term, node = ?node, "fence raised");
            Ok(json_answer(StatusCode::OK, &json!({ "resource": asked.resource, "term": asked.term })))
        }
        Err(error) => {
            metrics.fence_raise_failures.get_or_create(&label).inc();
            tracing::warn!(resource = %fence.resource(), term = %asked.term, %error, "fence not raised");
            Err(Refused::of_raise(&error, None))
        }
    }
}

/// The node that raises, when it is known. A node's own raise carries no stamp.
fn raised_by(fields: &HeaderMap, peer: Option<NodeId>) -> Result<Option<NodeId>, Refused> {
    if fields.contains_key(&REQUEST_ID) || fields.contains_key(&TERM) {
        return Err(forbidden("a raise must come from a node itself, not through its proxy"));
    }
    let said = match fields::node(fields) {
        Ok(node) => Some(node),
        Err(FieldError::Missing(_)) => None,
        Err(error) => return Err(bad_request(error.to_string())),
    };
    if peer.is_some() && said.is_some() && peer != said {
        return Err(forbidden("the certificate is not the one of the node that Termgate-Node names"));
    }
    Ok(peer.or(said))
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
