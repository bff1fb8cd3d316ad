//! Commands of the NVM command set: Read, Write, Flush, Write Zeroes, Compare, Dataset Management;
//! Write Uncorrectable and Verify are recognised.
//!
//! Before: a [`SubmissionEntry`] of an I/O queue. Next: a request to a device.
//! Sources: NVM sections 3.3.1 and 3.3.3 to 3.3.8; Base section 7.2 for Flush.
//!
//! - A range is parsed, not judged: whether it lies in the namespace is the namespace's to say.

use core::mem::offset_of;

use bitflags::bitflags;
use fathom_units::{BlockCount, Lba, Nsid};
use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    little_endian::{U32, U64},
};

use crate::{Status, SubmissionEntry};

/// The opcodes (section 7, NVM section 3.3).
pub mod opcode {
    /// Flush.
    pub const FLUSH: u8 = 0x00;
    /// Write.
    pub const WRITE: u8 = 0x01;
    /// Read.
    pub const READ: u8 = 0x02;
    /// Write Uncorrectable.
    pub const WRITE_UNCORRECTABLE: u8 = 0x04;
    /// Compare.
    pub const COMPARE: u8 = 0x05;
    /// Write Zeroes.
    pub const WRITE_ZEROES: u8 = 0x08;
    /// Dataset Management.
    pub const DATASET_MANAGEMENT: u8 = 0x09;
    /// Verify.
    pub const VERIFY: u8 = 0x0C;
}

/// The most logical blocks of one command: what NLB can say.
pub const BLOCKS_MAX: u32 = 65536;
/// The most ranges of one Dataset Management command: what NR can say.
pub const RANGES_MAX: u16 = 256;

/// A command of the NVM command set. Its namespace is the entry's NSID.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NvmCommand {
    /// What was written before shall be on stable media.
    Flush,
    /// Reads a range.
    Read(Transfer),
    /// Writes a range.
    Write(Transfer),
    /// Compares a range with the command's data.
    Compare(Transfer),
    /// Makes a range read as zero.
    WriteZeroes(WriteZeroes),
    /// Says how ranges are used, or that they are not used any more.
    DatasetManagement(DatasetManagement),
    /// Makes a range unreadable.
    WriteUncorrectable(Range),
    /// Reads a range without returning it.
    Verify(Transfer),
}

/// A range of logical blocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Range {
    /// SLBA: its first block.
    pub lba: Lba,
    /// NLB: how many blocks, 1 to [`BLOCKS_MAX`] (0's based).
    pub blocks: BlockCount,
}

bitflags! {
    /// What commands that move blocks are told beside the range: CDW12 bits 31:24.
    #[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
    pub struct Control: u8 {
        /// Bit 24, STC: check the storage tag.
        const STORAGE_TAG_CHECK = 1 << 0;
        /// Bit 25, DEAC: of Write Zeroes, deallocate the range.
        const DEALLOCATE = 1 << 1;
        /// Bit 26, PRINFO.PRCHK bit 0: check the reference tag.
        const CHECK_REFERENCE_TAG = 1 << 2;
        /// Bit 27, PRINFO.PRCHK bit 1: check the application tag.
        const CHECK_APPLICATION_TAG = 1 << 3;
        /// Bit 28, PRINFO.PRCHK bit 2: check the guard.
        const CHECK_GUARD = 1 << 4;
        /// Bit 29, PRINFO.PRACT: insert or strip the protection information.
        const PROTECTION_ACTION = 1 << 5;
        /// Bit 30, FUA: force unit access.
        const FORCE_UNIT_ACCESS = 1 << 6;
        /// Bit 31, LR: limited retry.
        const LIMITED_RETRY = 1 << 7;
    }
}

impl Control {
    /// PRINFO: the bits that mean something only with protection information.
    pub const PROTECTION: Self = Self::CHECK_REFERENCE_TAG
        .union(Self::CHECK_APPLICATION_TAG)
        .union(Self::CHECK_GUARD)
        .union(Self::PROTECTION_ACTION);
}

/// Read, Write, Compare, Verify (NVM 3.3.4, 3.3.6, 3.3.1, 3.3.5).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Transfer {
    /// The blocks.
    pub range: Range,
    /// LR, FUA, PRINFO, STC; DEAC is never set.
    pub control: Control,
    /// DTYPE, CDW12 bits 23:20: the type of the directive, 0 for none.
    pub directive: u8,
}

impl Transfer {
    /// This range, without anything else.
    pub const fn new(range: Range) -> Self {
        Self { range, control: Control::empty(), directive: 0 }
    }
}

/// Write Zeroes (NVM 3.3.8).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WriteZeroes {
    /// The blocks.
    pub range: Range,
    /// LR, FUA, PRINFO, STC, DEAC.
    pub control: Control,
}

