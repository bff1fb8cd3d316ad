//! The memory of I/O: chunks of a few sizes, allocated beforehand.
//!
//! ```text
//!   Arena --take--> Buffer --drop, on any thread--> the chunk's region --take--> ...
//!                     |  ^
//!                  lend  return          (crate::lend)
//! ```
//!
//! An [`Arena`] belongs to one loop. Its [`Buffer`]s travel with messages to other loops, whose
//! rings may use their memory, and come back to their region when they are dropped.
//!
//! - A chunk has one owner, or lies in its region: it is never handed out twice.
//! - Memory stays allocated while one buffer of it exists, the arena's end included.
//! - Nothing is allocated on the way of an I/O. When no chunk is left, the answer is `None`.
//! - The content of a fresh buffer is what its last owner left.

use std::{
    alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error},
    ops::{Deref, DerefMut, Range},
    ptr::NonNull,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU32, Ordering},
    },
};

use fathom_block::PAGE_SIZE;

use crate::{slice::Slice, waker::Waker};

/// No chunk: the end of a list.
const NONE: u32 = u32::MAX;
/// As [`NONE`], and the loop wants its bell rung when a chunk comes back.
const WANTED: u32 = u32::MAX - 1;
/// The most chunks in a region.
const CHUNKS_MAX: usize = 1 << 20;
/// The most size classes in an arena.
pub const CLASSES_MAX: usize = 8;

/// So many chunks of one size.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SizeClass {
    /// Bytes in a chunk, a multiple of 4096.
    pub chunk_bytes: usize,
    /// How many.
    pub chunks: usize,
}

/// What is known of a chunk: who holds it, and which one follows it in the list of returned ones.
struct Chunk {
    holders: AtomicU32,
    next: AtomicU32,
}

/// Chunks of one size in one piece of memory.
pub(crate) struct Region {
    memory: NonNull<u8>,
    layout: Layout,
    chunk_bytes: usize,
    chunks: Box<[Chunk]>,
    /// The chunks that have come back, last first.
    returned: AtomicU32,
    /// The ring in which the memory is registered, and its index there; 0 for none.
    fixed: AtomicU32,
    /// The bell of its loop, where somebody waits for chunks to come back.
    bell: OnceLock<Arc<Waker>>,
}

// SAFETY: the memory belongs to the region alone, and `ChunkRef` says who may touch which part.
unsafe impl Send for Region {}
// SAFETY: as above; everything else in it is atomic or never changes.
unsafe impl Sync for Region {}

impl Region {
    fn new(class: SizeClass) -> Self {
        let SizeClass { chunk_bytes, chunks } = class;
        assert!(chunk_bytes > 0 && chunk_bytes.is_multiple_of(PAGE_SIZE), "chunks are whole pages");
        assert!(chunks > 0 && chunks <= CHUNKS_MAX, "a region has 1 to {CHUNKS_MAX} chunks");
        let bytes = chunk_bytes.checked_mul(chunks).expect("a region fits in memory");
        let layout = Layout::from_size_align(bytes, PAGE_SIZE).expect("a region fits in memory");
        // SAFETY: the layout is not empty, as asserted above.
        let memory = unsafe { alloc_zeroed(layout) };
        let Some(memory) = NonNull::new(memory) else { handle_alloc_error(layout) };
        let chunk = |_| Chunk { holders: AtomicU32::new(0), next: AtomicU32::new(NONE) };
        Self {
            memory,
            layout,
            chunk_bytes,
            chunks: (0..chunks).map(chunk).collect(),
            returned: AtomicU32::new(NONE),
            fixed: AtomicU32::new(0),
            bell: OnceLock::new(),
        }
    }

    /// Puts a chunk that nobody holds any more on the list, and rings the bell if that was wanted.
    ///
    /// The wish stands in the head of the empty list, where the exchange that ends it finds it: so
    /// none is overlooked, and a chunk that nobody waits for costs nothing more.
    fn give_back(&self, number: u32) {
        let mut head = self.returned.load(Ordering::Relaxed);
        loop {
            let next = if head == WANTED { NONE } else { head };
            self.chunks[number as usize].next.store(next, Ordering::Relaxed);
            let swap = self.returned.compare_exchange_weak(
                head,
                number,
                Ordering::Release,
                Ordering::Relaxed,
            );
            match swap {
                Ok(_) => break,
                Err(now) => head = now,
            }
        }
        if head == WANTED
            && let Some(bell) = self.bell.get()
        {
            bell.ring();
        }
    }

    /// Whether a chunk has come back that nobody has taken over yet.
    fn has_returned(&self) -> bool {
        !matches!(self.returned.load(Ordering::Relaxed), NONE | WANTED)
    }

