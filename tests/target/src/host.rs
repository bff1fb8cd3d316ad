//! A host that speaks the protocol, one command at a time or as bytes.

use fathom_nvme::{
    Completion, Nqn, Status, SubmissionEntry,
    admin::{AdminCommand, SetFeatures},
    fabrics::{
        Connect, ConnectAttributes, ConnectData, Connected, HostId, PropertyGet, PropertySet,
    },
    feature::{FeatureId, NumberOfQueues},
    nvm::{NvmCommand, Range, Transfer},
    property::{Configuration, ControllerStatus, PropertySize},
    sgl::SglDescriptor,
    tcp::{
        Alignment, C2hData, CapsuleCommand, CapsuleResponse, DataDigest, Digests, H2cData,
        HEADER_MAX, IC_SIZE, Inbound, InitializeRequest, InitializeResponse, Outbound, PduType,
        R2t, Receiver, TERMINATE_MAX,
    },
};
use fathom_target::target::ConnectionId;
use fathom_units::{BlockCount, Cid, Cntlid, Lba, Nsid, Qid};

use crate::rig::{HOST, Rig, VOLUME, nqn};

/// What is between a host and the target.
pub trait Wire {
    /// Opens a connection.
    fn open(&mut self) -> ConnectionId;
    /// Sends bytes on it.
    fn send(&mut self, id: ConnectionId, bytes: &[u8]);
    /// What the target has sent, in whole PDUs; on a network, waits for one.
    fn receive(&mut self, id: ConnectionId) -> Vec<u8>;
}

impl Wire for Rig {
    fn open(&mut self) -> ConnectionId {
        self.open()
    }

    fn send(&mut self, id: ConnectionId, bytes: &[u8]) {
        self.send(id, bytes);
    }

    fn receive(&mut self, id: ConnectionId) -> Vec<u8> {
        self.peers.get_mut(&id).expect("it is open").output.drain(..).collect()
    }
}

/// What the target sends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Received {
    /// C2HData and its data.
    Data(C2hData, Vec<u8>),
    /// R2T.
    R2t(R2t),
    /// A response capsule.
    Completion(Completion),
    /// FES and FEI.
    Terminated(u16, u32),
}

/// One connection from the host's side.
pub struct Host {
    /// The connection.
    pub id: ConnectionId,
    /// The digests that it has.
    pub digests: Digests,
    /// The host's name.
    pub host: Nqn,
    /// The host's identifier.
    pub host_id: HostId,
    /// The controller that it has.
    pub controller: Cntlid,
    outbound: Outbound,
    inbound: Inbound,
    next_cid: u16,
}

/// What a command came to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reply {
    /// The response.
    pub completion: Completion,
    /// The data that came before it.
    pub data: Vec<u8>,
}

impl Host {
    /// Opens a connection and agrees upon the transport.
    pub fn open(wire: &mut impl Wire, digests: Digests) -> Self {
        let id = wire.open();
        let request = InitializeRequest { alignment: Alignment::NONE, digests, r2t_max: 1 };
        wire.send(id, &request.encode());
        let response = wire.receive(id);
        let response: [u8; IC_SIZE] = response.try_into().expect("an ICResp and nothing else");
        let response = InitializeResponse::decode(&response, digests).expect("it is sound");
        assert_eq!(response.digests, digests);
        Self {
            id,
            digests,
            host: nqn(HOST),
            host_id: HostId([9; 16]),
            controller: Cntlid::DYNAMIC,
            outbound: Outbound { digests, alignment: response.alignment },
            inbound: Inbound {
                receiver: Receiver::Host,
                digests,
                alignment: Alignment::NONE,
                capsule_data_max: 0,
                data_max: 1 << 24,
            },
            next_cid: 100,
        }
    }

    /// A connection that is the admin queue of an enabled controller of the volume.
    pub fn admin(wire: &mut impl Wire) -> Self {
        Self::admin_of(wire, Digests::default(), VOLUME)
    }

