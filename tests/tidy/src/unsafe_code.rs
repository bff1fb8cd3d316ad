//! `unsafe` stands only in the crates that speak with the kernel.

use crate::code::Code;
use crate::house::{HOUSE, Reach};
use crate::tree::{File, Tree};
use crate::violation::Violation;

/// Each `unsafe` outside of the crates whose reach is [`Reach::Kernel`].
pub fn misplaced(tree: &Tree) -> Vec<Violation> {
    let mut violations = Vec::new();
    for file in tree.rust_files().filter(|file| !may_be_unsafe(file)) {
        let code = Code::of(&file.text);
        for place in code.occurrences("unsafe") {
            let message = format!("`unsafe` is for {} only", kernel_folders().join(" and "));
            violations.push(Violation::at(&file.path, code.line_of(place.start), message));
        }
    }
    violations
}

fn may_be_unsafe(file: &File) -> bool {
    kernel_folders().iter().any(|folder| file.is_below(folder))
}

fn kernel_folders() -> Vec<&'static str> {
    HOUSE.iter().filter(|room| room.reach == Reach::Kernel).map(|room| room.folder).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(path: &str, text: &str) -> usize {
        misplaced(&Tree::planted(&[(path, text)])).len()
    }

    #[test]
    fn unsafe_is_found_in_a_pure_crate_and_in_tests() {
        let text = "fn f() { unsafe { g() } }";
        assert_eq!(count("node/lvs/src/lib.rs", text), 1);
        assert_eq!(count("tests/sim/src/lib.rs", text), 1);
    }

    #[test]
    fn unsafe_is_allowed_where_the_kernel_is_spoken_with() {
        let text = "fn f() { unsafe { g() } }";
        assert_eq!(count("node/runtime/src/ring.rs", text), 0);
        assert_eq!(count("node/attach/src/lib.rs", text), 0);
        assert_eq!(count("node/runtimes/src/lib.rs", text), 1);
    }

    #[test]
    fn the_word_in_prose_and_in_the_name_of_the_lint_is_left_alone() {
        assert_eq!(count("node/lvs/src/lib.rs", "#![deny(unsafe_code)] // never unsafe"), 0);
    }
}
