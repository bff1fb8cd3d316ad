//! The hosts of Linux kernels against the running target.
//!
//! Each test boots a guest with the kernel of the run, and a node that the guest reaches over
//! loopback: most in this process, some with `fathom node`. `make guests` prepares the guests, and runs
//! all of it with each kernel.
//!
//! - [`scene`]: a guest, a node, and what the tests say to `nvme` and `fio`.
//! - [`connect`]: discovery, queues, digests, disconnecting.
//! - [`admin`]: what can be asked of a controller, resizing, single commands.
//! - [`traffic`]: verified load, resets.
//! - [`filesystems`]: ext4 and XFS, and the space that they give back.
//! - [`paths`]: hosts that are turned away, and two ways to one volume of which one is lost.
//! - [`restarts`]: the daemon, which ends and starts again under a mounted file system.

mod scene;

mod admin;
mod connect;
mod filesystems;
mod paths;
mod restarts;
mod traffic;
