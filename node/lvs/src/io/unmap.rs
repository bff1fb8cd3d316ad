//! Unmapping: blocks read as zero, and clusters without data are given back.

use fathom_block::Error;

use super::Stage;
use crate::{
    blocks::BlockSet,
    format::op::{Op, UNMAP_CLUSTERS_MAX},
    geometry::{BLOCK, ClusterNo, LayerId, LogicalCluster},
    map::Fragment,
    store::{Store, TaskKey},
};

impl Store {
    /// Unmaps the next clusters of the request; ends in another stage when none are left.
    pub(super) fn unmap_step(&mut self, key: TaskKey) -> Option<Stage> {
        let (begin, stop) = self.byte_range(key);
        let task = self.io_task(key);
        let layer = task.layer.expect("a started request has a layer");
        let first = task.unmapped.max(begin.div_ceil(BLOCK));
        let end = stop / BLOCK;
        if first >= end || self.has_failed() {
            // Blocks that read as zero already may do so by an entry that is not complete yet: that
            // of a rollback, say. What is acknowledged here relies on it.
            let lsn = self.log.hurry_all();
            self.wait_for_entry(key, lsn);
            return Some(Stage::Sync);
        }
        if !self.log_has_reserve() {
            self.stall(key);
            return None;
        }
        if !self.metadata_has_reserve() {
            self.io_task(key).fail(Error::CapacityExceeded);
            return Some(Stage::Finish);
        }
        // Each cluster may need an operation of its own.
        let clusters = UNMAP_CLUSTERS_MAX.min(self.log.payload_max() as u64 / 32);
        let step = clusters * u64::from(self.state.blocks());
        let until = end.min((first / step + 1) * step);
        self.unmap(key, layer, first, until);
        self.io_task(key).unmapped = until;
        if until < end {
            // Others take their turn between two steps.
            self.later(key);
            return None;
        }
        Some(Stage::Unmap)
    }

    /// Makes blocks `first..end` of a layer read as zero.
    fn unmap(&mut self, key: TaskKey, layer: LayerId, first: u64, end: u64) {
        struct Run {
            first: u64,
            end: u64,
            opaque: bool,
            freed: Vec<ClusterNo>,
        }
        let per_cluster = u64::from(self.state.blocks());
        let mut run: Option<Run> = None;
        let mut runs = Vec::new();
        for (at, block, count) in self.pieces(first, end) {
            let opaque = self.state.shows_through(layer, at);
            let before = self.state.fragment(layer, at);
            if before.cluster.is_none() && !opaque {
                runs.extend(run.take());
                continue;
            }
            let (before, freed) = self
                .state
                .unmap_blocks(layer, at, block, count, opaque)
                .expect("the layer is written to");
            self.unmapped(layer, at, before, freed);
            let begins = u64::from(at.0) * per_cluster + u64::from(block);
            let ends = begins + u64::from(count);
            match &mut run {
                Some(run) if run.opaque == opaque && run.end == begins => {
                    run.end = ends;
                    run.freed.extend(freed);
                }
                _ => {
                    runs.extend(run.take());
                    let freed = freed.into_iter().collect();
                    run = Some(Run { first: begins, end: ends, opaque, freed });
                }
            }
        }
        runs.extend(run);
        for run in runs {
            let Run { first, end, opaque, freed } = run;
            let op = Op::Unmap { layer, opaque, first_block: first, blocks: end - first };
            let lsn = self.append(key, &[op]);
            self.give_back(freed, lsn);
        }
    }

    /// Blocks of a fragment have been unmapped. They stay unsettled while the cluster stays: a
    /// power cut may bring their Maps back, so a new content needs a proof before it is written.
    pub(super) fn unmapped(
        &mut self,
        layer: LayerId,
        at: LogicalCluster,
        before: Fragment,
        freed: Option<ClusterNo>,
    ) {
        self.count_fragment(before.is_absent(), self.state.fragment(layer, at).is_absent());
        let gone = before.valid - self.state.fragment(layer, at).valid;
        self.settlement.forget_proofs((layer, at), gone);
        if freed.is_some() {
            self.settlement.remove((layer, at), BlockSet::full(self.state.blocks()));
        }
    }
}
