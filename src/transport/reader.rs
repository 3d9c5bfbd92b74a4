//! What is heard on a connection that a peer dialled: streams become messages, for as long as the bytes make
//! sense and the messages speak for the node of the certificate.

use std::sync::Arc;

use bytes::Bytes;
use quinn::{Connection, RecvStream};
use tokio::task::JoinSet;

use crate::ids::NodeId;
use crate::raft::message::Message;
use crate::transport::codec::{self, CodecError};
use crate::transport::frame::{FrameError, Source};
use crate::transport::inbound::Inbound;
use crate::transport::peer::{APPEND, CONTROL, INTRODUCED, SNAPSHOT};
use crate::transport::refusal::{CLOSED, Refusal};
use crate::transport::routes::Routes;

/// Where everything that is heard goes.
#[derive(Debug, Clone)]
pub(crate) struct Ears {
    pub(crate) messages: Inbound,
    pub(crate) routes: Arc<Routes>,
}

impl Ears {
    /// Hears what `from` says on a connection that it dialled, until that ends.
    pub(crate) async fn hear(self, from: NodeId, connection: Connection) {
        let mut streams = JoinSet::new();
        while let Ok(stream) = connection.accept_uni().await {
            while streams.try_join_next().is_some() {}
            let reader = Reader { from, connection: connection.clone(), ears: self.clone() };
            streams.spawn(reader.run(stream));
        }
    }
}

struct Reader {
    from: NodeId,
    connection: Connection,
    ears: Ears,
}

impl Reader {
    async fn run(self, stream: RecvStream) {
        if let Err(refusal) = self.read(stream).await {
            self.ears.routes.refusals().refuse(&self.connection, Some(self.from), &refusal);
        }
    }

    async fn read(&self, mut stream: RecvStream) -> Result<(), Refusal> {
        let mut kind = [0];
        if stream.read_exact(&mut kind).await.is_err() {
            return Ok(());
        }
        let mut source = Source::new(stream, CLOSED);
        match kind {
            [CONTROL | APPEND | SNAPSHOT] => {}
            [INTRODUCED] => {
                let Some(payload) = next(&mut source, codec::INTRODUCTION_MAX_BYTES).await? else {
                    return Ok(());
                };
                let introduction = codec::decode_introduction(&payload).map_err(refusal)?;
                self.ears.routes.introduce(self.from, introduction.address);
            }
            [other] => return Err(Refusal::Malformed(format!("a stream of kind {other}"))),
        }
        while let Some(payload) = next(&mut source, codec::FRAME_MAX_BYTES).await? {
            let message = self.check(&payload)?;
            // A full queue holds the stream back, and through flow control the sender.
            if !self.ears.messages.push(message, payload.len()).await {
                break;
            }
        }
        Ok(())
    }

    /// A message must speak for the node of the certificate (W-6).
    fn check(&self, payload: &[u8]) -> Result<Message, Refusal> {
        let message = codec::decode(payload).map_err(refusal)?;
        if message.from != self.from {
            return Err(Refusal::Impostor { identity: self.from, claimed: message.from });
        }
        Ok(message)
    }
}

/// The next frame; none when the stream has ended or is lost.
async fn next(source: &mut Source, limit: usize) -> Result<Option<Bytes>, Refusal> {
    match source.frame(limit).await {
        Ok(payload) => Ok(payload),
        Err(FrameError::Read(_)) => Ok(None),
        Err(e) => Err(Refusal::Malformed(e.to_string())),
    }
}

fn refusal(error: CodecError) -> Refusal {
    match error {
        CodecError::Version(version) => Refusal::Version(version),
        other => Refusal::Malformed(other.to_string()),
    }
}
