//! A guest, a node, and what the tests say to `nvme` and `fio`.

use std::time::{Duration, Instant};

use fathom_runtime::Configuration;
use fathom_test_conformance::{
    guest::{Guest, Kernel, OUTSIDE},
    node::{Node, Plan},
};
use fathom_test_target::rig::VOLUME;

/// The host's name.
pub(crate) const HOST: &str =
    "nqn.2014-08.org.nvmexpress:uuid:11111111-2222-3333-4444-555555555555";
/// The host's identifier.
const HOST_ID: &str = "11111111-2222-3333-4444-555555555555";
/// The volume's block device in the guest, of all paths together.
pub(crate) const DEVICE: &str = "/dev/nvme0n1";
/// How long anything may take that a host or target does by itself.
pub(crate) const SOON: Duration = Duration::from_secs(60);
/// How long a load may take on a busy machine: many times what it takes on a quiet one.
pub(crate) const LOAD_LIMIT: Duration = Duration::from_secs(180);
/// The size of the volume, in blocks of 4096 bytes: XFS is not made on less than 300 MiB.
pub(crate) const BLOCKS: u64 = (512 << 20) / 4096;

/// A node, and a guest whose host knows nothing of it yet.
pub(crate) struct Scene {
    pub(crate) guest: Guest,
    pub(crate) node: Node,
}

impl Scene {
    pub(crate) fn new() -> Self {
        let plan = Plan {
            loops: Configuration { loops: 2, ..Configuration::default() },
            listeners: 2,
            advertised: OUTSIDE,
            pool_bytes: 512 << 20,
            blocks: BLOCKS,
            ..Plan::default()
        };
        Self { node: Node::of(&plan), guest: Guest::boot(Kernel::of_this_run()) }
    }

    /// Connects the host to the first port of the node, and waits for the namespace.
    pub(crate) fn connect(&self, options: &str) {
        self.connect_to(self.node.address.port(), options);
    }

    /// Connects the host to a port, and waits for the namespace.
    pub(crate) fn connect_to(&self, port: u16, options: &str) {
        self.guest.sh(&nvme_connect(VOLUME, port, options));
        self.guest.wait_until(&format!("[ -b {DEVICE} ]"), SOON);
    }

    /// Ends all associations of the host.
    pub(crate) fn disconnect(&self) {
        self.guest.sh(&format!("nvme disconnect -n {VOLUME}"));
        self.guest.wait_until(&format!("! [ -e {DEVICE} ]"), SOON);
    }

    /// Waits until so many bytes, at most, of the pool are allocated.
    pub(crate) fn wait_for_space(&self, most: u64) {
        let deadline = Instant::now() + SOON;
        loop {
            let capacity = self.node.capacity();
            if capacity.allocated.0 <= most {
                return;
            }
            assert!(Instant::now() < deadline, "more than {most} bytes: {capacity:?}");
            std::thread::yield_now();
        }
    }
}

/// The words of `nvme` that say who the host is and where the node is.
pub(crate) fn whereabouts(port: u16) -> String {
    format!("-t tcp -a {OUTSIDE} -s {port} --hostnqn={HOST} --hostid={HOST_ID}")
}

/// The command that connects the host to a subsystem at a port.
pub(crate) fn nvme_connect(nqn: &str, port: u16, options: &str) -> String {
    format!("nvme connect {} -n {nqn} {options}", whereabouts(port))
}

/// A load that writes a device or file and verifies every block, with direct I/O. It fails with the
/// first wrong one.
pub(crate) fn verified(file: &str, options: &str) -> String {
    format!(
        "fio --name=verified --filename={file} --direct=1 --ioengine=libaio --verify=crc32c \
         --verify_fatal=1 --verify_state_save=0 --group_reporting {options}"
    )
}
