//! A driver of the store on device files, as the daemon opens them.
//!
//! Member I/Os are done in a random order, as plain system calls, each complete before the next.

use std::{
    collections::{BTreeMap, VecDeque},
    io::{self, IoSlice},
    sync::Arc,
    time::Duration,
};

use fathom_block::{Completion, RequestId};
use fathom_lvs::{
    Action, Failed, IoData, IoError, IoKind, Medium, MediumError, MemberIo, OpenOptions, Payloads,
    Refused, Store, Ticket, Wake,
    geometry::{MemberIndex, ObjectId},
};
use fathom_runtime::device::DeviceFile;
use fathom_test_sim::{
    pool::{new_snapshot, new_volume},
    rig::STEPS_MAX,
};
use fathom_test_support::random::Random;
use fathom_units::{BlockCount, Lba, Monotonic};
use rustix::io::ReadWriteFlags;

use crate::subject::{Answer, Call, Device, Ended, Request, Subject};

/// The members of a pool, open and locked.
pub struct Members(pub Vec<Arc<DeviceFile>>);

impl Members {
    fn failed(slot: usize, operation: &'static str, offset: u64, error: &io::Error) -> MediumError {
        MediumError { slot, operation, offset, reason: error.to_string() }
    }
}

impl Medium for Members {
    fn slots(&self) -> usize {
        self.0.len()
    }

    fn size(&self, slot: usize) -> u64 {
        self.0[slot].size().0
    }

    fn read(&mut self, slot: usize, offset: u64, buffer: &mut [u8]) -> Result<(), MediumError> {
        let result = self.0[slot].read_at(offset, buffer);
        result.map_err(|error| Self::failed(slot, "reading", offset, &error))
    }

    fn write(&mut self, slot: usize, offset: u64, data: &[u8]) -> Result<(), MediumError> {
        let result = self.0[slot].write_at(offset, data);
        result.map_err(|error| Self::failed(slot, "writing", offset, &error))
    }

    fn flush(&mut self, slot: usize) -> Result<(), MediumError> {
        let result = self.0[slot].flush();
        result.map_err(|error| Self::failed(slot, "flushing", 0, &error))
    }
}

/// The data of requests under way.
#[derive(Default)]
struct Data(BTreeMap<RequestId, Vec<u8>>);

impl Payloads for Data {
    fn bytes(&self, id: RequestId) -> &[u8] {
        &self.0[&id]
    }
}

/// An open pool and what drives it.
pub struct Driver {
    store: Store,
    members: Members,
    slots: BTreeMap<MemberIndex, usize>,
    data: Data,
    pending: Vec<MemberIo>,
    answers: VecDeque<Answer>,
    call: Option<Ticket>,
    random: Random,
    /// Every step takes a microsecond.
    now: Monotonic,
    wake: Wake,
}

impl Driver {
    /// Opens the pool on these members and drives it by plain system calls, each complete before
    /// the next.
    ///
    /// # Errors
    ///
    /// When that is refused or fails.
    pub fn plain(mut members: Members, random: Random) -> Result<Self, String> {
        let opening = fathom_lvs::open(&mut members, OpenOptions::default());
        let opening = opening.map_err(|error| error.to_string())?;
        Ok(Self {
            store: opening.store,
            members,
            slots: opening.members,
            data: Data::default(),
            pending: Vec::new(),
            answers: VecDeque::new(),
            call: None,
            random,
            now: Monotonic(0),
            wake: Wake::Now,
        })
    }

    fn pump(&mut self) -> Result<(), String> {
        self.now = self.now + Duration::from_micros(1);
        self.wake = self.store.pump(self.now, &self.data);
        while let Some(action) = self.store.next_action() {
            match action {
                Action::Io(io) => self.pending.push(io),
                Action::Zero { id, offset, length } => {
                    let data = self.data.0.get_mut(&id).expect("the request is under way");
                    data[offset..offset + length].fill(0);
                }
                Action::Fill { id, offset, buffer, range } => {
                    let data = self.data.0.get_mut(&id).expect("the request is under way");
                    data[offset..offset + range.len()].copy_from_slice(&buffer.bytes()[range]);
                }
                Action::Complete(Completion { id, result }) => {
                    let data = self.data.0.remove(&id).expect("a request completes once");
                    self.answers.push_back(Answer::Request { id: id.0, result, data });
                }
                Action::Event(_) => {}
                Action::Reclaimed => {}
                Action::Done { ticket, result } => {
                    if self.call.take() != Some(ticket) {
                        return Err("a call ended that was not under way".to_owned());
                    }
                    let ended = match result {
                        Ok(()) => Ended::Done,
                        Err(Failed::Refused(refused)) => Ended::Refused(refused.to_string()),
                        Err(failed) => return Err(failed.to_string()),
                    };
                    self.answers.push_back(Answer::Call(ended));
                }
            }
        }
        Ok(())
    }

    /// Does a member I/O, if there is any, and lets the store go on.
    fn step(&mut self) -> Result<(), String> {
        if let Some(mut io) = self.draw() {
            let result = self.execute(&mut io);
            self.report(io, result);
        }
        self.pump()
    }

    /// One of the I/Os that are to be done.
    fn draw(&mut self) -> Option<MemberIo> {
        let count = self.pending.len() as u64;
        (count > 0).then(|| {
            let choice = usize::try_from(self.random.below(count)).expect("small");
            self.pending.swap_remove(choice)
        })
    }

    fn report(&mut self, io: MemberIo, result: io::Result<()>) {
        let buffer = match io.data {
            IoData::Owned(buffer) if io.kind == IoKind::Read => Some(buffer),
            _ => None,
        };
        self.store.complete_io(io.token, result.map_err(|_| IoError::Failed), buffer);
    }

