//! What Identify says: of a controller, of a namespace, and the lists of them.
//!
//! Every structure that Linux and SPDK hosts ask for, and what is true of this target: shared
//! namespaces, controllers on several ports, one ANA group that is optimized, writes that are atomic
//! among each other up to the transfer limit and of one block when power fails.
//!
//! Sources: Base section 5.1.13; NVM section 4.1.5.

use fathom_nvme::{
    Nqn, Status,
    admin::Identify,
    identify::{
        AdminCommands, AnaCapabilities, Ascii, Atomicity, CSI_NVM, Cns, CommandSetCombination,
        ControllerAttributes, ControllerList, ControllerType, DeallocateFeatures, Fuses,
        IDENTIFY_SIZE, IdentifyController, IdentifyNamespace, IndependentFeatures,
        IndependentNamespace, IoCommands, LbaFormat, LogPageAttributes, MultiPath,
        NamespaceDescriptors, NamespaceFeatures, NamespaceList, NamespaceSharing, NvmController,
        NvmNamespace, Preferred, SglSupport, WriteCache,
    },
    nvm::RANGES_MAX,
};
use fathom_units::{BlockCount, Cntlid, Nsid};

use super::{
    ABORTS_MAX, Association, KEEP_ALIVE_GRANULARITY_MS, Settings,
    controller::{Kind, PAGE_BYTES, VERSION},
    events::{self, Events},
};
use crate::{
    connection::Limits,
    export::{Namespace, Subsystem},
};

/// The one ANA group, which every namespace is in.
pub(super) const ANA_GROUP: u32 = 1;
/// The most time that an ANA transition takes, in seconds. There is none yet.
const ANA_TRANSITION_S: u8 = 10;

/// Answers an Identify of an association. `controllers` are those of its subsystem.
pub(super) fn identify(
    settings: &Settings,
    association: &Association,
    subsystem: Option<&Subsystem>,
    controllers: impl Iterator<Item = Cntlid>,
    command: &Identify,
) -> Result<[u8; IDENTIFY_SIZE], Status> {
    if command.cns == Cns::CONTROLLER {
        return Ok(controller(settings, association, subsystem).encode());
    }
    // A discovery controller has nothing else to say.
    let subsystem = subsystem.ok_or(Status::INVALID_FIELD)?;
    let nvm_only =
        || if command.command_set == CSI_NVM { Ok(()) } else { Err(Status::INVALID_FIELD) };
    let one = || {
        if command.nsid == Nsid::NONE || command.nsid == Nsid::BROADCAST {
            return Err(Status::INVALID_NAMESPACE_OR_FORMAT);
        }
        Ok(subsystem.namespace(command.nsid))
    };
    let active = || one()?.ok_or(Status::INVALID_NAMESPACE_OR_FORMAT);
    let above = |nsid: Nsid| {
        let all = subsystem.namespaces.iter().map(|namespace| namespace.nsid);
        NamespaceList::encode(all.filter(move |other| *other > nsid).take(NamespaceList::MAX))
    };
    let list = || match command.nsid.0 {
        // These two leave no room for a greater one.
        0xFFFF_FFFE.. => Err(Status::INVALID_NAMESPACE_OR_FORMAT),
        _ => Ok(above(command.nsid)),
    };
    match command.cns {
        // What all namespaces have in common: nothing but their format can be told.
        Cns::NAMESPACE if command.nsid == Nsid::BROADCAST => {
            Err(Status::INVALID_NAMESPACE_OR_FORMAT)
        }
        Cns::NAMESPACE | Cns::ALLOCATED_NAMESPACE => Ok(one()?
            .map_or(IdentifyNamespace::INACTIVE, |one| namespace(&settings.limits, one).encode())),
        Cns::ACTIVE_NAMESPACES | Cns::ALLOCATED_NAMESPACES => list(),
        Cns::ACTIVE_NAMESPACES_OF_COMMAND_SET | Cns::ALLOCATED_NAMESPACES_OF_COMMAND_SET => {
            nvm_only()?;
            list()
        }
        Cns::NAMESPACE_DESCRIPTORS => Ok(descriptors(active()?).encode()),
        Cns::NAMESPACE_OF_COMMAND_SET | Cns::ALLOCATED_NAMESPACE_OF_COMMAND_SET => {
            nvm_only()?;
            active()?;
            Ok(NvmNamespace { storage_tag_mask: 0, protection: 0 }.encode())
        }
        Cns::CONTROLLER_OF_COMMAND_SET => {
            nvm_only()?;
            Ok(nvm_controller().encode())
        }
        Cns::NAMESPACE_INDEPENDENT => Ok(independent(active()?).encode()),
        Cns::CONTROLLERS | Cns::CONTROLLERS_OF_NAMESPACE => {
            if command.cns == Cns::CONTROLLERS_OF_NAMESPACE {
                active()?;
            }
            let from = Cntlid(command.controller);
            let mut all: Vec<Cntlid> = controllers.filter(|id| *id >= from).collect();
            all.sort_unstable();
            Ok(ControllerList::encode(all.into_iter().take(ControllerList::MAX)))
        }
        Cns::COMMAND_SETS => Ok(CommandSetCombination::encode_all(&[CommandSetCombination::NVM])),
        _ => Err(Status::INVALID_FIELD),
    }
}

