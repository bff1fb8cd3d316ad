//! What thick volumes may still ask for.
//!
//! A thick volume has a cluster set aside for each logical cluster that its tip does not hold. The
//! sum over all of them is asked with each new cluster of a thin one, so it is kept, not counted.

use std::collections::BTreeMap;

use crate::geometry::LayerId;

/// The clusters that are set aside.
#[derive(Default)]
pub(crate) struct Reservations {
    /// Tips of thick volumes, and the logical clusters of each volume.
    tips: BTreeMap<LayerId, u64>,
    clusters: u64,
}

impl Reservations {
    /// All clusters that are set aside.
    pub(crate) fn clusters(&self) -> u64 {
        self.clusters
    }

    /// A thick volume of so many logical clusters has a tip that holds `held` clusters.
    pub(super) fn begin(&mut self, tip: LayerId, logical_clusters: u64, held: usize) {
        self.tips.insert(tip, logical_clusters);
        self.clusters += logical_clusters.saturating_sub(held as u64);
    }

    /// The layer is no tip of a thick volume any more, if it was one.
    pub(super) fn end(&mut self, tip: LayerId, held: usize) {
        if let Some(logical_clusters) = self.tips.remove(&tip) {
            self.clusters -= logical_clusters.saturating_sub(held as u64);
        }
    }

    /// A layer that held `before` clusters holds `after`.
    pub(super) fn changed(&mut self, layer: LayerId, before: usize, after: usize) {
        if before != after
            && let Some(&logical_clusters) = self.tips.get(&layer)
        {
            self.clusters -= logical_clusters.saturating_sub(before as u64);
            self.clusters += logical_clusters.saturating_sub(after as u64);
        }
    }
}
