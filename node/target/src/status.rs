//! What a device's error is to a host: the one place where one becomes the other.

use fathom_block::Error;
use fathom_nvme::Status;

/// The status that a command is answered with when its device answered `error`. DNR is set where
/// trying the same again cannot help.
pub(crate) fn of(error: Error) -> Status {
    match error {
        Error::LbaOutOfRange => Status::LBA_OUT_OF_RANGE.do_not_retry(),
        Error::InvalidField => Status::INVALID_FIELD.do_not_retry(),
        Error::CapacityExceeded => Status::CAPACITY_EXCEEDED.do_not_retry(),
        Error::CompareFailure => Status::COMPARE_FAILURE.do_not_retry(),
        Error::ReadOnly => Status::NAMESPACE_IS_WRITE_PROTECTED.do_not_retry(),
        Error::ReadFault => Status::UNRECOVERED_READ_ERROR,
        Error::WriteFault => Status::WRITE_FAULT,
        // It may be there again: a host that tries again must not give up at once.
        Error::NotReady => Status::NAMESPACE_NOT_READY,
    }
}
