//! Writes what is generated from the types: `cargo run -p ondol-spec --example write-docs`.

use std::path::Path;

fn main() -> std::io::Result<()> {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
    std::fs::create_dir_all(&docs)?;
    std::fs::write(docs.join("ondol.schema.json"), ondol_spec::json_schema())?;
    std::fs::write(docs.join("configuration.md"), ondol_spec::reference())?;
    // The page is written by hand down to a mark, and generated behind it.
    let compose = docs.join("compose.md");
    let page = std::fs::read_to_string(&compose)?;
    let mark = "write-docs -->\n\n";
    let by_hand = page.find(mark).map_or(page.as_str(), |at| &page[..at]);
    let table = ondol_spec::compose::reference();
    std::fs::write(compose, format!("{by_hand}{mark}{table}"))
}
