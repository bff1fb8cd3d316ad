//! The status field of a completion: the code that a command is answered with, and its flags.
//!
//! Sources: sections 4.2.3 and 4.2.3.1 to 4.2.3.4; NVM section 3.1.2.
//!
//! - A [`Status`] is the field's 15 bits without the phase tag, which has no use over fabrics.
//! - Every code of the specifications that a fabrics controller with the NVM command set can send
//!   has a name. An unknown code is kept as it is.

use core::fmt;

/// The status of a command: what bits 31:17 of a completion's dword 3 hold.
///
/// Two are equal when code and flags are. [`Status::code`] leaves the flags out.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Status(u16);

/// To which set a status code belongs (section 4.2.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StatusCodeType {
    /// Codes that mean the same for every command.
    Generic,
    /// Codes that mean something for the command that failed.
    CommandSpecific,
    /// Errors of the medium and of data integrity.
    MediaError,
    /// Errors of the path between host and controller.
    Path,
    /// Types 4h to 6h, which are reserved.
    Reserved,
    /// What a vendor has defined.
    VendorSpecific,
}

const CODE_BITS: u16 = 0x07FF;
const CRD_SHIFT: u16 = 11;
const CRD_BITS: u16 = 0b11 << CRD_SHIFT;
const MORE: u16 = 1 << 13;
const DO_NOT_RETRY: u16 = 1 << 14;
const ALL_BITS: u16 = 0x7FFF;

impl Status {
    /// The status with this type and code, without flags.
    pub const fn new(code_type: u8, code: u8) -> Self {
        Self(((code_type as u16) << 8 | code as u16) & CODE_BITS)
    }

    /// The status in the 16-bit field of a completion, whose bit 0 is the phase tag (Figure 100).
    pub const fn from_field(field: u16) -> Self {
        Self(field >> 1)
    }

    /// The 16-bit field of a completion that carries this status, with phase tag 0.
    pub const fn to_field(self) -> u16 {
        self.0 << 1
    }

    /// Bits 24:17: the code within its type.
    pub const fn sc(self) -> u8 {
        (self.0 & 0xFF) as u8
    }

    /// Bits 27:25 as they stand.
    pub const fn sct(self) -> u8 {
        ((self.0 & CODE_BITS) >> 8) as u8
    }

    /// Bits 27:25: to which set the code belongs.
    pub const fn code_type(self) -> StatusCodeType {
        match self.sct() {
            0 => StatusCodeType::Generic,
            1 => StatusCodeType::CommandSpecific,
            2 => StatusCodeType::MediaError,
            3 => StatusCodeType::Path,
            7 => StatusCodeType::VendorSpecific,
            _ => StatusCodeType::Reserved,
        }
    }

    /// Type and code alone, to compare with one of the constants.
    pub const fn code(self) -> Self {
        Self(self.0 & CODE_BITS)
    }

    /// Whether the command succeeded.
    pub const fn is_success(self) -> bool {
        self.0 & CODE_BITS == 0
    }

    /// Bits 29:28 (CRD): which of the controller's command retry delay times a host should wait
    /// before it tries again, 1 to 3; 0 for none.
    pub const fn retry_delay(self) -> u8 {
        ((self.0 & CRD_BITS) >> CRD_SHIFT) as u8
    }

    /// The same with this retry delay, 0 to 3.
    ///
    /// # Panics
    ///
    /// When it is above 3.
    #[must_use]
    pub const fn with_retry_delay(self, delay: u8) -> Self {
        assert!(delay <= 3, "CRD has two bits");
        Self(self.0 & !CRD_BITS | (delay as u16) << CRD_SHIFT)
    }

    /// Bit 30 (M): the error information log page says more.
    pub const fn has_more(self) -> bool {
        self.0 & MORE != 0
    }

    /// The same with M set.
    #[must_use]
    pub const fn with_more(self) -> Self {
        Self(self.0 | MORE)
    }

    /// Bit 31 (DNR): the same command would fail again.
    pub const fn is_do_not_retry(self) -> bool {
        self.0 & DO_NOT_RETRY != 0
    }

    /// The same with DNR set.
    #[must_use]
    pub const fn do_not_retry(self) -> Self {
        Self(self.0 | DO_NOT_RETRY)
    }

    /// Every bit of the status, for a counter or a log entry.
    pub const fn bits(self) -> u16 {
        self.0 & ALL_BITS
    }
}

