//! How an exchange can fail, and what that says about the request.

use thiserror::Error;

/// Why an exchange failed. The proxy decides from it whether the request may be sent again, so
/// each variant claims only what is certain (H-8).
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum HopError {
    /// Not one byte of the head was handed to a connection: the peer cannot know of the request.
    #[error("the request was not sent: {0}")]
    NotSent(String),
    /// The peer gave the request back (`NOT_STARTED`): nothing of it reached a backend.
    #[error("the peer did not start the request")]
    NotStarted,
    /// The head left, and the connection or the stream broke: the request may have been carried
    /// out.
    #[error("the exchange was lost: {0}")]
    Lost(String),
    /// The peer takes no more of this body. Its answer, if any, comes on the other direction (H-10).
    #[error("the peer takes no more of the body")]
    Stopped,
    /// The peer ended the body without its end mark, or reset the stream: what arrived is only a
    /// part and must never be passed on as a whole.
    #[error("the body was cut off: {0}")]
    Truncated(String),
    /// The peer's bytes break the protocol.
    #[error("the peer broke the hop protocol: {0}; run the same version on all nodes")]
    Malformed(String),
}

impl HopError {
    /// Whether it is certain that the request reached no backend.
    pub const fn nothing_applied(&self) -> bool {
        matches!(self, Self::NotSent(_) | Self::NotStarted)
    }
}
