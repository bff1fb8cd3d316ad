//! The lock on an open file outlives a killed process until its last request has ended.
//!
//! A child process takes a device as the daemon does, gives the kernel a write through the
//! daemon's event loop, and is killed while the device holds that write. A restarted daemon
//! waits for the lock: the earlier one's last write may still reach the disk.

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use fathom_runtime::device::{DeviceError, DeviceFile};
use fathom_test_fuse::{DiskFiles, WAIT_MAX};
use fathom_test_support::disk::{SimulatedDisk, Unwritten};

/// How long a lock that must not be granted is waited for.
const PATIENCE: Duration = Duration::from_millis(300);
const CAPACITY_BYTES: u64 = 4 << 20;

fn files(label: &str) -> DiskFiles {
    DiskFiles::mount(label, vec![SimulatedDisk::new(CAPACITY_BYTES, Unwritten::Zero, 1)])
}

/// The program that holds the lock; killed when dropped.
struct Holder(Child);

impl Holder {
    /// Starts it and waits until it has the lock.
    fn start(path: &Path) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_holder"));
        let child = command.arg(path).stdout(Stdio::piped()).spawn();
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

/// Whether somebody else has it, who is known by his process while he lives.
fn is_in_use(path: &Path) -> bool {
    matches!(DeviceFile::open(path, Duration::ZERO), Err(DeviceError::InUse { .. }))
}

/// Kills the holder of `path` while the disk of `files` holds his write, and checks that the
/// lock is granted when that has ended, and not before.
fn killed_with_a_write_under_way(files: &DiskFiles, path: &Path) {
    let rule = files.hold(|arrival| arrival.kind.is_write());
    let holder = Holder::start(path);
    let held = files.wait_for_held(1, |_| true);
    assert!(is_in_use(path), "the holder lives");
    holder.kill();
    assert!(is_in_use(path), "the process is gone, its request is not");

    // A restarted daemon waits.
    let (sender, opened) = mpsc::channel();
    let waiting = path.to_owned();
    thread::spawn(move || sender.send(DeviceFile::open(&waiting, WAIT_MAX)));
    assert!(opened.recv_timeout(PATIENCE).is_err(), "it is not granted while the write is held");
    assert_eq!(files.held(), held);
    files.lift(rule);
    files.release_all();
    let device = opened.recv_timeout(2 * WAIT_MAX).expect("it ends").expect("it is granted");
    // What the dead process wrote has reached the disk by then.
    let mut bytes = [0; 4096];
    device.read_at(0, &mut bytes).expect("it can be read");
    assert_eq!(bytes, [0xAB; 4096]);
}

#[test]
fn the_lock_of_a_file_outlives_a_killed_process_until_its_last_request_has_ended() {
    let files = files("flock");
    killed_with_a_write_under_way(&files, &files.path(0));
}

#[test]
fn the_lock_of_a_file_is_free_when_its_holder_is_gone_with_nothing_under_way() {
    let files = files("free");
    let holder = Holder::start(&files.path(0));
    files.wait_for_arrivals(1);
    drop(holder);
    let device = DeviceFile::open(&files.path(0), WAIT_MAX);
    assert!(device.is_ok(), "{device:?}");
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
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("--detach").arg(&self.0).status();
    }
}

#[test]
fn the_lock_of_a_block_device_outlives_a_killed_process_until_its_last_request_has_ended() {
    let files = files("loop");
    let device = Loop::over(&files.path(0));
    killed_with_a_write_under_way(&files, &device.0);
}
