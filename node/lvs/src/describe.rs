//! What is under way in a store and what it waits for, for whoever debugs it.

use crate::store::{Store, Work};

impl core::fmt::Debug for Store {
    /// What is under way and what it waits for.
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        writeln!(
            f,
            "log: open {:?}, completed {:?}, durable {:?}, room {}; {} unsettled blocks; \
             {} clusters free, {} in quarantine; {} stalled, failure {:?}",
            self.log.open_lsn(),
            self.log.completed(),
            self.log.durable(),
            self.log_has_room(),
            self.settlement.blocks(),
            self.alloc.free(),
            self.alloc.quarantined(),
            self.stalled.len(),
            self.failure,
        )?;
        writeln!(f, "{:?}", self.settlement)?;
        for (key, task) in &self.tasks {
            let what = match &task.work {
                Work::Io(task) => task.describe(),
                Work::Admin(_) => "a call".to_owned(),
                Work::Checkpoint(_) => "a checkpoint".to_owned(),
                Work::Reclaim(task) => task.describe(),
                Work::Grow(task) => task.describe(),
            };
            writeln!(f, "{key}: {what}, queued {}, waits for {:?}", task.queued, task.waits)?;
        }
        Ok(())
    }
}
