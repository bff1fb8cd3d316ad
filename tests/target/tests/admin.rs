//! Admin commands: what a controller says of itself, its namespaces and its events.

use fathom_nvme::{
    Status, SubmissionEntry,
    admin::{AdminCommand, GetFeatures, GetLogPage, Identify, LogOffset, Select, SetFeatures},
    event::AsyncEvent,
    fabrics::{PropertyGet, PropertySet},
    feature::{AsyncEventConfiguration, FeatureId, KeepAliveTimer},
    identify::{
        Cns, ControllerList, ControllerType, IdentifyController, IdentifyNamespace,
        NamespaceDescriptors, NamespaceList,
    },
    log::{
        AnaGroup, AnaHeader, AnaState, DISCOVERY_ENTRY_SIZE, DISCOVERY_HEADER_SIZE, DiscoveryEntry,
        DiscoveryHeader, FirmwareSlots, Health, LogId,
    },
    nqn::Nqn,
    nvm::NvmCommand,
    property::{Capabilities, Configuration, PropertySize, ReadyTimeouts, Version},
    sgl::SglDescriptor,
    tcp::Digests,
};
use fathom_target::{
    export::{Hosts, Subsystem},
    target::ExportError,
};
use fathom_test_target::{
    host::{Host, Received, Reply},
    rig::{BLOCKS, Rig, VOLUME, nqn, volume},
};
use fathom_units::{BlockCount, Cntlid, Nsid, Qid};

const DISCOVERY: &str = "nqn.2014-08.org.nvmexpress.discovery";

fn ask(rig: &mut Rig, host: &mut Host, command: AdminCommand, room: u32) -> Reply {
    host.command(rig, command.entry().with_sgl(SglDescriptor::transport(room)), &[])
}

fn identify(rig: &mut Rig, host: &mut Host, cns: Cns, nsid: u32) -> Reply {
    ask(rig, host, AdminCommand::Identify(Identify::new(cns, Nsid(nsid))), 4096)
}

fn log_page(rig: &mut Rig, host: &mut Host, page: LogId, length: u64) -> Reply {
    let command = AdminCommand::GetLogPage(GetLogPage::new(page, Nsid::BROADCAST, length));
    ask(rig, host, command, u32::try_from(length).expect("short"))
}

#[test]
fn a_controller_says_what_is_true_of_it() {
    let mut rig = Rig::new();
    let mut host = Host::admin(&mut rig);
    let reply = identify(&mut rig, &mut host, Cns::CONTROLLER, 0);
    let found = IdentifyController::decode(&reply.data).expect("it is sound");
    assert_eq!(found.controller, host.controller);
    assert_eq!(found.controller_type, ControllerType::Io);
    assert_eq!((found.serial.as_str(), found.model.as_str()), ("FATHOM-0001", "Fathom"));
    assert_eq!(found.subsystem, nqn(VOLUME));
    assert_eq!(found.max_transfer_bytes(0), Some(rig.limits.transfer_bytes_max.into()));
    assert_eq!(found.capsule_data_bytes(), rig.limits.capsule_bytes_max);
    assert_eq!(found.namespaces, 1);
    assert!(found.write_cache.present && found.disconnect);
    assert_eq!(found.atomic_write_power_fail, 1);
}

#[test]
fn without_a_write_cache_none_is_reported() {
    let mut rig = Rig::with(fathom_target::connection::Limits::default());
    let mut subsystem = volume();
    subsystem.namespaces[0].write_cache = false;
    rig.target.export(subsystem).expect("it is new");
    let mut host = Host::admin(&mut rig);
    let reply = identify(&mut rig, &mut host, Cns::CONTROLLER, 0);
    let found = IdentifyController::decode(&reply.data).expect("it is sound");
    assert!(!found.write_cache.present);
    let get = GetFeatures {
        feature: FeatureId::VOLATILE_WRITE_CACHE,
        select: Select::Current,
        nsid: Nsid::NONE,
        cdw11: 0,
    };
    let reply = ask(&mut rig, &mut host, AdminCommand::GetFeatures(get), 0);
    assert_eq!(reply.completion.status, Status::INVALID_FIELD.do_not_retry());
}

