//! Commands of the admin queue, and the Fabrics commands that come on it.
//!
//! | command | a controller for I/O | for discovery |
//! |---|---|---|
//! | Property Get and Set | yes | yes |
//! | Identify | all that [`super::identify`] has | itself |
//! | Get Log Page | health, firmware, changed namespaces, effects, ANA, ... | discovery |
//! | Set and Get Features | those of [`Target::get_feature`] | events, keep alive |
//! | Asynchronous Event Request, Keep Alive, Abort | yes | yes |
//!
//! Before a controller is enabled it takes Fabrics commands only. What is not in the table is an
//! invalid opcode. Sources: Base sections 3.1.3, 5.1 and 6.

use fathom_nvme::{
    Status,
    admin::{Abort, AdminCommand, GetFeatures, GetLogPage, Identify, Select, SetFeatures},
    fabrics::{self, FabricsCommand, PropertySet},
    feature::{
        Arbitration, AsyncEventConfiguration, ErrorRecovery, FeatureId, HostBehaviorSupport,
        KeepAliveTimer, NumberOfQueues, PowerManagement, VolatileWriteCache, WriteAtomicity,
    },
    identify::AsyncEventsSupported,
    property::PropertySize,
};
use fathom_units::Monotonic;

use super::{
    ABORTS_MAX, Action, Association, AssociationId, ConnectionId, Target, controller::Kind,
    events::Events, identify,
};
use crate::{
    connection::{AdminRequest, Answer, Slot},
    export::Subsystem,
};

/// How far beyond the end of a log page a host may read, in bytes: what it has no use for costs this
/// side memory.
const PADDING_MAX: u64 = 16 << 10;

impl Target {
    /// Carries out a command of an admin queue. Its answer comes as an [`Action`], of an
    /// Asynchronous Event Request when there is an event.
    pub fn command(&mut self, connection: ConnectionId, request: &AdminRequest, now: Monotonic) {
        self.pass(now);
        let Some(&id) = self.connections.get(&connection) else { return };
        let association = &self.associations[&id];
        if association.ending {
            return;
        }
        if association.subsystem.is_none() {
            // Activity keeps a controller for discovery (Base 3.1.3.3).
            self.heard(id, now);
        }
        match self.carry_out(id, connection, request, now) {
            Ok(Some(answer)) => {
                self.actions.push_back(Action::Answer(connection, request.slot, answer));
            }
            // An event answers it, or another queue.
            Ok(None) => {}
            Err(status) => {
                let answer = Answer::from(status.do_not_retry());
                self.actions.push_back(Action::Answer(connection, request.slot, answer));
            }
        }
        let association = self.associations.get_mut(&id).expect("connections have one");
        association.deliver_events(&mut self.actions);
    }

    fn carry_out(
        &mut self,
        id: AssociationId,
        connection: ConnectionId,
        request: &AdminRequest,
        now: Monotonic,
    ) -> Result<Option<Answer>, Status> {
        let AdminRequest { slot, entry, data } = request;
        if entry.opcode() == fabrics::OPCODE {
            let answer = self.fabrics(id, FabricsCommand::parse(entry)?)?;
            // A change of its properties shows that the host lives, as a keep alive does.
            self.heard(id, now);
            return Ok(Some(answer));
        }
        if !self.associations[&id].controller.is_ready() {
            return Err(Status::COMMAND_SEQUENCE_ERROR);
        }
        let answer = match AdminCommand::parse(entry)? {
            AdminCommand::Identify(command) => self.identify(id, &command)?,
            AdminCommand::GetLogPage(command) => self.get_log_page(id, &command)?,
            AdminCommand::GetFeatures(command) => self.get_feature(id, &command)?,
            AdminCommand::SetFeatures(command) => self.set_feature(id, &command, data, now)?,
            AdminCommand::Abort(abort) => return self.abort(id, connection, *slot, abort),
            AdminCommand::AsyncEventRequest => {
                return match self.association(id).controller.events.request(*slot) {
                    true => Ok(None),
                    false => Err(Status::ASYNC_EVENT_REQUEST_LIMIT_EXCEEDED),
                };
            }
            AdminCommand::KeepAlive => {
                self.heard(id, now);
                Answer::result(0)
            }
        };
        Ok(Some(answer))
    }

    /// Passes an Abort on to the queue whose command is meant. Commands of the admin queue are
    /// answered at once, or are requests for events, which the host leaves there on purpose.
    fn abort(
        &mut self,
        id: AssociationId,
        connection: ConnectionId,
        slot: Slot,
        abort: Abort,
    ) -> Result<Option<Answer>, Status> {
        let under_way = self.aborts.values().filter(|(asker, _)| *asker == connection).count();
        if under_way >= usize::from(ABORTS_MAX) {
            // Without DNR: there is room again soon.
            return Ok(Some(Status::ABORT_COMMAND_LIMIT_EXCEEDED.into()));
        }
        let mut queues = self.associations[&id].queues.iter();
        let queue = queues.find(|(_, place)| place.qid == abort.qid && !place.ending);
        let Some((&queue, _)) = queue.filter(|_| !abort.qid.is_admin()) else {
            return Ok(Some(Answer::result(Abort::result(false))));
        };
        let ticket = self.ticket();
        self.aborts.insert(ticket, (connection, slot));
        self.actions.push_back(Action::Abort(queue, abort.cid, ticket));
        Ok(None)
    }

