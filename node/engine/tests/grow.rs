//! Growing pools on files while they are used.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use fathom_block::{Operation, Request, RequestId};
use fathom_engine::native::{
    devices::{Finding, inspect},
    grow::GrowError,
    handle::PoolHandle,
    members::{Member, Members, Memory, Opened},
    message::{CallError, PoolMessage},
};
use fathom_lvs::{
    Capacity, Content, Health, MemberRefused, NewMember, NewPool, NewVolume, OpenOptions, Refused,
    Store,
    format::op::{Identity, PoolRecord, QosLimits, VolumeFlags, VolumeRecord},
    geometry::{ClusterSize, MemberIndex, ObjectId},
};
use fathom_runtime::{
    Buffer, Configuration, Loops,
    device::{Allocation, DeviceError, DeviceFile},
};
use fathom_units::{BlockCount, ByteCount, Lba};
use uuid::Uuid;

const MIB: u64 = 1 << 20;
const LONG: Duration = Duration::from_secs(120);
const NEW: Uuid = Uuid::from_u128(77);
const ZERO: MemberIndex = MemberIndex(0);
const ONE: MemberIndex = MemberIndex(1);

type Handle = PoolHandle<PoolMessage>;

fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("grow").join(name);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).expect("the build folder can be written");
    folder
}

