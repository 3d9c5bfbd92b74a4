//! Certificates are replaced while the process runs.
//!
//! Copy the new files over the old ones: within [`INTERVAL`], or at once on SIGHUP, they are read and
//! checked as at the start. New connections use them, old ones go on with what they have. Files that
//! don't fit together (a new certificate, still the old key) change nothing; they are read again when
//! one of them changes again, so the order of the copies does not matter.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Duration, MissedTickBehavior, interval};

use crate::config::TlsFiles;
use crate::metrics::Metrics;
use crate::transport::credentials::Credentials;

/// How often the files are looked at: three `stat` calls. A rotation has days, a person who copies
/// files does not like to wait.
const INTERVAL: Duration = Duration::from_secs(5);

/// What tells one content of a file from another without reading it: when its inode last changed,
/// which inode, and how long. A file that can't be looked at is like no other.
type Mark = Option<(i64, i64, u64, u64)>;

/// Follows the files for as long as the process runs. Call it inside a runtime.
///
/// # Errors
/// When the system gives no handler for SIGHUP.
pub fn follow(files: TlsFiles, credentials: Credentials, metrics: Metrics) -> io::Result<()> {
    let mut hangup = signal(SignalKind::hangup())?;
    metrics.certificate_not_after.set(credentials.not_after());
    let mut seen = marks(&files);
    tokio::spawn(async move {
        let mut ticks = interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let asked = tokio::select! {
                _ = hangup.recv() => true,
                _ = ticks.tick() => false,
            };
            let found = marks(&files);
            if asked || found != seen {
                seen = found;
                reload(&files, &credentials, &metrics);
            }
        }
    });
    Ok(())
}

fn reload(files: &TlsFiles, credentials: &Credentials, metrics: &Metrics) {
    let cert = files.cert.display();
    match credentials.reload() {
        Ok(()) => {
            metrics.certificate_not_after.set(credentials.not_after());
            tracing::info!(%cert, not_after = credentials.not_after(), "certificates reloaded; new connections use them");
        }
        Err(error) => {
            metrics.refuse("certificates", "reload-failed");
            tracing::error!(%cert, %error, "the new certificates can't be used; the old ones stay in use");
        }
    }
}

fn marks(files: &TlsFiles) -> [Mark; 3] {
    [&files.ca, &files.cert, &files.key].map(|file| mark(file))
}

fn mark(file: &Path) -> Mark {
    let meta = fs::metadata(file).ok()?;
    Some((meta.ctime(), meta.ctime_nsec(), meta.ino(), meta.size()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_content_has_another_mark() {
        let dir = tempfile::tempdir().unwrap();
        let (file, new) = (dir.path().join("cert.pem"), dir.path().join("new.pem"));
        assert_eq!(mark(&file), None);
        fs::write(&file, "one").unwrap();
        let first = mark(&file);
        assert!(first.is_some());
        assert_eq!(mark(&file), first);
        fs::write(&new, "two").unwrap();
        fs::rename(&new, &file).unwrap();
        assert_ne!(mark(&file), first, "replaced by a file of the same length");
        let second = mark(&file);
        fs::write(&file, "three").unwrap();
        assert_ne!(mark(&file), second, "written over");
    }
}