#[test]
fn a_namespace_says_what_is_true_of_it() {
    let mut rig = Rig::new();
    let mut host = Host::admin(&mut rig);
    let reply = identify(&mut rig, &mut host, Cns::NAMESPACE, 1);
    let found = IdentifyNamespace::decode(&reply.data).expect("it is sound");
    assert_eq!(found.size, BlockCount(BLOCKS));
    assert_eq!(found.format.block_size(), 4096);
    assert_eq!(found.ana_group, 1);
    let preferred = found.preferred.expect("it is told");
    assert_eq!((preferred.write_granularity, preferred.deallocate_granularity), (1, 256));
    let reply = identify(&mut rig, &mut host, Cns::NAMESPACE_DESCRIPTORS, 1);
    let found = NamespaceDescriptors::decode(&reply.data).expect("it is sound");
    assert_eq!(found.uuid, Some(0x1234_u128.to_be_bytes()));
    assert_eq!(found.nguid, None);
}

#[test]
fn lists_name_what_there_is() {
    let mut rig = Rig::new();
    let mut host = Host::admin(&mut rig);
    let _other = Host::admin(&mut rig);
    let namespaces = |reply: &Reply| {
        NamespaceList::view(&reply.data).expect("it is sound").nsids().collect::<Vec<_>>()
    };
    let reply = identify(&mut rig, &mut host, Cns::ACTIVE_NAMESPACES, 0);
    assert_eq!(namespaces(&reply), [Nsid(1)]);
    let reply = identify(&mut rig, &mut host, Cns::ACTIVE_NAMESPACES, 1);
    assert_eq!(namespaces(&reply), []);
    let reply = identify(&mut rig, &mut host, Cns::CONTROLLERS, 0);
    let controllers = ControllerList::view(&reply.data).expect("it is sound");
    assert_eq!(controllers.controllers().collect::<Vec<_>>(), [Cntlid(1), Cntlid(2)]);
    for (cns, nsid) in [
        (Cns::NAMESPACE, u32::MAX),
        (Cns::NAMESPACE, 0),
        (Cns::NAMESPACE_DESCRIPTORS, 2),
        (Cns::ACTIVE_NAMESPACES, u32::MAX),
    ] {
        let reply = identify(&mut rig, &mut host, cns, nsid);
        let refused = Status::INVALID_NAMESPACE_OR_FORMAT.do_not_retry();
        assert_eq!(reply.completion.status, refused, "{cns:?} of {nsid}");
    }
    let reply = identify(&mut rig, &mut host, Cns::NAMESPACE, 2);
    assert_eq!(reply.data, IdentifyNamespace::INACTIVE);
    let reply = identify(&mut rig, &mut host, Cns(0xFF), 1);
    assert_eq!(reply.completion.status, Status::INVALID_FIELD.do_not_retry());
}

#[test]
fn properties_are_read_in_their_own_size_and_only_the_configuration_is_written() {
    let mut rig = Rig::new();
    let mut host = Host::open(&mut rig, Digests::default());
    host.connect(&mut rig, VOLUME, Qid::ADMIN, 0);
    let mut get = |offset, size| {
        let reply = host.command(&mut rig, PropertyGet { size, offset }.entry(), &[]);
        (reply.completion.status, reply.completion.result)
    };
    let (status, value) = get(0, PropertySize::Eight);
    assert_eq!(status, Status::SUCCESS);
    assert_eq!(Capabilities::decode(value).queue_entries_max, 1024);
    assert_eq!(get(8, PropertySize::Four).1, Version::V2_1.encode().into());
    // Linux reads it where CAP.CRMS says that it is there, and gives up without it.
    assert_eq!(
        ReadyTimeouts::decode(u32::try_from(get(0x68, PropertySize::Four).1).expect("4 bytes"))
            .with_media_ms,
        30_000
    );
    let refused = Status::INVALID_FIELD.do_not_retry();
    assert_eq!(get(0, PropertySize::Four).0, refused);
    assert_eq!(get(0x30, PropertySize::Four).0, refused);
    for (offset, size) in [(0, PropertySize::Eight), (0x1C, PropertySize::Four)] {
        let set = PropertySet { size, offset, value: 1 };
        assert_eq!(host.command(&mut rig, set.entry(), &[]).completion.status, refused);
    }
}

#[test]
fn a_configuration_that_cannot_be_is_a_fatal_error() {
    let mut rig = Rig::new();
    let mut host = Host::open(&mut rig, Digests::default());
    host.connect(&mut rig, VOLUME, Qid::ADMIN, 0);
    let wrong = Configuration {
        enable: true,
        io_submission_entry_size: 7,
        io_completion_entry_size: Configuration::IOCQES,
        ..Configuration::DISABLED
    };
    host.configure(&mut rig, wrong);
    let status = host.status(&mut rig);
    assert!(status.fatal && !status.ready);
    host.configure(&mut rig, Configuration::DISABLED);
    assert!(!host.status(&mut rig).fatal);
    host.enable(&mut rig);
}

