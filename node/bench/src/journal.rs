//! The journal of `--verify`: for each unit of the range, the last write that was issued and the last
//! one that was acknowledged.
//!
//! ```text
//!   0     header, 4096 bytes, with a checksum
//!   4096  unit 0: issued, acknowledged; unit 1: ...      8 bytes each
//! ```
//!
//! It is a file outside of the daemon. A write is noted as issued before it is sent, and as
//! acknowledged when its completion has come. So whatever dies, the daemon, this process or both, a
//! block holds the write that the journal calls acknowledged, or a later one that it calls issued.
//! The journal itself is in the page cache of this machine, and does not survive that machine's
//! end.
//!
//! - A unit has one write under way at a time, so its versions are acknowledged in order.
//! - Notes of 4 bytes that do not cross a page are there as a whole or not at all.
//! - One process at a time has it open.
//!
//! Layout: `docs/formats/verify-journal.md`.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io,
    mem::offset_of,
    ops::Range,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use thiserror::Error;
use xxhash_rust::xxh3::xxh3_64;
use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    little_endian::{U32, U64},
};

const MAGIC: [u8; 8] = *b"FathomVJ";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 4096;
const ENTRY_BYTES: u64 = 8;
/// The most units: what they take in memory is bounded by that.
pub const UNITS_MAX: u64 = 16 << 20;

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone)]
#[repr(C)]
struct Layout {
    magic: [u8; 8],
    version: U32,
    block_bytes: U32,
    unit_blocks: U32,
    nsid: U32,
    run: U64,
    first: U64,
    units: U64,
    nguid: [u8; 16],
    reserved: [u8; 4024],
    checksum: U64,
}

const _: () = {
    assert!(size_of::<Layout>() == HEADER_BYTES);
    assert!(offset_of!(Layout, version) == 8);
    assert!(offset_of!(Layout, block_bytes) == 12);
    assert!(offset_of!(Layout, unit_blocks) == 16);
    assert!(offset_of!(Layout, nsid) == 20);
    assert!(offset_of!(Layout, run) == 24);
    assert!(offset_of!(Layout, first) == 32);
    assert!(offset_of!(Layout, units) == 40);
    assert!(offset_of!(Layout, nguid) == 48);
    assert!(offset_of!(Layout, checksum) == 4088);
};

/// What a journal is of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Header {
    /// Bytes of a logical block.
    pub(crate) block_bytes: u32,
    /// Logical blocks of a unit.
    pub(crate) unit_blocks: u32,
    /// The namespace.
    pub(crate) nsid: u32,
    /// What its contents follow from; no two journals have the same.
    pub(crate) run: u64,
    /// The first block of the range.
    pub(crate) first: u64,
    /// How many units the range has.
    pub(crate) units: u64,
    /// The volume, whatever its name and place.
    pub(crate) nguid: [u8; 16],
}

impl Header {
    fn encode(&self) -> Layout {
        let mut layout = Layout {
            magic: MAGIC,
            version: VERSION.into(),
            block_bytes: self.block_bytes.into(),
            unit_blocks: self.unit_blocks.into(),
            nsid: self.nsid.into(),
            run: self.run.into(),
            first: self.first.into(),
            units: self.units.into(),
            nguid: self.nguid,
            reserved: [0; 4024],
            checksum: 0.into(),
        };
        layout.checksum = checksum(&layout).into();
        layout
    }

