//! What a host asks a controller before it uses it, and later when an event says that something has
//! changed: one admin command after another.
//!
//! Sources: Base sections 3.5.2 (initialization over fabrics), 3.1.4, 5.1.2, 5.1.12, 5.1.13, 5.1.25,
//! 6.3, 6.5 and 6.6.
//!
//! ```text
//! Connect -> Capabilities -> Enable -> Ready* -> Controller -> Events
//!              discovery: -> DiscoveryHeader -> DiscoveryEntries* -> DiscoveryCheck -> done
//!              I/O:       -> Queues -> Namespace -> Descriptors -> Limits -> done
//! later:   ChangedNamespaces -> Namespace -> done      Ana -> done
//!          DiscoveryHeader -> ... -> done              Shutdown -> ShutdownDone* -> done
//! ```
//!
//! - A step has one command. What its answer says is taken in [`Session::answer`], and nowhere else.
//! - Each answer is checked before anything is done with it; nothing that a controller says makes
//!   the host use more than a bounded amount of memory.

use std::time::Duration;

use fathom_nvme::{
    Completion, Status, SubmissionEntry,
    admin::{AdminCommand, GetLogPage, Identify, LogOffset, SetFeatures},
    fabrics::{
        Connect, ConnectAttributes, ConnectData, Connected, InvalidParameter, PropertyGet,
        PropertySet,
    },
    feature::{AsyncEventConfiguration, FeatureId, NumberOfQueues},
    identify::{
        Cns, ControllerType, DeallocateFeatures, IDENTIFY_SIZE, IdentifyController,
        IdentifyNamespace, IoCommands, MultiPath, NamespaceDescriptors, NvmController,
    },
    log::{
        AnaGroup, AnaHeader, AnaState, DISCOVERY_ENTRY_SIZE, DISCOVERY_HEADER_SIZE, DiscoveryEntry,
        DiscoveryHeader, LogId,
    },
    property::{
        Capabilities, CommandSets, Configuration, ControllerStatus, Property, ShutdownNotification,
        ShutdownStatus,
    },
};
use fathom_units::{BlockCount, Cntlid, Nsid, Qid};

use crate::{
    config::{ADMIN_QUEUE_ENTRIES, Config, Purpose},
    error::Error,
    queue::DataTransfer,
    request::blocks_in,
};

/// The bytes in which the answer to a step is gathered: the largest that one command asks for.
pub(crate) const ANSWER_MAX: usize = IDENTIFY_SIZE;
/// How many discovery entries are read at once.
const ENTRIES_AT_ONCE: u64 = (ANSWER_MAX / DISCOVERY_ENTRY_SIZE) as u64;
/// The most entries of a discovery log page that are read; more are an error.
const DISCOVERY_ENTRIES_MAX: u64 = 4096;
/// How often a discovery log page that changes while it is read is read anew.
const DISCOVERY_TRIES_MAX: u8 = 8;
/// How often CSTS is read while the controller becomes ready or shuts down.
pub(crate) const POLL_INTERVAL: Duration = Duration::from_millis(10);
/// The events that a host wants to be told.
const EVENTS: AsyncEventConfiguration = AsyncEventConfiguration::NAMESPACE_ATTRIBUTE_CHANGED
    .union(AsyncEventConfiguration::ANA_CHANGE)
    .union(AsyncEventConfiguration::DISCOVERY_LOG_CHANGED);

/// A namespace, as far as requests to it are concerned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Namespace {
    /// Its number in the controller.
    pub nsid: Nsid,
    /// How many logical blocks it has.
    pub size: BlockCount,
    /// The bytes of a logical block.
    pub block_size: u32,
    /// Its NGUID, all zero for none.
    pub nguid: [u8; 16],
    /// Its UUID, if it has one.
    pub uuid: Option<[u8; 16]>,
    /// Whether it is write protected.
    pub write_protected: bool,
    /// What the controller has beside Read, Write and Flush.
    pub commands: IoCommands,
    /// Whether it can compare and write as one operation.
    pub compare_and_write: bool,
    /// Whether there is a volatile write cache.
    pub write_cache: bool,
    pub(crate) transfer_blocks: u64,
    pub(crate) zeroes_blocks: u64,
    pub(crate) deallocate_blocks: u64,
    pub(crate) compare_write_blocks: u64,
    pub(crate) zeroes_deallocate: bool,
}

