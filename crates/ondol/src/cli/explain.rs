//! `ondol explain`: each effective value of a repository and where it came from.

use std::path::Path;

use ondol_types::ProjectName;

use crate::error::{Exit, Failure, Outcome};
use crate::output;

/// Print each effective value for this repository and where it came from.
///
/// Works without a server: it reads the files of this folder.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  ondol explain\n  ondol explain ../shop --json")]
pub(crate) struct Explain {
    /// The repository.
    #[arg(default_value = ".")]
    dir: std::path::PathBuf,
}

impl Explain {
    pub(crate) fn run(self) -> Outcome<Exit> {
        let tree = crate::serve::tree::DirectoryTree::open(&self.dir)
            .map_err(Failure::io(format!("read {}", self.dir.display())))?;
        // The remote decides where a push goes, so what the file says besides is worth a note.
        let project = crate::project::from_remote(&self.dir).and_then(|name| name.parse().ok());
        let effective = ondol_spec::resolve(&ondol_spec::Sources {
            project: project.as_ref(),
            ..ondol_spec::Sources::of(&tree)
        })?;
        if output::style().json {
            let value = serde_json::to_value(effective.explain()).unwrap_or_default();
            output::json(&value);
            return Ok(Exit::Success);
        }
        let rows: Vec<Vec<String>> = effective
            .explain()
            .iter()
            .map(|entry| {
                let value = match &entry.value {
                    serde_json::Value::String(text) => text.trim_end().replace('\n', " ⏎ "),
                    serde_json::Value::Null => "none".to_owned(),
                    other => other.to_string(),
                };
                vec![
                    output::bold(&entry.path),
                    output::dim(&entry.origin.to_string()),
                    value,
                ]
            })
            .collect();
        output::table(&["KEY", "ORIGIN", "VALUE"], &rows);
        for note in &effective.notes {
            output::note(format!("note: {}", note.message));
            if let Some(hint) = &note.hint {
                output::note(format!("      {hint}"));
            }
        }
        Ok(Exit::Success)
    }
}

/// Writes an `ondol.yaml` that names the project and shows every detected value as a comment.
pub(crate) fn write_yaml(dir: &Path, project: &ProjectName) -> Outcome {
    let path = dir.join("ondol.yaml");
    if path.exists() {
        return Err(Failure::new(
            Exit::Conflict,
            "there is an ondol.yaml already",
        ));
    }
    let tree = crate::serve::tree::DirectoryTree::open(dir)
        .map_err(Failure::io(format!("read {}", dir.display())))?;
    let effective = ondol_spec::resolve(&ondol_spec::Sources::of(&tree))?;
    let mut text = format!(
        "# Everything here is optional. `ondol explain` shows each effective value and its origin.\nproject: {project}\n\n# Detected:\n"
    );
    for entry in effective.explain() {
        if let ondol_spec::Origin::Detected { from } = &entry.origin {
            text.push_str(&format!("#   {}: {}   ({from})\n", entry.path, entry.value));
        }
    }
    std::fs::write(&path, text).map_err(Failure::io("write ondol.yaml"))
}
