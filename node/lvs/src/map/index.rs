//! The ordered index of a layer's map: an [`Entry`] of 32 bits for each logical
//! cluster, which it calls a key.
//!
//! [`super::LayerMap`] packs a fragment into an entry, puts it here and looks it up;
//! where the number in an entry is a slot, it goes on to the [`super::slab`]. The
//! index follows no slot and frees none.
//!
//! Invariants:
//! - a page is 256 keys; a leaf holds the keys from its page up to the next leaf's
//!   page, a dense leaf those of its own page only, so that no page is spread over
//!   two leaves;
//! - no leaf and no branch is empty between two calls;
//! - a sparse leaf holds no absent entry;
//! - pages, and the keys of a sparse leaf, are in ascending order.

use super::{bytes_of, reserve, trim};
use crate::geometry::ClusterNo;

/// A fragment in the index: the kind in the upper 3 bits, its cluster or slot
/// number in the lower 29. All zero is absent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Entry(u32);

/// An [`Entry`], unpacked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// No cluster, nothing valid, nothing opaque.
    Absent,
    /// All blocks valid, nothing opaque.
    Full(ClusterNo),
    /// No cluster, all blocks opaque.
    Zero,
    /// A cluster and nothing opaque: the slot in the parts.
    Part(u32),
    /// Whatever else: the slot in the mixed.
    Mixed(u32),
}

impl Entry {
    pub(super) const ABSENT: Self = Self(0);
    pub(super) const NUMBER_BITS: u32 = 29;

    pub(super) fn pack(kind: Kind) -> Self {
        let (tag, number) = match kind {
            Kind::Absent => (0, 0),
            Kind::Full(cluster) => (1, cluster.0),
            Kind::Zero => (2, 0),
            Kind::Part(slot) => (3, slot),
            Kind::Mixed(slot) => (4, slot),
        };
        assert!(number >> Self::NUMBER_BITS == 0, "{kind:?} does not fit an entry");
        Self(tag << Self::NUMBER_BITS | number)
    }

    #[inline]
    pub(super) fn unpack(self) -> Kind {
        let number = self.0 & ((1 << Self::NUMBER_BITS) - 1);
        match self.0 >> Self::NUMBER_BITS {
            0 => Kind::Absent,
            1 => Kind::Full(ClusterNo(number)),
            2 => Kind::Zero,
            3 => Kind::Part(number),
            4 => Kind::Mixed(number),
            tag => unreachable!("no entry is packed with tag {tag}"),
        }
    }
}

/// The entries by logical cluster: a tree of two levels of sorted arrays above the
/// leaves, whose last level is cut by pages.
#[derive(Default)]
pub(super) struct Index {
    /// In ascending order of page.
    pub(super) branches: Vec<Branch>,
}

/// Neighbouring leaves and the page where each begins, in ascending order.
#[derive(Default)]
pub(super) struct Branch {
    /// `pages[0]`, at hand for the search over the branches.
    pub(super) first: u32,
    pub(super) pages: Vec<u32>,
    pub(super) leaves: Vec<Leaf>,
}

pub(super) enum Leaf {
    /// The entries present from the leaf's page on, in ascending order of key.
    Sparse(Vec<(u32, Entry)>),
    /// All entries of the leaf's page, of which `live` are present.
    Dense { entries: Box<[Entry; PAGE_LEN]>, live: u16 },
}

const PAGE_BITS: u32 = 8;
/// The logical clusters of a page.
pub(super) const PAGE_LEN: usize = 1 << PAGE_BITS;
/// A sparse leaf with so many entries is split, or made dense if it has one page.
pub(super) const SPARSE_MAX: usize = 128;
/// A dense leaf with fewer entries is made sparse.
pub(super) const DENSE_MIN: u16 = 64;
/// A sparse leaf with fewer entries is joined with a sparse neighbour ..
const SPARSE_MIN: usize = 32;
/// .. if they have at most so many together.
const JOINED_MAX: usize = 96;
/// A branch with more leaves is split.
pub(super) const BRANCH_MAX: usize = 256;
/// A branch with fewer leaves is joined with a neighbour ..
const BRANCH_MIN: usize = 32;
/// .. if they have at most so many together.
const BRANCH_JOINED_MAX: usize = 192;

