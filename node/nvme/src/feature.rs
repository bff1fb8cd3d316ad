//! Features: what Get Features returns and Set Features takes, in dword 11, dword 0 or data.
//!
//! Before: [`GetFeatures`](crate::admin::GetFeatures) and
//! [`SetFeatures`](crate::admin::SetFeatures). Sources: sections 5.1.11 and 5.1.25, NVM section
//! 4.1.3.
//!
//! - The value of a feature has the same bits in CDW11 of Set Features and in dword 0 of the answer
//!   to Get Features, unless its type says otherwise.

use bitflags::bitflags;
use core::fmt;

/// A feature identifier (5.1.25, Figure 385).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FeatureId(pub u8);

impl FeatureId {
    /// Arbitration.
    pub const ARBITRATION: Self = Self(0x01);
    /// Power Management.
    pub const POWER_MANAGEMENT: Self = Self(0x02);
    /// Temperature Threshold.
    pub const TEMPERATURE_THRESHOLD: Self = Self(0x04);
    /// Error Recovery.
    pub const ERROR_RECOVERY: Self = Self(0x05);
    /// Volatile Write Cache.
    pub const VOLATILE_WRITE_CACHE: Self = Self(0x06);
    /// Number of Queues.
    pub const NUMBER_OF_QUEUES: Self = Self(0x07);
    /// Interrupt Coalescing, which no controller over fabrics has.
    pub const INTERRUPT_COALESCING: Self = Self(0x08);
    /// Interrupt Vector Configuration, which no controller over fabrics has.
    pub const INTERRUPT_VECTOR_CONFIGURATION: Self = Self(0x09);
    /// Write Atomicity Normal.
    pub const WRITE_ATOMICITY: Self = Self(0x0A);
    /// Asynchronous Event Configuration.
    pub const ASYNC_EVENT_CONFIGURATION: Self = Self(0x0B);
    /// Autonomous Power State Transition.
    pub const AUTONOMOUS_POWER_STATE_TRANSITION: Self = Self(0x0C);
    /// Timestamp.
    pub const TIMESTAMP: Self = Self(0x0E);
    /// Keep Alive Timer.
    pub const KEEP_ALIVE_TIMER: Self = Self(0x0F);
    /// Host Behavior Support.
    pub const HOST_BEHAVIOR_SUPPORT: Self = Self(0x16);
    /// I/O Command Set Profile.
    pub const IO_COMMAND_SET_PROFILE: Self = Self(0x19);
    /// Host Identifier.
    pub const HOST_IDENTIFIER: Self = Self(0x81);
    /// Reservation Notification Mask.
    pub const RESERVATION_NOTIFICATION_MASK: Self = Self(0x82);
    /// Reservation Persistence.
    pub const RESERVATION_PERSISTENCE: Self = Self(0x83);
    /// Namespace Write Protection Config.
    pub const NAMESPACE_WRITE_PROTECTION: Self = Self(0x84);
}

impl fmt::Debug for FeatureId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FeatureId({:02x}h)", self.0)
    }
}

bitflags! {
    /// What Get Features returns in dword 0 when it is asked what is supported (5.1.11, SEL 011b).
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct FeatureCapabilities: u32 {
        /// Bit 0: the value can be saved.
        const SAVEABLE = 1 << 0;
        /// Bit 1: each namespace has a value of its own.
        const NAMESPACE_SPECIFIC = 1 << 1;
        /// Bit 2: the value can be changed.
        const CHANGEABLE = 1 << 2;
    }
}

/// `width` bits of `value` from bit `shift`, at most 8 of them.
const fn byte(value: u32, shift: u32, width: u32) -> u8 {
    assert!(width <= 8, "a byte has 8 bits");
    (value >> shift & ((1 << width) - 1)).to_le_bytes()[0]
}

/// The lower or upper half of `value`.
const fn halves(value: u32) -> (u16, u16) {
    let [a, b, c, d] = value.to_le_bytes();
    (u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d]))
}

/// FID 01h: how queues are served (5.1.25.1.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Arbitration {
    /// AB, bits 2:0: at most 2^AB commands of a queue at once; 7 for no limit.
    pub burst: u8,
    /// LPW, bits 15:8: low priority weight, 1 to 256 (0's based).
    pub low_weight: u16,
    /// MPW, bits 23:16: medium priority weight, 1 to 256 (0's based).
    pub medium_weight: u16,
    /// HPW, bits 31:24: high priority weight, 1 to 256 (0's based).
    pub high_weight: u16,
}

