//! Reads what clients put into targets and fields, and writes the fields of answers.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, ETAG, HeaderValue, IF_MATCH, IF_NONE_MATCH};
use http::{HeaderMap, HeaderName, Response, StatusCode};
use serde::Serialize;

use crate::fencing::mode::Consistency;
use crate::ids::{LogIndex, Term};
use crate::problem::{Kind, Problem};
use crate::registry::command::Condition;

/// In the proxy's words: the term an answer was made in, how fresh a read must be, and what names the request in
/// every answer (between nodes, also in the request).
pub use crate::proxy::fields::{CONSISTENCY, REQUEST_ID, TERM};

/// The applied or written log index.
pub const INDEX: HeaderName = HeaderName::from_static("termgate-index");
/// The index that must be applied before a read is answered.
pub const MIN_INDEX: HeaderName = HeaderName::from_static("termgate-min-index");
/// What the client calls its request, over all its repetitions.
pub const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Who stands behind the content: of a join, the token's holder; of its answer, the authority.
pub const SIGNATURE: HeaderName = HeaderName::from_static("termgate-signature");
/// Between nodes: the asked node does not lead, and the request had no effect.
pub const NOT_LEADER: HeaderName = HeaderName::from_static("termgate-not-leader");

/// Bytes of a request's id: two numbers of 20 digits and one of 8 fit.
const REQUEST_ID_BYTES: usize = 64;

/// A `Kind::BadRequest` with these words.
pub fn bad_request(detail: impl Into<String>) -> Problem {
    Problem::new(Kind::BadRequest, detail)
}

/// One parameter of the query, decoded. The first counts.
pub fn query(uri: &http::Uri, name: &str) -> Result<Option<String>, Problem> {
    let pairs = uri.query().unwrap_or("").split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let found = pairs.into_iter().find(|(key, _)| *key == name);
    found.map(|(_, value)| decode(&value.replace('+', " "))).transpose()
}

/// Undoes percent-encoding; what comes out must be UTF-8.
pub fn decode(text: &str) -> Result<String, Problem> {
    let wrong = || bad_request(format!("{text:?} is not percent-encoded UTF-8"));
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let (digits, after) = rest.split_at_checked(2).ok_or_else(wrong)?;
        bytes.push(hex(digits).ok_or_else(wrong)?);
        rest = after;
    }
    String::from_utf8(bytes).map_err(|_| wrong())
}

fn hex(digits: &[u8]) -> Option<u8> {
    let plain = digits.iter().all(u8::is_ascii_hexdigit);
    std::str::from_utf8(digits).ok().filter(|_| plain).and_then(|d| u8::from_str_radix(d, 16).ok())
}

/// The one value of a field as text; two are an error, as their meaning would be a guess.
pub fn single<'h>(fields: &'h HeaderMap, name: &HeaderName) -> Result<Option<&'h str>, Problem> {
    let mut values = fields.get_all(name).iter();
    let (Some(first), second) = (values.next(), values.next()) else { return Ok(None) };
    match (first.to_str(), second) {
        (Ok(text), None) => Ok(Some(text.trim())),
        _ => Err(bad_request(format!("send {name} once, in plain text"))),
    }
}

/// How fresh the read must be: the field, or linearizable.
pub fn consistency(fields: &HeaderMap) -> Result<Consistency, Problem> {
    match single(fields, &CONSISTENCY)? {
        None => Ok(Consistency::Linearizable),
        Some(word) => consistency_word(word),
    }
}

/// Reads the word for a consistency.
pub fn consistency_word(word: &str) -> Result<Consistency, Problem> {
    let mend = "say linearizable, lease or stale";
    Consistency::parse(word).ok_or_else(|| bad_request(format!("unknown consistency {word:?}; {mend}")))
}

/// The index that must be applied first.
pub fn min_index(fields: &HeaderMap) -> Result<Option<LogIndex>, Problem> {
    let Some(text) = single(fields, &MIN_INDEX)? else { return Ok(None) };
    let number = text.parse().map_err(|_| bad_request(format!("{MIN_INDEX} must be a number")))?;
    Ok(Some(LogIndex(number)))
}

/// The name that the node which took the request from its client gave it, when that can stand in an
/// answer.
pub fn request_id(fields: &HeaderMap) -> Option<HeaderValue> {
    let id = fields.get(&REQUEST_ID)?;
    let fits = |text: &str| (1..=REQUEST_ID_BYTES).contains(&text.len());
    id.to_str().is_ok_and(fits).then(|| id.clone())
}

