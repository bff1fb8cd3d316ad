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
        label::{self, LABEL_SIZE, Label, LabelMember, MemberRole},
    },
    geometry::MemberIndex,
    medium::{Medium, MediumError},
    open::{OpenError, OpenOptions},
};

/// The newest label of each member that is there, and its slot.
pub(crate) type Labels = BTreeMap<MemberIndex, (usize, Label)>;

pub(crate) fn read_labels(medium: &mut dyn Medium) -> Result<Labels, OpenError> {
    if medium.slots() == 0 {
        return Err(OpenError::NoMembers);
    }
    let mut labels = Labels::new();
    let mut pool = None;
    for slot in 0..medium.slots() {
        let label = read_label(medium, slot)?;
        acceptance::check_label(&label).map_err(|(field, detail)| OpenError::Unusable {
            slot,
            field,
            detail,
        })?;
        let expected = *pool.get_or_insert(label.pool);
        if label.pool != expected {
            return Err(OpenError::OtherPool { slot, found: label.pool, expected });
        }
        let size = medium.size(slot);
        if size < label.member_size {
            let (size, expected) = (ByteCount(size), ByteCount(label.member_size));
            return Err(OpenError::Shrunk { slot, size, expected });
        }
        let uuid = label.member;
        if let Some((first, _)) = labels.insert(label.index, (slot, label)) {
            return Err(OpenError::Duplicate { first, second: slot, uuid });
        }
    }
    Ok(labels)
}

/// The newest intact label copy of a slot.
fn read_label(medium: &mut dyn Medium, slot: usize) -> Result<Label, OpenError> {
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
        (Some(label), _) => Ok(label),
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
    let stale = |member: MemberIndex| {
        labels.values().any(|(_, other)| {
            other.index != member && other.members.get(usize::from(member.0)).is_some_and(is_stale)
        })
    };
    labels
        .values()
        .map(|(_, label)| label)
        .max_by_key(|label| (!stale(label.index), label.incarnation, label.generation))
        .expect("there is a label")
}

/// Every label names the same members and cluster size, and metadata members the same extents;
/// and no two of them have gone on without each other.
pub(crate) fn check_agreement(labels: &Labels) -> Result<(), OpenError> {
    let identity = |label: &Label| -> Vec<(Uuid, u64, MemberRole)> {
        label.members.iter().map(|entry| (entry.uuid, entry.size, entry.role)).collect()
    };
    let extents = |label: &Label| {
        let metadata = [&label.slot_a, &label.slot_b, &label.log].map(Clone::clone);
        (!label.log.is_empty()).then_some(metadata)
    };
    for (one_slot, one) in labels.values() {
        for (other_slot, other) in labels.values() {
            let metadata = extents(one).zip(extents(other));
            if identity(one) != identity(other)
                || one.cluster_size != other.cluster_size
                || metadata.is_some_and(|(one, other)| one != other)
            {
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

pub(crate) fn is_stale(entry: &LabelMember) -> bool {
    entry.stale_since.is_some()
}

pub(crate) fn unknown_feature(label: &Label) -> Option<(&'static str, u32)> {
    // Opening for reading only is not offered yet, so both are refused.
    let incompatible = label.refusal().map(|bit| ("incompatible", bit));
    incompatible.or_else(|| label.read_only().map(|bit| ("read-only-compatible", bit)))
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
        if let Some(since) = entry.stale_since {
            if !options.degraded {
                return Err(OpenError::Stale { pool, member, since });
            }
        } else if !labels.contains_key(&member) {
            if !options.degraded {
                return Err(OpenError::Missing { pool, member, uuid: entry.uuid });
            }
            if entry.role == MemberRole::DataAndMetadata {
                missed.push(member);
            }
        }
    }
    Ok((table, missed))
}
