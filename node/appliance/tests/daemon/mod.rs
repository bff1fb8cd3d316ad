//! A daemon of its own for each test: in a directory of the build folder, on free ports.

#![allow(dead_code, reason = "each test uses a part of it")]

use std::{
    ffi::OsStr,
    fs,
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    time::Duration,
};

use serde_json::Value;

/// How long anything may take; nothing does.
const LONG: Duration = Duration::from_secs(60);

/// Where a daemon lives.
pub(crate) struct Home {
    folder: PathBuf,
}

/// A daemon that runs. It is killed when this is dropped.
pub(crate) struct Daemon {
    child: Child,
    notify: UnixDatagram,
}

impl Home {
    /// An empty one.
    pub(crate) fn new(name: &str) -> Self {
        // Paths of sockets are short.
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("daemon").join(name);
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).expect("the build folder can be written");
        Self { folder }
    }

    /// A path in it.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The same as text.
    pub(crate) fn text(&self, name: &str) -> String {
        self.path(name).to_str().expect("the build folder is UTF-8").to_owned()
    }

    /// `fathom` with its socket.
    fn command<S: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fathom"));
        command.args(words).env("FATHOM_API", self.path("api")).env_remove("RUST_LOG");
        // The directory is the shortest name of the socket that there is.
        command.current_dir(&self.folder).stdin(Stdio::null());
        command
    }

    /// Starts a daemon with its state here, and waits until it serves.
    pub(crate) fn start(&self, words: &[&str]) -> Daemon {
        let path = self.path("notify");
        let _ = fs::remove_file(&path);
        let notify = UnixDatagram::bind(&path).expect("the path is short enough");
        notify.set_read_timeout(Some(LONG)).expect("it can be set");
        let log = fs::File::options().append(true).create(true).open(self.path("log"));
        let own = ["node", "--state", "state", "--listen", "127.0.0.1:0"];
        let child = self
            .command(own.iter().chain(words))
            .env("NOTIFY_SOCKET", &path)
            .stdout(Stdio::null())
            .stderr(log.expect("it can be written"))
            .spawn()
            .expect("the executable is there");
        let mut daemon = Daemon { child, notify };
        let told = daemon.told();
        assert!(told.starts_with("READY=1"), "{told}: {}", self.log());
        daemon
    }

    /// Runs `fathom node`, which is expected to end by itself, and returns what it says.
    pub(crate) fn refused(&self, words: &[&str]) -> String {
        let own = ["node", "--state", "state", "--listen", "127.0.0.1:0"];
        let output = self.command(own.iter().chain(words)).output().expect("it runs");
        assert!(!output.status.success(), "{words:?} is refused");
        String::from_utf8(output.stderr).expect("UTF-8")
    }

    /// Everything that daemons have logged here.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// Runs a command.
    pub(crate) fn run(&self, words: &str) -> Output {
        self.command(words.split_whitespace()).output().expect("the executable is there")
    }

    /// Runs a command that succeeds; returns what it prints.
    pub(crate) fn ok(&self, words: &str) -> String {
        let output = self.run(words);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{words}: {said}\n{}", self.log());
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    /// Runs a command that succeeds; returns its answer.
    pub(crate) fn json(&self, words: &str) -> Value {
        serde_json::from_str(&self.ok(&format!("{words} -o json"))).expect("it is JSON")
    }

    /// Runs a command that is refused; returns why.
    pub(crate) fn error(&self, words: &str) -> String {
        let output = self.run(words);
        assert_eq!(output.status.code(), Some(1), "{words} is refused");
        assert!(output.stdout.is_empty(), "{words}: nothing is answered");
        let said = String::from_utf8(output.stderr).expect("UTF-8");
        said.strip_prefix("fathom: ").expect("it says who says it").trim_end().to_owned()
    }

    /// Begins a command that takes a while.
    pub(crate) fn begin(&self, words: &str) -> Running {
        let mut command = self.command(words.split_whitespace());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        Running(command.spawn().expect("the executable is there"))
    }

    /// The names of the volumes.
    pub(crate) fn volumes(&self) -> Vec<String> {
        names(&self.json("volume list"))
    }
}

/// A command that takes a while. It is killed when this is dropped.
pub(crate) struct Running(Child);

impl Running {
    /// Waits until the node has so many connections of hosts.
    pub(crate) fn wait_for_connections(&mut self, home: &Home, count: u64) {
        let deadline = std::time::Instant::now() + LONG;
        while home.json("node show")["connections"].as_u64() < Some(count) {
            assert!(self.0.try_wait().expect("it can be asked").is_none(), "it has ended");
            assert!(std::time::Instant::now() < deadline, "it does not connect");
        }
    }

    /// Waits for its end.
    pub(crate) fn end(mut self) -> ExitStatus {
        self.0.wait().expect("it ends")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The names of listed objects.
pub(crate) fn names(list: &Value) -> Vec<String> {
    let objects = list.as_array().expect("a list").iter();
    objects.map(|object| object["name"].as_str().expect("a name").to_owned()).collect()
}

impl Daemon {
    /// What it tells systemd next.
    fn told(&mut self) -> String {
        let mut bytes = [0; 256];
        let length = self.notify.recv(&mut bytes).expect("it says how it is");
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    }

    /// Its process id.
    pub(crate) fn id(&self) -> rustix::process::Pid {
        rustix::process::Pid::from_child(&self.child)
    }

    /// Ends it without warning.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it was killed");
    }

    /// Asks it to end, and waits for that.
    pub(crate) fn terminate(mut self) -> ExitStatus {
        rustix::process::kill_process(self.id(), rustix::process::Signal::TERM).expect("it runs");
        assert!(self.told().starts_with("STOPPING=1"), "it says so");
        self.child.wait().expect("it ends")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
