//! Waking a loop that sleeps, and only then.
//!
//! ```text
//!   the loop                         whoever has something for it
//!   say "asleep"                     put it into a queue
//!   fence                            fence
//!   look into the queues             was it "asleep"? then say "awake" and write the eventfd
//! ```
//!
//! Of the two looks at least one sees the other side's word: no wake-up is lost, and a loop that is
//! awake costs nobody a system call.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::atomic::{AtomicBool, Ordering, fence},
};

use rustix::{
    event::{EventfdFlags, eventfd},
    io::{Errno, write},
};

/// The bell of one loop.
pub(crate) struct Waker {
    asleep: AtomicBool,
    event: OwnedFd,
}

impl Waker {
    pub(crate) fn new() -> io::Result<Self> {
        let event = eventfd(0, EventfdFlags::CLOEXEC)?;
        Ok(Self { asleep: AtomicBool::new(false), event })
    }

    /// Says that the loop is about to sleep; it looks into its queues after this.
    pub(crate) fn fall_asleep(&self) {
        self.asleep.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// Says that the loop is awake.
    pub(crate) fn wake_up(&self) {
        self.asleep.store(false, Ordering::Relaxed);
    }

    #[cfg(test)]
    pub(crate) fn is_asleep(&self) -> bool {
        self.asleep.load(Ordering::Relaxed)
    }

    /// Wakes the loop if it sleeps; what it is woken for is in a queue already.
    pub(crate) fn ring(&self) {
        fence(Ordering::SeqCst);
        if self.asleep.load(Ordering::Relaxed) && self.asleep.swap(false, Ordering::Relaxed) {
            // The counter cannot be full: the loop reads it whenever it is not zero, and each sleep
            // adds one at most.
            while write(&self.event, &1u64.to_ne_bytes()) == Err(Errno::INTR) {}
        }
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

#[cfg(test)]
mod handshake {
    use std::{
        sync::{
            Arc,
            atomic::{AtomicBool, AtomicUsize, Ordering},
        },
        thread,
    };

    use super::Waker;

    /// Both sides at the same moment, over and over. Without one of the two fences each may miss the
    /// other's word: processors keep stores back, and Miri plays that they do.
    #[test]
    fn of_two_looks_at_once_one_sees_the_other_side() {
        let rounds = if cfg!(miri) { 200 } else { 20_000 };
        let waker = Arc::new(Waker::new().expect("an eventfd"));
        let queue = Arc::new(AtomicBool::new(false));
        let gate = Arc::new([const { AtomicUsize::new(0) }; 2]);
        let (other_waker, other_queue, other_gate) =
            (Arc::clone(&waker), Arc::clone(&queue), Arc::clone(&gate));
        // Nobody goes on before both have come.
        let meet = |gate: &[AtomicUsize; 2], me: usize| {
            let count = gate[me].fetch_add(1, Ordering::AcqRel) + 1;
            let mut looks = 0u32;
            while gate[1 - me].load(Ordering::Acquire) < count {
                looks += 1;
                if looks.is_multiple_of(1000) {
                    thread::yield_now();
                }
                std::hint::spin_loop();
            }
        };
        let other = thread::spawn(move || {
            for _ in 0..rounds {
                meet(&other_gate, 0);
                other_queue.store(true, Ordering::Relaxed);
                other_waker.ring();
                meet(&other_gate, 0);
                meet(&other_gate, 0);
            }
        });
        let mut missed = 0;
        for _ in 0..rounds {
            meet(&gate, 1);
            waker.fall_asleep();
            let seen = queue.load(Ordering::Relaxed);
            meet(&gate, 1);
            let rung = !waker.is_asleep();
            missed += usize::from(!seen && !rung);
            if rung {
                let mut count = [0; 8];
                rustix::io::read(&*waker, &mut count).expect("it was written");
            }
            waker.wake_up();
            queue.store(false, Ordering::Relaxed);
            meet(&gate, 1);
        }
        other.join().expect("it does not panic");
        assert_eq!(missed, 0, "wake-ups were lost");
    }
}

// Miri has no poll on an eventfd.
#[cfg(all(test, not(miri)))]
mod tests {
    use rustix::{
        event::{PollFd, PollFlags, poll},
        time::Timespec,
    };

    use super::*;

    fn is_rung(waker: &Waker) -> bool {
        let mut polled = [PollFd::new(waker, PollFlags::IN)];
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut polled, Some(&zero)).expect("poll works") == 1
    }

    #[test]
    fn only_a_sleeper_is_woken_and_once() {
        let waker = Waker::new().expect("an eventfd");
        waker.ring();
        assert!(!is_rung(&waker));
        waker.fall_asleep();
        waker.ring();
        waker.ring();
        let mut count = [0; 8];
        rustix::io::read(&waker, &mut count).expect("it was written");
        assert_eq!(u64::from_ne_bytes(count), 1);
    }
}
