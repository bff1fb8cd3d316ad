//! Abort, from the side of the queue whose command is meant.
//!
//! | the command | becomes |
//! |---|---|
//! | waits for memory, and is no half of a fused operation | aborted at once |
//! | data was asked for, or is on its way | aborted when that has come; no device is asked |
//! | is at a device, at the target, or a half of a fused operation | what it is without the Abort |
//!
//! A transfer tag that the host was told stays in use until its data has come: a host that is told
//! that the command has ended might use the data's memory for something else while it is being sent.
//! So that is not an immediate abort. Source: Base section 5.1.1.

use fathom_nvme::Status;
use fathom_units::Cid;

use super::{
    Connection, Slot, Stage,
    commands::{Pair, State},
};

impl Connection {
    /// The host wants a command of this queue aborted. Returns whether it was at once: then it has
    /// been answered.
    pub fn abort(&mut self, cid: Cid) -> bool {
        if self.stage != Stage::Live {
            return false;
        }
        let meant = |slot: &Slot| self.slots[*slot].cid == cid;
        let Some(slot) = self.slots.taken().into_iter().find(meant) else { return false };
        let waits_for_driver = self.capsule_memory.is_some_and(|(wanted, _)| wanted == slot);
        let command = &mut self.slots[slot];
        if command.pair != Pair::None {
            return false;
        }
        match command.state {
            // Its data is the next thing that comes, and has to be put somewhere.
            State::Memory if waits_for_driver => {
                command.status = Status::ABORT_REQUESTED;
                false
            }
            State::Memory => {
                self.memory_wanted.retain(|(wanted, _)| *wanted != slot);
                self.slots.remove(slot);
                self.respond(cid, Status::ABORT_REQUESTED, 0);
                true
            }
            State::Capsule | State::Transfer if command.status.is_success() => {
                command.status = Status::ABORT_REQUESTED;
                false
            }
            State::Capsule | State::Transfer | State::Ready | State::Away => false,
        }
    }
}
