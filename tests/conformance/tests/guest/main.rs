//! The hosts of Linux kernels against the running target.
//!
//! Each test boots a guest with the kernel of the run, and a node in this process that the guest reaches over
//! loopback. `make guests` prepares the guests, and runs all of it with each kernel.
//!
//! - [`scene`]: a guest, a node, and what the tests say to `nvme` and `fio`.
//! - [`connect`]: discovery, queues, digests, disconnecting.
//! - [`admin`]: what can be asked of a controller, resizing, single commands.
//! - [`traffic`]: verified load, resets.
//! - [`filesystems`]: ext4 and XFS, and the space that they give back.
//! - [`paths`]: hosts that are turned away, and two ways to one volume of which one is lost.

mod scene;

mod admin;
mod connect;
mod filesystems;
mod paths;
mod traffic;
