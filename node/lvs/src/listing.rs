//! Where data is, and where two devices differ: for backups and moves that copy no more than
//! they must.
//!
//! Both lists are paged, and each page looks at a bounded part of the volume. They are
//! exact at the moment of the call; of a snapshot they stay so. A volume that is written
//! meanwhile may change between two pages.

use crate::{
    admin::Refused,
    geometry::{BLOCK, LayerId, ObjectId},
    state::Source,
    store::Store,
};

/// Logical clusters that one page looks at.
const PAGE_CLUSTERS: u64 = 4096;

/// A run of blocks of 4096 bytes in a volume or snapshot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlockRange {
    /// The first block, counted from the start of the device.
    pub first: u64,
    /// How many blocks, never zero.
    pub blocks: u64,
}

/// A part of a list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Page {
    /// Ranges in ascending order, without overlap.
    pub ranges: Vec<BlockRange>,
    /// From which block the next page is to be asked for; none at the end.
    pub next: Option<u64>,
}

impl Store {
    /// The ranges of a volume or snapshot that hold data, from block `from` on, `most` of them
    /// at most. What is in no range reads as zero.
    ///
    /// # Errors
    ///
    /// When there is no such volume or snapshot.
    pub fn allocated_ranges(
        &self,
        object: ObjectId,
        from: u64,
        most: usize,
    ) -> Result<Page, Refused> {
        let (layer, blocks) = self.listed(object)?;
        Ok(self.page(from, blocks, most, |at, limit| {
            let (source, run) = self.source_at(layer, blocks, at, limit);
            (source != Source::Zero, run)
        }))
    }

    /// The ranges in which two volumes or snapshots may differ: blocks whose data does not lie
    /// in the same place. From block `from` on, `most` ranges at most. Beyond its end the
    /// smaller one counts as zeros.
    ///
    /// # Errors
    ///
    /// When one of them does not exist.
    pub fn different_ranges(
        &self,
        one: ObjectId,
        other: ObjectId,
        from: u64,
        most: usize,
    ) -> Result<Page, Refused> {
        let (one_layer, one_blocks) = self.listed(one)?;
        let (other_layer, other_blocks) = self.listed(other)?;
        Ok(self.page(from, one_blocks.max(other_blocks), most, |at, limit| {
            let (one, run) = self.source_at(one_layer, one_blocks, at, limit);
            let (other, run) = self.source_at(other_layer, other_blocks, at, run);
            (one != other, run)
        }))
    }

    /// The ranges of a volume or snapshot that are lost, from block `from` on, `most` of them at
    /// most: reading them is an error until they are written or zeroed.
    ///
    /// # Errors
    ///
    /// When there is no such volume or snapshot.
    pub fn lost_ranges(&self, object: ObjectId, from: u64, most: usize) -> Result<Page, Refused> {
        let (layer, blocks) = self.listed(object)?;
        Ok(self.page(from, blocks, most, |at, limit| {
            let (source, run) = self.source_at(layer, blocks, at, limit);
            let Source::Data(cluster) = source else { return (false, run) };
            let (_, first) = self.state.cluster_size.split(at);
            let lost = self.state.lost_of(cluster);
            let same = (first..).take_while(|&block| {
                u64::from(block - first) < run && lost.contains(block) == lost.contains(first)
            });
            (lost.contains(first), same.count() as u64)
        }))
    }

    fn listed(&self, object: ObjectId) -> Result<(LayerId, u64), Refused> {
        let device = self.devices.get(object).map_err(|_| Refused::NoVolume(object))?;
        Ok((device.layer, device.size.div_ceil(BLOCK)))
    }

    /// Where block `at` of a device with so many blocks is, and for how many blocks, `limit` at
    /// most, that holds.
    fn source_at(&self, layer: LayerId, blocks: u64, at: u64, limit: u64) -> (Source, u64) {
        if at >= blocks {
            return (Source::Zero, limit);
        }
        let (cluster, first) = self.state.cluster_size.split(at);
        let left = u64::from(self.state.blocks() - first).min(limit).min(blocks - at);
        let end = first + u16::try_from(left).expect("within a cluster");
        let (source, run) = self.state.source(layer, cluster, first, end);
        (source, u64::from(run))
    }

    /// Collects the runs for which `look` says yes.
    fn page(
        &self,
        from: u64,
        end: u64,
        most: usize,
        look: impl Fn(u64, u64) -> (bool, u64),
    ) -> Page {
        let per_cluster = u64::from(self.state.blocks());
        let stop = end.min(from.saturating_add(PAGE_CLUSTERS * per_cluster));
        let mut ranges: Vec<BlockRange> = Vec::new();
        let mut at = from;
        while at < stop {
            let (wanted, run) = look(at, stop - at);
            if wanted {
                let full = ranges.len() == most;
                match ranges.last_mut() {
                    Some(last) if last.first + last.blocks == at => last.blocks += run,
                    _ if full => return Page { ranges, next: Some(at) },
                    _ => ranges.push(BlockRange { first: at, blocks: run }),
                }
            }
            at += run;
        }
        Page { ranges, next: (at < end).then_some(at) }
    }
}
