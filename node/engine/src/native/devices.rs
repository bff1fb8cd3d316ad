//! What stands on devices, before anybody uses them, and which of them make a pool.
//!
//! ```text
//!   paths --> inspect: read only --> survey: pools, blank devices, what belongs to others
//!                                       | one of the pools
//!                                       v
//!                                 import: locked, opened
//! ```
//!
//! - Looking writes nothing, and needs no device to be free.
//! - What was seen without a lock is a hint: opening reads the labels again under the lock.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use fathom_lvs::{
    Assembly, Content, Medium, OpenOptions, assemble,
    format::label::{Label, MEMBER_SIZE_MIN},
    geometry::{CLUSTER_SIZE_MIN, MemberIndex},
};
use fathom_runtime::device::{DeviceError, DeviceFile};
use fathom_units::ByteCount;
use thiserror::Error;
use uuid::Uuid;

use super::members::{Member, Members, Opened, PoolError};

/// The smallest device that can be a member of some pool, in bytes: labels and one of the smallest
/// clusters.
pub const DEVICE_BYTES_MIN: u64 = MEMBER_SIZE_MIN + CLUSTER_SIZE_MIN as u64;

/// A device, and what stands on it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Inspected {
    /// The path by which it was looked at.
    pub path: PathBuf,
    /// Its size; none when it cannot be opened.
    pub size: Option<ByteCount>,
    /// What stands on it.
    pub finding: Finding,
    /// Whoever has it, if somebody does: a process, a mounted file system, another device.
    pub holder: Option<String>,
}

/// What stands on a device.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Finding {
    /// It is a member of a pool of ours.
    Member(Box<Label>),
    /// Nothing: it can be made a member.
    Blank,
    /// Nothing, and it is too small to be a member of any pool.
    TooSmall,
    /// Something else, also what is left of a pool of ours. It is not overwritten unless forced.
    Occupied(Content),
    /// It cannot be opened or read.
    Unreadable(String),
}

impl fmt::Display for Inspected {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: ", self.path.display())?;
        match &self.finding {
            Finding::Member(label) => {
                let (index, count) = (label.index.0, label.members.len());
                let (name, pool) = (&label.name, label.pool);
                write!(formatter, "member {index} of {count} of pool \"{name}\" ({pool})")?;
            }
            Finding::Blank => formatter.write_str("blank")?,
            Finding::TooSmall => {
                let size = self.size.map_or(0, |size| size.0);
                write!(
                    formatter,
                    "too small: {size} bytes, and {DEVICE_BYTES_MIN} are needed at least"
                )?;
            }
            Finding::Occupied(content) => write!(formatter, "{content}")?,
            Finding::Unreadable(reason) => write!(formatter, "unreadable: {reason}")?,
        }
        match &self.holder {
            Some(holder) => write!(formatter, ", in use by {holder}"),
            None => Ok(()),
        }
    }
}

/// Looks at each path. Writes nothing; waits for the devices.
pub fn inspect<'a>(paths: impl IntoIterator<Item = &'a Path>) -> Vec<Inspected> {
    paths.into_iter().map(look).collect()
}

fn look(path: &Path) -> Inspected {
    let unreadable = |reason: &dyn fmt::Display| Finding::Unreadable(reason.to_string());
    let (size, finding) = match DeviceFile::open_to_look(path) {
        Err(error) => (None, unreadable(&error)),
        Ok(file) => {
            let size = file.size();
            let mut members = Members(vec![Member::from(file)]);
            let finding = match fathom_lvs::inspect(&mut members, 0) {
                Err(error) => unreadable(&error),
                Ok(candidate) => match candidate.content {
                    Content::Label(label) => Finding::Member(label),
                    Content::Nothing if size.0 < DEVICE_BYTES_MIN => Finding::TooSmall,
                    Content::Nothing => Finding::Blank,
                    other => Finding::Occupied(other),
                },
            };
            (Some(size), finding)
        }
    };
    // A lock for reading is enough to know whether somebody has it, and is given up at once.
    let holder = match DeviceFile::open_for_reading(path, Duration::ZERO) {
        Err(DeviceError::InUse { holder, .. }) => {
            Some(holder.unwrap_or_else(|| "somebody else".to_owned()))
        }
        _ => None,
    };
    Inspected { path: path.to_owned(), size, finding, holder }
}

