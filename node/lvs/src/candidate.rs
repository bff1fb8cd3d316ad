//! What stands on a device that is to become a member.
//!
//! Creating a pool and growing one look here first, so that nobody's data is overwritten by
//! mistake. Looking changes nothing.

use core::fmt;

use fathom_units::ByteCount;

use crate::{
    foreign,
    format::{
        Malformed,
        label::{DATA_OFFSET, LABEL_SIZE, Label, MEMBER_SIZE_MIN, MemberState},
        tombstone::Tombstone,
    },
    geometry::BLOCK,
    medium::{Medium, MediumError},
    membership::{Identity, read_identity},
    open::OpenError,
};

/// Bytes at the start of a device that have to be zero, if it is not to be taken for somebody
/// else's: all in front of where a member has its metadata.
const HEAD_BYTES: u64 = DATA_OFFSET;
/// Bytes at its end likewise: copies of partition tables and labels of arrays are there.
const TAIL_BYTES: u64 = 512 << 10;
/// Where the UUIDs of the pool and of the member stand in a label.
const UUIDS: core::ops::Range<usize> = 40..72;
/// The unit that a power cut does not tear.
const SECTOR: usize = 512;

/// What stands on a device.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Content {
    /// Nothing that can be seen.
    Nothing,
    /// The label of a member of a pool.
    Label(Box<Label>),
    /// A label of a member, no copy of which is intact.
    Damaged(Malformed),
    /// What is left of a member of a pool that is being destroyed.
    Tombstone(Tombstone),
    /// Something else.
    Other {
        /// The first byte that is not zero.
        offset: u64,
        /// What it looks like, if that is known, such as "an XFS file system".
        what: Option<&'static str>,
    },
}

impl fmt::Display for Content {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => formatter.write_str("nothing"),
            Self::Label(label) => {
                let (index, name, pool) = (label.index.0, &label.name, label.pool);
                write!(formatter, "member {index} of pool \"{name}\" ({pool})")
            }
            Self::Damaged(malformed) => write!(formatter, "a damaged label: {malformed}"),
            Self::Tombstone(Tombstone { name, pool, .. }) => {
                write!(formatter, "the rest of pool \"{name}\" ({pool}), which is being destroyed")
            }
            Self::Other { offset, what: Some(what) } => {
                write!(formatter, "{what} (byte {offset} is in use)")
            }
            Self::Other { offset, what: None } => {
                write!(formatter, "something unknown (byte {offset} is in use)")
            }
        }
    }
}

/// A device that is to become a member.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Candidate {
    /// Its size.
    pub size: ByteCount,
    /// What stands on it.
    pub content: Content,
    /// Its first bytes, where the first copy of a label stands.
    head: Vec<u8>,
    /// What follows them is zero, as far as it was looked at.
    rest_is_zero: bool,
}

impl Candidate {
    /// Whether there is nothing on it but what a crash left of writing `label`, which is proposed.
    pub(crate) fn is_left_from(&self, label: &Label) -> bool {
        if let Content::Label(found) = &self.content {
            let own = &found.members[usize::from(found.index.0)];
            let proposed = own.state == MemberState::Proposed;
            return proposed && (found.pool, found.member) == (label.pool, label.member);
        }
        let bytes = label.encode();
        let head = self.head.chunks(SECTOR).zip(bytes.chunks(SECTOR)).enumerate();
        let mut sectors = head.map(|(at, (found, written))| {
            // Generation and incarnation may be others now.
            let same = if at == 0 { found[UUIDS] == written[UUIDS] } else { found == written };
            same || found.iter().all(|&byte| byte == 0)
        });
        self.rest_is_zero && self.head.len() == LABEL_SIZE && sectors.all(|fits| fits)
    }
}

/// Looks at the device in a slot, and changes nothing.
///
/// # Errors
///
/// When it cannot be read.
pub fn inspect(medium: &mut dyn Medium, slot: usize) -> Result<Candidate, MediumError> {
    let size = medium.size(slot);
    let [mut head, tail] = ends(size).map(|(begin, end)| vec![0; to_usize(end - begin)]);
    let [(_, _), (tail_begin, tail_end)] = ends(size);
    // Part after part: a bad sector somewhere does not hide a label.
    let read = read_range(medium, slot, 0, &mut head);
    let content = match (identity(medium, slot, size)?, read) {
        (Some(content), _) => content,
        (None, Err(error)) => return Err(error),
        (None, Ok(())) => {
            let mut tail = tail;
            read_range(medium, slot, tail_begin, &mut tail)?;
            let offset = first_in_use(&head)
                .or_else(|| first_in_use(&tail).map(|offset| tail_begin + offset));
            offset.map_or(Content::Nothing, |offset| {
                let what = foreign::recognise(&head, &tail, tail_end);
                Content::Other { offset, what }
            })
        }
    };
    let rest_is_zero = head.iter().skip(LABEL_SIZE).all(|&byte| byte == 0);
    head.truncate(LABEL_SIZE);
    Ok(Candidate { size: ByteCount(size), content, head, rest_is_zero })
}

/// What a label, or what was one, says; nothing where there is none.
fn identity(
    medium: &mut dyn Medium,
    slot: usize,
    size: u64,
) -> Result<Option<Content>, MediumError> {
    if size < MEMBER_SIZE_MIN {
        return Ok(None);
    }
    match read_identity(medium, slot) {
        Ok(Identity::Label(label)) => Ok(Some(Content::Label(label))),
        Ok(Identity::Tombstone(tombstone)) => Ok(Some(Content::Tombstone(tombstone))),
        Err(OpenError::Label { malformed, .. }) => Ok(Some(Content::Damaged(malformed))),
        Err(OpenError::Medium(error)) => Err(error),
        Err(_) => Ok(None),
    }
}

/// Overwrites with zeros what [`inspect`] looks at, and flushes: the device is blank then, whatever it
/// was.
///
/// # Errors
///
/// When it cannot be written; it is something in between then.
pub fn erase(medium: &mut dyn Medium, slot: usize) -> Result<(), MediumError> {
    wipe(medium, slot, 0)
}

/// As [`erase`], from byte `from` on.
pub(crate) fn wipe(medium: &mut dyn Medium, slot: usize, from: u64) -> Result<(), MediumError> {
    let size = medium.size(slot);
    let [(_, head_end), (tail_begin, tail_end)] = ends(size);
    for (begin, end) in [(tail_begin.max(from), tail_end), (from, head_end)] {
        if begin < end {
            medium.write(slot, begin, &vec![0; to_usize(end - begin)])?;
        }
    }
    medium.flush(slot)
}

/// The whole blocks at the start and at the end of a device that must be zero on a blank one, as
/// byte ranges that do not overlap.
fn ends(size: u64) -> [(u64, u64); 2] {
    let size = size / BLOCK * BLOCK;
    let head = size.min(HEAD_BYTES);
    [(0, head), (size.saturating_sub(TAIL_BYTES).max(head), size)]
}

fn read_range(
    medium: &mut dyn Medium,
    slot: usize,
    offset: u64,
    bytes: &mut [u8],
) -> Result<(), MediumError> {
    if bytes.is_empty() { Ok(()) } else { medium.read(slot, offset, bytes) }
}

fn first_in_use(bytes: &[u8]) -> Option<u64> {
    bytes.iter().position(|&byte| byte != 0).map(|at| at as u64)
}

fn to_usize(bytes: u64) -> usize {
    usize::try_from(bytes).expect("a MiB at most")
}