/// One admin command, and what its answer is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    Connect,
    Capabilities,
    Enable,
    Ready,
    Controller,
    Events,
    Queues,
    Namespace,
    Descriptors,
    Limits,
    ChangedNamespaces,
    Ana,
    DiscoveryHeader,
    DiscoveryEntries,
    DiscoveryCheck,
    Shutdown,
    ShutdownDone,
}

/// What follows a step.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Next {
    /// This step, now.
    Step(Step),
    /// The same step, after [`POLL_INTERVAL`].
    Poll,
    /// Nothing: what was asked for is known.
    Done(Learned),
}

/// What a row of steps was for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Learned {
    /// All about the controller: its I/O queues can be opened.
    Namespace,
    /// The discovery log page.
    Discovery(Vec<DiscoveryEntry>),
    /// The state of the namespace's ANA group.
    Ana(Option<AnaState>),
    /// The controller has shut down.
    ShutDown,
}

/// What is known of a controller.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) controller: Option<Cntlid>,
    capabilities: Option<Capabilities>,
    identity: Option<IdentifyController>,
    pub(crate) io_queues: u16,
    identified: Option<IdentifyNamespace>,
    descriptors: NamespaceDescriptors,
    limits: NvmController,
    discovery: DiscoveryHeader,
    entries: Vec<DiscoveryEntry>,
    tries: u8,
}

impl Session {
    pub(crate) fn new() -> Self {
        Self {
            controller: None,
            capabilities: None,
            identity: None,
            io_queues: 0,
            identified: None,
            descriptors: NamespaceDescriptors::default(),
            limits: NvmController::default(),
            discovery: DiscoveryHeader { generation: 0, entries: 0 },
            entries: Vec::new(),
            tries: 0,
        }
    }

    /// How long the controller may take to become ready.
    pub(crate) fn ready_timeout(&self, config: &Config) -> Duration {
        let stated = self.capabilities.map_or(0, |capabilities| capabilities.timeout_ms);
        Duration::from_millis(stated.into()).max(config.setup_timeout)
    }

    /// The most in-capsule data of an I/O command, in bytes.
    pub(crate) fn capsule_data_max(&self) -> u32 {
        self.identity.map_or(0, |identity| identity.capsule_data_bytes())
    }

    /// How many entries an I/O queue has when `wanted` are.
    pub(crate) fn queue_entries(&self, wanted: u32) -> u32 {
        let most = self.capabilities.map_or(2, |capabilities| capabilities.queue_entries_max);
        let told = self.identity.map_or(0, |identity| u32::from(identity.max_commands));
        let told = if told == 0 { u32::MAX } else { told + 1 };
        wanted.min(most).min(told).max(2)
    }

    /// How many Asynchronous Event Requests may be under way, at most `wanted`.
    pub(crate) fn event_requests(&self, wanted: u16) -> u16 {
        self.identity.map_or(0, |identity| identity.event_request_limit).min(wanted)
    }

    /// The namespace, once all about it is known.
    pub(crate) fn namespace(&self, nsid: Nsid) -> Result<Namespace, Error> {
        let identity = self.identity.as_ref().expect("identified before its namespace");
        let capabilities = self.capabilities.expect("read before");
        let namespace = self.identified.as_ref().expect("identified before");
        let block_size = namespace.format.block_size();
        if namespace.format.metadata_size != 0 {
            return Err(Error::Unsupported("has metadata in the namespace"));
        }
        let page = capabilities.page_size_min;
        let transfer_blocks = blocks_in(identity.max_transfer_bytes(page), block_size);
        if transfer_blocks == 0 {
            return Err(Error::Unsupported("cannot move one block with a command"));
        }
        let pages = |log2: u8| 1u64.checked_shl(u32::from(log2) + 12 + u32::from(page));
        let zeroes_blocks = match self.limits.write_zeroes_limit {
            0 => blocks_in(None, 1),
            limit => blocks_in(pages(limit), block_size).max(1),
        };
        let deallocate_blocks = match self.limits.dataset_range_blocks {
            0 => u64::from(u32::MAX),
            limit => limit.into(),
        };
        let compare_write =
            namespace.atomicity.map_or(identity.atomic_compare_write, |own| own.compare_write);
        let zero = DeallocateFeatures::WRITE_ZEROES_DEALLOCATES | DeallocateFeatures::READ_ZEROES;
        Ok(Namespace {
            nsid,
            size: namespace.size,
            block_size,
            nguid: namespace.nguid,
            uuid: self.descriptors.uuid,
            write_protected: namespace.write_protected,
            commands: identity.io_commands,
            compare_and_write: !identity.fuses.is_empty(),
            write_cache: identity.write_cache.present,
            transfer_blocks,
            zeroes_blocks,
            deallocate_blocks,
            compare_write_blocks: transfer_blocks.min(compare_write.into()),
            zeroes_deallocate: namespace.deallocate.contains(zero),
        })
    }

