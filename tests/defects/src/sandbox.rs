//! A copy of the workspace in which defects are planted and the crash test is built.
//!
//! - The repository itself is never changed.
//! - A change that does not fit the source exactly once is refused: the catalog follows the code.
//! - The copy and everything built in it is removed when the [`Sandbox`] is dropped.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::catalog::Defect;

/// What of the repository the crash test is built from.
const COPIED: &[&str] = &["Cargo.toml", "Cargo.lock", "rust-toolchain.toml", "node", "tests"];

/// Rebuilds take two seconds with these, not twenty.
const PROFILE: &[(&str, &str)] = &[
    ("CARGO_INCREMENTAL", "1"),
    ("CARGO_PROFILE_RELEASE_LTO", "off"),
    ("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1"),
];

/// A copy of the workspace.
pub(crate) struct Sandbox {
    root: PathBuf,
}

/// What building the crash test came to.
pub(crate) enum Build {
    /// The test's executable.
    Executable(PathBuf),
    /// It does not compile: the compiler's output.
    Failed(String),
}

impl Sandbox {
    /// Copies the workspace that this program belongs to.
    pub(crate) fn new() -> io::Result<Self> {
        let root = std::env::temp_dir().join(format!("fathom-defects-{}", std::process::id()));
        std::fs::create_dir(&root)?;
        // From here on it is removed, whatever happens.
        let sandbox = Self { root };
        for name in COPIED {
            copy(&repository().join(name), &sandbox.root.join(name))?;
        }
        Ok(sandbox)
    }

    /// Refuses a defect that does not fit the source.
    pub(crate) fn fits(&self, defect: &Defect) -> Result<(), String> {
        self.planted(defect).map(drop)
    }

    /// Builds the crash test with a defect. The source is as before on return.
    pub(crate) fn build_with(&self, defect: &Defect) -> Result<Build, String> {
        let path = self.root.join(defect.path());
        let (sound, planted) = self.planted(defect)?;
        let changed = |error: io::Error| format!("changing {}: {error}", defect.path());
        std::fs::write(&path, planted).map_err(changed)?;
        let build = self.build("planted");
        std::fs::write(&path, sound).map_err(changed)?;
        build.map_err(|error| format!("{}: {error}", defect.name))
    }

    /// Builds the crash test as the source is now; the executable is called `name`.
    pub(crate) fn build(&self, name: &str) -> io::Result<Build> {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
        let output = Command::new(cargo)
            .args(["test", "--release", "--locked", "--offline", "--no-run"])
            .args(["-p", "fathom-test-sim", "--test", "crash"])
            .arg("--message-format=json-render-diagnostics")
            .current_dir(&self.root)
            .env("CARGO_TARGET_DIR", self.root.join("target"))
            .envs(PROFILE.iter().copied())
            .output()?;
        if !output.status.success() {
            return Ok(Build::Failed(String::from_utf8_lossy(&output.stderr).into_owned()));
        }
        let built = String::from_utf8_lossy(&output.stdout);
        let executable = built.lines().filter_map(executable).next_back();
        let executable =
            executable.ok_or_else(|| io::Error::other("cargo names no executable of the test"))?;
        // The next build overwrites what cargo made.
        let kept = self.root.join(name);
        std::fs::copy(executable, &kept)?;
        Ok(Build::Executable(kept))
    }

    /// The text of a defect's file without and with it.
    fn planted(&self, defect: &Defect) -> Result<(String, String), String> {
        let path = defect.path();
        let sound = std::fs::read_to_string(self.root.join(&path))
            .map_err(|error| format!("defect {}: {path}: {error}", defect.name))?;
        let planted = defect.planted(&sound)?;
        Ok((sound, planted))
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.root) {
            eprintln!("{} is left behind: {error}", self.root.display());
        }
    }
}

/// The root of the repository that this program was built in.
pub(crate) fn repository() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

/// The executable that a line of cargo's output is about.
fn executable(line: &str) -> Option<PathBuf> {
    let message: Value = serde_json::from_str(line).ok()?;
    let is_test = message["target"]["name"] == "crash";
    message["executable"].as_str().filter(|_| is_test).map(PathBuf::from)
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    if !from.is_dir() {
        return std::fs::copy(from, to).map(drop);
    }
    std::fs::create_dir(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        if !is_built(&entry.path()) {
            copy(&entry.path(), &to.join(entry.file_name()))?;
        }
    }
    Ok(())
}

/// Whether cargo keeps what it builds there. A crate may be called `target`, too.
fn is_built(path: &Path) -> bool {
    path.join("CACHEDIR.TAG").is_file()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_built_is_not_copied_and_a_crate_called_target_is() {
        let root = std::env::temp_dir().join(format!("fathom-copy-{}", std::process::id()));
        let write = |path: &str| {
            let path = root.join(path);
            std::fs::create_dir_all(path.parent().expect("below the root")).expect("writable");
            std::fs::write(path, "text").expect("writable");
        };
        let paths =
            ["from/node/target/Cargo.toml", "from/target/CACHEDIR.TAG", "from/target/built"];
        paths.into_iter().for_each(write);
        copy(&root.join("from"), &root.join("to")).expect("readable");
        let copied =
            ["to/node/target/Cargo.toml", "to/target"].map(|path| root.join(path).exists());
        std::fs::remove_dir_all(&root).expect("it is ours");
        assert_eq!(copied, [true, false]);
    }

    #[test]
    fn the_executable_of_another_target_is_not_taken() {
        let line = |name| format!(r#"{{"target":{{"name":"{name}"}},"executable":"/t/{name}-1"}}"#);
        assert_eq!(executable(&line("crash")), Some(PathBuf::from("/t/crash-1")));
        assert_eq!(executable(&line("other")), None);
        assert_eq!(executable("warning: unused"), None);
    }
}