#[test]
fn only_fabrics_commands_come_before_the_controller_is_enabled() {
    let mut rig = Rig::new();
    let mut host = Host::open(&mut rig, Digests::default());
    host.connect(&mut rig, VOLUME, Qid::ADMIN, 0);
    let reply = identify(&mut rig, &mut host, Cns::CONTROLLER, 0);
    assert_eq!(reply.completion.status, Status::COMMAND_SEQUENCE_ERROR.do_not_retry());
}

#[test]
fn a_resize_is_told_once_until_the_log_page_is_read() {
    let mut rig = Rig::new();
    let mut host = Host::admin(&mut rig);
    let wanted = AsyncEventConfiguration::NAMESPACE_ATTRIBUTE_CHANGED;
    let set = SetFeatures::new(FeatureId::ASYNC_EVENT_CONFIGURATION, wanted.bits());
    ask(&mut rig, &mut host, AdminCommand::SetFeatures(set), 0);
    for _ in 0..4 {
        let cid = host.cid();
        let entry = AdminCommand::AsyncEventRequest.entry().with_cid(cid);
        host.send_capsule(&mut rig, entry, &[]);
    }
    assert!(host.receive(&mut rig).is_empty());
    let reply = ask(&mut rig, &mut host, AdminCommand::AsyncEventRequest, 0);
    let refused = Status::ASYNC_EVENT_REQUEST_LIMIT_EXCEEDED.do_not_retry();
    assert_eq!(reply.completion.status, refused, "there are four");

    let event = AsyncEvent::NAMESPACE_ATTRIBUTE_CHANGED;
    for round in 1..3 {
        assert!(rig.target.resized(&nqn(VOLUME), Nsid(1), BLOCKS * 2 * round));
        assert!(rig.target.resized(&nqn(VOLUME), Nsid(1), BLOCKS * 3 * round));
        rig.settle();
        let [Received::Completion(completion)] = host.receive(&mut rig)[..] else {
            panic!("it is told once")
        };
        assert_eq!(AsyncEvent::decode(completion.dword0()), event);
        let reply = log_page(&mut rig, &mut host, LogId::CHANGED_NAMESPACES, 4096);
        assert_eq!(NamespaceList::view(&reply.data).expect("sound").nsids().count(), 1);
        let reply = identify(&mut rig, &mut host, Cns::NAMESPACE, 1);
        let found = IdentifyNamespace::decode(&reply.data).expect("it is sound");
        assert_eq!(found.size, BlockCount(BLOCKS * 3 * round));
    }
    assert!(!rig.target.resized(&nqn(VOLUME), Nsid(2), 1));
}

#[test]
#[expect(clippy::reversed_empty_ranges, reason = "a range that is empty is what is refused")]
fn a_subsystem_that_cannot_be_served_is_refused_with_the_reason() {
    let mut rig = Rig::new();
    let nqn_of = |subsystem: &Subsystem| Box::new(subsystem.nqn);
    let mut other = volume();
    other.nqn = nqn("nqn.2026-01.io.fathom:other");
    let change = |change: &dyn Fn(&mut Subsystem)| {
        let mut changed = other.clone();
        change(&mut changed);
        changed
    };
    let name = nqn_of(&other);
    let namespace = ExportError::Namespace { nqn: name.clone(), nsid: Nsid(1) };
    let refused = [
        (volume(), ExportError::Exists(nqn_of(&volume()))),
        (change(&|one| one.nqn = Nqn::discovery()), ExportError::DiscoveryName),
        (change(&|one| one.controllers = 2..=1), ExportError::Controllers(name.clone())),
        (change(&|one| one.controllers = 1..=0xFFF0), ExportError::Controllers(name.clone())),
        (change(&|one| one.namespaces.clear()), ExportError::NoNamespace(name)),
        (change(&|one| one.namespaces[0].blocks = 0), namespace.clone()),
        (change(&|one| one.namespaces[0].block_shift = 13), namespace.clone()),
        (change(&|one| one.namespaces.push(one.namespaces[0].clone())), namespace),
    ];
    for (subsystem, why) in refused {
        assert_eq!(rig.target.export(subsystem), Err(why));
    }
    assert_eq!(rig.target.export(other), Ok(()));
}