    /// The command of a step, and its data: what it has, or what it asks for.
    pub(crate) fn command(
        &self,
        step: Step,
        config: &Config,
    ) -> (SubmissionEntry, DataTransfer, Vec<u8>) {
        let nsid = match config.purpose {
            Purpose::Io { nsid, .. } => nsid,
            Purpose::Discovery => Nsid::NONE,
        };
        let identify = |cns, nsid| {
            let entry = AdminCommand::Identify(Identify::new(cns, nsid)).entry();
            (entry, into(IDENTIFY_SIZE), Vec::new())
        };
        let simple = |entry| (entry, DataTransfer::None, Vec::new());
        let log = |page: GetLogPage| {
            let length = u32::try_from(page.length).expect("at most 4096 bytes");
            (AdminCommand::GetLogPage(page).entry(), DataTransfer::In(length), Vec::new())
        };
        let whole = ANSWER_MAX as u64;
        match step {
            Step::Connect => connect(config, Qid::ADMIN, ADMIN_QUEUE_ENTRIES, Cntlid::DYNAMIC),
            Step::Capabilities => simple(get(Property::Capabilities)),
            Step::Enable => simple(set(Configuration { enable: true, ..configuration() })),
            Step::Ready | Step::ShutdownDone => simple(get(Property::Status)),
            Step::Controller => identify(Cns::CONTROLLER, Nsid::NONE),
            Step::Events => {
                let events = self.wanted_events();
                let feature = FeatureId::ASYNC_EVENT_CONFIGURATION;
                let command = SetFeatures::new(feature, events.bits());
                simple(AdminCommand::SetFeatures(command).entry())
            }
            Step::Queues => {
                let Purpose::Io { queues, .. } = config.purpose else {
                    unreachable!("a discovery controller has no I/O queues")
                };
                let wanted =
                    NumberOfQueues { submission: queues.into(), completion: queues.into() };
                let command = SetFeatures::new(FeatureId::NUMBER_OF_QUEUES, wanted.encode());
                simple(AdminCommand::SetFeatures(command).entry())
            }
            Step::Namespace => identify(Cns::NAMESPACE, nsid),
            Step::Descriptors => identify(Cns::NAMESPACE_DESCRIPTORS, nsid),
            Step::Limits => identify(Cns::CONTROLLER_OF_COMMAND_SET, Nsid::NONE),
            Step::ChangedNamespaces => {
                log(GetLogPage::new(LogId::CHANGED_NAMESPACES, Nsid::BROADCAST, whole))
            }
            Step::Ana => log(GetLogPage::new(LogId::ANA, Nsid::BROADCAST, whole)),
            Step::DiscoveryHeader | Step::DiscoveryCheck => {
                log(GetLogPage::new(LogId::DISCOVERY, Nsid::NONE, DISCOVERY_HEADER_SIZE as u64))
            }
            Step::DiscoveryEntries => {
                let read = self.entries.len() as u64;
                let now = (self.discovery.entries - read).min(ENTRIES_AT_ONCE);
                let size = DISCOVERY_ENTRY_SIZE as u64;
                let mut page = GetLogPage::new(LogId::DISCOVERY, Nsid::NONE, now * size);
                page.offset = LogOffset::Bytes(DISCOVERY_HEADER_SIZE as u64 + read * size);
                log(page)
            }
            Step::Shutdown => {
                let shutdown = ShutdownNotification::Normal;
                simple(set(Configuration { enable: true, shutdown, ..configuration() }))
            }
        }
    }

