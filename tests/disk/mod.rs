//! A disk in memory that fails on command: errors at the n-th call, a full disk, and power cuts that
//! lose, keep or tear whatever was not flushed. Deterministic: a seed decides what survives.
//!
//! The model is the weakest disk that redb may meet. A write is remembered until the next
//! successful flush makes it durable. A power cut keeps an arbitrary subset of the remembered
//! writes, each whole or cut at a sector, in any order. After a failed flush the remembered writes
//! are forgotten though reads still show them, as Linux does with the pages of a failed fsync.

// Each test crate uses its own part of this.
#![allow(dead_code)]

use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};
use redb::StorageBackend;

/// What is written or lost as a whole.
const SECTOR: usize = 512;

/// What the disk does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The call fails with an input/output error.
    Error,
    /// The call fails for want of space.
    Full,
    /// The power goes before the call: it and all later ones fail.
    PowerCut,
}

/// What survives of the writes that no flush covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Survival {
    /// None of them.
    Nothing,
    /// All of them.
    Everything,
    /// A random subset, some torn, in random order.
    Some,
}

#[derive(Debug, Clone)]
enum Change {
    SetLen(usize),
    Write(usize, Vec<u8>),
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::SetLen(len) => bytes.resize(*len, 0),
            Self::Write(at, data) => {
                let end = at + data.len();
                bytes.resize(bytes.len().max(end), 0);
                bytes[*at..end].copy_from_slice(data);
            }
        }
    }
}

#[derive(Debug, Default)]
struct State {
    live: Vec<u8>,
    durable: Vec<u8>,
    unflushed: Vec<Change>,
    calls: u64,
    flushes: u64,
    fault_at: Option<(u64, Fault)>,
    flush_fault_at: Option<(u64, Fault)>,
    /// Every write fails for want of space.
    full: bool,
    /// A flush failed: what it covered is neither dirty nor on the disk.
    flush_failed: bool,
    off: bool,
    power_cycle: u64,
}

/// The disk; clones are the same disk.
#[derive(Debug, Clone, Default)]
pub struct Disk(Arc<Mutex<State>>);

impl Disk {
    /// An empty disk.
    pub fn new() -> Self {
        Self::default()
    }

    /// A disk that holds `bytes`, durably.
    pub fn holding(bytes: Vec<u8>) -> Self {
        let disk = Self::new();
        disk.state().live = bytes.clone();
        disk.state().durable = bytes;
        disk
    }

    /// What the program sees now.
    pub fn bytes(&self) -> Vec<u8> {
        self.state().live.clone()
    }

    /// What a power cut would leave now if nothing unflushed survived.
    pub fn durable(&self) -> Vec<u8> {
        self.state().durable.clone()
    }

    /// Holds every call up until the guard is dropped.
    pub fn stall(&self) -> impl Drop + '_ {
        self.state()
    }

    /// A door to it, good until the next [`Disk::reboot`].
    pub fn backend(&self) -> Backend {
        Backend { disk: self.clone(), power_cycle: self.state().power_cycle }
    }

    /// Changing calls (write, set length, flush) so far.
    pub fn calls(&self) -> u64 {
        self.state().calls
    }

    /// Flushes so far.
    pub fn flushes(&self) -> u64 {
        self.state().flushes
    }

    /// Makes the changing call number `call` (from 0) fail.
    pub fn fail_at(&self, call: u64, fault: Fault) {
        self.state().fault_at = Some((call, fault));
    }

    /// Makes the flush number `flush` (from 0) fail.
    pub fn fail_flush_at(&self, flush: u64, fault: Fault) {
        self.state().flush_fault_at = Some((flush, fault));
    }

    /// No call fails any more that was to fail.
    pub fn no_fault(&self) {
        self.state().fault_at = None;
        self.state().flush_fault_at = None;
    }

    /// From now on every write fails for want of space, or does not any more.
    pub fn fill(&self, full: bool) {
        self.state().full = full;
    }

    /// Every call fails from now on, until a [`Disk::reboot`] or [`Disk::kill`].
    pub fn switch_off(&self) {
        self.state().off = true;
    }

    /// Whether every call fails now.
    pub fn is_off(&self) -> bool {
        self.state().off
    }

    /// The process that has it open ends, and the machine goes on: what was written and not flushed is
    /// still to be read, and still to be flushed. What a failed flush covered is gone: nothing will ever
    /// write it, so a reader must not see it either.
    pub fn kill(&self) {
        let mut state = self.state();
        if state.flush_failed {
            let mut live = state.durable.clone();
            state.unflushed.iter().for_each(|change| change.apply(&mut live));
            state.live = live;
        }
        state.flush_failed = false;
        state.off = false;
        state.fault_at = None;
        state.flush_fault_at = None;
        state.power_cycle += 1;
    }

    /// Damages what it holds, durably.
    pub fn damage(&self, harm: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.state();
        harm(&mut state.durable);
        state.unflushed.clear();
        state.live = state.durable.clone();
    }

    /// Cuts the power if it is still on, and starts again with what survived.
    pub fn reboot(&self, survival: Survival, seed: u64) {
        let mut state = self.state();
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut unflushed = std::mem::take(&mut state.unflushed);
        match survival {
            Survival::Nothing => unflushed.clear(),
            Survival::Everything => (),
            Survival::Some => unflushed = random_part(unflushed, &mut rng),
        }
        for change in unflushed {
            change.apply(&mut state.durable);
        }
        state.live = state.durable.clone();
        state.off = false;
        state.flush_failed = false;
        state.fault_at = None;
        state.flush_fault_at = None;
        state.power_cycle += 1;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }
}

