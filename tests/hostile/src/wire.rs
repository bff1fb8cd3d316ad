//! What a fuzzer runs on what comes from a connection: a target for each decoder of `node/nvme`.
//!
//! None of it has a checksum to get past, but the header digest of a PDU, which is made right. Each
//! panics when what was decoded does not encode and decode to itself.

use fathom_nvme::{
    Completion, Nqn, SglDescriptor, Status, SubmissionEntry,
    admin::{AdminCommand, GetLogPage, Identify},
    event::AsyncEvent,
    fabrics::{
        self, CONNECT_DATA_SIZE, Connect, ConnectAttributes, ConnectData, FabricsCommand, HostId,
        PropertyGet,
    },
    feature::{HostBehaviorSupport, Timestamp},
    identify::{
        Cns, CommandSetCombination, ControllerList, IDENTIFY_SIZE, IdentifyController,
        IdentifyNamespace, IndependentNamespace, LbaFormat, NamespaceDescriptors, NamespaceList,
        NvmController, NvmNamespace,
    },
    log::{
        AnaGroup, AnaHeader, AnaState, CommandEffects, DISCOVERY_ENTRY_SIZE, DiscoveryEntry,
        DiscoveryHeader, ERROR_ENTRY_SIZE, EffectsLog, ErrorEntry, FeatureEffects, FirmwareSlots,
        Health, LogId, SUPPORTED_LOG_PAGES_SIZE, SupportedLogPages,
    },
    nvm::{DatasetRange, NvmCommand, Range, Transfer},
    property::{Capabilities, Configuration, ControllerStatus, PropertySize},
    tcp::{
        Alignment, C2hData, CapsuleCommand, CapsuleResponse, Digests, H2cData, HEADER_MAX,
        HeaderBuffer, IC_SIZE, Inbound, InitializeRequest, InitializeResponse, Outbound, PduType,
        R2t, Receiver, TERMINATE_MAX, TerminateRequest, header_digest,
    },
};
use fathom_units::{BlockCount, Cid, Cntlid, Lba, Nsid, Qid};

use crate::image::put;

/// The most data of a PDU in these targets, in bytes.
const DATA_MAX: u32 = 1 << 17;

/// `bytes`, cut or filled with zeroes to `N`.
fn sized<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut all = [0; N];
    put(&mut all, 0, &bytes[..bytes.len().min(N)]);
    all
}

// PDUs. The first byte of an input says what was agreed upon and who receives, the second the
// alignment.

fn agreed(options: u8, alignment: u8) -> (Inbound, Outbound) {
    let digests = Digests { header: options & 1 != 0, data: options & 2 != 0 };
    let receiver = if options & 4 == 0 { Receiver::Controller } else { Receiver::Host };
    let alignment = Alignment::from_field(alignment % 32).expect("below 32");
    let inbound =
        Inbound { receiver, digests, alignment, capsule_data_max: 8192, data_max: DATA_MAX };
    (inbound, Outbound { digests, alignment })
}

