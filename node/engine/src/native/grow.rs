//! Growing a pool that is used: by a device, by a device that has grown, and back to two copies of its
//! metadata.
//!
//! ```text
//!   a device, locked --> inspected, by the caller's thread --> asked: would it do? --> erased, if forced
//!                    --> Pool: add_member --> labels, segment, copy --> durable, answered
//! ```
//!
//! - Requests go on meanwhile.
//! - What waits for the device waits on the caller's thread and not on the loop.
//! - A device that is refused, or that did not become a member, is unlocked.
//!
//! Source: `docs/formats/lvs.md` sections 2.3 and 2.4.

use std::sync::mpsc::sync_channel;

use fathom_lvs::{
    Addition, Content, MediumError,
    format::label::{LABEL_SIZE, label_offsets},
    geometry::MemberIndex,
};
use fathom_runtime::device::DeviceError;
use thiserror::Error;
use uuid::Uuid;

use super::{
    handle::PoolHandle,
    members::{Member, Members},
    message::{CallError, CarriesPool, FromThread},
};

/// Why a pool did not grow.
#[derive(Debug, Error)]
pub enum GrowError {
    /// The pool refused it, or it failed there.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The device cannot be read, or cannot be written where it has to be; it is no member.
    #[error(transparent)]
    Device(#[from] MediumError),
    /// The size of a member's device cannot be found out.
    #[error(transparent)]
    Size(#[from] DeviceError),
    /// The member has no device that could have grown: it is missing, or memory.
    #[error("member {} has no device that could have grown", .0.0)]
    NoDevice(MemberIndex),
}

/// A member that was added.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Added {
    /// Its index.
    pub member: MemberIndex,
    /// Its UUID: as given, or that of an earlier call that a crash ended.
    pub uuid: Uuid,
    /// What stood on the device, when it was forced.
    pub destroyed: Option<Content>,
}

impl<M: CarriesPool> PoolHandle<M> {
    /// Adds a device to the pool and waits until its space is there, durably; `uuid`, random, becomes
    /// its UUID. A second member gets a copy of the metadata. With `force` it is erased first, unless
    /// the pool refuses it for another reason.
    ///
    /// When a crash ended such a call, the device is given again if it is not among the pool's
    /// members; if it is, [`PoolHandle::grow_member`] goes on.
    ///
    /// # Errors
    ///
    /// Why not. The device is unlocked, unless it is a member by then: the call failed when labels
    /// named it, and the pool shows it.
    pub fn add_member(&self, device: Member, uuid: Uuid, force: bool) -> Result<Added, GrowError> {
        let mut members = Members(vec![device]);
        let candidate = fathom_lvs::inspect(&mut members, 0)?;
        let content = candidate.content.clone();
        let mut addition = Addition { uuid, candidate, force };
        let asked = addition.clone();
        let looked = self.look(move |store| {
            let before = store.proposed_before(&asked.candidate);
            let uuid = before.unwrap_or(asked.uuid);
            let checked = store.check_addition(&Addition { uuid, ..asked });
            (before, checked, store.metadata_of_addition())
        });
        let (before, checked, metadata) = looked.ok_or(CallError::Closed)?;
        checked.map_err(CallError::from)?;
        addition.uuid = before.unwrap_or(uuid);
        let mut destroyed = None;
        if force && before.is_none() && content != Content::Nothing {
            fathom_lvs::erase(&mut members, 0)?;
            addition.candidate = fathom_lvs::inspect(&mut members, 0)?;
            destroyed = Some(content);
        }
        let device = members.0.pop().expect("it was put there");
        set_aside(&device, &metadata)?;
        let uuid = addition.uuid;
        let (answer, answered) = sync_channel(1);
        self.send(FromThread::Add { device, addition, answer });
        answered.recv().unwrap_or(Err(CallError::Closed))?;
        let member = self.look(move |store| store.member_of(uuid)).flatten();
        Ok(Added { member: member.ok_or(CallError::Closed)?, uuid, destroyed })
    }

    /// Has the pool use what a member's device has grown by, and waits until that is there, durably.
    /// Also ends what a crash left of adding the member: its space, and its copy of the metadata.
    ///
    /// # Errors
    ///
    /// Why not, also when the device has become smaller.
    pub fn grow_member(&self, member: MemberIndex) -> Result<(), GrowError> {
        let device = self.device(member).ok_or_else(|| match self.look(|_| ()) {
            Some(()) => GrowError::NoDevice(member),
            None => CallError::Closed.into(),
        })?;
        let size = device.size_now()?.0;
        let [_, _, last] = label_offsets(size);
        set_aside(&Member::Device(device), &[(last, LABEL_SIZE as u64)])?;
        Ok(self.call(move |store| store.grow_member(member, size))?)
    }

    /// Makes the metadata copy of a member whole that is stale or still being made, and waits until
    /// that is durable.
    ///
    /// # Errors
    ///
    /// Why not.
    pub fn rejoin_member(&self, member: MemberIndex) -> Result<(), CallError> {
        self.call(move |store| store.rejoin_member(member))
    }
}

/// Has the file system set space aside for a member's metadata, so that it is there when the file
/// system is full.
fn set_aside(device: &Member, places: &[(u64, u64)]) -> Result<(), MediumError> {
    let Member::Device(file) = device else { return Ok(()) };
    for &(offset, length) in places {
        file.allocate(offset, length).map_err(|error| MediumError {
            slot: 0,
            operation: "setting space aside",
            offset,
            reason: format!("{}: {error}", file.path().display()),
        })?;
    }
    Ok(())
}
