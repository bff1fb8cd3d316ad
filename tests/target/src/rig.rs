//! A target, its connections, and devices in memory, without a socket: bytes go in, PDUs come out.

use std::collections::{BTreeMap, VecDeque};

use fathom_block::{Error, Operation, Request};
use fathom_nvme::Nqn;
use fathom_target::{
    connection::{self, Connection, Limits, Slot, Stage, Want},
    export::{DeviceId, Hosts, Namespace, Subsystem},
    target::{self, ConnectionId, Portal, Settings, Target, Ticket},
};
use fathom_units::{Monotonic, Nsid};
use uuid::Uuid;

/// The subsystem that every rig has, with namespace 1 of 4096-byte blocks.
pub const VOLUME: &str = "nqn.2026-01.io.fathom:volume";
/// The host that connects to it, unless another one is named.
pub const HOST: &str = "nqn.2026-01.io.fathom:host";
/// The subsystem's device.
pub const DEVICE: DeviceId = DeviceId(7);
/// Its size in blocks.
pub const BLOCKS: u64 = 256;
const BLOCK: u64 = 4096;

/// Where hosts have reached the target.
pub const REACHED: Portal =
    Portal { address: core::net::IpAddr::V4(core::net::Ipv4Addr::new(192, 0, 2, 1)), port: 4420 };

/// A name.
///
/// # Panics
///
/// When it has not the form of one.
pub fn nqn(name: &str) -> Nqn {
    Nqn::new(name).expect("a name of the right form")
}

/// The subsystem [`VOLUME`].
pub fn volume() -> Subsystem {
    Subsystem {
        nqn: nqn(VOLUME),
        serial: *b"FATHOM-0001         ",
        hosts: Hosts::Any,
        controllers: 1..=8,
        namespaces: vec![Namespace {
            nsid: Nsid(1),
            device: DEVICE,
            blocks: BLOCKS,
            block_shift: 12,
            uuid: Uuid::from_u128(0x1234),
            nguid: [0; 16],
            read_only: false,
            write_cache: true,
            preferred_write_bytes: 4096,
            preferred_deallocate_bytes: 1 << 20,
        }],
    }
}

/// A connection as its driver sees it.
pub struct Peer {
    /// The connection.
    pub connection: Connection,
    /// The memory of its slots.
    pub memory: BTreeMap<Slot, Vec<u8>>,
    /// What the host has not read yet.
    pub output: VecDeque<u8>,
    /// What the host has sent and nobody has taken yet.
    input: VecDeque<u8>,
    /// How much memory the connection may have.
    pub memory_max: usize,
    /// Why it ended by itself.
    pub loss: Option<connection::Loss>,
    /// Nothing of it is at a device any more.
    pub finished: bool,
}

impl Peer {
    /// Gives a slot memory, if there is some left.
    fn grant(&mut self, slot: Slot, length: usize) -> bool {
        let used: usize = self.memory.values().map(Vec::len).sum();
        let granted = used + length <= self.memory_max;
        if granted {
            // What was there before must not show.
            self.memory.insert(slot, vec![0xEE; length]);
            self.connection.memory_granted(slot);
        }
        granted
    }
}

/// A request that a test holds back.
pub struct Held {
    /// Of which connection.
    pub connection: ConnectionId,
    /// Of which slot.
    pub slot: Slot,
    /// To which device.
    pub device: DeviceId,
    /// What.
    pub request: Request,
}

/// All of it.
pub struct Rig {
    /// The target.
    pub target: Target,
    /// The connections.
    pub peers: BTreeMap<ConnectionId, Peer>,
    /// The content of the devices.
    pub devices: BTreeMap<DeviceId, Vec<u8>>,
    /// The time.
    pub now: Monotonic,
    /// What connections are granted.
    pub limits: Limits,
    /// Whether requests wait for the test.
    pub holding: bool,
    /// Requests that wait, the oldest first.
    pub held: VecDeque<Held>,
    /// What devices answer instead of doing it.
    pub fault: Option<Error>,
    /// Operations that were done, in order.
    pub log: Vec<(ConnectionId, Operation, u64, u64)>,
    /// Tickets that were answered.
    pub done: Vec<Ticket>,
    /// Flushes that shutdowns asked for.
    pub flushes: usize,
    /// Whether Aborts wait for the test.
    pub holding_aborts: bool,
    held_aborts: Vec<target::Action>,
    next: u64,
}

impl Default for Rig {
    fn default() -> Self {
        Self::new()
    }
}

