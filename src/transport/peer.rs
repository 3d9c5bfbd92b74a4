//! One peer: what is sent to it. What is heard from it is the `reader`'s.
//!
//! Each side sends only on the connection that it dialled. There, control messages, appends and pieces of
//! snapshots have a stream and a queue of their own, so that a heartbeat is never behind a large append,
//! and neither is behind a snapshot (T3). W-10: nothing is carried over from a lost connection to the
//! next: Raft sends again by itself, and old messages would only be dropped there as late (T1).

use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use quinn::{Connection, SendStream, WriteError};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::timeout;

use crate::raft::message::{Body, Message};
use crate::transport::codec;
use crate::transport::link::Link;
use crate::transport::queue::Queue;
use crate::transport::refusal::{CLOSED, Refusals};

/// The first byte of a stream: what it carries (W-8).
pub(crate) const CONTROL: u8 = 1;
pub(crate) const APPEND: u8 = 2;
pub(crate) const SNAPSHOT: u8 = 3;
/// Control messages behind an introduction (W-13).
pub(crate) const INTRODUCED: u8 = 4;

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
/// How long a message may wait for the first connection; an answer that comes later than a whole election
/// would be late there.
const FIRST_CONNECTION_LIMIT: Duration = Duration::from_secs(1);
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
    outbox: Arc<Outbox>,
    writers: [AbortHandle; 3],
}

impl Peer {
    /// `introduction` is the frame that this node begins with (W-13).
    pub(crate) fn start(link: Link, introduction: Option<&Bytes>, refusals: Arc<Refusals>) -> Self {
        let outbox = Arc::new(Outbox {
            control: Arc::new(Queue::new(CONTROL_FRAMES, CONTROL_BYTES)),
            append: Arc::new(Queue::new(APPEND_FRAMES, APPEND_BYTES)),
            snapshot: Arc::new(Queue::new(SNAPSHOT_FRAMES, SNAPSHOT_BYTES)),
            refusals: Arc::clone(&refusals),
        });
        let writer = |opening: Bytes, priority, queue: &Arc<Queue>| {
            let (queue, refusals) = (Arc::clone(queue), Arc::clone(&refusals));
            let writer = Writer { opening, priority, queue, refusals };
            tokio::spawn(writer.run(link.watch())).abort_handle()
        };
        let writers = [
            writer(control_opening(introduction), CONTROL_PRIORITY, &outbox.control),
            writer(Bytes::from_static(&[APPEND]), APPEND_PRIORITY, &outbox.append),
            writer(Bytes::from_static(&[SNAPSHOT]), SNAPSHOT_PRIORITY, &outbox.snapshot),
        ];
        Self { link, outbox, writers }
    }

    pub(crate) fn link(&self) -> &Link {
        &self.link
    }

    /// Queues a message. Without a connection, or with a full queue, it is dropped and counted.
    pub(crate) fn send(&self, message: &Message) {
        // They live as long as this. One that panicked would leave a peer that hears nothing, for ever.
        assert!(!self.writers.iter().any(AbortHandle::is_finished), "a writer to {} has ended", message.to);
        match self.link.current() {
            Some(connection) => self.outbox.put(&connection, message),
            None => self.outbox.drop_unconnected(),
        }
    }

    /// The same, but without a connection the message waits for the next one, for a moment. The task
    /// that waits can be ended.
    pub(crate) fn send_when_up(&self, message: Message) -> AbortHandle {
        let (mut link, outbox) = (self.link.watch(), Arc::clone(&self.outbox));
        let task = async move {
            let up = timeout(FIRST_CONNECTION_LIMIT, link.wait_for(Option::is_some)).await;
            match up.ok().and_then(Result::ok).and_then(|current| current.clone()) {
                Some(connection) => outbox.put(&connection, &message),
                None => outbox.drop_unconnected(),
            }
        };
        tokio::spawn(task).abort_handle()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.writers.iter().for_each(AbortHandle::abort);
    }
}

/// What waits to be sent, by stream.
#[derive(Debug)]
struct Outbox {
    control: Arc<Queue>,
    append: Arc<Queue>,
    snapshot: Arc<Queue>,
    refusals: Arc<Refusals>,
}

impl Outbox {
    fn put(&self, connection: &Connection, message: &Message) {
        let queue = match &message.body {
            Body::AppendEntries(append) if !append.entries.is_empty() => &self.append,
            Body::SnapshotChunk(_) => &self.snapshot,
            _ => &self.control,
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

    fn drop_unconnected(&self) {
        self.refusals.count("message", "no-connection");
    }
}

/// How the control stream begins.
fn control_opening(introduction: Option<&Bytes>) -> Bytes {
    let Some(frame) = introduction else { return Bytes::from_static(&[CONTROL]) };
    let mut opening = BytesMut::with_capacity(1 + frame.len());
    opening.put_u8(INTRODUCED);
    opening.put_slice(frame);
    opening.freeze()
}

struct Writer {
    /// The first bytes of each stream.
    opening: Bytes,
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
            tracing::debug!(kind = self.opening.first(), "a stream ended: {end}");
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
        stream.write_all(&self.opening).await?;
        Ok(stream)
    }
}

fn count_lost(refusals: &Refusals, frames: usize) {
    for _ in 0..frames {
        refusals.count("message", "connection-lost");
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::yield_now;

    use super::*;
    use crate::ids::{Life, NodeId, Session, Term};
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
        let peer = Peer::start(Link::open(dialer, NodeId(2), "127.0.0.1:9".to_owned()), None, refusals);
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
