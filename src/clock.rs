//! The one reader of the clock.
//!
//! `CLOCK_BOOTTIME` goes on while the machine is suspended, so a lease cannot outlive a suspend
//! that its holder slept through; `std::time::Instant` stops there (rust-lang/rust#87906). The
//! wall clock is read only to print a time for people.

use std::time::SystemTime;

use rustix::time::{ClockId, clock_gettime};

use crate::time::Instant;

/// Now, on the suspend-safe clock.
pub fn now() -> Instant {
    read(ClockId::Boottime)
}

/// Now, on the clock that stops in suspend. Only compared with [`now`], to notice a suspend.
pub fn monotonic() -> Instant {
    read(ClockId::Monotonic)
}

/// The wall clock, for display only: no decision may depend on it.
pub fn wall() -> SystemTime {
    SystemTime::now()
}

fn read(id: ClockId) -> Instant {
    let t = clock_gettime(id);
    let seconds = u64::try_from(t.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(t.tv_nsec).unwrap_or(0);
    Instant(seconds.saturating_mul(1_000_000_000).saturating_add(nanos))
}
