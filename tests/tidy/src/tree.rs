//! The repository's files as git sees them: tracked, and new ones that are not ignored.
//!
//! What git ignores does not exist for the rules: a link to it would not resolve in a clone, and a
//! build's output is nobody's source.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The root of the repository whose tests are running.
///
/// Cargo says so when it runs them. What it said at compile time may be another clone's root, when
/// clones share a target directory.
///
/// # Panics
///
/// When not run by cargo.
pub fn repository_root() -> PathBuf {
    let package = std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs the tests");
    Path::new(&package)
        .ancestors()
        .nth(2)
        .expect("tests/tidy is two folders below the root")
        .to_path_buf()
}

/// All files of a repository.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    files: Vec<File>,
}

/// One file of a repository.
#[derive(Clone, Debug)]
pub struct File {
    /// Path relative to the root, with `/` between its parts.
    pub path: String,
    /// The file's text; empty when it is not UTF-8.
    pub text: String,
}

impl Tree {
    /// Reads the files of the git work tree at `root`.
    ///
    /// A file that is still in git's index but no longer on disk is left out.
    ///
    /// # Errors
    ///
    /// When `git` cannot be run, `root` is not in a work tree, or a file cannot be read.
    pub fn read(root: &Path) -> io::Result<Self> {
        let mut files = Vec::new();
        for path in listed_by_git(root)? {
            let on_disk = root.join(&path);
            if on_disk.is_file() {
                let text = String::from_utf8(std::fs::read(on_disk)?).unwrap_or_default();
                files.push(File { path, text });
            }
        }
        Ok(Self { files })
    }

    /// A tree made of `(path, text)` pairs, for planting violations.
    pub fn planted(files: &[(&str, &str)]) -> Self {
        let file = |&(path, text): &(&str, &str)| File { path: path.into(), text: text.into() };
        Self { files: files.iter().map(file).collect() }
    }

    /// Every file, in git's order.
    pub fn files(&self) -> &[File] {
        &self.files
    }

    /// Every Rust source file.
    pub fn rust_files(&self) -> impl Iterator<Item = &File> {
        self.files.iter().filter(|file| file.extension() == "rs")
    }

    /// The file at `path`, if there is one.
    pub fn file(&self, path: &str) -> Option<&File> {
        self.files.iter().find(|file| file.path == path)
    }

    /// Whether `path` is a file or a folder that holds one. The root is the empty path.
    pub fn contains(&self, path: &str) -> bool {
        self.files.iter().any(|file| file.path == path || file.is_below(path))
    }
}

impl File {
    /// The name's last part without its dot (`rs`), or nothing.
    pub fn extension(&self) -> &str {
        self.name().rsplit_once('.').map_or("", |(_, extension)| extension)
    }

    /// The last part of the path.
    pub fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or(&self.path)
    }

    /// Whether the file is in `folder` or in a folder below it.
    pub fn is_below(&self, folder: &str) -> bool {
        folder.is_empty()
            || self.path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'))
    }

    /// The file's lines with their numbers from 1.
    pub fn numbered_lines(&self) -> impl Iterator<Item = (usize, &str)> {
        (1..).zip(self.text.lines())
    }
}

fn listed_by_git(root: &Path) -> io::Result<Vec<String>> {
    let output = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output()?;
    if !output.status.success() {
        let reason = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(io::Error::other(format!("git ls-files: {reason}")));
    }
    let list = String::from_utf8(output.stdout).map_err(io::Error::other)?;
    Ok(list.split_terminator('\0').map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_repository_holds_this_file_and_nothing_that_git_ignores() {
        let tree = Tree::read(&repository_root()).expect("the repository is readable");
        let this = tree.file("tests/tidy/src/tree.rs").expect("this file is in the tree");
        assert!(this.text.starts_with("//!"));
        assert!(tree.contains("tests/tidy"));
        assert!(!tree.contains("target"));
    }

    #[test]
    fn a_folder_is_not_mistaken_for_one_that_shares_its_first_letters() {
        let tree = Tree::planted(&[("docs/a.md", "")]);
        assert!(tree.contains("docs"));
        assert!(!tree.contains("doc"));
        assert!(!tree.contains("docs/a"));
    }

    #[test]
    fn a_name_without_a_dot_has_no_extension() {
        let tree = Tree::planted(&[("a.b/Makefile", ""), ("a/b.tar.gz", "")]);
        let extensions: Vec<&str> = tree.files().iter().map(File::extension).collect();
        assert_eq!(extensions, ["", "gz"]);
    }
}
