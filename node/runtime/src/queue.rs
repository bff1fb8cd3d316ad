//! A bounded queue from one thread to one other, without locks.
//!
//! - Items arrive once each, in order.
//! - A full queue gives the item back.
//! - What [`Sender::push`] puts in becomes visible with [`Sender::publish`]: one store for a batch.

use std::{
    cell::UnsafeCell,
    mem::MaybeUninit,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering, fence},
    },
};

/// Keeps what two threads write off each other's cache lines.
#[repr(align(128))]
struct Apart<T>(T);

struct Ring<T> {
    slots: Box<[UnsafeCell<MaybeUninit<T>>]>,
    /// Counts what was taken out; slots from here on hold items.
    head: Apart<AtomicUsize>,
    /// Counts what was put in; slots from here on are empty.
    tail: Apart<AtomicUsize>,
    /// The sender has found it full and wants to be told when there is room.
    wanted: AtomicBool,
}

// SAFETY: a slot is touched by the sender while it lies outside of `head..tail` and by the
// receiver while it lies inside; the counters hand it over with release and acquire.
unsafe impl<T: Send> Send for Ring<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Ring<T> {}

impl<T> Ring<T> {
    fn slot(&self, count: usize) -> *mut MaybeUninit<T> {
        self.slots[count & (self.slots.len() - 1)].get()
    }
}

impl<T> Drop for Ring<T> {
    fn drop(&mut self) {
        let tail = *self.tail.0.get_mut();
        for count in *self.head.0.get_mut()..tail {
            let slot = self.slot(count);
            // SAFETY: nobody else is left, so the slot can be referred to.
            let slot = unsafe { &mut *slot };
            // SAFETY: slots between head and tail hold items.
            unsafe { slot.assume_init_drop() };
        }
    }
}

/// The end that puts items in.
pub(crate) struct Sender<T> {
    ring: Arc<Ring<T>>,
    /// Counts what was put in, published or not.
    tail: usize,
    /// The head when it was last looked at.
    head: usize,
}

/// The end that takes items out.
pub(crate) struct Receiver<T> {
    ring: Arc<Ring<T>>,
    head: usize,
    /// The tail when it was last looked at.
    tail: usize,
}

/// A queue of `capacity` items, rounded up to a power of two.
pub(crate) fn queue<T: Send>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    let capacity = capacity.max(1).next_power_of_two();
    let slot = |_| UnsafeCell::new(MaybeUninit::uninit());
    let ring = Arc::new(Ring {
        slots: (0..capacity).map(slot).collect(),
        head: Apart(AtomicUsize::new(0)),
        tail: Apart(AtomicUsize::new(0)),
        wanted: AtomicBool::new(false),
    });
    let sender = Sender { ring: Arc::clone(&ring), tail: 0, head: 0 };
    (sender, Receiver { ring, head: 0, tail: 0 })
}

impl<T: Send> Sender<T> {
    /// Puts an item in. The other side sees it after [`Sender::publish`].
    ///
    /// # Errors
    ///
    /// The item, when the queue is full.
    pub(crate) fn push(&mut self, item: T) -> Result<(), T> {
        if self.is_full() {
            return Err(item);
        }
        let slot = self.ring.slot(self.tail);
        // SAFETY: the slot lies outside of `head..tail`, so this side has it alone.
        let slot = unsafe { &mut *slot };
        slot.write(item);
        self.tail += 1;
        Ok(())
    }

    fn is_full(&mut self) -> bool {
        if self.tail - self.head < self.ring.slots.len() {
            return false;
        }
        self.head = self.ring.head.0.load(Ordering::Acquire);
        self.tail - self.head == self.ring.slots.len()
    }

    /// Shows the other side what was put in. Whether there was something new.
    pub(crate) fn publish(&mut self) -> bool {
        let before = self.ring.tail.0.load(Ordering::Relaxed);
        self.ring.tail.0.store(self.tail, Ordering::Release);
        before != self.tail
    }

    /// Asks to be told when there is room; [`Receiver::room_was_wanted`] is then true once.
    /// False when there is room now.
    pub(crate) fn want_room(&mut self) -> bool {
        self.ring.wanted.store(true, Ordering::Relaxed);
        // Either the load behind the fence sees the room, or the receiver's look at `wanted`, which
        // is behind a fence too, sees the wish.
        fence(Ordering::SeqCst);
        self.head = self.ring.head.0.load(Ordering::Acquire);
        self.tail - self.head == self.ring.slots.len()
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.ring.tail.0.store(self.tail, Ordering::Release);
    }
}

