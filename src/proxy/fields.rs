//! Which fields pass through the proxy, in both directions.
//!
//! The order is the security: fields nominated by `Connection` go first, then every client copy of
//! our namespace, and the stamp comes last, on the leader, after every other edit. In another order
//! a client can have our stamp stripped by nominating it (Traefik CVE-2021-32813, CVE-2024-45410).
//!
//! Trailers are dropped in both directions (RFC 9110, section 6.5.1 allows it), so nothing can hide
//! in them.

use http::StatusCode;
use http::header::{self, Entry, HeaderMap, HeaderName, HeaderValue};

use crate::fencing::mode::Consistency;
use crate::ids::{NodeId, Term};
use crate::problem::{self, Kind, Outcome, Problem};

/// The fencing token, in both directions.
pub const TERM: HeaderName = HeaderName::from_static("termgate-term");
/// The node that stamped a request.
pub const NODE: HeaderName = HeaderName::from_static("termgate-node");
/// The resource a request is for.
pub const RESOURCE: HeaderName = HeaderName::from_static("termgate-resource");
/// Names one request over all its re-sends.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("termgate-request-id");
/// The consistency a client asks for.
pub const CONSISTENCY: HeaderName = HeaderName::from_static("termgate-consistency");
/// The node that served a request.
pub const SERVED_BY: HeaderName = HeaderName::from_static("termgate-served-by");
/// A backend's only way to say that a term was stale.
pub const FENCE: HeaderName = HeaderName::from_static("termgate-fence");

/// Structured field integers have at most 15 digits (RFC 9651, section 3.3.1).
const DIGITS: usize = 15;

/// Fields that concern one connection (RFC 9110, section 7.6.1), and those that a gateway consumes.
const HOP_BY_HOP: [HeaderName; 9] = [
    header::CONNECTION,
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("keep-alive"),
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::PROXY_AUTHORIZATION,
    HeaderName::from_static("http2-settings"),
];

/// Fields that `Connection` must never nominate: stripping them changes what the request means.
const NEVER_NOMINATED: [HeaderName; 3] = [header::CONTENT_LENGTH, header::HOST, header::AUTHORIZATION];

/// What a client said to us in its fields.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct ClientFields {
    /// The term it believes in.
    pub term: Option<Term>,
    /// The consistency it asks for.
    pub consistency: Option<Consistency>,
}

/// Whether a name is ours, in any spelling that a backend might fold into it: some replace `_`
/// by `-`, some the other way round. The `http` crate has lower-cased it already.
pub fn is_ours(name: &str) -> bool {
    let prefix = b"termgate-";
    let folded = |b: u8| if b == b'_' { b'-' } else { b.to_ascii_lowercase() };
    name.len() >= prefix.len() && name.bytes().zip(prefix).all(|(b, p)| folded(b) == *p)
}

/// Cleans a request's fields in place and returns what the client said to us.
pub fn clean_request(fields: &mut HeaderMap) -> Result<ClientFields, Problem> {
    strip_hop_by_hop(fields)?;
    let said = ClientFields { term: integer(fields, &TERM)?.map(Term), consistency: consistency(fields)? };
    drop_ours(fields);
    Ok(said)
}

/// Cleans the head of a backend's answer in place. What a broken backend nominates is stripped
/// without a word: its answer may be the only one the client will get. The error says why two readers
/// could disagree about where the answer ends, or what it is.
pub fn clean_answer(status: StatusCode, fields: &mut HeaderMap) -> Result<(), &'static str> {
    if status == StatusCode::SWITCHING_PROTOCOLS {
        return Err("it switched protocols without being asked");
    }
    let mut codings = fields.get_all(header::TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => {}
        (Some(coding), None) if coding.as_bytes().eq_ignore_ascii_case(b"chunked") => {
            // The chunks say where it ends (RFC 9112, section 6.3); the length would cut it short.
            fields.remove(header::CONTENT_LENGTH);
        }
        _ => return Err("its transfer coding is not one chunked"),
    }
    for name in nominated(fields) {
        if !NEVER_NOMINATED.contains(&name) {
            fields.remove(name);
        }
    }
    HOP_BY_HOP.iter().for_each(|name| drop(fields.remove(name)));
    drop_ours(fields);
    Ok(())
}

/// Stamps a request. Always the last edit; `term` is missing only for stale reads, which may be
/// served by a node that holds no token.
pub fn stamp(fields: &mut HeaderMap, term: Option<Term>, node: NodeId, resource: &HeaderValue, id: &str) {
    drop_ours(fields);
    if let Some(term) = term {
        fields.insert(TERM, HeaderValue::from(term.0));
    }
    fields.insert(NODE, HeaderValue::from(node.0));
    fields.insert(RESOURCE, resource.clone());
    if let Ok(id) = HeaderValue::from_str(id) {
        fields.insert(REQUEST_ID, id);
    }
}

