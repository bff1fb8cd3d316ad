//! Before opening writes a checkpoint: every metadata member in sync gets the one that was read.
//!
//! ```text
//!   replay (from any copy, piece by piece) -> level -> the checkpoints of this opening
//! ```
//!
//! A crash between the headers of two copies leaves one of them with the checkpoint before the
//! newest one, and that lies in the slot which opening writes next. The newest one is whole only
//! on the other copy then, or only on both together. So each copy is first made to hold it by
//! itself.
//!
//! - What is right already is not written again.
//! - The slot of the checkpoint before the newest one is not touched.
//!
//! Source: `docs/formats/lvs.md` section 6, rule 8.

use crate::{
    chunks::find_chunk,
    damage::Damage,
    format::checkpoint::{SLOT_HEADER, SlotHeader, encode_slot},
    geometry::BLOCK,
    log::Ring,
    medium::{Medium, MediumError},
    replay::Places,
};

/// Makes the checkpoint of `header` whole in `slot` of each copy. On return it is on stable media.
///
/// # Errors
///
/// When a chunk can no longer be read from any copy, or a copy cannot be written.
pub(crate) fn level(
    medium: &mut dyn Medium,
    places: &Places<'_>,
    slot: usize,
    header: &SlotHeader,
) -> Result<(), Damage> {
    let ring = Ring::new(places.slots[slot]);
    let mut position = SLOT_HEADER as u64;
    let mut changed: Vec<usize> = Vec::new();
    for index in 0..header.chunks {
        let chunk = find_chunk(medium, places, &ring, header.generation, index, position)?;
        let (offset, _) = ring.locate(chunk.place);
        for &copy in &places.copies {
            if put(medium, copy, offset, &chunk.bytes)? && !changed.contains(&copy) {
                changed.push(copy);
            }
        }
        position = chunk.place + u64::from(chunk.header.blocks) * BLOCK;
    }
    for copy in changed {
        medium.flush(copy)?;
    }
    let (offset, _) = ring.locate(0);
    let bytes = encode_slot(places.seed, header);
    debug_assert_eq!(bytes.len(), SLOT_HEADER);
    for &copy in &places.copies {
        if put(medium, copy, offset, &bytes)? {
            medium.flush(copy)?;
        }
    }
    Ok(())
}

/// Writes `bytes` where something else stands. Returns whether it has.
fn put(
    medium: &mut dyn Medium,
    copy: usize,
    offset: u64,
    bytes: &[u8],
) -> Result<bool, MediumError> {
    let mut found = vec![0; bytes.len()];
    if medium.read(copy, offset, &mut found).is_ok() && found == bytes {
        return Ok(false);
    }
    medium.write(copy, offset, bytes)?;
    Ok(true)
}
