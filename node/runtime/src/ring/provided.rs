//! The chunks that the kernel fills with what sockets receive.
//!
//! ```text
//!   free chunks --refill--> ring of provided chunks --a receive takes one--> Slice --dropped--> free
//! ```
//!
//! - They belong to the loop. A connection has one only between the arrival of its bytes and the
//!   dropping of the [`Slice`] that it got.
//! - A chunk is with the kernel, or in slices, or free. Its number is the kernel's name for it, and
//!   what lies with the kernel is held here, so that a chunk that is named twice is noticed.
//! - Source: `io_uring_register_buf_ring(3)`; kernels from 5.19.

use std::{
    alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error},
    io,
    ptr::NonNull,
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
};

use fathom_block::PAGE_SIZE;
use io_uring::{Submitter, types::BufRingEntry};

use crate::{
    arena::{ChunkRef, Class, SizeClass},
    slice::Slice,
    waker::Waker,
};

/// The most chunks that the kernel takes into one ring of them.
pub(crate) const PROVIDED_MAX: usize = 1 << 15;
/// The kernel's name for the only group.
pub(crate) const GROUP: u16 = 0;

pub(crate) struct Provided {
    /// Shared with the kernel; its size is a power of two.
    entries: NonNull<BufRingEntry>,
    layout: Layout,
    mask: u16,
    /// Counts what was put in.
    tail: u16,
    class: Class,
    chunk_bytes: u32,
    /// By number, the chunks that are with the kernel.
    with_kernel: Box<[Option<ChunkRef>]>,
    count: usize,
}

impl Provided {
    /// Allocates the chunks and registers the ring of them.
    ///
    /// # Errors
    ///
    /// What the kernel says when it refuses.
    pub(crate) fn new(
        class: SizeClass,
        bell: Arc<Waker>,
        kernel: &Submitter<'_>,
    ) -> io::Result<Self> {
        assert!(class.chunks <= PROVIDED_MAX, "at most {PROVIDED_MAX} receive chunks");
        let size = class.chunks.next_power_of_two();
        let layout = Layout::array::<BufRingEntry>(size).expect("it is small");
        let layout = layout.align_to(PAGE_SIZE).expect("a power of two");
        // SAFETY: there is at least one chunk, so the layout is not empty.
        let entries = unsafe { alloc_zeroed(layout) };
        let Some(entries) = NonNull::new(entries) else { handle_alloc_error(layout) };
        let mut provided = Self {
            entries: entries.cast(),
            layout,
            mask: u16::try_from(size - 1).expect("at most PROVIDED_MAX"),
            tail: 0,
            class: Class::with_bell(class, bell),
            chunk_bytes: u32::try_from(class.chunk_bytes).expect("chunks are smaller than 4 GiB"),
            with_kernel: (0..class.chunks).map(|_| None).collect(),
            count: 0,
        };
        let size = u16::try_from(size).expect("at most PROVIDED_MAX");
        let address = provided.entries.as_ptr().addr() as u64;
        // SAFETY: the entries are whole pages of their own; they stay until `unregister`, or until
        // the ring that uses them is closed and nothing is under way in it.
        unsafe { kernel.register_buf_ring_with_flags(address, size, GROUP, 0) }?;
        provided.refill();
        Ok(provided)
    }

    /// Takes the ring of chunks back from the kernel.
    pub(crate) fn unregister(&self, kernel: &Submitter<'_>) {
        // The kernel refuses this only when there is none, and then has no use for it.
        let _ = kernel.unregister_buf_ring(GROUP);
    }

    /// How many chunks are with the kernel.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Whether chunks have come back that [`Provided::refill`] would give to the kernel.
    pub(crate) fn has_more(&self) -> bool {
        self.class.has_one()
    }

    /// Has the loop's bell rung when the next chunk comes back. False when one has already.
    pub(crate) fn want(&mut self) -> bool {
        self.class.want()
    }

    /// Gives every free chunk to the kernel.
    pub(crate) fn refill(&mut self) {
        let before = self.tail;
        while let Some(chunk) = self.class.take() {
            let number = chunk.number();
            // SAFETY: the mask keeps it within the entries.
            let entry = unsafe { self.entries.add(usize::from(self.tail & self.mask)) };
            // SAFETY: there are as many entries as chunks, so that the kernel has read this one and
            // given its chunk back; it looks again when the tail has passed it.
            let entry = unsafe { &mut *entry.as_ptr() };
            entry.set_addr(chunk.start().addr() as u64);
            entry.set_len(self.chunk_bytes);
            entry.set_bid(u16::try_from(number).expect("at most PROVIDED_MAX"));
            let place = &mut self.with_kernel[number as usize];
            assert!(place.replace(chunk).is_none(), "a chunk is given to the kernel once");
            self.tail = self.tail.wrapping_add(1);
            self.count += 1;
        }
        if self.tail != before {
            // SAFETY: the ring's memory begins here, and has the alignment of a page.
            let tail = unsafe { BufRingEntry::tail(self.entries.as_ptr()) };
            // SAFETY: it lies in the reserved part of the first entry, which nothing else uses and
            // which is two bytes long at an even address; it lives as long as `self`.
            let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
            // The kernel sees the entries before it sees the tail.
            tail.store(self.tail, Ordering::Release);
        }
    }

    /// The chunk that the kernel has filled with so many bytes.
    pub(crate) fn take(&mut self, number: u16, length: usize) -> Slice {
        let chunk = self.with_kernel[usize::from(number)].take();
        self.count -= 1;
        Slice::new(chunk.expect("the kernel fills what it was given, once"), 0..length)
    }
}

impl Drop for Provided {
    fn drop(&mut self) {
        // SAFETY: `new` allocated it with this layout.
        unsafe { dealloc(self.entries.as_ptr().cast(), self.layout) };
    }
}
