//! Owned memory for device I/O, aligned as direct I/O needs it.

use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

/// The alignment and granularity of a [`Buffer`], in bytes.
pub const PAGE_SIZE: usize = 4096;

#[derive(Clone, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(4096))]
struct Page([u8; PAGE_SIZE]);

/// A run of zero-initialised pages, aligned to [`PAGE_SIZE`].
#[derive(Clone)]
pub struct Buffer {
    pages: Box<[Page]>,
}

impl Buffer {
    /// A zeroed buffer of at least `length` bytes, rounded up to whole pages.
    ///
    /// # Panics
    ///
    /// When memory cannot be had.
    pub fn zeroed(length: usize) -> Self {
        let pages = <[Page]>::new_box_zeroed_with_elems(length.div_ceil(PAGE_SIZE))
            .expect("memory for an I/O buffer");
        Self { pages }
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        self.pages.as_bytes()
    }

    /// The bytes, to be changed.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.pages.as_mut_bytes()
    }
}

impl core::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Buffer").field("length", &self.bytes().len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_zeroed_aligned_and_whole_pages() {
        let buffer = Buffer::zeroed(4097);
        assert_eq!(buffer.bytes().len(), 2 * PAGE_SIZE);
        assert_eq!(buffer.bytes().as_ptr().addr() % PAGE_SIZE, 0);
        assert!(buffer.bytes().iter().all(|&byte| byte == 0));
    }
}
