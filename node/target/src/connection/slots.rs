//! The commands of a queue that are under way, by their slots.
//!
//! There are as many slots as the queue has entries: a host that has more commands under way than
//! that breaks the rules of its queue (Base section 3.3.2).

use std::ops::{Index, IndexMut};

use super::commands::Command;

/// Names a command of a connection from its capsule to its answer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Slot(pub u16);

/// All slots of a connection.
#[derive(Default)]
pub(super) struct Slots {
    commands: Vec<Option<Command>>,
    free: Vec<Slot>,
}

impl Slots {
    /// As many as the queue has entries, at most 65,536.
    pub(super) fn new(entries: u32) -> Self {
        let last = u16::try_from(entries - 1).expect("a queue has at most 65,536 entries");
        let free: Vec<Slot> = (0..=last).rev().map(Slot).collect();
        let mut commands = Vec::new();
        commands.resize_with(free.len(), || None);
        Self { commands, free }
    }

    /// Gives a command a slot. `None` when all are taken.
    pub(super) fn take(&mut self, command: Command) -> Option<Slot> {
        let slot = self.free.pop()?;
        self.commands[usize::from(slot.0)] = Some(command);
        Some(slot)
    }

    /// Takes a command out of its slot.
    ///
    /// # Panics
    ///
    /// When there is none.
    pub(super) fn remove(&mut self, slot: Slot) -> Command {
        let command = self.commands[usize::from(slot.0)].take();
        self.free.push(slot);
        command.expect("the slot has a command")
    }

    /// Whether no command is under way.
    pub(super) fn is_empty(&self) -> bool {
        self.free.len() == self.commands.len()
    }

    /// The slots that have commands. It looks at all of them.
    pub(super) fn taken(&self) -> Vec<Slot> {
        let all = (0..).map(Slot).zip(&self.commands);
        all.filter(|(_, command)| command.is_some()).map(|(slot, _)| slot).collect()
    }

    /// The command in a slot, if there is one.
    pub(super) fn get_mut(&mut self, slot: Slot) -> Option<&mut Command> {
        self.commands.get_mut(usize::from(slot.0))?.as_mut()
    }
}

impl Index<Slot> for Slots {
    type Output = Command;

    fn index(&self, slot: Slot) -> &Command {
        self.commands[usize::from(slot.0)].as_ref().expect("the slot has a command")
    }
}

impl IndexMut<Slot> for Slots {
    fn index_mut(&mut self, slot: Slot) -> &mut Command {
        self.commands[usize::from(slot.0)].as_mut().expect("the slot has a command")
    }
}
