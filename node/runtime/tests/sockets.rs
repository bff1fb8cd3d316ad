//! Sockets from the outside: both ends of connections over loopback, one of them a plain thread.

#![expect(unsafe_code, reason = "signal dispositions have no safe wrapper here")]

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use fathom_runtime::{
    Configuration, Errno, Loops, SizeClass,
    net::{
        Close, ConnectionLimit, Flow, NotAccepted, NotAdopted, SendError, SocketEvent,
        SocketOptions,
    },
};
use rustix::net::sockopt::set_socket_linger;

mod probe;

use probe::{CHUNK, CHUNKS, LONG, Probe, Word, configuration, pair, pattern};

fn start(loops: usize) -> Loops<Word> {
    Loops::start(&Configuration { loops, ..configuration() }).expect("loops start")
}

/// Small buffers in the kernel, so that sends are short and peers held back.
fn small() -> SocketOptions {
    SocketOptions {
        kernel_send_bytes: Some(4096),
        kernel_receive_bytes: Some(4096),
        send_high_bytes: 64 << 10,
        ..SocketOptions::default()
    }
}

/// A buffer in the kernel that is small, but not so small that TCP waits for acknowledgements.
fn modest() -> SocketOptions {
    SocketOptions { kernel_receive_bytes: Some(64 << 10), ..SocketOptions::default() }
}

/// Closes with a reset.
fn reset(stream: TcpStream) {
    set_socket_linger(&stream, Some(Duration::ZERO)).expect("it can be set");
}

fn bytes(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    pattern(seed, 0, &mut bytes);
    bytes
}

#[test]
fn a_connection_knows_the_address_that_its_peer_reached_on_any_loop() {
    let loops = start(2);
    let limit = ConnectionLimit::new(8);
    let (listening, other) = (Probe::on(&loops, 0), Probe::on(&loops, 1));
    let mut listeners = vec![(listening.listen("0.0.0.0:0", &limit), "127.0.0.5")];
    if TcpListener::bind("[::1]:0").is_ok() {
        listeners.push((listening.listen("[::]:0", &limit), "::1"));
    }
    let mut open = Vec::new();
    for (local, reached) in listeners {
        let reached = SocketAddr::new(reached.parse().expect("an address"), local.port());
        let mut there = TcpStream::connect(reached).expect("it listens");
        let connection = listening.accepted();
        assert_eq!(connection.local(), reached);
        assert_eq!(connection.peer(), there.local_addr().expect("it is connected"));
        // It goes to another loop.
        let socket = other.adopt(connection, SocketOptions::default());
        there.write_all(b"hello").expect("it is open");
        assert_eq!(other.receive(5), b"hello");
        let flow = other.run(move |context| context.send_bytes(socket, b"good day"));
        assert_eq!(flow, Ok(Flow::Free));
        let mut answer = [0; 8];
        there.read_exact(&mut answer).expect("it answers");
        assert_eq!(&answer, b"good day");
        open.push(there);
        assert_eq!(limit.open(), open.len());
    }
    drop(loops);
    assert_eq!(limit.open(), 0, "ending a loop closes its connections");
}

#[test]
fn connections_beyond_the_limit_are_reset_and_the_listener_goes_on() {
    let loops = start(1);
    let limit = ConnectionLimit::new(2);
    let probe = Probe::on(&loops, 0);
    let address = probe.listen("127.0.0.1:0", &limit);
    let connect = || TcpStream::connect(address).expect("it listens");
    let (_first, _second) = (connect(), connect());
    let (one, _two) = (probe.accepted(), probe.accepted());
    for _ in 0..3 {
        let refused = connect().read(&mut [0]).expect_err("it is reset");
        assert_eq!(refused.kind(), ErrorKind::ConnectionReset);
    }
    assert_eq!(probe.not_accepted(), NotAccepted::Limit);
    probe.silent();
    drop(one);
    let _third = connect();
    drop(probe.accepted());
    let _fourth = connect();
    drop(probe.accepted());
}

