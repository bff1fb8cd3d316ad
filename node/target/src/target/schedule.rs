//! Moments at which something is due, at most one for each key.
//!
//! Asking for the next moment, and taking what is due, costs nothing for keys that are not due: there
//! may be thousands, and both are asked with each message.

use std::collections::{BTreeMap, BTreeSet};

use fathom_units::Monotonic;

pub(super) struct Schedule<K> {
    by_key: BTreeMap<K, Monotonic>,
    by_time: BTreeSet<(Monotonic, K)>,
}

impl<K: Ord + Copy> Schedule<K> {
    pub(super) fn new() -> Self {
        Self { by_key: BTreeMap::new(), by_time: BTreeSet::new() }
    }

    /// The moment of a key, instead of the one that it had; none for never.
    pub(super) fn set(&mut self, key: K, at: Option<Monotonic>) {
        let before = match at {
            Some(at) => self.by_key.insert(key, at),
            None => self.by_key.remove(&key),
        };
        if before == at {
            return;
        }
        if let Some(before) = before {
            self.by_time.remove(&(before, key));
        }
        if let Some(at) = at {
            self.by_time.insert((at, key));
        }
    }

    /// The next moment.
    pub(super) fn next(&self) -> Option<Monotonic> {
        self.by_time.first().map(|(at, _)| *at)
    }

    /// Takes out the key that is due first, if it is due by `now`.
    pub(super) fn take_due(&mut self, now: Monotonic) -> Option<K> {
        let &(at, key) = self.by_time.first()?;
        if at > now {
            return None;
        }
        self.by_time.pop_first();
        self.by_key.remove(&key);
        Some(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A sequence that visits all 32-bit numbers in a scattered order.
    fn scatter(state: &mut u32) -> u64 {
        *state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        u64::from(*state >> 8)
    }

    /// The same by looking at all of them.
    #[derive(Default)]
    struct Naive(BTreeMap<u64, Monotonic>);

    impl Naive {
        fn next(&self) -> Option<Monotonic> {
            self.0.values().min().copied()
        }

        fn take_due(&mut self, now: Monotonic) -> Option<u64> {
            let due = self.0.iter().filter(|(_, at)| **at <= now);
            let key = *due.min_by_key(|(key, at)| (**at, **key))?.0;
            self.0.remove(&key);
            Some(key)
        }
    }

    #[test]
    fn it_is_what_looking_at_all_of_them_finds() {
        let (mut schedule, mut naive, mut state) = (Schedule::new(), Naive::default(), 7);
        let mut now = 0;
        for step in 0..20_000 {
            let key = scatter(&mut state) % 50;
            match scatter(&mut state) % 8 {
                0 => {
                    schedule.set(key, None);
                    naive.0.remove(&key);
                }
                1 => {
                    now += scatter(&mut state) % 20;
                    let due = std::iter::from_fn(|| schedule.take_due(Monotonic(now)));
                    let due: Vec<u64> = due.collect();
                    let naive_due = std::iter::from_fn(|| naive.take_due(Monotonic(now)));
                    assert_eq!(due, naive_due.collect::<Vec<u64>>(), "step {step}");
                }
                _ => {
                    // The same moment may be that of several, or of the same key again.
                    let at = Monotonic(now + scatter(&mut state) % 30);
                    schedule.set(key, Some(at));
                    naive.0.insert(key, at);
                }
            }
            assert_eq!(schedule.next(), naive.next(), "step {step}");
        }
    }
}
