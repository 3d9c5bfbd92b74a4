//! A node's disk with the project's own store on it: redb, over a medium that tears, loses, fails and
//! rots. The model in `disk` says what must be found; this says what is.

use termgate::ids::{Life, NodeId};
use termgate::raft::entry::{Durable, Membership, Persist};
use termgate::storage::{Identity, Opened, StorageError, Store};
use termgate::time::Duration;

use crate::medium::{self, Fault, Survival};
use crate::params::StoreParams;
use crate::rng::Rng;

/// More calls than a commit or a start usually makes: a fault at one of so many sometimes misses.
const CALLS: u64 = 14;
/// What a page of redb takes, and what is damaged as a whole.
const PAGE: usize = 4096;

/// The medium, and the store while a process has it open.
#[derive(Debug)]
pub struct Flash {
    medium: medium::Disk,
    store: Option<Store>,
    identity: Identity,
    incarnation: u64,
    params: StoreParams,
    was_opened: bool,
    /// What was being committed when the process ended: there as a whole, or not at all.
    limbo: Vec<Persist>,
    /// It was damaged after it had held something.
    damaged: bool,
}

/// Why a start did not come about.
#[derive(Debug)]
pub enum NoStart {
    /// The power went again.
    PowerCut,
    /// There is no space.
    Full,
    /// What is there is damaged, and that was noticed: this node can't come back.
    Damaged,
    /// It should have started.
    Wrong(String),
}

/// How a crash went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crash {
    /// While nothing was being committed.
    Idle,
    /// In the midst of a commit, with the power.
    CutInCommit,
    /// In the midst of a commit; the machine went on.
    KilledInCommit,
}

impl Flash {
    /// An empty medium for `node`.
    pub fn new(node: NodeId, membership: Membership, incarnation: u64, params: StoreParams) -> Self {
        Self {
            medium: medium::Disk::new(),
            store: None,
            identity: Identity { cluster: "simulated".to_owned(), node, membership },
            incarnation,
            params,
            was_opened: false,
            limbo: Vec::new(),
            damaged: false,
        }
    }

    /// Opens the store, as a start does, and compares it with `expected`, what was acknowledged. Returns
    /// also what is there beyond that.
    pub fn open(
        &mut self,
        expected: &Durable,
        promise: Duration,
        rng: &mut Rng,
    ) -> Result<(Life, Duration, Vec<Persist>), NoStart> {
        if rng.chance(self.params.cut_in_start_ppm) {
            self.medium.fail_at(self.medium.calls() + rng.below(CALLS), Fault::PowerCut);
        }
        let opened =
            Store::open_with_backend(self.medium.backend(), &self.identity, promise, self.incarnation);
        let cut = self.medium.is_off();
        if !cut {
            self.medium.no_fault();
        }
        match opened {
            Ok((store, opened)) if !cut => {
                self.store = Some(store);
                self.was_opened = true;
                self.damaged = false;
                self.judge(opened, expected)
            }
            Ok(_) => Err(NoStart::Wrong("ST-5: a start came about in spite of a failed call".to_owned())),
            Err(_) if cut => Err(self.lose_power_at_start(rng)),
            Err(StorageError::DiskFull { .. }) => {
                self.medium.kill();
                self.forget_half_made();
                Err(NoStart::Full)
            }
            Err(_) if self.damaged => Err(NoStart::Damaged),
            Err(error) => Err(NoStart::Wrong(format!("ST-1: the store does not open: {error}"))),
        }
    }

    fn lose_power_at_start(&mut self, rng: &mut Rng) -> NoStart {
        self.medium.reboot(survival(rng), rng.draw());
        self.forget_half_made();
        NoStart::PowerCut
    }

    /// What a first start leaves that did not come to its end is thrown away, as the directory does it.
    fn forget_half_made(&mut self) {
        if !self.was_opened {
            self.medium = medium::Disk::new();
        }
    }