#[test]
fn a_loop_without_room_gives_the_connection_back() {
    let configuration = Configuration { sockets: 1, ..configuration() };
    let loops = Loops::start(&configuration).expect("loops start");
    let probe = Probe::on(&loops, 0);
    let (socket, _there) = probe.pair(SocketOptions::default());
    let (here, _other) = pair();
    let connection = here.try_into().expect("it is there");
    let refused = probe.run(|context| context.adopt(connection, &SocketOptions::default(), 8));
    let Err(NotAdopted::Full(connection)) = refused else { panic!("one is the most") };
    probe.run(move |context| context.close(socket, Close::Reset));
    assert_eq!(probe.closed(), Ok(()));
    probe.adopt(connection, SocketOptions::default());
    let without = Configuration {
        receive: SizeClass { chunk_bytes: 4096, chunks: 0 },
        ..configuration.clone()
    };
    let loops = Loops::start(&without).expect("loops start");
    let (here, _there) = pair();
    let connection = here.try_into().expect("it is there");
    let probe = Probe::on(&loops, 0);
    let refused = probe.run(|context| context.adopt(connection, &SocketOptions::default(), 8));
    assert!(matches!(refused, Err(NotAdopted::Full(_))), "without chunks there are no sockets");
}

#[test]
fn connecting_ends_with_a_connection_or_with_why_not() {
    let loops = start(1);
    let probe = Probe::on(&loops, 0);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    let connect = |address: SocketAddr, time: Duration| {
        probe.run(move |context| {
            let by = context.now() + time;
            context.connect(address, &SocketOptions::default(), by, 3).expect("it can be begun")
        })
    };
    let socket = connect(address, LONG);
    let (mut there, from) = listener.accept().expect("it connects");
    match probe.next() {
        (told, SocketEvent::Connected { local, peer }) => {
            assert_eq!((told, local, peer), (socket, from, address));
        }
        other => panic!("it is connected, not {other:?}"),
    }
    there.write_all(b"hello").expect("it is open");
    assert_eq!(probe.receive(5), b"hello");
    // Nobody listens any more, but the connection stays.
    drop(listener);
    connect(address, LONG);
    assert_eq!(probe.closed(), Err(Errno(libc::ECONNREFUSED)));
    drop(there);
    assert!(matches!(probe.next(), (_, SocketEvent::EndOfStream)));
}

#[test]
fn a_connect_that_is_not_answered_ends_at_its_deadline() {
    let loops = start(1);
    let probe = Probe::on(&loops, 0);
    // A backlog of one that nobody empties: later connections get no answer.
    let listener = rustix::net::socket(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::STREAM,
        None,
    )
    .expect("a socket");
    let any: SocketAddr = "127.0.0.1:0".parse().expect("an address");
    rustix::net::bind(&listener, &any).expect("a free port");
    rustix::net::listen(&listener, 0).expect("it is bound");
    let address = rustix::net::getsockname(&listener).expect("it is bound");
    let address = SocketAddr::try_from(address).expect("it is of this kind");
    let _filler = TcpStream::connect(address).expect("the backlog has room for one");
    let late = |time: Duration| {
        probe.run(move |context| {
            let by = context.now() + time;
            context.connect(address, &SocketOptions::default(), by, 3).expect("it can be begun")
        })
    };
    late(Duration::from_millis(100));
    assert_eq!(probe.closed(), Err(Errno(libc::ETIMEDOUT)));
    let socket = late(LONG);
    probe.run(move |context| context.close(socket, Close::Reset));
    assert_eq!(probe.closed(), Ok(()), "it need not be waited for");
    probe.silent();
}

