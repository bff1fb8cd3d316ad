//! Pools on files of the build folder and in memory, driven as the daemon does.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::mpsc::RecvTimeoutError,
    time::{Duration, Instant},
};

use fathom_block::{Error, Operation, Request, RequestId};
use fathom_engine::native::{
    handle::PoolHandle,
    members::{Member, Members, Memory, Opened, PoolError},
    message::{CallError, PoolEvent, PoolMessage},
    pool::SUBSCRIBERS_MAX,
};
use fathom_lvs::{
    CreateError, Health, NewMember, NewPool, NewSnapshot, NewVolume, OpenOptions,
    format::op::{Identity, PoolRecord, QosLimits, VolumeFlags, VolumeRecord},
    geometry::{ClusterSize, ObjectId},
};
use fathom_runtime::{
    Buffer, Configuration, Loops,
    device::{Allocation, DeviceError, DeviceFile},
};
use fathom_units::{BlockCount, ByteCount, Lba};
use uuid::Uuid;

const MIB: u64 = 1 << 20;
const LONG: Duration = Duration::from_secs(120);

type Handle = PoolHandle<PoolMessage>;

fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("pool").join(name);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).expect("the build folder can be written");
    folder
}

fn files(paths: &[PathBuf]) -> Members {
    let file = |path: &PathBuf| DeviceFile::create(path, 64 * MIB, Allocation::Sparse);
    Members(paths.iter().map(|path| Member::from(file(path).expect("a new file"))).collect())
}

fn existing(paths: &[PathBuf]) -> Members {
    Members::open(paths, LONG).expect("they are free")
}

fn new_pool(members: usize) -> NewPool {
    let member = |index| NewMember { uuid: Uuid::from_u128(index as u128 + 1) };
    NewPool {
        name: "tank".to_owned(),
        uuid: Uuid::from_u128(99),
        members: (0..members).map(member).collect(),
        cluster_size: ClusterSize::new(64 << 10).expect("a legal size"),
        created_ns: 1,
        record: PoolRecord::default(),
        log_bytes: None,
        slot_bytes: None,
        force: false,
    }
}

fn new_volume(uuid: u128, size: u64, logical_block_size: u32) -> NewVolume {
    let record = VolumeRecord {
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
    };
    NewVolume { record, source: None }
}

fn loops() -> Loops<PoolMessage> {
    // Few I/Os at a time, so that some wait for others.
    let configuration = Configuration { loops: 2, in_flight: 8, ..Configuration::default() };
    Loops::start(&configuration).expect("loops start")
}

fn start(loops: &Loops<PoolMessage>, opened: Opened) -> Handle {
    PoolHandle::start(loops.remote(0), opened).expect("the loop runs")
}

fn create_volume(pool: &Handle, uuid: u128, size: u64, block: u32) -> ObjectId {
    pool.call(move |store| store.create_volume(new_volume(uuid, size, block))).expect("a volume");
    let find = move |store: &fathom_lvs::Store| {
        store.volumes().find(|record| record.uuid.as_u128() == uuid).expect("it exists").id
    };
    pool.look(find).expect("the pool is open")
}

fn filled(length: usize, byte: u8) -> Option<Buffer> {
    let mut buffer = Buffer::zeroed(length);
    buffer.fill(byte);
    Some(buffer)
}

fn write(pool: &Handle, volume: ObjectId, lba: u64, blocks: u64, byte: u8) {
    let data = filled(usize::try_from(blocks).expect("few") * 4096, byte);
    let operation = Operation::Write { fua: false };
    pool.request(volume, operation, Lba(lba), BlockCount(blocks), data).expect("it is written");
}

/// The first byte of each block.
fn read(pool: &Handle, volume: ObjectId, lba: u64, blocks: u64) -> Vec<u8> {
    let data = filled(usize::try_from(blocks).expect("few") * 4096, 0xEE);
    let read = pool.request(volume, Operation::Read, Lba(lba), BlockCount(blocks), data);
    let data = read.expect("it is read").expect("it comes back");
    let blocks = data.chunks(4096);
    blocks
        .map(|block| {
            assert!(block.iter().all(|&byte| byte == block[0]), "a block of one byte");
            block[0]
        })
        .collect()
}

