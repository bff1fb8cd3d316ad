//! Pure crates only compute: bytes, events and `now` come in as arguments.
//!
//! Tests of a pure crate (`#[cfg(test)]` items, `tests.rs` and `tests/`) may do what they like.
//! What a crate of the field does inside of it is not seen here; the list of dependencies is short
//! enough to be read.

use crate::code::{Code, is_word};
use crate::house::{HOUSE, Reach, Room, room_of};
use crate::packages::{Package, Table};
use crate::tree::{File, Tree};
use crate::violation::Violation;

const IMPURE_CRATES: &[&str] = &["tokio", "io-uring", "libc", "rustix", "nix", "rand", "getrandom"];
const IMPURE_PATHS: &[&str] = &[
    "std::env",
    "std::fs",
    "std::net",
    "std::os",
    "std::process",
    "std::thread",
    "std::time::Instant",
    "std::time::SystemTime",
];

/// Dependencies of pure crates on crates that reach outside of the program.
pub fn impure_dependencies(packages: &[Package]) -> Vec<Violation> {
    let mut violations = Vec::new();
    let is_pure = |package: &&Package| room_of(&package.name).is_some_and(is_pure);
    for package in packages.iter().filter(is_pure) {
        for dependency in &package.dependencies {
            let name = dependency.name.as_str();
            if dependency.table == Table::Product && IMPURE_CRATES.contains(&name) {
                let message = format!("`{}` is pure and cannot use `{name}`", package.name);
                violations.push(Violation::of(&package.manifest(), message));
            }
        }
    }
    violations
}

/// Uses of files, sockets, clocks, threads and `.await` in the sources of pure crates.
pub fn impure_sources(tree: &Tree) -> Vec<Violation> {
    let mut violations = Vec::new();
    for file in tree.rust_files().filter(|file| is_pure_source(file)) {
        let code = Code::of(&file.text).without_tests();
        for (offset, path) in std_paths(code.text()) {
            if is_impure(&path) {
                let message = format!("`{path}` in a pure crate: take what it gives as argument");
                violations.push(Violation::at(&file.path, code.line_of(offset), message));
            }
        }
        for place in code.occurrences("await") {
            let message = "`await` in a pure crate: return what is to be done instead";
            violations.push(Violation::at(&file.path, code.line_of(place.start), message));
        }
    }
    violations
}

fn is_pure(room: &Room) -> bool {
    room.reach == Reach::Pure
}

fn is_pure_source(file: &File) -> bool {
    let is_test = |part: &str| part == "tests.rs" || part == "tests";
    HOUSE.iter().any(|room| is_pure(room) && file.is_below(&format!("{}/src", room.folder)))
        && !file.path.split('/').any(is_test)
}

/// Whether `path` is below an impure one, or is a module that brings one in (`use std::time`).
fn is_impure(path: &str) -> bool {
    let module = path.strip_suffix("::*").unwrap_or(path);
    IMPURE_PATHS.iter().any(|impure| is_at_or_below(path, impure) || is_at_or_below(impure, module))
}

fn is_at_or_below(path: &str, ancestor: &str) -> bool {
    path.strip_prefix(ancestor).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// Every path into the standard library and the offset of its `std`, with groups written out:
/// `std::{fs, time::{self, Duration}}` gives `std::fs`, `std::time` and `std::time::Duration`.
fn std_paths(code: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (offset, _) in code.match_indices("std") {
        let is_whole = !code[..offset].chars().next_back().is_some_and(is_word);
        if let Some(rest) = after_colons(&code[offset + "std".len()..])
            && is_whole
        {
            let mut paths = Vec::new();
            expand("std", rest, &mut paths);
            found.extend(paths.into_iter().map(|path| (offset, path)));
        }
    }
    found
}

/// Collects the paths that `rest` continues `prefix` with, and returns what follows them.
fn expand<'a>(prefix: &str, rest: &'a str, paths: &mut Vec<String>) -> &'a str {
    let rest = rest.trim_start();
    if let Some(group) = rest.strip_prefix('{') {
        return expand_group(prefix, group, paths);
    }
    let length =
        if rest.starts_with('*') { 1 } else { rest.find(|c| !is_word(c)).unwrap_or(rest.len()) };
    let (segment, after) = rest.split_at(length);
    let path = match segment {
        "" | "self" => prefix.to_owned(),
        _ => format!("{prefix}::{segment}"),
    };
    match after_colons(after) {
        Some(deeper) if !segment.is_empty() => expand(&path, deeper, paths),
        _ => {
            paths.push(path);
            after
        }
    }
}

