//! A driver of the store that does one system call after another.
//!
//! Member I/Os are done in a random order, one at a time, each complete before the next. A FUA
//! write is `RWF_DSYNC` or a write and a flush, by turns.

use std::{
    collections::{BTreeMap, VecDeque},
    fs::File,
    io::{self, IoSlice},
    os::unix::fs::FileExt,
    time::Duration,
};

use fathom_block::{Completion, RequestId};
use fathom_lvs::{
    Action, Failed, IoData, IoError, IoKind, Medium, MediumError, MemberIo, OpenOptions, Payloads,
    Refused, Store, Ticket, Wake,
    geometry::{MemberIndex, ObjectId},
};
use fathom_test_sim::{
    pool::{new_snapshot, new_volume},
    rig::STEPS_MAX,
};
use fathom_test_support::random::Random;
use fathom_units::{BlockCount, Lba, Monotonic};
use rustix::io::ReadWriteFlags;

use crate::subject::{Answer, Call, Device, Ended, Request, Subject};

/// The members of a pool as open files.
pub struct Members(pub Vec<File>);

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
        self.0[slot].metadata().expect("an open file has a size").len()
    }

    fn read(&mut self, slot: usize, offset: u64, buffer: &mut [u8]) -> Result<(), MediumError> {
        let result = self.0[slot].read_exact_at(buffer, offset);
        result.map_err(|error| Self::failed(slot, "reading", offset, &error))
    }

    fn write(&mut self, slot: usize, offset: u64, data: &[u8]) -> Result<(), MediumError> {
        let result = self.0[slot].write_all_at(data, offset);
        result.map_err(|error| Self::failed(slot, "writing", offset, &error))
    }

    fn flush(&mut self, slot: usize) -> Result<(), MediumError> {
        let result = self.0[slot].sync_data();
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

/// An open pool, driven by plain system calls.
pub struct Synchronous {
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

impl Synchronous {
    /// Opens the pool on these members.
    ///
    /// # Errors
    ///
    /// When that is refused or fails.
    pub fn open(mut members: Members, random: Random) -> Result<Self, String> {
        let opening = fathom_lvs::open(&mut members, OpenOptions::default())
            .map_err(|error| error.to_string())?;
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

    fn object(&self, device: u128) -> Result<ObjectId, String> {
        let volume = self.store.volumes().find(|record| record.uuid.as_u128() == device);
        let snapshot = self.store.snapshots().find(|record| record.uuid.as_u128() == device);
        let object = volume.map(|record| record.id).or(snapshot.map(|record| record.id));
        object.ok_or_else(|| format!("device {device:x} is gone"))
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

    /// Does one member I/O, if there is any.
    fn step(&mut self) -> Result<(), String> {
        if !self.pending.is_empty() {
            let choice = self.random.below(self.pending.len() as u64);
            let mut io = self.pending.swap_remove(usize::try_from(choice).expect("small"));
            let result = self.execute(&mut io).map_err(|_| IoError);
            let buffer = match io.data {
                IoData::Owned(buffer) if io.kind == IoKind::Read => Some(buffer),
                _ => None,
            };
            self.store.complete_io(io.token, result, buffer);
        }
        self.pump()
    }

    fn execute(&mut self, io: &mut MemberIo) -> io::Result<()> {
        let file = &self.members.0[self.slots[&io.member]];
        let offset = io.offset.0;
        match (io.kind, &mut io.data) {
            (IoKind::Flush, _) => file.sync_data(),
            (IoKind::Read, IoData::Owned(buffer)) => {
                file.read_exact_at(&mut buffer.bytes_mut()[..io.length], offset)
            }
            (IoKind::Read, IoData::Request { id, offset: at }) => {
                let data = self.data.0.get_mut(id).expect("the request is under way");
                file.read_exact_at(&mut data[*at..*at + io.length], offset)
            }
            (IoKind::Write { fua }, IoData::Owned(buffer)) => {
                let by_flag = self.random.chance(1, 2);
                write(file, offset, &buffer.bytes()[..io.length], fua, by_flag)
            }
            (IoKind::Write { fua }, IoData::Request { id, offset: at }) => {
                let by_flag = self.random.chance(1, 2);
                write(file, offset, &self.data.0[id][*at..*at + io.length], fua, by_flag)
            }
            (_, IoData::None) => unreachable!("reads and writes have data"),
        }
    }

    fn is_quiet(&self) -> bool {
        self.pending.is_empty() && self.wake == Wake::OnEvent && self.store.is_idle()
    }

    fn begin(&mut self, call: &Call) -> Result<Result<Ticket, Refused>, String> {
        Ok(match call {
            Call::Create(volume) => {
                let mut new = new_volume(volume.uuid, volume.bytes, volume.block_size);
                new.record.flags.thick = volume.thick;
                new.record.flags.write_cache_off = volume.write_cache_off;
                new.source = volume.source.map(|source| self.object(source)).transpose()?;
                self.store.create_volume(new)
            }
            Call::Snapshot(pairs) => {
                let new: Result<Vec<_>, String> = pairs
                    .iter()
                    .map(|&(volume, uuid)| Ok(new_snapshot(self.object(volume)?, uuid)))
                    .collect();
                self.store.create_snapshots(new?)
            }
            Call::Delete(uuid) => {
                let object = self.object(*uuid)?;
                if self.store.volumes().any(|record| record.uuid.as_u128() == *uuid) {
                    self.store.delete_volume(object)
                } else {
                    self.store.delete_snapshot(object)
                }
            }
            Call::RollBack { volume, snapshot } => {
                let (volume, snapshot) = (self.object(*volume)?, self.object(*snapshot)?);
                self.store.rollback(volume, snapshot)
            }
            Call::Grow { volume, bytes } => {
                let volume = self.object(*volume)?;
                self.store.resize_volume(volume, *bytes)
            }
        })
    }
}

fn write(file: &File, offset: u64, bytes: &[u8], fua: bool, by_flag: bool) -> io::Result<()> {
    if !fua || !by_flag {
        file.write_all_at(bytes, offset)?;
        return if fua { file.sync_data() } else { Ok(()) };
    }
    let written =
        rustix::io::pwritev2(file, &[IoSlice::new(bytes)], offset, ReadWriteFlags::DSYNC)?;
    if written == bytes.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

impl Subject for Synchronous {
    fn submit(&mut self, request: Request) -> Result<(), String> {
        let object = self.object(request.device)?;
        let id = RequestId(request.id);
        self.data.0.insert(id, request.data);
        let (lba, blocks) = (Lba(request.first), BlockCount(request.blocks));
        let operation = request.operation;
        self.store.submit(object, fathom_block::Request { id, operation, lba, blocks });
        self.pump()
    }

    fn call(&mut self, call: &Call) -> Result<(), String> {
        match self.begin(call)? {
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
        let volumes: BTreeMap<ObjectId, u32> =
            self.store.volumes().map(|record| (record.id, record.logical_block_size)).collect();
        let tips =
            self.store.volumes().filter(|record| record.tip.is_some()).map(|record| Device {
                uuid: record.uuid.as_u128(),
                bytes: record.size.0,
                block_size: record.logical_block_size,
            });
        let snapshots = self.store.snapshots().map(|record| Device {
            uuid: record.uuid.as_u128(),
            bytes: record.size.0,
            block_size: volumes[&record.volume],
        });
        Ok(tips.chain(snapshots).collect())
    }
}
