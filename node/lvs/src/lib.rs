//! The logical volume store: pools, thin volumes, snapshots and clones.
//!
//! A pool lives on one or more members and describes itself completely. The store is
//! *pure*: it does no I/O, has no clock and draws no random numbers. Opening and creating a
//! pool read and write through a [`Medium`] that the caller brings; an open [`Store`] is
//! driven by requests and completions.
//!
//! - What is on the members: `docs/formats/lvs.md`, in code [`format`].
//! - Above it: the target and the attach paths, through the block contract.
//! - Below it: the runtime, which carries out [`Action`]s on the members.

pub mod geometry;

pub mod blocks;
pub mod format;
pub mod map;

mod assembly;
mod candidate;
mod create;
mod destroy;
mod foreign;
mod leveling;
mod medium;
mod membership;
mod open;

mod audit;
mod check;
mod chunks;
mod damage;
mod replay;
mod scan;

mod acceptance;

mod action;
mod admin;
mod deadline;
mod describe;
mod device;
mod direct;
mod directory;
mod fill;
mod grow;
mod io;
mod labels;
mod limits;
mod listing;
mod members;
mod space;
mod statistics;
mod store;

mod alloc;
mod discard;
mod epochs;
mod flush;
mod holds;
mod inflight;
mod log;
mod qos;
mod ranges;
mod reservation;
mod settle;
mod state;
mod tree;
mod views;

mod checkpoint;
mod reclaim;

pub use action::{
    Action, IoData, IoError, IoKind, IoToken, MemberIo, Payloads, REQUEST_BYTES_MAX, Wake,
};
pub use admin::{Failed, NewSnapshot, NewVolume, Refused, Ticket};
pub use assembly::{Assembly, Clash, assemble};
pub use candidate::{Candidate, Content, erase, inspect};
pub use check::{CHECK_FINDINGS_MAX, Checked, Finding, Report, Severity, check, verify};
pub use create::{CreateError, NewMember, NewPool, create};
pub use damage::Damage;
pub use deadline::IO_DEADLINE;
pub use destroy::{DestroyError, DestroyOptions, Destroyed, destroy};
pub use fill::{Event, Fill};
pub use grow::{Addition, MemberChange, MemberRefused};
pub use listing::{BlockRange, Page};
pub use medium::{Medium, MediumError};
pub use members::Health;
pub use open::{OpenError, OpenOptions, Opening, open};
pub use qos::HeldBack;
pub use reclaim::Reclaiming;
pub use space::Capacity;
pub use state::Inconsistent;
pub use statistics::{Counted, Counters, MemberStatus, Usage};
pub use store::{Store, UNSETTLED_MAX};
pub use views::VIEW_BYTES_MAX;
