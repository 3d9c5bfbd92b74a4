//! Nodes talk QUIC with certificates on both sides.
//!
//! A walk-through. [`endpoint::PeerNet`] binds one UDP socket and keeps, through `link`, one
//! dialled connection to every other member; what it sends goes through the queues of `peer`,
//! heartbeats beside and never behind appends. On the accepting side `admission` lets a
//! connection in only when its certificate names a member, and `reader` accepts a message only in
//! the name of that member. Who the members are changes while this runs: [`roster`] says it. Who
//! refuses says why in the close frame (`refusal`), so both sides log it. `tls` and `credentials` are
//! also what the TCP edges use. The bytes are in `proto-spec/wire.md`; rules are cited as W-n.
//!
//! | file | idea |
//! |---|---|
//! | `identity` | whom a certificate speaks for |
//! | `credentials` | the files, replaceable while connections live |
//! | `tls` | configurations and verifiers, for QUIC and for TCP |
//! | `socket` | UDP sockets and every limit of QUIC, with its reason |
//! | `refusal` | why a connection is refused, counted and logged on both sides |
//! | `slots` | who may be in a handshake at once |
//! | `admission` | who gets in |
//! | `link` | one warm connection, dialled again when lost |
//! | `frame` | a stream's bytes as frames |
//! | `codec` | Raft messages as frames |
//! | `queue` | what waits to be sent, bounded |
//! | `inbound` | what arrived and was not heard yet, bounded |
//! | `address` | what may be dialled |
//! | `roster` | who is a member, who was removed, and whether others are heard |
//! | `peer` | one peer: what is sent to it |
//! | `routes` | all peers, and the way back to a stranger |
//! | `reader` | what is heard |
//! | `endpoint` | the mesh |
//!
//! Left out: datagrams, 0-RTT, migration, certificate revocation lists (removing a member closes its
//! connections).

pub mod address;
pub mod codec;
pub mod credentials;
pub mod endpoint;
pub mod identity;
pub mod inbound;
pub mod roster;
pub mod socket;
pub mod tls;

/// Open for the fuzz targets, which give its [`frame::Arrived`] what a peer could send.
#[doc(hidden)]
pub mod frame;

pub(crate) mod admission;
pub(crate) mod link;
pub(crate) mod peer;
pub(crate) mod queue;
pub(crate) mod reader;
pub(crate) mod refusal;
pub(crate) mod routes;
pub(crate) mod slots;
