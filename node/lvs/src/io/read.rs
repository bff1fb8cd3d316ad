//! Reading and comparing: each run of blocks from the layer that has it.
//!
//! Runs that a request covers whole go straight into its data; of others, and of what is
//! compared, a buffer of its own is read.

use fathom_block::{Buffer, Error};

use super::{Part, to_usize};
use crate::{
    action::{Action, IoData, IoKind, Payloads},
    geometry::{BLOCK, LayerId},
    state::Source,
    store::{Store, TaskKey},
};

impl Store {
    pub(super) fn read(&mut self, key: TaskKey, layer: LayerId, compare: bool) {
        let (begin, stop) = self.byte_range(key);
        let task = self.io_task(key);
        let (id, first, end) = (task.request.id, task.first, task.end);
        let per_cluster = u64::from(self.state.blocks());
        for (at, first, count) in self.pieces(first, end) {
            let mut block = first;
            while block < first + count {
                let (source, run) = self.state.find(layer, at, block, first + count);
                let volume_block = u64::from(at.0) * per_cluster + u64::from(block);
                let run_begin = volume_block * BLOCK;
                let run_end = run_begin + u64::from(run) * BLOCK;
                let (want_begin, want_end) = (run_begin.max(begin), run_end.min(stop));
                let offset = to_usize(want_begin - begin);
                let length = to_usize(want_end - want_begin);
                match source {
                    Source::Zero if compare => {
                        let buffer = Some(Buffer::zeroed(length));
                        let part = Part::Compare { offset, range: 0..length, buffer };
                        self.io_task(key).parts.push(part);
                    }
                    Source::Zero => self.act(Action::Zero { id, offset, length }),
                    Source::Data(cluster) if !self.is_reachable(cluster) => {
                        return self.io_task(key).fail(Error::NotReady);
                    }
                    Source::Data(cluster) if self.state.is_lost(cluster, block, run) => {
                        return self.io_task(key).fail(Error::ReadFault);
                    }
                    Source::Data(cluster) => {
                        let (member, at) = self.locate(cluster, block);
                        let inner = to_usize(want_begin - run_begin);
                        let whole = length as u64 == run_end - run_begin;
                        let span = to_usize(run_end - run_begin);
                        let range = inner..inner + length;
                        let (part, data) = if compare {
                            let part = Part::Compare { offset, range, buffer: None };
                            (part, IoData::Owned(Buffer::zeroed(span)))
                        } else if whole {
                            (Part::Read, IoData::Request { id, offset })
                        } else {
                            (Part::Fill { offset, range }, IoData::Owned(Buffer::zeroed(span)))
                        };
                        self.part_io(key, part, member, IoKind::Read, at, span, data);
                    }
                }
                block += run;
            }
        }
    }

    /// Compares what was read with the request's data. Returns whether the request goes on: both
    /// are equal, and all could be read.
    pub(super) fn compare(&mut self, key: TaskKey, payloads: &dyn Payloads) -> bool {
        let task = self.io_task(key);
        let bytes = payloads.bytes(task.request.id);
        let differs = task.parts.iter().any(|part| match part {
            Part::Compare { offset, range, buffer: Some(buffer) } => {
                buffer.bytes()[range.clone()] != bytes[*offset..*offset + range.len()]
            }
            _ => false,
        });
        if differs {
            task.fail(Error::CompareFailure);
        }
        // Nothing is under way: what was read is not needed any more.
        task.parts.clear();
        task.error.is_none()
    }
}
