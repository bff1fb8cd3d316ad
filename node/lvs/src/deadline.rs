//! The deadline of member I/O: what a member that answers late, or never, may hold up.
//!
//! | past its deadline | |
//! |---|---|
//! | a log entry, a label, a part of a checkpoint or of a joining copy, a flush | counts as failed, exactly as an error would ([`crate::members`]); its late end is taken and ignored |
//! | data of a request or of a merge | is waited for, the host has a deadline of its own; [`Health`] names the member as long as it lasts |
//! | a write of data that settling waits for | is waited for, and a flush or a checkpoint that cannot go on without it counts as failed |
//!
//! The last row is what keeps a member that never answers from stopping volumes on others: no
//! checkpoint could end any more, and then the log would be full.
//!
//! [`Health`]: crate::Health

use core::time::Duration;

use crate::{
    action::IoError,
    geometry::MemberIndex,
    inflight::Pending,
    store::{Route, Store, TaskKey, Work},
};

/// How long a member may take, unless told otherwise: longer than what a healthy disk needs in a
/// bad moment, and shorter than the 30 seconds after which a Linux host gives a request up.
pub const IO_DEADLINE: Duration = Duration::from_secs(20);

impl Store {
    /// Whether a member has I/O under way that is past its deadline.
    pub fn is_late(&self, member: MemberIndex) -> bool {
        self.io.is_late(member)
    }

    /// Looks for what has become late.
    pub(crate) fn find_late(&mut self) {
        while let Some((token, pending)) = self.io.next_late(self.now) {
            match pending.route {
                Route::Task { key, part } => {
                    if self.holds_up(key, part) {
                        self.io.bind(token);
                    }
                }
                // The cluster is not used before the member has answered; nothing else waits for it.
                Route::Direct(_) | Route::Discard { .. } => {}
                Route::Entry { .. }
                | Route::Flush
                | Route::Label
                | Route::Checkpoint { .. }
                | Route::Join { .. } => {
                    self.io.fail(token);
                    self.fail_late(pending);
                }
            }
            self.mark_progress();
        }
    }

    fn fail_late(&mut self, pending: Pending) {
        let before = self.failure;
        self.io_ended(pending, Err(IoError::Failed), None);
        if before.is_none()
            && let Some((_, reason)) = &mut self.failure
        {
            *reason = match pending.route {
                Route::Flush => "a flush took longer than its deadline",
                Route::Label => "a label took longer to write than its deadline",
                Route::Checkpoint { .. } => "a checkpoint took longer to write than its deadline",
                Route::Entry { .. }
                | Route::Join { .. }
                | Route::Task { .. }
                | Route::Discard { .. }
                | Route::Direct(_) => "the metadata log took longer to write than its deadline",
            };
        }
    }

    /// Whether no flush or checkpoint is complete without this part of a task.
    fn holds_up(&self, key: TaskKey, part: usize) -> bool {
        match &self.tasks[key].work {
            Work::Io(task) => task.holds_up(part),
            _ => false,
        }
    }

    /// What settling needs of a member does not come within the deadline.
    pub(crate) fn give_up_late(&mut self, member: MemberIndex) {
        self.lose_member(member, "data took longer to write than its deadline");
    }
}