bitflags! {
    /// What Dataset Management does: CDW11 (NVM 3.3.3).
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct DatasetAttributes: u32 {
        /// Bit 0, IDR: the ranges will be read as one.
        const INTEGRAL_READ = 1 << 0;
        /// Bit 1, IDW: the ranges will be written as one.
        const INTEGRAL_WRITE = 1 << 1;
        /// Bit 2, AD: deallocate the ranges.
        const DEALLOCATE = 1 << 2;
    }
}

/// Dataset Management (NVM 3.3.3). Its data is so many [`DatasetRange`]s.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DatasetManagement {
    /// NR: how many ranges, 1 to [`RANGES_MAX`] (0's based).
    pub ranges: u16,
    /// What is done with them.
    pub attributes: DatasetAttributes,
}

impl DatasetManagement {
    /// How many bytes of data the command has.
    pub const fn data_length(&self) -> u32 {
        self.ranges as u32 * 16
    }
}

impl NvmCommand {
    /// The command in an entry.
    ///
    /// # Errors
    ///
    /// [`Status::INVALID_OPCODE`] for an opcode that is not one of [`opcode`].
    pub fn parse(entry: &SubmissionEntry) -> Result<Self, Status> {
        Ok(match entry.opcode() {
            opcode::FLUSH => Self::Flush,
            opcode::WRITE => Self::Write(transfer(entry)),
            opcode::READ => Self::Read(transfer(entry)),
            opcode::WRITE_UNCORRECTABLE => Self::WriteUncorrectable(range(entry)),
            opcode::COMPARE => Self::Compare(transfer(entry)),
            opcode::WRITE_ZEROES => {
                Self::WriteZeroes(WriteZeroes { range: range(entry), control: control(entry) })
            }
            opcode::DATASET_MANAGEMENT => Self::DatasetManagement(DatasetManagement {
                ranges: u16::from(entry.cdw::<10>().to_le_bytes()[0]) + 1,
                attributes: DatasetAttributes::from_bits_truncate(entry.cdw::<11>()),
            }),
            opcode::VERIFY => Self::Verify(transfer(entry)),
            _ => return Err(Status::INVALID_OPCODE),
        })
    }

    /// The entry of the command for `nsid`, without CID and data pointer.
    ///
    /// # Panics
    ///
    /// When a range has no block or more than [`BLOCKS_MAX`], or there is no range or more than
    /// [`RANGES_MAX`].
    pub fn entry(&self, nsid: Nsid) -> SubmissionEntry {
        let entry = match self {
            Self::Flush => SubmissionEntry::new(opcode::FLUSH),
            Self::Read(transfer) => with_transfer(opcode::READ, transfer),
            Self::Write(transfer) => with_transfer(opcode::WRITE, transfer),
            Self::Compare(transfer) => with_transfer(opcode::COMPARE, transfer),
            Self::WriteZeroes(command) => {
                with_range(opcode::WRITE_ZEROES, &command.range, command.control, 0)
            }
            Self::DatasetManagement(command) => {
                let ranges = command.ranges.checked_sub(1).and_then(|nr| u8::try_from(nr).ok());
                let ranges = ranges.expect("NR says 1 to 256 ranges");
                SubmissionEntry::new(opcode::DATASET_MANAGEMENT)
                    .with_cdw::<10>(ranges.into())
                    .with_cdw::<11>(command.attributes.bits())
            }
            Self::WriteUncorrectable(range) => {
                with_range(opcode::WRITE_UNCORRECTABLE, range, Control::empty(), 0)
            }
            Self::Verify(transfer) => with_transfer(opcode::VERIFY, transfer),
        };
        entry.with_nsid(nsid)
    }
}

fn range(entry: &SubmissionEntry) -> Range {
    let blocks = u64::from(entry.cdw::<12>() & 0xFFFF) + 1;
    Range { lba: Lba(entry.cdw_pair::<10>()), blocks: BlockCount(blocks) }
}

fn control(entry: &SubmissionEntry) -> Control {
    Control::from_bits_retain(entry.cdw::<12>().to_le_bytes()[3])
}

fn transfer(entry: &SubmissionEntry) -> Transfer {
    Transfer {
        range: range(entry),
        control: control(entry) - Control::DEALLOCATE,
        directive: entry.cdw::<12>().to_le_bytes()[2] >> 4,
    }
}

fn with_transfer(opcode: u8, transfer: &Transfer) -> SubmissionEntry {
    with_range(opcode, &transfer.range, transfer.control, transfer.directive)
}

