//! What stands on the members, byte for byte: from bytes to checked values and back.
//!
//! Nothing here does I/O, and nothing here knows the state of a pool. Bytes come from the
//! members when a pool is opened; values go to the replay, and come back from the log and
//! the checkpoint writer to be written. The layout in prose is `docs/formats/lvs.md`;
//! section numbers in these modules are its sections.
//!
//! - Decoding takes two steps: a view of the right size over the bytes, then a value whose
//!   every field has been checked. Hostile bytes end in [`Malformed`], never in a panic,
//!   and never in an allocation out of proportion.
//! - What the encoder takes, the decoder gives back; what the decoder would refuse, the
//!   encoder asserts against.

pub mod checkpoint;
pub mod checksum;
mod cursor;
pub mod entry;
pub mod label;
pub mod op;
pub mod tombstone;

use std::fmt;

use thiserror::Error;

/// Why bytes from a member are not what they should be. The text is for people.
///
/// Trying again does not help; another copy of the structure may be intact.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum Malformed {
    /// There is no label here: the disk is empty, or belongs to something else.
    #[error("not a label: it begins with \"{}\" and not with \"FATHOMLV\"", found.escape_ascii())]
    NotALabel {
        /// The first eight bytes.
        found: [u8; 8],
    },
    /// The structure is of a version that this program does not know.
    #[error("{structure}: version {found} is not known, only version 1 is")]
    Version {
        /// The structure.
        structure: &'static str,
        /// Its version.
        found: u32,
    },
    /// The structure was torn or damaged, or belongs to another pool.
    #[error("{structure}: checksum {found:#018x} is stated and {computed:#018x} was computed")]
    Checksum {
        /// The structure.
        structure: &'static str,
        /// The checksum in the bytes.
        found: u64,
        /// The checksum of the bytes.
        computed: u64,
    },
    /// The label cannot be read because of an incompatible feature that is not known.
    #[error("label: incompatible feature {bit} is not known")]
    Feature {
        /// The number of the feature's bit, 0 to 63.
        bit: u32,
    },
    /// A field holds what the format does not allow.
    #[error("{structure}: {field} {detail}")]
    Field {
        /// The structure.
        structure: &'static str,
        /// The field in it.
        field: &'static str,
        /// The value found, and what is wrong with it.
        detail: String,
    },
}

impl Malformed {
    /// `field` of `structure` holds what `detail` says.
    #[cold]
    fn field(structure: &'static str, field: &'static str, detail: impl fmt::Display) -> Self {
        Self::Field { structure, field, detail: detail.to_string() }
    }
}

/// Refuses `bytes` of `structure` unless all of them are zero.
fn require_zero(
    structure: &'static str,
    field: &'static str,
    bytes: &[u8],
) -> Result<(), Malformed> {
    match bytes.iter().position(|&byte| byte != 0) {
        None => Ok(()),
        Some(at) => {
            let detail = format_args!("are not zero: byte {at} of them is {:#04x}", bytes[at]);
            Err(Malformed::field(structure, field, detail))
        }
    }
}

/// `length` bytes, zero but for `fields` at their offsets, which may not overlap.
#[cfg(test)]
fn bytes_at(length: usize, fields: &[(usize, &[u8])]) -> Vec<u8> {
    let mut bytes = vec![0; length];
    let mut end = 0;
    for &(offset, field) in fields {
        assert!(offset >= end, "the field at {offset} overlaps the one before it");
        end = offset + field.len();
        bytes[offset..end].copy_from_slice(field);
    }
    bytes
}
