//! A Linux kernel in QEMU as a host: booted, told what to run, and ended.
//!
//! ```text
//!   test --- command, output ---> one of the shells --- a port of virtio's serial device ---> `init`
//!   target on loopback <--- QEMU's user network --- 10.0.2.2 in the guest
//! ```
//!
//! `guest/prepare` makes the guests; `guest/init` is what runs in them. What serves the volumes is
//! not known here: a guest reaches any port of this machine's loopback, so it may be the test itself
//! or another process.
//!
//! - A guest has a fixed amount of memory and processors, and goes with its [`Guest`], or with the
//!   thread that booted it.
//! - Every wait has a deadline. When it has passed, or the guest is gone, the test fails with what
//!   was waited for and the end of the guest's console.

use std::{
    fs,
    io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr},
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Where the loopback of this machine is for a guest.
pub const OUTSIDE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 2, 2));
/// The variable that names the folder of the guests, as `guest/prepare` prints it.
pub const FOLDER: &str = "FATHOM_GUESTS";
/// The variable that names the version of the kernel which the tests run with.
pub const KERNEL: &str = "FATHOM_KERNEL";
/// Commands that a guest can run at once.
const SHELLS: usize = 3;
/// The memory of a guest, in MiB. Its file system is in it, and takes 100 MiB.
const MEMORY_MIB: u32 = 512;
/// The memory for translated code, in MiB.
const TRANSLATED_MIB: u32 = 128;
/// The processors of a guest: as many I/O queues of each kind does a host make.
pub const PROCESSORS: u32 = 2;
/// How long a guest may take until it runs a command. It takes 4 seconds on a machine that does
/// nothing else.
const BOOT_LIMIT: Duration = Duration::from_secs(120);
/// How long a command may take that is not given another time. Most take a part of a second.
pub const COMMAND_LIMIT: Duration = Duration::from_secs(60);
/// How much of the console a failure shows, in lines.
const CONSOLE_LINES: usize = 40;
/// The least severe level of the kernel's log that is not expected: warnings.
const LOG_LEVEL: u32 = 4;
/// What a kernel warns of when its machine is slow, as an emulated one is.
const SLOW: &[&str] =
    &["hrtimer: interrupt took", "perf: interrupt took too long", "hogged CPU for"];

/// The kernels of the guests.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kernel {
    /// The long-term kernel that Debian 12 has.
    Linux6_1,
    /// The long-term kernel of Debian 13, and of Debian 12's backports.
    Linux6_12,
}

impl Kernel {
    /// The one that [`KERNEL`] names.
    ///
    /// # Panics
    ///
    /// When it names none of these.
    pub fn of_this_run() -> Self {
        let version = std::env::var(KERNEL).unwrap_or_default();
        let all = [Self::Linux6_1, Self::Linux6_12];
        let named = all.into_iter().find(|kernel| kernel.version() == version);
        named.unwrap_or_else(|| panic!("`make guests` sets {KERNEL}, which is `{version}`"))
    }

    /// Its version, and its folder among the guests.
    pub fn version(self) -> &'static str {
        match self {
            Self::Linux6_1 => "6.1",
            Self::Linux6_12 => "6.12",
        }
    }
}

/// A running guest.
pub struct Guest {
    qemu: Child,
    /// Those that run nothing now.
    shells: Mutex<Vec<Shell>>,
    folder: Folder,
}

/// What a command came to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// Its exit status; 0 for success.
    pub status: i32,
    /// What it wrote to its standard output and error.
    pub output: String,
}

/// A command that runs in a guest.
#[must_use = "a command's end has to be waited for"]
pub struct Running<'a> {
    guest: &'a Guest,
    shell: Shell,
    command: String,
}

type Shell = BufReader<UnixStream>;

impl Guest {
    /// Boots a guest, and waits until it runs commands.
    ///
    /// # Panics
    ///
    /// When there is no such guest, or it does not come up.
    pub fn boot(kernel: Kernel) -> Self {
        let guests = std::env::var_os(FOLDER).map(PathBuf::from);
        let guests =
            guests.unwrap_or_else(|| panic!("`make guests` makes guests and sets {FOLDER}"));
        let image = guests.join(kernel.version());
        let folder = Folder::new();
        let paths: Vec<_> = (1..=SHELLS).map(|shell| folder.0.join(shell.to_string())).collect();
        let listen = |path: &PathBuf| UnixListener::bind(path).expect("the path is short and new");
        let listeners: Vec<_> = paths.iter().map(listen).collect();
        let qemu = qemu(&image, &folder, &paths).spawn().expect("QEMU is installed");
        let guest = Self { qemu, shells: Mutex::default(), folder };
        let shells = listeners.iter().map(|listener| guest.accept(listener)).collect();
        *guest.shells.lock().expect("nobody else has it") = shells;

        let version = guest.begin("uname -r").wait(BOOT_LIMIT).output;
        assert!(version.starts_with(&format!("{}.", kernel.version())), "it runs {version}");
        // What the kernel has said until now is of the emulated machine.
        guest.sh("dmesg -c");
        guest
    }

