//! The discovery log page: what a host may connect to, and where.
//!
//! A page is made anew for each reading, for the host that reads it: subsystems that it may not
//! connect to are not in it. Its generation grows with every change of what is exported, so that a
//! host that reads it in parts sees that it has changed meanwhile.
//!
//! Source: Base sections 3.1.3.3 and 5.1.12.3.1; TCP section 3.6.1.

use fathom_nvme::{
    Nqn,
    log::{
        AddressFamily, DISCOVERY_ENTRY_SIZE, DISCOVERY_HEADER_SIZE, DiscoveryEntry,
        DiscoveryHeader, EntryFlags, SecureChannel, SecurityType, SubsystemType, TransportAddress,
        TransportType,
    },
};
use fathom_units::Cntlid;

use super::{ADMIN_ENTRIES_MAX, Portal, Settings, Target};

impl Target {
    /// The log page as `host` sees it that has reached this side at `reached`.
    pub(super) fn discovery_page(&self, host: &Nqn, reached: Portal) -> Vec<u8> {
        let subsystems = self.subsystems.values().map(|served| &served.subsystem);
        let allowed = subsystems.filter(|subsystem| subsystem.hosts.allow(host));
        let entries: Vec<DiscoveryEntry> = allowed
            .flat_map(|subsystem| {
                let portals = self.settings.portals.iter().enumerate();
                portals.map(|(number, portal)| {
                    entry(&self.settings, subsystem.nqn, number, *portal, reached)
                })
            })
            .collect();
        let mut page =
            Vec::with_capacity(DISCOVERY_HEADER_SIZE + entries.len() * DISCOVERY_ENTRY_SIZE);
        let header = DiscoveryHeader {
            generation: self.discovery_generation,
            entries: entries.len() as u64,
        };
        page.extend_from_slice(&header.encode());
        entries.iter().for_each(|entry| page.extend_from_slice(&entry.encode()));
        page
    }
}

fn entry(
    settings: &Settings,
    subsystem: Nqn,
    number: usize,
    portal: Portal,
    reached: Portal,
) -> DiscoveryEntry {
    let address = match portal.address.is_unspecified() {
        true => reached.address,
        false => portal.address,
    };
    let text = "an address and a port are short texts";
    DiscoveryEntry {
        transport: TransportType::TCP,
        address_family: match address.is_ipv4() {
            true => AddressFamily::IPV4,
            false => AddressFamily::IPV6,
        },
        subsystem_type: SubsystemType::NVM,
        secure_channel: SecureChannel::NotSpecified,
        flow_control_optional: true,
        port_id: u16::try_from(number).unwrap_or(u16::MAX),
        controller: Cntlid::DYNAMIC,
        admin_queue_entries: u16::try_from(
            settings.limits.queue_entries_max.min(ADMIN_ENTRIES_MAX),
        )
        .expect("the lesser one fits"),
        flags: EntryFlags::empty(),
        service: TransportAddress::new(&portal.port.to_string()).expect(text),
        subsystem,
        address: TransportAddress::new(&address.to_string()).expect(text),
        security: SecurityType::NONE,
    }
}
