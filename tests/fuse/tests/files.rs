//! Files whose device is a simulated disk: what arrives there, and what the test decides.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, IoSlice},
    os::unix::fs::{FileExt, OpenOptionsExt},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, mpsc},
    thread,
};

use fathom_test_fuse::{
    Arrival, Counts, DiskFiles, Failure, Kind, REQUEST_BYTES_MAX, Times, WAIT_MAX,
    ring::{Opened, Outcome, Ring},
};
use fathom_test_support::{
    disk::{Cut, SimulatedDisk, Unwritten},
    random::Random,
};
use rustix::fs::{FallocateFlags, OFlags, fallocate};
use rustix::io::ReadWriteFlags;

const MIB: u64 = 1 << 20;
const BLOCK: usize = 4096;

fn disks(count: u64) -> Vec<SimulatedDisk> {
    (0..count).map(|seed| SimulatedDisk::new(16 * MIB, Unwritten::Garbage, seed)).collect()
}

fn open(files: &DiskFiles, disk: usize) -> File {
    let flags = OFlags::DIRECT.bits().cast_signed();
    let mut options = OpenOptions::new();
    options.read(true).write(true).custom_flags(flags).open(files.path(disk)).expect("it opens")
}

fn read(file: &File, offset: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, offset).expect("it can be read");
    bytes
}

fn block_of(disk: &mut SimulatedDisk, offset: u64) -> Vec<u8> {
    let mut bytes = vec![0; BLOCK];
    disk.read(offset, &mut bytes).expect("a sound disk");
    bytes
}

fn ring(file: &Arc<File>) -> Ring {
    let file: Opened = Arc::<File>::clone(file);
    Ring::over(vec![file]).expect("io_uring")
}

fn wait(write: &mpsc::Receiver<Outcome>) {
    let outcome = write.recv_timeout(WAIT_MAX).expect("it ends");
    assert_eq!(outcome.map_err(|errno| errno.0), Ok(Vec::new()));
}

/// What arrived, without its numbers.
fn kinds(arrivals: &[Arrival]) -> Vec<(Kind, u64, u64)> {
    arrivals.iter().map(|arrival| (arrival.kind, arrival.offset, arrival.length)).collect()
}

#[test]
fn a_request_of_a_mebibyte_arrives_whole_and_a_longer_one_in_pieces() {
    let files = DiskFiles::mount("whole", disks(1));
    let file = open(&files, 0);
    let whole = u64::from(REQUEST_BYTES_MAX);
    let file = Arc::new(file);
    let ring = ring(&file);
    let write = ring.write(0, MIB, &vec![7; REQUEST_BYTES_MAX as usize]);
    wait(&write);
    assert_eq!(kinds(&files.arrivals()), [(Kind::Write { fua: false }, MIB, whole)]);
    let write = ring.write(0, 0, &vec![8; 3 * REQUEST_BYTES_MAX as usize]);
    wait(&write);
    let mut pieces = kinds(&files.arrivals()[1..]);
    pieces.sort_unstable_by_key(|piece| piece.1);
    assert_eq!(pieces, [0, 1, 2].map(|at| (Kind::Write { fua: false }, at * whole, whole)));
    assert_eq!(read(&file, 2 * MIB, BLOCK), [8; BLOCK]);
}

