//! Which resource a request is for, and how that resource is protected.

use crate::fencing::mode::{Consistency, FenceMode};
use crate::time::Duration;

/// One `[[route]]` of the configuration, already checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The resource's name.
    pub name: String,
    /// Only requests for this host, in lower case and without a port, when set.
    pub host: Option<String>,
    /// Only requests whose normalised path starts with this.
    pub path_prefix: String,
    /// The backend: `http://host:port` or `https://host:port`.
    pub backend: http::Uri,
    /// How it is protected.
    pub fence: FenceMode,
    /// How reads are served unless the request asks for another consistency.
    pub reads: Consistency,
    /// How long a request waits for a leader or an open gate.
    pub hold_timeout: Duration,
}

/// The route of a request and its place: of those whose host and prefix match, the most specific
/// one, a named host before any longer prefix.
pub fn select<'a>(routes: &'a [Route], host: &str, path: &str) -> Option<(usize, &'a Route)> {
    let matches = |route: &Route| {
        let host_matches = route.host.as_ref().is_none_or(|h| h.eq_ignore_ascii_case(host));
        host_matches && path.starts_with(route.path_prefix.as_str())
    };
    let candidates = routes.iter().enumerate().filter(|(_, route)| matches(route));
    // `max_by_key` takes the last of equals; reversed, the first in the configuration wins.
    candidates.rev().max_by_key(|(_, route)| (route.host.is_some(), route.path_prefix.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(name: &str, host: Option<&str>, prefix: &str) -> Route {
        Route {
            name: name.into(),
            host: host.map(Into::into),
            path_prefix: prefix.into(),
            backend: http::Uri::from_static("http://127.0.0.1:1"),
            fence: FenceMode::Implicit,
            reads: Consistency::Lease,
            hold_timeout: Duration::from_secs(1),
        }
    }

    #[test]
    fn the_most_specific_route_wins() {
        let routes = [
            route("all", None, "/"),
            route("api", None, "/api/"),
            route("shop", Some("shop.example"), "/"),
            route("twin", None, "/"),
        ];
        let name = |host, path| select(&routes, host, path).map(|(_, r)| r.name.as_str());
        assert_eq!(name("x", "/y"), Some("all"));
        assert_eq!(name("x", "/api/y"), Some("api"));
        assert_eq!(name("SHOP.example", "/api/y"), Some("shop"));
        assert_eq!(select(&routes[1..2], "x", "/other").map(|(i, _)| i), None);
    }
}
