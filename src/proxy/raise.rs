//! The calls to the verifier at a backend: one raises the fence of a resource, one looks where it
//! stands.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::json;
use tokio::time::timeout;

use crate::ids::{NodeId, Term};
use crate::proxy::fields;
use crate::proxy::limits;
use crate::proxy::upstream::Backend;

/// Where a verifier takes raises.
pub const FENCE_PATH: &str = "/.well-known/termgate/fence";

/// The fence does not stand at the wanted term.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RaiseError {
    /// It stands higher: another leader has taken over, or the backend remembers another cluster.
    #[error("the backend's fence already stands higher, at {current:?}")]
    Higher {
        /// Where, if the backend says so.
        current: Option<Term>,
    },
    /// The backend can't be reached, or does not speak the verifier protocol.
    #[error("{0}; is there a verifier (a guard, or the tower layer) in front of the backend?")]
    Failed(String),
}

#[derive(Deserialize)]
struct Answer {
    resource: String,
    term: Term,
}

/// Raises the fence of `resource` to `term`. Idempotent.
pub async fn raise(backend: &Backend, resource: &str, term: Term, node: NodeId) -> Result<(), RaiseError> {
    let body = json!({ "resource": resource, "term": term, "proof": null }).to_string();
    let request = request(Method::PUT, backend, node, body);
    let called = timeout(limits::RAISE_TIMEOUT, call(backend, request)).await;
    let limit = || RaiseError::Failed(format!("no answer within {:?}", limits::RAISE_TIMEOUT));
    let (status, current, body) = called.map_err(|_| limit())?.map_err(RaiseError::Failed)?;
    match status {
        StatusCode::OK => confirm(&body, resource, term),
        StatusCode::PRECONDITION_FAILED => Err(RaiseError::Higher { current }),
        other => Err(RaiseError::Failed(format!("the backend answered {other} to a raise"))),
    }
}

/// Where the fence of `resource` stands; zero when it was never raised. The error says why the verifier
/// does not tell: then only a write can find out.
pub async fn look(backend: &Backend, resource: &str, node: NodeId) -> Result<Term, String> {
    let request = request(Method::GET, backend, node, String::new());
    let called = timeout(limits::LOOK_TIMEOUT, call(backend, request)).await;
    let (status, _, body) = called.map_err(|_| format!("no answer within {:?}", limits::LOOK_TIMEOUT))??;
    if status != StatusCode::OK {
        return Err(format!("{} answered {status} to GET {FENCE_PATH}", backend.authority()));
    }
    let shown: Answer = serde_json::from_slice(&body)
        .map_err(|e| format!("{} answered with something else than a fence: {e}", backend.authority()))?;
    match shown.resource == resource {
        true => Ok(shown.term),
        false => Err(format!("the verifier at {} protects {:?}", backend.authority(), shown.resource)),
    }
}

/// An answer counts only when it says what was asked: some other service may answer 200 to all.
fn confirm(body: &[u8], resource: &str, term: Term) -> Result<(), RaiseError> {
    let answer: Answer = serde_json::from_slice(body)
        .map_err(|e| RaiseError::Failed(format!("the answer to a raise is malformed: {e}")))?;
    if answer.resource != resource || answer.term != term {
        let found = format!("{} at {}", answer.resource, answer.term);
        return Err(RaiseError::Failed(format!("the backend confirms {found}, not {resource} at {term}")));
    }
    Ok(())
}

fn request(
    method: Method,
    backend: &Backend,
    node: NodeId,
    body: String,
) -> http::Result<Request<Full<Bytes>>> {
    Request::builder()
        .method(method)
        .uri(FENCE_PATH)
        .header(HOST, backend.authority().as_str())
        .header(CONTENT_TYPE, "application/json")
        .header(fields::NODE, node.0)
        .body(Full::new(Bytes::from(body)))
}

type Called = (StatusCode, Option<Term>, Bytes);

async fn call(backend: &Backend, request: http::Result<Request<Full<Bytes>>>) -> Result<Called, String> {
    let request = request.map_err(|e| e.to_string())?;
    let (wire, _) = backend.connect().await.map_err(|e| e.to_string())?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(wire)).await.map_err(|e| e.to_string())?;
    let exchange = async move {
        let answer = sender.send_request(request).await.map_err(|e| e.to_string())?;
        let (head, body) = answer.into_parts();
        let body =
            Limited::new(body, limits::RAISE_ANSWER_BYTES).collect().await.map_err(|e| e.to_string())?;
        Ok((head.status, fields::fence_rejection(&head.headers).flatten(), body.to_bytes()))
    };
    let driver = async {
        let _ = connection.await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        called = exchange => called,
        () = driver => Err("the connection ended".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_asked_resource_and_term_confirm_a_raise() {
        let confirm = |body: &str| confirm(body.as_bytes(), "orders", Term(7));
        assert_eq!(confirm(r#"{"resource":"orders","term":7}"#), Ok(()));
        for other in [r#"{"resource":"orders","term":6}"#, r#"{"resource":"bills","term":7}"#, "{}", "ok"] {
            assert!(matches!(confirm(other), Err(RaiseError::Failed(_))), "{other}");
        }
    }
}
