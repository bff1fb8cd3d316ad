//! The hosts of Linux kernels against the running target.
//!
//! Each test boots a guest with its kernel, and a node in this process that the guest reaches over
//! loopback. All of them run with each kernel. `make guests` prepares the guests and runs them.
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

macro_rules! on_each_kernel {
    ($($file:ident::$test:ident,)*) => {
        mod linux_6_1 {
            $(#[test] fn $test() {
                crate::$file::$test(fathom_test_conformance::guest::Kernel::Linux6_1);
            })*
        }
        mod linux_6_12 {
            $(#[test] fn $test() {
                crate::$file::$test(fathom_test_conformance::guest::Kernel::Linux6_12);
            })*
        }
    };
}

on_each_kernel! {
    connect::discovery_leads_to_every_port,
    connect::a_host_connects_with_every_kind_of_queue_and_digests,
    admin::a_controller_answers_what_hosts_ask,
    admin::a_resize_is_seen_without_being_looked_for,
    admin::single_commands_do_what_they_say,
    traffic::what_several_jobs_write_at_random_is_verified,
    traffic::a_reset_under_load_costs_no_error,
    filesystems::ext4_is_made_used_and_trimmed,
    filesystems::xfs_is_made_used_and_trimmed,
    paths::unexporting_under_load_ends_in_errors_and_exporting_again_in_service,
    paths::a_host_that_is_removed_gets_errors_and_comes_back_when_it_is_allowed,
    paths::a_portal_that_is_lost_under_load_costs_no_error,
}