#[test]
fn flushes_fua_writes_and_discards_arrive_as_such() {
    let files = DiskFiles::mount("kinds", disks(1));
    let file = open(&files, 0);
    file.write_all_at(&[1; BLOCK], 0).expect("written");
    file.sync_data().expect("flushed");
    file.sync_all().expect("flushed");
    let slices = [IoSlice::new(&[2; BLOCK])];
    rustix::io::pwritev2(&file, &slices, 4096, ReadWriteFlags::DSYNC).expect("written");
    rustix::io::pwritev2(&file, &slices, 8192, ReadWriteFlags::SYNC).expect("written");
    let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    fallocate(&file, hole, 4096, 4096).expect("discarded");
    let block = BLOCK as u64;
    assert_eq!(
        kinds(&files.arrivals()),
        [
            (Kind::Write { fua: false }, 0, block),
            (Kind::Flush, 0, 0),
            (Kind::Flush, 0, 0),
            (Kind::Write { fua: true }, 4096, block),
            (Kind::Write { fua: true }, 8192, block),
            (Kind::Discard, 4096, block),
        ],
    );
    let expected =
        Counts { writes: 3, fua_writes: 2, discards: 1, flushes: 2, ..Counts::default() };
    assert_eq!(files.counts(), expected);
    assert_eq!(read(&file, 4096, BLOCK), [0; BLOCK]);
    // The FUA writes are stable without a flush after them, the discard is not.
    let mut cut = files.moment().after_power_cut(&mut Random::new(1), Cut::LoseAll);
    assert_eq!(block_of(&mut cut[0], 4096), [2; BLOCK]);
    assert_eq!(block_of(&mut cut[0], 8192), [2; BLOCK]);
}

#[test]
fn nothing_is_cached_between_the_program_and_the_disk() {
    let files = DiskFiles::mount("cache", disks(1));
    // Without O_DIRECT, too.
    let buffered = File::options().read(true).write(true).open(files.path(0)).expect("it opens");
    for file in [&open(&files, 0), &buffered] {
        file.write_all_at(&[1; BLOCK], 0).expect("written");
        let mut below = vec![0; BLOCK];
        files.change(|disks| {
            disks[0].read(0, &mut below).expect("read");
            disks[0].write(0, &[2; BLOCK], false).expect("written");
        });
        assert_eq!(below, [1; BLOCK], "a write arrives before it is answered");
        assert_eq!(read(file, 0, BLOCK), [2; BLOCK], "each read arrives");
    }
    assert_eq!(read(&buffered, 4090, 12)[..6], [2; 6], "bytes of any alignment can be read");
    let refused = buffered.write_at(&[1; 100], 50).expect_err("a disk has sectors");
    assert_eq!(refused.kind(), io::ErrorKind::InvalidInput);
}

#[test]
fn a_file_grows_from_both_sides() {
    let files = DiskFiles::mount("growth", disks(1));
    let file = open(&files, 0);
    assert_eq!(file.metadata().expect("attributes").len(), 16 * MIB);
    file.set_len(20 * MIB).expect("it grows");
    file.write_all_at(&[3; BLOCK], 20 * MIB - 4096).expect("written");
    fallocate(&file, FallocateFlags::empty(), 0, 24 * MIB).expect("it grows");
    file.write_all_at(&[4; BLOCK], 24 * MIB).expect("a write beyond the end makes it longer");
    let length = 24 * MIB + 4096;
    assert_eq!(file.metadata().expect("attributes").len(), length);
    assert_eq!(files.change(|disks| disks[0].capacity()), length);
    files.change(|disks| disks[0].grow(32 * MIB));
    assert_eq!(file.metadata().expect("attributes").len(), 32 * MIB);
    file.write_all_at(&[5; BLOCK], 32 * MIB - 4096).expect("written");
    assert_eq!(read(&file, 32 * MIB - 4096, BLOCK), [5; BLOCK]);
    assert_eq!(file.set_len(MIB).expect_err("no shrinking").kind(), io::ErrorKind::InvalidInput);
    let listed: Vec<_> = fs::read_dir(files.path(0).parent().expect("a folder"))
        .expect("it can be listed")
        .map(|entry| entry.expect("an entry").file_name())
        .collect();
    assert_eq!(listed, ["disk0"]);
}

