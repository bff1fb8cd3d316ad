//! The bytes of a simulated disk at one moment, as a persistent tree of 4 KiB pages.
//!
//! [`crate::cache`] holds two of these: what reads see and what a power cut leaves.
//!
//! - A clone takes constant time and shares every page; a change copies the pages it touches
//!   and the path to them, once.
//! - Memory grows with what was written, not with the capacity. A discard of any length holds
//!   only the nodes on its two edges.
//! - No bounds are checked against a capacity here; [`crate::disk`] does that.
//!
//! ```text
//!   root, height 2      [ Branch | Unwritten | Zeroes | ... ]     32 slots, 1024 pages
//!                           |
//!   height 1            [ Page | Unwritten | Page | ... ]         32 slots, 32 pages
//! ```
//!
//! A slot that is `Unwritten` or `Zeroes` stands for all the pages below it.

use std::ops::Range;
use std::sync::Arc;

use crate::disk::{GARBAGE_MARK, PAGE_BYTES, SECTOR_BYTES, Unwritten};
use crate::random::mix;
use crate::sectors::{Sectors, memory_length};

/// [`SECTOR_BYTES`] and [`PAGE_BYTES`] as lengths in memory.
const SECTOR_LENGTH: usize = 512;
const PAGE_LENGTH: usize = 4096;
const _: () = assert!(SECTOR_LENGTH as u64 == SECTOR_BYTES && PAGE_LENGTH as u64 == PAGE_BYTES);

const PAGE_SECTORS: u64 = PAGE_BYTES / SECTOR_BYTES;

const FAN_OUT: usize = 1 << FAN_OUT_BITS;
const FAN_OUT_BITS: u32 = 5;

type Page = [u8; PAGE_LENGTH];

type Branch = [Slot; FAN_OUT];

/// All the bytes of a disk.
#[derive(Clone)]
pub(crate) struct Contents {
    root: Slot,
    /// Levels of branches; the root stands for `32^height` pages.
    height: u32,
    background: Background,
}

/// What sectors that nobody wrote read as.
#[derive(Clone, Copy)]
struct Background {
    unwritten: Unwritten,
    seed: u64,
}

#[derive(Clone)]
enum Slot {
    Unwritten,
    Zeroes,
    Branch(Arc<Branch>),
    Page(Arc<Page>),
}

/// The part of a run of sectors that lies in one page.
struct Piece {
    page: u64,
    in_page: Range<usize>,
    in_run: Range<usize>,
}

impl Contents {
    /// The contents of a disk nobody wrote to.
    pub(crate) fn new(capacity_bytes: u64, unwritten: Unwritten, seed: u64) -> Self {
        let mut contents = Self {
            root: Slot::Unwritten,
            height: 0,
            background: Background { unwritten, seed: mix(seed) },
        };
        contents.grow(capacity_bytes);
        contents
    }

    /// Makes room for `capacity_bytes`; what is new is unwritten.
    pub(crate) fn grow(&mut self, capacity_bytes: u64) {
        while pages_below(self.height) < capacity_bytes.div_ceil(PAGE_BYTES) {
            let below = std::mem::replace(&mut self.root, Slot::Unwritten);
            if !matches!(below, Slot::Unwritten) {
                branch_mut(&mut self.root)[0] = below;
            }
            self.height += 1;
        }
    }

    /// Copies `sectors` to `buffer`, which is exactly as long.
    pub(crate) fn read(&self, sectors: Sectors, buffer: &mut [u8]) {
        for piece in pieces(sectors) {
            let target = &mut buffer[piece.in_run];
            match self.slot(piece.page) {
                Slot::Page(page) => target.copy_from_slice(&page[piece.in_page]),
                Slot::Zeroes => target.fill(0),
                Slot::Unwritten => {
                    let in_page = (piece.in_page.start / SECTOR_LENGTH) as u64;
                    self.background.fill(piece.page * PAGE_SECTORS + in_page, target);
                }
                Slot::Branch(_) => unreachable!("slot() ends below the branches"),
            }
        }
    }

    /// Sets `sectors` to `data`, which is exactly as long.
    pub(crate) fn write(&mut self, sectors: Sectors, data: &[u8]) {
        for piece in pieces(sectors) {
            self.page_mut(piece.page)[piece.in_page].copy_from_slice(&data[piece.in_run]);
        }
    }