pub(crate) fn pdu(bytes: &[u8]) {
    let [options, alignment, bytes @ ..] = bytes else { return };
    let (inbound, outbound) = agreed(*options, *alignment);
    let mut header: HeaderBuffer = sized(bytes);
    let frame = match inbound.frame(header.first_chunk().expect("144 bytes")) {
        Ok(frame) => frame,
        Err(violation) => {
            let mut end = [0; TERMINATE_MAX];
            violation.terminate().encode(Receiver::Host, &header, &mut end);
            return;
        }
    };
    assert!(frame.header_end() <= frame.data_offset());
    assert!(frame.data_offset() + frame.data_length() as usize <= frame.length());
    assert!(frame.data_length() <= DATA_MAX);
    let (length, end) = (frame.header_length(), frame.header_end());
    if end > length {
        let digest = header_digest(&header[..length]);
        put(&mut header, length, &digest.to_le_bytes());
    }
    frame.check_header(&header).expect("made right");
    let mut again = [0; HEADER_MAX];
    match frame.kind() {
        PduType::CapsuleCommand => {
            let entry = CapsuleCommand::view(&frame, &header);
            CapsuleCommand::encode(entry, frame.data_length(), &outbound, &mut again);
            assert_eq!(CapsuleCommand::view(&frame, &again), entry);
        }
        PduType::CapsuleResponse => {
            let completion = CapsuleResponse::decode(&frame, &header);
            CapsuleResponse::encode(&completion, &outbound, &mut again);
            assert_eq!(CapsuleResponse::decode(&frame, &again), completion);
        }
        PduType::H2cData => {
            let Ok(data) = H2cData::decode(&frame, &header) else { return };
            data.encode(&outbound, &mut again);
            assert_eq!(H2cData::decode(&frame, &again), Ok(data));
        }
        PduType::C2hData => {
            let Ok(data) = C2hData::decode(&frame, &header) else { return };
            data.encode(&outbound, &mut again);
            assert_eq!(C2hData::decode(&frame, &again), Ok(data));
        }
        PduType::R2t => {
            let Ok(r2t) = R2t::decode(&frame, &header) else { return };
            r2t.encode(&outbound, &mut again);
            assert_eq!(R2t::decode(&frame, &again), Ok(r2t));
        }
        PduType::H2cTerminate | PduType::C2hTerminate => {
            let end = TerminateRequest::decode(&frame, &header);
            let mut pdu = [0; TERMINATE_MAX];
            end.encode(inbound.receiver, &[], &mut pdu);
            assert_eq!(TerminateRequest::decode(&frame, &pdu), end);
            return;
        }
        PduType::InitializeRequest | PduType::InitializeResponse => return initialize(&header),
    }
    let sent = inbound.frame(again.first_chunk().expect("128 bytes")).expect("well made");
    assert_eq!((sent.kind(), sent.data_length()), (frame.kind(), frame.data_length()));
    sent.check_header(&again).expect("well made");
}

pub(crate) fn pdu_seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for options in 0..4u8 {
        for alignment in [0u8, 31] {
            let (_, outbound) = agreed(options, alignment);
            let mut add = |receiver: u8, header: &[u8]| {
                seeds.push([&[options | receiver, alignment], header].concat());
            };
            let mut header = [0; HEADER_MAX];
            let cid = Cid(7);
            for length in [0, 4096] {
                let entry = SubmissionEntry::new(1).with_sgl(SglDescriptor::in_capsule(length));
                CapsuleCommand::encode(&entry, length, &outbound, &mut header);
                add(0, &header);
            }
            let h2c = H2cData { cid, transfer_tag: 1, offset: 0, length: 4096, last: true };
            h2c.encode(&outbound, &mut header);
            add(0, &header);
            let c2h = C2hData { cid, offset: 0, length: 4096, last: true, success: true };
            c2h.encode(&outbound, &mut header);
            add(4, &header);
            R2t { cid, transfer_tag: 1, offset: 0, length: 4096 }.encode(&outbound, &mut header);
            add(4, &header);
            CapsuleResponse::encode(&Completion::success(cid), &outbound, &mut header);
            add(4, &header);
            add(0, &[2, 0, 24, 0, 24, 0, 0, 0, 1, 0]);
            add(4, &[3, 0, 24, 0, 24, 0, 0, 0, 1, 0]);
        }
    }
    seeds.extend(initialize_seeds().into_iter().map(|seed| [&[0, 0], &seed[..]].concat()));
    seeds
}

pub(crate) fn initialize(bytes: &[u8]) {
    let pdu: [u8; IC_SIZE] = sized(bytes);
    if let Ok(request) = InitializeRequest::decode(&pdu) {
        assert_eq!(InitializeRequest::decode(&request.encode()), Ok(request));
    }
    for requested in [false, true] {
        let requested = Digests { header: requested, data: requested };
        if let Ok(response) = InitializeResponse::decode(&pdu, requested) {
            assert_eq!(InitializeResponse::decode(&response.encode(), requested), Ok(response));
        }
    }
}

