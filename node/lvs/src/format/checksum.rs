//! Checksums of structures, and proofs of blocks: XXH3-64, seeded with the pool.
//!
//! - A structure is summed as if its checksum field were zero (section 1).
//! - The seed makes a structure of another pool never verify.
//! - They find accidents, not forgery: XXH3 is no cryptographic hash.

use uuid::Uuid;
use xxhash_rust::xxh3::{Xxh3, xxh3_64_with_seed};

use crate::geometry::BLOCK_SIZE;

/// Bytes in a checksum field.
const FIELD: usize = size_of::<u64>();

/// What every checksum of a pool begins with: the first eight bytes of its UUID.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Seed(u64);

impl Seed {
    /// The seed of the pool with this UUID.
    pub fn of_pool(pool: Uuid) -> Self {
        let first = pool.as_bytes().first_chunk().expect("a UUID has 16 bytes");
        Self(u64::from_le_bytes(*first))
    }
}

/// Writes the checksum of `bytes` into the eight bytes at offset `at`, and returns it.
///
/// # Panics
///
/// When `bytes` ends before the field does.
pub fn seal(seed: Seed, bytes: &mut [u8], at: usize) -> u64 {
    let sum = compute(seed, bytes, at);
    bytes[at..at + FIELD].copy_from_slice(&sum.to_le_bytes());
    sum
}

/// Whether the eight bytes at offset `at` are the checksum of `bytes`.
///
/// # Panics
///
/// When `bytes` ends before the field does.
pub fn verify(seed: Seed, bytes: &[u8], at: usize) -> bool {
    stated(bytes, at) == compute(seed, bytes, at)
}

/// The checksum that stands at offset `at`.
///
/// # Panics
///
/// When `bytes` ends before the field does.
pub fn stated(bytes: &[u8], at: usize) -> u64 {
    let field = bytes[at..].first_chunk().expect("the caller passes whole structures");
    u64::from_le_bytes(*field)
}

/// The checksum of `bytes` with the eight bytes at offset `at` taken as zero.
///
/// # Panics
///
/// When `bytes` ends before the field does.
pub fn compute(seed: Seed, bytes: &[u8], at: usize) -> u64 {
    let mut hash = Xxh3::with_seed(seed.0);
    hash.update(&bytes[..at]);
    hash.update(&[0; FIELD]);
    hash.update(&bytes[at + FIELD..]);
    hash.digest()
}

/// The checksum of checksums, in order, as a slot header holds it of its chunks (section 5).
pub fn of_checksums(seed: Seed, checksums: impl IntoIterator<Item = u64>) -> u64 {
    let mut hash = Xxh3::with_seed(seed.0);
    for checksum in checksums {
        hash.update(&checksum.to_le_bytes());
    }
    hash.digest()
}

/// In the place of a proof: the block is lost. Content that was there before is not believed,
/// whatever it is.
pub const LOST: u64 = 0;

/// The proof of a block's content, as a Map operation carries it (section 6).
///
/// # Panics
///
/// When `block` is not one whole block.
pub fn proof(seed: Seed, block: &[u8]) -> u64 {
    assert_eq!(block.len(), BLOCK_SIZE as usize, "a proof is that of one block");
    xxh3_64_with_seed(block, seed.0).max(LOST + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEED: Seed = Seed(0x1122_3344_5566_7788);

    fn sample(len: usize) -> Vec<u8> {
        (0..=250).cycle().take(len).collect()
    }

    #[test]
    fn the_seed_is_the_first_eight_bytes_of_the_uuid_in_little_endian() {
        let pool = Uuid::from_bytes([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]);
        assert_eq!(Seed::of_pool(pool), Seed(0x0807_0605_0403_0201));
    }

    #[test]
    fn a_structure_is_summed_with_its_checksum_field_zero() {
        for (len, at) in [(8, 0), (64, 56), (100, 16), (4096, 8), (65536, 56)] {
            let mut bytes = sample(len);
            let sum = seal(SEED, &mut bytes, at);
            assert_eq!(stated(&bytes, at), sum);
            assert!(verify(SEED, &bytes, at));
            bytes[at..at + 8].fill(0);
            assert_eq!(sum, xxh3_64_with_seed(&bytes, SEED.0), "{len} bytes, field at {at}");
        }
    }

    #[test]
    fn the_values_are_those_of_xxh3_and_do_not_change() {
        // From the reference implementation, xxHash 0.8 in C.
        assert_eq!(seal(SEED, &mut sample(64), 16), 0xe9e1_44b8_cd14_2abc);
        assert_eq!(proof(SEED, &sample(4096)), 0x4162_b1f0_f3fb_b0b6);
        assert_eq!(of_checksums(Seed(0), []), 0x2d06_8005_38d3_94c2);
    }

    #[test]
    fn another_pool_and_another_order_give_another_checksum() {
        let mut bytes = sample(64);
        seal(SEED, &mut bytes, 0);
        assert!(!verify(Seed(SEED.0 + 1), &bytes, 0));
        let block = sample(4096);
        assert_ne!(proof(SEED, &block), proof(Seed(0), &block));
        assert_ne!(of_checksums(SEED, [1, 2]), of_checksums(SEED, [2, 1]));
        assert_ne!(of_checksums(SEED, [1, 2]), of_checksums(Seed(0), [1, 2]));
    }

    #[test]
    fn checksums_of_checksums_are_those_of_their_bytes() {
        let mut bytes = 1u64.to_le_bytes().to_vec();
        bytes.extend(0x0203u64.to_le_bytes());
        assert_eq!(of_checksums(SEED, [1, 0x0203]), xxh3_64_with_seed(&bytes, SEED.0));
    }

    #[test]
    #[should_panic(expected = "one block")]
    fn a_proof_of_half_a_block_is_a_bug() {
        proof(SEED, &sample(2048));
    }
}