    /// Flips the bits of `sectors` that are set in `mask`, which is exactly as long.
    pub(crate) fn flip(&mut self, sectors: Sectors, mask: &[u8]) {
        for piece in pieces(sectors) {
            let target = &mut self.page_mut(piece.page)[piece.in_page];
            target.iter_mut().zip(&mask[piece.in_run]).for_each(|(byte, mask)| *byte ^= mask);
        }
    }

    /// Sets `sectors` to zeroes.
    pub(crate) fn zero(&mut self, sectors: Sectors) {
        let whole_pages = sectors.first.div_ceil(PAGE_SECTORS)..sectors.end() / PAGE_SECTORS;
        if whole_pages.start >= whole_pages.end {
            return self.zero_within_pages(sectors);
        }
        let head = Sectors::between(sectors.first, whole_pages.start * PAGE_SECTORS);
        let tail = Sectors::between(whole_pages.end * PAGE_SECTORS, sectors.end());
        self.zero_within_pages(head);
        zero_pages(&mut self.root, self.height, whole_pages);
        self.zero_within_pages(tail);
    }

    fn zero_within_pages(&mut self, sectors: Sectors) {
        for piece in pieces(sectors) {
            self.page_mut(piece.page)[piece.in_page].fill(0);
        }
    }

    /// The slot that holds, or stands for, `page`.
    fn slot(&self, page: u64) -> &Slot {
        let mut slot = &self.root;
        let mut height = self.height;
        while let Slot::Branch(branch) = slot {
            height -= 1;
            slot = &branch[child_index(page, height)];
        }
        slot
    }

    /// The bytes of `page`, its own and shared with no other contents.
    fn page_mut(&mut self, page: u64) -> &mut Page {
        let mut slot = &mut self.root;
        for height in (0..self.height).rev() {
            slot = &mut branch_mut(slot)[child_index(page, height)];
        }
        if !matches!(slot, Slot::Page(_)) {
            let mut bytes = [0; PAGE_LENGTH];
            if matches!(slot, Slot::Unwritten) {
                self.background.fill(page * PAGE_SECTORS, &mut bytes);
            }
            *slot = Slot::Page(Arc::new(bytes));
        }
        match slot {
            Slot::Page(page) => Arc::make_mut(page),
            _ => unreachable!("made a page above"),
        }
    }
}

impl Background {
    /// Fills `buffer` with what the sectors from `first` on read as while unwritten.
    fn fill(self, first: u64, buffer: &mut [u8]) {
        match self.unwritten {
            Unwritten::Zero => buffer.fill(0),
            Unwritten::Garbage => {
                for (sector, bytes) in (first..).zip(buffer.chunks_exact_mut(SECTOR_LENGTH)) {
                    self.fill_garbage(sector, bytes);
                }
            }
        }
    }

    /// Every 16 bytes are the mark and a word that no other place has.
    fn fill_garbage(self, sector: u64, bytes: &mut [u8]) {
        let sector_word = mix(self.seed ^ sector);
        for (index, line) in (0..).zip(bytes.chunks_exact_mut(16)) {
            let word = sector_word.wrapping_add(index);
            line[..8].copy_from_slice(&GARBAGE_MARK);
            line[8..].copy_from_slice(&word.to_le_bytes());
        }
    }
}

/// Zeroes `pages`, counted from the first page below `slot`.
fn zero_pages(slot: &mut Slot, height: u32, pages: Range<u64>) {
    if matches!(slot, Slot::Zeroes) {
        return;
    }
    if pages == (0..pages_below(height)) {
        *slot = Slot::Zeroes;
        return;
    }
    let child_pages = pages_below(height - 1);
    for (index, child) in (0..).zip(branch_mut(slot)) {
        let base = index * child_pages;
        let start = pages.start.max(base);
        let end = pages.end.min(base + child_pages);
        if start < end {
            zero_pages(child, height - 1, start - base..end - base);
        }
    }
}

/// The children of `slot`, its own and shared with no other contents.
fn branch_mut(slot: &mut Slot) -> &mut Branch {
    if !matches!(slot, Slot::Branch(_)) {
        let children = std::array::from_fn(|_| slot.clone());
        *slot = Slot::Branch(Arc::new(children));
    }
    match slot {
        Slot::Branch(branch) => Arc::make_mut(branch),
        _ => unreachable!("made a branch above"),
    }
}

