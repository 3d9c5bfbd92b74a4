//! The fields that carry tokens, conditions and conditions of reads: what each of their readers makes of any
//! lines, against a reading by the letter of RFC 9651.

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::Full;
use tempfile::TempDir;
use termgate::api::auth::Token;
use termgate::api::{fields as api, router};
use termgate::fencing::verifier::VerifierMode;
use termgate::guard::fence::SharedFence;
use termgate::guard::fields as guard;
use termgate::guard::layer::{FenceLayer, Trust};
use termgate::guard::store::FenceStore;
use termgate::guard::write::FencedBody;
use termgate::ids::{NodeId, Term};
use termgate::metrics::Metrics;
use termgate::proxy::fields as proxy;
use termgate::registry::command::Condition;
use termgate::time::Duration;
use tower::{Layer, ServiceExt, service_fn};

/// The first line is a method and a target, each other one a field. What HTTP would not carry is left out.
pub fn run(data: &[u8]) {
    let mut lines = data.split(|byte| *byte == b'\n');
    let (method, target) = request_line(lines.next().unwrap_or_default());
    let mut fields = HeaderMap::new();
    for line in lines {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let (name, value) =
            (HeaderName::from_bytes(&line[..colon]), HeaderValue::from_bytes(&line[colon + 1..]));
        if let (Ok(name), Ok(value)) = (name, value) {
            fields.append(name, value);
        }
    }
    of_a_client(&fields);
    of_a_stamp(&fields);
    of_a_backend(&fields);
    of_the_api(&fields);
    if let Some(uri) = &target {
        query(uri);
        let _ = router::route(&method, uri.path(), false);
        let internal = router::route(&method, uri.path(), true);
        assert!(internal.is_ok() || router::route(&method, uri.path(), false).is_err());
        through_a_guard(&method, uri, &fields);
    }
}

fn request_line(line: &[u8]) -> (Method, Option<Uri>) {
    let text = String::from_utf8_lossy(line);
    let (method, target) = text.split_once(' ').unwrap_or(("GET", &text));
    (Method::from_bytes(method.as_bytes()).unwrap_or(Method::PUT), target.parse().ok())
}

/// The values of `name`, as bytes without the spaces around them.
fn values(fields: &HeaderMap, name: &HeaderName) -> Vec<Vec<u8>> {
    let trim = |value: &HeaderValue| {
        let text = value.as_bytes();
        let from = text.iter().position(|b| *b != b' ').unwrap_or(text.len());
        let to = text.iter().rposition(|b| *b != b' ').map_or(from, |at| at + 1);
        text[from..to].to_vec()
    };
    fields.get_all(name).iter().map(trim).collect()
}

/// RFC 9651, section 3.3.1, without a sign: what is not 1 to 15 digits is no integer.
fn integer(fields: &HeaderMap, name: &HeaderName) -> Option<u64> {
    match values(fields, name).as_slice() {
        [one] if (1..=15).contains(&one.len()) && one.iter().all(u8::is_ascii_digit) => {
            Some(one.iter().fold(0, |n, digit| n * 10 + u64::from(digit - b'0')))
        }
        _ => None,
    }
}

fn ours(name: &HeaderName) -> bool {
    name.as_str().replace('_', "-").starts_with("termgate-")
}

/// What a node takes from a client.
fn of_a_client(fields: &HeaderMap) {
    let mut clean = fields.clone();
    let Ok(said) = proxy::clean_request(&mut clean) else { return };
    let nominated: Vec<HeaderName> = fields
        .get_all("connection")
        .iter()
        .flat_map(|value| value.as_bytes().split(|b| *b == b','))
        .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
        .collect();
    assert!(!nominated.iter().any(ours), "connection nominated a field of ours");
    for name in clean.keys() {
        assert!(!ours(name) && !nominated.contains(name), "{name} passed");
        let hop = ["connection", "te", "upgrade", "transfer-encoding", "trailer", "keep-alive"];
        assert!(!hop.contains(&name.as_str()), "{name} passed");
    }
    assert_eq!(said.term.is_some(), fields.contains_key(proxy::TERM), "a term was overheard");
    assert_eq!(said.term.map(|term| term.0), integer(fields, &proxy::TERM));
    let kept = |map: &HeaderMap, name: &HeaderName| map.get_all(name).iter().cloned().collect::<Vec<_>>();
    assert!(clean.keys().all(|name| kept(&clean, name) == kept(fields, name)), "a value was changed");
    let mut again = clean.clone();
    assert!(proxy::clean_request(&mut again).is_ok() && again == clean, "clean is clean");
    stamped(clean);
}

