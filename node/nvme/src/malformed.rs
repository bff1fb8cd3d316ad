//! Why a data structure could not be decoded: what a host says of a controller's answer.

use thiserror::Error;

/// A data structure whose bytes are not what the specification allows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum Malformed {
    /// It has another number of bytes.
    #[error("{structure}: {found} bytes, and {expected} are needed")]
    Length {
        /// The name of the structure.
        structure: &'static str,
        /// How many bytes it has, or has at least.
        expected: usize,
        /// How many bytes there are.
        found: usize,
    },
    /// A field has a value that the specification does not allow.
    #[error("{structure}: {field} {problem}")]
    Field {
        /// The name of the structure.
        structure: &'static str,
        /// The name of the field in the specification.
        field: &'static str,
        /// What is wrong with it.
        problem: &'static str,
    },
}

impl Malformed {
    pub(crate) const fn field(
        structure: &'static str,
        field: &'static str,
        problem: &'static str,
    ) -> Self {
        Self::Field { structure, field, problem }
    }
}
