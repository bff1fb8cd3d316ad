//! A controller by the book, without any shortcut to the host: bytes in, bytes out.

use std::collections::{HashMap, VecDeque};

use fathom_nvme::{
    Completion, Nqn, Status, SubmissionEntry,
    admin::AdminCommand,
    event::AsyncEvent,
    fabrics::{self, AuthenticationRequirements, ConnectData, Connected, FabricsCommand},
    feature::{FeatureId, NumberOfQueues},
    identify::{
        AdminCommands, AnaCapabilities, Ascii, AsyncEventsSupported, Cns, ControllerAttributes,
        ControllerType, DeallocateFeatures, Fuses, IdentifyController, IdentifyNamespace,
        IoCommands, LbaFormat, LogPageAttributes, MultiPath, NamespaceDescriptors,
        NamespaceFeatures, NamespaceList, NamespaceSharing, NvmController, SglSupport, WriteCache,
    },
    log::{AnaGroup, AnaHeader, AnaState, DiscoveryEntry, DiscoveryHeader, LogId},
    nvm::{DatasetRange, NvmCommand},
    property::{
        Capabilities, CommandSets, Configuration, ControllerStatus, Property, ShutdownNotification,
        ShutdownStatus, Version,
    },
    sgl::DataPointer,
    tcp::{
        Alignment, C2hData, CapsuleCommand, CapsuleResponse, DataDigest, Digests, Frame, H2cData,
        HEADER_MAX, Inbound, InitializeRequest, InitializeResponse, Outbound, PduType, R2t,
        Receiver, TerminateRequest,
    },
};
use fathom_units::{BlockCount, Cid, Cntlid, Nsid};

use crate::ConnectionId;

const BLOCK: usize = 4096;

/// What a test makes of a command instead of what is right: bytes to say, and whether that is all.
type Hook = Box<dyn FnMut(&SubmissionEntry, &Outbound) -> Option<Vec<u8>>>;

struct Line {
    inbound: Inbound,
    outbound: Outbound,
    bytes: Vec<u8>,
    writes: HashMap<u16, Transfer>,
}

/// A write whose data is on its way.
struct Transfer {
    entry: SubmissionEntry,
    data: Vec<u8>,
    asked: usize,
    total: usize,
}

pub(super) struct Peer {
    pub(super) said: VecDeque<(ConnectionId, Vec<u8>)>,
    pub(super) medium: Vec<u8>,
    pub(super) identity: IdentifyController,
    pub(super) namespace: IdentifyNamespace,
    pub(super) uuid: [u8; 16],
    pub(super) capabilities: Capabilities,
    pub(super) digests: Digests,
    pub(super) alignment: Alignment,
    pub(super) max_h2c_data: u32,
    pub(super) r2t_bytes: usize,
    pub(super) c2h_bytes: usize,
    pub(super) success: bool,
    pub(super) polls_until_ready: u32,
    pub(super) connect_status: Status,
    pub(super) authentication: AuthenticationRequirements,
    pub(super) refuse_connections: bool,
    pub(super) silent: bool,
    /// Looks at nothing any more.
    pub(super) deaf: bool,
    pub(super) entries: Vec<DiscoveryEntry>,
    pub(super) generations: VecDeque<u64>,
    pub(super) ana: AnaState,
    /// I/O commands that were executed, in order.
    pub(super) executed: Vec<NvmCommand>,
    pub(super) admin: Vec<AdminCommand>,
    pub(super) terminated: Option<TerminateRequest>,
    pub(super) hook: Option<Hook>,
    /// I/O commands that are held back instead of being executed.
    pub(super) hold: bool,
    pub(super) held: Vec<(ConnectionId, SubmissionEntry, Vec<u8>)>,
    events: Vec<(ConnectionId, Cid)>,
    configuration: Configuration,
    lines: HashMap<ConnectionId, Line>,
    fused: Option<(SubmissionEntry, Vec<u8>)>,
}