/// What of the devices that were looked at belongs together.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Survey {
    /// Every device.
    pub devices: Vec<Inspected>,
    /// The pools that have members among them. Slots are places in `devices`.
    pub pools: Vec<Assembly>,
}

/// Looks at each path, in any order and under any name, and puts pools together. A path that comes
/// twice, also as a link, counts once. Writes nothing; waits for the devices.
pub fn survey<'a>(paths: impl IntoIterator<Item = &'a Path>) -> Survey {
    let mut real: BTreeMap<PathBuf, ()> = BTreeMap::new();
    let twice = |path: &&Path| {
        let real_path = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
        real.insert(real_path, ()).is_none()
    };
    let once: Vec<&Path> = paths.into_iter().filter(twice).collect();
    let devices = inspect(once);
    let labels = devices.iter().enumerate().filter_map(|(slot, device)| match &device.finding {
        Finding::Member(label) => Some((slot, &**label)),
        _ => None,
    });
    let pools = assemble(labels);
    Survey { pools, devices }
}

/// Which pool to import.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Wanted {
    /// The only one that is there.
    Only,
    /// The one of this name.
    Named(String),
    /// The one with this UUID.
    Uuid(Uuid),
}

impl fmt::Display for Wanted {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Only => formatter.write_str("no pool"),
            Self::Named(name) => write!(formatter, "no pool \"{name}\""),
            Self::Uuid(uuid) => write!(formatter, "no pool {uuid}"),
        }
    }
}

/// Why a pool was not imported. But for [`ImportError::Pool`] nothing was written, and there nothing
/// that counts.
#[derive(Debug, Error)]
pub enum ImportError {
    /// No device has a label of it.
    #[error("{wanted} is on these devices:{}", list(devices))]
    None {
        /// Which one was wanted.
        wanted: Wanted,
        /// What was found instead, a line for each device.
        devices: Vec<String>,
    },
    /// Several pools could be meant.
    #[error("several pools are there; give the UUID of one:{}", list(pools))]
    Several {
        /// Name and UUID of each.
        pools: Vec<String>,
    },
    /// Two devices claim to be the same member.
    #[error(
        "pool \"{pool}\": {} and {} both claim to be member {}: one is a copy; take it away",
        one.display(), other.display(), member.0
    )]
    Clash {
        /// The name of the pool.
        pool: String,
        /// Which member.
        member: MemberIndex,
        /// One device.
        one: PathBuf,
        /// The other.
        other: PathBuf,
    },
    /// Members are not there, and opening without them was not asked for.
    #[error(
        "pool \"{pool}\": not found:{}\nfound:{}\nOpen it degraded to go on without",
        list(missing),
        list(found)
    )]
    Missing {
        /// The name of the pool.
        pool: String,
        /// Index and UUID of each that is missing.
        missing: Vec<String>,
        /// Index and path of each that is there.
        found: Vec<String>,
    },
    /// A device of it cannot be had.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// It was not opened. Slots in the error are places in `devices`.
    #[error("{error}{}", slots(devices))]
    Pool {
        /// The devices in the order of slots.
        devices: Vec<PathBuf>,
        /// Why.
        error: Box<PoolError>,
    },
}

fn list(items: &[String]) -> String {
    items.iter().map(|item| format!("\n  {item}")).collect()
}

fn slots(devices: &[PathBuf]) -> String {
    let lines = devices.iter().enumerate();
    lines.map(|(slot, path)| format!("\n  slot {slot} is {}", path.display())).collect()
}

