//! Who may call.
//!
//! A listener without a token is only reachable from this machine, and yet a web page in a browser
//! on this machine can reach it. Two old tricks are closed: a page's host name that suddenly
//! resolves to 127.0.0.1 (the `Host` field must then be an address or `localhost`), and a form that
//! posts to another site (the `Origin` field must then name this very host).

use std::net::IpAddr;

use bytes::Bytes;
use http::header::{HOST, ORIGIN};
use http::uri::Authority;
use http::{Request, Version};

use crate::api::auth::Token;
use crate::api::fields::{bad_request, single};
use crate::api::router::Call;
use crate::problem::{Kind, Problem};

/// Lets the request pass, or says why not.
pub(super) fn admit(call: Call, request: &Request<Bytes>, token: Option<&Token>) -> Result<(), Problem> {
    let host = host(request)?;
    match token {
        Some(token) if call.needs_token() && !token.admits(request.headers()) => {
            return Err(Problem::new(
                Kind::Unauthorized,
                "send Authorization: Bearer with the token of [api.auth]",
            ));
        }
        Some(_) => return Ok(()),
        None => {}
    }
    if host.as_ref().is_some_and(|host| !is_local_name(host)) {
        let mend = "use the address, or set [api.auth]";
        return Err(Problem::new(
            Kind::Forbidden,
            format!("without a token no host name is trusted; {mend}"),
        ));
    }
    if call.changes_something() && is_foreign(request, host.as_ref())? {
        let mend = "call it from a program, or set [api.auth]";
        return Err(Problem::new(Kind::Forbidden, format!("another web site sent this; {mend}")));
    }
    Ok(())
}

/// The host that the client meant. HTTP/1.0 may leave it out (RFC 9112, section 3.2).
fn host(request: &Request<Bytes>) -> Result<Option<Authority>, Problem> {
    if let Some(authority) = request.uri().authority() {
        return Ok(Some(authority.clone()));
    }
    match single(request.headers(), &HOST)? {
        Some(text) => text.parse().map(Some).map_err(|_| bad_request("the Host field is malformed")),
        None if request.version() == Version::HTTP_11 => Err(bad_request("the Host field is missing")),
        None => Ok(None),
    }
}

fn is_local_name(host: &Authority) -> bool {
    let name = host.host();
    let address = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok()
}

/// Whether a browser says that another site's page sent this.
fn is_foreign(request: &Request<Bytes>, host: Option<&Authority>) -> Result<bool, Problem> {
    let Some(origin) = single(request.headers(), &ORIGIN)? else { return Ok(false) };
    let from = origin.split_once("://").and_then(|(_, rest)| rest.parse::<Authority>().ok());
    Ok(from.is_none() || from.as_ref() != host)
}