impl Rig {
    /// A target that exports [`VOLUME`].
    pub fn new() -> Self {
        let mut rig = Self::with(Limits::default());
        rig.target.export(volume()).expect("it is new");
        rig.devices.insert(DEVICE, vec![0; usize::try_from(BLOCKS * BLOCK).expect("small")]);
        rig
    }

    /// A target that exports nothing.
    pub fn with(limits: Limits) -> Self {
        let settings = Settings {
            limits,
            portals: vec![Portal { address: core::net::Ipv4Addr::UNSPECIFIED.into(), port: 4420 }],
            model: "Fathom".to_owned(),
            firmware: "0.1".to_owned(),
        };
        Self {
            target: Target::new(settings),
            peers: BTreeMap::new(),
            devices: BTreeMap::new(),
            now: Monotonic(1),
            limits,
            holding: false,
            held: VecDeque::new(),
            fault: None,
            log: Vec::new(),
            done: Vec::new(),
            flushes: 0,
            holding_aborts: false,
            held_aborts: Vec::new(),
            next: 1,
        }
    }

    /// A host opens a connection.
    pub fn open(&mut self) -> ConnectionId {
        let id = ConnectionId(self.next);
        self.next += 1;
        self.peers.insert(
            id,
            Peer {
                connection: Connection::new(self.limits, self.now),
                memory: BTreeMap::new(),
                output: VecDeque::new(),
                input: VecDeque::new(),
                memory_max: usize::MAX,
                loss: None,
                finished: false,
            },
        );
        id
    }

    /// How far a connection is.
    pub fn stage(&self, id: ConnectionId) -> Stage {
        self.peers[&id].connection.stage()
    }

    /// The host sends bytes.
    pub fn send(&mut self, id: ConnectionId, bytes: &[u8]) {
        self.peers.get_mut(&id).expect("it is open").input.extend(bytes);
        self.settle();
    }

    /// The host, or the network, closes the connection.
    pub fn close(&mut self, id: ConnectionId) {
        self.peers.get_mut(&id).expect("it is open").connection.lost();
        self.settle();
    }

    /// This side closes the connection in good order.
    pub fn drain(&mut self, id: ConnectionId) {
        self.peers.get_mut(&id).expect("it is open").connection.drain();
        self.settle();
    }

    /// Time passes.
    pub fn pass(&mut self, time: std::time::Duration) {
        self.now = self.now + time;
        self.target.pass(self.now);
        for peer in self.peers.values_mut() {
            peer.connection.check_deadline(self.now);
        }
        self.settle();
    }

    /// Everything is done that can be done.
    pub fn settle(&mut self) {
        loop {
            let mut progress = false;
            for id in self.peers.keys().copied().collect::<Vec<_>>() {
                progress |= self.act_all(id);
                while self.take_input(id) {
                    self.act_all(id);
                    progress = true;
                }
            }
            while let Some(action) = self.target.next_action() {
                self.act_for_target(action);
                progress = true;
            }
            if !progress {
                return;
            }
        }
    }

    /// Carries out what the connection wants done. Returns whether it wanted something.
    fn act_all(&mut self, id: ConnectionId) -> bool {
        let mut progress = false;
        while let Some(action) =
            self.peers.get_mut(&id).and_then(|peer| peer.connection.next_action())
        {
            self.act(id, action);
            progress = true;
        }
        progress
    }

    /// Takes one step with what the host has sent. Returns whether there was one to take.
    fn take_input(&mut self, id: ConnectionId) -> bool {
        let peer = self.peers.get_mut(&id).expect("it is open");
        if let Some((slot, length)) = peer.connection.memory_wanted()
            && peer.grant(slot, length)
        {
            return true;
        }
        match peer.connection.want() {
            Want::Memory { slot, length } => return peer.grant(slot, length),
            _ if peer.input.is_empty() => return false,
            Want::Bytes => {
                let bytes = peer.input.make_contiguous();
                let taken = peer.connection.receive(bytes);
                peer.input.drain(..taken);
            }
            Want::Data { slot, offset, length } => {
                let length = length.min(peer.input.len());
                let bytes: Vec<u8> = peer.input.drain(..length).collect();
                let memory = peer.memory.get_mut(&slot).expect("it was granted");
                memory[offset..offset + length].copy_from_slice(&bytes);
                peer.connection.received_data(&bytes);
            }
            Want::Patience => return false,
            Want::Nothing => peer.input.clear(),
        }
        true
    }

