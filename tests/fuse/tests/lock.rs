//! The lock on an open file outlives a killed process until its last request has ended.
//!
//! A child process locks, gives the kernel a write through an io_uring, and is killed while the
//! device holds that write. This is why a restarted daemon waits for the lock of its pools: the
//! earlier one's last writes may still reach the disk.

use std::{
    fs::{File, OpenOptions},
    io::{self, BufRead, BufReader},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::Instant,
};

use fathom_test_fuse::{DiskFiles, WAIT_MAX};
use fathom_test_support::disk::{SimulatedDisk, Unwritten};
use rustix::fs::{FlockOperation, OFlags, flock};

const CAPACITY_BYTES: u64 = 4 << 20;

fn files(label: &str) -> DiskFiles {
    DiskFiles::mount(label, vec![SimulatedDisk::new(CAPACITY_BYTES, Unwritten::Zero, 1)])
}

/// The program that holds the lock; killed when dropped.
struct Holder(Child);

impl Holder {
    /// Starts it and waits until it has the lock.
    fn start(how: &str, path: &Path) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_holder"));
        let child = command.arg(how).arg(path).stdout(Stdio::piped()).spawn();
        let mut holder = Self(child.expect("it starts"));
        let output = holder.0.stdout.take().expect("it is piped");
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line).expect("it speaks");
        assert_eq!(line, "locked\n");
        holder
    }

    /// Kills it by SIGKILL and waits until it is gone.
    fn kill(mut self) {
        self.0.kill().expect("it can be killed");
        let status = self.0.wait().expect("it can be waited for");
        assert_eq!(status.code(), None, "it was killed and did not end by itself");
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn flock_is_refused_until_the_last_request_of_a_killed_process_has_ended() {
    let files = files("flock");
    let rule = files.hold(|arrival| arrival.kind.is_write());
    let holder = Holder::start("flock", &files.path(0));
    let held = files.wait_for_held(1, |_| true);
    let file = File::options().read(true).write(true).open(files.path(0)).expect("it opens");
    let refused = flock(&file, FlockOperation::NonBlockingLockExclusive);
    assert!(refused.is_err(), "the holder lives");

    holder.kill();
    let refused = flock(&file, FlockOperation::NonBlockingLockExclusive);
    assert!(refused.is_err(), "the process is gone, its request is not");

    // Who waits for the lock gets it when the request has ended, and not before.
    let (sender, locked) = mpsc::channel();
    let waiting = thread::spawn(move || {
        sender.send(flock(&file, FlockOperation::LockExclusive)).expect("the test waits");
        file
    });
    assert!(locked.try_recv().is_err());
    assert_eq!(files.held(), held, "it is still held");
    files.lift(rule);
    files.release_all();
    locked.recv_timeout(WAIT_MAX).expect("granted").expect("without an error");
    let file = waiting.join().expect("no panic");
    // What the dead process wrote has reached the disk by then.
    let mut bytes = [0; 4096];
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut bytes, 0).expect("it can be read");
    assert_eq!(bytes, [0xAB; 4096]);
}

#[test]
fn flock_is_free_at_once_when_a_killed_process_has_no_request_under_way() {
    let files = files("free");
    let rule = files.hold(|arrival| arrival.kind.is_write());
    let holder = Holder::start("flock", &files.path(0));
    files.wait_for_held(1, |_| true);
    files.lift(rule);
    // It ends by itself after its write, at the latest when it is killed.
    files.release_all();
    drop(holder);
    let file = File::options().read(true).write(true).open(files.path(0)).expect("it opens");
    let (sender, locked) = mpsc::channel();
    thread::spawn(move || sender.send(flock(&file, FlockOperation::LockExclusive)));
    locked.recv_timeout(WAIT_MAX).expect("granted").expect("without an error");
}

/// A loop device over a file, with direct I/O; detached when dropped.
struct Loop(PathBuf);

impl Loop {
    fn over(path: &Path) -> Self {
        let mut command = Command::new("losetup");
        command.args(["--find", "--show", "--direct-io=on", "--sector-size=4096"]).arg(path);
        let output = command.output().expect("losetup can be run (Debian: package mount)");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "losetup needs root and a kernel with loop: {error}");
        Self(String::from_utf8(output.stdout).expect("a path").trim().into())
    }

    /// Opens it as one who wants it for himself.
    fn claim(&self) -> io::Result<File> {
        let flags = OFlags::EXCL.bits().cast_signed();
        OpenOptions::new().read(true).write(true).custom_flags(flags).open(&self.0)
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("--detach").arg(&self.0).status();
    }
}

#[test]
fn a_block_device_stays_claimed_until_the_last_request_of_a_killed_process_has_ended() {
    let files = files("loop");
    let device = Loop::over(&files.path(0));
    let rule = files.hold(|arrival| arrival.kind.is_write());
    let holder = Holder::start("exclusive", &device.0);
    let held = files.wait_for_held(1, |_| true);
    let busy = |claim: io::Result<File>| {
        claim.expect_err("it is claimed").kind() == io::ErrorKind::ResourceBusy
    };
    assert!(busy(device.claim()), "the holder lives");

    holder.kill();
    assert!(busy(device.claim()), "the process is gone, its request is not");
    assert_eq!(files.held(), held, "it is still held");
    files.lift(rule);
    files.release_all();
    // There is no call that waits for a claim, so it is tried until it is granted.
    let deadline = Instant::now() + WAIT_MAX;
    let claimed = loop {
        match device.claim() {
            Ok(file) => break file,
            Err(error) if Instant::now() < deadline => {
                assert_eq!(error.kind(), io::ErrorKind::ResourceBusy);
                thread::yield_now();
            }
            Err(error) => panic!("it is not granted in {WAIT_MAX:?}: {error}"),
        }
    };
    drop(claimed);
    let mut bytes = [0; 4096];
    files.change(|disks| disks[0].read(0, &mut bytes).expect("a sound disk"));
    assert_eq!(bytes, [0xAB; 4096]);
}
