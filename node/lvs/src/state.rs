//! What the pool is: its members, volumes, snapshots, layers and their fragments.
//!
//! The state changes by operations only ([`crate::format::op::Op`]), the same ones
//! that the log and the checkpoints hold, so that what is replayed after a crash is
//! what happened before it. Nothing here does I/O or decides anything; the free space
//! is not here either, since it follows from the fragments.

use std::collections::BTreeMap;

use crate::{
    blocks::BlockSet,
    format::op::{Op, PoolRecord, SnapshotRecord, VolumeRecord},
    geometry::{
        BLOCK, ClusterNo, ClusterSize, LayerId, LogicalCluster, MemberIndex, ObjectId, Segment,
    },
    map::{Fragment, LayerMap, Visibility},
    reservation::Reservations,
    tree::Tree,
    views::{VIEW_BYTES_MAX, View, Views, Word},
};

/// An operation that cannot follow from the state before it: a bug or damage.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Inconsistent {
    /// A layer is named that does not exist.
    #[error("layer {} does not exist", .0.0)]
    NoLayer(LayerId),
    /// A fragment is given a second cluster.
    #[error(
        "layer {}, logical cluster {}: holds cluster {} and was given cluster {}",
        layer.0, at.0, holds.0, given.0
    )]
    SecondCluster {
        /// The layer of the fragment.
        layer: LayerId,
        /// Its place in the layer.
        at: LogicalCluster,
        /// The cluster that it has.
        holds: ClusterNo,
        /// The cluster that the operation names.
        given: ClusterNo,
    },
    /// A layer is dropped while it holds fragments.
    #[error("layer {} is dropped while it holds {fragments} fragments", layer.0)]
    NotEmpty {
        /// The layer.
        layer: LayerId,
        /// How many fragments it holds.
        fragments: usize,
    },
}

/// Ancestors that a read asks one by one. Where that is not enough, views are made.
const WALK_MAX: usize = 2;
/// Ancestors whose view may serve when that of a newer layer is made.
const VIEWS_ASKED_MAX: usize = 8;

/// What a layer takes in a checkpoint beside its fragments, in bytes.
pub(crate) const LAYER_BYTES: usize = 2 * 16;

/// What a volume wrote between two snapshots.
pub(crate) struct Layer {
    pub(crate) parent: Option<LayerId>,
    pub(crate) map: LayerMap,
}

/// Where a block's content is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Source {
    Data(ClusterNo),
    Zero,
}

/// The state of a pool.
pub(crate) struct State {
    pub(crate) cluster_size: ClusterSize,
    pub(crate) pool: PoolRecord,
    pub(crate) members: BTreeMap<MemberIndex, Vec<Segment>>,
    pub(crate) layers: BTreeMap<LayerId, Layer>,
    pub(crate) volumes: BTreeMap<ObjectId, VolumeRecord>,
    pub(crate) snapshots: BTreeMap<ObjectId, SnapshotRecord>,
    /// Blocks of clusters that are valid and lost: reading them is an error.
    lost: BTreeMap<ClusterNo, BlockSet>,
    pub(crate) next_layer: u32,
    pub(crate) next_object: u64,
    /// What all objects take in a checkpoint, in bytes.
    pub(crate) object_bytes: u64,
    pub(crate) views: Views,
    /// Who leads to a layer: follows from layers, volumes and snapshots.
    pub(crate) tree: Tree,
    /// What is set aside for thick volumes: follows from these and their layers.
    pub(crate) reservations: Reservations,
}

impl State {
    /// A pool with nothing in it.
    pub(crate) fn new(cluster_size: ClusterSize) -> Self {
        Self {
            cluster_size,
            pool: PoolRecord {
                overcommit_percent: 0,
                watermark_low_percent: 0,
                watermark_high_percent: 0,
                labels: Vec::new(),
            },
            members: BTreeMap::new(),
            layers: BTreeMap::new(),
            volumes: BTreeMap::new(),
            snapshots: BTreeMap::new(),
            lost: BTreeMap::new(),
            next_layer: 1,
            next_object: 1,
            object_bytes: 0,
            views: Views::new(VIEW_BYTES_MAX),
            tree: Tree::default(),
            reservations: Reservations::default(),
        }
    }

