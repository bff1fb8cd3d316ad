//! The SMART / Health Information log page, and the firmware slots.
//!
//! Sources: sections 5.1.12.1.3 (02h) and 5.1.12.1.4 (03h).

use core::mem::offset_of;

use bitflags::bitflags;
use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    little_endian::{U16, U32, U128},
};

use crate::{Malformed, identify::Ascii};

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct HealthLayout {
    /// Byte 0, 5.1.12.1.3 CW.
    cw: u8,
    /// Bytes 2:1, 5.1.12.1.3 CTEMP.
    ctemp: U16,
    /// Byte 3, 5.1.12.1.3 AVSP.
    avsp: u8,
    /// Byte 4, 5.1.12.1.3 AVSPT.
    avspt: u8,
    /// Byte 5, 5.1.12.1.3 PUSED.
    pused: u8,
    /// Byte 6, 5.1.12.1.3 EGCWS.
    egcws: u8,
    /// Bytes 31:7, reserved.
    reserved_7: [u8; 25],
    /// Bytes 47:32, 5.1.12.1.3 DUR.
    dur: U128,
    /// Bytes 63:48, 5.1.12.1.3 DUW.
    duw: U128,
    /// Bytes 79:64, 5.1.12.1.3 HRC.
    hrc: U128,
    /// Bytes 95:80, 5.1.12.1.3 HWC.
    hwc: U128,
    /// Bytes 111:96, 5.1.12.1.3 CBT.
    cbt: U128,
    /// Bytes 127:112, 5.1.12.1.3 PWRC.
    pwrc: U128,
    /// Bytes 143:128, 5.1.12.1.3 POH.
    poh: U128,
    /// Bytes 159:144, 5.1.12.1.3 UPL.
    upl: U128,
    /// Bytes 175:160, 5.1.12.1.3 MDIE.
    mdie: U128,
    /// Bytes 191:176, 5.1.12.1.3 NEILE.
    neile: U128,
    /// Bytes 199:192, 5.1.12.1.3 WCTT and CCTT.
    temperature_times: [U32; 2],
    /// Bytes 215:200, 5.1.12.1.3 TSEN1 to TSEN8.
    tsen: [U16; 8],
    /// Bytes 231:216, 5.1.12.1.3: thermal management.
    thermal: [U32; 4],
    /// Bytes 511:232, reserved.
    reserved_232: [u8; 280],
}

const _: () = {
    assert!(size_of::<HealthLayout>() == Health::SIZE);
    assert!(offset_of!(HealthLayout, ctemp) == 1);
    assert!(offset_of!(HealthLayout, avsp) == 3);
    assert!(offset_of!(HealthLayout, pused) == 5);
    assert!(offset_of!(HealthLayout, dur) == 32);
    assert!(offset_of!(HealthLayout, hrc) == 64);
    assert!(offset_of!(HealthLayout, poh) == 128);
    assert!(offset_of!(HealthLayout, neile) == 176);
    assert!(offset_of!(HealthLayout, tsen) == 200);
    assert!(offset_of!(HealthLayout, reserved_232) == 232);
};

bitflags! {
    /// CW: what is wrong (5.1.12.1.3).
    #[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
    pub struct CriticalWarning: u8 {
        /// Bit 0: available spare has fallen below its threshold.
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
    }
}

/// How well the controller is, and what it has done. There is no temperature control to tell of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Health {
    /// CW.
    pub warning: CriticalWarning,
    /// CTEMP, in kelvins; 0 for not told.
    pub temperature: u16,
    /// AVSP: spare that is left, in percent, 0 to 100.
    pub spare: u8,
    /// AVSPT: below how much spare there is a warning, in percent.
    pub spare_threshold: u8,
    /// PUSED: how much of the expected life is used, in percent, to 255.
    pub used: u8,
    /// DUR: data read, in bytes. On the wire 1000 blocks of 512 bytes, rounded up.
    pub bytes_read: u128,
    /// DUW: data written, in bytes, likewise.
    pub bytes_written: u128,
    /// HRC: read commands.
    pub read_commands: u128,
    /// HWC: write commands.
    pub write_commands: u128,
    /// CBT: how long the controller was busy, in minutes.
    pub busy_minutes: u128,
    /// PWRC: power cycles.
    pub power_cycles: u128,
    /// POH: power on hours.
    pub power_on_hours: u128,
    /// UPL: unexpected power losses.
    pub power_losses: u128,
    /// MDIE: unrecovered media and data integrity errors.
    pub media_errors: u128,
    /// NEILE: entries of the error log in the life of the controller.
    pub error_entries: u128,
}