#[test]
fn held_requests_are_in_flight_together_and_are_answered_in_any_order() {
    const WRITES: usize = 64;
    let files = DiskFiles::mount("held", disks(2));
    let rule = files.hold(|arrival| arrival.disk == 0 && arrival.kind.is_write());
    let file = Arc::new(open(&files, 0));
    let ring = ring(&file);
    let mut pending: Vec<_> = (0..WRITES)
        .map(|at| {
            let fill = u8::try_from(at).expect("small");
            ring.write(0, (at * BLOCK) as u64, &[fill; BLOCK])
        })
        .collect();
    let held = files.wait_for_held(WRITES, |_| true);
    // Neither the other disk nor reads and flushes of the same one wait for them.
    open(&files, 1).write_all_at(&[9; BLOCK], 0).expect("written");
    assert_ne!(read(&file, 0, BLOCK), [0; BLOCK], "it has not reached the disk");
    file.sync_data().expect("flushed");
    // The last one given is answered first.
    let last = held.iter().max_by_key(|arrival| arrival.offset).expect("many");
    assert!(files.release(last));
    assert!(!files.release(last), "it is held no longer");
    let newest = pending.pop().expect("many");
    wait(&newest);
    assert!(pending.iter().all(|write| write.try_recv().is_err()), "the others wait");
    files.lift(rule);
    files.release_all();
    pending.iter().for_each(wait);
    for at in 0..WRITES {
        let fill = u8::try_from(at).expect("small");
        assert_eq!(read(&file, (at * BLOCK) as u64, BLOCK), [fill; BLOCK]);
    }
}

#[test]
fn an_answer_can_be_held_of_what_has_reached_the_disk() {
    let files = DiskFiles::mount("answers", disks(1));
    let rule = files.hold_answers(|arrival| arrival.kind == Kind::Flush);
    let file = open(&files, 0);
    file.write_all_at(&[6; BLOCK], 0).expect("written");
    thread::scope(|scope| {
        let flush = scope.spawn(|| file.sync_data());
        let held = files.wait_for_held(1, |_| true);
        let mut cut = files.moment().after_power_cut(&mut Random::new(1), Cut::LoseAll);
        assert_eq!(block_of(&mut cut[0], 0), [6; BLOCK]);
        assert!(!flush.is_finished());
        files.lift(rule);
        assert!(files.release_with(&held[0], Failure::Io), "it is answered as the test says");
        let error = flush.join().expect("no panic").expect_err("the test said so");
        assert_eq!(error.raw_os_error(), Some(5));
    });
}

#[test]
fn requests_fail_once_or_for_ever() {
    let files = DiskFiles::mount("faults", disks(1));
    let file = open(&files, 0);
    let first = |arrival: &Arrival| arrival.kind.is_write() && arrival.offset == 0;
    files.fail(Times::Once, Failure::Io, first);
    let error = file.write_at(&[1; BLOCK], 0).expect_err("injected");
    assert_eq!(error.raw_os_error(), Some(5), "EIO");
    file.write_all_at(&[1; BLOCK], 0).expect("only once");
    let rule = files.fail(Times::Always, Failure::NoSpace, first);
    for _ in 0..3 {
        let error = file.write_at(&[2; BLOCK], 0).expect_err("injected");
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    }
    file.write_all_at(&[2; BLOCK], 4096).expect("elsewhere");
    files.lift(rule);
    assert_eq!(read(&file, 0, BLOCK), [1; BLOCK], "nothing was written");
    files.fail(Times::Always, Failure::Io, |arrival| arrival.kind == Kind::Flush);
    assert!(file.sync_data().is_err());
}

