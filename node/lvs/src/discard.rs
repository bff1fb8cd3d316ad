//! Discarding clusters that were given back, so that the member can use their space.
//!
//! ```text
//!   given back --> quarantine --> to be discarded --> being discarded --> free
//!                  (entry durable,        |  space is wanted, or the       ^
//!                   no reads left)        |  member does not discard       |
//!                                         +--------------------------------+
//! ```
//!
//! - A cluster is discarded only when the entry that gave it back is on stable media: before that a
//!   crash may bring it back, with what was in it.
//! - It is not used again before its discard has ended: a late one would destroy what was written.
//! - Whoever waits for space gets what waits to be discarded at once.
//! - A member that fails to discard is not asked again until the pool is opened.
//! - What a crash keeps from being discarded stays as it is until it is used and given back again.
//!
//! Source: `docs/formats/lvs.md` section 6, rule 5.

use crate::{
    action::{IoData, IoKind},
    geometry::{ClusterNo, MemberIndex},
    store::{Route, Store},
};

/// Discards under way at once, all members together: others want the members, too.
const DISCARDS_MAX: usize = 2;
/// The most bytes that one discard covers.
const DISCARD_BYTES_MAX: u32 = 32 << 20;

impl Store {
    /// Whether clusters of a member that are not used any more are discarded there. Not until the driver
    /// says so: it knows whether the member can, and whether its space may be given away.
    pub fn set_discarding(&mut self, member: MemberIndex, discarding: bool) {
        self.alloc.set_discarding(member, discarding);
        self.stirred = true;
        self.mark_progress();
    }

    pub(crate) fn start_discards(&mut self) {
        if self.has_failed() {
            return;
        }
        let cluster = self.state.cluster_size.bytes();
        while self.alloc.discards_under_way() < DISCARDS_MAX
            && let Some((first, count)) = self.alloc.next_discard(DISCARD_BYTES_MAX / cluster)
        {
            let (member, offset) = self.locate(first, 0);
            let length = count as usize * cluster as usize;
            let route = Route::Discard { first };
            self.start_io(route, member, IoKind::Discard, offset, length, IoData::None);
        }
    }

    pub(crate) fn discard_ended(&mut self, member: MemberIndex, first: ClusterNo, failed: bool) {
        self.alloc.discarded(first);
        if failed {
            self.alloc.set_discarding(member, false);
        }
        self.mark_progress();
    }

    /// Somebody waits for space.
    pub(crate) fn hurry_discards(&mut self) {
        if self.alloc.skip_discards() > 0 {
            self.mark_progress();
        }
    }
}
