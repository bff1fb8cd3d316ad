//! The slots of a layer's map: bitmaps that have no room in an entry of the index.
//!
//! [`super::LayerMap`] allocates and frees slots and keeps their numbers in the
//! [`super::index`]; what the words of a slot in use say is its business. Nothing is
//! moved: a slot keeps its number until it is freed.
//!
//! Invariants:
//! - a chunk has memory exactly if one of its slots is in use, as is the case for the
//!   last chunk;
//! - in a chunk with memory a slot is either in use or on the free list, which lies in
//!   the free slots themselves;
//! - a chunk is marked roomy exactly if it has a free slot.

use super::{bytes_of, reserve, trim};

/// Slots of equal size for what an entry has no room for. The lowest chunk with a
/// free slot is used first, so that the higher ones can empty themselves and go.
pub(super) struct Slab {
    /// The 32-bit words of a slot.
    pub(super) slot_words: u16,
    /// Chunk `n` has 4 * 2^n slots up to 1024: little for a small layer, little
    /// slack in a large one.
    pub(super) chunks: Vec<Chunk>,
    /// Bit `n % 64` of word `n / 64`: chunk `n` has a free slot.
    pub(super) roomy: Vec<u64>,
}

pub(super) struct Chunk {
    /// The slots; empty if none is in use. The first word of a free slot is the
    /// position of the next free one, or `NO_SLOT`.
    pub(super) words: Box<[u32]>,
    /// The slots in use.
    pub(super) live: u16,
    /// The position of the first free slot, or `NO_SLOT`.
    pub(super) free: u16,
}

pub(super) const NO_SLOT: u16 = u16::MAX;
const FIRST_CHUNK_SLOTS: u32 = 4;
const LAST_CHUNK_SLOTS: u32 = 1024;
/// The first chunk with `LAST_CHUNK_SLOTS` slots.
const LAST_GROWTH: u32 = LAST_CHUNK_SLOTS.ilog2() - FIRST_CHUNK_SLOTS.ilog2();

impl Slab {
    pub(super) fn new(slot_words: u16) -> Self {
        Self { slot_words, chunks: Vec::new(), roomy: Vec::new() }
    }

    #[inline]
    pub(super) fn slot(&self, slot: u32) -> &[u32] {
        let (chunk, position) = place_of_slot(slot);
        self.chunks[chunk].slot(position, self.slot_words)
    }

    pub(super) fn slot_mut(&mut self, slot: u32) -> &mut [u32] {
        let (chunk, position) = place_of_slot(slot);
        self.chunks[chunk].slot_mut(position, self.slot_words)
    }

    /// A slot whose content is arbitrary.
    pub(super) fn allocate(&mut self) -> u32 {
        let at = self.roomy_chunk();
        let (first, slots) = slots_of_chunk(at);
        let chunk = &mut self.chunks[at];
        if chunk.live == 0 {
            *chunk = Chunk::new(slots, self.slot_words);
        }
        let position = chunk.take(self.slot_words);
        if chunk.free == NO_SLOT {
            self.roomy[at / 64] &= !(1 << (at % 64));
        }
        first + u32::from(position)
    }

    pub(super) fn free(&mut self, slot: u32) {
        let (at, position) = place_of_slot(slot);
        let chunk = &mut self.chunks[at];
        chunk.put_back(position, self.slot_words);
        self.roomy[at / 64] |= 1 << (at % 64);
        if chunk.live == 0 {
            *chunk = Chunk::unused();
            self.drop_unused_end();
        }
    }

    /// The lowest chunk with a free slot; a new one if all are full.
    fn roomy_chunk(&mut self) -> usize {
        if let Some(at) = self.roomy.iter().position(|word| *word != 0) {
            return at * 64 + self.roomy[at].trailing_zeros() as usize;
        }
        let at = self.chunks.len();
        reserve(&mut self.chunks, 1);
        self.chunks.push(Chunk::unused());
        if at / 64 == self.roomy.len() {
            reserve(&mut self.roomy, 1);
            self.roomy.push(0);
        }
        self.roomy[at / 64] |= 1 << (at % 64);
        at
    }