    fn decode(layout: &Layout) -> Result<Self, &'static str> {
        if layout.magic != MAGIC {
            return Err("it is no journal");
        }
        if layout.checksum.get() != checksum(layout) {
            return Err("its header is damaged");
        }
        if layout.version.get() != VERSION {
            return Err("another version of fathom has made it");
        }
        let header = Self {
            block_bytes: layout.block_bytes.get(),
            unit_blocks: layout.unit_blocks.get(),
            nsid: layout.nsid.get(),
            run: layout.run.get(),
            first: layout.first.get(),
            units: layout.units.get(),
            nguid: layout.nguid,
        };
        let is_possible = header.block_bytes >= 512
            && header.block_bytes.checked_mul(header.unit_blocks).is_some_and(|bytes| bytes > 0)
            && (1..=UNITS_MAX).contains(&header.units)
            && header.end().is_some();
        if is_possible { Ok(header) } else { Err("its header makes no sense") }
    }

    /// The bytes of a unit.
    pub(crate) fn unit_bytes(&self) -> u32 {
        self.block_bytes * self.unit_blocks
    }

    /// The first byte of the range.
    pub(crate) fn start(&self) -> u64 {
        self.first * u64::from(self.block_bytes)
    }

    /// The first byte behind the range, if there can be one.
    pub(crate) fn end(&self) -> Option<u64> {
        let blocks = self.units.checked_mul(self.unit_blocks.into())?;
        self.first.checked_add(blocks)?.checked_mul(self.block_bytes.into())
    }

    /// What of another one is not the same, the run apart.
    pub(crate) fn difference(&self, other: &Self) -> Option<&'static str> {
        if self.nguid != other.nguid || self.nsid != other.nsid {
            Some("it is of another volume")
        } else if self.block_bytes != other.block_bytes || self.unit_blocks != other.unit_blocks {
            Some("it is of requests of another size")
        } else if self.first != other.first || self.units != other.units {
            Some("it is of another range")
        } else {
            None
        }
    }
}

fn checksum(layout: &Layout) -> u64 {
    xxh3_64(&layout.as_bytes()[..offset_of!(Layout, checksum)])
}

/// What is known of a unit.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct Known {
    /// The last write that was issued; none for zero.
    pub(crate) issued: u32,
    /// The last write that was acknowledged; none for zero.
    pub(crate) acknowledged: u32,
}

/// Why a journal cannot be used.
#[derive(Debug, Error)]
pub enum JournalError {
    /// The file cannot be opened, read or written.
    #[error("the journal {}: {step}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        step: &'static str,
        /// What the kernel says.
        source: io::Error,
    },
    /// It is not what is needed here.
    #[error("the journal {}: {why}", path.display())]
    Unfit {
        /// The file.
        path: PathBuf,
        /// Why it cannot be used.
        why: &'static str,
    },
}

/// A journal that is open.
#[derive(Debug)]
pub(crate) struct Journal {
    file: File,
    path: PathBuf,
    header: Header,
}

impl Journal {
    /// Opens the journal of a load, or makes it. An earlier one of the same range is gone on with.
    ///
    /// # Errors
    ///
    /// When it is of something else, in use, or the kernel refuses.
    pub(crate) fn open_or_create(path: &Path, wanted: Header) -> Result<Self, JournalError> {
        if path.exists() {
            let journal = Self::open(path)?;
            return match journal.header.difference(&wanted) {
                None => Ok(journal),
                Some(why) => Err(JournalError::Unfit { path: path.to_owned(), why }),
            };
        }
        let failed = |step| move |source| JournalError::Io { path: path.to_owned(), step, source };
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create_new(true).open(path);
        let file = file.map_err(failed("making it"))?;
        lock(&file, path)?;
        file.set_len(HEADER_BYTES as u64 + wanted.units * ENTRY_BYTES)
            .map_err(failed("setting its length"))?;
        file.write_all_at(wanted.encode().as_bytes(), 0).map_err(failed("writing its header"))?;
        Ok(Self { file, path: path.to_owned(), header: wanted })
    }

