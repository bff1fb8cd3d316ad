//! The tombstone: what stands in the place of a label while its pool is being destroyed.
//!
//! - It is the first sector of label copy 0, so that a power cut leaves all of it or nothing. What
//!   stands behind it says nothing: it may be left from the label.
//! - With it the pool is not opened any more, whatever other label copies and members say.
//! - It says which pool it was, so that destroying goes on where a crash ended it.
//!
//! Source: section 2.5.

use uuid::Uuid;
use zerocopy::{
    FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned,
    little_endian::{U32, U64},
};

use super::{
    Malformed,
    checksum::{self, Seed},
    label::NAME_MAX,
    require_zero,
};

/// Bytes in a tombstone: a sector, which a power cut does not tear.
pub const TOMBSTONE_SIZE: usize = 512;

const MAGIC: [u8; 8] = *b"FATHOMRM";
const VERSION: u32 = 1;
const LENGTH: u32 = 512;
const TOMBSTONE: &str = "tombstone";

/// What is left of a member of a pool that is being destroyed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tombstone {
    /// The UUID of the pool, not nil.
    pub pool: Uuid,
    /// The UUID of the member, not nil.
    pub member: Uuid,
    /// The name of the pool, 1 to 63 bytes.
    pub name: String,
}

impl Tombstone {
    /// The bytes that take the place of a label's first ones.
    ///
    /// # Panics
    ///
    /// When a UUID is nil or the name is none of a pool's.
    pub fn encode(&self) -> [u8; TOMBSTONE_SIZE] {
        if let Err(error) = self.check() {
            panic!("a tombstone that could not be read again: {error}");
        }
        let mut layout = TombstoneLayout::new_zeroed();
        layout.magic = MAGIC;
        layout.version = VERSION.into();
        layout.length = LENGTH.into();
        layout.pool = self.pool.into_bytes();
        layout.member = self.member.into_bytes();
        layout.name[..self.name.len()].copy_from_slice(self.name.as_bytes());
        let mut bytes: [u8; TOMBSTONE_SIZE] = zerocopy::transmute!(layout);
        checksum::seal(Seed::of_pool(self.pool), &mut bytes, CHECKSUM_AT);
        bytes
    }

    /// The tombstone with which `bytes` begin; `None` when they begin as something else.
    ///
    /// # Errors
    ///
    /// When it is of another version or damaged.
    pub fn decode(bytes: &[u8]) -> Result<Option<Self>, Malformed> {
        let Some(bytes) = bytes.get(..TOMBSTONE_SIZE) else { return Ok(None) };
        let layout = TombstoneLayout::ref_from_bytes(bytes).expect("they are as long as it is");
        if layout.magic != MAGIC {
            return Ok(None);
        }
        if layout.version != VERSION {
            return Err(Malformed::Version { structure: TOMBSTONE, found: layout.version.get() });
        }
        let found = layout.checksum.get();
        let pool = Uuid::from_bytes(layout.pool);
        let computed = checksum::compute(Seed::of_pool(pool), bytes, CHECKSUM_AT);
        if found != computed {
            return Err(Malformed::Checksum { structure: TOMBSTONE, found, computed });
        }
        layout.value().map(Some)
    }

    fn check(&self) -> Result<(), Malformed> {
        if self.pool.is_nil() || self.member.is_nil() {
            return Err(Malformed::field(TOMBSTONE, "UUID", "is zero"));
        }
        if self.name.is_empty() || self.name.len() > NAME_MAX || self.name.contains('\0') {
            return Err(Malformed::field(TOMBSTONE, "pool name", "is none"));
        }
        Ok(())
    }
}

/// Section 2.5.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct TombstoneLayout {
    magic: [u8; 8],
    version: U32,
    length: U32,
    checksum: U64,
    reserved_24: [u8; 16],
    pool: [u8; 16],
    member: [u8; 16],
    reserved_72: [u8; 56],
    name: [u8; NAME_MAX + 1],
    reserved_192: [u8; 320],
}

