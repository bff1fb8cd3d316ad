//! NVMe qualified names: of hosts and of NVM subsystems.
//!
//! Source: section 4.7.
//!
//! - A name is 1 to 223 bytes of UTF-8. [`Nqn::new`] takes only the two forms of the specification,
//!   and is for names that Fathom gives. [`Nqn::from_field`] takes whatever a peer calls itself or
//!   asks for, since names are compared byte by byte and an unknown one is refused anyway.
//! - Neither holds a control character, so that a name can be logged as it is.

use core::{fmt, hash};

use thiserror::Error;

/// The longest name, in bytes, without the zero byte that ends it in a field.
pub const NQN_MAX: usize = 223;
/// The bytes of a field that holds a name.
pub const NQN_FIELD_SIZE: usize = 256;

const DISCOVERY: &str = "nqn.2014-08.org.nvmexpress.discovery";
const UUID_FORM: &str = "nqn.2014-08.org.nvmexpress:uuid:";
/// Digits of a UUID between its hyphens (RFC 9562).
const UUID_GROUPS: [usize; 5] = [8, 4, 4, 4, 12];

/// An NVMe qualified name.
#[derive(Clone, Copy)]
pub struct Nqn {
    length: u8,
    bytes: [u8; NQN_MAX],
}

/// Why a text is not a name.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum NotAName {
    /// It has no bytes.
    #[error("the name is empty")]
    Empty,
    /// It has more than [`NQN_MAX`] bytes, or no zero byte ends it in its field.
    #[error("the name is longer than {NQN_MAX} bytes")]
    TooLong,
    /// It is not UTF-8.
    #[error("the name is not UTF-8")]
    NotUtf8,
    /// It holds a control character.
    #[error("the name holds a control character")]
    Control,
    /// It has neither of the two forms: `nqn.YYYY-MM.reverse.domain:anything` and
    /// `nqn.2014-08.org.nvmexpress:uuid:UUID`.
    #[error("the name has not the form nqn.YYYY-MM.reverse.domain:name, nor that with a UUID")]
    Form,
}

impl Nqn {
    /// The name of every discovery service that has no name of its own (3.1.3.3).
    pub fn discovery() -> Self {
        Self::new(DISCOVERY).expect("the specification's own name has its form")
    }

    /// A name of one of the two forms of section 4.7.
    ///
    /// The discovery name counts as the first form, though it has no colon.
    ///
    /// # Errors
    ///
    /// [`NotAName`], and why.
    pub fn new(text: &str) -> Result<Self, NotAName> {
        let name = Self::any(text)?;
        if text == DISCOVERY || is_uuid_form(text) || is_domain_form(text) {
            Ok(name)
        } else {
            Err(NotAName::Form)
        }
    }

    /// The name in a field of a structure, ended by a zero byte.
    ///
    /// # Errors
    ///
    /// [`NotAName`], but never [`NotAName::Form`].
    pub fn from_field(field: &[u8; NQN_FIELD_SIZE]) -> Result<Self, NotAName> {
        let end = field.iter().position(|byte| *byte == 0).ok_or(NotAName::TooLong)?;
        Self::any(core::str::from_utf8(&field[..end]).map_err(|_| NotAName::NotUtf8)?)
    }

    /// The name as a field of a structure, with zero bytes to its end.
    pub fn to_field(self) -> [u8; NQN_FIELD_SIZE] {
        let mut field = [0; NQN_FIELD_SIZE];
        let name = self.as_str().as_bytes();
        field[..name.len()].copy_from_slice(name);
        field
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        let bytes = &self.bytes[..usize::from(self.length)];
        core::str::from_utf8(bytes).expect("checked when the name was made")
    }

    /// Whether it is that of a discovery service without a name of its own.
    pub fn is_discovery(&self) -> bool {
        self.as_str() == DISCOVERY
    }

    fn any(text: &str) -> Result<Self, NotAName> {
        if text.is_empty() {
            return Err(NotAName::Empty);
        }
        let length = u8::try_from(text.len()).ok().filter(|length| usize::from(*length) <= NQN_MAX);
        let length = length.ok_or(NotAName::TooLong)?;
        if text.chars().any(char::is_control) {
            return Err(NotAName::Control);
        }
        let mut bytes = [0; NQN_MAX];
        bytes[..text.len()].copy_from_slice(text.as_bytes());
        Ok(Self { length, bytes })
    }
}

/// `nqn.2014-08.org.nvmexpress:uuid:` and a UUID, its digits in either case.
fn is_uuid_form(text: &str) -> bool {
    let Some(uuid) = text.strip_prefix(UUID_FORM) else { return false };
    let mut groups = uuid.split('-');
    let all = UUID_GROUPS.iter().all(|digits| {
        groups.next().is_some_and(|group| {
            group.len() == *digits && group.bytes().all(|byte| byte.is_ascii_hexdigit())
        })
    });
    all && groups.next().is_none()
}