    /// Opens a journal.
    ///
    /// # Errors
    ///
    /// When it is none, in use, or the kernel refuses.
    pub(crate) fn open(path: &Path) -> Result<Self, JournalError> {
        let failed = |step| move |source| JournalError::Io { path: path.to_owned(), step, source };
        let unfit = |why| JournalError::Unfit { path: path.to_owned(), why };
        let file = OpenOptions::new().read(true).write(true).open(path);
        let file = file.map_err(failed("opening it"))?;
        lock(&file, path)?;
        let mut bytes = [0; HEADER_BYTES];
        match file.read_exact_at(&mut bytes, 0) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(unfit("it is no journal"));
            }
            Err(error) => return Err(failed("reading its header")(error)),
        }
        let header = Header::decode(zerocopy::transmute_ref!(&bytes)).map_err(unfit)?;
        let length = file.metadata().map_err(failed("asking for its length"))?.len();
        if length != HEADER_BYTES as u64 + header.units * ENTRY_BYTES {
            return Err(unfit("its length is not that of its units"));
        }
        Ok(Self { file, path: path.to_owned(), header })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn header(&self) -> &Header {
        &self.header
    }

    /// What is known of some units.
    ///
    /// # Errors
    ///
    /// When the kernel refuses, or it says that a write was acknowledged and never issued.
    pub(crate) fn read(&self, units: Range<u64>) -> Result<Vec<Known>, JournalError> {
        let count = usize::try_from(units.end - units.start).expect("at most UNITS_MAX");
        let mut bytes = vec![0; count * 8];
        self.file
            .read_exact_at(&mut bytes, place(units.start))
            .map_err(|source| self.failed("reading it", source))?;
        let known = bytes.as_chunks::<4>().0.as_chunks::<2>().0.iter().map(|[issued, acked]| {
            Known { issued: u32::from_le_bytes(*issued), acknowledged: u32::from_le_bytes(*acked) }
        });
        let known: Vec<Known> = known.collect();
        if known.iter().any(|one| one.acknowledged > one.issued) {
            let why = "it calls a write acknowledged that was not issued";
            return Err(JournalError::Unfit { path: self.path.clone(), why });
        }
        Ok(known)
    }

    /// The number of the write of a unit after that one.
    ///
    /// # Errors
    ///
    /// When it has been written 2^32 times.
    pub(crate) fn next(&self, version: u32) -> Result<u32, JournalError> {
        let why = "a part of the range was written too often: begin with a new one";
        version.checked_add(1).ok_or_else(|| JournalError::Unfit { path: self.path.clone(), why })
    }

    /// Notes that a write is about to be sent.
    ///
    /// # Errors
    ///
    /// When the kernel refuses. Then it must not be sent.
    pub(crate) fn issue(&self, unit: u64, version: u32) -> Result<(), JournalError> {
        self.note(place(unit), version)
    }

    /// Notes that a write was acknowledged.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub(crate) fn acknowledge(&self, unit: u64, version: u32) -> Result<(), JournalError> {
        self.note(place(unit) + 4, version)
    }

    fn note(&self, at: u64, version: u32) -> Result<(), JournalError> {
        let written = self.file.write_all_at(&version.to_le_bytes(), at);
        written.map_err(|source| self.failed("writing it", source))
    }

    fn failed(&self, step: &'static str, source: io::Error) -> JournalError {
        JournalError::Io { path: self.path.clone(), step, source }
    }
}

fn place(unit: u64) -> u64 {
    HEADER_BYTES as u64 + unit * ENTRY_BYTES
}