fn with_range(opcode: u8, range: &Range, control: Control, directive: u8) -> SubmissionEntry {
    let nlb = range.blocks.0.checked_sub(1).and_then(|nlb| u16::try_from(nlb).ok());
    let nlb = nlb.expect("NLB says 1 to 65,536 blocks");
    let cdw12 = u32::from(nlb) | u32::from(directive & 0xF) << 20 | u32::from(control.bits()) << 24;
    SubmissionEntry::new(opcode).with_cdw_pair::<10>(range.lba.0).with_cdw::<12>(cdw12)
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct DatasetRangeLayout {
    /// Bytes 3:0, NVM 3.3.3: the context attributes.
    attributes: U32,
    /// Bytes 7:4, NVM 3.3.3: the length in logical blocks.
    blocks: U32,
    /// Bytes 15:8, NVM 3.3.3: the starting LBA.
    lba: U64,
}

const _: () = {
    assert!(size_of::<DatasetRangeLayout>() == DatasetRange::SIZE);
    assert!(
        DatasetManagement { ranges: 1, attributes: DatasetAttributes::empty() }.data_length() == 16
    );
    assert!(offset_of!(DatasetRangeLayout, blocks) == 4);
    assert!(offset_of!(DatasetRangeLayout, lba) == 8);
};

/// A range of Dataset Management (NVM 3.3.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DatasetRange {
    /// How the range is used: access frequency, latency, sizes. A hint.
    pub attributes: u32,
    /// How many blocks; zero for none (not 0's based).
    pub blocks: BlockCount,
    /// Its first block.
    pub lba: Lba,
}

impl DatasetRange {
    /// The bytes of a range.
    pub const SIZE: usize = 16;

    /// The bytes of the range.
    ///
    /// # Panics
    ///
    /// When it has 2^32 blocks or more.
    pub fn encode(&self) -> [u8; Self::SIZE] {
        let blocks = u32::try_from(self.blocks.0).expect("a range has less than 2^32 blocks");
        let layout = DatasetRangeLayout {
            attributes: self.attributes.into(),
            blocks: blocks.into(),
            lba: self.lba.0.into(),
        };
        zerocopy::transmute!(layout)
    }

