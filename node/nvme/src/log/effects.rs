//! Three log pages with an entry for each number there can be: which log pages there are, which
//! commands and what they change, which features and what they change.
//!
//! Sources: sections 5.1.12.1.1 (00h), 5.1.12.1.6 (05h) and 5.1.12.1.18 (12h).

use bitflags::bitflags;

use crate::{Malformed, feature::FeatureId, log::LogId};

/// The numbers that a byte can have.
const NUMBERS: usize = 256;
const ENTRY: usize = 4;

/// The bytes of the Supported Log Pages log page, and of that of features.
pub const SUPPORTED_LOG_PAGES_SIZE: usize = NUMBERS * ENTRY;

bitflags! {
    /// What there is to say of a log page (5.1.12.1.1, Figure 204), bits 15:0.
    #[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
    pub struct LogPageSupport: u32 {
        /// Bit 0, LSUPP: it is supported.
        const SUPPORTED = 1 << 0;
        /// Bit 1, IOS: its offset can be an index.
        const INDEX_OFFSET = 1 << 1;
    }

    /// What a command changes (5.1.12.1.6, Figure 211).
    #[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
    pub struct CommandEffect: u32 {
        /// Bit 0, CSUPP: it is supported.
        const SUPPORTED = 1 << 0;
        /// Bit 1, LBCC: the content of logical blocks.
        const CONTENT = 1 << 1;
        /// Bit 2, NCC: what a namespace can do.
        const NAMESPACE_CAPABILITY = 1 << 2;
        /// Bit 3, NIC: which namespaces there are.
        const NAMESPACE_INVENTORY = 1 << 3;
        /// Bit 4, CCC: what the controller can do.
        const CONTROLLER_CAPABILITY = 1 << 4;
        /// Bits 18:16, CSE, as 001b: nothing else to the namespace meanwhile.
        const ALONE_IN_NAMESPACE = 1 << 16;
        /// Bits 18:16, CSE, as 010b: nothing else to any namespace meanwhile.
        const ALONE = 1 << 17;
        /// Bit 20, CSP: it concerns a namespace.
        const SCOPE_NAMESPACE = 1 << 20;
        /// Bit 21, CSP: it concerns the controller.
        const SCOPE_CONTROLLER = 1 << 21;
        /// Bit 25, CSP: it concerns the NVM subsystem.
        const SCOPE_SUBSYSTEM = 1 << 25;
    }

    /// What setting a feature changes (5.1.12.1.18, Figure 262).
    #[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
    pub struct FeatureEffect: u32 {
        /// Bit 0, FSUPP: it is supported.
        const SUPPORTED = 1 << 0;
        /// Bit 1, UDCC: the content of user data.
        const CONTENT = 1 << 1;
        /// Bit 2, NCC: what a namespace can do.
        const NAMESPACE_CAPABILITY = 1 << 2;
        /// Bit 3, NIC: which namespaces there are.
        const NAMESPACE_INVENTORY = 1 << 3;
        /// Bit 4, CCC: what the controller can do.
        const CONTROLLER_CAPABILITY = 1 << 4;
        /// Bit 20, FSP: it concerns a namespace.
        const SCOPE_NAMESPACE = 1 << 20;
        /// Bit 21, FSP: it concerns the controller.
        const SCOPE_CONTROLLER = 1 << 21;
        /// Bit 25, FSP: it concerns the NVM subsystem.
        const SCOPE_SUBSYSTEM = 1 << 25;
    }
}

fn put(page: &mut [u8], number: u8, bits: u32) {
    let at = usize::from(number) * ENTRY;
    page[at..at + ENTRY].copy_from_slice(&bits.to_le_bytes());
}

fn get(page: &[u8], number: u8) -> u32 {
    let entry = page[usize::from(number) * ENTRY..].first_chunk();
    u32::from_le_bytes(*entry.expect("a page has an entry for each number"))
}

/// The bytes of a page, when there are as many as it has.
fn sized<'a, const N: usize>(
    structure: &'static str,
    bytes: &'a [u8],
) -> Result<&'a [u8; N], Malformed> {
    let error = Malformed::Length { structure, expected: N, found: bytes.len() };
    <&[u8; N]>::try_from(bytes).map_err(|_| error)
}