fn controller(
    settings: &Settings,
    association: &Association,
    subsystem: Option<&Subsystem>,
) -> IdentifyController {
    let limits = &settings.limits;
    let io = association.controller.kind == Kind::Io;
    let serial = subsystem.map_or([b' '; 20], |subsystem| subsystem.serial);
    let serial = String::from_utf8_lossy(&serial);
    // In blocks of the namespace that has the largest ones, so that it is true of each.
    let largest = subsystem.map_or(PAGE_BYTES, |subsystem| {
        let blocks = subsystem.namespaces.iter().map(|namespace| 1 << namespace.block_shift);
        blocks.max().unwrap_or(PAGE_BYTES)
    });
    let atomic = atomic_blocks(limits, largest);
    let cached = subsystem.is_some_and(|subsystem| {
        subsystem.namespaces.iter().any(|namespace| namespace.write_cache)
    });
    IdentifyController {
        vendor: 0,
        subsystem_vendor: 0,
        serial: Ascii::new(serial.trim_end())
            .unwrap_or(Ascii::new("").expect("an empty text fits")),
        model: Ascii::new(&settings.model).expect("checked when the target was made"),
        firmware: Ascii::new(&settings.firmware).expect("checked when the target was made"),
        arbitration_burst: 6,
        ieee_oui: [0; 3],
        multi_path: match io {
            true => MultiPath::PORTS | MultiPath::CONTROLLERS | MultiPath::ANA,
            false => MultiPath::empty(),
        },
        max_data_transfer: u8::try_from((limits.transfer_bytes_max / PAGE_BYTES).ilog2())
            .expect("a binary logarithm is small"),
        controller: association.controller.id,
        version: VERSION,
        events: if io { Events::IO } else { Events::DISCOVERY },
        attributes: ControllerAttributes::HOST_IDENTIFIER_128,
        controller_type: if io { ControllerType::Io } else { ControllerType::Discovery },
        retry_delays: [0; 3],
        admin_commands: AdminCommands::empty(),
        abort_limit: ABORTS_MAX,
        event_request_limit: u16::try_from(events::REQUESTS_MAX).expect("a few"),
        // One slot, which is read-only.
        firmware_updates: 0b11,
        log_pages: LogPageAttributes::EXTENDED_DATA | LogPageAttributes::COMMANDS_SUPPORTED,
        error_log_entries: 1,
        warning_temperature: 0,
        critical_temperature: 0,
        total_capacity: 0,
        unallocated_capacity: 0,
        keep_alive_granularity_ms: KEEP_ALIVE_GRANULARITY_MS,
        ana_transition_s: if io { ANA_TRANSITION_S } else { 0 },
        ana: match io {
            true => AnaCapabilities::OPTIMIZED,
            false => AnaCapabilities::empty(),
        },
        ana_group_max: if io { ANA_GROUP } else { 0 },
        ana_groups: if io { 1 } else { 0 },
        domain: 0,
        max_commands: u16::try_from(limits.queue_entries_max).unwrap_or(u16::MAX),
        namespaces: subsystem.map_or(0, |subsystem| {
            subsystem.namespaces.last().map_or(0, |namespace| namespace.nsid.0)
        }),
        io_commands: match io {
            true => IoCommands::COMPARE | IoCommands::DATASET_MANAGEMENT | IoCommands::WRITE_ZEROES,
            false => IoCommands::empty(),
        },
        fuses: if io { Fuses::COMPARE_AND_WRITE } else { Fuses::empty() },
        write_cache: WriteCache { present: cached, flush_broadcast: 2 },
        atomic_write_normal: atomic,
        atomic_write_power_fail: 1,
        atomic_compare_write: blocks_of(limits.fused_bytes_max(), largest),
        write_protection: 0,
        sgls: SglSupport::SUPPORTED | SglSupport::OFFSET | SglSupport::TRANSPORT,
        max_namespaces: subsystem
            .map_or(0, |subsystem| u32::try_from(subsystem.namespaces.len()).unwrap_or(u32::MAX)),
        subsystem: association.subsystem.unwrap_or_else(Nqn::discovery),
        io_capsule_bytes: 64 + limits.capsule_bytes_max,
        io_response_bytes: 16,
        capsule_data_offset: 0,
        static_controllers: false,
        max_sgl_descriptors: 1,
        disconnect: true,
        discovery_type: u8::from(!io),
    }
}

