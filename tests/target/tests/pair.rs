//! Our host against our target, both without sockets: each is the other's peer.

use std::{collections::HashMap, time::Duration};

use fathom_block::{Completion, Error as BlockError, Operation, Request, RequestId};
use fathom_host::{
    Action, Config, ConnectionId, DataDigest, Event, Host, Payload, Purpose, Received,
};
use fathom_nvme::{
    Nqn,
    fabrics::HostId,
    log::SubsystemType,
    tcp::{Alignment, Digests},
};
use fathom_target::target::ConnectionId as TargetConnection;
use fathom_test_support::random::Random;
use fathom_test_target::rig::{BLOCKS, DEVICE, Rig, VOLUME, nqn};
use fathom_units::{BlockCount, Lba, Nsid};

const SECOND: Duration = Duration::from_secs(1);
const BLOCK: usize = 4096;

fn config() -> Config {
    Config {
        host: nqn("nqn.2026-01.io.fathom:host"),
        host_id: HostId([9; 16]),
        subsystem: nqn(VOLUME),
        purpose: Purpose::Io { nsid: Nsid(1), queues: 2, entries: 16 },
        digests: Digests::default(),
        alignment: Alignment::NONE,
        keep_alive: 10 * SECOND,
        command_timeout: 30 * SECOND,
        setup_timeout: 5 * SECOND,
        reconnect_delay: SECOND,
        give_up: None,
    }
}

/// Host and target with the wires between them.
struct Pair {
    host: Host,
    rig: Rig,
    wires: HashMap<ConnectionId, TargetConnection>,
    memory: HashMap<RequestId, Vec<u8>>,
    completions: Vec<Completion>,
    events: Vec<Event>,
    /// Into how many bytes what either says is cut.
    cut: usize,
}

impl Pair {
    fn new(config: Config, rig: Rig) -> Self {
        let mut host = Host::new(config).expect("a good configuration");
        host.start(rig.now);
        let mut pair = Self {
            host,
            rig,
            wires: HashMap::new(),
            memory: HashMap::new(),
            completions: Vec::new(),
            events: Vec::new(),
            cut: usize::MAX,
        };
        pair.run();
        pair
    }

    fn live(config: Config) -> Self {
        let pair = Self::new(config, Rig::new());
        assert!(matches!(pair.events[..], [Event::Live { .. }]), "{:?}", pair.events);
        pair
    }

