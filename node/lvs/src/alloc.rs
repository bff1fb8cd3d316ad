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
    free: u64,
    /// Clusters in quarantine on members that are there.
    returning: u64,
}

fn is_present(spaces: &[Space], cluster: ClusterNo) -> bool {
    spaces.iter().any(|space| space.present && space.segment.contains(cluster))
}

impl Allocator {
    /// An allocator without space.
    pub(crate) fn new() -> Self {
        Self { spaces: Vec::new(), quarantine: VecDeque::new(), free: 0, returning: 0 }
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
        for space in self.spaces.iter_mut().filter(|space| space.member == member) {
            if core::mem::replace(&mut space.present, false) {
                self.free -= u64::from(space.free);
            }
        }
        self.returning = self
            .quarantine
            .iter()
            .filter(|waiting| is_present(&self.spaces, waiting.cluster))
            .count() as u64;
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
            self.returning -= u64::from(is_present(&self.spaces, cluster));
            self.put_back(cluster);
            released += 1;
        }
        released
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

    /// Clusters that will be free once the log is flushed and old reads have ended.
    pub(crate) fn quarantined(&self) -> u64 {
        self.returning
    }

    /// Clusters that fragments and what is under way hold, on any member, there or not.
    pub(crate) fn taken(&self) -> u64 {
        let used = |space: &Space| u64::from(space.segment.clusters - space.free);
        self.spaces.iter().map(used).sum::<u64>() - self.quarantine.len() as u64
    }

    /// Of each member: all its clusters, those in use or in quarantine, and those in quarantine.
    pub(crate) fn by_member(&self) -> BTreeMap<MemberIndex, [u64; 3]> {
        let mut members: BTreeMap<MemberIndex, [u64; 3]> = BTreeMap::new();
        for space in &self.spaces {
            let [all, used, _] = members.entry(space.member).or_default();
            *all += u64::from(space.segment.clusters);
            *used += u64::from(space.segment.clusters - space.free);
        }
        for waiting in &self.quarantine {
            let space = self.spaces.iter().find(|space| space.segment.contains(waiting.cluster));
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