/// Names the code constants of [`Status`] and their texts.
macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = ($sct:literal, $sc:literal, $text:literal);)*) => {
        impl Status {
            $($(#[$doc])* pub const $name: Self = Self::new($sct, $sc);)*

            /// What the specification calls the code, if it has a name here.
            pub const fn name(self) -> Option<&'static str> {
                match (self.sct(), self.sc()) {
                    $(($sct, $sc) => Some($text),)*
                    _ => None,
                }
            }

            /// Every named code.
            #[cfg(test)]
            const NAMED: &[Self] = &[$(Self::$name),*];
        }
    };
}

codes! {
    /// 4.2.3.1. The command succeeded.
    SUCCESS = (0, 0x00, "Successful Completion");
    /// 4.2.3.1. The opcode is not supported.
    INVALID_OPCODE = (0, 0x01, "Invalid Command Opcode");
    /// 4.2.3.1. A field of the command has a value that is not allowed or not supported.
    INVALID_FIELD = (0, 0x02, "Invalid Field in Command");
    /// 4.2.3.1. The CID is already in use in the queue.
    COMMAND_ID_CONFLICT = (0, 0x03, "Command ID Conflict");
    /// 4.2.3.1. Transferring data or metadata failed.
    DATA_TRANSFER_ERROR = (0, 0x04, "Data Transfer Error");
    /// 4.2.3.1. Aborted because of a power loss notification.
    ABORTED_POWER_LOSS = (0, 0x05, "Commands Aborted due to Power Loss Notification");
    /// 4.2.3.1. Failed because of an internal error.
    INTERNAL_ERROR = (0, 0x06, "Internal Error");
    /// 4.2.3.1. Aborted by an Abort command.
    ABORT_REQUESTED = (0, 0x07, "Command Abort Requested");
    /// 4.2.3.1. Aborted because its submission queue was deleted.
    ABORTED_SQ_DELETION = (0, 0x08, "Command Aborted due to SQ Deletion");
    /// 4.2.3.1. The other command of the fused operation failed.
    ABORTED_FAILED_FUSED = (0, 0x09, "Command Aborted due to Failed Fused Command");
    /// 4.2.3.1. The other command of the fused operation is missing.
    ABORTED_MISSING_FUSED = (0, 0x0A, "Command Aborted due to Missing Fused Command");
    /// 4.2.3.1. The namespace or its format is not valid.
    INVALID_NAMESPACE_OR_FORMAT = (0, 0x0B, "Invalid Namespace or Format");
    /// 4.2.3.1. A command came before another one that it needs.
    COMMAND_SEQUENCE_ERROR = (0, 0x0C, "Command Sequence Error");
    /// 4.2.3.1. An SGL last segment or segment descriptor is not valid.
    INVALID_SGL_SEGMENT_DESCRIPTOR = (0, 0x0D, "Invalid SGL Segment Descriptor");
    /// 4.2.3.1. An SGL has too many or too few descriptors.
    INVALID_NUMBER_OF_SGL_DESCRIPTORS = (0, 0x0E, "Invalid Number of SGL Descriptors");
    /// 4.2.3.1. The length of a data SGL is too short or too long.
    DATA_SGL_LENGTH_INVALID = (0, 0x0F, "Data SGL Length Invalid");
    /// 4.2.3.1. The length of a metadata SGL is too short or too long.
    METADATA_SGL_LENGTH_INVALID = (0, 0x10, "Metadata SGL Length Invalid");
    /// 4.2.3.1. The type of an SGL descriptor is not supported.
    SGL_DESCRIPTOR_TYPE_INVALID = (0, 0x11, "SGL Descriptor Type Invalid");
    /// 4.2.3.1. The controller memory buffer was used in a way that is not supported.
    INVALID_USE_OF_CMB = (0, 0x12, "Invalid Use of Controller Memory Buffer");
    /// 4.2.3.1. The offset in a PRP entry is not valid.
    PRP_OFFSET_INVALID = (0, 0x13, "PRP Offset Invalid");
    /// 4.2.3.1. The write is longer than the atomic write unit.
    ATOMIC_WRITE_UNIT_EXCEEDED = (0, 0x14, "Atomic Write Unit Exceeded");
    /// 4.2.3.1. An access rule denied the command.
    OPERATION_DENIED = (0, 0x15, "Operation Denied");
    /// 4.2.3.1. The offset in an SGL descriptor is not valid.
    SGL_OFFSET_INVALID = (0, 0x16, "SGL Offset Invalid");
    /// 4.2.3.1. Controllers were given Host Identifiers of different formats.
    HOST_IDENTIFIER_INCONSISTENT_FORMAT = (0, 0x18, "Host Identifier Inconsistent Format");
    /// 4.2.3.1. The keep alive timer expired.
    KEEP_ALIVE_TIMER_EXPIRED = (0, 0x19, "Keep Alive Timer Expired");
    /// 4.2.3.1. The keep alive timeout is not supported.
    KEEP_ALIVE_TIMEOUT_INVALID = (0, 0x1A, "Keep Alive Timeout Invalid");
    /// 4.2.3.1. Aborted by a reservation's preempt and abort.
    ABORTED_PREEMPT_AND_ABORT = (0, 0x1B, "Command Aborted due to Preempt and Abort");
    /// 4.2.3.1. The last sanitize operation failed.
    SANITIZE_FAILED = (0, 0x1C, "Sanitize Failed");
    /// 4.2.3.1. A sanitize operation is under way.
    SANITIZE_IN_PROGRESS = (0, 0x1D, "Sanitize In Progress");
    /// 4.2.3.1. The address or length of an SGL data block is not aligned.
    SGL_DATA_BLOCK_GRANULARITY_INVALID = (0, 0x1E, "SGL Data Block Granularity Invalid");
    /// 4.2.3.1. The command cannot be in a queue in the controller memory buffer.
    NOT_SUPPORTED_FOR_QUEUE_IN_CMB = (0, 0x1F, "Command Not Supported for Queue in CMB");
    /// 4.2.3.1. The namespace is write protected.
    NAMESPACE_IS_WRITE_PROTECTED = (0, 0x20, "Namespace is Write Protected");
    /// 4.2.3.1. The controller gave the command up; it may be tried again.
    COMMAND_INTERRUPTED = (0, 0x21, "Command Interrupted");
    /// 4.2.3.1. The transport failed in a way that will pass.
    TRANSIENT_TRANSPORT_ERROR = (0, 0x22, "Transient Transport Error");
    /// 4.2.3.1. A lockdown prohibits the command or feature.
    PROHIBITED_BY_LOCKDOWN = (0, 0x23, "Command Prohibited by Command and Feature Lockdown");
    /// 4.2.3.1. The admin command needs media that are not ready.
    ADMIN_COMMAND_MEDIA_NOT_READY = (0, 0x24, "Admin Command Media Not Ready");
    /// 4.2.3.1, NVM 3.1.2.1. The range lies beyond the end of the namespace.
    LBA_OUT_OF_RANGE = (0, 0x80, "LBA Out of Range");
    /// 4.2.3.1, NVM 3.1.2.1. There is no space for new data.
    CAPACITY_EXCEEDED = (0, 0x81, "Capacity Exceeded");
    /// 4.2.3.1. The namespace is not ready; DNR says whether it may become so.
    NAMESPACE_NOT_READY = (0, 0x82, "Namespace Not Ready");
    /// 4.2.3.1. A reservation of another host forbids the command.
    RESERVATION_CONFLICT = (0, 0x83, "Reservation Conflict");
    /// 4.2.3.1. The namespace is being formatted.
    FORMAT_IN_PROGRESS = (0, 0x84, "Format In Progress");

    /// 4.2.3.2. The completion queue does not exist.
    COMPLETION_QUEUE_INVALID = (1, 0x00, "Completion Queue Invalid");
    /// 4.2.3.2. The queue identifier is not valid or in use.
    INVALID_QUEUE_IDENTIFIER = (1, 0x01, "Invalid Queue Identifier");
    /// 4.2.3.2. The size of the queue is not supported.
    INVALID_QUEUE_SIZE = (1, 0x02, "Invalid Queue Size");
    /// 4.2.3.2. Too many Abort commands are under way.
    ABORT_COMMAND_LIMIT_EXCEEDED = (1, 0x03, "Abort Command Limit Exceeded");
    /// 4.2.3.2. Too many Asynchronous Event Request commands are under way.
    ASYNC_EVENT_REQUEST_LIMIT_EXCEEDED = (1, 0x05, "Asynchronous Event Request Limit Exceeded");
    /// 4.2.3.2. The firmware slot does not exist or is read-only.
    INVALID_FIRMWARE_SLOT = (1, 0x06, "Invalid Firmware Slot");
    /// 4.2.3.2. The firmware image is not valid.
    INVALID_FIRMWARE_IMAGE = (1, 0x07, "Invalid Firmware Image");
    /// 4.2.3.2. The interrupt vector does not exist.
    INVALID_INTERRUPT_VECTOR = (1, 0x08, "Invalid Interrupt Vector");
    /// 4.2.3.2. The log page is not supported.
    INVALID_LOG_PAGE = (1, 0x09, "Invalid Log Page");
    /// 4.2.3.2. The format is not supported.
    INVALID_FORMAT = (1, 0x0A, "Invalid Format");
    /// 4.2.3.2. The feature cannot be saved.
    FEATURE_NOT_SAVEABLE = (1, 0x0D, "Feature Identifier Not Saveable");
    /// 4.2.3.2. The feature cannot be changed.
    FEATURE_NOT_CHANGEABLE = (1, 0x0E, "Feature Not Changeable");
    /// 4.2.3.2. The feature is not of a namespace.
    FEATURE_NOT_NAMESPACE_SPECIFIC = (1, 0x0F, "Feature Not Namespace Specific");
    /// 4.2.3.2. Ranges overlap that may not.
    OVERLAPPING_RANGE = (1, 0x14, "Overlapping Range");
    /// 4.2.3.2. The namespace cannot have so much capacity.
    NAMESPACE_INSUFFICIENT_CAPACITY = (1, 0x15, "Namespace Insufficient Capacity");
    /// 4.2.3.2. There are too many namespaces.
    NAMESPACE_IDENTIFIER_UNAVAILABLE = (1, 0x16, "Namespace Identifier Unavailable");
    /// 4.2.3.2. The namespace is already attached.
    NAMESPACE_ALREADY_ATTACHED = (1, 0x18, "Namespace Already Attached");
    /// 4.2.3.2. The namespace is private to another controller.
    NAMESPACE_IS_PRIVATE = (1, 0x19, "Namespace Is Private");
    /// 4.2.3.2. The namespace is not attached.
    NAMESPACE_NOT_ATTACHED = (1, 0x1A, "Namespace Not Attached");
    /// 4.2.3.2. Thin provisioning is not supported.
    THIN_PROVISIONING_NOT_SUPPORTED = (1, 0x1B, "Thin Provisioning Not Supported");
    /// 4.2.3.2. The controller list is not valid.
    CONTROLLER_LIST_INVALID = (1, 0x1C, "Controller List Invalid");
    /// 4.2.3.2. The controller identifier is not valid.
    INVALID_CONTROLLER_IDENTIFIER = (1, 0x1F, "Invalid Controller Identifier");
    /// 4.2.3.2. The ANA group identifier is not valid.
    ANA_GROUP_IDENTIFIER_INVALID = (1, 0x24, "ANA Group Identifier Invalid");
    /// 4.2.3.2. Attaching would leave a namespace in the wrong ANA state.
    ANA_ATTACH_FAILED = (1, 0x25, "ANA Attach Failed");
    /// 4.2.3.2. The I/O command set is not supported.
    IO_COMMAND_SET_NOT_SUPPORTED = (1, 0x29, "I/O Command Set Not Supported");
    /// 4.2.3.2. The I/O command set is not enabled.
    IO_COMMAND_SET_NOT_ENABLED = (1, 0x2A, "I/O Command Set Not Enabled");
    /// 4.2.3.2. The combination of I/O command sets is not supported.
    IO_COMMAND_SET_COMBINATION_REJECTED = (1, 0x2B, "I/O Command Set Combination Rejected");
    /// 4.2.3.2. The I/O command set is not valid.
    INVALID_IO_COMMAND_SET = (1, 0x2C, "Invalid I/O Command Set");
    /// 4.2.3.2. An identifier is in use.
    IDENTIFIER_UNAVAILABLE = (1, 0x2D, "Identifier Unavailable");
    /// 4.2.3.2, I/O commands, NVM 3.1.2.2. Attributes of the command contradict each other. The
    /// same code answers Connect with [`Self::CONNECT_INCOMPATIBLE_FORMAT`].
    CONFLICTING_ATTRIBUTES = (1, 0x80, "Conflicting Attributes, or Incompatible Format");
    /// 4.2.3.2, I/O commands, NVM 3.1.2.2. The protection information settings are not valid. The
    /// same code answers Connect with [`Self::CONNECT_CONTROLLER_BUSY`].
    INVALID_PROTECTION_INFORMATION =
        (1, 0x81, "Invalid Protection Information, or Controller Busy");
    /// 4.2.3.2, I/O commands, NVM 3.1.2.2. A range that can only be read was written. The same code
    /// answers Connect with [`Self::CONNECT_INVALID_PARAMETERS`].
    WRITE_TO_READ_ONLY_RANGE =
        (1, 0x82, "Attempted Write to Read Only Range, or Connect Invalid Parameters");
    /// 4.2.3.2, I/O commands, NVM 3.1.2.2. The command is larger than its size limit. The same code
    /// answers Connect with [`Self::CONNECT_RESTART_DISCOVERY`].
    COMMAND_SIZE_LIMIT_EXCEEDED =
        (1, 0x83, "Command Size Limit Exceeded, or Connect Restart Discovery");
    /// 4.2.3.2, Fabrics. The host is not allowed to connect to the subsystem.
    CONNECT_INVALID_HOST = (1, 0x84, "Connect Invalid Host");
    /// 4.2.3.2, Fabrics. The queue is not of the type that the command needs.
    INVALID_QUEUE_TYPE = (1, 0x85, "Invalid Queue Type");
    /// 4.2.3.2, Fabrics. The discovery information has changed: begin again.
    DISCOVER_RESTART = (1, 0x90, "Discover Restart");
    /// 4.2.3.2, Fabrics. Authentication is required first.
    AUTHENTICATION_REQUIRED = (1, 0x91, "Authentication Required");

    /// 4.2.3.3, NVM 3.1.2.3. The medium failed to take data.
    WRITE_FAULT = (2, 0x80, "Write Fault");
    /// 4.2.3.3, NVM 3.1.2.3. The medium failed to return data.
    UNRECOVERED_READ_ERROR = (2, 0x81, "Unrecovered Read Error");
    /// 4.2.3.3. The guard field is wrong.
    GUARD_CHECK_ERROR = (2, 0x82, "End-to-end Guard Check Error");
    /// 4.2.3.3. The application tag is wrong.
    APPLICATION_TAG_CHECK_ERROR = (2, 0x83, "End-to-end Application Tag Check Error");
    /// 4.2.3.3. The reference tag is wrong.
    REFERENCE_TAG_CHECK_ERROR = (2, 0x84, "End-to-end Reference Tag Check Error");
    /// 4.2.3.3, NVM 3.1.2.3. Compare found different data.
    COMPARE_FAILURE = (2, 0x85, "Compare Failure");
    /// 4.2.3.3. Access to the data is denied.
    ACCESS_DENIED = (2, 0x86, "Access Denied");
    /// 4.2.3.3, NVM 3.1.2.3. A deallocated or unwritten block was read.
    DEALLOCATED_OR_UNWRITTEN_BLOCK = (2, 0x87, "Deallocated or Unwritten Logical Block");
    /// 4.2.3.3. The storage tag is wrong.
    STORAGE_TAG_CHECK_ERROR = (2, 0x88, "End-to-End Storage Tag Check Error");

    /// 4.2.3.4. The path failed in the controller.
    INTERNAL_PATH_ERROR = (3, 0x00, "Internal Path Error");
    /// 4.2.3.4. The namespace's ANA state is persistent loss.
    ANA_PERSISTENT_LOSS = (3, 0x01, "Asymmetric Access Persistent Loss");
    /// 4.2.3.4. The namespace's ANA state is inaccessible.
    ANA_INACCESSIBLE = (3, 0x02, "Asymmetric Access Inaccessible");
    /// 4.2.3.4. The namespace's ANA state is changing.
    ANA_TRANSITION = (3, 0x03, "Asymmetric Access Transition");
    /// 4.2.3.4. The controller found an error of the path.
    CONTROLLER_PATHING_ERROR = (3, 0x60, "Controller Pathing Error");
    /// 4.2.3.4. The host found an error of the path.
    HOST_PATHING_ERROR = (3, 0x70, "Host Pathing Error");
    /// 4.2.3.4. The host gave the command up.
    ABORTED_BY_HOST = (3, 0x71, "Command Aborted By Host");
}