pub(crate) fn initialize_seeds() -> Vec<Vec<u8>> {
    let digests = Digests { header: true, data: true };
    let request = InitializeRequest { alignment: Alignment::NONE, digests, r2t_max: 1 };
    let response = InitializeResponse { alignment: Alignment::MAX, digests, max_h2c_data: 4096 };
    vec![request.encode().to_vec(), response.encode().to_vec()]
}

// Commands and what they are answered with.

pub(crate) fn command(bytes: &[u8]) {
    let bytes = sized(bytes);
    let entry = SubmissionEntry::view(&bytes);
    let _ = (entry.fuse(), entry.check_psdt(), entry.sgl().data_pointer());
    if let Ok(command) = NvmCommand::parse(entry) {
        assert_eq!(NvmCommand::parse(&command.entry(entry.nsid())), Ok(command));
    }
    if let Ok(command) = AdminCommand::parse(entry) {
        assert_eq!(AdminCommand::parse(&command.entry()), Ok(command));
    }
    let again = match FabricsCommand::parse(entry) {
        Ok(FabricsCommand::Connect(connect)) => connect.entry(),
        Ok(FabricsCommand::PropertyGet(get)) => get.entry(),
        Ok(FabricsCommand::PropertySet(set)) => set.entry(),
        _ => FabricsCommand::disconnect_entry(),
    };
    assert!(FabricsCommand::parse(&again).is_ok());
    let value = entry.cdw_pair::<10>();
    let low = entry.cdw::<10>();
    let _ = (Capabilities::decode(value), Configuration::decode(low).encode());
    let _ = (ControllerStatus::decode(low).encode(), AsyncEvent::decode(low).encode());
    let _ = Timestamp::decode(&value.to_le_bytes()).encode();
    let range = bytes[40..56].first_chunk().expect("16 bytes");
    assert_eq!(DatasetRange::decode(range).encode(), *range);
    let completion = Completion::decode(range);
    assert_eq!(Completion::decode(&completion.encode()), completion);
    let _ = (completion.status.to_string(), fabrics::InvalidParameter::of(&completion));
}

pub(crate) fn command_seeds() -> Vec<Vec<u8>> {
    let range = Range { lba: Lba(1), blocks: BlockCount(8) };
    let connect = Connect {
        qid: Qid(1),
        sq_entries: 128,
        attributes: ConnectAttributes::empty(),
        keep_alive_ms: 5000,
    };
    let identify = Identify::new(Cns::CONTROLLER, Nsid::NONE);
    let get_log = GetLogPage::new(LogId::HEALTH, Nsid::BROADCAST, 512);
    let entries = [
        NvmCommand::Read(Transfer::new(range)).entry(Nsid(1)),
        NvmCommand::Write(Transfer::new(range)).entry(Nsid(1)),
        NvmCommand::Flush.entry(Nsid(1)),
        AdminCommand::Identify(identify).entry(),
        AdminCommand::GetLogPage(get_log).entry(),
        AdminCommand::KeepAlive.entry(),
        connect.entry(),
        PropertyGet { size: PropertySize::Eight, offset: 0 }.entry(),
    ];
    entries.iter().map(|entry| entry.to_bytes().to_vec()).collect()
}

pub(crate) fn connect_data(bytes: &[u8]) {
    let bytes: [u8; CONNECT_DATA_SIZE] = sized(bytes);
    match ConnectData::decode(&bytes) {
        Ok(data) => {
            assert_eq!(ConnectData::decode(&data.encode()), Ok(data));
            let form = Nqn::new(data.host.as_str());
            assert!(form.is_err() || form == Ok(data.host));
        }
        Err(error) => {
            let completion = error.completion(Cid(0));
            assert_eq!(completion.status, Status::CONNECT_INVALID_PARAMETERS);
        }
    }
}

pub(crate) fn connect_data_seeds() -> Vec<Vec<u8>> {
    let data = ConnectData {
        host_id: HostId([7; 16]),
        controller: Cntlid::DYNAMIC,
        subsystem: Nqn::discovery(),
        host: Nqn::new("nqn.2024-12.io.fathom:host").expect("has the form"),
    };
    vec![data.encode().to_vec()]
}

