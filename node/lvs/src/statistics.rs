//! What is shown of a pool, beside its capacity and health: each member, each volume and snapshot, and
//! what was done with it.
//!
//! - Counters begin with zero when the pool is opened; nothing of them is on the members.
//! - A request is counted when it is answered, once.

use fathom_block::{Error, Operation};
use fathom_units::ByteCount;
use uuid::Uuid;

use crate::{
    format::label::MemberRole,
    geometry::{LayerId, MemberIndex, ObjectId},
    store::{Store, bits},
};

/// Requests of one kind that were answered.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Counted {
    /// All of them.
    pub requests: u64,
    /// Of these, those that ended with an error. That what was compared differs is none.
    pub errors: u64,
    /// The sum of the ranges of those that ended without one, in bytes.
    pub bytes: u64,
}

/// What was done with a volume or snapshot since the pool was opened.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Counters {
    /// Reads.
    pub reads: Counted,
    /// Writes, with FUA and without.
    pub writes: Counted,
    /// Flushes; they have no bytes.
    pub flushes: Counted,
    /// Ranges that were zeroed or deallocated.
    pub zeroes: Counted,
    /// Compares.
    pub compares: Counted,
    /// Fused Compares and Writes, each one request with one range.
    pub compare_and_writes: Counted,
}

impl Counters {
    pub(crate) fn count(&mut self, operation: Operation, bytes: u64, result: Result<(), Error>) {
        let counted = match operation {
            Operation::Read => &mut self.reads,
            Operation::Write { .. } => &mut self.writes,
            Operation::Flush => &mut self.flushes,
            Operation::WriteZeroes => &mut self.zeroes,
            Operation::Compare => &mut self.compares,
            Operation::CompareAndWrite { .. } => &mut self.compare_and_writes,
        };
        counted.requests += 1;
        match result {
            Ok(()) if operation == Operation::Flush => {}
            Ok(()) | Err(Error::CompareFailure) => counted.bytes += bytes,
            Err(_) => counted.errors += 1,
        }
    }
}

/// What a volume or snapshot takes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Usage {
    /// Clusters that nobody else can read, in bytes: what comes back when it is deleted, but for blocks
    /// that are merged into what remains.
    pub exclusive: ByteCount,
    /// Clusters that others can read, too, in bytes. Each of them counts all of these.
    pub shared: ByteCount,
    /// Free clusters that are set aside for a thick volume, in bytes.
    pub reserved: ByteCount,
    /// The members on which it may have clusters: a volume's own, and those of a snapshot's volume.
    pub members: Vec<MemberIndex>,
}

/// A member of the pool.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MemberStatus {
    /// Its index.
    pub member: MemberIndex,
    /// Its UUID.
    pub uuid: Uuid,
    /// Its size by the labels, in bytes.
    pub size: ByteCount,
    /// It is there and takes I/O.
    pub present: bool,
    /// It has I/O under way past its deadline.
    pub late: bool,
    /// It has a copy of the metadata, and whether that counts; none when it has data only.
    pub copy_in_sync: Option<bool>,
    /// All its clusters, in bytes.
    pub physical: ByteCount,
    /// Of these, clusters that hold data.
    pub allocated: ByteCount,
    /// Of these, clusters that have been given back and are free after the next flush.
    pub returning: ByteCount,
    /// Blocks of 4096 bytes that wait to be proved when it is back.
    pub blocks_to_prove: u64,
}

impl Store {
    /// What has been done with a volume or snapshot since the pool was opened; none when it cannot be
    /// read.
    pub fn counters(&self, object: ObjectId) -> Option<Counters> {
        self.devices.counters(object)
    }

    /// Every member, by its index.
    pub fn member_status(&self) -> Vec<MemberStatus> {
        let cluster = u64::from(self.state.cluster_size.bytes());
        let clusters = self.alloc.by_member();
        let to_prove = self.blocks_to_prove();
        let joining = self.joining.map(|(member, _)| member);
        let members = (0..).map(MemberIndex).zip(self.member_table());
        let status = members.map(|(member, entry)| {
            let [all, used, returning] = clusters.get(&member).copied().unwrap_or_default();
            let waits = to_prove.iter().find(|(other, _)| *other == member);
            let in_sync = self.copies & (1 << member.0) != 0 && joining != Some(member);
            MemberStatus {
                member,
                uuid: entry.uuid,
                size: ByteCount(entry.size),
                present: self.is_present(member),
                late: self.is_late(member),
                copy_in_sync: (entry.role == MemberRole::DataAndMetadata).then_some(in_sync),
                physical: ByteCount(all * cluster),
                allocated: ByteCount((used - returning) * cluster),
                returning: ByteCount(returning * cluster),
                blocks_to_prove: waits.map_or(0, |&(_, blocks)| blocks as u64),
            }
        });
        status.collect()
    }

    /// What a volume or snapshot takes; none when it cannot be read. Takes time in proportion to the
    /// snapshots that its content goes back through.
    pub fn usage(&self, object: ObjectId) -> Option<Usage> {
        let device = self.devices.get(object).ok()?;
        let cluster = u64::from(self.state.cluster_size.bytes());
        let (mut exclusive, mut shared) = (0, 0);
        let mut others = false;
        // Its own layer is led to by its name, and each older one by the layer before it.
        let mut alone = (1, 0);
        let mut next = Some(device.layer);
        while let Some(id) = next {
            let links = self.state.tree.links(id);
            others |= (links.names, links.children) != alone;
            let layer = self.state.layer(id);
            let held = layer.map.allocated() as u64;
            if others {
                shared += held
            } else {
                exclusive += held
            }
            alone = (0, 1);
            next = layer.parent;
        }
        let own = self.state.volumes.get(&object);
        let volume = own.or_else(|| {
            let snapshot = self.state.snapshots.get(&object)?;
            self.state.volumes.get(&snapshot.volume)
        })?;
        let reserved = match own {
            Some(own) if own.flags.thick => self.reserved_for(device.layer, own.size.0),
            _ => 0,
        };
        let bytes = |clusters: u64| ByteCount(clusters.saturating_mul(cluster));
        Some(Usage {
            exclusive: bytes(exclusive),
            shared: bytes(shared),
            reserved: bytes(reserved),
            members: bits(u32::from(volume.members)).collect(),
        })
    }

    /// Clusters that are set aside for a thick volume.
    fn reserved_for(&self, tip: LayerId, size: u64) -> u64 {
        let held = self.state.layer(tip).map.allocated() as u64;
        self.state.cluster_size.clusters_for(size).saturating_sub(held)
    }
}