    /// What [`Action::Abort`] has come to: whether the command was aborted at once.
    pub fn aborted(&mut self, ticket: super::Ticket, at_once: bool) {
        let Some((connection, slot)) = self.aborts.remove(&ticket) else { return };
        // The admin queue may have ended meanwhile.
        if self.connections.contains_key(&connection) {
            let answer = Answer::result(Abort::result(at_once));
            self.actions.push_back(Action::Answer(connection, slot, answer));
        }
    }

    fn association(&mut self, id: AssociationId) -> &mut Association {
        self.associations.get_mut(&id).expect("an association that is there")
    }

    fn subsystem_of(&self, id: AssociationId) -> Option<&Subsystem> {
        self.subsystem(&self.associations[&id].subsystem?)
    }

    fn fabrics(&mut self, id: AssociationId, command: FabricsCommand) -> Result<Answer, Status> {
        match command {
            FabricsCommand::PropertyGet(get) => {
                let value = self.associations[&id].controller.get(get, &self.settings)?;
                let value =
                    if get.size == PropertySize::Four { value & 0xFFFF_FFFF } else { value };
                Ok(Answer::result(value))
            }
            FabricsCommand::PropertySet(set) => self.set_property(id, set),
            FabricsCommand::Connect(_) => Err(Status::COMMAND_SEQUENCE_ERROR),
            FabricsCommand::Disconnect => Err(Status::INVALID_QUEUE_TYPE),
            FabricsCommand::AuthenticationSend | FabricsCommand::AuthenticationReceive => {
                Err(Status::COMMAND_SEQUENCE_ERROR)
            }
        }
    }

    fn set_property(&mut self, id: AssociationId, set: PropertySet) -> Result<Answer, Status> {
        let change = self.association(id).controller.set(set)?;
        if change.resets() {
            let association = self.association(id);
            let io = association.queues.iter_mut().filter(|(_, place)| !place.qid.is_admin());
            let ended: Vec<ConnectionId> = io
                .filter_map(|(&connection, place)| {
                    (!core::mem::replace(&mut place.ending, true)).then_some(connection)
                })
                .collect();
            self.actions.extend(ended.into_iter().map(Action::End));
            self.complete_reset(id);
        }
        if change.shuts_down() {
            let namespaces = self.subsystem_of(id).map_or(&[][..], |one| &one.namespaces);
            let cached = namespaces.iter().filter(|namespace| namespace.write_cache);
            let devices: Vec<_> = cached.map(|namespace| namespace.device).collect();
            self.association(id).controller.shut_down(devices.len());
            for device in devices {
                let ticket = self.ticket();
                self.flushes.insert(ticket, id);
                self.actions.push_back(Action::Flush(device, ticket));
            }
        }
        Ok(Answer::result(0))
    }

    /// A flush that [`Action::Flush`] asked for has ended.
    pub fn flushed(&mut self, ticket: super::Ticket, succeeded: bool) {
        let Some(id) = self.flushes.remove(&ticket) else { return };
        // The association may have ended meanwhile.
        if let Some(association) = self.associations.get_mut(&id) {
            association.controller.flushed(succeeded);
        }
    }

    fn identify(&self, id: AssociationId, command: &Identify) -> Result<Answer, Status> {
        let association = &self.associations[&id];
        let siblings = self.associations.values();
        let siblings = siblings.filter(|other| other.subsystem == association.subsystem);
        let controllers = siblings.map(|other| other.controller.id);
        let subsystem = self.subsystem_of(id);
        let bytes =
            identify::identify(&self.settings, association, subsystem, controllers, command)?;
        Ok(Answer::data(bytes.to_vec()))
    }

    // Features.