    fn run(&mut self) {
        loop {
            let mut idle = true;
            while let Some(action) = self.host.poll() {
                idle = false;
                self.act(action);
            }
            for (connection, wire) in self.wires.clone() {
                let peer = self.rig.peers.get_mut(&wire).expect("it was opened");
                let said: Vec<u8> = peer.output.drain(..).collect();
                let is_over = peer.loss.is_some() && peer.finished;
                idle &= said.is_empty();
                for part in said.chunks(self.cut) {
                    self.receive(connection, part);
                }
                if is_over && self.wires.remove(&connection).is_some() {
                    idle = false;
                    self.host.closed(self.rig.now, connection);
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
                self.wires.insert(connection, self.rig.open());
                self.host.opened(self.rig.now, connection);
            }
            Action::Send { connection, header, payload, digest } => {
                let data = match payload {
                    None => Vec::new(),
                    Some(Payload::Own(data)) => data,
                    Some(Payload::Request { id, offset, length }) => {
                        let start = usize::try_from(offset).expect("small");
                        self.memory[&id][start..start + length as usize].to_vec()
                    }
                };
                let mut bytes = [header.as_bytes(), &data].concat();
                if digest {
                    let mut sum = DataDigest::new();
                    sum.update(&data);
                    bytes.extend(sum.to_bytes());
                }
                let Some(wire) = self.wires.get(&connection).copied() else { return };
                for part in bytes.chunks(self.cut) {
                    self.rig.send(wire, part);
                }
            }
            Action::Close(connection) => {
                if let Some(wire) = self.wires.remove(&connection) {
                    self.rig.close(wire);
                }
            }
            Action::Complete(completion, _) => self.completions.push(completion),
            Action::Event(event) => self.events.push(event),
        }
    }

    fn receive(&mut self, connection: ConnectionId, bytes: &[u8]) {
        let mut bytes = bytes;
        while let Received::Data { id, offset, bytes: data, rest } =
            self.host.receive(self.rig.now, connection, bytes)
        {
            let start = usize::try_from(offset).expect("small");
            let memory = self.memory.get_mut(&id).expect("the request has memory");
            memory[start..start + data.len()].copy_from_slice(data);
            bytes = rest;
        }
    }

    fn pass(&mut self, time: Duration) {
        let end = self.rig.now + time;
        while self.rig.now < end {
            let next = self.host.deadline().map_or(end, |next| next.min(end)).max(self.rig.now);
            self.rig.pass(next.since(self.rig.now));
            self.host.elapsed(self.rig.now);
            self.run();
            if next == end {
                return;
            }
        }
    }

    fn submit(&mut self, id: u64, operation: Operation, lba: u64, blocks: u64, bytes: Vec<u8>) {
        let id = RequestId(id);
        self.memory.insert(id, bytes);
        let request = Request { id, operation, lba: Lba(lba), blocks: BlockCount(blocks) };
        self.host.submit(self.rig.now, request).expect("accepted");
    }

    fn result(&self, id: u64) -> Option<Result<(), BlockError>> {
        let found = self.completions.iter().find(|done| done.id == RequestId(id));
        found.map(|done| done.result)
    }

    fn lose(&mut self) {
        let (connection, wire) = self.wires.iter().next().expect("open");
        let (connection, wire) = (*connection, *wire);
        self.wires.remove(&connection);
        self.rig.close(wire);
        self.host.closed(self.rig.now, connection);
        self.run();
    }
}

#[test]
fn what_the_host_asks_happens_at_the_target() {
    for seed in 0..12 {
        let mut random = Random::new(seed);
        let mut config = config();
        config.digests = Digests { header: seed & 1 != 0, data: seed & 2 != 0 };
        let field = u8::try_from(random.below(32)).expect("small");
        config.alignment = Alignment::from_field(field).expect("below 32");
        let mut pair = Pair::live(config);
        pair.cut = if seed % 3 == 0 {
            1 + usize::try_from(random.below(999)).expect("small")
        } else {
            usize::MAX
        };
        let mut medium = vec![0; usize::try_from(BLOCKS).expect("small") * BLOCK];
        for id in 0..40 {
            let lba = random.below(BLOCKS);
            let blocks = 1 + random.below(BLOCKS - lba).min(60);
            let start = usize::try_from(lba).expect("small") * BLOCK;
            let bytes = usize::try_from(blocks).expect("small") * BLOCK;
            let range = start..start + bytes;
            let byte = u8::try_from(random.below(4)).expect("small");
            let mut expected = Ok(());
            match random.below(7) {
                0 | 1 => {
                    let fua = random.below(2) == 0;
                    pair.submit(id, Operation::Write { fua }, lba, blocks, vec![byte; bytes]);
                    medium[range].fill(byte);
                }
                2 => {
                    pair.submit(id, Operation::WriteZeroes, lba, blocks, Vec::new());
                    medium[range].fill(0);
                }
                3 => {
                    pair.submit(id, Operation::Read, lba, blocks, vec![0xEE; bytes]);
                    pair.run();
                    assert!(pair.memory[&RequestId(id)] == medium[range], "seed {seed}");
                }
                4 => {
                    pair.submit(id, Operation::Compare, lba, blocks, vec![byte; bytes]);
                    if medium[range].iter().any(|found| *found != byte) {
                        expected = Err(BlockError::CompareFailure);
                    }
                }
                5 => {
                    let range = start..start + BLOCK;
                    let data = [vec![medium[start]; BLOCK], vec![byte; BLOCK]].concat();
                    let equal = medium[range.clone()].iter().all(|found| *found == medium[start]);
                    pair.submit(id, Operation::CompareAndWrite { fua: false }, lba, 1, data);
                    if equal {
                        medium[range].fill(byte);
                    } else {
                        expected = Err(BlockError::CompareFailure);
                    }
                }
                _ => pair.submit(id, Operation::Flush, 0, 0, Vec::new()),
            }
            pair.run();
            assert_eq!(pair.result(id), Some(expected), "seed {seed}, request {id}");
            assert!(pair.rig.devices[&DEVICE] == medium, "seed {seed}, request {id}");
        }
        assert_eq!(pair.host.outstanding(), 0);
        assert!(pair.rig.peers.values().all(|peer| peer.loss.is_none() && peer.memory.is_empty()));
    }
}

#[test]
fn an_idle_association_lives_and_a_resize_is_told() {
    let mut pair = Pair::live(config());
    pair.pass(100 * SECOND);
    assert_eq!(pair.events.len(), 1, "the keep alives are enough");
    assert!(pair.rig.target.resized(&nqn(VOLUME), Nsid(1), BLOCKS * 2));
    pair.rig.settle();
    pair.run();
    let Some(Event::NamespaceChanged(namespace)) = pair.events.last() else {
        panic!("{:?}", pair.events)
    };
    assert_eq!(namespace.size, BlockCount(BLOCKS * 2));
}

#[test]
fn a_lost_association_is_replaced_and_its_write_done_once_it_is_fenced() {
    let mut pair = Pair::live(config());
    pair.rig.holding = true;
    pair.submit(1, Operation::Write { fua: false }, 0, 1, vec![1; BLOCK]);
    pair.run();
    assert_eq!(pair.rig.held.len(), 1);
    pair.lose();
    let Some(Event::Lost { association, unfenced: true, .. }) = pair.events.last().cloned() else {
        panic!("{:?}", pair.events)
    };
    // While the old write can still reach the medium, the target lets the host in to nothing.
    pair.pass(5 * SECOND);
    assert!(!pair.events[1..].iter().any(|event| matches!(event, Event::Live { .. })));
    pair.rig.holding = false;
    assert!(pair.rig.release_one());
    pair.pass(2 * SECOND);
    assert!(matches!(pair.events.last(), Some(Event::Live { .. })));
    // So being let in means that the old association is fenced.
    pair.submit(2, Operation::Write { fua: false }, 0, 1, vec![2; BLOCK]);
    pair.host.fenced(pair.rig.now, association);
    pair.run();
    assert_eq!((pair.result(1), pair.result(2)), (Some(Ok(())), Some(Ok(()))));
    assert_eq!(pair.rig.devices[&DEVICE][0], 2);
}

#[test]
fn shutting_down_leaves_nothing_at_the_target() {
    let mut pair = Pair::live(config());
    pair.host.shut_down(pair.rig.now);
    pair.run();
    assert_eq!(pair.events.last(), Some(&Event::Ended(None)));
    pair.rig.settle();
    assert!(pair.rig.peers.values().all(|peer| peer.finished));
    assert_eq!(pair.rig.flushes, 1);
}

#[test]
fn the_discovery_page_names_the_volume() {
    let mut config = config();
    config.subsystem = Nqn::discovery();
    config.purpose = Purpose::Discovery;
    let pair = Pair::new(config, Rig::new());
    let Some(Event::Discovered(entries)) = pair.events.last() else { panic!("{:?}", pair.events) };
    let volumes: Vec<_> =
        entries.iter().filter(|entry| entry.subsystem_type == SubsystemType::NVM).collect();
    assert_eq!(volumes.len(), 1);
    assert_eq!(volumes[0].subsystem, nqn(VOLUME));
    assert_eq!((volumes[0].address.as_str(), volumes[0].service.as_str()), ("192.0.2.1", "4420"));
}
