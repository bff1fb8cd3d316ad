//! Lists that Identify returns: namespaces, controllers, and the identifiers of a namespace.
//!
//! Sources: sections 4.6.1 (controller list), 4.6.2 (namespace list), 5.1.13.2.2, 5.1.13.2.3,
//! 5.1.13.2.9, 5.1.13.2.11 and 5.1.13.2.12.

use fathom_units::{Cntlid, Nsid};

use super::{IDENTIFY_SIZE, sized};
use crate::Malformed;

/// A list of namespace identifiers in increasing order (4.6.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NamespaceList<'a>(&'a [u8; IDENTIFY_SIZE]);

impl<'a> NamespaceList<'a> {
    /// How many identifiers a list has room for.
    pub const MAX: usize = 1024;

    /// The first identifiers of `nsids`, which are in increasing order; what does not fit is left
    /// out.
    pub fn encode(nsids: impl IntoIterator<Item = Nsid>) -> [u8; IDENTIFY_SIZE] {
        let mut bytes = [0; IDENTIFY_SIZE];
        for (nsid, entry) in nsids.into_iter().zip(bytes.chunks_exact_mut(4)) {
            entry.copy_from_slice(&nsid.0.to_le_bytes());
        }
        bytes
    }

    /// A view of a list.
    ///
    /// # Errors
    ///
    /// [`Malformed`] when its length is another, or it does not increase.
    pub fn view(bytes: &'a [u8]) -> Result<Self, Malformed> {
        const STRUCTURE: &str = "Namespace List";
        let list = Self(sized(STRUCTURE, bytes)?);
        if !list.nsids().is_sorted_by(|one, next| one < next) {
            return Err(Malformed::field(STRUCTURE, "identifiers", "do not increase"));
        }
        Ok(list)
    }

    /// Its identifiers, up to the first that is zero.
    pub fn nsids(&self) -> impl Iterator<Item = Nsid> + use<'a> {
        let (entries, _) = self.0.as_chunks();
        entries.iter().map(|entry| Nsid(u32::from_le_bytes(*entry))).take_while(|nsid| nsid.0 != 0)
    }
}

/// A list of controller identifiers in increasing order (4.6.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ControllerList<'a>(&'a [u8; IDENTIFY_SIZE]);

impl<'a> ControllerList<'a> {
    /// How many identifiers a list has room for.
    pub const MAX: usize = 2047;

    /// The first identifiers of `controllers`, which are in increasing order; what does not fit is
    /// left out.
    pub fn encode(controllers: impl IntoIterator<Item = Cntlid>) -> [u8; IDENTIFY_SIZE] {
        let mut bytes = [0; IDENTIFY_SIZE];
        let (count_bytes, entries) = bytes.split_at_mut(2);
        let mut count = 0u16;
        for (controller, entry) in controllers.into_iter().zip(entries.chunks_exact_mut(2)) {
            entry.copy_from_slice(&controller.0.to_le_bytes());
            count += 1;
        }
        count_bytes.copy_from_slice(&count.to_le_bytes());
        bytes
    }

    /// A view of a list.
    ///
    /// # Errors
    ///
    /// [`Malformed`] when its length is another, it says that it has more identifiers than it has
    /// room for, or it does not increase.
    pub fn view(bytes: &'a [u8]) -> Result<Self, Malformed> {
        const STRUCTURE: &str = "Controller List";
        let list = Self(sized(STRUCTURE, bytes)?);
        if list.count() > Self::MAX {
            return Err(Malformed::field(STRUCTURE, "number of identifiers", "is above 2047"));
        }
        if !list.controllers().is_sorted_by(|one, next| one < next) {
            return Err(Malformed::field(STRUCTURE, "identifiers", "do not increase"));
        }
        Ok(list)
    }

    fn count(&self) -> usize {
        usize::from(u16::from_le_bytes([self.0[0], self.0[1]]))
    }

