//! Forwarded requests: one QUIC bidirectional stream each, from the node that took a request to
//! the node that may serve it.
//!
//! A walk-through. The origin opens a stream on its warm connection to the leader and writes a
//! [`message::RequestHead`], with the first bytes of the body in the same write. The leader
//! answers `Go` (only for withheld bodies), then either `Refused`, which promises that the request
//! had no effect, or the head of the answer. Bodies run in both directions as chunks and
//! end with an explicit mark and trailers; a stream that ends without the mark is an error, so a
//! crash can never look like a short but complete body. The bytes are in `proto-spec/hop.md`.
//!
//! | file | idea |
//! |---|---|
//! | `message` | the heads |
//! | `error` | what a failure says about the request |
//! | `codec` | heads and trailers as bytes |
//! | `body` | bodies, and the codes that cut them off |
//! | `client` | the asking side: warm connections, exchanges |
//! | `server` | the asked side: requests in, answers out |
//!
//! Left out: HTTP semantics (the proxy's), retries (the proxy's), a second hop (there is none).

pub mod body;
pub mod client;
pub mod codec;
pub mod error;
pub mod message;
pub mod server;