    pub(crate) fn start(&self) -> *mut u8 {
        self.memory.as_ptr()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.layout.size()
    }

    /// Notes in which ring the memory is registered, and as which buffer.
    pub(crate) fn set_fixed(&self, ring: u16, index: u8) {
        self.fixed.store(u32::from(ring) << 8 | u32::from(index) | 1 << 31, Ordering::Release);
    }

    /// The index as which the memory is registered in a ring.
    pub(crate) fn fixed_in(&self, ring: u16) -> Option<u16> {
        let fixed = self.fixed.load(Ordering::Relaxed);
        let is_there = fixed >> 8 == u32::from(ring) | 1 << 23;
        is_there.then_some(u16::from(fixed.to_le_bytes()[0]))
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: `new` allocated it with this layout, and no chunk is held any more, since each
        // holder keeps the region.
        unsafe { dealloc(self.memory.as_ptr(), self.layout) };
    }
}

/// One holder of a chunk. When the last one goes, the chunk returns to its region.
pub(crate) struct ChunkRef {
    region: Arc<Region>,
    number: u32,
}

impl ChunkRef {
    /// The first byte of the chunk. Who may touch what is behind it, the holders settle:
    /// [`Buffer`] owns all of it, and the loans of [`crate::lend`] parts of it.
    pub(crate) fn start(&self) -> *mut u8 {
        let offset = self.number as usize * self.region.chunk_bytes;
        // SAFETY: the region has `chunks` times `chunk_bytes` bytes, and the number is below the
        // number of chunks.
        unsafe { self.region.memory.as_ptr().add(offset) }
    }

    pub(crate) fn capacity(&self) -> usize {
        self.region.chunk_bytes
    }

    pub(crate) fn region(&self) -> &Region {
        &self.region
    }

    /// Its number in its region.
    pub(crate) fn number(&self) -> u32 {
        self.number
    }

    /// Whether both hold the same chunk.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.region, &other.region) && self.number == other.number
    }
}

impl Clone for ChunkRef {
    fn clone(&self) -> Self {
        self.region.chunks[self.number as usize].holders.fetch_add(1, Ordering::Relaxed);
        Self { region: Arc::clone(&self.region), number: self.number }
    }
}

impl Drop for ChunkRef {
    fn drop(&mut self) {
        let holders = &self.region.chunks[self.number as usize].holders;
        // What every holder did with the memory comes before what its next owner does.
        if holders.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.region.give_back(self.number);
        }
    }
}

/// What an arena has for buffers of some length.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Room {
    /// The class that they are of, by ascending size of chunks, below [`CLASSES_MAX`].
    pub class: usize,
    /// Its chunks that are free.
    pub free: usize,
}

/// The chunks of one loop.
pub struct Arena {
    classes: Vec<Class>,
}

/// The chunks of one region, seen from the loop that hands them out.
pub(crate) struct Class {
    region: Arc<Region>,
    free: Vec<u32>,
}

impl Class {
    fn new(class: SizeClass) -> Self {
        let chunks = u32::try_from(class.chunks).expect("at most CHUNKS_MAX");
        Self { region: Arc::new(Region::new(class)), free: (0..chunks).rev().collect() }
    }

    /// Chunks outside of an arena, whose loop can wait for them.
    pub(crate) fn with_bell(class: SizeClass, bell: Arc<Waker>) -> Self {
        let class = Self::new(class);
        assert!(class.region.bell.set(bell).is_ok(), "a new region has no bell");
        class
    }

    /// Has the bell rung when the next chunk comes back. False when one has come back already.
    pub(crate) fn want(&mut self) -> bool {
        if self.free.is_empty() {
            self.collect(WANTED);
        }
        self.free.is_empty()
    }

    /// Whether [`Class::take`] will find one.
    pub(crate) fn has_one(&self) -> bool {
        !self.free.is_empty() || self.region.has_returned()
    }

    pub(crate) fn take(&mut self) -> Option<ChunkRef> {
        if self.free.is_empty() && self.region.has_returned() {
            self.collect(NONE);
        }
        let number = self.free.pop()?;
        let before = self.region.chunks[number as usize].holders.swap(1, Ordering::Relaxed);
        assert_eq!(before, 0, "a free chunk has no holder");
        Some(ChunkRef { region: Arc::clone(&self.region), number })
    }

    /// Takes over all chunks that have come back. The whole list is taken at once, so a chunk
    /// cannot come and go between two looks at it.
    fn collect(&mut self, empty: u32) {
        let mut number = self.region.returned.swap(empty, Ordering::Acquire);
        while !matches!(number, NONE | WANTED) {
            self.free.push(number);
            number = self.region.chunks[number as usize].next.load(Ordering::Relaxed);
        }
    }
}

