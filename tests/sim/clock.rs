//! A node's clock: its own origin, and a rate against true time that may change.

use termgate::time::Instant;

use crate::rng::Rng;

/// True time: nanoseconds since the start of the world. No node can read it.
pub type True = u64;

/// Nanoseconds in a millisecond.
pub const MS: u64 = 1_000_000;

const PPM: u64 = 1_000_000;

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
        Instant(self.local + (now - self.since) * self.rate() / PPM)
    }

    /// The first true time at which the clock shows `local` or more, as the clock runs now.
    pub fn when(&self, local: Instant) -> True {
        let ahead = local.0.saturating_sub(self.local);
        // A wait of hours is for ever here, and an overflow would be one of hours.
        match ahead.checked_mul(PPM) {
            Some(scaled) if self.rate() > 0 => self.since.saturating_add(scaled.div_ceil(self.rate())),
            _ => True::MAX,
        }
    }

    /// What it shows in a million nanoseconds of true time.
    const fn rate(&self) -> u64 {
        (PPM as i64 + self.fast_ppm as i64) as u64
    }

    /// It shows the same time until it gets a rate again.
    pub fn stop(&mut self, now: True) {
        self.set_rate(now, -(PPM as i32));
    }

    /// It shows a later time from one moment to the next.
    pub const fn jump(&mut self, by: u64) {
        self.local += by;
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
