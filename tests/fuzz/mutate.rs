//! Mutations of inputs, from a seed: no coverage guides them, but the same ones are tried everywhere.

use crate::dice::Dice;

/// Inputs grow no further.
const LONGEST: usize = 16 * 1024;

/// Some of `inputs`, changed in a few places.
pub fn mutation(rng: &mut Dice, inputs: &[Vec<u8>]) -> Vec<u8> {
    let mut data = inputs[rng.below(inputs.len())].clone();
    for _ in 0..1 + rng.below(4) {
        change(rng, &mut data, inputs);
    }
    data.truncate(LONGEST);
    data
}

fn change(rng: &mut Dice, data: &mut Vec<u8>, inputs: &[Vec<u8>]) {
    let at = rng.below(data.len() + 1);
    let end = data.len().min(at + 1 + rng.below(16));
    match rng.below(9) {
        0 if at < data.len() => data[at] ^= 1 << rng.below(8),
        1 if at < data.len() => data[at] = rng.draw() as u8,
        2 if at < data.len() => data[at] = [0, 1, 0x7f, 0x80, 0xff][rng.below(5)],
        3 => drop(data.drain(at..end)),
        4 => {
            let copy = data[at..end].to_vec();
            let to = rng.below(data.len() + 1);
            data.splice(to..to, copy);
        }
        5 => {
            let new: Vec<u8> = (0..1 + rng.below(8)).map(|_| rng.draw() as u8).collect();
            data.splice(at..at, new);
        }
        6 => {
            let number = [0, u64::MAX, u64::MAX / 2, 1 << 40, 1 << 32][rng.below(5)].to_be_bytes();
            data.splice(at..end, number[rng.below(7)..].iter().copied());
        }
        7 => data.truncate(at),
        _ => {
            let other = &inputs[rng.below(inputs.len())];
            let from = rng.below(other.len() + 1);
            data.splice(at.., other[from..].iter().copied());
        }
    }
}