/// `If-Match` or `If-None-Match`, for a write. A tag that is no version of ours never matches, as
/// version 0 does, which no key ever has. Weak tags don't match either (RFC 9110, section 13.1.1).
pub fn condition(fields: &HeaderMap) -> Result<Condition, Problem> {
    match (single(fields, &IF_MATCH)?, single(fields, &IF_NONE_MATCH)?) {
        (None, None) => Ok(Condition::None),
        (Some("*"), None) => Ok(Condition::Exists),
        (None, Some("*")) => Ok(Condition::Absent),
        (Some(tag), None) => one_tag(tag).map(Condition::VersionIs),
        (None, Some(tag)) => one_tag(tag.trim_start_matches("W/")).map(Condition::VersionIsNot),
        (Some(_), Some(_)) => Err(bad_request("send If-Match or If-None-Match, not both")),
    }
}

fn one_tag(tag: &str) -> Result<LogIndex, Problem> {
    if tag.contains(',') {
        return Err(bad_request("name one version in If-Match or If-None-Match, such as \"12\""));
    }
    Ok(LogIndex(quoted_number(tag).unwrap_or(0)))
}

/// The number in `"12"`.
pub fn quoted_number(tag: &str) -> Option<u64> {
    let digits = tag.strip_prefix('"')?.strip_suffix('"')?;
    digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok())?
}

/// `"<version>"`, the value of `ETag`.
fn etag(version: LogIndex) -> HeaderValue {
    // Digits and quotes always make a field value.
    HeaderValue::from_maybe_shared(Bytes::from(format!("\"{version}\"")))
        .unwrap_or(HeaderValue::from_static("\"0\""))
}

/// Where in the log an answer of the registry was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The index of the write, or up to which the state that was looked at was applied.
    pub index: LogIndex,
    /// The term that vouches for it.
    pub term: Term,
    /// The version that the asked key has there, when it exists.
    pub version: Option<LogIndex>,
}

impl Place {
    /// Sets `Termgate-Index`, `Termgate-Term` and `ETag`.
    pub fn mark(&self, fields: &mut HeaderMap) {
        fields.insert(INDEX, HeaderValue::from(self.index.0));
        fields.insert(TERM, HeaderValue::from(self.term.0));
        if let Some(version) = self.version {
            fields.insert(ETAG, etag(version));
        }
    }
}

/// An answer with JSON content.
pub fn json(status: StatusCode, content: &impl Serialize) -> Response<Bytes> {
    // Our answers are structs of texts and numbers, which always have a JSON form.
    let bytes = serde_json::to_vec(content).unwrap_or_default();
    typed(status, "application/json", bytes.into())
}

/// An answer with content of a media type.
pub fn typed(status: StatusCode, media_type: &'static str, content: Bytes) -> Response<Bytes> {
    let mut response = Response::new(content);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair =
            |(k, v): &(&'static str, &'static str)| (HeaderName::from_static(k), HeaderValue::from_static(v));
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn conditions_are_read_as_rfc_9110_says() {
        let read = |pairs: &[(&'static str, &'static str)]| condition(&fields(pairs)).ok();
        assert_eq!(read(&[]), Some(Condition::None));
        assert_eq!(read(&[("if-match", "*")]), Some(Condition::Exists));
        assert_eq!(read(&[("if-none-match", "*")]), Some(Condition::Absent));
        assert_eq!(read(&[("if-match", "\"12\"")]), Some(Condition::VersionIs(LogIndex(12))));
        assert_eq!(read(&[("if-none-match", "W/\"12\"")]), Some(Condition::VersionIsNot(LogIndex(12))));
        for never in ["\"abc\"", "W/\"12\"", "12", "\"+12\"", "\"\""] {
            assert_eq!(read(&[("if-match", never)]), Some(Condition::VersionIs(LogIndex(0))), "{never}");
        }
        assert_eq!(read(&[("if-match", "\"1\", \"2\"")]), None);
        assert_eq!(read(&[("if-match", "*"), ("if-none-match", "*")]), None);
    }

    #[test]
    fn percent_encoding_is_undone_once() {
        assert_eq!(decode("a%2Fb%2525/c").unwrap(), "a/b%25/c");
        for wrong in ["%", "%2", "%zz", "%+1", "%ff"] {
            assert!(decode(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_first_parameter_of_a_name_counts() {
        let uri: http::Uri = "/x?prefixes=no&prefix=a%20b+c&prefix=d&flag".parse().unwrap();
        assert_eq!(query(&uri, "prefix").unwrap().as_deref(), Some("a b c"));
        assert_eq!(query(&uri, "flag").unwrap().as_deref(), Some(""));
        assert_eq!(query(&uri, "none").unwrap(), None);
    }

    #[test]
    fn a_field_that_is_sent_twice_is_refused() {
        let mut twice = fields(&[("termgate-min-index", "1")]);
        twice.append(MIN_INDEX, HeaderValue::from(2));
        assert!(min_index(&twice).is_err());
    }
}