    /// Blocks in a cluster of this pool.
    pub(crate) fn blocks(&self) -> u16 {
        self.cluster_size.blocks()
    }

    /// Applies an operation on an object. Operations on fragments go through
    /// [`State::map_blocks`], [`State::unmap_blocks`] and [`State::set_fragment`].
    ///
    /// # Errors
    ///
    /// When the operation cannot follow from the state.
    ///
    /// # Panics
    ///
    /// When it is an operation on fragments.
    pub(crate) fn apply_object(&mut self, op: &Op) -> Result<(), Inconsistent> {
        match op {
            Op::PutLayer { layer, parent } => self.put_layer(*layer, *parent),
            Op::DropLayer { layer } => return self.drop_layer(*layer),
            Op::PutVolume(record) => {
                self.next_object = self.next_object.max(record.id.0.saturating_add(1));
                let old = self.volumes.insert(record.id, (**record).clone());
                self.follow_volume(old.as_ref(), Some(record));
                self.count_object(op, old.map(|old| Op::PutVolume(Box::new(old))));
            }
            Op::DropVolume { volume } => {
                let old = self.volumes.remove(volume);
                self.follow_volume(old.as_ref(), None);
                self.count_object(op, old.map(|old| Op::PutVolume(Box::new(old))));
            }
            Op::PutSnapshot(record) => {
                self.next_object = self.next_object.max(record.id.0.saturating_add(1));
                let layer = record.layer;
                let old = self.snapshots.insert(record.id, (**record).clone());
                self.follow_name(old.as_ref().map(|old| old.layer), Some(layer));
                self.count_object(op, old.map(|old| Op::PutSnapshot(Box::new(old))));
            }
            Op::DropSnapshot { snapshot } => {
                let old = self.snapshots.remove(snapshot);
                self.follow_name(old.as_ref().map(|old| old.layer), None);
                self.count_object(op, old.map(|old| Op::PutSnapshot(Box::new(old))));
            }
            Op::PutPool(record) => self.pool = record.clone(),
            Op::PutMember { member, segments } => {
                self.members.insert(*member, segments.clone());
            }
            Op::Settled { .. } => {}
            Op::Map { .. } | Op::Unmap { .. } | Op::Fragments { .. } => {
                unreachable!("operations on fragments are applied one fragment at a time")
            }
        }
        Ok(())
    }

    /// Counts what `op` put instead of `old`.
    fn count_object(&mut self, op: &Op, old: Option<Op>) {
        let blocks = self.blocks();
        if matches!(op, Op::PutVolume(_) | Op::PutSnapshot(_)) {
            // With the layer that came with it.
            self.object_bytes += (op.encoded_len(blocks) + LAYER_BYTES) as u64;
        }
        if let Some(old) = old {
            self.object_bytes -= (old.encoded_len(blocks) + LAYER_BYTES) as u64;
        }
    }

    /// The layer `id`, made when it does not exist: replay may meet what was written to a
    /// layer before the layer.
    pub(crate) fn ensure_layer(&mut self, id: LayerId) -> &mut Layer {
        let blocks = self.blocks();
        let tree = &mut self.tree;
        self.layers.entry(id).or_insert_with(|| {
            tree.made(id);
            Layer { parent: None, map: LayerMap::new(blocks) }
        })
    }

    fn put_layer(&mut self, id: LayerId, parent: Option<LayerId>) {
        self.next_layer = self.next_layer.max(id.0.saturating_add(1));
        let layer = self.ensure_layer(id);
        let old = core::mem::replace(&mut layer.parent, parent);
        if old != parent && self.views.covers(id) {
            // A layer that holds nothing any more may leave the chain: nothing else is seen then.
            let left = old.and_then(|old| self.layers.get(&old));
            if left.is_none_or(|left| !left.map.is_empty() || left.parent != parent) {
                self.views.clear();
            }
        }
        self.tree.moved(id, old, parent);
    }

