//! CRC32C, the digest of headers and of data.
//!
//! Source: TCP section 3.3.1.1. On the wire a digest is a little-endian number.

use crc_fast::{CrcAlgorithm, Digest};

/// The bytes of a digest.
pub const DIGEST_SIZE: usize = 4;

/// The digest of a header.
pub fn header_digest(header: &[u8]) -> u32 {
    narrow(crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, header))
}

/// The digest of data that comes or goes in pieces.
#[derive(Clone, Copy, Debug)]
pub struct DataDigest(Digest);

impl DataDigest {
    /// The digest of no bytes yet.
    pub fn new() -> Self {
        Self(Digest::new(CrcAlgorithm::Crc32Iscsi))
    }

    /// Goes on with the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest of all bytes until now.
    pub fn value(&self) -> u32 {
        narrow(self.0.finalize())
    }

    /// The digest as it stands behind the data.
    pub fn to_bytes(&self) -> [u8; DIGEST_SIZE] {
        self.value().to_le_bytes()
    }
}

impl Default for DataDigest {
    fn default() -> Self {
        Self::new()
    }
}

fn narrow(sum: u64) -> u32 {
    u32::try_from(sum).expect("CRC32C has 32 bits")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Bit by bit, as the polynomial says (RFC 3385).
    fn slow(bytes: &[u8]) -> u32 {
        let mut sum = !0u32;
        for byte in bytes {
            sum ^= u32::from(*byte);
            for _ in 0..8 {
                sum = sum >> 1 ^ if sum & 1 == 1 { 0x82F6_3B78 } else { 0 };
            }
        }
        !sum
    }

    #[test]
    fn digests_are_those_of_rfc_3720() {
        // RFC 3720 section B.4, whose bytes are in the order of the wire.
        for (bytes, digest) in [
            ([0x00; 32], [0xAA, 0x36, 0x91, 0x8A]),
            ([0xFF; 32], [0x43, 0xAB, 0xA8, 0x62]),
            (
                core::array::from_fn(|at| u8::try_from(at).expect("32 bytes")),
                [0x4E, 0x79, 0xDD, 0x46],
            ),
        ] {
            let mut data = DataDigest::new();
            data.update(&bytes);
            assert_eq!(data.to_bytes(), digest);
            assert_eq!(header_digest(&bytes).to_le_bytes(), digest);
        }
        assert_eq!(header_digest(b"123456789"), 0xE306_9283);
    }

    proptest! {
        #[test]
        fn pieces_have_the_digest_of_the_whole(
            bytes in prop::collection::vec(any::<u8>(), 0..3000),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..4),
        ) {
            let mut ends: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
            ends.push(bytes.len());
            ends.sort_unstable();
            let mut digest = DataDigest::default();
            let mut start = 0;
            for end in ends {
                digest.update(&bytes[start..end]);
                start = end;
            }
            prop_assert_eq!(digest.value(), slow(&bytes));
            prop_assert_eq!(header_digest(&bytes), slow(&bytes));
        }
    }
}
