//! Streams in both directions at once, on random schedules; every byte is checked.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    thread,
    time::Duration,
};

use fathom_runtime::{
    Actor, Buffer, Configuration, Context, Event, Loops, SizeClass, Slice,
    net::{Close, Connection, ConnectionLimit, Flow, SocketEvent, SocketKey, SocketOptions},
};

mod probe;

use probe::{LONG, Probe, Random, Word, configuration, pattern};

/// A frame is a header, the length of its payload and the payload; its answer is the same frame.
const HEADER: usize = 8;
const LARGE: usize = 32 << 10;
const PAYLOAD_MAX: usize = 100 << 10;
const BUFFER: usize = 128 << 10;

/// Answers frames with themselves: small payloads from slices, large ones by a directed receive.
struct Echo {
    socket: Option<SocketKey>,
    /// What is known of the frame that is arriving.
    header: Vec<u8>,
    left: usize,
    random: Random,
}

impl Echo {
    fn socket(&self) -> SocketKey {
        self.socket.expect("it was given a connection")
    }

    fn received(&mut self, mut slice: Slice, context: &mut Context<'_, Word>) {
        while !slice.is_empty() {
            if self.left > 0 {
                let count = self.left.min(slice.len());
                let mut part = slice.clone();
                part.truncate(count);
                slice.advance(count);
                self.left -= count;
                self.answer(part, context);
                continue;
            }
            let count = (HEADER - self.header.len()).min(slice.len());
            self.header.extend_from_slice(&slice[..count]);
            slice.advance(count);
            if self.header.len() < HEADER {
                continue;
            }
            let length = u64::from_le_bytes(self.header[..].try_into().expect("eight bytes"));
            let length = usize::try_from(length).expect("it is small");
            let header = std::mem::take(&mut self.header);
            self.flow(context.send_bytes(self.socket(), &header), context);
            if length >= LARGE
                && length > slice.len()
                && let Some(mut buffer) = context.buffer(BUFFER)
            {
                buffer.set_length(length);
                context.put_back(self.socket(), slice);
                context.receive_into(self.socket(), buffer, 0..length);
                return;
            }
            self.left = length;
            if self.random.below(4) == 0 {
                // Paused in the middle, and resumed, sometimes within the turn.
                context.pause(self.socket());
                context.put_back(self.socket(), slice);
                if self.random.below(2) == 0 {
                    context.resume(self.socket());
                } else {
                    context.set_timer(context.now() + Duration::from_micros(200), 0);
                }
                return;
            }
        }
    }

    fn filled(&mut self, buffer: Buffer, context: &mut Context<'_, Word>) {
        let length = buffer.len();
        self.answer(buffer.share(0..length), context);
    }

    fn answer(&mut self, slice: Slice, context: &mut Context<'_, Word>) {
        let flow = if slice.len() < 200 {
            context.send_bytes(self.socket(), &slice)
        } else {
            context.send_slice(self.socket(), slice)
        };
        self.flow(flow, context);
    }

    fn flow(
        &mut self,
        flow: Result<Flow, fathom_runtime::net::SendError>,
        context: &mut Context<'_, Word>,
    ) {
        if flow.expect("it is open") == Flow::High {
            context.pause(self.socket());
        }
    }
}

impl Actor<Word> for Echo {
    fn handle(&mut self, event: Event<Word>, context: &mut Context<'_, Word>) {
        match event {
            Event::Message { message: Word::Adopt(connection), .. } => {
                let options = SocketOptions {
                    kernel_send_bytes: Some(8 << 10),
                    kernel_receive_bytes: Some(64 << 10),
                    send_high_bytes: 200 << 10,
                    ..SocketOptions::default()
                };
                self.socket = context.adopt(connection, &options, 0).ok();
            }
            Event::Message { .. } => unreachable!("it is sent a connection"),
            Event::Socket { event, .. } => match event {
                SocketEvent::Received(slice) => self.received(slice, context),
                SocketEvent::Filled(buffer) => self.filled(buffer, context),
                SocketEvent::Drained => context.resume(self.socket()),
                SocketEvent::EndOfStream => {
                    context.close(self.socket(), Close::Gracefully { by: context.now() + LONG });
                }
                SocketEvent::Closed(why) => {
                    assert_eq!(why, Ok(()));
                    context.retire();
                }
                other => panic!("it only has a connection: {other:?}"),
            },
            Event::Timer { .. } => {
                if context.unsent(self.socket()) < 100 << 10 {
                    context.resume(self.socket());
                } else {
                    context.set_timer(context.now() + Duration::from_micros(200), 0);
                }
            }
            Event::Completed(_) => unreachable!("no I/O was begun"),
            Event::Stop => context.retire(),
        }
    }
}

