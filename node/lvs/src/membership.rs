//! Which members belong together, and which of them go on: what the labels say.
//!
//! Source: `docs/formats/lvs.md` sections 2 and 7.

use std::collections::BTreeMap;

use fathom_units::ByteCount;
use uuid::Uuid;

use crate::{
    acceptance,
    format::{
        Malformed,
        label::{self, LABEL_SIZE, Label, LabelMember, MemberRole, MemberState},
        tombstone::Tombstone,
    },
    geometry::MemberIndex,
    medium::{Medium, MediumError},
    open::{Intent, OpenError, OpenOptions},
};

/// The newest label of each member that is there, and its slot.
pub(crate) type Labels = BTreeMap<MemberIndex, (usize, Label)>;

/// Reads the label of every slot. What is proposed, and no label that counts names, is left out.
pub(crate) fn read_labels(medium: &mut dyn Medium) -> Result<Labels, OpenError> {
    if medium.slots() == 0 {
        return Err(OpenError::NoMembers);
    }
    let mut labels = Labels::new();
    let mut proposed = Vec::new();
    let mut pool = None;
    for slot in 0..medium.slots() {
        let label = read_label(medium, slot)?;
        acceptance::check_label(&label).map_err(|(field, detail)| OpenError::Unusable {
            slot,
            field,
            detail,
        })?;
        let expected = *pool.get_or_insert(label.pool);
        same_pool(slot, label.pool, expected)?;
        let size = medium.size(slot);
        if size < label.member_size {
            let (size, expected) = (ByteCount(size), ByteCount(label.member_size));
            return Err(OpenError::Shrunk { slot, size, expected });
        }
        if label.members[usize::from(label.index.0)].state == MemberState::Proposed {
            proposed.push((slot, label));
            continue;
        }
        insert(&mut labels, slot, label)?;
    }
    if let Some(&(slot, _)) = proposed.first()
        && labels.is_empty()
    {
        return Err(OpenError::Proposed { slot });
    }
    for (slot, label) in proposed {
        let named = newest_label(&labels).members.get(usize::from(label.index.0));
        if named.is_some_and(|named| named.uuid == label.member) {
            insert(&mut labels, slot, label)?;
        }
    }
    Ok(labels)
}

/// Refuses a slot of another pool.
pub(crate) fn same_pool(slot: usize, found: Uuid, expected: Uuid) -> Result<(), OpenError> {
    if found == expected { Ok(()) } else { Err(OpenError::OtherPool { slot, found, expected }) }
}

fn insert(labels: &mut Labels, slot: usize, label: Label) -> Result<(), OpenError> {
    let uuid = label.member;
    match labels.insert(label.index, (slot, label)) {
        Some((first, _)) => Err(OpenError::Duplicate { first, second: slot, uuid }),
        None => Ok(()),
    }
}

/// Who a slot says that it is.
pub(crate) enum Identity {
    /// The newest intact copy of its label.
    Label(Box<Label>),
    /// Its pool is being destroyed.
    Tombstone(Tombstone),
}

fn read_label(medium: &mut dyn Medium, slot: usize) -> Result<Label, OpenError> {
    match read_identity(medium, slot)? {
        Identity::Label(label) => Ok(*label),
        Identity::Tombstone(Tombstone { pool, name, .. }) => {
            Err(OpenError::Destroyed { slot, pool: name, uuid: pool })
        }
    }
}

/// The newest intact label copy of a slot, unless it has a tombstone.
///
/// # Errors
///
/// [`OpenError::Foreign`], [`OpenError::Label`] or [`OpenError::Medium`].
pub(crate) fn read_identity(medium: &mut dyn Medium, slot: usize) -> Result<Identity, OpenError> {
    let mut newest: Option<Label> = None;
    let mut wrong = None;
    let mut offsets = label::label_offsets(medium.size(slot)).to_vec();
    let mut next = 0;
    while next < offsets.len() {
        let mut bytes = vec![0; LABEL_SIZE];
        let offset = offsets[next];
        next += 1;
        if medium.read(slot, offset, &mut bytes).is_err() {
            continue;
        }
        if offset == 0 {
            let tombstone = Tombstone::decode(&bytes);
            let tombstone = tombstone.map_err(|malformed| OpenError::Label { slot, malformed })?;
            if let Some(tombstone) = tombstone {
                return Ok(Identity::Tombstone(tombstone));
            }
        }
        match Label::decode(&bytes) {
            Ok(label) => {
                // The last copy lies where the member ended when the label was written. Only the
                // first two know: one that names another place on and on is not followed.
                let last = label::label_offsets(label.member_size)[2];
                if next <= 2 && !offsets.contains(&last) {
                    offsets.push(last);
                }
                if newest.as_ref().is_none_or(|other| label.generation > other.generation) {
                    newest = Some(label);
                }
            }
            Err(malformed @ Malformed::NotALabel { .. }) => {
                wrong.get_or_insert(malformed);
            }
            // Damage says more than absence.
            Err(malformed) => wrong = Some(malformed),
        }
    }
    match (newest, wrong) {
        (Some(label), _) => Ok(Identity::Label(Box::new(label))),
        (None, Some(malformed @ Malformed::NotALabel { .. })) => {
            Err(OpenError::Foreign { slot, malformed })
        }
        (None, Some(malformed)) => Err(OpenError::Label { slot, malformed }),
        (None, None) => Err(OpenError::Medium(MediumError {
            slot,
            operation: "reading any label copy",
            offset: 0,
            reason: "every read failed".to_owned(),
        })),
    }
}