/// The unit of DUR and DUW, in bytes.
const DATA_UNIT: u128 = 512_000;

impl Health {
    /// The bytes of the page.
    pub const SIZE: usize = 512;

    /// The page.
    pub fn encode(&self) -> [u8; Self::SIZE] {
        let layout = HealthLayout {
            cw: self.warning.bits(),
            ctemp: self.temperature.into(),
            avsp: self.spare,
            avspt: self.spare_threshold,
            pused: self.used,
            egcws: 0,
            reserved_7: [0; 25],
            dur: self.bytes_read.div_ceil(DATA_UNIT).into(),
            duw: self.bytes_written.div_ceil(DATA_UNIT).into(),
            hrc: self.read_commands.into(),
            hwc: self.write_commands.into(),
            cbt: self.busy_minutes.into(),
            pwrc: self.power_cycles.into(),
            poh: self.power_on_hours.into(),
            upl: self.power_losses.into(),
            mdie: self.media_errors.into(),
            neile: self.error_entries.into(),
            temperature_times: [U32::ZERO; 2],
            tsen: [U16::ZERO; 8],
            thermal: [U32::ZERO; 4],
            reserved_232: [0; 280],
        };
        zerocopy::transmute!(layout)
    }

    /// The value of a page.
    ///
    /// # Errors
    ///
    /// [`Malformed`] when it has another length.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let Ok(layout) = HealthLayout::ref_from_bytes(bytes) else {
            let (expected, found) = (Self::SIZE, bytes.len());
            return Err(Malformed::Length { structure: "SMART / Health", expected, found });
        };
        Ok(Self {
            warning: CriticalWarning::from_bits_truncate(layout.cw),
            temperature: layout.ctemp.get(),
            spare: layout.avsp,
            spare_threshold: layout.avspt,
            used: layout.pused,
            bytes_read: layout.dur.get().saturating_mul(DATA_UNIT),
            bytes_written: layout.duw.get().saturating_mul(DATA_UNIT),
            read_commands: layout.hrc.get(),
            write_commands: layout.hwc.get(),
            busy_minutes: layout.cbt.get(),
            power_cycles: layout.pwrc.get(),
            power_on_hours: layout.poh.get(),
            power_losses: layout.upl.get(),
            media_errors: layout.mdie.get(),
            error_entries: layout.neile.get(),
        })
    }
}

/// Which firmware is in which slot (5.1.12.1.4).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FirmwareSlots {
    /// AFI, bits 2:0: the slot of the firmware that runs, 1 to 7.
    pub active: u8,
    /// AFI, bits 6:4: the slot that a reset will activate, 0 for the same.
    pub next: u8,
    /// FRS1 to FRS7: the revision in each slot, none of an empty one.
    pub revisions: [Option<Ascii<8>>; 7],
}

impl FirmwareSlots {
    /// The bytes of the page.
    pub const SIZE: usize = 512;
    const REVISION: usize = 8;

    /// The page.
    ///
    /// # Panics
    ///
    /// When there is no such slot.
    pub fn encode(&self) -> [u8; Self::SIZE] {
        assert!((1..8).contains(&self.active) && self.next < 8, "slots are 1 to 7");
        let mut page = [0; Self::SIZE];
        page[0] = self.active | self.next << 4;
        let fields = page[Self::REVISION..].chunks_exact_mut(Self::REVISION);
        for (revision, field) in self.revisions.iter().zip(fields) {
            if let Some(revision) = revision {
                field.copy_from_slice(revision.as_field());
            }
        }
        page
    }

    /// The value of a page.
    ///
    /// # Errors
    ///
    /// [`Malformed`] when it has another length.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        if bytes.len() != Self::SIZE {
            let (expected, found) = (Self::SIZE, bytes.len());
            return Err(Malformed::Length { structure: "Firmware Slots", expected, found });
        }
        let (fields, _) = bytes[Self::REVISION..].as_chunks::<{ Self::REVISION }>();
        let revisions = core::array::from_fn(|slot| {
            let field = fields[slot];
            (field != [0; Self::REVISION]).then(|| Ascii::from_field(field))
        });
        Ok(Self { active: bytes[0] & 0b111, next: bytes[0] >> 4 & 0b111, revisions })
    }
}