// Structures that Identify returns.

pub(crate) fn identify_controller(bytes: &[u8]) {
    let bytes: [u8; IDENTIFY_SIZE] = sized(bytes);
    let Ok(controller) = IdentifyController::decode(&bytes) else { return };
    assert_eq!(IdentifyController::decode(&controller.encode()), Ok(controller));
    let _ = (controller.max_transfer_bytes(15), controller.capsule_data_bytes());
    let _ = format!("{controller:?}");
}

pub(crate) fn identify_controller_seeds() -> Vec<Vec<u8>> {
    let mut bytes = [0; IDENTIFY_SIZE];
    put(&mut bytes, 512, &[0x66, 0x44]);
    put(&mut bytes, 768, b"nqn.2014-08.org.nvmexpress.discovery");
    put(&mut bytes, 1792, &[4, 0, 0, 0, 1, 0, 0, 0]);
    vec![bytes.to_vec()]
}

pub(crate) fn identify_namespace(bytes: &[u8]) {
    let bytes: [u8; IDENTIFY_SIZE] = sized(bytes);
    let Ok(namespace) = IdentifyNamespace::decode(&bytes) else { return };
    assert_eq!(IdentifyNamespace::decode(&namespace.encode()), Ok(namespace));
    assert!(namespace.format.block_size() >= 512);
}

pub(crate) fn identify_namespace_seeds() -> Vec<Vec<u8>> {
    let mut bytes = IdentifyNamespace::INACTIVE;
    bytes[0] = 8;
    bytes[130] = LbaFormat::of(12).block_size_log2;
    vec![bytes.to_vec()]
}

pub(crate) fn identify_lists(bytes: &[u8]) {
    let bytes: [u8; IDENTIFY_SIZE] = sized(bytes);
    if let Ok(list) = NamespaceList::view(&bytes) {
        let again = NamespaceList::encode(list.nsids());
        assert!(NamespaceList::view(&again).is_ok_and(|again| again.nsids().eq(list.nsids())));
    }
    if let Ok(list) = ControllerList::view(&bytes) {
        let again = ControllerList::encode(list.controllers());
        let again = ControllerList::view(&again).expect("it increases");
        assert!(again.controllers().eq(list.controllers()));
    }
    if let Ok(descriptors) = NamespaceDescriptors::decode(&bytes) {
        assert_eq!(NamespaceDescriptors::decode(&descriptors.encode()), Ok(descriptors));
    }
    let sets = CommandSetCombination::decode_all(&bytes).expect("4096 bytes").count();
    assert!(sets <= IDENTIFY_SIZE / 8);
}

pub(crate) fn identify_lists_seeds() -> Vec<Vec<u8>> {
    let descriptors = NamespaceDescriptors {
        eui64: Some([1; 8]),
        nguid: Some([2; 16]),
        uuid: Some([3; 16]),
        command_set: Some(0),
    };
    vec![
        NamespaceList::encode((1..5).map(Nsid)).to_vec(),
        ControllerList::encode((1..5).map(Cntlid)).to_vec(),
        descriptors.encode().to_vec(),
        CommandSetCombination::encode_all(&[CommandSetCombination::NVM]).to_vec(),
    ]
}

pub(crate) fn identify_command_set(bytes: &[u8]) {
    let bytes: [u8; IDENTIFY_SIZE] = sized(bytes);
    let controller = NvmController::decode(&bytes).expect("4096 bytes");
    assert_eq!(NvmController::decode(&controller.encode()), Ok(controller));
    let namespace = NvmNamespace::decode(&bytes).expect("4096 bytes");
    assert_eq!(NvmNamespace::decode(&namespace.encode()), Ok(namespace));
    let namespace = IndependentNamespace::decode(&bytes).expect("4096 bytes");
    assert_eq!(IndependentNamespace::decode(&namespace.encode()), Ok(namespace));
}

pub(crate) fn identify_command_set_seeds() -> Vec<Vec<u8>> {
    vec![(0..=255).collect(), vec![0; 24]]
}

// Log pages and data of features.