fn subsystem() -> Nqn {
    Nqn::new("nqn.2024-12.io.fathom:volume").expect("a name")
}

fn identity() -> IdentifyController {
    IdentifyController {
        vendor: 0,
        subsystem_vendor: 0,
        serial: Ascii::new("1").expect("ASCII"),
        model: Ascii::new("peer").expect("ASCII"),
        firmware: Ascii::new("1").expect("ASCII"),
        arbitration_burst: 0,
        ieee_oui: [0; 3],
        multi_path: MultiPath::ANA,
        max_data_transfer: 5,
        controller: Cntlid(5),
        version: Version::V2_1,
        events: AsyncEventsSupported::all(),
        attributes: ControllerAttributes::HOST_IDENTIFIER_128,
        controller_type: ControllerType::Io,
        retry_delays: [0; 3],
        admin_commands: AdminCommands::empty(),
        abort_limit: 1,
        event_request_limit: 4,
        firmware_updates: 0,
        log_pages: LogPageAttributes::EXTENDED_DATA,
        error_log_entries: 1,
        warning_temperature: 0,
        critical_temperature: 0,
        total_capacity: 0,
        unallocated_capacity: 0,
        keep_alive_granularity_ms: 1000,
        ana_transition_s: 10,
        ana: AnaCapabilities::OPTIMIZED,
        ana_group_max: 1,
        ana_groups: 1,
        domain: 0,
        max_commands: 0,
        namespaces: 1,
        io_commands: IoCommands::COMPARE
            | IoCommands::WRITE_ZEROES
            | IoCommands::DATASET_MANAGEMENT,
        fuses: Fuses::COMPARE_AND_WRITE,
        write_cache: WriteCache { present: true, flush_broadcast: 0 },
        atomic_write_normal: 1,
        atomic_write_power_fail: 1,
        atomic_compare_write: 2,
        write_protection: 0,
        sgls: SglSupport::SUPPORTED,
        max_namespaces: 1,
        subsystem: subsystem(),
        io_capsule_bytes: 64 + 8192,
        io_response_bytes: 16,
        capsule_data_offset: 0,
        static_controllers: false,
        max_sgl_descriptors: 1,
        disconnect: false,
        discovery_type: 0,
    }
}

impl Peer {
    /// A controller with a namespace of so many blocks.
    pub(super) fn new(blocks: usize) -> Self {
        let size = BlockCount(blocks as u64);
        Self {
            said: VecDeque::new(),
            medium: vec![0; blocks * BLOCK],
            identity: identity(),
            namespace: IdentifyNamespace {
                size,
                capacity: size,
                utilization: size,
                features: NamespaceFeatures::empty(),
                sharing: NamespaceSharing::SHARED,
                reservations: 0,
                deallocate: DeallocateFeatures::READ_ZEROES
                    | DeallocateFeatures::WRITE_ZEROES_DEALLOCATES,
                atomicity: None,
                io_boundary: 0,
                capacity_bytes: 0,
                preferred: None,
                ana_group: 1,
                write_protected: false,
                nguid: [9; 16],
                eui64: [0; 8],
                format: LbaFormat::of(12),
            },
            uuid: [3; 16],
            capabilities: Capabilities {
                queue_entries_max: 128,
                contiguous_queues: true,
                arbitration: 0,
                timeout_ms: 7500,
                subsystem_reset: false,
                command_sets: CommandSets::NVM,
                page_size_min: 0,
                page_size_max: 0,
                ready_modes: 0,
            },
            digests: Digests { header: true, data: true },
            alignment: Alignment::NONE,
            max_h2c_data: 131_072,
            r2t_bytes: usize::MAX,
            c2h_bytes: usize::MAX,
            success: true,
            polls_until_ready: 0,
            connect_status: Status::SUCCESS,
            authentication: AuthenticationRequirements::empty(),
            refuse_connections: false,
            silent: false,
            deaf: false,
            entries: Vec::new(),
            generations: VecDeque::new(),
            ana: AnaState::Optimized,
            executed: Vec::new(),
            admin: Vec::new(),
            terminated: None,
            hook: None,
            hold: false,
            held: Vec::new(),
            events: Vec::new(),
            configuration: Configuration::DISABLED,
            lines: HashMap::new(),
            fused: None,
        }
    }

