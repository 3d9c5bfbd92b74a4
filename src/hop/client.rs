//! The asking side: one warm connection to each member, one stream for each request.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use quinn::{Connection, ReadError, SendStream};
use tokio::time::timeout;

use crate::hop::body::{RecvBody, Reset, SendBody};
use crate::hop::codec::{self, HEAD_MAX_BYTES};
use crate::hop::error::HopError;
use crate::hop::message::{Answer, Content, RequestHead};
use crate::ids::NodeId;
use crate::metrics::Metrics;
use crate::transport::credentials::Credentials;
use crate::transport::frame::{FrameError, Source, length_prefix};
use crate::transport::link::{Dialer, Link};
use crate::transport::refusal::{By, Refusals, verdict};
use crate::transport::socket::{self, HOP, TransportError};

/// How long a request waits for a connection that is being dialled. Links are warm; this covers
/// a reconnect, and keeps a caller that tries again from spinning.
const CONNECT_LIMIT: Duration = Duration::from_millis(250);
/// How long a request waits for a free stream, when the peer works on as many as it allows.
const STREAM_LIMIT: Duration = Duration::from_secs(1);
/// How long a head may wait until the connection takes its first byte: there is no room only when
/// the peer reads nothing of much else.
const HEAD_LIMIT: Duration = Duration::from_secs(1);
/// The first chunk travels in the head's write up to this length.
const FIRST_CHUNK_BYTES: usize = 64 * 1024;

/// What both sides of the hop need to know.
#[derive(Debug, Clone)]
pub struct HopConfig {
    /// This node.
    pub node: NodeId,
    /// Its cluster; part of every identity.
    pub cluster: String,
    /// The members and the `host:port` of their hop listener. This node's own is ignored.
    pub members: BTreeMap<NodeId, String>,
    /// This node's certificate.
    pub credentials: Credentials,
    /// Where refusals are counted.
    pub metrics: Metrics,
}

/// The connections of one lane. Clones share them; the last one closes them.
#[derive(Debug, Clone)]
pub struct HopClient {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    node: NodeId,
    dialer: Arc<Dialer>,
    links: Mutex<BTreeMap<NodeId, Link>>,
}

/// Where the members were found to listen, for as long as the client lives.
#[derive(Debug, Clone)]
pub(super) struct Whereabouts {
    links: Weak<Shared>,
}

impl Whereabouts {
    pub(super) fn include(&self, ip: IpAddr) -> bool {
        self.links.upgrade().is_some_and(|shared| shared.links().values().any(|link| link.leads_to(ip)))
    }
}

/// A request on its way.
#[derive(Debug)]
pub struct Exchange {
    /// The request's body; `None` when the head said [`Content::Empty`]. Dropped before its end,
    /// the request is cancelled.
    pub body: Option<SendBody>,
    /// What the peer says. Dropped before its end, the answer is cancelled.
    pub answers: Answers,
}

/// The peer's side of an exchange.
#[derive(Debug)]
pub struct Answers {
    source: Source,
}

impl HopClient {
    /// Starts dialling every other member, from a UDP port of its own. Call it inside the lane's
    /// runtime: all tasks run there.
    pub fn start(config: HopConfig) -> Result<Self, TransportError> {
        let dialer = Dialer {
            endpoint: socket::dial_only(&HOP, &config.credentials)?,
            config: socket::client_config(&HOP, &config.credentials)?,
            cluster: config.cluster,
            refusals: Arc::new(Refusals::new(config.metrics, HOP.name)),
        };
        let shared = Shared { node: config.node, dialer: Arc::new(dialer), links: Mutex::default() };
        let client = Self { shared: Arc::new(shared) };
        client.set_members(config.members);
        Ok(client)
    }

    /// Replaces the members. Connections to a removed node, or to an old address, close at once, and what
    /// is under way on them is lost (H-12).
    pub fn set_members(&self, members: BTreeMap<NodeId, String>) {
        let mut links = self.shared.links();
        links.retain(|id, link| match members.get(id) {
            Some(address) => address == link.address(),
            None => {
                link.remove();
                false
            }
        });
        for (id, address) in members {
            if id != self.shared.node {
                links.entry(id).or_insert_with(|| Link::open(Arc::clone(&self.shared.dialer), id, address));
            }
        }
    }

    /// Whether there is a connection to `to` now.
    pub fn is_connected(&self, to: NodeId) -> bool {
        self.shared.links().get(&to).is_some_and(|link| link.current().is_some())
    }

    /// Where the members are, for the listener of the same lane.
    pub(super) fn whereabouts(&self) -> Whereabouts {
        Whereabouts { links: Arc::downgrade(&self.shared) }
    }

