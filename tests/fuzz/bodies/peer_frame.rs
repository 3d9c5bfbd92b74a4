//! What a peer may send on a stream of the mesh: bytes to frames, frames to messages, messages to a node.

use bytes::Bytes;
use termgate::ids::NodeId;
use termgate::transport::codec::{self, FRAME_MAX_BYTES};
use termgate::transport::frame::{Arrived, FrameError};

use super::host::Host;

/// What a frame begins with: the length of the rest.
const LENGTH_BYTES: usize = 4;

/// The frames of a stream that arrives in pieces of so many bytes, and why there were no more.
pub fn frames(stream: &[u8], piece: usize, limit: usize) -> (Vec<Bytes>, Option<FrameError>) {
    let (mut arrived, mut found) = (Arrived::default(), Vec::new());
    for piece in stream.chunks(piece.max(1)) {
        arrived.push(Bytes::copy_from_slice(piece));
        loop {
            match arrived.frame(limit) {
                Ok(Some(frame)) => found.push(frame),
                Ok(None) => break,
                Err(error) => return (found, Some(error)),
            }
        }
    }
    (found, None)
}

/// The first byte says how the stream is cut (W-7); the rest is the stream.
pub fn run(data: &[u8]) {
    let Some((&cut, stream)) = data.split_first() else { return };
    let (found, error) = frames(stream, stream.len(), FRAME_MAX_BYTES);
    let again = frames(stream, 1 + usize::from(cut), FRAME_MAX_BYTES);
    assert_eq!(again, (found.clone(), error), "the pieces in which bytes arrive change what they say");
    let mut node = Host::fresh(NodeId(1), 3);
    for frame in found {
        assert!(frame.len() <= FRAME_MAX_BYTES);
        let Ok(message) = codec::decode(&frame) else { continue };
        // What was understood can be said again, and is understood as the same (W-9).
        let encoded = codec::encode(&message).expect("a message that fitted a frame fits one");
        assert_eq!(codec::decode(&encoded[LENGTH_BYTES..]).as_ref(), Ok(&message));
        node.receive(message);
        node.settle();
    }
    node.restart();
}
