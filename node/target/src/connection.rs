//! One TCP connection of a host, which is one queue pair of a controller.
//!
//! ```text
//!   New --ICReq--> Initialized --Connect--> Connecting --admit--> Live
//!                       ^-------- refuse -------'                   |
//!   any of them --- end, loss, violation, deadline ---> Ending ---> Ended
//!        '------- drain ---> Draining ------ nothing is left -------^
//! ```
//!
//! Its driver asks [`Connection::want`] what the next bytes are, brings them, and carries out the
//! [`Action`]s:
//!
//! ```text
//!   bytes --> incoming: PDUs --> commands: slots, memory, requests --> Submit
//!                                                                         |
//!   Send <------------------ outgoing: data and answers <----- complete --'
//! ```
//!
//! - A command has a [`Slot`] from its capsule to its answer. The memory of its data belongs to the
//!   driver, by slot: it is wanted before any data is taken, and the driver brings data to its
//!   place itself, so nothing is copied here.
//! - A command whose data is not in its capsule waits for memory aside
//!   ([`Connection::memory_wanted`]): what comes behind it is taken meanwhile, since it may be the
//!   data that lets other memory go. For data in a capsule memory is wanted at once
//!   ([`Want::Memory`]). While that waits nothing behind it is taken; so a driver that lets it wait
//!   while [`Connection::awaits_data`] may wait for memory whose data is behind it.
//! - In [`Stage::Ending`] nothing more is taken, and nothing is submitted; what is at devices is
//!   waited for. [`Action::Finished`] says that no request under this connection can reach a device
//!   any more.
//! - In [`Stage::Draining`] nothing more is taken either, and what had come completely is done and
//!   answered first. A command of which something is missing then is not answered, nor is a request
//!   for an event: the host sees the connection end, and nothing else.
//!
//! Sources: TCP sections 3.3 to 3.6; Base sections 3.3.2, 3.4.5 and 6.3.

mod aborting;
mod awaited;
mod commands;
mod dataset;
mod draining;
mod incoming;
mod outgoing;
mod slots;

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use fathom_block::Request;
use fathom_nvme::{
    Completion, Status, SubmissionEntry,
    fabrics::{Connect, ConnectData},
    tcp::{Digests, HEADER_MAX, Inbound, Outbound, Receiver, Violation},
};
use fathom_units::{Cid, Cntlid, Monotonic, Qid};

use self::{awaited::Awaited, commands::Fused, incoming::Parse, slots::Slots};
pub use self::{awaited::PROGRESS_BYTES, slots::Slot};
use crate::export::{DeviceId, Namespace};

/// What a target grants to every connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// The most data of one command, in bytes: a power of two, 4096 at least (MDTS).
    pub transfer_bytes_max: u32,
    /// The most data in the capsule of a command of an I/O queue, in bytes: a multiple of 16
    /// (IOCCSZ). Those of the admin queue have 8192.
    pub capsule_bytes_max: u32,
    /// The most data of one H2CData, in bytes: a multiple of 4, 4096 at least (MAXH2CDATA).
    pub h2c_data_bytes_max: u32,
    /// The most entries of a queue, 2 at least (CAP.MQES).
    pub queue_entries_max: u32,
    /// The most I/O queues of a controller.
    pub io_queues_max: u16,
    /// How long a connection may take until its Connect is admitted.
    pub connect_deadline: Duration,
    /// How long a host may owe data that it was asked for, or that it has begun to send, without any
    /// of it coming.
    pub data_deadline: Duration,
}

impl Limits {
    /// The most data of each of the commands of a fused operation, in bytes: both lie in memory for
    /// one command.
    pub(crate) fn fused_bytes_max(&self) -> u32 {
        self.transfer_bytes_max / 2
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            transfer_bytes_max: 1 << 20,
            capsule_bytes_max: 16 << 10,
            h2c_data_bytes_max: 1 << 20,
            queue_entries_max: 1024,
            io_queues_max: 128,
            connect_deadline: Duration::from_secs(10),
            data_deadline: Duration::from_secs(30),
        }
    }
}