    pub(super) fn opened(&mut self, connection: ConnectionId) -> bool {
        if self.refuse_connections {
            return false;
        }
        let line = Line {
            inbound: Inbound::before_initialize(Receiver::Controller),
            outbound: Outbound { digests: Digests::default(), alignment: Alignment::NONE },
            bytes: Vec::new(),
            writes: HashMap::new(),
        };
        assert!(self.lines.insert(connection, line).is_none(), "a connection is opened once");
        true
    }

    pub(super) fn closed(&mut self, connection: ConnectionId) {
        self.lines.remove(&connection);
        self.events.retain(|(other, _)| *other != connection);
    }

    pub(super) fn say(&mut self, connection: ConnectionId, bytes: &[u8]) {
        self.said.push_back((connection, bytes.to_vec()));
    }

    /// Tells an event to a host that has asked for one.
    pub(super) fn tell(&mut self, event: AsyncEvent) {
        let (connection, cid) = self.events.pop().expect("the host asks for events");
        let completion = Completion { result: event.encode().into(), ..Completion::success(cid) };
        self.complete(connection, &completion);
    }

    /// Executes what was held back.
    pub(super) fn let_go(&mut self) {
        self.hold = false;
        for (connection, entry, data) in std::mem::take(&mut self.held) {
            self.execute(connection, &entry, &data);
        }
    }

    pub(super) fn receive(&mut self, connection: ConnectionId, bytes: &[u8]) {
        let Some(line) = self.lines.get_mut(&connection).filter(|_| !self.deaf) else { return };
        line.bytes.extend(bytes);
        loop {
            let Some(line) = self.lines.get_mut(&connection) else { return };
            let Some(common) = line.bytes.first_chunk() else { return };
            let frame = line.inbound.frame(common).expect("the host keeps to the rules");
            if line.bytes.len() < frame.length() {
                return;
            }
            let pdu: Vec<u8> = line.bytes.drain(..frame.length()).collect();
            frame.check_header(&pdu).expect("a right header digest");
            let data = &pdu[frame.data_offset()..][..frame.data_length() as usize];
            if frame.has_data_digest() {
                let mut digest = DataDigest::new();
                digest.update(data);
                assert_eq!(pdu[pdu.len() - 4..], digest.to_bytes());
            }
            self.take(connection, &frame, &pdu, data);
        }
    }

    fn take(&mut self, connection: ConnectionId, frame: &Frame, pdu: &[u8], data: &[u8]) {
        let line = self.lines.get_mut(&connection).expect("just seen");
        match frame.kind() {
            PduType::InitializeRequest => {
                let request = InitializeRequest::decode(pdu.first_chunk().expect("128 bytes"));
                let request = request.expect("a good ICReq");
                assert_eq!(request.r2t_max, 1);
                let digests = Digests {
                    header: request.digests.header && self.digests.header,
                    data: request.digests.data && self.digests.data,
                };
                line.inbound = Inbound {
                    receiver: Receiver::Controller,
                    digests,
                    alignment: self.alignment,
                    capsule_data_max: 8192,
                    data_max: self.max_h2c_data,
                };
                line.outbound = Outbound { digests, alignment: request.alignment };
                let (alignment, max_h2c_data) = (self.alignment, self.max_h2c_data);
                let response = InitializeResponse { alignment, digests, max_h2c_data };
                if !self.silent {
                    self.say(connection, &response.encode());
                }
            }
            PduType::CapsuleCommand => {
                let entry = *CapsuleCommand::view(frame, pdu);
                entry.check_psdt().expect("SGLs");
                match entry.sgl().data_pointer().expect("one of two kinds") {
                    DataPointer::InCapsule { offset, length } => {
                        assert_eq!((offset, length as usize), (0, data.len()));
                        self.command(connection, &entry, data);
                    }
                    DataPointer::Transport { length } => {
                        let is_write = entry.opcode() & 1 == 1 && entry.opcode() != fabrics::OPCODE;
                        if is_write && length > 0 {
                            let total = length as usize;
                            let transfer = Transfer { entry, data: Vec::new(), asked: 0, total };
                            line.writes.insert(entry.cid().0, transfer);
                            self.ask(connection, entry.cid());
                        } else {
                            self.command(connection, &entry, &[]);
                        }
                    }
                }
            }
            PduType::H2cData => {
                let part = H2cData::decode(frame, pdu).expect("a good H2CData");
                let transfer = line.writes.get_mut(&part.cid.0).expect("asked for");
                assert_eq!(part.transfer_tag, !part.cid.0);
                assert_eq!(part.offset as usize, transfer.data.len());
                transfer.data.extend(data);
                assert_eq!(part.last, transfer.data.len() == transfer.asked);
                if transfer.data.len() == transfer.total {
                    let transfer = line.writes.remove(&part.cid.0).expect("just seen");
                    self.command(connection, &transfer.entry, &transfer.data);
                } else if part.last {
                    self.ask(connection, part.cid);
                }
            }
            PduType::H2cTerminate => self.terminated = Some(TerminateRequest::decode(frame, pdu)),
            kind => panic!("{kind} from a host"),
        }
    }

