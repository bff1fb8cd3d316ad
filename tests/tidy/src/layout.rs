//! The top level of the repository holds the rooms of the house and nothing else.

use std::collections::BTreeSet;

use crate::tree::Tree;
use crate::violation::Violation;

const TOP_LEVEL: &[&str] = &[
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "Makefile",
    "README.md",
    "clippy.toml",
    "csi",
    "deny.toml",
    "docs",
    "ebpf",
    "image",
    "node",
    "rust-toolchain.toml",
    "rustfmt.toml",
    "scheduler",
    "tests",
];

/// Entries of the top level that do not belong there. Names that begin with a dot may.
pub fn strangers(tree: &Tree) -> Vec<Violation> {
    let top = |path: &'_ str| path.split('/').next().unwrap_or_default().to_owned();
    let entries: BTreeSet<String> = tree.files().iter().map(|file| top(&file.path)).collect();
    let belongs = |entry: &str| entry.starts_with('.') || TOP_LEVEL.contains(&entry);
    let message = "does not belong on the top level: see docs/ARCHITECTURE.md for where it does";
    let strangers = entries.iter().filter(|entry| !belongs(entry));
    strangers.map(|entry| Violation::of(entry, message)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stranger_on_the_top_level_is_found_once() {
        let tree = Tree::planted(&[
            ("Cargo.toml", ""),
            ("scripts/a.sh", ""),
            ("scripts/b.sh", ""),
            ("notes.md", ""),
            (".ci/run", ""),
            ("node/lvs/Cargo.toml", ""),
        ]);
        let found: Vec<String> = strangers(&tree).into_iter().map(|one| one.path).collect();
        assert_eq!(found, ["notes.md", "scripts"]);
    }
}