    fn accept(&self, listener: &UnixListener) -> Shell {
        let limit = Timespec::try_from(BOOT_LIMIT).expect("a short time");
        let ready = poll(&mut [PollFd::new(listener, PollFlags::IN)], Some(&limit));
        assert_eq!(ready, Ok(1), "QEMU does not start: {}", self.console());
        BufReader::new(listener.accept().expect("somebody connects").0)
    }

    /// Begins to run a command.
    ///
    /// # Panics
    ///
    /// When as many commands as can be are running, or the guest is gone.
    pub fn begin(&self, command: &str) -> Running<'_> {
        let mut shells = self.shells.lock().unwrap_or_else(PoisonError::into_inner);
        let mut shell = shells.pop().expect("as many commands run as can be");
        let message = format!("{}\n{command}", command.len());
        let sent = shell.get_mut().write_all(message.as_bytes());
        assert!(sent.is_ok(), "the guest is gone before `{command}`: {}", self.console());
        Running { guest: self, shell, command: command.to_owned() }
    }

    /// Runs a command.
    ///
    /// # Panics
    ///
    /// When it takes longer than [`COMMAND_LIMIT`].
    pub fn run(&self, command: &str) -> Outcome {
        self.begin(command).wait(COMMAND_LIMIT)
    }

    /// Runs a command that has to succeed, and returns what it wrote.
    ///
    /// # Panics
    ///
    /// When it fails, or takes longer than [`COMMAND_LIMIT`].
    pub fn sh(&self, command: &str) -> String {
        self.begin(command).succeed(COMMAND_LIMIT)
    }

    /// Runs a command again and again until it succeeds.
    ///
    /// # Panics
    ///
    /// When it has not within `limit`.
    pub fn wait_until(&self, command: &str, limit: Duration) {
        let deadline = Instant::now() + limit;
        loop {
            let outcome = self.run(command);
            if outcome.status == 0 {
                return;
            }
            let log = || self.run("dmesg | tail -30").output;
            assert!(Instant::now() < deadline, "`{command}`: {}\n{}", outcome.output, log());
        }
    }

    /// Ends the guest. What its kernel has warned of since it was booted has to be `expected`: each
    /// such line of its log has one of these in it.
    ///
    /// # Panics
    ///
    /// When there was another warning.
    pub fn finish(self, expected: &[&str]) {
        let log = self.sh("dmesg -r");
        let unexpected: Vec<&str> = log
            .lines()
            .filter(|line| level(line).is_none_or(|level| level <= LOG_LEVEL))
            .filter(|line| !expected.iter().chain(SLOW).any(|part| line.contains(part)))
            .collect();
        assert!(unexpected.is_empty(), "the kernel warns:\n{}", unexpected.join("\n"));
    }

    /// What can be told of a guest in which something does not end.
    fn state(&self) -> String {
        let shells = self.shells.lock().unwrap_or_else(PoisonError::into_inner).len();
        if shells == 0 {
            return self.console();
        }
        // Of every process that waits for the kernel, where it does.
        let state = self.run(
            "dmesg | tail -30; grep . /sys/block/*/inflight /sys/class/nvme/*/state; \
             echo w >/proc/sysrq-trigger; dmesg | tail -60; ps",
        );
        format!("its state is\n{}", state.output)
    }

    /// The end of what is on the console: what the kernel said last.
    fn console(&self) -> String {
        let console = fs::read(self.folder.console()).unwrap_or_default();
        let console = String::from_utf8_lossy(&console);
        let lines: Vec<&str> = console.lines().collect();
        let end = lines[lines.len().saturating_sub(CONSOLE_LINES)..].join("\n");
        format!("its console ends with\n{end}")
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // It has nothing that would have to be kept. It may have ended by itself.
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

impl Running<'_> {
    /// Waits for its end.
    ///
    /// # Panics
    ///
    /// When it takes longer than `limit`.
    pub fn wait(mut self, limit: Duration) -> Outcome {
        let mut head = Vec::new();
        let deadline = Instant::now() + limit;
        while !head.ends_with(b"\n") {
            self.receive(deadline, |shell| {
                let bytes = shell.fill_buf()?;
                let line = bytes.iter().position(|byte| *byte == b'\n');
                let count = line.map_or(bytes.len(), |at| at + 1);
                head.extend_from_slice(&bytes[..count]);
                shell.consume(count);
                Ok(count)
            });
        }
        let head = String::from_utf8(head).expect("two numbers");
        let mut numbers = head.split_whitespace();
        let mut number = || numbers.next().and_then(|text| text.parse().ok());
        let status: i32 = number().expect("a status");
        let length = number().and_then(|length| usize::try_from(length).ok()).expect("a length");
        let mut output = vec![0; length];
        let mut done = 0;
        while done < length {
            done += self.receive(deadline, |shell| shell.read(&mut output[done..]));
        }
        let output = String::from_utf8_lossy(&output).into_owned();
        self.guest.shells.lock().unwrap_or_else(PoisonError::into_inner).push(self.shell);
        Outcome { status, output }
    }

    /// Waits for its end, which has to be a success, and returns what it wrote.
    ///
    /// # Panics
    ///
    /// When it fails, or takes longer than `limit`.
    pub fn succeed(self, limit: Duration) -> String {
        let command = self.command.clone();
        let guest = self.guest;
        let Outcome { status, output } = self.wait(limit);
        if status != 0 {
            let log = guest.run("dmesg | tail -30").output;
            panic!("`{command}` ends with {status}:\n{output}\nand the kernel's log with\n{log}");
        }
        output
    }

    /// Takes some bytes, which there have to be before the deadline.
    fn receive(
        &mut self,
        deadline: Instant,
        take: impl FnOnce(&mut Shell) -> std::io::Result<usize>,
    ) -> usize {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = left.max(Duration::from_millis(1));
        self.shell.get_ref().set_read_timeout(Some(left)).expect("it can be set");
        let reason = match take(&mut self.shell) {
            Ok(0) => "the guest is gone".to_owned(),
            Ok(count) => return count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => "its time is over".to_owned(),
            Err(error) => error.to_string(),
        };
        panic!("`{}` does not end, {reason}; {}", self.command, self.guest.state())
    }
}