    /// What the answer to a step says, and what follows.
    pub(crate) fn answer(
        &mut self,
        step: Step,
        completion: &Completion,
        data: &[u8],
        config: &Config,
    ) -> Result<Next, Error> {
        if !completion.status.is_success() {
            return self.refused(step, completion);
        }
        let value = completion.result;
        let low = completion.dword0();
        Ok(match step {
            Step::Connect => {
                self.controller = Some(connected(completion)?);
                Next::Step(Step::Capabilities)
            }
            Step::Capabilities => {
                let capabilities = Capabilities::decode(value);
                if !capabilities.command_sets.contains(CommandSets::NVM) {
                    return Err(Error::Unsupported("has not the NVM command set"));
                }
                self.capabilities = Some(capabilities);
                Next::Step(Step::Enable)
            }
            Step::Enable => Next::Step(Step::Ready),
            Step::Ready => {
                let status = ControllerStatus::decode(low);
                if status.fatal {
                    return Err(Error::ControllerFatal);
                }
                if status.ready { Next::Step(Step::Controller) } else { Next::Poll }
            }
            Step::Controller => self.identified_controller(data, config)?,
            Step::Events => self.after_events(config),
            Step::Queues => {
                let Purpose::Io { queues, .. } = config.purpose else {
                    unreachable!("a discovery controller has no I/O queues")
                };
                let given = NumberOfQueues::decode(low);
                let least = given.submission.min(given.completion).min(queues.into());
                self.io_queues = u16::try_from(least).expect("at most what was asked for");
                Next::Step(Step::Namespace)
            }
            Step::Namespace => {
                let namespace = IdentifyNamespace::decode(data);
                if data.iter().all(|byte| *byte == 0) {
                    return Err(Error::Namespace("is not there"));
                }
                self.identified = Some(namespace?);
                Next::Step(Step::Descriptors)
            }
            Step::Descriptors => {
                self.descriptors = NamespaceDescriptors::decode(data)?;
                Next::Step(Step::Limits)
            }
            Step::Limits => {
                self.limits = NvmController::decode(data)?;
                Next::Done(Learned::Namespace)
            }
            Step::ChangedNamespaces => Next::Step(Step::Namespace),
            Step::Ana => Next::Done(Learned::Ana(self.ana_state(data, config)?)),
            Step::DiscoveryHeader => {
                self.entries.clear();
                self.discovery = DiscoveryHeader::decode(data)?;
                if self.discovery.entries > DISCOVERY_ENTRIES_MAX {
                    return Err(Error::Unsupported("has more than 4096 discovery entries"));
                }
                self.more_entries()
            }
            Step::DiscoveryEntries => {
                let (entries, _) = data.as_chunks();
                for entry in entries {
                    self.entries.push(DiscoveryEntry::decode(entry)?);
                }
                self.more_entries()
            }
            Step::DiscoveryCheck => self.check_discovery(data)?,
            Step::Shutdown => Next::Step(Step::ShutdownDone),
            Step::ShutdownDone => match ControllerStatus::decode(low).shutdown {
                ShutdownStatus::Complete => Next::Done(Learned::ShutDown),
                _ => Next::Poll,
            },
        })
    }

    /// What a refused step means: most end the association, some only say that there is nothing.
    fn refused(&mut self, step: Step, completion: &Completion) -> Result<Next, Error> {
        let status = completion.status;
        match step {
            Step::Connect => Err(connect_refused(Qid::ADMIN, completion)),
            // Controllers before 2.0 have no limits beside MDTS, and some have no descriptors.
            Step::Descriptors => Ok(Next::Step(Step::Limits)),
            Step::Limits => Ok(Next::Done(Learned::Namespace)),
            Step::ChangedNamespaces => Ok(Next::Step(Step::Namespace)),
            Step::Ana => Ok(Next::Done(Learned::Ana(None))),
            Step::Namespace if status.code() == Status::INVALID_NAMESPACE_OR_FORMAT => {
                Err(Error::Namespace("is not there"))
            }
            _ => Err(Error::Refused { command: name(step), status }),
        }
    }

    fn identified_controller(&mut self, data: &[u8], config: &Config) -> Result<Next, Error> {
        let identity = IdentifyController::decode(data)?;
        if identity.controller_type == ControllerType::Administrative {
            return Err(Error::Unsupported("is only for administration"));
        }
        let is_discovery = identity.controller_type == ControllerType::Discovery;
        if is_discovery && config.purpose != Purpose::Discovery {
            return Err(Error::Unsupported("is for discovery"));
        }
        self.identity = Some(identity);
        if self.wanted_events().is_empty() {
            return Ok(self.after_events(config));
        }
        Ok(Next::Step(Step::Events))
    }

    /// The events that the host wants and the controller can tell.
    pub(crate) fn wanted_events(&self) -> AsyncEventConfiguration {
        let told = self.identity.map_or(0, |identity| identity.events.bits());
        EVENTS & AsyncEventConfiguration::from_bits_truncate(told)
    }

    /// Whether the controller reports ANA.
    pub(crate) fn has_ana(&self) -> bool {
        self.identity.is_some_and(|identity| identity.multi_path.contains(MultiPath::ANA))
    }

    fn after_events(&mut self, config: &Config) -> Next {
        self.tries = 0;
        Next::Step(match config.purpose {
            Purpose::Io { .. } => Step::Queues,
            Purpose::Discovery => Step::DiscoveryHeader,
        })
    }