/// Codes that mean one thing in the answer to an I/O command and another in that to a Connect
/// (section 4.2.3.2, Fabrics).
impl Status {
    /// The record format is not supported.
    pub const CONNECT_INCOMPATIBLE_FORMAT: Self = Self::new(1, 0x80);
    /// The controller is in use, or has no room for a host; it may later.
    pub const CONNECT_CONTROLLER_BUSY: Self = Self::new(1, 0x81);
    /// A parameter of the command or its data is not valid; dword 0 says which.
    pub const CONNECT_INVALID_PARAMETERS: Self = Self::new(1, 0x82);
    /// The subsystem is not reached here any more: discover anew.
    pub const CONNECT_RESTART_DISCOVERY: Self = Self::new(1, 0x83);
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name)?,
            None => write!(f, "status type {:x}h, code {:02x}h", self.sct(), self.sc())?,
        }
        if self.is_do_not_retry() { f.write_str(" (do not retry)") } else { Ok(()) }
    }
}

impl fmt::Debug for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Status({self}, {:#06x})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_field_has_its_bits_and_leaves_its_neighbours() {
        let all = Status::from_field(0xFFFF);
        assert_eq!((all.sc(), all.sct(), all.retry_delay()), (0xFF, 7, 3));
        assert!(all.has_more() && all.is_do_not_retry());
        // The phase tag is not part of it.
        assert_eq!(all.to_field(), 0xFFFE);
        for (field, sc, sct, crd, more, dnr) in [
            (0x01FE, 0xFF, 0, 0, false, false),
            (0x0E00, 0, 7, 0, false, false),
            (0x3000, 0, 0, 3, false, false),
            (0x4000, 0, 0, 0, true, false),
            (0x8000, 0, 0, 0, false, true),
            (0xFE01, 0, 7, 3, true, true),
            (0xF1FF, 0xFF, 0, 3, true, true),
            (0xCFFF, 0xFF, 7, 0, true, true),
            (0xBFFF, 0xFF, 7, 3, false, true),
            (0x7FFF, 0xFF, 7, 3, true, false),
        ] {
            let status = Status::from_field(field);
            assert_eq!((status.sc(), status.sct(), status.retry_delay()), (sc, sct, crd));
            assert_eq!((status.has_more(), status.is_do_not_retry()), (more, dnr), "{field:#x}");
            assert_eq!(status.to_field(), field & 0xFFFE);
        }
    }

    #[test]
    fn flags_do_not_change_the_code() {
        let status = Status::CAPACITY_EXCEEDED.do_not_retry().with_more().with_retry_delay(2);
        assert_eq!(status.code(), Status::CAPACITY_EXCEEDED);
        assert_eq!(status.to_field(), 0x8000 | 0x4000 | 0x2000 | 0x0102);
        assert_eq!(status.with_retry_delay(1).retry_delay(), 1);
        assert!(Status::SUCCESS.with_retry_delay(1).is_success());
        assert!(!status.is_success());
    }

    #[test]
    fn fields_of_completions_are_those_of_the_specification() {
        // Values that Linux and SPDK have for the same codes.
        for (status, field) in [
            (Status::SUCCESS, 0x0000),
            (Status::INVALID_FIELD, 0x0004),
            (Status::LBA_OUT_OF_RANGE, 0x0100),
            (Status::INVALID_LOG_PAGE, 0x0212),
            (Status::CONNECT_INVALID_PARAMETERS, 0x0304),
            (Status::COMPARE_FAILURE, 0x050A),
            (Status::ANA_INACCESSIBLE, 0x0604),
        ] {
            assert_eq!(status.to_field(), field, "{status}");
            assert_eq!(Status::from_field(field), status);
        }
    }

    #[test]
    fn no_two_names_share_a_code_and_unknown_ones_are_kept() {
        for (position, status) in Status::NAMED.iter().enumerate() {
            assert!(!Status::NAMED[..position].contains(status), "{status}");
        }
        let unknown = Status::new(6, 0x13);
        assert_eq!(unknown.name(), None);
        assert_eq!(unknown.code_type(), StatusCodeType::Reserved);
        assert_eq!(Status::from_field(unknown.to_field()), unknown);
        assert_eq!(unknown.to_string(), "status type 6h, code 13h");
    }

    #[test]
    #[should_panic(expected = "two bits")]
    fn a_retry_delay_above_three_is_a_bug() {
        let _ = Status::SUCCESS.with_retry_delay(4);
    }
}