/// What is the same on files and in memory.
fn story(pool: &Handle) -> (ObjectId, ObjectId) {
    let volume = create_volume(pool, 7, 16 * MIB, 4096);
    assert_eq!(read(pool, volume, 0, 3), [0, 0, 0]);
    write(pool, volume, 10, 40, 1);
    write(pool, volume, 20, 1, 2);
    pool.call(move |store| {
        let uuid = Uuid::from_u128(8);
        let (name, labels) = ("s".to_owned(), Vec::new());
        store.create_snapshots(vec![NewSnapshot { volume, name, uuid, created_ns: 1, labels }])
    })
    .expect("a snapshot");
    let snapshot = pool.look(|store| store.snapshots().next().expect("it exists").id);
    let snapshot = snapshot.expect("the pool is open");
    write(pool, volume, 11, 2, 3);
    pool.request(volume, Operation::WriteZeroes, Lba(14), BlockCount(1), None).expect("zeros");
    pool.request(volume, Operation::Flush, Lba(0), BlockCount(0), None).expect("a flush");
    verify(pool, volume, snapshot);
    (volume, snapshot)
}

fn verify(pool: &Handle, volume: ObjectId, snapshot: ObjectId) {
    assert_eq!(read(pool, volume, 9, 7), [0, 1, 3, 3, 1, 0, 1]);
    assert_eq!(read(pool, snapshot, 9, 7), [0, 1, 1, 1, 1, 1, 1]);
    assert_eq!(read(pool, snapshot, 19, 3), [1, 2, 1]);
}

#[test]
fn what_is_written_is_there_when_the_pool_is_opened_again() {
    let folder = folder("story");
    let paths = [folder.join("a"), folder.join("b")];
    let running = loops();
    let pool = start(&running, Opened::create(files(&paths), &new_pool(2)).expect("a new pool"));
    let (volume, snapshot) = story(&pool);
    // One end of the pool is its own, the other that of its loop; both unlock its files.
    pool.retire();
    let opened = Opened::open(existing(&paths), OpenOptions::default()).expect("it opens");
    assert_eq!(opened.name(), "tank");
    let again = start(&running, opened);
    verify(&again, volume, snapshot);
    drop(running);
    let running = loops();
    let opened = Opened::open(existing(&paths), OpenOptions::default()).expect("it opens");
    verify(&start(&running, opened), volume, snapshot);
    running.stop();
}

#[test]
fn a_pool_in_memory_does_the_same() {
    let running = loops();
    let members = Members(vec![Member::Memory(Memory::new(64 * MIB))]);
    let opened = Opened::create(members, &new_pool(1)).expect("a new pool");
    assert!(opened.is_volatile());
    let pool = start(&running, opened);
    story(&pool);
    assert_eq!(pool.look(|store| store.health()), Some(Health::Good));
    running.stop();
    assert_eq!(pool.look(|_| ()), None);
}

#[test]
fn many_requests_at_once_all_find_their_way() {
    let folder = folder("many");
    let running = loops();
    let opened = Opened::create(files(&[folder.join("a")]), &new_pool(1)).expect("a new pool");
    let pool = start(&running, opened);
    let volume = create_volume(&pool, 7, 16 * MIB, 512);
    let mut submitter = pool.submitter(64);
    let blocks = 16 * MIB / 512;
    // Blocks of 512 bytes: neighbours change the same block of 4096.
    for round in 0..2_u64 {
        for id in 0..400_u64 {
            if submitter.under_way() == 64 {
                let answer = submitter.answer().expect("some are under way");
                assert_eq!(answer.result, Ok(()), "{answer:?}");
            }
            let lba = id * 13 % blocks;
            let operation = Operation::Write { fua: id % 7 == 0 };
            let request =
                Request { id: RequestId(id), operation, lba: Lba(lba), blocks: BlockCount(3) };
            let byte = u8::try_from((id + round) % 251).expect("a byte");
            submitter.submit(volume, request, filled(3 * 512, byte));
        }
    }
    while let Some(answer) = submitter.answer() {
        assert_eq!(answer.result, Ok(()));
    }
    for id in 0..400_u64 {
        let lba = Lba(id * 13 % blocks);
        let data = pool.request(volume, Operation::Read, lba, BlockCount(3), filled(1536, 0xEE));
        let data = data.expect("it is read").expect("it comes back");
        let expected = u8::try_from((id + 1) % 251).expect("a byte");
        assert!(data.iter().all(|&byte| byte == expected), "request {id}");
    }
    running.stop();
}

