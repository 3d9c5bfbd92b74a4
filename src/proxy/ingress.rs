//! The leader's side of the hop: requests that other nodes took from their clients, and API calls
//! that they pass on.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;
use http::{Method, Request, Response, Uri};
use http_body::Body;
use http_body_util::{BodyExt, Limited};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::hop::body::{RecvBody, Reset, header_map};
use crate::hop::error::HopError;
use crate::hop::message::{Content as HopContent, Fields, Refusal, RequestHead, ResponseHead, Service};
use crate::hop::server::{HopServer, Incoming, Responder};
use crate::problem::{Kind, Problem};
use crate::proxy::body::{Content, Keep, Source, Upload};
use crate::proxy::hop_api::{self, API_BYTES, LocalApi};
use crate::proxy::job::{Attempt, Job, NotStarted};
use crate::proxy::limits;
use crate::proxy::service::{Lane, keep_small};
use crate::proxy::wirehead;

/// Takes what other nodes send until `stop`, then lets what is under way finish, for a while. The
/// gates are closed by then, so whatever still arrives is refused, and goes to the next leader.
pub async fn accept(
    server: Arc<HopServer>,
    lane: Arc<Lane>,
    api: Option<LocalApi>,
    mut stop: watch::Receiver<bool>,
) {
    let under_way = watch::Sender::new(0_usize);
    let counted = under_way.clone();
    let serving = server.serve(move |incoming| {
        let (lane, api, counted) = (Arc::clone(&lane), api.clone(), counted.clone());
        async move {
            counted.send_modify(|n| *n += 1);
            serve(incoming, &lane, api).await;
            counted.send_modify(|n| *n -= 1);
        }
    });
    let drained = async {
        let _ = stop.wait_for(|stop| *stop).await;
        let mut count = under_way.subscribe();
        let _ = timeout(limits::DRAIN_TIMEOUT, count.wait_for(|n| *n == 0)).await;
    };
    tokio::select! {
        () = serving => {}
        () = drained => {}
    }
    server.close().await;
}

async fn serve(incoming: Incoming, lane: &Lane, api: Option<LocalApi>) {
    let (peer, service) = (incoming.peer, incoming.head.service);
    let outcome = match (service, api) {
        (Service::Proxy, _) => serve_request(incoming, lane).await,
        (Service::Api, Some(api)) => serve_api(incoming, lane, &api).await,
        (Service::Api, None) => incoming.reply.refuse(Refusal::NoSuchService).await,
    };
    if let Err(error) = outcome {
        tracing::debug!(%peer, %error, "an exchange with another node ended early");
    }
}

async fn serve_request(incoming: Incoming, lane: &Lane) -> Result<(), HopError> {
    let Incoming { head, body, mut reply, .. } = incoming;
    let request_id = head.request_id.clone();
    let (withheld, keep) = content(&head, body);
    let mut job = match wirehead::job(head, keep, &lane.routes, lane.lease_reads) {
        Ok(job) => job,
        Err(problem) => return answer_problem(lane, problem, &request_id, reply).await,
    };
    let prepared = match lane.leader.prepare(&job).await {
        Ok(prepared) => prepared,
        Err(attempt) => return conclude(lane, attempt, &job, reply).await,
    };
    if withheld {
        reply.go().await?;
    }
    if keep_small(&mut job).await.is_err() || job.keep.begins().await.is_err() {
        reply.not_started();
        return Ok(());
    }
    let attempt = lane.leader.send(prepared, &job).await;
    conclude(lane, attempt, &job, reply).await
}

/// The content as this node sees it, and whether it has to be asked for.
fn content(head: &RequestHead, body: RecvBody) -> (bool, Keep) {
    let stream = |length| Keep::Stream(Upload::new(Source::Hop(body), length));
    match head.content {
        HopContent::Empty => (false, Keep::Empty),
        HopContent::Eager { length } => (false, stream(length)),
        HopContent::Withheld { length } => (true, stream(length)),
    }
}

async fn conclude(lane: &Lane, attempt: Attempt, job: &Job, reply: Responder) -> Result<(), HopError> {
    match attempt {
        Attempt::Served(answer) => send_answer(lane, *answer, reply).await,
        Attempt::NotStarted(why) => reply.refuse(refusal(&why)).await,
        Attempt::Failed(problem) => {
            answer_problem(lane, job.class.settle(problem), &job.request_id, reply).await
        }
    }
}

/// How the leader says why it gives a request back.
pub const fn refusal(why: &NotStarted) -> Refusal {
    match why {
        NotStarted::GateClosed | NotStarted::Unreachable(_) => Refusal::NotLeader,
        NotStarted::FenceNotRaised => Refusal::GateClosed,
        NotStarted::Fenced => Refusal::Fenced,
        NotStarted::ReadNotConfirmed => Refusal::ReadNotConfirmed,
    }
}

async fn answer_problem(
    lane: &Lane,
    problem: Problem,
    request_id: &str,
    reply: Responder,
) -> Result<(), HopError> {
    send_answer(lane, lane.describe(problem, request_id), reply).await
}

async fn send_answer(lane: &Lane, answer: Response<Content>, reply: Responder) -> Result<(), HopError> {
    let head = wirehead::response_head(&answer, lane.node);
    let mut from = answer.into_body();
    // Most answers are short and here already: then one write carries everything.
    let mut next = from.frame().now_or_never();
    match next.take() {
        None => {}
        Some(None) => return reply.complete(head, Bytes::new()).await,
        Some(Some(Ok(frame))) if from.is_end_stream() => {
            return reply.complete(head, frame.into_data().unwrap_or_default()).await;
        }
        other => next = other,
    }
    let mut to = reply.head(head).await?;
    loop {
        let frame = match next.take() {
            Some(frame) => frame,
            None => from.frame().await,
        };
        let Some(frame) = frame else { break };
        // Dropped without its end mark, a broken answer can't be taken for the whole.
        let Ok(frame) = frame else {
            to.abort(Reset::MaybeApplied);
            return Ok(());
        };
        if let Ok(bytes) = frame.into_data() {
            to.chunk(bytes).await?;
        }
    }
    to.finish(&Fields::new()).await
}

async fn serve_api(incoming: Incoming, lane: &Lane, api: &LocalApi) -> Result<(), HopError> {
    let Incoming { peer, head, body, reply } = incoming;
    let Ok(Ok(content)) = timeout(hop_api::LIMIT, Limited::new(body, API_BYTES).collect()).await else {
        reply.not_started();
        return Ok(());
    };
    let answer = match api_request(head, content.to_bytes()) {
        Some(request) => api(peer, request).await,
        None => Problem::new(Kind::BadRequest, "a node passed on a malformed call").into_response(),
    };
    let (parts, content) = answer.into_parts();
    let head = ResponseHead {
        status: parts.status.as_u16(),
        fields: wirehead::lines(&parts.headers),
        term: lane.handle.leadership().term,
        node: lane.node,
    };
    reply.complete(head, content).await
}

fn api_request(head: RequestHead, content: Bytes) -> Option<Request<Bytes>> {
    let mut request = Request::new(content);
    *request.method_mut() = Method::from_bytes(head.method.as_bytes()).ok()?;
    *request.uri_mut() = head.target.parse::<Uri>().ok()?;
    *request.headers_mut() = header_map(head.fields).ok()?;
    Some(request)
}
