//! A running fingerprint of everything that was applied, and of what it answered.
//!
//! Two state machines that went through the same entries with the same effects have the same
//! digest, so the simulator and operators compare 8 bytes instead of two states. It is a checksum
//! against our own mistakes, not a defence against an attacker.

/// The fingerprint so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Digest(u64);

/// An odd multiplier with well mixed bits (the golden ratio of 2^64).
const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

impl Digest {
    /// Of an empty history.
    pub const EMPTY: Self = Self(0x7465_726d_6761_7465);

    /// Adds one number.
    pub fn number(&mut self, n: u64) {
        let mixed = (self.0.rotate_left(23) ^ n).wrapping_mul(MULTIPLIER);
        self.0 = mixed ^ (mixed >> 29);
    }

    /// Adds bytes, and their count, so that two fields can't borrow from each other.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.number(u64::from_le_bytes(word));
        }
    }

    /// The fingerprint that [`Digest::value`] gave.
    pub const fn of_value(value: u64) -> Self {
        Self(value)
    }

    /// The fingerprint as a number.
    pub const fn value(self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(parts: &[&[u8]]) -> u64 {
        let mut digest = Digest::EMPTY;
        parts.iter().for_each(|part| digest.bytes(part));
        digest.value()
    }

    #[test]
    fn order_and_borders_of_the_parts_matter() {
        let all =
            [of(&[b"ab", b"c"]), of(&[b"a", b"bc"]), of(&[b"c", b"ab"]), of(&[b"abc"]), of(&[b"abc\0"])];
        for (i, one) in all.iter().enumerate() {
            assert!(all[i + 1..].iter().all(|other| other != one), "part {i} collides");
        }
    }
}
