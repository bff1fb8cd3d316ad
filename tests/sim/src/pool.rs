//! Pools and volumes as the tests make them.

use fathom_block::{Error, Operation};
use fathom_lvs::{
    Failed, NewMember, NewPool, NewSnapshot, NewVolume, OpenOptions,
    format::op::{Identity, PoolRecord, QosLimits, VolumeFlags, VolumeRecord},
    geometry::{ClusterSize, ObjectId},
};
use fathom_test_support::{
    disk::{SimulatedDisk, Unwritten},
    random::Random,
};
use fathom_units::ByteCount;
use uuid::Uuid;

use crate::rig::{Disks, Event, Rig};

/// Bytes in a cluster of the tests' pools: the smallest.
pub const CLUSTER: u64 = 64 << 10;
/// Bytes in a checkpoint slot.
pub const SLOT_BYTES: u64 = 256 << 10;
/// Where the metadata begins on a member, in bytes.
pub const METADATA: u64 = 1 << 20;

/// How large a pool is.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Members.
    pub members: u64,
    /// Bytes of the log.
    pub log_bytes: u64,
    /// Clusters of each member, about.
    pub clusters: u64,
}

/// The description of a pool of `shape`.
pub fn new_pool(random: &mut Random, shape: Shape) -> NewPool {
    NewPool {
        name: "pool".to_owned(),
        uuid: Uuid::from_u128(u128::from(random.next_u64()) << 64 | 1),
        members: (0..shape.members)
            .map(|index| NewMember { uuid: Uuid::from_u128(u128::from(index + 1)) })
            .collect(),
        cluster_size: ClusterSize::new(64 << 10).expect("a legal cluster size"),
        created_ns: 1,
        record: PoolRecord::default(),
        log_bytes: Some(shape.log_bytes),
        slot_bytes: Some(SLOT_BYTES),
        force: true,
    }
}

/// Disks for a pool of `shape`, full of what an earlier life left.
pub fn new_disks(random: &mut Random, shape: Shape) -> Disks {
    // Labels, two slots and the log come before the clusters.
    let metadata = METADATA + 2 * SLOT_BYTES + shape.log_bytes;
    let bytes = metadata + (shape.clusters + 2) * CLUSTER;
    let disk = |_| SimulatedDisk::new(bytes, Unwritten::Garbage, random.next_u64());
    Disks((0..shape.members).map(disk).collect())
}

/// A volume record with this UUID, size in bytes and logical block size.
pub fn new_volume(uuid: u128, size: u64, logical_block_size: u32) -> NewVolume {
    NewVolume {
        record: VolumeRecord {
            id: ObjectId(1),
            uuid: Uuid::from_u128(uuid),
            tip: None,
            flags: VolumeFlags::default(),
            size: ByteCount(size),
            logical_block_size,
            created_ns: 1,
            identity: Identity {
                subsystem_nqn: format!("nqn.2026-01.io.fathom:{uuid:x}"),
                serial: [b' '; 20],
                nsid: 1,
                nguid: [1; 16],
                uuid: Uuid::from_u128(uuid),
            },
            cntlid_min: 1,
            cntlid_max: 100,
            members: 0,
            limits: QosLimits::default(),
            name: format!("v{uuid:x}"),
            hosts: Vec::new(),
            labels: Vec::new(),
        },
        source: None,
    }
}

/// A snapshot of `volume` with this UUID.
pub fn new_snapshot(volume: ObjectId, uuid: u128) -> NewSnapshot {
    let name = format!("s{uuid:x}");
    let uuid = Uuid::from_u128(uuid);
    NewSnapshot { volume, name, uuid, created_ns: 1, labels: Vec::new() }
}

/// One thing after another on a rig: for tests that tell a story.
pub struct Story {
    /// The rig.
    pub rig: Rig,
    /// The order of member I/O.
    pub random: Random,
}

impl Story {
    /// A new pool of `shape`, open.
    ///
    /// # Panics
    ///
    /// When it cannot be created or opened.
    pub fn new(seed: u64, shape: Shape) -> Self {
        Self::with(seed, shape, |_| {})
    }

    /// As [`Story::new`], with something in the description of the pool changed.
    ///
    /// # Panics
    ///
    /// When it cannot be created or opened.
    pub fn with(seed: u64, shape: Shape, change: impl FnOnce(&mut NewPool)) -> Self {
        let mut random = Random::new(seed);
        let mut disks = new_disks(&mut random, shape);
        let mut new = new_pool(&mut random, shape);
        change(&mut new);
        fathom_lvs::create(&mut disks, &new).expect("a new pool");
        Self::open(disks, seed, OpenOptions::default())
    }

    /// The pool that is on `disks`.
    ///
    /// # Panics
    ///
    /// When it cannot be opened.
    pub fn open(disks: Disks, seed: u64, options: OpenOptions) -> Self {
        match Rig::open(disks, options) {
            Ok(rig) => Self { rig, random: Random::new(seed) },
            Err(failed) => panic!("{}", failed.0),
        }
    }