    fn drop_layer(&mut self, id: LayerId) -> Result<(), Inconsistent> {
        if let Some(layer) = self.layers.get(&id) {
            if !layer.map.is_empty() {
                return Err(Inconsistent::NotEmpty { layer: id, fragments: layer.map.len() });
            }
            let parent = layer.parent;
            self.layers.remove(&id);
            self.views.dropped(id);
            self.tree.dropped(id, parent);
        }
        Ok(())
    }

    fn follow_volume(&mut self, old: Option<&VolumeRecord>, new: Option<&VolumeRecord>) {
        let Some(id) = old.or(new).map(|record| record.id) else { return };
        let tip = |record: Option<&VolumeRecord>| record.and_then(|record| record.tip);
        self.follow_name(tip(old), tip(new));
        self.tree.written(id, tip(old), tip(new));
        if let Some(tip) = tip(old) {
            self.reservations.end(tip, self.held(tip));
        }
        if let Some(new) = new.filter(|new| new.flags.thick)
            && let Some(tip) = new.tip
        {
            let logical_clusters = self.cluster_size.clusters_for(new.size.0);
            self.reservations.begin(tip, logical_clusters, self.held(tip));
        }
    }

    fn follow_name(&mut self, old: Option<LayerId>, new: Option<LayerId>) {
        let old_exists = old.is_some_and(|old| self.layers.contains_key(&old));
        self.tree.named(old, old_exists, new);
    }

    /// Clusters that a layer holds.
    fn held(&self, layer: LayerId) -> usize {
        self.layers.get(&layer).map_or(0, |layer| layer.map.allocated())
    }

    /// The fragment of `layer` at `at`.
    ///
    /// # Panics
    ///
    /// When the layer does not exist.
    pub(crate) fn fragment(&self, layer: LayerId, at: LogicalCluster) -> Fragment {
        self.layer(layer).map.get(at)
    }

    /// A layer that is known to exist.
    ///
    /// # Panics
    ///
    /// When it does not.
    pub(crate) fn layer(&self, layer: LayerId) -> &Layer {
        self.layers.get(&layer).expect("a named layer exists")
    }

    /// The member and byte offset of a block of a cluster, if the cluster lies in a segment.
    pub(crate) fn locate(&self, cluster: ClusterNo, block: u16) -> Option<(MemberIndex, u64)> {
        self.members.iter().find_map(|(&member, segments)| {
            let segment = segments.iter().find(|segment| segment.contains(cluster))?;
            let index = u64::from(cluster.0 - segment.first.0);
            let bytes = u64::from(self.cluster_size.bytes());
            Some((member, segment.offset.0 + index * bytes + u64::from(block) * BLOCK))
        })
    }

    /// The member that holds a cluster.
    pub(crate) fn member_of(&self, cluster: ClusterNo) -> Option<MemberIndex> {
        self.locate(cluster, 0).map(|(member, _)| member)
    }

    /// Makes `count` blocks from `first` valid in the fragment, and gives it `cluster`
    /// when it has none. Returns the fragment as it was.
    ///
    /// # Errors
    ///
    /// When the layer does not exist or the fragment has another cluster.
    pub(crate) fn map_blocks(
        &mut self,
        layer: LayerId,
        at: LogicalCluster,
        cluster: ClusterNo,
        first: u16,
        count: u16,
    ) -> Result<Fragment, Inconsistent> {
        let before = self.content(layer)?.get(at);
        if let Some(holds) = before.cluster
            && holds != cluster
        {
            return Err(Inconsistent::SecondCluster { layer, at, holds, given: cluster });
        }
        let mut after = Fragment { cluster: Some(cluster), ..before };
        after.valid.insert_range(first, count);
        self.set_fragment(layer, at, after)?;
        Ok(before)
    }

