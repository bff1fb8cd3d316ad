//! Setting up, discovery, events, keep alive and shutting down.

use fathom_nvme::{
    Status,
    admin::AdminCommand,
    event::AsyncEvent,
    fabrics::{AuthenticationRequirements, InvalidParameter},
    identify::{AsyncEventsSupported, ControllerType},
    log::{
        AddressFamily, AnaState, DiscoveryEntry, EntryFlags, SecureChannel, SecurityType,
        SubsystemType, TransportAddress, TransportType,
    },
};
use fathom_units::{BlockCount, Cntlid, Qid};

use super::*;

#[test]
fn a_host_connects_every_queue_and_is_live() {
    let bench = Bench::live(config(3, 16), Peer::new(64));
    let queues: Vec<u16> = bench.opened.iter().map(|connection| connection.queue.0).collect();
    assert_eq!(queues, [0, 1, 2, 3]);
    let namespace = bench.host.namespace().expect("live");
    assert_eq!((namespace.size, namespace.block_size), (BlockCount(64), 4096));
    assert_eq!((namespace.nguid, namespace.uuid), ([9; 16], Some([3; 16])));
    assert!(namespace.write_cache && namespace.compare_and_write);
    assert_eq!(bench.events.len(), 1);
    let events =
        bench.peer.admin.iter().filter(|command| **command == AdminCommand::AsyncEventRequest);
    assert_eq!(events.count(), 2);
}

#[test]
fn the_controller_decides_how_many_queues_there_are() {
    let bench = Bench::live(config(16, 1024), Peer::new(64));
    assert_eq!(bench.opened.len(), 1 + 4);
}

#[test]
fn bytes_may_come_one_by_one_with_every_option() {
    for (header, data) in [(false, false), (true, false), (false, true), (true, true)] {
        let mut config = config(2, 8);
        config.digests = Digests { header, data };
        config.alignment = Alignment::from_field(7).expect("32 bytes");
        let mut peer = Peer::new(64);
        peer.alignment = Alignment::MAX;
        let mut bench = Bench::new(config, peer);
        bench.cut = 1;
        bench.run();
        assert!(bench.is_live());
        bench.write(1, 3, 1, 0x5A);
        bench.run();
        bench.submit(2, Operation::Read, 3, 1);
        bench.run();
        assert_eq!((bench.result(1), bench.result(2)), (Some(Ok(())), Some(Ok(()))));
        assert_eq!(bench.memory[&RequestId(2)], vec![0x5A; 4096]);
    }
}

#[test]
fn a_controller_that_takes_its_time_is_polled_until_it_is_ready() {
    let mut peer = Peer::new(64);
    peer.polls_until_ready = 20;
    let mut bench = Bench::new(config(1, 8), peer);
    bench.run();
    assert!(!bench.is_live());
    bench.wait(SECOND);
    assert!(bench.is_live());
}

#[test]
fn a_controller_that_does_not_become_ready_is_given_up_in_its_time() {
    let mut peer = Peer::new(64);
    peer.polls_until_ready = u32::MAX;
    let mut bench = Bench::new(config(1, 8), peer);
    bench.run();
    bench.wait(7 * SECOND);
    assert_eq!(bench.lost(), None, "CAP.TO is 7.5 s");
    bench.wait(SECOND);
    assert_eq!(bench.lost(), Some(Error::NotReady));
}

#[test]
fn a_silent_controller_is_noticed() {
    let mut peer = Peer::new(64);
    peer.silent = true;
    let mut bench = Bench::new(config(1, 8), peer);
    bench.run();
    bench.wait(5 * SECOND);
    assert_eq!(bench.lost(), Some(Error::SetupTimeout));
    bench.peer.silent = false;
    bench.wait(SECOND);
    assert!(bench.is_live(), "it is tried again");
}