    fn more_entries(&self) -> Next {
        let all = self.entries.len() as u64 == self.discovery.entries;
        Next::Step(if all { Step::DiscoveryCheck } else { Step::DiscoveryEntries })
    }

    /// The page is of one version when its generation is still the same.
    fn check_discovery(&mut self, data: &[u8]) -> Result<Next, Error> {
        let header = DiscoveryHeader::decode(data)?;
        if header == self.discovery {
            self.tries = 0;
            return Ok(Next::Done(Learned::Discovery(std::mem::take(&mut self.entries))));
        }
        self.tries += 1;
        if self.tries == DISCOVERY_TRIES_MAX {
            return Err(Error::DiscoveryUnstable);
        }
        Ok(Next::Step(Step::DiscoveryHeader))
    }

    /// The state of the namespace's group, when the part of the page that was read tells it.
    fn ana_state(&self, data: &[u8], config: &Config) -> Result<Option<AnaState>, Error> {
        let Purpose::Io { nsid, .. } = config.purpose else { return Ok(None) };
        let (header, mut rest) = AnaHeader::decode(data)?;
        for _ in 0..header.groups {
            // A page that is longer than what was read ends in the middle of a group.
            let Ok((group, mut nsids, after)) = AnaGroup::decode(rest) else { break };
            if nsids.any(|member| member == nsid) {
                return Ok(Some(group.state));
            }
            rest = after;
        }
        Ok(None)
    }
}

/// What the controller is set up with.
fn configuration() -> Configuration {
    Configuration {
        io_submission_entry_size: Configuration::IOSQES,
        io_completion_entry_size: Configuration::IOCQES,
        ..Configuration::DISABLED
    }
}

fn get(property: Property) -> SubmissionEntry {
    PropertyGet { size: property.size(), offset: property.offset() }.entry()
}

fn set(configuration: Configuration) -> SubmissionEntry {
    let property = Property::Configuration;
    let value = configuration.encode().into();
    PropertySet { size: property.size(), offset: property.offset(), value }.entry()
}

fn into(bytes: usize) -> DataTransfer {
    DataTransfer::In(u32::try_from(bytes).expect("a structure is small"))
}

/// The Connect of a queue.
pub(crate) fn connect(
    config: &Config,
    qid: Qid,
    entries: u32,
    controller: Cntlid,
) -> (SubmissionEntry, DataTransfer, Vec<u8>) {
    let keep_alive = u32::try_from(config.keep_alive.as_millis()).expect("checked: 32 bits");
    let connect = Connect {
        qid,
        sq_entries: entries,
        attributes: ConnectAttributes::DISABLE_SQ_FLOW_CONTROL,
        keep_alive_ms: if qid.is_admin() { keep_alive } else { 0 },
    };
    let data = ConnectData {
        host_id: config.host_id,
        controller,
        subsystem: config.subsystem,
        host: config.host,
    };
    let data = data.encode().to_vec();
    let length = u32::try_from(data.len()).expect("1024 bytes");
    (connect.entry(), DataTransfer::Out(length), data)
}

/// The controller that a successful Connect names.
pub(crate) fn connected(completion: &Completion) -> Result<Cntlid, Error> {
    let connected = Connected::from_result(completion.result);
    if !connected.authentication.is_empty() {
        return Err(Error::AuthenticationRequired);
    }
    Ok(connected.controller)
}

/// The error of a Connect that was refused.
pub(crate) fn connect_refused(queue: Qid, completion: &Completion) -> Error {
    let parameter = InvalidParameter::of(completion);
    Error::ConnectRefused { queue, status: completion.status, parameter }
}

/// The name of a step's command.
fn name(step: Step) -> &'static str {
    match step {
        Step::Connect => "Connect",
        Step::Capabilities => "reading CAP",
        Step::Enable => "enabling the controller",
        Step::Ready | Step::ShutdownDone => "reading CSTS",
        Step::Controller => "Identify Controller",
        Step::Events => "setting Asynchronous Event Configuration",
        Step::Queues => "setting Number of Queues",
        Step::Namespace => "Identify Namespace",
        Step::Descriptors => "reading namespace descriptors",
        Step::Limits => "Identify Controller of the NVM command set",
        Step::ChangedNamespaces => "reading the changed namespaces",
        Step::Ana => "reading the ANA log page",
        Step::DiscoveryHeader | Step::DiscoveryEntries | Step::DiscoveryCheck => {
            "reading the discovery log page"
        }
        Step::Shutdown => "shutting the controller down",
    }
}
