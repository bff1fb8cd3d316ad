//! Which of the devices that are there make which pool: by what their labels say, in any order and
//! under any name.
//!
//! Before it: [`crate::inspect`] has read the labels. After it: [`crate::open`], which reads them again
//! under the lock and has the last word.

use std::collections::BTreeMap;

use uuid::Uuid;

use crate::{
    format::label::{Label, MemberState},
    geometry::MemberIndex,
    membership::{Labels, newest_of},
};

/// A pool of which there are members.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Assembly {
    /// Its UUID.
    pub pool: Uuid,
    /// Its name.
    pub name: String,
    /// The slot of each member that is there.
    pub members: BTreeMap<MemberIndex, usize>,
    /// Members that are not there.
    pub missing: Vec<(MemberIndex, Uuid)>,
    /// Slots that claim to be the same member: one of each two is a copy.
    pub clashes: Vec<Clash>,
    /// Slots that were about to become a member when a crash came, and are none.
    pub proposed: Vec<usize>,
}

/// Two slots that claim to be the same member.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Clash {
    /// Which member.
    pub member: MemberIndex,
    /// One slot.
    pub one: usize,
    /// The other.
    pub other: usize,
}

/// Puts the members of each pool together, given each slot's label. Ordered by the pools' names.
pub fn assemble<'a>(labels: impl IntoIterator<Item = (usize, &'a Label)>) -> Vec<Assembly> {
    let mut pools: BTreeMap<Uuid, Vec<(usize, &Label)>> = BTreeMap::new();
    for (slot, label) in labels {
        pools.entry(label.pool).or_default().push((slot, label));
    }
    let mut assemblies: Vec<Assembly> = pools.into_values().map(|found| one(&found)).collect();
    assemblies.sort_by(|one, other| (&one.name, one.pool).cmp(&(&other.name, other.pool)));
    assemblies
}

fn one(found: &[(usize, &Label)]) -> Assembly {
    let is_proposed =
        |label: &Label| label.members[usize::from(label.index.0)].state == MemberState::Proposed;
    let (late, sure): (Vec<_>, Vec<_>) = found.iter().partition(|(_, label)| is_proposed(label));
    let mut labels = Labels::new();
    let mut clashes = Vec::new();
    let mut insert = |labels: &mut Labels, slot: usize, label: &Label| {
        match labels.get(&label.index) {
            Some(&(one, _)) => clashes.push(Clash { member: label.index, one, other: slot }),
            None => drop(labels.insert(label.index, (slot, label.clone()))),
        };
    };
    for (slot, label) in sure {
        insert(&mut labels, slot, label);
    }
    let mut proposed = Vec::new();
    let newest = newest_of(&labels).cloned();
    for (slot, label) in late {
        let named =
            newest.as_ref().and_then(|newest| newest.members.get(usize::from(label.index.0)));
        if named.is_some_and(|named| named.uuid == label.member) {
            insert(&mut labels, slot, label);
        } else {
            proposed.push(slot);
        }
    }
    let members: BTreeMap<MemberIndex, usize> =
        labels.iter().map(|(&member, &(slot, _))| (member, slot)).collect();
    let table = newest.as_ref().map_or(&[][..], |newest| &newest.members);
    let table = (0..).map(MemberIndex).zip(table.iter().map(|entry| entry.uuid));
    let missing = table.filter(|(member, _)| !members.contains_key(member)).collect();
    let any = newest.as_ref().unwrap_or(found[0].1);
    Assembly { pool: any.pool, name: any.name.clone(), members, missing, clashes, proposed }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        format::label::{Extent, FEATURE_EXTENTS_MAX, Features, LabelMember, MemberRole},
        geometry::ClusterSize,
    };

    fn label(pool: u128, index: u16, members: &[u128], generation: u64) -> Label {
        let role = |at: usize| if at < 2 { MemberRole::DataAndMetadata } else { MemberRole::Data };
        let table: Vec<LabelMember> = members
            .iter()
            .enumerate()
            .map(|(at, &uuid)| LabelMember {
                uuid: Uuid::from_u128(uuid),
                size: 64 << 20,
                role: role(at),
                state: MemberState::InSync,
            })
            .collect();
        let extent = |offset| {
            let extent = Extent { offset, length: 1 << 20 };
            if index < 2 { vec![extent] } else { Vec::new() }
        };
        let label = Label {
            generation,
            incarnation: 1,
            pool: Uuid::from_u128(pool),
            member: table[usize::from(index)].uuid,
            index: MemberIndex(index),
            features: Features::default(),
            cluster_size: ClusterSize::new(64 << 10).expect("a legal size"),
            member_size: 64 << 20,
            created_ns: 1,
            name: format!("pool{pool}"),
            slot_a: extent(1 << 20),
            slot_b: extent(2 << 20),
            log: extent(3 << 20),
            members: table,
            feature_extents: [None; FEATURE_EXTENTS_MAX],
        };
        label.check().expect("a legal label");
        label
    }

    fn of(labels: &[Label]) -> Vec<Assembly> {
        assemble(labels.iter().enumerate())
    }

    fn slots(assembly: &Assembly) -> Vec<(u16, usize)> {
        assembly.members.iter().map(|(member, &slot)| (member.0, slot)).collect()
    }

    #[test]
    fn members_of_several_pools_are_put_together_in_any_order() {
        let table = [1, 2, 3];
        let found = of(&[
            label(2, 0, &[9], 1),
            label(1, 2, &table, 1),
            label(1, 0, &table, 1),
            label(1, 1, &table, 1),
        ]);
        assert_eq!(found.len(), 2);
        assert_eq!(
            (found[0].name.as_str(), slots(&found[0])),
            ("pool1", vec![(0, 2), (1, 3), (2, 1)])
        );
        assert_eq!((found[1].name.as_str(), slots(&found[1])), ("pool2", vec![(0, 0)]));
        assert!(found.iter().all(|found| found.missing.is_empty() && found.clashes.is_empty()));
    }

    #[test]
    fn missing_members_and_copies_are_named() {
        let found = of(&[label(1, 1, &[1, 2, 3], 1), label(1, 1, &[1, 2, 3], 1)]);
        let missing =
            vec![(MemberIndex(0), Uuid::from_u128(1)), (MemberIndex(2), Uuid::from_u128(3))];
        assert_eq!(found[0].missing, missing);
        assert_eq!(found[0].clashes, [Clash { member: MemberIndex(1), one: 0, other: 1 }]);
    }

    #[test]
    fn what_was_proposed_is_a_member_when_a_newer_label_names_it() {
        let mut proposed = label(1, 1, &[1, 2], 5);
        proposed.members[1].state = MemberState::Proposed;
        let alone = of(&[proposed.clone(), label(1, 0, &[1], 4)]);
        assert_eq!((slots(&alone[0]), &alone[0].proposed[..]), (vec![(0, 1)], &[0][..]));
        let named = of(&[proposed.clone(), label(1, 0, &[1, 2], 6)]);
        assert_eq!((slots(&named[0]), named[0].proposed.len()), (vec![(0, 1), (1, 0)], 0));
        let only = of(&[proposed]);
        assert_eq!((slots(&only[0]), &only[0].proposed[..]), (vec![], &[0][..]));
    }
}