impl<T: Send> Receiver<T> {
    /// Takes the oldest item out.
    pub(crate) fn pop(&mut self) -> Option<T> {
        if self.is_empty() {
            return None;
        }
        let slot = self.ring.slot(self.head);
        // SAFETY: the slot lies inside of `head..tail`, so this side has it alone.
        let slot = unsafe { &*slot };
        // SAFETY: slots between head and tail hold items, and this one is read once, since the
        // head passes it now.
        let item = unsafe { slot.assume_init_read() };
        self.head += 1;
        self.ring.head.0.store(self.head, Ordering::Release);
        Some(item)
    }

    /// Whether there is nothing to take out.
    pub(crate) fn is_empty(&mut self) -> bool {
        if self.head == self.tail {
            self.tail = self.ring.tail.0.load(Ordering::Acquire);
        }
        self.head == self.tail
    }

    /// Whether the sender waits for room; true once for each wish. Asked after a batch of
    /// [`Receiver::pop`].
    pub(crate) fn room_was_wanted(&self) -> bool {
        fence(Ordering::SeqCst);
        let wanted = &self.ring.wanted;
        wanted.load(Ordering::Relaxed) && wanted.swap(false, Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::VecDeque, thread};

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Push(u32),
        Publish,
        Pop,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            any::<u32>().prop_map(Step::Push),
            Just(Step::Publish),
            Just(Step::Pop),
            Just(Step::Pop),
        ]
    }

    const STEPS: usize = if cfg!(miri) { 40 } else { 200 };

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: if cfg!(miri) { 3 } else { 256 },
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        #[test]
        fn it_is_a_bounded_queue(steps in prop::collection::vec(step(), 0..STEPS)) {
            let (mut sender, mut receiver) = queue::<Box<u32>>(4);
            let mut hidden = VecDeque::new();
            let mut visible = VecDeque::new();
            for step in steps {
                match step {
                    Step::Push(item) => {
                        let full = hidden.len() + visible.len() == 4;
                        prop_assert_eq!(sender.push(Box::new(item)).is_err(), full);
                        if !full {
                            hidden.push_back(item);
                        }
                    }
                    Step::Publish => {
                        prop_assert_eq!(sender.publish(), !hidden.is_empty());
                        visible.append(&mut hidden);
                    }
                    Step::Pop => {
                        prop_assert_eq!(receiver.pop().map(|item| *item), visible.pop_front());
                    }
                }
            }
        }
    }

    #[test]
    fn everything_arrives_once_and_in_order() {
        let count = if cfg!(miri) { 200 } else { 200_000 };
        let (mut sender, mut receiver) = queue::<Box<usize>>(8);
        let sending = thread::spawn(move || {
            for number in 0..count {
                let mut item = Box::new(number);
                while let Err(back) = sender.push(item) {
                    item = back;
                    sender.publish();
                    thread::yield_now();
                }
                if number % 3 == 0 {
                    sender.publish();
                }
            }
        });
        let mut expected = 0;
        while expected < count {
            match receiver.pop() {
                Some(item) => {
                    assert_eq!(*item, expected);
                    expected += 1;
                }
                None => thread::yield_now(),
            }
        }
        sending.join().expect("the sender ends");
        assert!(receiver.pop().is_none());
    }

    #[test]
    fn items_left_in_the_queue_are_dropped_with_it() {
        let (mut sender, receiver) = queue(4);
        let item = Arc::new(());
        sender.push(Arc::clone(&item)).expect("there is room");
        sender.push(Arc::clone(&item)).expect("there is room");
        sender.publish();
        drop((sender, receiver));
        assert_eq!(Arc::strong_count(&item), 1);
    }

    #[test]
    fn a_wish_for_room_is_seen_once() {
        let (mut sender, mut receiver) = queue(1);
        sender.push(1).expect("there is room");
        sender.publish();
        assert!(sender.want_room());
        assert_eq!(receiver.pop(), Some(1));
        assert!(receiver.room_was_wanted());
        assert!(!receiver.room_was_wanted());
        assert!(!sender.want_room(), "there is room now");
    }
}
