//! The fence as a tower layer, for any HTTP service that wants to verify terms itself.
//!
//! ```text
//! read (a safe method)  -> inner service, unchecked
//! write                 -> admit -> inner service, with a FencedWrite among its extensions
//! /.well-known/termgate/ -> answered here, by `endpoint`
//! ```
//!
//! A write that was admitted runs to its end in a task of its own: were it dropped with its
//! client's connection, nobody would know whether it can still take effect, and a raise would not
//! wait for it. For the fence a write ends when the inner service has answered and is done with
//! the content. A service that goes on changing things after it has answered is not protected, and
//! neither is one that changes things on GET.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::request::Parts;
use http::{Request, Response};
use http_body::Body;
use tower::{Layer, Service, ServiceExt};

use crate::fencing::verifier::{Admission, Refusal};
use crate::guard::endpoint;
use crate::guard::fence::SharedFence;
use crate::guard::fields::{self, AnswerBody, BoxError, FieldError, Sender};
use crate::guard::refused::{Refused, bad_request, forbidden};
use crate::guard::write::{Ending, FencedBody, FencedWrite, InFlight, Progress};
use crate::ids::{NodeId, Term};
use crate::metrics::{Metrics, RouteLabel};
use crate::problem::Outcome;
use crate::proxy::validate::is_ours;

/// The node whose certificate came with the connection. A server that asks for certificates puts
/// it among the request's extensions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerNode(pub NodeId);

/// Who may write and raise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// Whoever reaches the service; for a listener on loopback only.
    Anyone,
    /// Connections with a node's certificate; the node it names must be the node in the fields.
    NodeCertificate,
}

/// Puts a fence in front of a service.
#[derive(Clone)]
pub struct FenceLayer {
    shared: Arc<Shared>,
}

struct Shared {
    fence: Arc<SharedFence>,
    trust: Trust,
    metrics: Metrics,
}

impl FenceLayer {
    /// A layer in front of the resource of `fence`.
    pub fn new(fence: Arc<SharedFence>, trust: Trust, metrics: Metrics) -> Self {
        Self { shared: Arc::new(Shared { fence, trust, metrics }) }
    }
}

impl<S> Layer<S> for FenceLayer {
    type Service = FenceService<S>;
    fn layer(&self, inner: S) -> FenceService<S> {
        FenceService { shared: self.shared.clone(), inner }
    }
}

/// A service behind a fence. It fails only when the inner service does, or when a write was cut
/// off; the server must then close the connection without an answer, because the outcome of what
/// was already passed on is unknown.
#[derive(Clone)]
pub struct FenceService<S> {
    shared: Arc<Shared>,
    inner: S,
}

type Answer = Result<Response<AnswerBody>, BoxError>;
type AnswerFuture = Pin<Box<dyn Future<Output = Answer> + Send>>;

impl<S, B> Service<Request<B>> for FenceService<S>
where
    S: Service<Request<FencedBody>, Response = Response<AnswerBody>, Error: Into<BoxError>, Future: Send>
        + Clone
        + Send
        + 'static,
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    type Response = Response<AnswerBody>;
    type Error = BoxError;
    type Future = AnswerFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> AnswerFuture {
        let (shared, inner) = (self.shared.clone(), self.inner.clone());
        if is_ours(request.uri().path()) {
            return Box::pin(async move { Ok(shared.endpoint(request).await) });
        }
        if request.method().is_safe() {
            let read = inner.oneshot(request.map(FencedBody::of_read));
            return Box::pin(async move { read.await.map_err(Into::into) });
        }
        Box::pin(async move {
            let (head, content) = request.into_parts();
            match shared.admit(&head).await {
                Ok(write) => run_to_the_end(inner, Request::from_parts(head, content), write).await,
                Err(refusal) => Ok(refusal.answer(&Sender::of(&head.headers))),
            }
        })
    }
}

struct Admitted {
    write: FencedWrite,
    share: Arc<InFlight>,
}

