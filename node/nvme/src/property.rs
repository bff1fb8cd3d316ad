//! Properties of a controller: CAP, VS, CC, CSTS.
//!
//! Sources: sections 3.1.4 and 3.1.4.1 to 3.1.4.6. Over fabrics they are read and written by
//! [`PropertyGet`](crate::fabrics::PropertyGet) and [`PropertySet`](crate::fabrics::PropertySet).

use bitflags::bitflags;
use core::fmt;

/// How many bytes a property command moves (6.5, ATTRIB).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PropertySize {
    /// Four.
    Four,
    /// Eight.
    Eight,
}

impl PropertySize {
    /// The size that bits 2:0 of ATTRIB say; none when they are reserved.
    pub const fn from_field(bits: u32) -> Option<Self> {
        match bits {
            0 => Some(Self::Four),
            1 => Some(Self::Eight),
            _ => None,
        }
    }

    /// Bits 2:0 of ATTRIB.
    pub const fn to_field(self) -> u32 {
        match self {
            Self::Four => 0,
            Self::Eight => 1,
        }
    }
}

/// The properties that a controller over fabrics has (3.1.4, Figure 34).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Property {
    /// Controller capabilities.
    Capabilities,
    /// Version.
    Version,
    /// Controller configuration.
    Configuration,
    /// Controller status.
    Status,
    /// NVM subsystem reset, optional.
    SubsystemReset,
    /// Controller ready timeouts, which a controller has whose CAP.CRMS is not zero.
    ReadyTimeouts,
}

impl Property {
    /// The property at this offset, if there is one over fabrics.
    pub const fn at(offset: u32) -> Option<Self> {
        match offset {
            0x00 => Some(Self::Capabilities),
            0x08 => Some(Self::Version),
            0x14 => Some(Self::Configuration),
            0x1C => Some(Self::Status),
            0x20 => Some(Self::SubsystemReset),
            0x68 => Some(Self::ReadyTimeouts),
            _ => None,
        }
    }

    /// Where it is.
    pub const fn offset(self) -> u32 {
        match self {
            Self::Capabilities => 0x00,
            Self::Version => 0x08,
            Self::Configuration => 0x14,
            Self::Status => 0x1C,
            Self::SubsystemReset => 0x20,
            Self::ReadyTimeouts => 0x68,
        }
    }

    /// How many bytes it has.
    pub const fn size(self) -> PropertySize {
        match self {
            Self::Capabilities => PropertySize::Eight,
            _ => PropertySize::Four,
        }
    }
}

/// `width` bits of `value` from bit `shift`.
const fn bits(value: u64, shift: u32, width: u32) -> u64 {
    value >> shift & ((1 << width) - 1)
}

/// The same as a byte; `width` is at most 8.
const fn byte(value: u64, shift: u32, width: u32) -> u8 {
    assert!(width <= 8, "a byte has 8 bits");
    bits(value, shift, width).to_le_bytes()[0]
}

bitflags! {
    /// CAP.CSS, bits 44:37: which I/O command sets there are (3.1.4.1).
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct CommandSets: u8 {
        /// NCSS: the NVM command set.
        const NVM = 1 << 0;
        /// IOCSS: those that Identify CNS 1Ch tells.
        const IO_COMMAND_SETS = 1 << 6;
        /// NOIOCSS: none, only admin commands.
        const NONE = 1 << 7;
    }
}

/// CAP, what a controller can do, as far as it concerns fabrics (3.1.4.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Capabilities {
    /// MQES, bits 15:0: how many entries an I/O queue can have, 2 to 65,536 (0's based).
    pub queue_entries_max: u32,
    /// CQR, bit 16: queues are contiguous; always so over fabrics.
    pub contiguous_queues: bool,
    /// AMS, bits 18:17: weighted round robin, and a vendor's own, beside round robin.
    pub arbitration: u8,
    /// TO, bits 31:24, in milliseconds (500 ms units): how long CSTS.RDY may take to change.
    pub timeout_ms: u32,
    /// NSSRS, bit 36: NVM subsystem reset is supported.
    pub subsystem_reset: bool,
    /// CSS, bits 44:37.
    pub command_sets: CommandSets,
    /// MPSMIN, bits 51:48: the smallest memory page is 2^(12 + MPSMIN) bytes.
    pub page_size_min: u8,
    /// MPSMAX, bits 55:52: the largest memory page is 2^(12 + MPSMAX) bytes.
    pub page_size_max: u8,
    /// CRMS, bits 60:59: bit 0 ready with media, bit 1 ready independent of media.
    pub ready_modes: u8,
}

