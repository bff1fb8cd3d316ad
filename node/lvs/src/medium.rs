//! The members of a pool as opening and creating it see them.

use thiserror::Error;

/// Reads and writes members one after another, each call complete when it returns.
///
/// Members are named by a *slot*, their position in the caller's list; which member of the
/// pool a slot is, its label says.
pub trait Medium {
    /// How many slots there are.
    fn slots(&self) -> usize;

    /// The size of a slot in bytes.
    fn size(&self, slot: usize) -> u64;

    /// Fills `buffer` from byte `offset`; both are multiples of 4096.
    ///
    /// # Errors
    ///
    /// When the member cannot be read there.
    fn read(&mut self, slot: usize, offset: u64, buffer: &mut [u8]) -> Result<(), MediumError>;

    /// Writes `data` at byte `offset`; both are multiples of 4096. Survives a power cut only
    /// after the next [`Medium::flush`].
    ///
    /// # Errors
    ///
    /// When the member cannot be written there.
    fn write(&mut self, slot: usize, offset: u64, data: &[u8]) -> Result<(), MediumError>;

    /// Brings every completed write to stable media.
    ///
    /// # Errors
    ///
    /// When that failed; what was written before may be gone.
    fn flush(&mut self, slot: usize) -> Result<(), MediumError>;
}

/// A member failed while a pool was opened or created.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("member {slot}: {operation} at byte {offset} failed: {reason}")]
pub struct MediumError {
    /// The slot.
    pub slot: usize,
    /// What was tried.
    pub operation: &'static str,
    /// Where.
    pub offset: u64,
    /// Why it failed.
    pub reason: String,
}