impl Arbitration {
    /// No limit on a burst, and equal weights.
    pub const UNLIMITED: Self = Self { burst: 7, low_weight: 1, medium_weight: 1, high_weight: 1 };

    /// The bits.
    ///
    /// # Panics
    ///
    /// When a number does not fit into its field.
    pub fn encode(&self) -> u32 {
        assert!(self.burst < 8, "AB has 3 bits");
        let weight = |weight: u16| {
            let weight = weight.checked_sub(1).and_then(|weight| u8::try_from(weight).ok());
            u32::from(weight.expect("a weight is 1 to 256"))
        };
        u32::from(self.burst)
            | weight(self.low_weight) << 8
            | weight(self.medium_weight) << 16
            | weight(self.high_weight) << 24
    }

    /// What the bits say.
    pub fn decode(value: u32) -> Self {
        Self {
            burst: byte(value, 0, 3),
            low_weight: u16::from(byte(value, 8, 8)) + 1,
            medium_weight: u16::from(byte(value, 16, 8)) + 1,
            high_weight: u16::from(byte(value, 24, 8)) + 1,
        }
    }
}

/// FID 02h: the power state (5.1.25.1.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PowerManagement {
    /// PS, bits 4:0.
    pub state: u8,
    /// WH, bits 7:5: a hint about the workload.
    pub workload_hint: u8,
}

impl PowerManagement {
    /// The bits.
    ///
    /// # Panics
    ///
    /// When a number does not fit into its field.
    pub fn encode(&self) -> u32 {
        assert!(self.state < 32 && self.workload_hint < 8, "PS has 5 bits, WH 3");
        u32::from(self.state) | u32::from(self.workload_hint) << 5
    }

    /// What the bits say.
    pub fn decode(value: u32) -> Self {
        Self { state: byte(value, 0, 5), workload_hint: byte(value, 5, 3) }
    }
}

/// FID 04h: when a temperature is told (5.1.25.1.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TemperatureThreshold {
    /// TMPTH, bits 15:0, in kelvins.
    pub kelvins: u16,
    /// TMPSEL, bits 19:16: 0 the composite temperature, 1 to 8 a sensor, 15 all (to set).
    pub sensor: u8,
    /// THSEL, bits 21:20: 0 the upper threshold, 1 the lower one.
    pub kind: u8,
}

impl TemperatureThreshold {
    /// TMPSEL that names every sensor.
    pub const ALL_SENSORS: u8 = 0xF;

    /// The bits.
    ///
    /// # Panics
    ///
    /// When a number does not fit into its field.
    pub fn encode(&self) -> u32 {
        assert!(self.sensor < 16 && self.kind < 4, "TMPSEL has 4 bits, THSEL 2");
        u32::from(self.kelvins) | u32::from(self.sensor) << 16 | u32::from(self.kind) << 20
    }

    /// What the bits say.
    pub fn decode(value: u32) -> Self {
        Self { kelvins: halves(value).0, sensor: byte(value, 16, 4), kind: byte(value, 20, 2) }
    }
}

/// FID 05h: what happens on errors of the medium (NVM 4.1.3.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ErrorRecovery {
    /// TLER, bits 15:0: how long an operation is retried, in 100 ms; 0 for no limit.
    pub time_limit: u16,
    /// DULBE, bit 16: reading a deallocated block is an error.
    pub deallocated_error: bool,
}

impl ErrorRecovery {
    /// The bits.
    pub fn encode(&self) -> u32 {
        u32::from(self.time_limit) | u32::from(self.deallocated_error) << 16
    }

    /// What the bits say.
    pub fn decode(value: u32) -> Self {
        Self { time_limit: halves(value).0, deallocated_error: value & 1 << 16 != 0 }
    }
}

/// FID 06h, bit 0 (WCE): whether the volatile write cache is used (5.1.25.1.4).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VolatileWriteCache {
    /// WCE.
    pub enabled: bool,
}

impl VolatileWriteCache {
    /// The bits.
    pub fn encode(&self) -> u32 {
        u32::from(self.enabled)
    }

    /// What the bits say.
    pub fn decode(value: u32) -> Self {
        Self { enabled: value & 1 != 0 }
    }
}