pub(crate) fn log_discovery(bytes: &[u8]) {
    if let Ok(header) = DiscoveryHeader::decode(bytes) {
        assert_eq!(DiscoveryHeader::decode(&header.encode()), Ok(header));
    }
    let entry: [u8; DISCOVERY_ENTRY_SIZE] = sized(bytes);
    let Ok(entry) = DiscoveryEntry::decode(&entry) else { return };
    assert_eq!(DiscoveryEntry::decode(&entry.encode()), Ok(entry));
}

pub(crate) fn log_discovery_seeds() -> Vec<Vec<u8>> {
    let mut entry = vec![0; DISCOVERY_ENTRY_SIZE];
    put(&mut entry, 0, &[3, 1, 2, 0, 1, 0, 0xFF, 0xFF, 32, 0, 0, 0]);
    put(&mut entry, 32, b"4420");
    put(&mut entry, 256, b"nqn.2014-08.org.nvmexpress.discovery");
    put(&mut entry, 512, b"127.0.0.1");
    vec![entry, DiscoveryHeader { generation: 1, entries: 2 }.encode().to_vec()]
}

pub(crate) fn log_ana(bytes: &[u8]) {
    let Ok((header, mut rest)) = AnaHeader::decode(bytes) else { return };
    assert_eq!(AnaHeader::decode(&header.encode()).map(|(header, _)| header), Ok(header));
    while let Ok((group, nsids, after)) = AnaGroup::decode(rest) {
        let mut again = group.encode().to_vec();
        again.extend(nsids.flat_map(AnaGroup::encode_nsid));
        assert_eq!(again.len() + after.len(), rest.len());
        assert_eq!(AnaGroup::decode(&again).map(|(group, ..)| group), Ok(group));
        rest = after;
    }
}

pub(crate) fn log_ana_seeds() -> Vec<Vec<u8>> {
    let group = AnaGroup { id: 1, namespaces: 1, changes: 1, state: AnaState::Optimized };
    let header = AnaHeader { changes: 1, groups: 1 };
    let nsid = AnaGroup::encode_nsid(Nsid(1));
    vec![[&header.encode()[..], &group.encode(), &nsid].concat()]
}

pub(crate) fn log_pages(bytes: &[u8]) {
    let error: [u8; ERROR_ENTRY_SIZE] = sized(bytes);
    if let Some(error) = ErrorEntry::decode(&error) {
        assert_eq!(ErrorEntry::decode(&error.encode()), Some(error));
    }
    let page: [u8; Health::SIZE] = sized(bytes);
    let health = Health::decode(&page).expect("512 bytes");
    let again = Health::decode(&health.encode()).expect("512 bytes");
    assert_eq!(again.warning, health.warning);
    let slots = FirmwareSlots::decode(&page).expect("512 bytes");
    if slots.active > 0 {
        assert_eq!(FirmwareSlots::decode(&slots.encode()), Ok(slots));
    }
    let page: [u8; SUPPORTED_LOG_PAGES_SIZE] = sized(bytes);
    let supported = SupportedLogPages::decode(&page).expect("1024 bytes");
    let features = FeatureEffects::decode(&page).expect("1024 bytes");
    let page: [u8; CommandEffects::SIZE] = sized(bytes);
    let effects = EffectsLog::decode(&page).expect("4096 bytes");
    for number in 0..=255 {
        let _ = (supported.support(LogId(number)), effects.admin(number), effects.io(number));
        let _ = features.effect(fathom_nvme::feature::FeatureId(number));
    }
}

pub(crate) fn log_pages_seeds() -> Vec<Vec<u8>> {
    vec![vec![1; CommandEffects::SIZE], vec![0xFF; ERROR_ENTRY_SIZE]]
}

pub(crate) fn feature_data(bytes: &[u8]) {
    let Some(support) = HostBehaviorSupport::decode(&sized(bytes)) else { return };
    assert_eq!(HostBehaviorSupport::decode(&support.encode()), Some(support));
}

pub(crate) fn feature_data_seeds() -> Vec<Vec<u8>> {
    vec![vec![1, 0, 1, 0, 4, 0]]
}
