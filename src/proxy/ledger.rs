//! What was handed to the kernel for one request, and the last test before the first byte.
//!
//! An HTTP library reports the same error whether a backend closed an idle connection or read
//! the whole request and died. So the socket itself counts: when the count is zero, the backend
//! cannot have seen the request, and it may be sent again, whatever its method.
//!
//! The same place holds the last look at the gate. The permit is asked inside the first write of a
//! request, so between the look and the system call there is nothing left to wait for.

use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll};

use rustix::process::{Signal, getpid, kill_process};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::clock;
use crate::fencing::passage;
use crate::ids::Term;
use crate::proxy::gates::GateBoard;
use crate::time::Duration;

/// The right to send one request: its route's gate must still be open for the term it was admitted
/// under.
#[derive(Debug, Clone)]
pub struct Permit {
    /// Where the gates are.
    pub board: Arc<GateBoard>,
    /// The route's place.
    pub route: usize,
    /// The term the request was admitted under.
    pub term: Term,
}

impl Permit {
    /// Whether the gate is open for this term now.
    pub fn holds(&self) -> bool {
        passage::permit_holds(self.board.admit(self.route, clock::now()), self.term)
    }

    /// Waits until it does not.
    pub async fn lost(&self) {
        while self.holds() {
            self.board.token_may_have_changed().await;
        }
    }
}

/// What the connection knows about the request it carries.
#[derive(Debug, Default)]
pub struct Ledger {
    written: AtomicU64,
    permit: Mutex<Option<Permit>>,
}

impl Ledger {
    /// A new request begins. `None` for requests that need no gate: stale reads.
    pub fn begin(&self, permit: Option<Permit>) {
        self.written.store(0, Ordering::Relaxed);
        *self.permit.lock().unwrap_or_else(PoisonError::into_inner) = permit;
    }

    /// Bytes of the present request that the kernel has taken. Below TLS, so it never counts less
    /// than what the backend can have seen.
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// Whether the next write may go out.
    fn may_write(&self) -> bool {
        let permit = self.permit.lock().unwrap_or_else(PoisonError::into_inner);
        let look = |permit: &Permit| {
            let holds = permit.holds();
            pause_for_test();
            holds
        };
        passage::may_write(self.written(), permit.as_ref().map(|permit| || look(permit)))
    }

    fn count(&self, outcome: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(bytes)) = outcome {
            self.written.fetch_add(bytes as u64, Ordering::Relaxed);
        }
        outcome
    }
}

