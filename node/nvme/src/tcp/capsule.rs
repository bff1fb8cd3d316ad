//! CapsuleCmd and CapsuleResp: commands and what they are answered with.
//!
//! Sources: TCP sections 3.6.2.6 and 3.6.2.7.

use super::frame::{COMMON_HEADER_SIZE, Frame, HeaderBuffer, Outbound, PduType};
use crate::{
    Completion, SubmissionEntry, completion::COMPLETION_SIZE, submission::SUBMISSION_ENTRY_SIZE,
};

/// Where the entry ends in either header.
const COMMAND_END: usize = COMMON_HEADER_SIZE + SUBMISSION_ENTRY_SIZE;
const RESPONSE_END: usize = COMMON_HEADER_SIZE + COMPLETION_SIZE;

const _: () = {
    assert!(COMMAND_END == PduType::CapsuleCommand.header_length() as usize);
    assert!(RESPONSE_END == PduType::CapsuleResponse.header_length() as usize);
};

/// The header of a command capsule.
#[derive(Clone, Copy, Debug)]
pub struct CapsuleCommand;

impl CapsuleCommand {
    /// Writes the header of a capsule with `entry` and `data_length` bytes of in-capsule data into
    /// `header`, and returns how many bytes of it are to be sent; the data follows.
    pub fn encode(
        entry: &SubmissionEntry,
        data_length: u32,
        outbound: &Outbound,
        header: &mut HeaderBuffer,
    ) -> usize {
        header[COMMON_HEADER_SIZE..COMMAND_END].copy_from_slice(&entry.to_bytes());
        outbound.seal(PduType::CapsuleCommand, 0, data_length, header)
    }

    /// The entry in a header of this type.
    ///
    /// # Panics
    ///
    /// When the header is shorter than [`Frame::header_length`].
    pub fn view<'a>(_frame: &Frame, header: &'a [u8]) -> &'a SubmissionEntry {
        let entry = header[COMMON_HEADER_SIZE..].first_chunk();
        SubmissionEntry::view(entry.expect("a frame of this type has an entry"))
    }
}

/// The header of a response capsule, which is all of it.
#[derive(Clone, Copy, Debug)]
pub struct CapsuleResponse;

impl CapsuleResponse {
    /// Writes the PDU with `completion` into `header`, and returns how many bytes of it are to be
    /// sent.
    pub fn encode(
        completion: &Completion,
        outbound: &Outbound,
        header: &mut HeaderBuffer,
    ) -> usize {
        header[COMMON_HEADER_SIZE..RESPONSE_END].copy_from_slice(&completion.encode());
        outbound.seal(PduType::CapsuleResponse, 0, 0, header)
    }

    /// The completion in a header of this type.
    ///
    /// # Panics
    ///
    /// When the header is shorter than [`Frame::header_length`].
    pub fn decode(_frame: &Frame, header: &[u8]) -> Completion {
        let entry = header[COMMON_HEADER_SIZE..].first_chunk();
        Completion::decode(entry.expect("a frame of this type has an entry"))
    }
}
