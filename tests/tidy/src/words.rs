//! Words that have no place in the repository: marks of unfinished work, switched-off checks,
//! waits of a fixed time, paths of one machine, and names that say nothing.
//!
//! The words are put together from pieces, so that this file does not find itself.

use crate::code::Code;
use crate::tree::{File, Tree};
use crate::violation::Violation;

/// A word, the files in which it is looked for, and why it must not be there.
struct Word {
    text: &'static str,
    place: Place,
    reason: &'static str,
}

/// Kinds of files in which a word is looked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Text,
    Rust,
    Python,
    Scripts,
}

const UNFINISHED: &str = "unfinished work does not get in: finish it, or leave it out";
const SWITCHED_OFF: &str = "a check is not switched off: delete what it found";
const NOT_RUN: &str = "a test that does not run is no test";
const FIXED_WAIT: &str = "never wait a fixed time: wait for the event, under a deadline";
const ONE_MACHINE: &str = "a path of one machine: name it relative to the repository";

const WORDS: &[Word] = &[
    Word { text: concat!("to", "do!("), place: Place::Rust, reason: UNFINISHED },
    Word { text: concat!("unimpl", "emented!("), place: Place::Rust, reason: UNFINISHED },
    Word { text: concat!("TO", "DO"), place: Place::Text, reason: UNFINISHED },
    Word { text: concat!("FIX", "ME"), place: Place::Text, reason: UNFINISHED },
    Word { text: concat!("#[ig", "nore"), place: Place::Rust, reason: NOT_RUN },
    Word { text: concat!("allow(de", "ad_code)"), place: Place::Rust, reason: SWITCHED_OFF },
    Word { text: concat!("allow(un", "used"), place: Place::Rust, reason: SWITCHED_OFF },
    Word { text: concat!("thread::sl", "eep("), place: Place::Rust, reason: FIXED_WAIT },
    Word { text: concat!("time.sl", "eep("), place: Place::Python, reason: FIXED_WAIT },
    Word { text: concat!("sl", "eep "), place: Place::Scripts, reason: FIXED_WAIT },
    Word { text: concat!("/wo", "rk/"), place: Place::Text, reason: ONE_MACHINE },
    Word { text: concat!("/ro", "ot/"), place: Place::Text, reason: ONE_MACHINE },
];

const EMPTY_NAMES: &[&str] =
    &["util", "utils", "helper", "helpers", "manager", "managers", "common"];

/// Each place where a forbidden word stands in a text file.
pub fn forbidden(tree: &Tree) -> Vec<Violation> {
    let mut violations = Vec::new();
    for file in tree.files() {
        for word in WORDS.iter().filter(|word| is_in_place(file, word.place)) {
            for (number, line) in file.numbered_lines().filter(|(_, line)| holds(line, word.text)) {
                let message = format!("`{}` in `{}`: {}", word.text, line.trim(), word.reason);
                violations.push(Violation::at(&file.path, number, message));
            }
        }
    }
    violations
}

/// Files, folders and modules whose name does not say what is in them.
pub fn empty_names(tree: &Tree) -> Vec<Violation> {
    let message = |name: &str| format!("`{name}` says nothing: name it after what it holds");
    let mut violations = Vec::new();
    for file in tree.files() {
        let stems = file.path.split('/').map(|part| part.split('.').next().unwrap_or(part));
        for stem in stems.filter(|stem| EMPTY_NAMES.contains(stem)) {
            violations.push(Violation::of(&file.path, message(stem)));
        }
    }
    for file in tree.rust_files() {
        let code = Code::of(&file.text);
        for (number, name) in declared_modules(&code) {
            if EMPTY_NAMES.contains(&name) {
                violations.push(Violation::at(&file.path, number, message(name)));
            }
        }
    }
    violations
}

fn is_in_place(file: &File, place: Place) -> bool {
    let is_script = matches!(file.extension(), "sh" | "yaml" | "yml")
        || file.name() == "Makefile"
        || file.is_below(".ci");
    match place {
        Place::Rust => file.extension() == "rs",
        Place::Python => file.extension() == "py",
        Place::Scripts => is_script,
        Place::Text => {
            is_script || matches!(file.extension(), "rs" | "c" | "h" | "py" | "toml" | "md")
        }
    }
}

/// Whether `word` begins in `line` other than in the middle of a longer word or path.
fn holds(line: &str, word: &str) -> bool {
    let continues = |c: char| c.is_alphanumeric() || "_-.~/}$".contains(c);
    line.match_indices(word)
        .any(|(start, _)| !line[..start].chars().next_back().is_some_and(continues))
}

fn declared_modules(code: &Code) -> impl Iterator<Item = (usize, &str)> {
    code.occurrences("mod").map(|place| {
        let rest = code.text()[place.end..].trim_start();
        let end = rest.find(|c| !crate::code::is_word(c)).unwrap_or(rest.len());
        (code.line_of(place.start), &rest[..end])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path_in(place: Place) -> &'static str {
        match place {
            Place::Text => "docs/a.md",
            Place::Rust => "node/lvs/src/a.rs",
            Place::Python => "tests/e2e/a.py",
            Place::Scripts => ".ci/run",
        }
    }

    #[test]
    fn each_forbidden_word_is_found_where_it_is_looked_for() {
        for word in WORDS {
            let text = format!("first line\n  {}x\n", word.text);
            let found = forbidden(&Tree::planted(&[(path_in(word.place), &text)]));
            assert_eq!(found.len(), 1, "{}", word.text);
            assert_eq!(found[0].line, Some(2), "{}", word.text);
        }
    }

    #[test]
    fn words_are_looked_for_in_every_kind_of_text_file() {
        let mark = concat!("TO", "DO: finish");
        for path in ["a.rs", "a.c", "a.h", "a.sh", "a.py", "a.toml", "a.md", "a.yaml", "Makefile"] {
            assert_eq!(forbidden(&Tree::planted(&[(path, mark)])).len(), 1, "{path}");
        }
    }

    #[test]
    fn a_longer_word_or_path_is_left_alone() {
        let text = format!("/home{0} ..{0} $HOME{0}", concat!("/wo", "rk/"));
        let tree = Tree::planted(&[("a.md", &text), ("b.md", "MAST_TO_DO")]);
        assert_eq!(forbidden(&tree), []);
    }

    #[test]
    fn files_and_folders_with_empty_names_are_found() {
        for path in ["a/utils.rs", "a/helper/b.rs", "tests/common/mod.rs", "a/manager.py"] {
            assert_eq!(empty_names(&Tree::planted(&[(path, "")])).len(), 1, "{path}");
        }
        let good = Tree::planted(&[("kube-controller-manager.yaml", ""), ("commons.rs", "")]);
        assert_eq!(empty_names(&good), []);
    }

    #[test]
    fn an_inline_module_with_an_empty_name_is_found() {
        let text = "mod allocator {}\npub mod helpers {}\n// mod common";
        let found = empty_names(&Tree::planted(&[("a.rs", text)]));
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].line, Some(2));
    }
}
