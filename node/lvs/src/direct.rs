//! The quick path: a request that is one member I/O and nothing else.
//!
//! ```text
//!   submit --> range free, place known --> one member I/O --> Complete
//! ```
//!
//! Most requests of a volume in use are of this kind: a read of blocks that lie in one cluster,
//! or a write of whole blocks that are valid and settled (rule 1 of `docs/formats/lvs.md`). They
//! need no log entry, no buffer and no second look, so they get no task: what has to be known at
//! the end travels with the member I/O. Whatever is more than that goes to [`crate::io`], which
//! does these two as well and gives the same answers.

use fathom_block::{Error, Operation, Request};

use crate::{
    action::{IoData, IoError, IoKind},
    geometry::{BLOCK, BLOCK_LEN, ObjectId},
    map::Visibility,
    ranges::{ClaimKey, Hold},
    state::Source,
    store::{Route, Store},
};

/// What is known of a request at the end of its only member I/O.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Direct {
    object: ObjectId,
    request: Request,
    claim: ClaimKey,
    /// The epoch of a read.
    epoch: Option<u64>,
}

impl Store {
    /// Starts a request for blocks `first..end` as one member I/O. Returns `false`, and has done
    /// nothing, when it takes more than that or has to wait.
    pub(crate) fn start_direct(
        &mut self,
        object: ObjectId,
        request: &Request,
        first: u64,
        end: u64,
    ) -> bool {
        let Ok(device) = self.devices.get(object) else { return false };
        if self.has_failed() {
            return false;
        }
        let (hold, fua) = match request.operation {
            Operation::Read => (Hold::Read, false),
            Operation::Write { fua } => (Hold::Write, fua || device.write_cache_off),
            Operation::Flush
            | Operation::WriteZeroes
            | Operation::Compare
            | Operation::CompareAndWrite { .. } => return false,
        };
        let bytes = (end - first) * BLOCK;
        if request.blocks.0 << device.block_shift != bytes {
            return false;
        }
        let (at, block) = self.state.cluster_size.split(first);
        let limit = u64::from(block) + (end - first);
        let Some(limit) = u16::try_from(limit).ok().filter(|&limit| limit <= self.state.blocks())
        else {
            return false;
        };
        let cluster = if hold == Hold::Read {
            match self.state.find(device.layer, at, block, limit) {
                (Source::Data(cluster), run) if block + run == limit => cluster,
                _ => return false,
            }
        } else {
            let tip = &self.state.layer(device.layer).map;
            match tip.visibility(at, block, limit) {
                (Visibility::Data(cluster), run) if block + run == limit => cluster,
                _ => return false,
            }
        };
        if hold == Hold::Write
            && self.settlement.is_unsettled((device.layer, at), block, limit - block)
        {
            return false;
        }
        let (member, offset) = self.locate(cluster, block);
        if !self.is_present(member) || self.state.is_lost(cluster, block, limit - block) {
            return false;
        }
        let Some(claim) = self.try_acquire(object, first, end, hold) else { return false };
        let epoch = (hold == Hold::Read).then(|| self.epochs.begin());
        let direct = Direct { object, request: *request, claim, epoch };
        let kind = if hold == Hold::Read { IoKind::Read } else { IoKind::Write { fua } };
        let data = IoData::Request { id: request.id, offset: 0 };
        let length = usize::from(limit - block) * BLOCK_LEN;
        self.start_io(Route::Direct(direct), member, kind, offset, length, data);
        true
    }

    /// The member I/O of a direct request has ended.
    pub(crate) fn direct_done(
        &mut self,
        direct: Direct,
        kind: IoKind,
        result: Result<(), IoError>,
    ) {
        let result = match (result, kind) {
            (Ok(()), _) => Ok(()),
            (Err(IoError::NoSpace), _) => Err(Error::CapacityExceeded),
            (Err(IoError::Failed), IoKind::Read) => Err(Error::ReadFault),
            (Err(IoError::Failed), _) => Err(Error::WriteFault),
        };
        if let Some(epoch) = direct.epoch {
            self.epochs.end(epoch);
        }
        self.answer(direct.object, &direct.request, result);
        self.release_claim(direct.object, direct.claim);
    }
}
