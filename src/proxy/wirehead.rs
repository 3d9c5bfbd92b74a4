//! Between HTTP and the heads of the hop, in both directions.
//!
//! What comes from a peer was cleaned by it, and is cleaned again: a node trusts another node's
//! certificate, not its code.

use http::header::{CONTENT_LENGTH, HOST, HeaderMap, HeaderValue, TRANSFER_ENCODING};
use http::uri::{Authority, PathAndQuery};
use http::{Method, Response, StatusCode};

use crate::hop::body::header_map;
use crate::hop::message::{Content as HopContent, Fields, RequestHead, ResponseHead, Service};
use crate::ids::{NodeId, Term};
use crate::problem::{Kind, Problem};
use crate::proxy::body::{Content, Keep};
use crate::proxy::fields;
use crate::proxy::job::{Class, Job};
use crate::proxy::route::{self, Route};
use crate::proxy::validate;

/// The head of `job` for the leader. A stream is always withheld; what is in memory follows at once
/// if `eager`. A write without content has an end to withhold, a read has nothing.
pub fn request_head(job: &Job, origin: NodeId, eager: bool) -> RequestHead {
    let content = match &job.keep {
        Keep::Empty if eager || job.class != Class::Write => HopContent::Empty,
        Keep::Whole(bytes) if eager => HopContent::Eager { length: Some(bytes.len() as u64) },
        kept => HopContent::Withheld { length: kept.length() },
    };
    let mut lines = lines(&job.fields);
    lines.push((HOST.as_str().to_owned(), job.authority.as_str().as_bytes().to_vec()));
    RequestHead {
        service: Service::Proxy,
        request_id: job.request_id.clone(),
        origin,
        method: job.method.as_str().to_owned(),
        target: job.target.as_str().to_owned(),
        fields: lines,
        content,
        consistency: match job.class {
            Class::Write => None,
            Class::Read(consistency) => Some(consistency),
        },
        client_term: job.client_term,
    }
}

/// The job that a peer asks for, with `keep` as its content. `lease_reads` is this node's word: the
/// peer's configuration may be another.
pub fn job(head: RequestHead, keep: Keep, routes: &[Route], lease_reads: bool) -> Result<Job, Problem> {
    let malformed = |what: &str| Problem::new(Kind::BadRequest, format!("a peer sent a malformed {what}"));
    let method = Method::from_bytes(head.method.as_bytes()).map_err(|_| malformed("method"))?;
    let target = PathAndQuery::try_from(head.target.as_str()).map_err(|_| malformed("target"))?;
    let mut map = header_map(head.fields).map_err(|_| malformed("field"))?;
    let host = map.remove(HOST).ok_or_else(|| malformed("host"))?;
    let authority = Authority::try_from(host.as_bytes()).map_err(|_| malformed("host"))?;
    map.remove(CONTENT_LENGTH);
    map.remove(TRANSFER_ENCODING);
    fields::clean_request(&mut map)?;
    let path = validate::normalise(target.path())?;
    let (place, route) = route::select(routes, authority.host(), &path)
        .ok_or_else(|| Problem::new(Kind::NotFound, "the leader has no route for the host and the path"))?;
    let class = Class::of(&method, head.consistency.unwrap_or(route.reads), lease_reads);
    Ok(Job {
        route: place,
        class,
        request_id: head.request_id,
        method,
        target,
        authority,
        fields: map,
        keep,
        client_term: head.client_term,
    })
}

/// The head of an answer, for the node that asked. Its term is the one the request was served under,
/// as it was stamped; this node's own may have moved on since.
pub fn response_head(answer: &Response<Content>, node: NodeId) -> ResponseHead {
    let term = fields::served_under(answer.headers()).unwrap_or(Term::ZERO);
    ResponseHead { status: answer.status().as_u16(), fields: lines(answer.headers()), term, node }
}

/// The answer of a peer, as the client gets it. `None` when its head is malformed.
pub fn response<B>(head: ResponseHead, body: B) -> Option<Response<B>> {
    let mut answer = Response::new(body);
    *answer.status_mut() = StatusCode::from_u16(head.status).ok()?;
    *answer.headers_mut() = header_map(head.fields).ok()?;
    answer.headers_mut().insert(fields::SERVED_BY, HeaderValue::from(head.node.0));
    if head.term != Term::ZERO {
        answer.headers_mut().insert(fields::TERM, HeaderValue::from(head.term.0));
    }
    Some(answer)
}

/// Fields as the hop carries them.
pub fn lines(map: &HeaderMap) -> Fields {
    map.iter().map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec())).collect()
}
