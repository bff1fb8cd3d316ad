//! How much there is, how much is used, and what has been promised.
//!
//! A thick volume never meets a full pool: what its next writes may need is *reserved*,
//! one cluster for each logical cluster that its tip does not hold yet. Thin writes may
//! use what is neither allocated nor reserved.

use fathom_block::Error;
use fathom_units::ByteCount;

use crate::{
    admin::Refused,
    format::{
        checkpoint::CHUNK_MAX,
        label::Extent,
        op::{Op, VolumeRecord},
    },
    geometry::{ClusterNo, MemberIndex, ObjectId},
    store::{Store, TaskKey, bits},
};

/// Metadata of one fragment in a checkpoint, without its bitmaps, in bytes.
const FRAGMENT_BYTES: u64 = 16;
/// A proof of a block on a member that is not there, at most: a Map by itself.
const PROOF_BYTES: u64 = 32;
/// What a checkpoint takes beside its content, in bytes: the header, and chunks in part filled.
const SLOT_FIXED_BYTES: u64 = 128 << 10;

/// The capacity of a pool, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Capacity {
    /// All clusters of all members, also of those that are not there.
    pub physical: ByteCount,
    /// Clusters that hold data of volumes and snapshots, also on members that are not there.
    pub allocated: ByteCount,
    /// Of these, clusters that more than one volume or snapshot can read.
    pub shared: ByteCount,
    /// Free clusters that only thick volumes may use.
    pub reserved: ByteCount,
    /// Clusters that have been given back and are free after the next flush.
    pub returning: ByteCount,
    /// Clusters that can be taken now, reserved ones included; of members that are there.
    pub free: ByteCount,
    /// Clusters that hold nothing, of members that are not there: nobody can take them. With them the
    /// allocated, the returning and the free ones are all.
    pub unreachable: ByteCount,
}

impl Store {
    /// The capacity of the pool. Takes time in proportion to the number of layers.
    pub fn capacity(&self) -> Capacity {
        let cluster = u64::from(self.state.cluster_size.bytes());
        let bytes = |clusters: u64| ByteCount(clusters.saturating_mul(cluster));
        let allocated = self.alloc.taken();
        let shared = self
            .state
            .layers
            .iter()
            .filter(|&(&id, _)| {
                let links = self.state.tree.links(id);
                links.names + links.children > 1
            })
            .map(|(_, layer)| layer.map.allocated() as u64)
            .sum();
        Capacity {
            physical: bytes(self.alloc.capacity()),
            allocated: bytes(allocated),
            shared: bytes(shared),
            reserved: bytes(self.reserved()),
            returning: bytes(self.alloc.quarantined()),
            free: bytes(self.alloc.free()),
            unreachable: bytes(
                self.alloc.capacity() - allocated - self.alloc.quarantined() - self.alloc.free(),
            ),
        }
    }

    /// Memory that remembered lookups of reads through snapshots take, in bytes: at most
    /// [`crate::VIEW_BYTES_MAX`].
    pub fn view_bytes(&self) -> ByteCount {
        ByteCount(self.state.views.bytes() as u64)
    }

    /// Clusters that thick volumes may still ask for.
    fn reserved(&self) -> u64 {
        self.state.reservations.clusters()
    }

    /// Whether `extra` more clusters can be set aside for thick volumes.
    pub(crate) fn may_reserve(&self, extra: u64) -> Result<(), Refused> {
        if extra == 0 {
            return Ok(());
        }
        let there = self.alloc.free() + self.alloc.quarantined();
        let needed = self.reserved() + extra;
        if needed <= there {
            return Ok(());
        }
        let bytes = (needed - there).saturating_mul(u64::from(self.state.cluster_size.bytes()));
        Err(Refused::NoSpace { missing: ByteCount(bytes) })
    }

    /// Whether volumes may promise `extra` bytes more.
    pub(crate) fn may_promise(&self, extra: u64) -> Result<(), Refused> {
        let percent = u128::from(self.state.pool.overcommit_percent);
        if percent == 0 {
            return Ok(());
        }
        let promised = self.promised() + u128::from(extra);
        let allowed = self.capacity_bytes() * percent / 100;
        if promised <= allowed {
            return Ok(());
        }
        let count = |bytes: u128| ByteCount(u64::try_from(bytes).unwrap_or(u64::MAX));
        Err(Refused::Overcommitted { promised: count(promised), allowed: count(allowed) })
    }

    /// What all volumes promise, in bytes.
    pub(crate) fn promised(&self) -> u128 {
        let live = self.state.volumes.values().filter(|volume| volume.tip.is_some());
        live.map(|volume| u128::from(volume.size.0)).sum()
    }

    /// All clusters of all members, in bytes.
    pub(crate) fn capacity_bytes(&self) -> u128 {
        u128::from(self.alloc.capacity()) * u128::from(self.state.cluster_size.bytes())
    }