/// The stamp is the only copy of our fields, and a guard reads in it what was written.
fn stamped(mut fields: HeaderMap) {
    let resource = HeaderValue::from_static("orders");
    proxy::stamp(&mut fields, Some(Term(7)), NodeId(2), &resource, "2-a-1");
    assert_eq!(fields.iter().filter(|(name, _)| ours(name)).count(), 4);
    assert_eq!(guard::term(&fields), Ok(Some(Term(7))));
    assert_eq!(guard::node(&fields), Ok(NodeId(2)));
    assert_eq!(guard::resource(&fields), Ok("orders"));
    assert_eq!(guard::request_id(&fields), Ok(Some("2-a-1")));
}

/// What a guard takes from a node.
fn of_a_stamp(fields: &HeaderMap) {
    match guard::term(fields) {
        Ok(None) => assert!(!fields.contains_key(guard::TERM)),
        Ok(Some(term)) => assert_eq!(Some(term.0), integer(fields, &guard::TERM)),
        // Also a value that is too long to look at.
        Err(_) => assert!(integer(fields, &guard::TERM).is_none() || longest(fields, &guard::TERM) > 128),
    }
    assert_eq!(guard::node(fields).ok().map(|node| node.0), guard_integer(fields, &guard::NODE));
    for text in [guard::resource(fields).ok(), guard::request_id(fields).ok().flatten()].into_iter().flatten()
    {
        assert!(text.len() <= 128 && !text.contains(['\n', '\r']));
    }
}

fn longest(fields: &HeaderMap, name: &HeaderName) -> usize {
    fields.get_all(name).iter().map(HeaderValue::len).max().unwrap_or(0)
}

fn guard_integer(fields: &HeaderMap, name: &HeaderName) -> Option<u64> {
    integer(fields, name).filter(|_| longest(fields, name) <= 128)
}

/// What a node takes from a backend.
fn of_a_backend(fields: &HeaderMap) {
    if let Some(current) = proxy::fence_rejection(fields) {
        let said = fields.get(proxy::FENCE).expect("a rejection").as_bytes();
        assert!(said.trim_ascii().starts_with(b"rejected"));
        assert!(current.is_none_or(|term| term.0 < 1_000_000_000_000_000));
    }
    let _ = proxy::verifiers_outcome(fields);
    let _ = proxy::served_under(fields);
    let mut clean = fields.clone();
    if proxy::clean_answer(StatusCode::OK, &mut clean).is_ok() {
        assert!(!clean.keys().any(ours), "a backend spoke for us");
        assert!(!clean.contains_key("transfer-encoding"));
        let chunked = fields.contains_key("transfer-encoding");
        assert!(!(chunked && clean.contains_key("content-length")), "two readers, two ends");
    }
    let mut via = fields.clone();
    if proxy::add_via(&mut via, "orders", NodeId(1)).is_ok() {
        proxy::add_via(&mut via, "orders", NodeId(3)).expect_err("it came through this cluster");
    }
}

/// What the API takes from a client.
fn of_the_api(fields: &HeaderMap) {
    if let Ok(Some(index)) = api::min_index(fields) {
        let said = values(fields, &api::MIN_INDEX);
        let text = std::str::from_utf8(&said[0]).expect("a number").trim().trim_start_matches('+');
        assert_eq!(text.parse(), Ok(index.0));
    }
    let _ = api::consistency(fields);
    if let Some(id) = api::request_id(fields) {
        assert!((1..=64).contains(&id.len()));
    }
    let tagged = |name: &str| fields.get_all(name).iter().count();
    match api::condition(fields) {
        Ok(Condition::None) => assert_eq!((tagged("if-match"), tagged("if-none-match")), (0, 0)),
        Ok(Condition::Exists) => assert_eq!((tagged("if-match"), tagged("if-none-match")), (1, 0)),
        Ok(Condition::Absent) => assert_eq!((tagged("if-match"), tagged("if-none-match")), (0, 1)),
        Ok(Condition::VersionIs(version)) => version_stands(fields, "if-match", version.0),
        Ok(Condition::VersionIsNot(version)) => version_stands(fields, "if-none-match", version.0),
        Err(_) => {}
    }
    let token = Token::new("correct horse battery");
    if token.admits(fields) {
        let said = values(fields, &http::header::AUTHORIZATION);
        let [one] = said.as_slice() else { panic!("a token among several") };
        assert!(one.ends_with(b"correct horse battery"));
    }
}