    /// Sends a request's head, and `first`, the beginning of its body, in the same write. An error
    /// is `NotSent` exactly when not one byte was handed to a connection.
    pub async fn open(
        &self,
        to: NodeId,
        head: &RequestHead,
        first: Option<Bytes>,
    ) -> Result<Exchange, HopError> {
        let not_sent = |text: &str| HopError::NotSent(text.to_owned());
        let head_bytes = codec::encode_head(head).map_err(|e| not_sent(&e.to_string()))?;
        let connection = self.connection(to).await?;
        let (send, receive) = match timeout(STREAM_LIMIT, connection.open_bi()).await {
            Ok(Ok(streams)) => streams,
            Ok(Err(e)) => return Err(not_sent(&e.to_string())),
            Err(_) => return Err(not_sent("the peer works on as many requests as it allows")),
        };
        let answers = Answers { source: Source::new(receive, Reset::Cancelled.code()) };
        let (begin, rest) = join_first(head_bytes, first);
        let mut body = write_head(send, begin).await?;
        if head.content == Content::Empty {
            body.end();
            return Ok(Exchange { body: None, answers });
        }
        if let Some(rest) = rest {
            match body.chunk(rest).await {
                // The peer's answer says why it wants no body.
                Ok(()) | Err(HopError::Stopped) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(Exchange { body: Some(body), answers })
    }

    async fn connection(&self, to: NodeId) -> Result<Connection, HopError> {
        let mut watch = {
            let links = self.shared.links();
            let link = links.get(&to).ok_or_else(|| HopError::NotSent(format!("node {to} is no member")))?;
            if let Some(connection) = link.current() {
                return Ok(connection);
            }
            link.nudge();
            link.watch()
        };
        let open = |c: &Option<Connection>| c.as_ref().is_some_and(|c| c.close_reason().is_none());
        match timeout(CONNECT_LIMIT, watch.wait_for(open)).await {
            Ok(Ok(current)) => current.clone(),
            _ => None,
        }
        .ok_or_else(|| HopError::NotSent(format!("no connection to node {to}")))
    }
}

impl Shared {
    fn links(&self) -> MutexGuard<'_, BTreeMap<NodeId, Link>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One buffer for the head and a short first chunk; a longer chunk is given back.
fn join_first(head: Bytes, first: Option<Bytes>) -> (Bytes, Option<Bytes>) {
    match first {
        Some(chunk) if !chunk.is_empty() && chunk.len() <= FIRST_CHUNK_BYTES => {
            let mut joined = BytesMut::with_capacity(head.len() + 4 + chunk.len());
            joined.extend_from_slice(&head);
            joined.extend_from_slice(&length_prefix(chunk.len()));
            joined.extend_from_slice(&chunk);
            (joined.freeze(), None)
        }
        other => (head, other),
    }
}

/// An error before the first byte was taken means that nothing can have reached the peer.
async fn write_head(mut stream: SendStream, mut bytes: Bytes) -> Result<SendBody, HopError> {
    let taken = match timeout(HEAD_LIMIT, stream.write(&bytes)).await {
        Ok(taken) => taken.map_err(|e| HopError::NotSent(e.to_string()))?,
        Err(_) => return Err(HopError::NotSent("the peer reads nothing".to_owned())),
    };
    let rest = bytes.split_off(taken);
    let mut body = SendBody::new(stream, Reset::Cancelled);
    if !rest.is_empty() {
        body.write(&mut [rest]).await?;
    }
    Ok(body)
}

impl Answers {
    /// The peer's next answer. Cancel safe. An error is `Lost` unless the peer has said, in a way
    /// that is certain, that it did nothing.
    pub async fn next(&mut self) -> Result<Answer, HopError> {
        match self.source.frame(HEAD_MAX_BYTES).await {
            Ok(Some(payload)) => codec::decode_head(&payload).map_err(|e| HopError::Malformed(e.to_string())),
            Ok(None) | Err(FrameError::Cut) => {
                Err(HopError::Lost("the peer ended the stream without an answer".to_owned()))
            }
            Err(FrameError::Read(e)) => Err(lost(&e)),
            Err(e @ FrameError::TooLong { .. }) => Err(HopError::Malformed(e.to_string())),
        }
    }

    /// The answer's body, after [`Answer::Head`].
    pub fn into_body(self) -> RecvBody {
        RecvBody::new(self.source, None)
    }
}

fn lost(error: &ReadError) -> HopError {
    match error {
        ReadError::Reset(code) if *code == Reset::NotStarted.code() => HopError::NotStarted,
        ReadError::Reset(code) => HopError::Lost(format!("the peer reset the stream with code {code}")),
        // A peer that refuses a connection at the door has read nothing on it (W-5).
        ReadError::ConnectionLost(end) => match verdict(end) {
            Some(v) if v.by == By::Peer && v.at_the_door => HopError::NotSent(v.to_string()),
            _ => HopError::Lost(end.to_string()),
        },
        other => HopError::Lost(other.to_string()),
    }
}