/// Whoever asks, reads the log page or changes what it wants to know may be told at once.
#[test]
fn an_event_that_happened_before_is_told_when_the_host_can_be_told() {
    let mut rig = Rig::new();
    let mut host = Host::admin(&mut rig);
    let wanted = AsyncEventConfiguration::NAMESPACE_ATTRIBUTE_CHANGED;
    let request = |rig: &mut Rig, host: &mut Host| {
        let entry = AdminCommand::AsyncEventRequest.entry().with_cid(host.cid());
        host.send_capsule(rig, entry, &[]);
        host.receive(rig).len()
    };
    assert!(rig.target.resized(&nqn(VOLUME), Nsid(1), BLOCKS * 2));
    assert_eq!(request(&mut rig, &mut host), 0, "it does not want to know");
    let set = SetFeatures::new(FeatureId::ASYNC_EVENT_CONFIGURATION, wanted.bits());
    let cid = host.cid();
    host.send_capsule(&mut rig, AdminCommand::SetFeatures(set).entry().with_cid(cid), &[]);
    assert_eq!(host.receive(&mut rig).len(), 2, "now it does");
    log_page(&mut rig, &mut host, LogId::CHANGED_NAMESPACES, 4096);
    assert!(rig.target.resized(&nqn(VOLUME), Nsid(1), BLOCKS * 3));
    rig.settle();
    assert_eq!(host.receive(&mut rig), [], "it has not asked");
    assert_eq!(request(&mut rig, &mut host), 1, "now it has");
}

#[test]
fn a_reset_gives_the_requests_for_events_back() {
    let mut rig = Rig::new();
    let mut host = Host::admin(&mut rig);
    let cid = host.cid();
    let entry = AdminCommand::AsyncEventRequest.entry().with_cid(cid);
    host.send_capsule(&mut rig, entry, &[]);
    let set = PropertySet { size: PropertySize::Four, offset: 0x14, value: 0 };
    let disable = host.cid();
    host.send_capsule(&mut rig, set.entry().with_cid(disable), &[]);
    let answered: Vec<_> = host
        .receive(&mut rig)
        .iter()
        .map(|received| match received {
            Received::Completion(completion) => (completion.cid, completion.status),
            other => panic!("{other:?}"),
        })
        .collect();
    assert!(answered.contains(&(cid, Status::ABORT_REQUESTED)), "{answered:?}");
    assert!(answered.contains(&(disable, Status::SUCCESS)), "{answered:?}");
}

#[test]
fn features_that_cannot_be_changed_say_so() {
    let mut rig = Rig::new();
    let mut host = Host::admin(&mut rig);
    let mut set = |feature, save| {
        let set = SetFeatures { save, ..SetFeatures::new(feature, 0) };
        ask(&mut rig, &mut host, AdminCommand::SetFeatures(set), 0).completion.status
    };
    let not_changeable = Status::FEATURE_NOT_CHANGEABLE.do_not_retry();
    assert_eq!(set(FeatureId::VOLATILE_WRITE_CACHE, false), not_changeable);
    assert_eq!(set(FeatureId::ARBITRATION, false), not_changeable);
    assert_eq!(set(FeatureId::ARBITRATION, true), Status::FEATURE_NOT_SAVEABLE.do_not_retry());
    assert_eq!(set(FeatureId(0xEE), false), Status::INVALID_FIELD.do_not_retry());
    let timer = KeepAliveTimer { timeout_ms: 7_000 };
    let command = SetFeatures::new(FeatureId::KEEP_ALIVE_TIMER, timer.encode());
    ask(&mut rig, &mut host, AdminCommand::SetFeatures(command), 0);
    assert!(rig.target.deadline().is_some());
}

#[test]
fn log_pages_are_read_in_parts_and_not_beyond_their_end() {
    let mut rig = Rig::new();
    let (mut admin, mut io) = Host::pair(&mut rig, Digests { header: true, data: true });
    io.write(&mut rig, 0, &[1; 8192]);
    io.read(&mut rig, 0, 1);
    let reply = log_page(&mut rig, &mut admin, LogId::HEALTH, 512);
    let health = Health::decode(&reply.data).expect("it is sound");
    assert_eq!((health.read_commands, health.write_commands), (1, 1));
    let reply = log_page(&mut rig, &mut admin, LogId::FIRMWARE_SLOT, 512);
    assert_eq!(FirmwareSlots::decode(&reply.data).expect("it is sound").active, 1);
    let reply = log_page(&mut rig, &mut admin, LogId::ANA, 52);
    let (header, rest) = AnaHeader::decode(&reply.data).expect("it is sound");
    let (group, nsids, _) = AnaGroup::decode(rest).expect("it is sound");
    assert_eq!((header.groups, group.state), (1, AnaState::Optimized));
    assert_eq!(nsids.collect::<Vec<_>>(), [Nsid(1)]);
    let part = GetLogPage {
        offset: LogOffset::Bytes(16),
        ..GetLogPage::new(LogId::ANA, Nsid::BROADCAST, 36)
    };
    let found = ask(&mut rig, &mut admin, AdminCommand::GetLogPage(part), 36);
    assert_eq!(found.data, reply.data[16..]);
    let found = log_page(&mut rig, &mut admin, LogId::ANA, 64 << 10);
    assert_eq!(found.completion.status, Status::INVALID_FIELD.do_not_retry(), "nothing is there");
    let beyond = GetLogPage { offset: LogOffset::Bytes(1 << 40), ..part };
    let found = ask(&mut rig, &mut admin, AdminCommand::GetLogPage(beyond), 36);
    assert_eq!(found.completion.status, Status::INVALID_FIELD.do_not_retry());
    let found = log_page(&mut rig, &mut admin, LogId::DISCOVERY, 16);
    assert_eq!(found.completion.status, Status::INVALID_LOG_PAGE.do_not_retry());
}

