//! Accepting when the process has no descriptor left. It is alone in its process, whose limit it
//! lowers.

use std::{net::TcpStream, os::fd::AsRawFd, time::Duration};

use fathom_runtime::{
    Errno, Loops,
    net::{ConnectionLimit, Listener, NotAccepted, SocketEvent},
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

mod probe;

use probe::{Probe, configuration};

#[test]
fn without_descriptors_a_listener_waits_and_then_goes_on() {
    const WAITING: usize = 4;
    let loops = Loops::start(&configuration()).expect("loops start");
    let probe = Probe::on(&loops, 0);
    let any = "127.0.0.1:0".parse().expect("an address");
    let listener = Listener::bind(any, 16, &ConnectionLimit::new(16)).expect("a free port");
    let address = listener.local();
    let there: Vec<TcpStream> =
        (0..WAITING).map(|_| TcpStream::connect(address).expect("the backlog has room")).collect();
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    // The next descriptor would be a number that is beyond the limit.
    let next = TcpStream::connect(address).expect("the backlog has room").as_raw_fd();
    let limit = |current| {
        setrlimit(Resource::Nofile, Rlimit { current, maximum }).expect("the limit can be changed");
    };
    limit(Some(u64::try_from(next).expect("a descriptor")));
    let before = probe.remote().statistics().turns();
    probe.run(|context| context.listen(listener, 0).expect("there is room"));
    assert_eq!(probe.not_accepted(), NotAccepted::Refused(Errno(libc::EMFILE)));
    let events = probe.within(Duration::from_millis(350));
    assert!(events.is_empty(), "it is told once: {events:?}");
    let turns = probe.remote().statistics().turns() - before;
    assert!(turns < 30, "{turns} turns of waiting");
    limit(current);
    let mut connections = Vec::new();
    while connections.len() < WAITING {
        match probe.next() {
            (_, SocketEvent::Accepted(connection)) => connections.push(connection),
            other => panic!("connections come, not {other:?}"),
        }
    }
    for there in there {
        let local = there.local_addr().expect("it is connected");
        assert!(connections.iter().any(|connection| connection.peer() == local));
    }
}
