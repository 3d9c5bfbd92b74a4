//! API calls between nodes: small requests and answers, whole in memory, over the same hop.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Request, Response};
use http_body_util::{BodyExt, Limited};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::hop::body::header_map;
use crate::hop::client::{Exchange, HopClient};
use crate::hop::error::HopError;
use crate::hop::message::{Answer, Content, Fields, RequestHead, ResponseHead, Service};
use crate::ids::NodeId;
use crate::proxy::wirehead;
use crate::time::Duration;

/// Answers the API calls that other nodes, named first, pass on to this one.
pub type LocalApi = Arc<dyn Fn(NodeId, Request<Bytes>) -> BoxFuture<'static, Response<Bytes>> + Send + Sync>;

/// Bytes of a call's content, and of its answer's. The largest value of the registry fits, with its
/// wrapping.
pub const API_BYTES: usize = 2 * 1024 * 1024;
/// Calls that may wait for the lane; beyond it callers are told that nothing was sent.
const QUEUE: usize = 1024;
/// The longest call; the API has shorter limits of its own.
pub(super) const LIMIT: Duration = Duration::from_secs(30);

struct Call {
    to: NodeId,
    request: Request<Bytes>,
    reply: oneshot::Sender<Result<Response<Bytes>, HopError>>,
}

/// Sends API calls to other nodes, from any thread.
#[derive(Clone)]
pub struct ApiDoor {
    calls: mpsc::Sender<Call>,
}

impl std::fmt::Debug for ApiDoor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ApiDoor")
    }
}

/// The lane's end of an [`ApiDoor`].
pub struct ApiQueue {
    calls: mpsc::Receiver<Call>,
}

/// A door and the queue behind it.
pub fn door() -> (ApiDoor, ApiQueue) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    (ApiDoor { calls: sender }, ApiQueue { calls: receiver })
}

impl ApiDoor {
    /// Lets node `to` answer `request`. The error says whether it can have had an effect.
    pub async fn call(&self, to: NodeId, request: Request<Bytes>) -> Result<Response<Bytes>, HopError> {
        let (reply, answer) = oneshot::channel();
        self.calls
            .try_send(Call { to, request, reply })
            .map_err(|_| HopError::NotSent("too many calls wait, or the node is stopping".into()))?;
        answer.await.map_err(|_| HopError::Lost("the node is stopping".into()))?
    }
}

impl ApiQueue {
    /// Makes the calls, each in its own task, until the door is gone.
    pub async fn run(mut self, hop: HopClient, node: NodeId) {
        let mut tasks = JoinSet::new();
        while let Some(Call { to, request, reply }) = self.calls.recv().await {
            while tasks.try_join_next().is_some() {}
            let hop = hop.clone();
            tasks.spawn(async move {
                let late = || HopError::Lost(format!("no answer within {LIMIT:?}"));
                let outcome = timeout(LIMIT, call(&hop, to, request, node)).await;
                let _ = reply.send(outcome.unwrap_or_else(|_| Err(late())));
            });
        }
    }
}

async fn call(
    hop: &HopClient,
    to: NodeId,
    request: Request<Bytes>,
    node: NodeId,
) -> Result<Response<Bytes>, HopError> {
    let (head, content) = (request_head(&request, node), request.into_body());
    let first = Some(content).filter(|c| !c.is_empty());
    let Exchange { body, mut answers } = hop.open(to, &head, first).await?;
    if let Some(body) = body {
        body.finish(&Fields::new()).await?;
    }
    let head = loop {
        match answers.next().await? {
            Answer::Go => {}
            Answer::Refused(_) => return Err(HopError::NotStarted),
            Answer::Head(head) => break head,
        }
    };
    let malformed = || HopError::Malformed("the head of an answer".into());
    let content = Limited::new(answers.into_body(), API_BYTES).collect().await;
    let content = content.map_err(|e| HopError::Lost(e.to_string()))?.to_bytes();
    answer(head, content).ok_or_else(malformed)
}

fn request_head(request: &Request<Bytes>, node: NodeId) -> RequestHead {
    let length = request.body().len() as u64;
    RequestHead {
        service: Service::Api,
        request_id: String::new(),
        origin: node,
        method: request.method().as_str().to_owned(),
        target: request.uri().path_and_query().map_or("/", |t| t.as_str()).to_owned(),
        fields: wirehead::lines(request.headers()),
        content: if length == 0 { Content::Empty } else { Content::Eager { length: Some(length) } },
        consistency: None,
        client_term: None,
    }
}

/// The answer as it was given: the API's own fields are not ours to change.
fn answer(head: ResponseHead, content: Bytes) -> Option<Response<Bytes>> {
    let mut answer = Response::new(content);
    *answer.status_mut() = http::StatusCode::from_u16(head.status).ok()?;
    *answer.headers_mut() = header_map(head.fields).ok()?;
    Some(answer)
}