impl Arena {
    /// Allocates all chunks of the classes; the memory is touched, so that it is there later.
    ///
    /// # Panics
    ///
    /// When there are more than [`CLASSES_MAX`] classes, or one is empty or not of whole pages.
    pub fn new(classes: &[SizeClass]) -> Self {
        assert!(classes.len() <= CLASSES_MAX, "an arena has at most {CLASSES_MAX} size classes");
        let mut classes = classes.to_vec();
        classes.sort_by_key(|class| class.chunk_bytes);
        Self { classes: classes.into_iter().map(Class::new).collect() }
    }

    /// A buffer of `length` bytes, from the class that it fits best. `None` when that class has
    /// no chunk left; one comes back when somebody drops a buffer.
    ///
    /// Its content is what its last owner left: whoever answers a read fills all of it.
    pub fn take(&mut self, length: usize) -> Option<Buffer> {
        let class = self.classes.iter_mut().find(|class| class.region.chunk_bytes >= length)?;
        class.take().map(|chunk| Buffer { chunk, length })
    }

    /// The length of the largest buffer that it can give.
    pub fn largest(&self) -> usize {
        self.classes.last().map_or(0, |class| class.region.chunk_bytes)
    }

    /// Of which class a buffer of `length` bytes would be, and how many chunks of it are free. `None`
    /// when no chunk is so large.
    pub fn room(&mut self, length: usize) -> Option<Room> {
        let class = self.classes.iter().position(|class| class.region.chunk_bytes >= length)?;
        self.classes[class].collect(NONE);
        Some(Room { class, free: self.classes[class].free.len() })
    }

    /// The number of free chunks in the class for buffers of `length` bytes.
    pub fn free(&mut self, length: usize) -> usize {
        let class = self.classes.iter_mut().find(|class| class.region.chunk_bytes >= length);
        class.map_or(0, |class| {
            class.collect(NONE);
            class.free.len()
        })
    }

    pub(crate) fn regions(&self) -> impl Iterator<Item = &Arc<Region>> {
        self.classes.iter().map(|class| &class.region)
    }
}

/// Memory for I/O, aligned to 4096 bytes, with one owner.
pub struct Buffer {
    chunk: ChunkRef,
    length: usize,
}

impl Buffer {
    /// A buffer of `length` zeros that belongs to no arena: for threads that are no loops.
    ///
    /// # Panics
    ///
    /// When memory cannot be had.
    pub fn zeroed(length: usize) -> Self {
        let chunk_bytes = length.max(1).next_multiple_of(PAGE_SIZE);
        let region = Region::new(SizeClass { chunk_bytes, chunks: 1 });
        region.chunks[0].holders.store(1, Ordering::Relaxed);
        Self { chunk: ChunkRef { region: Arc::new(region), number: 0 }, length }
    }

    /// Shortens or lengthens it within its chunk. The memory stays where it is.
    ///
    /// # Panics
    ///
    /// When the chunk is smaller.
    pub fn set_length(&mut self, length: usize) {
        assert!(length <= self.chunk.capacity(), "a buffer cannot outgrow its chunk");
        self.length = length;
    }

    /// How long it can be.
    pub fn capacity(&self) -> usize {
        self.chunk.capacity()
    }

    pub(crate) fn chunk(&self) -> &ChunkRef {
        &self.chunk
    }

    /// Gives up changing it: bytes that may then have several holders.
    ///
    /// # Panics
    ///
    /// When the range does not lie in it.
    pub fn share(self, range: Range<usize>) -> Slice {
        assert!(range.start <= range.end && range.end <= self.length, "beyond the buffer's end");
        Slice::new(self.chunk, range)
    }

    pub(crate) fn into_parts(self) -> (ChunkRef, usize) {
        (self.chunk, self.length)
    }

