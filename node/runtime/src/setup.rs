//! Why the kernel refused an io_uring, told for people.
//!
//! The errno alone says little: the same `EPERM` comes from a sysctl and from a seccomp filter. So
//! what else is known of the machine is looked at, once, when something was refused.

use std::{fmt, fs, io};

use rustix::process::{Resource, getrlimit};
use thiserror::Error;

/// The oldest kernel that has what the loops need.
pub const KERNEL_MIN: (u32, u32) = (6, 1);
const DISABLED: &str = "/proc/sys/kernel/io_uring_disabled";

/// What a loop wanted of the kernel when it began.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// The thread.
    Thread,
    /// The descriptor by which it is woken.
    Wakeup,
    /// The ring itself.
    Ring,
    /// The chunks for what sockets receive.
    Receive,
    /// To stay on a core.
    Core(usize),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Thread => f.write_str("starting its thread"),
            Self::Wakeup => f.write_str("making its eventfd"),
            Self::Ring => f.write_str("setting up its io_uring"),
            Self::Receive => f.write_str("registering the chunks for what sockets receive"),
            Self::Core(core) => write!(f, "staying on core {core}"),
        }
    }
}

/// A loop could not begin.
#[derive(Debug, Error)]
#[error("event loop {number}: {step} was refused: {source}{cause}")]
pub struct SetupError {
    /// The loop.
    pub number: usize,
    /// What was refused.
    pub step: Step,
    /// What the kernel said.
    pub source: io::Error,
    /// Why, as far as that can be found out.
    pub cause: Cause,
}

/// Why an io_uring was refused, and what can be done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Cause {
    /// The sysctl forbids it to everybody (2) or to processes without privilege (1).
    Sysctl(u32),
    /// The kernel has it, and somebody between it and this process says no.
    Filter,
    /// The kernel is too old.
    OldKernel(String),
    /// No more memory may be locked.
    LockedMemory {
        /// The limit in bytes, `None` without one.
        limit: Option<u64>,
    },
    /// Too many open files.
    OpenFiles,
    /// There is no such core, or it is not allowed to this process.
    NoSuchCore,
    /// Nothing is known beyond what the kernel said.
    Unknown,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sysctl(1) => f.write_str(
                ". kernel.io_uring_disabled is 1: set it to 0, or run with CAP_SYS_ADMIN or in the \
                 group of kernel.io_uring_group",
            ),
            Self::Sysctl(value) => {
                write!(f, ". kernel.io_uring_disabled is {value}: set it to 0")
            }
            Self::Filter => f.write_str(
                ". The kernel has io_uring, so a seccomp filter or a security module forbids it: \
                 in a container, allow io_uring_setup, io_uring_enter and io_uring_register",
            ),
            Self::OldKernel(release) => {
                let (major, minor) = KERNEL_MIN;
                write!(f, ". The kernel is {release}, and {major}.{minor} or later is needed")
            }
            Self::LockedMemory { limit: Some(limit) } => write!(
                f,
                ". The limit of locked memory is {limit} bytes: raise it (LimitMEMLOCK, ulimit -l), \
                 or give the process more memory"
            ),
            Self::LockedMemory { limit: None } => f.write_str(". There is not enough memory"),
            Self::OpenFiles => f.write_str(". Raise the limit of open files (LimitNOFILE)"),
            Self::NoSuchCore => {
                f.write_str(". Name cores that exist and that this process may use")
            }
            Self::Unknown => Ok(()),
        }
    }
}

/// What the cause is judged by.
struct Facts {
    disabled: Option<u32>,
    release: String,
    memlock: Option<u64>,
}

impl Facts {
    fn now() -> Self {
        let disabled = fs::read_to_string(DISABLED).ok();
        Self {
            disabled: disabled.and_then(|text| text.trim().parse().ok()),
            release: rustix::system::uname().release().to_string_lossy().into_owned(),
            memlock: getrlimit(Resource::Memlock).current,
        }
    }