/// A condition names the version that the one tag names, or 0, which no key has.
fn version_stands(fields: &HeaderMap, name: &str, version: u64) {
    let said: Vec<_> =
        fields.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes())).collect();
    let [one] = said.as_slice() else { panic!("{name} is read out of {said:?}") };
    assert!(version == 0 || one.contains(&format!("{version}\"")), "{one:?} is read as {version}");
}

/// Percent-decoding by the letter: what is not `%` and two hex digits, stands for itself or is refused.
fn query(uri: &Uri) {
    let text = uri.query().unwrap_or("");
    for name in ["prefix", "limit", "after", ""] {
        let first = text.split('&').find_map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (key == name).then_some(value)
        });
        match (api::query(uri, name), first) {
            (Ok(None), None) => {}
            (Ok(Some(found)), Some(value)) => {
                let encoded: String = found.bytes().map(|byte| format!("%{byte:02x}")).collect();
                assert_eq!(api::decode(&encoded).ok(), Some(found.clone()));
                assert!(found.len() <= value.len());
            }
            (Err(_), Some(value)) => assert!(value.contains('%'), "{value:?} needs no decoding"),
            (found, first) => panic!("{name}: {found:?} of {first:?}"),
        }
    }
}

/// A fence at term 7, raised once: its file is not looked at again.
fn fence() -> Arc<SharedFence> {
    static AT_SEVEN: OnceLock<(TempDir, Arc<SharedFence>)> = OnceLock::new();
    let make = || {
        let dir = tempfile::tempdir().expect("a directory");
        let store = FenceStore::open(dir.path(), "orders").expect("a new fence");
        let fence = SharedFence::new("orders", VerifierMode::Enforced, store, Duration::from_secs(1));
        let raised = runtime(|runtime| runtime.block_on(fence.raise(Term(7), Some(NodeId(2)))));
        raised.expect("the first raise");
        (dir, fence)
    };
    Arc::clone(&AT_SEVEN.get_or_init(make).1)
}

fn runtime<T>(work: impl FnOnce(&tokio::runtime::Runtime) -> T) -> T {
    thread_local!(static RUNTIME: tokio::runtime::Runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime"));
    RUNTIME.with(work)
}

/// F-5: what gets past a guard that stands at 7 carries one term, and it is 7.
fn through_a_guard(method: &Method, uri: &Uri, fields: &HeaderMap) {
    if termgate::proxy::validate::is_ours(uri.path()) {
        return;
    }
    let reached = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&reached);
    let inner = service_fn(move |_: Request<FencedBody>| {
        seen.store(true, Ordering::Relaxed);
        async { Ok::<_, Infallible>(Response::new(guard::whole("done"))) }
    });
    let service = FenceLayer::new(fence(), Trust::Anyone, Metrics::new()).layer(inner);
    let mut request = Request::new(Full::new(Bytes::new()));
    *request.method_mut() = method.clone();
    *request.uri_mut() = uri.clone();
    *request.headers_mut() = fields.clone();
    let answer = runtime(|runtime| runtime.block_on(service.oneshot(request)));
    let status = answer.expect("a guard answers").status();
    if !reached.load(Ordering::Relaxed) {
        assert!(status.is_client_error() && !method.is_safe(), "{method} is refused with {status}");
    } else if !method.is_safe() {
        assert_eq!(integer(fields, &guard::TERM), Some(7));
        assert!(integer(fields, &guard::NODE).is_some());
        assert_eq!(values(fields, &guard::RESOURCE), [b"orders".to_vec()]);
    }
}
