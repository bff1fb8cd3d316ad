//! How a source file begins, and how long it may get.

use crate::code::Code;
use crate::tree::{File, Tree};
use crate::violation::Violation;

/// Lines of a `.rs` file without its test items, at most. `docs/STYLE.md` aims lower.
pub const LENGTH_LINES: usize = 900;

/// Lines from which a `mod.rs` says more than which modules there are.
const TRIVIAL_LINES: usize = 15;

/// Rust files that do not begin with `//!`: a reader must be told what the file is for.
pub fn without_head(tree: &Tree) -> Vec<Violation> {
    let has_head = |file: &&File| file.text.starts_with("//!") || is_trivial(file);
    let message = "begins without `//!`: say what the file does and where the flow goes next";
    let files = tree.rust_files().filter(|file| !has_head(file));
    files.map(|file| Violation::of(&file.path, message)).collect()
}

/// Rust files that are too long to be read in one go. A `tests.rs` is a list that is looked up in.
pub fn too_long(tree: &Tree) -> Vec<Violation> {
    let mut violations = Vec::new();
    for file in tree.rust_files().filter(|file| file.name() != "tests.rs") {
        let length = length_lines(file);
        if length > LENGTH_LINES {
            let message = format!("{length} lines without tests; at most {LENGTH_LINES}");
            violations.push(Violation::of(&file.path, message));
        }
    }
    violations
}

fn is_trivial(file: &File) -> bool {
    file.name() == "mod.rs" && file.text.lines().count() < TRIVIAL_LINES
}

/// Lines of the file but those that stand in test items. Comments and blank lines count.
fn length_lines(file: &File) -> usize {
    let code = Code::of(&file.text);
    let product = code.without_tests();
    let lines = code.text().lines().zip(product.text().lines());
    let in_tests = |(all, left): &(&str, &str)| is_blank(left) && !is_blank(all);
    file.text.lines().count() - lines.filter(in_tests).count()
}

fn is_blank(line: &str) -> bool {
    line.trim().is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_begins_without_its_purpose_is_found() {
        let tree = Tree::planted(&[
            ("a/lib.rs", "//! Purpose.\n"),
            ("a/b.rs", "use std::fmt;\n"),
            ("a/c.rs", "// Not for readers of the docs.\n"),
            ("a/d.py", "import os\n"),
        ]);
        let found: Vec<String> = without_head(&tree).into_iter().map(|one| one.path).collect();
        assert_eq!(found, ["a/b.rs", "a/c.rs"]);
    }

    #[test]
    fn only_a_short_mod_file_may_begin_without_its_purpose() {
        let long = "mod a;\n".repeat(TRIVIAL_LINES);
        let tree = Tree::planted(&[("a/mod.rs", "mod a;\n"), ("b/mod.rs", &long)]);
        let found: Vec<String> = without_head(&tree).into_iter().map(|one| one.path).collect();
        assert_eq!(found, ["b/mod.rs"]);
    }

    #[test]
    fn a_file_one_line_too_long_is_found() {
        let full = "fn a() {}\n".repeat(LENGTH_LINES);
        let over = format!("{full}fn a() {{}}\n");
        let tree = Tree::planted(&[("full.rs", &full), ("over.rs", &over), ("a/tests.rs", &over)]);
        let found: Vec<String> = too_long(&tree).into_iter().map(|one| one.path).collect();
        assert_eq!(found, ["over.rs"]);
    }

    #[test]
    fn only_test_items_do_not_count() {
        let product = "// Why.\n\nfn a() {}\n".repeat(LENGTH_LINES / 3);
        let tests = "#[cfg(test)]\nmod tests {\n    fn a() {}\n}\n";
        let early = format!("{tests}{product}fn b() {{}}\n");
        let late = format!("{product}{tests}");
        let tree = Tree::planted(&[("early.rs", &early), ("late.rs", &late)]);
        let found: Vec<String> = too_long(&tree).into_iter().map(|one| one.path).collect();
        assert_eq!(found, ["early.rs"]);
    }
}