/// The worst moment for a leader to be paused is between the last look at its gate and the first
/// byte. No signal from outside can hit it, so the fault campaign asks for it: while the file that
/// `TERMGATE_TEST_PAUSE_BEFORE_SEND_FILE` names exists, the process removes it and stops itself here. The
/// write that follows must be refused by the backend.
fn pause_for_test() {
    static FILE: OnceLock<Option<PathBuf>> = OnceLock::new();
    let file =
        FILE.get_or_init(|| std::env::var_os("TERMGATE_TEST_PAUSE_BEFORE_SEND_FILE").map(PathBuf::from));
    if let Some(file) = file
        && std::fs::remove_file(file).is_ok()
    {
        // A failure leaves the process running, and the campaign waiting for it in vain.
        let _ = kill_process(getpid(), Signal::STOP);
        // The signal may be taken by another thread first; this one must not run on meanwhile.
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// A socket that keeps a [`Ledger`].
#[derive(Debug)]
pub struct Counted {
    socket: TcpStream,
    ledger: Arc<Ledger>,
}

impl Counted {
    /// Starts counting on `socket`.
    pub fn new(socket: TcpStream) -> (Self, Arc<Ledger>) {
        let ledger = Arc::new(Ledger::default());
        (Self { socket, ledger: Arc::clone(&ledger) }, ledger)
    }

    fn closed() -> Poll<io::Result<usize>> {
        Poll::Ready(Err(io::Error::other("the gate closed before the first byte")))
    }
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(cx, buf)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if !self.ledger.may_write() {
            return Self::closed();
        }
        let outcome = Pin::new(&mut self.socket).poll_write(cx, buf);
        self.ledger.count(outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if !self.ledger.may_write() {
            return Self::closed();
        }
        let outcome = Pin::new(&mut self.socket).poll_write_vectored(cx, bufs);
        self.ledger.count(outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::sync::RwLock;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::sync::{mpsc, watch};

    use crate::driver::handle::Handle;
    use crate::fencing::gate::Admit;
    use crate::fencing::leadership::Leadership;
    use crate::fencing::mode::{Consistency, FenceMode};
    use crate::ids::NodeId;
    use crate::metrics::Metrics;
    use crate::proxy::route::Route;
    use crate::registry::machine::Machine;
    use crate::time::Duration;

    const ME: NodeId = NodeId(1);

    fn leading() -> Leadership {
        Leadership {
            term: Term(7),
            leader: Some(ME),
            fence: Some(Term(7)),
            lease_until: Some(clock::now() + Duration::from_secs(60)),
            ..Leadership::unknown(ME)
        }
    }

    /// A board whose only gate, an implicit one, is open for term 7.
    fn open_board() -> (watch::Sender<Arc<Leadership>>, Arc<GateBoard>) {
        let (picture, seen) = watch::channel(Arc::new(leading()));
        let machine = Arc::new(RwLock::new(Machine::new(Vec::new())));
        let handle = Handle::new(ME, mpsc::channel(1).0, seen, machine);
        let route = Route {
            name: "orders".into(),
            host: None,
            path_prefix: "/".into(),
            backend: http::Uri::from_static("http://127.0.0.1:1"),
            fence: FenceMode::Implicit,
            reads: Consistency::Lease,
            hold_timeout: Duration::from_secs(1),
        };
        let board = Arc::new(GateBoard::new(handle.clone(), &[route], Duration::ZERO, Metrics::new()));
        board.turn(0, |gate| gate.on_leadership(&handle.leadership(), clock::now()));
        (picture, board)
    }

    #[tokio::test]
    async fn a_gate_that_closed_after_admission_lets_no_byte_out() {
        let (picture, board) = open_board();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let socket = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("connects");
        let (mut backend, _) = listener.accept().await.expect("accepts");
        let (mut counted, ledger) = Counted::new(socket);

        let permit = Permit { board, route: 0, term: Term(7) };
        assert!(permit.holds(), "admitted");
        ledger.begin(Some(permit));
        picture.send_replace(Arc::new(Leadership::unknown(ME)));
        assert!(counted.write_all(b"POST / HTTP/1.1").await.is_err());
        assert_eq!(ledger.written(), 0);

        drop(counted);
        let mut received = Vec::new();
        backend.read_to_end(&mut received).await.expect("reads");
        assert!(received.is_empty());
    }

    /// M19: admitted in one term, and about to leave in another.
    #[tokio::test]
    async fn a_gate_that_opened_for_another_term_lets_no_byte_out() {
        let (picture, board) = open_board();
        let permit = Permit { board: Arc::clone(&board), route: 0, term: Term(7) };
        assert!(permit.holds(), "admitted");
        let next = Leadership { term: Term(9), fence: Some(Term(9)), ..leading() };
        picture.send_replace(Arc::new(next.clone()));
        board.turn(0, |gate| gate.on_leadership(&next, clock::now()));
        assert_eq!(board.admit(0, clock::now()), Admit::Admit(Term(9)), "the gate is open again");
        assert!(!permit.holds(), "for those who are admitted now");
    }

    #[tokio::test]
    async fn a_request_that_has_begun_is_written_to_its_end() {
        let (picture, board) = open_board();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let socket = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("connects");
        let (mut counted, ledger) = Counted::new(socket);
        ledger.begin(Some(Permit { board: Arc::clone(&board), route: 0, term: Term(7) }));
        counted.write_all(b"first").await.expect("the gate is open");
        picture.send_replace(Arc::new(Leadership::unknown(ME)));
        counted.write_all(b"second").await.expect("half a request helps nobody");
        assert_eq!(ledger.written(), 11);

        ledger.begin(Some(Permit { board, route: 0, term: Term(7) }));
        assert!(counted.write_all(b"the next one").await.is_err(), "each request is asked for anew");
        assert_eq!(ledger.written(), 0);
    }
}
