//! Who may take how much of a loop's memory for commands.
//!
//! ```text
//!   a command wants memory --> Holdings of its session --> may it?  --> the loop's arena
//!                                 |          |
//!                   Share of its host    Shares of the loop: who waits, in line
//! ```
//!
//! - **No host has all.** What a host with a subsystem holds of a class of chunks is at most what is free
//!   of it, but for one chunk: alone it gets half, two get a third each, and something is left for who
//!   comes next. All its connections to the subsystem on the loop count together. Those to another
//!   subsystem do not: the limits of a volume hold its requests back, and must not slow another volume.
//! - **Who waits has his turn.** Where nothing is free for a host that has nothing, its session waits in
//!   line, and nobody takes a chunk of a class past the first of its line. Who has something waits for
//!   that, and is in no line.
//! - **A session's memory is bounded** by [`SESSION_BYTES_MAX`]: with what its socket has not sent yet,
//!   so that the answers always fit the queue of the socket.
//! - Everything here is touched by one loop only; it is atomic and locked because it is handed to
//!   sessions in messages. The lock is for those who wait.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering},
    },
};

use fathom_runtime::{CLASSES_MAX, Room};
use fathom_target::{connection::Slot, export::Nqn, target::ConnectionId};

/// The most memory of one session, in bytes, but for one command: for commands, and for answers that
/// have not been sent.
pub const SESSION_BYTES_MAX: usize = 8 << 20;
/// The most entries of a queue. A socket takes 4,096 parts in 64 gathers, each of which is full with 64
/// parts or 512 KiB. Answers to as many commands have two parts each and so fill 32 of them, and
/// [`SESSION_BYTES_MAX`] fills 16: a host that keeps the rules of its queue never overruns them.
pub const ENTRIES_MAX: u32 = 1024;
/// The most memory beside the arena of the sessions of one share, in bytes.
pub const BESIDE_BYTES_MAX: usize = 4 << 20;

/// The memory of one loop.
#[derive(Default)]
pub struct Shares {
    /// By the names of host and subsystem; those without a session are forgotten.
    hosts: Mutex<HashMap<(Nqn, Nqn), Weak<Share>>>,
    /// Who waits for a chunk of each class.
    lines: Mutex<[VecDeque<ConnectionId>; CLASSES_MAX]>,
    /// The lengths of the lines.
    waiting: [AtomicUsize; CLASSES_MAX],
}

/// What one host with one subsystem holds on a loop.
#[derive(Default)]
struct Share {
    chunks: [AtomicUsize; CLASSES_MAX],
    beside_bytes: AtomicUsize,
}

impl Shares {
    /// What a new session of a host with a subsystem holds: nothing.
    pub fn join(self: &Arc<Self>, host: Nqn, subsystem: Nqn, session: ConnectionId) -> Holdings {
        let names = (host, subsystem);
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        hosts.retain(|_, share| share.strong_count() > 0);
        let share = hosts.get(&names).and_then(Weak::upgrade).unwrap_or_default();
        hosts.insert(names, Arc::downgrade(&share));
        Holdings {
            shares: Arc::clone(self),
            share,
            session,
            in_line: [false; CLASSES_MAX],
            by_slot: Vec::new(),
            sending: VecDeque::new(),
            handed_over: 0,
            bytes: 0,
        }
    }

    /// Whether a session may take a chunk of a class without passing somebody who waits.
    fn is_first(&self, class: usize, session: ConnectionId) -> bool {
        if self.waiting[class].load(Ordering::Relaxed) == 0 {
            return true;
        }
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines[class].front().is_none_or(|first| *first == session)
    }

    fn change_line(&self, class: usize, change: impl FnOnce(&mut VecDeque<ConnectionId>)) {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut lines[class]);
        self.waiting[class].store(lines[class].len(), Ordering::Relaxed);
    }
}

/// Memory that was taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Held {
    /// None beside the arena.
    class: Option<usize>,
    bytes: usize,
}

/// Whether memory may be taken.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Leave {
    /// Yes.
    Take,
    /// Not yet.
    Wait,
}

/// What one session holds. When it is dropped, it holds nothing any more.
pub struct Holdings {
    shares: Arc<Shares>,
    share: Arc<Share>,
    session: ConnectionId,
    in_line: [bool; CLASSES_MAX],
    by_slot: Vec<Option<Held>>,
    /// Memory that the socket has been given, with the place in its stream at which each ends.
    sending: VecDeque<(u64, Held)>,
    /// How many bytes the socket has been given.
    handed_over: u64,
    bytes: usize,
}

impl Holdings {
    /// Whether it may take `bytes` from the arena, which has this room for it.
    pub fn ask(&mut self, room: Room, bytes: usize) -> Leave {
        let Room { class, free } = room;
        let held = self.share.chunks[class].load(Ordering::Relaxed);
        if !self.has_room(bytes) || (held > 0 && held >= free) {
            // It waits for its own host: others who wait come first.
            self.leave_line(class);
            return Leave::Wait;
        }
        if free == 0 || !self.shares.is_first(class, self.session) {
            self.join_line(class);
            return Leave::Wait;
        }
        self.leave_line(class);
        Leave::Take
    }