    /// Its identifiers.
    pub fn controllers(&self) -> impl Iterator<Item = Cntlid> + use<'a> {
        let (entries, _) = self.0[2..].as_chunks();
        entries.iter().take(self.count()).map(|entry| Cntlid(u16::from_le_bytes(*entry)))
    }
}

/// The identifiers of a namespace (5.1.13.2.3). An all zero one is none, but for the command set.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct NamespaceDescriptors {
    /// NIDT 1h: the IEEE Extended Unique Identifier.
    pub eui64: Option<[u8; 8]>,
    /// NIDT 2h: the Namespace Globally Unique Identifier.
    pub nguid: Option<[u8; 16]>,
    /// NIDT 3h: the UUID, in the order of RFC 9562.
    pub uuid: Option<[u8; 16]>,
    /// NIDT 4h: the command set.
    pub command_set: Option<u8>,
}

/// The types of identifiers (5.1.13.2.3, NIDT).
mod nidt {
    pub(super) const EUI64: u8 = 1;
    pub(super) const NGUID: u8 = 2;
    pub(super) const UUID: u8 = 3;
    pub(super) const CSI: u8 = 4;
}

impl NamespaceDescriptors {
    /// NIDT, NIDL and two reserved bytes.
    const HEADER: usize = 4;

    /// The list.
    pub fn encode(&self) -> [u8; IDENTIFY_SIZE] {
        let mut bytes = [0; IDENTIFY_SIZE];
        let mut at = 0;
        let mut put = |kind: u8, identifier: &[u8]| {
            let length = u8::try_from(identifier.len()).expect("at most 16 bytes");
            let to = &mut bytes[at..at + Self::HEADER + identifier.len()];
            to[..2].copy_from_slice(&[kind, length]);
            to[Self::HEADER..].copy_from_slice(identifier);
            at += to.len();
        };
        if let Some(eui64) = &self.eui64 {
            put(nidt::EUI64, eui64);
        }
        if let Some(nguid) = &self.nguid {
            put(nidt::NGUID, nguid);
        }
        if let Some(uuid) = &self.uuid {
            put(nidt::UUID, uuid);
        }
        if let Some(command_set) = self.command_set {
            put(nidt::CSI, &[command_set]);
        }
        bytes
    }

    /// The value of a list. Types that are not known are left out.
    ///
    /// # Errors
    ///
    /// [`Malformed`] when its length is another, a descriptor goes beyond its end or has another
    /// length than its type, or a type stands there twice.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        const STRUCTURE: &str = "Namespace Identification Descriptors";
        let mut rest: &[u8] = sized(STRUCTURE, bytes)?;
        let mut all = Self::default();
        while let [kind, length, _, _, after @ ..] = rest {
            if *length == 0 {
                break;
            }
            let error = Malformed::field(STRUCTURE, "NIDL", "goes beyond the end");
            let (identifier, next) = after.split_at_checked(usize::from(*length)).ok_or(error)?;
            let is_new = match *kind {
                nidt::EUI64 => set(&mut all.eui64, exactly(identifier)?),
                nidt::NGUID => set(&mut all.nguid, exactly(identifier)?),
                nidt::UUID => set(&mut all.uuid, exactly(identifier)?),
                nidt::CSI => set(&mut all.command_set, exactly::<1>(identifier)?[0]),
                _ => true,
            };
            if !is_new {
                return Err(Malformed::field(STRUCTURE, "NIDT", "stands there twice"));
            }
            rest = next;
        }
        return Ok(all);

        fn exactly<const N: usize>(identifier: &[u8]) -> Result<[u8; N], Malformed> {
            let error = Malformed::field(STRUCTURE, "NIDL", "is not that of its type");
            identifier.try_into().map_err(|_| error)
        }

        fn set<T>(to: &mut Option<T>, value: T) -> bool {
            to.replace(value).is_none()
        }
    }
}