/// `nqn.`, a date, a reversed domain of at least one label, a colon, and at least one character.
/// The domain of the NVMe organization is only for the other form.
fn is_domain_form(text: &str) -> bool {
    let Some(rest) = text.strip_prefix("nqn.") else { return false };
    let Some((year, rest)) = rest.split_once('-') else { return false };
    let Some((month, rest)) = rest.split_once('.') else { return false };
    let Some((domain, name)) = rest.split_once(':') else { return false };
    let digits =
        |text: &str, count| text.len() == count && text.bytes().all(|byte| byte.is_ascii_digit());
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    digits(year, 4)
        && digits(month, 2)
        && ("01"..="12").contains(&month)
        && domain.split('.').all(label)
        && !(year == "2014" && month == "08" && domain == "org.nvmexpress")
        && !name.is_empty()
}

impl PartialEq for Nqn {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Nqn {}

impl PartialOrd for Nqn {
    fn partial_cmp(&self, other: &Self) -> Option<core::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Nqn {
    fn cmp(&self, other: &Self) -> core::cmp::Ordering {
        self.as_str().cmp(other.as_str())
    }
}

impl hash::Hash for Nqn {
    fn hash<H: hash::Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

impl fmt::Display for Nqn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Nqn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Nqn({:?})", self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_of_both_forms_are_taken() {
        for text in [
            "nqn.2014-08.org.nvmexpress.discovery",
            "nqn.2014-08.org.nvmexpress:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6",
            "nqn.2014-08.org.nvmexpress:uuid:F81D4FAE-7DEC-11D0-A765-00A0C91E6BF6",
            "nqn.2024-12.io.fathom:pool-1:volume ü",
            "nqn.1999-01.example:x",
            "nqn.2014-08.com.example:nvme.host.sys.xyz",
        ] {
            let name = Nqn::new(text).expect(text);
            assert_eq!(name.as_str(), text);
            assert_eq!(Nqn::from_field(&name.to_field()), Ok(name));
        }
        assert!(Nqn::discovery().is_discovery());
        assert!(!Nqn::new("nqn.1999-01.example:x").expect("has the form").is_discovery());
    }

    #[test]
    fn other_forms_are_refused() {
        for text in [
            "iqn.2024-12.io.fathom:x",
            "nqn.2024-12.io.fathom:",
            "nqn.2024-12.io.fathom",
            "nqn.2024-13.io.fathom:x",
            "nqn.2024-00.io.fathom:x",
            "nqn.2024-1.io.fathom:x",
            "nqn.24-12.io.fathom:x",
            "nqn.2024-12..fathom:x",
            "nqn.2024-12.io.-fathom:x",
            "nqn.2024-12.:x",
            "nqn.2014-08.org.nvmexpress:x",
            "nqn.2014-08.org.nvmexpress:uuid:f81d4fae",
            "nqn.2014-08.org.nvmexpress:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bfg",
            "nqn.2014-08.org.nvmexpress:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6-",
        ] {
            assert_eq!(Nqn::new(text), Err(NotAName::Form), "{text}");
        }
        assert_eq!(Nqn::new(""), Err(NotAName::Empty));
        assert_eq!(Nqn::new("nqn.2024-12.io.fathom:a\nb"), Err(NotAName::Control));
    }

    #[test]
    fn a_name_has_at_most_223_bytes() {
        let start = "nqn.2024-12.io.fathom:";
        let longest = format!("{start}{}", "x".repeat(NQN_MAX - start.len()));
        assert_eq!(Nqn::new(&longest).expect("223 bytes").as_str().len(), 223);
        assert_eq!(Nqn::new(&format!("{longest}x")), Err(NotAName::TooLong));
        // Beyond what a byte can count, too.
        assert_eq!(Nqn::new(&format!("{start}{}", "x".repeat(256))), Err(NotAName::TooLong));
    }

    #[test]
    fn a_field_is_ended_by_its_first_zero_byte() {
        let mut field = [b'x'; NQN_FIELD_SIZE];
        assert_eq!(Nqn::from_field(&field), Err(NotAName::TooLong));
        field[224] = 0;
        assert_eq!(Nqn::from_field(&field), Err(NotAName::TooLong));
        field[223] = 0;
        assert_eq!(Nqn::from_field(&field).expect("223 bytes").as_str().len(), 223);
        field[3] = 0;
        assert_eq!(Nqn::from_field(&field).expect("3 bytes").as_str(), "xxx");
        field[1] = 0xC3;
        assert_eq!(Nqn::from_field(&field), Err(NotAName::NotUtf8));
        field[0] = 0;
        assert_eq!(Nqn::from_field(&field), Err(NotAName::Empty));
    }

    #[test]
    fn what_stands_behind_the_name_does_not_matter() {
        let mut field = Nqn::discovery().to_field();
        field[100..].fill(0xEE);
        assert_eq!(Nqn::from_field(&field), Ok(Nqn::discovery()));
    }

    proptest! {
        #[test]
        fn any_text_is_a_name_or_is_refused(text in any::<String>()) {
            if let Ok(name) = Nqn::new(&text) {
                prop_assert_eq!(name.as_str(), &text);
            }
        }
    }
}
