//! The asked side: accepts the members' connections and gives each request to a handler.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quinn::{Connection, RecvStream, SendStream};
use tokio::time::timeout;

use crate::hop::body::{RecvBody, Reset, SendBody};
use crate::hop::client::{HopClient, HopConfig, Whereabouts};
use crate::hop::codec::{self, CodecError, HEAD_MAX_BYTES};
use crate::hop::error::HopError;
use crate::hop::message::{Answer, Content, Fields, Refusal, RequestHead, ResponseHead};
use crate::ids::NodeId;
use crate::transport::admission::{Door, Surplus};
use crate::transport::frame::{FrameError, Source, length_prefix};
use crate::transport::refusal::{self, CLOSED, Refusals};
use crate::transport::socket::{self, HOP, TransportError};

/// How long a head may take from the stream's beginning. It is one write at the other side.
const HEAD_LIMIT: Duration = Duration::from_secs(5);
/// Connections of one node: one per lane, and those of its former life until they time out.
const CONNECTIONS_PER_NODE: usize = 64;

/// The hop listener of one lane.
#[derive(Debug)]
pub struct HopServer {
    door: Arc<Door>,
    /// Whose handshakes need not wait behind those of strangers.
    known: Whereabouts,
}

/// A request from another node.
#[derive(Debug)]
pub struct Incoming {
    /// The asking node, by its certificate.
    pub peer: NodeId,
    /// The request's head.
    pub head: RequestHead,
    /// Its body. For [`Content::Withheld`] it stays silent until [`Responder::go`].
    pub body: RecvBody,
    /// Where the answer goes.
    pub reply: Responder,
}

/// Answers one request. Dropped without an answer, the peer learns that the request may have been
/// carried out.
#[derive(Debug)]
pub struct Responder {
    stream: SendBody,
}

impl HopServer {
    /// Listens on `listen` (UDP); several lanes may share one address (`SO_REUSEPORT`). `client` is
    /// the lane's own: what it looks up is where the members come from. Call it inside the lane's runtime.
    pub fn bind(listen: SocketAddr, config: HopConfig, client: &HopClient) -> Result<Self, TransportError> {
        let endpoint = socket::listen(&HOP, &config.credentials, listen, true)?;
        let refusals = Arc::new(Refusals::new(config.metrics, HOP.name));
        let door = Door::new(endpoint, config.cluster, config.node, refusals)
            .per_node(CONNECTIONS_PER_NODE, Surplus::RefuseNewest);
        let server = Self { door: Arc::new(door), known: client.whereabouts() };
        server.set_members(&config.members);
        Ok(server)
    }

    /// Where it listens; the port when 0 was asked for.
    pub fn local_address(&self) -> Option<SocketAddr> {
        self.door.endpoint.local_addr().ok()
    }

    /// Replaces the members. Who is none any more was removed: its connections close at once, and it is
    /// refused from then on (H-12).
    pub fn set_members(&self, members: &BTreeMap<NodeId, String>) {
        self.door.set_members(members.keys().copied().collect());
    }

    /// Gives each request to `handler`, in a task of its own, until [`HopServer::close`]. A task
    /// outlives its connection: what was begun at a backend is brought to its end (H-11).
    pub async fn serve<H, F>(&self, handler: H)
    where
        H: Fn(Incoming) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let refusals = Arc::clone(&self.door.refusals);
        let serve = move |peer: NodeId, connection: Connection| {
            accept_requests(peer, connection, handler.clone(), Arc::clone(&refusals))
        };
        let known = self.known.clone();
        Arc::clone(&self.door).run(move |ip| known.include(ip), serve).await;
    }

    /// Closes all connections, stops accepting, and waits until the peers have heard of it.
    pub async fn close(&self) {
        self.door.endpoint.close(CLOSED, b"closing");
        socket::wait_closed(&self.door.endpoint).await;
    }
}

impl Drop for HopServer {
    fn drop(&mut self) {
        self.door.endpoint.close(CLOSED, b"closing");
    }
}

