//! Verified load, and resets under it.

use fathom_test_conformance::guest::{Guest, Outcome, Running};

use crate::scene::{DEVICE, LOAD_LIMIT, SOON, Scene, verified};

#[test]
fn what_several_jobs_write_at_random_is_verified() {
    let scene = Scene::new();
    scene.connect("--hdr-digest --data-digest");
    for load in [
        "--rw=randwrite --bs=4k --size=4m --numjobs=4 --iodepth=32",
        "--rw=randwrite --bssplit=4k/40:16k/30:64k/20:1m/10 --size=16m --numjobs=2 --iodepth=8",
        // Written anew, partly without a whole block's alignment of the cluster, and flushed.
        "--rw=randwrite --bs=12k --size=6m --numjobs=2 --iodepth=8 --fsync=16",
    ] {
        let increment = "--offset_increment=16m";
        scene.guest.begin(&verified(DEVICE, &format!("{load} {increment}"))).succeed(LOAD_LIMIT);
    }
    scene.disconnect();
    scene.guest.finish(&[]);
}

#[test]
fn a_reset_under_load_costs_no_error() {
    let scene = Scene::new();
    scene.connect("--nr-io-queues=2");
    let load = Load::begin(&scene.guest, DEVICE);
    for _ in 0..3 {
        load.goes_on();
        scene.guest.sh("nvme reset /dev/nvme0");
    }
    load.goes_on();
    load.end();
    scene.disconnect();
    scene.guest.finish(&["nvme nvme0: resetting controller", NO_PATH]);
}

/// What a kernel says of a request that has to wait until there is a path again.
pub(crate) const NO_PATH: &str = "block nvme0n1: no usable path - requeuing I/O";
/// For how many writes of the host a load is watched until it is taken to go on.
const SOME: u64 = 100;
/// Where a load's process is noted in the guest.
const LOAD: &str = "/tmp/load";
/// The exit status of a fio that was interrupted and had no error until then.
const INTERRUPTED: i32 = 128;

/// A load that writes and verifies until it is ended.
pub(crate) struct Load<'a> {
    guest: &'a Guest,
    fio: Running<'a>,
}

impl<'a> Load<'a> {
    /// Begins it on the first 8 MiB of a device or file.
    pub(crate) fn begin(guest: &'a Guest, file: &str) -> Self {
        let options = "--rw=randwrite --bs=4k --size=4m --numjobs=2 --iodepth=16 \
                       --offset_increment=4m --verify_backlog=256 --time_based --runtime=1h";
        // Linux sends from the task that submits, without MSG_NOSIGNAL: where the target is killed,
        // that task may get a SIGPIPE, though its I/O is done later without an error.
        let fio = format!("trap '' PIPE; echo $$ >{LOAD}; exec {}", verified(file, options));
        Self { guest, fio: guest.begin(&fio) }
    }

    /// Waits until the host has ended some more writes than until now.
    pub(crate) fn goes_on(&self) {
        // Of all paths: the device of all of them together does not count on Linux 6.1.
        let count = "cat /sys/block/nvme0c*n1/stat | awk '{ n += $5 } END { print n }'";
        let now: u64 = self.guest.sh(count).trim().parse().expect("a number of writes");
        self.guest.wait_until(&format!("[ $({count}) -gt {} ]", now + SOME), SOON);
    }

    /// Ends it. Until then it has met no error.
    pub(crate) fn end(self) {
        // Only the first of its processes, which tells the others: what fio does at a signal is not
        // safe in one that works.
        self.guest.sh(&format!("kill -INT $(cat {LOAD})"));
        let Outcome { status, output } = self.fio.wait(LOAD_LIMIT);
        assert!(status == INTERRUPTED && output.contains("err= 0"), "{status}: {output}");
    }

    /// Waits until it ends by itself, with the errors that it has met.
    pub(crate) fn fails(self) -> Outcome {
        self.fio.wait(SOON)
    }
}
