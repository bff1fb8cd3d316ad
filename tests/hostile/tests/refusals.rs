//! What a pool is refused for though every checksum in it is right, one story each.

use std::collections::BTreeMap;

use fathom_block::Operation;
use fathom_lvs::{
    Medium, OpenOptions, Refused,
    blocks::BlockSet,
    format::{
        checkpoint::{Class, Key},
        entry::{ENTRY_HEADER, EntryHeader, seal_entry},
        label::{Extent, Label},
        op::{Decoder, Op, SnapshotRecord, VolumeRecord},
    },
    geometry::{ClusterNo, LayerId, LogicalCluster, Lsn, MemberIndex, ObjectId, Segment},
    map::Fragment,
};
use fathom_test_hostile::{
    attack::attempt,
    image::{Image, split},
};
use fathom_test_sim::{
    pool::{METADATA, SLOT_BYTES, Shape, Story, new_volume},
    rig::{Disks, Rig},
};
use fathom_test_support::random::Random;
use fathom_units::{ByteCount, ByteOffset};
use uuid::Uuid;

const SMALL: Shape = Shape { members: 1, log_bytes: 128 << 10, clusters: 64 };
const LARGE: Shape = Shape { members: 1, log_bytes: 4 << 20, clusters: 64 };

/// A pool at rest whose state is in its checkpoint: volume 1 with tip 2, above layer 1, which
/// snapshot 2 names. Both layers hold clusters.
fn pool(shape: Shape) -> (Disks, Image) {
    let mut story = Story::new(7, shape);
    let volume = story.create_volume(new_volume(0x10, 1 << 20, 4096));
    story.request(volume, Operation::Write { fua: true }, 0, 20, vec![1; 20 << 12]).expect("fits");
    story.create_snapshot(volume, 0x20);
    story.request(volume, Operation::Write { fua: true }, 8, 20, vec![2; 20 << 12]).expect("fits");
    let mut story = Story::open(story.rig.disks, 8, OpenOptions::default());
    story.rig.pump();
    story.rig.settle(&mut story.random);
    let image = Image::read(&mut story.rig.disks);
    (story.rig.disks, image)
}

/// Why the pool is refused after a change; none when it opens and lives.
fn after(shape: Shape, change: impl FnOnce(&mut Image)) -> Option<String> {
    let (mut disks, mut image) = pool(shape);
    change(&mut image);
    image.write(&mut disks);
    attempt(disks, &mut Random::new(9)).expect("a sound pool or a refusal")
}

#[track_caller]
fn refused(change: impl FnOnce(&mut Image), expected: &str) {
    refused_of(SMALL, change, expected);
}

#[track_caller]
fn refused_of(shape: Shape, change: impl FnOnce(&mut Image), expected: &str) {
    let found = after(shape, change).unwrap_or_else(|| panic!("it opens, without: {expected}"));
    assert!(found.contains(expected), "\"{found}\", without: {expected}");
}

/// The volume and the snapshot as they are.
fn records(image: &mut Image) -> (VolumeRecord, SnapshotRecord) {
    let blocks = image.blocks();
    let bytes = image.operations().concat();
    let ops: Vec<Op> = Decoder::new(&bytes, blocks).map(|op| op.expect("intact")).collect();
    let volume = ops.iter().rev().find_map(|op| match op {
        Op::PutVolume(record) => Some((**record).clone()),
        _ => None,
    });
    let snapshot = ops.iter().rev().find_map(|op| match op {
        Op::PutSnapshot(record) => Some((**record).clone()),
        _ => None,
    });
    (volume.expect("there is one"), snapshot.expect("there is one"))
}

/// Where the clusters of the only member begin.
fn clusters_at(shape: Shape) -> u64 {
    (METADATA + 2 * SLOT_BYTES + shape.log_bytes).next_multiple_of(64 << 10)
}

fn segments(list: &[(u32, u32, u64)]) -> Op {
    let segments = list.iter().map(|&(first, clusters, offset)| Segment {
        first: ClusterNo(first),
        clusters,
        offset: ByteOffset(offset),
    });
    Op::PutMember { member: MemberIndex(0), segments: segments.collect() }
}