    /// ST-1: what is found is what was acknowledged, and perhaps what was being committed.
    fn judge(
        &mut self,
        opened: Opened,
        expected: &Durable,
    ) -> Result<(Life, Duration, Vec<Persist>), NoStart> {
        let limbo = std::mem::take(&mut self.limbo);
        let Opened { durable: found, life, promised } = opened;
        if found == *expected {
            return Ok((life, promised, Vec::new()));
        }
        let mut with_limbo = expected.clone();
        limbo.iter().for_each(|write| crate::model::keep(&mut with_limbo, write));
        if found == with_limbo {
            return Ok((life, promised, limbo));
        }
        let last = |d: &Durable| d.log.last().map_or(d.base, |entry| entry.id);
        Err(NoStart::Wrong(format!(
            "ST-1: found {:?} and a log from {} to {}; acknowledged was {:?} and {} to {}, under way were {}",
            found.hard_state,
            found.base,
            last(&found),
            expected.hard_state,
            expected.base,
            last(expected),
            limbo.len()
        )))
    }

    /// Commits `batch`. When that fails the process ends, and nobody knows how far it came.
    pub fn write(&mut self, batch: &[Persist], fails: bool, full: bool, rng: &mut Rng) -> Result<(), ()> {
        let Some(store) = &mut self.store else { return Err(()) };
        if fails {
            self.medium.fail_at(self.medium.calls() + rng.below(CALLS), Fault::Error);
        }
        self.medium.fill(full);
        let written = store.write(batch);
        self.medium.no_fault();
        if written.is_err() {
            self.limbo = batch.to_vec();
        }
        written.map_err(drop)
    }

    /// The process ends while `batch` is being committed, unless that failed already.
    pub fn crash(&mut self, batch: &[Persist], rng: &mut Rng) -> Crash {
        self.medium.fill(false);
        let mut store = self.store.take();
        let in_commit = self.limbo.is_empty() && !batch.is_empty();
        if let Some(store) = store.as_mut().filter(|_| in_commit) {
            self.medium.fail_at(self.medium.calls() + rng.below(CALLS), Fault::PowerCut);
            // Whether it was in time or not: nobody was told.
            let _ = store.write(batch);
            self.limbo = batch.to_vec();
        }
        // First, or redb would tidy up as it is dropped.
        self.medium.switch_off();
        drop(store);
        let killed = rng.chance(self.params.kill_ppm);
        if killed {
            self.medium.kill();
        } else {
            self.medium.reboot(survival(rng), rng.draw());
        }
        match (in_commit, killed) {
            (false, _) => Crash::Idle,
            (true, false) => Crash::CutInCommit,
            (true, true) => Crash::KilledInCommit,
        }
    }

    /// Space is there again, or not yet.
    pub fn fill(&self, full: bool) {
        self.medium.fill(full);
    }

    /// Nothing happens to it of itself any more.
    pub const fn heal(&mut self) {
        self.params.cut_in_start_ppm = 0;
        self.params.rot_ppm = 0;
    }

    /// What lies there rots while nobody looks.
    pub fn rot(&mut self, rng: &mut Rng) {
        self.damaged = true;
        self.medium.damage(|bytes| {
            if bytes.len() < 2 * PAGE {
                return;
            }
            let pages = (bytes.len() / PAGE) as u64;
            let at = rng.below(pages) as usize * PAGE;
            let used =
                (0..pages as usize).map(|page| page * PAGE).filter(|at| bytes[*at..][..PAGE] != [0; PAGE]);
            let used: Vec<usize> = used.collect();
            let page = if used.is_empty() { at } else { rng.pick(&used) };
            match rng.below(5) {
                0 => bytes[page + rng.below(PAGE as u64) as usize] ^= 1 << rng.below(8),
                1 => bytes[page..][..PAGE].fill(0),
                2 => bytes.copy_within(page..page + PAGE, at),
                3 => bytes.truncate(page.max(1)),
                _ => {
                    let sector = page + rng.below(8) as usize * 512;
                    bytes[sector..][..512].iter_mut().for_each(|byte| *byte = rng.draw() as u8);
                }
            }
        });
    }
}

fn survival(rng: &mut Rng) -> Survival {
    rng.pick(&[Survival::Nothing, Survival::Everything, Survival::Some, Survival::Some])
}
