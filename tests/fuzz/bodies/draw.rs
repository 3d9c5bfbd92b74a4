//! Bytes as values. Exhausted bytes give zeros, so every input means something.

use arbitrary::Unstructured;

/// One byte.
pub fn byte(u: &mut Unstructured<'_>) -> u8 {
    u.arbitrary().unwrap_or(0)
}

/// A coin.
pub fn coin(u: &mut Unstructured<'_>) -> bool {
    byte(u) & 1 == 1
}

/// A number below `n`, from one byte.
pub fn below(u: &mut Unstructured<'_>, n: u64) -> u64 {
    u64::from(byte(u)) % n.max(1)
}

/// One of `all`.
pub fn pick<'a, T>(u: &mut Unstructured<'_>, all: &'a [T]) -> &'a T {
    &all[usize::from(byte(u)) % all.len()]
}

/// Any number: mostly a small one, which meets the state, or an end of the range, which meets the arithmetic.
pub fn number(u: &mut Unstructured<'_>) -> u64 {
    match byte(u) {
        small @ 0..=199 => u64::from(small % 12),
        200..=209 => u64::MAX - below(u, 3),
        210..=219 => u64::MAX / 2 + below(u, 3),
        220..=229 => (1 << 40) - 1 + below(u, 3),
        230..=239 => u64::from(u.arbitrary::<u32>().unwrap_or(0)),
        _ => u.arbitrary().unwrap_or(0),
    }
}

/// A number near `here`, or any.
pub fn near(u: &mut Unstructured<'_>, here: u64) -> u64 {
    match byte(u) {
        0..=119 => here,
        120..=159 => here.saturating_add(1),
        160..=199 => here.saturating_sub(1),
        200..=219 => here.saturating_add(below(u, 8)),
        _ => number(u),
    }
}

/// Up to `most` bytes.
pub fn bytes<'a>(u: &mut Unstructured<'a>, most: usize) -> &'a [u8] {
    let length = usize::from(byte(u)).min(most).min(u.len());
    u.bytes(length).unwrap_or_default()
}
