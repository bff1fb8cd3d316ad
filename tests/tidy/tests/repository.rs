//! The rules of this repository, one test each, applied to the tree as it is.
//!
//! A test that fails lists every place that breaks its rule and what to do about it. The rules
//! themselves, and the tests that show that they can fail, are in `src/`.

use fathom_test_tidy::packages::{self, Package};
use fathom_test_tidy::tree::{Tree, repository_root};
use fathom_test_tidy::violation::assert_none;
use fathom_test_tidy::{layers, layout, links, purity, shape, specification, unsafe_code, words};

fn tree() -> Tree {
    Tree::read(&repository_root()).expect("the repository is a readable git work tree")
}

fn workspace() -> Vec<Package> {
    packages::of_workspace(&repository_root()).expect("cargo metadata reads the workspace")
}

#[test]
fn crates_depend_on_each_other_in_the_direction_of_the_house() {
    assert_none(&layers::against_the_direction(&workspace()));
}

#[test]
fn nothing_in_the_data_plane_knows_kubernetes() {
    assert_none(&layers::kubernetes_in_the_data_plane(&workspace()));
}

#[test]
fn pure_crates_depend_on_nothing_that_reaches_outside() {
    assert_none(&purity::impure_dependencies(&workspace()));
}

#[test]
fn pure_crates_use_no_files_sockets_clocks_threads_or_await() {
    assert_none(&purity::impure_sources(&tree()));
}

#[test]
fn unsafe_stands_only_where_the_kernel_is_spoken_with() {
    assert_none(&unsafe_code::misplaced(&tree()));
}

#[test]
fn every_rust_file_begins_with_its_purpose() {
    assert_none(&shape::without_head(&tree()));
}

#[test]
fn no_rust_file_is_too_long() {
    assert_none(&shape::too_long(&tree()));
}

#[test]
fn no_file_holds_a_forbidden_word() {
    assert_none(&words::forbidden(&tree()));
}

#[test]
fn every_file_folder_and_module_has_a_name_that_says_something() {
    assert_none(&words::empty_names(&tree()));
}

#[test]
fn the_top_level_holds_the_rooms_of_the_house_only() {
    assert_none(&layout::strangers(&tree()));
}

#[test]
fn every_promise_is_shown_by_something_that_exists_or_is_pending() {
    assert_none(&specification::unshown(&tree()));
}

#[test]
fn every_relative_link_in_the_documentation_resolves() {
    assert_none(&links::broken(&tree()));
}
