//! What becomes of commands when this side closes a connection in good order.
//!
//! What has come completely is done and answered. Of the rest the host hears nothing: no error
//! status stands for a shutdown, so a host that comes again does it again.

use fathom_nvme::Status;

use super::{
    Action, Connection, Stage,
    commands::{Fused, State},
};

impl Connection {
    /// Gives up every command of which the host still has to send something, and requests for
    /// events, which nothing may ever answer.
    pub(super) fn give_up_incomplete(&mut self) {
        self.capsule_memory = None;
        self.awaited.clear();
        self.fused = Fused::None;
        for slot in self.slots.taken() {
            let command = &self.slots[slot];
            let incomplete = match command.state {
                State::Capsule | State::Transfer | State::Ready => true,
                State::Memory => !command.is_read(),
                State::Away => command.is_event_request(),
            };
            if !incomplete {
                continue;
            }
            let waits = command.state == State::Memory;
            let command = self.slots.remove(slot);
            if waits {
                self.memory_wanted.retain(|(wanted, _)| *wanted != slot);
            } else if command.has_memory() {
                self.actions.push_back(Action::Release(slot));
            }
        }
    }

    /// Whether the host is told that a command has ended so. It is not when that is because this
    /// side closes, devices included: it does the same again elsewhere, or later.
    pub(super) fn is_told(&self, status: Status) -> bool {
        self.stage == Stage::Live || status != Status::NAMESPACE_NOT_READY
    }
}
