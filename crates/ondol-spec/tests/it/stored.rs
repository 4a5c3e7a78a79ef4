//! A specification outlives the build that wrote it: releases keep theirs.

use crate::layers::EXAMPLE;

/// Written by the first version of the format. It is never written again; a change of the types
/// that cannot read it needs a migration of what is stored.
const FIRST: &str = include_str!("stored/spec-1.json");

#[test]
fn what_the_first_version_stored_can_be_read() {
    let stored: ondol_spec::Spec = serde_json::from_str(FIRST).unwrap();
    assert_eq!(stored, crate::read(EXAMPLE).unwrap().spec);
}
