//! Loops from the outside: messages, timers, sleep, stop, and what the kernel refuses.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    time::Duration,
};

use fathom_runtime::{
    Actor, Address, Cause, Configuration, Context, Event, Loops, Message, SizeClass, Step, Unsent,
};

/// What the actors of these tests say.
#[derive(Debug)]
enum Word {
    /// Send this many questions to each of these.
    Begin(Vec<Address>, u64),
    Question(u64),
    Answer(u64),
    Nobody,
    Wait(Duration),
}

impl Message for Word {
    fn undeliverable(self) -> Option<Self> {
        match self {
            Self::Question(_) => Some(Self::Nobody),
            _ => None,
        }
    }
}

fn configuration(loops: usize) -> Configuration {
    Configuration {
        loops,
        buffers: vec![SizeClass { chunk_bytes: 4096, chunks: 4 }],
        in_flight: 16,
        files: 4,
        ..Configuration::default()
    }
}

/// Asks others, answers others, and tells a thread when all of its questions are answered.
struct Talker {
    to_ask: Vec<(Address, u64, u64)>,
    unanswered: u64,
    nobody: u64,
    last: Vec<(Address, u64)>,
    done: mpsc::Sender<u64>,
}

impl Talker {
    fn at(loops: &Loops<Word>, number: usize, done: &mpsc::Sender<u64>) -> Address {
        let done = done.clone();
        let birth = move |_: &mut Context<'_, Word>| -> Box<dyn Actor<Word>> {
            let (to_ask, last) = (Vec::new(), Vec::new());
            Box::new(Self { to_ask, unanswered: 0, nobody: 0, last, done })
        };
        loops.remote(number).give_birth(Box::new(birth)).expect("the loop runs")
    }

    fn ask(&mut self, context: &mut Context<'_, Word>) {
        for (to, next, end) in &mut self.to_ask {
            while next < end && context.send(*to, Word::Question(*next)).is_ok() {
                *next += 1;
            }
        }
        if self.to_ask.iter().any(|(_, next, end)| next < end) {
            context.at_next_turn();
        }
    }

    fn answered(&mut self) {
        self.unanswered -= 1;
        if self.unanswered == 0 {
            self.done.send(self.nobody).expect("the test waits");
        }
    }
}

impl Actor<Word> for Talker {
    fn handle(&mut self, event: Event<Word>, context: &mut Context<'_, Word>) {
        match event {
            Event::Message { message: Word::Begin(to, count), .. } => {
                self.unanswered = count * to.len() as u64;
                self.to_ask = to.into_iter().map(|to| (to, 0, count)).collect();
                self.ask(context);
            }
            Event::Message { from, message: Word::Question(number) } => {
                context.reply(from, Word::Answer(number)).expect("its loop runs");
            }
            Event::Message { from, message: Word::Answer(number) } => {
                match self.last.iter_mut().find(|(other, _)| *other == from) {
                    Some((_, last)) => {
                        assert_eq!(number, *last + 1, "in order, once each");
                        *last = number;
                    }
                    None => {
                        assert_eq!(number, 0);
                        self.last.push((from, 0));
                    }
                }
                self.answered();
            }
            Event::Message { message: Word::Nobody, .. } => {
                self.nobody += 1;
                self.answered();
            }
            Event::Message { message: Word::Wait(time), .. } => {
                context.set_timer(context.now() + time, 1).expect("there is room");
            }
            Event::Timer { token } => self.done.send(token).expect("the test waits"),
            Event::Completed(completed) => panic!("nothing was begun: {completed:?}"),
            Event::Socket { event, .. } => panic!("nobody listens: {event:?}"),
            Event::Stop => context.retire(),
        }
    }

    fn turn_ends(&mut self, context: &mut Context<'_, Word>) {
        self.ask(context);
    }
}

#[test]
fn a_storm_of_messages_arrives_in_order_and_completely() {
    let loops = Loops::start(&configuration(3)).expect("loops start");
    let (done, all_done) = mpsc::channel();
    let talkers: Vec<Address> = (0..9).map(|at| Talker::at(&loops, at % 3, &done)).collect();
    for (at, &talker) in talkers.iter().enumerate() {
        let begin = Word::Begin(talkers.clone(), 5_000);
        loops.remote(at % 3).send(talker, begin).expect("there is room");
    }
    for _ in &talkers {
        assert_eq!(all_done.recv_timeout(Duration::from_secs(120)), Ok(0));
    }
    loops.stop();
}

