//! The API's Unix socket: mode 0600, so that only the user that runs the daemon can call it.

use std::{
    fs, io,
    os::unix::{
        fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
};

use thiserror::Error;
use tokio_stream::wrappers::UnixListenerStream;

/// The socket; its file is removed when this is dropped, unless it is another one's by then.
#[derive(Debug)]
pub(crate) struct Socket {
    path: PathBuf,
    /// Device and inode of its file.
    file: (u64, u64),
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
            Ok(_) => match UnixStream::connect(path) {
                Ok(_) => return Err(ListenError::Busy(path.to_owned())),
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    fs::remove_file(path).map_err(failed("removing the one that was left"))?;
                }
                Err(error) => return Err(failed("asking who answers there")(error)),
            },
            Err(_) => {}
        }
        // Made where nobody else can come, and only with its mode under its name.
        let closed = path.with_file_name(format!(".fathom-{}", std::process::id()));
        let made = fs::DirBuilder::new().mode(0o700).create(&closed);
        made.map_err(failed("making a directory beside it"))?;
        let bound = Self::bind_in(&closed, path).map_err(failed("listening"));
        let _ = fs::remove_file(closed.join("s"));
        let removed = fs::remove_dir(&closed).map_err(failed("removing the directory beside it"));
        let socket = bound?;
        removed.map(|()| socket)
    }

    fn bind_in(closed: &Path, path: &Path) -> io::Result<Self> {
        let partial = closed.join("s");
        let listener = UnixListener::bind(&partial)?;
        listener.set_nonblocking(true)?;
        fs::set_permissions(&partial, fs::Permissions::from_mode(0o600))?;
        fs::rename(&partial, path)?;
        let found = fs::symlink_metadata(path)?;
        let file = (found.dev(), found.ino());
        Ok(Self { path: path.to_owned(), file, listener: Some(listener) })
    }

    /// Its connections.
    ///
    /// # Errors
    ///
    /// When the kernel does not tell of them.
    pub(crate) fn incoming(
        mut self,
    ) -> io::Result<impl tokio_stream::Stream<Item = io::Result<tokio::net::UnixStream>>> {
        let listener = self.listener.take().expect("it is taken once");
        let listener = tokio::net::UnixListener::from_std(listener)?;
        Ok(Incoming { stream: UnixListenerStream::new(listener), _socket: self })
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
        let found = fs::symlink_metadata(&self.path);
        if found.is_ok_and(|found| (found.dev(), found.ino()) == self.file) {
            let _ = fs::remove_file(&self.path);
        }
    }
}