    fn ask(&mut self, connection: ConnectionId, cid: Cid) {
        let line = self.lines.get_mut(&connection).expect("open");
        let transfer = line.writes.get_mut(&cid.0).expect("a write");
        let (length, offset) =
            ((transfer.total - transfer.asked).min(self.r2t_bytes), transfer.asked);
        transfer.asked += length;
        let r2t = R2t {
            cid,
            transfer_tag: !cid.0,
            offset: u32::try_from(offset).expect("small"),
            length: u32::try_from(length).expect("small"),
        };
        let mut header = [0; HEADER_MAX];
        let length = r2t.encode(&line.outbound, &mut header);
        let bytes = header[..length].to_vec();
        if let Some(hook) = &mut self.hook
            && let Some(bytes) = hook(&transfer.entry, &line.outbound)
        {
            return self.say(connection, &bytes);
        }
        self.say(connection, &bytes);
    }

    pub(super) fn complete(&mut self, connection: ConnectionId, completion: &Completion) {
        let Some(line) = self.lines.get(&connection) else { return };
        let mut header = [0; HEADER_MAX];
        let length = CapsuleResponse::encode(completion, &line.outbound, &mut header);
        self.say(connection, &header[..length]);
    }

    fn return_data(&mut self, connection: ConnectionId, entry: &SubmissionEntry, data: &[u8]) {
        let Some(line) = self.lines.get(&connection) else { return };
        let length = entry.sgl().data_pointer().expect("checked").length() as usize;
        let data = &data[..length];
        let mut bytes = Vec::new();
        let mut offset = 0;
        for part in data.chunks(self.c2h_bytes) {
            let end = offset + part.len() == data.len();
            let pdu = C2hData {
                cid: entry.cid(),
                offset: u32::try_from(offset).expect("small"),
                length: u32::try_from(part.len()).expect("small"),
                last: end,
                success: end && self.success,
            };
            offset += part.len();
            bytes.extend(c2h(&pdu, part, &line.outbound));
        }
        self.say(connection, &bytes);
        if !self.success {
            self.complete(connection, &Completion::success(entry.cid()));
        }
    }

    fn command(&mut self, connection: ConnectionId, entry: &SubmissionEntry, data: &[u8]) {
        if self.silent {
            return;
        }
        if entry.opcode() == fabrics::OPCODE {
            self.fabrics(connection, entry, data);
        } else if connection.queue.is_admin() {
            self.admin(connection, entry);
        } else if self.hold {
            self.held.push((connection, *entry, data.to_vec()));
        } else {
            let outbound = self.lines[&connection].outbound;
            if let Some(hook) = &mut self.hook
                && let Some(bytes) = hook(entry, &outbound)
            {
                return self.say(connection, &bytes);
            }
            self.execute(connection, entry, data);
        }
    }