#[test]
fn what_cannot_be_done_is_answered_and_the_data_comes_back() {
    let running = loops();
    let members = Members(vec![Member::Memory(Memory::new(64 * MIB))]);
    let pool = start(&running, Opened::create(members, &new_pool(1)).expect("a new pool"));
    let volume = create_volume(&pool, 7, MIB, 4096);
    let ask = |object, operation, lba, blocks, data| {
        let request =
            Request { id: RequestId(5), operation, lba: Lba(lba), blocks: BlockCount(blocks) };
        let mut submitter = pool.submitter(1);
        submitter.submit(object, request, data);
        let answer = submitter.answer().expect("it is answered");
        assert_eq!(answer.id, RequestId(5));
        (answer.result, answer.data.map(|data| data.len()))
    };
    let write = Operation::Write { fua: false };
    for (blocks, length) in [(2, 4096), (1, 8192), (u64::MAX, 4096), (0, 4096)] {
        let answer = ask(volume, write, 0, blocks, filled(length, 1));
        assert_eq!(answer, (Err(Error::InvalidField), Some(length)));
    }
    assert_eq!(ask(volume, Operation::Read, 0, 1, None), (Err(Error::InvalidField), None));
    let beyond = ask(volume, Operation::Read, 256, 1, filled(4096, 1));
    assert_eq!(beyond, (Err(Error::LbaOutOfRange), Some(4096)));
    let nobody = ask(ObjectId(77), Operation::Read, 0, 1, filled(4096, 1));
    assert_eq!(nobody, (Err(Error::NotReady), Some(4096)));
    let differs = ask(volume, Operation::Compare, 0, 1, filled(4096, 1));
    assert_eq!(differs, (Err(Error::CompareFailure), Some(4096)));
    let twice = pool.call(|store| store.create_volume(new_volume(7, MIB, 4096)));
    assert!(matches!(twice, Err(CallError::Refused(_))));
    drop(running);
    assert_eq!(ask(volume, write, 0, 1, filled(4096, 1)), (Err(Error::NotReady), None));
    assert_eq!(pool.call(|store| store.delete_volume(ObjectId(1))), Err(CallError::Closed));
}

#[test]
fn a_pool_that_is_open_cannot_be_opened() {
    let folder = folder("twice");
    let path = folder.join("a");
    let running = loops();
    let opened = Opened::create(files(std::slice::from_ref(&path)), &new_pool(1)).expect("a pool");
    let _pool = start(&running, opened);
    let refused = Member::open(&path, Duration::ZERO);
    assert!(matches!(refused, Err(DeviceError::InUse { .. })));
    running.stop();
    let members = existing(std::slice::from_ref(&path));
    let refused = Opened::create(members, &new_pool(1)).map(|_| ()).expect_err("it has a label");
    assert!(matches!(refused, PoolError::Create(CreateError::Labelled { .. })), "{refused}");
}

#[test]
fn the_metadata_of_a_sparse_file_has_its_space_from_the_start() {
    use std::os::unix::fs::MetadataExt;
    let path = folder("space").join("a");
    let opened = Opened::create(files(std::slice::from_ref(&path)), &new_pool(1)).expect("a pool");
    let taken = fs::metadata(&path).expect("it is there").blocks() * 512;
    let running = loops();
    let pool = start(&running, opened);
    let capacity = pool.look(fathom_lvs::Store::capacity).expect("the pool is open");
    // All but the clusters, and what lies idle around the labels.
    let metadata = 64 * MIB - capacity.physical.0;
    assert!(taken + 2 * MIB >= metadata && taken <= metadata, "{taken} of {metadata} bytes");
    running.stop();
}

