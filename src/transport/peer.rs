//! One peer: what is sent to it, and what is heard from it.
//!
//! Each side sends only on the connection that it dialled. There, control messages, appends and pieces of
//! snapshots have a stream and a queue of their own, so that a heartbeat is never behind a large append,
//! and neither is behind a snapshot (T3). W-10: nothing is carried over from a lost connection to the next: Raft sends again by
//! itself, and old messages would only be dropped there as late (T1).

use std::sync::Arc;

use quinn::{Connection, RecvStream, SendStream, WriteError};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

use crate::ids::NodeId;
use crate::raft::message::{Body, Message};
use crate::transport::codec::{self, CodecError};
use crate::transport::frame::{FrameError, Source};
use crate::transport::inbound::Inbound;
use crate::transport::link::Link;
use crate::transport::queue::Queue;
use crate::transport::refusal::{CLOSED, Refusal, Refusals};

/// The first byte of a stream: what it carries (W-8).
const CONTROL: u8 = 1;
const APPEND: u8 = 2;
const SNAPSHOT: u8 = 3;

/// Control messages are small; this many are seconds of heartbeats, and more would only be late.
const CONTROL_FRAMES: usize = 128;
const CONTROL_BYTES: usize = 256 * 1024;
/// Twice what a leader has in flight to one follower (`max_inflight_messages`,
/// `max_inflight_bytes`).
const APPEND_FRAMES: usize = 128;
const APPEND_BYTES: usize = 8 * 1024 * 1024;
/// Twice what a follower asks for ahead (`max_inflight_chunks`, `chunk_bytes`).
const SNAPSHOT_FRAMES: usize = 16;
const SNAPSHOT_BYTES: usize = 6 * 1024 * 1024;
/// Frames that wait are written together, up to this many bytes.
const WRITE_BYTES: usize = 64 * 1024;
/// Who goes first when several have something to send.
const CONTROL_PRIORITY: i32 = 1;
const APPEND_PRIORITY: i32 = 0;
const SNAPSHOT_PRIORITY: i32 = -1;

/// The sending half: never blocks.
#[derive(Debug)]
pub(crate) struct Peer {
    link: Link,
    control: Arc<Queue>,
    append: Arc<Queue>,
    snapshot: Arc<Queue>,
    refusals: Arc<Refusals>,
    writers: [AbortHandle; 3],
}

impl Peer {
    pub(crate) fn start(link: Link, refusals: Arc<Refusals>) -> Self {
        let control = Arc::new(Queue::new(CONTROL_FRAMES, CONTROL_BYTES));
        let append = Arc::new(Queue::new(APPEND_FRAMES, APPEND_BYTES));
        let writer = |kind, priority, queue: &Arc<Queue>| {
            let writer = Writer { kind, priority, queue: Arc::clone(queue), refusals: Arc::clone(&refusals) };
            tokio::spawn(writer.run(link.watch())).abort_handle()
        };
        let snapshot = Arc::new(Queue::new(SNAPSHOT_FRAMES, SNAPSHOT_BYTES));
        let writers = [
            writer(CONTROL, CONTROL_PRIORITY, &control),
            writer(APPEND, APPEND_PRIORITY, &append),
            writer(SNAPSHOT, SNAPSHOT_PRIORITY, &snapshot),
        ];
        Self { link, control, append, snapshot, refusals, writers }
    }

    pub(crate) fn link(&self) -> &Link {
        &self.link
    }

    /// Queues a message. Without a connection, or with a full queue, it is dropped and counted.
    pub(crate) fn send(&self, message: &Message) {
        // They live as long as this. One that panicked would leave a peer that hears nothing, for ever.
        assert!(!self.writers.iter().any(AbortHandle::is_finished), "a writer to {} has ended", message.to);
        let queue = match &message.body {
            Body::AppendEntries(append) if !append.entries.is_empty() => &self.append,
            Body::SnapshotChunk(_) => &self.snapshot,
            _ => &self.control,
        };
        let Some(connection) = self.link.current() else {
            return self.refusals.count("message", "no-connection");
        };
        count_lost(&self.refusals, queue.turn_to(connection.stable_id()));
        match codec::encode(message) {
            Ok(frame) => {
                if !queue.push(frame) {
                    self.refusals.count("message", "queue-full");
                }
            }
            Err(e) => {
                tracing::error!(to = %message.to, "dropped a message that cannot be sent: {e}");
                self.refusals.count("message", "too-long");
            }
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.writers.iter().for_each(AbortHandle::abort);
    }
}

struct Writer {
    kind: u8,
    priority: i32,
    queue: Arc<Queue>,
    refusals: Arc<Refusals>,
}

impl Writer {
    /// One stream per connection, for as long as the link exists.
    async fn run(self, mut connections: watch::Receiver<Option<Connection>>) {
        while let Ok(up) = connections.wait_for(Option::is_some).await.map(|current| current.clone()) {
            let Some(connection) = up else { continue };
            let end = self.write(&connection).await;
            tracing::debug!(kind = self.kind, "a stream ended: {end}");
            count_lost(&self.refusals, self.queue.clear(connection.stable_id()));
            // Until the link has noticed as well, there is nothing to write to. A stream that the
            // peer stopped alone does not end the connection; that breaks the protocol.
            connection.close(CLOSED, b"a stream was stopped");
            let gone = connection.stable_id();
            let other = |current: &Option<Connection>| current.as_ref().is_none_or(|c| c.stable_id() != gone);
            if connections.wait_for(other).await.is_err() {
                return;
            }
        }
    }

