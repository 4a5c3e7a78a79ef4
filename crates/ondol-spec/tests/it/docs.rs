//! Generated documents are committed, and must be what the types say today.

use std::path::Path;

fn fresh(name: &str, expected: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../docs")
        .join(name);
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == expected,
        "docs/{name} is stale: run `cargo run -p ondol-spec --example write-docs` and commit the result"
    );
}

#[test]
fn the_json_schema_is_fresh() {
    fresh("ondol.schema.json", &ondol_spec::json_schema());
}

#[test]
fn the_reference_is_fresh() {
    fresh("configuration.md", &ondol_spec::reference());
}

#[test]
fn the_schema_knows_short_forms() {
    let schema: serde_json::Value = serde_json::from_str(&ondol_spec::json_schema()).unwrap();
    let options = |pointer: &str| {
        schema
            .pointer(pointer)
            .unwrap_or_else(|| panic!("{pointer}"))
            .as_array()
            .unwrap()
            .clone()
    };
    assert!(options("/properties/test/anyOf").contains(&serde_json::json!({ "type": "string" })));
    assert!(options("/properties/service/anyOf").contains(&serde_json::json!({ "const": false })));
    assert!(
        options("/properties/steps/additionalProperties/anyOf")
            .contains(&serde_json::json!({ "type": "string" }))
    );
    assert!(
        options("/$defs/Service/properties/replicas/anyOf")
            .contains(&serde_json::json!({ "type": "integer", "minimum": 1 }))
    );
    assert_eq!(schema["additionalProperties"], serde_json::json!(false));
}

#[test]
fn every_key_has_a_meaning() {
    for line in ondol_spec::reference()
        .lines()
        .filter(|line| line.starts_with("| `"))
    {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        assert!(
            cells.len() >= 4 && !cells[3].is_empty() && !cells[1].is_empty(),
            "{line}"
        );
    }
}

#[test]
fn the_table_of_compose_keys_is_fresh() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/compose.md");
    let found = std::fs::read_to_string(path).unwrap_or_default();
    let (_, table) = found.split_once("write-docs -->\n\n").unwrap_or_default();
    assert!(
        table == ondol_spec::compose::reference(),
        "docs/compose.md is stale: run `cargo run -p ondol-spec --example write-docs` and commit the result"
    );
}
