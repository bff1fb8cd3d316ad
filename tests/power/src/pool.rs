//! The native engine's pool as the subject: the actor of the daemon, on a loop, over device files.
//!
//! The workload's thread speaks with it as a thread of the daemon does. What ends comes through one
//! channel, requests and the call alike.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
    time::Instant,
};

use fathom_block::{Request as BlockRequest, RequestId};
use fathom_engine::native::{
    handle::PoolHandle,
    members::{Member, Members as PoolMembers, Opened},
    message::{Answer as PoolAnswer, CallError, FromThread, PoolMessage, Reply},
};
use fathom_lvs::{OpenOptions, Store, geometry::ObjectId};
use fathom_runtime::{Buffer, Configuration, Loops, SizeClass};
use fathom_test_fuse::WAIT_MAX;
use fathom_units::{BlockCount, Lba};

use crate::{
    driver::{Members, begin, devices, object},
    subject::{Answer, Call, Device, Ended, Request, Subject},
};

/// Member I/Os under way at most: few, so that some wait for others.
const IN_FLIGHT_MAX: u32 = 24;
/// Answers that may wait: more than the workload has under way.
const ANSWERS_MAX: usize = 64;
/// The name of the answer that says that the call has ended.
const CALL: RequestId = RequestId(u64::MAX);

type Outcome = Arc<Mutex<Option<Result<(), CallError>>>>;

/// A pool of the engine on a loop of its own. Dropping it ends the loop at once: what the pool had
/// not given to the kernel is never done.
pub struct EnginePool {
    // Dropped before the rest.
    loops: Loops<PoolMessage>,
    handle: PoolHandle<PoolMessage>,
    to: SyncSender<PoolAnswer>,
    answers: Receiver<PoolAnswer>,
    /// Where the end of the call is put before it is told.
    outcome: Outcome,
    /// What writes nothing is given without a buffer; what it came with is kept here.
    bare: BTreeMap<u64, Vec<u8>>,
    objects: BTreeMap<u128, ObjectId>,
}

impl EnginePool {
    /// Opens the pool on these members and puts it onto a loop.
    ///
    /// # Errors
    ///
    /// When that is refused or fails.
    pub fn open(members: Members) -> Result<Self, String> {
        let members = PoolMembers(members.0.into_iter().map(Member::Device).collect());
        let opened = Opened::open(members, OpenOptions::default());
        let opened = opened.map_err(|error| error.to_string())?;
        let none = SizeClass { chunk_bytes: 4096, chunks: 0 };
        let configuration = Configuration {
            buffers: Vec::new(),
            in_flight: IN_FLIGHT_MAX,
            receive: none,
            ..Configuration::default()
        };
        let loops = Loops::start(&configuration).map_err(|error| error.to_string())?;
        let handle = PoolHandle::start(loops.remote(0), opened);
        let handle = handle.map_err(|error| error.to_string())?;
        let (to, answers) = sync_channel(ANSWERS_MAX);
        let (bare, objects) = (BTreeMap::new(), BTreeMap::new());
        Ok(Self { loops, handle, to, answers, outcome: Outcome::default(), bare, objects })
    }

    fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Store) -> T + Send + 'static,
    ) -> Result<T, String> {
        self.handle.look(look).ok_or_else(|| "the pool has closed by itself".to_owned())
    }

    fn object(&mut self, device: u128) -> Result<ObjectId, String> {
        if let Some(object) = self.objects.get(&device) {
            return Ok(*object);
        }
        let found = self.look(move |store| object(store, device))??;
        // A UUID is given once.
        self.objects.insert(device, found);
        Ok(found)
    }
}

impl Subject for EnginePool {
    fn submit(&mut self, request: Request) -> Result<(), String> {
        let Request { id, device, operation, first, blocks, data } = request;
        let object = self.object(device)?;
        let buffer = if operation.data_bytes(1) > 0 {
            let mut buffer = Buffer::zeroed(data.len());
            buffer.copy_from_slice(&data);
            Some(buffer)
        } else {
            self.bare.insert(id, data);
            None
        };
        let id = RequestId(id);
        let request = BlockRequest { id, operation, lba: Lba(first), blocks: BlockCount(blocks) };
        let answer = Reply::new(id, self.to.clone());
        let message = FromThread::Submit { object, request, data: buffer, answer };
        let sent = self.loops.remote(0).send(self.handle.address(), PoolMessage::Thread(message));
        sent.map_err(|error| error.to_string())
    }

    fn call(&mut self, call: &Call) -> Result<(), String> {
        let call = call.clone();
        let ended = self.handle.begin_call(move |store| {
            begin(store, &call).expect("the workload names what is there")
        });
        let (to, outcome) = (self.to.clone(), Arc::clone(&self.outcome));
        thread::spawn(move || {
            let result = ended.recv().unwrap_or(Err(CallError::Closed));
            *outcome.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
            // Nobody waits any more when the subject is gone.
            let _ = to.send(PoolAnswer { id: CALL, result: Ok(()), data: None });
        });
        Ok(())
    }

    fn wait(&mut self) -> Result<Answer, String> {
        let answer = self.answers.recv_timeout(WAIT_MAX);
        let answer = answer.map_err(|_| format!("nothing is answered in {WAIT_MAX:?}"))?;
        if answer.id == CALL {
            let mut outcome = self.outcome.lock().unwrap_or_else(PoisonError::into_inner);
            let result = outcome.take().ok_or("a call ended that was not under way")?;
            return match result {
                Ok(()) => Ok(Answer::Call(Ended::Done)),
                Err(CallError::Refused(refused)) => {
                    Ok(Answer::Call(Ended::Refused(refused.to_string())))
                }
                Err(error) => Err(error.to_string()),
            };
        }
        let PoolAnswer { id: RequestId(id), result, data } = answer;
        let data = match data {
            Some(buffer) => buffer.to_vec(),
            None => self.bare.remove(&id).ok_or("an answer without the data of its request")?,
        };
        Ok(Answer::Request { id, result, data })
    }

    fn rest(&mut self) -> Result<(), String> {
        let began = Instant::now();
        while !self.look(Store::is_idle)? {
            if began.elapsed() > WAIT_MAX {
                return Err(format!("the pool does not come to rest in {WAIT_MAX:?}"));
            }
            thread::yield_now();
        }
        Ok(())
    }

    fn devices(&mut self) -> Result<Vec<Device>, String> {
        self.look(devices)
    }
}
