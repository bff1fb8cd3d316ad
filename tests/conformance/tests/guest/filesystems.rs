//! ext4 and XFS, and the space that they give back.

use crate::scene::{DEVICE, LOAD_LIMIT, SOON, Scene};

const MIB: u64 = 1 << 20;
/// What the files take, in MiB.
const FILES: u64 = 48;
/// What a file system may hold of the pool beyond what it did when it was empty, when its files are
/// deleted and the rest is trimmed: its own tables, and clusters that it uses a part of.
const LEFT: u64 = 8 * MIB;

#[test]
fn ext4_is_made_used_and_trimmed() {
    let check = format!("e2fsck -f -n {DEVICE}");
    is_made_used_and_trimmed(&format!("/sbin/mkfs.ext4 -q {DEVICE}"), &check);
}

#[test]
fn xfs_is_made_used_and_trimmed() {
    let check = format!("xfs_repair -n {DEVICE}");
    is_made_used_and_trimmed(&format!("mkfs.xfs -q {DEVICE}"), &check);
}

fn is_made_used_and_trimmed(make: &str, check: &str) {
    let scene = Scene::new();
    let sh = |command: &str| scene.guest.begin(command).succeed(LOAD_LIMIT);
    scene.connect("--nr-io-queues=2");
    sh(make);
    sh(&format!("mount {DEVICE} /mnt && sync"));
    let empty = scene.node.capacity().allocated.0;
    sh(&format!("dd if=/dev/urandom of=/mnt/kept bs=1M count={}", FILES / 3));
    sh(&format!("dd if=/dev/urandom of=/mnt/gone bs=1M count={}", FILES / 3));
    sh("mkdir /mnt/many && cp /mnt/gone /mnt/many/gone && sync");
    sh("for name in $(seq 200); do echo $name >/mnt/many/$name; done; md5sum /mnt/kept >/tmp/sum");
    let full = scene.node.capacity().allocated.0;
    assert!(full >= empty + FILES * MIB, "{full} bytes with all files, {empty} without");

    sh("umount /mnt");
    sh(check);
    sh("echo 3 >/proc/sys/vm/drop_caches");
    sh(&format!("mount {DEVICE} /mnt && md5sum -c /tmp/sum && cat /mnt/many/200"));
    sh("cmp /mnt/gone /mnt/many/gone");
    sh("rm -r /mnt/gone /mnt/many && sync && fstrim -v /mnt");
    scene.wait_for_space(empty + FILES / 3 * MIB + LEFT);
    sh("echo 3 >/proc/sys/vm/drop_caches; md5sum -c /tmp/sum");

    sh("umount /mnt");
    sh(check);
    // All of it is given back.
    sh(&format!("blkdiscard {DEVICE}"));
    scene.wait_for_space(0);
    scene.disconnect();
    scene.guest.wait_until(&format!("! [ -e {DEVICE} ]"), SOON);
    scene.guest.finish(&[]);
}
