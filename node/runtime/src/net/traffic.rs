//! What a socket has under way in its loop's ring, with the memory that the kernel uses for it.
//!
//! - Bytes that are sent lie in a [`Gather`]: parts in order, which one `sendmsg` takes together.
//! - What was begun is not touched until it has ended; the ring holds it meanwhile.

use std::ops::Range;

use rustix::net::SocketAddrAny;

use crate::{arena::Buffer, slice::Slice};

/// The most parts that one `sendmsg` takes.
pub(crate) const PARTS_MAX: usize = 64;
/// So many bytes are enough for one `sendmsg`: the next part goes into another.
const GATHER_BYTES: usize = 512 << 10;
/// The most copied bytes in one part.
const INLINE_MAX: usize = 110;

/// What one `sendmsg` sends, on the heap: the kernel is given its address.
type Sending = Box<Gather>;

/// An operation on a socket.
pub(crate) enum Traffic {
    /// Takes connections until it is cancelled or fails.
    Accept,
    /// Connects to an address.
    Connect(Box<SocketAddrAny>),
    /// Receives into the loop's chunks until it is cancelled or fails.
    Receive,
    /// Receives into a buffer.
    Fill(Filling),
    /// Sends.
    Send(Sending),
}

/// A buffer of which a range is to be filled with the next bytes.
pub(crate) struct Filling {
    buffer: Buffer,
    /// What is still to be filled.
    range: Range<usize>,
}

impl Filling {
    pub(crate) fn new(buffer: Buffer, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= buffer.len(), "beyond the buffer's end");
        Self { buffer, range }
    }

    pub(crate) fn is_full(&self) -> bool {
        self.range.is_empty()
    }

    /// Takes as many bytes as it has room for.
    pub(crate) fn pour(&mut self, slice: &mut Slice) {
        let count = slice.len().min(self.range.len());
        let start = self.range.start;
        self.buffer[start..start + count].copy_from_slice(&slice[..count]);
        slice.advance(count);
        self.range.start += count;
    }

    /// The kernel has put in so many bytes.
    pub(crate) fn advance(&mut self, count: usize) {
        assert!(count <= self.range.len(), "the kernel fills what it was given");
        self.range.start += count;
    }

    /// Where the kernel puts the next bytes, and how many at most.
    pub(crate) fn rest(&mut self) -> (*mut u8, u32) {
        let rest = &mut self.buffer[self.range.clone()];
        (rest.as_mut_ptr(), u32::try_from(rest.len()).expect("chunks are smaller than 4 GiB"))
    }

    pub(crate) fn into_buffer(self) -> Buffer {
        self.buffer
    }
}

/// Bytes to be sent.
enum Part {
    Inline { length: u8, bytes: [u8; INLINE_MAX] },
    Slice(Slice),
}

impl Part {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Inline { length, bytes } => &bytes[..usize::from(*length)],
            Self::Slice(slice) => slice,
        }
    }
}

/// What one `sendmsg` sends: parts, in order. It never allocates after it was made.
pub(crate) struct Gather {
    parts: Vec<Part>,
    length: usize,
    sent: usize,
    /// Made by [`Gather::message`] from what is not sent yet.
    vectors: Vec<libc::iovec>,
    message: libc::msghdr,
}

impl Gather {
    pub(crate) fn new() -> Box<Self> {
        // SAFETY: a message header of zeros is one of nothing.
        let message = unsafe { std::mem::zeroed() };
        let (parts, vectors) = (Vec::with_capacity(PARTS_MAX), Vec::with_capacity(PARTS_MAX));
        Box::new(Self { parts, length: 0, sent: 0, vectors, message })
    }

    /// Empties it for its next use.
    pub(crate) fn clear(&mut self) {
        self.parts.clear();
        self.vectors.clear();
        (self.length, self.sent) = (0, 0);
    }

    fn is_full(&self) -> bool {
        self.parts.len() == PARTS_MAX || self.length >= GATHER_BYTES
    }

    /// Takes a copy of as many bytes as it has room for; returns how many.
    pub(crate) fn copy(&mut self, from: &[u8]) -> usize {
        let mut done = 0;
        if let Some(Part::Inline { length, bytes }) = self.parts.last_mut() {
            let used = usize::from(*length);
            done = from.len().min(INLINE_MAX - used);
            bytes[used..used + done].copy_from_slice(&from[..done]);
            *length = u8::try_from(used + done).expect("at most INLINE_MAX");
            self.length += done;
        }
        while done < from.len() && !self.is_full() {
            let count = (from.len() - done).min(INLINE_MAX);
            let mut bytes = [0; INLINE_MAX];
            bytes[..count].copy_from_slice(&from[done..done + count]);
            let length = u8::try_from(count).expect("at most INLINE_MAX");
            self.parts.push(Part::Inline { length, bytes });
            self.length += count;
            done += count;
        }
        done
    }