/// What is atomic while the power lasts: everything that fits one command, since requests that
/// overlap take effect one after another.
fn atomic_blocks(limits: &Limits, block_bytes: u32) -> u32 {
    blocks_of(limits.transfer_bytes_max, block_bytes)
}

fn blocks_of(bytes: u32, block_bytes: u32) -> u32 {
    (bytes / block_bytes).clamp(1, 65_536)
}

fn namespace(limits: &Limits, namespace: &Namespace) -> IdentifyNamespace {
    let shift = namespace.block_shift;
    let blocks = |bytes: u32| (bytes >> shift).clamp(1, 65_536);
    let atomic = atomic_blocks(limits, 1 << shift);
    let write = blocks(namespace.preferred_write_bytes);
    let deallocate = blocks(namespace.preferred_deallocate_bytes);
    IdentifyNamespace {
        size: BlockCount(namespace.blocks),
        capacity: BlockCount(namespace.blocks),
        utilization: BlockCount(namespace.blocks),
        features: NamespaceFeatures::IDENTIFIERS_NEVER_REUSED,
        sharing: NamespaceSharing::SHARED,
        reservations: 0,
        deallocate: DeallocateFeatures::READ_ZEROES | DeallocateFeatures::WRITE_ZEROES_DEALLOCATES,
        atomicity: Some(Atomicity {
            write_normal: atomic,
            write_power_fail: 1,
            compare_write: blocks_of(limits.fused_bytes_max(), 1 << shift),
        }),
        io_boundary: 0,
        capacity_bytes: u128::from(namespace.blocks) << shift,
        preferred: Some(Preferred {
            write_granularity: write,
            write_alignment: write,
            deallocate_granularity: deallocate,
            deallocate_alignment: deallocate,
            write_size: write,
        }),
        ana_group: ANA_GROUP,
        write_protected: namespace.read_only,
        nguid: namespace.nguid,
        eui64: [0; 8],
        format: LbaFormat::of(shift),
    }
}

fn descriptors(namespace: &Namespace) -> NamespaceDescriptors {
    NamespaceDescriptors {
        eui64: None,
        nguid: (namespace.nguid != [0; 16]).then_some(namespace.nguid),
        uuid: Some(namespace.uuid.into_bytes()),
        command_set: Some(CSI_NVM),
    }
}

fn independent(namespace: &Namespace) -> IndependentNamespace {
    IndependentNamespace {
        features: IndependentFeatures::empty(),
        sharing: NamespaceSharing::SHARED,
        reservations: 0,
        ana_group: ANA_GROUP,
        write_protected: namespace.read_only,
        ready: true,
    }
}

fn nvm_controller() -> NvmController {
    NvmController {
        dataset_ranges: u8::try_from(RANGES_MAX).unwrap_or(u8::MAX),
        ..NvmController::default()
    }
}