/// The label whose member table counts: of the highest incarnation, and of these the one that
/// has been updated most often, on a member that nobody calls stale.
pub(crate) fn newest_label(labels: &Labels) -> &Label {
    newest_of(labels).expect("there is a label")
}

/// As [`newest_label`], where there may be none.
pub(crate) fn newest_of(labels: &Labels) -> Option<&Label> {
    let stale = |member: MemberIndex| {
        labels.values().any(|(_, other)| {
            other.index != member && other.members.get(usize::from(member.0)).is_some_and(is_stale)
        })
    };
    labels.values().map(|(_, label)| label).max_by_key(|label| {
        let own = label.members[usize::from(label.index.0)].state;
        let counts = own != MemberState::Proposed && !stale(label.index);
        (counts, label.incarnation, label.generation)
    })
}

/// Every label names the same members and cluster size as the newest one, but for what an update
/// that a crash ended leaves; metadata members have the same extents; and no two members have gone
/// on without each other.
pub(crate) fn check_agreement(labels: &Labels, newest: &Label) -> Result<(), OpenError> {
    let extents = |label: &Label| {
        let metadata = [&label.slot_a, &label.slot_b, &label.log].map(Clone::clone);
        (!label.log.is_empty()).then_some(metadata)
    };
    let (newest_slot, _) = labels[&newest.index];
    for (slot, label) in labels.values() {
        if !agrees(label, newest) {
            return Err(OpenError::Disagree { slot: *slot, other: newest_slot });
        }
    }
    for (one_slot, one) in labels.values() {
        for (other_slot, other) in labels.values() {
            let metadata = extents(one).zip(extents(other));
            if metadata.is_some_and(|(one, other)| one != other) {
                return Err(OpenError::Disagree { slot: *one_slot, other: *other_slot });
            }
            let calls_stale = |label: &Label, index: MemberIndex| {
                label.members.get(usize::from(index.0)).is_some_and(is_stale)
            };
            // A stale member that was there when the pool was opened degraded calls itself stale.
            let apart = one.index != other.index;
            if apart && calls_stale(one, other.index) && calls_stale(other, one.index) {
                let (pool, one, other) = (one.name.clone(), one.index, other.index);
                return Err(OpenError::Diverged { pool, one, other });
            }
        }
    }
    Ok(())
}

/// Whether a label names the same members as the newest one, or has only missed an update that was
/// not completed, or that came when its member was not there.
fn agrees(label: &Label, newest: &Label) -> bool {
    let kept = |entry: &LabelMember| (entry.uuid, entry.role);
    let own = newest.members.get(usize::from(label.index.0));
    let Some(own) = own.filter(|own| own.uuid == label.member) else { return false };
    let common = label.members.iter().zip(&newest.members);
    if label.cluster_size != newest.cluster_size
        || common.map(|(one, other)| kept(one) == kept(other)).any(|same| !same)
    {
        return false;
    }
    let away = is_stale(own) || own.role == MemberRole::Data;
    same_members(label, newest)
        || label.incarnation == newest.incarnation
        || label.incarnation < newest.incarnation && away
}

/// Whether two labels name the same members with the same sizes.
pub(crate) fn same_members(one: &Label, other: &Label) -> bool {
    let identity = |entry: &LabelMember| (entry.uuid, entry.size, entry.role);
    one.members.iter().map(identity).eq(other.members.iter().map(identity))
}

/// Every member that is there is as large as the newest label says.
pub(crate) fn check_sizes(
    medium: &dyn Medium,
    labels: &Labels,
    newest: &Label,
) -> Result<(), OpenError> {
    for (slot, label) in labels.values() {
        let expected = newest.members[usize::from(label.index.0)].size;
        let size = medium.size(*slot);
        if size < expected {
            let (size, expected) = (ByteCount(size), ByteCount(expected));
            return Err(OpenError::Shrunk { slot: *slot, size, expected });
        }
    }
    Ok(())
}

pub(crate) fn is_stale(entry: &LabelMember) -> bool {
    matches!(entry.state, MemberState::Stale { .. })
}

/// The kind and number of a feature for which a pool cannot be used so.
pub(crate) fn unknown_feature(label: &Label, intent: Intent) -> Option<(&'static str, u32)> {
    let incompatible = label.refusal().map(|bit| ("incompatible", bit));
    let read_only = || label.read_only().filter(|_| intent == Intent::Write);
    incompatible.or_else(|| read_only().map(|bit| ("read-only-compatible", bit)))
}

/// The member table to go on with, and the members whose metadata copy misses what is
/// written from now on.
pub(crate) fn membership(
    labels: &Labels,
    newest: &Label,
    options: OpenOptions,
) -> Result<(Vec<LabelMember>, Vec<MemberIndex>), OpenError> {
    let table = newest.members.clone();
    let mut missed = Vec::new();
    for (index, entry) in table.iter().enumerate() {
        let member = MemberIndex(u16::try_from(index).expect("16 at most"));
        let pool = newest.name.clone();
        if let MemberState::Stale { since } = entry.state {
            if !options.degraded {
                return Err(OpenError::Stale { pool, member, since });
            }
        } else if !labels.contains_key(&member) {
            if !options.degraded {
                return Err(OpenError::Missing { pool, member, uuid: entry.uuid });
            }
            // A copy that is still being made cannot miss anything.
            if entry.role == MemberRole::DataAndMetadata && entry.state == MemberState::InSync {
                missed.push(member);
            }
        }
    }
    Ok((table, missed))
}