    fn drop_unused_end(&mut self) {
        while self.chunks.pop_if(|chunk| chunk.live == 0).is_some() {
            let at = self.chunks.len();
            self.roomy[at / 64] &= !(1 << (at % 64));
        }
        self.roomy.truncate(self.chunks.len().div_ceil(64));
        trim(&mut self.chunks);
        trim(&mut self.roomy);
    }

    pub(super) fn resident_bytes(&self) -> usize {
        let slots = self.chunks.iter().map(|chunk| size_of_val(&*chunk.words)).sum::<usize>();
        slots + bytes_of(&self.chunks) + bytes_of(&self.roomy)
    }
}

impl Chunk {
    /// A chunk without memory.
    fn unused() -> Self {
        Self { words: Box::default(), live: 0, free: NO_SLOT }
    }

    /// A chunk with `slots` slots, all of them free.
    fn new(slots: u16, slot_words: u16) -> Self {
        let words = vec![0; usize::from(slots) * usize::from(slot_words)].into_boxed_slice();
        let mut chunk = Self { words, live: 0, free: NO_SLOT };
        for position in (0..slots).rev() {
            chunk.slot_mut(position, slot_words)[0] = u32::from(chunk.free);
            chunk.free = position;
        }
        chunk
    }

    fn take(&mut self, slot_words: u16) -> u16 {
        let position = self.free;
        let next = self.slot(position, slot_words)[0];
        self.free = u16::try_from(next).expect("a free slot leads to a position");
        self.live += 1;
        position
    }

    fn put_back(&mut self, position: u16, slot_words: u16) {
        self.slot_mut(position, slot_words)[0] = u32::from(self.free);
        self.free = position;
        self.live -= 1;
    }

    #[inline]
    pub(super) fn slot(&self, position: u16, slot_words: u16) -> &[u32] {
        let (position, len) = (usize::from(position), usize::from(slot_words));
        &self.words[position * len..][..len]
    }

    fn slot_mut(&mut self, position: u16, slot_words: u16) -> &mut [u32] {
        let (position, len) = (usize::from(position), usize::from(slot_words));
        &mut self.words[position * len..][..len]
    }
}

/// The chunk of a slot and the slot's position in it.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "a position is below 1024")]
pub(super) fn place_of_slot(slot: u32) -> (usize, u16) {
    // Shifted by the size of the first chunk, each growing chunk begins at its size.
    let shifted = slot + FIRST_CHUNK_SLOTS;
    if shifted < LAST_CHUNK_SLOTS {
        let chunk = shifted.ilog2() - FIRST_CHUNK_SLOTS.ilog2();
        (chunk as usize, (shifted - (FIRST_CHUNK_SLOTS << chunk)) as u16)
    } else {
        let chunk = shifted / LAST_CHUNK_SLOTS - 1 + LAST_GROWTH;
        (chunk as usize, (shifted % LAST_CHUNK_SLOTS) as u16)
    }
}

/// The first slot of a chunk and the number of its slots.
#[expect(clippy::cast_possible_truncation, reason = "a chunk has at most 1024 slots")]
pub(super) fn slots_of_chunk(chunk: usize) -> (u32, u16) {
    let chunk = u32::try_from(chunk).expect("slots have 29 bits");
    let (shifted, slots) = if chunk < LAST_GROWTH {
        (FIRST_CHUNK_SLOTS << chunk, FIRST_CHUNK_SLOTS << chunk)
    } else {
        ((chunk - LAST_GROWTH + 1) * LAST_CHUNK_SLOTS, LAST_CHUNK_SLOTS)
    };
    (shifted - FIRST_CHUNK_SLOTS, slots as u16)
}