    /// Creates a volume.
    ///
    /// # Panics
    ///
    /// When that is refused or fails.
    pub fn create_volume(&mut self, new: NewVolume) -> ObjectId {
        let uuid = new.record.uuid.as_u128();
        self.rig.store.create_volume(new).expect("it can be created");
        self.done().expect("it was created");
        self.volume(uuid)
    }

    /// Makes a snapshot with this UUID.
    ///
    /// # Panics
    ///
    /// When that is refused or fails.
    pub fn create_snapshot(&mut self, volume: ObjectId, uuid: u128) -> ObjectId {
        let new = new_snapshot(volume, uuid);
        self.rig.store.create_snapshots(vec![new]).expect("it can be made");
        self.done().expect("it was made");
        self.snapshot(uuid)
    }

    /// Does one request and waits for its answer; a read gives its data.
    ///
    /// # Errors
    ///
    /// What the store answered.
    pub fn request(
        &mut self,
        object: ObjectId,
        operation: Operation,
        lba: u64,
        blocks: u64,
        data: Vec<u8>,
    ) -> Result<Vec<u8>, Error> {
        let id = self.rig.submit(object, operation, lba, blocks, data);
        self.rig.pump();
        self.rig.settle(&mut self.random);
        let mut answer = None;
        self.rig.events.retain_mut(|event| match event {
            Event::Completed(done, result, data) if *done == id => {
                answer = Some(result.map(|()| core::mem::take(data)));
                false
            }
            _ => true,
        });
        answer.expect("a store at rest has answered everything")
    }

    /// Writes whole blocks of 4096 bytes, all bytes `fill`.
    ///
    /// # Errors
    ///
    /// What the store answered.
    pub fn write(
        &mut self,
        volume: ObjectId,
        lba: u64,
        blocks: u64,
        fill: u8,
    ) -> Result<(), Error> {
        let data = vec![fill; usize::try_from(blocks * 4096).expect("small")];
        let operation = Operation::Write { fua: false };
        self.request(volume, operation, lba, blocks, data).map(drop)
    }

    /// As [`Story::write`]; on success the data is on stable media.
    ///
    /// # Errors
    ///
    /// What the store answered.
    pub fn write_through(
        &mut self,
        volume: ObjectId,
        lba: u64,
        blocks: u64,
        fill: u8,
    ) -> Result<(), Error> {
        let data = vec![fill; usize::try_from(blocks * 4096).expect("small")];
        let operation = Operation::Write { fua: true };
        self.request(volume, operation, lba, blocks, data).map(drop)
    }

    /// Makes whole blocks of 4096 bytes read as zeros.
    ///
    /// # Errors
    ///
    /// What the store answered.
    pub fn trim(&mut self, volume: ObjectId, lba: u64, blocks: u64) -> Result<(), Error> {
        self.request(volume, Operation::WriteZeroes, lba, blocks, Vec::new()).map(drop)
    }

    /// Flushes a volume.
    ///
    /// # Errors
    ///
    /// What the store answered.
    pub fn flush(&mut self, volume: ObjectId) -> Result<(), Error> {
        self.request(volume, Operation::Flush, 0, 0, Vec::new()).map(drop)
    }

    /// Reads a block of 4096 bytes that is the same byte throughout.
    ///
    /// # Errors
    ///
    /// What the store answered.
    ///
    /// # Panics
    ///
    /// When the bytes differ from each other.
    pub fn read(&mut self, volume: ObjectId, lba: u64) -> Result<u8, Error> {
        let data = self.request(volume, Operation::Read, lba, 1, vec![0xEE; 4096])?;
        assert!(data.iter().all(|&byte| byte == data[0]), "a block of one byte");
        Ok(data[0])
    }

    /// Waits for everything and gives the result of the one call that ended.
    ///
    /// # Errors
    ///
    /// What the store answered.
    pub fn done(&mut self) -> Result<(), Failed> {
        self.rig.pump();
        self.rig.settle(&mut self.random);
        let mut answer = None;
        self.rig.events.retain(|event| match event {
            Event::Done(_, result) => {
                answer = Some(result.clone());
                false
            }
            Event::Completed(..) => true,
        });
        answer.expect("a call ended")
    }

    /// The id of the volume with this UUID.
    pub fn volume(&self, uuid: u128) -> ObjectId {
        let mut volumes = self.rig.store.volumes();
        volumes.find(|record| record.uuid.as_u128() == uuid).expect("it exists").id
    }

    /// The id of the snapshot with this UUID.
    pub fn snapshot(&self, uuid: u128) -> ObjectId {
        let mut snapshots = self.rig.store.snapshots();
        snapshots.find(|record| record.uuid.as_u128() == uuid).expect("it exists").id
    }
}
