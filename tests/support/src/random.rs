//! A small seedable generator, so that a seed replays the same run on every platform.
//!
//! The simulations draw every decision from here; none of them reads entropy or a clock.
//!
//! - The sequence of a seed never changes: recorded seeds of found bugs stay meaningful. The
//!   golden test at the end guards this.
//! - Arithmetic is on `u64` only; `usize` appears in slice lengths and nowhere in the stream.
//! - Not fit for secrets.
//!
//! Source: xoshiro256** 1.0 and SplitMix64 (Blackman and Vigna, public domain); `below` is
//! Lemire, "Fast Random Integer Generation in an Interval" (2019).

use std::ops::Range;

/// A deterministic stream of random numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Random {
    state: [u64; 4],
}

impl Random {
    /// The stream of `seed`. Any seed is good, zero and neighbouring ones too.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut expanded = seed;
        Self { state: std::array::from_fn(|_| split_mix(&mut expanded)) }
    }

    /// A number from the whole range of `u64`.
    pub fn next_u64(&mut self) -> u64 {
        let result = self.state[1].wrapping_mul(5).rotate_left(7).wrapping_mul(9);
        let shifted = self.state[1] << 17;
        self.state[2] ^= self.state[0];
        self.state[3] ^= self.state[1];
        self.state[1] ^= self.state[2];
        self.state[0] ^= self.state[3];
        self.state[2] ^= shifted;
        self.state[3] = self.state[3].rotate_left(45);
        result
    }

    /// A number in `0..n`, each equally likely.
    ///
    /// # Panics
    ///
    /// When `n` is zero.
    pub fn below(&mut self, n: u64) -> u64 {
        assert!(n > 0, "no number is below zero");
        // Of the 2^64 draws the lowest `2^64 mod n` products are refused, which leaves each
        // result the same number of draws.
        let refused_below = n.wrapping_neg() % n;
        loop {
            let (high, low) = widening_multiply(self.next_u64(), n);
            if low >= refused_below {
                return high;
            }
        }
    }

    /// A number in `range`, each equally likely.
    ///
    /// # Panics
    ///
    /// When `range` is empty.
    pub fn range(&mut self, range: Range<u64>) -> u64 {
        assert!(range.start < range.end, "empty range {range:?}");
        range.start + self.below(range.end - range.start)
    }

    /// True in `numerator` of `denominator` cases: never at `0`, always when both are equal.
    ///
    /// # Panics
    ///
    /// When `denominator` is zero or less than `numerator`.
    pub fn chance(&mut self, numerator: u64, denominator: u64) -> bool {
        assert!(numerator <= denominator, "chance of {numerator} in {denominator}");
        self.below(denominator) < numerator
    }

    /// Puts `items` in a random order, each order equally likely.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            let other = self.index(last + 1);
            items.swap(last, other);
        }
    }

    /// One of `items`, each equally likely.
    ///
    /// # Panics
    ///
    /// When `items` is empty.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.index(items.len())]
    }

    /// Fills `bytes` with random bytes.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(size_of::<u64>()) {
            let word = self.next_u64().to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
    }

    /// A stream of its own for the purpose `label`.
    ///
    /// Draws exactly one number from `self`, whatever the fork then draws: more draws in one
    /// part of a simulation do not shift the others. Two forks differ even with equal labels.
    #[must_use]
    pub fn fork(&mut self, label: &str) -> Self {
        Self::new(self.next_u64() ^ hash_label(label))
    }

    fn index(&mut self, length: usize) -> usize {
        let index = self.below(length as u64);
        usize::try_from(index).expect("it is below a usize")
    }
}

/// The next number of a SplitMix64 stream.
fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mix(*state)
}

/// A bijection of `u64` in which each input bit changes about half of the output bits.
pub(crate) fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// The high and the low half of the product.
#[expect(clippy::cast_possible_truncation, reason = "the halves are what is wanted")]
fn widening_multiply(a: u64, b: u64) -> (u64, u64) {
    let product = u128::from(a) * u128::from(b);
    ((product >> 64) as u64, product as u64)
}

