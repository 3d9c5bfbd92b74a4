//! The one reader of the clock.
//!
//! `CLOCK_BOOTTIME` goes on while the machine is suspended, so a lease cannot outlive a suspend
//! that its holder slept through; `std::time::Instant` stops there (rust-lang/rust#87906). The
//! wall clock is for dates: those of certificates, of invitations, and times for people.

use std::time::{SystemTime, UNIX_EPOCH};

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

/// The wall clock. Nothing about leadership, leases or fences may depend on it.
pub fn wall() -> SystemTime {
    SystemTime::now()
}

/// The wall clock in whole seconds since 1970; 0 before that.
pub fn unix_seconds() -> u64 {
    wall().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn read(id: ClockId) -> Instant {
    let t = clock_gettime(id);
    let seconds = u64::try_from(t.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(t.tv_nsec).unwrap_or(0);
    Instant(seconds.saturating_mul(1_000_000_000).saturating_add(nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel says of itself, which goes on in suspend too. Cut to hundredths of a second.
    fn uptime() -> Instant {
        let text = std::fs::read_to_string("/proc/uptime").expect("a mounted /proc");
        let number = text.split_whitespace().next().expect("the uptime comes first");
        let (seconds, hundredths) = number.split_once('.').expect("with two decimals");
        let of = |digits: &str| digits.parse::<u64>().expect("digits");
        Instant((of(seconds) * 100 + of(hundredths)) * 10_000_000)
    }

    /// R8: no setting of the wall clock moves it.
    #[test]
    fn the_clock_is_that_of_the_boot() {
        let cut = |at: Instant| Instant(at.0 / 10_000_000 * 10_000_000);
        let (before, between, after) = (now(), uptime(), now());
        assert!(cut(before) <= between && between <= cut(after), "{before:?} {between:?} {after:?}");
    }
}
