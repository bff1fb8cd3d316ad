//! An actor that a test thread drives: it does what it is told and hands out what it is told.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of it")]

use std::{
    net::{SocketAddr, TcpStream},
    sync::mpsc::{self, Receiver, Sender},
    time::Duration,
};

use fathom_runtime::{
    Actor, Address, Configuration, Context, Event, Loops, Message, Remote, SizeClass,
    net::{
        Connection, ConnectionLimit, Listener, NotAccepted, SocketEvent, SocketKey, SocketOptions,
    },
};

/// Longer than anything takes that is going to happen.
pub const LONG: Duration = Duration::from_secs(60);
pub const CHUNK: usize = 4096;
pub const CHUNKS: usize = 8;

pub type Errand = Box<dyn FnOnce(&mut Context<'_, Word>) + Send>;

pub enum Word {
    Do(Errand),
    Adopt(Connection),
    /// Pause a socket with each piece that it receives.
    PauseAfterEach,
}

impl Message for Word {
    fn undeliverable(self) -> Option<Self> {
        None
    }
}

/// What a probe was told.
#[derive(Debug)]
pub enum Told {
    Socket(SocketKey, u64, SocketEvent),
    Timer(u64),
}

struct Hands {
    told: Sender<Told>,
    pauses: bool,
}

impl Actor<Word> for Hands {
    fn handle(&mut self, event: Event<Word>, context: &mut Context<'_, Word>) {
        let told = match event {
            Event::Message { message: Word::Do(errand), .. } => return errand(context),
            Event::Message { message: Word::PauseAfterEach, .. } => {
                self.pauses = true;
                return;
            }
            Event::Message { .. } => unreachable!("the test sends errands"),
            Event::Socket { socket, token, event } => {
                if self.pauses && matches!(event, SocketEvent::Received(_)) {
                    context.pause(socket);
                }
                Told::Socket(socket, token, event)
            }
            Event::Timer { token } => Told::Timer(token),
            Event::Completed(_) => unreachable!("no I/O was begun"),
            Event::Stop => return context.retire(),
        };
        // A test that has seen enough drops the other end.
        let _ = self.told.send(told);
    }
}

pub fn configuration() -> Configuration {
    Configuration {
        buffers: vec![
            SizeClass { chunk_bytes: 4096, chunks: 16 },
            SizeClass { chunk_bytes: 128 << 10, chunks: 8 },
        ],
        in_flight: 16,
        files: 4,
        sockets: 64,
        receive: SizeClass { chunk_bytes: CHUNK, chunks: CHUNKS },
        ..Configuration::default()
    }
}

/// A probe on a loop.
pub struct Probe {
    remote: Remote<Word>,
    address: Address,
    told: Receiver<Told>,
}

impl Probe {
    pub fn on(loops: &Loops<Word>, number: usize) -> Self {
        let (sender, told) = mpsc::channel();
        let remote = loops.remote(number);
        let birth = Box::new(|_: &mut Context<'_, Word>| -> Box<dyn Actor<Word>> {
            Box::new(Hands { told: sender, pauses: false })
        });
        let address = remote.give_birth(birth).expect("the loop runs");
        Self { remote, address, told }
    }

    pub fn address(&self) -> Address {
        self.address
    }

    pub fn remote(&self) -> &Remote<Word> {
        &self.remote
    }

    /// Has something done on the loop, and waits for what comes of it.
    pub fn run<T: Send + 'static>(
        &self,
        errand: impl FnOnce(&mut Context<'_, Word>) -> T + Send + 'static,
    ) -> T {
        let (answer, answered) = mpsc::sync_channel(1);
        let errand: Errand = Box::new(move |context| {
            answer.send(errand(context)).expect("the test waits");
        });
        assert!(self.remote.send(self.address, Word::Do(errand)).is_ok(), "there is room");
        answered.recv_timeout(LONG).expect("the loop runs")
    }

    pub fn next(&self) -> (SocketKey, SocketEvent) {
        match self.told.recv_timeout(LONG) {
            Ok(Told::Socket(socket, _, event)) => (socket, event),
            other => panic!("a socket has something, not {other:?}"),
        }
    }

    /// What was told, if it was anything, when the loop has had `time` for it.
    pub fn within(&self, time: Duration) -> Vec<SocketEvent> {
        let now = u64::MAX;
        self.run(move |context| context.set_timer(context.now() + time, now).is_some());
        let mut events = Vec::new();
        loop {
            match self.told.recv_timeout(LONG).expect("the timer fires") {
                Told::Timer(token) if token == now => return events,
                Told::Timer(_) => {}
                Told::Socket(_, _, event) => events.push(event),
            }
        }
    }

    pub fn listen(&self, address: &str, limit: &ConnectionLimit) -> SocketAddr {
        let address = address.parse().expect("an address");
        let listener = Listener::bind(address, 128, limit).expect("it is free");
        let local = listener.local();
        self.run(|context| context.listen(listener, 0).expect("there is room"));
        local
    }

    pub fn accepted(&self) -> Connection {
        match self.next() {
            (_, SocketEvent::Accepted(connection)) => connection,
            other => panic!("a connection is there, not {other:?}"),
        }
    }

    pub fn not_accepted(&self) -> NotAccepted {
        match self.next() {
            (_, SocketEvent::NotAccepted(why)) => why,
            other => panic!("no connection can be taken, not {other:?}"),
        }
    }

    pub fn adopt(&self, connection: Connection, options: SocketOptions) -> SocketKey {
        self.run(move |context| context.adopt(connection, &options, 7).expect("there is room"))
    }

    /// A connection to a thread of the test.
    pub fn pair(&self, options: SocketOptions) -> (SocketKey, TcpStream) {
        let (here, there) = pair();
        (self.adopt(Connection::try_from(here).expect("it is there"), options), there)
    }

    /// Everything received until so many bytes are there.
    pub fn receive(&self, count: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while bytes.len() < count {
            match self.next() {
                (_, SocketEvent::Received(slice)) => bytes.extend_from_slice(&slice),
                other => panic!("bytes come, not {other:?}"),
            }
        }
        bytes
    }

    pub fn closed(&self) -> Result<(), fathom_runtime::Errno> {
        match self.next() {
            (_, SocketEvent::Closed(why)) => why,
            other => panic!("it is closed, not {other:?}"),
        }
    }

    /// Asserts that nothing comes any more.
    pub fn silent(&self) {
        let events = self.within(Duration::from_millis(50));
        assert!(events.is_empty(), "{events:?}");
    }
}

/// Two ends of a connection over loopback.
pub fn pair() -> (TcpStream, TcpStream) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let there =
        TcpStream::connect(listener.local_addr().expect("it is bound")).expect("it listens");
    let (here, _) = listener.accept().expect("it was connected");
    (here, there)
}

/// The bytes of a stream: each is told by its place and the stream's seed.
pub fn pattern(seed: u64, from: u64, bytes: &mut [u8]) {
    for (at, byte) in (from..).zip(bytes) {
        let mixed = (at / 8 + seed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        *byte = mixed.to_le_bytes()[usize::try_from(at % 8).expect("small")];
    }
}

/// A small generator, so that a seed repeats a schedule.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, end: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).expect("31 bits") % end
    }
}