impl Survey {
    /// The pool that is wanted.
    ///
    /// # Errors
    ///
    /// When it is not there, or more than one is meant.
    pub fn find(&self, wanted: &Wanted) -> Result<&Assembly, ImportError> {
        let is_meant = |pool: &&Assembly| match wanted {
            Wanted::Only => true,
            Wanted::Named(name) => pool.name == *name,
            Wanted::Uuid(uuid) => pool.pool == *uuid,
        };
        let meant: Vec<&Assembly> = self.pools.iter().filter(is_meant).collect();
        match meant[..] {
            [one] => Ok(one),
            [] => Err(ImportError::None {
                wanted: wanted.clone(),
                devices: self.devices.iter().map(ToString::to_string).collect(),
            }),
            _ => Err(ImportError::Several {
                pools: meant.iter().map(|pool| format!("{} ({})", pool.name, pool.pool)).collect(),
            }),
        }
    }

    /// The devices of a pool of this survey in the order of its members.
    ///
    /// # Errors
    ///
    /// When two devices claim to be one member, or some are missing and `degraded` is not asked for.
    pub fn devices_of(
        &self,
        pool: &Assembly,
        options: OpenOptions,
    ) -> Result<Vec<PathBuf>, ImportError> {
        let path = |slot: usize| self.devices[slot].path.clone();
        if let Some(clash) = pool.clashes.first() {
            let (one, other) = (path(clash.one), path(clash.other));
            let (pool, member) = (pool.name.clone(), clash.member);
            return Err(ImportError::Clash { pool, member, one, other });
        }
        let found = pool.members.iter().map(|(member, &slot)| (member, path(slot)));
        if pool.missing.is_empty() || options.degraded {
            return Ok(found.map(|(_, path)| path).collect());
        }
        let missing = pool.missing.iter();
        Err(ImportError::Missing {
            pool: pool.name.clone(),
            missing: missing
                .map(|(member, uuid)| format!("member {} ({uuid})", member.0))
                .collect(),
            found: found
                .map(|(member, path)| format!("member {}: {}", member.0, path.display()))
                .collect(),
        })
    }
}

impl Opened {
    /// Finds the members of a pool among `paths`, in any order and under any name, locks them, all
    /// within `wait`, and opens it. Waits for the devices.
    ///
    /// # Errors
    ///
    /// Why not, with the paths that it concerns. Nothing is locked then.
    pub fn import(
        paths: &[PathBuf],
        wanted: &Wanted,
        options: OpenOptions,
        wait: Duration,
    ) -> Result<Self, ImportError> {
        let survey = survey(paths.iter().map(PathBuf::as_path));
        let devices = survey.devices_of(survey.find(wanted)?, options)?;
        let members = Members::open(&devices, wait)?;
        Self::open(members, options)
            .map_err(|error| ImportError::Pool { devices, error: Box::new(error) })
    }
}

/// What forced creation would destroy: the slots that are not blank, with the device's name and what
/// stands on it. Writes nothing; waits for the devices.
///
/// # Errors
///
/// When a member cannot be read.
pub fn occupied(members: &mut Members) -> Result<Vec<(String, Content)>, PoolError> {
    let mut found = Vec::new();
    for slot in 0..members.slots() {
        let content = fathom_lvs::inspect(members, slot)?.content;
        if content != Content::Nothing {
            found.push((members.0[slot].name(), content));
        }
    }
    Ok(found)
}

/// The block devices of this machine that may be members: disks and partitions, and what is built on
/// them, of some size. Looks at none of them.
///
/// # Errors
///
/// When the kernel's list cannot be read.
pub fn block_devices() -> std::io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in std::fs::read_dir("/sys/class/block")? {
        let entry = entry?;
        let sectors = std::fs::read_to_string(entry.path().join("size")).unwrap_or_default();
        // The kernel writes '!' for '/' in names.
        let name = entry.file_name().to_string_lossy().replace('!', "/");
        let path = Path::new("/dev").join(name);
        if !matches!(sectors.trim(), "" | "0") && path.exists() {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}