/// FID 07h: how many I/O queues a host asks for, or a controller gives (5.1.25.2.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NumberOfQueues {
    /// NSQR and NSQA, bits 15:0: submission queues, 1 to 65,536 (0's based).
    pub submission: u32,
    /// NCQR and NCQA, bits 31:16: completion queues, 1 to 65,536 (0's based).
    pub completion: u32,
}

impl NumberOfQueues {
    /// The most that a host may ask for; with 65,536 the command is to be refused.
    pub const MAX: u32 = 65535;

    /// The bits.
    ///
    /// # Panics
    ///
    /// When a number is not between 1 and 65,536.
    pub fn encode(&self) -> u32 {
        let field = |queues: u32| {
            let field = queues.checked_sub(1).and_then(|field| u16::try_from(field).ok());
            u32::from(field.expect("1 to 65,536 queues"))
        };
        field(self.submission) | field(self.completion) << 16
    }

    /// What the bits say.
    pub fn decode(value: u32) -> Self {
        let (submission, completion) = halves(value);
        Self { submission: u32::from(submission) + 1, completion: u32::from(completion) + 1 }
    }
}

/// FID 08h: how interrupts are gathered (5.1.25.2.2). Controllers over fabrics have none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InterruptCoalescing {
    /// THR, bits 7:0: completions to gather, 1 to 256 (0's based).
    pub threshold: u16,
    /// TIME, bits 15:8: how long, in 100 microseconds; 0 for not at all.
    pub time: u8,
}

impl InterruptCoalescing {
    /// What the bits say.
    pub fn decode(value: u32) -> Self {
        Self { threshold: u16::from(byte(value, 0, 8)) + 1, time: byte(value, 8, 8) }
    }
}

/// FID 0Ah, bit 0 (DN): whether only AWUPF counts, not AWUN (NVM 4.1.3.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WriteAtomicity {
    /// DN.
    pub normal_disabled: bool,
}

impl WriteAtomicity {
    /// The bits.
    pub fn encode(&self) -> u32 {
        u32::from(self.normal_disabled)
    }

    /// What the bits say.
    pub fn decode(value: u32) -> Self {
        Self { normal_disabled: value & 1 != 0 }
    }
}

bitflags! {
    /// FID 0Bh: which events a host wants to be told (5.1.25.1.5). OAES of Identify Controller has
    /// the same bits from 8 on.
    #[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
    pub struct AsyncEventConfiguration: u32 {
        /// Bits 7:0, SHCW, bit 0: available spare has fallen below its threshold.
        const SPARE_BELOW_THRESHOLD = 1 << 0;
        /// Bit 1: a temperature has crossed its threshold.
        const TEMPERATURE = 1 << 1;
        /// Bit 2: the subsystem is less reliable.
        const RELIABILITY_DEGRADED = 1 << 2;
        /// Bit 3: the media can only be read.
        const READ_ONLY = 1 << 3;
        /// Bit 4: the backup of volatile memory has failed.
        const VOLATILE_MEMORY_BACKUP_FAILED = 1 << 4;
        /// Bit 5: a persistent memory region can only be read or is unreliable.
        const PERSISTENT_MEMORY_READ_ONLY = 1 << 5;
        /// Bit 8, NAN: the attached namespaces or their attributes have changed.
        const NAMESPACE_ATTRIBUTE_CHANGED = 1 << 8;
        /// Bit 9, FAN: firmware is about to be activated.
        const FIRMWARE_ACTIVATION_STARTING = 1 << 9;
        /// Bit 10, TLN: telemetry of the controller has changed.
        const TELEMETRY_LOG_CHANGED = 1 << 10;
        /// Bit 11, ANACN: an asymmetric namespace access state has changed.
        const ANA_CHANGE = 1 << 11;
        /// Bit 12, PLEALCN: the predictable latency event aggregate log has changed.
        const PREDICTABLE_LATENCY_LOG_CHANGED = 1 << 12;
        /// Bit 13, LSIAN: LBA status information has an alert.
        const LBA_STATUS_ALERT = 1 << 13;
        /// Bit 14, EGEALCN: the endurance group event aggregate log has changed.
        const ENDURANCE_GROUP_LOG_CHANGED = 1 << 14;
        /// Bit 15, NNSSHDN: the NVM subsystem shuts down.
        const SUBSYSTEM_SHUTDOWN = 1 << 15;
        /// Bit 31, DLPCN: the discovery log page has changed.
        const DISCOVERY_LOG_CHANGED = 1 << 31;
    }
}

