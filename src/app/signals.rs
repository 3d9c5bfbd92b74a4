//! When a process should end.

use std::io;

use rustix::process::{Signal, set_parent_process_death_signal};
use tokio::signal::unix::{SignalKind, signal};

/// Set by `termgate dev` for its children: they must not outlive it, however it ends.
const ENDS_WITH_PARENT: &str = "TERMGATE_ENDS_WITH_PARENT";

/// Ties this process to its parent, if the parent asked for it.
pub fn end_with_parent() {
    if std::env::var_os(ENDS_WITH_PARENT).is_some()
        && let Err(error) = set_parent_process_death_signal(Some(Signal::TERM))
    {
        tracing::warn!(%error, "this process may outlive the one that started it");
    }
}

/// Waits for SIGTERM or SIGINT; says which.
pub async fn asked_to_end() -> io::Result<&'static str> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    })
}