async fn accept_requests<H, F>(peer: NodeId, connection: Connection, handler: H, refusals: Arc<Refusals>)
where
    H: Fn(Incoming) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    // Bounded by the number of streams that a connection grants.
    while let Ok((send, receive)) = connection.accept_bi().await {
        let (connection, handler, refusals) = (connection.clone(), handler.clone(), Arc::clone(&refusals));
        tokio::spawn(async move {
            match read_request(peer, send, receive).await {
                Ok(Some(incoming)) => handler(incoming).await,
                Ok(None) => {}
                Err(refusal) => refusals.refuse(&connection, Some(peer), &refusal),
            }
        });
    }
}

/// The request on a new stream; none when the peer gave it up or was too slow.
async fn read_request(
    peer: NodeId,
    send: SendStream,
    receive: RecvStream,
) -> Result<Option<Incoming>, refusal::Refusal> {
    let mut source = Source::new(receive, Reset::Cancelled.code());
    // Until a handler has the request, nothing of it was done.
    let stream = SendBody::new(send, Reset::NotStarted);
    let payload = match timeout(HEAD_LIMIT, source.frame(HEAD_MAX_BYTES)).await {
        Ok(Ok(Some(payload))) => payload,
        Ok(Err(e @ FrameError::TooLong { .. })) => {
            return Err(refusal::Refusal::Malformed(e.to_string()));
        }
        _ => return Ok(None),
    };
    let head: RequestHead = codec::decode_head(&payload).map_err(|e| match e {
        CodecError::Version(version) => refusal::Refusal::Version(version),
        other => refusal::Refusal::Malformed(other.to_string()),
    })?;
    if head.origin != peer {
        return Err(refusal::Refusal::Impostor { identity: peer, claimed: head.origin });
    }
    let body = match head.content {
        Content::Empty => RecvBody::empty(source).await,
        Content::Eager { length } | Content::Withheld { length } => RecvBody::new(source, length),
    };
    Ok(Some(Incoming { peer, head, body, reply: Responder::new(stream) }))
}

impl Responder {
    fn new(stream: SendBody) -> Self {
        Self { stream: stream.aborting_with(Reset::MaybeApplied) }
    }

    /// Asks for a withheld body. At most once.
    pub async fn go(&mut self) -> Result<(), HopError> {
        self.say(&Answer::Go).await
    }

    /// Turns the request away. Call it only when it certainly had no effect (H-4).
    pub async fn refuse(mut self, refusal: Refusal) -> Result<(), HopError> {
        self.say(&Answer::Refused(refusal)).await?;
        self.stream.end();
        Ok(())
    }

    /// Gives the request back without an answer. Call it only when certainly nothing was sent to a
    /// backend.
    pub fn not_started(self) {
        self.stream.abort(Reset::NotStarted);
    }

    /// Sends the answer's head; its body follows.
    pub async fn head(mut self, head: ResponseHead) -> Result<SendBody, HopError> {
        self.say(&Answer::Head(head)).await?;
        Ok(self.stream)
    }

    /// Sends a whole answer in one write.
    pub async fn complete(mut self, head: ResponseHead, body: Bytes) -> Result<(), HopError> {
        let head = encode(&Answer::Head(head))?;
        if body.len() > codec::CHUNK_MAX_BYTES {
            self.stream.write(&mut [head]).await?;
            self.stream.chunk(body).await?;
            return self.stream.finish(&Fields::new()).await;
        }
        let end = codec::encode_end(&Fields::new()).map_err(|e| HopError::Malformed(e.to_string()))?;
        if body.is_empty() {
            self.stream.write(&mut [head, end]).await?;
        } else {
            let length = Bytes::copy_from_slice(&length_prefix(body.len()));
            self.stream.write(&mut [head, length, body, end]).await?;
        }
        self.stream.end();
        Ok(())
    }

    async fn say(&mut self, answer: &Answer) -> Result<(), HopError> {
        let frame = encode(answer)?;
        self.stream.write(&mut [frame]).await
    }
}

fn encode(answer: &Answer) -> Result<Bytes, HopError> {
    codec::encode_head(answer).map_err(|e| HopError::Malformed(e.to_string()))
}