#[test]
fn the_locks_of_all_members_are_waited_for_under_one_deadline() {
    let folder = folder("deadline");
    let paths = [folder.join("a"), folder.join("b"), folder.join("c")];
    let running = loops();
    let pool = start(&running, Opened::create(files(&paths), &new_pool(3)).expect("a new pool"));
    let wait = Duration::from_millis(200);
    let began = Instant::now();
    let refused = Members::open(&paths, wait).expect_err("the pool has them");
    assert!(matches!(refused, DeviceError::InUse { ref path, .. } if *path == paths[0]));
    assert!(began.elapsed() >= wait, "it was waited for");
    // While one of them is still held, the others are not kept.
    pool.retire();
    let mut members = Members::open(&paths, LONG).expect("the pool gives them up");
    members.0.drain(..2);
    let began = Instant::now();
    let refused = Members::open(&paths, wait).expect_err("the third is held");
    assert!(matches!(refused, DeviceError::InUse { ref path, .. } if *path == paths[2]));
    assert!(began.elapsed() < 2 * wait, "one deadline for all");
    Members::open(&paths[..2], Duration::ZERO).expect("they were unlocked again");
    drop(members);
    let opened =
        Opened::open(Members::open(&paths, LONG).expect("all are free"), Default::default());
    opened.expect("it opens");
    running.stop();
}

#[test]
fn subscribers_are_told_what_changes_and_too_many_are_turned_away() {
    let running = loops();
    let members = Members(vec![Member::Memory(Memory::new(32 * MIB))]);
    let mut new = new_pool(1);
    new.record.watermark_high_percent = 50;
    new.record.watermark_low_percent = 40;
    let pool = start(&running, Opened::create(members, &new).expect("a new pool"));
    let events = pool.subscribe(16);
    let slow = pool.subscribe(1);
    let volume = create_volume(&pool, 7, 64 * MIB, 4096);
    let mut block = 0;
    let full = loop {
        let data = filled(16 * 4096, 1);
        let write = Operation::Write { fua: false };
        match pool.request(volume, write, Lba(block), BlockCount(16), data) {
            Ok(_) => block += 16,
            Err(error) => break error,
        }
    };
    assert_eq!(full, Error::CapacityExceeded);
    pool.call(move |store| store.delete_volume(volume)).expect("it is deleted");
    let expected = [
        PoolEvent::Fill(fathom_lvs::Event::Overcommitted),
        PoolEvent::Fill(fathom_lvs::Event::AboveHighWatermark),
        PoolEvent::Fill(fathom_lvs::Event::Full),
        PoolEvent::Fill(fathom_lvs::Event::NotOvercommitted),
    ];
    for event in expected {
        assert_eq!(events.next(LONG), Ok(event));
    }
    let rest: Vec<_> = (0..3).map(|_| events.next(LONG).expect("it is told")).collect();
    for event in [
        PoolEvent::Fill(fathom_lvs::Event::BelowLowWatermark),
        PoolEvent::Fill(fathom_lvs::Event::NotFull),
        PoolEvent::Reclaimed,
    ] {
        assert!(rest.contains(&event), "{event:?} in {rest:?}");
    }
    assert_eq!(slow.next(LONG), Ok(PoolEvent::Missed));
    let taken: Vec<_> = (2..SUBSCRIBERS_MAX).map(|_| pool.subscribe(1)).collect();
    let one_more = pool.subscribe(1);
    assert_eq!(one_more.next(LONG), Err(RecvTimeoutError::Disconnected));
    assert_eq!(taken[0].next(Duration::ZERO), Err(RecvTimeoutError::Timeout));
    running.stop();
    assert_eq!(taken[0].next(LONG), Err(RecvTimeoutError::Disconnected));
}
