//! A file system that is full under a member: a real one, ext4 on a loop device, with direct I/O.
//!
//! It needs root, `mkfs.ext4`, `mount` and `losetup`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use fathom_block::{Error, Operation};
use fathom_engine::native::{
    handle::PoolHandle,
    members::{Member, Members, Opened},
    message::{Events, PoolEvent, PoolMessage},
};
use fathom_lvs::{Event, Health, OpenOptions, Store, geometry::ObjectId};
use fathom_runtime::{
    Buffer, Configuration, Loops,
    device::{Allocation, DeviceFile},
};
use fathom_test_sim::pool::{Shape, new_pool, new_volume};
use fathom_test_support::random::Random;
use fathom_units::{BlockCount, Lba};

const MIB: u64 = 1 << 20;
const LONG: Duration = Duration::from_secs(60);
/// Blocks of one request.
const RUN: u64 = 32;

/// A small ext4, mounted; unmounted and removed when dropped.
struct FileSystem {
    folder: PathBuf,
    mounted: PathBuf,
}

impl FileSystem {
    fn of(name: &str, bytes: u64) -> Self {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("full").join(name);
        let mounted = folder.join("mounted");
        if mounted.exists() {
            // Left by a run that was killed.
            let _ = Command::new("umount").args(["--lazy"]).arg(&mounted).output();
        }
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&mounted).expect("the build folder can be written");
        let image = folder.join("image");
        let file = fs::File::create_new(&image).expect("a new file");
        file.set_len(bytes).expect("it can grow");
        // Without a journal, which would take half of it.
        run(Command::new("mkfs.ext4").args(["-q", "-O", "^has_journal", "-m", "0"]).arg(&image));
        run(Command::new("mount").args(["-t", "ext4", "-o", "loop"]).arg(&image).arg(&mounted));
        Self { folder, mounted }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.mounted.join(name)
    }

    /// Takes all the space that is left; it comes back when the file is removed.
    fn fill(&self) -> PathBuf {
        let ballast = self.path("ballast");
        let file = fs::File::create_new(&ballast).expect("a new file");
        for bytes in [MIB, 4096] {
            let mut end = file.metadata().expect("it can be asked").len();
            let take = |end| {
                let flags = rustix::fs::FallocateFlags::empty();
                rustix::fs::fallocate(&file, flags, end, bytes)
            };
            while take(end).is_ok() {
                end += bytes;
            }
        }
        ballast
    }
}

impl Drop for FileSystem {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.mounted).output();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn run(command: &mut Command) {
    let output = command.output().expect("it is installed (Debian: e2fsprogs, mount)");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} needs root and a kernel with loop: {error}");
}

struct Rig {
    pool: PoolHandle<PoolMessage>,
    events: Events,
    // Ended last.
    loops: Loops<PoolMessage>,
}

impl Rig {
    fn over(opened: Opened) -> Self {
        let loops = Loops::start(&Configuration::default()).expect("loops start");
        let pool = PoolHandle::start(loops.remote(0), opened).expect("the loop runs");
        let events = pool.subscribe(64);
        Self { pool, events, loops }
    }

    fn volume(&self, uuid: u128, bytes: u64, thick: bool) -> ObjectId {
        let mut new = new_volume(uuid, bytes, 4096);
        new.record.flags.thick = thick;
        self.pool.call(move |store| store.create_volume(new)).expect("the pool has space");
        self.find(uuid)
    }

    fn find(&self, uuid: u128) -> ObjectId {
        let find = move |store: &Store| {
            store.volumes().find(|record| record.uuid.as_u128() == uuid).expect("it exists").id
        };
        self.pool.look(find).expect("the pool is open")
    }

    fn write(&self, volume: ObjectId, run: u64, byte: u8) -> Result<(), Error> {
        let mut data = Buffer::zeroed(usize::try_from(RUN).expect("small") * 4096);
        data.fill(byte);
        let operation = Operation::Write { fua: true };
        let (lba, blocks) = (Lba(run * RUN), BlockCount(RUN));
        self.pool.request(volume, operation, lba, blocks, Some(data)).map(drop)
    }

