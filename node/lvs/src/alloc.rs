//! Which clusters are free, and when one that was given back may be used again.
//!
//! A cluster that is given back waits in quarantine until the log entry that gave it
//! back is on stable media (else a power cut could bring the old owner back to a
//! cluster that holds another volume's data) and until every read that began before
//! has ended (else that read would see the new owner's data). Rule 5 of
//! `docs/formats/lvs.md`.

use std::collections::{BTreeMap, VecDeque};

use crate::geometry::{ClusterNo, Lsn, MemberIndex, Segment};

/// The free space of one segment.
struct Space {
    member: MemberIndex,
    segment: Segment,
    /// One bit per cluster, set when it is in use or in quarantine.
    used: Vec<u64>,
    free: u32,
    /// Where the next search begins, in words.
    cursor: usize,
    /// The member is there; only then its clusters can be taken.
    present: bool,
}

impl Space {
    fn take(&mut self) -> Option<ClusterNo> {
        if self.free == 0 || !self.present {
            return None;
        }
        let words = self.used.len();
        for step in 0..words {
            let at = (self.cursor + step) % words;
            let bit = self.used[at].trailing_ones();
            if bit < u64::BITS {
                self.used[at] |= 1 << bit;
                self.free -= 1;
                self.cursor = at;
                let index = u32::try_from(at).expect("segments are bounded") * u64::BITS + bit;
                return Some(ClusterNo(self.segment.first.0 + index));
            }
        }
        unreachable!("a segment that counts free clusters has one");
    }
}

struct Quarantined {
    cluster: ClusterNo,
    freed_by: Lsn,
    epoch: u64,
}

/// The clusters of a pool.
pub(crate) struct Allocator {
    spaces: Vec<Space>,
    quarantine: VecDeque<Quarantined>,
    /// Members on which clusters are discarded before they are free, a bit per index.
    discarding: u32,
    /// Clusters that may be used again and are discarded first.
    to_discard: VecDeque<ClusterNo>,
    /// Runs of clusters that are being discarded, and how long they are.
    discards: BTreeMap<ClusterNo, u32>,
    free: u64,
    /// Clusters in quarantine, to be discarded or being discarded, on members that are there.
    returning: u64,
}

fn is_present(spaces: &[Space], cluster: ClusterNo) -> bool {
    spaces.iter().any(|space| space.present && space.segment.contains(cluster))
}

impl Allocator {
    /// An allocator without space.
    pub(crate) fn new() -> Self {
        Self {
            spaces: Vec::new(),
            quarantine: VecDeque::new(),
            discarding: 0,
            to_discard: VecDeque::new(),
            discards: BTreeMap::new(),
            free: 0,
            returning: 0,
        }
    }

    /// Adds the clusters of `segment`, all free. They can be taken when the member is `present`.
    pub(crate) fn add(&mut self, member: MemberIndex, segment: Segment, present: bool) {
        let words = (segment.clusters as usize).div_ceil(64);
        let mut used = vec![0u64; words];
        if !segment.clusters.is_multiple_of(64) {
            used[words - 1] = u64::MAX << (segment.clusters % 64);
        }
        if present {
            self.free += u64::from(segment.clusters);
        }
        let free = segment.clusters;
        self.spaces.push(Space { member, segment, used, free, cursor: 0, present });
    }

    /// The member was given up: its clusters can no longer be taken.
    pub(crate) fn give_up(&mut self, member: MemberIndex) {
        self.set_discarding(member, false);
        for space in self.spaces.iter_mut().filter(|space| space.member == member) {
            if core::mem::replace(&mut space.present, false) {
                self.free -= u64::from(space.free);
            }
        }
        let returning = self.returning_clusters();
        self.returning =
            returning.filter(|&cluster| is_present(&self.spaces, cluster)).count() as u64;
    }

    /// Marks a cluster as used while the pool is opened. Returns `false` when it lies in no
    /// segment or is used already: two owners, or damage.
    pub(crate) fn claim(&mut self, cluster: ClusterNo) -> bool {
        let Some(space) = self.spaces.iter_mut().find(|space| space.segment.contains(cluster))
        else {
            return false;
        };
        let index = cluster.0 - space.segment.first.0;
        let (word, bit) = ((index / 64) as usize, 1u64 << (index % 64));
        let fresh = space.used[word] & bit == 0;
        if fresh {
            space.used[word] |= bit;
            space.free -= 1;
            self.free -= u64::from(space.present);
        }
        fresh
    }

