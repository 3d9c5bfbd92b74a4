//! Waiting for a condition, with a limit: no test sleeps to be right.

use std::time::{Duration, Instant};

/// How often a condition is looked at. Short against an election, long against a look.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Waits until `look` gives a value, and returns it; `None` when `limit` passes first.
pub fn try_until<T>(limit: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + limit;
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        if Instant::now() >= end {
            return None;
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Like [`try_until`], but a passed limit fails the test and says what was waited for.
pub fn until<T>(what: &str, limit: Duration, look: impl FnMut() -> Option<T>) -> T {
    try_until(limit, look).unwrap_or_else(|| panic!("waited {limit:?} in vain: {what}"))
}
