//! The arithmetic of the lease against exact numbers, and quorums against their definition.

use std::collections::{BTreeMap, BTreeSet};

use arbitrary::Unstructured;
use termgate::ids::NodeId;
use termgate::lease::{promise_end, shrink, stretch};
use termgate::quorum::{agreed, agreed_jointly};
use termgate::time::{Duration, Instant};

use super::draw::{below, byte, number};

const MILLION: u128 = 1_000_000;
/// More than any clock is off by: the configuration ends at half of it.
const ALL: u32 = 1_000_000;

fn duration(u: &mut Unstructured<'_>) -> Duration {
    match byte(u) % 4 {
        0 => Duration::from_nanos(number(u)),
        1 => Duration::from_millis(below(u, 200) + 1),
        2 => Duration::MAX,
        _ => Duration::new(number(u), u32::try_from(number(u) % 1_000_000_000).unwrap_or(0)),
    }
}

fn ppm(u: &mut Unstructured<'_>) -> u32 {
    match byte(u) % 4 {
        0 => *super::draw::pick(u, &[0, 1, 1000, 20_000, 500_000, 999_999, ALL, u32::MAX]),
        _ => u.arbitrary().unwrap_or(0) & 0xf_ffff,
    }
}

/// `nanos * parts / 1e6`, rounded down, without a product that could overflow.
fn exact(nanos: u128, parts: u128) -> u128 {
    (nanos / MILLION) * parts + (nanos % MILLION) * parts / MILLION
}

/// `a * b` as high and low half: what u128 cannot hold.
fn product(a: u128, b: u128) -> (u128, u128) {
    let half = u128::from(u64::MAX);
    let (a1, a0, b1, b0) = (a >> 64, a & half, b >> 64, b & half);
    let (low, cross) = (a0 * b0, a1 * b0 + ((a0 * b0) >> 64));
    let middle = (cross & half) + a0 * b1;
    (a1 * b1 + (cross >> 64) + (middle >> 64), (middle << 64) | (low & half))
}

fn saturated(nanos: u128) -> Duration {
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// One value of each kind from the bytes, and everything that must hold of them.
pub fn run(data: &[u8]) {
    let u = &mut Unstructured::new(data);
    let (promise, own, voter, sent_at) = (duration(u), ppm(u), ppm(u), Instant(number(u)));
    let parts = u128::from(ALL.saturating_sub(own));
    assert_eq!(shrink(promise, own), saturated(exact(promise.as_nanos(), parts)));
    stretched(promise, own);
    promised(promise, own, voter, sent_at);
    within_bounds(promise, own % (ALL / 2 + 1), voter % (ALL / 2 + 1), u);
    time(sent_at, promise, Instant(number(u)));
    quorums(u);
}

/// R7: what a hold is stretched to, is never too short, and never a nanosecond longer than needed.
fn stretched(hold: Duration, ppm: u32) {
    let (held, parts) = (stretch(hold, ppm), MILLION + u128::from(ppm));
    if held < Duration::from_nanos(u64::MAX) {
        let (held, exact) = (product(held.as_nanos(), MILLION), product(hold.as_nanos(), parts));
        assert!(held >= exact, "a hold ends too early");
        assert!(held < (exact.0, exact.1.saturating_add(MILLION)), "a hold is rounded twice");
    }
    assert!(held >= hold.min(Duration::from_nanos(u64::MAX)));
}

/// R6: the end counts from the send and loses both drifts, at most two nanoseconds to rounding.
fn promised(promise: Duration, own: u32, voter: u32, sent_at: Instant) {
    let (a, b) = (u128::from(ALL.saturating_sub(own)), u128::from(ALL.saturating_sub(voter)));
    let end = promise_end(sent_at, promise, own, voter);
    let nanos = promise.as_nanos();
    let Some(end) = end else {
        let exact = product(nanos.min(u128::from(u64::MAX)), a * b);
        assert!(exact < (0, 2 * MILLION * MILLION), "a promise of {promise:?} counts for nothing");
        return;
    };
    assert!(end > sent_at || sent_at == Instant(u64::MAX));
    if end.0 < u64::MAX && nanos <= u128::from(u64::MAX) {
        let counted = u128::from(end.0 - sent_at.0);
        let (counted_exact, exact) = (product(counted, MILLION * MILLION), product(nanos, a * b));
        assert!(counted_exact <= exact, "a lease outlives the promise");
        assert!(product(counted + 2, MILLION * MILLION) > exact, "a lease loses more than rounding");
    }
}

/// The reason for all of it: with rates inside the bounds, the leader stops before the voter may vote. The leader's
/// clock ran `1 - slow`, the voter's `1 + fast`, each in parts of a million.
fn within_bounds(promise: Duration, own: u32, voter: u32, u: &mut Unstructured<'_>) {
    let promise = promise.min(Duration::from_nanos(u64::MAX));
    let Some(end) = promise_end(Instant::ZERO, promise, own, voter) else { return };
    if end.0 == u64::MAX {
        return;
    }
    let slow = u128::from(u.arbitrary::<u32>().unwrap_or(0)) % (u128::from(own) + 1);
    let fast = u128::from(u.arbitrary::<u32>().unwrap_or(0)) % (u128::from(voter) + 1);
    // end / (1 - slow) <= promise / (1 + fast), in true time.
    let lease = product(u128::from(end.0), MILLION + fast);
    let free = product(promise.as_nanos(), MILLION - slow);
    assert!(lease <= free, "the lease of {promise:?} with {own} and {voter} ppm outlives the promise");
}

/// Instants saturate and never wrap.
fn time(at: Instant, length: Duration, other: Instant) {
    let sum = u128::from(at.0) + length.as_nanos();
    assert_eq!((at + length).0, u64::try_from(sum).unwrap_or(u64::MAX));
    assert_eq!(
        at.before(length).0,
        u64::try_from(u128::from(at.0).saturating_sub(length.as_nanos())).unwrap_or(0)
    );
    assert_eq!(at.since(other), Duration::from_nanos(at.0.saturating_sub(other.0)));
    assert_eq!(at - other, at.since(other));
}

fn voters(u: &mut Unstructured<'_>) -> BTreeSet<NodeId> {
    (0..below(u, 8)).map(|_| NodeId(below(u, 9))).collect()
}

/// C7: the largest value that more than half have reached, by counting.
fn counted(voters: &BTreeSet<NodeId>, reached: &BTreeMap<NodeId, u64>) -> Option<u64> {
    let have = |least: u64| voters.iter().filter(|id| reached.get(id).is_some_and(|x| *x >= least)).count();
    voters.iter().filter_map(|id| reached.get(id)).copied().filter(|v| 2 * have(*v) > voters.len()).max()
}

fn quorums(u: &mut Unstructured<'_>) {
    let (new, old) = (voters(u), voters(u));
    let reached: BTreeMap<NodeId, u64> = (0..below(u, 9)).map(|id| (NodeId(id), number(u))).collect();
    let of = |id| reached.get(&id).copied();
    assert_eq!(agreed(&new, of), counted(&new, &reached));
    let both = counted(&new, &reached).zip(counted(&old, &reached)).map(|(a, b)| a.min(b));
    assert_eq!(agreed_jointly(&new, Some(&old), of), both);
    assert_eq!(agreed_jointly(&new, None, of), counted(&new, &reached));
}
