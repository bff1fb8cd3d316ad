//! A pool on a file, driven by a process that is killed.
//!
//! `load` writes, and keeps its journal in a pipe: a line before each write is submitted and one
//! when it was acknowledged. The pipe outlives the process, so the journal is complete whenever it
//! is killed. The test reads the journal to its end, and then every block.

use std::{path::Path, time::Duration};

use fathom_engine::native::{
    handle::PoolHandle,
    members::{Member, Members, Opened},
    message::PoolMessage,
};
use fathom_lvs::{
    NewMember, NewPool, NewVolume, OpenOptions,
    format::op::{Identity, PoolRecord, QosLimits, VolumeFlags, VolumeRecord},
    geometry::{ClusterSize, ObjectId},
};
use fathom_runtime::{
    Configuration, Loops,
    device::{Allocation, DeviceFile},
};
use fathom_units::ByteCount;
use uuid::Uuid;

/// Bytes in a block.
pub const BLOCK: usize = 4096;
/// Blocks of the volume.
pub const BLOCKS: u64 = 4096;
/// Bytes of the member file: not all that is written and kept by snapshots fits for ever, so old
/// snapshots are deleted.
const FILE_BYTES: u64 = 192 << 20;
/// How long a device may stay locked after its process was killed.
const LOCK_WAIT: Duration = Duration::from_secs(120);

/// A pool on a loop of its own.
pub struct Running {
    /// The loops.
    pub loops: Loops<PoolMessage>,
    /// The pool.
    pub pool: PoolHandle<PoolMessage>,
    /// Its volume.
    pub volume: ObjectId,
}

/// Makes a pool with one volume in a new file.
///
/// # Panics
///
/// When that fails.
pub fn create(path: &Path) {
    let file = DeviceFile::create(path, FILE_BYTES, Allocation::Sparse).expect("a new file");
    let new = NewPool {
        name: "tank".to_owned(),
        uuid: Uuid::from_u128(99),
        members: vec![NewMember { uuid: Uuid::from_u128(1) }],
        cluster_size: ClusterSize::new(64 << 10).expect("a legal size"),
        created_ns: 1,
        record: PoolRecord::default(),
        // Small, so that it is full and checkpoints are written all the time.
        log_bytes: Some(512 << 10),
        slot_bytes: None,
        force: false,
    };
    let opened = Opened::create(Members(vec![file.into()]), &new).expect("a new pool");
    let loops = start_loops();
    let pool = PoolHandle::start(loops.remote(0), opened).expect("the loop runs");
    pool.call(|store| store.create_volume(new_volume())).expect("a volume");
    loops.stop();
}

/// Opens the pool in a file, when its lock is free.
///
/// # Panics
///
/// When that fails.
pub fn open(path: &Path) -> Running {
    let member = Member::open(path, LOCK_WAIT).expect("the device opens");
    let opened = Opened::open(Members(vec![member]), OpenOptions::default());
    let loops = start_loops();
    let pool = PoolHandle::start(loops.remote(0), opened.expect("the pool opens"));
    let pool = pool.expect("the loop runs");
    let volume = pool.look(|store| store.volumes().next().expect("it has a volume").id);
    Running { loops, pool, volume: volume.expect("the pool is open") }
}

fn start_loops() -> Loops<PoolMessage> {
    Loops::start(&Configuration::default()).expect("loops start")
}

fn new_volume() -> NewVolume {
    let record = VolumeRecord {
        id: ObjectId(1),
        uuid: Uuid::from_u128(7),
        tip: None,
        flags: VolumeFlags::default(),
        size: ByteCount(BLOCKS * BLOCK as u64),
        logical_block_size: 4096,
        created_ns: 1,
        identity: Identity {
            subsystem_nqn: "nqn.2026-01.io.fathom:kills".to_owned(),
            serial: [b' '; 20],
            nsid: 1,
            nguid: [1; 16],
            uuid: Uuid::from_u128(7),
        },
        cntlid_min: 1,
        cntlid_max: 100,
        members: 0,
        limits: QosLimits::default(),
        name: "v".to_owned(),
        hosts: Vec::new(),
        labels: Vec::new(),
    };
    NewVolume { record, source: None }
}

/// Fills a block with what tells which block and which write it is; write 0 is zeros.
pub fn fill(bytes: &mut [u8], block: u64, write: u64) {
    let pair = if write == 0 { [0; 2] } else { [block, write] };
    for (word, value) in bytes.chunks_exact_mut(8).zip(pair.into_iter().cycle()) {
        word.copy_from_slice(&value.to_le_bytes());
    }
}

/// Which write a block's content is of.
///
/// # Panics
///
/// When it is of none: torn, or of another block.
pub fn write_of(bytes: &[u8], block: u64) -> u64 {
    let write = u64::from_le_bytes(bytes[8..16].try_into().expect("eight bytes"));
    let mut expected = vec![0; bytes.len()];
    fill(&mut expected, block, write);
    assert!(bytes == expected, "block {block} holds no content of any write");
    write
}
