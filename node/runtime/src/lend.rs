//! Parts of one buffer in several I/Os at once.
//!
//! A request's data may be read from several places of a device, or written to several. Each of
//! these I/Os takes a [`Loan`] of its part; the [`Shared`] buffer keeps the books.
//!
//! - What is lent to be changed is lent once, and not visible meanwhile.
//! - What is lent to be looked at may be lent again, and not be changed meanwhile.
//! - A loan that is dropped instead of returned stays in the books: its part is never visible
//!   again, but the chunk goes back to its arena when the last holder is gone.

use std::ops::Range;

use crate::arena::{Buffer, ChunkRef};

/// What the holder of a loan does with the bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// Changes them: a read from a device.
    Fill,
    /// Only looks at them: a write to a device.
    Drain,
}

/// A part of a shared buffer in the hands of an I/O.
#[must_use = "a loan is returned to the buffer that it is from"]
pub struct Loan {
    chunk: ChunkRef,
    range: Range<usize>,
    purpose: Purpose,
}

impl Loan {
    /// How many bytes.
    pub fn length(&self) -> usize {
        self.range.len()
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: `Shared::lend` checked that the range lies in the chunk, and that nobody
        // changes what is lent to be drained, or sees what is lent to be filled.
        unsafe { std::slice::from_raw_parts(self.start(), self.range.len()) }
    }

    /// The bytes, to be changed.
    ///
    /// # Panics
    ///
    /// When they are lent to be drained.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        assert_eq!(self.purpose, Purpose::Fill, "what is lent to be drained is not changed");
        // SAFETY: as for `bytes`; what is lent to be filled is lent once.
        unsafe { std::slice::from_raw_parts_mut(self.start(), self.range.len()) }
    }

    /// Where in the buffer it is.
    pub fn place(&self) -> Range<usize> {
        self.range.clone()
    }

    /// What it is lent for.
    pub fn purpose(&self) -> Purpose {
        self.purpose
    }

    pub(crate) fn start(&self) -> *mut u8 {
        // SAFETY: the range lies in the chunk.
        unsafe { self.chunk.start().add(self.range.start) }
    }

    pub(crate) fn chunk(&self) -> &ChunkRef {
        &self.chunk
    }
}

impl std::fmt::Debug for Loan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { range, purpose, .. } = self;
        f.debug_struct("Loan").field("range", range).field("purpose", purpose).finish()
    }
}

/// A buffer whose parts can be lent. It is made once and used for one buffer after another.
#[derive(Default)]
pub struct Shared {
    held: Option<(ChunkRef, usize)>,
    lent: Vec<(Range<usize>, Purpose)>,
}

impl Shared {
    /// Puts a buffer in.
    ///
    /// # Panics
    ///
    /// When there is one already.
    pub fn put(&mut self, buffer: Buffer) {
        assert!(self.held.is_none(), "there is a buffer in it");
        self.held = Some(buffer.into_parts());
    }

    /// Takes the buffer out, if there is one.
    ///
    /// # Panics
    ///
    /// When a part of it is lent.
    pub fn take(&mut self) -> Option<Buffer> {
        assert!(self.lent.is_empty(), "a part of the buffer is lent");
        self.held.take().map(|(chunk, length)| Buffer::from_parts(chunk, length))
    }

    /// Whether no part is lent.
    pub fn is_whole(&self) -> bool {
        self.lent.is_empty()
    }

    /// The length of the buffer, 0 without one.
    pub fn length(&self) -> usize {
        self.held.as_ref().map_or(0, |(_, length)| *length)
    }

    /// The bytes.
    ///
    /// # Panics
    ///
    /// When a part of them is lent to be filled, or there is no buffer.
    pub fn bytes(&self) -> &[u8] {
        let filling = self.lent.iter().any(|(_, purpose)| *purpose == Purpose::Fill);
        assert!(!filling, "bytes that are being filled are not looked at");
        let (chunk, length) = self.held.as_ref().expect("there is a buffer");
        // SAFETY: the chunk has at least `length` bytes; nobody changes one of them, since the
        // other holders are loans, none of which is to be filled, and `bytes_mut` needs
        // `&mut self`.
        unsafe { std::slice::from_raw_parts(chunk.start(), *length) }
    }

    /// Some of the bytes, to be changed.
    ///
    /// # Panics
    ///
    /// When a part of them is lent, or they do not lie in the buffer.
    pub fn bytes_mut(&mut self, range: Range<usize>) -> &mut [u8] {
        let (start, length) = self.part(&range);
        let lent = self.lent.iter().any(|(other, _)| overlap(other, &range));
        assert!(!lent, "bytes that are lent are not changed");
        // SAFETY: `part` checked that the range lies in the chunk; no loan overlaps it, and
        // `&mut self` excludes every reference from here.
        unsafe { std::slice::from_raw_parts_mut(start, length) }
    }

