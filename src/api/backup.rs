//! `GET /cluster/backup`: the state at one point of the log, as a file to keep.
//!
//! Any node answers, so that the leader need not. A read position is confirmed and applied here, then the
//! state is copied, which costs the loop next to nothing (`registry::machine`), and the copy is encoded on
//! a thread that may block. The loop goes on, and so do writes; none of them is in the backup.
//!
//! One at a time: while a copy lives, what is written meanwhile takes memory twice.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::timeout;

use crate::api::fields::{Place, bad_request, consistency_word, query, typed};
use crate::api::forward::{Effect, Hold, refused_read};
use crate::api::keys::confirm;
use crate::api::refusal::Refusal;
use crate::api::{Caller, Inner};
use crate::fencing::mode::Consistency;
use crate::problem::{Kind, Problem};
use crate::registry::machine::Machine;
use crate::storage::backup::{Header, Origin, Taken, write};
use crate::time::Duration;

/// Pieces that wait for the client: enough that encoding and sending overlap.
const PIECES: usize = 2;
/// How long a client may take nothing of it; then its copy of the state is given up.
const STALL_LIMIT: Duration = Duration::from_secs(30);
/// When to try again while another is being taken.
const RETRY_AFTER: Duration = Duration::from_secs(5);
const MEDIA_TYPE: &str = "application/vnd.termgate.backup";

/// `GET /cluster/backup`, with `?consistency=stale` for what this node has applied. The content is in the
/// answer's extensions, as [`Pieces`].
pub(super) async fn take(
    context: &Inner,
    caller: Caller,
    request: &Request<Bytes>,
) -> Result<Response<Bytes>, Refusal> {
    if caller != Caller::Client {
        return Err(bad_request("a backup is not passed on between nodes; ask any node's API").into());
    }
    let wanted = query(request.uri(), "consistency")?.map(|word| consistency_word(&word)).transpose()?;
    let turn = Arc::clone(&context.backups).try_acquire_owned().map_err(|_| {
        let detail = "another backup is being taken here; wait, or ask another node";
        Problem::new(Kind::Overloaded, detail).outcome(None).retry_after(RETRY_AFTER)
    })?;
    let origin = match wanted {
        Some(Consistency::Stale) => Origin::Stale,
        // A weaker read may be served stronger (decision 0007).
        _ => Origin::Linearizable,
    };
    if origin == Origin::Linearizable {
        confirm(context, &Hold::new(context, caller, Effect::Read)).await?;
    }
    let (header, machine) = describe(context, origin).await?;
    let place = Place { index: header.last.index, term: header.term, version: None };
    let mut response = typed(StatusCode::OK, MEDIA_TYPE, Bytes::new());
    place.mark(response.headers_mut());
    response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(header.total()));
    tracing::info!(last = %header.last, bytes = header.total(), origin = origin.name(), "a backup is taken");
    response.extensions_mut().insert(Pieces::of(Source { header, machine, turn }));
    Ok(response)
}

/// A copy of the state and what it is. The view is taken after the read position was confirmed and before the
/// copy, so its membership is not newer than the copy, and its term is at least the one that confirmed.
async fn describe(context: &Inner, origin: Origin) -> Result<(Header, Machine), Problem> {
    let view = context.handle.view().await.map_err(|refused| refused_read(&refused))?;
    let machine = context.handle.with_machine(Machine::clone);
    let taken = Taken {
        cluster: context.cluster.clone(),
        node: view.id,
        origin,
        term: view.term,
        membership: view.membership,
    };
    let measured = tokio::task::spawn_blocking(move || (Header::describe(&machine, taken), machine)).await;
    measured.map_err(|_| Problem::new(Kind::NotReady, "the state could not be encoded; see the node's log"))
}

/// What is encoded while it is sent.
struct Source {
    header: Header,
    machine: Machine,
    /// The next backup may begin when this one is over, however it ends.
    turn: OwnedSemaphorePermit,
}

/// Content that is made while it is sent. Whoever takes it first has it.
#[derive(Clone)]
pub(super) struct Pieces(Arc<std::sync::Mutex<Option<Source>>>);

impl Pieces {
    fn of(source: Source) -> Self {
        Self(Arc::new(std::sync::Mutex::new(Some(source))))
    }

    fn take(&self) -> Option<Source> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take()
    }
}

/// The content of an answer.
pub(super) enum Content {
    /// In memory.
    Whole(Full<Bytes>),
    /// On its way.
    Made { pieces: mpsc::Receiver<Bytes>, left: u64 },
}

impl Content {
    /// What `response` shall carry; begins to make it, where it is made.
    pub(super) fn of(mut response: Response<Bytes>) -> Response<Self> {
        let source = response.extensions_mut().remove::<Pieces>().and_then(|pieces| pieces.take());
        response.map(|whole| match source {
            Some(source) => Self::Made { left: source.header.total(), pieces: start(source) },
            None => Self::Whole(Full::new(whole)),
        })
    }
}

/// Encodes on a thread of its own; a client that takes nothing for too long ends it.
fn start(source: Source) -> mpsc::Receiver<Bytes> {
    let (made, mut encoded) = mpsc::channel::<Bytes>(PIECES);
    let (sent, pieces) = mpsc::channel(PIECES);
    tokio::task::spawn_blocking(move || {
        let Source { header, machine, turn } = source;
        // It ends early when nobody wants the rest.
        let _ = write(&header, &machine, |piece| made.blocking_send(piece));
        drop((machine, turn));
    });
    tokio::spawn(async move {
        while let Some(piece) = encoded.recv().await {
            match timeout(STALL_LIMIT, sent.send(piece)).await {
                Ok(Ok(())) => {}
                _ => return tracing::warn!("a client gave up a backup, or took nothing of it for 30 s"),
            }
        }
    });
    pieces
}

impl Body for Content {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let (pieces, left) = match self.get_mut() {
            Self::Whole(whole) => {
                return Pin::new(whole).poll_frame(cx).map_err(|never| match never {});
            }
            Self::Made { pieces, left } => (pieces, left),
        };
        let piece = std::task::ready!(pieces.poll_recv(cx));
        Poll::Ready(match piece {
            Some(piece) => {
                *left = left.saturating_sub(piece.len() as u64);
                Some(Ok(Frame::data(piece)))
            }
            None if *left > 0 => Some(Err(io::Error::other("the backup broke off"))),
            None => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(whole) => whole.is_end_stream(),
            Self::Made { left, .. } => *left == 0,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(whole) => whole.size_hint(),
            Self::Made { left, .. } => SizeHint::with_exact(*left),
        }
    }
}