fn pages_below(height: u32) -> u64 {
    1 << (FAN_OUT_BITS * height)
}

fn child_index(page: u64, height: u32) -> usize {
    let index = (page >> (FAN_OUT_BITS * height)) % FAN_OUT as u64;
    usize::try_from(index).expect("it is below the fan-out")
}

fn pieces(sectors: Sectors) -> impl Iterator<Item = Piece> {
    let mut next = sectors.first;
    std::iter::from_fn(move || {
        if next == sectors.end() {
            return None;
        }
        let page = next / PAGE_SECTORS;
        let end = sectors.end().min((page + 1) * PAGE_SECTORS);
        let piece = Piece {
            page,
            in_page: lengths(next - page * PAGE_SECTORS, end - page * PAGE_SECTORS),
            in_run: lengths(next - sectors.first, end - sectors.first),
        };
        next = end;
        Some(piece)
    })
}

fn lengths(first: u64, end: u64) -> Range<usize> {
    memory_length(first * SECTOR_BYTES)..memory_length(end * SECTOR_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    const CAPACITY_BYTES: u64 = 1 << 20;

    fn all(contents: &Contents, capacity_bytes: u64) -> Vec<u8> {
        let mut bytes = vec![0xee; memory_length(capacity_bytes)];
        contents.read(Sectors::covering(&(0..capacity_bytes)), &mut bytes);
        bytes
    }

    #[test]
    fn contents_behave_as_a_flat_array_of_bytes() {
        for unwritten in [Unwritten::Zero, Unwritten::Garbage] {
            let mut random = Random::new(1);
            let mut contents = Contents::new(CAPACITY_BYTES, unwritten, 9);
            let mut flat = all(&contents, CAPACITY_BYTES);
            let mut earlier = Vec::new();
            for _ in 0..400 {
                let first = random.below(CAPACITY_BYTES / SECTOR_BYTES);
                let end = (first + random.range(1..600)).min(CAPACITY_BYTES / SECTOR_BYTES);
                let sectors = Sectors::between(first, end);
                let mut data = vec![0; lengths(0, sectors.count).end];
                random.fill(&mut data);
                let target = &mut flat[lengths(first, end)];
                match random.below(3) {
                    0 => {
                        contents.zero(sectors);
                        target.fill(0);
                    }
                    1 => {
                        contents.flip(sectors, &data);
                        target.iter_mut().zip(&data).for_each(|(byte, mask)| *byte ^= mask);
                    }
                    _ => {
                        contents.write(sectors, &data);
                        target.copy_from_slice(&data);
                    }
                }
                if random.chance(1, 40) {
                    earlier.push((contents.clone(), flat.clone()));
                }
            }
            assert!(all(&contents, CAPACITY_BYTES) == flat);
            for (contents, flat) in earlier {
                assert!(all(&contents, CAPACITY_BYTES) == flat, "a clone changed");
            }
        }
    }

    #[test]
    fn growth_keeps_what_is_there_and_adds_unwritten_sectors() {
        let mut small = Contents::new(PAGE_BYTES, Unwritten::Garbage, 3);
        small.zero(Sectors { first: 0, count: PAGE_SECTORS });
        small.grow(CAPACITY_BYTES);
        let large = Contents::new(CAPACITY_BYTES, Unwritten::Garbage, 3);
        let (grown, fresh) = (all(&small, CAPACITY_BYTES), all(&large, CAPACITY_BYTES));
        assert!(grown[..PAGE_LENGTH].iter().all(|&byte| byte == 0));
        assert!(grown[PAGE_LENGTH..] == fresh[PAGE_LENGTH..]);
    }

    #[test]
    fn garbage_differs_by_sector_and_by_seed() {
        let sectors = |seed| {
            let bytes = all(&Contents::new(CAPACITY_BYTES, Unwritten::Garbage, seed), 16 << 10);
            assert!(bytes.chunks(16).all(|line| line.starts_with(&GARBAGE_MARK)));
            bytes.chunks(SECTOR_LENGTH).map(<[u8]>::to_vec).collect::<Vec<_>>()
        };
        let mut distinct = [sectors(1), sectors(2)].concat();
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!(distinct.len(), 64);
    }
}
