//! Telling systemd how the daemon is, where it listens. Source: sd_notify(3).

use std::{
    env, io,
    os::{
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixDatagram},
    },
};

/// The daemon serves.
pub(crate) const READY: &str = "READY=1\nSTATUS=serving";
/// The daemon finishes what it has.
pub(crate) const STOPPING: &str = "STOPPING=1\nSTATUS=finishing what was received";

/// Tells systemd. Nothing happens where it does not listen, and a failure is logged: the daemon
/// serves all the same.
pub(crate) fn notify(state: &str) {
    let Some(name) = env::var_os("NOTIFY_SOCKET") else { return };
    let name = name.to_string_lossy();
    if let Err(error) = send(&name, state) {
        tracing::warn!(socket = %name, %error, "systemd was not told");
    }
}

fn send(name: &str, state: &str) -> io::Result<()> {
    let address = match name.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(name)?,
    };
    UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_with_a_path_and_an_abstract_one_are_told() {
        let unique = format!("fathom-notify-{}", std::process::id());
        let path = env::temp_dir().join(&unique);
        let by_path = UnixDatagram::bind(&path).expect("it is free");
        send(path.to_str().expect("UTF-8"), READY).expect("it listens");
        let address = SocketAddr::from_abstract_name(&unique).expect("a name");
        let by_name = UnixDatagram::bind_addr(&address).expect("it is free");
        send(&format!("@{unique}"), STOPPING).expect("it listens");
        for (socket, told) in [(by_path, READY), (by_name, STOPPING)] {
            let mut bytes = [0; 64];
            let length = socket.recv(&mut bytes).expect("it was sent");
            assert_eq!(&bytes[..length], told.as_bytes());
        }
        std::fs::remove_file(&path).expect("it is there");
    }
}
