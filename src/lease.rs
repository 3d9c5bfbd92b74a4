//! The arithmetic of the leader's lease.
//!
//! A voter that answers a beat promises not to vote for another node for some time, counted from
//! the beat's *arrival* on its own clock. The leader can't see that moment, but it knows that it
//! lies after the *send*, so it counts from there (R6), and takes off what two clocks may drift
//! apart meanwhile: its own may run slow, the voter's may run fast. What a quorum promised is the
//! lease; a margin is taken off for the time between a check and the act it guards.
//!
//! The lease is safe while (a) clock rates differ by less than the bound, (b) no pause is hidden
//! from the clock, (c) a restarted voter holds its vote (R7). Without these it is only likely.

use crate::time::{Duration, Instant};

const MILLION: u128 = 1_000_000;

/// What a leader may rely on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Lease {
    /// No quorum has promised anything yet, or what it promised is over.
    Invalid,
    /// No other node can be elected before `until`, on the leader's clock.
    Valid {
        /// The end.
        until: Instant,
    },
    /// Something cast doubt on it: the clock, the disk, a leadership transfer. Only a quorum's
    /// answer to a beat sent later makes it valid again (R4, R8).
    Suspect,
}

/// The least that a clock, which may run slow by `ppm`, shows while `duration` passes.
pub fn shrink(duration: Duration, ppm: u32) -> Duration {
    scale(duration, MILLION.saturating_sub(u128::from(ppm)), 0)
}

/// The most that a clock, which may run fast by `ppm`, shows while `duration` passes.
pub fn stretch(duration: Duration, ppm: u32) -> Duration {
    scale(duration, MILLION + u128::from(ppm), MILLION - 1)
}

fn scale(duration: Duration, parts: u128, round: u128) -> Duration {
    let nanos = (duration.as_nanos().saturating_mul(parts).saturating_add(round)) / MILLION;
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// Until when, on the leader's clock, a voter that promised `no_vote_for` in answer to a beat sent
/// at `sent_at` certainly gives no other vote. `None` when it promised nothing.
pub fn promise_end(
    sent_at: Instant,
    no_vote_for: Duration,
    own_drift_ppm: u32,
    voter_drift_ppm: u32,
) -> Option<Instant> {
    let counted = shrink(shrink(no_vote_for, own_drift_ppm), voter_drift_ppm);
    (!counted.is_zero()).then(|| sent_at + counted)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{prop_assert, proptest};

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_promise_counts_from_the_send_and_loses_both_drifts() {
        let end = promise_end(Instant::from_millis(1000), 100 * MS, 10_000, 20_000);
        // 100 ms x 0.99 x 0.98
        assert_eq!(end, Some(Instant(1_097_020_000)));
    }

    #[test]
    fn no_promise_gives_no_end() {
        assert_eq!(promise_end(Instant::from_millis(1), Duration::ZERO, 0, 0), None);
        assert_eq!(promise_end(Instant::from_millis(1), MS, 0, u32::MAX), None);
    }

    #[test]
    fn a_hold_is_rounded_up_and_a_lease_down() {
        assert_eq!(shrink(Duration::from_nanos(1), 1), Duration::ZERO);
        assert_eq!(stretch(Duration::from_nanos(1), 1), Duration::from_nanos(2));
    }

    #[test]
    fn absurd_claims_saturate() {
        assert_eq!(promise_end(Instant(u64::MAX), Duration::MAX, 0, 0), Some(Instant(u64::MAX)));
    }

    proptest! {
        /// With any pair of rates inside the bounds, the leader stops before the voter may vote.
        #[test]
        fn the_lease_ends_before_the_promise(
            promise_us in 1_000u64..10_000_000,
            own_ppm in 0u32..200_000,
            voter_ppm in 0u32..200_000,
            own_slow in 0.0f64..1.0,
            voter_fast in 0.0f64..1.0,
        ) {
            let promise = Duration::from_micros(promise_us);
            let end = promise_end(Instant::ZERO, promise, own_ppm, voter_ppm).unwrap_or_default();
            let own_rate = 1.0 - own_slow * f64::from(own_ppm) / 1e6;
            let voter_rate = 1.0 + voter_fast * f64::from(voter_ppm) / 1e6;
            // True time at which the leader's clock shows the end, and the voter's its freedom.
            let lease_over = end.0 as f64 / own_rate;
            let voter_free = promise.as_nanos() as f64 / voter_rate;
            prop_assert!(lease_over <= voter_free * 1.000_001, "{lease_over} {voter_free}");
        }
    }
}
