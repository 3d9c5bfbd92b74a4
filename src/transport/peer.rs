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
    use std::future::pending;

    use quinn::{Endpoint, RecvStream};
    use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
    use tokio::task::yield_now;

    use super::*;
    use crate::ids::{Life, LogId, LogIndex, NodeId, ReadPos, Session, Term};
    use crate::metrics::Metrics;
    use crate::raft::entry::{Entry, Payload, SnapshotId};
    use crate::raft::message::{AppendEntries, Beat, ReadIndex, SnapshotChunk};
    use crate::time::Instant;
    use crate::transport::credentials::Credentials;
    use crate::transport::frame::Source;
    use crate::transport::identity::Subject;
    use crate::transport::link::Dialer;
    use crate::transport::socket::{RAFT, client_config, dial_only, listen};

    /// No wait is longer.
    const PATIENCE: Duration = Duration::from_secs(20);
    /// A piece of a snapshot, and what one append carries at most.
    const PIECE_BYTES: usize = 256 * 1024;

    /// Nodes 1 and 2 of one cluster.
    fn two_nodes() -> [Credentials; 2] {
        let dir = tempfile::tempdir().unwrap();
        crate::certs::init("orders", dir.path()).unwrap();
        [1, 2].map(|id| {
            let subject = Subject::Node(NodeId(id));
            let files = crate::certs::issue(dir.path(), &subject, dir.path(), &[]).unwrap();
            Credentials::load(&dir.path().join("ca.pem"), &files.certificate, &files.key).unwrap()
        })
    }

    fn dialer(credentials: &Credentials) -> Arc<Dialer> {
        Arc::new(Dialer {
            endpoint: dial_only(&RAFT, credentials).unwrap(),
            config: client_config(&RAFT, credentials).unwrap(),
            cluster: "orders".to_owned(),
            refusals: Arc::new(Refusals::new(Metrics::new(), RAFT.name)),
        })
    }

    /// What node 1 sends to node 2 at `address`.
    fn peer(credentials: &Credentials, address: String) -> Peer {
        let dialer = dialer(credentials);
        let refusals = Arc::clone(&dialer.refusals);
        Peer::start(Link::open(dialer, NodeId(2), address), None, refusals)
    }

    fn message(body: Body) -> Message {
        let (from, to) = (NodeId(1), NodeId(2));
        Message { from, to, term: Term(1), life: Life::default(), session: Session::ZERO, body }
    }

    fn append(entries: Vec<Entry>) -> Message {
        let beat = Beat { sent_at: Instant::ZERO, read_pos: ReadPos::ZERO };
        let (prev_log, leader_commit, known) = (LogId::ZERO, LogIndex::ZERO, Vec::new());
        message(Body::AppendEntries(AppendEntries { prev_log, entries, leader_commit, beat, known }))
    }

    fn piece() -> Message {
        let id = SnapshotId { last: LogId::ZERO, digest: [0; 32] };
        let bytes = Bytes::from(vec![7; PIECE_BYTES]);
        message(Body::SnapshotChunk(SnapshotChunk { id, offset: 0, checksum: 0, bytes }))
    }

    async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
        timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("in vain: {what}"))
    }

    /// Whoever is dialled takes everything, but of a stream with pieces of a snapshot no more than the first.
    async fn hear(listener: Endpoint, heard: UnboundedSender<Message>) {
        let connection = listener.accept().await.expect("a dialling peer").await.unwrap();
        while let Ok(stream) = connection.accept_uni().await {
            tokio::spawn(take_until_a_piece(stream, heard.clone()));
        }
    }

    async fn take_until_a_piece(mut stream: RecvStream, heard: UnboundedSender<Message>) {
        stream.read_exact(&mut [0]).await.unwrap();
        let mut source = Source::new(stream, CLOSED);
        while let Ok(Some(payload)) = source.frame(codec::FRAME_MAX_BYTES).await {
            let message = codec::decode(&payload).unwrap();
            if matches!(message.body, Body::SnapshotChunk(_)) {
                return pending().await;
            }
            let _ = heard.send(message);
        }
    }

    /// Sends pieces until the peer's flow control lets no more of them through.
    async fn send_until_blocked(peer: &Peer) {
        let mut link = peer.link().watch();
        let connection = link.wait_for(Option::is_some).await.unwrap().clone().expect("it is up");
        let blocked = || {
            let sent = connection.stats().frame_tx;
            sent.stream_data_blocked + sent.data_blocked
        };
        while blocked() == 0 {
            peer.send(&piece());
            yield_now().await;
        }
    }

    async fn both(heard: &mut UnboundedReceiver<Message>) -> [Message; 2] {
        [heard.recv().await.unwrap(), heard.recv().await.unwrap()]
    }

    /// T3. A follower's disk may be slow, and then it takes no pieces; to the leader it is a follower all the same. So
    /// they have a stream of their own, and a connection's window has room beside that of a stream.
    #[tokio::test]
    async fn a_snapshot_that_nobody_takes_holds_neither_heartbeats_nor_appends_back() {
        let [ours, theirs] = two_nodes();
        let listener = listen(&RAFT, &theirs, "127.0.0.1:0".parse().unwrap(), false).unwrap();
        let peer = peer(&ours, listener.local_addr().unwrap().to_string());
        let (sender, mut heard) = unbounded_channel();
        tokio::spawn(hear(listener, sender));
        within("a full window", send_until_blocked(&peer)).await;

        let (id, payload) = (LogId::new(Term(1), LogIndex(1)), Bytes::from(vec![7; PIECE_BYTES]));
        let append_entries = append(vec![Entry { id, payload: Payload::Command(payload) }]);
        let heartbeat = append(Vec::new());
        // More than any window.
        for _ in 0..2 * RAFT.receive_window as usize / PIECE_BYTES {
            peer.send(&append_entries);
            peer.send(&heartbeat);
            let heard = within("an append and a heartbeat", both(&mut heard)).await;
            assert!(heard.contains(&append_entries) && heard.contains(&heartbeat));
        }
    }

    #[tokio::test]
    #[should_panic(expected = "a writer to 2 has ended")]
    async fn a_writer_that_ended_by_itself_is_no_silence() {
        let [ours, _] = two_nodes();
        let peer = peer(&ours, "127.0.0.1:9".to_owned());
        let question = message(Body::ReadIndex(ReadIndex { id: 1 }));
        peer.send(&question);
        peer.writers[1].abort();
        for _ in 0..100 {
            yield_now().await;
        }
        peer.send(&question);
    }
}
