//! Crates depend on each other only in the direction of the house.
//!
//! - a crate of the product uses what its row in [`crate::house::HOUSE`] allows;
//! - its tests may also use `fathom-test-support`, the product itself may not;
//! - the test crates in `tests/` use what they like;
//! - nothing below `node/` or `ebpf/` knows Kubernetes.

use crate::house::{self, Room};
use crate::packages::{Dependency, Package, Table};
use crate::violation::Violation;

const TEST_SUPPORT: &str = "fathom-test-support";
const KUBERNETES_FREE: &[&str] = &["node", "ebpf"];
const KUBERNETES_AWARE: &[&str] = &["csi", "scheduler"];
const KUBERNETES_CRATES: &[&str] = &["kube", "k8s", "csi"];

/// Dependencies between the workspace's crates that the house does not allow, and crates that the
/// house does not know.
pub fn against_the_direction(packages: &[Package]) -> Vec<Violation> {
    let mut violations = Vec::new();
    for package in packages.iter().filter(|package| !is_test_crate(package)) {
        match house::room_of(&package.name) {
            None => violations.push(unknown(package)),
            Some(room) if room.folder != package.folder => {
                let message = format!("`{}` belongs in `{}`", package.name, room.folder);
                violations.push(Violation::of(&package.manifest(), message));
            }
            Some(room) => violations.extend(refused(package, room)),
        }
    }
    violations
}

/// Dependencies of the data plane and the probes on anything that speaks to Kubernetes.
pub fn kubernetes_in_the_data_plane(packages: &[Package]) -> Vec<Violation> {
    let mut violations = Vec::new();
    for package in packages.iter().filter(|package| is_in(package, KUBERNETES_FREE)) {
        for dependency in &package.dependencies {
            if knows_kubernetes(&dependency.name, packages) {
                let message = format!(
                    "`{}` depends on `{}`; the appliance runs and is tested without Kubernetes",
                    package.name, dependency.name
                );
                violations.push(Violation::of(&package.manifest(), message));
            }
        }
    }
    violations
}

fn is_test_crate(package: &Package) -> bool {
    package.name.starts_with("fathom-test-") && is_in(package, &["tests"])
}

fn is_in(package: &Package, top_folders: &[&str]) -> bool {
    let top = package.folder.split('/').next().unwrap_or_default();
    top_folders.contains(&top)
}

fn unknown(package: &Package) -> Violation {
    let message = format!(
        "`{}` is not in the house: add its row (folder, reach, and the crates it may use) to \
         HOUSE in tests/tidy/src/house.rs and to the table in docs/ARCHITECTURE.md, or name it \
         `fathom-test-...` and move it below tests/",
        package.name
    );
    Violation::of(&package.manifest(), message)
}

fn refused(package: &Package, room: &Room) -> Vec<Violation> {
    let within_workspace = |one: &&Dependency| one.name.starts_with("fathom-");
    let mut violations = Vec::new();
    for dependency in package.dependencies.iter().filter(within_workspace) {
        if !is_allowed(room, dependency) {
            let message = format!(
                "`{}` depends on `{}`; it may use: {}",
                package.name,
                dependency.name,
                if room.uses.is_empty() { "none".to_owned() } else { room.uses.join(", ") }
            );
            violations.push(Violation::of(&package.manifest(), message));
        }
    }
    violations
}

fn is_allowed(room: &Room, dependency: &Dependency) -> bool {
    let used = house::room_of(&dependency.name);
    used.is_some_and(|used| room.uses.contains(&used.name))
        || (dependency.table == Table::Tests && dependency.name == TEST_SUPPORT)
}

fn knows_kubernetes(name: &str, packages: &[Package]) -> bool {
    let family = name.split(['-', '_']).next().unwrap_or_default();
    KUBERNETES_CRATES.contains(&family)
        || packages.iter().any(|one| one.name == name && is_in(one, KUBERNETES_AWARE))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, folder: &str, dependencies: &[(&str, Table)]) -> Package {
        let dependency = |&(name, table): &(&str, Table)| Dependency { name: name.into(), table };
        Package {
            name: name.to_owned(),
            folder: folder.to_owned(),
            dependencies: dependencies.iter().map(dependency).collect(),
        }
    }

    fn messages(violations: &[Violation]) -> String {
        violations.iter().map(Violation::to_string).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn a_dependency_in_the_direction_of_the_house_is_allowed() {
        let lvs = package(
            "fathom-lvs",
            "node/lvs",
            &[("fathom-units", Table::Product), ("fathom-block", Table::Product)],
        );
        assert_eq!(against_the_direction(&[lvs]), []);
    }

    #[test]
    fn a_dependency_on_a_sibling_is_found() {
        let target = package("fathom-target", "node/target", &[("fathom-host", Table::Product)]);
        let found = messages(&against_the_direction(&[target]));
        assert!(found.contains("`fathom-target` depends on `fathom-host`"), "{found}");
    }

    #[test]
    fn a_dependency_of_tests_on_a_sibling_is_found() {
        let lvs = package("fathom-lvs", "node/lvs", &[("fathom-replica", Table::Tests)]);
        assert_eq!(against_the_direction(&[lvs]).len(), 1);
    }

    #[test]
    fn the_product_does_not_use_what_its_tests_may_use() {
        let tested = package("fathom-lvs", "node/lvs", &[(TEST_SUPPORT, Table::Tests)]);
        let built = package("fathom-lvs", "node/lvs", &[(TEST_SUPPORT, Table::Product)]);
        assert_eq!(against_the_direction(&[tested]), []);
        assert_eq!(against_the_direction(&[built]).len(), 1);
    }

    #[test]
    fn an_unknown_crate_is_told_what_to_do() {
        let attic = package("fathom-attic", "node/attic", &[]);
        let found = messages(&against_the_direction(&[attic]));
        assert!(found.contains("add its row"), "{found}");
    }

    #[test]
    fn a_crate_in_another_folder_than_its_own_is_found() {
        let found = messages(&against_the_direction(&[package("fathom-lvs", "csi/lvs", &[])]));
        assert!(found.contains("belongs in `node/lvs`"), "{found}");
    }

    #[test]
    fn the_name_of_a_test_crate_is_no_excuse_outside_of_tests() {
        let disguised = package("fathom-test-lvs", "node/test-lvs", &[]);
        assert_eq!(against_the_direction(&[disguised]).len(), 1);
    }

    #[test]
    fn kubernetes_is_found_below_node_and_ebpf_only() {
        for name in ["kube", "kube-runtime", "k8s-openapi", "k8s_openapi", "fathom-placement"] {
            let placement = package("fathom-placement", "scheduler/placement", &[]);
            let api = package("fathom-api", "node/api", &[(name, Table::Product)]);
            let probes = package("fathom-probes", "ebpf/probes", &[(name, Table::Tests)]);
            let state = package("fathom-state", "scheduler/state", &[(name, Table::Product)]);
            let found = kubernetes_in_the_data_plane(&[placement, api, probes, state]);
            assert_eq!(found.len(), 2, "{name}");
        }
    }
}