#[test]
fn what_was_not_changed_opens() {
    for shape in [SMALL, LARGE, Shape { members: 3, ..SMALL }] {
        assert_eq!(after(shape, |_| {}), None);
    }
}

#[test]
fn numbers_that_cannot_be_counted_on_are_refused() {
    let most = 1 << 62;
    for over in [most + 1, u64::MAX - 1, u64::MAX] {
        let labels = |change: fn(&mut Label, u64)| {
            move |image: &mut Image| image.labels.iter_mut().for_each(|label| change(label, over))
        };
        refused(labels(|label, over| label.generation = over), "the generation in its label");
        refused(labels(|label, over| label.incarnation = over), "the incarnation in its label");
        refused(|image| image.slot.generation = over, "the generation of a checkpoint");
        refused(|image| image.slot.start = Lsn(over), "the start LSN of a checkpoint");
        refused(|image| image.slot.incarnation = over, "the incarnation of a checkpoint");
    }
    let last = u64::MAX / 4096 * 4096;
    refused(|image| image.slot.position = last, "the ring position of a checkpoint");
}

#[test]
fn ids_that_are_used_up_refuse_new_objects_and_nothing_else() {
    let last_layer = |image: &mut Image| image.slot.next_layer = LayerId(u32::MAX);
    let last_object = |image: &mut Image| image.slot.next_object = ObjectId(u64::MAX);
    let layer = |image: &mut Image| {
        image.add_entry(&[Op::PutLayer { layer: LayerId(u32::MAX), parent: None }]);
    };
    let changes: [&dyn Fn(&mut Image); 3] = [&last_layer, &last_object, &layer];
    for change in changes {
        let (mut disks, mut image) = pool(SMALL);
        change(&mut image);
        image.write(&mut disks);
        let mut story = Story::open(disks, 1, OpenOptions::default());
        let volume = story.volume(0x10);
        let new = new_volume(0x30, 4096, 4096);
        assert_eq!(story.rig.store.create_volume(new), Err(Refused::NoIds));
        let new = fathom_test_sim::pool::new_snapshot(volume, 0x31);
        assert_eq!(story.rig.store.create_snapshots(vec![new]), Err(Refused::NoIds));
        story.request(volume, Operation::Write { fua: false }, 0, 1, vec![3; 4096]).expect("room");
        story.rig.store.delete_volume(volume).expect("it can be deleted");
        story.done().expect("it was deleted");
    }
}

#[test]
fn slot_headers_that_contradict_their_slot_are_refused() {
    let patch = |offset: usize, value: u64| {
        move |image: &mut Image| {
            let bytes = value.to_le_bytes().to_vec();
            image.slot_patches.push((offset, bytes));
        }
    };
    let (_, image) = pool(SMALL);
    let generation = image.slot.generation;
    refused(patch(16, generation + 1), "stands in the slot of the other one");
    refused(patch(56, 1 << 40), "states more chunks than its slot holds");
    refused(patch(56, 2 << 12), "states another length than its chunks have");
    refused(|image| image.chunks[0].header.lsn = Lsn(1000), "contains log entry 1000, but the log");
}

#[test]
fn chunks_hold_their_keys_in_order_and_nothing_else() {
    let expected = "chunk 0: its content is not in the order and range of its keys";
    let blocks = 16;
    let with = |change: fn(&mut Vec<Vec<u8>>)| {
        move |image: &mut Image| {
            let mut ops = split(&image.chunks[0].payload, blocks);
            change(&mut ops);
            image.chunks[0].payload = ops.concat();
        }
    };
    refused(with(|ops| ops.swap(0, 1)), expected);
    refused(with(|ops| ops.insert(2, ops[2].clone())), expected);
    let ops = [
        Op::Unmap { layer: LayerId(2), opaque: true, first_block: 0, blocks: 1 },
        Op::DropLayer { layer: LayerId(2) },
        Op::DropVolume { volume: ObjectId(1) },
        Op::DropSnapshot { snapshot: ObjectId(2) },
        Op::Settled { member: MemberIndex(0), lsn: Lsn(1) },
        Op::Fragments { layer: LayerId(3), items: Vec::new() },
    ];
    for op in ops {
        refused(
            |image| {
                op.encode(blocks, &mut image.chunks[0].payload);
            },
            expected,
        );
    }
    let second = |first: Key| {
        move |image: &mut Image| {
            let mut chunk = image.chunks[0].clone();
            chunk.header.first = first;
            chunk.payload.clear();
            image.chunks.push(chunk);
        }
    };
    let early = Key { class: Class::Layer, first: 1, second: 0 };
    refused(second(early), "chunk 1: its content is not in the order");
    let late = Key { class: Class::Fragment, first: 9, second: 0 };
    assert_eq!(after(SMALL, second(late)), None);
}