    /// Free clusters that are not kept for thick volumes.
    pub(crate) fn unreserved(&self) -> u64 {
        self.alloc.free().saturating_sub(self.reserved())
    }

    /// Whether a checkpoint could hold more fragments and objects. A part is kept back for
    /// deleting and unmapping.
    pub(crate) fn metadata_has_room(&self) -> bool {
        self.metadata_bytes() < self.slot_bytes() / 8 * 7
    }

    /// Whether a checkpoint can hold what there is.
    pub(crate) fn metadata_fits(&self) -> bool {
        self.metadata_bytes() <= self.slot_bytes()
    }

    /// Whether a checkpoint could hold more fragments at all.
    pub(crate) fn metadata_has_reserve(&self) -> bool {
        self.metadata_bytes() < self.slot_bytes() / 32 * 31
    }

    /// What a checkpoint takes at most, in bytes.
    fn metadata_bytes(&self) -> u64 {
        let bitmaps = 2 * u64::from(self.state.blocks().div_ceil(64)) * 8;
        let proofs = self.settlement.absent_count() as u64 + self.state.lost_blocks();
        let proofs = proofs * PROOF_BYTES;
        let content =
            self.fragments * (FRAGMENT_BYTES + bitmaps) + self.state.object_bytes + proofs;
        // Chunks end where the next item does not fit, and are padded to whole blocks.
        content + content / 8 + SLOT_FIXED_BYTES
    }

    /// Bytes of the smaller slot that chunks can fill: a chunk may leave the end of each extent
    /// but the last one unused.
    pub(crate) fn slot_bytes(&self) -> u64 {
        let of_slot = |extents: &Vec<Extent>| {
            let length: u64 = extents.iter().map(|extent| extent.length).sum();
            length.saturating_sub((extents.len() as u64 - 1) * CHUNK_MAX as u64)
        };
        self.slots.iter().map(of_slot).min().unwrap_or(0)
    }

    /// The present member with the most free clusters, as a set.
    pub(crate) fn roomiest_member(&self) -> u16 {
        let most = bits(self.present_members())
            .max_by_key(|member| (self.alloc.free_on(1 << member.0), core::cmp::Reverse(member.0)));
        1 << most.map_or(0, |member| member.0)
    }

    /// `members` and as many others, the roomiest first, as `count` free clusters need. There are
    /// that many.
    fn wider(&self, mut members: u32, count: u64) -> u32 {
        let mut others: Vec<u32> =
            bits(self.present_members() & !members).map(|member| 1 << member.0).collect();
        others.sort_by_key(|&member| core::cmp::Reverse(self.alloc.free_on(member)));
        for member in others {
            if self.alloc.free_on(members) >= count {
                break;
            }
            members |= member;
        }
        members
    }

    /// The members that are there and take I/O, a bit per index.
    pub(crate) fn present_members(&self) -> u32 {
        self.settlement
            .members()
            .filter(|&member| self.is_present(member))
            .fold(0, |set, member| set | 1 << member.0)
    }

    /// Whether a member is there and takes I/O.
    pub(crate) fn is_present(&self, member: MemberIndex) -> bool {
        self.labels.contains_key(&member) && !self.member_failed(member)
    }

    /// Whether a cluster lies on a member that is there.
    pub(crate) fn is_reachable(&self, cluster: ClusterNo) -> bool {
        self.state.member_of(cluster).is_some_and(|member| self.is_present(member))
    }

    /// Whether a write of `object` may take `count` new clusters, and from which members.
    /// Without an answer the task has been stalled until clusters come back.
    pub(crate) fn admit_clusters(
        &mut self,
        key: TaskKey,
        object: ObjectId,
        count: u64,
    ) -> Result<Option<u32>, Error> {
        let volume = self.state.volumes.get(&object).ok_or(Error::NotReady)?;
        let members = u32::from(volume.members) & self.present_members();
        if count == 0 {
            return Ok(Some(members));
        }
        let returning = self.alloc.quarantined();
        let reserved = if volume.flags.thick { 0 } else { self.reserved() };
        let enough = self.alloc.free() >= count + reserved;
        if enough && self.alloc.free_on(members) >= count {
            return Ok(Some(members));
        }
        if enough {
            // The members that it has used so far are full: it spreads to others.
            let volume: VolumeRecord = volume.clone();
            let members = self.wider(members, count);
            let all = volume.members | u16::try_from(members).expect("16 members at most");
            let record = VolumeRecord { members: all, ..volume };
            self.commit(key, &[Op::PutVolume(Box::new(record))]);
            return Ok(Some(members));
        }
        if returning == 0 && !self.reclaim_may_help() {
            return Err(Error::CapacityExceeded);
        }
        self.space_wanted = true;
        self.hurry_quarantine();
        self.hurry_discards();
        self.stall(key);
        Ok(None)
    }
}
