//! The open pool's limits: where requests come to the gates of their volumes.
//!
//! The rules are those of [`crate::qos`]. Requests are held back before they ask for a range,
//! so one that waits is in nobody's way, and none of the pool's room is spent on it.
//!
//! - A snapshot is a device of its own: it has the limits of its volume, and spends nothing of
//!   what the volume may do.
//! - A flush is never held back. A compare counts as a read, a fused Compare and Write as a write
//!   of its range. Write zeroes counts as one request and no bytes: it moves none.
//! - A call (a snapshot, a rollback) does not wait for what is held back: that comes after it.
//! - What waits when its volume is deleted or the pool fails is answered `NotReady`.

use fathom_block::{Error, Operation, Request};

use crate::{
    format::op::{Op, QosLimits},
    geometry::ObjectId,
    qos::{Arrival, Direction, HeldBack},
    store::Store,
};

impl Store {
    /// What the limits of a volume or snapshot have held back; nothing for one without limits.
    /// How many wait is bounded by what was submitted and has not been answered.
    pub fn held_back(&self, object: ObjectId) -> Option<HeldBack> {
        self.gates.held_back(object)
    }

    /// Holds a checked request back, if its device has limits; gives it back otherwise.
    pub(crate) fn hold_back(
        &mut self,
        object: ObjectId,
        request: Request,
        first: u64,
        end: u64,
    ) -> Option<Request> {
        if !self.gates.has(object) {
            return Some(request);
        }
        let (direction, bytes) = match request.operation {
            Operation::Flush => return Some(request),
            Operation::Read | Operation::Compare => (Direction::Read, self.bytes(object, &request)),
            Operation::Write { .. } | Operation::CompareAndWrite { .. } => {
                (Direction::Write, self.bytes(object, &request))
            }
            Operation::WriteZeroes => (Direction::Write, 0),
        };
        self.gates.push(object, Arrival { what: request, direction, bytes, first, end });
        None
    }

    fn bytes(&self, object: ObjectId, request: &Request) -> u64 {
        let device = self.devices.get(object).expect("the request was checked");
        request.blocks.0 << device.block_shift
    }

    /// Begins what the limits let through now.
    pub(crate) fn let_through(&mut self) {
        while let Some((object, Arrival { what, first, end, .. })) = self.gates.pop(self.now) {
            self.begin(object, what, first, end);
        }
    }

    /// Every volume and snapshot of a pool that has just been opened gets its limits.
    pub(crate) fn set_all_limits(&mut self) {
        for (&id, volume) in &self.state.volumes {
            if volume.tip.is_some() {
                self.gates.set(id, &volume.limits, self.now);
            }
        }
        for (&id, snapshot) in &self.state.snapshots {
            if let Some(volume) = self.state.volumes.get(&snapshot.volume) {
                self.gates.set(id, &volume.limits, self.now);
            }
        }
    }

    /// `ops` are about to change objects: limits change with them, at once.
    pub(crate) fn change_limits(&mut self, ops: &[Op]) {
        for op in ops {
            match op {
                Op::PutVolume(record) if record.tip.is_none() => self.close_gate(record.id),
                Op::PutVolume(record) => {
                    let before = self.state.volumes.get(&record.id).map(|volume| volume.limits);
                    if before.unwrap_or_default() != record.limits {
                        self.set_limits(record.id, &record.limits);
                    }
                }
                Op::PutSnapshot(record) => {
                    if let Some(volume) = self.state.volumes.get(&record.volume) {
                        self.gates.set(record.id, &volume.limits, self.now);
                    }
                }
                Op::DropVolume { volume } => self.close_gate(*volume),
                Op::DropSnapshot { snapshot } => self.close_gate(*snapshot),
                _ => {}
            }
        }
    }

    fn set_limits(&mut self, volume: ObjectId, limits: &QosLimits) {
        self.gates.set(volume, limits, self.now);
        for (&id, snapshot) in &self.state.snapshots {
            if snapshot.volume == volume {
                self.gates.set(id, limits, self.now);
            }
        }
    }

    fn close_gate(&mut self, object: ObjectId) {
        for request in self.gates.remove(object, self.now) {
            self.answer(object, &request, Err(Error::NotReady));
        }
    }

    /// Answers everything that waits: the pool has failed.
    pub(crate) fn close_gates(&mut self) {
        for (object, request) in self.gates.empty_all(self.now) {
            self.answer(object, &request, Err(Error::NotReady));
        }
    }
}
