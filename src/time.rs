//! Time as a value. Nothing here can read a clock: an [`Instant`] comes in as an argument from
//! `clock`, the one reader, or from the simulator.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::{Add, Sub};

pub use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A point on this node's suspend-safe clock (`CLOCK_BOOTTIME`), in nanoseconds since some start
/// of its own. Two nodes' instants are never compared; one node's may be echoed by another.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Instant(pub u64);

impl Instant {
    /// The clock's start.
    pub const ZERO: Self = Self(0);

    /// Hashed along with the number, like the kinds of [`crate::ids`].
    pub const KIND: u128 = 9 << 64;

    /// Builds an instant from whole milliseconds; for tests and the simulator.
    pub const fn from_millis(ms: u64) -> Self {
        Self(ms.saturating_mul(1_000_000))
    }

    /// How long ago `earlier` was; zero when it lies ahead.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// The point `duration` before this one, or the clock's start.
    pub fn before(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(nanos(duration)))
    }
}

impl Hash for Instant {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u128(Self::KIND | u128::from(self.0));
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl Add<Duration> for Instant {
    type Output = Self;
    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(nanos(duration)))
    }
}

impl Sub for Instant {
    type Output = Duration;
    fn sub(self, earlier: Self) -> Duration {
        self.since(earlier)
    }
}

impl fmt::Display for Instant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03}ms", self.0 / 1_000_000, self.0 / 1_000 % 1_000)
    }
}
