//! Reading the log: from the checkpoint's start to its tail, and what lies behind the tail.
//!
//! - The log ends at the first entry that is on no member; if one that follows says that it
//!   was durable, that is damage, and the pool is refused.
//! - A read error is never taken for the end of the log.
//! - Members are read in large pieces. Where a piece cannot be read, what is wanted of it is read
//!   by itself, so that a bad sector concerns the entry that it is in and no other.
//!
//! Source: `docs/formats/lvs.md` section 3.

use std::collections::BTreeMap;

use crate::{
    acceptance::check_most,
    chunks::candidates,
    damage::Damage,
    format::{
        checkpoint::SlotHeader,
        checksum::Seed,
        entry::{self, ENTRY_MAX, EntryHeader},
    },
    geometry::{BLOCK, Lsn},
    log::{LogStart, Ring},
    medium::{Medium, MediumError},
    replay::Places,
};

/// Bytes that are read at once.
const PIECE_BYTES: u64 = 1 << 20;

/// The entries of a log: the LSN and the operations of each.
pub(crate) type Entries = Vec<(Lsn, Vec<u8>)>;

/// The logs of all copies, read in pieces.
struct Scan<'a> {
    medium: &'a mut dyn Medium,
    seed: Seed,
    ring: &'a Ring,
    /// What was read last of each copy.
    pieces: BTreeMap<usize, Piece>,
}

/// Bytes from `offset` on that a slot has.
#[derive(Default)]
struct Piece {
    offset: u64,
    /// Empty when they could not be read together.
    bytes: Vec<u8>,
    length: u64,
}

impl<'a> Scan<'a> {
    fn new(medium: &'a mut dyn Medium, seed: Seed, ring: &'a Ring) -> Self {
        Self { medium, seed, ring, pieces: BTreeMap::new() }
    }

    /// `length` bytes of a copy at `position` of the ring, which lie in one extent.
    fn bytes(&mut self, copy: usize, position: u64, length: u64) -> Result<Vec<u8>, MediumError> {
        let (offset, left) = self.ring.locate(position);
        let piece = self.pieces.entry(copy).or_default();
        if offset < piece.offset || offset + length > piece.offset + piece.length {
            let length = left.min(PIECE_BYTES);
            let mut bytes = vec![0; to_usize(length)];
            if self.medium.read(copy, offset, &mut bytes).is_err() {
                bytes.clear();
            }
            *piece = Piece { offset, bytes, length };
        }
        if piece.bytes.is_empty() {
            let mut bytes = vec![0; to_usize(length)];
            self.medium.read(copy, offset, &mut bytes)?;
            return Ok(bytes);
        }
        Ok(piece.bytes[to_usize(offset - piece.offset)..][..to_usize(length)].to_vec())
    }

    /// The entry at a position, if an intact one begins there. A read error is not an answer.
    fn entry(&mut self, copy: usize, position: u64) -> Result<Option<ReadEntry>, MediumError> {
        let (_, left) = self.ring.locate(position);
        let first = self.bytes(copy, position, BLOCK)?;
        let Some(header) = entry::read_header(&first) else { return Ok(None) };
        let length = u64::from(header.blocks) * BLOCK;
        if length > left.min(ENTRY_MAX as u64) {
            return Ok(None);
        }
        let bytes = self.bytes(copy, position, length)?;
        let entry = entry::verify_entry(self.seed, &bytes).ok();
        Ok(entry.map(|(header, checksum, payload)| (header, checksum, payload.to_vec())))
    }
}

type ReadEntry = (EntryHeader, u64, Vec<u8>);

/// What the log holds.
pub(crate) struct ReadLog {
    pub(crate) entries: Entries,
    /// Where it goes on.
    pub(crate) end: LogStart,
    /// The entry that should be there, because it was durable.
    pub(crate) missing: Option<Damage>,
}

/// Reads the log from the checkpoint's start to its tail.
pub(crate) fn read_log(
    medium: &mut dyn Medium,
    places: &Places<'_>,
    slot: &SlotHeader,
) -> Result<ReadLog, Damage> {
    read_log_telling(medium, places, slot, &mut |_, _, _| {})
}

/// As [`read_log`], and tells of each entry that a copy does not have which another one has: its
/// LSN, where it should be in bytes on the member, and the slot of that member.
pub(crate) fn read_log_telling(
    medium: &mut dyn Medium,
    places: &Places<'_>,
    slot: &SlotHeader,
    lacking: &mut dyn FnMut(Lsn, u64, usize),
) -> Result<ReadLog, Damage> {
    let ring = Ring::new(places.log);
    let mut scan = Scan::new(medium, places.seed, &ring);
    let mut end = LogStart { lsn: slot.start, position: slot.position, previous: slot.previous };
    let incarnation = slot.incarnation;
    let mut entries = Vec::new();
    loop {
        let expected = |found: &EntryHeader| found.lsn == end.lsn && found.previous == end.previous;
        let mut found = None;
        let mut unread = None;
        'search: for place in candidates(&ring, end.position) {
            for &copy in &places.copies {
                match scan.entry(copy, place) {
                    Ok(Some((header, checksum, payload))) if expected(&header) => {
                        found = Some((place, header, checksum, payload));
                        break 'search;
                    }
                    Ok(_) => {}
                    Err(error) => unread = Some(error),
                }
            }
        }
        let Some((place, header, checksum, payload)) = found else {
            match unread {
                Some(error) => return Err(error.into()),
                None => break,
            }
        };
        if header.incarnation < incarnation {
            break;
        }
        if header.incarnation > incarnation {
            // Each life begins with a checkpoint; this one is older than the life.
            let generation = slot.generation;
            return Err(Damage::OldCheckpoint { generation, lsn: header.lsn });
        }
        entries.push((header.lsn, payload));
        for &copy in &places.copies {
            let own = scan.entry(copy, place);
            if !matches!(own, Ok(Some((ref own, ..))) if expected(own)) {
                lacking(header.lsn, ring.locate(place).0, copy);
            }
        }
        let position = place + u64::from(header.blocks) * BLOCK;
        check_most("the length of the log", position - slot.position, ring.length())?;
        end = LogStart { lsn: Lsn(header.lsn.0 + 1), position, previous: checksum };
    }
    let missing = find_damage(&mut scan, places, &end);
    Ok(ReadLog { entries, end, missing })
}

/// The entry at `end` is nowhere. That is damage if another one says that it was durable.
fn find_damage(scan: &mut Scan<'_>, places: &Places<'_>, end: &LogStart) -> Option<Damage> {
    let mut at = 0;
    while at < scan.ring.length() {
        for &copy in &places.copies {
            if let Ok(Some((header, ..))) = scan.entry(copy, at)
                && header.lsn > end.lsn
                && header.durable >= end.lsn
            {
                let (offset, _) = scan.ring.locate(end.position);
                return Some(Damage::Entry { lsn: end.lsn, offset, later: header.lsn });
            }
        }
        at += BLOCK;
    }
    None
}

/// Pieces fit in memory.
fn to_usize(bytes: u64) -> usize {
    usize::try_from(bytes).expect("at most a piece")
}
