//! The ledger's file: one JSON object per line, in the order of `seq`, never changed.
//!
//! A thread of its own writes, because an fsync blocks. It takes whatever has queued up since the
//! last fsync, writes it in one piece, syncs once, and then answers everybody: under load many
//! entries share one fsync, alone an entry waits for nobody.
//!
//! A crash can leave a torn last line; it was never acknowledged, and opening removes it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use crate::ids::{NodeId, Term};

const NAME: &str = "ledger.jsonl";
/// Entries that wait for the disk. More than this and writers wait for a place, which slows their
/// clients down instead of filling memory.
const MAX_QUEUED: usize = 4096;

/// One entry, as it stands in the file and in the list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its position, from 1, without gaps.
    pub seq: u64,
    /// The term it was written under.
    pub term: Term,
    /// The node that stamped it.
    pub node: NodeId,
    /// The request's id, stable over re-sends.
    pub request_id: Option<String>,
    /// The content.
    pub body: String,
}

/// An entry that has no position yet.
#[derive(Debug)]
pub struct Draft {
    /// The term it was written under.
    pub term: Term,
    /// The node that stamped it.
    pub node: NodeId,
    /// The request's id.
    pub request_id: Option<String>,
    /// The content.
    pub body: String,
}

/// Why the file can't be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The file system refused.
    #[error("cannot use {path}: {source}; check the directory, its owner and free space")]
    Io {
        /// Which file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A line in the middle is not an entry.
    #[error("{path} is corrupt at line {line}: restore it, or move it away to start an empty ledger")]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Which line, from 1.
        line: u64,
    },
    /// A write failed; what is on disk is uncertain until the file is opened again.
    #[error("the ledger's file can no longer be written: check the disk and restart")]
    Failed,
}

struct Job {
    draft: Draft,
    done: oneshot::Sender<u64>,
}

/// The open file.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    reader: File,
    /// Bytes that are on disk; nothing beyond is shown.
    durable: Arc<AtomicU64>,
    queue: mpsc::Sender<Job>,
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.draft.fmt(f)
    }
}

impl Journal {
    /// Opens the file in `dir`, repairs a torn end, and starts the writer.
    pub fn open(dir: &Path) -> Result<Self, JournalError> {
        let path = dir.join(NAME);
        let io_error = |source| JournalError::Io { path: path.clone(), source };
        fs::create_dir_all(dir).map_err(io_error)?;
        let mut file =
            OpenOptions::new().read(true).append(true).create(true).open(&path).map_err(io_error)?;
        let mut content = Vec::new();
        file.read_to_end(&mut content).map_err(io_error)?;
        let whole = content.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let count = check(&path, &content[..whole])?;
        file.set_len(whole as u64).map_err(io_error)?;
        file.sync_all().map_err(io_error)?;
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(io_error)?;
        let durable = Arc::new(AtomicU64::new(whole as u64));
        let (queue, jobs) = mpsc::channel(MAX_QUEUED);
        let reader = file.try_clone().map_err(io_error)?;
        let writer = Writer { file, next_seq: count + 1, durable: durable.clone() };
        std::thread::Builder::new()
            .name("ledger-writer".into())
            .spawn(move || writer.run(jobs))
            .map_err(io_error)?;
        Ok(Self { path, reader, durable, queue })
    }

    /// Appends one entry and answers its position when it is on disk.
    pub async fn append(&self, draft: Draft) -> Result<u64, JournalError> {
        let (done, answer) = oneshot::channel();
        self.queue.send(Job { draft, done }).await.map_err(|_| JournalError::Failed)?;
        answer.await.map_err(|_| JournalError::Failed)
    }

    /// All acknowledged entries, as lines. Blocks.
    pub fn read(&self) -> Result<Vec<u8>, JournalError> {
        let length = self.durable.load(Ordering::Acquire);
        let mut lines = vec![0; usize::try_from(length).expect("a file that fits into memory")];
        self.reader
            .read_exact_at(&mut lines, 0)
            .map_err(|source| JournalError::Io { path: self.path.clone(), source })?;
        Ok(lines)
    }
}

/// Counts the entries; their positions must be 1, 2, 3...
fn check(path: &Path, content: &[u8]) -> Result<u64, JournalError> {
    let mut count = 0;
    for line in content.split_inclusive(|byte| *byte == b'\n') {
        let entry: Option<Entry> = serde_json::from_slice(line).ok();
        if entry.is_none_or(|entry| entry.seq != count + 1) {
            return Err(JournalError::Corrupt { path: path.to_owned(), line: count + 1 });
        }
        count += 1;
    }
    Ok(count)
}