    fn is_old(&self) -> bool {
        let mut numbers = self.release.split(|c: char| !c.is_ascii_digit());
        let mut next = || numbers.next().and_then(|number| number.parse::<u32>().ok());
        let (Some(major), Some(minor)) = (next(), next()) else { return false };
        (major, minor) < KERNEL_MIN
    }
}

impl SetupError {
    /// Looks for the cause of what the kernel said.
    pub(crate) fn new(number: usize, step: Step, source: io::Error) -> Self {
        let cause = judge(step, source.raw_os_error().unwrap_or(0), &Facts::now());
        Self { number, step, source, cause }
    }
}

fn judge(step: Step, errno: i32, facts: &Facts) -> Cause {
    match (step, errno) {
        (_, libc::EMFILE | libc::ENFILE) => Cause::OpenFiles,
        (Step::Core(_), libc::EINVAL) => Cause::NoSuchCore,
        (Step::Ring | Step::Receive, libc::ENOSYS | libc::EINVAL) if facts.is_old() => {
            Cause::OldKernel(facts.release.clone())
        }
        // The ring was there already, so it is no sysctl.
        (Step::Receive, libc::EPERM | libc::EACCES | libc::ENOSYS) => Cause::Filter,
        (Step::Ring, libc::EPERM | libc::EACCES) => match facts.disabled {
            Some(value @ 1..) => Cause::Sysctl(value),
            _ => Cause::Filter,
        },
        (Step::Ring, libc::ENOSYS) => Cause::Filter,
        (Step::Ring | Step::Receive, libc::ENOMEM) => Cause::LockedMemory { limit: facts.memlock },
        _ => Cause::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts {
        Facts { disabled: Some(0), release: "6.12.9-generic".to_owned(), memlock: Some(65536) }
    }

    #[test]
    fn the_sysctl_is_told_from_a_filter() {
        let disabled = Facts { disabled: Some(2), ..facts() };
        assert_eq!(judge(Step::Ring, libc::EPERM, &disabled), Cause::Sysctl(2));
        assert_eq!(judge(Step::Ring, libc::EPERM, &facts()), Cause::Filter);
        let absent = Facts { disabled: None, ..facts() };
        assert_eq!(judge(Step::Ring, libc::EPERM, &absent), Cause::Filter);
    }

    #[test]
    fn an_old_kernel_is_told_from_a_filter() {
        for release in ["5.15.0-91", "6.0.19", "4.19"] {
            let old = Facts { release: release.to_owned(), ..facts() };
            let cause = Cause::OldKernel(release.to_owned());
            assert_eq!(judge(Step::Ring, libc::EINVAL, &old), cause);
            assert_eq!(judge(Step::Ring, libc::ENOSYS, &old), cause);
            assert_eq!(judge(Step::Receive, libc::EINVAL, &old), cause);
        }
        assert_eq!(judge(Step::Receive, libc::EPERM, &facts()), Cause::Filter);
        assert_eq!(judge(Step::Ring, libc::ENOSYS, &facts()), Cause::Filter);
        assert_eq!(judge(Step::Ring, libc::EINVAL, &facts()), Cause::Unknown);
    }

    #[test]
    fn limits_are_named() {
        let limit = Some(65536);
        assert_eq!(judge(Step::Ring, libc::ENOMEM, &facts()), Cause::LockedMemory { limit });
        assert_eq!(judge(Step::Wakeup, libc::EMFILE, &facts()), Cause::OpenFiles);
        assert_eq!(judge(Step::Core(99), libc::EINVAL, &facts()), Cause::NoSuchCore);
    }

    #[test]
    fn the_message_says_what_to_do() {
        let source = io::Error::other("no");
        let cause = Cause::Sysctl(2);
        let error = SetupError { number: 1, step: Step::Ring, source, cause };
        assert_eq!(
            error.to_string(),
            "event loop 1: setting up its io_uring was refused: no. kernel.io_uring_disabled is 2: \
             set it to 0"
        );
    }
}
