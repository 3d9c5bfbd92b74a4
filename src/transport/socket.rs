//! UDP sockets and the limits of QUIC: everything that quinn leaves open is set here, with its
//! reason.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use quinn::{
    ClientConfig, ConnectionId, ConnectionIdGenerator, Endpoint, EndpointConfig, IdleTimeout, ServerConfig,
    TokioRuntime, TransportConfig, VarInt,
};
use ring::hmac;
use socket2::{Domain, Protocol, Socket, Type};
use thiserror::Error;
use tokio::time::timeout;

use crate::transport::credentials::{Credentials, TlsError};
use crate::transport::tls;

/// The only version of QUIC that is spoken (RFC 9000, W-1); quinn's default adds the drafts.
const QUIC_VERSION: u32 = 1;
/// Kernel buffer per socket and direction: a burst of appends or uploads must survive the time
/// until the thread reads; Linux gives about 208 KiB otherwise.
const SOCKET_BUFFER_BYTES: usize = 4 * 1024 * 1024;
/// Handshakes that wait to be accepted; members are few, and each waits for microseconds.
const MAX_INCOMING: usize = 64;
/// What one such handshake may send ahead, and all of them together.
const INCOMING_BYTES: u64 = 64 * 1024;
const INCOMING_BYTES_TOTAL: u64 = 1024 * 1024;
/// First guess of the round trip. Too low costs a few repeated packets on a long link; quinn's
/// 333 ms would cost a whole election when the first packet of a handshake is lost.
const INITIAL_RTT: Duration = Duration::from_millis(10);

/// What one protocol needs of QUIC.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Profile {
    /// The protocol's name in the handshake.
    pub(crate) alpn: &'static [u8],
    /// The same for logs, and the label under which the stateless reset key is derived.
    pub(crate) name: &'static str,
    /// Streams a peer may have open at once.
    pub(crate) bidi_streams: u32,
    pub(crate) uni_streams: u32,
    /// Bytes a peer may have sent on one stream, and on all, that were not read yet.
    pub(crate) stream_window: u32,
    pub(crate) receive_window: u32,
    /// Bytes sent and not yet acknowledged.
    pub(crate) send_window: u64,
    /// After this long without a packet the connection is dead.
    pub(crate) idle_timeout: Duration,
    pub(crate) keep_alive: Duration,
    /// Whether streams of one priority share the link packet by packet.
    pub(crate) fair: bool,
}

/// How long a close waits for the peers to hear of it.
const CLOSE_LIMIT: Duration = Duration::from_millis(500);

/// Raft between nodes.
pub(crate) const RAFT: Profile = Profile {
    alpn: b"termgate-raft/1",
    name: "raft",
    bidi_streams: 0,
    // Control, append, snapshot, and one more while an old one drains.
    uni_streams: 4,
    // Several appends of 256 KiB in flight on a long link.
    stream_window: 4 * 1024 * 1024,
    receive_window: 12 * 1024 * 1024,
    send_window: 12 * 1024 * 1024,
    // Far above an election timeout: Raft notices a dead leader by itself, and a pause of this
    // length must not also cost new handshakes.
    idle_timeout: Duration::from_secs(2),
    keep_alive: Duration::from_millis(400),
    fair: true,
};

/// Forwarded requests.
pub(crate) const HOP: Profile = Profile {
    alpn: b"termgate-hop/1",
    name: "hop",
    // Above what a lane admits at once, or opening a stream would wait in silence.
    bidi_streams: 4096,
    uni_streams: 0,
    // A slow reader holds back this much of one body, and this much of all.
    stream_window: 256 * 1024,
    receive_window: 48 * 1024 * 1024,
    send_window: 32 * 1024 * 1024,
    // A dead leader is noticed by its silence; leadership moves much sooner than this.
    idle_timeout: Duration::from_millis(2500),
    keep_alive: Duration::from_millis(500),
    fair: false,
};

/// Why an endpoint could not be made.
#[derive(Debug, Error)]
pub enum TransportError {
    /// The address cannot be used.
    #[error("cannot listen on {address} (UDP) for {protocol}: {source}; is another process using it?")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// `raft` or `hop`.
        protocol: &'static str,
        /// The cause.
        source: io::Error,
    },
    /// The certificates cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The certificate names somebody else than the configuration.
    #[error(
        "the certificate names {found} and the configuration {expected}; compare [tls] with [node] and [cluster]"
    )]
    Identity {
        /// By the configuration.
        expected: String,
        /// By the certificate.
        found: String,
    },
}