/// The Supported Log Pages log page (00h).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SupportedLogPages([u8; SUPPORTED_LOG_PAGES_SIZE]);

impl SupportedLogPages {
    /// The page that says so of these log pages, and that others are not supported.
    pub fn new(pages: &[(LogId, LogPageSupport)]) -> Self {
        let mut page = [0; SUPPORTED_LOG_PAGES_SIZE];
        for (id, support) in pages {
            put(&mut page, id.0, support.bits());
        }
        Self(page)
    }

    /// The page in `bytes`.
    ///
    /// # Errors
    ///
    /// [`Malformed`] when it has another length.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        sized("Supported Log Pages", bytes).map(|page| Self(*page))
    }

    /// The bytes of the page.
    pub fn as_bytes(&self) -> &[u8; SUPPORTED_LOG_PAGES_SIZE] {
        &self.0
    }

    /// What it says of a log page.
    pub fn support(&self, id: LogId) -> LogPageSupport {
        LogPageSupport::from_bits_truncate(get(&self.0, id.0))
    }
}

/// The Commands Supported and Effects log page (05h).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EffectsLog([u8; CommandEffects::SIZE]);

/// What the page is made from: commands by opcode, with what they change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CommandEffects<'a> {
    /// Admin commands.
    pub admin: &'a [(u8, CommandEffect)],
    /// I/O commands of the command set.
    pub io: &'a [(u8, CommandEffect)],
}

impl CommandEffects<'_> {
    /// The bytes of the page: two tables and 2048 reserved bytes.
    pub const SIZE: usize = 4096;
}

impl EffectsLog {
    const IO: usize = NUMBERS * ENTRY;

    /// The page that says so of these commands, and that others are not supported.
    pub fn new(effects: &CommandEffects<'_>) -> Self {
        let mut page = [0; CommandEffects::SIZE];
        for (opcode, effect) in effects.admin {
            put(&mut page, *opcode, effect.bits());
        }
        for (opcode, effect) in effects.io {
            put(&mut page[Self::IO..], *opcode, effect.bits());
        }
        Self(page)
    }

    /// The page in `bytes`.
    ///
    /// # Errors
    ///
    /// [`Malformed`] when it has another length.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        sized("Commands Supported and Effects", bytes).map(|page| Self(*page))
    }

    /// The bytes of the page.
    pub fn as_bytes(&self) -> &[u8; CommandEffects::SIZE] {
        &self.0
    }

    /// What it says of an admin command.
    pub fn admin(&self, opcode: u8) -> CommandEffect {
        CommandEffect::from_bits_truncate(get(&self.0, opcode))
    }

    /// What it says of an I/O command.
    pub fn io(&self, opcode: u8) -> CommandEffect {
        CommandEffect::from_bits_truncate(get(&self.0[Self::IO..], opcode))
    }
}

/// The Feature Identifiers Supported and Effects log page (12h).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FeatureEffects([u8; SUPPORTED_LOG_PAGES_SIZE]);

impl FeatureEffects {
    /// The page that says so of these features, and that others are not supported.
    pub fn new(features: &[(FeatureId, FeatureEffect)]) -> Self {
        let mut page = [0; SUPPORTED_LOG_PAGES_SIZE];
        for (id, effect) in features {
            put(&mut page, id.0, effect.bits());
        }
        Self(page)
    }

    /// The page in `bytes`.
    ///
    /// # Errors
    ///
    /// [`Malformed`] when it has another length.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        sized("Feature Identifiers Supported and Effects", bytes).map(|page| Self(*page))
    }

    /// The bytes of the page.
    pub fn as_bytes(&self) -> &[u8; SUPPORTED_LOG_PAGES_SIZE] {
        &self.0
    }

    /// What it says of a feature.
    pub fn effect(&self, id: FeatureId) -> FeatureEffect {
        FeatureEffect::from_bits_truncate(get(&self.0, id.0))
    }
}