#[test]
fn discovery_lists_what_the_host_may_connect_to() {
    let mut rig = Rig::new();
    let mut secret = volume();
    secret.nqn = nqn("nqn.2026-01.io.fathom:secret");
    secret.hosts = Hosts::Listed([nqn("nqn.2026-01.io.fathom:friend")].into());
    rig.target.export(secret).expect("it is new");
    let mut host = Host::admin_of(&mut rig, Digests::default(), DISCOVERY);
    let reply = identify(&mut rig, &mut host, Cns::CONTROLLER, 0);
    let found = IdentifyController::decode(&reply.data).expect("it is sound");
    assert_eq!(found.controller_type, ControllerType::Discovery);
    assert_eq!(found.subsystem, Nqn::discovery());
    let read = |rig: &mut Rig, host: &mut Host, entries: usize| {
        let length = DISCOVERY_HEADER_SIZE + entries * DISCOVERY_ENTRY_SIZE;
        let reply = log_page(rig, host, LogId::DISCOVERY, length as u64);
        let header = DiscoveryHeader::decode(&reply.data).expect("it is sound");
        let all = reply.data[DISCOVERY_HEADER_SIZE..].chunks_exact(DISCOVERY_ENTRY_SIZE);
        let all = all.take(usize::try_from(header.entries).expect("few"));
        let all = all.map(|entry| {
            DiscoveryEntry::decode(entry.first_chunk().expect("whole")).expect("it is sound")
        });
        (header.generation, all.collect::<Vec<_>>())
    };
    let (generation, entries) = read(&mut rig, &mut host, 2);
    assert_eq!(entries.len(), 1, "the other one is not for this host");
    assert_eq!(entries[0].subsystem, nqn(VOLUME));
    let place = (entries[0].address.as_str(), entries[0].service.as_str());
    assert_eq!(place, ("192.0.2.1", "4420"));
    rig.target.set_hosts(&nqn("nqn.2026-01.io.fathom:secret"), Hosts::Any);
    let (next, entries) = read(&mut rig, &mut host, 2);
    assert_eq!(entries.len(), 2);
    assert!(next > generation);
    // It has no I/O queues and no namespaces.
    let reply = identify(&mut rig, &mut host, Cns::NAMESPACE, 1);
    assert_eq!(reply.completion.status, Status::INVALID_FIELD.do_not_retry());
    let reply = host.command(&mut rig, NvmCommand::Flush.entry(Nsid(1)), &[]);
    assert_eq!(reply.completion.status, Status::INVALID_OPCODE.do_not_retry());
}

#[test]
fn an_unknown_admin_command_is_an_invalid_opcode() {
    let mut rig = Rig::new();
    let mut host = Host::admin(&mut rig);
    for opcode in [0x0D, 0x80, 0xC0] {
        let reply = host.command(&mut rig, SubmissionEntry::new(opcode), &[]);
        assert_eq!(reply.completion.status, Status::INVALID_OPCODE.do_not_retry());
    }
}

#[test]
fn data_that_the_host_has_no_room_for_is_not_sent() {
    let mut rig = Rig::new();
    let mut host = Host::admin(&mut rig);
    let command = AdminCommand::Identify(Identify::new(Cns::CONTROLLER, Nsid::NONE));
    let reply = ask(&mut rig, &mut host, command, 2048);
    assert_eq!(reply.completion.status, Status::DATA_SGL_LENGTH_INVALID.do_not_retry());
    assert!(reply.data.is_empty());
}