    /// Whether it may take `bytes` beside the arena.
    pub fn ask_beside(&self, bytes: usize) -> Leave {
        let held = self.share.beside_bytes.load(Ordering::Relaxed);
        match self.has_room(bytes) && (held == 0 || held + bytes <= BESIDE_BYTES_MAX) {
            true => Leave::Take,
            false => Leave::Wait,
        }
    }

    fn has_room(&self, bytes: usize) -> bool {
        self.bytes == 0 || self.bytes + bytes <= SESSION_BYTES_MAX
    }

    /// It has taken memory for a slot, of a class of the arena or beside it.
    pub fn took(&mut self, slot: Slot, class: Option<usize>, bytes: usize) {
        let index = usize::from(slot.0);
        if self.by_slot.len() <= index {
            self.by_slot.resize(index + 1, None);
        }
        assert!(self.by_slot[index].is_none(), "a slot has memory for one command");
        self.by_slot[index] = Some(Held { class, bytes });
        self.bytes += bytes;
        match class {
            Some(class) => self.share.chunks[class].fetch_add(1, Ordering::Relaxed),
            None => self.share.beside_bytes.fetch_add(bytes, Ordering::Relaxed),
        };
    }

    /// The memory of a slot is given back.
    pub fn gave_back(&mut self, slot: Slot) {
        if let Some(held) = self.by_slot.get_mut(usize::from(slot.0)).and_then(Option::take) {
            self.return_one(held);
        }
    }

    /// The socket has been given bytes.
    pub fn sends(&mut self, bytes: usize) {
        self.handed_over += bytes as u64;
    }

    /// The socket has been given the memory of a slot, `bytes` of which it sends.
    pub fn sends_memory(&mut self, slot: Slot, bytes: usize) {
        self.sends(bytes);
        if let Some(held) = self.by_slot.get_mut(usize::from(slot.0)).and_then(Option::take) {
            self.sending.push_back((self.handed_over, held));
        }
    }

    /// Whether the socket has memory of it, so that [`Holdings::sent`] should be called.
    pub fn is_sending(&self) -> bool {
        !self.sending.is_empty()
    }

    /// The socket has not sent the last so many bytes yet.
    pub fn sent(&mut self, unsent: usize) {
        // Some of it was there before the first that is counted.
        let sent = self.handed_over.saturating_sub(unsent as u64);
        while let Some(&(end, held)) = self.sending.front()
            && end <= sent
        {
            self.sending.pop_front();
            self.return_one(held);
        }
    }

    fn return_one(&mut self, held: Held) {
        self.bytes -= held.bytes;
        match held.class {
            Some(class) => self.share.chunks[class].fetch_sub(1, Ordering::Relaxed),
            None => self.share.beside_bytes.fetch_sub(held.bytes, Ordering::Relaxed),
        };
    }

    fn join_line(&mut self, class: usize) {
        if !std::mem::replace(&mut self.in_line[class], true) {
            let session = self.session;
            self.shares.change_line(class, |line| line.push_back(session));
        }
    }

    fn leave_line(&mut self, class: usize) {
        if std::mem::replace(&mut self.in_line[class], false) {
            let session = self.session;
            self.shares.change_line(class, |line| line.retain(|other| *other != session));
        }
    }

    /// It wants nothing now.
    pub fn wants_nothing(&mut self) {
        (0..CLASSES_MAX).for_each(|class| self.leave_line(class));
    }
}