const TIMEOUT_UNIT_MS: u32 = 500;

impl Capabilities {
    /// The property's value. DSTRD, BPS, PMRS, CMBS and NSSS are zero: they are of other
    /// transports, or not there.
    ///
    /// # Panics
    ///
    /// When a number does not fit into its field.
    pub fn encode(&self) -> u64 {
        let entries = self.queue_entries_max;
        assert!((2..=65536).contains(&entries), "MQES says 2 to 65,536 entries");
        let timeout = self.timeout_ms.div_ceil(TIMEOUT_UNIT_MS);
        assert!(timeout <= 0xFF, "CAP.TO has 8 bits of 500 ms");
        assert!(self.arbitration < 4 && self.ready_modes < 4, "AMS and CRMS have 2 bits");
        assert!(self.page_size_min < 16 && self.page_size_max < 16, "MPS has 4 bits");
        u64::from(entries - 1)
            | u64::from(self.contiguous_queues) << 16
            | u64::from(self.arbitration) << 17
            | u64::from(timeout) << 24
            | u64::from(self.subsystem_reset) << 36
            | u64::from(self.command_sets.bits()) << 37
            | u64::from(self.page_size_min) << 48
            | u64::from(self.page_size_max) << 52
            | u64::from(self.ready_modes) << 59
    }

    /// What the property's value says.
    pub fn decode(value: u64) -> Self {
        let [low, high, ..] = value.to_le_bytes();
        Self {
            queue_entries_max: u32::from(u16::from_le_bytes([low, high])) + 1,
            contiguous_queues: bits(value, 16, 1) == 1,
            arbitration: byte(value, 17, 2),
            timeout_ms: u32::from(byte(value, 24, 8)) * TIMEOUT_UNIT_MS,
            subsystem_reset: bits(value, 36, 1) == 1,
            command_sets: CommandSets::from_bits_truncate(byte(value, 37, 8)),
            page_size_min: byte(value, 48, 4),
            page_size_max: byte(value, 52, 4),
            ready_modes: byte(value, 59, 2),
        }
    }
}

/// CRTO, how long a controller may take to become ready (3.1.4.26).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReadyTimeouts {
    /// CRWMT, bits 15:0, in milliseconds (500 ms units): with media.
    pub with_media_ms: u32,
    /// CRIMT, bits 31:16, in milliseconds (500 ms units): independent of media; 0 where CAP.CRMS says
    /// that there is no such mode.
    pub independent_of_media_ms: u32,
}

impl ReadyTimeouts {
    /// The property's value.
    ///
    /// # Panics
    ///
    /// When a number does not fit into its field.
    pub fn encode(&self) -> u32 {
        let units = |milliseconds: u32| {
            let units = milliseconds.div_ceil(TIMEOUT_UNIT_MS);
            u32::from(u16::try_from(units).expect("CRTO has 16 bits of 500 ms for each"))
        };
        units(self.with_media_ms) | units(self.independent_of_media_ms) << 16
    }

    /// What the property's value says.
    pub fn decode(value: u32) -> Self {
        Self {
            with_media_ms: (value & 0xFFFF) * TIMEOUT_UNIT_MS,
            independent_of_media_ms: (value >> 16) * TIMEOUT_UNIT_MS,
        }
    }
}

/// VS, a version of the specification (3.1.4.2).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Version {
    /// MJR, bits 31:16.
    pub major: u16,
    /// MNR, bits 15:8.
    pub minor: u8,
    /// TER, bits 7:0.
    pub tertiary: u8,
}

