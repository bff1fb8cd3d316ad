//! `fathom node` as a process of its own, which a test ends and starts again.
//!
//! The executable is the one that was built beside the test's. A daemon listens at the same port each
//! time, and has one pool, on a file; it and the state are in a new folder, which goes with the test.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{guest::OUTSIDE, node::LONG};

/// A daemon, running or not.
pub struct Daemon {
    folder: PathBuf,
    address: SocketAddr,
    /// Where a running one says how it is.
    notify: UnixDatagram,
    child: Option<Child>,
}

impl Daemon {
    /// Starts one with a new pool called `tank` on a sparse file of `pool` (`1GiB`).
    ///
    /// # Panics
    ///
    /// When it is not built, or does not come up.
    pub fn create(pool: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        // Not the folder for what does not last: it may be in memory, which has no direct I/O. The
        // names of sockets are short, so they are relative to it.
        let name = format!("daemon-{}-{number}", std::process::id());
        let folder = executable().with_file_name(name);
        fs::create_dir(&folder).expect("there is no such folder yet");
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has a port");
        let address = free.local_addr().expect("it is bound");
        drop(free);
        let notify = UnixDatagram::bind(folder.join("notify")).expect("the path is short and new");
        notify.set_read_timeout(Some(LONG)).expect("it can be set");
        let mut daemon = Self { folder, address, notify, child: None };
        daemon.run(&["--pool", &format!("tank=disk,size={pool}")]);
        daemon
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Starts it again with what it has in its state, and waits until it says that it serves.
    ///
    /// # Panics
    ///
    /// When it runs, or does not come up.
    pub fn start(&mut self) {
        self.run(&[]);
    }

    fn run(&mut self, words: &[&str]) {
        assert!(self.child.is_none(), "it runs");
        let log = fs::File::options().append(true).create(true).open(self.folder.join("log"));
        let mut command = self.fathom();
        command.args(["node", "--state", "state", "--listen", &self.address.to_string()]);
        command.args(["--advertise", &OUTSIDE.to_string()]).args(words);
        command.env("NOTIFY_SOCKET", self.folder.join("notify"));
        command.stdout(Stdio::null()).stderr(log.expect("the folder can be written"));
        self.child = Some(command.spawn().expect("it was built"));
        let told = self.told();
        assert!(told.starts_with("READY=1"), "{told}: {}", self.log());
    }

    /// Runs another command of `fathom` with it.
    ///
    /// # Panics
    ///
    /// When the command fails.
    pub fn command(&self, words: &str) {
        let output = self.fathom().args(words.split_whitespace()).output().expect("it was built");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "`{words}`: {said}\n{}", self.log());
    }

    /// Ends it without warning.
    ///
    /// # Panics
    ///
    /// When it does not run.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().expect("it has not been waited for");
        child.wait().expect("it was killed");
    }

    /// Asks it to end, and waits until it has, by itself and with success.
    ///
    /// # Panics
    ///
    /// When it does not run, or ends otherwise.
    pub fn terminate(&mut self) {
        let mut child = self.child.take().expect("it runs");
        kill_process(Pid::from_child(&child), Signal::TERM).expect("it has not been waited for");
        assert!(self.told().starts_with("STOPPING=1"), "{}", self.log());
        let status: ExitStatus = child.wait().expect("it ends");
        assert!(status.success(), "it ends with {status}: {}", self.log());
    }

    fn fathom(&self) -> Command {
        let mut command = Command::new(executable());
        command.current_dir(&self.folder).env("FATHOM_API", "api").env_remove("RUST_LOG");
        command.stdin(Stdio::null());
        command
    }

    /// What it says next of how it is.
    fn told(&self) -> String {
        let mut bytes = [0; 256];
        let told = self.notify.recv(&mut bytes);
        let length =
            told.unwrap_or_else(|error| panic!("it says nothing: {error}\n{}", self.log()));
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.child.is_some() {
            self.kill();
        }
        // What is left goes with the build folder.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// `fathom`, beside the folder of the test's executable.
fn executable() -> PathBuf {
    let test = std::env::current_exe().expect("the kernel knows it");
    let built = test.parent().and_then(Path::parent).expect("tests are in a folder of the build's");
    built.join("fathom")
}
