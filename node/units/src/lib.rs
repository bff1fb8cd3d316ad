//! Newtypes for the quantities of block storage.
//!
//! A logical block address, a number of blocks, a byte offset and a number of bytes
//! are all integers and never the same thing. Each has its own type here, so that
//! one cannot be passed for another. Conversions name the block size that they use.

use core::{fmt, ops::Add, time::Duration};

/// The address of a logical block in a namespace or volume, in units of its logical block size.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Lba(pub u64);

/// A number of logical blocks, 1-based: zero means none.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct BlockCount(pub u64);

/// A position on a device, in bytes from its start.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ByteOffset(pub u64);

/// A length in bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ByteCount(pub u64);

/// A namespace identifier (NVMe Base 2.1 section 3.2.1): 0 names none, [`Nsid::BROADCAST`] all.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Nsid(pub u32);

impl Nsid {
    /// Names no namespace.
    pub const NONE: Self = Self(0);
    /// Names every namespace of the controller.
    pub const BROADCAST: Self = Self(0xFFFF_FFFF);
}

/// A command identifier: names a command in its queue until its completion.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Cid(pub u16);

/// A queue identifier: 0 is the admin queue, an I/O queue is 1 to 65,534.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Qid(pub u16);

impl Qid {
    /// The admin queue.
    pub const ADMIN: Self = Self(0);

    /// Whether it names the admin queue.
    pub const fn is_admin(self) -> bool {
        self.0 == 0
    }
}

/// A controller identifier, unique in its NVM subsystem: 0 to FFEFh.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Cntlid(pub u16);

impl Cntlid {
    /// The largest that a controller can have (NVMe Base 2.1 section 3.1.1).
    pub const MAX: Self = Self(0xFFEF);
    /// In a Connect, the dynamic controller model: any controller, and the answer names it.
    pub const DYNAMIC: Self = Self(0xFFFF);
}

/// A size printed for people: the largest binary unit in which it is a short number.
impl fmt::Display for ByteCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(&str, u32); 4] = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
        for (name, shift) in UNITS {
            let unit = 1u64 << shift;
            if self.0 >= unit {
                return if self.0.is_multiple_of(unit) {
                    write!(f, "{} {name}", self.0 >> shift)
                } else {
                    let tenths = (u128::from(self.0) * 10) >> shift;
                    write!(f, "{}.{} {name}", tenths / 10, tenths % 10)
                };
            }
        }
        write!(f, "{} bytes", self.0)
    }
}

/// A moment of a clock that never goes back, in nanoseconds since a start that only it knows.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Monotonic(pub u64);

impl Monotonic {
    /// The time from `earlier` to this moment, zero when it is not earlier.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// The moment so much later; the last one that can be told when it lies beyond that.
impl Add<Duration> for Monotonic {
    type Output = Self;

    fn add(self, later: Duration) -> Self {
        let nanos = u64::try_from(later.as_nanos()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(nanos))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_print_in_the_largest_short_unit() {
        for (bytes, text) in [
            (0, "0 bytes"),
            (1023, "1023 bytes"),
            (4096, "4 KiB"),
            (1536, "1.5 KiB"),
            (3 << 30, "3 GiB"),
            (u64::MAX, "16777215.9 TiB"),
        ] {
            assert_eq!(ByteCount(bytes).to_string(), text);
        }
    }

    #[test]
    fn moments_neither_go_back_nor_overflow() {
        assert_eq!(Monotonic(5).since(Monotonic(7)), Duration::ZERO);
        assert_eq!(Monotonic(7).since(Monotonic(5)), Duration::from_nanos(2));
        assert_eq!(Monotonic(5) + Duration::from_secs(1), Monotonic(1_000_000_005));
        assert_eq!(Monotonic(5) + Duration::MAX, Monotonic(u64::MAX));
    }
}
