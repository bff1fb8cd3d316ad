//! The API's Unix socket: mode 0600, so that only the user that runs the daemon can call it.

use std::{
    fs, io,
    os::unix::{
        fs::{FileTypeExt as _, PermissionsExt as _},
        net::UnixStream,
    },
    path::{Path, PathBuf},
};

use thiserror::Error;
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;

/// The socket; its file is removed when this is dropped.
#[derive(Debug)]
pub(crate) struct Socket {
    path: PathBuf,
    listener: Option<UnixListener>,
}

/// The API's socket cannot be used.
#[derive(Debug, Error)]
pub(crate) enum ListenError {
    /// Another daemon answers there.
    #[error("API socket {0}: another daemon answers there; give each its own with --api")]
    Busy(PathBuf),
    /// Something else stands there.
    #[error("API socket {0}: a file that is no socket is there; give another path with --api")]
    NoSocket(PathBuf),
    /// The kernel refused.
    #[error("API socket {path}: {doing}: {source}")]
    Io {
        /// The path.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

impl Socket {
    /// Listens on `path`. A socket that a daemon which was killed has left there is replaced.
    ///
    /// # Errors
    ///
    /// When a daemon answers there, or the path cannot be used.
    pub(crate) fn bind(path: &Path) -> Result<Self, ListenError> {
        let failed = |doing| move |source| ListenError::Io { path: path.to_owned(), doing, source };
        if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            fs::create_dir_all(parent).map_err(failed("making its directory"))?;
        }
        match fs::symlink_metadata(path) {
            Ok(found) if !found.file_type().is_socket() => {
                return Err(ListenError::NoSocket(path.to_owned()));
            }
            Ok(_) if UnixStream::connect(path).is_ok() => {
                return Err(ListenError::Busy(path.to_owned()));
            }
            Ok(_) => fs::remove_file(path).map_err(failed("removing the one that was left"))?,
            Err(_) => {}
        }
        // Made without any permission for others, and only then under its name.
        let partial = path.with_extension("partial");
        let _ = fs::remove_file(&partial);
        let listener = UnixListener::bind(&partial).map_err(failed("listening"))?;
        let mode = fs::Permissions::from_mode(0o600);
        fs::set_permissions(&partial, mode).map_err(failed("setting its mode"))?;
        fs::rename(&partial, path).map_err(failed("giving it its name"))?;
        Ok(Self { path: path.to_owned(), listener: Some(listener) })
    }

    /// Its connections.
    pub(crate) fn incoming(
        mut self,
    ) -> impl tokio_stream::Stream<Item = io::Result<tokio::net::UnixStream>> {
        let listener = self.listener.take().expect("it is taken once");
        Incoming { stream: UnixListenerStream::new(listener), _socket: self }
    }
}

/// Connections, and the socket's file as long as they come.
struct Incoming {
    stream: UnixListenerStream,
    _socket: Socket,
}

impl tokio_stream::Stream for Incoming {
    type Item = io::Result<tokio::net::UnixStream>;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        std::pin::Pin::new(&mut self.stream).poll_next(context)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}
