//! Sizes as people write and read them: bytes in units of 1024.

use std::fmt;

/// The units, smallest first. Their first letter means the same.
const UNITS: [(&str, u32); 5] = [("KiB", 10), ("MiB", 20), ("GiB", 30), ("TiB", 40), ("PiB", 50)];

/// A text that is no size.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("\"{text}\" is not a size: {reason}")]
pub(crate) struct NotASize {
    text: String,
    reason: &'static str,
}

/// Reads `4096`, `4k`, `64KiB`, `10 GiB`. The result is in bytes.
pub(crate) fn parse(text: &str) -> Result<u64, NotASize> {
    let error = |reason| NotASize { text: text.to_owned(), reason };
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = match number.parse() {
        Ok(number) => number,
        Err(_) if number.is_empty() => return Err(error("it begins with no number")),
        Err(_) => return Err(error("the number is too large")),
    };
    let unit = unit.trim_start();
    let known = UNITS
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(unit) || name[..1].eq_ignore_ascii_case(unit));
    let shift = match known {
        Some(&(_, shift)) => shift,
        None if unit.is_empty() || unit == "B" => 0,
        None => return Err(error("the units are KiB, MiB, GiB, TiB and PiB")),
    };
    number.checked_mul(1 << shift).ok_or_else(|| error("it is beyond 16 EiB"))
}

/// A number of bytes in the largest unit that leaves at least 1.
pub(crate) struct Bytes(pub(crate) u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fitting = UNITS.iter().rev().find(|(_, shift)| self.0 >> shift > 0);
        let Some(&(unit, shift)) = fitting else { return write!(f, "{} B", self.0) };
        let whole = self.0 >> shift;
        // Rounded down, so that nothing shows as more than it is.
        let tenth = (((self.0 >> (shift - 10)) & 1023) * 10) >> 10;
        match tenth {
            0 => write!(f, "{whole} {unit}"),
            _ => write!(f, "{whole}.{tenth} {unit}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_in_every_unit() {
        assert_eq!(parse("4096"), Ok(4096));
        assert_eq!(parse("512B"), Ok(512));
        assert_eq!(parse("64KiB"), Ok(64 << 10));
        assert_eq!(parse("3 mib"), Ok(3 << 20));
        assert_eq!(parse("4k"), Ok(4 << 10));
        assert_eq!(parse("1GiB"), Ok(1 << 30));
        assert_eq!(parse("2TiB"), Ok(2 << 40));
        assert_eq!(parse("15PiB"), Ok(15 << 50));
    }

    #[test]
    fn what_is_no_size_is_refused_with_its_reason() {
        for text in ["", "GiB", "-1", "1GB", "1.5GiB", "1 Gi", "99999999999999999999", "16384PiB"] {
            let error = parse(text).expect_err(text);
            assert!(error.to_string().contains(&format!("\"{text}\"")), "{error}");
        }
    }

    #[test]
    fn bytes_are_shown_in_the_largest_unit() {
        for (bytes, shown) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (1536, "1.5 KiB"),
            ((1 << 30) - 1, "1023.9 MiB"),
            (10 << 40, "10 TiB"),
        ] {
            assert_eq!(Bytes(bytes).to_string(), shown);
        }
    }
}
