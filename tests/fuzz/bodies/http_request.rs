//! A client's bytes through the very parser of the proxy, then its strict reading, the way over the hop and
//! the stamp: what a backend would be sent.

use std::cell::RefCell;
use std::convert::Infallible;
use std::rc::Rc;

use bytes::Bytes;
use futures_util::FutureExt;
use http::header::{HeaderMap, HeaderValue};
use http::request::Parts;
use http::{Method, Request, Response, Version};
use http_body_util::Empty;
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use termgate::fencing::mode::Consistency;
use termgate::hop::codec;
use termgate::hop::message::RequestHead;
use termgate::ids::{NodeId, Term};
use termgate::proxy::body::Keep;
use termgate::proxy::job::{Class, Job};
use termgate::proxy::validate::{CleanRequest, Content, is_ours, validate};
use termgate::proxy::{fields, limits, wirehead};

use super::hop_frame::everything;

/// What a frame begins with: the length of the rest.
const LENGTH_BYTES: usize = 4;

/// The bytes are what a connection brings. The requests that hyper finds in them are read twice: as they came, and
/// as if HTTP/2 had brought them.
pub fn run(data: &[u8]) {
    for (mut parts, ended) in requests(data) {
        request(clone(&parts), ended);
        parts.version = Version::HTTP_2;
        request(parts, ended);
    }
}

fn clone(parts: &Parts) -> Parts {
    let mut copy = Request::new(()).into_parts().0;
    copy.method = parts.method.clone();
    copy.uri = parts.uri.clone();
    copy.version = parts.version;
    copy.headers = parts.headers.clone();
    copy
}

/// The heads of the requests in `data`, and whether each has no content.
fn requests(data: &[u8]) -> Vec<(Parts, bool)> {
    let found = Rc::new(RefCell::new(Vec::new()));
    let kept = Rc::clone(&found);
    let keep = service_fn(move |request: Request<Incoming>| {
        let (parts, body) = request.into_parts();
        kept.borrow_mut().push((parts, body.is_end_stream()));
        async { Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new())) }
    });
    let connection = http1::Builder::new()
        .max_headers(limits::PARSED_FIELDS)
        .max_header_size(limits::PARSED_HEAD_BYTES)
        .max_buf_size(2 * limits::PARSED_HEAD_BYTES)
        .half_close(true)
        .serve_connection(TokioIo::new(tokio::io::join(data, tokio::io::sink())), keep);
    // Everything is here already, and nobody is waited for.
    let _ended = connection.now_or_never();
    found.take()
}

fn request(parts: Parts, ended: bool) {
    let seen = clone(&parts);
    let Ok(clean) = validate(parts, ended) else { return };
    assert!(!is_ours(clean.target.path()), "{:?}", clean.target);
    assert!(!clean.authority.as_str().contains('@') && !clean.authority.host().is_empty());
    path(&clean.path);
    reads_the_same(clean.target.path());
    let bodiless = clean.method == Method::GET || clean.method == Method::HEAD;
    assert!(!bodiless || clean.content == Content::Empty);
    for name in ["host", "content-length", "transfer-encoding", "connection", "upgrade", "expect"] {
        assert!(!clean.fields.contains_key(name), "{name} is left among the fields");
    }
    assert!(clean.said.term.is_none_or(|_| seen.headers.contains_key(fields::TERM)));
    let job = job(clean);
    leaves(&job);
    // The other way to the backend: over the hop, through the bytes.
    let head = wirehead::request_head(&job, NodeId(1), true);
    let frame = codec::encode_head(&head).expect("a head within the limits fits a frame");
    let head: RequestHead = codec::decode_head(&frame[LENGTH_BYTES..]).expect("what was said is understood");
    let there =
        wirehead::job(head, Keep::Empty, &[everything()], true).expect("what one node admits, all do");
    assert_eq!((&there.method, &there.authority), (&job.method, &job.authority));
    assert_eq!(there.target.as_str(), job.target.as_str());
    assert_eq!((there.class, there.client_term), (job.class, job.client_term));
    assert_eq!(there.fields, job.fields);
    leaves(&there);
}

/// What decides about the route: an absolute path without anything that two readers resolve in two ways.
fn path(path: &str) {
    assert!(path.starts_with('/') && path.is_ascii(), "{path:?}");
    let mut segments = path[1..].split('/').peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        assert!(last || !segment.is_empty(), "an empty segment in {path:?}");
        assert!(segment != "." && segment != "..", "a dot segment in {path:?}");
    }
    assert!(!path.contains("%2e") && !path.contains("%2E") && !path.contains("%00"), "{path:?}");
}

/// Whether a path is ours does not depend on its letters' case, nor on which of them are encoded.
fn reads_the_same(path: &str) {
    if path.contains('%') {
        return;
    }
    let encoded: String = path.bytes().map(|byte| format!("%{byte:02x}")).collect();
    assert!(
        !is_ours(&encoded) && !is_ours(&path.to_ascii_uppercase()),
        "{path:?} is ours in another spelling"
    );
    let below = format!("/.WELL-known/.//%74ermgate/{path}");
    assert!(is_ours(&below) || path.contains(".."), "{below:?} is taken for a client's");
}

fn job(clean: CleanRequest) -> Job {
    let class = Class::of(&clean.method, clean.said.consistency.unwrap_or(Consistency::Linearizable), true);
    Job {
        route: 0,
        class,
        request_id: "1-a-1".to_owned(),
        method: clean.method,
        target: clean.target,
        authority: clean.authority,
        fields: clean.fields,
        keep: Keep::Empty,
        client_term: clean.said.term,
    }
}

/// G3: the head as a backend gets it, line by line: one term, one node, one resource, and all of them ours.
fn leaves(job: &Job) {
    let mut stamped = job.fields.clone();
    fields::stamp(
        &mut stamped,
        Some(Term(7)),
        NodeId(2),
        &HeaderValue::from_static("orders"),
        &job.request_id,
    );
    let head = written(job, &stamped);
    let lines: Vec<&[u8]> = head.split(|byte| *byte == b'\n').collect();
    let mut found = Vec::new();
    for line in lines {
        let folded = String::from_utf8_lossy(line).to_ascii_lowercase().replace('_', "-");
        // Also a line that a lenient reader would take for a continued or padded one.
        if folded.trim_start().starts_with("termgate-") {
            found.push(folded.trim_end().to_owned());
        }
    }
    found.sort();
    let expected =
        ["termgate-node: 2", "termgate-request-id: 1-a-1", "termgate-resource: orders", "termgate-term: 7"];
    assert_eq!(found, expected);
}

/// As HTTP/1.1 writes it, by hand.
fn written(job: &Job, fields: &HeaderMap) -> Vec<u8> {
    let mut head =
        format!("{} {} HTTP/1.1\r\nhost: {}\r\n", job.method, job.target, job.authority).into_bytes();
    for (name, value) in fields {
        head.extend_from_slice(name.as_str().as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(value.as_bytes());
        head.extend_from_slice(b"\r\n");
    }
    head
}
