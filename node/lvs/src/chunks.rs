//! Reading checkpoints: the headers of the slots, and the chunks, from whichever copy has them intact.
//!
//! Source: `docs/formats/lvs.md` section 5.

use crate::{
    damage::Damage,
    format::{
        Malformed,
        checkpoint::{self, CHUNK_MAX, SLOT_HEADER, SlotHeader, decode_slot, read_chunk_header},
        checksum::Seed,
    },
    geometry::{BLOCK, BLOCK_LEN},
    log::Ring,
    medium::Medium,
    replay::Places,
};

/// The newest slot header that verifies anywhere.
pub(crate) fn newest_slot(
    medium: &mut dyn Medium,
    places: &Places<'_>,
) -> Result<(usize, SlotHeader), Damage> {
    let mut newest: Option<(usize, SlotHeader)> = None;
    for slot in 0..2 {
        let (offset, _) = Ring::new(places.slots[slot]).locate(0);
        let mut found = false;
        let mut unread = None;
        for &copy in &places.copies {
            let mut bytes = vec![0; SLOT_HEADER];
            if let Err(error) = medium.read(copy, offset, &mut bytes) {
                unread = Some(error);
                continue;
            }
            let Ok(header) = decode_slot(places.seed, &bytes) else { continue };
            found = true;
            if newest.as_ref().is_none_or(|(_, other)| header.generation > other.generation) {
                newest = Some((slot, header));
            }
        }
        // What cannot be read may be the newest header: it is not the same as not being there.
        if let (false, Some(error)) = (found, unread) {
            return Err(error.into());
        }
    }
    newest.ok_or(Damage::NoCheckpoint)
}

/// Where a structure may begin that follows one ending at `position`: there, or at the start
/// of the next extent.
pub(crate) fn candidates(ring: &Ring, position: u64) -> Vec<u64> {
    let (_, left) = ring.locate(position);
    if left == ring.length() { vec![position] } else { vec![position, position + left] }
}

/// A chunk that is intact on some copy.
pub(crate) struct FoundChunk {
    /// Where in the slot it begins.
    pub(crate) place: u64,
    pub(crate) header: checkpoint::ChunkHeader,
    pub(crate) checksum: u64,
    /// All of it.
    pub(crate) bytes: Vec<u8>,
}

/// Chunk `index` of a checkpoint, which follows a structure that ends at `position`, from
/// whichever copy has it.
///
/// # Errors
///
/// [`Damage::Chunk`] when none has.
pub(crate) fn find_chunk(
    medium: &mut dyn Medium,
    places: &Places<'_>,
    ring: &Ring,
    generation: u64,
    index: u32,
    position: u64,
) -> Result<FoundChunk, Damage> {
    let mut wrong = None;
    for place in candidates(ring, position) {
        for &copy in &places.copies {
            match read_chunk(medium, places.seed, copy, ring, place) {
                Ok(chunk)
                    if chunk.header.generation == generation && chunk.header.index == index =>
                {
                    return Ok(chunk);
                }
                Ok(_) => {}
                Err(malformed) => wrong = Some(malformed),
            }
        }
    }
    let other = || checkpoint::chunk_error("header", "is that of another chunk");
    Err(Damage::Chunk { generation, index, position, malformed: wrong.unwrap_or_else(other) })
}

/// The chunk that begins at `place` on one copy.
///
/// # Errors
///
/// What is wrong with it there.
pub(crate) fn read_chunk(
    medium: &mut dyn Medium,
    seed: Seed,
    copy: usize,
    ring: &Ring,
    place: u64,
) -> Result<FoundChunk, Malformed> {
    let (offset, left) = ring.locate(place);
    let mut bytes = vec![0; BLOCK_LEN];
    if medium.read(copy, offset, &mut bytes).is_ok()
        && let Some(header) = read_chunk_header(&bytes)
    {
        let length = u64::from(header.blocks) * BLOCK;
        if length <= left.min(CHUNK_MAX as u64) {
            let mut whole = vec![0; usize::try_from(length).expect("at most 64 KiB")];
            if medium.read(copy, offset, &mut whole).is_ok() {
                bytes = whole;
            }
        }
    }
    let (header, checksum, _) = checkpoint::verify_chunk(seed, &bytes)?;
    Ok(FoundChunk { place, header, checksum, bytes })
}