#[test]
fn segments_own_their_clusters_and_bytes_alone() {
    let begin = clusters_at(SMALL);
    for (list, expected) in [
        (vec![(0, 66, begin)], "does not lie between the label copies"),
        (vec![(0, 60, 0)], "does not lie between the label copies"),
        (vec![(0, 60, METADATA)], "lies on other clusters or on metadata"),
        (vec![(0, 60, begin - 4096)], "lies on other clusters or on metadata"),
        (vec![(0, 40, begin), (40, 20, begin + (39 << 16))], "lies on other clusters"),
        (vec![(0, 40, begin), (39, 20, begin + (40 << 16))], "has cluster numbers that another"),
        (vec![(20, 40, begin), (0, 21, begin + (40 << 16))], "has cluster numbers that another"),
        (vec![(0, 1 << 29, begin)], "does not lie between the label copies"),
        (vec![(0, 1, begin); 1025], "the number of segments is 1025"),
    ] {
        refused_of(SMALL, |image| image.add_entry(&[segments(&list)]), expected);
    }
    let unknown = Op::PutMember { member: MemberIndex(3), segments: Vec::new() };
    refused(|image| image.add_entry(&[unknown]), "names member 3, which the pool does not have");
    assert_eq!(after(SMALL, |image| image.add_entry(&[segments(&[(0, 60, begin)])])), None);
}

#[test]
fn extents_that_no_pool_can_be_driven_by_are_refused() {
    let log = |length: u64| move |image: &mut Image| image.labels[0].log[0].length = length;
    refused(log(60 << 10), "the log in its label has an extent of 61440 bytes");
    refused(log(64 << 10), "the log in its label has 65536 bytes, and 81920");
    refused(log(192 << 10), "lies on other clusters or on metadata of its member");
    let short_slot = |image: &mut Image| image.labels[0].slot_b[0].length = 128 << 10;
    refused(short_slot, "the slot B in its label has 131072 bytes, and 196608");
    let split_log = |image: &mut Image| {
        let Extent { offset, length } = image.labels[0].log[0];
        let half = Extent { offset, length: length - 4096 };
        image.labels[0].log = vec![half, Extent { offset: offset + length - 4096, length: 4096 }];
    };
    refused_of(LARGE, split_log, "has an extent of 4096 bytes");
    // In a label, more than a member can have.
    let huge = |image: &mut Image| {
        let size: u64 = 2 << 30;
        image.labels[0].member_size = size;
        image.labels[0].members[0].size = size;
        image.labels[0].log[0].length = 1 << 30 | 4096;
    };
    let (mut disks, mut image) = pool(SMALL);
    disks.0[0].grow(2 << 30);
    huge(&mut image);
    image.labels[0].check().expect("the label itself is allowed");
    let bytes = image.labels[0].encode();
    for offset in [0, 512 << 10] {
        disks.write(0, offset, &bytes).expect("a sound disk");
    }
    let found = attempt(disks, &mut Random::new(1)).expect("a refusal").expect("a refusal");
    assert!(found.contains("has 1073745920 bytes, and 81920 to 1073741824 are"), "{found}");
}