#[test]
fn a_question_to_nobody_comes_back() {
    let loops = Loops::start(&configuration(2)).expect("loops start");
    let (done, all_done) = mpsc::channel();
    let asker = Talker::at(&loops, 0, &done);
    // Loops of the same numbers, on which more live: these addresses name nobody here.
    let others = Loops::start(&configuration(2)).expect("loops start");
    let nobody: Vec<Address> = (0..4).map(|at| Talker::at(&others, at % 2, &done)).collect();
    let begin = Word::Begin(nobody[2..].to_vec(), 10);
    loops.remote(0).send(asker, begin).expect("there is room");
    assert_eq!(all_done.recv_timeout(Duration::from_secs(60)), Ok(20));
    let told: u64 = (0..2).map(|at| loops.remote(at).statistics().undeliverable()).sum();
    assert_eq!(told, 20);
}

#[test]
fn an_idle_loop_sleeps_until_its_timer() {
    let loops = Loops::start(&configuration(2)).expect("loops start");
    let (done, all_done) = mpsc::channel();
    let talker = Talker::at(&loops, 0, &done);
    loops.remote(0).send(talker, Word::Wait(Duration::from_millis(300))).expect("there is room");
    assert_eq!(all_done.recv_timeout(Duration::from_secs(60)), Ok(1));
    let statistics = loops.remote(0);
    let statistics = statistics.statistics();
    assert!(statistics.sleeps() >= 1);
    assert!(statistics.turns() <= 10, "{} turns in 300 ms of rest", statistics.turns());
    assert!(statistics.take_longest_turn() > Duration::ZERO);
    assert_eq!(statistics.take_longest_turn(), Duration::ZERO);
}

#[test]
fn an_ended_loop_gives_messages_back() {
    let loops = Loops::start(&configuration(1)).expect("loops start");
    let (done, _all_done) = mpsc::channel();
    let talker = Talker::at(&loops, 0, &done);
    let remote = loops.remote(0);
    loops.stop();
    let back = remote.send(talker, Word::Question(1));
    assert!(matches!(back, Err(Unsent::Gone(Word::Question(1)))));
    let birth = |_: &mut Context<'_, Word>| -> Box<dyn Actor<Word>> { unreachable!() };
    assert!(remote.give_birth(Box::new(birth)).is_err());
}

/// Never retires.
struct Stubborn(Arc<AtomicU64>);

impl Actor<Word> for Stubborn {
    fn handle(&mut self, _: Event<Word>, _: &mut Context<'_, Word>) {}
}

impl Drop for Stubborn {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn dropping_the_loops_ends_them_whatever_their_actors_do() {
    let loops = Loops::start(&configuration(2)).expect("loops start");
    let dropped = Arc::new(AtomicU64::new(0));
    for number in 0..2 {
        let dropped = Arc::clone(&dropped);
        let birth = move |_: &mut Context<'_, Word>| -> Box<dyn Actor<Word>> {
            Box::new(Stubborn(dropped))
        };
        loops.remote(number).give_birth(Box::new(birth)).expect("the loop runs");
    }
    drop(loops);
    assert_eq!(dropped.load(Ordering::Relaxed), 2);
}

#[test]
fn a_loop_stays_on_its_core_or_says_why_not() {
    let cores = rustix::thread::sched_getaffinity(None).expect("it can be asked");
    let core = (0..1024).find(|&core| cores.is_set(core)).expect("this runs on some core");
    let pinned = Configuration { cores: vec![core, core], ..configuration(1) };
    assert_eq!(Loops::<Word>::start(&pinned).expect("loops start").count(), 2);
    let nowhere = Configuration { cores: vec![core, 1023], ..configuration(1) };
    let error = Loops::<Word>::start(&nowhere).map(drop).expect_err("no machine has it");
    assert_eq!((error.number, error.step, error.cause), (1, Step::Core(1023), Cause::NoSuchCore));
}