#[test]
fn a_paused_socket_holds_its_peer_back_and_loses_nothing() {
    let loops = start(1);
    let probe = Probe::on(&loops, 0);
    let (socket, mut there) = probe.pair(modest());
    there.write_all(&bytes(1, 10)).expect("it is open");
    assert_eq!(probe.receive(10), bytes(1, 10));
    probe.run(move |context| context.pause(socket));
    let stream = bytes(2, 8 << 20);
    let sent = stream.clone();
    let writer = std::thread::spawn(move || {
        there.set_write_timeout(Some(Duration::from_millis(200))).expect("it can be set");
        let mut done = 0;
        // It is held back at some place, and goes on when the socket is resumed.
        while done < sent.len() {
            match there.write(&sent[done..]) {
                Ok(count) => done += count,
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
        }
        there
    });
    assert!(probe.within(Duration::from_millis(300)).is_empty(), "it is paused");
    assert!(!writer.is_finished(), "8 MiB do not fit into the kernel's buffers");
    let mut received = Vec::new();
    while received.len() < stream.len() {
        probe.run(move |context| context.resume(socket));
        received.extend(probe.receive(1));
        // Some pieces have come meanwhile; the others wait.
        probe.run(move |context| context.pause(socket));
        for event in probe.within(Duration::from_millis(1)) {
            let SocketEvent::Received(slice) = event else { panic!("not {event:?}") };
            received.extend_from_slice(&slice);
        }
        if received.len() > 256 << 10 {
            probe.run(move |context| context.resume(socket));
            received.extend(probe.receive(stream.len() - received.len()));
        }
    }
    assert!(received == stream, "each byte in its place");
    drop(writer.join().expect("all of it is written"));
    probe.run(move |context| context.resume(socket));
    assert!(matches!(probe.next(), (_, SocketEvent::EndOfStream)));
}

#[test]
fn sockets_without_chunks_wait_in_line_and_lose_nothing() {
    const SOCKETS: usize = 20;
    const EACH: usize = 64 << 10;
    let loops = start(1);
    let probe = Probe::on(&loops, 0);
    let mut streams = Vec::new();
    for seed in 0..SOCKETS {
        let (socket, there) = probe.pair(SocketOptions::default());
        streams.push((socket, there, bytes(seed as u64, EACH), 0));
    }
    for (_, there, bytes, _) in &mut streams {
        there.write_all(bytes).expect("the kernel's buffers take it");
    }
    // All chunks are kept, and nothing is done as long as they are.
    let mut kept = Vec::new();
    while kept.len() < CHUNKS {
        match probe.next() {
            (socket, SocketEvent::Received(slice)) => kept.push((socket, slice)),
            other => panic!("bytes come, not {other:?}"),
        }
    }
    let turns = || probe.remote().statistics().turns();
    probe.silent();
    let before = turns();
    probe.silent();
    assert!(turns() - before < 10, "{} turns though there is no chunk", turns() - before);
    assert!(probe.remote().statistics().starved() >= SOCKETS as u64 - CHUNKS as u64);
    // Each chunk comes back from this thread, which wakes the loop.
    let mut kept = std::collections::VecDeque::from(kept);
    let mut left = SOCKETS * EACH;
    while left > 0 {
        let (socket, slice) = match kept.pop_front() {
            Some(kept) => kept,
            None => match probe.next() {
                (socket, SocketEvent::Received(slice)) => (socket, slice),
                other => panic!("bytes come, not {other:?}"),
            },
        };
        let stream = streams.iter_mut().find(|(key, ..)| *key == socket).expect("it is known");
        let at = stream.3;
        assert!(slice[..] == stream.2[at..at + slice.len()], "each byte in its place");
        stream.3 += slice.len();
        left -= slice.len();
    }
    probe.silent();
    assert_eq!(probe.remote().statistics().receive_chunks(), CHUNKS, "all came back");
}

#[test]
fn paused_sockets_keep_no_chunk_from_others_and_lose_nothing() {
    const CHUNKS: usize = 4;
    let receive = SizeClass { chunk_bytes: CHUNK, chunks: CHUNKS };
    let loops = Loops::start(&Configuration { receive, ..configuration() }).expect("loops start");
    let (pausing, other) = (Probe::on(&loops, 0), Probe::on(&loops, 0));
    // It pauses a socket with the first piece, when all chunks have been filled for it already.
    assert!(pausing.remote().send(pausing.address(), Word::PauseAfterEach).is_ok());
    let stream = bytes(1, 10 * CHUNK);
    let (here, mut there) = pair();
    there.write_all(&stream).expect("the kernel's buffers take it");
    let connection = here.try_into().expect("it is there");
    let socket = pausing.adopt(connection, SocketOptions::default());
    // The first piece is kept, so that no chunk is left but those of the socket that is paused.
    let (_, SocketEvent::Received(kept)) = pausing.next() else { panic!("bytes come") };
    let (_, mut speaks) = other.pair(SocketOptions::default());
    let more = bytes(2, 100_000);
    let sent = more.clone();
    let writer = std::thread::spawn(move || speaks.write_all(&sent).map(|()| speaks));
    assert!(other.receive(more.len()) == more, "each byte in its place");
    drop(writer.join().expect("it does not panic").expect("it is open"));
    assert!(pausing.within(Duration::from_millis(1)).is_empty(), "it is paused");
    let mut received = kept.to_vec();
    drop(kept);
    while received.len() < stream.len() {
        pausing.run(move |context| context.resume(socket));
        received.extend(pausing.receive(1));
    }
    assert!(received == stream, "each byte in its place");
}

#[test]
fn who_always_has_more_does_not_keep_others_from_the_only_chunk() {
    const GREEDY: usize = 3;
    let receive = SizeClass { chunk_bytes: CHUNK, chunks: 1 };
    let loops = Loops::start(&Configuration { receive, ..configuration() }).expect("loops start");
    let probe = Probe::on(&loops, 0);
    let mut writers = Vec::new();
    for _ in 0..GREEDY {
        let (_, mut there) = probe.pair(modest());
        // Until nobody reads any more.
        writers.push(std::thread::spawn(move || while there.write_all(&[1; 10_000]).is_ok() {}));
    }
    let (modest, mut there) = probe.pair(modest());
    let stream = bytes(3, 40 * CHUNK);
    let sent = stream.clone();
    let writer = std::thread::spawn(move || there.write_all(&sent).map(|()| there));
    let mut received = Vec::new();
    let mut others = 0;
    while received.len() < stream.len() {
        match probe.next() {
            (socket, SocketEvent::Received(slice)) if socket == modest => {
                received.extend_from_slice(&slice);
            }
            (_, SocketEvent::Received(_)) => others += 1,
            other => panic!("bytes come, not {other:?}"),
        }
        // A turn of each for one of its own, were all equally quick.
        assert!(others < 100 * GREEDY * 40, "{others} pieces of others");
    }
    assert!(received == stream, "each byte in its place");
    drop(writer.join().expect("it does not panic").expect("it is open"));
    drop(loops);
    writers.into_iter().for_each(|writer| writer.join().expect("it ends"));
}

#[test]
fn no_socket_is_left_out_when_chunks_are_few() {
    const EACH: usize = 256 << 10;
    let receive = SizeClass { chunk_bytes: CHUNK, chunks: 2 };
    let loops = Loops::start(&Configuration { receive, ..configuration() }).expect("loops start");
    let probe = Probe::on(&loops, 0);
    // Silent ones stand in line, too.
    let silent: Vec<_> = (0..20).map(|_| probe.pair(SocketOptions::default())).collect();
    let mut streams = Vec::new();
    for seed in 0..6 {
        let (socket, mut there) = probe.pair(modest());
        let stream = bytes(seed, EACH);
        let sent = stream.clone();
        let writer = std::thread::spawn(move || {
            there.write_all(&sent).expect("it is taken in the end");
            there
        });
        streams.push((socket, stream, 0, writer));
    }
    let mut left = streams.len() * EACH;
    while left > 0 {
        let (socket, SocketEvent::Received(slice)) = probe.next() else { panic!("bytes come") };
        let stream = streams.iter_mut().find(|(key, ..)| *key == socket).expect("it is known");
        let at = stream.2;
        assert!(slice[..] == stream.1[at..at + slice.len()], "each byte in its place");
        stream.2 += slice.len();
        left -= slice.len();
    }
    drop(silent);
    streams.into_iter().for_each(|(.., writer)| drop(writer.join().expect("all is written")));
}

#[test]
fn silent_sockets_cause_no_turns_and_hold_no_chunk() {
    const SILENT: usize = 1000;
    let all = Configuration { sockets: 1008, ..configuration() };
    let loops = Loops::start(&all).expect("loops start");
    let probe = Probe::on(&loops, 0);
    let limit = ConnectionLimit::new(SILENT);
    let address = probe.listen("127.0.0.1:0", &limit);
    let resident = || {
        let statm = std::fs::read_to_string("/proc/self/statm").expect("it can be read");
        let pages = statm.split(' ').nth(1).expect("the second number").parse::<usize>();
        pages.expect("a number") * 4096
    };
    let mut there = Vec::with_capacity(SILENT);
    let mut sockets = Vec::with_capacity(SILENT);
    let before = resident();
    for _ in 0..SILENT {
        there.push(TcpStream::connect(address).expect("it listens"));
        sockets.push(probe.adopt(probe.accepted(), SocketOptions::default()));
    }
    // Each has spoken once, and is silent from now on.
    for (there, socket) in there.iter_mut().zip(&sockets) {
        there.write_all(b"hello").expect("it is open");
        assert_eq!(probe.receive(5), b"hello");
        let socket = *socket;
        assert!(probe.run(move |context| context.send_bytes(socket, b"hello")).is_ok());
    }
    let each = resident().saturating_sub(before) / SILENT;
    eprintln!("{each} bytes a silent connection");
    assert!(each < 16 << 10, "{each} bytes a silent connection");
    probe.silent();
    let statistics = probe.remote().statistics();
    assert_eq!(statistics.sockets(), SILENT + 1);
    assert_eq!(statistics.receive_chunks(), CHUNKS, "nobody holds one");
    let before = statistics.turns();
    assert!(probe.within(Duration::from_millis(300)).is_empty());
    let turns = statistics.turns() - before;
    assert!(turns <= 6, "{turns} turns for silence");
}

#[test]
fn what_is_sent_gathers_and_arrives_in_order_past_a_slow_reader() {
    let loops = start(1);
    let probe = Probe::on(&loops, 0);
    let (socket, mut there) = probe.pair(small());
    let stream = bytes(5, 500_000);
    let sent = stream.clone();
    let high = probe.run(move |context| {
        let mut buffer = context.buffer(128 << 10).expect("it is free");
        let mut at = 0;
        let mut high = false;
        let mut random = probe::Random(9);
        while at < sent.len() {
            let small = random.below(300).min(sent.len() - at);
            let flow = context.send_bytes(socket, &sent[at..at + small]).expect("it is open");
            at += small;
            high |= flow == Flow::High;
            if let Some(next) = context.buffer(128 << 10) {
                let length = random.below(100 << 10).min(sent.len() - at);
                let mut full = std::mem::replace(&mut buffer, next);
                full[..length].copy_from_slice(&sent[at..at + length]);
                let full = full.share(0..length);
                let _ = context.send_slice(socket, full).expect("it is open");
                at += length;
            }
        }
        high
    });
    assert!(high, "it is much");
    let mut received = vec![0; stream.len()];
    let (first, rest) = received.split_at_mut(100);
    // Slow at first.
    first.chunks_mut(1).for_each(|byte| there.read_exact(byte).expect("it comes"));
    there.read_exact(rest).expect("it comes");
    assert!(received == stream, "each byte in its place");
    assert!(matches!(probe.next(), (_, SocketEvent::Drained)));
    probe.run(move |context| {
        assert_eq!(context.unsent(socket), 0);
        let taken: Vec<_> = std::iter::from_fn(|| context.buffer(128 << 10)).collect();
        assert_eq!(taken.len(), 8, "every buffer came back");
    });
}

#[test]
fn an_actor_that_goes_on_though_much_waits_loses_the_connection_and_nothing_else() {
    let loops = start(1);
    let probe = Probe::on(&loops, 0);
    let (socket, _there) = probe.pair(small());
    let error = probe.run(move |context| {
        loop {
            if let Err(error) = context.send_bytes(socket, &[1; 4096]) {
                return error;
            }
        }
    });
    assert_eq!(error, SendError::Full);
    assert_eq!(probe.closed(), Err(Errno(libc::ENOBUFS)));
    let error = probe.run(move |context| context.send_bytes(socket, b"more"));
    assert_eq!(error, Err(SendError::NotOpen));
    probe.silent();
}

#[test]
fn a_reset_by_the_peer_ends_a_socket_once_whatever_it_does() {
    let loops = start(1);
    let probe = Probe::on(&loops, 0);
    let gone = [Err(Errno(libc::ECONNRESET)), Err(Errno(libc::EPIPE))];
    // Receiving.
    let (_, there) = probe.pair(SocketOptions::default());
    reset(there);
    assert!(gone.contains(&probe.closed()));
    // Paused, and sending.
    let (socket, there) = probe.pair(SocketOptions::default());
    probe.run(move |context| context.pause(socket));
    reset(there);
    probe.silent();
    probe.run(move |context| context.send_bytes(socket, b"hello").is_ok());
    assert!(gone.contains(&probe.closed()));
    // Paused, and resumed.
    let (socket, there) = probe.pair(SocketOptions::default());
    probe.run(move |context| context.pause(socket));
    reset(there);
    probe.run(move |context| context.resume(socket));
    assert!(gone.contains(&probe.closed()));
    // Filling a buffer.
    let (socket, mut there) = probe.pair(SocketOptions::default());
    fill(&probe, socket, 128 << 10);
    there.write_all(&[1; 1000]).expect("it is open");
    reset(there);
    assert!(gone.contains(&probe.closed()));
    // Held back in sending.
    let (socket, there) = probe.pair(small());
    probe.run(move |context| {
        let buffer = context.buffer(128 << 10).expect("the one that was filled is back");
        let _ = context.send_bytes(socket, &[1; 100_000]);
        let _ = context.send_slice(socket, buffer.share(0..128 << 10));
    });
    reset(there);
    assert!(gone.contains(&probe.closed()));
    // Closing gracefully.
    let (socket, there) = probe.pair(small());
    probe.run(move |context| {
        let _ = context.send_bytes(socket, &[1; 100_000]);
        context.close(socket, Close::Gracefully { by: context.now() + LONG });
    });
    reset(there);
    assert!(gone.contains(&probe.closed()));
    probe.silent();
    probe.run(|context| {
        let taken: Vec<_> = std::iter::from_fn(|| context.buffer(128 << 10)).collect();
        assert_eq!(taken.len(), 8, "every buffer came back");
    });
    assert_eq!(probe.remote().statistics().receive_chunks(), CHUNKS);
    assert_eq!(probe.remote().statistics().sockets(), 0);
}

fn fill(probe: &Probe, socket: fathom_runtime::net::SocketKey, length: usize) {
    probe.run(move |context| {
        let buffer = context.buffer(length).expect("it is free");
        context.receive_into(socket, buffer, 0..length);
    });
}

#[test]
fn a_peer_that_is_gone_raises_no_signal() {
    // SAFETY: it takes no pointers. What the process does with a broken pipe is what it did before
    // Rust's runtime changed it.
    let before = unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    assert_ne!(before, libc::SIG_ERR);
    let loops = start(1);
    let probe = Probe::on(&loops, 0);
    let (socket, there) = probe.pair(SocketOptions::default());
    drop(there);
    assert!(matches!(probe.next(), (_, SocketEvent::EndOfStream)));
    // The first is answered with a reset, after which the next would raise it.
    while probe.run(move |context| context.send_bytes(socket, b"hello")).is_ok() {}
    let gone = probe.closed().expect_err("nobody is there");
    assert!(matches!(gone.0, libc::EPIPE | libc::ECONNRESET), "{gone}");
    probe.silent();
}

#[test]
fn after_the_peer_has_ended_its_side_it_can_still_be_sent_to() {
    let loops = start(1);
    let probe = Probe::on(&loops, 0);
    let (socket, mut there) = probe.pair(SocketOptions::default());
    there.write_all(b"the end").expect("it is open");
    there.shutdown(Shutdown::Write).expect("it is open");
    assert_eq!(probe.receive(7), b"the end");
    assert!(matches!(probe.next(), (_, SocketEvent::EndOfStream)));
    probe.run(move |context| {
        let _ = context.send_bytes(socket, b"goodbye");
        context.close(socket, Close::Gracefully { by: context.now() + LONG });
    });
    let mut answer = Vec::new();
    there.read_to_end(&mut answer).expect("it ends");
    assert_eq!(answer, b"goodbye");
    assert_eq!(probe.closed(), Ok(()));
    probe.silent();
}

#[test]
fn closing_gracefully_sends_all_that_waits_though_the_peer_still_speaks() {
    let loops = start(1);
    let probe = Probe::on(&loops, 0);
    let (socket, mut there) = probe.pair(small());
    let stream = bytes(3, 300_000);
    let sent = stream.clone();
    probe.run(move |context| context.pause(socket));
    probe.silent();
    // Without reading these, the close would be a reset that destroys what is on its way.
    there.write_all(&[1; 60_000]).expect("the kernel's buffers take it");
    probe.run(move |context| {
        let _ = context.send_bytes(socket, &sent);
        context.close(socket, Close::Gracefully { by: context.now() + 10 * LONG });
    });
    let mut answer = Vec::new();
    there.read_to_end(&mut answer).expect("it ends in order");
    assert!(answer == stream, "each byte in its place");
    // The peer's end is waited for.
    probe.silent();
    drop(there);
    assert_eq!(probe.closed(), Ok(()));
    probe.silent();
    assert_eq!(probe.remote().statistics().receive_chunks(), CHUNKS);
}

#[test]
fn closing_gracefully_is_over_at_the_deadline_and_says_what_was_lost() {
    let loops = start(1);
    let probe = Probe::on(&loops, 0);
    let soon = Duration::from_millis(100);
    // The peer reads nothing.
    let (socket, mut there) = probe.pair(small());
    probe.run(move |context| {
        let buffer = context.buffer(128 << 10).expect("it is free");
        let _ = context.send_bytes(socket, &[1; 400_000]);
        let _ = context.send_slice(socket, buffer.share(0..1000));
        context.close(socket, Close::Gracefully { by: context.now() + soon });
    });
    assert_eq!(probe.closed(), Err(Errno(libc::ETIMEDOUT)));
    let error = there.read_to_end(&mut Vec::new()).expect_err("it was reset");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    // The peer reads all, and does not end its side.
    let (socket, mut there) = probe.pair(SocketOptions::default());
    probe.run(move |context| {
        let _ = context.send_bytes(socket, b"goodbye");
        context.close(socket, Close::Gracefully { by: context.now() + soon });
    });
    let mut answer = Vec::new();
    there.read_to_end(&mut answer).expect("it ends");
    assert_eq!(answer, b"goodbye");
    assert_eq!(probe.closed(), Ok(()));
    probe.silent();
    probe.run(|context| {
        let taken: Vec<_> = std::iter::from_fn(|| context.buffer(128 << 10)).collect();
        assert_eq!(taken.len(), 8, "every buffer came back");
    });
}

#[test]
fn a_socket_that_is_reset_gives_up_what_is_under_way() {
    let loops = start(1);
    let probe = Probe::on(&loops, 0);
    let (socket, mut there) = probe.pair(SocketOptions { send_high_bytes: usize::MAX, ..small() });
    fill(&probe, socket, 128 << 10);
    probe.run(move |context| {
        while let Some(buffer) = context.buffer(128 << 10) {
            let _ = context.send_slice(socket, buffer.share(0..128 << 10));
        }
    });
    probe.silent();
    probe.run(move |context| context.close(socket, Close::Reset));
    assert_eq!(probe.closed(), Ok(()));
    let error = there.read_to_end(&mut Vec::new()).expect_err("it was reset");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    probe.run(move |context| {
        context.close(socket, Close::Reset);
        let taken: Vec<_> = std::iter::from_fn(|| context.buffer(128 << 10)).collect();
        assert_eq!(taken.len(), 8, "every buffer came back");
    });
    probe.silent();
}

#[test]
fn an_actor_that_retires_leaves_no_socket_behind() {
    let loops = start(1);
    let (probe, watch) = (Probe::on(&loops, 0), Probe::on(&loops, 0));
    let limit = ConnectionLimit::new(4);
    let address = probe.listen("127.0.0.1:0", &limit);
    let (_, mut there) = probe.pair(SocketOptions::default());
    probe.run(|context| context.retire());
    let error = there.read(&mut [0]).expect_err("it was reset");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    watch.silent();
    assert_eq!(watch.remote().statistics().sockets(), 0);
    assert!(TcpStream::connect(address).is_err(), "nobody listens");
}