    /// The bytes that an I/O reads or writes.
    fn bytes<'a>(data: &'a mut Data, io: &'a mut MemberIo) -> &'a mut [u8] {
        match &mut io.data {
            IoData::Owned(buffer) => &mut buffer.bytes_mut()[..io.length],
            IoData::Request { id, offset } => {
                let data = data.0.get_mut(id).expect("the request is under way");
                &mut data[*offset..*offset + io.length]
            }
            IoData::None => &mut [],
        }
    }

    fn execute(&mut self, io: &mut MemberIo) -> io::Result<()> {
        let file = &self.members.0[self.slots[&io.member]];
        let (offset, kind) = (io.offset.0, io.kind);
        let bytes = Self::bytes(&mut self.data, io);
        match kind {
            IoKind::Flush => file.flush(),
            IoKind::Discard => unreachable!("nobody has said that members discard"),
            IoKind::Read => file.read_at(offset, bytes),
            IoKind::Write { fua: false } => file.write_at(offset, bytes),
            IoKind::Write { fua: true } if self.random.chance(1, 2) => {
                file.write_at(offset, bytes)?;
                file.flush()
            }
            IoKind::Write { fua: true } => {
                let slices = [IoSlice::new(bytes)];
                let written = rustix::io::pwritev2(file, &slices, offset, ReadWriteFlags::DSYNC)?;
                if written == bytes.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
            }
        }
    }

    fn is_quiet(&self) -> bool {
        self.pending.is_empty() && self.wake == Wake::OnEvent && self.store.is_idle()
    }
}

/// The volume or snapshot of this UUID.
pub(crate) fn object(store: &Store, device: u128) -> Result<ObjectId, String> {
    let volume = store.volumes().find(|record| record.uuid.as_u128() == device);
    let snapshot = store.snapshots().find(|record| record.uuid.as_u128() == device);
    let object = volume.map(|record| record.id).or(snapshot.map(|record| record.id));
    object.ok_or_else(|| format!("device {device:x} is gone"))
}

/// Makes a call.
pub(crate) fn begin(store: &mut Store, call: &Call) -> Result<Result<Ticket, Refused>, String> {
    Ok(match call {
        Call::Create(volume) => {
            let mut new = new_volume(volume.uuid, volume.bytes, volume.block_size);
            new.record.flags.thick = volume.thick;
            new.record.flags.write_cache_off = volume.write_cache_off;
            new.source = volume.source.map(|source| object(store, source)).transpose()?;
            store.create_volume(new)
        }
        Call::Snapshot(pairs) => {
            let new: Result<Vec<_>, String> = pairs
                .iter()
                .map(|&(volume, uuid)| Ok(new_snapshot(object(store, volume)?, uuid)))
                .collect();
            store.create_snapshots(new?)
        }
        Call::Delete(uuid) => {
            let object = object(store, *uuid)?;
            if store.volumes().any(|record| record.uuid.as_u128() == *uuid) {
                store.delete_volume(object)
            } else {
                store.delete_snapshot(object)
            }
        }
        Call::RollBack { volume, snapshot } => {
            let (volume, snapshot) = (object(store, *volume)?, object(store, *snapshot)?);
            store.rollback(volume, snapshot)
        }
        Call::Grow { volume, bytes } => {
            let volume = object(store, *volume)?;
            store.resize_volume(volume, *bytes)
        }
    })
}

/// All volumes and snapshots.
pub(crate) fn devices(store: &Store) -> Vec<Device> {
    let volumes: BTreeMap<ObjectId, u32> =
        store.volumes().map(|record| (record.id, record.logical_block_size)).collect();
    let tips = store.volumes().filter(|record| record.tip.is_some()).map(|record| Device {
        uuid: record.uuid.as_u128(),
        bytes: record.size.0,
        block_size: record.logical_block_size,
    });
    let snapshots = store.snapshots().map(|record| Device {
        uuid: record.uuid.as_u128(),
        bytes: record.size.0,
        block_size: volumes[&record.volume],
    });
    tips.chain(snapshots).collect()
}

impl Subject for Driver {
    fn submit(&mut self, request: Request) -> Result<(), String> {
        let object = object(&self.store, request.device)?;
        let id = RequestId(request.id);
        self.data.0.insert(id, request.data);
        let (lba, blocks) = (Lba(request.first), BlockCount(request.blocks));
        let operation = request.operation;
        self.store.submit(object, fathom_block::Request { id, operation, lba, blocks });
        self.pump()
    }

    fn call(&mut self, call: &Call) -> Result<(), String> {
        match begin(&mut self.store, call)? {
            Ok(ticket) => self.call = Some(ticket),
            Err(refused) => {
                self.answers.push_back(Answer::Call(Ended::Refused(refused.to_string())));
            }
        }
        self.pump()
    }

    fn wait(&mut self) -> Result<Answer, String> {
        for _ in 0..STEPS_MAX {
            if let Some(answer) = self.answers.pop_front() {
                return Ok(answer);
            }
            self.step()?;
        }
        Err(format!("no answer comes: {:?}", self.store))
    }

    fn rest(&mut self) -> Result<(), String> {
        for _ in 0..STEPS_MAX {
            if self.is_quiet() {
                return Ok(());
            }
            self.step()?;
        }
        Err(format!("the store does not come to rest: {:?}", self.store))
    }

    fn devices(&mut self) -> Result<Vec<Device>, String> {
        Ok(devices(&self.store))
    }
}