    /// Takes a free cluster on one of `members` (a bit per index), the first that has one.
    pub(crate) fn take(&mut self, members: u32) -> Option<ClusterNo> {
        let cluster = self
            .spaces
            .iter_mut()
            .filter(|space| members & (1 << space.member.0) != 0)
            .find_map(Space::take)?;
        self.free -= 1;
        Some(cluster)
    }

    /// Gives back a cluster that no entry in the log has ever named.
    pub(crate) fn put_back(&mut self, cluster: ClusterNo) {
        let space = self
            .spaces
            .iter_mut()
            .find(|space| space.segment.contains(cluster))
            .expect("an allocated cluster lies in a segment");
        let index = cluster.0 - space.segment.first.0;
        let (word, bit) = ((index / 64) as usize, 1u64 << (index % 64));
        assert!(space.used[word] & bit != 0, "cluster {} was freed twice", cluster.0);
        space.used[word] &= !bit;
        space.free += 1;
        self.free += u64::from(space.present);
    }

    /// Puts a cluster in quarantine: entry `freed_by` gave it back, reads of epochs up to
    /// `epoch` may still be under way.
    pub(crate) fn quarantine(&mut self, cluster: ClusterNo, freed_by: Lsn, epoch: u64) {
        self.returning += u64::from(is_present(&self.spaces, cluster));
        self.quarantine.push_back(Quarantined { cluster, freed_by, epoch });
    }

    /// Frees what may be used again: freed by an entry up to `durable`, and no read of its
    /// epoch or an older one is under way when `oldest_read` is the oldest. Returns how many.
    pub(crate) fn release_quarantine(&mut self, durable: Lsn, oldest_read: u64) -> usize {
        let mut released = 0;
        while let Some(head) = self.quarantine.front() {
            if head.freed_by > durable || head.epoch >= oldest_read {
                break;
            }
            let cluster = head.cluster;
            self.quarantine.pop_front();
            if self.is_discarded(cluster) {
                self.to_discard.push_back(cluster);
            } else {
                self.end_return(cluster);
                released += 1;
            }
        }
        released
    }