/// Reads `Termgate-Fence: rejected; current=43`. `None` when the backend did not refuse; the
/// current term is missing when the backend does not say it.
pub fn fence_rejection(fields: &HeaderMap) -> Option<Option<Term>> {
    let value = fields.get(&FENCE)?.to_str().ok()?;
    let mut parts = value.split(';').map(str::trim);
    if parts.next() != Some("rejected") {
        return None;
    }
    let current = parts.find_map(|part| part.strip_prefix("current=")).and_then(parse_integer);
    Some(current.map(Term))
}

/// The outcome in a problem that a verifier tells of itself. Any other answer that claims one is the
/// backend's own, which can't speak for us.
pub fn verifiers_outcome(fields: &HeaderMap) -> Option<Outcome> {
    let is_problem = fields.get(header::CONTENT_TYPE) == Some(&problem::MEDIA_TYPE);
    Outcome::of(fields).filter(|outcome| is_problem && *outcome != Outcome::Applied)
}

/// The term that this node put into an answer.
pub fn served_under(fields: &HeaderMap) -> Option<Term> {
    fields.get(&TERM)?.to_str().ok().and_then(parse_integer).map(Term)
}

/// Adds this node to `Via`; refuses a request that came through a node of this cluster before.
pub fn add_via(fields: &mut HeaderMap, cluster: &str, node: NodeId) -> Result<(), Problem> {
    let prefix = format!("termgate-{cluster}-");
    let ours = |by: &str| {
        by.strip_prefix(&prefix).is_some_and(|id| !id.is_empty() && id.bytes().all(|b| b.is_ascii_digit()))
    };
    let seen = fields
        .get_all(header::VIA)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .filter_map(|hop| hop.split_ascii_whitespace().nth(1))
        .any(ours);
    if seen {
        let detail = "the request came through this cluster before; a route's backend must not be a proxy of \
                      the same cluster";
        return Err(Problem::new(Kind::LoopDetected, detail));
    }
    if let Ok(value) = HeaderValue::try_from(format!("1.1 {prefix}{node}")) {
        fields.append(header::VIA, value);
    }
    Ok(())
}

fn strip_hop_by_hop(fields: &mut HeaderMap) -> Result<(), Problem> {
    for name in nominated(fields) {
        if NEVER_NOMINATED.contains(&name) || is_ours(name.as_str()) {
            return Err(Problem::new(Kind::BadRequest, format!("connection must not nominate {name}")));
        }
        fields.remove(name);
    }
    HOP_BY_HOP.iter().for_each(|name| drop(fields.remove(name)));
    Ok(())
}

fn nominated(fields: &HeaderMap) -> Vec<HeaderName> {
    fields
        .get_all(header::CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|b| *b == b','))
        .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
        .collect()
}

fn drop_ours(fields: &mut HeaderMap) {
    let ours: Vec<HeaderName> = fields.keys().filter(|name| is_ours(name.as_str())).cloned().collect();
    for name in ours {
        if let Entry::Occupied(entry) = fields.entry(name) {
            entry.remove_entry_mult();
        }
    }
}

fn single<'a>(fields: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, Problem> {
    let mut values = fields.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Problem::new(Kind::BadRequest, format!("{name} comes more than once; send it once")));
    }
    let text =
        value.to_str().map_err(|_| Problem::new(Kind::BadRequest, format!("{name} is not ascii text")))?;
    Ok(Some(text.trim_matches(' ')))
}

fn integer(fields: &HeaderMap, name: &HeaderName) -> Result<Option<u64>, Problem> {
    let Some(text) = single(fields, name)? else { return Ok(None) };
    let number = parse_integer(text).ok_or_else(|| {
        Problem::new(Kind::BadRequest, format!("{name} is not an integer of at most {DIGITS} digits"))
    })?;
    Ok(Some(number))
}

fn parse_integer(text: &str) -> Option<u64> {
    let text = text.trim_matches(' ');
    let plain = (1..=DIGITS).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    plain.then(|| text.parse().ok()).flatten()
}