impl Version {
    /// NVM Express Base Specification 2.1.
    pub const V2_1: Self = Self { major: 2, minor: 1, tertiary: 0 };

    /// The property's value.
    pub const fn encode(self) -> u32 {
        (self.major as u32) << 16 | (self.minor as u32) << 8 | self.tertiary as u32
    }

    /// What the property's value says.
    pub const fn decode(value: u32) -> Self {
        let [tertiary, minor, low, high] = value.to_le_bytes();
        Self { major: u16::from_le_bytes([low, high]), minor, tertiary }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.tertiary)
    }
}

/// CC.SHN: whether and how the host shuts the controller down (3.1.4.5).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ShutdownNotification {
    /// 00b: not at all.
    None,
    /// 01b: in an orderly way.
    Normal,
    /// 10b: at once.
    Abrupt,
    /// 11b, reserved.
    Reserved,
}

/// CC, how a host sets the controller up (3.1.4.5).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Configuration {
    /// EN, bit 0.
    pub enable: bool,
    /// CSS, bits 6:4: the I/O command sets that the host uses.
    pub command_set: u8,
    /// MPS, bits 10:7: the memory page is 2^(12 + MPS) bytes.
    pub page_size: u8,
    /// AMS, bits 13:11: the arbitration mechanism.
    pub arbitration: u8,
    /// SHN, bits 15:14.
    pub shutdown: ShutdownNotification,
    /// IOSQES, bits 19:16: an I/O submission queue entry is 2^IOSQES bytes.
    pub io_submission_entry_size: u8,
    /// IOCQES, bits 23:20: an I/O completion queue entry is 2^IOCQES bytes.
    pub io_completion_entry_size: u8,
    /// CRIME, bit 24: ready independent of media.
    pub ready_independent_of_media: bool,
}

impl Configuration {
    /// CSS for the NVM command set.
    pub const CSS_NVM: u8 = 0b000;
    /// CSS for all supported I/O command sets.
    pub const CSS_ALL: u8 = 0b110;
    /// CSS for admin commands only.
    pub const CSS_ADMIN_ONLY: u8 = 0b111;
    /// AMS for round robin.
    pub const AMS_ROUND_ROBIN: u8 = 0b000;
    /// IOSQES of 64 bytes.
    pub const IOSQES: u8 = 6;
    /// IOCQES of 16 bytes.
    pub const IOCQES: u8 = 4;

    /// A controller that is not enabled: the value after a reset.
    pub const DISABLED: Self = Self {
        enable: false,
        command_set: Self::CSS_NVM,
        page_size: 0,
        arbitration: Self::AMS_ROUND_ROBIN,
        shutdown: ShutdownNotification::None,
        io_submission_entry_size: 0,
        io_completion_entry_size: 0,
        ready_independent_of_media: false,
    };

    /// The property's value.
    ///
    /// # Panics
    ///
    /// When a number does not fit into its field.
    pub fn encode(&self) -> u32 {
        assert!(self.command_set < 8 && self.arbitration < 8, "CSS and AMS have 3 bits");
        let sizes = [self.page_size, self.io_submission_entry_size, self.io_completion_entry_size];
        assert!(sizes.iter().all(|size| *size < 16), "MPS, IOSQES and IOCQES have 4 bits");
        let shutdown = match self.shutdown {
            ShutdownNotification::None => 0,
            ShutdownNotification::Normal => 1,
            ShutdownNotification::Abrupt => 2,
            ShutdownNotification::Reserved => 3,
        };
        u32::from(self.enable)
            | u32::from(self.command_set) << 4
            | u32::from(self.page_size) << 7
            | u32::from(self.arbitration) << 11
            | shutdown << 14
            | u32::from(self.io_submission_entry_size) << 16
            | u32::from(self.io_completion_entry_size) << 20
            | u32::from(self.ready_independent_of_media) << 24
    }