/// FID 0Fh: the keep alive timeout (5.1.25.1.8).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KeepAliveTimer {
    /// KATO, in milliseconds; 0 for none.
    pub timeout_ms: u32,
}

impl KeepAliveTimer {
    /// The bits.
    pub const fn encode(&self) -> u32 {
        self.timeout_ms
    }

    /// What the bits say.
    pub const fn decode(value: u32) -> Self {
        Self { timeout_ms: value }
    }
}

/// FID 0Eh, in data: the time (5.1.25.1.7).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timestamp {
    /// Bytes 5:0: milliseconds since 1970, below 2^48.
    pub milliseconds: u64,
    /// Byte 6, bits 3:1: a host has set it, and so it tells the time of day.
    pub set_by_host: bool,
    /// Byte 6, bit 0: counting may have stopped since it was set.
    pub may_have_stopped: bool,
}

impl Timestamp {
    /// The bytes of the data.
    pub const SIZE: usize = 8;
    const ORIGIN_HOST: u8 = 0b001 << 1;
    const ORIGIN_MASK: u8 = 0b111 << 1;

    /// The data.
    ///
    /// # Panics
    ///
    /// When the milliseconds do not fit into 48 bits.
    pub fn encode(&self) -> [u8; Self::SIZE] {
        assert!(self.milliseconds < 1 << 48, "a timestamp has 48 bits");
        let mut bytes = self.milliseconds.to_le_bytes();
        let origin = if self.set_by_host { Self::ORIGIN_HOST } else { 0 };
        bytes[6] = origin | u8::from(self.may_have_stopped);
        bytes
    }

    /// What the data says. Of what a host sets, only the milliseconds count.
    pub fn decode(bytes: &[u8; Self::SIZE]) -> Self {
        let [a, b, c, d, e, f, attributes, _] = *bytes;
        Self {
            milliseconds: u64::from_le_bytes([a, b, c, d, e, f, 0, 0]),
            set_by_host: attributes & Self::ORIGIN_MASK == Self::ORIGIN_HOST,
            may_have_stopped: attributes & 1 != 0,
        }
    }
}

/// FID 16h, in data: what a host can cope with (5.1.25.1.14).
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct HostBehaviorSupport {
    /// ACRE, byte 0: advanced command retry, so that CRD of a status counts.
    pub advanced_retry: bool,
    /// ETDAS, byte 1: telemetry data area 4.
    pub extended_telemetry: bool,
    /// LBAFEE, byte 2: more than 16 LBA formats, and those with extended protection.
    pub extended_lba_formats: bool,
    /// HDISNS, byte 3: dispersed namespaces.
    pub dispersed_namespaces: bool,
    /// CDFE, bytes 5:4: copy descriptor formats 2h (bit 2) to 4h (bit 4).
    pub copy_formats: u16,
}

impl HostBehaviorSupport {
    /// The bytes of the data.
    pub const SIZE: usize = 512;

    /// The data.
    pub fn encode(&self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        bytes[0] = u8::from(self.advanced_retry);
        bytes[1] = u8::from(self.extended_telemetry);
        bytes[2] = u8::from(self.extended_lba_formats);
        bytes[3] = u8::from(self.dispersed_namespaces);
        bytes[4..6].copy_from_slice(&self.copy_formats.to_le_bytes());
        bytes
    }

    /// What the data says; none when one of the first four bytes is neither 0 nor 1.
    pub fn decode(bytes: &[u8; Self::SIZE]) -> Option<Self> {
        let [a, b, c, d, low, high, ..] = *bytes;
        if [a, b, c, d].iter().any(|byte| *byte > 1) {
            return None;
        }
        Some(Self {
            advanced_retry: a == 1,
            extended_telemetry: b == 1,
            extended_lba_formats: c == 1,
            dispersed_namespaces: d == 1,
            copy_formats: u16::from_le_bytes([low, high]),
        })
    }
}

/// FID 81h, CDW11 bit 0 (EXHID): whether the identifier in the data has 128 bits, not 64
/// (5.1.25.1.28). Over fabrics it always has.
pub const EXTENDED_HOST_IDENTIFIER: u32 = 1 << 0;

#[cfg(test)]
mod tests;