    /// The buffer of a chunk that has no other holder than `chunk`.
    pub(crate) fn from_parts(chunk: ChunkRef, length: usize) -> Self {
        let holders = chunk.region.chunks[chunk.number as usize].holders.load(Ordering::Acquire);
        assert_eq!(holders, 1, "a buffer is its chunk's only holder");
        Self { chunk, length }
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the chunk has at least `length` bytes, all initialised, and this buffer is its
        // only holder; changes need `&mut self`.
        unsafe { std::slice::from_raw_parts(self.chunk.start(), self.length) }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for `deref`, and `&mut self` excludes every other reference.
        unsafe { std::slice::from_raw_parts_mut(self.chunk.start(), self.length) }
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Buffer").field("length", &self.length).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, sync::mpsc, thread};

    use super::*;

    const SMALL: SizeClass = SizeClass { chunk_bytes: 4096, chunks: 4 };
    const LARGE: SizeClass = SizeClass { chunk_bytes: 8192, chunks: 2 };

    #[test]
    fn buffers_are_aligned_and_never_handed_out_twice() {
        let mut arena = Arena::new(&[LARGE, SMALL]);
        let held: Vec<Buffer> = std::iter::from_fn(|| arena.take(100)).collect();
        let places: BTreeSet<usize> = held.iter().map(|buffer| buffer.as_ptr().addr()).collect();
        assert_eq!(places.len(), 4);
        assert!(places.iter().all(|place| place % PAGE_SIZE == 0));
        assert!(held.iter().all(|buffer| buffer.len() == 100));
    }

    #[test]
    fn an_exhausted_class_answers_none_until_a_buffer_comes_back() {
        let mut arena = Arena::new(&[SMALL, LARGE]);
        let mut held: Vec<Buffer> = std::iter::from_fn(|| arena.take(4096)).collect();
        assert_eq!(held.len(), 4);
        assert!(arena.take(1).is_none(), "a larger class is not robbed");
        let large = arena.take(4097);
        assert!(large.is_some());
        assert_eq!(arena.room(4096), Some(Room { class: 0, free: 0 }));
        assert_eq!(arena.room(4097), Some(Room { class: 1, free: 1 }));
        assert_eq!(arena.room(8193), None);
        held.pop();
        assert_eq!(arena.free(1), 1);
        assert_eq!(arena.room(1), Some(Room { class: 0, free: 1 }));
        assert!(arena.take(1).is_some());
    }

    #[test]
    fn what_fits_no_class_is_refused() {
        let mut arena = Arena::new(&[SMALL]);
        assert!(arena.take(4097).is_none());
        assert_eq!((arena.largest(), arena.free(4097)), (4096, 0));
    }

    #[test]
    fn buffers_come_back_from_other_threads() {
        let mut arena = Arena::new(&[SMALL]);
        let (sender, receiver) = mpsc::sync_channel::<Buffer>(1);
        let other = thread::spawn(move || {
            for mut buffer in receiver {
                assert!(buffer.iter().all(|&byte| byte == buffer[0]));
                buffer.fill(0);
            }
        });
        let rounds = if cfg!(miri) { 50 } else { 10_000 };
        for round in 0..rounds {
            let mut buffer = loop {
                match arena.take(64) {
                    Some(buffer) => break buffer,
                    None => thread::yield_now(),
                }
            };
            buffer.fill((round % 251) as u8);
            sender.send(buffer).expect("the other thread takes it");
        }
        drop(sender);
        other.join().expect("no buffer was changed under way");
        assert_eq!(arena.free(64), 4);
    }

    #[test]
    fn a_loop_that_waits_for_a_chunk_is_rung_whoever_drops_it() {
        let rounds = if cfg!(miri) { 30 } else { 20_000 };
        let bell = Arc::new(Waker::new().expect("an eventfd"));
        let mut class = Class::with_bell(SizeClass { chunks: 1, ..SMALL }, Arc::clone(&bell));
        let (sender, receiver) = mpsc::sync_channel::<ChunkRef>(1);
        let other = thread::spawn(move || receiver.into_iter().for_each(drop));
        for _ in 0..rounds {
            sender.send(class.take().expect("it is free")).expect("the other thread takes it");
            bell.fall_asleep();
            if class.want() {
                // Blocks for ever if nobody rings.
                let mut count = [0; 8];
                rustix::io::read(&*bell, &mut count).expect("an eventfd is read");
            }
            bell.wake_up();
            assert!(class.has_one());
        }
        drop(sender);
        other.join().expect("it drops what it is sent");
    }

    #[test]
    fn a_chunk_that_nobody_waits_for_rings_no_bell() {
        let bell = Arc::new(Waker::new().expect("an eventfd"));
        let mut class = Class::with_bell(SMALL, Arc::clone(&bell));
        bell.fall_asleep();
        drop(class.take().expect("it is free"));
        // The first ring of a sleeper is the one that says so.
        assert!(bell.is_asleep());
        assert!(!class.want(), "chunks are free");
    }

    #[test]
    fn memory_outlives_the_arena_while_a_buffer_exists() {
        let mut arena = Arena::new(&[SMALL]);
        let mut buffer = arena.take(4096).expect("the arena is full");
        drop(arena);
        buffer.fill(7);
        assert_eq!(buffer[4095], 7);
    }

    #[test]
    #[should_panic(expected = "outgrow")]
    fn a_buffer_does_not_outgrow_its_chunk() {
        Buffer::zeroed(1).set_length(4097);
    }

    #[test]
    fn the_place_in_a_ring_is_that_rings_only() {
        let region = Region::new(SMALL);
        assert_eq!(region.fixed_in(0), None);
        region.set_fixed(3, 2);
        assert_eq!((region.fixed_in(3), region.fixed_in(2)), (Some(2), None));
    }
}