    /// What the property's value says.
    pub fn decode(value: u32) -> Self {
        let value = u64::from(value);
        Self {
            enable: bits(value, 0, 1) == 1,
            command_set: byte(value, 4, 3),
            page_size: byte(value, 7, 4),
            arbitration: byte(value, 11, 3),
            shutdown: match bits(value, 14, 2) {
                0 => ShutdownNotification::None,
                1 => ShutdownNotification::Normal,
                2 => ShutdownNotification::Abrupt,
                _ => ShutdownNotification::Reserved,
            },
            io_submission_entry_size: byte(value, 16, 4),
            io_completion_entry_size: byte(value, 20, 4),
            ready_independent_of_media: bits(value, 24, 1) == 1,
        }
    }
}

/// CSTS.SHST: how far a shutdown is (3.1.4.6).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ShutdownStatus {
    /// 00b: none was asked for.
    Normal,
    /// 01b: it is under way.
    Occurring,
    /// 10b: it has ended.
    Complete,
    /// 11b, reserved.
    Reserved,
}

/// CSTS, the state of a controller (3.1.4.6).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ControllerStatus {
    /// RDY, bit 0.
    pub ready: bool,
    /// CFS, bit 1: a fatal error.
    pub fatal: bool,
    /// SHST, bits 3:2.
    pub shutdown: ShutdownStatus,
    /// NSSRO, bit 4: an NVM subsystem reset has happened.
    pub subsystem_reset_occurred: bool,
    /// PP, bit 5: processing is paused.
    pub paused: bool,
}

impl ControllerStatus {
    /// A controller after a reset.
    pub const RESET: Self = Self {
        ready: false,
        fatal: false,
        shutdown: ShutdownStatus::Normal,
        subsystem_reset_occurred: false,
        paused: false,
    };

    /// The property's value.
    pub fn encode(&self) -> u32 {
        let shutdown = match self.shutdown {
            ShutdownStatus::Normal => 0,
            ShutdownStatus::Occurring => 1,
            ShutdownStatus::Complete => 2,
            ShutdownStatus::Reserved => 3,
        };
        u32::from(self.ready)
            | u32::from(self.fatal) << 1
            | shutdown << 2
            | u32::from(self.subsystem_reset_occurred) << 4
            | u32::from(self.paused) << 5
    }

