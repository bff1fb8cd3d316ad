//! A simulated disk that can lose power, fail and die: what crash enumeration stands on.
//!
//! The code under test reads, writes, discards and flushes; the test cuts the power, reopens
//! and looks at what is left. The bytes go on to the write cache and from there to the medium,
//! both private modules beside this one.
//!
//! - A write is visible to reads at once. It is stable after a later [`SimulatedDisk::flush`]
//!   that returned `Ok`, or on return when it was written with FUA.
//! - A FUA write makes its own sectors stable and no others.
//! - A 512-byte sector is never torn; anything longer may be.
//! - The same seed, calls and [`Random`] give the same bytes on every platform.
//! - A clone takes time for the unflushed writes only, and shares the bytes: try many cuts from
//!   one state on clones.
//!
//! ```text
//!   Sound -- die_after(n) --> Doomed(n) -- n operations, then one more --> Dead
//!     ^                          |                                          |
//!     +-------- revive ----------+------------------- revive ---------------+
//! ```
//!
//! Source: NVMe Base 2.1 (volatile write cache, Flush, Force Unit Access), with the atomic
//! write unit at power fail of one 512-byte logical block.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use crate::cache::{Cache, Change, Durability};
use crate::contents::Contents;
use crate::random::Random;
use crate::sectors::{Sectors, memory_length};

/// Offsets and lengths of all operations are multiples of this; what a power cut never tears.
pub const SECTOR_BYTES: u64 = 512;

/// The capacity of a disk is a multiple of this.
pub const PAGE_BYTES: u64 = 4096;

/// The first half of every 16 bytes of garbage; see [`Unwritten::Garbage`].
pub const GARBAGE_MARK: [u8; 8] = *b"OLD LIFE";

/// What sectors that nobody wrote read as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unwritten {
    /// Zeroes, as on a new disk.
    Zero,
    /// Garbage, as on a disk with an earlier life: every 16 bytes are [`GARBAGE_MARK`] and a
    /// word derived from the disk's seed and the sector number.
    Garbage,
}

/// Which of the writes and discards since the last flush survive a power cut.
///
/// In `EachWrite` and `EachSector` the coin's bias is drawn once for each cut, from one in
/// eight to seven in eight; over many cuts it is even.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// None.
    LoseAll,
    /// All.
    KeepAll,
    /// All up to a random one, of which a random number of leading sectors survives.
    Prefix,
    /// Each one whole or not at all, by a coin: the disk reordered them.
    EachWrite,
    /// Each sector of each one, by a coin. Of a sector written several times, any version or
    /// the stable one may be what is left. A discard of more than 2 MiB is lost or kept in
    /// longer pieces.
    EachSector,
}

impl Cut {
    /// All the modes, to pick one from.
    pub const ALL: [Self; 5] =
        [Self::LoseAll, Self::KeepAll, Self::Prefix, Self::EachWrite, Self::EachSector];
}

/// Why an operation failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskError {
    /// Offset or length is not a multiple of 512 bytes, or the length is zero.
    Misaligned,
    /// The end is beyond the capacity.
    OutOfRange,
    /// A fault that the test injected. The operation changed nothing.
    Io,
    /// The disk died; it answers nothing until [`SimulatedDisk::revive`]. The operation that
    /// met its end may have happened whole, in part or not at all.
    Dead,
}

impl fmt::Display for DiskError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Misaligned => "offset or length is not a positive multiple of 512 bytes",
            Self::OutOfRange => "the range ends beyond the capacity of the disk",
            Self::Io => "injected I/O error",
            Self::Dead => "the disk is dead",
        })
    }
}

impl std::error::Error for DiskError {}

/// How many operations returned `Ok` since the disk was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Reads.
    pub reads: u64,
    /// Writes, with FUA and without.
    pub writes: u64,
    /// Discards.
    pub discards: u64,
    /// Flushes.
    pub flushes: u64,
    /// The sum of the lengths of the writes, in bytes.
    pub bytes_written: u64,
}

