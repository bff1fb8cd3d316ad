//! Discovery, queues, digests, disconnecting.

use std::fmt::Write as _;

use fathom_test_conformance::guest::{OUTSIDE, PROCESSORS};
use fathom_test_target::rig::VOLUME;

use crate::scene::{DEVICE, LOAD_LIMIT, SOON, Scene, verified, whereabouts};

#[test]
fn discovery_leads_to_every_port() {
    let scene = Scene::new();
    let whereabouts = whereabouts(scene.node.address.port());
    let found = scene.guest.sh(&format!("nvme discover {whereabouts}"));
    assert!(found.contains("Number of Records 2"), "{found}");
    let value = |line: &str, name| {
        line.strip_prefix(name).map(|rest| rest.trim_start_matches(':').trim().to_owned())
    };
    let values =
        |name| -> Vec<String> { found.lines().filter_map(|line| value(line, name)).collect() };
    assert_eq!(values("subnqn"), [VOLUME, VOLUME]);
    assert_eq!(values("traddr"), [OUTSIDE.to_string(), OUTSIDE.to_string()]);
    let ports: Vec<_> =
        scene.node.addresses.iter().map(|address| address.port().to_string()).collect();
    assert_eq!(values("trsvcid"), ports);

    scene.guest.sh(&format!("nvme connect-all {whereabouts}"));
    // The discovery service was the first subsystem, and had a number.
    scene.guest.wait_until("[ -b /dev/nvme1n1 ]", SOON);
    let paths = scene.guest.sh("nvme list-subsys");
    assert_eq!(paths.matches(VOLUME).count(), 1, "{paths}");
    for port in ports {
        assert!(paths.contains(&format!("trsvcid={port}")), "{paths}");
    }
    assert_eq!(paths.matches("live").count(), 2, "{paths}");
    scene.disconnect();
    scene.node.wait_for_silence();
    scene.guest.finish(&[]);
}

#[test]
fn a_host_connects_with_every_kind_of_queue_and_digests() {
    let scene = Scene::new();
    for digests in ["", "--hdr-digest", "--data-digest", "--hdr-digest --data-digest"] {
        let mut options = digests.to_owned();
        for kind in ["io", "write", "poll"] {
            write!(options, " --nr-{kind}-queues={PROCESSORS}").expect("a string takes it");
        }
        scene.connect(&options);
        let queues = usize::try_from(3 * PROCESSORS).expect("few");
        assert_eq!(scene.node.limit.open(), 1 + queues, "the admin queue and the others");
        let load = "--rw=randrw --bsrange=4k-128k --size=2m --offset_increment=2m --numjobs=2 \
                    --iodepth=8 --bs_unaligned=0";
        scene.guest.begin(&verified(DEVICE, load)).succeed(LOAD_LIMIT);
        // What asks for its completions by itself uses the third kind of queue.
        let polled = format!(
            "fio --name=polled --filename={DEVICE} --direct=1 --ioengine=pvsync2 --hipri \
             --rw=randread --bs=4k --size=1m"
        );
        scene.guest.begin(&polled).succeed(LOAD_LIMIT);
        scene.disconnect();
        scene.node.wait_for_silence();
    }
    scene.guest.finish(&[]);
}
