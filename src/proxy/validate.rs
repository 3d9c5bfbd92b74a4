//! Strict reading of a request. hyper accepts much that two readers may understand differently;
//! every such case is decided here, before anything else looks at the request. What leaves is a
//! typed [`CleanRequest`]; its framing is made anew from the types, never from received fields.
//!
//! The cases and what other software does with them: RFC 9112 sections 3.2, 6.1, 6.3; RFC 9113
//! sections 8.2.3, 8.3.1. hyper itself refuses differing or listed `Content-Length`, `Transfer-
//! Encoding` on HTTP/1.0 or not ending in `chunked`, obsolete line folding and control characters.

use http::header::{CONTENT_LENGTH, COOKIE, EXPECT, HOST, HeaderMap, HeaderValue, TRANSFER_ENCODING};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery};
use http::{Method, StatusCode, Version};

use crate::problem::{Kind, Problem};
use crate::proxy::fields::{self, ClientFields};
use crate::proxy::limits;

/// The first segments of every path on which nodes and verifiers talk.
const OURS: [&str; 2] = [".well-known", "termgate"];

/// How the content comes from the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// There is none.
    Empty,
    /// This many bytes.
    Sized(u64),
    /// Until it ends.
    Chunked,
}

/// A request that means one thing.
#[derive(Debug, Clone)]
pub struct CleanRequest {
    /// One of the methods that are let through.
    pub method: Method,
    /// The target in origin form, as received.
    pub target: PathAndQuery,
    /// The path that decides: unreserved characters decoded, dot segments and double slashes
    /// removed.
    pub path: String,
    /// Whom the client wants to talk to.
    pub authority: Authority,
    /// End-to-end fields, without framing and without our namespace.
    pub fields: HeaderMap,
    /// How the content comes.
    pub content: Content,
    /// What the client said to us.
    pub said: ClientFields,
}

/// Reads a request's head. `ended` says that HTTP/2 ended the stream with the head.
pub fn validate(parts: Parts, ended: bool) -> Result<CleanRequest, Problem> {
    let Parts { method, uri, version, mut headers, .. } = parts;
    limits_of_head(&headers)?;
    let method = allowed(method)?;
    let (target, from_target) = origin_form(uri, &method)?;
    let authority = authority(&mut headers, version, from_target)?;
    let path = normalise(target.path())?;
    let content = content(&mut headers, version, &method, ended)?;
    expectation(&mut headers)?;
    let said = fields::clean_request(&mut headers)?;
    join_cookies(&mut headers);
    Ok(CleanRequest { method, target, path, authority, fields: headers, content, said })
}

fn limits_of_head(headers: &HeaderMap) -> Result<(), Problem> {
    let bytes: usize = headers.iter().map(|(n, v)| n.as_str().len() + v.len() + 4).sum();
    if headers.len() > limits::HEAD_FIELDS || bytes > limits::HEAD_BYTES {
        let detail =
            format!("the limits are {} fields and {} bytes", limits::HEAD_FIELDS, limits::HEAD_BYTES);
        return Err(Problem::new(Kind::HeadersTooLarge, detail));
    }
    Ok(())
}

fn refuse(status: StatusCode, detail: &str) -> Problem {
    Problem::new(Kind::BadRequest, detail).status(status)
}

fn allowed(method: Method) -> Result<Method, Problem> {
    match method {
        Method::GET
        | Method::HEAD
        | Method::POST
        | Method::PUT
        | Method::PATCH
        | Method::DELETE
        | Method::OPTIONS => Ok(method),
        _ => Err(refuse(StatusCode::NOT_IMPLEMENTED, "this method is not passed on")),
    }
}

