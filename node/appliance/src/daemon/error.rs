//! Why a call to the node did not do what it was asked: told for people, translated once to gRPC.

use std::fmt;

use fathom_engine::{
    native::{devices::ImportError, grow::GrowError, members::PoolError, message::CallError},
    serve::handle::ServeError,
};
use fathom_lvs::{CreateError, DestroyError, Failed, OpenError, Refused};
use fathom_runtime::device::DeviceError;
use tonic::{Code, Status};

/// What kind of error it is: what a caller can do about it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// There is no such object.
    NotFound,
    /// The name is taken by something else.
    Exists,
    /// It can never be done like this.
    Invalid,
    /// The state of an object forbids it now.
    Precondition,
    /// There is not enough space.
    NoSpace,
    /// It may work later.
    Unavailable,
    /// A device or the kernel failed.
    Failed,
}

/// Why a call did not do what it was asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct CallFailed {
    pub(crate) kind: Kind,
    pub(crate) message: String,
}

impl CallFailed {
    pub(crate) fn new(kind: Kind, message: impl fmt::Display) -> Self {
        Self { kind, message: message.to_string() }
    }

    /// Says with which object it was.
    pub(crate) fn about(self, what: &str, name: &str) -> Self {
        Self { message: format!("{what} \"{name}\": {}", self.message), ..self }
    }
}

impl fmt::Display for CallFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for CallFailed {}

impl From<CallFailed> for Status {
    fn from(failed: CallFailed) -> Self {
        let code = match failed.kind {
            Kind::NotFound => Code::NotFound,
            Kind::Exists => Code::AlreadyExists,
            Kind::Invalid => Code::InvalidArgument,
            Kind::Precondition => Code::FailedPrecondition,
            Kind::NoSpace => Code::ResourceExhausted,
            Kind::Unavailable => Code::Unavailable,
            Kind::Failed => Code::Internal,
        };
        Self::new(code, failed.message)
    }
}

impl From<Refused> for CallFailed {
    fn from(refused: Refused) -> Self {
        let kind = match &refused {
            Refused::NameTaken(_) | Refused::UuidTaken(_) => Kind::Exists,
            Refused::NoVolume(_) | Refused::NoSnapshot(_) | Refused::NoMember(_) => Kind::NotFound,
            Refused::ForeignSnapshot { .. }
            | Refused::Shrinks { .. }
            | Refused::Malformed(_)
            | Refused::TooMuch { .. } => Kind::Invalid,
            Refused::NoSpace { .. }
            | Refused::Overcommitted { .. }
            | Refused::MetadataFull
            | Refused::NoIds => Kind::NoSpace,
            Refused::Member(_) => Kind::Precondition,
            Refused::Failed(_) => Kind::Unavailable,
        };
        Self::new(kind, refused)
    }
}

impl From<CallError> for CallFailed {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Refused(refused) | CallError::Failed(Failed::Refused(refused)) => {
                refused.into()
            }
            CallError::Failed(failed @ Failed::Device(_)) => Self::new(Kind::Failed, failed),
            error @ CallError::NoRoom => Self::new(Kind::Precondition, error),
            CallError::Closed => Self::new(Kind::Unavailable, CallError::Closed),
        }
    }
}

impl From<GrowError> for CallFailed {
    fn from(error: GrowError) -> Self {
        match error {
            GrowError::Call(error) => error.into(),
            GrowError::NoDevice(_) => Self::new(Kind::Precondition, error),
            GrowError::Device(_) | GrowError::Size(_) => Self::new(Kind::Failed, error),
        }
    }
}

impl From<ServeError> for CallFailed {
    fn from(error: ServeError) -> Self {
        Self::new(Kind::Unavailable, error)
    }
}

impl From<ImportError> for CallFailed {
    fn from(error: ImportError) -> Self {
        match error {
            ImportError::Device(error) => error.into(),
            ImportError::None { .. } => Self::new(Kind::NotFound, error),
            _ => Self::new(Kind::Precondition, error),
        }
    }
}

impl From<DestroyError> for CallFailed {
    fn from(error: DestroyError) -> Self {
        let kind = match &error {
            DestroyError::Medium(_) => Kind::Failed,
            DestroyError::Open(_) | DestroyError::InUse { .. } => Kind::Precondition,
        };
        Self::new(kind, error)
    }
}

impl From<DeviceError> for CallFailed {
    fn from(error: DeviceError) -> Self {
        let kind = match &error {
            DeviceError::InUse { .. } | DeviceError::Exists { .. } => Kind::Precondition,
            _ => Kind::Failed,
        };
        Self::new(kind, error)
    }
}

impl From<PoolError> for CallFailed {
    fn from(error: PoolError) -> Self {
        let kind = match &error {
            PoolError::Create(CreateError::Medium(_)) | PoolError::Space(_) => Kind::Failed,
            PoolError::Open(OpenError::Medium(_)) => Kind::Failed,
            PoolError::Create(_) | PoolError::Open(_) => Kind::Precondition,
        };
        Self::new(kind, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_caller_can_do_about_it_is_the_code() {
        let status = |error: CallError| Status::from(CallFailed::from(error)).code();
        let refused = |refused| status(CallError::Refused(refused));
        assert_eq!(refused(Refused::NameTaken("a".to_owned())), Code::AlreadyExists);
        assert_eq!(refused(Refused::MetadataFull), Code::ResourceExhausted);
        assert_eq!(refused(Refused::Failed("x")), Code::Unavailable);
        assert_eq!(
            status(CallError::Failed(Failed::Refused(Refused::NoIds))),
            Code::ResourceExhausted
        );
        assert_eq!(status(CallError::Closed), Code::Unavailable);
    }

    #[test]
    fn the_object_is_named() {
        let failed = CallFailed::new(Kind::Invalid, "it is too small").about("volume", "db");
        assert_eq!(failed.to_string(), "volume \"db\": it is too small");
    }
}
