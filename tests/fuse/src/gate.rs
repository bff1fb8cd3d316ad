//! Between the file system and the disks: everything that arrives passes here, is done at
//! once, held or failed, and is answered.
//!
//! ```text
//!   serve --> arrive --+--------------> execute --> answer
//!                      |   fail ------------------> answer
//!                      |   hold --> release --> execute --> answer
//!                      +-- hold answer: execute --> release --> answer
//! ```
//!
//! - One lock over all disks: a [`Moment`] is the same moment for each of them.
//! - Holding a request holds no thread, so that others go on.
//! - Each request is answered once; when the gate closes, with an I/O error.

use std::{
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use fathom_test_support::disk::{DiskError, SimulatedDisk};

use crate::{
    moment::{Moment, Operation},
    request::{Arrival, Counts, Failure, Rule, RuleId, Times, Treatment},
};

/// How many of the newest arrivals are remembered.
pub const ARRIVALS_MAX: usize = 4096;

/// After so long a held request is answered with an I/O error, and the test fails: whoever
/// should have released it hangs.
pub const HOLD_MAX: Duration = Duration::from_secs(60);

/// What goes back to the kernel: the bytes of a read.
pub(crate) type Answer = Result<Vec<u8>, Failure>;

pub(crate) type Reply = Box<dyn FnOnce(Answer) + Send>;

type OnMoment = Box<dyn FnOnce(Moment) + Send>;

impl From<DiskError> for Failure {
    fn from(error: DiskError) -> Self {
        match error {
            DiskError::Misaligned | DiskError::OutOfRange => Self::Invalid,
            DiskError::Io | DiskError::Dead => Self::Io,
        }
    }
}

struct Held {
    arrival: Arrival,
    operation: Operation,
    /// When it has reached the disk, what it will be answered.
    answer: Option<Answer>,
    reply: Reply,
    since: Instant,
}

pub(crate) struct State {
    pub(crate) disks: Vec<SimulatedDisk>,
    rules: Vec<Rule>,
    held: Vec<Held>,
    pub(crate) arrivals: VecDeque<Arrival>,
    pub(crate) counts: Counts,
    next_number: u64,
    next_rule: u64,
    /// After how many more changes whom to give the moment.
    on_moment: Option<(u64, OnMoment)>,
    closed: bool,
    /// Why the test fails, though it may not have noticed.
    failure: Option<String>,
}

/// The gate.
pub(crate) struct Gate {
    state: Mutex<State>,
    /// Something arrived or was answered, or the gate closed.
    changed: Condvar,
    hold_max: Duration,
}

impl Gate {
    pub(crate) fn new(disks: Vec<SimulatedDisk>, hold_max: Duration) -> Self {
        let state = State {
            disks,
            rules: Vec::new(),
            held: Vec::new(),
            arrivals: VecDeque::new(),
            counts: Counts::default(),
            next_number: 0,
            next_rule: 0,
            on_moment: None,
            closed: false,
            failure: None,
        };
        Self { state: Mutex::new(state), changed: Condvar::new(), hold_max }
    }

    /// The state. A panic of a test that holds it poisons nothing: the kernel has to be
    /// answered whatever happens.
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a request from the kernel. A panic in what the test brought fails the test, and not
    /// the thread that has to go on answering; the reply that is lost with it is an I/O error.
    pub(crate) fn arrive(&self, disk: usize, operation: Operation, reply: Reply) {
        let admit = AssertUnwindSafe(|| self.admit(disk, operation, reply));
        if catch_unwind(admit).is_err() {
            let failure = "a rule, or what was to be done at a moment, panicked".to_owned();
            self.lock().failure = Some(failure);
        }
    }

    fn admit(&self, disk: usize, operation: Operation, reply: Reply) {
        let mut state = self.lock();
        let arrival = state.record(disk, &operation);
        if state.closed {
            drop(state);
            return reply(Err(Failure::Io));
        }
        if operation.kind.is_change() {
            state.pass_moment(disk, &operation);
        }
        let treatment = state.treatment(&arrival);
        let answer = match treatment {
            Some(Treatment::Fail(failure)) => Err(failure),
            Some(Treatment::Hold) => {
                state.hold(Held { arrival, operation, answer: None, reply, since: Instant::now() });
                drop(state);
                return self.changed.notify_all();
            }
            Some(Treatment::HoldAnswer) => {
                let answer = Some(operation.execute(&mut state.disks[disk]));
                state.hold(Held { arrival, operation, answer, reply, since: Instant::now() });
                drop(state);
                return self.changed.notify_all();
            }
            None => operation.execute(&mut state.disks[disk]),
        };
        drop(state);
        reply(answer);
        self.changed.notify_all();
    }

    pub(crate) fn add_rule(
        &self,
        treatment: Treatment,
        times: Times,
        which: Box<dyn Fn(&Arrival) -> bool + Send>,
    ) -> RuleId {
        let mut state = self.lock();
        let id = RuleId(state.next_rule);
        state.next_rule += 1;
        state.rules.push(Rule { id, which, treatment, times });
        id
    }

    pub(crate) fn lift(&self, id: RuleId) {
        self.lock().rules.retain(|rule| rule.id != id);
    }

    /// Answers a held request, with `instead` without doing it, else with what comes of it.
    /// Returns whether it was held.
    pub(crate) fn release(&self, number: u64, instead: Option<Failure>) -> bool {
        let mut state = self.lock();
        let position = state.held.iter().position(|held| held.arrival.number == number);
        let Some(position) = position else { return false };
        let held = state.held.remove(position);
        let answer = match (instead, held.answer) {
            (Some(failure), _) => Err(failure),
            (None, Some(answer)) => answer,
            (None, None) => held.operation.execute(&mut state.disks[held.arrival.disk]),
        };
        drop(state);
        (held.reply)(answer);
        self.changed.notify_all();
        true
    }

    /// Waits until `done`, at the longest for `deadline`; whether it came.
    pub(crate) fn wait_until(&self, deadline: Duration, done: impl Fn(&State) -> bool) -> bool {
        let state = self.lock();
        let result = self.changed.wait_timeout_while(state, deadline, |state| !done(state));
        let (_state, timeout) = result.unwrap_or_else(PoisonError::into_inner);
        !timeout.timed_out()
    }

    pub(crate) fn set_on_moment(&self, changes: u64, take: OnMoment) {
        self.lock().on_moment = Some((changes, take));
    }

    /// Answers everything with an I/O error, now and from now on.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        let held = std::mem::take(&mut state.held);
        drop(state);
        for held in held {
            (held.reply)(Err(Failure::Io));
        }
        self.changed.notify_all();
    }

    /// Closes the gate when a request is held for too long; returns when it is closed.
    pub(crate) fn watch(&self) {
        let mut state = self.lock();
        while !state.closed {
            let oldest = state.held.iter().map(|held| held.since.elapsed()).max();
            let left = self.hold_max.saturating_sub(oldest.unwrap_or_default());
            if left.is_zero() {
                let held: Vec<String> = state.held().map(|held| held.to_string()).collect();
                state.failure = Some(format!("held for {:?}: {}", self.hold_max, held.join(", ")));
                drop(state);
                return self.close();
            }
            let waited = self.changed.wait_timeout(state, left);
            (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// What went wrong behind the test's back.
    pub(crate) fn failure(&self) -> Option<String> {
        self.lock().failure.take()
    }
}

impl State {
    /// All disks now, and what is held before them.
    pub(crate) fn moment(&self) -> Moment {
        let held = self.held.iter().filter(|held| held.answer.is_none());
        let under_way = held.map(|held| (held.arrival.disk, held.operation.clone())).collect();
        Moment { disks: self.disks.clone(), under_way }
    }

    /// What is held, in the order of arrival.
    pub(crate) fn held(&self) -> impl Iterator<Item = Arrival> {
        self.held.iter().map(|held| held.arrival)
    }

    fn record(&mut self, disk: usize, operation: &Operation) -> Arrival {
        let Operation { kind, offset, length, .. } = *operation;
        let arrival = Arrival { number: self.next_number, disk, kind, offset, length };
        self.next_number += 1;
        self.counts.count(kind);
        if self.arrivals.len() == ARRIVALS_MAX {
            self.arrivals.pop_front();
        }
        self.arrivals.push_back(arrival);
        arrival
    }

    /// A change is about to be made: gives the moment before it to who waits for it.
    fn pass_moment(&mut self, disk: usize, operation: &Operation) {
        match &mut self.on_moment {
            Some((0, _)) => {}
            Some((left, _)) => {
                *left -= 1;
                return;
            }
            None => return,
        }
        let mut moment = self.moment();
        moment.under_way.push((disk, operation.clone()));
        let (_, take) = self.on_moment.take().expect("just seen");
        take(moment);
    }

    fn treatment(&mut self, arrival: &Arrival) -> Option<Treatment> {
        let position = self.rules.iter().position(|rule| (rule.which)(arrival))?;
        let treatment = self.rules[position].treatment;
        if self.rules[position].times == Times::Once {
            self.rules.remove(position);
        }
        Some(treatment)
    }

    fn hold(&mut self, held: Held) {
        self.held.push(held);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, mpsc};

    use fathom_test_support::disk::Unwritten;

    use super::*;
    use crate::request::Kind;

    fn gate(hold_max: Duration) -> Gate {
        Gate::new(vec![SimulatedDisk::new(1 << 20, Unwritten::Zero, 1)], hold_max)
    }

    /// A flush arrives; what it is answered comes through the channel.
    fn flush(gate: &Gate) -> mpsc::Receiver<Answer> {
        let (sender, answers) = mpsc::channel();
        let operation = Operation { kind: Kind::Flush, offset: 0, length: 0, data: None };
        let reply = move |answer| sender.send(answer).expect("the test listens");
        gate.arrive(0, operation, Box::new(reply));
        answers
    }

    #[test]
    fn a_request_that_nobody_releases_is_answered_and_fails_the_test() {
        let gate = Arc::new(gate(Duration::from_millis(1)));
        gate.add_rule(Treatment::Hold, Times::Always, Box::new(|_| true));
        let answers = flush(&gate);
        let watched = Arc::clone(&gate);
        let watchdog = std::thread::spawn(move || watched.watch());
        assert_eq!(answers.recv(), Ok(Err(Failure::Io)));
        watchdog.join().expect("it ends when the gate is closed");
        assert!(gate.failure().is_some_and(|failure| failure.contains("#0 disk 0 Flush")));
        assert_eq!(flush(&gate).recv(), Ok(Err(Failure::Io)), "what comes later, too");
    }

    #[test]
    fn a_panic_in_a_rule_fails_the_test_and_not_what_comes_later() {
        let gate = gate(HOLD_MAX);
        let rule = Box::new(|_: &Arrival| panic!("a rule that is wrong"));
        let rule = gate.add_rule(Treatment::Hold, Times::Always, rule);
        assert!(flush(&gate).recv().is_err(), "its reply is dropped");
        gate.lift(rule);
        assert_eq!(flush(&gate).recv(), Ok(Ok(Vec::new())));
        assert!(gate.failure().is_some());
    }

    #[test]
    fn only_the_newest_arrivals_are_remembered_and_all_are_counted() {
        let gate = gate(HOLD_MAX);
        let more = 10;
        for _ in 0..ARRIVALS_MAX + more {
            flush(&gate).recv().expect("answered").expect("done");
        }
        let state = gate.lock();
        assert_eq!(state.arrivals.len(), ARRIVALS_MAX);
        assert_eq!(state.arrivals[0].number, more as u64);
        assert_eq!(state.counts.flushes, (ARRIVALS_MAX + more) as u64);
    }
}
