//! Relative links in the documentation lead to files and headings that exist.
//!
//! Links to other sites are not followed: the rule needs no network. Code, in fences or between
//! backticks, holds no links.
//!
//! Source: GitHub Flavored Markdown 0.29, "Links" and "Link reference definitions"; the anchors are
//! those that GitHub gives to headings.

use crate::tree::{File, Tree};
use crate::violation::Violation;

/// Links in `README.md` and `docs/` that lead nowhere.
pub fn broken(tree: &Tree) -> Vec<Violation> {
    let is_read = |file: &&File| {
        file.path == "README.md" || (file.is_below("docs") && file.extension() == "md")
    };
    let mut violations = Vec::new();
    for file in tree.files().iter().filter(is_read) {
        for (line, target) in links(&file.text) {
            if let Some(reason) = reason_broken(tree, file, &target) {
                let message = format!("link to `{target}`: {reason}");
                violations.push(Violation::at(&file.path, line, message));
            }
        }
    }
    violations
}

fn reason_broken(tree: &Tree, from: &File, target: &str) -> Option<&'static str> {
    if target.contains("://") || target.starts_with("mailto:") {
        return None;
    }
    let (relative, anchor) = match target.split_once('#') {
        Some((relative, anchor)) => (relative, Some(anchor)),
        None => (target, None),
    };
    let path = if relative.is_empty() { from.path.clone() } else { resolve(&from.path, relative) };
    if !tree.contains(&path) {
        return Some("there is no such file in the repository");
    }
    let page = tree.file(&path).filter(|file| file.extension() == "md")?;
    let has_heading = |anchor: &str| anchors(&page.text).any(|one| one == anchor);
    let is_lost = anchor.is_some_and(|anchor| !has_heading(anchor));
    is_lost.then_some("the page has no such heading")
}

/// The path that `relative` means in the file at `from`. One that leaves the repository keeps its
/// `..` and so is the path of nothing.
fn resolve(from: &str, relative: &str) -> String {
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    for part in relative.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            _ => parts.push(part),
        }
    }
    parts.join("/")
}

/// The targets of the links in a page, with their lines from 1.
fn links(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (number, line) in lines_outside_fences(text) {
        let line = without_code(line);
        let definition = line.strip_prefix('[').and_then(|rest| rest.split_once("]:"));
        let inline = line.split("](").skip(1).map(|rest| rest.split(')').next().unwrap_or(rest));
        for target in inline.chain(definition.map(|(_, target)| target)) {
            // What follows a space is the link's title.
            let target = target.split_whitespace().next().unwrap_or_default();
            found.push((number, target.trim_matches(['<', '>']).to_owned()));
        }
    }
    found
}

/// The anchors of a page's headings: lower case, `-` for spaces, no punctuation.
fn anchors(text: &str) -> impl Iterator<Item = String> {
    let headings = lines_outside_fences(text).filter(|(_, line)| line.starts_with('#'));
    headings.map(|(_, line)| {
        let title = line.trim_start_matches('#').trim().to_lowercase();
        let kept = title.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    })
}

fn lines_outside_fences(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut in_fence = false;
    (1..).zip(text.lines()).filter(move |(_, line)| {
        let is_fence = line.trim_start().starts_with("```");
        in_fence ^= is_fence;
        !in_fence && !is_fence
    })
}

/// The line with what stands between backticks left out.
fn without_code(line: &str) -> String {
    line.split('`').step_by(2).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "docs/flows/write.md";

    fn broken_in(text: &str) -> Vec<String> {
        let tree = Tree::planted(&[
            (PAGE, text),
            ("docs/GLOSSARY.md", "# Words\n\n## A `layer`, and more\n"),
            ("README.md", ""),
            ("node/lvs/src/lib.rs", ""),
        ]);
        broken(&tree).iter().map(Violation::to_string).collect()
    }

    #[test]
    fn a_link_to_nothing_is_found_with_its_line() {
        let found = broken_in("# Title\n\nSee [a](../GLOSSARY.md) and [b](../MISSING.md).");
        assert_eq!(found.len(), 1);
        assert!(found[0].starts_with("docs/flows/write.md:3: link to `../MISSING.md`"));
    }

    #[test]
    fn every_form_of_link_is_followed() {
        for text in ["![a](b.png)", "[a]: b.md", "[`a`](b.md)", "[a](b.md \"B\")", "[a](<b.md>)"] {
            assert_eq!(broken_in(text).len(), 1, "{text}");
        }
    }

    #[test]
    fn files_folders_and_headings_that_exist_are_found() {
        for target in ["../../README.md", "../GLOSSARY.md#a-layer-and-more", "..", "#title"] {
            let text = format!("# Title\n[a]({target}) [b](../../node/lvs)");
            assert_eq!(broken_in(&text), [""; 0], "{target}");
        }
    }

    #[test]
    fn a_missing_heading_is_found() {
        assert_eq!(broken_in("[a](../GLOSSARY.md#cluster)").len(), 1);
        assert_eq!(broken_in("[a](#nowhere)").len(), 1);
    }

    #[test]
    fn a_link_out_of_the_repository_is_found() {
        assert_eq!(broken_in("[a](../../../README.md)").len(), 1);
    }

    #[test]
    fn other_sites_and_code_are_left_alone() {
        let text =
            "[a](https://example.org/b) [c](mailto:d@example.org) `[e](f)`\n```\n[g](h)\n```";
        assert_eq!(broken_in(text), [""; 0]);
    }
}
