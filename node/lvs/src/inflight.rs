//! Member I/Os that are under way, the oldest first, and those that take too long.
//!
//! ```text
//!   begun --> on time --> completed
//!                |
//!                v the deadline
//!              late: metadata has failed, data is waited for --> completed
//! ```
//!
//! The deadline is the same for all of them, so the one that was begun first is the first to be
//! late: finding out costs a look at the oldest one.
//!
//! - A token stays taken until the driver reports its I/O, however late.
//! - What has counted as failed is over for the store; its completion is taken and forgotten.

use core::time::Duration;

use fathom_units::Monotonic;
use slab::Slab;

use crate::{
    action::{IoKind, IoToken},
    geometry::{MEMBERS_MAX, MemberIndex},
    store::Route,
};

/// A member I/O under way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pending {
    pub(crate) route: Route,
    pub(crate) member: MemberIndex,
    pub(crate) kind: IoKind,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Standing {
    OnTime,
    Late,
    /// It counts as failed.
    Failed,
}

struct Entry {
    pending: Pending,
    /// When it was handed to the driver; none until then.
    since: Option<Monotonic>,
    standing: Standing,
    /// While it is late, flushes and checkpoints cannot go on.
    binding: bool,
    /// Its neighbours among those on time.
    older: Option<usize>,
    newer: Option<usize>,
}

/// Late I/Os of a member.
#[derive(Clone, Copy, Default)]
struct Late {
    all: u32,
    binding: u32,
}

/// All member I/Os under way.
pub(crate) struct Inflight {
    deadline: Duration,
    entries: Slab<Entry>,
    oldest: Option<usize>,
    newest: Option<usize>,
    /// How many count as failed.
    failed: usize,
    late: [Late; MEMBERS_MAX],
}

impl Inflight {
    pub(crate) fn new(deadline: Duration) -> Self {
        Self {
            deadline,
            entries: Slab::new(),
            oldest: None,
            newest: None,
            failed: 0,
            late: [Late::default(); MEMBERS_MAX],
        }
    }

    /// Whether the store waits for none.
    pub(crate) fn is_idle(&self) -> bool {
        self.entries.len() == self.failed
    }

    /// Begins an I/O.
    pub(crate) fn begin(&mut self, pending: Pending) -> IoToken {
        let entry = Entry {
            pending,
            since: None,
            standing: Standing::OnTime,
            binding: false,
            older: self.newest,
            newer: None,
        };
        let key = self.entries.insert(entry);
        match self.newest.replace(key) {
            Some(newest) => self.entries[newest].newer = Some(key),
            None => self.oldest = Some(key),
        }
        IoToken(key)
    }

    /// Ends an I/O. Nothing when it has counted as failed before.
    ///
    /// # Panics
    ///
    /// When the token names no I/O under way.
    pub(crate) fn end(&mut self, token: IoToken) -> Option<Pending> {
        let IoToken(key) = token;
        assert!(self.entries.contains(key), "{token:?} names no I/O under way");
        if self.entries[key].standing == Standing::OnTime {
            self.unlink(key);
            return Some(self.entries.remove(key).pending);
        }
        let Entry { pending, standing, binding, .. } = self.entries.remove(key);
        let late = &mut self.late[usize::from(pending.member.0)];
        late.all -= 1;
        late.binding -= u32::from(binding);
        if standing == Standing::Failed {
            self.failed -= 1;
            return None;
        }
        Some(pending)
    }

    fn unlink(&mut self, key: usize) {
        let Entry { older, newer, .. } = self.entries[key];
        match older {
            Some(older) => self.entries[older].newer = newer,
            None => self.oldest = newer,
        }
        match newer {
            Some(newer) => self.entries[newer].older = older,
            None => self.newest = older,
        }
    }

    /// What has been begun since the last call is handed to the driver now.
    pub(crate) fn handed_over(&mut self, now: Monotonic) {
        let mut next = self.newest;
        while let Some(key) = next
            && self.entries[key].since.is_none()
        {
            self.entries[key].since = Some(now);
            next = self.entries[key].older;
        }
    }

    /// When the oldest one is late, if it is not over before.
    pub(crate) fn due(&self) -> Option<Monotonic> {
        Some(self.entries[self.oldest?].since? + self.deadline)
    }

