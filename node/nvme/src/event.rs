//! Asynchronous events: what an Asynchronous Event Request is answered with.
//!
//! Source: section 5.1.2, Figures 147 to 153.

use crate::log::LogId;

/// An event, in dword 0 of the answer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct AsyncEvent {
    /// AET, bits 2:0: of what type it is.
    pub kind: EventType,
    /// AEI, bits 15:8: which event of the type.
    pub information: u8,
    /// LID, bits 23:16: the log page whose reading ends the event.
    pub log_page: LogId,
}

/// The types of events (5.1.2, AET).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum EventType {
    /// 000b: an error that no command can tell.
    Error,
    /// 001b: SMART and health.
    Health,
    /// 010b: a notice.
    Notice,
    /// 011b: immediate events.
    Immediate,
    /// 110b: of an I/O command set.
    CommandSet,
    /// 111b: of a vendor.
    Vendor,
    /// 100b and 101b, reserved.
    Reserved(u8),
}

impl EventType {
    const fn number(self) -> u8 {
        match self {
            Self::Error => 0,
            Self::Health => 1,
            Self::Notice => 2,
            Self::Immediate => 3,
            Self::CommandSet => 6,
            Self::Vendor => 7,
            Self::Reserved(number) => number,
        }
    }

    const fn from_number(number: u8) -> Self {
        match number {
            0 => Self::Error,
            1 => Self::Health,
            2 => Self::Notice,
            3 => Self::Immediate,
            6 => Self::CommandSet,
            7 => Self::Vendor,
            _ => Self::Reserved(number),
        }
    }
}

impl AsyncEvent {
    /// Notice 00h: the attached namespaces or their attributes have changed.
    pub const NAMESPACE_ATTRIBUTE_CHANGED: Self = Self::notice(0x00, LogId::CHANGED_NAMESPACES);
    /// Notice 03h: an asymmetric namespace access state has changed.
    pub const ANA_CHANGE: Self = Self::notice(0x03, LogId::ANA);
    /// Notice F0h: the discovery log page has changed.
    pub const DISCOVERY_LOG_CHANGED: Self = Self::notice(0xF0, LogId::DISCOVERY);

    const fn notice(information: u8, log_page: LogId) -> Self {
        Self { kind: EventType::Notice, information, log_page }
    }

    /// Dword 0 of the answer.
    ///
    /// # Panics
    ///
    /// When a reserved type has more than three bits.
    pub fn encode(&self) -> u32 {
        let number = self.kind.number();
        assert!(number < 8, "AET has 3 bits");
        u32::from(number) | u32::from(self.information) << 8 | u32::from(self.log_page.0) << 16
    }

    /// The event in dword 0 of an answer.
    pub fn decode(dword0: u32) -> Self {
        let [kind, information, log_page, _] = dword0.to_le_bytes();
        Self { kind: EventType::from_number(kind & 0b111), information, log_page: LogId(log_page) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_have_the_bits_of_the_specification() {
        for (event, dword0) in [
            (AsyncEvent::NAMESPACE_ATTRIBUTE_CHANGED, 0x0004_0002),
            (AsyncEvent::ANA_CHANGE, 0x000C_0302),
            (AsyncEvent::DISCOVERY_LOG_CHANGED, 0x0070_F002),
        ] {
            assert_eq!(event.encode(), dword0);
            assert_eq!(AsyncEvent::decode(dword0 | 0xFF00_00F8), event);
        }
    }

    #[test]
    fn each_bit_belongs_to_one_field() {
        for bit in 0..32 {
            for value in [1u32 << bit, !(1u32 << bit)] {
                assert_eq!(AsyncEvent::decode(value).encode(), value & 0x00FF_FF07, "bit {bit}");
            }
        }
        assert_eq!(AsyncEvent::decode(0x05).kind, EventType::Reserved(5));
        for number in 0..8 {
            assert_eq!(EventType::from_number(number).number(), number);
        }
    }
}