    /// Lends some of the bytes.
    ///
    /// # Panics
    ///
    /// When that contradicts an earlier loan, or they do not lie in the buffer.
    pub fn lend(&mut self, range: Range<usize>, purpose: Purpose) -> Loan {
        self.part(&range);
        let clash = |(other, theirs): &(Range<usize>, Purpose)| {
            overlap(other, &range) && (purpose == Purpose::Fill || *theirs == Purpose::Fill)
        };
        assert!(!self.lent.iter().any(clash), "bytes are lent to be filled once");
        self.lent.push((range.clone(), purpose));
        let (chunk, _) = self.held.as_ref().expect("`part` found a buffer");
        Loan { chunk: chunk.clone(), range, purpose }
    }

    /// Takes a loan back.
    ///
    /// # Panics
    ///
    /// When it is of another buffer.
    pub fn give_back(&mut self, loan: Loan) {
        let (chunk, _) = self.held.as_ref().expect("there is a buffer");
        assert!(loan.chunk.is_same(chunk), "a loan of another buffer");
        let entry = (loan.range.clone(), loan.purpose);
        let at = self.lent.iter().position(|lent| *lent == entry);
        self.lent.swap_remove(at.expect("each loan is in the books"));
    }

    /// The first byte and the length of a range of the buffer.
    fn part(&self, range: &Range<usize>) -> (*mut u8, usize) {
        let (chunk, length) = self.held.as_ref().expect("there is a buffer");
        assert!(range.start <= range.end && range.end <= *length, "beyond the buffer's end");
        // SAFETY: the range lies in the buffer, and so in its chunk.
        let start = unsafe { chunk.start().add(range.start) };
        (start, range.len())
    }
}

fn overlap(one: &Range<usize>, other: &Range<usize>) -> bool {
    one.start < other.end && other.start < one.end
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shared(length: usize) -> Shared {
        let mut shared = Shared::default();
        shared.put(Buffer::zeroed(length));
        shared
    }

    #[test]
    fn parts_are_filled_beside_each_other() {
        let mut shared = shared(8);
        let mut one = shared.lend(0..4, Purpose::Fill);
        let mut two = shared.lend(4..6, Purpose::Fill);
        two.bytes_mut().fill(2);
        shared.bytes_mut(6..8).fill(3);
        one.bytes_mut().fill(1);
        shared.give_back(two);
        shared.give_back(one);
        assert_eq!(shared.bytes(), [1, 1, 1, 1, 2, 2, 3, 3]);
        assert_eq!(shared.take().expect("it is back")[7], 3);
    }

    #[test]
    fn what_is_drained_is_visible_and_may_be_lent_again() {
        let mut shared = shared(8);
        let one = shared.lend(0..8, Purpose::Drain);
        let two = shared.lend(4..8, Purpose::Drain);
        assert_eq!(shared.bytes(), one.bytes());
        shared.give_back(one);
        shared.give_back(two);
        assert!(shared.is_whole());
    }

    #[test]
    #[should_panic(expected = "once")]
    fn what_is_filled_is_not_lent_again() {
        let mut shared = shared(8);
        let _one = shared.lend(0..4, Purpose::Fill);
        let _two = shared.lend(3..5, Purpose::Drain);
    }

    #[test]
    #[should_panic(expected = "being filled")]
    fn what_is_filled_is_not_visible() {
        let mut shared = shared(8);
        let _loan = shared.lend(0..4, Purpose::Fill);
        shared.bytes();
    }

    #[test]
    #[should_panic(expected = "not changed")]
    fn what_is_drained_is_not_changed() {
        let mut shared = shared(8);
        let _loan = shared.lend(0..4, Purpose::Drain);
        shared.bytes_mut(3..4);
    }

    #[test]
    #[should_panic(expected = "not changed")]
    fn a_loan_to_drain_changes_nothing() {
        shared(8).lend(0..4, Purpose::Drain).bytes_mut();
    }

    #[test]
    #[should_panic(expected = "beyond")]
    fn nothing_is_lent_beyond_the_end() {
        let _loan = shared(8).lend(4..9, Purpose::Drain);
    }

    #[test]
    #[should_panic(expected = "is lent")]
    fn a_buffer_with_a_dropped_loan_is_not_taken_out() {
        let mut shared = shared(8);
        drop(shared.lend(0..4, Purpose::Fill));
        shared.take();
    }

    #[test]
    #[should_panic(expected = "another buffer")]
    fn a_loan_returns_to_its_own_buffer() {
        let mut other = shared(8);
        let loan = shared(8).lend(0..4, Purpose::Fill);
        let _same = other.lend(0..4, Purpose::Fill);
        other.give_back(loan);
    }

    #[test]
    fn a_loan_keeps_the_memory_of_a_dropped_buffer() {
        let mut arena = crate::Arena::new(&[crate::SizeClass { chunk_bytes: 4096, chunks: 1 }]);
        let mut shared = Shared::default();
        shared.put(arena.take(4096).expect("it is free"));
        let mut loan = shared.lend(0..4096, Purpose::Fill);
        drop(shared);
        assert!(arena.take(1).is_none(), "the I/O still writes to it");
        loan.bytes_mut().fill(9);
        drop(loan);
        assert!(arena.take(1).is_some());
    }
}
