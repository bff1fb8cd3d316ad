//! Where things are when nobody says: the system's places for root, the user's own for others.

use std::{env, path::PathBuf};

/// The daemon's API socket.
pub(crate) fn api() -> PathBuf {
    place("/run", "XDG_RUNTIME_DIR").join("fathom.sock")
}

/// The daemon's state directory.
pub(crate) fn state() -> PathBuf {
    place("/var/lib", "XDG_STATE_HOME")
}

/// `fathom` in the system's directory for root, else in the one that the variable names, else in the
/// user's own.
fn place(system: &str, variable: &str) -> PathBuf {
    let base = if rustix::process::geteuid().is_root() {
        PathBuf::from(system)
    } else {
        let named = env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from);
        let home = || env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/state"));
        named.or_else(home).unwrap_or_else(|| PathBuf::from("."))
    };
    base.join("fathom")
}