    fn fabrics(&mut self, connection: ConnectionId, entry: &SubmissionEntry, data: &[u8]) {
        let mut completion = Completion::success(entry.cid());
        match FabricsCommand::parse(entry).expect("a good command") {
            FabricsCommand::Connect(connect) => {
                let data = ConnectData::decode(data.first_chunk().expect("1024 bytes"));
                let data = data.expect("good names");
                assert_eq!(connect.qid, connection.queue);
                assert_eq!(data.subsystem, subsystem());
                assert_eq!(connect.keep_alive_ms > 0, connection.queue.is_admin());
                let expected = if connect.qid.is_admin() { Cntlid::DYNAMIC } else { Cntlid(5) };
                assert_eq!(data.controller, expected);
                completion.status = self.connect_status;
                let connected =
                    Connected { controller: Cntlid(5), authentication: self.authentication };
                completion.result = connected.to_result();
                if !completion.status.is_success() {
                    completion.result = 0x0001_0100;
                }
            }
            FabricsCommand::PropertyGet(get) => {
                completion.result = match Property::at(get.offset).expect("a property") {
                    Property::Capabilities => self.capabilities.encode(),
                    Property::Status => {
                        let ready = self.polls_until_ready == 0;
                        self.polls_until_ready = self.polls_until_ready.saturating_sub(1);
                        let shutdown = match self.configuration.shutdown {
                            ShutdownNotification::None => ShutdownStatus::Normal,
                            _ => ShutdownStatus::Complete,
                        };
                        let status =
                            ControllerStatus { ready, shutdown, ..ControllerStatus::RESET };
                        status.encode().into()
                    }
                    property => panic!("{property:?} is read"),
                };
            }
            FabricsCommand::PropertySet(set) => {
                assert_eq!(Property::at(set.offset), Some(Property::Configuration));
                let value = u32::try_from(set.value).expect("4 bytes");
                self.configuration = Configuration::decode(value);
                assert!(self.configuration.enable);
                assert_eq!(self.configuration.io_submission_entry_size, 6);
            }
            other => panic!("{other:?}"),
        }
        self.complete(connection, &completion);
    }

    fn admin(&mut self, connection: ConnectionId, entry: &SubmissionEntry) {
        let command = AdminCommand::parse(entry).expect("a good command");
        self.admin.push(command);
        match command {
            AdminCommand::AsyncEventRequest => {
                self.events.push((connection, entry.cid()));
                return;
            }
            AdminCommand::Identify(identify) => {
                let data = match identify.cns {
                    Cns::CONTROLLER => self.identity.encode(),
                    Cns::NAMESPACE => self.namespace.encode(),
                    Cns::NAMESPACE_DESCRIPTORS => {
                        let uuid = Some(self.uuid);
                        NamespaceDescriptors { uuid, ..Default::default() }.encode()
                    }
                    Cns::CONTROLLER_OF_COMMAND_SET => NvmController::default().encode(),
                    cns => panic!("{cns:?}"),
                };
                return self.return_data(connection, entry, &data);
            }
            AdminCommand::GetLogPage(get) => {
                let data = self.log(&get);
                return self.return_data(connection, entry, &data);
            }
            _ => {}
        }
        let mut completion = Completion::success(entry.cid());
        if let AdminCommand::SetFeatures(set) = command
            && set.feature == FeatureId::NUMBER_OF_QUEUES
        {
            let asked = NumberOfQueues::decode(set.cdw11);
            let most = |queues: u32| queues.min(4);
            let given = NumberOfQueues { submission: most(asked.submission), completion: 8 };
            completion.result = given.encode().into();
        }
        self.complete(connection, &completion);
    }

