//! Tests of the views: whatever changes, they say what the walk says.

use proptest::prelude::*;

use super::*;
use crate::{format::op::Op, geometry::ClusterSize, map::Fragment, state::State, tree::Links};

const BLOCKS: u16 = 16;
const CLUSTERS: u32 = 4;

#[derive(Clone, Copy, Debug)]
enum Change {
    /// A new layer upon one of those that are there.
    Grow(prop::sample::Index),
    Map {
        layer: prop::sample::Index,
        at: u32,
        first: u16,
        count: u16,
    },
    Unmap {
        layer: prop::sample::Index,
        at: u32,
        first: u16,
        count: u16,
        opaque: bool,
    },
    Set {
        layer: prop::sample::Index,
        at: u32,
        valid: u64,
        opaque: u64,
    },
    /// A layer is taken out of the chain of a child, empty or not.
    Bypass(prop::sample::Index),
    Drop(prop::sample::Index),
    Find {
        layer: prop::sample::Index,
        at: u32,
    },
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let layer = any::<prop::sample::Index>;
    let span = || (0..BLOCKS).prop_flat_map(|first| (Just(first), 1..=BLOCKS - first));
    let bits = || 0..1u64 << BLOCKS;
    prop::collection::vec(
        prop_oneof![
            4 => layer().prop_map(Change::Grow),
            6 => (layer(), 0..CLUSTERS, span())
                .prop_map(|(layer, at, (first, count))| Change::Map { layer, at, first, count }),
            3 => (layer(), 0..CLUSTERS, span(), any::<bool>()).prop_map(
                |(layer, at, (first, count), opaque)| Change::Unmap { layer, at, first, count, opaque }
            ),
            3 => (layer(), 0..CLUSTERS, bits(), bits())
                .prop_map(|(layer, at, valid, opaque)| Change::Set { layer, at, valid, opaque }),
            1 => layer().prop_map(Change::Bypass),
            1 => layer().prop_map(Change::Drop),
            8 => (layer(), 0..CLUSTERS).prop_map(|(layer, at)| Change::Find { layer, at }),
        ],
        0..200,
    )
}

/// Every block from every layer, or from one: found as the walk finds it.
fn check(state: &mut State, layer: LayerId, at: LogicalCluster) {
    for (block, limit) in (0..BLOCKS).flat_map(|block| [(block, block + 1), (block, BLOCKS)]) {
        let (walked, run) = state.source(layer, at, block, limit);
        let (found, count) = state.find(layer, at, block, limit);
        assert_eq!(found, walked, "block {block} from {layer:?} at {at:?}");
        // A run may be cut where two layers meet, in either way, but never be too long.
        assert!(count >= 1 && block + count <= limit);
        for next in block..block + count {
            assert_eq!(state.source(layer, at, next, next + 1).0, found);
        }
        assert!(run >= 1);
    }
}

proptest! {
    #[test]
    fn views_say_what_the_walk_says(changes in changes(), most in prop_oneof![Just(600), Just(1 << 20)]) {
        let mut state = State::new(ClusterSize::new(u32::from(BLOCKS) * 4096).expect("a legal size"));
        state.views = Views::new(most);
        let mut cluster = 0;
        state.apply_object(&Op::PutLayer { layer: LayerId(1), parent: None }).expect("a new one");
        for change in changes {
            let layers: Vec<LayerId> = state.layers.keys().copied().collect();
            let pick = |index: prop::sample::Index| layers[index.index(layers.len())];
            match change {
                // Deep rather than wide.
                Change::Grow(index) => {
                    let parent = Some(layers[layers.len() - 1 - index.index(layers.len().min(3))]);
                    let layer = LayerId(state.next_layer);
                    state.apply_object(&Op::PutLayer { layer, parent }).expect("a new one");
                }
                Change::Map { layer, at, first, count } => {
                    let (layer, at) = (pick(layer), LogicalCluster(at));
                    let holds = state.fragment(layer, at).cluster;
                    cluster += 1;
                    let cluster = holds.unwrap_or(ClusterNo(cluster));
                    state.map_blocks(layer, at, cluster, first, count).expect("its cluster");
                }
                Change::Unmap { layer, at, first, count, opaque } => {
                    let (layer, at) = (pick(layer), LogicalCluster(at));
                    state.unmap_blocks(layer, at, first, count, opaque).expect("it exists");
                }
                Change::Set { layer, at, valid, opaque } => {
                    cluster += 1;
                    let (valid, opaque) = (BlockSet::from_words(&[valid]), BlockSet::from_words(&[opaque]));
                    let cluster = (!valid.is_empty()).then_some(ClusterNo(cluster));
                    let fragment = Fragment { cluster, valid, opaque };
                    state.set_fragment(pick(layer), LogicalCluster(at), fragment).expect("it exists");
                }
                Change::Bypass(index) => {
                    let layer = pick(index);
                    if let Some(parent) = state.layer(layer).parent {
                        let parent = state.layer(parent).parent;
                        state.apply_object(&Op::PutLayer { layer, parent }).expect("it exists");
                    }
                }
                Change::Drop(index) => {
                    let layer = pick(index);
                    if layers.len() > 1 && state.tree.links(layer) == Links::default() {
                        for at in (0..CLUSTERS).map(LogicalCluster) {
                            state.set_fragment(layer, at, Fragment::ABSENT).expect("it exists");
                        }
                        state.apply_object(&Op::DropLayer { layer }).expect("it is empty");
                    }
                }
                Change::Find { layer, at } => check(&mut state, pick(layer), LogicalCluster(at)),
            }
            prop_assert!(state.views.bytes() <= most);
        }
        let layers: Vec<LayerId> = state.layers.keys().copied().collect();
        for layer in layers {
            (0..CLUSTERS).for_each(|at| check(&mut state, layer, LogicalCluster(at)));
        }
        prop_assert!(state.views.bytes() <= most);
    }
}

#[test]
fn a_view_has_the_smallest_form() {
    let word = |cluster| Word::data(ClusterNo(cluster));
    assert!(matches!(View::new(&[Word::ZERO; 256]), View::All(Word::ZERO)));
    let mut blocks = [word(3); 256];
    blocks[100..200].fill(Word::ZERO);
    let view = View::new(&blocks);
    assert!(matches!(&view, View::Runs(runs) if runs.len() == 3));
    assert_eq!(view.at(0, 256), (Source::Data(ClusterNo(3)), 100));
    assert_eq!(view.at(99, 150), (Source::Data(ClusterNo(3)), 1));
    assert_eq!(view.at(150, 160), (Source::Zero, 10));
    let blocks: Vec<Word> = (0..256).map(|block| word(block / 2)).collect();
    assert!(matches!(View::new(&blocks), View::Blocks(_)));
    assert_eq!(View::new(&blocks).at(6, 256), (Source::Data(ClusterNo(3)), 2));
}

#[test]
fn short_walks_leave_nothing_behind() {
    let mut state = State::new(ClusterSize::new(64 << 10).expect("a legal size"));
    for layer in 1..=3 {
        let parent = (layer > 1).then(|| LayerId(layer - 1));
        state.apply_object(&Op::PutLayer { layer: LayerId(layer), parent }).expect("a new one");
    }
    assert_eq!(state.find(LayerId(3), LogicalCluster(0), 0, 16), (Source::Zero, 16));
    assert_eq!(state.views.bytes(), 0);
    assert!(!state.views.covers(LayerId(2)));
}
