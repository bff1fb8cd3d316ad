//! Dataset Management under way: one request for each of its ranges, a few at a time.
//!
//! Only deallocating does something; the rest of the command is hints. Source: NVM section 3.3.3.

use std::collections::VecDeque;

use fathom_block::{Operation, Request, RequestId};
use fathom_nvme::nvm::{DatasetAttributes, DatasetManagement, DatasetRange, RANGES_MAX};

use super::Slot;
use crate::export::DeviceId;

/// The data of a command with as many ranges as there can be, in bytes: 256 of them.
pub(super) const DATASET_BYTES_MAX: u32 = 4096;
const _: () = {
    let longest = DatasetManagement { ranges: RANGES_MAX, attributes: DatasetAttributes::empty() };
    assert!(longest.data_length() == DATASET_BYTES_MAX);
};

/// Requests of one command that are at a device at once.
const RANGES_AT_ONCE: usize = 16;

/// A command and what is left of it.
pub(super) struct Dataset {
    pub(super) device: DeviceId,
    deallocate: bool,
    ranges: usize,
    data: Vec<u8>,
    waiting: VecDeque<DatasetRange>,
    at_device: usize,
}

impl Dataset {
    pub(super) fn new(device: DeviceId, command: &DatasetManagement) -> Self {
        Self {
            device,
            deallocate: command.attributes.contains(DatasetAttributes::DEALLOCATE),
            ranges: usize::from(command.ranges),
            data: Vec::new(),
            waiting: VecDeque::new(),
            at_device: 0,
        }
    }

    /// More of its data has come.
    pub(super) fn gather(&mut self, data: &[u8]) {
        self.data.extend_from_slice(data);
    }

    /// Its data is complete. What is behind the ranges is none.
    pub(super) fn begin(&mut self) {
        let data = core::mem::take(&mut self.data);
        if self.deallocate {
            let ranges = data.chunks_exact(DatasetRange::SIZE).take(self.ranges);
            let ranges = ranges.map(|bytes| bytes.first_chunk().expect("a whole range"));
            let ranges = ranges.map(DatasetRange::decode);
            self.waiting = ranges.filter(|range| range.blocks.0 > 0).collect();
        }
    }

    /// The next request, under the name of `slot`, if there is one and it need not wait.
    pub(super) fn next(&mut self, slot: Slot) -> Option<Request> {
        if self.at_device == RANGES_AT_ONCE {
            return None;
        }
        let DatasetRange { lba, blocks, .. } = self.waiting.pop_front()?;
        self.at_device += 1;
        let id = RequestId(slot.0.into());
        Some(Request { id, operation: Operation::WriteZeroes, lba, blocks })
    }

    /// A request has ended.
    pub(super) fn ended(&mut self) {
        self.at_device -= 1;
    }

    /// The rest of it is not done.
    pub(super) fn give_up(&mut self) {
        self.waiting.clear();
    }

    /// Whether nothing is left.
    pub(super) fn is_done(&self) -> bool {
        self.at_device == 0 && self.waiting.is_empty()
    }
}