async fn run_to_the_end<S, B>(inner: S, request: Request<B>, admitted: Admitted) -> Answer
where
    S: Service<Request<FencedBody>, Response = Response<AnswerBody>, Error: Into<BoxError>, Future: Send>
        + Send
        + 'static,
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    let Admitted { write, share } = admitted;
    let progress = write.progress.clone();
    let ending = Ending::of(request.version());
    let mut request = request.map(|body| FencedBody::of_write(body, ending, progress, share.clone()));
    request.extensions_mut().insert(write);
    let task = tokio::spawn(async move {
        let answer = inner.oneshot(request).await.map_err(Into::into);
        drop(share);
        answer
    });
    task.await.unwrap_or_else(|ended| Err(format!("the service behind the fence failed: {ended}").into()))
}

impl Shared {
    async fn endpoint<B>(&self, request: Request<B>) -> Response<AnswerBody>
    where
        B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    {
        let peer = request.extensions().get::<PeerNode>().map(|peer| peer.0);
        if self.trust == Trust::NodeCertificate && peer.is_none() && request.method() == http::Method::PUT {
            return forbidden("raising the fence needs a node's certificate").answer(&Sender::default());
        }
        endpoint::serve(&self.fence, peer, &self.metrics, request).await
    }

    async fn admit(&self, head: &Parts) -> Result<Admitted, Refused> {
        let peer = head.extensions.get::<PeerNode>().map(|peer| peer.0);
        let fields = &head.headers;
        let malformed = |error: FieldError| self.refuse("malformed", bad_request(error.to_string()));
        let resource = fields::resource(fields).map_err(malformed)?;
        if resource != &**self.fence.resource() {
            let detail = format!(
                "this guard protects {:?}, not {resource:?}: correct the route's name or its backend",
                self.fence.resource()
            );
            return Err(self.refuse("resource", bad_request(detail)));
        }
        let node = fields::node(fields).map_err(malformed)?;
        if self.trust == Trust::NodeCertificate && peer != Some(node) {
            let detail = "writes need the certificate of the node that Termgate-Node names";
            return Err(self.refuse("identity", forbidden(detail)));
        }
        let term = fields::term(fields).map_err(malformed)?;
        let request_id = fields::request_id(fields).map_err(malformed)?.map(str::to_owned);
        let (progress, share) = self.admit_term(term, node).await?;
        let resource = self.fence.resource().clone();
        let term = term.expect("only a write with a term is admitted");
        Ok(Admitted { write: FencedWrite { term, node, resource, request_id, progress }, share })
    }

    async fn admit_term(
        &self,
        term: Option<Term>,
        node: NodeId,
    ) -> Result<(Arc<Progress>, Arc<InFlight>), Refused> {
        let decision = match (self.fence.admit(term), term) {
            (Err(Admission::RaiseFirst), Some(higher)) => {
                let raised = self.fence.raise(higher, Some(node)).await;
                let not_applied = Some(Outcome::NotApplied);
                raised.map_err(|error| self.refuse("raise", Refused::of_raise(&error, not_applied)))?;
                self.fence.admit(term)
            }
            (decision, _) => decision,
        };
        decision.map_err(|admission| match admission {
            Admission::Refuse(refusal) => self.refuse_term(refusal),
            // A still higher raise came between ours and the second question.
            _ => self.refuse_term(Refusal::NotRaised {
                current: self.fence.present().0.map_or(Term::ZERO, |fence| fence.term),
            }),
        })
    }

    fn refuse_term(&self, refusal: Refusal) -> Refused {
        let label = RouteLabel { route: self.fence.resource().to_string() };
        let (reason, current, detail) = match refusal {
            Refusal::Missing => {
                return self.refuse("missing", bad_request(FieldError::Missing(fields::TERM).to_string()));
            }
            Refusal::Stale { current } => {
                ("stale", current, "the term is older than the fence: another node leads")
            }
            Refusal::NotRaised { current } => {
                let detail = "the fence is not raised to this term: raise it, then send the write again";
                ("not-raised", current, detail)
            }
        };
        self.metrics.fence_refusals.get_or_create(&label).inc();
        self.refuse(reason, Refused::Term { current, detail: detail.to_owned() })
    }

    fn refuse(&self, reason: &'static str, refused: Refused) -> Refused {
        self.metrics.refuse("fence", reason);
        refused
    }
}