fn expand_group<'a>(prefix: &str, group: &'a str, paths: &mut Vec<String>) -> &'a str {
    let mut rest = group.trim_start();
    while !rest.is_empty() && !rest.starts_with('}') {
        let after = expand(prefix, rest, paths);
        // What stands between an entry and the next one is its comma, or `as` and a new name.
        let end = after.find([',', '}']).unwrap_or(after.len());
        rest = after[end..].trim_start_matches(',').trim_start();
    }
    rest.strip_prefix('}').unwrap_or(rest)
}

fn after_colons(rest: &str) -> Option<&str> {
    rest.trim_start().strip_prefix("::")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packages::Dependency;

    fn found_in(path: &str, text: &str) -> Vec<String> {
        let tree = Tree::planted(&[(path, text)]);
        impure_sources(&tree).iter().map(Violation::to_string).collect()
    }

    fn is_found(text: &str) -> bool {
        !found_in("node/lvs/src/lib.rs", text).is_empty()
    }

    #[test]
    fn each_impure_path_is_found() {
        for path in IMPURE_PATHS {
            assert!(is_found(&format!("use {path};")), "{path}");
            assert!(is_found(&format!("fn f() {{ {path}::call() }}")), "{path}");
        }
    }

    #[test]
    fn an_impure_path_is_found_in_a_group() {
        assert!(is_found("use std::{fmt, fs};"));
        assert!(is_found("use std::{\n    fmt as f,\n    time::{Duration, Instant as I},\n};"));
        assert!(is_found("use std :: { collections::{BTreeMap}, net };"));
    }

    #[test]
    fn a_module_that_brings_the_clock_in_is_found() {
        assert!(is_found("use std::time;"));
        assert!(is_found("use std::time::{self, Duration};"));
        assert!(is_found("use std::time::*;"));
    }

    #[test]
    fn await_is_found() {
        assert!(is_found("async fn f() { g().await }"));
    }

    #[test]
    fn pure_code_is_left_alone() {
        assert!(!is_found("use std::{fmt, time::Duration};\nuse std::collections::BTreeMap;"));
        assert!(!is_found("//! No `std::fs`, no `.await`.\nconst A: &str = \"std::fs\";"));
        assert!(!is_found("use my_std::fs; fn f() -> std::vec::Vec<u8> { std::mem::take(x) }"));
    }

    #[test]
    fn tests_of_pure_crates_and_other_crates_are_left_alone() {
        let text = "use std::fs;";
        assert!(!is_found("#[cfg(test)]\nmod tests { use std::fs; }"));
        assert!(found_in("node/lvs/src/pool/tests.rs", text).is_empty());
        assert!(found_in("node/lvs/src/tests/pool.rs", text).is_empty());
        assert!(found_in("node/runtime/src/lib.rs", text).is_empty());
    }

    #[test]
    fn the_violation_names_the_line_and_the_path() {
        let found = found_in("node/lvs/src/a.rs", "//! A.\n\nuse std::{fmt, net};");
        assert_eq!(found.len(), 1);
        assert!(found[0].starts_with("node/lvs/src/a.rs:3: `std::net`"), "{}", found[0]);
    }

    #[test]
    fn an_impure_dependency_of_a_pure_crate_is_found() {
        let package = |name: &str, table| Package {
            name: name.to_owned(),
            folder: String::new(),
            dependencies: vec![Dependency { name: "tokio".to_owned(), table }],
        };
        assert_eq!(impure_dependencies(&[package("fathom-lvs", Table::Product)]).len(), 1);
        assert_eq!(impure_dependencies(&[package("fathom-lvs", Table::Tests)]), []);
        assert_eq!(impure_dependencies(&[package("fathom-runtime", Table::Product)]), []);
    }
}
