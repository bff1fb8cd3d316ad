//! The workspace's packages and what each depends on, as `cargo metadata` tells them.

use std::io;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// One package of the workspace.
#[derive(Clone, Debug)]
pub struct Package {
    /// Its name in `Cargo.toml`.
    pub name: String,
    /// Its folder, relative to the repository's root.
    pub folder: String,
    /// What it names in its dependency tables; what those depend on in turn is not here.
    pub dependencies: Vec<Dependency>,
}

/// One entry of a package's dependency tables.
#[derive(Clone, Debug)]
pub struct Dependency {
    /// The package's own name, also where it is renamed.
    pub name: String,
    /// The table in which it stands.
    pub table: Table,
}

/// The tables in which a package can name what it depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    /// `[dependencies]` and `[build-dependencies]`: part of what is built and shipped.
    Product,
    /// `[dev-dependencies]`: seen by the package's own tests only.
    Tests,
}

impl Package {
    /// The manifest's path, relative to the repository's root.
    pub fn manifest(&self) -> String {
        format!("{}/Cargo.toml", self.folder)
    }
}

/// The packages of the workspace at `root`, without touching the network.
///
/// # Errors
///
/// When `cargo` cannot be run, refuses the manifests, or answers in a form that is not metadata
/// format 1.
pub fn of_workspace(root: &Path) -> io::Result<Vec<Package>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--offline", "--no-deps"])
        .current_dir(root)
        .output()?;
    if !output.status.success() {
        let reason = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(io::Error::other(format!("cargo metadata: {reason}")));
    }
    let metadata: Value = serde_json::from_slice(&output.stdout)?;
    parse(&metadata).ok_or_else(|| io::Error::other("cargo metadata: not of format 1"))
}

fn parse(metadata: &Value) -> Option<Vec<Package>> {
    let root = metadata["workspace_root"].as_str()?;
    metadata["packages"].as_array()?.iter().map(|package| parse_package(root, package)).collect()
}

fn parse_package(root: &str, package: &Value) -> Option<Package> {
    let manifest = Path::new(package["manifest_path"].as_str()?);
    let folder = manifest.parent()?.strip_prefix(root).ok()?;
    let dependencies = package["dependencies"].as_array()?.iter().map(parse_dependency);
    Some(Package {
        name: package["name"].as_str()?.to_owned(),
        folder: folder.to_str()?.to_owned(),
        dependencies: dependencies.collect::<Option<_>>()?,
    })
}

fn parse_dependency(dependency: &Value) -> Option<Dependency> {
    let table = match dependency["kind"].as_str() {
        Some("dev") => Table::Tests,
        Some("build") | None => Table::Product,
        Some(_) => return None,
    };
    Some(Dependency { name: dependency["name"].as_str()?.to_owned(), table })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree;

    #[test]
    fn this_package_is_read_with_its_dependencies() {
        let packages = of_workspace(&tree::repository_root()).expect("cargo metadata works");
        let this = packages.iter().find(|package| package.name == "fathom-test-tidy");
        let this = this.expect("this package is in the workspace");
        assert_eq!(this.folder, "tests/tidy");
        assert!(this.dependencies.iter().any(|dependency| dependency.name == "serde_json"));
    }

    #[test]
    fn dependencies_of_tests_are_told_from_those_of_the_product() {
        let metadata = serde_json::json!({
            "workspace_root": "/r",
            "packages": [{
                "name": "a",
                "manifest_path": "/r/node/a/Cargo.toml",
                "dependencies": [
                    { "name": "b", "kind": null },
                    { "name": "c", "kind": "build" },
                    { "name": "d", "kind": "dev" },
                ],
            }],
        });
        let packages = parse(&metadata).expect("this is format 1");
        let tables: Vec<Table> = packages[0].dependencies.iter().map(|one| one.table).collect();
        assert_eq!(packages[0].manifest(), "node/a/Cargo.toml");
        assert_eq!(tables, [Table::Product, Table::Product, Table::Tests]);
    }

    #[test]
    fn an_answer_of_another_form_is_refused() {
        assert!(parse(&serde_json::json!({ "packages": [] })).is_none());
    }
}
