//! Plain blocking sockets for the host of `tests/target`.

use std::{
    collections::BTreeMap,
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use fathom_target::target::ConnectionId;
use fathom_test_target::host::Wire;

/// How long an answer is waited for: nothing takes that long.
const LONG: Duration = Duration::from_secs(60);

/// Connections to one address.
pub struct Network {
    address: SocketAddr,
    streams: BTreeMap<ConnectionId, TcpStream>,
    next: u64,
}

impl Network {
    /// No connection yet.
    pub fn new(address: SocketAddr) -> Self {
        Self { address, streams: BTreeMap::new(), next: 1 }
    }

    /// The socket of a connection.
    ///
    /// # Panics
    ///
    /// When there is no such connection.
    pub fn stream(&self, id: ConnectionId) -> &TcpStream {
        &self.streams[&id]
    }

    /// Closes a connection.
    pub fn close(&mut self, id: ConnectionId) {
        self.streams.remove(&id);
    }

    /// Whether the target has closed a connection, which is waited for. What it still sent is
    /// dropped.
    ///
    /// # Panics
    ///
    /// When it does not close it.
    pub fn wait_for_end(&mut self, id: ConnectionId) {
        let mut rest = Vec::new();
        match (&self.streams[&id]).read_to_end(&mut rest) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
            Err(error) => panic!("the target does not close the connection: {error}"),
        }
    }
}

fn is_closed(error: &std::io::Error) -> bool {
    use ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof)
}

impl Wire for Network {
    fn open(&mut self) -> ConnectionId {
        let stream = TcpStream::connect(self.address).expect("the target listens");
        stream.set_nodelay(true).expect("it can be set");
        stream.set_read_timeout(Some(LONG)).expect("it can be set");
        let id = ConnectionId(self.next);
        self.next += 1;
        self.streams.insert(id, stream);
        id
    }

    /// What the target does not take any more, because it has closed the connection, is lost.
    fn send(&mut self, id: ConnectionId, bytes: &[u8]) {
        match self.streams.get_mut(&id).expect("it is open").write_all(bytes) {
            Ok(()) => {}
            Err(error) if is_closed(&error) => {}
            Err(error) => panic!("the target does not take what is sent: {error}"),
        }
    }

    /// One PDU; none when the target has closed the connection.
    fn receive(&mut self, id: ConnectionId) -> Vec<u8> {
        let stream = self.streams.get_mut(&id).expect("it is open");
        let mut pdu = vec![0; 8];
        match stream.read_exact(&mut pdu) {
            Ok(()) => {}
            Err(error) if is_closed(&error) => return Vec::new(),
            Err(error) => panic!("the target does not answer: {error}"),
        }
        let length = u32::from_le_bytes([pdu[4], pdu[5], pdu[6], pdu[7]]);
        pdu.resize(usize::try_from(length).expect("a PDU is short"), 0);
        stream.read_exact(&mut pdu[8..]).expect("the rest of the PDU comes");
        pdu
    }
}