/// The target as path and query, and the authority when it came with it (absolute form, HTTP/2).
fn origin_form(uri: http::Uri, method: &Method) -> Result<(PathAndQuery, Option<Authority>), Problem> {
    let parts = uri.into_parts();
    if parts.scheme.as_ref().is_some_and(|s| s.as_str() != "http" && s.as_str() != "https") {
        return Err(Problem::new(Kind::BadRequest, "the scheme of the target is not http or https"));
    }
    let target = parts.path_and_query.unwrap_or_else(|| PathAndQuery::from_static("/"));
    if target.as_str().len() > limits::TARGET_BYTES {
        let detail = format!("the limit is {} bytes", limits::TARGET_BYTES);
        return Err(Problem::new(Kind::UriTooLong, detail));
    }
    if parts.authority.is_some() && parts.scheme.is_none() {
        return Err(Problem::new(Kind::BadRequest, "the target must start with a slash"));
    }
    match target.as_str() {
        "*" if *method == Method::OPTIONS => {}
        text if text.starts_with('/') && text.is_ascii() => {}
        _ => return Err(Problem::new(Kind::BadRequest, "the target must start with a slash, in ascii")),
    }
    Ok((target, parts.authority))
}

fn authority(
    headers: &mut HeaderMap,
    version: Version,
    from_target: Option<Authority>,
) -> Result<Authority, Problem> {
    let mut hosts = headers.get_all(HOST).iter();
    let (host, more) = (hosts.next().cloned(), hosts.next().is_some());
    if more {
        return Err(Problem::new(Kind::BadRequest, "host comes more than once"));
    }
    if host.is_none() && version == Version::HTTP_11 {
        return Err(Problem::new(Kind::BadRequest, "host is missing"));
    }
    let host = host.map(|value| Authority::try_from(value.as_bytes())).transpose();
    let host = host.map_err(|_| Problem::new(Kind::BadRequest, "host is not a valid authority"))?;
    if let (Version::HTTP_2, Some(a), Some(b)) = (version, &from_target, &host)
        && a != b
    {
        return Err(Problem::new(Kind::BadRequest, ":authority and host differ"));
    }
    headers.remove(HOST);
    // The target wins over Host (RFC 9112, section 3.2.2).
    let authority =
        from_target.or(host).ok_or_else(|| Problem::new(Kind::BadRequest, "the request names no host"))?;
    if authority.as_str().contains('@') || authority.host().is_empty() {
        return Err(Problem::new(Kind::BadRequest, "the authority must be a host and a port only"));
    }
    Ok(authority)
}

fn content(
    headers: &mut HeaderMap,
    version: Version,
    method: &Method,
    ended: bool,
) -> Result<Content, Problem> {
    let chunked = transfer_coding(headers)?;
    let length = length(headers)?;
    headers.remove(CONTENT_LENGTH);
    headers.remove(TRANSFER_ENCODING);
    let content = match (chunked, length) {
        (true, _) => Content::Chunked,
        (false, Some(0)) => Content::Empty,
        (false, Some(n)) => Content::Sized(n),
        (false, None) if version == Version::HTTP_2 && !ended => Content::Chunked,
        (false, None) => Content::Empty,
    };
    let bodiless = *method == Method::GET || *method == Method::HEAD;
    if bodiless && content != Content::Empty {
        return Err(Problem::new(Kind::BadRequest, "GET and HEAD must not have content; use POST"));
    }
    let writes = matches!(*method, Method::POST | Method::PUT | Method::PATCH);
    if version == Version::HTTP_10 && writes && length.is_none() {
        return Err(refuse(StatusCode::LENGTH_REQUIRED, "HTTP/1.0 content needs content-length"));
    }
    if let Content::Sized(n) = content
        && n > limits::BODY_BYTES
    {
        return Err(too_large());
    }
    Ok(content)
}

/// The problem of a body above the limit.
pub fn too_large() -> Problem {
    Problem::new(Kind::ContentTooLarge, format!("the limit is {} bytes", limits::BODY_BYTES))
}