    /// Makes `count` blocks from `first` read as zero. Returns the fragment as it was and
    /// the cluster that it gives back, if it now holds no valid block.
    ///
    /// # Errors
    ///
    /// When the layer does not exist.
    pub(crate) fn unmap_blocks(
        &mut self,
        layer: LayerId,
        at: LogicalCluster,
        first: u16,
        count: u16,
        opaque: bool,
    ) -> Result<(Fragment, Option<ClusterNo>), Inconsistent> {
        let before = self.content(layer)?.get(at);
        let mut after = before;
        after.valid.remove_range(first, count);
        if opaque {
            after.opaque.insert_range(first, count);
        }
        if after.valid.is_empty() {
            after.cluster = None;
        }
        if after != before {
            self.set_fragment(layer, at, after)?;
        }
        Ok((before, before.cluster.filter(|_| after.cluster.is_none())))
    }

    /// Sets a fragment to exactly what is given.
    ///
    /// # Errors
    ///
    /// When the layer does not exist.
    pub(crate) fn set_fragment(
        &mut self,
        layer: LayerId,
        at: LogicalCluster,
        fragment: Fragment,
    ) -> Result<(), Inconsistent> {
        let map = &mut self.layers.get_mut(&layer).ok_or(Inconsistent::NoLayer(layer))?.map;
        let (held, before) = (map.allocated(), map.get(at));
        map.set(at, fragment);
        self.reservations.changed(layer, held, map.allocated());
        self.views.changed(layer, at);
        if let Some(cluster) = before.cluster {
            let same = fragment.cluster == before.cluster;
            self.keep_lost(cluster, if same { fragment.valid } else { BlockSet::EMPTY });
        }
        Ok(())
    }

    /// The lost blocks of a cluster.
    pub(crate) fn lost_of(&self, cluster: ClusterNo) -> BlockSet {
        if self.lost.is_empty() {
            return BlockSet::EMPTY;
        }
        self.lost.get(&cluster).copied().unwrap_or(BlockSet::EMPTY)
    }

    /// Whether any of `count` blocks of a cluster from `first` is lost.
    pub(crate) fn is_lost(&self, cluster: ClusterNo, first: u16, count: u16) -> bool {
        !(self.lost_of(cluster) & BlockSet::range(first, count)).is_empty()
    }

    /// Valid blocks of a cluster are lost.
    pub(crate) fn lose(&mut self, cluster: ClusterNo, blocks: BlockSet) {
        let lost = self.lost.entry(cluster).or_insert(BlockSet::EMPTY);
        *lost = *lost | blocks;
    }

    /// Blocks of a cluster have new content.
    pub(crate) fn rewrite_lost(&mut self, cluster: ClusterNo, blocks: BlockSet) {
        let left = self.lost_of(cluster) - blocks;
        self.keep_lost(cluster, left);
    }

    /// Of a cluster no other blocks than these are lost any more.
    fn keep_lost(&mut self, cluster: ClusterNo, blocks: BlockSet) {
        let Some(lost) = self.lost.get_mut(&cluster) else { return };
        *lost = *lost & blocks;
        if lost.is_empty() {
            self.lost.remove(&cluster);
        }
    }

    /// How many blocks are lost.
    pub(crate) fn lost_blocks(&self) -> u64 {
        self.lost.values().map(|blocks| u64::from(blocks.count())).sum()
    }

    fn content(&self, layer: LayerId) -> Result<&LayerMap, Inconsistent> {
        Ok(&self.layers.get(&layer).ok_or(Inconsistent::NoLayer(layer))?.map)
    }