    /// Takes a slice, or gives it back when there is no room.
    pub(crate) fn add(&mut self, slice: Slice) -> Result<(), Slice> {
        if self.is_full() {
            return Err(slice);
        }
        self.length += slice.len();
        self.parts.push(Part::Slice(slice));
        Ok(())
    }

    /// The kernel has taken so many bytes.
    pub(crate) fn advance(&mut self, count: usize) {
        self.sent += count;
        assert!(self.sent <= self.length, "the kernel takes what it was given");
    }

    pub(crate) fn is_sent(&self) -> bool {
        self.sent == self.length
    }

    /// The message of what is not sent yet. It points into this gather.
    pub(crate) fn message(&mut self) -> *const libc::msghdr {
        self.vectors.clear();
        let mut skip = self.sent;
        for part in &self.parts {
            let bytes = part.bytes();
            if skip < bytes.len() {
                let rest = &bytes[skip..];
                let iov_base = rest.as_ptr().cast_mut().cast();
                self.vectors.push(libc::iovec { iov_base, iov_len: rest.len() });
            }
            skip = skip.saturating_sub(bytes.len());
        }
        self.message.msg_iov = self.vectors.as_mut_ptr();
        self.message.msg_iovlen = self.vectors.len();
        &raw const self.message
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel would see.
    fn seen(gather: &mut Gather) -> Vec<u8> {
        let message = gather.message();
        // SAFETY: it was just made, and points into the gather, which nobody changes.
        let message = unsafe { &*message };
        // SAFETY: the message has so many vectors.
        let vectors = unsafe { std::slice::from_raw_parts(message.msg_iov, message.msg_iovlen) };
        vectors
            .iter()
            .flat_map(|vector| {
                // SAFETY: each is the bytes of a part.
                unsafe { std::slice::from_raw_parts(vector.iov_base.cast::<u8>(), vector.iov_len) }
            })
            .copied()
            .collect()
    }

    fn slice(bytes: &[u8]) -> Slice {
        let mut buffer = Buffer::zeroed(bytes.len());
        buffer.copy_from_slice(bytes);
        buffer.share(0..bytes.len())
    }

    #[test]
    fn what_is_left_after_any_short_send_is_the_rest_in_order() {
        let pattern: Vec<u8> = (0..=255).collect();
        let mut gather = Gather::new();
        assert_eq!(gather.copy(&pattern[..30]), 30);
        assert_eq!(gather.copy(&pattern[30..170]), 140);
        gather.add(slice(&pattern[170..240])).expect("there is room");
        gather.add(slice(&[])).expect("there is room");
        assert_eq!(gather.copy(&pattern[240..]), 16);
        for sent in 0..256 {
            assert_eq!(seen(&mut gather), pattern[sent..]);
            assert!(!gather.is_sent());
            gather.advance(1);
        }
        assert!(gather.is_sent());
        gather.clear();
        assert_eq!(gather.copy(&[1]), 1);
        assert_eq!(seen(&mut gather), [1]);
    }

    #[test]
    fn a_gather_is_bounded_in_parts_and_bytes() {
        let mut gather = Gather::new();
        let taken = gather.copy(&vec![7; INLINE_MAX * PARTS_MAX + 1]);
        assert_eq!(taken, INLINE_MAX * PARTS_MAX);
        assert!(gather.add(slice(&[1])).is_err());
        gather.clear();
        let large = Buffer::zeroed(GATHER_BYTES).share(0..GATHER_BYTES);
        gather.add(large.clone()).expect("it is empty");
        assert_eq!(gather.add(large).expect_err("that is enough").len(), GATHER_BYTES);
        assert_eq!(gather.copy(&[1]), 0);
    }

    #[test]
    fn a_filling_takes_just_its_range() {
        let mut filling = Filling::new(Buffer::zeroed(8), 2..6);
        let mut bytes = slice(&[1, 2, 3, 4, 5, 6]);
        bytes.truncate(1);
        filling.pour(&mut bytes);
        assert!(bytes.is_empty() && !filling.is_full());
        let mut bytes = slice(&[2, 3, 4, 5, 6]);
        assert_eq!(filling.rest().1, 3);
        filling.pour(&mut bytes);
        assert_eq!((&bytes[..], filling.is_full()), (&[5, 6][..], true));
        assert_eq!(filling.into_buffer()[..], [0, 0, 1, 2, 3, 4, 0, 0]);
    }
}