impl Index {
    pub(super) fn get(&self, key: u32) -> Entry {
        let page = page_of(key);
        let Some((branch, leaf)) = self.locate(page) else { return Entry::ABSENT };
        let branch = &self.branches[branch];
        match &branch.leaves[leaf] {
            Leaf::Sparse(entries) => match entries.binary_search_by_key(&key, |(key, _)| *key) {
                Ok(at) => entries[at].1,
                Err(_) => Entry::ABSENT,
            },
            Leaf::Dense { entries, .. } if branch.pages[leaf] == page => entries[place_of(key)],
            Leaf::Dense { .. } => Entry::ABSENT,
        }
    }

    pub(super) fn set(&mut self, key: u32, entry: Entry) {
        if entry == Entry::ABSENT {
            self.remove(key);
        } else {
            self.insert(key, entry);
        }
    }

    /// The entries present from `key` on, in ascending order of key.
    pub(super) fn entries(&self, key: u32) -> Entries<'_> {
        let Some((branch, leaf)) = self.locate(page_of(key)) else {
            return Entries { index: self, branch: 0, leaf: 0, at: 0 };
        };
        let found = &self.branches[branch];
        let at = match &found.leaves[leaf] {
            Leaf::Sparse(entries) => entries.partition_point(|(other, _)| *other < key),
            Leaf::Dense { .. } if found.pages[leaf] == page_of(key) => place_of(key),
            Leaf::Dense { .. } => PAGE_LEN,
        };
        Entries { index: self, branch, leaf, at }
    }

    fn insert(&mut self, key: u32, entry: Entry) {
        let (branch, leaf) = self.home(page_of(key));
        match &mut self.branches[branch].leaves[leaf] {
            Leaf::Dense { entries, live } => {
                let old = std::mem::replace(&mut entries[place_of(key)], entry);
                *live += u16::from(old == Entry::ABSENT);
                return;
            }
            Leaf::Sparse(entries) => match entries.binary_search_by_key(&key, |(key, _)| *key) {
                Ok(at) => {
                    entries[at].1 = entry;
                    return;
                }
                Err(at) => {
                    reserve(entries, 1);
                    entries.insert(at, (key, entry));
                    if entries.len() < SPARSE_MAX {
                        return;
                    }
                }
            },
        }
        self.branches[branch].relieve(leaf);
        self.split_branch_if_full(branch);
    }

    fn remove(&mut self, key: u32) {
        let page = page_of(key);
        let Some((branch_at, leaf_at)) = self.locate(page) else { return };
        let branch = &mut self.branches[branch_at];
        match &mut branch.leaves[leaf_at] {
            Leaf::Dense { .. } if branch.pages[leaf_at] != page => return,
            Leaf::Dense { entries, live } => {
                let old = std::mem::replace(&mut entries[place_of(key)], Entry::ABSENT);
                *live -= u16::from(old != Entry::ABSENT);
                if *live >= DENSE_MIN {
                    return;
                }
                let entries = present_of(page, entries, 0).collect();
                branch.leaves[leaf_at] = Leaf::Sparse(entries);
            }
            Leaf::Sparse(entries) => {
                let Ok(at) = entries.binary_search_by_key(&key, |(key, _)| *key) else { return };
                entries.remove(at);
                trim(entries);
                if entries.len() >= SPARSE_MIN {
                    return;
                }
            }
        }
        branch.join_leaf(leaf_at);
        self.join_branch_if_small(branch_at);
    }

    /// The last leaf that begins at or before `page`.
    #[inline]
    fn locate(&self, page: u32) -> Option<(usize, usize)> {
        let at = self.branches.partition_point(|branch| branch.first <= page).checked_sub(1)?;
        let leaf = self.branches[at].pages.partition_point(|other| *other <= page);
        Some((at, leaf - 1))
    }

    /// The leaf where the keys of `page` belong, made if there is none.
    fn home(&mut self, page: u32) -> (usize, usize) {
        let Some((branch, leaf)) = self.locate(page) else {
            if self.branches.is_empty() {
                reserve(&mut self.branches, 1);
                self.branches.push(Branch::default());
            }
            self.branches[0].open(0, page);
            return (0, 0);
        };
        let found = &mut self.branches[branch];
        if matches!(found.leaves[leaf], Leaf::Sparse(_)) || found.pages[leaf] == page {
            return (branch, leaf);
        }
        found.open(leaf + 1, page);
        if self.split_branch_if_full(branch) {
            return self.locate(page).expect("the leaf was just made");
        }
        (branch, leaf + 1)
    }

    fn split_branch_if_full(&mut self, at: usize) -> bool {
        let is_last = at + 1 == self.branches.len();
        let branch = &mut self.branches[at];
        let len = branch.leaves.len();
        if len <= BRANCH_MAX {
            return false;
        }
        // A volume that is filled from its start leaves full branches behind.
        let right = branch.split_off(if is_last { len - 1 } else { len / 2 });
        reserve(&mut self.branches, 1);
        self.branches.insert(at + 1, right);
        true
    }

    fn join_branch_if_small(&mut self, at: usize) {
        let len = self.branches[at].leaves.len();
        if len >= BRANCH_MIN {
            return;
        }
        if len == 0 {
            self.branches.remove(at);
        } else {
            let len_of = |at: usize| self.branches.get(at).map(|branch| branch.leaves.len());
            let fits = |other: Option<usize>| other.is_some_and(|n| n + len <= BRANCH_JOINED_MAX);
            let left = if fits(len_of(at + 1)) {
                at
            } else if at > 0 && fits(len_of(at - 1)) {
                at - 1
            } else {
                return;
            };
            let right = self.branches.remove(left + 1);
            self.branches[left].append(right);
        }
        trim(&mut self.branches);
    }

    pub(super) fn resident_bytes(&self) -> usize {
        let branches = self.branches.iter().map(Branch::resident_bytes).sum::<usize>();
        branches + bytes_of(&self.branches)
    }
}

