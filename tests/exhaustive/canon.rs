//! When two states are the same.
//!
//! A node counts things that only ever grow: its clock, its writes, its sessions, its campaigns. Taken as they
//! are, no state would ever come back and no search would end. But the core compares such numbers with each
//! other and with nothing else, so two states whose numbers differ by a shift have the same futures, and are
//! one state here. What a derived `Hash` feeds names the kind of each number (`termgate::ids`), so this needs
//! to know nothing of the core's fields:
//!
//! | number | taken as | why that is sound |
//! |---|---|---|
//! | `Instant` | its distance to the node's own `now`, no further back than an election timeout | every comparison is with `now`, or with another instant of the same node; every threshold is an election timeout or less, so what lies an election timeout back has passed all of them |
//! | `IoSeq` | how many writes after the last durable one, or 0 | compared with that watermark; new ones are made by counting on |
//! | `Session` | nothing in a node; in a message: the present one of its receiver's leadership, or not | tested for equality only (without transfers), never handed out twice in a term, because a session's messages leave in a term that is durable |
//! | `Campaign` | the same, for the present campaign | tested for equality only, never handed out twice: each life counts in a range of its own |
//! | the random generator | nothing: it hashes to nothing | both ends of the election timeout are equal in every bound |
//!
//! Everything else is taken as it is. The numbers inside a message are those of the node that will compare
//! them ([`crate::mail`]). `lockstep` tests all of this: it takes random walks with the true numbers and
//! compares each step with the one the search would have taken.

use std::hash::{Hash, Hasher};

use termgate::ids::{Campaign, IoSeq, ReadPos, Session};
use termgate::time::Instant;

/// One unit of time. More than a nanosecond, so that "just after" is not "a unit later".
pub const UNIT: u64 = 1_000;

const KIND: u128 = 0xff << 64;
const LENGTH: u128 = 0x10 << 64;
const VARIANT: u128 = 0x11 << 64;
const PLAIN: u128 = 0x12 << 64;
/// The end of a node in the canonical form of all that lies at one place.
pub const END: u128 = 0x13 << 64;

/// What a value feeds to its hasher, number by number and each with its kind.
pub struct Stream {
    /// Instants before this one are equally old.
    oldest: u64,
    durable: IoSeq,
    verbatim: bool,
    /// The canonical numbers.
    pub words: Vec<u128>,
    /// The sessions as they are, in the order of the fields.
    pub sessions: Vec<u64>,
    /// The campaigns as they are.
    pub campaigns: Vec<u64>,
    /// The highest position of a read.
    pub questions: u64,
}

impl Stream {
    /// The canonical form of `value`, a part of a node for which `oldest` is long ago, with this watermark.
    pub fn of(value: &impl Hash, oldest: Instant, durable: IoSeq) -> Self {
        let mut stream = Self::raw(&());
        (stream.oldest, stream.durable, stream.verbatim) = (oldest.0, durable, false);
        value.hash(&mut stream);
        stream
    }

    /// `value` as it is: nothing in it is relative to a node.
    pub fn raw(value: &impl Hash) -> Self {
        let (words, sessions, campaigns) = (Vec::with_capacity(256), Vec::new(), Vec::new());
        let (oldest, durable, verbatim) = (0, IoSeq::ZERO, true);
        let mut stream = Self { oldest, durable, verbatim, words, sessions, campaigns, questions: 0 };
        value.hash(&mut stream);
        stream
    }

    pub fn print(&self) -> u128 {
        print_of(self.words.iter().copied())
    }

    fn canonical(&mut self, word: u128) -> u128 {
        let (kind, number) = (word & KIND, word as u64);
        match kind {
            _ if self.verbatim => word,
            Instant::KIND => kind | u128::from(number.max(self.oldest) - self.oldest),
            IoSeq::KIND => kind | u128::from(number.saturating_sub(self.durable.0)),
            Session::KIND => {
                self.sessions.push(number);
                kind
            }
            ReadPos::KIND => {
                self.questions = self.questions.max(number);
                word
            }
            Campaign::KIND => {
                self.campaigns.push(number);
                kind
            }
            _ => word,
        }
    }
}

impl Hasher for Stream {
    fn finish(&self) -> u64 {
        self.print() as u64
    }

    fn write(&mut self, bytes: &[u8]) {
        for part in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..part.len()].copy_from_slice(part);
            self.words.push(PLAIN | u128::from(u64::from_le_bytes(word)));
        }
    }

    fn write_u8(&mut self, n: u8) {
        self.write_u64(u64::from(n));
    }

    fn write_u32(&mut self, n: u32) {
        self.write_u64(u64::from(n));
    }

    fn write_u64(&mut self, n: u64) {
        self.words.push(PLAIN | u128::from(n));
    }

    fn write_u128(&mut self, n: u128) {
        let word = self.canonical(n);
        self.words.push(word);
    }

    fn write_usize(&mut self, n: usize) {
        self.words.push(LENGTH | n as u128);
    }

    fn write_isize(&mut self, n: isize) {
        self.words.push(VARIANT | n as u128 & 0xffff_ffff);
    }
}

/// The kind of a word.
pub const fn kind_of(word: u128) -> u128 {
    word & KIND
}

/// Whether a word is the length of a collection.
pub const fn is_length(word: u128) -> bool {
    kind_of(word) == LENGTH
}

/// 128 bits that stand for a sequence of words. With `n` states, two of them share one with a probability of
/// about `n² / 2^129`: for a thousand million states, less than one in 10^20.
pub fn print_of(words: impl Iterator<Item = u128>) -> u128 {
    let (mut a, mut b) = (0x243f_6a88_85a3_08d3_u64, 0x1319_8a2e_0370_7344_u64);
    for word in words {
        for half in [word as u64, (word >> 64) as u64] {
            a = fold(a ^ half, 0x9e37_79b9_7f4a_7c15);
            b = fold(b.rotate_left(29) ^ half, 0xd6e8_feb8_6659_fd93);
        }
    }
    let mixed =
        (fold(a ^ b.rotate_left(32), 0xa076_1d64_78bd_642f), fold(b ^ 0x452_821e6, 0xe703_7ed1_a0b4_28db));
    u128::from(mixed.0) << 64 | u128::from(mixed.1 ^ a)
}

fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}