const CHECKSUM_AT: usize = core::mem::offset_of!(TombstoneLayout, checksum);

const _: () = {
    use core::mem::offset_of;
    assert!(size_of::<TombstoneLayout>() == TOMBSTONE_SIZE);
    assert!(offset_of!(TombstoneLayout, version) == 8);
    assert!(offset_of!(TombstoneLayout, length) == 12);
    assert!(offset_of!(TombstoneLayout, checksum) == 16);
    assert!(offset_of!(TombstoneLayout, pool) == 40);
    assert!(offset_of!(TombstoneLayout, member) == 56);
    assert!(offset_of!(TombstoneLayout, name) == 128);
    assert!(offset_of!(TombstoneLayout, reserved_192) == 192);
};

impl TombstoneLayout {
    fn value(&self) -> Result<Tombstone, Malformed> {
        if self.length != LENGTH {
            let detail = format_args!("{} is not {LENGTH}", self.length);
            return Err(Malformed::field(TOMBSTONE, "length", detail));
        }
        require_zero(TOMBSTONE, "reserved bytes at 24", &self.reserved_24)?;
        require_zero(TOMBSTONE, "reserved bytes at 72", &self.reserved_72)?;
        require_zero(TOMBSTONE, "reserved bytes at 192", &self.reserved_192)?;
        let length = self.name.iter().position(|&byte| byte == 0).unwrap_or(self.name.len());
        require_zero(TOMBSTONE, "pool name behind its end", &self.name[length..])?;
        let name = core::str::from_utf8(&self.name[..length])
            .map_err(|error| Malformed::field(TOMBSTONE, "pool name", error))?;
        let (pool, member) = (Uuid::from_bytes(self.pool), Uuid::from_bytes(self.member));
        let tombstone = Tombstone { pool, member, name: name.to_owned() };
        tombstone.check()?;
        Ok(tombstone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::bytes_at;

    fn sample() -> Tombstone {
        let (pool, member) = (Uuid::from_bytes([0xA1; 16]), Uuid::from_bytes([0xB2; 16]));
        Tombstone { pool, member, name: "tank".to_owned() }
    }

    #[test]
    fn each_field_stands_where_the_format_says() {
        let bytes = sample().encode();
        let fields: &[(usize, &[u8])] = &[
            (0, b"FATHOMRM"),
            (8, &[1, 0, 0, 0]),
            (12, &[0, 2, 0, 0]),
            (16, &bytes[16..24]),
            (40, &[0xA1; 16]),
            (56, &[0xB2; 16]),
            (128, b"tank"),
        ];
        assert_eq!(bytes[..], bytes_at(TOMBSTONE_SIZE, fields));
        assert!(checksum::verify(Seed::of_pool(sample().pool), &bytes, CHECKSUM_AT));
    }

    #[test]
    fn it_is_read_as_it_was_written_and_every_flipped_bit_is_seen() {
        let bytes = sample().encode();
        let torn = [&bytes[..], &[0xEE; 3584]].concat();
        assert_eq!(Tombstone::decode(&torn), Ok(Some(sample())), "behind it stands anything");
        for bit in 0..TOMBSTONE_SIZE * 8 {
            let mut bytes = bytes;
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(Tombstone::decode(&bytes), Ok(Some(sample())), "bit {bit}");
        }
        assert_eq!(Tombstone::decode(&[0; 4096]), Ok(None));
        assert_eq!(Tombstone::decode(&bytes[..511]), Ok(None));
    }

    #[test]
    fn a_right_checksum_does_not_make_a_wrong_field_right() {
        for (at, value) in [(12, 1), (24, 1), (72, 1), (140, b'x'), (191, b'x'), (511, 1)] {
            let mut bytes = sample().encode();
            bytes[at] = value;
            checksum::seal(Seed::of_pool(sample().pool), &mut bytes, CHECKSUM_AT);
            let refused = Tombstone::decode(&bytes);
            assert!(matches!(refused, Err(Malformed::Field { .. })), "{at}: {refused:?}");
        }
    }
}