impl Branch {
    /// Makes room for `page` before leaf `at`, where no leaf holds it: lets leaf `at`
    /// begin there if it is sparse, or else puts an empty sparse leaf before it.
    fn open(&mut self, at: usize, page: u32) {
        if let Some(Leaf::Sparse(_)) = self.leaves.get(at) {
            self.pages[at] = page;
            self.first = self.pages[0];
        } else {
            self.insert(at, page, Leaf::Sparse(Vec::new()));
        }
    }

    /// Makes the sparse leaf `at` dense if all of its keys are in one page, and else
    /// splits it between two pages, as near to its middle as can be.
    fn relieve(&mut self, at: usize) {
        let Leaf::Sparse(entries) = &mut self.leaves[at] else { return };
        let page_at = |at: usize| page_of(entries[at].0);
        let (first, middle, last) =
            (page_at(0), page_at(entries.len() / 2), page_at(entries.len() - 1));
        if first == last {
            let mut dense = Box::new([Entry::ABSENT; PAGE_LEN]);
            entries.iter().for_each(|(key, entry)| dense[place_of(*key)] = *entry);
            let live = u16::try_from(entries.len()).expect("a page has 256 keys");
            self.leaves[at] = Leaf::Dense { entries: dense, live };
            self.pages[at] = first;
            self.first = self.pages[0];
            return;
        }
        let begin = entries.partition_point(|(key, _)| page_of(*key) < middle);
        let end = entries.partition_point(|(key, _)| page_of(*key) <= middle);
        let half = entries.len() / 2;
        let cut = if begin == 0 || (end < entries.len() && end - half < half - begin) {
            end
        } else {
            begin
        };
        let right = entries.split_off(cut);
        trim(entries);
        self.insert(at + 1, page_of(right[0].0), Leaf::Sparse(right));
    }

    /// Drops the sparse leaf `at` if it is empty, and joins it with a neighbour if
    /// both are sparse and few entries remain.
    fn join_leaf(&mut self, at: usize) {
        if self.sparse_len(at) == Some(0) {
            self.remove(at);
        } else if !self.join_with_next(at) && at > 0 {
            self.join_with_next(at - 1);
        }
    }

