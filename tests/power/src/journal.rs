//! What was asked of a pool and what was acknowledged, outside of whatever may crash.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use fathom_test_sim::model::{Crash, Model};

/// The content of each volume and snapshot, by UUID.
pub type Observed = BTreeMap<u128, Vec<u8>>;

/// What the journal knows at one moment.
#[derive(Clone, Default)]
pub struct Record {
    /// What every sector may hold.
    pub model: Model,
    /// The worst crash since the model was last compared with what is there: what it allows
    /// is what may be found.
    since: Option<Crash>,
}

impl Record {
    /// Whether a crash has come of which the model does not yet know what it left.
    #[must_use]
    pub fn crashed(&self) -> bool {
        self.since.is_some()
    }

    /// A crash has come and life will go on from what it left.
    pub fn crash(&mut self, crash: Crash) {
        self.since = Some(self.worst(crash));
    }

    /// Checks what is there after `crash`.
    ///
    /// # Errors
    ///
    /// The first sector or device that cannot be explained.
    pub fn check(&self, observed: &Observed, crash: Crash) -> Result<(), String> {
        self.model.check(observed, self.worst(crash))
    }

    /// Checks what is there after the crashes so far, and goes on from it.
    ///
    /// # Errors
    ///
    /// As [`Record::check`].
    pub fn adopt(&mut self, observed: &Observed) -> Result<(), String> {
        self.check(observed, Crash::Daemon)?;
        self.model.adopt(observed);
        self.since = None;
        Ok(())
    }

    fn worst(&self, crash: Crash) -> Crash {
        if self.since == Some(Crash::Power) { Crash::Power } else { crash }
    }
}

/// The journal; a clone is the same one.
#[derive(Clone, Default)]
pub struct Journal(Arc<Mutex<Record>>);

impl Journal {
    /// The record, to be read or written. Nobody may do I/O on the pool while he holds it.
    ///
    /// What is asked for is written before it is asked for; what is acknowledged, after.
    pub fn lock(&self) -> MutexGuard<'_, Record> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