struct Writer {
    file: File,
    next_seq: u64,
    durable: Arc<AtomicU64>,
}

impl Writer {
    /// Ends when the journal is dropped, or at the first failure: then all who wait, and all who
    /// come later, learn that the outcome is unknown.
    fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        let mut batch = Vec::with_capacity(MAX_QUEUED);
        while jobs.blocking_recv_many(&mut batch, MAX_QUEUED) > 0 {
            if let Err(error) = self.write(&mut batch) {
                tracing::error!(%error, "the ledger's file cannot be written, no more entries are taken");
                return;
            }
        }
    }

    fn write(&mut self, batch: &mut Vec<Job>) -> io::Result<()> {
        let mut lines = Vec::new();
        let mut answers = Vec::with_capacity(batch.len());
        for Job { draft, done } in batch.drain(..) {
            let Draft { term, node, request_id, body } = draft;
            let entry = Entry { seq: self.next_seq, term, node, request_id, body };
            serde_json::to_writer(&mut lines, &entry)?;
            lines.push(b'\n');
            answers.push((done, entry.seq));
            self.next_seq += 1;
        }
        self.file.write_all(&lines)?;
        self.file.sync_data()?;
        self.durable.fetch_add(lines.len() as u64, Ordering::Release);
        for (done, seq) in answers {
            // Whoever waited may be gone; the entry is written all the same.
            let _ = done.send(seq);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draft(body: &str) -> Draft {
        Draft { term: Term(4), node: NodeId(1), request_id: Some("r".into()), body: body.into() }
    }

    fn entries(journal: &Journal) -> Vec<Entry> {
        let lines = journal.read().expect("reads");
        lines
            .split_inclusive(|byte| *byte == b'\n')
            .map(|line| serde_json::from_slice(line).expect("an entry"))
            .collect()
    }

    #[tokio::test]
    async fn keeps_entries_over_a_restart_and_counts_on() {
        let dir = tempfile::tempdir().expect("a directory");
        let journal = Journal::open(dir.path()).expect("opens");
        assert_eq!(journal.append(draft("a\n\"b\"")).await.expect("writes"), 1);
        drop(journal);
        let journal = Journal::open(dir.path()).expect("opens");
        assert_eq!(journal.append(draft("c")).await.expect("writes"), 2);
        let bodies: Vec<_> = entries(&journal).into_iter().map(|entry| entry.body).collect();
        assert_eq!(bodies, ["a\n\"b\"", "c"]);
    }

    #[tokio::test]
    async fn removes_a_torn_last_line() {
        let dir = tempfile::tempdir().expect("a directory");
        let journal = Journal::open(dir.path()).expect("opens");
        journal.append(draft("a")).await.expect("writes");
        drop(journal);
        let path = dir.path().join(NAME);
        let whole = fs::read(&path).expect("reads");
        let mut torn = whole.clone();
        torn.extend_from_slice(&whole[..whole.len() - 1]);
        fs::write(&path, torn).expect("writes");
        let journal = Journal::open(dir.path()).expect("opens");
        assert_eq!(fs::read(&path).expect("reads"), whole);
        assert_eq!(journal.append(draft("b")).await.expect("writes"), 2);
        assert_eq!(entries(&journal).len(), 2);
    }

    #[test]
    fn refuses_a_file_with_a_gap() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join(NAME);
        let line =
            |seq: u64| format!("{{\"seq\":{seq},\"term\":1,\"node\":1,\"request_id\":null,\"body\":\"\"}}\n");
        fs::write(&path, [line(1), line(3)].concat()).expect("writes");
        assert!(matches!(Journal::open(dir.path()), Err(JournalError::Corrupt { line: 2, .. })));
    }

    #[tokio::test]
    async fn entries_that_queue_up_share_an_fsync() {
        let dir = tempfile::tempdir().expect("a directory");
        let journal = Arc::new(Journal::open(dir.path()).expect("opens"));
        let mut writers = tokio::task::JoinSet::new();
        for _ in 0..500 {
            let journal = journal.clone();
            writers.spawn(async move { journal.append(draft("x")).await.expect("writes") });
        }
        let mut seqs = writers.join_all().await;
        seqs.sort_unstable();
        assert_eq!(seqs, (1..=500).collect::<Vec<_>>());
        assert_eq!(entries(&journal).len(), 500);
    }
}
