//! The log pages of a controller.
//!
//! A page is made for each reading; [`super::Target::command`] cuts out the part that was asked for.
//! What is not counted is zero: there is no error log, since every error is answered where it
//! happens, and nothing wears out that a controller knows of.
//!
//! Source: Base section 5.1.12.

use fathom_nvme::{
    Status,
    admin::{self, GetLogPage},
    feature::FeatureId,
    identify::Ascii,
    log::{
        AnaGroup, AnaHeader, AnaState, CommandEffect, CommandEffects, CriticalWarning,
        ERROR_ENTRY_SIZE, EffectsLog, FeatureEffect, FeatureEffects, FirmwareSlots, Health, LogId,
        LogPageSupport, SupportedLogPages,
    },
    nvm,
};
use fathom_units::Nsid;

use super::{
    Association, AssociationId, Target,
    controller::{Kind, Moved},
    identify::ANA_GROUP,
};
use crate::export::Subsystem;

const IO_PAGES: &[LogId] = &[
    LogId::SUPPORTED_LOG_PAGES,
    LogId::ERROR_INFORMATION,
    LogId::HEALTH,
    LogId::FIRMWARE_SLOT,
    LogId::CHANGED_NAMESPACES,
    LogId::COMMAND_EFFECTS,
    LogId::ANA,
    LogId::FEATURE_EFFECTS,
];
const DISCOVERY_PAGES: &[LogId] =
    &[LogId::SUPPORTED_LOG_PAGES, LogId::ERROR_INFORMATION, LogId::DISCOVERY];

/// Entries of the Changed Attached Namespace List, 4 bytes each.
const CHANGED_LIST_BYTES: usize = 4096;
/// What a healthy device says of its spare space, in percent.
const SPARE_PERCENT: u8 = 100;

impl Target {
    /// The whole of a log page.
    pub(super) fn log_page(
        &self,
        id: AssociationId,
        command: &GetLogPage,
    ) -> Result<Vec<u8>, Status> {
        let association = &self.associations[&id];
        let pages = match association.controller.kind {
            Kind::Io => IO_PAGES,
            Kind::Discovery { .. } => DISCOVERY_PAGES,
        };
        if !pages.contains(&command.page) {
            return Err(Status::INVALID_LOG_PAGE);
        }
        match (command.page, association.controller.kind) {
            (LogId::SUPPORTED_LOG_PAGES, _) => {
                let supported: Vec<_> =
                    pages.iter().map(|page| (*page, LogPageSupport::SUPPORTED)).collect();
                Ok(SupportedLogPages::new(&supported).as_bytes().to_vec())
            }
            (LogId::ERROR_INFORMATION, _) => Ok(vec![0; ERROR_ENTRY_SIZE]),
            (LogId::DISCOVERY, Kind::Discovery { reached }) => {
                Ok(self.discovery_page(&association.host, reached))
            }
            (LogId::HEALTH, _) => {
                // Only the controller's: LPA says that namespaces have none of their own.
                match command.nsid {
                    Nsid::NONE | Nsid::BROADCAST => Ok(health(association).encode().to_vec()),
                    _ => Err(Status::INVALID_FIELD),
                }
            }
            (LogId::FIRMWARE_SLOT, _) => Ok(self.firmware_slots().encode().to_vec()),
            (LogId::CHANGED_NAMESPACES, _) => Ok(changed_namespaces(association)),
            (LogId::COMMAND_EFFECTS, _) => Ok(effects().as_bytes().to_vec()),
            (LogId::FEATURE_EFFECTS, _) => Ok(feature_effects().as_bytes().to_vec()),
            (LogId::ANA, _) => {
                let subsystem = association.subsystem.and_then(|nqn| self.subsystem(&nqn));
                Ok(ana(subsystem, AnaHeader::is_groups_only(command.specific)))
            }
            _ => Err(Status::INVALID_LOG_PAGE),
        }
    }

