//! What addresses and names of members look like, for the configuration and for the calls that change members.

pub use crate::transport::address::port_of;

/// Bytes of a name: it becomes a label of each metric and a part of each certificate.
pub const NAME_BYTES: usize = 64;

/// Whether `text` fits into a certificate, a metric label and a structured field as a token.
pub fn is_name(text: &str) -> bool {
    let starts = text.starts_with(|c: char| c.is_ascii_alphabetic());
    let fits = text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
    starts && fits && text.len() <= NAME_BYTES
}