#[test]
fn what_takes_memory_or_time_out_of_proportion_is_refused() {
    let layers = |image: &mut Image| {
        for first in (0..132_000u32).step_by(3000) {
            let put = |id| Op::PutLayer { layer: LayerId(id + 10), parent: None };
            image.add_entry(&(first..first + 3000).map(put).collect::<Vec<_>>());
        }
    };
    refused_of(LARGE, layers, "the number of layers is 131073, and 131072 is the most");
    let unmap = |first: u64| Op::Unmap {
        layer: LayerId(2),
        opaque: true,
        first_block: first * 1024 * 16,
        blocks: 1024 * 16,
    };
    let fragments = |image: &mut Image| (0..80).for_each(|at| image.add_entry(&[unmap(at)]));
    refused_of(LARGE, fragments, "the number of fragments is");
    let bomb = |image: &mut Image| image.add_entry(&(0..5).map(unmap).collect::<Vec<_>>());
    refused(bomb, "logical clusters are 5120 at least, and 4096 are the most");
    let unsettled = |image: &mut Image| {
        for first in (0..2200u32).step_by(100) {
            let map = |at| Op::Map {
                layer: LayerId(2),
                at: LogicalCluster(at + 100),
                cluster: ClusterNo(at + 1000),
                first: 0,
                proofs: vec![1; 16],
            };
            image.add_entry(&(first..first + 100).map(map).collect::<Vec<_>>());
        }
    };
    refused_of(LARGE, unsettled, "the number of unsettled blocks is");
}

#[test]
fn layers_form_trees_and_are_named_once() {
    let put = |layer, parent| Op::PutLayer { layer: LayerId(layer), parent: Some(LayerId(parent)) };
    refused(|i| i.add_entry(&[put(1, 2)]), "the parent of layer 1 is not connected");
    refused(|i| i.add_entry(&[put(5, 4), put(4, 3)]), "layer 4 names layer 3");
    refused(|i| i.add_entry(&[put(5, 2)]), "the tip of volume 1 is not connected");
    let with_tip = |tip| {
        move |image: &mut Image| {
            let (volume, _) = records(image);
            let twin = VolumeRecord {
                id: ObjectId(9),
                uuid: Uuid::from_u128(9),
                name: "other".to_owned(),
                tip,
                ..volume
            };
            image.add_entry(&[Op::PutVolume(Box::new(twin))]);
        }
    };
    refused(with_tip(Some(LayerId(2))), "the tip of volume 1 is not connected");
    refused(with_tip(Some(LayerId(1))), "the tip of volume 9 is not connected");
    refused(with_tip(Some(LayerId(7))), "volume 9 names layer 7, which does not exist");
    refused(with_tip(None), "deleted volume 9 is not connected");
    refused(|i| i.add_entry(&[Op::DropLayer { layer: LayerId(2) }]), "is dropped while it holds");
}

#[test]
fn objects_have_names_and_uuids_of_their_own() {
    let volume = |change: fn(&mut VolumeRecord)| {
        move |image: &mut Image| {
            let (mut twin, _) = records(image);
            (twin.id, twin.tip) = (ObjectId(9), Some(LayerId(5)));
            change(&mut twin);
            let layer = Op::PutLayer { layer: LayerId(5), parent: None };
            image.add_entry(&[layer, Op::PutVolume(Box::new(twin))]);
        }
    };
    let uuid = |volume: &mut VolumeRecord| volume.uuid = Uuid::from_u128(9);
    refused(volume(uuid), "objects 1 and 9 are both called \"v10\"");
    refused(volume(|volume| volume.name.push('x')), "objects 1 and 9 are both called UUID");
    let elsewhere = |volume: &mut VolumeRecord| {
        volume.name.push('x');
        volume.uuid = Uuid::from_u128(9);
        volume.members = 1 << 7;
    };
    refused(volume(elsewhere), "volume 9 names member 7, which the pool does not have");
    let snapshot = |change: fn(&mut SnapshotRecord)| {
        move |image: &mut Image| {
            let (_, mut twin) = records(image);
            (twin.id, twin.layer) = (ObjectId(9), LayerId(5));
            (twin.name, twin.uuid) = ("other".to_owned(), Uuid::from_u128(9));
            change(&mut twin);
            let layer = Op::PutLayer { layer: LayerId(5), parent: None };
            image.add_entry(&[layer, Op::PutSnapshot(Box::new(twin))]);
        }
    };
    refused(snapshot(|twin| twin.name = "s20".to_owned()), "2 and 9 are both called \"s20\"");
    refused(snapshot(|twin| twin.uuid = Uuid::from_u128(0x10)), "1 and 9 are both called UUID");
    refused(snapshot(|twin| twin.layer = LayerId(1)), "layer 1 is not connected");
    refused(snapshot(|twin| twin.volume = ObjectId(8)), "snapshot 9 is not connected");
    refused(snapshot(|twin| twin.id = ObjectId(1)), "snapshot 1 is not connected");
    refused(snapshot(|twin| twin.size = ByteCount(513)), "the size of snapshot 9 is not");
    assert_eq!(after(SMALL, snapshot(|_| {})), None);
}