impl Drop for Holdings {
    fn drop(&mut self) {
        self.wants_nothing();
        let slots = std::mem::take(&mut self.by_slot).into_iter().flatten();
        let sending = std::mem::take(&mut self.sending).into_iter().map(|(_, held)| held);
        slots.chain(sending).for_each(|held| self.return_one(held));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLASS: usize = 2;
    const BYTES: usize = 4096;

    /// A class of chunks and who has them.
    struct Arena {
        shares: Arc<Shares>,
        free: usize,
        next: u64,
    }

    impl Arena {
        fn new(free: usize) -> Self {
            Self { shares: Arc::default(), free, next: 0 }
        }

        fn session(&mut self, host: &str) -> Holdings {
            self.session_with(host, "volume")
        }

        fn session_with(&mut self, host: &str, subsystem: &str) -> Holdings {
            self.next += 1;
            let nqn = |name| Nqn::new(&format!("nqn.2026-01.io.fathom:{name}")).expect("a name");
            self.shares.join(nqn(host), nqn(subsystem), ConnectionId(self.next))
        }

        fn take(&mut self, holdings: &mut Holdings, slot: u16) -> bool {
            let takes = holdings.ask(Room { class: CLASS, free: self.free }, BYTES) == Leave::Take;
            if takes {
                self.free -= 1;
                holdings.took(Slot(slot), Some(CLASS), BYTES);
            }
            takes
        }

        fn take_all(&mut self, holdings: &mut Holdings, first: u16) -> usize {
            (first..).take_while(|slot| self.take(holdings, *slot)).count()
        }

        fn give(&mut self, holdings: &mut Holdings, slot: u16) {
            holdings.gave_back(Slot(slot));
            self.free += 1;
        }
    }

    #[test]
    fn what_one_host_leaves_is_enough_for_the_next_one() {
        let mut arena = Arena::new(64);
        let mut taken = Vec::new();
        let mut sessions = Vec::new();
        for host in ["a", "b", "c", "d", "e", "f", "g"] {
            let mut session = arena.session(host);
            taken.push(arena.take_all(&mut session, 0));
            sessions.push(session);
        }
        assert_eq!(taken, [32, 16, 8, 4, 2, 1, 1]);
        // When the first one gives something back, it is not the first one that gets it.
        arena.free = 0;
        let (first, rest) = sessions.split_at_mut(1);
        arena.give(&mut first[0], 0);
        assert!(!arena.take(&mut first[0], 0));
        assert!(!arena.take(&mut rest[5], 1), "it has one, and no more is free");
        let mut late = arena.session("h");
        assert!(arena.take(&mut late, 0));
    }

    #[test]
    fn all_connections_of_a_host_are_one() {
        let mut arena = Arena::new(16);
        let mut one = arena.session("a");
        let mut two = arena.session("a");
        assert_eq!(arena.take_all(&mut one, 0), 8);
        assert_eq!(arena.take_all(&mut two, 0), 0);
        arena.give(&mut one, 3);
        assert!(arena.take(&mut two, 0) && !arena.take(&mut two, 1));
        drop(one);
        arena.free += 7;
        assert_eq!(arena.take_all(&mut two, 1), 7, "what it held is free");
    }

    #[test]
    fn a_volume_that_is_held_back_leaves_memory_for_another_one_of_its_host() {
        let mut arena = Arena::new(16);
        let mut held_back = arena.session("a");
        assert_eq!(arena.take_all(&mut held_back, 0), 8);
        let mut other = arena.session_with("a", "other");
        assert_eq!(arena.take_all(&mut other, 0), 4);
    }

    #[test]
    fn who_waits_is_served_in_order_and_a_host_that_has_something_comes_last() {
        let mut arena = Arena::new(1);
        let mut sessions: Vec<Holdings> =
            ["a", "b", "c"].map(|host| arena.session(host)).into_iter().collect();
        let mut sibling = arena.session("a");
        assert!(arena.take(&mut sessions[0], 0));
        assert!(!arena.take(&mut sibling, 0), "its host has one");
        assert!(!arena.take(&mut sessions[1], 0) && !arena.take(&mut sessions[2], 0));
        arena.give(&mut sessions[0], 0);
        assert!(!arena.take(&mut sessions[0], 0), "others were there before");
        assert!(!arena.take(&mut sessions[2], 0) && !arena.take(&mut sibling, 0));
        assert!(arena.take(&mut sessions[1], 0));
        arena.give(&mut sessions[1], 0);
        // The next one has lost interest, and the one after it has gone.
        sessions[2].wants_nothing();
        assert!(!arena.take(&mut sibling, 0), "the first session of its host is before it");
        sessions.remove(0);
        assert!(arena.take(&mut sibling, 0));
    }

    #[test]
    fn a_session_holds_what_its_socket_has_not_sent() {
        let mut arena = Arena::new(4);
        let mut session = arena.session("a");
        assert_eq!(arena.take_all(&mut session, 0), 2);
        session.sends(24);
        session.sends_memory(Slot(0), BYTES);
        session.sends(24);
        session.sends_memory(Slot(1), BYTES);
        assert_eq!((session.bytes, session.is_sending()), (2 * BYTES, true));
        session.sent(24 + BYTES + 1);
        assert_eq!(session.bytes, 2 * BYTES, "one byte of the first is missing");
        session.sent(24 + BYTES);
        assert_eq!(session.bytes, BYTES);
        session.sent(0);
        assert_eq!((session.bytes, session.is_sending()), (0, false));
    }

    #[test]
    fn a_session_and_what_is_beside_the_arena_are_bounded_but_for_one_command() {
        let mut arena = Arena::new(1 << 20);
        let mut session = arena.session("a");
        let room = Room { class: CLASS, free: 1 << 20 };
        assert_eq!(session.ask(room, SESSION_BYTES_MAX * 2), Leave::Take, "nothing is held");
        session.took(Slot(0), Some(CLASS), SESSION_BYTES_MAX - 1);
        assert_eq!(session.ask(room, 1), Leave::Take);
        assert_eq!(session.ask(room, 2), Leave::Wait);
        session.gave_back(Slot(0));
        let mut sibling = arena.session("a");
        assert_eq!(session.ask_beside(BESIDE_BYTES_MAX * 2), Leave::Take, "nothing is held");
        sibling.took(Slot(0), None, BESIDE_BYTES_MAX - 1);
        assert_eq!(session.ask_beside(1), Leave::Take);
        assert_eq!(session.ask_beside(2), Leave::Wait, "all connections of a host count");
        drop(sibling);
        assert_eq!(session.ask_beside(2), Leave::Take);
    }
}