    /// The value of a feature. None can be saved or set for one namespace.
    fn get_feature(&self, id: AssociationId, command: &GetFeatures) -> Result<Answer, Status> {
        // ONCS says that there is no choice of values.
        if command.select != Select::Current {
            return Err(Status::INVALID_FIELD);
        }
        let association = &self.associations[&id];
        let controller = &association.controller;
        let io = controller.kind == Kind::Io;
        let value = match command.feature {
            FeatureId::ASYNC_EVENT_CONFIGURATION => controller.events.configuration.bits(),
            FeatureId::KEEP_ALIVE_TIMER => {
                KeepAliveTimer { timeout_ms: controller.keep_alive_ms }.encode()
            }
            FeatureId::HOST_IDENTIFIER if io => {
                if command.cdw11 & fathom_nvme::feature::EXTENDED_HOST_IDENTIFIER == 0 {
                    return Err(Status::INVALID_FIELD);
                }
                return Ok(Answer::data(association.host_id.0.to_vec()));
            }
            FeatureId::ARBITRATION if io => Arbitration::UNLIMITED.encode(),
            FeatureId::POWER_MANAGEMENT if io => {
                PowerManagement { state: 0, workload_hint: 0 }.encode()
            }
            FeatureId::ERROR_RECOVERY if io => {
                ErrorRecovery { time_limit: 0, deallocated_error: false }.encode()
            }
            FeatureId::WRITE_ATOMICITY if io => WriteAtomicity { normal_disabled: false }.encode(),
            FeatureId::NUMBER_OF_QUEUES if io => {
                let queues = u32::from(controller.io_queues.max(1));
                NumberOfQueues { submission: queues, completion: queues }.encode()
            }
            FeatureId::VOLATILE_WRITE_CACHE if io && self.has_write_cache(id) => {
                VolatileWriteCache { enabled: true }.encode()
            }
            FeatureId::HOST_BEHAVIOR_SUPPORT if io => {
                return Ok(Answer::data(HostBehaviorSupport::default().encode().to_vec()));
            }
            _ => return Err(Status::INVALID_FIELD),
        };
        Ok(Answer::result(value.into()))
    }

    fn has_write_cache(&self, id: AssociationId) -> bool {
        let subsystem = self.subsystem_of(id);
        subsystem.is_some_and(|one| one.namespaces.iter().any(|namespace| namespace.write_cache))
    }

    fn set_feature(
        &mut self,
        id: AssociationId,
        command: &SetFeatures,
        _data: &[u8],
        now: Monotonic,
    ) -> Result<Answer, Status> {
        if command.save {
            return Err(Status::FEATURE_NOT_SAVEABLE);
        }
        let queues_max = self.settings.limits.io_queues_max;
        let association = self.association(id);
        let controller = &mut association.controller;
        let io = controller.kind == Kind::Io;
        match command.feature {
            FeatureId::ASYNC_EVENT_CONFIGURATION => {
                let supported = if io { Events::IO } else { Events::DISCOVERY };
                controller.events.configuration = configuration(command.cdw11, supported);
            }
            FeatureId::KEEP_ALIVE_TIMER => {
                let timer = KeepAliveTimer::decode(command.cdw11);
                controller.keep_alive_ms = timer.timeout_ms;
                self.heard(id, now);
            }
            FeatureId::NUMBER_OF_QUEUES if io => {
                let wanted = NumberOfQueues::decode(command.cdw11);
                if wanted.submission > NumberOfQueues::MAX
                    || wanted.completion > NumberOfQueues::MAX
                {
                    return Err(Status::INVALID_FIELD);
                }
                // A change after the first I/O queue is not allowed (Base 5.1.25.1.5).
                let io_queues = association.queues.values().filter(|place| !place.qid.is_admin());
                if io_queues.count() > 0 {
                    return Err(Status::COMMAND_SEQUENCE_ERROR);
                }
                // A submission and a completion queue are one pair.
                let granted = wanted.submission.min(wanted.completion).min(queues_max.into());
                controller.io_queues = u16::try_from(granted).expect("at most the limit");
                let granted = NumberOfQueues { submission: granted, completion: granted };
                return Ok(Answer::result(granted.encode().into()));
            }
            FeatureId::HOST_IDENTIFIER => return Err(Status::COMMAND_SEQUENCE_ERROR),
            FeatureId::ARBITRATION
            | FeatureId::POWER_MANAGEMENT
            | FeatureId::ERROR_RECOVERY
            | FeatureId::WRITE_ATOMICITY
            | FeatureId::VOLATILE_WRITE_CACHE
            | FeatureId::HOST_BEHAVIOR_SUPPORT
                if io =>
            {
                return Err(Status::FEATURE_NOT_CHANGEABLE);
            }
            _ => return Err(Status::INVALID_FIELD),
        }
        Ok(Answer::result(0))
    }

    // Log pages.

    fn get_log_page(&mut self, id: AssociationId, command: &GetLogPage) -> Result<Answer, Status> {
        if command.length > self.settings.limits.transfer_bytes_max.into() {
            return Err(Status::INVALID_FIELD);
        }
        let fathom_nvme::admin::LogOffset::Bytes(offset) = command.offset else {
            return Err(Status::INVALID_FIELD);
        };
        let page = self.log_page(id, command)?;
        let end = offset.saturating_add(command.length);
        if offset > page.len() as u64 || end > page.len() as u64 + PADDING_MAX {
            return Err(Status::INVALID_FIELD);
        }
        if !command.retain_event {
            self.association(id).controller.events.read(command.page);
        }
        // What lies behind the end of a page is zero.
        let offset = usize::try_from(offset).expect("not beyond the page");
        let length = usize::try_from(command.length).expect("at most the transfer limit");
        let mut data = page[offset..page.len().min(offset + length)].to_vec();
        data.resize(length, 0);
        Ok(Answer::data(data))
    }
}

/// What a host wants to be told, of what can be told.
fn configuration(cdw11: u32, supported: AsyncEventsSupported) -> AsyncEventConfiguration {
    AsyncEventConfiguration::from_bits_truncate(cdw11 & supported.bits())
}