fn consistency(fields: &HeaderMap) -> Result<Option<Consistency>, Problem> {
    let Some(word) = single(fields, &CONSISTENCY)? else { return Ok(None) };
    let known = Consistency::parse(word).ok_or_else(|| {
        Problem::new(Kind::BadRequest, "termgate-consistency is not one of linearizable, lease, stale")
    })?;
    Ok(Some(known))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        lines
            .iter()
            .map(|(n, v)| (n.parse::<HeaderName>().expect("name"), HeaderValue::from_static(v)))
            .collect()
    }

    fn names(fields: &HeaderMap) -> Vec<&str> {
        let mut names: Vec<&str> = fields.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn drops_every_spelling_of_our_namespace() {
        let mut map = fields(&[
            ("TERMGATE-NODE", "9"),
            ("Termgate_Term", "9"),
            ("termgate_request-id", "x"),
            ("termgate-anything", "x"),
            ("x-termgate-term", "kept: not ours"),
            ("accept", "kept"),
        ]);
        let said = clean_request(&mut map).expect("clean");
        assert_eq!(said, ClientFields::default());
        assert_eq!(names(&map), ["accept", "x-termgate-term"]);
    }

    #[test]
    fn strips_what_connection_nominates_and_the_fixed_list() {
        let mut map = fields(&[
            ("connection", "close, X-Private"),
            ("x-private", "1"),
            ("keep-alive", "1"),
            ("proxy-connection", "x"),
            ("te", "trailers"),
            ("trailer", "termgate-term"),
            ("upgrade", "websocket"),
            ("x-public", "1"),
        ]);
        clean_request(&mut map).expect("clean");
        assert_eq!(names(&map), ["x-public"]);
    }

    #[test]
    fn refuses_to_let_connection_nominate_meaning() {
        for name in ["content-length", "Host", "authorization", "Termgate-Term", "termgate_node"] {
            let mut map = HeaderMap::new();
            map.insert(header::CONNECTION, HeaderValue::from_str(name).expect("value"));
            let problem = clean_request(&mut map).expect_err(name);
            assert_eq!(problem.status, 400, "{name}");
        }
    }

    #[test]
    fn reads_what_the_client_says_to_us() {
        let mut map = fields(&[("termgate-term", "42"), ("termgate-consistency", "stale")]);
        let said = clean_request(&mut map).expect("clean");
        assert_eq!(said.term, Some(Term(42)));
        assert_eq!(said.consistency, Some(Consistency::Stale));
        assert!(map.is_empty());
    }

    #[test]
    fn refuses_a_malformed_or_repeated_term() {
        for bad in ["", "-1", "+1", "1.0", "1234567890123456", "0x10", "1, 2", "4 2"] {
            let mut map = HeaderMap::new();
            map.insert(TERM, HeaderValue::from_str(bad).expect("value"));
            assert!(clean_request(&mut map).is_err(), "{bad:?}");
        }
        let mut twice = fields(&[("termgate-term", "42"), ("termgate-term", "42")]);
        assert!(clean_request(&mut twice).is_err());
        let mut word = fields(&[("termgate-consistency", "fast")]);
        assert!(clean_request(&mut word).is_err());
    }

    #[test]
    fn the_stamp_is_the_only_copy() {
        let mut map = fields(&[("termgate-term", "999"), ("termgate_term", "999"), ("accept", "x")]);
        stamp(&mut map, Some(Term(7)), NodeId(2), &HeaderValue::from_static("orders"), "2-a-1");
        assert_eq!(map.get_all(TERM).iter().collect::<Vec<_>>(), ["7"]);
        assert_eq!(map[NODE], "2");
        assert_eq!(map[RESOURCE], "orders");
        assert_eq!(map[REQUEST_ID], "2-a-1");
        assert_eq!(map.len(), 5);
    }

    #[test]
    fn a_backend_cannot_speak_for_us() {
        let mut map = fields(&[
            ("termgate-outcome", "applied"),
            ("Termgate_Served_By", "9"),
            ("connection", "content-length, x-hop"),
            ("x-hop", "1"),
            ("content-length", "3"),
        ]);
        assert_eq!(clean_answer(StatusCode::OK, &mut map), Ok(()));
        assert_eq!(names(&map), ["content-length"]);
    }

    #[test]
    fn chunks_overrule_the_length_of_an_answer() {
        let mut map = fields(&[("content-length", "3"), ("transfer-encoding", "Chunked")]);
        assert_eq!(clean_answer(StatusCode::OK, &mut map), Ok(()));
        assert!(map.is_empty());
    }

    #[test]
    fn an_answer_that_two_readers_would_understand_differently_is_refused() {
        for codings in [&["gzip, chunked"][..], &["identity"], &["chunked", "chunked"], &["chunked, chunked"]]
        {
            let lines: Vec<_> = codings.iter().map(|coding| ("transfer-encoding", *coding)).collect();
            assert!(clean_answer(StatusCode::OK, &mut fields(&lines)).is_err(), "{codings:?}");
        }
        assert!(clean_answer(StatusCode::SWITCHING_PROTOCOLS, &mut HeaderMap::new()).is_err());
    }

    #[test]
    fn reads_a_fence_rejection() {
        let read = |v: &'static str| fence_rejection(&fields(&[("termgate-fence", v)]));
        assert_eq!(read("rejected; current=43"), Some(Some(Term(43))));
        assert_eq!(read("rejected;current=43"), Some(Some(Term(43))));
        assert_eq!(read("rejected"), Some(None));
        assert_eq!(read("rejected; current=many"), Some(None));
        assert_eq!(read("accepted; current=43"), None);
        assert_eq!(fence_rejection(&HeaderMap::new()), None);
    }

    #[test]
    fn notices_a_loop_through_any_node_of_the_cluster() {
        let mut map = fields(&[("via", "1.0 fred, 1.1 termgate-orders-eu-1")]);
        add_via(&mut map, "orders", NodeId(1)).expect("another cluster");
        assert_eq!(map.get_all("via").iter().next_back().expect("ours"), "1.1 termgate-orders-1");
        let problem = add_via(&mut map, "orders", NodeId(2)).expect_err("a loop");
        assert_eq!(problem.kind, Kind::LoopDetected);
    }
}