/// An endpoint that accepts and dials, on `address`. With `shared`, several threads of the process
/// listen on one address (`SO_REUSEPORT`).
pub(crate) fn listen(
    profile: &Profile,
    credentials: &Credentials,
    address: SocketAddr,
    shared: bool,
) -> Result<Endpoint, TransportError> {
    let bind_error = |source| TransportError::Bind { address, protocol: profile.name, source };
    let socket = bind(address, shared).map_err(bind_error)?;
    let server = server_config(profile, credentials)?;
    Endpoint::new(endpoint_config(profile, credentials), Some(server), socket, Arc::new(TokioRuntime))
        .map_err(bind_error)
}

/// An endpoint that only dials, on a port of its own; both address families where there are two.
pub(crate) fn dial_only(profile: &Profile, credentials: &Credentials) -> Result<Endpoint, TransportError> {
    let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0));
    let socket = bind(any, false).or_else(|_| bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)), false));
    socket
        .and_then(|socket| {
            Endpoint::new(endpoint_config(profile, credentials), None, socket, Arc::new(TokioRuntime))
        })
        .map_err(|source| TransportError::Bind { address: any, protocol: profile.name, source })
}

/// Waits, for a moment, until the peers of a closed endpoint have heard of it.
pub(crate) async fn wait_closed(endpoint: &Endpoint) {
    let _ = timeout(CLOSE_LIMIT, endpoint.wait_idle()).await;
}

/// What a dialling side uses for every connection of `profile`.
pub(crate) fn client_config(
    profile: &Profile,
    credentials: &Credentials,
) -> Result<ClientConfig, TransportError> {
    let mut config = ClientConfig::new(tls::quic_client(credentials, profile.alpn)?);
    config.transport_config(Arc::new(transport_config(profile)));
    Ok(config)
}

fn server_config(profile: &Profile, credentials: &Credentials) -> Result<ServerConfig, TransportError> {
    let mut config = ServerConfig::with_crypto(tls::quic_server(credentials, profile.alpn)?);
    config
        .transport_config(Arc::new(transport_config(profile)))
        .migration(false)
        .max_incoming(MAX_INCOMING)
        .incoming_buffer_size(INCOMING_BYTES)
        .incoming_buffer_size_total(INCOMING_BYTES_TOTAL);
    Ok(config)
}

fn transport_config(profile: &Profile) -> TransportConfig {
    let idle = u32::try_from(profile.idle_timeout.as_millis()).unwrap_or(u32::MAX);
    let mut config = TransportConfig::default();
    config
        .max_concurrent_bidi_streams(VarInt::from_u32(profile.bidi_streams))
        .max_concurrent_uni_streams(VarInt::from_u32(profile.uni_streams))
        .stream_receive_window(VarInt::from_u32(profile.stream_window))
        .receive_window(VarInt::from_u32(profile.receive_window))
        .send_window(profile.send_window)
        .send_fairness(profile.fair)
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(idle))))
        .keep_alive_interval(Some(profile.keep_alive))
        .initial_rtt(INITIAL_RTT)
        .datagram_receive_buffer_size(None);
    config
}

/// The reset key comes from the private key: a restarted process can then tell its peers at once
/// that the connections of its former life are gone, instead of leaving them to the idle timeout.
fn endpoint_config(profile: &Profile, credentials: &Credentials) -> EndpointConfig {
    let derived = hmac::sign(&credentials.loaded().reset_key, profile.name.as_bytes());
    let mut config = EndpointConfig::new(Arc::new(hmac::Key::new(hmac::HMAC_SHA256, derived.as_ref())));
    // quinn's default ids carry a random key of the process, and what lacks it is dropped unseen.
    config.cid_generator(|| Box::new(RandomIds)).supported_versions(vec![QUIC_VERSION]);
    config
}

/// Connection ids that carry no key. quinn checks that they are unique in the endpoint.
struct RandomIds;

impl ConnectionIdGenerator for RandomIds {
    fn generate_cid(&mut self) -> ConnectionId {
        ConnectionId::new(&rand::random::<[u8; 8]>())
    }

    fn cid_len(&self) -> usize {
        8
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

fn bind(address: SocketAddr, shared: bool) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if shared {
        socket.set_reuse_port(true)?;
    }
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_nonblocking(true)?;
    size_buffers(&socket);
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// Asks for large buffers; less than that works, and is said once per socket.
fn size_buffers(socket: &Socket) {
    let _ = socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES);
    let _ = socket.set_send_buffer_size(SOCKET_BUFFER_BYTES);
    let (receive, send) = (socket.recv_buffer_size().unwrap_or(0), socket.send_buffer_size().unwrap_or(0));
    if receive.min(send) < SOCKET_BUFFER_BYTES {
        tracing::info!(
            receive,
            send,
            wanted = SOCKET_BUFFER_BYTES,
            "the kernel gave smaller UDP buffers; raise net.core.rmem_max and net.core.wmem_max"
        );
    }
}