#[test]
fn a_refused_connect_says_why_and_dnr_ends_it() {
    let mut peer = Peer::new(64);
    peer.connect_status = Status::CONNECT_INVALID_PARAMETERS;
    let mut bench = Bench::new(config(1, 8), peer);
    bench.run();
    let error = Error::ConnectRefused {
        queue: Qid(0),
        status: Status::CONNECT_INVALID_PARAMETERS,
        parameter: Some(InvalidParameter::SUBNQN),
    };
    assert_eq!(bench.lost(), Some(error));
    bench.wait(SECOND);
    assert_eq!(bench.opened.len(), 2, "it may succeed later");
    bench.peer.connect_status = Status::CONNECT_INVALID_HOST.do_not_retry();
    bench.wait(SECOND);
    let Some(Event::Ended(Some(Error::ConnectRefused { status, .. }))) = bench.events.last() else {
        panic!("{:?}", bench.events)
    };
    assert!(status.is_do_not_retry());
    assert_eq!(bench.host.deadline(), None);
}

#[test]
fn what_the_host_cannot_use_is_refused_by_name() {
    type Change = fn(&mut Peer);
    let changes: [(Change, Error); 7] = [
        (
            |peer| peer.authentication = AuthenticationRequirements::AUTHENTICATION,
            Error::AuthenticationRequired,
        ),
        (
            |peer| peer.identity.controller_type = ControllerType::Discovery,
            Error::Unsupported("is for discovery"),
        ),
        (
            |peer| peer.namespace.format.metadata_size = 8,
            Error::Unsupported("has metadata in the namespace"),
        ),
        (
            |peer| {
                peer.identity.max_data_transfer = 1;
                peer.namespace.format.block_size_log2 = 14;
            },
            Error::Unsupported("cannot move one block with a command"),
        ),
        (
            |peer| peer.capabilities.command_sets = fathom_nvme::property::CommandSets::NONE,
            Error::Unsupported("has not the NVM command set"),
        ),
        (|peer| peer.digests = Digests::default(), Error::DigestsNotGranted),
        (
            |peer| peer.identity.controller_type = ControllerType::Administrative,
            Error::Unsupported("is only for administration"),
        ),
    ];
    for (change, error) in changes {
        let mut peer = Peer::new(64);
        change(&mut peer);
        let mut config = config(1, 8);
        config.digests.header = true;
        let mut bench = Bench::new(config, peer);
        bench.run();
        assert_eq!(bench.events.last(), Some(&Event::Ended(Some(error))));
        assert_eq!(bench.opened.len(), bench.closed.len());
    }
}

#[test]
fn bad_configurations_are_refused() {
    assert!(Host::new(config(0, 8)).is_err());
    assert!(Host::new(config(129, 8)).is_err());
    assert!(Host::new(config(1, 1)).is_err());
    assert!(Host::new(config(1, 1025)).is_err());
    let mut wrong = config(1, 8);
    wrong.purpose = Purpose::Io { nsid: Nsid::BROADCAST, queues: 1, entries: 8 };
    assert!(Host::new(wrong).is_err());
    let mut wrong = config(1, 8);
    wrong.keep_alive = Duration::ZERO;
    assert!(Host::new(wrong).is_err());
    let mut wrong = config(1, 8);
    wrong.keep_alive = Duration::from_secs(1 << 33);
    assert!(Host::new(wrong).is_err());
}

#[test]
fn the_controller_is_kept_alive_and_its_silence_is_noticed() {
    let mut bench = Bench::live(config(1, 8), Peer::new(64));
    let count = |bench: &Bench| {
        bench.peer.admin.iter().filter(|command| **command == AdminCommand::KeepAlive).count()
    };
    bench.wait(60 * SECOND);
    assert_eq!(count(&bench), 12, "twice in each timeout of 10 s");
    assert!(bench.is_live());
    bench.peer.silent = true;
    bench.wait(40 * SECOND);
    assert_eq!(bench.lost(), Some(Error::CommandTimeout(Qid(0))));
}

#[test]
fn a_changed_namespace_is_told() {
    let mut bench = Bench::live(config(1, 8), Peer::new(64));
    bench.peer.namespace.size = BlockCount(128);
    bench.peer.tell(AsyncEvent::NAMESPACE_ATTRIBUTE_CHANGED);
    bench.run();
    let Some(Event::NamespaceChanged(namespace)) = bench.events.last() else { panic!("told") };
    assert_eq!(namespace.size, BlockCount(128));
    assert_eq!(bench.host.namespace().map(|namespace| namespace.size), Some(BlockCount(128)));
    // The host goes on asking, and tells nothing when nothing has changed.
    bench.peer.tell(AsyncEvent::NAMESPACE_ATTRIBUTE_CHANGED);
    bench.run();
    assert_eq!(bench.events.len(), 2);
}

