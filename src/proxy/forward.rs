//! The origin's side of a forwarded request: one exchange with the leader.
//!
//! What a lost exchange means depends on what the leader can have sent on. It can have sent nothing
//! when the head never left, when it said so, or when the content was withheld and none of it was
//! released: the leader holds back the head until the first byte of withheld content is there.
//! Everything else is unknown for a write, and harmless for a read.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::Response;
use tokio::time::{Instant as Deadline, sleep_until, timeout};

use crate::clock;
use crate::driver::handle::Handle;
use crate::fencing::leadership::Leadership;
use crate::fencing::passage;
use crate::hop::body::SendBody;
use crate::hop::client::{Answers, Exchange, HopClient};
use crate::hop::error::HopError;
use crate::hop::message::{Answer, Content as HopContent, Fields, Refusal};
use crate::ids::{NodeId, Term};
use crate::problem::{Kind, Problem};
use crate::proxy::answer::{AbortOnDrop, AnswerBody};
use crate::proxy::body::{Content, Keep, Upload};
use crate::proxy::job::{Attempt, Class, Job, NotStarted, content_problem};
use crate::proxy::limits;
use crate::proxy::wirehead;
use crate::time::Instant;

/// Forwards requests to the leader.
#[derive(Debug, Clone)]
pub struct Forwarder {
    hop: HopClient,
    handle: Handle,
    heard: Arc<Heard>,
}

/// Which node was heard last over the hop, and when.
#[derive(Debug, Default)]
struct Heard(Mutex<Option<(NodeId, Instant)>>);

impl Heard {
    fn note(&self, node: NodeId) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((node, clock::now()));
    }

    fn is_fresh(&self, node: NodeId) -> bool {
        let last = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        passage::was_just_heard(last, node, clock::now(), limits::LEADER_FRESH)
    }
}

/// One attempt at one leader.
struct Talk<'a> {
    forwarder: &'a Forwarder,
    to: NodeId,
    /// The term in which `to` was chosen.
    term: Term,
    job: &'a Job,
    /// Whether the leader can have got enough of the request to send it on.
    released: bool,
}

enum Event {
    Said(Result<Answer, HopError>),
    LeaderMoved,
    TimeOver,
}

impl Forwarder {
    /// Forwards over `hop`.
    pub fn new(hop: HopClient, handle: Handle) -> Self {
        Self { hop, handle, heard: Arc::default() }
    }

    /// Lets `to` serve `job`.
    pub async fn attempt(&self, to: NodeId, job: &Job) -> Attempt {
        let head = wirehead::request_head(job, self.handle.node(), self.heard.is_fresh(to));
        let first = match (&job.keep, head.content) {
            (Keep::Whole(bytes), HopContent::Eager { .. }) => Some(bytes.clone()),
            _ => None,
        };
        let withheld = matches!(head.content, HopContent::Withheld { .. });
        let term = self.handle.leadership().term;
        let mut talk = Talk { forwarder: self, to, term, job, released: !withheld };
        match self.hop.open(to, &head, first).await {
            Ok(exchange) => talk.converse(exchange).await,
            Err(error) => talk.lost(&error),
        }
    }
}

