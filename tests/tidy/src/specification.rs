//! Every promise in `docs/SPECIFICATION.md` is shown by something that exists, or is pending.
//!
//! The page holds tables of the form
//!
//! ```text
//! | promise | shown by | last result |
//! |---|---|---|
//! | what a user can rely on | `path::test_name` or `path`, several if need be | date, figure |
//! | what a user will be able to rely on | pending | |
//! ```
//!
//! A test is named by its file and its own name, without the modules between them.

use crate::code::Code;
use crate::tree::Tree;
use crate::violation::Violation;

const PAGE: &str = "docs/SPECIFICATION.md";
const HEADER: [&str; 3] = ["promise", "shown by", "last result"];
const PENDING: &str = "pending";

/// Rows of the specification that name nothing, or something that is not there.
pub fn unshown(tree: &Tree) -> Vec<Violation> {
    let Some(page) = tree.file(PAGE) else {
        return vec![Violation::of(PAGE, "is missing: what Fathom promises stands there")];
    };
    let mut violations = Vec::new();
    let mut tables = 0;
    for (number, line) in page.numbered_lines() {
        match row(line) {
            Row::Header => tables += 1,
            Row::Promise { shown_by } => violations.extend(
                reasons_unshown(tree, shown_by)
                    .into_iter()
                    .map(|reason| Violation::at(PAGE, number, reason)),
            ),
            Row::Malformed => {
                let message = format!("a row has the cells `{}`", HEADER.join(" | "));
                violations.push(Violation::at(PAGE, number, message));
            }
            Row::None => {}
        }
    }
    if tables == 0 {
        let message = format!("has no table with the header `| {} |`", HEADER.join(" | "));
        violations.push(Violation::of(PAGE, message));
    }
    violations
}

/// What a line of the page is to its tables.
enum Row<'a> {
    None,
    Header,
    Promise { shown_by: &'a str },
    Malformed,
}

fn row(line: &str) -> Row<'_> {
    let Some(cells) = line.trim().strip_prefix('|').and_then(|rest| rest.strip_suffix('|')) else {
        return Row::None;
    };
    let cells: Vec<&str> = cells.split('|').map(str::trim).collect();
    match cells[..] {
        _ if cells == HEADER => Row::Header,
        _ if cells.iter().all(|cell| cell.trim_matches(['-', ':']).is_empty()) => Row::None,
        [_, shown_by, _] => Row::Promise { shown_by },
        _ => Row::Malformed,
    }
}

fn reasons_unshown(tree: &Tree, shown_by: &str) -> Vec<String> {
    if shown_by.trim_matches(['*', '_']) == PENDING {
        return Vec::new();
    }
    let references: Vec<&str> = shown_by.split('`').skip(1).step_by(2).collect();
    if references.is_empty() {
        return vec![format!("`{shown_by}` is neither `{PENDING}` nor a test between backticks")];
    }
    references.into_iter().filter_map(|reference| reason_missing(tree, reference)).collect()
}

fn reason_missing(tree: &Tree, reference: &str) -> Option<String> {
    let (path, test) = match reference.split_once("::") {
        Some((path, test)) => (path, Some(test)),
        None => (reference, None),
    };
    let Some(file) = tree.file(path) else {
        return Some(format!("there is no file `{path}`"));
    };
    let is_there = test.is_none_or(|test| match file.extension() {
        "rs" => has_rust_test(&file.text, test),
        _ => file.text.contains(test),
    });
    (!is_there).then(|| format!("there is no test `{}` in `{path}`", test.unwrap_or_default()))
}

/// Whether the source has a function `name` that is marked as a test.
fn has_rust_test(source: &str, name: &str) -> bool {
    let code = Code::of(source);
    code.occurrences(name).any(|place| {
        let before = &code.text()[..place.start];
        let head = &before[before.rfind(['{', '}', ';']).map_or(0, |end| end + 1)..];
        head.trim_end().ends_with("fn") && head.contains("test]")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = "//! Tests.\n\nfn plain() {}\n\n#[test]\n\
                          fn nothing_is_lost() {\n    plain();\n}\n";

    fn unshown_in(row: &str) -> Vec<String> {
        let page = format!(
            "# Specification\n\n| promise | shown by | last result |\n|---|---|---|\n{row}\n"
        );
        let tree = Tree::planted(&[(PAGE, &page), ("tests/sim/src/crash.rs", SOURCE)]);
        unshown(&tree).iter().map(Violation::to_string).collect()
    }

    #[test]
    fn a_promise_shown_by_a_test_or_a_file_is_kept() {
        for shown_by in [
            "`tests/sim/src/crash.rs::nothing_is_lost`",
            "`tests/sim/src/crash.rs`",
            "`tests/sim/src/crash.rs`, `tests/sim/src/crash.rs::nothing_is_lost`",
            "pending",
            "*pending*",
        ] {
            assert_eq!(unshown_in(&format!("| a | {shown_by} | |")), [""; 0], "{shown_by}");
        }
    }

    #[test]
    fn a_promise_shown_by_nothing_is_found() {
        for shown_by in [
            "",
            "looking at it",
            "`tests/sim/src/missing.rs`",
            "`tests/sim/src/crash.rs::all_is_lost`",
            "`tests/sim/src/crash.rs::nothing`",
            "`tests/sim/src/crash.rs::plain`",
            "`tests/sim/src/crash.rs`, `tests/sim/src/missing.rs`",
        ] {
            let found = unshown_in(&format!("| a | {shown_by} | today |"));
            assert_eq!(found.len(), 1, "{shown_by}");
            assert!(found[0].starts_with("docs/SPECIFICATION.md:5: "), "{}", found[0]);
        }
    }

    #[test]
    fn a_row_with_other_cells_is_found() {
        assert_eq!(unshown_in("| a | pending |").len(), 1);
    }

    #[test]
    fn a_missing_page_and_a_page_without_a_table_are_found() {
        assert_eq!(unshown(&Tree::default()).len(), 1);
        assert_eq!(unshown(&Tree::planted(&[(PAGE, "# Specification\n")])).len(), 1);
    }
}