    /// The same with digests, of any subsystem.
    pub fn admin_of(wire: &mut impl Wire, digests: Digests, subsystem: &str) -> Self {
        let mut host = Self::open(wire, digests);
        host.begin(wire, subsystem);
        host
    }

    /// Becomes the admin queue of an enabled controller.
    fn begin(&mut self, wire: &mut impl Wire, subsystem: &str) {
        let reply = self.connect(wire, subsystem, Qid::ADMIN, 0);
        assert_eq!(reply.status, Status::SUCCESS);
        self.controller = Connected::from_result(reply.result).controller;
        self.enable(wire);
    }

    /// A controller of the volume and one of its I/O queues.
    pub fn pair(wire: &mut impl Wire, digests: Digests) -> (Self, Self) {
        Self::pair_of(wire, digests, "nqn.2026-01.io.fathom:host")
    }

    /// The same for a host of this name.
    pub fn pair_of(wire: &mut impl Wire, digests: Digests, host: &str) -> (Self, Self) {
        let mut admin = Self::open(wire, digests);
        admin.host = nqn(host);
        admin.begin(wire, VOLUME);
        admin.grant_queues(wire);
        let io = admin.io(wire, Qid(1));
        (admin, io)
    }

    /// Asks for four I/O queues.
    ///
    /// # Panics
    ///
    /// When they are not granted.
    pub fn grant_queues(&mut self, wire: &mut impl Wire) {
        let queues = NumberOfQueues { submission: 4, completion: 4 };
        let set = SetFeatures::new(FeatureId::NUMBER_OF_QUEUES, queues.encode());
        let reply = self.command(wire, AdminCommand::SetFeatures(set).entry(), &[]);
        assert_eq!(reply.completion.status, Status::SUCCESS);
        assert_eq!(NumberOfQueues::decode(reply.completion.dword0()), queues);
    }

    /// An I/O queue of this controller.
    pub fn io(&self, wire: &mut impl Wire, qid: Qid) -> Self {
        self.deep_io(wire, qid, 32)
    }

    /// The same with so many entries.
    ///
    /// # Panics
    ///
    /// When it is not admitted.
    pub fn deep_io(&self, wire: &mut impl Wire, qid: Qid, sq_entries: u32) -> Self {
        let mut io = Self::open(wire, self.digests);
        (io.host, io.host_id, io.controller) = (self.host, self.host_id, self.controller);
        let attributes = ConnectAttributes::empty();
        let connect = Connect { qid, sq_entries, attributes, keep_alive_ms: 0 };
        io.send_connect(wire, VOLUME, connect);
        match io.receive(wire).as_slice() {
            [Received::Completion(completion)] => {
                assert_eq!(completion.status, Status::SUCCESS, "queue {qid:?}");
            }
            other => panic!("a Connect was answered with {other:?}"),
        }
        io
    }

    /// Sends a Connect and waits for its answer.
    pub fn connect(
        &mut self,
        wire: &mut impl Wire,
        subsystem: &str,
        qid: Qid,
        keep_alive_ms: u32,
    ) -> Completion {
        let attributes = ConnectAttributes::empty();
        let connect = Connect { qid, sq_entries: 32, attributes, keep_alive_ms };
        self.send_connect(wire, subsystem, connect);
        match self.receive(wire).as_slice() {
            [Received::Completion(completion)] => *completion,
            other => panic!("a Connect was answered with {other:?}"),
        }
    }

    /// Sends a Connect.
    pub fn send_connect(&mut self, wire: &mut impl Wire, subsystem: &str, connect: Connect) {
        let data = ConnectData {
            host_id: self.host_id,
            controller: self.controller,
            subsystem: nqn(subsystem),
            host: self.host,
        };
        let entry = connect.entry().with_sgl(SglDescriptor::in_capsule(1024));
        let cid = self.cid();
        self.send_capsule(wire, entry.with_cid(cid), &data.encode());
    }