    /// Clusters that have been given back and are not free yet.
    fn returning_clusters(&self) -> impl Iterator<Item = ClusterNo> + '_ {
        let quarantined = self.quarantine.iter().map(|waiting| waiting.cluster);
        let runs = self.discards.iter();
        let discards = runs.flat_map(|(first, count)| (first.0..first.0 + count).map(ClusterNo));
        quarantined.chain(self.to_discard.iter().copied()).chain(discards)
    }

    /// A cluster that has been given back is free.
    fn end_return(&mut self, cluster: ClusterNo) {
        self.returning -= u64::from(is_present(&self.spaces, cluster));
        self.put_back(cluster);
    }

    // Discarding.

    /// Whether clusters of a member are discarded before they are free. Where they are not any more,
    /// those that wait for it are free.
    pub(crate) fn set_discarding(&mut self, member: MemberIndex, discarding: bool) {
        if discarding {
            self.discarding |= 1 << member.0;
        } else {
            self.discarding &= !(1 << member.0);
            let waiting = core::mem::take(&mut self.to_discard);
            for cluster in waiting {
                if self.is_discarded(cluster) {
                    self.to_discard.push_back(cluster);
                } else {
                    self.end_return(cluster);
                }
            }
        }
    }

    fn is_discarded(&self, cluster: ClusterNo) -> bool {
        let space = self.spaces.iter().find(|space| space.segment.contains(cluster));
        space.is_some_and(|space| space.present && self.discarding & (1 << space.member.0) != 0)
    }

    /// Takes the next run of clusters to be discarded, `most` at most, which lie one behind the other on
    /// a member. They are not free before [`Allocator::discarded`].
    pub(crate) fn next_discard(&mut self, most: u32) -> Option<(ClusterNo, u32)> {
        let first = self.to_discard.pop_front()?;
        let space = self.spaces.iter().find(|space| space.segment.contains(first))?;
        let mut count = 1;
        while count < most
            && self.to_discard.front() == Some(&ClusterNo(first.0 + count))
            && space.segment.contains(ClusterNo(first.0 + count))
        {
            self.to_discard.pop_front();
            count += 1;
        }
        self.discards.insert(first, count);
        Some((first, count))
    }

    /// How many runs are being discarded.
    pub(crate) fn discards_under_way(&self) -> usize {
        self.discards.len()
    }

    /// Discarding the run that begins with `first` has ended: its clusters are free.
    pub(crate) fn discarded(&mut self, first: ClusterNo) {
        let count = self.discards.remove(&first).expect("it was being discarded");
        (first.0..first.0 + count).for_each(|cluster| self.end_return(ClusterNo(cluster)));
    }

    /// Frees what waits to be discarded: space is wanted now. Returns how many clusters.
    pub(crate) fn skip_discards(&mut self) -> usize {
        let waiting = core::mem::take(&mut self.to_discard);
        let count = waiting.len();
        waiting.into_iter().for_each(|cluster| self.end_return(cluster));
        count
    }

    /// Clusters that can be taken now.
    pub(crate) fn free(&self) -> u64 {
        self.free
    }

    /// Clusters on `members` that can be taken now.
    pub(crate) fn free_on(&self, members: u32) -> u64 {
        self.spaces
            .iter()
            .filter(|space| space.present && members & (1 << space.member.0) != 0)
            .map(|space| u64::from(space.free))
            .sum()
    }

    /// Clusters that will be free once the log is flushed, old reads have ended, and they are discarded.
    pub(crate) fn quarantined(&self) -> u64 {
        self.returning
    }

    /// Clusters that fragments and what is under way hold, on any member, there or not.
    pub(crate) fn taken(&self) -> u64 {
        let used = |space: &Space| u64::from(space.segment.clusters - space.free);
        let discards: u64 = self.discards.values().map(|&count| u64::from(count)).sum();
        let returning = (self.quarantine.len() + self.to_discard.len()) as u64 + discards;
        self.spaces.iter().map(used).sum::<u64>() - returning
    }

    /// Of each member: all its clusters, those that are not free, and of these those given back.
    pub(crate) fn by_member(&self) -> BTreeMap<MemberIndex, [u64; 3]> {
        let mut members: BTreeMap<MemberIndex, [u64; 3]> = BTreeMap::new();
        for space in &self.spaces {
            let [all, used, _] = members.entry(space.member).or_default();
            *all += u64::from(space.segment.clusters);
            *used += u64::from(space.segment.clusters - space.free);
        }
        for cluster in self.returning_clusters() {
            let space = self.spaces.iter().find(|space| space.segment.contains(cluster));
            let member = space.expect("a cluster lies in a segment").member;
            members.entry(member).or_default()[2] += 1;
        }
        members
    }

    /// All clusters of the pool.
    pub(crate) fn capacity(&self) -> u64 {
        self.spaces.iter().map(|space| u64::from(space.segment.clusters)).sum()
    }
}

#[cfg(test)]
mod tests {
    use fathom_units::ByteOffset;

    use super::*;

    fn allocator(clusters: u32) -> Allocator {
        let mut allocator = Allocator::new();
        let segment = Segment { first: ClusterNo(10), clusters, offset: ByteOffset(1 << 20) };
        allocator.add(MemberIndex(0), segment, true);
        allocator
    }

    #[test]
    fn every_cluster_is_handed_out_once() {
        let mut allocator = allocator(130);
        let mut taken: Vec<u32> =
            core::iter::from_fn(|| allocator.take(1)).map(|cluster| cluster.0).collect();
        taken.sort_unstable();
        assert_eq!(taken, (10..140).collect::<Vec<_>>());
        assert_eq!(allocator.free(), 0);
        assert_eq!(allocator.take(1), None);
    }

    #[test]
    fn a_member_that_is_not_asked_for_gives_nothing() {
        assert_eq!(allocator(4).take(0b10), None);
    }

    #[test]
    fn a_cluster_is_claimed_once_and_only_inside_a_segment() {
        let mut allocator = allocator(4);
        assert!(allocator.claim(ClusterNo(13)));
        assert!(!allocator.claim(ClusterNo(13)));
        assert!(!allocator.claim(ClusterNo(14)));
        assert!(!allocator.claim(ClusterNo(9)));
        assert_eq!(allocator.free(), 3);
    }

    #[test]
    fn quarantine_ends_when_the_entry_is_durable_and_old_reads_have_ended() {
        let mut allocator = allocator(1);
        let cluster = allocator.take(1).expect("one is free");
        allocator.quarantine(cluster, Lsn(5), 7);
        assert_eq!(allocator.release_quarantine(Lsn(4), u64::MAX), 0);
        assert_eq!(allocator.release_quarantine(Lsn(5), 7), 0);
        assert_eq!(allocator.take(1), None);
        assert_eq!(allocator.release_quarantine(Lsn(5), 8), 1);
        assert_eq!(allocator.take(1), Some(cluster));
    }
}