impl Talk<'_> {
    async fn converse(&mut self, exchange: Exchange) -> Attempt {
        let Exchange { mut body, mut answers } = exchange;
        if self.released
            && let Some(body) = body.take()
        {
            in_time(body.finish(&Fields::new())).await;
        }
        let mut upload = None;
        loop {
            let event = self.next(&mut answers).await;
            // Whatever the leader made of it, content that this node's own client broke off explains it.
            if let Some(fault) = self.job.keep.fault() {
                return Attempt::Failed(content_problem(fault, self.content_left()));
            }
            match event {
                Event::Said(Ok(Answer::Go)) => {
                    if let Some(body) = body.take() {
                        self.released = true;
                        upload = send_content(&self.job.keep, body).await;
                    }
                }
                Event::Said(Ok(Answer::Refused(refusal))) => return Attempt::NotStarted(refused(refusal)),
                Event::Said(Ok(Answer::Head(head))) => {
                    let body = AnswerBody::from_hop(answers.into_body(), upload);
                    let answer = wirehead::response(head, Content::Answer(body));
                    let malformed = || HopError::Malformed("the head of an answer".into());
                    return answer.map_or_else(|| self.lost(&malformed()), served);
                }
                Event::Said(Err(error)) => return self.lost(&error),
                Event::LeaderMoved => return self.lost(&HopError::Lost("leadership moved".into())),
                Event::TimeOver => return self.late(),
            }
        }
    }

    /// What happens next. While the client still sends, time does not count.
    async fn next(&self, answers: &mut Answers) -> Event {
        let mut read = self.job.keep.read();
        loop {
            let end = Deadline::now() + limits::ANSWER_TIMEOUT + limits::HOP_SLACK;
            let event = tokio::select! {
                said = answers.next() => Event::Said(said),
                () = self.leader_moved() => Event::LeaderMoved,
                () = sleep_until(end) => Event::TimeOver,
            };
            match event {
                Event::TimeOver if self.job.keep.read() > read => read = self.job.keep.read(),
                Event::Said(Ok(answer)) => {
                    self.forwarder.heard.note(self.to);
                    return Event::Said(Ok(answer));
                }
                other => return other,
            }
        }
    }

    /// Another node leads in a higher term; and where the request may have had an effect, its true
    /// answer did not come for a while after that.
    async fn leader_moved(&self) {
        let mut watch = self.forwarder.handle.watch();
        let replaced = |now: &Leadership| passage::is_replaced(self.to, self.term, now.leader, now.term);
        if watch.wait_for(|now| replaced(now)).await.is_err() {
            std::future::pending::<()>().await;
        }
        if !self.is_harmless() {
            tokio::time::sleep(limits::LATE_ANSWER_TIMEOUT).await;
        }
    }

    /// Whether the request certainly had no effect so far, whatever became of it.
    fn is_harmless(&self) -> bool {
        passage::is_harmless(self.job.class == Class::Write, self.released)
    }

    /// Whether any content left: the leader sends nothing on before it has some.
    fn content_left(&self) -> bool {
        self.released && self.job.keep.read() > 0
    }

    fn lost(&self, error: &HopError) -> Attempt {
        if passage::may_begin_anew(error.nothing_applied(), self.is_harmless()) {
            return Attempt::NotStarted(NotStarted::Unreachable(error.to_string()));
        }
        Attempt::Failed(Problem::new(
            Kind::OutcomeUnknown,
            format!("the leader had the request when the way to it was lost ({error})"),
        ))
    }

    fn late(&self) -> Attempt {
        if self.is_harmless() && self.job.class == Class::Write {
            return Attempt::NotStarted(NotStarted::Unreachable("the leader did not answer in time".into()));
        }
        let problem = Problem::new(Kind::BackendTimeout, "the leader did not answer in time");
        Attempt::Failed(self.job.class.settle(problem))
    }
}

/// Sends what was withheld; a stream in a task of its own, because the answer may come first.
async fn send_content(keep: &Keep, mut body: SendBody) -> Option<AbortOnDrop> {
    let kept = match keep {
        Keep::Stream(upload) => {
            return Some(AbortOnDrop(tokio::spawn(send_stream(upload.clone(), body)).abort_handle()));
        }
        Keep::Whole(bytes) => bytes.clone(),
        Keep::Empty => Bytes::new(),
    };
    in_time(async {
        body.chunk(kept).await?;
        body.finish(&Fields::new()).await
    })
    .await;
    None
}

/// A failure to send shows in the answers, with what it means. Content in memory is short: when the
/// leader does not take it soon, the body is dropped without its end, and that shows there too.
async fn in_time(sending: impl Future<Output = Result<(), HopError>>) {
    let _ = timeout(limits::HOP_SLACK, sending).await;
}

fn served(answer: Response<Content>) -> Attempt {
    Attempt::Served(Box::new(answer))
}

async fn send_stream(upload: Upload, mut body: SendBody) {
    loop {
        match upload.piece().await {
            Some(Ok(bytes)) => {
                if body.chunk(bytes).await.is_err() {
                    return;
                }
            }
            None => return drop(body.finish(&Fields::new()).await),
            // Dropped without its end mark, it can't be taken for the whole.
            Some(Err(_)) => return,
        }
    }
}

/// Why the leader gave a request back, as the node sees it that asked.
pub const fn refused(refusal: Refusal) -> NotStarted {
    match refusal {
        Refusal::NotLeader | Refusal::NoSuchService => NotStarted::GateClosed,
        Refusal::GateClosed => NotStarted::FenceNotRaised,
        Refusal::Fenced => NotStarted::Fenced,
        Refusal::ReadNotConfirmed => NotStarted::ReadNotConfirmed,
    }
}
