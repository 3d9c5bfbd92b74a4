//! The one source of chance. Every part of a world has its own stream, forked from the seed by
//! name, so that one more draw in the network does not shift what the clients do.

/// Splitmix64: small, fast, and good enough to choose faults with.
#[derive(Debug, Clone)]
pub struct Rng(u64);

/// One round of splitmix64's output function; also used to fold event hashes.
pub const fn mix(mut z: u64) -> u64 {
    z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Rng {
    /// The stream named `label` of `seed`.
    pub const fn stream(seed: u64, label: u64) -> Self {
        Self(mix(mix(seed) ^ mix(label.wrapping_mul(0x5851_f42d_4c95_7f2d))))
    }

    /// The next number.
    pub const fn draw(&mut self) -> u64 {
        let out = mix(self.0);
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        out
    }

    /// Below `n`; zero when `n` is.
    pub const fn below(&mut self, n: u64) -> u64 {
        if n == 0 { 0 } else { self.draw() % n }
    }

    /// From `lo` to `hi`, both included.
    pub const fn range(&mut self, lo: u64, hi: u64) -> u64 {
        if hi <= lo { lo } else { lo + self.below(hi - lo + 1) }
    }

    /// Like [`Rng::range`], with every order of magnitude about as likely.
    pub const fn log_range(&mut self, lo: u64, hi: u64) -> u64 {
        let (lo_bits, hi_bits) = (64 - lo.leading_zeros() as u64, 64 - hi.leading_zeros() as u64);
        let bits = self.range(lo_bits, hi_bits);
        let (floor, ceil) = (if bits == 0 { 0 } else { 1 << (bits - 1) }, (1u64 << bits) - 1);
        self.range(if floor < lo { lo } else { floor }, if ceil > hi { hi } else { ceil })
    }

    /// True `ppm` times in a million.
    pub const fn chance(&mut self, ppm: u32) -> bool {
        ppm > 0 && self.below(1_000_000) < ppm as u64
    }

    /// True half of the time.
    pub const fn coin(&mut self) -> bool {
        self.draw() & 1 == 1
    }

    /// One of `items`, which must not be empty.
    pub fn pick<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.below(items.len() as u64) as usize]
    }
}