    /// The value of a range. Every range has one.
    pub fn decode(bytes: &[u8; Self::SIZE]) -> Self {
        let layout: &DatasetRangeLayout = zerocopy::transmute_ref!(bytes);
        Self {
            attributes: layout.attributes.get(),
            blocks: BlockCount(layout.blocks.get().into()),
            lba: Lba(layout.lba.get()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(bytes: &[u8; 64]) -> Result<NvmCommand, Status> {
        NvmCommand::parse(SubmissionEntry::view(bytes))
    }

    /// A command whose reserved and unused bytes are all ones.
    fn full(opcode: u8, cdw12: [u8; 4]) -> [u8; 64] {
        let mut bytes = [0xFF; 64];
        bytes[0] = opcode;
        bytes[40..48].copy_from_slice(&[1, 2, 3, 4, 5, 6, 7, 8]);
        bytes[48..52].copy_from_slice(&cdw12);
        bytes
    }

    const RANGE: Range = Range { lba: Lba(0x0807_0605_0403_0201), blocks: BlockCount(0x101) };

    #[test]
    fn commands_with_a_range_have_the_bytes_of_the_specification() {
        let fua = Transfer { control: Control::FORCE_UNIT_ACCESS, ..Transfer::new(RANGE) };
        for (opcode, command) in [
            (0x02, NvmCommand::Read(fua)),
            (0x01, NvmCommand::Write(fua)),
            (0x05, NvmCommand::Compare(fua)),
            (0x0C, NvmCommand::Verify(fua)),
        ] {
            let bytes = full(opcode, [0x00, 0x01, 0x0F, 0x42]);
            assert_eq!(parse(&bytes), Ok(command), "DEAC is none of theirs");
            let encoded = command.entry(Nsid(7)).to_bytes();
            assert_eq!(encoded[..8], [opcode, 0x40, 0, 0, 7, 0, 0, 0]);
            assert_eq!(encoded[40..52], [1, 2, 3, 4, 5, 6, 7, 8, 0x00, 0x01, 0x00, 0x40]);
        }
        let bytes = full(0x04, [0x00, 0x01, 0xFF, 0xFF]);
        assert_eq!(parse(&bytes), Ok(NvmCommand::WriteUncorrectable(RANGE)));
        let bytes = full(0x08, [0x00, 0x01, 0xFF, 0x02]);
        let zeroes = WriteZeroes { range: RANGE, control: Control::DEALLOCATE };
        assert_eq!(parse(&bytes), Ok(NvmCommand::WriteZeroes(zeroes)));
        let encoded = NvmCommand::WriteZeroes(zeroes).entry(Nsid(7)).to_bytes();
        assert_eq!(encoded[40..52], [1, 2, 3, 4, 5, 6, 7, 8, 0x00, 0x01, 0x00, 0x02]);
    }

    #[test]
    fn a_range_has_one_block_more_than_nlb_says() {
        for (nlb, blocks) in [([0, 0], 1), ([0xFF, 0x00], 256), ([0xFF, 0xFF], 65536)] {
            let bytes = full(0x02, [nlb[0], nlb[1], 0, 0]);
            let Ok(NvmCommand::Read(read)) = parse(&bytes) else { panic!("a Read") };
            assert_eq!(read.range.blocks, BlockCount(blocks));
        }
        assert_eq!(BLOCKS_MAX, 65536);
    }

    #[test]
    fn each_control_bit_stands_where_the_specification_has_it() {
        for (bit, control) in [
            (24, Control::STORAGE_TAG_CHECK),
            (25, Control::DEALLOCATE),
            (26, Control::CHECK_REFERENCE_TAG),
            (27, Control::CHECK_APPLICATION_TAG),
            (28, Control::CHECK_GUARD),
            (29, Control::PROTECTION_ACTION),
            (30, Control::FORCE_UNIT_ACCESS),
            (31, Control::LIMITED_RETRY),
        ] {
            for cdw12 in [1u32 << bit, !(1u32 << bit)] {
                let bytes = full(0x08, cdw12.to_le_bytes());
                let Ok(NvmCommand::WriteZeroes(found)) = parse(&bytes) else { panic!("zeroes") };
                assert_eq!(found.control.contains(control), cdw12 >> bit & 1 == 1, "{bit}");
                assert_eq!(found.control, Control::from_bits_retain(cdw12.to_le_bytes()[3]));
            }
        }
        let bytes = full(0x01, [0, 0, 0xAF, 0]);
        let Ok(NvmCommand::Write(write)) = parse(&bytes) else { panic!("a Write") };
        assert_eq!(write.directive, 0xA);
        assert_eq!(NvmCommand::Write(write).entry(Nsid(1)).to_bytes()[50], 0xA0);
        assert_eq!(Control::PROTECTION.bits(), 0b0011_1100);
    }

    #[test]
    fn dataset_management_has_the_bytes_of_the_specification() {
        let mut bytes = full(0x09, [0xFF; 4]);
        bytes[40] = 0xFF;
        bytes[44..48].copy_from_slice(&[0xFC, 0xFF, 0xFF, 0xFF]);
        let command = DatasetManagement { ranges: 256, attributes: DatasetAttributes::DEALLOCATE };
        assert_eq!(parse(&bytes), Ok(NvmCommand::DatasetManagement(command)));
        assert_eq!(command.data_length(), 4096);
        let encoded = NvmCommand::DatasetManagement(command).entry(Nsid(1)).to_bytes();
        assert_eq!(encoded[40..52], [0xFF, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0]);
        for (bit, attribute) in [
            (1, DatasetAttributes::INTEGRAL_READ),
            (2, DatasetAttributes::INTEGRAL_WRITE),
            (4, DatasetAttributes::DEALLOCATE),
        ] {
            bytes[40] = 0;
            bytes[44] = bit;
            let Ok(NvmCommand::DatasetManagement(found)) = parse(&bytes) else { panic!("DSM") };
            assert_eq!((found.ranges, found.attributes), (1, attribute));
        }
    }

    #[test]
    fn a_dataset_range_has_the_bytes_of_the_specification() {
        let bytes = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16];
        let range = DatasetRange {
            attributes: 0x0403_0201,
            blocks: BlockCount(0x0807_0605),
            lba: Lba(0x100F_0E0D_0C0B_0A09),
        };
        assert_eq!(DatasetRange::decode(&bytes), range);
        assert_eq!(range.encode(), bytes);
    }

    #[test]
    fn of_all_opcodes_eight_are_known() {
        for number in 0..=255 {
            let known = [0, 1, 2, 4, 5, 8, 9, 12].contains(&number);
            let parsed = parse(&full(number, [0; 4]));
            assert_eq!(parsed.is_ok(), known, "{number}");
            assert!(known || parsed == Err(Status::INVALID_OPCODE));
        }
    }

    #[test]
    #[should_panic(expected = "NLB")]
    fn a_range_without_blocks_cannot_be_encoded() {
        let range = Range { lba: Lba(0), blocks: BlockCount(0) };
        let _ = NvmCommand::WriteUncorrectable(range).entry(Nsid(1));
    }

    proptest! {
        #[test]
        fn what_is_parsed_encodes_and_parses_to_itself(bytes: [u8; 64]) {
            if let Ok(command) = parse(&bytes) {
                let entry = command.entry(SubmissionEntry::view(&bytes).nsid());
                prop_assert_eq!(NvmCommand::parse(&entry), Ok(command));
            }
        }
    }
}
