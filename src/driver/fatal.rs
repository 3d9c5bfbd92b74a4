//! Why a node's loop ends by itself; the process ends with it, or, of a removed node, soon after.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Once};

use crate::ids::{LogId, LogIndex, NodeId};
use crate::storage::StorageError;
use crate::transport::socket::TransportError;

/// Why a loop ended by itself. The process ends with it.
#[derive(Debug, thiserror::Error)]
pub enum Fatal {
    /// The first failed write or fsync: what the page cache holds can no longer be trusted.
    #[error("the store failed, so this node stops: {0}")]
    Storage(#[from] StorageError),
    /// The mesh could not be set up.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The runtime or the thread could not be made.
    #[error("the consensus thread could not be started: {0}")]
    Thread(#[from] std::io::Error),
    /// The leader knows entries as committed that this node acknowledged and no longer has.
    #[error(
        "this node lost entries that it had acknowledged (the leader has {0} committed): its disk did not \
         keep what it flushed; stop using that disk, and put a copy of the data directory back that has them"
    )]
    LostData(LogId),
    /// The others know this node by another data directory.
    #[error(
        "node {0} knows this node by another data directory than this one, which is new or was emptied: what \
         this node had promised and acknowledged is gone with the old one, so it takes no part; put the old \
         directory back, or remove the member and add it again with `termgate member`"
    )]
    Disowned(NodeId),
    /// The membership does not name this node.
    #[error(
        "this node is no member of the cluster: the membership of log entry {0} does not name it, so it was \
         removed; to take part again it must be added with `termgate member add`"
    )]
    Removed(LogIndex),
    /// An invariant of this program does not hold. A node that would go on without its loop would
    /// look alive, with the last picture of who leads.
    #[error("an invariant of this program is broken, so this node stops: {0}; please report it")]
    Panicked(String),
    /// A part of the node is gone, and could not say why.
    #[error("{0} ended by itself, so this node stops; look above for its last words, and report them")]
    Lost(&'static str),
}

/// Whom to tell, from any thread of the node; the first reason counts.
#[derive(Debug, Clone)]
pub struct Alarm<F> {
    on_fatal: F,
    raised: Arc<Once>,
}

impl<F: Fn(Fatal)> Alarm<F> {
    /// Nothing has happened yet.
    pub fn new(on_fatal: F) -> Self {
        Self { on_fatal, raised: Arc::new(Once::new()) }
    }

    /// The node can't go on. Whoever could not be told, because telling panicked, is told again by
    /// the next reason.
    pub fn raise(&self, fatal: Fatal) {
        self.raised.call_once_force(|_| (self.on_fatal)(fatal));
    }
}

/// Runs `work`; a panic in it is a reason like any other. What it leaves behind is used no more.
pub fn guarded(work: impl FnOnce() -> Result<(), Fatal>) -> Result<(), Fatal> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| Err(Fatal::Panicked(text_of(&*panic))))
}

fn text_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("a panic without a text").to_owned()
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_panic_is_a_reason_with_its_text() {
        let reason = guarded(|| panic!("term {} went back", 7)).unwrap_err().to_string();
        assert!(reason.contains("term 7 went back"), "{reason}");
        assert!(guarded(|| panic!("plain")).unwrap_err().to_string().contains("plain"));
        assert!(guarded(|| Ok(())).is_ok());
    }

    #[test]
    fn the_first_reason_that_could_be_told_counts() {
        let (told, reasons) = mpsc::channel();
        let alarm = Alarm::new(move |fatal: Fatal| {
            assert!(!matches!(fatal, Fatal::Panicked(_)), "a log that fails");
            told.send(fatal.to_string()).unwrap();
        });
        let unheard = alarm.clone();
        let telling = guarded(move || {
            unheard.raise(Fatal::Panicked("a".to_owned()));
            Ok(())
        });
        assert!(telling.is_err(), "the alarm's own panic is no secret");
        alarm.raise(Fatal::Lost("the store's thread"));
        alarm.clone().raise(Fatal::Lost("the mesh"));
        drop(alarm);
        let reasons: Vec<String> = reasons.iter().collect();
        assert!(matches!(&reasons[..], [one] if one.contains("store")), "{reasons:?}");
    }
}