    fn act(&mut self, id: ConnectionId, action: connection::Action) {
        use connection::Action;
        let peer = self.peers.get_mut(&id).expect("it is open");
        match action {
            Action::Send(send) => {
                peer.output.extend(send.head());
                if let Some((slot, length)) = send.data {
                    let memory = peer.memory.remove(&slot).expect("the slot has memory");
                    peer.output.extend(&memory[..length]);
                }
                peer.output.extend(send.tail());
            }
            Action::SendBytes(bytes) => peer.output.extend(bytes),
            Action::Submit { slot, device, request } => {
                let held = Held { connection: id, slot, device, request };
                if self.holding { self.held.push_back(held) } else { self.execute(&held) }
            }
            Action::Release(slot) => {
                peer.memory.remove(&slot).expect("the slot has memory");
            }
            Action::Connect(request) => self.target.connect(id, &request, REACHED, self.now),
            Action::Command(request) => self.target.command(id, &request, self.now),
            Action::Drains => self.target.drains(id),
            Action::Lost(loss) => {
                peer.loss = Some(loss);
                self.target.lost(id);
            }
            Action::Finished => {
                peer.finished = true;
                self.target.finished(id, self.now);
            }
        }
    }

    fn act_for_target(&mut self, action: target::Action) {
        use target::Action;
        match action {
            Action::Admit(id, admission) => self.connection(id).admit(*admission),
            Action::Refuse(id, answer) => self.connection(id).refuse(answer),
            Action::Answer(id, slot, answer) => self.connection(id).answer(slot, &answer),
            Action::End(id) => self.connection(id).end(),
            Action::Drain(id) => self.connection(id).drain(),
            Action::Abort(..) if self.holding_aborts => self.held_aborts.push(action),
            Action::Abort(id, cid, ticket) => {
                let at_once = self.connection(id).abort(cid);
                self.act_all(id);
                self.target.aborted(ticket, at_once);
            }
            Action::Flush(_, ticket) => {
                self.flushes += 1;
                self.target.flushed(ticket, true);
            }
            Action::Done(ticket) => self.done.push(ticket),
        }
    }

    fn connection(&mut self, id: ConnectionId) -> &mut Connection {
        &mut self.peers.get_mut(&id).expect("it is open").connection
    }

    /// Has queues decide about the Aborts that were held back, and about those that come.
    pub fn release_aborts(&mut self) {
        self.holding_aborts = false;
        for action in std::mem::take(&mut self.held_aborts) {
            self.act_for_target(action);
        }
        self.settle();
    }

    /// Does what was held back longest.
    pub fn release_one(&mut self) -> bool {
        let Some(held) = self.held.pop_front() else { return false };
        self.execute(&held);
        self.settle();
        true
    }

    fn execute(&mut self, held: &Held) {
        let Held { connection, slot, device, request } = held;
        let peer = self.peers.get_mut(connection).expect("it is open");
        let memory = peer.memory.entry(*slot).or_default();
        let content = self.devices.get_mut(device).expect("the device is there");
        let fault = self.fault.map_or(Ok(()), Err);
        let result = fault.and_then(|()| carry_out(content, request, memory));
        self.log.push((*connection, request.operation, request.lba.0, request.blocks.0));
        let data = memory.clone();
        if data.is_empty() {
            peer.memory.remove(slot);
        }
        peer.connection.complete(*slot, result, &data);
    }
}

fn carry_out(content: &mut [u8], request: &Request, memory: &mut [u8]) -> Result<(), Error> {
    if request.operation == Operation::Flush {
        return Ok(());
    }
    if request.blocks.0 == 0 {
        return Err(Error::InvalidField);
    }
    let end = request.lba.0.checked_add(request.blocks.0).ok_or(Error::LbaOutOfRange)?;
    if end > content.len() as u64 / BLOCK {
        return Err(Error::LbaOutOfRange);
    }
    let at = |block: u64| usize::try_from(block * BLOCK).expect("small");
    let range = &mut content[at(request.lba.0)..at(end)];
    match request.operation {
        Operation::Read => memory.copy_from_slice(range),
        Operation::Write { .. } => range.copy_from_slice(memory),
        Operation::WriteZeroes => range.fill(0),
        Operation::Compare if range == memory => {}
        Operation::Compare => return Err(Error::CompareFailure),
        Operation::CompareAndWrite { .. } => {
            let (compare, write) = memory.split_at(memory.len() / 2);
            if range != compare {
                return Err(Error::CompareFailure);
            }
            range.copy_from_slice(write);
        }
        Operation::Flush => unreachable!("it has no range"),
    }
    Ok(())
}