/// What is to be done with the next bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Want {
    /// Give them to [`Connection::receive`].
    Bytes,
    /// The next `length` bytes belong at `offset` of the memory of `slot`. Put them there, all or
    /// the first of them, and show them to [`Connection::received_data`].
    Data {
        /// Whose memory.
        slot: Slot,
        /// Where in it, in bytes.
        offset: usize,
        /// How many there are, more than 0.
        length: usize,
    },
    /// The next bytes are data in a capsule: give `slot` memory of `length` bytes, then call
    /// [`Connection::memory_granted`]. Until then keep the bytes.
    Memory {
        /// The slot.
        slot: Slot,
        /// How many bytes.
        length: usize,
    },
    /// Nothing: the Connect is being decided. Keep the bytes.
    Patience,
    /// Nothing more is taken. Throw the bytes away.
    Nothing,
}

/// What the driver has to do.
#[derive(Debug)]
pub enum Action {
    /// Send this, after all that was to be sent before.
    Send(Transmission),
    /// Send these bytes, likewise.
    SendBytes(Vec<u8>),
    /// Give a request to a device, with the memory of the slot; its end comes to
    /// [`Connection::complete`]. The id of the request is the number of the slot.
    Submit {
        /// Whose request.
        slot: Slot,
        /// To which device.
        device: DeviceId,
        /// What.
        request: Request,
    },
    /// The memory of the slot is not needed any more.
    Release(Slot),
    /// Ask the target: [`crate::target::Target::connect`]. Its answer comes to
    /// [`Connection::admit`] or [`Connection::refuse`].
    Connect(Box<ConnectRequest>),
    /// Ask the target: [`crate::target::Target::command`]. Its answer comes to
    /// [`Connection::answer`].
    Command(Box<AdminRequest>),
    /// Tell the target that this connection is being closed by this side
    /// ([`crate::target::Target::drains`]).
    Drains,
    /// Tell the target that this connection has ended by itself
    /// ([`crate::target::Target::lost`]); why, is for whoever keeps a log.
    Lost(Loss),
    /// Nothing of this connection is at a device any more. Send what is still to be sent, under a
    /// deadline, close the socket, and tell the target ([`crate::target::Target::finished`]). It is
    /// the last action.
    Finished,
}

/// A part of what a connection sends: head, then memory of a slot, then tail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Transmission {
    pub(crate) head: [u8; HEADER_MAX],
    pub(crate) head_length: u8,
    /// The first so many bytes of the memory of this slot, which is not needed any more when they
    /// have been sent.
    pub data: Option<(Slot, usize)>,
    pub(crate) tail: [u8; TAIL_MAX],
    pub(crate) tail_length: u8,
}

/// The most bytes behind data: a data digest, a response capsule and its header digest.
const TAIL_MAX: usize = 4 + 24 + 4;

impl Transmission {
    /// What is sent before the data.
    pub fn head(&self) -> &[u8] {
        &self.head[..usize::from(self.head_length)]
    }

    /// What is sent after the data.
    pub fn tail(&self) -> &[u8] {
        &self.tail[..usize::from(self.tail_length)]
    }
}

/// A Connect as it came.
#[derive(Clone, Debug)]
pub struct ConnectRequest {
    /// The command.
    pub command: Connect,
    /// Its data.
    pub data: ConnectData,
}

/// A command of the admin queue, or a Fabrics command of one.
#[derive(Clone, Debug)]
pub struct AdminRequest {
    /// Names it in the answer.
    pub slot: Slot,
    /// The command.
    pub entry: SubmissionEntry,
    /// Its data, if it has any.
    pub data: Vec<u8>,
}

/// The target admits a Connect.
#[derive(Clone, Debug)]
pub struct Admission {
    /// The queue.
    pub qid: Qid,
    /// How many entries it has.
    pub entries: u32,
    /// Whether the host asked for no SQ flow control.
    pub without_flow_control: bool,
    /// The controller, as the answer says it.
    pub controller: Cntlid,
    /// The namespaces, by ascending identifier.
    pub namespaces: Arc<[Namespace]>,
    /// What is counted for this connection.
    pub traffic: Arc<Traffic>,
}

/// The target answers a command.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    /// How it ended.
    pub status: Status,
    /// Dwords 0 and 1 of the completion.
    pub result: u64,
    /// Data for the host.
    pub data: Vec<u8>,
}

impl Answer {
    /// Success with this result and without data.
    pub fn result(result: u64) -> Self {
        Self { status: Status::SUCCESS, result, data: Vec::new() }
    }