#[test]
fn clusters_have_one_owner_in_a_segment() {
    let fragment = |cluster| {
        let valid = BlockSet::range(0, 3);
        let fragment =
            Fragment { cluster: Some(ClusterNo(cluster)), valid, opaque: BlockSet::EMPTY };
        let items = vec![(LogicalCluster(12), fragment)];
        move |image: &mut Image| image.add_entry(&[Op::Fragments { layer: LayerId(2), items }])
    };
    refused(fragment(0), "cluster 0 of layer 2 has another owner or lies on no member");
    refused(fragment(200), "cluster 200 of layer 2 has another owner or lies on no member");
    assert_eq!(after(SMALL, fragment(60)), None);
    let beyond = |image: &mut Image| {
        let fragment =
            Fragment { cluster: None, valid: BlockSet::EMPTY, opaque: BlockSet::full(16) };
        let items = vec![(LogicalCluster(u32::MAX - 1), fragment)];
        image.add_entry(&[Op::Fragments { layer: LayerId(2), items }]);
    };
    assert_eq!(after(SMALL, beyond), None, "beyond the volume nobody reads it");
}

#[test]
fn an_object_that_could_not_be_logged_again_is_refused() {
    let wordy = |image: &mut Image| {
        let (mut volume, _) = records(image);
        volume.hosts = vec!["h".repeat(200); 64];
        let blocks = image.blocks();
        let mut ops = split(&image.chunks[0].payload, blocks);
        let at = ops.iter().position(|op| op[0] == 6).expect("the volume");
        ops[at].clear();
        Op::PutVolume(Box::new(volume)).encode(blocks, &mut ops[at]);
        image.chunks[0].payload = ops.concat();
    };
    refused(wordy, "the description of volume 1 takes 13");
    assert_eq!(after(LARGE, wordy), None);
}

#[test]
fn a_state_that_its_slots_cannot_hold_is_refused_before_anything_is_written() {
    let crowd = |image: &mut Image| {
        let (volume, _) = records(image);
        for id in 0..30u32 {
            let volume = VolumeRecord {
                id: ObjectId(u64::from(id) + 20),
                uuid: Uuid::from_u128(u128::from(id) + 1000),
                name: format!("crowd{id}"),
                tip: Some(LayerId(id + 20)),
                hosts: vec!["h".repeat(200); 50],
                ..volume.clone()
            };
            let layer = Op::PutLayer { layer: LayerId(id + 20), parent: None };
            image.add_entry(&[layer, Op::PutVolume(Box::new(volume))]);
        }
    };
    refused_of(LARGE, crowd, "does not fit its checkpoint slot");
}

#[test]
fn labels_that_lead_from_one_to_the_next_are_not_followed() {
    // The third member has no metadata, so that its label may say any size.
    let (mut disks, image) = pool(Shape { members: 3, ..SMALL });
    let label = |size| {
        let mut label = image.labels[2].clone();
        (label.member_size, label.members[2].size) = (size, size);
        label.encode()
    };
    let begin = 1 << 20;
    disks.write(2, 0, &label(begin + 4096)).expect("a sound disk");
    // Each says that the member ends behind the next one.
    for at in (begin..disks.size(2) - 4096).step_by(4096) {
        disks.write(2, at, &label(at + 8192)).expect("a sound disk");
    }
    let before = disks.0[2].counters().reads;
    drop(fathom_lvs::check(&mut disks, OpenOptions::default()));
    let reads = disks.0[2].counters().reads - before;
    assert!(reads <= 5, "{reads} reads of label copies");
}

