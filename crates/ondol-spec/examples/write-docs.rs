//! Writes what is generated from the types: `cargo run -p ondol-spec --example write-docs`.

use std::path::Path;

fn main() -> std::io::Result<()> {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
    std::fs::create_dir_all(&docs)?;
    std::fs::write(docs.join("ondol.schema.json"), ondol_spec::json_schema())?;
    std::fs::write(docs.join("configuration.md"), ondol_spec::reference())
}