    fn firmware_slots(&self) -> FirmwareSlots {
        let revision = Ascii::new(&self.settings.firmware).expect("checked when it was made");
        let mut revisions = [None; 7];
        revisions[0] = Some(revision);
        FirmwareSlots { active: 1, next: 0, revisions }
    }
}

/// The list is emptied when it has been read without a wish to keep its event.
fn changed_namespaces(association: &Association) -> Vec<u8> {
    let changed = association.controller.events.changed();
    let mut page: Vec<u8> = changed.iter().flat_map(|nsid| nsid.0.to_le_bytes()).collect();
    page.resize(CHANGED_LIST_BYTES, 0);
    page
}

fn health(association: &Association) -> Health {
    let mut moved: Moved = association.controller.traffic;
    association.queues.values().for_each(|place| moved.add(&place.traffic));
    Health {
        warning: CriticalWarning::empty(),
        temperature: 0,
        spare: SPARE_PERCENT,
        spare_threshold: 0,
        used: 0,
        bytes_read: moved.read_bytes.into(),
        bytes_written: moved.written_bytes.into(),
        read_commands: moved.reads.into(),
        write_commands: moved.writes.into(),
        busy_minutes: 0,
        power_cycles: 0,
        power_on_hours: 0,
        power_losses: 0,
        media_errors: 0,
        error_entries: 0,
    }
}

/// One group with all namespaces, optimized.
fn ana(subsystem: Option<&Subsystem>, groups_only: bool) -> Vec<u8> {
    let all = subsystem.map_or(&[][..], |subsystem| &subsystem.namespaces);
    let listed = if groups_only { &[][..] } else { all };
    let mut page = AnaHeader { changes: 1, groups: 1 }.encode().to_vec();
    let group = AnaGroup {
        id: ANA_GROUP,
        namespaces: u32::try_from(listed.len()).expect("a subsystem has less than 2^32"),
        changes: 1,
        state: AnaState::Optimized,
    };
    page.extend_from_slice(&group.encode());
    listed.iter().for_each(|one| page.extend_from_slice(&AnaGroup::encode_nsid(one.nsid)));
    page
}

fn effects() -> EffectsLog {
    let reads = CommandEffect::SUPPORTED;
    let writes = CommandEffect::SUPPORTED | CommandEffect::CONTENT;
    EffectsLog::new(&CommandEffects {
        admin: &[
            (admin::opcode::GET_LOG_PAGE, reads),
            (admin::opcode::IDENTIFY, reads),
            (admin::opcode::ABORT, reads),
            (admin::opcode::SET_FEATURES, reads),
            (admin::opcode::GET_FEATURES, reads),
            (admin::opcode::ASYNC_EVENT_REQUEST, reads),
            (admin::opcode::KEEP_ALIVE, reads),
        ],
        io: &[
            (nvm::opcode::FLUSH, reads),
            (nvm::opcode::WRITE, writes),
            (nvm::opcode::READ, reads),
            (nvm::opcode::COMPARE, reads),
            (nvm::opcode::WRITE_ZEROES, writes),
            (nvm::opcode::DATASET_MANAGEMENT, writes),
        ],
    })
}

fn feature_effects() -> FeatureEffects {
    let features = [
        FeatureId::ARBITRATION,
        FeatureId::POWER_MANAGEMENT,
        FeatureId::ERROR_RECOVERY,
        FeatureId::VOLATILE_WRITE_CACHE,
        FeatureId::NUMBER_OF_QUEUES,
        FeatureId::WRITE_ATOMICITY,
        FeatureId::ASYNC_EVENT_CONFIGURATION,
        FeatureId::KEEP_ALIVE_TIMER,
        FeatureId::HOST_BEHAVIOR_SUPPORT,
        FeatureId::HOST_IDENTIFIER,
    ];
    FeatureEffects::new(&features.map(|feature| (feature, FeatureEffect::SUPPORTED)))
}
