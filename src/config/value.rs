//! The kinds of values a configuration has, each with what to say when one is wrong.

use std::net::SocketAddr;

use http::Uri;
use http::uri::Authority;
use toml::Value;

use crate::api::addresses::{NAME_BYTES, is_name, port_of};
use crate::config::section::{Given, whole};
use crate::fencing::mode::{Consistency, FenceMode};
use crate::time::Duration;
use crate::transport::identity::is_valid_name;

/// The longest wait that can be configured: beyond an hour it is a mistake in the unit.
const LONGEST_MS: u64 = 3_600_000;

pub(super) fn millis(given: Given) -> Result<Duration, String> {
    bounded_millis(given.number()?)
}

fn bounded_millis(ms: u64) -> Result<Duration, String> {
    if ms > LONGEST_MS {
        return Err(format!("must be at most {LONGEST_MS}, in milliseconds"));
    }
    Ok(Duration::from_millis(ms))
}

/// Two times, as `[150, 300]`.
pub(super) fn millis_pair(given: Given) -> Result<(Duration, Duration), String> {
    let wrong = || "must be two numbers, the shortest and the longest, such as [150, 300]".to_owned();
    let Value::Array(list) = given.value else { return Err(wrong()) };
    let [low, high] = list.as_slice() else { return Err(wrong()) };
    Ok((bounded_millis(whole(low)?)?, bounded_millis(whole(high)?)?))
}

/// Parts per million.
pub(super) fn ppm(given: Given) -> Result<u32, String> {
    u32::try_from(given.number()?).map_err(|_| "must be at most 500000".into())
}

/// An address to listen on: an IP address and a port.
pub(super) fn listener(given: Given) -> Result<SocketAddr, String> {
    let text = given.text()?;
    text.parse().map_err(|_| format!("{text:?} is no IP address with a port, such as \"0.0.0.0:7100\""))
}

/// An address to connect to: a host name or an IP address, and a port.
pub(super) fn endpoint(given: Given) -> Result<String, String> {
    let text = given.text()?;
    match port_of(&text) {
        Some(_) => Ok(text),
        None => Err(format!("{text:?} is no host with a port, such as \"10.0.0.1:7100\"")),
    }
}

/// Defaults for the distances between the members.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Profile {
    /// One region.
    Lan,
    /// Several.
    Wan,
}

pub(super) fn profile(given: Given) -> Result<Profile, String> {
    match given.text()?.as_str() {
        "lan" => Ok(Profile::Lan),
        "wan" => Ok(Profile::Wan),
        other => Err(format!("{other:?} must be \"lan\" (one region) or \"wan\" (several)")),
    }
}

/// A name that fits into a certificate, a metric label and a structured field as a token.
pub(super) fn name(given: Given) -> Result<String, String> {
    let text = given.text()?;
    if is_name(&text) {
        return Ok(text);
    }
    Err(format!("{text:?} must start with a letter, then letters, digits, - _ . (at most {NAME_BYTES})"))
}

/// A cluster's name: a part of every certificate identity, so the certificates' rules hold.
pub(super) fn cluster(given: Given) -> Result<String, String> {
    let text = given.text()?;
    if is_valid_name(&text) {
        return Ok(text);
    }
    Err(format!("{text:?} must be of a-z, 0-9, - _ . as in `termgate certs init --cluster`"))
}

/// `http://host:port` or `https://host:port`, and nothing after it.
pub(super) fn backend(given: Given) -> Result<Uri, String> {
    let text = given.text()?;
    let wrong = |why: &str| format!("{text:?} {why}, write it as \"http://host:port\"");
    let uri: Uri = text.parse().map_err(|_| wrong("is no URI"))?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return Err(wrong("needs http or https in front"));
    }
    match uri.authority() {
        Some(a) if a.as_str().contains('@') => return Err(wrong("must not carry a user name")),
        Some(a) if a.host().is_empty() => return Err(wrong("has no host")),
        Some(a) if a.port().is_some() && a.port_u16().is_none_or(|port| port == 0) => {
            return Err(wrong("has no usable port"));
        }
        Some(_) => {}
        None => return Err(wrong("has no host")),
    }
    if !matches!(uri.path_and_query().map(|p| p.as_str()), None | Some("" | "/")) || text.contains('#') {
        return Err(wrong("must not have a path: requests keep theirs"));
    }
    Ok(uri)
}

pub(super) fn path_prefix(given: Given) -> Result<String, String> {
    let text = given.text()?;
    let printable = text.chars().all(|c| c.is_ascii_graphic() && !"?#".contains(c));
    if text.starts_with('/') && printable {
        return Ok(text);
    }
    Err(format!("{text:?} must start with / and be a path without query"))
}

/// A host to match: kept in lower case, without a port.
pub(super) fn host(given: Given) -> Result<String, String> {
    let text = given.text()?.to_ascii_lowercase();
    match text.parse::<Authority>() {
        Ok(a) if a.host() == text && !text.is_empty() => Ok(text),
        _ => Err(format!("{text:?} is no host name; leave out the port and the scheme")),
    }
}

pub(super) fn fence(given: Given) -> Result<FenceMode, String> {
    let text = given.text()?;
    let all = [FenceMode::Enforced, FenceMode::Implicit, FenceMode::Drain];
    let found = all.into_iter().find(|mode| mode.name() == text);
    found.ok_or_else(|| format!("{text:?} must be enforced, implicit or drain"))
}

/// What a verifier can be: it never drains.
pub(super) fn verifier_mode(given: Given) -> Result<FenceMode, String> {
    match fence(given) {
        Ok(mode) if mode != FenceMode::Drain => Ok(mode),
        _ => Err("must be enforced or implicit".into()),
    }
}

pub(super) fn consistency(given: Given) -> Result<Consistency, String> {
    let text = given.text()?;
    Consistency::parse(&text).ok_or_else(|| format!("{text:?} must be linearizable, lease or stale"))
}
