//! A cable in front of a listener, which a test can cut, stall and mend.
//!
//! ```text
//!   host ---> Cable's own port ---> a thread for each direction ---> where it leads
//! ```
//!
//! - *Cut*: every connection through it is closed and nothing listens at its port.
//! - *Stalled*: what has been sent is kept, and comes out when the cable is mended; that an end was
//!   closed, too. New connections seem to be taken and are silent. So does a network that has lost
//!   its way for a while.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
};

/// Bytes that one direction of a connection takes at a time.
const PIECE: usize = 64 << 10;

/// A port of loopback from which connections lead elsewhere.
pub struct Cable {
    address: SocketAddr,
    shared: Arc<Shared>,
    /// Takes connections; none while it is cut.
    listening: Option<JoinHandle<()>>,
}

struct Shared {
    leads_to: SocketAddr,
    state: Mutex<State>,
    /// The state has changed.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    condition: Condition,
    /// Both ends of the connections that it has taken since it was cut the last time.
    ends: Vec<TcpStream>,
}

#[derive(Clone, Copy, PartialEq, Eq, Default)]
enum Condition {
    #[default]
    Whole,
    Stalled,
    Cut,
}

impl Cable {
    /// A cable from a new port of loopback to `leads_to`.
    ///
    /// # Panics
    ///
    /// When loopback has no free port.
    pub fn new(leads_to: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has a port");
        let address = listener.local_addr().expect("it is bound");
        let shared = Shared { leads_to, state: Mutex::default(), changed: Condvar::new() };
        let mut cable = Self { address, shared: Arc::new(shared), listening: None };
        cable.listen(listener);
        cable
    }

    /// Where a host connects to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Closes every connection, and refuses new ones.
    ///
    /// # Panics
    ///
    /// When it is cut already.
    pub fn cut(&mut self) {
        let listening = self.listening.take().expect("it is whole or stalled");
        {
            let mut state = self.shared.lock();
            state.condition = Condition::Cut;
            for end in state.ends.drain(..) {
                // It may have been closed by its peer.
                let _ = end.shutdown(Shutdown::Both);
            }
        }
        self.shared.changed.notify_all();
        // The listener looks at the condition when somebody connects.
        drop(TcpStream::connect(self.address));
        listening.join().expect("it does not panic");
    }

    /// Lets nothing through until it is mended.
    pub fn stall(&mut self) {
        assert!(self.listening.is_some(), "a cut cable lets nothing through anyway");
        self.shared.lock().condition = Condition::Stalled;
    }

    /// Lets through what was sent meanwhile, and takes connections again.
    ///
    /// # Panics
    ///
    /// When another process has taken its port.
    pub fn mend(&mut self) {
        self.shared.lock().condition = Condition::Whole;
        self.shared.changed.notify_all();
        if self.listening.is_none() {
            self.listen(TcpListener::bind(self.address).expect("its port is free"));
        }
    }

    fn listen(&mut self, listener: TcpListener) {
        let shared = Arc::clone(&self.shared);
        self.listening = Some(std::thread::spawn(move || {
            for taken in listener.incoming() {
                if !shared.take(taken.expect("loopback takes connections")) {
                    return;
                }
            }
        }));
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        if self.listening.is_some() {
            self.cut();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leads a connection on. `false` when the cable is cut.
    fn take(self: &Arc<Self>, near: TcpStream) -> bool {
        let mut state = self.lock();
        if state.condition == Condition::Cut {
            return false;
        }
        // Nobody may listen where it leads; then the host is let go of.
        let Ok(far) = TcpStream::connect(self.leads_to) else { return true };
        let again = |end: &TcpStream| end.try_clone().expect("there are descriptors");
        for end in [&near, &far] {
            end.set_nodelay(true).expect("it can be set");
            state.ends.push(again(end));
        }
        drop(state);
        for (from, to) in [(again(&near), again(&far)), (far, near)] {
            let shared = Arc::clone(self);
            std::thread::spawn(move || shared.carry(&from, &to));
        }
        true
    }

    /// Carries bytes in one direction until either end is closed.
    fn carry(&self, mut from: &TcpStream, mut to: &TcpStream) {
        let mut piece = vec![0; PIECE];
        while let Ok(count @ 1..) = from.read(&mut piece) {
            self.wait_while_stalled();
            if to.write_all(&piece[..count]).is_err() {
                break;
            }
        }
        // That an end was closed comes through no sooner than bytes do.
        self.wait_while_stalled();
        // Either may be closed already.
        let _ = from.shutdown(Shutdown::Both);
        let _ = to.shutdown(Shutdown::Both);
    }

    fn wait_while_stalled(&self) {
        let stalled = |state: &mut State| state.condition == Condition::Stalled;
        let state = self.changed.wait_while(self.lock(), stalled);
        drop(state.unwrap_or_else(PoisonError::into_inner));
    }
}

#[cfg(test)]
mod tests {
    use std::{io::ErrorKind, time::Duration};

    use super::*;

    /// A host's connection through a cable, and the other end of it.
    fn connected(cable: &Cable, far: &TcpListener) -> (TcpStream, TcpStream) {
        let near = TcpStream::connect(cable.address()).expect("it takes connections");
        let (far, _) = far.accept().expect("it leads there");
        for end in [&near, &far] {
            end.set_read_timeout(Some(Duration::from_secs(60))).expect("it can be set");
        }
        (near, far)
    }

    fn arrives(mut end: &TcpStream, bytes: &[u8]) {
        let mut arrived = vec![0; bytes.len()];
        end.read_exact(&mut arrived).expect("it arrives");
        assert_eq!(arrived, bytes);
    }

    #[test]
    fn bytes_go_both_ways_and_a_cut_ends_connections_and_refuses_others() {
        let far = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let mut cable = Cable::new(far.local_addr().expect("it is bound"));
        let (mut near, mut other) = connected(&cable, &far);
        near.write_all(b"there").expect("it is open");
        arrives(&other, b"there");
        other.write_all(b"back").expect("it is open");
        arrives(&near, b"back");
        cable.cut();
        assert_eq!(near.read(&mut [0]).expect("it ends"), 0);
        assert_eq!(other.read(&mut [0]).expect("it ends"), 0);
        let refused = TcpStream::connect(cable.address()).expect_err("nothing listens");
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        cable.mend();
        let (mut near, other) = connected(&cable, &far);
        near.write_all(b"again").expect("it is open");
        arrives(&other, b"again");
    }

    #[test]
    fn a_stalled_cable_keeps_what_was_sent_and_that_an_end_was_closed() {
        let far = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let mut cable = Cable::new(far.local_addr().expect("it is bound"));
        let (mut near, mut other) = connected(&cable, &far);
        cable.stall();
        near.write_all(b"later").expect("it is open");
        other.set_read_timeout(Some(Duration::from_millis(100))).expect("it can be set");
        let nothing = other.read(&mut [0]).expect_err("nothing arrives");
        assert_eq!(nothing.kind(), ErrorKind::WouldBlock);
        cable.mend();
        other.set_read_timeout(Some(Duration::from_secs(60))).expect("it can be set");
        arrives(&other, b"later");

        cable.stall();
        drop(other);
        near.set_read_timeout(Some(Duration::from_millis(100))).expect("it can be set");
        let nothing = near.read(&mut [0]).expect_err("nothing arrives");
        assert_eq!(nothing.kind(), ErrorKind::WouldBlock);
        cable.mend();
        near.set_read_timeout(Some(Duration::from_secs(60))).expect("it can be set");
        assert_eq!(near.read(&mut [0]).expect("it ends"), 0);
    }
}