/// A disk in memory with a volatile write cache.
#[derive(Clone)]
pub struct SimulatedDisk {
    capacity_bytes: u64,
    cache: Cache,
    life: Life,
    faults: Faults,
    counters: Counters,
    /// Decides what is left of the operation at which the disk dies.
    random: Random,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    Sound,
    Doomed { operations_left: u64 },
    Dead,
}

#[derive(Clone, Debug, Default)]
struct Faults {
    reads: Vec<Range<u64>>,
    writes: Vec<Range<u64>>,
    flushes: bool,
}

/// What comes of an operation the disk dies at.
enum LastOperation {
    Whole,
    Torn,
    Nothing,
}

impl SimulatedDisk {
    /// A disk of `capacity_bytes` that nobody wrote to. The seed decides the garbage and what
    /// is left of an operation at which the disk dies.
    ///
    /// # Panics
    ///
    /// When the capacity is zero or not a multiple of 4096 bytes.
    #[must_use]
    pub fn new(capacity_bytes: u64, unwritten: Unwritten, seed: u64) -> Self {
        assert_capacity(capacity_bytes);
        Self {
            capacity_bytes,
            cache: Cache::new(Contents::new(capacity_bytes, unwritten, seed)),
            life: Life::Sound,
            faults: Faults::default(),
            counters: Counters::default(),
            random: Random::new(seed),
        }
    }

    /// The capacity in bytes.
    #[must_use]
    pub fn capacity(&self) -> u64 {
        self.capacity_bytes
    }

