//! What is kept about the state equals what counting everything finds.

use fathom_units::ByteCount;
use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::format::op::{Identity, QosLimits, VolumeFlags};

const CLUSTER_BYTES: u32 = 64 << 10;
const LAYERS: u32 = 6;
const OBJECTS: u64 = 4;

#[derive(Clone, Debug)]
enum Change {
    PutLayer { layer: u32, parent: Option<u32> },
    DropLayer(u32),
    PutVolume { id: u64, tip: Option<u32>, thick: bool, clusters: u64 },
    DropVolume(u64),
    PutSnapshot { id: u64, layer: u32 },
    DropSnapshot(u64),
    Set { layer: u32, at: u32, held: bool },
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let layer = || 1..=LAYERS;
    let object = || 1..=OBJECTS;
    let change = prop_oneof![
        3 => (layer(), prop::option::of(layer())).prop_map(|(layer, parent)| {
            Change::PutLayer { layer, parent: parent.filter(|&parent| parent < layer) }
        }),
        1 => layer().prop_map(Change::DropLayer),
        3 => (object(), prop::option::of(layer()), any::<bool>(), 1_u64..4).prop_map(
            |(id, tip, thick, clusters)| Change::PutVolume { id, tip, thick, clusters },
        ),
        1 => object().prop_map(Change::DropVolume),
        2 => (object(), layer()).prop_map(|(id, layer)| Change::PutSnapshot { id, layer }),
        1 => object().prop_map(Change::DropSnapshot),
        4 => (layer(), 0_u32..4, any::<bool>())
            .prop_map(|(layer, at, held)| Change::Set { layer, at, held }),
    ];
    prop::collection::vec(change, 0..120)
}

fn volume(id: u64, tip: Option<u32>, thick: bool, clusters: u64) -> VolumeRecord {
    VolumeRecord {
        id: ObjectId(id),
        uuid: Uuid::from_u128(id.into()),
        tip: tip.map(LayerId),
        flags: VolumeFlags { thick, ..VolumeFlags::default() },
        size: ByteCount(clusters * u64::from(CLUSTER_BYTES)),
        logical_block_size: 4096,
        created_ns: 0,
        identity: Identity {
            subsystem_nqn: String::new(),
            serial: [b' '; 20],
            nsid: 1,
            nguid: [0; 16],
            uuid: Uuid::nil(),
        },
        cntlid_min: 1,
        cntlid_max: 1,
        members: 1,
        limits: QosLimits::default(),
        name: format!("volume-{id}"),
        hosts: Vec::new(),
        labels: Vec::new(),
    }
}

fn snapshot(id: u64, layer: u32) -> SnapshotRecord {
    SnapshotRecord {
        id: ObjectId(100 + id),
        uuid: Uuid::from_u128(100 + u128::from(id)),
        volume: ObjectId(1),
        layer: LayerId(layer),
        size: ByteCount(4096),
        created_ns: 0,
        name: format!("snapshot-{id}"),
        labels: Vec::new(),
    }
}

/// Whether a volume other than `id` has this tip: no tip has two writers.
fn is_taken(state: &State, id: u64, tip: u32) -> bool {
    state.volumes.values().any(|other| other.id.0 != id && other.tip == Some(LayerId(tip)))
}

fn apply(state: &mut State, change: &Change, next_cluster: &mut u32) {
    let op = match *change {
        Change::PutLayer { layer, parent } => {
            Op::PutLayer { layer: LayerId(layer), parent: parent.map(LayerId) }
        }
        Change::DropLayer(layer) => Op::DropLayer { layer: LayerId(layer) },
        Change::PutVolume { id, tip, thick, clusters } => {
            let tip = tip.filter(|&tip| !is_taken(state, id, tip));
            Op::PutVolume(Box::new(volume(id, tip, thick, clusters)))
        }
        Change::DropVolume(id) => Op::DropVolume { volume: ObjectId(id) },
        Change::PutSnapshot { id, layer } => Op::PutSnapshot(Box::new(snapshot(id, layer))),
        Change::DropSnapshot(id) => Op::DropSnapshot { snapshot: ObjectId(100 + id) },
        Change::Set { layer, at, held } => {
            *next_cluster += 1;
            let blocks = state.blocks();
            let fragment = match held {
                true => Fragment {
                    cluster: Some(ClusterNo(*next_cluster)),
                    valid: BlockSet::full(blocks),
                    opaque: BlockSet::EMPTY,
                },
                false => Fragment::ABSENT,
            };
            // A layer that does not exist refuses it, and nothing has changed.
            let _ = state.set_fragment(LayerId(layer), LogicalCluster(at), fragment);
            return;
        }
    };
    // A layer that holds something is not dropped.
    let _ = state.apply_object(&op);
}

fn check(state: &State) {
    for layer in (1..=LAYERS).map(LayerId) {
        let children: Vec<LayerId> = state
            .layers
            .iter()
            .filter(|(_, child)| child.parent == Some(layer))
            .map(|(&id, _)| id)
            .collect();
        assert_eq!(state.tree.children(layer).collect::<Vec<_>>(), children);
        let writer = state.volumes.values().find(|volume| volume.tip == Some(layer));
        assert_eq!(state.tree.writer(layer), writer.map(|volume| volume.id));
        let snapshots = state.snapshots.values().filter(|snapshot| snapshot.layer == layer).count();
        let links = state.tree.links(layer);
        assert_eq!(links.children as usize, children.len());
        assert_eq!(links.names as usize, usize::from(writer.is_some()) + snapshots);
    }
    let nameless: Vec<LayerId> =
        state.layers.keys().copied().filter(|&id| state.tree.links(id).names == 0).collect();
    assert_eq!(state.tree.nameless().collect::<Vec<_>>(), nameless);
    let reserved: u64 = state
        .volumes
        .values()
        .filter(|volume| volume.flags.thick)
        .filter_map(|volume| {
            let held = state.layers.get(&volume.tip?).map_or(0, |layer| layer.map.allocated());
            Some(state.cluster_size.clusters_for(volume.size.0).saturating_sub(held as u64))
        })
        .sum();
    assert_eq!(state.reservations.clusters(), reserved);
}

proptest! {
    #[test]
    fn what_is_kept_equals_what_counting_finds(changes in changes()) {
        let mut state = State::new(ClusterSize::new(CLUSTER_BYTES).expect("a legal size"));
        let mut next_cluster = 0;
        for change in &changes {
            apply(&mut state, change, &mut next_cluster);
            check(&state);
        }
    }
}
