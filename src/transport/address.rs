//! Where a node is reached: `host:port`, from a configuration, the membership, or a peer.

use http::uri::Authority;

use crate::registry::limits::ADDRESS_BYTES;

/// The port of `host:port`, when it is one with a host and a port above 0.
pub fn port_of(endpoint: &str) -> Option<u16> {
    let authority: Authority = endpoint.parse().ok()?;
    let plain = !authority.host().is_empty() && !endpoint.contains('@');
    authority.port_u16().filter(|port| plain && *port > 0)
}

/// Whether `text` is an address that a peer may name as its own.
pub(crate) fn is_address(text: &str) -> bool {
    text.len() <= ADDRESS_BYTES && port_of(text).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_host_and_a_port_and_not_long() {
        let long = format!("{}:7101", "x".repeat(ADDRESS_BYTES - 5));
        assert!(is_address(&long));
        for good in ["10.0.0.1:7101", "[2001:db8::1]:7101", "a.example.com:1"] {
            assert!(is_address(good), "{good}");
        }
        let too_long = format!("x{long}");
        for bad in
            ["", ":", "a", "a:", ":7101", "a:0", "a:65536", "u@a:1", "a b:1", "a:1/x", "a\n:1", &too_long]
        {
            assert!(!is_address(bad), "{bad:?}");
        }
    }
}