    /// Fills `buffer` with the newest bytes from byte `offset` on, flushed or not.
    ///
    /// # Errors
    ///
    /// Any [`DiskError`]; `buffer` is then as before.
    pub fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), DiskError> {
        let sectors = self.admit(offset, buffer.len() as u64)?;
        check_faults(&self.faults.reads, sectors)?;
        self.cache.read(sectors, buffer);
        self.counters.reads += 1;
        Ok(())
    }

    /// Writes `data` at byte `offset`. On return the data is visible; with `fua` it is stable.
    ///
    /// # Errors
    ///
    /// Any [`DiskError`]. Nothing is written, except that [`DiskError::Dead`] at the operation
    /// the disk dies at leaves all, some leading sectors or none of the data, volatile; with
    /// `fua` perhaps stable.
    pub fn write(&mut self, offset: u64, data: &[u8], fua: bool) -> Result<(), DiskError> {
        let length_bytes = data.len() as u64;
        let sectors = self.admit(offset, length_bytes)?;
        check_faults(&self.faults.writes, sectors)?;
        let durability = if fua { Durability::Settled } else { Durability::Volatile };
        self.change(sectors, Change::Write(Arc::from(data)), durability)?;
        self.counters.writes += 1;
        self.counters.bytes_written += length_bytes;
        Ok(())
    }

    /// Makes `length_bytes` from byte `offset` on read as zeroes; volatile like a write.
    ///
    /// # Errors
    ///
    /// As [`SimulatedDisk::write`]; failing writes fail discards too.
    pub fn discard(&mut self, offset: u64, length_bytes: u64) -> Result<(), DiskError> {
        let sectors = self.admit(offset, length_bytes)?;
        check_faults(&self.faults.writes, sectors)?;
        self.change(sectors, Change::Discard, Durability::Volatile)?;
        self.counters.discards += 1;
        Ok(())
    }

    /// Makes all earlier writes and discards stable, before it returns.
    ///
    /// # Errors
    ///
    /// - [`DiskError::Io`] while flushes fail: everything stays as volatile as it was.
    /// - [`DiskError::Dead`]: at the operation the disk dies at all, some or none of the
    ///   earlier writes are stable.
    pub fn flush(&mut self) -> Result<(), DiskError> {
        self.check_alive()?;
        if self.faults.flushes {
            return Err(DiskError::Io);
        }
        if let Some(last) = self.count_operation() {
            match last {
                LastOperation::Whole => self.cache.flush(),
                LastOperation::Torn => self.cache.flush_partly(&mut self.random),
                LastOperation::Nothing => {}
            }
            return Err(DiskError::Dead);
        }
        self.cache.flush();
        self.counters.flushes += 1;
        Ok(())
    }

    /// The number of writes and discards that a power cut now may lose.
    #[must_use]
    pub fn unflushed_writes(&self) -> usize {
        self.cache.volatile_changes()
    }

    /// Cuts the power: of the unflushed writes only what `cut` says is left, and that is
    /// stable. The cache is empty afterwards. Faults stay, and a dead disk stays dead.
    pub fn power_cut(&mut self, random: &mut Random, cut: Cut) {
        self.cache.power_cut(random, cut);
    }

    /// Adds room at the end, at once and for good; the new sectors are unwritten.
    ///
    /// # Panics
    ///
    /// When the new capacity is less than the present one or not a multiple of 4096 bytes.
    pub fn grow(&mut self, new_capacity_bytes: u64) {
        assert_capacity(new_capacity_bytes);
        assert!(new_capacity_bytes >= self.capacity_bytes, "a disk does not shrink");
        self.cache.grow(new_capacity_bytes);
        self.capacity_bytes = new_capacity_bytes;
    }

    /// Reads that touch a byte of `range` fail with [`DiskError::Io`] from now on, beside those
    /// already failing.
    pub fn fail_reads(&mut self, range: Range<u64>) {
        self.faults.reads.push(range);
    }

    /// Writes and discards that touch a byte of `range` fail with [`DiskError::Io`] from now
    /// on, beside those already failing.
    pub fn fail_writes(&mut self, range: Range<u64>) {
        self.faults.writes.push(range);
    }

    /// Whether flushes fail with [`DiskError::Io`] from now on.
    pub fn fail_flushes(&mut self, fail: bool) {
        self.faults.flushes = fail;
    }

    /// Ends all failing of reads, writes and flushes. Damaged bytes stay damaged.
    pub fn clear_faults(&mut self) {
        self.faults = Faults::default();
    }

    /// Flips bit `bit` (0 is the least significant) of the byte at `offset`, in the visible
    /// version, the stable one and all between: it is flipped whatever a power cut leaves.
    /// Only a later write or discard mends it.
    ///
    /// # Panics
    ///
    /// When the byte is beyond the capacity or `bit` is not in `0..8`.
    pub fn flip_bit(&mut self, offset: u64, bit: u32) {
        assert!(bit < u8::BITS, "a byte has no bit {bit}");
        self.damage(offset..offset + 1, |mask| mask.fill(1 << bit));
    }

    /// Changes every byte of `range` to a random other value, in all versions as
    /// [`SimulatedDisk::flip_bit`] does. The range need not be aligned.
    ///
    /// # Panics
    ///
    /// When the range is beyond the capacity.
    pub fn corrupt(&mut self, range: Range<u64>, random: &mut Random) {
        self.damage(range, |mask| {
            random.fill(mask);
            // A zero in the mask would leave its byte sound.
            mask.iter_mut().filter(|byte| **byte == 0).for_each(|byte| *byte = 0xff);
        });
    }

    /// Lets `operations` more writes, flushes and discards succeed. The one after them, and
    /// every operation from then on, returns [`DiskError::Dead`], until
    /// [`SimulatedDisk::revive`]; reads succeed up to that point. An operation refused for
    /// another reason does not count.
    ///
    /// # Panics
    ///
    /// When the disk is dead.
    pub fn die_after(&mut self, operations: u64) {
        assert!(!self.dead(), "a dead disk is revived before it dies again");
        self.life = Life::Doomed { operations_left: operations };
    }

    /// Lets the disk work again, and forget a death still to come. The write cache is as it
    /// was; a crash is this together with [`SimulatedDisk::power_cut`].
    pub fn revive(&mut self) {
        self.life = Life::Sound;
    }

    /// Whether every operation returns [`DiskError::Dead`].
    #[must_use]
    pub fn dead(&self) -> bool {
        self.life == Life::Dead
    }

    /// What succeeded so far. Clones count on from where they were cloned.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    fn check_alive(&self) -> Result<(), DiskError> {
        if self.dead() { Err(DiskError::Dead) } else { Ok(()) }
    }

    fn admit(&self, offset: u64, length_bytes: u64) -> Result<Sectors, DiskError> {
        self.check_alive()?;
        let sectors = Sectors::from_bytes(offset, length_bytes).ok_or(DiskError::Misaligned)?;
        let end = offset.checked_add(length_bytes).ok_or(DiskError::OutOfRange)?;
        if end > self.capacity_bytes { Err(DiskError::OutOfRange) } else { Ok(sectors) }
    }

    fn change(
        &mut self,
        sectors: Sectors,
        change: Change,
        durability: Durability,
    ) -> Result<(), DiskError> {
        let Some(last) = self.count_operation() else {
            self.cache.apply(sectors, change, durability);
            return Ok(());
        };
        let kept = match last {
            LastOperation::Whole => sectors,
            LastOperation::Torn => sectors.leading(self.random.below(sectors.count)),
            LastOperation::Nothing => sectors.leading(0),
        };
        // A FUA write that did not return may be on the medium or still on its way there.
        let settled = durability == Durability::Settled && self.random.chance(1, 2);
        let durability = if settled { Durability::Settled } else { Durability::Volatile };
        if kept.count > 0 {
            self.cache.apply(kept, change.truncate(kept), durability);
        }
        Err(DiskError::Dead)
    }

    /// Counts a write, flush or discard; `Some` when it is the one the disk dies at.
    fn count_operation(&mut self) -> Option<LastOperation> {
        match &mut self.life {
            Life::Sound => None,
            Life::Doomed { operations_left: 0 } => {
                self.life = Life::Dead;
                Some(match self.random.below(3) {
                    0 => LastOperation::Whole,
                    1 => LastOperation::Torn,
                    _ => LastOperation::Nothing,
                })
            }
            Life::Doomed { operations_left } => {
                *operations_left -= 1;
                None
            }
            Life::Dead => unreachable!("a dead disk admits no operation"),
        }
    }

    fn damage(&mut self, bytes: Range<u64>, set_mask: impl FnOnce(&mut [u8])) {
        assert!(bytes.end <= self.capacity_bytes, "{bytes:?} is beyond the capacity");
        if bytes.is_empty() {
            return;
        }
        let sectors = Sectors::covering(&bytes);
        let mut mask = vec![0; memory_length(sectors.count * SECTOR_BYTES)];
        let start = memory_length(bytes.start - sectors.bytes().start);
        let length = memory_length(bytes.end - bytes.start);
        set_mask(&mut mask[start..start + length]);
        self.cache.apply(sectors, Change::Damage(mask.into()), Durability::Settled);
    }
}

impl fmt::Debug for SimulatedDisk {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("SimulatedDisk")
            .field("capacity_bytes", &self.capacity_bytes)
            .field("unflushed_writes", &self.unflushed_writes())
            .field("life", &self.life)
            .field("faults", &self.faults)
            .field("counters", &self.counters)
            .finish_non_exhaustive()
    }
}

fn check_faults(failing: &[Range<u64>], sectors: Sectors) -> Result<(), DiskError> {
    let bytes = sectors.bytes();
    let fails = failing.iter().any(|range| range.start.max(bytes.start) < range.end.min(bytes.end));
    if fails { Err(DiskError::Io) } else { Ok(()) }
}

fn assert_capacity(capacity_bytes: u64) {
    let valid = capacity_bytes > 0 && capacity_bytes.is_multiple_of(PAGE_BYTES);
    assert!(valid, "a capacity of {capacity_bytes} bytes is not a multiple of {PAGE_BYTES}");
}

#[cfg(test)]
mod tests;
