//! Runs of 512-byte sectors: the one place where byte offsets become sectors.
//!
//! A sector is what the simulated disk writes or loses as one; a power cut never tears it.

use std::ops::Range;

use crate::disk::SECTOR_BYTES;

/// A run of `count` sectors from sector number `first` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sectors {
    pub(crate) first: u64,
    pub(crate) count: u64,
}

impl Sectors {
    /// The run of exactly these bytes; `None` when they are not whole sectors or are none.
    pub(crate) fn from_bytes(offset: u64, length_bytes: u64) -> Option<Self> {
        let aligned =
            offset.is_multiple_of(SECTOR_BYTES) && length_bytes.is_multiple_of(SECTOR_BYTES);
        (aligned && length_bytes > 0)
            .then_some(Self { first: offset / SECTOR_BYTES, count: length_bytes / SECTOR_BYTES })
    }

    /// The smallest run that covers `bytes`.
    pub(crate) fn covering(bytes: &Range<u64>) -> Self {
        let first = bytes.start / SECTOR_BYTES;
        Self { first, count: bytes.end.div_ceil(SECTOR_BYTES) - first }
    }

    /// The run from `first` up to, not including, `end`.
    pub(crate) fn between(first: u64, end: u64) -> Self {
        Self { first, count: end - first }
    }

    /// The sector after the last one.
    pub(crate) fn end(self) -> u64 {
        self.first + self.count
    }

    /// The run as byte offsets.
    pub(crate) fn bytes(self) -> Range<u64> {
        self.first * SECTOR_BYTES..self.end() * SECTOR_BYTES
    }

    /// The first `count` sectors of the run.
    pub(crate) fn leading(self, count: u64) -> Self {
        assert!(count <= self.count, "{count} of {self:?}");
        Self { count, ..self }
    }

    /// Whether the two runs share a sector.
    pub(crate) fn overlaps(self, other: Self) -> bool {
        self.first < other.end() && other.first < self.end()
    }
}

/// A length in memory, of something that is in memory.
pub(crate) fn memory_length(length_bytes: u64) -> usize {
    usize::try_from(length_bytes).expect("a length within a buffer fits usize")
}