fn transfer_coding(headers: &HeaderMap) -> Result<bool, Problem> {
    let mut lines = headers.get_all(TRANSFER_ENCODING).iter();
    match (lines.next(), lines.next()) {
        (None, _) => Ok(false),
        (Some(coding), None) if coding.as_bytes().eq_ignore_ascii_case(b"chunked") => Ok(true),
        _ => Err(refuse(StatusCode::NOT_IMPLEMENTED, "the only transfer coding is one chunked")),
    }
}

fn length(headers: &HeaderMap) -> Result<Option<u64>, Problem> {
    let mut lines = headers.get_all(CONTENT_LENGTH).iter();
    let Some(first) = lines.next() else { return Ok(None) };
    let bad = || Problem::new(Kind::BadRequest, "content-length is not one number");
    if lines.any(|other| other != first) {
        return Err(bad());
    }
    let text = first.to_str().map_err(|_| bad())?;
    let plain = (1..=18).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    if !plain {
        return Err(bad());
    }
    text.parse().map(Some).map_err(|_| bad())
}

fn expectation(headers: &mut HeaderMap) -> Result<(), Problem> {
    let known = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"100-continue");
    if !headers.get_all(EXPECT).iter().all(known) {
        return Err(refuse(StatusCode::EXPECTATION_FAILED, "the only expectation is 100-continue"));
    }
    headers.remove(EXPECT);
    Ok(())
}

/// HTTP/2 splits cookies for compression; HTTP/1 must see one field (RFC 9113, section 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    if headers.get_all(COOKIE).iter().nth(1).is_none() {
        return;
    }
    let crumbs: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if let Ok(joined) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..])) {
        headers.insert(COOKIE, joined);
    }
}

/// The path that decides which route a request takes. The backend still gets the path as received.
pub(super) fn normalise(path: &str) -> Result<String, Problem> {
    if is_ours(path) {
        let detail = format!("paths under /{}/ are between nodes and verifiers", OURS.join("/"));
        return Err(Problem::new(Kind::Forbidden, detail));
    }
    let decoded = decode_unreserved(path)?;
    let mut segments: Vec<&str> = Vec::new();
    for segment in decoded.split('/') {
        match segment {
            "" | "." => {}
            ".." => drop(segments.pop()),
            other => segments.push(other),
        }
    }
    let last = decoded.rsplit('/').next().unwrap_or_default();
    let directory = matches!(last, "" | "." | "..") && !segments.is_empty();
    Ok(format!("/{}{}", segments.join("/"), if directory { "/" } else { "" }))
}

/// Whether any reader could take the path for one of ours: a raise that a client sends through a node
/// would arrive with the node's certificate. Backends differ in what they decode, fold and cut off
/// before they compare, so all of it is done here.
pub fn is_ours(path: &str) -> bool {
    let mut folded = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        let hex = after.get(..2).filter(|_| *byte == b'%').and_then(|hex| std::str::from_utf8(hex).ok());
        let decoded = hex.and_then(|hex| u8::from_str_radix(hex, 16).ok());
        let used = if decoded.is_some() { 2 } else { 0 };
        folded.push(decoded.unwrap_or(*byte).to_ascii_lowercase());
        rest = after.get(used..).unwrap_or_default();
    }
    let mut segments: Vec<&[u8]> = Vec::new();
    for segment in folded.split(|byte| matches!(byte, b'/' | b'\\')) {
        // Some servers know parameters of a segment: `/a;b=c/d`.
        let name = segment.split(|byte| *byte == b';').next().unwrap_or_default();
        match name {
            b"" | b"." => {}
            b".." => drop(segments.pop()),
            other => segments.push(other),
        }
    }
    segments.iter().zip(OURS).filter(|(found, ours)| **found == ours.as_bytes()).count() == OURS.len()
}