    /// Success with this data.
    pub fn data(data: Vec<u8>) -> Self {
        Self { status: Status::SUCCESS, result: 0, data }
    }
}

impl From<Status> for Answer {
    fn from(status: Status) -> Self {
        Self { status, result: 0, data: Vec::new() }
    }
}

/// What a connection has moved.
#[derive(Default, Debug)]
pub struct Traffic {
    reads: AtomicU64,
    writes: AtomicU64,
    read_bytes: AtomicU64,
    written_bytes: AtomicU64,
}

impl Traffic {
    /// Reads and Compares that have succeeded.
    pub fn reads(&self) -> u64 {
        self.reads.load(Ordering::Relaxed)
    }

    /// Writes that have succeeded.
    pub fn writes(&self) -> u64 {
        self.writes.load(Ordering::Relaxed)
    }

    /// Bytes read.
    pub fn read_bytes(&self) -> u64 {
        self.read_bytes.load(Ordering::Relaxed)
    }

    /// Bytes written.
    pub fn written_bytes(&self) -> u64 {
        self.written_bytes.load(Ordering::Relaxed)
    }

    fn count(&self, read: bool, bytes: u64) {
        let (commands, all_bytes) = match read {
            true => (&self.reads, &self.read_bytes),
            false => (&self.writes, &self.written_bytes),
        };
        // Only the connection's own loop adds.
        commands.store(commands.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        all_bytes.store(all_bytes.load(Ordering::Relaxed) + bytes, Ordering::Relaxed);
    }
}

/// Why a connection has ended by itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Loss {
    /// The host has deleted the queue.
    Disconnected,
    /// The socket has been closed or has failed.
    Closed,
    /// The host has broken the transport's rules.
    Violation(Violation),
    /// The host has said that this side broke them.
    TerminatedByHost,
    /// There was no Connect in time.
    Deadline,
    /// The data of a command did not come in time.
    DataDeadline,
}

/// How far a connection is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// Nothing has come yet.
    New,
    /// The transport is agreed upon; a Connect has to come.
    Initialized,
    /// The target decides about the Connect.
    Connecting,
    /// It is a queue.
    Live,
    /// Nothing more is taken; what has come is done and answered.
    Draining,
    /// Nothing more is taken; requests are at devices.
    Ending,
    /// It is over.
    Ended,
}

/// One connection.
pub struct Connection {
    limits: Limits,
    stage: Stage,
    deadline: Monotonic,
    inbound: Inbound,
    outbound: Outbound,
    parse: Parse,
    /// The CID of the Connect that is being decided.
    connecting: Cid,
    queue: Queue,
    slots: Slots,
    fused: Fused,
    /// The slot whose data is in the capsule that comes, and has no memory yet, and how much it needs.
    capsule_memory: Option<(Slot, usize)>,
    /// Slots that wait for memory, and how much each needs.
    memory_wanted: VecDeque<(Slot, usize)>,
    awaited: Awaited,
    /// Requests at devices.
    at_devices: usize,
    actions: VecDeque<Action>,
}

/// What the admission of its Connect made of a connection.
struct Queue {
    qid: Qid,
    entries: u32,
    /// The next entry of the submission queue, as answers say it.
    head: u32,
    without_flow_control: bool,
    namespaces: Arc<[Namespace]>,
    traffic: Arc<Traffic>,
}

impl Connection {
    /// A connection that was accepted at `now`.
    pub fn new(limits: Limits, now: Monotonic) -> Self {
        Self {
            limits,
            stage: Stage::New,
            deadline: now + limits.connect_deadline,
            inbound: Inbound::before_initialize(Receiver::Controller),
            outbound: Outbound {
                digests: Digests::default(),
                alignment: fathom_nvme::tcp::Alignment::NONE,
            },
            parse: Parse::new(),
            connecting: Cid(0),
            queue: Queue {
                qid: Qid::ADMIN,
                entries: 1,
                head: 0,
                without_flow_control: false,
                namespaces: Arc::new([]),
                traffic: Arc::default(),
            },
            slots: Slots::default(),
            fused: Fused::None,
            capsule_memory: None,
            memory_wanted: VecDeque::new(),
            awaited: Awaited::default(),
            at_devices: 0,
            actions: VecDeque::new(),
        }
    }

