//! A node's clock: its own origin, and a rate against true time that may change.

use termgate::time::Instant;

use crate::rng::Rng;

/// True time: nanoseconds since the start of the world. No node can read it.
pub type True = u64;

/// Nanoseconds in a millisecond.
pub const MS: u64 = 1_000_000;

const PPM: i128 = 1_000_000;

/// The suspend-safe clock of one machine. It survives crashes of the process.
#[derive(Debug, Clone)]
pub struct Clock {
    since: True,
    local: u64,
    /// Parts per million added to the rate of true time; less than nothing for a slow clock.
    fast_ppm: i32,
}

impl Clock {
    /// A clock that starts somewhere of its own.
    pub fn new(rng: &mut Rng, fast_ppm: i32) -> Self {
        Self { since: 0, local: rng.log_range(1, 1 << 50), fast_ppm }
    }

    /// What the clock shows.
    pub fn at(&self, now: True) -> Instant {
        let passed = i128::from(now - self.since) * (PPM + i128::from(self.fast_ppm)) / PPM;
        Instant(self.local + passed as u64)
    }

    /// The first true time at which the clock shows `local` or more, as the clock runs now.
    pub fn when(&self, local: Instant) -> True {
        let ahead = i128::from(local.0.saturating_sub(self.local)) * PPM;
        let rate = PPM + i128::from(self.fast_ppm);
        let passed = (ahead + rate - 1) / rate;
        self.since.saturating_add(u64::try_from(passed).unwrap_or(u64::MAX))
    }

    /// Changes the rate; the time shown does not jump.
    pub fn set_rate(&mut self, now: True, fast_ppm: i32) {
        self.local = self.at(now).0;
        self.since = now;
        self.fast_ppm = fast_ppm;
    }
}

#[cfg(test)]
mod tests {
    use super::{Clock, MS};
    use crate::rng::Rng;
    use termgate::time::Instant;

    #[test]
    fn a_clock_shows_the_instant_it_was_asked_for_at_the_time_it_names_and_not_before() {
        let mut rng = Rng::stream(1, 1);
        for _ in 0..1000 {
            let mut clock = Clock::new(&mut rng, 0);
            clock.set_rate(5 * MS, rng.range(0, 400_000) as i32 - 200_000);
            let wanted = Instant(clock.at(5 * MS).0 + rng.range(1, 1_000 * MS));
            let when = clock.when(wanted);
            assert!(clock.at(when) >= wanted);
            assert!(clock.at(when - 1) < wanted);
        }
    }
}