    /// Enables the controller.
    pub fn enable(&mut self, wire: &mut impl Wire) {
        let configuration = Configuration {
            enable: true,
            io_submission_entry_size: Configuration::IOSQES,
            io_completion_entry_size: Configuration::IOCQES,
            ..Configuration::DISABLED
        };
        self.configure(wire, configuration);
        assert!(self.status(wire).ready);
    }

    /// Sets the controller's configuration.
    pub fn configure(&mut self, wire: &mut impl Wire, configuration: Configuration) {
        let value = configuration.encode().into();
        let set = PropertySet { size: PropertySize::Four, offset: 0x14, value };
        let reply = self.command(wire, set.entry(), &[]);
        assert_eq!(reply.completion.status, Status::SUCCESS);
    }

    /// The controller's status.
    pub fn status(&mut self, wire: &mut impl Wire) -> ControllerStatus {
        let get = PropertyGet { size: PropertySize::Four, offset: 0x1C };
        let reply = self.command(wire, get.entry(), &[]);
        ControllerStatus::decode(reply.completion.dword0())
    }

    /// A CID that was not used before.
    pub fn cid(&mut self) -> Cid {
        self.next_cid += 1;
        Cid(self.next_cid)
    }

    /// The bytes of a command capsule.
    pub fn capsule(&self, entry: SubmissionEntry, data: &[u8]) -> Vec<u8> {
        let mut header = [0; HEADER_MAX];
        let length = u32::try_from(data.len()).expect("short");
        let head = CapsuleCommand::encode(&entry, length, &self.outbound, &mut header);
        self.with_data(&header[..head], data)
    }

    fn with_data(&self, head: &[u8], data: &[u8]) -> Vec<u8> {
        let mut bytes = head.to_vec();
        bytes.extend_from_slice(data);
        if self.digests.data && !data.is_empty() {
            let mut digest = DataDigest::new();
            digest.update(data);
            bytes.extend_from_slice(&digest.to_bytes());
        }
        bytes
    }

    /// Sends a command capsule.
    pub fn send_capsule(&mut self, wire: &mut impl Wire, entry: SubmissionEntry, data: &[u8]) {
        let bytes = self.capsule(entry, data);
        wire.send(self.id, &bytes);
    }

    /// The bytes of an H2CData.
    pub fn h2c_data(&self, pdu: &H2cData, data: &[u8]) -> Vec<u8> {
        let mut header = [0; HEADER_MAX];
        let head = pdu.encode(&self.outbound, &mut header);
        self.with_data(&header[..head], data)
    }

    /// Sends a command, its data as the target asks for it, and waits for its answer.
    pub fn command(&mut self, wire: &mut impl Wire, entry: SubmissionEntry, data: &[u8]) -> Reply {
        let cid = self.cid();
        self.send_capsule(wire, entry.with_cid(cid), &[]);
        self.finish(wire, cid, data)
    }

    /// The same with its data in the capsule.
    pub fn command_in_capsule(
        &mut self,
        wire: &mut impl Wire,
        entry: SubmissionEntry,
        data: &[u8],
    ) -> Reply {
        let cid = self.cid();
        let sgl = SglDescriptor::in_capsule(u32::try_from(data.len()).expect("short"));
        self.send_capsule(wire, entry.with_cid(cid).with_sgl(sgl), data);
        self.finish(wire, cid, &[])
    }

    /// Receives until command `cid` is answered, and gives `data` to its R2T.
    pub fn finish(&mut self, wire: &mut impl Wire, cid: Cid, data: &[u8]) -> Reply {
        let mut read = Vec::new();
        for _ in 0..3 {
            for received in self.receive(wire) {
                match received {
                    Received::Data(pdu, bytes) => {
                        assert_eq!((pdu.cid, pdu.offset as usize), (cid, read.len()));
                        read.extend(bytes);
                    }
                    Received::R2t(r2t) => {
                        assert_eq!((r2t.cid, r2t.offset), (cid, 0));
                        self.answer_r2t(wire, &r2t, data);
                    }
                    Received::Completion(completion) => {
                        assert_eq!(completion.cid, cid);
                        return Reply { completion, data: read };
                    }
                    Received::Terminated(..) => panic!("the connection was ended"),
                }
            }
        }
        panic!("{cid:?} was not answered");
    }

