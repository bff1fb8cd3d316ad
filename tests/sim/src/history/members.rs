//! Members that come, grow and join again.

use fathom_lvs::{
    Content, Health, Medium, OpenOptions,
    format::label::{MemberRole, MemberState},
    geometry::MemberIndex,
};
use fathom_test_support::disk::{SimulatedDisk, Unwritten};
use uuid::Uuid;

use super::{Call, History};
use crate::{
    pool::{CLUSTER, METADATA, SLOT_BYTES},
    rig::{Disks, Rig},
};

/// A device that is being added, or that a crash left half added.
#[derive(Clone, Debug)]
pub(super) struct Newcomer {
    uuid: Uuid,
    force: bool,
    /// Its disk, while it is none of the pool's.
    disk: Option<SimulatedDisk>,
}

impl History {
    /// Adds a device, or enlarges one.
    pub(super) fn change_members(&mut self) -> Result<(), String> {
        match self.random.below(3) {
            0 => self.add_member()?,
            _ => {
                let members = self.rig.disks.0.len() as u64;
                let slot = usize::try_from(self.random.below(members)).expect("few");
                let more = self.random.below(6) * CLUSTER + self.random.below(16) * 4096;
                let disk = &mut self.rig.disks.0[slot];
                disk.grow(disk.capacity() + more);
                let member = MemberIndex(u16::try_from(slot).expect("few"));
                if let Ok(ticket) = self.rig.grow_member(member) {
                    self.call = Some((ticket, Call::GrowMember(member)));
                }
            }
        }
        Ok(())
    }

    /// Makes a stale copy whole.
    pub(super) fn rejoin(&mut self) {
        if let Some(member) = self.stale_copy()
            && let Ok(ticket) = self.rig.rejoin_member(member)
        {
            self.call = Some((ticket, Call::Rejoin));
        }
    }

    /// Whether members are being added, enlarged or made whole.
    pub(super) fn changes_members(&self) -> bool {
        matches!(self.call, Some((_, Call::AddMember | Call::GrowMember(_) | Call::Rejoin)))
    }

    fn stale_copy(&self) -> Option<MemberIndex> {
        match self.rig.store.health() {
            Health::Degraded { stale, .. } => stale.first().copied(),
            _ => None,
        }
    }

    fn add_member(&mut self) -> Result<(), String> {
        let metadata = METADATA + 2 * SLOT_BYTES + self.shape.log_bytes;
        let bytes = metadata + (2 + self.random.below(12)) * CLUSTER;
        let force = self.random.chance(1, 2);
        let unwritten = if force { Unwritten::Garbage } else { Unwritten::Zero };
        let disk = SimulatedDisk::new(bytes, unwritten, self.random.next_u64());
        let uuid = Uuid::from_u128(self.new_uuid() << 32);
        self.newcomer = Some(Newcomer { uuid, force, disk: Some(disk) });
        self.add_newcomer(false)
    }

    /// Makes the call to add the newcomer, for the first time or again.
    fn add_newcomer(&mut self, again: bool) -> Result<(), String> {
        let Some(newcomer) = &mut self.newcomer else { return Ok(()) };
        if let Some(disk) = newcomer.disk.take() {
            self.rig.disks.0.push(disk);
        }
        let slot = self.rig.disks.0.len() - 1;
        match self.rig.add_member(slot, newcomer.uuid, newcomer.force) {
            Ok(ticket) => self.call = Some((ticket, Call::AddMember)),
            // The log is too short for more members, or one has failed.
            Err(_) if !again => {
                self.rig.disks.0.pop();
                self.newcomer = None;
            }
            Err(refused) => return Err(format!("the same addition is refused: {refused}")),
        }
        Ok(())
    }

    /// A call that changes members has ended well.
    pub(super) fn members_changed(&mut self, call: &Call) -> Result<(), String> {
        let table = self.rig.store.member_table();
        match *call {
            Call::AddMember => {
                let joined = table.last().is_some_and(|last| last.state == MemberState::InSync);
                if table.len() != self.rig.disks.0.len() || !joined {
                    return Err(format!("a member was added, and the members are {table:?}"));
                }
                self.newcomer = None;
            }
            Call::GrowMember(MemberIndex(member)) => {
                let size = self.rig.disks.size(member.into());
                if table[usize::from(member)].size != size {
                    return Err(format!("member {member} was enlarged to {size}: {table:?}"));
                }
            }
            Call::Rejoin => {
                if let Some(member) = self.stale_copy() {
                    return Err(format!("a copy has joined, and member {} is stale", member.0));
                }
                // From here on a crash needs no leave to open it degraded.
                self.options = OpenOptions::WHOLE;
                self.summary.rejoined += 1;
                return Ok(());
            }
            _ => return Ok(()),
        }
        self.summary.grown += 1;
        Ok(())
    }

    /// Takes away the disk of a newcomer that carries no label: nobody would find it.
    pub(super) fn leave_unlabelled(&self, disks: &mut Disks) {
        if self.newcomer.is_none() {
            return;
        }
        let last = disks.0.len() - 1;
        let mut found = disks.clone();
        let labelled = fathom_lvs::inspect(&mut found, last)
            .is_ok_and(|candidate| matches!(candidate.content, Content::Label(_)));
        if !labelled {
            disks.0.pop();
        }
    }

    /// Life goes on after a crash with `rig`, which has been opened from some of `disks`. What was
    /// being added is added again, or forgotten.
    pub(super) fn resume_newcomer(&mut self, disks: &Disks) -> Result<(), String> {
        let Some(mut newcomer) = self.newcomer.take() else { return Ok(()) };
        let slots = self.rig.disks.0.len();
        if !self.rig.is_member(slots - 1) {
            newcomer.disk = self.rig.disks.0.pop();
        } else if slots < disks.0.len() {
            newcomer.disk = disks.0.last().cloned();
        }
        if self.random.chance(1, 3) {
            // Perhaps as a member without clusters, or without its copy: it is never missed.
            return Ok(());
        }
        self.newcomer = Some(newcomer);
        self.add_newcomer(true)?;
        self.rig.pump();
        Ok(())
    }

    /// Whether either of the first two members alone has all of the metadata.
    pub(super) fn has_two_copies(&self) -> bool {
        let whole = |rig: &Rig| {
            let copies = rig.store.member_table().iter().filter(|entry| {
                entry.role == MemberRole::DataAndMetadata && entry.state == MemberState::InSync
            });
            copies.count() == 2
        };
        // A copy that joins counts only when the call has ended; so it is with a member that is enlarged
        // while it joins.
        let joins =
            |call: &Call| matches!(call, Call::AddMember | Call::Rejoin | Call::GrowMember(_));
        let changing = self.call.as_ref().is_some_and(|(_, call)| joins(call));
        whole(&self.rig) && !changing
    }
}
