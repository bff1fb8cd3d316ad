//! Bytes that nobody changes any more.
//!
//! What a socket receives comes as a [`Slice`], and what it sends may be one. A buffer that was
//! filled becomes one with [`Buffer::share`](crate::Buffer::share).
//!
//! - A slice and its clones only look; nobody else has the chunk.
//! - The chunk goes back when its last slice is dropped, on any thread. Whoever keeps one of the
//!   loop's receive chunks keeps it from all sockets of that loop.

use std::ops::{Deref, Range};

use crate::arena::ChunkRef;

/// A part of a chunk that is only looked at. A clone is another holder of the same bytes.
#[derive(Clone)]
pub struct Slice {
    chunk: ChunkRef,
    start: u32,
    end: u32,
}

impl Slice {
    /// The bytes of a chunk that is changed by nobody from now on.
    pub(crate) fn new(chunk: ChunkRef, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= chunk.capacity(), "beyond the chunk");
        let narrow = |at: usize| u32::try_from(at).expect("chunks are smaller than 4 GiB");
        Self { chunk, start: narrow(range.start), end: narrow(range.end) }
    }

    /// Lets go of the first `count` bytes.
    ///
    /// # Panics
    ///
    /// When there are fewer.
    pub fn advance(&mut self, count: usize) {
        assert!(count <= self.len(), "fewer bytes are left");
        self.start += u32::try_from(count).expect("as asserted above");
    }

    /// Cuts it behind the first `count` bytes.
    ///
    /// # Panics
    ///
    /// When there are fewer.
    pub fn truncate(&mut self, count: usize) {
        assert!(count <= self.len(), "fewer bytes are left");
        self.end = self.start + u32::try_from(count).expect("as asserted above");
    }
}

impl Deref for Slice {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let start = self.chunk.start().wrapping_add(self.start as usize);
        // SAFETY: the range lies in the chunk, whose bytes are all initialised; every holder is a
        // slice, which only looks.
        unsafe { std::slice::from_raw_parts(start, (self.end - self.start) as usize) }
    }
}

impl std::fmt::Debug for Slice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Slice").field("length", &self.len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use crate::{Arena, Buffer, SizeClass};

    #[test]
    fn holders_see_the_same_bytes_and_the_last_one_gives_the_chunk_back() {
        let mut arena = Arena::new(&[SizeClass { chunk_bytes: 4096, chunks: 1 }]);
        let mut buffer = arena.take(100).expect("it is free");
        buffer.copy_from_slice(&std::array::from_fn::<u8, 100, _>(|at| at.to_le_bytes()[0]));
        let mut one = buffer.share(10..60);
        let other = one.clone();
        one.advance(20);
        one.truncate(5);
        assert_eq!(
            (&one[..], &other[..2], other.len()),
            (&[30, 31, 32, 33, 34][..], &[10, 11][..], 50)
        );
        std::thread::spawn(move || drop(other)).join().expect("it is dropped");
        assert_eq!(arena.free(1), 0);
        drop(one);
        assert_eq!(arena.free(1), 1);
    }

    #[test]
    #[should_panic(expected = "fewer bytes")]
    fn it_does_not_advance_beyond_its_end() {
        Buffer::zeroed(8).share(0..4).advance(5);
    }

    #[test]
    #[should_panic(expected = "beyond")]
    fn it_does_not_begin_as_more_than_the_buffer() {
        Buffer::zeroed(8).share(4..9);
    }
}