/// FNV-1a over the label's bytes.
fn hash_label(label: &str) -> u64 {
    label.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draws(random: &mut Random, count: usize) -> Vec<u64> {
        (0..count).map(|_| random.next_u64()).collect()
    }

    #[test]
    fn the_stream_of_a_seed_never_changes() {
        // SplitMix64 of seed 1234567, from the reference implementation.
        let mut state = 1_234_567;
        assert_eq!(split_mix(&mut state), 6_457_827_717_110_365_317);
        assert_eq!(split_mix(&mut state), 3_203_168_211_198_807_973);
        // xoshiro256** of state [1, 2, 3, 4], from the reference implementation.
        let mut random = Random { state: [1, 2, 3, 4] };
        assert_eq!(draws(&mut random, 4), [11_520, 0, 1_509_978_240, 1_215_971_899_390_074_240]);
        // The two together, and a fork.
        let mut random = Random::new(0);
        assert_eq!(random.next_u64(), 0x99ec_5f36_cb75_f2b4);
        assert_eq!(random.fork("writes").next_u64(), 8_696_442_452_127_525_862);
    }

    #[test]
    fn different_seeds_give_different_streams() {
        assert_eq!(draws(&mut Random::new(7), 8), draws(&mut Random::new(7), 8));
        assert_ne!(draws(&mut Random::new(7), 8), draws(&mut Random::new(8), 8));
    }

    #[test]
    fn below_reaches_every_number_and_none_beyond() {
        let mut random = Random::new(1);
        for n in 1..20 {
            let mut seen = vec![0; 20];
            for _ in 0..n * 200 {
                let drawn = random.below(n);
                seen[usize::try_from(drawn).expect("small")] += 1;
            }
            let (inside, beyond) = seen.split_at(usize::try_from(n).expect("small"));
            assert!(inside.iter().all(|&count| count > 100), "{n}: {seen:?}");
            assert!(beyond.iter().all(|&count| count == 0), "{n}: {seen:?}");
        }
    }

    #[test]
    fn below_of_a_huge_bound_stays_below_it() {
        let mut random = Random::new(2);
        let bound = (1 << 63) + 1;
        assert!((0..1000).all(|_| random.below(bound) < bound));
        assert!((0..1000).any(|_| random.below(u64::MAX) >= 1 << 63));
    }

    #[test]
    fn range_keeps_to_its_bounds() {
        let mut random = Random::new(3);
        let drawn: Vec<u64> = (0..1000).map(|_| random.range(5..8)).collect();
        assert!((5..8).all(|value| drawn.contains(&value)));
        assert!(drawn.iter().all(|value| (5..8).contains(value)));
    }

    #[test]
    fn chance_is_never_always_or_about_its_share() {
        let mut random = Random::new(4);
        assert!((0..100).all(|_| !random.chance(0, 3)));
        assert!((0..100).all(|_| random.chance(3, 3)));
        let hits = (0..10_000).filter(|_| random.chance(1, 4)).count();
        assert!((2_200..2_800).contains(&hits), "{hits}");
    }

    #[test]
    fn shuffle_reaches_every_order_of_the_same_items() {
        let mut random = Random::new(5);
        let mut orders = std::collections::BTreeSet::new();
        for _ in 0..500 {
            let mut items = [0, 1, 2, 3];
            random.shuffle(&mut items);
            orders.insert(items);
            items.sort_unstable();
            assert_eq!(items, [0, 1, 2, 3]);
        }
        assert_eq!(orders.len(), 24);
    }

    #[test]
    fn pick_reaches_every_item() {
        let mut random = Random::new(6);
        let picked: std::collections::BTreeSet<_> =
            (0..200).map(|_| *random.pick(&["a", "b", "c"])).collect();
        assert_eq!(picked.len(), 3);
    }

    #[test]
    fn fill_reaches_the_last_byte_of_an_odd_length() {
        let mut random = Random::new(7);
        let mut seen = [0; 13];
        for _ in 0..64 {
            let mut bytes = [0; 13];
            random.fill(&mut bytes);
            seen.iter_mut().zip(bytes).for_each(|(seen, byte)| *seen |= byte);
        }
        assert_eq!(seen, [0xff; 13]);
    }

    #[test]
    fn forks_differ_by_label_and_by_turn_and_cost_one_draw() {
        let mut parent = Random::new(8);
        let mut other = parent.clone();
        let first = parent.fork("writes");
        assert_eq!(other.clone().fork("writes"), first);
        assert_ne!(other.clone().fork("cuts"), first);
        assert_ne!(parent.clone().fork("writes"), first);
        other.next_u64();
        assert_eq!(parent, other);
    }
}