fn file(path: &Path) -> Member {
    DeviceFile::create(path, 64 * MIB, Allocation::Sparse).expect("a new file").into()
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

fn create(paths: &[PathBuf]) -> Opened {
    let members = Members(paths.iter().map(|path| file(path)).collect());
    Opened::create(members, &new_pool(paths.len())).expect("a new pool")
}

fn open(paths: &[PathBuf], options: OpenOptions) -> Opened {
    let members = Members::open(paths, LONG).expect("they are free");
    Opened::open(members, options).expect("it opens")
}

fn loops() -> Loops<PoolMessage> {
    let configuration = Configuration { loops: 1, in_flight: 8, ..Configuration::default() };
    Loops::start(&configuration).expect("loops start")
}

fn start(loops: &Loops<PoolMessage>, opened: Opened) -> Handle {
    PoolHandle::start(loops.remote(0), opened).expect("the loop runs")
}

fn create_volume(pool: &Handle, size: u64) -> ObjectId {
    let record = VolumeRecord {
        id: ObjectId(1),
        uuid: Uuid::from_u128(7),
        tip: None,
        flags: VolumeFlags::default(),
        size: ByteCount(size),
        logical_block_size: 4096,
        created_ns: 1,
        identity: Identity {
            subsystem_nqn: "nqn.2026-01.io.fathom:7".to_owned(),
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
    let new = NewVolume { record, source: None };
    pool.call(move |store| store.create_volume(new)).expect("a volume");
    volume(pool)
}

fn volume(pool: &Handle) -> ObjectId {
    pool.look(|store| store.volumes().next().expect("it exists").id).expect("the pool is open")
}

fn capacity(pool: &Handle) -> Capacity {
    pool.look(Store::capacity).expect("the pool is open")
}

fn health(pool: &Handle) -> Health {
    pool.look(Store::health).expect("the pool is open")
}

/// Writes block after block, eight at a time, until it is told to end; says how many.
fn write_on(pool: Handle, volume: ObjectId, blocks: u64, end: &AtomicBool) -> u64 {
    let mut submitter = pool.submitter(8);
    let mut count = 0;
    while !end.load(Ordering::Relaxed) || count < 64 {
        if submitter.under_way() == 8 {
            let answer = submitter.answer().expect("some are under way");
            assert_eq!(answer.result, Ok(()));
        }
        let (operation, lba) = (Operation::Write { fua: false }, Lba(count % blocks));
        let request = Request { id: RequestId(count), operation, lba, blocks: BlockCount(1) };
        let mut data = Buffer::zeroed(4096);
        data.fill(u8::try_from(count % blocks % 251).expect("a byte"));
        submitter.submit(volume, request, Some(data));
        count += 1;
    }
    while let Some(answer) = submitter.answer() {
        assert_eq!(answer.result, Ok(()));
    }
    count
}

fn verify(pool: &Handle, volume: ObjectId, blocks: u64, written: u64) {
    for lba in 0..blocks.min(written) {
        let data = Some(Buffer::zeroed(4096));
        let read = pool.request(volume, Operation::Read, Lba(lba), BlockCount(1), data);
        let data = read.expect("it is read").expect("it comes back");
        let expected = u8::try_from(lba % 251).expect("a byte");
        assert!(data.iter().all(|&byte| byte == expected), "block {lba}");
    }
}

fn refused(error: GrowError) -> MemberRefused {
    match error {
        GrowError::Call(CallError::Refused(Refused::Member(refused))) => refused,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_device_is_added_while_requests_go_on() {
    let folder = folder("add");
    let paths = ["a", "b", "c"].map(|name| folder.join(name));
    let running = loops();
    let pool = start(&running, create(&paths[..1]));
    let (volume, blocks) = (create_volume(&pool, 16 * MIB), 4096);
    let end = Arc::new(AtomicBool::new(false));
    let writer = {
        let (pool, end) = (pool.clone(), Arc::clone(&end));
        thread::spawn(move || write_on(pool, volume, blocks, &end))
    };
    let before = capacity(&pool).physical.0;
    let added = pool.add_member(file(&paths[1]), NEW, false).expect("it is blank");
    assert_eq!((added.member, added.uuid, added.destroyed), (ONE, NEW, None));
    let with_copy = capacity(&pool).physical.0;
    assert!(with_copy >= before + 32 * MIB, "{with_copy} after {before}");
    assert_eq!(health(&pool), Health::Good, "the second member has a whole copy");
    let data_only = pool.add_member(file(&paths[2]), Uuid::from_u128(78), false).expect("blank");
    assert_eq!(data_only.member, MemberIndex(2));
    assert!(capacity(&pool).physical.0 > with_copy + 60 * MIB, "it has no metadata");
    end.store(true, Ordering::Relaxed);
    let written = writer.join().expect("the writer ends");
    // Only the second one has the metadata now, and the third one its data.
    pool.retire();
    drop(open(&paths, OpenOptions::WHOLE));
    let pool = start(&running, open(&paths[1..], OpenOptions::DEGRADED));
    assert!(matches!(health(&pool), Health::Degraded { .. }));
    pool.retire();
    let copies = [&paths[1], &paths[2], &paths[0]].map(Clone::clone);
    let pool = start(&running, open(&copies, OpenOptions::DEGRADED));
    verify(&pool, volume, blocks, written);
    pool.rejoin_member(ZERO).expect("all members are there");
    assert_eq!(health(&pool), Health::Good);
    pool.retire();
    verify(&start(&running, open(&paths, OpenOptions::WHOLE)), volume, blocks, written);
    running.stop();
}

#[test]
fn a_device_that_is_refused_is_as_it_was_and_unlocked() {
    let folder = folder("refused");
    let [a, foreign, small, own] = ["a", "foreign", "small", "own"].map(|name| folder.join(name));
    let running = loops();
    let pool = start(&running, create(std::slice::from_ref(&a)));
    drop(create(std::slice::from_ref(&own)));
    drop(file(&foreign));
    fs::write(&foreign, [b"XFSB".as_slice(), &[0; 4092]].concat()).expect("it can be written");
    fs::File::options()
        .write(true)
        .open(&foreign)
        .and_then(|file| file.set_len(64 * MIB))
        .expect("it can be longer");
    let add = |path: &Path, force| {
        let device = Member::open(path, Duration::ZERO).expect("it is free");
        pool.add_member(device, NEW, force)
    };
    let before = capacity(&pool);
    let what = Some("an XFS file system");
    let expected = MemberRefused::Foreign { offset: 0, what };
    assert_eq!(refused(add(&foreign, false).expect_err("it is in use")), expected);
    let labelled = refused(add(&own, false).expect_err("it is a member"));
    assert!(matches!(labelled, MemberRefused::Labelled { .. }), "{labelled}");
    drop(DeviceFile::create(&small, MIB, Allocation::Sparse).expect("a new file"));
    // What is refused for another reason is not erased, though forced.
    fs::write(&small, vec![7; 1 << 20]).expect("it can be written");
    let too_small = refused(add(&small, true).expect_err("it has no room"));
    assert!(matches!(too_small, MemberRefused::TooSmall { .. }), "{too_small}");
    assert!(fs::read(&small).expect("readable").iter().all(|&byte| byte == 7), "as it was");
    assert_eq!(capacity(&pool), before);
    let twice = Member::open(&a, Duration::ZERO).expect_err("the pool has it");
    assert!(matches!(twice, DeviceError::InUse { .. }));
    let added = add(&foreign, true).expect("forced");
    assert_eq!(added.destroyed, Some(Content::Other { offset: 0, what }));
    let again =
        pool.add_member(file(&folder.join("b")), NEW, false).expect_err("the UUID is known");
    assert_eq!(refused(again), MemberRefused::IsMember(ONE));
    running.stop();
}

#[test]
fn a_device_that_fails_while_it_is_added_is_given_up_and_another_one_takes_its_place() {
    let folder = folder("fails");
    let [a, b] = ["a", "b"].map(|name| folder.join(name));
    let running = loops();
    let pool = start(&running, create(std::slice::from_ref(&a)));
    let volume = create_volume(&pool, MIB);
    let before = capacity(&pool);
    drop(file(&b));
    let paths = [b.as_path()];
    for _ in 0..3 {
        // Whatever is written to it fails.
        let device = DeviceFile::open_for_reading(&b, LONG).expect("it is given up in the end");
        let taken = DeviceFile::open_for_reading(&b, LONG).expect("a second reader");
        taken.allocate(0, 4096).expect_err("not for writing");
        drop(taken);
        let failed = pool.add_member(device.into(), NEW, false).expect_err("it fails");
        assert!(matches!(failed, GrowError::Device(_) | GrowError::Call(CallError::Failed(_))));
    }
    assert_eq!(inspect(paths)[0].finding, Finding::Blank, "it is as it was");
    assert_eq!((capacity(&pool), health(&pool)), (before, Health::Good));
    let device = Member::open(&b, LONG).expect("it was given up");
    assert_eq!(pool.add_member(device, NEW, false).expect("it works now").member, ONE);
    // The third has data only, for which no space is set aside beforehand: its label fails.
    let c = folder.join("c");
    drop(file(&c));
    let device = DeviceFile::open_for_reading(&c, LONG).expect("it is free");
    let failed = pool.add_member(device.into(), Uuid::from_u128(78), false).expect_err("it fails");
    assert!(matches!(failed, GrowError::Call(CallError::Failed(_))), "{failed}");
    let device = Member::open(&c, LONG).expect("it was given up");
    let added = pool.add_member(device, Uuid::from_u128(79), false).expect("it works now");
    assert_eq!(added.member, MemberIndex(2));
    let end = AtomicBool::new(true);
    let written = write_on(pool.clone(), volume, 256, &end);
    pool.retire();
    let pool = start(&running, open(&[a, b, c], OpenOptions::WHOLE));
    verify(&pool, volume, 256, written);
    running.stop();
}

#[test]
fn a_device_that_has_grown_gives_its_new_space_to_the_pool() {
    let path = folder("larger").join("a");
    let running = loops();
    let pool = start(&running, create(std::slice::from_ref(&path)));
    let before = capacity(&pool).physical.0;
    pool.grow_member(ZERO).expect("nothing has changed");
    assert_eq!(capacity(&pool).physical.0, before);
    fs::File::options()
        .write(true)
        .open(&path)
        .and_then(|file| file.set_len(128 * MIB))
        .expect("it can be longer");
    pool.grow_member(ZERO).expect("it has grown");
    assert_eq!(capacity(&pool).physical.0, before + 64 * MIB);
    let missing = pool.grow_member(ONE).expect_err("there is no such member");
    assert!(matches!(missing, GrowError::NoDevice(ONE)), "{missing}");
    pool.retire();
    let pool = start(&running, open(std::slice::from_ref(&path), OpenOptions::WHOLE));
    assert_eq!(capacity(&pool).physical.0, before + 64 * MIB);
    pool.retire();
    running.stop();
    let closed = pool.grow_member(ZERO).expect_err("the pool is closed");
    assert!(matches!(closed, GrowError::Call(CallError::Closed)), "{closed}");
}

#[test]
fn a_pool_in_memory_grows_by_memory() {
    let running = loops();
    let members = Members(vec![Member::Memory(Memory::new(64 * MIB))]);
    let pool = start(&running, Opened::create(members, &new_pool(1)).expect("a new pool"));
    let before = capacity(&pool).physical.0;
    let more = Member::Memory(Memory::new(64 * MIB));
    pool.add_member(more, NEW, false).expect("it is blank");
    assert!(capacity(&pool).physical.0 > before);
    running.stop();
}

#[test]
fn what_is_trimmed_goes_back_to_the_file_system_unless_the_file_has_its_space() {
    use std::os::unix::fs::MetadataExt;
    let folder = folder("discard");
    let taken = |path: &Path| fs::metadata(path).expect("it is there").blocks() * 512;
    for (name, allocation) in [("sparse", Allocation::Sparse), ("full", Allocation::Full)] {
        let path = folder.join(name);
        let running = loops();
        let device = DeviceFile::create(&path, 64 * MIB, allocation).expect("a new file");
        let members = Members(vec![device.into()]);
        let pool = start(&running, Opened::create(members, &new_pool(1)).expect("a new pool"));
        let volume = create_volume(&pool, 16 * MIB);
        let before = taken(&path);
        let end = AtomicBool::new(true);
        let mut submitter = pool.submitter(8);
        for count in 0..512 {
            if submitter.under_way() == 8 {
                assert_eq!(submitter.answer().expect("some are under way").result, Ok(()));
            }
            let (operation, lba) = (Operation::Write { fua: false }, Lba(count * 4));
            let blocks = BlockCount(4);
            let request = Request { id: RequestId(count), operation, lba, blocks };
            let mut data = Buffer::zeroed(4 * 4096);
            data.fill(7);
            submitter.submit(volume, request, Some(data));
        }
        while let Some(answer) = submitter.answer() {
            assert_eq!(answer.result, Ok(()));
        }
        let written = taken(&path);
        pool.request(volume, Operation::WriteZeroes, Lba(0), BlockCount(4096), None)
            .expect("zeros");
        pool.request(volume, Operation::Flush, Lba(0), BlockCount(0), None).expect("a flush");
        // Each look takes a turn of the loop; discards end in one of the next ones.
        let deadline = std::time::Instant::now() + LONG;
        while capacity(&pool).returning.0 > 0 {
            assert!(std::time::Instant::now() < deadline, "the space comes back");
            thread::yield_now();
        }
        let left = taken(&path);
        match allocation {
            Allocation::Sparse => {
                assert!(left < before + MIB, "{left} of {written}, at first {before}")
            }
            Allocation::Full => assert!(before >= 64 * MIB && left == before, "{left}"),
        }
        let written = write_on(pool.clone(), volume, 256, &end);
        verify(&pool, volume, 256, written);
        pool.retire();
        verify(&start(&running, open(&[path], OpenOptions::WHOLE)), volume, 256, written);
        running.stop();
    }
}
