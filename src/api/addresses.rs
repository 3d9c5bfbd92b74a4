//! What addresses and names of members look like, for the configuration and for the calls that change members.

use http::uri::Authority;

/// Bytes of a name: it becomes a label of each metric and a part of each certificate.
pub const NAME_BYTES: usize = 64;

/// The port of `host:port`, when it is one with a host and a port above 0.
pub fn port_of(endpoint: &str) -> Option<u16> {
    let authority: Authority = endpoint.parse().ok()?;
    let plain = !authority.host().is_empty() && !endpoint.contains('@');
    authority.port_u16().filter(|port| plain && *port > 0)
}

/// Whether `text` fits into a certificate, a metric label and a structured field as a token.
pub fn is_name(text: &str) -> bool {
    let starts = text.starts_with(|c: char| c.is_ascii_alphabetic());
    let fits = text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
    starts && fits && text.len() <= NAME_BYTES
}