#[test]
fn a_log_that_goes_on_beyond_its_ring_is_refused() {
    let (mut disks, image) = pool(Shape { members: 2, ..SMALL });
    let (seed, slot) = (image.seed(), image.slot);
    let Extent { offset, length } = image.labels[0].log[0];
    let mut previous = slot.previous;
    // The second time round, the entries are on the other member.
    for step in 0..2 * length / 4096 {
        let position = slot.position + step * 4096;
        let mut bytes = vec![0; 4096];
        let lsn = Lsn(slot.start.0 + step);
        let header = EntryHeader {
            lsn,
            incarnation: slot.incarnation,
            durable: Lsn(0),
            previous,
            checkpoint_generation: slot.generation,
            blocks: 1,
            payload_length: 0,
        };
        assert!(ENTRY_HEADER < bytes.len());
        previous = seal_entry(seed, &header, &mut bytes);
        let member = usize::from(step >= length / 4096);
        disks.write(member, offset + position % length, &bytes).expect("a sound disk");
    }
    let found = attempt(disks, &mut Random::new(1)).expect("a refusal").expect("a refusal");
    assert!(found.contains("the length of the log is"), "{found}");
}

#[test]
fn tiny_and_odd_devices_are_refused() {
    use fathom_test_support::disk::{SimulatedDisk, Unwritten};
    let (mut disks, image) = pool(SMALL);
    let label = image.labels[0].encode();
    for size in [4096, 8192, 512 << 10, (512 << 10) + 4096, 1 << 20, (1 << 20) + 4096] {
        for labelled in [false, true] {
            let mut small = Disks(vec![SimulatedDisk::new(size, Unwritten::Zero, 1)]);
            if labelled {
                small.write(0, 0, &label).expect("a sound disk");
            }
            let found = attempt(small, &mut Random::new(1)).expect("a refusal");
            found.expect("no pool fits such a disk");
        }
    }
    // One that is larger than the label says is as good.
    disks.0[0].grow(1 << 40);
    assert_eq!(attempt(disks, &mut Random::new(1)), Ok(None));
}

#[test]
fn nobody_else_is_told_the_place_wrong() {
    // The refusal of an operation names the entry in which it stands.
    let mut lsns = BTreeMap::new();
    for entries in 1..4 {
        let found = after(SMALL, |image| {
            let first = image.slot.start.0 + image.entries.len() as u64;
            (1..entries).for_each(|_| image.add_entry(&[]));
            image.add_payload(vec![99, 0, 0, 0, 8, 0, 0, 0]);
            lsns.insert(entries, first + entries - 1);
        });
        let found = found.expect("type 99 is not known");
        assert!(found.contains(&format!("up to LSN {} is malformed", lsns[&entries])), "{found}");
    }
    let (disks, _) = pool(SMALL);
    assert!(Rig::open(disks, OpenOptions::default()).is_ok());
}

#[test]
fn maps_in_a_checkpoint_come_in_the_order_of_keys() {
    let append = |image: &mut Image, layer, at| {
        let blocks = image.blocks();
        let (layer, at) = (LayerId(layer), LogicalCluster(at));
        let op = Op::Map { layer, at, cluster: ClusterNo(60), first: 0, proofs: vec![1] };
        op.encode(blocks, &mut image.chunks.last_mut().expect("a chunk").payload);
    };
    refused(|image| append(image, 1, 0), "not in the order");
    // One that no content proves is taken back, as in the log.
    assert_eq!(after(SMALL, |image| append(image, 2, 9)), None);
}

#[test]
fn labels_that_differ_by_more_than_one_update_are_refused() {
    let three = Shape { members: 3, ..SMALL };
    let older = |label: &mut Label| {
        label.incarnation -= 1;
        label.members[2].size += 4096;
    };
    refused_of(three, |image| older(&mut image.labels[0]), "its label names other members");
    // A member with data only may have been away.
    let away = |image: &mut Image| {
        let label = &mut image.labels[2];
        label.incarnation -= 1;
        label.members[1].size += 4096;
    };
    assert_eq!(after(three, away), None);
    let larger = |image: &mut Image| {
        for label in &mut image.labels[..2] {
            label.members[2].size += 1 << 20;
        }
        image.labels[0].generation += 1;
    };
    refused_of(three, larger, "member 2 has 5.7 MiB, and had 6.7 MiB");
}