    /// Sends the data that an R2T asks for, in two pieces if it can be.
    pub fn answer_r2t(&mut self, wire: &mut impl Wire, r2t: &R2t, data: &[u8]) {
        let first = data.len() / 8 * 4;
        let pieces = [(0, &data[..first]), (first, &data[first..])];
        for (offset, piece) in pieces.into_iter().filter(|(_, piece)| !piece.is_empty()) {
            let pdu = H2cData {
                cid: r2t.cid,
                transfer_tag: r2t.transfer_tag,
                offset: u32::try_from(offset).expect("short"),
                length: u32::try_from(piece.len()).expect("short"),
                last: offset + piece.len() == data.len(),
            };
            let bytes = self.h2c_data(&pdu, piece);
            wire.send(self.id, &bytes);
        }
    }

    /// The PDUs that the target has sent.
    pub fn receive(&mut self, wire: &mut impl Wire) -> Vec<Received> {
        let output = wire.receive(self.id);
        let mut rest = output.as_slice();
        let mut received = Vec::new();
        while !rest.is_empty() {
            let frame = self.inbound.frame(rest.first_chunk().expect("a common header"));
            let frame = frame.expect("the target breaks no rule");
            let (pdu, next) = rest.split_at(frame.length());
            frame.check_header(pdu).expect("the header digest is right");
            let data = &pdu[frame.data_offset()..][..frame.data_length() as usize];
            if frame.has_data_digest() {
                let mut digest = DataDigest::new();
                digest.update(data);
                assert_eq!(pdu[pdu.len() - 4..], digest.to_bytes());
            }
            received.push(match frame.kind() {
                PduType::C2hData => {
                    Received::Data(C2hData::decode(&frame, pdu).expect("sound"), data.to_vec())
                }
                PduType::R2t => Received::R2t(R2t::decode(&frame, pdu).expect("sound")),
                PduType::CapsuleResponse => {
                    Received::Completion(CapsuleResponse::decode(&frame, pdu))
                }
                PduType::C2hTerminate => {
                    assert!(pdu.len() <= TERMINATE_MAX);
                    let status = u16::from_le_bytes([pdu[8], pdu[9]]);
                    let information = u32::from_le_bytes([pdu[10], pdu[11], pdu[12], pdu[13]]);
                    Received::Terminated(status, information)
                }
                other => panic!("{other} from a target"),
            });
            rest = next;
        }
        received
    }

    // I/O.

    /// Writes blocks of 4096 bytes.
    pub fn write(&mut self, wire: &mut impl Wire, lba: u64, data: &[u8]) -> Status {
        let entry = NvmCommand::Write(transfer(lba, data.len())).entry(Nsid(1));
        let sgl = SglDescriptor::transport(u32::try_from(data.len()).expect("short"));
        self.command(wire, entry.with_sgl(sgl), data).completion.status
    }

    /// Reads blocks of 4096 bytes.
    pub fn read(&mut self, wire: &mut impl Wire, lba: u64, blocks: u64) -> Reply {
        let bytes = usize::try_from(blocks * 4096).expect("short");
        let entry = NvmCommand::Read(transfer(lba, bytes)).entry(Nsid(1));
        let sgl = SglDescriptor::transport(u32::try_from(bytes).expect("short"));
        self.command(wire, entry.with_sgl(sgl), &[])
    }
}

/// A range of so many bytes in blocks of 4096.
pub fn transfer(lba: u64, bytes: usize) -> Transfer {
    Transfer::new(Range { lba: Lba(lba), blocks: BlockCount((bytes / 4096) as u64) })
}
