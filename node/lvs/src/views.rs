//! What a layer shows of a logical cluster, remembered: for reads through many snapshots.
//!
//! A read that finds nothing in its own layer asks the parent, and so on. With a thousand
//! snapshots that is a long walk for each block. A *view* is the end of all these walks for one
//! logical cluster as seen from one layer: for each block, the cluster that holds it or zero.
//! [`crate::state::State::find`] makes views where walks are long and asks them afterwards.
//!
//! - A view is what the walk finds, always. A layer that stands in any view, or above one that
//!   does, is *covered*; every change of a covered layer makes the views of that logical cluster
//!   outdated, in all layers. Tips, which change all the time, are nobody's ancestors and are not
//!   covered.
//! - All views together take at most so many bytes as were given; those that were not asked since
//!   the last round go first.

use rustc_hash::{FxHashMap, FxHashSet};
use slab::Slab;

use crate::{
    blocks::BlockSet,
    geometry::{ClusterNo, LayerId, LogicalCluster},
    state::Source,
};

/// The most memory that the views of a pool take, in bytes.
pub const VIEW_BYTES_MAX: usize = 32 << 20;

/// Logical clusters with the same remainder by this become outdated together.
const VERSIONS: usize = 1 << 16;
/// What a view takes beside its blocks: its entry, and its place in the index.
const ENTRY_BYTES: usize = size_of::<Entry>() + 4 * size_of::<(LayerId, LogicalCluster, usize)>();

/// A [`Source`] in 32 bits: cluster numbers have 29.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Word(u32);

impl Word {
    pub(crate) const ZERO: Self = Self(u32::MAX);

    pub(crate) fn data(cluster: ClusterNo) -> Self {
        Self(cluster.0)
    }

    fn source(self) -> Source {
        if self == Self::ZERO { Source::Zero } else { Source::Data(ClusterNo(self.0)) }
    }
}

/// Blocks up to `end`, exclusive, that have the same source.
#[derive(Debug)]
pub(crate) struct Run {
    end: u16,
    source: Word,
}

/// Where each block of a logical cluster is, in the form that is smallest.
#[derive(Debug)]
pub(crate) enum View {
    All(Word),
    Runs(Box<[Run]>),
    Blocks(Box<[Word]>),
}

impl View {
    /// The view in which block `i` is where `blocks[i]` says.
    pub(crate) fn new(blocks: &[Word]) -> Self {
        let mut runs: Vec<Run> = Vec::new();
        for (end, &source) in (1..).zip(blocks) {
            match runs.last_mut() {
                Some(run) if run.source == source => run.end = end,
                _ => runs.push(Run { end, source }),
            }
        }
        match runs.as_slice() {
            [run] => Self::All(run.source),
            many if size_of_val(many) < size_of_val(blocks) => Self::Runs(runs.into()),
            _ => Self::Blocks(blocks.into()),
        }
    }

    /// Where a block is, and for how many blocks before `limit` that holds.
    pub(crate) fn at(&self, block: u16, limit: u16) -> (Source, u16) {
        match self {
            Self::All(source) => (source.source(), limit - block),
            Self::Runs(runs) => {
                let run = &runs[runs.partition_point(|run| run.end <= block)];
                (run.source.source(), run.end.min(limit) - block)
            }
            Self::Blocks(blocks) => {
                let blocks = &blocks[usize::from(block)..usize::from(limit)];
                let run = blocks.iter().take_while(|&&other| other == blocks[0]).count();
                (blocks[0].source(), u16::try_from(run).expect("within a cluster"))
            }
        }
    }

    /// Copies the blocks of a set to `blocks`.
    pub(crate) fn fill(&self, wanted: BlockSet, blocks: &mut [Word]) {
        for (first, count) in wanted.runs() {
            let mut block = first;
            while block < first + count {
                let (source, run) = self.at(block, first + count);
                let word = match source {
                    Source::Data(cluster) => Word::data(cluster),
                    Source::Zero => Word::ZERO,
                };
                blocks[usize::from(block)..usize::from(block + run)].fill(word);
                block += run;
            }
        }
    }