#[test]
fn a_namespace_that_becomes_another_one_is_not_used() {
    type Change = fn(&mut Peer);
    let changes: [(Change, &str); 3] = [
        (|peer| peer.uuid = [4; 16], "is another one than before"),
        (|peer| peer.namespace.nguid = [4; 16], "is another one than before"),
        (
            |peer| peer.namespace.format.block_size_log2 = 9,
            "has blocks of another size than before",
        ),
    ];
    for (change, text) in changes {
        let mut bench = Bench::live(config(1, 8), Peer::new(64));
        change(&mut bench.peer);
        bench.peer.tell(AsyncEvent::NAMESPACE_ATTRIBUTE_CHANGED);
        bench.run();
        assert_eq!(bench.lost(), Some(Error::Namespace(text)));
        // Not on a new association either.
        bench.wait(SECOND);
        assert!(!bench.is_live());
    }
}

#[test]
fn a_change_of_ana_is_told() {
    let mut bench = Bench::live(config(1, 8), Peer::new(64));
    bench.peer.ana = AnaState::Inaccessible;
    bench.peer.tell(AsyncEvent::ANA_CHANGE);
    bench.run();
    assert_eq!(bench.events.last(), Some(&Event::AnaChanged(Some(AnaState::Inaccessible))));
}

#[test]
fn shutting_down_tells_the_controller_first() {
    let mut bench = Bench::live(config(2, 8), Peer::new(64));
    bench.host.shut_down(bench.now);
    bench.run();
    assert_eq!(bench.events.last(), Some(&Event::Ended(None)));
    assert_eq!(bench.closed.len(), 3);
    assert_eq!(bench.lost(), None);
    bench.wait(100 * SECOND);
    assert_eq!(bench.opened.len(), 3);
}

fn entry(number: u16) -> DiscoveryEntry {
    DiscoveryEntry {
        transport: TransportType::TCP,
        address_family: AddressFamily::IPV4,
        subsystem_type: SubsystemType::NVM,
        secure_channel: SecureChannel::NotSpecified,
        flow_control_optional: true,
        port_id: number,
        controller: Cntlid::DYNAMIC,
        admin_queue_entries: 32,
        flags: EntryFlags::empty(),
        service: TransportAddress::new("4420").expect("ASCII"),
        subsystem: Nqn::new(&format!("nqn.2024-12.io.fathom:{number}")).expect("a name"),
        address: TransportAddress::new("127.0.0.1").expect("ASCII"),
        security: SecurityType::NONE,
    }
}

fn discovery(entries: u16) -> (Config, Peer) {
    let mut peer = Peer::new(1);
    peer.identity.controller_type = ControllerType::Discovery;
    peer.identity.events = AsyncEventsSupported::DISCOVERY_LOG_CHANGE;
    peer.entries = (0..entries).map(entry).collect();
    (Config { purpose: Purpose::Discovery, ..config(1, 8) }, peer)
}

#[test]
fn the_discovery_page_is_read_and_read_again_when_it_changes() {
    for count in [0, 1, 4, 5, 9] {
        let (config, peer) = discovery(count);
        let mut bench = Bench::new(config, peer);
        bench.run();
        assert_eq!(bench.events, [Event::Discovered((0..count).map(entry).collect())]);
        bench.peer.entries.push(entry(count));
        bench.peer.tell(AsyncEvent::DISCOVERY_LOG_CHANGED);
        bench.run();
        let all = (0..=count).map(entry).collect();
        assert_eq!(bench.events.last(), Some(&Event::Discovered(all)));
    }
}

#[test]
fn a_discovery_page_that_changes_meanwhile_is_read_anew() {
    let (config, mut peer) = discovery(3);
    peer.generations = [1, 2, 3].into();
    let mut bench = Bench::new(config.clone(), peer);
    bench.run();
    assert_eq!(bench.events, [Event::Discovered((0..3).map(entry).collect())]);

    let (_, mut peer) = discovery(3);
    peer.generations = (1..100).collect();
    let mut bench = Bench::new(config, peer);
    bench.run();
    assert_eq!(bench.lost(), Some(Error::DiscoveryUnstable));
}