    /// What the property's value says.
    pub fn decode(value: u32) -> Self {
        let value = u64::from(value);
        Self {
            ready: bits(value, 0, 1) == 1,
            fatal: bits(value, 1, 1) == 1,
            shutdown: match bits(value, 2, 2) {
                0 => ShutdownStatus::Normal,
                1 => ShutdownStatus::Occurring,
                2 => ShutdownStatus::Complete,
                _ => ShutdownStatus::Reserved,
            },
            subsystem_reset_occurred: bits(value, 4, 1) == 1,
            paused: bits(value, 5, 1) == 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bits of CAP that no field here has: reserved, DSTRD, BPS, CPS, PMRS, CMBS, NSSS.
    const CAP_OTHER: u64 = 0xE700_600F_00F8_0000 | 1 << 45 | 0b11 << 46 | 1 << 56 | 1 << 57;

    #[test]
    fn capabilities_of_all_ones_have_the_largest_values_and_keep_to_their_bits() {
        let all = Capabilities::decode(u64::MAX);
        assert_eq!(all.queue_entries_max, 65536);
        assert_eq!((all.arbitration, all.ready_modes), (3, 3));
        assert_eq!((all.page_size_min, all.page_size_max), (15, 15));
        assert_eq!(all.timeout_ms, 127_500);
        assert!(all.contiguous_queues && all.subsystem_reset);
        assert_eq!(all.command_sets, CommandSets::all());
    }

    #[test]
    fn each_bit_of_the_capabilities_belongs_to_one_field() {
        let command_sets = 0b1100_0001u64 << 37;
        let known = 0xFFFF
            | 1 << 16
            | 3 << 17
            | 0xFF << 24
            | 1 << 36
            | command_sets
            | 0xF << 48
            | 0xF << 52
            | 3 << 59;
        assert_eq!(known & CAP_OTHER, 0);
        for bit in 0..64 {
            // Neighbours are ones, MQES is never 0.
            let value = !(1u64 << bit);
            let encoded = Capabilities::decode(value).encode();
            assert_eq!(encoded, value & known, "bit {bit}");
        }
        let golden = Capabilities {
            queue_entries_max: 128,
            contiguous_queues: true,
            arbitration: 0,
            timeout_ms: 7_500,
            subsystem_reset: false,
            command_sets: CommandSets::NVM | CommandSets::IO_COMMAND_SETS,
            page_size_min: 0,
            page_size_max: 4,
            ready_modes: 0,
        };
        assert_eq!(golden.encode(), 0x0040_0820_0F01_007F);
    }

    #[test]
    fn each_bit_of_the_configuration_belongs_to_one_field() {
        const KNOWN: u32 = 0x01FF_FFF1;
        for bit in 0..32 {
            for value in [1u32 << bit, !(1u32 << bit)] {
                assert_eq!(Configuration::decode(value).encode(), value & KNOWN, "bit {bit}");
            }
        }
        let linux = Configuration::decode(0x0046_0001);
        assert!(linux.enable);
        assert_eq!(linux.io_submission_entry_size, Configuration::IOSQES);
        assert_eq!(linux.io_completion_entry_size, Configuration::IOCQES);
        assert_eq!(linux.shutdown, ShutdownNotification::None);
        let csi = Configuration::decode(0x0046_0461);
        assert_eq!((csi.command_set, csi.page_size), (Configuration::CSS_ALL, 8));
        assert_eq!(Configuration::decode(0x4000).shutdown, ShutdownNotification::Normal);
        assert_eq!(Configuration::decode(0x8000).shutdown, ShutdownNotification::Abrupt);
        assert_eq!(Configuration::decode(0x3800).arbitration, 7);
        assert!(Configuration::decode(0x0100_0000).ready_independent_of_media);
        assert_eq!(Configuration::DISABLED.encode(), 0);
    }

    #[test]
    fn each_bit_of_the_status_belongs_to_one_field() {
        for value in 0..64u32 {
            assert_eq!(ControllerStatus::decode(value | 0xFFFF_FFC0).encode(), value);
        }
        assert!(ControllerStatus::decode(1).ready);
        assert!(ControllerStatus::decode(2).fatal);
        assert_eq!(ControllerStatus::decode(4).shutdown, ShutdownStatus::Occurring);
        assert_eq!(ControllerStatus::decode(8).shutdown, ShutdownStatus::Complete);
        assert!(ControllerStatus::decode(16).subsystem_reset_occurred);
        assert!(ControllerStatus::decode(32).paused);
        assert_eq!(ControllerStatus::RESET.encode(), 0);
    }

    #[test]
    fn versions_are_ordered_and_print_as_usual() {
        assert_eq!(Version::V2_1.encode(), 0x0002_0100);
        assert_eq!(Version::decode(0x0102_0304), Version { major: 0x0102, minor: 3, tertiary: 4 });
        assert!(Version::decode(0x0001_0400) < Version::V2_1);
        assert_eq!(Version::decode(0x0001_0301).to_string(), "1.3.1");
    }

    #[test]
    fn ready_timeouts_have_the_bits_of_the_specification() {
        let timeouts = ReadyTimeouts { with_media_ms: 0x1234 * 500, independent_of_media_ms: 500 };
        assert_eq!(timeouts.encode(), 0x0001_1234);
        assert_eq!(ReadyTimeouts::decode(0x0001_1234), timeouts);
        assert_eq!(ReadyTimeouts::decode(0xFFFF_0000).with_media_ms, 0);
        let rounded = ReadyTimeouts { with_media_ms: 501, independent_of_media_ms: 0 };
        assert_eq!(rounded.encode(), 2);
    }

    #[test]
    fn properties_have_their_places_and_sizes() {
        for offset in 0..0x100 {
            if let Some(property) = Property::at(offset) {
                assert_eq!(property.offset(), offset);
                assert_eq!(property.size() == PropertySize::Eight, offset == 0);
            } else {
                assert!(![0, 8, 0x14, 0x1C, 0x20, 0x68].contains(&offset));
            }
        }
    }
}