    /// How far it is.
    pub fn stage(&self) -> Stage {
        self.stage
    }

    /// The next thing to do, if there is one.
    pub fn next_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// What is to be done with the next bytes of the socket.
    pub fn want(&self) -> Want {
        match self.stage {
            Stage::Draining | Stage::Ending | Stage::Ended => Want::Nothing,
            Stage::Connecting => Want::Patience,
            Stage::New | Stage::Initialized | Stage::Live => match self.capsule_memory {
                Some((slot, length)) => Want::Memory { slot, length },
                None => self.parse.want(),
            },
        }
    }

    /// The next slot that waits for memory, and how many bytes: give it that when there is, and call
    /// [`Connection::memory_granted`]. Actions come first: one of them may let go of what the slot
    /// had for another command.
    pub fn memory_wanted(&self) -> Option<(Slot, usize)> {
        self.memory_wanted.front().copied()
    }

    /// When the connection ends if its Connect has not been admitted; none afterwards.
    pub fn deadline(&self) -> Option<Monotonic> {
        let waits = matches!(self.stage, Stage::New | Stage::Initialized);
        waits.then_some(self.deadline)
    }

    /// Ends the connection if its deadline has passed.
    pub fn check_deadline(&mut self, now: Monotonic) {
        if self.deadline().is_some_and(|deadline| deadline <= now) {
            self.lose(Loss::Deadline);
        }
    }

    /// The target admits the Connect.
    pub fn admit(&mut self, admission: Admission) {
        if self.stage != Stage::Connecting {
            // The connection has ended meanwhile, and the target is being told.
            return;
        }
        let Admission { qid, entries, without_flow_control, controller, .. } = admission;
        self.stage = Stage::Live;
        self.slots = Slots::new(entries);
        self.queue = Queue {
            qid,
            entries,
            // The Connect was the first entry.
            head: 1 % entries,
            without_flow_control,
            namespaces: admission.namespaces,
            traffic: admission.traffic,
        };
        if !qid.is_admin() {
            self.inbound.capsule_data_max = self.limits.capsule_bytes_max;
        }
        self.answer_connect(Completion {
            result: u64::from(controller.0),
            ..Completion::success(self.connecting)
        });
    }

    /// The target refuses the Connect. The host may send another one.
    pub fn refuse(&mut self, answer: Answer) {
        if self.stage != Stage::Connecting {
            return;
        }
        self.stage = Stage::Initialized;
        let Answer { status, result, .. } = answer;
        let completion = Completion::with_status(self.connecting, status);
        self.answer_connect(Completion { result, ..completion });
    }

    /// The target wants the connection to end: nothing more is taken, what is at devices is
    /// answered when it is done.
    pub fn end(&mut self) {
        if matches!(self.stage, Stage::Ending | Stage::Ended) {
            return;
        }
        self.stage = Stage::Ending;
        self.capsule_memory = None;
        self.memory_wanted.clear();
        self.finish_if_done();
    }

    /// This side closes the connection: nothing more is taken, and what has come completely is done
    /// and answered before it ends.
    pub fn drain(&mut self) {
        if matches!(self.stage, Stage::Draining | Stage::Ending | Stage::Ended) {
            return;
        }
        self.stage = Stage::Draining;
        self.actions.push_back(Action::Drains);
        self.give_up_incomplete();
        self.finish_if_done();
    }

    /// The socket has been closed by the host, or has failed.
    pub fn lost(&mut self) {
        self.lose(Loss::Closed);
    }

    fn lose(&mut self, loss: Loss) {
        if matches!(self.stage, Stage::Ending | Stage::Ended) {
            return;
        }
        self.actions.push_back(Action::Lost(loss));
        self.end();
    }

    /// The host has broken the rules: it is told, and the connection ends.
    fn violated(&mut self, violation: Violation, header: &[u8]) {
        self.send_termination(violation, header);
        self.lose(Loss::Violation(violation));
    }

    fn finish_if_done(&mut self) {
        let done = match self.stage {
            Stage::Draining => self.slots.is_empty(),
            Stage::Ending => true,
            _ => false,
        };
        if done && self.at_devices == 0 {
            self.stage = Stage::Ended;
            self.actions.push_back(Action::Finished);
        }
    }
}