    fn read(&self, volume: ObjectId, run: u64) -> u8 {
        let data = Buffer::zeroed(usize::try_from(RUN).expect("small") * 4096);
        let (lba, blocks) = (Lba(run * RUN), BlockCount(RUN));
        let read = self.pool.request(volume, Operation::Read, lba, blocks, Some(data));
        let data = read.expect("reads go on").expect("it comes back");
        assert!(data.iter().all(|&byte| byte == data[0]), "a run of one byte");
        data[0]
    }

    fn bare(&self, volume: ObjectId, operation: Operation, run: u64) {
        let blocks = BlockCount(if operation == Operation::Flush { 0 } else { RUN });
        let done = self.pool.request(volume, operation, Lba(run * RUN), blocks, None);
        done.expect("it needs no space");
    }

    fn told(&self, event: Event) {
        while self.events.next(LONG).expect("it is told") != PoolEvent::Fill(event) {}
    }

    fn end(self) {
        self.pool.retire();
        self.loops.stop();
    }
}

fn create(path: &Path, size: u64, allocation: Allocation) -> Opened {
    let shape = Shape { members: 1, log_bytes: 256 << 10, clusters: 100 };
    let mut new = new_pool(&mut Random::new(1), shape);
    new.log_bytes = None;
    let file = DeviceFile::create(path, size, allocation).expect("the file system has room");
    Opened::create(Members(vec![Member::from(file)]), &new).expect("a new pool")
}

#[test]
fn a_sparse_file_on_a_full_file_system_is_a_full_pool_until_there_is_space() {
    let system = FileSystem::of("sparse", 64 * MIB);
    let path = system.path("member");
    let opened = create(&path, 256 * MIB, Allocation::Sparse);
    assert!(!opened.has_its_space().expect("it can be asked"));
    let rig = Rig::over(opened);
    let volume = rig.volume(7, 128 * MIB, false);
    for run in 0..4 {
        rig.write(volume, run, 1).expect("there is space");
    }
    let ballast = system.fill();
    // Space that is set aside already takes a few more.
    let mut first = 4;
    let error = loop {
        match rig.write(volume, first, 2) {
            Ok(()) => first += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(error, Error::CapacityExceeded);
    rig.told(Event::Full);
    assert_eq!(rig.pool.look(Store::health), Some(Health::Good));
    // What is there is read and written again, and what gives space back goes on.
    let there = |rig: &Rig, volume| {
        for run in 1..4 {
            assert_eq!(rig.read(volume, run), 3);
        }
        for run in 4..first {
            assert_eq!(rig.read(volume, run), 2);
        }
        assert_eq!(rig.read(volume, first), 0, "as before the write that was refused");
    };
    for run in 1..4 {
        rig.write(volume, run, 3).expect("it has its space");
    }
    rig.bare(volume, Operation::Flush, 0);
    rig.bare(volume, Operation::WriteZeroes, 0);
    assert_eq!(rig.read(volume, 0), 0);
    there(&rig, volume);
    rig.end();
    // It opens on a full file system, too.
    let members = Members::open(&[path], LONG).expect("it is free");
    let rig = Rig::over(Opened::open(members, OpenOptions::default()).expect("it opens"));
    there(&rig, volume);
    assert_eq!(rig.find(7), volume);
    // What the zeroes gave back has its space.
    let mut next = first + 40;
    while rig.write(volume, next, 4).is_ok() {
        assert_eq!(rig.read(volume, next), 4);
        next += 1;
    }
    assert_eq!(rig.write(volume, next, 4), Err(Error::CapacityExceeded));
    fs::remove_file(ballast).expect("it is there");
    rig.write(volume, next, 5).expect("there is space again");
    assert_eq!(rig.read(volume, next), 5);
    there(&rig, volume);
    rig.end();
}

#[test]
fn a_file_whose_space_is_set_aside_keeps_the_promise_of_a_thick_volume() {
    let system = FileSystem::of("thick", 96 * MIB);
    let path = system.path("member");
    let opened = create(&path, 48 * MIB, Allocation::Full);
    assert!(opened.has_its_space().expect("it can be asked"));
    let rig = Rig::over(opened);
    let runs = 24 * MIB / (RUN * 4096);
    let volume = rig.volume(7, 24 * MIB, true);
    let ballast = system.fill();
    for run in 0..runs {
        rig.write(volume, run, 1).expect("a thick volume has its space");
    }
    for run in 0..runs {
        assert_eq!(rig.read(volume, run), 1);
    }
    assert!(ballast.exists());
    rig.end();
}
