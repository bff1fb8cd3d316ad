//! What is under test: an open pool, whatever drives it.

use fathom_block::{Error, Operation};

/// A request to a volume or snapshot.
#[derive(Debug)]
pub struct Request {
    /// Names it in its answer.
    pub id: u64,
    /// The volume or snapshot, by UUID.
    pub device: u128,
    /// What is asked.
    pub operation: Operation,
    /// The first logical block.
    pub first: u64,
    /// How many logical blocks.
    pub blocks: u64,
    /// What it writes, or room for what it reads.
    pub data: Vec<u8>,
}

/// A change of volumes and snapshots. At most one is under way.
#[derive(Clone, Debug)]
pub enum Call {
    /// Make a volume, of zeros or as a clone.
    Create(Volume),
    /// Make a snapshot of each of these volumes, at one point, with these UUIDs.
    Snapshot(Vec<(u128, u128)>),
    /// Delete a volume or snapshot.
    Delete(u128),
    /// Set a volume back to its snapshot.
    RollBack {
        /// The volume.
        volume: u128,
        /// The snapshot.
        snapshot: u128,
    },
    /// Make a volume larger, to so many bytes.
    Grow {
        /// The volume.
        volume: u128,
        /// Its new size.
        bytes: u64,
    },
}

/// A volume to be made.
#[derive(Clone, Copy, Debug)]
pub struct Volume {
    /// Its UUID.
    pub uuid: u128,
    /// Its size in bytes.
    pub bytes: u64,
    /// The size of its logical blocks in bytes.
    pub block_size: u32,
    /// Space is set aside for all of it.
    pub thick: bool,
    /// Every acknowledged write survives a power cut.
    pub write_cache_off: bool,
    /// The volume or snapshot of which it is a clone.
    pub source: Option<u128>,
}

/// How a call ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Ended {
    /// It is done, and durable.
    Done,
    /// It was refused and changed nothing.
    Refused(String),
}

/// What comes back.
#[derive(Debug)]
pub enum Answer {
    /// A request is done; a read has its data.
    Request {
        /// Its name.
        id: u64,
        /// Done, or why not.
        result: Result<(), Error>,
        /// The data that came with it.
        data: Vec<u8>,
    },
    /// The call has ended.
    Call(Ended),
}

/// A device as the pool tells it.
#[derive(Clone, Copy, Debug)]
pub struct Device {
    /// Its UUID.
    pub uuid: u128,
    /// Its size in bytes.
    pub bytes: u64,
    /// The size of its logical blocks in bytes.
    pub block_size: u32,
}

/// An open pool. Dropping it is its death: what it had not given to the kernel is never done.
pub trait Subject {
    /// Gives it a request.
    ///
    /// # Errors
    ///
    /// When it is broken.
    fn submit(&mut self, request: Request) -> Result<(), String>;

    /// Begins a call.
    ///
    /// # Errors
    ///
    /// When it is broken.
    fn call(&mut self, call: &Call) -> Result<(), String>;

    /// Waits for an answer to a request or call that is under way.
    ///
    /// # Errors
    ///
    /// When it is broken, or does not answer within a deadline.
    fn wait(&mut self) -> Result<Answer, String>;

    /// Lets what it does in the background come to an end, when nothing else is under way.
    ///
    /// # Errors
    ///
    /// When it is broken, or does not end.
    fn rest(&mut self) -> Result<(), String>;

    /// All its volumes and snapshots.
    ///
    /// # Errors
    ///
    /// When it is broken.
    fn devices(&mut self) -> Result<Vec<Device>, String>;
}