    fn join_with_next(&mut self, at: usize) -> bool {
        let (Some(left), Some(right)) = (self.sparse_len(at), self.sparse_len(at + 1)) else {
            return false;
        };
        if left.min(right) >= SPARSE_MIN || left + right > JOINED_MAX {
            return false;
        }
        let moved = self.remove(at + 1);
        if let (Leaf::Sparse(entries), Leaf::Sparse(moved)) = (&mut self.leaves[at], moved) {
            reserve(entries, moved.len());
            entries.extend(moved);
        }
        true
    }

    fn sparse_len(&self, at: usize) -> Option<usize> {
        match self.leaves.get(at)? {
            Leaf::Sparse(entries) => Some(entries.len()),
            Leaf::Dense { .. } => None,
        }
    }

    fn insert(&mut self, at: usize, page: u32, leaf: Leaf) {
        reserve(&mut self.pages, 1);
        reserve(&mut self.leaves, 1);
        self.pages.insert(at, page);
        self.leaves.insert(at, leaf);
        self.first = self.pages[0];
    }

    fn remove(&mut self, at: usize) -> Leaf {
        self.pages.remove(at);
        let leaf = self.leaves.remove(at);
        trim(&mut self.pages);
        trim(&mut self.leaves);
        self.first = self.pages.first().copied().unwrap_or(0);
        leaf
    }

    fn split_off(&mut self, at: usize) -> Self {
        let (pages, leaves) = (self.pages.split_off(at), self.leaves.split_off(at));
        trim(&mut self.pages);
        trim(&mut self.leaves);
        Self { first: pages[0], pages, leaves }
    }

    fn append(&mut self, right: Self) {
        reserve(&mut self.pages, right.pages.len());
        reserve(&mut self.leaves, right.leaves.len());
        self.pages.extend(right.pages);
        self.leaves.extend(right.leaves);
    }

    fn resident_bytes(&self) -> usize {
        let leaves = self.leaves.iter().map(|leaf| match leaf {
            Leaf::Sparse(entries) => bytes_of(entries),
            Leaf::Dense { entries, .. } => size_of_val(&**entries),
        });
        leaves.sum::<usize>() + bytes_of(&self.pages) + bytes_of(&self.leaves)
    }
}

/// An iterator over the entries present, from a place of a leaf on.
pub(super) struct Entries<'a> {
    index: &'a Index,
    branch: usize,
    leaf: usize,
    at: usize,
}

impl Iterator for Entries<'_> {
    type Item = (u32, Entry);

    fn next(&mut self) -> Option<(u32, Entry)> {
        loop {
            let branch = self.index.branches.get(self.branch)?;
            let found = match branch.leaves.get(self.leaf) {
                None => {
                    (self.branch, self.leaf, self.at) = (self.branch + 1, 0, 0);
                    continue;
                }
                Some(Leaf::Sparse(entries)) => {
                    let found = entries.get(self.at).copied();
                    self.at += 1;
                    found
                }
                Some(Leaf::Dense { entries, .. }) => {
                    let mut present = present_of(branch.pages[self.leaf], entries, self.at);
                    present.next().inspect(|(key, _)| self.at = place_of(*key) + 1)
                }
            };
            if found.is_some() {
                return found;
            }
            (self.leaf, self.at) = (self.leaf + 1, 0);
        }
    }
}

/// The entries present in a dense leaf, from place `from` on.
pub(super) fn present_of(
    page: u32,
    entries: &[Entry; PAGE_LEN],
    from: usize,
) -> impl Iterator<Item = (u32, Entry)> {
    let first = page << PAGE_BITS;
    // Not an open range: the last page ends with the largest key.
    let keys = (first..=first | ((1 << PAGE_BITS) - 1)).skip(from);
    keys.zip(entries[from..].iter().copied()).filter(|(_, entry)| *entry != Entry::ABSENT)
}

#[inline]
pub(super) fn page_of(key: u32) -> u32 {
    key >> PAGE_BITS
}

#[inline]
fn place_of(key: u32) -> usize {
    key as usize % PAGE_LEN
}
