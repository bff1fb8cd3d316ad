//! What `--verify` writes: every block tells which run, which block and which write it is of.
//!
//! ```text
//!   0  magic  8  run  16  LBA  24  version  28  zero  32 ... words that follow from all of these
//! ```
//!
//! - No two writes of a run have the same bytes, and no byte of a block is left to chance: a part of
//!   another write, of another block or of an earlier life is found.
//! - The version counts the writes of a unit, from 1.

use std::fmt;

use fathom_units::Lba;

use crate::random::mix;

const MAGIC: [u8; 8] = *b"FathomVB";
const HEADER_BYTES: usize = 32;
const WORD_BYTES: usize = size_of::<u64>();

/// What a block was found to hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Found {
    /// All of a write of this block.
    Version(u32),
    /// The beginning of a write of this block, and something else from this byte on.
    Torn {
        /// The write.
        version: u32,
        /// The first byte that is not of it.
        at: usize,
    },
    /// What was written to another block.
    Displaced {
        /// The block.
        lba: Lba,
        /// The write.
        version: u32,
    },
    /// Zeros.
    Zeros,
    /// Nothing that this run has written.
    Foreign,
    /// It could not be read.
    Unreadable(fathom_block::Error),
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version(version) => write!(f, "write {version} of it"),
            Self::Torn { version, at } => {
                write!(f, "write {version} of it up to byte {at}, and something else from there on")
            }
            Self::Displaced { lba, version } => {
                write!(f, "write {version} of block {}", lba.0)
            }
            Self::Zeros => f.write_str("zeros"),
            Self::Foreign => f.write_str("what this run never wrote"),
            Self::Unreadable(error) => write!(f, "nothing that can be read: {error}"),
        }
    }
}

/// Fills a logical block.
pub(crate) fn fill(block: &mut [u8], run: u64, lba: Lba, version: u32) {
    block[..HEADER_BYTES].copy_from_slice(&header(run, lba, version));
    let key = key(run, lba, version);
    for (number, word) in (0..).zip(block[HEADER_BYTES..].chunks_exact_mut(WORD_BYTES)) {
        word.copy_from_slice(&word_of(key, number));
    }
}

/// What a logical block holds.
pub(crate) fn look(block: &[u8], run: u64, lba: Lba) -> Found {
    let version = u32_at(block, 24);
    let (found_run, found_lba) = (u64_at(block, 8), Lba(u64_at(block, 16)));
    if block[..HEADER_BYTES] != header(run, found_lba, version) || found_run != run {
        let is_zero = block.iter().all(|byte| *byte == 0);
        return if is_zero { Found::Zeros } else { Found::Foreign };
    }
    if found_lba != lba {
        return Found::Displaced { lba: found_lba, version };
    }
    let key = key(run, lba, version);
    for (number, word) in (0..).zip(block[HEADER_BYTES..].chunks_exact(WORD_BYTES)) {
        if word != word_of(key, number) {
            let at = HEADER_BYTES + usize::try_from(number).expect("in the block") * WORD_BYTES;
            return Found::Torn { version, at };
        }
    }
    Found::Version(version)
}

fn header(run: u64, lba: Lba, version: u32) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..8].copy_from_slice(&MAGIC);
    header[8..16].copy_from_slice(&run.to_le_bytes());
    header[16..24].copy_from_slice(&lba.0.to_le_bytes());
    header[24..28].copy_from_slice(&version.to_le_bytes());
    header
}

fn key(run: u64, lba: Lba, version: u32) -> u64 {
    mix(mix(run ^ mix(lba.0)) ^ u64::from(version))
}

fn word_of(key: u64, number: u64) -> [u8; WORD_BYTES] {
    mix(key.wrapping_add(number)).to_le_bytes()
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(*bytes[at..].first_chunk().expect("a block has a header"))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(*bytes[at..].first_chunk().expect("a block has a header"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(run: u64, lba: u64, version: u32) -> Vec<u8> {
        let mut block = vec![0xEE; 512];
        fill(&mut block, run, Lba(lba), version);
        block
    }

    #[test]
    fn a_block_tells_which_write_it_is_of() {
        let look = |bytes: &[u8]| look(bytes, 9, Lba(5));
        assert_eq!(look(&block(9, 5, 3)), Found::Version(3));
        assert_eq!(look(&block(9, 6, 3)), Found::Displaced { lba: Lba(6), version: 3 });
        assert_eq!(look(&block(8, 5, 3)), Found::Foreign);
        assert_eq!(look(&[0; 512]), Found::Zeros);
        let mut torn = block(9, 5, 3);
        torn[256..].copy_from_slice(&block(9, 5, 4)[256..]);
        assert_eq!(look(&torn), Found::Torn { version: 3, at: 256 });
    }

    #[test]
    fn each_changed_byte_is_found() {
        let good = block(1, 2, 3);
        for at in 0..512 {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert_ne!(look(&bad, 1, Lba(2)), Found::Version(3), "byte {at}");
        }
    }
}
