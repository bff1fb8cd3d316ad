//! Holds the repository to its rules.
//!
//! Each rule is a function from the tree, or from the workspace's packages, to the places that
//! break it. `tests/repository.rs` applies every rule to this repository and reads as the list of
//! them; the tests beside a rule plant violations, so that no rule can be one that never fails.
//!
//! The rules read text, not syntax trees: they are exact about what they say they look for and
//! make no attempt to outwit an author who hides something.

pub mod violation;

pub mod code;
pub mod packages;
pub mod tree;

pub mod house;

pub mod layers;
pub mod purity;
pub mod unsafe_code;

pub mod shape;
pub mod words;

pub mod layout;

pub mod links;
pub mod specification;
