//! The state directory: which pools the node has, so that a restart opens them again.
//!
//! ```text
//!   STATE/lock          locked by the daemon that runs
//!   STATE/pools/NAME    "uuid UUID", then "member PATH" for each member
//! ```
//!
//! Everything else is on the pools' own members: without this directory `pool import` finds them by
//! their labels. A record is replaced as a whole, and durable when the call returns.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};
use thiserror::Error;
use uuid::Uuid;

/// The most members that a record may name; a pool has no more.
const MEMBERS_MAX: usize = fathom_lvs::geometry::MEMBERS_MAX;
/// The longest record that is read, in bytes: the paths have 4096 bytes at most.
const RECORD_MAX: u64 = 128 << 10;

/// The state directory, locked.
#[derive(Debug)]
pub(crate) struct StateDirectory {
    pools: PathBuf,
    /// Holds the lock.
    _lock: File,
}

/// A pool that the node has.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct PoolEntry {
    /// Its name.
    pub(crate) name: String,
    /// Its UUID.
    pub(crate) uuid: Uuid,
    /// Its members.
    pub(crate) paths: Vec<PathBuf>,
}

/// The name of a recorded pool, with its entry or why that cannot be read.
pub(crate) type Recorded = (String, Result<PoolEntry, StateError>);

/// The state directory cannot be used.
#[derive(Debug, Error)]
pub(crate) enum StateError {
    /// Another daemon uses it.
    #[error("state directory {0}: another daemon uses it; give each its own with --state")]
    Locked(PathBuf),
    /// It cannot be read or written.
    #[error("{path}: {doing}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// A record is not as this daemon writes them.
    #[error("{path}: line {line}: {wrong}; move the file away, and import the pool")]
    Record {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong.
        wrong: &'static str,
    },
}

impl StateError {
    fn io(path: &Path, doing: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { path: path.to_owned(), doing, source }
    }
}

impl StateDirectory {
    /// Makes the directory if need be, and locks it for this process.
    ///
    /// # Errors
    ///
    /// When another daemon has it, or it cannot be made.
    pub(crate) fn open(path: &Path) -> Result<Self, StateError> {
        let pools = path.join("pools");
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&pools);
        made.map_err(StateError::io(&pools, "making the directory"))?;
        let lock_path = path.join("lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&lock_path)
            .map_err(StateError::io(&lock_path, "opening"))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { pools, _lock: lock }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(StateError::Locked(path.to_owned())),
            Err(error) => Err(StateError::io(&lock_path, "locking")(error.into())),
        }
    }

    /// The recorded pools by name.
    ///
    /// # Errors
    ///
    /// When the directory cannot be listed.
    pub(crate) fn pools(&self) -> Result<Vec<Recorded>, StateError> {
        let listing = StateError::io;
        let mut entries = Vec::new();
        for entry in fs::read_dir(&self.pools).map_err(listing(&self.pools, "listing"))? {
            let entry = entry.map_err(listing(&self.pools, "listing"))?;
            // What a crash left of writing a record; names of pools do not begin like this.
            let Ok(name) = entry.file_name().into_string() else { continue };
            if !name.starts_with('.') {
                let read = read(&entry.path(), &name);
                entries.push((name, read));
            }
        }
        entries.sort_by(|one, other| one.0.cmp(&other.0));
        Ok(entries)
    }

    /// What is recorded of a pool, if something is.
    ///
    /// # Errors
    ///
    /// When its record cannot be read.
    pub(crate) fn find(&self, name: &str) -> Result<Option<PoolEntry>, StateError> {
        let path = self.pools.join(name);
        if path.exists() { read(&path, name).map(Some) } else { Ok(None) }
    }

    /// Records a pool. On return that is durable.
    ///
    /// # Errors
    ///
    /// When it cannot be written; a record that was there before stays.
    pub(crate) fn record(&self, entry: &PoolEntry) -> Result<(), StateError> {
        let path = self.pools.join(&entry.name);
        let partial = self.pools.join(format!(".{}.partial", entry.name));
        let mut text = format!("uuid {}\n", entry.uuid);
        for member in &entry.paths {
            match member.to_str() {
                Some(member) if !member.contains('\n') => {
                    text.push_str("member ");
                    text.push_str(member);
                    text.push('\n');
                }
                _ => {
                    let wrong = "a path of a member has a line break or is not UTF-8";
                    return Err(StateError::Record { path, line: 0, wrong });
                }
            }
        }
        let writing = || StateError::io(&path, "writing");
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(&partial)
            .map_err(writing())?;
        file.write_all(text.as_bytes()).map_err(writing())?;
        file.sync_all().map_err(writing())?;
        fs::rename(&partial, &path).map_err(writing())?;
        self.sync()
    }

    /// Forgets a pool. On return that is durable. One that is not recorded is forgotten already.
    ///
    /// # Errors
    ///
    /// When its record cannot be removed.
    pub(crate) fn forget(&self, name: &str) -> Result<(), StateError> {
        let path = self.pools.join(name);
        match fs::remove_file(&path) {
            Ok(()) => self.sync(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(StateError::io(&path, "removing")(error)),
        }
    }

    fn sync(&self) -> Result<(), StateError> {
        let directory = File::open(&self.pools).and_then(|directory| directory.sync_all());
        directory.map_err(StateError::io(&self.pools, "bringing to stable media"))
    }
}