    /// The next one that is late at `now`. From here on it is waited for without a deadline.
    pub(crate) fn next_late(&mut self, now: Monotonic) -> Option<(IoToken, Pending)> {
        let key = self.oldest?;
        if self.due()? > now {
            return None;
        }
        self.unlink(key);
        let entry = &mut self.entries[key];
        entry.standing = Standing::Late;
        let pending = entry.pending;
        self.late[usize::from(pending.member.0)].all += 1;
        Some((IoToken(key), pending))
    }

    /// A late I/O counts as failed: nobody waits for it any more.
    pub(crate) fn fail(&mut self, IoToken(key): IoToken) {
        self.entries[key].standing = Standing::Failed;
        self.failed += 1;
    }

    /// Flushes and checkpoints wait for a late I/O.
    pub(crate) fn bind(&mut self, IoToken(key): IoToken) {
        let entry = &mut self.entries[key];
        entry.binding = true;
        self.late[usize::from(entry.pending.member.0)].binding += 1;
    }

    /// Whether a member has late I/Os.
    pub(crate) fn is_late(&self, member: MemberIndex) -> bool {
        self.late[usize::from(member.0)].all > 0
    }

    /// Whether flushes and checkpoints wait for late I/Os of a member.
    pub(crate) fn is_bound(&self, member: MemberIndex) -> bool {
        self.late[usize::from(member.0)].binding > 0
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::geometry::Lsn;

    const DEADLINE: Duration = Duration::from_nanos(10);

    fn pending(member: u16) -> Pending {
        let route = Route::Entry { lsn: Lsn(1) };
        Pending { route, member: MemberIndex(member), kind: IoKind::Write { fua: false } }
    }

    #[test]
    fn a_failed_one_is_not_waited_for_and_keeps_its_token() {
        let mut inflight = Inflight::new(DEADLINE);
        let token = inflight.begin(pending(3));
        inflight.handed_over(Monotonic(5));
        assert_eq!(inflight.due(), Some(Monotonic(15)));
        assert!(inflight.next_late(Monotonic(14)).is_none());
        assert_eq!(inflight.next_late(Monotonic(15)).expect("it is late").0, token);
        assert!(inflight.is_late(MemberIndex(3)) && !inflight.is_idle());
        inflight.bind(token);
        inflight.fail(token);
        assert!(inflight.is_idle() && inflight.is_bound(MemberIndex(3)));
        assert_ne!(inflight.begin(pending(3)), token);
        assert!(inflight.end(token).is_none());
        assert!(!inflight.is_late(MemberIndex(3)) && !inflight.is_bound(MemberIndex(3)));
        assert!(!inflight.is_idle());
    }

    #[test]
    #[should_panic(expected = "names no I/O under way")]
    fn nothing_ends_twice() {
        let mut inflight = Inflight::new(DEADLINE);
        let token = inflight.begin(pending(0));
        inflight.end(token);
        inflight.end(token);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Begin,
        End(usize),
        Pass(u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            Just(Step::Begin),
            any::<usize>().prop_map(Step::End),
            (0_u64..8).prop_map(Step::Pass),
        ];
        prop::collection::vec(step, 1..200)
    }

    proptest! {
        /// The oracle looks at all of them.
        #[test]
        fn each_is_late_at_its_deadline_and_once(steps in steps()) {
            let mut inflight = Inflight::new(DEADLINE);
            let mut on_time: BTreeMap<IoToken, u64> = BTreeMap::new();
            let mut late: Vec<IoToken> = Vec::new();
            let mut now = 0;
            for step in steps {
                match step {
                    Step::Begin => drop(on_time.insert(inflight.begin(pending(0)), now)),
                    Step::End(at) => {
                        let all: Vec<IoToken> = on_time.keys().chain(&late).copied().collect();
                        if let Some(&token) = all.get(at % all.len().max(1)) {
                            prop_assert!(inflight.end(token).is_some());
                            on_time.remove(&token);
                            late.retain(|&other| other != token);
                        }
                    }
                    Step::Pass(nanos) => now += nanos,
                }
                while let Some((token, _)) = inflight.next_late(Monotonic(now)) {
                    let since = on_time.remove(&token).expect("it was on time");
                    prop_assert!(since + 10 <= now);
                    late.push(token);
                }
                inflight.handed_over(Monotonic(now));
                prop_assert!(on_time.values().all(|since| since + 10 > now));
                let due = on_time.values().min().map(|since| Monotonic(since + 10));
                prop_assert_eq!(inflight.due(), due);
                prop_assert_eq!(inflight.is_late(MemberIndex(0)), !late.is_empty());
                prop_assert_eq!(inflight.is_idle(), on_time.is_empty() && late.is_empty());
            }
        }
    }
}
