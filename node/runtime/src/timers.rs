//! Moments at which somebody wants to be called.

use std::collections::BTreeMap;

use fathom_units::Monotonic;

/// Names a timer from its setting until it fires or is cancelled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TimerKey {
    at: Monotonic,
    number: u64,
}

/// The timers of one loop.
pub(crate) struct Timers<T> {
    set: BTreeMap<(Monotonic, u64), T>,
    next: u64,
    most: usize,
}

impl<T> Timers<T> {
    /// Room for so many.
    pub(crate) fn new(most: usize) -> Self {
        Self { set: BTreeMap::new(), next: 0, most }
    }

    /// Sets one; `None` when there are too many.
    pub(crate) fn set(&mut self, at: Monotonic, what: T) -> Option<TimerKey> {
        if self.set.len() >= self.most {
            return None;
        }
        let key = TimerKey { at, number: self.next };
        self.next += 1;
        self.set.insert((at, key.number), what);
        Some(key)
    }

    /// Forgets one; nothing happens when it has fired.
    pub(crate) fn cancel(&mut self, key: TimerKey) -> Option<T> {
        self.set.remove(&(key.at, key.number))
    }

    /// The moment of the next one.
    pub(crate) fn next(&self) -> Option<Monotonic> {
        self.set.first_key_value().map(|(&(at, _), _)| at)
    }

    /// Takes out the next one that is due, in the order of their moments.
    pub(crate) fn due(&mut self, now: Monotonic) -> Option<T> {
        let first = self.set.first_entry()?;
        (first.key().0 <= now).then(|| first.remove())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_fire_in_order_and_not_early() {
        let mut timers = Timers::new(8);
        for (at, name) in [(30, 'c'), (10, 'a'), (20, 'b'), (10, 'A')] {
            timers.set(Monotonic(at), name).expect("there is room");
        }
        assert_eq!(timers.next(), Some(Monotonic(10)));
        assert_eq!(timers.due(Monotonic(9)), None);
        let fired: String = std::iter::from_fn(|| timers.due(Monotonic(20))).collect();
        assert_eq!(fired, "aAb");
        assert_eq!(timers.next(), Some(Monotonic(30)));
    }

    #[test]
    fn a_cancelled_one_does_not_fire() {
        let mut timers = Timers::new(8);
        let key = timers.set(Monotonic(1), 'a').expect("there is room");
        assert_eq!(timers.cancel(key), Some('a'));
        assert_eq!(timers.cancel(key), None);
        assert_eq!(timers.due(Monotonic(1)), None);
    }

    #[test]
    fn too_many_are_refused() {
        let mut timers = Timers::new(1);
        assert!(timers.set(Monotonic(1), ()).is_some());
        assert!(timers.set(Monotonic(2), ()).is_none());
    }
}