fn decode_unreserved(path: &str) -> Result<String, Problem> {
    let mut decoded = String::with_capacity(path.len());
    let mut rest = path;
    while let Some((before, after)) = rest.split_once('%') {
        decoded.push_str(before);
        let byte = after.get(..2).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        let byte = byte.filter(|_| after.bytes().take(2).all(|b| b.is_ascii_hexdigit()));
        match byte {
            None => return Err(Problem::new(Kind::BadRequest, "the path has a broken percent-encoding")),
            Some(0) => return Err(Problem::new(Kind::BadRequest, "the path contains %00")),
            Some(b) if b.is_ascii_alphanumeric() || b"-._~".contains(&b) => decoded.push(char::from(b)),
            Some(b) => decoded.push_str(&format!("%{b:02X}")),
        }
        rest = after.get(2..).unwrap_or_default();
    }
    decoded.push_str(rest);
    Ok(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn check(request: http::request::Builder) -> Result<CleanRequest, Problem> {
        validate(request.body(()).expect("request").into_parts().0, true)
    }

    fn get(target: &str) -> http::request::Builder {
        Request::builder().uri(target).header("host", "shop.example")
    }

    fn status(result: Result<CleanRequest, Problem>) -> u16 {
        result.map_or_else(|p| p.status.as_u16(), |_| 200)
    }

    #[test]
    fn takes_a_plain_request_and_leaves_no_framing_in_its_fields() {
        let request = Request::post("/a/b?c=%2f").header("host", "shop.example:80");
        let clean = check(request.header("content-length", "3").header("accept", "*/*")).expect("clean");
        assert_eq!(clean.target.as_str(), "/a/b?c=%2f");
        assert_eq!(clean.authority.as_str(), "shop.example:80");
        assert_eq!(clean.content, Content::Sized(3));
        assert_eq!(clean.fields.len(), 1);
    }

    #[test]
    fn requires_exactly_one_valid_host() {
        assert_eq!(status(check(Request::get("/"))), 400);
        assert_eq!(status(check(get("/").header("host", "other"))), 400);
        for bad in ["x/../y@z", "user@shop.example", "a b", ""] {
            assert_eq!(status(check(Request::get("/").header("host", bad))), 400, "{bad:?}");
        }
    }

    #[test]
    fn the_absolute_target_wins_over_host() {
        let clean = check(get("http://real.example/x")).expect("clean");
        assert_eq!(clean.authority.as_str(), "real.example");
        assert_eq!(clean.target.as_str(), "/x");
        assert_eq!(status(check(get("http://user@real.example/x"))), 400);
        assert_eq!(status(check(get("gopher://real.example/x"))), 400);
    }

    #[test]
    fn refuses_targets_that_do_not_start_with_a_slash() {
        assert_eq!(status(check(get("a"))), 400);
        assert_eq!(status(check(get("*"))), 400);
        assert_eq!(status(check(get("*").method("OPTIONS"))), 200);
        assert_eq!(status(check(get(&format!("/{}", "a".repeat(9000))))), 414);
    }

    #[test]
    fn authority_and_host_must_agree_in_http2() {
        let h2 = |host| get_h2().header("host", host);
        assert_eq!(status(check(h2("real.example"))), 200);
        assert_eq!(status(check(h2("other.example"))), 400);
        assert_eq!(status(check(get_h2())), 200);
    }

    fn get_h2() -> http::request::Builder {
        Request::get("http://real.example/").version(Version::HTTP_2)
    }

    #[test]
    fn refuses_any_transfer_coding_but_one_chunked() {
        let post = |codings: &[&str]| {
            let request = Request::post("/").header("host", "a");
            check(codings.iter().fold(request, |r, c| r.header("transfer-encoding", *c)))
        };
        assert_eq!(post(&["chunked"]).expect("clean").content, Content::Chunked);
        for bad in [&["gzip, chunked"][..], &["chunked, chunked"], &["identity", "chunked"]] {
            assert_eq!(status(post(bad)), 501, "{bad:?}");
        }
    }

    #[test]
    fn equal_lengths_collapse_and_strange_ones_are_refused() {
        let post = |lengths: &[&str]| {
            let request = Request::post("/").header("host", "a");
            check(lengths.iter().fold(request, |r, c| r.header("content-length", *c)))
        };
        assert_eq!(post(&["3", "3"]).expect("clean").content, Content::Sized(3));
        for bad in [&["3", "4"][..], &["3, 3"], &["+3"], &[""], &["99999999999999999999"]] {
            assert_eq!(status(post(bad)), 400, "{bad:?}");
        }
        assert_eq!(status(post(&["16777217"])), 413);
    }

    #[test]
    fn refuses_content_where_it_gets_lost() {
        assert_eq!(status(check(get("/").header("content-length", "3"))), 400);
        assert_eq!(status(check(get("/").header("content-length", "0"))), 200);
        let open = validate(get_h2().body(()).expect("request").into_parts().0, false);
        assert_eq!(status(open), 400, "an HTTP/2 GET with DATA");
        let old = Request::post("/").header("host", "a").version(Version::HTTP_10);
        assert_eq!(status(check(old)), 411);
    }

    #[test]
    fn refuses_other_expectations_and_methods() {
        assert_eq!(status(check(get("/").header("expect", "100-Continue"))), 200);
        assert_eq!(status(check(get("/").header("expect", "200-ok"))), 417);
        for method in ["CONNECT", "TRACE", "get", "PROPFIND"] {
            assert_eq!(status(check(get("/").method(method))), 501, "{method}");
        }
    }

    #[test]
    fn bounds_the_head() {
        let many = (0..101).fold(get("/"), |r, i| r.header(format!("x-{i}"), "1"));
        assert_eq!(status(check(many)), 431);
        assert_eq!(status(check(get("/").header("x", "a".repeat(33_000)))), 431);
    }

    #[test]
    fn joins_cookie_crumbs() {
        let clean = check(get("/").header("cookie", "a=1").header("cookie", "b=2")).expect("clean");
        assert_eq!(clean.fields.get_all(COOKIE).iter().collect::<Vec<_>>(), ["a=1; b=2"]);
    }

    #[test]
    fn refuses_every_spelling_of_the_paths_between_nodes_and_verifiers() {
        let spellings = [
            "/.well-known/termgate/fence",
            "/.well-known/termgate",
            "/.Well-Known/TERMGATE/fence?x=1",
            "//.well-known/./termgate//fence",
            "/a/../.well-known/termgate/fence",
            "/%2Ewell%2dknown/termgat%65/fence",
            "/.well-known%2Ftermgate%2ffence",
            "/.well-known%5Ctermgate/fence",
            "/.well-known;v=1/termgate;/fence",
        ];
        for spelling in spellings {
            let refused = check(Request::put(spelling).header("host", "a")).expect_err(spelling);
            assert_eq!(refused.kind, Kind::Forbidden, "{spelling}");
        }
    }

    #[test]
    fn decides_on_a_normalised_path() {
        let path = |target: &str| check(get(target)).map(|clean| clean.path).expect("clean");
        assert_eq!(path("/a/./b/../c"), "/a/c");
        assert_eq!(path("/../../x"), "/x");
        assert_eq!(path("//a//b/"), "/a/b/");
        assert_eq!(path("/%61dmin/%2e%2E/x"), "/x");
        assert_eq!(path("/a%2fb"), "/a%2Fb", "an encoded slash is not a slash");
        assert_eq!(path("/"), "/");
        assert_eq!(path("/.well-known/acme-challenge/x"), "/.well-known/acme-challenge/x");
        assert_eq!(path("/a/.well-known/termgate/fence"), "/a/.well-known/termgate/fence");
        assert_eq!(status(check(get("/a%00"))), 400);
        assert_eq!(status(check(get("/a%zz"))), 400);
        assert_eq!(status(check(get("/a%+1"))), 400);
    }
}