#[test]
fn a_moment_is_the_same_for_all_disks_and_knows_what_is_under_way() {
    let files = DiskFiles::mount("moment", disks(2));
    let (first, second) = (Arc::new(open(&files, 0)), open(&files, 1));
    first.write_all_at(&[1; BLOCK], 0).expect("written");
    first.sync_data().expect("flushed");
    second.write_all_at(&[1; BLOCK], 0).expect("written");
    let rule = files.hold(|arrival| arrival.kind.is_write());
    let ring = ring(&first);
    let write = ring.write(0, 4096, &[2; BLOCK]);
    files.wait_for_held(1, |_| true);
    let moment = files.moment();
    assert_eq!(moment.under_way(), 1);
    files.lift(rule);
    files.release_all();
    wait(&write);
    second.write_all_at(&[3; BLOCK], 0).expect("written after the moment");

    let mut crashed = moment.after_process_crash();
    assert_eq!(block_of(&mut crashed[0], 4096), [2; BLOCK], "the kernel had it");
    assert_eq!(block_of(&mut crashed[1], 0), [1; BLOCK]);
    let mut kept = [0; 2];
    for seed in 0..64 {
        let mut cut = moment.after_power_cut(&mut Random::new(seed), Cut::LoseAll);
        assert_eq!(block_of(&mut cut[0], 0), [1; BLOCK], "it was flushed");
        assert_ne!(block_of(&mut cut[0], 4096), [2; BLOCK], "it was not");
        assert_ne!(block_of(&mut cut[1], 0), [1; BLOCK], "another disk's flush is not its own");
        let mut cut = moment.after_power_cut(&mut Random::new(seed), Cut::KeepAll);
        assert_eq!(block_of(&mut cut[1], 0), [1; BLOCK]);
        kept[usize::from(block_of(&mut cut[0], 4096) == [2; BLOCK])] += 1;
    }
    assert!(kept.iter().all(|&times| times > 10), "under way: at times done, at times not");
}

#[test]
fn a_moment_comes_just_before_the_change_that_was_asked_for() {
    let files = DiskFiles::mount("at", disks(1));
    let file = open(&files, 0);
    let (sender, moments) = mpsc::channel();
    files.at(2, move |moment| sender.send(moment).expect("the test waits for it"));
    for fill in 1..=4 {
        file.write_all_at(&[fill; BLOCK], 0).expect("written");
        read(&file, 0, BLOCK);
    }
    let moment = moments.recv().expect("it came");
    let mut cut = moment.after_power_cut(&mut Random::new(1), Cut::LoseAll);
    assert_ne!(block_of(&mut cut[0], 0)[0], 3);
    assert_eq!(block_of(&mut moment.after_process_crash()[0], 0), [3; BLOCK]);
    assert!(moments.recv().is_err(), "one moment");
}

/// Whether the folder is a mount point.
fn is_mounted(files: &str) -> bool {
    fs::read_to_string("/proc/self/mountinfo").expect("mounts").contains(files)
}

#[test]
fn nothing_is_left_when_a_test_fails_with_requests_held_and_a_disk_silent() {
    let mut folder = String::new();
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let files = DiskFiles::mount("left", disks(1));
        let path = files.path(0);
        folder = path.parent().expect("a folder").to_str().expect("a name").to_owned();
        assert!(is_mounted(&folder));
        files.silence(0);
        let (sender, results) = mpsc::channel();
        let file = open(&files, 0);
        // A program that waits for the disk that never answers, and does not close its file.
        let program = thread::spawn(move || {
            let result = file.write_at(&[1; BLOCK], 0);
            sender.send(result.map_err(|error| error.raw_os_error())).expect("somebody listens");
            file
        });
        files.wait_for_held(1, |_| true);
        let _fail = (results, program, files);
        panic!("the test fails here");
    }));
    assert!(outcome.is_err());
    assert!(!is_mounted(&folder), "{folder} is still mounted");
    assert!(!fs::exists(&folder).expect("its parent is there"), "{folder} is still there");
}

#[test]
fn who_waits_for_a_silent_disk_gets_an_error_in_the_end() {
    let files = DiskFiles::mount("silent", disks(1));
    files.silence(0);
    let file = open(&files, 0);
    let program = thread::spawn(move || {
        let result = file.write_at(&[1; BLOCK], 0);
        (result.map_err(|error| error.raw_os_error()), file)
    });
    files.wait_for_held(1, |_| true);
    drop(files);
    let (result, file) = program.join().expect("no panic");
    assert_eq!(result, Err(Some(5)));
    assert!(file.sync_data().is_err(), "the file is cut off");
}