/// The level of a line of the raw log of the kernel, `<6>[    1.0] text`: the lower, the more severe.
fn level(line: &str) -> Option<u32> {
    let priority: u32 = line.strip_prefix('<')?.split_once('>')?.0.parse().ok()?;
    // The rest is the facility.
    Some(priority & 7)
}

/// QEMU with a guest that connects its shells to the sockets at `paths`.
///
/// The processor is the oldest one with instructions for CRC32C. It is emulated, so there is nothing
/// to protect it from. `setpriv` becomes QEMU; without it a test that is killed would leave a guest.
fn qemu(image: &Path, folder: &Folder, paths: &[PathBuf]) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "qemu-system-x86_64", "-nodefaults", "-no-reboot"]);
    command.args(["-display", "none", "-M", "q35", "-cpu", "Nehalem"]);
    command.args(["-accel", &format!("tcg,thread=multi,tb-size={TRANSLATED_MIB}")]);
    command.args(["-m", &MEMORY_MIB.to_string(), "-smp", &PROCESSORS.to_string()]);
    command.arg("-kernel").arg(image.join("vmlinuz"));
    command.arg("-initrd").arg(image.join("initrd"));
    let line = format!("console=ttyS0 quiet panic=-1 mitigations=off fathom.shells={SHELLS}");
    command.args(["-append", &line]);
    command.args(["-serial", &format!("file:{}", folder.console().display())]);
    command.args(["-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net,romfile="]);
    command.args(["-device", "virtio-rng-pci", "-device", "virtio-serial-pci"]);
    for (number, path) in (1..).zip(paths) {
        command.args(["-chardev", &format!("socket,id=shell{number},path={}", path.display())]);
        command.args(["-device", &format!("virtserialport,nr={number},chardev=shell{number}")]);
    }
    command.stdin(Stdio::null());
    command
}

/// A new folder for the sockets and the console of one guest, which goes with it.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("fathom-guest-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).expect("there is no such folder yet");
        Self(path)
    }

    fn console(&self) -> PathBuf {
        self.0.join("console")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What is left is small, and in the folder for what does not last.
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_log_have_levels() {
        assert_eq!(level("<4>[    6.1] nvme nvme0: something"), Some(4));
        assert_eq!(level("<30>[    6.1] a service speaks"), Some(6));
        assert_eq!(level("[    6.1] no level"), None);
    }
}