    /// Where the content of a block is, seen from `layer`, and for how many blocks the
    /// answer holds, up to block `limit` of the cluster.
    ///
    /// # Panics
    ///
    /// When the layer or one of its ancestors does not exist.
    pub(crate) fn source(
        &self,
        layer: LayerId,
        at: LogicalCluster,
        block: u16,
        limit: u16,
    ) -> (Source, u16) {
        self.walk(layer, at, block, limit, usize::MAX).expect("the tree of layers has an end")
    }

    /// As [`State::source`], and remembers the end of long walks: for requests.
    ///
    /// # Panics
    ///
    /// As [`State::source`].
    pub(crate) fn find(
        &mut self,
        layer: LayerId,
        at: LogicalCluster,
        block: u16,
        limit: u16,
    ) -> (Source, u16) {
        let Layer { parent, map } = self.layer(layer);
        let (visibility, run) = map.visibility(at, block, limit);
        let limit = block + run;
        let parent = match (visibility, *parent) {
            (Visibility::Data(cluster), _) => return (Source::Data(cluster), run),
            (Visibility::Zero, _) | (Visibility::Through, None) => return (Source::Zero, run),
            (Visibility::Through, Some(parent)) => parent,
        };
        if !self.views.covers(parent) {
            if let Some(found) = self.walk(parent, at, block, limit, WALK_MAX) {
                return found;
            }
            let mut next = Some(parent);
            while let Some(id) = next.filter(|&id| !self.views.covers(id)) {
                self.views.cover(id);
                next = self.layer(id).parent;
            }
        }
        if let Some(view) = self.views.get(parent, at) {
            return view.at(block, limit);
        }
        let view = self.view(parent, at);
        let found = view.at(block, limit);
        self.views.put(parent, at, view);
        found
    }

    /// What `layer` and its ancestors show of a logical cluster.
    fn view(&mut self, layer: LayerId, at: LogicalCluster) -> View {
        let blocks = self.blocks();
        let mut words = [Word::ZERO; BlockSet::CAPACITY as usize];
        let mut left = BlockSet::full(blocks);
        let mut next = Some(layer);
        let mut steps = 0;
        while let Some(id) = next.filter(|_| !left.is_empty()) {
            if (1..VIEWS_ASKED_MAX).contains(&steps)
                && let Some(view) = self.views.get(id, at)
            {
                view.fill(left, &mut words);
                break;
            }
            let Layer { parent, map } = self.layer(id);
            let fragment = map.get(at);
            if let Some(cluster) = fragment.cluster {
                for (first, count) in (fragment.valid & left).runs() {
                    let run = usize::from(first)..usize::from(first + count);
                    words[run].fill(Word::data(cluster));
                }
            }
            left = left - fragment.valid - fragment.opaque;
            next = *parent;
            steps += 1;
        }
        View::new(&words[..usize::from(blocks)])
    }

    /// [`State::source`], if it is known after asking `most` layers.
    fn walk(
        &self,
        layer: LayerId,
        at: LogicalCluster,
        block: u16,
        mut limit: u16,
        most: usize,
    ) -> Option<(Source, u16)> {
        let mut next = Some(layer);
        let mut asked = 0;
        while let Some(id) = next {
            if asked == most {
                return None;
            }
            asked += 1;
            let layer = self.layer(id);
            let (visibility, run) = layer.map.visibility(at, block, limit);
            limit = block + run;
            match visibility {
                Visibility::Data(cluster) => return Some((Source::Data(cluster), run)),
                Visibility::Zero => return Some((Source::Zero, run)),
                Visibility::Through => next = layer.parent,
            }
        }
        Some((Source::Zero, limit - block))
    }

    /// Whether an ancestor of `layer` has anything at `at` that could show through.
    pub(crate) fn shows_through(&self, layer: LayerId, at: LogicalCluster) -> bool {
        let mut next = self.layer(layer).parent;
        while let Some(id) = next {
            let layer = self.layer(id);
            if !layer.map.get(at).valid.is_empty() {
                return true;
            }
            next = layer.parent;
        }
        false
    }
}

#[cfg(test)]
mod tests;
