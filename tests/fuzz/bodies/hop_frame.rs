//! What a peer may send on a stream of the hop: heads, answers and bodies.

use bytes::Bytes;
use termgate::fencing::mode::{Consistency, FenceMode};
use termgate::hop::body::{Piece, State, next_piece};
use termgate::hop::codec::{self, CHUNK_MAX_BYTES, HEAD_MAX_BYTES};
use termgate::hop::message::{Answer, Fields, RequestHead};
use termgate::ids::NodeId;
use termgate::proxy::body::Keep;
use termgate::proxy::fields;
use termgate::proxy::route::Route;
use termgate::proxy::wirehead;
use termgate::time::Duration;
use termgate::transport::frame::Arrived;

use super::peer_frame::frames;

/// What a frame begins with: the length of the rest.
const LENGTH_BYTES: usize = 4;

/// The first byte says what the stream is, and how it is cut.
pub fn run(data: &[u8]) {
    let Some((&how, stream)) = data.split_first() else { return };
    let (kind, piece) = (how % 4, 1 + usize::from(how / 4));
    if kind == 0 {
        return body(stream, piece);
    }
    let (found, error) = frames(stream, stream.len(), HEAD_MAX_BYTES);
    assert_eq!(frames(stream, piece, HEAD_MAX_BYTES), (found.clone(), error));
    for frame in found {
        match kind {
            1 => request(&frame),
            2 => answer(&frame),
            _ => trailers(&frame),
        }
    }
}

/// H-2, H-9: a request's head, and the request that a leader makes of it.
fn request(frame: &[u8]) {
    let Ok(head) = codec::decode_head::<RequestHead>(frame) else { return };
    let again = codec::encode_head(&head).expect("a head that fitted fits");
    assert_eq!(codec::decode_head::<RequestHead>(&again[LENGTH_BYTES..]).as_ref(), Ok(&head));
    let consistency = head.consistency;
    let Ok(job) = wirehead::job(head, Keep::Empty, &[everything()], false) else { return };
    for name in job.fields.keys() {
        assert!(!fields::is_ours(name.as_str()), "a peer stamped {name}");
        assert_ne!(name.as_str(), "transfer-encoding");
        assert_ne!(name.as_str(), "connection");
    }
    assert!(!job.fields.contains_key("content-length"), "the framing is made anew");
    assert!(job.target.as_str().starts_with('/') || job.target.as_str() == "*", "{:?}", job.target);
    // Passed on once more, it would be the same request: cleaning what is clean changes nothing.
    let head = wirehead::request_head(&job, NodeId(2), true);
    let head = RequestHead { consistency, ..head };
    let again = wirehead::job(head, Keep::Empty, &[everything()], false).expect("a clean request is taken");
    assert_eq!((again.fields, again.authority), (job.fields, job.authority));
    assert_eq!(again.target.as_str(), job.target.as_str());
    assert_eq!((again.class, again.method), (job.class, job.method));
}

/// A route that takes every request.
pub fn everything() -> Route {
    Route {
        name: "orders".to_owned(),
        host: None,
        path_prefix: "/".to_owned(),
        backend: http::Uri::from_static("http://127.0.0.1:1"),
        fence: FenceMode::Enforced,
        reads: Consistency::Linearizable,
        hold_timeout: Duration::from_secs(1),
    }
}

/// H-4.
fn answer(frame: &[u8]) {
    let Ok(answer) = codec::decode_head::<Answer>(frame) else { return };
    let again = codec::encode_head(&answer).expect("an answer that fitted fits");
    assert_eq!(codec::decode_head::<Answer>(&again[LENGTH_BYTES..]).as_ref(), Ok(&answer));
    let Answer::Head(head) = answer else { return };
    let (status, node) = (head.status, head.node);
    let Some(response) = wirehead::response(head, ()) else { return };
    assert_eq!(response.status().as_u16(), status);
    assert_eq!(response.headers().get_all(fields::SERVED_BY).iter().count(), 1);
    assert_eq!(
        response.headers()[fields::SERVED_BY],
        node.0.to_string(),
        "who served it is no claim of its own"
    );
}

fn trailers(frame: &[u8]) {
    let Ok(trailers) = codec::decode_trailers(frame) else { return };
    let again = codec::encode_end(&trailers).expect("trailers that fitted fit");
    assert_eq!(codec::decode_trailers(&again[2 * LENGTH_BYTES..]).as_ref(), Ok(&trailers));
}

/// What came of a body: its content, and the trailers that ended it, or why it broke off.
type Whole = (Vec<u8>, Option<Result<Fields, String>>);

fn read(stream: &[u8], piece: usize) -> Whole {
    let (mut arrived, mut state, mut content) = (Arrived::default(), State::default(), Vec::new());
    for piece in stream.chunks(piece.max(1)) {
        arrived.push(Bytes::copy_from_slice(piece));
        loop {
            match next_piece(&mut arrived, &mut state) {
                Ok(None) => break,
                Ok(Some(Piece::Data(data))) => {
                    assert!(!data.is_empty() && data.len() <= CHUNK_MAX_BYTES);
                    content.extend_from_slice(&data);
                }
                Ok(Some(Piece::End(trailers))) => return (content, Some(Ok(trailers))),
                Err(error) => return (content, Some(Err(error.to_string()))),
            }
        }
    }
    (content, None)
}

/// H-5, H-6: a body is what its chunks say, however it arrives, and only its end mark ends it.
fn body(stream: &[u8], piece: usize) {
    let whole = read(stream, stream.len());
    assert_eq!(read(stream, piece), whole, "the pieces in which bytes arrive change what they say");
    assert!(whole.0.len() <= stream.len());
    if let Some(Ok(_)) = whole.1 {
        let end = stream.windows(LENGTH_BYTES).any(|window| window == [0; LENGTH_BYTES]);
        assert!(end, "a body ended without its mark");
    }
}
