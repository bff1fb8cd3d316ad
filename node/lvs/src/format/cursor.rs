//! Reads one structure from front to back, never past its end.
//!
//! Every read names the field that it is for, so that what is missing is said by name.

use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned, little_endian::U16};

use super::{Malformed, require_zero};

/// What operations and their items are padded to, in bytes (section 4).
pub(super) const ALIGNMENT: usize = 8;

/// The part of a structure that has not been read yet.
pub(super) struct Cursor<'a> {
    structure: &'static str,
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    /// Reads `bytes`, which errors call `structure`.
    pub(super) fn new(structure: &'static str, bytes: &'a [u8]) -> Self {
        Self { structure, rest: bytes }
    }

    /// An error of this structure.
    #[cold]
    pub(super) fn error(&self, field: &'static str, detail: impl std::fmt::Display) -> Malformed {
        Malformed::field(self.structure, field, detail)
    }

    /// The next `length` bytes.
    pub(super) fn bytes(
        &mut self,
        field: &'static str,
        length: usize,
    ) -> Result<&'a [u8], Malformed> {
        let Some((bytes, rest)) = self.rest.split_at_checked(length) else {
            return Err(self.short(field, length));
        };
        self.rest = rest;
        Ok(bytes)
    }

    /// A view of the next bytes as a `T`.
    pub(super) fn view<T>(&mut self, field: &'static str) -> Result<&'a T, Malformed>
    where
        T: FromBytes + KnownLayout + Immutable + Unaligned,
    {
        let Ok((view, rest)) = T::ref_from_prefix(self.rest) else {
            return Err(self.short(field, size_of::<T>()));
        };
        self.rest = rest;
        Ok(view)
    }

    /// A view of the next bytes as `count` items of type `T`.
    pub(super) fn views<T>(
        &mut self,
        field: &'static str,
        count: usize,
    ) -> Result<&'a [T], Malformed>
    where
        T: FromBytes + KnownLayout + Immutable + Unaligned,
    {
        let Ok((views, rest)) = <[T]>::ref_from_prefix_with_elems(self.rest, count) else {
            return Err(self.short(field, count.saturating_mul(size_of::<T>())));
        };
        self.rest = rest;
        Ok(views)
    }

    /// The next string: a length and that many bytes of UTF-8 (section 4.2).
    pub(super) fn text(&mut self, field: &'static str) -> Result<&'a str, Malformed> {
        let length = self.view::<U16>(field)?.get();
        let bytes = self.bytes(field, usize::from(length))?;
        str::from_utf8(bytes).map_err(|error| {
            let detail = format_args!("\"{}\" is not UTF-8: {error}", bytes.escape_ascii());
            self.error(field, detail)
        })
    }

    /// The number of items of the next list, at most `most` (section 4.2).
    pub(super) fn list(&mut self, field: &'static str, most: usize) -> Result<usize, Malformed> {
        let count = usize::from(self.view::<U16>(field)?.get());
        if count > most {
            let detail = format_args!("are {count}, and {most} is the most");
            return Err(self.error(field, detail));
        }
        Ok(count)
    }

    /// Refuses `bytes` unless all of them are zero.
    pub(super) fn require_zero(&self, field: &'static str, bytes: &[u8]) -> Result<(), Malformed> {
        require_zero(self.structure, field, bytes)
    }

    /// Ends the structure: what is left is at most padding, and zero.
    pub(super) fn finish(&self) -> Result<(), Malformed> {
        if self.rest.len() >= ALIGNMENT {
            let detail = format_args!("is {} bytes longer than what it holds", self.rest.len());
            return Err(self.error("length", detail));
        }
        self.require_zero("padding bytes", self.rest)
    }

    #[cold]
    fn short(&self, field: &'static str, length: usize) -> Malformed {
        let left = self.rest.len();
        self.error(field, format_args!("needs {length} bytes and only {left} are left"))
    }
}

/// Pads what was appended to `out` since it had `start` bytes, with zeros.
pub(super) fn pad(out: &mut Vec<u8>, start: usize) {
    let length = out.len() - start;
    out.resize(start + length.next_multiple_of(ALIGNMENT), 0);
}