fn lock(file: &File, path: &Path) -> Result<(), JournalError> {
    match file.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => {
            let why = "another process uses it";
            Err(JournalError::Unfit { path: path.to_owned(), why })
        }
        Err(TryLockError::Error(source)) => {
            Err(JournalError::Io { path: path.to_owned(), step: "locking it", source })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: Header = Header {
        block_bytes: 0x1000,
        unit_blocks: 2,
        nsid: 0x0403_0201,
        run: 0x1817_1615_1413_1211,
        first: 0x0007_2625_2423_2221,
        units: 3,
        nguid: [9; 16],
    };

    /// A path of its own in the folder for such files, empty when it is dropped.
    struct Place(PathBuf);

    impl Place {
        fn new(name: &str) -> Self {
            let name = format!("fathom-journal-{}-{name}", std::process::id());
            Self(std::env::temp_dir().join(name))
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    #[test]
    fn each_field_stands_where_the_format_has_it() {
        let layout = HEADER.encode();
        let bytes = layout.as_bytes();
        assert_eq!(bytes[..16], *b"FathomVJ\x01\0\0\0\0\x10\0\0");
        assert_eq!(bytes[16..24], [2, 0, 0, 0, 1, 2, 3, 4]);
        assert_eq!(bytes[24..32], [0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18]);
        assert_eq!(bytes[32..40], [0x21, 0x22, 0x23, 0x24, 0x25, 0x26, 7, 0]);
        assert_eq!(bytes[40..48], [3, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes[48..64], [9; 16]);
        assert!(bytes[64..4088].iter().all(|byte| *byte == 0));
        assert_eq!(Header::decode(&layout), Ok(HEADER));
    }

    #[test]
    fn what_was_noted_is_there_when_it_is_opened_again() {
        let place = Place::new("noted");
        let journal = Journal::open_or_create(&place.0, HEADER).expect("it is new");
        journal.issue(0, 1).expect("noted");
        journal.acknowledge(0, 1).expect("noted");
        journal.issue(2, 0x0403_0201).expect("noted");
        let error = Journal::open(&place.0).expect_err("it is open");
        assert!(error.to_string().contains("another process"), "{error}");
        drop(journal);
        let other = Header { run: 1, ..HEADER };
        let journal = Journal::open_or_create(&place.0, other).expect("it goes on");
        assert_eq!(journal.header().run, HEADER.run);
        let known = |issued, acknowledged| Known { issued, acknowledged };
        let all = [known(1, 1), known(0, 0), known(0x0403_0201, 0)];
        assert_eq!(journal.read(0..3).expect("it can be read"), all);
        assert_eq!(journal.read(2..3).expect("it can be read"), all[2..]);
    }

    #[test]
    fn what_is_of_something_else_is_refused_with_the_reason() {
        let place = Place::new("other");
        drop(Journal::open_or_create(&place.0, HEADER).expect("it is new"));
        for (other, words) in [
            (Header { nguid: [8; 16], ..HEADER }, "another volume"),
            (Header { nsid: 2, ..HEADER }, "another volume"),
            (Header { unit_blocks: 1, ..HEADER }, "another size"),
            (Header { first: 0, ..HEADER }, "another range"),
            (Header { units: 4, ..HEADER }, "another range"),
        ] {
            let error = Journal::open_or_create(&place.0, other).expect_err(words);
            assert!(error.to_string().contains(words), "{error}");
        }
    }

    #[test]
    fn damage_is_refused_with_the_reason() {
        let place = Place::new("damage");
        let is_refused = |change: &dyn Fn(&mut Vec<u8>), words: &str| {
            let mut bytes = HEADER.encode().as_bytes().to_vec();
            bytes.resize(4096 + 24, 0);
            change(&mut bytes);
            std::fs::write(&place.0, &bytes).expect("it can be written");
            let read = Journal::open(&place.0).and_then(|journal| journal.read(0..3));
            let error = read.expect_err(words).to_string();
            assert!(error.contains(words), "{error}");
            assert!(error.contains("fathom-journal"), "{error}");
        };
        is_refused(&Vec::clear, "no journal");
        is_refused(&|bytes| bytes[0] = 0, "no journal");
        is_refused(&|bytes| bytes[100] = 1, "damaged");
        is_refused(&|bytes| bytes[4090] ^= 1, "damaged");
        is_refused(&|bytes| bytes.truncate(4100), "length");
        is_refused(&|bytes| bytes[4100] = 1, "not issued");
        let again = |header: Header, version: u32| {
            move |bytes: &mut Vec<u8>| {
                let mut layout = header.encode();
                layout.version = version.into();
                layout.checksum = checksum(&layout).into();
                bytes[..4096].copy_from_slice(layout.as_bytes());
            }
        };
        is_refused(&again(HEADER, 2), "another version");
        is_refused(&again(Header { units: 0, ..HEADER }, 1), "no sense");
        is_refused(&again(Header { units: u64::MAX, ..HEADER }, 1), "no sense");
        is_refused(&again(Header { unit_blocks: 0, ..HEADER }, 1), "no sense");
        is_refused(&again(Header { block_bytes: 0, ..HEADER }, 1), "no sense");
        is_refused(&again(Header { first: u64::MAX / 4096, ..HEADER }, 1), "no sense");
    }
}