/// The frames of a seed, one after another.
fn frames(seed: u64, bytes: usize) -> Vec<u8> {
    let mut random = Random(seed);
    let mut stream = Vec::new();
    while stream.len() < bytes {
        let length = match random.below(8) {
            0 => 0,
            1..=4 => random.below(300),
            5 => 4096 + 72,
            _ => random.below(PAYLOAD_MAX),
        };
        stream.extend_from_slice(&(length as u64).to_le_bytes());
        let at = stream.len();
        stream.resize(at + length, 0);
        pattern(seed, at as u64, &mut stream[at..]);
    }
    stream
}

/// Writes on one thread and reads on another, each in pieces of any size and with breaks.
fn talk(there: TcpStream, seed: u64, bytes: usize) {
    let stream = frames(seed, bytes);
    let sent = stream.clone();
    let mut to = there.try_clone().expect("another descriptor");
    let writer = thread::spawn(move || {
        let mut random = Random(seed + 1);
        let mut at = 0;
        while at < sent.len() {
            let most = [10, 5_000, 200_000][random.below(3)];
            let count = 1 + random.below(most);
            let end = sent.len().min(at + count);
            to.write_all(&sent[at..end]).expect("it is open");
            at = end;
            if random.below(4) == 0 {
                thread::yield_now();
            }
        }
        to.shutdown(std::net::Shutdown::Write).expect("it is open");
    });
    let mut random = Random(seed + 2);
    let mut there = there;
    let mut at = 0;
    let mut buffer = vec![0; 100_000];
    loop {
        let most = [20, 3_000, 100_000][random.below(3)];
        let most = 1 + random.below(most);
        let count = there.read(&mut buffer[..most]).expect("it is open");
        if count == 0 {
            break;
        }
        assert!(buffer[..count] == stream[at..at + count], "seed {seed}, byte {at}");
        at += count;
    }
    assert_eq!(at, stream.len(), "seed {seed}");
    writer.join().expect("all was written");
}

#[test]
fn every_byte_comes_back_in_order_on_any_schedule() {
    const STREAMS: usize = 12;
    const BYTES: usize = 3 << 20;
    let first = std::env::var("FATHOM_SEED").map_or(0, |seed| seed.parse().expect("a number"));
    eprintln!(
        "seeds from {first}; repeat: FATHOM_SEED={first} cargo test -p fathom-runtime --test streams"
    );
    let configuration = Configuration {
        loops: 2,
        receive: SizeClass { chunk_bytes: 8192, chunks: 8 },
        ..configuration()
    };
    let loops = Loops::start(&configuration).expect("loops start");
    let limit = ConnectionLimit::new(STREAMS);
    let probe = Probe::on(&loops, 0);
    let address = probe.listen("127.0.0.1:0", &limit);
    let mut talking = Vec::new();
    for number in 0..STREAMS {
        let seed = first + 1000 * number as u64;
        let there = TcpStream::connect(address).expect("it listens");
        let connection = probe.accepted();
        hand_over(&loops, number % 2, seed, connection);
        talking.push(thread::spawn(move || talk(there, seed, BYTES)));
    }
    for thread in talking {
        thread.join().expect("every byte came back");
    }
    // Until the last one is closed, which a message to its loop may come before.
    let watch = [Probe::on(&loops, 0), Probe::on(&loops, 1)];
    for probe in &watch {
        probe.silent();
        assert_eq!(probe.remote().statistics().receive_chunks(), 8, "all came back");
        probe.run(|context| {
            let taken: Vec<_> = std::iter::from_fn(|| context.buffer(BUFFER)).collect();
            assert_eq!(taken.len(), 8, "all came back");
        });
    }
    assert_eq!(limit.open(), 0);
}

fn hand_over(loops: &Loops<Word>, number: usize, seed: u64, connection: Connection) {
    let remote = loops.remote(number);
    let birth = move |_: &mut Context<'_, Word>| -> Box<dyn Actor<Word>> {
        Box::new(Echo { socket: None, header: Vec::new(), left: 0, random: Random(seed) })
    };
    let echo = remote.give_birth(Box::new(birth)).expect("the loop runs");
    assert!(remote.send(echo, Word::Adopt(connection)).is_ok(), "there is room");
}
