//! A place that breaks a rule, in the form that editors and terminals make clickable.

use std::fmt;

/// One place that breaks a rule, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Path of the file or folder, relative to the repository's root.
    pub path: String,
    /// Line in the file, from 1; none when the file or folder as a whole breaks the rule.
    pub line: Option<usize>,
    /// What is wrong, and what is right.
    pub message: String,
}

impl Violation {
    /// A file or folder that breaks a rule as a whole.
    pub fn of(path: &str, message: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line: None, message: message.into() }
    }

    /// A line, counted from 1, that breaks a rule.
    pub fn at(path: &str, line: usize, message: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line: Some(line), message: message.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}: {}", self.path, self.message),
            None => write!(f, "{}: {}", self.path, self.message),
        }
    }
}

/// Fails the test that calls it unless the rule found nothing.
///
/// # Panics
///
/// When there is a violation; the panic's message lists all of them, one a line.
#[track_caller]
pub fn assert_none(violations: &[Violation]) {
    let list: Vec<String> = violations.iter().map(Violation::to_string).collect();
    assert!(list.is_empty(), "{} violation(s):\n{}", list.len(), list.join("\n"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_violation_names_its_path_and_line() {
        assert_eq!(Violation::at("a/b.rs", 3, "is wrong").to_string(), "a/b.rs:3: is wrong");
        assert_eq!(Violation::of("a", "is wrong").to_string(), "a: is wrong");
    }

    #[test]
    #[should_panic(expected = "a: is wrong")]
    fn a_violation_fails_the_test_that_asserts_none() {
        assert_none(&[Violation::of("a", "is wrong")]);
    }
}