    fn log(&mut self, get: &fathom_nvme::admin::GetLogPage) -> Vec<u8> {
        let fathom_nvme::admin::LogOffset::Bytes(offset) = get.offset else { panic!("by bytes") };
        let mut page = match get.page {
            LogId::CHANGED_NAMESPACES => NamespaceList::encode([Nsid(1)]).to_vec(),
            LogId::ANA => {
                let header = AnaHeader { changes: 1, groups: 1 };
                let group = AnaGroup { id: 1, namespaces: 1, changes: 1, state: self.ana };
                [&header.encode()[..], &group.encode(), &AnaGroup::encode_nsid(Nsid(1))].concat()
            }
            LogId::DISCOVERY => {
                let entries = self.entries.len() as u64;
                let generation = match self.generations.len() {
                    0 => 1,
                    1 => self.generations[0],
                    _ if offset == 0 => self.generations.pop_front().expect("several"),
                    _ => self.generations[0],
                };
                let mut page = DiscoveryHeader { generation, entries }.encode().to_vec();
                page.extend(self.entries.iter().flat_map(DiscoveryEntry::encode));
                page
            }
            page => panic!("{page:?}"),
        };
        let start = usize::try_from(offset).expect("small");
        let end = start + usize::try_from(get.length).expect("small");
        page.resize(page.len().max(end), 0);
        page[start..end].to_vec()
    }

    fn execute(&mut self, connection: ConnectionId, entry: &SubmissionEntry, data: &[u8]) {
        let command = NvmCommand::parse(entry).expect("a good command");
        self.executed.push(command);
        let fuse = entry.fuse().expect("a good fuse");
        let range = |range: fathom_nvme::nvm::Range| {
            let start = usize::try_from(range.lba.0).expect("small") * BLOCK;
            start..start + usize::try_from(range.blocks.0).expect("small") * BLOCK
        };
        let mut status = Status::SUCCESS;
        match command {
            NvmCommand::Read(read) => {
                let data = self.medium[range(read.range)].to_vec();
                return self.return_data(connection, entry, &data);
            }
            NvmCommand::Compare(_) if fuse == fathom_nvme::submission::Fuse::First => {
                self.fused = Some((*entry, data.to_vec()));
                return;
            }
            NvmCommand::Compare(compare) => {
                if self.medium[range(compare.range)] != *data {
                    status = Status::COMPARE_FAILURE;
                }
            }
            NvmCommand::Write(write) => {
                if fuse == fathom_nvme::submission::Fuse::Second {
                    let (first, expected) = self.fused.take().expect("Compare came before");
                    let equal = self.medium[range(write.range)] == expected;
                    let (one, two) = if equal {
                        (Status::SUCCESS, Status::SUCCESS)
                    } else {
                        (Status::COMPARE_FAILURE, Status::ABORTED_FAILED_FUSED)
                    };
                    self.complete(connection, &Completion::with_status(first.cid(), one));
                    status = two;
                }
                if status.is_success() {
                    self.medium[range(write.range)].copy_from_slice(data);
                }
            }
            NvmCommand::WriteZeroes(zeroes) => self.medium[range(zeroes.range)].fill(0),
            NvmCommand::DatasetManagement(_) => {
                let part = DatasetRange::decode(data.first_chunk().expect("a range"));
                let blocks = fathom_nvme::nvm::Range { lba: part.lba, blocks: part.blocks };
                self.medium[range(blocks)].fill(0);
            }
            NvmCommand::Flush => {}
            other => panic!("{other:?}"),
        }
        self.complete(connection, &Completion::with_status(entry.cid(), status));
    }
}

/// A C2HData with its data.
pub(super) fn c2h(pdu: &C2hData, data: &[u8], outbound: &Outbound) -> Vec<u8> {
    let mut header = [0; HEADER_MAX];
    let length = pdu.encode(outbound, &mut header);
    let mut bytes = header[..length].to_vec();
    bytes.extend(data);
    if outbound.digests.data {
        let mut digest = DataDigest::new();
        digest.update(data);
        bytes.extend(digest.to_bytes());
    }
    bytes
}