    async fn write(&self, connection: &Connection) -> WriteError {
        let mut stream = match self.open(connection).await {
            Ok(stream) => stream,
            Err(e) => return e,
        };
        loop {
            // A writer that noticed the end only when it writes would take the first message of the
            // next connection with it: of all messages a vote request, after a restart.
            let batch = tokio::select! {
                biased;
                end = connection.closed() => return WriteError::ConnectionLost(end),
                batch = self.queue.pop(connection.stable_id(), WRITE_BYTES) => batch,
            };
            if let Err(e) = stream.write_chunk(batch.bytes).await {
                count_lost(&self.refusals, batch.frames);
                return e;
            }
        }
    }

    async fn open(&self, connection: &Connection) -> Result<SendStream, WriteError> {
        let mut stream = connection.open_uni().await?;
        let _ = stream.set_priority(self.priority);
        stream.write_all(&[self.kind]).await?;
        Ok(stream)
    }
}

fn count_lost(refusals: &Refusals, frames: usize) {
    for _ in 0..frames {
        refusals.count("message", "connection-lost");
    }
}

/// The receiving half: hands on every message of a connection that `from` dialled, until it ends.
pub(crate) async fn receive(from: NodeId, connection: Connection, to: Inbound, refusals: Arc<Refusals>) {
    let mut streams = JoinSet::new();
    while let Ok(stream) = connection.accept_uni().await {
        while streams.try_join_next().is_some() {}
        let reader =
            Reader { from, connection: connection.clone(), to: to.clone(), refusals: Arc::clone(&refusals) };
        streams.spawn(reader.run(stream));
    }
}

struct Reader {
    from: NodeId,
    connection: Connection,
    to: Inbound,
    refusals: Arc<Refusals>,
}

impl Reader {
    async fn run(self, mut stream: RecvStream) {
        let mut kind = [0];
        if stream.read_exact(&mut kind).await.is_err() {
            return;
        }
        if ![CONTROL, APPEND, SNAPSHOT].contains(&kind[0]) {
            return self.refuse(&Refusal::Malformed(format!("a stream of kind {}", kind[0])));
        }
        let mut source = Source::new(stream, CLOSED);
        loop {
            let payload = match source.frame(codec::FRAME_MAX_BYTES).await {
                Ok(Some(payload)) => payload,
                Ok(None) | Err(FrameError::Read(_)) => return,
                Err(e) => return self.refuse(&Refusal::Malformed(e.to_string())),
            };
            match self.check(&payload) {
                // A full queue holds the stream back, and through flow control the sender.
                Ok(message) => {
                    if !self.to.push(message, payload.len()).await {
                        return;
                    }
                }
                Err(refusal) => return self.refuse(&refusal),
            }
        }
    }

    /// A message must speak for the node of the certificate (W-6).
    fn check(&self, payload: &[u8]) -> Result<Message, Refusal> {
        let message = codec::decode(payload).map_err(|e| match e {
            CodecError::Version(version) => Refusal::Version(version),
            other => Refusal::Malformed(other.to_string()),
        })?;
        if message.from != self.from {
            return Err(Refusal::Impostor { identity: self.from, claimed: message.from });
        }
        Ok(message)
    }

    fn refuse(&self, refusal: &Refusal) {
        self.refusals.refuse(&self.connection, Some(self.from), refusal);
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::yield_now;

    use super::*;
    use crate::ids::{Life, Session, Term};
    use crate::metrics::Metrics;
    use crate::raft::message::ReadIndex;
    use crate::transport::credentials::Credentials;
    use crate::transport::identity::Subject;
    use crate::transport::link::Dialer;
    use crate::transport::socket::{RAFT, client_config, dial_only};

    fn dialer() -> Arc<Dialer> {
        let dir = tempfile::tempdir().unwrap();
        crate::certs::init("orders", dir.path()).unwrap();
        let files = crate::certs::issue(dir.path(), &Subject::Node(NodeId(1)), dir.path(), &[]).unwrap();
        let ca = dir.path().join("ca.pem");
        let credentials = Credentials::load(&ca, &files.certificate, &files.key).unwrap();
        Arc::new(Dialer {
            endpoint: dial_only(&RAFT, &credentials).unwrap(),
            config: client_config(&RAFT, &credentials).unwrap(),
            cluster: "orders".to_owned(),
            refusals: Arc::new(Refusals::new(Metrics::new(), RAFT.name)),
        })
    }

    #[tokio::test]
    #[should_panic(expected = "a writer to 2 has ended")]
    async fn a_writer_that_ended_by_itself_is_no_silence() {
        let dialer = dialer();
        let refusals = Arc::clone(&dialer.refusals);
        let peer = Peer::start(Link::open(dialer, NodeId(2), "127.0.0.1:9".to_owned()), refusals);
        let (from, to, body) = (NodeId(1), NodeId(2), Body::ReadIndex(ReadIndex { id: 1 }));
        let message =
            Message { from, to, term: Term(1), life: Life::default(), session: Session::ZERO, body };
        peer.send(&message);
        peer.writers[1].abort();
        for _ in 0..100 {
            yield_now().await;
        }
        peer.send(&message);
    }
}
