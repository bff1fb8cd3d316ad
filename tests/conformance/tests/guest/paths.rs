//! Hosts that are turned away, and two ways to one volume of which one is lost.

use std::collections::BTreeSet;

use fathom_target::export::Hosts;
use fathom_test_conformance::cable::Cable;
use fathom_test_target::rig::{VOLUME, nqn};

use crate::{
    scene::{DEVICE, HOST, LOAD_LIMIT, SOON, Scene, nvme_connect, verified},
    traffic::{Load, NO_PATH},
};

/// Tried again every second, and for ever. The target notices a silent host after 4 seconds.
pub(crate) const OPTIONS: &str =
    "--nr-io-queues=2 --reconnect-delay=1 --ctrl-loss-tmo=-1 --keep-alive-tmo=4";
/// What a kernel says when it has lost a path, and tries it again.
pub(crate) const LOSS: &[&str] = &[
    "ctrl_loss_tmo < 0 will reconnect forever",
    "starting error recovery",
    NO_PATH,
    // It was sending when the connection was reset: EPIPE.
    "failed to send request -32",
    // How often it has not said the last one.
    "nvme_ns_head_submit_bio: ",
];
/// What it says when the only path has been away for longer than `fast_io_fail_tmo`.
const GIVEN_UP: &str = "block nvme0n1: no available path - failing I/O";
/// What it says when it is told that there is no such subsystem: a status without DNR.
const NOT_THERE: &[&str] =
    &["Connect Invalid Data Parameter, subsysnqn", "failed to connect queue: 0 ret=386"];
/// What it says when it is told that it may not connect: a status without DNR.
const NOT_ALLOWED: &[&str] =
    &["is not allowed, hostnqn: nqn.2014-08", "failed to connect queue: 0 ret=388"];
/// What it says when nothing listens at a port, and when nothing is heard from one.
pub(crate) const SILENCE: &[&str] = &[
    "failed to send request -104",
    "failed to connect socket: -111",
    "long keepalive RTT",
    "failed nvme_keep_alive_end_io error=10",
    "queue 0: timeout request",
    "type 4 opcode 0x18 (Admin Cmd) QID 0 timeout",
];

#[test]
fn unexporting_under_load_ends_in_errors_and_exporting_again_in_service() {
    let turn_away = |scene: &Scene| scene.node.unexport();
    turned_away_and_let_in(turn_away, |scene| scene.node.export(), NOT_THERE);
}

#[test]
fn a_host_that_is_removed_gets_errors_and_comes_back_when_it_is_allowed() {
    let set = |scene: &Scene, hosts| {
        let set = scene.node.target.set_hosts(nqn(VOLUME), hosts, SOON);
        assert!(set.expect("the target runs"), "the volume is served");
    };
    let other = || Hosts::Listed(BTreeSet::from([nqn("nqn.2026-01.io.fathom:other")]));
    let this = || Hosts::Listed(BTreeSet::from([nqn(HOST)]));
    turned_away_and_let_in(|scene| set(scene, other()), |scene| set(scene, this()), NOT_ALLOWED);
}

fn turned_away_and_let_in(
    turn_away: impl FnOnce(&Scene),
    let_in: impl FnOnce(&Scene),
    refused: &[&str],
) {
    let scene = Scene::new();
    scene.connect(OPTIONS);
    // Without this a host waits for the target as long as the path may come back.
    scene.guest.sh("echo 1 >/sys/class/nvme/nvme0/fast_io_fail_tmo");
    let load = Load::begin(&scene.guest, DEVICE);
    load.goes_on();
    turn_away(&scene);
    let ended = load.fails();
    assert_ne!(ended.status, 0, "it ends with errors and does not wait: {}", ended.output);
    assert!(ended.output.contains("Input/output error"), "{}", ended.output);
    let again =
        scene.guest.run(&format!("dd if={DEVICE} of=/dev/null bs=4096 count=1 iflag=direct"));
    assert_ne!(again.status, 0);
    let_in(&scene);
    scene.guest.wait_until("grep -q live /sys/class/nvme/nvme0/state", SOON);
    let load = "--rw=randwrite --bs=4k --size=2m --iodepth=16";
    scene.guest.begin(&verified(DEVICE, load)).succeed(LOAD_LIMIT);
    scene.disconnect();
    scene.guest.finish(&[LOSS, &[GIVEN_UP], refused].concat());
}

/// How a path is lost: it says so, or nothing more is heard of it.
#[derive(Clone, Copy)]
enum Loss {
    Cut,
    Stall,
}

#[test]
fn a_portal_that_is_lost_under_load_costs_no_error() {
    let scene = Scene::new();
    let mut cables: Vec<_> = scene.node.addresses.iter().copied().map(Cable::new).collect();
    for cable in &cables {
        scene.connect_to(cable.address().port(), OPTIONS);
    }
    let state = |path: usize| format!("/sys/class/nvme/nvme{path}/state");
    let all_live = format!("grep -q live {} && grep -q live {}", state(0), state(1));
    scene.guest.wait_until(&all_live, SOON);
    // Both paths at once, so that each is lost with commands on it.
    let policy = "/sys/class/nvme-subsystem/nvme-subsys0/iopolicy";
    scene.guest.sh(&format!("echo round-robin >{policy}"));
    let load = Load::begin(&scene.guest, DEVICE);
    for lost in [0, 1] {
        for how in [Loss::Cut, Loss::Stall] {
            load.goes_on();
            match how {
                Loss::Cut => cables[lost].cut(),
                Loss::Stall => cables[lost].stall(),
            }
            scene.guest.wait_until(&format!("! grep -q live {}", state(lost)), SOON);
            load.goes_on();
            cables[lost].mend();
            scene.guest.wait_until(&all_live, SOON);
        }
    }
    load.end();
    let connected = scene.guest.run(&nvme_connect(VOLUME, cables[0].address().port(), OPTIONS));
    assert_ne!(connected.status, 0, "a second time by the same way");
    scene.disconnect();
    scene.node.wait_for_silence();
    scene.guest.finish(&[LOSS, SILENCE].concat());
}