fn read(path: &Path, name: &str) -> Result<PoolEntry, StateError> {
    let record = |line, wrong| StateError::Record { path: path.to_owned(), line, wrong };
    let reading = || StateError::io(path, "reading");
    let length = fs::metadata(path).map_err(reading())?.len();
    if length > RECORD_MAX {
        return Err(record(1, "it is too long for a record"));
    }
    let text = fs::read_to_string(path).map_err(reading())?;
    let mut lines = text.lines();
    let uuid = lines.next().and_then(|line| line.strip_prefix("uuid "));
    let uuid = uuid.and_then(|uuid| Uuid::try_parse(uuid).ok());
    let uuid = uuid.ok_or_else(|| record(1, "\"uuid\" and a UUID are expected"))?;
    let mut paths = Vec::new();
    for (at, line) in lines.enumerate() {
        match line.strip_prefix("member ") {
            Some(path) if !path.is_empty() && paths.len() < MEMBERS_MAX => paths.push(path.into()),
            _ => return Err(record(at + 2, "\"member\" and a path are expected, 16 at most")),
        }
    }
    if paths.is_empty() {
        return Err(record(2, "no member is named"));
    }
    Ok(PoolEntry { name: name.to_owned(), uuid, paths })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("fathom-state-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        path
    }

    fn entry(name: &str) -> PoolEntry {
        let paths = vec!["/dev/sdb".into(), "/var/lib/a file".into()];
        PoolEntry { name: name.to_owned(), uuid: Uuid::from_u128(7), paths }
    }

    #[test]
    fn what_is_recorded_is_there_after_a_restart_and_what_is_forgotten_is_not() {
        let path = directory("record");
        let state = StateDirectory::open(&path).expect("it is made");
        state.record(&entry("tank")).expect("written");
        state.record(&entry("other")).expect("written");
        state.record(&PoolEntry { paths: vec!["/x".into()], ..entry("other") }).expect("replaced");
        state.forget("tank").expect("removed");
        state.forget("tank").expect("it is forgotten already");
        drop(state);
        fs::write(path.join("pools/.half.partial"), "uu").expect("what a crash leaves");
        let state = StateDirectory::open(&path).expect("it is there");
        let pools = state.pools().expect("listed");
        let [(name, Ok(found))] = &pools[..] else { panic!("one pool: {pools:?}") };
        assert_eq!((name.as_str(), &found.paths), ("other", &vec![PathBuf::from("/x")]));
        fs::remove_dir_all(&path).expect("removed");
    }

    #[test]
    fn two_daemons_do_not_share_it() {
        let path = directory("lock");
        let first = StateDirectory::open(&path).expect("it is made");
        assert!(matches!(StateDirectory::open(&path), Err(StateError::Locked(_))));
        drop(first);
        StateDirectory::open(&path).expect("it is free again");
        fs::remove_dir_all(&path).expect("removed");
    }

    #[test]
    fn a_record_that_is_damaged_is_told_with_its_line() {
        let path = directory("damaged");
        let state = StateDirectory::open(&path).expect("it is made");
        let uuid = Uuid::from_u128(1);
        for (text, at) in [
            ("", 1),
            ("uuid x\n", 1),
            (&*format!("uuid {uuid}\n"), 2),
            (&*format!("uuid {uuid}\nmember /a\nmembre /b\n"), 3),
        ] {
            fs::write(path.join("pools/tank"), text).expect("written");
            let pools = state.pools().expect("listed");
            let [(_, Err(StateError::Record { line, .. }))] = &pools[..] else {
                panic!("{text:?}: {pools:?}")
            };
            assert_eq!(*line, at, "{text:?}");
        }
        fs::remove_dir_all(&path).expect("removed");
    }
}
