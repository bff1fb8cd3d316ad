//! Data that the host owes: it was asked for by an R2T, or is on its way in a capsule.
//!
//! The memory for such data is taken already, so a host that never sends it keeps it from others. The
//! command that has waited longest has to make progress: data of the others may lie behind it, in the
//! network or at the host, which serves one R2T after another.
//!
//! There is no clock here: whoever has one looks at equal intervals.

use std::collections::VecDeque;

use super::{Connection, Loss, Slot, Stage};

/// So many bytes between two looks are progress, and so is the last byte of a command.
pub const PROGRESS_BYTES: u32 = 4096;

/// The commands whose data is owed, the oldest first.
#[derive(Default)]
pub(super) struct Awaited {
    /// Each with a number that no other one has.
    commands: VecDeque<(u64, Slot)>,
    next: u64,
    /// The oldest one at the last look, and how much of its data had come.
    seen: Option<(u64, u32)>,
}

impl Awaited {
    pub(super) fn begin(&mut self, slot: Slot) {
        self.commands.push_back((self.next, slot));
        self.next += 1;
    }

    /// The data of a command has come, if it was owed.
    pub(super) fn end(&mut self, slot: Slot) {
        // In a capsule it is the last one, else most likely the first.
        if self.commands.back().is_some_and(|(_, last)| *last == slot) {
            self.commands.pop_back();
        } else if let Some(at) = self.commands.iter().position(|(_, other)| *other == slot) {
            self.commands.remove(at);
        }
    }

    pub(super) fn clear(&mut self) {
        self.commands.clear();
    }

    fn oldest(&self) -> Option<(u64, Slot)> {
        self.commands.front().copied()
    }
}

impl Connection {
    /// Whether the host owes data of commands.
    pub fn awaits_data(&self) -> bool {
        self.stage == Stage::Live && self.awaited.oldest().is_some()
    }

    /// Looks whether data that the host owes is coming: to be called every [`data_deadline`] while
    /// [`Connection::awaits_data`]. Ends the connection when the command that has waited longest is
    /// the same as at the last look, and less than [`PROGRESS_BYTES`] of its data have come since.
    ///
    /// [`data_deadline`]: super::Limits::data_deadline
    pub fn watch_data(&mut self) {
        // What lies behind a capsule that waits for memory is not taken.
        let takes = self.stage == Stage::Live && self.capsule_memory.is_none();
        let oldest = self.awaited.oldest().filter(|_| takes);
        let oldest = oldest.map(|(number, slot)| (number, self.slots[slot].arrived));
        let is_late = match (self.awaited.seen, oldest) {
            (Some((seen, before)), Some((number, arrived))) => {
                seen == number && arrived - before < PROGRESS_BYTES
            }
            _ => false,
        };
        self.awaited.seen = oldest;
        if is_late {
            self.lose(Loss::DataDeadline);
        }
    }

    /// Forgets the last look: meanwhile it was this side that took nothing.
    pub fn forgive_data(&mut self) {
        self.awaited.seen = None;
    }
}
