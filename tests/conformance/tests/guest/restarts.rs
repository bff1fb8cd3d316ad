//! A daemon that ends and starts again under a mounted file system.

use fathom_test_conformance::{
    daemon::Daemon,
    guest::{Guest, Kernel},
};

use crate::{
    paths::{LOSS, OPTIONS, SILENCE},
    scene::{DEVICE, LOAD_LIMIT, SOON, nvme_connect},
    traffic::Load,
};

/// How often the daemon ends.
const RESTARTS: u32 = 20;
/// The volume.
const UUID: &str = "67e55044-10b1-426f-9247-bb680e5fe0c8";
/// The file that the load writes and verifies.
const FILE: &str = "/mnt/load";

#[test]
fn kills_of_the_daemon_under_load_cost_no_error() {
    restart_under_load("/sbin/mkfs.ext4 -q", "e2fsck -f -n", Daemon::kill);
}

#[test]
fn terminations_of_the_daemon_under_load_cost_no_error() {
    restart_under_load("mkfs.xfs -q", "xfs_repair -n", Daemon::terminate);
}

fn restart_under_load(make: &str, check: &str, end: impl Fn(&mut Daemon)) {
    let mut daemon = Daemon::create("1GiB");
    daemon.command(&format!("volume create db --size 512MiB --uuid {UUID}"));
    daemon.command("volume export db --any-host");
    let guest = Guest::boot(Kernel::of_this_run());
    let nqn = format!("nqn.2014-08.org.nvmexpress:uuid:{UUID}");
    guest.sh(&nvme_connect(&nqn, daemon.address().port(), OPTIONS));
    guest.wait_until(&format!("[ -b {DEVICE} ]"), SOON);
    guest.begin(&format!("{make} {DEVICE}")).succeed(LOAD_LIMIT);
    guest.sh(&format!("mount {DEVICE} /mnt"));
    guest.sh(&format!("dd if=/dev/zero of={FILE} bs=1M count=8 conv=fsync"));
    let mount = "grep ' /mnt ' /proc/self/mountinfo";
    let mounted = guest.sh(mount);

    let load = Load::begin(&guest, FILE);
    for _ in 0..RESTARTS {
        load.goes_on();
        end(&mut daemon);
        daemon.start();
    }
    load.goes_on();
    load.end();
    assert_eq!(guest.sh(mount), mounted, "it was not mounted anew, nor read-only");
    guest.sh("umount /mnt");
    guest.sh(&format!("{check} {DEVICE}"));
    guest.sh(&format!("nvme disconnect -n {nqn}"));
    guest.finish(&[LOSS, SILENCE].concat());
}
