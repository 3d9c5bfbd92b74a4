//! Which of redb's two commits a start reads.
//!
//! redb keeps the last commit and the one before it, each with a number, and one bit of the header says which is the
//! last. With two-phase commits that bit is believed, and the other commit never looked at. So one flipped bit would
//! take the last commit back, votes and all, without a word (ST-14).
//!
//! The numbers tell: the bit should point at the higher one. If it does not, either the power went between the two
//! flushes of a commit, and the higher one was never acknowledged; or the bit is wrong. The higher one is right in both
//! cases, if it is whole, and redb chooses so by itself when it takes the commits for one-phase ones. But first the
//! commit that the bit points at must be sound, which a trial tells that changes nothing: the number that is too low
//! may have rotted, and then this is damage like any other.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use redb::StorageBackend;

/// Where the flags stand in the header, and two of them.
const FLAGS: u64 = 9;
const SECOND_IS_LAST: u8 = 1;
const TWO_PHASE: u8 = 4;
/// Where the number of each commit stands.
const NUMBERS: [usize; 2] = [64 + 104, 192 + 104];
/// Bytes of the header.
const HEADER: usize = 320;

/// Whether the flags point at the lower number.
pub(super) fn points_at_the_older(backend: &impl StorageBackend) -> bool {
    let mut header = [0; HEADER];
    let read = backend.len().is_ok_and(|len| len >= HEADER as u64) && backend.read(0, &mut header).is_ok();
    let number =
        |at: usize| header.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map(u64::from_le_bytes);
    let [first, second] = NUMBERS.map(number);
    let flags = header[FLAGS as usize];
    let lower = if flags & SECOND_IS_LAST == 0 { first < second } else { second < first };
    read && flags & TWO_PHASE != 0 && lower
}

/// Reads as if the commits had been made in one phase, until the flags are written anew.
#[derive(Debug)]
pub(super) struct ByNumber<B> {
    backend: Arc<B>,
    masked: AtomicBool,
}

impl<B> ByNumber<B> {
    pub(super) fn new(backend: Arc<B>) -> Self {
        Self { backend, masked: AtomicBool::new(true) }
    }
}

impl<B: StorageBackend> StorageBackend for ByNumber<B> {
    fn len(&self) -> io::Result<u64> {
        self.backend.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.backend.read(offset, out)?;
        let flags = FLAGS.checked_sub(offset).and_then(|at| out.get_mut(usize::try_from(at).ok()?));
        if let Some(flags) = flags.filter(|_| self.masked.load(Ordering::Acquire)) {
            *flags &= !TWO_PHASE;
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.backend.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.backend.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        if FLAGS.checked_sub(offset).is_some_and(|at| at < data.len() as u64) {
            self.masked.store(false, Ordering::Release);
        }
        self.backend.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.backend.close()
    }
}

/// What is written stays in memory, so that a trial changes nothing.
#[derive(Debug)]
pub(super) struct Trial<B> {
    backend: Arc<B>,
    len: AtomicU64,
    /// So much of what lies below still counts.
    below: AtomicU64,
    written: Mutex<Vec<(u64, Vec<u8>)>>,
}

impl<B: StorageBackend> Trial<B> {
    pub(super) fn new(backend: Arc<B>) -> io::Result<Self> {
        let len = backend.len()?;
        let written = Mutex::new(Vec::new());
        Ok(Self { backend, len: AtomicU64::new(len), below: AtomicU64::new(len), written })
    }
}

impl<B: StorageBackend> StorageBackend for Trial<B> {
    fn len(&self) -> io::Result<u64> {
        Ok(self.len.load(Ordering::Acquire))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let end = offset.saturating_add(out.len() as u64);
        if end > self.len.load(Ordering::Acquire) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        out.fill(0);
        let there = self.below.load(Ordering::Acquire).saturating_sub(offset).min(out.len() as u64);
        self.backend.read(offset, &mut out[..there as usize])?;
        for (at, data) in self.written.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let (from, to) = (offset.max(*at), end.min(at + data.len() as u64));
            if from < to {
                let new = &data[(from - at) as usize..(to - at) as usize];
                out[(from - offset) as usize..(to - offset) as usize].copy_from_slice(new);
            }
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.len.store(len, Ordering::Release);
        self.below.fetch_min(len, Ordering::AcqRel);
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        written.retain(|(at, _)| *at < len);
        written.iter_mut().for_each(|(at, data)| data.truncate((len - *at) as usize));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner).push((offset, data.to_vec()));
        Ok(())
    }
}
