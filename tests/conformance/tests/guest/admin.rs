//! What can be asked of a controller, resizing, single commands.

use fathom_test_conformance::guest::Outcome;
use fathom_test_target::rig::VOLUME;

use crate::scene::{BLOCKS, DEVICE, SOON, Scene};

#[test]
fn a_controller_answers_what_hosts_ask() {
    let scene = Scene::new();
    scene.connect("");
    let mut missing = Vec::new();
    let mut ask = |question: &str, answers: &[&str]| {
        let Outcome { status, output } = scene.guest.run(question);
        // `nvme` lines things up; that is nothing of ours.
        let plain = output.split_whitespace().collect::<Vec<_>>().join(" ");
        let parts = answers.iter().filter(|part| !plain.contains(**part));
        let parts: Vec<_> = parts.collect();
        if status != 0 || !parts.is_empty() {
            missing.push(format!("`{question}` ends with {status}, without {parts:?}:\n{output}"));
        }
    };
    ask(
        "nvme id-ctrl /dev/nvme0",
        &["mn : Fathom", "cmic : 0xb", "nn : 1", "mnan : 1", &format!("subnqn : {VOLUME}")],
    );
    ask(&format!("nvme id-ns {DEVICE}"), &[&format!("nsze : {BLOCKS:#x}"), "nmic : 0x1"]);
    ask(&format!("nvme ns-descs {DEVICE}"), &["uuid : 00000000-0000-0000-0000-000000001234"]);
    ask("nvme list-ns /dev/nvme0", &["[ 0]:0x1"]);
    ask("nvme list-subsys", &[VOLUME, "live"]);
    ask("nvme list", &[DEVICE, "Fathom"]);
    ask("nvme smart-log /dev/nvme0", &["critical_warning : 0", "host_write_commands : 0"]);
    ask("nvme error-log /dev/nvme0", &["Error Log Entries"]);
    ask("nvme fw-log /dev/nvme0", &["afi : 0x1", "(0.1"]);
    ask("nvme changed-ns-list-log /dev/nvme0", &[]);
    ask("nvme ana-log /dev/nvme0", &["ngrps : 1", "state : optimized", "nsid : 1"]);
    ask("nvme effects-log /dev/nvme0 --csi=0", &["Write", "Dataset Management", "Compare"]);
    ask("nvme supported-log-pages /dev/nvme0", &["SMART", "Asymmetric Namespace Access"]);
    for (feature, answers) in [
        ("0x01", &["Arbitration"][..]),
        ("0x02", &["Power Management"]),
        ("0x06", &["Volatile Write Cache Enable (WCE): Enabled"]),
        ("0x07", &["Number of"]),
        ("0x0b", &["Namespace Attribute Notices : Send async event"]),
        ("0x0f", &["Keep Alive Timeout"]),
    ] {
        ask(&format!("nvme get-feature /dev/nvme0 -f {feature} -H"), answers);
    }
    let host_id = "nvme get-feature /dev/nvme0 -f 0x81 --cdw11=1 --data-len=16 -b | hexdump -C";
    ask(host_id, &["11 11 11 11 22 22 33 33 44 44 55 55 55 55 55 55"]);
    for (property, answers) in [
        ("0x0", &["CRIMS", "NVM command set is Supported"][..]),
        ("0x8", &["NVMe specification 2.1"]),
        ("0x14", &["Enable (EN): Yes"]),
        ("0x1c", &["Ready (RDY): Yes"]),
    ] {
        ask(&format!("nvme get-property /dev/nvme0 --offset={property} -H"), answers);
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
    scene.disconnect();
    scene.guest.finish(&[]);
}

#[test]
fn a_resize_is_seen_without_being_looked_for() {
    let scene = Scene::new();
    scene.connect("");
    let size = |blocks: u64| format!("[ $(blockdev --getsize64 {DEVICE}) -eq {} ]", blocks * 4096);
    scene.guest.wait_until(&size(BLOCKS), SOON);
    for blocks in [BLOCKS * 2, BLOCKS * 4] {
        scene.node.resize(blocks);
        scene.guest.wait_until(&size(blocks), SOON);
        // The last block is there.
        let seek = blocks - 1;
        let last = format!("dd if=/dev/urandom of={DEVICE} bs=4096 count=1 seek={seek} conv=fsync");
        scene.guest.sh(&last);
    }
    scene.disconnect();
    scene.guest.finish(&["detected capacity change"]);
}

#[test]
fn single_commands_do_what_they_say() {
    let scene = Scene::new();
    scene.connect("");
    let sh = |command: &str| scene.guest.sh(command);
    let same = |left: &str, right: &str| sh(&format!("cmp -n 65536 {left} {right}"));
    sh("dd if=/dev/urandom of=/tmp/data bs=4096 count=16");
    sh("dd if=/dev/zero of=/tmp/zero bs=4096 count=16");
    // 16 blocks from block 32. The count of blocks begins at zero.
    let range = format!("{DEVICE} --start-block=32 --block-count=15");
    let sized = format!("{range} --data-size=65536");
    sh(&format!("nvme write {sized} --data=/tmp/data --force-unit-access"));
    sh(&format!("nvme compare {sized} --data=/tmp/data"));
    let differs = scene.guest.run(&format!("nvme compare {sized} --data=/tmp/zero"));
    assert_ne!(differs.status, 0);
    assert!(differs.output.contains("Compare Failure"), "{}", differs.output);
    let read = || {
        sh(&format!("nvme read {sized} --data=/tmp/read"));
        "/tmp/read"
    };
    same(read(), "/tmp/data");
    sh(&format!("nvme flush {DEVICE} -n 1"));
    sh(&format!("nvme write-zeroes {range} --deac"));
    same(read(), "/tmp/zero");
    sh(&format!("nvme write {sized} --data=/tmp/data"));
    sh(&format!("nvme dsm {DEVICE} -n 1 --ad --slbs=32 --blocks=16"));
    same(read(), "/tmp/zero");
    let beyond = scene.guest.run(&format!(
        "nvme read {DEVICE} --start-block={BLOCKS} --block-count=0 --data-size=4096 --data=/tmp/read"
    ));
    assert!(beyond.status != 0 && beyond.output.contains("LBA Out of Range"), "{}", beyond.output);
    scene.disconnect();
    scene.guest.finish(&[]);
}
