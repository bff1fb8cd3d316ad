//! Whether what the state keeps beside itself is what follows from it: recomputed, and compared.
//!
//! Free space, links between layers, reservations and sizes are kept up to date with each operation, so
//! that no question costs a look at everything. Here everything is looked at. Nobody does so on the I/O
//! path: it takes time in proportion to the fragments of a pool.
//!
//! Before it: [`crate::check`] with a pool that it has read, and tests with one that is open.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    alloc::Allocator,
    directory::Directory,
    format::op::Op,
    geometry::{ClusterNo, LayerId, LogicalCluster},
    map::Fragment,
    state::{LAYER_BYTES, State},
    store::Store,
    tree::Links,
};

/// Says each difference.
pub(crate) fn audit(state: &State, alloc: &Allocator) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut clusters: BTreeMap<ClusterNo, (LayerId, LogicalCluster)> = BTreeMap::new();
    for (&id, layer) in &state.layers {
        let (mut fragments, mut held) = (0, 0);
        for (at, fragment) in layer.map.iter() {
            fragments += 1;
            held += usize::from(fragment.cluster.is_some());
            audit_fragment(state, (id, at), &fragment, &mut clusters, &mut wrong);
        }
        let counted = (layer.map.len(), layer.map.allocated());
        if counted != (fragments, held) {
            let (one, other) = counted;
            wrong.push(format!(
                "layer {} counts {one} fragments with {other} clusters, and has {fragments} with {held}",
                id.0
            ));
        }
    }
    let used = alloc.taken();
    if used != clusters.len() as u64 {
        wrong.push(format!("{used} clusters are taken, and fragments hold {}", clusters.len()));
    }
    audit_links(state, &mut wrong);
    audit_objects(state, &mut wrong);
    wrong
}

fn audit_fragment(
    state: &State,
    (layer, at): (LayerId, LogicalCluster),
    fragment: &Fragment,
    clusters: &mut BTreeMap<ClusterNo, (LayerId, LogicalCluster)>,
    wrong: &mut Vec<String>,
) {
    let mut say = |what: String| {
        wrong.push(format!("layer {}, logical cluster {}: {what}", layer.0, at.0));
    };
    if fragment.is_absent() {
        say("is kept and says nothing".to_owned());
    }
    let Some(cluster) = fragment.cluster else {
        if !fragment.valid.is_empty() {
            say("has valid blocks and no cluster".to_owned());
        }
        return;
    };
    if fragment.valid.is_empty() {
        say(format!("has cluster {} and no valid block", cluster.0));
    }
    if let Some((other, place)) = clusters.insert(cluster, (layer, at)) {
        let (number, other, place) = (cluster.0, other.0, place.0);
        say(format!("has cluster {number}, which layer {other} has at {place}, too"));
    }
    if state.member_of(cluster).is_none() {
        say(format!("has cluster {}, which lies on no member", cluster.0));
    }
    for (first, count) in state.lost_of(cluster).runs() {
        if let Some(block) = (first..first + count).find(|&block| !fragment.valid.contains(block)) {
            say(format!("has block {block} lost, which is not valid"));
        }
    }
}

/// Who leads to each layer.
fn audit_links(state: &State, wrong: &mut Vec<String>) {
    let mut links: BTreeMap<LayerId, Links> = BTreeMap::new();
    for layer in state.layers.values() {
        if let Some(parent) = layer.parent {
            links.entry(parent).or_default().children += 1;
        }
    }
    let tips = state.volumes.values().filter_map(|volume| volume.tip);
    let snapshots = state.snapshots.values().map(|snapshot| snapshot.layer);
    for layer in tips.chain(snapshots) {
        links.entry(layer).or_default().names += 1;
    }
    for &layer in state.layers.keys() {
        let (kept, counted) = (state.tree.links(layer), links.get(&layer).copied());
        let counted = counted.unwrap_or_default();
        if kept != counted {
            wrong.push(format!(
                "layer {} is led to by {kept:?}, and counted are {counted:?}",
                layer.0
            ));
        }
    }
    let nameless: BTreeSet<LayerId> = state.tree.nameless().collect();
    let counted = state.layers.keys().copied();
    let counted: BTreeSet<LayerId> =
        counted.filter(|layer| links.get(layer).is_none_or(|links| links.names == 0)).collect();
    if nameless != counted {
        wrong.push(format!("nobody names layers {counted:?}, and {nameless:?} are kept as such"));
    }
}

/// What thick volumes may still ask for, and what objects take in a checkpoint.
fn audit_objects(state: &State, wrong: &mut Vec<String>) {
    let thick = state.volumes.values().filter(|volume| volume.flags.thick);
    let reserved: u64 = thick
        .filter_map(|volume| Some((volume, state.layers.get(&volume.tip?)?)))
        .map(|(volume, layer)| {
            let clusters = state.cluster_size.clusters_for(volume.size.0);
            clusters.saturating_sub(layer.map.allocated() as u64)
        })
        .sum();
    if reserved != state.reservations.clusters() {
        let kept = state.reservations.clusters();
        wrong.push(format!("{kept} clusters are reserved, and thick volumes need {reserved}"));
    }
    let length = |op: Op| (op.encoded_len(state.blocks()) + LAYER_BYTES) as u64;
    let volumes = state.volumes.values().map(|one| length(Op::PutVolume(Box::new(one.clone()))));
    let snapshots =
        state.snapshots.values().map(|one| length(Op::PutSnapshot(Box::new(one.clone()))));
    let bytes: u64 = volumes.chain(snapshots).sum();
    if bytes != state.object_bytes {
        wrong.push(format!("objects take {bytes} bytes, and {} are counted", state.object_bytes));
    }
}

impl Store {
    /// Recomputes what is kept for quick answers, and says each difference: free space, links between
    /// layers, reservations, sizes. For tests, while nothing is under way. Takes time in proportion to
    /// the fragments of the pool.
    pub fn audit(&self) -> Vec<String> {
        let mut wrong = audit(&self.state, &self.alloc);
        let fragments: u64 = self.state.layers.values().map(|layer| layer.map.len() as u64).sum();
        if self.directory != Directory::of(&self.state) {
            wrong.push("names and UUIDs are not those of the volumes and snapshots".to_owned());
        }
        if fragments != self.fragments {
            wrong.push(format!("{fragments} fragments are there, and {} counted", self.fragments));
        }
        wrong
    }
}