fn random_part(changes: Vec<Change>, rng: &mut ChaCha8Rng) -> Vec<Change> {
    let mut kept = Vec::new();
    for change in changes {
        match change {
            Change::SetLen(_) if rng.random_bool(0.5) => kept.push(change),
            Change::SetLen(_) => (),
            Change::Write(at, data) => {
                let share = [0.0, 0.5, 1.0][rng.random_range(0..3)];
                for (i, sector) in data.chunks(SECTOR).enumerate() {
                    if rng.random_bool(share) {
                        kept.push(Change::Write(at + i * SECTOR, sector.to_vec()));
                    }
                }
            }
        }
    }
    kept
}

/// A door to a [`Disk`], as redb wants it.
#[derive(Debug)]
pub struct Backend {
    disk: Disk,
    power_cycle: u64,
}

impl Backend {
    fn state(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.disk.state();
        match state.off || state.power_cycle != self.power_cycle {
            true => Err(io::Error::other("the power is off")),
            false => Ok(state),
        }
    }

    /// Counts a changing call and fails it when its turn has come.
    fn begin(&self, flush: bool) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.state()?;
        let call = state.calls;
        state.calls += 1;
        let mut fault = state.fault_at.filter(|(at, _)| *at == call).map(|(_, fault)| fault);
        if flush {
            let number = state.flushes;
            state.flushes += 1;
            fault = fault.or(state.flush_fault_at.filter(|(at, _)| *at == number).map(|(_, fault)| fault));
        }
        let error = match fault {
            None if state.full && !flush => io::Error::from(io::ErrorKind::StorageFull),
            None => return Ok(state),
            Some(Fault::Error) => io::Error::other("injected input/output error"),
            Some(Fault::Full) => io::Error::from(io::ErrorKind::StorageFull),
            Some(Fault::PowerCut) => {
                state.off = true;
                return Err(io::Error::other("the power is off"));
            }
        };
        if flush {
            state.unflushed.clear();
            state.flush_failed = true;
        }
        Err(error)
    }
}

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        Ok(self.state()?.live.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.state()?;
        let start = usize::try_from(offset).unwrap();
        let bytes = state.live.get(start..start + out.len());
        out.copy_from_slice(bytes.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(Change::SetLen(usize::try_from(len).unwrap()))
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.begin(true)?;
        for change in std::mem::take(&mut state.unflushed) {
            change.apply(&mut state.durable);
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.change(Change::Write(usize::try_from(offset).unwrap(), data.to_vec()))
    }
}

impl Backend {
    fn change(&self, change: Change) -> io::Result<()> {
        let mut state = self.begin(false)?;
        change.apply(&mut state.live);
        state.unflushed.push(change);
        Ok(())
    }
}