    fn bytes(&self) -> usize {
        ENTRY_BYTES
            + match self {
                Self::All(_) => 0,
                Self::Runs(runs) => size_of_val(&**runs),
                Self::Blocks(blocks) => size_of_val(&**blocks),
            }
    }
}

#[derive(Debug)]
struct Entry {
    layer: LayerId,
    at: LogicalCluster,
    version: u64,
    /// It was asked since the last round.
    asked: bool,
    view: View,
}

/// The views of a pool.
#[derive(Debug)]
pub(crate) struct Views {
    entries: Slab<Entry>,
    index: FxHashMap<(LayerId, LogicalCluster), usize>,
    covered: FxHashSet<LayerId>,
    /// What a view must have to be valid, by its logical cluster; none while nothing is covered.
    versions: Box<[u64]>,
    /// Where the next round goes on.
    hand: usize,
    bytes: usize,
    most: usize,
}

impl Views {
    /// No views yet, and never more than `most` bytes of them.
    pub(crate) fn new(most: usize) -> Self {
        Self {
            entries: Slab::new(),
            index: FxHashMap::default(),
            covered: FxHashSet::default(),
            versions: Box::default(),
            hand: 0,
            bytes: 0,
            most,
        }
    }

    /// What the views take, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether changes of a layer are watched.
    pub(crate) fn covers(&self, layer: LayerId) -> bool {
        self.covered.contains(&layer)
    }

    /// Has changes of a layer watched from now on.
    pub(crate) fn cover(&mut self, layer: LayerId) {
        if self.versions.is_empty() {
            self.versions = vec![0; VERSIONS].into();
        }
        self.covered.insert(layer);
    }

    /// The layer holds something else at `at` than before.
    pub(crate) fn changed(&mut self, layer: LayerId, at: LogicalCluster) {
        if self.covers(layer) {
            self.versions[at.0 as usize % VERSIONS] += 1;
        }
    }

    /// The layer is gone, and holds nothing.
    pub(crate) fn dropped(&mut self, layer: LayerId) {
        self.covered.remove(&layer);
    }

    /// The tree of layers has changed so that no view may be right any more.
    pub(crate) fn clear(&mut self) {
        *self = Self::new(self.most);
    }

    /// The view from a layer, if there is one.
    pub(crate) fn get(&mut self, layer: LayerId, at: LogicalCluster) -> Option<&View> {
        let &key = self.index.get(&(layer, at))?;
        let entry = &mut self.entries[key];
        if entry.version != self.versions[at.0 as usize % VERSIONS] {
            self.remove(key);
            return None;
        }
        entry.asked = true;
        Some(&self.entries[key].view)
    }

    /// Keeps the view from a covered layer.
    pub(crate) fn put(&mut self, layer: LayerId, at: LogicalCluster, view: View) {
        debug_assert!(self.covers(layer), "a view of what is not watched");
        let bytes = view.bytes();
        if bytes > self.most {
            return;
        }
        while self.bytes + bytes > self.most {
            self.evict();
        }
        let version = self.versions[at.0 as usize % VERSIONS];
        self.bytes += bytes;
        let key = self.entries.insert(Entry { layer, at, version, asked: false, view });
        if let Some(old) = self.index.insert((layer, at), key) {
            self.bytes -= self.entries.remove(old).view.bytes();
        }
    }

    /// Takes the next step of the round: an entry that was asked is spared once.
    fn evict(&mut self) {
        let key = self.hand;
        self.hand = (self.hand + 1) % self.entries.capacity().max(1);
        match self.entries.get_mut(key) {
            Some(entry) if entry.asked => entry.asked = false,
            Some(_) => self.remove(key),
            None => {}
        }
    }

    fn remove(&mut self, key: usize) {
        let entry = self.entries.remove(key);
        self.index.remove(&(entry.layer, entry.at));
        self.bytes -= entry.view.bytes();
    }
}

#[cfg(test)]
mod tests;
