//! The host against a controller that is made of nothing but the bytes of `fathom-nvme`, and which
//! a test can make say anything.

mod hostile;
mod loss;
mod peer;
mod setup;
mod traffic;

use std::{collections::HashMap, time::Duration};

use fathom_block::{Completion, Operation, Request, RequestId};
use fathom_nvme::{
    Nqn, Status,
    fabrics::HostId,
    tcp::{Alignment, Digests},
};
use fathom_units::{BlockCount, Lba, Monotonic, Nsid};
use peer::Peer;

use crate::*;

const SECOND: Duration = Duration::from_secs(1);

fn config(queues: u16, entries: u32) -> Config {
    Config {
        host: Nqn::new("nqn.2024-12.io.fathom:host").expect("a name"),
        host_id: HostId([7; 16]),
        subsystem: Nqn::new("nqn.2024-12.io.fathom:volume").expect("a name"),
        purpose: Purpose::Io { nsid: Nsid(1), queues, entries },
        digests: Digests::default(),
        alignment: Alignment::NONE,
        keep_alive: 10 * SECOND,
        command_timeout: 30 * SECOND,
        setup_timeout: 5 * SECOND,
        reconnect_delay: SECOND,
        give_up: None,
    }
}

/// Host and controller, with the wires between them.
struct Bench {
    host: Host,
    peer: Peer,
    now: Monotonic,
    memory: HashMap<RequestId, Vec<u8>>,
    completions: Vec<Completion>,
    /// With which status the last request that has failed did.
    failed: Option<Status>,
    events: Vec<Event>,
    opened: Vec<ConnectionId>,
    closed: Vec<ConnectionId>,
    /// Into how many bytes what the controller says is cut.
    cut: usize,
}

impl Bench {
    fn new(config: Config, peer: Peer) -> Self {
        let mut host = Host::new(config).expect("a good configuration");
        let now = Monotonic(1_000_000_000);
        host.start(now);
        Self {
            host,
            peer,
            now,
            memory: HashMap::new(),
            completions: Vec::new(),
            failed: None,
            events: Vec::new(),
            opened: Vec::new(),
            closed: Vec::new(),
            cut: usize::MAX,
        }
    }

    /// A bench whose host is live.
    fn live(config: Config, peer: Peer) -> Self {
        let mut bench = Self::new(config, peer);
        bench.run();
        assert!(bench.is_live(), "{:?}", bench.events);
        bench
    }

    fn is_live(&self) -> bool {
        let last = self.events.iter().rev().find(|event| {
            matches!(event, Event::Live { .. } | Event::Lost { .. } | Event::Ended(_))
        });
        matches!(last, Some(Event::Live { .. }))
    }

    /// Does what there is to do until there is nothing.
    fn run(&mut self) {
        loop {
            let mut idle = true;
            while let Some(action) = self.host.poll() {
                idle = false;
                self.act(action);
            }
            while let Some((connection, bytes)) = self.peer.said.pop_front() {
                idle = false;
                for part in bytes.chunks(self.cut) {
                    self.receive(connection, part);
                }
            }
            if idle {
                return;
            }
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Open(connection) => {
                self.opened.push(connection);
                if self.peer.opened(connection) {
                    self.host.opened(self.now, connection);
                } else {
                    self.host.closed(self.now, connection);
                }
            }
            Action::Send { connection, header, payload, digest } => {
                let mut bytes = header.as_bytes().to_vec();
                let data = match payload {
                    None => Vec::new(),
                    Some(Payload::Own(data)) => data,
                    Some(Payload::Request { id, offset, length }) => {
                        let start = usize::try_from(offset).expect("small");
                        self.memory[&id][start..start + length as usize].to_vec()
                    }
                };
                bytes.extend(&data);
                if digest {
                    let mut sum = DataDigest::new();
                    sum.update(&data);
                    bytes.extend(sum.to_bytes());
                }
                self.peer.receive(connection, &bytes);
            }
            Action::Close(connection) => {
                self.closed.push(connection);
                self.peer.closed(connection);
            }
            Action::Complete(completion, status) => {
                self.completions.push(completion);
                self.failed = status.or(self.failed);
            }
            Action::Event(event) => self.events.push(event),
        }
    }

    fn receive(&mut self, connection: ConnectionId, bytes: &[u8]) {
        let mut bytes = bytes;
        while let Received::Data { id, offset, bytes: data, rest } =
            self.host.receive(self.now, connection, bytes)
        {
            let start = usize::try_from(offset).expect("small");
            let memory = self.memory.get_mut(&id).expect("the request has memory");
            memory[start..start + data.len()].copy_from_slice(data);
            bytes = rest;
        }
    }

    /// Lets time go by, with every deadline on the way.
    fn wait(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(next) = self.host.deadline().filter(|next| *next <= end) {
            self.now = self.now.max(next);
            self.host.elapsed(self.now);
            self.run();
        }
        self.now = end;
        self.host.elapsed(self.now);
        self.run();
    }

    fn submit(&mut self, id: u64, operation: Operation, lba: u64, blocks: u64) {
        let request =
            Request { id: RequestId(id), operation, lba: Lba(lba), blocks: BlockCount(blocks) };
        let bytes = usize::try_from(operation.data_bytes(blocks * 4096)).expect("small");
        self.memory.entry(request.id).or_insert_with(|| vec![0; bytes]);
        self.host.submit(self.now, request).expect("accepted");
    }

    /// A write of this byte.
    fn write(&mut self, id: u64, lba: u64, blocks: u64, byte: u8) {
        let bytes = usize::try_from(blocks * 4096).expect("small");
        self.memory.insert(RequestId(id), vec![byte; bytes]);
        self.submit(id, Operation::Write { fua: false }, lba, blocks);
    }

    fn result(&self, id: u64) -> Option<Result<(), fathom_block::Error>> {
        let mut found = self.completions.iter().filter(|done| done.id == RequestId(id));
        let result = found.next().map(|done| done.result);
        assert!(found.next().is_none(), "a request is completed once");
        result
    }

    fn lost(&self) -> Option<Error> {
        self.events.iter().rev().find_map(|event| match event {
            Event::Lost { error, .. } => Some(*error),
            _ => None,
        })
    }
}
