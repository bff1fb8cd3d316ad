//! What stands on a device that is to become a member.
//!
//! Creating a pool and growing one look here first, so that nobody's data is overwritten by
//! mistake. Looking changes nothing.

use fathom_units::ByteCount;

use crate::{
    format::label::{self, LABEL_SIZE, Label, MemberState},
    medium::{Medium, MediumError},
};

/// Bytes at the start of a device that have to be zero, if it is not to be taken for somebody
/// else's.
const FOREIGN_BYTES: usize = 64 << 10;
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
    /// Something else.
    Other {
        /// The first byte that is not zero.
        offset: u64,
    },
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

/// Looks at the device in a slot.
///
/// # Errors
///
/// When it cannot be read.
pub fn inspect(medium: &mut dyn Medium, slot: usize) -> Result<Candidate, MediumError> {
    let size = medium.size(slot);
    let mut content = Content::Nothing;
    for offset in label::label_offsets(size) {
        if offset + LABEL_SIZE as u64 > size {
            continue;
        }
        let mut bytes = vec![0; LABEL_SIZE];
        medium.read(slot, offset, &mut bytes)?;
        if let Ok(label) = Label::decode(&bytes) {
            content = Content::Label(Box::new(label));
            break;
        }
    }
    let length = usize::try_from(size).unwrap_or(usize::MAX).min(FOREIGN_BYTES);
    let mut bytes = vec![0; length / LABEL_SIZE * LABEL_SIZE];
    if !bytes.is_empty() {
        medium.read(slot, 0, &mut bytes)?;
    }
    if content == Content::Nothing
        && let Some(offset) = bytes.iter().position(|&byte| byte != 0)
    {
        content = Content::Other { offset: offset as u64 };
    }
    let rest_is_zero = bytes.iter().skip(LABEL_SIZE).all(|&byte| byte == 0);
    bytes.truncate(LABEL_SIZE);
    Ok(Candidate { size: ByteCount(size), content, head: bytes, rest_is_zero })
}
