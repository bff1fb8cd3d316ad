//! What somebody else's bytes on a device are called.
//!
//! Whether a device is blank is not decided here: any byte that is not zero says that it is not. These
//! names tell a person what would be destroyed.
//!
//! Source: the layouts that the named projects publish, and that libblkid and file(1) know them by.

/// Where a mark stands.
#[derive(Clone, Copy)]
enum At {
    /// At a byte from the start.
    Start(usize),
    /// At a byte of the last so many bytes, counted in units from the end.
    End {
        /// The unit in bytes to which the size is cut.
        unit: u64,
        /// Bytes before that.
        before: u64,
    },
}

use At::{End, Start};

/// Marks, the more telling ones first: a file system in front of a boot sector that looks like a
/// partition table.
const MARKS: &[(At, &[u8], &str)] = &[
    (Start(0), b"XFSB", "an XFS file system"),
    (Start(0x1_0040), b"_BHRfS_M", "a Btrfs file system"),
    (Start(0x438), b"\x53\xEF", "an ext2, ext3 or ext4 file system"),
    (Start(0x400), b"\x10\x20\xF5\xF2", "an F2FS file system"),
    (Start(0x1_0000), b"\x01\x16\x19\x70", "a GFS2 file system"),
    (Start(0x2000), b"OCFSV2", "an OCFS2 file system"),
    (Start(0x8000), b"JFS1", "a JFS file system"),
    (Start(0x1_0034), b"ReIsEr", "a ReiserFS file system"),
    (Start(0x8001), b"CD001", "an ISO 9660 file system"),
    (Start(0x400), b"\xE2\xE1\xF5\xE0", "an EROFS file system"),
    (Start(0), b"hsqs", "a SquashFS file system"),
    (Start(3), b"NTFS    ", "an NTFS file system"),
    (Start(3), b"EXFAT   ", "an exFAT file system"),
    (Start(0x52), b"FAT32", "a FAT file system"),
    (Start(0x36), b"FAT1", "a FAT file system"),
    (Start(0x20), b"NXSB", "an APFS container"),
    (Start(0x2_0000), b"\x0C\xB1\xBA\0\0\0\0\0", "a member of a ZFS pool"),
    (Start(4096 - 10), b"SWAPSPACE2", "swap space"),
    (Start(0), b"LUKS\xBA\xBE", "a LUKS encrypted volume"),
    (Start(0), b"LABELONE", "an LVM physical volume"),
    (Start(0x200), b"LABELONE", "an LVM physical volume"),
    (Start(0x400), b"LABELONE", "an LVM physical volume"),
    (Start(0x600), b"LABELONE", "an LVM physical volume"),
    (Start(0), b"\xFC\x4E\x2B\xA9", "a member of a Linux RAID array"),
    (Start(0x1000), b"\xFC\x4E\x2B\xA9", "a member of a Linux RAID array"),
    (End { unit: 4096, before: 8192 }, b"\xFC\x4E\x2B\xA9", "a member of a Linux RAID array"),
    (End { unit: 65536, before: 65536 }, b"\xFC\x4E\x2B\xA9", "a member of a Linux RAID array"),
    (Start(0x1018), b"\xC6\x85\x73\xF6\x4E\x1A\x45\xCA", "a bcache device"),
    (Start(0x1018), b"\xC6\x85\x73\xF6\x66\xCE\x90\xA9", "a bcachefs file system"),
    (Start(0), b"bluestore block device", "a Ceph BlueStore device"),
    (Start(0), b"QFI\xFB", "a QCOW disk image"),
    (Start(0x200), b"EFI PART", "a GPT partition table"),
    (Start(0x1000), b"EFI PART", "a GPT partition table"),
    (End { unit: 512, before: 512 }, b"EFI PART", "the copy of a GPT partition table"),
    (End { unit: 4096, before: 4096 }, b"EFI PART", "the copy of a GPT partition table"),
    (Start(0x1FE), b"\x55\xAA", "a partition table or a boot sector"),
];

/// What the first bytes of a device of `size` bytes and its last ones look like, if that is known.
pub(crate) fn recognise(head: &[u8], tail: &[u8], size: u64) -> Option<&'static str> {
    let stands = |at: &At, mark: &[u8]| match *at {
        Start(offset) => head.get(offset..).is_some_and(|bytes| bytes.starts_with(mark)),
        End { unit, before } => {
            let offset = (size / unit * unit).checked_sub(before);
            let begins = size - tail.len() as u64;
            let offset = offset.and_then(|offset| offset.checked_sub(begins));
            let offset = offset.and_then(|offset| usize::try_from(offset).ok());
            let bytes = offset.and_then(|offset| tail.get(offset..));
            bytes.is_some_and(|bytes| bytes.starts_with(mark))
        }
    };
    MARKS.iter().find(|(at, mark, _)| stands(at, mark)).map(|(_, _, name)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAIL: usize = 512 << 10;

    #[test]
    fn each_mark_is_found_in_its_place_and_nowhere_else() {
        let size: u64 = (4 << 20) + 512;
        for (at, mark, _) in MARKS {
            for shift in [0, 1] {
                let (mut head, mut tail) = (vec![0; 1 << 20], vec![0; TAIL]);
                match *at {
                    Start(offset) => {
                        head[offset + shift..][..mark.len()].copy_from_slice(mark);
                    }
                    End { unit, before } => {
                        let back = size - (size / unit * unit - before);
                        let offset = TAIL - usize::try_from(back).expect("it lies in the tail");
                        tail[offset + shift..][..mark.len()].copy_from_slice(mark);
                    }
                }
                let found = recognise(&head, &tail, size);
                assert_eq!(found.is_some(), shift == 0, "{mark:?} by {shift}: {found:?}");
            }
        }
        assert_eq!(recognise(&[0; 4096], &[0; 4096], 4096), None);
        assert_eq!(recognise(&[], &[], 0), None);
    }

    #[test]
    fn a_file_system_is_named_and_not_its_boot_sector() {
        let mut head = vec![0; 4096];
        head[3..11].copy_from_slice(b"NTFS    ");
        head[510..512].copy_from_slice(&[0x55, 0xAA]);
        assert_eq!(recognise(&head, &[], 4096), Some("an NTFS file system"));
    }
}
