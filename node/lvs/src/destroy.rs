//! Destroying a pool, so that its members are blank again.
//!
//! ```text
//!   every member: tombstone over label copy 0, flush
//!   every member: zeros over all else that shows a pool, flush; then over the tombstone, flush
//! ```
//!
//! - Nothing but first label copies is overwritten before every member has its tombstone.
//! - A crash leaves the pool as it was, or members that have a tombstone or are blank. With one
//!   tombstone among them the pool is not opened; destroying it again goes on where it was.
//!
//! Source: `docs/formats/lvs.md` section 2.5.

use thiserror::Error;
use uuid::Uuid;

use crate::{
    candidate::wipe,
    format::{
        label::{DATA_OFFSET, LABEL_SIZE, Label, label_offsets},
        tombstone::{TOMBSTONE_SIZE, Tombstone},
    },
    geometry::MemberIndex,
    medium::{Medium, MediumError},
    membership::{Identity, newest_of, read_identity, same_pool},
    open::{Intent, OpenError, OpenOptions, read_pool},
    state::State,
};

/// How to destroy a pool.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct DestroyOptions {
    /// Also when it has volumes, when members are missing, and when it cannot be read.
    pub force: bool,
}

/// What was destroyed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Destroyed {
    /// The name of the pool.
    pub name: String,
    /// Its UUID.
    pub pool: Uuid,
    /// The volumes, and the snapshots as `VOLUME@SNAPSHOT`, as far as they could be read.
    pub objects: Vec<String>,
    /// Members that were not there, and are what they were.
    pub missing: Vec<(MemberIndex, Uuid)>,
}

/// Why a pool was not destroyed. But for [`DestroyError::Medium`] nothing was written.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum DestroyError {
    /// The slots are not the members of one pool, or what is on them cannot be known without force.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// It has volumes or snapshots.
    #[error("pool \"{pool}\" has {}; force would destroy them", objects.join(", "))]
    InUse {
        /// The name of the pool.
        pool: String,
        /// The volumes, and the snapshots as `VOLUME@SNAPSHOT`.
        objects: Vec<String>,
    },
    /// A member failed. Destroying can be tried again.
    #[error("the pool is not destroyed everywhere: {0}")]
    Medium(#[from] MediumError),
}

/// Destroys the pool on the slots of `medium`. On return no member shows that it was one, durably. The
/// data in the clusters is not overwritten.
///
/// # Errors
///
/// When the slots are not one whole pool without volumes, unless forced; or when a member failed.
pub fn destroy(
    medium: &mut dyn Medium,
    options: DestroyOptions,
) -> Result<Destroyed, DestroyError> {
    let graves = tombstones(medium)?;
    let begun = graves.iter().any(|(_, label)| label.is_none());
    let (name, pool) = (graves[0].0.name.clone(), graves[0].0.pool);
    // Once it was begun, it was allowed.
    let objects = if begun { Vec::new() } else { objects(medium, options)? };
    let missing = missing(&graves);
    for (slot, (tombstone, _)) in graves.iter().enumerate() {
        // Also where there is one: behind it something may be left of the label.
        let mut block = vec![0; LABEL_SIZE];
        block[..TOMBSTONE_SIZE].copy_from_slice(&tombstone.encode());
        medium.write(slot, 0, &block)?;
        medium.flush(slot)?;
    }
    for slot in 0..graves.len() {
        bury(medium, slot)?;
    }
    Ok(Destroyed { name, pool, objects, missing })
}

type Grave = (Tombstone, Option<Label>);

/// The tombstone of each slot, and its label where it has one yet.
fn tombstones(medium: &mut dyn Medium) -> Result<Vec<Grave>, OpenError> {
    let mut graves: Vec<Grave> = Vec::new();
    for slot in 0..medium.slots() {
        let grave = match read_identity(medium, slot)? {
            Identity::Tombstone(tombstone) => (tombstone, None),
            Identity::Label(label) => {
                let (pool, member, name) = (label.pool, label.member, label.name.clone());
                (Tombstone { pool, member, name }, Some(*label))
            }
        };
        let expected = graves.first().map_or(grave.0.pool, |(first, _)| first.pool);
        same_pool(slot, grave.0.pool, expected)?;
        if let Some(first) = graves.iter().position(|(other, _)| other.member == grave.0.member) {
            return Err(OpenError::Duplicate { first, second: slot, uuid: grave.0.member });
        }
        graves.push(grave);
    }
    if graves.is_empty() { Err(OpenError::NoMembers) } else { Ok(graves) }
}

/// What is in the pool, if that may be destroyed.
fn objects(medium: &mut dyn Medium, options: DestroyOptions) -> Result<Vec<String>, DestroyError> {
    if options.force {
        let read = read_pool(medium, OpenOptions::DEGRADED, Intent::Read);
        return Ok(read.map_or_else(|_| Vec::new(), |read| names(&read.replayed.state)));
    }
    let read = read_pool(medium, OpenOptions::WHOLE, Intent::Read)?;
    let objects = names(&read.replayed.state);
    if objects.is_empty() {
        return Ok(objects);
    }
    Err(DestroyError::InUse { pool: read.name, objects })
}

fn names(state: &State) -> Vec<String> {
    let volumes = state.volumes.values().filter(|volume| volume.tip.is_some());
    let volumes = volumes.map(|volume| volume.name.clone());
    let snapshots = state.snapshots.values().map(|snapshot| {
        let volume = state.volumes.get(&snapshot.volume).map_or("", |volume| &volume.name);
        format!("{volume}@{}", snapshot.name)
    });
    volumes.chain(snapshots).collect()
}

/// Members that a label names and that are not there.
fn missing(graves: &[Grave]) -> Vec<(MemberIndex, Uuid)> {
    let labels = graves.iter().enumerate();
    let labels = labels.filter_map(|(slot, (_, label))| Some((slot, label.clone()?)));
    let labels = labels.map(|(slot, label)| (label.index, (slot, label))).collect();
    let Some(newest) = newest_of(&labels) else { return Vec::new() };
    let there = |uuid| graves.iter().any(|(tombstone, _)| tombstone.member == uuid);
    let table = (0..).map(MemberIndex).zip(newest.members.iter().map(|entry| entry.uuid));
    table.filter(|&(_, uuid)| !there(uuid)).collect()
}

/// Makes a member blank whose pool cannot be opened any more: its tombstone goes last.
fn bury(medium: &mut dyn Medium, slot: usize) -> Result<(), MediumError> {
    let mut second = vec![0; LABEL_SIZE];
    let zeros = vec![0; LABEL_SIZE];
    // The last copy lies where the member ended then; only the second one still knows.
    if medium.read(slot, DATA_OFFSET / 2, &mut second).is_ok()
        && let Ok(label) = Label::decode(&second)
    {
        let [_, _, last] = label_offsets(label.member_size);
        if last < medium.size(slot) / LABEL_SIZE as u64 * LABEL_SIZE as u64 {
            medium.write(slot, last, &zeros)?;
            medium.flush(slot)?;
        }
    }
    wipe(medium, slot, LABEL_SIZE as u64)?;
    medium.write(slot, 0, &zeros)?;
    medium.flush(slot)
}
